/* lscope.h - what a script switches on for a stretch of its run: scopes that release tensors, and no_grad.
**
** Each belongs to the coroutine that began it, and holds for what runs while that coroutine runs: its own code, and that of
** the coroutines that it resumes. While it is suspended, or once an error has ended it, nothing of it holds.
*/
#ifndef MOCLL_LSCOPE_H
#define MOCLL_LSCOPE_H

#include "moclL.h"

/* tensor.scope, tensor.no_grad */
int moclL_scope_new(lua_State *L);
int moclL_no_grad(lua_State *L);
/* Once for each state: makes the classes, and tells the calls (calls.h) whom to ask. */
void moclL_scope_open(lua_State *L);

#endif
