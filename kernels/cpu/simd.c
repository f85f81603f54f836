/* simd.c - chooses the instruction set once per process, and covers a matrix with its tiles. */
#include <pthread.h>
#include <stdlib.h>

#include "simd.h"

static const struct mk_simd *chosen;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void choose(void) {
    chosen = &mk_simd_base;
#ifdef MK_SIMD_X86
    const char *limit = getenv("MOCL_ISA");
    int level = limit && !strcmp(limit, "base") ? 0 : limit && !strcmp(limit, "avx2") ? 1 : 2;
    __builtin_cpu_init();
    if (level >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        chosen = &mk_simd_avx2;
    if (level >= 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        chosen = &mk_simd_avx512;
#endif
}

const struct mk_simd *mk_simd(void) {
    pthread_once(&once, choose);
    return chosen;
}

const char *mk_simd_name(void) {
#ifdef MK_SIMD_X86
    if (mk_simd() == &mk_simd_avx512) return "avx512";
    if (mk_simd() == &mk_simd_avx2) return "avx2";
#endif
    return "base";
}

const struct mk_blend mk_add = {1, 1, 0, 0}, mk_continued = {1, 0, 0, 1};

void mk_sweep(const struct mk_simd *s, int64_t m, int64_t n, int64_t kc, const mk_real *a, int64_t rs,
              int64_t cs, const mk_real *b, int64_t ldb, mk_real *c, int64_t ldc,
              const struct mk_blend *blend) {
    int64_t panel = mk_panel(s, m);
    for (int64_t j = 0; j < n; j += panel) {
        int64_t columns = mk_min(panel, n - j), vectors = mk_ceil_div(columns, s->lanes);
        int64_t rows = s->tile_rows[vectors - 1];
        int last = (int)(columns - (vectors - 1) * s->lanes);
        for (int64_t i = 0; i < m; i += rows)
            s->tile[vectors - 1][mk_min(rows, m - i) - 1](kc, a + i * rs, rs, cs, b + j, ldb,
                                                          c + i * ldc + j, ldc, last, blend);
    }
}
