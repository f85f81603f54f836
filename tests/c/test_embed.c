/* test_embed.c - the embedding API: errors, values, interruption from outside, two contexts */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
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

int main(void) {
    test_values();
    test_errors();
    test_names();
    test_options();
    test_interrupt();
    test_storm();
    test_two_contexts();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
