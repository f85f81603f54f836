/* model_adapters.c - the adapters of a model: made, chosen, merged and deleted */
#include "lm/model_adapters.h"

#include <math.h>
#include <string.h>

mocl_adapter *mocl_adapter_find(const mocl_model *m, const char *name) {
    for (int64_t i = 0; i < m->n_adapters; i++)
        if (strcmp(m->adapter[i]->name, name) == 0) return m->adapter[i];
    return NULL;
}

void mocl_adapter_set(mocl_model *m, mocl_adapter *a) { m->active = a; }

/* the model's reference to number i goes */
static void let_go(mocl_model *m, int64_t i) {
    if (m->active == m->adapter[i]) m->active = NULL;
    m->changes++;
    mocl_adapter_let_go(m->adapter[i]);
}

void mocl_adapter_delete(mocl_model *m, mocl_adapter *a) {
    for (int64_t i = 0; i < m->n_adapters; i++) {
        if (m->adapter[i] != a) continue;
        let_go(m, i);
        memmove(m->adapter + i, m->adapter + i + 1, (size_t)(--m->n_adapters - i) * sizeof *m->adapter);
        return;
    }
}

void mocl_adapter_delete_all(mocl_model *m) {
    while (m->n_adapters) mocl_adapter_delete(m, m->adapter[m->n_adapters - 1]);
}

static mocl_status check_plan(mocl_model *m, const mocl_adapter_plan *plan, double dropout, int64_t *largest) {
    *largest = 0;
    if (m->config.cross)
        return mocl_fail(m->ctx, MOCL_E_ARG, "lora: adapters on a model with cross_attention are not supported");
    for (int64_t i = 0; i < m->config.layers * MOCL_LINEARS; i++) {
        int64_t rank = plan[i].rank;
        if (rank < 0 || rank > 4096) return mocl_fail(m->ctx, MOCL_E_ARG, "lora: r = %lld is outside 1 .. 4096", (long long)rank);
        if (rank && !isfinite(plan[i].alpha))
            return mocl_fail(m->ctx, MOCL_E_ARG, "lora: alpha = %g is no finite number", mocl_shown(plan[i].alpha));
        if (rank && !mocl_spec_has_linear(&m->config, (int)(i % MOCL_LINEARS)))
            return mocl_fail(m->ctx, MOCL_E_ARG, "lora: the blocks of this model have no %s",
                             mocl_model_linear_name((int)(i % MOCL_LINEARS)));
        if (rank > *largest) *largest = rank;
    }
    if (!(dropout >= 0 && dropout < 1)) return mocl_fail(m->ctx, MOCL_E_ARG, "lora: dropout %g is outside [0, 1)", mocl_shown(dropout));
    if (!*largest) return mocl_fail(m->ctx, MOCL_E_ARG, "lora: no layer is named in target_modules");
    return MOCL_OK;
}

/* A and B of all linear layers in the plan */
static mocl_status fill(mocl_model *m, mocl_adapter *a, const mocl_adapter_plan *plan, uint64_t key) {
    uint64_t stream = 0;
    for (int64_t i = 0; i < a->layers * MOCL_LINEARS; i++) {
        mocl_low_rank *w = &a->linear[i];
        int64_t shape[2], rank = plan[i].rank;
        if (!rank) continue;
        mocl_spec_linear_shape(&m->config, (int)(i % MOCL_LINEARS), shape);
        int64_t a_shape[2] = {rank, shape[1]}, b_shape[2] = {shape[0], rank};
        MOCL_TRY(mocl_tensor_new(&w->a, m->dev, MK_F32, 2, a_shape));
        MOCL_TRY(MOCL_KERNEL(m->dev, rand_normal, rank * shape[1], key, stream++, 0.0, 1 / sqrt(3.0 * (double)shape[1]),
                             mocl_real(w->a)));
        MOCL_TRY(mocl_tensor_full(&w->b, m->dev, MK_F32, 2, b_shape, 0));
        w->a->requires_grad = w->b->requires_grad = true;
        w->alpha = plan[i].alpha;
        w->scale = w->alpha / (a->rslora ? sqrt((double)rank) : (double)rank);
    }
    return MOCL_OK;
}

/* room for one adapter more */
static mocl_status grow(mocl_model *m) {
    size_t n = (size_t)m->n_adapters;
    mocl_adapter **more = mocl_calloc(m->ctx, n + 1, sizeof *more);
    if (!more) return mocl_nomem(m->ctx, (n + 1) * sizeof *more);
    if (n) memcpy(more, m->adapter, n * sizeof *more);
    mocl_free(m->adapter);
    m->adapter = more;
    return MOCL_OK;
}

mocl_status mocl_adapter_add(mocl_model *m, const char *name, const mocl_adapter_plan *plan, double dropout, bool rslora,
                             uint64_t key) {
    size_t n = (size_t)(m->config.layers * MOCL_LINEARS);
    int64_t largest, at = 0;
    mocl_status st;
    MOCL_TRY(mocl_adapter_check_name(m->ctx, name));
    MOCL_TRY(check_plan(m, plan, dropout, &largest));
    mocl_adapter *a = mocl_calloc(m->ctx, 1, sizeof *a);
    if (!a) return mocl_nomem(m->ctx, sizeof *a);
    *a = (mocl_adapter){.refs = 1, .layers = m->config.layers, .rank = largest, .dropout = dropout, .rslora = rslora};
    strcpy(a->name, name);
    a->linear = mocl_calloc(m->ctx, n, sizeof *a->linear);
    if (!a->linear) {
        st = mocl_nomem(m->ctx, n * sizeof *a->linear);
        goto fail;
    }
    MOCL_GOTO(fill(m, a, plan, key), fail);
    while (at < m->n_adapters && strcmp(m->adapter[at]->name, name) != 0) at++;
    if (at == m->n_adapters) {
        MOCL_GOTO(grow(m), fail);
        m->n_adapters++;
    } else {
        bool was = m->active == m->adapter[at];
        let_go(m, at);
        if (was) m->active = a;
    }
    m->adapter[at] = a;
    m->changes++;
    if (!m->active) m->active = a;
    return MOCL_OK;
fail:
    mocl_adapter_unref(a);
    return st;
}

/* w += scale B A */
static mocl_status merge(mocl_model *m, mocl_tensor *w, mocl_low_rank *ad) {
    int64_t out = w->shape[0], in = w->shape[1], r = ad->a->shape[0];
    mocl_tensor *a = NULL, *b = NULL;
    mocl_status st;
    MOCL_GOTO(mocl_to_dtype(&a, ad->a, w->dtype), done);
    MOCL_GOTO(mocl_to_dtype(&b, ad->b, w->dtype), done);
    mk_weight right = mocl_weight_plain(w->dtype, r, in, mocl_tensor_data(a));
    st = MOCL_KERNEL(m->dev, gemm_weight, 0, out, ad->scale, w->dtype, mocl_tensor_data(b), r, 0, &right, 1.0, w->dtype,
                     mocl_tensor_data(w), in);
done:
    mocl_tensor_unref(a);
    mocl_tensor_unref(b);
    return st;
}

mocl_status mocl_adapter_merge(mocl_model *m, mocl_adapter *a) {
    bool was = m->ctx->grad_enabled;
    mocl_status st = MOCL_OK;
    m->ctx->grad_enabled = false;
    for (int64_t i = 0; i < a->layers * MOCL_LINEARS && !st; i++) {
        mocl_weight *w = &m->block[i / MOCL_LINEARS].linear[i % MOCL_LINEARS];
        mocl_tensor *numbers = NULL;
        if (!a->linear[i].a) continue;
        st = mocl_weight_numbers(&numbers, w, m->dtype); /* those of a plain weight are its own */
        if (!st) st = merge(m, numbers, &a->linear[i]);
        if (st) {
            mocl_tensor_unref(numbers);
            break;
        }
        numbers->storage->version++;
        mocl_weight_free(w);
        *w = mocl_weight_of(numbers);
        mocl_low_rank_free(&a->linear[i]);
        m->changes++;
    }
    m->ctx->grad_enabled = was;
    if (!st) mocl_adapter_delete(m, a);
    return st;
}
