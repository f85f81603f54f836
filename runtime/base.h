/* base.h - the context, status codes, error messages, host memory and interruption.
**
** Every core function that can fail returns a status (0 = ok) and writes one line of text into the
** context. Nothing here or below prints, exits or aborts: a guest never kills its host.
*/
#ifndef MOCL_BASE_H
#define MOCL_BASE_H

#include <stdatomic.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum mocl_status {
    MOCL_OK = 0,
    MOCL_E_SHAPE,     /* sizes do not fit each other: the caller's mistake */
    MOCL_E_ARG,       /* an argument has a wrong value: the caller's mistake */
    MOCL_E_IO,        /* the world refused: file missing, disk full, ... */
    MOCL_E_FORMAT,    /* a file is not what it should be */
    MOCL_E_NOMEM,     /* host or device memory ran out */
    MOCL_E_DEVICE,    /* the device failed or is not there */
    MOCL_E_INTERRUPT, /* mocl_interrupt was called */
    MOCL_E_SCRIPT,    /* a Lua script failed: the message is its error */
    MOCL_E_INTERNAL   /* a bug in mocl */
} mocl_status;

/* What a context has of memory, and who gives it: what the runtime allocates, tensors, and what Lua needs. */
typedef struct mocl_account {
    size_t used, limit; /* bytes; limit 0 = none */
    size_t refused;     /* bytes the limit has refused and that were not granted since; 0 = none */
    void *(*alloc)(void *data, void *p, size_t old_bytes, size_t bytes); /* as mocl_options.alloc; NULL = malloc */
    void *data;
} mocl_account;

struct mocl_device;

enum { MOCL_DEVICE_CPU, MOCL_DEVICE_FAKE, MOCL_DEVICE_CUDA, MOCL_DEVICE_COUNT };

/* All state hangs off one context. One native thread at a time may use it; two contexts in two
** threads are independent. Only `interrupt` may be written from elsewhere (a signal handler, another
** thread). */
typedef struct mocl_ctx {
    char message[1024];               /* text of the last failure, empty after mocl_clear */
    mocl_status status;               /* its code */
    atomic_int interrupt;             /* set by mocl_ctx_interrupt, cleared when it is reported */
    struct mocl_device *device[MOCL_DEVICE_COUNT]; /* opened on first use, owned */
    void (*close_device)(struct mocl_device *);    /* set by device.c when it opens one */
    int n_threads;                    /* threads for CPU kernels; fixed at creation */
    int blas;                         /* what computes large matmuls: mk_blas of kernels.h */
    bool grad_enabled;                /* autograd records nodes while true */
    bool more_rows;                   /* during a backward pass that others of the same batch follow (autograd.h) */
    uint64_t node_seq;                /* number of the next autograd node */
    struct mocl_node *dying;          /* autograd nodes waiting to be freed, see autograd.c */
    bool reaping;                     /* they are being freed */
    int64_t live_tensors;             /* tensors that have not been freed */
    mocl_account *account;            /* of whoever created the context, and outlives it; NULL = none is kept */
    int64_t deadline;                 /* when mocl_poll fails, of mocl_clock; 0 = never */
    int64_t fail_after;               /* fault injection: allocations left to succeed; -1 = off */
    int64_t allocations;              /* allocations asked for since creation */
    struct mocl_file_hashes *file_hashes; /* what file_hash.c remembers, owned; NULL = nothing yet */
    int hash_passing;                 /* > 0: readers and writers of whole files hash them, see file_hash.h */
    void *host;                       /* belongs to whoever created the context */
} mocl_ctx;

/* *out receives a new context (NULL on failure). n_threads 0 = one per CPU available.
** Free with mocl_ctx_free (NULL is fine). */
mocl_status mocl_ctx_new(mocl_ctx **out, int n_threads);
void mocl_ctx_free(mocl_ctx *ctx);

/* Record a failure and return `status`, so that callers write `return mocl_fail(ctx, ...)`.
** Style of the text: lower case, no full stop, operation first, both values, the cure. */
mocl_status mocl_fail(mocl_ctx *ctx, mocl_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* A number as it is shown: a NaN without its sign, which printf would write and which depends on the machine. */
static inline double mocl_shown(double v) { return v != v ? fabs(v) : v; }
#define MOCL_NOMEM_CURE "use smaller batches, shorter texts or a smaller model"
mocl_status mocl_nomem(mocl_ctx *ctx, size_t wanted); /* the standard text for exhausted host memory */
void mocl_clear(mocl_ctx *ctx);

/* Async-signal-safe and thread-safe. The next poll reports MOCL_E_INTERRUPT once. */
void mocl_ctx_interrupt(mocl_ctx *ctx);
mocl_status mocl_poll(mocl_ctx *ctx);
int64_t mocl_clock(void); /* nanoseconds of a clock that is never set */

/* Host memory, counted and subject to fault injection. Return NULL when there is none (no message
** is written). Free with mocl_free. mocl_calloc checks count * size for overflow. */
void *mocl_alloc(mocl_ctx *ctx, size_t bytes);
void *mocl_calloc(mocl_ctx *ctx, size_t count, size_t size);
void *mocl_realloc(mocl_ctx *ctx, void *p, size_t bytes);
char *mocl_strdup(mocl_ctx *ctx, const char *s);
void mocl_free(void *p);

/* Memory of an account, below those: p NULL = a new block, bytes 0 = free it. NULL where its limit or the machine has no
** more. A block that shrinks is never refused. */
void *mocl_account_realloc(mocl_account *a, void *p, size_t old_bytes, size_t bytes);
/* A block whose address is a multiple of 64; account may be NULL. `used`: of bytes, those that will be used. */
void *mocl_aligned_alloc(mocl_account *account, size_t bytes, size_t used);
void mocl_aligned_free(mocl_account *account, void *p, size_t bytes);
/* For memory that the account cannot give: only counts it. false where the limit refuses. */
bool mocl_account_take(mocl_account *a, size_t bytes);
void mocl_account_give(mocl_account *a, size_t bytes);

/* Fault injection (tests): the n-th allocation from now fails, and each one after it. -1 = off.
** Every allocator in the runtime asks mocl_may_alloc first. */
void mocl_fail_after(mocl_ctx *ctx, int64_t n);
bool mocl_may_alloc(mocl_ctx *ctx);

/* false if a * b overflows; else *out = a * b */
static inline bool mocl_mul(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

#define MOCL_TRY(call)                              \
    do {                                            \
        mocl_status try_status_ = (call);           \
        if (try_status_) return try_status_;        \
    } while (0)

/* the same inside a function with a clean-up label; needs `mocl_status st` in scope */
#define MOCL_GOTO(call, label)      \
    do {                            \
        st = (call);                \
        if (st) goto label;         \
    } while (0)

#endif
