/* model.h - a transformer as its specification (spec.h) says, with low-rank adapters on any of its linear layers.
**
** One base, several roles: the policy is the base with its adapter, the reference the same base with the
** adapter off. Hidden states are [T, D] over a ragged batch. Names of parameters are those of Hugging Face's Llama, and
** of the same kind where Llama lacks the part.
*/
#ifndef MOCL_MODEL_H
#define MOCL_MODEL_H

#include "ops.h"
#include "io/sha256.h"
#include "lm/adapter.h"
#include "lm/spec.h"

typedef struct mocl_norm { /* of n numbers */
    mocl_tensor *w, *b;    /* [n]; b NULL in an rms norm, both NULL where there is no norm */
} mocl_norm;

typedef struct mocl_block_weights {
    mocl_norm norm[3];                    /* of the attention, of the MLP, and with cross of the attention to the memory, [D] */
    mocl_tensor *head_norm[2];            /* of each head of q and k, [K]; NULL without qk_norm */
    mocl_weight linear[MOCL_ALL_LINEARS]; /* [out, in]; without parts where the specification has none */
    mocl_tensor *bias[MOCL_ALL_LINEARS];  /* [out], or NULL */
} mocl_block_weights;

typedef struct mocl_model {
    mocl_ctx *ctx;
    mocl_device *dev;
    mocl_spec config;                 /* owns its lists */
    mk_dtype dtype;                   /* of embedding, head and linear layers, of activations and the cache; norms and adapters
                                      ** are f32. bf16 where the device computes with it */
    mk_format format;                 /* of the linear layers of blocks; f32 and bf16 are dtype's */
    mocl_tensor *embed, *head;        /* [V, D], [V, D] (the same tensor as embed where tied, NULL without a head) */
    mocl_tensor *positions, *types;   /* learned: [position_offset + positions, D]; [types, D]; or NULL */
    mocl_norm embed_norm, norm;       /* behind the embeddings and behind the last block; empty where there is none */
    mocl_block_weights *block;        /* layers */
    mocl_tensor *rope;                /* the table of frequencies (mocl_rope_table), or NULL */
    mocl_adapter **adapter, *active;  /* n_adapters of them, owned, in the order in which they came; the active one, or NULL */
    int64_t n_adapters;
    uint64_t changes;                 /* counts adapters that were added, dropped or merged */
    char hash[MOCL_SHA256_HEX];       /* of the base when its storages had been written hash_version times; or empty */
    uint64_t hash_version;
} mocl_model;

/* Keys and values of tokens that a model has seen: [rows, capacity, G, K] for each block. */
typedef struct mocl_cache {
    int64_t rows, capacity, layers;
    mocl_tensor **k, **v;
} mocl_cache;

/* How one forward pass runs. */
enum { MOCL_PRODUCTS = MOCL_V + 1 };

typedef struct mocl_pass {
    mocl_adapter *adapter; /* of all tokens; NULL: the base alone */
    const mocl_adapter_run *runs; /* in its place n_runs of them, which cover the tokens in their order; or NULL */
    int64_t n_runs;
    bool train;            /* apply the adapters' dropout, drawn from (key, stream) */
    uint64_t key, stream;
    mocl_tensor *types;    /* i32 [T]: types of the tokens, of a model that has them; NULL: all 0 */
    mocl_tensor *memory, *memory_offsets; /* of a model with cross attention: f32 [S, D], i32 [B + 1], none of the sequences empty */
    mocl_tensor *rows;     /* i32: the states of these tokens alone are wanted; NULL: of all */
    mocl_tensor *hidden;   /* [T, D]: the residual stream behind the first `start` blocks, which do not run then; or NULL */
    int64_t start;
    mocl_tensor **product; /* [MOCL_PRODUCTS]: what q, k and v of block `start` give without adapters, with hidden alone. A NULL
                           ** among them is computed and put there, without history; what is there is not computed again. Or NULL */
    bool stops;            /* ends behind the first `stop` blocks, start <= stop <= layers: the residual stream there */
    int64_t stop;
    int64_t keep;          /* with kept, which is NULL or receives the stream [T, D] behind the first `keep` blocks, keep < layers, as a */
    mocl_tensor **kept;    /* pass that stops there would give it */
    mocl_cache *cache;     /* receives keys and values of each token, in slot `slot` at its position; or NULL */
    mocl_tensor *slot;     /* i32 [T]: rows of the cache */
    bool known;            /* tokens and positions are in range: to look would be to wait */
} mocl_pass;

/* Random weights from `key`: normal with standard deviation 1/sqrt(3 in) (that of PyTorch's linear
** layers), the layers that write to the residual stream divided by sqrt(2 layers), embeddings .05; drawn in f32 and rounded to
** dtype. Biases are 0, weights of norms 1. format: of the linear layers of blocks, where it is neither f32 nor bf16. Where draw
** is false, the matrices hold whatever is in the memory, or quantised zeros: for weights that are about to be read. */
mocl_status mocl_model_new(mocl_model **out, mocl_device *dev, const mocl_spec *spec, mk_dtype dtype, mk_format format, uint64_t key,
                           bool draw);
/* linear layer `which` of block l becomes the numbers of t [out, in], in the layer's format */
mocl_status mocl_model_set(mocl_model *m, int64_t l, int which, mocl_tensor *t);
/* linear layer `which` of block l becomes a weight of copies of these parts, which mocl_weight_of_parts checks */
mocl_status mocl_model_set_parts(mocl_model *m, int64_t l, int which, const mocl_weight *parts);
/* The linear layers of m become copies of those of a model of the same sizes, in their formats. Where that fails halfway some are. */
mocl_status mocl_model_copy_linear(mocl_model *m, const mocl_model *from);
/* The embedding of m, a model without a head, becomes that of `other`: one tensor of both. */
mocl_status mocl_model_share_embedding(mocl_model *m, const mocl_model *other);
/* Quantised linear layers become f32 or bf16, the model's dtype. Where that fails halfway a second call goes on. */
mocl_status mocl_model_dequantize(mocl_model *m);
void mocl_model_free(mocl_model *m);
/* "self_attn.q_proj": the name of a linear layer within its block, one of MOCL_ALL_LINEARS */
const char *mocl_model_linear_name(int which);

/* *hex becomes the SHA-256 of the base weights: names, dtypes, shapes and bytes, without adapters. It belongs to the
** model until the next call. Computed once, and again after weights were written. */
mocl_status mocl_model_hash(mocl_model *m, const char **hex);

/* Calls fn for each parameter in a fixed order: the base's, or where a is not NULL those of that adapter. The name
** is valid during the call. Stops at the first failure. */
typedef mocl_status (*mocl_model_visitor)(void *arg, const char *name, mocl_tensor *t);
mocl_status mocl_model_visit(mocl_model *m, const mocl_adapter *a, mocl_model_visitor fn, void *arg);

/* tokens [T], positions [T], offsets [B + 1] i32 on the model's device, checked by the caller.
** hidden [T, D], f32, after the last norm; [n, D] for the n tokens of pass->rows, the same bits at less work
** (but for dropout, whose mask is drawn for the rows there are). Where pass->stops it is the stream [T, D] there, in the
** dtype of the model, before any norm; rows are taken in the last block alone. With a cache offsets may be NULL: each token
** then attends to its slot up to its own position, and that has the same bits as attending within its sequence. */
mocl_status mocl_model_forward(mocl_tensor **hidden, mocl_model *m, mocl_tensor *tokens, mocl_tensor *positions,
                               mocl_tensor *offsets, const mocl_pass *pass);

mocl_status mocl_cache_open(mocl_cache *cache, mocl_model *m, int64_t rows, int64_t capacity);
void mocl_cache_close(mocl_cache *cache);

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
    mocl_choice adapter; /* of the rows */
    uint64_t key;       /* of the sampling stream: counter = {step, row} */
    int64_t period;     /* from 1: row + period draws with the numbers of row; 0: none does */
    int64_t stem;       /* from 1: the stream behind so many blocks is kept, stem < layers; 0: none */
    int64_t first_row;  /* of the sampling stream: the rows are this one and those behind it of a larger batch */
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
    mocl_tensor *stem; /* [tokens, D]: for each row its prompt and its answer, the residual stream behind the first options->stem
                       ** blocks, with the bits of mocl_model_forward; 0 for the last token of an answer, which no block has seen.
                       ** NULL where it was not asked for, and on devices where steps run over tensors */
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
mocl_status mocl_model_refuse_logits(mocl_model *m, const mocl_adapter *adapter, int64_t prompt, int64_t token);

#endif
