-- named adapters: any number on one model, one for each row of a batch; what a row gets is what it gets alone

local T = require "t"
local fs = require "mocl.fs"
local lm = require "mocl.lm.sft"
local lora = require "mocl.lm.lora"
local optim = require "mocl.optim.core"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local ROWS = { { 1, 5, 9, 28 }, { 2, 2 }, { 7, 0, 3 }, { 4, 4, 4, 4, 4 }, { 6 } }
local WHO = { "a", "b", false, "b", "a" }

-- a model with adapters a and b, whose B is not zero
local function two(options)
  local model = small.model(options)
  for i, name in ipairs { "a", "b" } do
    model:add_adapter(name, { r = 2 + i, alpha = 5, key = i, dropout = .25, target_modules = i == 1 and { "q_proj", "down_proj" } or nil })
    for j, p in ipairs(lora.parameters(model, name)) do
      if j % 2 == 0 then
        tensor.no_grad(p.copy_, p, tensor.randn(p.shape, { key = 10 * i + j, std = .3 }):to(model:device()))
      end
    end
  end
  return model
end

T.test("names: the first is active, others are added, chosen and deleted", function()
  local model = small.model()
  T.eq(model:adapters(), {})
  T.eq(model:active_adapter(), nil)
  model:add_lora { r = 2, key = 1 }
  T.eq(model:active_adapter(), "default")
  model:add_adapter("style", { r = 3, key = 2 })
  T.eq({ model:adapters(), model:active_adapter() }, { { "default", "style" }, "default" })
  T.eq({ model:lora().r, model:lora("style").r, model:lora("style").name, model:lora().name }, { 2, 3, "style" })
  model:set_adapter "style"
  T.eq(model:lora().r, 3)
  T.eq(#model:named_parameters(true), #model:named_parameters "style")
  model:add_lora { r = 4, name = "style" } -- replaced, and active as before
  T.eq({ model:active_adapter(), model:lora().r, #model:adapters() }, { "style", 4, 2 })
  model:delete_adapter "style"
  T.eq({ model:adapters(), model:active_adapter() }, { { "default" } })
  T.eq(model:named_parameters(true), {})
  T.raises("lora.save: no adapter is active; name one %(default%)", lora.save, model, T.tmpdir())
  model:drop_lora()
  T.eq(model:adapters(), {})
end)

T.test("names that cannot be, and adapters that are not there", function()
  local model = two()
  for _, name in ipairs { "", ".x", "a/b", "a b", "ä", ("x"):rep(64) } do
    T.raises("1 to 63 letters, digits", model.add_adapter, model, name, { r = 2 })
  end
  T.eq(model:adapters(), { "a", "b" })
  for _, f in ipairs { "set_adapter", "delete_adapter", "merge_lora", "lora", "named_parameters" } do
    T.raises("the model has no adapter 'c' %(a, b%)", model[f], model, "c")
  end
  T.raises("has no adapter 'c' %(it has none%)", small.model().set_adapter, small.model(), "c")
  local batch = transformer.batch(ROWS)
  T.raises("has no adapter 'c'", model.forward, model, batch, { adapter = "c" })
  T.raises("adapter: a list of 2 entries for 5 rows", model.forward, model, batch, { adapter = { "a", "b" } })
  T.raises("'adapter' %(entry 2: true, false or a name expected, got number%)", model.generate, model, ROWS,
    { adapter = { "a", 2, "a", "a", "a" } })
  T.raises("'adapter' %(true, false or a name expected, got number%)", model.session, model, { adapter = 1 })
  T.raises("the name is the first argument", model.add_adapter, model, "c", { name = "d" })
end)

for _, device in ipairs(T.devices or { "cpu", "fake" }) do
  T.test("rows under different adapters have the bits of each alone, on " .. device, function()
    local model = two { device = device }
    local batch = transformer.batch(ROWS, { device = device })
    for _, train in ipairs { false, true } do
      local all = model:forward(batch, { adapter = WHO, train = train, key = 3, stream = 1 }):to("cpu"):totable()
      local at = 0
      for i, row in ipairs(ROWS) do
        local alone = model:forward(transformer.batch({ row }, { device = device }), { adapter = WHO[i], train = train, key = 3, stream = 1 })
        for j, state in ipairs(alone:to("cpu"):totable()) do
          T.eq(all[at + j], state, ("row %d, token %d"):format(i, j))
        end
        at = at + #row
      end
    end
    -- some rows of the states, in any order
    local whole = model:forward(batch, { adapter = WHO }):to("cpu"):totable()
    local some = { 14, 3, 0, 5, 6, 4 }
    local got = model:forward(batch, { adapter = WHO, rows = tensor.new(some, { dtype = "i32" }):to(device) }):to("cpu"):totable()
    for i, at in ipairs(some) do
      T.eq(got[i], whole[at + 1])
    end
  end)

  T.test("generation with an adapter for each row is that of each alone, on " .. device, function()
    local model = two { device = device }
    local function drawn(rows, adapter, max)
      local g, logp = model:generate(rows, { adapter = adapter, key = 4, max_new_tokens = max or 6 })
      return g.tokens, logp:to("cpu"):totable()
    end
    local tokens, logp = drawn(ROWS, WHO)
    local differs = false
    for _, name in ipairs { "a", "b", false } do
      local same, lp = drawn(ROWS, name) -- the same streams, so the rows of that adapter are the same
      for i in ipairs(ROWS) do
        if WHO[i] == name then
          T.eq(tokens[i], same[i])
          T.eq(table.move(logp, 6 * i - 5, 6 * i, 1, {}), table.move(lp, 6 * i - 5, 6 * i, 1, {}))
        else
          differs = differs or lp[6 * i - 5] ~= logp[6 * i - 5]
        end
      end
    end
    T.ok(differs, "adapters do something")
    T.eq((drawn({ ROWS[2] }, { "b" })), (drawn({ ROWS[2] }, "b")))
    model:set_adapter "b"
    T.eq((drawn(ROWS, true)), (drawn(ROWS, "b")))
  end)
end

T.test("a session keeps the adapter of each row", function()
  local model = two()
  local s <close> = model:session { rows = 3, adapter = { "a", "b", false } }
  s:append { { 1, 2 }, { 1, 2 }, { 1, 2 } }
  s:append { { 3 }, { 3 }, { 3 } }
  local batch = transformer.batch { { 1, 2, 3 } }
  local function alone(name)
    return model:forward(batch, { adapter = name }):totable()[3]
  end
  T.eq(s:hidden():totable(), { alone "a", alone "b", alone(false) })
  s:fork(2, 3)
  s:append({ { 5 } }, { 3 })
  T.eq(s:hidden({ 3 }):totable()[1], model:forward(transformer.batch { { 1, 2, 3, 5 } }, { adapter = "b" }):totable()[4])
  model:set_adapter "b" -- no change of what a row uses
  s:append({ { 5 } }, { 1 })
  model:delete_adapter "b"
  T.raises("weights or adapters of the model changed", s.append, s, { { 5 } }, { 2 })
  for i = 1, 3 do
    s:rewind(i, 0)
  end
  T.raises("adapter 'b' of row 2 was deleted, merged or replaced", s.append, s, { { 5 } }, { 1 })
end)

T.test("gradients reach the adapters of a batch's rows as alone", function()
  local function gradients(rows, who)
    local model, found = two(), {}
    model:forward(transformer.batch(rows), { adapter = who, train = true, key = 1, stream = 2 }):square():sum():backward()
    for _, name in ipairs { "a", "b" } do
      for _, pair in ipairs(model:named_parameters(name)) do
        found[name .. " " .. pair[1]] = pair[2].grad and pair[2].grad:totable() or false
      end
    end
    return found
  end
  local rows = { ROWS[1], ROWS[4] }
  local both, a, b = gradients(rows, { "a", "b" }), gradients({ rows[1] }, "a"), gradients({ rows[2] }, "b")
  for name, g in pairs(both) do
    local own = name:sub(1, 1) == "a" and a or b
    T.eq(g, own[name], name)
    T.ok(g, name .. " has a gradient")
    T.eq((own == a and b or a)[name], false, "the other adapter is untouched")
  end
end)

T.test("training one adapter changes no byte of the other", function()
  local model = two()
  local function values(name)
    local all = {}
    for i, p in ipairs(lora.parameters(model, name)) do
      all[i] = p:totable()
    end
    return all
  end
  local a, b = values "a", values "b"
  model:set_adapter "b"
  local opt <close> = optim.adamw(lora.parameters(model), { lr = .02 })
  for _ = 1, 3 do
    local scope <close> = tensor.scope()
    opt:zero_grad()
    lm.loss(model, { { 1 }, { 2 } }, { { 3, 4, 5 }, { 6, 7 } }):backward()
    opt:step {}
  end
  T.eq(values "a", a)
  T.ok(not pcall(T.eq, values "b", b), "b was trained")
end)

T.test("merging one leaves the other, on the base that is there then", function()
  local model, other = two(), two()
  local batch = transformer.batch(ROWS)
  local before = model:forward(batch, { adapter = "a" }):totable()
  model:merge_lora "a"
  T.eq({ model:adapters(), model:active_adapter() }, { { "b" } })
  T.near(model:forward(batch):totable(), before, 1e-5)
  T.eq(small.flat(lora.parameters(model, "b")[2]), small.flat(lora.parameters(other, "b")[2]))
  model:merge_lora() -- none is active
  T.eq(model:adapters(), { "b" })
end)

T.test("directories by name, one and all", function()
  local model, dir = two(), T.tmpdir() .. "/adapters"
  local batch = transformer.batch(ROWS)
  model:add_lora { r = 2, key = 7, target_modules = { "v_proj" } }
  T.eq(lora.save_all(model, dir, { base_model_name_or_path = "base" }), true)
  for _, path in ipairs { "adapter_config.json", "a/adapter_config.json", "b/adapter_model.safetensors" } do
    T.ok(fs.exists(dir .. "/" .. path), path)
  end
  local again = small.model()
  T.eq(lora.load_all(again, dir), { "default", "a", "b" })
  T.eq(again:active_adapter(), "default")
  for _, name in ipairs { "default", "a", "b" } do
    T.eq(again:lora(name), model:lora(name))
    T.eq(again:forward(batch, { adapter = name }):totable(), model:forward(batch, { adapter = name }):totable())
  end
  T.eq(lora.save(model, dir .. "/one", { name = "b" }), true)
  local third = small.model()
  assert(lora.load(third, dir .. "/one", { name = "mine" }))
  T.eq({ third:adapters(), third:active_adapter() }, { { "mine" }, "mine" })
  T.eq(third:forward(batch):totable(), model:forward(batch, { adapter = "b" }):totable())
  -- a directory that is refused leaves the adapter of that name, and the active one
  assert(fs.write(dir .. "/one/adapter_model.safetensors", "nothing"))
  local before = third:forward(batch):totable()
  T.fails("one/adapter_model.safetensors", lora.load, third, dir .. "/one", { name = "mine" })
  T.fails("one/adapter_model.safetensors", lora.load, third, dir .. "/one", { name = "new" })
  T.eq({ third:adapters(), third:active_adapter() }, { { "mine" }, "mine" })
  T.eq(third:forward(batch):totable(), before)
  T.fails("no adapter_config.json in it", lora.load_all, third, T.tmpdir())
  T.raises("lora.save_all: the model has no adapter", lora.save_all, small.model(), dir)
end)
