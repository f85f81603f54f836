/* safetensors_header.c - the members of a safetensors header.
**
** A usual header is parsed as one text. The parser knows neither names with zero bytes nor two members of one name: a header
** that it refuses is gone through member by member, each of which is then parsed for itself.
*/
#include "io/safetensors_header.h"

#include <stdlib.h>
#include <string.h>

#include "io/file.h" /* mocl_path_tail */
#include "io/json.h"

static const char METADATA[] = "__metadata__";

void mocl_members_free(mocl_members *m) {
    mocl_free(m->list);
    json_decref(m->owner); /* NULL is fine */
    *m = (mocl_members){0};
}

static mocl_status add(mocl_ctx *ctx, mocl_members *m, const char *name, size_t n, json_t *value) {
    if (m->n == m->room) {
        size_t room = m->room ? 2 * m->room : 64;
        mocl_member *list = mocl_realloc(ctx, m->list, room * sizeof *list);
        if (!list) return mocl_nomem(ctx, room * sizeof *list);
        m->list = list;
        m->room = room;
    }
    m->list[m->n++] = (mocl_member){name, n, value};
    return MOCL_OK;
}

static mocl_status not_an_object(mocl_ctx *ctx, const char *path) {
    return mocl_fail(ctx, MOCL_E_FORMAT, "%s: '__metadata__' is not an object", mocl_path_tail(path));
}

/* ---- the whole header at once ---- */

static mocl_status from_object(mocl_ctx *ctx, mocl_members *m, json_t *object) {
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value) {
        if (strcmp(name, METADATA) != 0) MOCL_TRY(add(ctx, m, name, strlen(name), value));
    }
    return MOCL_OK;
}

/* ---- member by member ---- */

static const char *skip_blanks(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
    return p;
}

/* behind the string that begins at p; end where it does not stop */
static const char *skip_string(const char *p, const char *end) {
    for (p++; p < end && *p != '"'; p++)
        if (*p == '\\' && p + 1 < end) p++;
    return p < end ? p + 1 : end;
}

/* behind the value that begins at p: its parts are not looked at */
static const char *skip_value(const char *p, const char *end) {
    int64_t depth = 0;
    while (p < end) {
        if (*p == '"') {
            p = skip_string(p, end);
            continue;
        }
        if (depth == 0 && (*p == ',' || *p == '}')) break;
        if (*p == '{' || *p == '[') depth++;
        if (*p == '}' || *p == ']') depth--;
        p++;
    }
    return p;
}

typedef struct span {
    const char *p;
    size_t n;
} span;

/* The next member of an object behind its "{" at *at. MOCL_E_FORMAT without a message where the text is no JSON object; at its
** end name->p is NULL. */
static mocl_status next_member(const char **at, const char *end, bool first, span *name, span *value) {
    const char *p = skip_blanks(*at, end);
    name->p = NULL;
    if (p < end && *p == '}') {
        *at = p + 1;
        return MOCL_OK;
    }
    if (!first) {
        if (p >= end || *p != ',') return MOCL_E_FORMAT;
        p = skip_blanks(p + 1, end);
    }
    if (p >= end || *p != '"') return MOCL_E_FORMAT;
    const char *behind = skip_string(p, end), *colon = skip_blanks(behind, end);
    if (colon >= end || *colon != ':') return MOCL_E_FORMAT;
    *name = (span){p, (size_t)(behind - p)};
    p = skip_blanks(colon + 1, end);
    *at = skip_value(p, end);
    *value = (span){p, (size_t)(*at - p)};
    return MOCL_OK;
}

static mocl_status parse_span(mocl_ctx *ctx, json_t *owner, json_t **out, span s) {
    json_error_t error;
    MOCL_TRY(mocl_json_parse(ctx, out, s.p, s.n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &error));
    return json_array_append_new(owner, *out) ? mocl_nomem(ctx, sizeof *out) : MOCL_OK;
}

/* The members of the object at text; its __metadata__ is handed out as it stands, once. MOCL_E_FORMAT with a message, or
** without one where the text is no JSON. */
static mocl_status scan(mocl_ctx *ctx, mocl_members *m, const char *path, span text, span *metadata) {
    const char *at = text.p, *end = text.p + text.n;
    span name, value;
    m->owner = mocl_may_alloc(ctx) ? json_array() : NULL;
    if (!m->owner) return mocl_nomem(ctx, sizeof(json_t *));
    at = skip_blanks(at, end);
    if (at >= end || *at++ != '{') return MOCL_E_FORMAT;
    for (bool first = true;; first = false) {
        json_t *key, *v;
        MOCL_TRY(next_member(&at, end, first, &name, &value));
        if (!name.p) break;
        MOCL_TRY(parse_span(ctx, m->owner, &key, name));
        const char *p = json_string_value(key);
        size_t n = json_string_length(key);
        if (metadata && n == strlen(METADATA) && !memcmp(p, METADATA, n)) {
            if (metadata->p)
                return mocl_fail(ctx, MOCL_E_FORMAT, "%s: header: '__metadata__' is there twice", mocl_path_tail(path));
            *metadata = value;
            continue;
        }
        MOCL_TRY(parse_span(ctx, m->owner, &v, value));
        MOCL_TRY(add(ctx, m, p, n, v));
    }
    return skip_blanks(at, end) == end ? MOCL_OK : MOCL_E_FORMAT;
}

/* by name, and by place in the file where names are the same */
static int by_name(const void *a, const void *b) {
    const mocl_member *x = *(mocl_member *const *)a, *y = *(mocl_member *const *)b;
    int order = memcmp(x->name, y->name, x->n < y->n ? x->n : y->n);
    if (!order) order = (x->n > y->n) - (x->n < y->n);
    return order ? order : (x > y) - (x < y);
}

/* Of members of the same name the last stays; where they must be alike, another value is an error. */
static mocl_status drop_duplicates(mocl_ctx *ctx, mocl_members *m, const char *path, bool alike) {
    mocl_status st = MOCL_OK;
    mocl_member **order = mocl_calloc(ctx, m->n, sizeof *order);
    if (!order) return mocl_nomem(ctx, m->n * sizeof *order);
    for (size_t i = 0; i < m->n; i++) order[i] = &m->list[i];
    if (m->n) qsort(order, m->n, sizeof *order, by_name);
    for (size_t i = 1; i < m->n && !st; i++) {
        mocl_member *x = order[i - 1], *y = order[i];
        if (x->n != y->n || memcmp(x->name, y->name, x->n) != 0) continue;
        if (alike && !json_equal(x->value, y->value))
            st = mocl_fail(ctx, MOCL_E_FORMAT, "%s: tensor '%.200s': a duplicate name, whose two descriptions differ",
                           mocl_path_tail(path), y->name);
        x->value = NULL;
    }
    size_t kept = 0;
    for (size_t i = 0; i < m->n; i++)
        if (m->list[i].value) m->list[kept++] = m->list[i];
    m->n = kept;
    mocl_free(order);
    return st;
}

static mocl_status read_singly(mocl_ctx *ctx, mocl_members *tensors, mocl_members *metadata, const char *path, span text) {
    span map = {0};
    MOCL_TRY(scan(ctx, tensors, path, text, &map));
    MOCL_TRY(drop_duplicates(ctx, tensors, path, true));
    if (!map.p || (map.n >= 4 && !memcmp(map.p, "null", 4) && skip_blanks(map.p + 4, map.p + map.n) == map.p + map.n))
        return MOCL_OK;
    if (map.n == 0 || *map.p != '{') return not_an_object(ctx, path);
    MOCL_TRY(scan(ctx, metadata, path, map, NULL));
    return drop_duplicates(ctx, metadata, path, false);
}

mocl_status mocl_members_read(mocl_ctx *ctx, mocl_members *tensors, mocl_members *metadata, const char *path, const char *text,
                              size_t n) {
    json_error_t error;
    json_t *whole;
    *tensors = *metadata = (mocl_members){0};
    mocl_status st = mocl_json_parse(ctx, &whole, text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (st == MOCL_OK) {
        json_t *map = json_object_get(whole, METADATA);
        tensors->owner = whole;
        MOCL_TRY(from_object(ctx, tensors, whole));
        if (!map || json_is_null(map)) return MOCL_OK;
        return json_is_object(map) ? from_object(ctx, metadata, map) : not_an_object(ctx, path);
    }
    if (st != MOCL_E_FORMAT) return st;
    mocl_clear(ctx);
    st = read_singly(ctx, tensors, metadata, path, (span){text, n});
    if (st != MOCL_E_FORMAT || ctx->status) return st; /* there is a message, or none is needed */
    return mocl_fail(ctx, MOCL_E_FORMAT, "%s: header: byte %d: %s", mocl_path_tail(path), error.position, error.text);
}
