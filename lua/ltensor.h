/* ltensor.h - module mocl.tensor, for the other binding files */
#ifndef MOCL_LTENSOR_H
#define MOCL_LTENSOR_H

#include "ltensor_box.h"

/* Opens mocl.tensor: called by the opener of each module that makes tensors, which are nothing without their class. */
void moclL_opentensors(lua_State *L);

/* "device" of the options table at idx, default cpu */
mocl_device *moclL_optdevice(lua_State *L, int idx);

/* methods defined in ltensor_ops.c, added to the class by moclL_open_tensor */
extern const luaL_Reg moclL_tensor_ops[];

#endif
