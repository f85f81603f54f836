/* safetensors_header.h - the members of a safetensors header: names and values as they stand, in the order of the file.
** For safetensors.c alone.
*/
#ifndef MOCL_SAFETENSORS_HEADER_H
#define MOCL_SAFETENSORS_HEADER_H

#include <jansson.h>

#include "base.h"

typedef struct mocl_member {
    const char *name; /* n bytes, which may be zero bytes; one more behind them */
    size_t n;
    json_t *value;
} mocl_member;

typedef struct mocl_members {
    mocl_member *list;
    size_t n, room;
    json_t *owner; /* of names and values */
} mocl_members;

/* The tensors of the header, and the members of its __metadata__: none where it is null or absent. As in the format's own
** library a name may hold "\u0000", and of metadata with the same key the last counts. A name of two tensors is an error
** unless they are described alike; it is one in the library too where both have data. Failures speak of `path`. Free both
** with mocl_members_free, also after a failure; they are set in any case. */
mocl_status mocl_members_read(mocl_ctx *ctx, mocl_members *tensors, mocl_members *metadata, const char *path, const char *text,
                              size_t n);
void mocl_members_free(mocl_members *m);

#endif
