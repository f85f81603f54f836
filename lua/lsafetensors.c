/* lsafetensors.c - module mocl.safetensors: files of named tensors */
#include "io/safetensors.h"

#include <string.h>

#include "ltensor.h"
#include "modules.h"

/* the format's names by dtype; in the double build f32 tensors hold doubles and are stored as such */
static const char *const format_names[MK_DTYPE_COUNT] = {
    [MK_F32] = sizeof(mk_real) == 4 ? "F32" : "F64", [MK_BF16] = "BF16", [MK_F16] = "F16", [MK_I8] = "I8",
    [MK_U8] = "U8", [MK_I32] = "I32", [MK_I64] = "I64"};

#define FILE_CLASS "mocl.safetensors.file"

static void close_file(void *s) { mocl_safetensors_close(s); }

/* whether no tensor can have this shape: strides are products of the sizes, beside a zero too */
static bool is_too_large(const mocl_safetensors_entry *e, mk_dtype dtype) {
    int64_t bytes = (int64_t)mocl_dtype_size(dtype);
    for (int i = 0; i < e->ndim; i++)
        if (e->shape[i] && __builtin_mul_overflow(bytes, e->shape[i], &bytes)) return true;
    return false;
}

/* load(path, {device="cpu", map=false, only=function(name) ... end}) -> {name = tensor}, {key = text} | fail.
** `only` may be given to leave tensors out; with `map` the tensors are the mapped file, where that is possible. */
static int safetensors_load(lua_State *L) {
    static const char *const options[] = {"device", "map", "only", NULL};
    const char *path = luaL_checkstring(L, 1);
    lua_settop(L, 2);
    moclL_checkoptions(L, 2, options);
    mocl_ctx *ctx = moclL_ctx(L);
    mocl_device *dev = moclL_optdevice(L, 2);
    bool map = moclL_optfield_boolean(L, 2, "map", false);
    if (!moclL_optfield_function(L, 2, "only")) lua_pushnil(L); /* 3 */
    mocl_safetensors **owner = (mocl_safetensors **)moclL_pushowner(L, FILE_CLASS); /* 4 */
    mocl_status st = mocl_safetensors_open(ctx, owner, path);
    if (st) return moclL_result(L, st, 0);
    mocl_safetensors *file = *owner;
    moclL_hold(L, file, NULL); /* the debug library finds what is on the stack */
    moclL_pushguard(L, "only of safetensors.load"); /* 5 */
    lua_newtable(L); /* 6 */
    for (size_t i = 0; i < file->n; i++) {
        const mocl_safetensors_entry *e = &file->entries[i];
        mk_dtype dtype = MK_DTYPE_COUNT;
        mocl_safetensors_pass(file, i);
        if (!lua_isnil(L, 3)) {
            lua_pushvalue(L, 3);
            lua_pushlstring(L, e->name, e->name_bytes);
            lua_call(L, 1, 1);
            bool wanted = lua_toboolean(L, -1);
            lua_pop(L, 1);
            if (!wanted) continue;
        }
        for (int d = 0; d < MK_DTYPE_COUNT; d++)
            if (strcmp(format_names[d], e->dtype) == 0) dtype = (mk_dtype)d;
        if (dtype == MK_DTYPE_COUNT || e->ndim > MK_MAX_DIMS)
            return moclL_result(L, mocl_fail(ctx, MOCL_E_FORMAT, "%s: tensor '%s' is %s with %d dimensions, which mocl does "
                                                                 "not hold", path, e->name, e->dtype, e->ndim), 0);
        if (is_too_large(e, dtype))
            return moclL_result(L, mocl_fail(ctx, MOCL_E_FORMAT, "%s: tensor '%s': the product of its shape overflows, zeros left "
                                                                 "out", path, e->name), 0);
        lua_pushlstring(L, e->name, e->name_bytes);
        mocl_tensor **t = moclL_pushtensor(L);
        MOCLL_CALL(L, mocl_safetensors_tensor(t, dev, file, e, dtype, map));
        mocl_tensor_forget(*t); /* its bytes may have been hashed just now */
        lua_rawset(L, 6);
    }
    mocl_safetensors_passed(ctx, file, path);
    lua_newtable(L); /* 7 */
    for (size_t i = 0; i < file->n_metadata; i++) {
        const mocl_safetensors_text *pair = &file->metadata[i];
        lua_pushlstring(L, pair->key, pair->key_bytes);
        lua_pushlstring(L, pair->value, pair->value_bytes);
        lua_rawset(L, 7);
    }
    file = *owner; /* NULL where the call frees it at its end */
    *owner = NULL;
    mocl_safetensors_close(file);
    return 2;
}

/* The string at idx as the writer takes it; raises where it would be cut. */
static const char *check_text(lua_State *L, int idx) {
    size_t n;
    const char *text = lua_tolstring(L, idx, &n);
    if (strlen(text) != n) luaL_error(L, "save: '%s' goes on behind a zero byte, which mocl does not write", text);
    return text;
}

/* the call goes on using the characters of the string at idx: a finalizer may take it out of its table */
static void keep_text(lua_State *L, int idx) {
    lua_pushvalue(L, idx);
    moclL_holdstring(L);
    lua_pop(L, 1);
}

static mocl_status fill_from_device(mocl_ctx *ctx, void *user, size_t offset, void *buffer, size_t n) {
    mocl_tensor *t = user;
    (void)ctx;
    return mocl_device_download(t->storage->dev, buffer, (const char *)mocl_tensor_data(t) + offset, n);
}

/* save(path, {name = tensor}, {key = text}) -> true | fail. Written whole or not at all. */
static int safetensors_save(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 3);
    if (!lua_isnil(L, 3)) luaL_checktype(L, 3, LUA_TTABLE);
    size_t n = 0, n_meta = 0;
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) n++;
    if (!lua_isnil(L, 3))
        for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1)) n_meta++;
    mocl_safetensors_source *list = lua_newuserdatauv(L, (n ? n : 1) * sizeof *list, 0);    /* 4 */
    mocl_safetensors_pair *meta = lua_newuserdatauv(L, (n_meta ? n_meta : 1) * sizeof *meta, 0); /* 5 */
    lua_createtable(L, (int)n, 0); /* 6: keeps contiguous copies alive */
    size_t i = 0;
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
        mocl_tensor *t = moclL_totensor(L, -1);
        if (i == n) return luaL_error(L, "save: the table of tensors changed while it was read"); /* by a finalizer */
        if (lua_type(L, -2) != LUA_TSTRING) return luaL_error(L, "save: the table must map names to tensors");
        if (!t) return luaL_error(L, "save: the table must map names to tensors: '%s' %s", lua_tostring(L, -2), moclL_notensor(L, -1));
        mocl_tensor **c = moclL_pushtensor(L);
        MOCLL_CALL(L, mocl_tensor_contiguous(c, t));
        list[i] = (mocl_safetensors_source){.name = check_text(L, -3), .dtype = format_names[t->dtype], .ndim = t->ndim,
                                            .shape = (*c)->shape, .fill = fill_from_device, .user = *c};
        lua_rawseti(L, 6, (lua_Integer)++i);
        keep_text(L, -2);
    }
    if (i != n) return luaL_error(L, "save: the table of tensors changed while it was read");
    i = 0;
    if (n_meta)
        for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1), i++) {
            if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
                return luaL_error(L, "save: metadata must map strings to strings");
            if (i == n_meta) return luaL_error(L, "save: the metadata changed while it was read");
            meta[i] = (mocl_safetensors_pair){.key = check_text(L, -2), .value = check_text(L, -1)};
            keep_text(L, -2);
            keep_text(L, -1);
        }
    lua_pushboolean(L, 1);
    if (i != n_meta) return luaL_error(L, "save: the metadata changed while it was read");
    return moclL_result(L, mocl_safetensors_write(moclL_ctx(L), path, list, n, meta, n_meta), 1);
}

static const luaL_Reg functions[] = {{"load", safetensors_load}, {"save", safetensors_save}, {NULL, NULL}};
static const luaL_Reg no_methods[] = {{NULL, NULL}};

int moclL_open_safetensors(lua_State *L) {
    moclL_opentensors(L);
    moclL_newclass(L, FILE_CLASS, no_methods, close_file);
    moclL_newlib(L, functions);
    return 1;
}
