/* lgguf.c - module mocl.gguf.core: GGUF files; stdlib/mocl/lm/gguf.lua makes mocl.lm.gguf of it */
#include <limits.h>
#include <string.h>

#include "io/file.h"
#include "io/gguf.h"
#include "ltensor.h"
#include "modules.h"

#define CLASS "mocl.gguf.file"

static void close_file(void *g) { mocl_gguf_close(g); }

static mocl_gguf *check(lua_State *L) { return moclL_checkowner(L, 1, CLASS); }

/* open(path) -> file | fail */
static int gguf_open(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    mocl_gguf **g = (mocl_gguf **)moclL_pushowner(L, CLASS);
    return moclL_result(L, mocl_gguf_open(moclL_ctx(L), g, path), 1);
}

/* is(path) -> boolean */
static int gguf_is(lua_State *L) {
    lua_pushboolean(L, mocl_gguf_is(luaL_checkstring(L, 1)));
    return 1;
}

static void push_value(lua_State *L, const mocl_gguf_value *v) {
    mocl_gguf_value inner;
    const unsigned char *at = v->at;
    luaL_checkstack(L, 2, "gguf");
    switch (v->type) {
        case MOCL_GGUF_BOOL: lua_pushboolean(L, v->truth); break;
        case MOCL_GGUF_F32:
        case MOCL_GGUF_F64: lua_pushnumber(L, v->real); break;
        case MOCL_GGUF_STRING: lua_pushlstring(L, v->text, v->text_bytes); break;
        case MOCL_GGUF_ARRAY:
            lua_createtable(L, v->count > INT_MAX ? INT_MAX : (int)v->count, 0);
            for (uint64_t i = 0; i < v->count; i++) {
                at = mocl_gguf_read(&inner, v->element, at);
                push_value(L, &inner);
                lua_rawseti(L, -2, (lua_Integer)i + 1);
            }
            break;
        default: lua_pushinteger(L, v->integer); break;
    }
}

/* file:header() -> version, alignment */
static int file_header(lua_State *L) {
    mocl_gguf *g = check(L);
    lua_pushinteger(L, g->version);
    lua_pushinteger(L, g->alignment);
    return 2;
}

/* file:keys() -> list of names */
static int file_keys(lua_State *L) {
    mocl_gguf *g = check(L);
    lua_createtable(L, g->n_keys > INT_MAX ? INT_MAX : (int)g->n_keys, 0);
    for (size_t i = 0; i < g->n_keys; i++) {
        lua_pushstring(L, g->keys[i].name);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* file:value(name) -> value, "u32" or "array of string" | nil */
static int file_value(lua_State *L) {
    size_t n;
    mocl_gguf *g = check(L);
    const char *name = luaL_checklstring(L, 2, &n);
    const mocl_gguf_key *key = strlen(name) == n ? mocl_gguf_find_key(g, name) : NULL;
    if (!key) return 0;
    push_value(L, &key->value);
    if (key->value.type == MOCL_GGUF_ARRAY)
        lua_pushfstring(L, "array of %s", mocl_gguf_type_name(key->value.element));
    else
        lua_pushstring(L, mocl_gguf_type_name(key->value.type));
    return 2;
}

static void push_shape(lua_State *L, const mocl_gguf_tensor *t) {
    lua_createtable(L, t->ndim, 0);
    for (int d = 0; d < t->ndim; d++) {
        lua_pushinteger(L, t->shape[d]);
        lua_rawseti(L, -2, d + 1);
    }
}

/* file:tensors() -> list of {name =, type =, shape =, bytes =} in the order of the file */
static int file_tensors(lua_State *L) {
    mocl_gguf *g = check(L);
    lua_createtable(L, g->n_tensors > INT_MAX ? INT_MAX : (int)g->n_tensors, 0);
    for (size_t i = 0; i < g->n_tensors; i++) {
        const mocl_gguf_tensor *t = &g->tensors[i];
        lua_createtable(L, 0, 4);
        lua_pushstring(L, t->name);
        lua_setfield(L, -2, "name");
        lua_pushstring(L, t->format->name);
        lua_setfield(L, -2, "type");
        push_shape(L, t);
        lua_setfield(L, -2, "shape");
        lua_pushinteger(L, (lua_Integer)t->bytes);
        lua_setfield(L, -2, "bytes");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* file:tensor(path, name, {device="cpu", heads=0}) -> tensor | fail; path starts messages */
static int file_tensor(lua_State *L) {
    static const char *const options[] = {"device", "heads", NULL};
    size_t n;
    mocl_gguf *g = check(L);
    const char *path = luaL_checkstring(L, 2), *name = luaL_checklstring(L, 3, &n);
    moclL_checkoptions(L, 4, options);
    mocl_device *dev = moclL_optdevice(L, 4);
    lua_Integer heads = moclL_optfield_integer(L, 4, "heads", 0);
    if (heads < 0) return luaL_error(L, "bad option 'heads' (%I is negative)", heads);
    const mocl_gguf_tensor *t = strlen(name) == n ? mocl_gguf_find_tensor(g, name) : NULL;
    if (!t)
        return moclL_result(L, mocl_fail(moclL_ctx(L), MOCL_E_FORMAT, "%s: tensor '%.200s' is missing", path, name), 0);
    mocl_tensor **out = moclL_pushtensor(L);
    mocl_status st = mocl_gguf_load(out, dev, path, t, heads);
    if (st == MOCL_E_NOMEM && moclL_makeroom(L, st)) st = mocl_gguf_load(out, dev, path, t, heads);
    mocl_file_forget(t->data, t->bytes); /* a model that is read does not stand in memory as a file too */
    return moclL_result(L, st, 1);
}

/* dequantize(type, bytes) -> tensor [n] of the values in the bytes */
static int gguf_dequantize(lua_State *L) {
    size_t n;
    const char *name = luaL_checkstring(L, 1), *bytes = luaL_checklstring(L, 2, &n);
    const mocl_gguf_format *format = mocl_gguf_format_named(name);
    if (!format || !format->unpack) return luaL_error(L, "dequantize: type '%s' is unknown or not read by mocl", name);
    if (n == 0 || n % format->bytes)
        return luaL_error(L, "dequantize: %I bytes are not a number of blocks of %I bytes (%s)", (lua_Integer)n,
                          (lua_Integer)format->bytes, name);
    mocl_gguf_tensor t = {.name = name, .format = format, .ndim = 1, .data = bytes, .bytes = n};
    t.numel = t.shape[0] = (int64_t)(n / format->bytes * format->values);
    mocl_device *dev;
    mocl_status st = mocl_device_get(&dev, moclL_ctx(L), MOCL_DEVICE_CPU);
    if (st) return moclL_raise(L, st);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_gguf_load(out, dev, "dequantize", &t, 0));
    return 1;
}

/* The string field of the table on top of the stack, without a zero byte; it lives until the running call ends. */
static const char *field_text(lua_State *L, const char *field) {
    size_t n;
    lua_getfield(L, -1, field);
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &n) : NULL;
    if (!text || strlen(text) != n) luaL_error(L, "save: the %s of a tensor is no text", field);
    moclL_holdstring(L);
    lua_pop(L, 1);
    return text;
}

/* save(path, keys, number of keys, list of {name =, type =, tensor =, heads =}) -> true | fail. keys: bytes as in a
** file. */
static int gguf_save(lua_State *L) {
    size_t key_bytes;
    const char *path = luaL_checkstring(L, 1), *keys = luaL_checklstring(L, 2, &key_bytes);
    lua_Integer n_keys = luaL_checkinteger(L, 3);
    luaL_checktype(L, 4, LUA_TTABLE);
    lua_settop(L, 4);
    size_t n = (size_t)lua_rawlen(L, 4);
    mocl_gguf_source *list = lua_newuserdatauv(L, (n ? n : 1) * sizeof *list, 0); /* 5 */
    lua_createtable(L, (int)n, 0);                                                /* 6: keeps contiguous copies alive */
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, 4, (lua_Integer)i + 1);
        list[i].name = field_text(L, "name");
        const char *type = field_text(L, "type");
        list[i].format = mocl_gguf_format_named(type);
        if (!list[i].format) return luaL_error(L, "save: type '%s' is unknown", type);
        lua_getfield(L, -1, "heads");
        list[i].heads = lua_tointeger(L, -1);
        lua_pop(L, 1);
        lua_getfield(L, -1, "tensor");
        mocl_tensor *t = moclL_totensor(L, -1);
        if (!t) return luaL_error(L, "save: '%s' is no tensor, or was released", list[i].name);
        mocl_tensor **c = moclL_pushtensor(L);
        MOCLL_CALL(L, mocl_tensor_contiguous(c, t));
        list[i].t = *c;
        lua_rawseti(L, 6, (lua_Integer)i + 1);
        lua_pop(L, 2);
    }
    lua_pushboolean(L, 1);
    return moclL_result(L, mocl_gguf_write(moclL_ctx(L), path, keys, key_bytes, (size_t)n_keys, list, n), 1);
}

static const luaL_Reg functions[] = {
    {"dequantize", gguf_dequantize}, {"is", gguf_is}, {"open", gguf_open}, {"save", gguf_save}, {NULL, NULL}};
static const luaL_Reg methods[] = {{"header", file_header},   {"keys", file_keys},   {"tensor", file_tensor},
                                   {"tensors", file_tensors}, {"value", file_value}, {NULL, NULL}};

int moclL_open_gguf_core(lua_State *L) {
    moclL_opentensors(L);
    moclL_newclass(L, CLASS, methods, close_file);
    moclL_newlib(L, functions);
    return 1;
}
