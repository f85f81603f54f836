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
