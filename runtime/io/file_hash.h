/* file_hash.h - the SHA-256 of a file, for which no file is read twice.
**
** A context remembers the hashes of files that were read or written as a whole. A file is the one it remembers as long as device,
** inode, size and both times are the same, and it remembers none that changed in the present tick of the clock that file systems
** take their times from: the next change gives other times. So mocl_file_hash tells what the file holds, whether it reads or not.
**
** Readers and writers of whole files hash in passing while mocl_file_hash_passing is on: with a mocl_passing, which sees all
** bytes in their order. It never fails: what it cannot remember is read again.
*/
#ifndef MOCL_FILE_HASH_H
#define MOCL_FILE_HASH_H

#include <sys/stat.h>

#include "io/sha256.h"

/* MOCL_E_IO "path: reason" */
mocl_status mocl_file_hash(mocl_ctx *ctx, const char *path, char hex[MOCL_SHA256_HEX]);

/* Counts: as many times off as on. */
void mocl_file_hash_passing(mocl_ctx *ctx, bool on);

typedef struct mocl_passing {
    bool on;            /* whether anyone asked */
    bool settled;       /* the file that is read can be remembered */
    struct stat before; /* of it */
    uint64_t bytes;     /* seen so far */
    mocl_sha256 hash;
} mocl_passing;

/* A file will be read, which is now as `before`, or, with NULL, written. */
void mocl_passing_begin(mocl_passing *p, mocl_ctx *ctx, const struct stat *before);
void mocl_passing_add(mocl_passing *p, const void *data, size_t n);
/* All of it has been read, and it is now as `after`. */
void mocl_passing_read(mocl_passing *p, mocl_ctx *ctx, const struct stat *after);
/* All of it has been written, as `written` told before it got its name, which is `path`. May wait for the clock's next tick, 10 ms. */
void mocl_passing_written(mocl_passing *p, mocl_ctx *ctx, const struct stat *written, const char *path);

#endif
