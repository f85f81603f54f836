/* optim.cu - optimiser steps, and the norm they are clipped by. AdamW and the norm take a list of parameters, some at a
** launch: an adapter has hundreds of small ones. The list travels with the launch, so nothing is copied before it.
*/
#include "common.cuh"
#include "table.cuh"
#include "wide.cuh"

#define LIST_MAX 32     /* parameters of a launch: 1.5 of the 4 KB that its arguments may have */
#define SUM_BLOCK 4096  /* entries of a gradient that one block adds up */

struct part_of_list {
    int64_t count, start[LIST_MAX + 1]; /* where each begins, in entries or blocks, all in a row; and their end */
    mk_parameter at[LIST_MAX];
};

/* the parameter that number i of the row belongs to */
static __device__ __forceinline__ int64_t owner(const part_of_list &l, int64_t i) {
    int64_t low = 0, high = l.count - 1;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (l.start[middle] <= i) low = middle;
        else high = middle - 1;
    }
    return low;
}

/* parameters first, first + 1 ... of the list; `unit` entries count as one */
static part_of_list take(int64_t count, const mk_parameter *list, int64_t first, int64_t unit) {
    part_of_list l = {};
    l.count = min64(count - first, LIST_MAX);
    for (int64_t i = 0; i < l.count; i++) {
        l.at[i] = list[first + i];
        l.start[i + 1] = l.start[i] + ceil_div(l.at[i].n, unit);
    }
    return l;
}

struct adamw_step {
    float grad_scale, beta1, beta2, one_beta1, one_beta2, decay, step_size, inv_sqrt_bc2, eps;
};

/* factor: takes the place of grad_scale, and NaN that of the step; or NULL */
static __global__ void adamw_kernel(part_of_list l, adamw_step s, const float *factor) {
    float scale = factor ? *factor : s.grad_scale;
    if (factor && scale != scale) return;
    FOR_FLAT(at, l.start[l.count]) { /* of EIGHT entries */
        int64_t which = owner(l, at), i = (at - l.start[which]) * EIGHT, n = l.at[which].n - i;
        float *at_p = l.at[which].p + i, *at_m = l.at[which].m + i, *at_v = l.at[which].v + i;
        const float *at_g = l.at[which].g + i;
        bool wide = lie_wide(at_p, at_m, at_v, at_g);
        float p[EIGHT], m[EIGHT], v[EIGHT], g[EIGHT];
        load_some(at_p, wide, n, p);
        load_some(at_m, wide, n, m);
        load_some(at_v, wide, n, v);
        load_some(at_g, wide, n, g);
        UNROLL
        for (int k = 0; k < EIGHT; k++) {
            float d = g[k] * scale;
            m[k] = s.beta1 * m[k] + s.one_beta1 * d;
            v[k] = s.beta2 * v[k] + s.one_beta2 * (d * d);
            p[k] = p[k] * s.decay - s.step_size * m[k] / (sqrtf(v[k]) * s.inv_sqrt_bc2 + s.eps);
        }
        store_some(at_m, wide, n, m);
        store_some(at_v, wide, n, v);
        store_some(at_p, wide, n, p);
    }
}

static int adamw(mk_exec *e, int64_t count, const mk_parameter *list, double lr, double beta1, double beta2, double eps, double wd,
                 int64_t step, double grad_scale, const float *factor) {
    double bc1 = 1 - pow(beta1, (double)step), bc2 = 1 - pow(beta2, (double)step);
    adamw_step s = {(float)grad_scale, (float)beta1, (float)beta2, (float)(1 - beta1), (float)(1 - beta2),
                    (float)(1 - lr * wd), (float)(lr / bc1), (float)(1 / sqrt(bc2)), (float)eps};
    for (int64_t first = 0; first < count; first += LIST_MAX) {
        part_of_list l = take(count, list, first, EIGHT);
        MK_TRY(MK_LAUNCH_FLAT(e, adamw_kernel, l.start[l.count], l, s, factor));
    }
    return MK_OK;
}

int mk_cuda_adamw(mk_exec *e, int64_t count, const mk_parameter *list, double lr, double beta1, double beta2, double eps,
                  double wd, int64_t step, double grad_scale) {
    return adamw(e, count, list, lr, beta1, beta2, eps, wd, step, grad_scale, nullptr);
}

int mk_cuda_adamw_by(mk_exec *e, int64_t count, const mk_parameter *list, double lr, double beta1, double beta2, double eps,
                     double wd, int64_t step, const mk_real *factor) {
    return adamw(e, count, list, lr, beta1, beta2, eps, wd, step, 1, factor);
}

static __global__ void squares_kernel(part_of_list l, double *part) {
    FOR_ROWS(item, l.start[l.count]) {
        int64_t which = owner(l, item), at = (item - l.start[which]) * SUM_BLOCK;
        int64_t end = at + SUM_BLOCK < l.at[which].n ? at + SUM_BLOCK : l.at[which].n;
        const float *g = l.at[which].g;
        double sum = 0;
        for (int64_t i = at + threadIdx.x; i < end; i += blockDim.x) sum += (double)g[i] * (double)g[i];
        sum = block_sum(sum);
        if (threadIdx.x == 0) part[item] = sum;
    }
}

/* *out = sum of the blocks' sums, in an order that their number alone decides */
static __global__ void total_kernel(int64_t n, const double *part, double *out) {
    double sum = 0;
    FOR_COLUMNS(i, n) sum += part[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *out = sum;
}

/* *sum, on the device, receives the sum of the squares of all gradients; it is scratch */
static int sum_of_squares(mk_exec *e, int64_t count, const mk_parameter *list, int64_t blocks, double **sum) {
    double *part = static_cast<double *>(mk_cuda_scratch(e, (size_t)(blocks + 1) * sizeof(double)));
    int64_t done = 0;
    if (!part) return MK_NOMEM;
    for (int64_t first = 0; first < count; first += LIST_MAX) {
        part_of_list l = take(count, list, first, SUM_BLOCK);
        MK_TRY(MK_LAUNCH_ROWS(e, squares_kernel, l.start[l.count], SUM_BLOCK, l, part + done));
        done += l.start[l.count];
    }
    *sum = part + blocks;
    return MK_LAUNCH(e, total_kernel, 1, 256, blocks, part, *sum);
}

static int64_t blocks_of(int64_t count, const mk_parameter *list) {
    int64_t blocks = 0;
    for (int64_t i = 0; i < count; i++) blocks += ceil_div(list[i].n, SUM_BLOCK);
    return blocks;
}

int mk_cuda_sumsq(mk_exec *e, int64_t count, const mk_parameter *list, double *out) {
    int64_t blocks = blocks_of(count, list);
    double *sum;
    *out = 0;
    if (blocks == 0) return MK_OK;
    MK_TRY(sum_of_squares(e, count, list, blocks, &sum));
    return mk_cuda_fetch(e, out, sum, sizeof *out);
}

static __global__ void clip_kernel(const double *squares, double max_norm, double most, float *out) {
    if (blockIdx.x || threadIdx.x) return;
    double norm = sqrt(*squares), rest = norm;
    double factor = max_norm > 0 && norm > max_norm ? max_norm / (norm + 1e-6) : 1;
    for (int i = 0; i < 3; i++) {
        out[i] = (float)rest;
        rest -= (double)out[i];
    }
    bool fits = norm <= 3.4e38; /* no NaN either; infinity less itself would be one */
    for (int i = 1; i < 3 && !fits; i++) out[i] = 0;
    out[3] = fits && norm * factor <= most ? (float)factor : nanf("");
}

int mk_cuda_clip_norm(mk_exec *e, int64_t count, const mk_parameter *list, double max_norm, double most, mk_real *out) {
    double *sum;
    MK_TRY(sum_of_squares(e, count, list, blocks_of(count, list), &sum));
    return MK_LAUNCH(e, clip_kernel, 1, 1, sum, max_norm, most, out);
}

/* buf may be NULL when there is no momentum */
static __global__ void sgd_kernel(int64_t n, float *p, const float *g, float *buf, float lr, float momentum, float wd,
                                  int first, float grad_scale) {
    FOR_FLAT(i, n) {
        float d = grad_scale * g[i] + wd * p[i];
        if (buf) {
            if (!first) d = momentum * buf[i] + d;
            buf[i] = d;
        }
        p[i] -= lr * d;
    }
}

int mk_cuda_sgd(mk_exec *e, int64_t n, mk_real *p, const mk_real *g, mk_real *buf, double lr, double momentum,
                double wd, int first, double grad_scale) {
    return MK_LAUNCH_FLAT(e, sgd_kernel, n, n, p, g, buf, (float)lr, (float)momentum, (float)wd, first, (float)grad_scale);
}
