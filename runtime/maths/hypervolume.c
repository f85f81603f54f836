/* hypervolume.c - non-dominated rows and exact hypervolume
**
** All volumes here are of boxes [0, q] with q > 0: the reference has been subtracted. With points in
** descending order of the last objective,
**     volume_d(S) = sum_i q_i[d-1] * (what q_i adds, in the other d-1 objectives, to q_0 .. q_{i-1})
** and what it adds is its own volume less the volume of the others cut down to it, min(q_i, q_j):
** the limit set of WFG. For d = 3 the area added is read off a staircase instead, and from 4 to 8
** hypervolume_zones.c finds the volume, unless it needs too much room; limit sets of some size are its too.
*/
#include "maths/hypervolume.h"

#include "maths/dominance.h"
#include "maths/hypervolume_zones.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static mocl_status check(mocl_ctx *ctx, int64_t n, int d, const double *points) {
    if (d < 1 || d > MOCL_MAX_OBJECTIVES) {
        return mocl_fail(ctx, MOCL_E_SHAPE, "%d objectives (1 to %d expected)", d,
                         MOCL_MAX_OBJECTIVES);
    }
    for (int64_t i = 0; i < n; i++) {
        for (int k = 0; k < d; k++) {
            if (!isfinite(points[i * d + k])) {
                return mocl_fail(ctx, MOCL_E_ARG, "point %lld, objective %d is %g, not finite",
                                 (long long)i + 1, k + 1, mocl_shown(points[i * d + k]));
            }
        }
    }
    return MOCL_OK;
}

static int ascending(const void *pa, const void *pb) {
    int64_t a = *(const int64_t *)pa, b = *(const int64_t *)pb;
    return (a > b) - (a < b);
}

static mocl_status new_rows(mocl_ctx *ctx, mocl_row **out, int64_t n, int d, const double *points) {
    size_t bytes;
    *out = NULL;
    if (!mocl_mul((size_t)n, sizeof **out, &bytes)) return mocl_nomem(ctx, SIZE_MAX);
    *out = mocl_alloc(ctx, bytes);
    if (!*out) return mocl_nomem(ctx, bytes);
    for (int64_t i = 0; i < n; i++) (*out)[i] = (mocl_row){points + i * d, i, d};
    return MOCL_OK;
}

mocl_status mocl_nondominated(mocl_ctx *ctx, int64_t n, int d, const double *points, int64_t *index,
                              int64_t *count) {
    mocl_row *rows;
    *count = 0;
    MOCL_TRY(check(ctx, n, d, points));
    MOCL_TRY(new_rows(ctx, &rows, n, d, points));
    qsort(rows, (size_t)n, sizeof *rows, mocl_row_by_first);
    mocl_status st = mocl_keep_nondominated(ctx, rows, n, d, count);
    for (int64_t i = 0; i < *count; i++) index[i] = rows[i].index;
    mocl_free(rows);
    qsort(index, (size_t)*count, sizeof *index, ascending);
    return st;
}

/* -- volumes -- */

/* One level of the recursion, for the sets of points with d objectives. `order` lists the points
** seen so far by descending objective d-2, which is the order in which the level below wants its
** points; min(q_i, .) does not disturb it. */
typedef struct level {
    double *points; /* m x d, filled by the level above */
    int *order;
} level;

enum {
    FILTER_FROM = 2048, /* from so many rows on the dominated ones are looked for first: zones compare each row with each zone */
    ZONES_PAY = 24      /* a limit set of so many rows is cut into zones rather than sliced further */
};

typedef struct sweep {
    mocl_ctx *ctx;
    level level[MOCL_MAX_OBJECTIVES + 1]; /* by number of objectives, from 3 */
    double *x, *y;                        /* the staircase: x ascending, y descending */
    mocl_row *rows;                       /* a level as rows, while its volume is found by zones */
} sweep;

/* Adds (x, y) to a staircase of *m steps; returns the area that it adds. */
static double add_step(sweep *s, int *m, double x, double y) {
    double *X = s->x, *Y = s->y;
    int lo = 0, hi = *m;
    while (lo < hi) { /* the first step with X >= x */
        int mid = lo + (hi - lo) / 2;
        if (X[mid] < x) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    int at = lo;
    if (at < *m && Y[at] >= y) return 0;
    int first = at; /* steps first .. last-1 disappear under the new one */
    double right = x, height = at < *m ? Y[at] : 0, area = 0;
    while (first > 0 && Y[first - 1] <= y) {
        area += (right - X[first - 1]) * (y - height);
        right = X[first - 1];
        height = Y[first - 1];
        first--;
    }
    area += (right - (first > 0 ? X[first - 1] : 0)) * (y - height);
    int last = at < *m && X[at] == x ? at + 1 : at;
    if (last != first + 1) {
        memmove(X + first + 1, X + last, (size_t)(*m - last) * sizeof *X);
        memmove(Y + first + 1, Y + last, (size_t)(*m - last) * sizeof *Y);
    }
    X[first] = x;
    Y[first] = y;
    *m += first + 1 - last;
    return area;
}

/* three objectives; points in descending order of the third */
static double volume3(sweep *s, const double *q, int m) {
    double sum = 0;
    int steps = 0;
    for (int i = 0; i < m; i++) sum += q[3 * i + 2] * add_step(s, &steps, q[3 * i], q[3 * i + 1]);
    return sum;
}

/* Appends min(a, b), c numbers, to the `m` rows of `set`, which descend by the last number, unless
** a row there covers it; drops rows that it covers. Returns the new number of rows. */
static int add_limited(double *set, int m, int c, const double *a, const double *b) {
    double *q = set + (size_t)m * c;
    for (int k = 0; k < c; k++) q[k] = a[k] < b[k] ? a[k] : b[k];
    for (int j = 0; j < m; j++) {
        if (mocl_row_covers(set + (size_t)j * c, q, c - 1)) return m; /* the last number of j is not less */
    }
    int from = m; /* rows with the same last number: these it may cover */
    while (from > 0 && set[(size_t)from * c - 1] == q[c - 1]) from--;
    int kept = from;
    for (int j = from; j < m; j++) {
        double *p = set + (size_t)j * c;
        if (mocl_row_covers(q, p, c - 1)) continue;
        if (kept != j) memcpy(set + (size_t)kept * c, p, (size_t)c * sizeof *p);
        kept++;
    }
    if (kept != m) memcpy(set + (size_t)kept * c, q, (size_t)c * sizeof *q);
    return kept + 1;
}

/* d > 3 objectives; m points in descending order of the last */
static mocl_status volume_of(sweep *s, int d, int m, double *out) {
    const double *q = s->level[d].points;
    int *order = s->level[d].order, c = d - 1;
    double *below = s->level[c].points;
    double sum = 0;
    for (int i = 0; i < m; i++) {
        const double *p = q + (size_t)i * d;
        double own = 1, shared = 0;
        int limited = 0;
        for (int k = 0; k < c; k++) own *= p[k];
        if (c > 3) {
            for (int j = 0; j < i; j++) {
                limited = add_limited(below, limited, c, p, q + (size_t)order[j] * d);
            }
            bool settled = false;
            if (c >= MOCL_ZONES_FROM && c <= MOCL_ZONES_TO && limited >= ZONES_PAY) {
                int64_t front;
                for (int j = 0; j < limited; j++) s->rows[j] = (mocl_row){below + (size_t)j * c, j, c};
                MOCL_TRY(mocl_volume_by_zones(s->ctx, s->rows, limited, c, &shared, &front, &settled));
            }
            if (!settled) MOCL_TRY(volume_of(s, c, limited, &shared));
        } else {
            for (int j = 0; j < i; j++) {
                const double *o = q + (size_t)order[j] * d;
                for (int k = 0; k < 3; k++) below[3 * j + k] = p[k] < o[k] ? p[k] : o[k];
            }
            shared = volume3(s, below, i);
        }
        sum += p[c] * (own - shared);
        int at = i;
        for (; at > 0 && q[(size_t)order[at - 1] * d + c - 1] < p[c - 1]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    *out = sum;
    return mocl_poll(s->ctx);
}

/* rows sorted by_last, not dominated, no copies; not three objectives */
static mocl_status volume_of_rows(mocl_ctx *ctx, const mocl_row *rows, int m, int d, double *out) {
    *out = 0;
    if (m == 0) return MOCL_OK;
    if (d == 1) {
        *out = rows[0].q[0];
    } else if (d == 2) { /* descending second objective, so the first ascends */
        for (int i = 0; i < m; i++) {
            *out += rows[i].q[1] * (rows[i].q[0] - (i ? rows[i - 1].q[0] : 0));
        }
    }
    if (d <= 2) return MOCL_OK;
    sweep s = {.ctx = ctx};
    size_t per_row = 2, bytes; /* doubles: the staircase, the levels and their orders; rows beside them */
    for (int c = 3; c <= d; c++) per_row += (size_t)c + 1;
    if (!mocl_mul((size_t)m + 1, per_row * sizeof(double) + sizeof(mocl_row), &bytes))
        return mocl_nomem(ctx, SIZE_MAX);
    double *block = mocl_alloc(ctx, bytes), *next = block;
    if (!block) return mocl_nomem(ctx, bytes);
    size_t room = (size_t)m + 1; /* add_limited writes one row more than it may keep */
    s.x = next, next += room;
    s.y = next, next += room;
    s.rows = (mocl_row *)next, next += room * (sizeof(mocl_row) / sizeof(double));
    for (int c = 3; c <= d; c++) {
        s.level[c].points = next, next += room * (size_t)c;
        s.level[c].order = (int *)next, next += room;
    }
    for (int i = 0; i < m; i++) {
        memcpy(s.level[d].points + (size_t)i * d, rows[i].q, (size_t)d * sizeof(double));
    }
    mocl_status st = volume_of(&s, d, m, out);
    mocl_free(block);
    return st;
}

/* -- three objectives: a sweep whose staircase is a set of places that finds its neighbours in a few steps -- */

/* A set of integers below some n: a bit for each, and above each 64 bits of a level one bit of the next that says whether any of
** them is set. Six bits of a place are settled at each level, so that 11 suffice for 64. */
typedef struct place_set {
    uint64_t *level[11];
    int levels;
} place_set;

static void place_insert(place_set *s, uint64_t i) {
    for (int l = 0; l < s->levels; l++, i >>= 6) s->level[l][i >> 6] |= UINT64_C(1) << (i & 63);
}

static void place_remove(place_set *s, uint64_t i) {
    for (int l = 0; l < s->levels; l++, i >>= 6) {
        s->level[l][i >> 6] &= ~(UINT64_C(1) << (i & 63));
        if (s->level[l][i >> 6]) return;
    }
}

/* the nearest member above i (up) or below it, or -1 */
static int64_t place_next(const place_set *s, uint64_t i, bool up) {
    for (int l = 0; l < s->levels; l++, i >>= 6) {
        uint64_t bit = i & 63, word = s->level[l][i >> 6];
        word &= up ? ~UINT64_C(0) << bit << 1 : (UINT64_C(1) << bit) - 1;
        if (!word) continue;
        i = (i & ~UINT64_C(63)) | (uint64_t)(up ? __builtin_ctzll(word) : 63 - __builtin_clzll(word));
        while (l-- > 0) {
            word = s->level[l][i];
            i = i << 6 | (uint64_t)(up ? __builtin_ctzll(word) : 63 - __builtin_clzll(word));
        }
        return (int64_t)i;
    }
    return -1;
}

/* The area that the row at place `at` adds to a staircase, which loses the steps that it covers; -1 where a step covers it. Places
** are in descending order of x. */
static double climb(place_set *set, const double *x, const double *y, int64_t at) {
    double right = x[at], area = 0;
    int64_t next = place_next(set, (uint64_t)at, false), before = place_next(set, (uint64_t)at, true);
    double height = next >= 0 ? y[next] : 0;
    if (height >= y[at]) return -1;
    while (before >= 0 && y[before] <= y[at]) {
        area += (right - x[before]) * (y[at] - height);
        right = x[before];
        height = y[before];
        place_remove(set, (uint64_t)before);
        before = place_next(set, (uint64_t)before, true);
    }
    place_insert(set, (uint64_t)at);
    return area + (right - (before >= 0 ? x[before] : 0)) * (y[at] - height);
}

/* Rows sorted by_last, dominated ones and copies among them: a row comes after all that cover it, so that what the staircase
** takes is the front. Of rows with one x the first in the sweep has the first place, as if its x were the greatest. O(m log m). */
static mocl_status volume_of_three(mocl_ctx *ctx, const mocl_row *rows, int64_t m, double *out, int64_t *front) {
    *out = 0;
    *front = 0;
    if (m == 0) return MOCL_OK;
    place_set set = {.levels = 0};
    size_t words = 0, bytes, width = (size_t)m;
    do {
        width = (width + 63) / 64;
        words += width;
        set.levels++;
    } while (width > 1);
    if (!mocl_mul((size_t)m, 2 * sizeof(double) + 2 * sizeof(int32_t), &bytes)) return mocl_nomem(ctx, SIZE_MAX);
    bytes += words * sizeof(uint64_t);
    double *x = mocl_alloc(ctx, bytes);
    if (!x) return mocl_nomem(ctx, bytes);
    double *y = x + m;
    uint64_t *bits = (uint64_t *)(y + m);
    int32_t *order = (int32_t *)(bits + words), *place = order + m; /* the row at each place, the place of each row */
    memset(bits, 0, words * sizeof *bits);
    width = (size_t)m;
    for (int l = 0; l < set.levels; l++) {
        set.level[l] = bits;
        width = (width + 63) / 64;
        bits += width;
    }
    for (int64_t i = 0; i < m; i++) y[i] = rows[i].q[0];
    mocl_status st = mocl_order_descending(ctx, y, 1, (int32_t)m, order);
    for (int64_t i = 0; !st && i < m; i++) {
        x[i] = rows[order[i]].q[0];
        y[i] = rows[order[i]].q[1];
        place[order[i]] = (int32_t)i;
    }
    for (int64_t i = 0; !st && i < m; i++) {
        double area = climb(&set, x, y, place[i]);
        if (area < 0) continue;
        *out += rows[i].q[2] * area;
        ++*front;
    }
    mocl_free(x);
    return st;
}

/* the same order as by mocl_row_by_last, of rows of positive numbers: by digits, and by comparison where the last objective is the same */
static mocl_status sort_by_last(mocl_ctx *ctx, mocl_row *rows, int64_t m, int d) {
    size_t bytes;
    if (m < 2) return MOCL_OK;
    if (!mocl_mul((size_t)m, sizeof(double) + sizeof(mocl_row) + sizeof(int32_t), &bytes)) return mocl_nomem(ctx, SIZE_MAX);
    double *last = mocl_alloc(ctx, bytes);
    if (!last) return mocl_nomem(ctx, bytes);
    mocl_row *sorted = (mocl_row *)(last + m);
    int32_t *order = (int32_t *)(sorted + m);
    for (int64_t i = 0; i < m; i++) last[i] = rows[i].q[d - 1];
    mocl_status st = mocl_order_descending(ctx, last, 1, (int32_t)m, order);
    for (int64_t i = 0; !st && i < m; i++) sorted[i] = rows[order[i]];
    for (int64_t i = 0, end; !st && i < m; i = end) {
        for (end = i + 1; end < m && sorted[end].q[d - 1] == sorted[i].q[d - 1]; end++) {
        }
        if (end > i + 1) qsort(sorted + i, (size_t)(end - i), sizeof *sorted, mocl_row_by_last);
    }
    if (!st) memcpy(rows, sorted, (size_t)m * sizeof *rows);
    mocl_free(last);
    return st;
}

/* q = points - reference, without the rows that reach below it; *m receives how many are left.
** Each objective is scaled by a power of two (exact), so that no product overflows; *exponent sums
** them up. */
static mocl_status shift(mocl_ctx *ctx, int64_t n, int d, const double *points,
                         const double *reference, double *q, int64_t *m, int64_t *beyond,
                         int *exponent) {
    *m = *beyond = *exponent = 0;
    for (int64_t i = 0; i < n; i++) {
        bool below = false, on_edge = false;
        for (int k = 0; k < d; k++) {
            double v = points[i * d + k] - reference[k];
            if (isinf(v)) {
                return mocl_fail(ctx, MOCL_E_ARG,
                                 "hypervolume: point %lld is too far from the reference",
                                 (long long)i + 1);
            }
            q[*m * d + k] = v;
            below = below || v < 0;
            on_edge = on_edge || v == 0;
        }
        *beyond += below;
        *m += !below && !on_edge;
    }
    for (int k = 0; k < d && *m > 0; k++) {
        double largest = 0;
        for (int64_t i = 0; i < *m; i++) largest = q[i * d + k] > largest ? q[i * d + k] : largest;
        int e = ilogb(largest);
        double factor = ldexp(1, -e); /* a product with a power of two is what ldexp gives, and faster */
        for (int64_t i = 0; i < *m; i++) q[i * d + k] = isinf(factor) ? ldexp(q[i * d + k], -e) : q[i * d + k] * factor;
        *exponent += e;
    }
    return MOCL_OK;
}

/* any number of objectives; rows in any order, dominated ones and copies among them */
static mocl_status slice(mocl_ctx *ctx, mocl_row *rows, int64_t m, int d, double *out, int64_t *front) {
    int64_t distinct = 0;
    qsort(rows, (size_t)m, sizeof *rows, mocl_row_by_first);
    MOCL_TRY(mocl_keep_nondominated(ctx, rows, m, d, &m));
    for (int64_t i = 0; i < m; i++) { /* copies are neighbours */
        if (!distinct || memcmp(rows[distinct - 1].q, rows[i].q, (size_t)d * sizeof(double)) != 0) rows[distinct++] = rows[i];
    }
    *front = distinct;
    qsort(rows, (size_t)distinct, sizeof *rows, mocl_row_by_last);
    return volume_of_rows(ctx, rows, (int)distinct, d, out);
}

mocl_status mocl_hypervolume(mocl_ctx *ctx, int64_t n, int d, const double *points,
                             const double *reference, double *out, mocl_hypervolume_info *info) {
    *out = 0;
    *info = (mocl_hypervolume_info){0, 0};
    MOCL_TRY(check(ctx, n, d, points));
    for (int k = 0; k < d; k++) {
        if (!isfinite(reference[k])) {
            return mocl_fail(ctx, MOCL_E_ARG, "hypervolume: reference %d is %g, not finite", k + 1,
                             mocl_shown(reference[k]));
        }
    }
    size_t bytes;
    if (n > INT32_MAX || !mocl_mul((size_t)n + 1, (size_t)d * sizeof(double), &bytes)) {
        return mocl_fail(ctx, MOCL_E_SHAPE, "hypervolume: %lld points are too many", (long long)n);
    }
    double *q =
        mocl_alloc(ctx, bytes); /* one row more than points: shift writes before it counts */
    mocl_row *rows = NULL;
    int64_t m = 0;
    int exponent = 0;
    mocl_status st = MOCL_OK;
    if (!q) return mocl_nomem(ctx, bytes);
    MOCL_GOTO(shift(ctx, n, d, points, reference, q, &m, &info->beyond, &exponent), done);
    MOCL_GOTO(new_rows(ctx, &rows, m, d, q), done);
    if (d == 3) {
        MOCL_GOTO(sort_by_last(ctx, rows, m, d), done);
        MOCL_GOTO(volume_of_three(ctx, rows, m, out, &info->front), done);
        *out = ldexp(*out, exponent);
        goto done;
    }
    bool settled = false;
    if (d >= MOCL_ZONES_FROM && d <= MOCL_ZONES_TO) {
        if (m > FILTER_FROM) {
            qsort(rows, (size_t)m, sizeof *rows, mocl_row_by_first);
            MOCL_GOTO(mocl_keep_nondominated(ctx, rows, m, d, &m), done);
        }
        MOCL_GOTO(sort_by_last(ctx, rows, m, d), done);
        MOCL_GOTO(mocl_volume_by_zones(ctx, rows, m, d, out, &info->front, &settled), done);
    }
    if (!settled) MOCL_GOTO(slice(ctx, rows, m, d, out, &info->front), done);
    *out = ldexp(*out, exponent);
done:
    if (!st && (isinf(*out) || (*out == 0 && info->front > 0))) {
        st = mocl_fail(ctx, MOCL_E_ARG, "hypervolume: the volume is %s the range of a float: scale the objectives",
                       isinf(*out) ? "beyond" : "below");
    }
    mocl_free(rows);
    mocl_free(q);
    return st;
}
