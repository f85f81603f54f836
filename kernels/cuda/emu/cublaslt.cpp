/* cublaslt.cpp - the emulator's cuBLASLt: column-major products of bf16 with f32 sums.
**
** It behaves as the library may, not as we would like it: asked for few columns it offers other algorithms than asked for many, they add
** up k in other orders, the first on its list splits k by the number of columns, the second does not run with more than 512
** of them. A caller that asks for each number of rows, or takes the first offer, gets rows whose bits depend on the others.
*/
#include "cublaslt.h"

#include <new>

#include "emu_impl.h"

struct emu_lt_handle {
    int unused;
};
struct emu_lt_desc {
    cublasOperation_t ta, tb;
};
struct emu_lt_layout {
    cudaDataType_t type;
    int64_t rows, cols, ld;
};
struct emu_lt_preference {
    size_t workspace;
    uint32_t reductions;
};

/* data[0] of an algorithm: which; data[1]: elements of k in one chain */
enum { SPLIT = 1, NARROW, PLAIN };

template <class T> static cublasStatus_t make(T **out) {
    *out = new (std::nothrow) T();
    return *out ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}
template <class T> static cublasStatus_t drop(T *p) {
    delete p;
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void) { return 130000; }
cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) { return make(h); }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) { return drop(h); }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute, cudaDataType_t scale) {
    return compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F ? make(d) : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { return drop(d); }
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) { return drop(l); }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { return drop(p); }

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t what, const void *v,
                                              size_t size) {
    if (size != sizeof(cublasOperation_t)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(what == CUBLASLT_MATMUL_DESC_TRANSA ? &d->ta : &d->tb, v, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType_t type, uint64_t rows, uint64_t cols, int64_t ld) {
    if (make(l)) return CUBLAS_STATUS_ALLOC_FAILED;
    **l = {type, (int64_t)rows, (int64_t)cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) {
    if (make(p)) return CUBLAS_STATUS_ALLOC_FAILED;
    **p = {0, CUBLASLT_REDUCTION_SCHEME_MASK};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *v, size_t size) {
    if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
        if (size != sizeof p->workspace) return CUBLAS_STATUS_INVALID_VALUE;
        memcpy(&p->workspace, v, size);
    } else {
        if (size != sizeof p->reductions) return CUBLAS_STATUS_INVALID_VALUE;
        if (what == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) memcpy(&p->reductions, v, size);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t to,
                                              cublasLtMatmulPreference_t p, int most, cublasLtMatmulHeuristicResult_t *found,
                                              int *n) {
    uint64_t depth = to->cols <= 16 ? 16 : to->cols <= 128 ? 48 : 80;
    cublasLtMatmulHeuristicResult_t list[3] = {};
    int have = 0;
    if (p->reductions & CUBLASLT_REDUCTION_SCHEME_INPLACE) list[have++].algo = {{SPLIT, 32}};
    list[have++].algo = {{NARROW, 24}};
    list[have++].algo = {{PLAIN, depth}};
    *n = have < most ? have : most;
    memcpy(found, list, sizeof list[0] * (size_t)*n);
    return CUBLAS_STATUS_SUCCESS;
}

static bool fits(const emu_lt_desc *d, const emu_lt_layout *a, const emu_lt_layout *b, const emu_lt_layout *to) {
    int64_t m = d->ta ? a->cols : a->rows, k = d->ta ? a->rows : a->cols;
    int64_t kb = d->tb ? b->cols : b->rows, n = d->tb ? b->rows : b->cols;
    return m == to->rows && n == to->cols && k == kb && a->ld >= a->rows && b->ld >= b->rows && to->ld >= to->rows &&
           a->type == CUDA_R_16BF && b->type == CUDA_R_16BF;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t to,
                                       const cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *result) {
    if (!fits(d, a, b, to)) return CUBLAS_STATUS_INVALID_VALUE;
    if (algo->data[0] == NARROW && to->cols > 512) return CUBLAS_STATUS_NOT_SUPPORTED;
    *result = {};
    result->algo = *algo;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo, cublasLtMatmulAlgoConfigAttributes_t what,
                                                    void *v, size_t size, size_t *written) {
    bool split = algo->data[0] == SPLIT;
    int32_t value = 0; /* tile and stages: there are none here */
    if (size != sizeof value) return CUBLAS_STATUS_INVALID_VALUE;
    if (what == CUBLASLT_ALGO_CONFIG_ID) value = (int32_t)algo->data[0];
    if (what == CUBLASLT_ALGO_CONFIG_SPLITK_NUM) value = 1 + split;
    if (what == CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME && split) value = CUBLASLT_REDUCTION_SCHEME_INPLACE;
    memcpy(v, &value, size);
    *written = size;
    return CUBLAS_STATUS_SUCCESS;
}

/* the alignment that cublaslt.cu promises when it asks; algorithms for less are others */
static bool misaligned(const emu_lt_layout *l) { return l->ld * (l->type == CUDA_R_32F ? 4 : 2) % 16 != 0; }

static float load(const void *p, cudaDataType_t type, int64_t i) {
    uint16_t half;
    uint32_t bits;
    float f;
    if (type == CUDA_R_32F) return static_cast<const float *>(p)[i];
    half = static_cast<const uint16_t *>(p)[i];
    bits = (uint32_t)half << 16;
    memcpy(&f, &bits, 4);
    return f;
}

static void store(void *p, cudaDataType_t type, int64_t i, float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if (type == CUDA_R_32F) static_cast<float *>(p)[i] = f;
    else if (f != f) static_cast<uint16_t *>(p)[i] = 0x7fff;
    else static_cast<uint16_t *>(p)[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb, const void *beta,
                              const void *c, cublasLtMatrixLayout_t lc, void *to, cublasLtMatrixLayout_t lto,
                              const cublasLtMatmulAlgo_t *algo, void *, size_t, cudaStream_t) {
    float scale = *static_cast<const float *>(alpha), keep = *static_cast<const float *>(beta);
    if (misaligned(la) || misaligned(lb) || misaligned(lto)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!fits(d, la, lb, lto) || ((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)to) % 16) return CUBLAS_STATUS_INVALID_VALUE;
    if (algo->data[0] == NARROW && lto->cols > 512) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (emu::injected_fault(0)) emu::device_fault(cudaErrorLaunchFailure, "unspecified launch failure in cublasLtMatmul (injected)");
    if (cudaGetLastError()) return CUBLAS_STATUS_EXECUTION_FAILED;
    int64_t k = d->ta ? la->rows : la->cols, depth = (int64_t)algo->data[1];
    if (algo->data[0] == SPLIT) depth = lto->cols;
    for (int64_t j = 0; j < lto->cols; j++)
        for (int64_t i = 0; i < lto->rows; i++) {
            float total = 0;
            for (int64_t first = 0; first < k; first += depth) {
                float chain = 0;
                for (int64_t p = first; p < k && p < first + depth; p++)
                    chain += load(a, la->type, d->ta ? p + i * la->ld : i + p * la->ld) *
                             load(b, lb->type, d->tb ? j + p * lb->ld : p + j * lb->ld);
                total += chain;
            }
            float v = scale * total;
            store(to, lto->type, i + j * lto->ld, keep == 0 ? v : v + keep * load(c, lc->type, i + j * lc->ld));
        }
    return CUBLAS_STATUS_SUCCESS;
}
