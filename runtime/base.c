/* base.c - context, error text, host memory, interruption */
#define _GNU_SOURCE
#include "base.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

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

int64_t mocl_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

mocl_status mocl_poll(mocl_ctx *ctx) {
    if (ctx->deadline && mocl_clock() >= ctx->deadline) return mocl_fail(ctx, MOCL_E_INTERRUPT, "the limit of time is reached");
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

/* ---- accounts ---- */

bool mocl_account_take(mocl_account *a, size_t bytes) {
    if (!a) return true;
    if (a->limit && (a->used > a->limit || bytes > a->limit - a->used)) {
        if (bytes > a->refused) a->refused = bytes;
        return false;
    }
    if (bytes >= a->refused) a->refused = 0;
    a->used += bytes;
    return true;
}

void mocl_account_give(mocl_account *a, size_t bytes) {
    if (a) a->used -= bytes;
}

static void *ask(mocl_account *a, void *p, size_t old_bytes, size_t bytes) {
    if (a && a->alloc) return a->alloc(a->data, p, old_bytes, bytes);
    if (bytes) return realloc(p, bytes);
    free(p);
    return NULL;
}

void *mocl_account_realloc(mocl_account *a, void *p, size_t old_bytes, size_t bytes) {
    size_t more = p ? (bytes > old_bytes ? bytes - old_bytes : 0) : bytes;
    size_t less = p && old_bytes > bytes ? old_bytes - bytes : 0;
    if (more && !mocl_account_take(a, more)) return NULL;
    void *fresh = ask(a, p, p ? old_bytes : 0, bytes);
    if (!fresh && bytes && less) return p; /* the count stays too */
    if (!fresh && more) mocl_account_give(a, more);
    if (fresh || !bytes) mocl_account_give(a, less);
    return fresh;
}

enum { LINE = 64 };
#define HUGE_PAGE ((size_t)2 << 20) /* the size of a huge page of x86-64 and of most others */

/* A large block lies in huge pages where the system gives them: weights that are read from end to end for each token come through
** them up to 1.7 times as fast (docs/benchmarks/quantised.md). No page reaches behind the bytes that will be used. */
static void *lines_alloc(size_t bytes, size_t used) {
    void *p; /* not by aligned_alloc, whose size has to be a multiple of the alignment: a huge page could be lost at the end */
    if (posix_memalign(&p, used < HUGE_PAGE ? LINE : HUGE_PAGE, bytes)) return NULL;
#ifdef MADV_HUGEPAGE
    if (used >= HUGE_PAGE) madvise(p, used / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE); /* where it cannot, they are small ones */
#endif
    return p;
}

void *mocl_aligned_alloc(mocl_account *account, size_t bytes, size_t used) {
    if (!account || !account->alloc) {
        if (!mocl_account_take(account, bytes)) return NULL;
        void *p = lines_alloc(bytes, used);
        if (!p) mocl_account_give(account, bytes);
        return p;
    }
    char *whole = mocl_account_realloc(account, NULL, 0, bytes + LINE + sizeof(char *));
    if (!whole) return NULL;
    char *p = whole + sizeof whole;
    p += (LINE - (uintptr_t)p % LINE) % LINE;
    memcpy(p - sizeof whole, &whole, sizeof whole);
    return p;
}

void mocl_aligned_free(mocl_account *account, void *p, size_t bytes) {
    char *whole;
    if (!p) return;
    if (!account || !account->alloc) {
        mocl_account_give(account, bytes);
        free(p);
        return;
    }
    memcpy(&whole, (char *)p - sizeof whole, sizeof whole);
    mocl_account_realloc(account, whole, bytes + LINE + sizeof whole, 0);
}

/* ---- memory of the host: in front of each block stands whose it is, so that it can be freed without its context ---- */

typedef union block {
    struct {
        mocl_account *account;
        size_t bytes; /* with this */
    } of;
    max_align_t align;
} block;

static void *new_block(mocl_ctx *ctx, size_t bytes) {
    size_t whole;
    if (!mocl_may_alloc(ctx) || __builtin_add_overflow(bytes, sizeof(block), &whole)) return NULL;
    block *b = mocl_account_realloc(ctx->account, NULL, 0, whole);
    if (!b) return NULL;
    b->of.account = ctx->account;
    b->of.bytes = whole;
    return b + 1;
}

void *mocl_alloc(mocl_ctx *ctx, size_t bytes) { return new_block(ctx, bytes ? bytes : 1); }

void *mocl_calloc(mocl_ctx *ctx, size_t count, size_t size) {
    size_t bytes;
    if (!mocl_mul(count ? count : 1, size ? size : 1, &bytes)) return NULL;
    void *p = new_block(ctx, bytes);
    return p ? memset(p, 0, bytes) : NULL;
}

void *mocl_realloc(mocl_ctx *ctx, void *p, size_t bytes) {
    size_t whole;
    if (!p) return mocl_alloc(ctx, bytes);
    if (!mocl_may_alloc(ctx) || __builtin_add_overflow(bytes ? bytes : 1, sizeof(block), &whole)) return NULL;
    block *b = (block *)p - 1;
    b = mocl_account_realloc(b->of.account, b, b->of.bytes, whole);
    if (!b) return NULL;
    b->of.bytes = whole;
    return b + 1;
}

char *mocl_strdup(mocl_ctx *ctx, const char *s) {
    size_t n = strlen(s) + 1;
    char *copy = mocl_alloc(ctx, n);
    if (copy) memcpy(copy, s, n);
    return copy;
}

void mocl_free(void *p) {
    if (!p) return;
    block *b = (block *)p - 1;
    mocl_account_realloc(b->of.account, b, b->of.bytes, 0);
}
