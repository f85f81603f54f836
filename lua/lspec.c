/* lspec.c - a model's specification (spec.h) as a Lua table: Hugging Face's names where it has one. A key that is left out
** means Llama.
*/
#include "lmodel.h"

#include <string.h>

#include "ltensor.h"

static const char *const spec_names[] = {
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "max_position_embeddings", "rms_norm_eps", "rope_theta", "tie_word_embeddings",
    "attention_scales", "attention_windows", "biases", "causal", "cross_attention", "embedding_multiplier", "embedding_norm", "final_norm", "head", "hidden_act", "layer_norm_eps", "mlp",
    "norm", "norm_place", "position_offset", "positions", "qk_norm", "rope_factor", "rope_frequencies", "rope_layers",
    "type_vocab_size", NULL};

static const char *const norms[] = {"rms", "layer", NULL};
static const char *const places[] = {"pre", "post", NULL};
static const char *const positions[] = {"rope", "learned", "none", NULL};
static const char *const mlps[] = {"gated", "plain", NULL};
static const char *const heads[] = {"lm", "none", NULL};
static const char *const acts[] = {"silu", "gelu", "gelu_tanh", "relu", NULL};
static const mk_unary act_ops[] = {MK_SILU, MK_GELU, MK_GELU_TANH, MK_RELU};
static const char *const linears[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
                                      "encoder_attn.q_proj", "encoder_attn.k_proj", "encoder_attn.v_proj", "encoder_attn.o_proj", NULL};

enum { LIST_NUMBERS, LIST_BOOLEANS, LIST_INTEGERS };
static const char *const list_words[] = {"number", "boolean", "integer"};

/* Raises where keys without a default are missing; it names all of them. */
static void check_required(lua_State *L, int idx) {
    static const char *const required[] = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                                           "intermediate_size", NULL};
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (const char *const *name = required; *name; name++) {
        bool missing = lua_getfield(L, idx, *name) == LUA_TNIL;
        lua_pop(L, 1);
        if (!missing) continue;
        if (luaL_bufflen(&b) > 0) luaL_addstring(&b, ", ");
        luaL_addstring(&b, *name);
    }
    size_t n = luaL_bufflen(&b);
    luaL_pushresult(&b);
    if (n > 0) luaL_error(L, "model config: missing: %s", lua_tostring(L, -1));
    lua_pop(L, 1);
}

static bool given(lua_State *L, int idx, const char *key) {
    bool is = lua_getfield(L, idx, key) != LUA_TNIL;
    lua_pop(L, 1);
    return is;
}

/* one of the words, as its number; the first where the key is missing */
static int word(lua_State *L, int idx, const char *key, const char *const *words) {
    const char *value = moclL_optfield_string(L, idx, key, words[0]);
    for (int i = 0; words[i]; i++)
        if (strcmp(words[i], value) == 0) return i;
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (int i = 0; words[i]; i++) {
        if (i) luaL_addstring(&b, ", ");
        luaL_addstring(&b, words[i]);
    }
    luaL_pushresult(&b);
    return luaL_error(L, "model config: %s = '%s' is none of %s", key, value, lua_tostring(L, -1));
}

/* A list of n numbers, booleans or integers, in a userdata that stays on the stack; NULL where the key is missing. */
static void *list_of(lua_State *L, int idx, const char *key, int64_t n, int type) {
    if (!moclL_optfield_table(L, idx, key)) return NULL;
    int list = lua_gettop(L);
    lua_Integer length = moclL_len(L, list);
    if (length != n) luaL_error(L, "model config: %s has %I entries, %I are needed", key, length, (lua_Integer)n);
    void *room = lua_newuserdatauv(L, (size_t)(n > 0 ? n : 1) * sizeof(double), 0);
    for (lua_Integer i = 1; i <= n; i++) {
        int fits = 1;
        if (lua_geti(L, list, i) != (type == LIST_BOOLEANS ? LUA_TBOOLEAN : LUA_TNUMBER)) fits = 0;
        else if (type == LIST_BOOLEANS) ((bool *)room)[i - 1] = lua_toboolean(L, -1);
        else if (type == LIST_INTEGERS) ((int64_t *)room)[i - 1] = moclL_tointeger(L, -1, &fits);
        else ((double *)room)[i - 1] = lua_tonumber(L, -1);
        if (!fits) luaL_error(L, "model config: entry %I of %s is no %s", i, key, list_words[type]);
        lua_pop(L, 1);
    }
    return room;
}

static unsigned biases(lua_State *L, int idx) {
    unsigned set = 0;
    if (!moclL_optfield_table(L, idx, "biases")) return 0;
    for (lua_Integer i = 1, n = moclL_len(L, -1); i <= n; i++) {
        int which = 0;
        lua_geti(L, -1, i);
        const char *name = luaL_tolstring(L, -1, NULL);
        while (linears[which] && strcmp(linears[which], name) != 0) which++;
        if (!linears[which])
            luaL_error(L, "model config: biases: '%s' is no linear layer (q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, "
                          "down_proj, and the first four behind encoder_attn.)", name);
        set |= 1u << which;
        lua_pop(L, 2);
    }
    return set;
}

static void check_norms(lua_State *L, int idx, mocl_spec *s) {
    s->norm = (mocl_norm_kind)word(L, idx, "norm", norms);
    s->place = (mocl_norm_place)word(L, idx, "norm_place", places);
    const char *mine = s->norm == MOCL_NORM_RMS ? "rms_norm_eps" : "layer_norm_eps";
    const char *other = s->norm == MOCL_NORM_RMS ? "layer_norm_eps" : "rms_norm_eps";
    if (given(L, idx, other)) luaL_error(L, "model config: %s contradicts norm = '%s'; say %s", other, norms[s->norm], mine);
    s->norm_eps = moclL_optfield_number(L, idx, mine, 1e-5);
    s->embed_norm = moclL_optfield_boolean(L, idx, "embedding_norm", false);
    s->final_norm = moclL_optfield_boolean(L, idx, "final_norm", s->place == MOCL_NORM_PRE);
    s->qk_norm = moclL_optfield_boolean(L, idx, "qk_norm", false);
}

void moclL_checkspec(lua_State *L, int idx, mocl_spec *s) {
    memset(s, 0, sizeof *s);
    luaL_checktype(L, idx, LUA_TTABLE);
    luaL_checkstack(L, 16, NULL);
    moclL_checkoptions(L, idx, spec_names);
    check_required(L, idx);
    s->vocab = moclL_optfield_integer(L, idx, "vocab_size", 0);
    s->width = moclL_optfield_integer(L, idx, "hidden_size", 0);
    s->layers = moclL_optfield_integer(L, idx, "num_hidden_layers", 0);
    s->heads = moclL_optfield_integer(L, idx, "num_attention_heads", 0);
    s->kv_heads = moclL_optfield_integer(L, idx, "num_key_value_heads", s->heads);
    s->head_size = moclL_optfield_integer(L, idx, "head_dim", s->heads > 0 ? s->width / s->heads : 0);
    s->ffn = moclL_optfield_integer(L, idx, "intermediate_size", 0);
    s->positions = moclL_optfield_integer(L, idx, "max_position_embeddings", 2048);
    check_norms(L, idx, s);
    s->position = (mocl_positions)word(L, idx, "positions", positions);
    s->position_offset = moclL_optfield_integer(L, idx, "position_offset", 0);
    s->rope_theta = moclL_optfield_number(L, idx, "rope_theta", 10000);
    s->rope_factor = moclL_optfield_number(L, idx, "rope_factor", 1);
    s->types = moclL_optfield_integer(L, idx, "type_vocab_size", 0);
    s->causal = moclL_optfield_boolean(L, idx, "causal", true);
    s->cross = moclL_optfield_boolean(L, idx, "cross_attention", false);
    s->embed_scale = moclL_optfield_number(L, idx, "embedding_multiplier", 1);
    s->mlp = (mocl_mlp)word(L, idx, "mlp", mlps);
    s->act = act_ops[word(L, idx, "hidden_act", acts)];
    s->biases = biases(L, idx);
    bool tied = moclL_optfield_boolean(L, idx, "tie_word_embeddings", false), none = word(L, idx, "head", heads) == 1;
    if (tied && none) luaL_error(L, "model config: tie_word_embeddings contradicts head = 'none'");
    s->head = none ? MOCL_HEAD_NONE : tied ? MOCL_HEAD_TIED : MOCL_HEAD_UNTIED;
    s->rope_freq = list_of(L, idx, "rope_frequencies", s->head_size / 2, LIST_NUMBERS);
    s->scales = list_of(L, idx, "attention_scales", s->layers, LIST_NUMBERS);
    s->windows = list_of(L, idx, "attention_windows", s->layers, LIST_INTEGERS);
    s->rope_layers = list_of(L, idx, "rope_layers", s->layers, LIST_BOOLEANS);
}

/* ---- back to a table ---- */

static void set_word(lua_State *L, const char *key, const char *const *words, int value) {
    if (value == 0) return;
    lua_pushstring(L, words[value]);
    lua_setfield(L, -2, key);
}

static void set_boolean(lua_State *L, const char *key, bool value, bool llama) {
    if (value == llama) return;
    lua_pushboolean(L, value);
    lua_setfield(L, -2, key);
}

static void set_numbers(lua_State *L, const char *key, const double *list, int64_t n) {
    if (!list) return;
    lua_createtable(L, (int)n, 0);
    for (int64_t i = 0; i < n; i++) {
        lua_pushnumber(L, list[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, key);
}

static void set_lists(lua_State *L, const mocl_spec *s) {
    set_numbers(L, "rope_frequencies", s->rope_freq, s->head_size / 2);
    set_numbers(L, "attention_scales", s->scales, s->layers);
    if (s->windows) {
        lua_createtable(L, (int)s->layers, 0);
        for (int64_t i = 0; i < s->layers; i++) {
            lua_pushinteger(L, s->windows[i]);
            lua_rawseti(L, -2, i + 1);
        }
        lua_setfield(L, -2, "attention_windows");
    }
    if (s->rope_layers) {
        lua_createtable(L, (int)s->layers, 0);
        for (int64_t i = 0; i < s->layers; i++) {
            lua_pushboolean(L, s->rope_layers[i]);
            lua_rawseti(L, -2, i + 1);
        }
        lua_setfield(L, -2, "rope_layers");
    }
    if (!s->biases) return;
    lua_newtable(L);
    for (int i = 0, n = 0; i < MOCL_ALL_LINEARS; i++) {
        if (!(s->biases >> i & 1)) continue;
        lua_pushstring(L, linears[i]);
        lua_rawseti(L, -2, ++n);
    }
    lua_setfield(L, -2, "biases");
}

void moclL_pushspec(lua_State *L, const mocl_spec *s) {
    const struct {
        const char *name;
        int64_t v;
    } sizes[] = {{"vocab_size", s->vocab},           {"hidden_size", s->width},
                 {"num_hidden_layers", s->layers},   {"num_attention_heads", s->heads},
                 {"num_key_value_heads", s->kv_heads}, {"head_dim", s->head_size},
                 {"intermediate_size", s->ffn},      {"max_position_embeddings", s->positions}};
    int act = 0;
    while (act_ops[act] != s->act) act++;
    luaL_checkstack(L, 8, NULL);
    lua_createtable(L, 0, 11);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        lua_pushinteger(L, sizes[i].v);
        lua_setfield(L, -2, sizes[i].name);
    }
    lua_pushnumber(L, s->norm_eps);
    lua_setfield(L, -2, s->norm == MOCL_NORM_RMS ? "rms_norm_eps" : "layer_norm_eps");
    lua_pushnumber(L, s->rope_theta);
    lua_setfield(L, -2, "rope_theta");
    lua_pushboolean(L, s->head == MOCL_HEAD_TIED);
    lua_setfield(L, -2, "tie_word_embeddings");
    set_word(L, "norm", norms, (int)s->norm);
    set_word(L, "norm_place", places, (int)s->place);
    set_word(L, "positions", positions, (int)s->position);
    set_word(L, "mlp", mlps, (int)s->mlp);
    set_word(L, "hidden_act", acts, act);
    set_word(L, "head", heads, s->head == MOCL_HEAD_NONE);
    set_boolean(L, "embedding_norm", s->embed_norm, false);
    set_boolean(L, "final_norm", s->final_norm, s->place == MOCL_NORM_PRE);
    set_boolean(L, "qk_norm", s->qk_norm, false);
    set_boolean(L, "causal", s->causal, true);
    set_boolean(L, "cross_attention", s->cross, false);
    if (s->embed_scale != 1) {
        lua_pushnumber(L, s->embed_scale);
        lua_setfield(L, -2, "embedding_multiplier");
    }
    if (s->position_offset) {
        lua_pushinteger(L, s->position_offset);
        lua_setfield(L, -2, "position_offset");
    }
    if (s->types) {
        lua_pushinteger(L, s->types);
        lua_setfield(L, -2, "type_vocab_size");
    }
    if (s->rope_factor != 1) {
        lua_pushnumber(L, s->rope_factor);
        lua_setfield(L, -2, "rope_factor");
    }
    set_lists(L, s);
}
