/* lcomm.c - module mocl.comm.core: the job of MPI as it is (stdlib/mocl/comm.lua has the rest).
**
** core.job() -> {rank=, size=, local_rank=, local_size=, host=, family=}
** core.exchange(what, bytes) -> list of what each rank gave; or fail
** core.gather(what, t) -> the tensors of all ranks, one behind the other along dimension 1; or fail
** core.limit(seconds)  core.place(text)  core.alive()  core.counts() -> {exchanges=, bytes=, seconds=}
**
** Ranks that fail to meet are nil, message, "IO"; a signal raises.
*/
#include <string.h>

#include "comm.h"
#include "ltensor.h"
#include "modules.h"

#define PARTS "mocl.comm.parts" /* owns what was received while it becomes a Lua value */

static int comm_job(lua_State *L) {
    const mocl_comm_job *j = mocl_comm();
    lua_createtable(L, 0, 6);
    lua_pushinteger(L, j->rank);
    lua_setfield(L, -2, "rank");
    lua_pushinteger(L, j->size);
    lua_setfield(L, -2, "size");
    lua_pushinteger(L, j->local_rank);
    lua_setfield(L, -2, "local_rank");
    lua_pushinteger(L, j->local_size);
    lua_setfield(L, -2, "local_size");
    lua_pushstring(L, j->host);
    lua_setfield(L, -2, "host");
    lua_pushstring(L, j->family);
    lua_setfield(L, -2, "family");
    return 1;
}

static int comm_exchange(lua_State *L) {
    size_t n;
    const char *what = luaL_checkstring(L, 1), *bytes = luaL_checklstring(L, 2, &n);
    int size = mocl_comm()->size;
    void **box = moclL_pushowner(L, PARTS);
    mocl_comm_parts parts;
    mocl_status st = mocl_comm_exchange(moclL_ctx(L), what, bytes, n, &parts);
    *box = parts.data;
    if (st) return moclL_result(L, st, 0);
    lua_createtable(L, size, 0);
    for (int r = 0; r < size; r++) {
        lua_pushlstring(L, parts.data + parts.offset[r], parts.offset[r + 1] - parts.offset[r]);
        lua_rawseti(L, -2, r + 1);
    }
    *box = NULL;
    mocl_free(parts.data);
    return 1;
}

static int comm_gather(lua_State *L) {
    const char *what = luaL_checkstring(L, 1);
    mocl_tensor *t = moclL_checktensor(L, 2);
    luaL_argcheck(L, t->ndim >= 1, 2, "a tensor with a dimension to join along expected, got a scalar");
    size_t row = mocl_dtype_size(t->dtype), n = row * (size_t)mocl_tensor_numel(t);
    int64_t shape[MK_MAX_DIMS];
    for (int i = 0; i < t->ndim; i++) shape[i] = t->shape[i];
    for (int i = 1; i < t->ndim; i++) row *= (size_t)shape[i];
    void **sent = moclL_pushowner(L, PARTS), **box = moclL_pushowner(L, PARTS);
    mocl_ctx *ctx = moclL_ctx(L);
    char *bytes = mocl_alloc(ctx, n);
    if (!bytes) return moclL_raise(L, mocl_nomem(ctx, n));
    *sent = bytes;
    mocl_status st = mocl_tensor_to_host(t, bytes);
    if (st) return moclL_raise(L, st);
    mocl_comm_parts parts;
    st = mocl_comm_exchange(ctx, what, bytes, n, &parts);
    *box = parts.data;
    if (st) {
        *sent = NULL; /* a collective that was left may still read it */
        return moclL_result(L, st, 0);
    }
    size_t all = parts.offset[mocl_comm()->size];
    if (row ? all % row : all) return luaL_error(L, "gather: '%s': %I bytes are no whole rows of %I: the ranks gave tensors of other shapes", what, (lua_Integer)all, (lua_Integer)row);
    shape[0] = row ? (int64_t)(all / row) : 0;
    MOCLL_CALL(L, mocl_tensor_from_host(moclL_pushtensor(L), t->storage->dev, t->dtype, t->ndim, shape, parts.data));
    return 1;
}

static int comm_limit(lua_State *L) {
    double s = luaL_checknumber(L, 1);
    luaL_argcheck(L, s > 0, 1, "seconds expected, more than 0");
    mocl_comm_limit(s);
    return 0;
}

static int comm_place(lua_State *L) {
    mocl_comm_place(luaL_checkstring(L, 1));
    return 0;
}

static int comm_alive(lua_State *L) {
    (void)L;
    mocl_comm_alive();
    return 0;
}

static int comm_counts(lua_State *L) {
    mocl_comm_counts c = mocl_comm_counted();
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, (lua_Integer)c.exchanges);
    lua_setfield(L, -2, "exchanges");
    lua_pushinteger(L, (lua_Integer)c.bytes);
    lua_setfield(L, -2, "bytes");
    lua_pushnumber(L, c.seconds);
    lua_setfield(L, -2, "seconds");
    return 1;
}

int moclL_open_comm_core(lua_State *L) {
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg functions[] = {
        {"job", comm_job},     {"exchange", comm_exchange}, {"gather", comm_gather}, {"limit", comm_limit},
        {"place", comm_place}, {"alive", comm_alive},       {"counts", comm_counts}, {NULL, NULL}};
    moclL_opentensors(L);
    moclL_newclass(L, PARTS, none, mocl_free);
    moclL_newlib(L, functions);
    return 1;
}
