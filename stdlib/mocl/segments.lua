--- mocl.segments: from one row of numbers per answer to its tokens, and back. A batch is one of transformer.pack
-- or of rollout.episodes: answer i has the tokens response_offsets[i] .. response_offsets[i + 1].

local nn = require "mocl.nn.core"
local tensor = require "mocl.tensor"

local segments = {}

--- One row of numbers per answer -> rewards [T, N] with the row at the answer's last token (a terminal reward).
function segments.terminal(rows, batch)
  return nn.segment_last(tensor.new(rows, { device = batch.tokens.device }), batch.response_offsets)
end

--- One row of numbers per answer -> [T, N], the row at each of its tokens.
function segments.spread(rows, batch)
  return nn.segment_expand(tensor.new(rows, { device = batch.tokens.device }), batch.response_offsets)
end

return segments
