/* values.c - values of Lua as mocl.h has them, and functions of the host as functions of Lua */
#include "values.h"

#include <string.h>

static const char kept_key = 'k'; /* registry: what moclL_take_values handed out last */

static size_t checked_length(lua_State *L, const mocl_value *v, const void *list) {
    if (v->n && !list) luaL_error(L, "a list of %d, but its pointer is NULL", (int)v->n);
    luaL_argcheck(L, v->n <= (size_t)1 << 30, 1, "a list of more than 2^30");
    return v->n;
}

void moclL_push_value(lua_State *L, const mocl_value *v) {
    luaL_checkstack(L, 4, "too many values");
    switch (v->type) {
    case MOCL_NIL: lua_pushnil(L); break;
    case MOCL_BOOLEAN: lua_pushboolean(L, v->number != 0); break;
    case MOCL_NUMBER: lua_pushnumber(L, v->number); break;
    case MOCL_STRING:
        if (!v->string) luaL_error(L, "a string whose pointer is NULL");
        lua_pushlstring(L, v->string, v->n);
        break;
    case MOCL_NUMBERS:
    case MOCL_STRINGS: {
        bool numbers = v->type == MOCL_NUMBERS;
        size_t n = checked_length(L, v, numbers ? (const void *)v->numbers : (const void *)v->strings);
        lua_createtable(L, (int)n, 0);
        for (size_t i = 0; i < n; i++) {
            if (numbers) lua_pushnumber(L, v->numbers[i]);
            else lua_pushstring(L, v->strings[i]);
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
        break;
    }
    default: luaL_error(L, "a value of type %d cannot be given to Lua", v->type);
    }
}

/* Is the table on top of the stack a list of that type alone? */
static bool is_list(lua_State *L, int type, lua_Integer n) {
    bool is = true;
    for (lua_Integer i = 1; is && i <= n; i++) {
        is = lua_rawgeti(L, -1, i) == type;
        lua_pop(L, 1);
    }
    return is;
}

/* The list on top of the stack, in a block that the table at `kept` keeps beside the strings. */
static void take_list(lua_State *L, mocl_value *v, int kept, int type, lua_Integer n) {
    void *block = lua_newuserdatauv(L, (size_t)n * (type == LUA_TNUMBER ? sizeof(double) : sizeof(char *)) + 1, 0);
    lua_rawseti(L, kept, luaL_len(L, kept) + 1);
    v->n = (size_t)n;
    v->type = type == LUA_TNUMBER ? MOCL_NUMBERS : MOCL_STRINGS;
    if (type == LUA_TNUMBER) v->numbers = block;
    else v->strings = block;
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        if (type == LUA_TNUMBER) ((double *)block)[i - 1] = lua_tonumber(L, -1);
        else ((const char **)block)[i - 1] = lua_tostring(L, -1);
        if (type == LUA_TNUMBER) lua_pop(L, 1);
        else lua_rawseti(L, kept, luaL_len(L, kept) + 1);
    }
}

/* the value on top of the stack, which stays */
static void take_value(lua_State *L, mocl_value *v, int kept) {
    memset(v, 0, sizeof *v);
    switch (lua_type(L, -1)) {
    case LUA_TNIL: v->type = MOCL_NIL; return;
    case LUA_TBOOLEAN: v->type = MOCL_BOOLEAN, v->number = lua_toboolean(L, -1); return;
    case LUA_TNUMBER: v->type = MOCL_NUMBER, v->number = lua_tonumber(L, -1); return;
    case LUA_TSTRING:
        v->type = MOCL_STRING;
        v->string = lua_tolstring(L, -1, &v->n);
        lua_pushvalue(L, -1);
        lua_rawseti(L, kept, luaL_len(L, kept) + 1);
        return;
    case LUA_TTABLE: {
        lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
        lua_pushnil(L);
        bool empty = !lua_next(L, -2);
        if (!empty) lua_pop(L, 2);
        if (n ? is_list(L, LUA_TNUMBER, n) : false) {
            take_list(L, v, kept, LUA_TNUMBER, n);
            return;
        }
        if (n ? is_list(L, LUA_TSTRING, n) : empty) {
            take_list(L, v, kept, LUA_TSTRING, n);
            return;
        }
    }
    }
    v->type = MOCL_OTHER;
    v->string = luaL_typename(L, -1);
}

void moclL_take_values(lua_State *L, mocl_value *v, int n) {
    luaL_checkstack(L, 6, "too many values");
    lua_newtable(L);
    int kept = lua_gettop(L);
    for (int i = 0; i < n; i++) {
        lua_pushvalue(L, kept - n + i);
        take_value(L, &v[i], kept);
        lua_pop(L, 1);
    }
    lua_rawsetp(L, LUA_REGISTRYINDEX, &kept_key);
    lua_pop(L, n);
}

/* ---- functions of the host ---- */

typedef struct host_function {
    mocl_function *f;
    void *data;
} host_function;

/* Upvalue 1: the function. The arguments are kept by a table on its own stack, since the function may call back. */
static int call_host(lua_State *L) {
    const host_function *h = lua_touserdata(L, lua_upvalueindex(1));
    int n = lua_gettop(L);
    mocl_value *args = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *args, 0), result = {0};
    lua_newtable(L);
    luaL_checkstack(L, 6, "too many values");
    for (int i = 0; i < n; i++) {
        lua_pushvalue(L, i + 1);
        take_value(L, &args[i], n + 2);
        lua_pop(L, 1);
    }
    if (h->f(h->data, args, n, &result) != MOCL_DONE) {
        luaL_where(L, 1);
        lua_pushstring(L, result.string ? result.string : "the host's function has failed");
        lua_concat(L, 2);
        return lua_error(L);
    }
    moclL_push_value(L, &result);
    return 1;
}

void moclL_push_host_function(lua_State *L, mocl_function *f, void *data) {
    host_function *h = lua_newuserdatauv(L, sizeof *h, 0);
    h->f = f;
    h->data = data;
    lua_pushcclosure(L, call_host, 1);
}
