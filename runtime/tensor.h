/* tensor.h - tensors: a typed, strided view of a refcounted block of device memory.
**
** Shapes and strides are in elements, at most 8 dimensions, 0-based in C (the bindings count from 1).
** A tensor is owned by references: `_new` functions and all operations give the caller one; give it
** back with mocl_tensor_unref. Outputs come first and are NULL after a failure.
*/
#ifndef MOCL_TENSOR_H
#define MOCL_TENSOR_H

#include "base.h"
#include "device.h"

struct mocl_node;

typedef struct mocl_storage {
    int refs;
    uint32_t version; /* counts writes in place, so that backward can refuse stale values */
    mocl_device *dev;
    void *data;
    size_t bytes;
    struct mocl_mapping *mapping; /* NULL: the memory is the device's */
    struct mocl_tensor *rounded;  /* owned, or NULL: mocl_tensor_rounded's copy of all of it */
    uint32_t rounded_version;     /* `version` when that was made */
} mocl_storage;

/* A file in memory that tensors point into. It goes with the last of them. Its pages are private: what is written into such a
** tensor does not reach the file. */
typedef struct mocl_mapping {
    int refs;
    void *map;
    size_t bytes;
} mocl_mapping;

typedef struct mocl_tensor {
    int refs;
    int ndim;
    mocl_ctx *ctx;
    mocl_storage *storage;
    mk_dtype dtype;
    int64_t offset; /* of the first element in the storage, in elements */
    int64_t shape[MK_MAX_DIMS];
    int64_t stride[MK_MAX_DIMS];
    bool requires_grad;
    int out_index;            /* which output of `node` this is */
    struct mocl_node *node;   /* how it was made, owned; NULL for leaves */
    struct mocl_tensor *grad; /* leaves: accumulated gradient, owned */
    struct mocl_row_sum *sum; /* leaves: a gradient over rows of which more are to come, owned (autograd.h); or NULL */
} mocl_tensor;

/* ---- the graph: how a tensor was made ----
**
** A node owns its saved tensors and, through edges, the nodes of its inputs; it knows nothing of its outputs, so there
** are no cycles and a graph dies with the last tensor that needs it. autograd.h makes nodes and goes through them. */

enum { MOCL_NODE_OUTPUTS = 4, MOCL_NODE_NUMBERS = 12 };

typedef struct mocl_edge {
    struct mocl_node *node; /* the input's node, owned; or */
    mocl_tensor *leaf;      /* the leaf that gets the gradient, owned; both NULL: none is wanted */
    int out_index;          /* which output of `node` the input was */
} mocl_edge;

/* Fills din[i] (a new reference, shape of input i) for each i with mocl_node_wants(n, i). dout[j] is
** the gradient of output j, contiguous, or NULL where none arrived. Runs with recording off. */
typedef mocl_status (*mocl_backward)(struct mocl_node *n, mocl_tensor **dout, mocl_tensor **din);

typedef struct mocl_node {
    int refs;
    uint64_t seq; /* creation order: larger than that of every input */
    mocl_ctx *ctx;
    const char *name;
    mocl_backward backward;
    int n_in, n_saved;
    mocl_edge *edge;         /* n_in */
    mocl_tensor **saved;     /* n_saved, owned, some may be NULL */
    uint32_t *version;       /* of each saved storage when it was saved */
    mocl_tensor *dout[MOCL_NODE_OUTPUTS]; /* gradients that have arrived (during backward) */
    double num[MOCL_NODE_NUMBERS];        /* attributes of the operation */
    int64_t integer[MOCL_NODE_NUMBERS + 2 * MK_MAX_DIMS];
    void *extra;             /* further attributes, one block, owned; or NULL */
    struct mocl_node *next;  /* link while dying or scheduled */
    bool scheduled;
} mocl_node;

void mocl_node_unref(mocl_node *n); /* NULL is fine */

/* ---- tensors ---- */

/* uninitialised, contiguous; mocl_tensor_like takes device and shape from another tensor */
mocl_status mocl_tensor_new(mocl_tensor **out, mocl_device *dev, mk_dtype dtype, int ndim,
                            const int64_t *shape);
mocl_status mocl_tensor_like(mocl_tensor **out, const mocl_tensor *like);
mocl_status mocl_tensor_full(mocl_tensor **out, mocl_device *dev, mk_dtype dtype, int ndim,
                             const int64_t *shape, double value);
/* from and to host memory in the tensor's dtype, contiguous order */
mocl_status mocl_tensor_from_host(mocl_tensor **out, mocl_device *dev, mk_dtype dtype, int ndim,
                                  const int64_t *shape, const void *data);
mocl_status mocl_tensor_to_host(mocl_tensor *t, void *data);
/* a 1-dimensional int32 tensor from host integers */
mocl_status mocl_tensor_i32(mocl_tensor **out, mocl_device *dev, int64_t n, const int32_t *data);

/* A sum over rows that come piece by piece, as gemm_continued keeps it (kernels.h). */
typedef struct mocl_row_sum {
    mocl_tensor *part, *total; /* in the shape of the leaf, owned */
    int64_t rows;              /* that have come */
} mocl_row_sum;
void mocl_tensor_drop_sum(mocl_tensor *t);
void mocl_tensor_drop_grad(mocl_tensor *t); /* and an open sum */

mocl_tensor *mocl_tensor_ref(mocl_tensor *t);
void mocl_tensor_unref(mocl_tensor *t); /* NULL is fine */

/* A tensor of the cpu on the bytes at `data` in a mapped file, which must be aligned to the type. Where it is copied or looked
** through as a whole (mocl_tensor_copy, mocl_tensor_nonfinite), the pages leave the memory again, so that a model that is read does not
** stand in memory as a file too. Changing the file while the tensor lives changes the tensor, and cutting it makes reads of the
** lost part fault. */
mocl_status mocl_tensor_of_map(mocl_tensor **out, mocl_device *dev, mk_dtype dtype, int ndim, const int64_t *shape,
                               mocl_mapping *file, void *data);
void mocl_mapping_unref(mocl_mapping *m); /* NULL is fine */
/* Lets the pages of a mapped tensor go, unless it was written to. */
void mocl_tensor_forget(const mocl_tensor *t);

/* another tensor on the same storage, without gradient history */
mocl_status mocl_tensor_alias(mocl_tensor **out, mocl_tensor *t, int ndim, const int64_t *shape,
                              const int64_t *stride, int64_t offset);
mocl_status mocl_tensor_detach(mocl_tensor **out, mocl_tensor *t);
/* same values, contiguous; a new reference to t itself where it already is. No history. */
mocl_status mocl_tensor_contiguous(mocl_tensor **out, mocl_tensor *t);
/* the same in another dtype: a contiguous tensor of its own, or mocl_tensor_contiguous where t has this dtype. No history. */
mocl_status mocl_tensor_as(mocl_tensor **out, mocl_tensor *t, mk_dtype dtype);
/* As mocl_tensor_as, for a parameter that every product of a step reads: the copy stays with the storage until that is written
** to or freed. Not to be written to. */
mocl_status mocl_tensor_rounded(mocl_tensor **out, mocl_tensor *t, mk_dtype dtype);
/* dst := src (same shape, converting dtype and device); counts as a write in place */
mocl_status mocl_tensor_copy(mocl_tensor *dst, mocl_tensor *src);

int64_t mocl_tensor_numel(const mocl_tensor *t);
bool mocl_tensor_is_contiguous(const mocl_tensor *t);
bool mocl_tensor_same_shape(const mocl_tensor *a, const mocl_tensor *b);
void *mocl_tensor_data(const mocl_tensor *t); /* device pointer of the first element */
static inline mk_real *mocl_real(const mocl_tensor *t) { return (mk_real *)mocl_tensor_data(t); }
static inline mk_bf16 *mocl_bf16(const mocl_tensor *t) { return (mk_bf16 *)mocl_tensor_data(t); }
static inline int32_t *mocl_int(const mocl_tensor *t) { return (int32_t *)mocl_tensor_data(t); }

/* finite.c: the entries that are NaN or infinite; integers have none. Waits for the device. */
typedef struct mocl_nonfinite {
    int64_t count, at; /* how many there are; the place of the first in the order of the shape, -1 where there is none */
    double value;      /* the first: NaN or an infinity */
} mocl_nonfinite;
mocl_status mocl_tensor_nonfinite(mocl_tensor *t, mocl_nonfinite *out);
const char *mocl_number_text(char buf[32], double v); /* "nan", "-inf", "0.5" */
char *mocl_place_text(char buf[256], const mocl_tensor *t, int64_t at); /* "[3,5]", counted from 1; "" for a scalar */

size_t mocl_dtype_size(mk_dtype dtype);
const char *mocl_dtype_name(mk_dtype dtype);
bool mocl_dtype_parse(mk_dtype *out, const char *name);
/* "(2,3,4)" into buf, which it returns */
char *mocl_shape_text(char buf[128], int ndim, const int64_t *shape);
void mocl_shape_strides(int ndim, const int64_t *shape, int64_t *stride); /* contiguous strides */

#endif
