/* codes.c - products of codes of 8 bits: every instruction set gives the sum of the integers, and the kernel what the rule says */
#include "harness.h"
#include "quantized.h"
#include "simd_short.h"

#include "codes_bnb.h"

typedef void (*dots_of)(int64_t, int64_t, int64_t, const int8_t *, int64_t, const int32_t *, const int8_t *, int64_t, int32_t *, int64_t);

static const struct mk_simd *const sets[] = {&mk_simd_base,
#ifdef MK_SIMD_X86
                                             &mk_simd_avx2, &mk_simd_short, &mk_simd_avx512,
#endif
                                             NULL};

/* whether this machine has what a set needs */
static int here(const struct mk_simd *s) {
#ifdef MK_SIMD_X86
    __builtin_cpu_init();
    if (s == &mk_simd_avx512) return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (s != &mk_simd_base) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return s != NULL;
}

static int has_vnni(void) {
#ifdef MK_SIMD_X86
    return __builtin_cpu_supports("avx512vnni");
#else
    return 0;
#endif
}

/* codes lo .. 127; of the second kind the two ends alone, whose products saturate in 16 bits */
static int8_t *codes(int64_t n, int lo, int ends) {
    int8_t *c = bytes_new((size_t)n);
    for (int64_t i = 0; i < n; i++) c[i] = (int8_t)(!ends ? lo + below(128 - lo) : below(2) ? lo : 127);
    return c;
}

static void dots_are_sums(const char *name, dots_of dots, int64_t m, int64_t n, int64_t k, int ends) {
    int8_t *a = codes(m * k, -127, ends), *w = codes(n * k, -128, ends);
    int32_t *sum = bytes_new((size_t)m * sizeof *sum), *got = bytes_new((size_t)(m * n) * sizeof *got);
    if (ends) memset(a, 127, (size_t)k);
    if (ends) memset(w, -128, (size_t)k); /* the farthest sum */
    for (int64_t i = 0; i < m; i++) {
        sum[i] = 0;
        for (int64_t p = 0; p < k; p++) sum[i] += a[i * k + p];
    }
    dots(k, m, n, a, k, sum, w, k, got, n);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            int64_t want = 0;
            for (int64_t p = 0; p < k; p++) want += (int64_t)a[i * k + p] * w[j * k + p];
            if (want == got[i * n + j]) continue;
            fail("%s: %d x %d of %d codes: %d, not %d", name, (int)i, (int)j, (int)k, (int)got[i * n + j], (int)want);
            return;
        }
}

static void rounds_as(const struct mk_simd *s, int64_t n) {
    mk_real *x = randoms(n, -3, 3), most = 0;
    int8_t *got = bytes_new((size_t)n);
    int32_t sum, all = 0;
    if (n > 2) x[n / 2] = 0;
    for (int64_t i = 0; i < n; i++) most = MK_R(fmax)(most, MK_R(fabs)(x[i]));
    ok(s->round_codes(n, x, got, &sum) == most, "absmax is the largest absolute value");
    for (int64_t i = 0; i < n; i++) {
        int want = (int)rintf((float)x[i] * (127.0f / (float)most));
        all += want;
        if (got[i] != want) fail("%s: code %d of %d is %d, not %d", s->name, (int)i, (int)n, got[i], want);
    }
    ok(sum == all, "the sum of codes");
    x[n - 1] = NAN;
    ok(isnan(s->round_codes(n, x, got, &sum)), "NaN in a row");
    x[n - 1] = -(mk_real)INFINITY;
    ok(isnan(s->round_codes(n, x, got, &sum)), "an infinity in a row");
    for (int64_t i = 0; i < n; i++) x[i] = (mk_real)1e-38;
    ok(s->round_codes(n, x, got, &sum) == 0 && sum == 0 && got[0] == 0, "a row of next to nothing");
}

/* C = alpha A W^T + beta C of the format */
static void kernel_of(int64_t m, int64_t n, int64_t k, double alpha, double beta) {
    mk_real *a = randoms(m * k, -2, 2), *absmax = randoms(n, 0.1, 2), *c = randoms(m * n, -1, 1), *got = copy_of(m * n, c);
    int8_t *w = codes(n * k, -127, 0), *code = bytes_new((size_t)k);
    double *want = doubles(m * n, c);
    mk_weight weight = {.format = MK_FORMAT_W8A8, .rows = n, .columns = k, .part = {w, absmax}};
    for (int64_t i = 0; i < m; i++) {
        int32_t sum;
        mk_real most = mk_simd_base.round_codes(k, a + i * k, code, &sum);
        for (int64_t j = 0; j < n; j++) {
            double dot = 0;
            for (int64_t p = 0; p < k; p++) dot += (double)code[p] * w[j * k + p];
            want[i * n + j] = alpha * dot * (double)most * (double)absmax[j] / (127 * 127) + (beta == 0 ? 0 : beta * want[i * n + j]);
        }
    }
    if (beta == 0)
        for (int64_t i = 0; i < m * n; i++) got[i] = NAN; /* is not read */
    ok(K->gemm_weight(E, 0, m, alpha, MK_F32, a, k, 1, &weight, beta, MK_F32, got, n) == MK_OK, "the product");
    near_all("w8a8", m * n, got, want, TOL);
    mk_real *one = empty(n);
    for (int64_t i = 0; beta == 0 && i < m; i++) {
        ok(K->gemm_weight(E, 0, 1, alpha, MK_F32, a + i * k, k, 1, &weight, 0, MK_F32, one, n) == MK_OK, "one row");
        same_bits("a row alone", n, one, got + i * n);
    }
}

/* codes and product of bitsandbytes */
static void as_bitsandbytes(void) {
    int8_t *code = bytes_new(BNB_COLUMNS);
    int32_t sum;
    mk_real *got = empty(BNB_ROWS * BNB_OUT);
    mk_weight w = {.format = MK_FORMAT_W8A8, .rows = BNB_OUT, .columns = BNB_COLUMNS, .part = {bnb_w, bnb_absmax}};
    for (int i = 0; i < BNB_ROWS; i++) {
        mk_simd()->round_codes(BNB_COLUMNS, bnb_a + i * BNB_COLUMNS, code, &sum);
        ok(memcmp(code, bnb_a_code + i * BNB_COLUMNS, BNB_COLUMNS) == 0, "codes of a row are those of bitsandbytes");
    }
    ok(K->gemm_weight(E, 0, BNB_ROWS, 1, MK_F32, bnb_a, BNB_COLUMNS, 1, &w, 0, MK_F32, got, BNB_OUT) == MK_OK, "the product");
    near_all("bitsandbytes", BNB_ROWS * BNB_OUT, got, bnb_product, 1e-6);
}

void test_codes(void) {
    static const int64_t size[] = {1, 7, 8, 15, 16, 31, 32, 63, 64, 65, 130, 255, 256, 300, 577};
    for (size_t l = 0; l < sizeof size / sizeof *size; l++) {
        for (int s = 0; sets[s]; s++) {
            if (!here(sets[s])) continue;
            rounds_as(sets[s], size[l]);
            for (int ends = 0; ends < 2; ends++) {
                dots_are_sums(sets[s]->name, sets[s]->dot_codes, 1 + below(9), 1 + below(9), size[l], ends);
                for (int64_t m = 1; sets[s]->dot_codes_vnni && has_vnni() && m < 6; m++)
                    dots_are_sums("vnni", sets[s]->dot_codes_vnni, m, 1 + below(9), size[l], ends);
            }
        }
        kernel_of(1 + below(5), 1 + below(40), size[l], 1, 0);
        kernel_of(1 + below(5), 1 + below(40), size[l], 0.7, 1.5);
        buffers_free();
    }
    for (int s = 0; sets[s]; s++)
        if (here(sets[s])) dots_are_sums(sets[s]->name, sets[s]->dot_codes, 1, 2, MK_W8A8_COLUMNS, 1);
#ifdef MK_SIMD_X86
    if (has_vnni()) dots_are_sums("vnni", mk_simd_avx512.dot_codes_vnni, 1, 2, MK_W8A8_COLUMNS, 1);
#endif
    kernel_of(150, 35, 96, 1, 0);
    as_bitsandbytes();
    mk_real *x = constant(4, 1);
    mk_weight wide = {.format = MK_FORMAT_W8A8, .rows = 1, .columns = MK_W8A8_COLUMNS + 1, .part = {x, x}};
    ok(K->gemm_weight(E, 0, 1, 1, MK_F32, x, 1, 1, &wide, 0, MK_F32, x, 1) == MK_UNSUPPORTED, "sums that do not fit 32 bits");
}
