/* quantized.h - what the codes of quantised formats stand for, and how a number gets its code. The same source serves host and
** device code. Codes and values are those of bitsandbytes 0.50.
**
** int8: w = code absmax / 127 with the largest absolute value of each row, of numbers rounded to f16 before, as bitsandbytes
** loads them (Dettmers et al. 2022).
**
** nf4: w = table[code] absmax with the largest absolute value of each block, and a table of quantiles of the normal distribution
** (Dettmers et al. 2023). A block's absmax less the mean of all is kept as one byte: a code of a map of 256 numbers, dense around 0
** (Dettmers et al. 2022b, dynamic tree quantisation), times the largest absolute value of 256 of them. fp4 has another table.
*/
#ifndef MK_QUANTIZED_H
#define MK_QUANTIZED_H

#include <math.h>

#include "formats.h"
#include "kernels.h"

/* a number as int8 sees it; beyond what f16 holds it stays */
static inline MK_HD float mk_int8_input(float x) {
    float h = mk_from_f16(mk_to_f16(x));
    return isinf(h) ? x : h;
}

/* The compiler may not turn the product by 1 / 127 into a division, which has other bits. */
static inline MK_HD float mk_int8_value(int8_t code, float absmax) { return (float)code * absmax * (1.0f / 127.0f); }

/* x as mk_int8_input gives it */
static inline MK_HD int8_t mk_int8_code(float x, float absmax) {
    return absmax > 0 ? (int8_t)rintf(x * (127.0f / absmax)) : (int8_t)0;
}

/* ---- codes of eight bits on both sides: w8a8 ---- */

/* A row of the other operand whose numbers are all smaller than this counts as zeros. */
#define MK_W8A8_LEAST 1e-30f

/* by: 127 / absmax of the row */
static inline MK_HD int8_t mk_w8a8_code(float x, float by) { return (int8_t)rintf(x * by); }

/* sum: of products of codes; the two absmax are those of its rows */
static inline MK_HD mk_real mk_w8a8_value(int32_t sum, mk_real absmax_a, mk_real absmax_w) {
    mk_real both = absmax_a * absmax_w, scaled = (mk_real)sum * both;
    return scaled * (mk_real)(1.0f / 16129.0f);
}

/* ---- codes of four bits ---- */

#define MK_NF4_VALUES                                                                                                              \
    {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,       \
     -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,          \
     0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f}
/* twelfths of a mantissa bit, divided by the largest, 12 */
#define MK_FP4_VALUES                                                                                                              \
    {0.0f, 0.0625f / 12, 8.0f / 12, 1.0f, 4.0f / 12, 6.0f / 12, 2.0f / 12, 3.0f / 12,                                             \
     0.0f, -0.0625f / 12, -8.0f / 12, -1.0f, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12}

/* The largest absolute value of a block that a code can be divided by. */
#define MK_LEAST_ABSMAX 1e-38f

/* x in -1 .. 1 -> how many boundaries of the table, halfway between neighbours, lie below it */
static inline MK_HD int mk_nf4_code(float x) {
    const float table[16] = MK_NF4_VALUES;
    int code = 0;
    for (int i = 0; i < 15; i++) code += x > (table[i] + table[i + 1]) / 2;
    return code;
}

static inline MK_HD float mk_unit(float x) { return x > 1 ? 1 : x > -1 ? x : -1; } /* NaN is -1 */

/* a number of a block as a fraction of its largest absolute value: the last block, where it is not full, divides */
static inline MK_HD float mk_nf4_input(float x, float absmax, int full) {
    float least = absmax > MK_LEAST_ABSMAX ? absmax : MK_LEAST_ABSMAX;
    return mk_unit(full ? x * (1.0f / least) : x / least);
}

/* ---- absmax in one byte ---- */

/* map[256]: 0, 1, and of each sign the means of 2^i equal parts of .1 .. 1, times 10^(i - 6), i = 0 .. 6, with the roundings of f32 */
static inline void mk_nested_map(mk_real *map) {
    static const float power[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    int at = 128;
    for (int i = 0; i < 7; i++) {
        int n = 1 << i;
        float step = (1.0f - 0.1f) / (float)n, edge[65];
        for (int j = 0; j <= n; j++)
            edge[j] = j < (n + 1) / 2 ? fmaf(step, (float)j, 0.1f) : fmaf(-step, (float)(n - j), 1.0f);
        for (int j = 0; j < n; j++, at++) {
            map[at] = power[i] * ((edge[j] + edge[j + 1]) / 2);
            map[254 - at] = -map[at];
        }
    }
    map[127] = 0;
    map[255] = 1;
}

/* x in -1 .. 1 -> its code: of 65536 points side by side the nearest is taken first, and then the code nearest to that */
static inline MK_HD int mk_nested_code(float x, const mk_real *map) {
    int point = (int)fmaf((mk_unit(x) + 1.0f) * 0.5f, 65535.0f, 0.5f);
    float y = (float)point * 2.0f / 65535.0f - 1.0f;
    int first = 0, last = 255; /* the first boundary that is not below y */
    while (first < last) {
        int middle = (first + last) / 2;
        if (y > ((float)map[middle] + (float)map[middle + 1]) * 0.5f) first = middle + 1;
        else last = middle;
    }
    return first;
}

static inline MK_HD mk_real mk_nested_value(uint8_t code, mk_real scale, const mk_real *map, mk_real offset) {
    mk_real scaled = map[code] * scale;
    return scaled + offset;
}

/* The mean of n numbers with the bits of PyTorch's (one thread): 32 sums of every 32nd number, each in levels whose terms are
** 16 or more of the level below; then these in order, and what is left. */
#define MK_MEAN_SUMS 32

static inline MK_HD float mk_mean_sum(const float *x, int64_t n, int which) {
    int64_t vectors = n / 8, size = vectors / 4, i = 0;
    int power = 4;
    float level[4] = {0, 0, 0, 0};
    while (power * 4 + 4 <= 62 && ((int64_t)1 << (power * 4 + 3)) < size) power++; /* a quarter of the bits of size, at least 4 */
    int64_t step = (int64_t)1 << power;
    const float *from = x + which;
    while (i + step <= size) {
        for (int64_t j = 0; j < step; j++) level[0] += from[MK_MEAN_SUMS * i++];
        for (int l = 1; l < 4; l++) {
            level[l] += level[l - 1];
            level[l - 1] = 0;
            if (i & ((step - 1) << (l * power))) break;
        }
    }
    while (i < size) level[0] += from[MK_MEAN_SUMS * i++];
    for (int l = 1; l < 4; l++) level[0] += level[l];
    for (int64_t v = size * 4; which < 8 && v < vectors; v++) level[0] += x[8 * v + which];
    return level[0];
}

static inline MK_HD float mk_mean_of(const float *x, int64_t n, const float sums[MK_MEAN_SUMS]) {
    float total = 0;
    if (n < 8) { /* fewer than a vector: four sums */
        float part[4] = {0, 0, 0, 0};
        for (int64_t i = 0; i < n / 4 * 4; i++) part[i % 4] += x[i];
        for (int64_t i = n / 4 * 4; i < n; i++) part[0] += x[i];
        for (int i = 1; i < 4; i++) part[0] += part[i];
        return part[0] / (float)n;
    }
    for (int64_t i = n / 8 * 8; i < n; i++) total += x[i];
    for (int v = 0; v < 8; v++) total += ((sums[v] + sums[8 + v]) + sums[16 + v]) + sums[24 + v];
    return total / (float)n;
}

static inline MK_HD float mk_rounded_to(float x, mk_dtype dtype) {
    return dtype == MK_BF16 ? mk_from_bf16(mk_to_bf16(x)) : dtype == MK_F16 ? mk_from_f16(mk_to_f16(x)) : x;
}

static inline MK_HD int64_t mk_blocks(const mk_weight *w) { return (w->rows * w->columns + w->block - 1) / w->block; }

#endif
