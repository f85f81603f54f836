/* complain.h - what the program mocl says on standard error */
#ifndef MOCL_COMPLAIN_H
#define MOCL_COMPLAIN_H

#include <stdbool.h>

extern const char *mocl_program; /* argv[0], as in lua */

/* Writes "mocl: message" (or the message alone) to stderr. */
void mocl_complain(const char *message, bool with_name);

#endif
