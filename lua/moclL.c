/* moclL.c - helpers shared by the binding files */
#include "moclL.h"

#include <limits.h>
#include <string.h>

#include "host.h"

enum { NAME_MAX_BYTES = 63 }; /* longer words are near to none */

/* Edits that make b of a: a byte more, less or other, or two neighbours swapped. */
static int edit_distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    if (n > NAME_MAX_BYTES || m > NAME_MAX_BYTES) return INT_MAX;
    int rows[3][NAME_MAX_BYTES + 1], *before = rows[0], *last = rows[1], *row = rows[2];
    for (size_t j = 0; j <= m; j++) last[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best) best = last[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before[j - 2] + 1 < best) best = before[j - 2] + 1;
            row[j] = best;
        }
        int *oldest = before;
        before = last;
        last = row;
        row = oldest;
    }
    return last[m];
}

const char *moclL_nearest(const char *word, const char *const *names, int n) {
    const char *best = NULL;
    int bound = (int)(strlen(word) / 3), best_distance = (bound > 1 ? bound : 1) + 1;
    for (int i = 0; i < n; i++) {
        const char *dot = strrchr(names[i], '.');
        int d = dot && strcmp(dot + 1, word) == 0 ? 0 : edit_distance(word, names[i]);
        if (d < best_distance) best_distance = d, best = names[i];
    }
    return best;
}

void moclL_checkoptions(lua_State *L, int idx, const char *const known[]) {
    if (lua_isnoneornil(L, idx)) return;
    luaL_checktype(L, idx, LUA_TTABLE);
    idx = lua_absindex(L, idx);
    int n = 0;
    while (known[n]) n++;
    lua_pushnil(L);
    while (lua_next(L, idx)) {
        lua_pop(L, 1); /* stack: key */
        if (lua_type(L, -1) != LUA_TSTRING) {
            luaL_error(L, "options must have string keys, got a %s key", luaL_typename(L, -1));
            return;
        }
        const char *key = lua_tostring(L, -1);
        bool found = false;
        for (int i = 0; i < n && !found; i++) found = strcmp(known[i], key) == 0;
        if (!found) {
            const char *near = moclL_nearest(key, known, n);
            if (near) luaL_error(L, "unknown option '%s' (did you mean '%s'?)", key, near);
            luaL_error(L, "unknown option '%s'", key);
        }
    }
}

bool moclL_iscallable(lua_State *L, int idx) {
    if (lua_isfunction(L, idx)) return true;
    if (luaL_getmetafield(L, idx, "__call") == LUA_TNIL) return false;
    lua_pop(L, 1);
    return true;
}

void moclL_checkcallable(lua_State *L, int idx) {
    if (!moclL_iscallable(L, idx)) luaL_typeerror(L, idx, "function");
}

lua_Integer moclL_tointeger(lua_State *L, int idx, int *is_integer) {
    *is_integer = 0;
    return lua_type(L, idx) == LUA_TNUMBER ? lua_tointegerx(L, idx, is_integer) : 0;
}

/* pushes the field (nil if there is no table); true if it is there */
static bool push_field(lua_State *L, int idx, const char *name) {
    if (lua_isnoneornil(L, idx)) {
        lua_pushnil(L);
        return false;
    }
    luaL_checktype(L, idx, LUA_TTABLE);
    return lua_getfield(L, idx, name) != LUA_TNIL;
}

int moclL_badoption(lua_State *L, const char *name, const char *expected) {
    return luaL_error(L, "bad option '%s' (%s expected, got %s)", name, expected, luaL_typename(L, -1));
}

lua_Number moclL_optfield_number(lua_State *L, int idx, const char *name, lua_Number def) {
    if (push_field(L, idx, name)) {
        if (lua_type(L, -1) != LUA_TNUMBER) moclL_badoption(L, name, "number");
        def = lua_tonumber(L, -1);
    }
    lua_pop(L, 1);
    return def;
}

lua_Integer moclL_optfield_integer(lua_State *L, int idx, const char *name, lua_Integer def) {
    if (push_field(L, idx, name)) {
        int is_integer;
        lua_Integer v = moclL_tointeger(L, -1, &is_integer);
        if (!is_integer) moclL_badoption(L, name, "integer");
        def = v;
    }
    lua_pop(L, 1);
    return def;
}

bool moclL_optfield_boolean(lua_State *L, int idx, const char *name, bool def) {
    if (push_field(L, idx, name)) {
        if (lua_type(L, -1) != LUA_TBOOLEAN) moclL_badoption(L, name, "boolean");
        def = lua_toboolean(L, -1);
    }
    lua_pop(L, 1);
    return def;
}

bool moclL_optfield_table(lua_State *L, int idx, const char *name) {
    if (push_field(L, idx, name)) {
        if (!lua_istable(L, -1)) moclL_badoption(L, name, "table");
        return true;
    }
    lua_pop(L, 1);
    return false;
}

bool moclL_optfield_function(lua_State *L, int idx, const char *name) {
    if (push_field(L, idx, name)) {
        if (!moclL_iscallable(L, -1)) moclL_badoption(L, name, "function");
        return true;
    }
    lua_pop(L, 1);
    return false;
}

const char *moclL_optfield_lstring(lua_State *L, int idx, const char *name, const char *def, size_t *n) {
    if (n && def) *n = strlen(def);
    if (push_field(L, idx, name)) {
        if (lua_type(L, -1) != LUA_TSTRING) moclL_badoption(L, name, "string");
        def = lua_tolstring(L, -1, n);
        moclL_holdstring(L);
    }
    lua_pop(L, 1);
    return def;
}

const char *moclL_optfield_string(lua_State *L, int idx, const char *name, const char *def) {
    return moclL_optfield_lstring(L, idx, name, def, NULL);
}

/* ---- userdata that hold a pointer ---- */

/* Its first user value says of which state it is. Libraries that hand values to other threads copy the bytes of a
** userdata, and may give the copy a metatable by its name (luv); they do not copy user values. */
void *moclL_newbox(lua_State *L, size_t bytes, int n_values, const char *name) {
    void *box = lua_newuserdatauv(L, bytes, 1 + n_values);
    memset(box, 0, bytes);
    lua_pushlightuserdata(L, moclL_calls_of(L));
    lua_setiuservalue(L, -2, 1);
    if (name) luaL_setmetatable(L, name);
    return box;
}

bool moclL_isown(lua_State *L, int idx) {
    lua_getiuservalue(L, idx, 1); /* pushes nil where there is none */
    bool own = lua_touserdata(L, -1) == moclL_calls_of(L);
    lua_pop(L, 1);
    return own;
}

void *moclL_testbox(lua_State *L, int idx, const char *name) {
    void *box = luaL_testudata(L, idx, name);
    return box && moclL_isown(L, idx) ? box : NULL;
}

void *moclL_checkbox(lua_State *L, int idx, const char *name) {
    void *box = luaL_checkudata(L, idx, name);
    if (!moclL_isown(L, idx)) {
        const char *why = "this %s is a copy of the bytes of one, as from another thread: hand over numbers, text or a file";
        luaL_argerror(L, idx, lua_pushfstring(L, why, name));
    }
    return box;
}

/* __gc, __close and :release() are this one function: take the pointer, clear it, free it, or leave that to a running
** call that works on it. A copy of its bytes has nothing to free. Upvalue 1 is the free function, upvalue 2 the class. */
static int owner_release(lua_State *L) {
    const char *name = lua_tostring(L, lua_upvalueindex(2));
    luaL_checkudata(L, 1, name);
    void **box = moclL_testbox(L, 1, name), *object = box ? *box : NULL;
    if (object) {
        moclL_free free_fn = (moclL_free)(void (*)(void))lua_tocfunction(L, lua_upvalueindex(1));
        *box = NULL;
        if (!moclL_defer(L, object, free_fn)) free_fn(object);
    }
    return 0;
}

void moclL_newclass(lua_State *L, const char *name, const luaL_Reg *methods, moclL_free free_fn) {
    static const char *const release_names[] = {"release", "__gc", "__close"};
    luaL_newmetatable(L, name);
    moclL_setfuncs(L, methods);
    for (int i = 0; i < 3; i++) {
        lua_pushcfunction(L, (lua_CFunction)(void (*)(void))free_fn);
        lua_pushstring(L, name);
        lua_pushcclosure(L, owner_release, 2);
        lua_setfield(L, -2, release_names[i]);
    }
    if (lua_getfield(L, -1, "__index") == LUA_TNIL) { /* a class may bring its own __index */
        lua_pushvalue(L, -2);
        lua_setfield(L, -3, "__index");
    }
    lua_pop(L, 2);
}

void moclL_stress(lua_State *L) {
    moclL_host *h = moclL_ctx(L)->host;
    if (h && h->stress && ++h->owners % h->stress == 0) lua_gc(L, LUA_GCCOLLECT, 0);
}

void **moclL_pushowner(lua_State *L, const char *name) {
    moclL_stress(L);
    return moclL_newbox(L, sizeof(void *), 1, name);
}

void *moclL_checkowner(lua_State *L, int idx, const char *name) {
    void **box = moclL_checkbox(L, idx, name);
    if (!*box) luaL_argerror(L, idx, lua_pushfstring(L, "%s was released", name));
    moclL_hold(L, *box, NULL);
    return *box;
}

void *moclL_checkidle(lua_State *L, int idx, const char *name, const char *what) {
    void *object = moclL_checkowner(L, idx, name);
    if (moclL_inuse(L, object)) luaL_error(L, "%s is at work in a call that has not ended; call it afterwards", what);
    return object;
}

/* ---- lists ---- */

lua_Integer moclL_len(lua_State *L, int idx) {
    lua_Integer n = luaL_len(L, idx);
    if (n < 0 || n >= INT_MAX) luaL_error(L, "a list with %I entries", n);
    return n;
}
