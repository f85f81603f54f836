/* repl.h - the interactive mode of the program mocl */
#ifndef MOCL_REPL_H
#define MOCL_REPL_H

#include <lua.h>
#include <stdbool.h>

/* Reads, runs and prints until the end of input; returns 0, or the signal that ended it. */
int mocl_repl(lua_State *L);

/* For the signal handler: true if the signal belongs to the prompt, which is waiting for a
** line on a terminal; it will deal with it. */
bool mocl_repl_signal(int signal_number);

#endif
