/* file.c - whole files: read into memory, written atomically */
#define _GNU_SOURCE
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file_hash.h"

enum { TEMPORARY_NAMES = 1000 }; /* names tried: each was left by a killed process */

void mocl_file_forget(const void *at, size_t n) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = ((uintptr_t)at + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)at + n) / page * page;
    if (end > start) madvise((void *)start, end - start, MADV_DONTNEED); /* where it cannot, they stay */
}

mocl_status mocl_file_map(mocl_ctx *ctx, const char *path, void **map, size_t *bytes, struct stat *info) {
    mocl_status st = MOCL_OK;
    *map = NULL;
    *bytes = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mocl_file_fail(ctx, path);
    if (fstat(fd, info)) {
        st = mocl_file_fail(ctx, path);
    } else if (!S_ISREG(info->st_mode)) {
        st = mocl_fail(ctx, MOCL_E_IO, "%s: %s", mocl_path_tail(path),
                       S_ISDIR(info->st_mode) ? "is a directory" : "is not a regular file");
    } else if (info->st_size > 0) { /* nothing cannot be mapped */
        void *p = mmap(NULL, (size_t)info->st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            st = mocl_file_fail(ctx, path);
        } else {
            *map = p;
            *bytes = (size_t)info->st_size;
        }
    }
    close(fd);
    return st;
}

/* bytes of `path` up to and including its last slash; 0 if it has none */
static size_t directory_length(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

char *mocl_path_temporary(mocl_ctx *ctx, const char *path, int number) {
    size_t dir = directory_length(path), room = dir + 64;
    char *name = mocl_alloc(ctx, room);
    if (!name) return NULL;
    memcpy(name, path, dir);
    snprintf(name + dir, room - dir, ".mocl-%ld-%d.tmp", (long)getpid(), number);
    return name;
}

/* ---- reading ---- */

/* Reads until the end into *data, which grows; at least one byte stays free for the NUL. */
static mocl_status read_all(mocl_ctx *ctx, int fd, const char *path, size_t expected, char **data,
                            size_t *n) {
    size_t room = expected + 1, used = 0; /* expected: a guess, the file may grow or be a pipe */
    mocl_status st;
    char *buffer = mocl_alloc(ctx, room);
    if (!buffer) return mocl_nomem(ctx, room);
    for (size_t got = 1; got;) {
        if (used + 1 >= room) {
            char probe; /* most files end exactly here: do not double for nothing */
            MOCL_GOTO(mocl_file_read_some(ctx, fd, path, &probe, 1, &got), failed);
            if (got == 0) break;
            size_t wanted = room > SIZE_MAX / 2 ? SIZE_MAX : room < 4096 ? 8192 : 2 * room;
            char *larger = mocl_realloc(ctx, buffer, wanted);
            if (!larger) {
                st = mocl_nomem(ctx, wanted);
                goto failed;
            }
            buffer = larger;
            room = wanted;
            buffer[used++] = probe;
            continue;
        }
        MOCL_GOTO(mocl_file_read_some(ctx, fd, path, buffer + used, room - used - 1, &got), failed);
        used += got;
    }
    buffer[used] = '\0';
    *data = buffer;
    *n = used;
    return MOCL_OK;
failed:
    mocl_free(buffer);
    return st;
}

mocl_status mocl_file_read(mocl_ctx *ctx, const char *path, char **data, size_t *n) {
    *data = NULL;
    *n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mocl_file_fail(ctx, path);
    struct stat info;
    mocl_status st;
    if (fstat(fd, &info)) {
        st = mocl_file_fail(ctx, path);
    } else {
        st = read_all(ctx, fd, path, info.st_size > 0 ? (size_t)info.st_size : 0, data, n);
    }
    close(fd);
    return st;
}

/* ---- syncing ---- */

/* Some file systems cannot sync a directory; they say EINVAL and there is nothing more to do. */
static mocl_status sync_fd(mocl_ctx *ctx, int fd, const char *path) {
    return fsync(fd) && errno != EINVAL ? mocl_file_fail(ctx, path) : MOCL_OK;
}

mocl_status mocl_file_sync(mocl_ctx *ctx, const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mocl_file_fail(ctx, path);
    mocl_status st = sync_fd(ctx, fd, path);
    close(fd);
    return st;
}

/* Opens the directory that holds `name`; messages speak of `path`. */
static mocl_status open_directory(mocl_ctx *ctx, const char *name, const char *path, int *fd) {
    size_t n = directory_length(name);
    char *dir = mocl_alloc(ctx, n + 2);
    if (!dir) return mocl_nomem(ctx, n + 2);
    memcpy(dir, name, n);
    if (n == 0) dir[n++] = '.';
    dir[n] = '\0';
    *fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    mocl_status st = *fd < 0 ? mocl_file_fail(ctx, path) : MOCL_OK;
    mocl_free(dir);
    return st;
}

mocl_status mocl_file_sync_parent(mocl_ctx *ctx, const char *path) {
    int fd;
    MOCL_TRY(open_directory(ctx, path, path, &fd));
    mocl_status st = sync_fd(ctx, fd, path);
    close(fd);
    return st;
}

/* ---- writing ---- */

struct mocl_writer {
    mocl_ctx *ctx;
    int fd;          /* of the temporary file */
    int directory;   /* of the target, for syncing its new entry */
    char *path;      /* as the caller named it, for messages */
    char *target;    /* where the file goes: path with symbolic links followed */
    char *temporary; /* NULL until the temporary file is there */
    mocl_passing hash;
};

void mocl_writer_abort(mocl_writer *w) {
    if (!w) return;
    if (w->fd >= 0) close(w->fd);
    if (w->directory >= 0) close(w->directory);
    if (w->temporary) unlink(w->temporary);
    mocl_free(w->temporary);
    mocl_free(w->target);
    mocl_free(w->path);
    mocl_free(w);
}

/* Opens the first temporary name that is free. A new file gets the mode the umask gives, a replaced
** one keeps its mode. */
static mocl_status open_temporary(mocl_writer *w, const struct stat *old) {
    for (int number = 0; number < TEMPORARY_NAMES; number++) {
        char *name = mocl_path_temporary(w->ctx, w->target, number);
        if (!name) return mocl_nomem(w->ctx, strlen(w->target));
        w->fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w->fd >= 0) {
            w->temporary = name;
            if (old && fchmod(w->fd, old->st_mode & 07777)) return mocl_file_fail(w->ctx, w->path);
            return MOCL_OK;
        }
        int reason = errno;
        mocl_free(name);
        errno = reason;
        if (reason != EEXIST) break;
    }
    return mocl_file_fail(w->ctx, w->path);
}

/* The target of a path: itself, or for a symbolic link the file at its end (which must exist). */
static mocl_status resolve(mocl_writer *w) {
    struct stat info;
    if (lstat(w->path, &info) == 0 && S_ISLNK(info.st_mode)) {
        char *real = realpath(w->path, NULL);
        if (!real) return mocl_file_fail(w->ctx, w->path);
        w->target = mocl_strdup(w->ctx, real);
        free(real);
    } else {
        w->target = mocl_strdup(w->ctx, w->path);
    }
    return w->target ? MOCL_OK : mocl_nomem(w->ctx, strlen(w->path));
}

mocl_status mocl_writer_begin(mocl_ctx *ctx, mocl_writer **out, const char *path) {
    mocl_status st;
    *out = NULL;
    mocl_writer *w = mocl_calloc(ctx, 1, sizeof *w);
    if (!w) return mocl_nomem(ctx, sizeof *w);
    w->ctx = ctx;
    w->fd = w->directory = -1;
    w->path = mocl_strdup(ctx, path);
    if (!w->path) {
        st = mocl_nomem(ctx, strlen(path));
        goto failed;
    }
    MOCL_GOTO(resolve(w), failed);
    struct stat old;
    bool exists = stat(w->target, &old) == 0;
    if (exists && !S_ISREG(old.st_mode)) {
        st = mocl_fail(ctx, MOCL_E_IO, "%s: %s", mocl_path_tail(path),
                       S_ISDIR(old.st_mode) ? "is a directory" : "is not a regular file");
        goto failed;
    }
    MOCL_GOTO(open_directory(ctx, w->target, path, &w->directory), failed);
    MOCL_GOTO(open_temporary(w, exists ? &old : NULL), failed);
    mocl_passing_begin(&w->hash, ctx, NULL);
    *out = w;
    return MOCL_OK;
failed:
    mocl_writer_abort(w);
    return st;
}

mocl_status mocl_writer_append(mocl_writer *w, const void *data, size_t n) {
    const char *p = data;
    while (n > 0) {
        ssize_t put = write(w->fd, p, n > INT_MAX ? INT_MAX : n);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return mocl_file_fail(w->ctx, w->path);
        mocl_passing_add(&w->hash, p, (size_t)put);
        p += put;
        n -= (size_t)put;
    }
    return MOCL_OK;
}

mocl_status mocl_writer_commit(mocl_writer *w) {
    mocl_status st = MOCL_OK;
    int fd = w->fd;
    struct stat written;
    if (fsync(fd) || fstat(fd, &written)) {
        st = mocl_file_fail(w->ctx, w->path);
        goto done;
    }
    w->fd = -1;
    if (close(fd) && errno != EINTR) { /* a network file system may report a full disk here */
        st = mocl_file_fail(w->ctx, w->path);
        goto done;
    }
    if (rename(w->temporary, w->target)) {
        st = mocl_file_fail(w->ctx, w->path);
        goto done;
    }
    mocl_free(w->temporary); /* the name is gone: nothing left to unlink */
    w->temporary = NULL;
    st = sync_fd(w->ctx, w->directory, w->path);
    if (!st) mocl_passing_written(&w->hash, w->ctx, &written, w->target);
done:
    mocl_writer_abort(w);
    return st;
}

mocl_status mocl_file_write_atomic(mocl_ctx *ctx, const char *path, const void *data, size_t n) {
    mocl_writer *w;
    MOCL_TRY(mocl_writer_begin(ctx, &w, path));
    mocl_status st = mocl_writer_append(w, data, n);
    if (st) {
        mocl_writer_abort(w);
        return st;
    }
    return mocl_writer_commit(w);
}

static mocl_status copy_all(mocl_ctx *ctx, int fd, const char *from, mocl_passing *seen, mocl_writer *w) {
    for (;;) {
        char piece[1 << 15];
        size_t got;
        MOCL_TRY(mocl_file_read_some(ctx, fd, from, piece, sizeof piece, &got));
        if (got == 0) return MOCL_OK;
        mocl_passing_add(seen, piece, got);
        MOCL_TRY(mocl_writer_append(w, piece, got));
        MOCL_TRY(mocl_poll(ctx));
    }
}

mocl_status mocl_file_copy(mocl_ctx *ctx, const char *from, const char *to) {
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mocl_file_fail(ctx, from);
    struct stat info;
    mocl_passing seen;
    mocl_writer *w = NULL;
    mocl_status st = fstat(fd, &info) ? mocl_file_fail(ctx, from) : mocl_writer_begin(ctx, &w, to);
    if (!st) {
        mocl_passing_begin(&seen, ctx, &info);
        st = copy_all(ctx, fd, from, &seen, w);
        if (st) mocl_writer_abort(w);
        else st = mocl_writer_commit(w);
        if (!st && !fstat(fd, &info)) mocl_passing_read(&seen, ctx, &info);
    }
    close(fd);
    return st;
}
