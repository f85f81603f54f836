/* state.h - a Lua state made by mocl_open: what hangs off it, protected calls, interruption.
**
** States made by somebody else (mocl.so inside a stock lua5.4) have no host: ctx->host is NULL.
*/
#ifndef MOCLL_STATE_H
#define MOCLL_STATE_H

#include <stdatomic.h>
#include <sys/types.h>

#include "moclL.h"

/* Lua allows 200 nested C calls and each resume is one; the program notes it twice (resume.c) */
enum { MOCLL_MAX_RUNNING = 400 };

enum { MOCLL_SPARES = 4, MOCLL_SPARE_BYTES = 96 /* a call record of Lua has 64 */ };

typedef struct moclL_host {
    mocl_ctx *ctx;  /* owned by the Lua state */
    lua_State *L;   /* owned */
    pid_t pid;      /* of the process that opened it, or of the child of fork that goes on with it */
    char *error;    /* text of the last failure, owned, NULL before the first */
    char short_error[256]; /* its beginning, where there was no memory for `error`; else empty */
    size_t refused; /* bytes of the last allocation for Lua that failed */
    /* While moclL_makeroom collects where there is no memory, Lua's calls of finalizers find theirs here: one that could not be
    ** called would be lost, and with it what it frees. */
    bool making_room;
    bool spare_taken[MOCLL_SPARES];
    _Alignas(16) char spare[MOCLL_SPARES][MOCLL_SPARE_BYTES];
    bool plain_interrupt; /* sys.on_interrupt("message"): an interruption is shown without place and traceback */
    bool interrupted; /* the last error that left a protected call was an interruption */
    lua_CFunction raises[2]; /* Lua's error and assert, by which code raises what it has chosen */

    /* MOCL_GC_STRESS=N, 0 = off: a full collection before every N-th tensor or other owner, and one without finalizers
    ** at every 64 N-th new object of Lua. For tests: what is freed too early, is freed now. */
    long stress, owners, objects;
    bool refusing; /* the allocation that Lua repeats after such a collection */

    /* interrupt.c: the threads being resumed, outermost first; [0] is the main thread. Written by
    ** the thread that runs Lua, read by whoever interrupts. */
    _Atomic(lua_State *) running[MOCLL_MAX_RUNNING];
    atomic_int n_running;
    atomic_int hooking; /* interrupters at work now; Lua frees nothing while there are any */

    /* signals, delivered by the executable */
    atomic_bool flag_mode;  /* sys.on_interrupt("flag") */
    atomic_int signal;      /* the last one, 0 = none */
    atomic_int signal_ms;   /* when it came */
    atomic_bool raised;     /* it interrupted the script, which has neither ended nor acknowledged it */
    void (*look)(void);     /* of the executable: looks after its signals where a script polls or sets a mode; or NULL */
} moclL_host;

/* Every thread of a state made by mocl_open has its host in Lua's extra space. */
static inline moclL_host *moclL_host_of(lua_State *L) {
    return *(moclL_host **)lua_getextraspace(L);
}

/* lua_pcall with a traceback added to the message; stack as lua_pcall's. host->interrupted tells
** whether the error was an interruption. */
int moclL_call(lua_State *L, int n_args, int n_results);
/* Text of the error value on top of the stack; NULL where it has none. Lua's "not enough memory" cannot say how much:
** it is completed in buf. Allocates nothing and leaves the stack. */
enum { MOCLL_ERROR_BYTES = 256 };
const char *moclL_errortext(lua_State *L, char buf[MOCLL_ERROR_BYTES]);

/* Does the text of an error, with or without a traceback, say that it is an interruption? */
bool moclL_is_interruption(const char *message);
/* A coroutine has died of the error on top of L's stack: keeps its stack as text for whoever shows that error, until
** the next one dies. Raises nothing. */
void moclL_keep_stack(lua_State *L, lua_State *co);
/* What was kept last belongs to the error on top of the stack, which has taken the place of the coroutine's. */
void moclL_rename_stack(lua_State *L);
void moclL_open_errors(lua_State *L); /* before scripts can replace Lua's own functions */

/* interrupt.c */
void *moclL_realloc(void *host, void *p, size_t old_bytes, size_t bytes); /* a lua_Alloc */
void moclL_open_interrupt(lua_State *L); /* replaces coroutine.resume, wrap and close */
void moclL_end_interrupt(lua_State *L);  /* drops an interrupt that came too late */

/* Around each lua_resume of co: what interrupts knows then that it runs. */
void moclL_enter(moclL_host *h, lua_State *co);
void moclL_leave(moclL_host *h);

/* Async-signal-safe: a signal arrived. The first one interrupts the script or, in flag mode, is only noted for
** sys.interrupted(), and the second one interrupts. What the caller should do: nothing; take the signal's default
** action, since a signal has interrupted the script before and it has neither ended nor acknowledged it; or, after the
** second one in flag mode, look again with moclL_undelivered soon and with moclL_unanswered a little later. */
typedef enum moclL_verdict { MOCLL_GO_ON, MOCLL_END, MOCLL_LOOK_AGAIN } moclL_verdict;
moclL_verdict moclL_signal(moclL_host *host, int signal_number);
/* Async-signal-safe: has an interruption not reached the script yet? Or has it, and the script neither ended nor
** acknowledged it? */
bool moclL_undelivered(const moclL_host *host);
bool moclL_unanswered(const moclL_host *host);
/* Async-signal-safe: will the next signal only be noted? */
bool moclL_notes_next(const moclL_host *host);
/* The script knows of the interruption that reached it: the next signal is a first one again. */
void moclL_acknowledge(moclL_host *host);

/* lsys.c: directories in which scripts are looked up, separated by ':'; pushes one string */
void moclL_push_recipe_path(lua_State *L);
/* true if mocl -E was given: environment variables are ignored */
bool moclL_noenv(lua_State *L);

#endif
