/* optim.c - optimiser steps over a list of parameters, and the norm they are clipped by. The many small ones of an
** adapter cost one hand-over together.
*/
#include "simd.h"

#include "table.h"

/* Parts of each parameter for work of about ns nanoseconds: a thread has the same part of all of them, which is the one
** whose gradient it most often has computed itself. */
static int64_t parts_for(const mk_exec *e, double ns) {
    return ns < 2 * MK_GRAIN_NS ? 1 : mk_min((int64_t)(ns / MK_GRAIN_NS), 2 * mk_threads(e));
}
/* Where part i of n elements begins: parts of whole vectors */
static int64_t cut(int64_t n, int64_t i, int64_t parts) { return i == parts ? n : n / parts * i / 16 * 16; }

struct adamw_job {
    struct mk_adamw step;
    int64_t count, parts;
    const mk_parameter *list;
};

/* part i of `parts` of every parameter */
static void adamw_piece(void *arg, int64_t i) {
    struct adamw_job *j = arg;
    for (const mk_parameter *a = j->list; a < j->list + j->count; a++) {
        int64_t from = cut(a->n, i, j->parts), to = cut(a->n, i + 1, j->parts);
        if (from < to) mk_simd()->adamw(to - from, &j->step, a->p + from, a->g + from, a->m + from, a->v + from);
    }
}

int mk_cpu_adamw(mk_exec *e, int64_t count, const mk_parameter *list, double lr, double beta1,
                 double beta2, double eps, double wd, int64_t step, double grad_scale) {
    double bc1 = 1 - pow(beta1, (double)step), bc2 = 1 - pow(beta2, (double)step);
    struct adamw_job j = {
        .step = {.grad_scale = (mk_real)grad_scale,
                 .beta1 = (mk_real)beta1, .beta2 = (mk_real)beta2,
                 .one_beta1 = (mk_real)(1 - beta1), .one_beta2 = (mk_real)(1 - beta2),
                 .decay = (mk_real)(1 - lr * wd), .step_size = (mk_real)(lr / bc1),
                 .inv_sqrt_bc2 = (mk_real)(1 / sqrt(bc2)), .eps = (mk_real)eps},
        .count = count, .list = list,
    };
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++) n += list[i].n;
    j.parts = parts_for(e, 0.8 * (double)n);
    mk_parallel(e, j.parts, adamw_piece, &j);
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
int mk_cpu_sgd(mk_exec *e, int64_t n, mk_real *p, const mk_real *g, mk_real *buf, double lr,
               double momentum, double wd, int first, double grad_scale) {
    struct sgd_job j = {p, buf, g, (mk_real)lr, (mk_real)momentum, (mk_real)wd, (mk_real)grad_scale,
                        first};
    mk_for(e, n, 1, sgd_range, &j);
    return MK_OK;
}

struct sumsq_job {
    int64_t count, parts;
    const mk_parameter *list;
    double *part; /* of each block of each gradient */
};

static int64_t blocks_of(const mk_parameter *a) { return mk_ceil_div(a->n, MK_SUM_BLOCK); }

/* part i of the blocks of every gradient; gradients of a single block go to one part after the other */
static void sumsq_piece(void *arg, int64_t i) {
    struct sumsq_job *j = arg;
    double *part = j->part;
    for (int64_t k = 0; k < j->count; part += blocks_of(&j->list[k++])) {
        const mk_parameter *a = &j->list[k];
        int64_t blocks = blocks_of(a), turn = k % j->parts;
        for (int64_t b = (blocks * i + turn) / j->parts; b < (blocks * (i + 1) + turn) / j->parts; b++) {
            int64_t at = b * MK_SUM_BLOCK;
            part[b] = mk_simd()->sumsq(mk_min(MK_SUM_BLOCK, a->n - at), a->g + at);
        }
    }
}

int mk_cpu_sumsq(mk_exec *e, int64_t count, const mk_parameter *list, double *out) {
    int64_t blocks = 0;
    for (int64_t i = 0; i < count; i++) blocks += blocks_of(&list[i]);
    struct sumsq_job j = {count, parts_for(e, 0.15 * MK_SUM_BLOCK * (double)blocks), list,
                          mk_scratch(e, (size_t)blocks * sizeof(double))};
    if (!j.part) return MK_NOMEM;
    mk_parallel(e, j.parts, sumsq_piece, &j);
    double total = 0;
    for (int64_t i = 0, b = 0; i < count; i++) {
        double sum = 0;
        for (int64_t end = b + blocks_of(&list[i]); b < end; b++) sum += j.part[b];
        total += sum;
    }
    *out = total;
    return MK_OK;
}
