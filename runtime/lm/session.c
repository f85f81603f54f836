/* session.c - the cache of a model as an object, and drawing a token from the state of the last one */
#include "lm/session.h"

#include <math.h>
#include <string.h>

/* ---- open and close ---- */

static mocl_status open_rows(mocl_session *s, const mocl_choice *adapter) {
    mocl_ctx *ctx = s->m->ctx;
    size_t n = (size_t)s->rows, room;
    if (!mocl_mul(n, (size_t)s->max_tokens, &room)) return mocl_nomem(ctx, SIZE_MAX);
    s->length = mocl_calloc(ctx, n, sizeof *s->length);
    s->fresh = mocl_calloc(ctx, n, sizeof *s->fresh);
    s->token = mocl_calloc(ctx, room, sizeof *s->token);
    s->adapter = mocl_calloc(ctx, n, sizeof *s->adapter);
    if (!s->length || !s->fresh || !s->token || !s->adapter) return mocl_nomem(ctx, (room + n) * sizeof *s->token);
    for (int64_t i = 0; i < s->rows; i++) s->adapter[i] = mocl_adapter_ref(mocl_chosen(adapter, i));
    return mocl_cache_open(&s->cache, s->m, s->rows, s->max_tokens);
}

mocl_status mocl_session_open(mocl_session **out, mocl_model *m, int64_t rows, int64_t max_tokens,
                              const mocl_choice *adapter) {
    const mocl_spec *c = &m->config;
    *out = NULL;
    if (!c->causal)
        return mocl_fail(m->ctx, MOCL_E_ARG, "session: this model looks both ways (it is an encoder), so a later token changes "
                                             "the earlier ones; use forward");
    if (c->cross)
        return mocl_fail(m->ctx, MOCL_E_ARG, "session: this model attends to an encoder's states, which a session does not hold; use forward");
    if (rows < 1 || rows > INT32_MAX)
        return mocl_fail(m->ctx, MOCL_E_ARG, "session: rows = %lld must be at least 1", (long long)rows);
    if (max_tokens < 1 || max_tokens > c->positions)
        return mocl_fail(m->ctx, MOCL_E_ARG, "session: max_tokens = %lld is outside 1 .. %lld, the model's context",
                         (long long)max_tokens, (long long)c->positions);
    mocl_session *s = *out = mocl_calloc(m->ctx, 1, sizeof *s);
    if (!s) return mocl_nomem(m->ctx, sizeof *s);
    s->m = m;
    s->rows = rows;
    s->max_tokens = max_tokens;
    return open_rows(s, adapter);
}

void mocl_session_close(mocl_session *s) {
    if (!s) return;
    mocl_cache_close(&s->cache);
    mocl_tensor_unref(s->hidden);
    mocl_tensor_unref(s->kept);
    for (int64_t i = 0; s->adapter && i < s->rows; i++) mocl_adapter_unref(s->adapter[i]);
    mocl_free(s->adapter);
    mocl_free(s->length);
    mocl_free(s->token);
    mocl_free(s->fresh);
    mocl_free(s);
}

/* ---- what the rows were computed with ---- */

static mocl_status add_weight(void *arg, const char *name, mocl_tensor *t) {
    uint64_t *sum = arg;
    (void)name;
    *sum = (*sum ^ (uint64_t)(uintptr_t)t->storage ^ t->storage->version) * 1099511628211u; /* FNV-1a, a word at a time */
    return MOCL_OK;
}

static uint64_t weights_now(const mocl_session *s) {
    uint64_t sum = 14695981039346656037u ^ s->m->changes;
    mocl_model_visit(s->m, NULL, add_weight, &sum);
    for (int64_t i = 0; i < s->rows; i++)
        if (s->adapter[i] && (i == 0 || s->adapter[i] != s->adapter[i - 1]))
            mocl_model_visit(s->m, s->adapter[i], add_weight, &sum);
    return sum;
}

static mocl_status check_weights(mocl_session *s) {
    bool empty = true;
    uint64_t now = weights_now(s);
    for (int64_t i = 0; i < s->rows && empty; i++) empty = s->length[i] == 0;
    if (!empty && s->weights != now)
        return mocl_fail(s->m->ctx, MOCL_E_ARG, "session: weights or adapters of the model changed since its tokens were read; open "
                                                "another session, or rewind all rows to 0");
    for (int64_t i = 0; i < s->rows; i++)
        if (s->adapter[i] && s->adapter[i]->gone)
            return mocl_fail(s->m->ctx, MOCL_E_ARG, "session: adapter '%s' of row %lld was deleted, merged or replaced; open another "
                                                    "session", s->adapter[i]->name, (long long)i + 1);
    s->weights = now;
    return MOCL_OK;
}

static mocl_status check_row(const mocl_session *s, int64_t row) {
    if (row >= 0 && row < s->rows) return MOCL_OK;
    return mocl_fail(s->m->ctx, MOCL_E_ARG, "session: row %lld is outside 1 .. %lld", (long long)row + 1, (long long)s->rows);
}

static int64_t row_at(const int32_t *rows, int64_t i) { return rows ? rows[i] : i; }

/* ---- append ---- */

static mocl_status check_append(mocl_session *s, int64_t n, const int32_t *rows, const int32_t *offsets) {
    mocl_ctx *ctx = s->m->ctx;
    bool *seen = mocl_calloc(ctx, (size_t)s->rows, sizeof *seen);
    mocl_status st = MOCL_OK;
    if (!seen) return mocl_nomem(ctx, (size_t)s->rows);
    for (int64_t i = 0; i < n && !st; i++) {
        int64_t row = row_at(rows, i), more = offsets[i + 1] - offsets[i];
        st = check_row(s, row);
        if (st) break;
        if (seen[row]) st = mocl_fail(ctx, MOCL_E_ARG, "session: row %lld is named twice", (long long)row + 1);
        else if (more < 1) st = mocl_fail(ctx, MOCL_E_ARG, "session: row %lld gets no tokens", (long long)row + 1);
        else if (s->length[row] + more > s->max_tokens)
            st = mocl_fail(ctx, MOCL_E_ARG, "session: row %lld holds %lld tokens and has no room for %lld more (max_tokens = %lld); "
                                            "rewind it, or open a longer session", (long long)row + 1,
                           (long long)s->length[row], (long long)more, (long long)s->max_tokens);
        seen[row] = true;
    }
    mocl_free(seen);
    return st;
}

/* row `row` of a matrix as [1, D] */
static mocl_status copy_row(mocl_tensor *to, int64_t at, mocl_tensor *from, int64_t row) {
    mocl_tensor *a = NULL, *b = NULL;
    mocl_status st = mocl_narrow(&a, to, 0, at, 1);
    if (!st) st = mocl_narrow(&b, from, 0, row, 1);
    if (!st) st = mocl_tensor_copy(a, b);
    mocl_tensor_unref(a);
    mocl_tensor_unref(b);
    return st;
}

/* takes over the states of the last tokens of n rows */
static mocl_status keep_hidden(mocl_session *s, int64_t n, const int32_t *rows, mocl_tensor *states) {
    int64_t shape[2] = {s->rows, s->m->config.width};
    mocl_status st = MOCL_OK;
    if (!rows && n == s->rows) {
        mocl_tensor_unref(s->hidden);
        s->hidden = states;
        return MOCL_OK;
    }
    if (!s->hidden) st = mocl_tensor_full(&s->hidden, s->m->dev, MK_F32, 2, shape, 0);
    for (int64_t i = 0; i < n && !st; i++) {
        s->fresh[row_at(rows, i)] = false;
        st = copy_row(s->hidden, row_at(rows, i), states, i);
    }
    mocl_tensor_unref(states);
    return st;
}

/* Runs tokens that go to positions from[i] .. of their rows through the model. Rows that were empty are a batch of their own;
** else each token attends to its slot of the cache. */
static mocl_status feed(mocl_session *s, int64_t n, const int32_t *rows, const int32_t *from, const int32_t *offsets,
                        const int32_t *tokens) {
    mocl_model *m = s->m;
    mocl_ctx *ctx = m->ctx;
    int64_t total = offsets[n];
    bool empty = true, was = ctx->grad_enabled;
    mocl_tensor *hidden = NULL, *t = NULL, *slot = NULL, *pos = NULL, *off = NULL, *last = NULL;
    mocl_pass pass = {.cache = &s->cache};
    mocl_status st;
    int32_t *buf = mocl_calloc(ctx, (size_t)(2 * total + n), sizeof *buf), *at = buf + total, *ends = at + total;
    mocl_adapter_run *runs = mocl_calloc(ctx, (size_t)n, sizeof *runs);
    if (!buf || !runs) {
        mocl_free(buf);
        mocl_free(runs);
        return mocl_nomem(ctx, (size_t)(2 * total + n) * sizeof *buf);
    }
    for (int64_t b = 0; b < n; b++) {
        for (int32_t i = offsets[b]; i < offsets[b + 1]; i++) {
            buf[i] = (int32_t)row_at(rows, b);
            at[i] = from[b] + i - offsets[b];
        }
        ends[b] = offsets[b + 1] - 1;
        mocl_adapter_extend(runs, &pass.n_runs, s->adapter[row_at(rows, b)], offsets[b + 1]);
        if (from[b]) empty = false;
    }
    ctx->grad_enabled = false;
    MOCL_GOTO(mocl_tensor_i32(&t, m->dev, total, tokens), done);
    MOCL_GOTO(mocl_tensor_i32(&slot, m->dev, total, buf), done);
    MOCL_GOTO(mocl_tensor_i32(&pos, m->dev, total, at), done);
    MOCL_GOTO(mocl_tensor_i32(&last, m->dev, n, ends), done);
    if (empty) MOCL_GOTO(mocl_tensor_i32(&off, m->dev, n + 1, offsets), done);
    pass.slot = slot;
    pass.rows = last;
    pass.runs = runs;
    mocl_tensor_unref(s->kept);
    s->kept = NULL;
    pass.keep = s->keep;
    pass.kept = s->keep ? &s->kept : NULL;
    MOCL_GOTO(mocl_model_forward(&hidden, m, t, pos, off, &pass), done);
    st = keep_hidden(s, n, rows, hidden);
done:
    ctx->grad_enabled = was;
    mocl_free(buf);
    mocl_free(runs);
    mocl_tensor_unref(t);
    mocl_tensor_unref(slot);
    mocl_tensor_unref(pos);
    mocl_tensor_unref(off);
    mocl_tensor_unref(last);
    return st;
}

mocl_status mocl_session_append(mocl_session *s, int64_t n, const int32_t *rows, const int32_t *offsets, const int32_t *tokens) {
    mocl_ctx *ctx = s->m->ctx;
    MOCL_TRY(check_append(s, n, rows, offsets));
    MOCL_TRY(check_weights(s));
    int32_t *from = mocl_calloc(ctx, (size_t)n, sizeof *from);
    if (!from) return mocl_nomem(ctx, (size_t)n * sizeof *from);
    for (int64_t i = 0; i < n; i++) from[i] = s->length[row_at(rows, i)];
    mocl_status st = feed(s, n, rows, from, offsets, tokens);
    mocl_free(from);
    if (st) return st;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = row_at(rows, i), more = offsets[i + 1] - offsets[i];
        memcpy(s->token + row * s->max_tokens + s->length[row], tokens + offsets[i], (size_t)more * sizeof *tokens);
        s->length[row] += (int32_t)more;
        s->fresh[row] = true;
    }
    return MOCL_OK;
}

/* ---- rewind and fork ---- */

mocl_status mocl_session_rewind(mocl_session *s, int64_t row, int64_t length) {
    MOCL_TRY(check_row(s, row));
    if (length < 0 || length > s->length[row])
        return mocl_fail(s->m->ctx, MOCL_E_ARG, "session: row %lld holds %lld tokens and cannot be rewound to %lld",
                         (long long)row + 1, (long long)s->length[row], (long long)length);
    if (length != s->length[row]) s->fresh[row] = false;
    s->length[row] = (int32_t)length;
    return MOCL_OK;
}

/* the first n positions of slot `from` go to slot `to` */
static mocl_status copy_slot(mocl_tensor *cache, int64_t from, int64_t to, int64_t n) {
    mocl_tensor *a[2] = {NULL}, *b[2] = {NULL};
    mocl_status st = mocl_narrow(&a[0], cache, 0, to, 1);
    if (!st) st = mocl_narrow(&a[1], a[0], 1, 0, n);
    if (!st) st = mocl_narrow(&b[0], cache, 0, from, 1);
    if (!st) st = mocl_narrow(&b[1], b[0], 1, 0, n);
    if (!st) st = mocl_tensor_copy(a[1], b[1]);
    for (int i = 0; i < 2; i++) {
        mocl_tensor_unref(a[i]);
        mocl_tensor_unref(b[i]);
    }
    return st;
}

mocl_status mocl_session_fork(mocl_session *s, int64_t from, int64_t to) {
    MOCL_TRY(check_row(s, from));
    MOCL_TRY(check_row(s, to));
    if (from == to) return MOCL_OK;
    int64_t n = s->length[from];
    bool current = s->weights == weights_now(s);
    mocl_adapter *had = s->adapter[to];
    s->adapter[to] = mocl_adapter_ref(s->adapter[from]);
    mocl_adapter_unref(had);
    if (current) s->weights = weights_now(s);
    s->length[to] = 0; /* nothing, should a copy fail */
    s->fresh[to] = false;
    for (int64_t l = 0; n && l < s->cache.layers; l++) {
        MOCL_TRY(copy_slot(s->cache.k[l], from, to, n));
        MOCL_TRY(copy_slot(s->cache.v[l], from, to, n));
    }
    if (s->fresh[from]) MOCL_TRY(copy_row(s->hidden, to, s->hidden, from));
    memcpy(s->token + to * s->max_tokens, s->token + from * s->max_tokens, (size_t)n * sizeof *s->token);
    s->length[to] = (int32_t)n;
    s->fresh[to] = s->fresh[from];
    return MOCL_OK;
}

/* ---- the last token ---- */

/* After a rewind the last token goes through the model once more, which writes the same keys and values again. */
static mocl_status refresh(mocl_session *s, int64_t row) {
    int32_t one = (int32_t)row, from = s->length[row] - 1, offsets[2] = {0, 1};
    MOCL_TRY(feed(s, 1, &one, &from, offsets, s->token + row * s->max_tokens + from));
    s->fresh[row] = true;
    return MOCL_OK;
}

mocl_status mocl_session_hidden(mocl_tensor **hidden, mocl_session *s, int64_t n, const int32_t *rows) {
    mocl_ctx *ctx = s->m->ctx;
    mocl_tensor *idx = NULL;
    bool was = ctx->grad_enabled;
    *hidden = NULL;
    for (int64_t i = 0; i < n; i++) {
        MOCL_TRY(check_row(s, rows[i]));
        if (!s->length[rows[i]])
            return mocl_fail(ctx, MOCL_E_ARG, "session: row %lld holds no tokens; append some first", (long long)rows[i] + 1);
    }
    MOCL_TRY(check_weights(s));
    for (int64_t i = 0; i < n; i++)
        if (!s->fresh[rows[i]]) MOCL_TRY(refresh(s, rows[i]));
    ctx->grad_enabled = false;
    mocl_status st = mocl_tensor_i32(&idx, s->m->dev, n, rows);
    if (!st) st = mocl_index_select_known(hidden, s->hidden, idx);
    ctx->grad_enabled = was;
    mocl_tensor_unref(idx);
    return st;
}

/* logits [n, V] in f32 of states [n, D] */
static mocl_status logits_of(mocl_tensor **logits, mocl_model *m, mocl_tensor *hidden) {
    int64_t n = hidden->shape[0], shape[2] = {n, m->config.vocab};
    mocl_tensor *states = NULL;
    mocl_status st = mocl_tensor_new(logits, m->dev, MK_F32, 2, shape);
    if (!st) st = mocl_to_dtype(&states, hidden, m->dtype);
    if (!st) st = mocl_logits(states, m->head, 0, n, mocl_real(*logits));
    mocl_tensor_unref(states);
    return mocl_drop_on(st, logits);
}

static mocl_status need_head(const mocl_model *m, const char *what) {
    if (m->head) return MOCL_OK;
    return mocl_fail(m->ctx, MOCL_E_ARG, "%s: this model has no language-model head", what);
}

mocl_status mocl_session_logits(mocl_tensor **logits, mocl_session *s, int64_t n, const int32_t *rows) {
    mocl_ctx *ctx = s->m->ctx;
    mocl_tensor *hidden = NULL;
    bool was = ctx->grad_enabled;
    *logits = NULL;
    MOCL_TRY(need_head(s->m, "session"));
    MOCL_TRY(mocl_session_hidden(&hidden, s, n, rows));
    ctx->grad_enabled = false;
    mocl_status st = logits_of(logits, s->m, hidden);
    ctx->grad_enabled = was;
    mocl_tensor_unref(hidden);
    return st;
}

/* ---- drawing ---- */

mocl_status mocl_generate_check(mocl_ctx *ctx, const mocl_model *m, const mocl_generate_options *o) {
    long long vocab = (long long)m->config.vocab;
    MOCL_TRY(need_head(m, "generate"));
    for (int64_t i = 0; i < o->n_eos; i++)
        if (o->eos[i] < 0 || o->eos[i] >= vocab)
            return mocl_fail(ctx, MOCL_E_ARG, "generate: eos %d is outside the vocabulary of %lld", (int)o->eos[i], vocab);
    if (o->vocab < 0 || o->vocab > vocab)
        return mocl_fail(ctx, MOCL_E_ARG, "generate: vocab_size = %lld is outside 1 .. %lld, the model's", (long long)o->vocab, vocab);
    if (o->max_new_tokens < 1) return mocl_fail(ctx, MOCL_E_ARG, "generate: max_new_tokens = %lld must be at least 1",
                                                (long long)o->max_new_tokens);
    if (!(o->temperature >= 0)) return mocl_fail(ctx, MOCL_E_ARG, "generate: temperature = %g must be 0 or more", mocl_shown(o->temperature));
    if (o->temperature != 0 && !(o->temperature >= 1e-6 && o->temperature <= 1e6)) /* logits / temperature are to be f32 */
        return mocl_fail(ctx, MOCL_E_ARG, "generate: temperature = %g must be 0, for the likeliest token, or in 1e-6 .. 1e6",
                         mocl_shown(o->temperature));
    if (!(o->top_p > 0 && o->top_p <= 1)) return mocl_fail(ctx, MOCL_E_ARG, "generate: top_p = %g is outside (0, 1]", mocl_shown(o->top_p));
    if (o->top_k < 0) return mocl_fail(ctx, MOCL_E_ARG, "generate: top_k = %lld must be 0 (all) or more", (long long)o->top_k);
    if (o->period < 0) return mocl_fail(ctx, MOCL_E_ARG, "generate: period = %lld must be 0 (none) or more", (long long)o->period);
    if (o->stem < 0 || o->stem >= m->config.layers)
        return mocl_fail(ctx, MOCL_E_ARG, "generate: stem = %lld is outside 0 .. %lld, the blocks in front of the last one",
                         (long long)o->stem, (long long)m->config.layers - 1);
    return MOCL_OK;
}

/* logits of `id` become such that it cannot win or be drawn */
static mocl_status suppress(mocl_tensor *logits, int32_t id) {
    int64_t one[2] = {logits->shape[0], 1}, zero[2] = {0, 0};
    mocl_device *dev = logits->storage->dev;
    mocl_tensor *column = NULL, *low = NULL;
    mocl_status st;
    MOCL_GOTO(mocl_narrow(&column, logits, 1, id, 1), done);
    MOCL_GOTO(mocl_tensor_full(&low, dev, MK_F32, 0, NULL, MOCL_NEVER), done);
    st = MOCL_KERNEL(dev, copy, MK_F32, 2, one, mocl_real(low), zero, mocl_real(column), column->stride);
done:
    mocl_tensor_unref(low);
    mocl_tensor_unref(column);
    return st;
}

mocl_status mocl_draw(mocl_model *m, const mocl_generate_options *o, mocl_tensor *hidden, mocl_tensor *ids, int64_t step,
                      int32_t *token, mk_real *logp, mk_real *sum) {
    int64_t n = hidden->shape[0], vocab = m->config.vocab;
    double inv_temp = o->temperature > 0 ? 1 / o->temperature : 0;
    int64_t choices = mocl_generate_vocab(o, m); /* the sampler takes rows that lie one behind the other */
    mocl_tensor *logits = NULL, *lse = NULL, *part = NULL, *choice = NULL;
    mocl_status st;
    MOCL_GOTO(logits_of(&logits, m, hidden), done);
    MOCL_GOTO(mocl_tensor_new(&lse, m->dev, MK_F32, 1, &n), done);
    MOCL_GOTO(MOCL_KERNEL(m->dev, reduce, MK_SUM, n, vocab, 1, mocl_real(logits), sum), done);
    for (int64_t j = 0; j < o->n_eos && step < o->suppress_first; j++) MOCL_GOTO(suppress(logits, o->eos[j]), done);
    MOCL_GOTO(mocl_narrow(&part, logits, 1, 0, choices), done);
    MOCL_GOTO(mocl_tensor_contiguous(&choice, part), done); /* logits themselves where all are drawn from */
    MOCL_GOTO(MOCL_KERNEL(m->dev, sample, n, choices, mocl_real(choice), inv_temp, o->top_k, o->top_p, o->key, (uint32_t)step,
                          mocl_int(ids), token), done);
    MOCL_GOTO(MOCL_KERNEL(m->dev, logprob, n, vocab, mocl_real(logits), inv_temp > 0 ? inv_temp : 1, token, logp, NULL,
                          mocl_real(lse)), done);
done:
    mocl_tensor_unref(logits);
    mocl_tensor_unref(lse);
    mocl_tensor_unref(part);
    mocl_tensor_unref(choice);
    return st;
}

/* the same step for all of n rows */
static mocl_status sample_rows(mocl_session *s, mocl_tensor *hidden, int64_t n, const int32_t *rows, const mocl_generate_options *o,
                               int64_t step, int32_t *token, mk_real *logp, mk_real *sum) {
    mocl_model *m = s->m;
    mocl_tensor *ids = NULL, *drawn = NULL, *score = NULL;
    int64_t shape[2] = {2, n};
    mk_real *host = mocl_calloc(m->ctx, (size_t)n, 2 * sizeof *host);
    mocl_status st;
    if (!host) return mocl_nomem(m->ctx, (size_t)n * 2 * sizeof *host);
    MOCL_GOTO(mocl_tensor_i32(&ids, m->dev, n, rows), done);
    MOCL_GOTO(mocl_tensor_new(&drawn, m->dev, MK_I32, 1, &n), done);
    MOCL_GOTO(mocl_tensor_new(&score, m->dev, MK_F32, 2, shape), done);
    MOCL_GOTO(mocl_draw(m, o, hidden, ids, step, mocl_int(drawn), mocl_real(score), mocl_real(score) + n), done);
    MOCL_GOTO(mocl_tensor_to_host(drawn, token), done);
    MOCL_GOTO(mocl_tensor_to_host(score, host), done);
    memcpy(logp, host, (size_t)n * sizeof *logp);
    memcpy(sum, host + n, (size_t)n * sizeof *sum);
done:
    mocl_free(host);
    mocl_tensor_unref(ids);
    mocl_tensor_unref(drawn);
    mocl_tensor_unref(score);
    return st;
}

mocl_status mocl_session_sample(mocl_session *s, int64_t n, const int32_t *rows, const mocl_generate_options *o, int64_t step,
                                int32_t *token, mk_real *logp) {
    mocl_ctx *ctx = s->m->ctx;
    mocl_tensor *hidden = NULL, *part = NULL;
    bool was = ctx->grad_enabled;
    mk_real sum[1];
    mocl_status st;
    MOCL_TRY(mocl_generate_check(ctx, s->m, o));
    MOCL_TRY(mocl_session_hidden(&hidden, s, n, rows));
    ctx->grad_enabled = false;
    for (int64_t i = 0; i < n; i++) { /* one by one, since rows of different lengths are at different steps */
        int64_t at = step < 0 ? s->length[rows[i]] : step;
        MOCL_GOTO(mocl_narrow(&part, hidden, 0, i, 1), done);
        MOCL_GOTO(sample_rows(s, part, 1, rows + i, o, at, token + i, logp + i, sum), done);
        if (!isfinite(sum[0])) {
            st = mocl_model_refuse_logits(s->m, s->adapter[rows[i]], rows[i] + 1, s->length[rows[i]] + 1);
            goto done;
        }
        mocl_tensor_unref(part);
        part = NULL;
    }
    st = MOCL_OK;
done:
    ctx->grad_enabled = was;
    mocl_tensor_unref(part);
    mocl_tensor_unref(hidden);
    return st;
}
