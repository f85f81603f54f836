/* w8a8.cuh - products with weights of the format w8a8 on a device: rows of A become codes, and sums of products of codes are integers,
** whose order changes nothing. */
#ifndef MK_W8A8_CUH
#define MK_W8A8_CUH

#include "common.cuh"
#include "formats.cuh"
#include "quantized.h"

/* code[rows, columns] and absmax[rows] of the rows of a */
template <class In>
static __global__ void round_codes_kernel(int64_t rows, int64_t columns, const In *a, int64_t lda, int8_t *code, float *absmax) {
    FOR_ROWS(r, rows) {
        const In *x = a + r * lda;
        float most = 0;
        FOR_COLUMNS(i, columns) {
            float v = widen(x[i]);
            most = op_max::join(most, fabsf(v) + (v - v)); /* NaN where v is not finite */
        }
        most = block_max(most);
        if (most < MK_W8A8_LEAST) most = 0;
        float by = most > 0 ? 127.0f / most : 0;
        FOR_COLUMNS(i, columns) code[r * columns + i] = most > 0 ? mk_w8a8_code(widen(x[i]), by) : (int8_t)0;
        if (threadIdx.x == 0) absmax[r] = most;
    }
}

#define DOT_TILE 16 /* rows and columns of C of a block, one element for each thread */
#define DOT_DEPTH 64

template <class Out> struct dots {
    int64_t m, n, k, ldc;
    float alpha, beta;
    const int8_t *a, *w;
    const float *absmax_a, *absmax_w;
    Out *c;
};

template <class Out> static __global__ void __launch_bounds__(DOT_TILE *DOT_TILE) dots_kernel(dots<Out> g) {
    MK_SHARED(int8_t, as, DOT_TILE *(DOT_DEPTH + 4));
    MK_SHARED(int8_t, ws, DOT_TILE *(DOT_DEPTH + 4));
    int64_t tiles_n = (g.n + DOT_TILE - 1) / DOT_TILE, i0 = blockIdx.x / tiles_n * DOT_TILE, j0 = blockIdx.x % tiles_n * DOT_TILE;
    int tid = (int)threadIdx.x, tx = tid % DOT_TILE, ty = tid / DOT_TILE;
    int32_t sum = 0;
    for (int64_t k0 = 0; k0 < g.k; k0 += DOT_DEPTH) {
        for (int t = tid; t < DOT_TILE * DOT_DEPTH; t += DOT_TILE * DOT_TILE) {
            int p = t % DOT_DEPTH, i = t / DOT_DEPTH;
            bool in = k0 + p < g.k;
            as[i * (DOT_DEPTH + 4) + p] = in && i0 + i < g.m ? g.a[(i0 + i) * g.k + k0 + p] : (int8_t)0;
            ws[i * (DOT_DEPTH + 4) + p] = in && j0 + i < g.n ? g.w[(j0 + i) * g.k + k0 + p] : (int8_t)0;
        }
        __syncthreads();
        for (int p = 0; p < DOT_DEPTH; p++) sum += as[ty * (DOT_DEPTH + 4) + p] * ws[tx * (DOT_DEPTH + 4) + p];
        __syncthreads();
    }
    int64_t row = i0 + ty, col = j0 + tx;
    if (row >= g.m || col >= g.n) return;
    Out *c = g.c + row * g.ldc + col;
    float v = g.alpha * mk_w8a8_value(sum, g.absmax_a[row], g.absmax_w[col]);
    put(c, g.beta == 0 ? v : v + g.beta * widen(*c));
}

template <class In, class Out>
static int gemm_w8a8(mk_exec *e, int64_t m, double alpha, const In *a, int64_t lda, const mk_weight *w, double beta, Out *c, int64_t ldc) {
    int64_t n = w->rows, k = w->columns;
    if (k > MK_W8A8_COLUMNS) return MK_UNSUPPORTED;
    if (m <= 0 || n <= 0) return MK_OK;
    float *absmax = static_cast<float *>(mk_cuda_scratch(e, (size_t)m * (sizeof(float) + (size_t)k)));
    if (!absmax) return MK_NOMEM;
    int8_t *code = reinterpret_cast<int8_t *>(absmax + m);
    auto *round_codes = round_codes_kernel<In>;
    auto *dot_codes = dots_kernel<Out>;
    MK_TRY(MK_LAUNCH_ROWS(e, round_codes, m, k, m, k, a, lda, code, absmax));
    const dots<Out> g = {m, n, k, ldc, (float)alpha, (float)beta, code, static_cast<const int8_t *>(w->part[0]), absmax,
                         static_cast<const float *>(w->part[1]), c};
    return MK_LAUNCH(e, dot_codes, dim3((unsigned)(ceil_div(m, DOT_TILE) * ceil_div(n, DOT_TILE))), DOT_TILE * DOT_TILE, g);
}

#endif
