/* attention_bwd.cu - the gradient of attention, without atomics: one kernel owns rows of dq, another rows
** of dk and dv, and both make the probabilities again from lse.
**
** With p = exp(q.k scale - lse), delta = out.dout and ds = p (dout.v - delta) scale:
** dv = p^T dout, dq = ds k, dk = ds^T q.
*/
#include "attention.cuh"
#include "table.cuh"

#define HEIGHT 8 /* rows of a tile: queries for dq, keys for dk and dv */
#define ROWS_PER_WARP (HEIGHT / ATTENTION_WARPS)

/* One warp for a (token, head) pair. The first element of a row of dq holds its delta until the row itself
** is written: the number of tokens, which scratch memory would need, is known on the device alone. */
template <class T>
static __global__ void delta_kernel(int64_t n_seq, const int32_t *offsets, int64_t H, int64_t K, const T *out,
                                    const float *dout, float *dq) {
    int64_t items = (int64_t)offsets[n_seq] * H;
    int lane = (int)threadIdx.x % WARP;
    for (int64_t i = (int64_t)blockIdx.x * ATTENTION_WARPS + threadIdx.x / WARP; i < items;
         i += (int64_t)gridDim.x * ATTENTION_WARPS) {
        float s = 0;
        for (int64_t d = lane; d < K; d += WARP) s = fma_(widen(out[i * K + d]), dout[i * K + d], s);
        s = warp_join<op_sum>(s);
        if (lane == 0) dq[i * K] = s;
    }
}

/* A warp takes query rows, a lane one key of each block of 32. */
template <class T> static __global__ void __launch_bounds__(ATTENTION_THREADS) attention_dq_kernel(attention_job<T> j) {
    MK_SHARED(float, qs, HEIGHT *HEAD_MAX);
    MK_SHARED(float, gs, HEIGHT *HEAD_MAX); /* dout */
    MK_SHARED(float, ks, KEYS *PAD);
    MK_SHARED(float, vs, KEYS *PAD);
    MK_SHARED(float, ds, ATTENTION_WARPS *KEYS);
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, K = (int)j.K;
    int64_t items = (int64_t)j.tile_start[j.n_seq] * j.H, ld = j.G * j.K, ldq = j.H * j.K;
    for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
        tile t = find_tile(j, j.offsets, item / j.H, HEIGHT);
        int64_t h = item % j.H, g = h / (j.H / j.G), t0 = j.offsets[t.seq], at = (t0 + t.first) * j.H + h;
        int64_t k0 = j.keys[t.seq], n_keys = j.keys[t.seq + 1] - k0;
        int rows = t.length - t.first < HEIGHT ? (int)(t.length - t.first) : HEIGHT;
        float acc[ROWS_PER_WARP][PER_LANE];
        for (int r = 0; r < ROWS_PER_WARP; r++)
            for (int c = 0; c < PER_LANE; c++) acc[r][c] = 0;
        for (int u = (int)threadIdx.x; u < rows * K; u += ATTENTION_THREADS) {
            qs[u / K * HEAD_MAX + u % K] = widen(j.q[at * K + u / K * ldq + u % K]);
            gs[u / K * HEAD_MAX + u % K] = j.dout[at * K + u / K * ldq + u % K];
        }
        int64_t total = j.causal ? t.first + rows : n_keys;
        for (int64_t j0 = j.window > 0 && t.first + 1 > j.window ? (t.first + 1 - j.window) / KEYS * KEYS : 0; j0 < total; j0 += KEYS) {
            int n = total - j0 < KEYS ? (int)(total - j0) : KEYS;
            load_rows(ks, j.k + (k0 + j0) * ld + g * K, ld, n, KEYS, K);
            load_rows(vs, j.v + (k0 + j0) * ld + g * K, ld, n, KEYS, K);
            __syncthreads();
            for (int r = 0; r < ROWS_PER_WARP; r++) {
                int row = warp + r * ATTENTION_WARPS;
                int64_t left = (j.causal ? t.first + row + 1 : n_keys) - j0;
                int64_t hidden = j.window > 0 ? left - j.window : 0; /* keys of this block that lie before the window */
                if (row >= rows || left <= 0 || hidden >= KEYS) continue;
                int seen = left < KEYS ? (int)left : KEYS;
                float p = 0;
                if (lane < seen && lane >= hidden) {
                    float lse = j.lse_in[at + row * j.H], delta = j.dq[(at + row * j.H) * K];
                    p = expf(dot_rows(qs + row * HEAD_MAX, ks + lane * PAD, K) * j.scale - lse);
                    p = p * (dot_rows(gs + row * HEAD_MAX, vs + lane * PAD, K) - delta) * j.scale;
                }
                ds[warp * KEYS + lane] = p;
                __syncwarp();
                for (int c = 0; c < PER_LANE; c++) {
                    int d = lane + c * WARP;
                    if (d >= K) break;
                    for (int i = 0; i < seen; i++) acc[r][c] = fma_(ds[warp * KEYS + i], ks[i * PAD + d], acc[r][c]);
                }
                __syncwarp();
            }
            __syncthreads();
        }
        for (int r = 0; r < ROWS_PER_WARP; r++) {
            int row = warp + r * ATTENTION_WARPS;
            for (int c = 0; c < PER_LANE; c++)
                if (row < rows && lane + c * WARP < K) j.dq[at * K + row * ldq + lane + c * WARP] = acc[r][c];
        }
    }
}

/* A warp takes key rows, a lane one query of each block of 32. The query heads of a key head come in
** order, their queries in blocks. */
template <class T> static __global__ void __launch_bounds__(ATTENTION_THREADS) attention_dkv_kernel(attention_job<T> j) {
    MK_SHARED(float, ks, HEIGHT *HEAD_MAX);
    MK_SHARED(float, vs, HEIGHT *HEAD_MAX);
    MK_SHARED(float, qs, KEYS *PAD);
    MK_SHARED(float, gs, KEYS *PAD); /* dout */
    MK_SHARED(float, ps, ATTENTION_WARPS *KEYS);
    MK_SHARED(float, ds, ATTENTION_WARPS *KEYS);
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, K = (int)j.K;
    int64_t items = (int64_t)j.tile_start[j.n_seq] * j.G, ld = j.G * j.K, ldq = j.H * j.K, group = j.H / j.G;
    for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
        tile t = find_tile(j, j.keys, item / j.G, HEIGHT); /* of keys */
        int64_t g = item % j.G, t0 = j.offsets[t.seq], at = (j.keys[t.seq] + t.first) * ld + g * K;
        int64_t queries = j.offsets[t.seq + 1] - t0;
        int rows = t.length - t.first < HEIGHT ? (int)(t.length - t.first) : HEIGHT;
        float dk[ROWS_PER_WARP][PER_LANE], dv[ROWS_PER_WARP][PER_LANE];
        for (int r = 0; r < ROWS_PER_WARP; r++)
            for (int c = 0; c < PER_LANE; c++) dk[r][c] = dv[r][c] = 0;
        for (int u = (int)threadIdx.x; u < rows * K; u += ATTENTION_THREADS) {
            ks[u / K * HEAD_MAX + u % K] = widen(j.k[at + u / K * ld + u % K]);
            vs[u / K * HEAD_MAX + u % K] = widen(j.v[at + u / K * ld + u % K]);
        }
        for (int64_t h = g * group; h < (g + 1) * group; h++) {
            /* with a causal mask no query before the tile sees it: begin with the block that holds it */
            for (int64_t i0 = j.causal ? t.first / KEYS * KEYS : 0; i0 < queries; i0 += KEYS) {
                int n = queries - i0 < KEYS ? (int)(queries - i0) : KEYS;
                int64_t from = (t0 + i0) * j.H + h;
                load_rows(qs, j.q + from * K, ldq, n, KEYS, K);
                load_rows(gs, j.dout + from * K, ldq, n, KEYS, K);
                __syncthreads();
                for (int r = 0; r < ROWS_PER_WARP; r++) {
                    int row = warp + r * ATTENTION_WARPS;
                    if (row >= rows) continue;
                    float p = 0, s = 0;
                    if (lane < n && (!j.causal || i0 + lane >= t.first + row) &&
                        (j.window <= 0 || i0 + lane - (t.first + row) < j.window)) {
                        float lse = j.lse_in[from + lane * j.H], delta = j.dq[(from + lane * j.H) * K];
                        p = expf(dot_rows(qs + lane * PAD, ks + row * HEAD_MAX, K) * j.scale - lse);
                        s = p * (dot_rows(gs + lane * PAD, vs + row * HEAD_MAX, K) - delta) * j.scale;
                    }
                    ps[warp * KEYS + lane] = p;
                    ds[warp * KEYS + lane] = s;
                    __syncwarp();
                    for (int c = 0; c < PER_LANE; c++) {
                        int d = lane + c * WARP;
                        if (d >= K) break;
                        for (int i = 0; i < n; i++) {
                            dv[r][c] = fma_(ps[warp * KEYS + i], gs[i * PAD + d], dv[r][c]);
                            dk[r][c] = fma_(ds[warp * KEYS + i], qs[i * PAD + d], dk[r][c]);
                        }
                    }
                    __syncwarp();
                }
                __syncthreads();
            }
        }
        for (int r = 0; r < ROWS_PER_WARP; r++) {
            int row = warp + r * ATTENTION_WARPS;
            for (int c = 0; c < PER_LANE; c++)
                if (row < rows && lane + c * WARP < K) {
                    j.dk[at + row * ld + lane + c * WARP] = dk[r][c];
                    j.dv[at + row * ld + lane + c * WARP] = dv[r][c];
                }
        }
    }
}

template <class T>
static int attention_bwd(mk_exec *e, int64_t n_seq, const int32_t *offsets, const int32_t *keys, int64_t H, int64_t G, int64_t K,
                         double scale, int causal, int64_t window, const void *q, const void *k, const void *v, const void *out, const float *lse,
                         const float *dout, float *dq, float *dk, float *dv) {
    attention_job<T> j = {};
    if (n_seq <= 0 || H <= 0) return MK_OK;
    if (K > HEAD_MAX) return MK_UNSUPPORTED;
    int32_t *start = static_cast<int32_t *>(mk_cuda_scratch(e, (size_t)(n_seq + 1) * sizeof(int32_t)));
    if (!start) return MK_NOMEM;
    if (!keys) keys = offsets;
    MK_TRY(mk_cuda_tile_starts(e, n_seq, keys, HEIGHT, start));
    MK_TRY(MK_LAUNCH(e, delta_kernel<T>, walking_grid(e), ATTENTION_THREADS, n_seq, offsets, H, K,
                     static_cast<const T *>(out), dout, dq));
    j.n_seq = n_seq, j.H = H, j.G = G, j.K = K;
    j.offsets = offsets, j.keys = keys, j.tile_start = start, j.scale = (float)scale, j.causal = causal, j.window = window;
    j.q = static_cast<const T *>(q), j.k = static_cast<const T *>(k), j.v = static_cast<const T *>(v);
    j.lse_in = lse, j.dout = dout;
    j.dq = dq, j.dk = dk, j.dv = dv;
    MK_TRY(MK_LAUNCH(e, attention_dkv_kernel<T>, walking_grid(e), ATTENTION_THREADS, j));
    if (keys != offsets) MK_TRY(mk_cuda_tile_starts(e, n_seq, offsets, HEIGHT, start));
    return MK_LAUNCH(e, attention_dq_kernel<T>, walking_grid(e), ATTENTION_THREADS, j); /* last: it ends delta */
}

int mk_cuda_attention_bwd(mk_exec *e, mk_dtype type, int64_t n_seq, const int32_t *offsets, const int32_t *keys, int64_t H, int64_t G,
                          int64_t K, double scale, int causal, int64_t window, const void *q, const void *k, const void *v,
                          const void *out, const mk_real *lse, const mk_real *dout, mk_real *dq, mk_real *dk, mk_real *dv) {
    return MK_TYPED(attention_bwd, e, n_seq, offsets, keys, H, G, K, scale, causal, window, q, k, v, out, lse, dout, dq, dk, dv);
}
