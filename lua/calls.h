/* calls.h - the calls of bindings that are running in a Lua state, and what they work on: see moclL_setfuncs in moclL.h.
**
** A call that an error leaves by longjmp cannot say so. Lua knows: the records of a thread whose functions no longer
** run are those of calls that are gone (drop_dead in calls.c).
*/
#ifndef MOCLL_CALLS_H
#define MOCLL_CALLS_H

#include "moclL.h"

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
    bool no_grad; /* some coroutine is in no_grad, so that each call has to look whether it is this one */
    bool scopes;  /* some coroutine has a scope open: each new tensor has to look for the one it belongs to */
    const void *tensor_class; /* the metatable of tensors */
    size_t limit; /* live bytes of all devices above which a new tensor is preceded by a full collection */
    moclL_held *held;
    moclL_frame frame[MOCLL_MAX_CALLS];
} moclL_calls;

/* moclL_hold in the innermost of the calls, of which there is one */
void moclL_keep(lua_State *L, moclL_calls *c, void *object, moclL_free free_fn);
void moclL_calls_open(lua_State *L, moclL_calls *c);
moclL_calls *moclL_calls_of(lua_State *L);
/* autograd records or not, as no_grad has it where L runs */
void moclL_update_grad(lua_State *L);
/* After a protected call that failed: what its bindings' functions were working on is let go now. */
void moclL_dropcalls(lua_State *L);
void moclL_calls_free(moclL_calls *c);

#endif
