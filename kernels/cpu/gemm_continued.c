/* gemm_continued.c - sums over rows that come piece by piece, with the bits of gemm on all rows at once.
**
** gemm cuts a sum over rows into blocks of KC, each one chain of multiply-adds from zero, and adds the blocks in order. Here
** `part` is the chain of the block that is open and `total` the sum of those that are done, so that a piece may end anywhere.
*/
#include "simd.h"

#include "table.h"

#define KC MK_KC
#define ROWS 96        /* of C in an item */
#define NARROW_LD 256  /* up to here rows are read where they lie */
#define NS_PER_MAC 0.03

struct continued_job {
    const struct mk_simd *s;
    int64_t m, n, k, at, panel, panels;
    const mk_real *a, *b;
    mk_real alpha, *part, *total, *c;
};

struct continued_room {
    _Alignas(64) mk_real a[KC * ROWS], b[KC * MK_PANEL_MAX];
};

/* rows p0 .. p0 + kc - 1 of all, which lie in one block, for m rows and n columns of C from (i0, j0) on */
static void go_on(const struct continued_job *g, struct continued_room *room, int64_t p0, int64_t kc, int64_t i0, int64_t m,
                  int64_t j0, int64_t n) {
    const mk_real *a = g->a + (p0 - g->at) * g->m + i0, *b = g->b + (p0 - g->at) * g->n + j0;
    int64_t lda = g->m, ldb = g->n, wide = mk_ceil_div(n, g->s->lanes) * g->s->lanes;
    if (lda > NARROW_LD) {
        for (int64_t p = 0; p < kc; p++) memcpy(room->a + p * ROWS, a + p * lda, (size_t)m * sizeof *a);
        a = room->a;
        lda = ROWS;
    }
    if (ldb > NARROW_LD || wide != n) {
        for (int64_t p = 0; p < kc; p++) {
            memcpy(room->b + p * wide, b + p * ldb, (size_t)n * sizeof *b);
            for (int64_t j = n; j < wide; j++) room->b[p * wide + j] = 0;
        }
        b = room->b;
        ldb = wide;
    }
    mk_sweep(g->s, m, n, kc, a, 1, lda, b, ldb, g->part + i0 * g->n + j0, g->n, p0 % KC ? &mk_continued : NULL);
}

/* the block that ends behind row `end` is done */
static void close_block(const struct continued_job *g, int64_t end, int64_t i0, int64_t m, int64_t j0, int64_t n) {
    for (int64_t i = i0; i < i0 + m; i++) {
        mk_real *to = g->total + i * g->n + j0;
        const mk_real *from = g->part + i * g->n + j0;
        if (end <= KC)
            memcpy(to, from, (size_t)n * sizeof *to);
        else
            g->s->axpy(n, 1, from, to);
    }
}

/* items are blocks of ROWS rows of C in one panel of its columns */
static void continued_range(void *arg, int64_t first, int64_t last) {
    const struct continued_job *g = arg;
    struct continued_room room;
    int64_t end = g->at + g->k;
    for (int64_t item = first; item < last; item++) {
        int64_t i0 = item / g->panels * ROWS, m = mk_min(ROWS, g->m - i0);
        int64_t j0 = item % g->panels * g->panel, n = mk_min(g->panel, g->n - j0);
        for (int64_t p = g->at, next; p < end; p = next) {
            next = mk_min((p / KC + 1) * KC, end);
            go_on(g, &room, p, next - p, i0, m, j0, n);
            if (next % KC == 0) close_block(g, next, i0, m, j0, n);
        }
        if (!g->c) continue;
        if (end % KC) close_block(g, end, i0, m, j0, n);
        for (int64_t i = i0; i < i0 + m; i++) {
            mk_real *to = g->c + i * g->n + j0;
            if (end > 0) g->s->axpby(n, g->alpha, g->total + i * g->n + j0, 0, to);
            else memset(to, 0, (size_t)n * sizeof *to);
        }
    }
}

int mk_cpu_gemm_continued(mk_exec *e, int64_t m, int64_t n, int64_t k, int64_t at, const mk_real *a, const mk_real *b, double alpha,
                          mk_real *part, mk_real *total, mk_real *c) {
    const struct mk_simd *s = mk_simd();
    struct continued_job g = {.s = s, .m = m, .n = n, .k = k, .at = at, .panel = mk_panel(s, MK_FEW_ROWS + 1), .a = a, .b = b,
                              .alpha = (mk_real)alpha, .part = part, .total = total, .c = c};
    if (m <= 0 || n <= 0) return MK_OK;
    g.panels = mk_ceil_div(n, g.panel);
    mk_for(e, mk_ceil_div(m, ROWS) * g.panels, NS_PER_MAC * (double)mk_min(m, ROWS) * (double)g.panel * (double)(k + 10),
           continued_range, &g);
    return MK_OK;
}
