/* lscope.h - what a script switches on for a stretch of its run: scopes that release tensors, and no_grad.
**
** Each belongs to the coroutine that began it, and holds for what runs while that coroutine runs: its own code, and that of
** the coroutines that it resumes. While it is suspended, or once an error has ended it, nothing of it holds.
*/
#ifndef MOCLL_LSCOPE_H
#define MOCLL_LSCOPE_H

#include "moclL.h"

/* Registers the owner of a tensor on top of the stack with the innermost scope that holds here. */
void moclL_scope_add(lua_State *L);

/* tensor.scope, tensor.no_grad */
int moclL_scope_new(lua_State *L);
int moclL_no_grad(lua_State *L);
void moclL_scope_open(lua_State *L); /* once for each state: makes the classes */

/* For calls.c: whether a no_grad holds in L. *any becomes false where no coroutine has one. */
bool moclL_grad_is_off(lua_State *L, bool *any);

#endif
