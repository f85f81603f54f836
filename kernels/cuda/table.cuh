/* table.cuh - the CUDA kernels by name, mk_cuda_<entry> for each entry of mk_table that is here; what
** they compute and their arguments are in kernels.h. An entry that is not listed is NULL, and the runtime says so by
** name.
*/
#ifndef MK_CUDA_TABLE_CUH
#define MK_CUDA_TABLE_CUH

#include <type_traits>

#include "kernels.h"

#define MK_CUDA_OPS(X) \
    X(fill) X(copy) X(cast) X(unary) X(unary_bwd) X(binary) X(where) X(axpy) X(reduce) \
    X(argreduce) X(cumsum) X(gemm) X(gemm_weight) X(gemm_continued) X(quantize) X(dequantize) X(matmul) X(softmax) X(softmax_bwd) X(rmsnorm) X(rmsnorm_bwd) \
    X(layernorm) X(layernorm_bwd) X(gather_rows) X(scatter_add_rows) X(pick) X(pick_bwd) \
    X(segment_sum) X(segment_sum_bwd) X(rope) X(swiglu) X(swiglu_bwd) X(attention) \
    X(attention_bwd) X(cache_put) X(attention_cached) X(logprob) X(logprob_bwd) X(kl) \
    X(sample) X(rand_uniform) X(rand_normal) X(dropout) X(gae) X(ppo_clip) X(adamw) X(sgd) \
    X(sumsq) X(clip_norm) X(adamw_by)

#define MK_DECLARE(op) std::remove_pointer<decltype(mk_table::op)>::type mk_cuda_##op;
MK_CUDA_OPS(MK_DECLARE)
#undef MK_DECLARE

static inline mk_table mk_cuda_table_make(void) {
    mk_table t = {};
    t.bf16 = 1;
#define MK_FILL(op) t.op = mk_cuda_##op;
    MK_CUDA_OPS(MK_FILL)
#undef MK_FILL
    return t;
}

#endif
