/* comm.h - the job of MPI that this process is a rank of, if an mpirun started it.
**
** A process has one job, so its state is one for the process, not for a context. Nothing of MPI is loaded where no launcher
** has left its variables. The library is that of the launcher's own family, loaded by name; the two families have different
** binary interfaces (comm_openmpi.c, comm_mpich.c).
**
** The only communication is an exchange of bytes in which every rank takes part: sums are made by whoever receives the
** parts, in an order that depends on nothing but the parts. No operation of MPI works on numbers.
**
** Joining and leaving are the program's (lua/ranks.c), which owns the environment, the standard streams and the exit status.
*/
#ifndef MOCL_COMM_H
#define MOCL_COMM_H

#include "base.h"

enum { MOCL_COMM_MOST = 1024, MOCL_COMM_TEXT = 1024 }; /* ranks; bytes of the message of a failure */

typedef struct mocl_comm_job {
    int rank, size;             /* 0 and 1 without a job */
    int local_rank, local_size; /* on this machine */
    const char *family;         /* "Open MPI", "MPICH"; NULL without a job */
    char host[64];
} mocl_comm_job;

const mocl_comm_job *mocl_comm(void);

/* What every rank gave, in the order of the ranks: that of rank r is data[offset[r]] .. data[offset[r + 1] - 1]. */
typedef struct mocl_comm_parts {
    char *data;
    size_t offset[MOCL_COMM_MOST + 1];
} mocl_comm_parts;

/* Every rank gives n bytes and gets those of all. `what` names the exchange in messages and must be the same everywhere: ranks that
** are not at the same place fail, as does one that waits for longer than the limit; then the job cannot go on. Free out->data with
** mocl_free. Without a job the part is the own one. */
mocl_status mocl_comm_exchange(mocl_ctx *ctx, const char *what, const void *bytes, size_t n, mocl_comm_parts *out);

void mocl_comm_limit(double seconds);    /* of waiting for the others; 600 at first */
void mocl_comm_place(const char *text);  /* what messages call the place of the program: "moc: iteration 5" */
void mocl_comm_alive(void);              /* tells those who wait for this rank that it is at work; at most once a second */

typedef struct mocl_comm_counts {
    uint64_t exchanges, bytes; /* bytes: sent by this rank, counted once for each that receives them */
    double seconds;            /* spent in exchanges, with waiting */
} mocl_comm_counts;
mocl_comm_counts mocl_comm_counted(void);

/* ---- for the program: joining and leaving ---- */

typedef struct mocl_comm_family mocl_comm_family;
extern const mocl_comm_family mocl_comm_openmpi, mocl_comm_mpich;

/* Loads the library of a family (`named`: its file; NULL: by its usual names) and joins the job as the rank that the launcher says.
** False with the reason in `why`: a program that went on would be one of several that all take themselves for the only one. */
bool mocl_comm_join(const mocl_comm_family *f, const char *named, const mocl_comm_job *as, char *why, size_t bytes);

/* The last exchange, which tells the others that this rank ends with success and waits for them to say so too. */
bool mocl_comm_part(char *why, size_t bytes);

/* Tells all other ranks, which get it as the failure of the exchange that they are in or come to next, unless this rank fails since
** another has told it. */
void mocl_comm_tell(const char *failure);
/* Lets what was sent go out, for so many seconds. */
void mocl_comm_drain(double seconds);
/* How long the first rank has to end the job after a failure was told. */
double mocl_comm_patience(void);
/* What messages call the place of the program, "" before it says so. */
const char *mocl_comm_place_text(void);
/* Ends all ranks, if the library is there and can. */
void mocl_comm_end(int status);
bool mocl_comm_has_job(void);

#endif
