/* ops_reduce.c - reductions along one dimension or over everything, and softmax */
#include "ops.h"

#include <string.h>

/* x contiguous as [outer, n, inner] around dim; dim < 0: [1, numel, 1] */
static void split(const mocl_tensor *x, int dim, int64_t *outer, int64_t *n, int64_t *inner) {
    *outer = *inner = 1;
    if (dim < 0) {
        *n = mocl_tensor_numel(x);
        return;
    }
    *n = x->shape[dim];
    for (int i = 0; i < dim; i++) *outer *= x->shape[i];
    for (int i = dim + 1; i < x->ndim; i++) *inner *= x->shape[i];
}

/* the shape without dim, or with size 1 there */
static int reduced_shape(const mocl_tensor *x, int dim, bool keepdim, int64_t *shape) {
    int ndim = 0;
    for (int i = 0; i < x->ndim; i++) {
        if (i == dim || dim < 0) {
            if (keepdim) shape[ndim++] = 1;
        } else {
            shape[ndim++] = x->shape[i];
        }
    }
    return ndim;
}

static mocl_status check_dim(const char *op, mocl_tensor *x, int dim) {
    MOCL_TRY(mocl_need_real(op, x));
    if (dim >= x->ndim)
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "%s: a tensor of %d dimensions has none numbered %d", op, x->ndim,
                         dim + 1);
    return mocl_poll(x->ctx);
}

/* t with a dimension of size 1 put back at dim (all of them where dim < 0), broadcast to like's shape */
static mocl_status spread(mocl_tensor **out, mocl_tensor *t, int dim, int ndim, const int64_t *shape) {
    int64_t kept[MK_MAX_DIMS];
    mocl_tensor *r = NULL;
    for (int i = 0; i < ndim; i++) kept[i] = i == dim || dim < 0 ? 1 : shape[i];
    MOCL_TRY(mocl_reshape(&r, t, ndim, kept));
    mocl_status st = mocl_expand(out, r, ndim, shape);
    mocl_tensor_unref(r);
    return st;
}

/* sum: dy spread; logsumexp: dy exp(x - y) */
static mocl_status reduce_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    int ndim = (int)n->integer[0], dim = (int)n->integer[1 + MK_MAX_DIMS];
    const int64_t *shape = n->integer + 1;
    mocl_tensor *g = NULL, *y = NULL, *d = NULL, *e = NULL;
    mocl_status st = spread(&g, dout[0], dim, ndim, shape);
    if (st || n->integer[2 + MK_MAX_DIMS] == MK_SUM) {
        din[0] = g;
        return st;
    }
    st = spread(&y, n->saved[1], dim, ndim, shape);
    if (!st) st = mocl_binary(&d, MK_SUB, n->saved[0], y);
    if (!st) st = mocl_unary(&e, MK_EXP, d, 0, 0);
    if (!st) st = mocl_binary(&din[0], MK_MUL, e, g);
    mocl_tensor_unref(g);
    mocl_tensor_unref(y);
    mocl_tensor_unref(d);
    mocl_tensor_unref(e);
    return st;
}

/* largest or smallest along dim: the winner's element, picked, so that the gradient goes to it alone */
static mocl_status extreme(mocl_tensor **out, mk_reduce op, mocl_tensor *x, int dim, bool keepdim) {
    mocl_tensor *rows = NULL, *idx = NULL, *picked = NULL, *moved = NULL;
    int64_t shape[MK_MAX_DIMS], all = -1;
    int order[MK_MAX_DIMS], k = 0;
    mocl_status st;
    if (dim < 0) {
        st = mocl_reshape(&rows, x, 1, &all);
    } else { /* dim to the end */
        for (int i = 0; i < x->ndim; i++)
            if (i != dim) order[k++] = i;
        order[k] = dim;
        st = mocl_permute(&moved, x, order);
        if (!st) st = mocl_clone(&rows, moved);
    }
    if (!st) st = mocl_argreduce(&idx, op, rows, rows->ndim - 1);
    if (!st) st = mocl_pick(&picked, rows, idx);
    if (!st && keepdim) {
        int ndim = reduced_shape(x, dim, true, shape);
        st = mocl_reshape(out, picked, ndim, shape);
    } else if (!st) {
        *out = mocl_tensor_ref(picked);
    }
    mocl_tensor_unref(moved);
    mocl_tensor_unref(rows);
    mocl_tensor_unref(idx);
    mocl_tensor_unref(picked);
    return st;
}

mocl_status mocl_reduce(mocl_tensor **out, mk_reduce op, mocl_tensor *x, int dim, bool keepdim) {
    static const char *const names[] = {"sum", "max", "min", "logsumexp"};
    int64_t outer, n, inner, shape[MK_MAX_DIMS];
    mocl_tensor *c = NULL;
    mocl_node *node = NULL;
    *out = NULL;
    MOCL_TRY(check_dim(names[op], x, dim));
    split(x, dim, &outer, &n, &inner);
    if (op != MK_SUM && n == 0)
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "%s: there are no elements along the dimension", names[op]);
    if (op == MK_MAX || op == MK_MIN) return extreme(out, op, x, dim, keepdim);
    int ndim = reduced_shape(x, dim, keepdim, shape);
    MOCL_TRY(mocl_tensor_contiguous(&c, x));
    mocl_status st = mocl_tensor_new(out, x->storage->dev, MK_F32, ndim, shape);
    if (!st) st = MOCL_KERNEL(x->storage->dev, reduce, op, outer, n, inner, mocl_real(c), mocl_real(*out));
    mocl_drop_on(st, out);
    mocl_tensor *saved[2] = {op == MK_SUM ? NULL : c, NULL};
    if (!st) st = mocl_record(out, &node, names[op], reduce_backward, 1, &x, 2, saved);
    if (node) {
        node->integer[0] = x->ndim;
        memcpy(node->integer + 1, x->shape, sizeof *x->shape * (size_t)x->ndim);
        node->integer[1 + MK_MAX_DIMS] = dim;
        node->integer[2 + MK_MAX_DIMS] = op;
        if (op == MK_LOGSUMEXP) st = mocl_drop_on(mocl_node_save_output(node, 1, *out), out);
    }
    mocl_tensor_unref(c);
    return st;
}

mocl_status mocl_mean(mocl_tensor **out, mocl_tensor *x, int dim, bool keepdim) {
    int64_t outer, n, inner;
    mocl_tensor *sum = NULL;
    *out = NULL;
    MOCL_TRY(check_dim("mean", x, dim));
    split(x, dim, &outer, &n, &inner);
    if (n == 0) return mocl_fail(x->ctx, MOCL_E_SHAPE, "mean: there are no elements to average");
    MOCL_TRY(mocl_reduce(&sum, MK_SUM, x, dim, keepdim));
    mocl_status st = mocl_unary(out, MK_MUL_SCALAR, sum, 1.0 / (double)n, 0);
    mocl_tensor_unref(sum);
    return st;
}

mocl_status mocl_argreduce(mocl_tensor **out, mk_reduce op, mocl_tensor *x, int dim) {
    int64_t outer, n, inner, shape[MK_MAX_DIMS];
    mocl_tensor *c = NULL;
    *out = NULL;
    MOCL_TRY(check_dim("argmax", x, dim));
    split(x, dim, &outer, &n, &inner);
    if (n == 0) return mocl_fail(x->ctx, MOCL_E_SHAPE, "argmax: there are no elements along the dimension");
    MOCL_TRY(mocl_tensor_contiguous(&c, x));
    mocl_status st = mocl_tensor_new(out, x->storage->dev, MK_I32, reduced_shape(x, dim, false, shape), shape);
    if (!st) st = MOCL_KERNEL(x->storage->dev, argreduce, op, outer, n, inner, mocl_real(c), mocl_int(*out));
    mocl_tensor_unref(c);
    return mocl_drop_on(st, out);
}

/* d/dx of a running sum is the running sum from the other end: total - running + own */
static mocl_status cumsum_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    int dim = (int)n->integer[0];
    mocl_tensor *total = NULL, *run = NULL, *rest = NULL;
    mocl_status st = mocl_reduce(&total, MK_SUM, dout[0], dim, true);
    if (!st) st = mocl_cumsum(&run, dout[0], dim);
    if (!st) st = mocl_binary(&rest, MK_SUB, total, run);
    if (!st) st = mocl_binary(&din[0], MK_ADD, rest, dout[0]);
    mocl_tensor_unref(total);
    mocl_tensor_unref(run);
    mocl_tensor_unref(rest);
    return st;
}

mocl_status mocl_cumsum(mocl_tensor **out, mocl_tensor *x, int dim) {
    int64_t outer, n, inner;
    mocl_tensor *c = NULL;
    mocl_node *node = NULL;
    *out = NULL;
    MOCL_TRY(check_dim("cumsum", x, dim));
    if (dim < 0) return mocl_fail(x->ctx, MOCL_E_SHAPE, "cumsum: name a dimension");
    split(x, dim, &outer, &n, &inner);
    MOCL_TRY(mocl_tensor_contiguous(&c, x));
    mocl_status st = mocl_tensor_like(out, c);
    if (!st) st = MOCL_KERNEL(x->storage->dev, cumsum, outer, n, inner, mocl_real(c), mocl_real(*out));
    mocl_tensor_unref(c);
    if (mocl_drop_on(st, out)) return st;
    MOCL_TRY(mocl_record(out, &node, "cumsum", cumsum_backward, 1, &x, 0, NULL));
    if (node) node->integer[0] = dim;
    return MOCL_OK;
}

static mocl_status softmax_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *y = n->saved[0];
    int64_t width = y->shape[y->ndim - 1];
    MOCL_TRY(mocl_tensor_like(&din[0], y));
    if (mocl_tensor_numel(y) == 0) return MOCL_OK;
    return MOCL_KERNEL(y->storage->dev, softmax_bwd, (int)n->integer[0], mocl_tensor_numel(y) / width, width,
                       mocl_real(y), mocl_real(dout[0]), mocl_real(din[0]));
}

mocl_status mocl_softmax(mocl_tensor **out, mocl_tensor *x, bool log) {
    mocl_tensor *c = NULL;
    mocl_node *node = NULL;
    *out = NULL;
    MOCL_TRY(mocl_need_real("softmax", x));
    if (x->ndim < 1) return mocl_fail(x->ctx, MOCL_E_SHAPE, "softmax: a scalar has no dimension to normalise");
    MOCL_TRY(mocl_poll(x->ctx));
    int64_t width = x->shape[x->ndim - 1];
    MOCL_TRY(mocl_tensor_contiguous(&c, x));
    mocl_status st = mocl_tensor_like(out, c);
    if (!st && mocl_tensor_numel(x) > 0)
        st = MOCL_KERNEL(x->storage->dev, softmax, log, mocl_tensor_numel(x) / width, width, mocl_real(c),
                         mocl_real(*out));
    mocl_tensor_unref(c);
    if (mocl_drop_on(st, out)) return st;
    MOCL_TRY(mocl_record(out, &node, "softmax", softmax_backward, 1, &x, 1, NULL));
    if (node) {
        node->integer[0] = log;
        st = mocl_drop_on(mocl_node_save_output(node, 0, *out), out);
    }
    return st;
}
