/* sandbox.c - scripts of strangers: no files, no processes, no bytecode, and limits that they cannot catch.
**
**     cc sandbox.c $(pkg-config --cflags --libs mocl)
**     ./a.out              eight scripts, most of which misbehave
**     ./a.out script.lua   a script of yours
*/
#include <mocl.h>
#include <stdio.h>
#include <string.h>

static void print_to_host(void *data, int where, const char *text, size_t n) {
    (void)data;
    fputs(where == MOCL_LOG_OUT ? "script says: " : "script warns: ", stdout);
    fwrite(text, 1, n, stdout);
}

/* the result in words, and the first line of the error */
static int show(mocl_ctx *ctx, const char *title, int result) {
    static const char *const words[] = {"done", "failed", "interrupted", "limited", "exited"};
    const char *error = mocl_error(ctx);
    printf("%s: %s\n", title, words[result]);
    if (result != MOCL_DONE) printf("  %.*s\n", (int)strcspn(error, "\n"), error);
    return result;
}

static void run(mocl_ctx *ctx, const char *title, const char *code) { show(ctx, title, mocl_dostring(ctx, code, "=script")); }

int main(int argc, char **argv) {
    mocl_options o = {.size = sizeof o, .n_threads = 1, .ignore_env = 1, .libraries = MOCL_SANDBOX, .log = print_to_host};
    mocl_limits limits = {.size = sizeof limits, .seconds = 60, .instructions = 10 * 1000 * 1000, .bytes = 64 << 20};
    mocl_ctx *ctx = mocl_open(&o);
    if (!ctx || mocl_limit(ctx, &limits) != MOCL_DONE) return 1;

    if (argc > 1) {
        int result = show(ctx, argv[1], mocl_dofile(ctx, argv[1]));
        mocl_close(ctx);
        return result;
    }
    run(ctx, "a reward", "function reward(answer) return -#answer / 100 end print(reward 'short')");
    run(ctx, "tensors", "local t = require 'mocl.tensor' print(t.new({1, 2, 3}):sum():item())");
    run(ctx, "a file", "io.open('/etc/passwd')");
    run(ctx, "a module that opens files", "require 'mocl.fs'");
    run(ctx, "bytecode", "assert(load('\\27Lua'))");
    run(ctx, "the process", "os.exit(7)");
    run(ctx, "a loop that catches all errors", "while true do pcall(function() while true do end end) end");
    run(ctx, "all the memory", "local t = {} while true do pcall(function() t[#t + 1] = ('x'):rep(1000000) .. #t end) end");

    /* the context is as good as before */
    double x = 120;
    if (mocl_dostring(ctx, "function half(x) return x / 2 end", "=script") == MOCL_DONE && mocl_call(ctx, "half", &x, 1, &x, 1) == MOCL_DONE)
        printf("half of 120: %g\n", x);
    mocl_close(ctx);
    return 0;
}
