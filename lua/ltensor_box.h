/* ltensor_box.h - tensors as userdata, as arguments and as results */
#ifndef MOCL_LTENSOR_BOX_H
#define MOCL_LTENSOR_BOX_H

#include "moclL.h"
#include "ops.h"

#define MOCL_TENSOR_CLASS "mocl.tensor"

/* The tensor at idx; raises for another type or a released one. */
mocl_tensor *moclL_checktensor(lua_State *L, int idx);
mocl_tensor *moclL_opttensor(lua_State *L, int idx); /* NULL for nil or none */
mocl_tensor *moclL_totensor(lua_State *L, int idx);  /* NULL for anything else */
/* Why moclL_totensor gave NULL, for messages: "was released" or "is a number, not a tensor". May push a string. */
const char *moclL_notensor(lua_State *L, int idx);
/* The tensor that is option `name` of the table at idx, or NULL; raises for another value. The option stays on the
** stack. */
mocl_tensor *moclL_optfield_tensor(lua_State *L, int idx, const char *name);
/* Pushes an empty owner and returns the place for the tensor. Collects garbage first where device
** memory passed the soft limit, and registers the owner with the open scope. */
mocl_tensor **moclL_pushtensor(lua_State *L);
/* Pushes an owner of one more reference to t. */
void moclL_pushtensorref(lua_State *L, mocl_tensor *t);
/* After a core call that may have failed for lack of memory: flush, collect, true = try once more. */
bool moclL_makeroom(lua_State *L, mocl_status st);

/* Runs a core call that fills outputs; on exhausted memory makes room and runs it once more; raises
** what is left. */
#define MOCLL_CALL(L, call)                                        \
    do {                                                           \
        mocl_status call_status_ = (call);                         \
        if (call_status_ == MOCL_E_NOMEM && moclL_makeroom(L, call_status_)) call_status_ = (call); \
        if (call_status_) return moclL_raise(L, call_status_);     \
    } while (0)

/* What the soft limit of live bytes is at first, and at least. */
#define MOCLL_LIMIT_FLOOR ((size_t)1 << 30)
int moclL_tensor_release(lua_State *L); /* as a method */

/* 1-based or negative dimension at idx to 0-based; raises where it is outside 1 .. ndim */
int moclL_checkdim(lua_State *L, int idx, int ndim);
/* Sizes from a table at idx, or from the integers at idx and above; returns their number. */
int moclL_checkshape(lua_State *L, int idx, int64_t shape[MK_MAX_DIMS]);
/* A new i32 tensor pushed from the list of integers (or i32 tensor: a reference) at idx; `base` is
** subtracted from each. */
mocl_tensor *moclL_pushids(lua_State *L, int idx, mocl_device *dev, int base);

#endif
