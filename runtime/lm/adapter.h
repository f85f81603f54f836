/* adapter.h - the low-rank adapters of a model (Hu et al. 2022), any number of them, each by its name.
**
** One of them is active: it is used where nothing else is asked for. The rows of one batch may use different ones, and get
** the bits that they get in a batch of their own.
*/
#ifndef MOCL_ADAPTER_H
#define MOCL_ADAPTER_H

#include "lm/spec.h"
#include "tensor.h"

enum { MOCL_ADAPTER_NAME = 64 };   /* bytes of a name, with its end */
#define MOCL_ADAPTER_DEFAULT "default"

typedef struct mocl_low_rank { /* of one linear layer: W x + scale B A x */
    mocl_tensor *a, *b;        /* f32 [r, in], [out, r]; both NULL where the layer has none */
    double alpha, scale;       /* scale: alpha / r, or alpha / sqrt(r) where the adapter's rslora is set */
} mocl_low_rank;

typedef struct mocl_adapter {
    int refs;
    bool gone;                 /* the model has it no longer */
    char name[MOCL_ADAPTER_NAME];
    int64_t layers, rank;      /* rank: the largest of all layers */
    double dropout;
    bool rslora;               /* rank-stabilised scales */
    mocl_low_rank *linear;     /* [layers][MOCL_LINEARS] */
} mocl_adapter;

/* What the rows of a batch use: row i row[i], or all of them `all` where row is NULL. NULL is the base alone. */
typedef struct mocl_choice {
    mocl_adapter *all, **row;
} mocl_choice;

static inline mocl_adapter *mocl_chosen(const mocl_choice *c, int64_t row) { return c->row ? c->row[row] : c->all; }

/* Consecutive tokens that use one adapter, or none: up to `end`. */
typedef struct mocl_adapter_run {
    mocl_adapter *adapter;
    int64_t end;
} mocl_adapter_run;

/* Appends the tokens up to `end` to n runs, which have room; the last grows where it uses the same adapter. */
static inline void mocl_adapter_extend(mocl_adapter_run *runs, int64_t *n, mocl_adapter *adapter, int64_t end) {
    if (*n && runs[*n - 1].adapter == adapter) --*n;
    runs[(*n)++] = (mocl_adapter_run){adapter, end};
}

/* Letters, digits, '_', '-' and '.', the first no '.', so that a directory can have that name. */
mocl_status mocl_adapter_check_name(mocl_ctx *ctx, const char *name);
/* whether block l has some of it */
bool mocl_adapter_covers(const mocl_adapter *a, int64_t l);
void mocl_low_rank_free(mocl_low_rank *w); /* A and B alone */
mocl_adapter *mocl_adapter_ref(mocl_adapter *a); /* NULL is fine */
void mocl_adapter_unref(mocl_adapter *a);
void mocl_adapter_let_go(mocl_adapter *a); /* the model's reference goes */

#endif
