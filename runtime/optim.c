/* optim.c - AdamW and SGD over a list of parameters */
#include "optim.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

#include "ops.h"

/* the largest number that weights can be */
#define REAL_MAX (sizeof(mk_real) == sizeof(float) ? (double)FLT_MAX : DBL_MAX)

mocl_status mocl_optim_new(mocl_optim **out, mocl_ctx *ctx, mocl_optim_kind kind, int n, mocl_tensor *const *param) {
    *out = NULL;
    for (int i = 0; i < n; i++) {
        if (!param[i]->requires_grad || param[i]->node || param[i]->dtype != MK_F32 || !mocl_tensor_is_contiguous(param[i]))
            return mocl_fail(ctx, MOCL_E_ARG, "optimiser: parameter %d is not a contiguous f32 leaf that requires grad", i + 1);
    }
    mocl_optim *o = mocl_calloc(ctx, 1, sizeof *o);
    if (!o) return mocl_nomem(ctx, sizeof *o);
    o->ctx = ctx;
    o->kind = kind;
    o->param = mocl_calloc(ctx, (size_t)n, sizeof *o->param);
    o->name = mocl_calloc(ctx, (size_t)n, sizeof *o->name);
    o->first = mocl_calloc(ctx, (size_t)n, sizeof *o->first);
    o->second = mocl_calloc(ctx, (size_t)n, sizeof *o->second);
    o->list = mocl_calloc(ctx, (size_t)n, sizeof *o->list);
    if (!o->param || !o->name || !o->first || !o->second || !o->list) {
        mocl_optim_free(o);
        return mocl_nomem(ctx, (size_t)n * sizeof *o->param);
    }
    for (int i = 0; i < n; i++) o->param[i] = mocl_tensor_ref(param[i]);
    o->n = n;
    *out = o;
    return MOCL_OK;
}

void mocl_optim_free(mocl_optim *o) {
    if (!o) return;
    for (int i = 0; i < o->n; i++) {
        mocl_free(o->name[i]);
        mocl_tensor_unref(o->param[i]);
        mocl_tensor_unref(o->first[i]);
        mocl_tensor_unref(o->second[i]);
    }
    mocl_free(o->param);
    mocl_free(o->name);
    mocl_free(o->first);
    mocl_free(o->second);
    mocl_free(o->list);
    mocl_free(o);
}

mocl_status mocl_optim_set_name(mocl_optim *o, int i, const char *name) {
    char *copy = mocl_strdup(o->ctx, name);
    if (!copy) return mocl_nomem(o->ctx, 0);
    mocl_free(o->name[i]);
    o->name[i] = copy;
    return MOCL_OK;
}

static mocl_status make_state(mocl_optim *o, int i) {
    mocl_tensor *p = o->param[i];
    if (!o->first[i]) MOCL_TRY(mocl_tensor_full(&o->first[i], p->storage->dev, MK_F32, p->ndim, p->shape, 0));
    if (!o->second[i] && o->kind == MOCL_OPTIM_ADAMW)
        MOCL_TRY(mocl_tensor_full(&o->second[i], p->storage->dev, MK_F32, p->ndim, p->shape, 0));
    return MOCL_OK;
}

mocl_status mocl_optim_make_state(mocl_optim *o) {
    for (int i = 0; i < o->n; i++) MOCL_TRY(make_state(o, i));
    return MOCL_OK;
}

/* o->list := the parameters from *at on that have a gradient, as long as they lie on one device, which it returns; *count
** of them, and *at goes behind them. NULL: there are none. */
static mocl_device *next_list(mocl_optim *o, int *at, int64_t *count) {
    mocl_device *dev = NULL;
    for (*count = 0; *at < o->n; (*at)++) {
        mocl_tensor *p = o->param[*at];
        if (!p->grad) continue;
        if (dev && p->storage->dev != dev) break;
        dev = p->storage->dev;
        mocl_tensor *m = o->first[*at], *v = o->second[*at]; /* none before the first step, which the norm precedes */
        o->list[(*count)++] = (mk_parameter){.n = mocl_tensor_numel(p), .p = mocl_real(p), .g = mocl_real(p->grad),
                                             .m = m ? mocl_real(m) : NULL, .v = v ? mocl_real(v) : NULL};
    }
    return dev;
}

static mocl_status grad_norm(mocl_optim *o, double *norm) {
    mocl_device *dev;
    int64_t count;
    double total = 0, sum = 0;
    for (int at = 0; (dev = next_list(o, &at, &count));) {
        MOCL_TRY(MOCL_KERNEL(dev, sumsq, count, o->list, &sum));
        dev->waits += dev->cuda != NULL;
        total += sum;
    }
    *norm = sqrt(total);
    return MOCL_OK;
}

/* The norm is not finite: the failure that names the first gradient at fault. */
static mocl_status refuse_gradient(mocl_optim *o, double norm) {
    char shape[128], place[256], number[32], which[32];
    for (int i = 0; i < o->n; i++) {
        mocl_tensor *g = o->param[i]->grad;
        mocl_nonfinite bad = {0};
        if (g) MOCL_TRY(mocl_tensor_nonfinite(g, &bad));
        if (!bad.count) continue;
        snprintf(which, sizeof which, "parameter %d", i + 1);
        return mocl_fail(o->ctx, MOCL_E_ARG, "step: the gradient of %s %s is not finite (%s at %s); nothing was changed",
                         o->name[i] ? o->name[i] : which, mocl_shape_text(shape, g->ndim, g->shape),
                         mocl_number_text(number, bad.value), mocl_place_text(place, g, bad.at));
    }
    return mocl_fail(o->ctx, MOCL_E_ARG, "step: the norm of the gradients is not finite (%g); nothing was changed", mocl_shown(norm));
}

/* a step size that weights cannot hold */
static mocl_status check_lr(mocl_optim *o, double lr) {
    double size = o->kind == MOCL_OPTIM_ADAMW ? lr / (1 - pow(o->beta1, (double)o->steps + 1)) : lr;
    if (size <= REAL_MAX && lr * o->weight_decay <= REAL_MAX) return MOCL_OK;
    return mocl_fail(o->ctx, MOCL_E_ARG, "step: weights are not finite after a step of lr = %g; nothing was changed", lr);
}

static double clip_scale(double max_norm, double norm) { return max_norm > 0 && norm > max_norm ? max_norm / (norm + 1e-6) : 1; }

mocl_status mocl_optim_check(mocl_optim *o, double max_norm, double norm) {
    if (!isfinite(norm)) return refuse_gradient(o, norm);
    norm *= clip_scale(max_norm, norm);
    if (o->kind == MOCL_OPTIM_ADAMW && norm > sqrt(REAL_MAX))
        return mocl_fail(o->ctx, MOCL_E_ARG, "step: the square of a gradient of norm %g is not finite as Adam's second moment; "
                         "nothing was changed, max_grad_norm clips it", norm);
    return MOCL_OK;
}

static mocl_status begin_step(mocl_optim *o) {
    for (int i = 0; i < o->n; i++)
        if (o->param[i]->grad) MOCL_TRY(make_state(o, i));
    o->steps++;
    return MOCL_OK;
}

static void end_step(mocl_optim *o) {
    for (int i = 0; i < o->n; i++)
        if (o->param[i]->grad) o->param[i]->storage->version++;
}

mocl_status mocl_optim_step(mocl_optim *o, double lr, double max_norm, double *norm) {
    mocl_device *dev;
    int64_t count;
    MOCL_TRY(mocl_poll(o->ctx)); /* once: a step is whole or not taken */
    MOCL_TRY(grad_norm(o, norm));
    if (!isfinite(*norm)) return refuse_gradient(o, *norm);
    MOCL_TRY(check_lr(o, lr));
    MOCL_TRY(mocl_optim_check(o, max_norm, *norm));
    double scale = clip_scale(max_norm, *norm);
    MOCL_TRY(begin_step(o));
    for (int at = 0; (dev = next_list(o, &at, &count));) {
        if (o->kind == MOCL_OPTIM_ADAMW)
            MOCL_TRY(MOCL_KERNEL(dev, adamw, count, o->list, lr, o->beta1, o->beta2, o->eps, o->weight_decay, o->steps, scale));
        for (int64_t i = 0; i < count && o->kind == MOCL_OPTIM_SGD; i++) {
            const mk_parameter *p = &o->list[i];
            MOCL_TRY(MOCL_KERNEL(dev, sgd, p->n, p->p, p->g, p->m, lr, o->momentum, o->weight_decay, o->steps == 1, scale));
        }
    }
    end_step(o);
    return MOCL_OK;
}

/* the device of a step that need not wait for it: it holds all gradients, and has the kernels; else NULL */
static mocl_device *runs_behind(mocl_optim *o) {
    int64_t count;
    int at = 0;
    mocl_device *dev = next_list(o, &at, &count);
    if (!dev || !dev->k->clip_norm || o->kind != MOCL_OPTIM_ADAMW) return NULL;
    return next_list(o, &at, &count) ? NULL : dev;
}

/* *norm [3]: a number on the host as the device would give it */
static mocl_status norm_tensor(mocl_tensor **norm, mocl_device *dev, double value) {
    mk_real part[3] = {0};
    int64_t n = 3;
    for (int i = 0; i < 3; i++) {
        part[i] = (mk_real)value;
        value -= (double)part[i];
    }
    return mocl_tensor_from_host(norm, dev, MK_F32, 1, &n, part);
}

mocl_status mocl_optim_step_ahead(mocl_optim *o, double lr, double max_norm, mocl_tensor **norm) {
    mocl_device *dev = runs_behind(o);
    mocl_tensor *out = NULL;
    int64_t count, four = 4;
    int at = 0;
    double value;
    mocl_status st;
    *norm = NULL;
    if (!dev) {
        MOCL_TRY(mocl_optim_step(o, lr, max_norm, &value));
        return norm_tensor(norm, o->param[0]->storage->dev, value);
    }
    MOCL_TRY(mocl_poll(o->ctx));
    MOCL_TRY(check_lr(o, lr));
    MOCL_TRY(begin_step(o));
    MOCL_TRY(mocl_tensor_new(&out, dev, MK_F32, 1, &four));
    next_list(o, &at, &count);
    MOCL_GOTO(MOCL_KERNEL(dev, clip_norm, count, o->list, max_norm, sqrt(REAL_MAX), mocl_real(out)), done);
    MOCL_GOTO(MOCL_KERNEL(dev, adamw_by, count, o->list, lr, o->beta1, o->beta2, o->eps, o->weight_decay, o->steps,
                          mocl_real(out) + 3), done);
    end_step(o);
    st = mocl_narrow(norm, out, 0, 0, 3);
done:
    mocl_tensor_unref(out);
    return st;
}

void mocl_optim_zero_grad(mocl_optim *o) {
    for (int i = 0; i < o->n; i++) mocl_tensor_drop_grad(o->param[i]);
}
