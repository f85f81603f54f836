/* base.c - context, error text, host memory, interruption */
#define _GNU_SOURCE
#include "base.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int cpus_available(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 1 ? 1 : n > 64 ? 64 : n;
}

mocl_status mocl_ctx_new(mocl_ctx **out, int n_threads) {
    mocl_ctx *ctx = calloc(1, sizeof *ctx);
    *out = ctx;
    if (!ctx) return MOCL_E_NOMEM;
    ctx->n_threads = n_threads > 0 ? n_threads : cpus_available();
    ctx->grad_enabled = true;
    ctx->fail_after = -1;
    return MOCL_OK;
}

void mocl_ctx_free(mocl_ctx *ctx) {
    if (!ctx) return;
    for (int i = 0; i < MOCL_DEVICE_COUNT; i++)
        if (ctx->device[i]) ctx->close_device(ctx->device[i]);
    mocl_free(ctx->file_hashes);
    free(ctx);
}

mocl_status mocl_fail(mocl_ctx *ctx, mocl_status status, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(ctx->message, sizeof ctx->message, fmt, ap);
    va_end(ap);
    ctx->status = status;
    return status;
}

mocl_status mocl_nomem(mocl_ctx *ctx, size_t wanted) {
    return mocl_fail(ctx, MOCL_E_NOMEM, "out of host memory: wanted %zu bytes; " MOCL_NOMEM_CURE, wanted);
}

void mocl_clear(mocl_ctx *ctx) {
    ctx->message[0] = '\0';
    ctx->status = MOCL_OK;
}

void mocl_ctx_interrupt(mocl_ctx *ctx) { atomic_store(&ctx->interrupt, 1); }

mocl_status mocl_poll(mocl_ctx *ctx) {
    if (!atomic_load_explicit(&ctx->interrupt, memory_order_relaxed)) return MOCL_OK;
    atomic_store(&ctx->interrupt, 0);
    return mocl_fail(ctx, MOCL_E_INTERRUPT, "interrupted!");
}

void mocl_fail_after(mocl_ctx *ctx, int64_t n) { ctx->fail_after = n; }

bool mocl_may_alloc(mocl_ctx *ctx) {
    ctx->allocations++;
    if (ctx->fail_after < 0) return true;
    if (ctx->fail_after == 0) return false;
    ctx->fail_after--;
    return true;
}

void *mocl_alloc(mocl_ctx *ctx, size_t bytes) {
    return mocl_may_alloc(ctx) ? malloc(bytes ? bytes : 1) : NULL;
}

void *mocl_calloc(mocl_ctx *ctx, size_t count, size_t size) {
    return mocl_may_alloc(ctx) ? calloc(count ? count : 1, size ? size : 1) : NULL;
}

void *mocl_realloc(mocl_ctx *ctx, void *p, size_t bytes) {
    return mocl_may_alloc(ctx) ? realloc(p, bytes ? bytes : 1) : NULL;
}

char *mocl_strdup(mocl_ctx *ctx, const char *s) {
    size_t n = strlen(s) + 1;
    char *copy = mocl_alloc(ctx, n);
    if (copy) memcpy(copy, s, n);
    return copy;
}

void mocl_free(void *p) { free(p); }
