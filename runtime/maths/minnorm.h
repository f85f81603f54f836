/* minnorm.h - the point of least norm in the convex hull of vectors, from their inner products.
**
** Works on the Gram matrix alone, in double: it never sees the vectors, so their length does not
** matter here. It does not decide what a zero gradient means to training; the caller does.
*/
#ifndef MOCL_MINNORM_H
#define MOCL_MINNORM_H

#include "base.h"

typedef enum mocl_minnorm_case {
    MOCL_MINNORM_C1,       /* c = 1: v alone */
    MOCL_MINNORM_C0,       /* c = 0: vbar alone */
    MOCL_MINNORM_INTERIOR, /* 0 < c < 1 */
    MOCL_MINNORM_ZERO      /* v or vbar is zero: nothing to weigh, c = 1 */
} mocl_minnorm_case;

/* Algorithm 2 of the paper: *c = argmin over c in [0, 1] of || c v + (1 - c) vbar ||^2 from
** vv = v.v, vw = v.vbar, ww = vbar.vbar. Where vbar = 0 (the constraint holds) c is 1, not the 0 of
** the formula. Sums that are not finite, negative squares and |vw| above |v| |vbar| are refused. */
mocl_status mocl_minnorm_two(mocl_ctx *ctx, double vv, double vw, double ww, double *c,
                             mocl_minnorm_case *which);

typedef struct mocl_minnorm_info {
    double norm2;   /* w' G w, at least 0 */
    double gap;     /* norm2 exceeds the least possible by at most this */
    int iterations; /* vectors taken into the active set or steps taken */
    bool converged;
} mocl_minnorm_info;

/* weights[0..n-1] on the simplex minimise w' G w; gram is n x n, row-major, symmetric to 1e-9.
** Stops when gap <= tolerance * (sum_i w_i |g_i|)^2 or when rounding of the Gram matrix hides the
*rest.
** Not converging within max_iterations is reported in info and is no error. Ties go to the vector
** of least norm, then of lowest index. */
mocl_status mocl_minnorm_solve(mocl_ctx *ctx, int n, const double *gram, int max_iterations,
                               double tolerance, double *weights, mocl_minnorm_info *info);

#endif
