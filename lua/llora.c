/* llora.c - the adapters of a model, and module mocl.lora.core: the regular expressions by which PEFT's files name layers */
#include "lmodel.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>

#include "lm/model_adapters.h"
#include "ltensor.h"
#include "modules.h"

/* The model at 1, to be changed: no call around this one may be working on its adapters, as a callback's caller does. */
static mocl_model *check_idle(lua_State *L, const char *what) { return moclL_checkidle(L, 1, MOCL_MODEL_CLASS, what); }

static const char *const target_names[MOCL_LINEARS + 1] = {"q_proj", "k_proj", "v_proj", "o_proj",
                                                           "gate_proj", "up_proj", "down_proj", NULL};

/* ---- names ---- */

static mocl_adapter *check_name(lua_State *L, const char *name, const mocl_model *m) {
    mocl_adapter *a = mocl_adapter_find(m, name);
    if (a) return a;
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (int64_t i = 0; i < m->n_adapters; i++) {
        if (i) luaL_addstring(&b, ", ");
        luaL_addstring(&b, m->adapter[i]->name);
    }
    luaL_pushresult(&b);
    luaL_error(L, "the model has no adapter '%s' (%s)", name, m->n_adapters ? lua_tostring(L, -1) : "it has none");
    return NULL;
}

mocl_adapter *moclL_optadapter(lua_State *L, int idx, const mocl_model *m) {
    return lua_isnoneornil(L, idx) ? m->active : check_name(L, luaL_checkstring(L, idx), m);
}

/* true, false or a name at the top of the stack; `where` is for messages */
static mocl_adapter *to_adapter(lua_State *L, const mocl_model *m, const char *where) {
    if (lua_type(L, -1) == LUA_TSTRING) return check_name(L, lua_tostring(L, -1), m);
    if (lua_type(L, -1) != LUA_TBOOLEAN)
        luaL_error(L, "bad option 'adapter' (%strue, false or a name expected, got %s)", where, luaL_typename(L, -1));
    return lua_toboolean(L, -1) ? m->active : NULL;
}

mocl_choice moclL_checkchoice(lua_State *L, int opts, const mocl_model *m, int64_t rows) {
    mocl_choice c = {.all = m->active};
    if (lua_isnoneornil(L, opts) || lua_getfield(L, opts, "adapter") == LUA_TNIL) return c;
    if (!lua_istable(L, -1)) {
        c.all = to_adapter(L, m, "");
        return c;
    }
    int list = lua_gettop(L);
    lua_Integer n = moclL_len(L, list);
    if (n != rows) luaL_error(L, "adapter: a list of %I entries for %I rows", n, (lua_Integer)rows);
    c.row = lua_newuserdatauv(L, (size_t)(n ? n : 1) * sizeof *c.row, 0);
    for (lua_Integer i = 1; i <= n; i++) {
        char where[48];
        snprintf(where, sizeof where, "entry %lld: ", (long long)i);
        lua_geti(L, list, i);
        c.row[i - 1] = to_adapter(L, m, where);
        lua_pop(L, 1);
    }
    return c;
}

/* ---- what an adapter is asked to be ---- */

/* A list of block numbers, from 0 as in PEFT, at the top of the stack -> one bool per block, in a userdata
** that takes its place. */
static const bool *check_blocks(lua_State *L, const mocl_model *m) {
    int list = lua_gettop(L);
    lua_Integer n = moclL_len(L, list);
    if (n == 0) luaL_error(L, "layers_to_transform is empty: name at least one layer, counted from 0, or leave it out for all");
    bool *blocks = lua_newuserdatauv(L, (size_t)m->config.layers * sizeof *blocks, 0);
    memset(blocks, 0, (size_t)m->config.layers * sizeof *blocks);
    for (lua_Integer i = 1; i <= n; i++) {
        int is_integer;
        lua_geti(L, list, i);
        lua_Integer l = lua_tointegerx(L, -1, &is_integer);
        if (!is_integer || l < 0 || l >= m->config.layers)
            luaL_error(L, "layers_to_transform: '%s' is no layer of this model (0 to %d)", luaL_tolstring(L, -1, NULL),
                       (int)m->config.layers - 1);
        blocks[l] = true;
        lua_pop(L, 1);
    }
    lua_replace(L, list);
    return blocks;
}

/* A rank and an alpha for one linear layer. */
static mocl_adapter_plan check_plan(lua_State *L, lua_Integer rank, double alpha) {
    if (rank < 1 || rank > 4096) luaL_error(L, "lora: r = %I is outside 1 .. 4096", rank);
    return (mocl_adapter_plan){.rank = rank, .alpha = alpha};
}

static void linear_name(char *to, size_t room, int64_t l, int which) {
    snprintf(to, room, "model.layers.%lld.%s", (long long)l, mocl_model_linear_name(which));
}

/* {["model.layers.0.self_attn.q_proj"] = {r=, alpha=}, ...} at the top of the stack: each linear layer for itself */
static void plan_modules(lua_State *L, const mocl_model *m, mocl_adapter_plan *plan) {
    int modules = lua_gettop(L);
    lua_newtable(L); /* the names there are */
    for (int64_t i = 0; i < m->config.layers * MOCL_LINEARS; i++) {
        static const char *const fields[] = {"r", "alpha", NULL};
        char name[64];
        linear_name(name, sizeof name, i / MOCL_LINEARS, (int)(i % MOCL_LINEARS));
        lua_pushboolean(L, true);
        lua_setfield(L, modules + 1, name);
        if (lua_getfield(L, modules, name) != LUA_TNIL) {
            int one = lua_gettop(L);
            if (!lua_istable(L, one)) luaL_error(L, "modules: '%s' is a %s, not a table", name, luaL_typename(L, one));
            moclL_checkoptions(L, one, fields);
            lua_Integer rank = moclL_optfield_integer(L, one, "r", 0);
            plan[i] = check_plan(L, rank, moclL_optfield_number(L, one, "alpha", (double)rank));
        }
        lua_pop(L, 1);
    }
    for (lua_pushnil(L); lua_next(L, modules); lua_pop(L, 1)) {
        lua_pushvalue(L, -2);
        if (lua_rawget(L, modules + 1) == LUA_TNIL)
            luaL_error(L, "modules: '%s' is no linear layer of a block of this model", luaL_tolstring(L, -3, NULL));
        lua_pop(L, 1);
    }
    lua_settop(L, modules);
}

/* the same rank and alpha for the linears that target_modules and layers_to_transform name */
static void plan_targets(lua_State *L, const mocl_model *m, mocl_adapter_plan *plan) {
    const bool *blocks = NULL;
    unsigned targets = 0;
    bool named = true;
    mocl_adapter_plan one = check_plan(L, moclL_optfield_integer(L, 2, "r", 16), moclL_optfield_number(L, 2, "alpha", 32));
    if (!moclL_optfield_table(L, 2, "target_modules")) {
        targets = (1u << MOCL_LINEARS) - 1; /* all there are */
        named = false;
    } else {
        for (lua_Integer i = 1, n = moclL_len(L, -1); i <= n; i++) {
            lua_geti(L, -1, i);
            if (lua_type(L, -1) != LUA_TSTRING)
                luaL_error(L, "target_modules: entry %I is a %s, not a name", i, luaL_typename(L, -1));
            const char *name = lua_tostring(L, -1);
            int which = 0;
            while (target_names[which] && strcmp(target_names[which], name) != 0) which++;
            if (!target_names[which])
                luaL_error(L, "unknown target module '%s' (q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj)", name);
            targets |= 1u << which;
            lua_pop(L, 1);
        }
    }
    if (moclL_optfield_table(L, 2, "layers_to_transform")) blocks = check_blocks(L, m);
    for (int64_t l = 0; l < m->config.layers; l++)
        for (int i = 0; i < MOCL_LINEARS; i++)
            if ((!blocks || blocks[l]) && targets >> i & 1 && (named || mocl_spec_has_linear(&m->config, i))) plan[l * MOCL_LINEARS + i] = one;
}

/* the adapter that the options at 2 describe, under a name */
static int add(lua_State *L, mocl_model *m, const char *name) {
    static const char *const options[] = {"r", "alpha", "dropout", "target_modules", "layers_to_transform", "use_rslora",
                                          "modules", "key", "name", NULL};
    moclL_checkoptions(L, 2, options);
    if (!name) name = moclL_optfield_string(L, 2, "name", MOCL_ADAPTER_DEFAULT);
    double dropout = moclL_optfield_number(L, 2, "dropout", 0);
    bool rslora = moclL_optfield_boolean(L, 2, "use_rslora", false);
    uint64_t key = (uint64_t)moclL_optfield_integer(L, 2, "key", 0);
    size_t bytes = (size_t)(m->config.layers * MOCL_LINEARS) * sizeof(mocl_adapter_plan);
    mocl_adapter_plan *plan = lua_newuserdatauv(L, bytes, 0);
    memset(plan, 0, bytes);
    if (moclL_optfield_table(L, 2, "modules")) {
        for (int i = 0; i < 5; i++) {
            if (i == 2) continue; /* dropout */
            if (lua_getfield(L, 2, options[i]) != LUA_TNIL)
                return luaL_error(L, "%s: leave it out where modules says which layers have an adapter, and of which rank",
                                  options[i]);
            lua_pop(L, 1);
        }
        plan_modules(L, m, plan);
    } else {
        plan_targets(L, m, plan);
    }
    MOCLL_CALL(L, mocl_adapter_add(m, name, plan, dropout, rslora, key));
    return 0;
}

/* m:add_lora{r=16, alpha=32, target_modules={...all}, layers_to_transform={...all}, dropout=0, use_rslora=false, key=0,
** name="default"}, or with modules={name = {r=, alpha=}} in place of r, alpha, target_modules and layers_to_transform */
int moclL_model_add_lora(lua_State *L) {
    mocl_model *m = check_idle(L, "add_lora: the model");
    lua_settop(L, 2);
    return add(L, m, NULL);
}

/* m:add_adapter(name, options of add_lora but for name) */
int moclL_model_add_adapter(lua_State *L) {
    mocl_model *m = check_idle(L, "add_adapter: the model");
    const char *name = luaL_checkstring(L, 2);
    lua_settop(L, 3);
    lua_pushvalue(L, 2); /* keeps it */
    lua_remove(L, 2);
    if (!lua_isnil(L, 2)) {
        luaL_checktype(L, 2, LUA_TTABLE);
        if (lua_getfield(L, 2, "name") != LUA_TNIL) return luaL_error(L, "add_adapter: the name is the first argument");
        lua_pop(L, 1);
    }
    return add(L, m, name);
}

/* m:set_adapter(name): the active one from now on */
int moclL_model_set_adapter(lua_State *L) {
    mocl_model *m = moclL_checkmodel(L, 1);
    mocl_adapter_set(m, check_name(L, luaL_checkstring(L, 2), m));
    return 0;
}

/* m:active_adapter() -> name | nil */
int moclL_model_active_adapter(lua_State *L) {
    mocl_model *m = moclL_checkmodel(L, 1);
    if (!m->active) return 0;
    lua_pushstring(L, m->active->name);
    return 1;
}

/* m:adapters() -> list of names, in the order in which they came */
int moclL_model_adapters(lua_State *L) {
    mocl_model *m = moclL_checkmodel(L, 1);
    lua_createtable(L, (int)m->n_adapters, 0);
    for (int64_t i = 0; i < m->n_adapters; i++) {
        lua_pushstring(L, m->adapter[i]->name);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* m:delete_adapter(name) */
int moclL_model_delete_adapter(lua_State *L) {
    mocl_model *m = check_idle(L, "delete_adapter: the model");
    mocl_adapter_delete(m, check_name(L, luaL_checkstring(L, 2), m));
    return 0;
}

/* m:drop_lora(): all adapters */
int moclL_model_drop_lora(lua_State *L) {
    mocl_adapter_delete_all(check_idle(L, "drop_lora: the model"));
    return 0;
}

/* m:merge_lora([name]) */
int moclL_model_merge_lora(lua_State *L) {
    mocl_model *m = check_idle(L, "merge_lora: the model");
    mocl_adapter *a = moclL_optadapter(L, 2, m);
    mocl_status st = a ? mocl_adapter_merge(m, a) : MOCL_OK;
    return st ? moclL_raise(L, st) : 0;
}

/* The linear layers that have an adapter are some linears of some blocks, all of one rank and alpha: *like are those of one of
** these blocks, and *blocks counts them. */
static bool is_even(const mocl_adapter *a, const mocl_low_rank **like, int64_t *blocks) {
    const mocl_low_rank *first = NULL;
    *like = NULL;
    *blocks = 0;
    for (int64_t l = 0; l < a->layers; l++) {
        const mocl_low_rank *b = a->linear + l * MOCL_LINEARS;
        if (!mocl_adapter_covers(a, l)) continue;
        if (!*like) *like = b;
        ++*blocks;
        for (int i = 0; i < MOCL_LINEARS; i++) {
            if (!b[i].a != !(*like)[i].a) return false;
            if (!b[i].a) continue;
            if (!first) first = &b[i];
            if (b[i].a->shape[0] != first->a->shape[0] || b[i].alpha != first->alpha) return false;
        }
    }
    return true;
}

static void set_rank(lua_State *L, const mocl_low_rank *w) {
    lua_pushinteger(L, w->a->shape[0]);
    lua_setfield(L, -2, "r");
    lua_pushnumber(L, w->alpha);
    lua_setfield(L, -2, "alpha");
}

static void push_modules(lua_State *L, const mocl_adapter *a) {
    lua_newtable(L);
    for (int64_t i = 0; i < a->layers * MOCL_LINEARS; i++) {
        char name[64];
        if (!a->linear[i].a) continue;
        linear_name(name, sizeof name, i / MOCL_LINEARS, (int)(i % MOCL_LINEARS));
        lua_createtable(L, 0, 2);
        set_rank(L, &a->linear[i]);
        lua_setfield(L, -2, name);
    }
}

/* m:lora([name]) -> the options of add_lora that make this adapter, the active one without a name, or nil: r, alpha,
** target_modules, and layers_to_transform where not all layers have adapters; modules in their place where ranks or alphas
** differ, or the set is no such one. use_rslora stands there where it is true, and name where it is not "default". */
int moclL_model_lora(lua_State *L) {
    mocl_model *m = moclL_checkmodel(L, 1);
    const mocl_adapter *a = moclL_optadapter(L, 2, m);
    const mocl_low_rank *like;
    int64_t n;
    if (!a) return 0;
    lua_createtable(L, 0, 5);
    lua_pushnumber(L, a->dropout);
    lua_setfield(L, -2, "dropout");
    if (a->rslora) {
        lua_pushboolean(L, true);
        lua_setfield(L, -2, "use_rslora");
    }
    if (strcmp(a->name, MOCL_ADAPTER_DEFAULT) != 0) {
        lua_pushstring(L, a->name);
        lua_setfield(L, -2, "name");
    }
    if (!is_even(a, &like, &n)) {
        push_modules(L, a);
        lua_setfield(L, -2, "modules");
        return 1;
    }
    lua_newtable(L);
    for (int i = 0; like && i < MOCL_LINEARS; i++) {
        if (!like[i].a) continue;
        lua_insert(L, -2);
        set_rank(L, &like[i]);
        lua_insert(L, -2);
        lua_pushstring(L, target_names[i]);
        lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    }
    lua_setfield(L, -2, "target_modules");
    if (n == a->layers) return 1;
    lua_newtable(L);
    for (int64_t l = 0; l < a->layers; l++) {
        if (!mocl_adapter_covers(a, l)) continue;
        lua_pushinteger(L, l);
        lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    }
    lua_setfield(L, -2, "layers_to_transform");
    return 1;
}

/* ---- names by regular expressions ---- */

#define REGEX_CLASS "mocl.lora.regex"
#define MATCH_CLASS "mocl.lora.match"

static void free_regex(void *code) { pcre2_code_free(code); }
static void free_match(void *match) { pcre2_match_data_free(match); }

/* Pushes the pcre2 error `code` as a failure of the pattern. */
static int fail_pattern(lua_State *L, int code) {
    PCRE2_UCHAR why[128];
    pcre2_get_error_message(code, why, sizeof why);
    luaL_pushfail(L);
    lua_pushstring(L, (const char *)why);
    return 2;
}

/* find_names(pattern, names, whole) -> {[i] = true, or the text of the group named idx, for the names i that the pattern matches
** from their first byte, and where whole to the last}, or nil, reason */
static int lora_find_names(lua_State *L) {
    size_t n;
    int code;
    PCRE2_SIZE at;
    const char *pattern = luaL_checklstring(L, 1, &n);
    luaL_checktype(L, 2, LUA_TTABLE);
    uint32_t flags = PCRE2_UTF | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C | (lua_toboolean(L, 3) ? PCRE2_ENDANCHORED : 0);
    lua_settop(L, 2);
    void **regex = moclL_pushowner(L, REGEX_CLASS); /* 3 */
    *regex = pcre2_compile((PCRE2_SPTR)pattern, n, flags, &code, &at, NULL);
    if (!*regex) return fail_pattern(L, code);
    void **match = moclL_pushowner(L, MATCH_CLASS); /* 4 */
    *match = pcre2_match_data_create_from_pattern(*regex, NULL);
    if (!*match) return moclL_raise(L, mocl_nomem(moclL_ctx(L), n));
    moclL_hold(L, *regex, NULL); /* the debug library finds what is on the stack */
    moclL_hold(L, *match, NULL);
    const pcre2_code *compiled = *regex;
    pcre2_match_data *matched = *match;
    int group = pcre2_substring_number_from_name(compiled, (PCRE2_SPTR)"idx");
    lua_newtable(L); /* 5 */
    for (lua_Integer i = 1, names = moclL_len(L, 2); i <= names; i++) {
        size_t length;
        lua_geti(L, 2, i);
        if (lua_type(L, -1) != LUA_TSTRING)
            return luaL_argerror(L, 2, lua_pushfstring(L, "entry %I is a %s, not a name", i, luaL_typename(L, -1)));
        const char *name = lua_tolstring(L, -1, &length);
        int rc = pcre2_match(compiled, (PCRE2_SPTR)name, length, 0, 0, matched, NULL);
        if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) return fail_pattern(L, rc);
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(matched);
        if (rc > group && group > 0 && range[2 * group] != PCRE2_UNSET)
            lua_pushlstring(L, name + range[2 * group], range[2 * group + 1] - range[2 * group]);
        else lua_pushboolean(L, rc > 0);
        if (rc > 0) lua_rawseti(L, 5, i);
        else lua_pop(L, 1);
        lua_pop(L, 1);
    }
    return 1;
}

int moclL_open_lora_core(lua_State *L) {
    static const luaL_Reg none[] = {{NULL, NULL}}, functions[] = {{"find_names", lora_find_names}, {NULL, NULL}};
    moclL_newclass(L, REGEX_CLASS, none, free_regex);
    moclL_newclass(L, MATCH_CLASS, none, free_match);
    moclL_newlib(L, functions);
    return 1;
}
