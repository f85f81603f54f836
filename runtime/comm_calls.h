/* comm_calls.h - the calls of MPI that comm.c makes, for a family whose file defines before it includes this one:
**
** FAMILY             the table that is made, its NAME and LIBRARIES
** Comm, Datatype, Request, Errhandler   the types of its handles
** WORLD, BYTE, RETURN_ERRORS, ANY_SOURCE, FUNNELED, SOURCE   its constants; SOURCE: the place of the sender among the ints of a status
** FIND               what looks for further addresses in the library `lib`, or nothing
**
** The prototypes are those of the standard, MPI 3.1.
*/
#include <dlfcn.h>
#include <string.h>

#include "comm_family.h"

typedef union status {
    int word[8];
    size_t align[4];
} status;

static struct {
    int (*Init_thread)(int *, char ***, int, int *);
    int (*Finalize)(void);
    int (*Abort)(Comm, int);
    int (*Comm_rank)(Comm, int *);
    int (*Comm_size)(Comm, int *);
    int (*Comm_set_errhandler)(Comm, Errhandler);
    int (*Isend)(const void *, int, Datatype, int, int, Comm, Request *);
    int (*Irecv)(void *, int, Datatype, int, int, Comm, Request *);
    int (*Iallgatherv)(const void *, int, Datatype, void *, const int *, const int *, Datatype, Comm, Request *);
    int (*Test)(Request *, int *, status *);
    int (*Iprobe)(int, int, Comm, int *, status *);
    int (*Error_string)(int, char *, int *);
} mpi;

static const char *load(void *lib) {
#define CALL(name) {"MPI_" #name, &mpi.name}
    const struct {
        const char *name;
        void *where;
    } calls[] = {CALL(Init_thread), CALL(Finalize), CALL(Abort), CALL(Comm_rank), CALL(Comm_size), CALL(Comm_set_errhandler), CALL(Isend),
                 CALL(Irecv), CALL(Iallgatherv), CALL(Test), CALL(Iprobe), CALL(Error_string), FIND};
#undef CALL
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        void *p = dlsym(lib, calls[i].name);
        if (!p) return calls[i].name;
        memcpy(calls[i].where, &p, sizeof p);
    }
    return NULL;
}

static int start(int *rank, int *size) {
    int given, code = mpi.Init_thread(NULL, NULL, FUNNELED, &given);
    if (!code) code = mpi.Comm_set_errhandler(WORLD, RETURN_ERRORS);
    if (!code) code = mpi.Comm_rank(WORLD, rank);
    return code ? code : mpi.Comm_size(WORLD, size);
}

static int finish(void) { return mpi.Finalize(); }

static int stop(int code) { return mpi.Abort(WORLD, code); }

static int keep(int code, Request from, mocl_comm_request *r) {
    *r = (mocl_comm_request)from;
    return code;
}

static int send(const void *bytes, int n, int to, int tag, mocl_comm_request *r) {
    Request q;
    memset(&q, 0, sizeof q);
    int code = mpi.Isend(bytes, n, BYTE, to, tag, WORLD, &q);
    return keep(code, q, r);
}

static int receive(void *bytes, int n, int from, int tag, mocl_comm_request *r) {
    Request q;
    memset(&q, 0, sizeof q);
    int code = mpi.Irecv(bytes, n, BYTE, from, tag, WORLD, &q);
    return keep(code, q, r);
}

static int gather(const void *bytes, int n, void *all, const int *counts, const int *places, mocl_comm_request *r) {
    Request q;
    memset(&q, 0, sizeof q);
    int code = mpi.Iallgatherv(bytes, n, BYTE, all, counts, places, BYTE, WORLD, &q);
    return keep(code, q, r);
}

static int test(mocl_comm_request *r, bool *done) {
    Request q = (Request)*r;
    status s;
    int flag = 0, code = mpi.Test(&q, &flag, &s);
    *done = flag != 0;
    return keep(code, q, r);
}

static int look(int tag, bool *there, int *from) {
    status s;
    int flag = 0, code = mpi.Iprobe(ANY_SOURCE, tag, WORLD, &flag, &s);
    *there = flag != 0;
    if (flag) *from = s.word[SOURCE];
    return code;
}

static int text(int code, char out[512]) {
    int n;
    return mpi.Error_string(code, out, &n);
}

const mocl_comm_family FAMILY = {NAME, LIBRARIES, load, start, finish, stop, send, receive, gather, test, look, text};
