/* jsonl.c - fuzzes the reader of lines, plain or gzip'd, and reads each as JSON, as data.jsonl does */
#include <string.h>

#include "fuzz.h"
#include "io/json.h"
#include "io/text.h"

static mocl_status read_lines(mocl_ctx *ctx, mocl_lines *l) {
    const char *line;
    size_t n, number = 0, last = 0, total = 0;
    for (;;) {
        MOCL_TRY(mocl_lines_next(l, &line, &n, &number));
        if (!line) return MOCL_OK;
        FUZZ_CHECK(number == ++last && !memchr(line, '\n', n));
        json_t *v;
        json_error_t error;
        mocl_status st = mocl_json_parse(ctx, &v, line, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
        if (st == MOCL_E_NOMEM) return st;
        json_decref(v);
        if ((total += n) > 1 << 22) return MOCL_OK; /* a small file may unpack to very much */
    }
}

static mocl_status read_file(mocl_ctx *ctx, const char *path) {
    mocl_lines *l;
    MOCL_TRY(mocl_lines_open(ctx, &l, path));
    mocl_status st = read_lines(ctx, l);
    mocl_lines_close(l);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fuzz_read(read_file, fuzz_file("a.jsonl", data, n), data, n);
    return 0;
}
