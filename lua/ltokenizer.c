/* ltokenizer.c - module mocl.tokenizer: text to token ids and back. Ids keep their value (they are
** data, not indices); ids out of a call are a plain array of integers. */
#include <lauxlib.h>
#include <limits.h>
#include <lua.h>
#include <string.h>

#include "lrows.h"
#include "modules.h"
#include "tok/tokenizer.h"

#define CLASS "mocl.tokenizer"
#define STREAM "mocl.tokenizer.stream"

static mocl_tokenizer *check(lua_State *L, int idx) { return moclL_checkowner(L, idx, CLASS); }

static void free_tokenizer(void *t) { mocl_tokenizer_free(t); }

/* ---- module functions ---- */

/* load(path [, merges_path]) -> tokenizer | nil, message, code */
static int tokenizer_load(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    const char *merges = luaL_optstring(L, 2, NULL);
    mocl_ctx *ctx = moclL_ctx(L);
    mocl_tokenizer **t = (mocl_tokenizer **)moclL_pushowner(L, CLASS);
    mocl_status st =
        merges ? mocl_tokenizer_load_pair(ctx, t, path, merges) : mocl_tokenizer_load(ctx, t, path);
    return moclL_result(L, st, 1);
}

/* Pushes a userdata with the strings of the list at idx and a table that keeps them alive. `what` starts messages. */
static mocl_text *check_texts(lua_State *L, int idx, const char *what, size_t *n) {
    idx = lua_absindex(L, idx);
    *n = (size_t)moclL_len(L, idx);
    mocl_text *text = lua_newuserdatauv(L, *n * sizeof *text, 0);
    lua_createtable(L, (int)*n, 0);
    for (size_t i = 0; i < *n; i++) {
        if (lua_geti(L, idx, (lua_Integer)i + 1) != LUA_TSTRING)
            luaL_error(L, "%s: entry %I is a %s, expected a string", what, (lua_Integer)i + 1,
                       luaL_typename(L, -1));
        text[i].p = lua_tolstring(L, -1, &text[i].n);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return text;
}

/* train(texts [, {vocab_size=, special_tokens=, min_frequency=}]) -> tokenizer */
static int tokenizer_train(lua_State *L) {
    static const char *const known[] = {"vocab_size", "special_tokens", "min_frequency", NULL};
    mocl_tokenizer_train_options options;
    size_t n_texts;
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2);
    moclL_checkoptions(L, 2, known);
    options.vocab_size = moclL_optfield_integer(L, 2, "vocab_size", 2048);
    options.min_frequency = moclL_optfield_integer(L, 2, "min_frequency", 2);
    if (lua_isnil(L, 2) || lua_getfield(L, 2, "special_tokens") == LUA_TNIL) {
        lua_settop(L, 2);
        lua_createtable(L, 2, 0);
        lua_pushliteral(L, "<s>");
        lua_rawseti(L, 3, 1);
        lua_pushliteral(L, "</s>");
        lua_rawseti(L, 3, 2);
    }
    if (!lua_istable(L, 3))
        return luaL_error(L, "bad option 'special_tokens' (table expected, got %s)",
                          luaL_typename(L, 3));
    /* stack: texts, options, special tokens */
    options.special = check_texts(L, 3, "special_tokens", &options.n_special);
    const mocl_text *texts = check_texts(L, 1, "train: texts", &n_texts);
    mocl_tokenizer **t = (mocl_tokenizer **)moclL_pushowner(L, CLASS);
    mocl_status st = mocl_tokenizer_train(moclL_ctx(L), t, texts, n_texts, &options);
    return st ? moclL_raise(L, st) : 1;
}

/* ---- methods ---- */

/* tok:save(path) -> true | nil, message, code */
static int tokenizer_save(lua_State *L) {
    mocl_tokenizer *t = check(L, 1);
    const char *path = luaL_checkstring(L, 2);
    mocl_status st = mocl_tokenizer_save(moclL_ctx(L), t, path);
    lua_pushboolean(L, 1);
    return moclL_result(L, st, 1);
}

/* *pair receives the second text, which lives until the call ends; ragged: also taken is the option ragged */
static void encode_options(lua_State *L, int idx, mocl_tokenizer_encode_options *o, mocl_text *pair, bool ragged) {
    static const char *const known[] = {"bos",  "eos",      "special", "add_special_tokens", "return_token_type_ids",
                                        "pair", "template", NULL};
    static const char *const of_batch[] = {"bos",  "eos",      "special", "add_special_tokens", "return_token_type_ids",
                                           "pair", "template", "ragged",  NULL};
    moclL_checkoptions(L, idx, ragged ? of_batch : known);
    /* template is the older name of add_special_tokens */
    *o = (mocl_tokenizer_encode_options){
        .bos = moclL_optfield_boolean(L, idx, "bos", false),
        .eos = moclL_optfield_boolean(L, idx, "eos", false),
        .with_template = moclL_optfield_boolean(L, idx, "add_special_tokens", false) ||
                         moclL_optfield_boolean(L, idx, "template", false),
        .type_ids = moclL_optfield_boolean(L, idx, "return_token_type_ids", false)};
    /* left out, it is as the tokenizer's files say: both defaults then differ */
    if (moclL_optfield_boolean(L, idx, "special", true) ==
        moclL_optfield_boolean(L, idx, "special", false))
        o->special = moclL_optfield_boolean(L, idx, "special", true) ? 1 : -1;
    pair->p = moclL_optfield_lstring(L, idx, "pair", NULL, &pair->n);
    if (pair->p) o->pair = pair;
}

static void push_list(lua_State *L, int table, const int32_t *v, size_t n) {
    for (size_t i = 0; i < n; i++) {
        lua_pushinteger(L, v[i]);
        lua_rawseti(L, table, (lua_Integer)i + 1);
    }
}

/* Pushes the ids and, if they are asked for, their types. */
static mocl_status push_ids(lua_State *L, mocl_tokenizer *t, const char *text, size_t n,
                            const mocl_tokenizer_encode_options *o) {
    const int32_t *ids;
    size_t n_ids;
    mocl_status st = mocl_tokenizer_encode(moclL_ctx(L), t, text, n, o, &ids, &n_ids);
    if (st) return st;
    size_t room = n_ids > INT_MAX ? INT_MAX : n_ids;
    uint64_t n_calls = moclL_n_calls(L);
    lua_createtable(L, (int)room, 0);
    int table = lua_gettop(L);
    if (o->type_ids) lua_createtable(L, (int)room, 0);
    if (moclL_n_calls(L) != n_calls) { /* a finalizer may have encoded something with it, over the ids */
        st = mocl_tokenizer_encode(moclL_ctx(L), t, text, n, o, &ids, &n_ids);
        if (st) return st;
    }
    if (n_ids > room) n_ids = room;
    push_list(L, table, ids, n_ids);
    if (o->type_ids) push_list(L, table + 1, mocl_tokenizer_type_ids(t), n_ids);
    return MOCL_OK;
}

/* tok:encode(text [, {bos=, eos=, special=, add_special_tokens=, pair=, return_token_type_ids=}]) -> ids [, types] */
static int tokenizer_encode(lua_State *L) {
    mocl_tokenizer_encode_options o;
    mocl_text pair;
    size_t n;
    mocl_tokenizer *t = check(L, 1);
    const char *text = luaL_checklstring(L, 2, &n);
    encode_options(L, 3, &o, &pair, false);
    mocl_status st = push_ids(L, t, text, n, &o);
    return st ? moclL_raise(L, st) : o.type_ids ? 2 : 1;
}

/* Pushes the ids of n texts as an object of rows. */
static mocl_status push_ragged(lua_State *L, mocl_tokenizer *t, const mocl_text *text, size_t n,
                               const mocl_tokenizer_encode_options *o) {
    size_t room = 0, total = 0;
    int32_t *all = NULL, *offsets = lua_newuserdatauv(L, (n + 1) * sizeof *offsets, 0);
    lua_pushnil(L);
    int slot = lua_gettop(L);
    offsets[0] = 0;
    for (size_t i = 0; i < n; i++) {
        const int32_t *ids;
        size_t n_ids;
        mocl_status st = mocl_tokenizer_encode(moclL_ctx(L), t, text[i].p, text[i].n, o, &ids, &n_ids);
        if (st) return st;
        if (total + n_ids > INT32_MAX) luaL_error(L, "encode_batch: the texts have more than %d tokens", INT32_MAX);
        if (total + n_ids > room) {
            uint64_t n_calls = moclL_n_calls(L);
            room = 2 * (total + n_ids);
            int32_t *more = lua_newuserdatauv(L, room * sizeof *more, 0);
            if (total) memcpy(more, all, total * sizeof *more);
            all = more;
            lua_replace(L, slot);
            if (moclL_n_calls(L) != n_calls) { /* a finalizer may have encoded something with it, over the ids */
                st = mocl_tokenizer_encode(moclL_ctx(L), t, text[i].p, text[i].n, o, &ids, &n_ids);
                if (st) return st;
            }
        }
        if (n_ids) memcpy(all + total, ids, n_ids * sizeof *all);
        total += n_ids;
        offsets[i + 1] = (int32_t)total;
    }
    moclL_rows *r = moclL_newrows(L, (int64_t)n, (int64_t)total);
    memcpy(moclL_rows_offsets(r), offsets, (n + 1) * sizeof *offsets);
    if (total) memcpy(moclL_rows_tokens(r), all, total * sizeof *all);
    return MOCL_OK;
}

/* tok:encode_batch(texts [, options]) -> array of ids, without option pair; with ragged=true an object of rows */
static int tokenizer_encode_batch(lua_State *L) {
    mocl_tokenizer_encode_options o;
    mocl_text pair;
    size_t n;
    mocl_tokenizer *t = check(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    encode_options(L, 3, &o, &pair, true);
    if (o.pair || o.type_ids)
        return luaL_error(L, "encode_batch: option '%s' is for encode only", o.pair ? "pair" : "return_token_type_ids");
    bool ragged = moclL_optfield_boolean(L, 3, "ragged", false);
    const mocl_text *text = check_texts(L, 2, "encode_batch", &n);
    if (ragged) {
        mocl_status st = push_ragged(L, t, text, n, &o);
        return st ? moclL_raise(L, st) : 1;
    }
    lua_createtable(L, n > INT_MAX ? INT_MAX : (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        mocl_status st = push_ids(L, t, text[i].p, text[i].n, &o);
        if (st) return moclL_raise(L, st);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* an id as the core takes it; too large a number becomes one the core refuses with its own value */
/* an id above any vocabulary is no text, however large */
static int32_t check_id(lua_State *L, int idx, const char *what) {
    int is_integer;
    lua_Integer id = moclL_tointeger(L, idx, &is_integer);
    if (!is_integer) luaL_error(L, "%s is a %s, expected an integer", what, luaL_typename(L, idx));
    if (id < 0) luaL_error(L, "decode: id %I is negative", id);
    return id > INT32_MAX ? INT32_MAX : (int32_t)id;
}

/* tok:decode(ids [, {skip_special=true}]) -> text */
static int tokenizer_decode(lua_State *L) {
    static const char *const known[] = {"skip_special", NULL};
    const char *text;
    size_t n;
    mocl_tokenizer *t = check(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    moclL_checkoptions(L, 3, known);
    bool skip = moclL_optfield_boolean(L, 3, "skip_special", true);
    size_t n_ids = (size_t)moclL_len(L, 2);
    int32_t *ids = lua_newuserdatauv(L, n_ids * sizeof *ids, 0);
    for (size_t i = 0; i < n_ids; i++) {
        lua_geti(L, 2, (lua_Integer)i + 1);
        if (lua_type(L, -1) != LUA_TNUMBER || !lua_isinteger(L, -1))
            return luaL_error(L, "decode: entry %I is a %s, expected an integer",
                              (lua_Integer)i + 1, luaL_typename(L, -1));
        ids[i] = check_id(L, -1, "decode: an id");
        lua_pop(L, 1);
    }
    mocl_status st = mocl_tokenizer_decode(moclL_ctx(L), t, ids, n_ids, skip, &text, &n);
    if (st) return moclL_raise(L, st);
    lua_pushlstring(L, text, n);
    return 1;
}

/* tok:decode_batch(rows [, {skip_special=true}]) -> list of texts of an object of rows (encode_batch, generate) */
static int tokenizer_decode_batch(lua_State *L) {
    static const char *const known[] = {"skip_special", NULL};
    mocl_tokenizer *t = check(L, 1);
    const moclL_rows *r = moclL_torows(L, 2);
    if (!r) return luaL_typeerror(L, 2, "mocl.rows");
    moclL_checkoptions(L, 3, known);
    bool skip = moclL_optfield_boolean(L, 3, "skip_special", true);
    const int32_t *offsets = moclL_rows_offsets(r);
    lua_createtable(L, r->n > INT_MAX ? INT_MAX : (int)r->n, 0);
    for (int64_t i = 0; i < r->n; i++) {
        const char *text;
        size_t n;
        mocl_status st = mocl_tokenizer_decode(moclL_ctx(L), t, moclL_rows_tokens(r) + offsets[i],
                                               (size_t)(offsets[i + 1] - offsets[i]), skip, &text, &n);
        if (st) return moclL_raise(L, st);
        lua_pushlstring(L, text, n);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* tok:token_to_id(token) -> id | nil */
static int tokenizer_token_to_id(lua_State *L) {
    size_t n;
    mocl_tokenizer *t = check(L, 1);
    const char *token = luaL_checklstring(L, 2, &n);
    int32_t id = mocl_tokenizer_token_to_id(t, token, n);
    if (id < 0)
        luaL_pushfail(L);
    else
        lua_pushinteger(L, id);
    return 1;
}

/* tok:id_to_token(id) -> token | nil */
static int tokenizer_id_to_token(lua_State *L) {
    mocl_tokenizer *t = check(L, 1);
    lua_Integer id = luaL_checkinteger(L, 2);
    mocl_text s = {NULL, 0};
    if (id >= 0 && id <= INT32_MAX) s = mocl_tokenizer_id_to_token(t, (int32_t)id);
    if (s.p)
        lua_pushlstring(L, s.p, s.n);
    else
        luaL_pushfail(L);
    return 1;
}

static int tokenizer_vocab_size(lua_State *L) {
    lua_pushinteger(L, mocl_tokenizer_vocab_size(check(L, 1)));
    return 1;
}

static int push_optional_id(lua_State *L, int32_t id) {
    if (id < 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, id);
    return 1;
}

static int tokenizer_bos_id(lua_State *L) {
    return push_optional_id(L, mocl_tokenizer_bos(check(L, 1)));
}
static int tokenizer_eos_id(lua_State *L) {
    return push_optional_id(L, mocl_tokenizer_eos(check(L, 1)));
}

static int tokenizer_tostring(lua_State *L) {
    luaL_checkudata(L, 1, CLASS);
    void **box = moclL_testbox(L, 1, CLASS);
    if (!box || !*box) {
        lua_pushstring(L, box ? "tokenizer (released)" : "tokenizer (a copy of bytes)");
        return 1;
    }
    mocl_tokenizer *t = check(L, 1);
    lua_pushfstring(L, "tokenizer %s, %d ids", mocl_tokenizer_kind(t), mocl_tokenizer_vocab_size(t));
    return 1;
}

/* ---- streams ---- */

static void free_stream(void *s) { mocl_free(s); }

/* its user value is the tokenizer, which may be released before */
static mocl_tokenizer *stream_tokenizer(lua_State *L, mocl_tokenizer_stream **s) {
    *s = moclL_checkowner(L, 1, STREAM);
    lua_getiuservalue(L, 1, 2);
    void **box = moclL_testbox(L, -1, CLASS);
    if (!box || !*box) {
        luaL_error(L, "decode_stream: its tokenizer was released");
        return NULL;
    }
    moclL_hold(L, *box, NULL);
    lua_pop(L, 1);
    return *box;
}

/* tok:decode_stream([{skip_special=true}]) -> stream */
static int tokenizer_decode_stream(lua_State *L) {
    static const char *const known[] = {"skip_special", NULL};
    mocl_tokenizer *t = check(L, 1);
    moclL_checkoptions(L, 2, known);
    bool skip = moclL_optfield_boolean(L, 2, "skip_special", true);
    void **box = moclL_pushowner(L, STREAM);
    mocl_tokenizer_stream *s = mocl_alloc(moclL_ctx(L), sizeof *s);
    if (!s) return moclL_raise(L, MOCL_E_NOMEM);
    *box = s;
    mocl_status st = mocl_tokenizer_stream_begin(moclL_ctx(L), t, s, skip);
    if (st) return moclL_raise(L, st);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 2);
    return 1;
}

/* stream:push(id) -> text */
static int stream_push(lua_State *L) {
    mocl_tokenizer_stream *s;
    const char *text;
    size_t n;
    mocl_tokenizer *t = stream_tokenizer(L, &s);
    int32_t id = check_id(L, 2, "push: the id");
    mocl_status st = mocl_tokenizer_stream_push(moclL_ctx(L), t, s, id, &text, &n);
    if (st) return moclL_raise(L, st);
    lua_pushlstring(L, text, n);
    return 1;
}

/* stream:flush() -> text */
static int stream_flush(lua_State *L) {
    mocl_tokenizer_stream *s;
    const char *text;
    size_t n;
    mocl_tokenizer *t = stream_tokenizer(L, &s);
    mocl_status st = mocl_tokenizer_stream_flush(moclL_ctx(L), t, s, &text, &n);
    if (st) return moclL_raise(L, st);
    lua_pushlstring(L, text, n);
    return 1;
}

int moclL_open_tokenizer(lua_State *L) {
    static const luaL_Reg methods[] = {{"save", tokenizer_save},
                                       {"encode", tokenizer_encode},
                                       {"encode_batch", tokenizer_encode_batch},
                                       {"decode", tokenizer_decode},
                                       {"decode_batch", tokenizer_decode_batch},
                                       {"decode_stream", tokenizer_decode_stream},
                                       {"token_to_id", tokenizer_token_to_id},
                                       {"id_to_token", tokenizer_id_to_token},
                                       {"vocab_size", tokenizer_vocab_size},
                                       {"bos_id", tokenizer_bos_id},
                                       {"eos_id", tokenizer_eos_id},
                                       {"__len", tokenizer_vocab_size},
                                       {"__tostring", tokenizer_tostring},
                                       {NULL, NULL}};
    static const luaL_Reg stream_methods[] = {
        {"push", stream_push}, {"flush", stream_flush}, {NULL, NULL}};
    static const luaL_Reg functions[] = {
        {"load", tokenizer_load}, {"train", tokenizer_train}, {NULL, NULL}};
    moclL_openrows(L);
    moclL_newclass(L, CLASS, methods, free_tokenizer);
    moclL_newclass(L, STREAM, stream_methods, free_stream);
    moclL_newlib(L, functions);
    return 1;
}
