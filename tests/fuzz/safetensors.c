/* safetensors.c - fuzzes the reader of safetensors: every byte it hands out is looked at */
#include "io/safetensors.h"

#include <string.h>

#include "fuzz.h"

static mocl_status read_file(mocl_ctx *ctx, const char *path) {
    mocl_safetensors *s;
    MOCL_TRY(mocl_safetensors_open(ctx, &s, path));
    unsigned sum = 0;
    for (size_t i = 0; i < s->n; i++) {
        const mocl_safetensors_entry *e = &s->entries[i];
        for (size_t k = 0; k < e->bytes; k++) sum += ((const unsigned char *)e->data)[k];
        FUZZ_CHECK(strlen(e->name) <= e->name_bytes && mocl_safetensors_bits(e->dtype) > 0);
        for (int d = 0; d < e->ndim; d++) FUZZ_CHECK(e->shape[d] >= 0);
        if (strlen(e->name) == e->name_bytes) FUZZ_CHECK(mocl_safetensors_find(s, e->name) != NULL);
    }
    for (size_t i = 0; i < s->n_metadata; i++) {
        const mocl_safetensors_text *m = &s->metadata[i];
        sum += (unsigned)(strlen(m->key) + strlen(m->value));
        FUZZ_CHECK(m->key[m->key_bytes] == 0 && m->value[m->value_bytes] == 0);
    }
    mocl_safetensors_close(s);
    (void)sum;
    return MOCL_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fuzz_read(read_file, fuzz_file("a.safetensors", data, n), data, n);
    return 0;
}
