/* optim.cu - optimiser steps over flat parameter vectors; the norm they are clipped by is in reduce.cu. */
#include "common.cuh"
#include "table.cuh"

struct adamw_step {
    float grad_scale, beta1, beta2, one_beta1, one_beta2, decay, step_size, inv_sqrt_bc2, eps;
};

static __global__ void adamw_kernel(int64_t n, adamw_step s, float *p, const float *g, float *m, float *v) {
    FOR_FLAT(i, n) {
        float d = g[i] * s.grad_scale;
        float m1 = s.beta1 * m[i] + s.one_beta1 * d, v1 = s.beta2 * v[i] + s.one_beta2 * (d * d);
        m[i] = m1;
        v[i] = v1;
        p[i] = p[i] * s.decay - s.step_size * m1 / (sqrtf(v1) * s.inv_sqrt_bc2 + s.eps);
    }
}

int mk_cuda_adamw(mk_env *e, int64_t n, mk_real *p, const mk_real *g, mk_real *m, mk_real *v, double lr, double beta1,
                  double beta2, double eps, double wd, int64_t step, double grad_scale) {
    double bc1 = 1 - pow(beta1, (double)step), bc2 = 1 - pow(beta2, (double)step);
    adamw_step s = {(float)grad_scale, (float)beta1, (float)beta2, (float)(1 - beta1), (float)(1 - beta2),
                    (float)(1 - lr * wd), (float)(lr / bc1), (float)(1 / sqrt(bc2)), (float)eps};
    return MK_LAUNCH_FLAT(e, adamw_kernel, n, n, s, p, g, m, v);
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

int mk_cuda_sgd(mk_env *e, int64_t n, mk_real *p, const mk_real *g, mk_real *buf, double lr, double momentum,
                double wd, int first, double grad_scale) {
    return MK_LAUNCH_FLAT(e, sgd_kernel, n, n, p, g, buf, (float)lr, (float)momentum, (float)wd, first, (float)grad_scale);
}
