/* comm_mpich.c - the binary interface that MPICH, Intel MPI and others share (the MPICH ABI initiative): handles are ints. */
#define FAMILY mocl_comm_mpich
#define NAME "MPICH"
#define PACKAGE "libmpich12"
#define LIBRARIES {"libmpich.so.12", "libmpi.so.12", NULL} /* Debian's name, and everybody else's */

typedef int Comm;
typedef int Datatype;
typedef int Request;
typedef int Errhandler;

#define WORLD 0x44000000
#define BYTE 0x4c00010d
#define RETURN_ERRORS 0x54000001
#define FIND {"MPI_Comm_size", &mpi.Comm_size} /* nothing further */

enum { IS_OPENMPI = 0, ANY_SOURCE = -2, FUNNELED = 1, SOURCE = 2 };

#include "comm_calls.inc"
