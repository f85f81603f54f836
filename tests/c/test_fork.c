/* test_fork.c - a host that forks: the child computes, ends in every way, and leaves the parent's run alone */
#define _GNU_SOURCE
#include <lauxlib.h>
#include <lua.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mocl.h"

#ifdef __SANITIZE_ADDRESS__
/* Leaks cannot be told in a child, which has the memory of threads that it does not have. */
const char *__asan_default_options(void);
__attribute__((visibility("default"))) const char *__asan_default_options(void) { return "detect_leaks=0"; }
#endif

static int passed, failed;

static void check(int ok, const char *what, int line) {
    if (ok) {
        passed++;
    } else {
        failed++;
        printf("FAIL test_fork.c:%d: %s\n", line, what);
    }
}
#define CHECK(x) check((x) != 0, #x, __LINE__)

enum { PATIENCE_S = 60 }; /* a child that hangs is ended by SIGALRM then */

static int l_fork(lua_State *L) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) alarm(PATIENCE_S);
    lua_pushinteger(L, pid);
    return 1;
}

static int l_wait(lua_State *L) {
    int status;
    waitpid((pid_t)luaL_checkinteger(L, 1), &status, 0);
    lua_pushinteger(L, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
    return 1;
}

static mocl_ctx *open_with_fork(void) {
    mocl_ctx *ctx = mocl_open(&(mocl_options){.size = sizeof(mocl_options), .n_threads = 3});
    CHECK(ctx != NULL);
    if (!ctx) exit(1);
    lua_register(mocl_lua(ctx), "fork", l_fork);
    lua_register(mocl_lua(ctx), "wait", l_wait);
    return ctx;
}

static double number(mocl_ctx *ctx, const char *name) {
    double v = -1;
    if (mocl_get_number(ctx, name, &v)) printf("%s\n", mocl_error(ctx));
    return v;
}

/* os.exit in a script ends its run; the host, which is a child here, ends itself */
static int or_exit(mocl_ctx *ctx, int status) {
    if (status != MOCL_EXITED) return status;
    int code = mocl_exit_status(ctx);
    mocl_close(ctx);
    exit(code);
}

static int run(mocl_ctx *ctx, const char *code) {
    int status = or_exit(ctx, mocl_dostring(ctx, code, "=test"));
    if (status == MOCL_FAILED) printf("%s\n", mocl_error(ctx));
    return status;
}

/* products of this size are cut among the threads */
#define PRODUCT \
    "local tensor, nn = require 'mocl.tensor', require 'mocl.nn.core' " \
    "local a = tensor.rand({ 300, 300 }, { seed = 1 }) " \
    "local function product() return nn.linear(a, a):sum():item() end "

/* a child that returns, one that fails and one that exits, each after a product of its own; then the child of a child */
static void test_ends(void) {
    mocl_ctx *ctx = open_with_fork();
    CHECK(run(ctx, PRODUCT "want = product() child = fork() "
                           "if child == 0 then right = product() == want and product() == want end") == MOCL_DONE);
    if (number(ctx, "child") == 0) {
        int right;
        lua_getglobal(mocl_lua(ctx), "right");
        right = lua_toboolean(mocl_lua(ctx), -1);
        mocl_close(ctx);
        _exit(right ? 7 : 8);
    }
    CHECK(run(ctx, "status = wait(child)") == MOCL_DONE);
    CHECK(number(ctx, "status") == 7);
    CHECK(run(ctx, PRODUCT "local c = fork() if c == 0 then os.exit(product() == want and 3 or 4, true) end status = wait(c)") ==
          MOCL_DONE);
    CHECK(number(ctx, "status") == 3);
    CHECK(run(ctx, PRODUCT "local c = fork() if c == 0 then local d = fork() if d == 0 then os.exit(product() == want, true) end "
                           "os.exit(wait(d) == 0 and product() == want and 5 or 6, true) end status = wait(c)") == MOCL_DONE);
    CHECK(number(ctx, "status") == 5);
    CHECK(run(ctx, PRODUCT "again = product() == want and 1 or 0") == MOCL_DONE);
    CHECK(number(ctx, "again") == 1);
    mocl_close(ctx);
}

#ifndef __SANITIZE_ADDRESS__
static atomic_bool over;

static void *compute(void *arg) {
    mocl_ctx *ctx = arg;
    while (!atomic_load(&over)) CHECK(run(ctx, PRODUCT "product() require 'mocl.json'.decode '[1, 2]'") == MOCL_DONE);
    return NULL;
}

/* the child closes the context of a thread that it does not have, and goes on with its own */
static void test_amid_a_product(void) {
    mocl_ctx *mine = open_with_fork(), *other = open_with_fork();
    pthread_t thread;
    int hung = 0, wrong = 0;
    CHECK(run(mine, PRODUCT "want = product()") == MOCL_DONE);
    atomic_store(&over, false);
    if (pthread_create(&thread, NULL, compute, other)) exit(1);
    for (int i = 0; i < 20; i++) {
        int status;
        usleep(1000 * (useconds_t)(i % 7));
        pid_t pid = fork();
        if (pid == 0) {
            alarm(PATIENCE_S);
            int bad = run(mine, PRODUCT "assert(product() == want) require 'mocl.json'.decode '[1]'");
            mocl_close(mine);
            _exit(bad);
        }
        waitpid(pid, &status, 0);
        hung += WIFSIGNALED(status);
        wrong += WIFEXITED(status) && WEXITSTATUS(status);
    }
    atomic_store(&over, true);
    pthread_join(thread, NULL);
    CHECK(hung == 0);
    CHECK(wrong == 0);
    mocl_close(mine);
    mocl_close(other);
}
#endif

/* the child neither takes the parent's lock away nor writes into its run */
static void test_run(void) {
    char dir[] = "/tmp/mocl_forkXXXXXX", command[128];
    if (!mkdtemp(dir)) exit(1);
    mocl_ctx *ctx = open_with_fork();
    mocl_set_string(ctx, "dir", dir);
    CHECK(run(ctx,
              "local Run, fs, config = require 'mocl.run', require 'mocl.fs', require 'mocl.run.config'\n"
              "local cfg, info = config.parse(config.common {}, { 'out=' .. dir .. '/run' }, { recipe = 'test' })\n"
              "run = Run.open { recipe = 'test', cfg = cfg, info = info, main = 'main' }\n"
              "run:stage('main', function(stage) stage:metrics { step = 1 }\n"
              "  local c = fork()\n"
              "  if c == 0 then\n"
              "    local ok, message = pcall(stage.metrics, stage, { step = 2 })\n"
              "    local held, why = pcall(stage.checkpoint, stage, 2, function() end, {})\n"
              "    run:close()\n"
              "    os.exit(not ok and not held and message:find 'forked' and why:find 'forked' and 9 or 10, true)\n"
              "  end\n"
              "  status = wait(c)\n"
              "  locked = fs.exists(dir .. '/run/lock') and 1 or 0\n"
              "  stage:metrics { step = 3 }\n"
              "end)\n"
              "run:close()\n"
              "_, lines = io.open(dir .. '/run/metrics.jsonl'):read('a'):gsub('\\n', '')") == MOCL_DONE);
    CHECK(number(ctx, "status") == 9);
    CHECK(number(ctx, "locked") == 1);
    CHECK(number(ctx, "lines") == 2);
    mocl_close(ctx);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    CHECK(system(command) == 0);
}

/* A child of a stage's function, and of a checkpoint's, that returns, fails or exits: the checkpoint, the stage and the
** run remain the parent's, who goes on with them. `end` is what the child does. */
static void test_inside(const char *end) {
    char dir[] = "/tmp/mocl_forkXXXXXX", command[128];
    if (!mkdtemp(dir)) exit(1);
    mocl_ctx *ctx = open_with_fork();
    mocl_set_string(ctx, "dir", dir);
    CHECK(run(ctx, "function ended(c) codes = (codes or '') .. wait(c) .. ' ' end") == MOCL_DONE);
    lua_getglobal(mocl_lua(ctx), "load");
    lua_pushfstring(mocl_lua(ctx), "is_child = true %s", end);
    lua_call(mocl_lua(ctx), 1, 1);
    lua_setglobal(mocl_lua(ctx), "leave");
    int status = mocl_dostring(
        ctx,
        "local Run, fs, config = require 'mocl.run', require 'mocl.fs', require 'mocl.run.config'\n"
        "local cfg, info = config.parse(config.common {}, { 'out=' .. dir .. '/run' }, { recipe = 'test' })\n"
        "run = Run.open { recipe = 'test', cfg = cfg, info = info, main = 'main' }\n"
        "run:stage('main', function(stage)\n"
        "  stage:checkpoint(1, function(to)\n"
        "    assert(fs.write(to .. '/before', 'x'))\n"
        "    local c = fork() if c == 0 then return leave() end\n"
        "    ended(c)\n"
        "    assert(fs.write(to .. '/after', 'x'))\n"
        "  end, {})\n"
        "  local c = fork() if c == 0 then return leave() end\n"
        "  ended(c)\n"
        "  files = table.concat(fs.list(dir .. '/run'), ' ')\n"
        "end)\n"
        "run:close()",
        "=test");
    or_exit(ctx, status);
    lua_getglobal(mocl_lua(ctx), "is_child");
    if (lua_toboolean(mocl_lua(ctx), -1)) {
        int refused = status && strstr(mocl_error(ctx), "forked this one") != NULL;
        int failing = status && strstr(mocl_error(ctx), "of the child") != NULL;
        mocl_close(ctx);
        _exit(refused ? 11 : failing ? 12 : 13);
    }
    if (status) printf("%s\n", mocl_error(ctx));
    CHECK(status == MOCL_DONE);
    const char *codes = mocl_get_string(ctx, "codes");
    CHECK(codes && strcmp(codes, *end == 'r' ? "11 11 " : *end == 'e' ? "12 12 " : "9 9 ") == 0);
    const char *files = mocl_get_string(ctx, "files");
    CHECK(files && strstr(files, "checkpoint-000001") && strstr(files, "lock"));
    CHECK(files && !strstr(files, "stages.json") && !strstr(files, ".tmp"));
    mocl_close(ctx);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    CHECK(system(command) == 0);
}

int main(void) {
    int skipped = 0;
    test_ends();
#ifdef __SANITIZE_ADDRESS__
    /* its allocator has locks that a thread may hold when another one forks, and the child then waits for them for ever */
    printf("skip test_fork: a fork amid a product of another thread: the address sanitizer does not survive it\n");
    skipped = 1;
#else
    test_amid_a_product();
#endif
    test_run();
    test_inside("return");
    test_inside("error 'of the child'");
    test_inside("os.exit(9, true)");
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed != 0;
}
