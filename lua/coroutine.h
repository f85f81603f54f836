/* coroutine.h - coroutine.resume, wrap and close, which note who runs */
#ifndef MOCLL_COROUTINE_H
#define MOCLL_COROUTINE_H

#include <lua.h>

/* Puts them in place of Lua's own. */
void moclL_open_coroutines(lua_State *L);

#endif
