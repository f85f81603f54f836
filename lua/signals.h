/* signals.h - of the program mocl: the signal handlers, which a library must not own */
#ifndef MOCL_SIGNALS_H
#define MOCL_SIGNALS_H

#include "host.h"

/* From here on SIGINT and SIGTERM interrupt the scripts of this state; a write beyond ulimit -f fails and ends nothing. */
void mocl_catch_signals(moclL_host *h);
void mocl_release_signals(void);
/* Makes a Ctrl-C that ended a command of os.execute interrupt the script too. May raise. */
void mocl_hear_commands(lua_State *L);

/* The state whose scripts the program runs; NULL before mocl_catch_signals and after mocl_release_signals. */
moclL_host *mocl_program_host(void);

#endif
