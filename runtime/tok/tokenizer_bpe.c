/* tokenizer_bpe.c - one word to ids: first symbols, then merges by rank, with a cache of words.
**
** All models here are the same algorithm: of all neighbouring pairs the one with the lowest rank
** is merged, the leftmost of equals, until none is in the table. A heap keeps it O(n log n) for
** words of any length.
*/
#include <string.h>

#include "tok/tokenizer_impl.h"

enum {
    CACHE_WORDS = 1 << 15, /* the cache is emptied when it holds so many */
    CACHE_LENGTH = 64      /* longer words are not kept, in bytes */
};

typedef struct symbol {
    int32_t id;
    int32_t previous, next; /* places, -1 = none */
} symbol;

typedef struct candidate { /* a pair that could be merged, perhaps no longer there */
    uint32_t rank;
    int32_t at; /* place of the left symbol */
    int32_t left, right, id;
} candidate;

typedef struct tok_merge {
    symbol *symbol;
    size_t n, symbol_cap;
    candidate *heap;
    size_t n_heap, heap_cap;
    tok_map words;
    tok_span *ids; /* place of the ids of word i in `cached` */
    size_t ids_cap;
    tok_ids cached;
} tok_merge;

mocl_status mocl_tok_merge_new(mocl_ctx *ctx, mocl_tokenizer *t) {
    t->merge = mocl_calloc(ctx, 1, sizeof *t->merge);
    return t->merge ? MOCL_OK : mocl_nomem(ctx, sizeof *t->merge);
}

void mocl_tok_merge_free(tok_merge *m) {
    if (!m) return;
    mocl_free(m->symbol);
    mocl_free(m->heap);
    mocl_free(m->ids);
    mocl_free(m->cached.p);
    mocl_tok_map_free(&m->words);
    mocl_free(m);
}

static mocl_status add_symbol(mocl_ctx *ctx, tok_merge *m, int32_t id) {
    if (m->n == m->symbol_cap) {
        if (m->n >= INT32_MAX)
            return mocl_fail(ctx, MOCL_E_ARG, "encode: a word is over 2 GiB long");
        void *q = m->symbol;
        mocl_status st = mocl_tok_grow(ctx, &q, &m->symbol_cap, m->n, 1, sizeof *m->symbol);
        m->symbol = q;
        if (st) return st;
    }
    m->symbol[m->n] = (symbol){id, (int32_t)m->n - 1, (int32_t)m->n + 1};
    m->n++;
    return MOCL_OK;
}

static bool less(const candidate *a, const candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static mocl_status push(mocl_ctx *ctx, const mocl_tokenizer *t, tok_merge *m, int32_t at) {
    if (at < 0 || m->symbol[at].next < 0) return MOCL_OK;
    int32_t left = m->symbol[at].id, right = m->symbol[m->symbol[at].next].id;
    const tok_pair *p = mocl_tok_pairs_find(&t->pairs, left, right);
    if (!p) return MOCL_OK;
    void *q = m->heap;
    mocl_status st = mocl_tok_grow(ctx, &q, &m->heap_cap, m->n_heap, 1, sizeof *m->heap);
    m->heap = q;
    if (st) return st;
    candidate c = {p->rank, at, left, right, p->id};
    size_t i = m->n_heap++;
    for (; i > 0 && less(&c, &m->heap[(i - 1) / 2]); i = (i - 1) / 2)
        m->heap[i] = m->heap[(i - 1) / 2];
    m->heap[i] = c;
    return MOCL_OK;
}

static candidate pop(tok_merge *m) {
    candidate top = m->heap[0], c = m->heap[--m->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < m->n_heap; i = child) {
        if (child + 1 < m->n_heap && less(&m->heap[child + 1], &m->heap[child])) child++;
        if (!less(&m->heap[child], &c)) break;
        m->heap[i] = m->heap[child];
    }
    m->heap[i] = c;
    return top;
}

/* merges the symbols of m as far as the table goes; the first symbol stays at place 0 */
static mocl_status merge_symbols(mocl_ctx *ctx, const mocl_tokenizer *t, tok_merge *m) {
    m->n_heap = 0;
    for (size_t i = 0; i + 1 < m->n; i++) MOCL_TRY(push(ctx, t, m, (int32_t)i));
    for (uint32_t turn = 1; m->n_heap > 0; turn++) {
        candidate c = pop(m);
        symbol *left = &m->symbol[c.at];
        if (left->id != c.left || left->next < 0 || m->symbol[left->next].id != c.right) continue;
        symbol *right = &m->symbol[left->next];
        left->id = c.id;
        left->next = right->next;
        if (right->next >= 0) m->symbol[right->next].previous = c.at;
        right->id = -1; /* no candidate matches it any more */
        MOCL_TRY(push(ctx, t, m, left->previous));
        MOCL_TRY(push(ctx, t, m, c.at));
        if (turn % 65536 == 0) MOCL_TRY(mocl_poll(ctx));
    }
    return MOCL_OK;
}

static mocl_status no_token(mocl_ctx *ctx, const char *s, size_t n) {
    if (n > 1)
        return mocl_fail(ctx, MOCL_E_ARG, "encode: the vocabulary has no token for '%.*s'", (int)n,
                         s);
    return mocl_fail(ctx, MOCL_E_ARG, "encode: the vocabulary has no token for the byte 0x%02x",
                     (unsigned char)*s);
}

/* a character (or invalid byte) that is no token: its bytes, or the unknown token */
static mocl_status add_fallback(mocl_ctx *ctx, mocl_tokenizer *t, const char *s, size_t n,
                                bool *unknown) {
    tok_merge *m = t->merge;
    bool bytes = t->byte_fallback;
    for (size_t i = 0; i < n && bytes; i++) bytes = t->byte_id[(unsigned char)s[i]] >= 0;
    if (bytes) {
        for (size_t i = 0; i < n; i++)
            MOCL_TRY(add_symbol(ctx, m, t->byte_id[(unsigned char)s[i]]));
        *unknown = false;
        return MOCL_OK;
    }
    if (t->unk < 0) return no_token(ctx, s, n);
    bool fuse = *unknown && t->fuse_unk;
    *unknown = true;
    return fuse ? MOCL_OK : add_symbol(ctx, m, t->unk);
}

/* bytes of the character at s, 1 where there is none; in a .bin any bytes count in llama2.c's way: a
** byte and up to three continuation bytes */
static size_t character(const mocl_tokenizer *t, const char *s, size_t n) {
    uint32_t c;
    if (t->source_kind != TOK_SOURCE_BIN) {
        int len = mocl_tok_utf8(s, n, &c);
        return len ? (size_t)len : 1;
    }
    size_t len = 1;
    while (len < n && len < 4 && ((unsigned char)s[len] & 0xc0) == 0x80) len++;
    return len;
}

static int32_t first_id(const mocl_tokenizer *t, const char *s, size_t n) {
    uint32_t index;
    if (t->kind == TOK_KIND_BYTE_LEVEL) return t->byte_id[(unsigned char)*s];
    return mocl_tok_map_find(&t->vocab, s, n, &index) ? t->index_id[index] : -1;
}

/* the longest piece that users defined which s begins with: it is found before all else and merges with nothing */
static int32_t user_piece(const mocl_tokenizer *t, const char *s, size_t n, size_t *len) {
    uint32_t index;
    if (!t->user_first[(unsigned char)*s]) return -1;
    for (*len = n < t->longest_user ? n : t->longest_user; *len > 0; --*len)
        if (mocl_tok_map_find(&t->user, s, *len, &index)) return t->user_id[index];
    return -1;
}

static mocl_status first_symbols(mocl_ctx *ctx, mocl_tokenizer *t, const char *s, size_t n) {
    tok_merge *m = t->merge;
    m->n = 0;
    bool unknown = false; /* the symbol before is the unknown token */
    for (size_t i = 0, len; i < n; i += len) {
        int32_t user = t->user.n ? user_piece(t, s + i, n - i, &len) : -1;
        if (user >= 0) {
            MOCL_TRY(add_symbol(ctx, m, user));
            unknown = false;
            continue;
        }
        len = t->kind == TOK_KIND_BYTE_LEVEL ? 1 : character(t, s + i, n - i);
        int32_t id = first_id(t, s + i, len);
        if (id < 0) {
            MOCL_TRY(add_fallback(ctx, t, s + i, len, &unknown));
        } else {
            MOCL_TRY(add_symbol(ctx, m, id));
            unknown = false;
        }
    }
    if (m->n) m->symbol[m->n - 1].next = -1;
    return MOCL_OK;
}

static mocl_status whole_word(mocl_ctx *ctx, mocl_tokenizer *t, const char *s, size_t n,
                              int32_t *id) {
    uint32_t index;
    *id = -1;
    if (t->kind == TOK_KIND_BYTE_LEVEL) {
        t->spelled.n = 0;
        MOCL_TRY(mocl_tok_spell(ctx, &t->spelled, s, n));
        s = t->spelled.p;
        n = t->spelled.n;
    }
    if (mocl_tok_map_find(&t->vocab, s, n, &index)) *id = t->index_id[index];
    return MOCL_OK;
}

static mocl_status remember(mocl_ctx *ctx, tok_merge *m, const char *s, size_t n,
                            const int32_t *ids, size_t n_ids) {
    if (m->words.n >= CACHE_WORDS) {
        mocl_tok_map_clear(&m->words);
        m->cached.n = 0;
    }
    /* room first: a failure must not leave a word without its ids */
    size_t start = m->cached.n;
    void *q = m->ids;
    mocl_status st = mocl_tok_grow(ctx, &q, &m->ids_cap, m->words.n, 1, sizeof *m->ids);
    m->ids = q;
    if (st) return st;
    for (size_t i = 0; i < n_ids; i++) MOCL_TRY(mocl_tok_ids_add(ctx, &m->cached, ids[i]));
    uint32_t index;
    MOCL_TRY(mocl_tok_map_add(ctx, &m->words, s, n, &index, NULL));
    m->ids[index] = (tok_span){start, n_ids};
    return MOCL_OK;
}

mocl_status mocl_tok_word(mocl_ctx *ctx, mocl_tokenizer *t, const char *s, size_t n, tok_ids *out) {
    tok_merge *m = t->merge;
    uint32_t index;
    if (n == 0) return MOCL_OK;
    if (n <= CACHE_LENGTH && mocl_tok_map_find(&m->words, s, n, &index)) {
        tok_span ids = m->ids[index];
        for (size_t i = 0; i < ids.n; i++)
            MOCL_TRY(mocl_tok_ids_add(ctx, out, m->cached.p[ids.start + i]));
        return MOCL_OK;
    }
    size_t start = out->n;
    int32_t whole = -1;
    if (t->ignore_merges) MOCL_TRY(whole_word(ctx, t, s, n, &whole));
    if (whole >= 0) {
        MOCL_TRY(mocl_tok_ids_add(ctx, out, whole));
    } else if (t->kind == TOK_KIND_WORDPIECE) {
        MOCL_TRY(mocl_tok_wordpiece(ctx, t, s, n, out));
    } else {
        MOCL_TRY(first_symbols(ctx, t, s, n));
        MOCL_TRY(merge_symbols(ctx, t, m));
        for (int32_t i = m->n ? 0 : -1; i >= 0; i = m->symbol[i].next)
            MOCL_TRY(mocl_tok_ids_add(ctx, out, m->symbol[i].id));
    }
    return n <= CACHE_LENGTH ? remember(ctx, m, s, n, out->p + start, out->n - start) : MOCL_OK;
}
