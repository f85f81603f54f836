/* dominance.c - non-dominated rows
**
** Sorted by_first, a row can only be dominated by an earlier one, and equal rows are neighbours. So one of each run of equal
** rows is judged, and of two different rows the earlier dominates the later exactly where it covers it.
*/
#include "maths/dominance.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int mocl_row_by_first(const void *pa, const void *pb) {
    const mocl_row *a = pa, *b = pb;
    for (int k = 0; k < a->d; k++) {
        if (a->q[k] != b->q[k]) return a->q[k] > b->q[k] ? -1 : 1;
    }
    return (a->index > b->index) - (a->index < b->index);
}

int mocl_row_by_last(const void *pa, const void *pb) {
    const mocl_row *a = pa, *b = pb;
    for (int k = a->d - 1; k >= 0; k--) {
        if (a->q[k] != b->q[k]) return a->q[k] > b->q[k] ? -1 : 1;
    }
    return (a->index > b->index) - (a->index < b->index);
}

/* the end of the run of rows equal to row i */
static int64_t run_end(const mocl_row *rows, int64_t n, int64_t i, int d) {
    int64_t end = i + 1;
    while (end < n && mocl_row_equal(rows[i].q, rows[end].q, d)) end++;
    return end;
}

/* -- three objectives: the greatest third among earlier rows whose second is as good -- */

typedef struct second {
    double value;
    int64_t row;
} second;

static int descending(const void *pa, const void *pb) {
    double a = ((const second *)pa)->value, b = ((const second *)pb)->value;
    return a > b ? -1 : a < b;
}

/* bad[i] for the first row of each run. A Fenwick tree over the places of the second objective in descending order holds
** prefix maxima of the third. */
static mocl_status mark3(mocl_ctx *ctx, const mocl_row *rows, int64_t n, unsigned char *bad) {
    size_t bytes;
    if (!mocl_mul((size_t)n + 1, sizeof(second) + sizeof(double) + sizeof(int64_t), &bytes)) return mocl_nomem(ctx, SIZE_MAX);
    second *sorted = mocl_alloc(ctx, bytes);
    if (!sorted) return mocl_nomem(ctx, bytes);
    double *best = (double *)(sorted + n + 1);  /* the tree, places from 1 */
    int64_t *place = (int64_t *)(best + n + 1); /* of each row; equal values share the last place of their run */
    for (int64_t i = 0; i < n; i++) sorted[i] = (second){rows[i].q[1], i};
    qsort(sorted, (size_t)n, sizeof *sorted, descending);
    for (int64_t i = n, last = n; i > 0; i--) {
        if (i < n && sorted[i - 1].value != sorted[i].value) last = i;
        place[sorted[i - 1].row] = last;
    }
    for (int64_t i = 0; i <= n; i++) best[i] = -INFINITY;
    for (int64_t i = 0; i < n; i = run_end(rows, n, i, 3)) {
        double z = rows[i].q[2], greatest = -INFINITY;
        for (int64_t at = place[i]; at > 0; at -= at & -at) greatest = fmax(greatest, best[at]);
        bad[i] = greatest >= z;
        for (int64_t at = place[i]; !bad[i] && at <= n; at += at & -at) best[at] = fmax(best[at], z);
    }
    mocl_free(sorted);
    return MOCL_OK;
}

/* -- more objectives: divide and conquer (Kung, Luccio and Preparata 1975) -- */

enum { FEW_PAIRS = 1024 }; /* so many are compared one by one */

typedef struct marking {
    mocl_ctx *ctx;
    const mocl_row *rows;
    unsigned char *bad;
    double *values; /* room for all rows, to find a median in */
} marking;

static double value_of(const marking *m, int64_t row, int k) {
    return m->rows[row].q[k];
}

static void swap_rows(int64_t *a, int64_t *b) {
    int64_t t = *a;
    *a = *b;
    *b = t;
}

/* the middle one of n > 0 numbers by size; moves them (Hoare's selection, the pivot being the middle of three) */
static double median(double *x, int64_t n) {
    int64_t lo = 0, hi = n - 1, want = n / 2;
    while (lo < hi) {
        double a = x[lo], b = x[lo + (hi - lo) / 2], c = x[hi];
        double pivot = fmax(fmin(a, b), fmin(fmax(a, b), c));
        int64_t i = lo, j = hi;
        while (i <= j) {
            while (x[i] < pivot) i++;
            while (x[j] > pivot) j--;
            if (i <= j) {
                double t = x[i];
                x[i++] = x[j];
                x[j--] = t;
            }
        }
        if (want <= j) {
            hi = j;
        } else if (want >= i) {
            lo = i;
        } else {
            break;
        }
    }
    return x[want];
}

/* Orders a list of rows: objective k above the pivot, equal to it, below it. */
static void part(const marking *m, int64_t *list, int64_t n, int k, double pivot, int64_t *above, int64_t *equal) {
    int64_t hi = 0, lo = n;
    for (int64_t i = 0; i < lo;) {
        double v = value_of(m, list[i], k);
        if (v > pivot) {
            swap_rows(&list[i++], &list[hi++]);
        } else if (v < pivot) {
            swap_rows(&list[i], &list[--lo]);
        } else {
            i++;
        }
    }
    *above = hi;
    *equal = lo - hi;
}

/* moves the rows that are not bad to the front; returns how many */
static int64_t alive(const marking *m, int64_t *list, int64_t n) {
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!m->bad[list[i]]) swap_rows(&list[i], &list[kept++]);
    }
    return kept;
}

/* Marks the rows of b that some row of a covers, where each of a covers each of b in all objectives but 1 .. k. */
static void mark_covered(marking *m, int64_t *a, int64_t na, int64_t *b, int64_t nb, int k) {
    nb = alive(m, b, nb);
    if (na == 0 || nb == 0) return;
    if (k == 1) {
        double greatest = value_of(m, a[0], 1);
        for (int64_t i = 1; i < na; i++) greatest = fmax(greatest, value_of(m, a[i], 1));
        for (int64_t i = 0; i < nb; i++) m->bad[b[i]] = value_of(m, b[i], 1) <= greatest;
        return;
    }
    if (na <= FEW_PAIRS / nb) {
        for (int64_t i = 0; i < nb; i++) {
            const double *q = m->rows[b[i]].q + 1;
            for (int64_t j = 0; j < na && !m->bad[b[i]]; j++) m->bad[b[i]] = mocl_row_covers(m->rows[a[j]].q + 1, q, k);
        }
        return;
    }
    for (int64_t i = 0; i < na; i++) m->values[i] = value_of(m, a[i], k);
    for (int64_t i = 0; i < nb; i++) m->values[na + i] = value_of(m, b[i], k);
    double pivot = median(m->values, na + nb);
    int64_t a_above, a_equal, b_above, b_equal;
    part(m, a, na, k, pivot, &a_above, &a_equal);
    part(m, b, nb, k, pivot, &b_above, &b_equal);
    int64_t a_rest = a_above + a_equal, b_rest = b_above + b_equal;
    mark_covered(m, a, a_above, b, b_above, k);
    mark_covered(m, a + a_rest, na - a_rest, b + b_rest, nb - b_rest, k);
    mark_covered(m, a, a_rest, b + b_above, nb - b_above, k - 1); /* not below the pivot against not above it: last, as it mixes these */
}

/* Marks the dominated ones among n different rows, listed in the order of by_first. Moves them. */
static mocl_status mark(marking *m, int64_t *list, int64_t n, int d) {
    if (n < 2) return MOCL_OK;
    int64_t half = n / 2;
    MOCL_TRY(mark(m, list, half, d));
    MOCL_TRY(mark(m, list + half, n - half, d));
    mark_covered(m, list, alive(m, list, half), list + half, n - half, d - 1);
    return n > 512 ? mocl_poll(m->ctx) : MOCL_OK;
}

static mocl_status mark_many(mocl_ctx *ctx, const mocl_row *rows, int64_t n, int d, unsigned char *bad) {
    size_t bytes;
    if (!mocl_mul((size_t)n, sizeof(double) + sizeof(int64_t), &bytes)) return mocl_nomem(ctx, SIZE_MAX);
    double *values = mocl_alloc(ctx, bytes);
    if (!values) return mocl_nomem(ctx, bytes);
    int64_t *list = (int64_t *)(values + n), distinct = 0;
    for (int64_t i = 0; i < n; i = run_end(rows, n, i, d)) list[distinct++] = i;
    mocl_status st = mark(&(marking){ctx, rows, bad, values}, list, distinct, d);
    mocl_free(values);
    return st;
}

mocl_status mocl_keep_nondominated(mocl_ctx *ctx, mocl_row *rows, int64_t n, int d, int64_t *kept) {
    *kept = 0;
    if (n == 0) return MOCL_OK;
    if (d <= 2) { /* in order: the last row kept has the greatest second objective so far */
        for (int64_t i = 0; i < n; i++) {
            const double *q = rows[i].q, *p = *kept ? rows[*kept - 1].q : NULL;
            if (!p || p[d - 1] < q[d - 1] || mocl_row_equal(p, q, d)) rows[(*kept)++] = rows[i];
        }
        return MOCL_OK;
    }
    unsigned char *bad = mocl_calloc(ctx, (size_t)n, 1);
    if (!bad) return mocl_nomem(ctx, (size_t)n);
    mocl_status st = d == 3 ? mark3(ctx, rows, n, bad) : mark_many(ctx, rows, n, d, bad);
    for (int64_t i = 0; !st && i < n;) {
        int64_t end = run_end(rows, n, i, d);
        bool dominated = bad[i];
        for (; i < end; i++) {
            if (!dominated) rows[(*kept)++] = rows[i];
        }
    }
    mocl_free(bad);
    return st;
}
