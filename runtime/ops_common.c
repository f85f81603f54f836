/* ops_common.c - what all operations share: checks of their operands, and how one is recorded */
#include "ops.h"

mocl_status mocl_need_real(const char *op, mocl_tensor *x) {
    if (x->dtype == MK_F32) return MOCL_OK;
    return mocl_fail(x->ctx, MOCL_E_ARG, "%s: expected an f32 tensor, got %s; convert with :to('f32')", op,
                     mocl_dtype_name(x->dtype));
}

mocl_status mocl_need_computed(const char *op, mocl_tensor *x) {
    if (x->dtype != MK_BF16) return mocl_need_real(op, x);
    return mocl_device_bf16(x->storage->dev, op);
}

mocl_status mocl_grad_like(mocl_tensor **out, const mocl_tensor *x) {
    return mocl_tensor_new(out, x->storage->dev, MK_F32, x->ndim, x->shape);
}

mocl_status mocl_need_int(const char *op, mocl_tensor *x) {
    if (x->dtype == MK_I32) return MOCL_OK;
    return mocl_fail(x->ctx, MOCL_E_ARG, "%s: expected an i32 tensor, got %s", op, mocl_dtype_name(x->dtype));
}

mocl_status mocl_need_same_device(const char *op, mocl_tensor *a, mocl_tensor *b) {
    if (a->storage->dev == b->storage->dev) return MOCL_OK;
    return mocl_fail(a->ctx, MOCL_E_ARG, "%s: operands are on %s and %s; move one with :to(device)", op,
                     a->storage->dev->name, b->storage->dev->name);
}

static mocl_status need_offsets(const char *op, mocl_tensor *offsets, int64_t rows, bool filled) {
    MOCL_TRY(mocl_need_int(op, offsets));
    int64_t n = mocl_tensor_numel(offsets), empty = 0;
    if (offsets->ndim != 1 || n < 1 || !mocl_tensor_is_contiguous(offsets))
        return mocl_fail(offsets->ctx, MOCL_E_SHAPE, "%s: offsets must be a contiguous vector of B + 1 entries", op);
    int32_t *host = mocl_alloc(offsets->ctx, (size_t)n * sizeof *host);
    if (!host) return mocl_nomem(offsets->ctx, (size_t)n * sizeof *host);
    mocl_status st = mocl_tensor_to_host(offsets, host);
    bool good = !st && host[0] == 0 && host[n - 1] == rows;
    for (int64_t i = 1; good && i < n; i++) {
        good = host[i] >= host[i - 1];
        if (!empty && host[i] == host[i - 1]) empty = i;
    }
    mocl_free(host);
    if (st) return st;
    if (good && filled && empty)
        return mocl_fail(offsets->ctx, MOCL_E_SHAPE, "%s: sequence %lld has no token to look at", op, (long long)empty);
    if (good) return MOCL_OK;
    return mocl_fail(offsets->ctx, MOCL_E_SHAPE, "%s: offsets must rise from 0 to the number of rows, %lld", op,
                     (long long)rows);
}

mocl_status mocl_need_offsets(const char *op, mocl_tensor *offsets, int64_t rows) { return need_offsets(op, offsets, rows, false); }

mocl_status mocl_need_sequences(const char *op, mocl_tensor *offsets, int64_t rows) { return need_offsets(op, offsets, rows, true); }

mocl_status mocl_need_indices(const char *op, mocl_tensor *idx, int64_t lowest, int64_t size, int64_t first) {
    MOCL_TRY(mocl_need_int(op, idx));
    int64_t n = mocl_tensor_numel(idx);
    int32_t *host = mocl_alloc(idx->ctx, (size_t)n * sizeof *host);
    if (!host) return mocl_nomem(idx->ctx, (size_t)n * sizeof *host);
    mocl_status st = mocl_tensor_to_host(idx, host);
    for (int64_t i = 0; i < n && !st; i++) {
        if (host[i] < lowest || host[i] >= size)
            st = mocl_fail(idx->ctx, MOCL_E_ARG, "%s: index %lld (entry %lld) is outside %lld .. %lld", op,
                           (long long)host[i] + (long long)first, (long long)i + 1, (long long)first,
                           (long long)size - 1 + (long long)first);
    }
    mocl_free(host);
    return st;
}

mocl_status mocl_drop_on(mocl_status st, mocl_tensor **out) {
    if (st) {
        mocl_tensor_unref(*out);
        *out = NULL;
    }
    return st;
}

mocl_status mocl_record(mocl_tensor **out, mocl_node **node, const char *name, mocl_backward backward, int n_in,
                        mocl_tensor *const *in, int n_saved, mocl_tensor *const *saved) {
    mocl_ctx *ctx = (*out)->ctx;
    mocl_node *n = NULL;
    if (node) *node = NULL;
    if (!mocl_grad_wanted(ctx, n_in, in)) return MOCL_OK;
    mocl_status st = mocl_node_new(&n, ctx, name, backward, n_in, in, n_saved, saved);
    if (st) return mocl_drop_on(st, out);
    mocl_node_attach(n, 0, *out);
    mocl_node_unref(n); /* *out holds it now */
    if (node) *node = n;
    return MOCL_OK;
}

/* x with dimension dim, which stays with size 1 or goes, added up */
static mocl_status sum_along(mocl_tensor **out, mocl_tensor *x, int dim, bool keep) {
    int64_t shape[MK_MAX_DIMS], outer = 1, inner = 1;
    int ndim = 0;
    mocl_tensor *c = NULL;
    for (int i = 0; i < x->ndim; i++) {
        if (i < dim) outer *= x->shape[i];
        if (i > dim) inner *= x->shape[i];
        if (i != dim || keep) shape[ndim++] = i == dim ? 1 : x->shape[i];
    }
    *out = NULL;
    MOCL_TRY(mocl_need_real("sum", x));
    MOCL_TRY(mocl_poll(x->ctx));
    MOCL_TRY(mocl_tensor_contiguous(&c, x));
    mocl_status st = mocl_tensor_new(out, x->storage->dev, MK_F32, ndim, shape);
    if (!st) st = MOCL_KERNEL(x->storage->dev, reduce, MK_SUM, outer, x->shape[dim], inner, mocl_real(c), mocl_real(*out));
    mocl_tensor_unref(c);
    return mocl_drop_on(st, out);
}

mocl_status mocl_sum_to(mocl_tensor **out, mocl_tensor *x, int ndim, const int64_t *shape) {
    mocl_tensor *cur = mocl_tensor_ref(x), *next = NULL;
    mocl_status st = MOCL_OK;
    *out = NULL;
    while (!st && cur->ndim > ndim) {
        st = sum_along(&next, cur, 0, false);
        mocl_tensor_unref(cur);
        cur = next;
    }
    for (int i = 0; !st && i < ndim; i++) {
        if (shape[i] == cur->shape[i]) continue;
        st = sum_along(&next, cur, i, true);
        mocl_tensor_unref(cur);
        cur = next;
    }
    *out = cur;
    return st;
}
