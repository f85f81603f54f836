/* simd_bf16.h - numbers of bf16 to and from f32, the end of their products, and the products' sums by multiply-adds (bf16.h). */

/* ---- conversions -------------------------------------------------------------------------------- */

#ifdef MK_REAL_DOUBLE

static void from_bf16(int64_t n, const mk_bf16 *x, mk_real *y) {
    for (int64_t i = 0; i < n; i++) y[i] = mk_from_bf16(x[i]);
}
static void to_bf16(int64_t n, const mk_real *x, mk_bf16 *y) {
    for (int64_t i = 0; i < n; i++) y[i] = mk_to_bf16((float)x[i]);
}

#else

INLINE vec load_bf16(const mk_bf16 *p) {
#if MK_VECTOR_BYTES == 64
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16);
#elif MK_VECTOR_BYTES == 32
    return (vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16);
#else
    ivec v = {0};
    for (int i = 0; i < LANES; i++) v[i] = (int32_t)((uint32_t)p[i] << 16);
    return (vec)v;
#endif
}

/* to nearest even; a NaN is quieted and keeps its upper half, as mk_to_bf16 has it */
INLINE void store_bf16(mk_bf16 *p, vec v) {
    typedef uint32_t bits __attribute__((vector_size(MK_VECTOR_BYTES)));
    bits u = (bits)v, nan = (bits)(v != v), up = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    u = (nan & (u >> 16 | 0x40)) | (~nan & up);
#if MK_VECTOR_BYTES == 64
    _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16((__m512i)u));
#elif MK_VECTOR_BYTES == 32
    __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)u, (__m256i)u), 0x08);
    _mm_storeu_si128((void *)p, _mm256_castsi256_si128(both));
#else
    for (int i = 0; i < LANES; i++) p[i] = (mk_bf16)u[i];
#endif
}

static void from_bf16(int64_t n, const mk_bf16 *x, mk_real *y) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(y + i, load_bf16(x + i));
    for (; i < n; i++) y[i] = mk_from_bf16(x[i]);
}

static void to_bf16(int64_t n, const mk_real *x, mk_bf16 *y) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store_bf16(y + i, v_load(x + i));
    for (; i < n; i++) y[i] = mk_to_bf16(x[i]);
}

#endif

static void bf16_pairs(int64_t n, const mk_bf16 *low, const mk_bf16 *high, uint32_t *to) {
    int64_t i = 0;
#if MK_VECTOR_BYTES == 64
    for (; i + 16 <= n; i += 16) {
        __m512i l = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(low + i)));
        __m512i h = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(high + i)));
        _mm512_storeu_si512((void *)(to + i), _mm512_or_si512(l, _mm512_slli_epi32(h, 16)));
    }
#elif MK_VECTOR_BYTES == 32
    for (; i + 8 <= n; i += 8) {
        __m256i l = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(low + i)));
        __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(high + i)));
        _mm256_storeu_si256((void *)(to + i), _mm256_or_si256(l, _mm256_slli_epi32(h, 16)));
    }
#endif
    for (; i < n; i++) to[i] = low[i] | (uint32_t)high[i] << 16;
}

/* ---- products ----------------------------------------------------------------------------------- */

#ifndef MK_REAL_DOUBLE

INLINE vec finished(vec sums, const struct mk_blend *blend, vec old) {
    vec v = v_set1(blend->alpha) * sums;
    if (blend->beta != 0) v = v + v_set1(blend->beta) * old;
    return v_select((ivec)(v == v), v, (vec)((ivec){0} + 0x7fc00000));
}

static void bf16_finish(int64_t n, const struct mk_blend *blend, const float *sums, mk_dtype type, void *c) {
    float *f = c;
    mk_bf16 *h = c;
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t some = mk_min(LANES, n - i);
        float old[LANES] = {0}, v[LANES];
        mk_bf16 few[LANES] = {0};
        vec was = v_zero(), sum = v_load(sums + i); /* sums are whole vectors */
        if (some == LANES) {
            if (blend->beta != 0) was = type == MK_F32 ? v_load(f + i) : load_bf16(h + i);
            sum = finished(sum, blend, was);
            if (type == MK_F32) v_store(f + i, sum);
            else store_bf16(h + i, sum);
            continue;
        }
        if (blend->beta != 0 && type == MK_F32) memcpy(old, f + i, (size_t)some * sizeof *f);
        if (blend->beta != 0 && type != MK_F32) memcpy(few, h + i, (size_t)some * sizeof *h);
        was = type == MK_F32 ? v_load(old) : load_bf16(few);
        sum = finished(sum, blend, was);
        v_store(v, sum);
        store_bf16(few, sum);
        if (type == MK_F32) memcpy(f + i, v, (size_t)some * sizeof *f);
        else memcpy(h + i, few, (size_t)some * sizeof *h);
    }
}

#if defined(__x86_64__) && defined(__FMA__)
/* The two chains of each block as two vectors of accumulators. Subnormal numbers are left to the processor, which is told to take
** them for zero while this runs. */
#if MK_VECTOR_BYTES == 64
#define BF16_ROWS 6
#else
#define BF16_ROWS 3
#endif
#define BF16_VECTORS 2
#define ZERO_SUBNORMALS 0x9fc0 /* MXCSR: to nearest even, nothing trapped, subnormals are zero going in and coming out */

INLINE void bf16_rows(const int rows, int64_t blocks, const float *a, const uint32_t *b, float *c) {
    for (int64_t p = 0; p < blocks; p++) {
        vec even[BF16_ROWS][BF16_VECTORS], odd[BF16_ROWS][BF16_VECTORS];
        PRAGMA(GCC unroll 6)
        for (int i = 0; i < rows; i++)
            PRAGMA(GCC unroll 2)
            for (int j = 0; j < BF16_VECTORS; j++) even[i][j] = odd[i][j] = v_zero();
        for (int k = 0; k < MK_BF16_BLOCK; k += 2, b += MK_BF16_COLUMNS) {
            ivec pair[BF16_VECTORS];
            PRAGMA(GCC unroll 2)
            for (int j = 0; j < BF16_VECTORS; j++) pair[j] = (ivec)v_load((const float *)(const void *)b + j * LANES);
            PRAGMA(GCC unroll 6)
            for (int i = 0; i < rows; i++)
                PRAGMA(GCC unroll 2)
                for (int j = 0; j < BF16_VECTORS; j++)
                    even[i][j] = v_fma(v_set1(a[i * MK_BF16_LDA + k]), (vec)(pair[j] << 16), even[i][j]);
            PRAGMA(GCC unroll 6)
            for (int i = 0; i < rows; i++)
                PRAGMA(GCC unroll 2)
                for (int j = 0; j < BF16_VECTORS; j++)
                    odd[i][j] = v_fma(v_set1(a[i * MK_BF16_LDA + k + 1]), (vec)(pair[j] & (int32_t)0xffff0000), odd[i][j]);
        }
        PRAGMA(GCC unroll 6)
        for (int i = 0; i < rows; i++)
            PRAGMA(GCC unroll 2)
            for (int j = 0; j < BF16_VECTORS; j++) {
                float *to = c + i * MK_BF16_COLUMNS + j * LANES;
                v_store(to, v_load(to) + (even[i][j] + odd[i][j]));
            }
        a += MK_BF16_BLOCK;
    }
}

/* a function of its own, so that nothing of it moves out of the lines that set the processor's mode */
static __attribute__((noinline)) void bf16_all(int64_t m, int64_t blocks, const float *a, const uint32_t *b, float *c) {
    for (int j = 0; j < MK_BF16_COLUMNS; j += BF16_VECTORS * LANES) {
        const float *row = a;
        float *to = c + j;
        int64_t i = 0;
        for (; i + BF16_ROWS <= m; i += BF16_ROWS, row += BF16_ROWS * MK_BF16_LDA, to += BF16_ROWS * MK_BF16_COLUMNS)
            bf16_rows(BF16_ROWS, blocks, row, b + j, to);
        switch (m - i) {
#if BF16_ROWS == 6
            case 5: bf16_rows(5, blocks, row, b + j, to); break;
            case 4: bf16_rows(4, blocks, row, b + j, to); break;
            case 3: bf16_rows(3, blocks, row, b + j, to); break;
#endif
            case 2: bf16_rows(2, blocks, row, b + j, to); break;
            case 1: bf16_rows(1, blocks, row, b + j, to); break;
        }
    }
}

static void bf16_sweep(int64_t m, int64_t blocks, const void *a, const uint32_t *b, float *sums) {
    unsigned mode = _mm_getcsr();
    _mm_setcsr(ZERO_SUBNORMALS);
    bf16_all(m, blocks, a, b, sums);
    _mm_setcsr(mode);
}

static const mk_bf16_path bf16_path = {"f32 multiply-adds (" MK_SIMD_NAME ")", 1, BF16_ROWS, 0.02, bf16_sweep};
#define BF16_PATH &bf16_path
#else
#define BF16_PATH NULL
#endif
#define BF16_FINISH bf16_finish
#else
#define BF16_PATH NULL
#define BF16_FINISH NULL
#endif
