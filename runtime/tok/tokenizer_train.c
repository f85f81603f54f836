/* tokenizer_train.c - training a byte-level BPE vocabulary from texts in memory.
**
** The texts are cut into words as encoding cuts them; each different word is kept once with its
** count. Then, until the vocabulary is full, the pair of neighbouring symbols with the highest
** count (among equals the smallest left id, then the smallest right id) becomes a new symbol.
** Only the words that hold the pair are touched. The result is written as a tokenizer.json and
** loaded from it, so a trained tokenizer and its saved file cannot differ.
*/
#include <stdlib.h>
#include <string.h>

#include "tok/tokenizer_config.h"

enum { N_BYTES = 256, MAX_WORD = 4096 /* longer words are left out of the counts, in bytes */ };

typedef struct train_word {
    size_t start; /* of its symbols in `symbols` */
    int32_t n;    /* symbols left */
    int64_t count;
} train_word;

typedef struct train_pair {
    int32_t left, right;
    int64_t count;   /* over all words, every neighbouring place */
    int64_t queued;  /* count in its valid heap entry, 0 = none; never below count */
    uint32_t *where; /* words that hold it or held it, may repeat; owned */
    size_t n_where, where_cap;
    bool dead; /* must not be merged: it would spell a special token */
} train_pair;

typedef struct train_best { /* heap entry; stale unless count is what the pair has queued */
    int64_t count;
    int32_t left, right;
    uint32_t pair;
} train_best;

typedef struct trainer {
    mocl_ctx *ctx;
    const mocl_tokenizer_train_options *options;
    mocl_tokenizer *cutter; /* a tokenizer without merges: cuts texts */
    tok_map words;
    train_word *word;
    size_t word_cap;
    tok_ids symbols;
    train_pair *pair;
    size_t n_pair, pair_cap;
    tok_pairs table; /* (left, right) -> id = index of the pair */
    train_best *heap;
    size_t n_heap, heap_cap;
    uint32_t *changed; /* pairs that may have grown in this merge, may repeat */
    size_t n_changed, changed_cap;
    tok_map tokens;  /* bytes of the byte and merged tokens; index + n_special = id */
    tok_map spelled; /* spelling of all tokens by id */
    tok_ids merges;  /* left, right, ... */
} trainer;

static void trainer_free(trainer *tr) {
    mocl_tokenizer_free(tr->cutter);
    for (size_t i = 0; i < tr->n_pair; i++) mocl_free(tr->pair[i].where);
    void *const memory[] = {tr->word, tr->symbols.p, tr->pair,    tr->table.slot,
                            tr->heap, tr->changed,   tr->merges.p};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) mocl_free(memory[i]);
    mocl_tok_map_free(&tr->words);
    mocl_tok_map_free(&tr->tokens);
    mocl_tok_map_free(&tr->spelled);
}

/* ---- vocabulary ---- */

/* Adds a token: `bytes` for merges and bytes; its spelling must be new. */
static mocl_status add_token(trainer *tr, mocl_text bytes, bool special, bool *added) {
    tok_bytes spelling = {0};
    uint32_t index;
    mocl_status st = special ? mocl_tok_bytes_add(tr->ctx, &spelling, bytes.p, bytes.n)
                             : mocl_tok_spell(tr->ctx, &spelling, bytes.p, bytes.n);
    if (!st) st = mocl_tok_map_add(tr->ctx, &tr->spelled, spelling.p, spelling.n, &index, added);
    if (!st && *added && !special)
        st = mocl_tok_map_add(tr->ctx, &tr->tokens, bytes.p, bytes.n, &index, NULL);
    mocl_free(spelling.p);
    return st;
}

static mocl_status check_special(trainer *tr, size_t i) {
    mocl_text s = tr->options->special[i];
    uint32_t c;
    int len = 0;
    if (s.n == 0) return mocl_fail(tr->ctx, MOCL_E_ARG, "train: special token %zu is empty", i + 1);
    for (size_t k = 0; k < s.n; k += (size_t)len) {
        len = mocl_tok_utf8(s.p + k, s.n - k, &c);
        if (len == 0)
            return mocl_fail(tr->ctx, MOCL_E_ARG, "train: special token %zu is not UTF-8", i + 1);
        if (c == 0)
            return mocl_fail(tr->ctx, MOCL_E_ARG, "train: special token %zu holds a zero byte",
                             i + 1);
    }
    return MOCL_OK;
}

static mocl_status first_tokens(trainer *tr) {
    const mocl_tokenizer_train_options *o = tr->options;
    bool added;
    if (o->n_special > TOK_MAX_ID || o->vocab_size < (int64_t)o->n_special + N_BYTES ||
        o->vocab_size > TOK_MAX_ID)
        return mocl_fail(
            tr->ctx, MOCL_E_ARG,
            "train: vocab_size is %lld, it must be %lld (%zu special tokens and %d bytes) "
            "to %d",
            (long long)o->vocab_size, (long long)o->n_special + N_BYTES, o->n_special, N_BYTES,
            TOK_MAX_ID);
    if (o->min_frequency < 1)
        return mocl_fail(tr->ctx, MOCL_E_ARG, "train: min_frequency is %lld, it must be at least 1",
                         (long long)o->min_frequency);
    for (size_t i = 0; i < o->n_special; i++) {
        MOCL_TRY(check_special(tr, i));
        MOCL_TRY(add_token(tr, o->special[i], true, &added));
        if (!added)
            return mocl_fail(tr->ctx, MOCL_E_ARG, "train: special token '%.60s' is there twice",
                             o->special[i].p);
    }
    for (int b = 0; b < N_BYTES; b++) {
        char c = (char)b;
        MOCL_TRY(add_token(tr, (mocl_text){&c, 1}, false, &added));
        if (!added)
            return mocl_fail(tr->ctx, MOCL_E_ARG,
                             "train: a special token is spelled like the byte 0x%02x", (unsigned)b);
    }
    return MOCL_OK;
}

/* the tokenizer.json of what there is; merges as far as they have come */
static mocl_status build(trainer *tr, mocl_tokenizer **out) {
    mocl_ctx *ctx = tr->ctx;
    size_t n = tr->spelled.n, n_merge = tr->merges.n / 2;
    tok_recipe recipe = {.n_token = n, .n_special = tr->options->n_special, .n_merge = n_merge};
    mocl_text *token = mocl_calloc(ctx, n, sizeof *token);
    mocl_text *merge = mocl_calloc(ctx, n_merge, 2 * sizeof *merge);
    int32_t *special = mocl_calloc(ctx, recipe.n_special, sizeof *special);
    tok_bytes text = {0};
    mocl_status st = token && merge && special ? MOCL_OK : mocl_nomem(ctx, n * sizeof *token);
    if (!st) {
        for (size_t i = 0; i < n; i++) token[i] = mocl_tok_map_key(&tr->spelled, i);
        for (size_t i = 0; i < 2 * n_merge; i++) merge[i] = token[tr->merges.p[i]];
        for (size_t i = 0; i < recipe.n_special; i++) special[i] = (int32_t)i;
        recipe.token = token;
        recipe.merge = merge;
        recipe.special = special;
        st = mocl_tok_write_json(ctx, &recipe, &text);
    }
    const tok_config nothing = {0}; /* lies beside it */
    if (!st) st = mocl_tok_load_json(ctx, out, "trained tokenizer", text.p, text.n, &nothing);
    mocl_free(text.p);
    mocl_free(token);
    mocl_free(merge);
    mocl_free(special);
    return st;
}

/* ---- counting words ---- */

static mocl_status count_word(trainer *tr, const char *s, size_t n) {
    uint32_t index;
    bool added;
    if (n > MAX_WORD) return MOCL_OK;
    void *q = tr->word;
    mocl_status st = mocl_tok_grow(tr->ctx, &q, &tr->word_cap, tr->words.n, 1, sizeof *tr->word);
    tr->word = q;
    if (st) return st;
    MOCL_TRY(mocl_tok_map_add(tr->ctx, &tr->words, s, n, &index, &added));
    if (!added) {
        tr->word[index].count++;
        return MOCL_OK;
    }
    tr->word[index] = (train_word){tr->symbols.n, (int32_t)n, 1};
    for (size_t i = 0; i < n; i++)
        MOCL_TRY(mocl_tok_ids_add(tr->ctx, &tr->symbols,
                                  (int32_t)tr->options->n_special + (unsigned char)s[i]));
    return MOCL_OK;
}

/* s without special tokens */
static mocl_status count_segment(trainer *tr, const char *s, size_t n) {
    mocl_tokenizer *t = tr->cutter;
    uint32_t c;
    for (size_t at = 0, i = 0; at < n; at = i) {
        int len;
        while (i < n && (len = mocl_tok_utf8(s + i, n - i, &c)) > 0) i += (size_t)len;
        const char *run = s + at;
        size_t n_run = i - at;
        MOCL_TRY(mocl_tok_split(tr->ctx, t, true, &run, &n_run));
        for (size_t k = 0; k < t->words.n; k++)
            MOCL_TRY(count_word(tr, run + t->words.p[k].start, t->words.p[k].n));
        while (i < n && mocl_tok_utf8(s + i, n - i, &c) == 0) i++; /* not text: nothing to learn */
    }
    return MOCL_OK;
}

static mocl_status count_text(trainer *tr, mocl_text text) {
    for (size_t at = 0, start, end; at < text.n; at = end) {
        const tok_added *added;
        start = end = text.n;
        mocl_tok_added_find(tr->cutter, false, false, text.p, text.n, at, &added, &start, &end);
        MOCL_TRY(count_segment(tr, text.p + at, start - at));
    }
    return MOCL_OK;
}

/* ---- pairs ---- */

static mocl_status table_grow(trainer *tr) {
    if (tr->table.slot && tr->n_pair * 2 < tr->table.mask) return MOCL_OK;
    tok_pairs bigger;
    MOCL_TRY(mocl_tok_pairs_init(tr->ctx, &bigger, tr->n_pair * 2 + 4096));
    for (size_t i = 0; i < tr->n_pair; i++)
        mocl_tok_pairs_add(&bigger, tr->pair[i].left, tr->pair[i].right, 0, (int32_t)i);
    mocl_free(tr->table.slot);
    tr->table = bigger;
    return MOCL_OK;
}

static mocl_status pair_of(trainer *tr, int32_t left, int32_t right, uint32_t *index) {
    MOCL_TRY(table_grow(tr));
    const tok_pair *p = mocl_tok_pairs_find(&tr->table, left, right);
    if (p) {
        *index = (uint32_t)p->id;
        return MOCL_OK;
    }
    void *q = tr->pair;
    mocl_status st = mocl_tok_grow(tr->ctx, &q, &tr->pair_cap, tr->n_pair, 1, sizeof *tr->pair);
    tr->pair = q;
    if (st) return st;
    *index = (uint32_t)tr->n_pair;
    tr->pair[tr->n_pair++] = (train_pair){.left = left, .right = right};
    mocl_tok_pairs_add(&tr->table, left, right, 0, (int32_t)*index);
    return MOCL_OK;
}

/* Counts the pairs of a word, up or down. Counting up also notes where a pair is if it holds
** `fresh`, the new symbol (-1: always): the other pairs of the word are known and do not grow. */
static mocl_status count_pairs(trainer *tr, uint32_t w, bool up, int32_t fresh) {
    const train_word *word = &tr->word[w];
    const int32_t *s = tr->symbols.p + word->start;
    for (int32_t i = 0; i + 1 < word->n; i++) {
        uint32_t index;
        MOCL_TRY(pair_of(tr, s[i], s[i + 1], &index));
        train_pair *p = &tr->pair[index];
        p->count += up ? word->count : -word->count;
        if (!up || (fresh >= 0 && s[i] != fresh && s[i + 1] != fresh)) continue;
        if (p->n_where && p->where[p->n_where - 1] == w) continue;
        void *q = p->where;
        mocl_status st = mocl_tok_grow(tr->ctx, &q, &p->where_cap, p->n_where, 1, sizeof *p->where);
        p->where = q;
        if (st) return st;
        p->where[p->n_where++] = w;
        q = tr->changed;
        st = mocl_tok_grow(tr->ctx, &q, &tr->changed_cap, tr->n_changed, 1, sizeof *tr->changed);
        tr->changed = q;
        if (st) return st;
        tr->changed[tr->n_changed++] = index;
    }
    return MOCL_OK;
}

static bool better(const train_best *a, const train_best *b) {
    if (a->count != b->count) return a->count > b->count;
    return a->left != b->left ? a->left < b->left : a->right < b->right;
}

static mocl_status heap_push(trainer *tr, uint32_t index) {
    train_pair *p = &tr->pair[index];
    if (p->dead || p->count <= p->queued || p->count < tr->options->min_frequency) return MOCL_OK;
    void *q = tr->heap;
    mocl_status st = mocl_tok_grow(tr->ctx, &q, &tr->heap_cap, tr->n_heap, 1, sizeof *tr->heap);
    tr->heap = q;
    if (st) return st;
    train_best e = {p->count, p->left, p->right, index};
    size_t i = tr->n_heap++;
    for (; i > 0 && better(&e, &tr->heap[(i - 1) / 2]); i = (i - 1) / 2)
        tr->heap[i] = tr->heap[(i - 1) / 2];
    tr->heap[i] = e;
    p->queued = e.count;
    return MOCL_OK;
}

static train_best heap_pop(trainer *tr) {
    train_best top = tr->heap[0], e = tr->heap[--tr->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < tr->n_heap; i = child) {
        if (child + 1 < tr->n_heap && better(&tr->heap[child + 1], &tr->heap[child])) child++;
        if (!better(&tr->heap[child], &e)) break;
        tr->heap[i] = tr->heap[child];
    }
    tr->heap[i] = e;
    return top;
}

/* the id of left + right: a new one, one with the same bytes, -1 if spelled like a special token */
static mocl_status merged_id(trainer *tr, int32_t left, int32_t right, int32_t *id) {
    int32_t n_special = (int32_t)tr->options->n_special;
    mocl_text a = mocl_tok_map_key(&tr->tokens, (size_t)(left - n_special));
    mocl_text b = mocl_tok_map_key(&tr->tokens, (size_t)(right - n_special));
    tok_bytes both = {0};
    uint32_t index;
    bool added = false;
    mocl_status st = mocl_tok_bytes_add(tr->ctx, &both, a.p, a.n);
    if (!st) st = mocl_tok_bytes_add(tr->ctx, &both, b.p, b.n);
    if (!st && mocl_tok_map_find(&tr->tokens, both.p, both.n, &index)) {
        *id = n_special + (int32_t)index;
    } else if (!st) {
        st = add_token(tr, (mocl_text){both.p, both.n}, false, &added);
        *id = added ? n_special + (int32_t)tr->tokens.n - 1 : -1;
    }
    mocl_free(both.p);
    return st;
}

/* replaces the pair in one word; its other pairs are counted anew */
static mocl_status merge_word(trainer *tr, uint32_t w, int32_t left, int32_t right, int32_t id) {
    train_word *word = &tr->word[w];
    int32_t *s = tr->symbols.p + word->start;
    bool found = false;
    for (int32_t i = 0; i + 1 < word->n && !found; i++) found = s[i] == left && s[i + 1] == right;
    if (!found) return MOCL_OK;
    MOCL_TRY(count_pairs(tr, w, false, -1));
    int32_t n = 0;
    for (int32_t i = 0; i < word->n; i++) {
        bool here = i + 1 < word->n && s[i] == left && s[i + 1] == right;
        s[n++] = here ? id : s[i];
        i += here;
    }
    word->n = n;
    return count_pairs(tr, w, true, id);
}

static mocl_status merge(trainer *tr, uint32_t index) {
    int32_t left = tr->pair[index].left, right = tr->pair[index].right, id;
    MOCL_TRY(merged_id(tr, left, right, &id));
    if (id < 0) {
        tr->pair[index].dead = true;
        return MOCL_OK;
    }
    MOCL_TRY(mocl_tok_ids_add(tr->ctx, &tr->merges, left));
    MOCL_TRY(mocl_tok_ids_add(tr->ctx, &tr->merges, right));
    uint32_t *where = tr->pair[index].where;
    size_t n = tr->pair[index].n_where;
    tr->pair[index].where = NULL;
    tr->pair[index].n_where = tr->pair[index].where_cap = 0;
    mocl_status st = MOCL_OK;
    for (size_t i = 0; i < n && !st; i++) st = merge_word(tr, where[i], left, right, id);
    mocl_free(where);
    for (size_t i = 0; i < tr->n_changed && !st; i++) st = heap_push(tr, tr->changed[i]);
    tr->n_changed = 0;
    return st;
}

static mocl_status learn(trainer *tr) {
    for (size_t w = 0; w < tr->words.n; w++) MOCL_TRY(count_pairs(tr, (uint32_t)w, true, -1));
    tr->n_changed = 0;
    for (size_t i = 0; i < tr->n_pair; i++) MOCL_TRY(heap_push(tr, (uint32_t)i));
    while ((int64_t)tr->spelled.n < tr->options->vocab_size && tr->n_heap > 0) {
        MOCL_TRY(mocl_poll(tr->ctx));
        train_best best = heap_pop(tr);
        train_pair *p = &tr->pair[best.pair];
        if (best.count != p->queued) continue;
        p->queued = 0;
        MOCL_TRY(p->count == best.count ? merge(tr, best.pair) : heap_push(tr, best.pair));
    }
    return MOCL_OK;
}

static mocl_status train(trainer *tr, const mocl_text *texts, size_t n_texts,
                         mocl_tokenizer **out) {
    MOCL_TRY(first_tokens(tr));
    MOCL_TRY(build(tr, &tr->cutter));
    for (size_t i = 0; i < n_texts; i++) {
        MOCL_TRY(mocl_poll(tr->ctx));
        MOCL_TRY(count_text(tr, texts[i]));
    }
    MOCL_TRY(learn(tr));
    return build(tr, out);
}

mocl_status mocl_tokenizer_train(mocl_ctx *ctx, mocl_tokenizer **out, const mocl_text *texts,
                                 size_t n_texts, const mocl_tokenizer_train_options *options) {
    trainer tr = {.ctx = ctx, .options = options};
    *out = NULL;
    mocl_status st = train(&tr, texts, n_texts, out);
    trainer_free(&tr);
    return st;
}
