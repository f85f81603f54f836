/* training.c - random numbers, PPO, optimisers */
#include "harness.h"
#include "philox.h"

void test_random(void) {
    /* known answers of Philox4x32-10 (Random123's kat_vectors) */
    mk_philox4 w = mk_philox(0, 0, 0, 0, 0);
    ok(w.w[0] == 0x6627e8d5 && w.w[1] == 0xe169c58d && w.w[2] == 0xbc57ac4c && w.w[3] == 0x9b00dbd8,
       "philox of zeros");
    w = mk_philox(0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffffffffffffu);
    ok(w.w[0] == 0x408f276d && w.w[1] == 0x41c83b0e && w.w[2] == 0xa20bc7c6 && w.w[3] == 0x6d5451fd,
       "philox of ones");
    int64_t n = 200003;
    mk_real *x = empty(n), *y = empty(n);
    K->rand_uniform(E, n, 7, 3, -2, 5, x);
    record(x, (size_t)n * sizeof *x);
    double mean = 0, sq = 0;
    for (int64_t i = 0; i < n; i++) {
        ok(x[i] >= -2 && x[i] < 5, "uniform stays inside");
        mean += (double)x[i] / (double)n;
        sq += (double)x[i] * (double)x[i] / (double)n;
    }
    ok(fabs(mean - 1.5) < 0.02 && fabs(sq - mean * mean - 49.0 / 12) < 0.05, "uniform moments");
    w = mk_philox(25000, 0, 3, 0, 7);
    ok(fabs((double)x[100002] - (-2 + 7 * mk_unit(w.w[2]))) < 1e-6, "uniform counter");
    K->rand_uniform(E, 100, 7, 3, -2, 5, y);
    same_bits("a shorter stream", 100, x, y);
    K->rand_normal(E, n, 7, 3, 1, 2, x);
    record(x, (size_t)n * sizeof *x);
    double cube = 0, four = 0;
    mean = sq = 0;
    for (int64_t i = 0; i < n; i++) {
        double z = ((double)x[i] - 1) / 2;
        mean += z / (double)n;
        sq += z * z / (double)n;
        cube += z * z * z / (double)n;
        four += z * z * z * z / (double)n;
    }
    ok(fabs(mean) < 0.012 && fabs(sq - 1) < 0.015 && fabs(cube) < 0.04 && fabs(four - 3) < 0.1,
       "normal moments");
    double kept = 0;
    mk_real *d = empty(n), *d2;
    K->dropout(E, MK_F32, n, 0.3, 11, 2, x, d);
    record(d, (size_t)n * sizeof *d);
    for (int64_t i = 0; i < n; i++) {
        double u = mk_unit(mk_philox((uint32_t)(i / 4), 0, 2, 0, 11).w[i % 4]);
        double want = u < 0.3 ? 0 : (double)x[i] / 0.7;
        kept += d[i] != 0;
        if (fabs((double)d[i] - want) > TOL * (1 + fabs(want))) fail("dropout");
    }
    ok(fabs(kept / (double)n - 0.7) < 0.005, "dropout keeps 1 - p");
    d2 = copy_of(n, x);
    K->dropout(E, MK_F32, n, 0.3, 11, 2, d2, d2);
    same_bits("dropout in place", n, d, d2);
}

void test_ppo(void) {
    int32_t off[] = {0, 1, 1, 6, 200};
    int64_t T = 200, n = 3;
    mk_real *r = randoms(T * n, -1, 1), *v = randoms(T * n, -1, 1), *adv = empty(T * n);
    mk_real *ret = empty(T * n);
    double *want = doubles(T * n, NULL), *back = doubles(T * n, NULL);
    K->gae(E, 4, off, n, r, v, 0.97, 0.9, adv, ret);
    for (int s = 0; s < 4; s++) /* the sum of discounted temporal differences, written out */
        for (int64_t t = off[s]; t < off[s + 1]; t++)
            for (int64_t c = 0; c < n; c++) {
                for (int64_t l = t; l < off[s + 1]; l++) {
                    double next = l + 1 < off[s + 1] ? (double)v[(l + 1) * n + c] : 0;
                    double delta = (double)r[l * n + c] + 0.97 * next - (double)v[l * n + c];
                    want[t * n + c] += pow(0.97 * 0.9, (double)(l - t)) * delta;
                }
                back[t * n + c] = want[t * n + c] + (double)v[t * n + c];
            }
    near_all("gae", T * n, adv, want, TOL);
    near_all("returns", T * n, ret, back, TOL);

    int64_t m = 1000;
    mk_real *lp = randoms(m, -2, 0), *old = randoms(m, -2, 0), *a = randoms(m, -1, 1);
    mk_real *loss = empty(m), *dlp = empty(m), *ratio = empty(m), *clipped = empty(m);
    double *wl = doubles(m, NULL), *wd = doubles(m, NULL), *wz = doubles(m, NULL);
    K->ppo_clip(E, m, 0.2, lp, old, a, loss, dlp, ratio, clipped);
    for (int64_t i = 0; i < m; i++) {
        double l[3], A = (double)a[i];
        for (int side = 0; side < 3; side++) {
            double z = exp((double)lp[i] - (double)old[i] + (side - 1) * 1e-6);
            l[side] = -fmin(z * A, fmin(fmax(z, 0.8), 1.2) * A);
            if (side == 1) wz[i] = z;
        }
        wl[i] = l[1];
        wd[i] = (l[2] - l[0]) / 2e-6;
        ok((clipped[i] != 0) == (l[1] != -wz[i] * A), "clipped says where the clip is active");
    }
    near_all("ppo loss", m, loss, wl, TOL);
    near_all("ppo gradient", m, dlp, wd, GRAD_TOL);
    near_all("ppo ratio", m, ratio, wz, TOL);
}

void test_optimisers(void) {
    int64_t n = 5003;
    mk_real *p = randoms(n, -1, 1), *m = constant(n, 0), *v = constant(n, 0), *buf = empty(n);
    double *wp = doubles(n, p), *wm = doubles(n, m), *wv = doubles(n, v), *wb = doubles(n, v);
    for (int step = 1; step <= 5; step++) {
        mk_real *g = randoms(n, -3, 3);
        mk_parameter list[] = {{17, p, g, m, v}, {0, NULL, NULL, NULL, NULL}, {n - 17, p + 17, g + 17, m + 17, v + 17}};
        K->adamw(E, 3, list, 0.01, 0.9, 0.999, 1e-8, 0.1, step, 0.5);
        for (int64_t i = 0; i < n; i++) {
            double d = 0.5 * (double)g[i];
            wp[i] -= 0.01 * 0.1 * wp[i];
            wm[i] = 0.9 * wm[i] + 0.1 * d;
            wv[i] = 0.999 * wv[i] + 0.001 * d * d;
            wp[i] -= 0.01 * (wm[i] / (1 - pow(0.9, step))) /
                     (sqrt(wv[i] / (1 - pow(0.999, step))) + 1e-8);
        }
        near_all("adamw p", n, p, wp, 5 * TOL);
        near_all("adamw m", n, m, wm, 5 * TOL);
        near_all("adamw v", n, v, wv, 5 * TOL);
    }
    /* moments that have decayed to nothing count as 0, and what is not a number still shows */
    mk_real sp[] = {1, 1, 1}, sg[] = {0, 0, (mk_real)NAN}, sm[] = {(mk_real)1e-30, 1, 0}, sv[] = {(mk_real)1e-36, 1, 0};
    K->adamw(E, 1, &(mk_parameter){3, sp, sg, sm, sv}, 0.01, 0.9, 0.999, 1e-8, 0, 900, 1);
    ok(sp[0] == 1 && sm[0] == 0 && sv[0] == 0, "adamw: tiny moments");
    ok(sm[1] > 0 && sv[1] > 0 && isnan(sp[2]) && isnan(sm[2]) && isnan(sv[2]), "adamw: NaN");
    for (int step = 1; step <= 4; step++) {
        mk_real *g = randoms(n, -3, 3);
        K->sgd(E, n, p, g, buf, 0.1, 0.8, 0.01, step == 1, 2);
        for (int64_t i = 0; i < n; i++) {
            double d = 2 * (double)g[i] + 0.01 * wp[i];
            wb[i] = step == 1 ? d : 0.8 * wb[i] + d;
            wp[i] -= 0.1 * wb[i];
        }
        near_all("sgd p", n, p, wp, 10 * TOL);
    }
    for (int64_t len = 0; len < n; len = len * 3 + 1) {
        double got = -1, want = 0;
        mk_parameter list[] = {{len / 3, NULL, p, NULL, NULL}, {len - len / 3, NULL, p + len / 3, NULL, NULL}};
        ok(K->sumsq(E, 2, list, &got) == MK_OK, "sumsq works");
        for (int64_t i = 0; i < len; i++) want += (double)p[i] * (double)p[i];
        ok(fabs(got - want) <= 1e-12 * (1 + want), "sumsq");
        record(&got, sizeof got);
    }
}
