/* values.h - values of Lua as mocl.h has them */
#ifndef MOCLL_VALUES_H
#define MOCLL_VALUES_H

#include "host.h"

void moclL_push_value(lua_State *L, const mocl_value *v);
/* The n values on top of the stack as v[0..n-1], and pops them. What they point to is kept in the registry until the next
** call. */
void moclL_take_values(lua_State *L, mocl_value *v, int n);
void moclL_push_host_function(lua_State *L, mocl_function *f, void *data);

#endif
