/* weight.h - a weight: a matrix in one of the formats of kernels.h, which products read.
**
** A weight is not a tensor: what a format keeps for a number need not be a whole byte, and scales lie beside the numbers.
** Its parts are tensors. Whatever the format, one operation multiplies by it (mocl_linear), and one kernel (gemm_weight).
*/
#ifndef MOCL_WEIGHT_H
#define MOCL_WEIGHT_H

#include "tensor.h"

typedef struct mocl_weight {
    mk_format format;
    int64_t rows, columns;              /* [out, in] */
    mocl_tensor *part[MK_WEIGHT_PARTS]; /* owned; what each holds: mk_weight */
} mocl_weight;

/* The numbers of t as a weight, which borrows them. Of a tensor that is no f32 or bf16 matrix it is one too, for mocl_linear
** to refuse. */
mocl_weight mocl_weight_of(mocl_tensor *t);
void mocl_weight_free(mocl_weight *w);
/* whether the numbers are f32 or bf16, one tensor [rows, columns] that can be trained */
static inline bool mocl_weight_is_plain(const mocl_weight *w) {
    return w->format == MK_FORMAT_F32 || w->format == MK_FORMAT_BF16;
}
/* what kernels get of a weight whose parts are contiguous */
mk_weight mocl_weight_kernel(const mocl_weight *w);
/* what kernels get of a matrix of f32 or bf16 (dtype) at `data` */
mk_weight mocl_weight_plain(mk_dtype dtype, int64_t rows, int64_t columns, const void *data);

/* What an adapter adds to a product: y[i] += scale (dropout(x[i]) A^T) B^T for rows i = first .. end - 1 of x (Hu et al. 2022).
** A [r, in] and B [out, r] are f32. The dropout mask is drawn from (key, stream), counted from the first of these rows, so
** that they get what they get in a batch of their own. */
typedef struct mocl_lora {
    mocl_tensor *a, *b;
    double scale, dropout;
    uint64_t key, stream;
    int64_t first, end;           /* end < 0: to the last row */
    const struct mocl_lora *next; /* further rows, behind these; or NULL */
} mocl_lora;

#endif
