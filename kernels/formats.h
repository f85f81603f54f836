/* formats.h - bf16 and f16 from and to f32: rounded to nearest even, NaN stays one. The same source serves host and device code. */
#ifndef MK_FORMATS_H
#define MK_FORMATS_H

#include <stdint.h>
#include <string.h>

#include "host_device.h"

static inline MK_HD uint32_t mk_float_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline MK_HD float mk_bits_float(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline MK_HD uint16_t mk_to_bf16(float f) {
    uint32_t u = mk_float_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40); /* quiet NaN */
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

static inline MK_HD float mk_from_bf16(uint16_t h) { return mk_bits_float((uint32_t)h << 16); }

static inline MK_HD uint16_t mk_to_f16(float f) {
    uint32_t u = mk_float_bits(f), sign = u >> 16 & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds to 65536 or more */
    if (u < 0x38800000u) { /* below 2^-14: adding 0.5 rounds to a multiple of 2^-24 */
        float r = mk_bits_float(u) + 0.5f;
        return (uint16_t)(sign | (mk_float_bits(r) - 0x3f000000u));
    }
    u += 0xfffu + (u >> 13 & 1);
    return (uint16_t)(sign | ((u >> 13) - 0x1c000u));
}

static inline MK_HD float mk_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, frac = h & 0x3ffu;
    if (e == 31) return mk_bits_float(sign | 0x7f800000u | frac << 13);
    if (e == 0) {
        float f = (float)frac * 5.9604644775390625e-8f; /* 2^-24 */
        return sign ? -f : f;
    }
    return mk_bits_float(sign | (e + 112) << 23 | frac << 13);
}

#endif
