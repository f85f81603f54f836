/* lrng.c - module mocl.rng: streams of random numbers that can be placed exactly where they were.
**
** It never reads the clock and has no default seed: a stream is made from a seed and a purpose.
*/
#include "rng.h"

#include <math.h>

#include "modules.h"
#include "philox.h"

#define RNG "mocl.rng"

static mocl_rng *check_rng(lua_State *L) { return moclL_checkbox(L, 1, RNG); }

/* new(seed, purpose) -> r */
static int rng_new(lua_State *L) {
    lua_Integer seed = luaL_checkinteger(L, 1);
    size_t n;
    const char *purpose = luaL_checklstring(L, 2, &n);
    mocl_rng *r = moclL_newbox(L, sizeof *r, 0, RNG);
    *r = mocl_rng_make((uint64_t)seed, purpose, n);
    return 1;
}

/* key(seed, purpose) -> integer */
static int rng_key(lua_State *L) {
    lua_Integer seed = luaL_checkinteger(L, 1);
    size_t n;
    const char *purpose = luaL_checklstring(L, 2, &n);
    lua_pushinteger(L, (lua_Integer)mocl_rng_key((uint64_t)seed, purpose, n));
    return 1;
}

static uint32_t check_word(lua_State *L, int arg) {
    lua_Integer v = luaL_checkinteger(L, arg);
    luaL_argcheck(L, v >= 0 && v <= 0xFFFFFFFF, arg, "a counter word is in 0 .. 4294967295");
    return (uint32_t)v;
}

/* philox(c0, c1, c2, c3, key) -> four words */
static int rng_philox(lua_State *L) {
    uint32_t c[4];
    for (int i = 0; i < 4; i++) c[i] = check_word(L, i + 1);
    mk_philox4 out = mk_philox(c[0], c[1], c[2], c[3], (uint64_t)luaL_checkinteger(L, 5));
    for (int i = 0; i < 4; i++) lua_pushinteger(L, out.w[i]);
    return 4;
}

static int rng_uniform(lua_State *L) {
    lua_pushnumber(L, mocl_rng_uniform(check_rng(L)));
    return 1;
}

static int rng_normal(lua_State *L) {
    lua_pushnumber(L, mocl_rng_normal(check_rng(L)));
    return 1;
}

/* r:integer(lo, hi) -> integer, both ends included */
static int rng_integer(lua_State *L) {
    mocl_rng *r = check_rng(L);
    lua_Integer lo = luaL_checkinteger(L, 2), hi = luaL_checkinteger(L, 3);
    if (lo > hi) return luaL_error(L, "integer: the range %I .. %I is empty", lo, hi);
    uint64_t span = (uint64_t)hi - (uint64_t)lo + 1; /* 0 where the range is every integer */
    lua_pushinteger(L, (lua_Integer)((uint64_t)lo + mocl_rng_below(r, span)));
    return 1;
}

/* r:shuffle(list) -> list, in place (Fisher-Yates) */
static int rng_shuffle(lua_State *L) {
    mocl_rng *r = check_rng(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    for (lua_Integer i = moclL_len(L, 2); i > 1; i--) {
        lua_Integer j = 1 + (lua_Integer)mocl_rng_below(r, (uint64_t)i);
        lua_geti(L, 2, i);
        lua_geti(L, 2, j); /* stack: r, list, list[i], list[j] */
        lua_seti(L, 2, i);
        lua_seti(L, 2, j);
    }
    return 1;
}

/* r:choice(list) -> element */
static int rng_choice(lua_State *L) {
    mocl_rng *r = check_rng(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_Integer n = moclL_len(L, 2);
    luaL_argcheck(L, n > 0, 2, "the list is empty");
    lua_geti(L, 2, 1 + (lua_Integer)mocl_rng_below(r, (uint64_t)n));
    return 1;
}

/* the weight at list[i], which must be finite and not negative */
static double get_weight(lua_State *L, lua_Integer i) {
    lua_geti(L, 2, i);
    int is_number;
    double w = lua_tonumberx(L, -1, &is_number);
    if (!is_number) luaL_error(L, "weighted: weight %I is a %s", i, luaL_typename(L, -1));
    if (!(w >= 0 && w < HUGE_VAL)) {
        luaL_error(L, "weighted: weight %I is %f (finite and at least 0 expected)", i, mocl_shown(w));
    }
    lua_pop(L, 1);
    return w;
}

/* r:weighted(weights) -> index, chosen with probability weight / sum of weights */
static int rng_weighted(lua_State *L) {
    mocl_rng *r = check_rng(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_Integer n = moclL_len(L, 2), last = 0;
    double sum = 0, reached = 0;
    for (lua_Integer i = 1; i <= n; i++) {
        double w = get_weight(L, i);
        sum += w;
        if (w > 0) last = i; /* rounding must not lead to an entry of weight zero */
    }
    if (!(sum > 0 && sum < HUGE_VAL)) {
        return luaL_error(L, "weighted: the %I weights sum to %f (finite and above 0 expected)", n,
                          mocl_shown(sum));
    }
    double target = mocl_rng_uniform(r) * sum;
    for (lua_Integer i = 1; i < last; i++) {
        reached += get_weight(L, i);
        if (target < reached) {
            last = i;
            break;
        }
    }
    lua_pushinteger(L, last);
    return 1;
}

/* r:dirichlet(n [, alpha]) -> list of n numbers that sum to 1 */
static int rng_dirichlet(lua_State *L) {
    mocl_rng *r = check_rng(L);
    lua_Integer n = luaL_checkinteger(L, 2);
    double alpha = luaL_optnumber(L, 3, 1.0);
    luaL_argcheck(L, n >= 1 && n <= 1000000, 2, "between 1 and 1000000 components expected");
    luaL_argcheck(L, alpha >= 1e-300 && alpha < HUGE_VAL, 3, "alpha must be positive and finite");
    double *x = lua_newuserdatauv(L, (size_t)n * sizeof *x, 0); /* scratch, collected */
    double largest = -HUGE_VAL, sum = 0;
    for (lua_Integer i = 0; i < n; i++) {
        x[i] = mocl_rng_log_gamma(r, alpha);
        if (x[i] > largest) largest = x[i];
    }
    for (lua_Integer i = 0; i < n; i++) sum += x[i] = exp(x[i] - largest);
    lua_createtable(L, (int)n, 0);
    for (lua_Integer i = 0; i < n; i++) {
        lua_pushnumber(L, x[i] / sum);
        lua_seti(L, -2, i + 1);
    }
    return 1;
}

/* r:position() -> integer: what r:seek takes to continue from here */
static int rng_position(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)check_rng(L)->position);
    return 1;
}

static int rng_seek(lua_State *L) {
    mocl_rng *r = check_rng(L);
    lua_Integer position = luaL_checkinteger(L, 2);
    luaL_argcheck(L, position >= 0, 2, "a position is at least 0");
    r->position = (uint64_t)position;
    lua_settop(L, 1);
    return 1;
}

static int rng_tostring(lua_State *L) {
    mocl_rng *r = check_rng(L);
    lua_pushfstring(L, "mocl.rng at position %I", (lua_Integer)r->position);
    return 1;
}

static const luaL_Reg rng_methods[] = {{"uniform", rng_uniform},
                                       {"normal", rng_normal},
                                       {"integer", rng_integer},
                                       {"shuffle", rng_shuffle},
                                       {"choice", rng_choice},
                                       {"weighted", rng_weighted},
                                       {"dirichlet", rng_dirichlet},
                                       {"position", rng_position},
                                       {"seek", rng_seek},
                                       {"__tostring", rng_tostring},
                                       {NULL, NULL}};

static const luaL_Reg rng_functions[] = {
    {"new", rng_new}, {"key", rng_key}, {"philox", rng_philox}, {NULL, NULL}};

int moclL_open_rng(lua_State *L) {
    luaL_newmetatable(L, RNG);
    moclL_setfuncs(L, rng_methods);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    moclL_newlib(L, rng_functions);
    return 1;
}
