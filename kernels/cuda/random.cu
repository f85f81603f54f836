/* random.cu - uniform and normal numbers, and dropout: the Philox streams of kernels/cpu/random.c. */
#include "common.cuh"
#include "formats.cuh"
#include "table.cuh"

#define TWO_PI 6.28318530717958647693

struct stream {
    int64_t n;
    uint64_t key, id;
};

static __device__ __forceinline__ mk_philox4 words(const stream &s, int64_t group) {
    return mk_philox((uint32_t)group, (uint32_t)(group >> 32), (uint32_t)s.id, (uint32_t)(s.id >> 32), s.key);
}

/* one thread for the four elements of a counter */
static __global__ void uniform_kernel(int64_t groups, stream s, double lo, double hi, float *x) {
    FOR_FLAT(g, groups) {
        mk_philox4 w = words(s, g);
        for (int64_t c = 0; c < 4 && g * 4 + c < s.n; c++) {
            float v = (float)(lo + (hi - lo) * mk_unit(w.w[c]));
            if (v >= (float)hi && (float)hi > (float)lo) v = nextafterf((float)hi, (float)lo); /* rounding may not reach hi */
            x[g * 4 + c] = v;
        }
    }
}

int mk_cuda_rand_uniform(mk_exec *e, int64_t n, uint64_t key, uint64_t id, double lo, double hi, mk_real *x) {
    stream s = {n, key, id};
    return MK_LAUNCH_FLAT(e, uniform_kernel, ceil_div(n, 4), ceil_div(n, 4), s, lo, hi, x);
}

static __global__ void normal_kernel(int64_t groups, stream s, double mean, double std, float *x) {
    FOR_FLAT(g, groups) {
        mk_philox4 w = words(s, g);
        double z[4];
        for (int c = 0; c < 4; c += 2) {
            double u = mk_unit(w.w[c]) + 1.0 / 16777216.0; /* in (0, 1] */
            double r = sqrt(-2 * log(u)), angle = TWO_PI * mk_unit(w.w[c + 1]);
            z[c] = r * cos(angle);
            z[c + 1] = r * sin(angle);
        }
        for (int64_t c = 0; c < 4 && g * 4 + c < s.n; c++) x[g * 4 + c] = (float)(mean + std * z[c]);
    }
}

int mk_cuda_rand_normal(mk_exec *e, int64_t n, uint64_t key, uint64_t id, double mean, double std, mk_real *x) {
    stream s = {n, key, id};
    return MK_LAUNCH_FLAT(e, normal_kernel, ceil_div(n, 4), ceil_div(n, 4), s, mean, std, x);
}

template <class T>
static __global__ void dropout_kernel(int64_t groups, stream s, double p, float scale, const T *x, T *y) {
    FOR_FLAT(g, groups) {
        mk_philox4 w = words(s, g);
        for (int64_t c = 0; c < 4 && g * 4 + c < s.n; c++)
            put(y + g * 4 + c, mk_unit(w.w[c]) < p ? 0 : widen(x[g * 4 + c]) * scale);
    }
}

template <class T> static int dropout(mk_exec *e, int64_t n, double p, uint64_t key, uint64_t id, const void *x, void *y) {
    stream s = {n, key, id};
    float scale = p < 1 ? (float)(1 / (1 - p)) : 0;
    return MK_LAUNCH_FLAT(e, dropout_kernel<T>, ceil_div(n, 4), ceil_div(n, 4), s, p, scale, static_cast<const T *>(x),
                          static_cast<T *>(y));
}

int mk_cuda_dropout(mk_exec *e, mk_dtype type, int64_t n, double p, uint64_t key, uint64_t id, const void *x, void *y) {
    return MK_TYPED(dropout, e, n, p, key, id, x, y);
}
