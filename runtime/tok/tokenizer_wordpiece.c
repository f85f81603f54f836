/* tokenizer_wordpiece.c - WordPiece: the steps of BERT's tokenizers, and a word to ids.
**
** A word becomes the longest token that it begins with, then the longest token that continues it, which is spelled
** with a prefix ("##") in the vocabulary, and so on; a word for which this fails is the unknown token as a whole.
*/
#include <string.h>

#include "tok/tokenizer_impl.h"
#include "tok/unicode.h"

/* ---- normalizer ---- */

/* BERT's cleaning and what it sets apart by spaces, each if the step says so: control characters go, white space
** becomes a space. Other line breaks than \n and \r count as control characters, as in the original. */
mocl_status mocl_tok_bert_clean(mocl_ctx *ctx, const tok_step *step, const char *s, size_t n, tok_bytes *out) {
    bool clean = step->flag, apart = step->stop != 0;
    MOCL_TRY(mocl_tok_bytes_room(ctx, out, n));
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t len = (size_t)mocl_tok_utf8(s + i, n - i, &c);
        if (clean && (c < 0x20 || c == 0x7f)) {
            if (c == '\t' || c == '\n' || c == '\r') MOCL_TRY(mocl_tok_bytes_add(ctx, out, " ", 1));
        } else if (c < 0x80) {
            MOCL_TRY(mocl_tok_bytes_add(ctx, out, s + i, 1));
        } else if (clean && mocl_unicode_is_bert_removed(c)) {
            /* nothing is put */
        } else if (clean && mocl_unicode_is_space(c)) {
            MOCL_TRY(mocl_tok_bytes_add(ctx, out, " ", 1));
        } else {
            bool alone = apart && mocl_unicode_is_bert_apart(c);
            if (alone) MOCL_TRY(mocl_tok_bytes_add(ctx, out, " ", 1));
            MOCL_TRY(mocl_tok_bytes_add(ctx, out, s + i, len));
            if (alone) MOCL_TRY(mocl_tok_bytes_add(ctx, out, " ", 1));
        }
        i += len;
    }
    return MOCL_OK;
}

mocl_status mocl_tok_strip_marks(mocl_ctx *ctx, const tok_step *step, const char *s, size_t n, tok_bytes *out) {
    bool bert = step->kind == TOK_BERT_MARKS;
    size_t start = 0;
    MOCL_TRY(mocl_tok_bytes_room(ctx, out, n));
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t len = (size_t)mocl_tok_utf8(s + i, n - i, &c);
        if (c >= 0x300 && (bert ? mocl_unicode_is_bert_mark(c) : mocl_unicode_is_accent(c))) {
            MOCL_TRY(mocl_tok_bytes_add(ctx, out, s + start, i - start));
            start = i + len;
        }
        i += len;
    }
    return mocl_tok_bytes_add(ctx, out, s + start, n - start);
}

/* ---- pre-tokenizers ---- */

typedef enum class { SPACE, WORD, OTHER } class;

static bool ascii_punctuation(uint32_t c) {
    return (c >= 0x21 && c <= 0x2f) || (c >= 0x3a && c <= 0x40) || (c >= 0x5b && c <= 0x60) || (c >= 0x7b && c <= 0x7e);
}

/* OTHER is what is a word by itself, or for WORDS and PUNCTUATION what is no letter and the like */
static class class_of(tok_step_kind kind, uint32_t c) {
    if (kind != TOK_PUNCTUATION) {
        if (c < 0x80 ? c == ' ' || (c >= 9 && c <= 13) : mocl_unicode_is_space(c)) return SPACE;
        if (kind == TOK_WHITESPACE_SPLIT) return WORD;
    }
    if (kind == TOK_WORDS) return mocl_unicode_is_word(c) ? WORD : OTHER;
    return (c < 0x80 ? ascii_punctuation(c) : mocl_unicode_is_bert_punctuation(c)) ? OTHER : WORD;
}

mocl_status mocl_tok_split_classes(mocl_ctx *ctx, const tok_step *step, const char *s, tok_span span, tok_spans *out) {
    size_t end = span.start + span.n, start = span.start;
    class last = SPACE;
    for (size_t i = span.start, len; i < end; i += len) {
        uint32_t c;
        len = (size_t)mocl_tok_utf8(s + i, end - i, &c);
        class is = class_of(step->kind, c);
        bool glue = is == last && (is != OTHER || step->kind == TOK_WORDS);
        if (!glue) {
            if (last != SPACE && i > start) MOCL_TRY(mocl_tok_spans_add(ctx, out, start, i - start));
            start = i;
        }
        last = is;
    }
    return last != SPACE && end > start ? mocl_tok_spans_add(ctx, out, start, end - start) : MOCL_OK;
}

/* ---- model ---- */

static size_t characters(const char *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)s[i] & 0xc0) != 0x80;
    return count;
}

/* The longest token that s begins with, *n its bytes; -1 if there is none. t->spelled holds the prefix and s. */
static int32_t longest(const mocl_tokenizer *t, size_t prefix, size_t left, size_t *n) {
    const char *s = t->spelled.p;
    uint32_t index;
    *n = left;
    if (prefix + *n > t->longest) *n = t->longest > prefix ? t->longest - prefix : 0;
    for (; *n > 0; --*n) {
        bool cut = *n < left && ((unsigned char)s[prefix + *n] & 0xc0) == 0x80; /* inside a character */
        if (!cut && mocl_tok_map_find(&t->vocab, s, prefix + *n, &index)) return t->index_id[index];
    }
    return -1;
}

mocl_status mocl_tok_wordpiece(mocl_ctx *ctx, mocl_tokenizer *t, const char *s, size_t n, tok_ids *out) {
    size_t first = out->n;
    bool bad = n > t->max_characters && characters(s, n) > t->max_characters;
    for (size_t at = 0, len; at < n && !bad; at += len) {
        size_t prefix = at ? t->prefix.n : 0, left = n - at;
        if (left > t->longest + 4) left = t->longest + 4; /* no token is longer; the rest of a character */
        t->spelled.n = 0;
        MOCL_TRY(mocl_tok_bytes_add(ctx, &t->spelled, t->prefix.p, prefix));
        MOCL_TRY(mocl_tok_bytes_add(ctx, &t->spelled, s + at, left));
        int32_t id = longest(t, prefix, left, &len);
        bad = id < 0;
        if (!bad) MOCL_TRY(mocl_tok_ids_add(ctx, out, id));
    }
    if (!bad) return MOCL_OK;
    out->n = first;
    if (t->unk >= 0) return mocl_tok_ids_add(ctx, out, t->unk);
    return mocl_fail(ctx, MOCL_E_ARG, "encode: the vocabulary has no tokens for '%.*s' and no unknown token",
                     (int)(n > 60 ? 60 : n), s);
}

/* ---- decoder ---- */

static const char *const joined[][2] = {{" .", "."},     {" ?", "?"},     {" !", "!"},     {" ,", ","},
                                        {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"},   {" do not", " don't"},
                                        {" 's", "'s"},   {" 've", "'ve"}, {" 're", "'re"}};

mocl_status mocl_tok_clean_up(mocl_ctx *ctx, mocl_tokenizer *t) {
    for (size_t i = 0; i < sizeof joined / sizeof *joined; i++) {
        tok_step *step;
        if (strcmp(joined[i][0], " do not") == 0) continue; /* the decoder's own */
        MOCL_TRY(mocl_tok_steps_add(ctx, &t->whole, TOK_REPLACE, &step));
        MOCL_TRY(mocl_tok_bytes_add(ctx, &step->pattern, joined[i][0], strlen(joined[i][0])));
        MOCL_TRY(mocl_tok_bytes_add(ctx, &step->content, joined[i][1], strlen(joined[i][1])));
    }
    return MOCL_OK;
}

/* replaces all of `from` in b by `to`, which is not longer */
static void shorten(tok_bytes *b, const char *from, const char *to) {
    size_t n = strlen(from), m = strlen(to), kept = 0;
    for (size_t i = 0; i < b->n;) {
        bool found = b->n - i >= n && memcmp(b->p + i, from, n) == 0;
        if (found) memcpy(b->p + kept, to, m);
        else b->p[kept] = b->p[i];
        kept += found ? m : 1;
        i += found ? n : 1;
    }
    b->n = kept;
}

mocl_status mocl_tok_unprefix(mocl_ctx *ctx, const tok_step *step, bool first, const char *s, size_t n,
                              tok_bytes *out) {
    size_t m = step->content.n;
    bool continues = !first && n >= m && memcmp(s, step->content.p, m) == 0;
    if (!first && !continues) MOCL_TRY(mocl_tok_bytes_add(ctx, out, " ", 1));
    MOCL_TRY(mocl_tok_bytes_add(ctx, out, continues ? s + m : s, continues ? n - m : n));
    for (size_t i = 0; step->flag && i < sizeof joined / sizeof *joined; i++) shorten(out, joined[i][0], joined[i][1]);
    return MOCL_OK;
}
