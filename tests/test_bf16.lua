-- dtype bf16 on the cpu: the same bits whatever computes its products. Operations and models are test_cuda_bf16's, the arithmetic of the
-- products tests/c/kernels/bf16.c's.

local T = require "t"
local child = require "child"

-- A script that prints what a bf16 model on the cpu gives, under other settings of MOCL_ISA and numbers of threads.
local ON_CPU = [[
local lm, lora, optim = require "mocl.lm.sft", require "mocl.lm.lora", require "mocl.optim.core"
local transformer, tensor, sys = require "mocl.lm.model", require "mocl.tensor", require "mocl.sys"
if arg[1] then sys.set_threads(math.tointeger(arg[1])) end
local m = transformer.new({ vocab_size = 203, hidden_size = 72, num_hidden_layers = 2, num_attention_heads = 6, num_key_value_heads = 2,
  intermediate_size = 150, biases = { "q_proj", "k_proj", "v_proj" }, max_position_embeddings = 64 }, { dtype = "bf16", key = 3 })
m:add_lora { r = 5, alpha = 10, key = 4 }
for i, p in ipairs(lora.parameters(m)) do tensor.no_grad(p.copy_, p, tensor.randn(p.shape, { key = i, std = .05 })) end
local opt = optim.adamw(lora.parameters(m), { lr = 1e-2 })
for step = 1, 2 do
  local loss = lm.loss(m, { { 1, 2 }, { 3 }, { 9, 9, 9 } }, { { 4, 5, 6, 7 }, { 6 }, { 1, 2 } }, { train = true, key = step })
  opt:zero_grad() loss:backward() opt:step()
  print(("%a"):format(loss:item()))
end
for _, p in ipairs(lora.parameters(m)) do print(("%a"):format(p:sum():item())) end
local g, logp = m:generate({ { 1 }, { 2, 3, 4 }, { 5, 6 } }, { max_new_tokens = 12, key = 1 })
print(("%a"):format(logp:sum():item()), table.concat(g.tokens[1], " "), table.concat(g.tokens[2], " "))
]]

local function on_cpu(isa, ...)
  local path = T.tmpdir() .. "/on_cpu.lua"
  local f <close> = assert(io.open(path, "w"))
  f:write(ON_CPU)
  f:close()
  return child.mocl({ path, ... }, isa and "env MOCL_ISA=" .. isa or nil)
end

T.test("a bf16 model on the cpu has the same bits by each instruction set, by tiles, and with any number of threads", function()
  local want, err = on_cpu(nil, "1")
  T.ok(select(2, want:gsub("\n", "")) > 10, err)
  T.eq(on_cpu(nil, "3"), want)
  T.eq(on_cpu("amx_emulated", "2"), want)
  T.eq(on_cpu("avx2"), want) -- where there is none the base set, whose other kernels have other bits
end)

T.test("--env says what computes products of bf16, and a processor that is asked for AMX and has none refuses", function()
  local function said(isa)
    return child.mocl({ "--env" }, isa and "env MOCL_ISA=" .. isa or nil):match "\nbf16 +([^\n]+)"
  end
  T.eq(said "base", "plain C; no AMX: MOCL_ISA leaves it out")
  T.eq(said "amx_emulated", "AMX tiles in C (MOCL_ISA=amx_emulated)")
  local plain, amx = said(), said "amx"
  if plain == "AMX tiles" then
    T.eq(amx, plain)
  else
    local why = plain:match "; no AMX: (.*)$"
    T.eq(amx, ("off: MOCL_ISA=amx asks for AMX, and %s; leave it out for the same bits by other instructions"):format(why))
    local _, err, status = on_cpu "amx"
    T.ok(status ~= 0)
    T.ok(err:find("model: bf16 on cpu is off: MOCL_ISA=amx asks for AMX, and " .. why, 1, true), err)
  end
end)

T.test("files of a model that is computed in f32 alone are refused in bf16 by their names, before the model is made", function()
  local transformer = require "mocl.lm.model"
  local model = transformer.new { vocab_size = 40, hidden_size = 16, num_hidden_layers = 1, num_attention_heads = 2, intermediate_size = 24,
    max_position_embeddings = 32, norm = "layer", mlp = "plain", hidden_act = "gelu_tanh", positions = "learned", tie_word_embeddings = true,
    biases = { "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj" } }
  local dir = T.tmpdir()
  assert(transformer.save(model, dir .. "/m"))
  assert(transformer.save_gguf(model, dir .. "/m.gguf"))
  for _, path in ipairs { dir .. "/m", dir .. "/m.gguf" } do
    T.ok(transformer.load(path))
    local got, message, code = transformer.load(path, { dtype = "bf16" })
    T.eq({ got == nil, code }, { true, "FORMAT" })
    T.ok(message:find(path .. ": model: layer norms, and MLPs that are not gated by silu, are computed in f32 alone", 1, true), message)
    local _, said, status = child.mocl { "recipes/moc_hh.lua", "init=" .. path, "dtype=bf16", "out=" .. dir .. "/run" }
    T.eq(status, 1)
    T.ok(said:find("init=" .. path .. ": model: layer norms", 1, true) and not said:find("traceback", 1, true), said)
  end
end)
