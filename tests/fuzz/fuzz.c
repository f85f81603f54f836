/* fuzz.c - what the fuzz targets share */
#define _GNU_SOURCE
#include "fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device.h"

#define CUT "<<FILE>>"

void fuzz_stop(const char *what, const char *detail) {
    fprintf(stderr, "fuzz: %s: %s\n", what, detail);
    abort();
}

const char *fuzz_dir(void) {
    const char *dir = getenv("MOCL_FUZZ_DIR");
    if (!dir) {
        fprintf(stderr, "fuzz: MOCL_FUZZ_DIR names no directory for the files of a run; use tests/fuzz/run.sh\n");
        exit(2);
    }
    return dir;
}

static const char *path_of(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", fuzz_dir(), name);
    return path;
}

const char *fuzz_file(const char *name, const void *data, size_t n) {
    const char *path = path_of(name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n || close(fd)) {
        fprintf(stderr, "fuzz: %s: %m\n", path);
        exit(2);
    }
    return path;
}

void fuzz_files(const char *const names[], int n_names, const uint8_t *data, size_t n) {
    const char *p = (const char *)data, *end = p + n;
    for (int i = 0; i < n_names; i++) {
        if (!p) {
            unlink(path_of(names[i]));
            continue;
        }
        const char *cut = i + 1 < n_names ? memmem(p, (size_t)(end - p), CUT, strlen(CUT)) : NULL;
        fuzz_file(names[i], p, (size_t)((cut ? cut : end) - p));
        p = cut ? cut + strlen(CUT) : NULL;
    }
}

static mocl_ctx *context(void) {
    static mocl_ctx *ctx; /* of the process: a target has one thread */
    if (ctx) return ctx;
    /* the device is there before allocations are counted, since it is opened once */
    mocl_device *cpu;
    if (mocl_ctx_new(&ctx, 1) || mocl_device_get(&cpu, ctx, MOCL_DEVICE_CPU)) fuzz_stop("no context", "");
    return ctx;
}

/* FNV-1a */
static uint64_t hash(const uint8_t *data, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ data[i]) * 0x100000001b3u;
    return h;
}

void fuzz_read(mocl_status (*read)(mocl_ctx *ctx, const char *path), const char *path, const uint8_t *data, size_t n) {
    mocl_ctx *ctx = context();
    int64_t before = ctx->allocations;
    mocl_clear(ctx);
    mocl_status st = read(ctx, path);
    if (st && st != MOCL_E_FORMAT && st != MOCL_E_IO) fuzz_stop("a status that no file may cause", ctx->message);
    if (st && !strstr(ctx->message, fuzz_dir())) fuzz_stop("a message that names no file", ctx->message);
    FUZZ_CHECK(ctx->live_tensors == 0);
    int64_t count = ctx->allocations - before;
    if (count == 0) return;
    mocl_fail_after(ctx, (int64_t)(hash(data, n) % (uint64_t)count));
    st = read(ctx, path);
    mocl_fail_after(ctx, -1);
    if (st != MOCL_E_NOMEM) fuzz_stop("a lack of memory that ends otherwise", st ? ctx->message : "well");
    FUZZ_CHECK(ctx->live_tensors == 0);
}
