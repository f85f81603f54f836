/* interrupt.h - stopping Lua code from a signal handler or another thread */
#ifndef MOCLL_INTERRUPT_H
#define MOCLL_INTERRUPT_H

#include "host.h"

void *moclL_realloc(void *host, void *p, size_t old_bytes, size_t bytes); /* a lua_Alloc */
void moclL_end_interrupt(lua_State *L);  /* drops an interrupt that came too late */

/* Around each lua_resume of co: what interrupts knows then that it runs. */
void moclL_enter(moclL_host *h, lua_State *co);
void moclL_leave(moclL_host *h);

/* Async-signal-safe: a signal arrived. The first one interrupts the script or, in flag mode, is only noted for
** sys.interrupted(), and the second one interrupts. What the caller should do: nothing; take the signal's default
** action, since a signal has interrupted the script before and it has neither ended nor acknowledged it; or, after the
** second one in flag mode, look again with moclL_undelivered soon and with moclL_unanswered a little later. */
typedef enum moclL_verdict { MOCLL_GO_ON, MOCLL_END, MOCLL_LOOK_AGAIN } moclL_verdict;
moclL_verdict moclL_signal(moclL_host *host, int signal_number);
/* Async-signal-safe: has an interruption not reached the script yet? Or has it, and the script neither ended nor
** acknowledged it? */
bool moclL_undelivered(const moclL_host *host);
bool moclL_unanswered(const moclL_host *host);
/* Async-signal-safe: will the next signal only be noted? */
bool moclL_notes_next(const moclL_host *host);
/* The script knows of the interruption that reached it: the next signal is a first one again. */
void moclL_acknowledge(moclL_host *host);

#endif
