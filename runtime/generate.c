/* generate.c - sampling from a model with a key/value cache.
**
** The prompts run as one ragged batch; then each step feeds one token per unfinished row. Every product
** is row invariant and attention over the cache equals attention over the sequence, so the
** log-probabilities are, to the bit, those of a later training forward pass.
*/
#include <math.h>
#include <string.h>

#include "decode.h"

typedef struct run {
    mocl_model *m;
    const mocl_generate_options *o;
    int64_t rows, capacity; /* capacity: positions per slot of the cache */
    mocl_tensor **kcache, **vcache; /* [layers] of [rows, capacity, G, K] */
    int64_t active;         /* unfinished rows, the first of the arrays below */
    int32_t *row, *pos, *last, *row_id; /* slot, position of the next token, last token; per active row */
    int32_t *target;
    mk_real *host;
    int64_t step;
    mocl_decode_rows rows_of;
    mocl_decode *on_host; /* NULL where steps run over tensors */
} run;

void mocl_generated_free(mocl_generated *g) {
    mocl_free(g->token);
    mocl_free(g->logp);
    mocl_free(g->length);
    mocl_free(g->finished);
    memset(g, 0, sizeof *g);
}

static mocl_status open_run(run *r) {
    const mocl_model_config *c = &r->m->config;
    mocl_ctx *ctx = r->m->ctx;
    int64_t shape[4] = {r->rows, r->capacity, c->kv_heads, c->head_size};
    size_t n = (size_t)r->rows;
    r->kcache = mocl_calloc(ctx, (size_t)c->layers, sizeof *r->kcache);
    r->vcache = mocl_calloc(ctx, (size_t)c->layers, sizeof *r->vcache);
    r->row = mocl_calloc(ctx, n, sizeof *r->row);
    r->pos = mocl_calloc(ctx, n, sizeof *r->pos);
    r->last = mocl_calloc(ctx, n, sizeof *r->last);
    r->row_id = mocl_calloc(ctx, n, sizeof *r->row_id);
    r->target = mocl_calloc(ctx, n, sizeof *r->target);
    r->host = mocl_calloc(ctx, n, sizeof *r->host);
    if (!r->kcache || !r->vcache || !r->row || !r->pos || !r->last || !r->row_id || !r->target || !r->host)
        return mocl_nomem(ctx, n * 32);
    for (int64_t l = 0; l < c->layers; l++) {
        MOCL_TRY(mocl_tensor_new(&r->kcache[l], r->m->dev, MK_F32, 4, shape));
        MOCL_TRY(mocl_tensor_new(&r->vcache[l], r->m->dev, MK_F32, 4, shape));
    }
    if (r->m->dev->kind != MOCL_DEVICE_CPU || r->o->max_new_tokens == 1) return MOCL_OK;
    r->rows_of = (mocl_decode_rows){.most = r->rows, .positions = r->capacity, .slot = r->row, .pos = r->pos, .last = r->last,
                                    .row_id = r->row_id, .target = r->target, .logp = r->host, .kcache = r->kcache,
                                    .vcache = r->vcache};
    return mocl_decode_open(&r->on_host, r->m, r->o, &r->rows_of);
}

static void close_run(run *r) {
    mocl_decode_close(r->on_host);
    for (int64_t l = 0; l < r->m->config.layers; l++) {
        if (r->kcache) mocl_tensor_unref(r->kcache[l]);
        if (r->vcache) mocl_tensor_unref(r->vcache[l]);
    }
    mocl_free(r->kcache);
    mocl_free(r->vcache);
    mocl_free(r->row);
    mocl_free(r->pos);
    mocl_free(r->last);
    mocl_free(r->row_id);
    mocl_free(r->target);
    mocl_free(r->host);
}

/* puts keys and values of n tokens into the cache of block l */
static mocl_status cache_put(run *r, int64_t l, mocl_tensor *slot, mocl_tensor *pos, mocl_tensor *qkv[3]) {
    const mocl_model_config *c = &r->m->config;
    return MOCL_KERNEL(r->m->dev, cache_put, slot->shape[0], c->kv_heads, c->head_size, mocl_int(slot), mocl_int(pos),
                       r->capacity * c->kv_heads * c->head_size, mocl_real(qkv[1]), mocl_real(qkv[2]),
                       mocl_real(r->kcache[l]), mocl_real(r->vcache[l]));
}

/* hidden states of tokens (one or more per slot) while the cache fills. offsets NULL: one new token per
** row, attending to its slot; else the prompts, attending within the batch, and the states of `rows`. */
static mocl_status forward(mocl_tensor **hidden, run *r, mocl_tensor *tokens, mocl_tensor *slot, mocl_tensor *pos,
                           mocl_tensor *offsets, mocl_tensor *rows) {
    mocl_model *m = r->m;
    const mocl_model_config *c = &m->config;
    double scale = 1 / sqrt((double)c->head_size);
    mocl_pass pass = {.adapter = r->o->adapter, .rows = rows};
    mocl_tensor *x = NULL, *qkv[3] = {NULL}, *att = NULL;
    mocl_status st;
    *hidden = NULL;
    MOCL_TRY(mocl_index_select(&x, m->embed, tokens));
    for (int64_t l = 0; l < c->layers; l++) {
        MOCL_GOTO(mocl_model_qkv(qkv, m, l, x, pos, &pass), done);
        MOCL_GOTO(cache_put(r, l, slot, pos, qkv), done);
        if (offsets) {
            MOCL_GOTO(mocl_attention(&att, qkv[0], qkv[1], qkv[2], offsets, scale, true), done);
        } else {
            MOCL_GOTO(mocl_tensor_like(&att, qkv[0]), done);
            MOCL_GOTO(MOCL_KERNEL(m->dev, attention_cached, slot->shape[0], c->heads, c->kv_heads, c->head_size, scale,
                                  mocl_int(slot), mocl_int(pos), r->capacity * c->kv_heads * c->head_size,
                                  mocl_real(qkv[0]), mocl_real(r->kcache[l]), mocl_real(r->vcache[l]), mocl_real(att)), done);
        }
        MOCL_GOTO(mocl_model_block_end(&x, m, l, att, &pass), done);
        for (int i = 0; i < 3; i++) {
            mocl_tensor_unref(qkv[i]);
            qkv[i] = NULL;
        }
        mocl_tensor_unref(att);
        att = NULL;
    }
    st = mocl_rmsnorm(hidden, x, m->norm, c->norm_eps);
done:
    for (int i = 0; i < 3; i++) mocl_tensor_unref(qkv[i]);
    mocl_tensor_unref(att);
    mocl_tensor_unref(x);
    return st;
}

/* tokens for the active rows from their last hidden states [active, D]; r->target and r->host receive
** the tokens and log-probabilities */
static mocl_status sample(run *r, mocl_tensor *hidden) {
    mocl_model *m = r->m;
    const mocl_generate_options *o = r->o;
    int64_t n = r->active, vocab = m->config.vocab, width = m->config.width, shape[2] = {n, vocab};
    double inv_temp = o->temperature > 0 ? 1 / o->temperature : 0;
    mocl_tensor *logits = NULL, *ids = NULL, *token = NULL, *logp = NULL, *lse = NULL;
    mocl_status st;
    MOCL_GOTO(mocl_tensor_new(&logits, m->dev, MK_F32, 2, shape), done);
    MOCL_GOTO(mocl_tensor_new(&token, m->dev, MK_I32, 1, &n), done);
    MOCL_GOTO(mocl_tensor_new(&logp, m->dev, MK_F32, 1, &n), done);
    MOCL_GOTO(mocl_tensor_new(&lse, m->dev, MK_F32, 1, &n), done);
    MOCL_GOTO(mocl_tensor_i32(&ids, m->dev, n, r->row_id), done);
    MOCL_GOTO(MOCL_KERNEL(m->dev, gemm, 0, 1, n, vocab, width, 1.0, mocl_real(hidden), width, 0, mocl_real(m->head), width, 0,
                          0.0, mocl_real(logits), vocab, 0, 1), done);
    if (o->eos >= 0 && r->step < o->suppress_first) { /* that column cannot win or be drawn */
        mocl_tensor *column = NULL;
        MOCL_GOTO(mocl_narrow(&column, logits, 1, o->eos, 1), done);
        int64_t one[2] = {n, 1}, zero[2] = {0, 0};
        mocl_tensor *low = NULL;
        st = mocl_tensor_full(&low, m->dev, MK_F32, 0, NULL, MOCL_NEVER);
        if (!st)
            st = MOCL_KERNEL(m->dev, copy, MK_F32, 2, one, mocl_real(low), zero, mocl_real(column), column->stride);
        mocl_tensor_unref(low);
        mocl_tensor_unref(column);
        if (st) goto done;
    }
    MOCL_GOTO(MOCL_KERNEL(m->dev, sample, n, vocab, mocl_real(logits), inv_temp, o->top_k, o->top_p, o->key,
                          (uint32_t)r->step, mocl_int(ids), mocl_int(token)), done);
    MOCL_GOTO(MOCL_KERNEL(m->dev, logprob, n, vocab, mocl_real(logits), inv_temp > 0 ? inv_temp : 1, mocl_int(token),
                          mocl_real(logp), NULL, mocl_real(lse)), done);
    MOCL_GOTO(mocl_tensor_to_host(token, r->target), done);
    MOCL_GOTO(mocl_tensor_to_host(logp, r->host), done);
done:
    mocl_tensor_unref(logits);
    mocl_tensor_unref(ids);
    mocl_tensor_unref(token);
    mocl_tensor_unref(logp);
    mocl_tensor_unref(lse);
    return st;
}

/* stores the sampled tokens and keeps the rows that go on */
static mocl_status advance(run *r, mocl_generated *g) {
    int64_t kept = 0;
    for (int64_t i = 0; i < r->active; i++) {
        int64_t b = r->row[i], at = b * g->max_new_tokens + g->length[b];
        int32_t token = r->target[i];
        g->token[at] = token;
        g->logp[at] = r->host[i];
        g->length[b]++;
        int stop = token == r->o->eos;
        int says = r->o->on_token ? r->o->on_token(r->o->arg, b, token) : 0;
        if (says < 0) return mocl_fail(r->m->ctx, MOCL_E_SCRIPT, "generate: stopped by its callback");
        if (stop || says > 0) {
            g->finished[b] = true;
            continue;
        }
        if (g->length[b] == g->max_new_tokens || r->pos[i] >= r->m->config.positions) continue;
        r->row[kept] = r->row[i];
        r->row_id[kept] = r->row_id[i];
        r->pos[kept] = r->pos[i];
        r->last[kept] = token;
        kept++;
    }
    r->active = kept;
    r->step++;
    return MOCL_OK;
}

/* the prompts as one batch; *hidden receives the state of each row's last token [rows, D] */
static mocl_status prefill(mocl_tensor **hidden, run *r, const int32_t *offsets, const int32_t *tokens) {
    mocl_model *m = r->m;
    mocl_ctx *ctx = m->ctx;
    int64_t n = offsets[r->rows];
    mocl_tensor *t = NULL, *slot = NULL, *pos = NULL, *off = NULL, *last = NULL;
    int32_t *buf = mocl_calloc(ctx, (size_t)n, 2 * sizeof *buf);
    mocl_status st;
    *hidden = NULL;
    if (!buf) return mocl_nomem(ctx, (size_t)n * 8);
    for (int64_t b = 0; b < r->rows; b++) {
        for (int32_t i = offsets[b]; i < offsets[b + 1]; i++) {
            buf[i] = (int32_t)b;
            buf[n + i] = i - offsets[b];
        }
        r->target[b] = offsets[b + 1] - 1;
    }
    MOCL_GOTO(mocl_tensor_i32(&t, m->dev, n, tokens), done);
    MOCL_GOTO(mocl_tensor_i32(&slot, m->dev, n, buf), done);
    MOCL_GOTO(mocl_tensor_i32(&pos, m->dev, n, buf + n), done);
    MOCL_GOTO(mocl_tensor_i32(&off, m->dev, r->rows + 1, offsets), done);
    MOCL_GOTO(mocl_tensor_i32(&last, m->dev, r->rows, r->target), done);
    MOCL_GOTO(forward(hidden, r, t, slot, pos, off, last), done);
done:
    mocl_free(buf);
    mocl_tensor_unref(t);
    mocl_tensor_unref(slot);
    mocl_tensor_unref(pos);
    mocl_tensor_unref(off);
    mocl_tensor_unref(last);
    return st;
}

/* one step: the last token of each active row */
static mocl_status decode(mocl_tensor **hidden, run *r) {
    mocl_device *dev = r->m->dev;
    mocl_tensor *t = NULL, *slot = NULL, *pos = NULL;
    mocl_status st;
    *hidden = NULL;
    MOCL_GOTO(mocl_tensor_i32(&t, dev, r->active, r->last), done);
    MOCL_GOTO(mocl_tensor_i32(&slot, dev, r->active, r->row), done);
    MOCL_GOTO(mocl_tensor_i32(&pos, dev, r->active, r->pos), done);
    MOCL_GOTO(forward(hidden, r, t, slot, pos, NULL, NULL), done);
    for (int64_t i = 0; i < r->active; i++) r->pos[i]++;
done:
    mocl_tensor_unref(t);
    mocl_tensor_unref(slot);
    mocl_tensor_unref(pos);
    return st;
}

/* one token for each active row */
static mocl_status step(run *r) {
    mocl_tensor *hidden = NULL;
    mocl_status st;
    if (!r->on_host) {
        MOCL_TRY(decode(&hidden, r));
        st = sample(r, hidden);
        mocl_tensor_unref(hidden);
        return st;
    }
    MOCL_TRY(mocl_decode_step(r->on_host, r->active, (uint32_t)r->step));
    for (int64_t i = 0; i < r->active; i++) r->pos[i]++;
    return MOCL_OK;
}

static mocl_status check_options(mocl_ctx *ctx, const mocl_generate_options *o) {
    if (o->max_new_tokens < 1) return mocl_fail(ctx, MOCL_E_ARG, "generate: max_new_tokens = %lld must be at least 1",
                                                (long long)o->max_new_tokens);
    if (!(o->temperature >= 0)) return mocl_fail(ctx, MOCL_E_ARG, "generate: temperature = %g must be 0 or more", o->temperature);
    if (!(o->top_p > 0 && o->top_p <= 1)) return mocl_fail(ctx, MOCL_E_ARG, "generate: top_p = %g is outside (0, 1]", o->top_p);
    if (o->top_k < 0) return mocl_fail(ctx, MOCL_E_ARG, "generate: top_k = %lld must be 0 (all) or more", (long long)o->top_k);
    return MOCL_OK;
}

mocl_status mocl_model_generate(mocl_generated *g, mocl_model *m, int64_t rows, const int32_t *offsets, const int32_t *tokens,
                                const mocl_generate_options *o) {
    mocl_ctx *ctx = m->ctx;
    run r = {.m = m, .o = o, .rows = rows, .active = rows};
    int64_t longest = 0;
    mocl_tensor *hidden = NULL;
    bool was = ctx->grad_enabled;
    mocl_status st;
    memset(g, 0, sizeof *g);
    MOCL_TRY(check_options(ctx, o));
    if (rows < 1) return mocl_fail(ctx, MOCL_E_ARG, "generate: there are no prompts");
    for (int64_t b = 0; b < rows; b++) {
        int64_t n = offsets[b + 1] - offsets[b];
        if (n < 1) return mocl_fail(ctx, MOCL_E_ARG, "generate: prompt %lld has no tokens; give it at least the BOS token",
                                    (long long)b + 1);
        if (n > m->config.positions)
            return mocl_fail(ctx, MOCL_E_ARG, "generate: prompt %lld has %lld tokens, the context holds %lld; shorten it",
                             (long long)b + 1, (long long)n, (long long)m->config.positions);
        if (n > longest) longest = n;
    }
    r.capacity = longest + o->max_new_tokens < m->config.positions ? longest + o->max_new_tokens : m->config.positions;
    g->rows = rows;
    g->max_new_tokens = o->max_new_tokens;
    size_t room;
    if (!mocl_mul((size_t)rows, (size_t)o->max_new_tokens, &room)) return mocl_nomem(ctx, SIZE_MAX);
    g->token = mocl_calloc(ctx, room, sizeof *g->token);
    g->logp = mocl_calloc(ctx, room, sizeof *g->logp);
    g->length = mocl_calloc(ctx, (size_t)rows, sizeof *g->length);
    g->finished = mocl_calloc(ctx, (size_t)rows, sizeof *g->finished);
    if (!g->token || !g->logp || !g->length || !g->finished) {
        mocl_generated_free(g);
        return mocl_nomem(ctx, room * 8);
    }
    ctx->grad_enabled = false;
    MOCL_GOTO(open_run(&r), done);
    MOCL_GOTO(prefill(&hidden, &r, offsets, tokens), done);
    for (int64_t b = 0; b < rows; b++) {
        r.row[b] = r.row_id[b] = (int32_t)b;
        r.pos[b] = offsets[b + 1] - offsets[b];
    }
    MOCL_GOTO(sample(&r, hidden), done);
    MOCL_GOTO(advance(&r, g), done);
    while (r.active > 0) {
        MOCL_GOTO(mocl_poll(ctx), done);
        MOCL_GOTO(step(&r), done);
        MOCL_GOTO(advance(&r, g), done);
    }
done:
    ctx->grad_enabled = was;
    mocl_tensor_unref(hidden);
    close_run(&r);
    if (st) mocl_generated_free(g);
    return st;
}
