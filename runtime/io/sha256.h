/* sha256.h - the SHA-256 hash of FIPS 180-4, to name files by content; not for secrets */
#ifndef MOCL_SHA256_H
#define MOCL_SHA256_H

#include "base.h"

enum { MOCL_SHA256_HEX = 65 }; /* 64 lower case hex digits and a NUL */

typedef struct mocl_sha256 {
    uint32_t state[28]; /* the library's own structure */
} mocl_sha256;

/* None of them allocates or fails. */
void mocl_sha256_begin(mocl_sha256 *h);
void mocl_sha256_add(mocl_sha256 *h, const void *data, size_t n);
void mocl_sha256_end(mocl_sha256 *h, char hex[MOCL_SHA256_HEX]);

#endif
