/* modules.c - package.preload for the C modules and the embedded Lua modules.
**
** A directory named by MOCL_STDLIB (files DIR/mocl/x.lua) overrides the embedded ones while
** developing.
*/
#include "modules.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

/* Pushes the path of the file that overrides the module; NULL if there is none. */
static const char *override(lua_State *L, const moclL_source *s) {
    const char *dir = moclL_noenv(L) ? NULL : getenv("MOCL_STDLIB");
    if (!dir) return NULL;
    const char *path = lua_pushfstring(L, "%s%s", dir, s->file + strlen("stdlib"));
    FILE *f = fopen(path, "r");
    if (!f) return NULL;
    fclose(f);
    return path;
}

/* upvalue 1: the source; args: module name, ":preload:" */
static int load_embedded(lua_State *L) {
    const moclL_source *s = lua_touserdata(L, lua_upvalueindex(1));
    const char *path = override(L, s);
    int status;
    if (path) {
        status = luaL_loadfile(L, path);
    } else {
        const char *chunk = lua_pushfstring(L, "@%s", s->file);
        status = luaL_loadbufferx(L, s->text, (size_t)(s->end - s->text), chunk, "t");
    }
    if (status) return lua_error(L);
    lua_pushstring(L, s->name);
    lua_call(L, 1, 1);
    return 1;
}

/* stack: preload, loader. What a program has put in place of the module stays. */
static void offer(lua_State *L, const char *name) {
    if (lua_getfield(L, -2, name) == LUA_TNIL) {
        lua_pop(L, 1);
        lua_setfield(L, -2, name);
    } else {
        lua_pop(L, 2);
    }
}

void moclL_openmodules(lua_State *L) {
    static const luaL_Reg modules[] = {
#define MODULE_ROW(name, id) {name, moclL_open_##id},
        MOCL_MODULES(MODULE_ROW)
#undef MODULE_ROW
        {NULL, NULL}};
    moclL_openctx(L, 0);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    for (const luaL_Reg *m = modules; m->name; m++) {
        lua_pushcfunction(L, m->func);
        offer(L, m->name);
    }
    for (const moclL_source *s = moclL_sources; s->name; s++) {
        lua_pushlightuserdata(L, (void *)s);
        lua_pushcclosure(L, load_embedded, 1);
        offer(L, s->name);
    }
    lua_pop(L, 1);
}

int moclL_openmodule(lua_State *L, const char *name) {
    luaL_checkversion(L);
    moclL_openmodules(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_getfield(L, -1, name);
    lua_pushstring(L, name);
    lua_call(L, 1, 1);
    return 1;
}
