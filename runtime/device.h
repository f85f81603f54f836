/* device.h - a device: its memory and its table of kernels.
**
** cpu   the reference.
** fake  the cpu kernels over memory that can be read only inside kernel calls: host code that
**       touches a tensor's bytes fails at once. It keeps the CUDA path open (tests only).
** cuda  a shared object loaded on request.
*/
#ifndef MOCL_DEVICE_H
#define MOCL_DEVICE_H

#include "base.h"
#include "kernels.h"

enum { MOCL_DEVICE_BINS = 256 };

typedef struct mocl_device {
    mocl_ctx *ctx;          /* not owned */
    int kind;               /* MOCL_DEVICE_CPU, ... */
    char name[16];          /* "cpu", "cuda:0" */
    int index;              /* cuda: which one */
    const mk_table *k;      /* the kernels */
    mk_exec exec;             /* what each kernel call gets: threads, scratch */
    /* memory, in bytes */
    size_t live, peak, cached, limit; /* limit: live and cached together stay below it; 0 = none */
    struct mocl_block *bins[MOCL_DEVICE_BINS]; /* free blocks, one list per size class */
    /* fake: one reserved arena, protected outside kernel calls */
    char *arena;
    size_t arena_size, arena_used;
    int depth;              /* nesting of mocl_device_enter */
    int64_t waits;          /* cuda: how often the program waited for the device, to read from it */
    int64_t broken_guards;  /* fake, emulated cuda: blocks whose guard bytes were overwritten */
    const struct mk_cuda_api *cuda; /* cuda: the loaded object's functions, else NULL */
} mocl_device;

/* *out receives the device of this context, opened on first use. kind is MOCL_DEVICE_*; MOCL_DEVICE_CUDA
** is the one that is open, or else cuda:0. */
mocl_status mocl_device_get(mocl_device **out, mocl_ctx *ctx, int kind);
/* "cpu", "fake", "cuda" (= "cuda:0"), "cuda:1"; an unknown or absent device fails with words. A context
** opens one CUDA device. Devices are closed with their context. */
mocl_status mocl_device_parse(mocl_device **out, mocl_ctx *ctx, const char *name);

/* Whether kernels of the device compute on bf16; if not, the error begins with `what`. */
mocl_status mocl_device_bf16(mocl_device *dev, const char *what);

/* Device memory, 64-byte aligned, uninitialised. Freed blocks are cached for the next allocation of
** their size class; mocl_device_flush gives them back. */
mocl_status mocl_device_alloc(void **out, mocl_device *dev, size_t bytes);
void mocl_device_free(mocl_device *dev, void *p, size_t bytes);
void mocl_device_flush(mocl_device *dev);

/* Kernel calls stand between enter and leave (no-ops but on `fake`); calls nest. */
void mocl_device_enter(mocl_device *dev);
void mocl_device_leave(mocl_device *dev);

/* Host <-> device copies; the only way to look at a tensor's bytes. */
mocl_status mocl_device_upload(mocl_device *dev, void *dst, const void *src, size_t bytes);
mocl_status mocl_device_download(mocl_device *dev, void *dst, const void *src, size_t bytes);

/* Runs one kernel of the device: a status with words from the kernel's own code. */
#define MOCL_KERNEL(dev, fn, ...) mocl_kernel_end((dev), #fn, \
    (mocl_device_enter(dev), (dev)->k->fn ? (dev)->k->fn(&(dev)->exec, __VA_ARGS__) : (int)MK_ABSENT))
mocl_status mocl_kernel_end(mocl_device *dev, const char *name, int code);

#endif
