/* calls.c - functions of bindings as calls that keep what they work on */
#include "calls.h"

#include "lscope.h"

static inline uintptr_t here(void) { return (uintptr_t)__builtin_frame_address(0); }

/* ends the innermost calls until n are left */
static void end_calls(moclL_calls *c, int n) {
    int first = c->frame[n].first;
    c->n_frames = n;
    while (c->n_held > first) { /* what is freed runs no Lua */
        moclL_held *h = &c->held[--c->n_held];
        if (h->free_fn) h->free_fn(h->object);
    }
}

/* drops the calls that an error has left: those that ran at `at` or deeper */
static void drop_dead(moclL_calls *c, uintptr_t at) {
    int n = c->n_frames;
    while (n > 0 && c->frame[n - 1].at <= at) n--;
    if (n < c->n_frames) end_calls(c, n);
}

void moclL_dropcalls(lua_State *L) { drop_dead(moclL_calls_of(L), here()); }

/* upvalue 1: the function of the binding; 2: the state's calls */
static int call(lua_State *L) {
    moclL_calls *c = lua_touserdata(L, lua_upvalueindex(2));
    uintptr_t at = here();
    drop_dead(c, at);
    if (c->n_frames == MOCLL_MAX_CALLS) return luaL_error(L, "too many calls inside one another");
    if (c->no_grad) moclL_update_grad(L);
    /* Room for the finalizers of a collection that makes room (moclL_makeroom): one whose call found no memory for the stack of
    ** Lua would be lost, and with it what it frees. Where there is no memory now, the function may still get on. */
    (void)lua_checkstack(L, 3 * LUA_MINSTACK);
    int depth = c->n_frames++;
    c->frame[depth] = (moclL_frame){at, c->n_held, 0};
    int n = lua_tocfunction(L, lua_upvalueindex(1))(L);
    end_calls(c, depth);
    return n;
}

void moclL_pushfunction(lua_State *L, lua_CFunction f) {
    moclL_calls *c = moclL_calls_of(L);
    lua_pushcfunction(L, f);
    lua_pushlightuserdata(L, c);
    lua_pushcclosure(L, call, 2);
}

void moclL_setfuncs(lua_State *L, const luaL_Reg *functions) {
    luaL_checkstack(L, 4, NULL);
    for (const luaL_Reg *r = functions; r->name; r++) {
        if (r->func) moclL_pushfunction(L, r->func);
        else lua_pushboolean(L, false); /* a place for a field, as luaL_setfuncs has it */
        lua_setfield(L, -2, r->name);
    }
}

void moclL_hold(lua_State *L, void *object, moclL_free free_fn) {
    moclL_calls *c = moclL_calls_of(L);
    if (c->n_frames == 0) { /* a check outside of a binding's function: nobody to keep it for */
        if (free_fn) free_fn(object);
        return;
    }
    if (c->n_held == c->capacity) {
        int capacity = c->capacity ? 2 * c->capacity : 64;
        moclL_held *held = mocl_realloc(moclL_ctx(L), c->held, (size_t)capacity * sizeof *held);
        if (!held) {
            if (free_fn) free_fn(object);
            moclL_raise(L, mocl_nomem(moclL_ctx(L), (size_t)capacity * sizeof *held));
            return;
        }
        c->held = held;
        c->capacity = capacity;
    }
    c->held[c->n_held++] = (moclL_held){object, free_fn};
}

/* registry: the strings of the running calls, those of the n-th in list n. A list that no call uses any more is emptied when
** the next call of its depth keeps a string. */
static const char strings_key = 's';

void moclL_holdstring(lua_State *L) {
    moclL_calls *c = moclL_calls_of(L);
    if (c->n_frames == 0) return;
    moclL_frame *f = &c->frame[c->n_frames - 1];
    luaL_checkstack(L, 4, NULL);
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &strings_key) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &strings_key);
    }
    if (f->n_strings == 0 || lua_rawgeti(L, -1, c->n_frames) != LUA_TTABLE) {
        if (f->n_strings) lua_pop(L, 1); /* what lua_rawgeti pushed */
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_rawseti(L, -3, c->n_frames);
    }
    lua_pushvalue(L, -3); /* stack: string, lists, list, string */
    lua_rawseti(L, -2, ++f->n_strings);
    lua_pop(L, 2);
}

bool moclL_defer(lua_State *L, void *object, moclL_free free_fn) {
    moclL_calls *c = moclL_calls_of(L);
    drop_dead(c, here());
    for (int i = 0; i < c->n_held; i++) { /* the outermost call that works on it ends last */
        if (c->held[i].object != object) continue;
        c->held[i].free_fn = free_fn;
        return true;
    }
    return false;
}

bool moclL_inuse(lua_State *L, const void *object) {
    moclL_calls *c = moclL_calls_of(L);
    int first = c->n_frames ? c->frame[c->n_frames - 1].first : 0;
    for (int i = 0; i < first; i++)
        if (c->held[i].object == object) return true;
    return false;
}

void moclL_update_grad(lua_State *L) {
    moclL_calls *c = moclL_calls_of(L);
    bool off = moclL_grad_is_off(L, &c->no_grad);
    moclL_ctx(L)->grad_enabled = !off;
}

void moclL_calls_free(moclL_calls *c) {
    if (c->n_frames) end_calls(c, 0);
    mocl_free(c->held);
    c->held = NULL;
    c->capacity = 0;
}
