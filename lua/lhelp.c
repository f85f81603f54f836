/* lhelp.c - module mocl.help.core: the pages of docs/ that are in the program. */
#include <string.h>

#include "modules.h"

/* pages() -> list of {file=, text=} */
static int help_pages(lua_State *L) {
    lua_newtable(L);
    for (lua_Integer i = 0; moclL_pages[i].file; i++) {
        const moclL_source *page = &moclL_pages[i];
        lua_createtable(L, 0, 2);
        lua_pushstring(L, page->file);
        lua_setfield(L, -2, "file");
        lua_pushlstring(L, page->text, (size_t)(page->end - page->text));
        lua_setfield(L, -2, "text");
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static const luaL_Reg functions[] = {{"pages", help_pages}, {NULL, NULL}};

int moclL_open_help_core(lua_State *L) {
    moclL_newlib(L, functions);
    return 1;
}
