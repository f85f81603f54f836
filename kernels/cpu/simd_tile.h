/* simd_tile.h - the tiles of matrix products, and packing with a transposition.
**
** Every element of a tile is one chain of multiply-adds over k in ascending order, so its bits depend
** neither on the height of the tile nor on the other columns.
*/
#define PRAGMA(text) _Pragma(#text)

INLINE void store_last(mk_real *to, vec v, int n) {
    if (n == LANES)
        v_store(to, v);
    else
        v_store_part(to, v, n);
}

/* vectors and rows are constants wherever this is inlined; rows go by threes so that x86 addressing
** needs one pointer for three of them */
INLINE void tile(const int vectors, const int rows, int64_t kc, const mk_real *a, int64_t rs,
                 int64_t cs, const mk_real *b, int64_t ldb, mk_real *c, int64_t ldc, int last,
                 const struct mk_blend *blend) {
    vec acc[MK_TILE_ROWS_MAX][MK_TILE_VECTORS];
    PRAGMA(GCC unroll 14)
    for (int i = 0; i < rows; i++)
        PRAGMA(GCC unroll 8)
        for (int j = 0; j < vectors; j++) acc[i][j] = v_zero();
    if (blend && blend->continues) {
        PRAGMA(GCC unroll 14)
        for (int i = 0; i < rows; i++)
            PRAGMA(GCC unroll 8)
            for (int j = 0; j < vectors; j++) {
                const mk_real *at = c + i * ldc + j * LANES;
                acc[i][j] = j < vectors - 1 || last == LANES ? v_load(at) : v_load_part(at, last);
            }
        blend = NULL;
    }
    if (vectors > 2 || ldc > 2 * vectors * LANES) { /* what it writes, while it multiplies: a wide C does not fit the caches */
        PRAGMA(GCC unroll 14)
        for (int i = 0; i < rows; i++) {
            PRAGMA(GCC unroll 8)
            for (int j = 0; j < vectors * LANES; j += 64 / (int)sizeof(mk_real)) __builtin_prefetch(c + i * ldc + j, 1);
            __builtin_prefetch(c + i * ldc + vectors * LANES - 1, 1);
        }
    }
    for (int64_t p = 0; p < kc; p++) {
        vec bv[MK_TILE_VECTORS];
        PRAGMA(GCC unroll 8)
        for (int j = 0; j < vectors; j++) bv[j] = v_load(b + j * LANES);
        const mk_real *row = a;
        PRAGMA(GCC unroll 14)
        for (int i = 0; i < rows; i++) {
            vec av = v_set1(row[i % 3 * rs]);
            PRAGMA(GCC unroll 8)
            for (int j = 0; j < vectors; j++) acc[i][j] = v_fma(av, bv[j], acc[i][j]);
            if (i % 3 == 2) row += 3 * rs;
        }
        a += cs;
        b += ldb;
    }
    if (!blend) {
        PRAGMA(GCC unroll 14)
        for (int i = 0; i < rows; i++) {
            mk_real *to = c + i * ldc;
            PRAGMA(GCC unroll 8)
            for (int j = 0; j < vectors - 1; j++) v_store(to + j * LANES, acc[i][j]);
            store_last(to + (vectors - 1) * LANES, acc[i][vectors - 1], last);
        }
        return;
    }
    vec alpha = v_set1(blend->alpha), beta = v_set1(blend->beta);
    int reads = blend->beta != 0;
    PRAGMA(GCC unroll 14)
    for (int i = 0; i < rows; i++) {
        mk_real *to = c + i * ldc;
        PRAGMA(GCC unroll 8)
        for (int j = 0; j < vectors; j++, to += LANES) {
            int n = j < vectors - 1 ? LANES : last;
            vec v = acc[i][j];
            const mk_real *old = (const mk_real *)((uintptr_t)to + blend->from);
            if (reads)
                v = v_fma(alpha, v, beta * (n == LANES ? v_load(old) : v_load_part(old, n)));
            else
                v = alpha * v;
            store_last(to, v, n);
        }
    }
}

#define TILE(vectors, rows)                                                                       \
    static void tile_##vectors##x##rows(int64_t kc, const mk_real *a, int64_t rs, int64_t cs,     \
                                        const mk_real *b, int64_t ldb, mk_real *c, int64_t ldc,   \
                                        int last, const struct mk_blend *blend) {                 \
        tile(vectors, rows, kc, a, rs, cs, b, ldb, c, ldc, last, blend);                          \
    }

#if MK_VECTOR_BYTES == 64 /* 32 registers */
#define PANEL_VECTORS {8, 8, 4}
TILE(1, 1) TILE(1, 2) TILE(1, 3) TILE(1, 4) TILE(1, 5) TILE(1, 6) TILE(1, 7) TILE(1, 8)
TILE(1, 9) TILE(1, 10) TILE(1, 11) TILE(1, 12) TILE(1, 13) TILE(1, 14)
TILE(2, 1) TILE(2, 2) TILE(2, 3) TILE(2, 4) TILE(2, 5) TILE(2, 6) TILE(2, 7) TILE(2, 8)
TILE(2, 9) TILE(2, 10) TILE(2, 11) TILE(2, 12)
TILE(3, 1) TILE(3, 2) TILE(3, 3) TILE(3, 4) TILE(3, 5) TILE(3, 6) TILE(3, 7) TILE(3, 8)
TILE(4, 1) TILE(4, 2) TILE(4, 3) TILE(4, 4) TILE(4, 5) TILE(4, 6)
TILE(5, 1) TILE(5, 2) TILE(6, 1) TILE(6, 2) TILE(7, 1) TILE(7, 2) TILE(8, 1) TILE(8, 2)
#define TILE_ROWS {14, 12, 8, 6, 2, 2, 2, 2}
#define TILE_TABLE                                                                                \
    {{tile_1x1, tile_1x2, tile_1x3, tile_1x4, tile_1x5, tile_1x6, tile_1x7, tile_1x8, tile_1x9,   \
      tile_1x10, tile_1x11, tile_1x12, tile_1x13, tile_1x14},                                     \
     {tile_2x1, tile_2x2, tile_2x3, tile_2x4, tile_2x5, tile_2x6, tile_2x7, tile_2x8, tile_2x9,   \
      tile_2x10, tile_2x11, tile_2x12},                                                           \
     {tile_3x1, tile_3x2, tile_3x3, tile_3x4, tile_3x5, tile_3x6, tile_3x7, tile_3x8},            \
     {tile_4x1, tile_4x2, tile_4x3, tile_4x4, tile_4x5, tile_4x6},                                \
     {tile_5x1, tile_5x2},                                                                        \
     {tile_6x1, tile_6x2},                                                                        \
     {tile_7x1, tile_7x2},                                                                        \
     {tile_8x1, tile_8x2}}
#else /* 16 registers */
#define PANEL_VECTORS {8, 4, 2}
TILE(1, 1) TILE(1, 2) TILE(1, 3) TILE(1, 4) TILE(1, 5) TILE(1, 6) TILE(1, 7) TILE(1, 8)
TILE(2, 1) TILE(2, 2) TILE(2, 3) TILE(2, 4) TILE(2, 5) TILE(2, 6)
TILE(3, 1) TILE(3, 2) TILE(4, 1) TILE(4, 2)
TILE(5, 1) TILE(6, 1) TILE(7, 1) TILE(8, 1)
#define TILE_ROWS {8, 6, 2, 2, 1, 1, 1, 1}
#define TILE_TABLE                                                                                \
    {{tile_1x1, tile_1x2, tile_1x3, tile_1x4, tile_1x5, tile_1x6, tile_1x7, tile_1x8},            \
     {tile_2x1, tile_2x2, tile_2x3, tile_2x4, tile_2x5, tile_2x6},                                \
     {tile_3x1, tile_3x2},                                                                        \
     {tile_4x1, tile_4x2},                                                                        \
     {tile_5x1},                                                                                  \
     {tile_6x1},                                                                                  \
     {tile_7x1},                                                                                  \
     {tile_8x1}}
#endif

/* ---- packing ------------------------------------------------------------------------------------ */

#ifndef MK_REAL_DOUBLE
typedef float quad __attribute__((vector_size(16)));
typedef float quad_mem __attribute__((vector_size(16), aligned(4), may_alias));

#endif

#if !defined(MK_REAL_DOUBLE) && MK_VECTOR_BYTES == 64
#define PACK_BLOCK 16

/* parts of rows 0, 4, 8, 12 side by side */
INLINE __m512 four_parts(const float *s, int64_t lds) {
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(s));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(s + 4 * lds), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(s + 8 * lds), 2);
    return _mm512_insertf32x4(v, _mm_loadu_ps(s + 12 * lds), 3);
}

/* dst rows 0 .. 3 from columns 0 .. 3 of 16 rows of src */
INLINE void pack_block(const float *s, int64_t lds, float *d, int64_t ldd) {
    __m512 r0 = four_parts(s, lds), r1 = four_parts(s + lds, lds);
    __m512 r2 = four_parts(s + 2 * lds, lds), r3 = four_parts(s + 3 * lds, lds);
    __m512 t0 = _mm512_unpacklo_ps(r0, r1), t1 = _mm512_unpackhi_ps(r0, r1);
    __m512 t2 = _mm512_unpacklo_ps(r2, r3), t3 = _mm512_unpackhi_ps(r2, r3);
    _mm512_storeu_ps(d, _mm512_shuffle_ps(t0, t2, 0x44));
    _mm512_storeu_ps(d + ldd, _mm512_shuffle_ps(t0, t2, 0xee));
    _mm512_storeu_ps(d + 2 * ldd, _mm512_shuffle_ps(t1, t3, 0x44));
    _mm512_storeu_ps(d + 3 * ldd, _mm512_shuffle_ps(t1, t3, 0xee));
}
#elif !defined(MK_REAL_DOUBLE)
#define PACK_BLOCK 4

INLINE void pack_block(const float *s, int64_t lds, float *d, int64_t ldd) {
    typedef int32_t order __attribute__((vector_size(16)));
    quad r0 = *(const quad_mem *)s, r1 = *(const quad_mem *)(s + lds);
    quad r2 = *(const quad_mem *)(s + 2 * lds), r3 = *(const quad_mem *)(s + 3 * lds);
    quad t0 = __builtin_shuffle(r0, r1, (order){0, 4, 1, 5});
    quad t1 = __builtin_shuffle(r0, r1, (order){2, 6, 3, 7});
    quad t2 = __builtin_shuffle(r2, r3, (order){0, 4, 1, 5});
    quad t3 = __builtin_shuffle(r2, r3, (order){2, 6, 3, 7});
    *(quad_mem *)d = __builtin_shuffle(t0, t2, (order){0, 1, 4, 5});
    *(quad_mem *)(d + ldd) = __builtin_shuffle(t0, t2, (order){2, 3, 6, 7});
    *(quad_mem *)(d + 2 * ldd) = __builtin_shuffle(t1, t3, (order){0, 1, 4, 5});
    *(quad_mem *)(d + 3 * ldd) = __builtin_shuffle(t1, t3, (order){2, 3, 6, 7});
}
#endif

#if !defined(MK_REAL_DOUBLE) && MK_VECTOR_BYTES == 32
/* dst rows 0 .. 7 from columns 0 .. 7 of 8 rows of src */
INLINE void pack_eight(const float *s, int64_t lds, float *d, int64_t ldd) {
    __m256 r[8], t[8];
    PRAGMA(GCC unroll 8)
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(s + i * lds);
    PRAGMA(GCC unroll 4)
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    PRAGMA(GCC unroll 2)
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    PRAGMA(GCC unroll 4)
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(d + i * ldd, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(d + (i + 4) * ldd, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}
#endif

static void pack_transposed(int64_t k, int64_t n, int64_t wide, const mk_real *src, int64_t lds,
                            mk_real *dst, int64_t ldd) {
    int64_t j = 0;
#if !defined(MK_REAL_DOUBLE) && MK_VECTOR_BYTES == 32
    for (; j + 8 <= n; j += 8) {
        int64_t p = 0;
        for (; p + 8 <= k; p += 8) pack_eight(src + j * lds + p, lds, dst + p * ldd + j, ldd);
        for (; p + 4 <= k; p += 4)
            for (int64_t i = j; i < j + 8; i += 4) pack_block(src + i * lds + p, lds, dst + p * ldd + i, ldd);
        for (; p < k; p++)
            for (int64_t i = j; i < j + 8; i++) dst[p * ldd + i] = src[i * lds + p];
    }
#endif
#ifdef PACK_BLOCK
    for (; j + PACK_BLOCK <= n; j += PACK_BLOCK) {
        int64_t p = 0;
        for (; p + 4 <= k; p += 4) pack_block(src + j * lds + p, lds, dst + p * ldd + j, ldd);
        for (; p < k; p++)
            for (int64_t i = j; i < j + PACK_BLOCK; i++) dst[p * ldd + i] = src[i * lds + p];
    }
#endif
    for (; j < n; j++)
        for (int64_t p = 0; p < k; p++) dst[p * ldd + j] = src[j * lds + p];
    int64_t rest = (wide - n) % LANES; /* what is missing of a vector, then whole ones */
    for (int64_t p = 0; n < wide && p < k; p++) {
        mk_real *to = dst + p * ldd + n;
        if (rest) v_store_part(to, v_zero(), rest);
        for (int64_t i = rest; i < wide - n; i += LANES) v_store(to + i, v_zero());
    }
}
