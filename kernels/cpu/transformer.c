/* transformer.c - rotary embedding and SwiGLU. Attention is in attention.c. */
#include "simd.h"

#include "table.h"

/* ---- rotary embedding --------------------------------------------------------------------------- */

struct rope_job {
    int64_t H, K, ldx, ldy;
    const int32_t *pos;
    int32_t first_pos; /* the table's first position, when rows of the table are positions */
    int by_position;
    mk_real sign;
    const double *freq; /* [K / 2] */
    double factor;
    mk_real *table; /* rows of cos [K / 2] and sin [K / 2] */
    mk_dtype type;
    const mk_real *x;
    mk_real *y;
};

static void table_range(void *arg, int64_t first, int64_t last) {
    struct rope_job *j = arg;
    int64_t half = j->K / 2;
    for (int64_t r = first; r < last; r++) {
        double pos = j->by_position ? (double)(j->first_pos + r) : (double)j->pos[r];
        mk_real *cs = j->table + r * j->K, *sn = cs + half;
        for (int64_t i = 0; i < half; i++) {
            cs[i] = (mk_real)(j->factor * cos(pos * j->freq[i]));
            sn[i] = j->sign * (mk_real)(j->factor * sin(pos * j->freq[i]));
        }
    }
}

/* some heads of a row at a time, in f32 */
static void rotate_bf16(const struct rope_job *j, int64_t t, const mk_real *cs) {
    const struct mk_simd *simd = mk_simd();
    mk_real room[MK_BF16_CHUNK];
    int64_t some = MK_BF16_CHUNK / j->K;
    for (int64_t h = 0; h < j->H; h += some) {
        int64_t heads = mk_min(some, j->H - h), at = h * j->K;
        simd->from_bf16(heads * j->K, (const mk_bf16 *)(const void *)j->x + t * j->ldx + at, room);
        simd->rotate(heads, j->K / 2, room, cs, cs + j->K / 2, room);
        simd->to_bf16(heads * j->K, room, (mk_bf16 *)(void *)j->y + t * j->ldy + at);
    }
}

static void rope_range(void *arg, int64_t first, int64_t last) {
    struct rope_job *j = arg;
    const struct mk_simd *simd = mk_simd();
    for (int64_t t = first; t < last; t++) {
        int64_t row = j->by_position ? j->pos[t] - j->first_pos : t;
        const mk_real *cs = j->table + row * j->K;
        if (j->type == MK_BF16) rotate_bf16(j, t, cs);
        else simd->rotate(j->H, j->K / 2, j->x + t * j->ldx, cs, cs + j->K / 2, j->y + t * j->ldy);
    }
}

int mk_cpu_rope(mk_exec *e, mk_dtype type, int64_t T, int64_t H, int64_t K, const int32_t *pos, const double *freq,
                double factor, int sign, const void *x, int64_t ldx, void *y, int64_t ldy) {
    if (type != MK_F32 && K > MK_BF16_CHUNK) return MK_UNSUPPORTED;
    struct rope_job j = {.type = type, .H = H, .K = K, .ldx = ldx, .ldy = ldy, .pos = pos, .freq = freq,
                         .factor = factor, .sign = sign < 0 ? -1 : 1, .x = x, .y = y};
    int32_t lo, hi;
    int64_t rows = T, half = K / 2;
    if (T <= 0 || half <= 0) return MK_OK;
    lo = hi = pos[0];
    for (int64_t t = 1; t < T; t++) {
        lo = pos[t] < lo ? pos[t] : lo;
        hi = pos[t] > hi ? pos[t] : hi;
    }
    if ((int64_t)hi - lo < T) { /* tokens share positions: one row for each position */
        j.by_position = 1;
        j.first_pos = lo;
        rows = (int64_t)hi - lo + 1;
    }
    j.table = mk_scratch(e, (size_t)(rows * K) * sizeof *j.table);
    if (!j.table) return MK_NOMEM;
    mk_for(e, rows, 20.0 * (double)K, table_range, &j);
    mk_for(e, T, 5 + 0.3 * (double)(H * K), rope_range, &j);
    return MK_OK;
}

/* ---- SwiGLU ------------------------------------------------------------------------------------- */

struct swiglu_job {
    const mk_real *gate, *up, *dy;
    mk_real *y, *dgate, *dup;
};

/* MK_BF16_CHUNK numbers at a time, in f32: `dy` where it is the gradient */
static void swiglu_bf16(void *arg, int64_t first, int64_t last) {
    struct swiglu_job *j = arg;
    const struct mk_simd *s = mk_simd();
    mk_real gate[MK_BF16_CHUNK], up[MK_BF16_CHUNK];
    for (int64_t at = first; at < last; at += MK_BF16_CHUNK) {
        int64_t n = mk_min(MK_BF16_CHUNK, last - at);
        s->from_bf16(n, (const mk_bf16 *)(const void *)j->gate + at, gate);
        s->from_bf16(n, (const mk_bf16 *)(const void *)j->up + at, up);
        if (j->dy) {
            s->swiglu_bwd(n, gate, up, j->dy + at, j->dgate + at, j->dup + at);
        } else {
            s->swiglu(n, gate, up, gate);
            s->to_bf16(n, gate, (mk_bf16 *)(void *)j->y + at);
        }
    }
}

static void swiglu_range(void *arg, int64_t first, int64_t last) {
    struct swiglu_job *j = arg;
    mk_simd()->swiglu(last - first, j->gate + first, j->up + first, j->y + first);
}

int mk_cpu_swiglu(mk_exec *e, mk_dtype type, int64_t n, const void *gate, const void *up, void *y) {
    struct swiglu_job j = {.gate = gate, .up = up, .y = y};
    mk_for(e, n, 1, type == MK_BF16 ? swiglu_bf16 : swiglu_range, &j);
    return MK_OK;
}

static void swiglu_bwd_range(void *arg, int64_t first, int64_t last) {
    struct swiglu_job *j = arg;
    mk_simd()->swiglu_bwd(last - first, j->gate + first, j->up + first, j->dy + first,
                          j->dgate + first, j->dup + first);
}

int mk_cpu_swiglu_bwd(mk_exec *e, mk_dtype type, int64_t n, const void *gate, const void *up,
                      const mk_real *dy, mk_real *dgate, mk_real *dup) {
    struct swiglu_job j = {.gate = gate, .up = up, .dy = dy, .dgate = dgate, .dup = dup};
    mk_for(e, n, 1.5, type == MK_BF16 ? swiglu_bf16 : swiglu_bwd_range, &j);
    return MK_OK;
}
