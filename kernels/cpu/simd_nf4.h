/* simd_nf4.h - the formats nf4 and fp4 on the cpu, which differ by their tables: part 0 codes of four bits, parts 1 to 4 the largest
** absolute value of each block (kernels.h). */

static const float nf4_values[16] = MK_NF4_VALUES, fp4_values[16] = MK_FP4_VALUES;

/* LANES codes from the first half of a byte on, as numbers of the table */
INLINE vec from_nibbles(const uint8_t *byte, const float *table) {
#if MK_VECTOR_BYTES == 64 && !defined(MK_REAL_DOUBLE)
    __m128i two = _mm_loadl_epi64((const void *)byte), low = _mm_set1_epi8(15);
    __m128i codes = _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(two, 4), low), _mm_and_si128(two, low));
    return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), _mm512_loadu_ps(table));
#elif MK_VECTOR_BYTES == 32 && !defined(MK_REAL_DOUBLE)
    int32_t four;
    memcpy(&four, byte, 4);
    __m128i two = _mm_cvtsi32_si128(four), low = _mm_set1_epi8(15);
    __m256i codes = _mm256_cvtepu8_epi32(_mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(two, 4), low), _mm_and_si128(two, low)));
    __m256 lower = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), codes);
    __m256 upper = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), codes);
    return _mm256_blendv_ps(lower, upper, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28))); /* by bit 3 */
#else
    vec v;
    for (int i = 0; i < LANES; i++) v[i] = (mk_real)table[i % 2 ? byte[i / 2] & 15 : byte[i / 2] >> 4];
    return v;
#endif
}

static mk_real block_absmax(const mk_weight *w, int64_t block) {
    if (!w->part[2]) return ((const mk_real *)w->part[1])[block];
    return mk_nested_value(((const uint8_t *)w->part[1])[block], ((const mk_real *)w->part[2])[block / MK_NESTED_BLOCK], w->part[3],
                           *(const mk_real *)w->part[4]);
}

INLINE void read_nibbles(const mk_weight *w, const float *table, int64_t row, int64_t column, int64_t n, mk_real *to) {
    const uint8_t *byte = w->part[0];
    for (int64_t at = row * w->columns + column, end = at + n; at < end;) {
        int64_t block = at / w->block, stop = mk_min(end, (block + 1) * w->block);
        mk_real absmax = block_absmax(w, block);
        vec a = v_set1(absmax);
        mk_real *first = to;
        int64_t some = stop - at;
        for (; at % 2 && at < stop; at++) *to++ = (mk_real)table[byte[at / 2] & 15] * absmax;
        for (; at + LANES <= stop; at += LANES, to += LANES) v_store(to, from_nibbles(byte + at / 2, table) * a);
        for (; at < stop; at++) *to++ = (mk_real)table[at % 2 ? byte[at / 2] & 15 : byte[at / 2] >> 4] * absmax;
        for (int64_t i = 0; w->rounded != MK_F32 && i < some; i++) first[i] = mk_rounded_to((float)first[i], w->rounded);
    }
}

static void read_nf4(const mk_weight *w, int64_t row, int64_t column, int64_t n, mk_real *to) {
    read_nibbles(w, nf4_values, row, column, n, to);
}

static void read_fp4(const mk_weight *w, int64_t row, int64_t column, int64_t n, mk_real *to) {
    read_nibbles(w, fp4_values, row, column, n, to);
}

#if MK_VECTOR_BYTES >= 32 && defined(__x86_64__) && !defined(MK_REAL_DOUBLE)
#define NIBBLE_ROWS 16
#define NIBBLE_STEP 16 /* columns at a time: 8 bytes of each row */
#define NIBBLE_VECTORS (NIBBLE_ROWS / LANES)

/* column[b]: byte b of all rows */
INLINE void turn_bytes(const uint8_t *const *row, int64_t at, __m128i column[8]) {
    __m128i two[8], four[8], eight[8];
    PRAGMA(GCC unroll 8)
    for (int i = 0; i < 8; i++)
        two[i] = _mm_unpacklo_epi8(_mm_loadl_epi64((const void *)(row[2 * i] + at)), _mm_loadl_epi64((const void *)(row[2 * i + 1] + at)));
    PRAGMA(GCC unroll 4)
    for (int i = 0; i < 4; i++) {
        four[i] = _mm_unpacklo_epi16(two[2 * i], two[2 * i + 1]);
        four[4 + i] = _mm_unpackhi_epi16(two[2 * i], two[2 * i + 1]);
    }
    PRAGMA(GCC unroll 4)
    for (int i = 0; i < 4; i++) { /* bytes 2 i and 2 i + 1 of rows 0 .. 7, and of rows 8 .. 15 */
        const __m128i *f = four + i / 2 * 4;
        eight[i] = i % 2 ? _mm_unpackhi_epi32(f[0], f[1]) : _mm_unpacklo_epi32(f[0], f[1]);
        eight[4 + i] = i % 2 ? _mm_unpackhi_epi32(f[2], f[3]) : _mm_unpacklo_epi32(f[2], f[3]);
    }
    PRAGMA(GCC unroll 4)
    for (int i = 0; i < 4; i++) {
        column[2 * i] = _mm_unpacklo_epi64(eight[i], eight[4 + i]);
        column[2 * i + 1] = _mm_unpackhi_epi64(eight[i], eight[4 + i]);
    }
}

/* numbers of the table for the codes of all rows */
INLINE void of_table(__m128i code, const vec *table, vec number[NIBBLE_VECTORS]) {
#if MK_VECTOR_BYTES == 64
    number[0] = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(code), table[0]);
#else
    PRAGMA(GCC unroll 2)
    for (int v = 0; v < 2; v++) {
        __m256i wide = _mm256_cvtepu8_epi32(v ? _mm_srli_si128(code, 8) : code);
        number[v] = _mm256_blendv_ps(_mm256_permutevar8x32_ps(table[0], wide), _mm256_permutevar8x32_ps(table[1], wide),
                                     _mm256_castsi256_ps(_mm256_slli_epi32(wide, 28))); /* by bit 3 */
    }
#endif
}

/* what mk_quantized's `few` does, for m rows that are known where this is inlined, of whole blocks of numbers in f32 */
INLINE void few_nibbles_rows(const int m, const mk_weight *w, const float *values, int64_t first, int64_t n, const mk_real *a, int64_t lda,
                             mk_real *sums) {
    const uint8_t *row[NIBBLE_ROWS];
    int64_t block[NIBBLE_ROWS];
    vec table[16 / LANES], total[MK_CODED_ROWS][NIBBLE_VECTORS], absmax[NIBBLE_VECTORS] = {{0}};
    const __m128i low = _mm_set1_epi8(15);
    for (int i = 0; i < 16 / LANES; i++) table[i] = v_load(values + i * LANES);
    PRAGMA(GCC unroll 4)
    for (int i = 0; i < m; i++)
        PRAGMA(GCC unroll 2)
        for (int v = 0; v < NIBBLE_VECTORS; v++) total[i][v] = v_zero();
    for (int r = 0; r < NIBBLE_ROWS; r++) { /* rows that are not there are the last one again */
        int64_t at = (first + (r < n ? r : n - 1)) * w->columns;
        row[r] = (const uint8_t *)w->part[0] + at / 2;
        block[r] = at / w->block;
    }
    for (int64_t k0 = 0; k0 < w->columns; k0 += MK_KC) {
        vec acc[MK_CODED_ROWS][NIBBLE_VECTORS];
        int64_t end = mk_min(k0 + MK_KC, w->columns);
        PRAGMA(GCC unroll 4)
        for (int i = 0; i < m; i++)
            PRAGMA(GCC unroll 2)
            for (int v = 0; v < NIBBLE_VECTORS; v++) acc[i][v] = v_zero();
        for (int64_t p = k0; p < end; p += NIBBLE_STEP) {
            __m128i column[8];
            if (p % w->block == 0 || p == k0) {
                mk_real most[NIBBLE_ROWS];
                for (int r = 0; r < NIBBLE_ROWS; r++) most[r] = block_absmax(w, block[r] + p / w->block);
                for (int v = 0; v < NIBBLE_VECTORS; v++) absmax[v] = v_load(most + v * LANES);
            }
            turn_bytes(row, p / 2, column);
            PRAGMA(GCC unroll 16)
            for (int c = 0; c < NIBBLE_STEP; c++) {
                vec number[NIBBLE_VECTORS];
                __m128i two = column[c / 2];
                of_table(_mm_and_si128(c % 2 ? two : _mm_srli_epi16(two, 4), low), table, number);
                PRAGMA(GCC unroll 2)
                for (int v = 0; v < NIBBLE_VECTORS; v++) {
                    vec x = number[v] * absmax[v];
                    PRAGMA(GCC unroll 4)
                    for (int i = 0; i < m; i++) acc[i][v] = v_fma(v_set1(a[i * lda + p + c]), x, acc[i][v]);
                }
            }
        }
        for (int i = 0; i < m; i++)
            for (int v = 0; v < NIBBLE_VECTORS; v++) total[i][v] = k0 ? total[i][v] + acc[i][v] : acc[i][v];
    }
    for (int i = 0; i < m; i++)
        for (int v = 0; v < NIBBLE_VECTORS; v++) v_store(sums + i * MK_GROUP_MAX + v * LANES, total[i][v]);
}

INLINE void few_nibbles(const mk_weight *w, const float *values, int64_t row, int64_t n, int64_t m, const mk_real *a, int64_t lda,
                        mk_real *sums) {
    switch (m) {
        case 1: few_nibbles_rows(1, w, values, row, n, a, lda, sums); break;
        case 2: few_nibbles_rows(2, w, values, row, n, a, lda, sums); break;
        case 3: few_nibbles_rows(3, w, values, row, n, a, lda, sums); break;
        default: few_nibbles_rows(4, w, values, row, n, a, lda, sums); break;
    }
}

static void few_nf4(const mk_weight *w, int64_t row, int64_t n, int64_t m, const mk_real *a, int64_t lda, mk_real *sums) {
    few_nibbles(w, nf4_values, row, n, m, a, lda, sums);
}

static void few_fp4(const mk_weight *w, int64_t row, int64_t n, int64_t m, const mk_real *a, int64_t lda, mk_real *sums) {
    few_nibbles(w, fp4_values, row, n, m, a, lda, sums);
}
#define FEW_NF4 few_nf4
#define FEW_FP4 few_fp4
#else
#define NIBBLE_ROWS LANES
#define NIBBLE_STEP 1
#define FEW_NF4 NULL
#define FEW_FP4 NULL
#endif

struct nf4_job {
    const mk_weight *w;
    const mk_real *src;
    void *const *part;
    float *absmax, mean; /* of each block */
};

/* items are blocks */
static void quantize_blocks(void *arg, int64_t first, int64_t last) {
    const struct nf4_job *j = arg;
    int64_t n = j->w->rows * j->w->columns, block = j->w->block;
    for (int64_t b = first; b < last; b++) {
        const mk_real *x = j->src + b * block;
        uint8_t *code = (uint8_t *)j->part[0] + b * block / 2;
        int64_t some = mk_min(block, n - b * block);
        float absmax = 0;
        for (int64_t i = 0; i < some; i++) absmax = fmaxf(absmax, fabsf((float)x[i]));
        int full = some == block;
        for (int64_t i = 0; i < some; i += 2) {
            float second = i + 1 < some ? (float)x[i + 1] : 0;
            code[i / 2] = (uint8_t)(mk_nf4_code(mk_nf4_input((float)x[i], absmax, full)) << 4 |
                                    mk_nf4_code(mk_nf4_input(second, absmax, full)));
        }
        j->absmax[b] = full ? absmax : fmaxf(absmax, MK_LEAST_ABSMAX);
    }
}

/* items are MK_NESTED_BLOCK blocks */
static void quantize_absmax(void *arg, int64_t first, int64_t last) {
    const struct nf4_job *j = arg;
    const mk_real *map = j->w->part[3];
    for (int64_t b = first; b < last; b++) {
        int64_t at = b * MK_NESTED_BLOCK, end = mk_min(at + MK_NESTED_BLOCK, mk_blocks(j->w));
        uint8_t *code = j->part[1];
        float most = 0;
        for (int64_t i = at; i < end; i++) most = fmaxf(most, fabsf(j->absmax[i] - j->mean));
        float inverse = most > 0 ? 1 / most : 0;
        for (int64_t i = at; i < end; i++)
            code[i] = most > 0 ? (uint8_t)mk_nested_code((j->absmax[i] - j->mean) * inverse, map) : 0;
        ((mk_real *)j->part[2])[b] = most;
    }
}

static int quantize_nf4(mk_exec *e, const mk_weight *w, const mk_real *src, void *const *part) {
    int64_t blocks = mk_blocks(w);
    struct nf4_job j = {.w = w, .src = src, .part = part};
    float sums[MK_MEAN_SUMS];
    if (!w->part[2] || w->rounded != MK_F32) return MK_UNSUPPORTED;
    j.absmax = mk_scratch(e, (size_t)blocks * sizeof(float));
    if (!j.absmax) return MK_NOMEM;
    mk_for(e, blocks, 5 * (double)w->block, quantize_blocks, &j);
    for (int i = 0; i < MK_MEAN_SUMS; i++) sums[i] = mk_mean_sum(j.absmax, blocks, i);
    j.mean = mk_mean_of(j.absmax, blocks, sums);
    *(mk_real *)part[4] = j.mean;
    mk_for(e, mk_ceil_div(blocks, MK_NESTED_BLOCK), 10 * MK_NESTED_BLOCK, quantize_absmax, &j);
    return MK_OK;
}
