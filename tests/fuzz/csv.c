/* csv.c - fuzzes the reader of CSV, plain or gzip'd */
#include "io/csv.h"

#include "fuzz.h"

static mocl_status read_records(mocl_csv *c) {
    size_t n_fields, line, last = 0, total = 0, n;
    for (;;) {
        MOCL_TRY(mocl_csv_next(c, &n_fields, &line));
        if (n_fields == 0) return MOCL_OK;
        FUZZ_CHECK(line > last);
        last = line;
        unsigned sum = 0;
        for (size_t i = 0; i < n_fields; i++) {
            const char *field = mocl_csv_field(c, i, &n);
            for (size_t k = 0; k < n; k++) sum += (unsigned char)field[k];
            total += n;
        }
        (void)sum;
        if (total > 1 << 22) return MOCL_OK; /* a small file may unpack to very much */
    }
}

static mocl_status read_file(mocl_ctx *ctx, const char *path) {
    mocl_csv *c;
    MOCL_TRY(mocl_csv_open(ctx, &c, path, ','));
    mocl_status st = read_records(c);
    mocl_csv_close(c);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fuzz_read(read_file, fuzz_file("a.csv", data, n), data, n);
    return 0;
}
