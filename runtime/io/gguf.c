/* gguf.c - reading the GGUF format */
#define _GNU_SOURCE
#include "io/gguf.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h" /* mocl_file_fail, mocl_path_tail */
#include "io/text.h" /* mocl_utf8_check */

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "mocl reads little-endian data in place"
#endif

enum {
    HEADER_BYTES = 24,
    KEY_LEAST = 8 + 1 + 4 + 1,            /* bytes of the shortest key: a name of one byte, a type, a value */
    TENSOR_LEAST = 8 + 1 + 4 + 8 + 4 + 8, /* of the shortest description of a tensor */
    DEFAULT_ALIGNMENT = 32,
    MAX_DEPTH = 4 /* of arrays in arrays */
};

static const struct {
    const char *name;
    size_t bytes; /* of one value, the least where they differ */
} types[MOCL_GGUF_TYPES] = {
    [MOCL_GGUF_U8] = {"u8", 1},        [MOCL_GGUF_I8] = {"i8", 1},     [MOCL_GGUF_U16] = {"u16", 2},
    [MOCL_GGUF_I16] = {"i16", 2},      [MOCL_GGUF_U32] = {"u32", 4},   [MOCL_GGUF_I32] = {"i32", 4},
    [MOCL_GGUF_F32] = {"f32", 4},      [MOCL_GGUF_BOOL] = {"bool", 1}, [MOCL_GGUF_STRING] = {"string", 8},
    [MOCL_GGUF_ARRAY] = {"array", 12}, [MOCL_GGUF_U64] = {"u64", 8},   [MOCL_GGUF_I64] = {"i64", 8},
    [MOCL_GGUF_F64] = {"f64", 8}};

const char *mocl_gguf_type_name(mocl_gguf_type type) {
    return (unsigned)type < MOCL_GGUF_TYPES ? types[type].name : "";
}

/* ---- values of an open file ---- */

static uint64_t get64(const unsigned char *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static uint32_t get32(const unsigned char *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static void read_number(mocl_gguf_value *out, const unsigned char *at) {
    uint16_t half = 0;
    float f;
    if (types[out->type].bytes == 2) memcpy(&half, at, 2);
    switch (out->type) {
        case MOCL_GGUF_U8: out->integer = *at; break;
        case MOCL_GGUF_I8: out->integer = (int8_t)*at; break;
        case MOCL_GGUF_U16: out->integer = half; break;
        case MOCL_GGUF_I16: out->integer = (int16_t)half; break;
        case MOCL_GGUF_U32: out->integer = get32(at); break;
        case MOCL_GGUF_I32: out->integer = (int32_t)get32(at); break;
        case MOCL_GGUF_U64:
        case MOCL_GGUF_I64: out->integer = (int64_t)get64(at); break;
        case MOCL_GGUF_BOOL: out->truth = *at != 0; break;
        case MOCL_GGUF_F32:
            memcpy(&f, at, 4);
            out->real = (double)f;
            break;
        default: memcpy(&out->real, at, 8); break; /* MOCL_GGUF_F64 */
    }
}

const unsigned char *mocl_gguf_read(mocl_gguf_value *out, mocl_gguf_type type, const unsigned char *at) {
    *out = (mocl_gguf_value){.type = type};
    if (type == MOCL_GGUF_STRING) {
        out->text_bytes = (size_t)get64(at);
        out->text = (const char *)at + 8;
        return at + 8 + out->text_bytes;
    }
    if (type != MOCL_GGUF_ARRAY) {
        read_number(out, at);
        return at + types[type].bytes;
    }
    out->element = (mocl_gguf_type)get32(at);
    out->count = get64(at + 4);
    out->at = at += 12;
    if (out->element != MOCL_GGUF_STRING && out->element != MOCL_GGUF_ARRAY)
        return at + out->count * types[out->element].bytes;
    mocl_gguf_value inner;
    for (uint64_t i = 0; i < out->count; i++) at = mocl_gguf_read(&inner, out->element, at);
    return at;
}

/* ---- while parsing ---- */

typedef struct reader {
    mocl_ctx *ctx;
    const char *path;
    mocl_gguf *g;
    mocl_gguf_key *keys;
    mocl_gguf_tensor *tensors;
    uint64_t n_keys, n_tensors; /* that the file says it has */
    const unsigned char *at, *end;
    char *text;        /* where the next name goes; NULL in the first pass, which checks and measures */
    size_t text_bytes; /* of all names with a zero byte each */
    char what[256];    /* what is being read, for messages: "key 'x'" */
} reader;

static mocl_status fail(reader *r, const char *reason) {
    return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s%s%s", mocl_path_tail(r->path), r->what, r->what[0] ? ": " : "",
                     reason);
}

static mocl_status fail_cut(reader *r) {
    return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s%sthe file of %zu bytes ends in the middle: it is cut, get it again",
                     mocl_path_tail(r->path), r->what, r->what[0] ? ": " : "", r->g->map_bytes);
}

static size_t left(const reader *r) { return (size_t)(r->end - r->at); }

static mocl_status read32(reader *r, uint32_t *out) {
    if (left(r) < 4) return fail_cut(r);
    *out = get32(r->at);
    r->at += 4;
    return MOCL_OK;
}

static mocl_status read64(reader *r, uint64_t *out) {
    if (left(r) < 8) return fail_cut(r);
    *out = get64(r->at);
    r->at += 8;
    return MOCL_OK;
}

/* A number of things of at least `least` bytes each; refused where the rest of the file is too short for them. */
static mocl_status check_count(reader *r, uint64_t n, size_t least, const char *things) {
    if (n <= left(r) / least) return MOCL_OK;
    return mocl_fail(r->ctx, MOCL_E_FORMAT,
                     "%s: %s%s%llu %s do not fit into the %zu bytes that are left: the file is cut or damaged",
                     mocl_path_tail(r->path), r->what, r->what[0] ? ": " : "", (unsigned long long)n, things, left(r));
}

static mocl_status read_text(reader *r, const char **text, size_t *n) {
    uint64_t bytes = 0;
    MOCL_TRY(read64(r, &bytes));
    MOCL_TRY(check_count(r, bytes, 1, "bytes of a string"));
    *text = (const char *)r->at;
    *n = (size_t)bytes;
    r->at += bytes;
    return MOCL_OK;
}

/* The name of a key or tensor, number i of its kind; r->what names it from then on. */
static mocl_status read_name(reader *r, const char *kind, uint64_t i, const char **out) {
    const char *text;
    size_t n;
    snprintf(r->what, sizeof r->what, "%s number %llu", kind, (unsigned long long)i + 1);
    MOCL_TRY(read_text(r, &text, &n));
    if (n == 0) return fail(r, "its name is empty");
    if (memchr(text, 0, n)) return fail(r, "its name contains a zero byte");
    if (mocl_utf8_check(text, n) != n) return fail(r, "its name is not UTF-8");
    snprintf(r->what, sizeof r->what, "%s '%.*s'", kind, (int)(n > 200 ? 200 : n), text);
    *out = r->text;
    if (r->text) {
        memcpy(r->text, text, n);
        r->text[n] = '\0';
        r->text += n + 1;
    } else {
        r->text_bytes += n + 1;
    }
    return MOCL_OK;
}

static mocl_status check_type(reader *r, uint32_t type) {
    if (type < MOCL_GGUF_TYPES) return MOCL_OK;
    return mocl_fail(r->ctx, MOCL_E_FORMAT,
                     "%s: %s: type %u is unknown (0 to %d are known): the file is damaged or of a newer format",
                     mocl_path_tail(r->path), r->what, type, MOCL_GGUF_TYPES - 1);
}

/* Steps over a value of a known type and checks all of it. */
static mocl_status check_value(reader *r, mocl_gguf_type type, int depth) {
    const char *text;
    size_t n;
    uint32_t element = 0;
    uint64_t count = 0;
    if (type == MOCL_GGUF_STRING) return read_text(r, &text, &n);
    if (type != MOCL_GGUF_ARRAY) {
        if (left(r) < types[type].bytes) return fail_cut(r);
        if (type == MOCL_GGUF_BOOL && *r->at > 1) return fail(r, "a truth value is neither 0 nor 1");
        if (type == MOCL_GGUF_U64 && get64(r->at) > INT64_MAX)
            return fail(r, "a value is above 9223372036854775807, which mocl does not hold");
        r->at += types[type].bytes;
        return MOCL_OK;
    }
    if (depth == MAX_DEPTH) return fail(r, "arrays are nested more than 4 deep");
    MOCL_TRY(read32(r, &element));
    MOCL_TRY(check_type(r, element));
    MOCL_TRY(read64(r, &count));
    MOCL_TRY(check_count(r, count, types[element].bytes, "values of an array"));
    for (uint64_t i = 0; i < count; i++) MOCL_TRY(check_value(r, (mocl_gguf_type)element, depth + 1));
    return MOCL_OK;
}

static mocl_status read_key(reader *r, uint64_t i) {
    mocl_gguf_key *key = &r->keys[i];
    uint32_t type = 0;
    MOCL_TRY(read_name(r, "key", i, &key->name));
    MOCL_TRY(read32(r, &type));
    MOCL_TRY(check_type(r, type));
    const unsigned char *start = r->at;
    if (r->text)
        r->at = mocl_gguf_read(&key->value, (mocl_gguf_type)type, start);
    else
        MOCL_TRY(check_value(r, (mocl_gguf_type)type, 0));
    return MOCL_OK;
}

/* the sizes, innermost first in the file */
static mocl_status read_shape(reader *r, mocl_gguf_tensor *t) {
    uint32_t ndim = 0;
    MOCL_TRY(read32(r, &ndim));
    if (ndim == 0) return fail(r, "it has no dimensions");
    if (ndim > 4) {
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s: it has %u dimensions, the format has at most 4",
                         mocl_path_tail(r->path), r->what, ndim);
    }
    t->ndim = (int)ndim;
    t->numel = 1;
    for (uint32_t d = 0; d < ndim; d++) {
        uint64_t size = 0;
        MOCL_TRY(read64(r, &size));
        if (size == 0) return fail(r, "one of its sizes is 0");
        if (size > INT64_MAX || __builtin_mul_overflow(t->numel, (int64_t)size, &t->numel))
            return fail(r, "the product of its sizes overflows");
        t->shape[ndim - 1 - d] = (int64_t)size;
    }
    return MOCL_OK;
}

static mocl_status read_tensor(reader *r, uint64_t i) {
    mocl_gguf_tensor *t = &r->tensors[i];
    uint32_t type = 0;
    uint64_t offset = 0;
    MOCL_TRY(read_name(r, "tensor", i, &t->name));
    MOCL_TRY(read_shape(r, t));
    MOCL_TRY(read32(r, &type));
    t->format = mocl_gguf_format_of(type);
    if (!t->format) {
        return mocl_fail(r->ctx, MOCL_E_FORMAT,
                         "%s: %s: its type %u is unknown: it was withdrawn or is newer than mocl; write the file "
                         "anew with a current llama.cpp, in another type",
                         mocl_path_tail(r->path), r->what, type);
    }
    int64_t row = t->shape[t->ndim - 1];
    if (row % t->format->values) {
        return mocl_fail(r->ctx, MOCL_E_FORMAT,
                         "%s: %s: its rows have %lld values, which do not fill blocks of %u (%s)",
                         mocl_path_tail(r->path), r->what, (long long)row, t->format->values, t->format->name);
    }
    if (!mocl_mul((size_t)t->numel / t->format->values, t->format->bytes, &t->bytes))
        return fail(r, "the product of its sizes overflows");
    MOCL_TRY(read64(r, &offset));
    t->data = (const void *)(uintptr_t)offset; /* of the data, until place_tensors */
    return MOCL_OK;
}

static mocl_status read_all(reader *r) {
    r->at = (const unsigned char *)r->g->map + HEADER_BYTES;
    for (uint64_t i = 0; i < r->n_keys; i++) MOCL_TRY(read_key(r, i));
    r->what[0] = '\0';
    MOCL_TRY(check_count(r, r->n_tensors, TENSOR_LEAST, "tensors"));
    for (uint64_t i = 0; i < r->n_tensors; i++) MOCL_TRY(read_tensor(r, i));
    r->what[0] = '\0';
    return MOCL_OK;
}

/* ---- orders ---- */

static int key_order(const void *a, const void *b) {
    return strcmp((*(const mocl_gguf_key *const *)a)->name, (*(const mocl_gguf_key *const *)b)->name);
}

static int tensor_order(const void *a, const void *b) {
    return strcmp((*(const mocl_gguf_tensor *const *)a)->name, (*(const mocl_gguf_tensor *const *)b)->name);
}

static int data_order(const void *a, const void *b) {
    const mocl_gguf_tensor *x = *(const mocl_gguf_tensor *const *)a, *y = *(const mocl_gguf_tensor *const *)b;
    return x->data != y->data ? ((uintptr_t)x->data < (uintptr_t)y->data ? -1 : 1) : tensor_order(a, b);
}

static mocl_status sort_names(reader *r) {
    mocl_gguf *g = r->g;
    for (size_t i = 0; i < g->n_keys; i++) g->keys_by_name[i] = &g->keys[i];
    for (size_t i = 0; i < g->n_tensors; i++) g->tensors_by_name[i] = &g->tensors[i];
    if (g->n_keys) qsort(g->keys_by_name, g->n_keys, sizeof *g->keys_by_name, key_order);
    if (g->n_tensors) qsort(g->tensors_by_name, g->n_tensors, sizeof *g->tensors_by_name, tensor_order);
    for (size_t i = 1; i < g->n_keys; i++)
        if (strcmp(g->keys_by_name[i - 1]->name, g->keys_by_name[i]->name) == 0)
            return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: key '%.200s' is there twice", mocl_path_tail(r->path),
                             g->keys_by_name[i]->name);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (strcmp(g->tensors_by_name[i - 1]->name, g->tensors_by_name[i]->name) == 0)
            return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: tensor '%.200s' is there twice", mocl_path_tail(r->path),
                             g->tensors_by_name[i]->name);
    return MOCL_OK;
}

/* ---- the data ---- */

static mocl_status read_alignment(reader *r) {
    const mocl_gguf_key *key = mocl_gguf_find_key(r->g, "general.alignment");
    r->g->alignment = DEFAULT_ALIGNMENT;
    if (!key) return MOCL_OK;
    int64_t v = key->value.integer;
    if (key->value.type != MOCL_GGUF_U32 || v == 0 || (v & (v - 1)))
        return mocl_fail(r->ctx, MOCL_E_FORMAT,
                         "%s: general.alignment (%s) is %lld, and must be a power of two of type u32",
                         mocl_path_tail(r->path), types[key->value.type].name, (long long)v);
    r->g->alignment = (uint32_t)v;
    return MOCL_OK;
}

/* Offsets become pointers: on the alignment, inside the file, and no tensor on top of another. */
static mocl_status place_tensors(reader *r, const mocl_gguf_tensor **order) {
    mocl_gguf *g = r->g;
    uint64_t alignment = g->alignment, header = (uint64_t)(r->at - (const unsigned char *)g->map);
    uint64_t start = (header + alignment - 1) / alignment * alignment;
    uint64_t room = start < g->map_bytes ? g->map_bytes - start : 0;
    for (size_t i = 0; i < g->n_tensors; i++) {
        mocl_gguf_tensor *t = &r->tensors[i];
        uint64_t offset = (uint64_t)(uintptr_t)t->data;
        order[i] = t;
        if (offset % alignment)
            return mocl_fail(r->ctx, MOCL_E_FORMAT,
                             "%s: tensor '%.200s' begins at byte %llu of the data, which is no multiple of the "
                             "alignment %u",
                             mocl_path_tail(r->path), t->name, (unsigned long long)offset, g->alignment);
        if (offset > room || t->bytes > room - offset)
            return mocl_fail(r->ctx, MOCL_E_FORMAT,
                             "%s: tensor '%.200s' has %zu bytes from byte %llu of the data, which ends at byte "
                             "%llu: the file is cut, get it again",
                             mocl_path_tail(r->path), t->name, t->bytes, (unsigned long long)offset,
                             (unsigned long long)room);
        t->data = (const unsigned char *)g->map + start + offset;
    }
    if (g->n_tensors) qsort(order, g->n_tensors, sizeof *order, data_order);
    for (size_t i = 1; i < g->n_tensors; i++)
        if ((const unsigned char *)order[i]->data < (const unsigned char *)order[i - 1]->data + order[i - 1]->bytes)
            return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: tensor '%.200s' overlaps tensor '%.200s'",
                             mocl_path_tail(r->path), order[i]->name, order[i - 1]->name);
    return MOCL_OK;
}

/* ---- opening ---- */

static mocl_status read_header(reader *r) {
    const unsigned char *p = r->at;
    if (left(r) < 4 || memcmp(p, "GGUF", 4) != 0) return fail(r, "not a GGUF file: it does not begin with GGUF");
    if (left(r) < HEADER_BYTES) return fail_cut(r);
    uint32_t version = get32(p + 4);
    if (version && (version & 0xffff) == 0) {
        return fail(r, "a big-endian file, which mocl does not read; gguf-convert-endian of the Python package gguf "
                       "makes a little-endian one of it");
    }
    if (version != 2 && version != 3) {
        return mocl_fail(r->ctx, MOCL_E_FORMAT,
                         "%s: GGUF version %u is not supported (2 and 3 are); write the file anew with a current "
                         "llama.cpp",
                         mocl_path_tail(r->path), version);
    }
    r->g->version = version;
    r->n_tensors = get64(p + 8);
    r->n_keys = get64(p + 16);
    r->at += HEADER_BYTES;
    MOCL_TRY(check_count(r, r->n_keys, KEY_LEAST, "keys"));
    return check_count(r, r->n_tensors, TENSOR_LEAST, "tensors");
}

static mocl_status parse(reader *r) {
    mocl_gguf *g = r->g;
    mocl_ctx *ctx = r->ctx;
    r->at = r->end = g->map;
    if (g->map_bytes) r->end += g->map_bytes; /* an empty file has no map */
    MOCL_TRY(read_header(r));
    size_t n_keys = (size_t)r->n_keys, n_tensors = (size_t)r->n_tensors;
    /* owned by g from here on; close frees them */
    g->keys = r->keys = mocl_calloc(ctx, n_keys, sizeof *r->keys);
    g->tensors = r->tensors = mocl_calloc(ctx, n_tensors, sizeof *r->tensors);
    g->keys_by_name = mocl_calloc(ctx, n_keys, sizeof *g->keys_by_name);
    g->tensors_by_name = mocl_calloc(ctx, n_tensors, sizeof *g->tensors_by_name);
    if (!g->keys || !g->tensors || !g->keys_by_name || !g->tensors_by_name)
        return mocl_nomem(ctx, n_tensors * sizeof *r->tensors);
    MOCL_TRY(read_all(r));
    g->text = r->text = mocl_alloc(ctx, r->text_bytes);
    if (!g->text) return mocl_nomem(ctx, r->text_bytes);
    MOCL_TRY(read_all(r));
    g->n_keys = n_keys;
    g->n_tensors = n_tensors;
    MOCL_TRY(sort_names(r));
    MOCL_TRY(read_alignment(r));
    const mocl_gguf_tensor **order = mocl_calloc(ctx, n_tensors, sizeof *order);
    if (!order) return mocl_nomem(ctx, n_tensors * sizeof *order);
    mocl_status st = place_tensors(r, order);
    mocl_free(order);
    return st;
}

mocl_status mocl_gguf_open(mocl_ctx *ctx, mocl_gguf **out, const char *path) {
    mocl_gguf *g = mocl_calloc(ctx, 1, sizeof *g);
    *out = NULL;
    if (!g) return mocl_nomem(ctx, sizeof *g);
    reader r = {.ctx = ctx, .path = path, .g = g};
    struct stat info;
    mocl_status st = mocl_file_map(ctx, path, &g->map, &g->map_bytes, &info);
    if (!st) st = parse(&r);
    if (st) {
        mocl_gguf_close(g);
        return st;
    }
    *out = g;
    return MOCL_OK;
}

void mocl_gguf_close(mocl_gguf *g) {
    if (!g) return;
    if (g->map) munmap(g->map, g->map_bytes);
    mocl_free((void *)g->keys);
    mocl_free((void *)g->tensors);
    mocl_free(g->keys_by_name);
    mocl_free(g->tensors_by_name);
    mocl_free(g->text);
    mocl_free(g);
}

const mocl_gguf_key *mocl_gguf_find_key(const mocl_gguf *g, const char *name) {
    const mocl_gguf_key key = {.name = name}, *wanted = &key;
    const mocl_gguf_key **found =
        g->n_keys ? bsearch(&wanted, g->keys_by_name, g->n_keys, sizeof wanted, key_order) : NULL;
    return found ? *found : NULL;
}

const mocl_gguf_tensor *mocl_gguf_find_tensor(const mocl_gguf *g, const char *name) {
    const mocl_gguf_tensor tensor = {.name = name}, *wanted = &tensor;
    const mocl_gguf_tensor **found =
        g->n_tensors ? bsearch(&wanted, g->tensors_by_name, g->n_tensors, sizeof wanted, tensor_order) : NULL;
    return found ? *found : NULL;
}

bool mocl_gguf_is(const char *path) {
    char start[4];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe without a writer must not hold the caller */
    if (fd < 0) return false;
    struct stat info;
    bool is =
        fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && read(fd, start, 4) == 4 && memcmp(start, "GGUF", 4) == 0;
    close(fd);
    return is;
}
