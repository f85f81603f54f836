/* comm.c - joining a job of MPI, exchanging bytes in it, and leaving it.
**
** Waiting is a loop of our own, with short sleeps, a clock and a look for signals: neither family notices a rank that hangs, and
** both burn the core that another rank's threads need. Every exchange begins with a head from each rank to each, so that it is
** known who is missing, and whether all are at the same place. The reactions of the libraries that this file is built around
** were tried with Open MPI 4.1.4 and MPICH 4.0.2: docs/guide/many-machines.md has them.
*/
#define _GNU_SOURCE
#include "comm.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "comm_family.h"

extern char **environ;

enum { HEAD = 71, FAILURE = 72, ALIVE = 73 }; /* tags */
enum { TEXT = 1024, WHAT = 40, ALL_AT_ONCE = 1 << 28 /* bytes of one collective of MPI, whose counts are ints */ };

typedef struct head {
    uint64_t bytes;
    uint32_t number;
    int32_t leaving; /* 1: this rank ends */
    char what[WHAT];
} head;

typedef struct rank_of {
    int32_t pid, local;
    char host[64];
} rank_of;

static mocl_comm_job job = {.size = 1, .local_size = 1};
static const mocl_comm_family *mpi; /* NULL: there is no job */
static rank_of ranks[MOCL_COMM_MOST];
static mocl_comm_counts counts;
static double limit_s = 600;
static uint32_t number;             /* of the next exchange */
static bool broken, told, by_time;  /* an exchange failed; another rank's failure was the reason; or the limit was */
static char place[200], failure[TEXT];
static int own_stderr = -1, kept_stderr = -1;

const mocl_comm_job *mocl_comm(void) { return &job; }
mocl_comm_counts mocl_comm_counted(void) { return counts; }
void mocl_comm_limit(double seconds) { limit_s = seconds; }
void mocl_comm_place(const char *text) { snprintf(place, sizeof place, "%s", text); }
void mocl_comm_failed(const char *text) { snprintf(failure, sizeof failure, "%s", text); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void rest(double seconds) {
    struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

/* ---- waiting ---------------------------------------------------------------------------------- */

static mocl_status refuse(mocl_ctx *ctx, int code) {
    char text[512] = "";
    mpi->text(code, text);
    broken = true;
    return mocl_fail(ctx, MOCL_E_IO, "MPI: %s", text);
}

#define MPI_TRY(call)                                     \
    do {                                                  \
        int try_code_ = (call);                           \
        if (try_code_) return refuse(ctx, try_code_);     \
    } while (0)

/* A short message to every other rank, of which nobody waits to have been received. */
static void tell(int tag, const char *bytes, int n) {
    static mocl_comm_request sent[MOCL_COMM_MOST];
    static char copy[TEXT]; /* lives on, as the messages do */
    memcpy(copy, bytes, (size_t)n);
    for (int r = 0; r < job.size; r++)
        if (r != job.rank) mpi->send(copy, n, r, tag, &sent[r]);
    for (int tries = 0; tries < 20; tries++) {
        bool all = true;
        for (int r = 0; r < job.size; r++) {
            bool done = true;
            if (r != job.rank && sent[r]) mpi->test(&sent[r], &done);
            all = all && done;
        }
        if (all) return;
        rest(1e-3);
    }
}

/* Takes a message of that tag, if one has come. */
static mocl_status take(mocl_ctx *ctx, int tag, char *bytes, int n, int *from) {
    bool there, done = false;
    *from = -1;
    MPI_TRY(mpi->look(tag, &there, from));
    if (!there) return MOCL_OK;
    mocl_comm_request r;
    MPI_TRY(mpi->receive(bytes, n, *from, tag, &r));
    while (!done) MPI_TRY(mpi->test(&r, &done));
    return MOCL_OK;
}

static mocl_status missing(mocl_ctx *ctx, const char *what, const bool *here) {
    char text[400] = "";
    size_t at = 0;
    int n = 0, last = 0;
    for (int r = 0; r < job.size; r++) {
        if (here[r]) continue;
        if (n < 4) at += (size_t)snprintf(text + at, sizeof text - at, "%srank %d (%s, process %d)", n ? ", " : "", r, ranks[r].host, ranks[r].pid);
        if (n++ >= 4) last = r;
    }
    if (n > 4) snprintf(text + at, sizeof text - at, " and %d more up to rank %d", n - 4, last);
    broken = by_time = true;
    return mocl_fail(ctx, MOCL_E_IO, "%s of %d ha%s not come to '%s'%s%s for %g s: hung, or at work for longer than comm.timeout=%g", n ? text : "the network", job.size,
                     n > 1 ? "ve" : "s", what, *place ? ", in " : "", place, limit_s, limit_s);
}

/* Until all requests are done; here[r] becomes true with request r, of rank r (NULL: the request is of all). */
static mocl_status wait_for(mocl_ctx *ctx, const char *what, mocl_comm_request *request, int n, bool *here, bool polls) {
    bool done[2 * MOCL_COMM_MOST] = {false};
    double last = now(), waited = 0;
    for (int64_t tries = 0;; tries++) {
        int left = 0;
        for (int i = 0; i < n; i++) {
            if (!done[i]) MPI_TRY(mpi->test(&request[i], &done[i]));
            left += !done[i];
            if (here && i < job.size && done[i]) here[i] = true;
        }
        if (!left) return MOCL_OK;
        if (tries < 50) continue;
        char text[TEXT];
        int from;
        MOCL_TRY(take(ctx, FAILURE, text, TEXT, &from));
        if (from >= 0) {
            broken = told = true;
            text[TEXT - 1] = '\0';
            return mocl_fail(ctx, MOCL_E_IO, "rank %d (%s): %.900s", from, ranks[from].host, text);
        }
        MOCL_TRY(take(ctx, ALIVE, text, 1, &from));
        if (from >= 0) waited = 0;
        mocl_status st = polls ? mocl_poll(ctx) : MOCL_OK;
        if (st) {
            broken = true;
            return st;
        }
        double t = now();
        waited += t - last < 1 ? t - last : 1; /* a process that was stopped itself has not waited */
        last = t;
        if (waited > limit_s) {
            static bool nobody[MOCL_COMM_MOST];
            if (!here) memset(nobody, 1, sizeof nobody);
            return missing(ctx, what, here ? here : nobody);
        }
        rest(waited < 0.5 ? 2e-4 : 2e-3);
    }
}

/* ---- the exchange ----------------------------------------------------------------------------- */

/* The heads of all. */
static mocl_status meet(mocl_ctx *ctx, const char *what, const head *mine, head *heads, bool polls) {
    static mocl_comm_request request[2 * MOCL_COMM_MOST];
    static head out; /* what is still being sent when this fails must live on */
    static bool here[MOCL_COMM_MOST];
    int n = 0, size = job.size;
    out = *mine;
    memset(here, 0, sizeof here);
    mocl_comm_request *sends = request + size;
    for (int r = 0; r < size; r++) { /* every rank sends to itself too, so that request r is rank r's */
        MPI_TRY(mpi->receive(&heads[r], sizeof *heads, r, HEAD, &request[r]));
    }
    for (int k = 0; k < size; k++, n++) {
        int r = (job.rank + k) % size;
        MPI_TRY(mpi->send(&out, sizeof out, r, HEAD, &sends[r]));
    }
    MOCL_TRY(wait_for(ctx, what, request, 2 * size, here, polls));
    for (int r = 0; r < size; r++) {
        if (heads[r].number == mine->number && heads[r].leaving == mine->leaving && strncmp(heads[r].what, mine->what, WHAT) == 0) continue;
        broken = true;
        return mocl_fail(ctx, MOCL_E_IO, "rank %d (%s) %s'%.*s' (exchange %u), while rank %d is at '%.*s' (%u)%s%s: all ranks must run the same program with the same input", r,
                         ranks[r].host, heads[r].leaving ? "has left at " : "is at ", WHAT, heads[r].what, heads[r].number, job.rank, WHAT, mine->what,
                         mine->number, *place ? ", in " : "", place);
    }
    return MOCL_OK;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* The bytes themselves, so many of every rank at a time that a collective's counts are ints. */
static mocl_status carry(mocl_ctx *ctx, const char *what, const char *bytes, size_t n, mocl_comm_parts *out, bool polls) {
    static int count[MOCL_COMM_MOST], at[MOCL_COMM_MOST];
    size_t most = 0, step = ALL_AT_ONCE / (size_t)job.size;
    for (int r = 0; r < job.size; r++) most = most > out->offset[r + 1] - out->offset[r] ? most : out->offset[r + 1] - out->offset[r];
    bool whole = out->offset[job.size] <= ALL_AT_ONCE;
    if (whole) step = most;
    char *stage = whole ? out->data : mocl_alloc(ctx, step * (size_t)job.size);
    if (!stage) return mocl_nomem(ctx, step * (size_t)job.size);
    mocl_status st = MOCL_OK;
    for (size_t first = 0; first < most && !st; first += step) {
        int total = 0;
        for (int r = 0; r < job.size; r++) {
            size_t all = out->offset[r + 1] - out->offset[r];
            count[r] = first < all ? (int)least(step, all - first) : 0;
            at[r] = total;
            total += count[r];
        }
        mocl_comm_request request;
        int code = mpi->gather(bytes + least(first, n), count[job.rank], stage, count, at, &request);
        st = code ? refuse(ctx, code) : wait_for(ctx, what, &request, 1, NULL, polls);
        for (int r = 0; r < job.size && !st && !whole; r++)
            memcpy(out->data + out->offset[r] + least(first, out->offset[r + 1] - out->offset[r]), stage + at[r], (size_t)count[r]);
    }
    if (!whole && !st) mocl_free(stage); /* a failed collective may still write there */
    return st;
}

static mocl_status exchange(mocl_ctx *ctx, const char *what, bool leaving, const void *bytes, size_t n, mocl_comm_parts *out, bool polls) {
    static head heads[MOCL_COMM_MOST];
    head mine = {.bytes = n, .number = number++, .leaving = leaving};
    memset(out, 0, sizeof *out);
    snprintf(mine.what, sizeof mine.what, "%s", what);
    if (broken) return mocl_fail(ctx, MOCL_E_IO, "'%s': the ranks of this job have lost each other", what);
    double began = now();
    mocl_status st = meet(ctx, what, &mine, heads, polls);
    if (!st) {
        for (int r = 0; r < job.size; r++) out->offset[r + 1] = out->offset[r] + heads[r].bytes;
        out->data = mocl_alloc(ctx, out->offset[job.size] + 1);
        if (!out->data) st = mocl_nomem(ctx, out->offset[job.size]);
        else if (out->offset[job.size]) st = carry(ctx, what, bytes, n, out, polls);
    }
    if (st) { /* what was allocated stays: a collective that has begun may still write there */
        broken = true;
        out->data = NULL;
    }
    counts.exchanges++;
    counts.bytes += (uint64_t)(job.size - 1) * (n + sizeof mine);
    counts.seconds += now() - began;
    return st;
}

mocl_status mocl_comm_exchange(mocl_ctx *ctx, const char *what, const void *bytes, size_t n, mocl_comm_parts *out) {
    if (mpi) return exchange(ctx, what, false, bytes, n, out, true);
    memset(out, 0, sizeof *out);
    out->data = mocl_alloc(ctx, n + 1);
    if (!out->data) return mocl_nomem(ctx, n);
    if (n) memcpy(out->data, bytes, n);
    out->offset[1] = n;
    return MOCL_OK;
}

void mocl_comm_alive(void) {
    static double last;
    double t = mpi && !broken ? now() : last;
    if (t - last < 1) return;
    last = t;
    tell(ALIVE, "", 1);
}

/* ---- leaving ---------------------------------------------------------------------------------- */

static void end_all(int status) {
    int code = status & 255;
    fflush(NULL);
    rest(0.3);                   /* MPICH's launcher drops what it has not read by then */
    if (code > 128) _exit(code); /* after a signal, which has reached all ranks */
    mpi->abort(code ? code : 1); /* of 0 and 256 mpirun would make success */
    rest(5);
    _exit(code ? code : 1);
}

/* One write of what this rank has to say, on the standard error that it began with. */
static void say_alone(const char *text) {
    char line[TEXT + 100];
    int n = snprintf(line, sizeof line, "rank %d: %s\n", job.rank, text);
    int fd = own_stderr >= 0 ? own_stderr : 2;
    if (n > (int)sizeof line - 1) n = (int)sizeof line - 1;
    ssize_t ignored = write(fd, line, (size_t)n);
    (void)ignored;
}

/* What this rank would have said: its message, or the end of what it wrote to standard error. */
static void find_failure(int status) {
    if (*failure) return;
    off_t size = kept_stderr >= 0 ? lseek(kept_stderr, 0, SEEK_END) : 0;
    ssize_t n = 0;
    if (size > 0) n = pread(kept_stderr, failure, TEXT - 1, size > TEXT - 1 ? size - (TEXT - 1) : 0);
    while (n > 0 && failure[n - 1] == '\n') n--;
    failure[n > 0 ? n : 0] = '\0';
    if (n <= 0) snprintf(failure, TEXT, "has ended with status %d%s%s", status, *place ? " in " : "", place);
}

/* Called by exit, whoever calls that. A rank that leaves with success waits for the others to do the same; one that fails tells
** the others, and the first rank ends the job when it has said what is wrong. */
static void on_leave(int status, void *unused) {
    (void)unused;
    static bool once;
    if (!mpi || once || getpid() != ranks[job.rank].pid) return;
    once = true;
    fflush(NULL);
    mocl_ctx *ctx = NULL;
    mocl_comm_parts parts;
    if (status == 0 && !mocl_ctx_new(&ctx, 1)) {
        if (!exchange(ctx, "the end", true, NULL, 0, &parts, false)) {
            mpi->finish();
            return;
        }
        if (job.rank == 0) fprintf(stderr, "mocl: %s\n", ctx->message);
        else mocl_comm_failed(ctx->message);
        status = 1;
    }
    if (job.rank == 0) end_all(status);
    find_failure(status);
    if (!told) tell(FAILURE, failure, TEXT);
    /* The first rank will end this one when it comes to its next exchange; one that does not come is ended here. */
    double until = now() + (by_time ? 2 + 0.2 * job.rank : limit_s + 0.2 * job.rank);
    while (now() < until) {
        bool there;
        int from;
        mpi->look(ALIVE, &there, &from); /* so that what was sent goes out */
        rest(2e-3);
    }
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
    static const char *const prefixes[] = {"OMPI_COMM_WORLD_", "OMPI_UNIVERSE_SIZE", "OMPI_APP_CTX", "OMPI_FIRST_RANKS", "OMPI_FILE_LOCATION", "OMPI_MCA_ess",
                                           "OMPI_MCA_orte_", "OMPI_MCA_pmix", "OMPI_ARGV", "OMPI_COMMAND", "OMPI_NUM_APP_CTX", "PMIX_", "PMI_", "MPI_LOCAL", "HYDI_",
                                           NULL};
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

/* Which family the launcher is of; *size and *rank as it says. NULL without a launcher. */
static const mocl_comm_family *launcher(int *rank, int *size) {
    *rank = number_of("OMPI_COMM_WORLD_RANK", -1), *size = number_of("OMPI_COMM_WORLD_SIZE", -1);
    if (*rank >= 0 && *size > 0) return &mocl_comm_openmpi;
    *rank = number_of("PMI_RANK", -1), *size = number_of("PMI_SIZE", -1);
    if (*rank >= 0 && *size > 0) return &mocl_comm_mpich;
    *rank = number_of("PMIX_RANK", -1), *size = first_of((const char *const[]){"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", NULL}, -1);
    return *rank >= 0 && *size > 0 ? &mocl_comm_openmpi : NULL;
}

static bool load(const mocl_comm_family *f, char *why, size_t bytes) {
    const char *named = getenv("MOCL_MPI"), *error = NULL;
    const char *const own[] = {named, NULL}, *const *names = named && *named ? own : f->libraries;
    void *lib = NULL;
    for (; *names && !lib; names++) {
        lib = dlopen(*names, RTLD_NOW | RTLD_LOCAL);
        if (!lib) error = dlerror();
    }
    const char *lacks = lib ? f->load(lib) : NULL;
    bool other = lib && !dlsym(lib, "ompi_mpi_comm_world") != (f != &mocl_comm_openmpi); /* its calls would take our handles for its own */
    if (lib && !lacks && !other) return true;
    snprintf(why, bytes, "this is a job of %s, whose library cannot be loaded: %s%s; install the one of this mpirun (Debian: %s), or name its file in MOCL_MPI",
             f->name, other ? "what was found is of another family" : lib ? "it lacks " : "", other ? "" : lib ? lacks : error ? error : "no name",
             f == &mocl_comm_openmpi ? "libopenmpi3" : "libmpich12");
    return false;
}

static bool meet_all(char *why, size_t bytes) {
    mocl_ctx *ctx;
    mocl_comm_parts parts;
    rank_of me = {.pid = (int32_t)getpid(), .local = job.local_rank};
    snprintf(me.host, sizeof me.host, "%s", job.host);
    if (mocl_ctx_new(&ctx, 1)) return false;
    bool ok = !exchange(ctx, "the start", false, &me, sizeof me, &parts, false);
    if (ok) memcpy(ranks, parts.data, sizeof me * (size_t)job.size);
    else snprintf(why, bytes, "%s", ctx->message);
    if (ok) mocl_free(parts.data);
    mocl_ctx_free(ctx);
    return ok;
}

bool mocl_comm_join(char *why, size_t bytes) {
    static const char *const local_rank[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID", NULL};
    static const char *const local_size[] = {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", NULL};
    int rank, size, as_rank = 0, as_size = 0;
    if (mpi) return true;
    const mocl_comm_family *f = launcher(&rank, &size);
    if (!f && number_of("SLURM_STEP_NUM_TASKS", 1) > 1 && getenv("SLURM_PROCID")) {
        snprintf(why, bytes, "srun has started %d programs that do not know each other; say srun --mpi=pmix for Open MPI or --mpi=pmi2 for MPICH", number_of("SLURM_STEP_NUM_TASKS", 1));
        return false;
    }
    if (!f) return true;
    if (size > MOCL_COMM_MOST) {
        snprintf(why, bytes, "%d ranks: at most %d are possible", size, MOCL_COMM_MOST);
        return false;
    }
    if (!load(f, why, bytes)) return size == 1; /* one rank needs nobody */
    job.local_rank = first_of(local_rank, 0), job.local_size = first_of(local_size, 1);
    if (job.local_size < 1) job.local_size = 1;
    int code = f->start(&as_rank, &as_size);
    if (code || as_rank != rank || as_size != size) {
        snprintf(why, bytes, "%s of mpirun says rank %d of %d, its library %d of %d%s: take the mpirun that belongs to the library", f->name, rank, size, as_rank, as_size,
                 code ? " (MPI_Init failed)" : "");
        return false;
    }
    forget_launcher();
    gethostname(job.host, sizeof job.host - 1);
    job.rank = rank, job.size = size, job.family = f->name;
    ranks[rank].pid = (int32_t)getpid();
    mpi = f;
    on_exit(on_leave, NULL);
    if (rank > 0) be_silent();
    return meet_all(why, bytes);
}

int mocl_comm_threads(void) {
    cpu_set_t set;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    if (!mpi || sched_getaffinity(0, sizeof set, &set)) return 0;
    int mine = CPU_COUNT(&set), each = mine / job.local_size;
    if (mine < online) return 0; /* bound, by the launcher or a container: but then all of its ranks share what there is */
    return each > 1 ? each : 1;
}
