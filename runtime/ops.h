/* ops.h - the operations on tensors; each records its backward where a gradient is wanted.
**
** Outputs come first and are new references (NULL after a failure). Dimensions are 0-based here.
** All compute on f32 unless a comment says otherwise; operands live on one device. "f32 or bf16": where the device computes
** with bf16 (mocl_need_computed) inputs may be bf16; arithmetic is f32, the output is rounded to bf16, and gradients are f32.
*/
#ifndef MOCL_OPS_H
#define MOCL_OPS_H

#include "autograd.h"
#include "tensor.h"
#include "weight.h"

/* ---- elementwise (ops_elementwise.c) ---- */
mocl_status mocl_unary(mocl_tensor **out, mk_unary op, mocl_tensor *x, double p, double q);
mocl_status mocl_binary(mocl_tensor **out, mk_binary op, mocl_tensor *a, mocl_tensor *b); /* broadcasts */
mocl_status mocl_where(mocl_tensor **out, mocl_tensor *c, mocl_tensor *a, mocl_tensor *b); /* equal shapes */
/* y := y + alpha x in place; no history: y must not require grad while recording */
mocl_status mocl_axpy_(mocl_tensor *y, double alpha, mocl_tensor *x);
mocl_status mocl_fill_(mocl_tensor *x, double value);

/* ---- shape (ops_shape.c) ---- */
mocl_status mocl_reshape(mocl_tensor **out, mocl_tensor *x, int ndim, const int64_t *shape); /* one may be -1 */
mocl_status mocl_permute(mocl_tensor **out, mocl_tensor *x, const int *order);
mocl_status mocl_transpose(mocl_tensor **out, mocl_tensor *x, int a, int b);
mocl_status mocl_expand(mocl_tensor **out, mocl_tensor *x, int ndim, const int64_t *shape);
mocl_status mocl_narrow(mocl_tensor **out, mocl_tensor *x, int dim, int64_t start, int64_t length);
mocl_status mocl_cat(mocl_tensor **out, int n, mocl_tensor *const *x, int dim);
mocl_status mocl_to_dtype(mocl_tensor **out, mocl_tensor *x, mk_dtype dtype);  /* keeps history among f32 and bf16 */
mocl_status mocl_to_device(mocl_tensor **out, mocl_tensor *x, mocl_device *dev);
mocl_status mocl_clone(mocl_tensor **out, mocl_tensor *x);
/* rows idx[i] of x (first dimension); idx: 1-dimensional i32, 0-based, checked */
mocl_status mocl_index_select(mocl_tensor **out, mocl_tensor *x, mocl_tensor *idx); /* x: f32 or bf16 */
/* the same, where messages count rows from `first` */
mocl_status mocl_index_select_from(mocl_tensor **out, mocl_tensor *x, mocl_tensor *idx, int64_t first);
/* the same without looking at idx, which waits for a device: the caller knows that it is in range */
mocl_status mocl_index_select_known(mocl_tensor **out, mocl_tensor *x, mocl_tensor *idx);
/* y[r] = x[r, idx[r]] over the last dimension; idx i32 with one entry per row */
mocl_status mocl_pick(mocl_tensor **out, mocl_tensor *x, mocl_tensor *idx);

/* ---- reductions (ops_reduce.c); dim < 0 reduces everything to a scalar ---- */
mocl_status mocl_reduce(mocl_tensor **out, mk_reduce op, mocl_tensor *x, int dim, bool keepdim);
mocl_status mocl_mean(mocl_tensor **out, mocl_tensor *x, int dim, bool keepdim);
/* i32 indices (0-based), no history */
mocl_status mocl_argreduce(mocl_tensor **out, mk_reduce op, mocl_tensor *x, int dim);
mocl_status mocl_cumsum(mocl_tensor **out, mocl_tensor *x, int dim);
mocl_status mocl_softmax(mocl_tensor **out, mocl_tensor *x, bool log); /* over the last dimension */

/* ---- order, choice and draws (ops_order.c); positions are i32, 0-based, without history ---- */
/* The first k entries along dim in order, all for k < 0, and where they stood. Stable; NaN is larger than any number. op:
** the name in messages */
mocl_status mocl_sort(mocl_tensor **values, mocl_tensor **positions, const char *op, mocl_tensor *x, int dim, int64_t k, bool descending);
/* the entries of x where mask, of its shape, is not 0: one dimension, in order */
mocl_status mocl_masked_select(mocl_tensor **out, mocl_tensor *x, mocl_tensor *mask);
/* k positions for each row of weights [n] or [rows, n], drawn in proportion; entry j of row r from the host stream of key
** at stream 2^40 + r k + j */
mocl_status mocl_multinomial(mocl_tensor **out, mocl_tensor *weights, int64_t k, bool replacement, uint64_t key, uint64_t stream);

/* ---- products (ops_linear.c) ---- */
/* [..., m, k] x [..., k, n]; batch dimensions equal, or one side has none */
mocl_status mocl_matmul(mocl_tensor **out, mocl_tensor *a, mocl_tensor *b);
/* y = x W^T + bias, plus what the adapters add to their rows: x [..., in], bias [out] or NULL, adapter NULL or a list in the
** order of the rows, which count over all dimensions but the last. f32 weights take f32; with bf16 weights x, the bias, A, B
** and gradients that enter a product are rounded to bf16, and so is y; other formats compute in x's type. Sums are f32.
** Differentiable in x, the bias, A and B, and in W where it is f32 or bf16. */
mocl_status mocl_linear(mocl_tensor **out, mocl_tensor *x, const mocl_weight *w, mocl_tensor *bias, const mocl_lora *adapter);
/* The same where x W^T + bias is known from an earlier call, without adapters: the same bits. product NULL: it is not. */
mocl_status mocl_linear_from(mocl_tensor **out, mocl_tensor *product, mocl_tensor *x, const mocl_weight *w, mocl_tensor *bias,
                             const mocl_lora *adapter);

/* ---- network parts (ops_nn.c) ---- */
mocl_status mocl_rmsnorm(mocl_tensor **out, mocl_tensor *x, mocl_tensor *w, double eps); /* w may be NULL; x: f32 or bf16 */
/* the same with the output's type given: f32, or x's */
mocl_status mocl_rmsnorm_to(mocl_tensor **out, mocl_tensor *x, mocl_tensor *w, double eps, mk_dtype dtype);
mocl_status mocl_layernorm(mocl_tensor **out, mocl_tensor *x, mocl_tensor *w, mocl_tensor *b, double eps);
mocl_status mocl_dropout(mocl_tensor **out, mocl_tensor *x, double p, uint64_t key, uint64_t stream);
mocl_status mocl_swiglu(mocl_tensor **out, mocl_tensor *gate, mocl_tensor *up); /* f32 or bf16 */
/* x [T, H, K], f32 or bf16; pos [T] i32; freq: the table of K / 2 frequencies; factor: of the result (yarn's, else 1) */
mocl_status mocl_rope(mocl_tensor **out, mocl_tensor *x, mocl_tensor *pos, mocl_tensor *freq, double factor);
/* a table of n frequencies for mocl_rope: n doubles, whose bits lie in an i64 tensor since there is no dtype f64. Where
** freq is NULL they are theta^(-i/n), those of the plain embedding. */
mocl_status mocl_rope_table(mocl_tensor **out, mocl_device *dev, int64_t n, const double *freq, double theta);
/* q [T, H, K], k and v [T, G, K], f32 or bf16; offsets [B + 1] i32; keys: NULL, or offsets [B + 1] i32 of k and v [S, G, K], which
** are of other tokens then, at least one in each sequence, and causal is false; from [B] i32 or NULL: of sequence s nobody needs what
** the tokens in front of from[s] give; window > 0, with causal alone: keys that a token sees, itself among them; 0: all before it */
mocl_status mocl_attention(mocl_tensor **out, mocl_tensor *q, mocl_tensor *k, mocl_tensor *v,
                           mocl_tensor *offsets, mocl_tensor *keys, mocl_tensor *from, double scale, bool causal, int64_t window);
/* rows of each sequence added up or averaged: x [T, n] to [B, n] */
mocl_status mocl_segment(mocl_tensor **out, mocl_tensor *x, mocl_tensor *offsets, bool mean);

/* ---- the language-model head and PPO (ops_lm.c) ---- */
/* Per row of hidden [T, D] under the head w [V, D], logits divided by `temperature`, in chunks of rows
** so that [T, V] never exists: logp [T] of target (i32, [T]; < 0: 0), entropy [T], and with a reference
** kl [T] = KL(pi || pi_ref), pi_ref being the same head on ref->hidden. entropy and kl may be NULL (not
** wanted). Differentiable in hidden and w; nothing flows to the reference. With w in bf16 hidden is rounded to it; logits and
** all that follows are f32. keep_logits: few of them may wait for backward instead of being made again, with the same bits. */
typedef struct mocl_reference {
    mocl_tensor *hidden, *lse, *logits; /* [T, D]; [T] and [T, V], or NULL where they are to be made */
} mocl_reference;
mocl_status mocl_lm_head(mocl_tensor **logp, mocl_tensor **entropy, mocl_tensor **kl, mocl_tensor *hidden,
                         mocl_tensor *w, const mocl_reference *ref, mocl_tensor *target, double temperature, bool keep_logits);
/* What mocl_lm_head would make anew of the same reference in every epoch: *ref receives tensors of the caller's, logits
** only where they are few; logp [T] is the reference's, of target. Without history. */
mocl_status mocl_lm_reference(mocl_reference *ref, mocl_tensor **logp, mocl_tensor *hidden, mocl_tensor *w, mocl_tensor *target,
                              double temperature, bool keep_logits);
void mocl_reference_free(mocl_reference *ref);
/* Clipped surrogate loss per token, [T]; ratio and clipped (1 or 0) come without history */
mocl_status mocl_ppo_clip(mocl_tensor **loss, mocl_tensor **ratio, mocl_tensor **clipped, mocl_tensor *logp,
                          mocl_tensor *old, mocl_tensor *adv, double cliprange);
/* rewards, values [T, n] -> advantages, returns [T, n]; no history */
mocl_status mocl_gae(mocl_tensor **adv, mocl_tensor **returns, mocl_tensor *rewards, mocl_tensor *values,
                     mocl_tensor *offsets, double gamma, double lambda);

/* One id for each row of logits [n, V], as generation draws it: softmax of logits / temperature (0: the first largest), cut to the
** top_k largest (0: all) and the likeliest that reach top_p, from the stream of key at the counter {step, rows[i]}; rows [n] i32.
** Without history. */
mocl_status mocl_sample(mocl_tensor **token, mocl_tensor *logits, double temperature, int64_t top_k, double top_p, uint64_t key,
                        uint32_t step, mocl_tensor *rows);

/* logits [m, V] of rows start .. start + m - 1 of hidden, which has the dtype of w; no checks, no history */
mocl_status mocl_logits(mocl_tensor *hidden, mocl_tensor *w, int64_t start, int64_t m, mk_real *logits);

/* ---- shared by the operations (ops_common.c) ---- */
mocl_status mocl_need_real(const char *op, mocl_tensor *x);
mocl_status mocl_need_computed(const char *op, mocl_tensor *x); /* f32, or bf16 on a device that computes with it */
mocl_status mocl_need_int(const char *op, mocl_tensor *x);
mocl_status mocl_need_same_device(const char *op, mocl_tensor *a, mocl_tensor *b);
/* offsets [B + 1] i32, ascending from 0 to rows */
mocl_status mocl_need_offsets(const char *op, mocl_tensor *offsets, int64_t rows);
/* the same, where no sequence may be empty */
mocl_status mocl_need_sequences(const char *op, mocl_tensor *offsets, int64_t rows);
/* i32, each entry in lowest .. size - 1; messages count indices from `first`, as the caller does, and entries from 1 */
mocl_status mocl_need_indices(const char *op, mocl_tensor *idx, int64_t lowest, int64_t size, int64_t first);
/* an f32 tensor of x's shape: its gradient's */
mocl_status mocl_grad_like(mocl_tensor **out, const mocl_tensor *x);
/* makes a node and attaches *out to it where a gradient is wanted; on failure releases *out. *node (may
** be NULL) receives it, borrowed, or NULL where nothing was recorded. */
mocl_status mocl_record(mocl_tensor **out, mocl_node **node, const char *name, mocl_backward backward, int n_in,
                        mocl_tensor *const *in, int n_saved, mocl_tensor *const *saved);
/* adds up the dimensions along which a tensor of `shape` was broadcast to x, which is f32; no history: for backward */
mocl_status mocl_sum_to(mocl_tensor **out, mocl_tensor *x, int ndim, const int64_t *shape);
/* releases *out where st is a failure; returns st */
mocl_status mocl_drop_on(mocl_status st, mocl_tensor **out);

#endif
