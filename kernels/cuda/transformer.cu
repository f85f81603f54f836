/* transformer.cu - rotary embedding and SwiGLU. */
#include "common.cuh"
#include "formats.cuh"
#include "table.cuh"

/* ---- rotary embedding --------------------------------------------------------------------------- */

/* table[t][2][half]: cosine and sine of pos[t] freq[i] times factor, made in double and rounded once */
static __global__ void rope_table_kernel(int64_t T, int64_t half, const int32_t *pos, const double *freq, double factor,
                                         float sign, float *table) {
    FOR_FLAT(at, T * half) {
        int64_t t = at / half, i = at % half;
        double angle = (double)pos[t] * freq[i];
        table[t * 2 * half + i] = (float)(factor * cos(angle));
        table[t * 2 * half + half + i] = sign * (float)(factor * sin(angle));
    }
}

/* one thread for a pair: y may be x */
template <class E>
static __global__ void rope_kernel(int64_t T, int64_t H, int64_t half, const float *table, const E *x, int64_t ldx, E *y,
                                   int64_t ldy) {
    FOR_FLAT(at, T * H * half) {
        int64_t i = at % half, h = at / half % H, t = at / half / H;
        const E *from = x + t * ldx + h * 2 * half;
        E *to = y + t * ldy + h * 2 * half;
        float c = table[t * 2 * half + i], s = table[t * 2 * half + half + i];
        float a = widen(from[i]), b = widen(from[half + i]);
        put(to + i, a * c - b * s);
        put(to + half + i, b * c + a * s);
    }
}

template <class E>
static int rope(mk_exec *e, int64_t T, int64_t H, int64_t K, const int32_t *pos, const double *freq, double factor, int sign,
                const void *x, int64_t ldx, void *y, int64_t ldy) {
    int64_t half = K / 2;
    if (T <= 0 || H <= 0 || half <= 0) return MK_OK;
    float *table = static_cast<float *>(mk_cuda_scratch(e, (size_t)(T * 2 * half) * sizeof(float)));
    if (!table) return MK_NOMEM;
    MK_TRY(MK_LAUNCH_FLAT(e, rope_table_kernel, T * half, T, half, pos, freq, factor, sign < 0 ? -1.0f : 1.0f, table));
    return MK_LAUNCH_FLAT(e, rope_kernel<E>, T * H * half, T, H, half, table, static_cast<const E *>(x), ldx, static_cast<E *>(y),
                          ldy);
}

int mk_cuda_rope(mk_exec *e, mk_dtype type, int64_t T, int64_t H, int64_t K, const int32_t *pos, const double *freq, double factor,
                 int sign, const void *x, int64_t ldx, void *y, int64_t ldy) {
    return MK_TYPED(rope, e, T, H, K, pos, freq, factor, sign, x, ldx, y, ldy);
}

/* ---- SwiGLU ------------------------------------------------------------------------------------- */

template <class T> static __global__ void swiglu_kernel(int64_t n, const T *gate, const T *up, T *y) {
    FOR_FLAT(i, n) {
        float g = widen(gate[i]);
        put(y + i, g * sigmoid(g) * widen(up[i]));
    }
}

template <class T> static int swiglu(mk_exec *e, int64_t n, const void *gate, const void *up, void *y) {
    return MK_LAUNCH_FLAT(e, swiglu_kernel<T>, n, n, static_cast<const T *>(gate), static_cast<const T *>(up),
                          static_cast<T *>(y));
}

int mk_cuda_swiglu(mk_exec *e, mk_dtype type, int64_t n, const void *gate, const void *up, void *y) {
    return MK_TYPED(swiglu, e, n, gate, up, y);
}

template <class T>
static __global__ void swiglu_bwd_kernel(int64_t n, const T *gate, const T *up, const float *dy, float *dgate, float *dup) {
    FOR_FLAT(i, n) {
        float g = widen(gate[i]), d = dy[i], s = sigmoid(g);
        dup[i] = d * (g * s);
        dgate[i] = d * widen(up[i]) * (s * fma_(g, 1 - s, 1));
    }
}

template <class T>
static int swiglu_bwd(mk_exec *e, int64_t n, const void *gate, const void *up, const float *dy, float *dgate, float *dup) {
    return MK_LAUNCH_FLAT(e, swiglu_bwd_kernel<T>, n, n, static_cast<const T *>(gate), static_cast<const T *>(up), dy, dgate,
                          dup);
}

int mk_cuda_swiglu_bwd(mk_exec *e, mk_dtype type, int64_t n, const void *gate, const void *up, const mk_real *dy,
                       mk_real *dgate, mk_real *dup) {
    return MK_TYPED(swiglu_bwd, e, n, gate, up, dy, dgate, dup);
}
