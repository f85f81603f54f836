/* file_hash.c - the SHA-256 of a file, for which no file is read twice */
#define _GNU_SOURCE
#include "io/file_hash.h"

#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "io/os.h"

enum {
    REMEMBERED = 256,        /* files; the oldest is forgotten for one more */
    WORTH_WAITING = 8 << 20, /* bytes of a file that take longer to read again than a tick of the clock */
    COARSE_SECONDS = 2       /* the least step of times on file systems that keep no fractions of a second (FAT) */
};

typedef struct known {
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec modified, changed;
    char hex[MOCL_SHA256_HEX];
} known;

struct mocl_file_hashes {
    size_t n; /* ever added */
    known list[REMEMBERED];
};

static bool same_time(struct timespec a, struct timespec b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

static bool same_file(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size && same_time(a->st_mtim, b->st_mtim);
}

/* whether a change from now on must give the file another time of change */
static bool is_settled(const struct stat *info) {
    struct timespec now, then = info->st_ctim;
    if (!S_ISREG(info->st_mode) || clock_gettime(CLOCK_REALTIME_COARSE, &now)) return false;
    if (then.tv_nsec == 0) then.tv_sec += COARSE_SECONDS;
    return now.tv_sec > then.tv_sec || (now.tv_sec == then.tv_sec && now.tv_nsec > then.tv_nsec);
}

static const known *find(const mocl_ctx *ctx, const struct stat *info) {
    const struct mocl_file_hashes *all = ctx->file_hashes;
    for (size_t i = 0; all && i < all->n && i < REMEMBERED; i++) {
        const known *k = &all->list[i];
        if (k->ino == info->st_ino && k->dev == info->st_dev && k->size == info->st_size && same_time(k->modified, info->st_mtim) &&
            same_time(k->changed, info->st_ctim)) {
            return k;
        }
    }
    return NULL;
}

static void remember(mocl_passing *p, mocl_ctx *ctx, const struct stat *info) {
    if (find(ctx, info)) return;
    if (!ctx->file_hashes) ctx->file_hashes = mocl_calloc(ctx, 1, sizeof *ctx->file_hashes);
    if (!ctx->file_hashes) return;
    known *k = &ctx->file_hashes->list[ctx->file_hashes->n++ % REMEMBERED];
    *k = (known){.dev = info->st_dev, .ino = info->st_ino, .size = info->st_size, .modified = info->st_mtim, .changed = info->st_ctim};
    mocl_sha256_end(&p->hash, k->hex);
}

void mocl_file_hash_passing(mocl_ctx *ctx, bool on) { ctx->hash_passing += on ? 1 : -1; }

/* ---- in passing ---- */

static void begin(mocl_passing *p, const struct stat *before) {
    p->on = true;
    p->settled = !before || is_settled(before);
    p->bytes = 0;
    if (before) p->before = *before;
    mocl_sha256_begin(&p->hash);
}

void mocl_passing_begin(mocl_passing *p, mocl_ctx *ctx, const struct stat *before) {
    p->on = false;
    if (ctx->hash_passing > 0 && !(before && (!is_settled(before) || find(ctx, before)))) begin(p, before);
}

void mocl_passing_add(mocl_passing *p, const void *data, size_t n) {
    if (!p->on) return;
    mocl_sha256_add(&p->hash, data, n);
    p->bytes += n;
}

void mocl_passing_read(mocl_passing *p, mocl_ctx *ctx, const struct stat *after) {
    if (p->on && p->settled && (uint64_t)after->st_size == p->bytes && same_file(&p->before, after) &&
        same_time(p->before.st_ctim, after->st_ctim)) {
        remember(p, ctx, after);
    }
}

void mocl_passing_written(mocl_passing *p, mocl_ctx *ctx, const struct stat *written, const char *path) {
    struct stat now;
    if (!p->on || stat(path, &now) || !same_file(written, &now) || (uint64_t)now.st_size != p->bytes) return;
    const struct timespec millisecond = {.tv_nsec = 1000000};
    for (int i = 0; i < 10 && now.st_size >= WORTH_WAITING && !is_settled(&now); i++) nanosleep(&millisecond, NULL);
    if (is_settled(&now)) remember(p, ctx, &now);
}

/* ---- asked for ---- */

static mocl_status hash_all(mocl_ctx *ctx, int fd, const char *path, mocl_passing *p) {
    for (;;) {
        char piece[1 << 15];
        size_t got;
        MOCL_TRY(mocl_file_read_some(ctx, fd, path, piece, sizeof piece, &got));
        if (got == 0) return MOCL_OK;
        mocl_passing_add(p, piece, got);
        MOCL_TRY(mocl_poll(ctx));
    }
}

mocl_status mocl_file_hash(mocl_ctx *ctx, const char *path, char hex[MOCL_SHA256_HEX]) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mocl_file_fail(ctx, path);
    struct stat info;
    mocl_status st = MOCL_OK;
    const known *k = NULL;
    mocl_passing p;
    if (fstat(fd, &info)) {
        st = mocl_file_fail(ctx, path);
    } else if ((k = find(ctx, &info)) != NULL) {
        memcpy(hex, k->hex, MOCL_SHA256_HEX);
    } else {
        begin(&p, &info);
        st = hash_all(ctx, fd, path, &p);
        if (!st) {
            mocl_sha256 whole = p.hash;
            mocl_sha256_end(&whole, hex);
            if (!fstat(fd, &info)) mocl_passing_read(&p, ctx, &info);
        }
    }
    close(fd);
    return st;
}
