/* gemm.cu - matrix products whose rows do not depend on each other's number: of f32, and of bf16 with f32 sums.
**
** An element of C is the sum over blocks of KC of k, ascending, of one chain of multiply-adds per block:
** the cpu's contract. Which tile computes it, and whether its blocks of k are computed one after the
** other or side by side (split), changes nothing, so few rows and many rows give the same bits.
*/
#include "common.cuh"
#include "cublaslt.cuh"
#include "formats.cuh"
#include "int8.cuh"
#include "nf4.cuh"
#include "table.cuh"
#include "w8a8.cuh"

#define KC 256       /* elements of k in one chain */
#define BK 16        /* elements of k in shared memory at a time */
#define BN 64        /* columns of a tile */
#define THREADS 256  /* 16 x 16 threads, each with BM / 16 rows and 4 columns */

/* The numbers of a second operand that lie as they are; those of quantised formats (weight.cuh) are made of codes. */
template <class In> struct plain {
    const In *p;
    __device__ __forceinline__ float at(int64_t row, int64_t column, int64_t ld) const { return widen(p[row * ld + column]); }
    __host__ __device__ __forceinline__ void move(int64_t step) { p += step; }
};

template <class In, class Out, class B = plain<In>> struct product {
    int ta, tb;
    int64_t m, n, k, lda, ldb, ldc, step_a, step_b, step_c;
    float alpha, beta;
    const In *a;
    B b;
    Out *c;
    float *part; /* part[(product * blocks + block) m n]: sums of blocks of k, when split */
};

/* an element of C from the sum over k */
template <class In, class Out, class B>
static __device__ __forceinline__ void finish(const product<In, Out, B> &g, Out *c, float total) {
    float v = g.alpha * total;
    put(c, g.beta == 0 ? v : fma_(g.beta, widen(*c), v));
}

/* blockIdx.x: tile, over columns first; .y: block of k when split; .z: product */
template <int BM, bool SPLIT, class In, class Out, class B>
static __global__ void __launch_bounds__(THREADS) gemm_kernel(product<In, Out, B> g) {
    const int TM = BM / 16;
    MK_SHARED(float, as, BK *(BM + 4));
    MK_SHARED(float, bs, BK *(BN + 4));
    int64_t tiles_n = (g.n + BN - 1) / BN, i0 = blockIdx.x / tiles_n * BM, j0 = blockIdx.x % tiles_n * BN;
    const In *a = g.a + blockIdx.z * g.step_a;
    B b = g.b;
    b.move(blockIdx.z * g.step_b);
    int tid = (int)threadIdx.x, tx = tid % 16, ty = tid / 16;
    float total[TM][4], acc[TM][4];
    int64_t k_first = SPLIT ? (int64_t)blockIdx.y * KC : 0;
    int64_t k_last = SPLIT && k_first + KC < g.k ? k_first + KC : g.k;
    for (int i = 0; i < TM; i++)
        for (int j = 0; j < 4; j++) total[i][j] = 0;
    for (int64_t kb = k_first; kb < k_last; kb += KC) {
        int64_t end = kb + KC < k_last ? kb + KC : k_last;
        for (int i = 0; i < TM; i++)
            for (int j = 0; j < 4; j++) acc[i][j] = 0;
        for (int64_t k0 = kb; k0 < end; k0 += BK) {
            /* neighbours read neighbouring addresses, whichever way the matrix lies */
            for (int t = tid; t < BK * BM; t += THREADS) {
                int p = g.ta ? t / BM : t % BK, i = g.ta ? t % BM : t / BK;
                bool in = k0 + p < end && i0 + i < g.m;
                as[p * (BM + 4) + i] =
                    in ? widen(g.ta ? a[(k0 + p) * g.lda + i0 + i] : a[(i0 + i) * g.lda + k0 + p]) : 0;
            }
            for (int t = tid; t < BK * BN; t += THREADS) {
                int p = g.tb ? t % BK : t / BN, j = g.tb ? t / BK : t % BN;
                bool in = k0 + p < end && j0 + j < g.n;
                bs[p * (BN + 4) + j] =
                    !in ? 0 : g.tb ? b.at(j0 + j, k0 + p, g.ldb) : b.at(k0 + p, j0 + j, g.ldb);
            }
            __syncthreads();
            int depth = end - k0 < BK ? (int)(end - k0) : BK;
            for (int p = 0; p < depth; p++) {
                float av[TM], bv[4];
                for (int i = 0; i < TM; i++) av[i] = as[p * (BM + 4) + ty * TM + i];
                for (int j = 0; j < 4; j++) bv[j] = bs[p * (BN + 4) + tx * 4 + j];
                for (int i = 0; i < TM; i++)
                    for (int j = 0; j < 4; j++) acc[i][j] = fma_(av[i], bv[j], acc[i][j]);
            }
            __syncthreads();
        }
        for (int i = 0; i < TM; i++)
            for (int j = 0; j < 4; j++) total[i][j] += acc[i][j];
    }
    for (int i = 0; i < TM; i++) {
        int64_t row = i0 + ty * TM + i;
        if (row >= g.m) continue;
        for (int j = 0; j < 4; j++) {
            int64_t col = j0 + tx * 4 + j;
            if (col >= g.n) continue;
            if (SPLIT) {
                g.part[(((int64_t)blockIdx.z * gridDim.y + blockIdx.y) * g.m + row) * g.n + col] = total[i][j];
            } else {
                finish(g, g.c + blockIdx.z * g.step_c + row * g.ldc + col, total[i][j]);
            }
        }
    }
}

/* C from the sums of its blocks of k, in order */
template <class In, class Out, class B>
static __global__ void gemm_sum_kernel(product<In, Out, B> g, int64_t blocks, int64_t batch) {
    FOR_FLAT(at, batch * g.m * g.n) {
        int64_t col = at % g.n, row = at / g.n % g.m, z = at / g.n / g.m;
        const float *p = g.part + (z * blocks * g.m + row) * g.n + col;
        float total = 0;
        for (int64_t i = 0; i < blocks; i++) total += p[i * g.m * g.n];
        finish(g, g.c + z * g.step_c + row * g.ldc + col, total);
    }
}

template <class In, class Out, class B>
static __global__ void gemm_empty_kernel(product<In, Out, B> g, int64_t batch) { /* k = 0 */
    FOR_FLAT(at, batch * g.m * g.n) finish(g, g.c + at / g.n / g.m * g.step_c + at / g.n % g.m * g.ldc + at % g.n, 0);
}

template <int BM, class In, class Out, class B>
static int gemm_rows(mk_exec *e, const product<In, Out, B> &g, int64_t batch, int64_t blocks, bool split) {
    int64_t tiles = ceil_div(g.m, BM) * ceil_div(g.n, BN);
    if (split) {
        auto *gemm_split = gemm_kernel<BM, true, In, Out, B>;
        return MK_LAUNCH(e, gemm_split, dim3((unsigned)tiles, (unsigned)blocks, (unsigned)batch), THREADS, g);
    }
    auto *gemm_whole = gemm_kernel<BM, false, In, Out, B>;
    return MK_LAUNCH(e, gemm_whole, dim3((unsigned)tiles, 1, (unsigned)batch), THREADS, g);
}

#define SPLIT_BYTES_MAX ((int64_t)256 << 20)
#define BATCH_MAX 65535 /* of one launch */

template <class In, class Out, class B>
static int gemm(mk_exec *e, int ta, int tb, int64_t m, int64_t n, int64_t k, double alpha, const In *a, int64_t lda,
                int64_t step_a, B b, int64_t ldb, int64_t step_b, double beta, Out *c, int64_t ldc, int64_t step_c,
                int64_t batch) {
    auto *gemm_empty = gemm_empty_kernel<In, Out, B>;
    auto *gemm_sum = gemm_sum_kernel<In, Out, B>;
    product<In, Out, B> g = {ta, tb, m, n, k, lda, ldb, ldc, step_a, step_b, step_c, (float)alpha, (float)beta, a, b, c, nullptr};
    if (m <= 0 || n <= 0 || batch <= 0) return MK_OK;
    if (k <= 0) return MK_LAUNCH_FLAT(e, gemm_empty, batch * m * n, g, batch);
    int64_t blocks = ceil_div(k, KC), bm = m <= 16 ? 16 : 64, tiles = ceil_div(m, bm) * ceil_div(n, BN);
    for (int64_t first = 0; first < batch; first += BATCH_MAX) {
        int64_t now = min64(BATCH_MAX, batch - first), bytes = now * blocks * m * n * (int64_t)sizeof(float);
        /* side by side where the tiles alone would leave the device idle */
        bool split = blocks > 1 && blocks <= 65535 && tiles * now < 2 * mk_cuda_multiprocessors(e) && bytes <= SPLIT_BYTES_MAX;
        g.a = a + first * step_a;
        g.b = b;
        g.b.move(first * step_b);
        g.c = c + first * step_c;
        if (split) {
            g.part = static_cast<float *>(mk_cuda_scratch(e, (size_t)bytes));
            if (!g.part) return MK_NOMEM;
        }
        if (bm == 16) MK_TRY(gemm_rows<16>(e, g, now, blocks, split));
        else MK_TRY(gemm_rows<64>(e, g, now, blocks, split));
        if (split) MK_TRY(MK_LAUNCH_FLAT(e, gemm_sum, now * m * n, g, blocks, now));
    }
    return MK_OK;
}

int mk_cuda_gemm(mk_exec *e, int ta, int tb, int64_t m, int64_t n, int64_t k, double alpha, const mk_real *a,
                 int64_t lda, int64_t step_a, const mk_real *b, int64_t ldb, int64_t step_b, double beta, mk_real *c,
                 int64_t ldc, int64_t step_c, int64_t batch) {
    return gemm(e, ta, tb, m, n, k, alpha, a, lda, step_a, plain<float>{b}, ldb, step_b, beta, c, ldc, step_c, batch);
}

/* as gemm on bf16, C being f32 or bf16 */
static int gemm_bf16(mk_exec *e, int ta, int tb, int64_t m, int64_t n, int64_t k, double alpha, const mk_bf16 *a, int64_t lda,
                     const mk_bf16 *b, int64_t ldb, double beta, mk_dtype c_type, void *c, int64_t ldc) {
    int code = mk_cublaslt_gemm(e, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c_type, c, ldc);
    if (code != MK_UNSUPPORTED) return code;
    if (c_type == MK_F32)
        return gemm(e, ta, tb, m, n, k, alpha, a, lda, 0, plain<mk_bf16>{b}, ldb, 0, beta, static_cast<float *>(c), ldc, 0, 1);
    return gemm(e, ta, tb, m, n, k, alpha, a, lda, 0, plain<mk_bf16>{b}, ldb, 0, beta, static_cast<mk_bf16 *>(c), ldc, 0, 1);
}

/* a product with a quantised weight, but for the weight */
struct coded {
    int ta, tw;
    int64_t m, n, k, lda, ldc;
    double alpha, beta;
    mk_dtype a_type, c_type;
    const void *a;
    void *c;
};

/* numbers of a quantised weight beside operands in bf16 */
template <class Q> struct rounded {
    Q q;
    __device__ __forceinline__ float at(int64_t row, int64_t column, int64_t ld) const {
        return mk_from_bf16(mk_to_bf16(q.at(row, column, ld)));
    }
    __host__ __device__ __forceinline__ void move(int64_t) {}
};

template <class Q> static int gemm_coded(mk_exec *e, const coded &g, const Q &q) {
    int64_t ldb = g.tw ? g.k : g.n;
    if (g.a_type == MK_F32 && g.c_type == MK_F32)
        return gemm(e, g.ta, g.tw, g.m, g.n, g.k, g.alpha, static_cast<const float *>(g.a), g.lda, 0, q, ldb, 0, g.beta,
                    static_cast<float *>(g.c), g.ldc, 0, 1);
    if (g.a_type != MK_BF16) return MK_UNSUPPORTED;
    const mk_bf16 *a = static_cast<const mk_bf16 *>(g.a);
    if (g.c_type == MK_F32)
        return gemm(e, g.ta, g.tw, g.m, g.n, g.k, g.alpha, a, g.lda, 0, rounded<Q>{q}, ldb, 0, g.beta, static_cast<float *>(g.c),
                    g.ldc, 0, 1);
    return gemm(e, g.ta, g.tw, g.m, g.n, g.k, g.alpha, a, g.lda, 0, rounded<Q>{q}, ldb, 0, g.beta, static_cast<mk_bf16 *>(g.c),
                g.ldc, 0, 1);
}

/* A W^T for w8a8 */
static int gemm_codes(mk_exec *e, const coded &g, const mk_weight *w) {
    if (g.a_type == MK_F32 && g.c_type == MK_F32)
        return gemm_w8a8(e, g.m, g.alpha, static_cast<const float *>(g.a), g.lda, w, g.beta, static_cast<float *>(g.c), g.ldc);
    if (g.a_type != MK_BF16) return MK_UNSUPPORTED;
    const mk_bf16 *a = static_cast<const mk_bf16 *>(g.a);
    if (g.c_type == MK_F32) return gemm_w8a8(e, g.m, g.alpha, a, g.lda, w, g.beta, static_cast<float *>(g.c), g.ldc);
    return gemm_w8a8(e, g.m, g.alpha, a, g.lda, w, g.beta, static_cast<mk_bf16 *>(g.c), g.ldc);
}

int mk_cuda_gemm_weight(mk_exec *e, int ta, int64_t m, double alpha, mk_dtype a_type, const void *a, int64_t lda, int tw,
                        const mk_weight *w, double beta, mk_dtype c_type, void *c, int64_t ldc) {
    int64_t n = tw ? w->rows : w->columns, k = tw ? w->columns : w->rows;
    if (w->format == MK_FORMAT_F32 && a_type == MK_F32 && c_type == MK_F32)
        return gemm(e, ta, tw, m, n, k, alpha, static_cast<const float *>(a), lda, 0,
                    plain<float>{static_cast<const float *>(w->part[0])}, w->columns, 0, beta, static_cast<float *>(c), ldc, 0, 1);
    if (w->format == MK_FORMAT_BF16 && a_type == MK_BF16)
        return gemm_bf16(e, ta, tw, m, n, k, alpha, static_cast<const mk_bf16 *>(a), lda,
                         static_cast<const mk_bf16 *>(w->part[0]), w->columns, beta, c_type, c, ldc);
    const coded g = {ta, tw, m, n, k, lda, ldc, alpha, beta, a_type, c_type, a, c};
    switch (w->format) {
    case MK_FORMAT_W8A8:
        if (tw && !ta) return gemm_codes(e, g, w);
        return gemm_coded(e, g, int8_numbers(w));
    case MK_FORMAT_INT8: return gemm_coded(e, g, int8_numbers(w));
    case MK_FORMAT_NF4: case MK_FORMAT_FP4: return gemm_coded(e, g, nf4_numbers(w));
    default: return MK_UNSUPPORTED;
    }
}

/* An element of a product over rows that come piece by piece: the chain of the open block in part, those before it in total. */
static __global__ void gemm_continued_kernel(int64_t m, int64_t n, int64_t k, int64_t at, const float *a, const float *b, float alpha,
                                             float *part, float *total, float *c) {
    FOR_FLAT(e, m * n) {
        int64_t i = e / n, j = e % n;
        float acc = at % KC ? part[e] : 0, sum = at / KC ? total[e] : 0;
        for (int64_t p = 0; p < k; p++) {
            acc = fma_(a[p * m + i], b[p * n + j], acc);
            if ((at + p + 1) % KC) continue;
            sum += acc;
            acc = 0;
        }
        part[e] = acc;
        total[e] = sum;
        if (c) c[e] = alpha * ((at + k) % KC ? sum + acc : sum);
    }
}

int mk_cuda_gemm_continued(mk_exec *e, int64_t m, int64_t n, int64_t k, int64_t at, const mk_real *a, const mk_real *b, double alpha,
                           mk_real *part, mk_real *total, mk_real *c) {
    if (m <= 0 || n <= 0) return MK_OK;
    return MK_LAUNCH_FLAT(e, gemm_continued_kernel, m * n, m, n, k, at, a, b, (float)alpha, part, total, c);
}

template <class Q> static __global__ void dequantize_kernel(Q q, int64_t rows, int64_t columns, float *dst) {
    FOR_FLAT(i, rows * columns) dst[i] = q.at(i / columns, i % columns, columns);
}

int mk_cuda_dequantize(mk_exec *e, const mk_weight *w, mk_real *dst) {
    switch (w->format) {
    case MK_FORMAT_INT8: case MK_FORMAT_W8A8:
        return MK_LAUNCH_FLAT(e, dequantize_kernel<int8_numbers>, w->rows * w->columns, int8_numbers(w), w->rows, w->columns, dst);
    case MK_FORMAT_NF4: case MK_FORMAT_FP4:
        return MK_LAUNCH_FLAT(e, dequantize_kernel<nf4_numbers>, w->rows * w->columns, nf4_numbers(w), w->rows, w->columns, dst);
    default: return MK_UNSUPPORTED;
    }
}

int mk_cuda_quantize(mk_exec *e, const mk_weight *w, const mk_real *src, void *const *part) {
    switch (w->format) {
    case MK_FORMAT_INT8: case MK_FORMAT_W8A8: return quantize_int8(e, w, src, part);
    case MK_FORMAT_NF4: return quantize_nf4(e, w, src, part);
    default: return MK_UNSUPPORTED;
    }
}

int mk_cuda_matmul(mk_exec *e, int ta, int tb, int64_t m, int64_t n, int64_t k, const mk_real *a, int64_t lda,
                   int64_t step_a, const mk_real *b, int64_t ldb, int64_t step_b, mk_real *c, int64_t ldc, int64_t step_c,
                   int64_t batch) {
    return mk_cuda_gemm(e, ta, tb, m, n, k, 1, a, lda, step_a, b, ldb, step_b, 0, c, ldc, step_c, batch);
}
