/* nonfinite.c - counts the values of a tensor that are no numbers: what a damaged file or a diverged training leaves */
#include <string.h>

#include "tensor.h"

enum { PIECE = 1 << 18 };

/* By its bits, whatever the flags of the compiler: all bits of the exponent are set. 0 for types without such values. */
static uint64_t exponent_of(mk_dtype dtype) {
    switch (dtype) {
        case MK_F32: return sizeof(mk_real) == 4 ? UINT64_C(0x7F800000) : UINT64_C(0x7FF0000000000000);
        case MK_BF16: return 0x7F80;
        case MK_F16: return 0x7C00;
        default: return 0;
    }
}

/* counts those of n values of `size` bytes */
#define COUNT(type)                                                             \
    do {                                                                        \
        const type *v = data, mask = (type)exponent;                            \
        for (size_t i = 0; i < n; i++) count += (v[i] & mask) == mask;          \
        for (size_t i = 0; count && *first < 0 && i < n; i++)                   \
            if ((v[i] & mask) == mask) *first = (int64_t)i;                     \
    } while (0)

static int64_t count_piece(const void *data, size_t n, size_t size, uint64_t exponent, int64_t *first) {
    int64_t count = 0;
    *first = -1;
    if (size == 2) COUNT(uint16_t);
    else if (size == 4) COUNT(uint32_t);
    else COUNT(uint64_t);
    return count;
}

mocl_status mocl_tensor_nonfinite(mocl_tensor *t, int64_t *count, int64_t *first) {
    uint64_t exponent = exponent_of(t->dtype);
    size_t size = mocl_dtype_size(t->dtype), bytes = (size_t)mocl_tensor_numel(t) * size;
    mocl_tensor *c = NULL;
    mocl_status st = MOCL_OK;
    *count = 0;
    *first = -1;
    if (!exponent) return MOCL_OK;
    void *piece = mocl_alloc(t->ctx, PIECE);
    if (!piece) return mocl_nomem(t->ctx, PIECE);
    MOCL_GOTO(mocl_tensor_contiguous(&c, t), done);
    for (size_t at = 0; at < bytes && !st; at += PIECE) {
        size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        int64_t place;
        MOCL_GOTO(mocl_device_download(c->storage->dev, piece, (const char *)mocl_tensor_data(c) + at, n), done);
        *count += count_piece(piece, n / size, size, exponent, &place);
        if (*first < 0 && place >= 0) *first = (int64_t)(at / size) + place;
        st = mocl_poll(t->ctx);
    }
done:
    mocl_tensor_unref(c);
    mocl_free(piece);
    return st;
}
