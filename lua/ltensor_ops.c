/* ltensor_ops.c - the operations as methods of tensors (and functions of mocl.tensor). Dimensions count
** from 1, or from the end with negative numbers; names are PyTorch's.
*/
#include <math.h>
#include <string.h>

#include "ltensor.h"
#include "rng.h"

/* ---- elementwise ---- */

static int unary(lua_State *L, mk_unary op, double p, double q) {
    mocl_tensor *x = moclL_checktensor(L, 1), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_unary(out, op, x, p, q));
    return 1;
}

#define UNARY(name, op) \
    static int tensor_##name(lua_State *L) { return unary(L, op, 0, 0); }
UNARY(neg, MK_NEG)
UNARY(abs, MK_ABS)
UNARY(square, MK_SQUARE)
UNARY(sqrt, MK_SQRT)
UNARY(rsqrt, MK_RSQRT)
UNARY(reciprocal, MK_RECIPROCAL)
UNARY(exp, MK_EXP)
UNARY(log, MK_LOG)
UNARY(tanh, MK_TANH)
UNARY(sigmoid, MK_SIGMOID)
UNARY(logsigmoid, MK_LOGSIGMOID)
UNARY(softplus, MK_SOFTPLUS)
UNARY(relu, MK_RELU)
UNARY(silu, MK_SILU)
UNARY(sin, MK_SIN)
UNARY(cos, MK_COS)
UNARY(floor, MK_FLOOR)
UNARY(sign, MK_SIGN)

/* gelu(x[, "tanh"]): exact by erf, or the tanh approximation */
static int tensor_gelu(lua_State *L) {
    static const char *const kinds[] = {"none", "tanh", NULL};
    return unary(L, luaL_checkoption(L, 2, "none", kinds) ? MK_GELU_TANH : MK_GELU, 0, 0);
}

static int tensor_clamp(lua_State *L) {
    double lo = luaL_optnumber(L, 2, -HUGE_VAL), hi = luaL_optnumber(L, 3, HUGE_VAL);
    return unary(L, MK_CLAMP, lo, hi);
}

/* The operand at idx as a tensor: itself, or a number as a scalar tensor on the device of the other,
** pushed. */
static mocl_tensor *operand(lua_State *L, int idx, int other) {
    if (lua_type(L, idx) != LUA_TNUMBER) return moclL_checktensor(L, idx);
    mocl_tensor *like = moclL_checktensor(L, other), **box = moclL_pushtensor(L);
    mocl_status st = mocl_tensor_full(box, like->storage->dev, MK_F32, 0, NULL, lua_tonumber(L, idx));
    if (st) moclL_raise(L, st);
    return *box;
}

static int binary(lua_State *L, mk_binary op) {
    if (lua_type(L, 2) == LUA_TNUMBER) { /* the cheap forms */
        double v = lua_tonumber(L, 2);
        if (op == MK_ADD) return unary(L, MK_ADD_SCALAR, v, 0);
        if (op == MK_SUB) return unary(L, MK_ADD_SCALAR, -v, 0);
        if (op == MK_MUL) return unary(L, MK_MUL_SCALAR, v, 0);
        if (op == MK_POW) return unary(L, MK_POW_SCALAR, v, 0);
    } else if (lua_type(L, 1) == LUA_TNUMBER && (op == MK_ADD || op == MK_MUL)) {
        lua_insert(L, 1); /* commutes: tensor first */
        lua_settop(L, 2);
        return binary(L, op);
    }
    mocl_tensor *a = operand(L, 1, 2), *b = operand(L, 2, 1), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_binary(out, op, a, b));
    return 1;
}

#define BINARY(name, op) \
    static int tensor_##name(lua_State *L) { return binary(L, op); }
BINARY(add, MK_ADD)
BINARY(sub, MK_SUB)
BINARY(mul, MK_MUL)
BINARY(div, MK_DIV)
BINARY(pow, MK_POW)
BINARY(maximum, MK_MAXIMUM)
BINARY(minimum, MK_MINIMUM)
BINARY(eq, MK_EQ)
BINARY(ne, MK_NE)
BINARY(lt, MK_LT)
BINARY(le, MK_LE)
BINARY(gt, MK_GT)
BINARY(ge, MK_GE)

/* Lua makes one boolean of `<` and `<=`, and of `>` and `>=` by turning the operands round. */
static int refuse_order(lua_State *L, const char *sign, const char *method, const char *turned_sign, const char *turned) {
    bool tensor_first = moclL_testbox(L, 1, MOCL_TENSOR_CLASS) != NULL;
    const char *other = tensor_first && moclL_testbox(L, 2, MOCL_TENSOR_CLASS) ? "y" : luaL_tolstring(L, tensor_first ? 2 : 1, NULL);
    return luaL_error(L, "tensors are compared entry by entry, by a method: x:%s(%s) for x %s %s", tensor_first ? method : turned,
                      other, tensor_first ? sign : turned_sign, other);
}

static int tensor_order_lt(lua_State *L) { return refuse_order(L, "<", "lt", ">", "gt"); }
static int tensor_order_le(lua_State *L) { return refuse_order(L, "<=", "le", ">=", "ge"); }

/* where(c, a, b): all of one shape */
static int tensor_where(lua_State *L) {
    mocl_tensor *c = moclL_checktensor(L, 1), *a = moclL_checktensor(L, 2), *b = moclL_checktensor(L, 3);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_where(out, c, a, b));
    return 1;
}

/* ---- in place ---- */

/* y:add_(x, alpha=1) */
static int tensor_add_(lua_State *L) {
    double alpha = luaL_optnumber(L, 3, 1); /* before operand pushes */
    mocl_tensor *y = moclL_checktensor(L, 1), *x = operand(L, 2, 1);
    mocl_status st = mocl_axpy_(y, alpha, x);
    if (st) return moclL_raise(L, st);
    lua_settop(L, 1);
    return 1;
}

static int tensor_fill_(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1);
    mocl_status st = mocl_fill_(x, luaL_checknumber(L, 2));
    if (st) return moclL_raise(L, st);
    lua_settop(L, 1);
    return 1;
}

static int tensor_zero_(lua_State *L) {
    lua_settop(L, 1);
    lua_pushinteger(L, 0);
    return tensor_fill_(L);
}

static int tensor_copy_(lua_State *L) {
    mocl_tensor *dst = moclL_checktensor(L, 1), *src = moclL_checktensor(L, 2);
    if (dst->ctx->grad_enabled && (dst->requires_grad || dst->node))
        return luaL_error(L, "copy_: a tensor with gradient history cannot be changed in place while recording; "
                             "use no_grad or detach");
    mocl_status st = mocl_tensor_copy(dst, src);
    if (st) return moclL_raise(L, st);
    lua_settop(L, 1);
    return 1;
}

/* ---- shape ---- */

static int tensor_reshape(lua_State *L) {
    int64_t shape[MK_MAX_DIMS];
    mocl_tensor *x = moclL_checktensor(L, 1);
    int ndim = moclL_checkshape(L, 2, shape);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_reshape(out, x, ndim, shape));
    return 1;
}

static int tensor_expand(lua_State *L) {
    int64_t shape[MK_MAX_DIMS];
    mocl_tensor *x = moclL_checktensor(L, 1);
    int ndim = moclL_checkshape(L, 2, shape);
    for (int i = 0; i < ndim; i++) /* -1 keeps the size */
        if (shape[i] == -1 && i >= ndim - x->ndim) shape[i] = x->shape[i - (ndim - x->ndim)];
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_expand(out, x, ndim, shape));
    return 1;
}

static int tensor_permute(lua_State *L) {
    int64_t order[MK_MAX_DIMS];
    int zero_based[MK_MAX_DIMS];
    mocl_tensor *x = moclL_checktensor(L, 1);
    int n = moclL_checkshape(L, 2, order);
    if (n != x->ndim) return luaL_error(L, "permute: %d dimensions named, the tensor has %d", n, x->ndim);
    for (int i = 0; i < n; i++) zero_based[i] = (int)(order[i] < 0 ? order[i] + n : order[i] - 1);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_permute(out, x, zero_based));
    return 1;
}

static int tensor_transpose(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1);
    int a = moclL_checkdim(L, 2, x->ndim), b = moclL_checkdim(L, 3, x->ndim);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_transpose(out, x, a, b));
    return 1;
}

static int tensor_t(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1);
    if (x->ndim != 2) return luaL_error(L, "t: a matrix is needed, not %d dimensions", x->ndim);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_transpose(out, x, 0, 1));
    return 1;
}

/* x:narrow(dim, start, length), start from 1 */
static int tensor_narrow(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1);
    int dim = moclL_checkdim(L, 2, x->ndim);
    lua_Integer start = luaL_checkinteger(L, 3), length = luaL_checkinteger(L, 4);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_narrow(out, x, dim, start - 1, length));
    return 1;
}

/* x:select(dim, index): narrow to one and drop the dimension */
static int tensor_select(lua_State *L) {
    int64_t shape[MK_MAX_DIMS];
    mocl_tensor *x = moclL_checktensor(L, 1);
    int dim = moclL_checkdim(L, 2, x->ndim), n = 0;
    lua_Integer i = luaL_checkinteger(L, 3);
    mocl_tensor **one = moclL_pushtensor(L), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_narrow(one, x, dim, i < 0 ? i + x->shape[dim] : i - 1, 1));
    for (int d = 0; d < x->ndim; d++)
        if (d != dim) shape[n++] = x->shape[d];
    MOCLL_CALL(L, mocl_reshape(out, *one, n, shape));
    return 1;
}

static int tensor_unsqueeze(lua_State *L) {
    int64_t shape[MK_MAX_DIMS + 1];
    mocl_tensor *x = moclL_checktensor(L, 1);
    int dim = moclL_checkdim(L, 2, x->ndim + 1), n = 0;
    for (int d = 0; d <= x->ndim; d++) shape[d] = d == dim ? 1 : x->shape[n++];
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_reshape(out, x, x->ndim + 1, shape));
    return 1;
}

/* x:squeeze([dim]) */
static int tensor_squeeze(lua_State *L) {
    int64_t shape[MK_MAX_DIMS];
    mocl_tensor *x = moclL_checktensor(L, 1);
    int only = lua_isnoneornil(L, 2) ? -1 : moclL_checkdim(L, 2, x->ndim), n = 0;
    for (int d = 0; d < x->ndim; d++)
        if (x->shape[d] != 1 || (only >= 0 && d != only)) shape[n++] = x->shape[d];
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_reshape(out, x, n, shape));
    return 1;
}

static int tensor_flatten(lua_State *L) {
    int64_t all = -1;
    mocl_tensor *x = moclL_checktensor(L, 1), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_reshape(out, x, 1, &all));
    return 1;
}

/* the tensors of the list at 1 as a C array (a userdata left on the stack) */
static mocl_tensor **check_list(lua_State *L, int *n) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_Integer count = moclL_len(L, 1);
    if (count < 1 || count > 1 << 20) luaL_argerror(L, 1, "a list of at least one tensor is needed");
    mocl_tensor **list = lua_newuserdatauv(L, (size_t)count * sizeof *list, 0);
    for (lua_Integer i = 1; i <= count; i++) {
        lua_geti(L, 1, i);
        list[i - 1] = moclL_totensor(L, -1);
        if (!list[i - 1]) luaL_argerror(L, 1, lua_pushfstring(L, "entry %I %s", i, moclL_notensor(L, -1)));
        lua_pop(L, 1); /* the call keeps it */
    }
    *n = (int)count;
    return list;
}

/* cat({a, b, ...}, dim=1) */
static int tensor_cat(lua_State *L) {
    int n;
    mocl_tensor **list = check_list(L, &n);
    int dim = lua_isnoneornil(L, 2) || lua_isuserdata(L, 2) ? 0 : moclL_checkdim(L, 2, list[0]->ndim);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_cat(out, n, list, dim));
    return 1;
}

/* stack({a, b, ...}): equal shapes along a new first dimension */
static int tensor_stack(lua_State *L) {
    int n;
    int64_t shape[MK_MAX_DIMS + 1];
    mocl_tensor **list = check_list(L, &n);
    mocl_tensor **wide = lua_newuserdatauv(L, (size_t)n * sizeof *wide, 0);
    luaL_checkstack(L, n + 4, "stack: too many tensors");
    shape[0] = 1;
    memcpy(shape + 1, list[0]->shape, sizeof list[0]->shape);
    for (int i = 0; i < n; i++) {
        if (!mocl_tensor_same_shape(list[i], list[0])) return luaL_error(L, "stack: tensor %d differs in shape", i + 1);
        mocl_tensor **w = moclL_pushtensor(L);
        MOCLL_CALL(L, mocl_reshape(w, list[i], list[0]->ndim + 1, shape));
        wide[i] = *w;
    }
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_cat(out, n, wide, 0));
    return 1;
}

/* x:index_select(rows): rows from 1, a list or an i32 tensor */
static int tensor_index_select(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1), *idx = moclL_pushids(L, 2, x->storage->dev, 1);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_index_select_from(out, x, idx, 1));
    return 1;
}

/* x:pick(ids): y[..., r] = x[..., r, ids[r]]; ids are data and count from 0 (classes, tokens) */
static int tensor_pick(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1), *idx = moclL_pushids(L, 2, x->storage->dev, 0);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_pick(out, x, idx));
    return 1;
}

static int tensor_contiguous(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1);
    mocl_tensor **out;
    if (mocl_tensor_is_contiguous(x)) {
        lua_settop(L, 1);
        return 1;
    }
    out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_clone(out, x));
    return 1;
}

static int tensor_is_contiguous(lua_State *L) {
    lua_pushboolean(L, mocl_tensor_is_contiguous(moclL_checktensor(L, 1)));
    return 1;
}

/* t:nonfinite() -> nil, or the place (a list of indices) and the value of the first entry that is NaN or infinite, and how many
** there are */
static int tensor_nonfinite(lua_State *L) {
    mocl_tensor *t = moclL_checktensor(L, 1);
    mocl_nonfinite bad;
    mocl_status st = mocl_tensor_nonfinite(t, &bad);
    if (st) return moclL_raise(L, st);
    if (!bad.count) {
        luaL_pushfail(L);
        return 1;
    }
    int64_t at = bad.at;
    lua_createtable(L, t->ndim, 0);
    for (int d = t->ndim - 1; d >= 0; at /= t->shape[d--]) {
        lua_pushinteger(L, at % t->shape[d] + 1);
        lua_rawseti(L, -2, d + 1);
    }
    lua_pushnumber(L, bad.value);
    lua_pushinteger(L, bad.count);
    return 3;
}

static int tensor_numel(lua_State *L) {
    lua_pushinteger(L, mocl_tensor_numel(moclL_checktensor(L, 1)));
    return 1;
}

static int tensor_stride(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1);
    lua_createtable(L, x->ndim, 0);
    for (int i = 0; i < x->ndim; i++) {
        lua_pushinteger(L, x->stride[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int tensor_clone(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_clone(out, x));
    return 1;
}

static int tensor_detach(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_tensor_detach(out, x));
    return 1;
}

/* x:to("bf16") or x:to("cuda") or x:to{dtype=, device=} */
static int tensor_to(lua_State *L) {
    static const char *const options[] = {"dtype", "device", NULL};
    mocl_tensor *x = moclL_checktensor(L, 1);
    mk_dtype dtype = x->dtype;
    mocl_device *dev = x->storage->dev;
    const char *dtype_name = NULL, *dev_name = NULL;
    if (lua_istable(L, 2)) {
        moclL_checkoptions(L, 2, options);
        dtype_name = moclL_optfield_string(L, 2, "dtype", NULL);
        dev_name = moclL_optfield_string(L, 2, "device", NULL);
        if (dtype_name && !mocl_dtype_parse(&dtype, dtype_name)) return luaL_error(L, "unknown dtype '%s'", dtype_name);
    } else {
        const char *name = luaL_checkstring(L, 2);
        if (!mocl_dtype_parse(&dtype, name)) dev_name = name;
    }
    if (dev_name) {
        mocl_status st = mocl_device_parse(&dev, x->ctx, dev_name);
        if (st) return moclL_raise(L, st);
    }
    mocl_tensor **here = moclL_pushtensor(L), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_to_device(here, x, dev));
    MOCLL_CALL(L, mocl_to_dtype(out, *here, dtype));
    return 1;
}

/* ---- reductions ---- */

/* (x, dim, keepdim): no dim reduces everything */
static int reduce(lua_State *L, mk_reduce op, bool mean) {
    mocl_tensor *x = moclL_checktensor(L, 1);
    int dim = lua_isnoneornil(L, 2) ? -1 : moclL_checkdim(L, 2, x->ndim);
    bool keepdim = lua_toboolean(L, 3);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mean ? mocl_mean(out, x, dim, keepdim) : mocl_reduce(out, op, x, dim, keepdim));
    return 1;
}

static int tensor_sum(lua_State *L) { return reduce(L, MK_SUM, false); }
static int tensor_mean(lua_State *L) { return reduce(L, MK_SUM, true); }
static int tensor_max(lua_State *L) { return reduce(L, MK_MAX, false); }
static int tensor_min(lua_State *L) { return reduce(L, MK_MIN, false); }
static int tensor_logsumexp(lua_State *L) { return reduce(L, MK_LOGSUMEXP, false); }

/* i32 positions, counted from 0 as token ids and classes are */
static int argreduce(lua_State *L, mk_reduce op) {
    mocl_tensor *x = moclL_checktensor(L, 1);
    int dim = lua_isnoneornil(L, 2) ? -1 : moclL_checkdim(L, 2, x->ndim);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_argreduce(out, op, x, dim));
    return 1;
}

static int tensor_argmax(lua_State *L) { return argreduce(L, MK_MAX); }
static int tensor_argmin(lua_State *L) { return argreduce(L, MK_MIN); }

static int tensor_cumsum(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1);
    int dim = moclL_checkdim(L, 2, x->ndim);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_cumsum(out, x, dim));
    return 1;
}

/* over dimension dim (default the last) */
static int softmax(lua_State *L, bool log) {
    mocl_tensor *x = moclL_checktensor(L, 1), **out;
    int last = x->ndim - 1, dim = lua_isnoneornil(L, 2) ? last : moclL_checkdim(L, 2, x->ndim);
    if (dim == last) {
        out = moclL_pushtensor(L);
        MOCLL_CALL(L, mocl_softmax(out, x, log));
        return 1;
    }
    mocl_tensor **turned = moclL_pushtensor(L), **y = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_transpose(turned, x, dim, last));
    MOCLL_CALL(L, mocl_softmax(y, *turned, log));
    out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_transpose(out, *y, dim, last));
    return 1;
}

static int tensor_softmax(lua_State *L) { return softmax(L, false); }
static int tensor_log_softmax(lua_State *L) { return softmax(L, true); }

/* ---- order, choice and draws ---- */

static int ordered(lua_State *L, const char *op, mocl_tensor *x, int dim, int64_t k, bool descending) {
    if (x->ndim == 0) return luaL_error(L, "%s: a tensor with dimensions is needed", op);
    mocl_tensor **values = moclL_pushtensor(L), **positions = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_sort(values, positions, op, x, dim, k, descending));
    return 2;
}

/* x:sort(dim, descending), the last dimension by default -> values, positions from 0 */
static int tensor_sort(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1);
    int dim = lua_isnoneornil(L, 2) ? x->ndim - 1 : moclL_checkdim(L, 2, x->ndim);
    return ordered(L, "sort", x, dim, -1, lua_toboolean(L, 3));
}

/* x:topk(k, dim, largest = true) -> values, positions from 0 */
static int tensor_topk(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1);
    lua_Integer k = luaL_checkinteger(L, 2);
    luaL_argcheck(L, k >= 0, 2, "a number of entries expected");
    int dim = lua_isnoneornil(L, 3) ? x->ndim - 1 : moclL_checkdim(L, 3, x->ndim);
    return ordered(L, "topk", x, dim, k, lua_isnoneornil(L, 4) || lua_toboolean(L, 4));
}

static int tensor_masked_select(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1), *mask = moclL_checktensor(L, 2), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_masked_select(out, x, mask));
    return 1;
}

/* w:multinomial(n, {seed= or key=, stream=0, replacement=false}) -> positions from 0 */
static int tensor_multinomial(lua_State *L) {
    static const char *const options[] = {"seed", "key", "stream", "replacement", NULL};
    static const char purpose[] = "multinomial";
    mocl_tensor *w = moclL_checktensor(L, 1);
    lua_Integer n = luaL_checkinteger(L, 2);
    luaL_argcheck(L, n >= 0 && n < INT32_MAX, 2, "a number of draws expected");
    luaL_checktype(L, 3, LUA_TTABLE);
    lua_settop(L, 3);
    moclL_checkoptions(L, 3, options);
    bool has_key = lua_getfield(L, 3, "key") != LUA_TNIL, has_seed = lua_getfield(L, 3, "seed") != LUA_TNIL;
    if (has_key == has_seed) return luaL_error(L, "multinomial: give seed, or key from mocl.rng.key");
    if (!lua_isinteger(L, has_key ? -2 : -1)) return luaL_error(L, "multinomial: %s must be an integer", has_key ? "key" : "seed");
    uint64_t given = (uint64_t)lua_tointeger(L, has_key ? -2 : -1);
    uint64_t key = has_key ? given : mocl_rng_key(given, purpose, sizeof purpose - 1);
    lua_getfield(L, 3, "stream");
    if (!lua_isnil(L, -1) && !lua_isinteger(L, -1)) return luaL_error(L, "multinomial: stream must be an integer");
    uint64_t stream = (uint64_t)lua_tointeger(L, -1);
    lua_getfield(L, 3, "replacement");
    bool replacement = lua_toboolean(L, -1);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_multinomial(out, w, n, replacement, key, stream));
    return 1;
}

static int tensor_matmul(lua_State *L) {
    mocl_tensor *a = moclL_checktensor(L, 1), *b = moclL_checktensor(L, 2), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_matmul(out, a, b));
    return 1;
}

const luaL_Reg moclL_tensor_ops[] = {
    {"__add", tensor_add},
    {"__div", tensor_div},
    {"__le", tensor_order_le},
    {"__lt", tensor_order_lt},
    {"__mul", tensor_mul},
    {"__pow", tensor_pow},
    {"__sub", tensor_sub},
    {"__unm", tensor_neg},
    {"abs", tensor_abs},
    {"add", tensor_add},
    {"add_", tensor_add_},
    {"argmax", tensor_argmax},
    {"argmin", tensor_argmin},
    {"cat", tensor_cat},
    {"clamp", tensor_clamp},
    {"clone", tensor_clone},
    {"contiguous", tensor_contiguous},
    {"copy_", tensor_copy_},
    {"cos", tensor_cos},
    {"cumsum", tensor_cumsum},
    {"detach", tensor_detach},
    {"div", tensor_div},
    {"eq", tensor_eq},
    {"exp", tensor_exp},
    {"expand", tensor_expand},
    {"fill_", tensor_fill_},
    {"flatten", tensor_flatten},
    {"floor", tensor_floor},
    {"ge", tensor_ge},
    {"gelu", tensor_gelu},
    {"gt", tensor_gt},
    {"index_select", tensor_index_select},
    {"is_contiguous", tensor_is_contiguous},
    {"le", tensor_le},
    {"log", tensor_log},
    {"log_softmax", tensor_log_softmax},
    {"logsigmoid", tensor_logsigmoid},
    {"logsumexp", tensor_logsumexp},
    {"lt", tensor_lt},
    {"masked_select", tensor_masked_select},
    {"matmul", tensor_matmul},
    {"max", tensor_max},
    {"maximum", tensor_maximum},
    {"mean", tensor_mean},
    {"min", tensor_min},
    {"minimum", tensor_minimum},
    {"mul", tensor_mul},
    {"multinomial", tensor_multinomial},
    {"narrow", tensor_narrow},
    {"ne", tensor_ne},
    {"neg", tensor_neg},
    {"nonfinite", tensor_nonfinite},
    {"numel", tensor_numel},
    {"permute", tensor_permute},
    {"pick", tensor_pick},
    {"pow", tensor_pow},
    {"reciprocal", tensor_reciprocal},
    {"relu", tensor_relu},
    {"reshape", tensor_reshape},
    {"rsqrt", tensor_rsqrt},
    {"select", tensor_select},
    {"sigmoid", tensor_sigmoid},
    {"sign", tensor_sign},
    {"silu", tensor_silu},
    {"sin", tensor_sin},
    {"softmax", tensor_softmax},
    {"softplus", tensor_softplus},
    {"sort", tensor_sort},
    {"sqrt", tensor_sqrt},
    {"square", tensor_square},
    {"squeeze", tensor_squeeze},
    {"stack", tensor_stack},
    {"stride", tensor_stride},
    {"sub", tensor_sub},
    {"sum", tensor_sum},
    {"t", tensor_t},
    {"tanh", tensor_tanh},
    {"to", tensor_to},
    {"topk", tensor_topk},
    {"transpose", tensor_transpose},
    {"unsqueeze", tensor_unsqueeze},
    {"where", tensor_where},
    {"zero_", tensor_zero_},
    {NULL, NULL},
};
