/* ltensor_box.c - the userdata of a tensor: what checks take, its memory policy (pressure, retry; scopes are in
** lscope.c), and how it is freed.
*/
#include "ltensor_box.h"

#include "host.h"

static void unref(void *t) { mocl_tensor_unref(t); }

/* the running call works on t: it has a reference of its own until it ends */
static mocl_tensor *hold(lua_State *L, mocl_tensor *t) {
    moclL_calls *c = moclL_calls_of(L);
    if (t && c->n_frames) moclL_keep(L, c, mocl_tensor_ref(t), unref);
    return t;
}

/* moclL_testbox for tensors, without the comparison of names */
static mocl_tensor **to_box(lua_State *L, int idx) {
    moclL_calls *c = moclL_calls_of(L);
    mocl_tensor **box = lua_touserdata(L, idx);
    int top = lua_gettop(L), at = lua_absindex(L, idx);
    bool own = false;
    if (!box || !lua_getmetatable(L, at)) return NULL;
    if (lua_topointer(L, -1) == c->tensor_class) {
        lua_getiuservalue(L, at, 1);
        own = lua_touserdata(L, -1) == c;
    }
    lua_settop(L, top);
    return own ? box : NULL;
}

mocl_tensor *moclL_checktensor(lua_State *L, int idx) {
    mocl_tensor **box = to_box(L, idx);
    if (!box) box = moclL_checkbox(L, idx, MOCL_TENSOR_CLASS); /* raises */
    if (!*box) luaL_argerror(L, idx, "tensor was released");
    return hold(L, *box);
}

mocl_tensor *moclL_opttensor(lua_State *L, int idx) {
    return lua_isnoneornil(L, idx) ? NULL : moclL_checktensor(L, idx);
}

mocl_tensor *moclL_totensor(lua_State *L, int idx) {
    mocl_tensor **box = to_box(L, idx);
    return box ? hold(L, *box) : NULL;
}

const char *moclL_notensor(lua_State *L, int idx) {
    if (to_box(L, idx)) return "was released";
    if (luaL_testudata(L, idx, MOCL_TENSOR_CLASS)) return "is a copy of the bytes of a tensor, as from another thread";
    return lua_pushfstring(L, "is a %s, not a tensor", luaL_typename(L, idx));
}

mocl_tensor *moclL_optfield_tensor(lua_State *L, int idx, const char *name) {
    if (lua_isnoneornil(L, idx)) lua_pushnil(L);
    else lua_getfield(L, idx, name);
    mocl_tensor *t = moclL_totensor(L, -1);
    if (!t && luaL_testudata(L, -1, MOCL_TENSOR_CLASS)) luaL_error(L, "bad option '%s' (tensor %s)", name, moclL_notensor(L, -1));
    if (!t && !lua_isnil(L, -1)) moclL_badoption(L, name, "tensor");
    return t;
}

static size_t live_bytes(mocl_ctx *ctx) {
    size_t live = 0;
    for (int i = 0; i < MOCL_DEVICE_COUNT; i++)
        if (ctx->device[i]) live += ctx->device[i]->live;
    return live;
}

/* Lua sees a few bytes where the device holds megabytes, so its collector has to be called on purpose */
static void relieve_pressure(lua_State *L, moclL_calls *c) {
    if (live_bytes(c->ctx) <= c->limit) return;
    lua_gc(L, LUA_GCCOLLECT, 0);
    size_t next = live_bytes(c->ctx) / 2 * 3;
    c->limit = next > MOCLL_LIMIT_FLOOR ? next : MOCLL_LIMIT_FLOOR;
}

mocl_tensor **moclL_pushtensor(lua_State *L) {
    moclL_calls *c = moclL_calls_of(L);
    luaL_checkstack(L, 4, NULL);
    if (!c->ctx) moclL_ctx(L); /* raises */
    relieve_pressure(L, c);
    moclL_stress(L);
    mocl_tensor **box = moclL_newbox(L, sizeof *box, 0, NULL);
    lua_rawgetp(L, LUA_REGISTRYINDEX, c->tensor_class);
    lua_setmetatable(L, -2);
    if (c->scopes) c->scope_add(L);
    if (c->n_frames) moclL_keep(L, c, box, NULL); /* scopes leave it alone until the call ends */
    return box;
}

void moclL_pushtensorref(lua_State *L, mocl_tensor *t) {
    hold(L, t); /* what pushing collects may drop the reference it was found by */
    mocl_tensor **box = moclL_pushtensor(L);
    *box = mocl_tensor_ref(t);
}

bool moclL_makeroom(lua_State *L, mocl_status st) {
    mocl_ctx *ctx = moclL_ctx(L);
    moclL_host *h = ctx->host;
    if (st != MOCL_E_NOMEM) return false;
    if (h) h->making_room = true;
    lua_gc(L, LUA_GCCOLLECT, 0);
    if (h) h->making_room = false;
    for (int i = 0; i < MOCL_DEVICE_COUNT; i++)
        if (ctx->device[i]) mocl_device_flush(ctx->device[i]);
    mocl_clear(ctx);
    return true;
}

/* :release(), __close and __gc. It works on nothing, so it is no call: most run inside one, where the collector does. */
int moclL_tensor_release(lua_State *L) {
    mocl_tensor **box = to_box(L, 1), *t = box ? *box : NULL;
    if (!box) luaL_checkudata(L, 1, MOCL_TENSOR_CLASS); /* a copy of bytes has nothing to free */
    if (box) *box = NULL;
    mocl_tensor_unref(t);
    return 0;
}

/* ---- sizes and indices as arguments ---- */

int moclL_checkdim(lua_State *L, int idx, int ndim) {
    lua_Integer d = luaL_checkinteger(L, idx);
    lua_Integer dim = d < 0 ? d + ndim : d - 1;
    if (d == 0 || dim < 0 || dim >= ndim)
        luaL_argerror(L, idx, lua_pushfstring(L, "dimension %I is outside 1 .. %d", d, ndim));
    return (int)dim;
}

int moclL_checkshape(lua_State *L, int idx, int64_t shape[MK_MAX_DIMS]) {
    bool table = lua_istable(L, idx);
    lua_Integer n = table ? moclL_len(L, idx) : lua_gettop(L) - idx + 1;
    if (n < 0) n = 0; /* no argument there */
    if (n > MK_MAX_DIMS) luaL_argerror(L, idx, lua_pushfstring(L, "at most %d dimensions", MK_MAX_DIMS));
    for (int i = 0; i < (int)n; i++) {
        int is_integer = 1;
        if (table) {
            lua_geti(L, idx, i + 1);
            shape[i] = moclL_tointeger(L, -1, &is_integer);
            lua_pop(L, 1);
        } else {
            shape[i] = moclL_tointeger(L, idx + i, &is_integer);
        }
        if (!is_integer) luaL_argerror(L, idx, "sizes must be integers");
    }
    return (int)n;
}

mocl_tensor *moclL_pushids(lua_State *L, int idx, mocl_device *dev, int base) {
    idx = lua_absindex(L, idx);
    mocl_tensor *given = moclL_totensor(L, idx);
    if (given && given->dtype != MK_I32)
        luaL_argerror(L, idx, lua_pushfstring(L, "expected i32 indices, got %s", mocl_dtype_name(given->dtype)));
    if (given && base == 0 && given->storage->dev == dev && mocl_tensor_is_contiguous(given)) {
        moclL_pushtensorref(L, given);
        return given;
    }
    if (!given && !lua_istable(L, idx)) {
        if (luaL_testudata(L, idx, MOCL_TENSOR_CLASS)) moclL_checktensor(L, idx); /* raises */
        luaL_typeerror(L, idx, "table or i32 tensor");
    }
    int64_t n = given ? mocl_tensor_numel(given) : moclL_len(L, idx);
    int32_t *host = lua_newuserdatauv(L, (size_t)(n ? n : 1) * sizeof *host, 0);
    if (given) {
        mocl_status st = mocl_tensor_to_host(given, host);
        if (st) moclL_raise(L, st);
    }
    for (int64_t i = 0; i < n; i++) {
        lua_Integer v;
        if (given) {
            v = host[i];
        } else {
            int is_integer;
            lua_geti(L, idx, i + 1);
            v = moclL_tointeger(L, -1, &is_integer);
            if (!is_integer) luaL_argerror(L, idx, lua_pushfstring(L, "entry %I is not an integer", (lua_Integer)i + 1));
            lua_pop(L, 1);
        }
        v -= base;
        if (v < INT32_MIN || v > INT32_MAX) luaL_argerror(L, idx, lua_pushfstring(L, "entry %I does not fit i32", (lua_Integer)i + 1));
        host[i] = (int32_t)v;
    }
    mocl_tensor **out = moclL_pushtensor(L);
    mocl_status st = given ? mocl_tensor_from_host(out, dev, MK_I32, given->ndim, given->shape, host)
                           : mocl_tensor_i32(out, dev, n, host);
    if (st) moclL_raise(L, st);
    lua_remove(L, -2); /* the host copy */
    return *out;
}
