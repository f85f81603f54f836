/* moclL.c - helpers shared by the binding files */
#include "moclL.h"

#include <stdlib.h>
#include <string.h>

#include "calls.h"
#include "kernels.h"
#include "state.h"

static const char ctx_key = 'c'; /* its address is the registry key of the context */

typedef struct ctx_box {
    mocl_ctx *ctx; /* NULL once the state is being closed */
    moclL_calls calls;
} ctx_box;

static ctx_box *box_of(lua_State *L) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &ctx_key);
    ctx_box *box = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (!box) luaL_error(L, "mocl is not open in this state: require 'mocl' first");
    return box;
}

mocl_ctx *moclL_ctx(lua_State *L) {
    ctx_box *box = box_of(L);
    if (!box->ctx) luaL_error(L, "mocl is closed: this state is ending");
    return box->ctx;
}

moclL_calls *moclL_calls_of(lua_State *L) { return &box_of(L)->calls; }

static int ctx_gc(lua_State *L) {
    ctx_box *box = lua_touserdata(L, 1);
    mocl_ctx *ctx = box->ctx;
    box->ctx = NULL;
    moclL_calls_free(&box->calls);
    mocl_ctx_free(ctx);
    return 0;
}

/* Makes the context on first call. It is the first userdata of the state, so that lua_close
** finalizes it last. */
void moclL_openctx(lua_State *L, int n_threads) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &ctx_key);
    bool have = lua_touserdata(L, -1) != NULL;
    lua_pop(L, 1);
    if (have) return;
    ctx_box *box = lua_newuserdatauv(L, sizeof *box, 0);
    memset(box, 0, sizeof *box);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, ctx_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    if (mocl_ctx_new(&box->ctx, n_threads)) luaL_error(L, "out of host memory: no context");
    const char *blas = moclL_noenv(L) ? NULL : getenv("MOCL_BLAS");
    if (blas && !strcmp(blas, "none")) box->ctx->blas = MK_BLAS_NONE;
    if (blas && !strcmp(blas, "openblas")) box->ctx->blas = MK_BLAS_OPENBLAS;
    lua_rawsetp(L, LUA_REGISTRYINDEX, &ctx_key);
}

int moclL_raise(lua_State *L, mocl_status status) {
    mocl_ctx *ctx = moclL_ctx(L);
    char text[sizeof ctx->message];
    memcpy(text, ctx->message, sizeof text);
    mocl_clear(ctx);
    /* In a finalizer, where lua_gc answers -1, the error becomes a warning: the interruption is still to come. */
    if (status == MOCL_E_INTERRUPT && lua_gc(L, LUA_GCCOUNT) < 0) mocl_ctx_interrupt(ctx);
    if (status == MOCL_E_INTERNAL) return luaL_error(L, "internal: %s", text);
    return luaL_error(L, "%s", text[0] ? text : "unknown failure");
}

int moclL_result(lua_State *L, mocl_status status, int n_results) {
    if (status == MOCL_OK) return n_results;
    if (status != MOCL_E_IO && status != MOCL_E_FORMAT) return moclL_raise(L, status);
    mocl_ctx *ctx = moclL_ctx(L);
    luaL_pushfail(L);
    lua_pushstring(L, ctx->message);
    lua_pushstring(L, status == MOCL_E_IO ? "IO" : "FORMAT");
    mocl_clear(ctx);
    return 3;
}

static int edit_distance(const char *a, const char *b) {
    enum { MAX = 63 };
    size_t n = strlen(a), m = strlen(b);
    if (n > MAX || m > MAX) return 1000;
    int row[MAX + 1];
    for (size_t j = 0; j <= m; j++) row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[m];
}

const char *moclL_nearest(const char *word, const char *const *names, int n) {
    const char *best = NULL;
    int best_distance = 1 + (int)strlen(word) / 2;
    for (int i = 0; i < n; i++) {
        int d = edit_distance(word, names[i]);
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

const char *moclL_optfield_string(lua_State *L, int idx, const char *name, const char *def) {
    if (push_field(L, idx, name)) {
        if (lua_type(L, -1) != LUA_TSTRING) moclL_badoption(L, name, "string");
        def = lua_tostring(L, -1);
        moclL_holdstring(L);
    }
    lua_pop(L, 1);
    return def;
}

/* __gc, __close and :release() are this one function: take the pointer, clear it, free it, or leave that to a running call
** that works on it. Upvalue 1 is the free function, upvalue 2 the class. */
static int owner_release(lua_State *L) {
    void **box = luaL_checkudata(L, 1, lua_tostring(L, lua_upvalueindex(2)));
    void *object = *box;
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
    void **box = lua_newuserdatauv(L, sizeof *box, 1);
    *box = NULL;
    luaL_setmetatable(L, name);
    return box;
}

void *moclL_checkowner(lua_State *L, int idx, const char *name) {
    void **box = luaL_checkudata(L, idx, name);
    if (!*box) luaL_argerror(L, idx, lua_pushfstring(L, "%s was released", name));
    moclL_hold(L, *box, NULL);
    return *box;
}
