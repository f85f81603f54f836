/* json.c - fuzzes the JSON reader: what it takes is written and read again as the same */
#include "io/json.h"

#include <math.h>
#include <string.h>

#include "io/file.h"
#include "fuzz.h"

static mocl_status parse(mocl_ctx *ctx, const char *path, const char *text, size_t n) {
    json_t *v, *again;
    json_error_t error;
    double infinity;
    mocl_status st = mocl_json_parse_numbers(ctx, &v, text, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error, &infinity);
    if (st == MOCL_E_FORMAT) {
        FUZZ_CHECK(error.text[0] != 0 && error.position <= (int)n && !v);
        return mocl_fail(ctx, st, "%s: %s", path, error.text);
    }
    if (st) return st;
    char *written = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
    if (written) { /* NULL: nested more deeply than jansson writes */
        st = mocl_json_parse(ctx, &again, written, strlen(written), JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
        if (st == MOCL_E_FORMAT) fuzz_stop("what was read is not read again", written);
        if (!st && !json_equal(v, again)) fuzz_stop("what was read is read again as another value", written);
        json_decref(again);
        free(written);
    }
    json_decref(v);
    return st;
}

static mocl_status read_file(mocl_ctx *ctx, const char *path) {
    char *text;
    size_t n;
    MOCL_TRY(mocl_file_read(ctx, path, &text, &n));
    mocl_status st = parse(ctx, path, text, n);
    mocl_free(text);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fuzz_read(read_file, fuzz_file("a.json", data, n), data, n);
    return 0;
}
