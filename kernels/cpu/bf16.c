/* bf16.c - the arithmetic of products of bf16 in plain C: what every other way has to give (bf16.h). */
#include "bf16.h"

#include "formats.h"

/* a b + c, rounded once: the product of two bf16 numbers is exact in a double, and rounding the sum to 53 bits first neither makes nor
** breaks a tie of 24. Below 2^-126 after rounding: zero of its sign. */
static inline double multiply_add(double a, double b, double c) {
    double sum = a * b + c;
    return fabs(sum) < 0x1p-126 - 0x1p-151 ? copysign(0, sum) : (double)(float)sum;
}

static inline double number(uint32_t bits) {
    return mk_bits_float((bits & 0x7f800000) == 0 ? bits & 0x80000000 : bits); /* a subnormal is zero of its sign */
}

static void plain_sweep(int64_t m, int64_t blocks, const void *packed, const uint32_t *b, float *sums) {
    for (int64_t i = 0; i < m; i++) {
        const float *a = (const float *)packed + i * MK_BF16_LDA;
        for (int64_t p = 0; p < blocks; p++) {
            double even[MK_BF16_COLUMNS] = {0}, odd[MK_BF16_COLUMNS] = {0};
            const uint32_t *pair = b + p * (MK_BF16_BLOCK / 2) * MK_BF16_COLUMNS;
            for (int k = 0; k < MK_BF16_BLOCK; k += 2, pair += MK_BF16_COLUMNS) {
                double a0 = number(mk_float_bits(a[p * MK_BF16_BLOCK + k])), a1 = number(mk_float_bits(a[p * MK_BF16_BLOCK + k + 1]));
                for (int j = 0; j < MK_BF16_COLUMNS; j++) {
                    even[j] = multiply_add(a0, number(pair[j] << 16), even[j]);
                    odd[j] = multiply_add(a1, number(pair[j] & 0xffff0000), odd[j]);
                }
            }
            for (int j = 0; j < MK_BF16_COLUMNS; j++) {
                float *to = sums + i * MK_BF16_COLUMNS + j;
                *to = (float)multiply_add(1, multiply_add(1, even[j], odd[j]), number(mk_float_bits(*to)));
            }
        }
    }
}

const mk_bf16_path mk_bf16_plain = {"plain C", 1, 1, 1, plain_sweep};
