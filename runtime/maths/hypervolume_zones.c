/* hypervolume_zones.c - a dominated volume cut into boxes that do not overlap
**
** The rows come in descending order of the last objective; p = d - 1 others are left. After some rows, what they leave
** undominated in these p objectives is a union of zones { x : x_j > u_j for all j }, where each bound u_j is the coordinate j of one
** row, its j-th definer (Klamroth, Lacour and Vanderpooten, "On the representation of the search region in multi-objective
** optimization", 2015). A row that lies in no zone is covered by an earlier one. The zones that it lies in are replaced by those
** with one bound moved to the row. Beside each zone lies a box of the dominated region; these boxes together are that region, and
** no two of them overlap (Lacour, Klamroth and Fonseca, "A box decomposition algorithm to compute the hypervolume indicator", 2017).
** The volume in d objectives is the sum over all boxes that ever were of their volume times the length of the last objective over
** which they were there. All terms are positive: nothing cancels.
**
** In three objectives (d = 4) there are at most 2 n + 1 zones at a time, so that the time is O(n^2); a row touches few of them as a rule.
** With more they may be n to the power p / 2 many, and on usual fronts are a few times n.
**
** Coordinates are compared by rank, the greatest having rank 1. Of equal ones the earlier row has the lower rank, as if it were
** greater by next to nothing: so no two rows are level anywhere, the boxes between them have no volume, and a row is
** covered by an earlier one in ranks exactly where it is in numbers.
*/
#include "maths/hypervolume_zones.h"

#include <stdlib.h>
#include <string.h>

enum {
    MOST_P = MOCL_ZONES_TO - 1,
    MOST_ROWS = 1 << 24,
    MOST_ZONES = 1 << 20, /* at a time: some 100 MB */
    ABREAST = 8,          /* zones that are compared at once */
    DIGIT = 11            /* bits of a digit of a sort */
};

/* -- sorting -- */

typedef struct keyed {
    uint64_t key;
    int32_t place;
} keyed;

/* by inserting: few numbers */
static void order_few(keyed *a, int32_t n) {
    for (int32_t i = 1; i < n; i++) {
        keyed x = a[i];
        int32_t j = i;
        for (; j > 0 && a[j - 1].key > x.key; j--) a[j] = a[j - 1];
        a[j] = x;
    }
}

/* By digits, the lowest of those above bit `low` first. Returns where the result lies, a or b. */
static keyed *order_digits(keyed *a, keyed *b, int32_t n, uint64_t differ, int low) {
    enum { SIZE = 1 << DIGIT };
    for (int shift = low; shift < 64; shift += DIGIT) {
        int32_t start[SIZE];
        if (!(differ >> shift & (SIZE - 1))) continue; /* all keys have the same one */
        memset(start, 0, sizeof start);
        for (int32_t i = 0; i < n; i++) start[a[i].key >> shift & (SIZE - 1)]++;
        for (int32_t k = 0, sum = 0; k < SIZE; k++) {
            int32_t count = start[k];
            start[k] = sum;
            sum += count;
        }
        for (int32_t i = 0; i < n; i++) b[start[a[i].key >> shift & (SIZE - 1)]++] = a[i];
        keyed *t = a;
        a = b;
        b = t;
    }
    return a;
}

/* Three digits as a rule tell all keys apart; where they do not, all the others are looked at too. */
static keyed *order_many(keyed *a, keyed *b, int32_t n) {
    uint64_t differ = 0;
    for (int32_t i = 1; i < n; i++) differ |= a[i].key ^ a[0].key;
    int width = differ ? 64 - __builtin_clzll(differ) : 0, low = width > 3 * DIGIT ? width - 3 * DIGIT : 0;
    keyed *sorted = order_digits(a, b, n, differ, low);
    bool right = true;
    for (int32_t i = 1; i < n; i++) right = right && sorted[i - 1].key <= sorted[i].key;
    return right ? sorted : order_digits(sorted, sorted == a ? b : a, n, differ, 0);
}

mocl_status mocl_order_descending(mocl_ctx *ctx, const double *key, int64_t stride, int32_t n, int32_t *order) {
    size_t bytes;
    if (!mocl_mul((size_t)n, 2 * sizeof(keyed), &bytes)) return mocl_nomem(ctx, SIZE_MAX);
    keyed *a = mocl_alloc(ctx, bytes);
    if (!a) return mocl_nomem(ctx, bytes);
    for (int32_t i = 0; i < n; i++) { /* the bits of positive numbers are in their order */
        uint64_t bits;
        memcpy(&bits, &key[i * stride], sizeof bits);
        a[i] = (keyed){~bits, i};
    }
    keyed *sorted = a;
    if (n <= 64) {
        order_few(a, n);
    } else {
        sorted = order_many(a, a + n, n);
    }
    for (int32_t i = 0; i < n; i++) order[i] = sorted[i].place;
    mocl_free(a);
    return MOCL_OK;
}

/* -- zones -- */

/* functions of p that are compiled for each p */
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 7")

/* four ranks, and what comparing them gives: -1 or 0 each */
typedef int32_t four __attribute__((vector_size(16)));
typedef int64_t two __attribute__((vector_size(16)));

typedef struct zone {
    int32_t definer[MOST_P]; /* the row that each bound is from */
    int32_t least[MOST_P];   /* a row moves bound j if its rank exceeds this one, the highest rank j among the other definers */
    double volume;           /* of the box, in p objectives */
    double since;            /* the last objective of the row that made it */
} zone;

typedef struct cutting {
    mocl_ctx *ctx;
    int p;
    int32_t n;
    int32_t *rank; /* (n + p) x p; row n + j is the definer of bound j before there is any: the edge at 0, and all else beyond */
    double *value; /* p x (n + 2): by rank; 0 at n + 1, the edge */
    int32_t *bound[MOST_P]; /* rank of each bound of each zone, side by side, since each row is compared with all of them */
    zone *zones;
    int32_t *hit;
    int32_t size, room;
    double sum, lost; /* the volume so far, and what its rounding left out */
} cutting;

static void add(cutting *c, double v) {
    double sum = c->sum + v, from_v = sum - c->sum;
    c->lost += (c->sum - (sum - from_v)) + (v - from_v);
    c->sum = sum;
}

static mocl_status more_room(cutting *c, int32_t wanted) {
    if (wanted <= c->room) return MOCL_OK;
    int32_t room = c->room;
    while (room < wanted) room *= 2;
    size_t bytes = (size_t)room * sizeof *c->zones;
    void *p = mocl_realloc(c->ctx, c->zones, bytes);
    if (!p) return mocl_nomem(c->ctx, bytes);
    c->zones = p;
    bytes = (size_t)room * sizeof *c->hit;
    if (!(p = mocl_realloc(c->ctx, c->hit, bytes))) return mocl_nomem(c->ctx, bytes);
    c->hit = p;
    for (int j = 0; j < c->p; j++) {
        if (!(p = mocl_realloc(c->ctx, c->bound[j], bytes))) return mocl_nomem(c->ctx, bytes);
        c->bound[j] = p;
    }
    c->room = room;
    return MOCL_OK;
}

static inline int32_t rank_of(const cutting *c, int32_t row, int j, int p) {
    return c->rank[(size_t)row * (size_t)p + (size_t)j];
}

/* The volume of the box beside a zone: from 0 to bound 0, and in objective j from bound j to the least favourable of the definers before j. */
ALWAYS_INLINE double box_volume(const cutting *c, const zone *z, int p) {
    if (z->definer[0] >= c->n) return 0; /* bound 0 is the edge */
    double v = c->value[rank_of(c, z->definer[0], 0, p)];
    UNROLLED
    for (int j = 1; j < p; j++) {
        const double *value = c->value + (size_t)j * ((size_t)c->n + 2);
        int32_t most = rank_of(c, z->definer[0], j, p);
        UNROLLED
        for (int k = 1; k < j; k++) {
            int32_t r = rank_of(c, z->definer[k], j, p);
            most = r > most ? r : most;
        }
        v *= value[most] - value[rank_of(c, z->definer[j], j, p)];
    }
    return v;
}

/* puts at t the zone `from` with bound j moved to row i, whose last objective is `since` */
ALWAYS_INLINE void put_moved(cutting *c, int32_t t, const zone *from, int j, int32_t i, double since, int p) {
    const int32_t *row = c->rank + (size_t)i * (size_t)p;
    zone *z = &c->zones[t];
    UNROLLED
    for (int k = 0; k < p; k++) {
        z->definer[k] = k == j ? i : from->definer[k];
        c->bound[k][t] = k == j ? row[j] : rank_of(c, from->definer[k], k, p);
        int32_t most = k == j ? from->least[j] : row[k];
        UNROLLED
        for (int l = 0; k != j && l < p; l++) {
            if (l == k || l == j) continue;
            int32_t r = rank_of(c, from->definer[l], k, p);
            most = r > most ? r : most;
        }
        z->least[k] = most;
    }
    z->volume = box_volume(c, z, p);
    z->since = since;
}

/* lists in c->hit, ascending, the zones that a row lies in: those whose bounds all have greater ranks */
ALWAYS_INLINE int32_t find(cutting *c, const int32_t *row, int p) {
    int32_t hits = 0, t = 0, *hit = c->hit, size = c->size;
    const int32_t *bound[MOST_P];
    four rank[MOST_P];
    UNROLLED
    for (int j = 0; j < p; j++) {
        bound[j] = c->bound[j];
        rank[j] = (four){row[j], row[j], row[j], row[j]};
    }
    for (; t + ABREAST <= size; t += ABREAST) {
        four a, b, in_a = {-1, -1, -1, -1}, in_b = in_a;
        UNROLLED
        for (int j = 0; j < p; j++) {
            memcpy(&a, bound[j] + t, sizeof a);
            memcpy(&b, bound[j] + t + 4, sizeof b);
            in_a &= a > rank[j];
            in_b &= b > rank[j];
        }
        two any = (two)(in_a | in_b);
        if (!(any[0] | any[1])) continue;
        for (int k = 0; k < 4; k++) {
            hit[hits] = t + k;
            hits -= in_a[k];
        }
        for (int k = 0; k < 4; k++) {
            hit[hits] = t + 4 + k;
            hits -= in_b[k];
        }
    }
    for (; t < size; t++) {
        bool in = true;
        UNROLLED
        for (int j = 0; j < p; j++) in = in && bound[j][t] > row[j];
        hit[hits] = t;
        hits += in;
    }
    return hits;
}

/* Takes row i in, at `last` in the last objective; *inside receives how many zones it lay in. p is a constant where this is called. */
ALWAYS_INLINE mocl_status take(cutting *c, int32_t i, double last, int p, int32_t *inside) {
    const int32_t *row = c->rank + (size_t)i * (size_t)p;
    int32_t hits = find(c, row, p), holes = 0;
    double sum = 0;
    *inside = hits;
    MOCL_TRY(more_room(c, c->size + (p - 1) * hits));
    for (int32_t h = 0; h < hits; h++) {
        int32_t t = c->hit[h], made = 0;
        const zone from = c->zones[t];
        sum += from.volume * (from.since - last);
        UNROLLED
        for (int j = 0; j < p; j++) {
            if (row[j] > from.least[j]) put_moved(c, made++ ? c->size++ : t, &from, j, i, last, p);
        }
        if (!made) c->hit[holes++] = t;
    }
    add(c, sum);
    while (holes > 0) { /* filled from the end, the last hole first, so that the zone that moves is none */
        int32_t t = c->hit[--holes], end = --c->size;
        c->zones[t] = c->zones[end];
        UNROLLED
        for (int j = 0; j < p; j++) c->bound[j][t] = c->bound[j][end];
    }
    return MOCL_OK;
}

static mocl_status take_row(cutting *c, int32_t i, double last, int32_t *inside) {
    switch (c->p) {
    case 3: return take(c, i, last, 3, inside);
    case 4: return take(c, i, last, 4, inside);
    case 5: return take(c, i, last, 5, inside);
    case 6: return take(c, i, last, 6, inside);
    default: return take(c, i, last, 7, inside);
    }
}

/* ranks and values of all objectives but the last; the first zone is everything */
static mocl_status prepare(cutting *c, const mocl_row *rows, int32_t *order, double *column) {
    int p = c->p;
    int32_t n = c->n;
    for (int j = 0; j < p; j++) {
        double *value = c->value + (size_t)j * ((size_t)n + 2);
        for (int32_t i = 0; i < n; i++) column[i] = rows[i].q[j];
        MOCL_TRY(mocl_order_descending(c->ctx, column, 1, n, order));
        value[0] = 0; /* no box reaches rank 0: it is only beside the edge */
        for (int32_t i = 0; i < n; i++) {
            c->rank[(size_t)order[i] * (size_t)p + (size_t)j] = i + 1;
            value[i + 1] = column[order[i]];
        }
        value[n + 1] = 0;
        for (int k = 0; k < p; k++) c->rank[((size_t)n + (size_t)k) * (size_t)p + (size_t)j] = k == j ? n + 1 : 0;
        c->bound[j][0] = n + 1;
        c->zones[0].definer[j] = n + j;
        c->zones[0].least[j] = 0;
    }
    c->zones[0].volume = 0;
    return MOCL_OK;
}

static mocl_status cut(cutting *c, const mocl_row *rows, int64_t *front, bool *done) {
    int64_t compared = 0;
    for (int32_t i = 0; i < c->n; i++) {
        int32_t inside;
        MOCL_TRY(take_row(c, i, rows[i].q[c->p], &inside));
        *front += inside > 0;
        if (c->size > MOST_ZONES) return MOCL_OK;
        if ((compared += c->size) > 1 << 20) {
            MOCL_TRY(mocl_poll(c->ctx));
            compared = 0;
        }
    }
    for (int32_t t = 0; t < c->size; t++) add(c, c->zones[t].volume * c->zones[t].since);
    *done = true;
    return MOCL_OK;
}

mocl_status mocl_volume_by_zones(mocl_ctx *ctx, const mocl_row *rows, int64_t m, int d, double *volume, int64_t *front, bool *done) {
    *done = false;
    if (d < MOCL_ZONES_FROM || d > MOCL_ZONES_TO || m < 1 || m > MOST_ROWS) return MOCL_OK;
    size_t n = (size_t)m, p = (size_t)d - 1; /* at most 2^24 rows: no product of sizes is too large */
    cutting c = {.ctx = ctx, .p = d - 1, .n = (int32_t)m, .room = 256};
    bool some = true;
    int32_t *order = mocl_alloc(ctx, n * sizeof *order);
    double *column = mocl_alloc(ctx, n * sizeof *column);
    c.rank = mocl_alloc(ctx, (n + p) * p * sizeof *c.rank);
    c.value = mocl_alloc(ctx, p * (n + 2) * sizeof *c.value);
    for (int j = 0; j < c.p; j++) some = (c.bound[j] = mocl_alloc(ctx, (size_t)c.room * sizeof *c.bound[j])) && some;
    c.zones = mocl_alloc(ctx, (size_t)c.room * sizeof *c.zones);
    c.hit = mocl_alloc(ctx, (size_t)c.room * sizeof *c.hit);
    mocl_status st = MOCL_OK;
    int64_t covered_by_none = 0;
    if (!order || !column || !c.rank || !c.value || !c.zones || !c.hit || !some) {
        st = mocl_nomem(ctx, (n + p) * p * sizeof *c.rank + p * (n + 2) * sizeof *c.value);
        goto done;
    }
    c.size = 1;
    MOCL_GOTO(prepare(&c, rows, order, column), done);
    c.zones[0].since = rows[0].q[d - 1];
    MOCL_GOTO(cut(&c, rows, &covered_by_none, done), done);
    if (*done) {
        *volume = c.sum + c.lost;
        *front = covered_by_none;
    }
done:
    mocl_free(order);
    mocl_free(column);
    mocl_free(c.rank);
    mocl_free(c.value);
    for (int j = 0; j < c.p; j++) mocl_free(c.bound[j]);
    mocl_free(c.zones);
    mocl_free(c.hit);
    return st;
}
