/* coroutine.c - coroutine.resume, wrap and close: as in Lua's own library, but they note who runs */
#include "coroutine.h"

#include <lualib.h>

#include "errors.h"
#include "interrupt.h"

/* Moves n_args values from L to co and runs it. Returns the number of results, on L; or -1 with the
** error value on L. Raises nothing, so that enter and leave always pair. */
static int resume(lua_State *L, lua_State *co, int n_args) {
    int n_results = 0;
    if (!lua_checkstack(co, n_args)) {
        lua_pushliteral(L, "too many arguments to resume");
        return -1;
    }
    lua_xmove(L, co, n_args);
    moclL_host *h = moclL_host_of(L);
    moclL_enter(h, co);
    int status = lua_resume(co, L, n_args, &n_results);
    moclL_leave(h);
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_xmove(co, L, 1);
        return -1;
    }
    if (!lua_checkstack(L, n_results + 1)) {
        lua_pop(co, n_results);
        lua_pushliteral(L, "too many results to resume");
        return -1;
    }
    lua_xmove(co, L, n_results);
    return n_results;
}

/* runs the pending __close of co; an error value is left on co */
static int close_thread(lua_State *L, lua_State *co) {
    moclL_host *h = moclL_host_of(L);
    moclL_enter(h, co);
#if LUA_VERSION_RELEASE_NUM >= 50406
    int status = lua_closethread(co, L);
#else
    int status = lua_resetthread(co);
#endif
    moclL_leave(h);
    return status;
}

static lua_State *check_thread(lua_State *L) {
    lua_State *co = lua_tothread(L, 1);
    luaL_argexpected(L, co, 1, "thread");
    return co;
}

static int coroutine_resume(lua_State *L) {
    lua_State *co = check_thread(L);
    bool lives = lua_status(co) <= LUA_YIELD;
    int n = resume(L, co, lua_gettop(L) - 1);
    if (n < 0) {
        if (lives && lua_status(co) > LUA_YIELD) moclL_keep_stack(L, co);
        lua_pushboolean(L, 0);
        lua_insert(L, -2);
        return 2;
    }
    lua_pushboolean(L, 1);
    lua_insert(L, -(n + 1));
    return n + 1;
}

static int wrapped(lua_State *L) {
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    bool lives = lua_status(co) <= LUA_YIELD;
    int n = resume(L, co, lua_gettop(L));
    if (n >= 0) return n;
    int status = lua_status(co);
    if (status > LUA_YIELD) { /* it failed: its <close> variables are open */
        if (lives) moclL_keep_stack(L, co);
        status = close_thread(L, co);
        lua_xmove(co, L, 1);
    }
    if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    if (lives && status > LUA_YIELD) moclL_rename_stack(L);
    return lua_error(L);
}

static int coroutine_wrap(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    lua_pushcclosure(L, wrapped, 1);
    return 1;
}

static const char *thread_status(lua_State *L, lua_State *co) {
    lua_Debug ar;
    if (L == co) return "running";
    int status = lua_status(co);
    if (status == LUA_YIELD) return "suspended";
    if (status != LUA_OK) return "dead";
    if (lua_getstack(co, 0, &ar)) return "normal";
    return lua_gettop(co) == 0 ? "dead" : "suspended";
}

static int coroutine_close(lua_State *L) {
    lua_State *co = check_thread(L);
    const char *status = thread_status(L, co);
    if (status[0] != 'd' && status[0] != 's')
        return luaL_error(L, "cannot close a %s coroutine", status);
    if (close_thread(L, co) == LUA_OK) {
        lua_pushboolean(L, 1);
        return 1;
    }
    lua_pushboolean(L, 0);
    lua_xmove(co, L, 1);
    return 2;
}

void moclL_open_coroutines(lua_State *L) {
    static const luaL_Reg functions[] = {{"close", coroutine_close},
                                         {"resume", coroutine_resume},
                                         {"wrap", coroutine_wrap},
                                         {NULL, NULL}};
    lua_getglobal(L, LUA_COLIBNAME);
    luaL_setfuncs(L, functions, 0);
    lua_pop(L, 1);
}
