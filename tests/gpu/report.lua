--- report.lua DIR SECONDS - puts what run.sh left in DIR together: gpu.json and gpu.md.

local json = require "mocl.json"

local dir, seconds = arg[1], tonumber(arg[2])

local function read(name)
  local f = io.open(dir .. "/" .. name, "rb")
  if not f then
    return nil
  end
  local text = f:read("a")
  f:close()
  return text
end

local all = { seconds = seconds, steps = {}, mocl = {}, torch = {} }
for line in (read "steps" or ""):gmatch("[^\n]+") do
  local name, status, s, last = line:match("^(%S+)\t(%S+)\t(%S+)\t(.*)$")
  all.steps[#all.steps + 1] = { name = name, status = status, seconds = tonumber(s), last = last }
end
all.machine = read "machine.log"
local shapes = { "tiny", "7b", "smollm2", "1b" }
for _, shape in ipairs(shapes) do
  for _, side in ipairs { "mocl", "torch" } do
    for _, dtype in ipairs { "f32", "bf16" } do
      local text = read(("%s-%s-%s.json"):format(side, shape, dtype))
      if text then
        all[side][shape] = all[side][shape] or {}
        all[side][shape][dtype] = json.decode(text)
      end
    end
  end
end
all.products = read "products.all"

local out = {}
local function line(fmt, ...)
  out[#out + 1] = fmt:format(...)
end
line("# One run of tests/gpu/run.sh\n")
line("%s\n%d seconds in all.\n", all.machine and "```\n" .. all.machine .. "```\n" or "No GPU: the host emulator.\n", seconds)
line("| step | status | seconds | last line |\n|---|---|---|---|")
for _, s in ipairs(all.steps) do
  line("| %s | %s | %d | %s |", s.name, s.status == "0" and "ok" or s.status, s.seconds, (s.last:gsub("|", "\\|")))
end

local function figure(t, ...)
  for _, key in ipairs { ... } do
    t = type(t) == "table" and t[key] or nil
  end
  return type(t) == "number" and t or nil
end
local function show(x, unit)
  return x and ("%.4g"):format(x / unit) or "-"
end
for _, shape in ipairs(shapes) do
  local m, t = all.mocl[shape], all.torch[shape]
  if m then
    local any = m.bf16 or m.f32
    line("\n## Shape %s, %.3g parameters\n", shape, figure(any, "model", "parameters") or 0)
    line("| | mocl, bf16 | PyTorch, bf16 | mocl, f32 | PyTorch, f32 | unit |\n|---|---|---|---|---|---|")
    local function row(label, unit, name, ...)
      line("| %s | %s | %s | %s | %s | %s |", label, show(figure(m, "bf16", ...), unit), show(figure(t, "bf16", ...), unit),
        show(figure(m, "f32", ...), unit), show(figure(t, "f32", ...), unit), name)
    end
    row("copy, read + write", 1e9, "GB/s", "copy", "bytes_per_second")
    row("matrix product", 1e12, "TFLOP/s", "matrix", "flops")
    for i, d in ipairs(any.decode or {}) do
      row(("decode, batch %d"):format(d.batch), 1, "tokens/s", "decode", i, "tokens_per_second")
    end
    for i, u in ipairs(any.lora_update or {}) do
      row(("LoRA update, %d tokens in sequences of %d"):format(u.tokens, u.sequence), 1, "tokens/s", "lora_update", i, "tokens_per_second")
    end
    for i, u in ipairs(any.logprob or {}) do
      row(("log-probability pass, sequences of %d"):format(u.sequence), 1, "tokens/s", "logprob", i, "tokens_per_second")
    end
    for i, a in ipairs(any.attention or {}) do
      row(("attention, sequences of %d"):format(a.sequence), 1e12, "TFLOP/s", "attention", i, "forward_flops")
      row(("its backward pass, sequences of %d"):format(a.sequence), 1e12, "TFLOP/s", "attention", i, "backward_flops")
    end
    row("one MOC iteration", 1, "s", "moc", "seconds")
    for _, dtype in ipairs { "bf16", "f32" } do
      local r = m[dtype]
      local function shares(key, what, label)
        local list = {}
        for i, d in ipairs(r[key] or {}) do
          list[i] = ("%.3g (%s)"):format(d[what], label(d))
        end
        return #list > 0 and table.concat(list, ", ") or "-"
      end
      if r then
        line("\nmocl in %s against its own limits. Of the copy's rate: decode %s; kernels %s. Of the matrix's rate: update %s; "
          .. "log-probabilities %s.", dtype, shares("decode", "share_of_copy", function(d) return "batch " .. d.batch end),
          shares("kernels", "share_of_copy", function(d) return d.name end),
          shares("lora_update", "share_of_matrix", function(d) return "S = " .. d.sequence end),
          shares("logprob", "share_of_matrix", function(d) return "S = " .. d.sequence end))
        local phases = {}
        for name, s in pairs(r.moc and r.moc.phases or {}) do
          phases[#phases + 1] = ("%s %.3g s"):format(name, s)
        end
        table.sort(phases)
        if #phases > 0 then
          line("The iteration of %d answers: %s.", r.moc.answers, table.concat(phases, ", "))
        end
      end
    end
  end
end
if all.products then
  line("\n## Algorithms of the products in bf16\n\n```\n%s```", all.products)
end

local function write(name, text)
  local f = assert(io.open(dir .. "/" .. name, "w"))
  f:write(text)
  f:close()
end
write("gpu.json", json.encode(all, { indent = 2 }) .. "\n")
write("gpu.md", table.concat(out, "\n") .. "\n")
