/* mk_cuda.h - what mocl_cuda.so offers to the runtime: one exported function that gives this table.
**
** The object is loaded at run time; nothing links it. The same sources are built by nvcc for a device
** and by the host compiler for the emulator (emu/emu.h), and both are this interface.
*/
#ifndef MK_CUDA_H
#define MK_CUDA_H

#include "kernels.h"

#define MK_CUDA_ABI 4              /* raised when anything here or in mk_table changes */
#define MK_CUDA_SYMBOL "mk_cuda_api_get"

typedef struct mk_cuda_api {
    int abi;               /* MK_CUDA_ABI */
    size_t table_bytes;    /* sizeof(mk_table), sizeof(mk_exec): the object and the program are of one build */
    size_t exec_bytes;
    size_t real_bytes;     /* sizeof(mk_real) */
    int emulated;          /* 1: no device, the kernels run on the host */
    const char *made_by;   /* "nvcc 13.0", "emulator" */
    const mk_table *table;

    /* Says in `text` what device `index` is, or (result 0) why it cannot be used: no driver, driver too
    ** old, no such device, a device below sm_80. Creates no context on the device. */
    int (*probe)(int index, char *text, size_t size);
    /* Says in `text` what computes products of bf16 where its blas is `blas`: "cuBLASLt 13.0.2". */
    void (*products)(int blas, char *text, size_t size);
    /* MK_OK, or a code with the reason in `why`. Fills e->device. e->blas is set by the caller. */
    int (*open)(mk_exec *e, int index, char *why, size_t size);
    void (*close)(mk_exec *e);

    void *(*alloc)(mk_exec *e, size_t bytes); /* NULL when there is none; 256-byte aligned */
    void (*free)(mk_exec *e, void *p);
    void (*memory)(mk_exec *e, size_t *free_bytes, size_t *total_bytes);
    /* In stream order. upload may return before the device has the bytes, but src may be changed then;
    ** download waits. */
    int (*upload)(mk_exec *e, void *dst, const void *src, size_t bytes);
    int (*download)(mk_exec *e, void *dst, const void *src, size_t bytes);
    int (*sync)(mk_exec *e);
    /* The text of the first fault of this device, which all later calls return too; NULL if none. */
    const char *(*fault)(mk_exec *e);

    /* Emulator only, else NULL. mark: a block of `rounded` bytes is handed out for `bytes`: what is in it
    ** becomes NaN, what is behind becomes guard bytes. check: 1 if these were written. */
    void (*mark)(void *p, size_t bytes, size_t rounded);
    int (*check)(void *p, size_t bytes, size_t rounded);
} mk_cuda_api;

typedef const mk_cuda_api *(*mk_cuda_api_getter)(void);

#endif
