/* lworld.c - module mocl.world.core: the check of every reward of every step, for stdlib/mocl/world/init.lua */
#include <math.h>

#include "modules.h"

/* is_row(v, n) -> whether v is a plain list of n finite numbers; entries that a metatable would give do not count */
static int world_is_row(lua_State *L) {
    lua_Integer n = luaL_checkinteger(L, 2);
    bool ok = lua_type(L, 1) == LUA_TTABLE && (lua_Integer)lua_rawlen(L, 1) == n;
    for (lua_Integer j = 1; j <= n && ok; j++) {
        ok = lua_rawgeti(L, 1, j) == LUA_TNUMBER && isfinite(lua_tonumber(L, -1));
        lua_pop(L, 1);
    }
    lua_pushboolean(L, ok);
    return 1;
}

static const luaL_Reg world_functions[] = {{"is_row", world_is_row}, {NULL, NULL}};

int moclL_open_world_core(lua_State *L) {
    moclL_newlib(L, world_functions);
    return 1;
}
