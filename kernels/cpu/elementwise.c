/* elementwise.c - filling, copying, converting, and functions of one or two arrays. */
#include "simd.h"

#include "formats.h"
#include "table.h"

size_t mk_dtype_bytes(mk_dtype dtype) {
    switch (dtype) {
        case MK_F32: return sizeof(mk_real);
        case MK_BF16: case MK_F16: return 2;
        case MK_I8: case MK_U8: return 1;
        case MK_I32: return 4;
        case MK_I64: return 8;
        default: return 0;
    }
}

/* ---- number formats ----------------------------------------------------------------------------- */

static int64_t to_integer(double v, int64_t lo, int64_t hi) {
    if (v != v) return 0;
    if (v <= (double)lo) return lo;
    if (v >= (double)hi) return hi;
    return (int64_t)v;
}

/* ---- fill, copy, cast --------------------------------------------------------------------------- */

struct fill_job {
    unsigned char *x;
    unsigned char item[8];
    size_t size;
};

static void fill_range(void *arg, int64_t first, int64_t last) {
    struct fill_job *j = arg;
    unsigned char *x = j->x + (size_t)first * j->size, *end = j->x + (size_t)last * j->size;
    int same = 1;
    for (size_t i = 1; i < j->size; i++) same = same && j->item[i] == j->item[0];
    if (same) {
        memset(x, j->item[0], (size_t)(end - x));
        return;
    }
    switch (j->size) {
        case 2:
            for (; x < end; x += 2) memcpy(x, j->item, 2);
            break;
        case 4:
            for (; x < end; x += 4) memcpy(x, j->item, 4);
            break;
        default:
            for (; x < end; x += 8) memcpy(x, j->item, 8);
    }
}

static void store_item(mk_dtype dtype, double v, void *x);

int mk_cpu_fill(mk_exec *e, mk_dtype dtype, int64_t n, void *x, double v) {
    struct fill_job j = {x, {0}, mk_dtype_bytes(dtype)};
    if (n <= 0) return MK_OK;
    store_item(dtype, v, j.item);
    mk_for(e, n, 0.2, fill_range, &j);
    return MK_OK;
}

struct copy_job {
    int ndim; /* >= 1 */
    size_t size;
    int64_t shape[MK_MAX_DIMS], src_stride[MK_MAX_DIMS], dst_stride[MK_MAX_DIMS];
    const unsigned char *src;
    unsigned char *dst;
};

/* One line along the last axis; strides in bytes. */
static void copy_line(size_t size, int64_t n, const unsigned char *src, int64_t ss,
                      unsigned char *dst, int64_t ds) {
    if (ss == (int64_t)size && ds == (int64_t)size) {
        memcpy(dst, src, (size_t)n * size);
        return;
    }
    switch (size) {
        case 1:
            for (int64_t i = 0; i < n; i++, src += ss, dst += ds) *dst = *src;
            break;
        case 2:
            for (int64_t i = 0; i < n; i++, src += ss, dst += ds) memcpy(dst, src, 2);
            break;
        case 4:
            for (int64_t i = 0; i < n; i++, src += ss, dst += ds) memcpy(dst, src, 4);
            break;
        default:
            for (int64_t i = 0; i < n; i++, src += ss, dst += ds) memcpy(dst, src, 8);
    }
}

static void copy_range(void *arg, int64_t first, int64_t last) {
    struct copy_job *j = arg;
    int line = j->ndim - 1;
    for (int64_t r = first; r < last; r++) {
        int64_t rest = r, from = 0, to = 0;
        for (int d = line - 1; d >= 0; d--) {
            int64_t at = rest % j->shape[d];
            rest /= j->shape[d];
            from += at * j->src_stride[d];
            to += at * j->dst_stride[d];
        }
        copy_line(j->size, j->shape[line], j->src + from, j->src_stride[line], j->dst + to,
                  j->dst_stride[line]);
    }
}

/* items are rows of dst, which are columns of src */
static void transpose_range(void *arg, int64_t first, int64_t last) {
    struct copy_job *j = arg;
    int64_t size = (int64_t)sizeof(mk_real);
    mk_simd()->pack_transposed(last - first, j->shape[1], j->shape[1],
                               (const mk_real *)(const void *)(j->src + first * size),
                               j->src_stride[1] / size,
                               (mk_real *)(void *)(j->dst + first * j->dst_stride[0]),
                               j->dst_stride[0] / size);
}

int mk_cpu_copy(mk_exec *e, mk_dtype dtype, int ndim, const int64_t *shape, const void *src,
                const int64_t *src_stride, void *dst, const int64_t *dst_stride) {
    struct copy_job j = {.size = mk_dtype_bytes(dtype), .src = src, .dst = dst};
    int64_t size = (int64_t)j.size, lines = 1;
    /* axes of length 1 vanish, axes that continue each other become one */
    for (int d = 0; d < ndim; d++) {
        if (shape[d] == 0) return MK_OK;
        if (shape[d] == 1) continue;
        int p = j.ndim - 1;
        if (p >= 0 && j.src_stride[p] == src_stride[d] * size * shape[d] &&
            j.dst_stride[p] == dst_stride[d] * size * shape[d]) {
            j.shape[p] *= shape[d];
            j.src_stride[p] = src_stride[d] * size;
            j.dst_stride[p] = dst_stride[d] * size;
            continue;
        }
        j.shape[j.ndim] = shape[d];
        j.src_stride[j.ndim] = src_stride[d] * size;
        j.dst_stride[j.ndim++] = dst_stride[d] * size;
    }
    if (j.ndim == 0) {
        memcpy(dst, src, j.size);
        return MK_OK;
    }
    if (dtype == MK_F32 && j.ndim == 2 && j.src_stride[0] == size && j.dst_stride[1] == size &&
        j.src_stride[1] >= j.shape[0] * size && j.dst_stride[0] >= j.shape[1] * size) {
        mk_for(e, j.shape[0], 0.3 * (double)j.shape[1], transpose_range, &j);
        return MK_OK;
    }
    for (int d = 0; d < j.ndim - 1; d++) lines *= j.shape[d];
    mk_for(e, lines, 10 + 0.5 * (double)j.shape[j.ndim - 1], copy_range, &j);
    return MK_OK;
}

static int is_integer(mk_dtype d) { return d == MK_I8 || d == MK_U8 || d == MK_I32 || d == MK_I64; }

static const int64_t int_lo[MK_DTYPE_COUNT] = {
    [MK_I8] = -128, [MK_U8] = 0, [MK_I32] = INT32_MIN, [MK_I64] = INT64_MIN};
static const int64_t int_hi[MK_DTYPE_COUNT] = {
    [MK_I8] = 127, [MK_U8] = 255, [MK_I32] = INT32_MAX, [MK_I64] = INT64_MAX};

static void store_int(mk_dtype dtype, int64_t v, void *x, int64_t i) {
    switch (dtype) {
        case MK_I8: ((int8_t *)x)[i] = (int8_t)v; break;
        case MK_U8: ((uint8_t *)x)[i] = (uint8_t)v; break;
        case MK_I32: ((int32_t *)x)[i] = (int32_t)v; break;
        default: ((int64_t *)x)[i] = v;
    }
}

static int64_t load_int(mk_dtype dtype, const void *x, int64_t i) {
    switch (dtype) {
        case MK_I8: return ((const int8_t *)x)[i];
        case MK_U8: return ((const uint8_t *)x)[i];
        case MK_I32: return ((const int32_t *)x)[i];
        default: return ((const int64_t *)x)[i];
    }
}

static void store_real(mk_dtype dtype, mk_real v, void *x, int64_t i) {
    switch (dtype) {
        case MK_BF16: ((uint16_t *)x)[i] = mk_to_bf16((float)v); break;
        case MK_F16: ((uint16_t *)x)[i] = mk_to_f16((float)v); break;
        default: ((mk_real *)x)[i] = v;
    }
}

static mk_real load_real(mk_dtype dtype, const void *x, int64_t i) {
    switch (dtype) {
        case MK_BF16: return mk_from_bf16(((const uint16_t *)x)[i]);
        case MK_F16: return mk_from_f16(((const uint16_t *)x)[i]);
        default: return ((const mk_real *)x)[i];
    }
}

static void store_item(mk_dtype dtype, double v, void *x) {
    if (is_integer(dtype))
        store_int(dtype, to_integer(v, int_lo[dtype], int_hi[dtype]), x, 0);
    else
        store_real(dtype, (mk_real)v, x, 0);
}

struct cast_job {
    mk_dtype from, to;
    const void *src;
    void *dst;
};

static void cast_range(void *arg, int64_t first, int64_t last) {
    struct cast_job *j = arg;
    mk_dtype from = j->from, to = j->to;
    if (from == MK_BF16 && to == MK_F32) {
        mk_simd()->from_bf16(last - first, (const mk_bf16 *)j->src + first, (mk_real *)j->dst + first);
    } else if (from == MK_F32 && to == MK_BF16) {
        mk_simd()->to_bf16(last - first, (const mk_real *)j->src + first, (mk_bf16 *)j->dst + first);
    } else if (is_integer(from) && is_integer(to)) {
        for (int64_t i = first; i < last; i++) {
            int64_t v = load_int(from, j->src, i);
            v = v < int_lo[to] ? int_lo[to] : v > int_hi[to] ? int_hi[to] : v;
            store_int(to, v, j->dst, i);
        }
    } else if (is_integer(from)) {
        for (int64_t i = first; i < last; i++)
            store_real(to, (mk_real)load_int(from, j->src, i), j->dst, i);
    } else if (is_integer(to)) {
        for (int64_t i = first; i < last; i++)
            store_int(to, to_integer((double)load_real(from, j->src, i), int_lo[to], int_hi[to]),
                      j->dst, i);
    } else {
        for (int64_t i = first; i < last; i++)
            store_real(to, load_real(from, j->src, i), j->dst, i);
    }
}

int mk_cpu_cast(mk_exec *e, int64_t n, mk_dtype from, const void *src, mk_dtype to, void *dst) {
    struct cast_job j = {from, to, src, dst};
    if (n > 0 && from == to)
        memmove(dst, src, (size_t)n * mk_dtype_bytes(from));
    else if (n > 0)
        mk_for(e, n, 2, cast_range, &j);
    return MK_OK;
}

/* ---- functions of one array --------------------------------------------------------------------- */

/* nanoseconds for one element: about */
static double unary_ns(mk_unary op) {
    switch (op) {
        case MK_LOG: case MK_LOGSIGMOID: case MK_SOFTPLUS: case MK_GELU: case MK_SIN: case MK_COS:
            return 10;
        case MK_POW_SCALAR: return 20;
        case MK_EXP: case MK_TANH: case MK_SIGMOID: case MK_SILU: case MK_GELU_TANH: return 1;
        default: return 0.3;
    }
}

struct unary_job {
    mk_unary op;
    const mk_real *x, *y_in, *dy;
    mk_real *out;
    mk_real p, q;
};

static void unary_range(void *arg, int64_t first, int64_t last) {
    struct unary_job *j = arg;
    mk_simd()->unary(j->op, last - first, j->x + first, j->out + first, j->p, j->q);
}

static void unary_bwd_range(void *arg, int64_t first, int64_t last) {
    struct unary_job *j = arg;
    mk_simd()->unary_bwd(j->op, last - first, j->x + first, j->y_in + first, j->dy + first,
                         j->out + first, j->p, j->q);
}

int mk_cpu_unary(mk_exec *e, mk_unary op, int64_t n, const mk_real *x, mk_real *y, double p,
                 double q) {
    struct unary_job j = {op, x, NULL, NULL, y, (mk_real)p, (mk_real)q};
    mk_for(e, n, unary_ns(op), unary_range, &j);
    return MK_OK;
}

int mk_cpu_unary_bwd(mk_exec *e, mk_unary op, int64_t n, const mk_real *x, const mk_real *y,
                     const mk_real *dy, mk_real *dx, double p, double q) {
    struct unary_job j = {op, x, y, dy, dx, (mk_real)p, (mk_real)q};
    mk_for(e, n, unary_ns(op) + 0.2, unary_bwd_range, &j);
    return MK_OK;
}

/* ---- functions of two arrays -------------------------------------------------------------------- */

struct binary_job {
    mk_binary op;
    int ndim; /* >= 1 */
    int64_t shape[MK_MAX_DIMS], a_stride[MK_MAX_DIMS], b_stride[MK_MAX_DIMS];
    const mk_real *a, *b;
    mk_real *y;
};

static void binary_range(void *arg, int64_t first, int64_t last) {
    struct binary_job *j = arg;
    const struct mk_simd *simd = mk_simd();
    int line = j->ndim - 1;
    int64_t n = j->shape[line];
    for (int64_t r = first; r < last; r++) {
        int64_t rest = r, at_a = 0, at_b = 0;
        for (int d = line - 1; d >= 0; d--) {
            int64_t at = rest % j->shape[d];
            rest /= j->shape[d];
            at_a += at * j->a_stride[d];
            at_b += at * j->b_stride[d];
        }
        simd->binary(j->op, n, j->a + at_a, j->a_stride[line], j->b + at_b, j->b_stride[line],
                     j->y + r * n);
    }
}

static void binary_flat(void *arg, int64_t first, int64_t last) {
    struct binary_job *j = arg;
    mk_simd()->binary(j->op, last - first, j->a + first * j->a_stride[0], j->a_stride[0],
                      j->b + first * j->b_stride[0], j->b_stride[0], j->y + first);
}

/* of two arrays of bf16 that lie alike: in f32, rounded once */
static void binary_bf16(void *arg, int64_t first, int64_t last) {
    struct binary_job *j = arg;
    const struct mk_simd *s = mk_simd();
    mk_real a[MK_BF16_CHUNK], b[MK_BF16_CHUNK];
    for (int64_t at = first; at < last; at += MK_BF16_CHUNK) {
        int64_t n = mk_min(MK_BF16_CHUNK, last - at);
        s->from_bf16(n, (const mk_bf16 *)(const void *)j->a + at, a);
        s->from_bf16(n, (const mk_bf16 *)(const void *)j->b + at, b);
        s->binary(j->op, n, a, 1, b, 1, a);
        s->to_bf16(n, a, (mk_bf16 *)(void *)j->y + at);
    }
}

int mk_cpu_binary(mk_exec *e, mk_dtype type, mk_binary op, int ndim, const int64_t *shape, const void *a,
                  const int64_t *a_stride, const void *b, const int64_t *b_stride, void *y) {
    struct binary_job j = {.op = op, .a = a, .b = b, .y = y};
    int64_t lines = 1;
    if (type == MK_BF16) {
        for (int d = ndim - 1; d >= 0; lines *= shape[d], d--)
            if (shape[d] != 1 && (a_stride[d] != lines || b_stride[d] != lines)) return MK_UNSUPPORTED;
        mk_for(e, lines, 0.5, binary_bf16, &j);
        return MK_OK;
    }
    if (type != MK_F32) return MK_UNSUPPORTED;
    for (int d = 0; d < ndim; d++) {
        if (shape[d] == 0) return MK_OK;
        if (shape[d] == 1) continue;
        int p = j.ndim - 1;
        if (p >= 0 && j.a_stride[p] == a_stride[d] * shape[d] &&
            j.b_stride[p] == b_stride[d] * shape[d]) {
            j.shape[p] *= shape[d];
            j.a_stride[p] = a_stride[d];
            j.b_stride[p] = b_stride[d];
            continue;
        }
        j.shape[j.ndim] = shape[d];
        j.a_stride[j.ndim] = a_stride[d];
        j.b_stride[j.ndim++] = b_stride[d];
    }
    if (j.ndim == 0) {
        mk_simd()->binary(op, 1, a, 1, b, 1, y);
        return MK_OK;
    }
    double ns = op == MK_POW ? 20 : 0.3;
    if (j.ndim == 1) {
        mk_for(e, j.shape[0], ns, binary_flat, &j);
        return MK_OK;
    }
    for (int d = 0; d < j.ndim - 1; d++) lines *= j.shape[d];
    mk_for(e, lines, 10 + ns * (double)j.shape[j.ndim - 1], binary_range, &j);
    return MK_OK;
}

struct where_job {
    const mk_real *c, *a, *b;
    mk_real *y;
    mk_real alpha;
};

static void where_range(void *arg, int64_t first, int64_t last) {
    struct where_job *j = arg;
    for (int64_t i = first; i < last; i++) j->y[i] = j->c[i] != 0 ? j->a[i] : j->b[i];
}

int mk_cpu_where(mk_exec *e, int64_t n, const mk_real *c, const mk_real *a, const mk_real *b,
                 mk_real *y) {
    struct where_job j = {c, a, b, y, 0};
    mk_for(e, n, 0.6, where_range, &j);
    return MK_OK;
}

static void axpy_range(void *arg, int64_t first, int64_t last) {
    struct where_job *j = arg;
    mk_simd()->axpy(last - first, j->alpha, j->a + first, j->y + first);
}

int mk_cpu_axpy(mk_exec *e, int64_t n, double alpha, const mk_real *x, mk_real *y) {
    struct where_job j = {NULL, x, NULL, y, (mk_real)alpha};
    mk_for(e, n, 0.25, axpy_range, &j);
    return MK_OK;
}
