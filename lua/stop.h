/* stop.h - ending a run whatever its script catches: limits, and os.exit inside a host */
#ifndef MOCLL_STOP_H
#define MOCLL_STOP_H

#include "host.h"

/* The hook at each instruction: on the thread, on all that run. Async-signal-safe. */
void moclL_hook(lua_State *L);
void moclL_hook_running(moclL_host *h);

/* Around each run that the host asks for; calls nest. begin starts the time and the instructions, end takes the reason why
** the run was stopped back and returns it; failed: an error has left the run. */
void moclL_begin_run(moclL_host *h);
moclL_stop_reason moclL_end_run(moclL_host *h, bool failed);

/* Stops the run and raises; the text gets the place in front. */
int moclL_stop(lua_State *L, moclL_stop_reason reason, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Gives L the hook that it has while nothing is interrupted: the one that counts, or none. */
void moclL_rest_hook(lua_State *L);
/* A thread is about to run: counts, and gives it its hook. */
void moclL_enter_limits(moclL_host *h, lua_State *co);

#endif
