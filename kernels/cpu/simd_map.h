/* simd_map.h - the inner loops over flat arrays.
**
** Operations whose functions are not written for vectors here go element by element through libm.
*/
INLINE mk_real sigmoid_one(mk_real x) {
    mk_real z = MK_R(exp)(-MK_R(fabs)(x)); /* never overflows */
    return x >= 0 ? 1 / (1 + z) : z / (1 + z);
}
INLINE mk_real softplus_one(mk_real x) {
    return MK_R(log1p)(MK_R(exp)(-MK_R(fabs)(x))) + (x > 0 ? x : 0);
}

#define SQRT_2_OVER_PI 0.79788456080286535588
#define SQRT_HALF 0.70710678118654752440
#define INV_SQRT_2PI 0.39894228040143267794
#define GELU_CUBE 0.044715

/* y[i] = vector expression in v */
#define MAP(expression)                                                                           \
    FOR_VECTORS(n) {                                                                              \
        vec v = load_at(x, i, n);                                                                 \
        store_at(y, i, n, expression);                                                            \
    }                                                                                             \
    return
/* the same in v (one element of x) */
#define MAP_ONE(expression)                                                                       \
    for (int64_t i = 0; i < n; i++) {                                                             \
        mk_real v = x[i];                                                                         \
        y[i] = (expression);                                                                      \
    }                                                                                             \
    return

INLINE vec gelu_tanh_arg(vec v) {
    return v_set1((mk_real)SQRT_2_OVER_PI) * v_fma(v_set1((mk_real)GELU_CUBE) * v, v * v, v);
}

static void unary(mk_unary op, int64_t n, const mk_real *x, mk_real *y, mk_real p, mk_real q) {
    vec one = v_set1(1), half = v_set1((mk_real)0.5), pv = v_set1(p), qv = v_set1(q);
    switch (op) {
        case MK_NEG: MAP(-v);
        case MK_ABS: MAP(v_abs(v));
        case MK_SQUARE: MAP(v * v);
        case MK_SQRT: MAP(v_sqrt(v));
        case MK_RSQRT: MAP(one / v_sqrt(v));
        case MK_RECIPROCAL: MAP(one / v);
        case MK_EXP: MAP(v_exp(v));
        case MK_LOG: MAP_ONE(MK_R(log)(v));
        case MK_TANH: MAP(v_tanh(v));
        case MK_SIGMOID: MAP(v_sigmoid(v));
        case MK_LOGSIGMOID: MAP_ONE(-softplus_one(-v));
        case MK_SOFTPLUS: MAP_ONE(softplus_one(v));
        case MK_RELU: MAP(v_max(v_zero(), v)); /* NaN stays NaN */
        case MK_SILU: MAP(v * v_sigmoid(v));
        case MK_GELU: MAP_ONE(v * (mk_real)0.5 * (1 + MK_R(erf)(v * (mk_real)SQRT_HALF)));
        case MK_GELU_TANH: MAP(v * half * (one + v_tanh(gelu_tanh_arg(v))));
        case MK_SIN: MAP_ONE(MK_R(sin)(v));
        case MK_COS: MAP_ONE(MK_R(cos)(v));
        case MK_FLOOR: MAP_ONE(MK_R(floor)(v));
        case MK_SIGN: MAP_ONE(v > 0 ? 1 : v < 0 ? -1 : v); /* keeps 0 and NaN */
        case MK_ADD_SCALAR: MAP(v + pv);
        case MK_MUL_SCALAR: MAP(v * pv);
        case MK_POW_SCALAR: MAP_ONE(MK_R(pow)(v, p));
        case MK_CLAMP: MAP(v_min(qv, v_max(pv, v)));
    }
}

/* dx[i] = dy[i] times the vector expression in v (x) and w (y) */
#define SLOPE(expression)                                                                         \
    FOR_VECTORS(n) {                                                                              \
        vec v = load_at(x, i, n), w = load_at(y, i, n);                                           \
        (void)v, (void)w;                                                                         \
        store_at(dx, i, n, load_at(dy, i, n) * (expression));                                     \
    }                                                                                             \
    return
#define SLOPE_ONE(expression)                                                                     \
    for (int64_t i = 0; i < n; i++) {                                                             \
        mk_real v = x[i];                                                                         \
        dx[i] = dy[i] * (expression);                                                             \
    }                                                                                             \
    return

INLINE vec silu_slope(vec v) {
    vec s = v_sigmoid(v);
    return s * v_fma(v, v_set1(1) - s, v_set1(1));
}

INLINE vec gelu_tanh_slope(vec v) {
    vec one = v_set1(1), half = v_set1((mk_real)0.5), t = v_tanh(gelu_tanh_arg(v));
    vec inner = v_set1((mk_real)SQRT_2_OVER_PI) *
                v_fma(v_set1((mk_real)(3 * GELU_CUBE)) * v, v, one);
    return half * (one + t) + half * v * (one - t * t) * inner;
}

static void unary_bwd(mk_unary op, int64_t n, const mk_real *x, const mk_real *y, const mk_real *dy,
                      mk_real *dx, mk_real p, mk_real q) {
    vec one = v_set1(1), zero = v_zero(), pv = v_set1(p), qv = v_set1(q);
    switch (op) {
        case MK_NEG: SLOPE(-one);
        case MK_ABS: SLOPE_ONE((mk_real)((v > 0) - (v < 0)));
        case MK_SQUARE: SLOPE(v + v);
        case MK_SQRT: SLOPE(v_set1((mk_real)0.5) / w);
        case MK_RSQRT: SLOPE(v_set1((mk_real)-0.5) * w * w * w);
        case MK_RECIPROCAL: SLOPE(-(w * w));
        case MK_EXP: SLOPE(w);
        case MK_LOG: SLOPE(one / v);
        case MK_TANH: SLOPE(one - w * w);
        case MK_SIGMOID: SLOPE(w * (one - w));
        case MK_LOGSIGMOID: SLOPE(v_sigmoid(-v));
        case MK_SOFTPLUS: SLOPE(v_sigmoid(v));
        case MK_RELU: SLOPE((vec)((ivec)(v > zero) & (ivec)one));
        case MK_SILU: SLOPE(silu_slope(v));
        case MK_GELU:
            SLOPE_ONE((mk_real)0.5 * (1 + MK_R(erf)(v * (mk_real)SQRT_HALF)) +
                      v * (mk_real)INV_SQRT_2PI * MK_R(exp)((mk_real)-0.5 * v * v));
        case MK_GELU_TANH: SLOPE(gelu_tanh_slope(v));
        case MK_SIN: SLOPE_ONE(MK_R(cos)(v));
        case MK_COS: SLOPE_ONE(-MK_R(sin)(v));
        case MK_FLOOR: case MK_SIGN: SLOPE(zero);
        case MK_ADD_SCALAR: SLOPE(one);
        case MK_MUL_SCALAR: SLOPE(pv);
        case MK_POW_SCALAR: SLOPE_ONE(p == 0 ? 0 : p * MK_R(pow)(v, p - 1));
        case MK_CLAMP: SLOPE((vec)((ivec)(v >= pv) & (ivec)(v <= qv) & (ivec)one));
    }
}

INLINE vec operand(const mk_real *x, int64_t stride, int64_t i, int64_t n) {
    return stride ? load_at(x, i, n) : v_set1(*x);
}

/* the vector expression in u and v; strides are 0 or 1 */
#define PAIR(expression)                                                                          \
    FOR_VECTORS(n) {                                                                              \
        vec u = operand(a, as, i, n), v = operand(b, bs, i, n);                                   \
        store_at(y, i, n, expression);                                                            \
    }                                                                                             \
    return
#define TRUTH(comparison) PAIR((vec)((ivec)(comparison) & (ivec)v_set1(1)))

static mk_real binary_one(mk_binary op, mk_real a, mk_real b) {
    switch (op) {
        case MK_ADD: return a + b;
        case MK_SUB: return a - b;
        case MK_MUL: return a * b;
        case MK_DIV: return a / b;
        case MK_MAXIMUM: return a != a || a > b ? a : b; /* either NaN gives NaN */
        case MK_MINIMUM: return a != a || a < b ? a : b;
        case MK_POW: return MK_R(pow)(a, b);
        case MK_EQ: return a == b;
        case MK_NE: return a != b;
        case MK_LT: return a < b;
        case MK_LE: return a <= b;
        case MK_GT: return a > b;
        case MK_GE: return a >= b;
    }
    return a;
}

static void binary(mk_binary op, int64_t n, const mk_real *a, int64_t as, const mk_real *b, int64_t bs,
                   mk_real *y) {
    if (op != MK_POW && (as == 0 || as == 1) && (bs == 0 || bs == 1)) {
        switch (op) {
            case MK_ADD: PAIR(u + v);
            case MK_SUB: PAIR(u - v);
            case MK_MUL: PAIR(u * v);
            case MK_DIV: PAIR(u / v);
            case MK_MAXIMUM: PAIR(v_select((ivec)(u != u) | (ivec)(u > v), u, v));
            case MK_MINIMUM: PAIR(v_select((ivec)(u != u) | (ivec)(u < v), u, v));
            case MK_EQ: TRUTH(u == v);
            case MK_NE: TRUTH(u != v);
            case MK_LT: TRUTH(u < v);
            case MK_LE: TRUTH(u <= v);
            case MK_GT: TRUTH(u > v);
            case MK_GE: TRUTH(u >= v);
            case MK_POW: break;
        }
    }
    for (int64_t i = 0; i < n; i++) y[i] = binary_one(op, a[i * as], b[i * bs]);
}

static void axpy(int64_t n, mk_real alpha, const mk_real *x, mk_real *y) {
    vec a = v_set1(alpha);
    FOR_VECTORS(n) store_at(y, i, n, v_fma(a, load_at(x, i, n), load_at(y, i, n)));
}

static void axpby(int64_t n, mk_real alpha, const mk_real *x, mk_real beta, mk_real *y) {
    vec a = v_set1(alpha), b = v_set1(beta);
    if (beta == 0) {
        FOR_VECTORS(n) store_at(y, i, n, a * load_at(x, i, n));
        return;
    }
    FOR_VECTORS(n) store_at(y, i, n, v_fma(a, load_at(x, i, n), b * load_at(y, i, n)));
}

static void swiglu(int64_t n, const mk_real *gate, const mk_real *up, mk_real *y) {
    FOR_VECTORS(n) {
        vec g = load_at(gate, i, n);
        store_at(y, i, n, g * v_sigmoid(g) * load_at(up, i, n));
    }
}

static void swiglu_bwd(int64_t n, const mk_real *gate, const mk_real *up, const mk_real *dy,
                       mk_real *dgate, mk_real *dup) {
    vec one = v_set1(1);
    FOR_VECTORS(n) {
        vec g = load_at(gate, i, n), u = load_at(up, i, n), d = load_at(dy, i, n);
        vec s = v_sigmoid(g);
        store_at(dup, i, n, d * (g * s));
        store_at(dgate, i, n, d * u * (s * v_fma(g, one - s, one)));
    }
}

/* Where the gradient stays 0 (tokens a batch lacks, units that never fire) the moments decay into the subnormal
** numbers, whose arithmetic takes a processor a hundred times as long. Moments this small count as 0: such an m is
** divided by sqrt(v) + eps, and such a v is nothing beside eps. */
#define MOMENT_LEAST 1e-30f
#define SQUARE_LEAST 1e-36f

static void adamw(int64_t n, const struct mk_adamw *s, mk_real *p, const mk_real *grad, mk_real *m,
                  mk_real *v) {
    vec least_m = v_set1(MOMENT_LEAST), least_v = v_set1(SQUARE_LEAST);
    vec scale = v_set1(s->grad_scale), b1 = v_set1(s->beta1), b2 = v_set1(s->beta2);
    vec ob1 = v_set1(s->one_beta1), ob2 = v_set1(s->one_beta2), decay = v_set1(s->decay);
    vec step = v_set1(s->step_size), inv = v_set1(s->inv_sqrt_bc2), eps = v_set1(s->eps);
    FOR_VECTORS(n) {
        vec g = load_at(grad, i, n) * scale;
        vec m1 = b1 * load_at(m, i, n) + ob1 * g;
        vec v1 = b2 * load_at(v, i, n) + ob2 * (g * g);
        m1 = (vec)((ivec)m1 & ~(ivec)(v_abs(m1) < least_m));
        v1 = (vec)((ivec)v1 & ~(ivec)(v1 < least_v));
        store_at(m, i, n, m1);
        store_at(v, i, n, v1);
        store_at(p, i, n, load_at(p, i, n) * decay - step * m1 / (v_sqrt(v1) * inv + eps));
    }
}

/* ---- sums in double ----------------------------------------------------------------------------- */

/* n doubles' worth of x: the lanes of a dvec */
#define DLANES ((int)(MK_VECTOR_BYTES / sizeof(double)))
#ifdef MK_REAL_DOUBLE
INLINE dvec load_double(const mk_real *x) { return v_load(x); }
#else
typedef float half_mem __attribute__((vector_size(MK_VECTOR_BYTES / 2), aligned(4), may_alias));
INLINE dvec load_double(const mk_real *x) {
    return __builtin_convertvector(*(const half_mem *)x, dvec);
}
#endif

/* two sets of lanes by turns, one added to the other, its lanes in order, then the elements that are left; `term` is of a
** vector v, `one` of x[i] */
#define DOUBLE_SUM(term, one)                                                                     \
    dvec acc[2 * PARTS] = {0};                                                                    \
    double lane[PARTS * DLANES], s = 0;                                                           \
    int64_t i = 0;                                                                                \
    for (; i + 2 * PARTS * DLANES <= n; i += 2 * PARTS * DLANES)                                  \
        _Pragma("GCC unroll 8") for (int k = 0; k < 2 * PARTS; k++) {                             \
            dvec v = load_double(x + i + k * DLANES);                                             \
            acc[k] += (term);                                                                     \
        }                                                                                         \
    for (int k = 0; k < PARTS; k++) {                                                             \
        acc[k] += acc[k + PARTS];                                                                 \
        memcpy(lane + k * DLANES, &acc[k], sizeof acc[k]);                                        \
    }                                                                                             \
    for (int l = 0; l < PARTS * DLANES; l++) s += lane[l];                                        \
    for (; i < n; i++) s += (one);                                                                \
    return s

static double sum(int64_t n, const mk_real *x) { DOUBLE_SUM(v, (double)x[i]); }
static double sumsq(int64_t n, const mk_real *x) { DOUBLE_SUM(v * v, (double)x[i] * (double)x[i]); }

static void running_sums(int64_t n, const mk_real *x, double *sums) {
    typedef double four __attribute__((vector_size(4 * sizeof(double))));
    typedef mk_real four_real __attribute__((vector_size(4 * sizeof(mk_real))));
    four total = {0};
    for (int64_t i = 0; i < n; i++) {
        four_real v = {x[i], x[n + i], x[2 * n + i], x[3 * n + i]};
        total += __builtin_convertvector(v, four);
        memcpy(sums + i * MK_RUNNING, &total, sizeof total);
    }
}

static void add_to_double(int64_t n, const mk_real *x, double *acc) {
    typedef double dmem __attribute__((vector_size(MK_VECTOR_BYTES), aligned(8), may_alias));
    int64_t i = 0;
    for (; i + DLANES <= n; i += DLANES) *(dmem *)(acc + i) += load_double(x + i);
    for (; i < n; i++) acc[i] += (double)x[i];
}
