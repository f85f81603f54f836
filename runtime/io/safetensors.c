/* safetensors.c - reading the safetensors format */
#define _GNU_SOURCE
#include "io/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "io/file.h" /* mocl_file_fail, mocl_path_tail */
#include "io/safetensors_header.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "mocl reads and writes little-endian data in place"
#endif

enum { HEADER_MAX = 100000000, LENGTH_BYTES = 8, MAX_NDIM = 64 };

static const struct {
    const char *name;
    int bits;
} dtypes[] = {{"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
              {"I8", 8},      {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
              {"F8_E5M2FNUZ", 8}, {"I16", 16}, {"U16", 16},   {"F16", 16},    {"BF16", 16},
              {"I32", 32},    {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
              {"I64", 64},    {"U64", 64}};

int mocl_safetensors_rank(const char *dtype) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(dtypes[i].name, dtype) == 0) return (int)i;
    }
    return -1;
}

int mocl_safetensors_bits(const char *dtype) {
    int rank = mocl_safetensors_rank(dtype);
    return rank < 0 ? 0 : dtypes[rank].bits;
}

/* ---- while parsing ---- */

typedef struct reader {
    mocl_ctx *ctx;
    const char *path;
    mocl_safetensors *s;
    size_t data_bytes; /* of the file after the header */
    /* one pool of each kind, sized beforehand, so that the entries can point into them */
    mocl_safetensors_entry *entries;
    mocl_safetensors_text *pairs;
    int64_t *sizes;
    char *text;
} reader;

static mocl_status fail_file(reader *r, const char *reason) {
    return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s", mocl_path_tail(r->path), reason);
}

static mocl_status fail_tensor(reader *r, const char *name, const char *reason) {
    return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: tensor '%.200s': %s", mocl_path_tail(r->path),
                     name, reason);
}

/* copies n bytes and a zero byte into the pool */
static const char *keep_text(reader *r, const char *text, size_t n) {
    char *start = r->text;
    memcpy(start, text, n);
    start[n] = '\0';
    r->text = start + n + 1;
    return start;
}

/* a size or offset: an integer >= 0 */
static bool read_size(const json_t *v, int64_t *out) {
    if (!json_is_integer(v)) return false;
    *out = json_integer_value(v);
    return *out >= 0;
}

static mocl_status read_shape(reader *r, const char *name, const json_t *shape,
                              mocl_safetensors_entry *e, size_t *count) {
    if (!json_is_array(shape)) return fail_tensor(r, name, "'shape' is missing or not an array");
    size_t ndim = json_array_size(shape);
    if (ndim > MAX_NDIM) return fail_tensor(r, name, "'shape' has more than 64 sizes");
    e->ndim = (int)ndim;
    e->shape = r->sizes;
    *count = 1;
    bool overflow = false, empty = false;
    for (size_t i = 0; i < ndim; i++) {
        int64_t size;
        if (!read_size(json_array_get(shape, i), &size)) {
            return fail_tensor(r, name, "'shape' holds something that is not a size");
        }
        *r->sizes++ = size;
        empty = empty || size == 0;
        overflow = overflow || !mocl_mul(*count, (size_t)size, count);
    }
    if (empty) *count = 0; /* whatever the other sizes are */
    if (overflow && !empty) return fail_tensor(r, name, "the product of 'shape' overflows");
    return MOCL_OK;
}

static mocl_status read_entry(reader *r, const mocl_member *m, mocl_safetensors_entry *e) {
    const char *name = m->name;
    const json_t *info = m->value;
    if (!json_is_object(info)) return fail_tensor(r, name, "its description is not an object");
    const json_t *dtype = json_object_get(info, "dtype");
    const json_t *offsets = json_object_get(info, "data_offsets");
    if (!json_is_string(dtype)) return fail_tensor(r, name, "'dtype' is missing or not a string");
    int bits = mocl_safetensors_bits(json_string_value(dtype));
    if (!bits || strlen(json_string_value(dtype)) != json_string_length(dtype)) {
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: tensor '%.200s': unknown dtype '%.40s'",
                         mocl_path_tail(r->path), name, json_string_value(dtype));
    }
    size_t count = 0, total_bits;
    MOCL_TRY(read_shape(r, name, json_object_get(info, "shape"), e, &count));
    if (!mocl_mul(count, (size_t)bits, &total_bits)) {
        return fail_tensor(r, name, "the product of 'shape' overflows");
    }
    if (total_bits % 8) return fail_tensor(r, name, "its elements do not fill whole bytes");
    int64_t begin, end;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !read_size(json_array_get(offsets, 0), &begin) ||
        !read_size(json_array_get(offsets, 1), &end) || begin > end) {
        return fail_tensor(r, name, "'data_offsets' is not a pair begin <= end");
    }
    if ((uint64_t)end > r->data_bytes) {
        return mocl_fail(r->ctx, MOCL_E_FORMAT,
                         "%s: tensor '%.200s': ends at byte %lld of the data, the file has %zu: "
                         "it is cut", mocl_path_tail(r->path), name, (long long)end, r->data_bytes);
    }
    if ((uint64_t)(end - begin) != total_bits / 8) {
        return mocl_fail(r->ctx, MOCL_E_FORMAT,
                         "%s: tensor '%.200s': dtype and shape need %zu bytes, data_offsets give "
                         "%lld", mocl_path_tail(r->path), name, total_bits / 8,
                         (long long)(end - begin));
    }
    e->name = keep_text(r, name, m->n);
    e->name_bytes = m->n;
    e->dtype = keep_text(r, json_string_value(dtype), json_string_length(dtype));
    e->bytes = (size_t)(end - begin);
    e->data = (const char *)r->s->map + (r->s->map_bytes - r->data_bytes) + begin;
    return MOCL_OK;
}

static mocl_status read_pair(reader *r, const mocl_member *m) {
    if (!json_is_string(m->value)) {
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: '__metadata__': '%.200s' is not a string",
                         mocl_path_tail(r->path), m->name);
    }
    mocl_safetensors_text *pair = &r->pairs[r->s->n_metadata++];
    pair->key_bytes = m->n;
    pair->key = keep_text(r, m->name, m->n);
    pair->value_bytes = json_string_length(m->value);
    pair->value = keep_text(r, json_string_value(m->value), pair->value_bytes);
    return MOCL_OK;
}

/* ---- orders ---- */

static int compare(const char *a, size_t n, const char *b, size_t m) {
    int order = memcmp(a, b, n < m ? n : m);
    return order ? order : (n > m) - (n < m);
}

/* empty tensors before the one that begins at the same byte; equal ones by name */
static int by_offset(const void *a, const void *b) {
    const mocl_safetensors_entry *x = a, *y = b;
    if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return compare(x->name, x->name_bytes, y->name, y->name_bytes);
}

static int by_name(const void *a, const void *b) {
    const mocl_safetensors_entry *const *x = a, *const *y = b;
    return compare((*x)->name, (*x)->name_bytes, (*y)->name, (*y)->name_bytes);
}

static int by_key(const void *a, const void *b) {
    const mocl_safetensors_text *x = a, *y = b;
    return compare(x->key, x->key_bytes, y->key, y->key_bytes);
}

/* no overlap, no hole, nothing after the last one */
static mocl_status check_layout(reader *r) {
    const mocl_safetensors *s = r->s;
    const char *at = (const char *)s->map + (s->map_bytes - r->data_bytes);
    const char *end = (const char *)s->map + s->map_bytes;
    for (size_t i = 0; i < s->n; i++) {
        const mocl_safetensors_entry *e = &s->entries[i];
        if ((const char *)e->data < at) {
            return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: tensor '%.200s': overlaps tensor '%.200s'",
                             mocl_path_tail(r->path), e->name, s->entries[i - 1].name);
        }
        if ((const char *)e->data > at) {
            return mocl_fail(r->ctx, MOCL_E_FORMAT,
                             "%s: tensor '%.200s': %zu bytes before it belong to no tensor",
                             mocl_path_tail(r->path), e->name,
                             (size_t)((const char *)e->data - at));
        }
        at += e->bytes;
    }
    if (at != end) {
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %zu bytes at the end belong to no tensor",
                         mocl_path_tail(r->path), (size_t)(end - at));
    }
    return MOCL_OK;
}

/* ---- opening ---- */

static mocl_status read_header(reader *r, const mocl_members *tensors, const mocl_members *metadata) {
    mocl_safetensors *s = r->s;
    mocl_ctx *ctx = r->ctx;
    /* How much of each pool the header needs. It is not trusted: wrong types count nothing. */
    size_t sizes = 0, text = 0, room = tensors->n;
    for (size_t i = 0; i < room; i++) {
        const mocl_member *m = &tensors->list[i];
        sizes += json_array_size(json_object_get(m->value, "shape"));
        text += m->n + json_string_length(json_object_get(m->value, "dtype")) + 2;
    }
    for (size_t i = 0; i < metadata->n; i++) text += metadata->list[i].n + json_string_length(metadata->list[i].value) + 2;
    /* owned by s from here on; close frees them */
    r->entries = mocl_calloc(ctx, room, sizeof *r->entries);
    s->entries = r->entries;
    r->pairs = mocl_calloc(ctx, metadata->n, sizeof *r->pairs);
    s->metadata = r->pairs;
    s->by_name = mocl_calloc(ctx, room, sizeof *s->by_name);
    r->sizes = mocl_calloc(ctx, sizes, sizeof *r->sizes);
    s->sizes = r->sizes;
    r->text = mocl_alloc(ctx, text);
    s->text = r->text;
    if (!r->entries || !r->pairs || !s->by_name || !r->sizes || !r->text) {
        return mocl_nomem(ctx, room * sizeof *r->entries);
    }
    for (size_t i = 0; i < metadata->n; i++) MOCL_TRY(read_pair(r, &metadata->list[i]));
    for (size_t i = 0; i < room; i++) {
        MOCL_TRY(read_entry(r, &tensors->list[i], &r->entries[s->n]));
        s->n++;
    }
    if (s->n) qsort(r->entries, s->n, sizeof *r->entries, by_offset);
    if (s->n_metadata) qsort(r->pairs, s->n_metadata, sizeof *r->pairs, by_key);
    MOCL_TRY(check_layout(r));
    for (size_t i = 0; i < s->n; i++) s->by_name[i] = &r->entries[i];
    if (s->n) qsort(s->by_name, s->n, sizeof *s->by_name, by_name);
    return MOCL_OK;
}

static mocl_status parse(reader *r) {
    mocl_safetensors *s = r->s;
    uint64_t length;
    if (s->map_bytes < LENGTH_BYTES) {
        return fail_file(r, "not a safetensors file: shorter than 8 bytes");
    }
    memcpy(&length, s->map, LENGTH_BYTES);
    if (length > HEADER_MAX) {
        return fail_file(r, "not a safetensors file: its header would be over 100 MB");
    }
    if (length > s->map_bytes - LENGTH_BYTES) {
        return mocl_fail(r->ctx, MOCL_E_FORMAT,
                         "%s: the header has %llu bytes, the file %zu after its length: it is cut",
                         mocl_path_tail(r->path), (unsigned long long)length,
                         s->map_bytes - LENGTH_BYTES);
    }
    const char *header = (const char *)s->map + LENGTH_BYTES;
    size_t blanks = 0;
    while (blanks < length && memchr(" \t\n\r", header[blanks], 4)) blanks++;
    if (blanks == length || header[blanks] != '{') return fail_file(r, "its header does not begin with '{'");
    if (memchr(header, 0, (size_t)length)) { /* the parser would skip one after a number */
        return fail_file(r, "its header contains a zero byte");
    }
    r->data_bytes = s->map_bytes - LENGTH_BYTES - (size_t)length;
    mocl_passing_add(&s->hash, s->map, s->map_bytes - r->data_bytes);
    mocl_members tensors, metadata;
    mocl_status st = mocl_members_read(r->ctx, &tensors, &metadata, r->path, header, (size_t)length);
    if (!st) st = read_header(r, &tensors, &metadata);
    mocl_members_free(&tensors);
    mocl_members_free(&metadata);
    return st;
}

mocl_status mocl_safetensors_open(mocl_ctx *ctx, mocl_safetensors **out, const char *path) {
    mocl_safetensors *s = mocl_calloc(ctx, 1, sizeof *s);
    *out = NULL;
    if (!s) return mocl_nomem(ctx, sizeof *s);
    reader r = {.ctx = ctx, .path = path, .s = s};
    struct stat info;
    mocl_status st = mocl_file_map(ctx, path, &s->map, &s->map_bytes, &info);
    if (s->map) mocl_passing_begin(&s->hash, ctx, &info);
    if (!st) st = parse(&r);
    if (st) {
        mocl_safetensors_close(s);
        return st;
    }
    *out = s;
    return MOCL_OK;
}

void mocl_safetensors_close(mocl_safetensors *s) {
    if (!s) return;
    if (s->mapping) mocl_mapping_unref(s->mapping);
    else if (s->map) munmap(s->map, s->map_bytes);
    mocl_free((void *)s->entries);
    mocl_free((void *)s->metadata);
    mocl_free(s->by_name);
    mocl_free(s->sizes);
    mocl_free(s->text);
    mocl_free(s);
}

void mocl_safetensors_pass(mocl_safetensors *s, size_t i) { mocl_passing_add(&s->hash, s->entries[i].data, s->entries[i].bytes); }

void mocl_safetensors_passed(mocl_ctx *ctx, mocl_safetensors *s, const char *path) {
    struct stat info;
    if (s->hash.on && !stat(path, &info)) mocl_passing_read(&s->hash, ctx, &info);
}

/* Tensors may be written to: the pages are private, so that the file stays as it is. */
static mocl_status share_map(mocl_ctx *ctx, mocl_safetensors *s) {
    if (mprotect(s->map, s->map_bytes, PROT_READ | PROT_WRITE)) return mocl_nomem(ctx, s->map_bytes);
    s->mapping = mocl_calloc(ctx, 1, sizeof *s->mapping);
    if (!s->mapping) return mocl_nomem(ctx, sizeof *s->mapping);
    *s->mapping = (mocl_mapping){.refs = 1, .map = s->map, .bytes = s->map_bytes};
    return MOCL_OK;
}

mocl_status mocl_safetensors_tensor(mocl_tensor **out, mocl_device *dev, mocl_safetensors *s, const mocl_safetensors_entry *e,
                                    mk_dtype dtype, bool map) {
    *out = NULL;
    if (!map || dev != dev->ctx->device[MOCL_DEVICE_CPU] || !e->bytes || (uintptr_t)e->data % mocl_dtype_size(dtype))
        return mocl_tensor_from_host(out, dev, dtype, e->ndim, e->shape, e->data);
    if (!s->mapping) MOCL_TRY(share_map(dev->ctx, s));
    return mocl_tensor_of_map(out, dev, dtype, e->ndim, e->shape, s->mapping, (void *)(uintptr_t)e->data);
}

const mocl_safetensors_entry *mocl_safetensors_find(const mocl_safetensors *s, const char *name) {
    size_t low = 0, high = s->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare(name, strlen(name), s->by_name[middle]->name, s->by_name[middle]->name_bytes);
        if (order == 0) return s->by_name[middle];
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}
