/* tokenizer_pattern.h - patterns of tokenizer.json, written for Oniguruma, in PCRE2's syntax. */
#ifndef MOCL_TOKENIZER_PATTERN_H
#define MOCL_TOKENIZER_PATTERN_H

#include "tok/tokenizer_impl.h"

/* Appends to `out` a pattern with which PCRE2 (UTF, UCP, MULTILINE, newline LF) finds what
 *Oniguruma
 ** finds with s. MOCL_E_FORMAT names what has no such form and where it stands. `exact` spells out
 ** the characters for which mocl_unicode_newer is true; the pattern without is faster and right in
 ** all texts that hold none of them. *differs receives whether the two patterns are different. */
mocl_status mocl_tok_pattern(mocl_ctx *ctx, tok_bytes *out, const char *s, size_t n, bool exact,
                             bool *differs);

/* ---- shared by tokenizer_pattern.c and tokenizer_class.c ---- */

enum {
    PATTERN_NOTHING = 0x7fffffff, /* no literal stands before */
    PATTERN_GROUPS = 99,
    PATTERN_DEPTH = 100 /* groups and brackets inside each other */
};

typedef struct tok_pattern_options {
    bool fold, dotall, extended; /* (?i), (?m), (?x) */
} tok_pattern_options;

typedef struct tok_pattern {
    mocl_ctx *ctx;
    const char *s; /* the pattern as written: n bytes, the next at i */
    size_t n, i;
    tok_bytes *out;
    bool exact, differs;
    bool named; /* a group has a name, so that plain groups do not capture */
    bool empty; /* what was parsed last, an item or a group's inside, may match nothing */
    int depth;
    uint32_t before; /* the literal under (?i) that the next one follows, or PATTERN_NOTHING */
    int n_group;
    bool closed[PATTERN_GROUPS + 1]; /* by number: the whole group stands before */
    mocl_text name[PATTERN_GROUPS + 1];
} tok_pattern;

/* "pattern uses WHAT at character N, WHY"; why NULL is "which is not supported" */
mocl_status mocl_tok_pattern_refuse(tok_pattern *p, size_t at, const char *what, const char *why);
mocl_status mocl_tok_pattern_put(tok_pattern *p, tok_bytes *out, const char *s);
/* one character, so spelled that it stands for itself inside and outside of brackets */
mocl_status mocl_tok_pattern_literal(tok_pattern *p, tok_bytes *out, uint32_t c);
/* the next character of the pattern; p->i goes behind it */
mocl_status mocl_tok_pattern_next(tok_pattern *p, uint32_t *c);

/* tokenizer_class.c */

/* p->i is at '[': appends an expression for one character of the set */
mocl_status mocl_tok_pattern_brackets(tok_pattern *p, tok_pattern_options o, tok_bytes *out);
/* p->i is behind the letter of \s, \S, \w, \p{...} and so on, `letter`; *known false if the letter
** is not one of these. Appends an expression for one character of the set. */
mocl_status mocl_tok_pattern_set(tok_pattern *p, tok_pattern_options o, char letter, tok_bytes *out,
                                 bool *known);
/* p->i is behind the letter of an escape that means one character in and outside of brackets;
**known
** false if it is not one of these */
mocl_status mocl_tok_pattern_escape(tok_pattern *p, char letter, uint32_t *c, bool *known);

#endif
