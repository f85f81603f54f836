/* ldata.c - module mocl.data.core: the readers of lines and CSV rows under stdlib/mocl/data/init.lua.
**
** A reader is a userdata; reader:next() gives a line (or a table of fields) and its number, one nil
** at the end, or nil, "path:LINE: reason", code. After a failure a reader is not to be asked again.
*/
#include <string.h>

#include "io/csv.h"
#include "modules.h"
#include "io/text.h"

#define LINES "mocl.data.lines"
#define CSV "mocl.data.csv"

static int lines_next(lua_State *L) {
    mocl_lines *l = moclL_checkidle(L, 1, LINES, "next: the reader");
    const char *line;
    size_t n, number;
    mocl_status st = mocl_lines_next(l, &line, &n, &number);
    if (st) return moclL_result(L, st, 0);
    if (!line) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushlstring(L, line, n);
    lua_pushinteger(L, (lua_Integer)number);
    return 2;
}

static int data_lines(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    void **box = moclL_pushowner(L, LINES);
    mocl_lines *l;
    mocl_status st = mocl_lines_open(moclL_ctx(L), &l, path);
    *box = l;
    return moclL_result(L, st, 1);
}

static int csv_next(lua_State *L) {
    mocl_csv *c = moclL_checkidle(L, 1, CSV, "next: the reader"); /* its fields are read while Lua makes strings */
    size_t n_fields, line;
    mocl_status st = mocl_csv_next(c, &n_fields, &line);
    if (st) return moclL_result(L, st, 0);
    if (n_fields == 0) {
        lua_pushnil(L);
        return 1;
    }
    lua_createtable(L, (int)n_fields, 0);
    for (size_t i = 0; i < n_fields; i++) {
        size_t n;
        const char *p = mocl_csv_field(c, i, &n);
        lua_pushlstring(L, p, n);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_pushinteger(L, (lua_Integer)line);
    return 2;
}

static int data_csv(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    const char *separator = luaL_optstring(L, 2, ",");
    luaL_argcheck(L, strlen(separator) == 1 && !strpbrk(separator, "\"\r\n"), 2,
                  "a separator is one byte and neither a quote nor a line end");
    void **box = moclL_pushowner(L, CSV);
    mocl_csv *c;
    mocl_status st = mocl_csv_open(moclL_ctx(L), &c, path, separator[0]);
    *box = c;
    return moclL_result(L, st, 1);
}

/* offset (from 1) of the first byte that is not UTF-8, or nil */
static int data_bad_utf8(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    size_t good = mocl_utf8_check(text, n);
    if (good == n) {
        lua_pushnil(L);
    } else {
        lua_pushinteger(L, (lua_Integer)good + 1);
    }
    return 1;
}

/* text -> bytes of the UTF-8 byte order mark in front (3 or 0), or nil and why it cannot be read (UTF-16, UTF-32) */
static int data_mark(lua_State *L) {
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    const char *wide = mocl_text_wide(text, n);
    if (wide) {
        luaL_pushfail(L);
        lua_pushstring(L, wide);
        return 2;
    }
    lua_pushinteger(L, (lua_Integer)mocl_utf8_mark(text, n));
    return 1;
}

static void free_lines(void *l) { mocl_lines_close(l); }
static void free_csv(void *c) { mocl_csv_close(c); }

static const luaL_Reg functions[] = {{"bad_utf8", data_bad_utf8},
                                     {"csv", data_csv},
                                     {"lines", data_lines},
                                     {"mark", data_mark},
                                     {NULL, NULL}};

int moclL_open_data_core(lua_State *L) {
    static const luaL_Reg lines_methods[] = {{"next", lines_next}, {NULL, NULL}};
    static const luaL_Reg csv_methods[] = {{"next", csv_next}, {NULL, NULL}};
    moclL_newclass(L, LINES, lines_methods, free_lines);
    moclL_newclass(L, CSV, csv_methods, free_csv);
    moclL_newlib(L, functions);
    return 1;
}
