/* harness.h - what the tests of the kernels share; test_kernels.c has it, and runs them */
#ifndef HARNESS_H
#define HARNESS_H

#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#ifdef MK_REAL_DOUBLE
#define TOL 1e-11
#define GRAD_TOL 1e-6
#else
#define TOL 3e-6
#define GRAD_TOL 2e-4
#endif

extern mk_exec *const E;
extern const mk_table *K;

__attribute__((format(printf, 1, 2))) void fail(const char *fmt, ...);
void ok(int cond, const char *what);

double uniform(void); /* in [0, 1); the same numbers in every run */
int64_t below(int64_t n);

/* with guard bytes on both sides; buffers_free frees all and checks them, also at the end of a test */
void buffers_free(void);
void *bytes_new(size_t bytes);
mk_real *empty(int64_t n);
mk_real *randoms(int64_t n, double lo, double hi);
mk_real *constant(int64_t n, double v);
int32_t *integers(int64_t n, int64_t lo, int64_t hi); /* lo up to hi - 1 */
mk_real *copy_of(int64_t n, const mk_real *x);
double *doubles(int64_t n, const mk_real *x); /* x may be NULL: zeros */

/* takes results into a hash that must be the same for any number of threads */
void record(const void *p, size_t bytes);
/* |got - want| <= tol (1 + |want|), elementwise; infinities and NaN must match. Records got. */
void near_all(const char *what, int64_t n, const mk_real *got, const double *want, double tol);
void same_bits(const char *what, int64_t n, const mk_real *a, const mk_real *b);

/* A reference: y = f(x) in double; `arg` holds what else it needs. */
typedef void (*reference)(void *arg, const double *x, double *y);
/* Checks dx against central differences of sum_i dy_i f(x)_i: at every coordinate of a small x, at some
** of a large one. Records dx. */
void gradient(const char *what, reference f, void *arg, int64_t nx, const mk_real *x, int64_t ny, const mk_real *dy,
              const mk_real *dx);

/* elementwise.c */
void test_fill_cast(void);
void test_copy(void);
void test_unary(void);
void test_exp(void);
void test_binary(void);
void test_reduce(void);
/* products.c */
void test_gemm(void);
void test_gemm_rows(void);
void test_gemm_continued(void);
void test_matmul(void);
/* rows.c */
void test_softmax(void);
void test_norms(void);
void test_indexed_rows(void);
/* transformer.c */
void test_rope(void);
void test_swiglu(void);
void test_attention(void);
void test_cross_attention(void);
/* head.c */
void test_head(void);
void test_sample(void);
/* training.c */
void test_random(void);
void test_ppo(void);
void test_optimisers(void);
/* bf16.c */
void test_bf16(void);
/* codes.c */
void test_codes(void);
/* sets.c */
void test_sets(void);

#endif
