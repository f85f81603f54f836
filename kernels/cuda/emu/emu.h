/* emu.h - stands in for the CUDA toolkit's headers, so that the host compiler can build the .cu files.
**
** Blocks of a launch run one after the other; the threads of a block are fibers on one host thread, and
** change over at barriers and warp operations alone. That is a legal order of execution, and the one in
** which a thread runs ahead of the others as far as the code lets it: a missing barrier shows as a wrong
** value. Run forwards and backwards (MOCL_EMU_ORDER), each pair of threads is seen in both orders.
**
** Reported as a device fault, with the kernel's name: a barrier that some threads of the block do not
** reach, a warp operation that some of its lanes do not reach, too much shared memory, a bad launch.
** Shared memory starts as NaN. Under the address sanitizer each shared array has redzones.
**
** Environment, read when a device is opened: MOCL_EMU_ORDER=forward|reverse, MOCL_EMU_DEVICES=n,
** MOCL_EMU_DRIVER=version (12000; 0 = none), MOCL_EMU_SM=80, MOCL_EMU_MEMORY=bytes,
** MOCL_EMU_FAULT=n (the n-th launch faults).
*/
#ifndef MK_EMU_H
#define MK_EMU_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define MK_EMU 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace emu {

struct shape {
    dim3 block, block_dim, grid_dim;
};
const dim3 &thread();
const shape &here();

void sync_threads();
void sync_warp(unsigned mask);
/* Each lane of `mask` gives 8 bytes and gets those of lane `source` (its own where source >= 32). */
uint64_t exchange(unsigned mask, uint64_t value, unsigned source);
unsigned lane();
unsigned ballot(unsigned mask, int predicate);
/* The array of this block that `tag` names */
void *shared(const void *tag, size_t bytes);

typedef void (*body)(const void *arguments);
void launch(const char *name, dim3 grid, dim3 block, body run, const void *arguments);

template <class F> void launch_with(const char *name, dim3 grid, dim3 block, const F &f) {
    launch(name, grid, block, [](const void *p) { (*static_cast<const F *>(p))(); }, &f);
}

template <class T> uint64_t to_bits(T v) {
    static_assert(sizeof(T) <= 8, "at most 8 bytes");
    uint64_t u = 0;
    memcpy(&u, &v, sizeof v);
    return u;
}
template <class T> T from_bits(uint64_t u) {
    T v;
    memcpy(&v, &u, sizeof v);
    return v;
}

} // namespace emu

#define threadIdx (emu::thread())
#define blockIdx (emu::here().block)
#define blockDim (emu::here().block_dim)
#define gridDim (emu::here().grid_dim)
#define __syncthreads() emu::sync_threads()
static inline void __syncwarp(unsigned mask = 0xffffffffu) { emu::sync_warp(mask); }

template <class T> T __shfl_xor_sync(unsigned mask, T v, int by) {
    return emu::from_bits<T>(emu::exchange(mask, emu::to_bits(v), emu::lane() ^ (unsigned)by));
}
template <class T> T __shfl_sync(unsigned mask, T v, int source) {
    return emu::from_bits<T>(emu::exchange(mask, emu::to_bits(v), (unsigned)source & 31));
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned by) {
    unsigned at = emu::lane();
    return emu::from_bits<T>(emu::exchange(mask, emu::to_bits(v), at >= by ? at - by : at));
}
static inline unsigned __ballot_sync(unsigned mask, int p) { return emu::ballot(mask, p); }
static inline int __any_sync(unsigned mask, int p) { return emu::ballot(mask, p) != 0; }

template <class T> T atomicAdd(T *p, T v) { /* one fiber runs at a time */
    T old = *p;
    *p = old + v;
    return old;
}

/* ---- the runtime calls that device.cu uses ------------------------------------------------------- */

typedef int cudaError_t;
enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76
};
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
};
typedef struct emu_stream *cudaStream_t;
#define cudaStreamNonBlocking 1

cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int index);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr what, int index);
cudaError_t cudaSetDevice(int index);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t e);

/* mk_cuda_api.mark and .check */
void emu_mark(void *p, size_t bytes, size_t rounded);
int emu_check(void *p, size_t bytes, size_t rounded);

#endif
