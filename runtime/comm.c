/* comm.c - exchanging bytes with the other ranks of a job of MPI.
**
** Waiting is a loop of our own, with short sleeps, a clock and a look for signals: neither family notices a rank that hangs, and
** both burn the core that another rank's threads need. Every exchange begins with a head from each rank to each, so that it is
** known who is missing, and whether all are at the same place.
*/
#define _GNU_SOURCE
#include "comm.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm_family.h"

enum { HEAD = 71, FAILURE = 72, ALIVE = 73 }; /* tags */
enum { TEXT = MOCL_COMM_TEXT, WHAT = 40, ALL_AT_ONCE = 1 << 28 /* bytes of one collective of MPI, whose counts are ints */ };

typedef struct head {
    uint64_t bytes;
    uint32_t number;
    int32_t leaving; /* 1: this rank ends */
    char what[WHAT];
} head;

typedef struct rank_of {
    int32_t pid;
    char host[64];
} rank_of;

/* of the process: it is a rank of one job, or of none */
static struct {
    mocl_comm_job job;
    const mocl_comm_family *mpi; /* NULL: there is no job */
    mocl_comm_counts counts;
    double limit;    /* seconds that this rank waits for others */
    double alive;    /* when it last said that it is at work */
    uint32_t number; /* of the next exchange */
    bool broken;     /* an exchange failed, */
    bool told;       /* since another rank said that it has failed, */
    bool by_time;    /* or since one did not come */
    char place[200];
    /* Tables by rank are too large for a stack, and a message that is being sent must live on where its call is left. */
    char said[TEXT];
    head mine, heads[MOCL_COMM_MOST];
    rank_of ranks[MOCL_COMM_MOST];
    mocl_comm_request request[2 * MOCL_COMM_MOST], sent[MOCL_COMM_MOST];
    bool here[MOCL_COMM_MOST], done[2 * MOCL_COMM_MOST];
    int count[MOCL_COMM_MOST], at[MOCL_COMM_MOST];
} comm = {.job = {.size = 1, .local_size = 1}, .limit = 600};

const mocl_comm_job *mocl_comm(void) { return &comm.job; }
bool mocl_comm_has_job(void) { return comm.mpi != NULL; }
mocl_comm_counts mocl_comm_counted(void) { return comm.counts; }
void mocl_comm_limit(double seconds) { comm.limit = seconds; }
void mocl_comm_place(const char *text) { snprintf(comm.place, sizeof comm.place, "%s", text); }
const char *mocl_comm_place_text(void) { return comm.place; }

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
    comm.mpi->text(code, text);
    comm.broken = true;
    return mocl_fail(ctx, MOCL_E_IO, "MPI: %s", text);
}

#define MPI_TRY(call)                                 \
    do {                                              \
        int try_code_ = (call);                       \
        if (try_code_) return refuse(ctx, try_code_); \
    } while (0)

/* A short message to every other rank, of which nobody waits to have been received. */
static void tell(int tag, const char *text, int n) {
    snprintf(comm.said, sizeof comm.said, "%s", text);
    for (int r = 0; r < comm.job.size; r++)
        if (r != comm.job.rank) comm.mpi->send(comm.said, n, r, tag, &comm.sent[r]);
    for (int tries = 0; tries < 20; tries++) {
        bool all = true;
        for (int r = 0; r < comm.job.size; r++) {
            bool done = true;
            if (r != comm.job.rank && comm.sent[r]) comm.mpi->test(&comm.sent[r], &done);
            all = all && done;
        }
        if (all) return;
        rest(1e-3);
    }
}

/* Takes a message of that tag, if one has come; *from is -1 where none has. */
static mocl_status take(mocl_ctx *ctx, int tag, char *bytes, int n, int *from) {
    bool there, done = false;
    *from = -1;
    MPI_TRY(comm.mpi->look(tag, &there, from));
    if (!there) return MOCL_OK;
    mocl_comm_request r;
    MPI_TRY(comm.mpi->receive(bytes, n, *from, tag, &r));
    while (!done) MPI_TRY(comm.mpi->test(&r, &done));
    return MOCL_OK;
}

/* The failure of a wait that took too long; here: which ranks have come, NULL: it is not known. */
static mocl_status missing(mocl_ctx *ctx, const char *what, const bool *here) {
    char text[400] = "the network";
    size_t at = 0;
    int n = 0, last = 0;
    for (int r = 0; here && r < comm.job.size; r++) {
        if (here[r]) continue;
        if (n < 4) at += (size_t)snprintf(text + at, sizeof text - at, "%srank %d (%s, process %d)", n ? ", " : "", r, comm.ranks[r].host, comm.ranks[r].pid);
        if (n++ >= 4) last = r;
    }
    if (n > 4) snprintf(text + at, sizeof text - at, " and %d more up to rank %d", n - 4, last);
    comm.broken = comm.by_time = true;
    return mocl_fail(ctx, MOCL_E_IO, "%s of %d ha%s not come to '%s'%s%s for %g s: hung, or at work for longer than comm.timeout=%g", text,
                     comm.job.size, n > 1 ? "ve" : "s", what, *comm.place ? ", in " : "", comm.place, comm.limit, comm.limit);
}

/* Until all requests are done; here[r] becomes true with request r, of rank r (NULL: the request is of all). */
static mocl_status wait_for(mocl_ctx *ctx, const char *what, mocl_comm_request *request, int n, bool *here, bool polls) {
    double last = now(), waited = 0;
    memset(comm.done, 0, (size_t)n * sizeof *comm.done);
    for (int64_t tries = 0;; tries++) {
        int left = 0;
        for (int i = 0; i < n; i++) {
            if (!comm.done[i]) MPI_TRY(comm.mpi->test(&request[i], &comm.done[i]));
            left += !comm.done[i];
            if (here && i < comm.job.size && comm.done[i]) here[i] = true;
        }
        if (!left) return MOCL_OK;
        if (tries < 50) continue;
        char text[TEXT];
        int from;
        MOCL_TRY(take(ctx, FAILURE, text, TEXT, &from));
        if (from >= 0) {
            comm.broken = comm.told = true;
            text[TEXT - 1] = '\0';
            return mocl_fail(ctx, MOCL_E_IO, "rank %d (%s): %.900s", from, comm.ranks[from].host, text);
        }
        MOCL_TRY(take(ctx, ALIVE, text, 1, &from));
        if (from >= 0) waited = 0;
        mocl_status st = polls ? mocl_poll(ctx) : MOCL_OK;
        if (st) {
            comm.broken = true;
            return st;
        }
        double t = now();
        waited += t - last < 1 ? t - last : 1; /* a process that was stopped itself has not waited */
        last = t;
        if (waited > comm.limit) return missing(ctx, what, here);
        rest(waited < 0.5 ? 2e-4 : 2e-3);
    }
}

/* ---- the exchange ----------------------------------------------------------------------------- */

/* The heads of all. */
static mocl_status meet(mocl_ctx *ctx, const char *what, bool polls) {
    int size = comm.job.size;
    mocl_comm_request *sends = comm.request + size;
    memset(comm.here, 0, sizeof comm.here);
    for (int r = 0; r < size; r++) /* every rank sends to itself too, so that request r is rank r's */
        MPI_TRY(comm.mpi->receive(&comm.heads[r], sizeof *comm.heads, r, HEAD, &comm.request[r]));
    for (int k = 0; k < size; k++) {
        int r = (comm.job.rank + k) % size;
        MPI_TRY(comm.mpi->send(&comm.mine, sizeof comm.mine, r, HEAD, &sends[r]));
    }
    MOCL_TRY(wait_for(ctx, what, comm.request, 2 * size, comm.here, polls));
    for (int r = 0; r < size; r++) {
        const head *h = &comm.heads[r], *mine = &comm.mine;
        if (h->number == mine->number && h->leaving == mine->leaving && strncmp(h->what, mine->what, WHAT) == 0) continue;
        comm.broken = true;
        return mocl_fail(ctx, MOCL_E_IO,
                         "rank %d (%s) %s'%.*s' (exchange %u), while rank %d is at '%.*s' (%u)%s%s: all ranks must run the same program with the same input",
                         r, comm.ranks[r].host, h->leaving ? "has left at " : "is at ", WHAT, h->what, h->number, comm.job.rank, WHAT, mine->what,
                         mine->number, *comm.place ? ", in " : "", comm.place);
    }
    return MOCL_OK;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* The bytes themselves, so many of every rank at a time that a collective's counts are ints. */
static mocl_status carry(mocl_ctx *ctx, const char *what, const char *bytes, size_t n, mocl_comm_parts *out, bool polls) {
    size_t most = 0, step = ALL_AT_ONCE / (size_t)comm.job.size;
    for (int r = 0; r < comm.job.size; r++) {
        size_t of = out->offset[r + 1] - out->offset[r];
        most = of > most ? of : most;
    }
    bool whole = out->offset[comm.job.size] <= ALL_AT_ONCE;
    if (whole) step = most;
    char *stage = whole ? out->data : mocl_alloc(ctx, step * (size_t)comm.job.size);
    if (!stage) return mocl_nomem(ctx, step * (size_t)comm.job.size);
    mocl_status st = MOCL_OK;
    for (size_t first = 0; first < most && !st; first += step) {
        int total = 0;
        for (int r = 0; r < comm.job.size; r++) {
            size_t all = out->offset[r + 1] - out->offset[r];
            comm.count[r] = first < all ? (int)least(step, all - first) : 0;
            comm.at[r] = total;
            total += comm.count[r];
        }
        int code = comm.mpi->gather(bytes + least(first, n), comm.count[comm.job.rank], stage, comm.count, comm.at, comm.request);
        st = code ? refuse(ctx, code) : wait_for(ctx, what, comm.request, 1, NULL, polls);
        for (int r = 0; r < comm.job.size && !st && !whole; r++)
            memcpy(out->data + out->offset[r] + least(first, out->offset[r + 1] - out->offset[r]), stage + comm.at[r], (size_t)comm.count[r]);
    }
    if (!whole && !st) mocl_free(stage); /* a collective that failed may still write there */
    return st;
}

static mocl_status exchange(mocl_ctx *ctx, const char *what, bool leaving, const void *bytes, size_t n, mocl_comm_parts *out, bool polls) {
    memset(out, 0, sizeof *out);
    if (comm.broken) return mocl_fail(ctx, MOCL_E_IO, "'%s': the ranks of this job have lost each other", what);
    comm.mine = (head){.bytes = n, .number = comm.number++, .leaving = leaving};
    snprintf(comm.mine.what, sizeof comm.mine.what, "%s", what);
    double began = now();
    mocl_status st = meet(ctx, what, polls);
    if (!st) {
        for (int r = 0; r < comm.job.size; r++) out->offset[r + 1] = out->offset[r] + comm.heads[r].bytes;
        out->data = mocl_alloc(ctx, out->offset[comm.job.size] + 1);
        if (!out->data) st = mocl_nomem(ctx, out->offset[comm.job.size]);
        else if (out->offset[comm.job.size]) st = carry(ctx, what, bytes, n, out, polls);
    }
    if (st) { /* what was allocated stays: a collective that has begun may still write there */
        comm.broken = true;
        out->data = NULL;
    }
    comm.counts.exchanges++;
    comm.counts.bytes += (uint64_t)(comm.job.size - 1) * (n + sizeof(head));
    comm.counts.seconds += now() - began;
    return st;
}

mocl_status mocl_comm_exchange(mocl_ctx *ctx, const char *what, const void *bytes, size_t n, mocl_comm_parts *out) {
    if (comm.mpi) return exchange(ctx, what, false, bytes, n, out, true);
    memset(out, 0, sizeof *out);
    out->data = mocl_alloc(ctx, n + 1);
    if (!out->data) return mocl_nomem(ctx, n);
    if (n) memcpy(out->data, bytes, n);
    out->offset[1] = n;
    return MOCL_OK;
}

void mocl_comm_alive(void) {
    double t = comm.mpi && !comm.broken ? now() : comm.alive;
    if (t - comm.alive < 1) return;
    comm.alive = t;
    tell(ALIVE, "", 1);
}

/* ---- joining and leaving ---------------------------------------------------------------------- */

static bool load(const mocl_comm_family *f, const char *named, char *why, size_t bytes) {
    const char *error = NULL, *const own[] = {named, NULL}, *const *names = named ? own : f->libraries;
    void *lib = NULL;
    for (; *names && !lib; names++) {
        lib = dlopen(*names, RTLD_NOW | RTLD_LOCAL);
        if (!lib) error = dlerror();
    }
    const char *lacks = lib ? f->load(lib) : NULL;
    if (lib && !lacks) return true;
    snprintf(why, bytes, "this is a job of %s, whose library cannot be loaded: %s%s; install the one of this mpirun (Debian: %s), or name its file in MOCL_MPI",
             f->name, lib ? "what was found lacks " : "", lib ? lacks : error ? error : "no name", f->package);
    return false;
}

/* An exchange outside of any state. */
static bool alone(const char *what, bool leaving, const void *bytes, size_t n, mocl_comm_parts *out, char *why, size_t room) {
    mocl_ctx *ctx;
    if (mocl_ctx_new(&ctx, 1)) {
        snprintf(why, room, "out of host memory");
        return false;
    }
    bool ok = !exchange(ctx, what, leaving, bytes, n, out, false);
    if (!ok) snprintf(why, room, "%s", ctx->message);
    mocl_ctx_free(ctx);
    return ok;
}

bool mocl_comm_join(const mocl_comm_family *f, const char *named, const mocl_comm_job *as, char *why, size_t bytes) {
    int rank = 0, size = 0;
    if (as->size > MOCL_COMM_MOST) {
        snprintf(why, bytes, "%d ranks: at most %d are possible", as->size, MOCL_COMM_MOST);
        return false;
    }
    if (!load(f, named, why, bytes)) return as->size == 1; /* one rank needs nobody */
    int code = f->start(&rank, &size);
    if (code || rank != as->rank || size != as->size) {
        snprintf(why, bytes, "%s of mpirun says rank %d of %d, its library %d of %d%s: take the mpirun that belongs to the library", f->name, as->rank, as->size,
                 rank, size, code ? " (MPI_Init failed)" : "");
        return false;
    }
    rank_of me = {.pid = (int32_t)getpid()};
    mocl_comm_parts parts;
    comm.job = *as;
    comm.job.family = f->name;
    comm.mpi = f;
    gethostname(comm.job.host, sizeof comm.job.host - 1);
    memcpy(me.host, comm.job.host, sizeof me.host);
    if (!alone("the start", false, &me, sizeof me, &parts, why, bytes)) return false;
    memcpy(comm.ranks, parts.data, sizeof me * (size_t)size);
    mocl_free(parts.data);
    return true;
}

bool mocl_comm_part(char *why, size_t bytes) {
    mocl_comm_parts parts;
    if (!alone("the end", true, NULL, 0, &parts, why, bytes)) return false;
    mocl_free(parts.data);
    comm.mpi->finish();
    return true;
}

void mocl_comm_tell(const char *failure) {
    if (comm.mpi && !comm.told) tell(FAILURE, failure, TEXT);
}

void mocl_comm_drain(double seconds) {
    for (double until = now() + seconds; now() < until;) {
        bool there;
        int from;
        comm.mpi->look(ALIVE, &there, &from); /* any call lets the library go on */
        rest(2e-3);
    }
}

double mocl_comm_patience(void) { return (comm.by_time ? 2 : comm.limit) + 0.2 * comm.job.rank; }

void mocl_comm_end(int status) {
    if (comm.mpi) comm.mpi->end(status);
}
