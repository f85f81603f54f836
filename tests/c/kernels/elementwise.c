/* elementwise.c - casts, copies, functions of one and two tensors, sums over dimensions */
#include <stdio.h>

#include "harness.h"

#define PI 3.14159265358979323846

static const mk_dtype all_dtypes[] = {MK_F32, MK_BF16, MK_F16, MK_I8, MK_U8, MK_I32, MK_I64};

void test_fill_cast(void) {
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

void test_copy(void) {
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

void test_unary(void) {
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
void test_exp(void) {
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

void test_binary(void) {
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
            ok(K->binary(E, MK_F32, (mk_binary)op, 3, layout[l].shape, a, layout[l].as, b, layout[l].bs,
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
                K->binary(E, MK_F32, (mk_binary)op, 3, layout[l].shape, a, layout[l].as, b, layout[l].bs, a);
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
    K->binary(E, MK_F32, MK_MAXIMUM, 1, &two, nan_pair, &unit, flipped, &unit, out);
    ok(isnan(out[0]) && isnan(out[1]), "maximum keeps NaN");
}

void test_reduce(void) {
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
