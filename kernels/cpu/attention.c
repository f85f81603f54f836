/* attention.c - attention over ragged sequences and over a cache, and its gradient.
**
** Everything is products of small tiles: scores of a few queries against a block of keys, a softmax that
** carries a running maximum from block to block, then the weighted sum of values. Blocks are counted
** from the start of the sequence, and a tile's elements do not depend on its height, so a token gets the
** same bits from `attention`, whatever its neighbours, and from `attention_cached`.
*/
#include "simd.h"

#include "table.h"

#define QUERIES 64      /* query rows of one call of attend_rows, and of a block of the gradient */
#define KEYS 128        /* keys of a block */
#define KEYS_BWD 64     /* the same for the gradient */
#define CHUNK 64        /* elements of a head that are packed at once */
#define GROUP 12        /* rows that share a limit on the keys they see */

struct attention_job {
    int64_t H, G, K, slab;
    const int32_t *offsets, *keys, *from, *slot, *pos; /* keys: offsets too where they are of the same tokens */
    mk_real scale;
    int causal;
    int64_t window, wide;
    const mk_real *q, *k, *v, *out_in, *lse_in, *dout;
    mk_real *out, *lse, *dq, *dk, *dv, *turned, *values;
    mk_dtype type;
    mk_real *room; /* of bf16: queries and results of a block of items, which are room_items */
    int64_t room_items;
    int32_t *block; /* (sequence, first token within it) of each block of QUERIES tokens */
};

static int64_t whole_vectors(const struct mk_simd *s, int64_t n) {
    return mk_ceil_div(n, s->lanes) * s->lanes;
}

/* Rows of `n` elements that may be read in whole vectors: src itself if its rows are, else a copy. */
static const mk_real *readable(const struct mk_simd *s, int64_t rows, int64_t n, const mk_real *src,
                               int64_t *ld, mk_real *copy) {
    if (n % s->lanes == 0) return src;
    int64_t wide = whole_vectors(s, n);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(copy + r * wide, src + r * *ld, (size_t)n * sizeof *copy);
        for (int64_t i = n; i < wide; i++) copy[r * wide + i] = 0;
    }
    *ld = wide;
    return copy;
}

/* Rows of `n` numbers of bf16 as f32, CHUNK apart and readable in whole vectors. */
static const mk_real *widened(const struct mk_simd *s, int64_t rows, int64_t n, const mk_bf16 *src, int64_t ld, mk_real *to) {
    for (int64_t r = 0; r < rows; r++) {
        s->from_bf16(n, src + r * ld, to + r * CHUNK);
        for (int64_t i = n; i < whole_vectors(s, n); i++) to[r * CHUNK + i] = 0;
    }
    return to;
}

/* The keys that row i sees: those before first + i step, step 0 or 1, and of them the last `window` where that is not 0. */
struct view {
    int64_t first, step, window;
};
static int64_t sees(struct view w, int64_t i) { return w.first + i * w.step; }
static int64_t lowest(struct view w, int64_t i) { return w.window > 0 ? mk_max(0, sees(w, i) - w.window) : 0; }

/* Scores of row i against n keys from j0 on, of which its window hides some: those become such that they weigh nothing. False, with
** weights of 0, where it hides them all. */
static int look(struct view w, int64_t i, int64_t j0, int64_t n, int64_t wide, mk_real *score) {
    int64_t hidden = lowest(w, i) - j0;
    int none = hidden >= n;
    for (int64_t j = 0; j < (none ? wide : hidden); j++) score[j] = none ? 0 : (mk_real)-INFINITY;
    return !none;
}

/* ---- forward ------------------------------------------------------------------------------------ */

/* Query rows i < rows <= QUERIES (distance ldq) against one head's keys and values (distance ld), which are of `type`. lse
** (distance ld_lse) may be NULL. */
static void attend_rows(const struct mk_simd *s, int64_t rows, struct view view, int64_t K,
                        mk_real scale, const mk_real *q, int64_t ldq, mk_dtype type, const void *k,
                        const void *v, int64_t ld, mk_real *out, int64_t ldo, mk_real *lse,
                        int64_t ld_lse) {
    _Alignas(64) mk_real pack[KEYS * CHUNK], score[QUERIES * KEYS], wide_rows[KEYS * CHUNK];
    mk_real top[QUERIES], sum[QUERIES];
    int64_t total = sees(view, rows - 1), start = lowest(view, 0) / KEYS * KEYS;
    for (int64_t i = 0; i < rows; i++) top[i] = (mk_real)-INFINITY;
    for (int64_t j0 = start; j0 < total; j0 += KEYS) {
        int64_t n = mk_min(KEYS, total - j0), wide = whole_vectors(s, n);
        int64_t i0 = 0; /* the rows before see none of this block */
        while (sees(view, i0) <= j0) i0++;
        for (int64_t d = 0; d < K; d += CHUNK) {
            int64_t depth = mk_min(CHUNK, K - d), at = j0 * ld + d, ldk = type == MK_F32 ? ld : CHUNK;
            const mk_real *keys = type == MK_F32 ? (const mk_real *)k + at : widened(s, n, depth, (const mk_bf16 *)k + at, ld, wide_rows);
            if (rows == 1) { /* the keys times one column, the query: the same chains, and nothing to pack */
                memcpy(pack, q + d, (size_t)depth * sizeof *pack);
                /* a tile reads whole vectors: what else they hold must not be subnormal, which is slow */
                memset(pack + depth, 0, (size_t)s->lanes * sizeof *pack);
                mk_sweep(s, n, 1, depth, keys, ldk, 1, pack, 1, score, 1, d > 0 ? &mk_add : NULL);
                continue;
            }
            s->pack_transposed(depth, n, wide, keys, ldk, pack, KEYS);
            for (int64_t i = i0; i < rows; i += GROUP) {
                int64_t m = mk_min(GROUP, rows - i);
                int64_t seen = mk_min(n, sees(view, i + m - 1) - j0);
                mk_sweep(s, m, whole_vectors(s, seen), depth, q + i * ldq + d, ldq, 1, pack, KEYS,
                         score + i * KEYS, KEYS, d > 0 ? &mk_add : NULL);
            }
        }
        for (int64_t i = i0; i < rows; i++)
            if (!view.window || look(view, i, j0, n, wide, score + i * KEYS))
                s->attend(mk_min(n, sees(view, i) - j0), wide, scale, score + i * KEYS, top + i, sum + i,
                      K, out + i * ldo);
        for (int64_t d = 0; d < K; d += CHUNK) {
            int64_t width = mk_min(CHUNK, K - d), ldv = type == MK_F32 ? ld : CHUNK, at = j0 * ld + d;
            const mk_real *vals = type == MK_F32 ? readable(s, n, width, (const mk_real *)v + at, &ldv, pack)
                                                 : widened(s, n, width, (const mk_bf16 *)v + at, ld, wide_rows);
            for (int64_t i = i0; i < rows; i += GROUP) {
                int64_t m = mk_min(GROUP, rows - i);
                int64_t seen = mk_min(n, sees(view, i + m - 1) - j0);
                mk_sweep(s, m, width, seen, score + i * KEYS, KEYS, 1, vals, ldv, out + i * ldo + d,
                         ldo, j0 > start ? &mk_add : NULL);
            }
        }
    }
    for (int64_t i = 0; i < rows; i++) {
        s->scale(K, 1 / sum[i], out + i * ldo);
        if (lse) lse[i * ld_lse] = top[i] + MK_R(log)(sum[i]);
    }
}

/* items are (block of tokens, query head) pairs */
static void attention_range(void *arg, int64_t first, int64_t last) {
    struct attention_job *j = arg;
    int64_t H = j->H, K = j->K, ld = j->G * K;
    for (int64_t item = first; item < last; item++) {
        const int32_t *block = j->block + item / H * 2;
        int64_t h = item % H, g = h / (H / j->G), t0 = j->offsets[block[0]], k0 = j->keys[block[0]];
        int64_t length = j->offsets[block[0] + 1] - t0, t = block[1], at = ((t0 + t) * H + h);
        int64_t rows = mk_min(QUERIES, length - t), skip = j->from ? mk_min(rows, mk_max(0, j->from[block[0]] - t)) : 0;
        for (int64_t i = 0; i < skip; i++, at += H) {
            memset(j->out + at * K, 0, (size_t)K * sizeof *j->out);
            j->lse[at] = 0;
        }
        if (skip == rows) continue;
        struct view view = {j->causal ? t + skip + 1 : j->keys[block[0] + 1] - k0, j->causal ? 1 : 0, j->window};
        attend_rows(mk_simd(), rows - skip, view, K, j->scale, j->q + at * K, H * K, MK_F32,
                    j->k + k0 * ld + g * K, j->v + k0 * ld + g * K, ld, j->out + at * K, H * K,
                    j->lse + at, H);
    }
}

/* nanoseconds for all of one head, about */
static double head_ns(int64_t n_seq, const int32_t *offsets, const int32_t *keys, int64_t K, int causal) {
    double sum = 0;
    for (int64_t s = 0; s < n_seq; s++) {
        sum += (double)(offsets[s + 1] - offsets[s]) * (double)(keys[s + 1] - keys[s]) * (causal ? 0.5 : 1);
    }
    return sum * (0.15 + 0.03 * (double)K) + 20.0 * (double)offsets[n_seq];
}

/* *x = the n numbers of bf16 as f32, in `to` */
static void widen_all(mk_exec *e, int64_t n, const void *from, mk_real *to, const mk_real **x) {
    mk_cpu_cast(e, n, MK_BF16, from, MK_F32, to);
    *x = to;
}

int mk_cpu_attention(mk_exec *e, mk_dtype type, int64_t n_seq, const int32_t *offsets, const int32_t *keys, const int32_t *from,
                     int64_t H, int64_t G, int64_t K, double scale, int causal, int64_t window, const void *q, const void *k,
                     const void *v, void *out, mk_real *lse) {
    struct attention_job j = {.H = H, .G = G, .K = K, .offsets = offsets, .keys = keys ? keys : offsets, .from = from, .scale = (mk_real)scale,
                              .causal = causal, .window = window, .q = q, .k = k, .v = v, .out = out, .lse = lse};
    int64_t blocks = 0;
    if (n_seq <= 0 || offsets[n_seq] <= 0) return MK_OK;
    for (int64_t s = 0; s < n_seq; s++) blocks += mk_ceil_div(offsets[s + 1] - offsets[s], QUERIES);
    int64_t n_q = offsets[n_seq] * H * K, n_k = j.keys[n_seq] * G * K;
    mk_real *wide = mk_scratch(e, (size_t)(type == MK_F32 ? 0 : 2 * n_q + 2 * n_k) * sizeof *wide + (size_t)(2 * blocks) * sizeof *j.block);
    if (!wide) return MK_NOMEM;
    j.block = (int32_t *)(void *)wide;
    if (type != MK_F32) { /* all of them as f32, and what comes out rounded behind */
        j.block = (int32_t *)(void *)(wide + 2 * n_q + 2 * n_k);
        j.out = wide;
        widen_all(e, n_q, q, wide + n_q, &j.q);
        widen_all(e, n_k, k, wide + 2 * n_q, &j.k);
        widen_all(e, n_k, v, wide + 2 * n_q + n_k, &j.v);
    }
    int32_t *to = j.block;
    for (int64_t s = 0; s < n_seq; s++)
        for (int32_t t = 0; t < offsets[s + 1] - offsets[s]; t += QUERIES) {
            *to++ = (int32_t)s;
            *to++ = t;
        }
    mk_for(e, blocks * H, head_ns(n_seq, j.offsets, j.keys, K, causal) / (double)blocks, attention_range, &j);
    return type == MK_F32 ? MK_OK : mk_cpu_cast(e, n_q, MK_F32, wide, type, out);
}

/* ---- the cache ---------------------------------------------------------------------------------- */

int mk_cpu_cache_put(mk_exec *e, mk_dtype type, int64_t rows, int64_t G, int64_t K, const int32_t *slot,
                     const int32_t *pos, int64_t slab, const void *k, const void *v,
                     void *kcache, void *vcache) {
    (void)e;
    size_t size = mk_dtype_bytes(type), bytes = (size_t)(G * K) * size;
    for (int64_t r = 0; r < rows; r++) {
        size_t at = (size_t)(slot[r] * slab + pos[r] * G * K) * size;
        memcpy((char *)kcache + at, (const char *)k + (size_t)r * bytes, bytes);
        memcpy((char *)vcache + at, (const char *)v + (size_t)r * bytes, bytes);
    }
    return MK_OK;
}

/* One query of each of `heads` heads, which lie side by side, against `total` keys and values of theirs: the sums of
** attend_rows for each, in its order. Keys of all the heads are packed together, since they lie together in the cache; or they
** are `turned` already, at a distance of ldt. */
static void attend_heads(const struct mk_simd *s, int64_t heads, int64_t total, int64_t K, mk_real scale, const mk_real *q,
                         const mk_real *k, const mk_real *turned, int64_t ldt, const mk_real *v, int64_t ld, mk_real *out) {
    _Alignas(64) mk_real pack[KEYS * CHUNK], score[CHUNK * KEYS];
    mk_real top[CHUNK], sum[CHUNK];
    for (int64_t h = 0; h < heads; h++) top[h] = (mk_real)-INFINITY;
    for (int64_t j0 = 0; j0 < total; j0 += KEYS) {
        int64_t n = mk_min(KEYS, total - j0), wide = whole_vectors(s, n), ldp = turned ? ldt : wide;
        const mk_real *keys = turned ? turned + j0 : pack;
        if (!turned) s->pack_transposed(heads * K, n, wide, k + j0 * ld, ld, pack, wide);
        for (int64_t h = 0; h < heads; h++) {
            mk_sweep(s, 1, wide, K, q + h * K, K, 1, keys + h * K * ldp, ldp, score + h * KEYS, KEYS, NULL);
            s->attend(n, wide, scale, score + h * KEYS, top + h, sum + h, K, out + h * K);
        }
        s->weigh(n, heads, K, score, KEYS, v + j0 * ld, ld, out, j0 > 0);
    }
    for (int64_t h = 0; h < heads; h++) s->scale(K, 1 / sum[h], out + h * K);
}

/* How many heads go together: those of which a chunk holds the elements, where each has a query of its own. */
static int64_t heads_together(const struct mk_simd *s, int64_t H, int64_t G, int64_t K, int64_t window) {
    return H == G && !window && K % s->lanes == 0 ? mk_min(G, mk_max(1, CHUNK / K)) : 1;
}

/* Items are (row, key head). Queries become f32 in the block's room, and what comes out is rounded behind it; attend_rows takes keys
** and values as they are. */
static void cached_bf16(const struct attention_job *j, int64_t first, int64_t last) {
    const struct mk_simd *s = mk_simd();
    int64_t G = j->G, K = j->K, group = j->H / G, most = mk_min(QUERIES, group) * K;
    mk_real *q = j->room + first / j->room_items * 2 * most, *out = q + most;
    for (int64_t item = first; item < last; item++) {
        int64_t r = item / G, g = item % G, at = j->slot[r] * j->slab + g * K;
        struct view view = {(int64_t)j->pos[r] + 1, 0, j->window};
        for (int64_t h = 0; h < group; h += QUERIES) {
            int64_t heads = mk_min(QUERIES, group - h), row = (r * j->H + g * group + h) * K;
            s->from_bf16(heads * K, (const mk_bf16 *)(const void *)j->q + row, q);
            attend_rows(s, heads, view, K, j->scale, q, K, MK_BF16, (const mk_bf16 *)(const void *)j->k + at,
                        (const mk_bf16 *)(const void *)j->v + at, G * K, out, K, NULL, 0);
            s->to_bf16(heads * K, out, (mk_bf16 *)(void *)j->out + row);
        }
    }
}

/* items are (row, group of key heads): the query heads of a key head are the rows of attend_rows */
static void cached_range(void *arg, int64_t first, int64_t last) {
    struct attention_job *j = arg;
    const struct mk_simd *s = mk_simd();
    int64_t G = j->G, K = j->K, group = j->H / G, together = heads_together(s, j->H, G, K, j->window), items = mk_ceil_div(G, together);
    if (j->type == MK_BF16) {
        cached_bf16(j, first, last);
        return;
    }
    for (int64_t item = first; item < last; item++) {
        int64_t r = item / items, g = item % items * together, at = j->slot[r] * j->slab + g * K;
        struct view view = {(int64_t)j->pos[r] + 1, 0, j->window};
        if (together > 1) {
            int64_t row = (r * G + g) * K;
            attend_heads(s, mk_min(together, G - g), view.first, K, j->scale, j->q + row, j->k + at, NULL, 0, j->v + at, G * K,
                         j->out + row);
            continue;
        }
        for (int64_t h = 0; h < group; h += QUERIES) {
            int64_t row = (r * j->H + g * group + h) * K;
            attend_rows(s, mk_min(QUERIES, group - h), view, K, j->scale, j->q + row, K, MK_F32, j->k + at, j->v + at, G * K,
                        j->out + row, K, NULL, 0);
        }
    }
}

int mk_cpu_attention_cached(mk_exec *e, mk_dtype type, int64_t rows, int64_t H, int64_t G, int64_t K, double scale,
                            int64_t window, const int32_t *slot, const int32_t *pos, int64_t slab, const void *q,
                            const void *kcache, const void *vcache, void *out) {
    struct attention_job j = {.type = type, .H = H, .G = G, .K = K, .slab = slab, .slot = slot, .pos = pos, .window = window,
                              .scale = (mk_real)scale, .q = q, .k = kcache, .v = vcache,
                              .out = out};
    double keys = 0;
    if (rows <= 0) return MK_OK;
    for (int64_t r = 0; r < rows; r++) keys += pos[r] + 1;
    keys /= (double)rows;
    int64_t together = type == MK_F32 ? heads_together(mk_simd(), H, G, K, window) : 1;
    double ns = 50 + keys * (double)(together * K) * (0.15 + 0.05 * (double)(H / G));
    if (type != MK_F32 && !(j.room = mk_rooms(e, rows * G, ns, 2 * mk_min(QUERIES, H / G) * K, 0, &j.room_items))) return MK_NOMEM;
    mk_for(e, rows * mk_ceil_div(G, together), ns, cached_range, &j);
    return MK_OK;
}

/* items are rows */
static void turn_range(void *arg, int64_t first, int64_t last) {
    struct attention_job *j = arg;
    int64_t width = j->H * j->K;
    for (int64_t r = first; r < last; r++)
        mk_simd()->pack_transposed(width, j->pos[r], j->wide, j->k + j->slot[r] * j->slab, width,
                                   j->turned + j->slot[r] * width * j->wide, j->wide);
}

int mk_cpu_turn_keys(mk_exec *e, int64_t rows, int64_t H, int64_t K, const int32_t *slot, const int32_t *pos, int64_t slab,
                     const mk_real *kcache, int64_t wide, mk_real *turned) {
    struct attention_job j = {.H = H, .K = K, .slab = slab, .slot = slot, .pos = pos, .k = kcache, .wide = wide, .turned = turned};
    if (rows > 0) mk_for(e, rows, 0.3 * (double)(H * K * wide), turn_range, &j);
    return MK_OK;
}

/* Asks for the keys and values of row r: those of all rows are more than a core's own cache, and come from far. */
static void fetch_turned(const struct attention_job *j, int64_t r) {
    int64_t width = j->H * j->K, total = (int64_t)j->pos[r] + 1, line = 64 / (int64_t)sizeof(mk_real);
    const mk_real *turned = j->turned + j->slot[r] * width * j->wide, *values = j->values + j->slot[r] * j->slab;
    for (int64_t c = 0; c < width; c++)
        for (int64_t at = 0; at < total; at += line) __builtin_prefetch(turned + c * j->wide + at, 0, 2);
    for (int64_t at = 0; at < total * width; at += line) __builtin_prefetch(values + at, 0, 2);
}

static void turned_range(void *arg, int64_t first, int64_t last) {
    struct attention_job *j = arg;
    const struct mk_simd *s = mk_simd();
    int64_t width = j->H * j->K, together = mk_max(1, CHUNK / j->K);
    for (int64_t r = first; r < last; r++) {
        mk_real *turned = j->turned + j->slot[r] * width * j->wide, *values = j->values + j->slot[r] * j->slab;
        if (r + 1 < last) fetch_turned(j, r + 1);
        for (int64_t c = 0; c < width; c++) turned[c * j->wide + j->pos[r]] = j->k[r * width + c];
        memcpy(values + j->pos[r] * width, j->v + r * width, (size_t)width * sizeof *values);
        for (int64_t h = 0; h < j->H; h += together) {
            int64_t at = h * j->K;
            attend_heads(s, mk_min(together, j->H - h), (int64_t)j->pos[r] + 1, j->K, j->scale, j->q + r * width + at, NULL,
                         turned + at * j->wide, j->wide, values + at, width, j->out + r * width + at);
        }
    }
}

int mk_cpu_attention_turned(mk_exec *e, int64_t rows, int64_t H, int64_t K, double scale, const int32_t *slot, const int32_t *pos,
                            int64_t wide, int64_t slab, const mk_real *q, const mk_real *k, const mk_real *v, mk_real *turned,
                            mk_real *vcache, mk_real *out) {
    struct attention_job j = {.H = H, .K = K, .slab = slab, .slot = slot, .pos = pos, .scale = (mk_real)scale, .wide = wide, .q = q,
                              .k = k, .v = v, .turned = turned, .values = vcache, .out = out};
    if (rows > 0) mk_for(e, rows, 50 + 0.1 * (double)(H * K * wide), turned_range, &j);
    return MK_OK;
}

/* ---- gradient ----------------------------------------------------------------------------------- */

struct bwd_block {
    _Alignas(64) mk_real p[QUERIES * KEYS_BWD], ds[QUERIES * KEYS_BWD];
    mk_real keys[KEYS_BWD * CHUNK], values[KEYS_BWD * CHUNK], rows[QUERIES * CHUNK];
};

/* One block of queries (rows i < m, distance ldq, seen as `view` relative to the first key) against one
** block of n keys (distance ld): dq, dk and dv += their shares, or where `fresh` dk and dv = them. With p the probabilities,
** dv = p^T dout, ds = p (dout v^T - delta) scale, dq = ds k, dk = ds^T q. */
static void bwd_block(const struct mk_simd *s, struct bwd_block *w, int64_t m, int64_t n,
                      struct view view, int64_t K, mk_real scale, const mk_real *q,
                      const mk_real *dout, int64_t ldq, const mk_real *lse, const mk_real *delta,
                      int64_t ld_lse, const mk_real *k, const mk_real *v, int64_t ld, mk_real *dq,
                      mk_real *dk, mk_real *dv, int first, int fresh) {
    int64_t wide = whole_vectors(s, n);
    for (int64_t d = 0; d < K; d += CHUNK) {
        int64_t depth = mk_min(CHUNK, K - d);
        s->pack_transposed(depth, n, wide, k + d, ld, w->keys, KEYS_BWD);
        s->pack_transposed(depth, n, wide, v + d, ld, w->values, KEYS_BWD);
        for (int64_t i = 0; i < m; i += GROUP) {
            int64_t rows = mk_min(GROUP, m - i), seen = mk_min(n, sees(view, i + rows - 1));
            if (seen <= 0) continue;
            mk_sweep(s, rows, whole_vectors(s, seen), depth, q + i * ldq + d, ldq, 1, w->keys,
                     KEYS_BWD, w->p + i * KEYS_BWD, KEYS_BWD,
                     d > 0 ? &mk_add : NULL);
            mk_sweep(s, rows, whole_vectors(s, seen), depth, dout + i * ldq + d, ldq, 1, w->values,
                     KEYS_BWD, w->ds + i * KEYS_BWD, KEYS_BWD,
                     d > 0 ? &mk_add : NULL);
        }
    }
    for (int64_t i = 0; i < m && view.window; i++) /* what a window hides weighs nothing */
        for (int64_t j = 0; j < mk_min(n, sees(view, i) - view.window); j++) w->p[i * KEYS_BWD + j] = (mk_real)-INFINITY;
    for (int64_t i = 0; i < m; i++)
        s->attend_bwd(mk_max(0, mk_min(n, sees(view, i))), wide, scale, lse[i * ld_lse], delta[i],
                      w->p + i * KEYS_BWD, w->ds + i * KEYS_BWD);
    for (int64_t d = 0; d < K; d += CHUNK) {
        int64_t width = mk_min(CHUNK, K - d), ldk = ld, ldr = ldq;
        const mk_real *b = readable(s, n, width, k + d, &ldk, w->keys);
        for (int64_t i = 0; i < m; i += GROUP) {
            int64_t rows = mk_min(GROUP, m - i), seen = mk_min(n, sees(view, i + rows - 1));
            if (first || seen > 0)
                mk_sweep(s, rows, width, mk_max(seen, 0), w->ds + i * KEYS_BWD, KEYS_BWD, 1, b, ldk,
                         dq + i * ldq + d, ldq, first ? NULL : &mk_add);
        }
        for (int side = 0; side < 2; side++) {
            const mk_real *a = side ? w->ds : w->p;
            mk_real *to = side ? dk : dv;
            ldr = ldq;
            b = readable(s, m, width, (side ? q : dout) + d, &ldr, w->rows);
            for (int64_t j = 0; j < n; j += GROUP) {
                int64_t i0 = 0; /* the rows before see none of these keys */
                while (i0 < m && sees(view, i0) <= j) i0++;
                if (i0 < m || fresh) /* no row is no sum: 0 */
                    mk_sweep(s, mk_min(GROUP, n - j), width, m - i0, a + i0 * KEYS_BWD + j, 1,
                             KEYS_BWD, b + i0 * ldr, ldr, to + j * ld + d, ld, fresh ? NULL : &mk_add);
            }
        }
    }
}

/* How many of the first m rows (distance ld) of a gradient are 0, as those of a prompt's queries are in the last block: they
** add nothing to what the others give. */
static int64_t leading_zeros(int64_t m, int64_t K, const mk_real *dout, int64_t ld) {
    for (int64_t i = 0; i < m; i++, dout += ld)
        for (int64_t d = 0; d < K; d++)
            if (dout[d] != 0) return i;
    return m;
}

/* items are (sequence, key head) pairs: such a pair owns its rows of dk and dv */
static void attention_bwd_range(void *arg, int64_t first, int64_t last) {
    struct attention_job *j = arg;
    const struct mk_simd *s = mk_simd();
    struct bwd_block work;
    mk_real delta[QUERIES];
    int64_t H = j->H, G = j->G, K = j->K, ld = G * K, ldq = H * K;
    for (int64_t item = first; item < last; item++) {
        int64_t seq = item / G, g = item % G, t0 = j->offsets[seq], length = j->offsets[seq + 1] - t0;
        int64_t k0 = j->keys[seq], n_keys = j->keys[seq + 1] - k0;
        mk_real *dk = j->dk + k0 * ld + g * K, *dv = j->dv + k0 * ld + g * K;
        /* one block of keys, which one block of queries writes; or sums of several, from 0 */
        int one = length <= QUERIES && n_keys <= KEYS_BWD && H == G;
        int64_t zeros = one ? leading_zeros(length, K, j->dout + (t0 * H + g) * K, ldq) : length;
        int fresh = zeros < length;
        for (int64_t t = 0; !fresh && t < n_keys; t++) {
            memset(dk + t * ld, 0, (size_t)K * sizeof *dk);
            memset(dv + t * ld, 0, (size_t)K * sizeof *dv);
        }
        for (int64_t h = g * (H / G); h < (g + 1) * (H / G); h++)
            for (int64_t t = 0; t < length; t += QUERIES) {
                int64_t m = mk_min(QUERIES, length - t), at = (t0 + t) * H + h;
                int64_t total = j->causal ? t + m : n_keys, skip = fresh ? zeros : leading_zeros(m, K, j->dout + at * K, ldq);
                for (int64_t i = 0; i < skip; i++) memset(j->dq + at * K + i * ldq, 0, (size_t)K * sizeof *j->dq);
                m -= skip;
                at += skip * H;
                for (int64_t i = 0; i < m; i++)
                    delta[i] = s->dot(K, j->out_in + at * K + i * ldq, j->dout + at * K + i * ldq);
                int64_t start = lowest((struct view){t + skip + 1, 1, j->window}, 0) / KEYS_BWD * KEYS_BWD;
                for (int64_t u = start; m > 0 && u < total; u += KEYS_BWD) {
                    struct view view = {j->causal ? t + skip + 1 - u : n_keys - u, j->causal ? 1 : 0, j->window};
                    int64_t from = (k0 + u) * ld + g * K;
                    bwd_block(s, &work, m, mk_min(KEYS_BWD, total - u), view, K, j->scale,
                              j->q + at * K, j->dout + at * K, ldq, j->lse_in + at, delta, H,
                              j->k + from, j->v + from, ld, j->dq + at * K, dk + u * ld, dv + u * ld,
                              u == start, fresh);
                }
            }
    }
}

int mk_cpu_attention_bwd(mk_exec *e, mk_dtype type, int64_t n_seq, const int32_t *offsets, const int32_t *keys, int64_t H,
                         int64_t G, int64_t K, double scale, int causal, int64_t window, const void *q, const void *k,
                         const void *v, const void *out, const mk_real *lse,
                         const mk_real *dout, mk_real *dq, mk_real *dk, mk_real *dv) {
    struct attention_job j = {.H = H, .G = G, .K = K, .offsets = offsets, .keys = keys ? keys : offsets, .scale = (mk_real)scale,
                              .causal = causal, .window = window, .q = q, .k = k, .v = v, .out_in = out,
                              .lse_in = lse, .dout = dout, .dq = dq, .dk = dk, .dv = dv};
    if (n_seq <= 0 || offsets[n_seq] <= 0) return MK_OK;
    if (type != MK_F32) { /* gradients are f32 */
        int64_t n_q = offsets[n_seq] * H * K, n_k = j.keys[n_seq] * G * K;
        mk_real *wide = mk_scratch(e, (size_t)(2 * n_q + 2 * n_k) * sizeof *wide);
        if (!wide) return MK_NOMEM;
        widen_all(e, n_q, q, wide, &j.q);
        widen_all(e, n_q, out, wide + n_q, &j.out_in);
        widen_all(e, n_k, k, wide + 2 * n_q, &j.k);
        widen_all(e, n_k, v, wide + 2 * n_q + n_k, &j.v);
    }
    double ns = 3 * head_ns(n_seq, j.offsets, j.keys, K, causal) * (double)(H / G) / (double)n_seq;
    mk_for(e, n_seq * G, ns, attention_bwd_range, &j);
    return MK_OK;
}
