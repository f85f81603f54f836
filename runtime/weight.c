/* weight.c - weights in their formats */
#include "weight.h"

#include <string.h>

/* A part of a format: its name behind that of the layer, as bitsandbytes saves it, its dtype, and its shape: a vector of a number
** for each row, or a matrix with one for each number of the weight. */
typedef struct part {
    const char *name;
    mk_dtype dtype;
    enum { EACH_NUMBER, EACH_ROW } shape;
} part;

static const struct format {
    const char *name;
    part part[MK_WEIGHT_PARTS];
} formats[MK_FORMAT_COUNT] = {
    [MK_FORMAT_F32] = {"f32", {{".weight", MK_F32, EACH_NUMBER}}},
    [MK_FORMAT_BF16] = {"bf16", {{".weight", MK_BF16, EACH_NUMBER}}},
    [MK_FORMAT_INT8] = {"int8", {{".weight", MK_I8, EACH_NUMBER}, {".SCB", MK_F32, EACH_ROW}}},
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

mocl_status mocl_weight_new(mocl_weight *out, mocl_device *dev, mk_format format, int64_t rows, int64_t columns) {
    *out = (mocl_weight){.format = format, .rows = rows, .columns = columns};
    for (int i = 0; i < MK_WEIGHT_PARTS && formats[format].part[i].name; i++) {
        const part *p = &formats[format].part[i];
        int64_t shape[2] = {rows, columns};
        mocl_status st = mocl_tensor_full(&out->part[i], dev, p->dtype, p->shape == EACH_NUMBER ? 2 : 1, shape, 0);
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
    mk_weight k = {.format = w->format, .rows = w->rows, .columns = w->columns};
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
    MOCL_TRY(brought(&c, t, MK_F32, dev));
    mk_weight k = mocl_weight_kernel(w);
    for (int i = 0; i < MK_WEIGHT_PARTS && w->part[i]; i++) to[i] = mocl_tensor_data(w->part[i]);
    mocl_status st = MOCL_KERNEL(dev, quantize, &k, mocl_real(c), to);
    for (int i = 0; i < MK_WEIGHT_PARTS && w->part[i]; i++) w->part[i]->storage->version++;
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
