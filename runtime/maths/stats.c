/* stats.c - rank correlation and distances */
#include "maths/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int mocl_compare_numbers(mocl_number a, mocl_number b) {
    if (!a.is_integer && !b.is_integer) return (a.x > b.x) - (a.x < b.x);
    if (a.is_integer && b.is_integer) return (a.i > b.i) - (a.i < b.i);
    if (b.is_integer) return -mocl_compare_numbers(b, a);
    if (b.x >= 0x1p63) return -1;
    if (b.x < -0x1p63) return 1;
    double whole = floor(b.x);
    int64_t i = (int64_t)whole;
    if (a.i != i) return a.i > i ? 1 : -1;
    return whole < b.x ? -1 : 0;
}

typedef struct pair {
    double x, y;
} pair;

static int by_x_then_y(const void *pa, const void *pb) {
    const pair *a = pa, *b = pb;
    if (a->x != b->x) return a->x < b->x ? -1 : 1;
    return (a->y > b->y) - (a->y < b->y);
}

/* Sorts p by y (merge sort; t has room for n) and returns how many pairs were in the wrong order.
** Equal y are not. */
static double count_inversions(pair *p, pair *t, int64_t n) {
    double swaps = 0; /* whole numbers below 2^53 */
    if (n < 2) return 0;
    int64_t half = n / 2;
    swaps += count_inversions(p, t, half);
    swaps += count_inversions(p + half, t, n - half);
    int64_t i = 0, j = half, k = 0;
    while (i < half && j < n) {
        if (p[j].y < p[i].y) {
            swaps += (double)(half - i);
            t[k++] = p[j++];
        } else {
            t[k++] = p[i++];
        }
    }
    while (i < half) t[k++] = p[i++];
    memcpy(p, t, (size_t)k * sizeof *p); /* the rest of p lies in place */
    return swaps;
}

/* sums over groups of c equal values */
typedef struct ties {
    double pairs;   /* c (c - 1) / 2 */
    double triples; /* c (c - 1) (c - 2) */
    double spread;  /* c (c - 1) (2 c + 5) */
} ties;

static void add_ties(ties *t, double c) {
    t->pairs += c * (c - 1) / 2;
    t->triples += c * (c - 1) * (c - 2);
    t->spread += c * (c - 1) * (2 * c + 5);
}

/* P(as few or fewer inversions, either way) for n untied pairs of which c are out of order. O(n c). */
static mocl_status exact_p(mocl_ctx *ctx, int64_t n, double c, double *p) {
    double total = 0.5 * (double)n * (double)(n - 1);
    if (total - c < c) c = total - c;
    *p = 1;
    if (n <= 2 || 2 * c == total) return MOCL_OK;
    if (c <= 1) { /* 2 / n! and 2 n / n! */
        *p = 2;
        for (int64_t k = 2; k <= n - (int64_t)c && *p > 0; k++) *p /= (double)k;
        return MOCL_OK;
    }
    size_t last = (size_t)c, bytes;
    if (!mocl_mul(last + 1, 2 * sizeof(double), &bytes)) return mocl_nomem(ctx, SIZE_MAX);
    double *count = mocl_alloc(ctx, bytes), *next = count + last + 1;
    if (!count) return mocl_nomem(ctx, bytes);
    memset(count, 0, bytes);
    count[0] = 1; /* share of permutations of j things with k inversions; it rises up to the middle, where c ends */
    mocl_status st = MOCL_OK;
    for (int64_t j = 2; j <= n && !st; j++) {
        double window = 0;
        for (size_t k = 0; k <= last; k++) {
            window += count[k];
            if (k >= (size_t)j) window -= count[k - (size_t)j];
            next[k] = window / (double)j;
        }
        memcpy(count, next, (last + 1) * sizeof *count);
        st = mocl_poll(ctx);
    }
    double sum = 0;
    for (size_t k = 0; k <= last; k++) sum += count[k];
    mocl_free(count);
    *p = fmin(1, 2 * sum);
    return st;
}

mocl_status mocl_kendall_tau(mocl_ctx *ctx, mocl_p_method method, int64_t n, const double *x,
                             const double *y, double *tau, double *p) {
    *tau = *p = NAN;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(x[i]) || isnan(y[i])) {
            return mocl_fail(ctx, MOCL_E_ARG, "kendall_tau: pair %lld is (%g, %g)",
                             (long long)i + 1, mocl_shown(x[i]), mocl_shown(y[i]));
        }
    }
    if (n < 2) return MOCL_OK;
    size_t bytes;
    if (!mocl_mul((size_t)n, 2 * sizeof(pair), &bytes)) return mocl_nomem(ctx, SIZE_MAX);
    pair *pairs = mocl_alloc(ctx, bytes);
    if (!pairs) return mocl_nomem(ctx, bytes);
    for (int64_t i = 0; i < n; i++) pairs[i] = (pair){x[i], y[i]};
    qsort(pairs, (size_t)n, sizeof *pairs, by_x_then_y);
    ties in_x = {0}, in_y = {0}, in_both = {0};
    int64_t run_x = 1, run_both = 1;
    for (int64_t i = 1; i <= n; i++) {
        bool same_x = i < n && pairs[i].x == pairs[i - 1].x;
        if (same_x && pairs[i].y == pairs[i - 1].y) {
            run_both++;
        } else {
            add_ties(&in_both, (double)run_both);
            run_both = 1;
        }
        if (same_x) {
            run_x++;
        } else {
            add_ties(&in_x, (double)run_x);
            run_x = 1;
        }
    }
    double discordant = count_inversions(pairs, pairs + n, n); /* pairs are now sorted by y */
    int64_t run_y = 1;
    for (int64_t i = 1; i <= n; i++) {
        if (i < n && pairs[i].y == pairs[i - 1].y) {
            run_y++;
        } else {
            add_ties(&in_y, (double)run_y);
            run_y = 1;
        }
    }
    mocl_free(pairs);
    double N = (double)n, total = 0.5 * N * (N - 1);
    if (in_x.pairs == total || in_y.pairs == total) return MOCL_OK;
    double excess = total - in_x.pairs - in_y.pairs + in_both.pairs - 2 * discordant;
    *tau = excess / sqrt(total - in_x.pairs) / sqrt(total - in_y.pairs);
    *tau = fmax(-1, fmin(1, *tau));
    bool untied = in_x.pairs == 0 && in_y.pairs == 0;
    if (method == MOCL_P_EXACT && !untied) {
        return mocl_fail(ctx, MOCL_E_ARG,
                         "kendall_tau: there are ties, and method=exact needs lists without; "
                         "use asymptotic");
    }
    if (method == MOCL_P_AUTO) {
        bool exact = untied && (n <= 33 || fmin(discordant, total - discordant) <= 1);
        method = exact ? MOCL_P_EXACT : MOCL_P_ASYMPTOTIC;
    }
    if (method == MOCL_P_EXACT) return exact_p(ctx, n, discordant, p);
    double m = N * (N - 1);
    double both = in_x.triples * in_y.triples; /* 0 for two pairs */
    double variance = (m * (2 * N + 5) - in_x.spread - in_y.spread) / 18 +
                      2 * in_x.pairs * in_y.pairs / m + (n > 2 ? both / (9 * m * (N - 2)) : 0);
    *p = erfc(fabs(excess) / sqrt(variance) / sqrt(2.0));
    return MOCL_OK;
}

/* Where squares would overflow or vanish the differences are taken of halves, scaled by a power of two, which is exact. */
static double distance(const double *a, const double *b, int d) {
    double s = 0;
    for (int k = 0; k < d; k++) s += (a[k] - b[k]) * (a[k] - b[k]);
    if (s > 1e-280 && s < 1e300) return sqrt(s);
    double largest = 0;
    for (int k = 0; k < d; k++) largest = fmax(largest, fabs(a[k] / 2 - b[k] / 2));
    if (largest == 0) return sqrt(s); /* 0, or the difference of two numbers at the end of the range */
    int e = ilogb(largest);
    s = 0;
    for (int k = 0; k < d; k++) {
        double x = ldexp(a[k] / 2 - b[k] / 2, -e);
        s += x * x;
    }
    return ldexp(sqrt(s), e + 1);
}

double mocl_mean_pairwise_distance(int64_t n, int d, const double *points) {
    double pairs = 0.5 * (double)n * (double)(n - 1);
    if (n < 2) return 0;
    for (double unit = 1;; unit = pairs) { /* a sum that overflows is taken of parts of the mean */
        double sum = 0;
        for (int64_t i = 1; i < n; i++) {
            double row = 0;
            for (int64_t j = 0; j < i; j++) row += distance(points + i * d, points + j * d, d) / unit;
            sum += row;
        }
        if (isfinite(sum) || unit == pairs) return unit == 1 ? sum / pairs : sum;
    }
}

double mocl_igd(int64_t n, int d, const double *points, int64_t m, const double *front) {
    for (double unit = 1;; unit = (double)m) {
        double sum = 0;
        for (int64_t j = 0; j < m; j++) {
            double nearest = INFINITY;
            for (int64_t i = 0; i < n; i++) {
                nearest = fmin(nearest, distance(points + i * d, front + j * d, d));
            }
            sum += nearest / unit;
        }
        if (isfinite(sum) || unit == (double)m) return unit == 1 ? sum / (double)m : sum;
    }
}

double mocl_epsilon(int64_t n, int d, const double *points, int64_t m, const double *front) {
    double worst = -INFINITY;
    for (int64_t j = 0; j < m; j++) {
        double best = INFINITY;
        for (int64_t i = 0; i < n; i++) {
            double lacks = -INFINITY;
            for (int k = 0; k < d; k++) lacks = fmax(lacks, front[j * d + k] - points[i * d + k]);
            best = fmin(best, lacks);
        }
        worst = fmax(worst, best);
    }
    return worst;
}
