/* tokenizer_class.c - sets of characters in patterns, [...], \s, \p{...}, and escapes.
**
** Each set becomes an expression that matches one character. A plain one stays a bracket; unions
** with a complement, intersections and brackets inside brackets are written with alternatives and
** look-ahead, which PCRE2 10.42 has no brackets for: A&&B is (?=A)B, [^A] is (?!A)\p{Any}.
*/
#include <stdio.h>
#include <string.h>

#include "tok/tokenizer_class.h"
#include "tok/unicode.h"

/* ---- escapes of one character ---- */

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static mocl_status bad_code(tok_pattern *p, size_t at) {
    return mocl_tok_pattern_refuse(p, at, "an escape", "which is no code point");
}

/* up to `most` hexadecimal digits; *digits receives how many there were */
static uint32_t read_hex(tok_pattern *p, int most, int *digits) {
    uint32_t c = 0;
    for (*digits = 0; *digits < most && p->i < p->n && hex_value(p->s[p->i]) >= 0; ++*digits)
        c = c << 4 | (uint32_t)hex_value(p->s[p->i++]);
    return c;
}

mocl_status mocl_tok_pattern_escape(tok_pattern *p, char letter, uint32_t *c, bool *known) {
    static const char from[] = "tnrfaev", to[] = "\t\n\r\f\a\x1b\v";
    size_t at = p->i - 2;
    const char *simple = letter ? strchr(from, letter) : NULL;
    int digits;
    *known = true;
    if (simple) {
        *c = (uint32_t)to[simple - from];
        return MOCL_OK;
    }
    switch (letter) {
        case 'x':
            if (p->i < p->n && p->s[p->i] == '{') {
                p->i++;
                *c = read_hex(p, 8, &digits);
                if (digits == 0 || p->i >= p->n || p->s[p->i] != '}') return bad_code(p, at);
                p->i++;
                break;
            }
            *c = read_hex(p, 2, &digits);
            if (digits == 0) return bad_code(p, at);
            if (*c >= 0x80)
                return mocl_tok_pattern_refuse(p, at, "a byte of a character",
                                               "which is to be written as \\x{...}");
            break;
        case 'u':
            *c = read_hex(p, 4, &digits);
            if (digits < 4) return bad_code(p, at);
            break;
        default:
            *known = false;
            return MOCL_OK;
    }
    if (*c > 0x10ffff || (*c >= 0xd800 && *c <= 0xdfff)) return bad_code(p, at);
    return MOCL_OK;
}

/* octal digits from p->i on, at most three; the first is there */
static mocl_status read_octal(tok_pattern *p, uint32_t *c) {
    size_t at = p->i - 1;
    *c = 0;
    for (int k = 0; k < 3 && p->i < p->n && p->s[p->i] >= '0' && p->s[p->i] <= '7'; k++)
        *c = *c * 8 + (uint32_t)(p->s[p->i++] - '0');
    return *c < 0x80 ? MOCL_OK
                     : mocl_tok_pattern_refuse(p, at, "a byte of a character",
                                               "which is to be written as \\x{...}");
}

/* ---- sets with a name ---- */

static mocl_status put_ranges(tok_pattern *p, tok_bytes *out, const mocl_unicode_range *r,
                              size_t n) {
    for (size_t i = 0; i < n; i++) {
        MOCL_TRY(mocl_tok_pattern_literal(p, out, r[i].first));
        if (r[i].last == r[i].first) continue;
        MOCL_TRY(mocl_tok_pattern_put(p, out, "-"));
        MOCL_TRY(mocl_tok_pattern_literal(p, out, r[i].last));
    }
    return MOCL_OK;
}

/* A union under construction: `plain` for the inside of a bracket, `other` further expressions of
** one character, each behind a '|'. */
typedef struct set_union {
    tok_bytes plain, other;
} set_union;

static void union_free(set_union *u) {
    mocl_free(u->plain.p);
    mocl_free(u->other.p);
}

/* `open`, the set's base, with `more` what the reference has besides, and "]" */
static mocl_status put_bracket(tok_pattern *p, tok_bytes *out, const char *open,
                               const mocl_unicode_property *set, bool more) {
    MOCL_TRY(mocl_tok_pattern_put(p, out, open));
    MOCL_TRY(mocl_tok_pattern_put(p, out, set->base));
    if (more) MOCL_TRY(put_ranges(p, out, set->more, set->n_more));
    return mocl_tok_pattern_put(p, out, "]");
}

/* the base is one \p{...}, so that \P{...} is its complement */
static bool is_single(const char *base) {
    const char *close = strchr(base, '}');
    return strncmp(base, "\\p{", 3) == 0 && close && close[1] == '\0';
}

static mocl_status put_single(tok_pattern *p, tok_bytes *out, const char *base, bool negated) {
    MOCL_TRY(mocl_tok_pattern_put(p, out, negated ? "\\P" : "\\p"));
    return mocl_tok_pattern_put(p, out, base + 2);
}

static mocl_status add_property(tok_pattern *p, set_union *u, const mocl_unicode_property *set,
                                bool negated) {
    bool more = set->n_more && (p->exact || !*set->base), less = set->n_less && p->exact;
    if (set->n_more || set->n_less) p->differs = true;
    if (negated && !more && !less && is_single(set->base))
        return put_single(p, &u->plain, set->base, true);
    if (!negated && !less) {
        MOCL_TRY(mocl_tok_pattern_put(p, &u->plain, set->base));
        return more ? put_ranges(p, &u->plain, set->more, set->n_more) : MOCL_OK;
    }
    if (negated) {
        if (less) MOCL_TRY(put_ranges(p, &u->plain, set->less, set->n_less));
        return put_bracket(p, &u->other, "|[^", set, more);
    }
    MOCL_TRY(mocl_tok_pattern_put(p, &u->other, "|(?!["));
    MOCL_TRY(put_ranges(p, &u->other, set->less, set->n_less));
    return put_bracket(p, &u->other, "])[", set, more);
}

/* The set of \s, \P{L} and the like, p->i behind the letter. *set is NULL for another letter. */
static mocl_status named_set(tok_pattern *p, char letter, bool in_brackets,
                             const mocl_unicode_property **set, bool *negated) {
    const char *name = NULL;
    size_t at = p->i - 2;
    *set = NULL;
    *negated = letter >= 'A' && letter <= 'Z';
    switch (letter) {
        case 's':
        case 'S':
            name = "[:space:]";
            break;
        case 'd':
        case 'D':
            name = "[:digit:]";
            break;
        case 'h':
        case 'H':
            name = "[:xdigit:]";
            break;
        case 'w':
        case 'W':
            name = in_brackets ? "[:word:]" : "\\w";
            break;
        case 'p':
        case 'P':
            break;
        default:
            return MOCL_OK;
    }
    if (!name) {
        if (p->i >= p->n || p->s[p->i] != '{') return MOCL_OK; /* \p alone is a letter */
        const char *close = memchr(p->s + p->i, '}', p->n - p->i);
        size_t start = p->i + 1;
        if (!close) return mocl_tok_pattern_refuse(p, at, "\\p{ without }", NULL);
        size_t end = (size_t)(close - p->s);
        if (start < end && p->s[start] == '^') {
            *negated = !*negated;
            start++;
        }
        if (start < end && p->s[start] != '[' && p->s[start] != '\\')
            *set = mocl_unicode_property_find(p->s + start, end - start);
        if (!*set) {
            char what[48];
            snprintf(what, sizeof what, "\\%c{%.*s}", letter,
                     (int)(end - p->i - 1 > 32 ? 32 : end - p->i - 1), p->s + p->i + 1);
            return mocl_tok_pattern_refuse(p, at, what, "which is no set of characters known here");
        }
        p->i = end + 1;
        return MOCL_OK;
    }
    *set = mocl_unicode_property_find(name, strlen(name));
    return MOCL_OK;
}

/* the union as one expression */
static mocl_status put_union(tok_pattern *p, const set_union *u, tok_bytes *out) {
    if (!u->plain.n && !u->other.n) return mocl_tok_pattern_put(p, out, "(?!)");
    if (u->other.n) MOCL_TRY(mocl_tok_pattern_put(p, out, "(?:"));
    if (u->plain.n) {
        MOCL_TRY(mocl_tok_pattern_put(p, out, "["));
        MOCL_TRY(mocl_tok_bytes_add(p->ctx, out, u->plain.p, u->plain.n));
        MOCL_TRY(mocl_tok_pattern_put(p, out, "]"));
    }
    if (!u->other.n) return MOCL_OK;
    size_t skip = u->plain.n ? 0 : 1; /* no '|' before the first */
    MOCL_TRY(mocl_tok_bytes_add(p->ctx, out, u->other.p + skip, u->other.n - skip));
    return mocl_tok_pattern_put(p, out, ")");
}

mocl_status mocl_tok_pattern_set(tok_pattern *p, tok_pattern_options o, char letter, tok_bytes *out,
                                 bool *known) {
    const mocl_unicode_property *set;
    bool negated;
    MOCL_TRY(named_set(p, letter, false, &set, &negated));
    *known = set != NULL;
    if (!set) return MOCL_OK;
    /* outside of brackets (?i) changes no set in Oniguruma */
    if (o.fold) MOCL_TRY(mocl_tok_pattern_put(p, out, "(?-i:"));
    bool same = !p->exact || (!set->n_more && !set->n_less);
    if (set->n_more || set->n_less) p->differs = true;
    if (same && is_single(set->base)) {
        MOCL_TRY(put_single(p, out, set->base, negated));
    } else if (negated && !(set->n_less && p->exact)) {
        MOCL_TRY(put_bracket(p, out, "[^", set, set->n_more && (p->exact || !*set->base)));
    } else {
        set_union u = {0};
        mocl_status st = add_property(p, &u, set, negated);
        if (!st) st = put_union(p, &u, out);
        union_free(&u);
        MOCL_TRY(st);
    }
    return o.fold ? mocl_tok_pattern_put(p, out, ")") : MOCL_OK;
}

/* ---- brackets ---- */

static mocl_status in_brackets_set(tok_pattern *p, tok_pattern_options o, size_t at, set_union *u,
                                   const mocl_unicode_property *set, bool negated) {
    if (o.fold && (negated || !set->closed))
        return mocl_tok_pattern_refuse(p, at, "(?i) over a set in brackets", NULL);
    return add_property(p, u, set, negated);
}

/* "[:alpha:]" at p->i; *done false if it is nothing of the kind */
static mocl_status read_posix(tok_pattern *p, tok_pattern_options o, set_union *u, bool *done) {
    size_t start = p->i + 2, end, at = p->i;
    *done = false;
    if (p->i + 1 >= p->n || p->s[p->i + 1] != ':') return MOCL_OK;
    bool negated = start < p->n && p->s[start] == '^';
    if (negated) start++;
    for (end = start; end < p->n && p->s[end] >= 'a' && p->s[end] <= 'z'; end++) continue;
    if (end + 1 >= p->n || p->s[end] != ':' || p->s[end + 1] != ']')
        return mocl_tok_pattern_refuse(p, at, "[: in brackets", NULL);
    char name[16]; /* in the table with its brackets, without a '^' */
    int n = snprintf(name, sizeof name, "[:%.*s:]", (int)(end - start), p->s + start);
    const mocl_unicode_property *set =
        n < (int)sizeof name ? mocl_unicode_property_find(name, (size_t)n) : NULL;
    if (!set) return mocl_tok_pattern_refuse(p, at, "an unknown set [:...:]", NULL);
    *done = true;
    p->i = end + 2;
    return in_brackets_set(p, o, at, u, set, negated);
}

/* An element that is a character: *c; or a set, added to u, and *is_set. */
static mocl_status read_element(tok_pattern *p, tok_pattern_options o, set_union *u, uint32_t *c,
                                bool *is_set) {
    size_t at = p->i;
    *is_set = false;
    MOCL_TRY(mocl_tok_pattern_next(p, c));
    if (*c != '\\') return MOCL_OK;
    if (p->i >= p->n) return mocl_tok_pattern_refuse(p, at, "a lone backslash at its end", NULL);
    MOCL_TRY(mocl_tok_pattern_next(p, c));
    if (*c >= 0x80) return MOCL_OK;
    char letter = (char)*c;
    const mocl_unicode_property *set;
    bool known, negated;
    MOCL_TRY(named_set(p, letter, true, &set, &negated));
    if (set) {
        *is_set = true;
        return in_brackets_set(p, o, at, u, set, negated);
    }
    MOCL_TRY(mocl_tok_pattern_escape(p, letter, c, &known));
    if (known) return MOCL_OK;
    if (letter >= '0' && letter <= '7') {
        p->i--;
        return read_octal(p, c);
    }
    if (letter == 'b') {
        *c = '\b';
    } else if (strchr("cCMogkyYGKBz", letter)) {
        return mocl_tok_pattern_refuse(p, at, (char[]){'\\', letter, '\0'}, NULL);
    }
    return MOCL_OK; /* any other letter stands for itself in brackets */
}

static bool at_text(const tok_pattern *p, const char *text) {
    size_t n = strlen(text);
    return p->n - p->i >= n && memcmp(p->s + p->i, text, n) == 0;
}

/* a '-' here is the middle of a range, since it neither ends the brackets nor an operand */
static bool at_range(const tok_pattern *p) {
    return p->i + 1 < p->n && p->s[p->i] == '-' && p->s[p->i + 1] != ']' &&
           !(p->i + 2 < p->n && p->s[p->i + 1] == '&' && p->s[p->i + 2] == '&');
}

static mocl_status read_range(tok_pattern *p, tok_pattern_options o, size_t at, set_union *u,
                              uint32_t first) {
    uint32_t last = first;
    bool is_set, range = at_range(p);
    if (range) {
        p->i++;
        if (p->s[p->i] == '[') return mocl_tok_pattern_refuse(p, at, "a range to brackets", NULL);
        MOCL_TRY(read_element(p, o, u, &last, &is_set));
        if (is_set) return mocl_tok_pattern_refuse(p, at, "a range to a set", NULL);
        if (last < first) return mocl_tok_pattern_refuse(p, at, "an empty range", NULL);
    }
    if (o.fold && mocl_unicode_fold_special(first, last))
        return mocl_tok_pattern_refuse(p, at, "(?i) over a character that matches two", NULL);
    MOCL_TRY(mocl_tok_pattern_literal(p, &u->plain, first));
    if (last != first) {
        MOCL_TRY(mocl_tok_pattern_put(p, &u->plain, "-"));
        MOCL_TRY(mocl_tok_pattern_literal(p, &u->plain, last));
    }
    if (range && at_range(p)) {
        if (p->s[p->i + 1] == '[' || p->s[p->i + 1] == '-')
            return mocl_tok_pattern_refuse(p, p->i, "a '-' behind a range", NULL);
        p->i++;
        return mocl_tok_pattern_put(p, &u->plain, "\\-");
    }
    return MOCL_OK;
}

/* elements up to "]" or "&&" */
static mocl_status read_operand(tok_pattern *p, tok_pattern_options o, bool first, set_union *u) {
    while (p->i < p->n) {
        size_t at = p->i;
        uint32_t c;
        bool is_set = false;
        if (at_text(p, "&&") || (p->s[p->i] == ']' && !first)) return MOCL_OK;
        first = false;
        if (p->s[p->i] == '[') {
            MOCL_TRY(read_posix(p, o, u, &is_set));
            if (!is_set) {
                MOCL_TRY(mocl_tok_pattern_put(p, &u->other, "|"));
                MOCL_TRY(mocl_tok_pattern_brackets(p, o, &u->other));
                is_set = true;
            }
        } else {
            MOCL_TRY(read_element(p, o, u, &c, &is_set));
        }
        if (!is_set)
            MOCL_TRY(read_range(p, o, at, u, c));
        else if (at_range(p))
            return mocl_tok_pattern_refuse(p, at, "a range that begins with a set", NULL);
    }
    return mocl_tok_pattern_refuse(p, p->n, "[ without ]", NULL);
}

static mocl_status read_brackets(tok_pattern *p, tok_pattern_options o, tok_bytes *out,
                                 set_union *u, tok_bytes *ahead) {
    size_t at = p->i++;
    bool negated = p->i < p->n && p->s[p->i] == '^', first = true;
    if (negated) p->i++;
    for (;;) {
        MOCL_TRY(read_operand(p, o, first, u));
        first = false;
        if (p->s[p->i++] == ']') break;
        p->i++; /* the second & */
        if (o.fold) return mocl_tok_pattern_refuse(p, at, "(?i) over &&", NULL);
        MOCL_TRY(mocl_tok_pattern_put(p, ahead, "(?="));
        MOCL_TRY(put_union(p, u, ahead));
        MOCL_TRY(mocl_tok_pattern_put(p, ahead, ")"));
        u->plain.n = u->other.n = 0;
    }
    if (o.fold && u->other.n)
        return mocl_tok_pattern_refuse(p, at, "(?i) over brackets in brackets", NULL);
    if (negated && !ahead->n && !u->other.n && u->plain.n) {
        MOCL_TRY(mocl_tok_pattern_put(p, out, "[^"));
        MOCL_TRY(mocl_tok_bytes_add(p->ctx, out, u->plain.p, u->plain.n));
        return mocl_tok_pattern_put(p, out, "]");
    }
    bool group = negated || ahead->n;
    if (group) MOCL_TRY(mocl_tok_pattern_put(p, out, negated ? "(?:(?!" : "(?:"));
    MOCL_TRY(mocl_tok_bytes_add(p->ctx, out, ahead->p, ahead->n));
    MOCL_TRY(put_union(p, u, out));
    return group ? mocl_tok_pattern_put(p, out, negated ? ")\\p{Any})" : ")") : MOCL_OK;
}

mocl_status mocl_tok_pattern_brackets(tok_pattern *p, tok_pattern_options o, tok_bytes *out) {
    set_union u = {0};
    tok_bytes ahead = {0};
    mocl_status st = MOCL_OK;
    if (++p->depth > PATTERN_DEPTH)
        st = mocl_tok_pattern_refuse(p, p->i, "too many groups inside each other", NULL);
    if (!st) st = read_brackets(p, o, out, &u, &ahead);
    p->depth--;
    union_free(&u);
    mocl_free(ahead.p);
    return st;
}
