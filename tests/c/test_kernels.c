/* test_kernels.c - the CPU kernels against naive references in double and central differences.
**
** Every test runs with one thread and with three: both must give the same bits. Buffers carry guard
** elements on both sides. Builds with mk_real = float or double; prints "N passed, N failed".
*/
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "philox.h"

#ifdef MK_REAL_DOUBLE
#define TOL 1e-11
#define GRAD_TOL 1e-6
#else
#define TOL 3e-6
#define GRAD_TOL 2e-4
#endif

#define PI 3.14159265358979323846

/* ---- harness ------------------------------------------------------------------------------------ */

static int passed, failed, test_failures, second_pass;
static const char *test_name;
static mk_env env;
static mk_env *const E = &env;
static const mk_table *K;

__attribute__((format(printf, 1, 2))) static void fail(const char *fmt, ...) {
    va_list ap;
    if (test_failures++ >= 5) return;
    printf("not ok %s: ", test_name);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
}

static void ok(int cond, const char *what) {
    if (!cond) fail("%s", what);
}

static uint64_t rng_state;
static double uniform(void) { /* in [0, 1) */
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(rng_state >> 40) / 16777216.0;
}
static int64_t below(int64_t n) { return (int64_t)(uniform() * (double)n); }

#define GUARD 64
#define GUARD_BYTE 0x5a
#define BUFFERS_MAX 4096
static struct { unsigned char *base; size_t bytes; } buffer[BUFFERS_MAX];
static int n_buffers;

static void *bytes_new(size_t bytes) {
    unsigned char *p = malloc(bytes + 2 * GUARD);
    if (!p || n_buffers == BUFFERS_MAX) {
        printf("out of memory\n");
        exit(1);
    }
    memset(p, GUARD_BYTE, bytes + 2 * GUARD);
    buffer[n_buffers].base = p;
    buffer[n_buffers++].bytes = bytes;
    return p + GUARD;
}
static void buffers_free(void) {
    for (int i = 0; i < n_buffers; i++) {
        unsigned char *p = buffer[i].base;
        for (int c = 0; c < GUARD; c++)
            if (p[c] != GUARD_BYTE || p[GUARD + buffer[i].bytes + (size_t)c] != GUARD_BYTE) {
                fail("guard of buffer %d (%zu bytes) overwritten", i, buffer[i].bytes);
                break;
            }
        free(p);
    }
    n_buffers = 0;
}

static mk_real *empty(int64_t n) { return bytes_new((size_t)n * sizeof(mk_real)); }
static mk_real *randoms(int64_t n, double lo, double hi) {
    mk_real *x = empty(n);
    for (int64_t i = 0; i < n; i++) x[i] = (mk_real)(lo + (hi - lo) * uniform());
    return x;
}
static mk_real *constant(int64_t n, double v) { return randoms(n, v, v); }
static int32_t *integers(int64_t n, int64_t lo, int64_t hi) {
    int32_t *x = bytes_new((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = (int32_t)(lo + below(hi - lo));
    return x;
}
static mk_real *copy_of(int64_t n, const mk_real *x) {
    mk_real *y = empty(n);
    memcpy(y, x, (size_t)n * sizeof *y);
    return y;
}

static uint64_t result_hash; /* of all results of a test: equal for any number of threads */
static void record(const void *p, size_t bytes) {
    const unsigned char *x = p;
    for (size_t i = 0; i < bytes; i++) result_hash = (result_hash ^ x[i]) * 1099511628211u;
}

/* |got - want| <= tol (1 + |want|), elementwise; infinities and NaN must match */
static void near_all(const char *what, int64_t n, const mk_real *got, const double *want,
                     double tol) {
    record(got, (size_t)n * sizeof *got);
    for (int64_t i = 0; i < n; i++) {
        double g = (double)got[i], w = want[i];
        int good = isnan(w) ? isnan(g) : isinf(w) ? g == w : fabs(g - w) <= tol * (1 + fabs(w));
        if (!good) fail("%s[%" PRId64 "]: got %.9g, want %.9g", what, i, g, w);
    }
}
static void same_bits(const char *what, int64_t n, const mk_real *a, const mk_real *b) {
    for (int64_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a)) {
            fail("%s[%" PRId64 "]: %.9g and %.9g differ", what, i, (double)a[i], (double)b[i]);
            return;
        }
}

/* A reference: y = f(x) in double; `arg` holds what else it needs. */
typedef void (*reference)(void *arg, const double *x, double *y);

static double *doubles(int64_t n, const mk_real *x) {
    double *d = bytes_new((size_t)n * sizeof *d);
    for (int64_t i = 0; i < n; i++) d[i] = x ? (double)x[i] : 0;
    return d;
}

/* Checks dx against central differences of sum_i dy_i f(x)_i: at every coordinate of a small x, at some
** of a large one. With the second number of threads the bits are compared instead. */
static void gradient(const char *what, reference f, void *arg, int64_t nx, const mk_real *x,
                     int64_t ny, const mk_real *dy, const mk_real *dx) {
    record(dx, (size_t)nx * sizeof *dx);
    if (second_pass) return;
    uint64_t keep_rng = rng_state; /* the other pass must see the same numbers */
    double *v = doubles(nx, x), *y[2] = {doubles(ny, NULL), doubles(ny, NULL)}, h = 1e-5;
    int64_t looks = ny > 5000 ? 10 : ny > 500 ? 25 : 60;
    for (int64_t t = 0; t < looks && t < nx; t++) {
        int64_t i = nx <= looks ? t : below(nx);
        double keep = v[i], want = 0;
        for (int side = 0; side < 2; side++) {
            v[i] = keep + (side ? h : -h);
            f(arg, v, y[side]);
        }
        v[i] = keep;
        for (int64_t c = 0; c < ny; c++) want += (double)dy[c] * (y[1][c] - y[0][c]) / (2 * h);
        if (!(fabs((double)dx[i] - want) <= GRAD_TOL * (1 + fabs(want))))
            fail("%s: gradient [%" PRId64 "] is %.8g, differences give %.8g", what, i,
                 (double)dx[i], want);
    }
    rng_state = keep_rng;
}

/* ---- environment -------------------------------------------------------------------------------- */

static void count_piece(void *arg, int64_t i) { ((int32_t *)arg)[i]++; }
static void nested_piece(void *arg, int64_t i) {
    mk_parallel(E, 5, count_piece, (int32_t *)arg + 5 * i);
}

static void test_environment(void) {
    int32_t *hits = integers(10000, 0, 1);
    for (int round = 0; round < 300; round++) mk_parallel(E, round % 7 * 11, count_piece, hits);
    for (int64_t i = 0, want = 0; i < 66; i++) {
        want = 0;
        for (int round = 0; round < 300; round++) want += i < round % 7 * 11;
        ok(hits[i] == want, "each piece runs once");
    }
    hits = integers(10000, 0, 1);
    mk_parallel(E, 2000, nested_piece, hits);
    for (int64_t i = 0; i < 10000; i++) ok(hits[i] == 1, "nested pieces run once");
    unsigned char *p = mk_scratch(E, 100);
    ok(p && (uintptr_t)p % 64 == 0, "scratch is aligned");
    p = mk_scratch(E, 1 << 20);
    ok(p && (uintptr_t)p % 64 == 0, "grown scratch is aligned");
    if (p) memset(p, 1, 1 << 20);
    ok(mk_scratch(E, SIZE_MAX - 100) == NULL, "impossible scratch is refused");
    char text[512];
    for (mk_blas blas = MK_BLAS_AUTO; blas <= MK_BLAS_NONE; blas++) {
        mk_blas_describe(blas, text, sizeof text);
        ok(strstr(text, "built-in kernels (") != NULL, "what computes products is described");
    }
    ok(strstr(text, ": MOCL_BLAS=none") != NULL, "no library is asked for");
}

/* ---- elementwise -------------------------------------------------------------------------------- */

static const mk_dtype all_dtypes[] = {MK_F32, MK_BF16, MK_F16, MK_I8, MK_U8, MK_I32, MK_I64};

static void test_fill_cast(void) {
    for (size_t d = 0; d < 7; d++) {
        mk_real *back = empty(1000);
        unsigned char *x = bytes_new(8000);
        ok(K->fill(E, all_dtypes[d], 1000, x, 42) == MK_OK, "fill works");
        ok(K->cast(E, 1000, all_dtypes[d], x, MK_F32, back) == MK_OK, "cast works");
        for (int i = 0; i < 1000; i++) ok(back[i] == 42, "fill and cast keep 42");
    }
    /* every f16 and every bf16 survives the way through F32 */
    uint16_t *h = bytes_new(65536 * 2), *h2 = bytes_new(65536 * 2);
    mk_real *f = empty(65536);
    for (int i = 0; i < 65536; i++) h[i] = (uint16_t)i;
    for (int d = 1; d <= 2; d++) {
        K->cast(E, 65536, all_dtypes[d], h, MK_F32, f);
        K->cast(E, 65536, MK_F32, f, all_dtypes[d], h2);
        for (int i = 0; i < 65536; i++) {
            if (f[i] != f[i])
                ok((h2[i] & 0x7fff) > (d == 1 ? 0x7f80 : 0x7c00), "NaN stays NaN");
            else
                ok(h[i] == h2[i], "16-bit floats survive the round trip");
        }
    }
    /* to nearest even, against the exact neighbours */
    static const struct { double in; uint16_t bf16, f16; } near_cases[] = {
        {1.0, 0x3f80, 0x3c00}, {1.00390625, 0x3f80, 0x3c04}, {1.01171875, 0x3f82, 0x3c0c},
        {1.00048828125, 0x3f80, 0x3c00}, {1.00146484375, 0x3f80, 0x3c02}, {-65504, 0xc780, 0xfbff},
        {65519.99609375, 0x4780, 0x7bff}, {65520, 0x4780, 0x7c00}, {1e30, 0x714a, 0x7c00},
        {0x1p-24, 0x3380, 0x0001}, {0x1p-25, 0x3300, 0x0000}, {0x1.8p-24, 0x33c0, 0x0002},
        {0x1.ffp-15, 0x3880, 0x03fe}, {-0.0, 0x8000, 0x8000}, {INFINITY, 0x7f80, 0x7c00}};
    for (size_t i = 0; i < sizeof near_cases / sizeof *near_cases; i++) {
        mk_real v = (mk_real)near_cases[i].in;
        uint16_t b, s;
        K->cast(E, 1, MK_F32, &v, MK_BF16, &b);
        K->cast(E, 1, MK_F32, &v, MK_F16, &s);
        if (b != near_cases[i].bf16 || s != near_cases[i].f16)
            fail("%g gives bf16 %04x (want %04x), f16 %04x (want %04x)", near_cases[i].in, b,
                 near_cases[i].bf16, s, near_cases[i].f16);
    }
    /* truncation and saturation */
    mk_real odd[] = {(mk_real)-1e20, -129, (mk_real)-1.9, (mk_real)1.9, 300, (mk_real)1e20,
                     (mk_real)NAN};
    int8_t i8[7];
    uint8_t u8[7];
    int32_t i32[7];
    int64_t i64[7];
    K->cast(E, 7, MK_F32, odd, MK_I8, i8);
    K->cast(E, 7, MK_F32, odd, MK_U8, u8);
    K->cast(E, 7, MK_F32, odd, MK_I32, i32);
    K->cast(E, 7, MK_F32, odd, MK_I64, i64);
    const int8_t w8[] = {-128, -128, -1, 1, 127, 127, 0};
    const uint8_t wu[] = {0, 0, 0, 1, 255, 255, 0};
    const int32_t w32[] = {INT32_MIN, -129, -1, 1, 300, INT32_MAX, 0};
    const int64_t w64[] = {INT64_MIN, -129, -1, 1, 300, INT64_MAX, 0};
    for (int i = 0; i < 7; i++)
        ok(i8[i] == w8[i] && u8[i] == wu[i] && i32[i] == w32[i] && i64[i] == w64[i],
           "integers truncate and saturate");
    int64_t big[] = {INT64_MAX, -5, (int64_t)1 << 40};
    K->cast(E, 3, MK_I64, big, MK_I32, i32);
    ok(i32[0] == INT32_MAX && i32[1] == -5 && i32[2] == INT32_MAX, "I64 to I32 saturates");
}

static void test_copy(void) {
    for (size_t d = 0; d < 7; d++) {
        int64_t shape[] = {3, 1, 5, 7}, n = 105;
        static const size_t size_of[] = {sizeof(mk_real), 2, 2, 1, 1, 4, 8};
        size_t size = size_of[d];
        unsigned char *src = bytes_new((size_t)n * size), *dst = bytes_new((size_t)n * size);
        for (size_t i = 0; i < (size_t)n * size; i++) src[i] = (unsigned char)below(256);
        /* transposed: dst [3,1,5,7] from src laid out [7,5,3] */
        int64_t ss[] = {1, 0, 3, 15}, ds[] = {35, 35, 7, 1};
        ok(K->copy(E, all_dtypes[d], 4, shape, src, ss, dst, ds) == MK_OK, "copy works");
        for (int64_t a = 0; a < 3; a++)
            for (int64_t b = 0; b < 5; b++)
                for (int64_t c = 0; c < 7; c++)
                    ok(!memcmp(dst + (size_t)(a * 35 + b * 7 + c) * size,
                               src + (size_t)(a + 3 * b + 15 * c) * size, size),
                       "copy transposes");
        int64_t bs[] = {0, 0, 0, 1};
        K->copy(E, all_dtypes[d], 4, shape, src, bs, dst, ds);
        for (int64_t i = 0; i < n; i++)
            ok(!memcmp(dst + (size_t)i * size, src + (size_t)(i % 7) * size, size),
               "copy broadcasts");
        K->copy(E, all_dtypes[d], 0, NULL, src, NULL, dst, NULL);
        ok(!memcmp(dst, src, size), "copy of a scalar");
    }
    int64_t shape[] = {600, 700}, ss[] = {1, 600}, ds[] = {700, 1};
    mk_real *a = randoms(420000, -1, 1), *b = empty(420000);
    K->copy(E, MK_F32, 2, shape, a, ss, b, ds);
    for (int64_t i = 0; i < 420000; i++) ok(b[i] == a[i / 700 + i % 700 * 600], "large transpose");
}

static double unary_ref(mk_unary op, double x, double p, double q) {
    switch (op) {
        case MK_NEG: return -x;
        case MK_ABS: return fabs(x);
        case MK_SQUARE: return x * x;
        case MK_SQRT: return sqrt(x);
        case MK_RSQRT: return 1 / sqrt(x);
        case MK_RECIPROCAL: return 1 / x;
        case MK_EXP: return exp(x);
        case MK_LOG: return log(x);
        case MK_TANH: return tanh(x);
        case MK_SIGMOID: return 1 / (1 + exp(-x));
        case MK_LOGSIGMOID: return x > 0 ? -log1p(exp(-x)) : x - log1p(exp(x));
        case MK_SOFTPLUS: return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
        case MK_RELU: return x > 0 ? x : 0;
        case MK_SILU: return x / (1 + exp(-x));
        case MK_GELU: return 0.5 * x * (1 + erf(x / sqrt(2)));
        case MK_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / PI) * (x + 0.044715 * x * x * x)));
        case MK_SIN: return sin(x);
        case MK_COS: return cos(x);
        case MK_FLOOR: return floor(x);
        case MK_SIGN: return (x > 0) - (x < 0);
        case MK_ADD_SCALAR: return x + p;
        case MK_MUL_SCALAR: return x * p;
        case MK_POW_SCALAR: return pow(x, p);
        case MK_CLAMP: return fmin(fmax(x, p), q);
    }
    return 0;
}

static void test_unary(void) {
    for (int op = MK_NEG; op <= MK_CLAMP; op++) {
        int positive = op == MK_SQRT || op == MK_RSQRT || op == MK_LOG || op == MK_POW_SCALAR;
        int64_t n = 1003;
        mk_real *x = randoms(n, positive ? 0.1 : -6, 6), *y = empty(n), *dy = randoms(n, -1, 1);
        mk_real *dx = empty(n);
        double p = -0.7, q = 1.3, *want = doubles(n, NULL);
        if (op == MK_RECIPROCAL)
            for (int64_t i = 0; i < n; i++) x[i] += x[i] < 0 ? (mk_real)-0.1 : (mk_real)0.1;
        for (int64_t i = 0; i < n; i++) /* keep away from kinks */
            if (fabs((double)x[i]) < 1e-3 || fabs((double)x[i] - p) < 1e-3) x[i] = (mk_real)0.25;
        ok(K->unary(E, (mk_unary)op, n, x, y, p, q) == MK_OK, "unary works");
        for (int64_t i = 0; i < n; i++) want[i] = unary_ref((mk_unary)op, (double)x[i], p, q);
        char what[32];
        snprintf(what, sizeof what, "unary %d", op);
        near_all(what, n, y, want, TOL);
        K->unary_bwd(E, (mk_unary)op, n, x, y, dy, dx, p, q);
        record(dx, (size_t)n * sizeof *dx);
        for (int64_t i = 0; i < n; i++) {
            double v = (double)x[i], h = 1e-5;
            double slope = (unary_ref((mk_unary)op, v + h, p, q) -
                            unary_ref((mk_unary)op, v - h, p, q)) / (2 * h);
            if (op == MK_FLOOR || op == MK_SIGN) slope = 0;
            double w = (double)dy[i] * slope;
            if (fabs((double)dx[i] - w) > GRAD_TOL * (1 + fabs(w)))
                fail("unary %d: slope at %g is %.8g, want %.8g", op, v, (double)dx[i], w);
        }
        mk_real *z = copy_of(n, x);
        K->unary(E, (mk_unary)op, n, z, z, p, q);
        same_bits("unary in place", n, z, y);
        /* the value depends on the element alone, not on its place */
        for (int64_t len = 1; len < 40; len++) {
            K->unary(E, (mk_unary)op, len, x + 40 - len, z, p, q);
            same_bits("unary of a part", len, z, y + 40 - len);
        }
        K->unary_bwd(E, (mk_unary)op, n, x, y, dy, dy, p, q);
        same_bits("unary_bwd in place", n, dy, dx);
    }
    static const double edges[] = {-INFINITY, INFINITY, NAN, -200, 200, -1e30, 1e30, 0, -0.0};
    static const mk_unary smooth[] = {MK_EXP, MK_SIGMOID, MK_TANH, MK_SOFTPLUS, MK_LOGSIGMOID,
                                      MK_RELU, MK_CLAMP};
    mk_real x[9], y[9];
    for (int i = 0; i < 9; i++) x[i] = (mk_real)edges[i];
    for (size_t s = 0; s < sizeof smooth / sizeof *smooth; s++) {
        K->unary(E, smooth[s], 9, x, y, -1, 1);
        for (int i = 0; i < 9; i++) {
            double w = unary_ref(smooth[s], edges[i], -1, 1), g = (double)y[i];
            if (isnan(edges[i])) w = NAN;
#ifndef MK_REAL_DOUBLE
            w = (double)(float)w;
#endif
            if (isnan(w) ? !isnan(g) : isinf(w) ? g != w : fabs(g - w) > TOL * (1 + fabs(w)))
                fail("unary %d at %g: got %g, want %g", smooth[s], edges[i], g, w);
        }
    }
}

/* exp to 2 units in the last place over the whole range, the subnormal results to one step */
static void test_exp(void) {
    int64_t n = 400001;
    mk_real *x = empty(n), *y = empty(n);
    double worst = 0, at = 0;
    for (int64_t i = 0; i < n; i++) x[i] = (mk_real)(-106 + 196.0 * (double)i / (double)(n - 1));
    K->unary(E, MK_EXP, n, x, y, 0, 0);
    record(y, (size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++) {
        double w = exp((double)x[i]);
#ifdef MK_REAL_DOUBLE
        double ulp = nextafter(w, INFINITY) - w;
#else
        if (w > 3.4028235677973366e38) {
            ok(isinf(y[i]), "exp overflows to infinity");
            continue;
        }
        double ulp = fmax(ldexp(1, ilogb(w) - 23), 0x1p-149);
#endif
        double err = fabs((double)y[i] - w) / ulp;
        if (err > worst) worst = err, at = (double)x[i];
    }
    if (worst > 2) fail("exp is off by %.2f units at %g", worst, at);
    for (int64_t i = 1; i < n; i++) ok(y[i] >= y[i - 1], "exp never falls");
    mk_real one = 0;
    K->unary(E, MK_EXP, 1, &one, &one, 0, 0);
    ok(one == 1, "exp of 0 is 1");
}

static double binary_ref(mk_binary op, double a, double b) {
    switch (op) {
        case MK_ADD: return a + b;
        case MK_SUB: return a - b;
        case MK_MUL: return a * b;
        case MK_DIV: return a / b;
        case MK_MAXIMUM: return fmax(a, b);
        case MK_MINIMUM: return fmin(a, b);
        case MK_POW: return pow(a, b);
        case MK_EQ: return a == b;
        case MK_NE: return a != b;
        case MK_LT: return a < b;
        case MK_LE: return a <= b;
        case MK_GT: return a > b;
        case MK_GE: return a >= b;
    }
    return 0;
}

static void test_binary(void) {
    static const struct { int64_t shape[3], as[3], bs[3], na, nb; } layout[] = {
        {{4, 5, 37}, {185, 37, 1}, {185, 37, 1}, 740, 740}, /* both contiguous */
        {{4, 5, 37}, {185, 37, 1}, {0, 0, 1}, 740, 37},     /* a row is added */
        {{4, 5, 37}, {185, 37, 1}, {5, 1, 0}, 740, 20},     /* a column */
        {{4, 5, 37}, {1, 4, 20}, {0, 0, 0}, 740, 1},        /* transposed, and a scalar */
        {{1, 300, 401}, {0, 401, 1}, {0, 0, 1}, 120300, 401}};
    for (int op = MK_ADD; op <= MK_GE; op++)
        for (int l = 0; l < 5; l++) {
            int64_t n = layout[l].shape[0] * layout[l].shape[1] * layout[l].shape[2];
            double lo = op == MK_POW || op == MK_DIV ? 0.2 : -2;
            mk_real *a = randoms(layout[l].na, lo, 2), *b = randoms(layout[l].nb, lo, 2);
            mk_real *y = empty(n);
            for (int64_t i = 0; i < layout[l].nb; i += 3) b[i] = a[i % layout[l].na];
            ok(K->binary(E, (mk_binary)op, 3, layout[l].shape, a, layout[l].as, b, layout[l].bs,
                         y) == MK_OK, "binary works");
            double *want = doubles(n, NULL);
            for (int64_t i = 0; i < n; i++) {
                int64_t at[3] = {i / (layout[l].shape[1] * layout[l].shape[2]),
                                 i / layout[l].shape[2] % layout[l].shape[1],
                                 i % layout[l].shape[2]};
                int64_t ia = 0, ib = 0;
                for (int d = 0; d < 3; d++) {
                    ia += at[d] * layout[l].as[d];
                    ib += at[d] * layout[l].bs[d];
                }
                want[i] = binary_ref((mk_binary)op, (double)a[ia], (double)b[ib]);
            }
            near_all("binary", n, y, want, TOL);
            if (l == 0) {
                K->binary(E, (mk_binary)op, 3, layout[l].shape, a, layout[l].as, b, layout[l].bs, a);
                same_bits("binary in place", n, a, y);
            }
        }
    int64_t n = 1001;
    mk_real *c = randoms(n, -1, 1), *a = randoms(n, -1, 1), *b = randoms(n, -1, 1), *y = empty(n);
    for (int64_t i = 0; i < n; i += 2) c[i] = 0;
    K->where(E, n, c, a, b, y);
    for (int64_t i = 0; i < n; i++) ok(y[i] == (c[i] != 0 ? a[i] : b[i]), "where");
    double *want = doubles(n, y);
    for (int64_t i = 0; i < n; i++) want[i] += 0.3 * (double)a[i];
    K->axpy(E, n, 0.3, a, y);
    near_all("axpy", n, y, want, TOL);
    mk_real nan_pair[] = {(mk_real)NAN, 1}, flipped[] = {1, (mk_real)NAN}, out[2];
    int64_t two = 2, unit = 1;
    K->binary(E, MK_MAXIMUM, 1, &two, nan_pair, &unit, flipped, &unit, out);
    ok(isnan(out[0]) && isnan(out[1]), "maximum keeps NaN");
}

static void test_reduce(void) {
    static const int64_t shapes[][3] = {{1, 1, 1}, {7, 33, 1}, {3, 17, 5}, {2, 300, 130},
                                        {1, 100000, 1}, {1, 4000, 64}, {5, 9000, 1}, {2, 0, 3}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int op = MK_SUM; op <= MK_LOGSUMEXP; op++) {
            int64_t O = shapes[s][0], n = shapes[s][1], I = shapes[s][2];
            mk_real *x = randoms(O * n * I, -3, 3), *y = empty(O * I);
            int32_t *at = integers(O * I, 0, 1);
            double *want = doubles(O * I, NULL);
            ok(K->reduce(E, (mk_reduce)op, O, n, I, x, y) == MK_OK, "reduce works");
            if (op == MK_MAX || op == MK_MIN)
                for (int64_t i = 0; n > 40 && i < O * n * I; i++) /* make ties */
                    x[i] = (mk_real)(floor((double)x[i] * 4) / 4);
            if (n > 0 && (op == MK_MAX || op == MK_MIN)) {
                K->reduce(E, (mk_reduce)op, O, n, I, x, y);
                K->argreduce(E, (mk_reduce)op, O, n, I, x, at);
            }
            for (int64_t r = 0; r < O * I; r++) {
                const mk_real *col = x + r / I * n * I + r % I;
                double sum = 0, best = op == MK_MIN ? INFINITY : -INFINITY;
                int64_t where = 0;
                for (int64_t i = 0; i < n; i++) {
                    double v = (double)col[i * I];
                    if (op == MK_MIN ? v < best : v > best) best = v, where = i;
                    sum += op == MK_SUM ? v : exp(v);
                }
                want[r] = op == MK_SUM ? sum : op == MK_LOGSUMEXP ? log(sum) : best;
                if (n > 0 && (op == MK_MAX || op == MK_MIN))
                    ok(at[r] == where, "argreduce finds the first");
            }
            near_all("reduce", O * I, y, want, TOL);
            if (op == MK_SUM && n > 0) {
                mk_real *c = empty(O * n * I);
                K->cumsum(E, O, n, I, x, c);
                for (int64_t r = 0; r < O * I; r++) {
                    double run = 0;
                    for (int64_t i = 0; i < n; i++) {
                        int64_t p = r / I * n * I + r % I + i * I;
                        run += (double)x[p];
                        if (fabs((double)c[p] - run) > TOL * (1 + fabs(run))) fail("cumsum");
                    }
                }
            }
        }
    mk_real inf[] = {(mk_real)-INFINITY, (mk_real)-INFINITY}, y;
    K->reduce(E, MK_LOGSUMEXP, 1, 2, 1, inf, &y);
    ok(isinf(y) && y < 0, "logsumexp of nothing but -inf");
    mk_real odd[] = {3, (mk_real)NAN, 9};
    int32_t at;
    K->reduce(E, MK_MAX, 1, 3, 1, odd, &y);
    K->argreduce(E, MK_MAX, 1, 3, 1, odd, &at);
    ok(isnan(y) && at == 1, "NaN wins the maximum");
}

/* ---- matrix products ---------------------------------------------------------------------------- */

static void gemm_case(int ta, int tb, int64_t m, int64_t n, int64_t k, double alpha, double beta,
                      int64_t pad, int64_t batch, int shared) {
    int64_t lda = (ta ? m : k) + pad, ldb = (tb ? k : n) + pad, ldc = n + pad;
    int64_t sa = lda * (ta ? k : m), sb = shared ? 0 : ldb * (tb ? n : k), sc = ldc * m;
    mk_real *a = randoms(sa * batch, -1, 1), *b = randoms(ldb * (tb ? n : k) * batch, -1, 1);
    mk_real *c = beta != 0 ? randoms(sc * batch, -1, 1) : constant(sc * batch, NAN);
    mk_real *before = copy_of(sc * batch, c);
    ok(K->gemm(E, ta, tb, m, n, k, alpha, a, lda, sa, b, ldb, sb, beta, c, ldc, sc, batch) == MK_OK,
       "gemm works");
    record(c, (size_t)(sc * batch) * sizeof *c);
    for (int64_t t = 0; t < batch; t++)
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < ldc; j++) {
                int64_t at = t * sc + i * ldc + j;
                if (j >= n) {
                    ok(!memcmp(c + at, before + at, sizeof *c), "gemm stays inside C");
                    continue;
                }
                double sum = 0, size = 0;
                for (int64_t p = 0; p < k; p++) {
                    double u = (double)a[t * sa + (ta ? p * lda + i : i * lda + p)];
                    double v = (double)b[t * sb + (tb ? j * ldb + p : p * ldb + j)];
                    sum += u * v;
                    size += fabs(u * v);
                }
                double want = alpha * sum + (beta != 0 ? beta * (double)before[at] : 0);
                if (!(fabs((double)c[at] - want) <= TOL * (1 + size)))
                    fail("gemm ta=%d tb=%d m=%d n=%d k=%d: C[%d][%d] is %.8g, want %.8g", ta, tb,
                         (int)m, (int)n, (int)k, (int)i, (int)j, (double)c[at], want);
            }
}

static void test_gemm(void) {
    static const int64_t sizes[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 65, 97};
    for (int t = 0; t < 4; t++) {
        for (int i = 0; i < 60; i++) {
            int64_t m = sizes[below(13)], n = sizes[below(13)], k = sizes[below(13)];
            gemm_case(t >> 1, t & 1, m, n, k, i % 3 ? 1 : -0.5, i % 4 == 3 ? 0.7 : i % 4 == 2,
                      i % 2 * 3, i % 5 == 4 ? 3 : 1, i % 2);
            buffers_free();
        }
        gemm_case(t >> 1, t & 1, 5, 4, 0, 1, 0, 0, 1, 0);
        gemm_case(t >> 1, t & 1, 5, 4, 0, 1, 0.5, 0, 1, 0);
        gemm_case(t >> 1, t & 1, 150, 300, 200, 1, 0, 0, 1, 0);
        gemm_case(t >> 1, t & 1, 60, 70, 1100, 1, 1, 0, 1, 0);
        gemm_case(t >> 1, t & 1, 40, 24, 3333, 1, 1, 2, 1, 0);
        gemm_case(t >> 1, t & 1, 70, 600, 700, 2, 0, 0, 1, 0);
        gemm_case(t >> 1, t & 1, 450, 70, 300, 2, 0.5, 1, 1, 0);   /* parts of the rows, their sums apart */
        gemm_case(t >> 1, t & 1, 1100, 150, 300, 1, 0, 0, 1, 0);   /* parts of the rows, two blocks of k */
        gemm_case(t >> 1, t & 1, 1100, 1000, 8, 1, 0, 0, 1, 0);    /* a C that only panels share out */
        gemm_case(t >> 1, t & 1, 300, 130, 20, 1, 1, 3, 3, 1);     /* several products */
        buffers_free();
    }
    ok(K->gemm(E, 0, 1, 0, 5, 5, 1, NULL, 5, 0, NULL, 5, 0, 0, NULL, 5, 0, 1) == MK_OK, "no rows");
}

/* Row i of C has the same bits whatever m is and wherever the row lies. */
static void test_gemm_rows(void) {
    static const int64_t nk[][2] = {{1, 1}, {5, 3}, {16, 16}, {33, 17}, {64, 64}, {96, 100},
                                    {192, 64}, {64, 192}, {1000, 64}, {31, 777}, {520, 530},
                                    {700, 1030}, {77, 1600}};
    for (int t = 0; t < 4; t++)
        for (size_t s = 0; s < sizeof nk / sizeof *nk; s++) {
            int64_t n = nk[s][0], k = nk[s][1], M = 203;
            int ta = t >> 1, tb = t & 1, big = n * k > 100000;
            mk_real *a = randoms(M * k, -1, 1), *b = randoms(n * k, -1, 1), *all = empty(M * n);
            mk_real *at = empty(M * k), *c = empty(M * n);
            int64_t ldb = tb ? k : n;
            for (int64_t i = 0; i < M; i++)
                for (int64_t p = 0; p < k; p++) at[p * M + i] = a[i * k + p];
            K->gemm(E, ta, tb, M, n, k, 1, ta ? at : a, ta ? M : k, 0, b, ldb, 0, 0, all, n, 0, 1);
            record(all, (size_t)(M * n) * sizeof *all);
            for (int64_t m = 1; m <= 70; m += big ? 1 + m / 2 : 1) {
                int64_t r0 = below(M - m + 1);
                memset(c, 0x7f, (size_t)(M * n) * sizeof *c);
                K->gemm(E, ta, tb, m, n, k, 1, ta ? at + r0 : a + r0 * k, ta ? M : k, 0, b, ldb, 0,
                        0, c, n, 0, 1);
                for (int64_t i = 0; i < m * n; i++)
                    if (memcmp(c + i, all + r0 * n + i, sizeof *c)) {
                        fail("ta=%d tb=%d n=%d k=%d m=%d: row %d differs from itself", ta, tb,
                             (int)n, (int)k, (int)m, (int)(i / n));
                        break;
                    }
            }
            /* a transposed A or B gives the same bits as the plain one */
            if (ta)
                K->gemm(E, 0, tb, M, n, k, 1, a, k, 0, b, ldb, 0, 0, c, n, 0, 1);
            else
                K->gemm(E, 0, tb, M, n, k, 1, a, k, 0, b, ldb, 0, 0, c, n, 0, 1);
            if (!ta) same_bits("gemm twice", M * n, c, all);
            buffers_free();
        }
}

/* numbers in -1 .. 1, with a NaN, an infinity and a zero at these places; -1 = none */
static void random_matrix(int64_t n, mk_real *x, int64_t nan_at, int64_t inf_at, int64_t zero_at) {
    for (int64_t i = 0; i < n; i++) x[i] = (mk_real)(2 * uniform() - 1);
    if (nan_at >= 0) x[nan_at] = (mk_real)NAN;
    if (inf_at >= 0) x[inf_at] = (mk_real)INFINITY;
    if (zero_at >= 0) x[zero_at] = 0;
}

/* Sizes that OpenBLAS computes where there is one: against gemm, sums in double, and two threads. A has
** a NaN in row 7; B an infinity in column 9 that meets a zero of A in row 11. */
static void test_matmul(void) {
    mk_env two;
    ok(mk_env_open(&two, 2) == MK_OK, "environment opens");
    E->blas = two.blas = MK_BLAS_OPENBLAS;
    for (int t = 0; t < 4; t++) {
        int ta = t >> 1, tb = t & 1;
        int64_t m = 2081, n = 2050, k = 1030, pad = 3, batch = t == 1 ? 2 : 1;
        int64_t lda = (ta ? m : k) + pad, ldb = (tb ? k : n) + pad, ldc = n + pad;
        int64_t sa = lda * (ta ? k : m), nb = ldb * (tb ? n : k), sc = ldc * m;
        mk_real *a = empty(sa * batch), *b = empty(nb), *c = constant(sc * batch, NAN);
        mk_real *other = constant(sc * batch, NAN);
#define A_AT(i, p) (ta ? (p) * lda + (i) : (i) * lda + (p))
#define B_AT(p, j) (tb ? (j) * ldb + (p) : (p) * ldb + (j))
        random_matrix(sa * batch, a, A_AT(7, 50), -1, A_AT(11, 60));
        random_matrix(nb, b, -1, B_AT(60, 9), -1);
        ok(K->matmul(E, ta, tb, m, n, k, a, lda, sa, b, ldb, 0, c, ldc, sc, batch) == MK_OK,
           "matmul works");
        record(c, (size_t)(sc * batch) * sizeof *c);
        K->matmul(&two, ta, tb, m, n, k, a, lda, sa, b, ldb, 0, other, ldc, sc, batch);
        same_bits("two threads", sc * batch, c, other);
        K->matmul(E, ta, tb, m, n, k, a + (batch - 1) * sa, lda, 0, b, ldb, 0, other, ldc, 0, 1);
        same_bits("one of the batch", sc, c + (batch - 1) * sc, other);
        K->gemm(E, ta, tb, m, n, k, 1, a, lda, 0, b, ldb, 0, 0, other, ldc, 0, 1);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < ldc; j++) {
                double got = (double)c[i * ldc + j], want = (double)other[i * ldc + j];
                int good = j >= n || isnan(want) ? isnan(got) : isinf(want) ? got == want
                           : fabs(got - want) <= TOL * (1 + (double)k / 4);
                if (!good)
                    fail("ta=%d tb=%d C[%d][%d] is %.8g, gemm has %.8g", ta, tb, (int)i, (int)j, got,
                         want);
            }
        ok(isnan(c[7 * ldc]) && isnan(c[7 * ldc + n - 1]), "NaN fills its row");
        ok(isinf(c[9]) && isinf(c[(m - 1) * ldc + 9]) && isnan(c[11 * ldc + 9]), "infinity times 0");
        for (int look = 0; look < 500; look++) {
            int64_t i = 12 + below(m - 12), j = 10 + below(n - 10);
            double sum = 0;
            for (int64_t p = 0; p < k; p++) sum += (double)a[A_AT(i, p)] * (double)b[B_AT(p, j)];
            if (!(fabs((double)c[i * ldc + j] - sum) <= TOL * (1 + (double)k / 4)))
                fail("ta=%d tb=%d C[%d][%d] is %.8g, want %.8g", ta, tb, (int)i, (int)j,
                     (double)c[i * ldc + j], sum);
        }
#undef A_AT
#undef B_AT
        buffers_free();
    }
    mk_env_close(&two);
    ok(K->matmul(E, 0, 0, 0, 4096, 4096, NULL, 1, 0, NULL, 1, 0, NULL, 1, 0, 1) == MK_OK, "no rows");
    mk_real *c = constant(12, NAN);
    ok(K->matmul(E, 0, 0, 3, 4, 0, NULL, 1, 0, NULL, 4, 0, c, 4, 0, 1) == MK_OK, "empty sums");
    for (int i = 0; i < 12; i++) ok(c[i] == 0, "empty sums are 0");
}

/* ---- rows --------------------------------------------------------------------------------------- */

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

static void test_softmax(void) {
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

static void test_norms(void) {
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
                    K->rmsnorm(E, R, n, x, w, 1e-3, y, rstd);
                else
                    K->layernorm(E, R, n, x, w, b, 1e-3, y, mean, rstd);
                near_all("norm", R * n, y, want, 4 * TOL);
                if (kind == RMSNORM)
                    K->rmsnorm_bwd(E, R, n, x, w, rstd, dy, dx, weights ? dw : NULL);
                else
                    K->layernorm_bwd(E, R, n, x, w, mean, rstd, dy, dx, weights ? dw : NULL,
                                     weights ? db : NULL);
                gradient("norm dx", rows_reference, &ref, R * n, x, R * n, dy, dx);
                mk_real *one = empty(n), m1, r1;
                if (kind == RMSNORM)
                    K->rmsnorm(E, 1, n, x + (R - 1) * n, w, 1e-3, one, &r1);
                else
                    K->layernorm(E, 1, n, x + (R - 1) * n, w, b, 1e-3, one, &m1, &r1);
                same_bits("norm of one row", n, one, y + (R - 1) * n);
                if (weights) {
                    struct weight_ref wr = {ref, in, 0};
                    wr.r.w = wr.r.b = NULL;
                    gradient("norm dw", weight_reference, &wr, n, w, R * n, dy, dw);
                    wr.bias = 1;
                    if (kind == LAYERNORM)
                        gradient("norm db", weight_reference, &wr, n, b, R * n, dy, db);
                    mk_real *twice = copy_of(n, dw);
                    K->rmsnorm_bwd(E, R, n, x, w, rstd, dy, dx, twice);
                    if (kind == RMSNORM)
                        for (int64_t i = 0; i < n; i++)
                            ok(twice[i] == dw[i] + dw[i], "dw accumulates");
                }
                buffers_free();
            }
}

static void test_indexed_rows(void) {
    int64_t n = 3000, d = 37, rows = 300;
    mk_real *src = randoms(rows * d, -1, 1), *dst = empty(n * d), *acc = randoms(rows * d, -1, 1);
    mk_real *want_acc = copy_of(rows * d, acc);
    int32_t *idx = integers(n, 0, rows);
    K->gather_rows(E, n, d, src, idx, dst);
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

/* ---- transformer parts -------------------------------------------------------------------------- */

static void test_rope(void) {
    static const int64_t heads[][2] = {{1, 2}, {3, 16}, {4, 64}, {2, 6}};
    for (int s = 0; s < 4; s++) {
        int64_t T = 301, H = heads[s][0], k = heads[s][1], ldx = H * k + 5, ldy = H * k + 3;
        mk_real *x = randoms(T * ldx, -1, 1), *y = constant(T * ldy, 9), *z = empty(T * ldx);
        int32_t *pos = integers(T, 0, s == 1 ? 2000 : 50);
        K->rope(E, T, H, k, pos, 10000, 1, x, ldx, y, ldy);
        for (int64_t t = 0; t < T; t++)
            for (int64_t h = 0; h < H; h++)
                for (int64_t i = 0; i < k / 2; i++) {
                    double a = pos[t] * pow(10000, -2.0 * (double)i / (double)k);
                    double u = (double)x[t * ldx + h * k + i];
                    double v = (double)x[t * ldx + h * k + i + k / 2];
                    double want[2] = {u * cos(a) - v * sin(a), v * cos(a) + u * sin(a)};
                    for (int c = 0; c < 2; c++)
                        if (fabs((double)y[t * ldy + h * k + i + c * k / 2] - want[c]) > TOL)
                            fail("rope");
                }
        for (int64_t t = 0; t < T; t++)
            for (int64_t i = H * k; i < ldy; i++) ok(y[t * ldy + i] == 9, "rope stays in its rows");
        record(y, (size_t)(T * ldy) * sizeof *y);
        memcpy(z, x, (size_t)(T * ldx) * sizeof *z);
        K->rope(E, T, H, k, pos, 10000, -1, y, ldy, z, ldx); /* the inverse brings x back */
        for (int64_t i = 0; i < T * ldx; i++)
            if (fabs((double)(z[i] - x[i])) > TOL) fail("rope and back");
        memcpy(z, x, (size_t)(T * ldx) * sizeof *z);
        K->rope(E, T, H, k, pos, 10000, 1, z, ldx, z, ldx);
        mk_real *one = empty(H * k);
        K->rope(E, 1, H, k, pos + 77, 10000, 1, x + 77 * ldx, ldx, one, H * k);
        same_bits("rope in place", H * k, z + 77 * ldx, y + 77 * ldy);
        same_bits("rope of one row", H * k, one, y + 77 * ldy);
    }
}

static void swiglu_reference(void *arg, const double *x, double *y) {
    int64_t n = *(int64_t *)arg;
    for (int64_t i = 0; i < n; i++) y[i] = x[i] / (1 + exp(-x[i])) * x[n + i];
}

static void test_swiglu(void) {
    int64_t n = 20011;
    mk_real *x = randoms(2 * n, -9, 9), *y = empty(n), *dy = randoms(n, -1, 1), *dx = empty(2 * n);
    double *in = doubles(2 * n, x), *want = doubles(n, NULL);
    swiglu_reference(&n, in, want);
    K->swiglu(E, n, x, x + n, y);
    near_all("swiglu", n, y, want, TOL);
    K->swiglu_bwd(E, n, x, x + n, dy, dx, dx + n);
    gradient("swiglu", swiglu_reference, &n, 2 * n, x, n, dy, dx);
}

struct attention_ref {
    int64_t n_seq, H, G, K, T;
    const int32_t *offsets;
    int causal;
    double scale, *lse;
};

/* x = q, k, v one after the other */
static void attention_reference(void *arg, const double *x, double *y) {
    struct attention_ref *a = arg;
    const double *q = x, *k = q + a->T * a->H * a->K, *v = k + a->T * a->G * a->K;
    for (int64_t s = 0; s < a->n_seq; s++)
        for (int64_t t = a->offsets[s]; t < a->offsets[s + 1]; t++)
            for (int64_t h = 0; h < a->H; h++) {
                int64_t end = a->causal ? t + 1 : a->offsets[s + 1], g = h / (a->H / a->G);
                double sum = 0, *out = y + (t * a->H + h) * a->K;
                for (int64_t c = 0; c < a->K; c++) out[c] = 0;
                for (int64_t u = a->offsets[s]; u < end; u++) {
                    double dot = 0, w;
                    for (int64_t c = 0; c < a->K; c++)
                        dot += q[(t * a->H + h) * a->K + c] * k[(u * a->G + g) * a->K + c];
                    sum += w = exp(dot * a->scale);
                    for (int64_t c = 0; c < a->K; c++) out[c] += w * v[(u * a->G + g) * a->K + c];
                }
                for (int64_t c = 0; c < a->K; c++) out[c] /= sum;
                if (a->lse) a->lse[t * a->H + h] = log(sum);
            }
}

static void test_attention(void) {
    static const struct { int64_t H, G, K; int causal; int32_t off[7]; } cases[] = {
        {1, 1, 4, 1, {0, 1, 1, 4, 9, 9, 10}},
        {4, 4, 16, 1, {0, 56, 57, 57, 90, 150, 163}},
        {4, 2, 32, 1, {0, 20, 40, 41, 42, 100, 170}},
        {4, 1, 24, 0, {0, 20, 40, 41, 42, 100, 170}},
        {8, 8, 64, 1, {0, 15, 31, 47, 64, 65, 66}},
        {2, 1, 7, 1, {0, 33, 34, 35, 36, 37, 40}},
        {2, 2, 16, 1, {0, 300, 301, 400, 400, 529, 530}},
        {2, 1, 16, 0, {0, 300, 301, 400, 400, 529, 530}}};
    for (size_t s = 0; s < sizeof cases / sizeof *cases; s++) {
        int64_t H = cases[s].H, G = cases[s].G, k = cases[s].K, T = cases[s].off[6];
        int64_t nq = T * H * k, nk = T * G * k;
        int causal = cases[s].causal;
        const int32_t *off = cases[s].off;
        double scale = 1 / sqrt((double)k);
        mk_real *x = randoms(nq + 2 * nk, -2, 2), *out = empty(nq), *lse = empty(T * H);
        mk_real *dout = randoms(nq, -1, 1), *dx = empty(nq + 2 * nk);
        double *in = doubles(nq + 2 * nk, x), *want = doubles(nq, NULL), *wl = doubles(T * H, NULL);
        struct attention_ref ref = {6, H, G, k, T, off, causal, scale, wl};
        const mk_real *kk = x + nq, *vv = x + nq + nk;
        attention_reference(&ref, in, want);
        ref.lse = NULL;
        ok(K->attention(E, 6, off, H, G, k, scale, causal, x, kk, vv, out, lse) == MK_OK,
           "attention works");
        near_all("attention", nq, out, want, 3 * TOL);
        near_all("attention lse", T * H, lse, wl, 3 * TOL);
        K->attention_bwd(E, 6, off, H, G, k, scale, causal, x, kk, vv, out, lse, dout, dx, dx + nq,
                         dx + nq + nk);
        gradient("attention", attention_reference, &ref, nq + 2 * nk, x, nq, dout, dx);
        /* a sequence alone gives the same bits */
        for (int b = 0; b < 6; b++) {
            int32_t alone[2] = {0, off[b + 1] - off[b]};
            int64_t t0 = off[b], n = alone[1];
            mk_real *o1 = empty(n * H * k), *l1 = empty(n * H);
            K->attention(E, 1, alone, H, G, k, scale, causal, x + t0 * H * k, kk + t0 * G * k,
                         vv + t0 * G * k, o1, l1);
            same_bits("attention of one sequence", n * H * k, o1, out + t0 * H * k);
            same_bits("lse of one sequence", n * H, l1, lse + t0 * H);
        }
        /* the cache: tokens put in position order into shuffled slots, all read at the end and on
        ** the way */
        if (!causal) continue;
        int64_t longest = 0, slab;
        for (int b = 0; b < 6; b++) longest = off[b + 1] - off[b] > longest ? off[b + 1] - off[b] : longest;
        slab = (longest + 3) * G * k;
        mk_real *kc = constant(7 * slab, NAN), *vc = constant(7 * slab, NAN), *o2 = empty(nq);
        int32_t *slot = integers(T, 0, 1), *pos = integers(T, 0, 1);
        static const int32_t place[] = {4, 2, 6, 0, 5, 1};
        for (int b = 0; b < 6; b++)
            for (int32_t t = off[b]; t < off[b + 1]; t++) slot[t] = place[b], pos[t] = t - off[b];
        K->cache_put(E, T, G, k, slot, pos, slab, kk, vv, kc, vc);
        K->attention_cached(E, T, H, G, k, scale, slot, pos, slab, x, kc, vc, o2);
        same_bits("attention_cached", nq, o2, out);
        for (int64_t t = 0; t < T; t += 7) {
            mk_real *o3 = empty(H * k);
            K->attention_cached(E, 1, H, G, k, scale, slot + t, pos + t, slab, x + t * H * k, kc,
                                vc, o3);
            same_bits("attention_cached of one row", H * k, o3, out + t * H * k);
        }
    }
}

/* ---- the head ----------------------------------------------------------------------------------- */

struct head_ref { int64_t rows, V; double inv_temp; const int32_t *target; const double *other; int what; };

/* y[r] = log-probability (0), entropy (1), KL from the other logits (2) */
static void head_reference(void *arg, const double *x, double *y) {
    struct head_ref *a = arg;
    for (int64_t r = 0; r < a->rows; r++) {
        double lse[2] = {0, 0};
        for (int side = 0; side < 2; side++) {
            const double *z = side ? a->other : x;
            if (!z) continue;
            double top = -INFINITY;
            for (int64_t i = 0; i < a->V; i++) top = fmax(top, z[r * a->V + i] * a->inv_temp);
            for (int64_t i = 0; i < a->V; i++) lse[side] += exp(z[r * a->V + i] * a->inv_temp - top);
            lse[side] = log(lse[side]) + top;
        }
        y[r] = 0;
        if (a->what == 0 && a->target[r] >= 0)
            y[r] = x[r * a->V + a->target[r]] * a->inv_temp - lse[0];
        for (int64_t i = 0; a->what > 0 && i < a->V; i++) {
            double lp = x[r * a->V + i] * a->inv_temp - lse[0];
            if (isinf(lp)) continue;
            y[r] += a->what == 1 ? -exp(lp) * lp
                                 : exp(lp) * (lp - (a->other[r * a->V + i] * a->inv_temp - lse[1]));
        }
    }
}

static void test_head(void) {
    static const int64_t shapes[][2] = {{1, 1}, {5, 7}, {9, 64}, {200, 501}, {3, 4000}};
    for (int s = 0; s < 5; s++) {
        int64_t R = shapes[s][0], V = shapes[s][1], n = R * V;
        double it = s % 2 ? 1 : 1 / 0.7;
        mk_real *x = randoms(n, -5, 5), *q = randoms(n, -5, 5), *lp = empty(R), *ent = empty(R);
        mk_real *lse = empty(R), *kl = empty(R), *lse2 = empty(R), *lp2 = empty(R);
        int32_t *target = integers(R, 0, V);
        if (R > 3) target[2] = -1;
        double *in = doubles(n, x), *other = doubles(n, q), *want = doubles(R, NULL);
        struct head_ref ref = {R, V, (double)(mk_real)it, target, other, 0};
        K->logprob(E, R, V, x, it, target, lp, ent, lse);
        head_reference(&ref, in, want);
        near_all("logprob", R, lp, want, TOL);
        ref.what = 1;
        head_reference(&ref, in, want);
        near_all("entropy", R, ent, want, TOL);
        K->logprob(E, R, V, x, it, target, lp2, NULL, lse2);
        same_bits("logprob without entropy", R, lp, lp2);
        same_bits("lse without entropy", R, lse, lse2);
        K->logprob(E, 1, V, x + (R - 1) * V, it, target + R - 1, lp2, ent, lse2);
        same_bits("logprob of one row", 1, lp2, lp + R - 1);
        K->logprob(E, R, V, x, it, target, lp, ent, lse);

        mk_real *da = randoms(R, -1, 1), *db = randoms(R, -1, 1), *dx = empty(n);
        K->logprob_bwd(E, R, V, x, it, target, ent, lse, da, NULL, dx);
        ref.what = 0;
        gradient("logprob", head_reference, &ref, n, x, R, da, dx);
        K->logprob_bwd(E, R, V, x, it, target, ent, lse, NULL, db, dx);
        ref.what = 1;
        gradient("entropy", head_reference, &ref, n, x, R, db, dx);
        mk_real *both = empty(n), *first = empty(n);
        K->logprob_bwd(E, R, V, x, it, target, ent, lse, da, NULL, first);
        K->logprob_bwd(E, R, V, x, it, target, ent, lse, da, db, both);
        for (int64_t i = 0; i < n; i++)
            if (fabs((double)(both[i] - (first[i] + dx[i]))) > TOL) fail("both gradients add up");
        mk_real *place = copy_of(n, x);
        K->logprob_bwd(E, R, V, place, it, target, ent, lse, da, db, place);
        same_bits("logprob_bwd in place", n, place, both);

        mk_real *ref_lse = empty(R), *again = empty(R), *ignored = empty(R);
        K->kl(E, R, V, x, q, it, lse, ref_lse, kl);
        K->logprob(E, R, V, q, it, target, ignored, NULL, again);
        same_bits("kl: the lse of the reference", R, ref_lse, again);
        ref.what = 2;
        head_reference(&ref, in, want);
        near_all("kl", R, kl, want, 3 * TOL);
        for (int64_t i = 0; i < n; i++) dx[i] = 0;
        K->kl_bwd(E, R, V, x, q, it, lse, ref_lse, kl, da, dx);
        gradient("kl", head_reference, &ref, n, x, R, da, dx);
        mk_real *once = copy_of(n, dx);
        K->kl_bwd(E, R, V, x, q, it, lse, ref_lse, kl, da, dx);
        for (int64_t i = 0; i < n; i++)
            if (fabs((double)(dx[i] - 2 * once[i])) > TOL) fail("kl_bwd accumulates");
        K->kl(E, R, V, x, x, it, lse, ref_lse, kl);
        for (int64_t r = 0; r < R; r++) ok(fabs((double)kl[r]) < 1e-6, "kl with itself is 0");
    }
    /* a forbidden token (-inf) takes no probability and makes no NaN */
    mk_real x[] = {1, (mk_real)-INFINITY, 2, 0}, q[] = {0, (mk_real)-INFINITY, 1, 0}, lp, ent, lse;
    mk_real kl, ref_lse, dx[4], one = 1, half = (mk_real)0.5;
    int32_t target = 2;
    K->logprob(E, 1, 4, x, 1, &target, &lp, &ent, &lse);
    K->logprob_bwd(E, 1, 4, x, 1, &target, &ent, &lse, &one, &half, dx);
    ok(isfinite(lp) && isfinite(ent) && isfinite(dx[0]) && dx[1] == 0, "-inf logits");
    K->kl(E, 1, 4, x, q, 1, &lse, &ref_lse, &kl);
    K->kl_bwd(E, 1, 4, x, q, 1, &lse, &ref_lse, &kl, &one, dx);
    ok(isfinite(kl) && kl > 0 && isfinite(dx[3]) && dx[1] == 0, "-inf logits in kl");
}

static int by_size(const void *a, const void *b) {
    const double *u = a, *v = b;
    return u[0] != v[0] ? (u[0] < v[0] ? 1 : -1) : (u[1] > v[1] ? 1 : -1);
}

static void test_sample(void) {
    int64_t R = 4000, V = 50;
    static const struct { double it, top_p; int64_t top_k; } cuts[] = {
        {1, 1, 0}, {1.4, 1, 7}, {1, 0.8, 0}, {0.9, 0.6, 20}, {1, 1e-9, 0}, {1, 0.5, 1}, {0, 1, 0}};
    mk_real *row = randoms(V, -2, 2), *x = empty(R * V);
    row[7] = row[9] = row[3]; /* ties */
    for (int64_t i = 0; i < R * V; i++) x[i] = row[i % V];
    int32_t *id = integers(R, 0, 1), *token = integers(R, 0, 1), *again = integers(R, 0, 1);
    for (int64_t r = 0; r < R; r++) id[r] = (int32_t)(r * 3);
    for (int c = 0; c < 7; c++) {
        double it = cuts[c].it, order[50][2], p[50] = {0}, total = 0, kept = 0, chi = 0;
        ok(K->sample(E, R, V, x, it, cuts[c].top_k, cuts[c].top_p, 99, 5, id, token) == MK_OK,
           "sample works");
        record(token, (size_t)R * sizeof *token);
        for (int64_t i = 0; i < V; i++) order[i][0] = exp((double)row[i] * it), order[i][1] = (double)i;
        qsort(order, (size_t)V, sizeof order[0], by_size);
        int64_t k = cuts[c].top_k > 0 ? cuts[c].top_k : V, n_kept = 0;
        if (it <= 0) k = 1;
        for (int64_t i = 0; i < k; i++) total += order[i][0];
        for (int64_t i = 0; i < k && (i == 0 || kept < cuts[c].top_p * total); i++, n_kept++) {
            kept += order[i][0];
            p[(int)order[i][1]] = order[i][0];
        }
        if (it <= 0)
            for (int i = 0; i < V; i++) p[i] = 0;
        if (it <= 0) {
            int best = 0;
            for (int i = 1; i < V; i++)
                if (row[i] > row[best]) best = i;
            p[best] = kept = 1;
            n_kept = 1;
        }
        double count[50] = {0};
        for (int64_t r = 0; r < R; r++) {
            ok(token[r] >= 0 && token[r] < V && p[token[r]] > 0, "only kept tokens are drawn");
            count[token[r]]++;
            /* the inverse transform itself, in double */
            double u = mk_unit(mk_philox(5, (uint32_t)id[r], 0, 0, 99).w[0]), run = 0;
            int64_t at = 0;
            for (; at < V - 1; at++) {
                run += p[at] / kept;
                if (run > u) break;
            }
            if (at != token[r] && fabs(run - u) > 1e-5 && fabs(run - p[at] / kept - u) > 1e-5)
                fail("row %d drew %d, the inverse transform gives %d", (int)r, token[r], (int)at);
        }
        for (int64_t i = 0; i < V; i++)
            if (p[i] > 0) {
                double want = (double)R * p[i] / kept;
                chi += (count[i] - want) * (count[i] - want) / want;
            }
        ok(chi < (double)n_kept + 5 * sqrt(2.0 * (double)n_kept) + 5, "frequencies follow p");
        for (int64_t r = 0; r < R; r += 97) {
            K->sample(E, 1, V, x, it, cuts[c].top_k, cuts[c].top_p, 99, 5, id + r, again);
            ok(again[0] == token[r], "a draw depends on its row id alone");
        }
    }
}

/* ---- random numbers, PPO, optimisers ------------------------------------------------------------ */

static void test_random(void) {
    /* known answers of Philox4x32-10 (Random123's kat_vectors) */
    mk_philox4 w = mk_philox(0, 0, 0, 0, 0);
    ok(w.w[0] == 0x6627e8d5 && w.w[1] == 0xe169c58d && w.w[2] == 0xbc57ac4c && w.w[3] == 0x9b00dbd8,
       "philox of zeros");
    w = mk_philox(0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffffffffffffu);
    ok(w.w[0] == 0x408f276d && w.w[1] == 0x41c83b0e && w.w[2] == 0xa20bc7c6 && w.w[3] == 0x6d5451fd,
       "philox of ones");
    int64_t n = 200003;
    mk_real *x = empty(n), *y = empty(n);
    K->rand_uniform(E, n, 7, 3, -2, 5, x);
    record(x, (size_t)n * sizeof *x);
    double mean = 0, sq = 0;
    for (int64_t i = 0; i < n; i++) {
        ok(x[i] >= -2 && x[i] < 5, "uniform stays inside");
        mean += (double)x[i] / (double)n;
        sq += (double)x[i] * (double)x[i] / (double)n;
    }
    ok(fabs(mean - 1.5) < 0.02 && fabs(sq - mean * mean - 49.0 / 12) < 0.05, "uniform moments");
    w = mk_philox(25000, 0, 3, 0, 7);
    ok(fabs((double)x[100002] - (-2 + 7 * mk_unit(w.w[2]))) < 1e-6, "uniform counter");
    K->rand_uniform(E, 100, 7, 3, -2, 5, y);
    same_bits("a shorter stream", 100, x, y);
    K->rand_normal(E, n, 7, 3, 1, 2, x);
    record(x, (size_t)n * sizeof *x);
    double cube = 0, four = 0;
    mean = sq = 0;
    for (int64_t i = 0; i < n; i++) {
        double z = ((double)x[i] - 1) / 2;
        mean += z / (double)n;
        sq += z * z / (double)n;
        cube += z * z * z / (double)n;
        four += z * z * z * z / (double)n;
    }
    ok(fabs(mean) < 0.012 && fabs(sq - 1) < 0.015 && fabs(cube) < 0.04 && fabs(four - 3) < 0.1,
       "normal moments");
    double kept = 0;
    mk_real *d = empty(n), *d2;
    K->dropout(E, n, 0.3, 11, 2, x, d);
    record(d, (size_t)n * sizeof *d);
    for (int64_t i = 0; i < n; i++) {
        double u = mk_unit(mk_philox((uint32_t)(i / 4), 0, 2, 0, 11).w[i % 4]);
        double want = u < 0.3 ? 0 : (double)x[i] / 0.7;
        kept += d[i] != 0;
        if (fabs((double)d[i] - want) > TOL * (1 + fabs(want))) fail("dropout");
    }
    ok(fabs(kept / (double)n - 0.7) < 0.005, "dropout keeps 1 - p");
    d2 = copy_of(n, x);
    K->dropout(E, n, 0.3, 11, 2, d2, d2);
    same_bits("dropout in place", n, d, d2);
}

static void test_ppo(void) {
    int32_t off[] = {0, 1, 1, 6, 200};
    int64_t T = 200, n = 3;
    mk_real *r = randoms(T * n, -1, 1), *v = randoms(T * n, -1, 1), *adv = empty(T * n);
    mk_real *ret = empty(T * n);
    double *want = doubles(T * n, NULL), *back = doubles(T * n, NULL);
    K->gae(E, 4, off, n, r, v, 0.97, 0.9, adv, ret);
    for (int s = 0; s < 4; s++) /* the sum of discounted temporal differences, written out */
        for (int64_t t = off[s]; t < off[s + 1]; t++)
            for (int64_t c = 0; c < n; c++) {
                for (int64_t l = t; l < off[s + 1]; l++) {
                    double next = l + 1 < off[s + 1] ? (double)v[(l + 1) * n + c] : 0;
                    double delta = (double)r[l * n + c] + 0.97 * next - (double)v[l * n + c];
                    want[t * n + c] += pow(0.97 * 0.9, (double)(l - t)) * delta;
                }
                back[t * n + c] = want[t * n + c] + (double)v[t * n + c];
            }
    near_all("gae", T * n, adv, want, TOL);
    near_all("returns", T * n, ret, back, TOL);

    int64_t m = 1000;
    mk_real *lp = randoms(m, -2, 0), *old = randoms(m, -2, 0), *a = randoms(m, -1, 1);
    mk_real *loss = empty(m), *dlp = empty(m), *ratio = empty(m), *clipped = empty(m);
    double *wl = doubles(m, NULL), *wd = doubles(m, NULL), *wz = doubles(m, NULL);
    K->ppo_clip(E, m, 0.2, lp, old, a, loss, dlp, ratio, clipped);
    for (int64_t i = 0; i < m; i++) {
        double l[3], A = (double)a[i];
        for (int side = 0; side < 3; side++) {
            double z = exp((double)lp[i] - (double)old[i] + (side - 1) * 1e-6);
            l[side] = -fmin(z * A, fmin(fmax(z, 0.8), 1.2) * A);
            if (side == 1) wz[i] = z;
        }
        wl[i] = l[1];
        wd[i] = (l[2] - l[0]) / 2e-6;
        ok((clipped[i] != 0) == (l[1] != -wz[i] * A), "clipped says where the clip is active");
    }
    near_all("ppo loss", m, loss, wl, TOL);
    near_all("ppo gradient", m, dlp, wd, GRAD_TOL);
    near_all("ppo ratio", m, ratio, wz, TOL);
}

static void test_optimisers(void) {
    int64_t n = 5003;
    mk_real *p = randoms(n, -1, 1), *m = constant(n, 0), *v = constant(n, 0), *buf = empty(n);
    double *wp = doubles(n, p), *wm = doubles(n, m), *wv = doubles(n, v), *wb = doubles(n, v);
    for (int step = 1; step <= 5; step++) {
        mk_real *g = randoms(n, -3, 3);
        mk_parameter list[] = {{17, p, g, m, v}, {0, NULL, NULL, NULL, NULL}, {n - 17, p + 17, g + 17, m + 17, v + 17}};
        K->adamw(E, 3, list, 0.01, 0.9, 0.999, 1e-8, 0.1, step, 0.5);
        for (int64_t i = 0; i < n; i++) {
            double d = 0.5 * (double)g[i];
            wp[i] -= 0.01 * 0.1 * wp[i];
            wm[i] = 0.9 * wm[i] + 0.1 * d;
            wv[i] = 0.999 * wv[i] + 0.001 * d * d;
            wp[i] -= 0.01 * (wm[i] / (1 - pow(0.9, step))) /
                     (sqrt(wv[i] / (1 - pow(0.999, step))) + 1e-8);
        }
        near_all("adamw p", n, p, wp, 5 * TOL);
        near_all("adamw m", n, m, wm, 5 * TOL);
        near_all("adamw v", n, v, wv, 5 * TOL);
    }
    /* moments that have decayed to nothing count as 0, and what is not a number still shows */
    mk_real sp[] = {1, 1, 1}, sg[] = {0, 0, (mk_real)NAN}, sm[] = {(mk_real)1e-30, 1, 0}, sv[] = {(mk_real)1e-36, 1, 0};
    K->adamw(E, 1, &(mk_parameter){3, sp, sg, sm, sv}, 0.01, 0.9, 0.999, 1e-8, 0, 900, 1);
    ok(sp[0] == 1 && sm[0] == 0 && sv[0] == 0, "adamw: tiny moments");
    ok(sm[1] > 0 && sv[1] > 0 && isnan(sp[2]) && isnan(sm[2]) && isnan(sv[2]), "adamw: NaN");
    for (int step = 1; step <= 4; step++) {
        mk_real *g = randoms(n, -3, 3);
        K->sgd(E, n, p, g, buf, 0.1, 0.8, 0.01, step == 1, 2);
        for (int64_t i = 0; i < n; i++) {
            double d = 2 * (double)g[i] + 0.01 * wp[i];
            wb[i] = step == 1 ? d : 0.8 * wb[i] + d;
            wp[i] -= 0.1 * wb[i];
        }
        near_all("sgd p", n, p, wp, 10 * TOL);
    }
    for (int64_t len = 0; len < n; len = len * 3 + 1) {
        double got = -1, want = 0;
        mk_parameter list[] = {{len / 3, NULL, p, NULL, NULL}, {len - len / 3, NULL, p + len / 3, NULL, NULL}};
        ok(K->sumsq(E, 2, list, &got) == MK_OK, "sumsq works");
        for (int64_t i = 0; i < len; i++) want += (double)p[i] * (double)p[i];
        ok(fabs(got - want) <= 1e-12 * (1 + want), "sumsq");
        record(&got, sizeof got);
    }
}

/* ---- running ------------------------------------------------------------------------------------ */

static const struct { const char *name; void (*run)(void); } tests[] = {
    {"environment", test_environment}, {"fill and cast", test_fill_cast}, {"copy", test_copy},
    {"unary", test_unary}, {"exp", test_exp}, {"binary, where, axpy", test_binary},
    {"reduce", test_reduce}, {"gemm", test_gemm}, {"gemm row invariance", test_gemm_rows},
    {"matmul", test_matmul},
    {"softmax", test_softmax}, {"norms", test_norms}, {"rows by index", test_indexed_rows},
    {"rope", test_rope}, {"swiglu", test_swiglu}, {"attention", test_attention},
    {"head", test_head}, {"sample", test_sample}, {"random", test_random}, {"ppo", test_ppo},
    {"optimisers", test_optimisers}};

int main(int argc, char **argv) {
    K = mk_cpu_table();
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        uint64_t hash[2] = {0, 0};
        if (argc > 1 && !strstr(tests[i].name, argv[1])) continue;
        test_name = tests[i].name;
        test_failures = 0;
        for (int pass = 0; pass < 2; pass++) {
            if (mk_env_open(E, pass ? 3 : 1) != MK_OK) {
                fail("environment does not open");
                break;
            }
            second_pass = pass;
            rng_state = 20240501;
            result_hash = 14695981039346656037u;
            tests[i].run();
            hash[pass] = result_hash;
            buffers_free();
            mk_env_close(E);
        }
        ok(hash[0] == hash[1], "one thread and three give the same bits");
        if (test_failures == 0) {
            passed++;
        } else {
            failed++;
            if (test_failures > 5) printf("# %s: %d more\n", test_name, test_failures - 5);
        }
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
