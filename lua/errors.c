/* errors.c - what is shown of an error that nobody catches: its text, and the stack where it was raised.
**
** The handler of a protected call runs where the error is raised, so it sees that stack, as long as nobody on the way
** catches the error and raises it again. The library does not: it adds words with mocl.on_error, which finds the text
** with its traceback behind it. A coroutine has a stack of its own, which is kept as text when it dies.
*/
#define _POSIX_C_SOURCE 200809L
#include "errors.h"

#include <stdio.h>
#include <string.h>

#include "mocl.h"

static const char TRACE[] = "\nstack traceback:"; /* as luaL_traceback begins it */

static bool begins_with(const char *s, const char *start) { return strncmp(s, start, strlen(start)) == 0; }

bool moclL_is_interruption(const char *message) {
    static const char mark[] = "interrupted!";
    const char *trace = strstr(message, TRACE);
    size_t n = trace ? (size_t)(trace - message) : strlen(message), m = sizeof mark - 1;
    return n >= m && strncmp(message + n - m, mark, m) == 0;
}

/* ---- is a traceback of use? ---- */

/* the number of levels of a stack that may be deep */
static int depth_of(lua_State *L) {
    lua_Debug ar;
    int low = 0, high = 1;
    while (lua_getstack(L, high, &ar)) low = high, high *= 2;
    while (low + 1 < high) {
        int middle = low + (high - low) / 2;
        if (lua_getstack(L, middle, &ar)) low = middle;
        else high = middle;
    }
    return high;
}

static bool is_own(const char *source) { return begins_with(source, "@stdlib/"); }

/* The source of the outermost function in Lua, which is the script that runs; NULL if there is none near the end. */
static const char *script_of(lua_State *L) {
    enum { LEVELS = 8 };
    lua_Debug ar;
    int depth = depth_of(L);
    for (int level = depth - 1; level >= 0 && level >= depth - LEVELS && lua_getstack(L, level, &ar); level--) {
        lua_getinfo(L, "S", &ar);
        if (*ar.what != 'C') return ar.source;
    }
    return NULL;
}

/* Did a C function other than Lua's error and assert raise it, or Lua itself? L: whose stack it is; level: where. */
static bool raised_by_itself(lua_State *L, int level) {
    const moclL_host *h = moclL_host_of(L);
    lua_Debug ar;
    if (!lua_getstack(L, level, &ar)) return true;
    lua_getinfo(L, "f", &ar);
    lua_CFunction f = lua_tocfunction(L, -1);
    lua_pop(L, 1);
    return !f || (f != h->raises[0] && f != h->raises[1]);
}

/* Is the place where a message was raised of use to who reads it, on the stack of L from `level` on? Not where code has
** said by error(message, 0) that the message is complete, one for the user of a script and not for its author: an
** option that is wrong, or a place in a file that was read ("x.json:3:7: ..."). It is of use where the message begins
** with a place in the code that runs ("chunk:line: ..."), or in mocl's own; where no code chose so; where a chunk is
** stripped of its places; and where the code is neither the script that runs nor mocl's but called by mocl, as a
** reward. */
static bool wants_trace(lua_State *L, int level, const char *message) {
    enum { LEVELS = 100 }; /* the place is near, and a stack may be deep */
    const char *raiser = NULL; /* source of the innermost function in Lua */
    bool called_back = false;
    lua_Debug ar;
    if (begins_with(message, "stdlib/")) return true;
    bool itself = raised_by_itself(L, level);
    for (int i = level; i < level + LEVELS && lua_getstack(L, i, &ar); i++) {
        lua_getinfo(L, "Sl", &ar);
        if (*ar.what == 'C') continue;
        if (itself || ar.currentline < 0) return true;
        if (!raiser) raiser = ar.source;
        else called_back = called_back || (is_own(ar.source) && !is_own(raiser));
        if (!begins_with(message, ar.short_src)) continue;
        const char *line = message + strlen(ar.short_src);
        size_t digits = *line == ':' ? strspn(line + 1, "0123456789") : 0;
        if (digits > 0 && line[1 + digits] == ':') return true;
    }
    const char *script = called_back ? script_of(L) : NULL;
    return script && strcmp(script, raiser) != 0;
}

/* ---- the text ---- */

/* Pushes "NAME = value" of a table's field, without metamethods; "" where it is no plain value. */
static void push_field_text(lua_State *L, int table, const char *separator, const char *name) {
    enum { BYTES = 200 };
    lua_pushstring(L, name);
    lua_rawget(L, table);
    int type = lua_type(L, -1);
    if (type == LUA_TSTRING) {
        size_t n = lua_rawlen(L, -1);
        lua_pushlstring(L, lua_tostring(L, -1), n > BYTES ? BYTES : n);
        lua_pushfstring(L, "%s%s = \"%s%s\"", separator, name, lua_tostring(L, -1), n > BYTES ? "..." : "");
        lua_remove(L, -2);
    } else if (type == LUA_TNUMBER || type == LUA_TBOOLEAN) {
        lua_pushfstring(L, "%s%s = %s", separator, name, luaL_tolstring(L, -1, NULL));
        lua_remove(L, -2);
    } else {
        lua_pushliteral(L, "");
    }
    lua_remove(L, -2);
}

/* pushes an error value that is no string as text */
static void push_text(lua_State *L, int idx) {
    if (lua_type(L, idx) == LUA_TNUMBER) {
        luaL_tolstring(L, idx, NULL);
        return;
    }
    if (luaL_callmeta(L, idx, "__tostring")) { /* as lua does: an error in it comes to this handler again */
        if (lua_type(L, -1) == LUA_TSTRING) return;
        lua_pop(L, 1);
    }
    lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, idx));
    if (lua_type(L, idx) != LUA_TTABLE) return;
    push_field_text(L, idx, ": ", "code");
    push_field_text(L, idx, lua_rawlen(L, -1) ? ", " : ": ", "message");
    lua_concat(L, 3);
}

/* ---- stacks of coroutines that died ---- */

/* registry: the stack of the last coroutine that died of an error, {error value, stack, type of the value, whether the
** stack is of use}, with weak values: the error may hold tensors */
static const char died_key = 'd';
enum { VALUE = 1, STACK, TYPE, WANTED };

/* Is the error at idx the one at `kept`? A message may have got a place in front, from assert or coroutine.wrap. */
static bool same_error(lua_State *L, int idx, int kept) {
    size_t n, m;
    if (lua_type(L, idx) != LUA_TSTRING) return lua_rawequal(L, idx, kept);
    const char *message = lua_tolstring(L, idx, &n), *end = lua_tolstring(L, kept, &m);
    if (n == m || m == 0) return lua_rawequal(L, idx, kept);
    return n > m + 2 && strcmp(message + n - m, end) == 0 && strncmp(message + n - m - 2, ": ", 2) == 0;
}

/* Pushes the kept stack if it belongs to the error at idx, and says in *wanted whether it is of use; else pushes
** nothing. */
static bool push_kept(lua_State *L, int idx, bool *wanted) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &died_key);
    int kept = lua_gettop(L);
    lua_rawgeti(L, kept, TYPE);
    lua_rawgeti(L, kept, VALUE);
    int type = lua_type(L, idx);
    bool same = lua_tointeger(L, -2) == type && lua_type(L, -1) == type && lua_rawgeti(L, kept, STACK) == LUA_TSTRING
                && same_error(L, idx, kept + 2);
    *wanted = false;
    if (same) {
        lua_rawgeti(L, kept, WANTED);
        *wanted = lua_toboolean(L, -1);
        lua_pop(L, 1);
        lua_replace(L, kept);
    }
    lua_settop(L, same ? kept : kept - 1);
    return same;
}

/* Pushes the frames of a stack as lines, each with '\n' in front; after those that are kept for the error at idx. */
static void push_frames(lua_State *L, int idx, lua_State *of, int level) {
    bool wanted, kept = push_kept(L, idx, &wanted);
    if (kept) lua_pushliteral(L, "\n\t(a coroutine, resumed by)");
    luaL_traceback(L, of, NULL, level);
    lua_pushstring(L, lua_tostring(L, -1) + sizeof TRACE - 2); /* it begins without a '\n' */
    lua_remove(L, -2);
    if (kept) lua_concat(L, 3);
}

/* args: the error, the coroutine */
static int keep(lua_State *L) {
    lua_State *co = lua_tothread(L, 2);
    const char *message = lua_type(L, 1) == LUA_TSTRING ? lua_tostring(L, 1) : NULL;
    bool wanted, known;
    lua_settop(L, 2);
    known = push_kept(L, 1, &wanted);
    lua_settop(L, 2);
    wanted = (known && wanted) || !message || wants_trace(co, 0, message);
    push_frames(L, 1, co, 0); /* 3 */
    lua_rawgetp(L, LUA_REGISTRYINDEX, &died_key);
    lua_pushvalue(L, 1);
    lua_rawseti(L, 4, VALUE);
    lua_pushvalue(L, 3);
    lua_rawseti(L, 4, STACK);
    lua_pushinteger(L, lua_type(L, 1));
    lua_rawseti(L, 4, TYPE);
    lua_pushboolean(L, wanted);
    lua_rawseti(L, 4, WANTED);
    return 0;
}

/* lua_pcall(L, n, 0, 0) that drops an error, but for an interruption, which is to come again */
static void call_quietly(lua_State *L, int n) {
    if (lua_pcall(L, n, 0, 0) == LUA_OK) return;
    if (lua_type(L, -1) == LUA_TSTRING && moclL_is_interruption(lua_tostring(L, -1))) mocl_interrupt(moclL_host_of(L)->ctx);
    lua_pop(L, 1);
}

void moclL_keep_stack(lua_State *L, lua_State *co) {
    if (lua_status(co) == LUA_ERRMEM || !lua_checkstack(L, 6) || !lua_checkstack(co, 1)) return;
    lua_pushcfunction(L, keep);
    lua_pushvalue(L, -2);
    lua_pushthread(co);
    lua_xmove(co, L, 1);
    call_quietly(L, 2);
}

/* arg: the error */
static int rename_kept(lua_State *L) {
    lua_settop(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &died_key);
    lua_pushvalue(L, 1);
    lua_rawseti(L, 2, VALUE);
    lua_pushinteger(L, lua_type(L, 1));
    lua_rawseti(L, 2, TYPE);
    return 0;
}

void moclL_rename_stack(lua_State *L) {
    if (!lua_checkstack(L, 6)) return;
    lua_pushcfunction(L, rename_kept);
    lua_pushvalue(L, -2);
    call_quietly(L, 1);
}

/* ---- protected calls ---- */

/* message handler: the error as a string, with a traceback where that is of use */
static int add_traceback(lua_State *L) {
    moclL_host *h = moclL_host_of(L);
    lua_settop(L, 1);
    const char *message = lua_type(L, 1) == LUA_TSTRING ? lua_tostring(L, 1) : NULL;
    h->interrupted = message && moclL_is_interruption(message);
    if (h->interrupted && h->plain_interrupt) {
        lua_pushliteral(L, "interrupted!");
        return 1;
    }
    if (h->stop || (message && strstr(message, TRACE))) return 1; /* somebody added words to it on its way */
    bool wanted;
    push_kept(L, 1, &wanted);
    lua_settop(L, 1);
    wanted = wanted || !message || wants_trace(L, 1, message);
    if (message) lua_pushvalue(L, 1);
    else push_text(L, 1);
    if (!wanted) return 1;
    lua_pushstring(L, TRACE);
    push_frames(L, 1, L, 1);
    lua_concat(L, 3);
    return 1;
}

int moclL_call(lua_State *L, int n_args, int n_results) {
    int base = lua_gettop(L) - n_args;
    moclL_host_of(L)->interrupted = false;
    lua_pushcfunction(L, add_traceback);
    lua_insert(L, base);
    int status = lua_pcall(L, n_args, n_results, base);
    lua_remove(L, base);
    if (status) moclL_dropcalls(L);
    return status;
}

const char *moclL_errortext(lua_State *L, char buf[MOCLL_ERROR_BYTES]) {
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    size_t refused = moclL_host_of(L)->refused;
    const char lua_text[] = "not enough memory";
    size_t n = sizeof lua_text - 1;
    if (!text || !refused || strncmp(text, lua_text, n) != 0) return text;
    snprintf(buf, MOCLL_ERROR_BYTES, "%s: Lua wanted %zu bytes; " MOCL_NOMEM_CURE "%s", lua_text, refused, text + n);
    return buf;
}


void moclL_open_errors(lua_State *L) {
    static const char *const names[] = {"error", "assert"};
    moclL_host *h = moclL_host_of(L);
    for (int i = 0; i < 2; i++) {
        lua_getglobal(L, names[i]);
        h->raises[i] = lua_tocfunction(L, -1);
        lua_pop(L, 1);
    }
    lua_createtable(L, WANTED, 0);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &died_key);
}
