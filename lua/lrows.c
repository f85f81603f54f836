/* lrows.c - the class mocl.rows; see lrows.h.
**
** #r rows; r[i] and r:totable() make tables of them, each time new ones, for callers that want to look at ids.
*/
#include "lrows.h"

#include <string.h>

#define ROWS "mocl.rows"

moclL_rows *moclL_newrows(lua_State *L, int64_t n, int64_t total) {
    size_t bytes = sizeof(moclL_rows) + (size_t)(n + 1 + total) * sizeof(int32_t);
    moclL_rows *r = lua_newuserdatauv(L, bytes, 0);
    memset(r, 0, sizeof *r + (size_t)(n + 1) * sizeof(int32_t));
    r->n = n;
    r->total = total;
    luaL_setmetatable(L, ROWS);
    return r;
}

moclL_rows *moclL_torows(lua_State *L, int idx) { return luaL_testudata(L, idx, ROWS); }

static moclL_rows *check(lua_State *L, int idx) { return luaL_checkudata(L, idx, ROWS); }

static void push_row(lua_State *L, const moclL_rows *r, int64_t i) {
    const int32_t *from = moclL_rows_offsets(r) + i, *token = moclL_rows_tokens(r) + from[0];
    int64_t n = from[1] - from[0];
    lua_createtable(L, (int)n, 0);
    for (int64_t j = 0; j < n; j++) {
        lua_pushinteger(L, token[j]);
        lua_rawseti(L, -2, j + 1);
    }
}

void moclL_rows_totable(lua_State *L, const moclL_rows *r) {
    lua_createtable(L, r->n > INT32_MAX ? INT32_MAX : (int)r->n, 0);
    for (int64_t i = 0; i < r->n; i++) {
        push_row(L, r, i);
        lua_rawseti(L, -2, i + 1);
    }
}

/* r:totable() -> list of lists of ids */
static int rows_totable(lua_State *L) {
    moclL_rows_totable(L, check(L, 1));
    return 1;
}

/* r:lengths() -> list of how many ids each row has */
static int rows_lengths(lua_State *L) {
    moclL_rows *r = check(L, 1);
    const int32_t *offsets = moclL_rows_offsets(r);
    lua_createtable(L, r->n > INT32_MAX ? INT32_MAX : (int)r->n, 0);
    for (int64_t i = 0; i < r->n; i++) {
        lua_pushinteger(L, offsets[i + 1] - offsets[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* r:slice(first, last) -> an object of rows first .. last */
static int rows_slice(lua_State *L) {
    moclL_rows *r = check(L, 1);
    lua_Integer first = luaL_checkinteger(L, 2), last = luaL_checkinteger(L, 3);
    luaL_argcheck(L, first >= 1 && first <= r->n + 1, 2, "there is no such row");
    luaL_argcheck(L, last >= first - 1 && last <= r->n, 3, "there is no such row");
    const int32_t *from = moclL_rows_offsets(r) + first - 1;
    int64_t n = last - first + 1, total = from[n] - from[0];
    moclL_rows *part = moclL_newrows(L, n, total);
    for (int64_t i = 0; i <= n; i++) moclL_rows_offsets(part)[i] = from[i] - from[0];
    memcpy(moclL_rows_tokens(part), moclL_rows_tokens(r) + from[0], (size_t)total * sizeof(int32_t));
    return 1;
}

/* r[i] -> list of the ids of row i, nil where there is none; r.totable */
static int rows_index(lua_State *L) {
    moclL_rows *r = check(L, 1);
    int is_integer;
    lua_Integer i = moclL_tointeger(L, 2, &is_integer);
    if (is_integer && i >= 1 && i <= r->n) {
        push_row(L, r, i - 1);
    } else {
        luaL_getmetafield(L, 1, "methods");
        lua_pushvalue(L, 2);
        lua_rawget(L, -2);
    }
    return 1;
}

static int rows_len(lua_State *L) {
    lua_pushinteger(L, check(L, 1)->n);
    return 1;
}

/* ---- read as host arrays ---- */

/* room for n tokens more; slot: stack index of the userdata of tokens */
static void make_room(lua_State *L, moclL_ragged *r, int slot, int64_t n) {
    if (r->total + n > INT32_MAX) luaL_error(L, "batch: %I tokens are too many", (lua_Integer)(r->total + n));
    if (r->total + n <= r->room) return;
    int64_t room = 2 * (r->total + n);
    int32_t *tokens = lua_newuserdatauv(L, (size_t)room * sizeof *tokens, 0);
    if (r->total) memcpy(tokens, r->tokens, (size_t)r->total * sizeof *tokens);
    r->tokens = tokens;
    r->room = room;
    lua_replace(L, slot);
}

/* appends row i of the rows at idx, which are `rows` where these are an object */
static void read_row(lua_State *L, moclL_ragged *r, int slot, int idx, const moclL_rows *rows, int64_t i) {
    if (rows) {
        const int32_t *offsets = moclL_rows_offsets(rows) + i - 1;
        int64_t n = offsets[1] - offsets[0];
        make_room(L, r, slot, n);
        if (n) memcpy(r->tokens + r->total, moclL_rows_tokens(rows) + offsets[0], (size_t)n * sizeof *r->tokens);
        r->total += n;
        return;
    }
    if (lua_geti(L, idx, i) != LUA_TTABLE)
        luaL_argerror(L, idx, lua_pushfstring(L, "entry %I is not a list of token ids", (lua_Integer)i));
    int64_t n = moclL_len(L, -1);
    make_room(L, r, slot, n);
    for (int64_t j = 1; j <= n; j++) {
        int is_integer;
        lua_geti(L, -1, j);
        lua_Integer id = moclL_tointeger(L, -1, &is_integer);
        lua_pop(L, 1);
        if (!is_integer || id < 0 || id > INT32_MAX)
            luaL_argerror(L, idx, lua_pushfstring(L, "entry %I of row %I is no token id", (lua_Integer)j, (lua_Integer)i));
        r->tokens[r->total++] = (int32_t)id;
    }
    lua_pop(L, 1);
}

moclL_ragged moclL_readragged(lua_State *L, int idx, int more) {
    moclL_ragged r = {0};
    const moclL_rows *rows = moclL_torows(L, idx), *others = more ? moclL_torows(L, more) : NULL;
    if (!rows) luaL_checktype(L, idx, LUA_TTABLE);
    if (more && !others) luaL_checktype(L, more, LUA_TTABLE);
    r.n = rows ? rows->n : moclL_len(L, idx);
    if (r.n < 1) luaL_argerror(L, idx, "at least one sequence is needed");
    lua_Integer n_more = others ? others->n : more ? moclL_len(L, more) : r.n;
    if (n_more != r.n) luaL_argerror(L, more, lua_pushfstring(L, "%I rows, but %I prompts", n_more, (lua_Integer)r.n));
    r.offsets = lua_newuserdatauv(L, (size_t)(2 * r.n + 1) * sizeof(int32_t), 0);
    r.middle = r.offsets + r.n + 1;
    lua_pushnil(L);
    int slot = lua_gettop(L);
    r.offsets[0] = 0;
    for (int64_t i = 1; i <= r.n; i++) {
        read_row(L, &r, slot, idx, rows, i);
        r.middle[i - 1] = (int32_t)r.total;
        if (more) read_row(L, &r, slot, more, others, i);
        r.offsets[i] = (int32_t)r.total;
    }
    return r;
}

void moclL_openrows(lua_State *L) {
    static const luaL_Reg metamethods[] = {{"__index", rows_index}, {"__len", rows_len}, {NULL, NULL}};
    static const luaL_Reg methods[] = {{"lengths", rows_lengths}, {"slice", rows_slice}, {"totable", rows_totable}, {NULL, NULL}};
    if (luaL_newmetatable(L, ROWS)) {
        moclL_setfuncs(L, metamethods);
        lua_newtable(L);
        moclL_setfuncs(L, methods);
        lua_setfield(L, -2, "methods");
    }
    lua_pop(L, 1);
}
