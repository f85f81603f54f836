/* model_finite.c - why what a model computes is not finite */
#include <stdio.h>
#include <string.h>

#include "model.h"

enum { WHERE = 512 };

typedef struct finder {
    char where[WHERE]; /* the first weight at fault, or empty */
} finder;

static mocl_status look(void *arg, const char *name, mocl_tensor *t) {
    finder *f = arg;
    char text[320];
    int64_t count, first;
    if (f->where[0]) return MOCL_OK;
    MOCL_TRY(mocl_tensor_nonfinite(t, &count, &first));
    if (count) snprintf(f->where, sizeof f->where, "of weight '%s' %s", name, mocl_nonfinite_text(text, t, count, first));
    return MOCL_OK;
}

mocl_status mocl_model_refuse_logits(mocl_model *m, bool adapter, int64_t prompt, int64_t token) {
    finder f = {{0}};
    MOCL_TRY(mocl_model_visit(m, false, look, &f));
    if (adapter && m->lora_rank) MOCL_TRY(mocl_model_visit(m, true, look, &f));
    return mocl_fail(m->ctx, MOCL_E_ARG, "generate: the logits of prompt %lld at token %lld are not finite: %s", (long long)prompt,
                     (long long)token, f.where[0] ? f.where : "all weights are, so they are too large");
}
