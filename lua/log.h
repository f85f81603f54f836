/* log.h - what scripts print, for the host */
#ifndef MOCLL_LOG_H
#define MOCLL_LOG_H

#include "host.h"

void moclL_open_log(lua_State *L); /* after Lua's own libraries; nothing where the host has no logger */
void moclL_open_warnings(moclL_host *h); /* for a state that luaL_newstate has not made */

#endif
