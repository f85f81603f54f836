/* ltensor_box.c - the userdata of a tensor: what checks take, its memory policy (pressure, retry; scopes are in
** lscope.c), and how it is freed.
*/
#include "calls.h"
#include "lscope.h"
#include "ltensor.h"
#include "state.h"

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
    if (c->scopes) moclL_scope_add(L);
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
