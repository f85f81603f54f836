/* config.c - fuzzes the configurations of models and adapters: config.json, generation_config.json,
** adapter_config.json, and the metadata of a GGUF file. Their readers are Lua: one state serves all inputs.
*/
#include <stdio.h>
#include <string.h>

#include "fuzz.h"
#include "mocl.h"

static const char readers[] =
    "local lora_config = require 'mocl.lm.lora_config'\n"
    "local model_config = require 'mocl.lm.model_config'\n"
    "local gguf_model = require 'mocl.lm.gguf_model'\n"
    "local fs = require 'mocl.fs'\n"
    "local function check(path, value, message, code)\n"
    "  if value then return end\n"
    "  assert(type(message) == 'string' and (code == 'FORMAT' or code == 'IO'), 'a failure of another kind')\n"
    "  assert(not message:find 'attempt to %a+ a %a+ value', message)\n"
    "  assert(message:sub(1, #path) == path, 'does not begin with the file: ' .. message)\n"
    "end\n"
    "function look(dir)\n"
    "  local adapter, gguf = fs.join(dir, 'adapter_config.json'), fs.join(dir, 'model.gguf')\n"
    "  check(dir, model_config.read(dir))\n"
    "  if fs.exists(adapter) then\n"
    "    local config, message, code = lora_config.read(adapter)\n"
    "    check(adapter, config, message, code)\n"
    "    if config then check(adapter, lora_config.modules(adapter, config, 2)) end\n"
    "  end\n"
    "  if fs.exists(gguf) then check(gguf, gguf_model.describe(gguf)) end\n"
    "end\n";

static mocl_ctx *state(void) {
    static mocl_ctx *ctx;
    if (ctx) return ctx;
    ctx = mocl_open(&(mocl_options){.size = sizeof(mocl_options), .n_threads = 1, .ignore_env = 1});
    if (!ctx || mocl_dostring(ctx, readers, "=readers")) fuzz_stop("the readers do not load", mocl_error(ctx));
    return ctx;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const names[FUZZ_FILES] = {"config.json", "generation_config.json", "adapter_config.json", "model.gguf"};
    mocl_ctx *ctx = state();
    char code[4200];
    fuzz_files(names, FUZZ_FILES, data, n);
    snprintf(code, sizeof code, "look [[%s]]", fuzz_dir());
    if (mocl_dostring(ctx, code, "=look")) fuzz_stop("a reader raised", mocl_error(ctx));
    return 0;
}
