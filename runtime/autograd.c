/* autograd.c - nodes of the graph and the backward pass in reverse order of creation */
#include "autograd.h"

#include <string.h>

bool mocl_grad_wanted(mocl_ctx *ctx, int n, mocl_tensor *const *in) {
    if (!ctx->grad_enabled) return false;
    for (int i = 0; i < n; i++)
        if (in[i] && (in[i]->requires_grad || in[i]->node)) return true;
    return false;
}

mocl_status mocl_node_new(mocl_node **out, mocl_ctx *ctx, const char *name, mocl_backward backward, int n_in,
                          mocl_tensor *const *in, int n_saved, mocl_tensor *const *saved) {
    size_t bytes = sizeof(mocl_node) + (size_t)n_in * sizeof(mocl_edge) +
                   (size_t)n_saved * (sizeof(mocl_tensor *) + sizeof(uint32_t));
    mocl_node *n = mocl_calloc(ctx, 1, bytes); /* one block: node, edges, saved, versions */
    *out = n;
    if (!n) return mocl_nomem(ctx, bytes);
    n->refs = 1;
    n->seq = ctx->node_seq++;
    n->ctx = ctx;
    n->name = name;
    n->backward = backward;
    n->n_in = n_in;
    n->n_saved = n_saved;
    n->edge = (mocl_edge *)(n + 1);
    n->saved = (mocl_tensor **)(n->edge + n_in);
    n->version = (uint32_t *)(n->saved + n_saved);
    for (int i = 0; i < n_in; i++) {
        if (!in[i]) continue;
        if (in[i]->node) {
            n->edge[i].node = in[i]->node;
            n->edge[i].node->refs++;
            n->edge[i].out_index = in[i]->out_index;
        } else if (in[i]->requires_grad) {
            n->edge[i].leaf = mocl_tensor_ref(in[i]);
        }
    }
    for (int i = 0; i < n_saved; i++) {
        if (!saved || !saved[i]) continue;
        n->saved[i] = mocl_tensor_ref(saved[i]);
        n->version[i] = saved[i]->storage->version;
    }
    return MOCL_OK;
}

mocl_status mocl_node_save_output(mocl_node *n, int slot, mocl_tensor *out) {
    MOCL_TRY(mocl_tensor_detach(&n->saved[slot], out));
    n->version[slot] = out->storage->version;
    return MOCL_OK;
}

void mocl_node_attach(mocl_node *n, int index, mocl_tensor *t) {
    n->refs++;
    t->node = n;
    t->out_index = index;
}

/* *slot += g, taking over the caller's reference to g */
static mocl_status accumulate(mocl_tensor **slot, mocl_tensor *g) {
    mocl_status st = MOCL_OK;
    if (!*slot) {
        *slot = g;
        return MOCL_OK;
    }
    mocl_tensor *sum = *slot;
    if (sum->refs > 1 || sum->storage->refs > 1 || !mocl_tensor_is_contiguous(sum)) { /* shared: copy */
        st = mocl_tensor_like(&sum, *slot);
        if (!st) st = mocl_tensor_copy(sum, *slot);
        if (st) {
            if (sum != *slot) mocl_tensor_unref(sum);
            mocl_tensor_unref(g);
            return st;
        }
        mocl_tensor_unref(*slot);
        *slot = sum;
    }
    mocl_tensor *c = NULL;
    st = mocl_tensor_contiguous(&c, g);
    if (!st) {
        st = MOCL_KERNEL(sum->storage->dev, axpy, mocl_tensor_numel(sum), 1.0, mocl_real(c), mocl_real(sum));
        sum->storage->version++;
    }
    mocl_tensor_unref(c);
    mocl_tensor_unref(g);
    return st;
}

/* A leaf owns its gradient alone: what arrives may be shared with other consumers. */
static mocl_status accumulate_leaf(mocl_tensor *leaf, mocl_tensor *g) {
    if (!leaf->grad && (g->refs > 1 || g->storage->refs > 1 || !mocl_tensor_is_contiguous(g))) {
        mocl_tensor *own = NULL;
        mocl_status st = mocl_tensor_like(&own, g);
        if (!st) st = mocl_tensor_copy(own, g);
        mocl_tensor_unref(g);
        if (st) {
            mocl_tensor_unref(own);
            return st;
        }
        g = own;
    }
    return accumulate(&leaf->grad, g);
}

/* the scheduled nodes as a list, newest first */
static void schedule(mocl_node **list, mocl_node *n) {
    if (n->scheduled) return;
    n->scheduled = true;
    n->refs++;
    while (*list && (*list)->seq > n->seq) list = &(*list)->next;
    n->next = *list;
    *list = n;
}

static void drop_saved(mocl_node *n) {
    for (int i = 0; i < n->n_saved; i++) {
        mocl_tensor_unref(n->saved[i]);
        n->saved[i] = NULL;
    }
}

static mocl_status run_node(mocl_node *n, mocl_node **list, bool retain) {
    mocl_ctx *ctx = n->ctx;
    enum { INLINE = 16 };
    mocl_tensor *few[INLINE] = {NULL}, **din = few;
    mocl_status st = MOCL_OK;
    for (int i = 0; i < n->n_saved; i++) {
        if (n->saved[i] && n->saved[i]->storage->version != n->version[i])
            return mocl_fail(ctx, MOCL_E_ARG,
                             "backward of %s: a tensor it needs was modified in place after it was used; "
                             "clone it before", n->name);
    }
    if (n->n_saved && !n->backward)
        return mocl_fail(ctx, MOCL_E_ARG, "backward of %s: the graph was used before; pass retain_graph=true "
                                          "the first time", n->name);
    if (n->n_in > INLINE) {
        din = mocl_calloc(ctx, (size_t)n->n_in, sizeof *din);
        if (!din) return mocl_nomem(ctx, (size_t)n->n_in * sizeof *din);
    }
    for (int i = 0; i < MOCL_NODE_OUTPUTS && !st; i++) { /* backward functions rely on contiguity */
        mocl_tensor *c = NULL;
        if (!n->dout[i] || mocl_tensor_is_contiguous(n->dout[i])) continue;
        st = mocl_tensor_contiguous(&c, n->dout[i]);
        if (!st) {
            mocl_tensor_unref(n->dout[i]);
            n->dout[i] = c;
        }
    }
    if (!st) st = mocl_poll(ctx);
    if (!st) st = n->backward(n, n->dout, din);
    for (int i = 0; i < n->n_in; i++) {
        mocl_edge *e = &n->edge[i];
        if (!din[i]) continue;
        if (st) {
            mocl_tensor_unref(din[i]);
        } else if (e->node) {
            st = accumulate(&e->node->dout[e->out_index], din[i]);
            if (!st) schedule(list, e->node);
        } else if (e->leaf) {
            st = accumulate_leaf(e->leaf, din[i]);
        } else {
            mocl_tensor_unref(din[i]);
        }
    }
    if (din != few) mocl_free(din);
    for (int i = 0; i < MOCL_NODE_OUTPUTS; i++) {
        mocl_tensor_unref(n->dout[i]);
        n->dout[i] = NULL;
    }
    if (!retain && n->n_saved) {
        drop_saved(n);
        n->backward = NULL;
    }
    return st;
}

bool mocl_row_sum_wanted(const mocl_tensor *leaf) { return leaf && (leaf->ctx->more_rows || leaf->sum); }

mocl_status mocl_row_sum_add(mocl_tensor **grad, mocl_tensor *leaf, int64_t k, const mk_real *a, const mk_real *b, double alpha) {
    mocl_status st = MOCL_OK;
    if (!leaf->sum) {
        leaf->sum = mocl_calloc(leaf->ctx, 1, sizeof *leaf->sum);
        if (!leaf->sum) return mocl_nomem(leaf->ctx, sizeof *leaf->sum);
        st = mocl_tensor_like(&leaf->sum->part, leaf);
        if (!st) st = mocl_tensor_like(&leaf->sum->total, leaf);
    }
    mocl_row_sum *s = leaf->sum;
    if (!st && !leaf->ctx->more_rows) st = mocl_tensor_like(grad, leaf);
    if (!st)
        st = MOCL_KERNEL(leaf->storage->dev, gemm_continued, leaf->shape[0], leaf->shape[1], k, s->rows, a, b, alpha, mocl_real(s->part),
                         mocl_real(s->total), *grad ? mocl_real(*grad) : NULL);
    s->rows += k;
    if (st || *grad) mocl_tensor_drop_sum(leaf);
    if (st) {
        mocl_tensor_unref(*grad);
        *grad = NULL;
    }
    return st;
}

mocl_status mocl_tensor_backward(mocl_tensor *t, mocl_tensor *seed, bool retain, bool more) {
    mocl_ctx *ctx = t->ctx;
    char a[128], b[128];
    if (!t->node && !t->requires_grad)
        return mocl_fail(ctx, MOCL_E_ARG, "backward: this tensor does not depend on anything that requires grad");
    if (!seed && mocl_tensor_numel(t) != 1)
        return mocl_fail(ctx, MOCL_E_SHAPE, "backward: a scalar is needed, this has shape %s; reduce it or pass a "
                                            "gradient", mocl_shape_text(a, t->ndim, t->shape));
    if (seed && !mocl_tensor_same_shape(t, seed))
        return mocl_fail(ctx, MOCL_E_SHAPE, "backward: gradient %s does not fit the tensor %s",
                         mocl_shape_text(a, seed->ndim, seed->shape), mocl_shape_text(b, t->ndim, t->shape));
    if (seed && (seed->dtype != MK_F32 || seed->storage->dev != t->storage->dev))
        return mocl_fail(ctx, MOCL_E_ARG, "backward: the gradient is %s on %s, the tensor f32 on %s",
                         mocl_dtype_name(seed->dtype), seed->storage->dev->name, t->storage->dev->name);
    bool was_enabled = ctx->grad_enabled, had_more = ctx->more_rows;
    ctx->grad_enabled = false;
    ctx->more_rows = more;
    mocl_tensor *g = NULL;
    mocl_node *list = NULL;
    mocl_status st = seed ? mocl_tensor_detach(&g, seed)
                          : mocl_tensor_full(&g, t->storage->dev, MK_F32, t->ndim, t->shape, 1.0);
    if (!st && !t->node) st = accumulate_leaf(t, g);
    else if (!st) {
        st = accumulate(&t->node->dout[t->out_index], g);
        if (!st) schedule(&list, t->node);
    }
    while (list) {
        mocl_node *n = list;
        list = n->next;
        n->scheduled = false;
        if (!st) st = run_node(n, &list, retain);
        if (st) { /* leave nothing half-arrived behind */
            for (int i = 0; i < MOCL_NODE_OUTPUTS; i++) {
                mocl_tensor_unref(n->dout[i]);
                n->dout[i] = NULL;
            }
        }
        mocl_node_unref(n);
    }
    ctx->grad_enabled = was_enabled;
    ctx->more_rows = had_more;
    return st;
}
