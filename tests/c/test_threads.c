/* test_threads.c - the kernels that are cut into pieces: the same bits with one thread and with three, also while
** another state does the same beside it, and an interruption from another thread at any moment of it. Small, so that
** the thread sanitizer (make tsan) can watch all of it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mocl.h"

static int passed, failed;

static void check(int ok, const char *what, const char *more) {
    if (ok) {
        passed++;
    } else {
        failed++;
        printf("FAIL %s: %s\n", what, more);
    }
}

/* tests/threads.lua in a state of its own; its result, for free() */
static char *run(int n_threads) {
    char *text = NULL;
    mocl_ctx *ctx = mocl_open(&(mocl_options){.size = sizeof(mocl_options), .n_threads = n_threads, .ignore_env = 1});
    if (!ctx) return NULL;
    if (mocl_dofile(ctx, "tests/threads.lua") == MOCL_DONE)
        text = strdup(mocl_get_string(ctx, "result"));
    else
        printf("     %s\n", mocl_error(ctx));
    mocl_close(ctx);
    return text;
}

static void *run_beside(void *n_threads) { return run(*(int *)n_threads); }

typedef struct stopper {
    mocl_ctx *ctx;
    atomic_int over;
} stopper;

static void *stop_often(void *arg) {
    stopper *s = arg;
    for (long ns = 100000; !atomic_load(&s->over); ns = ns * 3 / 2) {
        nanosleep(&(struct timespec){ns / 1000000000, ns % 1000000000}, NULL);
        mocl_interrupt(s->ctx);
    }
    return NULL;
}

/* Interrupted after longer and longer times, until it gets to its end. */
static void test_interrupted(const char *want) {
    mocl_ctx *ctx = mocl_open(&(mocl_options){.size = sizeof(mocl_options), .n_threads = 3, .ignore_env = 1});
    stopper s = {.ctx = ctx};
    pthread_t thread;
    int result, interruptions = 0;
    pthread_create(&thread, NULL, stop_often, &s);
    while ((result = mocl_dofile(ctx, "tests/threads.lua")) == MOCL_INTERRUPTED) interruptions++;
    atomic_store(&s.over, 1);
    pthread_join(thread, NULL);
    check(result == MOCL_DONE, "a run after interruptions", mocl_error(ctx));
    check(interruptions > 0, "interruptions", "none arrived");
    mocl_dostring(ctx, "", NULL); /* takes one that came too late */
    const char *got = mocl_get_string(ctx, "result");
    check(got && strcmp(got, want) == 0, "the result after interruptions", "other bits");
    result = mocl_dostring(ctx, "collectgarbage() collectgarbage() local n = require('mocl.tensor').memory().tensors "
                                "assert(n == 0, n .. ' tensors are left')", "=left");
    check(result == MOCL_DONE, "what interruptions leave", mocl_error(ctx)); /* after the run whose error it is */
    mocl_close(ctx);
}

int main(void) {
    int n[2] = {2, 3};
    pthread_t threads[2];
    char *one = run(1), *three = run(3);
    check(one && three && strcmp(one, three) == 0, "one thread and three", "other bits");
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, run_beside, &n[i]);
    for (int i = 0; i < 2; i++) {
        void *text = NULL;
        pthread_join(threads[i], &text);
        check(one && text && strcmp(one, text) == 0, "two states in two threads", "other bits");
        free(text);
    }
    if (one) test_interrupted(one);
    free(one);
    free(three);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
