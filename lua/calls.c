/* calls.c - the context of a state, and functions of bindings as calls that keep what they work on */
#include "calls.h"

#include <stdlib.h>
#include <string.h>

#include "kernels.h"

static const char ctx_key = 'c'; /* its address is the registry key of the state's calls, and with them of the context */

/* A function of a binding has their address as its second upvalue, where no other C function of mocl has a userdata. */
moclL_calls *moclL_calls_of(lua_State *L) {
    moclL_calls *c = lua_touserdata(L, lua_upvalueindex(2));
    if (c) return c;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &ctx_key);
    c = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (!c) luaL_error(L, "mocl is not open in this state: require 'mocl' first");
    return c;
}

mocl_ctx *moclL_ctx(lua_State *L) {
    mocl_ctx *ctx = moclL_calls_of(L)->ctx;
    if (!ctx) luaL_error(L, "mocl is closed: this state is ending");
    return ctx;
}

static int ctx_gc(lua_State *L) {
    moclL_calls *c = lua_touserdata(L, 1);
    mocl_ctx *ctx = c->ctx;
    c->ctx = NULL;
    moclL_calls_free(c);
    mocl_ctx_free(ctx);
    return 0;
}

/* registry: the threads in which the recorded calls run, by the number of the record, held weakly; the main thread is
** not among them. */
static const char threads_key = 't';

/* ends the innermost calls until n are left */
static void end_calls(moclL_calls *c, int n) {
    int first = c->frame[n].first;
    c->n_frames = n;
    while (c->n_held > first) { /* what is freed runs no Lua */
        moclL_held *h = &c->held[--c->n_held];
        if (h->free_fn) h->free_fn(h->object);
    }
}

static int call(lua_State *L);

/* Does the innermost recorded call still run? Those of a thread that do are the first ones recorded for it, so there
** have to be as many functions of bindings on the thread's stack as records. `unrecorded` such functions of L have no
** record yet. lua_getstack takes a time that grows with the level, so of a call that would be far out the stack of C
** decides: what still runs is further up there than `here`, a frame of the innermost function. A call that has ended may
** be further up too, and then is taken to run until the code is less deep; as C calls do not nest without end, such
** records do not pile up. */
static bool runs(lua_State *L, const moclL_calls *c, int unrecorded, uintptr_t here) {
    enum { LEVELS = 200 };
    lua_State *thread = c->frame[c->n_frames - 1].thread;
    lua_Debug ar;
    int wanted = thread == L ? unrecorded : 0, level = 0;
    if (thread != L && thread != c->main) { /* is it there still? */
        lua_rawgetp(L, LUA_REGISTRYINDEX, &threads_key);
        lua_rawgeti(L, -1, c->n_frames);
        bool is_there = lua_tothread(L, -1) == thread;
        lua_pop(L, 2);
        if (!is_there) return false;
    }
    if (thread != L && lua_status(thread) != LUA_OK) return false;
    for (int i = 0; i < c->n_frames; i++) wanted += c->frame[i].thread == thread;
    if (!lua_checkstack(thread, 1)) return true;
    for (; wanted > 0 && level < LEVELS && lua_getstack(thread, level, &ar); level++) {
        lua_getinfo(thread, "f", &ar);
        wanted -= lua_tocfunction(thread, -1) == call;
        lua_pop(thread, 1);
    }
    return wanted == 0 || (level == LEVELS && c->frame[c->n_frames - 1].at > here);
}

/* drops the calls that an error has left */
static void drop_dead(lua_State *L, moclL_calls *c, int unrecorded, uintptr_t here) {
    if (c->n_frames == 0 || !lua_checkstack(L, 2)) return;
    while (c->n_frames > 0 && !runs(L, c, unrecorded, here)) end_calls(c, c->n_frames - 1);
}

#define FRAME() ((uintptr_t)__builtin_frame_address(0))

void moclL_dropcalls(lua_State *L) { drop_dead(L, moclL_calls_of(L), 0, FRAME()); }

/* upvalue 1: the function of the binding; 2: the state's calls; 3: the table of threads */
static int call(lua_State *L) {
    moclL_calls *c = lua_touserdata(L, lua_upvalueindex(2));
    uintptr_t here = FRAME();
    drop_dead(L, c, 1, here);
    if (c->n_frames == MOCLL_MAX_CALLS) return luaL_error(L, "too many calls inside one another");
    if (c->no_grad) c->update_grad(L);
    /* Room for the finalizers of a collection that makes room (moclL_makeroom): one whose call found no memory for the stack of
    ** Lua would be lost, and with it what it frees. Where there is no memory now, the function may still get on. */
    (void)lua_checkstack(L, 3 * LUA_MINSTACK);
    int depth = c->n_frames;
    if (L != c->main) {
        lua_pushthread(L);
        lua_rawseti(L, lua_upvalueindex(3), depth + 1);
    }
    c->frame[depth] = (moclL_frame){L, here, c->n_held, 0};
    c->n_frames = depth + 1;
    c->n_begun++;
    int n = lua_tocfunction(L, lua_upvalueindex(1))(L);
    end_calls(c, depth);
    return n;
}

void moclL_pushfunction(lua_State *L, lua_CFunction f) {
    lua_pushcfunction(L, f);
    lua_pushlightuserdata(L, moclL_calls_of(L));
    lua_rawgetp(L, LUA_REGISTRYINDEX, &threads_key);
    lua_pushcclosure(L, call, 3);
}

void moclL_calls_open(lua_State *L, moclL_calls *c) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    c->main = lua_tothread(L, -1);
    lua_createtable(L, 16, 0);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &threads_key);
    lua_pop(L, 1);
}

void moclL_setfuncs(lua_State *L, const luaL_Reg *functions) {
    luaL_checkstack(L, 5, NULL);
    for (const luaL_Reg *r = functions; r->name; r++) {
        if (r->func) moclL_pushfunction(L, r->func);
        else lua_pushboolean(L, false); /* a place for a field, as luaL_setfuncs has it */
        lua_setfield(L, -2, r->name);
    }
}

void moclL_hold(lua_State *L, void *object, moclL_free free_fn) {
    moclL_calls *c = moclL_calls_of(L);
    if (c->n_frames) moclL_keep(L, c, object, free_fn);
    else if (free_fn) free_fn(object); /* a check outside of a binding's function: nobody to keep it for */
}

void moclL_keep(lua_State *L, moclL_calls *c, void *object, moclL_free free_fn) {
    if (c->n_held == c->capacity) {
        int capacity = c->capacity ? 2 * c->capacity : 64;
        moclL_held *held = mocl_realloc(c->ctx, c->held, (size_t)capacity * sizeof *held);
        if (!held) {
            if (free_fn) free_fn(object);
            moclL_raise(L, mocl_nomem(c->ctx, (size_t)capacity * sizeof *held));
            return;
        }
        c->held = held;
        c->capacity = capacity;
    }
    c->held[c->n_held++] = (moclL_held){object, free_fn};
}

/* registry: the strings of the running calls, those of the n-th in list n. A list that no call uses any more is
** emptied when the next call of its depth keeps a string. */
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
    drop_dead(L, c, 0, FRAME());
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

uint64_t moclL_n_calls(lua_State *L) { return moclL_calls_of(L)->n_begun; }

void moclL_calls_free(moclL_calls *c) {
    if (c->n_frames) end_calls(c, 0);
    mocl_free(c->held);
    c->held = NULL;
    c->capacity = 0;
}

/* ---- the context ---- */

bool moclL_noenv(lua_State *L) {
    lua_getfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    bool noenv = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return noenv;
}

#define GUARD_CLASS "mocl.callback"

/* An error that says it of a C call gets the name of the call; a traceback behind it stays. */
static int guard_close(lua_State *L) {
    static const char lua_text[] = "attempt to yield across a C-call boundary", other[] = "attempt to yield from outside a coroutine";
    const char *what = *(const char **)luaL_checkudata(L, 1, GUARD_CLASS);
    const char *text = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : NULL;
    const char *at = text ? strstr(text, lua_text) : NULL;
    size_t n = sizeof lua_text - 1;
    if (text && !at) at = strstr(text, other), n = sizeof other - 1;
    if (!at) return 0;
    lua_pushlstring(L, text, (size_t)(at - text));
    lua_pushfstring(L, "%s cannot yield: C code waits for it; note what it needs and yield afterwards%s", what, at + n);
    lua_concat(L, 2);
    return lua_error(L);
}

void moclL_pushguard(lua_State *L, const char *what) {
    const char **guard = lua_newuserdatauv(L, sizeof *guard, 0);
    *guard = what;
    luaL_setmetatable(L, GUARD_CLASS);
    lua_toclose(L, -1);
}

/* Makes the context on first call. It is the first userdata of the state, so that lua_close
** finalizes it last. */
void moclL_openctx(lua_State *L, int n_threads) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &ctx_key);
    bool have = lua_touserdata(L, -1) != NULL;
    lua_pop(L, 1);
    if (have) return;
    moclL_calls *c = lua_newuserdatauv(L, sizeof *c, 0);
    memset(c, 0, sizeof *c);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, ctx_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    if (mocl_ctx_new(&c->ctx, n_threads)) luaL_error(L, "out of host memory: no context");
    const char *blas = moclL_noenv(L) ? NULL : getenv("MOCL_BLAS");
    if (blas && !strcmp(blas, "none")) c->ctx->blas = MK_BLAS_NONE;
    if (blas && !strcmp(blas, "openblas")) c->ctx->blas = MK_BLAS_OPENBLAS;
    lua_rawsetp(L, LUA_REGISTRYINDEX, &ctx_key);
    moclL_calls_open(L, c);
    luaL_newmetatable(L, GUARD_CLASS);
    lua_pushcfunction(L, guard_close);
    lua_setfield(L, -2, "__close");
    lua_pop(L, 1);
}

int moclL_raise(lua_State *L, mocl_status status) {
    mocl_ctx *ctx = moclL_ctx(L);
    char text[sizeof ctx->message];
    memcpy(text, ctx->message, sizeof text);
    mocl_clear(ctx);
    /* In a finalizer, where lua_gc answers -1, the error becomes a warning: the interruption is still to come. */
    if (status == MOCL_E_INTERRUPT && lua_gc(L, LUA_GCCOUNT) < 0) mocl_ctx_interrupt(ctx);
    int (*interrupted)(lua_State *, const char *) = moclL_calls_of(L)->interrupted;
    if (status == MOCL_E_INTERRUPT && interrupted && !strcmp(text, "interrupted!")) return interrupted(L, text);
    if (status == MOCL_E_INTERNAL) return luaL_error(L, "internal: %s", text);
    return luaL_error(L, "%s", text[0] ? text : "unknown failure");
}

int moclL_result(lua_State *L, mocl_status status, int n_results) {
    if (status == MOCL_OK) return n_results;
    if (status != MOCL_E_IO && status != MOCL_E_FORMAT) return moclL_raise(L, status);
    mocl_ctx *ctx = moclL_ctx(L);
    luaL_pushfail(L);
    lua_pushstring(L, ctx->message);
    lua_pushstring(L, status == MOCL_E_IO ? "IO" : "FORMAT");
    mocl_clear(ctx);
    return 3;
}
