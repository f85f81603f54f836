/* tokenizer_scores.c - the merge table of a tokenizer whose file gives each piece a score in place of a list of merges:
** SentencePiece's and tiktoken's .model, llama2.c's .bin.
*/
#include <math.h>
#include <stdlib.h>

#include "tok/tokenizer_impl.h"

enum { MAX_PIECE = 512 }; /* bytes: loading is quadratic in the length of a piece */

typedef struct scored {
    float score;
    int32_t id;
} scored;

static int best_first(const void *p, const void *q) {
    const scored *a = p, *b = q;
    return a->score != b->score ? (a->score > b->score ? -1 : 1) : 0;
}

/* Fills `pairs`: each cut of a piece into two pieces; rank = place of its score, ties share it. A piece whose score is
** not finite is in no pair. */
static mocl_status pairs_from_scores(mocl_ctx *ctx, mocl_tokenizer *t, const char *path, const float *score,
                                     scored *order, uint32_t *rank) {
    size_t n = t->vocab.n, n_pairs = 0;
    uint32_t left, right;
    for (size_t i = 0; i < n; i++)
        if (t->vocab.key[i].n > MAX_PIECE)
            return mocl_fail(ctx, MOCL_E_FORMAT,
                             "%s: token %d has %u bytes, at most %d are supported", path,
                             (int)t->index_id[i], t->vocab.key[i].n, MAX_PIECE);
    for (size_t i = 0; i < n; i++) order[i].id = (int32_t)i; /* the index in vocab */
    qsort(order, n, sizeof *order, best_first);
    for (size_t i = 0, r = 0; i < n; i++) {
        if (i > 0 && order[i].score != order[i - 1].score) r = i;
        rank[order[i].id] = (uint32_t)r;
    }
    for (int fill = 0; fill < 2; fill++) {
        if (fill) MOCL_TRY(mocl_tok_pairs_init(ctx, &t->pairs, n_pairs));
        for (size_t i = 0; i < n; i++) {
            mocl_text s = mocl_tok_map_key(&t->vocab, i);
            for (size_t cut = 1; cut < s.n && isfinite(score[i]); cut++) {
                if (!mocl_tok_map_find(&t->vocab, s.p, cut, &left) ||
                    !mocl_tok_map_find(&t->vocab, s.p + cut, s.n - cut, &right) || !isfinite(score[left]) ||
                    !isfinite(score[right]))
                    continue;
                n_pairs++;
                if (fill)
                    mocl_tok_pairs_add(&t->pairs, t->index_id[left], t->index_id[right], rank[i],
                                       t->index_id[i]);
            }
        }
    }
    return MOCL_OK;
}

mocl_status mocl_tok_pairs_of_scores(mocl_ctx *ctx, mocl_tokenizer *t, const char *path,
                                     const float *score) {
    size_t n = t->vocab.n;
    scored *order = mocl_calloc(ctx, n, sizeof *order);
    uint32_t *rank = mocl_calloc(ctx, n, sizeof *rank);
    mocl_status st = MOCL_OK;
    if (order && rank) {
        for (size_t i = 0; i < n; i++) order[i].score = score[i];
        st = pairs_from_scores(ctx, t, path, score, order, rank);
    } else {
        st = mocl_nomem(ctx, n * sizeof *order);
    }
    mocl_free(order);
    mocl_free(rank);
    return st;
}
