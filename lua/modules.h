/* modules.h - the C modules of mocl; each is reachable by require */
#ifndef MOCL_MODULES_H
#define MOCL_MODULES_H

#include <lua.h>

#include "moclL.h"

/* name, opener: one line per module, sorted */
#define MOCL_MODULES(X) \
    X("mocl.data.core", luaopen_mocl_data_core) \
    X("mocl.env.core", luaopen_mocl_env_core) \
    X("mocl.fs", luaopen_mocl_fs) \
    X("mocl.json", luaopen_mocl_json) \
    X("mocl.lora.core", luaopen_mocl_lora_core) \
    X("mocl.metrics.core", luaopen_mocl_metrics_core) \
    X("mocl.minnorm", luaopen_mocl_minnorm) \
    X("mocl.nn.core", luaopen_mocl_nn_core) \
    X("mocl.optim.core", luaopen_mocl_optim_core) \
    X("mocl.rng", luaopen_mocl_rng) \
    X("mocl.safetensors", luaopen_mocl_safetensors) \
    X("mocl.sys", luaopen_mocl_sys) \
    X("mocl.tensor", luaopen_mocl_tensor) \
    X("mocl.tokenizer", luaopen_mocl_tokenizer) \
    X("mocl.transformer.core", luaopen_mocl_transformer_core)

#define MOCL_DECLARE_OPENER(name, opener) int opener(lua_State *L);
MOCL_MODULES(MOCL_DECLARE_OPENER)

/* Puts all modules, the C ones above and the embedded Lua ones, into package.preload and makes the
** context. Pushes nothing. */
void moclL_openmodules(lua_State *L);

/* The embedded Lua modules (build/embed.c); the list ends with a NULL name. */
typedef struct moclL_source {
    const char *name; /* as for require: "mocl.config" */
    const char *file; /* "stdlib/mocl/config.lua", shown in messages */
    const char *text, *end;
} moclL_source;
extern const moclL_source moclL_sources[];

#endif
