/* session.h - the cache of a model as an object: rows of tokens that the model has seen, each of which can be appended to,
** rewound and forked, and from whose last token the next one can be drawn. Generation (generate.c) is built on it.
**
** What a row holds has the bits of a forward pass over its tokens, however they came in: all at once, one by one, after a
** rewind, or by a fork.
*/
#ifndef MOCL_SESSION_H
#define MOCL_SESSION_H

#include "lm/model.h"

#define MOCL_NEVER -1e30 /* a logit that cannot win or be drawn */

typedef struct mocl_session {
    mocl_model *m;         /* borrowed; closing the session does not look at it */
    mocl_cache cache;      /* rows slots of max_tokens positions */
    int64_t rows, max_tokens;
    mocl_adapter **adapter; /* [rows] what each is computed with, owned; NULL: the base alone */
    int32_t *length;       /* [rows] tokens that a row holds */
    int32_t *token;        /* [rows, max_tokens] */
    bool *fresh;           /* [rows] `hidden` is of the row's last token */
    mocl_tensor *hidden;   /* [rows, D] states of last tokens, or NULL before the first */
    int64_t keep;          /* where set: `kept` is the stream behind so many blocks of the tokens that were appended last */
    mocl_tensor *kept;
    uint64_t weights;      /* what the weights were when the first token came in */
} mocl_session;

/* max_tokens: at most what the model's context holds. Close it whatever open returned (*out may be NULL then). */
mocl_status mocl_session_open(mocl_session **out, mocl_model *m, int64_t rows, int64_t max_tokens,
                              const mocl_choice *adapter);
void mocl_session_close(mocl_session *s); /* NULL is fine */
/* Adds tokens[offsets[i]] .. tokens[offsets[i + 1] - 1] to rows[i], 0-based, for n rows, which differ; rows NULL: 0 .. n - 1.
** Host arrays. After a failure no row has changed. Refused where weights or adapters changed since the tokens that are there
** were read. */
mocl_status mocl_session_append(mocl_session *s, int64_t n, const int32_t *rows, const int32_t *offsets, const int32_t *tokens);
/* keeps the first `length` tokens of a row */
mocl_status mocl_session_rewind(mocl_session *s, int64_t row, int64_t length);
/* row `to` becomes a copy of row `from`, and uses its adapter */
mocl_status mocl_session_fork(mocl_session *s, int64_t from, int64_t to);
/* states [n, D] of the last tokens of n rows, and their logits [n, V] */
mocl_status mocl_session_hidden(mocl_tensor **hidden, mocl_session *s, int64_t n, const int32_t *rows);
mocl_status mocl_session_logits(mocl_tensor **logits, mocl_session *s, int64_t n, const int32_t *rows);
/* The next token of each of n rows and its log-probability, into host arrays; nothing is appended. Of the options those of
** the distribution count, and key: the stream's counter is {step, row}, where step is `step` or, if that is negative, the
** row's length. */
mocl_status mocl_session_sample(mocl_session *s, int64_t n, const int32_t *rows, const mocl_generate_options *o, int64_t step,
                                int32_t *token, mk_real *logp);

/* ---- shared with generate.c ---- */

/* the ids that may be drawn are those below */
static inline int64_t mocl_generate_vocab(const mocl_generate_options *o, const mocl_model *m) {
    return o->vocab > 0 && o->vocab < m->config.vocab ? o->vocab : m->config.vocab;
}
/* whether the token ends a row */
static inline bool mocl_generate_ends(const mocl_generate_options *o, int32_t token) {
    for (int64_t i = 0; i < o->n_eos; i++)
        if (o->eos[i] == token) return true;
    return false;
}
mocl_status mocl_generate_check(mocl_ctx *ctx, const mocl_model *m, const mocl_generate_options *o);
/* One token for each row of hidden [n, D], at `step` of the sampling stream, ids [n] being its rows. token, logp and sum (of the
** row's logits, which is finite where they are) are device arrays. */
mocl_status mocl_draw(mocl_model *m, const mocl_generate_options *o, mocl_tensor *hidden, mocl_tensor *ids, int64_t step,
                      int32_t *token, mk_real *logp, mk_real *sum);

#endif
