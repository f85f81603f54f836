/* ppo.cu - generalised advantage estimation and the clipped surrogate, per token. */
#include "common.cuh"
#include "table.cuh"

/* one thread for a (sequence, objective) pair */
static __global__ void gae_kernel(int64_t n_seq, const int32_t *offsets, int64_t n, const float *rewards,
                                  const float *values, double gamma, double lambda, float *advantages, float *returns) {
    FOR_FLAT(at, n_seq * n) {
        int64_t s = at / n, c = at % n;
        double adv = 0, next = 0; /* A and V of the token after */
        for (int64_t t = (int64_t)offsets[s + 1] - 1; t >= offsets[s]; t--) {
            double v = (double)values[t * n + c], delta = (double)rewards[t * n + c] + gamma * next - v;
            adv = delta + gamma * lambda * adv;
            advantages[t * n + c] = (float)adv;
            returns[t * n + c] = (float)(adv + v);
            next = v;
        }
    }
}

int mk_cuda_gae(mk_exec *e, int64_t n_seq, const int32_t *offsets, int64_t n, const mk_real *rewards,
                const mk_real *values, double gamma, double lambda, mk_real *adv, mk_real *returns) {
    return MK_LAUNCH_FLAT(e, gae_kernel, n_seq * n, n_seq, offsets, n, rewards, values, gamma, lambda, adv, returns);
}

static __global__ void ppo_clip_kernel(int64_t n, float lo, float hi, const float *logp, const float *old,
                                       const float *adv, float *loss, float *dlogp, float *ratio, float *clipped) {
    FOR_FLAT(i, n) {
        float a = adv[i], z = expf(logp[i] - old[i]);
        /* the minimum takes the clipped branch only where it is the smaller one */
        bool over = (a > 0 && z > hi) || (a < 0 && z < lo);
        ratio[i] = z;
        clipped[i] = over;
        loss[i] = -(over ? z > hi ? hi : lo : z) * a;
        dlogp[i] = over ? 0 : -z * a;
    }
}

int mk_cuda_ppo_clip(mk_exec *e, int64_t n, double cliprange, const mk_real *logp, const mk_real *old,
                     const mk_real *adv, mk_real *loss, mk_real *dlogp, mk_real *ratio, mk_real *clipped) {
    return MK_LAUNCH_FLAT(e, ppo_clip_kernel, n, n, (float)(1 - cliprange), (float)(1 + cliprange), logp, old, adv, loss,
                          dlogp, ratio, clipped);
}
