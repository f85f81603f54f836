/* reduce.c - sums, extremes and running sums along one axis of [outer, n, inner]. */
#include "simd.h"

#include "table.h"

#define COLUMNS 64 /* columns of `inner` that one piece carries along */

struct reduce_job {
    mk_reduce op;
    int64_t outer, n, inner;
    const mk_real *x;
    mk_real *y;
    int32_t *index;
    double *part;
};

/* NaN wins over every number, as in PyTorch */
static int beats(mk_reduce op, mk_real v, mk_real best) {
    if (v != v) return best == best;
    return op == MK_MIN ? v < best : v > best;
}

static void sum_blocks(void *arg, int64_t first, int64_t last) {
    struct reduce_job *j = arg;
    int64_t per_line = mk_ceil_div(j->n, MK_SUM_BLOCK);
    for (int64_t i = first; i < last; i++) {
        int64_t line = i / per_line, at = i % per_line * MK_SUM_BLOCK;
        j->part[i] = mk_simd()->sum(mk_min(MK_SUM_BLOCK, j->n - at), j->x + line * j->n + at);
    }
}

/* inner = 1, long lines: blocks of fixed length, added in order */
static int sum_lines(mk_exec *e, struct reduce_job *j) {
    int64_t per_line = mk_ceil_div(j->n, MK_SUM_BLOCK);
    j->part = mk_scratch(e, (size_t)(j->outer * per_line) * sizeof(double));
    if (!j->part) return MK_NOMEM;
    mk_for(e, j->outer * per_line, 0.15 * (double)mk_min(j->n, MK_SUM_BLOCK) + 5, sum_blocks, j);
    for (int64_t o = 0; o < j->outer; o++) {
        double s = 0;
        for (int64_t b = 0; b < per_line; b++) s += j->part[o * per_line + b];
        j->y[o] = (mk_real)s;
    }
    return MK_OK;
}

#define SUM_ROWS 256 /* rows along n that one partial sum covers */

static void column_blocks(void *arg, int64_t first, int64_t last) {
    struct reduce_job *j = arg;
    const struct mk_simd *simd = mk_simd();
    int64_t per_outer = mk_ceil_div(j->n, SUM_ROWS);
    for (int64_t b = first; b < last; b++) {
        int64_t o = b / per_outer, i0 = b % per_outer * SUM_ROWS, i1 = mk_min(j->n, i0 + SUM_ROWS);
        double *acc = j->part + b * j->inner;
        memset(acc, 0, (size_t)j->inner * sizeof *acc);
        for (int64_t i = i0; i < i1; i++)
            simd->add_to_double(j->inner, j->x + (o * j->n + i) * j->inner, acc);
    }
}

/* inner > 1: blocks of SUM_ROWS rows, added in order */
static int sum_columns(mk_exec *e, struct reduce_job *j) {
    int64_t per_outer = mk_ceil_div(j->n, SUM_ROWS);
    j->part = mk_scratch(e, (size_t)(j->outer * per_outer * j->inner) * sizeof(double));
    if (!j->part) return MK_NOMEM;
    double ns = 0.3 * (double)(mk_min(j->n, SUM_ROWS) * j->inner) + 10;
    mk_for(e, j->outer * per_outer, ns, column_blocks, j);
    for (int64_t o = 0; o < j->outer; o++) {
        const double *part = j->part + o * per_outer * j->inner;
        for (int64_t c = 0; c < j->inner; c++) {
            double s = 0;
            for (int64_t b = 0; b < per_outer; b++) s += part[b * j->inner + c];
            j->y[o * j->inner + c] = (mk_real)s;
        }
    }
    return MK_OK;
}

/* The other reductions. Items are COLUMNS columns of one outer index. */
static void reduce_range(void *arg, int64_t first, int64_t last) {
    struct reduce_job *j = arg;
    int64_t blocks = mk_ceil_div(j->inner, COLUMNS);
    for (int64_t b = first; b < last; b++) {
        int64_t o = b / blocks, c0 = b % blocks * COLUMNS, w = mk_min(COLUMNS, j->inner - c0);
        const mk_real *x = j->x + o * j->n * j->inner + c0;
        mk_real *y = j->y + o * j->inner + c0;
        double acc[COLUMNS];
        mk_real best[COLUMNS];
        for (int64_t c = 0; c < w; c++) {
            acc[c] = 0;
            best[c] = j->op == MK_MIN ? (mk_real)INFINITY : (mk_real)-INFINITY;
        }
        for (int64_t i = 0; i < j->n; i++)
            for (int64_t c = 0; c < w; c++) {
                mk_real v = x[i * j->inner + c];
                if (beats(j->op, v, best[c])) best[c] = v;
            }
        if (j->op == MK_LOGSUMEXP)
            for (int64_t i = 0; i < j->n; i++)
                for (int64_t c = 0; c < w; c++)
                    if (MK_R(fabs)(best[c]) <= (mk_real)3e38)
                        acc[c] += (double)MK_R(exp)(x[i * j->inner + c] - best[c]);
        for (int64_t c = 0; c < w; c++) {
            if (j->op == MK_LOGSUMEXP && acc[c] > 0)
                y[c] = (mk_real)((double)best[c] + log(acc[c]));
            else
                y[c] = best[c];
        }
    }
}

int mk_cpu_reduce(mk_exec *e, mk_reduce op, int64_t outer, int64_t n, int64_t inner,
                  const mk_real *x, mk_real *y) {
    struct reduce_job j = {.op = op, .outer = outer, .n = n, .inner = inner, .x = x, .y = y};
    if (outer <= 0 || inner <= 0) return MK_OK;
    if (op == MK_SUM && n <= 0) {
        for (int64_t i = 0; i < outer * inner; i++) y[i] = 0;
        return MK_OK;
    }
    if (op == MK_SUM) return inner == 1 ? sum_lines(e, &j) : sum_columns(e, &j);
    double ns = (double)n * (double)mk_min(inner, COLUMNS) * (op == MK_LOGSUMEXP ? 10 : 1);
    mk_for(e, outer * mk_ceil_div(inner, COLUMNS), ns + 10, reduce_range, &j);
    return MK_OK;
}

static void argreduce_range(void *arg, int64_t first, int64_t last) {
    struct reduce_job *j = arg;
    for (int64_t r = first; r < last; r++) {
        const mk_real *x = j->x + r / j->inner * j->n * j->inner + r % j->inner;
        int32_t at = 0;
        for (int64_t i = 1; i < j->n; i++)
            if (beats(j->op, x[i * j->inner], x[at * j->inner])) at = (int32_t)i;
        j->index[r] = at;
    }
}

int mk_cpu_argreduce(mk_exec *e, mk_reduce op, int64_t outer, int64_t n, int64_t inner,
                     const mk_real *x, int32_t *y) {
    struct reduce_job j = {.op = op, .outer = outer, .n = n, .inner = inner, .x = x, .index = y};
    mk_for(e, outer * inner, 1.0 * (double)n + 10, argreduce_range, &j);
    return MK_OK;
}

static void cumsum_range(void *arg, int64_t first, int64_t last) {
    struct reduce_job *j = arg;
    for (int64_t r = first; r < last; r++) {
        int64_t at = r / j->inner * j->n * j->inner + r % j->inner;
        double s = 0;
        for (int64_t i = 0; i < j->n; i++, at += j->inner) {
            s += (double)j->x[at];
            j->y[at] = (mk_real)s;
        }
    }
}

int mk_cpu_cumsum(mk_exec *e, int64_t outer, int64_t n, int64_t inner, const mk_real *x,
                  mk_real *y) {
    struct reduce_job j = {.outer = outer, .n = n, .inner = inner, .x = x, .y = y};
    mk_for(e, outer * inner, 2.0 * (double)n + 10, cumsum_range, &j);
    return MK_OK;
}
