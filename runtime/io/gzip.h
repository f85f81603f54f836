/* gzip.h - the bytes of a file, unpacked where they are gzip'd.
**
** gzip is told by its first two bytes. Several members in a row are one text, and zero bytes behind a member are padding, as
** for gzip(1) and Python. What else stands behind a member is an error, and so is a file that ends inside one, were it in the
** first bytes of its header: zlib's own reader passes over both.
*/
#ifndef MOCL_GZIP_H
#define MOCL_GZIP_H

#include "base.h"

typedef struct mocl_gzip mocl_gzip;

typedef enum mocl_gzip_result {
    MOCL_GZIP_OK,
    MOCL_GZIP_IO,      /* errno says why */
    MOCL_GZIP_NOMEM,
    MOCL_GZIP_DAMAGED,
    MOCL_GZIP_CUT,     /* the file ends inside a member */
    MOCL_GZIP_BEHIND   /* neither gzip nor zeros behind a member */
} mocl_gzip_result;

/* The reader takes over fd, also where it fails, which is NULL: no memory. Free with mocl_gzip_close (NULL is fine). */
mocl_gzip *mocl_gzip_new(mocl_ctx *ctx, int fd);
void mocl_gzip_close(mocl_gzip *g);

/* *n receives how many bytes were put at `to`, which has room for `room` of them: 0 at the end. What can be unpacked in front of
** a fault is handed out before the fault is told. */
mocl_gzip_result mocl_gzip_read(mocl_gzip *g, char *to, size_t room, size_t *n);
/* how many bytes of the file have been used: the place of a fault */
uint64_t mocl_gzip_offset(const mocl_gzip *g);

#endif
