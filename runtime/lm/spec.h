/* spec.h - what a language model computes, as a description: sizes, norms, positions, attention, MLP, biases, head. And
** the steps of one block that follow from it, which training, cached generation (model.c) and the fast step on the host's
** processors (decode.c) all walk.
**
** No family of models has a name here. Llama is rms norms before each part, rotary positions, a gated MLP and no biases;
** GPT-2 layer norms, learned positions, a plain MLP and biases; BERT has its norms behind each sum, and looks both ways. The
** decoder of BART looks at the states of another model besides, its memory.
*/
#ifndef MOCL_SPEC_H
#define MOCL_SPEC_H

#include "base.h"
#include "kernels.h"

/* the linear layers of a block, in this order everywhere: MOCL_LINEARS of them, which adapters may be on, and behind them those
** of the attention to a memory */
enum {
    MOCL_Q, MOCL_K, MOCL_V, MOCL_O, MOCL_GATE, MOCL_UP, MOCL_DOWN, MOCL_LINEARS,
    MOCL_CROSS_Q = MOCL_LINEARS, MOCL_CROSS_K, MOCL_CROSS_V, MOCL_CROSS_O, MOCL_ALL_LINEARS
};

typedef enum mocl_norm_kind { MOCL_NORM_RMS, MOCL_NORM_LAYER } mocl_norm_kind;   /* a layer norm has a bias too */
typedef enum mocl_norm_place { MOCL_NORM_PRE, MOCL_NORM_POST } mocl_norm_place;  /* before each part, or behind each sum */
typedef enum mocl_positions { MOCL_POSITIONS_ROPE, MOCL_POSITIONS_LEARNED, MOCL_POSITIONS_NONE } mocl_positions;
typedef enum mocl_mlp { MOCL_MLP_GATED, MOCL_MLP_PLAIN } mocl_mlp;               /* down(f(gate x) * up x), down(f(up x)) */
typedef enum mocl_head { MOCL_HEAD_UNTIED, MOCL_HEAD_TIED, MOCL_HEAD_NONE } mocl_head; /* tied: the embedding */

typedef struct mocl_spec {
    int64_t vocab, width, layers, heads, kv_heads, head_size, ffn, positions; /* positions: tokens of the context */
    mocl_norm_kind norm;
    mocl_norm_place place;
    bool embed_norm, final_norm; /* a norm behind the embeddings, behind the last block */
    double norm_eps;
    double embed_scale;          /* of the vectors of tokens, before positions and types are added */
    mocl_positions position;
    int64_t position_offset;     /* learned: the row of position 0 in a table of position_offset + positions rows */
    double rope_theta;
    const double *rope_freq;     /* [head_size / 2]; NULL: theta^(-2i/head_size) */
    double rope_factor;          /* of cosines and sines (yarn's attention factor) */
    const bool *rope_layers;     /* [layers]: which rotate; NULL: all */
    int64_t types;               /* rows of a table of token types; 0: there is none */
    bool cross;                  /* behind its own attention a block attends to a memory [S, D], all of it */
    bool causal, qk_norm;        /* qk_norm: an rms norm over each head of q and k, before they are rotated */
    const int64_t *windows;      /* [layers]: how many tokens one sees, itself and those before it; 0: all; NULL: all in each */
    const double *scales;        /* [layers]: of q.k; NULL: 1 / sqrt(head_size) */
    mocl_mlp mlp;
    mk_unary act;                /* MK_SILU, MK_GELU, MK_GELU_TANH, MK_RELU */
    unsigned biases;             /* bit i: linear i of each block has one */
    mocl_head head;
    void *lists;                 /* of a copy: what it owns of the lists above */
} mocl_spec;

/* Fails in words that name Hugging Face's keys where no model can be so, or where two parts contradict each other. */
mocl_status mocl_spec_check(mocl_ctx *ctx, const mocl_spec *s);
/* Fails where the model that s describes is one in f32 alone. */
mocl_status mocl_spec_check_bf16(mocl_ctx *ctx, const mocl_spec *s);
/* *out gets a copy that owns its lists; give it back with mocl_spec_free. After a failure it owns nothing. */
mocl_status mocl_spec_copy(mocl_spec *out, mocl_ctx *ctx, const mocl_spec *s);
void mocl_spec_free(mocl_spec *s);

bool mocl_spec_has_linear(const mocl_spec *s, int which);
/* [out, in] of linear `which` */
void mocl_spec_linear_shape(const mocl_spec *s, int which, int64_t shape[2]);
bool mocl_spec_rotates(const mocl_spec *s, int64_t layer);
double mocl_spec_scale(const mocl_spec *s, int64_t layer);
int64_t mocl_spec_window(const mocl_spec *s, int64_t layer);

/* ---- the steps of a block ---- */

/* What a block works on, a row for each token: the residual stream, a normed copy and what a part adds, each [D]; queries and
** what attention gives [H K]; keys and values [G K]; the two sides of the MLP [F]; the memory, which has rows of its own. */
typedef enum mocl_register {
    MOCL_AT_X, MOCL_AT_H, MOCL_AT_Y, MOCL_AT_Q, MOCL_AT_A, MOCL_AT_K, MOCL_AT_V, MOCL_AT_GATE, MOCL_AT_UP, MOCL_AT_MEMORY, MOCL_REGISTERS
} mocl_register;

typedef enum mocl_step_kind {
    MOCL_STEP_NORM,      /* to = norm `which` of from: 0 that of attention, 1 that of the MLP, 2 that of the attention to a memory */
    MOCL_STEP_LINEAR,    /* to = linear `which` of from */
    MOCL_STEP_HEAD_NORM, /* to = each head of from, normed: which 0 those of q, 1 those of k */
    MOCL_STEP_ROPE,      /* to = each head of from, rotated by its token's position */
    MOCL_STEP_ATTENTION, /* A = attention of Q to K and V: which 0 within the sequence, 1 to the memory. Behind the block's last
                         ** no token needs another. */
    MOCL_STEP_ADD,       /* to = from + with */
    MOCL_STEP_ACT,       /* to = act(from) */
    MOCL_STEP_MUL,       /* to = from * with */
    MOCL_STEP_SWIGLU,    /* to = silu(from) * with */
} mocl_step_kind;

typedef struct mocl_step {
    mocl_step_kind kind;
    int which;
    mocl_register from, with, to;
    unsigned dead; /* bit r: register r is not read any more */
} mocl_step;

enum { MOCL_STEPS_MAX = 32 };

/* The steps of block `layer`, from X to X; returns how many there are. */
int mocl_spec_steps(const mocl_spec *s, int64_t layer, mocl_step steps[MOCL_STEPS_MAX]);

#endif
