/* comm_openmpi.c - Open MPI's binary interface: handles are addresses of objects in the library. */
#define FAMILY mocl_comm_openmpi
#define NAME "Open MPI"
#define PACKAGE "libopenmpi3"
#define LIBRARIES {"libmpi.so.40", NULL}

typedef void *Comm;
typedef void *Datatype;
typedef void *Request;
typedef void *Errhandler;

#define WORLD mpi.object[0]
#define BYTE mpi.object[1]
#define RETURN_ERRORS mpi.object[2]
#define FIND {"ompi_mpi_comm_world", &WORLD}, {"ompi_mpi_byte", &BYTE}, {"ompi_mpi_errors_return", &RETURN_ERRORS}

enum { IS_OPENMPI = 1, ANY_SOURCE = -1, FUNNELED = 1, SOURCE = 0 };

#include "comm_calls.inc"
