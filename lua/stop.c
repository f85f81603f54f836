/* stop.c - limits of time, memory and instructions, and os.exit inside a host.
**
** An error alone would not end a run: pcall catches it. So a run that is over keeps its reason in the host, every thread
** that runs gets a hook at each instruction, and that hook raises again and again until the host has the thread back.
** Without a reason a hook counts in steps of a hundred instructions and looks at the clock and at the account of memory.
** Lua calls no hooks inside finalizers, and none while a hook's error is handled by a message handler; so where libraries
** are selected, lua/sandbox.c gives scripts neither.
*/
#define _POSIX_C_SOURCE 200809L
#include "stop.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { STEP = 100 };

/* ---- stopping ---- */

/* "chunk:line: " of the innermost function in Lua; allocates nothing */
static int write_place(lua_State *L, char *out, size_t bytes) {
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline > 0) return snprintf(out, bytes, "%s:%d: ", ar.short_src, ar.currentline);
    }
    return 0;
}

static int raise_again(lua_State *L) {
    lua_pushstring(L, moclL_host_of(L)->stop_text);
    return lua_error(L);
}

int moclL_stop(lua_State *L, moclL_stop_reason reason, const char *fmt, ...) {
    moclL_host *h = moclL_host_of(L);
    if (!h->stop) {
        if (!h->runs) reason = MOCLL_RUNS; /* the host calls Lua by itself, and nobody would take the reason back */
        size_t n = (size_t)write_place(L, h->stop_text, sizeof h->stop_text);
        va_list ap;
        va_start(ap, fmt);
        if (n < sizeof h->stop_text) vsnprintf(h->stop_text + n, sizeof h->stop_text - n, fmt, ap);
        va_end(ap);
        h->stop = reason;
        if (reason) moclL_hook_running(h);
    }
    return raise_again(L);
}

#define MEMORY_TEXT "stopped: the limit of %zu bytes is reached, and %zu more were wanted"

/* Raises where the run is stopped already or a limit is reached. */
static void check_limits(lua_State *L) {
    moclL_host *h = moclL_host_of(L);
    if (h->stop) raise_again(L);
    if (!h->limited || !h->runs) return;
    if (h->account.refused)
        moclL_stop(L, MOCLL_STOP_MEMORY, MEMORY_TEXT, h->account.limit, h->account.refused);
    if (h->instructions && h->instructions_left <= 0)
        moclL_stop(L, MOCLL_STOP_INSTRUCTIONS, "stopped: the limit of %lld instructions is reached", h->instructions);
    if (h->ctx->deadline && mocl_clock() >= h->ctx->deadline)
        moclL_stop(L, MOCLL_STOP_TIME, "stopped: the limit of %g s is reached", h->seconds);
}

/* ---- counting ---- */

static void on_step(lua_State *L, lua_Debug *ar) {
    (void)ar;
    moclL_host *h = moclL_host_of(L);
    h->instructions_left -= STEP;
    if (!h->limited) moclL_rest_hook(L);
    check_limits(L);
}

void moclL_rest_hook(lua_State *L) {
    moclL_host *h = moclL_host_of(L);
    if (h->limited) lua_sethook(L, on_step, LUA_MASKCOUNT, STEP);
    else lua_sethook(L, NULL, 0, 0);
}

void moclL_enter_limits(moclL_host *h, lua_State *co) {
    if (!h->limited) return;
    h->instructions_left -= STEP; /* a coroutine that runs less than a step would never be counted */
    if (lua_gethook(co) != on_step && !h->stop) moclL_rest_hook(co);
}

/* ---- each instruction ---- */

/* There is an interruption to be raised, or the run is over. */
static void on_hook(lua_State *L, lua_Debug *ar) {
    (void)ar;
    moclL_host *h = moclL_host_of(L);
    check_limits(L);
    moclL_rest_hook(L);
    if (mocl_poll(h->ctx) == MOCL_OK) return; /* somebody else reported it */
    if (h->selected) moclL_stop(L, MOCLL_STOP_INTERRUPT, "%s", h->ctx->message);
    lua_Debug at;
    int level = 0; /* of the innermost function in Lua, where C functions called each other */
    luaL_where(L, level);
    while (!lua_tostring(L, -1)[0] && lua_getstack(L, ++level, &at)) {
        lua_pop(L, 1);
        luaL_where(L, level);
    }
    lua_pushstring(L, h->ctx->message);
    mocl_clear(h->ctx);
    lua_concat(L, 2);
    lua_error(L);
}

void moclL_hook(lua_State *L) {
    lua_sethook(L, on_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

void moclL_hook_running(moclL_host *h) {
    int n = atomic_load(&h->n_running);
    for (int i = 0; i < n && i < MOCLL_MAX_RUNNING; i++) {
        lua_State *co = atomic_load(&h->running[i]);
        if (co) moclL_hook(co);
    }
}

/* ---- runs ---- */

void moclL_begin_run(moclL_host *h) {
    if (h->runs++) return;
    h->stop = MOCLL_RUNS;
    h->account.refused = 0;
    h->instructions_left = h->instructions;
    h->ctx->deadline = h->seconds > 0 ? mocl_clock() + (int64_t)(h->seconds * 1e9) : 0;
    if (h->limited && !h->ctx->interrupt) moclL_rest_hook(h->L);
}

moclL_stop_reason moclL_end_run(moclL_host *h, bool failed) {
    if (failed && !h->stop && h->account.refused) { /* nobody has caught the error, so no hook has seen it */
        h->stop = MOCLL_STOP_MEMORY;
        snprintf(h->stop_text, sizeof h->stop_text, MEMORY_TEXT, h->account.limit, h->account.refused);
    }
    moclL_stop_reason stop = h->stop;
    if (--h->runs) return stop; /* the run around it is to end too */
    h->stop = MOCLL_RUNS;
    h->ctx->deadline = 0;
    lua_sethook(h->L, NULL, 0, 0);
    h->account.refused = 0;
    return stop;
}

int mocl_limit(mocl_ctx *ctx, const mocl_limits *limits) {
    moclL_host *h = ctx->host;
    mocl_limits l = {0};
    if (limits) memcpy(&l, limits, limits->size < sizeof l ? limits->size : sizeof l);
    bool right = !limits || (l.size >= sizeof l.size && l.seconds >= 0 && l.seconds < 1e9 && l.instructions >= 0);
    if (!right) return MOCL_FAILED;
    h->seconds = l.seconds;
    h->instructions = l.instructions;
    h->account.limit = l.bytes;
    h->limited = l.seconds > 0 || l.instructions > 0 || l.bytes > 0;
    return MOCL_DONE;
}

size_t mocl_memory(const mocl_ctx *ctx) { return ((const moclL_host *)ctx->host)->account.used; }

int mocl_exit_status(const mocl_ctx *ctx) { return ((const moclL_host *)ctx->host)->exit_status; }
