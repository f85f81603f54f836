/* tokenizer_place.h - a pattern that is being translated, and the place where that is: reading, writing, refusing */
#ifndef MOCL_TOKENIZER_PLACE_H
#define MOCL_TOKENIZER_PLACE_H

#include "tok/tokenizer_impl.h"

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

#endif
