/* reduce.cu - sums, extremes and running sums along one axis of [outer, n, inner].
**
** A sum is cut into pieces of SUM_BLOCK entries of a line (inner = 1) or SUM_ROWS rows (inner > 1), each
** a double; pieces are added in order. Shape alone decides the pieces.
*/
#include "common.cuh"
#include "table.cuh"

#define SUM_BLOCK 4096
#define SUM_ROWS 256

/* ---- sums --------------------------------------------------------------------------------------- */

/* part[line * pieces + piece] */
static __global__ void sum_lines_kernel(int64_t lines, int64_t pieces, int64_t n, const float *x, double *part) {
    FOR_ROWS(item, lines * pieces) {
        int64_t at = item % pieces * SUM_BLOCK, end = at + SUM_BLOCK < n ? at + SUM_BLOCK : n;
        const float *row = x + item / pieces * n;
        double sum = 0;
        for (int64_t i = at + threadIdx.x; i < end; i += blockDim.x) sum += (double)row[i];
        sum = block_sum(sum);
        if (threadIdx.x == 0) part[item] = sum;
    }
}

/* part[(o pieces + piece) inner + c] */
static __global__ void sum_columns_kernel(int64_t outer, int64_t pieces, int64_t n, int64_t inner, const float *x,
                                          double *part) {
    FOR_FLAT(item, outer * pieces * inner) {
        int64_t c = item % inner, piece = item / inner % pieces, o = item / inner / pieces;
        int64_t end = (piece + 1) * SUM_ROWS < n ? (piece + 1) * SUM_ROWS : n;
        double sum = 0;
        for (int64_t i = piece * SUM_ROWS; i < end; i++) sum += (double)x[(o * n + i) * inner + c];
        part[item] = sum;
    }
}

/* y[o inner + c] = sum of the pieces, in order */
static __global__ void add_pieces_kernel(int64_t outer, int64_t pieces, int64_t inner, const double *part, float *y) {
    FOR_FLAT(item, outer * inner) {
        const double *p = part + item / inner * pieces * inner + item % inner;
        double sum = 0;
        for (int64_t i = 0; i < pieces; i++) sum += p[i * inner];
        y[item] = (float)sum;
    }
}

static int sum(mk_exec *e, int64_t outer, int64_t n, int64_t inner, const float *x, float *y) {
    int64_t pieces = ceil_div(n, inner == 1 ? SUM_BLOCK : SUM_ROWS);
    double *part = static_cast<double *>(mk_cuda_scratch(e, (size_t)(outer * pieces * inner) * sizeof(double)));
    if (!part) return MK_NOMEM;
    if (inner == 1)
        MK_TRY(MK_LAUNCH_ROWS(e, sum_lines_kernel, outer * pieces, min64(n, SUM_BLOCK), outer, pieces, n, x, part));
    else
        MK_TRY(MK_LAUNCH_FLAT(e, sum_columns_kernel, outer * pieces * inner, outer, pieces, n, inner, x, part));
    return MK_LAUNCH_FLAT(e, add_pieces_kernel, outer * inner, outer, pieces, inner, part, y);
}

/* ---- extremes and log-sum-exp ------------------------------------------------------------------- */

static __device__ __forceinline__ bool beats(mk_reduce op, float v, float best) {
    if (v != v) return best == best;
    return op == MK_MIN ? v < best : v > best;
}

/* One block for one output; threads share its entries. */
static __global__ void extreme_kernel(mk_reduce op, int64_t outer, int64_t n, int64_t inner, const float *x, float *y) {
    FOR_ROWS(item, outer * inner) {
        const float *at = x + item / inner * n * inner + item % inner;
        float best = op == MK_MIN ? INFINITY : -INFINITY;
        FOR_COLUMNS(i, n) {
            float v = at[i * inner];
            if (beats(op, v, best)) best = v;
        }
        best = op == MK_MIN ? block_join<op_min, float>(best, INFINITY) : block_max(best);
        if (op == MK_LOGSUMEXP && fabsf(best) <= 3e38f) {
            double sum = 0;
            FOR_COLUMNS(i, n) sum += (double)expf(at[i * inner] - best);
            best = (float)((double)best + log(block_sum(sum)));
        }
        if (threadIdx.x == 0) y[item] = best;
    }
}

int mk_cuda_reduce(mk_exec *e, mk_reduce op, int64_t outer, int64_t n, int64_t inner, const mk_real *x, mk_real *y) {
    if (outer <= 0 || inner <= 0) return MK_OK;
    if (op == MK_SUM && n <= 0) return mk_cuda_fill(e, MK_F32, outer * inner, y, 0);
    if (op == MK_SUM) return sum(e, outer, n, inner, x, y);
    return MK_LAUNCH_ROWS(e, extreme_kernel, outer * inner, n, op, outer, n, inner, x, y);
}

struct place {
    float v;
    int at;
};

/* of two places the one with the better value, of equals the first */
static __device__ __forceinline__ place better(mk_reduce op, place a, place b) {
    if (beats(op, b.v, a.v)) return b;
    if (beats(op, a.v, b.v)) return a;
    return b.at < a.at ? b : a;
}

static __global__ void argreduce_kernel(mk_reduce op, int64_t outer, int64_t n, int64_t inner, const float *x, int32_t *y) {
    MK_SHARED(place, part, MAX_WARPS);
    int warps = (int)((blockDim.x + WARP - 1) / WARP);
    FOR_ROWS(item, outer * inner) {
        const float *at = x + item / inner * n * inner + item % inner;
        place best = {at[0], 0};
        FOR_COLUMNS(i, n) best = better(op, best, place{at[i * inner], (int)i});
        for (int by = WARP / 2; by > 0; by /= 2) {
            place other = {__shfl_xor_sync(FULL, best.v, by), __shfl_xor_sync(FULL, best.at, by)};
            best = better(op, best, other);
        }
        if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = best;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int i = 1; i < warps; i++) best = better(op, best, part[i]);
            y[item] = best.at;
        }
        __syncthreads();
    }
}

int mk_cuda_argreduce(mk_exec *e, mk_reduce op, int64_t outer, int64_t n, int64_t inner, const mk_real *x, int32_t *y) {
    if (outer <= 0 || inner <= 0) return MK_OK;
    if (n <= 0) return mk_cuda_fill(e, MK_I32, outer * inner, y, 0);
    return MK_LAUNCH_ROWS(e, argreduce_kernel, outer * inner, n, op, outer, n, inner, x, y);
}

/* ---- running sums ------------------------------------------------------------------------------- */

/* one warp for one line: 32 entries at a time, summed up by a scan over the lanes */
static __global__ void cumsum_kernel(int64_t outer, int64_t n, int64_t inner, const float *x, float *y) {
    FOR_ROWS(item, outer * inner) {
        int64_t base = item / inner * n * inner + item % inner;
        unsigned lane = threadIdx.x;
        double before = 0;
        for (int64_t i0 = 0; i0 < n; i0 += WARP) {
            int64_t i = i0 + lane;
            double v = i < n ? (double)x[base + i * inner] : 0;
            for (unsigned by = 1; by < WARP; by *= 2) {
                double left = __shfl_up_sync(FULL, v, by);
                if (lane >= by) v += left;
            }
            v += before;
            if (i < n) y[base + i * inner] = (float)v;
            before = __shfl_sync(FULL, v, WARP - 1);
        }
    }
}

int mk_cuda_cumsum(mk_exec *e, int64_t outer, int64_t n, int64_t inner, const mk_real *x, mk_real *y) {
    if (outer <= 0 || inner <= 0 || n <= 0) return MK_OK;
    return MK_LAUNCH(e, cumsum_kernel, mk_grid(outer * inner), WARP, outer, n, inner, x, y);
}
