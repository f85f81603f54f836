/* sandbox.h - the libraries that scripts have */
#ifndef MOCLL_SANDBOX_H
#define MOCLL_SANDBOX_H

#include "host.h"

/* After Lua's libraries and the modules: takes away what `libraries` (MOCL_LIB_...) does not select. 0 = nothing. */
void moclL_select_libraries(lua_State *L, unsigned libraries);
/* os.exit ends the run, and the process only where the host is the program mocl. */
void moclL_open_exit(lua_State *L);

#endif
