/* safetensors_write.c - writing the safetensors format */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h" /* mocl_writer */
#include "io/safetensors.h"
#include "io/text.h" /* mocl_utf8_check */

enum { HEADER_MAX = 100000000, LENGTH_BYTES = 8, PIECE = 1 << 20 };

/* a tensor in the order of the file */
typedef struct item {
    const mocl_safetensors_source *source;
    int rank;
    size_t bytes;
} item;

/* the header as it grows; `failed` is looked at once, at the end */
typedef struct header {
    mocl_ctx *ctx;
    char *text;
    size_t used, room;
    bool failed;
} header;

static void add(header *h, const char *p, size_t n) {
    if (h->failed) return;
    if (h->used + n > h->room) {
        size_t room = 2 * (h->used + n) + 1024;
        char *text = mocl_realloc(h->ctx, h->text, room);
        if (!text) {
            h->failed = true;
            return;
        }
        h->text = text;
        h->room = room;
    }
    memcpy(h->text + h->used, p, n);
    h->used += n;
}

static void add_text(header *h, const char *text) { add(h, text, strlen(text)); }

static void add_number(header *h, uint64_t value) {
    char digits[24];
    add(h, digits, (size_t)snprintf(digits, sizeof digits, "%llu", (unsigned long long)value));
}

/* as a JSON string: only what must be escaped is */
static void add_string(header *h, const char *text) {
    static const char named[] = "\b\f\n\r\t\"\\", letters[] = "bfnrt\"\\";
    add_text(h, "\"");
    for (const char *p = text; *p; p++) {
        const char *at = strchr(named, *p);
        if (at) {
            char escape[2] = {'\\', letters[at - named]};
            add(h, escape, 2);
        } else if ((unsigned char)*p < 0x20) {
            char escape[8];
            add(h, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", *p));
        } else {
            add(h, p, 1);
        }
    }
    add_text(h, "\"");
}

static int widest_first(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->rank != y->rank) return x->rank > y->rank ? -1 : 1;
    return strcmp(x->source->name, y->source->name);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const item *)a)->source->name, ((const item *)b)->source->name);
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const mocl_safetensors_pair *)a)->key, ((const mocl_safetensors_pair *)b)->key);
}

static mocl_status fail_arg(mocl_ctx *ctx, const char *name, const char *reason) {
    return mocl_fail(ctx, MOCL_E_ARG, "safetensors: tensor '%.200s': %s", name, reason);
}

static bool is_utf8(const char *text) {
    size_t n = strlen(text);
    return mocl_utf8_check(text, n) == n;
}

/* fills the item after checking its source */
static mocl_status check_source(mocl_ctx *ctx, const mocl_safetensors_source *source, item *out) {
    if (!is_utf8(source->name)) return fail_arg(ctx, source->name, "its name is not UTF-8");
    if (strcmp(source->name, "__metadata__") == 0) {
        return fail_arg(ctx, source->name, "this name is reserved");
    }
    out->source = source;
    out->rank = mocl_safetensors_rank(source->dtype);
    if (out->rank < 0) {
        return mocl_fail(ctx, MOCL_E_ARG, "safetensors: tensor '%.200s': unknown dtype '%.40s'",
                         source->name, source->dtype);
    }
    size_t bits = (size_t)mocl_safetensors_bits(source->dtype);
    bool fits = true;
    for (int i = 0; i < source->ndim; i++) {
        if (source->shape[i] < 0) return fail_arg(ctx, source->name, "a size is negative");
        fits = fits && mocl_mul(bits, (size_t)source->shape[i], &bits);
    }
    if (!fits) return fail_arg(ctx, source->name, "the product of its shape overflows");
    if (bits % 8) return fail_arg(ctx, source->name, "its elements do not fill whole bytes");
    out->bytes = bits / 8;
    if (out->bytes && !source->data && !source->fill) {
        return fail_arg(ctx, source->name, "it has neither data nor a function that gives them");
    }
    return MOCL_OK;
}

static mocl_status add_metadata(header *h, mocl_safetensors_pair *pairs, size_t n) {
    if (n == 0) return MOCL_OK;
    qsort(pairs, n, sizeof *pairs, by_key);
    add_text(h, "\"__metadata__\":{");
    for (size_t i = 0; i < n; i++) {
        if (!is_utf8(pairs[i].key) || !is_utf8(pairs[i].value)) {
            return mocl_fail(h->ctx, MOCL_E_ARG, "safetensors: metadata '%.200s' is not UTF-8",
                             pairs[i].key);
        }
        if (i > 0 && strcmp(pairs[i].key, pairs[i - 1].key) == 0) {
            return mocl_fail(h->ctx, MOCL_E_ARG, "safetensors: metadata '%.200s' is there twice",
                             pairs[i].key);
        }
        if (i > 0) add_text(h, ",");
        add_string(h, pairs[i].key);
        add_text(h, ":");
        add_string(h, pairs[i].value);
    }
    add_text(h, "}");
    return MOCL_OK;
}

static mocl_status add_items(header *h, const item *items, size_t n) {
    uint64_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        const mocl_safetensors_source *source = items[i].source;
        if (h->used > 1) add_text(h, ",");
        add_string(h, source->name);
        add_text(h, ":{\"dtype\":\"");
        add_text(h, source->dtype);
        add_text(h, "\",\"shape\":[");
        for (int k = 0; k < source->ndim; k++) {
            if (k > 0) add_text(h, ",");
            add_number(h, (uint64_t)source->shape[k]);
        }
        add_text(h, "],\"data_offsets\":[");
        add_number(h, offset);
        add_text(h, ",");
        if (__builtin_add_overflow(offset, items[i].bytes, &offset) || offset > INT64_MAX) {
            return fail_arg(h->ctx, source->name, "the sizes add up to more than a file can hold");
        }
        add_number(h, offset);
        add_text(h, "]}");
    }
    return MOCL_OK;
}

static mocl_status build_header(header *h, item *items, size_t n, mocl_safetensors_pair *pairs,
                                size_t n_pairs) {
    if (n) qsort(items, n, sizeof *items, by_name);
    for (size_t i = 1; i < n; i++) {
        if (strcmp(items[i].source->name, items[i - 1].source->name) == 0) {
            return fail_arg(h->ctx, items[i].source->name, "this name is there twice");
        }
    }
    if (n) qsort(items, n, sizeof *items, widest_first);
    add_text(h, "{");
    MOCL_TRY(add_metadata(h, pairs, n_pairs));
    MOCL_TRY(add_items(h, items, n));
    add_text(h, "}");
    while (h->used % 8 && !h->failed) add_text(h, " ");
    if (h->failed) return mocl_nomem(h->ctx, h->used);
    if (h->used > HEADER_MAX) {
        return mocl_fail(h->ctx, MOCL_E_ARG, "safetensors: the header would be over 100 MB");
    }
    return MOCL_OK;
}

static mocl_status write_data(mocl_ctx *ctx, mocl_writer *w, const item *it, void *piece) {
    if (it->source->data) return mocl_writer_append(w, it->source->data, it->bytes);
    for (size_t offset = 0; offset < it->bytes;) {
        size_t n = it->bytes - offset < PIECE ? it->bytes - offset : PIECE;
        MOCL_TRY(it->source->fill(ctx, it->source->user, offset, piece, n));
        MOCL_TRY(mocl_writer_append(w, piece, n));
        offset += n;
    }
    return MOCL_OK;
}

static mocl_status write_file(mocl_ctx *ctx, const char *path, const header *h, const item *items,
                              size_t n, void *piece) {
    mocl_writer *w;
    mocl_status st;
    uint64_t length = h->used;
    MOCL_TRY(mocl_writer_begin(ctx, &w, path));
    MOCL_GOTO(mocl_writer_append(w, &length, LENGTH_BYTES), failed);
    MOCL_GOTO(mocl_writer_append(w, h->text, h->used), failed);
    for (size_t i = 0; i < n; i++) MOCL_GOTO(write_data(ctx, w, &items[i], piece), failed);
    return mocl_writer_commit(w);
failed:
    mocl_writer_abort(w);
    return st;
}

mocl_status mocl_safetensors_write(mocl_ctx *ctx, const char *path,
                                   const mocl_safetensors_source *list, size_t n,
                                   const mocl_safetensors_pair *metadata, size_t n_metadata) {
    mocl_status st = MOCL_OK;
    header h = {.ctx = ctx};
    item *items = mocl_calloc(ctx, n, sizeof *items);
    mocl_safetensors_pair *pairs = mocl_calloc(ctx, n_metadata, sizeof *pairs);
    void *piece = mocl_alloc(ctx, PIECE);
    if (!items || !pairs || !piece) {
        st = mocl_nomem(ctx, PIECE);
        goto done;
    }
    for (size_t i = 0; i < n; i++) MOCL_GOTO(check_source(ctx, &list[i], &items[i]), done);
    if (n_metadata) memcpy(pairs, metadata, n_metadata * sizeof *pairs);
    MOCL_GOTO(build_header(&h, items, n, pairs, n_metadata), done);
    st = write_file(ctx, path, &h, items, n, piece);
done:
    mocl_free(piece);
    mocl_free(pairs);
    mocl_free(items);
    mocl_free(h.text);
    return st;
}
