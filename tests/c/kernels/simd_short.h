/* simd_short.h - see simd_short.c */
#include "cpu/simd.h"

#ifdef MK_SIMD_X86
extern const struct mk_simd mk_simd_short;
#endif
