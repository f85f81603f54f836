/* model.c - the decoder: weights, adapters and the forward pass over ragged batches */
#include "lm/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const linear_names[MOCL_LINEARS] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
};

mocl_status mocl_model_config_check(mocl_ctx *ctx, const mocl_model_config *c) {
    const struct {
        const char *name;
        int64_t v, max;
    } sizes[] = {{"vocab_size", c->vocab, 1 << 24},      {"hidden_size", c->width, 1 << 20},
                 {"num_hidden_layers", c->layers, 4096}, {"num_attention_heads", c->heads, 4096},
                 {"num_key_value_heads", c->kv_heads, 4096}, {"head_dim", c->head_size, 4096},
                 {"intermediate_size", c->ffn, 1 << 22}, {"max_position_embeddings", c->positions, 1 << 24}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].v < 1 || sizes[i].v > sizes[i].max)
            return mocl_fail(ctx, MOCL_E_ARG, "model config: %s = %lld is outside 1 .. %lld", sizes[i].name,
                             (long long)sizes[i].v, (long long)sizes[i].max);
    if (c->heads % c->kv_heads)
        return mocl_fail(ctx, MOCL_E_ARG, "model config: num_attention_heads %lld is no multiple of num_key_value_heads %lld",
                         (long long)c->heads, (long long)c->kv_heads);
    if (c->head_size % 2) return mocl_fail(ctx, MOCL_E_ARG, "model config: head_dim %lld must be even for the rotary embedding",
                                           (long long)c->head_size);
    if (!(c->norm_eps > 0) || !(c->rope_theta > 0) || isinf(c->norm_eps) || isinf(c->rope_theta))
        return mocl_fail(ctx, MOCL_E_ARG, "model config: rms_norm_eps and rope_theta must be positive and finite");
    return MOCL_OK;
}

const char *mocl_model_linear_name(int which) { return linear_names[which]; }

/* [out, in] of linear i */
static void linear_shape(const mocl_model_config *c, int i, int64_t shape[2]) {
    int64_t q = c->heads * c->head_size, kv = c->kv_heads * c->head_size;
    const int64_t all[MOCL_LINEARS][2] = {{q, c->width},      {kv, c->width},     {kv, c->width},    {c->width, q},
                                          {c->ffn, c->width}, {c->ffn, c->width}, {c->width, c->ffn}};
    shape[0] = all[i][0];
    shape[1] = all[i][1];
}

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

mocl_status mocl_model_new(mocl_model **out, mocl_device *dev, const mocl_model_config *config, mk_dtype dtype,
                           uint64_t key) {
    mocl_ctx *ctx = dev->ctx;
    mocl_status st;
    uint64_t stream = 0;
    *out = NULL;
    MOCL_TRY(mocl_model_config_check(ctx, config));
    if (dtype != MK_F32 && dtype != MK_BF16)
        return mocl_fail(ctx, MOCL_E_ARG, "model: dtype '%s' is neither f32 nor bf16", mocl_dtype_name(dtype));
    if (dtype == MK_BF16 && !dev->k->bf16)
        return mocl_fail(ctx, MOCL_E_DEVICE, "model: %s does not compute in bf16; use dtype=f32 there (files in bf16 load too), "
                                             "or device=cuda", dev->name);
    mocl_model *m = mocl_calloc(ctx, 1, sizeof *m);
    if (!m) return mocl_nomem(ctx, sizeof *m);
    m->ctx = ctx;
    m->dev = dev;
    m->config = *config;
    m->dtype = dtype;
    const mocl_model_config *c = &m->config;
    m->block = mocl_calloc(ctx, (size_t)c->layers, sizeof *m->block);
    if (!m->block) {
        mocl_free(m);
        return mocl_nomem(ctx, (size_t)config->layers * sizeof *m->block);
    }
    double residual = 1 / sqrt(2.0 * (double)c->layers);
    MOCL_GOTO(normal(&m->embed, dev, c->vocab, c->width, dtype, .05, key, stream++), fail);
    if (c->tied) m->head = mocl_tensor_ref(m->embed);
    else MOCL_GOTO(normal(&m->head, dev, c->vocab, c->width, dtype, 1 / sqrt(3.0 * (double)c->width), key, stream++), fail);
    MOCL_GOTO(mocl_tensor_full(&m->norm, dev, MK_F32, 1, &c->width, 1), fail);
    for (int64_t l = 0; l < c->layers; l++) {
        mocl_block_weights *b = &m->block[l];
        MOCL_GOTO(mocl_tensor_full(&b->attn_norm, dev, MK_F32, 1, &c->width, 1), fail);
        MOCL_GOTO(mocl_tensor_full(&b->mlp_norm, dev, MK_F32, 1, &c->width, 1), fail);
        for (int i = 0; i < MOCL_LINEARS; i++) {
            int64_t shape[2];
            linear_shape(c, i, shape);
            double std = 1 / sqrt(3.0 * (double)shape[1]) * (i == MOCL_O || i == MOCL_DOWN ? residual : 1);
            mocl_tensor *drawn = NULL;
            MOCL_GOTO(normal(&drawn, dev, shape[0], shape[1], dtype, std, key, stream++), fail);
            b->linear[i] = mocl_weight_of(drawn);
        }
    }
    *out = m;
    return MOCL_OK;
fail:
    mocl_model_free(m);
    return st;
}

void mocl_model_drop_lora(mocl_model *m) {
    for (int64_t l = 0; l < m->config.layers; l++) {
        for (int i = 0; i < MOCL_LINEARS; i++) {
            mocl_adapter *ad = &m->block[l].adapter[i];
            mocl_tensor_unref(ad->a);
            mocl_tensor_unref(ad->b);
            ad->a = ad->b = NULL;
        }
    }
    m->lora_rank = 0;
}

void mocl_model_free(mocl_model *m) {
    if (!m) return;
    mocl_model_drop_lora(m);
    for (int64_t l = 0; l < m->config.layers; l++) {
        mocl_block_weights *b = &m->block[l];
        mocl_tensor_unref(b->attn_norm);
        mocl_tensor_unref(b->mlp_norm);
        for (int i = 0; i < MOCL_LINEARS; i++) mocl_weight_free(&b->linear[i]);
    }
    mocl_tensor_unref(m->embed);
    mocl_tensor_unref(m->norm);
    mocl_tensor_unref(m->head);
    mocl_free(m->block);
    mocl_free(m);
}

bool mocl_model_adapted(const mocl_model *m, int64_t l) {
    for (int i = 0; i < MOCL_LINEARS; i++)
        if (m->block[l].adapter[i].a) return true;
    return false;
}

static mocl_status check_plan(mocl_model *m, const mocl_adapter_plan *plan, double dropout, int64_t *largest) {
    *largest = 0;
    for (int64_t i = 0; i < m->config.layers * MOCL_LINEARS; i++) {
        int64_t rank = plan[i].rank;
        if (rank < 0 || rank > 4096) return mocl_fail(m->ctx, MOCL_E_ARG, "lora: r = %lld is outside 1 .. 4096", (long long)rank);
        if (rank && !isfinite(plan[i].alpha))
            return mocl_fail(m->ctx, MOCL_E_ARG, "lora: alpha = %g is no finite number", mocl_shown(plan[i].alpha));
        if (rank > *largest) *largest = rank;
    }
    if (!(dropout >= 0 && dropout < 1)) return mocl_fail(m->ctx, MOCL_E_ARG, "lora: dropout %g is outside [0, 1)", mocl_shown(dropout));
    if (!*largest) return mocl_fail(m->ctx, MOCL_E_ARG, "lora: no layer is named in target_modules");
    return MOCL_OK;
}

mocl_status mocl_model_add_lora(mocl_model *m, const mocl_adapter_plan *plan, double dropout, bool rslora, uint64_t key) {
    const mocl_model_config *c = &m->config;
    uint64_t stream = 0;
    int64_t largest;
    mocl_status st;
    MOCL_TRY(check_plan(m, plan, dropout, &largest));
    mocl_model_drop_lora(m);
    for (int64_t l = 0; l < c->layers; l++) {
        for (int i = 0; i < MOCL_LINEARS; i++) {
            mocl_adapter *ad = &m->block[l].adapter[i];
            int64_t shape[2], rank = plan[l * MOCL_LINEARS + i].rank;
            if (!rank) continue;
            linear_shape(c, i, shape);
            int64_t b_shape[2] = {shape[0], rank};
            MOCL_GOTO(normal(&ad->a, m->dev, rank, shape[1], MK_F32, 1 / sqrt(3.0 * (double)shape[1]), key, stream++), fail);
            MOCL_GOTO(mocl_tensor_full(&ad->b, m->dev, MK_F32, 2, b_shape, 0), fail);
            ad->a->requires_grad = ad->b->requires_grad = true;
            ad->alpha = plan[l * MOCL_LINEARS + i].alpha;
            ad->scale = ad->alpha / (rslora ? sqrt((double)rank) : (double)rank);
        }
    }
    m->lora_rank = largest;
    m->lora_rslora = rslora;
    m->lora_dropout = dropout;
    return MOCL_OK;
fail:
    mocl_model_drop_lora(m);
    return st;
}

/* w += scale B A */
static mocl_status merge(mocl_model *m, mocl_tensor *w, mocl_adapter *ad) {
    int64_t out = w->shape[0], in = w->shape[1], r = ad->a->shape[0];
    mocl_tensor *a = NULL, *b = NULL;
    mocl_status st;
    MOCL_GOTO(mocl_to_dtype(&a, ad->a, w->dtype), done);
    MOCL_GOTO(mocl_to_dtype(&b, ad->b, w->dtype), done);
    mk_weight right = mocl_weight_plain(w->dtype, r, in, mocl_tensor_data(a));
    st = MOCL_KERNEL(m->dev, gemm_weight, 0, out, ad->scale, w->dtype, mocl_tensor_data(b), r, 0, &right, 1.0, w->dtype,
                     mocl_tensor_data(w), in);
done:
    mocl_tensor_unref(a);
    mocl_tensor_unref(b);
    return st;
}

mocl_status mocl_model_merge_lora(mocl_model *m) {
    bool was = m->ctx->grad_enabled;
    mocl_status st = MOCL_OK;
    m->ctx->grad_enabled = false;
    for (int64_t l = 0; l < m->config.layers && !st; l++) {
        for (int i = 0; i < MOCL_LINEARS && !st; i++) {
            mocl_adapter *ad = &m->block[l].adapter[i];
            mocl_tensor *w = m->block[l].linear[i].part[0];
            if (!ad->a) continue;
            st = merge(m, w, ad);
            if (st) break;
            w->storage->version++;
            mocl_tensor_unref(ad->a);
            mocl_tensor_unref(ad->b);
            ad->a = ad->b = NULL;
        }
    }
    m->ctx->grad_enabled = was;
    if (!st) mocl_model_drop_lora(m);
    return st;
}

mocl_status mocl_model_visit(mocl_model *m, bool lora, mocl_model_visitor fn, void *arg) {
    char name[128];
    if (!lora) MOCL_TRY(fn(arg, "model.embed_tokens.weight", m->embed));
    for (int64_t l = 0; l < m->config.layers; l++) {
        mocl_block_weights *b = &m->block[l];
        if (!lora) {
            snprintf(name, sizeof name, "model.layers.%lld.input_layernorm.weight", (long long)l);
            MOCL_TRY(fn(arg, name, b->attn_norm));
        }
        for (int i = 0; i < MOCL_LINEARS; i++) {
            if (!lora) {
                snprintf(name, sizeof name, "model.layers.%lld.%s.weight", (long long)l, linear_names[i]);
                MOCL_TRY(fn(arg, name, b->linear[i].part[0]));
            } else if (b->adapter[i].a) {
                snprintf(name, sizeof name, "model.layers.%lld.%s.lora_A.weight", (long long)l, linear_names[i]);
                MOCL_TRY(fn(arg, name, b->adapter[i].a));
                snprintf(name, sizeof name, "model.layers.%lld.%s.lora_B.weight", (long long)l, linear_names[i]);
                MOCL_TRY(fn(arg, name, b->adapter[i].b));
            }
        }
        if (!lora) {
            snprintf(name, sizeof name, "model.layers.%lld.post_attention_layernorm.weight", (long long)l);
            MOCL_TRY(fn(arg, name, b->mlp_norm));
        }
    }
    if (!lora) MOCL_TRY(fn(arg, "model.norm.weight", m->norm));
    if (!lora && !m->config.tied) MOCL_TRY(fn(arg, "lm_head.weight", m->head));
    return MOCL_OK;
}

/* ---- forward ---- */

mocl_status mocl_model_linear(mocl_tensor **out, mocl_model *m, int64_t l, int which, mocl_tensor *x, const mocl_pass *pass) {
    mocl_block_weights *b = &m->block[l];
    mocl_adapter *ad = &b->adapter[which];
    mocl_lora lora = {.a = ad->a, .b = ad->b, .scale = ad->scale, .dropout = pass->train ? m->lora_dropout : 0, .key = pass->key,
                      .stream = pass->stream * (uint64_t)(m->config.layers * MOCL_LINEARS) + (uint64_t)(l * MOCL_LINEARS + which),
                      .end = -1};
    return mocl_linear(out, x, &b->linear[which], NULL, pass->adapter && ad->a ? &lora : NULL);
}

mocl_status mocl_model_qkv(mocl_tensor *qkv[3], mocl_model *m, int64_t l, mocl_tensor *x, mocl_tensor *positions,
                           const mocl_pass *pass) {
    const mocl_model_config *c = &m->config;
    mocl_tensor *h = NULL, *flat = NULL, *split = NULL;
    mocl_status st;
    qkv[0] = qkv[1] = qkv[2] = NULL;
    MOCL_GOTO(mocl_rmsnorm(&h, x, m->block[l].attn_norm, c->norm_eps), done);
    for (int i = 0; i < 3; i++) {
        int64_t shape[3] = {x->shape[0], i == 0 ? c->heads : c->kv_heads, c->head_size};
        MOCL_GOTO(mocl_model_linear(&flat, m, l, MOCL_Q + i, h, pass), done);
        MOCL_GOTO(mocl_reshape(&split, flat, 3, shape), done);
        mocl_tensor_unref(flat);
        flat = NULL;
        if (i < 2) {
            MOCL_GOTO(mocl_rope(&qkv[i], split, positions, c->rope_theta), done);
            mocl_tensor_unref(split);
        } else {
            qkv[i] = split;
        }
        split = NULL;
    }
    st = MOCL_OK;
done:
    mocl_tensor_unref(h);
    mocl_tensor_unref(flat);
    mocl_tensor_unref(split);
    if (st) {
        for (int i = 0; i < 3; i++) {
            mocl_tensor_unref(qkv[i]);
            qkv[i] = NULL;
        }
    }
    return st;
}

/* *x := *x + y, taking over both */
static mocl_status add_to(mocl_tensor **x, mocl_tensor *y) {
    mocl_tensor *sum = NULL;
    mocl_status st = mocl_binary(&sum, MK_ADD, *x, y);
    mocl_tensor_unref(y);
    if (st) return st;
    mocl_tensor_unref(*x);
    *x = sum;
    return MOCL_OK;
}

/* *x := rows of *x */
static mocl_status take_rows(mocl_tensor **x, mocl_tensor *rows) {
    mocl_tensor *some = NULL;
    MOCL_TRY(mocl_index_select(&some, *x, rows));
    mocl_tensor_unref(*x);
    *x = some;
    return MOCL_OK;
}

mocl_status mocl_model_block_end(mocl_tensor **x, mocl_model *m, int64_t l, mocl_tensor *attention, const mocl_pass *pass) {
    const mocl_model_config *c = &m->config;
    mocl_tensor *flat = NULL, *y = NULL, *h = NULL, *gate = NULL, *up = NULL, *act = NULL;
    int64_t shape[2] = {attention->shape[0], c->heads * c->head_size};
    mocl_status st;
    MOCL_GOTO(mocl_reshape(&flat, attention, 2, shape), done);
    if (pass->rows && l == c->layers - 1) {
        MOCL_GOTO(take_rows(&flat, pass->rows), done);
        MOCL_GOTO(take_rows(x, pass->rows), done);
    }
    MOCL_GOTO(mocl_model_linear(&y, m, l, MOCL_O, flat, pass), done);
    MOCL_GOTO(add_to(x, y), done);
    MOCL_GOTO(mocl_rmsnorm(&h, *x, m->block[l].mlp_norm, c->norm_eps), done);
    MOCL_GOTO(mocl_model_linear(&gate, m, l, MOCL_GATE, h, pass), done);
    MOCL_GOTO(mocl_model_linear(&up, m, l, MOCL_UP, h, pass), done);
    MOCL_GOTO(mocl_swiglu(&act, gate, up), done);
    MOCL_GOTO(mocl_model_linear(&y, m, l, MOCL_DOWN, act, pass), done);
    MOCL_GOTO(add_to(x, y), done);
done:
    mocl_tensor_unref(flat);
    mocl_tensor_unref(h);
    mocl_tensor_unref(gate);
    mocl_tensor_unref(up);
    mocl_tensor_unref(act);
    return st;
}

static mocl_status check_range(mocl_model *m, mocl_tensor *tokens, const mocl_pass *pass, int64_t first, int64_t end) {
    const mocl_model_config *c = &m->config;
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
    if (pass->stops && pass->rows)
        return mocl_fail(m->ctx, MOCL_E_ARG, "forward: rows are taken in the last block; leave them out where stop is given");
    return MOCL_OK;
}

mocl_status mocl_model_forward(mocl_tensor **hidden, mocl_model *m, mocl_tensor *tokens, mocl_tensor *positions,
                               mocl_tensor *offsets, const mocl_pass *pass) {
    const mocl_model_config *c = &m->config;
    mocl_tensor *x = NULL, *qkv[3] = {NULL}, *att = NULL;
    double scale = 1 / sqrt((double)c->head_size);
    mocl_status st;
    int64_t first = pass->hidden ? pass->start : 0, end = pass->stops ? pass->stop : c->layers;
    *hidden = NULL;
    MOCL_TRY(check_range(m, tokens, pass, first, end));
    if (pass->hidden) x = mocl_tensor_ref(pass->hidden);
    else MOCL_TRY(mocl_index_select(&x, m->embed, tokens));
    for (int64_t l = first; l < end; l++) {
        MOCL_GOTO(mocl_model_qkv(qkv, m, l, x, positions, pass), done);
        MOCL_GOTO(mocl_attention(&att, qkv[0], qkv[1], qkv[2], offsets, scale, true), done);
        MOCL_GOTO(mocl_model_block_end(&x, m, l, att, pass), done);
        for (int i = 0; i < 3; i++) {
            mocl_tensor_unref(qkv[i]);
            qkv[i] = NULL;
        }
        mocl_tensor_unref(att);
        att = NULL;
    }
    if (pass->stops) {
        *hidden = x;
        x = NULL;
        st = MOCL_OK;
    } else {
        st = mocl_rmsnorm_to(hidden, x, m->norm, c->norm_eps, MK_F32);
    }
done:
    for (int i = 0; i < 3; i++) mocl_tensor_unref(qkv[i]);
    mocl_tensor_unref(att);
    mocl_tensor_unref(x);
    return st;
}
