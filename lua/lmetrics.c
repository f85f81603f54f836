/* lmetrics.c - module mocl.metrics.core: the figures that are loops over points or pairs.
** stdlib/mocl/metrics.lua adds the rest and is what scripts require.
*/

#include "hypervolume.h"
#include "modules.h"
#include "stats.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* the number at list[i] of the list on the top of the stack */
static double get_number(lua_State *L, const char *what, lua_Integer i) {
    int is_number;
    lua_geti(L, -1, i);
    double v = lua_tonumberx(L, -1, &is_number);
    if (!is_number) luaL_error(L, "%s: entry %I is a %s", what, i, luaL_typename(L, -1));
    lua_pop(L, 1);
    return v;
}

/* pushes a buffer with the numbers of the list at arg; *n receives how many */
static double *push_numbers(lua_State *L, int arg, const char *what, int64_t *n) {
    luaL_checktype(L, arg, LUA_TTABLE);
    *n = luaL_len(L, arg);
    luaL_argcheck(L, *n < (1 << 30), arg, "the list is too long");
    double *x = lua_newuserdatauv(L, (size_t)*n * sizeof *x, 0);
    lua_pushvalue(L, arg);
    for (int64_t i = 0; i < *n; i++) x[i] = get_number(L, what, i + 1);
    lua_pop(L, 1);
    return x;
}

/* Pushes a buffer with the list of points at arg, each a list of *d numbers, times sign. If *d is
** 0 it is set from the first point. */
static double *push_points(lua_State *L, int arg, double sign, int64_t *n, int *d) {
    luaL_checktype(L, arg, LUA_TTABLE);
    *n = luaL_len(L, arg);
    luaL_argcheck(L, *n < (1 << 30), arg, "there are too many points");
    if (*d == 0 && *n > 0) {
        luaL_argcheck(L, lua_geti(L, arg, 1) == LUA_TTABLE, arg, "point 1 is not a list");
        lua_Integer first = luaL_len(L, -1);
        luaL_argcheck(L, first >= 1 && first <= MOCL_MAX_OBJECTIVES, arg,
                      "point 1 needs between 1 and 64 objectives");
        *d = (int)first;
        lua_pop(L, 1);
    }
    double *x = lua_newuserdatauv(L, (size_t)*n * (size_t)*d * sizeof *x, 0);
    for (int64_t i = 0; i < *n; i++) {
        if (lua_geti(L, arg, i + 1) != LUA_TTABLE) {
            luaL_error(L, "point %I is a %s (a list of %d numbers expected)", (lua_Integer)i + 1,
                       luaL_typename(L, -1), *d);
        }
        lua_Integer got = luaL_len(L, -1);
        if (got != *d) {
            luaL_error(L, "point %I has %I objectives, %d expected", (lua_Integer)i + 1, got, *d);
        }
        for (int k = 0; k < *d; k++) x[i * *d + k] = sign * get_number(L, "point", k + 1);
        lua_pop(L, 1);
    }
    return x;
}

/* the options table at arg holds minimize only; -1 where it is set, else 1 */
static double check_sign(lua_State *L, int arg) {
    static const char *const options[] = {"minimize", NULL};
    moclL_checkoptions(L, arg, options);
    return moclL_optfield_boolean(L, arg, "minimize", false) ? -1 : 1;
}

/* strict=true: the reference lies below every point */
static void check_reference(lua_State *L, int64_t n, int d, const double *points, const double *reference, double sign) {
    for (int64_t i = 0; i < n * d; i++) {
        if (points[i] >= reference[i % d]) continue;
        char text[256];
        snprintf(text, sizeof text,
                 "hypervolume: in objective %d the reference %.9g is better than point %lld, %.9g, which would count for nothing: "
                 "choose a reference that every point dominates",
                 (int)(i % d) + 1, sign * reference[i % d], (long long)(i / d) + 1, sign * points[i]);
        luaL_error(L, "%s", text);
    }
}

/* hypervolume(points, reference [, {minimize=, strict=}]) -> volume, info */
static int metrics_hypervolume(lua_State *L) {
    static const char *const options[] = {"minimize", "strict", NULL};
    luaL_checktype(L, 1, LUA_TTABLE);
    int64_t n, objectives;
    moclL_checkoptions(L, 3, options);
    double sign = moclL_optfield_boolean(L, 3, "minimize", false) ? -1 : 1, volume;
    bool strict = moclL_optfield_boolean(L, 3, "strict", false);
    lua_settop(L, 3);
    double *reference = push_numbers(L, 2, "reference", &objectives);
    luaL_argcheck(L, objectives >= 1 && objectives <= MOCL_MAX_OBJECTIVES, 2,
                  "between 1 and 64 objectives expected");
    for (int64_t k = 0; k < objectives; k++) reference[k] *= sign;
    int d = (int)objectives;
    double *points = push_points(L, 1, sign, &n, &d);
    if (strict) check_reference(L, n, d, points, reference, sign);
    mocl_hypervolume_info info;
    mocl_status st = mocl_hypervolume(moclL_ctx(L), n, d, points, reference, &volume, &info);
    if (st) return moclL_raise(L, st);
    lua_pushnumber(L, volume);
    lua_createtable(L, 0, 2);
    lua_pushinteger(L, info.beyond);
    lua_setfield(L, -2, "beyond");
    lua_pushinteger(L, info.front);
    lua_setfield(L, -2, "front");
    return 2;
}

/* nondominated(points [, {minimize=}]) -> list of indices, ascending */
static int metrics_nondominated(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    int64_t n, count;
    int d = 0;
    double sign = check_sign(L, 2);
    lua_settop(L, 2);
    double *points = push_points(L, 1, sign, &n, &d);
    int64_t *index = lua_newuserdatauv(L, (size_t)n * sizeof *index, 0);
    mocl_status st = n ? mocl_nondominated(moclL_ctx(L), n, d, points, index, &count) : MOCL_OK;
    if (st) return moclL_raise(L, st);
    if (n == 0) count = 0;
    lua_createtable(L, (int)count, 0);
    for (int64_t i = 0; i < count; i++) {
        lua_pushinteger(L, index[i] + 1);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* kendall_tau(x, y [, {method=}]) -> tau, p */
static int metrics_kendall_tau(lua_State *L) {
    static const char *const options[] = {"method", NULL};
    static const char *const methods[] = {"auto", "exact", "asymptotic", NULL}; /* as in mocl_p_method */
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checktype(L, 2, LUA_TTABLE);
    moclL_checkoptions(L, 3, options);
    const char *name = moclL_optfield_string(L, 3, "method", "auto");
    int method = 0;
    while (methods[method] && strcmp(methods[method], name) != 0) method++;
    if (!methods[method]) {
        return luaL_error(L, "kendall_tau: unknown method '%s' (auto, exact, asymptotic)", name);
    }
    lua_settop(L, 3);
    int64_t n, m;
    double *x = push_numbers(L, 1, "kendall_tau: x", &n), tau, p;
    double *y = push_numbers(L, 2, "kendall_tau: y", &m);
    if (n != m) {
        return luaL_error(L, "kendall_tau: x has %I entries, y has %I", (lua_Integer)n,
                          (lua_Integer)m);
    }
    mocl_status st = mocl_kendall_tau(moclL_ctx(L), (mocl_p_method)method, n, x, y, &tau, &p);
    if (st) return moclL_raise(L, st);
    lua_pushnumber(L, mocl_shown(tau));
    lua_pushnumber(L, mocl_shown(p));
    return 2;
}

/* mean_pairwise_distance(points) -> number */
static int metrics_mean_pairwise_distance(lua_State *L) {
    int64_t n;
    int d = 0;
    lua_settop(L, 1);
    double *points = push_points(L, 1, 1, &n, &d);
    lua_pushnumber(L, mocl_mean_pairwise_distance(n, d, points));
    return 1;
}

/* a NaN would pass unseen through the minima and maxima of the caller */
static void check_finite(lua_State *L, const char *what, int64_t n, int d, const double *x) {
    for (int64_t i = 0; i < n * d; i++) {
        if (!isfinite(x[i])) {
            luaL_error(L, "%s %I, objective %d is %f, not finite", what, (lua_Integer)(i / d) + 1,
                       (int)(i % d) + 1, mocl_shown(x[i]));
        }
    }
}

/* the arguments (points, front) of igd and epsilon */
static void push_two_sets(lua_State *L, double sign, double **points, int64_t *n, double **front,
                          int64_t *m, int *d) {
    *d = 0;
    *points = push_points(L, 1, sign, n, d);
    luaL_argcheck(L, *n > 0, 1, "there are no points");
    *front = push_points(L, 2, sign, m, d);
    luaL_argcheck(L, *m > 0, 2, "the front has no points");
    check_finite(L, "point", *n, *d, *points);
    check_finite(L, "front point", *m, *d, *front);
}

/* igd(points, front) -> number */
static int metrics_igd(lua_State *L) {
    int64_t n, m;
    int d;
    double *points, *front;
    lua_settop(L, 2);
    push_two_sets(L, 1, &points, &n, &front, &m, &d);
    lua_pushnumber(L, mocl_igd(n, d, points, m, front));
    return 1;
}

/* epsilon(points, front [, {minimize=}]) -> number */
static int metrics_epsilon(lua_State *L) {
    int64_t n, m;
    int d;
    double *points, *front, sign = check_sign(L, 3);
    lua_settop(L, 3);
    push_two_sets(L, sign, &points, &n, &front, &m, &d);
    lua_pushnumber(L, mocl_epsilon(n, d, points, m, front));
    return 1;
}

static const luaL_Reg metrics_functions[] = {
    {"epsilon", metrics_epsilon},
    {"hypervolume", metrics_hypervolume},
    {"igd", metrics_igd},
    {"kendall_tau", metrics_kendall_tau},
    {"mean_pairwise_distance", metrics_mean_pairwise_distance},
    {"nondominated", metrics_nondominated},
    {NULL, NULL}};

int moclL_open_metrics_core(lua_State *L) {
    moclL_newlib(L, metrics_functions);
    return 1;
}
