/* modules.c - package.preload for the C modules and the embedded Lua modules.
**
** A directory named by MOCL_STDLIB (files DIR/mocl/x.lua) overrides the embedded ones while
** developing.
*/
#include "modules.h"

#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moved.h"

#define TOOLS "mocl.tools."

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

/* luaL_load of the source or of what overrides it; leaves its name below the chunk */
static int load_source(lua_State *L, const moclL_source *s) {
    const char *path = override(L, s);
    if (path) return luaL_loadfile(L, path);
    const char *chunk = lua_pushfstring(L, "@%s", s->file);
    return luaL_loadbufferx(L, s->text, (size_t)(s->end - s->text), chunk, "t");
}

/* upvalue 1: the source; args: module name, ":preload:" */
static int load_embedded(lua_State *L) {
    const moclL_source *s = lua_touserdata(L, lua_upvalueindex(1));
    if (load_source(L, s)) return lua_error(L);
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

static bool is_tool(const moclL_source *s) { return strncmp(s->name, TOOLS, strlen(TOOLS)) == 0; }

static const moclL_source *find_tool(const char *name) {
    const moclL_source *s = moclL_sources;
    while (s->name && !(is_tool(s) && strcmp(s->name + strlen(TOOLS), name) == 0)) s++;
    return s->name ? s : NULL;
}

bool moclL_has_tool(const char *name) { return find_tool(name) != NULL; }

int moclL_load_tool(lua_State *L, const char *name) {
    int status = load_source(L, find_tool(name));
    lua_remove(L, -2);
    return status;
}

/* Raises, at the caller of require, where the module of that name has moved. */
static void refuse_moved(lua_State *L, const char *name) {
    static const struct {
        const char *was, *now;
    } moved[] = {
#define MOVED_ROW(was, now) {was, now},
        MOCL_MOVED(MOVED_ROW)
#undef MOVED_ROW
    };
    for (size_t i = 0; i < sizeof moved / sizeof *moved; i++) {
        if (strcmp(moved[i].was, name) != 0) continue;
        luaL_where(L, 2); /* 1 is require */
        lua_pushfstring(L, "the module %s is called %s now", name, moved[i].now);
        lua_concat(L, 2);
        lua_error(L);
    }
}

/* one of package.searchers; arg: module name */
static int search_moved(lua_State *L) {
    refuse_moved(L, luaL_checkstring(L, 1));
    return 0;
}

/* Pushes the names of the modules that are there and begin with "mocl", as a list. */
static void push_names(lua_State *L) {
    lua_newtable(L);
    lua_Integer n = 0;
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING || strncmp(lua_tostring(L, -2), "mocl", 4) != 0) continue;
        lua_pushvalue(L, -2);
        lua_rawseti(L, -5, ++n);
    }
    lua_pop(L, 1);
}

/* The last one of package.searchers; arg: module name. Nobody has found it: a name of ours that is mistyped gets one line
** in place of all places where it is not. */
static int refuse_mistyped(lua_State *L) {
    const char *name = luaL_checkstring(L, 1);
    if (strncmp(name, "mocl.", 5) != 0) return 0;
    luaL_where(L, 2); /* 1 is require */
    lua_getglobal(L, "require");
    lua_pushliteral(L, "mocl.module_names");
    if (lua_pcall(L, 1, 1, 0) != LUA_OK || lua_type(L, -1) != LUA_TTABLE) return 0;
    lua_getfield(L, -1, "words");
    lua_pushstring(L, name);
    push_names(L);
    if (lua_pcall(L, 2, 1, 0) != LUA_OK) return 0;
    lua_pushfstring(L, "%s%s", lua_tostring(L, 2), lua_tostring(L, -1));
    return lua_error(L);
}

/* Puts search_moved behind the searcher of package.preload, and refuse_mistyped behind all. */
static void watch_moved(lua_State *L) {
    int top = lua_gettop(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    if (lua_getfield(L, -1, LUA_LOADLIBNAME) == LUA_TTABLE && lua_getfield(L, -1, "searchers") == LUA_TTABLE &&
        (lua_rawgeti(L, -1, 2), lua_tocfunction(L, -1) != search_moved)) {
        lua_pop(L, 1);
        for (lua_Integer i = (lua_Integer)lua_rawlen(L, -1); i >= 2; i--) {
            lua_rawgeti(L, -1, i);
            lua_rawseti(L, -2, i + 1);
        }
        lua_pushcfunction(L, search_moved);
        lua_rawseti(L, -2, 2);
        lua_pushcfunction(L, refuse_mistyped);
        lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    }
    lua_settop(L, top);
}

void moclL_openmodules(lua_State *L) {
    static const luaL_Reg modules[] = {
#define MODULE_ROW(name, id) {name, moclL_open_##id},
        MOCL_MODULES(MODULE_ROW)
#undef MODULE_ROW
        {NULL, NULL}};
    moclL_openctx(L, 0);
    watch_moved(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    for (const luaL_Reg *m = modules; m->name; m++) {
        lua_pushcfunction(L, m->func);
        offer(L, m->name);
    }
    for (const moclL_source *s = moclL_sources; s->name; s++) {
        if (is_tool(s)) continue;
        lua_pushlightuserdata(L, (void *)s);
        lua_pushcclosure(L, load_embedded, 1);
        offer(L, s->name);
    }
    lua_pop(L, 1);
}

int moclL_openmodule(lua_State *L, const char *name) {
    luaL_checkversion(L);
    if (lua_type(L, 1) == LUA_TSTRING) refuse_moved(L, lua_tostring(L, 1)); /* mocl.run_lock has the opener of mocl.run.lock */
    moclL_openmodules(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_getfield(L, -1, name);
    lua_pushstring(L, name);
    lua_call(L, 1, 1);
    return 1;
}
