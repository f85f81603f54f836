/* gguf.c - fuzzes the reader of GGUF: every value of the metadata, every tensor as f32, and the tokenizer inside */
#include "io/gguf.h"

#include <string.h>

#include "device.h"
#include "fuzz.h"
#include "use_tokenizer.h"

static size_t look(mocl_gguf_value v) {
    size_t sum = 0;
    if (v.type == MOCL_GGUF_STRING)
        for (size_t i = 0; i < v.text_bytes; i++) sum += (unsigned char)v.text[i];
    const unsigned char *at = v.at;
    for (uint64_t i = 0; v.type == MOCL_GGUF_ARRAY && i < v.count; i++) {
        mocl_gguf_value inner;
        at = mocl_gguf_read(&inner, v.element, at);
        sum += look(inner);
    }
    return sum;
}

static mocl_status read_tensors(mocl_device *dev, const mocl_gguf *g, const char *path) {
    for (size_t i = 0; i < g->n_tensors; i++) {
        const mocl_gguf_tensor *t = &g->tensors[i];
        mocl_tensor *out;
        FUZZ_CHECK(mocl_gguf_find_tensor(g, t->name) == t);
        mocl_status st = mocl_gguf_load(&out, dev, path, t, 0);
        if (st == MOCL_E_FORMAT) continue; /* a format that mocl does not read */
        if (st) return st;
        mocl_tensor_unref(out);
    }
    return MOCL_OK;
}

static mocl_status read_file(mocl_ctx *ctx, const char *path) {
    mocl_gguf *g;
    mocl_device *dev;
    MOCL_TRY(mocl_device_get(&dev, ctx, MOCL_DEVICE_CPU));
    MOCL_TRY(mocl_gguf_open(ctx, &g, path));
    size_t sum = 0;
    for (size_t i = 0; i < g->n_keys; i++) {
        sum += look(g->keys[i].value);
        FUZZ_CHECK(mocl_gguf_find_key(g, g->keys[i].name) == &g->keys[i]);
    }
    mocl_status st = read_tensors(dev, g, path);
    mocl_gguf_close(g);
    (void)sum;
    return st ? st : fuzz_use_tokenizer(ctx, path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    fuzz_read(read_file, fuzz_file("a.gguf", data, n), data, n);
    return 0;
}
