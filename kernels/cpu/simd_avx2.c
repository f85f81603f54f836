/* simd_avx2.c - the inner loops for x86-64 with AVX2 and FMA. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("prfchw,avx2,fma")
#define MK_SIMD_NAME "avx2"
#define MK_SIMD_TABLE mk_simd_avx2
#define MK_VECTOR_BYTES 32
#include "simd_table.h"
#else
typedef int mk_simd_avx2_is_empty; /* a source file may not be */
#endif
