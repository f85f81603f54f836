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

/* ---- linear: inputs x, w, the bias, then A and B of each adapter ---- */

enum { IN_X, IN_W, IN_BIAS, IN_ADAPTERS };
enum { SAVED_X, SAVED_W, SAVED_ADAPTERS = SAVED_W + MK_WEIGHT_PARTS };
/* of an adapter: A, B, its input where dropout makes it another than x, and that input times A^T */
enum { LORA_A, LORA_B, LORA_X, LORA_U, LORA_SAVED };
enum { FEW = IN_ADAPTERS + 2 + SAVED_ADAPTERS + LORA_SAVED }; /* tensors of a linear with one adapter */

/* the rows of an adapter, and its numbers */
typedef struct run {
    double scale, dropout;
    uint64_t key, stream;
    int64_t first, rows;
} run;

/* A linear of m rows: operands of products are of `type`, f32 or bf16. in, saved: as above; saved are owned. */
typedef struct linear {
    mocl_ctx *ctx;
    mocl_device *dev;
    mk_weight w; /* [n, k] */
    mk_dtype type;
    int64_t m, n, k, n_runs;
    run one, *runs;
    mocl_tensor *few[FEW], **in, **saved;
} linear;

static int64_t leading(const mocl_tensor *x) { /* rows: the product of all dimensions but the last */
    int64_t rows = 1;
    for (int i = 0; i < x->ndim - 1; i++) rows *= x->shape[i];
    return rows;
}

/* row i of the contiguous matrix t with n columns */
static void *row_at(const mocl_tensor *t, int64_t i, int64_t n) {
    return (char *)mocl_tensor_data(t) + (size_t)(i * n) * mocl_dtype_size(t->dtype);
}

/* c[m, ...] = alpha op(a) op(w) + beta c on whole matrices; c is f32 or, where rounded, as a */
static mocl_status times(const linear *l, int ta, int64_t m, double alpha, const void *a, int tw, const mk_weight *w, double beta,
                         bool rounded, void *c) {
    int64_t n = tw ? w->rows : w->columns, k = tw ? w->columns : w->rows;
    return MOCL_KERNEL(l->dev, gemm_weight, ta, m, alpha, l->type, a, ta ? m : k, tw, w, beta, rounded ? l->type : MK_F32, c, n);
}

static mocl_status check_lora(mocl_tensor *x, const mocl_weight *w, const mocl_lora *ad) {
    char ta[128], tb[128];
    MOCL_TRY(mocl_need_real("lora_linear", ad->a));
    MOCL_TRY(mocl_need_real("lora_linear", ad->b));
    MOCL_TRY(mocl_need_same_device("lora_linear", x, ad->a));
    MOCL_TRY(mocl_need_same_device("lora_linear", x, ad->b));
    if (ad->a->ndim != 2 || ad->b->ndim != 2 || ad->a->shape[1] != w->columns || ad->b->shape[0] != w->rows ||
        ad->a->shape[0] != ad->b->shape[1])
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "lora_linear: A %s and B %s do not fit a weight of %lld x %lld",
                         mocl_shape_text(ta, ad->a->ndim, ad->a->shape), mocl_shape_text(tb, ad->b->ndim, ad->b->shape),
                         (long long)w->rows, (long long)w->columns);
    return MOCL_OK;
}

static mocl_status check_linear(const char *op, mocl_tensor *x, const mocl_weight *w, mocl_tensor *bias) {
    const mocl_tensor *t = w->part[0];
    char tx[128], tw[128], tb[128];
    int64_t shape[2] = {w->rows, w->columns};
    bool plain = mocl_weight_is_plain(w);
    MOCL_TRY(w->format == MK_FORMAT_F32 ? mocl_need_real(op, x) : mocl_need_computed(op, x));
    if (plain) MOCL_TRY(mocl_need_computed(op, w->part[0]));
    MOCL_TRY(mocl_need_same_device(op, x, w->part[0]));
    MOCL_TRY(mocl_poll(x->ctx));
    if (x->ndim < 1 || (plain && t->ndim != 2) || x->shape[x->ndim - 1] != w->columns)
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "%s: input %s does not fit weight %s ([out, in])", op,
                         mocl_shape_text(tx, x->ndim, x->shape),
                         plain ? mocl_shape_text(tw, t->ndim, t->shape) : mocl_shape_text(tw, 2, shape));
    if (!bias) return MOCL_OK;
    MOCL_TRY(mocl_need_real("linear", bias));
    MOCL_TRY(mocl_need_same_device("linear", x, bias));
    if (bias->ndim != 1 || bias->shape[0] != w->rows || !mocl_tensor_is_contiguous(bias))
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "linear: bias %s does not fit %lld outputs",
                         mocl_shape_text(tb, bias->ndim, bias->shape), (long long)w->rows);
    return MOCL_OK;
}

/* what a backward function reads from its node */
static linear linear_of(const mocl_node *node) {
    linear l = {.ctx = node->ctx, .n_runs = (node->n_in - IN_ADAPTERS) / 2, .runs = node->extra, .saved = node->saved};
    l.dev = node->saved[SAVED_W]->storage->dev;
    l.type = (mk_dtype)node->integer[0];
    l.m = node->integer[1];
    l.n = node->integer[2];
    l.k = node->integer[3];
    mocl_weight w = {.format = (mk_format)node->integer[4], .rows = l.n, .columns = l.k, .block = node->integer[5],
                     .rounded = (mk_dtype)node->integer[6]};
    memcpy(w.part, node->saved + SAVED_W, sizeof w.part);
    l.w = mocl_weight_kernel(&w);
    return l;
}

/* *t: k rows of n numbers of l->type as f32 ones; NULL where they are */
static mocl_status widen(const linear *l, mocl_tensor **t, int64_t k, int64_t n, const void *x) {
    int64_t shape[2] = {k, n};
    if (l->type == MK_F32) return MOCL_OK;
    MOCL_TRY(mocl_tensor_new(t, l->dev, MK_F32, 2, shape));
    return MOCL_KERNEL(l->dev, cast, k * n, l->type, x, MK_F32, mocl_tensor_data(*t));
}

/* the gradient alpha a^T b of a leaf, where more rows of the sum come with other graphs (mocl_row_sum_add) */
static mocl_status add_rows(const linear *l, mocl_tensor **grad, mocl_tensor *leaf, int64_t k, const void *a, const void *b, double alpha) {
    mocl_tensor *wide_a = NULL, *wide_b = NULL;
    mocl_status st = widen(l, &wide_a, k, leaf->shape[0], a);
    if (!st) st = widen(l, &wide_b, k, leaf->shape[1], b);
    if (!st) st = mocl_row_sum_add(grad, leaf, k, wide_a ? mocl_real(wide_a) : a, wide_b ? mocl_real(wide_b) : b, alpha);
    mocl_tensor_unref(wide_a);
    mocl_tensor_unref(wide_b);
    return st;
}

/* gradients of A and B of adapter i, and what flows through it to its rows of x: dx = du A, masked as in forward; where `added`
** dx += du A. g [m, n] of l->type; dx [m, k] or NULL */
static mocl_status run_backward(const linear *l, int64_t i, const mocl_node *node, const mocl_tensor *g, bool added, mocl_tensor *dx,
                                mocl_tensor **din) {
    const run *r = &l->runs[i];
    mocl_tensor *const *s = l->saved + SAVED_ADAPTERS + i * LORA_SAVED, *a = s[LORA_A], *b = s[LORA_B], *u = s[LORA_U], *du = NULL;
    int in_a = (int)(IN_ADAPTERS + 2 * i), in_b = in_a + 1;
    int64_t rank = a->shape[0];
    const void *gr = row_at(g, r->first, l->n);
    mk_weight wa = mocl_weight_plain(l->type, rank, l->k, mocl_tensor_data(a));
    mk_weight wb = mocl_weight_plain(l->type, l->n, rank, mocl_tensor_data(b));
    mk_weight wu = mocl_weight_plain(l->type, r->rows, rank, mocl_tensor_data(u));
    mk_weight wx = mocl_weight_plain(l->type, r->rows, l->k, s[LORA_X] ? mocl_tensor_data(s[LORA_X])
                                                             : l->saved[SAVED_X] ? row_at(l->saved[SAVED_X], r->first, l->k) : NULL);
    mocl_status st;
    MOCL_GOTO(mocl_tensor_like(&du, u), done);
    MOCL_GOTO(times(l, 0, r->rows, r->scale, gr, 0, &wb, 0, true, mocl_tensor_data(du)), done);
    mocl_tensor *leaf_a = node->edge[in_a].leaf, *leaf_b = node->edge[in_b].leaf;
    if (mocl_row_sum_wanted(leaf_a)) {
        MOCL_GOTO(add_rows(l, &din[in_a], leaf_a, r->rows, mocl_tensor_data(du), wx.part[0], 1), done);
    } else if (mocl_node_wants(node, in_a)) {
        MOCL_GOTO(mocl_grad_like(&din[in_a], a), done);
        MOCL_GOTO(times(l, 1, rank, 1, mocl_tensor_data(du), 0, &wx, 0, false, mocl_real(din[in_a])), done);
    }
    if (mocl_row_sum_wanted(leaf_b)) {
        MOCL_GOTO(add_rows(l, &din[in_b], leaf_b, r->rows, gr, wu.part[0], r->scale), done);
    } else if (mocl_node_wants(node, in_b)) {
        MOCL_GOTO(mocl_grad_like(&din[in_b], b), done);
        MOCL_GOTO(times(l, 1, l->n, r->scale, gr, 0, &wu, 0, false, mocl_real(din[in_b])), done);
    }
    if (dx) {
        mk_real *to = mocl_real(dx) + r->first * l->k;
        MOCL_GOTO(times(l, 0, r->rows, 1, mocl_tensor_data(du), 0, &wa, added, false, to), done);
        if (r->dropout > 0)
            MOCL_GOTO(MOCL_KERNEL(l->dev, dropout, MK_F32, r->rows * l->k, r->dropout, r->key, r->stream, to, to), done);
    }
    st = MOCL_OK;
done:
    mocl_tensor_unref(du);
    return st;
}

/* rows first .. end - 1 of dx: g W, added where an adapter has left something there */
static mocl_status add_gradient(const linear *l, const mocl_tensor *g, int64_t first, int64_t end, bool added, mocl_tensor *dx) {
    if (first == end) return MOCL_OK;
    return times(l, 0, end - first, 1, row_at(g, first, l->n), 0, &l->w, added, false, mocl_real(dx) + first * l->k);
}

/* Does g W come before what flows through adapters? The sum of both is the same, rounded once, but a long product that adds to what
** is there keeps its own sums apart, which takes more time; a product over the rank is short. Dropout's mask is for the adapters'
** part alone, and in bf16 the library may add in another order. */
static bool base_first(const linear *l) {
    for (int64_t i = 0; i < l->n_runs; i++)
        if (l->runs[i].dropout > 0) return false;
    return l->type == MK_F32;
}

static mocl_status linear_backward(mocl_node *node, mocl_tensor **dout, mocl_tensor **din) {
    linear l = linear_of(node);
    mocl_tensor *g = NULL, *dx = NULL;
    int64_t shape[MK_MAX_DIMS], at = 0, sizes[2] = {l.n, l.k};
    mocl_status st;
    MOCL_GOTO(mocl_tensor_as(&g, dout[0], l.type), done);
    if (mocl_node_wants(node, IN_X)) {
        memcpy(shape, g->shape, sizeof shape);
        shape[g->ndim - 1] = l.k;
        MOCL_GOTO(mocl_tensor_new(&din[IN_X], l.dev, MK_F32, g->ndim, shape), done);
        dx = din[IN_X];
    }
    bool first = base_first(&l);
    if (dx && first) MOCL_GOTO(add_gradient(&l, g, 0, l.m, false, dx), done);
    for (int64_t i = 0; i < l.n_runs; i++) MOCL_GOTO(run_backward(&l, i, node, g, first, dx, din), done);
    if (mocl_node_wants(node, IN_W)) {
        mk_weight x = mocl_weight_plain(l.type, l.m, l.k, mocl_tensor_data(l.saved[SAVED_X]));
        MOCL_GOTO(mocl_tensor_new(&din[IN_W], l.dev, MK_F32, 2, sizes), done);
        MOCL_GOTO(times(&l, 1, l.n, 1, mocl_tensor_data(g), 0, &x, 0, false, mocl_real(din[IN_W])), done);
    }
    for (int64_t i = 0; dx && !first && i < l.n_runs; at = l.runs[i].first + l.runs[i].rows, i++) {
        if (l.runs[i].first > at) MOCL_GOTO(add_gradient(&l, g, at, l.runs[i].first, false, dx), done);
        MOCL_GOTO(add_gradient(&l, g, l.runs[i].first, l.runs[i].first + l.runs[i].rows, true, dx), done);
    }
    if (dx && !first && at < l.m) MOCL_GOTO(add_gradient(&l, g, at, l.m, false, dx), done);
    st = MOCL_OK;
    if (mocl_node_wants(node, IN_BIAS)) st = mocl_sum_to(&din[IN_BIAS], dout[0], 1, sizes);
done:
    mocl_tensor_unref(g);
    return st;
}

/* out += the part of adapter i, and what backward needs of it; where `from` is not NULL: out = from + that part */
static mocl_status run_forward(linear *l, int64_t i, const mocl_lora *ad, mocl_tensor *cx, const mocl_tensor *from, mocl_tensor *out) {
    run *r = &l->runs[i];
    mocl_tensor **s = l->saved + SAVED_ADAPTERS + i * LORA_SAVED;
    int64_t rank = ad->a->shape[0], ushape[2], xshape[2];
    l->in[IN_ADAPTERS + 2 * i] = ad->a;
    l->in[IN_ADAPTERS + 2 * i + 1] = ad->b;
    *r = (run){.scale = ad->scale, .dropout = ad->dropout, .key = ad->key, .stream = ad->stream, .first = ad->first,
               .rows = (ad->end < 0 ? l->m : ad->end) - ad->first};
    ushape[0] = xshape[0] = r->rows;
    ushape[1] = rank;
    xshape[1] = l->k;
    MOCL_TRY(mocl_tensor_rounded(&s[LORA_A], ad->a, l->type));
    MOCL_TRY(mocl_tensor_rounded(&s[LORA_B], ad->b, l->type));
    const void *x = row_at(cx, r->first, l->k);
    if (r->dropout > 0) {
        MOCL_TRY(mocl_tensor_new(&s[LORA_X], l->dev, l->type, 2, xshape));
        int64_t n = r->rows * l->k;
        void *to = mocl_tensor_data(s[LORA_X]);
        MOCL_TRY(MOCL_KERNEL(l->dev, dropout, l->type, n, r->dropout, r->key, r->stream, x, to));
        x = to;
    }
    MOCL_TRY(mocl_tensor_new(&s[LORA_U], l->dev, l->type, 2, ushape));
    mk_weight a = mocl_weight_plain(l->type, rank, l->k, mocl_tensor_data(s[LORA_A]));
    mk_weight b = mocl_weight_plain(l->type, l->n, rank, mocl_tensor_data(s[LORA_B]));
    MOCL_TRY(times(l, 0, r->rows, 1, x, 1, &a, 0, true, mocl_tensor_data(s[LORA_U])));
    if (from)
        return MOCL_KERNEL(l->dev, gemm_weight_onto, r->rows, r->scale, mocl_real(s[LORA_U]), rank, 1, &b, mocl_real(from), mocl_real(out),
                           l->n);
    return times(l, 0, r->rows, r->scale, mocl_tensor_data(s[LORA_U]), 1, &b, 1, true, row_at(out, r->first, l->n));
}

/* every row of out becomes the bias */
static mocl_status put_bias(const linear *l, mocl_tensor *bias, mocl_tensor *out) {
    int64_t shape[2] = {l->m, l->n}, from[2] = {0, 1}, to[2] = {l->n, 1};
    mocl_tensor *c = NULL;
    MOCL_TRY(mocl_tensor_as(&c, bias, l->type));
    mocl_status st = MOCL_KERNEL(l->dev, copy, l->type, 2, shape, mocl_tensor_data(c), from, mocl_tensor_data(out), to);
    mocl_tensor_unref(c);
    return st;
}

/* room for the tensors and numbers of n_runs adapters */
static mocl_status linear_room(linear *l) {
    int64_t n_in = IN_ADAPTERS + 2 * l->n_runs;
    l->in = l->few;
    l->runs = &l->one;
    if (l->n_runs > 1) {
        size_t n = (size_t)(n_in + SAVED_ADAPTERS + LORA_SAVED * l->n_runs), tensors = n * sizeof(mocl_tensor *);
        l->in = mocl_calloc(l->ctx, 1, tensors + (size_t)l->n_runs * sizeof(run));
        if (!l->in) return mocl_nomem(l->ctx, tensors);
        l->runs = (run *)(l->in + n);
    }
    l->saved = l->in + n_in;
    return MOCL_OK;
}

/* the node of an output, with what linear_of takes from it */
static mocl_status linear_record(const linear *l, mocl_tensor **out, const char *op) {
    mocl_node *node = NULL;
    MOCL_TRY(mocl_record(out, &node, op, linear_backward, (int)(IN_ADAPTERS + 2 * l->n_runs), l->in,
                         (int)(SAVED_ADAPTERS + LORA_SAVED * l->n_runs), l->saved));
    if (!node) return MOCL_OK;
    const int64_t numbers[] = {l->type, l->m, l->n, l->k, l->w.format, l->w.block, l->w.rounded};
    memcpy(node->integer, numbers, sizeof numbers);
    if (!l->n_runs) return MOCL_OK;
    size_t bytes = (size_t)l->n_runs * sizeof(run);
    node->extra = mocl_alloc(l->ctx, bytes);
    if (!node->extra) return mocl_drop_on(mocl_nomem(l->ctx, bytes), out);
    memcpy(node->extra, l->runs, bytes);
    return MOCL_OK;
}

/* a product that the caller knows is what this linear gives without adapters */
static mocl_status check_product(const linear *l, mocl_tensor *x, mocl_tensor *product) {
    char text[128];
    MOCL_TRY(mocl_need_same_device("linear", x, product));
    if (product->dtype == l->type && mocl_tensor_is_contiguous(product) && product->ndim == x->ndim && leading(product) == l->m &&
        product->shape[product->ndim - 1] == l->n)
        return MOCL_OK;
    return mocl_fail(l->ctx, MOCL_E_SHAPE, "linear: the known product is %s %s; %lld rows of %lld %s in one piece are needed",
                     mocl_dtype_name(product->dtype), mocl_shape_text(text, product->ndim, product->shape), (long long)l->m,
                     (long long)l->n, mocl_dtype_name(l->type));
}

mocl_status mocl_linear(mocl_tensor **out, mocl_tensor *x, const mocl_weight *w, mocl_tensor *bias, const mocl_lora *adapter) {
    return mocl_linear_from(out, NULL, x, w, bias, adapter);
}

mocl_status mocl_linear_from(mocl_tensor **out, mocl_tensor *product, mocl_tensor *x, const mocl_weight *w, mocl_tensor *bias,
                             const mocl_lora *adapter) {
    const char *op = adapter ? "lora_linear" : "linear";
    linear l = {.ctx = x->ctx, .dev = x->storage->dev, .n = w->rows, .k = w->columns};
    mocl_tensor *cx = NULL;
    int64_t shape[MK_MAX_DIMS], i = 0;
    bool onto;
    mocl_status st;
    *out = NULL;
    MOCL_TRY(check_linear(op, x, w, bias));
    for (const mocl_lora *ad = adapter; ad; ad = ad->next, l.n_runs++) MOCL_TRY(check_lora(x, w, ad));
    l.type = w->format == MK_FORMAT_F32 ? MK_F32 : w->format == MK_FORMAT_BF16 ? MK_BF16 : x->dtype;
    l.m = leading(x);
    MOCL_TRY(linear_room(&l));
    l.in[IN_X] = x;
    l.in[IN_W] = mocl_weight_is_plain(w) ? w->part[0] : NULL;
    l.in[IN_BIAS] = bias;
    MOCL_GOTO(mocl_tensor_as(&cx, x, l.type), done);
    mocl_weight laid = *w;
    for (int p = 0; p < MK_WEIGHT_PARTS && w->part[p]; p++) {
        MOCL_GOTO(mocl_tensor_contiguous(&l.saved[SAVED_W + p], w->part[p]), done);
        laid.part[p] = l.saved[SAVED_W + p];
    }
    l.w = mocl_weight_kernel(&laid);
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = l.n;
    MOCL_GOTO(mocl_tensor_new(out, l.dev, l.type, x->ndim, shape), done);
    if (product) MOCL_GOTO(check_product(&l, x, product), done);
    onto = product && adapter && adapter->first == 0 && (adapter->end < 0 || adapter->end == l.m) && !adapter->next &&
           l.type == MK_F32 && l.dev->k->gemm_weight_onto;
    if (product && !onto) MOCL_GOTO(mocl_tensor_copy(*out, product), done);
    if (bias && !product) MOCL_GOTO(put_bias(&l, bias, *out), done);
    if (!product)
        MOCL_GOTO(times(&l, 0, l.m, 1, mocl_tensor_data(cx), 1, &l.w, bias != NULL, true, mocl_tensor_data(*out)), done);
    for (const mocl_lora *ad = adapter; ad; ad = ad->next) MOCL_GOTO(run_forward(&l, i++, ad, cx, onto ? product : NULL, *out), done);
    if (adapter || mocl_grad_wanted(l.ctx, 1, &l.in[IN_W])) l.saved[SAVED_X] = mocl_tensor_ref(cx);
    st = linear_record(&l, out, op);
done:
    mocl_drop_on(st, out);
    mocl_tensor_unref(cx);
    for (int64_t s = 0; s < SAVED_ADAPTERS + LORA_SAVED * l.n_runs; s++) mocl_tensor_unref(l.saved[s]);
    if (l.in != l.few) mocl_free(l.in);
    return st;
}
