/* rows.c - kernels over the rows of [rows, n]: softmax, norms, gathering, segments. */
#include "table.h"

#define WEIGHT_ROWS 256 /* rows whose weight gradients are added up in one piece */

struct rows_job {
    int64_t rows, n;
    const mk_real *x, *y, *w, *b, *dy;
    mk_real *out, *mean, *rstd;
    const mk_real *mean_in, *rstd_in;
    const int32_t *idx;
    double eps;
    double *part;
    int flag;
};

/* ---- softmax ------------------------------------------------------------------------------------ */

static void softmax_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    for (int64_t r = first; r < last; r++) {
        const mk_real *x = j->x + r * j->n;
        mk_real *y = j->out + r * j->n;
        mk_real top = x[0];
        double sum = 0;
        for (int64_t i = 1; i < j->n; i++) top = x[i] > top ? x[i] : top;
        if (j->flag) {
            for (int64_t i = 0; i < j->n; i++) sum += (double)MK_R(exp)(x[i] - top);
            mk_real log_sum = (mk_real)log(sum);
            for (int64_t i = 0; i < j->n; i++) y[i] = (x[i] - top) - log_sum;
        } else {
            for (int64_t i = 0; i < j->n; i++) {
                y[i] = MK_R(exp)(x[i] - top);
                sum += (double)y[i];
            }
            mk_real inv = (mk_real)(1 / sum);
            for (int64_t i = 0; i < j->n; i++) y[i] *= inv;
        }
    }
}

int mk_cpu_softmax(mk_env *e, int log, int64_t rows, int64_t n, const mk_real *x, mk_real *y) {
    struct rows_job j = {.rows = rows, .n = n, .x = x, .out = y, .flag = log};
    if (n > 0) mk_for(e, rows, 4.0 * (double)n + 20, softmax_range, &j);
    return MK_OK;
}

static void softmax_bwd_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    for (int64_t r = first; r < last; r++) {
        const mk_real *y = j->y + r * j->n, *dy = j->dy + r * j->n;
        mk_real *dx = j->out + r * j->n;
        double sum = 0;
        if (j->flag) {
            for (int64_t i = 0; i < j->n; i++) sum += (double)dy[i];
            for (int64_t i = 0; i < j->n; i++) dx[i] = dy[i] - MK_R(exp)(y[i]) * (mk_real)sum;
        } else {
            for (int64_t i = 0; i < j->n; i++) sum += (double)y[i] * (double)dy[i];
            for (int64_t i = 0; i < j->n; i++) dx[i] = y[i] * (dy[i] - (mk_real)sum);
        }
    }
}

int mk_cpu_softmax_bwd(mk_env *e, int log, int64_t rows, int64_t n, const mk_real *y,
                       const mk_real *dy, mk_real *dx) {
    struct rows_job j = {.rows = rows, .n = n, .y = y, .dy = dy, .out = dx, .flag = log};
    if (n > 0) mk_for(e, rows, 2.0 * (double)n + 20, softmax_bwd_range, &j);
    return MK_OK;
}

/* ---- norms -------------------------------------------------------------------------------------- */

static void rmsnorm_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    for (int64_t r = first; r < last; r++) {
        const mk_real *x = j->x + r * j->n;
        mk_real *y = j->out + r * j->n;
        double sum = 0;
        for (int64_t i = 0; i < j->n; i++) sum += (double)x[i] * (double)x[i];
        mk_real s = (mk_real)(1 / sqrt(sum / (double)j->n + j->eps));
        j->rstd[r] = s;
        for (int64_t i = 0; i < j->n; i++) y[i] = x[i] * s * (j->w ? j->w[i] : 1);
    }
}

int mk_cpu_rmsnorm(mk_env *e, int64_t rows, int64_t n, const mk_real *x, const mk_real *w,
                   double eps, mk_real *y, mk_real *rstd) {
    struct rows_job j = {.rows = rows, .n = n, .x = x, .w = w, .out = y, .rstd = rstd, .eps = eps};
    mk_for(e, rows, 2.0 * (double)n + 20, rmsnorm_range, &j);
    return MK_OK;
}

/* With g = w dy and h = x rstd: dx = rstd (g - h mean(g h)). */
static void rmsnorm_bwd_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    for (int64_t r = first; r < last; r++) {
        const mk_real *x = j->x + r * j->n, *dy = j->dy + r * j->n;
        mk_real *dx = j->out + r * j->n, s = j->rstd_in[r];
        double sum = 0;
        for (int64_t i = 0; i < j->n; i++) {
            mk_real g = j->w ? j->w[i] * dy[i] : dy[i];
            sum += (double)g * (double)x[i];
        }
        mk_real c = (mk_real)(sum * (double)s * (double)s / (double)j->n);
        for (int64_t i = 0; i < j->n; i++) {
            mk_real g = j->w ? j->w[i] * dy[i] : dy[i];
            dx[i] = s * (g - x[i] * c);
        }
    }
}

/* One piece: the weight gradient of WEIGHT_ROWS rows, part[piece][2][n] (db second). */
static void norm_weights(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    for (int64_t p = first; p < last; p++) {
        double *dw = j->part + p * 2 * j->n, *db = dw + j->n;
        for (int64_t i = 0; i < 2 * j->n; i++) dw[i] = 0;
        for (int64_t r = p * WEIGHT_ROWS; r < mk_min((p + 1) * WEIGHT_ROWS, j->rows); r++) {
            const mk_real *x = j->x + r * j->n, *dy = j->dy + r * j->n;
            double s = (double)j->rstd_in[r], m = j->mean_in ? (double)j->mean_in[r] : 0;
            for (int64_t i = 0; i < j->n; i++) dw[i] += (double)dy[i] * (((double)x[i] - m) * s);
            for (int64_t i = 0; i < j->n; i++) db[i] += (double)dy[i];
        }
    }
}

static int add_norm_weights(mk_env *e, struct rows_job *j, mk_real *dw, mk_real *db) {
    int64_t pieces = mk_ceil_div(j->rows, WEIGHT_ROWS);
    if ((!dw && !db) || j->rows <= 0) return MK_OK;
    j->part = mk_scratch(e, (size_t)(pieces * 2 * j->n) * sizeof(double));
    if (!j->part) return MK_NOMEM;
    mk_for(e, pieces, 1.0 * (double)(mk_min(j->rows, WEIGHT_ROWS) * j->n), norm_weights, j);
    for (int64_t i = 0; i < j->n; i++) {
        double sw = 0, sb = 0;
        for (int64_t p = 0; p < pieces; p++) {
            sw += j->part[p * 2 * j->n + i];
            sb += j->part[(p * 2 + 1) * j->n + i];
        }
        if (dw) dw[i] += (mk_real)sw;
        if (db) db[i] += (mk_real)sb;
    }
    return MK_OK;
}

int mk_cpu_rmsnorm_bwd(mk_env *e, int64_t rows, int64_t n, const mk_real *x, const mk_real *w,
                       const mk_real *rstd, const mk_real *dy, mk_real *dx, mk_real *dw) {
    struct rows_job j = {.rows = rows, .n = n, .x = x, .w = w, .dy = dy, .out = dx, .rstd_in = rstd};
    mk_for(e, rows, 3.0 * (double)n + 20, rmsnorm_bwd_range, &j);
    return add_norm_weights(e, &j, dw, NULL);
}

static void layernorm_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    double n = (double)j->n;
    for (int64_t r = first; r < last; r++) {
        const mk_real *x = j->x + r * j->n;
        mk_real *y = j->out + r * j->n;
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < j->n; i++) sum += (double)x[i];
        mk_real mean = (mk_real)(sum / n);
        for (int64_t i = 0; i < j->n; i++) {
            double d = (double)(x[i] - mean);
            squares += d * d;
        }
        mk_real s = (mk_real)(1 / sqrt(squares / n + j->eps));
        j->mean[r] = mean;
        j->rstd[r] = s;
        for (int64_t i = 0; i < j->n; i++)
            y[i] = (x[i] - mean) * s * (j->w ? j->w[i] : 1) + (j->b ? j->b[i] : 0);
    }
}

int mk_cpu_layernorm(mk_env *e, int64_t rows, int64_t n, const mk_real *x, const mk_real *w,
                     const mk_real *b, double eps, mk_real *y, mk_real *mean, mk_real *rstd) {
    struct rows_job j = {.rows = rows, .n = n, .x = x, .w = w, .b = b, .out = y, .mean = mean,
                         .rstd = rstd, .eps = eps};
    mk_for(e, rows, 3.0 * (double)n + 20, layernorm_range, &j);
    return MK_OK;
}

/* With g = w dy and h = (x - mean) rstd: dx = rstd (g - mean(g) - h mean(g h)). */
static void layernorm_bwd_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    double n = (double)j->n;
    for (int64_t r = first; r < last; r++) {
        const mk_real *x = j->x + r * j->n, *dy = j->dy + r * j->n;
        mk_real *dx = j->out + r * j->n, m = j->mean_in[r], s = j->rstd_in[r];
        double sum = 0, dot = 0;
        for (int64_t i = 0; i < j->n; i++) {
            mk_real g = j->w ? j->w[i] * dy[i] : dy[i];
            sum += (double)g;
            dot += (double)g * (double)((x[i] - m) * s);
        }
        mk_real c0 = (mk_real)(sum / n), c1 = (mk_real)(dot / n);
        for (int64_t i = 0; i < j->n; i++) {
            mk_real g = j->w ? j->w[i] * dy[i] : dy[i];
            dx[i] = s * (g - c0 - (x[i] - m) * s * c1);
        }
    }
}

int mk_cpu_layernorm_bwd(mk_env *e, int64_t rows, int64_t n, const mk_real *x, const mk_real *w,
                         const mk_real *mean, const mk_real *rstd, const mk_real *dy, mk_real *dx,
                         mk_real *dw, mk_real *db) {
    struct rows_job j = {.rows = rows, .n = n, .x = x, .w = w, .dy = dy, .out = dx,
                         .mean_in = mean, .rstd_in = rstd};
    mk_for(e, rows, 4.0 * (double)n + 20, layernorm_bwd_range, &j);
    return add_norm_weights(e, &j, dw, db);
}

/* ---- rows by index ------------------------------------------------------------------------------ */

static void gather_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    size_t bytes = (size_t)j->n * sizeof(mk_real);
    for (int64_t i = first; i < last; i++)
        memcpy(j->out + i * j->n, j->x + (int64_t)j->idx[i] * j->n, bytes);
}

int mk_cpu_gather_rows(mk_env *e, int64_t n, int64_t d, const mk_real *src, const int32_t *idx,
                       mk_real *dst) {
    struct rows_job j = {.n = d, .x = src, .idx = idx, .out = dst};
    if (d > 0) mk_for(e, n, 0.3 * (double)d + 5, gather_range, &j);
    return MK_OK;
}

/* Each piece owns a range of rows of dst and looks through all of idx, which keeps the order of i. */
static void scatter_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    for (int64_t i = 0; i < j->rows; i++) {
        if (j->idx[i] < first || j->idx[i] >= last) continue;
        const mk_real *x = j->x + i * j->n;
        mk_real *y = j->out + (int64_t)j->idx[i] * j->n;
        for (int64_t c = 0; c < j->n; c++) y[c] += x[c];
    }
}

struct scatter_split {
    struct rows_job *job;
    int64_t n_dst, parts;
};

static void scatter_piece(void *arg, int64_t i) {
    struct scatter_split *s = arg;
    scatter_range(s->job, s->n_dst * i / s->parts, s->n_dst * (i + 1) / s->parts);
}

int mk_cpu_scatter_add_rows(mk_env *e, int64_t n, int64_t d, const mk_real *src, const int32_t *idx,
                            int64_t n_dst, mk_real *dst) {
    struct rows_job j = {.rows = n, .n = d, .x = src, .idx = idx, .out = dst};
    struct scatter_split s = {&j, n_dst, 1};
    if (0.5 * (double)n * (double)d > 2 * MK_GRAIN_NS) s.parts = mk_min(8, mk_max(n_dst, 1));
    mk_parallel(e, s.parts, scatter_piece, &s);
    return MK_OK;
}

int mk_cpu_pick(mk_env *e, int64_t rows, int64_t n, const mk_real *x, const int32_t *idx,
                mk_real *y) {
    (void)e;
    for (int64_t r = 0; r < rows; r++) y[r] = x[r * n + idx[r]];
    return MK_OK;
}

int mk_cpu_pick_bwd(mk_env *e, int64_t rows, int64_t n, const int32_t *idx, const mk_real *dy,
                    mk_real *dx) {
    (void)e;
    for (int64_t r = 0; r < rows; r++) dx[r * n + idx[r]] += dy[r];
    return MK_OK;
}

/* ---- segments ----------------------------------------------------------------------------------- */

#define COLUMNS 64

static void segment_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    for (int64_t s = first; s < last; s++) {
        int64_t t0 = j->idx[s], t1 = j->idx[s + 1];
        double scale = j->flag && t1 > t0 ? 1 / (double)(t1 - t0) : 1;
        for (int64_t c0 = 0; c0 < j->n; c0 += COLUMNS) {
            int64_t w = mk_min(COLUMNS, j->n - c0);
            double acc[COLUMNS] = {0};
            for (int64_t t = t0; t < t1; t++)
                for (int64_t c = 0; c < w; c++) acc[c] += (double)j->x[t * j->n + c0 + c];
            for (int64_t c = 0; c < w; c++) j->out[s * j->n + c0 + c] = (mk_real)(acc[c] * scale);
        }
    }
}

int mk_cpu_segment_sum(mk_env *e, int mean, int64_t n_seq, const int32_t *offsets, int64_t n,
                       const mk_real *x, mk_real *y) {
    struct rows_job j = {.n = n, .x = x, .out = y, .idx = offsets, .flag = mean};
    if (n_seq <= 0) return MK_OK;
    double tokens = (double)offsets[n_seq] / (double)n_seq;
    mk_for(e, n_seq, tokens * (double)n + 20, segment_range, &j);
    return MK_OK;
}

static void segment_bwd_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    for (int64_t s = first; s < last; s++) {
        int64_t t0 = j->idx[s], t1 = j->idx[s + 1];
        mk_real scale = j->flag && t1 > t0 ? (mk_real)(1 / (double)(t1 - t0)) : 1;
        for (int64_t t = t0; t < t1; t++)
            for (int64_t c = 0; c < j->n; c++) j->out[t * j->n + c] = j->dy[s * j->n + c] * scale;
    }
}

int mk_cpu_segment_sum_bwd(mk_env *e, int mean, int64_t n_seq, const int32_t *offsets, int64_t n,
                           const mk_real *dy, mk_real *dx) {
    struct rows_job j = {.n = n, .dy = dy, .out = dx, .idx = offsets, .flag = mean};
    if (n_seq <= 0) return MK_OK;
    double tokens = (double)offsets[n_seq] / (double)n_seq;
    mk_for(e, n_seq, 0.5 * tokens * (double)n + 20, segment_bwd_range, &j);
    return MK_OK;
}
