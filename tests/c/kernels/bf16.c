/* bf16.c - products of bf16: every way to compute them gives the bits of a tile unit, whatever lies beside a row, and reads and writes
** nothing beside its operands (guard pages, since no sanitizer sees loads and stores of tiles). */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "formats.h"
#include "harness.h"
#include "cpu/simd.h"

#ifndef MK_REAL_DOUBLE

/* ---- the arithmetic, one output at a time -------------------------------------------------------- */

static int is_nan(uint32_t u) { return (u & 0x7fffffff) > 0x7f800000; }
static float flushed(uint32_t u) { return mk_bits_float(u & 0x7f800000 ? u : u & 0x80000000); }

/* What the twin does another way, to see that the data tell: each must give other bits somewhere. */
enum defect { NONE, ONE_CHAIN, OLD_SUM_FIRST, NO_FLUSH, FLUSH_BEFORE_ROUNDING, SUBNORMAL_INPUTS, ROUNDED_PRODUCT, DESCENDING, BLOCKS_OF_64,
              DEFECTS };
static const char *const defect_name[] = {"none", "one chain", "the old sum first", "results below 2^-126 kept",
                                          "flushed before rounding", "subnormal inputs kept", "the product rounded", "k descending",
                                          "blocks of 64"};

static uint32_t rounded(long double sum, enum defect d) {
    float f = (float)sum;
    long double least = d == FLUSH_BEFORE_ROUNDING ? 0x1p-126L : 0x1p-126L - 0x1p-151L;
    if (sum != sum) return 0x7fc00000;
    if (d != NO_FLUSH && fabsl(sum) < least) return signbit(sum) ? 0x80000000 : 0;
    return mk_float_bits(f);
}

static float input(uint32_t u, enum defect d) { return d == SUBNORMAL_INPUTS ? mk_bits_float(u) : flushed(u); }

static uint32_t multiply_add(uint32_t a, uint32_t b, uint32_t c, enum defect d) {
    float x = input(a, d), y = input(b, d);
    if (is_nan(a) || is_nan(b) || is_nan(c)) return 0x7fc00000;
    long double product = d == ROUNDED_PRODUCT ? (long double)(float)(x * y) : (long double)x * (long double)y;
    return rounded(product + (long double)input(c, d), d);
}

static uint32_t add(uint32_t a, uint32_t b, enum defect d) { return multiply_add(a, 0x3f800000, b, d); }

/* sum over k of a[k] b[k], which begins with `sum`; a and b are read at a distance */
static uint32_t twin(uint32_t sum, int64_t k, const mk_bf16 *a, int64_t step_a, const mk_bf16 *b, int64_t step_b, enum defect d) {
    int64_t block = d == BLOCKS_OF_64 ? 64 : 32;
    for (int64_t k0 = 0; k0 < k; k0 += block) {
        uint32_t chain[2] = {0, 0};
        if (d == OLD_SUM_FIRST) chain[0] = sum;
        for (int64_t i = 0; i < block; i++) {
            int64_t p = k0 + (d == DESCENDING ? block - 1 - i : i);
            uint32_t x = p < k ? (uint32_t)a[p * step_a] << 16 : 0, y = p < k ? (uint32_t)b[p * step_b] << 16 : 0;
            uint32_t *to = &chain[d == ONE_CHAIN ? 0 : p % 2];
            *to = multiply_add(x, y, *to, d);
        }
        sum = d == OLD_SUM_FIRST ? add(chain[0], chain[1], d) : add(add(chain[0], chain[1], d), sum, d);
    }
    return sum;
}

/* ---- the ways there are here --------------------------------------------------------------------- */

static int paths(const mk_bf16_path **list) {
    int n = 0;
    list[n++] = &mk_bf16_plain;
    list[n++] = &mk_bf16_emulated;
#ifdef MK_SIMD_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) list[n++] = mk_simd_avx2.bf16;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        list[n++] = mk_simd_avx512.bf16;
#endif
#ifdef MK_AMX
    if (!mk_amx_open()) list[n++] = &mk_bf16_amx;
#endif
    return n;
}

/* a and b of k numbers in the first row and column of a panel that is packed for one path */
static uint32_t swept(const mk_bf16_path *path, uint32_t sum, int64_t k, const mk_bf16 *a, const mk_bf16 *b) {
    int64_t blocks = mk_ceil_div(k, 32);
    float row[MK_BF16_LDA] = {0}, sums[MK_BF16_COLUMNS] = {0};
    uint32_t *pairs = bytes_new((size_t)(blocks * 16 * MK_BF16_COLUMNS) * sizeof *pairs);
    mk_bf16 *half = (mk_bf16 *)row;
    memset(pairs, 0, (size_t)(blocks * 16 * MK_BF16_COLUMNS) * sizeof *pairs);
    for (int64_t p = 0; p < k; p++) {
        if (path->a_float) row[p] = mk_from_bf16(a[p]);
        else half[p] = a[p];
        pairs[p / 2 * MK_BF16_COLUMNS] |= (uint32_t)b[p] << (p % 2 ? 16 : 0);
    }
    sums[0] = mk_bits_float(sum);
    path->sweep(1, blocks, row, pairs, sums);
    return mk_float_bits(sums[0]);
}

static void same(const char *what, uint32_t got, uint32_t want) {
    if (is_nan(want) ? is_nan(got) : got == want) return;
    fail("%s: %08" PRIx32 ", %08" PRIx32 " is right", what, got, want);
}

/* ---- facts, and the vectors of the hardware ------------------------------------------------------ */

/* What follows from the description in bf16.h by hand. */
static const struct {
    const char *what;
    uint32_t sum;
    int n;
    mk_bf16 a[8], b[8];
    uint32_t want;
} facts[] = {
    {"the pair is added before the old sum: 2^24 + (1 + 1) is 2^24 + 2", 0x4b800000, 2, {0x3f80, 0x3f80}, {0x3f80, 0x3f80}, 0x4b800001},
    {"2^24 and 1 in one chain are 2^24", 0, 4, {0x4b80, 0, 0x3f80, 0}, {0x3f80, 0x3f80, 0x3f80, 0x3f80}, 0x4b800000},
    {"2^24 in one chain, two times 1 in the other", 0, 4, {0x4b80, 0x3f80, 0, 0x3f80}, {0x3f80, 0x3f80, 0x3f80, 0x3f80}, 0x4b800001},
    {"a subnormal number counts as zero", 0, 2, {0x0001, 0}, {0x7f00, 0}, 0},
    {"so does one of the old sum, of its sign", 0x80000001, 2, {0, 0}, {0, 0}, 0},
    {"what is below 2^-126 after rounding is zero", 0, 2, {0x2000, 0}, {0x1f00, 0}, 0},
    {"2^-126 stays", 0, 2, {0x2000, 0}, {0x2000, 0}, 0x00800000},
    {"2^-126 - 2^-151 is rounded to 2^-126 first, and stays", 0, 4, {0x2000, 0, 0x9980, 0}, {0x2000, 0, 0x1a00, 0}, 0x00800000},
    {"2^-126 - 1.25 2^-151 is rounded down, and is zero", 0, 4, {0x2000, 0, 0x9980, 0}, {0x2000, 0, 0x1a20, 0}, 0},
    {"no product overflows on its way: -2^127 + 2 2^127", 0, 4, {0xff00, 0, 0x7f00, 0}, {0x3f80, 0, 0x4000, 0}, 0x7f000000},
    {"but a chain does, before an old sum of -2^127 comes", 0xff000000, 2, {0x7f00, 0}, {0x4000, 0}, 0x7f800000},
    {"infinity times zero is no number", 0, 2, {0x7f80, 0}, {0, 0}, 0x7fc00000},
    {"infinity times a subnormal number neither", 0, 2, {0x7f80, 0}, {0x0001, 0}, 0x7fc00000},
    {"-0 + 0 is 0", 0x80000000, 2, {0, 0}, {0, 0}, 0},
};

static int differs[DEFECTS]; /* outputs that a defect changes */

static void check_facts(const mk_bf16_path *path) {
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) {
        same(facts[i].what, swept(path, facts[i].sum, facts[i].n, facts[i].a, facts[i].b), facts[i].want);
        same("the twin", twin(facts[i].sum, facts[i].n, facts[i].a, 1, facts[i].b, 1, NONE), facts[i].want);
        for (int d = 1; d < DEFECTS; d++)
            differs[d] += twin(facts[i].sum, facts[i].n, facts[i].a, 1, facts[i].b, 1, (enum defect)d) != facts[i].want;
    }
}

/* shared/data/amx, where it is there: one output of the instruction, or of several in order, on a line */
static void check_golden(const mk_bf16_path *const *list, int n) {
    const char *shared = getenv("MOCL_SHARED");
    char name[4096], line[8192];
    snprintf(name, sizeof name, "%s/data/amx/tdpbf16ps.txt", shared ? shared : "../shared");
    FILE *f = fopen(name, "r");
    int64_t seen = 0;
    if (!f) {
        printf("# skip: vectors of a tile unit, since there is no %s\n", name);
        return;
    }
    while (fgets(line, sizeof line, f)) {
        mk_bf16 a[MK_BF16_KC] = {0}, b[MK_BF16_KC] = {0};
        char *at = line + 1;
        if (line[0] != 't') continue;
        int64_t k = 2 * strtol(at, &at, 10);
        uint32_t sum = (uint32_t)strtoul(at, &at, 16), want;
        if (k > MK_BF16_KC) {
            fail("a vector of %" PRId64 " numbers", k);
            break;
        }
        for (int64_t i = 0; i < k; i++) a[i] = (mk_bf16)strtoul(at, &at, 16);
        for (int64_t i = 0; i < k; i++) b[i] = (mk_bf16)strtoul(at, &at, 16);
        want = (uint32_t)strtoul(at, &at, 16);
        seen++;
        for (int p = -1; p < n; p++) {
            uint32_t got = p < 0 ? twin(sum, k, a, 1, b, 1, NONE) : swept(list[p], sum, k, a, b);
            /* the hardware's last block ended early: zeros behind it may turn the sign of a zero */
            if (k % 32 && !(got << 1) && !(want << 1)) continue;
            same(p < 0 ? "a vector, twin" : list[p]->name, got, want);
        }
        if (seen % 64 == 0) buffers_free();
    }
    fclose(f);
    ok(seen > 100, "there are vectors");
}

/* ---- products with guard pages ------------------------------------------------------------------- */

/* n bytes that end where a page begins that nobody may touch; or, where `begin`, that begin behind one */
struct guarded {
    char *map;
    size_t bytes;
};

static void *guarded_new(struct guarded *g, size_t n, int begin) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (n + page - 1) / page * page;
    g->bytes = whole + 2 * page;
    g->map = mmap(NULL, g->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->map == MAP_FAILED || mprotect(g->map, page, PROT_NONE) || mprotect(g->map + page + whole, page, PROT_NONE)) {
        printf("no guard pages\n");
        exit(1);
    }
    return begin ? g->map + page : g->map + page + whole - n;
}

static void guarded_free(struct guarded *g) { munmap(g->map, g->bytes); }

/* numbers of a kind: about 1; around 2^-126 when multiplied; wide; with infinities, NaN, subnormal and zeros; any bits */
enum { KINDS = 5 };
static mk_bf16 draw(int kind) {
    uint32_t bits = (uint32_t)below(65536);
    switch (kind) {
        case 0: return mk_to_bf16((float)(uniform() * 2 - 1));
        case 1: return (mk_bf16)((bits & 0x807f) | (60 + (uint32_t)below(7)) << 7);
        case 2: return (mk_bf16)((bits & 0x807f) | (117 + (uint32_t)below(21)) << 7);
        case 3: {
            static const mk_bf16 special[] = {0x7f80, 0xff80, 0x7fc0, 0x7f81, 0x0001, 0x807f, 0, 0x8000, 0x7f7f, 0x0080};
            return below(20) ? mk_to_bf16((float)(uniform() * 2 - 1)) : special[below(10)];
        }
        default: return (mk_bf16)bits;
    }
}

struct shape {
    int64_t m, n, k;
    int ta, tb, begin;
};

static void fill(int64_t rows, int64_t columns, int64_t ld, int kind, mk_bf16 *x) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) x[i * ld + j] = draw(kind);
}

/* alpha sum + beta c as bf16.h has it, in c's type */
static uint32_t finished(uint32_t sum, float alpha, float beta, uint32_t old) {
    float scaled = alpha * mk_bits_float(sum), v = scaled;
    if (beta != 0) {
        float kept = beta * mk_bits_float(old);
        v = scaled + kept;
    }
    return v == v ? mk_float_bits(v) : 0x7fc00000;
}

static void check_shape(const mk_bf16_path *path, struct shape s, int kind) {
    struct guarded ga, gb, gc;
    int64_t extra = s.k % 2 ? 1 : 0; /* another distance of rows than their length */
    int64_t lda = (s.ta ? s.m : s.k) + extra, ldb = (s.tb ? s.k : s.n) + extra, ldc = s.n + extra, rows = s.ta ? s.k : s.m,
            rows_b = s.tb ? s.n : s.k;
    /* the last row ends where the memory does */
    mk_bf16 *a = guarded_new(&ga, (size_t)((rows - 1) * lda + (s.ta ? s.m : s.k)) * 2, s.begin);
    mk_bf16 *b = guarded_new(&gb, (size_t)((rows_b - 1) * ldb + (s.tb ? s.k : s.n)) * 2, s.begin);
    fill(rows, s.ta ? s.m : s.k, lda, kind, a);
    fill(rows_b, s.tb ? s.k : s.n, ldb, kind, b);
    int in_bf16 = (int)below(2), plain = (int)below(2);
    float alpha = plain ? 1 : .75f, beta = plain ? (float)below(2) : -1.5f;
    size_t size = in_bf16 ? 2 : 4, bytes = (size_t)((s.m - 1) * ldc + s.n) * size;
    char *c = guarded_new(&gc, bytes, s.begin), *was = bytes_new(bytes);
    for (size_t i = 0; i < bytes / size; i++) {
        float v = (float)(uniform() * 4 - 2);
        mk_bf16 h = mk_to_bf16(v);
        memcpy(c + i * size, in_bf16 ? (void *)&h : (void *)&v, size);
    }
    memcpy(was, c, bytes);
    int code = mk_bf16_gemm(E, path, s.ta, s.m, s.n, s.k, alpha, a, lda, s.tb, b, ldb, beta, in_bf16 ? MK_BF16 : MK_F32, c, ldc);
    ok(code == MK_OK, "a product");
    record(c, bytes);
    for (int64_t i = 0; i < s.m; i++)
        for (int64_t j = 0; j < ldc && i * ldc + j < (int64_t)(bytes / size); j++) {
            uint32_t got = 0, old = 0, want;
            memcpy(&got, c + (size_t)(i * ldc + j) * size, size);
            memcpy(&old, was + (size_t)(i * ldc + j) * size, size);
            if (j >= s.n) {
                ok(got == old, "what lies between rows of C stays");
                continue;
            }
            if (s.m * s.n > 2000 && below(s.m * s.n) > 2000) continue;
            const mk_bf16 *x = a + (s.ta ? i : i * lda), *y = b + (s.tb ? j * ldb : j);
            int64_t step_x = s.ta ? lda : 1, step_y = s.tb ? 1 : ldb;
            uint32_t sum = twin(0, s.k, x, step_x, y, step_y, NONE);
            want = finished(sum, alpha, beta, in_bf16 ? old << 16 : old);
            if (in_bf16) want = mk_to_bf16(mk_bits_float(want));
            if (got != want) {
                fail("%s: [%" PRId64 ",%" PRId64 "] of %" PRId64 " x %" PRId64 " x %" PRId64 " (ta %d tb %d, numbers %d): %" PRIx32
                     ", %" PRIx32 " is right", path->name, i, j, s.m, s.n, s.k, s.ta, s.tb, kind, got, want);
                i = s.m;
                break;
            }
            for (int d = 1; path == &mk_bf16_plain && d < DEFECTS && s.m * s.n < 400; d++)
                differs[d] += twin(0, s.k, x, step_x, y, step_y, (enum defect)d) != sum;
        }
    guarded_free(&ga);
    guarded_free(&gb);
    guarded_free(&gc);
    buffers_free();
}

/* A sweep reads its rows of A, its blocks of B and its sums, and nothing beside them: loads and stores of tiles take whole rows. */
static void check_bounds(const mk_bf16_path *path) {
    static const int64_t rows[] = {1, 2, 3, 5, 6, 7, 15, 16, 17, 31, 32, 33, 64};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        for (int begin = 0; begin < 2; begin++) {
            int64_t m = rows[r], blocks = 1 + below(3), k = blocks * MK_BF16_BLOCK, size = path->a_float ? 4 : 2;
            struct guarded ga, gb, gc;
            char *a = guarded_new(&ga, (size_t)(((m - 1) * MK_BF16_LDA + k) * size), begin);
            uint32_t *b = guarded_new(&gb, (size_t)(k / 2 * MK_BF16_COLUMNS) * sizeof *b, begin);
            float *sums = guarded_new(&gc, (size_t)(m * MK_BF16_COLUMNS) * sizeof *sums, begin);
            mk_bf16 *x = bytes_new((size_t)(m * k) * sizeof *x);
            for (int64_t i = 0; i < m * k; i++) {
                x[i] = draw(2);
                float f = mk_from_bf16(x[i]);
                memcpy(a + (i / k * MK_BF16_LDA + i % k) * size, size == 4 ? (void *)&f : (void *)&x[i], (size_t)size);
            }
            for (int64_t i = 0; i < k / 2 * MK_BF16_COLUMNS; i++) b[i] = draw(2) | (uint32_t)draw(2) << 16;
            for (int64_t i = 0; i < m * MK_BF16_COLUMNS; i++) sums[i] = 1;
            path->sweep(m, blocks, a, b, sums);
            for (int64_t i = 0; i < m; i++)
                for (int64_t j = 0; j < MK_BF16_COLUMNS; j++) {
                    mk_bf16 column[3 * MK_BF16_BLOCK];
                    for (int64_t p = 0; p < k; p++) column[p] = (mk_bf16)(b[p / 2 * MK_BF16_COLUMNS + j] >> (p % 2 ? 16 : 0));
                    same(path->name, mk_float_bits(sums[i * MK_BF16_COLUMNS + j]), twin(0x3f800000, k, x + i * k, 1, column, 1, NONE));
                }
            guarded_free(&ga);
            guarded_free(&gb);
            guarded_free(&gc);
            buffers_free();
        }
}

/* rows of a product of many are those of products of few, wherever they lie; and a row of NaN beside one leaves it alone */
static void check_rows(const mk_bf16_path *path) {
    int64_t m = 203, n = 70, k = 600;
    mk_bf16 *a = bytes_new((size_t)(m * k) * 2), *w = bytes_new((size_t)(n * k) * 2);
    float *all = bytes_new((size_t)(m * n) * 4), *some = bytes_new((size_t)(m * n) * 4);
    fill(m, k, k, 2, a);
    fill(n, k, k, 2, w);
    mk_bf16_gemm(E, path, 0, m, n, k, 1, a, k, 1, w, k, 0, MK_F32, all, n);
    record(all, (size_t)(m * n) * 4);
    for (int64_t rows = 1; rows < 60; rows += rows < 4 ? 1 : 11) {
        int64_t at = below(m - rows);
        mk_bf16_gemm(E, path, 0, rows, n, k, 1, a + at * k, k, 1, w, k, 0, MK_F32, some, n);
        same_bits("rows alone", rows * n, some, all + at * n);
    }
    for (int64_t p = 0; p < k; p++) a[5 * k + p] = 0x7fc0;
    mk_bf16_gemm(E, path, 0, m, n, k, 1, a, k, 1, w, k, 0, MK_F32, some, n);
    same_bits("rows before NaN", 5 * n, some, all);
    same_bits("rows behind NaN", (m - 6) * n, some + 6 * n, all + 6 * n);
    ok(some[5 * n] != some[5 * n], "NaN");
}

static void check_conversions(void) {
    const struct mk_simd *sets[] = {&mk_simd_base,
#ifdef MK_SIMD_X86
                                    &mk_simd_avx2, &mk_simd_avx512,
#endif
    };
    const mk_bf16_path *list[8];
    int n_paths = paths(list);
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) {
        int there = s == 0;
        for (int p = 0; p < n_paths; p++) there = there || list[p] == sets[s]->bf16;
        if (!there) continue;
        enum { N = 67 };
        for (int64_t at = 0; at < 65536; at += N) {
            mk_bf16 x[N], back[N];
            float y[N];
            uint32_t both[N];
            for (int i = 0; i < N; i++) x[i] = (mk_bf16)(at + i);
            sets[s]->from_bf16(N, x, y);
            for (int i = 0; i < N; i++) ok(mk_float_bits(y[i]) == (uint32_t)x[i] << 16, "bf16 as f32");
            for (int i = 0; i < N; i++) y[i] = mk_bits_float((uint32_t)x[i] << 16 | (uint32_t)below(65536));
            sets[s]->to_bf16(N, y, back);
            for (int i = 0; i < N; i++) ok(back[i] == mk_to_bf16(y[i]), "f32 as bf16");
            sets[s]->bf16_pairs(N, x, back, both);
            for (int i = 0; i < N; i++) ok(both[i] == (x[i] | (uint32_t)back[i] << 16), "pairs");
        }
    }
}

void test_bf16(void) {
    static const struct shape shapes[] = {
        {1, 1, 1, 0, 1, 0}, {1, 32, 32, 0, 1, 1}, {1, 33, 64, 0, 1, 0}, {2, 31, 33, 0, 1, 0}, {5, 64, 95, 0, 1, 1}, {16, 32, 576, 0, 1, 0},
        {17, 48, 66, 0, 1, 0}, {31, 7, 34, 0, 1, 1}, {33, 65, 31, 0, 1, 0}, {97, 40, 544, 0, 1, 0}, {100, 33, 513, 0, 1, 0},
        {3, 33, 50, 0, 0, 0}, {5, 32, 47, 0, 0, 0}, {18, 64, 47, 0, 0, 1}, {98, 35, 600, 0, 0, 0}, {16, 70, 130, 1, 0, 0}, {35, 16, 97, 1, 0, 1},
        {130, 20, 70, 1, 0, 0}, {7, 9, 65, 1, 1, 0}, {300, 300, 32, 0, 1, 0}};
    const mk_bf16_path *list[8];
    int n = paths(list);
    memset(differs, 0, sizeof differs);
    for (int p = 0; p < n; p++) {
        check_facts(list[p]);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            for (int kind = 0; kind < KINDS; kind++)
                if (shapes[i].m * shapes[i].n < 4000 || kind == (int)i % KINDS) check_shape(list[p], shapes[i], kind);
        check_rows(list[p]);
        check_bounds(list[p]);
        buffers_free();
    }
    for (int d = 1; d < DEFECTS; d++)
        if (!differs[d]) fail("nothing here tells a product from one with a defect: %s", defect_name[d]);
    check_golden(list, n);
    check_conversions();
    buffers_free();
}

#else

void test_bf16(void) {}

#endif
