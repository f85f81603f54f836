--- agreement.lua [python=PATH] [out=build/agreement] [page=docs/benchmarks/agreement.md] - what mocl computes beside transformers,
-- PEFT and llama.cpp, family by family and format by format: make agreement. tests/agreement/peers.py makes tiny models and the
-- figures; mocl loads them in every format, writes GGUF files, which llama.cpp and gguf-py read, and trains adapters beside PEFT.
-- A family that mocl does not load is listed with its reason. python= has the packages of peers.py (REQUIREMENTS); without it they
-- are installed once into out/venv. The part of the page between its marks is replaced. Exit status 1 where something is beyond its
-- bound.

package.path = (arg[0]:match "^(.*)/[^/]*$" or ".") .. "/?.lua;" .. package.path

local classifier = require "mocl.lm.classifier"
local families = require "mocl.lm.families"
local fs = require "mocl.fs"
local json = require "mocl.json"
local lora = require "mocl.lm.lora"
local nn = require "mocl.nn"
local optim = require "mocl.optim"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"
local quote = require "bench.sides".quote
local venv = require "peers_venv"

local o = { python = "", out = "build/agreement", page = "docs/benchmarks/agreement.md" }
for _, word in ipairs(arg) do
  local key, value = word:match "^(%w+)=(.*)$"
  if not o[key] then
    io.stderr:write(("agreement: unknown argument '%s' (python=, out=, page=)\n"):format(word))
    os.exit(2)
  end
  o[key] = value
end

-- largest differences that are let pass; GPT-2's is what llama.cpp's table of GELU costs
local LOGITS, LLAMA_CPP, LLAMA_CPP_GELU, GRADIENT, LOSS = 1e-4, 1e-4, 1e-2, 1e-4, 1e-4
local KL = 1e-2
local GGUF_TYPES = { "F32", "F16", "BF16", "Q8_0" }
local REAL = "models/SmolLM2-135M-Instruct.Q4_1.gguf"

local function run(command)
  if not os.execute(command) then
    error("agreement: this failed: " .. command, 0)
  end
end

-- what peers.py asks for
local function requirements()
  local list = {}
  for name in assert(fs.read "tests/agreement/peers.py"):match "REQUIREMENTS = (%b[])":gmatch '"(.-)"' do
    list[#list + 1] = name
  end
  return list
end

local python = o.python
assert(fs.mkdir(o.out))
if python == "" then
  python = venv(o.out, requirements(), { who = "agreement", words = "torch, transformers, peft, gguf and xllamacpp (some 2 GB)" })
end
local function peers(what)
  run(("%s tests/agreement/peers.py %s %s/models > %s/%s.log 2>&1 || { tail -n 20 %s/%s.log; false; }"):format(quote(python), what, quote(o.out),
    quote(o.out), what, quote(o.out), what))
end

-- ---- mocl's side ----

local function logits(model, tokens)
  return tensor.no_grad(function()
    local head = model:head()
    return model:forward(transformer.batch { tokens }):matmul(head:t()):totable()
  end)
end

local function largest(a, b)
  local most = 0
  for i, row in ipairs(a) do
    for k, v in ipairs(row) do
      local d = math.abs(v - b[i][k])
      most = d <= most and most or d -- a NaN stays
    end
  end
  return most
end

local function difference(model, golden, want)
  local most = 0
  for i, tokens in ipairs(golden.tokens) do
    most = math.max(most, largest(logits(model, tokens), want[i]))
  end
  return most
end

-- mean KL of rows of logits
local function kl_of(p, q)
  local sum, n = 0, 0
  for i, rows in ipairs(p) do
    local a, b = tensor.new(rows):log_softmax(-1), tensor.new(q[i]):log_softmax(-1)
    sum, n = sum + (a:exp() * (a - b)):sum():item(), n + #rows
  end
  return sum / n
end

local function loss_of(model, tokens)
  local targets = {}
  for _, row in ipairs(tokens) do
    for i = 2, #row do
      targets[#targets + 1] = row[i]
    end
    targets[#targets + 1] = -1 -- nothing follows the last token
  end
  local logp = nn.lm_head(model:forward(transformer.batch(tokens)), model:head(), tensor.new(targets, { dtype = "i32" }))
  return -logp:sum() / (#targets - #tokens)
end

-- The gradients of an adapter by PEFT's names, as flat lists: of q, k and v that are one matrix there those of A are added up.
local function gradients(model)
  local family, bare = transformer.family(model)
  local out = {}
  for _, pair in ipairs(model:named_parameters(true)) do
    local module, which = pair[1]:match "^(.*)(%.lora_[AB]%.weight)$"
    local name = "base_model.model." .. (family and families.module(family, module, bare) or module) .. which
    local list, mine = pair[2].grad:flatten():totable(), out[name]
    if mine and which:find "A" then
      for i, v in ipairs(list) do
        mine[i] = mine[i] + v
      end
    else
      out[name] = mine and table.move(list, 1, #list, #mine + 1, mine) or list
    end
  end
  return out, family ~= nil
end

-- The largest difference of the gradients, relative to the largest gradient, and of ten losses; nil for these where q, k and v train
-- an A each that PEFT has once.
local function train(model, golden)
  local want, joined = golden.adapter, false
  local opt = optim.adamw(lora.parameters(model), { lr = 5e-3 })
  local gradient, most, loss_most, scale = 0, 0, 0, 0
  for step, theirs in ipairs(want.losses) do
    local loss = loss_of(model, golden.tokens)
    opt:zero_grad()
    loss:backward()
    if step == 1 then
      local mine
      mine, joined = gradients(model)
      for name, list in pairs(mine) do
        local g = want.gradients[name]
        for i, v in ipairs(list) do
          most, scale = math.max(most, math.abs(v - g[i])), math.max(scale, math.abs(g[i]))
        end
      end
      gradient = most / scale
    end
    loss_most = math.max(loss_most, math.abs(loss:item() - theirs))
    opt:step()
  end
  return gradient, not joined and loss_most or nil
end

-- ---- rows ----

local rows, beyond = {}, {}

local function figure(name, what, value, bound)
  if not (value <= bound) then
    beyond[#beyond + 1] = ("%s, %s: %g is above %g"):format(name, what, value, bound)
  end
  return ("%.1e"):format(value)
end

local function same(golden, model)
  local made = model:generate(golden.tokens, { max_new_tokens = #golden.greedy[1], temperature = 0 })
  local equal, n = 0, 0
  for i, row in ipairs(golden.greedy) do
    for k, id in ipairs(row) do
      equal, n = equal + (made.tokens[i][k] == id and 1 or 0), n + 1
    end
  end
  if equal < n then
    beyond[#beyond + 1] = golden.name .. ": other greedy tokens"
  end
  return ("%d of %d"):format(equal, n)
end

local function load_family(dir)
  local golden = assert(json.load(dir .. "/golden.json"))
  local model, why = transformer.load(dir .. "/F32")
  if not model then
    return golden, nil, (why:gsub("^[^:]*: ", ""))
  end
  return golden, model
end

local function write_files(dir)
  local _, model = load_family(dir)
  local can = model and model:config().head ~= "none" and transformer.save_gguf(model, dir .. "/F32.gguf", { type = "F32" })
  for _, kind in ipairs(can and GGUF_TYPES or {}) do
    assert(transformer.save_gguf(model, ("%s/%s.gguf"):format(dir, kind), { type = kind }))
  end
  if can and lora.load(model, dir .. "/adapter") then
    lora.save_gguf(model, dir .. "/adapter.gguf")
  end
end

local score_rows = {}

local function compare_scores(dir, golden)
  local c, why = classifier.load(dir .. "/F32")
  local cell
  if c then
    local got = tensor.no_grad(c.scores, c, golden.tokens):totable()
    cell = figure(golden.name, "scores", largest(got, golden.formats.F32), LOGITS)
  else
    cell = "not loaded: " .. why:gsub("^[^:]*: ", ""):gsub("|", "/")
  end
  score_rows[#score_rows + 1] = ("| %s | %s |"):format(golden.name, cell)
end

local state_rows = {}

-- An encoder: its states from the directory, and from files that gguf-py wrote.
local function compare_states(dir, golden)
  local cells = { golden.name }
  for i, name in ipairs { "F32", "F32.bert.gguf", "F16.bert.gguf", "Q8_0.bert.gguf" } do
    local model, most = assert(transformer.load(dir .. "/" .. name)), 0
    local want = i == 1 and golden.formats.F32 or golden.gguf[name:match "^[^.]*"]
    for k, tokens in ipairs(golden.tokens) do
      most = math.max(most, largest(model:forward(transformer.batch { tokens }):totable(), want[k]))
    end
    cells[i + 1] = figure(golden.name, name, most, LOGITS)
  end
  state_rows[1] = "| " .. table.concat(cells, " | ") .. " |"
end

local function compare(dir)
  local golden, model, why = load_family(dir)
  if golden.gguf then
    return compare_states(dir, golden)
  end
  if golden.classifies then
    return compare_scores(dir, golden)
  end
  if not model then
    rows[#rows + 1] = ("| %s | not loaded: %s |"):format(golden.name, why:gsub("|", "/"))
    return
  end
  local cells = { golden.name }
  local function add(text)
    cells[#cells + 1] = text
  end
  for _, format in ipairs { "F32", "F16", "BF16", "sharded" } do
    local other = assert(transformer.load(dir .. "/" .. format))
    add(figure(golden.name, format, difference(other, golden, golden.formats[format]), LOGITS))
  end
  add(same(golden, model))
  local attached, reason = lora.load(model, dir .. "/adapter")
  if attached then
    add(figure(golden.name, "adapter", difference(model, golden, golden.adapter.logits), LOGITS))
    local gradient, loss = train(model, golden)
    add(figure(golden.name, "gradients", gradient, GRADIENT))
    add(loss and figure(golden.name, "losses", loss, LOSS) or "q, k, v: an A each")
  else
    add("no: " .. reason:gsub("^.*/", ""):sub(1, 60))
    add ""
    add ""
  end
  rows[#rows + 1] = "| " .. table.concat(cells, " | ") .. " |"
end

local gguf_rows = {}

local function compare_gguf(dir)
  local golden = load_family(dir)
  if golden.gguf then
    return
  end
  local cells = { golden.name }
  if not fs.exists(dir .. "/F32.gguf") then
    return
  end
  local bound = golden.name:find "gpt2" and LLAMA_CPP_GELU or LLAMA_CPP
  for _, kind in ipairs(GGUF_TYPES) do
    local path = ("%s/%s.gguf"):format(dir, kind)
    local model, seen = assert(transformer.load(path)), assert(json.load(path .. ".json"))
    cells[#cells + 1] = figure(golden.name, kind .. ".gguf beside transformers", difference(model, golden, seen.transformers), LOGITS)
    if kind == "F32" then
      cells[#cells + 1] = figure(golden.name, "F32.gguf beside llama.cpp", difference(model, golden, seen.llama_cpp), bound)
    elseif kind == "Q8_0" then
      local mine = {}
      for i, tokens in ipairs(golden.tokens) do
        mine[i] = logits(model, tokens)
      end
      cells[#cells + 1] = figure(golden.name, "Q8_0.gguf beside llama.cpp, KL", kl_of(seen.llama_cpp, mine), KL)
    end
  end
  if fs.exists(dir .. "/adapter.gguf") then
    local seen, most = assert(json.load(dir .. "/adapter.gguf.json")), 0
    for i, want in ipairs(golden.adapter.logits) do
      most = math.max(most, largest(seen.llama_cpp[i], want))
    end
    cells[#cells + 1] = figure(golden.name, "adapter.gguf in llama.cpp beside PEFT", most, bound == LLAMA_CPP and 2e-5 or bound)
  else
    cells[#cells + 1] = ""
  end
  gguf_rows[#gguf_rows + 1] = "| " .. table.concat(cells, " | ") .. " |"
end

-- ---- the real model ----

local function real()
  if not fs.exists(REAL) then
    return "`" .. REAL .. "` was not there (`make real-model` fetches it)."
  end
  local want = assert(json.load "tests/fixtures/real_model/real_model.json")
  local model, tok, text = assert(transformer.load(REAL)), assert(tokenizer.load(REAL)), {}
  local hash = model:hash() == want.hash
  if not hash then
    beyond[#beyond + 1] = "SmolLM2: other weights than gguf-py's"
  end
  text[1] = ("SmolLM2-135M-Instruct, Q4_1: the weights are gguf-py's %s. Greedy answers:\n"):format(hash and "to the bit" or "NOT")
  text[2] = "| prompt | mocl | llama.cpp, the same weights in f32 | llama.cpp, the file as it is (activations rounded to 8 bits) |\n|---|---|---|---|"
  for _, case in ipairs(want.prompts) do
    local made = model:generate({ case.ids }, { max_new_tokens = #case.exact, temperature = 0, vocab_size = #tok }).tokens[1]
    local function shown(ids)
      return (tok:decode(ids):gsub("%s+", " "):gsub("|", "/"))
    end
    text[#text + 1] = ("| %s | %s | %s | %s |"):format(case.text, shown(made), shown(case.exact), shown(case.quantised))
    if json.encode(made) ~= json.encode(case.exact) then
      beyond[#beyond + 1] = "SmolLM2: another answer to " .. case.text
    end
  end
  return table.concat(text, "\n")
end

-- ---- the page ----

peers "make"
local dirs = {}
for _, name in ipairs(assert(fs.list(o.out .. "/models"))) do
  dirs[#dirs + 1] = o.out .. "/models/" .. name
end
table.sort(dirs)
for _, dir in ipairs(dirs) do
  write_files(dir)
end
peers "gguf"
for _, dir in ipairs(dirs) do
  compare(dir)
  compare_gguf(dir)
end

local text = table.concat({
  os.date "!%Y-%m-%d; `make agreement`.", "",
  "| family | F32 | F16 | BF16 | sharded | greedy tokens equal | PEFT adapter | its gradients | ten losses |", "|---|---|---|---|---|---|---|---|---|",
  table.concat(rows, "\n"), "",
  "| with a head for classification | largest difference of scores |", "|---|---|", table.concat(score_rows, "\n"), "",
  "| states of an encoder | F32 | GGUF that gguf-py wrote, F32 | F16 | Q8_0 |", "|---|---|---|---|---|", table.concat(state_rows, "\n"), "",
  "| GGUF files that mocl wrote | F32 | F32, llama.cpp | F16 | BF16 | Q8_0 | Q8_0, llama.cpp: KL | LoRA GGUF in llama.cpp beside PEFT |",
  "|---|---|---|---|---|---|---|---|", table.concat(gguf_rows, "\n"), "", real(),
}, "\n")
print(text)
local page = assert(fs.read(o.page))
local head, tail = page:match "^(.*<!%-%- agreement %-%->\n).-(<!%-%- end %-%->.*)$"
if not head then
  error(("agreement: %s has no lines <!-- agreement --> and <!-- end -->"):format(o.page), 0)
end
assert(fs.write(o.page, head .. text .. "\n" .. tail))
for _, line in ipairs(beyond) do
  print("FAIL " .. line)
end
print(("%d families and %d with heads for classification, %d in GGUF files; %d figures beyond their bounds"):format(#rows, #score_rows, #gguf_rows + #state_rows, #beyond))
os.exit(#beyond == 0)
