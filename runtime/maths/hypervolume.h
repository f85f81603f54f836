/* hypervolume.h - Pareto dominance and the exact volume that a set of points dominates.
**
** Larger is better throughout; a caller that minimises negates points and reference. Points are
*rows
** of d finite numbers. It refuses NaN and infinities and estimates nothing by sampling.
*/
#ifndef MOCL_HYPERVOLUME_H
#define MOCL_HYPERVOLUME_H

#include "base.h"

enum { MOCL_MAX_OBJECTIVES = 64 };

typedef struct mocl_hypervolume_info {
    int64_t beyond; /* points below the reference in some objective: they count for nothing */
    int64_t front;  /* points that are left: above the reference and not dominated, copies once */
} mocl_hypervolume_info;

/* *volume = the volume of the union of the boxes between reference[0..d-1] and each point. One
** objective: the largest. Two: a sort. Three: a sweep. Four to eight: boxes that do not overlap
** (hypervolume_zones.c). More: WFG (While, Bradstreet and Barone 2012), sliced objective by objective
** down to these; its time grows steeply with n and d. The order of the points changes no bit. */
mocl_status mocl_hypervolume(mocl_ctx *ctx, int64_t n, int d, const double *points,
                             const double *reference, double *volume, mocl_hypervolume_info *info);

/* index[0..*count-1] = the rows (from 0, ascending) that no other row dominates; copies of a row do
** not dominate each other and all stay. index has room for n. Two objectives: O(n log n). */
mocl_status mocl_nondominated(mocl_ctx *ctx, int64_t n, int d, const double *points, int64_t *index,
                              int64_t *count);

#endif
