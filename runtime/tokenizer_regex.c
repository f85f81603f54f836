/* tokenizer_regex.c - patterns of tokenizer.json, written for Oniguruma, run by PCRE2.
**
** The two dialects agree on most of what tokenizers use. Where they differ the pattern is
** rewritten (\s, \w, {,n}) or refused (\h, sets of sets, (?m), ...). What is left: \b next to a
** mark and \S in brackets next to U+180E, see docs/tokenizer.md.
*/
#define _GNU_SOURCE /* memmem */
#include <string.h>

#include "tokenizer_impl.h"

const char mocl_tok_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char mocl_tok_own_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Oniguruma's \s is the property White_Space (PCRE2's also holds U+180E), its \w has marks, decimal
** digits and all connectors; in the form that goes inside brackets */
#define WHITE_SPACE "\\x09-\\x0d\\x{85}\\p{Z}"
#define WORD "\\p{L}\\p{M}\\p{Nd}\\p{Pc}"

static mocl_status refuse(mocl_ctx *ctx, const char *what) {
    return mocl_fail(ctx, MOCL_E_FORMAT, "pattern uses %s, which is not supported", what);
}

static mocl_status put(mocl_ctx *ctx, tok_bytes *out, const char *s) {
    return mocl_tok_bytes_add(ctx, out, s, strlen(s));
}

/* one escape, s[0] == '\\'; *used receives its length */
static mocl_status translate_escape(mocl_ctx *ctx, tok_bytes *out, const char *s, size_t n,
                                    bool in_class, size_t *used) {
    if (n < 2) return refuse(ctx, "a lone backslash at its end");
    *used = 2;
    switch (s[1]) {
        case 's':
            return put(ctx, out, in_class ? WHITE_SPACE : "[" WHITE_SPACE "]");
        case 'w':
            return put(ctx, out, in_class ? WORD : "[" WORD "]");
        case 'S':
            /* within brackets no complement can be written; U+180E is then taken as white space */
            return put(ctx, out, in_class ? "\\S" : "[^" WHITE_SPACE "]");
        case 'W':
            if (in_class) return refuse(ctx, "\\W inside brackets");
            return put(ctx, out, "[^" WORD "]");
        case 'h':
        case 'H':
            return refuse(ctx, "\\h");
        case 'Z':
        case 'G':
        case 'K':
        case 'C':
        case 'E':
        case 'Q':
        case 'N':
        case 'O':
        case 'y':
        case 'Y':
        case 'k':
        case 'g':
            return refuse(ctx, (char[]){'\\', s[1], '\0'});
        default:
            return mocl_tok_bytes_add(ctx, out, s, 2);
    }
}

static mocl_status translate(mocl_ctx *ctx, tok_bytes *out, const char *s, size_t n) {
    bool in_class = false;
    size_t class_start = 0;
    for (size_t i = 0; i < n;) {
        size_t used = 1;
        bool first_in_class = in_class && i == class_start;
        if (s[i] == '\\') {
            MOCL_TRY(translate_escape(ctx, out, s + i, n - i, in_class, &used));
        } else if (in_class) {
            if (s[i] == ']' && !first_in_class) in_class = false;
            if (s[i] == '[') return refuse(ctx, "brackets inside brackets");
            if (s[i] == '&' && i + 1 < n && s[i + 1] == '&') return refuse(ctx, "&&");
            MOCL_TRY(mocl_tok_bytes_add(ctx, out, s + i, 1));
        } else if (s[i] == '[') {
            in_class = true;
            class_start = i + 1;
            if (i + 1 < n && s[i + 1] == '^') {
                used = 2;
                class_start++;
            }
            MOCL_TRY(mocl_tok_bytes_add(ctx, out, s + i, used));
        } else if (s[i] == '{' && i + 1 < n && s[i + 1] == ',') {
            MOCL_TRY(put(ctx, out, "{0"));
        } else if (s[i] == '(' && i + 2 < n && s[i + 1] == '?') {
            /* options: i and x mean the same in both, m does not; look-around and groups pass */
            size_t k = i + 2;
            for (; k < n && ((s[k] >= 'a' && s[k] <= 'z') || s[k] == '-'); k++)
                if (s[k] != 'i' && s[k] != 'x' && s[k] != '-')
                    return refuse(ctx, "options like (?m)");
            /* a bare (?i) reaches over the next | in one dialect only, unless it comes first */
            if (i > 0 && k > i + 2 && k < n && s[k] == ')')
                return refuse(ctx, "(?i) in its middle");
            MOCL_TRY(mocl_tok_bytes_add(ctx, out, s + i, 1));
        } else {
            MOCL_TRY(mocl_tok_bytes_add(ctx, out, s + i, 1));
        }
        i += used;
    }
    return MOCL_OK;
}

mocl_status mocl_tok_step_compile(mocl_ctx *ctx, tok_step *step, const char *pattern, size_t n) {
    tok_bytes text = {0};
    mocl_status st = translate(ctx, &text, pattern, n);
    if (st) {
        mocl_free(text.p);
        return st;
    }
    int code;
    PCRE2_SIZE at;
    /* ^ and $ match at lines in Oniguruma's Ruby syntax */
    uint32_t flags = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    step->regex =
        pcre2_compile((PCRE2_SPTR)(text.n ? text.p : ""), text.n, flags, &code, &at, NULL);
    mocl_free(text.p);
    if (!step->regex) {
        PCRE2_UCHAR why[128];
        pcre2_get_error_message(code, why, sizeof why);
        return mocl_fail(ctx, MOCL_E_FORMAT, "pattern does not compile: %s", (char *)why);
    }
    pcre2_jit_compile(step->regex, PCRE2_JIT_COMPLETE); /* without JIT it is only slower */
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

mocl_status mocl_tok_step_find(mocl_ctx *ctx, const tok_step *step, const char *s, size_t n,
                               size_t from, size_t *start, size_t *end, bool *found) {
    if (!step->regex) {
        *found = find_literal(step, s, n, from, start);
        if (*found) *end = *start + step->pattern.n;
        return MOCL_OK;
    }
    *found = false;
    if (from > n) return MOCL_OK;
    int rc =
        pcre2_match(step->regex, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, step->match, NULL);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(step->regex, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         step->match, NULL);
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
