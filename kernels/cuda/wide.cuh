/* wide.cuh - memory in pieces of 16 bytes. A kernel that is bound by memory takes EIGHT elements at a time: one load of bf16, two of
** f32. Where a piece begins decides the width of the loads alone, never which thread adds what in which order, so that a row
** has the same bits wherever it lies.
*/
#ifndef MK_WIDE_CUH
#define MK_WIDE_CUH

#include "common.cuh"
#include "formats.cuh"

#define EIGHT 8
#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

#ifdef __CUDACC__
typedef uint4 piece16;
/* a plain store of a uint4 may become four */
static __device__ __forceinline__ void put16(void *p, const piece16 &v) { __stwb(static_cast<piece16 *>(p), v); }
#else
struct alignas(16) piece16 {
    uint32_t w[4];
};
static inline void put16(void *p, const piece16 &v) { *static_cast<piece16 *>(p) = v; }
#endif

/* Do all of these begin at a multiple of 16 bytes? NULL does. */
template <class... P> static __host__ __device__ __forceinline__ bool lie_wide(P... p) {
    uintptr_t all = 0;
    const uintptr_t each[] = {(uintptr_t)p...};
    for (uintptr_t one : each) all |= one;
    return all % sizeof(piece16) == 0;
}

static __device__ __forceinline__ void load_eight(const float *p, float v[EIGHT]) {
    const piece16 a = reinterpret_cast<const piece16 *>(p)[0], b = reinterpret_cast<const piece16 *>(p)[1];
    memcpy(v, &a, sizeof a);
    memcpy(v + 4, &b, sizeof b);
}
static __device__ __forceinline__ void load_eight(const mk_bf16 *p, float v[EIGHT]) {
    const piece16 a = *reinterpret_cast<const piece16 *>(p);
    mk_bf16 h[EIGHT];
    memcpy(h, &a, sizeof a);
    UNROLL
    for (int k = 0; k < EIGHT; k++) v[k] = widen(h[k]);
}
static __device__ __forceinline__ void store_eight(float *p, const float v[EIGHT]) {
    piece16 a, b;
    memcpy(&a, v, sizeof a);
    memcpy(&b, v + 4, sizeof b);
    put16(p, a);
    put16(p + 4, b);
}
static __device__ __forceinline__ void store_eight(mk_bf16 *p, const float v[EIGHT]) {
    mk_bf16 h[EIGHT];
    piece16 a;
    UNROLL
    for (int k = 0; k < EIGHT; k++) put(h + k, v[k]);
    memcpy(&a, h, sizeof a);
    put16(p, a);
}

/* the same of as many elements as there are, or where they do not lie on 16 bytes; what is not there is 0 */
template <class T> static __device__ __forceinline__ void load_some(const T *p, bool wide, int64_t n, float v[EIGHT]) {
    if (wide && n >= EIGHT) {
        load_eight(p, v);
        return;
    }
    UNROLL
    for (int k = 0; k < EIGHT; k++) v[k] = k < n ? widen(p[k]) : 0;
}
template <class T> static __device__ __forceinline__ void store_some(T *p, bool wide, int64_t n, const float v[EIGHT]) {
    if (wide && n >= EIGHT) {
        store_eight(p, v);
        return;
    }
    UNROLL
    for (int k = 0; k < EIGHT; k++)
        if (k < n) put(p + k, v[k]);
}

/* Elements i .. i + EIGHT - 1 of n of a flat kernel, and of a row */
#define FOR_EIGHTS(i, n)                                                                             \
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * EIGHT; i < (n);              \
         i += (int64_t)gridDim.x * blockDim.x * EIGHT)
#define FOR_EIGHT_COLUMNS(i, n) for (int64_t i = (int64_t)threadIdx.x * EIGHT; i < (n); i += (int64_t)blockDim.x * EIGHT)
#define MK_LAUNCH_EIGHTS(e, kernel, n, ...)                                                          \
    ((n) <= 0 ? (int)MK_OK                                                                           \
              : MK_LAUNCH(e, kernel, mk_grid(ceil_div(n, FLAT_THREADS * EIGHT)), FLAT_THREADS, __VA_ARGS__))

#endif
