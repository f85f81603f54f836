/* norms.cu - RMSNorm and LayerNorm and their gradients, one block for a row. */
#include "common.cuh"
#include "formats.cuh"
#include "table.cuh"
#include "wide.cuh"

#define WEIGHT_ROWS 64 /* rows whose weight gradients make one partial sum */

static __device__ __forceinline__ float times(float v, const float *w, int64_t i) { return w ? v * w[i] : v; }

template <class In, class Out>
static __global__ void rmsnorm_kernel(int64_t rows, int64_t n, const In *x_all, const float *w, double eps, Out *y_all,
                                      float *rstd) {
    FOR_ROWS(r, rows) {
        const In *x = x_all + r * n;
        Out *y = y_all + r * n;
        bool wide = lie_wide(x, y, w);
        double sum = 0;
        FOR_EIGHT_COLUMNS(i, n) {
            float v[EIGHT];
            load_some(x + i, wide, n - i, v);
            UNROLL
            for (int k = 0; k < EIGHT; k++) sum += (double)(v[k] * v[k]);
        }
        float s = (float)(1 / sqrt(block_sum(sum) / (double)n + eps));
        FOR_EIGHT_COLUMNS(i, n) {
            float v[EIGHT], by[EIGHT];
            load_some(x + i, wide, n - i, v);
            if (w) load_some(w + i, wide, n - i, by);
            UNROLL
            for (int k = 0; k < EIGHT; k++) v[k] = w ? v[k] * s * by[k] : v[k] * s;
            store_some(y + i, wide, n - i, v);
        }
        if (threadIdx.x == 0) rstd[r] = s;
    }
}

template <class In>
static int rmsnorm(mk_exec *e, int64_t rows, int64_t n, const void *x_all, const float *w, double eps, mk_dtype y_type, void *y,
                   float *rstd) {
    const In *x = static_cast<const In *>(x_all);
    if (y_type == MK_F32) {
        auto *rmsnorm_to_f32 = rmsnorm_kernel<In, float>;
        return MK_LAUNCH_ROWS(e, rmsnorm_to_f32, rows, n, rows, n, x, w, eps, static_cast<float *>(y), rstd);
    }
    auto *rmsnorm_to_bf16 = rmsnorm_kernel<In, mk_bf16>;
    return MK_LAUNCH_ROWS(e, rmsnorm_to_bf16, rows, n, rows, n, x, w, eps, static_cast<mk_bf16 *>(y), rstd);
}

int mk_cuda_rmsnorm(mk_exec *e, mk_dtype type, int64_t rows, int64_t n, const void *x, const mk_real *w, double eps,
                    mk_dtype y_type, void *y, mk_real *rstd) {
    if (y_type != MK_F32 && y_type != MK_BF16) return MK_UNSUPPORTED;
    return MK_TYPED(rmsnorm, e, rows, n, x, w, eps, y_type, y, rstd);
}

static __global__ void layernorm_kernel(int64_t rows, int64_t n, const float *x_all, const float *w, const float *b,
                                        double eps, float *y_all, float *mean, float *rstd) {
    FOR_ROWS(r, rows) {
        const float *x = x_all + r * n;
        float *y = y_all + r * n;
        double sum = 0, squares = 0;
        FOR_COLUMNS(i, n) sum += (double)x[i];
        float m = (float)(block_sum(sum) / (double)n);
        FOR_COLUMNS(i, n) squares += (double)((x[i] - m) * (x[i] - m));
        float s = (float)(1 / sqrt(block_sum(squares) / (double)n + eps));
        FOR_COLUMNS(i, n) {
            float v = times((x[i] - m) * s, w, i);
            y[i] = b ? v + b[i] : v;
        }
        if (threadIdx.x == 0) {
            mean[r] = m;
            rstd[r] = s;
        }
    }
}

int mk_cuda_layernorm(mk_exec *e, int64_t rows, int64_t n, const mk_real *x, const mk_real *w, const mk_real *b,
                      double eps, mk_real *y, mk_real *mean, mk_real *rstd) {
    return MK_LAUNCH_ROWS(e, layernorm_kernel, rows, n, rows, n, x, w, b, eps, y, mean, rstd);
}

/* ---- gradients ---------------------------------------------------------------------------------- */

template <class T> struct norm_job {
    int64_t rows, n;
    const T *x;
    const float *w, *mean, *rstd, *dy; /* mean NULL: RMSNorm */
    float *dx;
};

/* g = w dy of columns i .. i + EIGHT - 1 of a row */
template <class T>
static __device__ __forceinline__ void slopes(const norm_job<T> &j, const float *dy, int64_t i, bool wide, float g[EIGHT]) {
    float by[EIGHT];
    load_some(dy + i, wide, j.n - i, g);
    if (!j.w) return;
    load_some(j.w + i, wide, j.n - i, by);
    UNROLL
    for (int k = 0; k < EIGHT; k++) g[k] *= by[k];
}

/* With g = w dy and h = (x - mean) rstd: dx = rstd (g - mean(g) - h mean(g h)); without mean(g) for RMS. */
template <class T> static __global__ void norm_bwd_kernel(norm_job<T> j) {
    FOR_ROWS(r, j.rows) {
        const T *x = j.x + r * j.n;
        const float *dy = j.dy + r * j.n;
        float *dx = j.dx + r * j.n, s = j.rstd[r], m = j.mean ? j.mean[r] : 0;
        bool wide = lie_wide(x, dy, dx, j.w);
        double sum = 0, product = 0;
        FOR_EIGHT_COLUMNS(i, j.n) {
            float v[EIGHT], g[EIGHT];
            load_some(x + i, wide, j.n - i, v);
            slopes(j, dy, i, wide, g);
            UNROLL
            for (int k = 0; k < EIGHT; k++) {
                sum += (double)g[k]; /* g is 0 behind the row's end */
                product += (double)(g[k] * ((v[k] - m) * s));
            }
        }
        float c0 = j.mean ? (float)(block_sum(sum) / (double)j.n) : 0;
        float c1 = (float)(block_sum(product) / (double)j.n);
        FOR_EIGHT_COLUMNS(i, j.n) {
            float v[EIGHT], g[EIGHT];
            load_some(x + i, wide, j.n - i, v);
            slopes(j, dy, i, wide, g);
            UNROLL
            for (int k = 0; k < EIGHT; k++) g[k] = s * (g[k] - c0 - (v[k] - m) * s * c1);
            store_some(dx + i, wide, j.n - i, g);
        }
    }
}

/* part[item][2][n]: sums over WEIGHT_ROWS rows for dw and db */
template <class T> static __global__ void norm_weight_kernel(norm_job<T> j, int64_t items, double *part) {
    FOR_FLAT(at, items * j.n) {
        int64_t item = at / j.n, i = at % j.n, end = (item + 1) * WEIGHT_ROWS;
        double w = 0, b = 0;
        for (int64_t r = item * WEIGHT_ROWS; r < end && r < j.rows; r++) {
            float d = j.dy[r * j.n + i], m = j.mean ? j.mean[r] : 0;
            w += (double)(d * ((widen(j.x[r * j.n + i]) - m) * j.rstd[r]));
            b += (double)d;
        }
        part[(item * 2) * j.n + i] = w;
        part[(item * 2 + 1) * j.n + i] = b;
    }
}

static __global__ void norm_weight_sum_kernel(int64_t items, int64_t n, const double *part, float *dw, float *db) {
    FOR_FLAT(i, n) {
        double w = 0, b = 0;
        for (int64_t item = 0; item < items; item++) {
            w += part[(item * 2) * n + i];
            b += part[(item * 2 + 1) * n + i];
        }
        if (dw) dw[i] += (float)w;
        if (db) db[i] += (float)b;
    }
}

template <class T> static int norm_bwd(mk_exec *e, const norm_job<T> &j, float *dw, float *db) {
    int64_t items = ceil_div(j.rows, WEIGHT_ROWS);
    if (j.rows <= 0 || j.n <= 0) return MK_OK;
    MK_TRY(MK_LAUNCH_ROWS(e, norm_bwd_kernel<T>, j.rows, j.n, j));
    if (!dw && !db) return MK_OK;
    double *part = static_cast<double *>(mk_cuda_scratch(e, (size_t)(items * 2 * j.n) * sizeof(double)));
    if (!part) return MK_NOMEM;
    MK_TRY(MK_LAUNCH_FLAT(e, norm_weight_kernel<T>, items * j.n, j, items, part));
    return MK_LAUNCH_FLAT(e, norm_weight_sum_kernel, j.n, items, j.n, part, dw, db);
}

template <class T>
static int rmsnorm_bwd(mk_exec *e, int64_t rows, int64_t n, const void *x, const float *w, const float *rstd, const float *dy,
                       float *dx, float *dw) {
    return norm_bwd(e, norm_job<T>{rows, n, static_cast<const T *>(x), w, nullptr, rstd, dy, dx}, dw, nullptr);
}

int mk_cuda_rmsnorm_bwd(mk_exec *e, mk_dtype type, int64_t rows, int64_t n, const void *x, const mk_real *w,
                        const mk_real *rstd, const mk_real *dy, mk_real *dx, mk_real *dw) {
    return MK_TYPED(rmsnorm_bwd, e, rows, n, x, w, rstd, dy, dx, dw);
}

int mk_cuda_layernorm_bwd(mk_exec *e, int64_t rows, int64_t n, const mk_real *x, const mk_real *w, const mk_real *mean,
                          const mk_real *rstd, const mk_real *dy, mk_real *dx, mk_real *dw, mk_real *db) {
    return norm_bwd(e, norm_job<float>{rows, n, x, w, mean, rstd, dy, dx}, dw, db);
}
