/* ops_nn.c - network parts over rows and ragged sequences: norms, dropout, SwiGLU, rotary embedding,
** attention, segment sums
*/
#include "ops.h"

#include <math.h>
#include <string.h>

static int64_t row_count(const mocl_tensor *x) {
    int64_t width = x->shape[x->ndim - 1];
    return width ? mocl_tensor_numel(x) / width : 0;
}

static mocl_status need_same_dtype(const char *op, mocl_tensor *a, mocl_tensor *b) {
    if (a->dtype == b->dtype) return MOCL_OK;
    return mocl_fail(a->ctx, MOCL_E_ARG, "%s: operands are %s and %s; convert one with :to", op, mocl_dtype_name(a->dtype),
                     mocl_dtype_name(b->dtype));
}

static mocl_status check_vector(const char *op, mocl_tensor *x, mocl_tensor *w) {
    char a[128], b[128];
    if (!w) return MOCL_OK;
    MOCL_TRY(mocl_need_real(op, w));
    MOCL_TRY(mocl_need_same_device(op, x, w));
    if (w->ndim != 1 || w->shape[0] != x->shape[x->ndim - 1] || !mocl_tensor_is_contiguous(w))
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "%s: weight %s does not fit rows of %s", op,
                         mocl_shape_text(a, w->ndim, w->shape), mocl_shape_text(b, x->ndim, x->shape));
    return MOCL_OK;
}

static mocl_status check_rows(const char *op, mocl_tensor *x) {
    if (x->ndim < 1) return mocl_fail(x->ctx, MOCL_E_SHAPE, "%s: a scalar has no rows", op);
    return mocl_poll(x->ctx);
}

/* ---- rmsnorm: saved x, w, rstd ---- */

static mocl_status rmsnorm_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *x = n->saved[0], *w = n->saved[1];
    mocl_device *dev = x->storage->dev;
    MOCL_TRY(mocl_grad_like(&din[0], x));
    bool want_w = n->n_in > 1 && mocl_node_wants(n, 1);
    if (want_w) MOCL_TRY(mocl_tensor_full(&din[1], dev, MK_F32, w->ndim, w->shape, 0));
    int64_t rows = row_count(x), width = x->shape[x->ndim - 1];
    mk_real *weight = w ? mocl_real(w) : NULL, *rstd = mocl_real(n->saved[2]), *dy = mocl_real(dout[0]);
    mk_real *dx = mocl_real(din[0]), *dw = want_w ? mocl_real(din[1]) : NULL;
    MOCL_TRY(MOCL_KERNEL(dev, rmsnorm_bwd, x->dtype, rows, width, mocl_tensor_data(x), weight, rstd, dy, dx, dw));
    if (!mocl_node_wants(n, 0)) {
        mocl_tensor_unref(din[0]);
        din[0] = NULL;
    }
    return MOCL_OK;
}

mocl_status mocl_rmsnorm(mocl_tensor **out, mocl_tensor *x, mocl_tensor *w, double eps) {
    return mocl_rmsnorm_to(out, x, w, eps, x->dtype);
}

mocl_status mocl_rmsnorm_to(mocl_tensor **out, mocl_tensor *x, mocl_tensor *w, double eps, mk_dtype dtype) {
    mocl_tensor *c = NULL, *rstd = NULL;
    mocl_device *dev = x->storage->dev;
    mocl_status st;
    *out = NULL;
    MOCL_TRY(mocl_need_computed("rmsnorm", x));
    MOCL_TRY(check_rows("rmsnorm", x));
    MOCL_TRY(check_vector("rmsnorm", x, w));
    int64_t rows = row_count(x);
    MOCL_GOTO(mocl_tensor_contiguous(&c, x), done);
    MOCL_GOTO(mocl_tensor_new(&rstd, dev, MK_F32, 1, &rows), done);
    MOCL_GOTO(mocl_tensor_new(out, dev, dtype, c->ndim, c->shape), done);
    st = MOCL_KERNEL(dev, rmsnorm, x->dtype, rows, x->shape[x->ndim - 1], mocl_tensor_data(c), w ? mocl_real(w) : NULL, eps, dtype,
                     mocl_tensor_data(*out), mocl_real(rstd));
    if (st) goto done;
    mocl_tensor *in[2] = {x, w}, *saved[3] = {c, w, rstd};
    st = mocl_record(out, NULL, "rmsnorm", rmsnorm_backward, w ? 2 : 1, in, 3, saved);
done:
    mocl_drop_on(st, out);
    mocl_tensor_unref(c);
    mocl_tensor_unref(rstd);
    return st;
}

/* ---- layernorm: saved x, w, mean, rstd; inputs x, w, b ---- */

static mocl_status layernorm_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *x = n->saved[0], *w = n->saved[1];
    mocl_device *dev = x->storage->dev;
    int64_t width = x->shape[x->ndim - 1];
    mocl_tensor *dw = NULL, *db = NULL;
    mocl_status st;
    MOCL_GOTO(mocl_tensor_like(&din[0], x), done);
    MOCL_GOTO(mocl_tensor_full(&dw, dev, MK_F32, 1, &width, 0), done);
    MOCL_GOTO(mocl_tensor_full(&db, dev, MK_F32, 1, &width, 0), done);
    MOCL_GOTO(MOCL_KERNEL(dev, layernorm_bwd, row_count(x), width, mocl_real(x), w ? mocl_real(w) : NULL,
                          mocl_real(n->saved[2]), mocl_real(n->saved[3]), mocl_real(dout[0]), mocl_real(din[0]),
                          mocl_real(dw), mocl_real(db)), done);
    if (mocl_node_wants(n, 1)) din[1] = mocl_tensor_ref(dw);
    if (mocl_node_wants(n, 2)) din[2] = mocl_tensor_ref(db);
    if (!mocl_node_wants(n, 0)) {
        mocl_tensor_unref(din[0]);
        din[0] = NULL;
    }
    st = MOCL_OK;
done:
    mocl_tensor_unref(dw);
    mocl_tensor_unref(db);
    return st;
}

mocl_status mocl_layernorm(mocl_tensor **out, mocl_tensor *x, mocl_tensor *w, mocl_tensor *b, double eps) {
    mocl_tensor *c = NULL, *mean = NULL, *rstd = NULL;
    mocl_device *dev = x->storage->dev;
    mocl_status st;
    *out = NULL;
    MOCL_TRY(mocl_need_real("layernorm", x));
    MOCL_TRY(check_rows("layernorm", x));
    MOCL_TRY(check_vector("layernorm", x, w));
    MOCL_TRY(check_vector("layernorm", x, b));
    int64_t rows = row_count(x);
    MOCL_GOTO(mocl_tensor_contiguous(&c, x), done);
    MOCL_GOTO(mocl_tensor_new(&mean, dev, MK_F32, 1, &rows), done);
    MOCL_GOTO(mocl_tensor_new(&rstd, dev, MK_F32, 1, &rows), done);
    MOCL_GOTO(mocl_tensor_like(out, c), done);
    MOCL_GOTO(MOCL_KERNEL(dev, layernorm, rows, x->shape[x->ndim - 1], mocl_real(c), w ? mocl_real(w) : NULL,
                          b ? mocl_real(b) : NULL, eps, mocl_real(*out), mocl_real(mean), mocl_real(rstd)), done);
    mocl_tensor *in[3] = {x, w, b}, *saved[4] = {c, w, mean, rstd};
    st = mocl_record(out, NULL, "layernorm", layernorm_backward, 3, in, 4, saved);
done:
    mocl_drop_on(st, out);
    mocl_tensor_unref(c);
    mocl_tensor_unref(mean);
    mocl_tensor_unref(rstd);
    return st;
}

/* ---- dropout ---- */

static mocl_status dropout_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    MOCL_TRY(mocl_tensor_like(&din[0], dout[0]));
    return MOCL_KERNEL(dout[0]->storage->dev, dropout, MK_F32, mocl_tensor_numel(dout[0]), n->num[0], (uint64_t)n->integer[0],
                       (uint64_t)n->integer[1], mocl_real(dout[0]), mocl_real(din[0]));
}

mocl_status mocl_dropout(mocl_tensor **out, mocl_tensor *x, double p, uint64_t key, uint64_t stream) {
    mocl_tensor *c = NULL;
    mocl_node *node = NULL;
    *out = NULL;
    MOCL_TRY(mocl_need_real("dropout", x));
    if (!(p >= 0 && p < 1)) return mocl_fail(x->ctx, MOCL_E_ARG, "dropout: p = %g is outside [0, 1)", mocl_shown(p));
    MOCL_TRY(mocl_tensor_contiguous(&c, x));
    mocl_status st = mocl_tensor_like(out, c);
    if (!st)
        st = MOCL_KERNEL(x->storage->dev, dropout, MK_F32, mocl_tensor_numel(c), p, key, stream, mocl_real(c), mocl_real(*out));
    mocl_tensor_unref(c);
    if (mocl_drop_on(st, out)) return st;
    MOCL_TRY(mocl_record(out, &node, "dropout", dropout_backward, 1, &x, 0, NULL));
    if (node) {
        node->num[0] = p;
        node->integer[0] = (int64_t)key;
        node->integer[1] = (int64_t)stream;
    }
    return MOCL_OK;
}

/* ---- swiglu ---- */

static mocl_status swiglu_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *gate = n->saved[0], *up = n->saved[1];
    MOCL_TRY(mocl_grad_like(&din[0], gate));
    MOCL_TRY(mocl_grad_like(&din[1], up));
    return MOCL_KERNEL(gate->storage->dev, swiglu_bwd, gate->dtype, mocl_tensor_numel(gate), mocl_tensor_data(gate),
                       mocl_tensor_data(up), mocl_real(dout[0]), mocl_real(din[0]), mocl_real(din[1]));
}

mocl_status mocl_swiglu(mocl_tensor **out, mocl_tensor *gate, mocl_tensor *up) {
    mocl_tensor *in[2] = {gate, up}, *c[2] = {NULL};
    char a[128], b[128];
    *out = NULL;
    MOCL_TRY(mocl_need_computed("swiglu", gate));
    MOCL_TRY(mocl_need_computed("swiglu", up));
    MOCL_TRY(need_same_dtype("swiglu", gate, up));
    MOCL_TRY(mocl_need_same_device("swiglu", gate, up));
    MOCL_TRY(mocl_poll(gate->ctx));
    if (!mocl_tensor_same_shape(gate, up))
        return mocl_fail(gate->ctx, MOCL_E_SHAPE, "swiglu: gate %s and up %s differ",
                         mocl_shape_text(a, gate->ndim, gate->shape), mocl_shape_text(b, up->ndim, up->shape));
    mocl_status st = mocl_tensor_contiguous(&c[0], gate);
    if (!st) st = mocl_tensor_contiguous(&c[1], up);
    if (!st) st = mocl_tensor_like(out, c[0]);
    if (!st)
        st = MOCL_KERNEL(gate->storage->dev, swiglu, gate->dtype, mocl_tensor_numel(gate), mocl_tensor_data(c[0]),
                         mocl_tensor_data(c[1]), mocl_tensor_data(*out));
    mocl_drop_on(st, out);
    if (!st) st = mocl_record(out, NULL, "swiglu", swiglu_backward, 2, in, 2, c);
    mocl_tensor_unref(c[0]);
    mocl_tensor_unref(c[1]);
    return st;
}

/* ---- rotary embedding ---- */

mocl_status mocl_rope_table(mocl_tensor **out, mocl_device *dev, int64_t n, const double *freq, double theta) {
    double *made = NULL;
    *out = NULL;
    if (!freq) {
        made = mocl_calloc(dev->ctx, (size_t)(n ? n : 1), sizeof *made);
        if (!made) return mocl_nomem(dev->ctx, (size_t)n * sizeof *made);
        for (int64_t i = 0; i < n; i++) made[i] = pow(theta, -2 * (double)i / (double)(2 * n));
    }
    mocl_status st = mocl_tensor_from_host(out, dev, MK_I64, 1, &n, freq ? freq : made);
    mocl_free(made);
    return st;
}

static mocl_status rotate(mocl_tensor **out, mocl_tensor *x, mocl_tensor *pos, mocl_tensor *freq, double factor, int sign) {
    int64_t ld = x->shape[1] * x->shape[2];
    mocl_tensor *c = NULL;
    MOCL_TRY(mocl_tensor_contiguous(&c, x));
    mocl_status st = mocl_tensor_like(out, c);
    const double *table = mocl_tensor_data(freq);
    if (!st)
        st = MOCL_KERNEL(x->storage->dev, rope, x->dtype, x->shape[0], x->shape[1], x->shape[2], mocl_int(pos), table, factor,
                         sign,                         mocl_tensor_data(c), ld, mocl_tensor_data(*out), ld);
    mocl_tensor_unref(c);
    return mocl_drop_on(st, out);
}

static mocl_status rope_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    return rotate(&din[0], dout[0], n->saved[0], n->saved[1], n->num[0], -1);
}

mocl_status mocl_rope(mocl_tensor **out, mocl_tensor *x, mocl_tensor *pos, mocl_tensor *freq, double factor) {
    mocl_node *node = NULL;
    mocl_tensor *saved[2] = {pos, freq};
    char a[128], b[128];
    *out = NULL;
    MOCL_TRY(mocl_need_computed("rope", x));
    MOCL_TRY(mocl_need_int("rope", pos));
    MOCL_TRY(mocl_need_same_device("rope", x, pos));
    MOCL_TRY(mocl_need_same_device("rope", x, freq));
    MOCL_TRY(mocl_poll(x->ctx));
    if (x->ndim != 3 || x->shape[2] % 2 || pos->ndim != 1 || pos->shape[0] != x->shape[0] ||
        !mocl_tensor_is_contiguous(pos))
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "rope: needs [T, H, even K] and T positions, got %s and %s",
                         mocl_shape_text(a, x->ndim, x->shape), mocl_shape_text(b, pos->ndim, pos->shape));
    if (freq->dtype != MK_I64 || mocl_tensor_numel(freq) != x->shape[2] / 2)
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "rope: a table of %lld frequencies does not fit heads of %lld",
                         (long long)mocl_tensor_numel(freq), (long long)x->shape[2]);
    MOCL_TRY(rotate(out, x, pos, freq, factor, 1));
    MOCL_TRY(mocl_record(out, &node, "rope", rope_backward, 1, &x, 2, saved));
    if (node) node->num[0] = factor;
    return MOCL_OK;
}

/* ---- attention: saved q, k, v, offsets, lse, out, and offsets of keys that are of other tokens ---- */

static mocl_status attention_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *q = n->saved[0], *k = n->saved[1], *v = n->saved[2], *off = n->saved[3];
    const int32_t *keys = n->saved[6] ? mocl_int(n->saved[6]) : NULL;
    for (int i = 0; i < 3; i++) MOCL_TRY(mocl_grad_like(&din[i], n->saved[i]));
    return MOCL_KERNEL(q->storage->dev, attention_bwd, q->dtype, off->shape[0] - 1, mocl_int(off), keys, q->shape[1], k->shape[1],
                       q->shape[2], n->num[0], (int)n->integer[0], n->integer[1], mocl_tensor_data(q), mocl_tensor_data(k),
                       mocl_tensor_data(v), mocl_tensor_data(n->saved[5]), mocl_real(n->saved[4]), mocl_real(dout[0]),
                       mocl_real(din[0]), mocl_real(din[1]), mocl_real(din[2]));
}

mocl_status mocl_attention(mocl_tensor **out, mocl_tensor *q, mocl_tensor *k, mocl_tensor *v, mocl_tensor *offsets,
                           mocl_tensor *keys, mocl_tensor *from, double scale, bool causal, int64_t window) {
    mocl_tensor *in[3] = {q, k, v}, *c[3] = {NULL}, *lse = NULL;
    mocl_device *dev = q->storage->dev;
    mocl_node *node = NULL;
    mocl_status st;
    char a[128], b[128], d[128];
    *out = NULL;
    for (int i = 0; i < 3; i++) {
        MOCL_TRY(mocl_need_computed("attention", in[i]));
        MOCL_TRY(need_same_dtype("attention", q, in[i]));
        MOCL_TRY(mocl_need_same_device("attention", q, in[i]));
    }
    MOCL_TRY(mocl_need_int("attention", offsets));
    MOCL_TRY(mocl_need_same_device("attention", q, offsets));
    MOCL_TRY(mocl_poll(q->ctx));
    if (keys) MOCL_TRY(mocl_need_same_device("attention", q, keys));
    if (q->ndim != 3 || k->ndim != 3 || !mocl_tensor_same_shape(k, v) || (!keys && q->shape[0] != k->shape[0]) ||
        q->shape[2] != k->shape[2] || k->shape[1] < 1 || q->shape[1] % k->shape[1])
        return mocl_fail(q->ctx, MOCL_E_SHAPE, "attention: needs q [T, H, K], k and v [T, G, K] with H a multiple of G, "
                                               "got %s, %s, %s", mocl_shape_text(a, q->ndim, q->shape),
                         mocl_shape_text(b, k->ndim, k->shape), mocl_shape_text(d, v->ndim, v->shape));
    if (window < 0 || (window && !causal))
        return mocl_fail(q->ctx, MOCL_E_ARG, "attention: window = %lld must be 0 (none) or more, and stands with causal = true alone",
                         (long long)window);
    if (keys && (causal || mocl_tensor_numel(keys) != mocl_tensor_numel(offsets)))
        return mocl_fail(q->ctx, MOCL_E_ARG, "attention: key_offsets go with causal = false, and with as many sequences as offsets has");
    for (int i = 0; i < 3; i++) MOCL_GOTO(mocl_tensor_contiguous(&c[i], in[i]), done);
    MOCL_GOTO(mocl_tensor_new(&lse, dev, MK_F32, 2, q->shape), done);
    MOCL_GOTO(mocl_tensor_like(out, c[0]), done);
    st = MOCL_KERNEL(dev, attention, q->dtype, offsets->shape[0] - 1, mocl_int(offsets), keys ? mocl_int(keys) : NULL,
                     from ? mocl_int(from) : NULL, q->shape[1], k->shape[1], q->shape[2], scale, causal, window, mocl_tensor_data(c[0]), mocl_tensor_data(c[1]), mocl_tensor_data(c[2]), mocl_tensor_data(*out),
                     mocl_real(lse));
    if (st) goto done;
    mocl_tensor *saved[7] = {c[0], c[1], c[2], offsets, lse, NULL, keys};
    MOCL_GOTO(mocl_record(out, &node, "attention", attention_backward, 3, in, 7, saved), done);
    if (node) {
        node->num[0] = scale;
        node->integer[0] = causal;
        node->integer[1] = window;
        st = mocl_node_save_output(node, 5, *out);
    }
done:
    mocl_drop_on(st, out);
    for (int i = 0; i < 3; i++) mocl_tensor_unref(c[i]);
    mocl_tensor_unref(lse);
    return st;
}

/* ---- segments ---- */

static mocl_status segment_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *off = n->saved[0], *g = dout[0];
    MOCL_TRY(mocl_tensor_new(&din[0], g->storage->dev, MK_F32, (int)n->integer[0], n->integer + 1));
    return MOCL_KERNEL(g->storage->dev, segment_sum_bwd, (int)n->num[0], off->shape[0] - 1, mocl_int(off),
                       n->integer[2], mocl_real(g), mocl_real(din[0]));
}

mocl_status mocl_segment(mocl_tensor **out, mocl_tensor *x, mocl_tensor *offsets, bool mean) {
    mocl_tensor *c = NULL;
    mocl_node *node = NULL;
    *out = NULL;
    MOCL_TRY(mocl_need_real("segment", x));
    MOCL_TRY(check_rows("segment", x));
    MOCL_TRY(mocl_need_int("segment", offsets));
    if (x->ndim > 2) return mocl_fail(x->ctx, MOCL_E_SHAPE, "segment: needs [T] or [T, n]");
    int64_t width = x->ndim == 2 ? x->shape[1] : 1, shape[2] = {offsets->shape[0] - 1, width};
    mocl_status st = mocl_tensor_contiguous(&c, x);
    if (!st) st = mocl_tensor_new(out, x->storage->dev, MK_F32, x->ndim, shape);
    if (!st)
        st = MOCL_KERNEL(x->storage->dev, segment_sum, mean, shape[0], mocl_int(offsets), width, mocl_real(c),
                         mocl_real(*out));
    mocl_drop_on(st, out);
    if (!st) st = mocl_record(out, &node, "segment", segment_backward, 1, &x, 1, &offsets);
    if (node) {
        node->num[0] = mean;
        node->integer[0] = x->ndim;
        node->integer[1] = x->shape[0];
        node->integer[2] = width;
    }
    mocl_tensor_unref(c);
    return st;
}
