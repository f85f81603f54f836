/* ops_linear.c - matrix products: matmul, linear, and linear with a low-rank adapter */
#include "ops.h"

#include <string.h>

/* the last two dimensions of a tensor as gemm sees them */
typedef struct matrix {
    mocl_tensor *t; /* owned: the operand, or a contiguous copy of it */
    int transposed;
    int64_t ld, step, batch;
} matrix;

static mocl_status matrix_of(matrix *m, mocl_tensor *x) {
    int nd = x->ndim;
    int64_t rows = x->shape[nd - 2], cols = x->shape[nd - 1], rs = x->stride[nd - 2], cs = x->stride[nd - 1];
    bool plain = (cs == 1 || cols == 1) && (rs >= cols || rows == 1);
    bool turned = !plain && (rs == 1 || rows == 1) && (cs >= rows || cols == 1);
    bool uniform = true; /* batch dimensions collapse to one step */
    m->batch = 1;
    m->step = 0;
    for (int i = nd - 3; i >= 0; i--) {
        if (x->shape[i] == 1) continue;
        if (m->batch == 1) m->step = x->stride[i];
        else if (x->stride[i] != m->step * m->batch) uniform = false;
        m->batch *= x->shape[i];
    }
    if ((plain || turned) && uniform) {
        m->t = mocl_tensor_ref(x);
        m->transposed = turned;
        m->ld = turned ? (cols == 1 ? rows : cs) : (rows == 1 ? cols : rs);
        return MOCL_OK;
    }
    MOCL_TRY(mocl_tensor_contiguous(&m->t, x));
    m->transposed = 0;
    m->ld = cols;
    m->step = rows * cols;
    return MOCL_OK;
}

/* out = a b for equal batch shapes (or one side without batch dimensions); no history */
static mocl_status product(mocl_tensor **out, mocl_tensor *a, mocl_tensor *b) {
    matrix ma = {0}, mb = {0};
    const mocl_tensor *wide = a->ndim >= b->ndim ? a : b;
    int64_t shape[MK_MAX_DIMS], m = a->shape[a->ndim - 2], k = a->shape[a->ndim - 1], n = b->shape[b->ndim - 1];
    int64_t batch = 1; /* that of the output: it may be 0 */
    for (int i = 0; i < wide->ndim - 2; i++) batch *= wide->shape[i];
    memcpy(shape, wide->shape, sizeof shape);
    shape[wide->ndim - 2] = m;
    shape[wide->ndim - 1] = n;
    mocl_status st = mocl_tensor_new(out, a->storage->dev, MK_F32, wide->ndim, shape);
    if (!st) st = matrix_of(&ma, a);
    if (!st) st = matrix_of(&mb, b);
    if (!st)
        st = MOCL_KERNEL(a->storage->dev, matmul, ma.transposed, mb.transposed, m, n, k, mocl_real(ma.t), ma.ld,
                         a->ndim == 2 ? 0 : ma.step, mocl_real(mb.t), mb.ld, b->ndim == 2 ? 0 : mb.step,
                         mocl_real(*out), n, m * n, batch);
    mocl_tensor_unref(ma.t);
    mocl_tensor_unref(mb.t);
    return mocl_drop_on(st, out);
}

/* da = g b^T, db = a^T g, summed over the batch where that side had none */
static mocl_status matmul_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *a = n->saved[0], *b = n->saved[1], *t = NULL, *full = NULL;
    mocl_status st = MOCL_OK;
    for (int side = 0; side < 2 && !st; side++) {
        if (!mocl_node_wants(n, side)) continue;
        mocl_tensor *other = side == 0 ? b : a, *self = side == 0 ? a : b;
        st = mocl_transpose(&t, other, other->ndim - 2, other->ndim - 1);
        if (!st) st = side == 0 ? product(&full, dout[0], t) : product(&full, t, dout[0]);
        if (!st) st = mocl_sum_to(&din[side], full, self->ndim, self->shape);
        mocl_tensor_unref(t);
        mocl_tensor_unref(full);
        t = full = NULL;
    }
    return st;
}

mocl_status mocl_matmul(mocl_tensor **out, mocl_tensor *a, mocl_tensor *b) {
    char ta[128], tb[128];
    *out = NULL;
    MOCL_TRY(mocl_need_real("matmul", a));
    MOCL_TRY(mocl_need_real("matmul", b));
    MOCL_TRY(mocl_need_same_device("matmul", a, b));
    MOCL_TRY(mocl_poll(a->ctx));
    mocl_shape_text(ta, a->ndim, a->shape);
    mocl_shape_text(tb, b->ndim, b->shape);
    if (a->ndim < 2 || b->ndim < 2)
        return mocl_fail(a->ctx, MOCL_E_SHAPE, "matmul: %s x %s: matrices are needed; reshape vectors first", ta, tb);
    if (a->shape[a->ndim - 1] != b->shape[b->ndim - 2])
        return mocl_fail(a->ctx, MOCL_E_SHAPE, "matmul: %s x %s: inner sizes %lld and %lld differ", ta, tb,
                         (long long)a->shape[a->ndim - 1], (long long)b->shape[b->ndim - 2]);
    bool same_batch = a->ndim == b->ndim && memcmp(a->shape, b->shape, sizeof *a->shape * (size_t)(a->ndim - 2)) == 0;
    if (!same_batch && a->ndim != 2 && b->ndim != 2)
        return mocl_fail(a->ctx, MOCL_E_SHAPE, "matmul: %s x %s: batch dimensions differ", ta, tb);
    MOCL_TRY(product(out, a, b));
    mocl_tensor *in[2] = {a, b};
    return mocl_record(out, NULL, "matmul", matmul_backward, 2, in, 2, in);
}

/* ---- linear ---- */

/* x as [rows, k], contiguous */
static mocl_status as_rows(mocl_tensor **c, mocl_tensor *x, int64_t *rows) {
    MOCL_TRY(mocl_tensor_contiguous(c, x));
    *rows = 1;
    for (int i = 0; i < x->ndim - 1; i++) *rows *= x->shape[i];
    return MOCL_OK;
}

static mocl_status check_linear(const char *op, mocl_tensor *x, mocl_tensor *w) {
    char tx[128], tw[128];
    MOCL_TRY(w->dtype == MK_BF16 ? mocl_need_computed(op, x) : mocl_need_real(op, x));
    MOCL_TRY(mocl_need_computed(op, w));
    MOCL_TRY(mocl_need_same_device(op, x, w));
    MOCL_TRY(mocl_poll(x->ctx));
    if (x->ndim < 1 || w->ndim != 2 || x->shape[x->ndim - 1] != w->shape[1])
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "%s: input %s does not fit weight %s ([out, in])", op,
                         mocl_shape_text(tx, x->ndim, x->shape), mocl_shape_text(tw, w->ndim, w->shape));
    return MOCL_OK;
}

static mocl_status new_output(mocl_tensor **out, mocl_tensor *x, int64_t n, mk_dtype dtype) {
    int64_t shape[MK_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = n;
    return mocl_tensor_new(out, x->storage->dev, dtype, x->ndim, shape);
}

/* c[m,n] = alpha op(a) op(b) + beta c on whole contiguous matrices */
static mocl_status gemm(mocl_device *dev, int ta, int tb, int64_t m, int64_t n, int64_t k, double alpha,
                        const mk_real *a, const mk_real *b, double beta, mk_real *c) {
    return MOCL_KERNEL(dev, gemm, ta, tb, m, n, k, alpha, a, ta ? m : k, 0, b, tb ? k : n, 0, beta, c, n, 0, 1);
}

/* the same on bf16 matrices, c being f32 or bf16 */
static mocl_status gemm_bf16(int ta, int tb, int64_t m, int64_t n, int64_t k, double alpha, mocl_tensor *a, mocl_tensor *b,
                             double beta, mocl_tensor *c) {
    return MOCL_KERNEL(c->storage->dev, gemm_bf16, ta, tb, m, n, k, alpha, mocl_bf16(a), ta ? m : k, mocl_bf16(b), tb ? k : n,
                       beta, c->dtype, mocl_tensor_data(c), n);
}

/* x in bf16, contiguous, without history */
static mocl_status as_bf16(mocl_tensor **c, mocl_tensor *x) {
    if (x->dtype == MK_BF16) return mocl_tensor_contiguous(c, x);
    MOCL_TRY(mocl_tensor_new(c, x->storage->dev, MK_BF16, x->ndim, x->shape));
    return mocl_drop_on(mocl_tensor_copy(*c, x), c);
}

static int64_t leading(const mocl_tensor *x) { /* rows: the product of all dimensions but the last */
    int64_t rows = 1;
    for (int i = 0; i < x->ndim - 1; i++) rows *= x->shape[i];
    return rows;
}

/* ---- linear with bf16 weights: inputs x, w; saved w, and x where w wants a gradient ---- */

static mocl_status linear_bf16_backward(mocl_node *node, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *w = node->saved[0], *x = node->saved[1], *g = NULL;
    int64_t n = w->shape[0], k = w->shape[1], m = leading(dout[0]);
    mocl_status st;
    MOCL_GOTO(as_bf16(&g, dout[0]), done);
    if (mocl_node_wants(node, 0)) {
        int64_t shape[MK_MAX_DIMS];
        memcpy(shape, dout[0]->shape, sizeof shape);
        shape[dout[0]->ndim - 1] = k;
        MOCL_GOTO(mocl_tensor_new(&din[0], w->storage->dev, MK_F32, dout[0]->ndim, shape), done);
        MOCL_GOTO(gemm_bf16(0, 0, m, k, n, 1, g, w, 0, din[0]), done);
    }
    if (mocl_node_wants(node, 1)) {
        MOCL_GOTO(mocl_grad_like(&din[1], w), done);
        MOCL_GOTO(gemm_bf16(1, 0, n, k, m, 1, g, x, 0, din[1]), done);
    }
    st = MOCL_OK;
done:
    mocl_tensor_unref(g);
    return st;
}

static mocl_status linear_bf16(mocl_tensor **out, mocl_tensor *x, mocl_tensor *w) {
    mocl_tensor *cx = NULL, *cw = NULL;
    mocl_status st;
    MOCL_GOTO(as_bf16(&cx, x), done);
    MOCL_GOTO(mocl_tensor_contiguous(&cw, w), done);
    MOCL_GOTO(new_output(out, x, w->shape[0], MK_BF16), done);
    MOCL_GOTO(gemm_bf16(0, 1, leading(x), w->shape[0], w->shape[1], 1, cx, cw, 0, *out), done);
    mocl_tensor *in[2] = {x, w}, *saved[2] = {cw, w->node ? cx : NULL};
    st = mocl_record(out, NULL, "linear", linear_bf16_backward, 2, in, 2, saved);
done:
    mocl_drop_on(st, out);
    mocl_tensor_unref(cx);
    mocl_tensor_unref(cw);
    return st;
}

static mocl_status linear_backward(mocl_node *node, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *x = node->saved[0], *w = node->saved[1], *g = dout[0];
    mocl_device *dev = w->storage->dev;
    int64_t n = w->shape[0], k = w->shape[1], m = n ? mocl_tensor_numel(g) / n : 0;
    if (mocl_node_wants(node, 0)) {
        MOCL_TRY(mocl_tensor_like(&din[0], x));
        MOCL_TRY(gemm(dev, 0, 0, m, k, n, 1, mocl_real(g), mocl_real(w), 0, mocl_real(din[0])));
    }
    if (mocl_node_wants(node, 1)) {
        MOCL_TRY(mocl_tensor_like(&din[1], w));
        MOCL_TRY(gemm(dev, 1, 0, n, k, m, 1, mocl_real(g), mocl_real(x), 0, mocl_real(din[1])));
    }
    if (node->n_in > 2 && mocl_node_wants(node, 2)) MOCL_TRY(mocl_sum_to(&din[2], g, 1, &n));
    return MOCL_OK;
}

mocl_status mocl_linear(mocl_tensor **out, mocl_tensor *x, mocl_tensor *w, mocl_tensor *b) {
    mocl_tensor *cx = NULL, *cw = NULL;
    int64_t rows, one = 1, zero = 0;
    char tb[128];
    *out = NULL;
    MOCL_TRY(check_linear("linear", x, w));
    if (w->dtype == MK_BF16 && b)
        return mocl_fail(x->ctx, MOCL_E_ARG, "linear: a bias beside a bf16 weight is not computed; add it to the output in f32");
    if (w->dtype == MK_BF16) return linear_bf16(out, x, w);
    int64_t n = w->shape[0], k = w->shape[1];
    if (b) {
        MOCL_TRY(mocl_need_real("linear", b));
        MOCL_TRY(mocl_need_same_device("linear", x, b));
        if (b->ndim != 1 || b->shape[0] != n || !mocl_tensor_is_contiguous(b))
            return mocl_fail(x->ctx, MOCL_E_SHAPE, "linear: bias %s does not fit %lld outputs",
                             mocl_shape_text(tb, b->ndim, b->shape), (long long)n);
    }
    mocl_status st = as_rows(&cx, x, &rows);
    if (!st) st = mocl_tensor_contiguous(&cw, w);
    if (!st) st = new_output(out, x, n, MK_F32);
    if (!st) st = gemm(x->storage->dev, 0, 1, rows, n, k, 1, mocl_real(cx), mocl_real(cw), 0, mocl_real(*out));
    if (!st && b) {
        int64_t shape[2] = {rows, n}, full[2] = {n, one}, row[2] = {zero, one};
        st = MOCL_KERNEL(x->storage->dev, binary, MK_ADD, 2, shape, mocl_real(*out), full, mocl_real(b), row,
                         mocl_real(*out));
    }
    mocl_drop_on(st, out);
    mocl_tensor *in[3] = {x, w, b}, *saved[2] = {cx, cw};
    if (!st) st = mocl_record(out, NULL, "linear", linear_backward, b ? 3 : 2, in, 2, saved);
    mocl_tensor_unref(cx);
    mocl_tensor_unref(cw);
    return st;
}

/* ---- linear with adapter: inputs x, w, A, B; saved x, w, A, B, xd (dropped-out x or NULL), u = xd A^T ---- */

static mocl_status lora_backward(mocl_node *node, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *x = node->saved[0], *w = node->saved[1], *a = node->saved[2], *b = node->saved[3], *xd = node->saved[4],
                *u = node->saved[5], *g = dout[0], *du = NULL;
    mocl_device *dev = w->storage->dev;
    double scale = node->num[0], p = node->num[1];
    int64_t n = w->shape[0], k = w->shape[1], r = a->shape[0], m = n ? mocl_tensor_numel(g) / n : 0;
    mocl_status st;
    MOCL_GOTO(mocl_tensor_like(&du, u), done);
    MOCL_GOTO(gemm(dev, 0, 0, m, r, n, scale, mocl_real(g), mocl_real(b), 0, mocl_real(du)), done);
    if (mocl_node_wants(node, 2)) {
        MOCL_GOTO(mocl_tensor_like(&din[2], a), done);
        MOCL_GOTO(gemm(dev, 1, 0, r, k, m, 1, mocl_real(du), mocl_real(xd ? xd : x), 0, mocl_real(din[2])), done);
    }
    if (mocl_node_wants(node, 3)) {
        MOCL_GOTO(mocl_tensor_like(&din[3], b), done);
        MOCL_GOTO(gemm(dev, 1, 0, n, r, m, scale, mocl_real(g), mocl_real(u), 0, mocl_real(din[3])), done);
    }
    if (mocl_node_wants(node, 1)) {
        MOCL_GOTO(mocl_tensor_like(&din[1], w), done);
        MOCL_GOTO(gemm(dev, 1, 0, n, k, m, 1, mocl_real(g), mocl_real(x), 0, mocl_real(din[1])), done);
    }
    if (mocl_node_wants(node, 0)) {
        MOCL_GOTO(mocl_tensor_like(&din[0], x), done);
        MOCL_GOTO(gemm(dev, 0, 0, m, k, r, 1, mocl_real(du), mocl_real(a), 0, mocl_real(din[0])), done);
        if (p > 0) /* the same mask as forward */
            MOCL_GOTO(MOCL_KERNEL(dev, dropout, mocl_tensor_numel(x), p, (uint64_t)node->integer[0],
                                  (uint64_t)node->integer[1], mocl_real(din[0]), mocl_real(din[0])), done);
        MOCL_GOTO(gemm(dev, 0, 0, m, k, n, 1, mocl_real(g), mocl_real(w), 1, mocl_real(din[0])), done);
    }
    st = MOCL_OK;
done:
    mocl_tensor_unref(du);
    return st;
}

/* The same with bf16 weights. The adapter is f32; copies of it rounded to bf16 enter the products and are saved. */

static mocl_status lora_bf16_backward(mocl_node *node, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *x = node->saved[0], *w = node->saved[1], *a = node->saved[2], *b = node->saved[3], *xd = node->saved[4],
                *u = node->saved[5], *g = NULL, *du = NULL;
    double scale = node->num[0], p = node->num[1];
    int64_t n = w->shape[0], k = w->shape[1], r = a->shape[0], m = leading(dout[0]);
    mocl_status st;
    MOCL_GOTO(as_bf16(&g, dout[0]), done);
    MOCL_GOTO(mocl_tensor_like(&du, u), done);
    MOCL_GOTO(gemm_bf16(0, 0, m, r, n, scale, g, b, 0, du), done);
    if (mocl_node_wants(node, 2)) {
        MOCL_GOTO(mocl_grad_like(&din[2], a), done);
        MOCL_GOTO(gemm_bf16(1, 0, r, k, m, 1, du, xd ? xd : x, 0, din[2]), done);
    }
    if (mocl_node_wants(node, 3)) {
        MOCL_GOTO(mocl_grad_like(&din[3], b), done);
        MOCL_GOTO(gemm_bf16(1, 0, n, r, m, scale, g, u, 0, din[3]), done);
    }
    if (mocl_node_wants(node, 1)) {
        MOCL_GOTO(mocl_grad_like(&din[1], w), done);
        MOCL_GOTO(gemm_bf16(1, 0, n, k, m, 1, g, x, 0, din[1]), done);
    }
    if (mocl_node_wants(node, 0)) {
        MOCL_GOTO(mocl_grad_like(&din[0], x), done);
        MOCL_GOTO(gemm_bf16(0, 0, m, k, r, 1, du, a, 0, din[0]), done);
        if (p > 0) /* the same mask as forward */
            MOCL_GOTO(MOCL_KERNEL(w->storage->dev, dropout, mocl_tensor_numel(x), p, (uint64_t)node->integer[0],
                                  (uint64_t)node->integer[1], mocl_real(din[0]), mocl_real(din[0])), done);
        MOCL_GOTO(gemm_bf16(0, 0, m, k, n, 1, g, w, 1, din[0]), done);
    }
    st = MOCL_OK;
done:
    mocl_tensor_unref(g);
    mocl_tensor_unref(du);
    return st;
}

/* What both backward functions of lora_linear read from the node. */
static mocl_status record_lora(mocl_tensor **out, mocl_backward backward, mocl_tensor *const *in, mocl_tensor *const *saved,
                               double scale, double p, uint64_t key, uint64_t stream) {
    mocl_node *node = NULL;
    mocl_status st = mocl_record(out, &node, "lora_linear", backward, 4, in, 6, saved);
    if (node) {
        node->num[0] = scale;
        node->num[1] = p;
        node->integer[0] = (int64_t)key;
        node->integer[1] = (int64_t)stream;
    }
    return st;
}

static mocl_status lora_linear_bf16(mocl_tensor **out, mocl_tensor *x, mocl_tensor *w, mocl_tensor *a, mocl_tensor *b,
                                    double scale, double p, uint64_t key, uint64_t stream) {
    mocl_tensor *cx = NULL, *cw = NULL, *ca = NULL, *cb = NULL, *xd = NULL, *u = NULL;
    int64_t rows = leading(x), n = w->shape[0], k = w->shape[1], r = a->shape[0], ushape[2] = {rows, r};
    mocl_status st;
    MOCL_GOTO(as_bf16(&cx, x), done);
    MOCL_GOTO(mocl_tensor_contiguous(&cw, w), done);
    MOCL_GOTO(as_bf16(&ca, a), done);
    MOCL_GOTO(as_bf16(&cb, b), done);
    if (p > 0) {
        MOCL_GOTO(mocl_tensor_like(&xd, cx), done);
        MOCL_GOTO(MOCL_KERNEL(x->storage->dev, dropout_bf16, mocl_tensor_numel(cx), p, key, stream, mocl_bf16(cx),
                              mocl_bf16(xd)), done);
    }
    MOCL_GOTO(new_output(out, x, n, MK_BF16), done);
    MOCL_GOTO(mocl_tensor_new(&u, x->storage->dev, MK_BF16, 2, ushape), done);
    MOCL_GOTO(gemm_bf16(0, 1, rows, n, k, 1, cx, cw, 0, *out), done);
    MOCL_GOTO(gemm_bf16(0, 1, rows, r, k, 1, xd ? xd : cx, ca, 0, u), done);
    MOCL_GOTO(gemm_bf16(0, 1, rows, n, r, scale, u, cb, 1, *out), done);
    mocl_tensor *in[4] = {x, w, a, b}, *saved[6] = {cx, cw, ca, cb, xd, u};
    st = record_lora(out, lora_bf16_backward, in, saved, scale, p, key, stream);
done:
    mocl_drop_on(st, out);
    mocl_tensor_unref(cx);
    mocl_tensor_unref(cw);
    mocl_tensor_unref(ca);
    mocl_tensor_unref(cb);
    mocl_tensor_unref(xd);
    mocl_tensor_unref(u);
    return st;
}

mocl_status mocl_lora_linear(mocl_tensor **out, mocl_tensor *x, mocl_tensor *w, mocl_tensor *a, mocl_tensor *b,
                             double scale, double p, uint64_t key, uint64_t stream) {
    mocl_tensor *cx = NULL, *cw = NULL, *ca = NULL, *cb = NULL, *xd = NULL, *u = NULL;
    mocl_device *dev = x->storage->dev;
    int64_t rows, ushape[2];
    mocl_status st;
    char ta[128], tb[128];
    *out = NULL;
    MOCL_TRY(check_linear("lora_linear", x, w));
    MOCL_TRY(mocl_need_real("lora_linear", a));
    MOCL_TRY(mocl_need_real("lora_linear", b));
    MOCL_TRY(mocl_need_same_device("lora_linear", x, a));
    MOCL_TRY(mocl_need_same_device("lora_linear", x, b));
    int64_t n = w->shape[0], k = w->shape[1];
    if (a->ndim != 2 || b->ndim != 2 || a->shape[1] != k || b->shape[0] != n || a->shape[0] != b->shape[1])
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "lora_linear: A %s and B %s do not fit a weight of %lld x %lld",
                         mocl_shape_text(ta, a->ndim, a->shape), mocl_shape_text(tb, b->ndim, b->shape), (long long)n,
                         (long long)k);
    if (w->dtype == MK_BF16) return lora_linear_bf16(out, x, w, a, b, scale, p, key, stream);
    int64_t r = a->shape[0];
    MOCL_GOTO(as_rows(&cx, x, &rows), done);
    MOCL_GOTO(mocl_tensor_contiguous(&cw, w), done);
    MOCL_GOTO(mocl_tensor_contiguous(&ca, a), done);
    MOCL_GOTO(mocl_tensor_contiguous(&cb, b), done);
    ushape[0] = rows;
    ushape[1] = r;
    if (p > 0) {
        MOCL_GOTO(mocl_tensor_like(&xd, cx), done);
        MOCL_GOTO(MOCL_KERNEL(dev, dropout, mocl_tensor_numel(cx), p, key, stream, mocl_real(cx), mocl_real(xd)), done);
    }
    MOCL_GOTO(new_output(out, x, n, MK_F32), done);
    MOCL_GOTO(mocl_tensor_new(&u, dev, MK_F32, 2, ushape), done);
    MOCL_GOTO(gemm(dev, 0, 1, rows, n, k, 1, mocl_real(cx), mocl_real(cw), 0, mocl_real(*out)), done);
    MOCL_GOTO(gemm(dev, 0, 1, rows, r, k, 1, mocl_real(xd ? xd : cx), mocl_real(ca), 0, mocl_real(u)), done);
    MOCL_GOTO(gemm(dev, 0, 1, rows, n, r, scale, mocl_real(u), mocl_real(cb), 1, mocl_real(*out)), done);
    mocl_tensor *in[4] = {x, w, a, b}, *saved[6] = {cx, cw, ca, cb, xd, u};
    st = record_lora(out, lora_backward, in, saved, scale, p, key, stream);
done:
    if (st) mocl_drop_on(st, out);
    mocl_tensor_unref(cx);
    mocl_tensor_unref(cw);
    mocl_tensor_unref(ca);
    mocl_tensor_unref(cb);
    mocl_tensor_unref(xd);
    mocl_tensor_unref(u);
    return st;
}
