/* device_cuda.h - finds, loads and opens the CUDA part, a shared object of its own. */
#ifndef MOCL_DEVICE_CUDA_H
#define MOCL_DEVICE_CUDA_H

#include "base.h"
#include "cuda/mk_cuda.h"

/* What cuda:`index` is ("NVIDIA H200, compute capability 9.0, ..."; status MOCL_OK), or why it cannot be
** used (MOCL_E_DEVICE; no message in the context). Creates no context on the device. */
mocl_status mocl_cuda_describe(mocl_ctx *ctx, int index, char *text, size_t size);

/* Opens cuda:`index`: *api receives the functions of the object and exec what its kernels run with. */
mocl_status mocl_cuda_open(mocl_ctx *ctx, int index, mk_exec *exec, const mk_cuda_api **api);

#endif
