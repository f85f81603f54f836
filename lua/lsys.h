/* lsys.h - module mocl.sys, for the program */
#ifndef MOCLL_LSYS_H
#define MOCLL_LSYS_H

#include <lua.h>

/* Pushes the directories in which scripts are looked up, one string, separated by ':'. */
void moclL_push_recipe_path(lua_State *L);

#endif
