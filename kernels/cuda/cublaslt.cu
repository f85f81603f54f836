/* cublaslt.cu - products of bf16 through cuBLASLt under the contract of kernels.h: a row's bits do not depend on the
** number of rows.
**
** cuBLASLt would choose an algorithm for each number of rows, and with it the order of a sum over k. Here one algorithm is
** chosen for the sizes that a weight fixes (n and k; m and n where the sum is over the rows), asked for at a reference number of
** rows, and used for all. It may neither split k nor have workspace, in which partial sums would be kept: an element of C is then
** one sequence over k of one tile, and tiles are cut alike whatever the number of rows. Candidates that would not run at
** some number of rows are passed over; where none is left our own kernel computes these sizes, always. That the library keeps
** its side is checked on a device by tests/gpu/run.sh; MOCL_BLAS=none does without it.
**
** The library is column-major: C^T = op(B)^T op(A)^T.
*/
#include "cublaslt.cuh"

#include <cstdio>
#include <cstdlib>
#include <new>

#ifdef __CUDACC__
#include <cublasLt.h>
#include <dlfcn.h>
#else
#include "emu/cublaslt.h"
#endif

#define CALLS(X) \
    X(cublasLtCreate) X(cublasLtDestroy) X(cublasLtGetVersion) X(cublasLtMatmul) X(cublasLtMatmulAlgoCheck) \
    X(cublasLtMatmulAlgoConfigGetAttribute) X(cublasLtMatmulAlgoGetHeuristic) X(cublasLtMatmulDescCreate) \
    X(cublasLtMatmulDescDestroy) X(cublasLtMatmulDescSetAttribute) X(cublasLtMatmulPreferenceCreate) \
    X(cublasLtMatmulPreferenceDestroy) X(cublasLtMatmulPreferenceSetAttribute) X(cublasLtMatrixLayoutCreate) \
    X(cublasLtMatrixLayoutDestroy)

struct library {
#define MEMBER(f) decltype(&::f) f;
    CALLS(MEMBER)
#undef MEMBER
};

/* false with the reason in why */
static bool load(library *lib, char *why, size_t size) {
#ifdef __CUDACC__
    char name[64], usual[96];
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    snprintf(usual, sizeof usual, "/usr/local/cuda/lib64/%s", name);
    const char *wanted = getenv("MOCL_CUBLASLT"), *places[] = {wanted && *wanted ? wanted : name, usual};
    void *object = nullptr;
    for (int i = 0; i < 2 && !object; i++) object = dlopen(places[i], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!object) {
        snprintf(why, size, "%s is not there; MOCL_CUBLASLT names the file", name);
        return false;
    }
#define FIND(f)                                                        \
    if (!(lib->f = reinterpret_cast<decltype(&::f)>(dlsym(object, #f)))) { \
        snprintf(why, size, "%s has no %s", name, #f);                 \
        return false;                                                  \
    }
    CALLS(FIND)
#undef FIND
    return true;
#else
    const char *there = getenv("MOCL_EMU_CUBLASLT");
    if (there && *there == '0') {
        snprintf(why, size, "libcublasLt.so.13 is not there; MOCL_CUBLASLT names the file");
        return false;
    }
#define TAKE(f) lib->f = ::f;
    CALLS(TAKE)
#undef TAKE
    return true;
#endif
}

void mk_cublaslt_describe(int blas, char *text, size_t size) {
    library lib;
    char why[160];
    if (blas == MK_BLAS_NONE) {
        snprintf(text, size, "own kernels (MOCL_BLAS=none)");
    } else if (!load(&lib, why, sizeof why)) {
        snprintf(text, size, "own kernels (%s)", why);
    } else {
        size_t v = lib.cublasLtGetVersion();
        snprintf(text, size, "cuBLASLt %d.%d.%d", (int)(v / 10000), (int)(v / 100 % 100), (int)(v % 100));
    }
}

/* ---- one product as the library wants it -------------------------------------------------------- */

struct shape {
    int ta, tb;
    int64_t m, n, k, lda, ldb, ldc;
    mk_dtype c_type;
};

static bool same(const shape &x, const shape &y) {
    return x.ta == y.ta && x.tb == y.tb && x.m == y.m && x.n == y.n && x.k == y.k && x.lda == y.lda && x.ldb == y.ldb &&
           x.ldc == y.ldc && x.c_type == y.c_type;
}

/* descriptors of a product; B, A and C of kernels.h in this order */
struct descriptors {
    const library *lib;
    cublasLtMatmulDesc_t op = nullptr;
    cublasLtMatrixLayout_t b = nullptr, a = nullptr, c = nullptr;

    explicit descriptors(const library *l) : lib(l) {}
    ~descriptors() {
        if (c) lib->cublasLtMatrixLayoutDestroy(c);
        if (a) lib->cublasLtMatrixLayoutDestroy(a);
        if (b) lib->cublasLtMatrixLayoutDestroy(b);
        if (op) lib->cublasLtMatmulDescDestroy(op);
    }
    cublasStatus_t make(const shape &s) {
        cublasOperation_t first = s.tb ? CUBLAS_OP_T : CUBLAS_OP_N, second = s.ta ? CUBLAS_OP_T : CUBLAS_OP_N;
        cublasStatus_t st = lib->cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
        if (!st) st = lib->cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
        if (!st) st = lib->cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
        if (!st) st = layout(&b, CUDA_R_16BF, s.tb ? s.k : s.n, s.tb ? s.n : s.k, s.ldb);
        if (!st) st = layout(&a, CUDA_R_16BF, s.ta ? s.m : s.k, s.ta ? s.k : s.m, s.lda);
        if (!st) st = layout(&c, s.c_type == MK_F32 ? CUDA_R_32F : CUDA_R_16BF, s.n, s.m, s.ldc);
        return st;
    }

private:
    cublasStatus_t layout(cublasLtMatrixLayout_t *out, cudaDataType_t type, int64_t rows, int64_t cols, int64_t ld) {
        return lib->cublasLtMatrixLayoutCreate(out, type, (uint64_t)rows, (uint64_t)cols, ld);
    }
};

/* ---- the algorithm of a weight ------------------------------------------------------------------ */

#define ALIGNMENT 16     /* bytes that pointers and row distances keep */
#define CANDIDATES 16
#define REFERENCE_ROWS 128 /* what the library is asked for where the number of rows is free; not measured yet */
#define CHOICES 256
#define PROBES 16

struct choice {
    shape key; /* with 0 for the size that is free */
    bool made, usable;
    cublasLtMatmulAlgo_t algo;
};

struct mk_cublaslt {
    library lib;
    bool there;
    cublasLtHandle_t handle;
    choice made[CHOICES]; /* by hash, see chosen(): a choice that is overwritten is made again, and is the same */
};

static shape with_rows(const shape &key, int64_t rows) {
    shape s = key;
    if (key.ta) s.k = rows; /* the sum is over them */
    else s.m = rows;
    return s;
}

/* Does it run at every number of rows, in one sequence over k? Where the sum is over the rows (ta) their number is another
** product, which our own kernel may compute instead: there only the sequence counts. */
static bool keeps_contract(mk_cublaslt *lt, const shape &key, const cublasLtMatmulAlgo_t *algo) {
    static const int64_t rows[] = {1, 2, 7, 16, 64, 100, 128, 1000, 4096, 65536};
    int32_t split = 0;
    uint32_t reduction = 0;
    size_t written;
    if (lt->lib.cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split, sizeof split, &written) ||
        lt->lib.cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction, sizeof reduction,
                                                     &written))
        return false;
    if (split > 1 || reduction != CUBLASLT_REDUCTION_SCHEME_NONE) return false;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0] && !key.ta; i++) {
        descriptors d(&lt->lib);
        cublasLtMatmulHeuristicResult_t r;
        if (d.make(with_rows(key, rows[i])) ||
            lt->lib.cublasLtMatmulAlgoCheck(lt->handle, d.op, d.b, d.a, d.c, d.c, algo, &r) || r.state || r.workspaceSize)
            return false;
    }
    return true;
}

/* One line for a choice into the file that MOCL_CUBLASLT_LOG names: what a figure of speed was measured with, and where our own
** kernel stands in. A file that cannot be written is not worth a run. */
static void log_choice(const mk_cublaslt *lt, const choice *c, int offered, int taken) {
    const char *path = getenv("MOCL_CUBLASLT_LOG");
    FILE *f = path && *path ? fopen(path, "a") : nullptr;
    if (!f) return;
    const shape &s = c->key;
    char size[3][24];
    const int64_t sizes[] = {s.m, s.n, s.k};
    for (int i = 0; i < 3; i++) snprintf(size[i], sizeof size[i], sizes[i] ? "%lld" : "rows", (long long)sizes[i]);
    fprintf(f, "%s x %s x %s, ta=%d tb=%d, %s: ", size[0], size[1], size[2], s.ta, s.tb, s.c_type == MK_F32 ? "f32" : "bf16");
    if (c->usable) {
        static const struct {
            cublasLtMatmulAlgoConfigAttributes_t what;
            const char *name;
        } said[] = {{CUBLASLT_ALGO_CONFIG_ID, "algorithm"}, {CUBLASLT_ALGO_CONFIG_TILE_ID, "tile"},
                    {CUBLASLT_ALGO_CONFIG_STAGES_ID, "stages"}};
        for (const auto &a : said) {
            int32_t value = -1;
            size_t written;
            lt->lib.cublasLtMatmulAlgoConfigGetAttribute(&c->algo, a.what, &value, sizeof value, &written);
            fprintf(f, "%s %d, ", a.name, (int)value);
        }
        fprintf(f, "offer %d of %d\n", taken + 1, offered);
    } else {
        fprintf(f, "own kernel, none of %d offers keeps a row's bits\n", offered);
    }
    fclose(f);
}

static void choose(mk_cublaslt *lt, choice *to, const shape &key) {
    descriptors d(&lt->lib);
    cublasLtMatmulPreference_t p = nullptr;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE, alignment = ALIGNMENT;
    size_t workspace = 0;
    int n = 0, taken = -1;
    to->key = key;
    to->made = true;
    to->usable = false;
    cublasStatus_t st = d.make(with_rows(key, REFERENCE_ROWS));
    if (!st) st = lt->lib.cublasLtMatmulPreferenceCreate(&p);
    struct {
        cublasLtMatmulPreferenceAttributes_t what;
        const void *value;
        size_t size;
    } wishes[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
                  {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none, sizeof none},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment, sizeof alignment},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &alignment, sizeof alignment},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignment, sizeof alignment},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignment, sizeof alignment}};
    for (auto &w : wishes)
        if (!st) st = lt->lib.cublasLtMatmulPreferenceSetAttribute(p, w.what, w.value, w.size);
    if (!st) st = lt->lib.cublasLtMatmulAlgoGetHeuristic(lt->handle, d.op, d.b, d.a, d.c, d.c, p, CANDIDATES, found, &n);
    for (int i = 0; !st && i < n && !to->usable; i++) {
        if (found[i].state || !keeps_contract(lt, key, &found[i].algo)) continue;
        to->algo = found[i].algo;
        to->usable = true;
        taken = i;
    }
    if (p) lt->lib.cublasLtMatmulPreferenceDestroy(p);
    log_choice(lt, to, n, taken);
}

static const choice *chosen(mk_cublaslt *lt, const shape &key) {
    uint64_t h = (uint64_t)key.m * 31 + (uint64_t)key.n;
    h = (h * 1000003 + (uint64_t)key.k) * 8 + (uint64_t)(key.ta * 4 + key.tb * 2 + (key.c_type == MK_F32));
    h = (h * 1000003 + (uint64_t)key.lda) * 1000003 + (uint64_t)key.ldc * 31 + (uint64_t)key.ldb;
    h ^= h >> 17;
    choice *c = nullptr;
    for (uint64_t i = 0; i < PROBES; i++) { /* sizes whose hashes meet lie side by side; beyond that the last is made again */
        c = &lt->made[(h + i) % CHOICES];
        if (!c->made || same(c->key, key)) break;
    }
    if (!c->made || !same(c->key, key)) choose(lt, c, key);
    return c;
}

/* ---- the product -------------------------------------------------------------------------------- */

static mk_cublaslt *library_of(mk_exec *e) {
    mk_cublaslt **kept = mk_cuda_cublaslt(e);
    char why[160];
    if (*kept) return *kept;
    mk_cublaslt *lt = *kept = new (std::nothrow) mk_cublaslt();
    if (lt) lt->there = load(&lt->lib, why, sizeof why) && lt->lib.cublasLtCreate(&lt->handle) == CUBLAS_STATUS_SUCCESS;
    return lt;
}

void mk_cublaslt_close(mk_cublaslt *lt) {
    if (lt && lt->there) lt->lib.cublasLtDestroy(lt->handle);
    delete lt;
}

static bool aligned(const void *p, int64_t ld, size_t element) {
    return (uintptr_t)p % ALIGNMENT == 0 && (size_t)ld * element % ALIGNMENT == 0;
}

int mk_cublaslt_gemm(mk_exec *e, int ta, int tb, int64_t m, int64_t n, int64_t k, double alpha, const mk_bf16 *a,
                     int64_t lda, const mk_bf16 *b, int64_t ldb, double beta, mk_dtype c_type, void *c, int64_t ldc) {
    if (e->blas == MK_BLAS_NONE || m <= 0 || n <= 0 || k <= 0) return MK_UNSUPPORTED;
    /* where a row begins is aligned if the first one is and the distance: so for all numbers of rows or for none */
    if (!aligned(a, lda, 2) || !aligned(b, ldb, 2) || !aligned(c, ldc, c_type == MK_F32 ? 4 : 2)) return MK_UNSUPPORTED;
    if (!mk_cuda_ready(e)) return MK_FAULT;
    mk_cublaslt *lt = library_of(e);
    if (!lt) return MK_NOMEM;
    if (!lt->there) return MK_UNSUPPORTED;
    const choice *how = chosen(lt, with_rows(shape{ta, tb, m, n, k, lda, ldb, ldc, c_type}, 0));
    if (!how->usable) return MK_UNSUPPORTED;
    descriptors d(&lt->lib);
    float f_alpha = (float)alpha, f_beta = (float)beta;
    cublasStatus_t st = d.make(shape{ta, tb, m, n, k, lda, ldb, ldc, c_type});
    if (!st)
        st = lt->lib.cublasLtMatmul(lt->handle, d.op, &f_alpha, b, d.b, a, d.a, &f_beta, c, d.c, c, d.c, &how->algo, nullptr, 0,
                                    mk_cuda_stream(e));
    MK_TRY(mk_cuda_launched(e, "cublasLtMatmul"));
    if (st == CUBLAS_STATUS_SUCCESS) return MK_OK;
    if (st == CUBLAS_STATUS_NOT_SUPPORTED && ta) return MK_UNSUPPORTED;
    char text[160];
    snprintf(text, sizeof text, "status %d for m %lld, n %lld, k %lld; MOCL_BLAS=none does without it", (int)st, (long long)m,
             (long long)n, (long long)k);
    return mk_cuda_fail(e, "cublasLtMatmul", text);
}
