/* comm.h - the job of MPI that this process is a rank of, if an mpirun started it.
**
** A process has one job, so its state is one for the process, not for a context. Nothing of MPI is loaded where no launcher
** has left its variables. The library is that of the launcher's own family, loaded by name; the two families have different
** binary interfaces (comm_openmpi.c, comm_mpich.c).
**
** The only communication is an exchange of bytes in which every rank takes part: sums are made by whoever receives the
** parts, in an order that depends on nothing but the parts. No operation of MPI works on numbers.
*/
#ifndef MOCL_COMM_H
#define MOCL_COMM_H

#include "base.h"

enum { MOCL_COMM_MOST = 1024 }; /* ranks */

typedef struct mocl_comm_job {
    int rank, size;             /* 0 and 1 without a job */
    int local_rank, local_size; /* on this machine */
    const char *family;         /* "Open MPI", "MPICH"; NULL without a job */
    char host[64];
} mocl_comm_job;

const mocl_comm_job *mocl_comm(void);

/* Joins the job that the environment tells of. False, with the reason in `why`, where there is one that cannot be joined: a
** program that went on would be one of several that all take themselves for the only one. From here on the process ends
** through mocl_comm_end, which exit calls; the launcher's variables are gone, so that a child is no rank; of other ranks than
** the first, standard input is empty, standard output goes nowhere, and standard error is kept for the message of a failure. */
bool mocl_comm_join(char *why, size_t bytes);

/* The CPU threads of a rank where nothing binds it to some cores: those of the machine, shared out. 0 without a job. */
int mocl_comm_threads(void);

/* What every rank gave, in the order of the ranks: that of rank r is data[offset[r]] .. data[offset[r + 1] - 1]. */
typedef struct mocl_comm_parts {
    char *data;
    size_t offset[MOCL_COMM_MOST + 1];
} mocl_comm_parts;

/* Every rank gives n bytes and gets those of all. `what` names the exchange in messages and must be the same everywhere: ranks that
** are not at the same place fail, as does one that waits for longer than the limit; then the job cannot go on. Free out->data with
** mocl_free. Without a job the part is the own one. */
mocl_status mocl_comm_exchange(mocl_ctx *ctx, const char *what, const void *bytes, size_t n, mocl_comm_parts *out);

void mocl_comm_limit(double seconds);    /* of waiting for the others */
void mocl_comm_place(const char *text);  /* what messages call the place of the program: "moc: iteration 5" */
void mocl_comm_alive(void);              /* tells those who wait for this rank that it is at work; at most once a second */
void mocl_comm_failed(const char *text); /* the message of a rank that will end with a failure */

typedef struct mocl_comm_counts {
    uint64_t exchanges, bytes; /* bytes: sent by this rank, counted once for each that receives them */
    double seconds;            /* spent in exchanges, with waiting */
} mocl_comm_counts;
mocl_comm_counts mocl_comm_counted(void);

#endif
