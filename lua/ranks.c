/* ranks.c - the program mocl as a rank of a job of MPI: the launcher's variables, the standard streams and the exit status.
**
** A launcher takes much for success: in MPICH a rank that leaves with status 0 before the others, in both families an end of the job
** with status 0 or 256. So every way out passes here.
*/
#define _GNU_SOURCE
#include "ranks.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "comm.h"

extern char **environ;

static int own_stderr = -1, kept_stderr = -1;
static pid_t joined;
static char failure[MOCL_COMM_TEXT];

void mocl_rank_failed(const char *text) { snprintf(failure, sizeof failure, "%s", text); }

/* ---- leaving ---------------------------------------------------------------------------------- */

static void end_all(int status) {
    int code = status & 255;
    fflush(NULL);
    usleep(300000);              /* MPICH's launcher drops what it has not read by then */
    if (code > 128) _exit(code); /* after a signal, which has reached all ranks */
    mocl_comm_end(code ? code : 1);
    usleep(900000);
    _exit(code ? code : 1);
}

/* One write of what this rank has to say, on the standard error that it began with. */
static void say_alone(const char *text) {
    char line[MOCL_COMM_TEXT + 100];
    int n = snprintf(line, sizeof line, "rank %d: %s\n", mocl_comm()->rank, text);
    ssize_t ignored = write(own_stderr >= 0 ? own_stderr : 2, line, n < (int)sizeof line ? (size_t)n : sizeof line - 1);
    (void)ignored;
}

/* What this rank would have said: its message, or the end of what it wrote to standard error. */
static void find_failure(int status) {
    if (*failure) return;
    off_t size = kept_stderr >= 0 ? lseek(kept_stderr, 0, SEEK_END) : 0;
    ssize_t n = 0, most = sizeof failure - 1;
    if (size > 0) n = pread(kept_stderr, failure, (size_t)most, size > most ? size - most : 0);
    while (n > 0 && failure[n - 1] == '\n') n--;
    failure[n > 0 ? n : 0] = '\0';
    const char *place = mocl_comm_place_text();
    if (n <= 0) snprintf(failure, sizeof failure, "has ended with status %d%s%s", status, *place ? " in " : "", place);
}

/* Called by exit, whoever calls that. A rank that leaves with success waits for the others to do the same; one that fails tells
** the others, and the first rank ends the job when it has said what is wrong. */
static void on_leave(int status, void *unused) {
    (void)unused;
    char why[MOCL_COMM_TEXT] = "";
    if (getpid() != joined) return; /* a child of fork */
    joined = 0;
    fflush(NULL);
    if (status == 0) {
        if (mocl_comm_part(why, sizeof why)) return;
        if (mocl_comm()->rank == 0) fprintf(stderr, "mocl: %s\n", why);
        else mocl_rank_failed(why);
        status = 1;
    }
    if (mocl_comm()->rank == 0) end_all(status);
    find_failure(status);
    mocl_comm_tell(failure);
    mocl_comm_drain(mocl_comm_patience()); /* the first rank ends this one; where it does not come, this one ends it */
    say_alone(failure);
    end_all(status);
}

/* ---- joining ---------------------------------------------------------------------------------- */

static int number_of(const char *name, int otherwise) {
    const char *text = getenv(name);
    char *end;
    long n = text ? strtol(text, &end, 10) : -1;
    return text && end != text && !*end && n >= 0 && n <= INT_MAX ? (int)n : otherwise;
}

static int first_of(const char *const *names, int otherwise) {
    for (; *names; names++)
        if (number_of(*names, -1) >= 0) return number_of(*names, -1);
    return otherwise;
}

/* The launcher's variables go, so that a program that this one starts is no rank of the job. */
static void forget_launcher(void) {
    static const char *const prefixes[] = {"OMPI_COMM_WORLD_", "OMPI_UNIVERSE_SIZE", "OMPI_APP_CTX", "OMPI_FIRST_RANKS", "OMPI_FILE_LOCATION",
                                           "OMPI_MCA_ess", "OMPI_MCA_orte_", "OMPI_MCA_pmix", "OMPI_ARGV", "OMPI_COMMAND", "OMPI_NUM_APP_CTX",
                                           "PMIX_", "PMI_", "MPI_LOCAL", "HYDI_", NULL};
    int fd = number_of("PMI_FD", -1);
    if (fd >= 0) fcntl(fd, F_SETFD, FD_CLOEXEC);
    for (size_t i = 0; environ && environ[i];) {
        char name[128];
        size_t n = strcspn(environ[i], "=");
        bool found = false;
        for (const char *const *p = prefixes; *p; p++) found = found || strncmp(environ[i], *p, strlen(*p)) == 0;
        if (!found || n >= sizeof name) {
            i++;
            continue;
        }
        memcpy(name, environ[i], n);
        name[n] = '\0';
        unsetenv(name); /* the next one takes its place */
    }
}

/* Only the first rank speaks: the standard streams of the others. */
static void be_silent(void) {
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    own_stderr = fcntl(2, F_DUPFD_CLOEXEC, 3);
    kept_stderr = memfd_create("stderr", MFD_CLOEXEC);
    if (nothing >= 0) {
        dup2(nothing, 0);
        fflush(stdout);
        dup2(nothing, 1);
        if (kept_stderr < 0) dup2(nothing, 2);
    }
    if (kept_stderr >= 0) dup2(kept_stderr, 2);
}

/* Which family the launcher is of, and the rank and size that it says. NULL without a launcher. */
static const mocl_comm_family *launcher(mocl_comm_job *as) {
    static const char *const sizes[] = {"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", NULL};
    const mocl_comm_family *f = &mocl_comm_openmpi;
    as->rank = number_of("OMPI_COMM_WORLD_RANK", -1), as->size = number_of("OMPI_COMM_WORLD_SIZE", -1);
    if (as->rank >= 0 && as->size > 0) return f;
    as->rank = number_of("PMI_RANK", -1), as->size = number_of("PMI_SIZE", -1);
    if (as->rank >= 0 && as->size > 0) return &mocl_comm_mpich;
    as->rank = number_of("PMIX_RANK", -1), as->size = first_of(sizes, -1);
    return as->rank >= 0 && as->size > 0 ? f : NULL;
}

bool mocl_join_ranks(char *why, size_t bytes) {
    static const char *const local_rank[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID", NULL};
    static const char *const local_size[] = {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", NULL};
    mocl_comm_job as = {.local_rank = first_of(local_rank, 0), .local_size = first_of(local_size, 1)};
    const mocl_comm_family *f = launcher(&as);
    const char *named = getenv("MOCL_MPI");
    int tasks = number_of("SLURM_STEP_NUM_TASKS", 1);
    if (!f && tasks > 1 && getenv("SLURM_PROCID")) {
        snprintf(why, bytes, "srun has started %d programs that do not know each other; say srun --mpi=pmix for Open MPI or --mpi=pmi2 for MPICH", tasks);
        return false;
    }
    if (!f) return true;
    if (as.local_size < 1) as.local_size = 1;
    if (!mocl_comm_join(f, named && *named ? named : NULL, &as, why, bytes)) return false;
    if (!mocl_comm_has_job()) return true;
    forget_launcher();
    joined = getpid();
    on_exit(on_leave, NULL);
    if (as.rank > 0) be_silent();
    return true;
}

int mocl_rank_threads(void) {
    cpu_set_t set;
    const mocl_comm_job *job = mocl_comm();
    if (!job->family || sched_getaffinity(0, sizeof set, &set)) return 0;
    int mine = CPU_COUNT(&set), each = mine / job->local_size;
    if (mine < sysconf(_SC_NPROCESSORS_ONLN)) return 0; /* bound */
    return each > 1 ? each : 1;
}
