/* elementwise.cu - filling, copying, converting, and functions of one or two arrays. */
#include "common.cuh"
#include "formats.cuh"
#include "table.cuh"
#include "wide.cuh"

/* ---- fill, copy, cast --------------------------------------------------------------------------- */

struct bytes8 {
    unsigned char b[8];
};

template <class T> static __global__ void fill_kernel(int64_t n, T *x, T v) {
    FOR_FLAT(i, n) x[i] = v;
}

template <class T> static int fill_as(mk_exec *e, int64_t n, void *x, const bytes8 &item) {
    T v;
    memcpy(&v, &item, sizeof v);
    return MK_LAUNCH_FLAT(e, fill_kernel<T>, n, n, static_cast<T *>(x), v);
}

int mk_cuda_fill(mk_exec *e, mk_dtype dtype, int64_t n, void *x, double v) {
    bytes8 item = {};
    if (n <= 0) return MK_OK;
    if (is_integer(dtype)) store_int(dtype, to_integer(v, dtype), &item, 0);
    else store_real(dtype, (mk_real)v, &item, 0);
    switch (dtype_bytes(dtype)) {
    case 1: return fill_as<uint8_t>(e, n, x, item);
    case 2: return fill_as<uint16_t>(e, n, x, item);
    case 4: return fill_as<uint32_t>(e, n, x, item);
    default: return fill_as<uint64_t>(e, n, x, item);
    }
}

/* Axes of a strided walk: those of length 1 left out, those that continue each other joined. */
struct walk {
    int ndim;
    int64_t shape[MK_MAX_DIMS], a[MK_MAX_DIMS], b[MK_MAX_DIMS];
};

/* false when there is nothing to walk over */
static bool walk_make(walk *w, int ndim, const int64_t *shape, const int64_t *a, const int64_t *b) {
    w->ndim = 0;
    for (int d = 0; d < ndim; d++) {
        int p = w->ndim - 1;
        if (shape[d] == 0) return false;
        if (shape[d] == 1) continue;
        if (p >= 0 && w->a[p] == a[d] * shape[d] && w->b[p] == b[d] * shape[d]) {
            w->shape[p] *= shape[d];
            w->a[p] = a[d];
            w->b[p] = b[d];
            continue;
        }
        w->shape[w->ndim] = shape[d];
        w->a[w->ndim] = a[d];
        w->b[w->ndim++] = b[d];
    }
    return true;
}

static int64_t walk_size(const walk &w) {
    int64_t n = 1;
    for (int d = 0; d < w.ndim; d++) n *= w.shape[d];
    return n;
}

/* offsets in a and b of element i in order */
static __device__ __forceinline__ void walk_at(const walk &w, int64_t i, int64_t *a, int64_t *b) {
    *a = *b = 0;
    for (int d = w.ndim - 1; d > 0; d--) {
        int64_t at = i % w.shape[d];
        i /= w.shape[d];
        *a += at * w.a[d];
        *b += at * w.b[d];
    }
    if (w.ndim > 0) {
        *a += i * w.a[0];
        *b += i * w.b[0];
    }
}

template <class T> static __global__ void copy_kernel(int64_t n, walk w, const T *src, T *dst) {
    FOR_FLAT(i, n) {
        int64_t from, to;
        walk_at(w, i, &from, &to);
        dst[to] = src[from];
    }
}

template <class T> static int copy_as(mk_exec *e, const walk &w, const void *src, void *dst) {
    int64_t n = walk_size(w);
    return MK_LAUNCH_FLAT(e, copy_kernel<T>, n, n, w, static_cast<const T *>(src), static_cast<T *>(dst));
}

int mk_cuda_copy(mk_exec *e, mk_dtype dtype, int ndim, const int64_t *shape, const void *src,
                 const int64_t *src_stride, void *dst, const int64_t *dst_stride) {
    walk w;
    if (!walk_make(&w, ndim, shape, src_stride, dst_stride)) return MK_OK;
    size_t size = dtype_bytes(dtype);
    if (w.ndim == 0 || (w.ndim == 1 && w.a[0] == 1 && w.b[0] == 1))
        return mk_cuda_copy_bytes(e, dst, src, (size_t)walk_size(w) * size);
    switch (size) {
    case 1: return copy_as<uint8_t>(e, w, src, dst);
    case 2: return copy_as<uint16_t>(e, w, src, dst);
    case 4: return copy_as<uint32_t>(e, w, src, dst);
    default: return copy_as<uint64_t>(e, w, src, dst);
    }
}

static __global__ void cast_kernel(int64_t n, mk_dtype from, const void *src, mk_dtype to, void *dst) {
    FOR_FLAT(i, n) {
        if (is_integer(from) && is_integer(to)) store_int(to, clamp_int(load_int(from, src, i), to), dst, i);
        else if (is_integer(from)) store_real(to, (mk_real)load_int(from, src, i), dst, i);
        else if (is_integer(to)) store_int(to, to_integer((double)load_real(from, src, i), to), dst, i);
        else store_real(to, load_real(from, src, i), dst, i);
    }
}

/* between f32 and bf16: what each step of training in bf16 does */
template <class From, class To> static __global__ void round_kernel(int64_t n, bool wide, const From *src, To *dst) {
    FOR_EIGHTS(i, n) {
        float v[EIGHT];
        load_some(src + i, wide, n - i, v);
        store_some(dst + i, wide, n - i, v);
    }
}

template <class From, class To> static int round(mk_exec *e, int64_t n, const void *src, void *dst) {
    auto *round_one = round_kernel<From, To>;
    return MK_LAUNCH_EIGHTS(e, round_one, n, n, lie_wide(src, dst), static_cast<const From *>(src), static_cast<To *>(dst));
}

int mk_cuda_cast(mk_exec *e, int64_t n, mk_dtype from, const void *src, mk_dtype to, void *dst) {
    if (n <= 0) return MK_OK;
    if (from == to) return mk_cuda_copy_bytes(e, dst, src, (size_t)n * dtype_bytes(from));
    if (from == MK_F32 && to == MK_BF16) return round<float, mk_bf16>(e, n, src, dst);
    if (from == MK_BF16 && to == MK_F32) return round<mk_bf16, float>(e, n, src, dst);
    return MK_LAUNCH_FLAT(e, cast_kernel, n, n, from, src, to, dst);
}

/* ---- functions of one array --------------------------------------------------------------------- */

#define SQRT_2_OVER_PI 0.79788456080286535588f
#define SQRT_HALF 0.70710678118654752440f
#define INV_SQRT_2PI 0.39894228040143267794f
#define GELU_CUBE 0.044715f

static __device__ __forceinline__ float softplus(float x) { return log1pf(expf(-fabsf(x))) + (x > 0 ? x : 0); }
static __device__ __forceinline__ float gelu_tanh_arg(float v) {
    return SQRT_2_OVER_PI * fma_(GELU_CUBE * v, v * v, v);
}

static __device__ float unary_one(mk_unary op, float v, float p, float q) {
    switch (op) {
    case MK_NEG: return -v;
    case MK_ABS: return fabsf(v);
    case MK_SQUARE: return v * v;
    case MK_SQRT: return sqrtf(v);
    case MK_RSQRT: return 1 / sqrtf(v);
    case MK_RECIPROCAL: return 1 / v;
    case MK_EXP: return expf(v);
    case MK_LOG: return logf(v);
    case MK_TANH: return tanhf(v);
    case MK_SIGMOID: return sigmoid(v);
    case MK_LOGSIGMOID: return -softplus(-v);
    case MK_SOFTPLUS: return softplus(v);
    case MK_RELU: return v < 0 ? 0 : v; /* NaN stays NaN */
    case MK_SILU: return v * sigmoid(v);
    case MK_GELU: return v * 0.5f * (1 + erff(v * SQRT_HALF));
    case MK_GELU_TANH: return v * 0.5f * (1 + tanhf(gelu_tanh_arg(v)));
    case MK_SIN: return sinf(v);
    case MK_COS: return cosf(v);
    case MK_FLOOR: return floorf(v);
    case MK_SIGN: return v > 0 ? 1 : v < 0 ? -1 : v; /* keeps 0 and NaN */
    case MK_ADD_SCALAR: return v + p;
    case MK_MUL_SCALAR: return v * p;
    case MK_POW_SCALAR: return powf(v, p);
    case MK_CLAMP: v = v < p ? p : v; return v > q ? q : v;
    }
    return v;
}

/* slope at x = v, where the function is w */
static __device__ float unary_slope(mk_unary op, float v, float w, float p, float q) {
    switch (op) {
    case MK_NEG: return -1;
    case MK_ABS: return (float)((v > 0) - (v < 0));
    case MK_SQUARE: return v + v;
    case MK_SQRT: return 0.5f / w;
    case MK_RSQRT: return -0.5f * w * w * w;
    case MK_RECIPROCAL: return -(w * w);
    case MK_EXP: return w;
    case MK_LOG: return 1 / v;
    case MK_TANH: return 1 - w * w;
    case MK_SIGMOID: return w * (1 - w);
    case MK_LOGSIGMOID: return sigmoid(-v);
    case MK_SOFTPLUS: return sigmoid(v);
    case MK_RELU: return v > 0 ? 1 : 0;
    case MK_SILU: {
        float s = sigmoid(v);
        return s * fma_(v, 1 - s, 1);
    }
    case MK_GELU: return 0.5f * (1 + erff(v * SQRT_HALF)) + v * INV_SQRT_2PI * expf(-0.5f * v * v);
    case MK_GELU_TANH: {
        float t = tanhf(gelu_tanh_arg(v)), inner = SQRT_2_OVER_PI * fma_(3 * GELU_CUBE * v, v, 1);
        return 0.5f * (1 + t) + 0.5f * v * (1 - t * t) * inner;
    }
    case MK_SIN: return cosf(v);
    case MK_COS: return -sinf(v);
    case MK_FLOOR:
    case MK_SIGN: return 0;
    case MK_ADD_SCALAR: return 1;
    case MK_MUL_SCALAR: return p;
    case MK_POW_SCALAR: return p == 0 ? 0 : p * powf(v, p - 1);
    case MK_CLAMP: return v >= p && v <= q ? 1 : 0;
    }
    return 0;
}

static __global__ void unary_kernel(mk_unary op, int64_t n, const float *x, float *y, float p, float q) {
    FOR_FLAT(i, n) y[i] = unary_one(op, x[i], p, q);
}

static __global__ void unary_bwd_kernel(mk_unary op, int64_t n, const float *x, const float *y, const float *dy,
                                        float *dx, float p, float q) {
    FOR_FLAT(i, n) dx[i] = dy[i] * unary_slope(op, x[i], y[i], p, q);
}

int mk_cuda_unary(mk_exec *e, mk_unary op, int64_t n, const mk_real *x, mk_real *y, double p, double q) {
    return MK_LAUNCH_FLAT(e, unary_kernel, n, op, n, x, y, (float)p, (float)q);
}

int mk_cuda_unary_bwd(mk_exec *e, mk_unary op, int64_t n, const mk_real *x, const mk_real *y, const mk_real *dy,
                      mk_real *dx, double p, double q) {
    return MK_LAUNCH_FLAT(e, unary_bwd_kernel, n, op, n, x, y, dy, dx, (float)p, (float)q);
}

/* ---- functions of two arrays -------------------------------------------------------------------- */

static __device__ float binary_one(mk_binary op, float a, float b) {
    switch (op) {
    case MK_ADD: return a + b;
    case MK_SUB: return a - b;
    case MK_MUL: return a * b;
    case MK_DIV: return a / b;
    case MK_MAXIMUM: return a != a || a > b ? a : b; /* either NaN gives NaN */
    case MK_MINIMUM: return a != a || a < b ? a : b;
    case MK_POW: return powf(a, b);
    case MK_EQ: return a == b;
    case MK_NE: return a != b;
    case MK_LT: return a < b;
    case MK_LE: return a <= b;
    case MK_GT: return a > b;
    case MK_GE: return a >= b;
    }
    return a;
}

template <class T>
static __global__ void binary_kernel(mk_binary op, int64_t n, walk w, const T *a, const T *b, T *y) {
    FOR_FLAT(i, n) {
        int64_t at_a, at_b;
        walk_at(w, i, &at_a, &at_b);
        put(y + i, binary_one(op, widen(a[at_a]), widen(b[at_b])));
    }
}

/* of two arrays that lie as y does */
template <class T> static __global__ void binary_alike_kernel(mk_binary op, int64_t n, bool wide, const T *a, const T *b, T *y) {
    FOR_EIGHTS(i, n) {
        float va[EIGHT], vb[EIGHT];
        load_some(a + i, wide, n - i, va);
        load_some(b + i, wide, n - i, vb);
        UNROLL
        for (int k = 0; k < EIGHT; k++) va[k] = binary_one(op, va[k], vb[k]);
        store_some(y + i, wide, n - i, va);
    }
}

template <class T> static int binary(mk_exec *e, mk_binary op, const walk &w, const void *a, const void *b, void *y) {
    int64_t n = walk_size(w);
    if (w.ndim == 0 || (w.ndim == 1 && w.a[0] == 1 && w.b[0] == 1))
        return MK_LAUNCH_EIGHTS(e, binary_alike_kernel<T>, n, op, n, lie_wide(a, b, y), static_cast<const T *>(a),
                                static_cast<const T *>(b), static_cast<T *>(y));
    return MK_LAUNCH_FLAT(e, binary_kernel<T>, n, op, n, w, static_cast<const T *>(a), static_cast<const T *>(b),
                          static_cast<T *>(y));
}

int mk_cuda_binary(mk_exec *e, mk_dtype type, mk_binary op, int ndim, const int64_t *shape, const void *a,
                   const int64_t *a_stride, const void *b, const int64_t *b_stride, void *y) {
    walk w;
    if (!walk_make(&w, ndim, shape, a_stride, b_stride)) return MK_OK;
    return MK_TYPED(binary, e, op, w, a, b, y);
}

static __global__ void where_kernel(int64_t n, const float *c, const float *a, const float *b, float *y) {
    FOR_FLAT(i, n) y[i] = c[i] != 0 ? a[i] : b[i];
}

int mk_cuda_where(mk_exec *e, int64_t n, const mk_real *c, const mk_real *a, const mk_real *b, mk_real *y) {
    return MK_LAUNCH_FLAT(e, where_kernel, n, n, c, a, b, y);
}

static __global__ void axpy_kernel(int64_t n, bool wide, float alpha, const float *x, float *y) {
    FOR_EIGHTS(i, n) {
        float vx[EIGHT], vy[EIGHT];
        load_some(x + i, wide, n - i, vx);
        load_some(y + i, wide, n - i, vy);
        UNROLL
        for (int k = 0; k < EIGHT; k++) vy[k] = fma_(alpha, vx[k], vy[k]);
        store_some(y + i, wide, n - i, vy);
    }
}

int mk_cuda_axpy(mk_exec *e, int64_t n, double alpha, const mk_real *x, mk_real *y) {
    return MK_LAUNCH_EIGHTS(e, axpy_kernel, n, n, lie_wide(x, y), (float)alpha, x, y);
}
