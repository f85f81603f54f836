/* products.c - products of matrices, and what holds for each row of them alone */
#include "harness.h"

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

/* C = alpha A op(W) + from: the bits of a product added to a copy of `from`, which stays as it is */
static void onto_case(int tw, int64_t m, int64_t n, int64_t k) {
    mk_real *a = randoms(m * k, -1, 1), *w = randoms(n * k, -1, 1), *from = randoms(m * n, -1, 1), *before = empty(m * n);
    mk_real *want = empty(m * n), *got = constant(m * n, NAN);
    mk_weight weight = {.format = MK_FORMAT_F32, .rows = tw ? n : k, .columns = tw ? k : n, .part = {w}};
    memcpy(want, from, (size_t)(m * n) * sizeof *want);
    memcpy(before, from, (size_t)(m * n) * sizeof *before);
    ok(K->gemm_weight(E, 0, m, 0.7, MK_F32, a, k, tw, &weight, 1, MK_F32, want, n) == MK_OK, "gemm_weight works");
    ok(K->gemm_weight_onto(E, m, 0.7, a, k, tw, &weight, from, got, n) == MK_OK, "gemm_weight_onto works");
    same_bits("gemm_weight_onto", m * n, got, want);
    same_bits("what gemm_weight_onto adds to", m * n, from, before);
    ok(K->gemm_weight_onto(E, m, 0.7, a, k, tw, &weight, from, from, n) == MK_OK, "gemm_weight_onto works in place");
    same_bits("gemm_weight_onto in place", m * n, from, want);
    buffers_free();
}

/* rows in pieces of at most `most`, some of them empty: the bits of gemm on all of them */
static void continued_case(int64_t m, int64_t n, int64_t k, int64_t most, double alpha) {
    mk_real *a = randoms(k * m, -1, 1), *b = randoms(k * n, -1, 1), *want = empty(m * n), *got = constant(m * n, NAN);
    mk_real *part = constant(m * n, NAN), *total = constant(m * n, NAN);
    ok(K->gemm(E, 1, 0, m, n, k, alpha, a, m, 0, b, n, 0, 0, want, n, 0, 1) == MK_OK, "gemm works");
    for (int64_t at = 0, some; at < k; at += some) {
        some = below((int)most + 1);
        if (at + some > k) some = k - at;
        ok(K->gemm_continued(E, m, n, some, at, a + at * m, b + at * n, alpha, part, total, at + some == k ? got : NULL) == MK_OK,
           "gemm_continued works");
    }
    same_bits("gemm_continued", m * n, got, want);
    ok(K->gemm_continued(E, m, n, 0, 0, a, b, alpha, part, total, got) == MK_OK, "gemm_continued of no rows");
    for (int64_t i = 0; i < m * n; i++) want[i] = 0;
    same_bits("no rows", m * n, got, want);
    buffers_free();
}

void test_gemm_continued(void) {
    static const int64_t sizes[] = {1, 3, 15, 16, 17, 65, 97, 260, 300}, most[] = {1, 7, 100, 256, 257, 700};
    for (int i = 0; i < 60; i++) continued_case(sizes[below(9)], sizes[below(9)], 1 + below(1500), most[below(6)], i % 2 ? 1 : 0.7);
    continued_case(16, 577, 1024, 256, 1);
    continued_case(577, 16, 1030, 300, 2);
}

void test_gemm(void) {
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
    for (int tw = 0; tw < 2; tw++) {
        onto_case(tw, 1, 5, 3);
        onto_case(tw, 203, 64, 16);
        onto_case(tw, 1100, 176, 16);
        onto_case(tw, 40, 70, 300);
    }
    ok(K->gemm(E, 0, 1, 0, 5, 5, 1, NULL, 5, 0, NULL, 5, 0, 0, NULL, 5, 0, 1) == MK_OK, "no rows");
}

/* Row i of C has the same bits whatever m is and wherever the row lies. */
void test_gemm_rows(void) {
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
void test_matmul(void) {
    mk_exec two;
    ok(mk_exec_open(&two, 2) == MK_OK, "environment opens");
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
    mk_exec_close(&two);
    ok(K->matmul(E, 0, 0, 0, 4096, 4096, NULL, 1, 0, NULL, 1, 0, NULL, 1, 0, 1) == MK_OK, "no rows");
    mk_real *c = constant(12, NAN);
    ok(K->matmul(E, 0, 0, 3, 4, 0, NULL, 1, 0, NULL, 4, 0, c, 4, 0, 1) == MK_OK, "empty sums");
    for (int i = 0; i < 12; i++) ok(c[i] == 0, "empty sums are 0");
}
