/* weight.c - weights in their formats */
#include "weight.h"

#include <string.h>

#include "quantized.h"

/* A part of a format: its name behind that of the layer, as bitsandbytes has it, its dtype, and its shape: [rows, columns], or a
** number for each row, two numbers (one behind the other, [n, 1]), block, MK_NESTED_BLOCK blocks, number of a map; or one. */
typedef struct part {
    const char *name;
    mk_dtype dtype;
    enum { EACH_NUMBER, EACH_ROW, EACH_TWO, EACH_BLOCK, EACH_NESTED, OF_MAP, SINGLE } shape;
} part;

enum { MAP = 256, MAP_PART = 3 };

#define FOUR_BITS                                                                                                                  \
    {{".weight", MK_U8, EACH_TWO}, {".weight.absmax", MK_U8, EACH_BLOCK}, {".weight.nested_absmax", MK_F32, EACH_NESTED},         \
     {".weight.nested_quant_map", MK_F32, OF_MAP}, {".weight.nested_offset", MK_F32, SINGLE}}

static const struct format {
    const char *name;
    part part[MK_WEIGHT_PARTS];
} formats[MK_FORMAT_COUNT] = {
    [MK_FORMAT_F32] = {"f32", {{".weight", MK_F32, EACH_NUMBER}}},
    [MK_FORMAT_BF16] = {"bf16", {{".weight", MK_BF16, EACH_NUMBER}}},
    [MK_FORMAT_INT8] = {"int8", {{".weight", MK_I8, EACH_NUMBER}, {".SCB", MK_F32, EACH_ROW}}},
    [MK_FORMAT_W8A8] = {"w8a8", {{".weight", MK_I8, EACH_NUMBER}, {".SCB", MK_F32, EACH_ROW}}},
    [MK_FORMAT_NF4] = {"nf4", FOUR_BITS},
    [MK_FORMAT_FP4] = {"fp4", FOUR_BITS},
};

const char *mocl_format_name(mk_format format) { return formats[format].name; }

bool mocl_format_parse(mk_format *out, const char *name) {
    for (int i = 0; i < MK_FORMAT_COUNT; i++) {
        if (strcmp(formats[i].name, name) != 0) continue;
        *out = (mk_format)i;
        return true;
    }
    return false;
}

const char *mocl_weight_part_name(const mocl_weight *w, int i) { return i < MK_WEIGHT_PARTS ? formats[w->format].part[i].name : NULL; }

mocl_weight mocl_weight_of(mocl_tensor *t) {
    bool matrix = t->ndim == 2;
    return (mocl_weight){.format = t->dtype == MK_BF16 ? MK_FORMAT_BF16 : MK_FORMAT_F32, .rows = matrix ? t->shape[0] : 0,
                         .columns = matrix ? t->shape[1] : 0, .part = {t}};
}

/* the dtype of part p of a weight, whose blocks have their absmax in f32 where it is not nested, and its shape of *ndim */
static mk_dtype part_shape(const mocl_weight *w, int p, bool nested, int64_t shape[2], int *ndim) {
    const part *one = &formats[w->format].part[p];
    int64_t n = w->rows * w->columns, block = w->block ? w->block : 1, blocks = (n + block - 1) / block;
    const int64_t size[] = {[EACH_NUMBER] = w->rows, [EACH_ROW] = w->rows, [EACH_TWO] = (n + 1) / 2, [EACH_BLOCK] = blocks,
                            [EACH_NESTED] = (blocks + MK_NESTED_BLOCK - 1) / MK_NESTED_BLOCK, [OF_MAP] = MAP, [SINGLE] = 1};
    shape[0] = size[one->shape];
    shape[1] = one->shape == EACH_NUMBER ? w->columns : 1;
    *ndim = one->shape == EACH_NUMBER || one->shape == EACH_TWO ? 2 : 1;
    return one->shape == EACH_BLOCK && !nested ? MK_F32 : one->dtype;
}

static mocl_status check_columns(mocl_ctx *ctx, const mocl_weight *w) {
    if (w->format != MK_FORMAT_W8A8 || w->columns <= MK_W8A8_COLUMNS) return MOCL_OK;
    return mocl_fail(ctx, MOCL_E_ARG, "weight: the sums of w8a8 are exact for up to %d columns, and these are %lld; take int8", MK_W8A8_COLUMNS,
                     (long long)w->columns);
}

mocl_status mocl_weight_new(mocl_weight *out, mocl_device *dev, mk_format format, int64_t rows, int64_t columns) {
    mk_real map[MAP];
    int64_t n = MAP;
    *out = (mocl_weight){.format = format, .rows = rows, .columns = columns, .block = MOCL_WEIGHT_BLOCK, .rounded = MK_F32};
    MOCL_TRY(check_columns(dev->ctx, out));
    for (int i = 0; i < MK_WEIGHT_PARTS && formats[format].part[i].name; i++) {
        int64_t shape[2];
        int ndim;
        mk_dtype dtype = part_shape(out, i, true, shape, &ndim);
        mocl_status st;
        if (i == MAP_PART) {
            mk_nested_map(map);
            st = mocl_tensor_from_host(&out->part[i], dev, MK_F32, 1, &n, map);
        } else {
            st = mocl_tensor_full(&out->part[i], dev, dtype, ndim, shape, 0);
        }
        if (st) {
            mocl_weight_free(out);
            return st;
        }
    }
    return MOCL_OK;
}

mocl_status mocl_weight_of_parts(mocl_weight *out, mocl_device *dev, const mocl_weight *like) {
    *out = *like;
    memset(out->part, 0, sizeof out->part);
    MOCL_TRY(check_columns(dev->ctx, like));
    if (formats[like->format].part[1].shape == EACH_BLOCK && (like->block < 1 || like->block > 1 << 20))
        return mocl_fail(dev->ctx, MOCL_E_ARG, "weight: blocks of %lld numbers", (long long)like->block);
    for (int p = 0; p < MK_WEIGHT_PARTS && formats[like->format].part[p].name; p++) {
        const char *name = formats[like->format].part[p].name;
        mocl_tensor *from = like->part[p], *t = NULL;
        char want[128], got[128];
        int64_t shape[2];
        int ndim;
        mk_dtype dtype = part_shape(like, p, like->part[2] != NULL, shape, &ndim);
        bool single = p == 2 && !from && formats[like->format].part[1].shape == EACH_BLOCK;
        mocl_status st;
        if (single) break;
        if (!from) {
            st = mocl_fail(dev->ctx, MOCL_E_ARG, "weight: '%s' is missing", name);
        } else if (from->dtype != dtype && !(mocl_weight_is_plain(like) && from->dtype < MK_I8)) {
            st = mocl_fail(dev->ctx, MOCL_E_ARG, "weight: '%s' is %s, %s needs %s", name, mocl_dtype_name(from->dtype),
                           formats[like->format].name, mocl_dtype_name(dtype));
        } else if (from->ndim != ndim || memcmp(from->shape, shape, (size_t)ndim * sizeof *shape) != 0) {
            st = mocl_fail(dev->ctx, MOCL_E_SHAPE, "weight: '%s' is %s, %lld x %lld numbers need %s", name,
                           mocl_shape_text(got, from->ndim, from->shape), (long long)like->rows, (long long)like->columns,
                           mocl_shape_text(want, ndim, shape));
        } else {
            st = mocl_tensor_new(&t, dev, dtype, ndim, shape);
            if (!st) out->part[p] = t;
            if (!st) st = mocl_tensor_copy(t, from);
        }
        if (st) {
            mocl_weight_free(out);
            return st;
        }
    }
    return MOCL_OK;
}

void mocl_weight_free(mocl_weight *w) {
    for (int i = 0; i < MK_WEIGHT_PARTS; i++) {
        mocl_tensor_unref(w->part[i]);
        w->part[i] = NULL;
    }
}

mk_weight mocl_weight_kernel(const mocl_weight *w) {
    mk_weight k = {.format = w->format, .rows = w->rows, .columns = w->columns, .block = w->block, .rounded = w->rounded};
    for (int i = 0; i < MK_WEIGHT_PARTS; i++) k.part[i] = w->part[i] ? mocl_tensor_data(w->part[i]) : NULL;
    return k;
}

mk_weight mocl_weight_plain(mk_dtype dtype, int64_t rows, int64_t columns, const void *data) {
    return (mk_weight){.format = dtype == MK_BF16 ? MK_FORMAT_BF16 : MK_FORMAT_F32, .rows = rows, .columns = columns,
                       .part = {data}};
}

/* t in dtype, contiguous, on the device of w, without history */
static mocl_status brought(mocl_tensor **out, mocl_tensor *t, mk_dtype dtype, mocl_device *dev) {
    if (t->dtype == dtype && t->storage->dev == dev) return mocl_tensor_contiguous(out, t);
    MOCL_TRY(mocl_tensor_new(out, dev, dtype, t->ndim, t->shape));
    mocl_status st = mocl_tensor_copy(*out, t);
    if (!st) return MOCL_OK;
    mocl_tensor_unref(*out);
    *out = NULL;
    return st;
}

mocl_status mocl_weight_set(mocl_weight *w, mocl_tensor *t) {
    mocl_device *dev = w->part[0]->storage->dev;
    mocl_tensor *c = NULL;
    void *to[MK_WEIGHT_PARTS] = {NULL};
    char text[128];
    if (t->ndim != 2 || t->shape[0] != w->rows || t->shape[1] != w->columns)
        return mocl_fail(t->ctx, MOCL_E_SHAPE, "weight: %s does not fit [%lld, %lld]", mocl_shape_text(text, t->ndim, t->shape),
                         (long long)w->rows, (long long)w->columns);
    if (t->dtype != MK_F32 && t->dtype != MK_BF16 && t->dtype != MK_F16)
        return mocl_fail(t->ctx, MOCL_E_ARG, "weight: numbers in %s are not made %s; f32, bf16 and f16 are", mocl_dtype_name(t->dtype),
                         mocl_format_name(w->format));
    if (mocl_weight_is_plain(w)) return mocl_tensor_copy(w->part[0], t);
    if (w->format != MK_FORMAT_INT8 && w->format != MK_FORMAT_W8A8 && (w->format != MK_FORMAT_NF4 || !w->part[2] || w->rounded != MK_F32))
        return mocl_fail(t->ctx, MOCL_E_ARG, "weight: numbers are not made %s as its file has it; int8, w8a8, and nf4 with double quantisation "
                                             "of f32, are", mocl_format_name(w->format));
    MOCL_TRY(brought(&c, t, MK_F32, dev));
    mk_weight k = mocl_weight_kernel(w);
    for (int i = 0; i < MK_WEIGHT_PARTS && w->part[i]; i++) to[i] = mocl_tensor_data(w->part[i]);
    mocl_status st = MOCL_KERNEL(dev, quantize, &k, mocl_real(c), to);
    for (int i = 0; i < MK_WEIGHT_PARTS && w->part[i]; i++) w->part[i]->storage->version++;
    mocl_tensor_forget(c); /* a file's pages would add up to the whole model in f32 */
    mocl_tensor_unref(c);
    return st;
}

mocl_status mocl_weight_numbers(mocl_tensor **out, const mocl_weight *w, mk_dtype dtype) {
    mocl_device *dev = w->part[0]->storage->dev;
    mocl_tensor *t = NULL;
    int64_t shape[2] = {w->rows, w->columns};
    mk_weight k = mocl_weight_kernel(w);
    *out = NULL;
    if (mocl_weight_is_plain(w)) return brought(out, w->part[0], dtype, dev);
    MOCL_TRY(mocl_tensor_new(&t, dev, MK_F32, 2, shape));
    mocl_status st = MOCL_KERNEL(dev, dequantize, &k, mocl_real(t));
    if (!st) st = brought(out, t, dtype, dev);
    mocl_tensor_unref(t);
    return st;
}
