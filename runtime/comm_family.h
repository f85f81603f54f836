/* comm_family.h - the functions of a family of MPI libraries behind one table, for comm.c. */
#ifndef MOCL_COMM_FAMILY_H
#define MOCL_COMM_FAMILY_H

#include <stdbool.h>
#include <stdint.h>

typedef uintptr_t mocl_comm_request; /* a pointer or an int, as the family has it */

/* All but load return a code of MPI, 0 = ok; none of them blocks but start and finish. */
struct mocl_comm_family {
    const char *name, *package;         /* Debian's, with the library */
    const char *libraries[3];           /* by name, in the order they are tried */
    const char *(*load)(void *library); /* NULL, or the name of what the library lacks */
    int (*start)(int *rank, int *size);
    int (*finish)(void);
    int (*end)(int status); /* MPI_Abort */
    int (*send)(const void *bytes, int n, int to, int tag, mocl_comm_request *r);
    int (*receive)(void *bytes, int n, int from, int tag, mocl_comm_request *r);
    int (*gather)(const void *bytes, int n, void *all, const int *counts, const int *places, mocl_comm_request *r);
    int (*test)(mocl_comm_request *r, bool *done);
    int (*look)(int tag, bool *there, int *from); /* is there a message of that tag, of whom? */
    int (*text)(int code, char text[512]);
};

#endif
