/* common.cuh - what the kernels share: launching, scratch memory, reductions in a fixed order.
**
** Rules for a kernel here
**  - Its work is cut by shape alone; sums have a fixed order; no atomics on floating-point numbers.
**  - A row's result does not depend on other rows (kernels.h). nvcc runs with -fmad=false, so that an
**    expression has the same bits wherever it is inlined; multiply-adds are written fma_().
**  - Any size works: grids are capped and loop. Indices are int64_t.
**  - Shared arrays are made with MK_SHARED, kernels started with MK_LAUNCH: the emulator needs both.
*/
#ifndef MK_COMMON_CUH
#define MK_COMMON_CUH

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "emu/emu.h"
#endif

#include <cfloat>
#include <cmath>

#include "kernels.h"
#include "philox.h"

struct mk_cuda_state; /* device.cu */

/* Called before each launch: 0 if the device has faulted. */
int mk_cuda_ready(mk_exec *e);
/* Called after each launch: its code, and in MOCL_CUDA_SYNC=1 that of its execution. */
int mk_cuda_launched(mk_exec *e, const char *kernel);
cudaStream_t mk_cuda_stream(mk_exec *e);
/* Device memory for this call, 256-byte aligned, uninitialised: the next call in the stream may reuse
** it. One per kernel call; NULL when there is none. */
void *mk_cuda_scratch(mk_exec *e, size_t bytes);
/* Copies to the host and waits. */
int mk_cuda_fetch(mk_exec *e, void *host, const void *device, size_t bytes);
int mk_cuda_copy_bytes(mk_exec *e, void *dst, const void *src, size_t bytes); /* device to device */
int mk_cuda_multiprocessors(mk_exec *e);

#ifdef __CUDACC__
#define MK_SHARED(type, name, count) __shared__ type name[count]
#define MK_LAUNCH(e, kernel, grid, block, ...)                                                       \
    (mk_cuda_ready(e) ? (kernel<<<dim3(grid), dim3(block), 0, mk_cuda_stream(e)>>>(__VA_ARGS__),     \
                         mk_cuda_launched(e, #kernel))                                               \
                      : (int)MK_FAULT)
#else
#define MK_SHARED(type, name, count)                                                                 \
    static const char name##_tag = 0;                                                                \
    type *const name = static_cast<type *>(emu::shared(&name##_tag, sizeof(type) * (size_t)(count)))
#define MK_LAUNCH(e, kernel, grid, block, ...)                                                       \
    (mk_cuda_ready(e) ? (emu::launch_with(#kernel, dim3(grid), dim3(block),                          \
                                          [=]() { kernel(__VA_ARGS__); }),                           \
                         mk_cuda_launched(e, #kernel))                                               \
                      : (int)MK_FAULT)
#endif

#define MK_TRY(call)                    \
    do {                                \
        int code_ = (call);             \
        if (code_ != MK_OK) return code_; \
    } while (0)

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static __host__ __device__ inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static __host__ __device__ inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* Blocks of a grid that loops: enough to fill any device, few enough for any size. */
static inline unsigned mk_grid(int64_t items) { return (unsigned)min64(max64(items, 1), 1 << 16); }

#define FLAT_THREADS 256
/* Elements of a flat kernel: a grid-stride loop */
#define FOR_FLAT(i, n)                                                                               \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n);                        \
         i += (int64_t)gridDim.x * blockDim.x)
#define MK_LAUNCH_FLAT(e, kernel, n, ...)                                                            \
    ((n) <= 0 ? (int)MK_OK                                                                           \
              : MK_LAUNCH(e, kernel, mk_grid(ceil_div(n, FLAT_THREADS)), FLAT_THREADS, __VA_ARGS__))

/* Rows: one block each. Its threads depend on the row's length alone. */
static inline unsigned mk_row_threads(int64_t n) { return n <= 256 ? 32 : n <= 2048 ? 128 : 256; }
#define FOR_ROWS(r, rows) for (int64_t r = blockIdx.x; r < (rows); r += gridDim.x)
#define FOR_COLUMNS(i, n) for (int64_t i = threadIdx.x; i < (n); i += blockDim.x)
#define MK_LAUNCH_ROWS(e, kernel, rows, n, ...)                                                      \
    ((rows) <= 0 ? (int)MK_OK : MK_LAUNCH(e, kernel, mk_grid(rows), mk_row_threads(n), __VA_ARGS__))

#define WARP 32
#define FULL 0xffffffffu
#define MAX_WARPS 32

/* a b + c, rounded once on the device. The emulator may round twice where the host has no instruction
** for it: its bits are compared with itself only. */
__device__ __forceinline__ float fma_(float a, float b, float c) {
#if defined(__CUDACC__) || defined(__FMA__)
    return fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

__device__ __forceinline__ float sigmoid(float x) {
    float z = expf(-fabsf(x)); /* never overflows */
    return x >= 0 ? 1 / (1 + z) : z / (1 + z);
}

struct op_sum {
    template <class T> __device__ static T join(T a, T b) { return a + b; }
};
/* NaN wins over every number */
struct op_max {
    template <class T> __device__ static T join(T a, T b) { return b > a || b != b ? b : a; }
};
struct op_min {
    template <class T> __device__ static T join(T a, T b) { return b < a || b != b ? b : a; }
};

template <class Op, class T> __device__ __forceinline__ T warp_join(T v) {
    for (int by = WARP / 2; by > 0; by /= 2) v = Op::join(v, __shfl_xor_sync(FULL, v, by));
    return v;
}

/* The same for all threads of the block, in warps and then over warps in order; every thread gets the
** result. All threads must call it; `none` changes nothing when joined. */
template <class Op, class T> __device__ T block_join(T v, T none) {
    MK_SHARED(T, part, MAX_WARPS);
    int warps = (int)((blockDim.x + WARP - 1) / WARP), warp = (int)threadIdx.x / WARP;
    v = warp_join<Op>(v);
    if (warps == 1) return v;
    if (threadIdx.x % WARP == 0) part[warp] = v;
    __syncthreads();
    T all = none;
    for (int i = 0; i < warps; i++) all = Op::join(all, part[i]);
    __syncthreads();
    return all;
}

template <class T> __device__ __forceinline__ T block_sum(T v) { return block_join<op_sum, T>(v, T(0)); }
__device__ __forceinline__ float block_max(float v) {
    return block_join<op_max, float>(v, -INFINITY);
}

#endif
