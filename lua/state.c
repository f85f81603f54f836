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
#include "device.h"
#include "errors.h"
#include "interrupt.h"
#include "log.h"
#include "mocl.h"
#include "modules.h"
#include "sandbox.h"
#include "stop.h"
#include "values.h"

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
    h->ctx->account = &h->account;
    atomic_store(&h->running[0], L);
    atomic_store(&h->n_running, 1);
    moclL_open_coroutines(L);
    moclL_openmodules(L);
    moclL_open_exit(L);
    moclL_open_log(L);
    moclL_select_libraries(L, o->libraries);
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

/* With the host's allocator from the first byte on. Without one luaL_newstate's allocates with realloc and free, as ours does
** then, so that ours can take over. */
static lua_State *make_state(moclL_host *h) {
    if (h->account.alloc) return lua_newstate(moclL_realloc, h);
    lua_State *L = luaL_newstate();
    if (L) h->account.used = (size_t)lua_gc(L, LUA_GCCOUNT) * 1024 + (size_t)lua_gc(L, LUA_GCCOUNTB);
    if (L) lua_setallocf(L, moclL_realloc, h);
    return L;
}

static lua_State *new_state(const mocl_options *o, moclL_host *h) {
    if (!one_library((void (*)(void))luaL_newstate, (void (*)(void))lua_pcallk)) {
        give_reason(o, "two versions of Lua are in this process, and one that is not 5.4 goes before the other; load the library "
                       "that brings it without RTLD_GLOBAL");
        return NULL;
    }
    lua_State *L = make_state(h);
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
    h->account.alloc = o.alloc;
    h->account.data = o.alloc_data;
    h->log = o.log;
    h->log_data = o.log_data;
    h->L = new_state(&o, h);
    if (!h->L) {
        free(h);
        return NULL;
    }
    *(moclL_host **)lua_getextraspace(h->L) = h;
    if (h->account.alloc) moclL_open_warnings(h);
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

/* What the run has left, so that the next one does not begin at the limit. An object with a finalizer goes in the second
** collection. */
static void free_memory(moclL_host *h) {
    lua_gc(h->L, LUA_GCCOLLECT, 0);
    lua_gc(h->L, LUA_GCCOLLECT, 0);
    for (int i = 0; i < MOCL_DEVICE_COUNT; i++)
        if (h->ctx->device[i]) mocl_device_flush(h->ctx->device[i]);
}

static int result_of(moclL_stop_reason stop) {
    return stop == MOCLL_STOP_EXIT ? MOCL_EXITED : stop == MOCLL_STOP_INTERRUPT ? MOCL_INTERRUPTED : MOCL_LIMITED;
}

/* Ends a call into the state: keeps the message on top if it failed, and empties the stack down to
** `top`. */
static int end_call(moclL_host *h, lua_State *L, int status, int top) {
    int result = MOCL_DONE;
    /* between the refusal and here a larger allocation may have succeeded: what the script held has become garbage */
    if (status == LUA_ERRMEM && h->refused_by_limit && !h->account.refused) h->account.refused = h->refused;
    moclL_stop_reason stop = moclL_end_run(h, status != LUA_OK);
    if (status || stop) {
        char buf[MOCLL_ERROR_BYTES];
        const char *text = stop ? h->stop_text : moclL_errortext(L, buf);
        if (!text) text = "unknown failure";
        size_t bytes = strlen(text) + 1;
        char *copy = realloc(h->error, bytes);
        h->short_error[0] = '\0';
        if (copy)
            memcpy(copy, text, bytes), h->error = copy;
        else
            snprintf(h->short_error, sizeof h->short_error, "%.*s", (int)sizeof h->short_error - 1, text);
        result = stop ? result_of(stop) : h->interrupted ? MOCL_INTERRUPTED : MOCL_FAILED;
    }
    lua_settop(L, top);
    if (!h->runs) moclL_end_interrupt(L);
    if (!h->runs && stop == MOCLL_STOP_MEMORY) free_memory(h);
    return result;
}

/* Begins a call into the state: the thread that runs, which is another one than the main thread where a function of the host
** calls back. */
static lua_State *begin_call(mocl_ctx *ctx) {
    moclL_host *h = ctx->host;
    int n = atomic_load(&h->n_running);
    lua_State *L = n <= MOCLL_MAX_RUNNING ? atomic_load(&h->running[n - 1]) : h->L;
    lua_checkstack(L, LUA_MINSTACK);
    h->interrupted = false;
    moclL_begin_run(h);
    return L;
}

int mocl_dostring(mocl_ctx *ctx, const char *code, const char *chunkname) {
    moclL_host *h = ctx->host;
    if (!code) code = ""; /* nothing to run */
    lua_State *L = begin_call(ctx);
    int top = lua_gettop(L);
    int status = luaL_loadbufferx(L, code, strlen(code), chunkname ? chunkname : code, h->selected ? "t" : NULL);
    if (!status) status = moclL_call(L, 0, 0);
    return end_call(h, L, status, top);
}

/* luaL_loadfile allocates before it is protected, so it runs under protection as a whole */
static int load_file(lua_State *L) {
    if (luaL_loadfilex(L, lua_touserdata(L, 1), moclL_host_of(L)->selected ? "t" : NULL)) return lua_error(L);
    return 1;
}

int mocl_dofile(mocl_ctx *ctx, const char *path) {
    moclL_host *h = ctx->host;
    lua_State *L = begin_call(ctx);
    int top = lua_gettop(L);
    lua_pushcfunction(L, load_file);
    lua_pushlightuserdata(L, (void *)path);
    int status = lua_pcall(L, 1, 1, 0);
    /* no message handler here, whose traceback says nothing of a file that is not read: so it is asked now */
    if (status && lua_type(L, -1) == LUA_TSTRING) h->interrupted = moclL_is_interruption(lua_tostring(L, -1));
    if (!status) status = moclL_call(L, 0, 0);
    return end_call(h, L, status, top);
}

/* ---- globals and calls: each is a request that a C function carries out under protection -------- */

typedef struct request {
    const char *name;
    double number;
    const char *string;
    const double *args;
    double *results;
    int n_args, n_results;
    const mocl_value *values;
    mocl_value *out;
    mocl_function *function;
    void *data;
} request;

static int run_request(mocl_ctx *ctx, lua_CFunction f, request *r) {
    moclL_host *h = ctx->host;
    lua_State *L = begin_call(ctx);
    int top = lua_gettop(L);
    lua_pushcfunction(L, f);
    lua_pushlightuserdata(L, r);
    return end_call(h, L, moclL_call(L, 1, 0), top);
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

static void push_function(lua_State *L, const request *r, const char *f, bool has_args, bool has_results) {
    if (r->n_args < 0 || r->n_results < 0) luaL_error(L, "%s: %d arguments and %d results", f, r->n_args, r->n_results);
    if (r->n_args && !has_args) luaL_error(L, "%s: %d arguments, but args is NULL", f, r->n_args);
    if (r->n_results && !has_results) luaL_error(L, "%s: %d results, but results is NULL", f, r->n_results);
    luaL_checkstack(L, r->n_args, "too many arguments");
    luaL_checkstack(L, r->n_results, "too many results");
    push_value(L, r->name);
    if (!moclL_iscallable(L, -1))
        luaL_error(L, "'%s' is %s%s, not a function", r->name, lua_isnil(L, -1) ? "" : "a ", luaL_typename(L, -1));
}

static int call_function(lua_State *L) {
    request *r = lua_touserdata(L, 1);
    push_function(L, r, "mocl_call", r->args, r->results);
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

static int call_with_values(lua_State *L) {
    request *r = lua_touserdata(L, 1);
    push_function(L, r, "mocl_call_values", r->values, r->out);
    for (int i = 0; i < r->n_args; i++) moclL_push_value(L, &r->values[i]);
    lua_call(L, r->n_args, r->n_results);
    moclL_take_values(L, r->out, r->n_results);
    return 0;
}

static int get_value(lua_State *L) {
    request *r = lua_touserdata(L, 1);
    push_value(L, r->name);
    moclL_take_values(L, r->out, 1);
    return 0;
}

static int set_value(lua_State *L) {
    const request *r = lua_touserdata(L, 1);
    const char *key = push_container(L, r->name);
    if (!r->values) return luaL_error(L, "the value is NULL");
    moclL_push_value(L, r->values);
    lua_setfield(L, -2, key);
    return 0;
}

static int set_function(lua_State *L) {
    const request *r = lua_touserdata(L, 1);
    const char *key = push_container(L, r->name);
    if (!r->function) return luaL_error(L, "the function is NULL");
    moclL_push_host_function(L, r->function, r->data);
    lua_setfield(L, -2, key);
    return 0;
}

int mocl_call_values(mocl_ctx *ctx, const char *name, const mocl_value *args, int n_args, mocl_value *results, int n_results) {
    return run_request(ctx, call_with_values,
                       &(request){.name = name, .values = args, .n_args = n_args, .out = results, .n_results = n_results});
}

int mocl_get_value(mocl_ctx *ctx, const char *name, mocl_value *value) {
    mocl_value v = {0};
    int result = run_request(ctx, get_value, &(request){.name = name, .out = &v});
    if (result == MOCL_DONE && value) *value = v;
    return result;
}

int mocl_set_value(mocl_ctx *ctx, const char *name, const mocl_value *value) {
    return run_request(ctx, set_value, &(request){.name = name, .values = value});
}

int mocl_set_function(mocl_ctx *ctx, const char *name, mocl_function *f, void *data) {
    return run_request(ctx, set_function, &(request){.name = name, .function = f, .data = data});
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
