--- same_run.lua A B [bf16] - compares two runs of a recipe with the same options on two devices: the stages and steps are
-- the same, and every figure of metrics.jsonl agrees within what rounding explains. Prints "1 passed, 0 failed".
--
-- Training amplifies a rounding of 1e-7: Adam divides by gradients near zero, and a sampled token at the edge
-- of its interval would end the likeness altogether. The bound is for the smoke preset (3 steps of each stage); 7.8e-7 was seen.
--
-- bf16: the MOC stage of B ran in that type. Its answers are other ones, so there only names and finiteness are compared; what
-- comes before is compared as ever, and the first ratio is 1 all the same.

local json = require "mocl.json"

local BOUND = 1e-4
local in_bf16 = arg[3] == "bf16"

local function rows(dir)
  local list = {}
  for line in io.lines(dir .. "/metrics.jsonl") do
    list[#list + 1] = assert(json.decode(line))
  end
  return list
end

local a, b = rows(arg[1]), rows(arg[2])
local problems, worst, where = {}, 0, ""
if #a ~= #b then
  problems[#problems + 1] = ("%d and %d lines of metrics"):format(#a, #b)
end
for i = 1, math.min(#a, #b) do
  for key, x in pairs(a[i]) do
    local y = b[i][key]
    local other = in_bf16 and a[i].stage == "moc" or nil
    if other and type(x) == "number" and type(y) == "number" then
      if y ~= y or y == math.huge or y == -math.huge then
        problems[#problems + 1] = ("line %d: %s is %s"):format(i, key, tostring(y))
      end
    elseif type(x) == "number" and type(y) == "number" then
      local d = math.abs(x - y) / math.max(1, math.abs(x))
      if not (d <= BOUND) then
        problems[#problems + 1] = ("line %d: %s is %.9g and %.9g"):format(i, key, x, y)
      elseif d > worst then
        worst, where = d, ("line %d: %s"):format(i, key)
      end
    elseif x ~= y then
      problems[#problems + 1] = ("line %d: %s is %s and %s"):format(i, key, tostring(x), tostring(y))
    end
  end
  for _, row in ipairs { a[i], b[i] } do
    if row["ppo/first_ratio_error"] and row["ppo/first_ratio_error"] ~= 0 then
      problems[#problems + 1] = ("line %d: the first ratio is not 1"):format(i)
    end
  end
end
for i = 1, math.min(#problems, 10) do
  print("     " .. problems[i])
end
print(("%d lines of metrics, largest difference %.2g (%s)"):format(#a, worst, where))
print(#problems == 0 and "1 passed, 0 failed" or "0 passed, 1 failed")
os.exit(#problems == 0, true)
