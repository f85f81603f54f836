/* model.c - a model: its weights, its adapters, and the one forward pass, over ragged batches and with a cache */
#include "lm/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const linear_names[MOCL_ALL_LINEARS] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
    "encoder_attn.q_proj", "encoder_attn.k_proj", "encoder_attn.v_proj", "encoder_attn.o_proj",
};

const char *mocl_model_linear_name(int which) { return linear_names[which]; }

static mocl_status normal(mocl_tensor **out, mocl_device *dev, int64_t rows, int64_t cols, mk_dtype dtype, double std,
                          uint64_t key, uint64_t stream) {
    int64_t shape[2] = {rows, cols};
    mocl_tensor *drawn = NULL;
    MOCL_TRY(mocl_tensor_new(&drawn, dev, MK_F32, 2, shape));
    mocl_status st = MOCL_KERNEL(dev, rand_normal, rows * cols, key, stream, 0.0, std, mocl_real(drawn));
    if (!st) st = mocl_to_dtype(out, drawn, dtype);
    mocl_tensor_unref(drawn);
    return st;
}

/* what gives a new model its weights: a random stream, which moves on with each matrix, or nothing */
typedef struct source {
    uint64_t key, stream;
    bool draws;
} source;

/* A matrix of weights: normal with standard deviation std, or with whatever is in the memory. */
static mocl_status matrix(mocl_tensor **out, const mocl_model *m, int64_t rows, int64_t cols, double std, source *s) {
    int64_t shape[2] = {rows, cols};
    if (!s->draws) return mocl_tensor_new(out, m->dev, m->dtype, 2, shape);
    return normal(out, m->dev, rows, cols, m->dtype, std, s->key, s->stream++);
}

/* A norm of n numbers: ones, and zeros for the bias of a layer norm. */
static mocl_status new_norm(mocl_norm *norm, mocl_device *dev, mocl_norm_kind kind, int64_t n) {
    MOCL_TRY(mocl_tensor_full(&norm->w, dev, MK_F32, 1, &n, 1));
    return kind == MOCL_NORM_LAYER ? mocl_tensor_full(&norm->b, dev, MK_F32, 1, &n, 0) : MOCL_OK;
}

static void free_norm(mocl_norm *norm) {
    mocl_tensor_unref(norm->w);
    mocl_tensor_unref(norm->b);
}

static mocl_status new_block(mocl_model *m, mocl_block_weights *b, source *s) {
    const mocl_spec *c = &m->config;
    double residual = 1 / sqrt(2.0 * (double)c->layers);
    for (int i = 0; i < (c->cross ? 3 : 2); i++) MOCL_TRY(new_norm(&b->norm[i], m->dev, c->norm, c->width));
    for (int i = 0; i < 2; i++) {
        if (c->qk_norm) MOCL_TRY(mocl_tensor_full(&b->head_norm[i], m->dev, MK_F32, 1, &c->head_size, 1));
    }
    for (int i = 0; i < MOCL_ALL_LINEARS; i++) {
        int64_t shape[2];
        if (!mocl_spec_has_linear(c, i)) continue;
        mocl_spec_linear_shape(c, i, shape);
        double std = 1 / sqrt(3.0 * (double)shape[1]) * (i == MOCL_O || i == MOCL_DOWN || i == MOCL_CROSS_O ? residual : 1);
        mocl_tensor *drawn = NULL;
        if (m->format == MK_FORMAT_F32 || m->format == MK_FORMAT_BF16) {
            MOCL_TRY(matrix(&drawn, m, shape[0], shape[1], std, s));
            b->linear[i] = mocl_weight_of(drawn);
        } else {
            MOCL_TRY(mocl_weight_new(&b->linear[i], m->dev, m->format, shape[0], shape[1]));
            if (s->draws) MOCL_TRY(normal(&drawn, m->dev, shape[0], shape[1], MK_F32, std, s->key, s->stream++));
            mocl_status st = drawn ? mocl_weight_set(&b->linear[i], drawn) : MOCL_OK;
            mocl_tensor_unref(drawn);
            if (st) return st;
        }
        if (c->biases >> i & 1) MOCL_TRY(mocl_tensor_full(&b->bias[i], m->dev, MK_F32, 1, shape, 0));
    }
    return MOCL_OK;
}

/* What is in front of the blocks and behind them. */
static mocl_status new_ends(mocl_model *m, source *s) {
    const mocl_spec *c = &m->config;
    int64_t rows = c->position_offset + c->positions;
    MOCL_TRY(matrix(&m->embed, m, c->vocab, c->width, .05, s));
    if (c->head == MOCL_HEAD_TIED) m->head = mocl_tensor_ref(m->embed);
    if (c->head == MOCL_HEAD_UNTIED)
        MOCL_TRY(matrix(&m->head, m, c->vocab, c->width, 1 / sqrt(3.0 * (double)c->width), s));
    if (c->final_norm) MOCL_TRY(new_norm(&m->norm, m->dev, c->norm, c->width));
    if (c->embed_norm) MOCL_TRY(new_norm(&m->embed_norm, m->dev, c->norm, c->width));
    if (c->position == MOCL_POSITIONS_LEARNED)
        MOCL_TRY(matrix(&m->positions, m, rows, c->width, .05, s));
    if (c->types) MOCL_TRY(matrix(&m->types, m, c->types, c->width, .05, s));
    if (c->position != MOCL_POSITIONS_ROPE) return MOCL_OK;
    return mocl_rope_table(&m->rope, m->dev, c->head_size / 2, c->rope_freq, c->rope_theta);
}

static mocl_status check_dtype(mocl_device *dev, const mocl_spec *c, mk_dtype dtype) {
    if (dtype != MK_F32 && dtype != MK_BF16)
        return mocl_fail(dev->ctx, MOCL_E_ARG, "model: dtype '%s' is neither f32 nor bf16", mocl_dtype_name(dtype));
    if (dtype == MK_F32) return MOCL_OK;
    MOCL_TRY(mocl_device_bf16(dev, "model"));
    return mocl_spec_check_bf16(dev->ctx, c);
}

mocl_status mocl_model_new(mocl_model **out, mocl_device *dev, const mocl_spec *spec, mk_dtype dtype, mk_format format,
                           uint64_t key, bool draw) {
    mocl_ctx *ctx = dev->ctx;
    mocl_status st;
    source s = {.key = key, .draws = draw};
    *out = NULL;
    MOCL_TRY(mocl_spec_check(ctx, spec));
    MOCL_TRY(check_dtype(dev, spec, dtype));
    mocl_model *m = mocl_calloc(ctx, 1, sizeof *m);
    if (!m) return mocl_nomem(ctx, sizeof *m);
    m->ctx = ctx;
    m->dev = dev;
    m->dtype = dtype;
    m->format = format;
    MOCL_GOTO(mocl_spec_copy(&m->config, ctx, spec), fail);
    m->block = mocl_calloc(ctx, (size_t)spec->layers, sizeof *m->block);
    if (!m->block) {
        st = mocl_nomem(ctx, (size_t)spec->layers * sizeof *m->block);
        goto fail;
    }
    MOCL_GOTO(new_ends(m, &s), fail);
    for (int64_t l = 0; l < spec->layers; l++) MOCL_GOTO(new_block(m, &m->block[l], &s), fail);
    *out = m;
    return MOCL_OK;
fail:
    mocl_model_free(m);
    return st;
}

void mocl_model_free(mocl_model *m) {
    if (!m) return;
    for (int64_t i = 0; i < m->n_adapters; i++) mocl_adapter_let_go(m->adapter[i]);
    mocl_free(m->adapter);
    for (int64_t l = 0; m->block && l < m->config.layers; l++) {
        mocl_block_weights *b = &m->block[l];
        for (int i = 0; i < 3; i++) free_norm(&b->norm[i]);
        for (int i = 0; i < 2; i++) mocl_tensor_unref(b->head_norm[i]);
        for (int i = 0; i < MOCL_ALL_LINEARS; i++) {
            mocl_weight_free(&b->linear[i]);
            mocl_tensor_unref(b->bias[i]);
        }
    }
    mocl_tensor_unref(m->embed);
    mocl_tensor_unref(m->positions);
    mocl_tensor_unref(m->types);
    mocl_tensor_unref(m->head);
    mocl_tensor_unref(m->rope);
    free_norm(&m->embed_norm);
    free_norm(&m->norm);
    mocl_free(m->block);
    mocl_spec_free(&m->config);
    mocl_free(m);
}

/* ---- formats ---- */

mocl_status mocl_model_set(mocl_model *m, int64_t l, int which, mocl_tensor *t) {
    return mocl_weight_set(&m->block[l].linear[which], t);
}

mocl_status mocl_model_set_parts(mocl_model *m, int64_t l, int which, const mocl_weight *parts) {
    mocl_weight *w = &m->block[l].linear[which], made;
    MOCL_TRY(mocl_weight_of_parts(&made, m->dev, parts));
    mocl_weight_free(w);
    *w = made;
    m->changes++;
    m->hash[0] = '\0';
    return MOCL_OK;
}

mocl_status mocl_model_copy_linear(mocl_model *m, const mocl_model *from) {
    for (int64_t i = 0; i < m->config.layers * MOCL_ALL_LINEARS; i++) {
        const mocl_weight *w = &from->block[i / MOCL_ALL_LINEARS].linear[i % MOCL_ALL_LINEARS];
        if (w->part[0]) MOCL_TRY(mocl_model_set_parts(m, i / MOCL_ALL_LINEARS, (int)(i % MOCL_ALL_LINEARS), w));
    }
    m->format = from->format;
    return MOCL_OK;
}

mocl_status mocl_model_share_embedding(mocl_model *m, const mocl_model *other) {
    if (m->head || m->dev != other->dev || m->dtype != other->dtype || !mocl_tensor_same_shape(m->embed, other->embed))
        return mocl_fail(m->ctx, MOCL_E_ARG, "share_embedding: the models must have embeddings of one shape and dtype on one device, and the "
                                             "first no head");
    mocl_tensor *mine = m->embed;
    m->embed = mocl_tensor_ref(other->embed);
    mocl_tensor_unref(mine);
    m->hash[0] = '\0';
    m->changes++;
    return MOCL_OK;
}

mocl_status mocl_model_dequantize(mocl_model *m) {
    for (int64_t i = 0; i < m->config.layers * MOCL_ALL_LINEARS; i++) {
        mocl_weight *w = &m->block[i / MOCL_ALL_LINEARS].linear[i % MOCL_ALL_LINEARS];
        mocl_tensor *t = NULL;
        if (!w->part[0] || mocl_weight_is_plain(w)) continue;
        MOCL_TRY(mocl_weight_numbers(&t, w, m->dtype));
        mocl_weight_free(w);
        *w = mocl_weight_of(t);
        m->changes++;
    }
    m->format = m->dtype == MK_BF16 ? MK_FORMAT_BF16 : MK_FORMAT_F32;
    m->hash[0] = '\0';
    return MOCL_OK;
}

/* ---- names ---- */

typedef struct visit {
    mocl_model_visitor fn;
    void *arg;
} visit;

/* fn for the tensor of this name, prefix and name put together; nothing where there is none */
static mocl_status one(const visit *v, const char *prefix, const char *name, mocl_tensor *t) {
    char whole[128];
    if (!t) return MOCL_OK;
    snprintf(whole, sizeof whole, "%s%s", prefix, name);
    return v->fn(v->arg, whole, t);
}

static mocl_status visit_norm(const visit *v, const char *prefix, const char *name, const mocl_norm *norm) {
    char whole[96];
    snprintf(whole, sizeof whole, "%s%s", prefix, name);
    MOCL_TRY(one(v, whole, ".weight", norm->w));
    return one(v, whole, ".bias", norm->b);
}

static mocl_status visit_base(const visit *v, const char *prefix, const mocl_block_weights *b) {
    char name[64];
    MOCL_TRY(visit_norm(v, prefix, "input_layernorm", &b->norm[0]));
    for (int i = 0; i < MOCL_ALL_LINEARS; i++) {
        const mocl_weight *w = &b->linear[i];
        for (int p = 0; p < MK_WEIGHT_PARTS && w->part[p]; p++) {
            snprintf(name, sizeof name, "%s%s", linear_names[i], mocl_weight_part_name(w, p));
            MOCL_TRY(one(v, prefix, name, w->part[p]));
        }
        snprintf(name, sizeof name, "%s.bias", linear_names[i]);
        MOCL_TRY(one(v, prefix, name, b->bias[i]));
    }
    MOCL_TRY(visit_norm(v, prefix, "encoder_attn_layernorm", &b->norm[2]));
    MOCL_TRY(one(v, prefix, "self_attn.q_norm.weight", b->head_norm[0]));
    MOCL_TRY(one(v, prefix, "self_attn.k_norm.weight", b->head_norm[1]));
    return visit_norm(v, prefix, "post_attention_layernorm", &b->norm[1]);
}

static mocl_status visit_adapter(const visit *v, const char *prefix, const mocl_low_rank *linear) {
    char name[64];
    for (int i = 0; i < MOCL_LINEARS; i++) {
        snprintf(name, sizeof name, "%s.lora_A.weight", linear_names[i]);
        MOCL_TRY(one(v, prefix, name, linear[i].a));
        snprintf(name, sizeof name, "%s.lora_B.weight", linear_names[i]);
        MOCL_TRY(one(v, prefix, name, linear[i].b));
    }
    return MOCL_OK;
}

mocl_status mocl_model_visit(mocl_model *m, const mocl_adapter *a, mocl_model_visitor fn, void *arg) {
    const visit v = {fn, arg};
    char prefix[48];
    if (!a) {
        MOCL_TRY(one(&v, "model.", "embed_tokens.weight", m->embed));
        MOCL_TRY(one(&v, "model.", "embed_positions.weight", m->positions));
        MOCL_TRY(one(&v, "model.", "embed_types.weight", m->types));
        MOCL_TRY(visit_norm(&v, "model.", "embed_norm", &m->embed_norm));
    }
    for (int64_t l = 0; l < m->config.layers; l++) {
        snprintf(prefix, sizeof prefix, "model.layers.%lld.", (long long)l);
        MOCL_TRY(a ? visit_adapter(&v, prefix, a->linear + l * MOCL_LINEARS) : visit_base(&v, prefix, &m->block[l]));
    }
    if (a) return MOCL_OK;
    MOCL_TRY(visit_norm(&v, "model.", "norm", &m->norm));
    return m->config.head == MOCL_HEAD_UNTIED ? one(&v, "", "lm_head.weight", m->head) : MOCL_OK;
}

/* ---- the cache ---- */

mocl_status mocl_cache_open(mocl_cache *cache, mocl_model *m, int64_t rows, int64_t capacity) {
    const mocl_spec *c = &m->config;
    int64_t shape[4] = {rows, capacity, c->kv_heads, c->head_size};
    *cache = (mocl_cache){.rows = rows, .capacity = capacity, .layers = c->layers};
    cache->k = mocl_calloc(m->ctx, (size_t)c->layers, sizeof *cache->k);
    cache->v = mocl_calloc(m->ctx, (size_t)c->layers, sizeof *cache->v);
    if (!cache->k || !cache->v) return mocl_nomem(m->ctx, (size_t)c->layers * sizeof *cache->k);
    for (int64_t l = 0; l < c->layers; l++) {
        MOCL_TRY(mocl_tensor_new(&cache->k[l], m->dev, m->dtype, 4, shape));
        MOCL_TRY(mocl_tensor_new(&cache->v[l], m->dev, m->dtype, 4, shape));
    }
    return MOCL_OK;
}

void mocl_cache_close(mocl_cache *cache) {
    for (int64_t l = 0; l < cache->layers; l++) {
        if (cache->k) mocl_tensor_unref(cache->k[l]);
        if (cache->v) mocl_tensor_unref(cache->v[l]);
    }
    mocl_free(cache->k);
    mocl_free(cache->v);
    *cache = (mocl_cache){0};
}

/* elements between two slots */
static int64_t slab(const mocl_model *m, const mocl_cache *cache) {
    return cache->capacity * m->config.kv_heads * m->config.head_size;
}

/* puts keys and values of new tokens into the cache of block l */
static mocl_status cache_put(mocl_model *m, int64_t l, const mocl_pass *pass, mocl_tensor *pos, mocl_tensor *k, mocl_tensor *v) {
    const mocl_spec *c = &m->config;
    mocl_tensor *slot = pass->slot, *kc = pass->cache->k[l], *vc = pass->cache->v[l];
    return MOCL_KERNEL(m->dev, cache_put, m->dtype, slot->shape[0], c->kv_heads, c->head_size, mocl_int(slot), mocl_int(pos),
                       slab(m, pass->cache), mocl_tensor_data(k), mocl_tensor_data(v), mocl_tensor_data(kc), mocl_tensor_data(vc));
}

/* *att = attention of q to what the cache of block l holds up to each token's own position */
static mocl_status cache_attend(mocl_tensor **att, mocl_model *m, int64_t l, const mocl_pass *pass, mocl_tensor *pos, mocl_tensor *q) {
    const mocl_spec *c = &m->config;
    mocl_tensor *slot = pass->slot, *kc = pass->cache->k[l], *vc = pass->cache->v[l];
    double scale = mocl_spec_scale(c, l);
    MOCL_TRY(mocl_tensor_like(att, q));
    return MOCL_KERNEL(m->dev, attention_cached, m->dtype, slot->shape[0], c->heads, c->kv_heads, c->head_size, scale, mocl_spec_window(c, l),
                       mocl_int(slot), mocl_int(pos), slab(m, pass->cache), mocl_tensor_data(q), mocl_tensor_data(kc),
                       mocl_tensor_data(vc), mocl_tensor_data(*att));
}

/* ---- forward ---- */

/* x normed, in `dtype` */
static mocl_status apply_norm(mocl_tensor **out, const mocl_model *m, const mocl_norm *norm, mocl_tensor *x, mk_dtype dtype) {
    if (m->config.norm == MOCL_NORM_LAYER) return mocl_layernorm(out, x, norm->w, norm->b, m->config.norm_eps);
    return mocl_rmsnorm_to(out, x, norm->w, m->config.norm_eps, dtype);
}

/* What the steps of a block work on. */
typedef struct walk {
    mocl_model *m;
    mocl_tensor *positions, *offsets;
    const mocl_pass *pass;
    const mocl_adapter_run *runs; /* n_runs, which cover the rows of the registers; made: those of pass->rows, owned, or NULL */
    mocl_adapter_run *made;
    int64_t n_runs;
    mocl_lora *lora; /* room for n_runs */
    mocl_tensor *at[MOCL_REGISTERS];
} walk;

/* takes over t */
static void put(walk *w, mocl_register to, mocl_tensor *t) {
    mocl_tensor_unref(w->at[to]);
    w->at[to] = t;
}

/* register r becomes [T, heads, head_size] where n is 3, or [T, all of them] where it is 2 */
static mocl_status shape_as(walk *w, mocl_register r, int n) {
    int64_t shape[3] = {w->at[r]->shape[0], -1, w->m->config.head_size};
    mocl_tensor *t = NULL;
    if (w->at[r]->ndim == n) return MOCL_OK;
    MOCL_TRY(mocl_reshape(&t, w->at[r], n, shape));
    put(w, r, t);
    return MOCL_OK;
}

/* register r := some rows of it */
static mocl_status take_rows(walk *w, mocl_register r) {
    mocl_tensor *some = NULL;
    MOCL_TRY(mocl_index_select(&some, w->at[r], w->pass->rows));
    put(w, r, some);
    return MOCL_OK;
}

/* runs of the rows that pass->rows takes, from the runs of all tokens */
static mocl_status take_runs(walk *w) {
    mocl_ctx *ctx = w->m->ctx;
    mocl_tensor *rows = w->pass->rows, *c = NULL;
    int64_t n = mocl_tensor_numel(rows), made = 0;
    size_t room = (size_t)n + 1;
    mocl_status st;
    w->made = mocl_calloc(ctx, w->n_runs < 2 ? 1 : room, sizeof *w->made);
    if (!w->made) return mocl_nomem(ctx, room * sizeof *w->made);
    if (w->n_runs < 2) { /* nothing has to be looked up */
        mocl_adapter_extend(w->made, &made, w->runs[0].adapter, n);
        w->runs = w->made;
        return MOCL_OK;
    }
    int32_t *host = mocl_calloc(ctx, room, sizeof *host);
    mocl_lora *lora = mocl_calloc(ctx, room, sizeof *lora);
    if (!host || !lora) {
        st = mocl_nomem(ctx, room * sizeof *lora);
        goto done;
    }
    MOCL_GOTO(mocl_tensor_contiguous(&c, rows), done);
    MOCL_GOTO(mocl_tensor_to_host(c, host), done);
    for (int64_t i = 0; i < n; i++) {
        int64_t lo = 0, hi = w->n_runs - 1; /* the first run that ends behind the row */
        while (lo < hi) {
            int64_t middle = (lo + hi) / 2;
            if (w->runs[middle].end > host[i]) hi = middle;
            else lo = middle + 1;
        }
        mocl_adapter_extend(w->made, &made, w->runs[lo].adapter, i + 1);
    }
    w->runs = w->made;
    w->n_runs = made;
    mocl_free(w->lora);
    w->lora = lora;
    lora = NULL;
done:
    mocl_free(host);
    mocl_free(lora);
    mocl_tensor_unref(c);
    return st;
}

/* linear layer `which` of block l on x, with its bias, and the adapters as the runs say */
static mocl_status run_linear(mocl_tensor **out, walk *w, int64_t l, int which, mocl_tensor *x) {
    mocl_block_weights *b = &w->m->block[l];
    const mocl_pass *pass = w->pass;
    int64_t at = l * MOCL_LINEARS + which, first = 0, n = 0;
    for (int64_t i = 0; which < MOCL_LINEARS && i < w->n_runs; first = w->runs[i++].end) {
        const mocl_adapter *a = w->runs[i].adapter;
        if (!a || !a->linear[at].a || first == w->runs[i].end) continue;
        w->lora[n] = (mocl_lora){.a = a->linear[at].a, .b = a->linear[at].b, .scale = a->linear[at].scale,
                                 .dropout = pass->train ? a->dropout : 0, .key = pass->key, .first = first, .end = w->runs[i].end,
                                 .stream = pass->stream * (uint64_t)(w->m->config.layers * MOCL_LINEARS) + (uint64_t)at};
        if (n) w->lora[n - 1].next = &w->lora[n];
        n++;
    }
    mocl_tensor **known = pass->product && l == pass->start && which < MOCL_PRODUCTS ? &pass->product[which] : NULL;
    if (known && !*known) {
        mocl_tensor *y = NULL;
        MOCL_TRY(mocl_linear(&y, x, &b->linear[which], b->bias[which], NULL));
        mocl_status st = mocl_tensor_detach(known, y);
        mocl_tensor_unref(y);
        if (st) return st;
    }
    return mocl_linear_from(out, known ? *known : NULL, x, &b->linear[which], b->bias[which], n ? w->lora : NULL);
}

/* On the CPU, *from receives the first token of each sequence whose state is among the rows that the pass wants: in the last
** block the others need no attention of their own. Elsewhere, where looking at the rows would be to wait, NULL. */
static mocl_status wanted_from(mocl_tensor **from, walk *w, int64_t l) {
    mocl_model *m = w->m;
    const mocl_tensor *rows = w->pass->rows;
    *from = NULL;
    if (m->dev->kind != MOCL_DEVICE_CPU || !rows || l != m->config.layers - 1 || rows->dtype != MK_I32 || rows->ndim != 1 ||
        (rows->shape[0] > 1 && rows->stride[0] != 1))
        return MOCL_OK;
    const int32_t *row = mocl_int(rows), *off = mocl_int(w->offsets);
    int64_t n = w->offsets->shape[0] - 1;
    int32_t *first = mocl_calloc(m->ctx, (size_t)n + 1, sizeof *first);
    if (!first) return mocl_nomem(m->ctx, ((size_t)n + 1) * sizeof *first);
    for (int64_t s = 0; s < n; s++) first[s] = off[s + 1] - off[s];
    for (int64_t i = 0, s = 0; i < rows->shape[0]; i++) {
        if (row[i] < 0 || row[i] >= off[n]) continue; /* taking the rows refuses it, in words */
        if (row[i] < off[s]) s = 0;
        while (row[i] >= off[s + 1]) s++;
        if (row[i] - off[s] < first[s]) first[s] = row[i] - off[s];
    }
    mocl_status st = mocl_tensor_i32(from, m->dev, n, first);
    mocl_free(first);
    return st;
}

/* A = attention of Q to the keys and values of this sequence's tokens, or of the memory's */
static mocl_status attend(walk *w, int64_t l, bool to_memory) {
    mocl_model *m = w->m;
    const mocl_spec *c = &m->config;
    const mocl_pass *pass = w->pass;
    mocl_tensor *att = NULL, *from = NULL;
    mocl_status st;
    for (int i = 0; i < 3; i++) MOCL_TRY(shape_as(w, (mocl_register[]){MOCL_AT_Q, MOCL_AT_K, MOCL_AT_V}[i], 3));
    mocl_tensor *q = w->at[MOCL_AT_Q], *k = w->at[MOCL_AT_K], *v = w->at[MOCL_AT_V];
    if (pass->cache) MOCL_TRY(cache_put(m, l, pass, w->positions, k, v));
    if (w->offsets) MOCL_TRY(wanted_from(&from, w, l));
    if (to_memory)
        st = mocl_attention(&att, q, k, v, w->offsets, pass->memory_offsets, from, mocl_spec_scale(c, l), false, 0);
    else if (w->offsets)
        st = mocl_attention(&att, q, k, v, w->offsets, NULL, from, mocl_spec_scale(c, l), c->causal, mocl_spec_window(c, l));
    else
        st = cache_attend(&att, m, l, pass, w->positions, q);
    mocl_tensor_unref(from);
    put(w, MOCL_AT_A, att);
    if (st) return st;
    MOCL_TRY(shape_as(w, MOCL_AT_A, 2));
    if (!pass->rows || l != c->layers - 1 || to_memory != c->cross) return MOCL_OK;
    MOCL_TRY(take_runs(w));
    MOCL_TRY(take_rows(w, MOCL_AT_A));
    return take_rows(w, MOCL_AT_X);
}

static mocl_status run_step(walk *w, int64_t l, const mocl_step *p) {
    mocl_model *m = w->m;
    const mocl_block_weights *b = &m->block[l];
    mocl_tensor *y = NULL;
    if (p->kind == MOCL_STEP_HEAD_NORM || p->kind == MOCL_STEP_ROPE) MOCL_TRY(shape_as(w, p->from, 3));
    mocl_tensor *x = w->at[p->from], *z = w->at[p->with];
    switch (p->kind) {
        case MOCL_STEP_NORM: MOCL_TRY(apply_norm(&y, m, &b->norm[p->which], x, x->dtype)); break;
        case MOCL_STEP_LINEAR: MOCL_TRY(run_linear(&y, w, l, p->which, x)); break;
        case MOCL_STEP_HEAD_NORM: MOCL_TRY(mocl_rmsnorm(&y, x, b->head_norm[p->which], m->config.norm_eps)); break;
        case MOCL_STEP_ROPE: MOCL_TRY(mocl_rope(&y, x, w->positions, m->rope, m->config.rope_factor)); break;
        case MOCL_STEP_ATTENTION: return attend(w, l, p->which == 1);
        case MOCL_STEP_ADD: MOCL_TRY(mocl_binary(&y, MK_ADD, x, z)); break;
        case MOCL_STEP_ACT: MOCL_TRY(mocl_unary(&y, m->config.act, x, 0, 0)); break;
        case MOCL_STEP_MUL: MOCL_TRY(mocl_binary(&y, MK_MUL, x, z)); break;
        case MOCL_STEP_SWIGLU: MOCL_TRY(mocl_swiglu(&y, x, z)); break;
    }
    put(w, p->to, y);
    return MOCL_OK;
}

static mocl_status run_block(walk *w, int64_t l) {
    mocl_step steps[MOCL_STEPS_MAX];
    int n = mocl_spec_steps(&w->m->config, l, steps);
    for (int i = 0; i < n; i++) {
        MOCL_TRY(run_step(w, l, &steps[i]));
        for (int r = 0; r < MOCL_REGISTERS; r++)
            if (steps[i].dead >> r & 1) put(w, (mocl_register)r, NULL);
    }
    return MOCL_OK;
}

/* rows `idx` of a table of embeddings, which are added to X where it holds something */
static mocl_status embed(walk *w, mocl_tensor *table, mocl_tensor *idx) {
    mocl_tensor *y = NULL, *sum = NULL, *x = w->at[MOCL_AT_X];
    MOCL_TRY(w->pass->known ? mocl_index_select_known(&y, table, idx) : mocl_index_select(&y, table, idx));
    if (x) {
        mocl_status st = mocl_binary(&sum, MK_ADD, x, y);
        mocl_tensor_unref(y);
        if (st) return st;
    }
    put(w, MOCL_AT_X, x ? sum : y);
    return MOCL_OK;
}

/* the residual stream in front of the first block */
static mocl_status begin(walk *w, mocl_tensor *tokens) {
    mocl_model *m = w->m;
    const mocl_spec *c = &m->config;
    mocl_tensor *table = NULL, *types = NULL, *y = NULL;
    mocl_status st;
    MOCL_GOTO(embed(w, m->embed, tokens), done);
    if (c->embed_scale != 1) {
        MOCL_GOTO(mocl_unary(&y, MK_MUL_SCALAR, w->at[MOCL_AT_X], c->embed_scale, 0), done);
        put(w, MOCL_AT_X, y);
    }
    if (c->types) {
        if (w->pass->types) types = mocl_tensor_ref(w->pass->types);
        else MOCL_GOTO(mocl_tensor_full(&types, m->dev, MK_I32, 1, tokens->shape, 0), done);
        MOCL_GOTO(embed(w, m->types, types), done);
    }
    if (c->position == MOCL_POSITIONS_LEARNED) {
        if (!w->pass->known) MOCL_GOTO(mocl_need_indices("forward: positions of the context", w->positions, 0, c->positions, 0), done);
        MOCL_GOTO(mocl_narrow(&table, m->positions, 0, c->position_offset, c->positions), done);
        MOCL_GOTO(embed(w, table, w->positions), done);
    }
    if (c->embed_norm) {
        MOCL_GOTO(apply_norm(&y, m, &m->embed_norm, w->at[MOCL_AT_X], m->dtype), done);
        put(w, MOCL_AT_X, y);
    }
    st = MOCL_OK;
done:
    mocl_tensor_unref(table);
    mocl_tensor_unref(types);
    return st;
}

static mocl_status check_memory(mocl_model *m, mocl_tensor *offsets, const mocl_pass *pass) {
    const mocl_spec *c = &m->config;
    mocl_tensor *x = pass->memory;
    char text[128];
    if (!c->cross && x)
        return mocl_fail(m->ctx, MOCL_E_ARG, "forward: this model has no cross_attention, and encoder_hidden_states nobody to look at them");
    if (!c->cross) return MOCL_OK;
    if (!x || !pass->memory_offsets || !offsets || pass->cache)
        return mocl_fail(m->ctx, MOCL_E_ARG, "forward: this model attends to an encoder's states; give encoder_hidden_states and encoder_offsets");
    MOCL_TRY(mocl_need_real("forward", x));
    MOCL_TRY(mocl_need_same_device("forward", x, offsets));
    if (x->ndim != 2 || x->shape[1] != c->width)
        return mocl_fail(m->ctx, MOCL_E_SHAPE, "forward: encoder_hidden_states %s do not have the width %lld", mocl_shape_text(text, x->ndim, x->shape),
                         (long long)c->width);
    if (mocl_tensor_numel(pass->memory_offsets) != mocl_tensor_numel(offsets))
        return mocl_fail(m->ctx, MOCL_E_SHAPE, "forward: encoder_offsets are of %lld sequences, the batch has %lld",
                         (long long)mocl_tensor_numel(pass->memory_offsets) - 1, (long long)mocl_tensor_numel(offsets) - 1);
    return mocl_need_sequences("forward: encoder_offsets", pass->memory_offsets, x->shape[0]);
}

static mocl_status check_range(mocl_model *m, mocl_tensor *tokens, const mocl_pass *pass, int64_t first, int64_t end) {
    const mocl_spec *c = &m->config;
    mocl_tensor *x = pass->hidden;
    char text[128];
    if (x) {
        if (x->dtype != m->dtype)
            return mocl_fail(m->ctx, MOCL_E_ARG, "forward: hidden is %s, the model's stream %s", mocl_dtype_name(x->dtype),
                             mocl_dtype_name(m->dtype));
        MOCL_TRY(mocl_need_same_device("forward", x, tokens));
        if (x->ndim != 2 || x->shape[0] != tokens->shape[0] || x->shape[1] != c->width)
            return mocl_fail(m->ctx, MOCL_E_SHAPE, "forward: hidden %s does not fit %lld tokens of width %lld",
                             mocl_shape_text(text, x->ndim, x->shape), (long long)tokens->shape[0], (long long)c->width);
        if (first < 0 || first >= c->layers)
            return mocl_fail(m->ctx, MOCL_E_ARG, "forward: start = %lld is outside 0 .. %lld, the blocks behind which a stream "
                             "can go on", (long long)first, (long long)c->layers - 1);
    }
    if (end < first || end > c->layers)
        return mocl_fail(m->ctx, MOCL_E_ARG, "forward: stop = %lld is outside %lld .. %lld", (long long)end, (long long)first,
                         (long long)c->layers);
    if (pass->product && (!x || end == first))
        return mocl_fail(m->ctx, MOCL_E_ARG, "forward: products are those of the block at start; they go with hidden, start and a pass "
                         "through that block");
    if (pass->types && !c->types)
        return mocl_fail(m->ctx, MOCL_E_ARG, "forward: the batch has types of tokens, the model has no table of them");
    if (pass->stops && pass->rows)
        return mocl_fail(m->ctx, MOCL_E_ARG, "forward: rows are taken in the last block; leave them out where stop is given");
    return MOCL_OK;
}

mocl_status mocl_model_forward(mocl_tensor **hidden, mocl_model *m, mocl_tensor *tokens, mocl_tensor *positions,
                               mocl_tensor *offsets, const mocl_pass *pass) {
    const mocl_spec *c = &m->config;
    mocl_adapter_run all = {pass->adapter, tokens->shape[0]};
    walk w = {.m = m, .positions = positions, .offsets = offsets, .pass = pass, .runs = pass->runs ? pass->runs : &all,
              .n_runs = pass->runs ? pass->n_runs : 1};
    mocl_status st;
    int64_t first = pass->hidden ? pass->start : 0, end = pass->stops ? pass->stop : c->layers;
    *hidden = NULL;
    MOCL_TRY(check_range(m, tokens, pass, first, end));
    MOCL_TRY(check_memory(m, offsets, pass));
    w.lora = mocl_calloc(m->ctx, (size_t)w.n_runs, sizeof *w.lora);
    if (!w.lora) return mocl_nomem(m->ctx, (size_t)w.n_runs * sizeof *w.lora);
    if (pass->memory) w.at[MOCL_AT_MEMORY] = mocl_tensor_ref(pass->memory);
    if (pass->hidden) w.at[MOCL_AT_X] = mocl_tensor_ref(pass->hidden);
    else MOCL_GOTO(begin(&w, tokens), done);
    for (int64_t l = first; l < end; l++) {
        MOCL_GOTO(run_block(&w, l), done);
        if (pass->kept && l + 1 == pass->keep) *pass->kept = mocl_tensor_ref(w.at[MOCL_AT_X]);
    }
    if (!pass->stops && !c->final_norm && m->dtype != MK_F32) {
        st = mocl_to_dtype(hidden, w.at[MOCL_AT_X], MK_F32);
    } else if (pass->stops || !c->final_norm) {
        *hidden = w.at[MOCL_AT_X];
        w.at[MOCL_AT_X] = NULL;
        st = MOCL_OK;
    } else {
        st = apply_norm(hidden, m, &m->norm, w.at[MOCL_AT_X], MK_F32);
    }
done:
    for (int r = 0; r < MOCL_REGISTERS; r++) mocl_tensor_unref(w.at[r]);
    mocl_free(w.lora);
    mocl_free(w.made);
    return st;
}
