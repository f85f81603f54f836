/* env.c - the threads that run pieces of kernels, and the scratch memory kernels borrow.
**
** A job is one 64-bit ticket: its number in the high half, the pieces not yet taken in the low half.
** A thread takes a piece by lowering the ticket with compare-and-swap. It succeeds only while that job
** still has pieces, so the job's other fields cannot have been replaced since they were read, and the
** caller need not wait for idle workers to look away before it starts the next job.
*/
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "cpu.h"

/* A pause lasts 10 to 70 nanoseconds, depending on the CPU. */
#define SPINS_WORKER 1000 /* looks at the ticket before sleeping */
#define SPINS_CALLER 2000 /* looks at the counter before giving up the time slice */
#define PIECES_MAX 0x7fffffff

struct mk_pool {
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) _Atomic int64_t done;
    _Alignas(64) _Atomic(mk_piece) fn;
    _Atomic(void *) arg;
    _Atomic int64_t base, count; /* the job is pieces base .. base + count - 1 */
    _Atomic int busy, sleepers, stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int n_workers;
    pthread_t worker[];
};

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Takes one piece of the current job and runs it; 0 when there is none left. */
static int take(struct mk_pool *p) {
    uint64_t t = atomic_load_explicit(&p->ticket, memory_order_acquire);
    while ((uint32_t)t != 0) {
        mk_piece fn = atomic_load_explicit(&p->fn, memory_order_acquire);
        void *arg = atomic_load_explicit(&p->arg, memory_order_acquire);
        int64_t base = atomic_load_explicit(&p->base, memory_order_acquire);
        int64_t count = atomic_load_explicit(&p->count, memory_order_acquire);
        if (atomic_compare_exchange_weak_explicit(&p->ticket, &t, t - 1, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            fn(arg, base + count - (int64_t)(uint32_t)t);
            atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
            return 1;
        }
    }
    return 0;
}

static int idle(struct mk_pool *p) {
    return (uint32_t)atomic_load_explicit(&p->ticket, memory_order_acquire) == 0 &&
           !atomic_load_explicit(&p->stop, memory_order_acquire);
}

static void *work(void *arg) {
    struct mk_pool *p = arg;
    while (!atomic_load_explicit(&p->stop, memory_order_acquire)) {
        if (take(p)) continue;
        int spins = 0;
        while (spins < SPINS_WORKER && idle(p)) {
            relax();
            spins++;
        }
        if (spins < SPINS_WORKER) continue;
        pthread_mutex_lock(&p->lock);
        atomic_fetch_add(&p->sleepers, 1);
        /* sequentially consistent with the caller's store of the ticket and load of sleepers: one of
        ** the two sees the other */
        while ((uint32_t)atomic_load(&p->ticket) == 0 && !atomic_load(&p->stop))
            pthread_cond_wait(&p->wake, &p->lock);
        atomic_fetch_sub(&p->sleepers, 1);
        pthread_mutex_unlock(&p->lock);
    }
    return NULL;
}

static void wake_all(struct mk_pool *p) {
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static void run_job(struct mk_pool *p, int64_t base, int64_t count, mk_piece fn, void *arg) {
    uint64_t job = (atomic_load_explicit(&p->ticket, memory_order_relaxed) >> 32) + 1;
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    atomic_store_explicit(&p->fn, fn, memory_order_release);
    atomic_store_explicit(&p->arg, arg, memory_order_release);
    atomic_store_explicit(&p->base, base, memory_order_release);
    atomic_store_explicit(&p->count, count, memory_order_release);
    atomic_store(&p->ticket, job << 32 | (uint64_t)count);
    if (atomic_load(&p->sleepers) > 0) wake_all(p);
    while (take(p)) {
    }
    for (int spins = 0; atomic_load_explicit(&p->done, memory_order_acquire) < count; spins++) {
        if (spins < SPINS_CALLER)
            relax();
        else
            sched_yield();
    }
}

void mk_parallel(mk_env *e, int64_t n, mk_piece fn, void *arg) {
    struct mk_pool *p = e->pool;
    if (n <= 1 || !p || atomic_exchange(&p->busy, 1)) {
        for (int64_t i = 0; i < n; i++) fn(arg, i);
        return;
    }
    for (int64_t base = 0; base < n; base += PIECES_MAX)
        run_job(p, base, mk_min(n - base, PIECES_MAX), fn, arg);
    atomic_store(&p->busy, 0);
}

static void pool_free(struct mk_pool *p) {
    atomic_store(&p->stop, 1);
    wake_all(p);
    for (int i = 0; i < p->n_workers; i++) pthread_join(p->worker[i], NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

int mk_env_open(mk_env *e, int n_threads) {
    memset(e, 0, sizeof *e);
    if (n_threads <= 1) return MK_OK;
    size_t extra = (size_t)(n_threads - 1) * sizeof(pthread_t);
    size_t bytes = (sizeof(struct mk_pool) + extra + 63) / 64 * 64;
    struct mk_pool *p = aligned_alloc(64, bytes);
    if (!p) return MK_NOMEM;
    memset(p, 0, bytes);
    if (pthread_mutex_init(&p->lock, NULL)) {
        free(p);
        return MK_NOMEM;
    }
    if (pthread_cond_init(&p->wake, NULL)) {
        pthread_mutex_destroy(&p->lock);
        free(p);
        return MK_NOMEM;
    }
    for (; p->n_workers < n_threads - 1; p->n_workers++) {
        if (pthread_create(&p->worker[p->n_workers], NULL, work, p)) {
            pool_free(p);
            return MK_NOMEM;
        }
    }
    e->pool = p;
    return MK_OK;
}

void mk_env_close(mk_env *e) {
    if (e->pool) pool_free(e->pool);
    free(e->scratch);
    memset(e, 0, sizeof *e);
}

void *mk_scratch(mk_env *e, size_t bytes) {
    e->refused = bytes;
    if (bytes > e->scratch_bytes || !e->scratch) {
        if (bytes > SIZE_MAX / 2) return NULL;
        size_t want = bytes + bytes / 4 + 4096;
        want = (want + 63) / 64 * 64;
        void *fresh = aligned_alloc(64, want);
        if (!fresh) return NULL;
        free(e->scratch);
        e->scratch = fresh;
        e->scratch_bytes = want;
    }
    return e->scratch;
}

/* ---- cutting ranges ----------------------------------------------------------------------------- */

struct range_job {
    mk_range fn;
    void *arg;
    int64_t n, block;
};

static void range_piece(void *arg, int64_t i) {
    struct range_job *j = arg;
    j->fn(j->arg, i * j->block, mk_min((i + 1) * j->block, j->n));
}

int64_t mk_block(int64_t n, double ns) {
    double all = (double)n * ns;
    if (all < 2 * MK_GRAIN_NS) return mk_max(n, 1);
    double items = MK_GRAIN_NS / ns;
    /* no more than 64 blocks: enough to balance, few enough to hand out */
    return mk_max(mk_max((int64_t)items, mk_ceil_div(n, 64)), 1);
}

void mk_for(mk_env *e, int64_t n, double ns, mk_range fn, void *arg) {
    struct range_job j = {fn, arg, n, mk_block(n, ns)};
    mk_parallel(e, mk_ceil_div(n, j.block), range_piece, &j);
}
