/* gemm.c - matrix products whose rows do not depend on each other's number. */
#include "table.h"

#define NB 64 /* columns of C per inner tile */

struct gemm_job {
    int64_t m, n, k, lda, ldc, row_blocks;
    int64_t step_c;
    mk_real alpha, beta;
    const mk_real *a, *b;
    int ta;
    int64_t step_a;
    mk_real *c;
};

#define MB 16

/* b is packed as [ceil(n / NB)][k][NB], zero padded */
static void gemm_piece(void *arg, int64_t i) {
    struct gemm_job *j = arg;
    int64_t i0 = i * MB, i1 = mk_min(i0 + MB, j->m), blocks = mk_ceil_div(j->n, NB);
    for (int64_t nb = 0; nb < blocks; nb++) {
        const mk_real *b = j->b + nb * j->k * NB;
        int64_t w = mk_min(NB, j->n - nb * NB);
        for (int64_t r = i0; r < i1; r++) {
            mk_real acc[NB] = {0};
            const mk_real *a = j->ta ? j->a + r : j->a + r * j->lda;
            int64_t sa = j->ta ? j->lda : 1;
            for (int64_t p = 0; p < j->k; p++)
                for (int c = 0; c < NB; c++) acc[c] += a[p * sa] * b[p * NB + c];
            mk_real *out = j->c + r * j->ldc + nb * NB;
            if (j->beta == 0)
                for (int64_t c = 0; c < w; c++) out[c] = j->alpha * acc[c];
            else
                for (int64_t c = 0; c < w; c++) out[c] = j->alpha * acc[c] + j->beta * out[c];
        }
    }
}

int mk_cpu_gemm(mk_env *e, int ta, int tb, int64_t m, int64_t n, int64_t k, double alpha,
                const mk_real *a, int64_t lda, int64_t step_a, const mk_real *b, int64_t ldb,
                int64_t step_b, double beta, mk_real *c, int64_t ldc, int64_t step_c,
                int64_t batch) {
    if (m <= 0 || n <= 0 || batch <= 0) return MK_OK;
    int64_t blocks = mk_ceil_div(n, NB);
    mk_real *pack = mk_scratch(e, (size_t)(blocks * k * NB + 1) * sizeof(mk_real));
    if (!pack) return MK_NOMEM;
    for (int64_t t = 0; t < batch; t++) {
        const mk_real *bt = b + t * step_b;
        if (t == 0 || step_b != 0)
            for (int64_t nb = 0; nb < blocks; nb++)
                for (int64_t p = 0; p < k; p++)
                    for (int64_t col = 0; col < NB; col++) {
                        int64_t at = nb * NB + col;
                        pack[(nb * k + p) * NB + col] =
                            at >= n ? 0 : tb ? bt[at * ldb + p] : bt[p * ldb + at];
                    }
        struct gemm_job j = {.m = m, .n = n, .k = k, .lda = lda, .ldc = ldc, .alpha = (mk_real)alpha,
                             .beta = (mk_real)beta, .a = a + t * step_a, .b = pack, .ta = ta,
                             .c = c + t * step_c};
        mk_parallel(e, mk_ceil_div(m, MB), gemm_piece, &j);
    }
    return MK_OK;
}
