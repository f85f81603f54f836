/* finite.c - where a tensor holds NaN or an infinity, and how that is said */
#include <math.h>
#include <stdio.h>

#include "ops.h"

static mocl_status search(mocl_tensor *t, int64_t *at, double *value) {
    int64_t n = mocl_tensor_numel(t);
    mk_real *host = mocl_calloc(t->ctx, (size_t)n, sizeof *host);
    if (!host) return mocl_nomem(t->ctx, (size_t)n * sizeof *host);
    mocl_status st = mocl_tensor_to_host(t, host);
    for (int64_t i = 0; i < n && !st && *at < 0; i++) {
        if (isfinite(host[i])) continue;
        *at = i;
        *value = (double)host[i];
    }
    mocl_free(host);
    return st;
}

/* Squares of f32 are added in double, which their sum cannot leave: it is finite exactly where all entries are. The device
** does that where the tensor lies; the entries come to the host only to find the place. */
mocl_status mocl_tensor_nonfinite(mocl_tensor *t, int64_t *at, double *value) {
    mocl_device *dev = t->storage->dev;
    mocl_tensor *wide = NULL, *c = NULL, *plain = NULL;
    double sum = 0;
    mocl_status st;
    *at = -1;
    *value = 0;
    if ((t->dtype != MK_F32 && t->dtype != MK_BF16 && t->dtype != MK_F16) || mocl_tensor_numel(t) == 0) return MOCL_OK;
    MOCL_GOTO(mocl_tensor_detach(&plain, t), done);
    MOCL_GOTO(mocl_to_dtype(&wide, plain, MK_F32), done);
    MOCL_GOTO(mocl_tensor_contiguous(&c, wide), done);
    mk_parameter all = {.n = mocl_tensor_numel(c), .g = mocl_real(c)};
    MOCL_GOTO(MOCL_KERNEL(dev, sumsq, 1, &all, &sum), done);
    if (!isfinite(sum)) MOCL_GOTO(search(c, at, value), done);
done:
    mocl_tensor_unref(c);
    mocl_tensor_unref(wide);
    mocl_tensor_unref(plain);
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
