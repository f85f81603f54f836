/* adapter.c - an adapter: its name, its layers, its references */
#include "lm/adapter.h"

#include <string.h>

void mocl_low_rank_free(mocl_low_rank *w) {
    mocl_tensor_unref(w->a);
    mocl_tensor_unref(w->b);
    w->a = w->b = NULL;
}

mocl_adapter *mocl_adapter_ref(mocl_adapter *a) {
    if (a) a->refs++;
    return a;
}

void mocl_adapter_unref(mocl_adapter *a) {
    if (!a || --a->refs > 0) return;
    for (int64_t i = 0; a->linear && i < a->layers * MOCL_LINEARS; i++) mocl_low_rank_free(&a->linear[i]);
    mocl_free(a->linear);
    mocl_free(a);
}

bool mocl_adapter_covers(const mocl_adapter *a, int64_t l) {
    for (int i = 0; i < MOCL_LINEARS; i++)
        if (a->linear[l * MOCL_LINEARS + i].a) return true;
    return false;
}

mocl_status mocl_adapter_check_name(mocl_ctx *ctx, const char *name) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    size_t n = strlen(name);
    if (n > 0 && n < MOCL_ADAPTER_NAME && name[0] != '.' && strspn(name, allowed) == n) return MOCL_OK;
    return mocl_fail(ctx, MOCL_E_ARG, "adapter name '%.80s': 1 to %d letters, digits, '_', '-' and '.', the first no '.'", name,
                     MOCL_ADAPTER_NAME - 1);
}

void mocl_adapter_let_go(mocl_adapter *a) {
    a->gone = true;
    mocl_adapter_unref(a);
}
