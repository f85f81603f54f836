-- several ranks of one program: mocl.comm, pieces of an update, and runs under mpirun, of Open MPI and MPICH where they are installed.
-- MOCL_SLOW=1 runs both with 1 to 4 ranks, and what waits for a time limit.

local T = require "t"
local child = require "child"
local comm = require "mocl.comm"
local json = require "mocl.json"
local tensor = require "mocl.tensor"

local SLOW = T.slow
local ROOT = (arg[0]:match "^(.*)/[^/]*$" or ".") .. "/.."

-- ---- launchers ----

local START = { -- more ranks than cores, as root, without ssh: what Open MPI refuses unless it is told
  openmpi = "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_plm_rsh_agent= %s --oversubscribe -np %d",
  mpich = "%s -np %d",
}
local SAYS = { openmpi = "Open MPI", mpich = "HYDRA" }
local found

local function launchers()
  if not found then
    found = {}
    for _, name in ipairs { "openmpi", "mpich" } do
      for _, program in ipairs { "mpirun." .. name, "mpirun" } do
        local out, _, status = child.shell(program .. " --version")
        if not found[name] and status == 0 and out:find(SAYS[name], 1, true) then
          found[name] = program
        end
      end
    end
  end
  return found
end

local function need(name)
  if not launchers()[name] then
    T.skip(("no mpirun of %s: sh .ci/deps.sh tests installs it"):format(SAYS[name] == "HYDRA" and "MPICH" or SAYS[name]))
  end
end

local function mpirun(name, n, args, env)
  -- Open MPI gives back little of its memory
  return child.shell(("ASAN_OPTIONS=detect_leaks=0 %s timeout 100 env %s \"$MOCL\" %s"):format(env or "", START[name]:format(launchers()[name], n), args))
end

local function script(text)
  local path = T.tmpdir() .. "/x.lua"
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
  return path
end

local function both(name, f)
  for _, library in ipairs { "openmpi", "mpich" } do
    T.test(name:format(library), function()
      need(library)
      f(library)
    end)
  end
end

-- Tests that take long for what they show run with one library, or none, unless there is time.
local function where(library, test)
  if not SLOW and library ~= test then
    T.skip "MOCL_SLOW=1 runs it"
  end
end

-- ---- one rank ----

T.test("without mpirun there is one rank, and every part is its own", function()
  T.eq({ comm.rank(), comm.size() }, { 0, 1 })
  local t = tensor.new { { 1, 2 }, { 3, 4 } }
  T.eq(comm.gather("x", t):totable(), t:totable())
  T.eq(comm.allgather(t).shape, { 1, 2, 2 })
  T.eq(comm.allreduce(t):totable(), t:totable())
  T.eq(comm.broadcast(t):totable(), t:totable())
  T.eq(comm.exchange("x", "a\0b"), { "a\0b" })
  T.eq(comm.lead("x", function(a) return a, nil, 3 end, 7), 7)
  T.eq({ comm.range(7) }, { 1, 7 })
  T.eq({ comm.pieces(8) }, { 1, 8 })
  T.eq(comm.integers("x", { 1, -2 }), { 1, -2 })
  comm.barrier()
  comm.agree("x", "y", "z")
end)

-- 1 + 2^-24 is 1 in f32, and 2^-24 + 2^-24 is not lost: the order of a sum shows
local function part(i)
  return tensor.new({ i == 1 and 1 or 2 ^ -24, i, 1e8 * (-1) ^ i + i })
end

T.test("a sum over pieces is one binary tree, left operand first", function()
  local function by_hand(first, n)
    return n == 1 and part(first) or by_hand(first, n // 2) + by_hand(first + n // 2, n // 2)
  end
  for _, n in ipairs { 1, 2, 8, 16 } do
    T.eq(comm.sum("x", n, part):totable(), by_hand(1, n):totable())
  end
  local in_order = part(1)
  for i = 2, 8 do
    in_order = in_order + part(i)
  end
  T.ok(in_order:totable()[1] ~= comm.sum("x", 8, part):totable()[1], "the order of the sum cannot be seen")
end)

T.test("every row has one piece, and every piece one rank", function()
  for _, n in ipairs { 1, 5, 16, 37 } do
    for _, pieces in ipairs { 1, 4, 16 } do
      local at = 0
      for i = 1, pieces do
        local first, last = comm.piece(n, pieces, i)
        T.eq(first, at + 1)
        at = last
      end
      T.eq(at, n)
    end
  end
end)

T.test("generation draws by the number of a row, whatever batch it is in", function()
  local transformer = require "mocl.lm.model"
  local model = transformer.new({ vocab_size = 29, hidden_size = 16, num_hidden_layers = 2, num_attention_heads = 4,
    intermediate_size = 20, max_position_embeddings = 40 }, { key = 5 })
  local prompts = { { 1, 5, 9 }, { 1, 7 }, { 1, 5, 9 }, { 2 }, { 1, 5, 9 } }
  local how = { max_new_tokens = 9, key = 7, eos = 3 }
  local whole, logp = model:generate(prompts, how)
  T.ok(table.concat(whole.tokens[1], " ") ~= table.concat(whole.tokens[3], " "), "rows with one prompt draw alike")
  local at = 0
  for first = 1, 5, 2 do
    local last = math.min(5, first + 1)
    how.first_row = first
    local some, of = model:generate(table.move(prompts, first, last, 1, {}), how)
    for i, row in ipairs(some.tokens) do
      T.eq(row, whole.tokens[first + i - 1])
    end
    T.eq(of:totable(), logp:narrow(1, at + 1, of:numel()):totable())
    at = at + of:numel()
  end
  T.raises("first_row=0 is no row", model.generate, model, prompts, { first_row = 0 })
end)

-- ---- several ranks ----

both("%s: what the ranks exchange", function(library)
  local path = script [=[
    local comm, tensor = require "mocl.comm", require "mocl.tensor"
    local r = comm.rank()
    assert(comm.size() == 3 and #comm.exchange("x", "") == 3)
    assert(table.concat(comm.exchange("names", ("x"):rep(r))) == "xxx")
    local rows = comm.gather("rows", tensor.full({ r, 2 }, r + 0.5))
    assert(rows.shape[1] == 3 and rows:totable()[1][1] == 1.5 and rows:totable()[3][2] == 2.5)
    assert(comm.allreduce(tensor.new { r, 1 }):totable()[1] == 3)
    assert(comm.allgather(tensor.new({ r }, { dtype = "i32" })):totable()[3][1] == 2)
    assert(comm.broadcast(tensor.new { r, r }, 1):totable()[2] == 1)
    assert(table.concat(comm.integers("i", { r, -r }), " ") == "0 0 1 -1 2 -2")
    local a, b, c = comm.lead("lead", function(x) assert(comm.size() == 1) return x, nil, { r } end, "one")
    assert(a == "one" and b == nil and c[1] == 0)
    assert(comm.signal(r == 2 and "SIGTERM" or nil) == "SIGTERM")
    assert(comm.numbers("n", { r == 1 and 0/0 or r })[2] ~= comm.numbers("n", { r })[2])
    local before = comm.counts().bytes
    comm.exchange("bytes", ("x"):rep(100 * r))
    assert(comm.counts().bytes - before == 2 * (100 * r + 56)) -- to each of the two others: the bytes, and the head in front of them
    local big = comm.gather("big", tensor.full({ 300000 }, r))
    assert(big:sum():item() == 900000 and big:numel() == 900000)
    local from, to = comm.range(10)
    local all = comm.integers("ranges", { from, to })
    assert(table.concat(all, " ") == "1 3 4 6 7 10")
    assert(not os.getenv "PMI_RANK" and not os.getenv "OMPI_COMM_WORLD_RANK")
    assert(os.execute(arg[-1] .. " -e 'assert(require [[mocl.comm]].size() == 1)'"))
    print("rank " .. r .. " of " .. comm.job().family)
  ]=]
  local out, err, status = mpirun(library, 3, path)
  T.eq(status, 0, err)
  T.eq(out:gsub("\r", ""), ("rank 0 of %s\n"):format(library == "mpich" and "MPICH" or "Open MPI"))
end)

both("%s: a sum over pieces has the bits of one rank with any number of ranks", function(library)
  where(library, "mpich")
  local path = script [[
    local comm, tensor = require "mocl.comm", require "mocl.tensor"
    local sum = comm.sum("x", 8, function(i) return tensor.new { i == 1 and 1 or 2 ^ -24, i, 1e8 * (-1) ^ i + i } end)
    for _, text in ipairs(comm.exchange("sums", ("%a %a %a"):format(table.unpack(sum:totable())))) do print(text) end
  ]]
  local want = ("%a %a %a"):format(table.unpack(comm.sum("x", 8, part):totable()))
  for _, n in ipairs(SLOW and { 1, 2, 3, 4, 5, 7, 8 } or { 3 }) do
    local out, err, status = mpirun(library, n, path)
    T.eq(status, 0, err)
    T.eq(out:gsub("\r", ""), (want .. "\n"):rep(n))
  end
end)

-- a smoke run, and the bytes that must not depend on the ranks
local FILES = { "result.json", "samples.jsonl", "metrics.jsonl", "tokenizer.json", "last/adapter_model.safetensors", "last/value_heads.safetensors",
  "last/optimizer.safetensors", "sft/model.safetensors", "reward-humor/score_head.safetensors" }

local function run_of(out, command)
  local _, err, status = command(("%s/recipes/moc_hh.lua preset=smoke quiet=true out=%s"):format(ROOT, out))
  T.eq(status, 0, err)
  local files = {}
  for _, name in ipairs(FILES) do
    local f = assert(io.open(out .. "/" .. name, "rb"))
    files[name] = f:read "a"
    f:close()
  end
  return files
end

local function alone(args)
  return child.shell('"$MOCL" ' .. args)
end

local function same(a, b, what)
  for _, name in ipairs(FILES) do
    T.ok(a[name] == b[name], ("%s: %s differs"):format(what, name))
  end
end

local WHOLE, UPDATE = "", " ppo.pieces=4"
local ALL = " base.pieces=4 sft.pieces=8 reward.pieces=2 ppo.pieces=4"
local plain = {} -- by options

local function plain_run(options)
  plain[options] = plain[options] or run_of(T.tmpdir() .. "/plain", function(args)
    return alone(args .. options)
  end)
  return plain[options]
end

local function rows_of(files)
  local list = {}
  for line in files["metrics.jsonl"]:gmatch "[^\n]+" do
    list[#list + 1] = json.decode(line)
  end
  return list
end

local function first_update(files)
  for _, row in ipairs(rows_of(files)) do
    if row["ppo/grad_norm"] then
      return row
    end
  end
end

T.test("an update in pieces is the update: losses to the bit, gradients up to the order of their sums", function()
  local one, four = first_update(plain_run(WHOLE)), first_update(plain_run(UPDATE))
  T.eq(four["ppo/loss/policy"], one["ppo/loss/policy"])
  T.eq(four["ppo/loss/value"], one["ppo/loss/value"])
  T.eq(four["ppo/first_ratio_error"], 0.0)
  local a, b = one["ppo/grad_norm"], four["ppo/grad_norm"]
  T.ok(math.abs(a - b) <= 1e-6 * a, ("gradient norms %.9g and %.9g"):format(a, b))
end)

T.test("all training in pieces is the training, up to the order of sums", function()
  local one, all = rows_of(plain_run(WHOLE)), rows_of(plain_run(ALL))
  T.eq(#all, #one)
  T.eq(all[1]["loss/base"], one[1]["loss/base"])
  local differ = false
  for i, row in ipairs(one) do
    for key, v in pairs(row) do
      local other = all[i][key]
      differ = differ or v ~= other
      T.ok(type(v) ~= "number" and v == other or math.abs(v - other) <= 1e-4 * math.max(1, math.abs(v)), -- 1e-4: as tests/same_run.lua
        ("line %d: %s is %s and %s"):format(i, key, v, other))
    end
  end
  T.ok(differ, "the pieces change nothing")
end)

both("%s: a run has the bytes of a run without mpirun", function(library)
  for _, options in ipairs(SLOW and { WHOLE, UPDATE, ALL } or { library == "mpich" and ALL or WHOLE }) do
    for _, n in ipairs(SLOW and options == ALL and { 2 } or SLOW and { 1, 2, 3, 4 } or { 2 }) do
      same(plain_run(options), run_of(T.tmpdir() .. "/ranks", function(args)
        return mpirun(library, n, args .. options)
      end), ("%d ranks,%s"):format(n, options))
    end
  end
end)

-- ---- what goes wrong ----

local function fails(library, n, args, words, env)
  local out, err, status = mpirun(library, n, args, env)
  T.ok(status ~= 0, "status 0")
  T.ok((out .. err):find(words, 1, true), ("'%s' is not in:\n%s%s"):format(words, out, err))
  return out .. err
end

both("%s: the error of a rank is told once, with its number", function(library)
  where(library, "mpich")
  local text = fails(library, 3, script [[
    local comm = require "mocl.comm"
    comm.barrier()
    if comm.rank() == 1 then error "something here" end
    comm.exchange("numbers", "")
  ]], "rank 1 (")
  T.ok(select(2, text:gsub("something here", "")) == 1, text)
  text = fails(library, 3, script [[error "everywhere"]], "everywhere")
  T.ok(select(2, text:gsub("x.lua:1: everywhere", "")) == 1, text)
end)

both("%s: a rank that leaves early with success makes a failure", function(library)
  where(library)
  fails(library, 2, script [[
    local comm = require "mocl.comm"
    if comm.rank() == 1 then os.exit(0) end
    comm.exchange("numbers", "")
  ]], "rank 1 (")
  fails(library, 2, script [[
    local comm = require "mocl.comm"
    comm.exchange(comm.rank() == 1 and "letters" or "numbers", "")
  ]], "is at 'letters'")
end)

both("%s: a rank that hangs is named, and the job ends", function(library)
  where(library)
  fails(library, 2, script [[
    local comm = require "mocl.comm"
    comm.limit(0.5)
    comm.place "moc: iteration 5"
    if comm.rank() == 1 then os.execute("kill -STOP " .. require "mocl.sys".getpid()) end
    comm.exchange("numbers", "")
  ]], "has not come to 'numbers', in moc: iteration 5 for 0.5 s")
end)

both("%s: what cannot go under mpirun is refused before anything is written", function(library)
  where(library, "mpich")
  local out = T.tmpdir() .. "/none"
  fails(library, 2, "- < /dev/null", "standard input")
  fails(library, 4, ROOT .. "/recipes/moc_hh.lua preset=smoke ppo.pieces=2 out=" .. out, "4 ranks, but the batch is cut into 2 pieces")
  fails(library, 2, script(([[
    arg = { [0] = arg[0], "preset=smoke", "out=%s", "quiet=true", "seed=" .. require "mocl.comm".rank() }
    return dofile "%s/recipes/moc_hh.lua"
  ]]):format(out, ROOT)), "seed: 1, on rank 0 0")
  fails(library, 2, ROOT .. "/recipes/moc_hh.lua preset=smoke out=" .. out, "cannot be loaded", "MOCL_MPI=/nonexistent.so")
  T.ok(not io.open(out .. "/config.lua"), "a run was begun")
end)

T.test("the library of the other family is refused by name", function()
  need "openmpi"
  need "mpich"
  fails("mpich", 2, "-e 'print(1)'", "lacks this family's handles", "MOCL_MPI=libmpi.so.40")
  fails("openmpi", 2, "-e 'print(1)'", "lacks ompi_mpi_comm_world", "MOCL_MPI=libmpich.so.12")
end)
