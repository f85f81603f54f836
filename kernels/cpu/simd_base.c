/* simd_base.c - the inner loops for the instruction set the compiler was told to use. */
#define MK_SIMD_NAME "base"
#define MK_SIMD_TABLE mk_simd_base
#define MK_VECTOR_BYTES 16
#include "simd_table.h"
