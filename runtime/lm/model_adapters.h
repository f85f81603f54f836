/* model_adapters.h - the adapters of a model by their names: made, chosen, merged and deleted */
#ifndef MOCL_MODEL_ADAPTERS_H
#define MOCL_MODEL_ADAPTERS_H

#include "lm/model.h"

typedef struct mocl_adapter_plan { /* of one linear layer */
    int64_t rank;                  /* 0: the layer gets no adapter */
    double alpha;
} mocl_adapter_plan;

/* A and B for linear i of block l as plan[l * MOCL_LINEARS + i] says: A normal with 1/sqrt(3 in) from key, B zero, both
** requiring grad. At least one linear must get an adapter. One of the same name is replaced; a refused plan leaves it. Where no
** adapter is active it becomes the active one. */
mocl_status mocl_adapter_add(mocl_model *m, const char *name, const mocl_adapter_plan *plan, double dropout, bool rslora,
                             uint64_t key);
/* NULL where there is none */
mocl_adapter *mocl_adapter_find(const mocl_model *m, const char *name);
/* The active one from now on; NULL: none. */
void mocl_adapter_set(mocl_model *m, mocl_adapter *a);
/* Takes it away from the model; if it was active, none is. */
void mocl_adapter_delete(mocl_model *m, mocl_adapter *a);
void mocl_adapter_delete_all(mocl_model *m);
/* W += scale B A for each linear layer that it has; then it is deleted. Others stay, on the base that W is now. Where that fails
** halfway, the layers that are done have no A and B any more: what the model computes is the same, and a second call goes on. */
mocl_status mocl_adapter_merge(mocl_model *m, mocl_adapter *a);

#endif
