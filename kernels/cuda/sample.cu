/* sample.cu - one token per row of logits, one block for a row.
**
** Cuts are found by bisection over the bits of a probability (non-negative floats sort as integers), with
** counts and masses summed in a fixed order. The draw goes through the tokens in order of id: each
** thread owns a run of them.
*/
#include "common.cuh"
#include "formats.cuh"
#include "table.cuh"

#define THREADS 256

struct sample_job {
    int64_t rows, V, top_k;
    const float *logits;
    float inv_temp;
    double top_p;
    uint64_t key;
    uint32_t step;
    const int32_t *row_id;
    float *p; /* [rows, V] weights: exp(z - largest z) */
    int32_t *token;
};

struct best {
    float v;
    int32_t at;
};

static __device__ __forceinline__ best larger(best a, best b) {
    return b.v > a.v || (b.v == a.v && b.at < a.at) ? b : a;
}

static __device__ int32_t first_largest(int64_t V, const float *x) {
    MK_SHARED(best, part, THREADS / WARP);
    best top = {x[0], 0};
    FOR_COLUMNS(i, V) top = larger(top, best{x[i], (int32_t)i});
    for (int by = WARP / 2; by > 0; by /= 2)
        top = larger(top, best{__shfl_xor_sync(FULL, top.v, by), __shfl_xor_sync(FULL, top.at, by)});
    if (threadIdx.x % WARP == 0) part[threadIdx.x / WARP] = top;
    __syncthreads();
    top = part[0];
    for (int i = 1; i < THREADS / WARP; i++) top = larger(top, part[i]);
    __syncthreads();
    return top.at;
}

static __device__ int count_from(int64_t V, const float *p, float from) {
    int n = 0;
    FOR_COLUMNS(i, V) n += p[i] >= from;
    return block_sum(n);
}

static __device__ double mass_from(int64_t V, const float *p, float from) {
    double sum = 0;
    FOR_COLUMNS(i, V) sum += p[i] >= from ? (double)p[i] : 0;
    return block_sum(sum);
}

static __device__ float next_up(float p) { return mk_bits_float(mk_float_bits(p) + 1); }

/* The tokens that stay: those with p > edge, and the first `ties` in order of id of those with p = edge. */
struct cut {
    float edge;
    int ties;
};

static __device__ cut top_k_cut(int64_t V, const float *p, int64_t k) {
    uint32_t bits = 0;
    for (int b = 30; b >= 0; b--)
        if (count_from(V, p, mk_bits_float(bits | 1u << b)) >= k) bits |= 1u << b;
    float edge = mk_bits_float(bits);
    return {edge, (int)k - count_from(V, p, next_up(edge))};
}

/* the smallest set of the largest probabilities of `within` whose sum reaches top_p of its mass */
static __device__ cut top_p_cut(int64_t V, const float *p, double top_p, cut within) {
    double above = mass_from(V, p, next_up(within.edge));
    double mass = above + (double)within.ties * (double)within.edge, target = top_p * mass;
    uint32_t bits = 0;
    if (target > 0) {
        for (int b = 30; b >= 0; b--) {
            float from = mk_bits_float(bits | 1u << b);
            if ((from > within.edge ? mass_from(V, p, from) : mass) >= target) bits |= 1u << b;
        }
    } else {
        bits = mk_float_bits(1.0f); /* the largest one has this weight */
    }
    cut c = {mk_bits_float(bits), 0};
    int higher = count_from(V, p, next_up(c.edge));
    int equal = c.edge == within.edge ? within.ties : count_from(V, p, c.edge) - higher;
    double reached = mass_from(V, p, next_up(c.edge));
    while (c.ties < equal && (reached < target || higher + c.ties == 0)) {
        reached += (double)c.edge;
        c.ties++;
    }
    return c;
}

/* Inverse transform over the tokens that `c` leaves, in order of id. */
static __device__ int32_t draw(int64_t V, const float *p, cut c, double u) {
    MK_SHARED(double, mass, THREADS + 1);
    MK_SHARED(int32_t, ties, THREADS);
    MK_SHARED(int32_t, result, 2); /* the thread whose run holds the token, the token */
    int64_t per = (V + THREADS - 1) / THREADS, first = threadIdx.x * per, last = first + per < V ? first + per : V;
    int32_t equal = 0, before = 0;
    for (int64_t i = first; i < last; i++) equal += p[i] == c.edge;
    ties[threadIdx.x] = equal;
    __syncthreads();
    for (unsigned i = 0; i < threadIdx.x; i++) before += ties[i];
    double sum = 0;
    int32_t rank = before;
    for (int64_t i = first; i < last; i++)
        if (p[i] > c.edge || (p[i] == c.edge && rank++ < c.ties)) sum += (double)p[i];
    mass[threadIdx.x + 1] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        mass[0] = 0;
        int at = 0;
        for (int i = 1; i <= THREADS; i++) {
            if (mass[i] > 0) at = i - 1; /* the last run with a weight, if rounding leaves none above */
            mass[i] += mass[i - 1];
        }
        double aim = u * mass[THREADS];
        for (int i = THREADS; i >= 1; i--)
            if (mass[i] > aim && mass[i] > mass[i - 1]) at = i - 1;
        result[0] = at;
        result[1] = 0;
    }
    __syncthreads();
    if ((int)threadIdx.x == result[0]) {
        double reached = mass[threadIdx.x], aim = u * mass[THREADS];
        int32_t token = 0;
        rank = before;
        for (int64_t i = first; i < last; i++) {
            if (!(p[i] > c.edge || (p[i] == c.edge && rank++ < c.ties)) || !(p[i] > 0)) continue;
            token = (int32_t)i;
            reached += (double)p[i];
            if (reached > aim) break;
        }
        result[1] = token;
    }
    __syncthreads();
    int32_t token = result[1];
    __syncthreads();
    return token;
}

static __global__ void __launch_bounds__(THREADS) sample_kernel(sample_job j) {
    FOR_ROWS(r, j.rows) {
        const float *x = j.logits + r * j.V;
        int32_t token;
        if (j.inv_temp <= 0) {
            token = first_largest(j.V, x);
        } else {
            float *p = j.p + r * j.V, top = -INFINITY;
            FOR_COLUMNS(i, j.V) top = op_max::join(top, x[i]);
            top = block_max(top) * j.inv_temp;
            FOR_COLUMNS(i, j.V) p[i] = expf(x[i] * j.inv_temp - top);
            __syncthreads();
            cut c = {0, (int)j.V}; /* all */
            if (j.top_k > 0 && j.top_k < j.V) c = top_k_cut(j.V, p, j.top_k);
            if (j.top_p < 1) c = top_p_cut(j.V, p, j.top_p, c);
            token = draw(j.V, p, c, mk_unit(mk_philox(j.step, (uint32_t)j.row_id[r], 0, 0, j.key).w[0]));
        }
        if (threadIdx.x == 0) j.token[r] = token;
    }
}

int mk_cuda_sample(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, double inv_temp, int64_t top_k,
                   double top_p, uint64_t key, uint32_t step, const int32_t *row_id, int32_t *token) {
    sample_job j = {rows, V, top_k, logits, (float)inv_temp, top_p, key, step, row_id, nullptr, token};
    if (rows <= 0 || V <= 0) return MK_OK;
    if (j.inv_temp > 0) {
        j.p = static_cast<float *>(mk_cuda_scratch(e, (size_t)(rows * V) * sizeof(float)));
        if (!j.p) return MK_NOMEM;
    }
    return MK_LAUNCH(e, sample_kernel, mk_grid(rows), THREADS, j);
}
