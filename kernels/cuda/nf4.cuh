/* nf4.cuh - the formats nf4 and fp4 on a device, which differ by their tables: part 0 codes of four bits, parts 1 to 4 the largest
** absolute value of each block (kernels.h). */
#ifndef MK_NF4_CUH
#define MK_NF4_CUH

#include "common.cuh"
#include "quantized.h"

/* in global memory, of which a warp reads one line: an array of the function's own would be built on each thread's stack */
static __device__ const float nf4_values[16] = MK_NF4_VALUES, fp4_values[16] = MK_FP4_VALUES;

struct nf4_numbers {
    mk_weight w;

    explicit nf4_numbers(const mk_weight *from) : w(*from) {}
    __device__ __forceinline__ float at(int64_t row, int64_t column, int64_t ld) const {
        int64_t i = row * ld + column, block = i / w.block;
        uint8_t two = static_cast<const uint8_t *>(w.part[0])[i / 2];
        int code = i % 2 ? two & 15 : two >> 4;
        float absmax = w.part[2] ? mk_nested_value(static_cast<const uint8_t *>(w.part[1])[block],
                                                   static_cast<const float *>(w.part[2])[block / MK_NESTED_BLOCK],
                                                   static_cast<const float *>(w.part[3]), *static_cast<const float *>(w.part[4]))
                                 : static_cast<const float *>(w.part[1])[block];
        return mk_rounded_to((w.format == MK_FORMAT_NF4 ? nf4_values[code] : fp4_values[code]) * absmax, w.rounded);
    }
    __host__ __device__ __forceinline__ void move(int64_t) {}
};

/* one thread block for each block of numbers */
static __global__ void quantize_blocks_kernel(int64_t blocks, int64_t n, int64_t block, const float *src, uint8_t *code, float *absmax) {
    FOR_ROWS(b, blocks) {
        const float *x = src + b * block;
        int64_t some = min64(block, n - b * block);
        float most = 0;
        FOR_COLUMNS(i, some) most = fmaxf(most, fabsf(x[i]));
        most = block_max(most);
        int full = some == block;
        FOR_COLUMNS(i, (some + 1) / 2) {
            float second = 2 * i + 1 < some ? x[2 * i + 1] : 0;
            code[b * block / 2 + i] = (uint8_t)(mk_nf4_code(mk_nf4_input(x[2 * i], most, full)) << 4 |
                                                mk_nf4_code(mk_nf4_input(second, most, full)));
        }
        if (threadIdx.x == 0) absmax[b] = full ? most : fmaxf(most, MK_LEAST_ABSMAX);
    }
}

/* one block of MK_MEAN_SUMS threads */
static __global__ void absmax_mean_kernel(int64_t blocks, const float *absmax, float *mean) {
    MK_SHARED(float, sums, MK_MEAN_SUMS);
    sums[threadIdx.x] = mk_mean_sum(absmax, blocks, (int)threadIdx.x);
    __syncthreads();
    if (threadIdx.x == 0) *mean = mk_mean_of(absmax, blocks, sums);
}

/* one thread block for MK_NESTED_BLOCK of them */
static __global__ void quantize_absmax_kernel(int64_t nested, int64_t blocks, const float *absmax, const float *mean, const float *map,
                                              uint8_t *code, float *scale) {
    FOR_ROWS(b, nested) {
        int64_t at = b * MK_NESTED_BLOCK, some = min64(MK_NESTED_BLOCK, blocks - at);
        float most = 0;
        FOR_COLUMNS(i, some) most = fmaxf(most, fabsf(absmax[at + i] - *mean));
        most = block_max(most);
        float inverse = most > 0 ? 1 / most : 0;
        FOR_COLUMNS(i, some) code[at + i] = most > 0 ? (uint8_t)mk_nested_code((absmax[at + i] - *mean) * inverse, map) : 0;
        if (threadIdx.x == 0) scale[b] = most;
    }
}

static inline int quantize_nf4(mk_exec *e, const mk_weight *w, const float *src, void *const *part) {
    int64_t n = w->rows * w->columns, blocks = mk_blocks(w), nested = ceil_div(blocks, MK_NESTED_BLOCK);
    if (!w->part[2] || w->rounded != MK_F32) return MK_UNSUPPORTED;
    float *absmax = static_cast<float *>(mk_cuda_scratch(e, (size_t)blocks * sizeof(float)));
    float *mean = static_cast<float *>(part[4]);
    if (!absmax) return MK_NOMEM;
    MK_TRY(MK_LAUNCH_ROWS(e, quantize_blocks_kernel, blocks, w->block, blocks, n, w->block, src, static_cast<uint8_t *>(part[0]), absmax));
    MK_TRY(MK_LAUNCH(e, absmax_mean_kernel, 1, MK_MEAN_SUMS, blocks, absmax, mean));
    return MK_LAUNCH_ROWS(e, quantize_absmax_kernel, nested, MK_NESTED_BLOCK, nested, blocks, absmax, mean,
                          static_cast<const float *>(w->part[3]), static_cast<uint8_t *>(part[1]), static_cast<float *>(part[2]));
}

#endif
