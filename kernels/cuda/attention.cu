/* attention.cu - attention over ragged sequences and over a cache.
**
** A warp takes a query row. Keys come in blocks of 32, counted from the start of the sequence: a lane
** makes the score of one key, the warp's softmax carries a running maximum from block to block, and a
** lane then holds every 32nd element of the output. What a row computes depends on its own keys alone,
** and `attention` and `attention_cached` run the same code, so a token gets the same bits from both.
*/
#include "attention.cuh"
#include "table.cuh"

#define QUERIES 16 /* rows of a tile */
#define ROWS_PER_WARP (QUERIES / ATTENTION_WARPS)

#define SCAN_THREADS 256

static __global__ void tile_starts_kernel(int64_t n_seq, const int32_t *offsets, int height, int32_t *start) {
    MK_SHARED(int32_t, part, SCAN_THREADS);
    int64_t per = (n_seq + SCAN_THREADS - 1) / SCAN_THREADS, first = threadIdx.x * per;
    int64_t last = first + per < n_seq ? first + per : n_seq;
    int32_t count = 0;
    for (int64_t s = first; s < last; s++) count += (offsets[s + 1] - offsets[s] + height - 1) / height;
    part[threadIdx.x] = count;
    __syncthreads();
    int32_t at = 0;
    for (unsigned i = 0; i < threadIdx.x; i++) at += part[i];
    for (int64_t s = first; s < last; s++) {
        start[s] = at;
        at += (offsets[s + 1] - offsets[s] + height - 1) / height;
    }
    if (threadIdx.x == SCAN_THREADS - 1) start[n_seq] = at;
}

int mk_cuda_tile_starts(mk_exec *e, int64_t n_seq, const int32_t *offsets, int height, int32_t *start) {
    return MK_LAUNCH(e, tile_starts_kernel, 1, SCAN_THREADS, n_seq, offsets, height, start);
}

/* Rows i < rows <= QUERIES of queries against one head's keys and values (row distance ld). Row i sees
** the keys before sees + i step, of which the last `window` where that is not 0. lse may be NULL. All threads of the block call it. */
template <class T>
static __device__ void attend(int rows, int64_t sees, int step, int64_t window, int K, float scale, const T *q, int64_t ldq, const T *k,
                              const T *v, int64_t ld, T *out, int64_t ldo, float *lse, int64_t ld_lse) {
    MK_SHARED(float, qs, QUERIES *HEAD_MAX);
    MK_SHARED(float, ks, KEYS *PAD);
    MK_SHARED(float, vs, KEYS *HEAD_MAX);
    MK_SHARED(float, ps, ATTENTION_WARPS *KEYS);
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    float top[ROWS_PER_WARP], sum[ROWS_PER_WARP], acc[ROWS_PER_WARP][PER_LANE];
    for (int r = 0; r < ROWS_PER_WARP; r++) {
        top[r] = -INFINITY;
        sum[r] = 0;
        for (int c = 0; c < PER_LANE; c++) acc[r][c] = 0;
    }
    for (int t = (int)threadIdx.x; t < rows * K; t += ATTENTION_THREADS)
        qs[t / K * HEAD_MAX + t % K] = widen(q[t / K * ldq + t % K]);
    int64_t total = sees + (int64_t)(rows - 1) * step;
    for (int64_t j0 = window > 0 && sees > window ? (sees - window) / KEYS * KEYS : 0; j0 < total; j0 += KEYS) {
        int n = total - j0 < KEYS ? (int)(total - j0) : KEYS;
        load_rows(ks, k + j0 * ld, ld, n, KEYS, K);
        for (int t = (int)threadIdx.x; t < n * K; t += ATTENTION_THREADS)
            vs[t / K * HEAD_MAX + t % K] = widen(v[(j0 + t / K) * ld + t % K]);
        __syncthreads();
        for (int r = 0; r < ROWS_PER_WARP; r++) {
            int row = warp + r * ATTENTION_WARPS;
            int64_t left = sees + (int64_t)row * step - j0;
            int64_t hidden = window > 0 ? left - window : 0; /* keys of this block that lie before the window */
            if (row >= rows || left <= 0 || hidden >= KEYS) continue; /* the same for all lanes */
            int seen = left < KEYS ? (int)left : KEYS;
            bool in = lane < seen && lane >= hidden;
            float s = dot_rows(qs + row * HEAD_MAX, ks + lane * PAD, K) * scale;
            float high = warp_join<op_max>(in ? s : -INFINITY);
            high = high > top[r] ? high : top[r];
            float p = in ? expf(s - high) : 0, shrink = top[r] == -INFINITY ? 0 : expf(top[r] - high);
            sum[r] = fma_(sum[r], shrink, warp_join<op_sum>(p));
            top[r] = high;
            ps[warp * KEYS + lane] = p;
            __syncwarp();
            for (int c = 0; c < PER_LANE; c++) {
                int d = lane + c * WARP;
                if (d >= K) break;
                float a = acc[r][c] * shrink;
                for (int i = 0; i < seen; i++) a = fma_(ps[warp * KEYS + i], vs[i * HEAD_MAX + d], a);
                acc[r][c] = a;
            }
            __syncwarp();
        }
        __syncthreads();
    }
    for (int r = 0; r < ROWS_PER_WARP; r++) {
        int row = warp + r * ATTENTION_WARPS;
        if (row >= rows) continue;
        for (int c = 0; c < PER_LANE; c++)
            if (lane + c * WARP < K) put(out + row * ldo + lane + c * WARP, acc[r][c] * (1 / sum[r]));
        if (lse && lane == 0) lse[row * ld_lse] = top[r] + logf(sum[r]);
    }
}

template <class T> static __global__ void __launch_bounds__(ATTENTION_THREADS) attention_kernel(attention_job<T> j) {
    int64_t items = (int64_t)j.tile_start[j.n_seq] * j.H, ld = j.G * j.K;
    for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
        tile t = find_tile(j, j.offsets, item / j.H, QUERIES);
        int64_t h = item % j.H, g = h / (j.H / j.G), t0 = j.offsets[t.seq], at = (t0 + t.first) * j.H + h;
        int64_t k0 = j.keys[t.seq], n_keys = j.keys[t.seq + 1] - k0;
        int rows = t.length - t.first < QUERIES ? (int)(t.length - t.first) : QUERIES;
        attend(rows, j.causal ? t.first + 1 : n_keys, j.causal != 0, j.window, (int)j.K, j.scale, j.q + at * j.K, j.H * j.K,
               j.k + k0 * ld + g * j.K, j.v + k0 * ld + g * j.K, ld, j.out + at * j.K, j.H * j.K, j.lse + at, j.H);
    }
}

template <class T>
static int attention(mk_exec *e, int64_t n_seq, const int32_t *offsets, const int32_t *keys, int64_t H, int64_t G, int64_t K,
                     double scale, int causal, int64_t window, const void *q, const void *k, const void *v, void *out, float *lse) {
    attention_job<T> j = {};
    if (n_seq <= 0 || H <= 0) return MK_OK;
    if (K > HEAD_MAX) return MK_UNSUPPORTED;
    int32_t *start = static_cast<int32_t *>(mk_cuda_scratch(e, (size_t)(n_seq + 1) * sizeof(int32_t)));
    if (!start) return MK_NOMEM;
    MK_TRY(mk_cuda_tile_starts(e, n_seq, offsets, QUERIES, start));
    j.n_seq = n_seq, j.H = H, j.G = G, j.K = K;
    j.offsets = offsets, j.keys = keys ? keys : offsets, j.tile_start = start, j.scale = (float)scale, j.causal = causal, j.window = window;
    j.q = static_cast<const T *>(q), j.k = static_cast<const T *>(k), j.v = static_cast<const T *>(v);
    j.out = static_cast<T *>(out), j.lse = lse;
    return MK_LAUNCH(e, attention_kernel<T>, walking_grid(e), ATTENTION_THREADS, j);
}

int mk_cuda_attention(mk_exec *e, mk_dtype type, int64_t n_seq, const int32_t *offsets, const int32_t *keys, const int32_t *from,
                      int64_t H, int64_t G, int64_t K, double scale, int causal, int64_t window, const void *q, const void *k, const void *v, void *out,
                      mk_real *lse) {
    (void)from; /* a tile of queries is worked on as a whole */
    return MK_TYPED(attention, e, n_seq, offsets, keys, H, G, K, scale, causal, window, q, k, v, out, lse);
}

/* ---- the cache ---------------------------------------------------------------------------------- */

template <class T>
static __global__ void cache_put_kernel(int64_t rows, int64_t width, const int32_t *slot, const int32_t *pos, int64_t slab,
                                        const T *k, const T *v, T *kcache, T *vcache) {
    FOR_FLAT(at, rows * width) {
        int64_t r = at / width, to = slot[r] * slab + pos[r] * width + at % width;
        kcache[to] = k[at];
        vcache[to] = v[at];
    }
}

template <class T>
static int cache_put(mk_exec *e, int64_t rows, int64_t width, const int32_t *slot, const int32_t *pos, int64_t slab,
                     const void *k, const void *v, void *kcache, void *vcache) {
    return MK_LAUNCH_FLAT(e, cache_put_kernel<T>, rows * width, rows, width, slot, pos, slab, static_cast<const T *>(k),
                          static_cast<const T *>(v), static_cast<T *>(kcache), static_cast<T *>(vcache));
}

int mk_cuda_cache_put(mk_exec *e, mk_dtype type, int64_t rows, int64_t G, int64_t K, const int32_t *slot, const int32_t *pos,
                      int64_t slab, const void *k, const void *v, void *kcache, void *vcache) {
    return MK_TYPED(cache_put, e, rows, G * K, slot, pos, slab, k, v, kcache, vcache);
}

/* items are (row, key head) pairs: the query heads of a key head are the rows of `attend` */
template <class T>
static __global__ void __launch_bounds__(ATTENTION_THREADS) attention_cached_kernel(attention_job<T> j) {
    int64_t group = j.H / j.G;
    for (int64_t item = blockIdx.x; item < j.rows * j.G; item += gridDim.x) {
        int64_t r = item / j.G, g = item % j.G, at = j.slot[r] * j.slab + g * j.K;
        for (int64_t h = 0; h < group; h += QUERIES) {
            int64_t row = (r * j.H + g * group + h) * j.K;
            attend(group - h < QUERIES ? (int)(group - h) : QUERIES, (int64_t)j.pos[r] + 1, 0, j.window, (int)j.K, j.scale,
                   j.q + row, j.K, j.k + at, j.v + at, j.G * j.K, j.out + row, j.K, (float *)nullptr, 0);
        }
    }
}

template <class T>
static int attention_cached(mk_exec *e, int64_t rows, int64_t H, int64_t G, int64_t K, double scale, int64_t window,
                            const int32_t *slot, const int32_t *pos, int64_t slab, const void *q, const void *kcache, const void *vcache,
                            void *out) {
    attention_job<T> j = {};
    if (rows <= 0 || H <= 0) return MK_OK;
    if (K > HEAD_MAX) return MK_UNSUPPORTED;
    j.rows = rows, j.H = H, j.G = G, j.K = K, j.slab = slab;
    j.slot = slot, j.pos = pos, j.scale = (float)scale, j.window = window;
    j.q = static_cast<const T *>(q), j.k = static_cast<const T *>(kcache), j.v = static_cast<const T *>(vcache);
    j.out = static_cast<T *>(out);
    return MK_LAUNCH(e, attention_cached_kernel<T>, mk_grid(rows * G), ATTENTION_THREADS, j);
}

int mk_cuda_attention_cached(mk_exec *e, mk_dtype type, int64_t rows, int64_t H, int64_t G, int64_t K, double scale,
                             int64_t window, const int32_t *slot, const int32_t *pos, int64_t slab, const void *q, const void *kcache,
                             const void *vcache, void *out) {
    return MK_TYPED(attention_cached, e, rows, H, G, K, scale, window, slot, pos, slab, q, kcache, vcache, out);
}
