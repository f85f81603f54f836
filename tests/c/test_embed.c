/* test_embed.c - the embedding API: errors, values, interruption from outside, limits, sandboxes, two contexts */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mocl.h"

static int passed, failed;

static void check(int ok, const char *what, int line) {
    if (ok) {
        passed++;
    } else {
        failed++;
        printf("FAIL test_embed.c:%d: %s\n", line, what);
    }
}
#define CHECK(x) check((x) != 0, #x, __LINE__)

static void pause_ms(int ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

static void test_values(void) {
    mocl_ctx *ctx = mocl_open(NULL);
    double x = 0, out[2] = {0, 0};
    CHECK(ctx != NULL);
    CHECK(strcmp(mocl_error(ctx), "") == 0);
    CHECK(strcmp(mocl_version(), MOCL_VERSION) == 0);
    CHECK(mocl_dostring(ctx, "assert(require('mocl')._VERSION == '" MOCL_VERSION "')", "=t") ==
          MOCL_DONE);
    CHECK(mocl_dostring(ctx, "config = {lr = 0.5, name = 'a'} function f(a, b) return a + b, a * b end",
                        "=t") == MOCL_DONE);
    CHECK(mocl_get_number(ctx, "config.lr", &x) == MOCL_DONE && x == 0.5);
    CHECK(mocl_set_number(ctx, "config.lr", 0.25) == MOCL_DONE);
    CHECK(mocl_get_number(ctx, "config.lr", &x) == MOCL_DONE && x == 0.25);
    CHECK(mocl_set_string(ctx, "config.name", "b") == MOCL_DONE);
    CHECK(strcmp(mocl_get_string(ctx, "config.name"), "b") == 0);
    CHECK(mocl_call(ctx, "f", (double[]){3, 4}, 2, out, 2) == MOCL_DONE && out[0] == 7 && out[1] == 12);

    x = 42;
    CHECK(mocl_get_number(ctx, "nothing", &x) == MOCL_FAILED && x == 42);
    CHECK(strstr(mocl_error(ctx), "'nothing' is a nil, not a number") != NULL);
    CHECK(mocl_get_number(ctx, "no.such.table", &x) == MOCL_FAILED);
    CHECK(strstr(mocl_error(ctx), "'no' is nil, not a table") != NULL);
    CHECK(mocl_get_string(ctx, "config") == NULL);
    CHECK(mocl_call(ctx, "f", (double[]){3, 4}, 2, (double[3]){0}, 3) == MOCL_FAILED);
    CHECK(strstr(mocl_error(ctx), "result 3 of 'f' is a nil, not a number") != NULL);
    mocl_close(ctx);
    mocl_close(NULL);
}

/* what a name or an argument does not stand for */
static void test_names(void) {
    mocl_ctx *ctx = mocl_open(NULL);
    double one[1] = {1};
    CHECK(mocl_dostring(ctx, "t = {u = {n = 1}} c = setmetatable({}, {__call = function(_, x) return x + 1 end}) s = 'x' "
                             "function t.u.f() error{code = 2} end", "=t") == MOCL_DONE);
    const struct {
        const char *name, *message;
    } calls[] = {{"nope", "'nope' is nil, not a function"},
                 {"t.u.nope", "'t.u.nope' is nil, not a function"},
                 {"t.u.n", "'t.u.n' is a number, not a function"},
                 {"t.u", "'t.u' is a table, not a function"},
                 {"t.v.w", "'t.v' is nil, not a table"},
                 {"t.u.n.x", "'t.u.n' is a number, not a table"},
                 {"s.rep", "'s' is a string, not a table"},
                 {"", "'' is nil, not a function"},
                 {NULL, "the name is NULL"}};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        CHECK(mocl_call(ctx, calls[i].name, NULL, 0, NULL, 0) == MOCL_FAILED);
        CHECK(strcmp(mocl_error(ctx), calls[i].message) == 0);
    }
    CHECK(mocl_call(ctx, "c", one, 1, one, 1) == MOCL_DONE && one[0] == 2);
    CHECK(mocl_call(ctx, "c", NULL, 1, one, 1) == MOCL_FAILED);
    CHECK(strcmp(mocl_error(ctx), "mocl_call: 1 arguments, but args is NULL") == 0);
    CHECK(mocl_call(ctx, "c", one, 1, NULL, 1) == MOCL_FAILED);
    CHECK(strcmp(mocl_error(ctx), "mocl_call: 1 results, but results is NULL") == 0);
    CHECK(mocl_call(ctx, "c", one, -1, NULL, 0) == MOCL_FAILED);
    CHECK(strcmp(mocl_error(ctx), "mocl_call: -1 arguments and 0 results") == 0);
    CHECK(mocl_set_number(ctx, "s.x", 1) == MOCL_FAILED);
    CHECK(strcmp(mocl_error(ctx), "'s' is a string, not a table") == 0);
    CHECK(mocl_set_string(ctx, NULL, "x") == MOCL_FAILED);
    CHECK(mocl_get_string(ctx, NULL) == NULL);
    CHECK(mocl_get_number(ctx, "t.u.n", NULL) == MOCL_DONE);
    CHECK(mocl_dostring(ctx, NULL, NULL) == MOCL_DONE);
    CHECK(mocl_call(ctx, "t.u.f", NULL, 0, NULL, 0) == MOCL_FAILED);
    CHECK(strstr(mocl_error(ctx), "(error object is a table value): code = 2\nstack traceback:\n") == mocl_error(ctx));
    CHECK(strstr(mocl_error(ctx), "t:1: in function ") != NULL);
    mocl_close(ctx);
}

static void test_errors(void) {
    mocl_ctx *ctx = mocl_open(NULL);
    CHECK(mocl_dostring(ctx, "x = = 1", "=code") == MOCL_FAILED);
    CHECK(strstr(mocl_error(ctx), "code:1: unexpected symbol near '='") != NULL);
    CHECK(mocl_dostring(ctx, "local function g() error('bang') end g()", "=code") == MOCL_FAILED);
    CHECK(strstr(mocl_error(ctx), "code:1: bang\nstack traceback:") != NULL);
    CHECK(mocl_dostring(ctx, "error(setmetatable({}, {__tostring = function() return 'own' end}))",
                        NULL) == MOCL_FAILED);
    CHECK(strstr(mocl_error(ctx), "own\nstack traceback:\n") == mocl_error(ctx));
    CHECK(mocl_dostring(ctx, "error()", NULL) == MOCL_FAILED);
    CHECK(strstr(mocl_error(ctx), "(error object is a nil value)") != NULL);
    CHECK(mocl_dofile(ctx, "no/such/file.lua") == MOCL_FAILED);
    CHECK(strstr(mocl_error(ctx), "no/such/file.lua") != NULL);
    CHECK(mocl_dostring(ctx, "local t = setmetatable({}, {__close = function() closed = 1 end}) "
                             "local c <close> = t error('x')", NULL) == MOCL_FAILED);
    double closed = 0;
    CHECK(mocl_get_number(ctx, "closed", &closed) == MOCL_DONE && closed == 1);
    mocl_close(ctx); /* after failures */

    ctx = mocl_open(NULL);
    CHECK(mocl_dostring(ctx, "error('left as it is')", NULL) == MOCL_FAILED);
    mocl_close(ctx);
}

static void test_options(void) {
    mocl_options o = {.size = sizeof o, .n_threads = 3, .ignore_env = 1};
    double n = 0;
    mocl_ctx *ctx = mocl_open(&o);
    CHECK(mocl_dostring(ctx, "n = require('mocl.sys').env().threads", NULL) == MOCL_DONE);
    CHECK(mocl_get_number(ctx, "n", &n) == MOCL_DONE && n == 3);
    mocl_close(ctx);
    o.size = sizeof o.size; /* a caller that knows no field but the size */
    ctx = mocl_open(&o);
    CHECK(ctx != NULL);
    mocl_close(ctx);
    o.size = 0;
    CHECK(mocl_open(&o) == NULL);
}

/* ---- interruption ------------------------------------------------------------------------------- */

typedef struct stopper {
    mocl_ctx *ctx;
    int pipe[2]; /* the code writes a byte to the second one when it may be stopped */
} stopper;

static void *stop_when_told(void *arg) {
    stopper *s = arg;
    char byte;
    if (read(s->pipe[0], &byte, 1) == 1) pause_ms(10); /* into the loop; one that arrives before it stops it too */
    mocl_interrupt(s->ctx);
    return NULL;
}

/* Runs code, in which go() tells that it may be stopped, and stops it. Both are chunk "loop": the message names it wherever
** the interruption falls. */
static int run_and_stop(mocl_ctx *ctx, const char *code) {
    pthread_t thread;
    stopper s = {.ctx = ctx};
    char name[32];
    if (pipe(s.pipe) != 0) return MOCL_FAILED;
    snprintf(name, sizeof name, "/dev/fd/%d", s.pipe[1]);
    mocl_dostring(ctx, "function go() local f = assert(io.open(told, 'w')) f:write('.') f:close() end told = ''", "=loop");
    mocl_set_string(ctx, "told", name);
    pthread_create(&thread, NULL, stop_when_told, &s);
    int result = mocl_dostring(ctx, code, "=loop");
    close(s.pipe[1]); /* ends the wait for code that never told */
    pthread_join(thread, NULL);
    close(s.pipe[0]);
    return result;
}

static void test_interrupt(void) {
    static const char *const loops[] = {
        "go() while true do end",
        "coroutine.wrap(function() go() while true do end end)()",
        "local co = coroutine.create(function() go() while true do end end) "
        "local ok, e = coroutine.resume(co) error(e, 0)",
        "local function nest(n) if n == 0 then go() while true do end end "
        "  coroutine.wrap(nest)(n - 1) end nest(20)",
        "go() while true do coroutine.wrap(function() coroutine.yield({}) end)() end",
        "local t = setmetatable({}, {__close = function() go() while true do end end}) "
        "local co = coroutine.create(function() local c <close> = t coroutine.yield() end) "
        "coroutine.resume(co) local ok, e = coroutine.close(co) error(e, 0)",
        "go() local t = {} while true do t[#t % 1000 + 1] = {tostring(#t)} end",
        "go() local s = ('a'):rep(100) while true do s:gsub('.', '%0') end",
        "table.sort({1, 2, 3}, function() go() while true do end end)"};
    mocl_ctx *ctx = mocl_open(NULL);
    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
        int result = run_and_stop(ctx, loops[i]);
        CHECK(result == MOCL_INTERRUPTED);
        CHECK(strstr(mocl_error(ctx), "interrupted!") != NULL);
        if (result != MOCL_INTERRUPTED) printf("     it was: %s\n", loops[i]);
    }
    /* a script can catch it, once, and go on */
    CHECK(run_and_stop(ctx, "ok, message = pcall(function() go() while true do end end)") == MOCL_DONE);
    CHECK(strcmp(mocl_get_string(ctx, "message"), "loop:1: interrupted!") == 0);
    /* the state is usable: no hook is left, no interruption pending */
    CHECK(mocl_dostring(ctx, "assert(debug.gethook() == nil) for i = 1, 1000 do end", NULL) == MOCL_DONE);
    /* before a run: the run is stopped, the next one is not */
    mocl_interrupt(ctx);
    CHECK(mocl_dostring(ctx, "while true do end", NULL) == MOCL_INTERRUPTED);
    CHECK(mocl_dostring(ctx, "for i = 1, 1000 do end", NULL) == MOCL_DONE);
    mocl_close(ctx);
}

/* Interrupts arrive all the time while coroutines are made, run and collected. */
static atomic_int storm_over;

static void *storm(void *arg) {
    while (!atomic_load(&storm_over)) mocl_interrupt(arg);
    return NULL;
}

static void test_storm(void) {
    mocl_ctx *ctx = mocl_open(NULL);
    pthread_t thread;
    CHECK(mocl_dostring(ctx,
                        "function body(n)\n"
                        "  local t = {}\n"
                        "  for i = 1, 50 do t[i] = {i} end\n"
                        "  if n > 0 then coroutine.wrap(body)(n - 1) end\n"
                        "end\n"
                        "caught = 0\n"
                        "function work()\n"
                        "  for i = 1, 2000 do\n"
                        "    local ok = pcall(function() coroutine.wrap(body)(5) end)\n"
                        "    if not ok then caught = caught + 1 end\n"
                        "    if i % 100 == 0 then collectgarbage() end\n"
                        "  end\n"
                        "end",
                        "=storm") == MOCL_DONE);
    atomic_store(&storm_over, 0);
    pthread_create(&thread, NULL, storm, ctx);
    for (int i = 0; i < 20; i++) {
        int result = mocl_call(ctx, "work", NULL, 0, NULL, 0);
        if (result == MOCL_FAILED && !strstr(mocl_error(ctx), "interrupted!")) {
            CHECK(!"a failure that is no interruption");
            printf("     %s\n", mocl_error(ctx));
        }
    }
    atomic_store(&storm_over, 1);
    pthread_join(thread, NULL);
    mocl_dostring(ctx, "", NULL); /* may take the last interruption */
    CHECK(mocl_dostring(ctx, "collectgarbage() x = 1", NULL) == MOCL_DONE);
    mocl_close(ctx);
}

/* ---- two contexts in two threads ---------------------------------------------------------------- */

static void *sum_in_own_context(void *arg) {
    double *out = arg;
    mocl_ctx *ctx = mocl_open(&(mocl_options){.size = sizeof(mocl_options), .n_threads = 1});
    mocl_set_number(ctx, "from", out[0]);
    mocl_dostring(ctx,
                  "local s = 0 for i = from, from + 300000 do s = s + i % 7 end\n"
                  "local co = coroutine.wrap(function() for i = 1, 1000 do coroutine.yield(i) end end)\n"
                  "for i = 1, 1000 do s = s + co() end\n"
                  "sum = s",
                  "=sum");
    if (mocl_get_number(ctx, "sum", &out[1]) != MOCL_DONE) out[1] = -1;
    mocl_close(ctx);
    return NULL;
}

static void *loop_forever(void *arg) {
    return mocl_dostring(arg, "while true do end", "=loop") == MOCL_INTERRUPTED ? arg : NULL;
}

static void test_two_contexts(void) {
    double serial[2][2] = {{1, 0}, {1000, 0}}, parallel[2][2] = {{1, 0}, {1000, 0}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) sum_in_own_context(serial[i]);
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, sum_in_own_context, parallel[i]);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    CHECK(serial[0][1] > 0 && serial[0][1] == parallel[0][1]);
    CHECK(serial[1][1] > 0 && serial[1][1] == parallel[1][1]);

    /* globals are separate, and an interrupt reaches its own context only */
    mocl_ctx *a = mocl_open(NULL), *b = mocl_open(NULL);
    void *a_stopped = NULL, *b_stopped = NULL;
    double x = 0;
    mocl_set_number(a, "x", 1);
    CHECK(mocl_get_number(b, "x", &x) == MOCL_FAILED);
    pthread_create(&threads[0], NULL, loop_forever, a);
    pthread_create(&threads[1], NULL, loop_forever, b);
    pause_ms(30);
    mocl_interrupt(a);
    pthread_join(threads[0], &a_stopped);
    CHECK(a_stopped == a);
    pause_ms(30);
    CHECK(pthread_tryjoin_np(threads[1], &b_stopped) != 0); /* still running */
    mocl_interrupt(b);
    pthread_join(threads[1], &b_stopped);
    CHECK(b_stopped == b);
    mocl_close(a);
    mocl_close(b);
}

/* ---- values, and functions of the host ----------------------------------------------------------- */

static int lengths(void *data, const mocl_value *args, int n_args, mocl_value *result) {
    static double out[8];
    ++*(int *)data;
    if (n_args != 2 || args[1].type != MOCL_STRINGS || args[1].n > 8) {
        result->string = "lengths: prompts and at most 8 answers expected";
        return MOCL_FAILED;
    }
    for (size_t i = 0; i < args[1].n; i++) out[i] = (double)strlen(args[1].strings[i]);
    *result = (mocl_value){.type = MOCL_NUMBERS, .numbers = out, .n = args[1].n};
    return MOCL_DONE;
}

static int call_back(void *data, const mocl_value *args, int n_args, mocl_value *result) {
    double x = args[0].number;
    int status = mocl_call(data, "twice", &x, n_args, &x, 1);
    *result = (mocl_value){.type = MOCL_NUMBER, .number = x, .string = mocl_error(data)};
    return status;
}

static void test_host_values(void) {
    mocl_ctx *ctx = mocl_open(NULL);
    mocl_value r[7], args[] = {{.type = MOCL_STRING, .string = "a\0b", .n = 3},
                               {.type = MOCL_NUMBERS, .numbers = (double[]){1, 2.5}, .n = 2},
                               {.type = MOCL_STRINGS, .strings = (const char *[]){"x", "yz"}, .n = 2},
                               {.type = MOCL_BOOLEAN, .number = 1},
                               {.type = MOCL_NIL},
                               {.type = MOCL_NUMBER, .number = 7}};
    int calls = 0;
    CHECK(mocl_dostring(ctx, "function echo(...) return ... end function mixed() return {1, 'a'}, {}, print, nil end "
                             "function twice(x) return 2 * x end t = {}", "=t") == MOCL_DONE);
    CHECK(mocl_call_values(ctx, "echo", args, 6, r, 7) == MOCL_DONE);
    CHECK(r[0].type == MOCL_STRING && r[0].n == 3 && memcmp(r[0].string, "a\0b", 4) == 0);
    CHECK(r[1].type == MOCL_NUMBERS && r[1].n == 2 && r[1].numbers[0] == 1 && r[1].numbers[1] == 2.5);
    CHECK(r[2].type == MOCL_STRINGS && r[2].n == 2 && strcmp(r[2].strings[1], "yz") == 0);
    CHECK(r[3].type == MOCL_BOOLEAN && r[3].number == 1 && r[4].type == MOCL_NIL && r[5].number == 7 && r[6].type == MOCL_NIL);
    mocl_dostring(ctx, "collectgarbage() collectgarbage()", NULL); /* what results point to stays */
    CHECK(strcmp(r[2].strings[1], "yz") == 0 && r[1].numbers[1] == 2.5);
    CHECK(mocl_call_values(ctx, "mixed", NULL, 0, r, 4) == MOCL_DONE);
    CHECK(r[0].type == MOCL_OTHER && strcmp(r[0].string, "table") == 0 && r[1].type == MOCL_STRINGS && r[1].n == 0);
    CHECK(r[2].type == MOCL_OTHER && strcmp(r[2].string, "function") == 0);
    CHECK(mocl_call_values(ctx, "nope", NULL, 0, r, 1) == MOCL_FAILED && strcmp(mocl_error(ctx), "'nope' is nil, not a function") == 0);
    CHECK(mocl_call_values(ctx, "echo", &(mocl_value){.type = 99}, 1, r, 1) == MOCL_FAILED);
    CHECK(mocl_call_values(ctx, "echo", &(mocl_value){.type = MOCL_STRING}, 1, r, 1) == MOCL_FAILED);
    CHECK(mocl_call_values(ctx, "echo", &(mocl_value){.type = MOCL_NUMBERS, .n = 2}, 1, r, 1) == MOCL_FAILED);
    CHECK(mocl_set_value(ctx, "t.list", &args[1]) == MOCL_DONE && mocl_get_value(ctx, "t.list", &r[0]) == MOCL_DONE && r[0].n == 2);
    CHECK(mocl_set_value(ctx, "t.x", NULL) == MOCL_FAILED && mocl_set_function(ctx, "t.f", NULL, NULL) == MOCL_FAILED);

    CHECK(mocl_set_function(ctx, "t.lengths", lengths, &calls) == MOCL_DONE);
    CHECK(mocl_dostring(ctx, "local s = t.lengths({'p', 'q'}, {'abc', ''}) assert(s[1] == 3 and s[2] == 0)", "=t") == MOCL_DONE);
    CHECK(mocl_dostring(ctx, "t.lengths(1)", "=t") == MOCL_FAILED);
    CHECK(strstr(mocl_error(ctx), "t:1: lengths: prompts and at most 8 answers expected") == mocl_error(ctx) && calls == 2);
    CHECK(mocl_set_function(ctx, "back", call_back, ctx) == MOCL_DONE);
    CHECK(mocl_dostring(ctx, "assert(coroutine.wrap(function() return back(21) end)() == 42)", "=t") == MOCL_DONE);
    CHECK(mocl_dostring(ctx, "function twice() error('inside') end assert(not pcall(back, 1))", "=t") == MOCL_DONE);
    mocl_close(ctx);
}

/* ---- limits --------------------------------------------------------------------------------------- */

/* Scripts that do not want to end. What each catches must not save it. */
static const char *const stubborn[] = {
    "while true do end",
    "while true do pcall(function() while true do end end) end",
    "local function f() while true do pcall(f) end end f()",
    "while true do xpcall(function() while true do end end, function() while true do end end) end",
    "xpcall(function() error('x') end, function() while true do end end)",
    "xpcall(function() local x = nil + 1 end, function() return xpcall(error, function() while true do end end) end)",
    "while true do coroutine.wrap(function() pcall(function() while true do end end) while true do end end)() end",
    "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
    "while true do coroutine.wrap(function() end)() end",
    "local t = setmetatable({}, {__close = function() while true do end end}) do local c <close> = t error('x') end",
    "setmetatable(_G, {__index = function() while true do end end}) local x = nothing",
    "table.sort({1, 2, 3}, function() while true do end end)",
    "string.gsub(('a'):rep(100), '.', function() while true do end end)",
    "load(function() while true do end end)",
    "local tensor = require 'mocl.tensor' while true do pcall(tensor.zeros, {8}) end",
    "local function f() return pcall(f) end while true do f() end"};

static const char *const greedy[] = {
    "local t = {} while true do t[#t + 1] = {} end",
    "local s = 'x' while true do s = s .. s end",
    "while true do pcall(string.rep, 'x', 1 << 30) end",
    "local t = {} while true do pcall(function() t[#t + 1] = ('x'):rep(1000) .. #t end) end",
    "local tensor, t = require 'mocl.tensor', {} while true do t[#t + 1] = tensor.zeros {1000} end",
    "local tensor, t = require 'mocl.tensor', {} for i = 1, 1 << 30 do t[i] = tensor.zeros {1} end", /* an allocation after it succeeds */
    "local tensor, t = require 'mocl.tensor', {} while true do pcall(function() t[#t + 1] = tensor.zeros {1 << 20} end) end",
    "local metrics, p = require 'mocl.metrics', {} for i = 1, 1 << 30 do p[i] = {i, -i} end metrics.hypervolume(p, {0, 0})"};

static void check_stop(mocl_ctx *ctx, const char *code, const char *text) {
    int result = mocl_dostring(ctx, code, "=script");
    CHECK(result == MOCL_LIMITED);
    CHECK(strstr(mocl_error(ctx), text) != NULL);
    if (result != MOCL_LIMITED || !strstr(mocl_error(ctx), text)) printf("     it was: %s: %s\n", code, mocl_error(ctx));
    CHECK(mocl_dostring(ctx, "for i = 1, 100 do end", NULL) == MOCL_DONE); /* the next run has limits of its own */
}

static void test_limits(void) {
    mocl_options o = {.size = sizeof o, .n_threads = 1, .libraries = MOCL_SANDBOX};
    mocl_limits by_count = {.size = sizeof by_count, .instructions = 200000, .bytes = 64 << 20},
                by_time = {.size = sizeof by_time, .seconds = 0.02, .bytes = 64 << 20};
    mocl_ctx *ctx = mocl_open(&o);
    for (size_t i = 0; i < sizeof stubborn / sizeof *stubborn; i++) {
        CHECK(mocl_limit(ctx, &by_count) == MOCL_DONE);
        check_stop(ctx, stubborn[i], "stopped: the limit of 200000 instructions is reached");
        CHECK(mocl_limit(ctx, &by_time) == MOCL_DONE);
        check_stop(ctx, stubborn[i], "stopped: the limit of 0.02 s is reached");
        mocl_interrupt(ctx);
        CHECK(mocl_dostring(ctx, stubborn[i], "=script") == MOCL_INTERRUPTED && strstr(mocl_error(ctx), "interrupted!"));
    }
    CHECK(strncmp(mocl_error(ctx), "script:1: ", 10) == 0);
    by_count.instructions = 0;
    CHECK(mocl_limit(ctx, &by_count) == MOCL_DONE);
    for (size_t i = 0; i < sizeof greedy / sizeof *greedy; i++) {
        check_stop(ctx, greedy[i], "stopped: the limit of 67108864 bytes is reached");
        CHECK(mocl_memory(ctx) < 8 << 20); /* what it had is free again */
    }
    CHECK(mocl_dostring(ctx, "local t = {} for i = 1, 1000000 do t = {i} end", NULL) == MOCL_DONE); /* garbage is collected */
    CHECK(mocl_limit(ctx, NULL) == MOCL_DONE);
    CHECK(mocl_dostring(ctx, "for i = 1, 1000000 do end s = ('x'):rep(100 << 20) s = nil", NULL) == MOCL_DONE);
    CHECK(mocl_limit(ctx, &(mocl_limits){.size = sizeof(mocl_limits), .seconds = -1}) == MOCL_FAILED);
    CHECK(mocl_limit(ctx, &(mocl_limits){.size = 0}) == MOCL_FAILED);
    mocl_close(ctx);
}

static void test_exit(void) {
    mocl_ctx *ctx = mocl_open(NULL);
    CHECK(mocl_exit_status(ctx) == 0);
    CHECK(mocl_dostring(ctx, "while true do pcall(os.exit, 3) end", "=t") == MOCL_EXITED);
    CHECK(mocl_exit_status(ctx) == 3 && strcmp(mocl_error(ctx), "t:1: os.exit with status 3 has ended the script") == 0);
    CHECK(mocl_dostring(ctx, "coroutine.wrap(function() os.exit(false, true) end)() x = 1", "=t") == MOCL_EXITED);
    CHECK(mocl_exit_status(ctx) == 1 && mocl_dostring(ctx, "assert(not x)", NULL) == MOCL_DONE);
    mocl_close(ctx);
}

/* ---- libraries, memory and output of the host ------------------------------------------------------ */

static void test_libraries(void) {
    mocl_options o = {.size = sizeof o, .n_threads = 1, .libraries = MOCL_SANDBOX};
    mocl_ctx *ctx = mocl_open(&o);
    CHECK(mocl_dostring(ctx, "assert(not (io or debug or package or dofile or loadfile or string.dump or os.execute or os.getenv))\n"
                             "assert(os.time and os.clock and coroutine.wrap and utf8.char and math.sin)\n"
                             "local w = require('mocl.minnorm').solve{{1, 0}, {0, 1}} assert(math.abs(w[1] - .5) < 1e-6)\n"
                             "assert(not pcall(require, 'mocl.fs') and not pcall(require, 'mocl') and not pcall(require, 'x'))\n"
                             "assert(require 'mocl.tensor' == require 'mocl.tensor')", "=t") == MOCL_DONE);
    if (*mocl_error(ctx)) printf("     %s\n", mocl_error(ctx));
    CHECK(mocl_dostring(ctx, "assert(load('return 1')() == 1 and load('return x', 'n', 't', {x = 2})() == 2)\n"
                             "local f, e = load('\\27Lua') assert(not f and e:find('binary', 1, true))\n"
                             "f, e = load('\\27Lua', 'n', 'bt', {}) assert(not f and e:find('binary', 1, true))\n"
                             "assert(not pcall(load, 'x', 'n', 'b'))\n"
                             "local ok, e = pcall(setmetatable, {}, {__gc = print}) assert(not ok and e:find '__gc')\n"
                             "assert(collectgarbage 'count' > 0 and not pcall(collectgarbage, 'stop'))\n"
                             "local ok, e, x = xpcall(function(...) error({...}) end, function(e) return #e, 1 end, 1, 2, 3)\n"
                             "assert(not ok and e == 3)\n"
                             "local co = coroutine.wrap(function() return xpcall(function() coroutine.yield(1) return 2, 3 end, print) end)\n"
                             "assert(co() == 1) local ok, a, b = co() assert(ok and a == 2 and b == 3)", "=t") == MOCL_DONE);
    if (*mocl_error(ctx)) printf("     %s\n", mocl_error(ctx));
    CHECK(mocl_dostring(ctx, "\x1bLua", "=t") == MOCL_FAILED && strstr(mocl_error(ctx), "binary"));
    mocl_close(ctx);
    o.libraries = MOCL_LIB_BASE | MOCL_LIB_IO | MOCL_LIB_PACKAGE;
    ctx = mocl_open(&o);
    CHECK(mocl_dostring(ctx, "assert(io.open and package.path and dofile and not debug and not os.getenv) require 'mocl.fs'", "=t") == MOCL_DONE);
    mocl_close(ctx);
    o.libraries = MOCL_LIB_BASE;
    ctx = mocl_open(&o);
    CHECK(mocl_dostring(ctx, "require 'mocl.tensor'", "=t") == MOCL_FAILED && strstr(mocl_error(ctx), "is not among the libraries"));
    mocl_close(ctx);
}

typedef struct books {
    size_t live, calls;
    char out[512], err[512];
} books;

static void *counted(void *data, void *p, size_t old_bytes, size_t bytes) {
    books *b = data;
    b->calls++;
    b->live += bytes - (p ? old_bytes : 0);
    if (bytes) return realloc(p, bytes);
    free(p);
    return NULL;
}

static void noted(void *data, int where, const char *text, size_t n) {
    char *to = where == MOCL_LOG_OUT ? ((books *)data)->out : ((books *)data)->err;
    size_t have = strlen(to);
    if (have + n < sizeof ((books *)data)->out) memcpy(to + have, text, n + 1);
}

static void test_hooks(void) {
    books b = {0};
    mocl_options o = {.size = sizeof o, .n_threads = 1, .alloc = counted, .alloc_data = &b, .log = noted, .log_data = &b};
    mocl_ctx *ctx = mocl_open(&o);
    size_t at_first = b.live;
    CHECK(ctx != NULL && at_first == mocl_memory(ctx) && at_first > 10000);
    CHECK(mocl_dostring(ctx, "x = require('mocl.tensor').zeros{1 << 20}", NULL) == MOCL_DONE);
    CHECK(b.live >= at_first + (4 << 20) && b.live == mocl_memory(ctx));
    CHECK(mocl_dostring(ctx, "print('a', 1, nil) io.write('b', 2.5, '\\n') io.stdout:write('c\\n'):write('d\\n') io.stderr:write('e\\n') "
                             "warn('f', 'g') warn('@off') warn('h') io.output():write('i\\n') "
                             "local f = assert(io.tmpfile()) f:write('no') f:close()", "=t") == MOCL_DONE);
    if (*mocl_error(ctx)) printf("     %s\n", mocl_error(ctx));
    CHECK(strcmp(b.out, "a\t1\tnil\nb2.5\nc\nd\ni\n") == 0);
    CHECK(strcmp(b.err, "e\nLua warning: fg\n") == 0);
    mocl_close(ctx);
    CHECK(b.live == 0 && b.calls > 1000);
}

/* two sandboxes in two threads, stopped again and again */
static void *run_sandbox(void *arg) {
    mocl_options o = {.size = sizeof o, .n_threads = 1, .libraries = MOCL_SANDBOX};
    mocl_ctx *ctx = mocl_open(&o);
    int *stopped = arg;
    mocl_limit(ctx, &(mocl_limits){.size = sizeof(mocl_limits), .instructions = 20000, .bytes = 32 << 20});
    for (int i = 0; i < 20; i++)
        *stopped += mocl_dostring(ctx, i % 2 ? stubborn[1] : "local t = {} while true do t[#t + 1] = #t end", "=t") == MOCL_LIMITED;
    mocl_close(ctx);
    return NULL;
}

static void test_two_sandboxes(void) {
    int stopped[2] = {0, 0};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, run_sandbox, &stopped[i]);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    CHECK(stopped[0] == 20 && stopped[1] == 20);
}

int main(void) {
    test_values();
    test_errors();
    test_names();
    test_options();
    test_interrupt();
    test_storm();
    test_two_contexts();
    test_host_values();
    test_limits();
    test_exit();
    test_libraries();
    test_hooks();
    test_two_sandboxes();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
