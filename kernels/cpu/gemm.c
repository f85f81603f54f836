/* gemm.c - matrix products whose rows do not depend on each other's number.
**
** op(B) is cut into panels of as many columns as the widest tile, op(A) into tiles of a few rows, k into
** blocks of KC. An element of C is the sum over blocks, ascending, of one chain of multiply-adds per
** block: the same for every way of sharing out the work below.
**
**   wide   pieces are parts of the rows, or groups of panels: each packs the panels it needs itself, since what another
**          thread has packed comes from its cache, slower than packing
**   tall   B is packed once, or read where it lies, then pieces are blocks of rows, copied out of a transposed A
**   deep   pieces are blocks of k, whose results are added up in order (gradients of weights)
*/
#include <stdlib.h>

#include "simd.h"

#include "table.h"

#define KC MK_KC
#define MC 192
#define WIDE_ROWS 96       /* up to here always wide; the least rows of a part, or packing would take too long */
#define LARGE_B (256 * 256) /* n k from which strips have up to MC rows, below two thirds of them */
#define EVEN_BLOCKS 4      /* blocks of rows are a multiple of this: as many for each of a few threads */
#define TILE_ROWS 6        /* of the widest tile: blocks of a multiple of it have no tile in part */
#define WIDE_ROWS_MAX 128  /* up to here wide when there are panels enough */
#define PIECES 2           /* of wide, for each thread: what one has left, another can take */
#define PART_ROWS 1024     /* the most rows of a part: over more, C would leave the cache between blocks of k */
#define PACKED (KC * 2 * MK_PANEL_MAX)
#define LARGE_C (1 << 20)  /* elements: from here on rows are not cut for the sake of the next kernel, which finds nothing in the cache */
#define NARROW_LD 256      /* up to here rows of A^T and panels of B are read where they lie */
#define NARROW_ROWS 8      /* up to here any B is read where it lies if its rows are contiguous */
#define DEEP_BYTES_MAX ((size_t)256 << 20)
#define READ_ROWS 16       /* rows of a quantised B^T that are read at a time */
#define NS_PER_MAC 0.02    /* about: for sharing out work, not for results */
#define NS_PER_PACK 0.15
#define NS_PER_CODE 0.1    /* of a weight that becomes a number in registers */

struct gemm_job {
    const struct mk_simd *s;
    struct mk_blend scale; /* alpha and beta */
    int ta, tb;
    int direct; /* the tiles write C: one block of k, or C itself can hold the sums (alpha 1, beta 0) */
    const struct mk_blend *blend; /* what the tiles of the first block do where direct */
    int64_t m, n, k, lda, ldb, ldc, step_a, step_b, step_c;
    int64_t panel, panels, block_rows; /* block_rows: rows of a block (tall), of a part (wide) */
    int64_t parts, groups, strip_rows; /* wide: parts of the rows, groups of the panels, rows that pass by all panels at a time */
    const mk_real *a, *b;
    const mk_weight *w; /* a quantised B in place of b, which is read only when it is packed; or NULL */
    mk_real *c;
    mk_real *pack; /* all of B (tall, NULL where it lies well), or sums of each block of k (deep) */
};

/* The columns of panel j, and the width it is packed to: whole vectors. */
static int64_t panel_columns(const struct gemm_job *g, int64_t j) {
    return mk_min(g->panel, g->n - j * g->panel);
}
static int64_t panel_width(const struct gemm_job *g, int64_t j) {
    return mk_ceil_div(panel_columns(g, j), g->s->lanes) * g->s->lanes;
}

/* Rows i0 .. i0 + m - 1 of A over block k0 of k, as the tiles will read them: a[i rs + p cs]. Those of a
** transposed A lie side by side; where lda is long they are copied together, so that tiles do not walk over
** k in long steps. */
struct strip {
    const mk_real *a;
    int64_t rs, cs;
};

static struct strip take_rows(const struct gemm_job *g, int64_t i0, int64_t m, int64_t k0,
                              mk_real *copy) {
    if (!g->ta) return (struct strip){g->a + i0 * g->lda + k0, g->lda, 1};
    const mk_real *src = g->a + k0 * g->lda + i0;
    if (g->lda <= NARROW_LD) return (struct strip){src, 1, g->lda};
    for (int64_t p = 0; p < mk_min(KC, g->k - k0); p++)
        memcpy(copy + p * MC, src + p * g->lda, (size_t)m * sizeof *copy);
    return (struct strip){copy, 1, MC};
}

/* C[m, panel j] = A B over block k0 of k, added to what C holds from the block before */
static void sweep_block(const struct gemm_job *g, int64_t m, int64_t j, int64_t k0, struct strip t,
                        const mk_real *b, int64_t ldb, mk_real *c, int64_t ldc) {
    mk_sweep(g->s, m, panel_columns(g, j), mk_min(KC, g->k - k0), t.a, t.rs, t.cs, b, ldb, c, ldc,
             k0 > 0 ? &mk_add : g->direct ? g->blend : NULL);
}

/* the same of a quantised B: rows of B^T are made numbers of a few at a time */
static void pack_quantized(const struct gemm_job *g, int64_t j, int64_t k0, mk_real *dst) {
    _Alignas(64) mk_real rows[READ_ROWS * KC];
    const struct mk_quantized *f = &g->s->format[g->w->format];
    int64_t kc = mk_min(KC, g->k - k0), n = panel_columns(g, j), width = panel_width(g, j), at = j * g->panel;
    for (int64_t p = 0; !g->tb && p < kc; p++) {
        f->read(g->w, k0 + p, at, n, dst + p * width);
        for (int64_t i = n; i < width; i++) dst[p * width + i] = 0;
    }
    for (int64_t i = 0; g->tb && i < width; i += READ_ROWS) {
        int64_t some = mk_max(0, mk_min(READ_ROWS, n - i));
        for (int64_t r = 0; r < some; r++) f->read(g->w, at + i + r, k0, kc, rows + r * kc);
        g->s->pack_transposed(kc, some, mk_min(READ_ROWS, width - i), rows, kc, dst + i, width);
    }
}

/* dst[p width + i], p < kc: panel j of block k0 */
static void pack_panel(const struct gemm_job *g, const mk_real *b, int64_t j, int64_t k0,
                       mk_real *dst) {
    int64_t kc = mk_min(KC, g->k - k0), n = panel_columns(g, j), width = panel_width(g, j);
    if (g->w) {
        pack_quantized(g, j, k0, dst);
        return;
    }
    if (g->tb) {
        g->s->pack_transposed(kc, n, width, b + j * g->panel * g->ldb + k0, g->ldb, dst, width);
        return;
    }
    const mk_real *src = b + k0 * g->ldb + j * g->panel;
    for (int64_t p = 0; p < kc; p++, src += g->ldb, dst += width) {
        memcpy(dst, src, (size_t)n * sizeof *dst);
        for (int64_t i = n; i < width; i++) dst[i] = 0;
    }
}

/* C[i, panel j] = alpha sums + beta C */
static void finish(const struct gemm_job *g, int64_t m, int64_t n, const mk_real *sums, int64_t lds,
                   mk_real *c) {
    for (int64_t i = 0; i < m; i++) g->s->axpby(n, g->scale.alpha, sums + i * lds, g->scale.beta, c + i * g->ldc);
}

/* The most rows of A that go past all panels before the next ones do: with a large B, more make up for reading it */
static int64_t strip_of(const struct gemm_job *g) { return g->n * g->k >= LARGE_B ? MC : MC * 2 / 3; }

/* ---- wide --------------------------------------------------------------------------------------- */

/* C = A B, or C += A B, for m rows and panels first .. last - 1 over block k0 of k; a, b at its first row and column */
static void wide_block(const struct gemm_job *g, int64_t m, int64_t first, int64_t last, int64_t k0, const mk_real *a,
                       const mk_real *b, mk_real *c, int64_t ldc) {
    _Alignas(64) mk_real packed[PACKED]; /* the panels, one after the other */
    int64_t rs = g->ta ? 1 : g->lda, cs = g->ta ? g->lda : 1, size = mk_min(KC, g->k - k0) * g->panel;
    int in_place = !g->tb && !g->w && (g->m <= NARROW_ROWS || g->ldb <= NARROW_LD) &&
                   panel_width(g, last - 1) == panel_columns(g, last - 1);
    for (int64_t j = first; !in_place && j < last; j++) pack_panel(g, b, j, k0, packed + (j - first) * size);
    for (int64_t i = 0; i < m; i += g->strip_rows) {
        struct strip t = {a + k0 * cs + i * rs, rs, cs};
        for (int64_t j = first; j < last; j++)
            sweep_block(g, mk_min(g->strip_rows, m - i), j, k0, t,
                        in_place ? b + k0 * g->ldb + j * g->panel : packed + (j - first) * size,
                        in_place ? g->ldb : panel_width(g, j), c + i * ldc + (j - first) * g->panel, ldc);
    }
}

/* *at modulo n, and *at /= n: without a division, which would take as long as a small product, where there is one part */
static int64_t digit(int64_t *at, int64_t n) {
    if (n == 1) return 0;
    int64_t low = *at % n;
    *at /= n;
    return low;
}

static void wide_piece(const struct gemm_job *g, int64_t at) {
    _Alignas(64) mk_real sums[MC * 2 * MK_PANEL_MAX];
    int64_t t = at, group = digit(&t, g->groups), part = digit(&t, g->parts);
    int64_t i0 = part * g->block_rows, m = mk_min(g->block_rows, g->m - i0);
    int64_t start = g->groups > 1 ? group * g->panels / g->groups : 0;
    int64_t end = g->groups > 1 ? (group + 1) * g->panels / g->groups : g->panels;
    int64_t together = PACKED / (mk_min(KC, g->k) * g->panel);
    const mk_real *a = g->a + t * g->step_a + i0 * (g->ta ? 1 : g->lda), *b = g->b + t * g->step_b;
    for (int64_t j = start; j < end; j += together) {
        int64_t last = mk_min(j + together, end);
        mk_real *c = g->c + t * g->step_c + i0 * g->ldc + j * g->panel;
        for (int64_t k0 = 0; k0 < g->k; k0 += KC)
            wide_block(g, m, j, last, k0, a, b, g->direct ? c : sums, g->direct ? g->ldc : 2 * MK_PANEL_MAX);
        if (!g->direct) finish(g, m, mk_min(last * g->panel, g->n) - j * g->panel, sums, 2 * MK_PANEL_MAX, c);
    }
}

/* Items are groups of panels of a part of one product. Parts vary more slowly than groups, so that a thread, whose items
** follow each other, writes rows that lie together: the next kernel's share of the same rows is in its cache. */
static void wide_range(void *arg, int64_t first, int64_t last) {
    for (int64_t at = first; at < last; at++) wide_piece(arg, at);
}

static int wide(mk_exec *e, struct gemm_job *g, int64_t batch) {
    double ns = (double)(batch * g->n) * (double)g->k * (NS_PER_PACK + NS_PER_MAC * (double)g->m);
    int64_t most = mk_max(1, (int64_t)(ns / MK_GRAIN_NS)), pieces = mk_threads(e) > 1 ? PIECES * mk_threads(e) : 1;
    g->parts = 1;
    g->block_rows = g->strip_rows = g->m;
    if (g->m > WIDE_ROWS) {
        int64_t parts = g->m * g->n > LARGE_C ? 1 : mk_min(mk_min(g->m / WIDE_ROWS, most), pieces);
        parts = mk_max(parts, mk_ceil_div(g->m, g->direct ? PART_ROWS : MC / TILE_ROWS * TILE_ROWS));
        g->block_rows = mk_ceil_div(mk_ceil_div(g->m, parts), TILE_ROWS) * TILE_ROWS;
        g->parts = mk_ceil_div(g->m, g->block_rows);
        int64_t strips = mk_ceil_div(g->block_rows, strip_of(g));
        g->strip_rows = mk_ceil_div(mk_ceil_div(g->block_rows, strips), TILE_ROWS) * TILE_ROWS;
    }
    g->groups = mk_min(g->panels, mk_min(most, mk_ceil_div(pieces, batch * g->parts)));
    int64_t items = batch * g->parts * g->groups;
    mk_for(e, items, ns / (double)items, wide_range, g);
    return MK_OK;
}

/* ---- tall --------------------------------------------------------------------------------------- */

static mk_real *packed_panel(const struct gemm_job *g, int64_t j, int64_t k0) {
    return g->pack + j * g->panel * g->k + k0 * panel_width(g, j);
}

/* columns of panel j over block k0 of k, whose rows are *ldb apart */
static const mk_real *panel_of(const struct gemm_job *g, int64_t j, int64_t k0, int64_t *ldb) {
    *ldb = g->pack ? panel_width(g, j) : g->ldb;
    return g->pack ? packed_panel(g, j, k0) : g->b + k0 * g->ldb + j * g->panel;
}

static void pack_range(void *arg, int64_t first, int64_t last) {
    struct gemm_job *g = arg;
    for (int64_t j = first; j < last; j++)
        for (int64_t k0 = 0; k0 < g->k; k0 += KC)
            pack_panel(g, g->b, j, k0, packed_panel(g, j, k0));
}

/* items are blocks of block_rows rows */
static void tall_range(void *arg, int64_t first, int64_t last) {
    struct gemm_job *g = arg;
    _Alignas(64) mk_real sums[MC * MK_PANEL_MAX], rows[KC * MC];
    for (int64_t block = first; block < last; block++) {
        int64_t i0 = block * g->block_rows, m = mk_min(g->block_rows, g->m - i0);
        for (int64_t k0 = 0; g->direct && k0 < g->k; k0 += KC) {
            struct strip t = take_rows(g, i0, m, k0, rows);
            for (int64_t j = 0; j < g->panels; j++) {
                int64_t ldb;
                const mk_real *b = panel_of(g, j, k0, &ldb);
                sweep_block(g, m, j, k0, t, b, ldb, g->c + i0 * g->ldc + j * g->panel, g->ldc);
            }
        }
        for (int64_t j = 0; !g->direct && j < g->panels; j++) {
            for (int64_t k0 = 0; k0 < g->k; k0 += KC) {
                int64_t ldb;
                const mk_real *b = panel_of(g, j, k0, &ldb);
                sweep_block(g, m, j, k0, take_rows(g, i0, m, k0, rows), b, ldb, sums, MK_PANEL_MAX);
            }
            finish(g, m, panel_columns(g, j), sums, MK_PANEL_MAX, g->c + i0 * g->ldc + j * g->panel);
        }
    }
}

static int tall(mk_exec *e, struct gemm_job *g, int64_t batch) {
    int in_place = !g->tb && !g->w && g->ldb <= NARROW_LD && g->n % g->s->lanes == 0;
    if (!in_place) {
        g->pack = mk_scratch(e, (size_t)(g->panels * g->panel * g->k) * sizeof(mk_real));
        if (!g->pack) return MK_NOMEM;
    }
    int64_t blocks = mk_ceil_div(g->m, strip_of(g));
    blocks = mk_ceil_div(blocks, EVEN_BLOCKS) * EVEN_BLOCKS;
    g->block_rows = mk_ceil_div(mk_ceil_div(g->m, blocks), TILE_ROWS) * TILE_ROWS;
    for (int64_t t = 0; t < batch; t++) {
        if (g->pack && (t == 0 || g->step_b != 0))
            mk_for(e, g->panels, (double)(g->panel * g->k) * NS_PER_PACK, pack_range, g);
        mk_for(e, mk_ceil_div(g->m, g->block_rows),
               NS_PER_MAC * (double)(g->k * g->n * g->block_rows), tall_range, g);
        g->a += g->step_a;
        g->b += g->step_b;
        g->c += g->step_c;
    }
    return MK_OK;
}

/* ---- deep --------------------------------------------------------------------------------------- */

/* items are blocks of k */
static void deep_range(void *arg, int64_t first, int64_t last) {
    struct gemm_job *g = arg;
    _Alignas(64) mk_real packed[KC * MK_PANEL_MAX], rows[KC * MC];
    for (int64_t block = first; block < last; block++) {
        int64_t k0 = block * KC, kc = mk_min(KC, g->k - k0);
        for (int64_t j = 0; j < g->panels; j++) {
            int64_t ldb = panel_width(g, j);
            const mk_real *b = packed;
            if (!g->tb && !g->w && g->ldb <= NARROW_LD && ldb == panel_columns(g, j)) {
                b = g->b + k0 * g->ldb + j * g->panel;
                ldb = g->ldb;
            } else {
                pack_panel(g, g->b, j, k0, packed);
            }
            for (int64_t i0 = 0; i0 < g->m; i0 += MC) {
                int64_t m = mk_min(MC, g->m - i0);
                struct strip t = take_rows(g, i0, m, k0, rows);
                mk_sweep(g->s, m, panel_columns(g, j), kc, t.a, t.rs, t.cs, b, ldb,
                         g->pack + (block * g->m + i0) * g->n + j * g->panel, g->n, NULL);
            }
        }
    }
}

/* items are rows of C */
static void deep_sum(void *arg, int64_t first, int64_t last) {
    struct gemm_job *g = arg;
    int64_t at = first * g->n, n = (last - first) * g->n;
    for (int64_t block = 1; block < mk_ceil_div(g->k, KC); block++)
        g->s->axpy(n, 1, g->pack + block * g->m * g->n + at, g->pack + at);
    finish(g, last - first, g->n, g->pack + at, g->n, g->c + first * g->ldc);
}

static int deep(mk_exec *e, struct gemm_job *g) {
    int64_t blocks = mk_ceil_div(g->k, KC);
    g->pack = mk_scratch(e, (size_t)(blocks * g->m * g->n) * sizeof(mk_real));
    if (!g->pack) return MK_NOMEM;
    mk_for(e, blocks, (double)(KC * g->n) * (NS_PER_PACK + NS_PER_MAC * (double)g->m), deep_range, g);
    mk_for(e, g->m, (double)(blocks * g->n) * 0.1, deep_sum, g);
    return MK_OK;
}

/* ---- few rows and a quantised B^T ---------------------------------------------------------------- */

/* items are groups of columns of C, which are rows of W */
static void coded_range(void *arg, int64_t first, int64_t last) {
    const struct gemm_job *g = arg;
    const struct mk_quantized *f = &g->s->format[g->w->format];
    _Alignas(64) mk_real sums[MK_CODED_ROWS * MK_GROUP_MAX];
    for (int64_t at = first; at < last; at++) {
        int64_t j = at * f->group, n = mk_min(f->group, g->n - j);
        f->few(g->w, j, n, g->m, g->a, g->lda, sums);
        for (int64_t i = 0; i < g->m && !g->blend; i++)
            memcpy(g->c + i * g->ldc + j, sums + i * MK_GROUP_MAX, (size_t)n * sizeof *sums);
        if (g->blend) finish(g, g->m, n, sums, MK_GROUP_MAX, g->c + j);
    }
}

static int coded(mk_exec *e, struct gemm_job *g) {
    int64_t group = g->s->format[g->w->format].group;
    mk_for(e, mk_ceil_div(g->n, group), NS_PER_CODE * (double)(group * g->k), coded_range, g);
    return MK_OK;
}

/* ---- the kernel --------------------------------------------------------------------------------- */

/* from: what beta multiplies, where that is not C, with C's distance of rows; k <= KC then */
static int run(mk_exec *e, int ta, int tb, int64_t m, int64_t n, int64_t k, double alpha, const mk_real *a, int64_t lda,
               int64_t step_a, const mk_real *b, int64_t ldb, int64_t step_b, const mk_weight *w, double beta, const mk_real *from,
               mk_real *c, int64_t ldc, int64_t step_c, int64_t batch) {
    const struct mk_simd *s = mk_simd();
    struct gemm_job g = {
        .s = s, .ta = ta, .tb = tb, .scale = {(mk_real)alpha, (mk_real)beta, from ? (uintptr_t)from - (uintptr_t)c : 0},
        .m = m, .n = n, .k = k, .lda = lda, .ldb = ldb, .ldc = ldc,
        .panel = mk_panel(s, MK_FEW_ROWS + 1),
        .step_a = step_a, .step_b = step_b, .step_c = step_c,
        .a = a, .b = b, .w = w, .c = c,
    };
    g.blend = alpha == 1 && beta == 0 ? NULL : &g.scale;
    g.direct = !g.blend || k <= KC;
    if (m <= 0 || n <= 0 || batch <= 0) return MK_OK;
    if (k <= 0) {
        for (int64_t i = 0; i < batch * m; i++) {
            mk_real *row = c + i / m * step_c + i % m * ldc;
            for (int64_t j = 0; j < n; j++) row[j] = beta == 0 ? 0 : row[j] * (mk_real)beta;
        }
        return MK_OK;
    }
    if (w && tb && !ta && m <= MK_CODED_ROWS && mk_has_few(&s->format[w->format], w)) return coded(e, &g);
    g.panels = mk_ceil_div(n, g.panel);
    /* deep when the sums of the blocks of k are less to move than A and B */
    if (batch == 1 && k >= 4 * KC && m * n <= KC * (m + n) &&
        (size_t)(mk_ceil_div(k, KC) * m * n) * sizeof(mk_real) <= DEEP_BYTES_MAX)
        return deep(e, &g);
    if (m <= MK_FEW_ROWS && !tb) { /* mk_sweep's tiles are as wide */
        g.panel = mk_panel(s, m);
        g.panels = mk_ceil_div(n, g.panel);
    }
    if (!ta || m <= WIDE_ROWS || (m <= WIDE_ROWS_MAX && g.panels * batch >= 8)) return wide(e, &g, batch);
    return tall(e, &g, batch);
}

int mk_cpu_gemm(mk_exec *e, int ta, int tb, int64_t m, int64_t n, int64_t k, double alpha,
                const mk_real *a, int64_t lda, int64_t step_a, const mk_real *b, int64_t ldb,
                int64_t step_b, double beta, mk_real *c, int64_t ldc, int64_t step_c,
                int64_t batch) {
    return run(e, ta, tb, m, n, k, alpha, a, lda, step_a, b, ldb, step_b, NULL, beta, NULL, c, ldc, step_c, batch);
}

#ifndef MK_REAL_DOUBLE
/* Of bf16: with weights of bf16 by products of their own; numbers that codes stand for are f32, and so is the product then. */
static int rounded(mk_exec *e, int ta, int64_t m, double alpha, const mk_bf16 *a, int64_t lda, int tw, const mk_weight *w, double beta,
                   mk_dtype c_type, void *c, int64_t ldc) {
    const mk_bf16_path *path = mk_bf16_chosen(NULL);
    int64_t n = tw ? w->rows : w->columns, k = tw ? w->columns : w->rows, rows = ta ? k : m, columns = ta ? m : k;
    if (w->format == MK_FORMAT_F32 || !path) return MK_UNSUPPORTED;
    if (w->format == MK_FORMAT_BF16)
        return mk_bf16_gemm(e, path, ta, m, n, k, alpha, a, lda, tw, w->part[0], w->columns, beta, c_type, c, ldc);
    if (!mk_simd()->format[w->format].read) return MK_UNSUPPORTED;
    mk_real *wide = malloc(mk_max(1, rows * columns + (c_type == MK_F32 ? 0 : m * n)) * sizeof *wide), *sums = wide + rows * columns;
    if (!wide) return MK_NOMEM;
    if (c_type == MK_F32) sums = c;
    for (int64_t i = 0; i < rows; i++) mk_cpu_cast(e, columns, MK_BF16, a + i * lda, MK_F32, wide + i * columns);
    for (int64_t i = 0; c_type != MK_F32 && beta != 0 && i < m; i++)
        mk_cpu_cast(e, n, MK_BF16, (mk_bf16 *)c + i * ldc, MK_F32, sums + i * n);
    int code = run(e, ta, tw, m, n, k, alpha, wide, columns, 0, NULL, w->columns, 0, w, beta, NULL, sums, c_type == MK_F32 ? ldc : n, 0, 1);
    for (int64_t i = 0; !code && c_type != MK_F32 && i < m; i++)
        mk_cpu_cast(e, n, MK_F32, sums + i * n, MK_BF16, (mk_bf16 *)c + i * ldc);
    free(wide);
    return code;
}
#endif

int mk_cpu_gemm_weight(mk_exec *e, int ta, int64_t m, double alpha, mk_dtype a_type, const void *a, int64_t lda, int tw,
                       const mk_weight *w, double beta, mk_dtype c_type, void *c, int64_t ldc) {
    int64_t n = tw ? w->rows : w->columns, k = tw ? w->columns : w->rows;
    int plain = w->format == MK_FORMAT_F32;
    if (w->format == MK_FORMAT_W8A8 && tw && !ta) return mk_gemm_w8a8(e, m, alpha, a_type, a, lda, w, beta, c_type, c, ldc);
#ifndef MK_REAL_DOUBLE
    if (a_type == MK_BF16) return rounded(e, ta, m, alpha, a, lda, tw, w, beta, c_type, c, ldc);
#endif
    if (a_type != MK_F32 || c_type != MK_F32 || (!plain && !mk_simd()->format[w->format].read)) return MK_UNSUPPORTED;
    return run(e, ta, tw, m, n, k, alpha, a, lda, 0, plain ? w->part[0] : NULL, w->columns, 0, plain ? NULL : w, beta, NULL, c, ldc, 0, 1);
}

int mk_cpu_gemm_weight_onto(mk_exec *e, int64_t m, double alpha, const mk_real *a, int64_t lda, int tw, const mk_weight *w,
                            const mk_real *from, mk_real *c, int64_t ldc) {
    int64_t n = tw ? w->rows : w->columns, k = tw ? w->columns : w->rows;
    if (w->format != MK_FORMAT_F32) return MK_UNSUPPORTED;
    for (int64_t i = 0; k > KC && from != c && i < m; i++) memcpy(c + i * ldc, from + i * ldc, (size_t)n * sizeof *c);
    return run(e, 0, tw, m, n, k, alpha, a, lda, 0, w->part[0], w->columns, 0, NULL, 1, k > KC ? NULL : from, c, ldc, 0, 1);
}
