/* simd_table.h - puts the bodies together into one struct mk_simd; included by the simd_*.c files. */
#include "formats.h"
#include "quantized.h"
#include "simd.h"

#include "simd_vec.h"
#include "simd_tile.h"
#include "simd_rows.h"
#include "simd_map.h"
#include "simd_int8.h"
#include "simd_nf4.h"
#include "simd_bf16.h"
#include "simd_w8a8.h"

const struct mk_simd MK_SIMD_TABLE = {
    .name = MK_SIMD_NAME,
    .lanes = LANES,
    .panel_vectors = PANEL_VECTORS,
    .tile_rows = TILE_ROWS,
    .tile = TILE_TABLE,
    .format = {[MK_FORMAT_INT8] = {read_int8, quantize_int8, few_int8, INT8_ROWS, 0},
               [MK_FORMAT_W8A8] = {read_int8, quantize_int8, NULL, 0, 0},
               [MK_FORMAT_NF4] = {read_nf4, quantize_nf4, FEW_NF4, NIBBLE_ROWS, NIBBLE_STEP},
               [MK_FORMAT_FP4] = {read_fp4, NULL, FEW_FP4, NIBBLE_ROWS, NIBBLE_STEP}},
    .pack_transposed = pack_transposed,
    .round_codes = round_codes,
    .dot_codes = dot_codes,
    .dot_codes_vnni = DOT_CODES_VNNI,
    .argmax = row_argmax,
    .softmax = softmax,
    .softmax_bwd = softmax_bwd,
    .rmsnorm = rmsnorm,
    .layernorm = layernorm,
    .rmsnorm_bwd = rmsnorm_bwd,
    .layernorm_bwd = layernorm_bwd,
    .log_sum_exp = log_sum_exp,
    .logprob_bwd = logprob_bwd,
    .kl = kl,
    .weights = weights,
    .attend = attend,
    .weigh = weigh,
    .attend_bwd = attend_bwd,
    .dot = dot,
    .scale = scale_row,
    .rotate = rotate,
    .unary = unary,
    .unary_bwd = unary_bwd,
    .binary = binary,
    .axpy = axpy,
    .axpby = axpby,
    .swiglu = swiglu,
    .swiglu_bwd = swiglu_bwd,
    .adamw = adamw,
    .sum = sum,
    .running_sums = running_sums,
    .sumsq = sumsq,
    .add_to_double = add_to_double,
    .from_bf16 = from_bf16,
    .to_bf16 = to_bf16,
    .bf16_pairs = bf16_pairs,
    .bf16_finish = BF16_FINISH,
    .bf16 = BF16_PATH,
};
