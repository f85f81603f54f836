/* spec.c - the description of a model: what it may say, and the steps of a block that follow from it */
#include "lm/spec.h"

#include <math.h>
#include <string.h>

static mocl_status check_sizes(mocl_ctx *ctx, const mocl_spec *s) {
    const struct {
        const char *name;
        int64_t v, max;
    } sizes[] = {{"vocab_size", s->vocab, 1 << 24},      {"hidden_size", s->width, 1 << 20},
                 {"num_hidden_layers", s->layers, 4096}, {"num_attention_heads", s->heads, 4096},
                 {"num_key_value_heads", s->kv_heads, 4096}, {"head_dim", s->head_size, 4096},
                 {"intermediate_size", s->ffn, 1 << 22}, {"max_position_embeddings", s->positions, 1 << 24}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].v < 1 || sizes[i].v > sizes[i].max)
            return mocl_fail(ctx, MOCL_E_ARG, "model config: %s = %lld is outside 1 .. %lld", sizes[i].name,
                             (long long)sizes[i].v, (long long)sizes[i].max);
    if (s->heads % s->kv_heads)
        return mocl_fail(ctx, MOCL_E_ARG, "model config: num_attention_heads %lld is no multiple of num_key_value_heads %lld",
                         (long long)s->heads, (long long)s->kv_heads);
    return MOCL_OK;
}

static mocl_status check_positions(mocl_ctx *ctx, const mocl_spec *s) {
    bool rotary = s->position == MOCL_POSITIONS_ROPE;
    if (rotary && s->head_size % 2)
        return mocl_fail(ctx, MOCL_E_ARG, "model config: head_dim %lld must be even for the rotary embedding", (long long)s->head_size);
    if (!(s->norm_eps > 0) || !(s->rope_theta > 0) || isinf(s->norm_eps) || isinf(s->rope_theta))
        return mocl_fail(ctx, MOCL_E_ARG, "model config: rms_norm_eps and rope_theta must be positive and finite");
    if (!(s->rope_factor > 0) || isinf(s->rope_factor))
        return mocl_fail(ctx, MOCL_E_ARG, "model config: rope_factor = %g must be positive and finite", mocl_shown(s->rope_factor));
    if (!rotary && (s->rope_freq || s->rope_layers || s->rope_factor != 1))
        return mocl_fail(ctx, MOCL_E_ARG, "model config: rope_frequencies, rope_factor and rope_layers contradict positions that "
                                          "are not \"rope\"");
    for (int64_t i = 0; rotary && s->rope_freq && i < s->head_size / 2; i++)
        if (!(s->rope_freq[i] >= 0) || isinf(s->rope_freq[i]))
            return mocl_fail(ctx, MOCL_E_ARG, "model config: entry %lld of rope_frequencies, %g, must be 0 or more and finite",
                             (long long)i + 1, mocl_shown(s->rope_freq[i]));
    if (s->position_offset < 0 || s->position_offset > 1 << 20)
        return mocl_fail(ctx, MOCL_E_ARG, "model config: position_offset = %lld is outside 0 .. %d", (long long)s->position_offset,
                         1 << 20);
    if (s->position_offset && s->position != MOCL_POSITIONS_LEARNED)
        return mocl_fail(ctx, MOCL_E_ARG, "model config: position_offset contradicts positions that are not \"learned\"");
    return MOCL_OK;
}

mocl_status mocl_spec_check(mocl_ctx *ctx, const mocl_spec *s) {
    unsigned there = 0;
    MOCL_TRY(check_sizes(ctx, s));
    MOCL_TRY(check_positions(ctx, s));
    for (int64_t l = 0; s->scales && l < s->layers; l++)
        if (!(s->scales[l] > 0) || isinf(s->scales[l]))
            return mocl_fail(ctx, MOCL_E_ARG, "model config: entry %lld of attention_scales, %g, must be positive and finite",
                             (long long)l + 1, mocl_shown(s->scales[l]));
    for (int64_t l = 0; s->windows && l < s->layers; l++)
        if (s->windows[l] < 0)
            return mocl_fail(ctx, MOCL_E_ARG, "model config: entry %lld of attention_windows, %lld, must be 0 (none) or more",
                             (long long)l + 1, (long long)s->windows[l]);
    if (s->windows && !s->causal)
        return mocl_fail(ctx, MOCL_E_ARG, "model config: attention_windows contradicts attention that is not causal");
    for (int i = 0; i < MOCL_ALL_LINEARS; i++) there |= mocl_spec_has_linear(s, i) ? 1u << i : 0;
    if (s->biases & ~there & ~(1u << MOCL_GATE))
        return mocl_fail(ctx, MOCL_E_ARG, "model config: a bias for encoder_attn contradicts blocks without cross_attention");
    if (s->biases & ~there)
        return mocl_fail(ctx, MOCL_E_ARG, "model config: a bias for gate_proj contradicts a plain MLP, which has no gate");
    if (s->types < 0 || s->types > 1 << 20)
        return mocl_fail(ctx, MOCL_E_ARG, "model config: type_vocab_size = %lld is outside 0 .. %d", (long long)s->types, 1 << 20);
    if (s->place == MOCL_NORM_POST && s->final_norm)
        return mocl_fail(ctx, MOCL_E_ARG, "model config: final_norm contradicts norms of place \"post\", of which the last block's "
                                          "is the final one");
    if (!s->causal && s->head != MOCL_HEAD_NONE)
        return mocl_fail(ctx, MOCL_E_ARG, "model config: a language-model head contradicts attention that is not causal; say "
                                          "head = \"none\"");
    if (s->cross && s->head != MOCL_HEAD_NONE)
        return mocl_fail(ctx, MOCL_E_ARG, "model config: a language-model head contradicts cross_attention, with which nothing is "
                                          "generated; say head = \"none\"");
    if (!(s->embed_scale > 0) || isinf(s->embed_scale))
        return mocl_fail(ctx, MOCL_E_ARG, "model config: embedding_multiplier = %g must be positive and finite",
                         mocl_shown(s->embed_scale));
    return MOCL_OK;
}

mocl_status mocl_spec_check_bf16(mocl_ctx *ctx, const mocl_spec *s) {
    if (s->norm == MOCL_NORM_RMS && s->mlp == MOCL_MLP_GATED && s->act == MK_SILU && !s->cross && s->embed_scale == 1) return MOCL_OK;
    return mocl_fail(ctx, MOCL_E_ARG, "model: layer norms, and MLPs that are not gated by silu, are computed in f32 alone, as are "
                                      "cross_attention and embedding_multiplier; use dtype=f32");
}

/* room of a list of n entries in a block that begins at `at` */
static size_t round_up(size_t n) { return (n + 15) / 16 * 16; }

mocl_status mocl_spec_copy(mocl_spec *out, mocl_ctx *ctx, const mocl_spec *s) {
    size_t half = (size_t)s->head_size / 2, layers = (size_t)s->layers;
    size_t freq = s->rope_freq ? round_up(half * sizeof(double)) : 0, scales = s->scales ? round_up(layers * sizeof(double)) : 0;
    size_t windows = s->windows ? round_up(layers * sizeof(int64_t)) : 0, rotate = s->rope_layers ? layers * sizeof(bool) : 0;
    size_t all = freq + scales + windows + rotate;
    char *room = NULL;
    *out = *s;
    out->rope_freq = out->scales = NULL;
    out->rope_layers = NULL;
    out->windows = NULL;
    out->lists = NULL;
    if (!all) return MOCL_OK;
    room = mocl_alloc(ctx, all);
    if (!room) return mocl_nomem(ctx, all);
    out->lists = room;
    if (freq) out->rope_freq = memcpy(room, s->rope_freq, half * sizeof(double));
    if (scales) out->scales = memcpy(room + freq, s->scales, layers * sizeof(double));
    if (windows) out->windows = memcpy(room + freq + scales, s->windows, layers * sizeof(int64_t));
    if (rotate) out->rope_layers = memcpy(room + freq + scales + windows, s->rope_layers, rotate);
    return MOCL_OK;
}

void mocl_spec_free(mocl_spec *s) {
    mocl_free(s->lists);
    s->lists = NULL;
}

bool mocl_spec_has_linear(const mocl_spec *s, int which) {
    return which < MOCL_LINEARS ? which != MOCL_GATE || s->mlp == MOCL_MLP_GATED : s->cross;
}

void mocl_spec_linear_shape(const mocl_spec *s, int which, int64_t shape[2]) {
    int64_t q = s->heads * s->head_size, kv = s->kv_heads * s->head_size;
    const int64_t all[MOCL_LINEARS][2] = {{q, s->width},      {kv, s->width},     {kv, s->width},    {s->width, q},
                                          {s->ffn, s->width}, {s->ffn, s->width}, {s->width, s->ffn}};
    int like = which < MOCL_LINEARS ? which : which - MOCL_CROSS_Q + MOCL_Q;
    shape[0] = all[like][0];
    shape[1] = all[like][1];
}

bool mocl_spec_rotates(const mocl_spec *s, int64_t layer) {
    return s->position == MOCL_POSITIONS_ROPE && (!s->rope_layers || s->rope_layers[layer]);
}

int64_t mocl_spec_window(const mocl_spec *s, int64_t layer) { return s->windows ? s->windows[layer] : 0; }

double mocl_spec_scale(const mocl_spec *s, int64_t layer) { return s->scales ? s->scales[layer] : 1 / sqrt((double)s->head_size); }

/* ---- steps ---- */

typedef struct list {
    mocl_step *step;
    int n;
} list;

static void put(list *t, mocl_step_kind kind, int which, mocl_register from, mocl_register with, mocl_register to) {
    t->step[t->n++] = (mocl_step){.kind = kind, .which = which, .from = from, .with = with, .to = to};
}

/* One part of a block between two values of the stream: its input, which is normed where norms stand before. */
static mocl_register begin_part(const mocl_spec *s, list *t, int which) {
    if (s->place != MOCL_NORM_PRE) return MOCL_AT_X;
    put(t, MOCL_STEP_NORM, which, MOCL_AT_X, MOCL_AT_X, MOCL_AT_H);
    return MOCL_AT_H;
}

static void end_part(const mocl_spec *s, list *t, int which) {
    put(t, MOCL_STEP_ADD, 0, MOCL_AT_X, MOCL_AT_Y, MOCL_AT_X);
    if (s->place == MOCL_NORM_POST) put(t, MOCL_STEP_NORM, which, MOCL_AT_X, MOCL_AT_X, MOCL_AT_X);
}

static unsigned reads(const mocl_step *p) {
    if (p->kind == MOCL_STEP_ATTENTION) return 1u << MOCL_AT_Q | 1u << MOCL_AT_K | 1u << MOCL_AT_V;
    return 1u << p->from | 1u << p->with;
}

/* Marks what each step is the last to read. */
static void mark_dead(list *t) {
    unsigned wanted = 1u << MOCL_AT_X | 1u << MOCL_AT_MEMORY;
    for (int i = t->n - 1; i >= 0; i--) {
        mocl_step *p = &t->step[i];
        unsigned before = (wanted & ~(1u << p->to)) | reads(p);
        p->dead = before & ~wanted;
        wanted = before;
    }
}

/* the part of a block that attends to the memory; its queries and keys have no norm and no position of their own */
static void attend_to_memory(const mocl_spec *s, list *t) {
    mocl_register in = begin_part(s, t, 2);
    put(t, MOCL_STEP_LINEAR, MOCL_CROSS_Q, in, in, MOCL_AT_Q);
    put(t, MOCL_STEP_LINEAR, MOCL_CROSS_K, MOCL_AT_MEMORY, MOCL_AT_MEMORY, MOCL_AT_K);
    put(t, MOCL_STEP_LINEAR, MOCL_CROSS_V, MOCL_AT_MEMORY, MOCL_AT_MEMORY, MOCL_AT_V);
    put(t, MOCL_STEP_ATTENTION, 1, MOCL_AT_Q, MOCL_AT_Q, MOCL_AT_A);
    put(t, MOCL_STEP_LINEAR, MOCL_CROSS_O, MOCL_AT_A, MOCL_AT_A, MOCL_AT_Y);
    end_part(s, t, 2);
}

int mocl_spec_steps(const mocl_spec *s, int64_t layer, mocl_step steps[MOCL_STEPS_MAX]) {
    static const mocl_register heads[2] = {MOCL_AT_Q, MOCL_AT_K};
    list t = {steps, 0};
    mocl_register in = begin_part(s, &t, 0);
    put(&t, MOCL_STEP_LINEAR, MOCL_Q, in, in, MOCL_AT_Q);
    put(&t, MOCL_STEP_LINEAR, MOCL_K, in, in, MOCL_AT_K);
    put(&t, MOCL_STEP_LINEAR, MOCL_V, in, in, MOCL_AT_V);
    for (int i = 0; i < 2 && s->qk_norm; i++) put(&t, MOCL_STEP_HEAD_NORM, i, heads[i], heads[i], heads[i]);
    for (int i = 0; i < 2 && mocl_spec_rotates(s, layer); i++) put(&t, MOCL_STEP_ROPE, i, heads[i], heads[i], heads[i]);
    put(&t, MOCL_STEP_ATTENTION, 0, MOCL_AT_Q, MOCL_AT_Q, MOCL_AT_A);
    put(&t, MOCL_STEP_LINEAR, MOCL_O, MOCL_AT_A, MOCL_AT_A, MOCL_AT_Y);
    end_part(s, &t, 0);
    if (s->cross) attend_to_memory(s, &t);
    in = begin_part(s, &t, 1);
    if (s->mlp == MOCL_MLP_GATED) put(&t, MOCL_STEP_LINEAR, MOCL_GATE, in, in, MOCL_AT_GATE);
    put(&t, MOCL_STEP_LINEAR, MOCL_UP, in, in, MOCL_AT_UP);
    if (s->mlp == MOCL_MLP_PLAIN) {
        put(&t, MOCL_STEP_ACT, 0, MOCL_AT_UP, MOCL_AT_UP, MOCL_AT_GATE);
    } else if (s->act == MK_SILU) {
        put(&t, MOCL_STEP_SWIGLU, 0, MOCL_AT_GATE, MOCL_AT_UP, MOCL_AT_GATE);
    } else {
        put(&t, MOCL_STEP_ACT, 0, MOCL_AT_GATE, MOCL_AT_GATE, MOCL_AT_GATE);
        put(&t, MOCL_STEP_MUL, 0, MOCL_AT_GATE, MOCL_AT_UP, MOCL_AT_GATE);
    }
    put(&t, MOCL_STEP_LINEAR, MOCL_DOWN, MOCL_AT_GATE, MOCL_AT_GATE, MOCL_AT_Y);
    end_part(s, &t, 1);
    mark_dead(&t);
    return t.n;
}
