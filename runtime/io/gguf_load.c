/* gguf_load.c - a tensor of a GGUF file as a tensor in memory, piece by piece, so that beside the result no second copy
** of it stands in memory */
#include <string.h>

#include "io/file.h" /* mocl_path_tail */
#include "io/gguf.h"

enum { PIECE = 1 << 16 }; /* values at a time, or one row where a row is longer */

/* the integer dtype that holds a format as it is, MK_DTYPE_COUNT if none does */
static mk_dtype integers(const mocl_gguf_format *format) {
    static const struct {
        const char *name;
        mk_dtype dtype;
    } same[] = {{"I8", MK_I8}, {"I32", MK_I32}, {"I64", MK_I64}};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (strcmp(format->name, same[i].name) == 0) return same[i].dtype;
    return MK_DTYPE_COUNT;
}

/* Where row r of the result lies in the file: of a head's K rows the file has 0, K / 2, 1, K / 2 + 1, ... */
static int64_t source_row(int64_t r, int64_t K) {
    if (K == 0) return r;
    int64_t i = r % K, half = K / 2;
    return r - i + (i < half ? 2 * i : 2 * (i - half) + 1);
}

static mocl_status fill(mocl_tensor *out, const mocl_gguf_tensor *t, int64_t K, mk_real *piece, int64_t at_once) {
    mocl_device *dev = out->storage->dev;
    size_t width = (size_t)t->shape[t->ndim - 1], rows = (size_t)t->numel / width, row_bytes = t->bytes / rows;
    for (size_t r = 0; r < rows; r += (size_t)at_once) {
        size_t n = rows - r < (size_t)at_once ? rows - r : (size_t)at_once;
        MOCL_TRY(mocl_poll(dev->ctx));
        for (size_t i = 0; i < n; i++) {
            const unsigned char *row =
                (const unsigned char *)t->data + (size_t)source_row((int64_t)(r + i), K) * row_bytes;
            mocl_gguf_dequantize(t->format, row, width, piece + i * width);
        }
        MOCL_TRY(mocl_device_upload(dev, mocl_real(out) + r * width, piece, n * width * sizeof *piece));
    }
    return MOCL_OK;
}

mocl_status mocl_gguf_load(mocl_tensor **out, mocl_device *dev, const char *path, const mocl_gguf_tensor *t,
                           int64_t heads) {
    mk_dtype dtype = integers(t->format);
    *out = NULL;
    if (heads > 0 && (t->ndim != 2 || t->shape[0] % (2 * heads)))
        return mocl_fail(dev->ctx, MOCL_E_FORMAT,
                         "%s: tensor '%.200s' has %lld rows, which are not %lld heads of an even size",
                         mocl_path_tail(path), t->name, (long long)t->shape[0], (long long)heads);
    if (heads == 0 && dtype != MK_DTYPE_COUNT)
        return mocl_tensor_from_host(out, dev, dtype, t->ndim, t->shape, t->data);
    if (!t->format->unpack)
        return mocl_fail(dev->ctx, MOCL_E_FORMAT,
                         "%s: tensor '%.200s' is stored as %s, which mocl does not read; llama-quantize makes "
                         "another type of the original file",
                         mocl_path_tail(path), t->name, t->format->name);
    int64_t width = t->shape[t->ndim - 1], at_once = width < PIECE ? PIECE / width : 1;
    if (at_once > t->numel / width) at_once = t->numel / width;
    mk_real *piece = mocl_calloc(dev->ctx, (size_t)(at_once * width), sizeof *piece);
    if (!piece) return mocl_nomem(dev->ctx, (size_t)(at_once * width) * sizeof *piece);
    mocl_status st = mocl_tensor_new(out, dev, MK_F32, t->ndim, t->shape);
    if (!st) st = fill(*out, t, heads > 0 ? t->shape[0] / heads : 0, piece, at_once);
    mocl_free(piece);
    if (st) {
        mocl_tensor_unref(*out);
        *out = NULL;
    }
    return st;
}
