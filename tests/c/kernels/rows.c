/* rows.c - softmax, norms, rows picked and added by index */
#include "harness.h"

struct rows_ref { int64_t rows, n; int kind; const mk_real *w, *b; double eps; const int32_t *idx; };

enum { SOFTMAX, LOG_SOFTMAX, RMSNORM, LAYERNORM };

static void rows_reference(void *arg, const double *x, double *y) {
    struct rows_ref *a = arg;
    for (int64_t r = 0; r < a->rows; r++, x += a->n, y += a->n) {
        double top = -INFINITY, sum = 0, mean = 0, sq = 0;
        int64_t n = a->n;
        for (int64_t i = 0; i < n; i++) top = fmax(top, x[i]), mean += x[i] / (double)n;
        for (int64_t i = 0; i < n; i++) sum += exp(x[i] - top);
        if (a->kind == RMSNORM) mean = 0;
        for (int64_t i = 0; i < n; i++) sq += (x[i] - mean) * (x[i] - mean) / (double)n;
        for (int64_t i = 0; i < n; i++)
            switch (a->kind) {
                case SOFTMAX: y[i] = exp(x[i] - top) / sum; break;
                case LOG_SOFTMAX: y[i] = x[i] - top - log(sum); break;
                default:
                    y[i] = (x[i] - mean) / sqrt(sq + a->eps) * (a->w ? (double)a->w[i] : 1) +
                           (a->b ? (double)a->b[i] : 0);
            }
    }
}

struct weight_ref { struct rows_ref r; const double *x; int bias; };
static void weight_reference(void *arg, const double *w, double *y) {
    struct weight_ref *a = arg;
    rows_reference(&a->r, a->x, y);
    for (int64_t i = 0; i < a->r.rows * a->r.n; i++)
        y[i] = a->bias ? y[i] + w[i % a->r.n] : y[i] * w[i % a->r.n];
}

static const int64_t row_shapes[][2] = {{1, 1}, {3, 5}, {7, 16}, {9, 33}, {5, 64}, {600, 130},
                                        {3, 1000}, {70, 2049}};

void test_softmax(void) {
    for (size_t s = 0; s < sizeof row_shapes / sizeof *row_shapes; s++)
        for (int kind = SOFTMAX; kind <= LOG_SOFTMAX; kind++) {
            int64_t R = row_shapes[s][0], n = row_shapes[s][1];
            mk_real *x = randoms(R * n, -8, 8), *y = empty(R * n), *dy = randoms(R * n, -1, 1);
            mk_real *dx = empty(R * n), *one = empty(n);
            struct rows_ref ref = {.rows = R, .n = n, .kind = kind};
            double *in = doubles(R * n, x), *want = doubles(R * n, NULL);
            rows_reference(&ref, in, want);
            ok(K->softmax(E, kind, R, n, x, y) == MK_OK, "softmax works");
            near_all("softmax", R * n, y, want, TOL);
            K->softmax_bwd(E, kind, R, n, y, dy, dx);
            gradient("softmax", rows_reference, &ref, R * n, x, R * n, dy, dx);
            K->softmax(E, kind, 1, n, x + (R - 1) * n, one);
            same_bits("softmax of one row", n, one, y + (R - 1) * n);
            K->softmax(E, kind, R, n, x, x);
            same_bits("softmax in place", R * n, x, y);
        }
    mk_real x[] = {0, (mk_real)-INFINITY, 1000, 999}, y[4];
    K->softmax(E, 0, 1, 4, x, y);
    ok(y[0] == 0 && y[1] == 0 && fabs((double)y[2] - 0.7310585786300049) < 1e-6, "far apart");
    K->softmax(E, 1, 1, 4, x, y);
    ok(isinf(y[1]) && y[1] < 0 && fabs((double)y[0] + 1000.31326) < 1e-3, "logs far apart");
}

void test_norms(void) {
    for (size_t s = 0; s < sizeof row_shapes / sizeof *row_shapes; s++)
        for (int kind = RMSNORM; kind <= LAYERNORM; kind++)
            for (int weights = 0; weights < 2; weights++) {
                int64_t R = row_shapes[s][0], n = row_shapes[s][1];
                mk_real *x = randoms(R * n, -2, 3), *w = weights ? randoms(n, -2, 2) : NULL;
                mk_real *b = weights ? randoms(n, -1, 1) : NULL, *y = empty(R * n);
                mk_real *mean = empty(R), *rstd = empty(R), *dy = randoms(R * n, -1, 1);
                mk_real *dx = empty(R * n), *dw = constant(n, 0), *db = constant(n, 0);
                struct rows_ref ref = {.rows = R, .n = n, .kind = kind, .w = w, .eps = 1e-3,
                                       .b = kind == LAYERNORM ? b : NULL};
                double *in = doubles(R * n, x), *want = doubles(R * n, NULL);
                rows_reference(&ref, in, want);
                if (kind == RMSNORM)
                    K->rmsnorm(E, MK_F32, R, n, x, w, 1e-3, MK_F32, y, rstd);
                else
                    K->layernorm(E, R, n, x, w, b, 1e-3, y, mean, rstd);
                near_all("norm", R * n, y, want, 4 * TOL);
                if (kind == RMSNORM)
                    K->rmsnorm_bwd(E, MK_F32, R, n, x, w, rstd, dy, dx, weights ? dw : NULL);
                else
                    K->layernorm_bwd(E, R, n, x, w, mean, rstd, dy, dx, weights ? dw : NULL,
                                     weights ? db : NULL);
                gradient("norm dx", rows_reference, &ref, R * n, x, R * n, dy, dx);
                mk_real *one = empty(n), m1, r1;
                if (kind == RMSNORM)
                    K->rmsnorm(E, MK_F32, 1, n, x + (R - 1) * n, w, 1e-3, MK_F32, one, &r1);
                else
                    K->layernorm(E, 1, n, x + (R - 1) * n, w, b, 1e-3, one, &m1, &r1);
                same_bits("norm of one row", n, one, y + (R - 1) * n);
                mk_real *same = copy_of(R * n, x), *means = empty(R), *deviations = empty(R);
                if (kind == RMSNORM)
                    K->rmsnorm(E, MK_F32, R, n, same, w, 1e-3, MK_F32, same, deviations);
                else
                    K->layernorm(E, R, n, same, w, b, 1e-3, same, means, deviations);
                same_bits("norm in place", R * n, same, y);
                if (weights) {
                    struct weight_ref wr = {ref, in, 0};
                    wr.r.w = wr.r.b = NULL;
                    gradient("norm dw", weight_reference, &wr, n, w, R * n, dy, dw);
                    wr.bias = 1;
                    if (kind == LAYERNORM)
                        gradient("norm db", weight_reference, &wr, n, b, R * n, dy, db);
                    mk_real *twice = copy_of(n, dw);
                    K->rmsnorm_bwd(E, MK_F32, R, n, x, w, rstd, dy, dx, twice);
                    if (kind == RMSNORM)
                        for (int64_t i = 0; i < n; i++)
                            ok(twice[i] == dw[i] + dw[i], "dw accumulates");
                }
                buffers_free();
            }
}

void test_indexed_rows(void) {
    int64_t n = 3000, d = 37, rows = 300;
    mk_real *src = randoms(rows * d, -1, 1), *dst = empty(n * d), *acc = randoms(rows * d, -1, 1);
    mk_real *want_acc = copy_of(rows * d, acc);
    int32_t *idx = integers(n, 0, rows);
    K->gather_rows(E, MK_F32, n, d, src, idx, dst);
    for (int64_t i = 0; i < n * d; i++)
        ok(dst[i] == src[idx[i / d] * d + i % d], "gather_rows");
    for (int64_t i = 0; i < n * d; i++) dst[i] = (mk_real)(uniform() - 0.5);
    K->scatter_add_rows(E, n, d, dst, idx, rows, acc);
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < d; c++) want_acc[idx[i] * d + c] += dst[i * d + c];
    same_bits("scatter_add_rows in order", rows * d, acc, want_acc);
    mk_real *y = empty(n), *dx = constant(n * d, 1);
    int32_t *col = integers(n, 0, d);
    K->pick(E, n, d, dst, col, y);
    K->pick_bwd(E, n, d, col, y, dx);
    for (int64_t i = 0; i < n * d; i++) {
        int hit = i % d == col[i / d];
        ok(!hit || y[i / d] == dst[i], "pick");
        ok(dx[i] == (hit ? 1 + y[i / d] : 1), "pick_bwd");
    }
    int32_t off[] = {0, 5, 5, 105, 106, 3000};
    for (int mean = 0; mean < 2; mean++) {
        mk_real *sum = empty(5 * d), *back = empty(n * d);
        double *want = doubles(5 * d, NULL);
        for (int s = 0; s < 5; s++)
            for (int64_t t = off[s]; t < off[s + 1]; t++)
                for (int64_t c = 0; c < d; c++)
                    want[s * d + c] += (double)dst[t * d + c] / (mean ? off[s + 1] - off[s] : 1);
        K->segment_sum(E, mean, 5, off, d, dst, sum);
        near_all("segment_sum", 5 * d, sum, want, TOL);
        K->segment_sum_bwd(E, mean, 5, off, d, sum, back);
        for (int s = 0; s < 5; s++)
            for (int64_t t = off[s]; t < off[s + 1]; t++)
                for (int64_t c = 0; c < d; c++) {
                    double w = (double)sum[s * d + c] / (mean ? off[s + 1] - off[s] : 1);
                    if (fabs((double)back[t * d + c] - w) > TOL) fail("segment_sum_bwd");
                }
    }
}
