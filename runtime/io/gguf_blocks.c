/* gguf_blocks.c - the formats in which GGUF files store tensors, block by block.
**
** A block is a scale or several, and small integers packed into bytes. All arithmetic is in 32-bit floats in the order
** of llama.cpp, so that the values have its bits (the build has no contraction to fused operations): products first,
** then the offset. Comments: d, m are scales and offsets in f16; q the packed integers, "low" the lower four bits of a
** byte.
*/
#include <math.h>
#include <string.h>

#include "formats.h"
#include "io/gguf.h"

/* ---- numbers ---- */

static float half(const unsigned char *p) {
    uint16_t h;
    memcpy(&h, p, 2);
    return mk_from_f16(h);
}

static void put_half(unsigned char *p, float f) {
    uint16_t h = mk_to_f16(f);
    memcpy(p, &h, 2);
}

/* half of 2^(e - 127), e 0 to 255: the scale of MXFP4, whose table holds twice the values */
static float power_half(unsigned e) { return mk_bits_float(e < 2 ? 0x00200000u << e : (e - 1) << 23); }

/* half of a float of 4 bits exponent (bias 7), 3 bits fraction, no sign; 0x7f is NaN there and 0 here */
static float small_half(unsigned v) {
    unsigned exponent = v >> 3 & 15, fraction = v & 7;
    if (v == 0 || v == 0x7f) return 0;
    float f = exponent ? (1 + (float)fraction / 8) * mk_bits_float((exponent + 120) << 23) : (float)fraction * 0x1p-9f;
    return f * 0.5f;
}

static const int8_t fp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}; /* doubled */
static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* ---- one value a block ---- */

static void unpack_f32(const unsigned char *p, mk_real *out) {
    float f;
    memcpy(&f, p, 4);
    *out = f;
}

static void unpack_f64(const unsigned char *p, mk_real *out) {
    double d;
    memcpy(&d, p, 8);
    *out = (mk_real)d;
}

static void unpack_f16(const unsigned char *p, mk_real *out) { *out = half(p); }

static void unpack_bf16(const unsigned char *p, mk_real *out) {
    uint16_t h;
    memcpy(&h, p, 2);
    *out = mk_from_bf16(h);
}

static void pack_f32(const mk_real *in, unsigned char *p) {
    float f = (float)*in;
    memcpy(p, &f, 4);
}

static void pack_f16(const mk_real *in, unsigned char *p) { put_half(p, (float)*in); }

static void pack_bf16(const mk_real *in, unsigned char *p) {
    uint16_t h = mk_to_bf16((float)*in);
    memcpy(p, &h, 2);
}

/* ---- 32 values a block ---- */

static void unpack_q4_0(const unsigned char *p, mk_real *out) { /* d, q[16]; value 16 + i is in the high half of q[i] */
    float d = half(p);
    const unsigned char *q = p + 2;
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((q[i] & 15) - 8);
        out[i + 16] = d * (float)((q[i] >> 4) - 8);
    }
}

static void unpack_q4_1(const unsigned char *p, mk_real *out) { /* d, m, q[16] */
    float d = half(p), m = half(p + 2);
    const unsigned char *q = p + 4;
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(q[i] & 15) + m;
        out[i + 16] = d * (float)(q[i] >> 4) + m;
    }
}

/* the fifth bits of 32 values at h, one bit each, over the low ones of 16 bytes at q */
static void five_bits(const unsigned char *h, const unsigned char *q, int v[32]) {
    for (int i = 0; i < 16; i++) {
        v[i] = (q[i] & 15) | (h[i / 8] >> i % 8 & 1) << 4;
        v[i + 16] = (q[i] >> 4) | (h[2 + i / 8] >> i % 8 & 1) << 4;
    }
}

static void unpack_q5_0(const unsigned char *p, mk_real *out) { /* d, h[4], q[16] */
    float d = half(p);
    int v[32];
    five_bits(p + 2, p + 6, v);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(v[i] - 16);
}

static void unpack_q5_1(const unsigned char *p, mk_real *out) { /* d, m, h[4], q[16] */
    float d = half(p), m = half(p + 2);
    int v[32];
    five_bits(p + 4, p + 8, v);
    for (int i = 0; i < 32; i++) out[i] = d * (float)v[i] + m;
}

static void unpack_q8_0(const unsigned char *p, mk_real *out) { /* d, signed q[32] */
    float d = half(p);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(int8_t)p[2 + i];
}

/* the scale makes the largest value 127; values are divided by it before it is rounded to f16 */
static void pack_q8_0(const mk_real *in, unsigned char *p) {
    float most = 0;
    for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf((float)in[i]));
    float d = most / 127, inverse = d != 0 ? 1 / d : 0;
    put_half(p, d);
    for (int i = 0; i < 32; i++) p[2 + i] = (unsigned char)(int8_t)roundf((float)in[i] * inverse);
}

/* n values through a table of 16, two a byte: value n / 2 + i is in the high half of q[i] */
static void from_table(const int8_t table[16], float d, const unsigned char *q, int n, mk_real *out) {
    for (int i = 0; i < n / 2; i++) {
        out[i] = d * (float)table[q[i] & 15];
        out[i + n / 2] = d * (float)table[q[i] >> 4];
    }
}

static void unpack_iq4_nl(const unsigned char *p, mk_real *out) { from_table(iq4_values, half(p), p + 2, 32, out); }

static void unpack_mxfp4(const unsigned char *p, mk_real *out) {
    from_table(fp4_values, power_half(p[0]), p + 1, 32, out);
}

static void unpack_nvfp4(const unsigned char *p, mk_real *out) { /* 64 values: scales[4], q[32] */
    for (int part = 0; part < 4; part++)
        from_table(fp4_values, small_half(p[part]), p + 4 + 8 * part, 16, out + 16 * part);
}

/* ---- 256 values a block ---- */

static void unpack_q2_k(const unsigned char *p, mk_real *out) { /* scales[16], q[64], d, m */
    const unsigned char *q = p + 16;
    float d = half(p + 80), m = half(p + 82);
    for (int part = 0; part < 16; part++) {
        float scale = d * (float)(p[part] & 15), offset = m * (float)(p[part] >> 4);
        const unsigned char *from = q + 32 * (part / 8) + 16 * (part % 2);
        for (int i = 0; i < 16; i++) out[16 * part + i] = scale * (float)(from[i] >> 2 * (part % 8 / 2) & 3) - offset;
    }
}

static void unpack_q3_k(const unsigned char *p, mk_real *out) { /* high bits[32], q[64], scales[12], d */
    const unsigned char *q = p + 32, *s = p + 96;
    float d = half(p + 108);
    for (int part = 0; part < 16; part++) {
        int scale = (part < 8 ? s[part] & 15 : s[part - 8] >> 4) | (s[8 + part % 4] >> 2 * (part / 4) & 3) << 4;
        float dl = d * (float)(scale - 32);
        const unsigned char *from = q + 32 * (part / 8) + 16 * (part % 2), *high = p + 16 * (part % 2);
        for (int i = 0; i < 16; i++) {
            int v = (from[i] >> 2 * (part % 8 / 2) & 3) - (high[i] >> part / 2 & 1 ? 0 : 4);
            out[16 * part + i] = dl * (float)v;
        }
    }
}

/* scale and offset number part of 8, six bits each, in 12 bytes */
static void six_bits(const unsigned char *s, int part, float *scale, float *offset) {
    int low = part % 4;
    *scale = (float)(part < 4 ? s[low] & 63 : (s[8 + low] & 15) | (s[low] >> 6) << 4);
    *offset = (float)(part < 4 ? s[4 + low] & 63 : s[8 + low] >> 4 | (s[4 + low] >> 6) << 4);
}

static void unpack_q4_k(const unsigned char *p, mk_real *out) { /* d, m, scales[12], q[128] */
    float d = half(p), m = half(p + 2), scale, offset;
    for (int part = 0; part < 8; part++) {
        const unsigned char *q = p + 16 + 32 * (part / 2);
        six_bits(p + 4, part, &scale, &offset);
        scale = d * scale;
        offset = m * offset;
        for (int i = 0; i < 32; i++) out[32 * part + i] = scale * (float)(q[i] >> 4 * (part % 2) & 15) - offset;
    }
}

static void unpack_q5_k(const unsigned char *p, mk_real *out) { /* d, m, scales[12], high bits[32], q[128] */
    float d = half(p), m = half(p + 2), scale, offset;
    for (int part = 0; part < 8; part++) {
        const unsigned char *q = p + 48 + 32 * (part / 2), *high = p + 16;
        six_bits(p + 4, part, &scale, &offset);
        scale = d * scale;
        offset = m * offset;
        for (int i = 0; i < 32; i++) {
            int v = (q[i] >> 4 * (part % 2) & 15) | (high[i] >> part & 1) << 4;
            out[32 * part + i] = scale * (float)v - offset;
        }
    }
}

static void unpack_q6_k(const unsigned char *p,
                        mk_real *out) { /* q[128], two high bits in [64], signed scales[16], d */
    const unsigned char *high = p + 128, *scales = p + 192;
    float d = half(p + 208);
    for (int part = 0; part < 8; part++) {
        const unsigned char *q = p + 64 * (part / 4) + 32 * (part % 2), *h = high + 32 * (part / 4);
        for (int i = 0; i < 32; i++) {
            int v = (q[i] >> 4 * (part % 4 / 2) & 15) | (h[i] >> 2 * (part % 4) & 3) << 4;
            float scale = d * (float)(int8_t)scales[2 * part + i / 16];
            out[32 * part + i] = scale * (float)(v - 32);
        }
    }
}

static void unpack_iq4_xs(const unsigned char *p, mk_real *out) { /* d, high bits of scales[2], low ones[4], q[128] */
    float d = half(p);
    unsigned high = (unsigned)p[2] | (unsigned)p[3] << 8;
    for (int part = 0; part < 8; part++) {
        int scale = (p[4 + part / 2] >> 4 * (part % 2) & 15) | (int)(high >> 2 * part & 3) << 4;
        from_table(iq4_values, d * (float)(scale - 32), p + 8 + 16 * part, 32, out + 32 * part);
    }
}

/* n bytes hold n values of digit number `digit` to the base 3, the highest first, as fractions of 256 */
static mk_real *ternary(const unsigned char *q, int n, int digit, float d, mk_real *out) {
    static const uint8_t powers[5] = {1, 3, 9, 27, 81};
    for (int i = 0; i < n; i++) *out++ = d * (float)(((uint8_t)(q[i] * powers[digit]) * 3 >> 8) - 1);
    return out;
}

static void unpack_tq1_0(const unsigned char *p, mk_real *out) { /* q[48] of five digits, q[4] of four, d */
    float d = half(p + 52);
    for (int digit = 0; digit < 5; digit++) out = ternary(p, 32, digit, d, out);
    for (int digit = 0; digit < 5; digit++) out = ternary(p + 32, 16, digit, d, out);
    for (int digit = 0; digit < 4; digit++) out = ternary(p + 48, 4, digit, d, out);
}

static void unpack_tq2_0(const unsigned char *p, mk_real *out) { /* q[64], d */
    float d = half(p + 64);
    for (int part = 0; part < 8; part++)
        for (int i = 0; i < 32; i++)
            out[32 * part + i] = d * (float)((p[32 * (part / 4) + i] >> 2 * (part % 4) & 3) - 1);
}

/* ---- the formats ---- */

static const mocl_gguf_format formats[] = {{0, "F32", 1, 4, unpack_f32, pack_f32},
                                           {1, "F16", 1, 2, unpack_f16, pack_f16},
                                           {2, "Q4_0", 32, 18, unpack_q4_0, NULL},
                                           {3, "Q4_1", 32, 20, unpack_q4_1, NULL},
                                           {6, "Q5_0", 32, 22, unpack_q5_0, NULL},
                                           {7, "Q5_1", 32, 24, unpack_q5_1, NULL},
                                           {8, "Q8_0", 32, 34, unpack_q8_0, pack_q8_0},
                                           {9, "Q8_1", 32, 40, NULL, NULL},
                                           {10, "Q2_K", 256, 84, unpack_q2_k, NULL},
                                           {11, "Q3_K", 256, 110, unpack_q3_k, NULL},
                                           {12, "Q4_K", 256, 144, unpack_q4_k, NULL},
                                           {13, "Q5_K", 256, 176, unpack_q5_k, NULL},
                                           {14, "Q6_K", 256, 210, unpack_q6_k, NULL},
                                           {15, "Q8_K", 256, 292, NULL, NULL},
                                           {16, "IQ2_XXS", 256, 66, NULL, NULL},
                                           {17, "IQ2_XS", 256, 74, NULL, NULL},
                                           {18, "IQ3_XXS", 256, 98, NULL, NULL},
                                           {19, "IQ1_S", 256, 50, NULL, NULL},
                                           {20, "IQ4_NL", 32, 18, unpack_iq4_nl, NULL},
                                           {21, "IQ3_S", 256, 110, NULL, NULL},
                                           {22, "IQ2_S", 256, 82, NULL, NULL},
                                           {23, "IQ4_XS", 256, 136, unpack_iq4_xs, NULL},
                                           {24, "I8", 1, 1, NULL, NULL},
                                           {25, "I16", 1, 2, NULL, NULL},
                                           {26, "I32", 1, 4, NULL, NULL},
                                           {27, "I64", 1, 8, NULL, NULL},
                                           {28, "F64", 1, 8, unpack_f64, NULL},
                                           {29, "IQ1_M", 256, 56, NULL, NULL},
                                           {30, "BF16", 1, 2, unpack_bf16, pack_bf16},
                                           {34, "TQ1_0", 256, 54, unpack_tq1_0, NULL},
                                           {35, "TQ2_0", 256, 66, unpack_tq2_0, NULL},
                                           {39, "MXFP4", 32, 17, unpack_mxfp4, NULL},
                                           {40, "NVFP4", 64, 36, unpack_nvfp4, NULL},
                                           {41, "Q1_0", 128, 18, NULL, NULL}};

const mocl_gguf_format *mocl_gguf_format_of(uint32_t id) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (formats[i].id == id) return &formats[i];
    return NULL;
}

const mocl_gguf_format *mocl_gguf_format_named(const char *name) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(formats[i].name, name) == 0) return &formats[i];
    return NULL;
}

void mocl_gguf_dequantize(const mocl_gguf_format *format, const void *data, size_t n, mk_real *out) {
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i += format->values, p += format->bytes) format->unpack(p, out + i);
}
