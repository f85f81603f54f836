/* ppo.c - generalised advantage estimation and the clipped surrogate, per token. */
#include "table.h"

struct gae_job {
    const int32_t *offsets;
    int64_t n;
    const mk_real *rewards, *values;
    double gamma, lambda;
    mk_real *adv, *returns;
};

static void gae_range(void *arg, int64_t first, int64_t last) {
    struct gae_job *j = arg;
    int64_t n = j->n;
    for (int64_t s = first; s < last; s++)
        for (int64_t c = 0; c < n; c++) {
            double adv = 0, next = 0; /* A and V of the token after */
            for (int64_t t = (int64_t)j->offsets[s + 1] - 1; t >= j->offsets[s]; t--) {
                double v = (double)j->values[t * n + c];
                double delta = (double)j->rewards[t * n + c] + j->gamma * next - v;
                adv = delta + j->gamma * j->lambda * adv;
                j->adv[t * n + c] = (mk_real)adv;
                j->returns[t * n + c] = (mk_real)(adv + v);
                next = v;
            }
        }
}

int mk_cpu_gae(mk_exec *e, int64_t n_seq, const int32_t *offsets, int64_t n, const mk_real *rewards,
               const mk_real *values, double gamma, double lambda, mk_real *adv,
               mk_real *returns) {
    struct gae_job j = {offsets, n, rewards, values, gamma, lambda, adv, returns};
    if (n_seq <= 0) return MK_OK;
    double tokens = (double)offsets[n_seq] / (double)n_seq;
    mk_for(e, n_seq, 5 * tokens * (double)n + 10, gae_range, &j);
    return MK_OK;
}

struct clip_job {
    mk_real lo, hi;
    const mk_real *logp, *old, *adv;
    mk_real *loss, *dlogp, *ratio, *clipped;
};

static void clip_range(void *arg, int64_t first, int64_t last) {
    struct clip_job *j = arg;
    for (int64_t i = first; i < last; i++) {
        mk_real a = j->adv[i], z = MK_R(exp)(j->logp[i] - j->old[i]);
        /* the minimum takes the clipped branch only where it is the smaller one */
        int over = (a > 0 && z > j->hi) || (a < 0 && z < j->lo);
        mk_real bound = z > j->hi ? j->hi : j->lo;
        j->ratio[i] = z;
        j->clipped[i] = over;
        j->loss[i] = -(over ? bound : z) * a;
        j->dlogp[i] = over ? 0 : -z * a;
    }
}

int mk_cpu_ppo_clip(mk_exec *e, int64_t n, double cliprange, const mk_real *logp, const mk_real *old,
                    const mk_real *adv, mk_real *loss, mk_real *dlogp, mk_real *ratio,
                    mk_real *clipped) {
    struct clip_job j = {(mk_real)(1 - cliprange), (mk_real)(1 + cliprange), logp, old, adv,
                         loss, dlogp, ratio, clipped};
    mk_for(e, n, 8, clip_range, &j);
    return MK_OK;
}
