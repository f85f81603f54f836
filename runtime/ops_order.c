/* ops_order.c - order, choice and draws. The positions are found on the host, which waits for a device; values are then
** taken on the device, so that gradients flow as they do through index_select. */
#include <math.h>
#include <string.h>

#include "ops.h"
#include "philox.h"
#include "rng.h"

/* ---- order ---- */

/* is a to stand in front of b? NaN counts as larger than any number */
static bool before(double a, double b, bool descending) {
    double low = descending ? b : a, high = descending ? a : b;
    if (isnan(low)) return false;
    return isnan(high) || low < high;
}

/* Sorts n positions by x, stable: runs of one, two, four entries are merged; tmp: n more. */
static void merge_sort(const mk_real *x, int64_t n, bool descending, int32_t *idx, int32_t *tmp) {
    for (int64_t i = 0; i < n; i++) idx[i] = (int32_t)i;
    for (int64_t width = 1; width < n; width *= 2) {
        for (int64_t first = 0; first < n; first += 2 * width) {
            int64_t middle = first + width < n ? first + width : n, end = first + 2 * width < n ? first + 2 * width : n;
            int64_t a = first, b = middle;
            for (int64_t k = first; k < end; k++) {
                bool right = a == middle || (b < end && before((double)x[idx[b]], (double)x[idx[a]], descending));
                tmp[k] = right ? idx[b++] : idx[a++];
            }
        }
        memcpy(idx, tmp, sizeof *idx * (size_t)n);
    }
}

/* dim to the end, or back from there: the same order of the others */
static mocl_status move_dim(mocl_tensor **out, mocl_tensor *x, int dim, bool to_end) {
    int order[MK_MAX_DIMS], k = 0;
    for (int i = 0; i < x->ndim; i++) {
        if (to_end) order[i] = i < dim ? i : i < x->ndim - 1 ? i + 1 : dim;
        else order[i] = i == dim ? x->ndim - 1 : k++;
    }
    return mocl_permute(out, x, order);
}

/* The entries of x, flat, at the places of a list, as a tensor of `shape`. Differentiable in x. */
static mocl_status take(mocl_tensor **out, mocl_tensor *x, int64_t n, const int32_t *places, int ndim, const int64_t *shape) {
    mocl_tensor *flat = NULL, *idx = NULL, *taken = NULL;
    int64_t all = -1;
    *out = NULL;
    mocl_status st = mocl_reshape(&flat, x, 1, &all);
    if (!st) st = mocl_tensor_from_host(&idx, x->storage->dev, MK_I32, 1, &n, places);
    if (!st) st = mocl_index_select_known(&taken, flat, idx);
    if (!st) st = mocl_reshape(out, taken, ndim, shape);
    mocl_tensor_unref(flat);
    mocl_tensor_unref(idx);
    mocl_tensor_unref(taken);
    return st;
}

static mocl_status too_large(const char *op, mocl_tensor *x) {
    if (mocl_tensor_numel(x) <= INT32_MAX) return MOCL_OK;
    return mocl_fail(x->ctx, MOCL_E_SHAPE, "%s: more than 2147483647 entries", op);
}

mocl_status mocl_sort(mocl_tensor **values, mocl_tensor **positions, const char *op, mocl_tensor *x, int dim, int64_t k, bool descending) {
    mocl_tensor *moved = NULL, *rows = NULL, *taken = NULL, *idx = NULL;
    mk_real *host = NULL;
    int32_t *order = NULL;
    *values = *positions = NULL;
    MOCL_TRY(mocl_need_real(op, x));
    MOCL_TRY(too_large(op, x));
    int64_t n = x->shape[dim], numel = mocl_tensor_numel(x), shape[MK_MAX_DIMS];
    if (k < 0) k = n;
    if (k > n) return mocl_fail(x->ctx, MOCL_E_SHAPE, "%s: %lld of %lld entries", op, (long long)k, (long long)n);
    int64_t n_rows = n ? numel / n : 0;
    mocl_status st = move_dim(&moved, x, dim, true);
    if (!st) st = mocl_clone(&rows, moved);
    if (!st && !(host = mocl_alloc(x->ctx, sizeof *host * (size_t)(numel + 1)))) st = MOCL_E_NOMEM;
    if (!st && !(order = mocl_alloc(x->ctx, sizeof *order * (size_t)(2 * n + 2 * n_rows * k + 1)))) st = MOCL_E_NOMEM;
    if (!st) st = mocl_tensor_to_host(rows, host);
    int32_t *idx_row = order, *all = order ? order + 2 * n : NULL, *places = all ? all + n_rows * k : NULL;
    for (int64_t r = 0; !st && r < n_rows; r++) {
        merge_sort(host + r * n, n, descending, idx_row, idx_row + n);
        memcpy(all + r * k, idx_row, sizeof *all * (size_t)k);
        for (int64_t i = 0; i < k; i++) places[r * k + i] = (int32_t)(r * n + idx_row[i]);
        st = mocl_poll(x->ctx);
    }
    if (!st) {
        memcpy(shape, rows->shape, sizeof shape);
        shape[rows->ndim - 1] = k;
        st = take(&taken, rows, n_rows * k, places, rows->ndim, shape);
    }
    if (!st) st = mocl_tensor_from_host(&idx, x->storage->dev, MK_I32, rows->ndim, shape, all);
    if (!st) st = move_dim(values, taken, dim, false);
    if (!st) st = move_dim(positions, idx, dim, false);
    if (st) mocl_drop_on(st, values);
    mocl_free(host);
    mocl_free(order);
    mocl_tensor_unref(moved);
    mocl_tensor_unref(rows);
    mocl_tensor_unref(taken);
    mocl_tensor_unref(idx);
    return st;
}

/* ---- choice ---- */

mocl_status mocl_masked_select(mocl_tensor **out, mocl_tensor *x, mocl_tensor *mask) {
    *out = NULL;
    char a[128], b[128];
    MOCL_TRY(mocl_need_real("masked_select", x));
    MOCL_TRY(mocl_need_same_device("masked_select", x, mask));
    MOCL_TRY(too_large("masked_select", x));
    if (!mocl_tensor_same_shape(x, mask))
        return mocl_fail(x->ctx, MOCL_E_SHAPE, "masked_select: the mask has shape %s, the tensor %s; expand one",
                         mocl_shape_text(a, mask->ndim, mask->shape), mocl_shape_text(b, x->ndim, x->shape));
    mocl_tensor *wide = NULL;
    mk_real *host = NULL;
    int32_t *places = NULL;
    int64_t numel = mocl_tensor_numel(x), n = 0;
    mocl_status st = mocl_to_dtype(&wide, mask, MK_F32);
    if (!st && !(host = mocl_alloc(x->ctx, sizeof *host * (size_t)(numel + 1)))) st = MOCL_E_NOMEM;
    if (!st && !(places = mocl_alloc(x->ctx, sizeof *places * (size_t)(numel + 1)))) st = MOCL_E_NOMEM;
    if (!st) st = mocl_tensor_to_host(wide, host);
    for (int64_t i = 0; !st && i < numel; i++)
        if (host[i] != 0) places[n++] = (int32_t)i;
    if (!st) st = take(out, x, n, places, 1, &n);
    mocl_free(host);
    mocl_free(places);
    mocl_tensor_unref(wide);
    return st;
}

/* ---- draws ---- */

/* one of the n weights, in proportion, by u in [0, 1); -1 where none is above 0 */
static int64_t draw(const mk_real *w, int64_t n, double total, double u) {
    double run = 0, at = u * total;
    int64_t last = -1;
    for (int64_t i = 0; i < n; i++) {
        if (!(w[i] > 0)) continue;
        run += (double)w[i];
        last = i;
        if (at < run) break;
    }
    return last;
}

mocl_status mocl_multinomial(mocl_tensor **out, mocl_tensor *w, int64_t k, bool replacement, uint64_t key, uint64_t stream) {
    *out = NULL;
    MOCL_TRY(mocl_need_real("multinomial", w));
    if (w->ndim < 1 || w->ndim > 2) return mocl_fail(w->ctx, MOCL_E_SHAPE, "multinomial: weights of one or two dimensions are needed");
    int64_t n = w->shape[w->ndim - 1], n_rows = w->ndim == 2 ? w->shape[0] : 1, shape[2] = {n_rows, k};
    int64_t numel = n * n_rows;
    mk_real *host = mocl_alloc(w->ctx, sizeof *host * (size_t)(numel + 1));
    int32_t *ids = mocl_alloc(w->ctx, sizeof *ids * (size_t)(n_rows * k + 1));
    mocl_tensor *c = NULL;
    mocl_status st = host && ids ? MOCL_OK : MOCL_E_NOMEM;
    if (!st) st = mocl_tensor_contiguous(&c, w);
    if (!st) st = mocl_tensor_to_host(c, host);
    for (int64_t r = 0; !st && r < n_rows; r++) {
        mk_real *row = host + r * n;
        int64_t positive = 0;
        for (int64_t i = 0; !st && i < n; i++) {
            positive += row[i] > 0;
            if (!(row[i] >= 0) || isinf((double)row[i]))
                st = mocl_fail(w->ctx, MOCL_E_SHAPE, "multinomial: weight %lld of row %lld is %g; they must be finite and not negative",
                               (long long)i + 1, (long long)r + 1, mocl_shown((double)row[i]));
        }
        if (!st && k > 0 && positive < (replacement ? 1 : k))
            st = mocl_fail(w->ctx, MOCL_E_SHAPE, "multinomial: row %lld has %lld weights above 0, and %lld different ones are wanted",
                           (long long)r + 1, (long long)positive, (long long)(replacement ? 1 : k));
        double total = 0;
        for (int64_t i = 0; !st && i < n; i++) total += (double)row[i];
        for (int64_t j = 0; !st && j < k; j++) {
            uint64_t at = (uint64_t)(r * k + j); /* the draw's own counter: no draw depends on others */
            mocl_rng own = {.key = key, .position = (stream << 40) + at};
            int64_t i = draw(row, n, total, mocl_rng_uniform(&own));
            ids[r * k + j] = (int32_t)i;
            if (!replacement) {
                row[i] = 0;
                total = 0;
                for (int64_t o = 0; o < n; o++) total += (double)row[o];
            }
            if (j % 1024 == 0) st = mocl_poll(w->ctx);
        }
    }
    if (!st) st = mocl_tensor_from_host(out, w->storage->dev, MK_I32, w->ndim, w->ndim == 2 ? shape : shape + 1, ids);
    mocl_free(host);
    mocl_free(ids);
    mocl_tensor_unref(c);
    return st;
}
