/* head.c - log-probabilities, entropy and KL of logits; sampling */
#include "harness.h"
#include "philox.h"

struct head_ref { int64_t rows, V; double inv_temp; const int32_t *target; const double *other; int what; };

/* y[r] = log-probability (0), entropy (1), KL from the other logits (2) */
static void head_reference(void *arg, const double *x, double *y) {
    struct head_ref *a = arg;
    for (int64_t r = 0; r < a->rows; r++) {
        double lse[2] = {0, 0};
        for (int side = 0; side < 2; side++) {
            const double *z = side ? a->other : x;
            if (!z) continue;
            double top = -INFINITY;
            for (int64_t i = 0; i < a->V; i++) top = fmax(top, z[r * a->V + i] * a->inv_temp);
            for (int64_t i = 0; i < a->V; i++) lse[side] += exp(z[r * a->V + i] * a->inv_temp - top);
            lse[side] = log(lse[side]) + top;
        }
        y[r] = 0;
        if (a->what == 0 && a->target[r] >= 0)
            y[r] = x[r * a->V + a->target[r]] * a->inv_temp - lse[0];
        for (int64_t i = 0; a->what > 0 && i < a->V; i++) {
            double lp = x[r * a->V + i] * a->inv_temp - lse[0];
            if (isinf(lp)) continue;
            y[r] += a->what == 1 ? -exp(lp) * lp
                                 : exp(lp) * (lp - (a->other[r * a->V + i] * a->inv_temp - lse[1]));
        }
    }
}

void test_head(void) {
    static const int64_t shapes[][2] = {{1, 1}, {5, 7}, {9, 64}, {200, 501}, {3, 4000}};
    for (int s = 0; s < 5; s++) {
        int64_t R = shapes[s][0], V = shapes[s][1], n = R * V;
        double it = s % 2 ? 1 : 1 / 0.7;
        mk_real *x = randoms(n, -5, 5), *q = randoms(n, -5, 5), *lp = empty(R), *ent = empty(R);
        mk_real *lse = empty(R), *kl = empty(R), *lse2 = empty(R), *lp2 = empty(R);
        int32_t *target = integers(R, 0, V);
        if (R > 3) target[2] = -1;
        double *in = doubles(n, x), *other = doubles(n, q), *want = doubles(R, NULL);
        struct head_ref ref = {R, V, (double)(mk_real)it, target, other, 0};
        K->logprob(E, R, V, x, it, target, lp, ent, lse);
        head_reference(&ref, in, want);
        near_all("logprob", R, lp, want, TOL);
        ref.what = 1;
        head_reference(&ref, in, want);
        near_all("entropy", R, ent, want, TOL);
        K->logprob(E, R, V, x, it, target, lp2, NULL, lse2);
        same_bits("logprob without entropy", R, lp, lp2);
        same_bits("lse without entropy", R, lse, lse2);
        K->logprob(E, 1, V, x + (R - 1) * V, it, target + R - 1, lp2, ent, lse2);
        same_bits("logprob of one row", 1, lp2, lp + R - 1);
        K->logprob(E, R, V, x, it, target, lp, ent, lse);

        mk_real *da = randoms(R, -1, 1), *db = randoms(R, -1, 1), *dx = empty(n);
        K->logprob_bwd(E, R, V, x, NULL, it, target, ent, lse, NULL, NULL, da, NULL, NULL, dx);
        ref.what = 0;
        gradient("logprob", head_reference, &ref, n, x, R, da, dx);
        K->logprob_bwd(E, R, V, x, NULL, it, target, ent, lse, NULL, NULL, NULL, db, NULL, dx);
        ref.what = 1;
        gradient("entropy", head_reference, &ref, n, x, R, db, dx);
        mk_real *both = empty(n), *first = empty(n);
        K->logprob_bwd(E, R, V, x, NULL, it, target, ent, lse, NULL, NULL, da, NULL, NULL, first);
        K->logprob_bwd(E, R, V, x, NULL, it, target, ent, lse, NULL, NULL, da, db, NULL, both);
        for (int64_t i = 0; i < n; i++)
            if (fabs((double)(both[i] - (first[i] + dx[i]))) > TOL) fail("both gradients add up");
        mk_real *place = copy_of(n, x);
        K->logprob_bwd(E, R, V, place, NULL, it, target, ent, lse, NULL, NULL, da, db, NULL, place);
        same_bits("logprob_bwd in place", n, place, both);

        mk_real *ref_lse = empty(R), *ignored = empty(R);
        K->logprob(E, R, V, q, it, target, ignored, NULL, ref_lse);
        K->kl(E, R, V, x, q, it, lse, ref_lse, kl);
        ref.what = 2;
        head_reference(&ref, in, want);
        near_all("kl", R, kl, want, 3 * TOL);
        K->logprob_bwd(E, R, V, x, q, it, target, ent, lse, ref_lse, kl, NULL, NULL, da, dx);
        gradient("kl", head_reference, &ref, n, x, R, da, dx);
        mk_real *all = empty(n);
        K->logprob_bwd(E, R, V, x, q, it, target, ent, lse, ref_lse, kl, da, db, da, all);
        for (int64_t i = 0; i < n; i++)
            if (fabs((double)(all[i] - (both[i] + dx[i]))) > TOL) fail("all three gradients add up");
        K->kl(E, R, V, x, x, it, lse, lse, kl);
        for (int64_t r = 0; r < R; r++) ok(fabs((double)kl[r]) < 1e-6, "kl with itself is 0");
    }
    /* a forbidden token (-inf) takes no probability and makes no NaN */
    mk_real x[] = {1, (mk_real)-INFINITY, 2, 0}, q[] = {0, (mk_real)-INFINITY, 1, 0}, lp, ent, lse;
    mk_real kl, ref_lse, dx[4], one = 1, half = (mk_real)0.5;
    int32_t target = 2;
    K->logprob(E, 1, 4, x, 1, &target, &lp, &ent, &lse);
    K->logprob_bwd(E, 1, 4, x, NULL, 1, &target, &ent, &lse, NULL, NULL, &one, &half, NULL, dx);
    ok(isfinite(lp) && isfinite(ent) && isfinite(dx[0]) && dx[1] == 0, "-inf logits");
    K->logprob(E, 1, 4, q, 1, &target, &lp, NULL, &ref_lse);
    K->kl(E, 1, 4, x, q, 1, &lse, &ref_lse, &kl);
    K->logprob_bwd(E, 1, 4, x, q, 1, &target, &ent, &lse, &ref_lse, &kl, NULL, NULL, &one, dx);
    ok(isfinite(kl) && kl > 0 && isfinite(dx[3]) && dx[1] == 0, "-inf logits in kl");
}

static int by_size(const void *a, const void *b) {
    const double *u = a, *v = b;
    return u[0] != v[0] ? (u[0] < v[0] ? 1 : -1) : (u[1] > v[1] ? 1 : -1);
}

void test_sample(void) {
    int64_t R = 4000, V = 50;
    static const struct { double it, top_p; int64_t top_k; } cuts[] = {
        {1, 1, 0}, {1.4, 1, 7}, {1, 0.8, 0}, {0.9, 0.6, 20}, {1, 1e-9, 0}, {1, 0.5, 1}, {0, 1, 0}};
    mk_real *row = randoms(V, -2, 2), *x = empty(R * V);
    row[7] = row[9] = row[3]; /* ties */
    for (int64_t i = 0; i < R * V; i++) x[i] = row[i % V];
    int32_t *id = integers(R, 0, 1), *token = integers(R, 0, 1), *again = integers(R, 0, 1);
    for (int64_t r = 0; r < R; r++) id[r] = (int32_t)(r * 3);
    for (int c = 0; c < 7; c++) {
        double it = cuts[c].it, order[50][2], p[50] = {0}, total = 0, kept = 0, chi = 0;
        ok(K->sample(E, R, V, x, it, cuts[c].top_k, cuts[c].top_p, 99, 5, id, token) == MK_OK,
           "sample works");
        record(token, (size_t)R * sizeof *token);
        for (int64_t i = 0; i < V; i++) order[i][0] = exp((double)row[i] * it), order[i][1] = (double)i;
        qsort(order, (size_t)V, sizeof order[0], by_size);
        int64_t k = cuts[c].top_k > 0 ? cuts[c].top_k : V, n_kept = 0;
        if (it <= 0) k = 1;
        for (int64_t i = 0; i < k; i++) total += order[i][0];
        for (int64_t i = 0; i < k && (i == 0 || kept < cuts[c].top_p * total); i++, n_kept++) {
            kept += order[i][0];
            p[(int)order[i][1]] = order[i][0];
        }
        if (it <= 0)
            for (int i = 0; i < V; i++) p[i] = 0;
        if (it <= 0) {
            int best = 0;
            for (int i = 1; i < V; i++)
                if (row[i] > row[best]) best = i;
            p[best] = kept = 1;
            n_kept = 1;
        }
        double count[50] = {0};
        for (int64_t r = 0; r < R; r++) {
            ok(token[r] >= 0 && token[r] < V && p[token[r]] > 0, "only kept tokens are drawn");
            count[token[r]]++;
            /* the inverse transform itself, in double */
            double u = mk_unit(mk_philox(5, (uint32_t)id[r], 0, 0, 99).w[0]), run = 0;
            int64_t at = 0;
            for (; at < V - 1; at++) {
                run += p[at] / kept;
                if (run > u) break;
            }
            if (at != token[r] && fabs(run - u) > 1e-5 && fabs(run - p[at] / kept - u) > 1e-5)
                fail("row %d drew %d, the inverse transform gives %d", (int)r, token[r], (int)at);
        }
        for (int64_t i = 0; i < V; i++)
            if (p[i] > 0) {
                double want = (double)R * p[i] / kept;
                chi += (count[i] - want) * (count[i] - want) / want;
            }
        ok(chi < (double)n_kept + 5 * sqrt(2.0 * (double)n_kept) + 5, "frequencies follow p");
        for (int64_t r = 0; r < R; r += 97) {
            K->sample(E, 1, V, x, it, cuts[c].top_k, cuts[c].top_p, 99, 5, id + r, again);
            ok(again[0] == token[r], "a draw depends on its row id alone");
        }
    }
}
