/* sets.c - all instruction sets with fused multiply-adds give the same bits */
#include "harness.h"
#include "simd_short.h"

#ifdef MK_SIMD_X86

#define N_MAX 1600
#define OUT_MAX (128 * N_MAX)

/* what the loops of one set give for one length; `out` has room for all of it */
struct results {
    mk_real *out;
    int64_t used;
};

static mk_real *room(struct results *r, int64_t n) {
    mk_real *to = r->out + r->used;
    r->used += n;
    if (r->used > OUT_MAX) {
        fail("more than %d results", OUT_MAX);
        exit(1);
    }
    return to;
}
/* a copy of x that a loop may change */
static mk_real *changed(struct results *r, int64_t n, const mk_real *x) {
    return memcpy(room(r, n), x, (size_t)n * sizeof *x);
}
static void one(struct results *r, double v) {
    memcpy(room(r, (int64_t)(sizeof v / sizeof(mk_real))), &v, sizeof v);
}

struct inputs {
    int64_t n;
    const mk_real *x, *y, *w, *positive; /* [n] each; x has what overflows exp and what underflows it */
};

static void rows_of(const struct mk_simd *s, const struct inputs *in, struct results *r) {
    int64_t n = in->n;
    mk_real mean, entropy, *y, *dx;
    one(r, (double)s->argmax(n, in->x));
    for (int log_form = 0; log_form < 2; log_form++) {
        y = room(r, n);
        s->softmax(n, in->x, y, log_form);
        s->softmax_bwd(n, y, in->y, room(r, n), log_form);
    }
    one(r, s->rmsnorm(n, in->y, in->w, 1e-6, room(r, n)));
    dx = room(r, n);
    s->rmsnorm_bwd(n, in->y, in->w, (mk_real)0.7, in->x, dx, changed(r, n, in->w));
    one(r, s->layernorm(n, in->y, in->w, in->x, 1e-5, room(r, n), &mean));
    one(r, mean);
    dx = room(r, n);
    s->layernorm_bwd(n, in->y, in->w, (mk_real)0.1, (mk_real)0.7, in->x, dx, changed(r, n, in->w), changed(r, n, in->y));
    mk_real lse = s->log_sum_exp(n, in->x, (mk_real)0.9, NULL), lse_q = s->log_sum_exp(n, in->y, (mk_real)0.9, &entropy);
    one(r, lse);
    one(r, lse_q);
    one(r, entropy);
    mk_real kl = s->kl(n, in->x, in->y, (mk_real)0.9, lse, lse_q);
    one(r, kl);
    for (int b = 0; b < 4; b++) {
        struct mk_head_row row = {.inv_temp = (mk_real)0.9, .lse = lse, .a = (mk_real)0.3, .b = (mk_real)(b & 1), .h = (mk_real)1.5,
                                  .target = n / 2, .ref = b & 2 ? in->y : NULL, .ref_lse = lse_q, .kl = kl, .c = (mk_real)0.2};
        s->logprob_bwd(n, in->x, &row, room(r, n));
    }
    s->weights(n, in->x, (mk_real)0.9, room(r, n));
    one(r, s->dot(n, in->x, in->y));
    s->scale(n, (mk_real)1.7, changed(r, n, in->x));
    one(r, s->sum(n, in->x));
    one(r, s->sumsq(n, in->x));
}

/* one query, its keys in two blocks */
static void attention_of(const struct mk_simd *s, const struct inputs *in, struct results *r) {
    int64_t n = in->n, padded = mk_ceil_div(n, s->lanes) * s->lanes;
    mk_real top = (mk_real)-INFINITY, sum = 0, *scores = empty(padded), *other = empty(padded);
    mk_real *out = changed(r, n, in->w);
    for (int block = 0; block < 2; block++) {
        memset(scores, 0, (size_t)padded * sizeof *scores);
        memcpy(scores, block ? in->x : in->y, (size_t)n * sizeof *scores);
        s->attend(n, padded, (mk_real)0.25, scores, &top, &sum, n, out);
        changed(r, n, scores);
        one(r, top);
        one(r, sum);
    }
    memset(other, 0, (size_t)padded * sizeof *other);
    memcpy(scores, in->y, (size_t)n * sizeof *scores);
    memcpy(other, in->w, (size_t)n * sizeof *other);
    s->attend_bwd(n, padded, (mk_real)0.25, (mk_real)3, (mk_real)0.4, scores, other);
    changed(r, n, scores);
    changed(r, n, other);
    for (int64_t half = 1; half <= 8 && 2 * half <= n; half *= 2)
        s->rotate(n / (2 * half), half, in->x, in->y, in->w, room(r, n / (2 * half) * 2 * half));
}

static void maps_of(const struct mk_simd *s, const struct inputs *in, struct results *r) {
    int64_t n = in->n;
    for (int op = MK_NEG; op <= MK_CLAMP; op++) {
        const mk_real *x = op == MK_SQRT || op == MK_RSQRT || op == MK_LOG || op == MK_POW_SCALAR ? in->positive : in->x;
        mk_real *y = room(r, n);
        s->unary((mk_unary)op, n, x, y, (mk_real)-0.5, (mk_real)1.5);
        s->unary_bwd((mk_unary)op, n, x, y, in->y, room(r, n), (mk_real)-0.5, (mk_real)1.5);
    }
    for (int op = MK_ADD; op <= MK_GE; op++) s->binary((mk_binary)op, n, in->positive, 1, in->y, 1, room(r, n));
    s->axpy(n, (mk_real)0.3, in->x, changed(r, n, in->y));
    s->axpby(n, (mk_real)0.3, in->x, (mk_real)0.7, changed(r, n, in->y));
    mk_real *up = room(r, n);
    s->swiglu(n, in->x, in->y, up);
    s->swiglu_bwd(n, in->x, in->y, in->w, up, room(r, n));
    struct mk_adamw step = {(mk_real)0.5, (mk_real)0.9, (mk_real)0.999, (mk_real)0.1, (mk_real)0.001,
                            (mk_real)0.99, (mk_real)0.01, (mk_real)1.2, (mk_real)1e-8};
    mk_real *p = changed(r, n, in->x), *m = changed(r, n, in->y);
    s->adamw(n, &step, p, in->w, m, changed(r, n, in->positive));
}

/* C[m, n] of k products each, its columns those of B = x y w ... */
static void products_of(const struct mk_simd *s, const struct inputs *in, struct results *r) {
    int64_t n = mk_min(in->n, 70), k = 9, m = 7, wide = 128;
    mk_real *b = constant(k * wide, 0);
    struct mk_blend blend = {(mk_real)1.1, (mk_real)0.3, 0, 0};
    for (int64_t p = 0; p < k; p++)
        memcpy(b + p * wide, p % 3 == 0 ? in->y : p % 3 == 1 ? in->w : in->positive, (size_t)n * sizeof *b);
    for (int kind = 0; kind < 3; kind++) {
        mk_real *c = room(r, m * n);
        for (int64_t i = 0; i < m * n; i++) c[i] = in->w[i % in->n];
        mk_sweep(s, m, n, k, b, wide, 1, b, wide, c, n, kind == 0 ? NULL : kind == 1 ? &mk_add : &blend);
    }
}

static void compare(const char *what, const struct mk_simd *a, const struct mk_simd *b, const struct inputs *in,
                    void (*loops)(const struct mk_simd *, const struct inputs *, struct results *)) {
    struct results ra = {constant(OUT_MAX, 0), 0}, rb = {constant(OUT_MAX, 0), 0};
    loops(a, in, &ra);
    loops(b, in, &rb);
    for (int64_t i = 0; i < ra.used; i++)
        if (memcmp(ra.out + i, rb.out + i, sizeof *ra.out) && !(isnan(ra.out[i]) && isnan(rb.out[i]))) {
            fail("%s of %d elements: %s and %s differ at %d of %d results: %.9g, %.9g", what, (int)in->n, a->name, b->name,
                 (int)i, (int)ra.used, (double)ra.out[i], (double)rb.out[i]);
            return;
        }
}

void test_sets(void) {
    static const int64_t lengths[] = {1, 2, 3, 5, 8, 11, 16, 17, 31, 48, 77, 130, 515, 827, N_MAX};
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return;
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        int64_t n = lengths[l];
        mk_real *x = randoms(n, -6, 6), *positive = randoms(n, 0.01, 4);
        for (int64_t i = 3; i < n; i += 7) x[i] = (mk_real)(uniform() * 220 - 110); /* exp is 0, subnormal, infinite */
        struct inputs in = {n, x, randoms(n, -6, 6), randoms(n, -1, 1), positive};
        const struct mk_simd *others[] = {&mk_simd_short, mk_simd()};
        for (int o = 0; o < 2; o++) {
            if (others[o] == &mk_simd_base) continue; /* without fused multiply-adds: MOCL_ISA=base */
            compare("rows", &mk_simd_avx2, others[o], &in, rows_of);
            compare("attention", &mk_simd_avx2, others[o], &in, attention_of);
            compare("maps", &mk_simd_avx2, others[o], &in, maps_of);
            compare("products", &mk_simd_avx2, others[o], &in, products_of);
        }
        buffers_free();
    }
}

#else
void test_sets(void) {} /* there is one */
#endif
