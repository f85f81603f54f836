/* rows.c - kernels over the rows of [rows, n]: softmax, norms, gathering, segments. */
#include "simd.h"

#include "table.h"

#define WEIGHT_ROWS 64 /* rows whose weight gradients are added up before they go into a double */

struct rows_job {
    int64_t rows, n;
    const mk_real *x, *y, *w, *b, *dy;
    mk_real *out, *mean, *rstd;
    const mk_real *mean_in, *rstd_in;
    const int32_t *idx;
    double eps;
    mk_dtype type, y_type; /* of x, and of what comes out */
    mk_real *room;         /* of bf16: a row for each block of items */
    int64_t block;
    size_t bytes; /* of a row */
    mk_real *part;
    int flag;
};

/* ---- softmax ------------------------------------------------------------------------------------ */

static void softmax_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    const struct mk_simd *simd = mk_simd();
    for (int64_t r = first; r < last; r++)
        simd->softmax(j->n, j->x + r * j->n, j->out + r * j->n, j->flag);
}

int mk_cpu_softmax(mk_exec *e, int log, int64_t rows, int64_t n, const mk_real *x, mk_real *y) {
    struct rows_job j = {.rows = rows, .n = n, .x = x, .out = y, .flag = log};
    if (n > 0) mk_for(e, rows, 1.0 * (double)n + 20, softmax_range, &j);
    return MK_OK;
}

static void softmax_bwd_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    const struct mk_simd *simd = mk_simd();
    for (int64_t r = first; r < last; r++)
        simd->softmax_bwd(j->n, j->y + r * j->n, j->dy + r * j->n, j->out + r * j->n, j->flag);
}

int mk_cpu_softmax_bwd(mk_exec *e, int log, int64_t rows, int64_t n, const mk_real *y,
                       const mk_real *dy, mk_real *dx) {
    struct rows_job j = {.rows = rows, .n = n, .y = y, .dy = dy, .out = dx, .flag = log};
    if (n > 0) mk_for(e, rows, 0.6 * (double)n + 20, softmax_bwd_range, &j);
    return MK_OK;
}

/* ---- norms -------------------------------------------------------------------------------------- */

/* Rows of bf16 as f32, in the room of the block that begins with item `first`. */
static mk_real *widened(const struct rows_job *j, int64_t first, int64_t r) {
    mk_real *room = j->room + first / j->block * j->n;
    mk_simd()->from_bf16(j->n, (const mk_bf16 *)(const void *)j->x + r * j->n, room);
    return room;
}

static void rmsnorm_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    const struct mk_simd *simd = mk_simd();
    for (int64_t r = first; j->type == MK_BF16 && r < last; r++) {
        mk_real *x = widened(j, first, r);
        j->rstd[r] = simd->rmsnorm(j->n, x, j->w, j->eps, j->y_type == MK_BF16 ? x : j->out + r * j->n);
        if (j->y_type == MK_BF16) simd->to_bf16(j->n, x, (mk_bf16 *)(void *)j->out + r * j->n);
    }
    if (j->type == MK_BF16) return;
    for (int64_t r = first; r < last; r++)
        j->rstd[r] = simd->rmsnorm(j->n, j->x + r * j->n, j->w, j->eps, j->out + r * j->n);
}

int mk_cpu_rmsnorm(mk_exec *e, mk_dtype type, int64_t rows, int64_t n, const void *x, const mk_real *w,
                   double eps, mk_dtype y_type, void *y, mk_real *rstd) {
    struct rows_job j = {.rows = rows, .n = n, .x = x, .w = w, .out = y, .rstd = rstd, .eps = eps, .type = type, .y_type = y_type};
    double ns = 0.3 * (double)n + 15;
    if (y_type != MK_F32 && y_type != type) return MK_UNSUPPORTED;
    if (type != MK_F32 && rows > 0 && !(j.room = mk_rooms(e, rows, ns, n, 0, &j.block))) return MK_NOMEM;
    mk_for(e, rows, ns, rmsnorm_range, &j);
    return MK_OK;
}

static void layernorm_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    const struct mk_simd *simd = mk_simd();
    for (int64_t r = first; r < last; r++)
        j->rstd[r] = simd->layernorm(j->n, j->x + r * j->n, j->w, j->b, j->eps, j->out + r * j->n,
                                     j->mean + r);
}

int mk_cpu_layernorm(mk_exec *e, int64_t rows, int64_t n, const mk_real *x, const mk_real *w,
                     const mk_real *b, double eps, mk_real *y, mk_real *mean, mk_real *rstd) {
    struct rows_job j = {.rows = rows, .n = n, .x = x, .w = w, .b = b, .out = y, .mean = mean,
                         .rstd = rstd, .eps = eps};
    mk_for(e, rows, 0.4 * (double)n + 20, layernorm_range, &j);
    return MK_OK;
}

/* Items are WEIGHT_ROWS rows: their dx, and their part of dw and db, part[item][2][n]. RMSNorm has no
** mean and no db. */
static void norm_bwd_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    const struct mk_simd *simd = mk_simd();
    int64_t n = j->n;
    for (int64_t p = first; p < last; p++) {
        mk_real *dw = j->part ? j->part + p * 2 * n : NULL, *db = dw ? dw + n : NULL;
        if (dw) memset(dw, 0, (size_t)(2 * n) * sizeof *dw);
        for (int64_t r = p * WEIGHT_ROWS; r < mk_min((p + 1) * WEIGHT_ROWS, j->rows); r++) {
            const mk_real *x = j->type == MK_BF16 ? widened(j, p, r) : j->x + r * n, *dy = j->dy + r * n;
            if (j->mean_in)
                simd->layernorm_bwd(n, x, j->w, j->mean_in[r], j->rstd_in[r], dy, j->out + r * n, dw,
                                    db);
            else
                simd->rmsnorm_bwd(n, x, j->w, j->rstd_in[r], dy, j->out + r * n, dw);
        }
    }
}

static int norm_bwd(mk_exec *e, struct rows_job *j, mk_real *dw, mk_real *db) {
    int64_t items = mk_ceil_div(j->rows, WEIGHT_ROWS), n = j->n;
    if (j->rows <= 0 || n <= 0) return MK_OK;
    if (dw || db || j->type == MK_BF16) { /* parts, then a row for each item */
        j->part = mk_scratch(e, (size_t)(items * 3 * n) * sizeof *j->part);
        if (!j->part) return MK_NOMEM;
        j->room = j->part + items * 2 * n;
        j->block = 1;
        if (!dw && !db) j->part = NULL;
    }
    mk_for(e, items, (0.6 * (double)n + 20) * (double)mk_min(WEIGHT_ROWS, j->rows), norm_bwd_range, j);
    for (int side = 0; side < 2; side++) {
        mk_real *to = side ? db : dw;
        for (int64_t i = 0; to && i < n; i++) {
            double sum = 0;
            for (int64_t p = 0; p < items; p++) sum += (double)j->part[(p * 2 + side) * n + i];
            to[i] += (mk_real)sum;
        }
    }
    return MK_OK;
}

int mk_cpu_rmsnorm_bwd(mk_exec *e, mk_dtype type, int64_t rows, int64_t n, const void *x, const mk_real *w,
                       const mk_real *rstd, const mk_real *dy, mk_real *dx, mk_real *dw) {
    struct rows_job j = {.rows = rows, .n = n, .x = x, .w = w, .dy = dy, .out = dx, .rstd_in = rstd, .type = type};
    return norm_bwd(e, &j, dw, NULL);
}

int mk_cpu_layernorm_bwd(mk_exec *e, int64_t rows, int64_t n, const mk_real *x, const mk_real *w,
                         const mk_real *mean, const mk_real *rstd, const mk_real *dy, mk_real *dx,
                         mk_real *dw, mk_real *db) {
    struct rows_job j = {.rows = rows, .n = n, .x = x, .w = w, .dy = dy, .out = dx,
                         .mean_in = mean, .rstd_in = rstd};
    return norm_bwd(e, &j, dw, db);
}

/* ---- rows by index ------------------------------------------------------------------------------ */

static void gather_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    for (int64_t i = first; i < last; i++)
        memcpy((char *)j->out + (size_t)i * j->bytes, (const char *)j->x + (size_t)j->idx[i] * j->bytes, j->bytes);
}

int mk_cpu_gather_rows(mk_exec *e, mk_dtype type, int64_t n, int64_t d, const void *src, const int32_t *idx,
                       void *dst) {
    struct rows_job j = {.n = d, .x = src, .idx = idx, .out = dst, .bytes = (size_t)d * mk_dtype_bytes(type)};
    if (d > 0) mk_for(e, n, 0.3 * (double)d + 5, gather_range, &j);
    return MK_OK;
}

/* Each piece owns a range of rows of dst and looks through all of idx, which keeps the order of i. */
static void scatter_range(void *arg, int64_t first, int64_t last) {
    struct rows_job *j = arg;
    const struct mk_simd *simd = mk_simd();
    for (int64_t i = 0; i < j->rows; i++) {
        if (j->idx[i] < first || j->idx[i] >= last) continue;
        const mk_real *x = j->x + i * j->n;
        mk_real *y = j->out + (int64_t)j->idx[i] * j->n;
        simd->axpy(j->n, 1, x, y);
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

int mk_cpu_scatter_add_rows(mk_exec *e, int64_t n, int64_t d, const mk_real *src, const int32_t *idx,
                            int64_t n_dst, mk_real *dst) {
    struct rows_job j = {.rows = n, .n = d, .x = src, .idx = idx, .out = dst};
    struct scatter_split s = {&j, n_dst, 1};
    if (0.5 * (double)n * (double)d > 2 * MK_GRAIN_NS) s.parts = mk_min(8, mk_max(n_dst, 1));
    mk_parallel(e, s.parts, scatter_piece, &s);
    return MK_OK;
}

int mk_cpu_pick(mk_exec *e, int64_t rows, int64_t n, const mk_real *x, const int32_t *idx,
                mk_real *y) {
    (void)e;
    for (int64_t r = 0; r < rows; r++) y[r] = x[r * n + idx[r]];
    return MK_OK;
}

int mk_cpu_pick_bwd(mk_exec *e, int64_t rows, int64_t n, const int32_t *idx, const mk_real *dy,
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

int mk_cpu_segment_sum(mk_exec *e, int mean, int64_t n_seq, const int32_t *offsets, int64_t n,
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

int mk_cpu_segment_sum_bwd(mk_exec *e, int mean, int64_t n_seq, const int32_t *offsets, int64_t n,
                           const mk_real *dy, mk_real *dx) {
    struct rows_job j = {.n = n, .dy = dy, .out = dx, .idx = offsets, .flag = mean};
    if (n_seq <= 0) return MK_OK;
    double tokens = (double)offsets[n_seq] / (double)n_seq;
    mk_for(e, n_seq, 0.5 * tokens * (double)n + 20, segment_bwd_range, &j);
    return MK_OK;
}
