/* hypervolume_zones.h - the volume of boxes [0, q] in four to eight objectives by cutting it into boxes that do not overlap.
** Part of hypervolume.c; not for other callers.
*/
#ifndef MOCL_HYPERVOLUME_ZONES_H
#define MOCL_HYPERVOLUME_ZONES_H

#include "maths/dominance.h"

enum { MOCL_ZONES_FROM = 4, MOCL_ZONES_TO = 8 };

/* order[0..n-1] = the places 0 .. n-1 of positive finite numbers key[i * stride], greatest first, equal ones in ascending
** order. O(n). */
mocl_status mocl_order_descending(mocl_ctx *ctx, const double *key, int64_t stride, int32_t n, int32_t *order);

/* *volume and *front (rows that none covers, copies once) of m rows of d positive numbers, sorted by_last, dominated ones and
** copies among them. *done is false, and nothing else is set, where this method does not serve: more rows or more zones
** than it makes room for. */
mocl_status mocl_volume_by_zones(mocl_ctx *ctx, const mocl_row *rows, int64_t m, int d, double *volume, int64_t *front, bool *done);

#endif
