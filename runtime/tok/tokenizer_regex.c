/* tokenizer_regex.c - what a Split or Replace looks for: a literal, or a pattern run by PCRE2. */
#define _GNU_SOURCE /* memmem */
#include <string.h>

#include "tok/tokenizer_pattern.h"
#include "tok/unicode.h"

const char mocl_tok_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char mocl_tok_own_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* NULL with a message if PCRE2 does not take it */
static pcre2_code *compile(mocl_ctx *ctx, const tok_bytes *text) {
    int code;
    PCRE2_SIZE at;
    /* ^ and $ match at lines in Oniguruma's syntax */
    uint32_t flags = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    pcre2_compile_context *how = pcre2_compile_context_create(NULL);
    if (!how || pcre2_set_newline(how, PCRE2_NEWLINE_LF) != 0) {
        pcre2_compile_context_free(how);
        mocl_nomem(ctx, text->n);
        return NULL;
    }
    pcre2_code *regex =
        pcre2_compile((PCRE2_SPTR)(text->n ? text->p : ""), text->n, flags, &code, &at, how);
    pcre2_compile_context_free(how);
    if (!regex) {
        PCRE2_UCHAR why[128];
        pcre2_get_error_message(code, why, sizeof why);
        mocl_fail(ctx, MOCL_E_FORMAT, "pattern does not compile: %s", (char *)why);
        return NULL;
    }
    pcre2_jit_compile(regex, PCRE2_JIT_COMPLETE); /* without JIT it is only slower */
    return regex;
}

mocl_status mocl_tok_step_compile(mocl_ctx *ctx, tok_step *step, const char *pattern, size_t n) {
    tok_bytes text = {0};
    bool differs = false;
    mocl_status st = mocl_tok_pattern(ctx, &text, pattern, n, false, &differs);
    if (!st && !(step->regex = compile(ctx, &text))) st = ctx->status;
    if (!st && differs) {
        text.n = 0;
        st = mocl_tok_pattern(ctx, &text, pattern, n, true, &differs);
        if (!st && !(step->exact = compile(ctx, &text))) st = ctx->status;
    }
    mocl_free(text.p);
    MOCL_TRY(st);
    step->match = mocl_may_alloc(ctx) ? pcre2_match_data_create(1, NULL) : NULL;
    return step->match ? MOCL_OK : mocl_nomem(ctx, sizeof(PCRE2_SIZE) * 4);
}

static bool find_literal(const tok_step *step, const char *s, size_t n, size_t from,
                         size_t *start) {
    size_t m = step->pattern.n;
    if (m == 0 || from > n) return false;
    const char *p = memmem(s + from, n - from, step->pattern.p, m);
    if (p) *start = (size_t)(p - s);
    return p != NULL;
}

tok_search mocl_tok_search(const tok_step *step, const char *s, size_t n) {
    bool exact = step->exact && mocl_unicode_newer(s, n);
    size_t from = n ? 0 : 1; /* the reference looks for nothing in an empty text */
    return (tok_search){step, exact ? step->exact : step->regex, s, n, from, SIZE_MAX};
}

static mocl_status match(mocl_ctx *ctx, const tok_search *q, size_t *start, size_t *end,
                         bool *found) {
    const tok_step *step = q->step;
    *found = false;
    if (!q->regex) {
        *found = find_literal(step, q->s, q->n, q->from, start);
        *end = *found ? *start + step->pattern.n : 0;
        return MOCL_OK;
    }
    PCRE2_SPTR s = (PCRE2_SPTR)q->s;
    int rc = pcre2_match(q->regex, s, q->n, q->from, PCRE2_NO_UTF_CHECK, step->match, NULL);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(q->regex, s, q->n, q->from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, step->match,
                         NULL);
    if (rc == PCRE2_ERROR_NOMATCH) return MOCL_OK;
    if (rc < 0) {
        PCRE2_UCHAR why[128];
        pcre2_get_error_message(rc, why, sizeof why);
        return mocl_fail(ctx, MOCL_E_ARG, "the pattern of the tokenizer gave up on this text: %s",
                         (char *)why);
    }
    const PCRE2_SIZE *v = pcre2_get_ovector_pointer(step->match);
    *start = v[0];
    *end = v[1] < v[0] ? v[0] : v[1];
    *found = true;
    return MOCL_OK;
}

mocl_status mocl_tok_search_next(mocl_ctx *ctx, tok_search *q, size_t *start, size_t *end,
                                 bool *found) {
    for (*found = false; q->from <= q->n;) {
        MOCL_TRY(match(ctx, q, start, end, found));
        if (!*found) {
            q->from = q->n + 1;
            return MOCL_OK;
        }
        q->from = *end;
        if (*start < *end || *end != q->last) {
            q->last = *end;
            return MOCL_OK;
        }
        *found = false; /* an empty match right behind a match is none: look one character on */
        uint32_t c;
        int len = q->from < q->n ? mocl_tok_utf8(q->s + q->from, q->n - q->from, &c) : 0;
        q->from += len > 0 ? (size_t)len : 1;
    }
    return MOCL_OK;
}
