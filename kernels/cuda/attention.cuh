/* attention.cuh - what attention forward and backward share: tiles of a ragged batch. */
#ifndef MK_ATTENTION_CUH
#define MK_ATTENTION_CUH

#include "common.cuh"
#include "formats.cuh"

#define HEAD_MAX 128              /* elements of a head */
#define PER_LANE (HEAD_MAX / WARP) /* elements of a head that a lane holds */
#define KEYS WARP                  /* keys of a block: one for each lane */
#define PAD (HEAD_MAX + 1)         /* row distance in shared memory: lanes that read a column hit 32 banks */
#define ATTENTION_THREADS 128
#define ATTENTION_WARPS (ATTENTION_THREADS / WARP)

/* T: the type of queries, keys, values and outputs; shared memory, sums and gradients are f32 */
template <class T> struct attention_job {
    int64_t n_seq, H, G, K, slab, rows;
    const int32_t *offsets, *keys, *slot, *pos; /* keys: offsets too where they are of the same tokens */
    float scale;
    int causal;
    int64_t window; /* > 0: a token sees itself and the window - 1 before it */
    const T *q, *k, *v;
    T *out;
    const float *lse_in, *dout;
    float *lse, *dq, *dk, *dv;
    const int32_t *tile_start; /* [n_seq + 1]: tiles before sequence s; the last entry counts them all */
};

/* start[s] = tiles of `height` tokens before sequence s. One block; the counts are not known on the
** host, and asking for them would stop the stream. Defined in attention.cu. */
int mk_cuda_tile_starts(mk_exec *e, int64_t n_seq, const int32_t *offsets, int height, int32_t *start);

struct tile {
    int64_t seq, first, length; /* first token of the tile within its sequence, and the sequence's length */
};

/* the tile of that number; offsets: of the tokens that tile_start counts */
template <class T>
static __device__ __forceinline__ tile find_tile(const attention_job<T> &j, const int32_t *offsets, int64_t item, int height) {
    int64_t lo = 0, hi = j.n_seq; /* the last sequence whose start is not behind the item */
    while (hi - lo > 1) {
        int64_t mid = (lo + hi) / 2;
        if (j.tile_start[mid] <= item) lo = mid;
        else hi = mid;
    }
    return {lo, (item - j.tile_start[lo]) * height, (int64_t)offsets[lo + 1] - offsets[lo]};
}

/* dst[i * PAD + d] = src[i * ld + d] for i < n, zero up to `rows`; all threads of the block */
template <class T>
static __device__ __forceinline__ void load_rows(float *dst, const T *src, int64_t ld, int n, int rows, int K) {
    for (int t = (int)threadIdx.x; t < rows * K; t += ATTENTION_THREADS) {
        int i = t / K, d = t % K;
        dst[i * PAD + d] = i < n ? widen(src[i * ld + d]) : 0;
    }
}

static __device__ __forceinline__ float dot_rows(const float *a, const float *b, int K) {
    float s = 0;
    for (int d = 0; d < K; d++) s = fma_(a[d], b[d], s);
    return s;
}

/* blocks that walk over tiles: the number of tiles is known on the device alone */
static inline unsigned walking_grid(mk_exec *e) { return (unsigned)mk_cuda_multiprocessors(e) * 16; }

#endif
