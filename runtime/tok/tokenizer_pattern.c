/* tokenizer_pattern.c - from Oniguruma's syntax to PCRE2's: branches, groups, repetitions, anchors.
**
** The whole pattern is parsed; each construct is written anew in a form that means the same to
** PCRE2, or refused with its place. Nothing is passed on unread: what both dialects write alike
** often means two things (a{2}+ is possessive in one and a repetition of a repetition in the
** other). Look-behind of a length that varies is left to PCRE2 to refuse.
*/
#include <stdio.h>
#include <string.h>

#include "tok/tokenizer_pattern.h"

#include "tok/tokenizer_class.h"
#include "tok/unicode.h"

static bool at_text(const tok_pattern *p, const char *text) {
    size_t n = strlen(text);
    return p->n - p->i >= n && memcmp(p->s + p->i, text, n) == 0;
}

static mocl_status put(tok_pattern *p, const char *s) { return mocl_tok_pattern_put(p, p->out, s); }

/* ---- what is skipped ---- */

/* comments, and with (?x) blanks and the rest of a line behind '#' */
static mocl_status skip(tok_pattern *p, tok_pattern_options o) {
    for (;;) {
        if (at_text(p, "(?#")) {
            size_t at = p->i;
            for (p->i += 3; p->i < p->n && p->s[p->i] != ')'; p->i++)
                if (p->s[p->i] == '\\') p->i++;
            if (p->i >= p->n) return mocl_tok_pattern_refuse(p, at, "(?# without )", NULL);
            p->i++;
        } else if (o.extended && p->i < p->n && p->s[p->i] && strchr(" \t\n\r\f", p->s[p->i])) {
            p->i++;
        } else if (o.extended && p->i < p->n && p->s[p->i] == '#') {
            while (p->i < p->n && p->s[p->i] != '\n') p->i++;
        } else {
            return MOCL_OK;
        }
    }
}

/* ---- repetitions ---- */

typedef struct repeat {
    long least, most; /* most -1 = any number */
    bool interval, lazy, possessive;
} repeat;

static long read_count(tok_pattern *p, size_t *i) {
    long n = -1;
    for (; *i < p->n && p->s[*i] >= '0' && p->s[*i] <= '9'; ++*i)
        if (n < 1000000) n = (n < 0 ? 0 : n) * 10 + (p->s[*i] - '0');
    return n;
}

/* {n}, {n,}, {n,m} and {,m}; anything else with a brace is ordinary text */
static bool read_interval(tok_pattern *p, repeat *r) {
    size_t i = p->i + 1;
    r->least = read_count(p, &i);
    bool comma = i < p->n && p->s[i] == ',';
    if (comma) i++;
    r->most = comma ? read_count(p, &i) : r->least;
    if (i >= p->n || p->s[i] != '}' || (r->least < 0 && r->most < 0)) return false;
    p->i = i + 1;
    r->interval = true;
    if (r->least < 0) r->least = 0;
    if (comma && p->i < p->n && p->s[p->i] == '?') { /* behind {n} a '?' is a repetition itself */
        r->lazy = true;
        p->i++;
    }
    return true;
}

static bool read_repeat(tok_pattern *p, repeat *r) {
    *r = (repeat){0, -1, false, false, false};
    if (p->i >= p->n) return false;
    switch (p->s[p->i]) {
        case '{':
            return read_interval(p, r);
        case '?':
            r->most = 1;
            break;
        case '+':
            r->least = 1;
            break;
        case '*':
            break;
        default:
            return false;
    }
    p->i++;
    if (p->i < p->n && (p->s[p->i] == '?' || p->s[p->i] == '+')) {
        r->lazy = p->s[p->i] == '?';
        r->possessive = !r->lazy;
        p->i++;
    }
    return true;
}

static mocl_status put_repeat(tok_pattern *p, const repeat *r) {
    char s[64];
    if (!r->interval)
        snprintf(s, sizeof s, "%s", r->most == 1 ? "?" : r->least == 1 ? "+" : "*");
    else if (r->most < 0)
        snprintf(s, sizeof s, "{%ld,}", r->least);
    else if (r->most == r->least)
        snprintf(s, sizeof s, "{%ld}", r->least);
    else
        snprintf(s, sizeof s, "{%ld,%ld}", r->least, r->most);
    MOCL_TRY(put(p, s));
    return put(p, r->lazy ? "?" : r->possessive ? "+" : "");
}

/* puts "(?:" before what `out` holds from `start` on, and ")" behind it */
static mocl_status wrap(tok_pattern *p, size_t start) {
    tok_bytes *out = p->out;
    MOCL_TRY(put(p, "(?:)"));
    memmove(out->p + start + 3, out->p + start, out->n - start - 4);
    memcpy(out->p + start, "(?:", 3);
    out->p[out->n - 1] = ')';
    return MOCL_OK;
}

/* the repetitions behind an item that stands in `out` from `start` on */
static mocl_status repeats(tok_pattern *p, tok_pattern_options o, size_t start, bool repeatable) {
    for (int k = 0;; k++) {
        repeat r;
        MOCL_TRY(skip(p, o));
        size_t at = p->i;
        if (!read_repeat(p, &r)) return MOCL_OK;
        p->before = PATTERN_NOTHING;
        if (!repeatable) return mocl_tok_pattern_refuse(p, at, "a repeated position", NULL);
        if (r.most >= 0 && r.most < r.least)
            return mocl_tok_pattern_refuse(p, at, "a repetition {n,m} with n > m", NULL);
        /* Oniguruma leaves such a loop where a turn matches nothing, PCRE2 goes on counting */
        if (p->empty && r.interval && r.most != 1)
            return mocl_tok_pattern_refuse(p, at, "{n,m} behind what can match nothing", NULL);
        if (r.least > 65535 || r.most > 65535)
            return mocl_tok_pattern_refuse(p, at, "a repetition above 65535", NULL);
        if (k == PATTERN_DEPTH)
            return mocl_tok_pattern_refuse(p, at, "too many repetitions of one item", NULL);
        if (k) MOCL_TRY(wrap(p, start));
        MOCL_TRY(put_repeat(p, &r));
        if (r.least == 0) p->empty = true;
    }
}

/* ---- single items ---- */

static mocl_status literal(tok_pattern *p, tok_pattern_options o, size_t at, uint32_t c) {
    if (o.fold && mocl_unicode_fold_special(c, c))
        return mocl_tok_pattern_refuse(p, at, "(?i) over a character that matches two", NULL);
    if (o.fold && p->before != PATTERN_NOTHING && mocl_unicode_fold_pair(p->before, c))
        return mocl_tok_pattern_refuse(p, at, "(?i) over characters that one matches", NULL);
    p->before = o.fold ? c : PATTERN_NOTHING;
    return mocl_tok_pattern_literal(p, p->out, c);
}

static mocl_status back_reference(tok_pattern *p, tok_pattern_options o, size_t at, int group) {
    char s[24];
    if (group < 1 || group > p->n_group || !p->closed[group])
        return mocl_tok_pattern_refuse(p, at, "a reference to a group that does not stand before",
                                       NULL);
    if (o.fold) return mocl_tok_pattern_refuse(p, at, "a reference under (?i)", NULL);
    snprintf(s, sizeof s, "\\g{%d}", group);
    p->empty = true;
    return put(p, s);
}

/* \k<name>, \k'name', \k<1>; p->i is behind the k */
static mocl_status named_reference(tok_pattern *p, tok_pattern_options o, size_t at) {
    char close = p->i < p->n && p->s[p->i] == '<' ? '>' : '\'';
    const char *start = p->s + p->i + 1, *end = NULL;
    if (p->i < p->n && (p->s[p->i] == '<' || p->s[p->i] == '\''))
        end = memchr(start, close, p->n - p->i - 1);
    if (!end) return mocl_tok_pattern_refuse(p, at, "\\k", NULL);
    size_t n = (size_t)(end - start);
    p->i = (size_t)(end - p->s) + 1;
    if (n == 1 && *start >= '1' && *start <= '9' && !p->named)
        return back_reference(p, o, at, *start - '0');
    for (int k = 1; k <= p->n_group; k++)
        if (n && p->name[k].n == n && memcmp(p->name[k].p, start, n) == 0)
            return back_reference(p, o, at, k);
    return mocl_tok_pattern_refuse(p, at, "\\k", "whose group does not stand before");
}

static mocl_status digit_escape(tok_pattern *p, tok_pattern_options o, size_t at, char first) {
    uint32_t c = 0;
    bool more = p->i < p->n && p->s[p->i] >= '0' && p->s[p->i] <= '9';
    if (first == '0') {
        for (int k = 0; k < 2 && p->i < p->n && p->s[p->i] >= '0' && p->s[p->i] <= '7'; k++)
            c = c * 8 + (uint32_t)(p->s[p->i++] - '0');
        return literal(p, o, at, c);
    }
    if (more || p->named)
        return mocl_tok_pattern_refuse(
            p, at, more ? "an escape of several digits" : "a number beside names", NULL);
    return back_reference(p, o, at, first - '0');
}

/* a boundary of words, or with `inner` a place that is none */
static mocl_status boundary(tok_pattern *p, tok_pattern_options o, bool inner) {
    static const char *const parts[2][5] = {{"(?:(?<=", ")(?!", ")|(?<!", ")(?=", "))"},
                                            {"(?:(?<=", ")(?=", ")|(?<!", ")(?!", "))"}};
    bool known;
    for (int k = 0; k < 5; k++) {
        MOCL_TRY(put(p, parts[inner][k]));
        if (k < 4) MOCL_TRY(mocl_tok_pattern_set(p, o, 'w', p->out, &known));
    }
    return MOCL_OK;
}

static mocl_status escape(tok_pattern *p, tok_pattern_options o, bool *repeatable) {
    size_t at = p->i++;
    uint32_t c;
    bool known;
    if (p->i >= p->n) return mocl_tok_pattern_refuse(p, at, "a lone backslash at its end", NULL);
    MOCL_TRY(mocl_tok_pattern_next(p, &c));
    char letter = (char)(c < 0x80 ? c : 0);
    if (letter >= '0' && letter <= '9') return digit_escape(p, o, at, letter);
    MOCL_TRY(mocl_tok_pattern_escape(p, letter, &c, &known));
    if (known) return literal(p, o, at, c);
    uint32_t before = p->before;
    p->before = PATTERN_NOTHING;
    MOCL_TRY(mocl_tok_pattern_set(p, o, letter, p->out, &known));
    if (known) return MOCL_OK;
    switch (letter) {
        case 'A':
        case 'z':
        case 'Z':
            *repeatable = false;
            return put(p, (char[]){'\\', letter, '\0'});
        case 'b':
        case 'B':
            *repeatable = false;
            return boundary(p, o, letter == 'B');
        case 'R':
            return put(p, "(?>\\r\\n|[\\n-\\r\\x{85}\\x{2028}\\x{2029}])");
        case 'N':
            return put(p, "[^\\n]");
        case 'O':
            return put(p, "\\p{Any}");
        case 'k':
            return named_reference(p, o, at);
        case 'C':
        case 'G':
        case 'K':
        case 'M':
        case 'X':
        case 'Y':
        case 'c':
        case 'g':
        case 'o':
        case 'y':
            return mocl_tok_pattern_refuse(p, at, (char[]){'\\', letter, '\0'}, NULL);
        default: /* any other character stands for itself */
            p->before = before;
            return literal(p, o, at, c);
    }
}

/* ---- groups ---- */

static mocl_status alternatives(tok_pattern *p, tok_pattern_options o);

/* what stands between an opening that was just put and its ')' */
static mocl_status inside(tok_pattern *p, tok_pattern_options o, size_t at) {
    if (++p->depth > PATTERN_DEPTH)
        return mocl_tok_pattern_refuse(p, at, "too many groups inside each other", NULL);
    MOCL_TRY(alternatives(p, o));
    if (p->i >= p->n) return mocl_tok_pattern_refuse(p, at, "( without )", NULL);
    p->i++;
    p->depth--;
    return put(p, ")");
}

static mocl_status capture(tok_pattern *p, tok_pattern_options o, size_t at, mocl_text name) {
    if (p->named && !name.p) {
        MOCL_TRY(put(p, "(?:"));
        return inside(p, o, at);
    }
    if (p->n_group == PATTERN_GROUPS)
        return mocl_tok_pattern_refuse(p, at, "more than 99 groups", NULL);
    int group = ++p->n_group;
    for (int k = 1; k < group && name.p; k++)
        if (p->name[k].n == name.n && memcmp(p->name[k].p, name.p, name.n) == 0)
            return mocl_tok_pattern_refuse(p, at, "two groups of one name", NULL);
    p->name[group] = name;
    MOCL_TRY(put(p, "("));
    MOCL_TRY(inside(p, o, at));
    p->closed[group] = true;
    return MOCL_OK;
}

/* (?i), (?i-mx: and the like; p->i is behind the '?'. *rest: the options hold to the end of the
** group around, over all further alternatives, and so did this call. */
static mocl_status option_group(tok_pattern *p, tok_pattern_options o, size_t at, bool *rest) {
    tok_pattern_options now = o;
    bool on = true;
    for (; p->i < p->n && p->s[p->i] != ')' && p->s[p->i] != ':'; p->i++) {
        switch (p->s[p->i]) {
            case '-':
                on = false;
                break;
            case 'i':
                now.fold = on;
                break;
            case 'm':
                now.dotall = on;
                break;
            case 'x':
                now.extended = on;
                break;
            default:
                return mocl_tok_pattern_refuse(p, at, "a group or option (?...)", NULL);
        }
    }
    if (p->i >= p->n || (p->s[p->i] == ')' && p->s[p->i - 1] == '?'))
        return mocl_tok_pattern_refuse(p, at, "a group or option (?...)", NULL);
    *rest = p->s[p->i++] == ')';
    if (now.fold != o.fold) p->before = PATTERN_NOTHING;
    MOCL_TRY(put(p, now.fold == o.fold ? "(?:" : now.fold ? "(?i:" : "(?-i:"));
    if (!*rest) return inside(p, now, at);
    if (++p->depth > PATTERN_DEPTH)
        return mocl_tok_pattern_refuse(p, at, "too many groups inside each other", NULL);
    MOCL_TRY(alternatives(p, now)); /* its ')' belongs to the group around */
    p->depth--;
    return put(p, ")");
}

static mocl_status group(tok_pattern *p, tok_pattern_options o, bool *repeatable, bool *rest) {
    static const struct {
        const char *open;
        bool repeatable;
    } kinds[] = {{"(?:", true},  {"(?>", true},   {"(?=", false},
                 {"(?!", false}, {"(?<=", false}, {"(?<!", false}};
    size_t at = p->i;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        if (!at_text(p, kinds[k].open)) continue;
        p->i += strlen(kinds[k].open);
        *repeatable = kinds[k].repeatable;
        MOCL_TRY(put(p, kinds[k].open));
        return inside(p, o, at);
    }
    if (at_text(p, "(*")) return mocl_tok_pattern_refuse(p, at, "(*", NULL);
    if (at_text(p, "(?<") || at_text(p, "(?'")) {
        const char *start = p->s + p->i + 3;
        const char *end = memchr(start, p->s[p->i + 2] == '<' ? '>' : '\'', p->n - p->i - 3);
        if (!end || end == start) return mocl_tok_pattern_refuse(p, at, "a group's name", NULL);
        p->i = (size_t)(end - p->s) + 1;
        return capture(p, o, at, (mocl_text){start, (size_t)(end - start)});
    }
    if (at_text(p, "(?")) {
        p->i += 2;
        return option_group(p, o, at, rest);
    }
    p->i++;
    return capture(p, o, at, (mocl_text){NULL, 0});
}

/* ---- branches ---- */

static mocl_status item(tok_pattern *p, tok_pattern_options o, bool *rest) {
    size_t start = p->out->n, at = p->i;
    bool repeatable = true;
    repeat r;
    uint32_t c;
    if (read_repeat(p, &r)) return mocl_tok_pattern_refuse(p, at, "a repetition of nothing", NULL);
    p->empty = false;
    switch (p->s[p->i]) {
        case '\\':
            MOCL_TRY(escape(p, o, &repeatable));
            break;
        case '[':
            p->before = PATTERN_NOTHING;
            MOCL_TRY(mocl_tok_pattern_brackets(p, o, p->out));
            break;
        case '(':
            MOCL_TRY(group(p, o, &repeatable, rest));
            if (*rest) return MOCL_OK;
            break;
        case '.':
            p->i++;
            p->before = PATTERN_NOTHING;
            MOCL_TRY(put(p, o.dotall ? "(?s:.)" : "."));
            break;
        case '^':
        case '$':
            p->before = PATTERN_NOTHING;
            MOCL_TRY(put(p, (char[]){p->s[p->i++], '\0'}));
            repeatable = false;
            break;
        default:
            MOCL_TRY(mocl_tok_pattern_next(p, &c));
            MOCL_TRY(literal(p, o, at, c));
    }
    if (!repeatable) p->empty = true;
    return repeats(p, o, start, repeatable);
}

/* up to a ')' or the end */
static mocl_status alternatives(tok_pattern *p, tok_pattern_options o) {
    bool rest = false, any = false,
         branch = true; /* a branch, this one so far, may match nothing */
    for (;;) {
        MOCL_TRY(skip(p, o));
        if (p->i >= p->n || p->s[p->i] == ')' || rest) break;
        if (p->s[p->i] == '|') {
            p->i++;
            p->before = PATTERN_NOTHING;
            any = any || branch;
            branch = true;
            MOCL_TRY(put(p, "|"));
        } else {
            MOCL_TRY(item(p, o, &rest));
            branch = branch && p->empty;
        }
    }
    p->empty = any || branch;
    return MOCL_OK;
}

/* whether a group has a name; one in brackets counts too, which does no harm */
static bool has_names(const char *s, size_t n) {
    for (size_t i = 0; i + 3 < n; i++) {
        if (s[i] == '\\')
            i++;
        else if (s[i] == '(' && s[i + 1] == '?' &&
                 (s[i + 2] == '\'' || (s[i + 2] == '<' && s[i + 3] != '=' && s[i + 3] != '!')))
            return true;
    }
    return false;
}

mocl_status mocl_tok_pattern(mocl_ctx *ctx, tok_bytes *out, const char *s, size_t n, bool exact,
                             bool *differs) {
    tok_pattern p = {
        .ctx = ctx, .s = s, .n = n, .out = out, .exact = exact, .before = PATTERN_NOTHING};
    p.named = has_names(s, n);
    MOCL_TRY(alternatives(&p, (tok_pattern_options){0}));
    if (p.i < n) return mocl_tok_pattern_refuse(&p, p.i, ") without (", NULL);
    *differs = p.differs;
    return MOCL_OK;
}
