--- mocl.train.stage_inputs: what a language-model run reads before its first stage: the rewards file, the models of
-- reward.NAME and eval.blind, prompts, answers and pairs. It records the hashes of files and raises mistakes in words.
-- `stages` is here the part of mocl.train.stages that this file has; mocl.train.stages exports what recipes use of it.

local data_sources = require "mocl.data.sources"
local fs = require "mocl.fs"
local own_model = require "mocl.lm.own_model"
local nearest = require "mocl.options".nearest
local sorted_keys = require "mocl.options".sorted_keys
local reward = require "mocl.lm.reward"
local reward_directory = require "mocl.lm.reward_directory"
local run_options = require "mocl.run.options"

local stages = {}

local reward_path = own_model.reward_path

--- Records the files that options name (mocl.run); but the weights of init= when they are loaded, if that is still to come.
function stages.hash_inputs(run, cfg)
  local function later(path)
    return not run.stages.sft and path:find "%.safetensors$" ~= nil
  end
  local paths = { cfg.data, cfg.init, cfg.tokenizer.path, cfg.prompts, cfg.sft.data, cfg.eval and cfg.eval.blind or "" }
  for _, name in ipairs(cfg.objectives or {}) do
    paths[#paths + 1] = reward_path(cfg, name)
  end
  for _, path in ipairs(paths) do
    if path ~= "" then
      run:hash_input(path, nil, path == cfg.init and later or nil)
    end
  end
  for _, path in ipairs(own_model.beside(cfg.tokenizer.path)) do
    if fs.exists(path) == "file" then
      run:hash_input(path)
    end
  end
end

--- Says on stderr where a complete run shows what it made of a file that has changed since.
function stages.say_changed(run)
  local change = run:changed_input()
  if change then
    io.stderr:write(("warning: %s\nwhat follows was made before; another out= makes all anew, resume=auto redo=STAGE what used a changed rewards file\n")
      :format(change))
  end
end

--- The rewards file as a table of functions; empty without one. Raises where none of them is a reward of the run, which would train on
-- others.
function stages.reward_functions(cfg)
  if cfg.rewards == "" then
    return {}
  end
  local functions, message = reward.functions(cfg.rewards)
  local used = not functions and error("rewards: " .. message, 0)
  for _, name in ipairs(cfg.objectives) do
    used = used or functions[name]
  end
  if used then
    return functions
  end
  local names = sorted_keys(functions)
  return error(("rewards=%s: has no function for %s (it has %s); objectives= names the rewards of a run"):format(cfg.rewards,
    table.concat(cfg.objectives, ", "), #names > 0 and table.concat(names, ", ") or "none"), 0)
end

-- template= as a table: objective -> template, and that of all others as [1].
local function templates_of(cfg, names)
  local by_name = {}
  for _, word in ipairs(cfg.template) do
    local name, template = word:match "^([^:]*):(.*)$"
    if name and not reward_path(cfg, name) then
      error(("template=%s: there is no reward.%s=DIR"):format(word, name), 0)
    elseif #names == 0 then
      error(("template=%s: there is no reward.NAME=DIR that it could be for; leave it out"):format(word), 0)
    elseif by_name[name or 1] then
      error(("template=%s: two for %s"):format(table.concat(cfg.template, ","), name or "all reward models"), 0)
    end
    by_name[name or 1] = template or word
  end
  return by_name
end

--- Without objectives= the names of the rewards that have a directory are the objectives.
function stages.rewarded_objectives(cfg, info)
  local names = info.named["reward.NAME"] or {}
  if #names > 0 and not run_options.covers(info.given, "objectives") then
    cfg.objectives = table.move(names, 1, #names, 1, {})
  end
end

--- The directories of reward.NAME beside the functions of a rewards file; raises in words, with the option's name in
-- front.
function stages.reward_directories(cfg, info, functions)
  local names = info.named["reward.NAME"] or {}
  local templates, known = templates_of(cfg, names), {}
  for _, name in ipairs(cfg.objectives) do
    known[name] = true
  end
  for _, name in ipairs(names) do
    if not known[name] then
      local all = table.move(cfg.objectives, 1, #cfg.objectives, 1, {})
      for key in pairs(cfg.reward) do
        all[#all + 1] = key ~= name and key or nil
      end
      table.sort(all)
      local near = nearest(name, all)
      error(("reward.%s=%s: there is no objective '%s'%s; objectives=%s"):format(name, cfg.reward[name], name,
        near and (" (did you mean 'reward.%s'?)"):format(near) or "", table.concat(cfg.objectives, ",")), 0)
    elseif functions[name] then
      error(("reward.%s=%s: rewards=%s has a function '%s' too; leave one out"):format(name, cfg.reward[name], cfg.rewards, name), 0)
    end
  end
  for _, name in ipairs(names) do
    local decimals = cfg.reward.decimals
    local f, message = reward_directory.load(cfg.reward[name], { device = cfg.device, objective = name,
      template = templates[name] or templates[1], decimals = decimals >= 0 and decimals or nil,
      quantization = own_model.format(cfg.reward) })
    functions[name] = f or error(("reward.%s=%s"):format(name, message), 0)
  end
end

--- The model of eval.blind; nil without it.
function stages.blind_judge(cfg)
  if cfg.eval.blind == "" then
    return nil
  end
  local f, message = reward_directory.load(cfg.eval.blind, { device = cfg.device })
  return f or error("eval.blind=" .. message, 0)
end

--- Where prompts, answers and pairs come from, by the options.
function stages.source_of(cfg, functions, make)
  local embedded = cfg.data == "" and cfg.prompts == ""
  local source = cfg.prompts ~= "" and own_model.prompts { path = cfg.prompts, seed = cfg.seed, held_out = 0.1 }
    or make and make(cfg) or embedded
    and data_sources.assistant { seed = cfg.seed, trade_off = cfg.trade_off, objectives = cfg.objectives, documents = cfg.documents,
      sft = cfg.sft.examples, comparisons = cfg.reward.prompts, answers = cfg.reward.answers,
      test_pairs = math.max(50, cfg.reward.prompts // 5) }
    or data_sources.hh_rlhf { path = cfg.data, seed = cfg.seed, objectives = cfg.objectives, prompt_chars = cfg.hh.prompt_chars,
      held_out = 0.1 }
  if cfg.sft.data ~= "" then
    source.sft = own_model.answers(cfg.sft.data, #cfg.objectives, source.is_held_out)
  end
  data_sources.check_objectives(cfg.objectives, source.known, functions)
  for _, name in ipairs(cfg.objectives) do
    if not functions[name] then
      source.check(name)
    end
  end
  own_model.check_trains(cfg, source.sft ~= nil and cfg.sft.steps > 0, functions)
  return source
end

--- stages.check_data(cfg): raises where there are no prompts, pairs or functions for the objectives, as stages.open does before it has a
-- directory.
function stages.check_data(cfg)
  local functions = stages.reward_functions(cfg)
  for _, name in ipairs(cfg.objectives) do
    functions[name] = functions[name] or reward_path(cfg, name)
  end
  stages.source_of(cfg, functions)
end

return stages
