/* transformer.cu - rotary embedding and SwiGLU. */
#include "common.cuh"
#include "formats.cuh"
#include "table.cuh"
#include "wide.cuh"

/* ---- rotary embedding --------------------------------------------------------------------------- */

#define PAIRS 128 /* pairs of a head whose cosines and sines wait in shared memory */

/* A block for a token, whose heads all turn by the same angles: cosine and sine of pos[t] freq[i] times factor, made in double and
** rounded once. y may be x. */
template <class E>
static __global__ void rope_kernel(int64_t T, int H, int half, const int32_t *pos, const double *freq, double factor, float sign,
                                   const E *x, int64_t ldx, E *y, int64_t ldy) {
    MK_SHARED(float, cosine, PAIRS);
    MK_SHARED(float, sine, PAIRS);
    for (int64_t t = blockIdx.x; t < T; t += gridDim.x)
        for (int first = 0; first < half; first += PAIRS) {
            int n = half - first < PAIRS ? half - first : PAIRS;
            for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) {
                double angle = (double)pos[t] * freq[first + i];
                cosine[i] = (float)(factor * cos(angle));
                sine[i] = sign * (float)(factor * sin(angle));
            }
            __syncthreads();
            int eights = (n + EIGHT - 1) / EIGHT;
            for (int at = (int)threadIdx.x; at < H * eights; at += (int)blockDim.x) {
                int h = at / eights, i = (at - h * eights) * EIGHT, many = n - i;
                int64_t place = (int64_t)h * 2 * half + first + i;
                const E *from = x + t * ldx + place;
                E *to = y + t * ldy + place;
                bool wide = lie_wide(from, from + half, to, to + half);
                float a[EIGHT], b[EIGHT], ya[EIGHT], yb[EIGHT];
                load_some(from, wide, many, a);
                load_some(from + half, wide, many, b);
                UNROLL
                for (int k = 0; k < EIGHT; k++) {
                    float c = k < many ? cosine[i + k] : 0, s = k < many ? sine[i + k] : 0;
                    ya[k] = a[k] * c - b[k] * s;
                    yb[k] = b[k] * c + a[k] * s;
                }
                store_some(to, wide, many, ya);
                store_some(to + half, wide, many, yb);
            }
            __syncthreads();
        }
}

template <class E>
static int rope(mk_exec *e, int64_t T, int64_t H, int64_t K, const int32_t *pos, const double *freq, double factor, int sign,
                const void *x, int64_t ldx, void *y, int64_t ldy) {
    int64_t half = K / 2;
    if (T <= 0 || H <= 0 || half <= 0) return MK_OK;
    if (H * K > INT32_MAX) return MK_UNSUPPORTED;
    return MK_LAUNCH(e, rope_kernel<E>, mk_grid(T), mk_row_threads(H * half / EIGHT), T, (int)H, (int)half, pos, freq, factor,
                     sign < 0 ? -1.0f : 1.0f, static_cast<const E *>(x), ldx, static_cast<E *>(y), ldy);
}

int mk_cuda_rope(mk_exec *e, mk_dtype type, int64_t T, int64_t H, int64_t K, const int32_t *pos, const double *freq, double factor,
                 int sign, const void *x, int64_t ldx, void *y, int64_t ldy) {
    return MK_TYPED(rope, e, T, H, K, pos, freq, factor, sign, x, ldx, y, ldy);
}

/* ---- SwiGLU ------------------------------------------------------------------------------------- */

template <class T> static __global__ void swiglu_kernel(int64_t n, bool wide, const T *gate, const T *up, T *y) {
    FOR_EIGHTS(i, n) {
        float g[EIGHT], u[EIGHT];
        load_some(gate + i, wide, n - i, g);
        load_some(up + i, wide, n - i, u);
        UNROLL
        for (int k = 0; k < EIGHT; k++) u[k] = g[k] * sigmoid(g[k]) * u[k];
        store_some(y + i, wide, n - i, u);
    }
}

template <class T> static int swiglu(mk_exec *e, int64_t n, const void *gate, const void *up, void *y) {
    return MK_LAUNCH_EIGHTS(e, swiglu_kernel<T>, n, n, lie_wide(gate, up, y), static_cast<const T *>(gate), static_cast<const T *>(up),
                            static_cast<T *>(y));
}

int mk_cuda_swiglu(mk_exec *e, mk_dtype type, int64_t n, const void *gate, const void *up, void *y) {
    return MK_TYPED(swiglu, e, n, gate, up, y);
}

template <class T>
static __global__ void swiglu_bwd_kernel(int64_t n, bool wide, const T *gate, const T *up, const float *dy, float *dgate, float *dup) {
    FOR_EIGHTS(i, n) {
        float gates[EIGHT], ups[EIGHT], d[EIGHT], to_gate[EIGHT], to_up[EIGHT];
        load_some(gate + i, wide, n - i, gates);
        load_some(up + i, wide, n - i, ups);
        load_some(dy + i, wide, n - i, d);
        UNROLL
        for (int k = 0; k < EIGHT; k++) {
            float g = gates[k], s = sigmoid(g);
            to_up[k] = d[k] * (g * s);
            to_gate[k] = d[k] * ups[k] * (s * fma_(g, 1 - s, 1));
        }
        store_some(dup + i, wide, n - i, to_up);
        store_some(dgate + i, wide, n - i, to_gate);
    }
}

template <class T>
static int swiglu_bwd(mk_exec *e, int64_t n, const void *gate, const void *up, const float *dy, float *dgate, float *dup) {
    return MK_LAUNCH_EIGHTS(e, swiglu_bwd_kernel<T>, n, n, lie_wide(gate, up, dy, dgate, dup), static_cast<const T *>(gate),
                            static_cast<const T *>(up), dy, dgate, dup);
}

int mk_cuda_swiglu_bwd(mk_exec *e, mk_dtype type, int64_t n, const void *gate, const void *up, const mk_real *dy,
                       mk_real *dgate, mk_real *dup) {
    return MK_TYPED(swiglu_bwd, e, n, gate, up, dy, dgate, dup);
}
