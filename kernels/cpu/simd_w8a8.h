/* simd_w8a8.h - products of codes of 8 bits, for the format w8a8. They are integers, so that every way of adding them up gives the
** same sum; a row has at most MK_W8A8_COLUMNS of them, and the sum fits 32 bits. */

/* the largest absolute value of x[n]; NaN where one of them is not finite */
static mk_real largest_of(int64_t n, const mk_real *x) {
    vec most[2] = {v_zero(), v_zero()}, wrong = v_zero(); /* wrong: sums of x - x, which is 0 or NaN */
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        vec a = v_load(x + i), b = v_load(x + i + LANES);
        most[0] = v_max(v_abs(a), most[0]);
        most[1] = v_max(v_abs(b), most[1]);
        wrong += (a - a) + (b - b);
    }
    mk_real largest = max_lanes(v_max(most[0], most[1])), not_finite = 0;
    for (int l = 0; l < LANES; l++) not_finite += wrong[l];
    for (; i < n; i++) {
        not_finite += x[i] - x[i];
        if (MK_R(fabs)(x[i]) > largest) largest = MK_R(fabs)(x[i]);
    }
    return largest + not_finite;
}

static mk_real round_codes(int64_t n, const mk_real *x, int8_t *code, int32_t *sum) {
    mk_real absmax = largest_of(n, x);
    int64_t i = 0;
    *sum = 0;
    if (!(absmax >= MK_W8A8_LEAST)) { /* NaN too */
        memset(code, 0, (size_t)n);
        return absmax != absmax ? absmax : 0;
    }
    const float by = 127.0f / (float)absmax;
#if MK_VECTOR_BYTES == 64 && !defined(MK_REAL_DOUBLE)
    __m512i all = _mm512_setzero_si512();
    for (; i + 16 <= n; i += 16) {
        __m512i four = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(by)));
        all = _mm512_add_epi32(all, four);
        _mm_storeu_si128((void *)(code + i), _mm512_cvtepi32_epi8(four));
    }
    *sum = _mm512_reduce_add_epi32(all);
#endif
    for (; i < n; i++) {
        code[i] = mk_w8a8_code((float)x[i], by);
        *sum += code[i];
    }
    return absmax;
}

/* rows of A and of W whose sums are in registers */
#define DOTS_A 4
#define DOTS_W 4

/* Covers m rows of A and n of W with calls of tile(rows of A, rows of W, k, a, lda, w, ldw, to, ldt, ...), the two rows constants. */
#define COVER(tile, ...)                                                                                                           \
    for (int64_t j = 0; j < n;) {                                                                                                  \
        int four = j + DOTS_W <= n;                                                                                                \
        for (int64_t i = 0; i < m; i += DOTS_A) {                                                                                  \
            const int8_t *ai = a + i * lda, *wj = w + j * ldw;                                                                     \
            int32_t *at = to + i * ldt + j;                                                                                        \
            switch (mk_min(m - i, DOTS_A) * 2 + four) {                                                                            \
                case 2: tile(1, 1, k, ai, lda, wj, ldw, at, ldt __VA_ARGS__); break;                                               \
                case 3: tile(1, DOTS_W, k, ai, lda, wj, ldw, at, ldt __VA_ARGS__); break;                                          \
                case 4: tile(2, 1, k, ai, lda, wj, ldw, at, ldt __VA_ARGS__); break;                                               \
                case 5: tile(2, DOTS_W, k, ai, lda, wj, ldw, at, ldt __VA_ARGS__); break;                                          \
                case 6: tile(3, 1, k, ai, lda, wj, ldw, at, ldt __VA_ARGS__); break;                                               \
                case 7: tile(3, DOTS_W, k, ai, lda, wj, ldw, at, ldt __VA_ARGS__); break;                                          \
                case 8: tile(DOTS_A, 1, k, ai, lda, wj, ldw, at, ldt __VA_ARGS__); break;                                          \
                default: tile(DOTS_A, DOTS_W, k, ai, lda, wj, ldw, at, ldt __VA_ARGS__); break;                                    \
            }                                                                                                                      \
        }                                                                                                                          \
        j += four ? DOTS_W : 1;                                                                                                    \
    }

/* Pairs of products of 16 bits that are added to 32 bits. pmaddubsw, which takes bytes, would saturate. */
#if defined(__x86_64__) && MK_VECTOR_BYTES == 64
#define PAIR_CODES 32
#define PAIRS(op) _mm512_##op
typedef __m512i pairs;
INLINE pairs widened(const int8_t *code) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)code)); }
#elif defined(__x86_64__) && MK_VECTOR_BYTES == 32
#define PAIR_CODES 16
#define PAIRS(op) _mm256_##op
typedef __m256i pairs;
INLINE pairs widened(const int8_t *code) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)code)); }
#elif defined(__x86_64__)
#define PAIR_CODES 8
#define PAIRS(op) _mm_##op
typedef __m128i pairs;
INLINE pairs widened(const int8_t *code) { /* each code becomes the upper byte of 16 bits */
    return _mm_srai_epi16(_mm_unpacklo_epi8(_mm_setzero_si128(), _mm_loadl_epi64((const void *)code)), 8);
}
#endif

INLINE int32_t rest_of(int64_t from, int64_t k, const int8_t *a, const int8_t *w) {
    int32_t total = 0;
    for (int64_t p = from; p < k; p++) total += a[p] * w[p];
    return total;
}

#ifdef PAIRS
INLINE int32_t all_of(pairs v) {
    uint32_t lane[sizeof v / 4], total = 0;
    memcpy(lane, &v, sizeof v);
    for (size_t i = 0; i < sizeof v / 4; i++) total += lane[i];
    return (int32_t)total;
}

INLINE void dots(const int a_rows, const int w_rows, int64_t k, const int8_t *a, int64_t lda, const int8_t *w, int64_t ldw, int32_t *to,
                 int64_t ldt) {
    pairs sum[DOTS_A][DOTS_W], zero = {0};
    int64_t p = 0;
    PRAGMA(GCC unroll 4)
    for (int i = 0; i < a_rows; i++)
        PRAGMA(GCC unroll 4)
        for (int j = 0; j < w_rows; j++) sum[i][j] = zero;
    for (; p + PAIR_CODES <= k; p += PAIR_CODES) {
        pairs wide[DOTS_W];
        PRAGMA(GCC unroll 4)
        for (int j = 0; j < w_rows; j++) wide[j] = widened(w + j * ldw + p);
        PRAGMA(GCC unroll 4)
        for (int i = 0; i < a_rows; i++) {
            pairs x = widened(a + i * lda + p);
            PRAGMA(GCC unroll 4)
            for (int j = 0; j < w_rows; j++) sum[i][j] = PAIRS(add_epi32)(sum[i][j], PAIRS(madd_epi16)(x, wide[j]));
        }
    }
    PRAGMA(GCC unroll 4)
    for (int i = 0; i < a_rows; i++)
        PRAGMA(GCC unroll 4)
        for (int j = 0; j < w_rows; j++) to[i * ldt + j] = all_of(sum[i][j]) + rest_of(p, k, a + i * lda, w + j * ldw);
}
#else
INLINE void dots(const int a_rows, const int w_rows, int64_t k, const int8_t *a, int64_t lda, const int8_t *w, int64_t ldw, int32_t *to,
                 int64_t ldt) {
    for (int i = 0; i < a_rows; i++)
        for (int j = 0; j < w_rows; j++) to[i * ldt + j] = rest_of(0, k, a + i * lda, w + j * ldw);
}
#endif

static void dot_codes(int64_t k, int64_t m, int64_t n, const int8_t *a, int64_t lda, const int32_t *sum, const int8_t *w, int64_t ldw,
                      int32_t *to, int64_t ldt) {
    (void)sum;
    COVER(dots)
}

#if MK_VECTOR_BYTES == 64
/* The instruction multiplies bytes without a sign by those with one: W's codes plus 128 by A's. What that is too much is 128 times the
** sum of A's codes. Sums wrap around on the way; the last one fits. */
#define DOT_CODES_VNNI dot_codes_vnni
#define VNNI __attribute__((target("avx512vnni")))

VNNI INLINE void dots_vnni(const int a_rows, const int w_rows, int64_t k, const int8_t *a, int64_t lda, const int8_t *w, int64_t ldw,
                           int32_t *to, int64_t ldt, const int32_t *sum) {
    __m512i total[DOTS_A][DOTS_W], zero = {0};
    const __m512i sign = _mm512_set1_epi8(-128);
    PRAGMA(GCC unroll 4)
    for (int i = 0; i < a_rows; i++)
        PRAGMA(GCC unroll 4)
        for (int j = 0; j < w_rows; j++) total[i][j] = zero;
    for (int64_t p = 0; p < k; p += 64) {
        __mmask64 some = k - p < 64 ? ((__mmask64)1 << (k - p)) - 1 : ~(__mmask64)0;
        __m512i code[DOTS_W];
        PRAGMA(GCC unroll 4)
        for (int j = 0; j < w_rows; j++) code[j] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(some, w + j * ldw + p), sign);
        PRAGMA(GCC unroll 4)
        for (int i = 0; i < a_rows; i++) {
            __m512i x = _mm512_maskz_loadu_epi8(some, a + i * lda + p);
            PRAGMA(GCC unroll 4)
            for (int j = 0; j < w_rows; j++) total[i][j] = _mm512_dpbusd_epi32(total[i][j], code[j], x);
        }
    }
    PRAGMA(GCC unroll 4)
    for (int i = 0; i < a_rows; i++)
        PRAGMA(GCC unroll 4)
        for (int j = 0; j < w_rows; j++)
            to[i * ldt + j] = (int32_t)((uint32_t)_mm512_reduce_add_epi32(total[i][j]) - ((uint32_t)sum[i] << 7));
}

/* the same for one row of A: the rows of W come one after the other, since the processor reads ahead of one stream best */
VNNI INLINE void one_row_vnni(int64_t k, int64_t n, const int8_t *a, const int32_t *sum, const int8_t *w, int64_t ldw, int32_t *to) {
    const __m512i sign = _mm512_set1_epi8(-128);
    for (int64_t j = 0; j < n; j++, w += ldw) {
        __m512i total[4] = {{0}};
        int64_t p = 0;
        for (; p + 256 <= k; p += 256) {
            PRAGMA(GCC unroll 4)
            for (int i = 0; i < 4; i++) {
                __m512i code = _mm512_xor_si512(_mm512_loadu_si512(w + p + 64 * i), sign);
                total[i] = _mm512_dpbusd_epi32(total[i], code, _mm512_loadu_si512(a + p + 64 * i));
            }
        }
        for (; p < k; p += 64) {
            __mmask64 some = k - p < 64 ? ((__mmask64)1 << (k - p)) - 1 : ~(__mmask64)0;
            __m512i code = _mm512_xor_si512(_mm512_maskz_loadu_epi8(some, w + p), sign);
            total[0] = _mm512_dpbusd_epi32(total[0], code, _mm512_maskz_loadu_epi8(some, a + p));
        }
        __m512i all = _mm512_add_epi32(_mm512_add_epi32(total[0], total[1]), _mm512_add_epi32(total[2], total[3]));
        to[j] = (int32_t)((uint32_t)_mm512_reduce_add_epi32(all) - ((uint32_t)*sum << 7));
    }
}

VNNI static void dot_codes_vnni(int64_t k, int64_t m, int64_t n, const int8_t *a, int64_t lda, const int32_t *sum, const int8_t *w,
                                int64_t ldw, int32_t *to, int64_t ldt) {
    if (m == 1) one_row_vnni(k, n, a, sum, w, ldw, to);
    else COVER(dots_vnni, , sum + i)
}
#else
#define DOT_CODES_VNNI NULL
#endif
