/* minnorm.c - min-norm point on a Gram matrix: Wolfe's active-set method (1976), with pairwise
** Frank-Wolfe steps (Lacoste-Julien and Jaggi 2015) where the active set is singular to rounding
*/
#include "maths/minnorm.h"

#include <float.h>
#include <math.h>

mocl_status mocl_minnorm_two(mocl_ctx *ctx, double vv, double vw, double ww, double *c,
                             mocl_minnorm_case *which) {
    *c = 1;
    *which = MOCL_MINNORM_ZERO;
    if (!isfinite(vv) || !isfinite(vw) || !isfinite(ww)) {
        return mocl_fail(ctx, MOCL_E_ARG,
                         "minnorm: the sums v.v = %g, v.vbar = %g, vbar.vbar = %g are not finite",
                         mocl_shown(vv), mocl_shown(vw), mocl_shown(ww));
    }
    if (vv < 0 || ww < 0) {
        return mocl_fail(ctx, MOCL_E_ARG,
                         "minnorm: v.v = %g and vbar.vbar = %g are squares and cannot be negative",
                         vv, ww);
    }
    double bound = sqrt(vv) * sqrt(ww);
    if (fabs(vw) > bound * (1 + 1e-3)) { /* wide enough for sums taken in single precision */
        return mocl_fail(
            ctx, MOCL_E_ARG,
            "minnorm: v.vbar = %g is beyond |v| |vbar| = %g: the sums do not belong to "
            "one pair of vectors (the order is v.v, v.vbar, vbar.vbar)",
            vw, bound);
    }
    if (vv == 0 || ww == 0) return MOCL_OK;
    if (vw >= vv) {
        *which = MOCL_MINNORM_C1;
    } else if (vw >= ww) {
        *which = MOCL_MINNORM_C0;
        *c = 0;
    } else {
        int e = -ilogb(vv > ww ? vv : ww); /* a power of two: exact, and nothing overflows below */
        double from_v = ldexp(vv, e) - ldexp(vw, e), from_w = ldexp(ww, e) - ldexp(vw, e);
        *which = MOCL_MINNORM_INTERIOR;
        *c = from_w / (from_v + from_w); /* ((vbar - v).vbar) / ||vbar - v||^2 */
    }
    return MOCL_OK;
}

/* One problem. Arrays of n: w, candidate, grad (G w), norm (square roots of the diagonal), active
** (indices), step. chol is n x n. All lie in one block of memory. */
typedef struct problem {
    int n, n_active;
    const double *gram;
    double *w, *candidate, *grad, *norm, *step, *chol;
    int *active;
} problem;

static double G(const problem *p, int i, int j) { return p->gram[(size_t)i * p->n + j]; }

static double gradient(const problem *p, const double *w, int i) {
    double s = 0;
    for (int j = 0; j < p->n; j++) s += w[j] > 0 ? G(p, i, j) * w[j] : 0;
    return s;
}

static double norm2(const problem *p, const double *w) {
    double s = 0;
    for (int i = 0; i < p->n; i++) s += w[i] > 0 ? w[i] * gradient(p, w, i) : 0;
    return s;
}

/* Solves, over the active set, for the step from w to the least norm in the affine hull:
** step = sum_k y_k (e_k - e_base) with D y = r, D_kl = (g_k - g_base).(g_l - g_base) and
** r_k = (g_base - g_k).x. Taking the residual at w itself makes a repeated call refine the
** solution. D is scaled to a unit diagonal, so vectors of very different norms do no harm. Returns
** false where D is singular to rounding. */
static bool affine_step(problem *p, const double *w) {
    int m = p->n_active, base = 0;
    for (int k = 1; k < m; k++) {
        if (p->norm[p->active[k]] < p->norm[p->active[base]]) base = k;
    }
    int b = p->active[base];
    p->active[base] = p->active[0];
    p->active[0] = b; /* the others are active[1 .. m-1] */
    double *y = p->step, *c = p->chol, at_b = gradient(p, w, b);
    double *scale = p->chol + (size_t)(m - 1) * (m - 1); /* n * n holds (m-1)^2 + m - 1 */
    for (int k = 0; k < m - 1; k++) {
        int i = p->active[k + 1];
        double d = G(p, i, i) - 2 * G(p, i, b) + G(p, b, b);
        if (!(d > 4 * DBL_EPSILON * (G(p, i, i) + G(p, b, b)))) return false; /* the same vector */
        scale[k] = 1 / sqrt(d);
        y[k] = (at_b - gradient(p, w, i)) * scale[k];
    }
    for (int k = 0; k < m - 1; k++) {
        int i = p->active[k + 1];
        for (int l = 0; l <= k; l++) {
            int j = p->active[l + 1];
            double d =
                k == l ? 1
                       : (G(p, i, j) - G(p, i, b) - G(p, b, j) + G(p, b, b)) * scale[k] * scale[l];
            for (int q = 0; q < l; q++) d -= c[k * (m - 1) + q] * c[l * (m - 1) + q];
            if (l < k) {
                c[k * (m - 1) + l] = d / c[l * (m - 1) + l];
            } else {
                if (!(d > 1e-13)) return false;
                c[k * (m - 1) + k] = sqrt(d);
            }
        }
    }
    for (int k = 0; k < m - 1; k++) {
        for (int q = 0; q < k; q++) y[k] -= c[k * (m - 1) + q] * y[q];
        y[k] /= c[k * (m - 1) + k];
    }
    for (int k = m - 2; k >= 0; k--) {
        for (int q = k + 1; q < m - 1; q++) y[k] -= c[q * (m - 1) + k] * y[q];
        y[k] /= c[k * (m - 1) + k];
    }
    double sum = 0;
    for (int k = 0; k < m - 1; k++) sum += y[k] *= scale[k];
    for (int k = m - 1; k > 0; k--) y[k] = y[k - 1];
    y[0] = -sum; /* step[k] belongs to active[k] */
    return true;
}

/* p->candidate = the least norm over the simplex of a subset of the active set and `enter`: moves
** towards the affine minimiser, dropping each vector whose weight reaches zero first. */
static bool active_set_cycle(problem *p, int enter) {
    p->n_active = 0;
    for (int i = 0; i < p->n; i++) {
        p->candidate[i] = p->w[i];
        if (p->w[i] > 0 || i == enter) p->active[p->n_active++] = i;
    }
    while (p->n_active > 1) {
        if (!affine_step(p, p->candidate)) return false;
        double t = 1;
        for (int k = 0; k < p->n_active; k++) {
            double at = p->candidate[p->active[k]];
            if (at + p->step[k] < 0 && at / -p->step[k] < t) t = at / -p->step[k];
        }
        int kept = 0;
        for (int k = 0; k < p->n_active; k++) {
            int i = p->active[k];
            double at = p->candidate[i], to = at + t * p->step[k];
            bool drop = to <= 0 || (at + p->step[k] < 0 && at / -p->step[k] <= t);
            p->candidate[i] = drop ? 0 : to;
            if (!drop) p->active[kept++] = i;
        }
        if (kept == p->n_active) return true;
        p->n_active = kept;
    }
    return true;
}

/* p->candidate = w with weight moved from the active vector of largest gradient to `enter` by exact
** line search */
static void pairwise_step(problem *p, int enter) {
    int from = -1;
    for (int i = 0; i < p->n; i++) {
        p->candidate[i] = p->w[i];
        if (p->w[i] > 0 && i != enter && (from < 0 || p->grad[i] > p->grad[from])) from = i;
    }
    if (from < 0) return;
    double d2 = G(p, enter, enter) - 2 * G(p, enter, from) + G(p, from, from);
    double t = d2 > 0 ? (p->grad[from] - p->grad[enter]) / d2 : p->w[from];
    if (!(t < p->w[from])) t = p->w[from];
    if (!(t > 0)) return;
    p->candidate[from] = p->w[from] - t;
    p->candidate[enter] = p->w[enter] + t;
}

static void normalize(double *w, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += w[i];
    for (int i = 0; i < n; i++) w[i] /= sum;
}

static mocl_status iterate(mocl_ctx *ctx, problem *p, int max_iterations, double tolerance,
                           mocl_minnorm_info *info) {
    int n = p->n, first = 0;
    for (int i = 0; i < n; i++) {
        p->norm[i] = sqrt(G(p, i, i));
        p->w[i] = 0;
        if (p->norm[i] < p->norm[first]) first = i;
    }
    p->w[first] = 1;
    for (info->iterations = 0;; info->iterations++) {
        MOCL_TRY(mocl_poll(ctx));
        double length = 0, least = INFINITY, worst = 0;
        int enter = -1;
        info->norm2 = 0;
        for (int i = 0; i < n; i++) {
            p->grad[i] = gradient(p, p->w, i);
            info->norm2 += p->w[i] * p->grad[i];
            length += p->w[i] * p->norm[i];
            if (p->grad[i] < least) least = p->grad[i];
        }
        /* norm2 - least bounds half of what is left (Frank-Wolfe's duality gap of ||x||^2 / 2) */
        info->gap = fmax(0, 2 * (info->norm2 - least));
        for (int i = 0; i < n; i++) {
            /* a violation below `hidden` is rounding of the inner products themselves; dividing by
            ** the norm keeps long vectors from always coming first */
            double hidden = 4 * n * DBL_EPSILON * (p->norm[i] + length) * length;
            double violation = info->norm2 - p->grad[i];
            if (violation > hidden && violation / (p->norm[i] + length) > worst) {
                worst = violation / (p->norm[i] + length);
                enter = i;
            }
        }
        info->converged = info->gap <= tolerance * length * length || enter < 0;
        if (info->converged || info->iterations == max_iterations) return MOCL_OK;
        bool better = false;
        if (active_set_cycle(p, enter)) {
            normalize(p->candidate, n);
            better = norm2(p, p->candidate) < info->norm2;
        }
        if (!better) {
            pairwise_step(p, enter);
            normalize(p->candidate, n);
            better = norm2(p, p->candidate) < info->norm2;
        }
        if (!better) return MOCL_OK; /* stalled in rounding; the gap says how far off */
        for (int i = 0; i < n; i++) p->w[i] = p->candidate[i];
    }
}

static mocl_status check_gram(mocl_ctx *ctx, int n, const double *gram) {
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) {
            if (!isfinite(gram[(size_t)i * n + j])) {
                return mocl_fail(ctx, MOCL_E_ARG, "minnorm: entry (%d,%d) of the gram matrix is %g",
                                 i + 1, j + 1, mocl_shown(gram[(size_t)i * n + j]));
            }
        }
        if (gram[(size_t)i * n + i] < 0) {
            return mocl_fail(
                ctx, MOCL_E_ARG,
                "minnorm: entry (%d,%d) of the gram matrix is %g, a squared norm cannot "
                "be negative",
                i + 1, i + 1, gram[(size_t)i * n + i]);
        }
    }
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < i; j++) {
            double a = gram[(size_t)i * n + j], b = gram[(size_t)j * n + i];
            double bound = sqrt(gram[(size_t)i * n + i]) * sqrt(gram[(size_t)j * n + j]);
            if (fabs(a - b) > 1e-9 * fmax(bound, fmax(fabs(a), fabs(b)))) {
                return mocl_fail(
                    ctx, MOCL_E_ARG,
                    "minnorm: the gram matrix is not symmetric: entry (%d,%d) is %.12g, "
                    "(%d,%d) is %.12g",
                    j + 1, i + 1, b, i + 1, j + 1, a);
            }
            if (fabs(a) > bound * (1 + 1e-3)) {
                return mocl_fail(
                    ctx, MOCL_E_ARG,
                    "minnorm: entry (%d,%d) = %g is beyond the product %g of the norms: "
                    "not a gram matrix",
                    j + 1, i + 1, b, bound);
            }
        }
    }
    return MOCL_OK;
}

mocl_status mocl_minnorm_solve(mocl_ctx *ctx, int n, const double *gram, int max_iterations,
                               double tolerance, double *weights, mocl_minnorm_info *info) {
    if (n < 1 || n > 4096) {
        return mocl_fail(ctx, MOCL_E_SHAPE, "minnorm: %d vectors (1 to 4096 expected)", n);
    }
    if (max_iterations < 1) {
        return mocl_fail(ctx, MOCL_E_ARG, "minnorm: max_iterations is %d (at least 1 expected)",
                         max_iterations);
    }
    if (!(tolerance >= 0 && tolerance < 1)) {
        return mocl_fail(ctx, MOCL_E_ARG, "minnorm: tolerance is %g (0 <= tolerance < 1 expected)",
                         mocl_shown(tolerance));
    }
    MOCL_TRY(check_gram(ctx, n, gram));
    size_t nn = (size_t)n * n, bytes = (2 * nn + 4 * (size_t)n) * sizeof(double) + n * sizeof(int);
    double *block = mocl_alloc(ctx, bytes);
    if (!block) return mocl_nomem(ctx, bytes);
    double largest = 0;
    for (int i = 0; i < n; i++) largest = fmax(largest, gram[(size_t)i * n + i]);
    int e = largest > 0 ? ilogb(largest) : 0; /* exact scaling, against overflow */
    for (size_t k = 0; k < nn; k++) block[k] = ldexp(gram[k], -e);
    problem p = {.n = n, .gram = block, .w = weights};
    p.chol = block + nn;
    p.candidate = p.chol + nn;
    p.grad = p.candidate + n;
    p.norm = p.grad + n;
    p.step = p.norm + n;
    p.active = (int *)(p.step + n);
    mocl_status st = iterate(ctx, &p, max_iterations, tolerance, info);
    mocl_free(block);
    if (st) return st;
    info->norm2 = ldexp(info->norm2 > 0 ? info->norm2 : 0, e);
    info->gap = ldexp(info->gap, e);
    return MOCL_OK;
}
