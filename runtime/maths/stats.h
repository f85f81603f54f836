/* stats.h - figures over lists of numbers and sets of points that are loops over pairs.
**
** Points are rows of d numbers, larger is better. It refuses NaN where an order is asked for.
*/
#ifndef MOCL_STATS_H
#define MOCL_STATS_H

#include "base.h"

/* a number as a script has it: an integer, which a double may not hold, or a double */
typedef struct mocl_number {
    bool is_integer;
    int64_t i;
    double x; /* where it is no integer */
} mocl_number;

/* -1, 0 or 1, by their exact values; no NaN */
int mocl_compare_numbers(mocl_number a, mocl_number b);

typedef enum { MOCL_P_AUTO, MOCL_P_EXACT, MOCL_P_ASYMPTOTIC } mocl_p_method;

/* Kendall's tau-b of n pairs and its two-sided p-value: exact (Kendall 1970), an error where there
** are ties, or normal with the variance corrected for ties. AUTO: exact where nothing is tied and
** n <= 33 or at most one pair is out of order either way. Both are NaN where x or y is constant or
** n < 2. O(n log n); EXACT takes n times as many steps as there are pairs out of order. */
mocl_status mocl_kendall_tau(mocl_ctx *ctx, mocl_p_method method, int64_t n, const double *x,
                             const double *y, double *tau, double *p);

/* The distances below do not overflow or vanish on the way: they are infinite where the result itself is beyond a double. */

/* mean Euclidean distance over the n (n - 1) / 2 pairs, 0 where there is none */
double mocl_mean_pairwise_distance(int64_t n, int d, const double *points);
/* inverted generational distance: the mean, over the m rows of front, of the Euclidean distance to
** the nearest point; n, m > 0 */
double mocl_igd(int64_t n, int d, const double *points, int64_t m, const double *front);
/* additive epsilon indicator: what must be added to every objective of the points until each row of
** front is weakly dominated by one of them; n, m > 0 */
double mocl_epsilon(int64_t n, int d, const double *points, int64_t m, const double *front);

#endif
