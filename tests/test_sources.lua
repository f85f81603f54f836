-- mocl.data.sources and data.split: nothing trains on a prompt that is held out, whichever file or split it comes from

local T = require "t"
local assistant = require "mocl.data.tasks.assistant"
local data = require "mocl.data"
local fs = require "mocl.fs"
local json = require "mocl.json"
local preference = require "mocl.preference"
local rng = require "mocl.rng"
local sources = require "mocl.data.sources"

local FILES = { "harmless-base", "helpful-base" }

-- a directory with `pairs_each` pairs to each of prompt(file, i), i = 1..n
local function hh_files(n, pairs_each, prompt)
  local dir = T.tmpdir()
  for _, name in ipairs(FILES) do
    local lines = {}
    for i = 1, n do
      for k = 1, pairs_each do
        local start = ("\n\nHuman:%s\n\nAssistant: "):format(prompt(name, i, k))
        lines[#lines + 1] = json.encode { chosen = start .. "good " .. k, rejected = start .. "bad " .. k }
      end
    end
    assert(fs.write(("%s/%s.test.jsonl"):format(dir, name), table.concat(lines, "\n") .. "\n"))
  end
  return dir
end

local function open(dir, o)
  return sources.hh_rlhf { path = dir, seed = o and o.seed or 0, objectives = { "harmless", "helpful" },
    prompt_chars = o and o.chars or 260, held_out = o and o.held_out or 0.1 }
end

local function set(list, of)
  local keys, n = {}, 0
  for _, v in ipairs(list) do
    local key = data.prompt_key(of and of(v) or v)
    n = n + (keys[key] and 0 or 1)
    keys[key] = true
  end
  return keys, n
end

local function shared(a, b)
  local n = 0
  for key in pairs(a) do
    n = n + (b[key] and 1 or 0)
  end
  return n
end

local function prompt_of(row)
  return (preference.strip(row.prompt))
end

-- Nothing that anything trains on has a prompt that anything is tested with. Returns the numbers of different prompts.
local function check_apart(source)
  local test, n_test = set(source.test_prompts)
  for _, objective in ipairs { "harmless", "helpful" } do
    local _, held = source.pairs(objective)
    for key in pairs((set(held, prompt_of))) do
      test[key] = true
    end
  end
  local train, n_train = set(source.train_prompts)
  T.eq(shared(train, test), 0, "prompts of PPO")
  T.eq({ #source.train_prompts, #source.test_prompts }, { n_train, n_test }, "each prompt once")
  for _, objective in ipairs { "harmless", "helpful" } do
    T.eq(shared(set((source.pairs(objective)), prompt_of), test), 0, "pairs of " .. objective)
  end
  T.eq(shared(set(source.sft(rng.new(0, "sft")), prompt_of), test), 0, "examples of SFT")
  for _, text in ipairs(source.documents(rng.new(0, "documents"))) do
    local key = data.prompt_key((preference.strip(text)):match("^(.*\n\nAssistant:)"))
    T.ok(not test[key], "documents")
  end
  return n_train, n_test
end

T.test("several pairs per prompt: held-out prompts are in no training set", function()
  local source = open(hh_files(60, 3, function(name, i)
    return (" %s question %d"):format(name, i)
  end))
  T.eq({ check_apart(source) }, { 108, 12 })
  local train, test = source.pairs "helpful"
  T.eq({ #train, #test }, { 162, 18 })
end)

T.test("prompts that both files have are held out in both, and no more of them", function()
  local source = open(hh_files(60, 3, function(_, i)
    return " question " .. i
  end))
  T.eq({ check_apart(source) }, { 54, 6 })
  for _, objective in ipairs { "harmless", "helpful" } do
    local train, test = source.pairs(objective)
    T.eq({ #train, #test }, { 162, 18 })
  end
  -- half of them
  source = open(hh_files(60, 2, function(name, i)
    return (" %s question %d"):format(i <= 30 and "shared" or name, i)
  end))
  local n_train, n_test = check_apart(source)
  T.eq(n_train + n_test, 90)
  T.ok(n_test >= 6 and n_test <= 12, n_test)
end)

T.test("prompts that differ in white space alone are one prompt", function()
  local source = open(hh_files(60, 3, function(name, i, k)
    return ({ " question %d", "  question\u{3000}%d \n", "question\t%d\u{A0}" })[name == FILES[1] and k or 4 - k]:format(i)
  end))
  T.eq({ check_apart(source) }, { 54, 6 })
end)

T.test("a source says of any prompt whether it is held out, also of those that are too long to be answered", function()
  local source = open(hh_files(120, 1, function(name, i)
    return (" %s question %d%s"):format(name, i, i % 2 == 0 and (" long"):rep(30) or "")
  end), { chars = 80 })
  local held, long = 0, 0
  for _, objective in ipairs { "harmless", "helpful" } do
    local train, test = source.pairs(objective)
    for _, row in ipairs(train) do
      T.ok(not source.is_held_out(row.prompt), row.prompt)
    end
    for _, row in ipairs(test) do
      held, long = held + 1, long + (#row.prompt > 80 and 1 or 0)
      T.ok(source.is_held_out(row.prompt) and source.is_held_out(row.prompt .. "\n"), row.prompt)
    end
  end
  T.eq(held, 24)
  T.ok(long > 0)
  local task = sources.assistant { seed = 0, objectives = { "humor" }, documents = 10, sft = 10, comparisons = 10, answers = 2, test_pairs = 10 }
  T.ok(task.is_held_out(" " .. task.test_prompts[1]) and not task.is_held_out(task.train_prompts[1]))
end)

T.test("HH-RLHF as it is published: apart for several seeds", function()
  local dir = T.shared("prefs/hh-rlhf/LICENSE"):match("^(.*)/")
  for seed = 0, 2 do
    local n_train, n_test = check_apart(open(dir, { seed = seed }))
    T.ok(n_train > 1500 and n_test > 150, n_test)
  end
end)

T.test("too few prompts or pairs are an error with their numbers", function()
  local function own(name, i)
    return (" %s question %d"):format(name, i)
  end
  T.raises("^data=/.*: only 36 prompts to train on and 2 to evaluate have at most hh.prompt_chars=260 characters; at least 50 and 5",
    open, hh_files(19, 5, own)) -- many pairs are not many prompts
  T.raises("only 0 prompts to train on and 0 to evaluate", open, hh_files(0, 1, own))
  T.raises("only 0 prompts to train on and 0 to evaluate have at most hh.prompt_chars=20 ", open, hh_files(60, 1, own), { chars = 20 })
  local dir = hh_files(60, 2, own)
  local lines = assert(fs.read(dir .. "/helpful-base.test.jsonl"))
  assert(fs.write(dir .. "/helpful-base.test.jsonl", lines:match(("[^\n]*\n"):rep(12))))
  local source = open(dir)
  T.eq(source.check "harmless", nil)
  T.raises("^data=/.*: objective 'helpful' has only 12 pairs to train a reward model on and 0 to test it with; at least 10 and 1",
    source.check, "helpful")
  T.raises("objective 'humor' has no pairs", source.check, "humor")
end)

T.test("hh.prompt_chars counts characters", function()
  -- 95 characters and the marks of the speakers, 21 more with their blanks
  local dir = hh_files(60, 1, function(name, i)
    return (" %s%02d"):format(("\u{6F22}"):rep(92) .. (name == FILES[1] and "a" or "b"), i)
  end)
  T.eq({ check_apart(open(dir)) }, { 108, 12 })
  local longest = #"\n\nHuman:" + 1 + 95 + #" \n\nAssistant:"
  T.eq({ check_apart(open(dir, { chars = longest })) }, { 108, 12 })
  T.raises("only 0 prompts", open, dir, { chars = longest - 1 })
end)

T.test("data= is a directory that is there", function()
  local file = T.tmpdir() .. "/x.jsonl"
  assert(fs.write(file, "{}\n"))
  T.raises("^data=/nope: No such file or directory$", open, "/nope")
  T.raises("^data=/.*/x.jsonl: is a file; the directory of HH%-RLHF's files is expected$", open, file)
end)

T.test("the embedded task holds its prompts out of everything", function()
  local source = sources.assistant { seed = 3, trade_off = "rising", objectives = { "humor", "helpful" }, documents = 300,
    sft = 300, comparisons = 60, answers = 3, test_pairs = 60 }
  local task = assistant.new { seed = 3 }
  local test = set(source.test_prompts)
  T.eq(shared(set(source.train_prompts), test), 0)
  local train_rows, test_rows = source.pairs "humor"
  T.eq(shared(set(train_rows, prompt_of), test), 0)
  T.eq(shared(set(test_rows, prompt_of), (set(source.train_prompts))), 0)
  for _, list in ipairs { source.documents(rng.new(0, "d")), source.sft(rng.new(0, "s")) } do
    for _, row in ipairs(list) do
      for _, prompt in ipairs(task.test_prompts) do
        T.ok(not (row.prompt or row):find(prompt, 1, true), prompt)
      end
    end
  end
end)

-- ---- any list ----

T.test("data.split keeps entries with the same text on one side", function()
  local rows = {}
  for i = 1, 60 do
    for k, blank in ipairs { "", " ", "\n" } do
      rows[#rows + 1] = { prompt = ("question %d%s"):format(i, blank), chosen = "a" .. k, rejected = "b" }
    end
  end
  local function apart(list, of, key)
    local first, rest = data.split(list, 0.8, rng.new(1, "split"), key)
    T.eq(#first + #rest, #list)
    local a, n = set(first, of)
    T.eq({ shared(a, (set(rest, of))), n }, { 0, 48 })
    return first
  end
  T.eq(#apart(rows, prompt_of), 144)
  local texts, csv, chats = {}, {}, {}
  for i, row in ipairs(rows) do
    texts[i], csv[i] = row.prompt, { text = row.prompt }
    chats[i] = { prompt = { { role = "user", content = row.prompt } } }
  end
  apart(texts)
  apart(csv, function(row)
    return row.text
  end)
  apart(chats, function(row)
    return row.prompt[1].content
  end)
  -- by something else
  local first, rest = data.split(rows, 0.5, rng.new(1, "split"), function(row)
    return row.chosen
  end)
  T.eq({ #first % 60, #rest % 60, #first + #rest }, { 0, 0, 180 })
  first = data.split(rows, 0.5, rng.new(1, "split"), function() end) -- each alone
  T.eq(#first, 90)
end)

T.test("data.prompt_key", function()
  local want = "Human:hi there Assistant:"
  for _, text in ipairs { "\n\nHuman: hi there \n\nAssistant:", "\n\nHuman:hi  there\n\nAssistant: ", "\r\n\r\nHuman: hi\tthere\u{A0}\n\nAssistant:",
    "\n\nHuman: hi\u{2003}\u{85}there\u{3000}\n\nAssistant:" } do
    T.eq(data.prompt_key(text), want)
  end
  T.eq(data.prompt_key "日本語\u{2028}x é ü", "日本語 x é ü") -- white space only as whole characters
  T.eq(data.prompt_key "caf\xE9 \xC2", "caf\xE9 \xC2")
  T.ok(data.prompt_key "Hi" ~= data.prompt_key "hi")
end)

-- ---- objectives ----

T.test("objectives: unknown ones are told with the rewards file's names too", function()
  local f = { brief = print }
  T.raises("unknown objective 'breif' %(did you mean 'brief'%?%); known here: humor, brief", sources.check_objectives,
    { "breif" }, { "humor" }, f)
  T.eq(sources.check_objectives({ "brief", "humor" }, { "humor" }, f), nil)
  T.raises("objective 'brief' is named twice", sources.check_objectives, { "brief", "brief" }, { "humor" }, f)
end)
