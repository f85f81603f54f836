/* ops_elementwise.c - elementwise operations with broadcasting */
#include "ops.h"

#include <string.h>

/* ---- unary ---- */

static mocl_status unary_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *x = n->saved[0], *y = n->saved[1];
    MOCL_TRY(mocl_tensor_like(&din[0], x));
    return MOCL_KERNEL(x->storage->dev, unary_bwd, (mk_unary)n->integer[0], mocl_tensor_numel(x), mocl_real(x),
                       mocl_real(y), mocl_real(dout[0]), mocl_real(din[0]), n->num[0], n->num[1]);
}

mocl_status mocl_unary(mocl_tensor **out, mk_unary op, mocl_tensor *x, double p, double q) {
    *out = NULL;
    MOCL_TRY(mocl_need_real("elementwise operation", x));
    MOCL_TRY(mocl_poll(x->ctx));
    mocl_tensor *c = NULL;
    mocl_node *n = NULL;
    MOCL_TRY(mocl_tensor_contiguous(&c, x));
    mocl_status st = mocl_tensor_like(out, c);
    if (!st)
        st = MOCL_KERNEL(c->storage->dev, unary, op, mocl_tensor_numel(c), mocl_real(c), mocl_real(*out), p, q);
    mocl_drop_on(st, out);
    mocl_tensor *saved[2] = {c, NULL};
    if (!st) st = mocl_record(out, &n, "elementwise operation", unary_backward, 1, &x, 2, saved);
    if (!st && n) {
        n->integer[0] = op;
        n->num[0] = p;
        n->num[1] = q;
        st = mocl_drop_on(mocl_node_save_output(n, 1, *out), out);
    }
    mocl_tensor_unref(c);
    return st;
}

/* ---- binary ---- */

static bool broadcast_shape(const mocl_tensor *a, const mocl_tensor *b, int *ndim, int64_t *shape) {
    *ndim = a->ndim > b->ndim ? a->ndim : b->ndim;
    for (int i = 0; i < *ndim; i++) {
        int ia = i - (*ndim - a->ndim), ib = i - (*ndim - b->ndim);
        int64_t na = ia < 0 ? 1 : a->shape[ia], nb = ib < 0 ? 1 : b->shape[ib];
        if (na != nb && na != 1 && nb != 1) return false;
        shape[i] = na == 1 ? nb : na;
    }
    return true;
}

static void broadcast_strides(const mocl_tensor *t, int ndim, const int64_t *shape, int64_t *stride) {
    for (int i = 0; i < ndim; i++) {
        int it = i - (ndim - t->ndim);
        stride[i] = it < 0 || (t->shape[it] == 1 && shape[i] != 1) ? 0 : t->stride[it];
    }
}

static const char *binary_name(mk_binary op) {
    static const char *const names[] = {"add", "sub", "mul", "div", "maximum", "minimum", "pow",
                                        "eq",  "ne",  "lt",  "le",  "gt",      "ge"};
    return names[op];
}

/* The slope of a^b in a: b a^(b-1), 0 where b is 0; in b: a^b log a, 0 where a is 0. There the formulas
** would multiply 0 by infinity, so 1 is added to the exponent or to the argument of the logarithm. */
static mocl_status pow_slope(mocl_tensor **out, int side, mocl_tensor *a, mocl_tensor *b) {
    mocl_tensor *zero = NULL, *at_zero = NULL, *t = NULL, *u = NULL, *v = NULL, *which = side == 0 ? b : a;
    mocl_status st = mocl_tensor_full(&zero, a->storage->dev, MK_F32, 0, NULL, 0);
    if (!st) st = mocl_binary(&at_zero, MK_EQ, which, zero);
    if (!st) st = mocl_unary(&t, MK_ADD_SCALAR, which, side == 0 ? -1 : 0, 0);
    if (!st) st = mocl_axpy_(t, 1, at_zero);
    if (!st) st = side == 0 ? mocl_binary(&u, MK_POW, a, t) : mocl_unary(&u, MK_LOG, t, 0, 0);
    if (!st && side == 1) st = mocl_binary(&v, MK_POW, a, b);
    if (!st) st = mocl_binary(out, MK_MUL, u, side == 0 ? b : v);
    mocl_tensor_unref(zero);
    mocl_tensor_unref(at_zero);
    mocl_tensor_unref(t);
    mocl_tensor_unref(u);
    mocl_tensor_unref(v);
    return st;
}

/* the gradients of a and b at the broadcast shape, then summed back to theirs */
static mocl_status binary_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    mk_binary op = (mk_binary)n->integer[0];
    mocl_tensor *a = n->saved[0], *b = n->saved[1], *g = dout[0], *t = NULL, *u = NULL, *full = NULL;
    mocl_status st = MOCL_OK;
    for (int side = 0; side < 2 && !st; side++) {
        if (!mocl_node_wants(n, side)) continue;
        full = NULL;
        switch (op) {
            case MK_ADD: full = mocl_tensor_ref(g); break;
            case MK_SUB:
                if (side == 0) full = mocl_tensor_ref(g);
                else st = mocl_unary(&full, MK_NEG, g, 0, 0);
                break;
            case MK_MUL: st = mocl_binary(&full, MK_MUL, g, side == 0 ? b : a); break;
            case MK_DIV:
                st = mocl_binary(&t, MK_DIV, g, b); /* g / b */
                if (!st && side == 0) full = mocl_tensor_ref(t);
                else if (!st) { /* -g a / b^2 */
                    st = mocl_binary(&u, MK_MUL, t, a);
                    mocl_tensor_unref(t);
                    t = NULL;
                    if (!st) st = mocl_binary(&t, MK_DIV, u, b);
                    if (!st) st = mocl_unary(&full, MK_NEG, t, 0, 0);
                }
                break;
            case MK_MAXIMUM:
            case MK_MINIMUM: /* ties go to both sides by half, as PyTorch's */
                st = mocl_binary(&t, op == MK_MAXIMUM ? (side == 0 ? MK_GT : MK_LT) : (side == 0 ? MK_LT : MK_GT), a,
                                 b);
                if (!st) st = mocl_binary(&u, MK_EQ, a, b);
                if (!st) st = mocl_axpy_(t, 0.5, u);
                if (!st) st = mocl_binary(&full, MK_MUL, g, t);
                break;
            case MK_POW:
                st = pow_slope(&t, side, a, b);
                if (!st) st = mocl_binary(&full, MK_MUL, g, t);
                break;
            default: break; /* comparisons: no gradient */
        }
        mocl_tensor_unref(t);
        mocl_tensor_unref(u);
        t = u = NULL;
        if (!st && full) {
            const int64_t *meta = n->integer + 1 + side * (1 + MK_MAX_DIMS); /* ndim, shape of the operand */
            st = mocl_sum_to(&din[side], full, (int)meta[0], meta + 1);
        }
        mocl_tensor_unref(full);
    }
    return st;
}

mocl_status mocl_binary(mocl_tensor **out, mk_binary op, mocl_tensor *a, mocl_tensor *b) {
    int ndim;
    int64_t shape[MK_MAX_DIMS], sa[MK_MAX_DIMS], sb[MK_MAX_DIMS];
    char ta[128], tb[128];
    mocl_node *n = NULL;
    *out = NULL;
    MOCL_TRY(mocl_need_same_device(binary_name(op), a, b));
    MOCL_TRY(mocl_poll(a->ctx));
    /* of bf16 there is the sum of two alike, which residual streams need */
    bool rounded = op == MK_ADD && a->dtype == MK_BF16 && b->dtype == MK_BF16 && mocl_tensor_same_shape(a, b);
    MOCL_TRY(rounded ? mocl_need_computed("add", a) : mocl_need_real(binary_name(op), a));
    if (!rounded) MOCL_TRY(mocl_need_real(binary_name(op), b));
    if (!broadcast_shape(a, b, &ndim, shape))
        return mocl_fail(a->ctx, MOCL_E_SHAPE, "%s: %s and %s do not broadcast", binary_name(op),
                         mocl_shape_text(ta, a->ndim, a->shape), mocl_shape_text(tb, b->ndim, b->shape));
    broadcast_strides(a, ndim, shape, sa);
    broadcast_strides(b, ndim, shape, sb);
    MOCL_TRY(mocl_tensor_new(out, a->storage->dev, a->dtype, ndim, shape));
    mocl_status st = MOCL_KERNEL(a->storage->dev, binary, a->dtype, op, ndim, shape, mocl_tensor_data(a), sa,
                                 mocl_tensor_data(b), sb, mocl_tensor_data(*out));
    if (mocl_drop_on(st, out)) return st;
    if (op >= MK_EQ) return MOCL_OK; /* comparisons are piecewise constant */
    mocl_tensor *in[2] = {a, b};
    bool needs_values = op != MK_ADD && op != MK_SUB;
    MOCL_TRY(mocl_record(out, &n, binary_name(op), binary_backward, 2, in, 2,
                         (mocl_tensor *[2]){needs_values ? a : NULL, needs_values ? b : NULL}));
    if (n) {
        n->integer[0] = op;
        for (int side = 0; side < 2; side++) {
            int64_t *meta = n->integer + 1 + side * (1 + MK_MAX_DIMS);
            meta[0] = in[side]->ndim;
            memcpy(meta + 1, in[side]->shape, sizeof *meta * (size_t)in[side]->ndim);
        }
    }
    return MOCL_OK;
}

/* ---- where ---- */

static mocl_status where_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *c = n->saved[0], *zero = NULL;
    mocl_status st = mocl_tensor_full(&zero, c->storage->dev, MK_F32, c->ndim, c->shape, 0);
    if (!st && mocl_node_wants(n, 0)) st = mocl_where(&din[0], c, dout[0], zero);
    if (!st && mocl_node_wants(n, 1)) st = mocl_where(&din[1], c, zero, dout[0]);
    mocl_tensor_unref(zero);
    return st;
}

mocl_status mocl_where(mocl_tensor **out, mocl_tensor *c, mocl_tensor *a, mocl_tensor *b) {
    mocl_tensor *t[3] = {c, a, b}, *k[3] = {NULL};
    mocl_status st = MOCL_OK;
    char sa[128], sb[128];
    *out = NULL;
    for (int i = 0; i < 3; i++) {
        MOCL_TRY(mocl_need_real("where", t[i]));
        MOCL_TRY(mocl_need_same_device("where", c, t[i]));
        if (!mocl_tensor_same_shape(c, t[i]))
            return mocl_fail(c->ctx, MOCL_E_SHAPE, "where: shapes %s and %s differ; expand one first",
                             mocl_shape_text(sa, c->ndim, c->shape), mocl_shape_text(sb, t[i]->ndim, t[i]->shape));
    }
    MOCL_TRY(mocl_poll(c->ctx));
    for (int i = 0; i < 3 && !st; i++) st = mocl_tensor_contiguous(&k[i], t[i]);
    if (!st) st = mocl_tensor_like(out, k[0]);
    if (!st)
        st = MOCL_KERNEL(c->storage->dev, where, mocl_tensor_numel(c), mocl_real(k[0]), mocl_real(k[1]),
                         mocl_real(k[2]), mocl_real(*out));
    mocl_drop_on(st, out);
    if (!st) st = mocl_record(out, NULL, "where", where_backward, 2, t + 1, 1, k);
    for (int i = 0; i < 3; i++) mocl_tensor_unref(k[i]);
    return st;
}

/* ---- in place ---- */

static mocl_status need_writable(const char *op, mocl_tensor *y) {
    if (y->ctx->grad_enabled && (y->requires_grad || y->node))
        return mocl_fail(y->ctx, MOCL_E_ARG, "%s: a tensor with gradient history cannot be changed in place while "
                                             "recording; use no_grad or detach", op);
    if (!mocl_tensor_is_contiguous(y))
        return mocl_fail(y->ctx, MOCL_E_ARG, "%s: a view that is not contiguous cannot be changed in place", op);
    return MOCL_OK;
}

mocl_status mocl_axpy_(mocl_tensor *y, double alpha, mocl_tensor *x) {
    mocl_tensor *c = NULL, *e = NULL, *own = NULL;
    MOCL_TRY(mocl_need_real("add_", y));
    MOCL_TRY(mocl_need_real("add_", x));
    MOCL_TRY(mocl_need_same_device("add_", y, x));
    MOCL_TRY(need_writable("add_", y));
    mocl_status st = mocl_expand(&e, x, y->ndim, y->shape);
    if (!st) st = mocl_tensor_contiguous(&c, e);
    if (!st && c->storage == y->storage && c->offset != y->offset) st = mocl_clone(&own, c); /* they may overlap */
    if (!st)
        st = MOCL_KERNEL(y->storage->dev, axpy, mocl_tensor_numel(y), alpha, mocl_real(own ? own : c), mocl_real(y));
    y->storage->version++;
    mocl_tensor_unref(e);
    mocl_tensor_unref(c);
    mocl_tensor_unref(own);
    return st;
}

mocl_status mocl_fill_(mocl_tensor *x, double value) {
    MOCL_TRY(need_writable("fill_", x));
    x->storage->version++;
    return MOCL_KERNEL(x->storage->dev, fill, x->dtype, mocl_tensor_numel(x), mocl_tensor_data(x), value);
}
