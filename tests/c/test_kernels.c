/* test_kernels.c - the CPU kernels against naive references in double and central differences.
**
** Every test runs with one thread and with three: both must give the same bits. Buffers carry guard
** elements on both sides. Builds with mk_real = float or double; prints "N passed, N failed".
*/
#include <stdarg.h>
#include <stdio.h>

#include "kernels/harness.h"

/* ---- harness ------------------------------------------------------------------------------------ */

static int passed, failed, test_failures, second_pass;
static const char *test_name;
static mk_exec env;
mk_exec *const E = &env;
const mk_table *K;

void fail(const char *fmt, ...) {
    va_list ap;
    if (test_failures++ >= 5) return;
    printf("not ok %s: ", test_name);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
}

void ok(int cond, const char *what) {
    if (!cond) fail("%s", what);
}

static uint64_t rng_state;
double uniform(void) {
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(rng_state >> 40) / 16777216.0;
}
int64_t below(int64_t n) { return (int64_t)(uniform() * (double)n); }

#define GUARD 64
#define GUARD_BYTE 0x5a
#define BUFFERS_MAX 4096
static struct { unsigned char *base; size_t bytes; } buffer[BUFFERS_MAX];
static int n_buffers;

void *bytes_new(size_t bytes) {
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
void buffers_free(void) {
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

mk_real *empty(int64_t n) { return bytes_new((size_t)n * sizeof(mk_real)); }
mk_real *randoms(int64_t n, double lo, double hi) {
    mk_real *x = empty(n);
    for (int64_t i = 0; i < n; i++) x[i] = (mk_real)(lo + (hi - lo) * uniform());
    return x;
}
mk_real *constant(int64_t n, double v) { return randoms(n, v, v); }
int32_t *integers(int64_t n, int64_t lo, int64_t hi) {
    int32_t *x = bytes_new((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = (int32_t)(lo + below(hi - lo));
    return x;
}
mk_real *copy_of(int64_t n, const mk_real *x) {
    mk_real *y = empty(n);
    memcpy(y, x, (size_t)n * sizeof *y);
    return y;
}

static uint64_t result_hash;
void record(const void *p, size_t bytes) {
    const unsigned char *x = p;
    for (size_t i = 0; i < bytes; i++) result_hash = (result_hash ^ x[i]) * 1099511628211u;
}

void near_all(const char *what, int64_t n, const mk_real *got, const double *want, double tol) {
    record(got, (size_t)n * sizeof *got);
    for (int64_t i = 0; i < n; i++) {
        double g = (double)got[i], w = want[i];
        int good = isnan(w) ? isnan(g) : isinf(w) ? g == w : fabs(g - w) <= tol * (1 + fabs(w));
        if (!good) fail("%s[%" PRId64 "]: got %.9g, want %.9g", what, i, g, w);
    }
}
void same_bits(const char *what, int64_t n, const mk_real *a, const mk_real *b) {
    for (int64_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a)) {
            fail("%s[%" PRId64 "]: %.9g and %.9g differ", what, i, (double)a[i], (double)b[i]);
            return;
        }
}

double *doubles(int64_t n, const mk_real *x) {
    double *d = bytes_new((size_t)n * sizeof *d);
    for (int64_t i = 0; i < n; i++) d[i] = x ? (double)x[i] : 0;
    return d;
}

/* with the second number of threads the bits are compared instead */
void gradient(const char *what, reference f, void *arg, int64_t nx, const mk_real *x,
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

/* ---- running ------------------------------------------------------------------------------------ */

static const struct { const char *name; void (*run)(void); } tests[] = {
    {"environment", test_environment}, {"fill and cast", test_fill_cast}, {"copy", test_copy},
    {"unary", test_unary}, {"exp", test_exp}, {"binary, where, axpy", test_binary},
    {"reduce", test_reduce}, {"gemm", test_gemm}, {"gemm row invariance", test_gemm_rows},
    {"gemm continued", test_gemm_continued},
    {"matmul", test_matmul},
    {"softmax", test_softmax}, {"norms", test_norms}, {"rows by index", test_indexed_rows},
    {"rope", test_rope}, {"swiglu", test_swiglu}, {"attention", test_attention},
    {"cross_attention", test_cross_attention},
    {"head", test_head}, {"sample", test_sample}, {"random", test_random}, {"ppo", test_ppo},
    {"optimisers", test_optimisers}, {"bf16", test_bf16}, {"codes", test_codes}, {"instruction sets", test_sets}};

int main(int argc, char **argv) {
    K = mk_cpu_table();
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        uint64_t hash[2] = {0, 0};
        if (argc > 1 && !strstr(tests[i].name, argv[1])) continue;
        test_name = tests[i].name;
        test_failures = 0;
        for (int pass = 0; pass < 2; pass++) {
            if (mk_exec_open(E, pass ? 3 : 1) != MK_OK) {
                fail("environment does not open");
                break;
            }
            second_pass = pass;
            rng_state = 20240501;
            result_hash = 14695981039346656037u;
            tests[i].run();
            hash[pass] = result_hash;
            buffers_free();
            mk_exec_close(E);
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
