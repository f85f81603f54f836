/* rows.cu - kernels over the rows of [rows, n]: softmax, gathering, segments. */
#include "common.cuh"
#include "formats.cuh"
#include "table.cuh"

/* ---- softmax ------------------------------------------------------------------------------------ */

static __global__ void softmax_kernel(int log_form, int64_t rows, int64_t n, const float *x_all, float *y_all) {
    FOR_ROWS(r, rows) {
        const float *x = x_all + r * n;
        float *y = y_all + r * n, top = -INFINITY;
        double sum = 0;
        FOR_COLUMNS(i, n) top = op_max::join(top, x[i]);
        top = block_max(top);
        FOR_COLUMNS(i, n) sum += (double)expf(x[i] - top);
        sum = block_sum(sum);
        if (log_form) {
            float log_sum = (float)log(sum);
            FOR_COLUMNS(i, n) y[i] = (x[i] - top) - log_sum;
        } else {
            float inv = (float)(1 / sum);
            FOR_COLUMNS(i, n) y[i] = expf(x[i] - top) * inv;
        }
    }
}

int mk_cuda_softmax(mk_exec *e, int log, int64_t rows, int64_t n, const mk_real *x, mk_real *y) {
    return n <= 0 ? (int)MK_OK : MK_LAUNCH_ROWS(e, softmax_kernel, rows, n, log, rows, n, x, y);
}

static __global__ void softmax_bwd_kernel(int log_form, int64_t rows, int64_t n, const float *y_all, const float *dy_all,
                                          float *dx_all) {
    FOR_ROWS(r, rows) {
        const float *y = y_all + r * n, *dy = dy_all + r * n;
        float *dx = dx_all + r * n;
        double sum = 0;
        FOR_COLUMNS(i, n) sum += (double)(log_form ? dy[i] : y[i] * dy[i]);
        float s = (float)block_sum(sum);
        FOR_COLUMNS(i, n) dx[i] = log_form ? dy[i] - expf(y[i]) * s : y[i] * (dy[i] - s);
    }
}

int mk_cuda_softmax_bwd(mk_exec *e, int log, int64_t rows, int64_t n, const mk_real *y, const mk_real *dy, mk_real *dx) {
    return n <= 0 ? (int)MK_OK : MK_LAUNCH_ROWS(e, softmax_bwd_kernel, rows, n, log, rows, n, y, dy, dx);
}

/* ---- rows by index ------------------------------------------------------------------------------ */

template <class T>
static __global__ void gather_kernel(int64_t n, int64_t d, const T *src, const int32_t *idx, T *dst) {
    FOR_FLAT(at, n * d) dst[at] = src[(int64_t)idx[at / d] * d + at % d];
}

template <class T> static int gather_rows(mk_exec *e, int64_t n, int64_t d, const void *src, const int32_t *idx, void *dst) {
    return MK_LAUNCH_FLAT(e, gather_kernel<T>, n * d, n, d, static_cast<const T *>(src), idx, static_cast<T *>(dst));
}

int mk_cuda_gather_rows(mk_exec *e, mk_dtype type, int64_t n, int64_t d, const void *src, const int32_t *idx, void *dst) {
    return MK_TYPED(gather_rows, e, n, d, src, idx, dst);
}

/* A warp for each i. The first i of a destination row adds all of that row's sources, in their order;
** the warps of the others return. n^2 / 2 indices are read, which lie in the cache. */
static __global__ void scatter_kernel(int64_t n, int64_t d, const float *src, const int32_t *idx, float *dst) {
    unsigned lane = threadIdx.x;
    FOR_ROWS(i, n) {
        int32_t mine = idx[i];
        int seen = 0;
        for (int64_t j0 = 0; j0 < i && !seen; j0 += WARP)
            seen = __any_sync(FULL, j0 + lane < i && idx[j0 + lane] == mine);
        if (seen) continue;
        float *to = dst + (int64_t)mine * d;
        for (int64_t j0 = i; j0 < n; j0 += WARP) {
            unsigned hits = __ballot_sync(FULL, j0 + lane < n && idx[j0 + lane] == mine);
            for (unsigned bit = 0; bit < WARP; bit++)
                if (hits >> bit & 1)
                    for (int64_t c = lane; c < d; c += WARP) to[c] += src[(j0 + bit) * d + c];
        }
    }
}

int mk_cuda_scatter_add_rows(mk_exec *e, int64_t n, int64_t d, const mk_real *src, const int32_t *idx, int64_t n_dst,
                             mk_real *dst) {
    (void)n_dst;
    return n <= 0 || d <= 0 ? (int)MK_OK : MK_LAUNCH(e, scatter_kernel, mk_grid(n), WARP, n, d, src, idx, dst);
}

static __global__ void pick_kernel(int64_t rows, int64_t n, const float *x, const int32_t *idx, float *y) {
    FOR_FLAT(r, rows) y[r] = x[r * n + idx[r]];
}

int mk_cuda_pick(mk_exec *e, int64_t rows, int64_t n, const mk_real *x, const int32_t *idx, mk_real *y) {
    return MK_LAUNCH_FLAT(e, pick_kernel, rows, rows, n, x, idx, y);
}

static __global__ void pick_bwd_kernel(int64_t rows, int64_t n, const int32_t *idx, const float *dy, float *dx) {
    FOR_FLAT(r, rows) dx[r * n + idx[r]] += dy[r];
}

int mk_cuda_pick_bwd(mk_exec *e, int64_t rows, int64_t n, const int32_t *idx, const mk_real *dy, mk_real *dx) {
    return MK_LAUNCH_FLAT(e, pick_bwd_kernel, rows, rows, n, idx, dy, dx);
}

/* ---- segments ----------------------------------------------------------------------------------- */

static __global__ void segment_kernel(int mean, int64_t n_seq, const int32_t *offsets, int64_t n, const float *x, float *y) {
    FOR_FLAT(at, n_seq * n) {
        int64_t s = at / n, c = at % n, t0 = offsets[s], t1 = offsets[s + 1];
        double sum = 0;
        for (int64_t t = t0; t < t1; t++) sum += (double)x[t * n + c];
        y[at] = (float)(mean && t1 > t0 ? sum * (1 / (double)(t1 - t0)) : sum);
    }
}

int mk_cuda_segment_sum(mk_exec *e, int mean, int64_t n_seq, const int32_t *offsets, int64_t n, const mk_real *x,
                        mk_real *y) {
    return MK_LAUNCH_FLAT(e, segment_kernel, n_seq * n, mean, n_seq, offsets, n, x, y);
}

static __global__ void segment_bwd_kernel(int mean, int64_t n_seq, const int32_t *offsets, int64_t n, const float *dy,
                                          float *dx) {
    FOR_FLAT(at, n_seq * n) {
        int64_t s = at / n, c = at % n, t0 = offsets[s], t1 = offsets[s + 1];
        float v = dy[at] * (mean && t1 > t0 ? (float)(1 / (double)(t1 - t0)) : 1);
        for (int64_t t = t0; t < t1; t++) dx[t * n + c] = v;
    }
}

int mk_cuda_segment_sum_bwd(mk_exec *e, int mean, int64_t n_seq, const int32_t *offsets, int64_t n, const mk_real *dy,
                            mk_real *dx) {
    return MK_LAUNCH_FLAT(e, segment_bwd_kernel, n_seq * n, mean, n_seq, offsets, n, dy, dx);
}
