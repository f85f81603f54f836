--- figures: the benchmark's result as a Markdown table, and its place in a page.

local fs = require "mocl.fs"

local figures = {}

local FIRST, LAST = "<!-- bench -->", "<!-- /bench -->"

local function number(x)
  return x >= 100 and ("%.0f"):format(x) or ("%.3g"):format(x)
end

local function range(s, unit)
  return ("%s %s (%s to %s)"):format(number(s.median), unit, number(s.min), number(s.max))
end

local function goal(row)
  if row.limit then
    return ("%d ms: %s"):format(row.limit, row.mocl.median <= row.limit and "reached" or "missed")
  elseif not row.goal then
    return ""
  end
  local text = row.stretch and ("%gx (%gx)"):format(row.goal, row.stretch) or ("%gx"):format(row.goal)
  return not row.ratio and text or ("%s: %s"):format(text, row.ratio.median >= row.goal and "reached" or "missed")
end

local function gemm_goal(share)
  return ("80 %% of peak: %s"):format(share >= .8 and "reached" or "missed")
end

--- The table of a result of run.lua, with what it was measured on.
function figures.markdown(result)
  local m, p = result.machine, result.peer
  local out = {
    ("%s; `make bench`, %d rounds, %d threads a side; load average before: %s."):format(result.date, result.rounds, result.threads,
      (result.load or "unknown"):match("^%S+ %S+ %S+") or "unknown") .. (result.clock and " Times are the processor's." or ""),
    ("%s, %d processors, %s; mocl %s (compiler %s, kernels %s); %s."):format(m.cpu, result.cpus, m.os, m.mocl, m.compiler,
      m.blas:match "built%-in kernels %((%w+)%)" or m.blas, p and ("PyTorch %s with %s, Python %s"):format(p.torch, p.blas, p.python)
      or result.against and ("beside the checkout %s"):format(result.against) or "no PyTorch: mocl alone"),
  }
  if result.peak then
    out[#out + 1] = ("Peak of the processor, multiply-adds in registers (%s, %d threads): %.0f GFLOP/s in its best run, %.0f on average."):format(
      result.peak_isa, result.threads, result.peak, result.peak_mean)
  end
  if result.tiny then
    out[#out + 1] = "Tiny sizes: these figures mean nothing."
  end
  out[#out + 1] = ""
  out[#out + 1] = ("| what | mocl: median (least to most) | %s | times faster | goal |"):format(result.against and "the other checkout"
    or "PyTorch eager")
  out[#out + 1] = "|---|---|---|---|---|"
  for _, row in ipairs(result.cases) do
    local ours, theirs = range(row.mocl, row.unit), row.peer and range(row.peer, row.unit) or ""
    local want = result.against and "" or goal(row)
    if row.flops then -- microseconds to 1e9 operations a second
      local function rate(s)
        local r = row.flops / s.median / 1e3
        return result.peak and ("%.0f GFLOP/s, %.0f %%"):format(r, 100 * r / result.peak) or ("%.0f GFLOP/s"):format(r), r
      end
      local text, r = rate(row.mocl)
      ours, theirs, want = text, row.peer and rate(row.peer) or "", result.peak and gemm_goal(r / result.peak) or ""
    end
    out[#out + 1] = ("| %s | %s | %s | %s | %s |"):format(row.title, ours, theirs,
      row.ratio and ("%.2f (%.2f to %.2f)"):format(row.ratio.median, row.ratio.min, row.ratio.max) or "", want)
    for _, phase in ipairs { "rollout", "scoring", "advantages", "update" } do
      if row.phases and row.phases[phase] then
        local a, b = row.phases[phase], row.peer_phases and row.peer_phases[phase]
        out[#out + 1] = ("| its %s | %s %s | %s | %s | |"):format(phase, number(a), row.unit, b and number(b) .. " " .. row.unit or "",
          b and ("%.2f"):format(b / a) or "")
      end
    end
  end
  return table.concat(out, "\n") .. "\n"
end

--- Puts text between the marks of a page.
function figures.replace(path, text)
  local page = assert(fs.read(path))
  local _, from = page:find(FIRST, 1, true)
  local to = page:find(LAST, 1, true)
  if not from or not to or to < from then
    error(("%s: the marks %s and %s are not there"):format(path, FIRST, LAST), 0)
  end
  assert(fs.write(path, page:sub(1, from) .. "\n" .. text .. page:sub(to)))
end

return figures
