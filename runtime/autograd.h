/* autograd.h - the define-by-run graph and its backward pass.
**
** A tensor made by an operation while ctx->grad_enabled and with an input that requires grad holds a
** node. A node owns its saved tensors and, through edges, the nodes of its inputs; it knows nothing of
** its outputs, so there are no cycles and a graph dies with the last tensor that needs it.
*/
#ifndef MOCL_AUTOGRAD_H
#define MOCL_AUTOGRAD_H

#include "tensor.h"

enum { MOCL_NODE_OUTPUTS = 4, MOCL_NODE_NUMBERS = 12 };

typedef struct mocl_edge {
    struct mocl_node *node; /* the input's node, owned; or */
    mocl_tensor *leaf;      /* the leaf that gets the gradient, owned; both NULL: none is wanted */
    int out_index;          /* which output of `node` the input was */
} mocl_edge;

/* Fills din[i] (a new reference, shape of input i) for each i with mocl_node_wants(n, i). dout[j] is
** the gradient of output j, contiguous, or NULL where none arrived. Runs with recording off. */
typedef mocl_status (*mocl_backward)(struct mocl_node *n, mocl_tensor **dout, mocl_tensor **din);

typedef struct mocl_node {
    int refs;
    uint64_t seq; /* creation order: larger than that of every input */
    mocl_ctx *ctx;
    const char *name;
    mocl_backward backward;
    int n_in, n_saved;
    mocl_edge *edge;         /* n_in */
    mocl_tensor **saved;     /* n_saved, owned, some may be NULL */
    uint32_t *version;       /* of each saved storage when it was saved */
    mocl_tensor *dout[MOCL_NODE_OUTPUTS]; /* gradients that have arrived (during backward) */
    double num[MOCL_NODE_NUMBERS];        /* attributes of the operation */
    int64_t integer[MOCL_NODE_NUMBERS + 2 * MK_MAX_DIMS];
    void *extra;             /* further attributes, one block, owned; or NULL */
    struct mocl_node *next;  /* link while dying or scheduled */
    bool scheduled;
} mocl_node;

/* True if an operation with these inputs has to be recorded. */
bool mocl_grad_wanted(mocl_ctx *ctx, int n, mocl_tensor *const *in);

/* Makes a node for n_in inputs that keeps the n_saved tensors (NULL entries are fine; an output must
** be passed through mocl_node_save_output instead). Attach it with mocl_node_attach. */
mocl_status mocl_node_new(mocl_node **out, mocl_ctx *ctx, const char *name, mocl_backward backward, int n_in,
                          mocl_tensor *const *in, int n_saved, mocl_tensor *const *saved);
/* saved[slot] := an alias of out without history (an output that saved itself would be a cycle) */
mocl_status mocl_node_save_output(mocl_node *n, int slot, mocl_tensor *out);
/* Output `index` of the node: t takes a reference to it. */
void mocl_node_attach(mocl_node *n, int index, mocl_tensor *t);
void mocl_node_unref(mocl_node *n); /* NULL is fine */
static inline bool mocl_node_wants(const mocl_node *n, int i) { return n->edge[i].node || n->edge[i].leaf; }

/* Gradients of a scalar (or with `seed`, of sum(t * seed)) with respect to every leaf that requires
** grad, added to leaf->grad. The graph is used up unless `retain`: its saved tensors are dropped. */
mocl_status mocl_tensor_backward(mocl_tensor *t, mocl_tensor *seed, bool retain);

#endif
