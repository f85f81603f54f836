/* errors.h - protected calls, and what is shown of an error */
#ifndef MOCLL_ERRORS_H
#define MOCLL_ERRORS_H

#include "host.h"

/* lua_pcall with a traceback added to the message; stack as lua_pcall's. host->interrupted tells
** whether the error was an interruption. */
int moclL_call(lua_State *L, int n_args, int n_results);
/* Text of the error value on top of the stack; NULL where it has none. Lua's "not enough memory" cannot say how much:
** it is completed in buf. Allocates nothing and leaves the stack. */
enum { MOCLL_ERROR_BYTES = 256 };
const char *moclL_errortext(lua_State *L, char buf[MOCLL_ERROR_BYTES]);

/* Does the text of an error, with or without a traceback, say that it is an interruption? */
bool moclL_is_interruption(const char *message);
/* A coroutine has died of the error on top of L's stack: keeps its stack as text for whoever shows that error, until
** the next one dies. Raises nothing. */
void moclL_keep_stack(lua_State *L, lua_State *co);
/* What was kept last belongs to the error on top of the stack, which has taken the place of the coroutine's. */
void moclL_rename_stack(lua_State *L);
void moclL_open_errors(lua_State *L); /* before scripts can replace Lua's own functions */

#endif
