/* gguf_write.c - writing the GGUF format */
#include <string.h>

#include "io/file.h" /* mocl_writer */
#include "io/gguf.h"

enum { ALIGNMENT = 32, PIECE = 1 << 16 /* values at a time, or one row */ };

typedef struct saver {
    mocl_ctx *ctx;
    mocl_writer *w;
    uint64_t written;
} saver;

static mocl_status put(saver *s, const void *data, size_t n) {
    s->written += n;
    return n ? mocl_writer_append(s->w, data, n) : MOCL_OK;
}

static mocl_status put32(saver *s, uint32_t v) { return put(s, &v, 4); }
static mocl_status put64(saver *s, uint64_t v) { return put(s, &v, 8); }

static mocl_status pad(saver *s) {
    static const char zeros[ALIGNMENT];
    return put(s, zeros, (size_t)(-s->written % ALIGNMENT));
}

static uint64_t bytes_of(const mocl_gguf_source *e) {
    return (uint64_t)mocl_tensor_numel(e->t) / e->format->values * e->format->bytes;
}

static mocl_status check(mocl_ctx *ctx, const mocl_gguf_source *e) {
    const mocl_tensor *t = e->t;
    if (t->ndim < 1 || t->ndim > 4 || mocl_tensor_numel(t) == 0 || !mocl_tensor_is_contiguous(t) ||
        (t->dtype != MK_F32 && t->dtype != MK_BF16))
        return mocl_fail(ctx, MOCL_E_ARG,
                         "gguf: tensor '%.200s' must have 1 to 4 dimensions, values, and the dtype f32 or bf16",
                         e->name);
    if (!e->format->pack)
        return mocl_fail(ctx, MOCL_E_ARG, "gguf: mocl does not write type %s (F32, F16, BF16, Q8_0)", e->format->name);
    if (t->shape[t->ndim - 1] % e->format->values)
        return mocl_fail(
            ctx, MOCL_E_ARG,
            "gguf: tensor '%.200s' has rows of %lld values, which do not fill blocks of %u (%s); write it as F16",
            e->name, (long long)t->shape[t->ndim - 1], e->format->values, e->format->name);
    if (e->heads > 0 && (t->ndim != 2 || t->shape[0] % (2 * e->heads)))
        return mocl_fail(ctx, MOCL_E_ARG,
                         "gguf: tensor '%.200s' has %lld rows, which are not %lld heads of an even size", e->name,
                         (long long)t->shape[0], (long long)e->heads);
    return MOCL_OK;
}

static mocl_status put_descriptions(saver *s, const mocl_gguf_source *list, size_t n) {
    uint64_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        const mocl_tensor *t = list[i].t;
        MOCL_TRY(put64(s, strlen(list[i].name)));
        MOCL_TRY(put(s, list[i].name, strlen(list[i].name)));
        MOCL_TRY(put32(s, (uint32_t)t->ndim));
        for (int d = t->ndim - 1; d >= 0; d--) MOCL_TRY(put64(s, (uint64_t)t->shape[d]));
        MOCL_TRY(put32(s, list[i].format->id));
        MOCL_TRY(put64(s, offset));
        offset += (bytes_of(&list[i]) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    return MOCL_OK;
}

/* bf16 as it came from the device, in the lower half of the room, to floats */
static void widen(mk_real *values, size_t n) {
    const mk_bf16 *half = (const mk_bf16 *)(const void *)values;
    for (size_t i = n; i-- > 0;) {
        mk_bf16 h;
        memcpy(&h, half + i, sizeof h);
        uint32_t bits = (uint32_t)h << 16;
        float f;
        memcpy(&f, &bits, 4);
        values[i] = f;
    }
}

/* rows first to first + n of the tensor in the order of the file; K: rows of a head, 0 = as they are, and n is then K
** */
static mocl_status put_rows(saver *s, const mocl_gguf_source *e, int64_t first, int64_t n, int64_t K, mk_real *values,
                            unsigned char *blocks) {
    const mocl_tensor *t = e->t;
    int64_t width = t->shape[t->ndim - 1];
    size_t size = mocl_dtype_size(t->dtype), row_bytes = (size_t)width / e->format->values * e->format->bytes;
    const char *from = (const char *)mocl_tensor_data(t) + (size_t)(first * width) * size;
    MOCL_TRY(mocl_device_download(t->storage->dev, values, from, (size_t)(n * width) * size));
    if (t->dtype == MK_BF16) widen(values, (size_t)(n * width));
    for (int64_t r = 0; r < n; r++) {
        int64_t source = K ? r / 2 + r % 2 * (K / 2) : r;
        const mk_real *row = values + source * width;
        unsigned char *block = blocks + (size_t)r * row_bytes;
        for (int64_t i = 0; i < width; i += e->format->values, block += e->format->bytes)
            e->format->pack(row + i, block);
    }
    return put(s, blocks, (size_t)n * row_bytes);
}

static mocl_status put_tensor(saver *s, const mocl_gguf_source *e) {
    int64_t width = e->t->shape[e->t->ndim - 1], rows = mocl_tensor_numel(e->t) / width;
    int64_t K = e->heads > 0 ? rows / e->heads : 0, at_once = K ? K : width < PIECE ? PIECE / width : 1;
    if (at_once > rows) at_once = rows;
    size_t n = (size_t)(at_once * width);
    mk_real *values = mocl_calloc(s->ctx, n, sizeof *values);
    unsigned char *blocks = mocl_calloc(s->ctx, n / e->format->values, e->format->bytes);
    mocl_status st = values && blocks ? MOCL_OK : mocl_nomem(s->ctx, n * sizeof *values);
    for (int64_t r = 0; r < rows && !st; r += at_once) {
        st = mocl_poll(s->ctx);
        if (!st) st = put_rows(s, e, r, rows - r < at_once ? rows - r : at_once, K, values, blocks);
    }
    mocl_free(values);
    mocl_free(blocks);
    return st ? st : pad(s);
}

static mocl_status put_all(saver *s, const char *keys, size_t key_bytes, size_t n_keys, const mocl_gguf_source *list,
                           size_t n) {
    MOCL_TRY(put(s, "GGUF", 4));
    MOCL_TRY(put32(s, 3));
    MOCL_TRY(put64(s, n));
    MOCL_TRY(put64(s, n_keys));
    MOCL_TRY(put(s, keys, key_bytes));
    MOCL_TRY(put_descriptions(s, list, n));
    if (n) MOCL_TRY(pad(s));
    for (size_t i = 0; i < n; i++) MOCL_TRY(put_tensor(s, &list[i]));
    return MOCL_OK;
}

mocl_status mocl_gguf_write(mocl_ctx *ctx, const char *path, const char *keys, size_t key_bytes, size_t n_keys,
                            const mocl_gguf_source *list, size_t n) {
    saver s = {.ctx = ctx};
    for (size_t i = 0; i < n; i++) MOCL_TRY(check(ctx, &list[i]));
    MOCL_TRY(mocl_writer_begin(ctx, &s.w, path));
    mocl_status st = put_all(&s, keys, key_bytes, n_keys, list, n);
    if (!st) return mocl_writer_commit(s.w);
    mocl_writer_abort(s.w);
    return st;
}
