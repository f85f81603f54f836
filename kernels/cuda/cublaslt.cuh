/* cublaslt.cuh - large products of bf16 through NVIDIA's cuBLASLt, loaded at run time. */
#ifndef MK_CUBLASLT_CUH
#define MK_CUBLASLT_CUH

#include "common.cuh"

struct mk_cublaslt; /* a library that is loaded, its handle, and the algorithms chosen so far */

/* gemm_bf16 of kernels.h, or MK_UNSUPPORTED where cuBLASLt is not there, not wanted (MK_BLAS_NONE) or cannot keep the
** contract for these sizes: then the caller's own kernel computes it. Which of the two it is depends on the sizes that a
** weight fixes alone, never on the number of rows. */
int mk_cublaslt_gemm(mk_exec *e, int ta, int tb, int64_t m, int64_t n, int64_t k, double alpha, const mk_bf16 *a,
                     int64_t lda, const mk_bf16 *b, int64_t ldb, double beta, mk_dtype c_type, void *c, int64_t ldc);
void mk_cublaslt_close(mk_cublaslt *lt); /* NULL is fine */
/* "cuBLASLt 13.0.2", or "own kernels (why)" */
void mk_cublaslt_describe(int blas, char *text, size_t size);

/* in device.cu: where the device keeps it, and how a call that failed becomes the device's fault; returns MK_FAULT */
mk_cublaslt **mk_cuda_cublaslt(mk_exec *e);
int mk_cuda_fail(mk_exec *e, const char *what, const char *text);

#endif
