/* ops_shape.c - views and rearrangements; a view shares its storage and is recorded like any operation */
#include "ops.h"

#include <string.h>

/* the node remembers the input's shape in integer[0..ndim] */
static void remember_shape(mocl_node *n, const mocl_tensor *x) {
    n->integer[0] = x->ndim;
    memcpy(n->integer + 1, x->shape, sizeof *x->shape * (size_t)x->ndim);
}

/* ---- reshape ---- */

static mocl_status reshape_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    return mocl_reshape(&din[0], dout[0], (int)n->integer[0], n->integer + 1);
}

mocl_status mocl_reshape(mocl_tensor **out, mocl_tensor *x, int ndim, const int64_t *shape) {
    int64_t full[MK_MAX_DIMS], stride[MK_MAX_DIMS], known = 1, n = mocl_tensor_numel(x);
    int free_dim = -1;
    bool fits = true;
    char a[128], b[128];
    mocl_node *node = NULL;
    mocl_tensor *c = NULL;
    *out = NULL;
    if (ndim > MK_MAX_DIMS)
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "reshape: a tensor has at most %d dimensions", MK_MAX_DIMS);
    for (int i = 0; i < ndim; i++) {
        full[i] = shape[i];
        if (shape[i] == -1 && free_dim < 0) free_dim = i;
        else fits = fits && shape[i] >= 0 && !__builtin_mul_overflow(known, shape[i], &known);
    }
    if (free_dim >= 0) {
        fits = fits && known > 0 && n % known == 0;
        if (fits) full[free_dim] = n / known;
    }
    if (!fits || (free_dim < 0 && known != n))
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "reshape: %s has %lld elements and does not fit %s",
                         mocl_shape_text(a, x->ndim, x->shape), (long long)n, mocl_shape_text(b, ndim, shape));
    MOCL_TRY(mocl_tensor_contiguous(&c, x));
    mocl_shape_strides(ndim, full, stride);
    mocl_status st = mocl_tensor_alias(out, c, ndim, full, stride, c->offset);
    mocl_tensor_unref(c);
    if (!st) st = mocl_record(out, &node, "reshape", reshape_backward, 1, &x, 0, NULL);
    if (node) remember_shape(node, x);
    return st;
}

/* ---- permute ---- */

static mocl_status permute_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    int order[MK_MAX_DIMS];
    for (int i = 0; i < n->integer[0]; i++) order[n->integer[1 + i]] = i;
    return mocl_permute(&din[0], dout[0], order);
}

mocl_status mocl_permute(mocl_tensor **out, mocl_tensor *x, const int *order) {
    int64_t shape[MK_MAX_DIMS], stride[MK_MAX_DIMS];
    bool seen[MK_MAX_DIMS] = {false};
    mocl_node *node = NULL;
    *out = NULL;
    for (int i = 0; i < x->ndim; i++) {
        if (order[i] < 0 || order[i] >= x->ndim || seen[order[i]])
            return mocl_fail(x->ctx, MOCL_E_SHAPE, "permute: each of the %d dimensions must be named once", x->ndim);
        seen[order[i]] = true;
        shape[i] = x->shape[order[i]];
        stride[i] = x->stride[order[i]];
    }
    MOCL_TRY(mocl_tensor_alias(out, x, x->ndim, shape, stride, x->offset));
    MOCL_TRY(mocl_record(out, &node, "permute", permute_backward, 1, &x, 0, NULL));
    if (node) {
        node->integer[0] = x->ndim;
        for (int i = 0; i < x->ndim; i++) node->integer[1 + i] = order[i];
    }
    return MOCL_OK;
}

mocl_status mocl_transpose(mocl_tensor **out, mocl_tensor *x, int a, int b) {
    int order[MK_MAX_DIMS];
    *out = NULL;
    if (a < 0 || b < 0 || a >= x->ndim || b >= x->ndim)
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "transpose: a tensor of %d dimensions has none numbered %d",
                         x->ndim, (a < 0 || a >= x->ndim ? a : b) + 1);
    for (int i = 0; i < x->ndim; i++) order[i] = i;
    order[a] = b;
    order[b] = a;
    return mocl_permute(out, x, order);
}

/* ---- expand ---- */

static mocl_status expand_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    return mocl_sum_to(&din[0], dout[0], (int)n->integer[0], n->integer + 1);
}

mocl_status mocl_expand(mocl_tensor **out, mocl_tensor *x, int ndim, const int64_t *shape) {
    int64_t stride[MK_MAX_DIMS], n = 1;
    char a[128], b[128];
    mocl_node *node = NULL;
    bool fits = ndim >= x->ndim && ndim <= MK_MAX_DIMS;
    *out = NULL;
    for (int i = 0; fits && i < ndim; i++) {
        int ix = i - (ndim - x->ndim);
        if (ix < 0) stride[i] = 0;
        else if (x->shape[ix] == shape[i]) stride[i] = x->stride[ix];
        else if (x->shape[ix] == 1) stride[i] = 0;
        else fits = false;
        fits = fits && shape[i] >= 0 && !__builtin_mul_overflow(n, shape[i], &n);
    }
    if (!fits)
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "expand: %s does not expand to %s",
                         mocl_shape_text(a, x->ndim, x->shape), mocl_shape_text(b, ndim, shape));
    MOCL_TRY(mocl_tensor_alias(out, x, ndim, shape, stride, x->offset));
    MOCL_TRY(mocl_record(out, &node, "expand", expand_backward, 1, &x, 0, NULL));
    if (node) remember_shape(node, x);
    return MOCL_OK;
}

/* ---- narrow ---- */

static mocl_status narrow_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    int ndim = (int)n->integer[0], dim = (int)n->integer[1 + MK_MAX_DIMS];
    int64_t start = n->integer[2 + MK_MAX_DIMS];
    mocl_tensor *g = dout[0], *hole = NULL;
    MOCL_TRY(mocl_tensor_full(&din[0], g->storage->dev, MK_F32, ndim, n->integer + 1, 0));
    mocl_status st = mocl_narrow(&hole, din[0], dim, start, g->shape[dim]);
    if (!st) st = mocl_tensor_copy(hole, g);
    mocl_tensor_unref(hole);
    return mocl_drop_on(st, &din[0]);
}

mocl_status mocl_narrow(mocl_tensor **out, mocl_tensor *x, int dim, int64_t start, int64_t length) {
    int64_t shape[MK_MAX_DIMS];
    mocl_node *node = NULL;
    *out = NULL;
    if (dim < 0 || dim >= x->ndim)
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "narrow: a tensor of %d dimensions has none numbered %d", x->ndim,
                         dim + 1);
    if (start < 0 || length < 0 || start > x->shape[dim] - length)
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "narrow: %lld to %lld is outside dimension %d of size %lld",
                         (long long)start + 1, (long long)(start + length), dim + 1, (long long)x->shape[dim]);
    memcpy(shape, x->shape, sizeof shape);
    shape[dim] = length;
    MOCL_TRY(mocl_tensor_alias(out, x, x->ndim, shape, x->stride, x->offset + start * x->stride[dim]));
    MOCL_TRY(mocl_record(out, &node, "narrow", narrow_backward, 1, &x, 0, NULL));
    if (node) {
        remember_shape(node, x);
        node->integer[1 + MK_MAX_DIMS] = dim;
        node->integer[2 + MK_MAX_DIMS] = start;
    }
    return MOCL_OK;
}

/* ---- cat ---- */

static mocl_status cat_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    int dim = (int)n->integer[0];
    int64_t start = 0;
    for (int i = 0; i < n->n_in; i++) {
        int64_t size = n->saved[i]->shape[dim];
        if (mocl_node_wants(n, i)) MOCL_TRY(mocl_narrow(&din[i], dout[0], dim, start, size));
        start += size;
    }
    return MOCL_OK;
}

mocl_status mocl_cat(mocl_tensor **out, int n, mocl_tensor *const *x, int dim) {
    int64_t shape[MK_MAX_DIMS], start = 0;
    char a[128], b[128];
    mocl_node *node = NULL;
    *out = NULL;
    if (dim < 0 || dim >= x[0]->ndim)
        return mocl_fail(x[0]->ctx, MOCL_E_SHAPE, "cat: a tensor of %d dimensions has none numbered %d", x[0]->ndim,
                         dim + 1);
    memcpy(shape, x[0]->shape, sizeof shape);
    for (int i = 1; i < n; i++) {
        bool fits = x[i]->ndim == x[0]->ndim && x[i]->dtype == x[0]->dtype;
        for (int d = 0; fits && d < x[0]->ndim; d++) fits = d == dim || x[i]->shape[d] == shape[d];
        if (!fits)
            return mocl_fail(x[0]->ctx, MOCL_E_SHAPE, "cat: tensor %d of %s %s does not fit the first, %s %s", i + 1,
                             mocl_dtype_name(x[i]->dtype), mocl_shape_text(a, x[i]->ndim, x[i]->shape),
                             mocl_dtype_name(x[0]->dtype), mocl_shape_text(b, x[0]->ndim, x[0]->shape));
        MOCL_TRY(mocl_need_same_device("cat", x[0], x[i]));
        shape[dim] += x[i]->shape[dim];
    }
    MOCL_TRY(mocl_poll(x[0]->ctx));
    MOCL_TRY(mocl_tensor_new(out, x[0]->storage->dev, x[0]->dtype, x[0]->ndim, shape));
    mocl_status st = MOCL_OK;
    for (int i = 0; i < n && !st; i++) {
        mocl_tensor *slot = NULL;
        st = mocl_narrow(&slot, *out, dim, start, x[i]->shape[dim]);
        if (!st) st = mocl_tensor_copy(slot, x[i]);
        mocl_tensor_unref(slot);
        start += x[i]->shape[dim];
    }
    if (mocl_drop_on(st, out)) return st;
    MOCL_TRY(mocl_record(out, &node, "cat", cat_backward, n, x, n, x));
    if (node) node->integer[0] = dim;
    return MOCL_OK;
}

/* ---- conversions and copies ---- */

static mocl_status clone_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    (void)n;
    din[0] = mocl_tensor_ref(dout[0]);
    return MOCL_OK;
}

mocl_status mocl_clone(mocl_tensor **out, mocl_tensor *x) {
    MOCL_TRY(mocl_tensor_like(out, x));
    mocl_status st = mocl_tensor_copy(*out, x);
    if (mocl_drop_on(st, out)) return st;
    return mocl_record(out, NULL, "clone", clone_backward, 1, &x, 0, NULL);
}

mocl_status mocl_to_dtype(mocl_tensor **out, mocl_tensor *x, mk_dtype dtype) {
    if (x->dtype == dtype) {
        *out = mocl_tensor_ref(x);
        return MOCL_OK;
    }
    MOCL_TRY(mocl_tensor_new(out, x->storage->dev, dtype, x->ndim, x->shape));
    mocl_status st = mocl_tensor_copy(*out, x);
    if (mocl_drop_on(st, out)) return st;
    bool real = (x->dtype == MK_F32 || x->dtype == MK_BF16) && (dtype == MK_F32 || dtype == MK_BF16);
    return real ? mocl_record(out, NULL, "to", clone_backward, 1, &x, 0, NULL) : MOCL_OK;
}

mocl_status mocl_to_device(mocl_tensor **out, mocl_tensor *x, mocl_device *dev) {
    if (x->storage->dev == dev) {
        *out = mocl_tensor_ref(x);
        return MOCL_OK;
    }
    MOCL_TRY(mocl_tensor_new(out, dev, x->dtype, x->ndim, x->shape));
    return mocl_drop_on(mocl_tensor_copy(*out, x), out);
}

/* ---- rows and elements by index ---- */

static mocl_status index_select_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *idx = n->saved[0], *g = dout[0];
    int64_t rows = mocl_tensor_numel(idx), size = n->integer[1];
    MOCL_TRY(mocl_tensor_full(&din[0], g->storage->dev, MK_F32, (int)n->integer[0], n->integer + 1, 0));
    if (rows == 0) return MOCL_OK;
    return MOCL_KERNEL(g->storage->dev, scatter_add_rows, rows, mocl_tensor_numel(g) / rows, mocl_real(g),
                       mocl_int(idx), size, mocl_real(din[0]));
}

mocl_status mocl_index_select_known(mocl_tensor **out, mocl_tensor *x, mocl_tensor *idx) {
    int64_t shape[MK_MAX_DIMS];
    mocl_tensor *c = NULL, *ci = NULL;
    mocl_node *node = NULL;
    *out = NULL;
    memcpy(shape, x->shape, sizeof shape);
    shape[0] = idx->shape[0];
    mocl_status st = mocl_tensor_contiguous(&c, x);
    if (!st) st = mocl_tensor_contiguous(&ci, idx);
    if (!st) st = mocl_tensor_new(out, x->storage->dev, x->dtype, x->ndim, shape);
    if (!st && shape[0] > 0) {
        int64_t width = mocl_tensor_numel(*out) / shape[0];
        st = MOCL_KERNEL(x->storage->dev, gather_rows, x->dtype, shape[0], width, mocl_tensor_data(c), mocl_int(ci),
                         mocl_tensor_data(*out));
    }
    mocl_drop_on(st, out);
    if (!st) st = mocl_record(out, &node, "index_select", index_select_backward, 1, &x, 1, &ci);
    if (node) remember_shape(node, x);
    mocl_tensor_unref(c);
    mocl_tensor_unref(ci);
    return st;
}

mocl_status mocl_index_select(mocl_tensor **out, mocl_tensor *x, mocl_tensor *idx) {
    return mocl_index_select_from(out, x, idx, 0);
}

mocl_status mocl_index_select_from(mocl_tensor **out, mocl_tensor *x, mocl_tensor *idx, int64_t first) {
    *out = NULL;
    MOCL_TRY(mocl_need_computed("index_select", x));
    MOCL_TRY(mocl_need_int("index_select", idx));
    MOCL_TRY(mocl_need_same_device("index_select", x, idx));
    if (x->ndim < 1 || idx->ndim != 1)
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "index_select: needs a tensor with rows and a vector of indices");
    MOCL_TRY(mocl_poll(x->ctx));
    MOCL_TRY(mocl_need_indices("index_select", idx, 0, x->shape[0], first));
    return mocl_index_select_known(out, x, idx);
}

static mocl_status pick_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *idx = n->saved[0], *g = dout[0];
    MOCL_TRY(mocl_tensor_full(&din[0], g->storage->dev, MK_F32, (int)n->integer[0], n->integer + 1, 0));
    return MOCL_KERNEL(g->storage->dev, pick_bwd, mocl_tensor_numel(idx), n->integer[n->integer[0]], mocl_int(idx),
                       mocl_real(g), mocl_real(din[0]));
}

mocl_status mocl_pick(mocl_tensor **out, mocl_tensor *x, mocl_tensor *idx) {
    char a[128], b[128];
    mocl_tensor *c = NULL, *ci = NULL;
    mocl_node *node = NULL;
    *out = NULL;
    MOCL_TRY(mocl_need_real("pick", x));
    MOCL_TRY(mocl_need_int("pick", idx));
    MOCL_TRY(mocl_need_same_device("pick", x, idx));
    if (x->ndim < 1 || idx->ndim != x->ndim - 1 ||
        memcmp(idx->shape, x->shape, sizeof *idx->shape * (size_t)idx->ndim) != 0)
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "pick: indices %s do not fit the rows of %s",
                         mocl_shape_text(a, idx->ndim, idx->shape), mocl_shape_text(b, x->ndim, x->shape));
    MOCL_TRY(mocl_poll(x->ctx));
    MOCL_TRY(mocl_need_indices("pick", idx, 0, x->shape[x->ndim - 1], 0));
    mocl_status st = mocl_tensor_contiguous(&c, x);
    if (!st) st = mocl_tensor_contiguous(&ci, idx);
    if (!st) st = mocl_tensor_new(out, x->storage->dev, MK_F32, idx->ndim, idx->shape);
    if (!st)
        st = MOCL_KERNEL(x->storage->dev, pick, mocl_tensor_numel(idx), x->shape[x->ndim - 1], mocl_real(c),
                         mocl_int(ci), mocl_real(*out));
    mocl_drop_on(st, out);
    if (!st) st = mocl_record(out, &node, "pick", pick_backward, 1, &x, 1, &ci);
    if (node) remember_shape(node, x);
    mocl_tensor_unref(c);
    mocl_tensor_unref(ci);
    return st;
}
