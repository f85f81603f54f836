/* ljson.c - module mocl.json: JSON over jansson.
**
** null is json.null; arrays that were decoded or made with json.array carry a metatable, so that an
** empty one stays an array; integers are int64, everything with "." or "e" and integers beyond 64 bits are floats, as in
** Lua, infinite beyond the range of doubles. Refuses to write what JSON cannot hold: functions, cycles, NaN, infinities,
** mixed keys, bytes that are no UTF-8.
*/
#include <jansson.h>
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h" /* mocl_file_read, mocl_file_write_atomic */
#include "io/json.h"
#include "modules.h"
#include "io/text.h" /* mocl_utf8_step */

#define ARRAY "mocl.json.array"
#define DOCUMENT "mocl.json.document"
#define FILE_BYTES "mocl.json.bytes"

enum { MAX_DEPTH = 1000 }; /* of tables to encode, for the C stack; jansson reads 2048 levels */

/* ---- decoding ---- */

/* pushes the Lua value of v; depth is limited by the parser. infinity: as mocl_json_parse_numbers says. */
static void push_value(lua_State *L, const json_t *v, double infinity) {
    luaL_checkstack(L, 4, "json nested too deeply");
    switch (json_typeof(v)) {
        case JSON_OBJECT: {
            const char *key;
            json_t *field;
            lua_createtable(L, 0, (int)json_object_size(v));
            json_object_foreach((json_t *)v, key, field) {
                push_value(L, field, infinity);
                lua_setfield(L, -2, key);
            }
            break;
        }
        case JSON_ARRAY: {
            size_t n = json_array_size(v);
            lua_createtable(L, (int)n, 0);
            for (size_t i = 0; i < n; i++) {
                push_value(L, json_array_get(v, i), infinity);
                lua_rawseti(L, -2, (lua_Integer)i + 1);
            }
            luaL_setmetatable(L, ARRAY);
            break;
        }
        case JSON_STRING: lua_pushlstring(L, json_string_value(v), json_string_length(v)); break;
        case JSON_INTEGER: lua_pushinteger(L, json_integer_value(v)); break;
        case JSON_REAL: {
            double x = json_real_value(v);
            lua_pushnumber(L, infinity > 0 && fabs(x) == infinity ? copysign(HUGE_VAL, x) : x);
            break;
        }
        case JSON_NULL: lua_pushlightuserdata(L, NULL); break;
        case JSON_TRUE:
        case JSON_FALSE: lua_pushboolean(L, json_is_true(v)); break;
    }
}

/* A zero byte is never JSON, but the parser skips one that follows a number. */
static bool has_zero_byte(const char *text, size_t n, json_error_t *error) {
    const char *zero = memchr(text, 0, n);
    if (!zero) return false;
    error->line = error->column = 1;
    for (const char *p = text; p < zero; p++) {
        error->column = *p == '\n' ? 1 : error->column + 1;
        error->line += *p == '\n';
    }
    strcpy(error->text, "zero byte");
    return true;
}

/* The tree of a text, which a userdata pushed here frees if something raises; or NULL, and nil and the message pushed over it.
** Raises without memory. */
static json_t *parse(lua_State *L, const char *text, size_t n, double *infinity) {
    json_error_t error;
    void **box = moclL_pushowner(L, DOCUMENT);
    json_t *v;
    mocl_status st = mocl_json_parse_numbers(moclL_ctx(L), &v, text, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error, infinity);
    if (st && st != MOCL_E_FORMAT) moclL_raise(L, st);
    *box = v;
    if (v && !has_zero_byte(text, n, &error)) return v;
    luaL_pushfail(L);
    if (error.line > 0) lua_pushfstring(L, "line %d column %d: %s", error.line, error.column, error.text);
    else lua_pushstring(L, error.text);
    return NULL;
}

/* Pushes the decoded value, or nil and the message; raises without memory. */
static bool decode(lua_State *L, const char *text, size_t n) {
    double infinity;
    json_t *v = parse(L, text, n, &infinity);
    if (!v) return false;
    void **box = lua_touserdata(L, -1);
    push_value(L, v, infinity);
    *box = NULL;
    json_decref(v);
    lua_remove(L, -2);
    return true;
}

/* keys(text, name ...) -> the names in the object, or in the object under these names in it, in the order of the text; none
** where there is no such object */
static int json_l_keys(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n), *name;
    int depth = lua_gettop(L);
    double infinity;
    for (int i = 2; i <= depth; i++) luaL_checkstring(L, i);
    const json_t *v = parse(L, text, n, &infinity);
    if (!v) return 2;
    for (int i = 2; i <= depth; i++) v = json_object_get(v, lua_tostring(L, i));
    lua_newtable(L);
    if (json_is_object(v)) {
        json_t *field;
        lua_Integer count = 0;
        json_object_foreach((json_t *)v, name, field) {
            lua_pushstring(L, name);
            lua_rawseti(L, -2, ++count);
        }
    }
    return 1;
}

static int json_l_decode(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    return decode(L, text, n) ? 1 : 2;
}

static int json_l_load(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    void **box = moclL_pushowner(L, FILE_BYTES);
    char *data;
    size_t n;
    mocl_status st = mocl_file_read(moclL_ctx(L), path, &data, &n);
    *box = data;
    if (st) return moclL_result(L, st, 0);
    bool ok = decode(L, data, n);
    *box = NULL;
    mocl_free(data);
    if (ok) return 1;
    luaL_pushfail(L); /* stack: nil, message, nil */
    lua_pushfstring(L, "%s: %s", mocl_path_tail(path), lua_tostring(L, -2));
    lua_pushliteral(L, "FORMAT");
    return 3;
}

/* ---- encoding ---- */

/* where in the value the encoder is, for messages; one per table being written */
typedef struct place {
    const struct place *up;
    const char *key;   /* NULL: in an array */
    lua_Integer index;
} place;

/* The text grows in a userdata at a fixed stack slot: nothing leaks when something raises. */
typedef struct encoder {
    lua_State *L;
    char *text;
    size_t used, room;
    int slot;    /* of the userdata */
    int on_path; /* slot of the set of tables being written */
    int indent;
    bool sort_keys, replace_invalid;
} encoder;

static void reserve(encoder *e, size_t n) {
    if (e->room - e->used >= n) return;
    if (n > SIZE_MAX / 4 || e->used > SIZE_MAX / 4) luaL_error(e->L, "json.encode: text too long");
    size_t room = 2 * (e->used + n) + 256;
    char *text = lua_newuserdatauv(e->L, room, 0);
    if (e->used) memcpy(text, e->text, e->used);
    e->text = text;
    e->room = room;
    lua_replace(e->L, e->slot);
}

static void add(encoder *e, const char *p, size_t n) {
    reserve(e, n);
    memcpy(e->text + e->used, p, n);
    e->used += n;
}

static void add_text(encoder *e, const char *text) { add(e, text, strlen(text)); }

static void push_place(lua_State *L, const place *at) {
    if (!at) {
        lua_pushliteral(L, "");
        return;
    }
    luaL_checkstack(L, 4, "json nested too deeply");
    push_place(L, at->up);
    if (at->key) {
        lua_pushfstring(L, "%s%s%s", lua_tostring(L, -1), at->up ? "." : "", at->key);
    } else {
        lua_pushfstring(L, "%s[%I]", lua_tostring(L, -1), (LUAI_UACINT)at->index);
    }
    lua_remove(L, -2);
}

/* raises "json.encode: a.b[3]: reason"; of a very deep place only the last levels are named */
static int refuse(encoder *e, const place *at, const char *reason) {
    place last[20];
    int n = 0;
    for (; at && n < 20; at = at->up) last[n++] = *at;
    for (int i = 0; i < n; i++) last[i].up = i + 1 < n ? &last[i + 1] : NULL;
    push_place(e->L, n ? last : NULL);
    const char *name = lua_tostring(e->L, -1);
    return luaL_error(e->L, "json.encode: %s%s%s%s", at ? "..." : "", name, *name ? ": " : "",
                      reason);
}

static void add_string(encoder *e, const char *p, size_t n, const place *at) {
    static const char named[] = "\b\f\n\r\t\"\\", letters[] = "bfnrt\"\\";
    add(e, "\"", 1);
    for (size_t i = 0; i < n;) {
        bool valid;
        size_t step = mocl_utf8_step(p + i, n - i, &valid);
        const char *escape = p[i] ? strchr(named, p[i]) : NULL;
        if (!valid) {
            if (!e->replace_invalid) {
                const char *reason = "byte %I of the string is not UTF-8 (the option "
                                     "replace_invalid=true writes U+FFFD instead)";
                refuse(e, at, lua_pushfstring(e->L, reason, (LUAI_UACINT)i + 1));
            }
            add(e, "\xEF\xBF\xBD", 3);
        } else if (escape) {
            char pair[2] = {'\\', letters[escape - named]};
            add(e, pair, 2);
        } else if ((unsigned char)p[i] < 0x20) {
            char code[8];
            add(e, code, (size_t)snprintf(code, sizeof code, "\\u%04x", p[i]));
        } else {
            add(e, p + i, step);
        }
        i += step;
    }
    add(e, "\"", 1);
}

/* The shortest of 15, 16, 17 digits that reads back as the same double; always with a "." or an
** "e", so that it reads back as a float. */
static void add_float(encoder *e, double v, const place *at) {
    if (!isfinite(v)) {
        refuse(e, at, isnan(v) ? "nan cannot be written: JSON has no such number"
                               : "infinity cannot be written: JSON has no such number");
    }
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    char *point = strchr(text, localeconv()->decimal_point[0]);
    if (point) {
        *point = '.'; /* the host may have set a locale with a comma */
    } else if (!strchr(text, 'e')) {
        strcat(text, ".0");
    }
    add_text(e, text);
}

static void add_newline(encoder *e, int depth) {
    if (!e->indent) return;
    size_t n = (size_t)depth * (size_t)e->indent;
    reserve(e, n + 1);
    e->text[e->used++] = '\n';
    memset(e->text + e->used, ' ', n);
    e->used += n;
}

static void add_value(encoder *e, const place *at, int depth);

/* An array is a table with the metatable of json.array, or one that is not empty and has no key but
** 1..n. Returns n, or -1 for an object. Table on top of the stack. */
static lua_Integer array_size(encoder *e, const place *at) {
    lua_State *L = e->L;
    bool marked = false;
    if (lua_getmetatable(L, -1)) {
        luaL_getmetatable(L, ARRAY);
        marked = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
    }
    lua_Integer n = (lua_Integer)lua_rawlen(L, -1), count = 0, strings = 0;
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        lua_pop(L, 1); /* stack: table, key */
        if (lua_type(L, -1) == LUA_TSTRING) {
            strings++;
        } else if (lua_isinteger(L, -1) && lua_tointeger(L, -1) >= 1 && lua_tointeger(L, -1) <= n) {
            count++;
        } else {
            const char *reason = "the key %s is neither a string nor in the sequence 1..%I";
            const char *key = luaL_tolstring(L, -1, NULL);
            refuse(e, at, lua_pushfstring(L, reason, key, (LUAI_UACINT)n));
        }
    }
    if (strings && (count || marked)) {
        refuse(e, at, marked ? "an array has string keys"
                             : "the table mixes string and integer keys");
    }
    if (count != n) refuse(e, at, "the array has holes");
    return marked || n > 0 ? n : -1;
}

/* With an indent, an array of plain values stays on one line: always if it holds no strings, else
** up to 80 bytes of them. */
static bool fits_line(lua_State *L, lua_Integer n) {
    size_t bytes = 0;
    for (lua_Integer i = 1; i <= n; i++) {
        int type = lua_rawgeti(L, -1, i);
        bytes += type == LUA_TSTRING ? lua_rawlen(L, -1) + 4 : 0;
        lua_pop(L, 1);
        if (type == LUA_TTABLE || bytes > 80) return false;
    }
    return true;
}

static const char changed[] = "the table changed while it was written"; /* by a finalizer */

static void add_array(encoder *e, lua_Integer n, const place *at, int depth) {
    lua_State *L = e->L;
    bool one_line = !e->indent || fits_line(L, n);
    const char *separator = e->indent && one_line ? ", " : ",";
    add_text(e, "[");
    for (lua_Integer i = 1; i <= n; i++) {
        place here = {at, NULL, i};
        if (i > 1) add_text(e, separator);
        if (!one_line) add_newline(e, depth + 1);
        if (lua_rawgeti(L, -1, i) == LUA_TNIL) refuse(e, at, changed);
        add_value(e, &here, depth + 1);
        lua_pop(L, 1);
    }
    if (!one_line) add_newline(e, depth);
    add_text(e, "]");
}

typedef struct name {
    const char *p;
    size_t n;
} name;

static int by_bytes(const void *a, const void *b) {
    const name *x = a, *y = b;
    int order = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static void add_object(encoder *e, const place *at, int depth) {
    lua_State *L = e->L;
    size_t n = 0;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) n++;
    name *names = lua_newuserdatauv(L, (n ? n : 1) * sizeof *names, 0);
    lua_createtable(L, n < INT_MAX ? (int)n : 0, 0);
    lua_rotate(L, -3, 2); /* stack: names, their strings, table */
    size_t i = 0;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1), i++) {
        if (i == n || lua_type(L, -2) != LUA_TSTRING) refuse(e, at, changed);
        names[i].p = lua_tolstring(L, -2, &names[i].n);
        lua_pushvalue(L, -2);
        lua_rawseti(L, -5, (lua_Integer)i + 1);
    }
    if (i != n) refuse(e, at, changed);
    if (e->sort_keys) qsort(names, n, sizeof *names, by_bytes);
    add_text(e, "{");
    for (i = 0; i < n; i++) {
        place here = {at, names[i].p, 0};
        if (i > 0) add_text(e, ",");
        add_newline(e, depth + 1);
        add_string(e, names[i].p, names[i].n, &here);
        add_text(e, e->indent ? ": " : ":");
        lua_pushlstring(L, names[i].p, names[i].n);
        if (lua_rawget(L, -2) == LUA_TNIL) refuse(e, at, changed);
        add_value(e, &here, depth + 1);
        lua_pop(L, 1);
    }
    if (n > 0) add_newline(e, depth);
    add_text(e, "}");
    lua_replace(L, -3);
    lua_pop(L, 1);
}

static void add_table(encoder *e, const place *at, int depth) {
    lua_State *L = e->L;
    if (depth >= MAX_DEPTH) refuse(e, at, "tables are nested more than 1000 deep");
    luaL_checkstack(L, 10, "json nested too deeply");
    lua_pushvalue(L, -1);
    if (lua_rawget(L, e->on_path) != LUA_TNIL) refuse(e, at, "the table contains itself");
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    lua_pushboolean(L, true);
    lua_rawset(L, e->on_path);
    lua_Integer n = array_size(e, at);
    if (n >= 0) {
        add_array(e, n, at, depth);
    } else {
        add_object(e, at, depth);
    }
    lua_pushvalue(L, -1);
    lua_pushnil(L);
    lua_rawset(L, e->on_path);
}

/* the value on top of the stack, which it leaves there */
static void add_value(encoder *e, const place *at, int depth) {
    lua_State *L = e->L;
    switch (lua_type(L, -1)) {
        case LUA_TNIL: add_text(e, "null"); break;
        case LUA_TBOOLEAN: add_text(e, lua_toboolean(L, -1) ? "true" : "false"); break;
        case LUA_TTABLE: add_table(e, at, depth); break;
        case LUA_TSTRING: {
            size_t n;
            const char *p = lua_tolstring(L, -1, &n);
            add_string(e, p, n, at);
            break;
        }
        case LUA_TNUMBER:
            if (lua_isinteger(L, -1)) {
                char digits[32];
                long long v = lua_tointeger(L, -1);
                add(e, digits, (size_t)snprintf(digits, sizeof digits, "%lld", v));
            } else {
                add_float(e, lua_tonumber(L, -1), at);
            }
            break;
        case LUA_TLIGHTUSERDATA:
            if (!lua_touserdata(L, -1)) {
                add_text(e, "null");
                break;
            } /* fallthrough */
        default:
            refuse(e, at, lua_pushfstring(L, "a %s cannot be written", luaL_typename(L, -1)));
    }
}

static const char *const encode_options[] = {"indent", "sort_keys", "replace_invalid", NULL};

/* The text of the value at idx by the options at opts; it lives in a userdata left on the stack. */
static void encode(lua_State *L, encoder *e, int idx, int opts) {
    moclL_checkoptions(L, opts, encode_options);
    *e = (encoder){.L = L};
    lua_Integer indent = moclL_optfield_integer(L, opts, "indent", 0);
    if (indent < 0 || indent > 8) luaL_error(L, "json.encode: indent %I is not in 0..8", indent);
    e->indent = (int)indent;
    e->sort_keys = moclL_optfield_boolean(L, opts, "sort_keys", true);
    e->replace_invalid = moclL_optfield_boolean(L, opts, "replace_invalid", false);
    lua_pushnil(L);
    e->slot = lua_gettop(L);
    lua_newtable(L);
    e->on_path = lua_gettop(L);
    lua_pushvalue(L, idx);
    add_value(e, NULL, 0);
    lua_pop(L, 2); /* stack: ..., userdata */
}

static int json_l_encode(lua_State *L) {
    encoder e;
    luaL_checkany(L, 1);
    lua_settop(L, 2);
    encode(L, &e, 1, 2);
    lua_pushlstring(L, e.text, e.used);
    return 1;
}

static int json_l_save(lua_State *L) {
    encoder e;
    const char *path = luaL_checkstring(L, 1);
    luaL_checkany(L, 2);
    lua_settop(L, 3);
    encode(L, &e, 2, 3);
    add(&e, "\n", 1);
    lua_pushboolean(L, true);
    return moclL_result(L, mocl_file_write_atomic(moclL_ctx(L), path, e.text, e.used), 1);
}

static int json_l_array(lua_State *L) {
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    luaL_setmetatable(L, ARRAY);
    return 1;
}

/* ---- module ---- */

static void free_document(void *document) { json_decref(document); }

static const luaL_Reg functions[] = {{"array", json_l_array}, {"decode", json_l_decode},
                                     {"encode", json_l_encode}, {"keys", json_l_keys},
                                     {"load", json_l_load},
                                     {"save", json_l_save},     {"null", NULL}, /* placeholder */
                                     {NULL, NULL}};

int moclL_open_json(lua_State *L) {
    static const luaL_Reg none[] = {{NULL, NULL}};
    moclL_newclass(L, DOCUMENT, none, free_document);
    moclL_newclass(L, FILE_BYTES, none, mocl_free);
    luaL_newmetatable(L, ARRAY);
    moclL_newlib(L, functions);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    return 1;
}
