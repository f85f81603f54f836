/* finite.c - where a tensor holds NaN or an infinity, and how that is said */
#include <math.h>
#include <stdio.h>

#include "ops.h"

enum { PIECE = 1 << 18 };

/* Told by the bits, whatever the flags of the compiler: all bits of the exponent are set. `exponent` is 0 for the types that
** have no such values. */
static void masks_of(mk_dtype dtype, uint64_t *exponent, uint64_t *sign) {
    size_t size = mocl_dtype_size(dtype);
    *exponent = dtype == MK_BF16 ? 0x7F80 : dtype == MK_F16 ? 0x7C00 : dtype != MK_F32 ? 0 :
                size == 4 ? UINT64_C(0x7F800000) : UINT64_C(0x7FF0000000000000);
    *sign = UINT64_C(1) << (8 * size - 1);
}

/* Counts those of the n values of a piece, which begins at `start`; the first of all is noted. */
#define COUNT(type)                                                                                      \
    do {                                                                                                 \
        const type *v = data, mask = (type)exponent;                                                     \
        for (size_t i = 0; i < n; i++) count += (v[i] & mask) == mask;                                   \
        for (size_t i = 0; count && out->at < 0 && i < n; i++) {                                         \
            if ((v[i] & mask) != mask) continue;                                                         \
            out->at = start + (int64_t)i;                                                                \
            out->value = (v[i] & ~mask & ~(type)sign) ? NAN : v[i] & (type)sign ? -INFINITY : INFINITY;  \
        }                                                                                                \
    } while (0)

static void look_at(const void *data, size_t n, mk_dtype dtype, int64_t start, mocl_nonfinite *out) {
    size_t size = mocl_dtype_size(dtype);
    uint64_t exponent, sign;
    int64_t count = 0;
    masks_of(dtype, &exponent, &sign);
    if (size == 2) COUNT(uint16_t);
    else if (size == 4) COUNT(uint32_t);
    else COUNT(uint64_t);
    out->count += count;
}

/* Where the tensor lies on another device than the host, that device answers first: squares of f32 are added in double, which
** their sum cannot leave, so it is finite exactly where all entries are. The bytes come over only to find the place. */
static mocl_status device_says_finite(mocl_tensor *c, bool *finite) {
    mk_parameter all = {.n = mocl_tensor_numel(c), .g = mocl_real(c)};
    double sum = 0;
    *finite = false;
    if (c->dtype != MK_F32 || c->storage->dev->kind == MOCL_DEVICE_CPU) return MOCL_OK;
    MOCL_TRY(MOCL_KERNEL(c->storage->dev, sumsq, 1, &all, &sum));
    *finite = isfinite(sum);
    return MOCL_OK;
}

mocl_status mocl_tensor_nonfinite(mocl_tensor *t, mocl_nonfinite *out) {
    size_t size = mocl_dtype_size(t->dtype), bytes = (size_t)mocl_tensor_numel(t) * size;
    uint64_t exponent, sign;
    mocl_tensor *c = NULL;
    mocl_status st = MOCL_OK;
    bool finite;
    *out = (mocl_nonfinite){.at = -1};
    masks_of(t->dtype, &exponent, &sign);
    if (!exponent || !bytes) return MOCL_OK;
    void *piece = mocl_alloc(t->ctx, PIECE);
    if (!piece) return mocl_nomem(t->ctx, PIECE);
    MOCL_GOTO(mocl_tensor_contiguous(&c, t), done);
    MOCL_GOTO(device_says_finite(c, &finite), done);
    for (size_t at = 0; at < bytes && !finite && !st; at += PIECE) {
        size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        MOCL_GOTO(mocl_device_download(c->storage->dev, piece, (const char *)mocl_tensor_data(c) + at, n), done);
        look_at(piece, n / size, t->dtype, (int64_t)(at / size), out);
        st = mocl_poll(t->ctx);
    }
    mocl_tensor_forget(t);
done:
    mocl_tensor_unref(c);
    mocl_free(piece);
    return st;
}

const char *mocl_number_text(char buf[32], double v) {
    snprintf(buf, 32, "%g", v);
    return isnan(v) ? "nan" : buf; /* the sign of a NaN says nothing */
}

char *mocl_place_text(char buf[256], const mocl_tensor *t, int64_t at) {
    int64_t index[MK_MAX_DIMS] = {0};
    size_t used = 0;
    for (int d = t->ndim - 1; d >= 0; at /= t->shape[d--]) index[d] = at % t->shape[d];
    buf[0] = '\0';
    for (int d = 0; d < t->ndim && used < 240; d++)
        used += (size_t)snprintf(buf + used, 256 - used, "%s%lld%s", d ? "," : "[", (long long)index[d] + 1, d == t->ndim - 1 ? "]" : "");
    return buf;
}
