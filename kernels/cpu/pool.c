/* pool.c - the threads that run pieces of kernels, and the scratch memory kernels borrow.
**
** The pieces of a job are shared out in order: the first of W threads begins with the first W-th of them, and so
** on, and a thread that is through goes on with what the others have left. Kernels cut rows in order too, so that
** a row of one kernel's output mostly is where the next one reads it: in the cache of the same processor.
**
** A share is one 64-bit ticket: the number of the job in the high half, its pieces not yet taken in the low
** half. A thread takes a piece by lowering the ticket with compare-and-swap. It succeeds only while that job
** still has pieces, so the job's other fields cannot have been replaced since they were read, and the
** caller need not wait for idle workers to look away before it starts the next job.
**
** A child that fork made has none of the threads, and what the pool says of them is not so there. It is told by a page that
** the system empties in a child; the pool then begins anew at the first job, and its end waits for nobody.
*/
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu.h"

/* A pause lasts 10 to 70 nanoseconds, depending on the CPU. */
#define SPINS_WORKER 1000 /* looks at the ticket before sleeping */
#define SPINS_CALLER 2000 /* looks at the counter before giving up the time slice */
#define PIECES_MAX 0x7fffffff

struct share {
    _Alignas(64) _Atomic uint64_t ticket;
    pthread_t thread; /* unused in the first, which is the caller's */
    struct mk_pool *pool;
};

struct mk_pool {
    _Alignas(64) _Atomic uint64_t job; /* its number; stored when its tickets are out */
    _Alignas(64) _Atomic int64_t done;
    _Alignas(64) _Atomic(mk_piece) fn;
    _Atomic(void *) arg;
    _Atomic int64_t base, count; /* the job is pieces base .. base + count - 1 */
    _Atomic int busy, sleepers, stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int threads; /* with the caller */
    int wanted;  /* the threads it was opened with; a child may get fewer */
    _Atomic int *mine; /* in a page of its own: 1, and 0 in a child; NULL where the system has no such pages */
    pid_t pid;         /* tells a child there */
    struct share share[];
};

enum { PAGE = 4096 };

static int in_child(struct mk_pool *p) {
    return p->mine ? !atomic_load_explicit(p->mine, memory_order_relaxed) : getpid() != p->pid;
}

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* the first piece of share k */
static int64_t share_start(const struct mk_pool *p, int64_t count, int k) {
    return count / p->threads * k + mk_min(k, count % p->threads);
}

/* Takes one piece of share k of the current job and runs it; 0 when there is none left. */
static int take_from(struct mk_pool *p, int k) {
    _Atomic uint64_t *ticket = &p->share[k].ticket;
    uint64_t t = atomic_load_explicit(ticket, memory_order_acquire);
    while ((uint32_t)t != 0) {
        mk_piece fn = atomic_load_explicit(&p->fn, memory_order_acquire);
        void *arg = atomic_load_explicit(&p->arg, memory_order_acquire);
        int64_t base = atomic_load_explicit(&p->base, memory_order_acquire);
        int64_t count = atomic_load_explicit(&p->count, memory_order_acquire);
        if (atomic_compare_exchange_weak_explicit(ticket, &t, t - 1, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            fn(arg, base + share_start(p, count, k + 1) - (int64_t)(uint32_t)t);
            atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
            return 1;
        }
    }
    return 0;
}

/* Runs pieces until the job has none left: those of thread k's share, then those of the next ones. */
static void take_all(struct mk_pool *p, int k) {
    for (int i = 0; i < p->threads; i++)
        while (take_from(p, (k + i) % p->threads)) {
        }
}

static int idle(struct mk_pool *p, uint64_t seen) {
    return atomic_load_explicit(&p->job, memory_order_acquire) == seen &&
           !atomic_load_explicit(&p->stop, memory_order_acquire);
}

static void *work(void *arg) {
    struct share *mine = arg;
    struct mk_pool *p = mine->pool;
    uint64_t seen = 0;
    while (!atomic_load_explicit(&p->stop, memory_order_acquire)) {
        uint64_t job = atomic_load_explicit(&p->job, memory_order_acquire);
        if (job != seen) {
            take_all(p, (int)(mine - p->share));
            seen = job;
            continue;
        }
        int spins = 0;
        while (spins < SPINS_WORKER && idle(p, seen)) {
            relax();
            spins++;
        }
        if (spins < SPINS_WORKER) continue;
        pthread_mutex_lock(&p->lock);
        atomic_fetch_add(&p->sleepers, 1);
        /* sequentially consistent with the caller's store of the job and load of sleepers: one of the two
        ** sees the other */
        while (atomic_load(&p->job) == seen && !atomic_load(&p->stop))
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
    uint64_t job = atomic_load_explicit(&p->job, memory_order_relaxed) + 1;
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    atomic_store_explicit(&p->fn, fn, memory_order_release);
    atomic_store_explicit(&p->arg, arg, memory_order_release);
    atomic_store_explicit(&p->base, base, memory_order_release);
    atomic_store_explicit(&p->count, count, memory_order_release);
    for (int k = 0; k < p->threads; k++) {
        uint64_t pieces = (uint64_t)(share_start(p, count, k + 1) - share_start(p, count, k));
        atomic_store_explicit(&p->share[k].ticket, job << 32 | pieces, memory_order_release);
    }
    atomic_store(&p->job, job);
    if (atomic_load(&p->sleepers) > 0) wake_all(p);
    take_all(p, 0);
    for (int spins = 0; atomic_load_explicit(&p->done, memory_order_acquire) < count; spins++) {
        if (spins < SPINS_CALLER)
            relax();
        else
            sched_yield();
    }
}

/* Locks and threads, as many of those wanted as there can be; nonzero where the locks cannot be made. */
static int start(struct mk_pool *p) {
    if (pthread_mutex_init(&p->lock, NULL)) return 1;
    if (pthread_cond_init(&p->wake, NULL)) {
        pthread_mutex_destroy(&p->lock);
        return 1;
    }
    for (p->threads = 1; p->threads < p->wanted; p->threads++) {
        struct share *own = &p->share[p->threads];
        own->pool = p;
        if (pthread_create(&own->thread, NULL, work, own)) break;
    }
    return 0;
}

/* In a child: as at the beginning. The parent's locks are left as they are. */
static int start_in_child(struct mk_pool *p) {
    for (int k = 0; k < p->wanted; k++) atomic_store(&p->share[k].ticket, 0);
    atomic_store(&p->job, 0);
    atomic_store(&p->sleepers, 0);
    atomic_store(&p->stop, 0);
    atomic_store(&p->busy, 0);
    if (start(p)) return 1;
    if (p->mine) atomic_store(p->mine, 1);
    p->pid = getpid();
    return 0;
}

static void pool_free(struct mk_pool *p) {
    if (!in_child(p)) {
        atomic_store(&p->stop, 1);
        wake_all(p);
        for (int k = 1; k < p->threads; k++) pthread_join(p->share[k].thread, NULL);
        pthread_cond_destroy(&p->wake);
        pthread_mutex_destroy(&p->lock);
    }
    if (p->mine) munmap((void *)p->mine, PAGE);
    free(p);
}

void mk_parallel(mk_exec *e, int64_t n, mk_piece fn, void *arg) {
    struct mk_pool *p = e->pool;
    if (n <= 1 || !p || (in_child(p) && start_in_child(p)) || atomic_exchange(&p->busy, 1)) {
        for (int64_t i = 0; i < n; i++) fn(arg, i);
        return;
    }
    for (int64_t base = 0; base < n; base += PIECES_MAX)
        run_job(p, base, mk_min(n - base, PIECES_MAX), fn, arg);
    atomic_store(&p->busy, 0);
}

int mk_exec_open(mk_exec *e, int n_threads) {
    memset(e, 0, sizeof *e);
    if (n_threads <= 1) return MK_OK;
    size_t bytes = sizeof(struct mk_pool) + (size_t)n_threads * sizeof(struct share);
    struct mk_pool *p = aligned_alloc(64, bytes);
    if (!p) return MK_NOMEM;
    memset(p, 0, bytes);
    p->wanted = n_threads;
    p->pid = getpid();
#ifdef MADV_WIPEONFORK
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page != MAP_FAILED && madvise(page, PAGE, MADV_WIPEONFORK) == 0) {
        p->mine = page;
        atomic_store(p->mine, 1);
    } else if (page != MAP_FAILED) {
        munmap(page, PAGE);
    }
#endif
    if (start(p)) {
        if (p->mine) munmap((void *)p->mine, PAGE);
        free(p);
        return MK_NOMEM;
    }
    if (p->threads < n_threads) {
        pool_free(p);
        return MK_NOMEM;
    }
    e->pool = p;
    return MK_OK;
}

void mk_exec_close(mk_exec *e) {
    if (e->pool) pool_free(e->pool);
    free(e->scratch);
    memset(e, 0, sizeof *e);
}

int mk_threads(const mk_exec *e) { return e->pool ? e->pool->threads : 1; }

void *mk_scratch(mk_exec *e, size_t bytes) {
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
    double grains = (double)n * ns / MK_GRAIN_NS;
    if (grains < 2) return mk_max(n, 1);
    /* an even number of blocks, so that two threads have as much each, and no more than 64: enough to balance, few
    ** enough to hand out */
    int64_t blocks = grains < 64 ? (int64_t)(grains / 2) * 2 : 64;
    return mk_ceil_div(n, blocks);
}

void mk_for(mk_exec *e, int64_t n, double ns, mk_range fn, void *arg) {
    struct range_job j = {fn, arg, n, mk_block(n, ns)};
    mk_parallel(e, mk_ceil_div(n, j.block), range_piece, &j);
}

mk_real *mk_rooms(mk_exec *e, int64_t n, double ns, int64_t size, int64_t other, int64_t *block) {
    *block = mk_block(n, ns);
    return mk_scratch(e, (size_t)(mk_ceil_div(n, *block) * size + other) * sizeof(mk_real));
}
