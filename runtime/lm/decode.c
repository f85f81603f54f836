/* decode.c - steps of generation on the host's processors, without a tensor.
**
** The rows of a small model are cut into pieces, and each piece goes through all blocks, the head and the sampling on
** one thread, some steps on end: they have one hand-over to the other threads, and what the piece's rows have in the cache
** stays in the processor's own. Rows that end leave the piece. The weights of a large model would be read once for each
** piece, so its rows stay together, step by step, and the threads share the kernels.
**
** The kernels and their order are those of the forward pass over tensors (model.c), which walks the same steps (spec.h) and
** which other devices take, and kernels are row invariant: the bits are the same. A kernel call costs tens of nanoseconds. Weights are read
** transposed, [in, out], and where that is wide in panels of some columns, one after the other: the form in which a
** product of few rows reads them where they lie. Where there is one row only, matrices that are multiplied by the same
** vector lie side by side, and so do their results: one product. The copies last as long as the call to generate and
** have a bound. Of a model in bf16 nothing is copied: its products lay weights out as they read them, and buffers hold bf16 where the
** forward pass has it.
*/
#include "lm/decode.h"

#include <math.h>
#include <string.h>

enum { PIECE_ROWS = 16, PIECES_MAX = 16, PIECE_INTS = 6, COPIES_MAX = 256 << 20 /* bytes */ };
enum { PANEL = 64, PANEL_ONE = 128, NARROW = 256 }; /* columns of a panel, of one for one row; up to NARROW there is one */
enum { LARGE = 1 << 20 };           /* weights of a model whose rows stay together: beyond a processor's own cache */

/* op(W), [in, out]: W [out, in] itself or a copy, transposed: panels [in, panel], then [in, the rest] */
typedef struct matrix {
    mocl_tensor *t; /* owned; NULL: none, or a part of another one */
    const mocl_weight *quantized; /* in place of t, and read where it lies; or NULL */
    bool copy;
    int64_t in, out, panel;
} matrix;

typedef struct low_rank { /* y += scale (x A^T) B^T; a.t and b.t NULL without an adapter */
    matrix a, b;
    double scale;
} low_rank;

struct mocl_decode {
    mocl_model *m;
    int64_t layers; /* of the model, which may go first */
    const mocl_generate_options *o;
    const mocl_decode_rows *rows;
    matrix *linear, head; /* linear: [layers][MOCL_LINEARS] */
    mocl_adapter **adapter; /* [n_adapters] those that rows use */
    int64_t n_adapters, rank;
    low_rank *lora;         /* [n_adapters][layers][MOCL_LINEARS] */
    int32_t *used;          /* [slot] number of the row's adapter, or -1 */
    mocl_step *steps; /* [layers][MOCL_STEPS_MAX] */
    int *n_steps;     /* [layers] */
    mk_dtype type;          /* of weights, of what lies between layers and of the cache: the model's */
    bool large, single;     /* single: there is one row */
    mocl_tensor **turned;   /* [layers] keys that lie across, for attention_turned, once `turns`; or NULL */
    int64_t wide;
    bool turns;
    mocl_tensor *work;      /* buffers of piece_most rows for each piece */
    int64_t piece_most;
    int32_t *own;           /* [pieces][PIECE_INTS][piece_most] what a piece of several steps knows of its rows */
    mk_real *score;         /* [pieces][2][piece_most] */
    int64_t active, piece, group; /* these steps: their rows, those of a piece (the last has fewer), and how many they are */
    uint32_t step;
    mk_exec exec[PIECES_MAX]; /* scratch of the kernels a piece calls; no threads of its own */
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
    for (int i = 0; d->type != MK_F32 && i < n; i++) {
        mocl_tensor *t = NULL; /* an adapter is rounded */
        *m[i] = (matrix){.in = in, .out = w[i]->shape[0]};
        if (w[i]->dtype != d->type) MOCL_TRY(mocl_to_dtype(&t, w[i], d->type));
        mocl_status st = mocl_tensor_contiguous(&m[i]->t, t ? t : w[i]);
        mocl_tensor_unref(t);
        if (st) return st;
    }
    if (d->type != MK_F32) return MOCL_OK;
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
static mocl_status open_weights(mocl_decode *d, int64_t l, int first, int n, size_t *room) {
    matrix *m[MOCL_LINEARS];
    mocl_tensor *numbers[MOCL_LINEARS];
    for (int i = 0; i < n; i++) m[i] = &d->linear[l * MOCL_LINEARS + first + i];
    for (int i = 0; i < n; i++) numbers[i] = d->m->block[l].linear[first + i].part[0];
    bool plain = true;
    for (int i = 0; i < n; i++) plain = plain && mocl_weight_is_plain(&d->m->block[l].linear[first + i]);
    if (d->single && plain) MOCL_TRY(open_matrices(d, m, numbers, n, room));
    for (int i = 0; i < n; i++) {
        const mocl_weight *w = &d->m->block[l].linear[first + i];
        if (!mocl_weight_is_plain(w)) *m[i] = (matrix){.quantized = w, .in = w->columns, .out = w->rows};
        else if (!d->single || !plain) MOCL_TRY(open_matrices(d, &m[i], &numbers[i], 1, room));
        for (int64_t j = 0; j < d->n_adapters; j++) {
            int64_t at = l * MOCL_LINEARS + first + i;
            mocl_low_rank *from = &d->adapter[j]->linear[at];
            low_rank *to = &d->lora[j * d->layers * MOCL_LINEARS + at];
            matrix *a = &to->a, *b = &to->b;
            if (!from->a) continue;
            to->scale = from->scale;
            MOCL_TRY(open_matrices(d, &a, &from->a, 1, room));
            MOCL_TRY(open_matrices(d, &b, &from->b, 1, room));
        }
    }
    return MOCL_OK;
}

/* which adapters the rows use */
static mocl_status open_adapters(mocl_decode *d) {
    mocl_ctx *ctx = d->m->ctx;
    int64_t rows = d->rows->most;
    d->adapter = mocl_calloc(ctx, (size_t)rows, sizeof *d->adapter);
    d->used = mocl_calloc(ctx, (size_t)rows, sizeof *d->used);
    if (!d->adapter || !d->used) return mocl_nomem(ctx, (size_t)rows * sizeof *d->adapter);
    for (int64_t i = 0; i < rows; i++) {
        mocl_adapter *a = mocl_chosen(&d->o->adapter, i);
        int64_t at = 0;
        d->used[i] = -1;
        if (!a) continue;
        while (at < d->n_adapters && d->adapter[at] != a) at++;
        if (at == d->n_adapters) d->adapter[d->n_adapters++] = a;
        d->used[i] = (int32_t)at;
        if (a->rank > d->rank) d->rank = a->rank;
    }
    if (!d->n_adapters) return MOCL_OK;
    size_t n = (size_t)(d->n_adapters * d->layers * MOCL_LINEARS);
    d->lora = mocl_calloc(ctx, n, sizeof *d->lora);
    return d->lora ? MOCL_OK : mocl_nomem(ctx, n * sizeof *d->lora);
}

void mocl_decode_close(mocl_decode *d) {
    if (!d) return;
    for (int64_t i = 0; d->linear && i < d->layers * MOCL_LINEARS; i++) mocl_tensor_unref(d->linear[i].t);
    for (int64_t i = 0; d->lora && i < d->n_adapters * d->layers * MOCL_LINEARS; i++) {
        mocl_tensor_unref(d->lora[i].a.t);
        mocl_tensor_unref(d->lora[i].b.t);
    }
    for (int64_t l = 0; d->turned && l < d->layers; l++) mocl_tensor_unref(d->turned[l]);
    mocl_free(d->turned);
    mocl_tensor_unref(d->head.t);
    mocl_free(d->adapter);
    mocl_free(d->used);
    mocl_free(d->lora);
    mocl_tensor_unref(d->work);
    mocl_free(d->own);
    mocl_free(d->score);
    for (int i = 0; i < PIECES_MAX; i++) mk_exec_close(&d->exec[i]);
    mocl_free(d->linear);
    mocl_free(d->steps);
    mocl_free(d->n_steps);
    mocl_free(d);
}

enum { ROTATE_BOTH = 2 }; /* `which` of a rotation of q and k at once */

/* The steps of each block. One row's keys lie behind its queries, so that one rotation serves both. */
static void open_steps(mocl_decode *d) {
    for (int64_t l = 0; l < d->layers; l++) {
        mocl_step *p = d->steps + l * MOCL_STEPS_MAX;
        int n = mocl_spec_steps(&d->m->config, l, p), kept = 0;
        for (int i = 0; i < n; i++) {
            if (d->single && p[i].kind == MOCL_STEP_ROPE && p[i].which == 1 && kept && p[kept - 1].kind == MOCL_STEP_ROPE)
                p[kept - 1].which = ROTATE_BOTH;
            else
                p[kept++] = p[i];
        }
        d->n_steps[l] = kept;
    }
}

/* what norms leave of a row: a mean and a deviation, or one deviation for each head */
static int64_t row_numbers(const mocl_spec *c) { return c->heads > 2 ? c->heads : 2; }

/* elements of a row's buffers, of which those of bf16 take less: x, h, y [D]; q, attention [H K]; k, v [G K]; gate, up [F]; u [largest rank]; logits
** [V]; numbers */
static int64_t row_elements(const mocl_decode *d) {
    const mocl_spec *c = &d->m->config;
    return 3 * c->width + 2 * (c->heads + c->kv_heads) * c->head_size + 2 * c->ffn + d->rank + c->vocab + row_numbers(c);
}

static int64_t count_pieces(const mocl_decode *d, int64_t rows) {
    int64_t n = d->large ? 1 : (rows + PIECE_ROWS - 1) / PIECE_ROWS;
    return n < PIECES_MAX ? n : PIECES_MAX;
}

static bool is_large(const mocl_model *m) {
    const mocl_spec *c = &m->config;
    int64_t block = c->width * (2 * (c->heads + c->kv_heads) * c->head_size + 3 * c->ffn);
    return c->layers * block + c->vocab * c->width >= LARGE;
}

/* Room for keys that lie across, where a kernel takes them: a step then need not turn those of all tokens again. Those of a large
** model are much memory beside the cache, and little work beside its products. */
static mocl_status open_turned(mocl_decode *d) {
    const mocl_spec *c = &d->m->config;
    int64_t shape[3] = {d->rows->most, c->kv_heads * c->head_size, (d->rows->positions + 15) / 16 * 16};
    bool fits = d->type == MK_F32 && !d->large && c->heads == c->kv_heads && c->head_size % 16 == 0 && c->head_size <= 64;
    for (int64_t l = 0; l < c->layers; l++) fits = fits && mocl_spec_window(c, l) == 0;
    if (!fits) return MOCL_OK;
    d->wide = shape[2];
    d->turned = mocl_calloc(d->m->ctx, (size_t)c->layers, sizeof *d->turned);
    if (!d->turned) return mocl_nomem(d->m->ctx, (size_t)c->layers * sizeof *d->turned);
    for (int64_t l = 0; l < c->layers; l++) MOCL_TRY(mocl_tensor_new(&d->turned[l], d->m->dev, MK_F32, 3, shape));
    return MOCL_OK;
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
    d->type = m->dtype;
    d->large = is_large(m);
    d->single = rows->most == 1;
    pieces = count_pieces(d, rows->most);
    d->linear = mocl_calloc(ctx, (size_t)n_linear, sizeof *d->linear);
    d->steps = mocl_calloc(ctx, (size_t)d->layers, MOCL_STEPS_MAX * sizeof *d->steps);
    d->n_steps = mocl_calloc(ctx, (size_t)d->layers, sizeof *d->n_steps);
    if (!d->linear || !d->steps || !d->n_steps) {
        st = mocl_nomem(ctx, (size_t)n_linear * sizeof(matrix));
        goto fail;
    }
    open_steps(d);
    MOCL_GOTO(open_adapters(d), fail);
    for (int64_t l = 0; l < m->config.layers; l++) {
        MOCL_GOTO(open_weights(d, l, MOCL_Q, 3, &room), fail);
        MOCL_GOTO(open_weights(d, l, MOCL_O, 1, &room), fail);
        if (mocl_spec_has_linear(&m->config, MOCL_GATE)) MOCL_GOTO(open_weights(d, l, MOCL_GATE, 2, &room), fail);
        else MOCL_GOTO(open_weights(d, l, MOCL_UP, 1, &room), fail);
        MOCL_GOTO(open_weights(d, l, MOCL_DOWN, 1, &room), fail);
    }
    head = &d->head;
    MOCL_GOTO(open_matrices(d, &head, &m->head, 1, &room), fail);
    /* fewer rows make fewer pieces, of no more than PIECE_ROWS unless there are PIECES_MAX of them */
    d->piece_most = (rows->most + pieces - 1) / pieces > PIECE_ROWS ? (rows->most + pieces - 1) / pieces : PIECE_ROWS;
    MOCL_GOTO(open_turned(d), fail);
    d->own = mocl_calloc(ctx, (size_t)(pieces * d->piece_most), PIECE_INTS * sizeof *d->own);
    d->score = mocl_calloc(ctx, (size_t)(pieces * d->piece_most), 2 * sizeof *d->score);
    if (!d->own || !d->score) {
        st = mocl_nomem(ctx, (size_t)(pieces * d->piece_most) * PIECE_INTS * sizeof *d->own);
        goto fail;
    }
    n = pieces * d->piece_most * row_elements(d);
    MOCL_GOTO(mocl_tensor_new(&d->work, m->dev, MK_F32, 1, &n), fail);
    *out = d;
    return MOCL_OK;
fail:
    mocl_decode_close(d);
    return st;
}

/* y [n, out] = alpha x [n, in] op(W) + beta y; y is of `to` where the model is bf16 */
static int times(const mk_table *k, mk_exec *e, mk_dtype type, const matrix *w, int64_t n, double alpha, const mk_real *x, double beta,
                 mk_dtype to, mk_real *y) {
    int64_t in = w->in, out = w->out, first = w->copy ? in_panels(w) : 0, rest = out - first;
    if (!w->copy) {
        mk_weight whole = w->quantized ? mocl_weight_kernel(w->quantized) : mocl_weight_plain(type, out, in, mocl_tensor_data(w->t));
        return k->gemm_weight(e, 0, n, alpha, type, x, in, 1, &whole, beta, to, y, out);
    }
    int64_t panel = w->panel;
    int code = first ? k->gemm(e, 0, 0, n, panel, in, alpha, x, in, 0, mocl_real(w->t), panel, panel * in, beta, y, out, panel,
                               first / panel) : MK_OK;
    if (code || !rest) return code;
    return k->gemm(e, 0, 0, n, rest, in, alpha, x, in, 0, mocl_real(w->t) + first * in, rest, 0, beta, y + first, out, 0, 1);
}

/* y [n, out] of x [n, in], added to what is there times beta. Matrices side by side: of the first one, into all their results. */
static int product(const mk_table *k, mk_exec *e, mk_dtype type, const matrix *w, int64_t n, const mk_real *x, double beta, mk_dtype to,
                   mk_real *y) {
    return w->t || w->quantized ? times(k, e, type, w, n, 1, x, beta, to, y) : MK_OK;
}

/* element i of a buffer */
static mk_real *element(mk_dtype type, mk_real *x, int64_t i) {
    return (mk_real *)(void *)((char *)x + (size_t)i * mocl_dtype_size(type));
}

/* y += what the adapter adds; u is room for [n, rank] */
static int add_low_rank(const mk_table *k, mk_exec *e, mk_dtype type, const low_rank *w, int64_t n, const mk_real *x, mk_real *u,
                        mk_real *y) {
    if (!w->a.t) return MK_OK;
    int code = times(k, e, type, &w->a, n, 1, x, 0, type, u);
    return code ? code : times(k, e, type, &w->b, n, w->scale, u, 1, type, y);
}

#define DO(call)          \
    do {                  \
        int code_ = call; \
        if (code_) return code_; \
    } while (0)

/* What one piece works with: its rows and its buffers. */
typedef struct piece {
    mocl_decode *d;
    mk_exec *e;
    int64_t n;                     /* rows */
    int64_t at_step;               /* from the first of these steps */
    uint32_t step;
    const int32_t *slot, *pos, *last, *row_id; /* of the rows, and what becomes of them: as in mocl_decode_rows */
    int32_t *target;
    mk_real *logp, *sum;
    mk_real *at[MOCL_REGISTERS];   /* [n, width of the register], of the model's type, as u is */
    mk_real *u, *logits, *number;  /* [n, rank], [n, V], [n, row_numbers] */
} piece;

static int norm(const piece *p, const mocl_norm *w, const mk_real *x, mk_real *y) {
    const mocl_model *m = p->d->m;
    const mk_table *k = m->dev->k;
    const mocl_spec *c = &m->config;
    if (c->norm == MOCL_NORM_LAYER)
        return k->layernorm(p->e, p->n, c->width, x, mocl_real(w->w), mocl_real(w->b), c->norm_eps, y, p->number, p->number + p->n);
    return k->rmsnorm(p->e, p->d->type, p->n, c->width, x, mocl_real(w->w), c->norm_eps, p->d->type, y, p->number);
}

/* y [n, columns] += one row that is the same for all */
static int add_row(const piece *p, int64_t columns, const mk_real *row, mk_real *y) {
    int64_t shape[2] = {p->n, columns}, full[2] = {columns, 1}, same[2] = {0, 1};
    return p->d->m->dev->k->binary(p->e, MK_F32, MK_ADD, 2, shape, y, full, row, same, y);
}

/* every row of y becomes the bias, rounded: what a product is added to, as the forward pass does it */
static int put_bias(const piece *p, const mocl_tensor *bias, mk_real *y) {
    const mk_table *k = p->d->m->dev->k;
    int64_t n = bias->shape[0];
    for (int64_t i = 0; i < p->n; i++) DO(k->cast(p->e, n, MK_F32, mocl_real(bias), p->d->type, element(p->d->type, y, i * n)));
    return MK_OK;
}

static int run_linear(const piece *p, int64_t l, const mocl_step *s) {
    const mocl_decode *d = p->d;
    const mocl_tensor *bias = d->m->block[l].bias[s->which];
    const mk_table *k = d->m->dev->k;
    const int32_t *slot = p->slot;
    int64_t at = l * MOCL_LINEARS + s->which, shape[2], end;
    mk_real *x = p->at[s->from], *y = p->at[s->to];
    bool rounds = d->type != MK_F32;
    if (bias && rounds) DO(put_bias(p, bias, y));
    DO(product(k, p->e, d->type, &d->linear[at], p->n, x, bias && rounds, d->type, y));
    if (bias && !rounds) DO(add_row(p, bias->shape[0], mocl_real(bias), y));
    if (!d->n_adapters) return MK_OK;
    mocl_spec_linear_shape(&d->m->config, s->which, shape);
    for (int64_t i = 0; i < p->n; i = end) { /* rows side by side that use the same adapter */
        int32_t used = d->used[slot[i]];
        for (end = i + 1; end < p->n && d->used[slot[end]] == used;) end++;
        if (used >= 0)
            DO(add_low_rank(k, p->e, d->type, &d->lora[used * d->layers * MOCL_LINEARS + at], end - i, element(d->type, x, i * shape[1]),
                            p->u, element(d->type, y, i * shape[0])));
    }
    return MK_OK;
}

static int run_attention(const piece *p, int64_t l) {
    const mocl_decode_rows *rows = p->d->rows;
    const mocl_spec *c = &p->d->m->config;
    const mk_table *k = p->d->m->dev->k;
    int64_t G = c->kv_heads, K = c->head_size, slab = rows->positions * G * K;
    const int32_t *slot = p->slot, *pos = p->pos;
    void *kc = mocl_tensor_data(rows->kcache[l]), *vc = mocl_tensor_data(rows->vcache[l]);
    mk_dtype type = p->d->type;
    if (p->d->turned) {
        mk_real *turned = mocl_real(p->d->turned[l]);
        if (!p->d->turns && p->at_step == 0) DO(k->turn_keys(p->e, p->n, G, K, slot, pos, slab, kc, p->d->wide, turned));
        return k->attention_turned(p->e, p->n, G, K, mocl_spec_scale(c, l), slot, pos, p->d->wide, slab, p->at[MOCL_AT_Q],
                                   p->at[MOCL_AT_K], p->at[MOCL_AT_V], turned, vc, p->at[MOCL_AT_A]);
    }
    DO(k->cache_put(p->e, type, p->n, G, K, slot, pos, slab, p->at[MOCL_AT_K], p->at[MOCL_AT_V], kc, vc));
    return k->attention_cached(p->e, type, p->n, c->heads, G, K, mocl_spec_scale(c, l), mocl_spec_window(c, l), slot, pos, slab, p->at[MOCL_AT_Q], kc, vc,
                               p->at[MOCL_AT_A]);
}

static int run_step(const piece *p, int64_t l, const mocl_step *s) {
    const mocl_model *m = p->d->m;
    const mocl_spec *c = &m->config;
    const mk_table *k = m->dev->k;
    const mocl_block_weights *b = &m->block[l];
    mk_dtype type = p->d->type;
    mk_real *x = p->at[s->from], *z = p->at[s->with], *y = p->at[s->to];
    int64_t heads[3] = {c->heads, c->kv_heads, c->heads + c->kv_heads}, K = c->head_size, stream = p->n * c->width, side = p->n * c->ffn,
            one = 1;
    switch (s->kind) {
        case MOCL_STEP_NORM: return norm(p, &b->norm[s->which], x, y);
        case MOCL_STEP_LINEAR: return run_linear(p, l, s);
        case MOCL_STEP_HEAD_NORM:
            return k->rmsnorm(p->e, type, p->n * heads[s->which], K, x, mocl_real(b->head_norm[s->which]), c->norm_eps, type, y, p->number);
        case MOCL_STEP_ROPE:
            return k->rope(p->e, type, p->n, heads[s->which], K, p->pos, mocl_tensor_data(m->rope), c->rope_factor, 1, x,
                           heads[s->which] * K, y, heads[s->which] * K);
        case MOCL_STEP_ATTENTION: return run_attention(p, l);
        case MOCL_STEP_ADD: return k->binary(p->e, type, MK_ADD, 1, &stream, x, &one, z, &one, y);
        case MOCL_STEP_ACT: return k->unary(p->e, c->act, side, x, y, 0, 0);
        case MOCL_STEP_MUL: return k->binary(p->e, MK_F32, MK_MUL, 1, &side, x, &one, z, &one, y);
        case MOCL_STEP_SWIGLU: return k->swiglu(p->e, type, side, x, z, y);
    }
    return MK_ABSENT;
}

/* the residual stream in front of the first block */
static int run_begin(const piece *p) {
    const mocl_model *m = p->d->m;
    const mocl_spec *c = &m->config;
    const mk_table *k = m->dev->k;
    int64_t all = p->n * c->width, one = 1;
    mk_dtype type = p->d->type;
    mk_real *x = p->at[MOCL_AT_X], *y = p->at[MOCL_AT_Y];
    DO(k->gather_rows(p->e, type, p->n, c->width, mocl_tensor_data(m->embed), p->last, x));
    if (c->embed_scale != 1) DO(k->unary(p->e, MK_MUL_SCALAR, all, x, x, c->embed_scale, 0));
    if (m->types) DO(add_row(p, c->width, mocl_real(m->types), x));
    if (m->positions) {
        const void *rows = (const char *)mocl_tensor_data(m->positions) + (size_t)(c->position_offset * c->width) * mocl_dtype_size(type);
        DO(k->gather_rows(p->e, type, p->n, c->width, rows, p->pos, y));
        DO(k->binary(p->e, type, MK_ADD, 1, &all, x, &one, y, &one, x));
    }
    return m->embed_norm.w ? norm(p, &m->embed_norm, x, x) : MK_OK;
}

static int run_sample(const piece *p, const mk_real *states) {
    const mocl_decode *d = p->d;
    const mocl_generate_options *o = d->o;
    const mk_table *k = d->m->dev->k;
    int64_t n = p->n, V = d->m->config.vocab, drawn = mocl_generate_vocab(o, d->m);
    double inv_temp = o->temperature > 0 ? 1 / o->temperature : 0;
    mk_real *logits = p->logits;
    DO(product(k, p->e, d->type, &d->head, n, states, 0, MK_F32, logits));
    DO(k->reduce(p->e, MK_SUM, n, V, 1, logits, p->sum));
    for (int64_t i = 0; i < n && p->step < o->suppress_first; i++)
        for (int64_t j = 0; j < o->n_eos; j++) DO(k->fill(p->e, MK_F32, 1, logits + i * V + o->eos[j], MOCL_NEVER));
    if (drawn == V) {
        DO(k->sample(p->e, n, V, logits, inv_temp, o->top_k, o->top_p, o->key, p->step, p->row_id, p->target));
    } else { /* row by row, since the kernel takes rows that lie one behind the other */
        for (int64_t i = 0; i < n; i++)
            DO(k->sample(p->e, 1, drawn, logits + i * V, inv_temp, o->top_k, o->top_p, o->key, p->step, p->row_id + i, p->target + i));
    }
    return k->logprob(p->e, n, V, logits, inv_temp > 0 ? inv_temp : 1, p->target, p->logp, NULL, p->number);
}

/* the residual stream as it is goes to the places of the tokens */
static void keep_stem(const piece *p) {
    const mocl_decode_rows *rows = p->d->rows;
    size_t row = (size_t)p->d->m->config.width * mocl_dtype_size(p->d->type);
    for (int64_t i = 0; i < p->n; i++) {
        int64_t at = p->slot[i] * rows->positions + p->pos[i];
        memcpy((char *)mocl_tensor_data(rows->stem) + (size_t)at * row, (const char *)p->at[MOCL_AT_X] + (size_t)i * row, row);
    }
}

/* buffers of piece p, for n rows; what is multiplied by one vector where there is one row lies side by side */
static void place(piece *t, int64_t p, int64_t n) {
    const mocl_decode *d = t->d;
    const mocl_spec *c = &d->m->config;
    int64_t D = c->width, Q = c->heads * c->head_size, G = c->kv_heads * c->head_size;
    const int64_t width[MOCL_REGISTERS] = {[MOCL_AT_X] = D, [MOCL_AT_H] = D, [MOCL_AT_Y] = D, [MOCL_AT_Q] = Q, [MOCL_AT_A] = Q,
                                           [MOCL_AT_K] = G, [MOCL_AT_V] = G, [MOCL_AT_GATE] = c->ffn, [MOCL_AT_UP] = c->ffn};
    static const mocl_register order[] = {MOCL_AT_X, MOCL_AT_H, MOCL_AT_Y,    MOCL_AT_A, MOCL_AT_Q,
                                          MOCL_AT_K, MOCL_AT_V, MOCL_AT_GATE, MOCL_AT_UP}; /* there is no memory here */
    mk_real *at = mocl_real(d->work) + p * d->piece_most * row_elements(d);
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        t->at[order[i]] = at;
        at = element(d->type, at, n * width[order[i]]);
    }
    t->u = at;
    at = element(d->type, at, n * d->rank);
    t->logits = (mk_real *)(((uintptr_t)at + sizeof(mk_real) - 1) / sizeof(mk_real) * sizeof(mk_real)); /* behind halves of numbers */
    t->number = t->logits + n * c->vocab;
}

/* one step of the rows of a piece, in the buffers of piece `which` */
static int run_once(piece *t, int64_t which) {
    mocl_decode *d = t->d;
    const mocl_model *m = d->m;
    mk_real *states = NULL;
    place(t, which, t->n);
    states = t->at[MOCL_AT_X];
    DO(run_begin(t));
    for (int64_t l = 0; l < d->layers; l++) {
        for (int i = 0; i < d->n_steps[l]; i++) DO(run_step(t, l, &d->steps[l * MOCL_STEPS_MAX + i]));
        if (d->rows->stem && l + 1 == d->o->stem) keep_stem(t);
    }
    if (m->norm.w) {
        states = t->at[MOCL_AT_H];
        DO(norm(t, &m->norm, t->at[MOCL_AT_X], states));
    }
    return run_sample(t, states);
}

/* Several steps of rows first .. first + n - 1, of which those that end are left out of the steps behind. */
static int run_group(piece *t, int64_t which, int64_t first) {
    const mocl_decode *d = t->d;
    const mocl_decode_rows *rows = d->rows;
    int64_t most = d->piece_most;
    int32_t *own = d->own + which * PIECE_INTS * most, *slot = own, *pos = slot + most, *last = pos + most, *row_id = last + most,
            *place_of = row_id + most;
    for (int64_t i = 0; i < t->n; i++) {
        slot[i] = rows->slot[first + i];
        pos[i] = rows->pos[first + i];
        last[i] = rows->last[first + i];
        row_id[i] = rows->row_id[first + i];
        place_of[i] = (int32_t)(first + i);
    }
    t->slot = slot;
    t->pos = pos;
    t->last = last;
    t->row_id = row_id;
    t->target = place_of + most;
    t->logp = d->score + which * 2 * most;
    t->sum = t->logp + most;
    for (int64_t s = 0; s < d->group && t->n; s++, t->step++) {
        int64_t kept = 0;
        t->at_step = s;
        DO(run_once(t, which));
        for (int64_t i = 0; i < t->n; i++) {
            int64_t to = s * d->active + place_of[i];
            rows->target[to] = t->target[i];
            rows->logp[to] = t->logp[i];
            rows->sum[to] = t->sum[i];
            if (mocl_generate_ends(d->o, t->target[i])) continue;
            slot[kept] = slot[i];
            pos[kept] = pos[i] + 1;
            last[kept] = t->target[i];
            row_id[kept] = row_id[i];
            place_of[kept++] = place_of[i];
        }
        t->n = kept;
    }
    return MK_OK;
}

static int run_rows(mocl_decode *d, int64_t which, int64_t first, int64_t n) {
    const mocl_decode_rows *r = d->rows;
    piece t = {.d = d, .e = d->large ? &d->m->dev->exec : &d->exec[which], .n = n, .step = d->step};
    if (d->group > 1) return run_group(&t, which, first);
    t.slot = r->slot + first;
    t.pos = r->pos + first;
    t.last = r->last + first;
    t.row_id = r->row_id + first;
    t.target = r->target + first;
    t.logp = r->logp + first;
    t.sum = r->sum + first;
    return run_once(&t, which);
}

static void run_piece(void *arg, int64_t p) {
    mocl_decode *d = arg;
    int64_t first = p * d->piece, left = d->active - first;
    d->code[p] = left > 0 ? run_rows(d, p, first, left < d->piece ? left : d->piece) : MK_OK;
}

int64_t mocl_decode_ahead(const mocl_decode *d) { return d->large ? 1 : MOCL_DECODE_AHEAD; }

mocl_status mocl_decode_steps(mocl_decode *d, int64_t active, uint32_t step, int64_t group) {
    mocl_device *dev = d->m->dev;
    int64_t pieces = count_pieces(d, active);
    int code = MK_OK;
    d->active = active;
    d->piece = (active + pieces - 1) / pieces;
    d->step = step;
    d->group = group;
    mocl_device_enter(dev);
    mk_parallel(&dev->exec, pieces, run_piece, d);
    d->turns = true;
    for (int64_t p = 0; p < pieces; p++)
        if (!code) code = d->code[p];
    return mocl_kernel_end(dev, "decode", code);
}
