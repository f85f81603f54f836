/* tokenizer_text.c - normalizing, splitting into words and finding added tokens.
**
** All of it works on valid UTF-8; tokenizer.c cuts a text where it is not.
*/
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "tok/tokenizer_impl.h"
#include "tok/unicode.h"

void mocl_tok_steps_free(tok_steps *steps) {
    for (size_t i = 0; i < steps->n; i++) {
        tok_step *s = &steps->p[i];
        mocl_free(s->pattern.p);
        mocl_free(s->content.p);
        pcre2_code_free(s->regex);
        pcre2_code_free(s->exact);
        pcre2_match_data_free(s->match);
    }
    mocl_free(steps->p);
    *steps = (tok_steps){0};
}

/* ---- normalizer ---- */

static bool is_ascii(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] >= 0x80) return false;
    return true;
}

/* a step that changes no ASCII */
static bool is_form(tok_step_kind kind) {
    return kind <= TOK_NFKD || kind == TOK_BERT_MARKS || kind == TOK_ACCENTS;
}

/* start of the character that ends at `end`, or `end` if none does */
static size_t before(const char *s, size_t end, uint32_t *c) {
    for (size_t len = 1; len <= 4 && len <= end; len++)
        if (mocl_tok_utf8(s + end - len, len, c) == (int)len) return end - len;
    return end;
}

/* appends the form of s, which no barrier is in */
static mocl_status put_form(mocl_ctx *ctx, tok_step_kind kind, const char *s, size_t n,
                            tok_bytes *out) {
    int options = UTF8PROC_STABLE;
    options |= kind == TOK_NFC || kind == TOK_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (kind == TOK_NFKC || kind == TOK_NFKD) options |= UTF8PROC_COMPAT;
    utf8proc_uint8_t *form = NULL;
    if (n == 0) return MOCL_OK;
    if (!mocl_may_alloc(ctx)) return mocl_nomem(ctx, n);
    utf8proc_ssize_t m = utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &form,
                                      (utf8proc_option_t)options);
    if (m == UTF8PROC_ERROR_NOMEM) return mocl_nomem(ctx, n);
    if (m < 0)
        return mocl_fail(ctx, MOCL_E_ARG, "normalizing a text failed: %s", utf8proc_errmsg(m));
    mocl_status st = mocl_tok_bytes_add(ctx, out, form, (size_t)m);
    free(form);
    return st;
}

/* The reference's tables are older than utf8proc's: to them a newer character neither decomposes,
** joins a neighbour nor moves. So the text is normalized between such characters. ASCII is left alone by every form
** and parts what is around it, but for the last one before another character, which may join that. */
static mocl_status unicode_form(mocl_ctx *ctx, tok_step_kind kind, const char *s, size_t n,
                                tok_bytes *out) {
    size_t start = 0; /* of what is to be normalized */
    MOCL_TRY(mocl_tok_bytes_room(ctx, out, n));
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && (unsigned char)s[end] < 0x80) end++;
        if (end - i > 1 || end == n) {
            MOCL_TRY(put_form(ctx, kind, s + start, i - start, out));
            start = end < n ? end - 1 : n;
            MOCL_TRY(mocl_tok_bytes_add(ctx, out, s + i, start - i));
        }
        i = end;
        if (i == n) break;
        uint32_t c;
        size_t len = (size_t)mocl_tok_utf8(s + i, n - i, &c);
        if (c >= 0x300 && mocl_unicode_form_barrier(c)) {
            MOCL_TRY(put_form(ctx, kind, s + start, i - start, out));
            MOCL_TRY(mocl_tok_bytes_add(ctx, out, s + i, len));
            start = i + len;
        }
        i += len;
    }
    return put_form(ctx, kind, s + start, n - start, out);
}

static mocl_status lowercase(mocl_ctx *ctx, const char *s, size_t n, tok_bytes *out) {
    MOCL_TRY(mocl_tok_bytes_room(ctx, out, n));
    for (size_t i = 0; i < n;) {
        uint32_t c;
        for (; i < n && (unsigned char)s[i] < 0x80 && out->n < out->cap; i++)
            out->p[out->n++] = (char)(s[i] >= 'A' && s[i] <= 'Z' ? s[i] + ('a' - 'A') : s[i]);
        if (i == n) break;
        int len = mocl_tok_utf8(s + i, n - i, &c);
        char low[4];
        i += (size_t)len;
        if (c == 0x130) { /* the only character whose lower case is two characters */
            MOCL_TRY(mocl_tok_bytes_add(ctx, out, "i\xcc\x87", 3));
            continue;
        }
        len = mocl_tok_utf8_put(mocl_unicode_lower(c), low);
        MOCL_TRY(mocl_tok_bytes_add(ctx, out, low, (size_t)len));
    }
    return MOCL_OK;
}

mocl_status mocl_tok_replace(mocl_ctx *ctx, const tok_step *step, const char *s, size_t n,
                             tok_bytes *out) {
    tok_search q = mocl_tok_search(step, s, n);
    size_t at = 0, start, end;
    for (bool found;;) {
        MOCL_TRY(mocl_tok_search_next(ctx, &q, &start, &end, &found));
        if (!found) break;
        MOCL_TRY(mocl_tok_bytes_add(ctx, out, s + at, start - at));
        MOCL_TRY(mocl_tok_bytes_add(ctx, out, step->content.p, step->content.n));
        at = end;
    }
    return at < n ? mocl_tok_bytes_add(ctx, out, s + at, n - at) : MOCL_OK;
}

/* takes white space off the ends that a TRIM step names */
static void trim(const tok_step *step, const char **s, size_t *n) {
    uint32_t c;
    for (int len; step->start && *n && (len = mocl_tok_utf8(*s, *n, &c)) && mocl_unicode_is_space(c);) {
        *s += len;
        *n -= (size_t)len;
    }
    for (size_t p; step->stop && *n && (p = before(*s, *n, &c)) < *n && mocl_unicode_is_space(c);) *n = p;
}

void mocl_tok_strip(const tok_step *step, const char **s, size_t *n) {
    size_t m = step->content.n;
    for (int32_t i = 0; i < step->start && *n >= m && !memcmp(*s, step->content.p, m); i++)
        *s += m, *n -= m;
    for (int32_t i = 0; i < step->stop && *n >= m && !memcmp(*s + *n - m, step->content.p, m); i++)
        *n -= m;
}

mocl_status mocl_tok_normalize(mocl_ctx *ctx, mocl_tokenizer *t, tok_place place, const char **s,
                               size_t *n) {
    int turn = 0;
    for (size_t i = 0; i < t->normalizer.n; i++) {
        const tok_step *step = &t->normalizer.p[i];
        tok_place least = step->scheme == TOK_FIRST ? TOK_TEXT : TOK_SEGMENT;
        if (step->kind == TOK_PREPEND && (place < least || *n == 0)) continue;
        if (step->kind == TOK_TRIM) trim(step, s, n);
        if (step->kind == TOK_TRIM || (is_form(step->kind) && is_ascii(*s, *n))) continue;
        tok_bytes *out = &t->text[turn];
        out->n = 0;
        switch (step->kind) {
            case TOK_LOWERCASE:
                MOCL_TRY(lowercase(ctx, *s, *n, out));
                break;
            case TOK_REPLACE:
                MOCL_TRY(mocl_tok_replace(ctx, step, *s, *n, out));
                break;
            case TOK_PREPEND:
                MOCL_TRY(mocl_tok_bytes_add(ctx, out, step->content.p, step->content.n));
                MOCL_TRY(mocl_tok_bytes_add(ctx, out, *s, *n));
                break;
            case TOK_BERT_CLEAN:
                MOCL_TRY(mocl_tok_bert_clean(ctx, step, *s, *n, out));
                break;
            case TOK_BERT_MARKS:
            case TOK_ACCENTS:
                MOCL_TRY(mocl_tok_strip_marks(ctx, step, *s, *n, out));
                break;
            default:
                MOCL_TRY(unicode_form(ctx, step->kind, *s, *n, out));
                break;
        }
        if (out->n) *s = out->p;
        *n = out->n;
        turn = 1 - turn;
    }
    return MOCL_OK;
}

/* ---- pre-tokenizer ---- */

/* Appends [start, end) unless it is empty, glued to the last span of `out` if `glue`. */
static mocl_status add_piece(mocl_ctx *ctx, tok_spans *out, size_t start, size_t end, bool glue) {
    if (end <= start) return MOCL_OK;
    if (glue) {
        out->p[out->n - 1].n += end - start;
        return MOCL_OK;
    }
    return mocl_tok_spans_add(ctx, out, start, end - start);
}

/* What the pieces of one span become. They come in order; a match may be empty and still parts its
** neighbours. */
typedef struct splitter {
    tok_spans *out;
    size_t first; /* out->n when the span began */
    tok_behavior behavior;
    bool last; /* the piece before was a match */
} splitter;

static mocl_status split_piece(mocl_ctx *ctx, splitter *sp, size_t start, size_t end, bool match) {
    bool have = sp->out->n > sp->first, glue = false;
    switch (sp->behavior) {
        case TOK_REMOVED:
            if (match) return MOCL_OK;
            break;
        case TOK_ISOLATED:
            break;
        case TOK_CONTIGUOUS:
            glue = have && sp->last == match;
            break;
        case TOK_MERGED_WITH_PREVIOUS:
            glue = have && match && !sp->last;
            break;
        case TOK_MERGED_WITH_NEXT:
            glue = have && !match && sp->last;
            break;
    }
    sp->last = match;
    if (!glue) return mocl_tok_spans_add(ctx, sp->out, start, end - start);
    sp->out->p[sp->out->n - 1].n += end - start;
    return MOCL_OK;
}

static mocl_status split_span(mocl_ctx *ctx, const tok_step *step, const char *s, tok_span span,
                              tok_spans *out) {
    splitter sp = {out, out->n, step->behavior, false};
    tok_search q = mocl_tok_search(step, s + span.start, span.n);
    size_t at = 0, start, end;
    for (bool found;;) {
        MOCL_TRY(mocl_tok_search_next(ctx, &q, &start, &end, &found));
        if (!found) break;
        if (start > at)
            MOCL_TRY(split_piece(ctx, &sp, span.start + at, span.start + start, step->flag));
        MOCL_TRY(split_piece(ctx, &sp, span.start + start, span.start + end, !step->flag));
        at = end;
    }
    if (span.n > at)
        MOCL_TRY(split_piece(ctx, &sp, span.start + at, span.start + span.n, step->flag));
    size_t kept = sp.first;
    for (size_t i = sp.first; i < out->n; i++)
        if (out->p[i].n) out->p[kept++] = out->p[i];
    out->n = kept;
    return MOCL_OK;
}

static mocl_status split_digits(mocl_ctx *ctx, bool one_by_one, const char *s, tok_span span,
                                tok_spans *out) {
    size_t end = span.start + span.n, first = out->n;
    bool last = false;
    for (size_t i = span.start; i < end;) {
        uint32_t c;
        size_t len = (size_t)mocl_tok_utf8(s + i, end - i, &c);
        bool digit = mocl_unicode_is_number(c);
        bool glue = out->n > first && digit == last && !(digit && one_by_one);
        MOCL_TRY(add_piece(ctx, out, i, i + len, glue));
        last = digit;
        i += len;
    }
    return MOCL_OK;
}

/* puts a space before each span that does not begin with one, into `out` */
static mocl_status prefix_spaces(mocl_ctx *ctx, mocl_tokenizer *t, bool first, tok_bytes *out,
                                 const char **s, size_t *n) {
    for (size_t i = 0; i < t->words.n; i++) {
        tok_span w = t->words.p[i];
        size_t start = out->n;
        if (w.n && (*s)[w.start] != ' ' && (first || i > 0))
            MOCL_TRY(mocl_tok_bytes_add(ctx, out, " ", 1));
        MOCL_TRY(mocl_tok_bytes_add(ctx, out, *s + w.start, w.n));
        MOCL_TRY(mocl_tok_spans_add(ctx, &t->more_words, start, out->n - start));
    }
    if (out->n) *s = out->p;
    *n = out->n;
    return MOCL_OK;
}

/* Spaces become the character of the step, which goes before a word that does not begin with it; into
** `out`, with the words in t->more_words. */
static mocl_status metaspace(mocl_ctx *ctx, mocl_tokenizer *t, const tok_step *step,
                             tok_place place, tok_bytes *out, const char **s, size_t *n) {
    const tok_bytes *space = &step->content;
    for (size_t i = 0; i < t->words.n; i++) {
        tok_span w = t->words.p[i];
        const char *p = *s + w.start;
        size_t start = out->n, from = start;
        bool spaced =
            p[0] == ' ' || (w.n >= space->n && memcmp(p, space->p, space->n) == 0);
        bool prefix = step->scheme == TOK_ALWAYS  ? place != TOK_INSIDE || i > 0
                      : step->scheme == TOK_FIRST ? place == TOK_TEXT && w.start == 0
                                                  : false;
        if (prefix && !spaced) MOCL_TRY(mocl_tok_bytes_add(ctx, out, space->p, space->n));
        for (size_t k = 0; k < w.n; k++)
            MOCL_TRY(p[k] == ' ' ? mocl_tok_bytes_add(ctx, out, space->p, space->n)
                                 : mocl_tok_bytes_add(ctx, out, p + k, 1));
        for (size_t k = start + 1; step->flag && k + space->n <= out->n; k++) {
            if (memcmp(out->p + k, space->p, space->n) != 0) continue;
            MOCL_TRY(add_piece(ctx, &t->more_words, from, k, false));
            from = k;
        }
        MOCL_TRY(add_piece(ctx, &t->more_words, from, out->n, false));
    }
    if (out->n) *s = out->p;
    *n = out->n;
    return MOCL_OK;
}

mocl_status mocl_tok_unspace(mocl_ctx *ctx, const tok_step *step, bool first, const char *s,
                             size_t n, tok_bytes *out) {
    const tok_bytes *space = &step->content;
    bool drop = first && step->scheme != TOK_NEVER;
    for (size_t i = 0; i < n;) {
        bool found = n - i >= space->n && memcmp(s + i, space->p, space->n) == 0;
        if (!found || !drop) MOCL_TRY(mocl_tok_bytes_add(ctx, out, found ? " " : s + i, 1));
        i += found ? space->n : 1;
    }
    return MOCL_OK;
}

bool mocl_tok_prefixes(const mocl_tokenizer *t) {
    for (size_t i = 0; i < t->normalizer.n; i++)
        if (t->normalizer.p[i].kind == TOK_PREPEND) return true;
    for (size_t i = 0; i < t->splitter.n; i++) {
        const tok_step *step = &t->splitter.p[i];
        if (step->kind == TOK_PREFIX_SPACE) return true;
        if (step->kind == TOK_METASPACE && step->scheme != TOK_NEVER) return true;
    }
    return false;
}

/* whole characters of a span cut before each space character that follows something else */
static mocl_status cut_at_space(mocl_ctx *ctx, mocl_tokenizer *t, const char *s, tok_span span) {
    size_t start = span.start, end = span.start + span.n;
    size_t m = (size_t)t->n_space;
    bool after_space = true;
    for (size_t i = start; i < end;) {
        bool space = end - i >= m && memcmp(s + i, t->space, m) == 0;
        if (space && !after_space) {
            MOCL_TRY(mocl_tok_spans_add(ctx, &t->more_words, start, i - start));
            start = i;
        }
        after_space = space;
        i += space ? m : 1;
    }
    return add_piece(ctx, &t->more_words, start, end, false);
}

mocl_status mocl_tok_split(mocl_ctx *ctx, mocl_tokenizer *t, tok_place place, const char **s,
                           size_t *n) {
    int turn = 2;
    t->words.n = 0;
    if (*n == 0) return MOCL_OK;
    MOCL_TRY(mocl_tok_spans_add(ctx, &t->words, 0, *n));
    for (size_t k = 0; k < t->splitter.n + t->cut_at_space; k++) {
        const tok_step *step = k < t->splitter.n ? &t->splitter.p[k] : NULL;
        t->more_words.n = 0;
        if (step && (step->kind == TOK_PREFIX_SPACE || step->kind == TOK_METASPACE)) {
            tok_bytes *out = &t->text[turn];
            out->n = 0;
            MOCL_TRY(step->kind == TOK_METASPACE
                         ? metaspace(ctx, t, step, place, out, s, n)
                         : prefix_spaces(ctx, t, place != TOK_INSIDE, out, s, n));
            turn = 5 - turn;
        } else {
            for (size_t i = 0; i < t->words.n; i++) {
                if (!step)
                    MOCL_TRY(cut_at_space(ctx, t, *s, t->words.p[i]));
                else if (step->kind == TOK_DIGITS)
                    MOCL_TRY(split_digits(ctx, step->flag, *s, t->words.p[i], &t->more_words));
                else if (step->kind != TOK_SPLIT)
                    MOCL_TRY(mocl_tok_split_classes(ctx, step, *s, t->words.p[i], &t->more_words));
                else
                    MOCL_TRY(split_span(ctx, step, *s, t->words.p[i], &t->more_words));
            }
        }
        tok_spans swap = t->words;
        t->words = t->more_words;
        t->more_words = swap;
    }
    return MOCL_OK;
}

/* ---- added tokens ---- */

void mocl_tok_added_find(const mocl_tokenizer *t, bool normalized, bool no_special, const char *s,
                         size_t n, size_t from, const tok_added **which, size_t *start,
                         size_t *end) {
    uint32_t c;
    *which = NULL;
    for (size_t i = from; i < n; i++) {
        if (!t->added_first[normalized][(unsigned char)s[i]]) continue;
        const tok_added *a = NULL;
        for (size_t k = 0; k < t->n_added && !a; k++) { /* longest first */
            const tok_added *b = &t->added[k];
            if (!b->in_text || b->normalized != normalized) continue;
            if (b->match.n <= n - i && memcmp(b->match.p, s + i, b->match.n) == 0) a = b;
        }
        if (!a) continue;
        if (no_special && a->special) {
            i += a->match.n - 1;
            continue;
        }
        size_t first = i, last = i + a->match.n;
        if (a->single_word &&
            ((before(s, first, &c) < first && mocl_unicode_is_word(c)) ||
             (last < n && mocl_tok_utf8(s + last, n - last, &c) && mocl_unicode_is_word(c)))) {
            i = last - 1;
            continue;
        }
        if (a->lstrip)
            for (size_t p;
                 first > from && (p = before(s, first, &c)) < first && mocl_unicode_is_space(c);)
                first = p < from ? from : p;
        if (a->rstrip)
            for (int len; last < n && (len = mocl_tok_utf8(s + last, n - last, &c)) &&
                          mocl_unicode_is_space(c);)
                last += (size_t)len;
        *which = a;
        *start = first;
        *end = last;
        return;
    }
}
