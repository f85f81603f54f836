/* optim.h - optimisers over a list of parameters: AdamW and SGD, and the global gradient norm.
**
** An optimiser keeps a reference to each parameter and owns its state tensors (first and second moments
** or the momentum buffer), made at the first step that sees a gradient.
*/
#ifndef MOCL_OPTIM_H
#define MOCL_OPTIM_H

#include "tensor.h"

typedef enum mocl_optim_kind { MOCL_OPTIM_ADAMW, MOCL_OPTIM_SGD } mocl_optim_kind;

typedef struct mocl_optim {
    mocl_ctx *ctx;
    mocl_optim_kind kind;
    double lr, beta1, beta2, eps, weight_decay, momentum;
    int64_t steps; /* taken so far */
    int n;
    mocl_tensor **param; /* n, referenced */
    char **name;         /* n, owned: what messages call a parameter; NULL: its number */
    mocl_tensor **first; /* n, owned: Adam's m, SGD's buffer; NULL until the first step */
    mocl_tensor **second; /* n, owned: Adam's v */
    mk_parameter *list; /* n: what a kernel is told of the parameters that have a gradient */
} mocl_optim;

/* parameters must be contiguous f32 leaves that require grad */
mocl_status mocl_optim_new(mocl_optim **out, mocl_ctx *ctx, mocl_optim_kind kind, int n, mocl_tensor *const *param);
void mocl_optim_free(mocl_optim *o);
/* what messages call parameter i, copied */
mocl_status mocl_optim_set_name(mocl_optim *o, int i, const char *name);
/* One step on parameters that have a gradient. *norm receives the Euclidean norm over all gradients, summed in double in the
** order of the parameters; where it is above max_norm > 0 the gradients count less by max_norm / (norm + 1e-6).
** Fails before anything is changed where a gradient is not finite, or so large, or the step size lr, that the new weights or
** moments would not be. */
mocl_status mocl_optim_step(mocl_optim *o, double lr, double max_norm, double *norm);
/* The same without waiting for a device that runs behind the program: *norm [3] receives the norm there, as the sum of three
** numbers. Where a step would fail for its gradient such a device changes nothing, and mocl_optim_check tells it later; others
** fail at once. */
mocl_status mocl_optim_step_ahead(mocl_optim *o, double lr, double max_norm, mocl_tensor **norm);
/* The failure that a step with gradients of this norm was, while they are there. */
mocl_status mocl_optim_check(mocl_optim *o, double max_norm, double norm);
void mocl_optim_zero_grad(mocl_optim *o);
/* makes the missing state tensors (zeros), for loading a checkpoint into them */
mocl_status mocl_optim_make_state(mocl_optim *o);

#endif
