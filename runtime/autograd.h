/* autograd.h - the define-by-run graph and its backward pass.
**
** A tensor made by an operation while ctx->grad_enabled and with an input that requires grad holds a
** node (tensor.h).
*/
#ifndef MOCL_AUTOGRAD_H
#define MOCL_AUTOGRAD_H

#include "tensor.h"

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
static inline bool mocl_node_wants(const mocl_node *n, int i) { return n->edge[i].node || n->edge[i].leaf; }

/* Gradients of a scalar (or with `seed`, of sum(t * seed)) with respect to every leaf that requires
** grad, added to leaf->grad. The graph is used up unless `retain`: its saved tensors are dropped.
** more: the graphs of further rows of the same batch follow. The gradients of A and B of low-rank adapters then wait as open sums
** (mocl_row_sum), which the backward pass without `more` closes; they have the bits of one pass over all rows in this order. Other
** gradients are added as always. */
mocl_status mocl_tensor_backward(mocl_tensor *t, mocl_tensor *seed, bool retain, bool more);

/* Inside a backward function: adds k rows of a [k, m] and b [k, n] to the open sum of `leaf` [m, n], which begins with them where
** there is none. Where no more rows follow, *grad becomes alpha times the sum; else it stays NULL. */
mocl_status mocl_row_sum_add(mocl_tensor **grad, mocl_tensor *leaf, int64_t k, const mk_real *a, const mk_real *b, double alpha);
/* does the gradient of this leaf come from such a sum? */
bool mocl_row_sum_wanted(const mocl_tensor *leaf);

#endif
