/* quantized.h - what the codes of quantised formats stand for, and how a number gets its code. The same source serves host and
** device code. Codes and values are those of bitsandbytes 0.50.
**
** int8: w = code absmax / 127 with the largest absolute value of each row, of numbers rounded to f16 before, as bitsandbytes
** loads them (Dettmers et al. 2022).
*/
#ifndef MK_QUANTIZED_H
#define MK_QUANTIZED_H

#include <math.h>

#include "formats.h"

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

#endif
