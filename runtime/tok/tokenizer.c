/* tokenizer.c - the tokenizer object: making, encode, decode, streams */
#include "tok/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "tok/tokenizer_impl.h"

mocl_status mocl_tok_new(mocl_ctx *ctx, mocl_tokenizer **out) {
    mocl_tokenizer *t = mocl_calloc(ctx, 1, sizeof *t);
    *out = t;
    if (!t) return mocl_nomem(ctx, sizeof *t);
    t->bos = t->eos = t->unk = -1;
    for (int i = 0; i < 256; i++) t->byte_id[i] = -1;
    mocl_status st = mocl_tok_merge_new(ctx, t);
    if (st) {
        mocl_tokenizer_free(t);
        *out = NULL;
    }
    return st;
}

void mocl_tokenizer_free(mocl_tokenizer *t) {
    if (!t) return;
    mocl_tok_map_free(&t->vocab);
    mocl_tok_map_free(&t->user);
    mocl_tok_steps_free(&t->normalizer);
    mocl_tok_steps_free(&t->splitter);
    mocl_tok_steps_free(&t->decoder);
    mocl_tok_steps_free(&t->whole);
    mocl_tok_merge_free(t->merge);
    void *const memory[] = {
        t->index_id,     t->token,        t->piece,      t->piece_bytes.p, t->special,
        t->added_text.p, t->added,        t->pairs.slot, t->single,        t->pair,
        t->source.p,     t->text[0].p,    t->text[1].p,  t->text[2].p,     t->text[3].p,
        t->spelled.p,    t->decoded.p,    t->step[0].p,  t->step[1].p,     t->words.p,
        t->out.p,        t->more_words.p, t->side[0].p,  t->side[1].p,     t->side[2].p,
        t->prefix.p,     t->valid.p,      t->types.p,     t->user_id};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) mocl_free(memory[i]);
    mocl_free(t);
}

/* ---- building ---- */

static mocl_status check_id(mocl_ctx *ctx, mocl_tokenizer *t, const char *what, mocl_text spelling,
                            int64_t id) {
    if (id < 0 || id > TOK_MAX_ID)
        return mocl_fail(ctx, MOCL_E_FORMAT, "%s: token '%.*s' has id %lld, ids are 0 to %d", what,
                         (int)(spelling.n > 60 ? 60 : spelling.n), spelling.p, (long long)id,
                         TOK_MAX_ID);
    if (id >= t->n_vocab) t->n_vocab = (int32_t)id + 1;
    return MOCL_OK;
}

mocl_status mocl_tok_add(mocl_ctx *ctx, mocl_tokenizer *t, const char *what, mocl_text spelling,
                         int64_t id) {
    uint32_t index;
    bool added;
    MOCL_TRY(check_id(ctx, t, what, spelling, id));
    void *q = t->index_id;
    mocl_status st = mocl_tok_grow(ctx, &q, &t->index_cap, t->vocab.n, 1, sizeof *t->index_id);
    t->index_id = q;
    if (st) return st;
    MOCL_TRY(mocl_tok_map_add(ctx, &t->vocab, spelling.p, spelling.n, &index, &added));
    if (!added)
        return mocl_fail(ctx, MOCL_E_FORMAT, "%s: duplicate token '%.*s' (ids %d and %d)", what,
                         (int)(spelling.n > 60 ? 60 : spelling.n), spelling.p, t->index_id[index],
                         (int)id);
    t->index_id[index] = (int32_t)id;
    return MOCL_OK;
}

mocl_status mocl_tok_add_added(mocl_ctx *ctx, mocl_tokenizer *t, const char *what,
                               const tok_added *added) {
    MOCL_TRY(check_id(ctx, t, what, added->content, added->id));
    void *q = t->added;
    mocl_status st = mocl_tok_grow(ctx, &q, &t->added_cap, t->n_added, 1, sizeof *t->added);
    t->added = q;
    if (st) return st;
    t->added[t->n_added++] = *added;
    return MOCL_OK;
}

static int longest_first(const void *p, const void *q) {
    const tok_added *a = p, *b = q;
    if (a->match.n != b->match.n) return a->match.n > b->match.n ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* copies the texts of the added tokens and makes what their search needs */
static mocl_status finish_added(mocl_ctx *ctx, mocl_tokenizer *t) {
    t->words.n = 0;
    for (size_t i = 0; i < t->n_added; i++) {
        tok_added *a = &t->added[i];
        const char *s = a->content.p;
        size_t n = a->content.n;
        MOCL_TRY(mocl_tok_spans_add(ctx, &t->words, t->added_text.n, n));
        MOCL_TRY(mocl_tok_bytes_add(ctx, &t->added_text, s, n));
        if (a->normalized) MOCL_TRY(mocl_tok_normalize(ctx, t, TOK_TEXT, &s, &n));
        MOCL_TRY(mocl_tok_spans_add(ctx, &t->words, t->added_text.n, n));
        MOCL_TRY(mocl_tok_bytes_add(ctx, &t->added_text, s, n));
    }
    for (size_t i = 0; i < t->n_added; i++) {
        tok_added *a = &t->added[i];
        tok_span content = t->words.p[2 * i], match = t->words.p[2 * i + 1];
        a->content = (mocl_text){t->added_text.p + content.start, content.n};
        a->match = (mocl_text){t->added_text.p + match.start, match.n};
        a->in_text = a->in_text && match.n > 0;
        if (a->in_text) t->added_first[a->normalized][(unsigned char)a->match.p[0]] = true;
    }
    if (t->n_added) qsort(t->added, t->n_added, sizeof *t->added, longest_first);
    return MOCL_OK;
}

/* "Ġa" -> " a" if every character spells a byte, else the text as it is */
static mocl_status byte_level_piece(mocl_ctx *ctx, const char *s, size_t n, tok_bytes *out) {
    out->n = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        int len = mocl_tok_utf8(s + i, n - i, &c);
        int byte = len ? mocl_tok_char_byte(c) : -1;
        if (byte < 0) {
            out->n = 0;
            return mocl_tok_bytes_add(ctx, out, s, n);
        }
        char b = (char)byte;
        MOCL_TRY(mocl_tok_bytes_add(ctx, out, &b, 1));
        i += (size_t)len;
    }
    return MOCL_OK;
}

/* runs decoder steps on s; the result is s itself or in t->step. first: no token comes before */
static mocl_status run_decoder(mocl_ctx *ctx, mocl_tokenizer *t, const tok_steps *steps, bool first,
                               const char **s, size_t *n) {
    int turn = 0;
    for (size_t i = 0; i < steps->n; i++) {
        const tok_step *step = &steps->p[i];
        tok_bytes *out = &t->step[turn];
        out->n = 0;
        if (step->kind == TOK_STRIP) {
            mocl_tok_strip(step, s, n);
            continue;
        } else if (step->kind == TOK_BYTE_LEVEL) {
            MOCL_TRY(byte_level_piece(ctx, *s, *n, out));
        } else if (step->kind == TOK_BYTE_FALLBACK) {
            int byte = mocl_tok_hex_byte(*s, *n);
            if (byte < 0) continue;
            char b = (char)byte;
            MOCL_TRY(mocl_tok_bytes_add(ctx, out, &b, 1));
        } else if (step->kind == TOK_METASPACE) {
            MOCL_TRY(mocl_tok_unspace(ctx, step, first, *s, *n, out));
        } else if (step->kind == TOK_WORDPIECE) {
            MOCL_TRY(mocl_tok_unprefix(ctx, step, first, *s, *n, out));
        } else {
            MOCL_TRY(mocl_tok_replace(ctx, step, *s, *n, out));
        }
        if (out->n) *s = out->p;
        *n = out->n;
        turn = 1 - turn;
    }
    return MOCL_OK;
}

static mocl_status finish_pieces(mocl_ctx *ctx, mocl_tokenizer *t) {
    t->words.n = 0;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        const char *s = t->token[id].p ? t->token[id].p : "";
        size_t n = t->token[id].n;
        MOCL_TRY(run_decoder(ctx, t, &t->decoder, false, &s, &n));
        MOCL_TRY(mocl_tok_spans_add(ctx, &t->words, t->piece_bytes.n, n));
        MOCL_TRY(mocl_tok_bytes_add(ctx, &t->piece_bytes, s, n));
    }
    for (int32_t id = 0; id < t->n_vocab; id++) {
        tok_span w = t->words.p[id];
        t->piece[id] = (mocl_text){w.n ? t->piece_bytes.p + w.start : "", w.n};
    }
    return MOCL_OK;
}

/* whether something and then a space is in s */
static bool crosses_space(const mocl_tokenizer *t, mocl_text s) {
    size_t m = (size_t)t->n_space;
    bool after_space = true;
    for (size_t k = 0; k < s.n;) {
        bool space = s.n - k >= m && memcmp(s.p + k, t->space, m) == 0;
        if (space && !after_space) return true;
        after_space = space;
        k += space ? m : 1;
    }
    return false;
}

/* Without a pre-tokenizer, or with one for spaces alone, a text may be one word. Where no merge
*makes
** "x ", something and then a space, both sides of each such place are merged independently and may
** be cut there: so the cache works. */
static bool can_cut(const mocl_tokenizer *t) {
    uint32_t index;
    size_t m = (size_t)t->n_space;
    if (m == 0 || t->ignore_merges || t->kind == TOK_KIND_BYTE_LEVEL || t->kind == TOK_KIND_WORDPIECE) return false;
    for (size_t i = 0; i < t->splitter.n; i++)
        if (t->splitter.p[i].kind != TOK_METASPACE) return false;
    if (!mocl_tok_map_find(&t->vocab, t->space, m, &index)) return false;
    for (size_t i = 0; t->pairs.slot && i <= t->pairs.mask; i++)
        if (t->pairs.slot[i].id >= 0 && crosses_space(t, t->token[t->pairs.slot[i].id])) return false;
    for (size_t i = 0; i < t->user.n; i++)
        if (crosses_space(t, mocl_tok_map_key(&t->user, i))) return false;
    return true;
}

mocl_status mocl_tok_set_template(mocl_ctx *ctx, mocl_tokenizer *t, bool bos, bool eos) {
    t->n_single = t->n_pair = 0;
    for (int part = 0; part < 2; part++) {
        const int32_t ids[] = {bos ? t->bos : -1, part ? TOK_TEMPLATE_B : TOK_TEMPLATE_A,
                               eos ? t->eos : -1};
        for (int i = 0; i < 3; i++) {
            if (i != 1 && ids[i] < 0) continue;
            if (part == 0) MOCL_TRY(mocl_tok_template_add(ctx, t, false, ids[i], 0));
            MOCL_TRY(mocl_tok_template_add(ctx, t, true, ids[i], part));
        }
    }
    return MOCL_OK;
}

mocl_status mocl_tok_template_add(mocl_ctx *ctx, mocl_tokenizer *t, bool pair, int32_t id, int32_t type) {
    tok_part **parts = pair ? &t->pair : &t->single;
    size_t *n = pair ? &t->n_pair : &t->n_single, *cap = pair ? &t->pair_cap : &t->single_cap;
    void *q = *parts;
    mocl_status st = mocl_tok_grow(ctx, &q, cap, *n, 1, sizeof **parts);
    *parts = q;
    if (st) return st;
    (*parts)[(*n)++] = (tok_part){id, type};
    return MOCL_OK;
}

mocl_status mocl_tok_default_template(mocl_ctx *ctx, mocl_tokenizer *t) {
    bool none = t->source_kind == TOK_SOURCE_JSON || (t->source_kind == TOK_SOURCE_MODEL && t->kind == TOK_KIND_BYTE_LEVEL);
    if (t->n_single || (none && !t->own)) return MOCL_OK;
    return mocl_tok_set_template(ctx, t, true, false);
}

mocl_status mocl_tok_finish(mocl_ctx *ctx, mocl_tokenizer *t, const char *what) {
    size_t n = (size_t)t->n_vocab;
    MOCL_TRY(finish_added(ctx, t));
    t->token = mocl_calloc(ctx, n, sizeof *t->token);
    t->piece = mocl_calloc(ctx, n, sizeof *t->piece);
    t->special = mocl_calloc(ctx, n, sizeof *t->special);
    if (!t->token || !t->piece || !t->special) return mocl_nomem(ctx, n * 33);
    for (size_t i = 0; i < t->vocab.n; i++) {
        int32_t id = t->index_id[i];
        mocl_text s = mocl_tok_map_key(&t->vocab, i);
        if (s.n > t->longest) t->longest = s.n;
        if (t->token[id].p)
            return mocl_fail(ctx, MOCL_E_FORMAT, "%s: tokens '%.*s' and '%.*s' have the same id %d",
                             what, (int)(t->token[id].n > 60 ? 60 : t->token[id].n), t->token[id].p,
                             (int)(s.n > 60 ? 60 : s.n), s.p, id);
        t->token[id] = s;
    }
    for (size_t i = 0; i < t->n_added; i++) {
        const tok_added *a = &t->added[i];
        t->token[a->id] = a->content;
        t->special[a->id] = a->special;
    }
    MOCL_TRY(finish_pieces(ctx, t));
    t->cut_at_space = can_cut(t);
    return MOCL_OK;
}

/* ---- encode ---- */

static mocl_status encode_words(mocl_ctx *ctx, mocl_tokenizer *t, tok_place place, const char *s,
                                size_t n) {
    MOCL_TRY(mocl_tok_split(ctx, t, place, &s, &n));
    for (size_t i = 0; i < t->words.n; i++) {
        if (i % 4096 == 4095) MOCL_TRY(mocl_poll(ctx));
        MOCL_TRY(mocl_tok_word(ctx, t, s + t->words.p[i].start, t->words.p[i].n, &t->out));
    }
    return MOCL_OK;
}

/* s is valid UTF-8, unless the model takes any bytes */
static mocl_status encode_run(mocl_ctx *ctx, mocl_tokenizer *t, tok_place place, bool no_special,
                              const char *s, size_t n) {
    MOCL_TRY(mocl_tok_normalize(ctx, t, place, &s, &n));
    size_t at = 0;
    while (at < n) {
        const tok_added *added;
        size_t start = n, end = n;
        mocl_tok_added_find(t, true, no_special, s, n, at, &added, &start, &end);
        MOCL_TRY(encode_words(ctx, t, at > 0 ? TOK_SEGMENT : place, s + at, start - at));
        if (added) MOCL_TRY(mocl_tok_ids_add(ctx, &t->out, added->id));
        at = end;
    }
    return MOCL_OK;
}

/* s with U+FFFD for each byte that belongs to no character: WordPiece knows characters alone */
static mocl_status make_valid(mocl_ctx *ctx, mocl_tokenizer *t, const char **s, size_t *n) {
    size_t i = 0;
    uint32_t c;
    for (int len; i < *n && (len = mocl_tok_utf8(*s + i, *n - i, &c)) > 0;) i += (size_t)len;
    if (i == *n) return MOCL_OK;
    t->valid.n = 0;
    for (i = 0; i < *n;) {
        int len = mocl_tok_utf8(*s + i, *n - i, &c);
        MOCL_TRY(mocl_tok_bytes_add(ctx, &t->valid, len ? *s + i : "\xef\xbf\xbd", len ? (size_t)len : 3));
        i += len ? (size_t)len : 1;
    }
    *s = t->valid.p;
    *n = t->valid.n;
    return MOCL_OK;
}

static mocl_status encode_segment(mocl_ctx *ctx, mocl_tokenizer *t, tok_place place,
                                  bool no_special, const char *s, size_t n) {
    if (t->kind == TOK_KIND_SENTENCEPIECE) {
        /* a stray continuation byte must not make one character with the space put before it */
        bool prefix = t->normalizer.n && t->normalizer.p[t->normalizer.n - 1].kind == TOK_PREPEND;
        bool apart = prefix && n > 0 && ((unsigned char)s[0] & 0xc0) == 0x80;
        if (apart) MOCL_TRY(mocl_tok_word(ctx, t, t->space, (size_t)t->n_space, &t->out));
        return encode_run(ctx, t, apart ? TOK_INSIDE : place, no_special, s, n);
    }
    if (t->kind == TOK_KIND_WORDPIECE) MOCL_TRY(make_valid(ctx, t, &s, &n));
    for (size_t at = 0, i = 0; at < n; at = i) {
        uint32_t c;
        int len;
        while (i < n && (len = mocl_tok_utf8(s + i, n - i, &c)) > 0) i += (size_t)len;
        if (i > at)
            MOCL_TRY(encode_run(ctx, t, at ? TOK_INSIDE : place, no_special, s + at, i - at));
        size_t bad = i;
        while (i < n && mocl_tok_utf8(s + i, n - i, &c) == 0) i++;
        MOCL_TRY(mocl_tok_word(ctx, t, s + bad, i - bad, &t->out));
    }
    return MOCL_OK;
}

static mocl_status encode_text(mocl_ctx *ctx, mocl_tokenizer *t, bool no_special, const char *s,
                               size_t n) {
    size_t at = 0;
    while (at < n) {
        const tok_added *added;
        size_t start = n, end = n;
        mocl_tok_added_find(t, false, no_special, s, n, at, &added, &start, &end);
        MOCL_TRY(
            encode_segment(ctx, t, at ? TOK_SEGMENT : TOK_TEXT, no_special, s + at, start - at));
        if (added) MOCL_TRY(mocl_tok_ids_add(ctx, &t->out, added->id));
        at = end;
    }
    return MOCL_OK;
}

/* the type of the ids that have none yet */
static mocl_status fill_types(mocl_ctx *ctx, mocl_tokenizer *t, bool wanted, int32_t type) {
    while (wanted && t->types.n < t->out.n) MOCL_TRY(mocl_tok_ids_add(ctx, &t->types, type));
    return MOCL_OK;
}

const int32_t *mocl_tokenizer_type_ids(const mocl_tokenizer *t) { return t->types.p; }

mocl_status mocl_tokenizer_encode(mocl_ctx *ctx, mocl_tokenizer *t, const char *text, size_t n,
                                  const mocl_tokenizer_encode_options *options, const int32_t **ids,
                                  size_t *n_ids) {
    static const mocl_tokenizer_encode_options none = {0};
    const mocl_tokenizer_encode_options *o = options ? options : &none;
    *ids = NULL;
    *n_ids = 0;
    if (o->bos && t->bos < 0)
        return mocl_fail(ctx, MOCL_E_ARG,
                         "encode: bos = true, but this tokenizer has no BOS token");
    if (o->eos && t->eos < 0)
        return mocl_fail(ctx, MOCL_E_ARG,
                         "encode: eos = true, but this tokenizer has no EOS token");
    static const tok_part plain[] = {{TOK_TEMPLATE_A, 0}, {TOK_TEMPLATE_B, 1}};
    const tok_part *part = plain;
    size_t n_parts = o->pair ? 2 : 1;
    if (t->n_single) {
        part = o->pair ? t->pair : t->single;
        n_parts = o->pair ? t->n_pair : t->n_single;
    }
    bool no_special = o->special == 0 ? t->split_special : o->special < 0;
    t->out.n = t->types.n = 0;
    if (o->bos) MOCL_TRY(mocl_tok_ids_add(ctx, &t->out, t->bos));
    for (size_t i = 0; i < n_parts; i++) {
        if (part[i].id == TOK_TEMPLATE_A)
            MOCL_TRY(encode_text(ctx, t, no_special, text, n));
        else if (part[i].id == TOK_TEMPLATE_B)
            MOCL_TRY(encode_text(ctx, t, no_special, o->pair->p, o->pair->n));
        else if (o->with_template)
            MOCL_TRY(mocl_tok_ids_add(ctx, &t->out, part[i].id));
        MOCL_TRY(fill_types(ctx, t, o->type_ids, part[i].type));
    }
    if (o->eos) MOCL_TRY(mocl_tok_ids_add(ctx, &t->out, t->eos));
    MOCL_TRY(fill_types(ctx, t, o->type_ids, n_parts ? part[n_parts - 1].type : 0));
    *ids = t->out.p;
    *n_ids = t->out.n;
    return MOCL_OK;
}

/* ---- decode ---- */

/* *known: the id is a token. A model may have more rows than its tokenizer has ids, so that one
*from
** above the vocabulary is no mistake of the caller, and is no text. */
static mocl_status check_decode(mocl_ctx *ctx, const mocl_tokenizer *t, int32_t id, bool *known) {
    *known = id >= 0 && id < t->n_vocab && t->token[id].p;
    return id >= 0 ? MOCL_OK : mocl_fail(ctx, MOCL_E_ARG, "decode: id %d is negative", id);
}

/* appends what id adds to a text in which `last` came before it (-1: nothing) */
static mocl_status add_piece(mocl_ctx *ctx, mocl_tokenizer *t, int32_t last, bool joined,
                             int32_t id) {
    mocl_text piece = t->piece[id];
    if (t->first_differs && !joined) {
        piece = t->token[id];
        MOCL_TRY(run_decoder(ctx, t, &t->decoder, true, &piece.p, &piece.n));
    }
    if (t->strip_after_bos && last >= 0 && last == t->bos && piece.n && piece.p[0] == ' ')
        piece.p++, piece.n--;
    if (t->join_with_space && joined) MOCL_TRY(mocl_tok_bytes_add(ctx, &t->decoded, " ", 1));
    return mocl_tok_bytes_add(ctx, &t->decoded, piece.p, piece.n);
}

mocl_status mocl_tokenizer_decode(mocl_ctx *ctx, mocl_tokenizer *t, const int32_t *ids,
                                  size_t n_ids, bool skip_special, const char **text, size_t *n) {
    *text = "";
    *n = 0;
    t->decoded.n = 0;
    bool joined = false;
    for (size_t i = 0; i < n_ids; i++) {
        bool known;
        MOCL_TRY(check_decode(ctx, t, ids[i], &known));
        if (!known || (skip_special && t->special[ids[i]])) continue;
        MOCL_TRY(add_piece(ctx, t, i ? ids[i - 1] : -1, joined, ids[i]));
        joined = true;
    }
    if (t->decoded.n == 0) return MOCL_OK;
    *text = t->decoded.p;
    *n = t->decoded.n;
    return run_decoder(ctx, t, &t->whole, false, text, n);
}

mocl_status mocl_tokenizer_stream_begin(mocl_ctx *ctx, mocl_tokenizer *t, mocl_tokenizer_stream *s,
                                        bool skip_special) {
    *s = (mocl_tokenizer_stream){.skip_special = skip_special, .last = -1};
    for (size_t i = 0; i < t->whole.n; i++)
        if (t->whole.n > 1 || t->whole.p[i].kind != TOK_STRIP || t->whole.p[i].stop != 0)
            return mocl_fail(ctx, MOCL_E_ARG,
                             "decode_stream: the decoder of this tokenizer needs the whole text");
    if (t->whole.n) s->strip_left = t->whole.p[0].start;
    return MOCL_OK;
}

/* bytes at the end of s that may yet become one character */
static size_t unfinished(const char *s, size_t n) {
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        unsigned char lead = (unsigned char)s[n - k];
        if (lead < 0xc0) continue;
        size_t len = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
        if (len <= k) return 0;
        for (int fill = 0; fill < 2; fill++) {
            char c[4];
            uint32_t codepoint;
            memset(c, fill ? 0xbf : 0x80, sizeof c);
            memcpy(c, s + n - k, k);
            if (mocl_tok_utf8(c, len, &codepoint)) return k;
        }
        return 0;
    }
    return 0;
}

mocl_status mocl_tokenizer_stream_push(mocl_ctx *ctx, mocl_tokenizer *t, mocl_tokenizer_stream *s,
                                       int32_t id, const char **text, size_t *n) {
    *text = "";
    *n = 0;
    bool known;
    MOCL_TRY(check_decode(ctx, t, id, &known));
    int32_t last = s->last;
    s->last = id;
    if (!known || (s->skip_special && t->special[id])) return MOCL_OK;
    t->decoded.n = 0;
    MOCL_TRY(mocl_tok_bytes_add(ctx, &t->decoded, s->pending, (size_t)s->n_pending));
    MOCL_TRY(add_piece(ctx, t, last, s->started, id));
    s->started = true;
    const char *p = t->decoded.p;
    size_t left = t->decoded.n;
    if (s->strip_left > 0 && left > 0) {
        tok_step strip = t->whole.p[0];
        size_t m = strip.content.n, before = left;
        strip.start = s->strip_left;
        mocl_tok_strip(&strip, &p, &left);
        s->strip_left -= (int32_t)((before - left) / m);
        if (left >= m || memcmp(p, strip.content.p, left) != 0) s->strip_left = 0;
    }
    size_t keep = unfinished(p, left);
    s->n_pending = (int)keep;
    if (keep) memcpy(s->pending, p + left - keep, keep); /* p is NULL where nothing was decoded */
    *text = p;
    *n = left - keep;
    return MOCL_OK;
}

mocl_status mocl_tokenizer_stream_flush(mocl_ctx *ctx, mocl_tokenizer *t, mocl_tokenizer_stream *s,
                                        const char **text, size_t *n) {
    t->decoded.n = 0;
    MOCL_TRY(mocl_tok_bytes_add(ctx, &t->decoded, s->pending, (size_t)s->n_pending));
    *text = t->decoded.n ? t->decoded.p : "";
    *n = t->decoded.n;
    return mocl_tokenizer_stream_begin(ctx, t, s, s->skip_special);
}

/* ---- reading ---- */

int32_t mocl_tokenizer_vocab_size(const mocl_tokenizer *t) { return t->n_vocab; }
int32_t mocl_tokenizer_bos(const mocl_tokenizer *t) { return t->bos; }
int32_t mocl_tokenizer_eos(const mocl_tokenizer *t) { return t->eos; }

const char *mocl_tokenizer_kind(const mocl_tokenizer *t) {
    if (t->kind == TOK_KIND_BYTE_LEVEL) return "byte-level bpe";
    if (t->kind == TOK_KIND_WORDPIECE) return "wordpiece";
    return t->kind == TOK_KIND_CHARACTER ? "character bpe" : "sentencepiece bpe";
}

int32_t mocl_tokenizer_token_to_id(const mocl_tokenizer *t, const char *token, size_t n) {
    uint32_t index;
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].content.n == n && memcmp(t->added[i].content.p, token, n) == 0)
            return t->added[i].id;
    return mocl_tok_map_find(&t->vocab, token, n, &index) ? t->index_id[index] : -1;
}

mocl_text mocl_tokenizer_id_to_token(const mocl_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n_vocab ? t->token[id] : (mocl_text){NULL, 0};
}
