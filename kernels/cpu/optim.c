/* optim.c - optimiser steps over flat parameter vectors, and the norm they are clipped by. */
#include "table.h"

struct adamw_job {
    mk_real *p, *m, *v;
    const mk_real *g;
    mk_real grad_scale, beta1, beta2, one_beta1, one_beta2, decay, step_size, inv_sqrt_bc2, eps;
};

static void adamw_range(void *arg, int64_t first, int64_t last) {
    struct adamw_job *j = arg;
    for (int64_t i = first; i < last; i++) {
        mk_real g = j->g[i] * j->grad_scale;
        mk_real m = j->beta1 * j->m[i] + j->one_beta1 * g;
        mk_real v = j->beta2 * j->v[i] + j->one_beta2 * (g * g);
        j->m[i] = m;
        j->v[i] = v;
        j->p[i] = j->p[i] * j->decay -
                  j->step_size * m / (MK_R(sqrt)(v) * j->inv_sqrt_bc2 + j->eps);
    }
}

int mk_cpu_adamw(mk_env *e, int64_t n, mk_real *p, const mk_real *g, mk_real *m, mk_real *v,
                 double lr, double beta1, double beta2, double eps, double wd, int64_t step,
                 double grad_scale) {
    double bc1 = 1 - pow(beta1, (double)step), bc2 = 1 - pow(beta2, (double)step);
    struct adamw_job j = {
        .p = p, .m = m, .v = v, .g = g,
        .grad_scale = (mk_real)grad_scale,
        .beta1 = (mk_real)beta1, .beta2 = (mk_real)beta2,
        .one_beta1 = (mk_real)(1 - beta1), .one_beta2 = (mk_real)(1 - beta2),
        .decay = (mk_real)(1 - lr * wd),
        .step_size = (mk_real)(lr / bc1),
        .inv_sqrt_bc2 = (mk_real)(1 / sqrt(bc2)),
        .eps = (mk_real)eps,
    };
    mk_for(e, n, 1, adamw_range, &j);
    return MK_OK;
}

struct sgd_job {
    mk_real *p, *buf;
    const mk_real *g;
    mk_real lr, momentum, wd, grad_scale;
    int first;
};

static void sgd_range(void *arg, int64_t first, int64_t last) {
    struct sgd_job *j = arg;
    for (int64_t i = first; i < last; i++) {
        mk_real d = j->grad_scale * j->g[i] + j->wd * j->p[i];
        if (j->buf) {
            if (!j->first) d = j->momentum * j->buf[i] + d;
            j->buf[i] = d;
        }
        j->p[i] -= j->lr * d;
    }
}

/* buf may be NULL when there is no momentum */
int mk_cpu_sgd(mk_env *e, int64_t n, mk_real *p, const mk_real *g, mk_real *buf, double lr,
               double momentum, double wd, int first, double grad_scale) {
    struct sgd_job j = {p, buf, g, (mk_real)lr, (mk_real)momentum, (mk_real)wd, (mk_real)grad_scale,
                        first};
    mk_for(e, n, 1, sgd_range, &j);
    return MK_OK;
}

struct sumsq_job {
    const mk_real *x;
    double *part;
    int64_t n;
};

static void sumsq_range(void *arg, int64_t first, int64_t last) {
    struct sumsq_job *j = arg;
    for (int64_t b = first; b < last; b++) {
        int64_t at = b * MK_SUM_BLOCK, n = mk_min(MK_SUM_BLOCK, j->n - at), i = 0;
        const mk_real *x = j->x + at;
        double s[8] = {0};
        for (; i + 8 <= n; i += 8)
            for (int c = 0; c < 8; c++) s[c] += (double)x[i + c] * (double)x[i + c];
        for (int c = 0; i + c < n; c++) s[c] += (double)x[i + c] * (double)x[i + c];
        j->part[b] = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
    }
}

int mk_cpu_sumsq(mk_env *e, int64_t n, const mk_real *x, double *out) {
    int64_t blocks = mk_ceil_div(n, MK_SUM_BLOCK);
    struct sumsq_job j = {x, mk_scratch(e, (size_t)blocks * sizeof(double)), n};
    if (!j.part) return MK_NOMEM;
    mk_for(e, blocks, 0.3 * MK_SUM_BLOCK, sumsq_range, &j);
    double s = 0;
    for (int64_t b = 0; b < blocks; b++) s += j.part[b];
    *out = s;
    return MK_OK;
}
