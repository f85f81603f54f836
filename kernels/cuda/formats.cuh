/* formats.cuh - element types: sizes, and loading and storing one element with conversion. Host and
** device run the same code, and the cpu converts with the same header.
*/
#ifndef MK_FORMATS_CUH
#define MK_FORMATS_CUH

#include "common.cuh"
#include "formats.h"

#define HD static __host__ __device__ __forceinline__

HD size_t dtype_bytes(mk_dtype d) {
    switch (d) {
    case MK_F32: case MK_I32: return 4;
    case MK_BF16: case MK_F16: return 2;
    case MK_I8: case MK_U8: return 1;
    default: return 8;
    }
}

HD int is_integer(mk_dtype d) { return d == MK_I8 || d == MK_U8 || d == MK_I32 || d == MK_I64; }

/* an element of an array that may be f32 or bf16, as f32 and back */
HD float widen(float v) { return v; }
HD float widen(mk_bf16 v) { return mk_from_bf16(v); }
HD void put(float *to, float v) { *to = v; }
HD void put(mk_bf16 *to, float v) { *to = mk_to_bf16(v); }

HD int64_t int_low(mk_dtype d) {
    return d == MK_I8 ? -128 : d == MK_U8 ? 0 : d == MK_I32 ? (int64_t)INT32_MIN : INT64_MIN;
}
HD int64_t int_high(mk_dtype d) {
    return d == MK_I8 ? 127 : d == MK_U8 ? 255 : d == MK_I32 ? (int64_t)INT32_MAX : INT64_MAX;
}

HD int64_t clamp_int(int64_t v, mk_dtype d) {
    int64_t lo = int_low(d), hi = int_high(d);
    return v < lo ? lo : v > hi ? hi : v;
}

/* truncation and saturation; NaN is 0 */
HD int64_t to_integer(double v, mk_dtype d) {
    int64_t lo = int_low(d), hi = int_high(d);
    if (v != v) return 0;
    if (v <= (double)lo) return lo;
    if (v >= (double)hi) return hi;
    return (int64_t)v;
}

HD void store_int(mk_dtype d, int64_t v, void *x, int64_t i) {
    switch (d) {
    case MK_I8: static_cast<int8_t *>(x)[i] = (int8_t)v; break;
    case MK_U8: static_cast<uint8_t *>(x)[i] = (uint8_t)v; break;
    case MK_I32: static_cast<int32_t *>(x)[i] = (int32_t)v; break;
    default: static_cast<int64_t *>(x)[i] = v;
    }
}

HD int64_t load_int(mk_dtype d, const void *x, int64_t i) {
    switch (d) {
    case MK_I8: return static_cast<const int8_t *>(x)[i];
    case MK_U8: return static_cast<const uint8_t *>(x)[i];
    case MK_I32: return static_cast<const int32_t *>(x)[i];
    default: return static_cast<const int64_t *>(x)[i];
    }
}

HD void store_real(mk_dtype d, float v, void *x, int64_t i) {
    switch (d) {
    case MK_BF16: static_cast<uint16_t *>(x)[i] = mk_to_bf16(v); break;
    case MK_F16: static_cast<uint16_t *>(x)[i] = mk_to_f16(v); break;
    default: static_cast<float *>(x)[i] = v;
    }
}

HD float load_real(mk_dtype d, const void *x, int64_t i) {
    switch (d) {
    case MK_BF16: return widen(static_cast<const mk_bf16 *>(x)[i]);
    case MK_F16: return mk_from_f16(static_cast<const uint16_t *>(x)[i]);
    default: return static_cast<const float *>(x)[i];
    }
}

#undef HD

/* f<T>(...) for the element type that an argument `type` of the caller names */
#define MK_TYPED(f, ...) \
    (type == MK_F32 ? f<float>(__VA_ARGS__) : type == MK_BF16 ? f<mk_bf16>(__VA_ARGS__) : (int)MK_UNSUPPORTED)

#endif
