/* lmodel.c - module mocl.transformer.core: the decoder, ragged batches and generation. Its adapters are llora.c; loading,
** saving and the adapter files are Lua (stdlib/mocl/lm/model.lua, lora.lua).
*/
#include "lmodel.h"

#include <stdio.h>
#include <string.h>

#include "lrows.h"
#include "ltensor.h"
#include "modules.h"

static void free_model(void *m) { mocl_model_free(m); }
static mocl_model *check_model(lua_State *L, int idx) { return moclL_checkowner(L, idx, MOCL_MODEL_CLASS); }

/* ---- the specification (lspec.c) ---- */

static int model_config(lua_State *L) {
    moclL_pushspec(L, &check_model(L, 1)->config);
    return 1;
}

/* new(config, {device="cpu", dtype="f32", key=0, init=true, quantization=nil}) -> model with random weights, in the linear layers
** of blocks those of the format quantization names; where init is false, with matrices that hold whatever is in the memory, and
** are to be filled */
static int transformer_new(lua_State *L) {
    static const char *const options[] = {"device", "dtype", "key", "init", "quantization", NULL};
    mocl_spec c;
    lua_settop(L, 2);
    moclL_checkspec(L, 1, &c);
    moclL_checkoptions(L, 2, options);
    mocl_device *dev = moclL_optdevice(L, 2);
    uint64_t key = (uint64_t)moclL_optfield_integer(L, 2, "key", 0);
    const char *name = moclL_optfield_string(L, 2, "dtype", "f32");
    mk_dtype dtype;
    if (!mocl_dtype_parse(&dtype, name)) return luaL_error(L, "unknown dtype '%s' (f32 or bf16)", name);
    bool draw = moclL_optfield_boolean(L, 2, "init", true);
    mk_format format = dtype == MK_BF16 ? MK_FORMAT_BF16 : MK_FORMAT_F32;
    const char *quantization = moclL_optfield_string(L, 2, "quantization", NULL);
    if (quantization && (!mocl_format_parse(&format, quantization) || format == MK_FORMAT_F32 || format == MK_FORMAT_BF16 ||
                         (format == MK_FORMAT_FP4 && draw)))
        return luaL_error(L, "unknown quantization '%s' (int8, w8a8 or nf4)", quantization);
    mocl_model **out = (mocl_model **)moclL_pushowner(L, MOCL_MODEL_CLASS);
    MOCLL_CALL(L, mocl_model_new(out, dev, &c, dtype, format, key, draw));
    return 1;
}

/* check(config, dtype="f32") -> the configuration with its defaults; raises where no model can have it, or none in this dtype */
static int transformer_check(lua_State *L) {
    mocl_spec c;
    lua_settop(L, 2);
    bool bf16 = strcmp(luaL_optstring(L, 2, "f32"), "bf16") == 0;
    moclL_checkspec(L, 1, &c);
    mocl_status st = mocl_spec_check(moclL_ctx(L), &c);
    if (!st && bf16) st = mocl_spec_check_bf16(moclL_ctx(L), &c);
    if (st) return moclL_raise(L, st);
    moclL_pushspec(L, &c);
    return 1;
}

/* ---- parameters ---- */

typedef struct collector {
    lua_State *L;
    lua_Integer n;
} collector;

static mocl_status collect(void *arg, const char *name, mocl_tensor *t) {
    collector *c = arg;
    lua_State *L = c->L;
    lua_createtable(L, 2, 0);
    lua_pushstring(L, name);
    lua_rawseti(L, -2, 1);
    moclL_pushtensorref(L, t);
    lua_rawseti(L, -2, 2);
    lua_rawseti(L, -2, ++c->n);
    return MOCL_OK;
}

/* m:named_parameters([lora]) -> ordered list of {name, tensor}: the base's; with true the active adapter's, with a name those
** of that adapter */
static int model_named_parameters(lua_State *L) {
    mocl_model *m = check_model(L, 1);
    bool lora = lua_toboolean(L, 2);
    const mocl_adapter *a = lua_type(L, 2) == LUA_TSTRING ? moclL_optadapter(L, 2, m) : lora ? m->active : NULL;
    lua_settop(L, 1);
    lua_newtable(L);
    collector c = {L, 0};
    if (!lora || a) mocl_model_visit(m, a, collect, &c);
    return 1;
}

/* m:head() -> the weight [V, D] under which hidden states become logits */
static int model_head(lua_State *L) {
    mocl_model *m = check_model(L, 1);
    if (!m->head) return luaL_error(L, "head: this model has no language-model head");
    moclL_pushtensorref(L, m->head);
    return 1;
}

static int model_device(lua_State *L) {
    lua_pushstring(L, check_model(L, 1)->dev->name);
    return 1;
}

/* m:dtype() -> "f32" or "bf16" */
static int model_dtype(lua_State *L) {
    lua_pushstring(L, mocl_dtype_name(check_model(L, 1)->dtype));
    return 1;
}

/* m:quantization() -> "int8", "w8a8", "nf4", "fp4", or nil where the linear layers are in the model's dtype */
static int model_quantization(lua_State *L) {
    mocl_model *m = check_model(L, 1);
    if (m->format == MK_FORMAT_F32 || m->format == MK_FORMAT_BF16) return 0;
    lua_pushstring(L, mocl_format_name(m->format));
    return 1;
}

/* m:dequantize(): linear layers in the model's dtype, with the numbers that the quantised ones stand for */
static int model_dequantize(lua_State *L) {
    mocl_model *m = moclL_checkidle(L, 1, MOCL_MODEL_CLASS, "dequantize: the model");
    MOCLL_CALL(L, mocl_model_dequantize(m));
    return 0;
}

/* The linear layer of the name at index 2 ("model.layers.0.mlp.up_proj"): its number among those of all blocks. */
static int64_t check_linear(lua_State *L, const mocl_model *m, const char *caller) {
    const char *name = luaL_checkstring(L, 2);
    for (int64_t i = 0; i < m->config.layers * MOCL_ALL_LINEARS; i++) {
        char one[64];
        int which = (int)(i % MOCL_ALL_LINEARS);
        snprintf(one, sizeof one, "model.layers.%lld.%s", (long long)(i / MOCL_ALL_LINEARS), mocl_model_linear_name(which));
        if (mocl_spec_has_linear(&m->config, which) && strcmp(one, name) == 0) return i;
    }
    return luaL_error(L, "%s: the model has no linear layer '%s'", caller, name);
}

/* m:linear_shape(name) -> {out, in} of the linear layer of that name */
static int model_linear_shape(lua_State *L) {
    mocl_model *m = check_model(L, 1);
    int64_t shape[2];
    mocl_spec_linear_shape(&m->config, (int)(check_linear(L, m, "linear_shape") % MOCL_ALL_LINEARS), shape);
    lua_createtable(L, 2, 0);
    for (int i = 0; i < 2; i++) {
        lua_pushinteger(L, shape[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* m:set_weight(name, t): the linear layer of that name becomes t [out, in], in its own format */
static int model_set_weight(lua_State *L) {
    mocl_model *m = moclL_checkidle(L, 1, MOCL_MODEL_CLASS, "set_weight: the model");
    int64_t i = check_linear(L, m, "set_weight");
    MOCLL_CALL(L, mocl_model_set(m, i / MOCL_ALL_LINEARS, (int)(i % MOCL_ALL_LINEARS), moclL_checktensor(L, 3)));
    return 0;
}

/* The weight whose parts are in the table at index at, by the last word of their names ("weight", "SCB", "absmax"), with the options
** behind it; the parts stay on the stack. */
static mocl_weight check_parts(lua_State *L, const char *caller, const char *format, int64_t rows, int64_t columns, int at) {
    static const char *const options[] = {"blocksize", "dtype", NULL};
    mocl_weight like = {.rows = rows, .columns = columns};
    luaL_checktype(L, at, LUA_TTABLE);
    moclL_checkoptions(L, at + 1, options);
    like.block = moclL_optfield_integer(L, at + 1, "blocksize", MOCL_WEIGHT_BLOCK);
    const char *dtype = moclL_optfield_string(L, at + 1, "dtype", "f32");
    if (!mocl_format_parse(&like.format, format)) luaL_error(L, "%s: unknown format '%s'", caller, format);
    if (!mocl_dtype_parse(&like.rounded, dtype) || like.rounded > MK_F16)
        luaL_error(L, "%s: unknown dtype '%s' (f32, bf16 or f16)", caller, dtype);
    luaL_checkstack(L, MK_WEIGHT_PARTS, NULL);
    for (int p = 0; p < MK_WEIGHT_PARTS && mocl_weight_part_name(&like, p); p++) {
        const char *name = strrchr(mocl_weight_part_name(&like, p), '.') + 1;
        if (lua_getfield(L, at, name) == LUA_TNIL) continue; /* the value stays on the stack */
        like.part[p] = moclL_totensor(L, -1);
        if (!like.part[p]) luaL_error(L, "%s: part '%s' %s", caller, name, moclL_notensor(L, -1));
    }
    return like;
}

/* m:set_parts(name, format, parts, {blocksize=64, dtype="f32"}): the linear layer of that name becomes a weight of copies of these
** parts */
static int model_set_parts(lua_State *L) {
    mocl_model *m = moclL_checkidle(L, 1, MOCL_MODEL_CLASS, "set_parts: the model");
    int64_t i = check_linear(L, m, "set_parts"), shape[2];
    const char *format = luaL_checkstring(L, 3);
    lua_settop(L, 5);
    mocl_spec_linear_shape(&m->config, (int)(i % MOCL_ALL_LINEARS), shape);
    mocl_weight like = check_parts(L, "set_parts", format, shape[0], shape[1], 4);
    MOCLL_CALL(L, mocl_model_set_parts(m, i / MOCL_ALL_LINEARS, (int)(i % MOCL_ALL_LINEARS), &like));
    return 0;
}

static mocl_status dequantize_parts(mocl_tensor **out, const mocl_weight *like) {
    mocl_weight w;
    MOCL_TRY(mocl_weight_of_parts(&w, like->part[0]->storage->dev, like));
    mocl_status st = mocl_weight_numbers(out, &w, MK_F32);
    mocl_weight_free(&w);
    return st;
}

/* dequantize(format, rows, columns, parts, {blocksize=64, dtype="f32"}) -> f32 [rows, columns] on the device of the first part */
static int transformer_dequantize(lua_State *L) {
    const char *format = luaL_checkstring(L, 1);
    int64_t rows = luaL_checkinteger(L, 2), columns = luaL_checkinteger(L, 3);
    lua_settop(L, 5);
    luaL_argcheck(L, rows > 0 && rows <= 1 << 30, 2, "rows");
    luaL_argcheck(L, columns > 0 && columns <= 1 << 30, 3, "columns");
    mocl_weight like = check_parts(L, "dequantize", format, rows, columns, 4);
    if (!like.part[0]) return luaL_error(L, "dequantize: part 'weight' is missing");
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, dequantize_parts(out, &like));
    return 1;
}

/* m:copy_linear(other): the linear layers become copies of those of a model of the same sizes, in their formats */
static int model_copy_linear(lua_State *L) {
    mocl_model *m = moclL_checkidle(L, 1, MOCL_MODEL_CLASS, "copy_linear: the model"), *other = check_model(L, 2);
    MOCLL_CALL(L, mocl_model_copy_linear(m, other));
    return 0;
}

/* m:share_embedding(other): the embedding of m becomes that of other, one tensor of both */
static int model_share_embedding(lua_State *L) {
    mocl_model *m = moclL_checkidle(L, 1, MOCL_MODEL_CLASS, "share_embedding: the model");
    MOCLL_CALL(L, mocl_model_share_embedding(m, moclL_checkmodel(L, 2)));
    return 0;
}

/* m:hash() -> SHA-256 of the base weights, 64 hex digits */
static int model_hash(lua_State *L) {
    const char *hex;
    mocl_model *m = check_model(L, 1);
    MOCLL_CALL(L, mocl_model_hash(m, &hex));
    lua_pushstring(L, hex);
    return 1;
}

/* ---- ragged batches ---- */

/* t[name] = i32 tensor of n host integers, t being at the top of the stack */
static void set_ids(lua_State *L, const char *name, mocl_device *dev, int64_t n, const int32_t *v) {
    mocl_tensor **out = moclL_pushtensor(L);
    mocl_status st = mocl_tensor_i32(out, dev, n, v);
    if (st) moclL_raise(L, st);
    lua_setfield(L, -2, name);
}

/* pushes {tokens, positions, offsets, n, total} */
static void push_batch(lua_State *L, const moclL_ragged *r, mocl_device *dev) {
    int32_t *pos = lua_newuserdatauv(L, (size_t)(r->total ? r->total : 1) * sizeof *pos, 0);
    for (int64_t b = 0; b < r->n; b++)
        for (int32_t i = r->offsets[b]; i < r->offsets[b + 1]; i++) pos[i] = i - r->offsets[b];
    lua_createtable(L, 0, 8);
    set_ids(L, "tokens", dev, r->total, r->tokens);
    set_ids(L, "positions", dev, r->total, pos);
    set_ids(L, "offsets", dev, r->n + 1, r->offsets);
    lua_pushinteger(L, r->n);
    lua_setfield(L, -2, "n");
    lua_pushinteger(L, r->total);
    lua_setfield(L, -2, "total");
    lua_remove(L, -2);
}

/* rows(list of id lists) -> an object of rows; one that is an object already comes back */
static int transformer_rows(lua_State *L) {
    if (moclL_torows(L, 1)) {
        lua_settop(L, 1);
        return 1;
    }
    moclL_ragged r = moclL_readragged(L, 1, 0);
    moclL_rows *rows = moclL_newrows(L, r.n, r.total);
    memcpy(moclL_rows_offsets(rows), r.offsets, (size_t)(r.n + 1) * sizeof *r.offsets);
    if (r.total) memcpy(moclL_rows_tokens(rows), r.tokens, (size_t)r.total * sizeof *r.tokens);
    return 1;
}

/* batch(rows, {device="cpu"}); rows: a list of id lists, or an object of rows */
static int transformer_batch(lua_State *L) {
    static const char *const options[] = {"device", NULL};
    moclL_checkoptions(L, 2, options);
    mocl_device *dev = moclL_optdevice(L, 2);
    moclL_ragged r = moclL_readragged(L, 1, 0);
    push_batch(L, &r, dev);
    return 1;
}

/* pack(prompts, responses, {device="cpu"}) -> a batch of prompt .. response sequences, and for the response
** tokens, in order: rows (index of the state that predicts the token), token_rows (index of the token's own
** state), targets (the token), response_offsets [n + 1], response_total. Prompts must not be empty. */
static int transformer_pack(lua_State *L) {
    static const char *const options[] = {"device", NULL};
    moclL_checkoptions(L, 3, options);
    mocl_device *dev = moclL_optdevice(L, 3);
    moclL_ragged r = moclL_readragged(L, 1, 2);
    int64_t total = 0;
    for (int64_t b = 0; b < r.n; b++) {
        if (r.middle[b] == r.offsets[b]) return luaL_error(L, "pack: prompt %I is empty", (lua_Integer)b + 1);
        total += r.offsets[b + 1] - r.middle[b];
    }
    int32_t *rows = lua_newuserdatauv(L, (size_t)(3 * total + r.n + 1) * sizeof *rows, 0);
    int32_t *token_rows = rows + total, *targets = token_rows + total, *off = targets + total;
    int64_t at = 0;
    off[0] = 0;
    for (int64_t b = 0; b < r.n; b++) {
        for (int32_t i = r.middle[b]; i < r.offsets[b + 1]; i++, at++) {
            rows[at] = i - 1;
            token_rows[at] = i;
            targets[at] = r.tokens[i];
        }
        off[b + 1] = (int32_t)at;
    }
    push_batch(L, &r, dev);
    set_ids(L, "rows", dev, total, rows);
    set_ids(L, "token_rows", dev, total, token_rows);
    set_ids(L, "targets", dev, total, targets);
    set_ids(L, "response_offsets", dev, r.n + 1, off);
    lua_pushinteger(L, total);
    lua_setfield(L, -2, "response_total");
    return 1;
}

/* ---- forward ---- */

static mocl_tensor *batch_field(lua_State *L, int idx, const char *name) {
    lua_getfield(L, idx, name);
    mocl_tensor *t = moclL_totensor(L, -1);
    if (!t) luaL_argerror(L, idx, lua_pushfstring(L, "not a batch: field '%s' %s", name, moclL_notensor(L, -1)));
    else if (t->dtype != MK_I32) luaL_argerror(L, idx, lua_pushfstring(L, "not a batch: field '%s' is no i32 tensor", name));
    return t; /* the value stays on the stack */
}

/* The adapters of a batch's sequences, as the options at opts say, for its tokens. Userdata are left on the stack. */
static void set_adapters(lua_State *L, int opts, const mocl_model *m, mocl_tensor *offsets, mocl_pass *pass) {
    int64_t n = offsets->shape[0] - 1;
    mocl_choice c = moclL_checkchoice(L, opts, m, n);
    pass->adapter = c.all;
    if (!c.row) return;
    mocl_adapter_run *runs = lua_newuserdatauv(L, (size_t)(n ? n : 1) * sizeof *runs, 0);
    int32_t *host = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *host, 0);
    mocl_status st = mocl_tensor_to_host(offsets, host);
    if (st) moclL_raise(L, st);
    for (int64_t i = 0; i < n; i++) mocl_adapter_extend(runs, &pass->n_runs, c.row[i], host[i + 1]);
    if (pass->n_runs) pass->runs = runs;
}

/* mocl_model_forward, whose new products go to `made`, which own them whatever it returns */
static mocl_status forward_into(mocl_tensor **out, mocl_tensor **made[MOCL_PRODUCTS], mocl_model *m, mocl_tensor *tokens,
                                mocl_tensor *pos, mocl_tensor *off, const mocl_pass *pass) {
    mocl_status st = mocl_model_forward(out, m, tokens, pos, off, pass);
    for (int i = 0; i < MOCL_PRODUCTS; i++)
        if (made[i]) *made[i] = pass->product[i];
    return st;
}

/* a tensor of the options, which stays on the stack; NULL where there is none */
static mocl_tensor *tensor_option(lua_State *L, int opts, const char *name) {
    if (lua_isnoneornil(L, opts) || lua_getfield(L, opts, name) == LUA_TNIL) return NULL;
    mocl_tensor *t = moclL_totensor(L, -1);
    if (!t) luaL_error(L, "forward: option '%s' %s", name, moclL_notensor(L, -1));
    return t;
}

static const char *const product_fields[MOCL_PRODUCTS] = {"q_proj", "k_proj", "v_proj"};

/* m:forward(batch, {adapter=true, train=false, key=0, stream=0, rows=nil, stop=nil, hidden=nil, start=nil, products=nil})
** -> hidden [T, D]; [n, D] for the n tokens of rows (i32, from 0). stop=k: the residual stream behind k blocks; hidden=, start=k:
** goes on from there. encoder_hidden_states [S, D], encoder_offsets: what a model with cross attention looks at. products: a table, which gets the products of q, k and v of block k that do not change between such passes,
** or has them from the pass before. */
static int model_forward(lua_State *L) {
    static const char *const options[] = {"adapter", "train", "key", "stream", "rows", "hidden", "start", "stop", "products",
                                          "encoder_hidden_states", "encoder_offsets", NULL};
    mocl_model *m = check_model(L, 1);
    mocl_pass pass = {0};
    mocl_tensor *product[MOCL_PRODUCTS] = {NULL}, **made[MOCL_PRODUCTS] = {NULL};
    int products = 0;
    lua_settop(L, 3);
    luaL_checktype(L, 2, LUA_TTABLE);
    moclL_checkoptions(L, 3, options);
    pass.train = moclL_optfield_boolean(L, 3, "train", false);
    pass.key = (uint64_t)moclL_optfield_integer(L, 3, "key", 0);
    pass.stream = (uint64_t)moclL_optfield_integer(L, 3, "stream", 0);
    pass.rows = tensor_option(L, 3, "rows");
    pass.hidden = tensor_option(L, 3, "hidden");
    pass.memory = tensor_option(L, 3, "encoder_hidden_states");
    pass.memory_offsets = tensor_option(L, 3, "encoder_offsets");
    if (!lua_isnoneornil(L, 3) && lua_getfield(L, 3, "products") != LUA_TNIL) { /* the table stays on the stack */
        if (!lua_istable(L, -1)) return luaL_error(L, "forward: option 'products' is a %s, not a table", luaL_typename(L, -1));
        products = lua_gettop(L);
        pass.product = product;
        for (int i = 0; i < MOCL_PRODUCTS; i++) {
            if (lua_getfield(L, products, product_fields[i]) == LUA_TNIL) continue;
            product[i] = moclL_totensor(L, -1);
            if (!product[i]) return luaL_error(L, "forward: products: '%s' %s", product_fields[i], moclL_notensor(L, -1));
        }
    }
    pass.start = moclL_optfield_integer(L, 3, "start", LUA_MININTEGER);
    if (!pass.hidden != (pass.start == LUA_MININTEGER))
        return luaL_error(L, "forward: hidden and start go together: the stream behind the first `start` blocks");
    pass.stop = moclL_optfield_integer(L, 3, "stop", LUA_MININTEGER);
    pass.stops = pass.stop != LUA_MININTEGER;
    if (lua_getfield(L, 2, "types") != LUA_TNIL) { /* the value stays on the stack */
        lua_pop(L, 1);
        pass.types = batch_field(L, 2, "types");
    }
    mocl_tensor *tokens = batch_field(L, 2, "tokens"), *pos = batch_field(L, 2, "positions"),
                *off = batch_field(L, 2, "offsets");
    if (tokens->storage->dev != m->dev)
        return luaL_error(L, "forward: the batch is on %s, the model on %s", tokens->storage->dev->name, m->dev->name);
    mocl_status st = mocl_need_offsets("forward", off, tokens->shape[0]);
    if (!st && mocl_tensor_numel(pos) != mocl_tensor_numel(tokens))
        st = mocl_fail(m->ctx, MOCL_E_SHAPE, "forward: %lld positions for %lld tokens", (long long)mocl_tensor_numel(pos),
                       (long long)mocl_tensor_numel(tokens));
    if (!st && pass.types && mocl_tensor_numel(pass.types) != mocl_tensor_numel(tokens))
        st = mocl_fail(m->ctx, MOCL_E_SHAPE, "forward: %lld types for %lld tokens", (long long)mocl_tensor_numel(pass.types),
                       (long long)mocl_tensor_numel(tokens));
    if (st) return moclL_raise(L, st);
    set_adapters(L, 3, m, off, &pass);
    for (int i = 0; i < MOCL_PRODUCTS && products; i++)
        if (!product[i]) made[i] = moclL_pushtensor(L);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, forward_into(out, made, m, tokens, pos, off, &pass));
    for (int i = MOCL_PRODUCTS - 1, at = -2; i >= 0; i--) {
        if (!made[i]) continue;
        lua_pushvalue(L, at--);
        lua_setfield(L, products, product_fields[i]);
    }
    return 1;
}

/* ---- generation ---- */

#define GENERATED_CLASS "mocl.generated"

static int generated_gc(lua_State *L) {
    mocl_generated_free(luaL_checkudata(L, 1, GENERATED_CLASS));
    return 0;
}

#define GENERATION_CLASS "mocl.generation"

static void close_generation(void *p) { mocl_generation_close(p); }

/* Generates with a call of the function at index fn for each token. What it raises leaves through here: Lua closes the
** generation, at the top of the stack, then. The call holds it too, as the debug library finds what is on the stack. */
static mocl_status generate_by_token(lua_State *L, int fn, mocl_generated *g, mocl_model *m, moclL_ragged r,
                                     const mocl_generate_options *o) {
    moclL_pushguard(L, "on_token of generate");
    mocl_generation **owner = (mocl_generation **)moclL_pushowner(L, GENERATION_CLASS);
    lua_toclose(L, -1);
    int64_t row;
    int32_t token;
    mocl_status st = mocl_generation_open(owner, g, m, r.n, r.offsets, r.tokens, o);
    mocl_generation *generation = *owner;
    if (generation) moclL_hold(L, generation, NULL);
    for (bool stop = false; !st;) {
        st = mocl_generation_next(generation, stop, &row, &token);
        if (st || row < 0) break;
        lua_pushvalue(L, fn);
        lua_pushinteger(L, row + 1);
        lua_pushinteger(L, token);
        lua_call(L, 2, 1);
        stop = lua_toboolean(L, -1);
        lua_pop(L, 1);
    }
    mocl_generation_close(*owner);
    *owner = NULL;
    return st;
}

/* The ids in option eos, an integer or a list of them, as a userdata left on the stack. */
static void read_eos(lua_State *L, int opts, mocl_generate_options *o) {
    if (lua_isnoneornil(L, opts) || lua_getfield(L, opts, "eos") == LUA_TNIL) return;
    int at = lua_gettop(L), list = lua_istable(L, at);
    int64_t n = list ? moclL_len(L, at) : 1;
    int32_t *ids = lua_newuserdatauv(L, (size_t)(n ? n : 1) * sizeof *ids, 0);
    for (int64_t i = 0; i < n; i++) {
        int is_integer;
        if (list) lua_geti(L, at, i + 1);
        else lua_pushvalue(L, at);
        lua_Integer id = moclL_tointeger(L, -1, &is_integer);
        if (!is_integer) luaL_error(L, "bad option 'eos' (a token id or a list of ids expected, got %s)", luaL_typename(L, -1));
        if (id < INT32_MIN || id > INT32_MAX) luaL_error(L, "generate: eos %I is no token id", id);
        ids[i] = (int32_t)id;
        lua_pop(L, 1);
    }
    o->eos = ids;
    o->n_eos = n;
}

/* m:generate(prompts, {max_new_tokens=, temperature=1, top_k=0, top_p=1, eos=nil, key=0, adapter=true,
** suppress_first=0, vocab_size=nil, on_token=nil, ragged=false, stem=0, period=0, first_row=1}) -> {tokens={{...}}, finished={...}, total=n}, logp [total]
** flat over the rows. on_token(row, id) returns true to end the row after this token. ragged: tokens is an object of rows.
** stem=k: field stem, on the cpu the stream behind k blocks of the prompts with their answers, as pack orders them. */
static int model_generate(lua_State *L) {
    static const char *const options[] = {"max_new_tokens", "temperature", "top_k", "top_p", "eos", "key", "adapter",
                                          "suppress_first", "vocab_size", "on_token", "ragged", "stem", "period", "first_row", NULL};
    mocl_model *m = check_model(L, 1);
    lua_settop(L, 3);
    if (!moclL_torows(L, 2)) luaL_checktype(L, 2, LUA_TTABLE);
    moclL_checkoptions(L, 3, options);
    bool as_ragged = moclL_optfield_boolean(L, 3, "ragged", false);
    mocl_generate_options o = {
        .max_new_tokens = moclL_optfield_integer(L, 3, "max_new_tokens", 128),
        .temperature = moclL_optfield_number(L, 3, "temperature", 1),
        .top_k = moclL_optfield_integer(L, 3, "top_k", 0),
        .top_p = moclL_optfield_number(L, 3, "top_p", 1),
        .key = (uint64_t)moclL_optfield_integer(L, 3, "key", 0),
        .suppress_first = moclL_optfield_integer(L, 3, "suppress_first", 0),
        .vocab = moclL_optfield_integer(L, 3, "vocab_size", 0),
        .stem = moclL_optfield_integer(L, 3, "stem", 0),
        .first_row = moclL_optfield_integer(L, 3, "first_row", 1) - 1,
        .period = moclL_optfield_integer(L, 3, "period", 0),
    };
    if (o.first_row < 0 || o.first_row > INT32_MAX / 2) return luaL_error(L, "generate: first_row=%I is no row", (lua_Integer)o.first_row + 1);
    read_eos(L, 3, &o);
    int on_token = moclL_optfield_function(L, 3, "on_token") ? lua_gettop(L) : 0;
    if (on_token && o.stem) return luaL_error(L, "generate: stem and on_token do not go together");
    moclL_ragged r = moclL_readragged(L, 2, 0);
    o.adapter = moclL_checkchoice(L, 3, m, r.n);
    mocl_generated *g = lua_newuserdatauv(L, sizeof *g, 0);
    memset(g, 0, sizeof *g);
    luaL_setmetatable(L, GENERATED_CLASS);
    luaL_checkstack(L, 16, NULL);
    mocl_status st = on_token ? generate_by_token(L, on_token, g, m, r, &o)
                              : mocl_model_generate(g, m, r.n, r.offsets, r.tokens, &o);
    if (st) return moclL_raise(L, st);

    int64_t total = 0;
    lua_createtable(L, 0, 3);
    int result = lua_gettop(L);
    lua_createtable(L, (int)g->rows, 0); /* finished */
    for (int64_t b = 0; b < g->rows; b++) {
        lua_pushboolean(L, g->finished[b]);
        lua_rawseti(L, -2, b + 1);
        total += g->length[b];
    }
    lua_setfield(L, result, "finished");
    moclL_rows *tokens = moclL_newrows(L, g->rows, total);
    for (int64_t b = 0, at = 0; b < g->rows; b++) {
        memcpy(moclL_rows_tokens(tokens) + at, g->token + b * g->max_new_tokens, (size_t)g->length[b] * sizeof(int32_t));
        at += g->length[b];
        moclL_rows_offsets(tokens)[b + 1] = (int32_t)at;
    }
    if (!as_ragged) {
        moclL_rows_totable(L, tokens);
        lua_replace(L, -2);
    }
    lua_setfield(L, result, "tokens");
    lua_pushinteger(L, total);
    lua_setfield(L, result, "total");
    mk_real *flat = lua_newuserdatauv(L, (size_t)total * sizeof *flat, 0), *to = flat;
    for (int64_t b = 0; b < g->rows; b++) {
        memcpy(to, g->logp + b * g->max_new_tokens, (size_t)g->length[b] * sizeof *to);
        to += g->length[b];
    }
    if (g->stem) {
        mocl_tensor **stem = moclL_pushtensor(L);
        *stem = g->stem;
        g->stem = NULL;
        lua_setfield(L, result, "stem");
    }
    mocl_generated_free(g);
    mocl_tensor **logp = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_tensor_from_host(logp, m->dev, MK_F32, 1, &total, flat));
    lua_pushvalue(L, result);
    lua_insert(L, -2);
    return 2;
}

static const luaL_Reg methods[] = {
    {"active_adapter", moclL_model_active_adapter},
    {"adapters", moclL_model_adapters},
    {"add_adapter", moclL_model_add_adapter},
    {"add_lora", moclL_model_add_lora},
    {"config", model_config},
    {"copy_linear", model_copy_linear},
    {"delete_adapter", moclL_model_delete_adapter},
    {"dequantize", model_dequantize},
    {"device", model_device},
    {"drop_lora", moclL_model_drop_lora},
    {"dtype", model_dtype},
    {"forward", model_forward},
    {"generate", model_generate},
    {"hash", model_hash},
    {"head", model_head},
    {"linear_shape", model_linear_shape},
    {"lora", moclL_model_lora},
    {"merge_lora", moclL_model_merge_lora},
    {"named_parameters", model_named_parameters},
    {"quantization", model_quantization},
    {"session", moclL_model_session},
    {"set_adapter", moclL_model_set_adapter},
    {"set_parts", model_set_parts},
    {"set_weight", model_set_weight},
    {"share_embedding", model_share_embedding},
    {NULL, NULL},
};

static const luaL_Reg functions[] = {
    {"batch", transformer_batch}, {"check", transformer_check},
    {"dequantize", transformer_dequantize}, {"new", transformer_new},
    {"pack", transformer_pack}, {"rows", transformer_rows}, {NULL, NULL}};

int moclL_open_transformer_core(lua_State *L) {
    moclL_opentensors(L);
    moclL_openrows(L);
    static const luaL_Reg none[] = {{NULL, NULL}};
    moclL_newclass(L, MOCL_MODEL_CLASS, methods, free_model);
    moclL_open_session(L);
    moclL_newclass(L, GENERATION_CLASS, none, close_generation);
    luaL_newmetatable(L, GENERATED_CLASS);
    lua_pushcfunction(L, generated_gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    moclL_newlib(L, functions);
    return 1;
}
