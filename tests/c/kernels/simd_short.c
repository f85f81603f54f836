/* simd_short.c - the inner loops in vectors of 16 bytes with fused multiply-adds. No processor is given them: every one with
** AVX2 can run them, so that sets.c has something of another length to compare with. */
#include "simd_short.h"

#ifdef MK_SIMD_X86
#pragma GCC target("avx,fma")
#define MK_SIMD_NAME "short"
#define MK_SIMD_TABLE mk_simd_short
#define MK_VECTOR_BYTES 16
#include "cpu/simd_table.h"
#endif
