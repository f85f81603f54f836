/* lnn.c - module mocl.nn.core: network parts that are one fused operation. stdlib/mocl/nn.lua builds
** layers on them.
*/
#include <string.h>

#include "ltensor.h"
#include "modules.h"



/* linear(x, w, b=nil): x [..., in], w [out, in], b [out] -> [..., out] */
static int nn_linear(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1), *w = moclL_checktensor(L, 2), *b = moclL_opttensor(L, 3);
    mocl_tensor **out = moclL_pushtensor(L);
    mocl_weight weight = mocl_weight_of(w);
    MOCLL_CALL(L, mocl_linear(out, x, &weight, b, NULL));
    return 1;
}

/* lora_linear(x, w, A, B, {scale=1, dropout=0, key=0, stream=0}) */
static int nn_lora_linear(lua_State *L) {
    static const char *const options[] = {"scale", "dropout", "key", "stream", NULL};
    mocl_tensor *x = moclL_checktensor(L, 1), *w = moclL_checktensor(L, 2), *a = moclL_checktensor(L, 3),
                *b = moclL_checktensor(L, 4);
    moclL_checkoptions(L, 5, options);
    double scale = moclL_optfield_number(L, 5, "scale", 1), p = moclL_optfield_number(L, 5, "dropout", 0);
    uint64_t key = (uint64_t)moclL_optfield_integer(L, 5, "key", 0);
    uint64_t stream = (uint64_t)moclL_optfield_integer(L, 5, "stream", 0);
    if (!(p >= 0 && p < 1)) return luaL_error(L, "lora_linear: dropout %f is outside [0, 1)", mocl_shown(p));
    mocl_tensor **out = moclL_pushtensor(L);
    mocl_weight weight = mocl_weight_of(w);
    mocl_lora adapter = {.a = a, .b = b, .scale = scale, .dropout = p, .key = key, .stream = stream, .end = -1};
    MOCLL_CALL(L, mocl_linear(out, x, &weight, NULL, &adapter));
    return 1;
}

/* rms_norm(x, w=nil, eps=1e-5) */
static int nn_rms_norm(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1), *w = moclL_opttensor(L, 2);
    double eps = luaL_optnumber(L, 3, 1e-5);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_rmsnorm(out, x, w, eps));
    return 1;
}

/* layer_norm(x, w=nil, b=nil, eps=1e-5) */
static int nn_layer_norm(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1), *w = moclL_opttensor(L, 2), *b = moclL_opttensor(L, 3);
    double eps = luaL_optnumber(L, 4, 1e-5);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_layernorm(out, x, w, b, eps));
    return 1;
}

/* dropout(x, p, {key=, stream=}): the same key and stream give the same mask */
static int nn_dropout(lua_State *L) {
    static const char *const options[] = {"key", "stream", NULL};
    mocl_tensor *x = moclL_checktensor(L, 1);
    double p = luaL_checknumber(L, 2);
    moclL_checkoptions(L, 3, options);
    uint64_t key = (uint64_t)moclL_optfield_integer(L, 3, "key", 0);
    uint64_t stream = (uint64_t)moclL_optfield_integer(L, 3, "stream", 0);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_dropout(out, x, p, key, stream));
    return 1;
}

/* swiglu(gate, up) = silu(gate) * up */
static int nn_swiglu(lua_State *L) {
    mocl_tensor *gate = moclL_checktensor(L, 1), *up = moclL_checktensor(L, 2), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_swiglu(out, gate, up));
    return 1;
}

/* rope(x [T, H, K], positions (from 0), theta=10000) */
static int nn_rope(lua_State *L) {
    mocl_tensor *x = moclL_checktensor(L, 1);
    double theta = luaL_optnumber(L, 3, 10000);
    mocl_tensor *pos = moclL_pushids(L, 2, x->storage->dev, 0), **freq = moclL_pushtensor(L), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_rope_table(freq, x->storage->dev, x->ndim == 3 ? x->shape[2] / 2 : 0, NULL, theta));
    MOCLL_CALL(L, mocl_rope(out, x, pos, *freq, 1));
    return 1;
}

/* attention(q, k, v, offsets, {causal=true, scale=1/sqrt(K), window=0, key_offsets=nil}) */
static int nn_attention(lua_State *L) {
    static const char *const options[] = {"causal", "scale", "window", "key_offsets", NULL};
    lua_settop(L, 5);
    mocl_tensor *q = moclL_checktensor(L, 1), *k = moclL_checktensor(L, 2), *v = moclL_checktensor(L, 3);
    moclL_checkoptions(L, 5, options);
    double width = q->ndim == 3 ? (double)q->shape[2] : 1;
    double scale = moclL_optfield_number(L, 5, "scale", 1.0 / __builtin_sqrt(width));
    bool causal = moclL_optfield_boolean(L, 5, "causal", true);
    int64_t window = moclL_optfield_integer(L, 5, "window", 0);
    mocl_tensor *off = moclL_pushids(L, 4, q->storage->dev, 0), *keys = NULL;
    if (!lua_isnil(L, 5) && lua_getfield(L, 5, "key_offsets") != LUA_TNIL) keys = moclL_pushids(L, -1, q->storage->dev, 0);
    mocl_tensor **out = moclL_pushtensor(L);
    mocl_status st = mocl_need_offsets("attention", off, q->ndim ? q->shape[0] : 0);
    if (!st && keys) st = mocl_need_sequences("attention", keys, k->ndim ? k->shape[0] : 0);
    if (st) return moclL_raise(L, st);
    MOCLL_CALL(L, mocl_attention(out, q, k, v, off, keys, NULL, scale, causal, window));
    return 1;
}

/* segment_sum(x [T] or [T, n], offsets), segment_mean alike -> one row per sequence */
static int segment(lua_State *L, bool mean) {
    mocl_tensor *x = moclL_checktensor(L, 1), *off = moclL_pushids(L, 2, x->storage->dev, 0);
    mocl_tensor **out = moclL_pushtensor(L);
    mocl_status st = mocl_need_offsets("segment", off, x->ndim ? x->shape[0] : 0);
    if (st) return moclL_raise(L, st);
    MOCLL_CALL(L, mocl_segment(out, x, off, mean));
    return 1;
}

static int nn_segment_sum(lua_State *L) { return segment(L, false); }
static int nn_segment_mean(lua_State *L) { return segment(L, true); }

/* segment_expand(y [B] or [B, n], offsets) -> [T] or [T, n]: each row of y once per token of its sequence.
** No gradient flows through it. */
static int nn_segment_expand(lua_State *L) {
    mocl_tensor *y = moclL_checktensor(L, 1), *off = moclL_pushids(L, 2, y->storage->dev, 0);
    if (y->ndim < 1 || y->ndim > 2 || off->shape[0] != y->shape[0] + 1 || y->dtype != MK_F32)
        return luaL_error(L, "segment_expand: needs f32 [B] or [B, n] and B + 1 offsets");
    int64_t n_seq = y->shape[0], width = y->ndim == 2 ? y->shape[1] : 1, shape[2] = {0, width};
    int32_t *host = lua_newuserdatauv(L, (size_t)(n_seq + 1) * sizeof *host, 0);
    mocl_status st = mocl_tensor_to_host(off, host);
    shape[0] = host[n_seq];
    if (!st) st = mocl_need_offsets("segment_expand", off, shape[0]);
    if (st) return moclL_raise(L, st);
    mocl_tensor **c = moclL_pushtensor(L), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_tensor_contiguous(c, y));
    MOCLL_CALL(L, mocl_tensor_new(out, y->storage->dev, MK_F32, y->ndim, shape));
    st = MOCL_KERNEL(y->storage->dev, segment_sum_bwd, 0, n_seq, mocl_int(off), width, mocl_real(*c), mocl_real(*out));
    return st ? moclL_raise(L, st) : 1;
}

/* segment_last(y [B, n], offsets) -> [T, n]: row b of y at the last token of sequence b, zero elsewhere (a
** reward that comes at the end). Sequences must not be empty. No gradient flows through it. */
static int nn_segment_last(lua_State *L) {
    mocl_tensor *y = moclL_checktensor(L, 1), *off = moclL_pushids(L, 2, y->storage->dev, 0);
    if (y->ndim != 2 || off->shape[0] != y->shape[0] + 1 || y->dtype != MK_F32)
        return luaL_error(L, "segment_last: needs f32 [B, n] and B + 1 offsets");
    int64_t n_seq = y->shape[0], shape[2] = {0, y->shape[1]};
    int32_t *host = lua_newuserdatauv(L, (size_t)(n_seq + 1) * sizeof *host, 0);
    mocl_status st = mocl_tensor_to_host(off, host);
    shape[0] = host[n_seq];
    if (!st) st = mocl_need_offsets("segment_last", off, shape[0]);
    if (st) return moclL_raise(L, st);
    for (int64_t b = 0; b < n_seq; b++) {
        if (host[b + 1] == host[b]) return luaL_error(L, "segment_last: sequence %I is empty", (lua_Integer)b + 1);
        host[b] = host[b + 1] - 1; /* in place: only later entries are still needed */
    }
    mocl_tensor **last = moclL_pushtensor(L), **c = moclL_pushtensor(L), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_tensor_i32(last, y->storage->dev, n_seq, host));
    MOCLL_CALL(L, mocl_tensor_contiguous(c, y));
    MOCLL_CALL(L, mocl_tensor_full(out, y->storage->dev, MK_F32, 2, shape, 0));
    st = MOCL_KERNEL(y->storage->dev, scatter_add_rows, n_seq, shape[1], mocl_real(*c), mocl_int(*last), shape[0],
                     mocl_real(*out));
    return st ? moclL_raise(L, st) : 1;
}

/* embedding(weight [V, D], ids from 0) -> [n, D]; rows(x, ids) is the same for any x */
static int nn_embedding(lua_State *L) {
    mocl_tensor *w = moclL_checktensor(L, 1), *ids = moclL_pushids(L, 2, w->storage->dev, 0);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_index_select(out, w, ids));
    return 1;
}

static const char *const reference_fields[] = {"hidden", "lse", "logits"};
static mocl_tensor **reference_field(mocl_reference *ref, int i) { return i == 0 ? &ref->hidden : i == 1 ? &ref->lse : &ref->logits; }

/* lm_reference(hidden [T, D], w [V, D], targets, {temperature=1, keep_logits=true}) -> {logp [T], lse [T], hidden [T, D], logits [T, V] or nil,
** temperature} */
static int nn_lm_reference(lua_State *L) {
    static const char *const options[] = {"temperature", "keep_logits", NULL};
    mocl_tensor *h = moclL_checktensor(L, 1), *w = moclL_checktensor(L, 2), **slot[3];
    mocl_reference ref;
    moclL_checkoptions(L, 4, options);
    double temperature = moclL_optfield_number(L, 4, "temperature", 1);
    bool keep = moclL_optfield_boolean(L, 4, "keep_logits", true);
    mocl_tensor *target = moclL_pushids(L, 3, h->storage->dev, 0);
    luaL_checkstack(L, 16, NULL);
    lua_createtable(L, 0, 5);
    int at = lua_gettop(L);
    mocl_tensor **logp = moclL_pushtensor(L);
    for (int i = 0; i < 3; i++) slot[i] = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_lm_reference(&ref, logp, h, w, target, temperature, keep));
    for (int i = 0; i < 3; i++) *slot[i] = *reference_field(&ref, i);
    if (!ref.logits) lua_pop(L, 1);
    for (int i = lua_gettop(L) - at - 2; i >= 0; i--) lua_setfield(L, at, reference_fields[i]);
    lua_setfield(L, at, "logp");
    lua_pushnumber(L, temperature);
    lua_setfield(L, at, "temperature");
    return 1;
}

/* Option reference, a table that lm_reference gave; its tensors stay on the stack. */
static bool read_reference(lua_State *L, int opts, mocl_reference *ref, double temperature) {
    memset(ref, 0, sizeof *ref);
    if (!moclL_optfield_table(L, opts, "reference")) return false;
    int at = lua_gettop(L);
    luaL_checkstack(L, 16, NULL);
    if (lua_getfield(L, at, "temperature") != LUA_TNUMBER || lua_tonumber(L, -1) != temperature)
        luaL_error(L, "lm_head: the reference is of another temperature; give lm_reference the temperature %f", temperature);
    for (int i = 0; i < 3; i++) {
        lua_getfield(L, at, reference_fields[i]);
        *reference_field(ref, i) = moclL_totensor(L, -1);
        if (!*reference_field(ref, i) && (i < 2 || !lua_isnil(L, -1)))
            luaL_error(L, "lm_head: field '%s' of the reference %s; lm_reference makes it", reference_fields[i], moclL_notensor(L, -1));
    }
    return true;
}

/* lm_head(hidden [T, D], w [V, D], targets, {temperature=1, hidden_ref=nil, reference=nil, entropy=true, keep_logits=true})
** -> logp [T], entropy [T] or nil, kl [T] or nil */
static int nn_lm_head(lua_State *L) {
    static const char *const options[] = {"temperature", "hidden_ref", "reference", "entropy", "keep_logits", NULL};
    mocl_tensor *h = moclL_checktensor(L, 1), *w = moclL_checktensor(L, 2), *hidden_ref;
    mocl_reference ref;
    moclL_checkoptions(L, 4, options);
    double temperature = moclL_optfield_number(L, 4, "temperature", 1);
    bool want_entropy = moclL_optfield_boolean(L, 4, "entropy", true);
    bool keep = moclL_optfield_boolean(L, 4, "keep_logits", true);
    bool want_kl = read_reference(L, 4, &ref, temperature);
    hidden_ref = moclL_optfield_tensor(L, 4, "hidden_ref");
    if (hidden_ref && want_kl) return luaL_error(L, "lm_head: give hidden_ref or reference, not both");
    if (hidden_ref) ref.hidden = hidden_ref;
    want_kl = want_kl || hidden_ref;
    mocl_tensor *target = moclL_pushids(L, 3, h->storage->dev, 0);
    mocl_tensor **logp = moclL_pushtensor(L), **entropy = NULL, **kl = NULL;
    if (want_entropy) entropy = moclL_pushtensor(L);
    else lua_pushnil(L);
    if (want_kl) kl = moclL_pushtensor(L);
    else lua_pushnil(L);
    MOCLL_CALL(L, mocl_lm_head(logp, entropy, kl, h, w, &ref, target, temperature, keep));
    return 3;
}

/* ppo_clip(logp, old_logp, advantages, cliprange) -> loss, ratio, clipped; [T] each */
static int nn_ppo_clip(lua_State *L) {
    mocl_tensor *logp = moclL_checktensor(L, 1), *old = moclL_checktensor(L, 2), *adv = moclL_checktensor(L, 3);
    double range = luaL_checknumber(L, 4);
    mocl_tensor **loss = moclL_pushtensor(L), **ratio = moclL_pushtensor(L), **clipped = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_ppo_clip(loss, ratio, clipped, logp, old, adv, range));
    return 3;
}

/* gae(rewards [T, n], values [T, n], offsets, {gamma=1, lam=.95}) -> advantages, returns */
static int nn_gae(lua_State *L) {
    static const char *const options[] = {"gamma", "lam", NULL};
    mocl_tensor *r = moclL_checktensor(L, 1), *v = moclL_checktensor(L, 2);
    moclL_checkoptions(L, 4, options);
    double gamma = moclL_optfield_number(L, 4, "gamma", 1), lam = moclL_optfield_number(L, 4, "lam", .95);
    mocl_tensor *off = moclL_pushids(L, 3, r->storage->dev, 0);
    mocl_tensor **adv = moclL_pushtensor(L), **ret = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_gae(adv, ret, r, v, off, gamma, lam));
    return 2;
}

/* sample(logits [n, V], {rows=, key=, step=0, temperature=1, top_k=0, top_p=1}) -> ids [n] from 0 */
static int nn_sample(lua_State *L) {
    static const char *const options[] = {"rows", "key", "step", "temperature", "top_k", "top_p", NULL};
    mocl_tensor *x = moclL_checktensor(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    moclL_checkoptions(L, 2, options);
    double temperature = moclL_optfield_number(L, 2, "temperature", 1), top_p = moclL_optfield_number(L, 2, "top_p", 1);
    int64_t top_k = moclL_optfield_integer(L, 2, "top_k", 0);
    uint64_t key = (uint64_t)moclL_optfield_integer(L, 2, "key", 0);
    lua_Integer step = moclL_optfield_integer(L, 2, "step", 0);
    if (step < 0 || step > UINT32_MAX) return luaL_error(L, "sample: step = %I is outside 0 .. %I", step, (lua_Integer)UINT32_MAX);
    lua_getfield(L, 2, "rows");
    mocl_tensor *rows = moclL_pushids(L, lua_gettop(L), x->storage->dev, 0), **out = moclL_pushtensor(L);
    MOCLL_CALL(L, mocl_sample(out, x, temperature, top_k, top_p, key, (uint32_t)step, rows));
    return 1;
}

static const luaL_Reg functions[] = {
    {"attention", nn_attention},
    {"dropout", nn_dropout},
    {"embedding", nn_embedding},
    {"gae", nn_gae},
    {"layer_norm", nn_layer_norm},
    {"linear", nn_linear},
    {"lm_head", nn_lm_head},
    {"lm_reference", nn_lm_reference},
    {"lora_linear", nn_lora_linear},
    {"ppo_clip", nn_ppo_clip},
    {"rms_norm", nn_rms_norm},
    {"rope", nn_rope},
    {"rows", nn_embedding},
    {"sample", nn_sample},
    {"segment_expand", nn_segment_expand},
    {"segment_last", nn_segment_last},
    {"segment_mean", nn_segment_mean},
    {"segment_sum", nn_segment_sum},
    {"swiglu", nn_swiglu},
    {NULL, NULL},
};

int moclL_open_nn_core(lua_State *L) {
    moclL_opentensors(L);
    moclL_newlib(L, functions);
    return 1;
}
