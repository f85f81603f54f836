/* calls.h - the calls of bindings that are running in a Lua state, and what they work on: see moclL_setfuncs in moclL.h.
**
** A call that an error leaves by longjmp cannot say so. Its frame is told dead by the C stack, which grows down: a call
** that begins at or above the address where another one ran finds that one gone.
*/
#ifndef MOCLL_CALLS_H
#define MOCLL_CALLS_H

#include <stdint.h>

#include "moclL.h"

enum { MOCLL_MAX_CALLS = 256 }; /* Lua allows 200 nested C calls */

typedef struct moclL_held {
    void *object;
    moclL_free free_fn; /* runs when the call ends; NULL: nothing to do */
} moclL_held;

typedef struct moclL_frame {
    uintptr_t at; /* address on the C stack */
    int first;    /* the first of its objects among `held` */
    int n_strings; /* that it keeps: moclL_holdstring */
} moclL_frame;

/* One for each Lua state, all zero at first; kept beside the context. */
typedef struct moclL_calls {
    int n_frames, n_held, capacity;
    bool no_grad; /* some coroutine is in no_grad, so that each call has to look whether it is this one */
    moclL_held *held;
    moclL_frame frame[MOCLL_MAX_CALLS];
} moclL_calls;

moclL_calls *moclL_calls_of(lua_State *L);
/* autograd records or not, as no_grad has it where L runs */
void moclL_update_grad(lua_State *L);
/* After a protected call that failed: what its bindings' functions were working on is let go now. */
void moclL_dropcalls(lua_State *L);
void moclL_calls_free(moclL_calls *c);

#endif
