/* dir.c - directories and links */
#define _GNU_SOURCE
#include "io/dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h"

enum {
    MAX_DEPTH = 500,  /* of a tree to remove: each level costs a descriptor and a C frame */
    LINK_NAMES = 1000 /* temporary names tried: each was left by a killed process */
};

/* ---- making ---- */

/* mkdir that is content with a directory that is there */
static bool make_one(const char *path) {
    struct stat info;
    if (mkdir(path, 0777) == 0) return true;
    int reason = errno;
    if (stat(path, &info) == 0) {
        if (S_ISDIR(info.st_mode)) return true;
        reason = ENOTDIR;
    }
    errno = reason;
    return false;
}

mocl_status mocl_dir_make(mocl_ctx *ctx, const char *path) {
    char *part = mocl_strdup(ctx, path);
    if (!part) return mocl_nomem(ctx, strlen(path));
    mocl_status st = MOCL_OK;
    for (char *p = part; *p && !st; p++) {
        if (*p != '/' || p == part) continue;
        *p = '\0';
        if (!make_one(part)) st = mocl_file_fail(ctx, part);
        *p = '/';
    }
    if (!st && !make_one(part)) st = mocl_file_fail(ctx, path);
    mocl_free(part);
    return st;
}

/* ---- listing ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Reads the names in the order of the directory: NUL-terminated, *n bytes, *count names. */
static mocl_status read_names(mocl_ctx *ctx, DIR *dir, const char *path, char **names, size_t *n,
                              size_t *count) {
    size_t room = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (!entry) return errno ? mocl_file_fail(ctx, path) : MOCL_OK;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        size_t size = strlen(entry->d_name) + 1;
        if (*n + size > room) {
            room = 2 * (*n + size) + 256;
            char *larger = mocl_realloc(ctx, *names, room);
            if (!larger) return mocl_nomem(ctx, room);
            *names = larger;
        }
        memcpy(*names + *n, entry->d_name, size);
        *n += size;
        ++*count;
    }
}

mocl_status mocl_dir_list(mocl_ctx *ctx, const char *path, char **names, size_t *n) {
    mocl_status st;
    char *raw = NULL, *sorted = NULL;
    const char **order = NULL;
    size_t size = 0, count = 0;
    *names = NULL;
    *n = 0;
    DIR *dir = opendir(path);
    if (!dir) return mocl_file_fail(ctx, path);
    MOCL_GOTO(read_names(ctx, dir, path, &raw, &size, &count), done);
    sorted = mocl_alloc(ctx, size);
    order = mocl_calloc(ctx, count, sizeof *order);
    if (!sorted || !order) {
        st = mocl_nomem(ctx, size + count * sizeof *order);
        goto done;
    }
    const char *p = raw;
    for (size_t i = 0; i < count; i++, p += strlen(p) + 1) order[i] = p;
    if (count) qsort(order, count, sizeof *order, by_name);
    char *to = sorted;
    for (size_t i = 0; i < count; i++) to = stpcpy(to, order[i]) + 1;
    *names = sorted;
    *n = size;
    sorted = NULL;
done:
    mocl_free(order);
    mocl_free(sorted);
    mocl_free(raw);
    closedir(dir);
    return st;
}

/* ---- removing ---- */

/* Removes what is in the open directory `fd`, which it closes. On failure errno says why. */
static bool empty_directory(int fd, int depth) {
    if (depth > MAX_DEPTH) {
        close(fd);
        errno = EMFILE;
        return false;
    }
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return false;
    }
    bool ok = true;
    struct dirent *entry;
    while (ok && (errno = 0, entry = readdir(dir)) != NULL) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
        int child = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (child >= 0) {
            ok = empty_directory(child, depth + 1) && unlinkat(fd, name, AT_REMOVEDIR) == 0;
        } else if (errno == ENOTDIR || errno == ELOOP) { /* a file; a link */
            ok = unlinkat(fd, name, 0) == 0;
        } else {
            ok = false;
        }
    }
    int reason = errno; /* 0 at the end of the directory */
    closedir(dir);
    errno = reason;
    return ok && reason == 0;
}

static bool is_protected(const char *path) {
    size_t n = strlen(path);
    while (n > 0 && path[n - 1] == '/') n--;
    size_t start = n;
    while (start > 0 && path[start - 1] != '/') start--;
    size_t size = n - start; /* of the last part */
    return size == 0 || (size <= 2 && memcmp(path + start, "..", size) == 0);
}

/* `path` without slashes at its end: "link/" would be the directory behind the link */
static mocl_status remove_path(mocl_ctx *ctx, const char *path) {
    struct stat info;
    if (lstat(path, &info)) return mocl_file_fail(ctx, path);
    if (!S_ISDIR(info.st_mode)) return unlink(path) ? mocl_file_fail(ctx, path) : MOCL_OK;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return mocl_file_fail(ctx, path);
    if (!empty_directory(fd, 1) || rmdir(path)) return mocl_file_fail(ctx, path);
    return MOCL_OK;
}

mocl_status mocl_dir_remove_tree(mocl_ctx *ctx, const char *path) {
    if (is_protected(path)) {
        return mocl_fail(ctx, MOCL_E_ARG, "remove_tree: '%s' is refused: name the directory itself",
                         mocl_path_tail(path));
    }
    char *plain = mocl_strdup(ctx, path);
    if (!plain) return mocl_nomem(ctx, strlen(path));
    size_t n = strlen(plain);
    while (n > 1 && plain[n - 1] == '/') plain[--n] = '\0';
    mocl_status st = remove_path(ctx, plain);
    mocl_free(plain);
    return st;
}

/* ---- links ---- */

mocl_status mocl_link_replace(mocl_ctx *ctx, const char *target, const char *link) {
    for (int number = 0; number < LINK_NAMES; number++) {
        char *name = mocl_path_temporary(ctx, link, number);
        if (!name) return mocl_nomem(ctx, strlen(link));
        if (symlink(target, name) == 0) {
            mocl_status st = MOCL_OK;
            if (rename(name, link)) {
                st = mocl_file_fail(ctx, link);
                unlink(name);
            }
            mocl_free(name);
            return st ? st : mocl_file_sync_parent(ctx, link);
        }
        int reason = errno;
        mocl_free(name);
        errno = reason;
        if (reason != EEXIST) break;
    }
    return mocl_file_fail(ctx, link);
}
