/* lminnorm.c - module mocl.minnorm: weights that make a combination of vectors short */
#include "maths/minnorm.h"

#include "modules.h"

/* two(vv, vw, ww) -> c, case */
static int minnorm_two(lua_State *L) {
    static const char *const names[] = {"c1", "c0", "interior", "zero"};
    double vv = luaL_checknumber(L, 1), vw = luaL_checknumber(L, 2), ww = luaL_checknumber(L, 3), c;
    mocl_minnorm_case which;
    mocl_status st = mocl_minnorm_two(moclL_ctx(L), vv, vw, ww, &c, &which);
    if (st) return moclL_raise(L, st);
    lua_pushnumber(L, c);
    lua_pushstring(L, names[which]);
    return 2;
}

/* pushes a buffer with the n x n entries of the table of rows at argument 1 */
static double *push_gram(lua_State *L, lua_Integer n) {
    double *gram = lua_newuserdatauv(L, (size_t)(n * n) * sizeof *gram, 0);
    for (lua_Integer i = 1; i <= n; i++) {
        if (lua_geti(L, 1, i) != LUA_TTABLE) {
            luaL_error(L, "solve: row %I of the gram matrix is a %s (a list expected)", i,
                       luaL_typename(L, -1));
        }
        lua_Integer columns = moclL_len(L, -1);
        if (columns != n) {
            luaL_error(L, "solve: row %I of the gram matrix has %I entries, there are %I rows", i,
                       columns, n);
        }
        for (lua_Integer j = 1; j <= n; j++) {
            int is_number;
            lua_geti(L, -1, j);
            gram[(i - 1) * n + j - 1] = lua_tonumberx(L, -1, &is_number);
            if (!is_number) {
                luaL_error(L, "solve: entry (%I,%I) of the gram matrix is a %s (a number expected)",
                           i, j, luaL_typename(L, -1));
            }
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
    }
    return gram;
}

/* solve(gram [, {max_iterations=, tolerance=}]) -> weights, info */
static int minnorm_solve(lua_State *L) {
    static const char *const options[] = {"max_iterations", "tolerance", NULL};
    luaL_checktype(L, 1, LUA_TTABLE);
    moclL_checkoptions(L, 2, options);
    lua_Integer max_iterations = moclL_optfield_integer(L, 2, "max_iterations", 1000);
    double tolerance = moclL_optfield_number(L, 2, "tolerance", 1e-12);
    lua_settop(L, 2);
    lua_Integer n = moclL_len(L, 1);
    luaL_argcheck(L, n >= 1 && n <= 4096, 1, "between 1 and 4096 rows expected");
    if (max_iterations > 1000000000) max_iterations = 1000000000;
    if (max_iterations < 0) max_iterations = 0; /* refused below */
    double *gram = push_gram(L, n);
    double *w = lua_newuserdatauv(L, (size_t)n * sizeof *w, 0); /* stack: gram, opts, copy, w */
    mocl_minnorm_info info;
    mocl_status st =
        mocl_minnorm_solve(moclL_ctx(L), (int)n, gram, (int)max_iterations, tolerance, w, &info);
    if (st) return moclL_raise(L, st);
    lua_createtable(L, (int)n, 0);
    for (lua_Integer i = 0; i < n; i++) {
        lua_pushnumber(L, w[i]);
        lua_seti(L, -2, i + 1);
    }
    lua_createtable(L, 0, 4);
    lua_pushnumber(L, info.norm2);
    lua_setfield(L, -2, "norm2");
    lua_pushnumber(L, info.gap);
    lua_setfield(L, -2, "gap");
    lua_pushinteger(L, info.iterations);
    lua_setfield(L, -2, "iterations");
    lua_pushboolean(L, info.converged);
    lua_setfield(L, -2, "converged");
    return 2;
}

static const luaL_Reg minnorm_functions[] = {
    {"two", minnorm_two}, {"solve", minnorm_solve}, {NULL, NULL}};

int moclL_open_minnorm(lua_State *L) {
    moclL_newlib(L, minnorm_functions);
    return 1;
}
