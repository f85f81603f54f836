/* simd_vec.h - one vector of mk_real and what the inner loops do with it.
**
** Compiled once per instruction set: MK_VECTOR_BYTES says how long a vector is. Not for other files
** than simd_table.h.
*/
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define LANES ((int)(MK_VECTOR_BYTES / sizeof(mk_real)))

typedef mk_real vec __attribute__((vector_size(MK_VECTOR_BYTES)));
typedef mk_real vec_mem __attribute__((vector_size(MK_VECTOR_BYTES), aligned(sizeof(mk_real)), may_alias));
#ifdef MK_REAL_DOUBLE
typedef int64_t lane_int;
typedef double half_vec __attribute__((vector_size(MK_VECTOR_BYTES)));
#define X86(bits, op) _mm##bits##_##op##_pd
#else
typedef int32_t lane_int;
#define X86(bits, op) _mm##bits##_##op##_ps
#endif
typedef lane_int ivec __attribute__((vector_size(MK_VECTOR_BYTES)));
typedef double dvec __attribute__((vector_size(MK_VECTOR_BYTES)));

/* A sum across vectors goes through 64 bytes of lanes, in several vectors where one is shorter, so that its order and its
** bits are those of every instruction set. */
#define PARTS (64 / MK_VECTOR_BYTES)
#define UNROLL_PARTS _Pragma("GCC unroll 4")

#if MK_VECTOR_BYTES == 64
#define INTRINSIC(op) X86(512, op)
#elif MK_VECTOR_BYTES == 32
#define INTRINSIC(op) X86(256, op)
#elif defined(__x86_64__)
#define INTRINSIC(op) X86(, op)
#endif

INLINE vec v_load(const mk_real *p) { return *(const vec_mem *)p; }
INLINE void v_store(mk_real *p, vec v) { *(vec_mem *)p = v; }
INLINE vec v_zero(void) { return (vec){0}; }
INLINE vec v_set1(mk_real x) {
#ifdef INTRINSIC
    return INTRINSIC(set1)(x);
#else
    return x - (vec){0};
#endif
}

#if MK_VECTOR_BYTES == 32
/* all bits of lanes i < n */
INLINE ivec v_lanes(int64_t n) {
    static const lane_int bits[2 * LANES] = {[0 ... LANES - 1] = -1};
    ivec mask;
    memcpy(&mask, bits + LANES - n, sizeof mask);
    return mask;
}
#endif

/* n < LANES elements; the other lanes are 0 */
INLINE vec v_load_part(const mk_real *p, int64_t n) {
#if MK_VECTOR_BYTES == 64
    return INTRINSIC(maskz_loadu)((unsigned short)((1u << n) - 1), p);
#elif MK_VECTOR_BYTES == 32
    return INTRINSIC(maskload)(p, (__m256i)v_lanes(n));
#else
    vec v = {0};
    for (int i = 0; i < LANES; i++)
        if (i < n) v[i] = p[i];
    return v;
#endif
}

INLINE void v_store_part(mk_real *p, vec v, int64_t n) {
#if MK_VECTOR_BYTES == 64
    INTRINSIC(mask_storeu)(p, (unsigned short)((1u << n) - 1), v);
#elif MK_VECTOR_BYTES == 32 && !defined(MK_REAL_DOUBLE)
    /* in up to three pieces: a masked store takes some processors 20 cycles */
    __m128 rest = _mm256_castps256_ps128(v);
    if (n & 4) {
        _mm_storeu_ps(p, rest);
        rest = _mm256_extractf128_ps(v, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)(void *)p, rest);
        rest = _mm_movehl_ps(rest, rest);
        p += 2;
    }
    if (n & 1) _mm_store_ss(p, rest);
#elif MK_VECTOR_BYTES == 32
    INTRINSIC(maskstore)(p, (__m256i)v_lanes(n), v);
#else
    for (int i = 0; i < LANES; i++)
        if (i < n) p[i] = v[i];
#endif
}

/* a b + c, rounded once where the instruction set can */
INLINE vec v_fma(vec a, vec b, vec c) {
#if defined(INTRINSIC) && defined(__FMA__)
    return INTRINSIC(fmadd)(a, b, c);
#elif defined(__aarch64__) && defined(MK_REAL_DOUBLE)
    return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#elif defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

INLINE vec v_select(ivec mask, vec a, vec b) {
    return (vec)((mask & (ivec)a) | (~mask & (ivec)b));
}
/* the second operand where either is NaN */
INLINE vec v_max(vec a, vec b) {
#ifdef INTRINSIC
    return INTRINSIC(max)(a, b);
#else
    return v_select((ivec)(a > b), a, b);
#endif
}
INLINE vec v_min(vec a, vec b) {
#ifdef INTRINSIC
    return INTRINSIC(min)(a, b);
#else
    return v_select((ivec)(a < b), a, b);
#endif
}
INLINE vec v_abs(vec a) {
    return (vec)((ivec)a & ~(ivec)v_set1((mk_real)-0.0));
}
INLINE vec v_sqrt(vec a) {
#ifdef INTRINSIC
    return INTRINSIC(sqrt)(a);
#else
    for (int i = 0; i < LANES; i++) a[i] = MK_R(sqrt)(a[i]);
    return a;
#endif
}

/* lanes i < n keep their value, the others become `other` */
INLINE vec v_first(vec a, int64_t n, mk_real other) {
#if MK_VECTOR_BYTES == 64
    return INTRINSIC(mask_mov)(v_set1(other), (unsigned short)((1u << n) - 1), a);
#elif MK_VECTOR_BYTES == 32
    return (vec)INTRINSIC(blendv)(v_set1(other), a, (vec)v_lanes(n));
#else
    for (int i = 0; i < LANES; i++)
        if (i >= n) a[i] = other;
    return a;
#endif
}

/* across the lanes of all parts, in a fixed tree: x[i] + x[i + half of them], and again */
INLINE mk_real sum_lanes(const vec *parts) {
    vec a[PARTS];
    UNROLL_PARTS
    for (int k = 0; k < PARTS; k++) a[k] = parts[k];
    for (int w = PARTS / 2; w > 0; w /= 2)
        for (int k = 0; k < w; k++) a[k] += a[k + w];
#if MK_VECTOR_BYTES == 64
    return INTRINSIC(reduce_add)(a[0]);
#elif MK_VECTOR_BYTES == 32 && !defined(MK_REAL_DOUBLE)
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(a[0]), _mm256_extractf128_ps(a[0], 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
#else
    mk_real x[MK_VECTOR_BYTES / sizeof(mk_real)];
    v_store(x, a[0]);
    for (int w = LANES / 2; w > 0; w /= 2)
        for (int i = 0; i < w; i++) x[i] += x[i + w];
    return x[0];
#endif
}
INLINE mk_real max_lanes(vec a) {
#if MK_VECTOR_BYTES == 64
    return INTRINSIC(reduce_max)(a);
#elif MK_VECTOR_BYTES == 32 && !defined(MK_REAL_DOUBLE)
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
#else
    mk_real x[MK_VECTOR_BYTES / sizeof(mk_real)];
    v_store(x, a);
    for (int w = LANES / 2; w > 0; w /= 2)
        for (int i = 0; i < w; i++) x[i] = x[i] > x[i + w] ? x[i] : x[i + w];
    return x[0];
#endif
}

/* ---- exp ---------------------------------------------------------------------------------------- */

#ifdef MK_REAL_DOUBLE
INLINE vec v_exp(vec x) {
    for (int i = 0; i < LANES; i++) x[i] = exp(x[i]);
    return x;
}
#else
/* x = n log 2 + r, |r| <= log 2 / 2; exp x = 2^n (1 + r + r^2 P(r)), P of degree 5, within one unit in
** the last place. The arguments beyond which the result is 0 or infinite anyway are clamped first;
** NaN passes. */
INLINE vec v_exp(vec x) {
    x = v_max(v_set1(-104.0f), x);
    x = v_min(v_set1(90.0f), x);
#if MK_VECTOR_BYTES == 64
    vec n = _mm512_roundscale_ps(x * v_set1(1.44269504088896341f), _MM_FROUND_TO_NEAREST_INT);
#else
    const vec magic = v_set1(12582912.0f); /* 1.5 2^23: adding it rounds to an integer */
    vec shifted = x * v_set1(1.44269504088896341f) + magic;
    vec n = shifted - magic;
#endif
    /* log 2 in two parts, the first with so few bits that n times it is exact */
    vec r = v_fma(n, v_set1(-0.693359375f), x);
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    vec p = v_set1(1.9875691500e-4f);
    p = v_fma(p, r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_fma(p * r, r, r) + v_set1(1.0f);
#if MK_VECTOR_BYTES == 64
    return _mm512_scalef_ps(p, n);
#else
    /* 2^n in two factors, so that results below the normal range are rounded once */
    ivec e = (ivec)shifted - (ivec)magic, half = e >> 1;
    return p * (vec)((half + 127) << 23) * (vec)((e - half + 127) << 23);
#endif
}
#endif

INLINE vec v_sigmoid(vec x) { return v_set1(1) / (v_set1(1) + v_exp(-x)); }

INLINE vec v_tanh(vec x) {
#ifdef MK_REAL_DOUBLE
    for (int i = 0; i < LANES; i++) x[i] = tanh(x[i]);
    return x;
#else
    /* near 0 an odd polynomial, beyond it 1 - 2 / (exp 2|x| + 1) with the sign of x */
    vec a = v_abs(x), z = x * x, one = v_set1(1);
    vec p = v_set1(-5.70498872745e-3f);
    p = v_fma(p, z, v_set1(2.06390887954e-2f));
    p = v_fma(p, z, v_set1(-5.37397155531e-2f));
    p = v_fma(p, z, v_set1(1.33314422036e-1f));
    p = v_fma(p, z, v_set1(-3.33332819422e-1f));
    p = v_fma(p * z, x, x);
    vec t = one - v_set1(2) / (v_exp(a + a) + one);
    t = (vec)((ivec)t | ((ivec)x & (ivec)v_set1(-0.0f)));
    return v_select((ivec)(a < v_set1(0.625f)), p, t);
#endif
}
