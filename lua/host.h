/* host.h - what hangs off a Lua state that mocl_open made.
**
** States made by somebody else (mocl.so inside a stock lua5.4) have no host: ctx->host is NULL.
*/
#ifndef MOCLL_HOST_H
#define MOCLL_HOST_H

#include <stdatomic.h>
#include <sys/types.h>

#include "calls.h"
#include "mocl.h"

/* Lua allows 200 nested C calls and each resume is one; the program notes it twice (resume.c) */
enum { MOCLL_MAX_RUNNING = 400 };

enum { MOCLL_SPARES = 4, MOCLL_SPARE_BYTES = 96 /* a call record of Lua has 64 */ };

/* Why a run is over, whatever its script catches. MOCLL_STOP_INTERRUPT: where libraries are selected. */
typedef enum moclL_stop_reason {
    MOCLL_RUNS,
    MOCLL_STOP_TIME,
    MOCLL_STOP_INSTRUCTIONS,
    MOCLL_STOP_MEMORY,
    MOCLL_STOP_EXIT,
    MOCLL_STOP_INTERRUPT
} moclL_stop_reason;

typedef struct moclL_host {
    mocl_ctx *ctx;  /* owned by the Lua state */
    lua_State *L;   /* owned */
    pid_t pid;      /* of the process that opened it, or of the child of fork that goes on with it */
    char *error;    /* text of the last failure, owned, NULL before the first */
    char short_error[256]; /* its beginning, where there was no memory for `error`; else empty */
    size_t refused; /* bytes of the last allocation for Lua that failed */
    bool refused_by_limit; /* and whether the limit of memory did it */
    /* While moclL_makeroom collects where there is no memory, Lua's calls of finalizers find theirs here: one that could not be
    ** called would be lost, and with it what it frees. */
    bool making_room;
    bool spare_taken[MOCLL_SPARES];
    _Alignas(16) char spare[MOCLL_SPARES][MOCLL_SPARE_BYTES];
    mocl_account account; /* of Lua and of ctx */
    mocl_logger *log;
    void *log_data;
    bool warns, warning_goes_on; /* warn reaches log; its next piece is the rest of a message */
    bool is_program;      /* the executable: os.exit ends the process */
    bool selected;        /* libraries are selected, so that scripts are not trusted */
    bool limited;         /* one of the limits is set, and threads have a hook that counts */
    double seconds;       /* limits of a run; 0 = none */
    long long instructions, instructions_left;
    int runs;             /* nested calls of the host's */
    moclL_stop_reason stop;
    int exit_status;
    char stop_text[512];
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

#endif
