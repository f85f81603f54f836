/* kernels.h - every kernel: its maths, shapes and accumulate-or-overwrite rule.
**
** Kernels see raw pointers, sizes and what they run with; they know no tensor and no Lua. A device is a
** table of them (mk_table). Sizes are int64_t; matrices are row-major; `ld` is the distance between
** rows in elements. All pointers are device pointers unless a comment says host.
**
** Rules
**  - Outputs are overwritten, except where the comment says `+=`.
**  - Outputs do not overlap inputs, except where the comment says "may be x".
**  - Each kernel returns MK_OK or a code of mk_code; it never prints and never exits.
**  - Same input, same bits: sums are cut by shape alone, never by the number of threads, and added in a
**    fixed order.
**  - Row invariance: what a kernel computes for a row (a token, a sequence) does not depend on how
**    many other rows there are or where they lie. Generation and training call the same kernels, so
**    their log-probabilities are equal to the bit. Only `matmul` makes no such promise.
**
** Names: T tokens, B sequences, V vocabulary, D model width, H heads, G key/value heads, K head size.
** Ragged batches: offsets[B + 1], int32, offsets[0] = 0, offsets[B] = T; sequence b is the rows
** offsets[b] .. offsets[b + 1] - 1.
**
** MK_REAL_DOUBLE builds the same sources with mk_real = double, in which gradients are checked by
** central differences.
*/
#ifndef MK_KERNELS_H
#define MK_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef MK_REAL_DOUBLE
typedef double mk_real;
#else
typedef float mk_real;
#endif

/* MK_UNSUPPORTED: a size that this device's kernel does not take. MK_ABSENT: no such kernel (the runtime's). */
typedef enum mk_code { MK_OK = 0, MK_NOMEM, MK_FAULT, MK_UNSUPPORTED, MK_ABSENT } mk_code;

/* MK_F32 is mk_real; the others are storage: kernels compute on F32. What an entry takes as `void *` beside an argument
** `type` may be bf16 too where the device computes with it (`bf16` of the table; else MK_UNSUPPORTED): arithmetic, sums and
** gradients are F32 then, and each output is rounded once, to nearest even. */
typedef enum mk_dtype { MK_F32, MK_BF16, MK_F16, MK_I8, MK_U8, MK_I32, MK_I64, MK_DTYPE_COUNT } mk_dtype;

typedef uint16_t mk_bf16; /* the upper half of a float */

#define MK_MAX_DIMS 8

/* ---- weights ----------------------------------------------------------------------------------- */

/* How the numbers of a weight are kept. */
typedef enum mk_format { MK_FORMAT_F32, MK_FORMAT_BF16, MK_FORMAT_INT8, MK_FORMAT_W8A8, MK_FORMAT_NF4, MK_FORMAT_FP4, MK_FORMAT_COUNT } mk_format;

#define MK_WEIGHT_PARTS 5

/* A matrix [rows, columns] that products read. part[0] holds its numbers, row by row (quantized.h says what codes stand for):
**   f32, bf16   the numbers themselves
**   int8        i8 codes; part[1] F32 [rows]: the largest absolute value of each row
**   w8a8        the same; a product A W^T rounds the rows of A to 8 bits too (gemm_weight)
**   nf4, fp4    u8 [n / 2] for n = rows columns: two codes of four bits, the first in the upper half. The rows lie one behind the
**               other, also where they share a block of `block` numbers. part[1]: the largest absolute value of each block, F32; or,
**               where there is a part[2], a u8 code: the number of part[3] at it times that of part[2] plus part[4].
**               part[2] F32: one for each MK_NESTED_BLOCK blocks; part[3] F32 [256]; part[4] F32 [1].
**               Each number is rounded to `rounded`: F32, BF16 or F16 */
typedef struct mk_weight {
    mk_format format;
    int64_t rows, columns;
    const void *part[MK_WEIGHT_PARTS];
    int64_t block;
    mk_dtype rounded;
} mk_weight;

#define MK_NESTED_BLOCK 256
#define MK_W8A8_COLUMNS (1 << 17) /* 2^17 127 128 is below 2^31 */

/* ---- what a kernel runs with (kernels/cpu/pool.c) ---------------------------------------------- */

struct mk_pool; /* worker threads */

/* What computes large matmuls (kernels/cpu/blas.c). MK_BLAS_AUTO: OpenBLAS where it is there and its
** kernels are the faster ones; MK_BLAS_OPENBLAS: also where they are slower. On cuda, what computes products of bf16: cuBLASLt where
** it is there, or with MK_BLAS_NONE our own kernel always (kernels/cuda/cublaslt.cu). */
typedef enum mk_blas { MK_BLAS_AUTO, MK_BLAS_OPENBLAS, MK_BLAS_NONE } mk_blas;

typedef struct mk_exec {
    struct mk_pool *pool; /* NULL = run everything on the calling thread */
    mk_blas blas;         /* MK_BLAS_AUTO after mk_exec_open */
    void *scratch;        /* grown on demand by mk_scratch, freed by mk_exec_close */
    size_t scratch_bytes;
    size_t refused;       /* bytes of the last mk_scratch that found no memory */
    void *device;         /* what a device other than the cpu keeps (kernels/cuda/device.cu) */
    int64_t launches;     /* cuda: kernels that were started, those of cuBLASLt too */
} mk_exec;

/* n_threads >= 1 including the caller. MK_NOMEM if threads cannot be started. */
int mk_exec_open(mk_exec *e, int n_threads);
void mk_exec_close(mk_exec *e);
int mk_threads(const mk_exec *e); /* at least 1 */

/* 64-byte aligned memory valid until the next mk_scratch; NULL when there is none. */
void *mk_scratch(mk_exec *e, size_t bytes);

/* Runs fn(arg, i) for i in 0 .. n - 1 on the pool and waits. Pieces are handed out dynamically, so
** fn must not care which thread runs it. n <= 1, or no pool: on the calling thread. Not reentrant:
** from inside a piece it runs serially. */
typedef void (*mk_piece)(void *arg, int64_t i);
void mk_parallel(mk_exec *e, int64_t n, mk_piece fn, void *arg);

/* ---- operations of the generic kernels --------------------------------------------------------- */

typedef enum mk_unary {
    MK_NEG, MK_ABS, MK_SQUARE, MK_SQRT, MK_RSQRT, MK_RECIPROCAL, MK_EXP, MK_LOG, MK_TANH, MK_SIGMOID,
    MK_LOGSIGMOID, MK_SOFTPLUS, MK_RELU, MK_SILU, MK_GELU /* erf */, MK_GELU_TANH, MK_SIN, MK_COS,
    MK_FLOOR, MK_SIGN,
    MK_ADD_SCALAR /* x + p */, MK_MUL_SCALAR /* p x */, MK_POW_SCALAR /* x^p */,
    MK_CLAMP /* min(max(x, p), q) */
} mk_unary;

typedef enum mk_binary {
    MK_ADD, MK_SUB, MK_MUL, MK_DIV, MK_MAXIMUM, MK_MINIMUM, MK_POW,
    MK_EQ, MK_NE, MK_LT, MK_LE, MK_GT, MK_GE /* 1 or 0, as F32 */
} mk_binary;

typedef enum mk_reduce { MK_SUM, MK_MAX, MK_MIN, MK_LOGSUMEXP } mk_reduce;

/* One parameter of an optimiser's list: n entries of each; m and v are its moments. */
typedef struct mk_parameter {
    int64_t n;
    mk_real *p;
    const mk_real *g;
    mk_real *m, *v;
} mk_parameter;

typedef struct mk_table {
    int bf16; /* 1: entries take MK_BF16 for `type`; 0: it is storage alone, as in the build in double precision */

    /* -- memory and elements (kernels/cpu/elementwise.c) -- */

    /* x[n] = v, any dtype */
    int (*fill)(mk_exec *e, mk_dtype dtype, int64_t n, void *x, double v);
    /* dst[i] = src[i] over shape[ndim], strides in elements, any dtype (0 strides in src broadcast) */
    int (*copy)(mk_exec *e, mk_dtype dtype, int ndim, const int64_t *shape, const void *src,
                const int64_t *src_stride, void *dst, const int64_t *dst_stride);
    /* dst[i] = src[i] converted: to nearest even for floats, truncation and saturation to integers */
    int (*cast)(mk_exec *e, int64_t n, mk_dtype from, const void *src, mk_dtype to, void *dst);
    /* y[i] = f(x[i]); y may be x */
    int (*unary)(mk_exec *e, mk_unary op, int64_t n, const mk_real *x, mk_real *y, double p, double q);
    /* dx[i] = f'(x[i]) dy[i], y = f(x); dx may be dy */
    int (*unary_bwd)(mk_exec *e, mk_unary op, int64_t n, const mk_real *x, const mk_real *y,
                     const mk_real *dy, mk_real *dx, double p, double q);
    /* y = f(a, b) over shape[ndim], y contiguous, strides of a and b in elements (0 broadcasts);
    ** y may be a or b where that one is contiguous */
    int (*binary)(mk_exec *e, mk_dtype type, mk_binary op, int ndim, const int64_t *shape, const void *a,
                  const int64_t *a_stride, const void *b, const int64_t *b_stride, void *y);
    /* y[i] = c[i] != 0 ? a[i] : b[i]; all contiguous */
    int (*where)(mk_exec *e, int64_t n, const mk_real *c, const mk_real *a, const mk_real *b, mk_real *y);
    /* y += alpha x */
    int (*axpy)(mk_exec *e, int64_t n, double alpha, const mk_real *x, mk_real *y);
    /* x as [outer, n, inner], y as [outer, inner]; sums accumulate in double */
    int (*reduce)(mk_exec *e, mk_reduce op, int64_t outer, int64_t n, int64_t inner, const mk_real *x,
                  mk_real *y);
    /* index (0-based) of the first largest (op MK_MAX) or smallest (MK_MIN) along n */
    int (*argreduce)(mk_exec *e, mk_reduce op, int64_t outer, int64_t n, int64_t inner,
                     const mk_real *x, int32_t *y);
    /* y[o, i] = sum of x[o, 0..i], x and y as [outer, n, inner] */
    int (*cumsum)(mk_exec *e, int64_t outer, int64_t n, int64_t inner, const mk_real *x, mk_real *y);

    /* -- matrix products (kernels/cpu/gemm.c) -- */

    /* C[m,n] = alpha op(A) op(B) + beta C for `batch` matrices, step_* elements apart (0 = shared).
    ** op(X) = X, or its transpose where ta/tb; A is [m,k] ([k,m] if ta), B is [k,n] ([n,k] if tb).
    ** beta 0 does not read C. Row invariant in m: row i of C has the same bits whatever m is. */
    int (*gemm)(mk_exec *e, int ta, int tb, int64_t m, int64_t n, int64_t k, double alpha,
                const mk_real *a, int64_t lda, int64_t step_a, const mk_real *b, int64_t ldb,
                int64_t step_b, double beta, mk_real *c, int64_t ldc, int64_t step_c, int64_t batch);

    /* C[m,n] = alpha op(A) op(W) + beta C for a weight in any format; op(W) is W, or its transpose where tw, so that
    ** n and k are W's sizes. As gemm it is row invariant in m and does not read C where beta is 0. The numbers of W are
    ** taken as f32, and the sums are f32's: with another format the bits are those of gemm on what `dequantize` gives.
    ** Of w8a8 a product with A as it is and W transposed is another: with codes and absmax of each row of A as int8 has them, but for
    ** the rounding to f16, it is the sum of the products of codes, an integer, times both absmax / 127^2 (Dettmers et al. 2022).
    ** Other products of w8a8, those of backward, are int8's: the rounding of A counts as none (straight through). At most
    ** MK_W8A8_COLUMNS columns, else MK_UNSUPPORTED. A row of A with a number that is not finite gives NaN.
    ** a_type: MK_F32, or MK_BF16 where the device computes with it; f32 weights need f32, bf16
    ** weights bf16. c_type: MK_F32, or a_type. On the cpu products of bf16 have the arithmetic of kernels/cpu/bf16.h. */
    int (*gemm_weight)(mk_exec *e, int ta, int64_t m, double alpha, mk_dtype a_type, const void *a, int64_t lda, int tw,
                       const mk_weight *w, double beta, mk_dtype c_type, void *c, int64_t ldc);
    /* C = alpha A op(W) + from for f32 weights, with the bits of gemm_weight on a C that held `from`, which has ldc too and may
    ** be C. A device may do without it. */
    int (*gemm_weight_onto)(mk_exec *e, int64_t m, double alpha, const mk_real *a, int64_t lda, int tw, const mk_weight *w,
                            const mk_real *from, mk_real *c, int64_t ldc);

    /* A product over rows that come piece by piece, with the bits of gemm on all of them at once: of a sum over rows
    ** A[p, i] B[p, j] these are the k rows from row `at` on, A [k, m] and B [k, n]. `part` and `total`, [m, n] each, hold the sums
    ** between two calls, and anything at all before row 0. Where c is not NULL no more rows follow, and c [m, n] = alpha sum. */
    int (*gemm_continued)(mk_exec *e, int64_t m, int64_t n, int64_t k, int64_t at, const mk_real *a, const mk_real *b, double alpha,
                          mk_real *part, mk_real *total, mk_real *c);

    /* The parts of w, which is int8, or nf4 with five parts and numbers in f32, become those of src [rows, columns]; part[3] of nf4
    ** is read. part: those of w, to be written */
    int (*quantize)(mk_exec *e, const mk_weight *w, const mk_real *src, void *const *part);
    /* dst [rows, columns] = the numbers that w stands for */
    int (*dequantize)(mk_exec *e, const mk_weight *w, mk_real *dst);

    /* C[m,n] = op(A) op(B), else as gemm with alpha 1 and beta 0, but for products that a BLAS may
    ** compute (kernels/cpu/blas.c): the bits of a row may depend on the other sizes. For products of
    ** a script's own, never for what rollout and training share. */
    int (*matmul)(mk_exec *e, int ta, int tb, int64_t m, int64_t n, int64_t k, const mk_real *a,
                  int64_t lda, int64_t step_a, const mk_real *b, int64_t ldb, int64_t step_b, mk_real *c,
                  int64_t ldc, int64_t step_c, int64_t batch);

    /* -- rows (kernels/cpu/rows.c): x is [rows, n] -- */

    /* y = softmax(x) or log softmax(x) (log != 0); y may be x */
    int (*softmax)(mk_exec *e, int log, int64_t rows, int64_t n, const mk_real *x, mk_real *y);
    int (*softmax_bwd)(mk_exec *e, int log, int64_t rows, int64_t n, const mk_real *y,
                       const mk_real *dy, mk_real *dx);
    /* y = x / rms(x) * w, rms = sqrt(mean x^2 + eps); rstd[rows] = 1 / rms. w may be NULL (ones). y_type:
    ** MK_F32, or type; y may be x where that is type */
    int (*rmsnorm)(mk_exec *e, mk_dtype type, int64_t rows, int64_t n, const void *x, const mk_real *w, double eps,
                   mk_dtype y_type, void *y, mk_real *rstd);
    /* dx overwritten; dw[n] += where not NULL */
    int (*rmsnorm_bwd)(mk_exec *e, mk_dtype type, int64_t rows, int64_t n, const void *x, const mk_real *w,
                       const mk_real *rstd, const mk_real *dy, mk_real *dx, mk_real *dw);
    /* y = (x - mean) / sqrt(var + eps) * w + b, biased variance; w and b may be NULL; y may be x */
    int (*layernorm)(mk_exec *e, int64_t rows, int64_t n, const mk_real *x, const mk_real *w,
                     const mk_real *b, double eps, mk_real *y, mk_real *mean, mk_real *rstd);
    /* dx overwritten; dw[n], db[n] += where not NULL */
    int (*layernorm_bwd)(mk_exec *e, int64_t rows, int64_t n, const mk_real *x, const mk_real *w,
                         const mk_real *mean, const mk_real *rstd, const mk_real *dy, mk_real *dx,
                         mk_real *dw, mk_real *db);
    /* dst[i, :] = src[idx[i], :], n rows of d; indices 0-based and in range (checked by the caller) */
    int (*gather_rows)(mk_exec *e, mk_dtype type, int64_t n, int64_t d, const void *src, const int32_t *idx,
                       void *dst);
    /* dst[idx[i], :] += src[i, :], in the order of i; dst has n_dst rows */
    int (*scatter_add_rows)(mk_exec *e, int64_t n, int64_t d, const mk_real *src, const int32_t *idx,
                            int64_t n_dst, mk_real *dst);
    /* y[r] = x[r, idx[r]]; and dx[r, idx[r]] += dy[r] */
    int (*pick)(mk_exec *e, int64_t rows, int64_t n, const mk_real *x, const int32_t *idx, mk_real *y);
    int (*pick_bwd)(mk_exec *e, int64_t rows, int64_t n, const int32_t *idx, const mk_real *dy,
                    mk_real *dx);
    /* y[b, :] = sum (mean != 0: mean) of the rows of sequence b of x[T, n]; empty sequences give 0 */
    int (*segment_sum)(mk_exec *e, int mean, int64_t n_seq, const int32_t *offsets, int64_t n,
                       const mk_real *x, mk_real *y);
    int (*segment_sum_bwd)(mk_exec *e, int mean, int64_t n_seq, const int32_t *offsets, int64_t n,
                           const mk_real *dy, mk_real *dx);

    /* -- transformer parts (kernels/cpu/transformer.c) -- */

    /* Rotary embedding in the rotate_half layout of Hugging Face's Llama: for each row t and head,
    ** with angle a_i = pos[t] freq[i], i < K/2, and factor f:
    **   y[i] = f (x[i] cos a_i - s x[i+K/2] sin a_i),  y[i+K/2] = f (x[i+K/2] cos a_i + s x[i] sin a_i),
    ** s = +1 forward, -1 (sign < 0) backward, which is the inverse where f = 1. freq[K/2] is a device pointer too:
    ** theta^(-2i/K) in the plain embedding, other tables scale it; f is yarn's attention factor. x, y: [T, H, K], row
    ** distances ldx, ldy. y may be x */
    int (*rope)(mk_exec *e, mk_dtype type, int64_t T, int64_t H, int64_t K, const int32_t *pos, const double *freq, double factor,
                int sign, const void *x, int64_t ldx, void *y, int64_t ldy);
    /* y = silu(gate) * up, n elements each */
    int (*swiglu)(mk_exec *e, mk_dtype type, int64_t n, const void *gate, const void *up, void *y);
    int (*swiglu_bwd)(mk_exec *e, mk_dtype type, int64_t n, const void *gate, const void *up, const mk_real *dy,
                      mk_real *dgate, mk_real *dup);
    /* Attention within each sequence of a ragged batch. q [T, H, K], k and v [T, G, K] (H % G = 0, query
    ** head h reads key head h / (H / G)), scores q.k * scale, causal or full. window > 0, with causal
    ** alone: a token sees itself and the window - 1 before it. out [T, H, K];
    ** lse [T, H] = log sum exp of the scores. Online or two-pass, never a [T, T] array. Where `from` is not NULL, nobody
    ** needs the queries in front of token from[s] of sequence s: their out is 0, or what it would be. Where `keys` is not
    ** NULL, k and v [S, G, K] are of other tokens, those of sequence s from keys[s] to keys[s + 1], at least one; full alone. */
    int (*attention)(mk_exec *e, mk_dtype type, int64_t n_seq, const int32_t *offsets, const int32_t *keys, const int32_t *from,
                     int64_t H, int64_t G, int64_t K, double scale, int causal, int64_t window, const void *q, const void *k,
                     const void *v, void *out, mk_real *lse);
    /* dq, dk, dv overwritten */
    int (*attention_bwd)(mk_exec *e, mk_dtype type, int64_t n_seq, const int32_t *offsets, const int32_t *keys, int64_t H,
                         int64_t G, int64_t K, double scale, int causal, int64_t window, const void *q, const void *k,
                         const void *v, const void *out, const mk_real *lse, const mk_real *dout,
                         mk_real *dq, mk_real *dk, mk_real *dv);
    /* Generation: rows of new tokens against a cache. kcache and vcache: [slot, pos, G, K], slot
    ** distance `slab` elements. Row r belongs to slot[r] and stands at position pos[r].
    ** cache_put: kcache[slot[r], pos[r]] = k[r], v alike. */
    int (*cache_put)(mk_exec *e, mk_dtype type, int64_t rows, int64_t G, int64_t K, const int32_t *slot,
                     const int32_t *pos, int64_t slab, const void *k, const void *v,
                     void *kcache, void *vcache);
    /* out[r] = attention of q[r] (H heads) to positions 0 .. pos[r] of its slot, or the last `window` of them; the same bits as
    ** `attention` gives for that token in its sequence. */
    int (*attention_cached)(mk_exec *e, mk_dtype type, int64_t rows, int64_t H, int64_t G, int64_t K, double scale,
                            int64_t window, const int32_t *slot, const int32_t *pos, int64_t slab, const void *q,
                            const void *kcache, const void *vcache, void *out);
    /* The same on the host's processors for heads that have keys of their own (H of both), of K = 16, 32, 48 or 64, without a
    ** window, over keys that lie across: turned [slot, H, K, wide], wide a multiple of 16. There a step need not turn all keys anew.
    ** turn_keys: the keys of positions below pos[r] from a cache with slabs of `slab`, and zeros behind them.
    ** attention_turned: first k[r] and v[r] become those of position pos[r]; the bits are those of cache_put and attention_cached. */
    int (*turn_keys)(mk_exec *e, int64_t rows, int64_t H, int64_t K, const int32_t *slot, const int32_t *pos, int64_t slab,
                     const mk_real *kcache, int64_t wide, mk_real *turned);
    int (*attention_turned)(mk_exec *e, int64_t rows, int64_t H, int64_t K, double scale, const int32_t *slot, const int32_t *pos,
                            int64_t wide, int64_t slab, const mk_real *q, const mk_real *k, const mk_real *v, mk_real *turned,
                            mk_real *vcache, mk_real *out);

    /* -- the language-model head (kernels/cpu/head.c): one row of logits per token -- */

    /* With z = logits * inv_temp: logp[r] = log softmax(z)[target[r]], entropy[r] = -sum p log p,
    ** lse[r] = log sum exp z. target < 0 gives logp 0. entropy may be NULL. logits [rows, V] */
    int (*logprob)(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, double inv_temp,
                   const int32_t *target, mk_real *logp, mk_real *entropy, mk_real *lse);
    /* Exact KL(p || q) per row of p = softmax(logits * inv_temp), q from ref_logits likewise; lse[r] and ref_lse[r] are
    ** what `logprob` gave for both */
    int (*kl)(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, const mk_real *ref_logits,
              double inv_temp, const mk_real *lse, const mk_real *ref_lse, mk_real *kl);
    /* dlogits (may be logits) = d(logp)/dlogits dlogp[r] + d(entropy)/dlogits dentropy[r]
    ** + inv_temp p (log p - log q - kl) dkl[r]; each of dlogp, (dentropy with entropy) and (dkl with ref_logits, ref_lse
    ** and kl) may be NULL, and nothing flows to q */
    int (*logprob_bwd)(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, const mk_real *ref_logits,
                       double inv_temp, const int32_t *target, const mk_real *entropy, const mk_real *lse,
                       const mk_real *ref_lse, const mk_real *kl, const mk_real *dlogp, const mk_real *dentropy,
                       const mk_real *dkl, mk_real *dlogits);
    /* One token per row. temperature 0 (inv_temp <= 0) takes the first largest logit. Else softmax of
    ** logits * inv_temp, cut to the top_k largest (0 = all) and then to the smallest set of largest
    ** probabilities whose sum reaches top_p (1 = all), drawn by inverse transform in order of token
    ** id from u = one uniform of the Philox stream (key; counter = {step, row_id[r], 0, 0}). */
    int (*sample)(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, double inv_temp,
                  int64_t top_k, double top_p, uint64_t key, uint32_t step, const int32_t *row_id,
                  int32_t *token);

    /* -- random numbers (kernels/cpu/random.c); Philox4x32-10, see philox.h -- */

    /* x[i] uniform in [lo, hi): element i from word i % 4 of counter {i / 4 (64 bit), stream, 0} */
    int (*rand_uniform)(mk_exec *e, int64_t n, uint64_t key, uint64_t stream, double lo, double hi,
                        mk_real *x);
    /* x[i] normal, Box-Muller on pairs of words */
    int (*rand_normal)(mk_exec *e, int64_t n, uint64_t key, uint64_t stream, double mean, double std,
                       mk_real *x);
    /* y = x * mask / (1 - p), mask from the uniform stream; y may be x. Backward is the same call on
    ** dy */
    int (*dropout)(mk_exec *e, mk_dtype type, int64_t n, double p, uint64_t key, uint64_t stream, const void *x,
                   void *y);

    /* -- PPO (kernels/cpu/ppo.c) -- */

    /* Generalised advantage estimation over ragged sequences (Schulman et al. 2016), n columns
    ** (objectives): delta_t = r_t + gamma V_{t+1} - V_t with V after the last token = 0,
    ** A_t = delta_t + gamma lambda A_{t+1}; returns = A + V. All [T, n]. */
    int (*gae)(mk_exec *e, int64_t n_seq, const int32_t *offsets, int64_t n, const mk_real *rewards,
               const mk_real *values, double gamma, double lambda, mk_real *adv, mk_real *returns);
    /* Clipped surrogate per token: z = exp(logp - old); loss = -min(z A, clip(z, 1-c, 1+c) A);
    ** dlogp = dloss/dlogp (0 where the clip is active); clipped = 1 where it is; z out. [T] each. */
    int (*ppo_clip)(mk_exec *e, int64_t n, double cliprange, const mk_real *logp, const mk_real *old,
                    const mk_real *adv, mk_real *loss, mk_real *dlogp, mk_real *ratio,
                    mk_real *clipped);

    /* -- optimisers (kernels/cpu/optim.c); `list` (a host pointer) is read before the call returns -- */

    /* AdamW as PyTorch's on each of `count` parameters: p -= lr wd p; m, v moments; p -= lr mhat / (sqrt(vhat) +
    ** eps); step >= 1 */
    int (*adamw)(mk_exec *e, int64_t count, const mk_parameter *list, double lr, double beta1, double beta2, double eps,
                 double wd, int64_t step, double grad_scale);
    /* SGD as PyTorch's: g' = grad_scale g + wd p; buf = momentum buf + g' (first: g'); p -= lr buf */
    int (*sgd)(mk_exec *e, int64_t n, mk_real *p, const mk_real *g, mk_real *buf, double lr,
               double momentum, double wd, int first, double grad_scale);
    /* out[0] (host pointer) = sum of the squares of all gradients of the list, in double; waits for the device, once */
    int (*sumsq)(mk_exec *e, int64_t count, const mk_parameter *list, double *out);
    /* The two of a device that runs behind the program, so that a step need not wait for the norm; others do without them.
    ** clip_norm: out[4], on the device. The sum of the first three is the Euclidean norm of all gradients of the list, to the
    ** last bit of a double. The fourth is what they are multiplied by: max_norm / (norm + 1e-6) where max_norm > 0 is passed, else
    ** 1; and NaN where the norm is no finite f32 or, so multiplied, beyond `most`.
    ** adamw_by: adamw with *factor as grad_scale, read there; NaN changes nothing. */
    int (*clip_norm)(mk_exec *e, int64_t count, const mk_parameter *list, double max_norm, double most, mk_real *out);
    int (*adamw_by)(mk_exec *e, int64_t count, const mk_parameter *list, double lr, double beta1, double beta2, double eps,
                    double wd, int64_t step, const mk_real *factor);
} mk_table;

/* the tables; NULL where not built */
const mk_table *mk_cpu_table(void);

/* ---- host helpers of the CPU side -------------------------------------------------------------- */

/* What computes matrix products, in words: "OpenBLAS 0.3.21 SkylakeX for ...; built-in kernels (avx512)
** else", or "built-in kernels (avx512): " and why there is no other. Loads OpenBLAS unless blas is
** MK_BLAS_NONE. */
void mk_blas_describe(mk_blas blas, char *text, size_t bytes);

/* What computes products of bf16 on the cpu, in words: "AMX tiles", or other instructions that give the same bits, and why there is no
** AMX. 0, and why, where nothing does. text may be NULL. Asks the system for AMX, once (kernels/cpu/bf16.h). */
int mk_bf16_describe(char *text, size_t bytes);

#endif
