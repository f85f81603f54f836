/* blas.c - matmul, by OpenBLAS where that is faster than gemm.c; loaded when first needed.
**
** C is cut into tiles by shape alone, and the threads of mk_exec take tiles, each one call of a library
** that runs one thread: so the number of threads does not change the result. Inside a tile a row's
** bits depend on its place, which is why gemm.c, not this, computes what rollout and training share.
**
** OpenBLAS chooses its kernels in its constructor. Versions that do not know a processor take those
** for SSE3, several times slower; so it is loaded with OPENBLAS_CORETYPE set after the processor's
** features, unless the user has set it.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "simd.h"
#include "table.h"

#define LIBRARY "libopenblas.so.0"
#define CORE "OPENBLAS_CORETYPE"
#define THREADS "OPENBLAS_NUM_THREADS"

/* Measured, AVX-512: below these sizes gemm.c is as fast, or there are too few tiles to share */
#define MIN_C ((int64_t)2048 * 2048)
#define MIN_SIDE 1024
#define TILE_ROWS 1024
#define TILE_COLUMNS 512

enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 }; /* of cblas.h */
typedef void (*gemm_fn)(int order, int ta, int tb, int m, int n, int k, mk_real alpha,
                        const mk_real *a, int lda, const mk_real *b, int ldb, mk_real beta,
                        mk_real *c, int ldc);

/* filled once per process; the library stays loaded */
static struct {
    gemm_fn gemm;   /* NULL: there is no library that can be used */
    int slower;     /* its kernels are for shorter vectors than ours */
    char text[256]; /* its version and kernels; or why there is none */
} library;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* ---- loading ------------------------------------------------------------------------------------ */

/* Kernels of OpenBLAS for the instruction set that ours use (MOCL_ISA lowers both), NULL = its choice */
static const char *core_type(void) {
    const char *isa = mk_simd_name();
    return !strcmp(isa, "avx512") ? "SkylakeX" : !strcmp(isa, "avx2") ? "Haswell" : NULL;
}

/* Are the library's kernels for shorter vectors than ours? */
static int is_slower(const char *core) {
    static const char *const wide[] = {"SkylakeX", "Cooperlake", "SapphireRapids", "Haswell", "Zen"};
    const char *isa = mk_simd_name();
    int n = !strcmp(isa, "avx512") ? 3 : !strcmp(isa, "avx2") ? 5 : 0; /* 3: those for AVX-512 */
    for (int i = 0; i < n; i++)
        if (!strcasecmp(core, wide[i])) return 0;
    return n > 0;
}

/* The environment is as before when this returns; what it holds for a moment no other thread should
** read (docs/embedding.md). */
static void *load(void) {
    void *lib = dlopen(LIBRARY, RTLD_NOW | RTLD_NOLOAD); /* the host program's own: as it is */
    if (lib) return lib;
    const char *core = core_type();
    int core_set = core && !getenv(CORE) && !setenv(CORE, core, 0);
    int threads_set = !getenv(THREADS) && !setenv(THREADS, "1", 0);
    lib = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (core_set) unsetenv(CORE);
    if (threads_set) unsetenv(THREADS);
    return lib;
}

#define SAY(...) snprintf(library.text, sizeof library.text, __VA_ARGS__)

static void open_library(void) {
    gemm_fn gemm;
    char *(*config)(void), *(*corename)(void);
    int (*parallel)(void), (*threads)(void);
    const struct { const char *name; void *where; } symbols[] = {
        {sizeof(mk_real) == sizeof(double) ? "cblas_dgemm" : "cblas_sgemm", &gemm},
        {"openblas_get_config", &config}, {"openblas_get_corename", &corename},
        {"openblas_get_parallel", &parallel}, {"openblas_get_num_threads", &threads}};
    void *lib = load();
    if (!lib) {
        const char *why = dlerror();
        SAY("%s", why ? why : "no " LIBRARY);
        return;
    }
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *p = dlsym(lib, symbols[i].name);
        if (!p) {
            SAY(LIBRARY " has no %s", symbols[i].name);
            return;
        }
        memcpy(symbols[i].where, &p, sizeof p);
    }
    const char *version = config(), *space = strchr(version, ' '); /* "OpenBLAS 0.3.21 NO_LAPACKE ..." */
    int length = (int)(space ? space + 1 + strcspn(space + 1, " ") - version : (long)strlen(version));
    SAY("%.*s %s%s", length, version, corename(), getenv(CORE) ? " (" CORE " set by the user)" : "");
    size_t at = strlen(library.text);
    char *more = library.text + at;
    size_t room = sizeof library.text - at;
    if (strstr(version, "USE64BITINT"))
        snprintf(more, room, " has 64-bit sizes, 32 are needed");
    else if (parallel() != 1) /* without threads it has no locks; OpenMP's number is set elsewhere */
        snprintf(more, room, " is not built with pthreads (Debian: libopenblas0-pthread)");
    else if (threads() != 1)
        snprintf(more, room, " has %d threads, matmul needs 1 (" THREADS ")", threads());
    else
        library.gemm = gemm;
    library.slower = is_slower(corename());
}

static int usable(mk_blas blas) {
    if (blas == MK_BLAS_NONE) return 0;
    pthread_once(&once, open_library);
    return library.gemm && (blas == MK_BLAS_OPENBLAS || !library.slower);
}

void mk_blas_describe(mk_blas blas, char *text, size_t bytes) {
    const char *isa = mk_simd_name();
    if (usable(blas))
        snprintf(text, bytes, "%s, for matmul of 2048 x 1024 x 2048 and up; built-in kernels (%s) else",
                 library.text, isa);
    else if (blas == MK_BLAS_NONE)
        snprintf(text, bytes, "built-in kernels (%s): MOCL_BLAS=none", isa);
    else if (library.gemm)
        snprintf(text, bytes, "built-in kernels (%s): %s is slower; MOCL_BLAS=openblas takes it", isa, library.text);
    else
        snprintf(text, bytes, "built-in kernels (%s): %s", isa, library.text);
}

/* ---- the kernel --------------------------------------------------------------------------------- */

/* Shape alone decides, so that a product of the same sizes always has the same bits. */
static int is_large(int64_t m, int64_t n, int64_t k) {
    return mk_min(mk_min(m, n), k) >= MIN_SIDE && m >= mk_ceil_div(MIN_C, n);
}

struct tile_job {
    int ta, tb;
    int64_t m, n, k, lda, ldb, ldc, step_a, step_b, step_c, rows, columns, down, across;
    const mk_real *a, *b;
    mk_real *c;
};

static void tile_piece(void *arg, int64_t at) {
    const struct tile_job *t = arg;
    int64_t which = at / (t->down * t->across), i = at / t->across % t->down * t->rows;
    int64_t j = at % t->across * t->columns;
    library.gemm(ROW_MAJOR, t->ta ? TRANSPOSED : PLAIN, t->tb ? TRANSPOSED : PLAIN,
                 (int)mk_min(t->rows, t->m - i), (int)mk_min(t->columns, t->n - j), (int)t->k, 1,
                 t->a + which * t->step_a + (t->ta ? i : i * t->lda), (int)t->lda,
                 t->b + which * t->step_b + (t->tb ? j * t->ldb : j), (int)t->ldb, 0,
                 t->c + which * t->step_c + i * t->ldc + j, (int)t->ldc);
}

/* n in `pieces` parts of about equal size, in whole cache lines */
static int64_t part(int64_t n, int64_t pieces) { return mk_ceil_div(mk_ceil_div(n, pieces), 16) * 16; }

int mk_cpu_matmul(mk_exec *e, int ta, int tb, int64_t m, int64_t n, int64_t k, const mk_real *a,
                  int64_t lda, int64_t step_a, const mk_real *b, int64_t ldb, int64_t step_b,
                  mk_real *c, int64_t ldc, int64_t step_c, int64_t batch) {
    if (!is_large(m, n, k) || mk_max(mk_max(k, lda), mk_max(ldb, ldc)) > INT_MAX || !usable(e->blas))
        return mk_cpu_gemm(e, ta, tb, m, n, k, 1, a, lda, step_a, b, ldb, step_b, 0, c, ldc, step_c,
                           batch);
    struct tile_job t = {
        .ta = ta, .tb = tb, .m = m, .n = n, .k = k, .lda = lda, .ldb = ldb, .ldc = ldc,
        .step_a = step_a, .step_b = step_b, .step_c = step_c, .a = a, .b = b, .c = c,
        .rows = part(m, mk_ceil_div(m, TILE_ROWS)), .columns = part(n, mk_ceil_div(n, TILE_COLUMNS)),
    };
    t.down = mk_ceil_div(m, t.rows);
    t.across = mk_ceil_div(n, t.columns);
    mk_parallel(e, batch * t.down * t.across, tile_piece, &t);
    return MK_OK;
}
