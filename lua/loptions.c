/* loptions.c - module mocl.options.core: what a misspelt name may have meant */
#include "moclL.h"
#include "modules.h"

/* nearest(word, names) -> one of the list, or nil where none is near */
static int options_nearest(lua_State *L) {
    const char *word = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    int n = (int)moclL_len(L, 2);
    luaL_checkstack(L, n + 1, "too many names");
    const char **names = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *names, 0);
    for (int i = 0; i < n; i++) { /* the stack keeps them alive */
        lua_geti(L, 2, i + 1);
        names[i] = luaL_checkstring(L, -1);
    }
    lua_pushstring(L, moclL_nearest(word, names, n));
    return 1;
}

int moclL_open_options_core(lua_State *L) {
    static const luaL_Reg functions[] = {{"nearest", options_nearest}, {NULL, NULL}};
    moclL_newlib(L, functions);
    return 1;
}
