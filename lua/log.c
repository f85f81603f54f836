/* log.c - what scripts print, for the host's logger in place of the standard streams: print, warn, io.write, and the write
** of io.stdout and io.stderr. What Lua itself opens with io.open stays a file.
*/
#include "log.h"

#include <lualib.h>
#include <string.h>

static void send(lua_State *L, int where, int idx) {
    moclL_host *h = moclL_host_of(L);
    size_t n;
    const char *text = lua_tolstring(L, idx, &n);
    h->log(h->log_data, where, text, n);
}

static int print(lua_State *L) {
    luaL_Buffer b;
    int n = lua_gettop(L);
    luaL_buffinit(L, &b);
    for (int i = 1; i <= n; i++) {
        if (i > 1) luaL_addchar(&b, '\t');
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&b);
    }
    luaL_addchar(&b, '\n');
    luaL_pushresult(&b);
    send(L, MOCL_LOG_OUT, -1);
    return 0;
}

/* upvalues: Lua's write, the files of the two standard streams; args: a file, what is written */
enum { WRITE = 1, OUT, ERR };

static int write_to_file(lua_State *L) {
    int where = lua_rawequal(L, 1, lua_upvalueindex(OUT)) ? MOCL_LOG_OUT : lua_rawequal(L, 1, lua_upvalueindex(ERR)) ? MOCL_LOG_ERROR : 0;
    int n = lua_gettop(L);
    if (!where) {
        lua_pushvalue(L, lua_upvalueindex(WRITE));
        lua_insert(L, 1);
        lua_call(L, n, LUA_MULTRET);
        return lua_gettop(L);
    }
    for (int i = 2; i <= n; i++) luaL_checkstring(L, i);
    for (int i = 2; i <= n; i++) send(L, where, i);
    lua_settop(L, 1);
    return 1;
}

/* upvalues: write_to_file, io.output */
static int write_to_output(lua_State *L) {
    int n = lua_gettop(L);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_call(L, 0, 1);
    lua_insert(L, 2);
    lua_call(L, n + 1, LUA_MULTRET);
    return lua_gettop(L);
}

static void warn(void *data, const char *text, int to_be_continued) {
    moclL_host *h = data;
    if (!h->warning_goes_on && !to_be_continued && text[0] == '@') {
        if (!strcmp(text, "@on")) h->warns = true;
        if (!strcmp(text, "@off")) h->warns = false;
        return;
    }
    bool first = !h->warning_goes_on;
    h->warning_goes_on = to_be_continued;
    if (!h->warns) return;
    if (!h->log) { /* an allocator of the host's, and no logger */
        lua_writestringerror("%s", first ? "Lua warning: " : "");
        lua_writestringerror("%s", text);
        lua_writestringerror("%s", to_be_continued ? "" : "\n");
        return;
    }
    if (first) h->log(h->log_data, MOCL_LOG_ERROR, "Lua warning: ", strlen("Lua warning: "));
    h->log(h->log_data, MOCL_LOG_ERROR, text, strlen(text));
    if (!to_be_continued) h->log(h->log_data, MOCL_LOG_ERROR, "\n", 1);
}

void moclL_open_warnings(moclL_host *h) { lua_setwarnf(h->L, warn, h); }

void moclL_open_log(lua_State *L) {
    moclL_host *h = moclL_host_of(L);
    int top = lua_gettop(L);
    if (!h->log) return;
    h->warns = true;
    moclL_open_warnings(h);
    lua_pushcfunction(L, print);
    lua_setglobal(L, "print");
    lua_getglobal(L, LUA_IOLIBNAME);
    luaL_getmetatable(L, LUA_FILEHANDLE);
    lua_getfield(L, -1, "__index"); /* the methods of files */
    lua_getfield(L, -1, "write");
    lua_getfield(L, top + 1, "stdout");
    lua_getfield(L, top + 1, "stderr");
    lua_pushcclosure(L, write_to_file, 3);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "write");
    lua_getfield(L, top + 1, "output");
    lua_pushcclosure(L, write_to_output, 2);
    lua_setfield(L, top + 1, "write");
    lua_settop(L, top);
}
