/* comm_openmpi.c - Open MPI's binary interface: handles are addresses of objects in the library. */
#define FAMILY mocl_comm_openmpi
#define NAME "Open MPI"
#define LIBRARIES {"libmpi.so.40", NULL}

typedef void *Comm;
typedef void *Datatype;
typedef void *Request;
typedef void *Errhandler;

static Comm world;
static Datatype byte;
static Errhandler errors_return;

#define WORLD world
#define BYTE byte
#define RETURN_ERRORS errors_return
#define FIND {"ompi_mpi_comm_world", &world}, {"ompi_mpi_byte", &byte}, {"ompi_mpi_errors_return", &errors_return}

enum { ANY_SOURCE = -1, FUNNELED = 1, SOURCE = 0 };

#include "comm_calls.h"
