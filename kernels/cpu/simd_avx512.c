/* simd_avx512.c - the inner loops for x86-64 with AVX-512 F, DQ, BW and VL. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("prfchw,avx2,fma,avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")
#define MK_SIMD_NAME "avx512"
#define MK_SIMD_TABLE mk_simd_avx512
#define MK_VECTOR_BYTES 64
#include "simd_table.h"
#else
typedef int mk_simd_avx512_is_empty; /* a source file may not be */
#endif
