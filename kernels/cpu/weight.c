/* weight.c - quantised weights from numbers, and back; products with them are gemm.c's. */
#include "simd.h"
#include "table.h"

struct weight_job {
    const mk_weight *w;
    const struct mk_quantized *format;
    mk_real *dst;
};

static void dequantize_range(void *arg, int64_t first, int64_t last) {
    struct weight_job *j = arg;
    for (int64_t r = first; r < last; r++) j->format->read(j->w, r, 0, j->w->columns, j->dst + r * j->w->columns);
}

int mk_cpu_quantize(mk_exec *e, const mk_weight *w, const mk_real *src, void *const *part) {
    const struct mk_quantized *format = &mk_simd()->format[w->format];
    return format->quantize ? format->quantize(e, w, src, part) : MK_UNSUPPORTED;
}

int mk_cpu_dequantize(mk_exec *e, const mk_weight *w, mk_real *dst) {
    struct weight_job j = {.w = w, .format = &mk_simd()->format[w->format], .dst = dst};
    if (!j.format->read) return MK_UNSUPPORTED;
    mk_for(e, w->rows, 0.5 * (double)w->columns, dequantize_range, &j);
    return MK_OK;
}
