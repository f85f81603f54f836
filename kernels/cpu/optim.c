/* optim.c - optimiser steps over flat parameter vectors, and the norm they are clipped by. */
#include "simd.h"

#include "table.h"

struct adamw_job {
    struct mk_adamw step;
    mk_real *p, *m, *v;
    const mk_real *g;
};

static void adamw_range(void *arg, int64_t first, int64_t last) {
    struct adamw_job *j = arg;
    mk_simd()->adamw(last - first, &j->step, j->p + first, j->g + first, j->m + first, j->v + first);
}

int mk_cpu_adamw(mk_env *e, int64_t n, mk_real *p, const mk_real *g, mk_real *m, mk_real *v,
                 double lr, double beta1, double beta2, double eps, double wd, int64_t step,
                 double grad_scale) {
    double bc1 = 1 - pow(beta1, (double)step), bc2 = 1 - pow(beta2, (double)step);
    struct adamw_job j = {
        .step = {.grad_scale = (mk_real)grad_scale,
                 .beta1 = (mk_real)beta1, .beta2 = (mk_real)beta2,
                 .one_beta1 = (mk_real)(1 - beta1), .one_beta2 = (mk_real)(1 - beta2),
                 .decay = (mk_real)(1 - lr * wd), .step_size = (mk_real)(lr / bc1),
                 .inv_sqrt_bc2 = (mk_real)(1 / sqrt(bc2)), .eps = (mk_real)eps},
        .p = p, .m = m, .v = v, .g = g,
    };
    mk_for(e, n, 0.8, adamw_range, &j);
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
        int64_t at = b * MK_SUM_BLOCK;
        j->part[b] = mk_simd()->sumsq(mk_min(MK_SUM_BLOCK, j->n - at), j->x + at);
    }
}

int mk_cpu_sumsq(mk_env *e, int64_t n, const mk_real *x, double *out) {
    int64_t blocks = mk_ceil_div(n, MK_SUM_BLOCK);
    struct sumsq_job j = {x, mk_scratch(e, (size_t)blocks * sizeof(double)), n};
    if (!j.part) return MK_NOMEM;
    mk_for(e, blocks, 0.15 * MK_SUM_BLOCK, sumsq_range, &j);
    double s = 0;
    for (int64_t b = 0; b < blocks; b++) s += j.part[b];
    *out = s;
    return MK_OK;
}
