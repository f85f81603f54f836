/* random.c - uniform and normal numbers, and dropout, from Philox streams.
**
** Element i comes from word i % 4 of counter {i / 4 low, i / 4 high, stream low, stream high}, so any
** part of a stream can be made by any thread.
*/
#include "formats.h"
#include "philox.h"
#include "table.h"

#define TWO_PI 6.28318530717958647693

struct random_job {
    uint64_t key, stream;
    double a, b; /* lo and hi; mean and std; p and scale */
    const mk_real *x;
    mk_real *y;
    int64_t n;
};

static mk_philox4 words(const struct random_job *j, int64_t group) {
    return mk_philox((uint32_t)group, (uint32_t)(group >> 32), (uint32_t)j->stream,
                     (uint32_t)(j->stream >> 32), j->key);
}

/* ranges count groups of four elements */
static void uniform_range(void *arg, int64_t first, int64_t last) {
    struct random_job *j = arg;
    mk_real lo = (mk_real)j->a, hi = (mk_real)j->b;
    for (int64_t g = first; g < last; g++) {
        mk_philox4 w = words(j, g);
        for (int64_t c = 0; c < 4 && g * 4 + c < j->n; c++) {
            mk_real v = (mk_real)(j->a + (j->b - j->a) * mk_unit(w.w[c]));
            if (v >= hi && hi > lo) v = MK_R(nextafter)(hi, lo); /* rounding may not reach hi */
            j->y[g * 4 + c] = v;
        }
    }
}

int mk_cpu_rand_uniform(mk_exec *e, int64_t n, uint64_t key, uint64_t stream, double lo, double hi,
                        mk_real *x) {
    struct random_job j = {key, stream, lo, hi, NULL, x, n};
    mk_for(e, mk_ceil_div(n, 4), 20, uniform_range, &j);
    return MK_OK;
}

static void normal_range(void *arg, int64_t first, int64_t last) {
    struct random_job *j = arg;
    for (int64_t g = first; g < last; g++) {
        mk_philox4 w = words(j, g);
        double z[4];
        for (int c = 0; c < 4; c += 2) {
            double u = mk_unit(w.w[c]) + 0x1p-24; /* in (0, 1] */
            double r = sqrt(-2 * log(u)), angle = TWO_PI * mk_unit(w.w[c + 1]);
            z[c] = r * cos(angle);
            z[c + 1] = r * sin(angle);
        }
        for (int64_t c = 0; c < 4 && g * 4 + c < j->n; c++)
            j->y[g * 4 + c] = (mk_real)(j->a + j->b * z[c]);
    }
}

int mk_cpu_rand_normal(mk_exec *e, int64_t n, uint64_t key, uint64_t stream, double mean, double std,
                       mk_real *x) {
    struct random_job j = {key, stream, mean, std, NULL, x, n};
    mk_for(e, mk_ceil_div(n, 4), 150, normal_range, &j);
    return MK_OK;
}

static void dropout_bf16(void *arg, int64_t first, int64_t last) {
    struct random_job *j = arg;
    const mk_bf16 *x = (const mk_bf16 *)(const void *)j->x;
    mk_bf16 *y = (mk_bf16 *)(void *)j->y;
    for (int64_t g = first; g < last; g++) {
        mk_philox4 w = words(j, g);
        for (int64_t c = 0, at = g * 4; c < 4 && at < j->n; c++, at++)
            y[at] = mk_unit(w.w[c]) < j->a ? 0 : mk_to_bf16(mk_from_bf16(x[at]) * (float)j->b);
    }
}

static void dropout_range(void *arg, int64_t first, int64_t last) {
    struct random_job *j = arg;
    for (int64_t g = first; g < last; g++) {
        mk_philox4 w = words(j, g);
        for (int64_t c = 0; c < 4 && g * 4 + c < j->n; c++)
            j->y[g * 4 + c] = mk_unit(w.w[c]) < j->a ? 0 : j->x[g * 4 + c] * (mk_real)j->b;
    }
}

int mk_cpu_dropout(mk_exec *e, mk_dtype type, int64_t n, double p, uint64_t key, uint64_t stream, const void *x,
                   void *y) {
    struct random_job j = {key, stream, p, p < 1 ? 1 / (1 - p) : 0, x, y, n};
    mk_for(e, mk_ceil_div(n, 4), 20, type == MK_BF16 ? dropout_bf16 : dropout_range, &j);
    return MK_OK;
}
