/* lscope.c - scopes and no_grad, kept for each coroutine (lscope.h) */
#include "lscope.h"

#include "calls.h"
#include "ltensor_box.h"

/* registry: tables with weak keys. open: thread -> the list of its innermost open scope; off: thread -> how many calls
** of no_grad it is in. A thread that is collected takes its entries with it. */
static const char open_key = 'o', off_key = 'g';
static const char count_key = 'n'; /* registry: number of scopes opened so far */

#define SCOPE_CLASS "mocl.tensor.scope"
#define NO_GRAD_CLASS "mocl: inside no_grad" /* no object that scripts get hold of */

/* A scope's list holds the tensors at 1 .. n, the list around it in the same thread at OUTER, its number at NUMBER. */
enum { NUMBER = -1, OUTER = 0 };
enum { LIST = 2 }; /* the user value of a scope */

/* Does code of the thread on top of the stack run, or wait for one that it resumed? Pops nothing. */
static bool runs(lua_State *L) {
    lua_State *thread = lua_tothread(L, -1);
    lua_Debug ar;
    if (thread == L) return true;
    if (lua_status(thread) != LUA_OK) return false; /* suspended, or ended by an error */
    if (lua_getstack(thread, 0, &ar)) return true;
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD); /* it runs even where no function of Lua does */
    bool is_main = lua_tothread(L, -1) == thread;
    lua_pop(L, 1);
    return is_main;
}

static lua_Integer number_of(lua_State *L, int list) {
    list = lua_absindex(L, list);
    lua_rawgeti(L, list, NUMBER);
    lua_Integer n = lua_tointeger(L, -1);
    lua_pop(L, 1);
    return n;
}

/* pushes the list of the thread's innermost scope, or nil */
static void push_own(lua_State *L) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &open_key);
    lua_pushthread(L);
    lua_rawget(L, -2);
    lua_remove(L, -2);
}

/* Pushes the list of the last scope numbered below `below` that holds here, opened by another thread; nil if there is
** none. *any becomes false where no thread has one. */
static void push_inherited(lua_State *L, lua_Integer below, bool *any) {
    *any = false;
    lua_pushnil(L);
    int best = lua_gettop(L);
    lua_Integer best_number = 0;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &open_key);
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) { /* stack: best, open, thread, list */
        *any = true;
        lua_pushvalue(L, -2);
        bool holds = lua_tothread(L, -1) != L && runs(L);
        lua_pop(L, 1);
        if (!holds) continue;
        lua_pushvalue(L, -1);
        while (lua_istable(L, -1) && number_of(L, -1) >= below) {
            lua_rawgeti(L, -1, OUTER);
            lua_remove(L, -2);
        }
        if (lua_istable(L, -1) && number_of(L, -1) > best_number) {
            best_number = number_of(L, -1);
            lua_replace(L, best);
        } else {
            lua_pop(L, 1);
        }
    }
    lua_pop(L, 1);
}

/* Registers the owner of a tensor on top of the stack with the innermost scope that holds here. */
static void scope_add(lua_State *L) {
    luaL_checkstack(L, 8, NULL);
    push_own(L);
    if (!lua_istable(L, -1)) {
        lua_pop(L, 1);
        push_inherited(L, LUA_MAXINTEGER, &moclL_calls_of(L)->scopes);
    }
    if (lua_istable(L, -1)) { /* stack: owner, list */
        lua_pushvalue(L, -2);
        lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    }
    lua_pop(L, 1);
}

int moclL_scope_new(lua_State *L) {
    lua_settop(L, 0);
    int *open = moclL_newbox(L, sizeof *open, 1, SCOPE_CLASS); /* 1 = open */
    lua_newtable(L);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, 1, LIST);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &count_key);
    lua_Integer number = lua_tointeger(L, -1) + 1;
    lua_pop(L, 1);
    lua_pushinteger(L, number);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &count_key);
    lua_pushinteger(L, number);
    lua_rawseti(L, 2, NUMBER);
    push_own(L);
    lua_rawseti(L, 2, OUTER);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &open_key);
    lua_pushthread(L);
    lua_pushvalue(L, 2);
    lua_rawset(L, -3);
    moclL_calls_of(L)->scopes = true;
    *open = 1;
    lua_settop(L, 1);
    return 1;
}

/* Takes the list at index 2 out of the chain that it is in; leaves the stack as it was. True if it was a chain's
** innermost. */
static bool unlink_list(lua_State *L) {
    bool innermost = false;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &open_key); /* 3 */
    for (lua_pushnil(L); lua_next(L, 3); lua_settop(L, 4)) { /* 4: thread, 5: its innermost list */
        if (lua_rawequal(L, 2, 5)) {
            innermost = true;
            lua_pushvalue(L, 4);
            lua_rawgeti(L, 2, OUTER);
            lua_rawset(L, 3); /* assigning to a field that is there is allowed during lua_next */
            break;
        }
        for (;;) {
            lua_rawgeti(L, 5, OUTER);
            if (!lua_istable(L, 6)) break;
            if (lua_rawequal(L, 2, 6)) {
                lua_rawgeti(L, 2, OUTER);
                lua_rawseti(L, 5, OUTER);
                lua_settop(L, 2);
                return false;
            }
            lua_replace(L, 5);
        }
    }
    lua_settop(L, 2);
    return innermost;
}

/* is the list at index 2 the innermost of a thread, or of none any more? */
static bool is_innermost(lua_State *L) {
    bool inside = false;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &open_key); /* 3 */
    for (lua_pushnil(L); lua_next(L, 3); lua_settop(L, 4)) {
        for (lua_rawgeti(L, 5, OUTER); lua_istable(L, 6); lua_rawgeti(L, 5, OUTER)) {
            inside = inside || lua_rawequal(L, 2, 6);
            lua_replace(L, 5);
        }
    }
    lua_settop(L, 2);
    return !inside;
}

/* A scope that nobody closed, as when an interruption came before its variable was to be closed. What was made since
** may be in use, so its tensors are left to the collector. */
static int scope_gc(lua_State *L) {
    int *open = moclL_testbox(L, 1, SCOPE_CLASS);
    if (!open || !*open) return 0;
    *open = 0;
    lua_settop(L, 1);
    lua_getiuservalue(L, 1, LIST);
    unlink_list(L);
    return 0;
}

/* With an error on its way (a block's end) an inner scope may be open that nobody will close: see scope_gc. A tensor
** that a running call is making is left to the collector. */
static int scope_close(lua_State *L) {
    int *open = moclL_checkbox(L, 1, SCOPE_CLASS);
    if (!*open) return 0;
    bool failing = !lua_isnoneornil(L, 2);
    lua_settop(L, 1);
    lua_getiuservalue(L, 1, LIST); /* 2: list */
    if (!failing && !is_innermost(L)) return luaL_error(L, "scope: close the scopes opened inside this one first");
    *open = 0;
    unlink_list(L);
    for (lua_Integer i = 1, n = (lua_Integer)lua_rawlen(L, 2); i <= n; i++) {
        lua_rawgeti(L, 2, i);
        mocl_tensor **box = moclL_testbox(L, -1, MOCL_TENSOR_CLASS);
        if (box && *box && !((*box)->requires_grad && !(*box)->node) /* parameters stay */ && !moclL_inuse(L, box)) {
            mocl_tensor *t = *box;
            *box = NULL;
            mocl_tensor_unref(t);
        }
        lua_pop(L, 1);
    }
    return 0;
}

/* s:keep(t, ...) -> t, ...: moves tensors to the enclosing scope */
static int scope_keep(lua_State *L) {
    moclL_checkbox(L, 1, SCOPE_CLASS);
    int n = lua_gettop(L);
    lua_getiuservalue(L, 1, LIST);   /* n + 1: list */
    lua_rawgeti(L, -1, OUTER);    /* n + 2: the list around it or nil */
    if (!lua_istable(L, -1)) {
        lua_pop(L, 1);
        push_inherited(L, number_of(L, n + 1), &moclL_calls_of(L)->scopes);
    }
    lua_Integer len = (lua_Integer)lua_rawlen(L, n + 1);
    for (int a = 2; a <= n; a++) {
        moclL_checktensor(L, a);
        for (lua_Integer i = len; i >= 1; i--) {
            lua_rawgeti(L, n + 1, i);
            bool same = lua_rawequal(L, -1, a);
            lua_pop(L, 1);
            if (!same) continue;
            lua_pushboolean(L, 0); /* false leaves the list without a hole */
            lua_rawseti(L, n + 1, i);
            if (lua_istable(L, n + 2)) {
                lua_pushvalue(L, a);
                lua_rawseti(L, n + 2, (lua_Integer)lua_rawlen(L, n + 2) + 1);
            }
            break;
        }
    }
    lua_settop(L, n);
    return n - 1;
}

/* ---- no_grad ---- */

static bool grad_is_off(lua_State *L, bool *any) {
    bool off = false;
    *any = false;
    luaL_checkstack(L, 8, NULL);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &off_key);
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) { /* stack: off, thread, count */
        *any = true;
        lua_pushvalue(L, -2);
        off = off || runs(L);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return off;
}

/* autograd records or not, as no_grad has it where L runs */
static void update_grad(lua_State *L) {
    moclL_calls *c = moclL_calls_of(L);
    bool off = grad_is_off(L, &c->no_grad);
    moclL_ctx(L)->grad_enabled = !off;
}

/* adds to the count of the thread, whose no_grad then holds or ends */
static void count_off(lua_State *L, lua_State *thread, int by) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &off_key);
    lua_pushthread(thread);
    if (thread != L) lua_xmove(thread, L, 1);
    lua_pushvalue(L, -1);
    lua_rawget(L, -3); /* stack: off, thread, count */
    lua_Integer n = lua_tointeger(L, -1) + by;
    lua_pop(L, 1);
    if (n > 0) lua_pushinteger(L, n);
    else lua_pushnil(L);
    lua_rawset(L, -3);
    lua_pop(L, 1);
    update_grad(L);
}

/* the __close of a no_grad: on return, and where an error or coroutine.close ends it */
static int no_grad_close(lua_State *L) {
    lua_State **thread = luaL_checkudata(L, 1, NO_GRAD_CLASS);
    if (*thread) count_off(L, *thread, -1);
    *thread = NULL;
    return 0;
}

static int no_grad_end(lua_State *L, int status, lua_KContext k) {
    (void)status, (void)k;
    return lua_gettop(L) - 1;
}

/* tensor.no_grad(f, ...) -> f(...): nothing inside is recorded; the state is restored on errors too. f may yield. */
int moclL_no_grad(lua_State *L) {
    moclL_checkcallable(L, 1);
    lua_State **thread = lua_newuserdatauv(L, sizeof *thread, 0); /* the thread that runs this call, so it lives as long */
    *thread = NULL;
    luaL_setmetatable(L, NO_GRAD_CLASS);
    lua_insert(L, 1);
    lua_toclose(L, 1);
    count_off(L, L, 1);
    *thread = L;
    lua_callk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, no_grad_end);
    return no_grad_end(L, LUA_OK, 0);
}

static void new_weak_table(lua_State *L, const void *key) {
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

void moclL_scope_open(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"keep", scope_keep}, {"close", scope_close}, {"__close", scope_close}, {"__gc", scope_gc}, {NULL, NULL}};
    moclL_calls_of(L)->update_grad = update_grad;
    moclL_calls_of(L)->scope_add = scope_add;
    new_weak_table(L, &open_key);
    new_weak_table(L, &off_key);
    luaL_newmetatable(L, SCOPE_CLASS);
    moclL_setfuncs(L, methods);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    luaL_newmetatable(L, NO_GRAD_CLASS);
    moclL_pushfunction(L, no_grad_close);
    lua_setfield(L, -2, "__close");
    lua_pop(L, 2);
}
