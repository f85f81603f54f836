/* gemm_w8a8.c - products with weights of the format w8a8: rows of A become codes of 8 bits, and sums of products are integers, which
** no order of adding changes. A row's bits depend on that row and on W alone. */
#include "formats.h"
#include "quantized.h"
#include "simd.h"
#include "table.h"

#define GROUP 16          /* rows of W at a time */
#define ROWS 64           /* of A whose sums are kept at a time */
#define NS_PER_BYTE 0.05  /* about, of W: for sharing out work */
#define NS_PER_DOT 0.01   /* of a product of two codes */
#define NS_PER_ROUND 0.3

struct codes_job {
    const struct mk_simd *s;
    void (*dots)(int64_t k, int64_t m, int64_t n, const int8_t *a, int64_t lda, const int32_t *sum, const int8_t *w, int64_t ldw, int32_t *to,
                 int64_t ldt);
    const mk_weight *w;
    mk_dtype a_type, c_type; /* f32 or bf16 */
    const void *a;
    void *c;
    mk_real alpha, beta;
    int64_t m, lda, ldc;
    int8_t *code;    /* [m, columns] */
    int32_t *sum;    /* [m] */
    mk_real *absmax; /* [m] */
    mk_real *wide;   /* [m, columns] room for rows of bf16 */
};

/* items are rows of A */
static void round_range(void *arg, int64_t first, int64_t last) {
    struct codes_job *g = arg;
    int64_t k = g->w->columns;
    for (int64_t i = first; i < last; i++) {
        const mk_real *x = (const mk_real *)g->a + i * g->lda;
        if (g->a_type == MK_BF16) {
            for (int64_t p = 0; p < k; p++) g->wide[i * k + p] = mk_from_bf16(((const mk_bf16 *)g->a)[i * g->lda + p]);
            x = g->wide + i * k;
        }
        g->absmax[i] = g->s->round_codes(k, x, g->code + i * k, &g->sum[i]);
    }
}

static inline void put_value(const struct codes_job *g, int64_t at, mk_real v) {
    if (g->c_type == MK_F32) {
        mk_real *c = (mk_real *)g->c + at;
        *c = g->beta == 0 ? v : v + g->beta * *c;
    } else {
        mk_bf16 *c = (mk_bf16 *)g->c + at;
        *c = mk_to_bf16((float)(g->beta == 0 ? v : v + g->beta * mk_from_bf16(*c)));
    }
}

/* items are groups of columns of C, which are rows of W */
static void dot_range(void *arg, int64_t first, int64_t last) {
    const struct codes_job *g = arg;
    const mk_weight *w = g->w;
    int32_t dot[ROWS * GROUP];
    for (int64_t at = first; at < last; at++) {
        int64_t j = at * GROUP, n = mk_min(GROUP, w->rows - j), k = w->columns;
        const mk_real *absmax = (const mk_real *)w->part[1] + j;
        for (int64_t i = 0; i < g->m; i += ROWS) {
            int64_t m = mk_min(ROWS, g->m - i);
            g->dots(k, m, n, g->code + i * k, k, g->sum + i, (const int8_t *)w->part[0] + j * k, k, dot, GROUP);
            for (int64_t r = 0; r < m; r++)
                for (int64_t l = 0; l < n; l++)
                    put_value(g, (i + r) * g->ldc + j + l, g->alpha * mk_w8a8_value(dot[r * GROUP + l], g->absmax[i + r], absmax[l]));
        }
    }
}

static int has_vnni(void) {
#ifdef MK_SIMD_X86
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512vnni") != 0;
#else
    return 0;
#endif
}

int mk_gemm_w8a8(mk_exec *e, int64_t m, double alpha, mk_dtype a_type, const void *a, int64_t lda, const mk_weight *w, double beta,
                 mk_dtype c_type, void *c, int64_t ldc) {
    const struct mk_simd *s = mk_simd();
    int64_t n = w->rows, k = w->columns;
    struct codes_job g = {.s = s, .dots = s->dot_codes_vnni && has_vnni() ? s->dot_codes_vnni : s->dot_codes, .w = w, .a_type = a_type,
                          .c_type = c_type, .a = a, .c = c, .alpha = (mk_real)alpha, .beta = (mk_real)beta, .m = m, .lda = lda, .ldc = ldc};
    if (k > MK_W8A8_COLUMNS) return MK_UNSUPPORTED;
    if (m <= 0 || n <= 0) return MK_OK;
    size_t wide = a_type == MK_BF16 ? (size_t)k * sizeof *g.wide : 0;
    g.wide = mk_scratch(e, (size_t)m * (wide + sizeof *g.absmax + sizeof *g.sum + (size_t)k));
    if (!g.wide) return MK_NOMEM;
    g.absmax = wide ? g.wide + m * k : g.wide;
    g.sum = (int32_t *)(g.absmax + m);
    g.code = (int8_t *)(g.sum + m);
    mk_for(e, m, NS_PER_ROUND * (double)k, round_range, &g);
    mk_for(e, mk_ceil_div(n, GROUP), GROUP * (double)k * (NS_PER_BYTE + NS_PER_DOT * (double)m), dot_range, &g);
    return MK_OK;
}
