/* ltensor.c - module mocl.tensor: making tensors and looking at them. Their userdata is in ltensor_box.c, the
** operations are in ltensor_ops.c.
*/
#include "ltensor.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "calls.h"
#include "lscope.h"
#include "modules.h"
#include "philox.h"

/* ---- arguments ---- */

mocl_device *moclL_optdevice(lua_State *L, int idx) {
    mocl_ctx *ctx = moclL_ctx(L);
    mocl_device *dev = NULL;
    mocl_status st = mocl_device_parse(&dev, ctx, moclL_optfield_string(L, idx, "device", "cpu"));
    if (st) moclL_raise(L, st);
    return dev;
}

static mk_dtype optdtype(lua_State *L, int idx, mk_dtype def) {
    const char *name = moclL_optfield_string(L, idx, "dtype", mocl_dtype_name(def));
    mk_dtype dtype = def;
    if (!mocl_dtype_parse(&dtype, name))
        luaL_error(L, "unknown dtype '%s' (f32, bf16, f16, i8, u8, i32, i64)", name);
    return dtype;
}

static int finish_new(lua_State *L, int opts) {
    mocl_tensor *t = moclL_checktensor(L, -1);
    if (moclL_optfield_boolean(L, opts, "requires_grad", false)) {
        if (t->dtype != MK_F32) return luaL_error(L, "only f32 tensors can require grad, not %s", mocl_dtype_name(t->dtype));
        t->requires_grad = true;
    }
    return 1;
}

static const char *const new_options[] = {"dtype", "device", "requires_grad", NULL};

/* ---- making tensors ---- */

static int make_full(lua_State *L, double value, int opts) {
    int64_t shape[MK_MAX_DIMS];
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, opts); /* so that a missing table is nil, whatever is pushed later */
    int ndim = moclL_checkshape(L, 1, shape);
    moclL_checkoptions(L, opts, new_options);
    mocl_device *dev = moclL_optdevice(L, opts);
    mk_dtype dtype = optdtype(L, opts, MK_F32);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_tensor_full(out, dev, dtype, ndim, shape, value));
    return finish_new(L, opts);
}

static int tensor_zeros(lua_State *L) { return make_full(L, 0, 2); }
static int tensor_ones(lua_State *L) { return make_full(L, 1, 2); }
static int tensor_full(lua_State *L) { return make_full(L, luaL_checknumber(L, 2), 3); }

static int make_random(lua_State *L, bool normal) {
    static const char *const options[] = {"dtype", "device", "requires_grad", "seed", "key", "stream", "mean", "std",
                                          "low", "high", NULL};
    int64_t shape[MK_MAX_DIMS];
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2);
    int ndim = moclL_checkshape(L, 1, shape);
    moclL_checkoptions(L, 2, options);
    mocl_device *dev = moclL_optdevice(L, 2);
    if (lua_isnoneornil(L, 2) || (lua_getfield(L, 2, "seed") == LUA_TNIL && lua_getfield(L, 2, "key") == LUA_TNIL))
        return luaL_error(L, "%s: give seed=N (or key=K from mocl.rng): there is no hidden generator",
                          normal ? "randn" : "rand");
    lua_Integer seed = moclL_optfield_integer(L, 2, "seed", 0);
    uint64_t key = (uint64_t)moclL_optfield_integer(L, 2, "key", (lua_Integer)mk_key((uint64_t)seed, 0));
    uint64_t stream = (uint64_t)moclL_optfield_integer(L, 2, "stream", 0);
    double a = normal ? moclL_optfield_number(L, 2, "mean", 0) : moclL_optfield_number(L, 2, "low", 0);
    double b = normal ? moclL_optfield_number(L, 2, "std", 1) : moclL_optfield_number(L, 2, "high", 1);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_tensor_new(out, dev, MK_F32, ndim, shape));
    int64_t n = mocl_tensor_numel(*out);
    mocl_status st = normal ? MOCL_KERNEL(dev, rand_normal, n, key, stream, a, b, mocl_real(*out))
                            : MOCL_KERNEL(dev, rand_uniform, n, key, stream, a, b, mocl_real(*out));
    if (st) return moclL_raise(L, st);
    return finish_new(L, 2);
}

static int tensor_randn(lua_State *L) { return make_random(L, true); }
static int tensor_rand(lua_State *L) { return make_random(L, false); }

/* entry i (from 0) of a host array; an integer out of the dtype's range raises */
static void store(lua_State *L, void *buf, mk_dtype dtype, int64_t i, double v) {
    static const double range[MK_DTYPE_COUNT][2] = {[MK_I8] = {-0x1p7, 0x1p7}, [MK_U8] = {0, 0x1p8},
                                                    [MK_I32] = {-0x1p31, 0x1p31}, [MK_I64] = {-0x1p63, 0x1p63}};
    if (range[dtype][1] > 0 && !(v >= range[dtype][0] && v < range[dtype][1]))
        luaL_error(L, "tensor: entry %d, %f, does not fit %s", (int)i + 1, mocl_shown(v), mocl_dtype_name(dtype));
    switch (dtype) {
        case MK_F32: ((mk_real *)buf)[i] = (mk_real)v; break;
        case MK_I8: ((int8_t *)buf)[i] = (int8_t)v; break;
        case MK_U8: ((uint8_t *)buf)[i] = (uint8_t)v; break;
        case MK_I32: ((int32_t *)buf)[i] = (int32_t)v; break;
        case MK_I64: ((int64_t *)buf)[i] = (int64_t)v; break;
        default: break; /* the half types are converted on the device */
    }
}

/* sizes of a nested table at the top of the stack */
static int nested_shape(lua_State *L, int64_t shape[MK_MAX_DIMS]) {
    int ndim = 0, top = lua_gettop(L);
    luaL_checkstack(L, MK_MAX_DIMS + 2, NULL);
    lua_pushvalue(L, top);
    while (lua_istable(L, -1)) {
        if (ndim == MK_MAX_DIMS) luaL_error(L, "tensor: more than %d levels of tables", MK_MAX_DIMS);
        shape[ndim++] = moclL_len(L, -1);
        lua_geti(L, -1, 1);
    }
    lua_settop(L, top);
    return ndim;
}

static void fill_nested(lua_State *L, int level, int ndim, const int64_t *shape, void *buf, mk_dtype dtype, int64_t *at) {
    if (level == ndim) {
        int is_number;
        double v = lua_tonumberx(L, -1, &is_number);
        if (!is_number || lua_type(L, -1) == LUA_TSTRING)
            luaL_error(L, "tensor: entry %d is a %s, not a number", (int)*at + 1, luaL_typename(L, -1));
        if (dtype == MK_I64 && lua_isinteger(L, -1)) ((int64_t *)buf)[*at] = lua_tointeger(L, -1);
        else store(L, buf, dtype, *at, v);
        ++*at;
        return;
    }
    if (!lua_istable(L, -1) || luaL_len(L, -1) != shape[level])
        luaL_error(L, "tensor: the table is ragged at level %d: %d entries expected", level + 1, (int)shape[level]);
    for (int64_t i = 1; i <= shape[level]; i++) {
        lua_geti(L, -1, i);
        fill_nested(L, level + 1, ndim, shape, buf, dtype, at);
        lua_pop(L, 1);
    }
}

/* tensor.new(number or nested table, options) */
static int tensor_new(lua_State *L) {
    int64_t shape[MK_MAX_DIMS], at = 0;
    if (!lua_isnumber(L, 1)) luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2);
    moclL_checkoptions(L, 2, new_options);
    mocl_device *dev = moclL_optdevice(L, 2);
    mk_dtype dtype = optdtype(L, 2, MK_F32), via = dtype == MK_BF16 || dtype == MK_F16 ? MK_F32 : dtype;
    lua_pushvalue(L, 1);
    int ndim = nested_shape(L, shape);
    size_t bytes = mocl_dtype_size(via);
    for (int i = 0; i < ndim; i++)
        if (!mocl_mul(bytes, (size_t)shape[i], &bytes)) return luaL_error(L, "tensor: the table has too many entries");
    void *buf = lua_newuserdatauv(L, bytes ? bytes : 1, 0);
    lua_pushvalue(L, 1);
    fill_nested(L, 0, ndim, shape, buf, via, &at);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_tensor_from_host(out, dev, via, ndim, shape, buf));
    if (via != dtype) {
        mocl_tensor **half = moclL_pushtensor(L);
        MOCLL_CALL(L, mocl_to_dtype(half, *out, dtype));
    }
    return finish_new(L, 2);
}

/* tensor.arange(n) = 0 .. n-1; tensor.arange(first, beyond, step), options last */
static int tensor_arange(lua_State *L) {
    int n_args = lua_istable(L, lua_gettop(L)) ? lua_gettop(L) - 1 : lua_gettop(L), opts = n_args + 1;
    double first = n_args > 1 ? luaL_checknumber(L, 1) : 0, beyond = luaL_checknumber(L, n_args > 1 ? 2 : 1);
    double step = n_args > 2 ? luaL_checknumber(L, 3) : 1;
    if (step == 0 || !isfinite(first) || !isfinite(beyond)) return luaL_error(L, "arange: bad bounds or step");
    double count = ceil((beyond - first) / step);
    if (!(count < 0x1p40)) return luaL_error(L, "arange: %f entries are too many", mocl_shown(count));
    int64_t n = count > 0 ? (int64_t)count : 0;
    lua_settop(L, opts);
    moclL_checkoptions(L, opts, new_options);
    mocl_device *dev = moclL_optdevice(L, opts);
    mk_dtype dtype = optdtype(L, opts, MK_F32);
    if (dtype == MK_BF16 || dtype == MK_F16) return luaL_error(L, "arange: make f32 and convert");
    void *buf = lua_newuserdatauv(L, (size_t)(n ? n : 1) * mocl_dtype_size(dtype), 0);
    for (int64_t i = 0; i < n; i++) store(L, buf, dtype, i, first + step * (double)i);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_tensor_from_host(out, dev, dtype, 1, &n, buf));
    return finish_new(L, opts);
}

/* ---- looking at tensors ---- */

/* numbers of t on the host, as a userdata left on the stack: f32 and integers; halves via f32 */
static const void *host_values(lua_State *L, mocl_tensor *t, mk_dtype *dtype) {
    mocl_tensor *src = t;
    if (t->dtype == MK_BF16 || t->dtype == MK_F16) {
        mocl_tensor **wide = moclL_pushtensor(L);
        mocl_status st = mocl_to_dtype(wide, t, MK_F32);
        if (st) moclL_raise(L, st);
        src = *wide;
    }
    size_t bytes = (size_t)mocl_tensor_numel(src) * mocl_dtype_size(src->dtype);
    void *host = lua_newuserdatauv(L, bytes ? bytes : 1, 0);
    mocl_status st = mocl_tensor_to_host(src, host);
    if (st) moclL_raise(L, st);
    *dtype = src->dtype;
    return host;
}

static void push_value(lua_State *L, const void *host, mk_dtype dtype, int64_t i) {
    switch (dtype) {
        case MK_I8: lua_pushinteger(L, ((const int8_t *)host)[i]); break;
        case MK_U8: lua_pushinteger(L, ((const uint8_t *)host)[i]); break;
        case MK_I32: lua_pushinteger(L, ((const int32_t *)host)[i]); break;
        case MK_I64: lua_pushinteger(L, ((const int64_t *)host)[i]); break;
        default: lua_pushnumber(L, mocl_shown((double)((const mk_real *)host)[i]));
    }
}

static int tensor_item(lua_State *L) {
    mocl_tensor *t = moclL_checktensor(L, 1);
    mk_dtype dtype;
    char a[128];
    if (mocl_tensor_numel(t) != 1)
        return luaL_error(L, "item: the tensor has shape %s, not one element; use totable", mocl_shape_text(a, t->ndim, t->shape));
    const void *host = host_values(L, t, &dtype);
    push_value(L, host, dtype, 0);
    return 1;
}

static void push_nested(lua_State *L, int level, const mocl_tensor *t, const void *host, mk_dtype dtype, int64_t *at) {
    if (level == t->ndim) {
        push_value(L, host, dtype, (*at)++);
        return;
    }
    lua_createtable(L, (int)t->shape[level], 0);
    for (int64_t i = 1; i <= t->shape[level]; i++) {
        push_nested(L, level + 1, t, host, dtype, at);
        lua_rawseti(L, -2, i);
    }
}

static int tensor_totable(lua_State *L) {
    mocl_tensor *t = moclL_checktensor(L, 1);
    mk_dtype dtype;
    int64_t at = 0;
    luaL_checkstack(L, MK_MAX_DIMS + 4, NULL);
    const void *host = host_values(L, t, &dtype);
    push_nested(L, 0, t, host, dtype, &at);
    return 1;
}

/* ---- tensors as text ---- */

enum { EDGE = 3, SAMPLE = 1 << 16, WHOLE = 1 << 20 };

/* Entries shown at each end of a dimension: fewer where there are many dimensions. */
static int64_t edge_of(const mocl_tensor *t) { return t->ndim <= 3 ? EDGE : t->ndim <= 5 ? 2 : 1; }

static bool is_long(const mocl_tensor *t, int64_t n) { return n > 2 * edge_of(t) + 1; }

static void add_number(lua_State *L, luaL_Buffer *b, const void *host, mk_dtype dtype, int64_t at) {
    char text[40];
    if (dtype == MK_F32) {
        snprintf(text, sizeof text, "%.5g", mocl_shown((double)((const mk_real *)host)[at]));
    } else {
        push_value(L, host, dtype, at);
        snprintf(text, sizeof text, "%lld", (long long)lua_tointeger(L, -1));
        lua_pop(L, 1);
    }
    luaL_addstring(b, text);
}

/* The view of n entries of dimension d of t from `start`, pushed. */
static mocl_tensor *push_part(lua_State *L, mocl_tensor *t, int d, int64_t start, int64_t n) {
    mocl_tensor **part = moclL_pushtensor(L);
    mocl_status st = mocl_narrow(part, t, d, start, n);
    if (st) moclL_raise(L, st);
    return *part;
}

/* Pushes a tensor with the entries that are shown, and nothing else of a long dimension: copies of the ends, so that no
** more of a large tensor is read. */
static mocl_tensor *push_shown(lua_State *L, mocl_tensor *t, int d, int64_t edge) {
    if (d == t->ndim) {
        mocl_tensor **out = moclL_pushtensor(L);
        mocl_status st = mocl_clone(out, t);
        if (st) moclL_raise(L, st);
        return *out;
    }
    int64_t n = t->shape[d];
    if (!is_long(t, n)) return push_shown(L, t, d + 1, edge);
    int base = lua_gettop(L);
    luaL_checkstack(L, 8, NULL);
    mocl_tensor *ends[2];
    for (int i = 0; i < 2; i++) ends[i] = push_shown(L, push_part(L, t, d, i ? n - edge : 0, edge), d + 1, edge);
    mocl_tensor **out = moclL_pushtensor(L);
    mocl_status st = mocl_cat(out, 2, ends, d);
    if (st) moclL_raise(L, st);
    lua_replace(L, base + 1);
    lua_settop(L, base + 1);
    return *out;
}

/* t: the whole tensor, for its sizes; shown: those of what is at host. */
static void add_items(lua_State *L, luaL_Buffer *b, const mocl_tensor *t, const mocl_tensor *shown, int level, const void *host,
                      mk_dtype dtype, int64_t at) {
    if (level == t->ndim) {
        add_number(L, b, host, dtype, at);
        return;
    }
    int64_t step = 1, n = shown->shape[level];
    for (int i = level + 1; i < t->ndim; i++) step *= shown->shape[i];
    luaL_addchar(b, '{');
    for (int64_t i = 0; i < n; i++) {
        bool cut = is_long(t, t->shape[level]) && i == edge_of(t);
        for (int again = 0; again <= cut; again++) { /* the dots stand in a place of their own */
            if (i || again) luaL_addstring(b, level == t->ndim - 1 ? ", " : ",");
            for (int k = level; (i || again) && k < t->ndim - 1; k++) luaL_addchar(b, '\n');
            for (int k = 0; (i || again) && level < t->ndim - 1 && k <= level; k++) luaL_addchar(b, ' ');
            if (cut && !again) luaL_addstring(b, "...");
        }
        add_items(L, b, t, shown, level + 1, host, dtype, at + i * step);
    }
    luaL_addchar(b, '}');
}

/* Pushes the range of the entries, and how many are no numbers: of all, or of a sample that lies evenly over a large tensor. */
static void push_range(lua_State *L, mocl_tensor *t) {
    mk_dtype dtype;
    char text[160];
    int64_t n = mocl_tensor_numel(t), taken = n;
    double low = HUGE_VAL, high = -HUGE_VAL;
    int64_t bad = 0;
    mocl_tensor *from = t;
    if (n > WHOLE) {
        if (!mocl_tensor_is_contiguous(t)) {
            lua_pushliteral(L, "");
            return;
        }
        int64_t every = n / SAMPLE, all = -1, grid[2] = {SAMPLE, every};
        mocl_tensor **flat = moclL_pushtensor(L);
        mocl_status st = mocl_reshape(flat, t, 1, &all);
        if (st) moclL_raise(L, st);
        mocl_tensor *even = push_part(L, *flat, 0, 0, SAMPLE * every), **rows = moclL_pushtensor(L);
        if ((st = mocl_reshape(rows, even, 2, grid))) moclL_raise(L, st);
        from = push_part(L, *rows, 1, 0, 1);
        taken = SAMPLE;
    }
    const void *host = host_values(L, from, &dtype);
    for (int64_t i = 0; i < taken; i++) {
        double v;
        if (dtype == MK_F32) {
            v = (double)((const mk_real *)host)[i];
        } else {
            push_value(L, host, dtype, i);
            v = lua_tonumber(L, -1);
            lua_pop(L, 1);
        }
        if (!isfinite(v)) {
            bad++;
            continue;
        }
        low = v < low ? v : low;
        high = v > high ? v : high;
    }
    if (low <= high) snprintf(text, sizeof text, ", %.5g .. %.5g", mocl_shown(low), mocl_shown(high));
    else text[0] = '\0';
    size_t used = strlen(text);
    if (bad) used += (size_t)snprintf(text + used, sizeof text - used, ", %lld nan or infinite", (long long)bad);
    if (taken < n) snprintf(text + used, sizeof text - used, " (of %lld entries)", (long long)taken);
    lua_pushstring(L, text);
}

static int tensor_tostring(lua_State *L) {
    luaL_checkudata(L, 1, MOCL_TENSOR_CLASS);
    mocl_tensor *t = moclL_totensor(L, 1);
    luaL_Buffer b;
    char a[128];
    mk_dtype dtype;
    bool cut = false;
    if (!t) {
        lua_pushstring(L, moclL_testbox(L, 1, MOCL_TENSOR_CLASS) ? "tensor (released)" : "tensor (a copy of bytes)");
        return 1;
    }
    mocl_tensor **plain = moclL_pushtensor(L); /* nothing of this is recorded */
    MOCLL_CALL(L, mocl_tensor_detach(plain, t));
    for (int d = 0; d < t->ndim; d++) cut = cut || is_long(t, t->shape[d]);
    if (mocl_tensor_numel(t) == 0) cut = false;
    lua_pushfstring(L, "tensor %s %s %s", mocl_shape_text(a, t->ndim, t->shape), mocl_dtype_name(t->dtype), t->storage->dev->name);
    int head = lua_gettop(L);
    if (cut) {
        push_range(L, *plain);
        lua_copy(L, -1, head + 1);
        lua_settop(L, head + 1);
    } else {
        lua_pushliteral(L, "");
    }
    mocl_tensor *shown = cut ? push_shown(L, *plain, 0, edge_of(t)) : *plain;
    const void *host = host_values(L, shown, &dtype);
    luaL_buffinit(L, &b);
    luaL_addstring(&b, lua_tostring(L, head));
    luaL_addstring(&b, lua_tostring(L, head + 1));
    luaL_addchar(&b, '\n');
    add_items(L, &b, t, shown, 0, host, dtype, 0);
    luaL_pushresult(&b);
    return 1;
}

/* t[i] (1-based, negative from the end): a view without the first dimension */
static int tensor_at(lua_State *L, mocl_tensor *t) {
    if (t->ndim == 0) return luaL_error(L, "index: a scalar has no entries; use :item()");
    lua_Integer i = lua_tointeger(L, 2), n = t->shape[0];
    if (i == 0 || i > n || i < -n) return luaL_error(L, "index: %I is outside 1 .. %I", i, n);
    mocl_tensor **row = moclL_pushtensor(L), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_narrow(row, t, 0, i < 0 ? i + n : i - 1, 1));
    MOCLL_CALL(L, mocl_reshape(out, *row, t->ndim - 1, t->shape + 1));
    return 1;
}

static int tensor_index(lua_State *L) {
    if (lua_isinteger(L, 2)) return tensor_at(L, moclL_checktensor(L, 1));
    const char *name = luaL_checkstring(L, 2);
    if (luaL_getmetafield(L, 1, "methods") != LUA_TTABLE) return luaL_typeerror(L, 1, MOCL_TENSOR_CLASS);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, -2) != LUA_TNIL) return 1; /* a method, of a released tensor too */
    mocl_tensor *t = moclL_checktensor(L, 1);
    if (strcmp(name, "shape") == 0) {
        lua_createtable(L, t->ndim, 0);
        for (int i = 0; i < t->ndim; i++) {
            lua_pushinteger(L, t->shape[i]);
            lua_rawseti(L, -2, i + 1);
        }
    } else if (strcmp(name, "ndim") == 0) {
        lua_pushinteger(L, t->ndim);
    } else if (strcmp(name, "dtype") == 0) {
        lua_pushstring(L, mocl_dtype_name(t->dtype));
    } else if (strcmp(name, "device") == 0) {
        lua_pushstring(L, t->storage->dev->name);
    } else if (strcmp(name, "requires_grad") == 0) {
        lua_pushboolean(L, t->requires_grad || t->node != NULL);
    } else if (strcmp(name, "grad") == 0) {
        if (t->grad) moclL_pushtensorref(L, t->grad);
        else lua_pushnil(L);
    } else {
        return luaL_error(L, "a tensor has no field '%s'", name);
    }
    return 1;
}

static int tensor_newindex(lua_State *L) {
    return luaL_error(L, "tensors are not assigned to by index; use narrow(...):copy_(...)");
}

static int tensor_len(lua_State *L) {
    mocl_tensor *t = moclL_checktensor(L, 1);
    lua_pushinteger(L, t->ndim ? t->shape[0] : 0);
    return 1;
}

/* ---- gradients and state ---- */

static int tensor_backward(lua_State *L) {
    static const char *const options[] = {"retain_graph", "more_rows", NULL};
    mocl_tensor *t = moclL_checktensor(L, 1), *seed = lua_isuserdata(L, 2) ? moclL_checktensor(L, 2) : NULL;
    int opts = seed ? 3 : 2;
    moclL_checkoptions(L, opts, options);
    bool retain = moclL_optfield_boolean(L, opts, "retain_graph", false), more = moclL_optfield_boolean(L, opts, "more_rows", false);
    mocl_status st = mocl_tensor_backward(t, seed, retain, more);
    return st ? moclL_raise(L, st) : 0;
}

static int tensor_requires_grad_(lua_State *L) {
    mocl_tensor *t = moclL_checktensor(L, 1);
    bool on = lua_isnoneornil(L, 2) || lua_toboolean(L, 2);
    if (t->node) return luaL_error(L, "requires_grad_: the tensor was computed from others; detach it first");
    if (on && t->dtype != MK_F32) return luaL_error(L, "requires_grad_: only f32 tensors, not %s", mocl_dtype_name(t->dtype));
    t->requires_grad = on;
    lua_settop(L, 1);
    return 1;
}

static int tensor_zero_grad(lua_State *L) {
    mocl_tensor_drop_grad(moclL_checktensor(L, 1));
    return 0;
}

static int tensor_is_grad_enabled(lua_State *L) {
    lua_pushboolean(L, moclL_ctx(L)->grad_enabled);
    return 1;
}

/* memory() -> {live, peak, cached, limit (bytes), tensors, broken_guards, waits, launches} over all open devices */
static int tensor_memory(lua_State *L) {
    mocl_ctx *ctx = moclL_ctx(L);
    size_t live = 0, peak = 0, cached = 0;
    int64_t broken = 0, waits = 0, launches = 0;
    for (int i = 0; i < MOCL_DEVICE_COUNT; i++) {
        if (!ctx->device[i]) continue;
        live += ctx->device[i]->live;
        peak += ctx->device[i]->peak;
        cached += ctx->device[i]->cached;
        broken += ctx->device[i]->broken_guards;
        waits += ctx->device[i]->waits;
        launches += ctx->device[i]->exec.launches;
    }
    lua_createtable(L, 0, 8);
    lua_pushinteger(L, (lua_Integer)live);
    lua_setfield(L, -2, "live");
    lua_pushinteger(L, (lua_Integer)peak);
    lua_setfield(L, -2, "peak");
    lua_pushinteger(L, (lua_Integer)cached);
    lua_setfield(L, -2, "cached");
    lua_pushinteger(L, (lua_Integer)moclL_calls_of(L)->limit);
    lua_setfield(L, -2, "limit");
    lua_pushinteger(L, ctx->live_tensors);
    lua_setfield(L, -2, "tensors");
    lua_pushinteger(L, broken);
    lua_setfield(L, -2, "broken_guards");
    lua_pushinteger(L, waits);
    lua_setfield(L, -2, "waits");
    lua_pushinteger(L, launches);
    lua_setfield(L, -2, "launches");
    return 1;
}

static int tensor_flush(lua_State *L) {
    mocl_ctx *ctx = moclL_ctx(L);
    for (int i = 0; i < MOCL_DEVICE_COUNT; i++)
        if (ctx->device[i]) mocl_device_flush(ctx->device[i]);
    return 0;
}

/* memory_cap(device, bytes) -> the cap before: the device's blocks, live and cached, stay below it; 0 = none */
static int tensor_memory_cap(lua_State *L) {
    mocl_ctx *ctx = moclL_ctx(L);
    const char *name = luaL_checkstring(L, 1);
    lua_Integer bytes = luaL_checkinteger(L, 2);
    mocl_device *dev;
    luaL_argcheck(L, bytes >= 0, 2, "bytes expected, 0 = no cap");
    mocl_status st = mocl_device_parse(&dev, ctx, name);
    if (st) return moclL_raise(L, st);
    lua_pushinteger(L, (lua_Integer)dev->limit);
    dev->limit = (size_t)bytes;
    return 1;
}

/* fail_after(n): the n-th allocation from now fails, and all later ones; -1 ends it. For tests. */
static int tensor_fail_after(lua_State *L) {
    mocl_fail_after(moclL_ctx(L), luaL_checkinteger(L, 1));
    return 0;
}

static int tensor_is_tensor(lua_State *L) {
    lua_pushboolean(L, moclL_testbox(L, 1, MOCL_TENSOR_CLASS) != NULL);
    return 1;
}

static const luaL_Reg functions[] = {
    {"arange", tensor_arange},
    {"fail_after", tensor_fail_after},
    {"flush", tensor_flush},
    {"full", tensor_full},
    {"is_grad_enabled", tensor_is_grad_enabled},
    {"is_tensor", tensor_is_tensor},
    {"memory", tensor_memory},
    {"memory_cap", tensor_memory_cap},
    {"new", tensor_new},
    {"no_grad", NULL}, /* it may yield, so it is no call: see moclL_pushfunction */
    {"ones", tensor_ones},
    {"rand", tensor_rand},
    {"randn", tensor_randn},
    {"scope", moclL_scope_new},
    {"zeros", tensor_zeros},
    {NULL, NULL},
};

static const luaL_Reg methods[] = {
    {"backward", tensor_backward},
    {"item", tensor_item},
    {"release", NULL},
    {"requires_grad_", tensor_requires_grad_},
    {"totable", tensor_totable},
    {"zero_grad", tensor_zero_grad},
    {NULL, NULL},
};

/* what tensor_index computes */
static const char *const fields[] = {"shape", "ndim", "dtype", "device", "requires_grad", "grad", NULL};

static const luaL_Reg metamethods[] = {
    {"__close", NULL},     {"__gc", NULL},                 {"__index", tensor_index},
    {"__len", tensor_len}, {"__newindex", tensor_newindex}, {"__tostring", tensor_tostring},
    {NULL, NULL},
};

int moclL_open_tensor(lua_State *L) {
    moclL_calls_of(L)->limit = MOCLL_LIMIT_FLOOR;
    moclL_scope_open(L);
    moclL_newlib(L, functions); /* stack: module */
    lua_pushcfunction(L, moclL_no_grad);
    lua_setfield(L, -2, "no_grad");
    luaL_newmetatable(L, MOCL_TENSOR_CLASS);
    const void *class = lua_topointer(L, -1);
    moclL_calls_of(L)->tensor_class = class;
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, class);
    moclL_setfuncs(L, metamethods);
    lua_newtable(L); /* stack: module, metatable, methods */
    moclL_setfuncs(L, methods);
    lua_pushcfunction(L, moclL_tensor_release);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "release");
    lua_pushvalue(L, -1);
    lua_setfield(L, -4, "__close");
    lua_setfield(L, -3, "__gc");
    for (const luaL_Reg *r = moclL_tensor_ops; r->name; r++) {
        moclL_pushfunction(L, r->func);
        lua_pushvalue(L, -1);
        bool meta = strncmp(r->name, "__", 2) == 0;
        lua_setfield(L, meta ? -4 : -3, r->name);
        if (meta) lua_pop(L, 1);
        else lua_setfield(L, -4, r->name); /* each method is a function of the module too */
    }
    lua_setfield(L, -2, "methods");
    lua_newtable(L); /* for mocl.complete */
    for (const char *const *name = fields; *name; name++) {
        lua_pushboolean(L, true);
        lua_setfield(L, -2, *name);
    }
    lua_setfield(L, -2, "fields");
    lua_pop(L, 1);
    return 1;
}

void moclL_opentensors(lua_State *L) {
    luaL_requiref(L, "mocl.tensor", moclL_open_tensor, 0);
    lua_pop(L, 1);
}
