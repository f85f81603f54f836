--- sass.lua OBJECT OUT - what nvcc made of the CUDA kernels, read from cuobjdump: registers, stack, shared memory, how many
-- loads and stores are 128 bits wide, tensor-core instructions. make sass calls it for each architecture.
--
-- The exit status is 1 where a kernel keeps a promise no more: those that are bound by memory load and store 16 bytes at a
-- time, and nothing new spills registers into memory. Writes a table of all kernels to OUT (Markdown).

local object, page = arg[1], arg[2]
local tool = os.getenv "CUOBJDUMP" or "cuobjdump"

local function lines(command)
  local pipe = assert(io.popen(command))
  local list = {}
  for line in pipe:lines() do
    list[#list + 1] = line
  end
  if not pipe:close() or #list == 0 then
    io.stderr:write(("make sass: '%s' failed; cuobjdump is of the CUDA toolkit, and CUOBJDUMP names it elsewhere\n"):format(command))
    os.exit(1, true)
  end
  return list
end

-- whose time is that of the memory they move: a first part of the name
local WIDE = { "swiglu_kernel", "swiglu_bwd_kernel", "rope_kernel", "rmsnorm_kernel", "norm_bwd_kernel", "binary_alike_kernel",
  "round_kernel", "axpy_kernel", "adamw_kernel" }
-- these use local memory: arrays that are read by a row's number, two words of the smallest product, and the slow path that
-- sines and cosines of large angles have
local STACK = { "attention_kernel", "attention_cached_kernel", "attention_dq_kernel", "attention_dkv_kernel", "gemm_kernel<16",
  "sample_kernel", "unary_kernel", "unary_bwd_kernel", "rope_kernel", "normal_kernel" }

local function listed(list, name)
  for _, start in ipairs(list) do
    if name:find(start, 1, true) == 1 then
      return true
    end
  end
  return false
end

-- mangled name -> { reg, stack, shared, ... }
local kernels, order = {}, {}
local function kernel(name)
  if not kernels[name] then
    kernels[name] = { name = name, loads = 0, wide_loads = 0, stores = 0, wide_stores = 0, tensor = 0 }
    order[#order + 1] = name
  end
  return kernels[name]
end

local current
for _, line in ipairs(lines(("'%s' -res-usage '%s' 2>&1"):format(tool, object))) do
  current = line:match "Function (%S+):" or current
  local reg, stack, shared = line:match "REG:(%d+) STACK:(%d+) SHARED:(%d+)"
  if reg and current then
    local k = kernel(current)
    k.reg, k.stack, k.shared = math.tointeger(reg), math.tointeger(stack), math.tointeger(shared)
  end
end
for _, line in ipairs(lines(("'%s' -sass '%s' 2>&1"):format(tool, object))) do
  current = line:match "Function : (%S+)" or current
  local op = line:match "/%*%x+%*/%s+([%w_.@! ]+)"
  local k = op and current and kernels[current]
  if k then
    op = op:gsub("^@!?U?P%w+ ", "")
    if op:find "^LDG" or op:find "^LD%.E" then
      k.loads, k.wide_loads = k.loads + 1, k.wide_loads + (op:find("128", 1, true) and 1 or 0)
    elseif op:find "^STG" or op:find "^ST%.E" then
      k.stores, k.wide_stores = k.stores + 1, k.wide_stores + (op:find("128", 1, true) and 1 or 0)
    elseif op:find "^HMMA" or op:find "^HGMMA" then
      k.tensor = k.tensor + 1
    end
  end
end

local names = lines(("printf '%%s\\n' %s | c++filt"):format(table.concat(order, " ")))
for i, mangled in ipairs(order) do
  kernels[mangled].name = names[i]:gsub("^void ", ""):gsub("%(.*$", "")
end
table.sort(order, function(a, b) return kernels[a].name < kernels[b].name end)

local out, broken, promised = {}, {}, 0
out[#out + 1] = "| kernel | registers | stack, bytes | shared, bytes | 128-bit loads | 128-bit stores | tensor-core instructions |"
out[#out + 1] = "|---|---|---|---|---|---|---|"
for _, mangled in ipairs(order) do
  local k = kernels[mangled]
  out[#out + 1] = ("| %s | %d | %d | %d | %d of %d | %d of %d | %d |"):format(k.name:gsub("|", "\\|"), k.reg or 0, k.stack or 0,
    k.shared or 0, k.wide_loads, k.loads, k.wide_stores, k.stores, k.tensor)
  if listed(WIDE, k.name) then
    promised = promised + 1
    if k.wide_loads == 0 or k.wide_stores == 0 then
      broken[#broken + 1] = k.name .. ": no loads or stores of 16 bytes"
    end
  end
  if (k.stack or 0) > 0 and not listed(STACK, k.name) then
    broken[#broken + 1] = ("%s: %d bytes of stack"):format(k.name, k.stack)
  end
end
if promised < #WIDE then
  broken[#broken + 1] = "kernels that are named here are gone from the object"
end
local f = assert(io.open(page, "w"))
f:write(table.concat(out, "\n"), "\n")
assert(f:close())
for _, what in ipairs(broken) do
  print("broken: " .. what)
end
print(("%s: %d kernels, %d that must be wide, %d promises broken; the table is %s"):format(object, #order, promised, #broken, page))
os.exit(#broken == 0, true)
