/* simd_rows.h - the inner loops over one row: softmax, norms, the head, attention's softmax.
**
** Long sums go through float lanes for SUM_RUN elements at a time and through a double from there.
*/
#define SUM_RUN ((int64_t)(2048 / sizeof(mk_real)))

/* i steps over the vectors of a row; the last one may be partial */
#define FOR_VECTORS(n) for (int64_t i = 0; i < (n); i += LANES)
/* the same from element first to end - 1 for a sum: vector i belongs to part k */
#define FOR_PARTS(first, end)                                                                     \
    for (int64_t at_ = (first); at_ < (end); at_ += PARTS * LANES)                                \
        UNROLL_PARTS for (int64_t k = 0, i = at_; k < PARTS && i < (end); k++, i += LANES)
/* the runs of a row's sum: first to end - 1 */
#define FOR_RUNS(n)                                                                               \
    for (int64_t first = 0, end = mk_min((n), SUM_RUN); first < (n);                              \
         first = end, end = mk_min((n), end + SUM_RUN))
INLINE vec load_at(const mk_real *x, int64_t i, int64_t n) {
    return n - i >= LANES ? v_load(x + i) : v_load_part(x + i, n - i);
}
INLINE void store_at(mk_real *x, int64_t i, int64_t n, vec v) {
    if (n - i >= LANES)
        v_store(x + i, v);
    else
        v_store_part(x + i, v, n - i);
}
INLINE vec keep_at(vec v, int64_t i, int64_t n, mk_real other) {
    return n - i >= LANES ? v : v_first(v, n - i, other);
}

/* in four chains, since one would wait for itself */
INLINE mk_real row_max(int64_t n, const mk_real *x) {
    vec top[4];
    int64_t i = 0;
    PRAGMA(GCC unroll 4)
    for (int k = 0; k < 4; k++) top[k] = v_set1((mk_real)-INFINITY);
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        PRAGMA(GCC unroll 4)
        for (int k = 0; k < 4; k++) top[k] = v_max(v_load(x + i + k * LANES), top[k]);
    for (; i < n; i += LANES) top[0] = v_max(keep_at(load_at(x, i, n), i, n, (mk_real)-INFINITY), top[0]);
    return max_lanes(v_max(v_max(top[1], top[0]), v_max(top[3], top[2])));
}

static int64_t row_argmax(int64_t n, const mk_real *x) {
    vec top = v_set1((mk_real)-INFINITY);
    ivec at = {0};
    mk_real value[MK_VECTOR_BYTES / sizeof(mk_real)];
    int64_t best = 0;
    int lane = 0;
    if (x[0] != x[0]) return 0;
    FOR_VECTORS(n) {
        vec v = keep_at(load_at(x, i, n), i, n, (mk_real)-INFINITY);
        ivec more = (ivec)(v > top);
        at = (more & (lane_int)i) | (~more & at);
        top = v_max(v, top);
    }
    v_store(value, top);
    for (int l = 0; l < LANES; l++) {
        int64_t i = at[l] + l;
        if (l > 0 && !(value[l] > value[lane] || (value[l] == value[lane] && i < best))) continue;
        lane = l;
        best = i;
    }
    return best;
}

/* sum of `term` (a vec expression in i, 0 beyond n) over the row, as a double */
#define ROW_SUM(total, n, term)                                                                   \
    FOR_RUNS(n) {                                                                                 \
        vec acc_[PARTS] = {0};                                                                    \
        FOR_PARTS(first, end) acc_[k] += (term);                                                  \
        total += (double)sum_lanes(acc_);                                                         \
    }

static void softmax(int64_t n, const mk_real *x, mk_real *y, int log_form) {
    vec top = v_set1(row_max(n, x));
    double sum = 0;
    if (log_form) {
        ROW_SUM(sum, n, keep_at(v_exp(load_at(x, i, n) - top), i, n, 0));
        vec log_sum = v_set1((mk_real)log(sum));
        FOR_VECTORS(n) store_at(y, i, n, (load_at(x, i, n) - top) - log_sum);
        return;
    }
    FOR_RUNS(n) {
        vec acc[PARTS] = {0};
        FOR_PARTS(first, end) {
            vec e = keep_at(v_exp(load_at(x, i, n) - top), i, n, 0);
            store_at(y, i, n, e);
            acc[k] += e;
        }
        sum += (double)sum_lanes(acc);
    }
    vec inv = v_set1((mk_real)(1 / sum));
    FOR_VECTORS(n) store_at(y, i, n, load_at(y, i, n) * inv);
}

static void softmax_bwd(int64_t n, const mk_real *y, const mk_real *dy, mk_real *dx, int log_form) {
    double sum = 0;
    if (log_form) {
        ROW_SUM(sum, n, load_at(dy, i, n));
        vec s = v_set1((mk_real)sum);
        FOR_VECTORS(n) store_at(dx, i, n, load_at(dy, i, n) - v_exp(load_at(y, i, n)) * s);
    } else {
        ROW_SUM(sum, n, load_at(y, i, n) * load_at(dy, i, n));
        vec s = v_set1((mk_real)sum);
        FOR_VECTORS(n) store_at(dx, i, n, load_at(y, i, n) * (load_at(dy, i, n) - s));
    }
}

/* ---- norms -------------------------------------------------------------------------------------- */

INLINE vec times(vec v, const mk_real *w, int64_t i, int64_t n) {
    return w ? v * load_at(w, i, n) : v;
}

static mk_real rmsnorm(int64_t n, const mk_real *x, const mk_real *w, double eps, mk_real *y) {
    double sum = 0;
    ROW_SUM(sum, n, load_at(x, i, n) * load_at(x, i, n));
    mk_real rstd = (mk_real)(1 / sqrt(sum / (double)n + eps));
    vec s = v_set1(rstd);
    FOR_VECTORS(n) store_at(y, i, n, times(load_at(x, i, n) * s, w, i, n));
    return rstd;
}

/* With g = w dy and h = x rstd: dx = rstd (g - h mean(g h)). */
static void rmsnorm_bwd(int64_t n, const mk_real *x, const mk_real *w, mk_real rstd,
                        const mk_real *dy, mk_real *dx, mk_real *dw) {
    double sum = 0;
    ROW_SUM(sum, n, times(load_at(dy, i, n), w, i, n) * load_at(x, i, n));
    vec s = v_set1(rstd);
    vec c = v_set1((mk_real)(sum * (double)rstd * (double)rstd / (double)n));
    FOR_VECTORS(n) {
        vec d = load_at(dy, i, n), v = load_at(x, i, n);
        if (dw) store_at(dw, i, n, load_at(dw, i, n) + d * (v * s));
        store_at(dx, i, n, s * (times(d, w, i, n) - v * c));
    }
}

static mk_real layernorm(int64_t n, const mk_real *x, const mk_real *w, const mk_real *b, double eps,
                         mk_real *y, mk_real *mean) {
    double sum = 0, squares = 0;
    ROW_SUM(sum, n, load_at(x, i, n));
    *mean = (mk_real)(sum / (double)n);
    vec m = v_set1(*mean);
    ROW_SUM(squares, n,
            keep_at((load_at(x, i, n) - m) * (load_at(x, i, n) - m), i, n, 0));
    mk_real rstd = (mk_real)(1 / sqrt(squares / (double)n + eps));
    vec s = v_set1(rstd);
    FOR_VECTORS(n) {
        vec v = times((load_at(x, i, n) - m) * s, w, i, n);
        store_at(y, i, n, b ? v + load_at(b, i, n) : v);
    }
    return rstd;
}

/* With g = w dy and h = (x - mean) rstd: dx = rstd (g - mean(g) - h mean(g h)). */
static void layernorm_bwd(int64_t n, const mk_real *x, const mk_real *w, mk_real mean, mk_real rstd,
                          const mk_real *dy, mk_real *dx, mk_real *dw, mk_real *db) {
    double sum = 0, product = 0;
    vec m = v_set1(mean), s = v_set1(rstd);
    ROW_SUM(sum, n, times(load_at(dy, i, n), w, i, n));
    ROW_SUM(product, n, times(load_at(dy, i, n), w, i, n) * ((load_at(x, i, n) - m) * s));
    vec c0 = v_set1((mk_real)(sum / (double)n)), c1 = v_set1((mk_real)(product / (double)n));
    FOR_VECTORS(n) {
        vec d = load_at(dy, i, n), h = (load_at(x, i, n) - m) * s;
        if (dw) store_at(dw, i, n, load_at(dw, i, n) + d * h);
        if (db) store_at(db, i, n, load_at(db, i, n) + d);
        store_at(dx, i, n, s * (times(d, w, i, n) - c0 - h * c1));
    }
}

/* ---- the head ----------------------------------------------------------------------------------- */

/* The entropy comes from the same pass: with e = exp(z - top), S = sum e and T = sum e (z - top) it is
** log S - T / S, both terms positive. A logit of -inf has e = 0 and must not make 0 times infinity. */
static mk_real log_sum_exp(int64_t n, const mk_real *x, mk_real inv_temp, mk_real *entropy) {
    vec it = v_set1(inv_temp), top = v_set1(row_max(n, x) * inv_temp), low = v_set1(-1000);
    double sum = 0, weighted = 0;
    FOR_RUNS(n) {
        vec acc[PARTS] = {0}, acc_w[PARTS] = {0};
        if (entropy) {
            FOR_PARTS(first, end) {
                vec z = load_at(x, i, n) * it - top, e = keep_at(v_exp(z), i, n, 0);
                acc[k] += e;
                acc_w[k] += e * v_max(low, z);
            }
        } else {
            FOR_PARTS(first, end) acc[k] += keep_at(v_exp(load_at(x, i, n) * it - top), i, n, 0);
        }
        sum += (double)sum_lanes(acc);
        weighted += (double)sum_lanes(acc_w);
    }
    double log_sum = log(sum);
    if (entropy) *entropy = (mk_real)(log_sum - weighted / sum);
    return (mk_real)((double)top[0] + log_sum);
}

/* p (lp - lq), 0 where p is 0 */
INLINE vec log_ratio(vec p, vec lp, vec lq) {
    return (vec)((ivec)(p > v_zero()) & (ivec)(lp - lq));
}

static mk_real kl(int64_t n, const mk_real *x, const mk_real *ref, mk_real inv_temp, mk_real lse_p,
                  mk_real lse_q) {
    vec it = v_set1(inv_temp), a = v_set1(lse_p), b = v_set1(lse_q);
    double sum = 0;
    FOR_RUNS(n) {
        vec acc[PARTS] = {0};
        FOR_PARTS(first, end) {
            vec lp = load_at(x, i, n) * it - a, lq = load_at(ref, i, n) * it - b;
            vec p = keep_at(v_exp(lp), i, n, 0);
            acc[k] += p * log_ratio(p, lp, lq);
        }
        sum += (double)sum_lanes(acc);
    }
    return (mk_real)sum;
}

/* `entropy` and `ref` are constants wherever this is inlined */
INLINE void head_bwd(const int entropy, const int ref, int64_t n, const mk_real *x, const struct mk_head_row *row, mk_real *dx) {
    vec it = v_set1(row->inv_temp), l = v_set1(row->lse), av = v_set1(-row->a), bv = v_set1(-row->b), hv = v_set1(row->h);
    vec low = v_set1(-1000), lq = v_set1(row->ref_lse), k = v_set1(row->kl), cv = v_set1(row->c);
    FOR_VECTORS(n) {
        vec lp = load_at(x, i, n) * it - l, p = v_exp(lp), d = entropy ? p * v_fma(bv, v_max(low, lp) + hv, av) : p * av;
        if ((uint64_t)(row->target - i) < (uint64_t)LANES) d[row->target - i] += row->a;
        if (ref) d = v_fma(cv * p, log_ratio(p, lp, load_at(row->ref, i, n) * it - lq) - k, d);
        store_at(dx, i, n, d);
    }
}

static void logprob_bwd(int64_t n, const mk_real *x, const struct mk_head_row *row, mk_real *dx) {
    if (row->b != 0 && row->ref) head_bwd(1, 1, n, x, row, dx);
    else if (row->b != 0) head_bwd(1, 0, n, x, row, dx);
    else if (row->ref) head_bwd(0, 1, n, x, row, dx);
    else head_bwd(0, 0, n, x, row, dx);
}

static void weights(int64_t n, const mk_real *x, mk_real inv_temp, mk_real *p) {
    vec it = v_set1(inv_temp), top = v_set1(row_max(n, x) * inv_temp);
    FOR_VECTORS(n) store_at(p, i, n, v_exp(load_at(x, i, n) * it - top));
}

/* ---- attention ---------------------------------------------------------------------------------- */

static void attend(int64_t n, int64_t padded, mk_real scale, mk_real *s, mk_real *top, mk_real *sum,
                   int64_t K, mk_real *out) {
    mk_real before = *top, high;
    vec sc = v_set1(scale), hv = v_set1((mk_real)-INFINITY), acc[PARTS] = {0};
    FOR_VECTORS(n) hv = v_max(keep_at(v_load(s + i) * sc, i, n, (mk_real)-INFINITY), hv);
    high = max_lanes(hv);
    high = high > before ? high : before;
    hv = v_set1(high);
    FOR_PARTS(0, n) {
        vec p = keep_at(v_exp(v_load(s + i) * sc - hv), i, n, 0);
        v_store(s + i, p);
        acc[k] += p;
    }
    for (int64_t i = (n + LANES - 1) / LANES * LANES; i < padded; i += LANES) v_store(s + i, v_zero());
    mk_real add = sum_lanes(acc);
    if (before == (mk_real)-INFINITY) {
        *sum = add;
    } else {
        mk_real shrink = v_exp(v_set1(before - high))[0];
        *sum = *sum * shrink + add;
        if (shrink != 1) {
            vec by = v_set1(shrink);
            for (int64_t i = 0; i < K; i += LANES) store_at(out, i, K, load_at(out, i, K) * by);
        }
    }
    *top = high;
}

/* `heads` heads of `vectors` vectors each, both constants wherever this is inlined: one chain of multiply-adds for each
** vector, and as many of them side by side as hide the latency of one */
INLINE void weigh_heads(const int heads, const int vectors, int64_t n, int64_t K, const mk_real *p, int64_t ldp,
                        const mk_real *v, int64_t ldv, mk_real *out, int add) {
    vec acc[8];
    PRAGMA(GCC unroll 8)
    for (int i = 0; i < heads * vectors; i++) acc[i] = v_zero();
    for (int64_t j = 0; j < n; j++, v += ldv) {
        PRAGMA(GCC unroll 8)
        for (int h = 0; h < heads; h++) {
            vec by = v_set1(p[h * ldp + j]);
            PRAGMA(GCC unroll 8)
            for (int i = 0; i < vectors; i++)
                acc[h * vectors + i] = v_fma(by, v_load(v + h * K + i * LANES), acc[h * vectors + i]);
        }
    }
    PRAGMA(GCC unroll 8)
    for (int h = 0; h < heads; h++)
        PRAGMA(GCC unroll 8)
        for (int i = 0; i < vectors; i++) {
            mk_real *to = out + h * K + i * LANES;
            v_store(to, add ? acc[h * vectors + i] + v_load(to) : acc[h * vectors + i]);
        }
}

static void weigh(int64_t n, int64_t heads, int64_t K, const mk_real *p, int64_t ldp, const mk_real *v, int64_t ldv,
                  mk_real *out, int add) {
    int64_t h = 0;
    if (K == LANES)
        for (; h + 8 <= heads; h += 8) weigh_heads(8, 1, n, K, p + h * ldp, ldp, v + h * K, ldv, out + h * K, add);
    if (K == LANES)
        for (; h + 4 <= heads; h += 4) weigh_heads(4, 1, n, K, p + h * ldp, ldp, v + h * K, ldv, out + h * K, add);
    if (K == 2 * LANES)
        for (; h + 4 <= heads; h += 4) weigh_heads(4, 2, n, K, p + h * ldp, ldp, v + h * K, ldv, out + h * K, add);
    if (K == 4 * LANES)
        for (; h + 2 <= heads; h += 2) weigh_heads(2, 4, n, K, p + h * ldp, ldp, v + h * K, ldv, out + h * K, add);
    for (; h < heads; h++)
        for (int64_t d = 0; d < K; d += LANES)
            weigh_heads(1, 1, n, K, p + h * ldp, ldp, v + h * K + d, ldv, out + h * K + d, add);
}

static void attend_bwd(int64_t n, int64_t padded, mk_real scale, mk_real lse, mk_real delta,
                       mk_real *s, mk_real *dp) {
    vec sc = v_set1(scale), l = v_set1(lse), d = v_set1(delta);
    FOR_VECTORS(n) {
        vec p = keep_at(v_exp(v_load(s + i) * sc - l), i, n, 0);
        v_store(s + i, p);
        v_store(dp + i, keep_at(p * (v_load(dp + i) - d) * sc, i, n, 0));
    }
    for (int64_t i = (n + LANES - 1) / LANES * LANES; i < padded; i += LANES) {
        v_store(s + i, v_zero());
        v_store(dp + i, v_zero());
    }
}

static mk_real dot(int64_t n, const mk_real *a, const mk_real *b) {
    vec acc[PARTS] = {0};
    FOR_PARTS(0, n) acc[k] = v_fma(load_at(a, i, n), load_at(b, i, n), acc[k]);
    return sum_lanes(acc);
}

static void scale_row(int64_t n, mk_real by, mk_real *x) {
    vec v = v_set1(by);
    FOR_VECTORS(n) store_at(x, i, n, load_at(x, i, n) * v);
}

static void rotate(int64_t H, int64_t half, const mk_real *x, const mk_real *cs, const mk_real *sn,
                   mk_real *y) {
    if (2 * half == LANES) { /* a head is one vector: the same products and sums with its halves swapped */
        mk_real c2[LANES], s2[LANES];
        ivec swap;
        for (int i = 0; i < LANES; i++) {
            swap[i] = (i + LANES / 2) % LANES;
            c2[i] = cs[i % (LANES / 2)];
            s2[i] = i < LANES / 2 ? -sn[i] : sn[i - LANES / 2];
        }
        vec c = v_load(c2), s = v_load(s2);
        for (int64_t h = 0; h < H; h++) {
            vec v = v_load(x + h * LANES);
            v_store(y + h * LANES, v * c + __builtin_shuffle(v, swap) * s);
        }
        return;
    }
    for (int64_t h = 0; h < H; h++, x += 2 * half, y += 2 * half)
        FOR_VECTORS(half) {
            vec a = load_at(x, i, half), b = load_at(x + half, i, half);
            vec c = load_at(cs, i, half), s = load_at(sn, i, half);
            store_at(y, i, half, a * c - b * s);
            store_at(y + half, i, half, b * c + a * s);
        }
}
