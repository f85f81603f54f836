-- nan is shown as nan: its sign, which printf writes, depends on the machine and means nothing

local T = require "t"
local kl_controller = require "mocl.method.kl_controller"
local metrics = require "mocl.metrics"
local minnorm = require "mocl.minnorm"
local nn = require "mocl.nn.core"
local optim = require "mocl.optim.core"
local preference = require "mocl.preference"
local ppo = require "mocl.method.ppo"
local reward = require "mocl.lm.reward"
local rng = require "mocl.rng"
local running = require "mocl.method.running"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local text_table = require "mocl.run.text_table"
local transformer = require "mocl.lm.model"

local NANS = { 0 / 0, -(0 / 0) } -- of one sign each

T.test("numbers of tensors and figures", function()
  for _, nan in ipairs(NANS) do
    local t = tensor.new { 1, nan }
    T.eq(tostring(t), "tensor (2) f32 cpu\n{1, nan}")
    T.eq(tostring(t:to "bf16"), "tensor (2) bf16 cpu\n{1, nan}")
    T.eq(tostring(t:sum():item()), "nan")
    T.eq(tostring(t:totable()[2]), "nan")
    T.eq(("%.3f"):format(t:mean():item()), "nan")
    T.eq(text_table.cell(nan, 3), "nan")
  end
  T.eq(tostring(metrics.pearson({ 1, 1 }, { 1, 2 })), "nan")
  T.eq(tostring((metrics.kendall_tau({ 1, 1 }, { 1, 2 }))), "nan")
end)

T.test("numbers in messages", function()
  local model = small.model()
  local x, w = tensor.ones { 2, 2 }, tensor.ones({ 2, 2 }, { requires_grad = true })
  for _, nan in ipairs(NANS) do
    for what, f in pairs {
      weighted = function() rng.new(0, "x"):weighted { 1, nan } end,
      two = function() minnorm.two(nan, 1, 1) end,
      gram = function() minnorm.solve { { 1, nan }, { nan, 1 } } end,
      tolerance = function() minnorm.solve({ { 1, 0 }, { 0, 1 } }, { tolerance = nan }) end,
      hypervolume = function() metrics.hypervolume({ { nan, 1 } }, { 0, 0 }) end,
      reference = function() metrics.hypervolume({ { 1, 1 } }, { 0, nan }) end,
      igd = function() metrics.igd({ { nan, 1 } }, { { 1, 1 } }) end,
      tau = function() metrics.kendall_tau({ nan, 1 }, { 1, 2 }) end,
      lr = function() optim.adamw({ w }, { lr = nan }) end,
      betas = function() optim.adamw({ w }, { betas = { nan, 0.9 } }) end,
      dropout = function() nn.dropout(x, nan, 1) end,
      i32 = function() tensor.new({ nan }, { dtype = "i32" }) end,
      kl = function() kl_controller.fixed { init_kl_coef = nan } end,
      adaptive = function()
        kl_controller.adaptive({ init_kl_coef = 1, target = 1, horizon = 10 }):update(nan, 1)
      end,
      preference = function() preference.check { nan, 1 } end,
      relabel = function() preference.relabel("x", { nan, 1 }) end,
      reward = function() reward.call(function() return { nan } end, "mine", { "p" }, { "r" }) end,
      running = function() running.new(2):update { { nan, 1 } } end,
      clip = function() ppo.clip(x, x, x, nan) end,
      lora = function() transformer.clone(model):add_lora { r = 2, alpha = 2, dropout = nan } end,
      temperature = function() model:generate({ { 1 } }, { max_new_tokens = 1, temperature = nan }) end,
      top_p = function() model:generate({ { 1 } }, { max_new_tokens = 1, top_p = nan }) end,
    } do
      local ok, message = pcall(f)
      T.eq(ok, false, what)
      T.ok(message:find("nan", 1, true), what .. ": " .. message)
      T.ok(not message:find("-nan", 1, true), what .. ": " .. message)
    end
  end
end)
