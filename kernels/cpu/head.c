/* head.c - the language-model head: log-probabilities, entropy, KL and sampling, one row of logits per
** token.
*/
#include "simd.h"

#include "philox.h"
#include "table.h"

struct head_job {
    int64_t rows, V;
    const mk_real *logits, *ref;
    mk_real inv_temp;
    const int32_t *target, *row_id;
    const mk_real *entropy_in, *lse_in, *ref_lse, *dlogp, *dentropy, *kl_in, *dkl;
    mk_real *logp, *entropy, *lse, *kl, *dlogits;
    int64_t top_k;
    double top_p;
    uint64_t key;
    uint32_t step;
    int32_t *token;
    unsigned char *scratch; /* sampling: sample_bytes per piece */
    int64_t piece_rows;
};

static void logprob_range(void *arg, int64_t first, int64_t last) {
    struct head_job *j = arg;
    const struct mk_simd *simd = mk_simd();
    for (int64_t r = first; r < last; r++) {
        const mk_real *x = j->logits + r * j->V;
        mk_real lse = simd->log_sum_exp(j->V, x, j->inv_temp, j->entropy ? j->entropy + r : NULL);
        j->lse[r] = lse;
        j->logp[r] = j->target[r] < 0 ? 0 : x[j->target[r]] * j->inv_temp - lse;
    }
}

int mk_cpu_logprob(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, double inv_temp,
                   const int32_t *target, mk_real *logp, mk_real *entropy, mk_real *lse) {
    struct head_job j = {.rows = rows, .V = V, .logits = logits, .inv_temp = (mk_real)inv_temp,
                         .target = target, .logp = logp, .entropy = entropy, .lse = lse};
    mk_for(e, rows, 0.8 * (double)V + 20, logprob_range, &j);
    return MK_OK;
}

static void kl_range(void *arg, int64_t first, int64_t last) {
    struct head_job *j = arg;
    const struct mk_simd *simd = mk_simd();
    for (int64_t r = first; r < last; r++)
        j->kl[r] = simd->kl(j->V, j->logits + r * j->V, j->ref + r * j->V, j->inv_temp, j->lse_in[r], j->ref_lse[r]);
}

int mk_cpu_kl(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, const mk_real *ref_logits,
              double inv_temp, const mk_real *lse, const mk_real *ref_lse, mk_real *kl) {
    struct head_job j = {.rows = rows, .V = V, .logits = logits, .ref = ref_logits, .inv_temp = (mk_real)inv_temp,
                         .lse_in = lse, .ref_lse = ref_lse, .kl = kl};
    mk_for(e, rows, 0.8 * (double)V + 20, kl_range, &j);
    return MK_OK;
}

/* With lp = log softmax(z)[i], p = exp lp, H the entropy: d logp / d x_i = inv_temp ([i = target] - p),
** d H / d x_i = -inv_temp p (lp + H), and d KL / d x_i = inv_temp p (lp - lq - KL). */
static void logprob_bwd_range(void *arg, int64_t first, int64_t last) {
    struct head_job *j = arg;
    const struct mk_simd *simd = mk_simd();
    for (int64_t r = first; r < last; r++) {
        struct mk_head_row row = {.inv_temp = j->inv_temp, .lse = j->lse_in[r], .target = -1};
        if (j->dlogp && j->target[r] >= 0) row.a = j->dlogp[r] * j->inv_temp;
        if (row.a != 0) row.target = j->target[r];
        if (j->dentropy) {
            row.b = j->dentropy[r] * j->inv_temp;
            row.h = j->entropy_in[r];
        }
        if (j->dkl) {
            row.ref = j->ref + r * j->V;
            row.ref_lse = j->ref_lse[r];
            row.kl = j->kl_in[r];
            row.c = j->dkl[r] * j->inv_temp;
        }
        simd->logprob_bwd(j->V, j->logits + r * j->V, &row, j->dlogits + r * j->V);
    }
}

int mk_cpu_logprob_bwd(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, const mk_real *ref_logits,
                       double inv_temp, const int32_t *target, const mk_real *entropy, const mk_real *lse,
                       const mk_real *ref_lse, const mk_real *kl, const mk_real *dlogp, const mk_real *dentropy,
                       const mk_real *dkl, mk_real *dlogits) {
    struct head_job j = {.rows = rows, .V = V, .logits = logits, .ref = ref_logits, .inv_temp = (mk_real)inv_temp,
                         .target = target, .entropy_in = entropy, .lse_in = lse, .ref_lse = ref_lse, .kl_in = kl,
                         .dlogp = dlogp, .dentropy = dentropy, .dkl = dkl, .dlogits = dlogits};
    mk_for(e, rows, (dkl ? 1.0 : 0.8) * (double)V + 20, logprob_bwd_range, &j);
    return MK_OK;
}

/* ---- sampling ----------------------------------------------------------------------------------- */

/* order of the heap: larger probability first, then smaller token id */
static int before(const mk_real *p, int32_t a, int32_t b) {
    return p[a] > p[b] || (p[a] == p[b] && a < b);
}

static void sift(const mk_real *p, int32_t *heap, int64_t n, int64_t at) {
    int32_t id = heap[at];
    for (int64_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && before(p, heap[child + 1], heap[child])) child++;
        if (!before(p, heap[child], id)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = id;
}

/* Marks the kept tokens of p[V] by a negative sign and returns how many are kept. */
static int64_t cut(int64_t V, mk_real *p, int32_t *heap, int64_t top_k, double top_p) {
    for (int64_t i = 0; i < V; i++) heap[i] = (int32_t)i;
    for (int64_t i = V / 2; i-- > 0;) sift(p, heap, V, i);
    int64_t limit = top_k > 0 ? mk_min(top_k, V) : V, kept = 0;
    double mass = 0, reached = 0;
    if (limit == V)
        for (int64_t i = 0; i < V; i++) mass += (double)p[i];
    /* taken ids go behind the shrinking heap, the largest last */
    for (int64_t n = V; kept < limit;) {
        int32_t id = heap[0];
        heap[0] = heap[--n];
        if (n > 0) sift(p, heap, n, 0);
        heap[n] = id;
        kept++;
        reached += (double)p[id];
        if (limit == V && reached >= top_p * mass) break;
    }
    if (limit < V) {
        mass = reached;
        reached = 0;
        for (int64_t i = 0; i < kept; i++) {
            reached += (double)p[heap[V - 1 - i]];
            if (reached >= top_p * mass) kept = i + 1;
        }
    }
    for (int64_t i = 0; i < kept; i++) p[heap[V - 1 - i]] = -p[heap[V - 1 - i]];
    return kept;
}

#define TOGETHER MK_RUNNING /* rows whose running sums go side by side: each addition waits for the one before */
#define TOGETHER_MAX 4096  /* tokens up to which they do: the rows of more leave the cache */

/* the first token whose running sum passes the aim; the last possible one where rounding let none */
static int32_t pick(const struct head_job *j, int64_t r, const mk_real *p, const double *sum, int64_t step) {
    double u = mk_unit(mk_philox(j->step, (uint32_t)j->row_id[r], 0, 0, j->key).w[0]), aim = u * sum[(j->V - 1) * step];
    int64_t low = 0, high = j->V;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (sum[middle * step] > aim)
            high = middle;
        else
            low = middle + 1;
    }
    if (low == j->V)
        for (low = j->V - 1; low > 0 && !(p[low] > 0);) low--;
    return (int32_t)low;
}

/* p, heap and sum have room for V entries each */
static int32_t draw(const struct head_job *j, int64_t r, mk_real *p, int32_t *heap, double *sum) {
    int64_t V = j->V;
    const mk_real *x = j->logits + r * V;
    if (j->inv_temp <= 0) return (int32_t)mk_simd()->argmax(V, x);
    mk_simd()->weights(V, x, j->inv_temp, p);
    int cutting = (j->top_k > 0 && j->top_k < V) || j->top_p < 1;
    if (cutting) cut(V, p, heap, j->top_k, j->top_p);
    double mass = 0;
    for (int64_t i = 0; i < V; i++) {
        if (cutting) p[i] = p[i] < 0 ? -p[i] : 0;
        mass += (double)p[i];
        sum[i] = mass;
    }
    return pick(j, r, p, sum, 1);
}

/* the same for TOGETHER rows of which nothing is cut; p and sum have room for V entries of each */
static void draw_together(const struct head_job *j, int64_t r, mk_real *p, double *sum) {
    int64_t V = j->V;
    for (int64_t k = 0; k < TOGETHER; k++) mk_simd()->weights(V, j->logits + (r + k) * V, j->inv_temp, p + k * V);
    mk_simd()->running_sums(V, p, sum);
    for (int64_t k = 0; k < TOGETHER; k++) j->token[r + k] = pick(j, r + k, p + k * V, sum + k, TOGETHER);
}

static int64_t together(const struct head_job *j) {
    int cutting = (j->top_k > 0 && j->top_k < j->V) || j->top_p < 1;
    return j->inv_temp > 0 && !cutting && j->V <= TOGETHER_MAX ? TOGETHER : 1;
}

/* scratch of a piece: the running sums, the weights and the heap of one row, or of some without a heap */
static size_t sample_bytes(const struct head_job *j) {
    return ((size_t)(j->V * together(j)) * (sizeof(double) + sizeof(mk_real) + sizeof(int32_t)) + 63) / 64 * 64;
}

static void sample_piece(void *arg, int64_t i) {
    struct head_job *j = arg;
    int64_t n = together(j), r = i * j->piece_rows, last = mk_min(r + j->piece_rows, j->rows);
    double *sum = (double *)(void *)(j->scratch + (size_t)i * sample_bytes(j));
    mk_real *p = (mk_real *)(void *)(sum + j->V * n);
    int32_t *heap = (int32_t *)(void *)(p + j->V);
    for (; n > 1 && r + n <= last; r += n) draw_together(j, r, p, sum);
    for (; r < last; r++) j->token[r] = draw(j, r, p, heap, sum);
}

int mk_cpu_sample(mk_exec *e, int64_t rows, int64_t V, const mk_real *logits, double inv_temp,
                  int64_t top_k, double top_p, uint64_t key, uint32_t step, const int32_t *row_id,
                  int32_t *token) {
    struct head_job j = {.rows = rows, .V = V, .logits = logits, .inv_temp = (mk_real)inv_temp,
                         .top_k = top_k, .top_p = top_p, .key = key, .step = step,
                         .row_id = row_id, .token = token};
    if (rows <= 0 || V <= 0) return MK_OK;
    j.piece_rows = mk_max(mk_block(rows, 10.0 * (double)V + 50), mk_ceil_div(rows, 16));
    j.piece_rows = mk_ceil_div(j.piece_rows, together(&j)) * together(&j);
    int64_t pieces = mk_ceil_div(rows, j.piece_rows);
    j.scratch = mk_scratch(e, (size_t)pieces * sample_bytes(&j));
    if (!j.scratch) return MK_NOMEM;
    mk_parallel(e, pieces, sample_piece, &j);
    return MK_OK;
}
