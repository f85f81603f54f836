--- quantised.lua DIR TOKENS.json OUT - what quantising does to a model: of the directory in f32, int8, w8a8 and nf4 the logits of some tokens and
-- the losses of a LoRA adapter that is trained on them, for quantised.py.

local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local lora = require "mocl.lm.lora"
local optim = require "mocl.optim.core"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local dir, tokens, out = arg[1], assert(json.load(arg[2])), arg[3]
local result, losses = {}, {}
for _, format in ipairs { "f32", "int8", "w8a8", "nf4" } do
  local model = assert(transformer.load(dir, { quantization = format ~= "f32" and format or nil }))
  local function logits()
    return tensor.no_grad(function() return model:forward(transformer.batch(tokens)):matmul(model:head():t()) end)
  end
  result[format] = logits()
  model:add_lora { r = 8, alpha = 16, key = 1 }
  local parameters = lora.parameters(model)
  local opt, list = optim.adamw(parameters, { lr = 1e-3 }), {}
  local prompts, rest = {}, {}
  for i, row in ipairs(tokens) do
    prompts[i], rest[i] = { row[1] }, table.move(row, 2, #row, 1, {})
  end
  for step = 1, 10 do
    local scope <close> = tensor.scope()
    local loss = lm.loss(model, prompts, rest)
    list[step] = loss:item()
    opt:zero_grad()
    loss:backward()
    opt:step { max_grad_norm = 1 }
  end
  losses[format] = list
  result[format .. " trained"] = logits()
  model:release()
end
assert(safetensors.save(out .. ".safetensors", result))
assert(require("mocl.fs").write(out .. ".json", json.encode(losses)))
