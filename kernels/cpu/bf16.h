/* bf16.h - products of bf16 numbers with the arithmetic of a tile unit (Intel AMX, TDPBF16PS), on every processor.
**
** k is cut into blocks of MK_BF16_BLOCK, the last one filled up with zeros in both operands. An element of the result is
**
**   S = 0;  for each block, ascending:  E = O = 0
**                                       for the 16 pairs of the block, ascending:  E = fma(a[even], b[even], E)
**                                                                                  O = fma(a[odd], b[odd], O)
**                                       S = S + (E + O)
**
** in f32, rounded to nearest even; subnormal numbers that go in count as zero, and those that come out become zero, of their sign.
** So an element depends on its own row of A and column of B alone. Every NaN that leaves a product is 7fc00000.
**
** A way to compute it (struct mk_bf16_path) fills sums of a few rows and MK_BF16_COLUMNS columns; packing and the rest are gemm_bf16.c's.
*/
#ifndef MK_CPU_BF16_H
#define MK_CPU_BF16_H

#include "cpu.h"

#define MK_BF16_BLOCK 32   /* k of one instruction of the tile unit */
#define MK_BF16_COLUMNS 32 /* of a panel of B: two tiles */
#define MK_BF16_KC 512     /* k that is packed at a time */
#define MK_BF16_LDA (MK_BF16_KC + MK_BF16_BLOCK) /* distance of rows of a packed A: no power of two, so that they share no cache set */

/* sums[i * MK_BF16_COLUMNS + j] += the blocks' (E + O), one after the other, for i < m. a: rows of blocks * MK_BF16_BLOCK numbers,
** MK_BF16_LDA apart: f32 where the path says so, else bf16. b: [blocks * 16][MK_BF16_COLUMNS] pairs, the even k in the lower half. */
typedef void (*mk_bf16_sweep)(int64_t m, int64_t blocks, const void *a, const uint32_t *b, float *sums);

typedef struct mk_bf16_path {
    const char *name; /* "AMX tiles" */
    int a_float;
    int row_multiple; /* of rows that go together without one in part */
    double ns;        /* of a multiply-add, about: for sharing out work */
    mk_bf16_sweep sweep;
} mk_bf16_path;

/* The one that is used: AMX where the processor has it and the system lets us, else multiply-adds in f32 where the instruction set
** (mk_simd) has them, else plain C. MOCL_ISA=amx asks for AMX by name, base, avx2 and avx512 leave it out, and amx_emulated computes
** tiles in C, for tests. NULL where what was asked for is not there; *why then says so, and else why there is no AMX, or NULL. */
const mk_bf16_path *mk_bf16_chosen(const char **why);

extern const mk_bf16_path mk_bf16_plain, mk_bf16_emulated;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11 /* earlier ones do not know tiles */
#define MK_AMX 1
extern const mk_bf16_path mk_bf16_amx; /* only where mk_amx_open gave NULL */
#endif

/* Whether this process may use AMX: NULL, or why not. It asks the system for the permission, which is the whole process's. */
const char *mk_amx_open(void);

/* c[m, n] = alpha op(A) op(B) + beta c, each of the two products and their sum rounded; beta 0 does not read c. c_type: F32 or BF16. */
int mk_bf16_gemm(mk_exec *e, const mk_bf16_path *path, int ta, int64_t m, int64_t n, int64_t k, double alpha, const mk_bf16 *a, int64_t lda,
                 int tb, const mk_bf16 *b, int64_t ldb, double beta, mk_dtype c_type, void *c, int64_t ldc);

#endif
