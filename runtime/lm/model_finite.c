/* model_finite.c - why what a model computes is not finite */
#include <stdio.h>
#include <string.h>

#include "lm/model.h"

enum { WHERE = 512 };

typedef struct finder {
    char where[WHERE]; /* the first weight at fault, or empty */
} finder;

static mocl_status look(void *arg, const char *name, mocl_tensor *t) {
    finder *f = arg;
    char number[32], place[256];
    mocl_nonfinite bad;
    if (f->where[0]) return MOCL_OK;
    MOCL_TRY(mocl_tensor_nonfinite(t, &bad));
    if (bad.count)
        snprintf(f->where, sizeof f->where, "'%s' is %s at %s", name, mocl_number_text(number, bad.value),
                 mocl_place_text(place, t, bad.at));
    return MOCL_OK;
}

mocl_status mocl_model_refuse_logits(mocl_model *m, const mocl_adapter *adapter, int64_t prompt, int64_t token) {
    finder f = {{0}};
    MOCL_TRY(mocl_model_visit(m, NULL, look, &f));
    if (adapter) MOCL_TRY(mocl_model_visit(m, adapter, look, &f));
    return mocl_fail(m->ctx, MOCL_E_ARG, "generate: the logits of prompt %lld at token %lld are not finite: %s%s", (long long)prompt,
                     (long long)token, f.where[0] ? "weight " : "all weights are, so they are too large", f.where);
}
