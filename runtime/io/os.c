/* os.c - calls of the system: one that goes on after a signal, and failures in words */
#define _GNU_SOURCE
#include "io/os.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

const char *mocl_path_tail(const char *path) {
    const size_t keep = 600;
    size_t n = strlen(path);
    return n > keep ? path + n - keep : path;
}

mocl_status mocl_file_fail(mocl_ctx *ctx, const char *path) {
    return mocl_fail(ctx, MOCL_E_IO, "%s: %m", mocl_path_tail(path)); /* %m: the text of errno */
}

mocl_status mocl_file_read_some(mocl_ctx *ctx, int fd, const char *path, void *to, size_t n, size_t *got) {
    ssize_t bytes;
    do bytes = read(fd, to, n > INT_MAX ? INT_MAX : n);
    while (bytes < 0 && errno == EINTR);
    *got = bytes < 0 ? 0 : (size_t)bytes;
    return bytes < 0 ? mocl_file_fail(ctx, path) : MOCL_OK;
}
