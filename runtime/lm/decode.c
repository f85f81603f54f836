/* decode.c - one step of generation on the host's processors, without a tensor.
**
** The rows of a small model are cut into pieces, and each piece goes through all blocks, the head and the sampling on
** one thread: a step has one hand-over to the other threads. The weights of a large one would be read once for each
** piece, so its rows stay together and the threads share the kernels.
**
** The kernels and their order are those of generate.c's step over tensors, which other devices take, and
** kernels are row invariant: the bits are the same. A kernel call costs tens of nanoseconds. Weights are read
** transposed, [in, out], and where that is wide in panels of some columns, one after the other: the form in which a
** product of few rows reads them where they lie. Where there is one row only, matrices that are multiplied by the same
** vector lie side by side, and so do their results: one product. The copies last as long as the call to generate and
** have a bound.
*/
#include "lm/decode.h"

#include <math.h>
#include <string.h>

enum { PIECE_ROWS = 16, PIECES_MAX = 16, COPIES_MAX = 256 << 20 /* bytes */ };
enum { PANEL = 64, PANEL_ONE = 128, NARROW = 256 }; /* columns of a panel, of one for one row; up to NARROW there is one */
enum { LARGE = 1 << 20 };           /* weights of a model whose rows stay together: beyond a processor's own cache */

/* op(W), [in, out]: W [out, in] itself or a copy, transposed: panels [in, panel], then [in, the rest] */
typedef struct matrix {
    mocl_tensor *t; /* owned; NULL: none, or a part of another one */
    bool copy;
    int64_t in, out, panel;
} matrix;

typedef struct weight { /* y = x W^T + scale (x A^T) B^T; a.t and b.t NULL without an adapter */
    matrix w, a, b;
    double scale;
} weight;

struct mocl_decode {
    mocl_model *m;
    int64_t layers; /* of the model, which may go first */
    const mocl_generate_options *o;
    const mocl_decode_rows *rows;
    weight *linear; /* [layers][MOCL_LINEARS] */
    weight head;
    bool large, single;     /* single: there is one row */
    mocl_tensor *work;      /* buffers of piece_most rows for each piece */
    int64_t piece_most;
    int64_t active, piece;  /* this step: its rows, and those of a piece (the last has fewer) */
    uint32_t step;
    mk_env env[PIECES_MAX]; /* scratch of the kernels a piece calls; no threads of its own */
    int code[PIECES_MAX];
};

/* the columns that lie in panels */
static int64_t in_panels(const matrix *m) { return m->out <= NARROW ? 0 : m->out / m->panel * m->panel; }

/* W [n, in] becomes columns at .. at + n - 1 of a copy. */
static mocl_status put_columns(matrix *m, int64_t at, mocl_tensor *w) {
    mocl_device *dev = w->storage->dev;
    int64_t in = m->in, panel = m->panel, first = in_panels(m), n = w->shape[0], put = 0;
    mocl_tensor *c = NULL;
    mocl_status st;
    MOCL_GOTO(mocl_tensor_contiguous(&c, w), done);
    while (put < n) {
        /* whole panels at once, or columns of one panel */
        int64_t left = n - put, inside = at % panel, columns = panel, panels = 1, ld = panel;
        mk_real *to = mocl_real(m->t) + (at - inside) * in + inside;
        if (at >= first) {
            to = mocl_real(m->t) + first * in + at - first;
            columns = left;
            ld = m->out - first;
        } else if (inside || left < panel) {
            columns = left < panel - inside ? left : panel - inside;
        } else {
            panels = (left < first - at ? left : first - at) / panel;
        }
        int64_t shape[3] = {panels, in, columns}, from[3] = {columns * in, 1, in}, stride[3] = {panel * in, ld, 1};
        MOCL_GOTO(MOCL_KERNEL(dev, copy, MK_F32, 3, shape, mocl_real(c) + put * in, from, to, stride), done);
        put += panels * columns;
        at += panels * columns;
    }
    st = MOCL_OK;
done:
    mocl_tensor_unref(c);
    return st;
}

/* The first of n weights of one input receives copies of them all, side by side, and the others nothing; without room for
** the copies each receives its own as it is. */
static mocl_status open_matrices(const mocl_decode *d, matrix **m, mocl_tensor *const *w, int n, size_t *room) {
    int64_t in = w[0]->shape[1], out = 0, size;
    size_t bytes;
    for (int i = 0; i < n; i++) out += w[i]->shape[0];
    size = in * out;
    bytes = (size_t)size * sizeof(mk_real);
    for (int i = 0; i < n; i++)
        *m[i] = (matrix){.in = in, .out = w[i]->shape[0], .panel = d->single ? PANEL_ONE : PANEL, .copy = bytes <= *room};
    if (bytes > *room) {
        for (int i = 0; i < n; i++) MOCL_TRY(mocl_tensor_contiguous(&m[i]->t, w[i]));
        return MOCL_OK;
    }
    *room -= bytes;
    m[0]->out = out;
    MOCL_TRY(mocl_tensor_new(&m[0]->t, w[0]->storage->dev, MK_F32, 1, &size));
    for (int64_t i = 0, at = 0; i < n; at += w[i]->shape[0], i++) MOCL_TRY(put_columns(m[0], at, w[i]));
    return MOCL_OK;
}

/* weights first .. first + n - 1 of a block, which have one input */
static mocl_status open_weights(mocl_decode *d, mocl_block_weights *b, weight *to, int first, int n, size_t *room) {
    matrix *m[MOCL_LINEARS];
    mocl_tensor *numbers[MOCL_LINEARS];
    for (int i = 0; i < n; i++) m[i] = &to[first + i].w;
    for (int i = 0; i < n; i++) numbers[i] = b->linear[first + i].part[0];
    if (d->single) MOCL_TRY(open_matrices(d, m, numbers, n, room));
    for (int i = first; i < first + n; i++) {
        const mocl_adapter *ad = &b->adapter[i];
        if (!d->single) MOCL_TRY(open_matrices(d, &m[i - first], &numbers[i - first], 1, room));
        if (!d->o->adapter || !ad->a) continue;
        matrix *a = &to[i].a, *up = &to[i].b;
        to[i].scale = ad->scale;
        MOCL_TRY(open_matrices(d, &a, &ad->a, 1, room));
        MOCL_TRY(open_matrices(d, &up, &ad->b, 1, room));
    }
    return MOCL_OK;
}

static void close_weight(weight *w) {
    mocl_tensor_unref(w->w.t);
    mocl_tensor_unref(w->a.t);
    mocl_tensor_unref(w->b.t);
}

void mocl_decode_close(mocl_decode *d) {
    if (!d) return;
    for (int64_t i = 0; d->linear && i < d->layers * MOCL_LINEARS; i++) close_weight(&d->linear[i]);
    close_weight(&d->head);
    mocl_tensor_unref(d->work);
    for (int i = 0; i < PIECES_MAX; i++) mk_env_close(&d->env[i]);
    mocl_free(d->linear);
    mocl_free(d);
}

/* elements of a row's buffers: x, h, y [D]; q, attention [H K]; k, v [G K]; gate, up [F]; u [largest rank]; logits
** [V]; one number */
static int64_t row_elements(const mocl_model *m) {
    const mocl_model_config *c = &m->config;
    return 3 * c->width + 2 * (c->heads + c->kv_heads) * c->head_size + 2 * c->ffn + m->lora_rank + c->vocab + 1;
}

static int64_t count_pieces(const mocl_decode *d, int64_t rows) {
    int64_t n = d->large ? 1 : (rows + PIECE_ROWS - 1) / PIECE_ROWS;
    return n < PIECES_MAX ? n : PIECES_MAX;
}

static bool is_large(const mocl_model *m) {
    const mocl_model_config *c = &m->config;
    int64_t block = c->width * (2 * (c->heads + c->kv_heads) * c->head_size + 3 * c->ffn);
    return c->layers * block + c->vocab * c->width >= LARGE;
}

mocl_status mocl_decode_open(mocl_decode **out, mocl_model *m, const mocl_generate_options *o, const mocl_decode_rows *rows) {
    mocl_ctx *ctx = m->ctx;
    int64_t n_linear = m->config.layers * MOCL_LINEARS, pieces, n;
    size_t room = COPIES_MAX;
    matrix *head;
    mocl_status st;
    *out = NULL;
    mocl_decode *d = mocl_calloc(ctx, 1, sizeof *d);
    if (!d) return mocl_nomem(ctx, sizeof *d);
    d->m = m;
    d->layers = m->config.layers;
    d->o = o;
    d->rows = rows;
    d->large = is_large(m);
    d->single = rows->most == 1;
    pieces = count_pieces(d, rows->most);
    d->linear = mocl_calloc(ctx, (size_t)n_linear, sizeof *d->linear);
    if (!d->linear) {
        mocl_free(d);
        return mocl_nomem(ctx, (size_t)n_linear * sizeof(weight));
    }
    for (int64_t l = 0; l < m->config.layers; l++) {
        weight *w = d->linear + l * MOCL_LINEARS;
        MOCL_GOTO(open_weights(d, &m->block[l], w, MOCL_Q, 3, &room), fail);
        MOCL_GOTO(open_weights(d, &m->block[l], w, MOCL_O, 1, &room), fail);
        MOCL_GOTO(open_weights(d, &m->block[l], w, MOCL_GATE, 2, &room), fail);
        MOCL_GOTO(open_weights(d, &m->block[l], w, MOCL_DOWN, 1, &room), fail);
    }
    head = &d->head.w;
    MOCL_GOTO(open_matrices(d, &head, &m->head, 1, &room), fail);
    /* fewer rows make fewer pieces, of no more than PIECE_ROWS unless there are PIECES_MAX of them */
    d->piece_most = (rows->most + pieces - 1) / pieces > PIECE_ROWS ? (rows->most + pieces - 1) / pieces : PIECE_ROWS;
    n = pieces * d->piece_most * row_elements(m);
    MOCL_GOTO(mocl_tensor_new(&d->work, m->dev, MK_F32, 1, &n), fail);
    *out = d;
    return MOCL_OK;
fail:
    mocl_decode_close(d);
    return st;
}

/* y [n, out] = alpha x [n, in] op(W) + beta y */
static int times(const mk_table *k, mk_env *e, const matrix *w, int64_t n, double alpha, const mk_real *x, double beta,
                 mk_real *y) {
    int64_t in = w->in, out = w->out, first = w->copy ? in_panels(w) : 0, rest = out - first;
    if (!w->copy) {
        mk_weight whole = mocl_weight_plain(MK_F32, out, in, mocl_real(w->t));
        return k->gemm_weight(e, 0, n, alpha, MK_F32, x, in, 1, &whole, beta, MK_F32, y, out);
    }
    int64_t panel = w->panel;
    int code = first ? k->gemm(e, 0, 0, n, panel, in, alpha, x, in, 0, mocl_real(w->t), panel, panel * in, beta, y, out, panel,
                               first / panel) : MK_OK;
    if (code || !rest) return code;
    return k->gemm(e, 0, 0, n, rest, in, alpha, x, in, 0, mocl_real(w->t) + first * in, rest, 0, beta, y + first, out, 0, 1);
}

/* y [n, out] of x [n, in]; u is room for [n, rank]. Matrices side by side: of the first one, into all their results. */
static int product(const mk_table *k, mk_env *e, const weight *w, int64_t n, const mk_real *x, mk_real *u, mk_real *y) {
    int code = w->w.t ? times(k, e, &w->w, n, 1, x, 0, y) : MK_OK;
    if (code || !w->a.t) return code;
    code = times(k, e, &w->a, n, 1, x, 0, u);
    return code ? code : times(k, e, &w->b, n, w->scale, u, 1, y);
}

#define DO(call)          \
    do {                  \
        int code_ = call; \
        if (code_) return code_; \
    } while (0)

/* rows first .. first + n - 1 of the step, in piece p's buffers */
static int run_rows(mocl_decode *d, int64_t p, int64_t first, int64_t n) {
    const mocl_model *m = d->m;
    const mocl_model_config *c = &m->config;
    const mocl_decode_rows *rows = d->rows;
    const mocl_generate_options *o = d->o;
    const mk_table *k = m->dev->k;
    mk_env *e = d->large ? &m->dev->env : &d->env[p];
    int64_t D = c->width, H = c->heads, G = c->kv_heads, K = c->head_size, F = c->ffn, V = c->vocab, one = 1, all = n * D;
    int64_t slab = rows->positions * G * K;
    int64_t drawn = mocl_generate_vocab(o, m);
    double inv_temp = o->temperature > 0 ? 1 / o->temperature : 0;
    const int32_t *slot = rows->slot + first, *pos = rows->pos + first;
    mk_real *x = mocl_real(d->work) + p * d->piece_most * row_elements(m), *h = x + all, *y = h + all, *att = y + all,
            *q = att + n * H * K, *key = q + n * H * K, *value = key + n * G * K, *gate = value + n * G * K,
            *up = gate + n * F, *u = up + n * F, *logits = u + n * m->lora_rank, *number = logits + n * V;
    DO(k->gather_rows(e, MK_F32, n, D, mocl_real(m->embed), rows->last + first, x));
    for (int64_t l = 0; l < c->layers; l++) {
        const mocl_block_weights *b = &m->block[l];
        const weight *w = d->linear + l * MOCL_LINEARS;
        mk_real *kc = mocl_real(rows->kcache[l]), *vc = mocl_real(rows->vcache[l]);
        DO(k->rmsnorm(e, MK_F32, n, D, x, mocl_real(b->attn_norm), c->norm_eps, MK_F32, h, number));
        DO(product(k, e, &w[MOCL_Q], n, h, u, q));
        DO(product(k, e, &w[MOCL_K], n, h, u, key));
        DO(product(k, e, &w[MOCL_V], n, h, u, value));
        DO(k->rope(e, MK_F32, n, d->single ? H + G : H, K, pos, c->rope_theta, 1, q, H * K, q, H * K)); /* one row: the keys follow */
        if (!d->single) DO(k->rope(e, MK_F32, n, G, K, pos, c->rope_theta, 1, key, G * K, key, G * K));
        DO(k->cache_put(e, MK_F32, n, G, K, slot, pos, slab, key, value, kc, vc));
        DO(k->attention_cached(e, MK_F32, n, H, G, K, 1 / sqrt((double)K), slot, pos, slab, q, kc, vc, att));
        DO(product(k, e, &w[MOCL_O], n, att, u, y));
        DO(k->binary(e, MK_F32, MK_ADD, 1, &all, x, &one, y, &one, x));
        DO(k->rmsnorm(e, MK_F32, n, D, x, mocl_real(b->mlp_norm), c->norm_eps, MK_F32, h, number));
        DO(product(k, e, &w[MOCL_GATE], n, h, u, gate));
        DO(product(k, e, &w[MOCL_UP], n, h, u, up));
        DO(k->swiglu(e, MK_F32, n * F, gate, up, gate));
        DO(product(k, e, &w[MOCL_DOWN], n, gate, u, y));
        DO(k->binary(e, MK_F32, MK_ADD, 1, &all, x, &one, y, &one, x));
    }
    DO(k->rmsnorm(e, MK_F32, n, D, x, mocl_real(m->norm), c->norm_eps, MK_F32, h, number));
    DO(product(k, e, &d->head, n, h, u, logits));
    DO(k->reduce(e, MK_SUM, n, V, 1, logits, rows->sum + first));
    for (int64_t i = 0; i < n && d->step < o->suppress_first; i++)
        for (int64_t j = 0; j < o->n_eos; j++) DO(k->fill(e, MK_F32, 1, logits + i * V + o->eos[j], MOCL_NEVER));
    if (drawn == V) {
        DO(k->sample(e, n, V, logits, inv_temp, o->top_k, o->top_p, o->key, d->step, rows->row_id + first, rows->target + first));
    } else { /* row by row, since the kernel takes rows that lie one behind the other */
        for (int64_t i = 0; i < n; i++)
            DO(k->sample(e, 1, drawn, logits + i * V, inv_temp, o->top_k, o->top_p, o->key, d->step, rows->row_id + first + i,
                         rows->target + first + i));
    }
    return k->logprob(e, n, V, logits, inv_temp > 0 ? inv_temp : 1, rows->target + first, rows->logp + first, NULL, number);
}

static void run_piece(void *arg, int64_t p) {
    mocl_decode *d = arg;
    int64_t first = p * d->piece, left = d->active - first;
    d->code[p] = left > 0 ? run_rows(d, p, first, left < d->piece ? left : d->piece) : MK_OK;
}

mocl_status mocl_decode_step(mocl_decode *d, int64_t active, uint32_t step) {
    mocl_device *dev = d->m->dev;
    int64_t pieces = count_pieces(d, active);
    int code = MK_OK;
    d->active = active;
    d->piece = (active + pieces - 1) / pieces;
    d->step = step;
    mocl_device_enter(dev);
    mk_parallel(&dev->env, pieces, run_piece, d);
    for (int64_t p = 0; p < pieces; p++)
        if (!code) code = d->code[p];
    return mocl_kernel_end(dev, "decode", code);
}
