/* simd_int8.h - the format int8 on the cpu: part 0 codes, part 1 the largest absolute value of each row. */

/* LANES codes as numbers (GCC's __builtin_convertvector takes them one by one) */
INLINE vec widen_codes(const int8_t *code) {
#if MK_VECTOR_BYTES == 64 && !defined(MK_REAL_DOUBLE)
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)code)));
#elif MK_VECTOR_BYTES == 32 && !defined(MK_REAL_DOUBLE)
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)code)));
#else
    vec v;
    for (int i = 0; i < LANES; i++) v[i] = (mk_real)code[i];
    return v;
#endif
}

static void read_int8(const mk_weight *w, int64_t row, int64_t column, int64_t n, mk_real *to) {
    const int8_t *code = (const int8_t *)w->part[0] + row * w->columns + column;
    mk_real absmax = ((const mk_real *)w->part[1])[row];
    vec a = v_set1(absmax), s = v_set1(1.0f / 127.0f);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(to + i, widen_codes(code + i) * a * s);
    for (; i < n; i++) to[i] = (mk_real)code[i] * absmax * (mk_real)(1.0f / 127.0f);
}

#if defined(__x86_64__) && !defined(MK_REAL_DOUBLE)
#define INT8_STEP 16 /* columns at a time: 16 bytes of each row */

/* Vectors of 32 bytes with AVX-512 too: in those of 64 it takes longer to turn codes. INT8_GROUPS: chains side by side, since a
** multiply-add takes longer than it takes to begin the next. */
#if MK_VECTOR_BYTES >= 32
#define INT8_LANES 8
#define INT8_GROUPS 2
#define INTEGERS(op) _mm256_##op
typedef __m256i code_block;
typedef float few_vec __attribute__((vector_size(32)));
typedef int32_t few_int __attribute__((vector_size(32)));
/* 16 codes of rows 0 and 4 side by side */
INLINE code_block some_rows(const int8_t *const *row, int64_t p) {
    __m256i v = _mm256_castsi128_si256(_mm_loadu_si128((const void *)(row[0] + p)));
    return _mm256_inserti128_si256(v, _mm_loadu_si128((const void *)(row[4] + p)), 1);
}
INLINE few_vec few_fma(float a, few_vec b, few_vec c) { return _mm256_fmadd_ps(_mm256_set1_ps(a), b, c); }
#else
#define INT8_LANES 4
#define INT8_GROUPS 2
#define INTEGERS(op) _mm_##op
typedef __m128i code_block;
typedef float few_vec __attribute__((vector_size(16)));
typedef int32_t few_int __attribute__((vector_size(16)));
INLINE code_block some_rows(const int8_t *const *row, int64_t p) { return _mm_loadu_si128((const void *)(row[0] + p)); }
INLINE few_vec few_fma(float a, few_vec b, few_vec c) { return v_fma(v_set1(a), b, c); }
#endif
#define INT8_ROWS (INT8_GROUPS * INT8_LANES)

/* four[i]: of INT8_LANES rows the codes of columns p + 4 i .. p + 4 i + 3, the first in the lowest byte */
INLINE void turn_codes(const int8_t *const *row, int64_t p, few_int four[4]) {
    code_block r0 = some_rows(row, p), r1 = some_rows(row + 1, p), r2 = some_rows(row + 2, p), r3 = some_rows(row + 3, p);
    code_block t0 = INTEGERS(unpacklo_epi32)(r0, r1), t1 = INTEGERS(unpackhi_epi32)(r0, r1);
    code_block t2 = INTEGERS(unpacklo_epi32)(r2, r3), t3 = INTEGERS(unpackhi_epi32)(r2, r3);
    four[0] = (few_int)INTEGERS(unpacklo_epi64)(t0, t2);
    four[1] = (few_int)INTEGERS(unpackhi_epi64)(t0, t2);
    four[2] = (few_int)INTEGERS(unpacklo_epi64)(t1, t3);
    four[3] = (few_int)INTEGERS(unpackhi_epi64)(t1, t3);
}

/* byte b of each lane times 2^24 */
INLINE few_int upper_byte(few_int four, const int b) {
#if MK_VECTOR_BYTES >= 32
    if (b == 3) return four & (int32_t)0xff000000;
    /* within 16 bytes: byte b of each four goes to its end, and the others become 0 */
    const __m128i order = _mm_setr_epi8(-1, -1, -1, (char)b, -1, -1, -1, (char)(b + 4), -1, -1, -1, (char)(b + 8), -1, -1, -1, (char)(b + 12));
    return (few_int)_mm256_shuffle_epi8((__m256i)four, _mm256_broadcastsi128_si256(order));
#else
    return b == 3 ? four & (int32_t)0xff000000 : (four << (24 - 8 * b)) & (int32_t)0xff000000;
#endif
}

#define UPPER 5.9604644775390625e-8f /* 2^-24 */
#define SMALL 7.8886090522101181e-31f /* 2^-100: below it a product with UPPER may lose bits */

/* what mk_quantized's `few` does, for m rows that are known where this is inlined */
INLINE void few_int8_rows(const int m, const mk_weight *w, int64_t first, int64_t n, const mk_real *a, int64_t lda, mk_real *sums) {
    const int8_t *row[INT8_ROWS], *next = (const int8_t *)w->part[0] + (first + 2 * INT8_ROWS) * w->columns;
    _Alignas(64) mk_real most[INT8_ROWS];
    int small = 0;
    few_vec absmax[INT8_GROUPS], upper[INT8_GROUPS], total[MK_CODED_ROWS][INT8_GROUPS], zero = {0};
    const float s = 1.0f / 127.0f;
    for (int r = 0; r < INT8_ROWS; r++) { /* rows that are not there are the last one again */
        int64_t at = first + (r < n ? r : n - 1);
        row[r] = (const int8_t *)w->part[0] + at * w->columns;
        most[r] = ((const mk_real *)w->part[1])[at];
        small |= most[r] != 0 && fabsf(most[r]) < SMALL;
    }
    PRAGMA(GCC unroll 4)
    for (int g = 0; g < INT8_GROUPS; g++) {
        memcpy(&absmax[g], most + g * INT8_LANES, sizeof absmax[g]);
        upper[g] = absmax[g] * UPPER; /* of codes times 2^24: the same products, since the power of two is exact */
        for (int i = 0; i < m; i++) total[i][g] = zero;
    }
    for (int64_t k0 = 0; k0 < w->columns; k0 += MK_KC) {
        int64_t p = k0, end = mk_min(k0 + MK_KC, w->columns);
        few_vec acc[MK_CODED_ROWS][INT8_GROUPS];
        PRAGMA(GCC unroll 4)
        for (int i = 0; i < m; i++)
            PRAGMA(GCC unroll 4)
            for (int g = 0; g < INT8_GROUPS; g++) acc[i][g] = zero;
        for (; !small && p + INT8_STEP <= end; p += INT8_STEP) {
            few_int four[INT8_GROUPS][4];
            /* the rows of the group after the next lie behind each other: they come as one stream */
            for (int i = 0; i < INT8_ROWS * INT8_STEP; i += 64) __builtin_prefetch(next + p * INT8_ROWS + i, 0, 2);
            PRAGMA(GCC unroll 4)
            for (int g = 0; g < INT8_GROUPS; g++) turn_codes(row + g * INT8_LANES, p, four[g]);
            PRAGMA(GCC unroll 16)
            for (int c = 0; c < INT8_STEP; c++) {
                PRAGMA(GCC unroll 4)
                for (int g = 0; g < INT8_GROUPS; g++) {
                    few_vec number = __builtin_convertvector(upper_byte(four[g][c / 4], c % 4), few_vec) * upper[g] * s;
                    PRAGMA(GCC unroll 4)
                    for (int i = 0; i < m; i++) acc[i][g] = few_fma(a[i * lda + p + c], number, acc[i][g]);
                }
            }
        }
        for (; p < end; p++) {
            for (int g = 0; g < INT8_GROUPS; g++) {
                few_vec number;
                for (int l = 0; l < INT8_LANES; l++) number[l] = (mk_real)row[g * INT8_LANES + l][p];
                number = number * absmax[g] * s;
                for (int i = 0; i < m; i++) acc[i][g] = few_fma(a[i * lda + p], number, acc[i][g]);
            }
        }
        for (int i = 0; i < m; i++)
            for (int g = 0; g < INT8_GROUPS; g++) total[i][g] = k0 ? total[i][g] + acc[i][g] : acc[i][g];
    }
    for (int i = 0; i < m; i++)
        for (int g = 0; g < INT8_GROUPS; g++) memcpy(sums + i * MK_GROUP_MAX + g * INT8_LANES, &total[i][g], sizeof total[i][g]);
}

static void few_int8(const mk_weight *w, int64_t row, int64_t n, int64_t m, const mk_real *a, int64_t lda, mk_real *sums) {
    switch (m) {
        case 1: few_int8_rows(1, w, row, n, a, lda, sums); break;
        case 2: few_int8_rows(2, w, row, n, a, lda, sums); break;
        case 3: few_int8_rows(3, w, row, n, a, lda, sums); break;
        default: few_int8_rows(4, w, row, n, a, lda, sums); break;
    }
}
#else
#define few_int8 NULL
#define INT8_ROWS LANES
#endif

struct int8_job {
    const mk_weight *w;
    const mk_real *src;
    void *const *part;
};

/* items are rows */
static void quantize_int8_rows(void *arg, int64_t first, int64_t last) {
    const struct int8_job *j = arg;
    const mk_weight *w = j->w;
    for (int64_t r = first; r < last; r++) {
        const mk_real *x = j->src + r * w->columns;
        int8_t *code = (int8_t *)j->part[0] + r * w->columns;
        float absmax = 0;
        for (int64_t i = 0; i < w->columns; i++) absmax = fmaxf(absmax, fabsf(mk_int8_input((float)x[i])));
        for (int64_t i = 0; i < w->columns; i++) code[i] = mk_int8_code(mk_int8_input((float)x[i]), absmax);
        ((mk_real *)j->part[1])[r] = absmax;
    }
}

static int quantize_int8(mk_exec *e, const mk_weight *w, const mk_real *src, void *const *part) {
    struct int8_job j = {w, src, part};
    mk_for(e, w->rows, 10 * (double)w->columns, quantize_int8_rows, &j);
    return MK_OK;
}
