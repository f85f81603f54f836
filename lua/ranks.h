/* ranks.h - of the program mocl: how it becomes a rank of a job of MPI and how it ends as one, which a library must not decide */
#ifndef MOCL_RANKS_H
#define MOCL_RANKS_H

#include <stdbool.h>
#include <stddef.h>

/* Joins the job that the environment tells of, if any. False, with the reason in `why`, where there is one that cannot be joined.
** From here on the process ends as a rank does, whoever calls exit; the launcher's variables are gone, so that a child is no
** rank; of other ranks than the first, standard input is empty, standard output goes nowhere, and standard error is kept for the
** message of a failure. */
bool mocl_join_ranks(char *why, size_t bytes);

/* The CPU threads of a rank where nothing binds it to some cores: those of the machine, shared out. 0 without a job. */
int mocl_rank_threads(void);

/* The message of a rank that will end with a failure. */
void mocl_rank_failed(const char *text);

#endif
