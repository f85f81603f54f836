/* weight.c - products with a weight, whatever its format. */
#include "table.h"

int mk_cpu_gemm_weight(mk_exec *e, int ta, int64_t m, double alpha, mk_dtype a_type, const void *a, int64_t lda, int tw,
                       const mk_weight *w, double beta, mk_dtype c_type, void *c, int64_t ldc) {
    int64_t n = tw ? w->rows : w->columns, k = tw ? w->columns : w->rows;
    if (w->format != MK_FORMAT_F32 || a_type != MK_F32 || c_type != MK_F32) return MK_UNSUPPORTED;
    return mk_cpu_gemm(e, ta, tw, m, n, k, alpha, a, lda, 0, w->part[0], w->columns, 0, beta, c, ldc, 0, 1);
}
