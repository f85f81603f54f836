/* complain.c - what the program mocl says on standard error */
#include "complain.h"

#include <stdio.h>

#include "ranks.h"

const char *mocl_program = "mocl";

void mocl_complain(const char *message, bool with_name) {
    mocl_rank_failed(message);
    fflush(stdout);
    if (with_name) fprintf(stderr, "%s: ", mocl_program);
    fprintf(stderr, "%s\n", message);
    fflush(stderr);
}
