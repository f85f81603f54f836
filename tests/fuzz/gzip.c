/* gzip.c - fuzzes the reader of gzip: read in pieces of two sizes, a file gives the same bytes and the same end */
#define _GNU_SOURCE
#include "io/gzip.h"

#include <errno.h>
#include <fcntl.h>

#include "fuzz.h"

enum { MOST = 1 << 20 }; /* a small file may unpack to very much */

static mocl_status unpack(mocl_ctx *ctx, const char *path, size_t piece, uint64_t *sum, mocl_gzip_result *result) {
    static char to[4096];
    mocl_gzip *g = mocl_gzip_new(ctx, open(path, O_RDONLY | O_CLOEXEC));
    if (!g) return mocl_nomem(ctx, sizeof to);
    size_t n, total = 0;
    *sum = 0;
    do {
        *result = mocl_gzip_read(g, to, piece, &n);
        FUZZ_CHECK(n <= piece && (n == 0 || *result == MOCL_GZIP_OK));
        for (size_t i = 0; i < n && total < MOST; i++, total++) *sum = *sum * 31 + (unsigned char)to[i];
    } while (n && total < MOST);
    mocl_gzip_close(g);
    return *result == MOCL_GZIP_NOMEM ? mocl_nomem(ctx, piece) : MOCL_OK;
}

static mocl_status read_file(mocl_ctx *ctx, const char *path) {
    uint64_t sum[2];
    mocl_gzip_result result[2];
    MOCL_TRY(unpack(ctx, path, 4096, &sum[0], &result[0]));
    MOCL_TRY(unpack(ctx, path, 61, &sum[1], &result[1]));
    FUZZ_CHECK(sum[0] == sum[1] && result[0] == result[1] && result[0] != MOCL_GZIP_IO);
    return MOCL_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fuzz_read(read_file, fuzz_file("a.gz", data, n), data, n);
    return 0;
}
