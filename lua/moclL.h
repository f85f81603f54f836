/* moclL.h - helpers shared by the binding files. moclL_ functions take a lua_State, may raise an
** error (longjmp) and may run the collector: never hold unowned memory across one.
**
** Order in every binding: check all arguments, push the empty owner, acquire into it, work, return.
*/
#ifndef MOCLL_H
#define MOCLL_H

#include "calls.h"

/* Is the value at idx a function or an object with __call? The other one raises where it is not. */
bool moclL_iscallable(lua_State *L, int idx);
void moclL_checkcallable(lua_State *L, int idx);

/* Raise unless each key of the table at idx (nil or none is fine) is in the NULL-terminated list;
** the message names the nearest known key. */
void moclL_checkoptions(lua_State *L, int idx, const char *const known[]);

/* The integer at idx, and whether it is one: a number (3.0 counts), not a string that reads as one. */
lua_Integer moclL_tointeger(lua_State *L, int idx, int *is_integer);

/* Fields of an options table at idx (which may be nil or none), with defaults. A wrong type raises
** "bad option 'name' (number expected, got string)". */
lua_Number moclL_optfield_number(lua_State *L, int idx, const char *name, lua_Number def);
lua_Integer moclL_optfield_integer(lua_State *L, int idx, const char *name, lua_Integer def);
bool moclL_optfield_boolean(lua_State *L, int idx, const char *name, bool def);
/* Raises "bad option 'name' (EXPECTED expected, got TYPE)" for the value on top of the stack. */
int moclL_badoption(lua_State *L, const char *name, const char *expected);
/* Push the table or what can be called and return true; false, with nothing pushed, where there is none. */
bool moclL_optfield_table(lua_State *L, int idx, const char *name);
bool moclL_optfield_function(lua_State *L, int idx, const char *name);
/* The string lives until the running call ends. */
const char *moclL_optfield_string(lua_State *L, int idx, const char *name, const char *def);
const char *moclL_optfield_lstring(lua_State *L, int idx, const char *name, const char *def, size_t *n); /* *n: its bytes */

/* A userdata that holds one pointer and frees it: `free_fn` runs in __gc, __close and :release(),
** in whichever comes first. moclL_newclass makes the metatable (methods may include metamethods);
** moclL_pushowner pushes an empty owner; moclL_checkowner returns the address of its pointer and
** raises if the object was released. */
void moclL_newclass(lua_State *L, const char *name, const luaL_Reg *methods, moclL_free free_fn);
void **moclL_pushowner(lua_State *L, const char *name); /* user value 2 is free for the class */
/* With MOCL_GC_STRESS: a collection, now and then. Whatever pushes an owner calls it. */
void moclL_stress(lua_State *L);
void *moclL_checkowner(lua_State *L, int idx, const char *name);
/* The same for a call that changes the object: raises where a call around it works on it. `what` names it in the
** message. */
void *moclL_checkidle(lua_State *L, int idx, const char *name, const char *what);

/* Below owners: a userdata of zeros that only this state's functions take, with n_values user values from 2 on (name
** NULL: the caller sets the metatable). A copy of its bytes, in this or another state, is none: moclL_testbox gives
** NULL and moclL_checkbox raises. */
void *moclL_newbox(lua_State *L, size_t bytes, int n_values, const char *name);
void *moclL_testbox(lua_State *L, int idx, const char *name);
void *moclL_checkbox(lua_State *L, int idx, const char *name);
bool moclL_isown(lua_State *L, int idx); /* is the full userdata at idx such a one, of any class? */

/* The length of the list at idx. Lists are read by this and lua_geti everywhere, so that an object with __len and
** __index is one. Each entry is asked for once, and no length twice: the second answer may differ. */
lua_Integer moclL_len(lua_State *L, int idx);

/* What a misspelt word may have meant: the nearest of n names, at most a third of the word's letters away, or one, or NULL. A name
** with dots whose last part is the word counts as the word. */
const char *moclL_nearest(const char *word, const char *const *names, int n);

#endif
