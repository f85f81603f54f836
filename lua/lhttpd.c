/* lhttpd.c - module mocl.httpd: an HTTP server on loopback that is run between other work (runtime/io/httpd.h) */
#include <string.h>

#include "io/httpd.h"
#include "modules.h"

#define CLASS "mocl.httpd.server"

static void close_server(void *h) { mocl_httpd_close(h); }

static mocl_httpd *check(lua_State *L) { return moclL_checkowner(L, 1, CLASS); }

static int done(lua_State *L, mocl_status st) { return st ? moclL_raise(L, st) : 0; }

/* open{port=0, body_bytes=16 MiB, connections=64, idle_seconds=60} -> server | fail */
static int httpd_open(lua_State *L) {
    static const char *const options[] = {"port", "body_bytes", "connections", "idle_seconds", NULL};
    lua_settop(L, 1);
    moclL_checkoptions(L, 1, options);
    lua_Integer port = moclL_optfield_integer(L, 1, "port", 0), bytes = moclL_optfield_integer(L, 1, "body_bytes", 16 << 20),
                connections = moclL_optfield_integer(L, 1, "connections", 64), idle = moclL_optfield_integer(L, 1, "idle_seconds", 60);
    if (port < 0 || port > 65535) return luaL_error(L, "httpd.open: port = %I is outside 0 .. 65535", port);
    if (bytes < 1 || connections < 1 || connections > 10000 || idle < 1 || idle > 86400)
        return luaL_error(L, "httpd.open: body_bytes, connections (to 10000) and idle_seconds (to 86400) must be at least 1");
    mocl_httpd_options o = {.port = (int)port, .body_bytes = (size_t)bytes, .connections = (int)connections, .idle_seconds = (int)idle};
    mocl_httpd **out = (mocl_httpd **)moclL_pushowner(L, CLASS);
    return moclL_result(L, mocl_httpd_open(out, moclL_ctx(L), &o), 1);
}

static int server_port(lua_State *L) {
    lua_pushinteger(L, mocl_httpd_port(check(L)));
    return 1;
}

/* name -> value, names in lower case; of a header that is there twice "first, second" */
static void push_headers(lua_State *L, const char *at) {
    lua_newtable(L);
    while (*at) {
        luaL_Buffer b;
        char *name = luaL_buffinitsize(L, &b, strlen(at));
        size_t n = strlen(at);
        for (size_t i = 0; i < n; i++) name[i] = (char)(at[i] >= 'A' && at[i] <= 'Z' ? at[i] + 'a' - 'A' : at[i]);
        luaL_pushresultsize(&b, n);
        at += n + 1;
        lua_pushvalue(L, -1);
        if (lua_rawget(L, -3) == LUA_TSTRING) {
            lua_pushfstring(L, "%s, %s", lua_tostring(L, -1), at);
            lua_remove(L, -2);
        } else {
            lua_pop(L, 1);
            lua_pushstring(L, at);
        }
        lua_rawset(L, -3);
        at += strlen(at) + 1;
    }
}

/* server:run(seconds=0) -> list of {id=, method=, path=, headers=, body=, too_large=}: requests that are whole */
static int server_run(lua_State *L) {
    mocl_httpd *h = check(L);
    lua_Number seconds = luaL_optnumber(L, 2, 0);
    luaL_argcheck(L, seconds >= 0 && seconds <= 3600, 2, "0 to 3600 seconds");
    done(L, mocl_httpd_run(h, (int)(seconds * 1000)));
    mocl_httpd_request r;
    lua_newtable(L);
    for (lua_Integer i = 1; mocl_httpd_next(h, &r); i++) {
        lua_createtable(L, 0, 6);
        lua_pushinteger(L, r.id);
        lua_setfield(L, -2, "id");
        lua_pushstring(L, r.method);
        lua_setfield(L, -2, "method");
        lua_pushstring(L, r.path);
        lua_setfield(L, -2, "path");
        push_headers(L, r.headers);
        lua_setfield(L, -2, "headers");
        lua_pushlstring(L, r.body, r.n);
        lua_setfield(L, -2, "body");
        lua_pushboolean(L, r.too_large);
        lua_setfield(L, -2, "too_large");
        lua_rawseti(L, -2, i);
    }
    return 1;
}

static const char *check_word(lua_State *L, int idx) {
    size_t n;
    const char *s = lua_tolstring(L, idx, &n);
    if (lua_type(L, idx) != LUA_TSTRING || strlen(s) != n) luaL_error(L, "httpd: a header has a text without a zero byte for its name and value");
    return s;
}

/* The table of headers at idx as httpd.h has them, left on the stack. */
static const char *read_headers(lua_State *L, int idx) {
    luaL_checktype(L, idx, LUA_TTABLE);
    lua_newtable(L); /* the words in a row */
    lua_Integer n = 0;
    for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
        luaL_argcheck(L, *check_word(L, -2), idx, "a header without a name");
        check_word(L, -1);
        lua_pushvalue(L, -2);
        lua_rawseti(L, -4, ++n);
        lua_pushvalue(L, -1);
        lua_rawseti(L, -4, ++n);
    }
    int words = lua_gettop(L);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, words, i);
        luaL_addvalue(&b);
        luaL_addchar(&b, '\0');
    }
    luaL_addchar(&b, '\0');
    luaL_pushresult(&b);
    return lua_tostring(L, -1);
}

static lua_Integer check_status(lua_State *L, int idx) {
    lua_Integer status = luaL_checkinteger(L, idx);
    luaL_argcheck(L, status >= 200 && status <= 599, idx, "a status from 200 to 599");
    return status;
}

/* server:respond(id, status, headers, text) */
static int server_respond(lua_State *L) {
    size_t n;
    mocl_httpd *h = check(L);
    lua_Integer id = luaL_checkinteger(L, 2), status = check_status(L, 3);
    const char *text = luaL_checklstring(L, 5, &n), *headers = read_headers(L, 4);
    return done(L, mocl_httpd_respond(h, id, (int)status, headers, text, n));
}

/* server:begin(id, status, headers) */
static int server_begin(lua_State *L) {
    mocl_httpd *h = check(L);
    lua_Integer id = luaL_checkinteger(L, 2), status = check_status(L, 3);
    return done(L, mocl_httpd_begin(h, id, (int)status, read_headers(L, 4)));
}

/* server:write(id, text) */
static int server_write(lua_State *L) {
    size_t n;
    mocl_httpd *h = check(L);
    const char *text = luaL_checklstring(L, 3, &n);
    return done(L, mocl_httpd_write(h, luaL_checkinteger(L, 2), text, n));
}

static int server_finish(lua_State *L) {
    mocl_httpd_finish(check(L), luaL_checkinteger(L, 2));
    return 0;
}

static int server_drop(lua_State *L) {
    mocl_httpd_drop(check(L), luaL_checkinteger(L, 2));
    return 0;
}

/* server:gone(id) -> boolean */
static int server_gone(lua_State *L) {
    lua_pushboolean(L, mocl_httpd_gone(check(L), luaL_checkinteger(L, 2)));
    return 1;
}

static const luaL_Reg methods[] = {
    {"begin", server_begin}, {"drop", server_drop}, {"finish", server_finish}, {"gone", server_gone},   {"port", server_port},
    {"respond", server_respond}, {"run", server_run}, {"write", server_write}, {NULL, NULL},
};

static const luaL_Reg functions[] = {{"open", httpd_open}, {NULL, NULL}};

int moclL_open_httpd(lua_State *L) {
    moclL_newclass(L, CLASS, methods, close_server);
    moclL_newlib(L, functions);
    return 1;
}
