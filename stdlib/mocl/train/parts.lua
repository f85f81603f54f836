--- mocl.train.parts: what recipes/sft.lua and recipes/reward_model.lua have in common: rows from a file, a share of
-- them held out, a model of one's own or a small one that begins with random weights, the directory of the run. A
-- context is that of mocl.train.stages: run, cfg, info, source, and rows {train =, held_out =}.

local config = require "mocl.run.config"
local data = require "mocl.data"
local fs = require "mocl.fs"
local open_device = require "mocl.run.device".open
local own_model = require "mocl.lm.own_model"
local report = require "mocl.report"
local rng = require "mocl.rng"
local rows = require "mocl.data.rows"
local Run = require "mocl.run"
local stages = require "mocl.train.stages"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"

local parts = {}

-- Those of the rows whose keys are in the list.
local function pick(all, keys)
  local list = {}
  for _, row in ipairs(all) do
    for _, key in ipairs(keys) do
      list[#list + 1] = row[1] == key and row or nil
    end
  end
  return list
end

local DATA = {
  { "data", "", "file of rows to train on, .jsonl or .csv, either may be gzip'd" },
  { "test", "", "file of rows to test with; empty: a share of data" },
  { "held_out", 0.1, "share of the different prompts or texts of data that are tested with and not trained on", min = 0.01, max = 0.9 },
}

--- parts.schema(own, prefix, defaults) -> the schema of such a recipe: its own rows, and prefix.steps and so on with
-- the recipe's defaults.
function parts.schema(own, prefix, defaults)
  return config.join { DATA, pick(own_model.OPTIONS, { "init", "tokenizer.path" }), own, rows.OPTIONS,
    pick(stages.OPTIONS, { "save_every", "tokenizer.vocab_size", "model.hidden_size", "model.layers", "model.heads",
      "model.intermediate_size", "model.positions" }), {
      { prefix .. ".steps", defaults.steps, "steps", min = 1 },
      { prefix .. ".batch_size", defaults.batch_size, "rows a step", min = 1 },
      { prefix .. ".lr", defaults.lr, "peak step size", min = 0 },
      { prefix .. ".weight_decay", 0.0, "decay of the weights, as AdamW has it", min = 0 },
      { "quantization", "none", "with model: keep the linear layers of the frozen base in 8 or 4 bits under the adapter; what is saved is "
        .. "merged, in f32", choices = { "none", "int8", "w8a8", "nf4" } },
      { "lora.r", 16, "with model: rank of the adapter that is trained and then merged; 0: all weights are trained", min = 0 },
      { "lora.alpha", 32, "its scale is alpha / r", min = 0 },
    } }
end

--- The presets of such a recipe: a run of seconds, and the paper's settings for a model of 7 billion parameters.
function parts.presets(prefix)
  return {
    smoke = { ["tokenizer.vocab_size"] = 300, ["model.hidden_size"] = 16, ["model.heads"] = 2, ["model.intermediate_size"] = 32,
      ["model.layers"] = 1, save_every = 2, [prefix .. ".steps"] = 4, [prefix .. ".batch_size"] = 4 },
    large = { [prefix .. ".steps"] = 20000, [prefix .. ".batch_size"] = 8, [prefix .. ".lr"] = 1.41e-4, ["lora.r"] = 64, ["lora.alpha"] = 128 },
  }
end

local function fail(fmt, ...)
  error(fmt:format(...), 0)
end

local function read(path, kind, columns, option)
  local ok, list, left_out = pcall(rows.read, path, kind, columns)
  if not ok and tostring(list):find "interrupted!" then
    error(list, 0)
  end
  return ok and list or fail("%s=%s", option, tostring(list)), left_out
end

-- {train =, held_out =, left_out =}: the rows of the files, and how many were left out. What is tested with is not
-- trained on, white space aside.
local function split(cfg, kind)
  local all, same = read(cfg.data, kind, cfg.columns, "data")
  local held, train, left_out
  if cfg.test ~= "" then
    held, left_out = read(cfg.test, kind, cfg.columns, "test")
    local seen = {}
    for _, row in ipairs(held) do
      seen[rows.key(row)] = true
    end
    train = {}
    for _, row in ipairs(all) do
      train[#train + 1] = not seen[rows.key(row)] and row or nil
    end
    left_out = same + left_out + #all - #train
  else
    held, train = data.split(all, cfg.held_out, rng.new(cfg.seed, "held out"), rows.key)
    left_out = same
  end
  if #train < 2 or #held < 1 then
    fail("data=%s: %d rows are left to train on and %d to test with%s; at least 2 and 1 are needed", cfg.data, #train, #held,
      cfg.test ~= "" and (" (test=%s)"):format(cfg.test) or "")
  end
  local seen = {}
  for _, row in ipairs(train) do
    seen[row.label or "none"] = true
  end
  if not seen.none and not (seen[0] and seen[1]) then
    fail("data=%s: all %d rows to train on have the label %d; a model learns nothing from one label alone", cfg.data, #train, seen[1] and 1 or 0)
  end
  return { train = train, held_out = held, left_out = left_out }
end

local Context = { __close = function(ctx, err)
  getmetatable(ctx.run).__close(ctx.run, err)
end }

--- parts.open(o) -> ctx, for a `<close>` variable. o: recipe, doc, schema, presets, arg, main (the name of the stage
-- that trains, and of the group of its options), kind(cfg) (of mocl.data.rows), check(cfg, given), text(row) (for the
-- tokenizer of a small model), show(run), which prints a complete run. What is wrong with options, files or rows ends
-- it before there is a directory. ctx.complete: there is nothing to do.
function parts.open(o)
  local meta, schema = { recipe = o.recipe, doc = o.doc, presets = o.presets }, config.common(o.schema)
  local cfg, info = config.parse(schema, o.arg, meta)
  if cfg.data == "" then
    fail "data= names the file of rows to train on, .jsonl or .csv (--help lists the options)"
  end
  o.check(cfg, info.given)
  own_model.check_frozen(cfg)
  stages.check_model(cfg)
  open_device(cfg)
  local list = split(cfg, o.kind(cfg))
  local run = Run.open { recipe = o.recipe, cfg = cfg, info = info, main = o.main, platform = sys.env(), volatile_keys = { "save_every" } }
  local ctx = setmetatable({ run = run, cfg = cfg, info = info, rows = list, complete = run.complete }, Context)
  if run.complete then
    io.write(run.out, " holds this run, complete:\n")
    stages.say_changed(run)
    o.show(run)
    return ctx
  end
  for _, path in ipairs { cfg.data, cfg.test, cfg.init, cfg.tokenizer.path, table.unpack(own_model.beside(cfg.tokenizer.path)) } do
    if path ~= "" and fs.exists(path) then
      run:hash_input(path)
    end
  end
  ctx.source = { documents = function()
    local texts = {}
    for i, row in ipairs(list.train) do
      texts[i] = o.text(row)
    end
    return texts
  end }
  stages.tokenizer(ctx)
  return ctx
end

--- The adapter that is to be trained, {r =, alpha =}, or nil.
function parts.adapter(cfg)
  return cfg.init ~= "" and cfg.lora.r > 0 and { r = cfg.lora.r, alpha = cfg.lora.alpha } or nil
end

--- Ends the run with what the recipe measured, a table, and shows it.
function parts.finish(ctx, figures, show)
  local list, cfg = ctx.rows, ctx.cfg
  local result = { recipe = ctx.run.recipe, seed = cfg.seed, device = cfg.device,
    rows = { train = #list.train, held_out = #list.held_out, left_out = list.left_out } }
  for key, value in pairs(figures) do
    result[key] = value
  end
  ctx.run:finish(result, { peak_bytes = tensor.memory().peak }, report.PAGES)
  show(ctx.run)
end

return parts
