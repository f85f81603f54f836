/* table.h - the CPU kernels by name, one for each entry of mk_table; what they compute is in
** kernels.h. Internal to kernels/cpu.
*/
#ifndef MK_CPU_TABLE_H
#define MK_CPU_TABLE_H

#include "cpu.h"

int mk_cpu_fill(mk_exec *e, mk_dtype dtype, int64_t n, void *x, double v);
int mk_cpu_copy(mk_exec *e, mk_dtype dtype, int ndim, const int64_t *shape, const void *src,
                const int64_t *src_stride, void *dst, const int64_t *dst_stride);
int mk_cpu_cast(mk_exec *e, int64_t n, mk_dtype from, const void *src, mk_dtype to, void *dst);
int mk_cpu_unary(mk_exec *e, mk_unary op, int64_t n, const mk_real *x, mk_real *y, double p,
                 double q);
int mk_cpu_unary_bwd(mk_exec *e, mk_unary op, int64_t n, const mk_real *x, const mk_real *y,
                     const mk_real *dy, mk_real *dx, double p, double q);
int mk_cpu_binary(mk_exec *e, mk_dtype type, mk_binary op, int ndim, const int64_t *shape, const void *a,
                  const int64_t *a_stride, const void *b, const int64_t *b_stride, void *y);
int mk_cpu_where(mk_exec *e, int64_t n, const mk_real *c, const mk_real *a, const mk_real *b,
                 mk_real *y);
int mk_cpu_axpy(mk_exec *e, int64_t n, double alpha, const mk_real *x, mk_real *y);
int mk_cpu_reduce(mk_exec *e, mk_reduce op, int64_t outer, int64_t n, int64_t inner,
                  const mk_real *x, mk_real *y);
int mk_cpu_argreduce(mk_exec *e, mk_reduce op, int64_t outer, int64_t n, int64_t inner,
                     const mk_real *x, int32_t *y);
int mk_cpu_cumsum(mk_exec *e, int64_t outer, int64_t n, int64_t inner, const mk_real *x, mk_real *y);
int mk_cpu_gemm(mk_exec *e, int ta, int tb, int64_t m, int64_t n, int64_t k, double alpha,
                const mk_real *a, int64_t lda, int64_t step_a, const mk_real *b, int64_t ldb,
                int64_t step_b, double beta, mk_real *c, int64_t ldc, int64_t step_c,
                int64_t batch);
int mk_cpu_gemm_continued(mk_exec *e, int64_t m, int64_t n, int64_t k, int64_t at, const mk_real *a, const mk_real *b, double alpha,
                          mk_real *part, mk_real *total, mk_real *c);
int mk_cpu_gemm_weight_onto(mk_exec *e, int64_t m, double alpha, const mk_real *a, int64_t lda, int tw, const mk_weight *w,
                            const mk_real *from, mk_real *c, int64_t ldc);
int mk_cpu_gemm_weight(mk_exec *e, int ta, int64_t m, double alpha, mk_dtype a_type, const void *a,
                       int64_t lda, int tw, const mk_weight *w, double beta, mk_dtype c_type, void *c,
                       int64_t ldc);
int mk_gemm_w8a8(mk_exec *e, int64_t m, double alpha, mk_dtype a_type, const void *a, int64_t lda, const mk_weight *w, double beta,
                 mk_dtype c_type, void *c, int64_t ldc); /* gemm_weight of that format, with W transposed */
int mk_cpu_quantize(mk_exec *e, const mk_weight *w, const mk_real *src, void *const *part);
int mk_cpu_dequantize(mk_exec *e, const mk_weight *w, mk_real *dst);
int mk_cpu_matmul(mk_exec *e, int ta, int tb, int64_t m, int64_t n, int64_t k, const mk_real *a,
                  int64_t lda, int64_t step_a, const mk_real *b, int64_t ldb, int64_t step_b,
                  mk_real *c, int64_t ldc, int64_t step_c, int64_t batch);
int mk_cpu_softmax(mk_exec *e, int log, int64_t rows, int64_t n, const mk_real *x, mk_real *y);
int mk_cpu_softmax_bwd(mk_exec *e, int log, int64_t rows, int64_t n, const mk_real *y,
                       const mk_real *dy, mk_real *dx);
int mk_cpu_rmsnorm(mk_exec *e, mk_dtype type, int64_t rows, int64_t n, const void *x, const mk_real *w,
                   double eps, mk_dtype y_type, void *y, mk_real *rstd);
int mk_cpu_rmsnorm_bwd(mk_exec *e, mk_dtype type, int64_t rows, int64_t n, const void *x, const mk_real *w,
                       const mk_real *rstd, const mk_real *dy, mk_real *dx, mk_real *dw);
int mk_cpu_layernorm(mk_exec *e, int64_t rows, int64_t n, const mk_real *x, const mk_real *w,
                     const mk_real *b, double eps, mk_real *y, mk_real *mean, mk_real *rstd);
int mk_cpu_layernorm_bwd(mk_exec *e, int64_t rows, int64_t n, const mk_real *x, const mk_real *w,
                         const mk_real *mean, const mk_real *rstd, const mk_real *dy, mk_real *dx,
                         mk_real *dw, mk_real *db);
int mk_cpu_gather_rows(mk_exec *e, mk_dtype type, int64_t n, int64_t d, const void *src, const int32_t *idx,
                       void *dst);
int mk_cpu_scatter_add_rows(mk_exec *e, int64_t n, int64_t d, const mk_real *src, const int32_t *idx,
                            int64_t n_dst, mk_real *dst);
int mk_cpu_pick(mk_exec *e, int64_t rows, int64_t n, const mk_real *x, const int32_t *idx,
                mk_real *y);
int mk_cpu_pick_bwd(mk_exec *e, int64_t rows, int64_t n, const int32_t *idx, const mk_real *dy,
                    mk_real *dx);
int mk_cpu_segment_sum(mk_exec *e, int mean, int64_t n_seq, const int32_t *offsets, int64_t n,
                       const mk_real *x, mk_real *y);
int mk_cpu_segment_sum_bwd(mk_exec *e, int mean, int64_t n_seq, const int32_t *offsets, int64_t n,
                           const mk_real *dy, mk_real *dx);
int mk_cpu_rope(mk_exec *e, mk_dtype type, int64_t T, int64_t H, int64_t K, const int32_t *pos, const double *freq,
                double factor, int sign, const void *x, int64_t ldx, void *y, int64_t ldy);
int mk_cpu_swiglu(mk_exec *e, mk_dtype type, int64_t n, const void *gate, const void *up, void *y);
int mk_cpu_swiglu_bwd(mk_exec *e, mk_dtype type, int64_t n, const void *gate, const void *up,
                      const mk_real *dy, mk_real *dgate, mk_real *dup);
int mk_cpu_attention(mk_exec *e, mk_dtype type, int64_t n_seq, const int32_t *offsets, const int32_t *keys, const int32_t *from, int64_t H,
                     int64_t G, int64_t K, double scale, int causal, int64_t window, const void *q, const void *k,
                     const void *v, void *out, mk_real *lse);
int mk_cpu_attention_bwd(mk_exec *e, mk_dtype type, int64_t n_seq, const int32_t *offsets, const int32_t *keys, int64_t H, int64_t G,
                         int64_t K, double scale, int causal, int64_t window, const void *q, const void *k,
                         const void *v, const void *out, const mk_real *lse,
                         const mk_real *dout, mk_real *dq, mk_real *dk, mk_real *dv);
int mk_cpu_cache_put(mk_exec *e, mk_dtype type, int64_t rows, int64_t G, int64_t K, const int32_t *slot,
                     const int32_t *pos, int64_t slab, const void *k, const void *v,
                     void *kcache, void *vcache);
int mk_cpu_attention_cached(mk_exec *e, mk_dtype type, int64_t rows, int64_t H, int64_t G, int64_t K, double scale,
                            int64_t window,
                            const int32_t *slot, const int32_t *pos, int64_t slab, const void *q,
                            const void *kcache, const void *vcache, void *out);
int mk_cpu_turn_keys(mk_exec *e, int64_t rows, int64_t H, int64_t K, const int32_t *slot, const int32_t *pos, int64_t slab,
                     const mk_real *kcache, int64_t wide, mk_real *turned);
int mk_cpu_attention_turned(mk_exec *e, int64_t rows, int64_t H, int64_t K, double scale, const int32_t *slot, const int32_t *pos,
                            int64_t wide, int64_t slab, const mk_real *q, const mk_real *k, const mk_real *v, mk_real *turned,
                            mk_real *vcache, mk_real *out);
int mk_cpu_logprob(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, double inv_temp,
                   const int32_t *target, mk_real *logp, mk_real *entropy, mk_real *lse);
int mk_cpu_kl(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, const mk_real *ref_logits,
              double inv_temp, const mk_real *lse, const mk_real *ref_lse, mk_real *kl);
int mk_cpu_logprob_bwd(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, const mk_real *ref_logits,
                       double inv_temp, const int32_t *target, const mk_real *entropy, const mk_real *lse,
                       const mk_real *ref_lse, const mk_real *kl, const mk_real *dlogp, const mk_real *dentropy,
                       const mk_real *dkl, mk_real *dlogits);
int mk_cpu_sample(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, double inv_temp,
                  int64_t top_k, double top_p, uint64_t key, uint32_t step, const int32_t *row_id,
                  int32_t *token);
int mk_cpu_rand_uniform(mk_exec *e, int64_t n, uint64_t key, uint64_t stream, double lo, double hi,
                        mk_real *x);
int mk_cpu_rand_normal(mk_exec *e, int64_t n, uint64_t key, uint64_t stream, double mean, double std,
                       mk_real *x);
int mk_cpu_dropout(mk_exec *e, mk_dtype type, int64_t n, double p, uint64_t key, uint64_t stream, const void *x,
                   void *y);
int mk_cpu_gae(mk_exec *e, int64_t n_seq, const int32_t *offsets, int64_t n, const mk_real *rewards,
               const mk_real *values, double gamma, double lambda, mk_real *adv, mk_real *returns);
int mk_cpu_ppo_clip(mk_exec *e, int64_t n, double cliprange, const mk_real *logp, const mk_real *old,
                    const mk_real *adv, mk_real *loss, mk_real *dlogp, mk_real *ratio,
                    mk_real *clipped);
int mk_cpu_adamw(mk_exec *e, int64_t count, const mk_parameter *list, double lr, double beta1,
                 double beta2, double eps, double wd, int64_t step, double grad_scale);
int mk_cpu_sgd(mk_exec *e, int64_t n, mk_real *p, const mk_real *g, mk_real *buf, double lr,
               double momentum, double wd, int first, double grad_scale);
int mk_cpu_sumsq(mk_exec *e, int64_t count, const mk_parameter *list, double *out);

#endif
