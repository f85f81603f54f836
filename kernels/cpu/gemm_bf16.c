/* gemm_bf16.c - products of bf16: which way they are computed, how A and B are packed and shared out (bf16.h has the arithmetic).
**
** An item is a block of rows and a group of panels of columns. B is packed by the item itself where there is one block of rows, as in
** generation, where it passes by once; and else once for all of them, a span of panels at a time.
*/
#include "bf16.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "simd.h"
#include "table.h"

#ifndef MK_REAL_DOUBLE

/* ---- the choice ---------------------------------------------------------------------------------- */

static struct {
    const mk_bf16_path *path;
    const char *why;
} choice;

static void choose(void) {
    const char *isa = getenv("MOCL_ISA");
    choice.path = mk_simd()->bf16 ? mk_simd()->bf16 : &mk_bf16_plain;
    if (isa && !strcmp(isa, "amx_emulated")) {
        choice.path = &mk_bf16_emulated;
    } else if (isa && (!strcmp(isa, "base") || !strcmp(isa, "avx2") || !strcmp(isa, "avx512"))) {
        choice.why = "MOCL_ISA leaves it out";
    } else {
        choice.why = mk_amx_open();
#ifdef MK_AMX
        if (!choice.why) choice.path = &mk_bf16_amx;
#endif
        if (choice.why && isa && !strcmp(isa, "amx")) choice.path = NULL;
    }
}

const mk_bf16_path *mk_bf16_chosen(const char **why) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose);
    if (why) *why = choice.why;
    return choice.path;
}

int mk_bf16_describe(char *text, size_t bytes) {
    const char *why;
    const mk_bf16_path *path = mk_bf16_chosen(&why);
    if (!text) return path != NULL;
    if (!path) snprintf(text, bytes, "off: MOCL_ISA=amx asks for AMX, and %s; leave it out for the same bits by other instructions", why);
    else snprintf(text, bytes, "%s%s%s", path->name, why ? "; no AMX: " : "", why ? why : "");
    return path != NULL;
}

/* ---- packing ------------------------------------------------------------------------------------- */

#define KC MK_BF16_KC
#define COLUMNS MK_BF16_COLUMNS
#define ROWS 96                /* the most of a block */
#define GROUP 8                /* the most panels of an item */
#define TURNED 16              /* k of a transposed A that are turned at a time */
#define TURNED_ROWS 16         /* rows of B^T that are turned together */
#define LINE_PAIRS 16          /* of a cache line */
#define SPAN_BYTES (16 << 20)  /* about, of B packed for all */
#define NS_PER_PACK 0.1

struct bf16_job {
    const mk_bf16_path *path;
    const struct mk_simd *s;
    struct mk_blend blend;
    int ta, tb;
    int64_t m, n, k, lda, ldb, ldc;
    const mk_bf16 *a, *b;
    mk_dtype c_type;
    void *c;
    int64_t block_rows, panels, group, groups; /* panels of the span, of an item, and how many items have them */
    int64_t first;                             /* panel of the span */
    uint32_t *packed;                          /* [panels][packed k / 2][COLUMNS] of the span; NULL: items pack for themselves */
};

static int64_t blocks_of(int64_t k) { return mk_ceil_div(k, MK_BF16_BLOCK); }

/* to[p * COLUMNS + i] = pair p of row i of n, and zeros for the columns that are missing. A few rows are a few short runs in memory, which
** the processor does not foresee: it is told of the rows behind them, which are the next ones to be read. */
static void turn_pairs(int64_t pairs, int64_t n, const mk_bf16 *from, int64_t ld, uint32_t *to) {
    const struct mk_simd *s = mk_simd();
    for (int64_t i = 0; i < COLUMNS; i += TURNED_ROWS, from += TURNED_ROWS * ld) {
        int64_t rows = mk_max(0, mk_min(TURNED_ROWS, n - i));
        for (int64_t p = 0; p < pairs; p += LINE_PAIRS) {
            for (int64_t r = 0; r < rows; r++) __builtin_prefetch((const void *)((uintptr_t)from + (uintptr_t)((rows + r) * ld + 2 * p) * 2), 0, 2);
            s->pack_transposed(mk_min(LINE_PAIRS, pairs - p), rows, TURNED_ROWS, (const float *)(const void *)(from + 2 * p), ld / 2,
                               (float *)(void *)(to + p * COLUMNS + i), COLUMNS);
        }
    }
}

/* k0 .. k0 + kc - 1 of panel j of B, and zeros up to whole blocks and columns */
static void pack_b(const struct bf16_job *g, int64_t j, int64_t k0, int64_t kc, uint32_t *to) {
    int64_t n = mk_min(COLUMNS, g->n - j * COLUMNS), pairs = kc / 2, rows = blocks_of(kc) * (MK_BF16_BLOCK / 2);
    if (g->tb) {
        const mk_bf16 *from = g->b + j * COLUMNS * g->ldb + k0;
        if (g->ldb % 2 == 0 && (uintptr_t)from % 4 == 0) { /* pairs are words, which are turned as floats are */
            turn_pairs(pairs, n, from, g->ldb, to);
        } else {
            for (int64_t p = 0; p < pairs; p++)
                for (int64_t i = 0; i < COLUMNS; i++)
                    to[p * COLUMNS + i] = i < n ? from[i * g->ldb + 2 * p] | (uint32_t)from[i * g->ldb + 2 * p + 1] << 16 : 0;
        }
        for (int64_t i = 0; kc % 2 && i < COLUMNS; i++) to[pairs * COLUMNS + i] = i < n ? from[i * g->ldb + kc - 1] : 0;
    } else {
        static const mk_bf16 none[COLUMNS];
        const mk_bf16 *from = g->b + k0 * g->ldb + j * COLUMNS;
        for (int64_t p = 0; 2 * p < kc; p++, from += 2 * g->ldb) {
            const mk_bf16 *next = 2 * p + 1 < kc ? from + g->ldb : none;
            g->s->bf16_pairs(n, from, next, to + p * COLUMNS);
            for (int64_t i = n; i < COLUMNS; i++) to[p * COLUMNS + i] = 0;
        }
    }
    pairs = mk_ceil_div(kc, 2);
    memset(to + pairs * COLUMNS, 0, (size_t)((rows - pairs) * COLUMNS) * sizeof *to);
}

/* rows i0 .. i0 + m - 1 of op(A) over the same k as f32, and zeros up to whole blocks */
static void pack_floats(const struct bf16_job *g, int64_t i0, int64_t m, int64_t k0, int64_t kc, float *to) {
    int64_t wide = blocks_of(kc) * MK_BF16_BLOCK;
    if (g->ta) {
        _Alignas(64) float turned[TURNED * ROWS];
        for (int64_t p = 0; p < wide; p += TURNED) {
            int64_t n = mk_min(TURNED, mk_max(0, kc - p));
            for (int64_t r = 0; r < n; r++) g->s->from_bf16(m, g->a + (k0 + p + r) * g->lda + i0, turned + r * ROWS);
            g->s->pack_transposed(m, n, TURNED, turned, ROWS, to + p, MK_BF16_LDA);
        }
        return;
    }
    for (int64_t i = 0; i < m; i++) {
        g->s->from_bf16(kc, g->a + (i0 + i) * g->lda + k0, to + i * MK_BF16_LDA);
        memset(to + i * MK_BF16_LDA + kc, 0, (size_t)(wide - kc) * sizeof *to);
    }
}

static void pack_a(const struct bf16_job *g, int64_t i0, int64_t m, int64_t k0, int64_t kc, void *to) {
    int64_t wide = blocks_of(kc) * MK_BF16_BLOCK;
    if (g->path->a_float) {
        pack_floats(g, i0, m, k0, kc, to);
    } else if (g->ta) { /* turned as floats, which hold the same numbers: the floats of a row lie where its numbers do not yet */
        _Alignas(64) float floats[ROWS * MK_BF16_LDA];
        pack_floats(g, i0, m, k0, kc, floats);
        for (int64_t i = 0; i < m; i++) g->s->to_bf16(wide, floats + i * MK_BF16_LDA, (mk_bf16 *)to + i * MK_BF16_LDA);
    } else {
        for (int64_t i = 0; i < m; i++) {
            mk_bf16 *row = (mk_bf16 *)to + i * MK_BF16_LDA;
            memcpy(row, g->a + (i0 + i) * g->lda + k0, (size_t)kc * sizeof *row);
            memset(row + kc, 0, (size_t)(wide - kc) * sizeof *row);
        }
    }
}

/* ---- the kernel ---------------------------------------------------------------------------------- */

/* where a panel of the span has its block of k */
static uint32_t *packed_at(const struct bf16_job *g, int64_t j, int64_t k0) {
    return g->packed + (j * blocks_of(g->k) + k0 / MK_BF16_BLOCK) * (MK_BF16_BLOCK / 2) * COLUMNS;
}

/* items are panels of the span */
static void pack_range(void *arg, int64_t first, int64_t last) {
    const struct bf16_job *g = arg;
    for (int64_t j = first; j < last; j++)
        for (int64_t k0 = 0; k0 < g->k; k0 += KC) pack_b(g, g->first + j, k0, mk_min(KC, g->k - k0), packed_at(g, j, k0));
}

static void one_item(const struct bf16_job *g, int64_t at) {
    _Alignas(64) float a[ROWS * MK_BF16_LDA], sums[GROUP * ROWS * COLUMNS];
    _Alignas(64) uint32_t b[KC / 2 * COLUMNS];
    int64_t i0 = at / g->groups * g->block_rows, m = mk_min(g->block_rows, g->m - i0);
    int64_t start = at % g->groups * g->group, end = mk_min(start + g->group, g->panels);
    for (int64_t j = start; j < end; j++) memset(sums + (j - start) * ROWS * COLUMNS, 0, (size_t)(m * COLUMNS) * sizeof *sums);
    for (int64_t k0 = 0; k0 < g->k; k0 += KC) {
        int64_t kc = mk_min(KC, g->k - k0);
        pack_a(g, i0, m, k0, kc, a);
        for (int64_t j = start; j < end; j++) {
            const uint32_t *panel = b;
            if (g->packed) panel = packed_at(g, j, k0);
            else pack_b(g, g->first + j, k0, kc, b);
            g->path->sweep(m, blocks_of(kc), a, panel, sums + (j - start) * ROWS * COLUMNS);
        }
    }
    size_t size = mk_dtype_bytes(g->c_type);
    for (int64_t j = start; j < end; j++) {
        int64_t column = (g->first + j) * COLUMNS;
        for (int64_t i = 0; i < m; i++)
            g->s->bf16_finish(mk_min(COLUMNS, g->n - column), &g->blend, sums + ((j - start) * ROWS + i) * COLUMNS, g->c_type,
                              (char *)g->c + (size_t)((i0 + i) * g->ldc + column) * size);
    }
}

static void item_range(void *arg, int64_t first, int64_t last) {
    for (int64_t at = first; at < last; at++) one_item(arg, at);
}

/* One span of panels. Groups are small where there would be few items for the threads. */
static void span(mk_exec *e, struct bf16_job *g, int64_t first, int64_t panels) {
    int64_t row_blocks = mk_ceil_div(g->m, g->block_rows), wanted = mk_threads(e) > 1 ? 4 * mk_threads(e) : 1;
    g->first = first;
    g->panels = panels;
    g->group = mk_max(1, mk_min(GROUP, panels * row_blocks / wanted));
    g->groups = mk_ceil_div(panels, g->group);
    if (g->packed) mk_for(e, panels, NS_PER_PACK * (double)(COLUMNS * g->k), pack_range, g);
    double ns = (double)(g->group * COLUMNS) * (double)g->k * (g->path->ns * (double)g->block_rows + (g->packed ? 0 : NS_PER_PACK));
    mk_for(e, row_blocks * g->groups, ns, item_range, g);
}

int mk_bf16_gemm(mk_exec *e, const mk_bf16_path *path, int ta, int64_t m, int64_t n, int64_t k, double alpha, const mk_bf16 *a, int64_t lda,
                 int tb, const mk_bf16 *b, int64_t ldb, double beta, mk_dtype c_type, void *c, int64_t ldc) {
    struct bf16_job g = {.path = path, .s = mk_simd(), .blend = {(mk_real)alpha, (mk_real)beta, 0}, .ta = ta, .tb = tb, .m = m, .n = n, .k = k,
                         .lda = lda, .ldb = ldb, .ldc = ldc, .a = a, .b = b, .c_type = c_type, .c = c};
    if (m <= 0 || n <= 0) return MK_OK;
    int64_t panels = mk_ceil_div(n, COLUMNS), blocks = mk_ceil_div(m, ROWS), most = panels;
    g.block_rows = mk_min(ROWS, mk_ceil_div(mk_ceil_div(m, blocks), path->row_multiple) * path->row_multiple);
    if (m > g.block_rows && k > 0) {
        size_t bytes = (size_t)(blocks_of(k) * MK_BF16_BLOCK * COLUMNS) * sizeof(mk_bf16);
        most = mk_min(panels, mk_max(GROUP, (int64_t)(SPAN_BYTES / bytes)));
        g.packed = mk_scratch(e, (size_t)most * bytes);
        if (!g.packed) return MK_NOMEM;
    }
    for (int64_t j = 0; j < panels; j += most) span(e, &g, j, mk_min(most, panels - j));
    return MK_OK;
}

#else

int mk_bf16_describe(char *text, size_t bytes) {
    if (text) snprintf(text, bytes, "off: the build in double precision has none");
    return 0;
}

#endif
