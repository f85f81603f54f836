/* lsession.c - sessions: the cache of a model as an object (runtime/lm/session.h). They are made by a method of the model. */
#include "lm/session.h"

#include <string.h>

#include "lmodel.h"
#include "lrows.h"
#include "ltensor.h"

#define SESSION_CLASS "mocl.session"

static void close_session(void *s) { mocl_session_close(s); }

/* The session at 1, and its model, which stays on the stack: a session borrows it. changes: what the call is named that changes
** the rows, while no call around it may be working on them, as a callback's or a finalizer's caller does; else NULL. */
static mocl_session *check_session(lua_State *L, const char *changes) {
    mocl_session *s = changes ? moclL_checkidle(L, 1, SESSION_CLASS, changes) : moclL_checkowner(L, 1, SESSION_CLASS);
    lua_getiuservalue(L, 1, 2);
    if (!moclL_testbox(L, -1, MOCL_MODEL_CLASS)) luaL_error(L, "session: its model is gone");
    if (*(mocl_model **)lua_touserdata(L, -1) != s->m) luaL_error(L, "session: its model was released; open another one");
    moclL_checkmodel(L, -1); /* holds it until the call ends */
    return s;
}

/* model:session{rows=1, max_tokens=nil, adapter=true} */
int moclL_model_session(lua_State *L) {
    static const char *const options[] = {"rows", "max_tokens", "adapter", NULL};
    mocl_model *m = moclL_checkmodel(L, 1);
    lua_settop(L, 2);
    moclL_checkoptions(L, 2, options);
    lua_Integer rows = moclL_optfield_integer(L, 2, "rows", 1), max_tokens = moclL_optfield_integer(L, 2, "max_tokens", m->config.positions);
    mocl_choice adapter = moclL_checkchoice(L, 2, m, rows);
    mocl_session **out = (mocl_session **)moclL_pushowner(L, SESSION_CLASS);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 2);
    MOCLL_CALL(L, (mocl_session_close(*out), *out = NULL, mocl_session_open(out, m, rows, max_tokens, &adapter)));
    return 1;
}

/* An integer argument that counts from 1, as it counts from 0. */
static int64_t check_row(lua_State *L, int idx) { return luaL_checkinteger(L, idx) - 1; }

/* Numbers of rows from the list at idx, from 1, as a userdata left on the stack; nil: the first n rows. */
static int32_t *read_rows(lua_State *L, int idx, int64_t *n, int64_t all) {
    bool list = !lua_isnoneornil(L, idx);
    if (list) luaL_checktype(L, idx, LUA_TTABLE);
    *n = list ? moclL_len(L, idx) : all;
    if (*n < 1) luaL_error(L, "session: no rows are named");
    int32_t *rows = lua_newuserdatauv(L, (size_t)*n * sizeof *rows, 0);
    for (int64_t i = 0; i < *n; i++) {
        int is_integer = 1;
        lua_Integer row = i + 1;
        if (list) {
            lua_geti(L, idx, i + 1);
            row = moclL_tointeger(L, -1, &is_integer);
            lua_pop(L, 1);
        }
        if (!is_integer || row < 1 || row > INT32_MAX) luaL_error(L, "session: entry %I of rows is no row", (lua_Integer)i + 1);
        rows[i] = (int32_t)(row - 1);
    }
    return rows;
}

/* s:append(id lists, rows=nil): list i goes to rows[i], or to row i */
static int session_append(lua_State *L) {
    lua_settop(L, 3);
    mocl_session *s = check_session(L, "append: the session");
    moclL_ragged r = moclL_readragged(L, 2, 0);
    int64_t n;
    int32_t *rows = read_rows(L, 3, &n, r.n);
    if (n != r.n) return luaL_error(L, "session: %I lists of tokens for %I rows", (lua_Integer)r.n, (lua_Integer)n);
    if (lua_isnil(L, 3) && n == s->rows) rows = NULL;
    MOCLL_CALL(L, mocl_session_append(s, n, rows, r.offsets, r.tokens));
    return 0;
}

/* s:rewind(row, length) */
static int session_rewind(lua_State *L) {
    mocl_session *s = check_session(L, "rewind: the session");
    mocl_status st = mocl_session_rewind(s, check_row(L, 2), luaL_checkinteger(L, 3));
    return st ? moclL_raise(L, st) : 0;
}

/* s:fork(from, to) */
static int session_fork(lua_State *L) {
    mocl_session *s = check_session(L, "fork: the session");
    int64_t from = check_row(L, 2), to = check_row(L, 3);
    MOCLL_CALL(L, mocl_session_fork(s, from, to));
    return 0;
}

/* s:logits(rows=nil) -> [n, V] of the tokens behind the last ones; s:hidden(rows=nil) -> [n, D] */
static int states(lua_State *L, bool logits) {
    lua_settop(L, 2);
    mocl_session *s = check_session(L, NULL);
    int64_t n;
    const int32_t *rows = read_rows(L, 2, &n, s->rows);
    mocl_tensor **out = moclL_pushtensor(L);
    MOCLL_CALL(L, logits ? mocl_session_logits(out, s, n, rows) : mocl_session_hidden(out, s, n, rows));
    return 1;
}

static int session_logits(lua_State *L) { return states(L, true); }
static int session_hidden(lua_State *L) { return states(L, false); }

/* s:sample{rows=nil, temperature=1, top_k=0, top_p=1, vocab_size=nil, key=0, step=nil} -> ids, log-probabilities: lists of
** one for each row */
static int session_sample(lua_State *L) {
    static const char *const options[] = {"rows", "temperature", "top_k", "top_p", "vocab_size", "key", "step", NULL};
    lua_settop(L, 2);
    mocl_session *s = check_session(L, NULL); /* 3 */
    moclL_checkoptions(L, 2, options);
    mocl_generate_options o = {
        .max_new_tokens = 1,
        .temperature = moclL_optfield_number(L, 2, "temperature", 1),
        .top_k = moclL_optfield_integer(L, 2, "top_k", 0),
        .top_p = moclL_optfield_number(L, 2, "top_p", 1),
        .key = (uint64_t)moclL_optfield_integer(L, 2, "key", 0),
        .vocab = moclL_optfield_integer(L, 2, "vocab_size", 0),
    };
    lua_Integer step = moclL_optfield_integer(L, 2, "step", -1);
    if (step < -1 || step > UINT32_MAX) return luaL_error(L, "session: step = %I is outside 0 .. %I", step, (lua_Integer)UINT32_MAX);
    int64_t n;
    if (!moclL_optfield_table(L, 2, "rows")) lua_pushnil(L);
    int32_t *rows = read_rows(L, lua_gettop(L), &n, s->rows);
    int32_t *token = lua_newuserdatauv(L, (size_t)n * sizeof *token, 0);
    mk_real *logp = lua_newuserdatauv(L, (size_t)n * sizeof *logp, 0);
    MOCLL_CALL(L, mocl_session_sample(s, n, rows, &o, step, token, logp));
    lua_createtable(L, (int)n, 0);
    lua_createtable(L, (int)n, 0);
    for (int64_t i = 0; i < n; i++) {
        lua_pushinteger(L, token[i]);
        lua_rawseti(L, -3, i + 1);
        lua_pushnumber(L, (lua_Number)logp[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 2;
}

static int64_t row_of(lua_State *L, const mocl_session *s) {
    lua_Integer row = luaL_optinteger(L, 2, 1);
    if (row < 1 || row > s->rows) luaL_error(L, "session: row %I is outside 1 .. %I", row, (lua_Integer)s->rows);
    return row - 1;
}

/* s:tokens(row=1) -> list of the ids that a row holds; s:length(row=1) -> how many */
static int session_tokens(lua_State *L) {
    const mocl_session *s = moclL_checkowner(L, 1, SESSION_CLASS);
    int64_t row = row_of(L, s);
    lua_createtable(L, s->length[row], 0);
    for (int32_t i = 0; i < s->length[row]; i++) {
        lua_pushinteger(L, s->token[row * s->max_tokens + i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int session_length(lua_State *L) {
    const mocl_session *s = moclL_checkowner(L, 1, SESSION_CLASS);
    lua_pushinteger(L, s->length[row_of(L, s)]);
    return 1;
}

/* s:size() -> rows, max_tokens */
static int session_size(lua_State *L) {
    const mocl_session *s = moclL_checkowner(L, 1, SESSION_CLASS);
    lua_pushinteger(L, s->rows);
    lua_pushinteger(L, s->max_tokens);
    return 2;
}

static const luaL_Reg methods[] = {
    {"append", session_append}, {"fork", session_fork},     {"hidden", session_hidden}, {"length", session_length},
    {"logits", session_logits}, {"rewind", session_rewind}, {"sample", session_sample}, {"size", session_size},
    {"tokens", session_tokens}, {NULL, NULL},
};

void moclL_open_session(lua_State *L) { moclL_newclass(L, SESSION_CLASS, methods, close_session); }
