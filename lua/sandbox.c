/* sandbox.c - the libraries that scripts have, and os.exit that ends a run and not the host.
**
** Where libraries are selected scripts are not trusted, and what would take them past the limits is replaced: a finalizer
** and a message handler run without hooks (stop.c), so setmetatable refuses __gc, and xpcall's handler is not called for
** a run that is over; load takes text alone, since bytecode that no compiler made can break Lua itself.
*/
#include "sandbox.h"

#include <limits.h>
#include <lualib.h>
#include <string.h>

#include "stop.h"

/* ---- os.exit ---- */

/* upvalue 1: Lua's own */
static int leave(lua_State *L) {
    moclL_host *h = moclL_host_of(L);
    if (h->is_program) {
        int n = lua_gettop(L);
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_insert(L, 1);
        lua_call(L, n, 0);
        return 0;
    }
    lua_Integer status = lua_isboolean(L, 1) ? !lua_toboolean(L, 1) : luaL_optinteger(L, 1, 0);
    h->exit_status = status >= INT_MIN && status <= INT_MAX ? (int)status : 1;
    return moclL_stop(L, MOCLL_STOP_EXIT, "os.exit with status %d has ended the script", h->exit_status);
}

void moclL_open_exit(lua_State *L) {
    lua_getglobal(L, LUA_OSLIBNAME);
    lua_getfield(L, -1, "exit");
    lua_pushcclosure(L, leave, 1);
    lua_setfield(L, -2, "exit");
    lua_pop(L, 1);
}

/* ---- functions in place of Lua's: upvalue 1 is that one ---- */

static int call_own(lua_State *L) {
    int n = lua_gettop(L);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, n, LUA_MULTRET);
    return lua_gettop(L);
}

static int set_metatable(lua_State *L) {
    if (lua_istable(L, 2)) {
        lua_pushliteral(L, "__gc");
        lua_rawget(L, 2);
        if (!lua_isnil(L, -1)) return luaL_error(L, "setmetatable: this context has no finalizers; take __gc out of the metatable");
        lua_pop(L, 1);
    }
    return call_own(L);
}

static int load_text(lua_State *L) {
    const char *mode = luaL_optstring(L, 3, "bt");
    if (!strchr(mode, 't')) return luaL_error(L, "load: this context takes no bytecode, and the mode '%s' no text", mode);
    bool has_env = !lua_isnone(L, 4);
    lua_settop(L, has_env ? 4 : 2);
    if (!has_env) lua_pushnil(L);
    lua_pushliteral(L, "t");
    lua_replace(L, 3);
    return call_own(L);
}

static int load_text_file(lua_State *L) {
    bool has_env = !lua_isnone(L, 3);
    lua_settop(L, has_env ? 3 : 1);
    if (!has_env) lua_pushnil(L);
    lua_pushliteral(L, "t");
    lua_replace(L, 2);
    return call_own(L);
}

static int do_text_file(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    if (luaL_loadfilex(L, path, "t")) return lua_error(L);
    lua_replace(L, 1);
    lua_settop(L, 1);
    lua_call(L, 0, LUA_MULTRET);
    return lua_gettop(L);
}

/* stopping the collector would only bring the limit of memory nearer, but its other words depend on the version of Lua */
static int collect(lua_State *L) {
    static const char *const words[] = {"collect", "count", NULL};
    int what = luaL_checkoption(L, 1, "collect", words);
    if (what == 0) {
        lua_gc(L, LUA_GCCOLLECT);
        lua_pushinteger(L, 0);
    } else {
        lua_pushnumber(L, lua_gc(L, LUA_GCCOUNT) + lua_gc(L, LUA_GCCOUNTB) / 1024.0);
    }
    return 1;
}

/* upvalue 1: the script's message handler */
static int handle(lua_State *L) {
    if (moclL_host_of(L)->stop) return 1;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

static int finish_call(lua_State *L, int status, lua_KContext extra) {
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_pushboolean(L, 0);
        lua_pushvalue(L, -2);
        return 2;
    }
    return lua_gettop(L) - (int)extra;
}

/* as Lua's own, with `handle` around the handler */
static int protected_call(lua_State *L) {
    int n = lua_gettop(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_pushboolean(L, 1);
    lua_pushvalue(L, 1);
    lua_rotate(L, 3, 2);
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, handle, 1);
    lua_replace(L, 2);
    int status = lua_pcallk(L, n - 2, LUA_MULTRET, 2, 2, finish_call);
    return finish_call(L, status, 2);
}

/* ---- require ---- */

/* The modules of MOCL_LIB_MATHS: nothing in them opens a file, starts a process or asks the system, and none requires
** another one. tests/test_embedding.lua requires each in a sandbox. */
static const char *const maths[] = {
    "mocl.deck", "mocl.failure", "mocl.finite", "mocl.method.kl_controller", "mocl.method.ppo",
    "mocl.method.running", "mocl.method.solvers", "mocl.method.solvers_linear", "mocl.method.solvers_problem", "mocl.metrics",
    "mocl.metrics.bootstrap", "mocl.metrics.core", "mocl.metrics.sets", "mocl.minnorm", "mocl.nn", "mocl.nn.core", "mocl.on_error",
    "mocl.optim", "mocl.optim.core", "mocl.options", "mocl.options.core", "mocl.preference", "mocl.rng",
    "mocl.segments", "mocl.tensor"};

/* upvalue 1: how many of the modules of `maths` there are */
static int require_maths(lua_State *L) {
    const char *name = luaL_checkstring(L, 1);
    lua_Integer n = lua_tointeger(L, lua_upvalueindex(1)), i = 0;
    lua_settop(L, 1);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE); /* 2 */
    while (i < n && strcmp(maths[i], name) != 0) i++;
    if (i == n) return luaL_error(L, "the module '%s' is not among the libraries of this context", name);
    if (lua_getfield(L, 2, name) != LUA_TNIL) return 1;
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_getfield(L, -1, name);
    lua_pushvalue(L, 1);
    lua_pushliteral(L, ":preload:");
    lua_call(L, 2, 1);
    lua_pushvalue(L, -1);
    lua_setfield(L, 2, name);
    return 1;
}

/* ---- selecting ---- */

/* the table on top of the stack: replaces one of its functions */
static void replace(lua_State *L, const char *name, lua_CFunction f) {
    lua_getfield(L, -1, name);
    lua_pushcclosure(L, f, 1);
    lua_setfield(L, -2, name);
}

static void take(lua_State *L, const char *name) {
    lua_pushnil(L);
    lua_setfield(L, -2, name);
}

/* the global library, for scripts and for require alike */
static void take_library(lua_State *L, const char *name) {
    lua_pushnil(L);
    lua_setglobal(L, name);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    take(L, name);
    lua_pop(L, 1);
}

static void leave_clock(lua_State *L) {
    static const char *const kept[] = {"clock", "date", "difftime", "exit", "time"};
    lua_getglobal(L, LUA_OSLIBNAME);
    lua_createtable(L, 0, 5);
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        lua_getfield(L, -2, kept[i]);
        lua_setfield(L, -2, kept[i]);
    }
    lua_remove(L, -2);
    take_library(L, LUA_OSLIBNAME);
    lua_setglobal(L, LUA_OSLIBNAME);
}

/* of moclL_calls: a native operation was interrupted */
static int end_by_interruption(lua_State *L, const char *text) { return moclL_stop(L, MOCLL_STOP_INTERRUPT, "%s", text); }

void moclL_select_libraries(lua_State *L, unsigned libraries) {
    if (!libraries) return;
    moclL_host_of(L)->selected = true;
    moclL_calls_of(L)->interrupted = end_by_interruption;
    lua_pushglobaltable(L);
    replace(L, "setmetatable", set_metatable);
    replace(L, "load", load_text);
    replace(L, "loadfile", load_text_file);
    replace(L, "dofile", do_text_file);
    replace(L, "collectgarbage", collect);
    replace(L, "xpcall", protected_call);
    if (!(libraries & MOCL_LIB_IO)) take(L, "loadfile"), take(L, "dofile");
    if (!(libraries & MOCL_LIB_PACKAGE)) {
        lua_pushinteger(L, libraries & MOCL_LIB_MATHS ? (lua_Integer)(sizeof maths / sizeof *maths) : 0);
        lua_pushcclosure(L, require_maths, 1);
        lua_setfield(L, -2, "require");
    }
    lua_pop(L, 1);
    lua_getglobal(L, LUA_STRLIBNAME);
    take(L, "dump");
    lua_pop(L, 1);
    if (!(libraries & MOCL_LIB_IO)) take_library(L, LUA_IOLIBNAME);
    if (!(libraries & MOCL_LIB_OS)) leave_clock(L);
    if (!(libraries & MOCL_LIB_DEBUG)) take_library(L, LUA_DBLIBNAME);
    if (!(libraries & MOCL_LIB_PACKAGE)) take_library(L, LUA_LOADLIBNAME);
}
