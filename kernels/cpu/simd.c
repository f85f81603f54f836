/* simd.c - chooses the instruction set once per process. */
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
