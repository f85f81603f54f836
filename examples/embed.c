/* embed.c - a C program with mocl in it: it gives a script numbers, calls one of its functions,
** handles an error and stops a script that takes too long.
**
**     cc embed.c -lmocl -lpthread
*/
#include <mocl.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

/* two objectives pull a parameter apart; find the weights of the direction that serves both */
static const char script[] =
    "local minnorm = require 'mocl.minnorm'\n"
    "function share(ax, ay, bx, by)\n"
    "  local gram = {{ax * ax + ay * ay, ax * bx + ay * by}, {ax * bx + ay * by, bx * bx + by * by}}\n"
    "  local w = minnorm.solve(gram)\n"
    "  return w[1], w[2]\n"
    "end\n";

static void *watchdog(void *ctx) {
    struct timespec t = {0, 200 * 1000 * 1000};
    nanosleep(&t, NULL);
    mocl_interrupt(ctx); /* from any thread, or from a signal handler */
    return NULL;
}

int main(void) {
    mocl_ctx *ctx = mocl_open(NULL);
    if (!ctx) return 1;
    printf("mocl %s\n", mocl_version());

    /* run a script, call its function: gradients (3, 0) and (0, 1) */
    double w[2];
    if (mocl_dostring(ctx, script, "=share") != MOCL_DONE ||
        mocl_call(ctx, "share", (double[]){3, 0, 0, 1}, 4, w, 2) != MOCL_DONE) {
        fprintf(stderr, "%s\n", mocl_error(ctx));
        mocl_close(ctx);
        return 1;
    }
    printf("weights %.2f %.2f\n", w[0], w[1]);

    /* an error is a result and a text; the context stays usable */
    if (mocl_dostring(ctx, "error('no such policy')", "=script") == MOCL_FAILED)
        printf("failed: %s\n", mocl_error(ctx));

    /* a script that does not end */
    pthread_t thread;
    pthread_create(&thread, NULL, watchdog, ctx);
    int result = mocl_dostring(ctx, "while true do end", "=script");
    pthread_join(thread, NULL);
    printf("stopped: %s\n", result == MOCL_INTERRUPTED ? "yes" : "no");

    mocl_close(ctx);
    return result == MOCL_INTERRUPTED ? 0 : 1;
}
