/* int8.cuh - the format int8 on a device: part 0 codes, part 1 the largest absolute value of each row. */
#ifndef MK_INT8_CUH
#define MK_INT8_CUH

#include "common.cuh"
#include "quantized.h"

struct int8_numbers {
    const int8_t *code;
    const float *absmax;

    explicit int8_numbers(const mk_weight *w)
        : code(static_cast<const int8_t *>(w->part[0])), absmax(static_cast<const float *>(w->part[1])) {}
    __device__ __forceinline__ float at(int64_t row, int64_t column, int64_t ld) const {
        return mk_int8_value(code[row * ld + column], absmax[row]);
    }
    __host__ __device__ __forceinline__ void move(int64_t) {}
};

static __global__ void quantize_int8_kernel(int64_t rows, int64_t columns, const float *src, int8_t *code, float *absmax) {
    FOR_ROWS(r, rows) {
        const float *x = src + r * columns;
        float most = 0;
        FOR_COLUMNS(i, columns) most = fmaxf(most, fabsf(mk_int8_input(x[i])));
        most = block_max(most);
        FOR_COLUMNS(i, columns) code[r * columns + i] = mk_int8_code(mk_int8_input(x[i]), most);
        if (threadIdx.x == 0) absmax[r] = most;
    }
}

static inline int quantize_int8(mk_exec *e, const mk_weight *w, const float *src, void *const *part) {
    return MK_LAUNCH_ROWS(e, quantize_int8_kernel, w->rows, w->columns, w->rows, w->columns, src, static_cast<int8_t *>(part[0]),
                          static_cast<float *>(part[1]));
}

#endif
