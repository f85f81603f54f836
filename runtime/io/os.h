/* os.h - calls of the system: one that goes on after a signal, and failures in words */
#ifndef MOCL_OS_H
#define MOCL_OS_H

#include "base.h"

/* Fails with "path: reason" from errno. */
mocl_status mocl_file_fail(mocl_ctx *ctx, const char *path);
/* `path`, or its last bytes if it is so long that it would crowd the reason out of a message */
const char *mocl_path_tail(const char *path);

/* read(2) that goes on after a signal: *got is 0 at the end. `path` is for the message. */
mocl_status mocl_file_read_some(mocl_ctx *ctx, int fd, const char *path, void *to, size_t n, size_t *got);

#endif
