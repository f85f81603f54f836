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
    int64_t block;                      /* of nf4 and fp4: as of mk_weight */
    mk_dtype rounded;
} mocl_weight;

enum { MOCL_WEIGHT_BLOCK = 64 };

/* The numbers of t as a weight, which borrows them. Of a tensor that is no f32 or bf16 matrix it is one too, for mocl_linear
** to refuse. */
mocl_weight mocl_weight_of(mocl_tensor *t);
/* Parts for the numbers of a format, which are not set yet: of nf4 and fp4 blocks of MOCL_WEIGHT_BLOCK numbers with nested absmax. */
mocl_status mocl_weight_new(mocl_weight *out, mocl_device *dev, mk_format format, int64_t rows, int64_t columns);
/* *out becomes `like` with copies of its parts on dev, which it borrows and which are checked: their dtypes and shapes are those of the
** format, f32 may be made of f16 and bf16, nf4 and fp4 may lack parts 2 to 4. */
mocl_status mocl_weight_of_parts(mocl_weight *out, mocl_device *dev, const mocl_weight *like);
/* "f32", "bf16", "int8", "w8a8", "nf4", "fp4" */
const char *mocl_format_name(mk_format format);
bool mocl_format_parse(mk_format *out, const char *name);
/* what part i is called behind the name of the layer (".weight"), or NULL where there is none */
const char *mocl_weight_part_name(const mocl_weight *w, int i);
/* The weight becomes the numbers of t [rows, columns], of any floating type, rounded as its format has it. */
mocl_status mocl_weight_set(mocl_weight *w, mocl_tensor *t);
/* *out [rows, columns] in dtype: the numbers that it stands for; without history */
mocl_status mocl_weight_numbers(mocl_tensor **out, const mocl_weight *w, mk_dtype dtype);
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
