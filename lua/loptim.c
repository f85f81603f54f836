/* loptim.c - module mocl.optim.core: optimisers as objects. stdlib/mocl/optim.lua adds schedules. */
#include "ltensor.h"
#include "modules.h"
#include "optim.h"

#define OPTIM_CLASS "mocl.optim"

static void free_optim(void *o) { mocl_optim_free(o); }

static mocl_optim *check_optim(lua_State *L) { return moclL_checkowner(L, 1, OPTIM_CLASS); }

/* The tensors of the list at 1 as a C array left on the stack, and above it a table of the names that there are. An
** entry is a tensor, or a pair {name, tensor} as named_parameters gives them. */
static mocl_tensor **parameter_list(lua_State *L, int *n) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_Integer count = moclL_len(L, 1);
    if (count < 1) luaL_argerror(L, 1, "a list of at least one parameter is needed");
    mocl_tensor **list = lua_newuserdatauv(L, (size_t)count * sizeof *list, 0);
    lua_newtable(L);
    int names = lua_gettop(L);
    for (lua_Integer i = 1; i <= count; i++) {
        if (lua_geti(L, 1, i) == LUA_TTABLE) {
            if (lua_geti(L, -1, 1) != LUA_TSTRING)
                luaL_argerror(L, 1, lua_pushfstring(L, "entry %I is neither a tensor nor {name, tensor}", i));
            lua_rawseti(L, names, i);
            lua_geti(L, -1, 2);
            lua_remove(L, -2);
        }
        list[i - 1] = moclL_totensor(L, -1);
        if (!list[i - 1]) luaL_argerror(L, 1, lua_pushfstring(L, "entry %I %s", i, moclL_notensor(L, -1)));
        lua_pop(L, 1);
    }
    *n = (int)count;
    return list;
}

/* pushes an optimiser over the list at 1, with the names that are there */
static mocl_optim *push_optim(lua_State *L, mocl_optim_kind kind) {
    int n;
    mocl_tensor **list = parameter_list(L, &n);
    int names = lua_gettop(L);
    mocl_optim **out = (mocl_optim **)moclL_pushowner(L, OPTIM_CLASS);
    mocl_status st = mocl_optim_new(out, moclL_ctx(L), kind, n, list);
    for (int i = 0; i < n && !st; i++) {
        if (lua_rawgeti(L, names, i + 1) == LUA_TSTRING) st = mocl_optim_set_name(*out, i, lua_tostring(L, -1));
        lua_pop(L, 1);
    }
    if (st) moclL_raise(L, st);
    return *out;
}

static double positive(lua_State *L, const char *name, double v, bool zero_is_fine) {
    if (!(v > 0 || (zero_is_fine && v == 0))) luaL_error(L, "bad option '%s' (%f must be %s)", name, mocl_shown(v),
                                                         zero_is_fine ? "0 or more" : "positive");
    return v;
}

/* adamw(parameters, {lr=1e-3, betas={.9,.999}, eps=1e-8, weight_decay=0}) */
static int optim_adamw(lua_State *L) {
    static const char *const options[] = {"lr", "betas", "eps", "weight_decay", NULL};
    double beta[2] = {.9, .999};
    moclL_checkoptions(L, 2, options);
    double lr = positive(L, "lr", moclL_optfield_number(L, 2, "lr", 1e-3), true);
    double eps = positive(L, "eps", moclL_optfield_number(L, 2, "eps", 1e-8), false);
    double wd = positive(L, "weight_decay", moclL_optfield_number(L, 2, "weight_decay", 0), true);
    if (moclL_optfield_table(L, 2, "betas")) {
        for (int i = 0; i < 2; i++) {
            lua_geti(L, -1, i + 1);
            if (lua_type(L, -1) != LUA_TNUMBER)
                return luaL_error(L, "bad option 'betas' (two numbers expected, number %d is a %s)", i + 1, luaL_typename(L, -1));
            beta[i] = lua_tonumber(L, -1);
            lua_pop(L, 1);
            if (!(beta[i] >= 0 && beta[i] < 1)) return luaL_error(L, "bad option 'betas' (%f is outside [0, 1))", mocl_shown(beta[i]));
        }
    }
    mocl_optim *o = push_optim(L, MOCL_OPTIM_ADAMW);
    o->lr = lr;
    o->eps = eps;
    o->weight_decay = wd;
    o->beta1 = beta[0];
    o->beta2 = beta[1];
    return 1;
}

/* sgd(parameters, {lr=1e-2, momentum=0, weight_decay=0}) */
static int optim_sgd(lua_State *L) {
    static const char *const options[] = {"lr", "momentum", "weight_decay", NULL};
    moclL_checkoptions(L, 2, options);
    double lr = positive(L, "lr", moclL_optfield_number(L, 2, "lr", 1e-2), true);
    double momentum = positive(L, "momentum", moclL_optfield_number(L, 2, "momentum", 0), true);
    double wd = positive(L, "weight_decay", moclL_optfield_number(L, 2, "weight_decay", 0), true);
    mocl_optim *o = push_optim(L, MOCL_OPTIM_SGD);
    o->lr = lr;
    o->momentum = momentum;
    o->weight_decay = wd;
    return 1;
}

/* o:step{lr=, max_grad_norm=, ahead=false} -> norm of the gradient before clipping. All options may be left out;
** lr holds for this step alone. ahead: the norm is a tensor [3], whose sum it is; o:check tells later what the step was. */
static int optim_step(lua_State *L) {
    static const char *const options[] = {"lr", "max_grad_norm", "ahead", NULL};
    mocl_optim *o = check_optim(L);
    moclL_checkoptions(L, 2, options);
    double norm, lr = positive(L, "lr", moclL_optfield_number(L, 2, "lr", o->lr), true);
    if (moclL_optfield_boolean(L, 2, "ahead", false)) {
        mocl_tensor **out = moclL_pushtensor(L);
        MOCLL_CALL(L, mocl_optim_step_ahead(o, lr, moclL_optfield_number(L, 2, "max_grad_norm", 0), out));
        return 1;
    }
    mocl_status st = mocl_optim_step(o, lr, moclL_optfield_number(L, 2, "max_grad_norm", 0), &norm);
    if (st) return moclL_raise(L, st);
    lua_pushnumber(L, mocl_shown(norm));
    return 1;
}

/* o:check(norm, {max_grad_norm=}): raises what a step with gradients of this norm does, while they are there */
static int optim_check(lua_State *L) {
    static const char *const options[] = {"max_grad_norm", NULL};
    mocl_optim *o = check_optim(L);
    double norm = luaL_checknumber(L, 2);
    moclL_checkoptions(L, 3, options);
    mocl_status st = mocl_optim_check(o, moclL_optfield_number(L, 3, "max_grad_norm", 0), norm);
    return st ? moclL_raise(L, st) : 0;
}

static int optim_zero_grad(lua_State *L) {
    mocl_optim_zero_grad(check_optim(L));
    return 0;
}

/* o:steps([n]): steps taken; sets the count when given (after loading) */
static int optim_steps(lua_State *L) {
    mocl_optim *o = check_optim(L);
    if (!lua_isnoneornil(L, 2)) {
        lua_Integer n = luaL_checkinteger(L, 2);
        luaL_argcheck(L, n >= 0, 2, "steps must be 0 or more");
        o->steps = n;
    }
    lua_pushinteger(L, o->steps);
    return 1;
}

/* o:state() -> {first = {tensors}, second = {tensors}}: the live state (made where it is missing), to be
** saved or to be copied into; second is empty for SGD */
static int optim_state(lua_State *L) {
    mocl_optim *o = check_optim(L);
    mocl_status st = mocl_optim_make_state(o);
    if (st) return moclL_raise(L, st);
    lua_createtable(L, 0, 2);
    for (int which = 0; which < 2; which++) {
        lua_createtable(L, o->n, 0);
        for (int i = 0; i < o->n; i++) {
            mocl_tensor *t = which ? o->second[i] : o->first[i];
            if (!t) continue;
            moclL_pushtensorref(L, t);
            lua_rawseti(L, -2, i + 1);
        }
        lua_setfield(L, -2, which ? "second" : "first");
    }
    return 1;
}

static const luaL_Reg methods[] = {
    {"check", optim_check}, {"state", optim_state}, {"step", optim_step}, {"steps", optim_steps}, {"zero_grad", optim_zero_grad}, {NULL, NULL},
};

static const luaL_Reg functions[] = {{"adamw", optim_adamw}, {"sgd", optim_sgd}, {NULL, NULL}};

int moclL_open_optim_core(lua_State *L) {
    moclL_opentensors(L);
    moclL_newclass(L, OPTIM_CLASS, methods, free_optim);
    moclL_newlib(L, functions);
    return 1;
}
