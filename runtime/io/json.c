/* json.c - parsing with jansson */
#include "io/json.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/text.h"

/* ---- the parser, watched ---- */

/* jansson goes on where it could not make room for more of a string, and what it then returns is well formed and wrong:
** a name cut short. So its allocations are watched while it parses. Its allocator is one for the process: ours stands
** before it for that time alone, and other threads that use jansson meanwhile go through it to the same memory. */
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER; /* of the allocator's pointers */
static json_malloc_t real_malloc;
static _Thread_local bool refused; /* an allocation of this thread's parse failed */

static void hold_guard(void) { pthread_mutex_lock(&guard); }
static void drop_guard(void) { pthread_mutex_unlock(&guard); }
/* a child of fork finds the guard free and jansson's allocator its own, whatever other threads were doing */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void watch_forks(void) { pthread_atfork(hold_guard, drop_guard, drop_guard); }

static void *watched_malloc(size_t n) {
    void *p = real_malloc(n);
    if (!p) refused = true;
    return p;
}

static mocl_status parse(mocl_ctx *ctx, json_t **out, const char *text, size_t n, size_t flags, json_error_t *error) {
    json_free_t real_free;
    *out = NULL;
    if (!mocl_may_alloc(ctx)) return mocl_nomem(ctx, n);
    pthread_once(&once, watch_forks);
    pthread_mutex_lock(&guard);
    json_get_alloc_funcs(&real_malloc, &real_free);
    json_set_alloc_funcs(watched_malloc, real_free);
    refused = false;
    json_t *v = json_loadb(text, n, flags, error);
    json_set_alloc_funcs(real_malloc, real_free);
    pthread_mutex_unlock(&guard);
    if (refused) {
        json_decref(v); /* NULL is fine */
        return mocl_nomem(ctx, n);
    }
    *out = v;
    return v ? MOCL_OK : MOCL_E_FORMAT;
}

/* ---- numbers beyond 64 bits and beyond doubles ----
**
** jansson refuses both. They are written anew, each in its own bytes, so that the places in messages stay those of
** the text: an integer with the 17 digits that tell a double, "12345678901234567e4"; what is beyond the range of
** doubles as "9e307" or another such number that the text does not hold otherwise. */

enum { DIGITS = 17, LEAST = 19 /* digits of an integer beyond 64 bits */, EXPONENTS = 308 };

typedef struct number {
    char *p; /* its first byte, behind a sign */
    size_t n;
    bool negative, whole; /* whole: digits alone */
    double value;         /* without its sign; HUGE_VAL beyond the range */
} number;

static bool is_digit(const char *p, const char *end) { return p < end && *p >= '0' && *p <= '9'; }

static char *digits_end(char *p, const char *end) {
    while (is_digit(p, end)) p++;
    return p;
}

/* The next number at or behind *at, outside of strings; false where there is none. digits receives its bytes and a
** zero. */
static bool next_number(char **at, const char *end, char *digits, number *out) {
    char *p = *at;
    for (bool quoted = false; p < end && (quoted || !is_digit(p, end)); p++) {
        if (*p == '"') quoted = !quoted;
        if (*p == '\\' && quoted && p + 1 < end) p++;
    }
    if (p >= end) return false;
    *out = (number){.p = p, .negative = p > *at && p[-1] == '-', .whole = true};
    p = digits_end(p, end);
    if (p < end && *p == '.' && is_digit(p + 1, end)) {
        out->whole = false;
        p = digits_end(p + 1, end);
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        char *e = p + 1;
        if (e < end && (*e == '+' || *e == '-')) e++;
        if (is_digit(e, end)) {
            out->whole = false;
            p = digits_end(e, end);
        }
    }
    out->n = (size_t)(p - out->p);
    for (size_t i = 0; i < out->n; i++) /* strtod's decimal point is the host's */
        digits[i] = out->p[i] == '.' ? localeconv()->decimal_point[0] : out->p[i];
    digits[out->n] = 0;
    out->value = strtod(digits, NULL);
    *at = p;
    return true;
}

/* whether jansson refuses it for its size; a zero in front is another mistake, which stays */
static bool beyond(const number *v, const char *digits) {
    if (v->p[0] == '0' && v->whole) return false;
    if (isinf(v->value)) return true;
    if (!v->whole || v->n < LEAST) return false;
    errno = 0;
    strtoll(digits, NULL, 10);
    /* the least integer has no positive one */
    return errno == ERANGE && !(v->negative && !strcmp(digits, "9223372036854775808"));
}

/* mantissa e exponent in place of the number, with zeros before the exponent up to its length */
static void overwrite(number *v, const char *mantissa, int exponent) {
    char digits[16];
    size_t m = strlen(mantissa), e = (size_t)snprintf(digits, sizeof digits, "%d", exponent);
    memset(v->p, '0', v->n);
    memcpy(v->p, mantissa, m);
    v->p[m] = 'e';
    memcpy(v->p + v->n - e, digits, e);
}

static void write_integer(number *v) {
    char text[40], mantissa[DIGITS + 1];
    snprintf(text, sizeof text, "%.*e", DIGITS - 1, v->value); /* d.dddddddddddddddde+xx */
    mantissa[0] = text[0];
    memcpy(mantissa + 1, text + 2, DIGITS - 1);
    mantissa[DIGITS] = 0;
    overwrite(v, mantissa, atoi(strchr(text, 'e') + 1) - (DIGITS - 1));
}

/* marks the exponent x where the number is 9ex; values with other digits or exponents are none of the choice */
static void mark_used(bool used[EXPONENTS], double value) {
    char text[40];
    if (!(value >= 9e100) || isinf(value)) return;
    snprintf(text, sizeof text, "%.16e", value); /* 9e100 may print as 8.99e100 or so: both neighbours are marked */
    int x = atoi(strchr(text, 'e') + 1);
    for (int i = x - 1; i <= x + 1; i++)
        if (i < EXPONENTS) used[i] = true;
}

/* Rewrites the numbers of the n bytes at text. False: nothing is to be done, or no number is left for infinity. */
static bool rewrite(char *text, size_t n, char *digits, double *infinity) {
    bool used[EXPONENTS] = {false}, any = false, infinite = false;
    int exponent = EXPONENTS - 1;
    number v;
    for (char *at = text; next_number(&at, text + n, digits, &v);) {
        mark_used(used, v.value);
        any = any || beyond(&v, digits);
        infinite = infinite || isinf(v.value);
    }
    while (exponent > 100 && used[exponent]) exponent--;
    if (!any || exponent == 100) return false;
    for (char *at = text; next_number(&at, text + n, digits, &v);) {
        if (!beyond(&v, digits)) continue;
        if (isinf(v.value)) overwrite(&v, "9", exponent);
        else write_integer(&v);
    }
    if (infinite) {
        snprintf(digits, 8, "9e%d", exponent);
        *infinity = strtod(digits, NULL);
    }
    return true;
}

static mocl_status parse_rewritten(mocl_ctx *ctx, json_t **out, const char *text, size_t n, size_t flags, json_error_t *error,
                                   double *infinity) {
    char *copy;
    size_t room;
    if (!mocl_mul(n, 2, &room) || room > SIZE_MAX - 16) return mocl_nomem(ctx, SIZE_MAX);
    copy = mocl_alloc(ctx, room + 16); /* the text, then the digits of one number */
    if (!copy) return mocl_nomem(ctx, room);
    memcpy(copy, text, n);
    mocl_status st = rewrite(copy, n, copy + n, infinity) ? parse(ctx, out, copy, n, flags, error) : MOCL_E_FORMAT;
    mocl_free(copy);
    return st;
}

mocl_status mocl_json_parse_numbers(mocl_ctx *ctx, json_t **out, const char *text, size_t n, size_t flags,
                                    json_error_t *error, double *infinity) {
    const char *wide = mocl_text_wide(text, n);
    *out = NULL;
    *infinity = 0;
    if (wide) {
        *error = (json_error_t){.line = 0}; /* it is said of the whole text */
        snprintf(error->text, sizeof error->text - 1, "%s", wide);
        return MOCL_E_FORMAT;
    }
    size_t mark = mocl_utf8_mark(text, n);
    text += mark;
    n -= mark;
    mocl_status st = parse(ctx, out, text, n, flags, error);
    if (st == MOCL_E_FORMAT && json_error_code(error) == json_error_numeric_overflow)
        st = parse_rewritten(ctx, out, text, n, flags, error, infinity);
    return st;
}

mocl_status mocl_json_parse(mocl_ctx *ctx, json_t **out, const char *text, size_t n, size_t flags, json_error_t *error) {
    double infinity;
    return mocl_json_parse_numbers(ctx, out, text, n, flags, error, &infinity);
}
