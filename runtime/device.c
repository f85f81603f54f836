/* device.c - devices and their memory: a cache of freed blocks over malloc (cpu), over a protected
** arena (fake) or over the device's own allocator (cuda). Size classes are powers of two cut in four, so a block wastes at most a fifth.
*/
#define _GNU_SOURCE
#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "device_cuda.h"
#include "cuda/mk_cuda.h"

typedef struct mocl_block {
    void *p;
    struct mocl_block *next;
    size_t bytes;
} mocl_block;

enum { ALIGNMENT = 64, GUARD_BYTES = 64, GUARD_VALUE = 0xA5 };
#define ARENA_BYTES ((size_t)64 << 30) /* reserved addresses, not memory */

/* class of a request and the bytes a block of that class has */
static int size_class(size_t bytes, size_t *rounded) {
    if (bytes <= ALIGNMENT) {
        *rounded = ALIGNMENT;
        return 0;
    }
    size_t n = bytes - 1;
    int top = 63 - __builtin_clzll((unsigned long long)n); /* n in [2^top, 2^(top+1)) */
    size_t quarter = (size_t)1 << (top - 2);
    size_t steps = n / quarter - 3; /* 1 .. 4: how many quarters above 2^top */
    *rounded = ((size_t)1 << top) + steps * quarter;
    *rounded = (*rounded + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; /* as aligned_alloc and the arena need it */
    return (top - 6) * 4 + (int)steps; /* top is at least 6 */
}

static mocl_status open_cpu(mocl_device *dev) {
    snprintf(dev->name, sizeof dev->name, dev->kind == MOCL_DEVICE_CPU ? "cpu" : "fake");
    dev->k = mk_cpu_table();
    if (mk_exec_open(&dev->exec, dev->ctx->n_threads))
        return mocl_fail(dev->ctx, MOCL_E_NOMEM, "cannot start %d threads: too little memory, or more than the system allows; ask for fewer",
                         dev->ctx->n_threads);
    dev->exec.blas = (mk_blas)dev->ctx->blas;
    if (dev->kind == MOCL_DEVICE_FAKE) {
        dev->arena = mmap(NULL, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (dev->arena == MAP_FAILED) {
            mk_exec_close(&dev->exec);
            return mocl_fail(dev->ctx, MOCL_E_NOMEM, "device fake: cannot reserve %zu bytes of addresses",
                             ARENA_BYTES);
        }
        dev->arena_size = ARENA_BYTES;
    }
    return MOCL_OK;
}

mocl_status mocl_device_bf16(mocl_device *dev, const char *what) {
    char text[512];
    if (!dev->k->bf16)
        return mocl_fail(dev->ctx, MOCL_E_DEVICE, "%s: bf16 is storage alone on %s in this build; convert with :to('f32'), or use dtype=f32",
                         what, dev->name);
    if (dev->k != mk_cpu_table() || mk_bf16_describe(NULL, 0)) return MOCL_OK;
    mk_bf16_describe(text, sizeof text);
    return mocl_fail(dev->ctx, MOCL_E_DEVICE, "%s: bf16 on %s is %s", what, dev->name, text);
}

static mocl_status open_cuda(mocl_device *dev, int index) {
    MOCL_TRY(mocl_cuda_open(dev->ctx, index, &dev->exec, &dev->cuda));
    dev->k = dev->cuda->table;
    dev->index = index;
    snprintf(dev->name, sizeof dev->name, "cuda:%d", index);
    return MOCL_OK;
}

static void os_free(mocl_device *dev, void *p, size_t bytes) {
    mocl_account *account = dev->ctx->account;
    if (dev->kind == MOCL_DEVICE_CPU) {
        mocl_aligned_free(account, p, bytes);
        return;
    }
    if (dev->cuda) dev->cuda->free(&dev->exec, p); /* fake: the arena goes back as a whole */
    mocl_account_give(account, bytes);
}

static void free_cached(mocl_device *dev) {
    for (int i = 0; i < MOCL_DEVICE_BINS; i++) {
        for (mocl_block *b = dev->bins[i], *next; b; b = next) {
            next = b->next;
            os_free(dev, b->p, b->bytes);
            free(b);
        }
        dev->bins[i] = NULL;
    }
    dev->cached = 0;
}

static void close_device(mocl_device *dev) {
    free_cached(dev);
    if (dev->arena) munmap(dev->arena, dev->arena_size);
    if (dev->cuda) dev->cuda->close(&dev->exec);
    else mk_exec_close(&dev->exec);
    mocl_free(dev);
}

static mocl_status open_device(mocl_device **out, mocl_ctx *ctx, int kind, int index) {
    mocl_device *dev = mocl_calloc(ctx, 1, sizeof *dev);
    *out = NULL;
    if (!dev) return mocl_nomem(ctx, sizeof *dev);
    dev->ctx = ctx;
    dev->kind = kind;
    mocl_status st = kind == MOCL_DEVICE_CUDA ? open_cuda(dev, index) : open_cpu(dev);
    if (st) {
        mocl_free(dev);
        return st;
    }
    ctx->device[kind] = *out = dev;
    ctx->close_device = close_device;
    return MOCL_OK;
}

mocl_status mocl_device_get(mocl_device **out, mocl_ctx *ctx, int kind) {
    *out = ctx->device[kind];
    return *out ? MOCL_OK : open_device(out, ctx, kind, 0);
}

mocl_status mocl_device_parse(mocl_device **out, mocl_ctx *ctx, const char *name) {
    *out = NULL;
    if (strcmp(name, "cpu") == 0) return mocl_device_get(out, ctx, MOCL_DEVICE_CPU);
    if (strcmp(name, "fake") == 0) return mocl_device_get(out, ctx, MOCL_DEVICE_FAKE);
    int index = 0, used = 0;
    bool plain = strcmp(name, "cuda") == 0;
    if (!plain && !(sscanf(name, "cuda:%3d%n", &index, &used) == 1 && name[used] == '\0' && name[5] >= '0' && name[5] <= '9'))
        return mocl_fail(ctx, MOCL_E_ARG, "unknown device '%s' (cpu, cuda or cuda:N)", name);
    mocl_device *have = ctx->device[MOCL_DEVICE_CUDA];
    if (!have) return open_device(out, ctx, MOCL_DEVICE_CUDA, index);
    if (!plain && have->index != index)
        return mocl_fail(ctx, MOCL_E_DEVICE, "device '%s' is not available: this state has opened %s, and it uses one CUDA "
                                             "device; start another process for the other", name, have->name);
    *out = have;
    return MOCL_OK;
}

void mocl_device_flush(mocl_device *dev) {
    if (dev->kind != MOCL_DEVICE_FAKE) free_cached(dev); /* its blocks are not given back one by one */
}

static void *from_device(mocl_device *dev, size_t bytes) {
    if (dev->cuda) return dev->cuda->alloc(&dev->exec, bytes);
    if (dev->arena_size - dev->arena_used < bytes) return NULL;
    void *p = dev->arena + dev->arena_used;
    size_t page = 4096, first = dev->arena_used / page * page;
    dev->arena_used += bytes;
    /* what is in use is protected as a whole, so a new page takes the state of the others */
    if (dev->depth > 0 &&
        mprotect(dev->arena + first, (dev->arena_used + page - 1) / page * page - first,
                 PROT_READ | PROT_WRITE))
        return NULL;
    return p;
}

/* asked: of bytes, those that will be used */
static void *os_alloc(mocl_device *dev, size_t bytes, size_t asked) {
    mocl_account *account = dev->ctx->account;
    if (dev->kind == MOCL_DEVICE_CPU) return mocl_aligned_alloc(account, bytes, asked);
    if (!mocl_account_take(account, bytes)) return NULL;
    void *p = from_device(dev, bytes);
    if (!p) mocl_account_give(account, bytes);
    return p;
}

/* bytes behind a block that tell of a kernel writing there */
static size_t guard_bytes(const mocl_device *dev) {
    return dev->kind == MOCL_DEVICE_FAKE || (dev->cuda && dev->cuda->mark) ? GUARD_BYTES : 0;
}

static mocl_status faulted(mocl_device *dev, const char *name) {
    const char *fault = dev->cuda->fault(&dev->exec);
    return mocl_fail(dev->ctx, MOCL_E_DEVICE, "%s: device %s has failed and cannot be used any more in this process; first "
                                              "fault: %s", name, dev->name, fault ? fault : "unknown");
}

/* ", free N of N on the device" */
static const char *free_text(mocl_device *dev, char buf[96]) {
    size_t free_now = 0, total = 0;
    buf[0] = '\0';
    if (dev->cuda) {
        dev->cuda->memory(&dev->exec, &free_now, &total);
        snprintf(buf, 96, ", free %zu of %zu", free_now, total);
    }
    return buf;
}

/* ", cap N" */
static const char *limit_text(const mocl_device *dev, char buf[48]) {
    snprintf(buf, 48, dev->limit ? ", cap %zu" : "", dev->limit);
    return buf;
}

mocl_status mocl_device_alloc(void **out, mocl_device *dev, size_t bytes) {
    mocl_ctx *ctx = dev->ctx;
    char text[96], cap[48];
    size_t rounded, guard = guard_bytes(dev);
    *out = NULL;
    if (bytes > ARENA_BYTES)
        return mocl_fail(ctx, MOCL_E_NOMEM, "device %s: %zu bytes are more than any machine here has",
                         dev->name, bytes);
    int bin = size_class(bytes + guard, &rounded);
    if (!mocl_may_alloc(ctx)) goto nomem;
    if (dev->limit && dev->live + rounded > dev->limit) goto nomem;
    if (dev->limit && !dev->bins[bin] && dev->live + dev->cached + rounded > dev->limit) mocl_device_flush(dev);
    mocl_block *b = dev->bins[bin];
    if (b) {
        dev->bins[bin] = b->next;
        dev->cached -= rounded;
        *out = b->p;
        free(b);
    } else {
        *out = os_alloc(dev, rounded, bytes);
        if (!*out) {
            mocl_device_flush(dev);
            *out = os_alloc(dev, rounded, bytes);
        }
        if (!*out) goto nomem;
    }
    dev->live += rounded;
    if (dev->live > dev->peak) dev->peak = dev->live;
    if (guard && dev->cuda) {
        dev->cuda->mark(*out, bytes, rounded);
    } else if (guard) {
        mocl_device_enter(dev);
        memset((char *)*out + bytes, GUARD_VALUE, rounded - bytes);
        mocl_device_leave(dev);
    }
    return MOCL_OK;
nomem:
    if (dev->cuda && dev->cuda->fault(&dev->exec)) return faulted(dev, "alloc");
    return mocl_fail(ctx, MOCL_E_NOMEM,
                     "device %s is out of memory: wanted %zu bytes, live %zu, cached %zu%s%s; " MOCL_NOMEM_CURE
                     ", or release tensors earlier (tensor.scope)",
                     dev->name, bytes, dev->live, dev->cached, free_text(dev, text), limit_text(dev, cap));
}

/* true if a kernel wrote behind the block */
static bool guard_is_broken(mocl_device *dev, unsigned char *p, size_t bytes, size_t rounded) {
    bool broken = false;
    if (dev->cuda) return dev->cuda->check(p, bytes, rounded);
    mocl_device_enter(dev);
    for (size_t i = bytes; i < rounded && !broken; i++) broken = p[i] != GUARD_VALUE;
    mocl_device_leave(dev);
    return broken;
}

void mocl_device_free(mocl_device *dev, void *p, size_t bytes) {
    if (!p) return;
    size_t rounded, guard = guard_bytes(dev);
    int bin = size_class(bytes + guard, &rounded);
    if (guard && guard_is_broken(dev, p, bytes, rounded)) dev->broken_guards++;
    dev->live -= rounded;
    mocl_block *b = malloc(sizeof *b);
    if (!b) { /* no room to remember it: give it back at once */
        os_free(dev, p, rounded);
        return;
    }
    b->p = p;
    b->bytes = rounded;
    b->next = dev->bins[bin];
    dev->bins[bin] = b;
    dev->cached += rounded;
}

static void protect_arena(mocl_device *dev, int protection) {
    size_t page = 4096, used = (dev->arena_used + page - 1) / page * page;
    if (used) mprotect(dev->arena, used, protection);
}

void mocl_device_enter(mocl_device *dev) {
    if (dev->kind == MOCL_DEVICE_FAKE && dev->depth++ == 0) protect_arena(dev, PROT_READ | PROT_WRITE);
}

void mocl_device_leave(mocl_device *dev) {
    if (dev->kind == MOCL_DEVICE_FAKE && --dev->depth == 0) protect_arena(dev, PROT_NONE);
}

mocl_status mocl_device_upload(mocl_device *dev, void *dst, const void *src, size_t bytes) {
    if (dev->cuda) return mocl_kernel_end(dev, "upload", dev->cuda->upload(&dev->exec, dst, src, bytes));
    mocl_device_enter(dev);
    if (bytes) memcpy(dst, src, bytes);
    mocl_device_leave(dev);
    return MOCL_OK;
}

mocl_status mocl_device_download(mocl_device *dev, void *dst, const void *src, size_t bytes) {
    if (dev->cuda) {
        dev->waits++;
        return mocl_kernel_end(dev, "download", dev->cuda->download(&dev->exec, dst, src, bytes));
    }
    return mocl_device_upload(dev, dst, src, bytes);
}

mocl_status mocl_kernel_end(mocl_device *dev, const char *name, int code) {
    mocl_device_leave(dev);
    switch (code) {
    case MK_OK: return MOCL_OK;
    case MK_NOMEM:
        return mocl_fail(dev->ctx, MOCL_E_NOMEM, "%s: device %s is out of memory: wanted %zu bytes of scratch; " MOCL_NOMEM_CURE, name,
                         dev->name, dev->exec.refused);
    case MK_ABSENT:
        return mocl_fail(dev->ctx, MOCL_E_DEVICE, "%s: device %s has no kernel for it; use device=cpu", name, dev->name);
    case MK_UNSUPPORTED:
        return mocl_fail(dev->ctx, MOCL_E_DEVICE, "%s: sizes beyond what device %s computes (docs/cuda.md has the limits); "
                                                  "use device=cpu", name, dev->name);
    default:
        if (dev->cuda) return faulted(dev, name);
        return mocl_fail(dev->ctx, MOCL_E_DEVICE, "%s: device %s failed (code %d)", name, dev->name, code);
    }
}
