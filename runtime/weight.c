/* weight.c - weights in their formats */
#include "weight.h"

mocl_weight mocl_weight_of(mocl_tensor *t) {
    bool matrix = t->ndim == 2;
    return (mocl_weight){.format = t->dtype == MK_BF16 ? MK_FORMAT_BF16 : MK_FORMAT_F32, .rows = matrix ? t->shape[0] : 0,
                         .columns = matrix ? t->shape[1] : 0, .part = {t}};
}

void mocl_weight_free(mocl_weight *w) {
    for (int i = 0; i < MK_WEIGHT_PARTS; i++) {
        mocl_tensor_unref(w->part[i]);
        w->part[i] = NULL;
    }
}

mk_weight mocl_weight_kernel(const mocl_weight *w) {
    mk_weight k = {.format = w->format, .rows = w->rows, .columns = w->columns};
    for (int i = 0; i < MK_WEIGHT_PARTS; i++) k.part[i] = w->part[i] ? mocl_tensor_data(w->part[i]) : NULL;
    return k;
}

mk_weight mocl_weight_plain(mk_dtype dtype, int64_t rows, int64_t columns, const void *data) {
    return (mk_weight){.format = dtype == MK_BF16 ? MK_FORMAT_BF16 : MK_FORMAT_F32, .rows = rows, .columns = columns,
                       .part = {data}};
}
