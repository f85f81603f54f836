/* generate.c - answers to a batch of prompts: a session (session.h) whose rows go on until they end.
**
** The prompts run as one ragged batch; then each step feeds one token per unfinished row. Every product
** is row invariant and attention over the cache equals attention over the sequence, so the
** log-probabilities are, to the bit, those of a later training forward pass.
**
** On a device that runs behind the program the steps go in groups of up to AHEAD: the tokens of one are the
** inputs of the next where they lie, and the program waits once for a group. Rows that end within a group run on
** to its end, and what they make is dropped: rows do not see each other. So do the steps of a small model on the host's
** processors, where rows that end leave at once.
*/
#include <math.h>
#include <string.h>

#include "lm/decode.h"

enum { AHEAD = 8, MOST_AHEAD = MOCL_DECODE_AHEAD };

typedef struct run {
    mocl_model *m;
    const mocl_generate_options *o;
    int64_t rows;
    mocl_session *s;        /* holds the cache; its own tokens are those of the prompts */
    int64_t active;         /* unfinished rows, the first of the arrays below */
    int32_t *row, *pos, *last, *row_id; /* slot, position of the next token, last token, row of the random stream; per active row */
    int64_t group;          /* steps of the last group */
    int32_t *target;        /* [group][active] tokens, their log-probabilities, and the sums of the logits they are from, which
                            ** are finite where the logits are */
    mk_real *host, *sum;
    int64_t step;
    mocl_decode_rows rows_of;
    mocl_decode *on_host; /* NULL where steps run over tensors */
    mocl_tensor *stem;    /* the streams that the steps leave, [rows, capacity, D]; or NULL */
} run;

struct mocl_generation {
    run r;
    mocl_generate_options o;
    mocl_generated *g;
    int64_t at, kept; /* rows of the last step that were given out, and those of them that go on */
    bool given;       /* row `at` was, and is to be ended or kept */
};

void mocl_generated_free(mocl_generated *g) {
    mocl_free(g->token);
    mocl_free(g->logp);
    mocl_free(g->length);
    mocl_free(g->finished);
    mocl_tensor_unref(g->stem);
    memset(g, 0, sizeof *g);
}

/* capacity: positions of a row */
static mocl_status open_run(run *r, int64_t capacity) {
    mocl_ctx *ctx = r->m->ctx;
    size_t n = (size_t)r->rows;
    r->row = mocl_calloc(ctx, n, sizeof *r->row);
    r->pos = mocl_calloc(ctx, n, sizeof *r->pos);
    r->last = mocl_calloc(ctx, n, sizeof *r->last);
    r->row_id = mocl_calloc(ctx, n, sizeof *r->row_id);
    r->target = mocl_calloc(ctx, n, MOST_AHEAD * sizeof *r->target);
    r->host = mocl_calloc(ctx, n, 2 * MOST_AHEAD * sizeof *r->host);
    if (!r->row || !r->pos || !r->last || !r->row_id || !r->target || !r->host) return mocl_nomem(ctx, n * 8 * (2 + MOST_AHEAD));
    r->sum = r->host + n * MOST_AHEAD;
    MOCL_TRY(mocl_session_open(&r->s, r->m, r->rows, capacity, &r->o->adapter));
    if (r->m->dev->kind != MOCL_DEVICE_CPU || r->o->max_new_tokens == 1) return MOCL_OK;
    if (r->o->stem) {
        int64_t shape[3] = {r->rows, capacity, r->m->config.width};
        MOCL_TRY(mocl_tensor_new(&r->stem, r->m->dev, r->m->dtype, 3, shape));
        r->s->keep = r->o->stem;
    }
    r->rows_of = (mocl_decode_rows){.most = r->rows, .positions = capacity, .slot = r->row, .pos = r->pos, .last = r->last,
                                    .row_id = r->row_id, .target = r->target, .logp = r->host, .sum = r->sum,
                                    .kcache = r->s->cache.k, .vcache = r->s->cache.v, .stem = r->stem};
    return mocl_decode_open(&r->on_host, r->m, r->o, &r->rows_of);
}

static void close_run(run *r) {
    mocl_decode_close(r->on_host);
    mocl_session_close(r->s);
    mocl_tensor_unref(r->stem);
    mocl_free(r->row);
    mocl_free(r->pos);
    mocl_free(r->last);
    mocl_free(r->row_id);
    mocl_free(r->target);
    mocl_free(r->host);
}

/* What a group of steps leaves on the device. */
typedef struct drawn {
    mocl_tensor *ids;   /* [active] rows of the random stream */
    mocl_tensor *token; /* [group, active] */
    mocl_tensor *score; /* [2, group, active]: log-probabilities, sums of the logits; one tensor, so that one read gives both */
} drawn;

static void drawn_free(drawn *d) {
    mocl_tensor_unref(d->ids);
    mocl_tensor_unref(d->token);
    mocl_tensor_unref(d->score);
}

static mocl_status drawn_new(drawn *d, run *r, int64_t group) {
    int64_t shape[2] = {group, r->active}, scores[3] = {2, group, r->active};
    memset(d, 0, sizeof *d);
    r->group = group;
    MOCL_TRY(mocl_tensor_i32(&d->ids, r->m->dev, r->active, r->row_id));
    MOCL_TRY(mocl_tensor_new(&d->token, r->m->dev, MK_I32, 2, shape));
    return mocl_tensor_new(&d->score, r->m->dev, MK_F32, 3, scores);
}

/* waits; r->target, r->host and r->sum receive what the group has drawn */
static mocl_status drawn_read(drawn *d, run *r) {
    MOCL_TRY(mocl_tensor_to_host(d->token, r->target));
    r->sum = r->host + r->group * r->active;
    return mocl_tensor_to_host(d->score, r->host);
}

/* row `at` of a matrix */
static mocl_status row_of(mocl_tensor **out, mocl_tensor *t, int64_t at) {
    int64_t n = t->shape[1], one = 1;
    return mocl_tensor_alias(out, t, 1, &n, &one, t->offset + at * n);
}

/* tokens of the active rows from their last hidden states [active, D], at step `at` of the group */
static mocl_status sample(run *r, mocl_tensor *hidden, drawn *d, int64_t at) {
    mk_real *logp = mocl_real(d->score) + at * r->active;
    return mocl_draw(r->m, r->o, hidden, d->ids, r->step + at, mocl_int(d->token) + at * r->active, logp,
                     logp + r->group * r->active);
}

/* stores token `at` of the group of active row i */
static mocl_status take(const run *r, mocl_generated *g, int64_t i, int64_t at) {
    int64_t b = r->row[i], n = r->active;
    if (!isfinite(r->sum[at * n + i])) return mocl_model_refuse_logits(r->m, mocl_chosen(&r->o->adapter, b), b + 1, g->length[b] + 1);
    int64_t to = b * g->max_new_tokens + g->length[b]++;
    g->token[to] = r->target[at * n + i];
    g->logp[to] = r->host[at * n + i];
    g->finished[b] = mocl_generate_ends(r->o, g->token[to]);
    return MOCL_OK;
}

/* keeps active row i as number *kept of the next group, if it goes on */
static void keep(run *r, const mocl_generated *g, int64_t i, int64_t *kept) {
    int64_t b = r->row[i], k = *kept;
    if (g->finished[b] || g->length[b] == g->max_new_tokens || r->pos[i] >= r->m->config.positions) return;
    r->row[k] = r->row[i];
    r->row_id[k] = r->row_id[i];
    r->pos[k] = r->pos[i];
    r->last[k] = g->token[b * g->max_new_tokens + g->length[b] - 1];
    ++*kept;
}

/* stores the tokens of the group and keeps the rows that go on */
static mocl_status advance(run *r, mocl_generated *g) {
    int64_t kept = 0;
    for (int64_t i = 0; i < r->active; i++) {
        for (int64_t at = 0; at < r->group && !g->finished[r->row[i]]; at++) MOCL_TRY(take(r, g, i, at));
        keep(r, g, i, &kept);
    }
    r->active = kept;
    r->step += r->group;
    return MOCL_OK;
}

/* the prompts as one batch, and the first token of each row */
static mocl_status prefill(run *r, const int32_t *offsets, const int32_t *tokens) {
    drawn d = {0};
    mocl_status st;
    for (int64_t b = 0; b < r->rows; b++) {
        r->row[b] = (int32_t)b;
        int64_t id = r->o->first_row + b;
        r->row_id[b] = (int32_t)(r->o->period ? id % r->o->period : id);
        r->pos[b] = offsets[b + 1] - offsets[b];
    }
    MOCL_TRY(mocl_session_append(r->s, r->rows, NULL, offsets, tokens));
    MOCL_GOTO(drawn_new(&d, r, 1), done);
    MOCL_GOTO(sample(r, r->s->hidden, &d, 0), done);
    st = drawn_read(&d, r);
done:
    drawn_free(&d);
    return st;
}

/* How many steps go in a group: to the first limit that a row reaches, and one where the caller may end a row. */
static int64_t group_size(const run *r, const mocl_generated *g) {
    int64_t most = r->o->by_token ? 1 : r->on_host ? mocl_decode_ahead(r->on_host) : AHEAD;
    for (int64_t i = 0; i < r->active; i++) {
        int64_t length = g->max_new_tokens - g->length[r->row[i]], room = r->m->config.positions - r->pos[i];
        if (length < most) most = length;
        if (room < most) most = room;
    }
    return most;
}

/* a group of steps over tensors */
static mocl_status decode(run *r, int64_t group) {
    mocl_device *dev = r->m->dev;
    int64_t n = r->active, shape[2] = {group, n};
    mocl_tensor *last = NULL, *slot = NULL, *all_pos = NULL, *pos = NULL, *hidden = NULL;
    mocl_pass pass = {.cache = &r->s->cache, .known = true}; /* what the sampler drew is in range */
    drawn d = {0};
    mocl_status st;
    mocl_adapter_run *runs = mocl_calloc(r->m->ctx, (size_t)n, sizeof *runs);
    if (!runs) return mocl_nomem(r->m->ctx, (size_t)n * sizeof *runs);
    for (int64_t i = 0; i < n; i++) mocl_adapter_extend(runs, &pass.n_runs, mocl_chosen(&r->o->adapter, r->row[i]), i + 1);
    pass.runs = runs;
    for (int64_t s = 0; s < group; s++)
        for (int64_t i = 0; i < n; i++) r->target[s * n + i] = r->pos[i] + (int32_t)s;
    MOCL_GOTO(drawn_new(&d, r, group), done);
    MOCL_GOTO(mocl_tensor_i32(&last, dev, n, r->last), done);
    MOCL_GOTO(mocl_tensor_i32(&slot, dev, n, r->row), done);
    pass.slot = slot;
    MOCL_GOTO(mocl_tensor_from_host(&all_pos, dev, MK_I32, 2, shape, r->target), done);
    for (int64_t s = 0; s < group; s++) {
        MOCL_GOTO(mocl_poll(r->m->ctx), done);
        MOCL_GOTO(row_of(&pos, all_pos, s), done);
        MOCL_GOTO(mocl_model_forward(&hidden, r->m, last, pos, NULL, &pass), done);
        MOCL_GOTO(sample(r, hidden, &d, s), done);
        mocl_tensor_unref(hidden);
        mocl_tensor_unref(pos);
        mocl_tensor_unref(last);
        hidden = pos = last = NULL;
        MOCL_GOTO(row_of(&last, d.token, s), done);
    }
    st = drawn_read(&d, r);
done:
    drawn_free(&d);
    mocl_free(runs);
    mocl_tensor_unref(last);
    mocl_tensor_unref(slot);
    mocl_tensor_unref(all_pos);
    mocl_tensor_unref(pos);
    mocl_tensor_unref(hidden);
    return st;
}

/* the next tokens of the active rows */
static mocl_status step(run *r, const mocl_generated *g) {
    r->group = group_size(r, g);
    if (r->on_host) {
        r->sum = r->rows_of.sum; /* drawn_read has set it for the prompt */
        MOCL_TRY(mocl_decode_steps(r->on_host, r->active, (uint32_t)r->step, r->group));
    } else {
        MOCL_TRY(decode(r, r->group));
    }
    for (int64_t i = 0; i < r->active; i++) r->pos[i] += (int32_t)r->group;
    return MOCL_OK;
}

/* g->stem, of what the prompts and the steps have left */
static mocl_status gather_stem(const run *r, mocl_generated *g, const int32_t *offsets) {
    int64_t D = r->m->config.width, capacity = r->stem->shape[1], shape[2] = {offsets[r->rows], D};
    size_t row = (size_t)D * mocl_dtype_size(r->m->dtype);
    for (int64_t b = 0; b < r->rows; b++) shape[0] += g->length[b];
    MOCL_TRY(mocl_tensor_new(&g->stem, r->m->dev, r->m->dtype, 2, shape));
    char *to = mocl_tensor_data(g->stem);
    const char *prompts = mocl_tensor_data(r->s->kept), *steps = mocl_tensor_data(r->stem);
    for (int64_t b = 0; b < r->rows; b++) {
        size_t prompt = (size_t)(offsets[b + 1] - offsets[b]), seen = g->length[b] ? (size_t)g->length[b] - 1 : 0;
        memcpy(to, prompts + (size_t)offsets[b] * row, prompt * row);
        to += prompt * row;
        memcpy(to, steps + ((size_t)(b * capacity) + prompt) * row, seen * row);
        to += seen * row;
        if (g->length[b]) memset(to, 0, row);
        to += g->length[b] ? row : 0;
    }
    return MOCL_OK;
}

/* checks what is wanted, and makes the run and the room for its results */
static mocl_status start(run *r, mocl_generated *g, const int32_t *offsets) {
    mocl_model *m = r->m;
    mocl_ctx *ctx = m->ctx;
    const mocl_generate_options *o = r->o;
    int64_t longest = 0, rows = r->rows;
    MOCL_TRY(mocl_generate_check(ctx, m, o));
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
    g->rows = rows;
    g->max_new_tokens = o->max_new_tokens;
    size_t room;
    if (!mocl_mul((size_t)rows, (size_t)o->max_new_tokens, &room)) return mocl_nomem(ctx, SIZE_MAX);
    g->token = mocl_calloc(ctx, room, sizeof *g->token);
    g->logp = mocl_calloc(ctx, room, sizeof *g->logp);
    g->length = mocl_calloc(ctx, (size_t)rows, sizeof *g->length);
    g->finished = mocl_calloc(ctx, (size_t)rows, sizeof *g->finished);
    if (!g->token || !g->logp || !g->length || !g->finished) return mocl_nomem(ctx, room * 8);
    return open_run(r, longest + o->max_new_tokens < m->config.positions ? longest + o->max_new_tokens : m->config.positions);
}

mocl_status mocl_model_generate(mocl_generated *g, mocl_model *m, int64_t rows, const int32_t *offsets, const int32_t *tokens,
                                const mocl_generate_options *o) {
    mocl_ctx *ctx = m->ctx;
    run r = {.m = m, .o = o, .rows = rows, .active = rows};
    bool was = ctx->grad_enabled;
    mocl_status st;
    memset(g, 0, sizeof *g);
    ctx->grad_enabled = false;
    MOCL_GOTO(start(&r, g, offsets), done);
    MOCL_GOTO(prefill(&r, offsets, tokens), done);
    MOCL_GOTO(advance(&r, g), done);
    while (r.active > 0) {
        MOCL_GOTO(mocl_poll(ctx), done);
        MOCL_GOTO(step(&r, g), done);
        MOCL_GOTO(advance(&r, g), done);
    }
    if (r.stem) MOCL_GOTO(gather_stem(&r, g, offsets), done);
done:
    ctx->grad_enabled = was;
    close_run(&r);
    if (st) mocl_generated_free(g);
    return st;
}

/* ---- one token at a time ---- */

mocl_status mocl_generation_open(mocl_generation **out, mocl_generated *g, mocl_model *m, int64_t rows, const int32_t *offsets,
                                 const int32_t *tokens, const mocl_generate_options *o) {
    mocl_ctx *ctx = m->ctx;
    bool was = ctx->grad_enabled;
    mocl_generation *p = *out = mocl_calloc(ctx, 1, sizeof *p);
    if (!p) return mocl_nomem(ctx, sizeof *p);
    p->o = *o;
    p->o.by_token = true;
    p->o.stem = 0;
    p->g = g;
    p->r = (run){.m = m, .o = &p->o, .rows = rows, .active = rows};
    ctx->grad_enabled = false;
    mocl_status st = start(&p->r, g, offsets);
    if (!st) st = prefill(&p->r, offsets, tokens);
    ctx->grad_enabled = was;
    return st;
}

/* the next tokens of the rows that go on, if there are any */
static mocl_status next_step(mocl_generation *p) {
    mocl_ctx *ctx = p->r.m->ctx;
    bool was = ctx->grad_enabled;
    p->r.active = p->kept;
    p->r.step += p->r.group;
    p->at = p->kept = 0;
    if (!p->r.active) return MOCL_OK;
    MOCL_TRY(mocl_poll(ctx));
    ctx->grad_enabled = false;
    mocl_status st = step(&p->r, p->g);
    ctx->grad_enabled = was;
    return st;
}

mocl_status mocl_generation_next(mocl_generation *p, bool stop, int64_t *row, int32_t *token) {
    run *r = &p->r;
    if (p->given) {
        if (stop) p->g->finished[r->row[p->at]] = true;
        keep(r, p->g, p->at++, &p->kept);
        p->given = false;
    }
    *row = -1;
    if (p->at == r->active) MOCL_TRY(next_step(p));
    if (p->at == r->active) return MOCL_OK; /* none is active */
    MOCL_TRY(take(r, p->g, p->at, 0));
    p->given = true;
    *row = r->row[p->at];
    *token = p->g->token[*row * p->g->max_new_tokens + p->g->length[*row] - 1];
    return MOCL_OK;
}

void mocl_generation_close(mocl_generation *p) {
    if (p) close_run(&p->r);
    mocl_free(p);
}
