/* modules.h - the C modules of mocl; each is reachable by require */
#ifndef MOCL_MODULES_H
#define MOCL_MODULES_H

#include <lua.h>

#include "moclL.h"

/* name, and the name with _ for . in moclL_open_<id> (as preloaded) and luaopen_mocl_<id> (exported by mocl.so):
** one line per module, sorted */
#define MOCL_MODULES(X) \
    X("mocl.comm.core", comm_core) \
    X("mocl.data.core", data_core) \
    X("mocl.fs", fs) \
    X("mocl.gguf.core", gguf_core) \
    X("mocl.help.core", help_core) \
    X("mocl.httpd", httpd) \
    X("mocl.json", json) \
    X("mocl.lora.core", lora_core) \
    X("mocl.metrics.core", metrics_core) \
    X("mocl.minnorm", minnorm) \
    X("mocl.nn.core", nn_core) \
    X("mocl.optim.core", optim_core) \
    X("mocl.options.core", options_core) \
    X("mocl.rng", rng) \
    X("mocl.safetensors", safetensors) \
    X("mocl.sys", sys) \
    X("mocl.tensor", tensor) \
    X("mocl.tokenizer", tokenizer) \
    X("mocl.transformer.core", transformer_core) \
    X("mocl.world.core", world_core)

#define MOCL_DECLARE_OPENER(name, id) int moclL_open_##id(lua_State *L);
MOCL_MODULES(MOCL_DECLARE_OPENER)

/* Puts all modules, the C ones above and the embedded Lua ones, into package.preload and makes the
** context; more than once is fine. Pushes nothing. */
void moclL_openmodules(lua_State *L);

/* The tool of that name (stdlib/mocl/tools), which is a program and no module: pushes its chunk, or what is wrong with
** it, and returns the status of luaL_load. has_tool: is there one? */
bool moclL_has_tool(const char *name);
int moclL_load_tool(lua_State *L, const char *name);

/* For a stock Lua, whichever module it requires first: opens the others for require too and pushes the module of that
** name. */
int moclL_openmodule(lua_State *L, const char *name);

/* The embedded Lua modules (build/embed.c); the list ends with a NULL name. */
typedef struct moclL_source {
    const char *name; /* as for require: "mocl.run.config" */
    const char *file; /* "stdlib/mocl/run/config.lua", shown in messages */
    const char *text, *end;
} moclL_source;
extern const moclL_source moclL_sources[];
/* The pages of the documentation, for mocl.help; name is the page's file without ".md". */
extern const moclL_source moclL_pages[];

#endif
