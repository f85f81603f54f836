/* blas.c - finds OpenBLAS at run time. */
#include "cpu.h"

const char *mk_blas_describe(void) { return "none: built-in kernels"; }
