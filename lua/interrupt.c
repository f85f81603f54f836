/* interrupt.c - stopping Lua code from a signal handler or another thread.
**
** A hook that is always on would halve the speed of Lua, so it is set on demand: mocl_interrupt
** raises the flag that native operations poll and sets a hook on every thread being resumed; the
** hook reports the flag at the next instruction. Lua allows lua_sethook in a signal handler of the
** thread that runs the state. From another thread two things could be freed under it, a coroutine
** and the call records that lua_sethook walks; moclL_realloc holds every free back meanwhile.
**
** Refuses: to stop C code that does not poll. A coroutine that foreign C code resumes is reached in the program
** mocl (resume.c), not in other programs.
*/
#define _POSIX_C_SOURCE 200809L
#include "interrupt.h"

#include <lualib.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "stop.h"
#include "mocl.h"

/* In a child of fork nobody is left to end what another thread had begun. */
static void wait_for_interrupters(moclL_host *h) {
    if (getpid() != h->pid) {
        h->pid = getpid();
        atomic_store(&h->hooking, 0);
    }
    while (atomic_load_explicit(&h->hooking, memory_order_acquire)) sched_yield();
}

/* the number of the spare block at p, or -1 */
static int spare_at(const moclL_host *h, const void *p) {
    uintptr_t first = (uintptr_t)h->spare, at = (uintptr_t)p;
    return at >= first && at < first + sizeof h->spare ? (int)((at - first) / MOCLL_SPARE_BYTES) : -1;
}

static void *take_spare(moclL_host *h, size_t bytes) {
    for (int i = 0; bytes <= MOCLL_SPARE_BYTES && i < MOCLL_SPARES; i++) {
        if (h->spare_taken[i]) continue;
        h->spare_taken[i] = true;
        return h->spare[i];
    }
    return NULL;
}

/* moclL_realloc for a block that is a spare one */
static void *leave_spare(moclL_host *h, int i, size_t old_bytes, size_t bytes) {
    void *fresh = bytes > MOCLL_SPARE_BYTES ? mocl_account_realloc(&h->account, NULL, 0, bytes) : bytes ? h->spare[i] : NULL;
    if (fresh && fresh != h->spare[i]) memcpy(fresh, h->spare[i], old_bytes);
    if (fresh != h->spare[i] && (fresh || !bytes)) h->spare_taken[i] = false;
    if (!fresh && bytes) h->refused = bytes;
    return fresh;
}

/* Adding nothing to `hooking` orders this free with the interrupter's adding one: either it comes before, then the
** interrupter no longer sees what was unlinked before this free; or after, then this sees `hooking`. A handler that
** runs on this thread ends before we go on, so the loop waits for other threads only. */
void *moclL_realloc(void *host, void *p, size_t old_bytes, size_t bytes) {
    moclL_host *h = host;
    if (h->stress && !p && old_bytes) {
        /* A new object (old_bytes is its type): Lua meets a refusal with a collection and a second try. Its string
        ** buffers, which call this too, do not. */
        h->refusing = !h->refusing && ++h->objects % (64 * h->stress) == 0;
        if (h->refusing) return NULL;
    }
    int spare = p ? spare_at(h, p) : -1;
    if (spare >= 0) return leave_spare(h, spare, old_bytes, bytes);
    if (bytes > 0) {
        void *fresh = mocl_account_realloc(&h->account, p, p ? old_bytes : 0, bytes); /* old_bytes may be a type */
        if (fresh) return fresh;
        if (!p && h->making_room && (fresh = take_spare(h, bytes))) return fresh;
        if (p && bytes <= old_bytes) return p; /* Lua relies on it that a block can shrink */
        h->refused = bytes;
        h->refused_by_limit = h->account.refused > 0;
        return NULL;
    }
    if (p) {
        if (atomic_fetch_add(&h->hooking, 0)) wait_for_interrupters(h);
        mocl_account_realloc(&h->account, p, old_bytes, 0);
    }
    return NULL;
}

void mocl_interrupt(mocl_ctx *ctx) {
    moclL_host *h = ctx->host;
    mocl_ctx_interrupt(ctx);
    atomic_fetch_add(&h->hooking, 1);
    moclL_hook_running(h);
    atomic_fetch_sub(&h->hooking, 1);
}

void moclL_end_interrupt(lua_State *L) {
    moclL_host *h = moclL_host_of(L);
    atomic_store(&h->raised, false);
    if (!h->ctx->interrupt) return;
    h->ctx->interrupt = 0;
    moclL_rest_hook(L);
}

static int now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int)((t.tv_sec % 1000000) * 1000 + t.tv_nsec / 1000000);
}

void moclL_acknowledge(moclL_host *h) {
    if (!h->ctx->interrupt) atomic_store(&h->raised, false);
}

bool moclL_notes_next(const moclL_host *h) { return atomic_load(&h->flag_mode) && !atomic_load(&h->signal); }

bool moclL_unanswered(const moclL_host *h) { return atomic_load(&h->raised); }

bool moclL_undelivered(const moclL_host *h) { return atomic_load(&h->raised) && atomic_load(&h->ctx->interrupt); }

moclL_verdict moclL_signal(moclL_host *h, int signal_number) {
    enum { SAME_MS = 100 };
    int now = now_ms(), age = now - atomic_load(&h->signal_ms);
    bool before = atomic_load(&h->signal) != 0;
    /* one that is sent to the process and to its group arrives twice */
    if (before && age >= 0 && age < SAME_MS) return MOCLL_GO_ON;
    if (atomic_load(&h->raised)) return MOCLL_END;
    atomic_store(&h->signal_ms, now);
    atomic_store(&h->signal, signal_number);
    if (atomic_load(&h->flag_mode) && !before) return MOCLL_GO_ON;
    atomic_store(&h->raised, true);
    mocl_interrupt(h->ctx);
    return atomic_load(&h->flag_mode) ? MOCLL_LOOK_AGAIN : MOCLL_GO_ON;
}

/* ---- who runs ---- */

void moclL_enter(moclL_host *h, lua_State *co) {
    int n = atomic_load_explicit(&h->n_running, memory_order_relaxed);
    if (n < MOCLL_MAX_RUNNING) atomic_store_explicit(&h->running[n], co, memory_order_release);
    atomic_store(&h->n_running, n + 1);
    moclL_enter_limits(h, co);
    if (h->ctx->interrupt || h->stop) moclL_hook(co); /* it came before this thread was in the list */
}

void moclL_leave(moclL_host *h) {
    atomic_fetch_sub(&h->n_running, 1);
}
