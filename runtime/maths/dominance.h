/* dominance.h - which of many rows no other dominates. Part of hypervolume.h; not for other callers.
**
** Larger is better; rows hold d finite numbers. Equal rows do not dominate each other.
*/
#ifndef MOCL_DOMINANCE_H
#define MOCL_DOMINANCE_H

#include "base.h"

/* a row and where it came from; sorting moves these, not the rows */
typedef struct mocl_row {
    const double *q;
    int64_t index;
    int d;
} mocl_row;

/* comparisons for qsort: descending, first or last objective first; equal rows by index */
int mocl_row_by_first(const void *a, const void *b);
int mocl_row_by_last(const void *a, const void *b);

/* a >= b in d objectives */
static inline bool mocl_row_covers(const double *a, const double *b, int d) {
    for (int k = 0; k < d; k++) {
        if (a[k] < b[k]) return false;
    }
    return true;
}

static inline bool mocl_row_equal(const double *a, const double *b, int d) {
    for (int k = 0; k < d; k++) {
        if (a[k] != b[k]) return false;
    }
    return true;
}

/* Keeps, in place and in order, those of the n rows that no other dominates; *kept receives how many. Rows are sorted
** by_first. One and two objectives: O(n). Three: a sweep, O(n log n). More: divide and conquer, O(n log^(d-1) n) and at most
** about n^2 comparisons of rows. */
mocl_status mocl_keep_nondominated(mocl_ctx *ctx, mocl_row *rows, int64_t n, int d, int64_t *kept);

#endif
