/* transformer.c - rotary embedding, SwiGLU, attention */
#include "harness.h"

void test_rope(void) {
    static const int64_t heads[][2] = {{1, 2}, {3, 16}, {4, 64}, {2, 6}};
    for (int s = 0; s < 4; s++) {
        int64_t T = 301, H = heads[s][0], k = heads[s][1], ldx = H * k + 5, ldy = H * k + 3;
        mk_real *x = randoms(T * ldx, -1, 1), *y = constant(T * ldy, 9), *z = empty(T * ldx);
        int32_t *pos = integers(T, 0, s == 1 ? 2000 : 50);
        double *freq = malloc((size_t)k / 2 * sizeof *freq), factor = s == 2 ? 1.25 : 1;
        for (int64_t i = 0; i < k / 2; i++) freq[i] = (s == 3 ? 0.5 : 1) * pow(10000, -2.0 * (double)i / (double)k);
        K->rope(E, MK_F32, T, H, k, pos, freq, factor, 1, x, ldx, y, ldy);
        for (int64_t t = 0; t < T; t++)
            for (int64_t h = 0; h < H; h++)
                for (int64_t i = 0; i < k / 2; i++) {
                    double a = pos[t] * freq[i];
                    double u = (double)x[t * ldx + h * k + i];
                    double v = (double)x[t * ldx + h * k + i + k / 2];
                    double want[2] = {factor * (u * cos(a) - v * sin(a)), factor * (v * cos(a) + u * sin(a))};
                    for (int c = 0; c < 2; c++)
                        if (fabs((double)y[t * ldy + h * k + i + c * k / 2] - want[c]) > TOL)
                            fail("rope");
                }
        for (int64_t t = 0; t < T; t++)
            for (int64_t i = H * k; i < ldy; i++) ok(y[t * ldy + i] == 9, "rope stays in its rows");
        record(y, (size_t)(T * ldy) * sizeof *y);
        memcpy(z, x, (size_t)(T * ldx) * sizeof *z);
        K->rope(E, MK_F32, T, H, k, pos, freq, 1 / factor, -1, y, ldy, z, ldx); /* the inverse brings x back */
        for (int64_t i = 0; i < T * ldx; i++)
            if (fabs((double)(z[i] - x[i])) > TOL) fail("rope and back");
        memcpy(z, x, (size_t)(T * ldx) * sizeof *z);
        K->rope(E, MK_F32, T, H, k, pos, freq, factor, 1, z, ldx, z, ldx);
        mk_real *one = empty(H * k);
        K->rope(E, MK_F32, 1, H, k, pos + 77, freq, factor, 1, x + 77 * ldx, ldx, one, H * k);
        same_bits("rope in place", H * k, z + 77 * ldx, y + 77 * ldy);
        same_bits("rope of one row", H * k, one, y + 77 * ldy);
        free(freq);
    }
}

static void swiglu_reference(void *arg, const double *x, double *y) {
    int64_t n = *(int64_t *)arg;
    for (int64_t i = 0; i < n; i++) y[i] = x[i] / (1 + exp(-x[i])) * x[n + i];
}

void test_swiglu(void) {
    int64_t n = 20011;
    mk_real *x = randoms(2 * n, -9, 9), *y = empty(n), *dy = randoms(n, -1, 1), *dx = empty(2 * n);
    double *in = doubles(2 * n, x), *want = doubles(n, NULL);
    swiglu_reference(&n, in, want);
    K->swiglu(E, MK_F32, n, x, x + n, y);
    near_all("swiglu", n, y, want, TOL);
    K->swiglu_bwd(E, MK_F32, n, x, x + n, dy, dx, dx + n);
    gradient("swiglu", swiglu_reference, &n, 2 * n, x, n, dy, dx);
}

struct attention_ref {
    int64_t n_seq, H, G, K, T, S;
    const int32_t *offsets, *keys; /* of T queries and S keys; the same where causal */
    int causal;
    int64_t window;
    double scale, *lse;
};

/* x = q, k, v one after the other */
static void attention_reference(void *arg, const double *x, double *y) {
    struct attention_ref *a = arg;
    const double *q = x, *k = q + a->T * a->H * a->K, *v = k + a->S * a->G * a->K;
    for (int64_t s = 0; s < a->n_seq; s++)
        for (int64_t t = a->offsets[s]; t < a->offsets[s + 1]; t++)
            for (int64_t h = 0; h < a->H; h++) {
                int64_t end = a->causal ? t + 1 : a->keys[s + 1], g = h / (a->H / a->G);
                double sum = 0, *out = y + (t * a->H + h) * a->K;
                for (int64_t c = 0; c < a->K; c++) out[c] = 0;
                int64_t begin = a->window && end - a->window > a->keys[s] ? end - a->window : a->keys[s];
                for (int64_t u = begin; u < end; u++) {
                    double dot = 0, w;
                    for (int64_t c = 0; c < a->K; c++)
                        dot += q[(t * a->H + h) * a->K + c] * k[(u * a->G + g) * a->K + c];
                    sum += w = exp(dot * a->scale);
                    for (int64_t c = 0; c < a->K; c++) out[c] += w * v[(u * a->G + g) * a->K + c];
                }
                for (int64_t c = 0; c < a->K; c++) out[c] /= sum;
                if (a->lse) a->lse[t * a->H + h] = log(sum);
            }
}

/* Steps over keys that lie across, from a cache that holds the first two thirds of each sequence on: the bits of `out`. */
static void attention_over_turned_keys(const int32_t *off, int64_t T, int64_t H, int64_t k, double scale, const int32_t *slot,
                                       const int32_t *pos, int64_t slab, const mk_real *x, const mk_real *kc, const mk_real *out) {
    int64_t n = H * k, wide = (slab / n + 15) / 16 * 16;
    const mk_real *kk = x + T * n, *vv = kk + T * n;
    mk_real *turned = constant(7 * n * wide, NAN), *unused = constant(7 * slab, NAN), *values = constant(7 * slab, NAN), *got = empty(n);
    for (int b = 0; b < 6; b++) {
        int64_t from = off[b] + (off[b + 1] - off[b]) * 2 / 3;
        if (from == off[b + 1]) continue;
        K->cache_put(E, MK_F32, from - off[b], H, k, slot + off[b], pos + off[b], slab, kk + off[b] * n, vv + off[b] * n, unused, values);
        ok(K->turn_keys(E, 1, H, k, slot + from, pos + from, slab, kc, wide, turned) == MK_OK, "turn_keys works");
        for (int64_t t = from; t < off[b + 1]; t++) {
            K->attention_turned(E, 1, H, k, scale, slot + t, pos + t, wide, slab, x + t * n, kk + t * n, vv + t * n, turned, values, got);
            same_bits("attention_turned", n, got, out + t * n);
        }
    }
}

void test_attention(void) {
    static const struct { int64_t H, G, K; int causal; int32_t off[7]; int64_t window; } cases[] = {
        {1, 1, 4, 1, {0, 1, 1, 4, 9, 9, 10}, 0},
        {4, 4, 16, 1, {0, 56, 57, 57, 90, 150, 163}, 0},
        {4, 2, 32, 1, {0, 20, 40, 41, 42, 100, 170}, 0},
        {4, 1, 24, 0, {0, 20, 40, 41, 42, 100, 170}, 0},
        {8, 8, 64, 1, {0, 15, 31, 47, 64, 65, 66}, 0},
        {2, 1, 7, 1, {0, 33, 34, 35, 36, 37, 40}, 0},
        {2, 2, 16, 1, {0, 300, 301, 400, 400, 529, 530}, 0},
        {2, 1, 16, 0, {0, 300, 301, 400, 400, 529, 530}, 0},
        {4, 2, 16, 1, {0, 20, 40, 41, 42, 100, 170}, 1},
        {2, 2, 8, 1, {0, 300, 301, 400, 400, 529, 530}, 4},
        {4, 1, 24, 1, {0, 300, 301, 400, 400, 529, 530}, 131},
        {2, 1, 7, 1, {0, 33, 34, 35, 36, 37, 40}, 64}};
    for (size_t s = 0; s < sizeof cases / sizeof *cases; s++) {
        int64_t H = cases[s].H, G = cases[s].G, k = cases[s].K, T = cases[s].off[6];
        int64_t nq = T * H * k, nk = T * G * k;
        int causal = cases[s].causal;
        const int32_t *off = cases[s].off;
        int64_t window = cases[s].window;
        double scale = 1 / sqrt((double)k);
        mk_real *x = randoms(nq + 2 * nk, -2, 2), *out = empty(nq), *lse = empty(T * H);
        mk_real *dout = randoms(nq, -1, 1), *dx = empty(nq + 2 * nk);
        double *in = doubles(nq + 2 * nk, x), *want = doubles(nq, NULL), *wl = doubles(T * H, NULL);
        struct attention_ref ref = {6, H, G, k, T, T, off, off, causal, cases[s].window, scale, wl};
        const mk_real *kk = x + nq, *vv = x + nq + nk;
        attention_reference(&ref, in, want);
        ref.lse = NULL;
        ok(K->attention(E, MK_F32, 6, off, NULL, NULL, H, G, k, scale, causal, window, x, kk, vv, out, lse) == MK_OK,
           "attention works");
        near_all("attention", nq, out, want, 3 * TOL);
        near_all("attention lse", T * H, lse, wl, 3 * TOL);
        K->attention_bwd(E, MK_F32, 6, off, NULL, H, G, k, scale, causal, window, x, kk, vv, out, lse, dout, dx, dx + nq,
                         dx + nq + nk);
        gradient("attention", attention_reference, &ref, nq + 2 * nk, x, nq, dout, dx);
        /* a sequence alone gives the same bits */
        for (int b = 0; b < 6; b++) {
            int32_t alone[2] = {0, off[b + 1] - off[b]};
            int64_t t0 = off[b], n = alone[1];
            mk_real *o1 = empty(n * H * k), *l1 = empty(n * H);
            K->attention(E, MK_F32, 1, alone, NULL, NULL, H, G, k, scale, causal, window, x + t0 * H * k, kk + t0 * G * k,
                         vv + t0 * G * k, o1, l1);
            same_bits("attention of one sequence", n * H * k, o1, out + t0 * H * k);
            same_bits("lse of one sequence", n * H, l1, lse + t0 * H);
            int32_t from = (int32_t)(n * 2 / 3);
            K->attention(E, MK_F32, 1, alone, NULL, &from, H, G, k, scale, causal, window, x + t0 * H * k, kk + t0 * G * k,
                         vv + t0 * G * k, o1, l1);
            same_bits("attention of the last tokens", (n - from) * H * k, o1 + from * H * k, out + (t0 + from) * H * k);
            for (int64_t i = 0; i < from * H * k; i++)
                if (o1[i] != 0 && o1[i] != out[t0 * H * k + i]) fail("attention of tokens that nobody needs");
        }
        /* the cache: tokens put in position order into shuffled slots, all read at the end and on
        ** the way */
        if (!causal) continue;
        int64_t longest = 0, slab;
        for (int b = 0; b < 6; b++) longest = off[b + 1] - off[b] > longest ? off[b + 1] - off[b] : longest;
        slab = (longest + 3) * G * k;
        mk_real *kc = constant(7 * slab, NAN), *vc = constant(7 * slab, NAN), *o2 = empty(nq);
        int32_t *slot = integers(T, 0, 1), *pos = integers(T, 0, 1);
        static const int32_t place[] = {4, 2, 6, 0, 5, 1};
        for (int b = 0; b < 6; b++)
            for (int32_t t = off[b]; t < off[b + 1]; t++) slot[t] = place[b], pos[t] = t - off[b];
        K->cache_put(E, MK_F32, T, G, k, slot, pos, slab, kk, vv, kc, vc);
        K->attention_cached(E, MK_F32, T, H, G, k, scale, window, slot, pos, slab, x, kc, vc, o2);
        same_bits("attention_cached", nq, o2, out);
        for (int64_t t = 0; t < T; t += 7) {
            mk_real *o3 = empty(H * k);
            K->attention_cached(E, MK_F32, 1, H, G, k, scale, window, slot + t, pos + t, slab, x + t * H * k, kc,
                                vc, o3);
            same_bits("attention_cached of one row", H * k, o3, out + t * H * k);
        }
        if (H == G && k % 16 == 0 && k <= 64 && !window) attention_over_turned_keys(off, T, H, k, scale, slot, pos, slab, x, kc, out);
    }
}

/* keys and values of other tokens than the queries: more of them, fewer, and sequences without a query */
void test_cross_attention(void) {
    static const struct { int64_t H, G, K; int32_t off[6], keys[6]; } cases[] = {
        {1, 1, 4, {0, 1, 1, 4, 9, 10}, {0, 3, 4, 5, 7, 15}},
        {4, 2, 24, {0, 20, 40, 41, 42, 100}, {0, 1, 130, 131, 300, 317}},
        {2, 1, 7, {0, 70, 140, 141, 141, 150}, {0, 5, 8, 72, 73, 140}},
        {4, 4, 16, {0, 64, 128, 200, 201, 202}, {0, 128, 256, 257, 386, 387}}};
    for (size_t s = 0; s < sizeof cases / sizeof *cases; s++) {
        int64_t H = cases[s].H, G = cases[s].G, k = cases[s].K, T = cases[s].off[5], S = cases[s].keys[5];
        int64_t nq = T * H * k, nk = S * G * k;
        const int32_t *off = cases[s].off, *keys = cases[s].keys;
        double scale = 1 / sqrt((double)k);
        mk_real *x = randoms(nq + 2 * nk, -2, 2), *out = empty(nq), *lse = empty(T * H);
        mk_real *dout = randoms(nq, -1, 1), *dx = empty(nq + 2 * nk);
        double *in = doubles(nq + 2 * nk, x), *want = doubles(nq, NULL), *wl = doubles(T * H, NULL);
        struct attention_ref ref = {5, H, G, k, T, S, off, keys, 0, 0, scale, wl};
        const mk_real *kk = x + nq, *vv = x + nq + nk;
        attention_reference(&ref, in, want);
        ref.lse = NULL;
        ok(K->attention(E, MK_F32, 5, off, keys, NULL, H, G, k, scale, 0, 0, x, kk, vv, out, lse) == MK_OK, "cross attention works");
        near_all("cross attention", nq, out, want, 3 * TOL);
        near_all("cross attention lse", T * H, lse, wl, 3 * TOL);
        K->attention_bwd(E, MK_F32, 5, off, keys, H, G, k, scale, 0, 0, x, kk, vv, out, lse, dout, dx, dx + nq, dx + nq + nk);
        gradient("cross attention", attention_reference, &ref, nq + 2 * nk, x, nq, dout, dx);
        for (int b = 0; b < 5; b++) { /* a sequence alone gives the same bits */
            int32_t alone[2] = {0, off[b + 1] - off[b]}, its[2] = {0, keys[b + 1] - keys[b]}, from = alone[1] / 2;
            int64_t t0 = off[b] * H * k, k0 = keys[b] * G * k, n = alone[1] * H * k, skip = from * H * k;
            mk_real *o1 = empty(n), *l1 = empty(alone[1] * H);
            K->attention(E, MK_F32, 1, alone, its, NULL, H, G, k, scale, 0, 0, x + t0, kk + k0, vv + k0, o1, l1);
            same_bits("cross attention of one sequence", n, o1, out + t0);
            K->attention(E, MK_F32, 1, alone, its, &from, H, G, k, scale, 0, 0, x + t0, kk + k0, vv + k0, o1, l1);
            same_bits("cross attention of the last tokens", n - skip, o1 + skip, out + t0 + skip);
        }
    }
}
