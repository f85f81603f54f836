/* state.c - the embedding API of mocl.h, and luaopen_mocl for a stock Lua.
**
** Every function that may raise runs inside a protected call; its error becomes text in the host.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coroutine.h"
#include "errors.h"
#include "interrupt.h"
#include "mocl.h"
#include "modules.h"

static const char string_key = 's'; /* registry: what mocl_get_string returned last */

const char *mocl_version(void) { return MOCL_VERSION; }

/* ---- opening and closing ----------------------------------------------------------------------- */

static int open_state(lua_State *L) {
    const mocl_options *o = lua_touserdata(L, 1);
    if (o->ignore_env) { /* luaL_openlibs looks for this name */
        lua_pushboolean(L, 1);
        lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    }
    luaL_openlibs(L);
    moclL_open_errors(L);
    moclL_openctx(L, o->n_threads);
    moclL_host *h = moclL_host_of(L);
    h->ctx = moclL_ctx(L);
    h->ctx->host = h;
    atomic_store(&h->running[0], L);
    atomic_store(&h->n_running, 1);
    moclL_open_coroutines(L);
    moclL_openmodules(L);
    const char *stress = o->ignore_env ? NULL : getenv("MOCL_GC_STRESS");
    h->stress = stress ? strtol(stress, NULL, 10) : 0;
    if (h->stress < 0 || h->stress > 1000000) h->stress = 0;
    return 0;
}

static void close_host(moclL_host *h) {
    if (h->L) lua_close(h->L); /* frees the context too */
    free(h->error);
    free(h);
}

/* Another library of the process may bring a Lua of its own whose functions go before ours. Calls nothing whose meaning has
** changed between the versions. */
static int check_core(lua_State *L) {
    luaL_checkversion(L);
    return 0;
}

static void give_reason(const mocl_options *o, const char *reason) {
    if (o->error && o->error_bytes) snprintf(o->error, o->error_bytes, "%s", reason ? reason : "not enough memory");
}

/* Do two functions of Lua come from one library? Lua 5.1 has luaL_newstate and no lua_pcallk. */
static bool one_library(void (*a)(void), void (*b)(void)) {
    Dl_info of_a, of_b;
    return !dladdr(*(void **)&a, &of_a) || !dladdr(*(void **)&b, &of_b) || of_a.dli_fbase == of_b.dli_fbase;
}

static lua_State *new_state(const mocl_options *o) {
    if (!one_library((void (*)(void))luaL_newstate, (void (*)(void))lua_pcallk)) {
        give_reason(o, "two versions of Lua are in this process, and one that is not 5.4 goes before the other; load the library "
                       "that brings it without RTLD_GLOBAL");
        return NULL;
    }
    lua_State *L = luaL_newstate();
    if (!L) {
        give_reason(o, NULL);
        return NULL;
    }
    lua_pushcclosure(L, check_core, 0);
    if (!lua_pcallk(L, 0, 0, 0, 0, NULL)) return L;
    char reason[256];
    snprintf(reason, sizeof reason, "the Lua in this process is not the one mocl was built with, Lua 5.4 (%s); load the library "
             "that brings it without RTLD_GLOBAL", lua_tolstring(L, -1, NULL));
    give_reason(o, reason);
    lua_close(L);
    return NULL;
}

mocl_ctx *mocl_open(const mocl_options *opts) {
    mocl_options o = {0};
    if (opts) {
        if (opts->size < sizeof opts->size) return NULL;
        memcpy(&o, opts, opts->size < sizeof o ? opts->size : sizeof o);
    }
    if (o.error && o.error_bytes) o.error[0] = '\0';
    moclL_host *h = calloc(1, sizeof *h);
    if (!h) {
        give_reason(&o, NULL);
        return NULL;
    }
    h->pid = getpid();
    h->L = new_state(&o);
    if (!h->L) {
        free(h);
        return NULL;
    }
    /* luaL_newstate allocates with realloc and free, as ours does, so it can be replaced now */
    lua_setallocf(h->L, moclL_realloc, h);
    *(moclL_host **)lua_getextraspace(h->L) = h;
    lua_pushcfunction(h->L, open_state);
    lua_pushlightuserdata(h->L, &o);
    if (lua_pcall(h->L, 1, 0, 0)) {
        give_reason(&o, lua_tostring(h->L, -1));
        close_host(h);
        return NULL;
    }
    return h->ctx;
}

void mocl_close(mocl_ctx *ctx) {
    if (!ctx) return;
    moclL_host *h = ctx->host;
    moclL_end_interrupt(h->L);
    close_host(h);
}

lua_State *mocl_lua(mocl_ctx *ctx) { return ((moclL_host *)ctx->host)->L; }

/* ---- running ------------------------------------------------------------------------------------ */

const char *mocl_error(mocl_ctx *ctx) {
    moclL_host *h = ctx->host;
    return h->short_error[0] ? h->short_error : h->error ? h->error : "";
}

/* Ends a call into the state: keeps the message on top if it failed, and empties the stack down to
** `top`. */
static int end_call(moclL_host *h, int status, int top) {
    lua_State *L = h->L;
    int result = MOCL_DONE;
    if (status) {
        char buf[MOCLL_ERROR_BYTES];
        const char *text = moclL_errortext(L, buf);
        if (!text) text = "unknown failure";
        size_t bytes = strlen(text) + 1;
        char *copy = realloc(h->error, bytes);
        h->short_error[0] = '\0';
        if (copy)
            memcpy(copy, text, bytes), h->error = copy;
        else
            snprintf(h->short_error, sizeof h->short_error, "%s", text);
        result = h->interrupted ? MOCL_INTERRUPTED : MOCL_FAILED;
    }
    lua_settop(L, top);
    moclL_end_interrupt(L);
    return result;
}

int mocl_dostring(mocl_ctx *ctx, const char *code, const char *chunkname) {
    moclL_host *h = ctx->host;
    if (!code) code = ""; /* nothing to run */
    int top = lua_gettop(h->L);
    h->interrupted = false;
    int status = luaL_loadbuffer(h->L, code, strlen(code), chunkname ? chunkname : code);
    if (!status) status = moclL_call(h->L, 0, 0);
    return end_call(h, status, top);
}

/* luaL_loadfile allocates before it is protected, so it runs under protection as a whole */
static int load_file(lua_State *L) {
    if (luaL_loadfile(L, lua_touserdata(L, 1))) return lua_error(L);
    return 1;
}

int mocl_dofile(mocl_ctx *ctx, const char *path) {
    moclL_host *h = ctx->host;
    int top = lua_gettop(h->L);
    h->interrupted = false;
    lua_pushcfunction(h->L, load_file);
    lua_pushlightuserdata(h->L, (void *)path);
    int status = lua_pcall(h->L, 1, 1, 0);
    /* no message handler here, whose traceback says nothing of a file that is not read: so it is asked now */
    if (status && lua_type(h->L, -1) == LUA_TSTRING) h->interrupted = moclL_is_interruption(lua_tostring(h->L, -1));
    if (!status) status = moclL_call(h->L, 0, 0);
    return end_call(h, status, top);
}

/* ---- globals and calls: each is a request that a C function carries out under protection -------- */

typedef struct request {
    const char *name;
    double number;
    const char *string;
    const double *args;
    double *results;
    int n_args, n_results;
} request;

static int run_request(mocl_ctx *ctx, lua_CFunction f, request *r) {
    moclL_host *h = ctx->host;
    int top = lua_gettop(h->L);
    lua_pushcfunction(h->L, f);
    lua_pushlightuserdata(h->L, r);
    return end_call(h, moclL_call(h->L, 1, 0), top);
}

/* is the value on top of the stack a table, or an object that acts as one? */
static bool holds_fields(lua_State *L) {
    if (lua_istable(L, -1)) return true;
    if (lua_isstring(L, -1) || luaL_getmetafield(L, -1, "__index") == LUA_TNIL) return false;
    lua_pop(L, 1);
    return true;
}

/* "a.b.c": pushes the table a.b and returns "c" */
static const char *push_container(lua_State *L, const char *path) {
    const char *name = path;
    if (!path) luaL_error(L, "the name is NULL");
    lua_pushglobaltable(L);
    for (const char *dot; (dot = strchr(name, '.')) != NULL; name = dot + 1) {
        lua_pushlstring(L, name, (size_t)(dot - name));
        lua_gettable(L, -2);
        lua_remove(L, -2);
        if (holds_fields(L)) continue;
        const char *type = luaL_typename(L, -1), *article = lua_isnil(L, -1) ? "" : "a ";
        luaL_error(L, "'%s' is %s%s, not a table", lua_pushlstring(L, path, (size_t)(dot - path)), article, type);
    }
    return name;
}

static int push_value(lua_State *L, const char *name) {
    const char *key = push_container(L, name);
    int type = lua_getfield(L, -1, key);
    lua_remove(L, -2);
    return type;
}

static int set_number(lua_State *L) {
    const request *r = lua_touserdata(L, 1);
    const char *key = push_container(L, r->name);
    lua_pushnumber(L, r->number);
    lua_setfield(L, -2, key);
    return 0;
}

static int set_string(lua_State *L) {
    const request *r = lua_touserdata(L, 1);
    const char *key = push_container(L, r->name);
    lua_pushstring(L, r->string);
    lua_setfield(L, -2, key);
    return 0;
}

static int get_number(lua_State *L) {
    request *r = lua_touserdata(L, 1);
    if (push_value(L, r->name) != LUA_TNUMBER)
        return luaL_error(L, "'%s' is a %s, not a number", r->name, luaL_typename(L, -1));
    r->number = lua_tonumber(L, -1);
    return 0;
}

static int get_string(lua_State *L) {
    request *r = lua_touserdata(L, 1);
    int type = push_value(L, r->name);
    if (type != LUA_TSTRING && type != LUA_TNUMBER)
        return luaL_error(L, "'%s' is a %s, not a string", r->name, luaL_typename(L, -1));
    r->string = lua_tostring(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &string_key);
    return 0;
}

static int call_function(lua_State *L) {
    request *r = lua_touserdata(L, 1);
    if (r->n_args < 0 || r->n_results < 0) return luaL_error(L, "mocl_call: %d arguments and %d results", r->n_args, r->n_results);
    if (r->n_args && !r->args) return luaL_error(L, "mocl_call: %d arguments, but args is NULL", r->n_args);
    if (r->n_results && !r->results) return luaL_error(L, "mocl_call: %d results, but results is NULL", r->n_results);
    luaL_checkstack(L, r->n_args, "too many arguments");
    luaL_checkstack(L, r->n_results, "too many results");
    push_value(L, r->name);
    if (!moclL_iscallable(L, -1))
        return luaL_error(L, "'%s' is %s%s, not a function", r->name, lua_isnil(L, -1) ? "" : "a ", luaL_typename(L, -1));
    for (int i = 0; i < r->n_args; i++) lua_pushnumber(L, r->args[i]);
    lua_call(L, r->n_args, r->n_results);
    for (int i = 0; i < r->n_results; i++) {
        int idx = i - r->n_results;
        if (lua_type(L, idx) != LUA_TNUMBER)
            return luaL_error(L, "result %d of '%s' is a %s, not a number", i + 1, r->name,
                              luaL_typename(L, idx));
        r->results[i] = lua_tonumber(L, idx);
    }
    return 0;
}

int mocl_set_number(mocl_ctx *ctx, const char *name, double value) {
    return run_request(ctx, set_number, &(request){.name = name, .number = value});
}

int mocl_get_number(mocl_ctx *ctx, const char *name, double *value) {
    request r = {.name = name};
    int result = run_request(ctx, get_number, &r);
    if (result == MOCL_DONE && value) *value = r.number;
    return result;
}

int mocl_set_string(mocl_ctx *ctx, const char *name, const char *value) {
    return run_request(ctx, set_string, &(request){.name = name, .string = value});
}

const char *mocl_get_string(mocl_ctx *ctx, const char *name) {
    request r = {.name = name};
    return run_request(ctx, get_string, &r) == MOCL_DONE ? r.string : NULL;
}

int mocl_call(mocl_ctx *ctx, const char *name, const double *args, int n_args, double *results,
              int n_results) {
    return run_request(ctx, call_function,
                       &(request){.name = name, .args = args, .n_args = n_args,
                                  .results = results, .n_results = n_results});
}

/* ---- the module for a stock Lua ----------------------------------------------------------------- */

/* args: module name, file name; returns the table of stdlib/mocl/init.lua */
int luaopen_mocl(lua_State *L) { return moclL_openmodule(L, "mocl"); }
