/* lmodel.h - what lmodel.c, llora.c, lspec.c and lsession.c share: the model object, and its methods */
#ifndef MOCL_LMODEL_H
#define MOCL_LMODEL_H

#include "lm/model.h"
#include "moclL.h"

#define MOCL_MODEL_CLASS "mocl.transformer"

/* The model at idx; raises where it is another value. */
static inline mocl_model *moclL_checkmodel(lua_State *L, int idx) { return moclL_checkowner(L, idx, MOCL_MODEL_CLASS); }

/* The specification in the table at idx, whose lists are userdata left on the stack; and a table of one, pushed. */
void moclL_checkspec(lua_State *L, int idx, mocl_spec *s);
void moclL_pushspec(lua_State *L, const mocl_spec *s);

int moclL_model_session(lua_State *L);  /* lsession.c */
void moclL_open_session(lua_State *L);  /* makes the class */

/* llora.c. Option `adapter` of the table at opts, for a batch of `rows` rows: true (and nothing), false, a name, or a list of
** these, one for each row. Userdata may be left on the stack. */
mocl_choice moclL_checkchoice(lua_State *L, int opts, const mocl_model *m, int64_t rows);
/* the adapter of that name at idx; the active one where there is none, which may be NULL */
mocl_adapter *moclL_optadapter(lua_State *L, int idx, const mocl_model *m);

int moclL_model_active_adapter(lua_State *L);
int moclL_model_adapters(lua_State *L);
int moclL_model_add_adapter(lua_State *L);
int moclL_model_add_lora(lua_State *L);
int moclL_model_delete_adapter(lua_State *L);
int moclL_model_drop_lora(lua_State *L);
int moclL_model_lora(lua_State *L);
int moclL_model_merge_lora(lua_State *L);
int moclL_model_set_adapter(lua_State *L);

#endif
