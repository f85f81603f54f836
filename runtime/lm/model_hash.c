/* model_hash.c - one hash for the base weights of a model, by which an adapter knows its base */
#include <stdio.h>
#include <string.h>

#include "lm/model.h"

enum { PIECE = 1 << 16 };

typedef struct hasher {
    mocl_sha256 h;
    mocl_device *dev;
    void *piece;
} hasher;

static mocl_status hash_tensor(void *arg, const char *name, mocl_tensor *t) {
    hasher *s = arg;
    char shape[128], line[320];
    int n = snprintf(line, sizeof line, "%s %s %s\n", name, mocl_dtype_name(t->dtype), mocl_shape_text(shape, t->ndim, t->shape));
    mocl_tensor *c = NULL;
    mocl_sha256_add(&s->h, line, (size_t)n);
    MOCL_TRY(mocl_tensor_contiguous(&c, t));
    size_t bytes = (size_t)mocl_tensor_numel(c) * mocl_dtype_size(c->dtype);
    mocl_status st = MOCL_OK;
    for (size_t at = 0; at < bytes && !st; at += PIECE) {
        size_t size = bytes - at < PIECE ? bytes - at : PIECE;
        st = mocl_device_download(s->dev, s->piece, (const char *)mocl_tensor_data(c) + at, size);
        if (!st) mocl_sha256_add(&s->h, s->piece, size);
        if (!st) st = mocl_poll(t->ctx);
    }
    mocl_tensor_unref(c);
    return st;
}

/* What the parts of a weight do not say: where it is not what mocl_weight_new makes. */
static void hash_layouts(const mocl_model *m, mocl_sha256 *h) {
    for (int64_t i = 0; i < m->config.layers * MOCL_ALL_LINEARS; i++) {
        const mocl_weight *w = &m->block[i / MOCL_ALL_LINEARS].linear[i % MOCL_ALL_LINEARS];
        char line[96];
        if (w->format < MK_FORMAT_NF4 || (w->format == MK_FORMAT_NF4 && w->block == MOCL_WEIGHT_BLOCK && w->rounded == MK_F32)) continue;
        int n = snprintf(line, sizeof line, "%lld %s %lld %s\n", (long long)i, mocl_format_name(w->format), (long long)w->block,
                         mocl_dtype_name(w->rounded));
        mocl_sha256_add(h, line, (size_t)n);
    }
}

/* Counts of writes only grow, so their sum changes with any of them. */
static mocl_status add_version(void *arg, const char *name, mocl_tensor *t) {
    (void)name;
    *(uint64_t *)arg += (uint64_t)t->storage->version;
    return MOCL_OK;
}

mocl_status mocl_model_hash(mocl_model *m, const char **hex) {
    uint64_t version = 0;
    *hex = NULL;
    MOCL_TRY(mocl_model_visit(m, NULL, add_version, &version));
    if (!m->hash[0] || version != m->hash_version) {
        hasher s = {.dev = m->dev, .piece = mocl_alloc(m->ctx, PIECE)};
        if (!s.piece) return mocl_nomem(m->ctx, PIECE);
        mocl_sha256_begin(&s.h);
        m->hash[0] = '\0';
        hash_layouts(m, &s.h);
        mocl_status st = mocl_model_visit(m, NULL, hash_tensor, &s);
        mocl_free(s.piece);
        if (st) return st;
        mocl_sha256_end(&s.h, m->hash);
        m->hash_version = version;
    }
    *hex = m->hash;
    return MOCL_OK;
}
