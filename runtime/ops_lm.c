/* ops_lm.c - the language-model head in chunks of rows, and the PPO operations */
#include <string.h>

#include "ops.h"

/* rows of logits that exist at a time: enough for an efficient product, and 1000 tokens of vocabulary
** still fit a core's cache */
enum { CHUNK_ROWS = 256 };

/* The same of a forward pass whose logits are kept, where a chunk takes no memory of its own: each product lays the head out
** anew, so that fewer of them are less work. */
enum { KEPT_ROWS = 1024 };

/* logits that forward keeps for backward instead of making them there again: where the model is small the head is most
** of its work, and there a third product for two is a fifth of a step; where it is large they are many, and the head little */
enum { KEEP_MAX = 32 << 20 /* numbers: 128 MiB for the policy, as much for a reference */ };

/* saved: hidden, w, hidden_ref, target, lse, entropy, kl; the reference's lse; logits [rows, V] of both, or NULL.
** Outputs: logp, entropy, kl. */
enum { S_HIDDEN, S_W, S_REF, S_TARGET, S_LSE, S_ENTROPY, S_KL, S_REF_LSE, S_LOGITS, S_REF_LOGITS, S_COUNT };

/* rows of a contiguous matrix from row `start` on, as kernels take them */
static const void *rows_from(const mocl_tensor *t, int64_t start) {
    return (const char *)mocl_tensor_data(t) + (size_t)(start * t->shape[1]) * mocl_dtype_size(t->dtype);
}

mocl_status mocl_logits(mocl_tensor *hidden, mocl_tensor *w, int64_t start, int64_t m, mk_real *logits) {
    int64_t d = w->shape[1], vocab = w->shape[0];
    mk_weight head = mocl_weight_plain(w->dtype, vocab, d, mocl_tensor_data(w));
    return MOCL_KERNEL(w->storage->dev, gemm_weight, 0, m, 1.0, w->dtype, rows_from(hidden, start), d, 1, &head, 0.0, MK_F32,
                       logits, vocab);
}

/* the numbers of x from row `start`, or NULL where there is no gradient dout that needs them */
static mk_real *from(const mocl_tensor *dout, mocl_tensor *x, int64_t start) { return dout ? mocl_real(x) + start : NULL; }

static mocl_status lm_head_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    mocl_tensor *h = n->saved[S_HIDDEN], *w = n->saved[S_W], *ref = n->saved[S_REF], *target = n->saved[S_TARGET],
                *entropy = n->saved[S_ENTROPY], *lse = n->saved[S_LSE], *kl = n->saved[S_KL], *ref_lse = n->saved[S_REF_LSE],
                *kept = n->saved[S_LOGITS], *ref_kept = n->saved[S_REF_LOGITS], *logits = NULL, *ref_logits = NULL,
                *dlogits = NULL, *rounded = NULL;
    mocl_device *dev = w->storage->dev;
    int64_t rows = h->shape[0], d = h->shape[1], vocab = w->shape[0];
    int64_t shape[2] = {rows < CHUNK_ROWS ? rows : CHUNK_ROWS, vocab};
    double inv_temp = n->num[0];
    mocl_status st = MOCL_OK;
    if (mocl_node_wants(n, 0)) MOCL_GOTO(mocl_grad_like(&din[0], h), done);
    if (mocl_node_wants(n, 1)) MOCL_GOTO(mocl_tensor_full(&din[1], dev, MK_F32, 2, w->shape, 0), done);
    if (!kept) MOCL_GOTO(mocl_tensor_new(&logits, dev, MK_F32, 2, shape), done);
    MOCL_GOTO(mocl_tensor_new(&dlogits, dev, MK_F32, 2, shape), done);
    if (w->dtype != MK_F32) MOCL_GOTO(mocl_tensor_new(&rounded, dev, w->dtype, 2, shape), done);
    if (dout[2] && !ref_kept) MOCL_GOTO(mocl_tensor_new(&ref_logits, dev, MK_F32, 2, shape), done);
    for (int64_t start = 0; start < rows; start += CHUNK_ROWS) {
        int64_t m = rows - start < CHUNK_ROWS ? rows - start : CHUNK_ROWS;
        MOCL_GOTO(mocl_poll(h->ctx), done);
        const mk_real *x = kept ? mocl_real(kept) + start * vocab : mocl_real(logits);
        if (!kept) MOCL_GOTO(mocl_logits(h, w, start, m, mocl_real(logits)), done);
        const mk_real *y = !dout[2] ? NULL : ref_kept ? mocl_real(ref_kept) + start * vocab : mocl_real(ref_logits);
        if (dout[2] && !ref_kept) MOCL_GOTO(mocl_logits(ref, w, start, m, mocl_real(ref_logits)), done);
        MOCL_GOTO(MOCL_KERNEL(dev, logprob_bwd, m, vocab, x, y, inv_temp, mocl_int(target) + start, from(dout[1], entropy, start),
                              mocl_real(lse) + start, from(dout[2], ref_lse, start), from(dout[2], kl, start),
                              from(dout[0], dout[0], start), from(dout[1], dout[1], start), from(dout[2], dout[2], start),
                              mocl_real(dlogits)), done);
        const void *g = mocl_tensor_data(dlogits);
        if (rounded) {
            MOCL_GOTO(MOCL_KERNEL(dev, cast, m * vocab, MK_F32, g, w->dtype, mocl_tensor_data(rounded)), done);
            g = mocl_tensor_data(rounded);
        }
        mk_weight head = mocl_weight_plain(w->dtype, vocab, d, mocl_tensor_data(w));
        mk_weight states = mocl_weight_plain(w->dtype, m, d, rows_from(h, start));
        if (din[0])
            MOCL_GOTO(MOCL_KERNEL(dev, gemm_weight, 0, m, 1.0, w->dtype, g, vocab, 0, &head, 0.0, MK_F32,
                                  mocl_real(din[0]) + start * d, d), done);
        if (din[1])
            MOCL_GOTO(MOCL_KERNEL(dev, gemm_weight, 1, vocab, 1.0, w->dtype, g, vocab, 0, &states, 1.0, MK_F32,
                                  mocl_real(din[1]), d), done);
    }
done:
    mocl_tensor_unref(logits);
    mocl_tensor_unref(ref_logits);
    mocl_tensor_unref(dlogits);
    mocl_tensor_unref(rounded);
    return st;
}

/* what mocl_lm_reference gave must belong to these rows */
static mocl_status check_reference(mocl_tensor *h, mocl_tensor *w, const mocl_reference *ref) {
    int64_t want[2] = {h->shape[0], w->shape[0]};
    mocl_tensor *t[2] = {ref->lse, ref->logits};
    char a[128], b[128];
    for (int i = 0; i < 2; i++) {
        if (!t[i]) continue;
        MOCL_TRY(mocl_need_real("lm_head", t[i]));
        MOCL_TRY(mocl_need_same_device("lm_head", h, t[i]));
        if (t[i]->ndim != i + 1 || t[i]->shape[0] != want[0] || (i && t[i]->shape[1] != want[1]))
            return mocl_fail(h->ctx, MOCL_E_SHAPE, "lm_head: %s %s of the reference, where %s are needed", i ? "logits" : "lse",
                             mocl_shape_text(a, t[i]->ndim, t[i]->shape), mocl_shape_text(b, i + 1, want));
    }
    return MOCL_OK;
}

static mocl_status check_head(mocl_tensor *h, mocl_tensor *w, mocl_tensor *ref, mocl_tensor *target, double temperature) {
    char a[128], b[128];
    MOCL_TRY(w->dtype == MK_BF16 ? mocl_need_computed("lm_head", h) : mocl_need_real("lm_head", h));
    MOCL_TRY(mocl_need_computed("lm_head", w));
    MOCL_TRY(mocl_need_int("lm_head", target));
    MOCL_TRY(mocl_need_same_device("lm_head", h, w));
    MOCL_TRY(mocl_need_same_device("lm_head", h, target));
    if (h->ndim != 2 || w->ndim != 2 || h->shape[1] != w->shape[1])
        return mocl_fail(h->ctx, MOCL_E_SHAPE, "lm_head: hidden %s does not fit the head %s",
                         mocl_shape_text(a, h->ndim, h->shape), mocl_shape_text(b, w->ndim, w->shape));
    if (target->ndim != 1 || target->shape[0] != h->shape[0])
        return mocl_fail(h->ctx, MOCL_E_SHAPE, "lm_head: %s targets do not fit %lld rows",
                         mocl_shape_text(a, target->ndim, target->shape), (long long)h->shape[0]);
    MOCL_TRY(mocl_need_indices("lm_head", target, INT32_MIN, w->shape[0], 0));
    if (ref) MOCL_TRY(w->dtype == MK_BF16 ? mocl_need_computed("lm_head", ref) : mocl_need_real("lm_head", ref));
    if (ref) MOCL_TRY(mocl_need_same_device("lm_head", h, ref));
    if (ref && !mocl_tensor_same_shape(ref, h))
        return mocl_fail(h->ctx, MOCL_E_SHAPE, "lm_head: reference %s differs from hidden %s",
                         mocl_shape_text(a, ref->ndim, ref->shape), mocl_shape_text(b, h->ndim, h->shape));
    if (!(temperature > 0))
        return mocl_fail(h->ctx, MOCL_E_ARG, "lm_head: temperature %g must be positive", mocl_shown(temperature));
    return mocl_poll(h->ctx);
}

/* contiguous, of this dtype, without history */
static mocl_status as_dtype(mocl_tensor **c, mocl_tensor *x, mk_dtype dtype) {
    if (x->dtype == dtype) return mocl_tensor_contiguous(c, x);
    MOCL_TRY(mocl_tensor_new(c, x->storage->dev, dtype, x->ndim, x->shape));
    return mocl_drop_on(mocl_tensor_copy(*c, x), c);
}

mocl_status mocl_lm_reference(mocl_reference *ref, mocl_tensor **logp, mocl_tensor *hidden, mocl_tensor *w, mocl_tensor *target,
                              double temperature, bool keep_logits) {
    mocl_tensor *cw = NULL, *ct = NULL;
    mocl_device *dev = hidden->storage->dev;
    mocl_status st;
    memset(ref, 0, sizeof *ref);
    *logp = NULL;
    MOCL_TRY(check_head(hidden, w, NULL, target, temperature));
    int64_t rows = hidden->shape[0], vocab = w->shape[0];
    bool keep = keep_logits && rows * vocab <= KEEP_MAX;
    int64_t chunk = keep ? KEPT_ROWS : CHUNK_ROWS, shape[2] = {keep || rows < chunk ? rows : chunk, vocab};
    MOCL_GOTO(as_dtype(&ref->hidden, hidden, w->dtype), done);
    MOCL_GOTO(mocl_tensor_contiguous(&cw, w), done);
    MOCL_GOTO(mocl_tensor_contiguous(&ct, target), done);
    MOCL_GOTO(mocl_tensor_new(logp, dev, MK_F32, 1, &rows), done);
    MOCL_GOTO(mocl_tensor_new(&ref->lse, dev, MK_F32, 1, &rows), done);
    MOCL_GOTO(mocl_tensor_new(&ref->logits, dev, MK_F32, 2, shape), done);
    for (int64_t start = 0; start < rows; start += chunk) {
        int64_t m = rows - start < chunk ? rows - start : chunk;
        mk_real *y = mocl_real(ref->logits) + (keep ? start * vocab : 0);
        MOCL_GOTO(mocl_poll(hidden->ctx), done);
        MOCL_GOTO(mocl_logits(ref->hidden, cw, start, m, y), done);
        MOCL_GOTO(MOCL_KERNEL(dev, logprob, m, vocab, y, 1.0 / temperature, mocl_int(ct) + start, mocl_real(*logp) + start, NULL,
                              mocl_real(ref->lse) + start), done);
    }
    if (!keep) {
        mocl_tensor_unref(ref->logits);
        ref->logits = NULL;
    }
    st = MOCL_OK;
done:
    mocl_tensor_unref(cw);
    mocl_tensor_unref(ct);
    if (st) {
        mocl_reference_free(ref);
        mocl_drop_on(st, logp);
    }
    return st;
}

void mocl_reference_free(mocl_reference *ref) {
    mocl_tensor_unref(ref->hidden);
    mocl_tensor_unref(ref->lse);
    mocl_tensor_unref(ref->logits);
    memset(ref, 0, sizeof *ref);
}

mocl_status mocl_lm_head(mocl_tensor **logp, mocl_tensor **entropy, mocl_tensor **kl, mocl_tensor *hidden, mocl_tensor *w,
                         const mocl_reference *ref, mocl_tensor *target, double temperature, bool keep_logits) {
    mocl_tensor *ch = NULL, *cw = NULL, *cr = NULL, *ct = NULL, *lse = NULL, *ref_lse = NULL, *logits = NULL,
                *ref_logits = NULL, *ent = NULL, *klt = NULL, *lp = NULL, *unused = NULL;
    mocl_ctx *ctx = hidden->ctx;
    mocl_device *dev = hidden->storage->dev;
    mocl_node *node = NULL;
    mocl_status st;
    double inv_temp = 1.0 / temperature;
    *logp = NULL;
    if (entropy) *entropy = NULL;
    if (kl) *kl = NULL;
    MOCL_TRY(check_head(hidden, w, kl ? ref->hidden : NULL, target, temperature));
    if (kl) MOCL_TRY(check_reference(hidden, w, ref));
    int64_t rows = hidden->shape[0], vocab = w->shape[0];
    mocl_tensor *in[2] = {hidden, w};
    bool recorded = mocl_grad_wanted(ctx, 2, in), keep = keep_logits && recorded && rows * vocab <= KEEP_MAX;
    int64_t chunk = keep ? KEPT_ROWS : CHUNK_ROWS, shape[2] = {keep || rows < chunk ? rows : chunk, vocab};
    MOCL_GOTO(as_dtype(&ch, hidden, w->dtype), done);
    MOCL_GOTO(mocl_tensor_contiguous(&cw, w), done);
    MOCL_GOTO(mocl_tensor_contiguous(&ct, target), done);
    MOCL_GOTO(mocl_tensor_new(&lp, dev, MK_F32, 1, &rows), done);
    MOCL_GOTO(mocl_tensor_new(&lse, dev, MK_F32, 1, &rows), done);
    MOCL_GOTO(mocl_tensor_new(&logits, dev, MK_F32, 2, shape), done);
    if (entropy) MOCL_GOTO(mocl_tensor_new(&ent, dev, MK_F32, 1, &rows), done);
    if (kl) {
        MOCL_GOTO(as_dtype(&cr, ref->hidden, w->dtype), done);
        MOCL_GOTO(mocl_tensor_new(&klt, dev, MK_F32, 1, &rows), done);
        if (ref->lse) MOCL_GOTO(mocl_tensor_contiguous(&ref_lse, ref->lse), done);
        else MOCL_GOTO(mocl_tensor_new(&ref_lse, dev, MK_F32, 1, &rows), done);
        if (!ref->lse) MOCL_GOTO(mocl_tensor_new(&unused, dev, MK_F32, 1, &rows), done);
        if (ref->logits) MOCL_GOTO(mocl_tensor_contiguous(&ref_logits, ref->logits), done);
        else MOCL_GOTO(mocl_tensor_new(&ref_logits, dev, MK_F32, 2, shape), done);
    }
    for (int64_t start = 0; start < rows; start += chunk) {
        int64_t m = rows - start < chunk ? rows - start : chunk;
        MOCL_GOTO(mocl_poll(ctx), done);
        mk_real *x = mocl_real(logits) + (keep ? start * vocab : 0);
        MOCL_GOTO(mocl_logits(ch, cw, start, m, x), done);
        MOCL_GOTO(MOCL_KERNEL(dev, logprob, m, vocab, x, inv_temp, mocl_int(ct) + start, mocl_real(lp) + start,
                              ent ? mocl_real(ent) + start : NULL, mocl_real(lse) + start), done);
        if (kl) {
            mk_real *y = mocl_real(ref_logits) + (keep || ref->logits ? start * vocab : 0);
            if (!ref->logits) MOCL_GOTO(mocl_logits(cr, cw, start, m, y), done);
            if (!ref->lse)
                MOCL_GOTO(MOCL_KERNEL(dev, logprob, m, vocab, y, inv_temp, mocl_int(ct) + start, mocl_real(unused) + start, NULL,
                                      mocl_real(ref_lse) + start), done);
            MOCL_GOTO(MOCL_KERNEL(dev, kl, m, vocab, x, y, inv_temp, mocl_real(lse) + start, mocl_real(ref_lse) + start,
                                  mocl_real(klt) + start), done);
        }
    }
    if (recorded) {
        mocl_tensor *saved[S_COUNT] = {[S_HIDDEN] = ch, [S_W] = cw, [S_REF] = cr, [S_TARGET] = ct, [S_LSE] = lse,
                                       [S_REF_LSE] = ref_lse, [S_LOGITS] = keep ? logits : NULL,
                                       [S_REF_LOGITS] = keep || (kl && ref->logits) ? ref_logits : NULL};
        MOCL_GOTO(mocl_node_new(&node, ctx, "lm_head", lm_head_backward, 2, in, S_COUNT, saved), done);
        node->num[0] = inv_temp;
        if (ent) MOCL_GOTO(mocl_node_save_output(node, S_ENTROPY, ent), done);
        if (klt) MOCL_GOTO(mocl_node_save_output(node, S_KL, klt), done);
        mocl_node_attach(node, 0, lp);
        if (ent) mocl_node_attach(node, 1, ent);
        if (klt) mocl_node_attach(node, 2, klt);
    }
    *logp = mocl_tensor_ref(lp);
    if (entropy) *entropy = mocl_tensor_ref(ent);
    if (kl) *kl = mocl_tensor_ref(klt);
done:
    mocl_node_unref(node);
    mocl_tensor_unref(ch);
    mocl_tensor_unref(cw);
    mocl_tensor_unref(cr);
    mocl_tensor_unref(ct);
    mocl_tensor_unref(lse);
    mocl_tensor_unref(ref_lse);
    mocl_tensor_unref(logits);
    mocl_tensor_unref(ref_logits);
    mocl_tensor_unref(ent);
    mocl_tensor_unref(klt);
    mocl_tensor_unref(lp);
    mocl_tensor_unref(unused);
    return st;
}

/* ---- PPO ---- */

static mocl_status ppo_clip_backward(mocl_node *n, mocl_tensor **dout, mocl_tensor **din) {
    return mocl_binary(&din[0], MK_MUL, dout[0], n->saved[0]);
}

mocl_status mocl_ppo_clip(mocl_tensor **loss, mocl_tensor **ratio, mocl_tensor **clipped, mocl_tensor *logp,
                          mocl_tensor *old, mocl_tensor *adv, double cliprange) {
    mocl_tensor *t[3] = {logp, old, adv}, *c[3] = {NULL}, *dlogp = NULL;
    mocl_ctx *ctx = logp->ctx;
    mocl_status st = MOCL_OK;
    char a[128], b[128];
    *loss = *ratio = *clipped = NULL;
    for (int i = 0; i < 3; i++) {
        MOCL_TRY(mocl_need_real("ppo_clip", t[i]));
        MOCL_TRY(mocl_need_same_device("ppo_clip", logp, t[i]));
        if (!mocl_tensor_same_shape(logp, t[i]))
            return mocl_fail(ctx, MOCL_E_SHAPE, "ppo_clip: shapes %s and %s differ",
                             mocl_shape_text(a, logp->ndim, logp->shape), mocl_shape_text(b, t[i]->ndim, t[i]->shape));
    }
    if (!(cliprange > 0)) return mocl_fail(ctx, MOCL_E_ARG, "ppo_clip: cliprange %g must be positive", mocl_shown(cliprange));
    MOCL_TRY(mocl_poll(ctx));
    for (int i = 0; i < 3; i++) MOCL_GOTO(mocl_tensor_contiguous(&c[i], t[i]), done);
    MOCL_GOTO(mocl_tensor_like(loss, c[0]), done);
    MOCL_GOTO(mocl_tensor_like(ratio, c[0]), done);
    MOCL_GOTO(mocl_tensor_like(clipped, c[0]), done);
    MOCL_GOTO(mocl_tensor_like(&dlogp, c[0]), done);
    MOCL_GOTO(MOCL_KERNEL(logp->storage->dev, ppo_clip, mocl_tensor_numel(logp), cliprange, mocl_real(c[0]),
                          mocl_real(c[1]), mocl_real(c[2]), mocl_real(*loss), mocl_real(dlogp), mocl_real(*ratio),
                          mocl_real(*clipped)), done);
    st = mocl_record(loss, NULL, "ppo_clip", ppo_clip_backward, 1, &logp, 1, &dlogp);
done:
    if (st) {
        mocl_drop_on(st, loss);
        mocl_drop_on(st, ratio);
        mocl_drop_on(st, clipped);
    }
    for (int i = 0; i < 3; i++) mocl_tensor_unref(c[i]);
    mocl_tensor_unref(dlogp);
    return st;
}

mocl_status mocl_gae(mocl_tensor **adv, mocl_tensor **returns, mocl_tensor *rewards, mocl_tensor *values,
                     mocl_tensor *offsets, double gamma, double lambda) {
    mocl_tensor *r = NULL, *v = NULL;
    mocl_status st;
    char a[128], b[128];
    *adv = *returns = NULL;
    MOCL_TRY(mocl_need_real("gae", rewards));
    MOCL_TRY(mocl_need_real("gae", values));
    MOCL_TRY(mocl_need_same_device("gae", rewards, values));
    MOCL_TRY(mocl_need_same_device("gae", rewards, offsets));
    if (rewards->ndim != 2 || !mocl_tensor_same_shape(rewards, values))
        return mocl_fail(rewards->ctx, MOCL_E_SHAPE, "gae: rewards %s and values %s must be [T, n] alike",
                         mocl_shape_text(a, rewards->ndim, rewards->shape),
                         mocl_shape_text(b, values->ndim, values->shape));
    MOCL_TRY(mocl_need_offsets("gae", offsets, rewards->shape[0]));
    MOCL_GOTO(mocl_tensor_contiguous(&r, rewards), done);
    MOCL_GOTO(mocl_tensor_contiguous(&v, values), done);
    MOCL_GOTO(mocl_tensor_like(adv, r), done);
    MOCL_GOTO(mocl_tensor_like(returns, r), done);
    st = MOCL_KERNEL(r->storage->dev, gae, offsets->shape[0] - 1, mocl_int(offsets), rewards->shape[1], mocl_real(r),
                     mocl_real(v), gamma, lambda, mocl_real(*adv), mocl_real(*returns));
done:
    if (st) {
        mocl_drop_on(st, adv);
        mocl_drop_on(st, returns);
    }
    mocl_tensor_unref(r);
    mocl_tensor_unref(v);
    return st;
}

mocl_status mocl_sample(mocl_tensor **token, mocl_tensor *logits, double temperature, int64_t top_k, double top_p, uint64_t key,
                        uint32_t step, mocl_tensor *rows) {
    mocl_ctx *ctx = logits->ctx;
    mocl_tensor *x = NULL;
    mocl_status st;
    char a[128], b[128];
    *token = NULL;
    MOCL_TRY(mocl_need_real("sample", logits));
    MOCL_TRY(mocl_need_int("sample", rows));
    MOCL_TRY(mocl_need_same_device("sample", logits, rows));
    if (logits->ndim != 2 || logits->shape[1] < 1 || rows->ndim != 1 || rows->shape[0] != logits->shape[0])
        return mocl_fail(ctx, MOCL_E_SHAPE, "sample: logits %s must be [n, V] and rows %s [n]",
                         mocl_shape_text(a, logits->ndim, logits->shape), mocl_shape_text(b, rows->ndim, rows->shape));
    if (!(temperature >= 0)) return mocl_fail(ctx, MOCL_E_ARG, "sample: temperature = %g must be 0 or more", mocl_shown(temperature));
    if (!(top_p > 0 && top_p <= 1)) return mocl_fail(ctx, MOCL_E_ARG, "sample: top_p = %g is outside (0, 1]", mocl_shown(top_p));
    if (top_k < 0) return mocl_fail(ctx, MOCL_E_ARG, "sample: top_k = %lld must be 0 (all) or more", (long long)top_k);
    MOCL_GOTO(mocl_tensor_contiguous(&x, logits), done);
    MOCL_GOTO(mocl_tensor_new(token, x->storage->dev, MK_I32, 1, rows->shape), done);
    st = MOCL_KERNEL(x->storage->dev, sample, x->shape[0], x->shape[1], mocl_real(x), temperature > 0 ? 1 / temperature : 0, top_k, top_p,
                     key, step, mocl_int(rows), mocl_int(*token));
done:
    mocl_drop_on(st, token);
    mocl_tensor_unref(x);
    return st;
}
