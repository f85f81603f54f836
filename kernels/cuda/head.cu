/* head.cu - the language-model head: log-probabilities, entropy and KL, one block for a row of logits. */
#include "common.cuh"
#include "table.cuh"

/* of a row, the same for all its threads */
struct row_sums {
    float lse, entropy;
};

/* With e = exp(z - top), S = sum e and T = sum e (z - top): lse = top + log S, entropy = log S - T / S. A
** logit of -inf has e = 0 and must not make 0 times infinity. */
static __device__ row_sums log_sum_exp(int64_t n, const float *x, float inv_temp, bool entropy) {
    float top = -INFINITY;
    double sum = 0, weighted = 0;
    FOR_COLUMNS(i, n) top = op_max::join(top, x[i]);
    top = block_max(top) * inv_temp;
    FOR_COLUMNS(i, n) {
        float z = x[i] * inv_temp - top, p = expf(z);
        sum += (double)p;
        if (entropy) weighted += (double)(p * fmaxf(z, -1000));
    }
    sum = block_sum(sum);
    if (entropy) weighted = block_sum(weighted);
    double log_sum = log(sum);
    return {(float)((double)top + log_sum), (float)(log_sum - weighted / sum)};
}

static __global__ void logprob_kernel(int64_t rows, int64_t V, const float *logits, float inv_temp,
                                      const int32_t *target, float *logp, float *entropy, float *lse) {
    FOR_ROWS(r, rows) {
        const float *x = logits + r * V;
        row_sums s = log_sum_exp(V, x, inv_temp, entropy != nullptr);
        if (threadIdx.x != 0) continue;
        lse[r] = s.lse;
        logp[r] = target[r] < 0 ? 0 : x[target[r]] * inv_temp - s.lse;
        if (entropy) entropy[r] = s.entropy;
    }
}

int mk_cuda_logprob(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, double inv_temp, const int32_t *target,
                    mk_real *logp, mk_real *entropy, mk_real *lse) {
    return MK_LAUNCH_ROWS(e, logprob_kernel, rows, V, rows, V, logits, (float)inv_temp, target, logp, entropy, lse);
}

/* p (lp - lq), 0 where p is 0 */
static __device__ __forceinline__ float log_ratio(float p, float lp, float lq) { return p > 0 ? lp - lq : 0; }

static __global__ void kl_kernel(int64_t rows, int64_t V, const float *logits, const float *ref, float inv_temp,
                                 const float *lse, const float *ref_lse, float *kl) {
    FOR_ROWS(r, rows) {
        const float *x = logits + r * V, *y = ref + r * V;
        float lse_p = lse[r], lse_q = ref_lse[r];
        double sum = 0;
        FOR_COLUMNS(i, V) {
            float lp = x[i] * inv_temp - lse_p, lq = y[i] * inv_temp - lse_q, p = expf(lp);
            sum += (double)(p * log_ratio(p, lp, lq));
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) kl[r] = (float)sum;
    }
}

int mk_cuda_kl(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, const mk_real *ref_logits, double inv_temp,
               const mk_real *lse, const mk_real *ref_lse, mk_real *kl) {
    return MK_LAUNCH_ROWS(e, kl_kernel, rows, V, rows, V, logits, ref_logits, (float)inv_temp, lse, ref_lse, kl);
}

/* With lp = log softmax(z)[i], p = exp lp, H the entropy: d logp / d x_i = inv_temp ([i = target] - p),
** d H / d x_i = -inv_temp p (lp + H), and d KL / d x_i = inv_temp p (lp - lq - KL). */
static __global__ void logprob_bwd_kernel(int64_t rows, int64_t V, const float *logits, const float *ref, float inv_temp,
                                          const int32_t *target, const float *entropy, const float *lse, const float *ref_lse,
                                          const float *kl, const float *dlogp, const float *dentropy, const float *dkl,
                                          float *dlogits) {
    FOR_ROWS(r, rows) {
        const float *x = logits + r * V, *y = dkl ? ref + r * V : nullptr;
        float *dx = dlogits + r * V, l = lse[r];
        float a = dlogp && target[r] >= 0 ? dlogp[r] * inv_temp : 0, b = dentropy ? dentropy[r] * inv_temp : 0;
        float h = dentropy ? entropy[r] : 0, c = dkl ? dkl[r] * inv_temp : 0, k = dkl ? kl[r] : 0, lse_q = dkl ? ref_lse[r] : 0;
        FOR_COLUMNS(i, V) {
            float lp = x[i] * inv_temp - l, p = expf(lp);
            float v = b == 0 ? p * -a : p * fma_(-b, fmaxf(lp, -1000) + h, -a);
            if (i == target[r]) v += a;
            dx[i] = y ? fma_(c * p, log_ratio(p, lp, y[i] * inv_temp - lse_q) - k, v) : v;
        }
    }
}

int mk_cuda_logprob_bwd(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, const mk_real *ref_logits,
                        double inv_temp, const int32_t *target, const mk_real *entropy, const mk_real *lse,
                        const mk_real *ref_lse, const mk_real *kl, const mk_real *dlogp, const mk_real *dentropy,
                        const mk_real *dkl, mk_real *dlogits) {
    return MK_LAUNCH_ROWS(e, logprob_bwd_kernel, rows, V, rows, V, logits, ref_logits, (float)inv_temp, target, entropy, lse,
                          ref_lse, kl, dlogp, dentropy, dkl, dlogits);
}
