/* lmetrics.c - module mocl.metrics.core: the figures that are loops over points or pairs.
** stdlib/mocl/metrics/init.lua adds the rest and is what scripts require.
*/

#include "maths/hypervolume.h"
#include "modules.h"
#include "maths/stats.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The number at list[i] of the list on the top of the stack. Where it is an integer that a double does not hold, *rounded becomes
** true; with rounded NULL it is an error: it would be another number. */
static double get_number(lua_State *L, const char *what, lua_Integer i, bool *rounded) {
    if (lua_geti(L, -1, i) != LUA_TNUMBER) luaL_error(L, "%s: entry %I is a %s", what, i, luaL_typename(L, -1));
    double v = lua_tonumber(L, -1);
    if (lua_isinteger(L, -1) && mocl_compare_numbers((mocl_number){true, lua_tointeger(L, -1), 0}, (mocl_number){false, 0, v}) != 0) {
        if (!rounded) {
            luaL_error(L, "%s: entry %I is %I, an integer beyond 2^53 that is not exact as a float: shift or scale the values", what,
                       i, lua_tointeger(L, -1));
        }
        *rounded = true;
    }
    lua_pop(L, 1);
    return v;
}

/* the length of the list at arg */
static int64_t list_length(lua_State *L, int arg) {
    luaL_checktype(L, arg, LUA_TTABLE);
    lua_Integer n = moclL_len(L, arg);
    luaL_argcheck(L, n < (1 << 30), arg, "the list is too long");
    return n;
}

/* pushes a buffer with the numbers of the list at arg; *n receives how many */
static double *push_numbers(lua_State *L, int arg, const char *what, int64_t *n, bool *rounded) {
    *n = list_length(L, arg);
    double *x = lua_newuserdatauv(L, (size_t)*n * sizeof *x, 0);
    lua_pushvalue(L, arg);
    for (int64_t i = 0; i < *n; i++) x[i] = get_number(L, what, i + 1, rounded);
    lua_pop(L, 1);
    return x;
}

/* row = the d numbers of the list at the index `list`, the top of the stack; false where one of them is not a number that is certainly exact and finite,
** which is for get_number to tell. The stack needs room for d values. */
static bool plain_row(lua_State *L, int list, int d, double *row) {
    bool plain = true;
    for (int k = 0; k < d; k++) plain = lua_geti(L, list, k + 1) == LUA_TNUMBER && plain;
    for (int k = 0; plain && k < d; k++) {
        row[k] = lua_tonumber(L, list + 1 + k);
        plain = fabs(row[k]) < 0x1p53;
    }
    lua_settop(L, list);
    return plain;
}

/* Pushes a buffer with the list of points at arg, each a list of *d numbers, times sign. If *d is
** 0 it is set from the first point. rounded: as in get_number. */
static double *push_points(lua_State *L, int arg, const char *what, double sign, int64_t *n, int *d, bool *rounded) {
    *n = list_length(L, arg);
    if (*d == 0 && *n > 0) {
        luaL_argcheck(L, lua_geti(L, arg, 1) == LUA_TTABLE, arg, "point 1 is not a list");
        lua_Integer first = luaL_len(L, -1);
        luaL_argcheck(L, first >= 1 && first <= MOCL_MAX_OBJECTIVES, arg,
                      "point 1 needs between 1 and 64 objectives");
        *d = (int)first;
        lua_pop(L, 1);
    }
    double *x = lua_newuserdatauv(L, (size_t)*n * (size_t)*d * sizeof *x, 0);
    luaL_checkstack(L, *d + LUA_MINSTACK, NULL);
    int list = lua_gettop(L) + 1;
    for (int64_t i = 0; i < *n; i++) {
        if (lua_geti(L, arg, i + 1) != LUA_TTABLE) {
            luaL_error(L, "%s %I is a %s (a list of %d numbers expected)", what, (lua_Integer)i + 1,
                       luaL_typename(L, -1), *d);
        }
        lua_Integer got = (lua_Integer)lua_rawlen(L, -1);
        if (got != *d) got = luaL_len(L, -1);
        if (got != *d) {
            luaL_error(L, "%s %I has %I objectives, %d expected", what, (lua_Integer)i + 1, got, *d);
        }
        double *row = x + i * *d;
        if (!plain_row(L, list, *d, row)) {
            char name[64];
            snprintf(name, sizeof name, "%s %lld", what, (long long)i + 1);
            for (int k = 0; k < *d; k++) {
                row[k] = get_number(L, name, k + 1, rounded);
                if (!isfinite(row[k])) {
                    luaL_error(L, "%s %I, objective %d is %s, not finite", what, (lua_Integer)i + 1, k + 1,
                               isnan(row[k]) ? "nan" : row[k] > 0 ? "inf" : "-inf");
                }
            }
        }
        for (int k = 0; k < *d; k++) row[k] *= sign;
        lua_pop(L, 1);
    }
    return x;
}

/* -- lists of integers that doubles do not hold: their ranks, which are in the same order -- */

/* Sorts n places of x by merging; t has room for n. */
static void sort_places(const mocl_number *x, int64_t *places, int64_t *t, int64_t n) {
    if (n < 2) return;
    int64_t half = n / 2, i = 0, j = half, k = 0;
    sort_places(x, places, t, half);
    sort_places(x, places + half, t, n - half);
    while (i < half && j < n) {
        t[k++] = mocl_compare_numbers(x[places[j]], x[places[i]]) < 0 ? places[j++] : places[i++];
    }
    while (i < half) t[k++] = places[i++];
    memcpy(places, t, (size_t)k * sizeof *t);
}

/* out[i * stride] = sign times the rank of x[i], equal numbers having one. Leaves a buffer on the stack. */
static void ranks_of(lua_State *L, const mocl_number *x, int64_t n, double sign, double *out, int stride) {
    int64_t *places = lua_newuserdatauv(L, 2 * (size_t)n * sizeof *places, 0), rank = 0;
    for (int64_t i = 0; i < n; i++) places[i] = i;
    sort_places(x, places, places + n, n);
    for (int64_t i = 0; i < n; i++) {
        if (i > 0 && mocl_compare_numbers(x[places[i]], x[places[i - 1]]) != 0) rank++;
        out[places[i] * stride] = sign * (double)rank;
    }
}

/* the number on the top of the stack, popped */
static mocl_number pop_number(lua_State *L) {
    mocl_number v = {lua_isinteger(L, -1), lua_tointeger(L, -1), lua_tonumber(L, -1)};
    lua_pop(L, 1);
    return v;
}

/* replaces x, the n numbers of the list at arg, by their ranks */
static void rank_list(lua_State *L, int arg, int64_t n, double *x) {
    mocl_number *exact = lua_newuserdatauv(L, (size_t)n * sizeof *exact, 0);
    for (int64_t i = 0; i < n; i++) {
        lua_geti(L, arg, i + 1);
        exact[i] = pop_number(L);
    }
    ranks_of(L, exact, n, 1, x, 1);
}

/* the same for points, objective by objective */
static void rank_points(lua_State *L, int arg, double sign, int64_t n, int d, double *x) {
    mocl_number *exact = lua_newuserdatauv(L, (size_t)n * sizeof *exact, 0);
    for (int k = 0; k < d; k++) {
        for (int64_t i = 0; i < n; i++) {
            lua_geti(L, arg, i + 1);
            lua_geti(L, -1, k + 1);
            exact[i] = pop_number(L);
            lua_pop(L, 1);
        }
        ranks_of(L, exact, n, sign, x + k, d);
        lua_pop(L, 1);
    }
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
    double *reference = push_numbers(L, 2, "reference", &objectives, NULL);
    luaL_argcheck(L, objectives >= 1 && objectives <= MOCL_MAX_OBJECTIVES, 2,
                  "between 1 and 64 objectives expected");
    for (int64_t k = 0; k < objectives; k++) {
        if (!isfinite(reference[k])) {
            return luaL_error(L, "hypervolume: reference %d is %s, not finite", (int)k + 1,
                              isnan(reference[k]) ? "nan" : reference[k] > 0 ? "inf" : "-inf");
        }
        reference[k] *= sign;
    }
    int d = (int)objectives;
    double *points = push_points(L, 1, "point", sign, &n, &d, NULL);
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
    bool rounded = false;
    double *points = push_points(L, 1, "point", sign, &n, &d, &rounded);
    if (rounded) rank_points(L, 1, sign, n, d, points);
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
    bool round_x = false, round_y = false;
    double *x = push_numbers(L, 1, "kendall_tau: x", &n, &round_x), tau, p;
    double *y = push_numbers(L, 2, "kendall_tau: y", &m, &round_y);
    if (n != m) {
        return luaL_error(L, "kendall_tau: x has %I entries, y has %I", (lua_Integer)n,
                          (lua_Integer)m);
    }
    bool ordered = true; /* a NaN has no rank, and is refused below */
    for (int64_t i = 0; i < n; i++) ordered = ordered && !isnan(x[i]) && !isnan(y[i]);
    if (round_x && ordered) rank_list(L, 1, n, x);
    if (round_y && ordered) rank_list(L, 2, n, y);
    mocl_status st = mocl_kendall_tau(moclL_ctx(L), (mocl_p_method)method, n, x, y, &tau, &p);
    if (st) return moclL_raise(L, st);
    lua_pushnumber(L, mocl_shown(tau));
    lua_pushnumber(L, mocl_shown(p));
    return 2;
}

/* pushes a figure of finite points; one that a double does not hold is an error */
static int push_finite(lua_State *L, const char *name, double v) {
    if (!isfinite(v)) {
        return luaL_error(L, "%s: the result is beyond the range of a float (1.8e308): scale the objectives", name);
    }
    lua_pushnumber(L, v);
    return 1;
}

/* mean_pairwise_distance(points) -> number */
static int metrics_mean_pairwise_distance(lua_State *L) {
    int64_t n;
    int d = 0;
    static const char *const none[] = {NULL};
    moclL_checkoptions(L, 2, none);
    lua_settop(L, 1);
    double *points = push_points(L, 1, "point", 1, &n, &d, NULL);
    return push_finite(L, "mean_pairwise_distance", mocl_mean_pairwise_distance(n, d, points));
}

/* the arguments (points, front) of igd and epsilon */
static void push_two_sets(lua_State *L, double sign, double **points, int64_t *n, double **front,
                          int64_t *m, int *d) {
    *d = 0;
    *points = push_points(L, 1, "point", sign, n, d, NULL);
    luaL_argcheck(L, *n > 0, 1, "there are no points");
    *front = push_points(L, 2, "front point", sign, m, d, NULL);
    luaL_argcheck(L, *m > 0, 2, "the front has no points");
}

/* igd(points, front [, {minimize=}]) -> number; a distance is the same either way */
static int metrics_igd(lua_State *L) {
    int64_t n, m;
    int d;
    double *points, *front;
    check_sign(L, 3);
    lua_settop(L, 2);
    push_two_sets(L, 1, &points, &n, &front, &m, &d);
    return push_finite(L, "igd", mocl_igd(n, d, points, m, front));
}

/* epsilon(points, front [, {minimize=}]) -> number */
static int metrics_epsilon(lua_State *L) {
    int64_t n, m;
    int d;
    double *points, *front, sign = check_sign(L, 3);
    lua_settop(L, 3);
    push_two_sets(L, sign, &points, &n, &front, &m, &d);
    return push_finite(L, "epsilon", mocl_epsilon(n, d, points, m, front));
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
