/* transformer.c - rotary embedding, SwiGLU, and attention over ragged sequences and over a cache. */
#include "table.h"

/* ---- rotary embedding --------------------------------------------------------------------------- */

struct rope_job {
    int64_t H, K, ldx, ldy;
    const int32_t *pos;
    double theta, sign;
    const mk_real *x;
    mk_real *y;
};

static void rope_range(void *arg, int64_t first, int64_t last) {
    struct rope_job *j = arg;
    int64_t half = j->K / 2;
    for (int64_t i = 0; i < half; i++) {
        double freq = pow(j->theta, -2 * (double)i / (double)j->K);
        for (int64_t t = first; t < last; t++) {
            double angle = (double)j->pos[t] * freq;
            mk_real c = (mk_real)cos(angle), s = (mk_real)(j->sign * sin(angle));
            for (int64_t h = 0; h < j->H; h++) {
                const mk_real *x = j->x + t * j->ldx + h * j->K + i;
                mk_real *y = j->y + t * j->ldy + h * j->K + i;
                mk_real a = x[0], b = x[half];
                y[0] = a * c - b * s;
                y[half] = b * c + a * s;
            }
        }
    }
}

int mk_cpu_rope(mk_env *e, int64_t T, int64_t H, int64_t K, const int32_t *pos, double theta,
                int sign, const mk_real *x, int64_t ldx, mk_real *y, int64_t ldy) {
    struct rope_job j = {H, K, ldx, ldy, pos, theta, sign < 0 ? -1 : 1, x, y};
    mk_for(e, T, 20.0 * (double)K + 2.0 * (double)(H * K), rope_range, &j);
    return MK_OK;
}

/* ---- SwiGLU ------------------------------------------------------------------------------------- */

struct swiglu_job {
    const mk_real *gate, *up, *dy;
    mk_real *y, *dgate, *dup;
};

static mk_real sigmoid(mk_real x) {
    mk_real z = MK_R(exp)(-MK_R(fabs)(x));
    return x >= 0 ? 1 / (1 + z) : z / (1 + z);
}

static void swiglu_range(void *arg, int64_t first, int64_t last) {
    struct swiglu_job *j = arg;
    for (int64_t i = first; i < last; i++) j->y[i] = j->gate[i] * sigmoid(j->gate[i]) * j->up[i];
}

int mk_cpu_swiglu(mk_env *e, int64_t n, const mk_real *gate, const mk_real *up, mk_real *y) {
    struct swiglu_job j = {.gate = gate, .up = up, .y = y};
    mk_for(e, n, 5, swiglu_range, &j);
    return MK_OK;
}

static void swiglu_bwd_range(void *arg, int64_t first, int64_t last) {
    struct swiglu_job *j = arg;
    for (int64_t i = first; i < last; i++) {
        mk_real g = j->gate[i], u = j->up[i], dy = j->dy[i], s = sigmoid(g);
        j->dup[i] = dy * (g * s);
        j->dgate[i] = dy * u * (s * (1 + g * (1 - s)));
    }
}

int mk_cpu_swiglu_bwd(mk_env *e, int64_t n, const mk_real *gate, const mk_real *up,
                      const mk_real *dy, mk_real *dgate, mk_real *dup) {
    struct swiglu_job j = {.gate = gate, .up = up, .dy = dy, .dgate = dgate, .dup = dup};
    mk_for(e, n, 6, swiglu_bwd_range, &j);
    return MK_OK;
}

/* ---- attention ---------------------------------------------------------------------------------- */

#define KEYS 128 /* keys whose scores are held at once */

static mk_real dot(int64_t n, const mk_real *a, const mk_real *b) {
    mk_real s = 0;
    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

/* One query against keys 0 .. n - 1 (row distance ld), in blocks of KEYS with a running maximum.
** Both `attention` and `attention_cached` come here, so their bits agree. */
static void attend(int64_t n, int64_t K, mk_real scale, const mk_real *q, const mk_real *k,
                   const mk_real *v, int64_t ld, mk_real *out, mk_real *lse) {
    mk_real top = (mk_real)-INFINITY, sum = 0, p[KEYS];
    for (int64_t c = 0; c < K; c++) out[c] = 0;
    for (int64_t j0 = 0; j0 < n; j0 += KEYS) {
        int64_t w = mk_min(KEYS, n - j0);
        mk_real high = top;
        for (int64_t j = 0; j < w; j++) {
            p[j] = dot(K, q, k + (j0 + j) * ld) * scale;
            high = p[j] > high ? p[j] : high;
        }
        if (j0 > 0 && high > top) {
            mk_real shrink = MK_R(exp)(top - high);
            sum *= shrink;
            for (int64_t c = 0; c < K; c++) out[c] *= shrink;
        }
        top = high;
        for (int64_t j = 0; j < w; j++) {
            p[j] = MK_R(exp)(p[j] - top);
            sum += p[j];
            for (int64_t c = 0; c < K; c++) out[c] += p[j] * v[(j0 + j) * ld + c];
        }
    }
    mk_real inv = n > 0 ? 1 / sum : 0;
    for (int64_t c = 0; c < K; c++) out[c] *= inv;
    if (lse) *lse = n > 0 ? top + MK_R(log)(sum) : (mk_real)-INFINITY;
}

struct attention_job {
    int64_t n_seq, H, G, K, slab;
    const int32_t *offsets, *slot, *pos;
    mk_real scale;
    int causal;
    const mk_real *q, *k, *v, *out_in, *lse_in, *dout;
    mk_real *out, *lse, *dq, *dk, *dv;
};

/* items are (sequence, query head) pairs */
static void attention_range(void *arg, int64_t first, int64_t last) {
    struct attention_job *j = arg;
    int64_t H = j->H, K = j->K, ld = j->G * K;
    for (int64_t i = first; i < last; i++) {
        int64_t s = i / H, h = i % H, g = h / (H / j->G);
        int64_t t0 = j->offsets[s], t1 = j->offsets[s + 1];
        for (int64_t t = t0; t < t1; t++) {
            int64_t n = j->causal ? t - t0 + 1 : t1 - t0, at = t * H + h;
            attend(n, K, j->scale, j->q + at * K, j->k + t0 * ld + g * K, j->v + t0 * ld + g * K, ld,
                   j->out + at * K, j->lse + at);
        }
    }
}

static double attention_ns(int64_t n_seq, const int32_t *offsets, int64_t K, int causal) {
    double t = (double)offsets[n_seq] / (double)n_seq;
    return t * t * (causal ? 0.5 : 1) * (double)K;
}

int mk_cpu_attention(mk_env *e, int64_t n_seq, const int32_t *offsets, int64_t H, int64_t G,
                     int64_t K, double scale, int causal, const mk_real *q, const mk_real *k,
                     const mk_real *v, mk_real *out, mk_real *lse) {
    struct attention_job j = {.n_seq = n_seq, .H = H, .G = G, .K = K, .offsets = offsets,
                              .scale = (mk_real)scale, .causal = causal, .q = q, .k = k, .v = v,
                              .out = out, .lse = lse};
    if (n_seq <= 0) return MK_OK;
    mk_for(e, n_seq * H, 2 * attention_ns(n_seq, offsets, K, causal) + 50, attention_range, &j);
    return MK_OK;
}

/* items are (sequence, key head) pairs: such a pair owns its rows of dk and dv */
static void attention_bwd_range(void *arg, int64_t first, int64_t last) {
    struct attention_job *j = arg;
    int64_t H = j->H, G = j->G, K = j->K, group = H / G, ld = G * K;
    for (int64_t i = first; i < last; i++) {
        int64_t s = i / G, g = i % G, t0 = j->offsets[s], t1 = j->offsets[s + 1];
        for (int64_t t = t0; t < t1; t++)
            for (int64_t c = 0; c < K; c++) {
                j->dk[t * ld + g * K + c] = 0;
                j->dv[t * ld + g * K + c] = 0;
            }
        for (int64_t h = g * group; h < (g + 1) * group; h++) {
            for (int64_t t = t0; t < t1; t++) {
                int64_t at = (t * H + h) * K, end = j->causal ? t + 1 : t1;
                const mk_real *q = j->q + at, *dout = j->dout + at;
                mk_real *dq = j->dq + at, lse = j->lse_in[t * H + h];
                mk_real delta = dot(K, j->out_in + at, dout);
                for (int64_t c = 0; c < K; c++) dq[c] = 0;
                for (int64_t u = t0; u < end; u++) {
                    const mk_real *k = j->k + u * ld + g * K, *v = j->v + u * ld + g * K;
                    mk_real *dk = j->dk + u * ld + g * K, *dv = j->dv + u * ld + g * K;
                    mk_real p = MK_R(exp)(dot(K, q, k) * j->scale - lse);
                    mk_real ds = p * (dot(K, dout, v) - delta) * j->scale;
                    for (int64_t c = 0; c < K; c++) {
                        dv[c] += p * dout[c];
                        dq[c] += ds * k[c];
                        dk[c] += ds * q[c];
                    }
                }
            }
        }
    }
}

int mk_cpu_attention_bwd(mk_env *e, int64_t n_seq, const int32_t *offsets, int64_t H, int64_t G,
                         int64_t K, double scale, int causal, const mk_real *q, const mk_real *k,
                         const mk_real *v, const mk_real *out, const mk_real *lse,
                         const mk_real *dout, mk_real *dq, mk_real *dk, mk_real *dv) {
    struct attention_job j = {.n_seq = n_seq, .H = H, .G = G, .K = K, .offsets = offsets,
                              .scale = (mk_real)scale, .causal = causal, .q = q, .k = k, .v = v,
                              .out_in = out, .lse_in = lse, .dout = dout, .dq = dq, .dk = dk,
                              .dv = dv};
    if (n_seq <= 0) return MK_OK;
    double ns = 5 * attention_ns(n_seq, offsets, K, causal) * (double)(H / G) + 50;
    mk_for(e, n_seq * G, ns, attention_bwd_range, &j);
    return MK_OK;
}

int mk_cpu_cache_put(mk_env *e, int64_t rows, int64_t G, int64_t K, const int32_t *slot,
                     const int32_t *pos, int64_t slab, const mk_real *k, const mk_real *v,
                     mk_real *kcache, mk_real *vcache) {
    (void)e;
    size_t bytes = (size_t)(G * K) * sizeof(mk_real);
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = slot[r] * slab + pos[r] * G * K;
        memcpy(kcache + at, k + r * G * K, bytes);
        memcpy(vcache + at, v + r * G * K, bytes);
    }
    return MK_OK;
}

/* items are (row, query head) pairs */
static void cached_range(void *arg, int64_t first, int64_t last) {
    struct attention_job *j = arg;
    int64_t H = j->H, K = j->K, ld = j->G * K;
    for (int64_t i = first; i < last; i++) {
        int64_t r = i / H, h = i % H, at = j->slot[r] * j->slab + h / (H / j->G) * K;
        attend((int64_t)j->pos[r] + 1, K, j->scale, j->q + i * K, j->k + at, j->v + at, ld,
               j->out + i * K, NULL);
    }
}

int mk_cpu_attention_cached(mk_env *e, int64_t rows, int64_t H, int64_t G, int64_t K, double scale,
                            const int32_t *slot, const int32_t *pos, int64_t slab, const mk_real *q,
                            const mk_real *kcache, const mk_real *vcache, mk_real *out) {
    struct attention_job j = {.H = H, .G = G, .K = K, .slab = slab, .slot = slot, .pos = pos,
                              .scale = (mk_real)scale, .q = q, .k = kcache, .v = vcache,
                              .out = out};
    if (rows <= 0) return MK_OK;
    double keys = 0;
    for (int64_t r = 0; r < rows; r++) keys += pos[r] + 1;
    mk_for(e, rows * H, 2 * keys / (double)rows * (double)K + 50, cached_range, &j);
    return MK_OK;
}
