/* lmodel.h - what lmodel.c and llora.c share: the model object, and its methods for adapters */
#ifndef MOCL_LMODEL_H
#define MOCL_LMODEL_H

#include "lm/model.h"
#include "moclL.h"

#define MOCL_MODEL_CLASS "mocl.transformer"

/* The model at idx; raises where it is another value. */
static inline mocl_model *moclL_checkmodel(lua_State *L, int idx) { return moclL_checkowner(L, idx, MOCL_MODEL_CLASS); }

int moclL_model_add_lora(lua_State *L);
int moclL_model_drop_lora(lua_State *L);
int moclL_model_lora(lua_State *L);
int moclL_model_merge_lora(lua_State *L);

#endif
