/* model.h - a Llama-style decoder: RMSNorm, rotary embedding, SwiGLU, grouped-query attention, tied or
** untied head, with low-rank adapters on any of its linear layers.
**
** One base, several roles: the policy is the base with its adapter, the reference the same base with the
** adapter off. Hidden states are [T, D] over a ragged batch. Names of parameters are Hugging Face's.
*/
#ifndef MOCL_MODEL_H
#define MOCL_MODEL_H

#include "ops.h"
#include "io/sha256.h"

typedef struct mocl_model_config {
    int64_t vocab, width, layers, heads, kv_heads, head_size, ffn, positions;
    double norm_eps, rope_theta;
    bool tied; /* the head is the embedding */
} mocl_model_config;

/* the linear layers of a block, in this order everywhere */
enum { MOCL_Q, MOCL_K, MOCL_V, MOCL_O, MOCL_GATE, MOCL_UP, MOCL_DOWN, MOCL_LINEARS };

typedef struct mocl_adapter { /* W x + scale B A x */
    mocl_tensor *a, *b;       /* [r, in], [out, r]; both NULL where the layer has none */
    double alpha, scale;      /* scale: alpha / r, or alpha / sqrt(r) where the model's lora_rslora is set */
} mocl_adapter;

typedef struct mocl_adapter_plan { /* of one linear layer */
    int64_t rank;             /* 0: the layer gets no adapter */
    double alpha;
} mocl_adapter_plan;

typedef struct mocl_block_weights {
    mocl_tensor *attn_norm, *mlp_norm;    /* [D] */
    mocl_weight linear[MOCL_LINEARS];     /* [out, in] */
    mocl_adapter adapter[MOCL_LINEARS];
} mocl_block_weights;

typedef struct mocl_model {
    mocl_ctx *ctx;
    mocl_device *dev;
    mocl_model_config config;
    mk_dtype dtype;                   /* of embedding, head and linear layers, of activations and the cache; norms and adapters
                                      ** are f32. bf16 where the device computes with it */
    mocl_tensor *embed, *norm, *head; /* [V, D], [D], [V, D] (the same tensor as embed where tied) */
    mocl_block_weights *block;        /* layers */
    int64_t lora_rank;                /* the largest of all adapters; 0 = no adapter */
    double lora_dropout;
    bool lora_rslora;                 /* rank-stabilised scales */
    char hash[MOCL_SHA256_HEX];       /* of the base when its storages had been written hash_version times; or empty */
    uint64_t hash_version;
} mocl_model;

/* How one forward pass runs. */
typedef struct mocl_pass {
    bool adapter;          /* use the adapters */
    bool train;            /* apply the adapters' dropout, drawn from (key, stream) */
    uint64_t key, stream;
    mocl_tensor *rows;     /* i32: the states of these tokens alone are wanted; NULL: of all */
    mocl_tensor *hidden;   /* [T, D]: the residual stream behind the first `start` blocks, which do not run then; or NULL */
    int64_t start;
    bool stops;            /* ends behind the first `stop` blocks, start <= stop <= layers: the residual stream there */
    int64_t stop;
} mocl_pass;

mocl_status mocl_model_config_check(mocl_ctx *ctx, const mocl_model_config *c);
/* Random weights from `key`: normal with standard deviation 1/sqrt(3 in) (that of PyTorch's linear
** layers), the layers that write to the residual stream divided by sqrt(2 layers), embedding .05; drawn in f32 and rounded to
** dtype. */
mocl_status mocl_model_new(mocl_model **out, mocl_device *dev, const mocl_model_config *config, mk_dtype dtype, uint64_t key);
void mocl_model_free(mocl_model *m);
/* A and B for linear i of block l as plan[l * MOCL_LINEARS + i] says: A normal with 1/sqrt(3 in) from key, B zero, both
** requiring grad. At least one linear must get an adapter. Replaces an adapter that is there; a refused plan leaves it. */
mocl_status mocl_model_add_lora(mocl_model *m, const mocl_adapter_plan *plan, double dropout, bool rslora, uint64_t key);
/* "self_attn.q_proj": the name of a linear layer within its block */
const char *mocl_model_linear_name(int which);
/* whether block l has adapters */
bool mocl_model_adapted(const mocl_model *m, int64_t l);
void mocl_model_drop_lora(mocl_model *m);
/* W += scale B A for each adapter, which is then dropped. Where that fails halfway, the layers that are done have no
** adapter any more: what the model computes is the same, and a second call goes on. */
mocl_status mocl_model_merge_lora(mocl_model *m);

/* *hex becomes the SHA-256 of the base weights: names, dtypes, shapes and bytes, without adapters. It belongs to the
** model until the next call. Computed once, and again after weights were written. */
mocl_status mocl_model_hash(mocl_model *m, const char **hex);

/* Calls fn for each parameter in a fixed order: base parameters, or the adapters' where lora. The name
** is valid during the call. Stops at the first failure. */
typedef mocl_status (*mocl_model_visitor)(void *arg, const char *name, mocl_tensor *t);
mocl_status mocl_model_visit(mocl_model *m, bool lora, mocl_model_visitor fn, void *arg);

/* tokens [T], positions [T], offsets [B + 1] i32 on the model's device, checked by the caller.
** hidden [T, D], f32, after the last norm; [n, D] for the n tokens of pass->rows, the same bits at less work
** (but for dropout, whose mask is drawn for the rows there are). Where pass->stops it is the stream [T, D] there, in the
** dtype of the model, before any norm; rows are taken in the last block alone. */
mocl_status mocl_model_forward(mocl_tensor **hidden, mocl_model *m, mocl_tensor *tokens, mocl_tensor *positions,
                               mocl_tensor *offsets, const mocl_pass *pass);

/* ---- generation (generate.c) ---- */

typedef struct mocl_generate_options {
    int64_t max_new_tokens;
    double temperature; /* 0 = greedy */
    int64_t top_k;      /* 0 = all */
    double top_p;       /* 1 = all */
    const int32_t *eos; /* ids of the vocabulary that end a row, n_eos of them */
    int64_t n_eos;      /* 0 = none */
    int64_t suppress_first; /* tokens at the start that may not be one of eos (0 or 1 as RiC's) */
    int64_t vocab;      /* ids below this are drawn; 0 = the model's vocabulary. Rows of the head behind it are padding. */
    bool adapter;
    uint64_t key;       /* of the sampling stream: counter = {step, row} */
    bool by_token;      /* set by mocl_generation_open */
} mocl_generate_options;

/* What was generated: for row b, length[b] tokens and as many log-probabilities at the sampling
** temperature (at 1 where greedy) start at token + b * max_new_tokens. finished[b]: eos or stop, not
** the limit. Free with mocl_generated_free. */
typedef struct mocl_generated {
    int64_t rows, max_new_tokens;
    int32_t *token;
    mk_real *logp;
    int64_t *length;
    bool *finished;
} mocl_generated;

/* prompts: host arrays; row b is tokens[offsets[b]] .. tokens[offsets[b + 1] - 1], not empty */
mocl_status mocl_model_generate(mocl_generated *out, mocl_model *m, int64_t rows, const int32_t *offsets,
                                const int32_t *tokens, const mocl_generate_options *options);
/* The same, one token at a time, for a caller that looks at each and may leave at any. `out` and what `eos` of the
** options points to live as long as the generation; close it whatever open returned (*generation may be NULL then), and
** free `out`. */
typedef struct mocl_generation mocl_generation;
mocl_status mocl_generation_open(mocl_generation **generation, mocl_generated *out, mocl_model *m, int64_t rows,
                                 const int32_t *offsets, const int32_t *tokens, const mocl_generate_options *options);
/* *row gets the row and *token its next token; *row -1: all rows have ended. `stop` ends the row of the last token. */
mocl_status mocl_generation_next(mocl_generation *generation, bool stop, int64_t *row, int32_t *token);
void mocl_generation_close(mocl_generation *generation);
void mocl_generated_free(mocl_generated *g);

/* ---- shared by model.c and generate.c ---- */

/* The failure of generate where the logits for a token of a prompt, both counted from 1, are not finite: it names the first
** weight that is not, if there is one. */
mocl_status mocl_model_refuse_logits(mocl_model *m, bool adapter, int64_t prompt, int64_t token);
/* linear layer `which` of block l on x [T, in], with the adapter as the pass says */
mocl_status mocl_model_linear(mocl_tensor **out, mocl_model *m, int64_t l, int which, mocl_tensor *x, const mocl_pass *pass);
/* q [T, H, K], k, v [T, G, K] of block l from the residual stream x [T, D], rotated */
mocl_status mocl_model_qkv(mocl_tensor *qkv[3], mocl_model *m, int64_t l, mocl_tensor *x, mocl_tensor *positions,
                           const mocl_pass *pass);
/* the rest of block l: x := x + o(attention), x := x + mlp(norm(x)); takes over *x. In the last block
** pass->rows are taken out first: behind its attention no token needs another. */
mocl_status mocl_model_block_end(mocl_tensor **x, mocl_model *m, int64_t l, mocl_tensor *attention, const mocl_pass *pass);

#endif
