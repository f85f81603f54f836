/* calls.h - the calls of bindings that are running in a Lua state, and what they work on: see moclL_setfuncs.
**
** A call that an error leaves by longjmp cannot say so. Lua knows: the records of a thread whose functions no longer
** run are those of calls that are gone (drop_dead in calls.c).
*/
#ifndef MOCLL_CALLS_H
#define MOCLL_CALLS_H

#include <lauxlib.h>
#include <lua.h>

#include "base.h"

#if LUA_VERSION_NUM != 504
#error "mocl needs Lua 5.4"
#endif

/* The context of this state. luaopen_mocl makes it and stores it in the registry. */
mocl_ctx *moclL_ctx(lua_State *L);
void moclL_openctx(lua_State *L, int n_threads); /* n_threads 0 = one per CPU available */

/* ---- registration ----
**
** Every function of a binding is registered here, never with luaL_setfuncs. That makes it a call: the objects that its
** checks return stay alive until it ends, whatever a callback, a metamethod of an argument or a finalizer that runs
** inside it releases. It then works on the old value, and the object is freed when the call ends. Such a function cannot
** yield. One that does (tensor.no_grad) works on nothing and is a plain C function. */
void moclL_pushfunction(lua_State *L, lua_CFunction f);
void moclL_setfuncs(lua_State *L, const luaL_Reg *functions); /* into the table on top of the stack */
#define moclL_newlib(L, functions) (luaL_checkversion(L), luaL_newlibtable(L, functions), moclL_setfuncs(L, functions))

/* The running call works on `object`. free_fn NULL: it belongs to an owner, which asks moclL_defer before it frees it.
** Else the call takes over the caller's reference, and free_fn drops it when the call ends, or now where no call runs.
** Raises where there is no memory, after dropping that reference. */
typedef void (*moclL_free)(void *object);
void moclL_hold(lua_State *L, void *object, moclL_free free_fn);
/* The same for the string on top of the stack, whose characters the call goes on using. */
void moclL_holdstring(lua_State *L);
/* For an owner that frees `object`: true if a running call works on it; the call then frees it when it ends. */
bool moclL_defer(lua_State *L, void *object, moclL_free free_fn);
/* True if a call around the present one works on `object`: it must not be changed in place. */
bool moclL_inuse(lua_State *L, const void *object);
/* How many calls have begun so far. Where the number is the same as before, no finalizer or metamethod has called a
** function of a binding since, and the scratch memory of an object is as it was. */
uint64_t moclL_n_calls(lua_State *L);

/* The only translation of a core status into a Lua error: adds the position of the caller. */
int moclL_raise(lua_State *L, mocl_status status);

/* For open/load/save: MOCL_E_IO and MOCL_E_FORMAT return nil, message, "IO" or "FORMAT"; anything
** else raises. */
int moclL_result(lua_State *L, mocl_status status, int n_results);

/* Pushes a value that is closed when the function returns or fails. A callback called meanwhile by lua_call cannot
** yield, and the error of one that tries says so of `what`: "on_token of generate". */
void moclL_pushguard(lua_State *L, const char *what);

/* True if mocl -E was given: environment variables are ignored. */
bool moclL_noenv(lua_State *L);

/* ---- what runs ---- */

enum { MOCLL_MAX_CALLS = 256 }; /* Lua allows 200 nested C calls */

typedef struct moclL_held {
    void *object;
    moclL_free free_fn; /* runs when the call ends; NULL: nothing to do */
} moclL_held;

typedef struct moclL_frame {
    lua_State *thread; /* where it runs; may be collected once the call is gone */
    uintptr_t at;      /* its frame on the stack of C, which grows downwards */
    int first;         /* the first of its objects among `held` */
    int n_strings;     /* that it keeps: moclL_holdstring */
} moclL_frame;

/* One for each Lua state, all zero at first: what every operation asks for. */
typedef struct moclL_calls {
    mocl_ctx *ctx;   /* NULL once the state is being closed */
    lua_State *main; /* the state's main thread */
    int n_frames, n_held, capacity;
    uint64_t n_begun; /* calls so far */
    bool no_grad; /* some coroutine is in no_grad, so that each call has to look whether it is this one: */
    void (*update_grad)(lua_State *L); /* of lscope.c */
    bool scopes;  /* some coroutine has a scope open: each new tensor has to look for the one it belongs to: */
    void (*scope_add)(lua_State *L); /* of lscope.c */
    int (*interrupted)(lua_State *L, const char *text); /* of sandbox.c: raises so that scripts do not catch it; or NULL */
    const void *tensor_class; /* the metatable of tensors */
    size_t limit; /* live bytes of all devices above which a new tensor is preceded by a full collection */
    moclL_held *held;
    moclL_frame frame[MOCLL_MAX_CALLS];
} moclL_calls;

/* moclL_hold in the innermost of the calls, of which there is one */
void moclL_keep(lua_State *L, moclL_calls *c, void *object, moclL_free free_fn);
void moclL_calls_open(lua_State *L, moclL_calls *c);
moclL_calls *moclL_calls_of(lua_State *L);
/* After a protected call that failed: what its bindings' functions were working on is let go now. */
void moclL_dropcalls(lua_State *L);
void moclL_calls_free(moclL_calls *c);

#endif
