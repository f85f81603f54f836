--- release_samples: a call of every function that mocl's C code registers, for release_check.lua.
-- samples[name](w) -> the arguments; w makes fresh operands. Options and lists are given as proxies too, unless the
-- name is in samples.raw. `w.hook` is a callback. samples.none: functions that work on nothing that can be released,
-- each with the reason; samples.methods: names that every class of owners has.

local gguf_file = require "gguf_file"
local httpd = require "mocl.httpd"

local S = { raw = {}, none = {}, methods = { "release", "__close", "__gc" } }

local function each(names, make)
  for name in names:gmatch "%S+" do
    S[name] = make
  end
end

local function none(reason, names)
  for name in names:gmatch "%S+" do
    S.none[name] = reason
  end
end

local T = "mocl.tensor."

-- ---- tensors ----

each(([[abs clone contiguous cos detach exp flatten floor gelu is_contiguous log log_softmax logsigmoid max mean min neg
  nonfinite numel reciprocal relu rsqrt sigmoid sign silu sin softmax softplus sqrt square squeeze stride sum t tanh zero_
  argmax argmin logsumexp]]):gsub("%S+", T .. "%0"), function(w)
  return { w.t { 2, 3 } }
end)
each("mocl.tensor:__len mocl.tensor:__tostring mocl.tensor:totable mocl.tensor:requires_grad_ mocl.tensor:zero_grad "
  .. "mocl.tensor:__unm mocl.tensor.is_tensor", function(w)
  return { w.t { 2, 3 } }
end)
each(("add sub mul div pow maximum minimum eq ne lt le gt ge add_ copy_"):gsub("%S+", T .. "%0"), function(w)
  return { w.t { 2, 3 }, w.t { 2, 3 } }
end)
each("mocl.tensor:__add mocl.tensor:__sub mocl.tensor:__mul mocl.tensor:__div mocl.tensor:__pow", function(w)
  return { 2.0, w.t { 2, 3 } }
end)
for name, more in pairs {
  argmax = { 1 }, logsumexp = { 1 }, clamp = { 0, 1 }, cumsum = { 1 }, expand = { { 4, 2, 3 } }, fill_ = { 2 }, narrow = { 1, 1, 1 },
  permute = { { 2, 1 } }, pick = { { 0, 2 } }, index_select = { { 2, 1 } }, reshape = { { 3, 2 } }, select = { 1, 2 },
  softmax = { 1 }, sort = { 1 }, topk = { 1 }, multinomial = { 1, { seed = 1 } }, sum = { 2 }, to = { { dtype = "bf16", device = "cpu" } }, transpose = { 1, 2 }, unsqueeze = { 1 },
} do
  S[T .. name] = function(w)
    return { w.t { 2, 3 }, table.unpack(w.copy(more)) }
  end
end
S[T .. "masked_select"] = function(w)
  return { w.t { 2, 3 }, w.t { 2, 3 } }
end
S[T .. "matmul"] = function(w)
  return { w.t { 2, 3 }, w.t { 3, 2 } }
end
S[T .. "where"] = function(w)
  return { w.t { 2, 3 }, w.t { 2, 3 }, w.t { 2, 3 } }
end
each(T .. "cat " .. T .. "stack", function(w)
  return { { w.t { 2, 3 }, w.t { 2, 3 }, w.t { 2, 3 } } }
end)
S["mocl.tensor:item"] = function(w)
  return { w.t {} }
end
S["mocl.tensor:__index"] = function(w)
  return { w.t { 2, 3 }, 1 }
end
S["mocl.tensor:backward"] = function(w)
  local x = w.t { 2, 3 }
  x:requires_grad_()
  return { x:exp() * x, w.t { 2, 3 }, { retain_graph = true } }
end
S[T .. "new"] = function(w)
  return { { { 1, 2 }, { 3, 4 } }, w.options { dtype = "f16", requires_grad = false } }
end
each(T .. "zeros " .. T .. "ones", function(w)
  return { { 2, 3 }, w.options { dtype = "f32" } }
end)
S[T .. "full"] = function(w)
  return { { 2, 3 }, 4, w.options { dtype = "i32" } }
end
each(T .. "rand " .. T .. "randn", function(w)
  return { { 2, 3 }, w.options { seed = 3 } }
end)
S[T .. "arange"] = function(w)
  return { 1, 9, 2, w.options { dtype = "i64" } }
end
S[T .. "no_grad"] = function(w)
  local x = w.t { 2, 3 }
  return { function(y)
    w.hook()
    return y:exp()
  end, x }
end
S["mocl.tensor.scope:keep"] = function(w)
  local scope = w.T.scope()
  return { scope, w.t { 2 }, w.t { 3 } }
end
each("mocl.tensor.scope:close mocl.tensor.scope:__close mocl.tensor.scope:__gc", function(w)
  local scope = w.T.scope()
  w.t { 2 }
  return { scope }
end)
none("it takes numbers, or nothing", [[mocl.tensor.fail_after mocl.tensor.flush mocl.tensor.is_grad_enabled mocl.tensor.memory
  mocl.tensor.memory_cap mocl.tensor.scope]])
none("it raises whatever it is given", "mocl.tensor:__newindex mocl.tensor:__lt mocl.tensor:__le")

-- ---- parts of networks ----

local N = "mocl.nn.core."
S[N .. "linear"] = function(w)
  return { w.t { 2, 3 }, w.t { 4, 3 }, w.t { 4 } }
end
S[N .. "lora_linear"] = function(w)
  return { w.t { 2, 3 }, w.t { 4, 3 }, w.t { 2, 3 }, w.t { 4, 2 }, { scale = 2, dropout = .5, key = 3 } }
end
S[N .. "rms_norm"] = function(w)
  return { w.t { 2, 3 }, w.t { 3 } }
end
S[N .. "layer_norm"] = function(w)
  return { w.t { 2, 3 }, w.t { 3 }, w.t { 3 } }
end
S[N .. "dropout"] = function(w)
  return { w.t { 2, 3 }, .5, { key = 3 } }
end
S[N .. "swiglu"] = function(w)
  return { w.t { 2, 3 }, w.t { 2, 3 } }
end
S[N .. "rope"] = function(w)
  return { w.t { 2, 1, 4 }, { 0, 1 } }
end
S[N .. "attention"] = function(w)
  return { w.t { 3, 2, 4 }, w.t { 3, 1, 4 }, w.t { 3, 1, 4 }, { 0, 2, 3 }, { causal = true } }
end
each(N .. "segment_sum " .. N .. "segment_mean", function(w)
  return { w.t { 3, 2 }, w.i { 0, 2, 3 } }
end)
each(N .. "segment_expand " .. N .. "segment_last", function(w)
  return { w.t { 2, 2 }, { 0, 2, 3 } }
end)
each(N .. "embedding " .. N .. "rows", function(w)
  return { w.t { 5, 2 }, w.i { 4, 0, 1 } }
end)
S[N .. "lm_reference"] = function(w)
  return { w.t { 2, 3 }, w.t { 5, 3 }, { 4, 0 }, { temperature = .5 } }
end
S[N .. "lm_head"] = function(w)
  return { w.t { 2, 3 }, w.t { 5, 3 }, { 4, 0 }, { temperature = .5, hidden_ref = w.t { 2, 3 } } }
end
S[N .. "sample"] = function(w)
  return { w.t { 2, 5 }, { rows = w.i { 0, 3 }, key = 3, step = 1 } }
end
S[N .. "ppo_clip"] = function(w)
  return { w.t { 3 }, w.t { 3 }, w.t { 3 }, .2 }
end
S[N .. "gae"] = function(w)
  return { w.t { 3, 2 }, w.t { 3, 2 }, { 0, 2, 3 }, { gamma = .9, lam = .9 } }
end

-- ---- models ----

local M = "mocl.transformer:"
local config = { vocab_size = 11, hidden_size = 8, num_hidden_layers = 1, num_attention_heads = 2, intermediate_size = 8 }
S.config = config
each(M .. "config " .. M .. "device " .. M .. "dtype " .. M .. "hash " .. M .. "head " .. M .. "lora " .. M .. "named_parameters "
  .. M .. "drop_lora " .. M .. "merge_lora " .. M .. "adapters " .. M .. "active_adapter "
  .. M .. "quantization " .. M .. "dequantize", function(w)
  return { w.model(true) }
end)
each(M .. "set_adapter " .. M .. "delete_adapter", function(w)
  return { w.model(true), "default" }
end)
S[M .. "set_weight"] = function(w)
  return { w.model(), "model.layers.0.mlp.up_proj", w.t { 8, 8 } }
end
local UP = "model.layers.0.mlp.up_proj"
S[M .. "linear_shape"] = function(w)
  return { w.model(), UP }
end
S[M .. "copy_linear"] = function(w)
  return { w.model(), w.model() }
end
S[M .. "set_parts"] = function(w)
  return { w.model(), UP, "int8", { weight = w.t({ 8, 8 }):to "i8", SCB = w.t { 8 } }, { blocksize = 64, dtype = "f32" } }
end
S["mocl.transformer.core.dequantize"] = function(w)
  return { "int8", 8, 8, { weight = w.t({ 8, 8 }):to "i8", SCB = w.t { 8 } }, { blocksize = 64, dtype = "f32" } }
end
S[M .. "share_embedding"] = function(w)
  local headless = { head = "none" }
  for key, value in pairs(config) do
    headless[key] = value
  end
  return { w.transformer.new(headless), w.model() }
end
S[M .. "add_adapter"] = function(w)
  return { w.model(true), "other", { r = 2, key = 1 } }
end
S[M .. "add_lora"] = function(w)
  return { w.model(), { r = 2, alpha = 4, target_modules = { "q_proj", "up_proj" }, layers_to_transform = { 0 }, key = 1 } }
end
S[M .. "forward"] = function(w)
  local batch = w.transformer.batch { { 1, 2, 3 }, { 4 } }
  local model = w.model(true)
  local hidden = w.t { 4, model:config().hidden_size }
  return { model, batch, { train = true, key = 2, rows = w.i { 0, 2 }, hidden = hidden, start = 0, products = {} } }
end
S[M .. "generate"] = function(w)
  return { w.model(true), { { 1, 2 }, { 3 } }, {
    max_new_tokens = 3, key = 4, eos = { 2, 3 },
    on_token = function()
      w.hook()
    end,
  } }
end
S[M .. "session"] = function(w)
  return { w.model(true), { rows = 2, max_tokens = 6 } }
end
local function session(w)
  local s = w.model(true):session { rows = 2, max_tokens = 6 }
  s:append { { 1, 2 }, { 3 } }
  return s
end
each("mocl.session:logits mocl.session:hidden", function(w)
  return { session(w), { 2, 1 } }
end)
each("mocl.session:tokens mocl.session:length mocl.session:size", function(w)
  return { session(w), 1 }
end)
S["mocl.session:append"] = function(w)
  return { session(w), { { 4 }, { 5, 6 } }, { 2, 1 } }
end
S["mocl.session:sample"] = function(w)
  return { session(w), { key = 3, rows = { 2, 1 }, temperature = 0.5 } }
end
each("mocl.session:rewind mocl.session:fork", function(w)
  return { session(w), 1, 1 }
end)
local function served(_, ...)
  return { assert(httpd.open { port = 0 }), ... }
end
none("the number is another for each server", "mocl.httpd.server:port mocl.httpd.open")
if httpd.open { port = 0 } then
  each("mocl.httpd.server:finish mocl.httpd.server:drop mocl.httpd.server:gone", function(w)
    return served(w, 1)
  end)
  S["mocl.httpd.server:run"] = function(w)
    return served(w, 0)
  end
  S["mocl.httpd.server:write"] = function(w)
    return served(w, 1, "text")
  end
  S["mocl.httpd.server:begin"] = function(w)
    return served(w, 1, 200, { ["content-type"] = "text/plain" })
  end
  S["mocl.httpd.server:respond"] = function(w)
    return served(w, 1, 200, { ["content-type"] = "text/plain" }, "text")
  end
else
  none("there is no libmicrohttpd", [[mocl.httpd.server:finish mocl.httpd.server:drop mocl.httpd.server:gone mocl.httpd.server:run
    mocl.httpd.server:write mocl.httpd.server:begin mocl.httpd.server:respond]])
end
S["mocl.comm.core.gather"] = function(w)
  return { "the sample", w.t { 2, 3 } }
end
none("texts and numbers alone", [[mocl.comm.core.alive mocl.comm.core.counts mocl.comm.core.exchange mocl.comm.core.job mocl.comm.core.limit
  mocl.comm.core.place]])
S["mocl.transformer.core.new"] = function(w)
  return { w.copy(config), w.options { key = 3 } }
end
S["mocl.transformer.core.check"] = function(w)
  return { w.copy(config) }
end
S["mocl.transformer.core.batch"] = function(w)
  return { { { 1, 2 }, { 3 } }, w.options {} }
end
S["mocl.transformer.core.pack"] = function(w)
  return { { { 1, 2 }, { 3 } }, { { 4 }, { 5, 6 } }, w.options {} }
end
S["mocl.transformer.core.rows"] = function(w)
  return { { { 1, 2 }, { 3 } } }
end
local R = "mocl.rows:"
local function rows()
  return require "mocl.lm.model".rows { { 1, 2 }, { 3 } }
end
each(R .. "__len " .. R .. "lengths " .. R .. "totable", function()
  return { rows() }
end)
S[R .. "__index"] = function()
  return { rows(), 2 }
end
S[R .. "slice"] = function()
  return { rows(), 2, 2 }
end
S["mocl.options.core.nearest"] = function(w)
  return { w.text "ab", { w.text "abc", w.text "xyz" } }
end
S["mocl.lora.core.find_names"] = function(w)
  return { "a(?<idx>[0-9]+)", { "a1", "b2", "a33", w.text "a4" }, true }
end
none("it is freed by the function that makes it, and no script gets hold of one", [[mocl.generated:__gc]])
none("no script gets hold of its object", "mocl:_inside_no_grad:__close mocl.callback:__close")

-- ---- optimisers ----

local function with_gradient(w)
  local p, q = w.t { 3 }, w.t { 2 }
  p:requires_grad_()
  q:requires_grad_();
  (p:sum() + q:sum()):backward()
  return p, q
end
S["mocl.optim.core.adamw"] = function(w)
  local p, q = with_gradient(w)
  return { { p, { "q", q } }, { lr = .1, betas = { .8, .9 } } }
end
S["mocl.optim.core.sgd"] = function(w)
  local p, q = with_gradient(w)
  return { { { "p", p }, q }, { lr = .1, momentum = .5 } }
end
local function optimiser(w)
  local p, q = with_gradient(w)
  return w.optim.adamw({ p, { "q", q } }, { lr = .1 }), p, q
end
each("mocl.optim:state mocl.optim:zero_grad", function(w)
  return { optimiser(w) }
end)
S["mocl.optim:step"] = function(w)
  local o, p, q = optimiser(w)
  return { o, { lr = .2, max_grad_norm = 1 }, p, q } -- the function takes no parameters: they are there to be released
end
S["mocl.optim:check"] = function(w)
  local o, p, q = optimiser(w)
  return { o, .5, { max_grad_norm = 1 }, p, q }
end
S["mocl.optim:steps"] = function(w)
  return { optimiser(w), 3 }
end

-- ---- text ----

local K = "mocl.tokenizer:"
each(K .. "__len " .. K .. "__tostring " .. K .. "bos_id " .. K .. "eos_id " .. K .. "vocab_size", function(w)
  return { w.tokenizer() }
end)
S[K .. "encode"] = function(w)
  return { w.tokenizer(), "a bab", { bos = true, eos = true, special = true, add_special_tokens = true, return_token_type_ids = true,
    pair = w.text "ab" } }
end
S[K .. "encode_batch"] = function(w)
  return { w.tokenizer(), { w.text "a bab", "", w.text "ba" }, { bos = true } }
end
S[K .. "decode_batch"] = function(w)
  return { w.tokenizer(), w.tokenizer():encode_batch({ w.text "a bab", "", w.text "ba" }, { ragged = true }), { skip_special = true } }
end
S[K .. "decode"] = function(w)
  return { w.tokenizer(), { 67, 68, 0 }, { skip_special = true } }
end
S[K .. "decode_stream"] = function(w)
  return { w.tokenizer(), { skip_special = true } }
end
S[K .. "token_to_id"] = function(w)
  return { w.tokenizer(), "a" }
end
S[K .. "id_to_token"] = function(w)
  return { w.tokenizer(), 67 }
end
S[K .. "save"] = function(w)
  return { w.tokenizer(), w.dir .. "/tokenizer.json" }
end
S["mocl.tokenizer.stream:push"] = function(w)
  local tok = w.tokenizer()
  return { tok:decode_stream(), 67, tok }
end
S["mocl.tokenizer.stream:flush"] = function(w)
  local tok = w.tokenizer()
  return { tok:decode_stream(), tok }
end
S["mocl.tokenizer.load"] = function(w)
  return { w.file("tok.json", w.tokenizer_text()) }
end
S["mocl.tokenizer.train"] = function(w)
  return { { w.text "ab ab", w.text "abc" }, { vocab_size = 260, special_tokens = { "<s>", w.text "</s>" } } }
end

-- ---- files ----

S["mocl.data.csv:next"] = function(w)
  return { w.data.csv(w.file("x.csv", "a,b\n1,2\n")) }
end
S["mocl.data.lines:next"] = function(w)
  return { w.data.lines(w.file("x.txt", "one\ntwo\n")) }
end
each("mocl.data.core.csv mocl.data.core.lines", function(w)
  return { w.file("x.csv", "a,b\n1,2\n") }
end)
S["mocl.safetensors.save"] = function(w)
  local tensors = { [w.text "a"] = w.t { 2 }, [w.text "b"] = w.t { 2, 3 }, [w.text "c"] = w.t { 1 } }
  return { w.dir .. "/x.safetensors", tensors, { key = w.text "text", [w.text "key"] = "" } }
end
S.raw["mocl.safetensors.save"] = true -- maps of names, which are written as they are
S["mocl.safetensors.load"] = function(w)
  local x <close> = w.t { 2 }
  assert(w.safetensors.save(w.dir .. "/y.safetensors", { x = x, y = x }, { key = "text" }))
  return { w.dir .. "/y.safetensors", {
    only = function()
      w.hook()
      return true
    end,
  } }
end
local G = "mocl.gguf.file:"
local function gguf_path(w)
  local keys = { { "a", "u32", 1 }, { "b", "[string]", { "x", "y" } } }
  return w.file("x.gguf", gguf_file.bytes(keys, { { "w", { 2, 2 }, "F32", gguf_file.floats { 1, 2, 3, 4 } } }))
end
local function opened(w)
  return assert(require("mocl.gguf.core").open(gguf_path(w)))
end
S["mocl.gguf.core.open"] = function(w)
  return { gguf_path(w) }
end
each(G .. "header " .. G .. "keys " .. G .. "tensors", function(w)
  return { opened(w) }
end)
S[G .. "value"] = function(w)
  return { opened(w), "b" }
end
S[G .. "tensor"] = function(w)
  return { opened(w), "x.gguf", "w", w.options { heads = 1 } }
end
S["mocl.gguf.core.save"] = function(w)
  return { w.dir .. "/y.gguf", gguf_file.key("a", "u32", 1), 1, {
    { name = w.text "a", type = "F16", tensor = w.t { 2 } }, { name = w.text "b", type = "F32", tensor = w.t { 2, 3 } },
  } }
end
S.raw["mocl.gguf.core.save"] = true -- a list that mocl.lm.gguf makes
S["mocl.json.encode"] = function(w)
  return { { a = { 1, 2, 3 }, b = w.text "text", c = { d = 1.5 }, [w.text "d"] = { e = 1 } }, { indent = 1 } }
end
S["mocl.json.save"] = function(w)
  return { w.dir .. "/x.json", { a = { 1, 2, 3 } }, { indent = 1 } }
end
S["mocl.json.decode"] = function()
  return { '{"a": [1, 2, {"b": "text"}]}' }
end
S["mocl.json.keys"] = function()
  return { '{"a": {"b": 1, "c": 2}}', "a" }
end
S["mocl.json.load"] = function(w)
  return { w.file("z.json", '{"a": [1, 2, {"b": "text"}]}') }
end
S["mocl.json.array"] = function()
  return { { 1, 2 } }
end
for _, name in ipairs { "encode", "save", "array" } do
  S.raw["mocl.json." .. name] = true -- the value itself is written
end
none("it takes strings and numbers", [[mocl.gguf.core.dequantize mocl.gguf.core.is mocl.data.core.bad_utf8 mocl.data.core.mark mocl.fs.basename mocl.fs.copy
  mocl.fs.cwd mocl.fs.dirname mocl.fs.hash_in_passing
  mocl.fs.exists mocl.fs.free_bytes mocl.fs.join mocl.fs.list mocl.fs.lock mocl.fs.mkdir mocl.fs.read mocl.fs.readlink mocl.fs.realpath
  mocl.fs.remove mocl.fs.remove_tree mocl.fs.rename mocl.fs.sha256 mocl.fs.sha256_text mocl.fs.size mocl.fs.symlink_replace mocl.fs.sync
  mocl.fs.truncate mocl.fs.write mocl.help.core.pages mocl.minnorm.two mocl.rng.key mocl.rng.new mocl.rng.philox mocl.sys.columns
  mocl.sys.cpu_count mocl.sys.env mocl.sys.getpid mocl.sys.interrupted mocl.sys.isatty mocl.sys.now mocl.sys.on_interrupt
  mocl.sys.peak_rss_bytes mocl.sys.rss_bytes mocl.sys.set_threads]])

-- ---- numbers ----

local points = { { 1, 2 }, { 2, 1 }, { 0, 0 } }
S["mocl.metrics.core.hypervolume"] = function(w)
  return { w.copy(points), { -1, -1 }, { minimize = false } }
end
each("mocl.metrics.core.igd mocl.metrics.core.epsilon", function(w)
  return { w.copy(points), w.copy(points), {} }
end)
S["mocl.metrics.core.nondominated"] = function()
  return { { { 1 << 60, 2 }, { (1 << 60) + 1, 1 } }, {} }
end
S["mocl.metrics.core.mean_pairwise_distance"] = function(w)
  return { w.copy(points) }
end
S["mocl.metrics.core.kendall_tau"] = function()
  return { { 1, 2, (1 << 60) + 1 }, { 1, 3, 2 }, { method = "exact" } }
end
S["mocl.minnorm.solve"] = function()
  return { { { 2, 1 }, { 1, 3 } }, { max_iterations = 10 } }
end
S["mocl.world.core.is_row"] = function()
  return { { 1, 2 }, 2 }
end
S.raw["mocl.world.core.is_row"] = true -- what it is asked is whether the list is a plain one
each("mocl.rng:__tostring mocl.rng:normal mocl.rng:position mocl.rng:uniform", function(w)
  return { w.rng.new(1, "release") }
end)
each("mocl.rng:dirichlet mocl.rng:seek", function(w)
  return { w.rng.new(1, "release"), 3 }
end)
S["mocl.rng:integer"] = function(w)
  return { w.rng.new(1, "release"), 3, 9 }
end
each("mocl.rng:choice mocl.rng:weighted", function(w)
  return { w.rng.new(1, "release"), { 3, 4, 5 } }
end)
S["mocl.rng:shuffle"] = function(w)
  return { w.rng.new(1, "release"), { 3, 4, 5 } }
end

-- ---- what else may be done to an operand meanwhile ----

-- By class. The function ends as without it, but what is done to an object of the classes in S.shows shows in the
-- result, which may be an error that says so.
S.acts = {
  ["mocl.tensor"] = { function(t)
    t:zero_grad()
    if t.dtype == "f32" and pcall(t.requires_grad_, t, false) then
      t:fill_(2)
    end
  end },
  ["mocl.optim"] = { function(o)
    o:step()
    o:zero_grad()
    o:steps(7)
  end },
  ["mocl.tokenizer"] = { function(t)
    assert(#t:encode(("ab ba "):rep(300)) > 300)
    t:decode(t:encode(("ab ba "):rep(300)))
  end },
  ["mocl.tokenizer.stream"] = { function(s)
    pcall(s.push, s, 66)
  end },
  ["mocl.data.csv"] = { function(r)
    pcall(r.next, r)
  end },
  ["mocl.data.lines"] = { function(r)
    pcall(r.next, r)
  end },
  ["mocl.lm.model"] = {
    function(m)
      pcall(m.drop_lora, m)
    end,
    function(m)
      pcall(m.merge_lora, m)
    end,
    function(m)
      pcall(m.delete_adapter, m, "default")
    end,
    function(m)
      pcall(m.add_lora, m, { r = 4, key = 3 })
    end,
    function(m)
      local g = m:generate({ { 4, 5, 6 }, { 1 } }, { max_new_tokens = 4, key = 1 })
      assert(g.total == 8)
    end,
  },
  ["mocl.session"] = {
    function(s)
      pcall(s.append, s, { { 1 }, { 2 } })
    end,
    function(s)
      pcall(s.rewind, s, 1, 0)
      pcall(s.fork, s, 2, 1)
    end,
  },
  ["mocl.tensor.scope"] = { function(s)
    pcall(s.close, s)
  end },
  table = {
    function(t)
      for k in pairs(t) do
        t[k] = nil
      end
    end,
    function(t)
      for i = 1, 40 do
        t[#t + 1] = t[1] or i
        t["name " .. i] = t.a or "text"
      end
    end,
  },
}
S.shows = { table = true, ["mocl.tensor"] = true, ["mocl.optim"] = true, ["mocl.tokenizer.stream"] = true }
return S
