/* simd.h - the inner loops that are compiled once per instruction set.
**
** simd_base.c, simd_avx2.c and simd_avx512.c each compile the same bodies (simd_vec.h, simd_tile.h,
** simd_rows.h, simd_map.h) and export them as one struct; mk_simd() chooses at run time. A loop's result
** depends on its own arguments alone, so rows and tiles may be shared out in any way. It does not depend on the length
** of a vector either: sets with fused multiply-adds give the same bits.
*/
#ifndef MK_SIMD_H
#define MK_SIMD_H

#include "bf16.h"
#include "cpu.h"

#define MK_TILE_VECTORS 8 /* widest tile: this many vectors of columns */
#define MK_PANEL_MAX 64   /* columns of the widest panel of any instruction set */
#define MK_TILE_ROWS_MAX 14
#define MK_KC 256         /* multiply-adds of a chain: an element of a product is the sum of such chains, in order */
#define MK_RUNNING 4      /* rows of running_sums */
#define MK_FEW_ROWS 2     /* up to here a panel is wider: its chains alone would leave the multipliers waiting */

/* c = alpha acc + beta c, the sum rounded once where the instruction set can; beta 0 does not read c. What is read lies `from`
** bytes behind c: 0, or the distance of another matrix. Where `continues`, the chains begin with what c holds instead of zero,
** and the others count for nothing. */
struct mk_blend {
    mk_real alpha, beta;
    uintptr_t from;
    int continues;
};

/* One tile of a product: with acc[i][j] = sum over p < kc, ascending, of a[i rs + p cs] b[p ldb + j],
** c[i ldc + j] = acc, or as `blend` says where it is not NULL. Rows and vectors of columns are fixed by the choice
** of function; `last` columns of the last vector are written. b is read in whole vectors. */
typedef void (*mk_tile)(int64_t kc, const mk_real *a, int64_t rs, int64_t cs, const mk_real *b,
                        int64_t ldb, mk_real *c, int64_t ldc, int last,
                        const struct mk_blend *blend);

/* A quantised format (simd_NAME.h). read: to[i] = W[row, column + i], i < n. quantize: as of mk_table; NULL: numbers are not made it. */
struct mk_quantized {
    void (*read)(const mk_weight *w, int64_t row, int64_t column, int64_t n, mk_real *to);
    int (*quantize)(mk_exec *e, const mk_weight *w, const mk_real *src, void *const *part);
    /* sums[i * MK_GROUP_MAX + j] = sum over k of A[i lda + k] W[row + j, k], i < m <= MK_CODED_ROWS, j < n <= group, in chains of MK_KC
    ** as the tiles have them: codes become numbers in registers. NULL: there is no such loop */
    void (*few)(const mk_weight *w, int64_t row, int64_t n, int64_t m, const mk_real *a, int64_t lda, mk_real *sums);
    int64_t group;
    int64_t step; /* not 0: few needs rows of whole blocks, which are a multiple of this, and numbers in f32 */
};

static inline int mk_has_few(const struct mk_quantized *f, const mk_weight *w) {
    return f->few && (!f->step || (w->block % f->step == 0 && w->columns % w->block == 0 && w->rounded == MK_F32));
}

#define MK_CODED_ROWS 4 /* up to here codes are not unpacked into memory */
#define MK_GROUP_MAX 32

struct mk_adamw {
    mk_real grad_scale, beta1, beta2, one_beta1, one_beta2, decay, step_size, inv_sqrt_bc2, eps;
};

/* The gradient of a row of logits x: with lp = x inv_temp - lse and p = exp lp it is -p (a + b (lp + h)), plus a at the
** target (none where below 0), plus, where ref is not NULL, c p (lp - lq - kl) with lq = ref inv_temp - ref_lse. */
struct mk_head_row {
    mk_real inv_temp, lse, a, b, h;
    int64_t target;
    const mk_real *ref;
    mk_real ref_lse, kl, c;
};

struct mk_simd {
    const char *name;
    int lanes;         /* elements of a vector */
    int panel_vectors[MK_FEW_ROWS + 1]; /* vectors of a full panel: of 1 row, of 2, of more; see mk_panel */
    int tile_rows[MK_TILE_VECTORS];                  /* [vectors - 1] */
    mk_tile tile[MK_TILE_VECTORS][MK_TILE_ROWS_MAX]; /* [vectors - 1][rows - 1] */

    struct mk_quantized format[MK_FORMAT_COUNT]; /* NULL where numbers are read as they lie */

    /* dst[p ldd + j] = src[j lds + p], p < k, j < n; zero for n <= j < wide (wide a multiple of lanes) */
    void (*pack_transposed)(int64_t k, int64_t n, int64_t wide, const mk_real *src, int64_t lds,
                            mk_real *dst, int64_t ldd);

    /* -- products of integers (gemm_w8a8.c) -- */
    /* code[i] = x[i] as w8a8 rounds a row of n numbers, and their sum; returns the absmax that goes with them: NaN where a number is not
    ** finite, 0 where all are too small */
    mk_real (*round_codes)(int64_t n, const mk_real *x, int8_t *code, int32_t *sum);
    /* to[i ldt + j] = sum over p < k <= MK_W8A8_COLUMNS of a[i lda + p] w[j ldw + p], i < m, j < n; a of -127 .. 127; sum[i]: that of a's
    ** row i. The second: with the instructions of AVX512-VNNI, or NULL */
    void (*dot_codes)(int64_t k, int64_t m, int64_t n, const int8_t *a, int64_t lda, const int32_t *sum, const int8_t *w, int64_t ldw,
                      int32_t *to, int64_t ldt);
    void (*dot_codes_vnni)(int64_t k, int64_t m, int64_t n, const int8_t *a, int64_t lda, const int32_t *sum, const int8_t *w, int64_t ldw,
                           int32_t *to, int64_t ldt);

    /* -- rows of n elements -- */
    /* 0 < n < 2^31: the first of the largest; 0 where x[0] is NaN, and NaN elsewhere is not larger */
    int64_t (*argmax)(int64_t n, const mk_real *x);
    void (*softmax)(int64_t n, const mk_real *x, mk_real *y, int log);
    void (*softmax_bwd)(int64_t n, const mk_real *y, const mk_real *dy, mk_real *dx, int log);
    /* w, b may be NULL; return 1 / rms and 1 / sd */
    mk_real (*rmsnorm)(int64_t n, const mk_real *x, const mk_real *w, double eps, mk_real *y);
    mk_real (*layernorm)(int64_t n, const mk_real *x, const mk_real *w, const mk_real *b, double eps,
                         mk_real *y, mk_real *mean);
    /* dw, db += where not NULL */
    void (*rmsnorm_bwd)(int64_t n, const mk_real *x, const mk_real *w, mk_real rstd,
                        const mk_real *dy, mk_real *dx, mk_real *dw);
    void (*layernorm_bwd)(int64_t n, const mk_real *x, const mk_real *w, mk_real mean, mk_real rstd,
                          const mk_real *dy, mk_real *dx, mk_real *dw, mk_real *db);
    /* log sum exp of x * inv_temp; the entropy too where not NULL */
    mk_real (*log_sum_exp)(int64_t n, const mk_real *x, mk_real inv_temp, mk_real *entropy);
    /* dx (may be x) of a row, see mk_head_row */
    void (*logprob_bwd)(int64_t n, const mk_real *x, const struct mk_head_row *row, mk_real *dx);
    /* sum p (lp - lq) */
    mk_real (*kl)(int64_t n, const mk_real *x, const mk_real *ref, mk_real inv_temp, mk_real lse_p,
                  mk_real lse_q);
    /* p = exp(x inv_temp - its largest) */
    void (*weights)(int64_t n, const mk_real *x, mk_real inv_temp, mk_real *p);

    /* -- attention -- */
    /* One query and one block of n keys, s[n] their products: s becomes exp(s scale - top'), zero up to
    ** `padded`; *top rises to top', *sum and out[K] shrink by exp(top - top') and *sum gains the
    ** block's. A first block has *top = -inf. */
    void (*attend)(int64_t n, int64_t padded, mk_real scale, mk_real *s, mk_real *top, mk_real *sum,
                   int64_t K, mk_real *out);
    /* out[h K + d] = sum over j < n, ascending, of p[h ldp + j] v[j ldv + h K + d], h < heads; added to what out holds
    ** where `add`. K is a multiple of the lanes. */
    void (*weigh)(int64_t n, int64_t heads, int64_t K, const mk_real *p, int64_t ldp, const mk_real *v, int64_t ldv,
                  mk_real *out, int add);
    /* s becomes p = exp(s scale - lse), dp becomes p (dp - delta) scale; both zero from n to padded */
    void (*attend_bwd)(int64_t n, int64_t padded, mk_real scale, mk_real lse, mk_real delta,
                       mk_real *s, mk_real *dp);
    mk_real (*dot)(int64_t n, const mk_real *a, const mk_real *b);
    void (*scale)(int64_t n, mk_real by, mk_real *x);
    /* rotary embedding of H heads of 2 half elements; y may be x */
    void (*rotate)(int64_t H, int64_t half, const mk_real *x, const mk_real *cs, const mk_real *sn,
                   mk_real *y);

    /* -- flat arrays -- */
    void (*unary)(mk_unary op, int64_t n, const mk_real *x, mk_real *y, mk_real p, mk_real q);
    void (*unary_bwd)(mk_unary op, int64_t n, const mk_real *x, const mk_real *y, const mk_real *dy,
                      mk_real *dx, mk_real p, mk_real q);
    /* the strides of a and b */
    void (*binary)(mk_binary op, int64_t n, const mk_real *a, int64_t as, const mk_real *b, int64_t bs,
                   mk_real *y);
    void (*axpy)(int64_t n, mk_real alpha, const mk_real *x, mk_real *y); /* y += alpha x */
    /* y = alpha x + beta y; y is not read when beta is 0 */
    void (*axpby)(int64_t n, mk_real alpha, const mk_real *x, mk_real beta, mk_real *y);
    void (*swiglu)(int64_t n, const mk_real *gate, const mk_real *up, mk_real *y);
    void (*swiglu_bwd)(int64_t n, const mk_real *gate, const mk_real *up, const mk_real *dy,
                       mk_real *dgate, mk_real *dup);
    void (*adamw)(int64_t n, const struct mk_adamw *s, mk_real *p, const mk_real *g, mk_real *m,
                  mk_real *v);
    double (*sum)(int64_t n, const mk_real *x);
    /* sums[i MK_RUNNING + r] = x[r n] + .. + x[r n + i], r < MK_RUNNING, added in order */
    void (*running_sums)(int64_t n, const mk_real *x, double *sums);
    double (*sumsq)(int64_t n, const mk_real *x);
    void (*add_to_double)(int64_t n, const mk_real *x, double *acc); /* acc += x */

    /* -- bf16 -- */
    void (*from_bf16)(int64_t n, const mk_bf16 *x, mk_real *y);
    void (*to_bf16)(int64_t n, const mk_real *x, mk_bf16 *y); /* as mk_to_bf16 */
    void (*bf16_pairs)(int64_t n, const mk_bf16 *low, const mk_bf16 *high, uint32_t *to); /* to[i] = low[i], high[i] in its upper half */
    /* the end of a product (bf16.h): c = alpha sums + beta c, c of `type`; sums are readable up to whole vectors */
    void (*bf16_finish)(int64_t n, const struct mk_blend *blend, const float *sums, mk_dtype type, void *c);
    const mk_bf16_path *bf16; /* NULL without multiply-adds that round once */
};

/* The best set this CPU has; the environment variable MOCL_ISA (base, avx2, avx512) lowers it. What else it may say is of products of
** bf16 (mk_bf16_chosen). */
const struct mk_simd *mk_simd(void);
const char *mk_simd_name(void); /* "base", "avx2" or "avx512" */

/* columns of a full panel, of which a tile of m rows covers one */
static inline int64_t mk_panel(const struct mk_simd *s, int64_t m) {
    return (int64_t)s->lanes * s->panel_vectors[mk_min(m, MK_FEW_ROWS + 1) - 1];
}

/* C[m, n] = A B, or as `blend` says where it is not NULL, with A[i rs + p cs], p < kc, and B[p ldb + j]
** readable up to whole vectors; any n. */
void mk_sweep(const struct mk_simd *s, int64_t m, int64_t n, int64_t kc, const mk_real *a, int64_t rs,
              int64_t cs, const mk_real *b, int64_t ldb, mk_real *c, int64_t ldc,
              const struct mk_blend *blend);
extern const struct mk_blend mk_add;       /* c += acc */
extern const struct mk_blend mk_continued; /* the chains in c go on */

extern const struct mk_simd mk_simd_base;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MK_SIMD_X86 1
extern const struct mk_simd mk_simd_avx2, mk_simd_avx512;
#endif

#endif
