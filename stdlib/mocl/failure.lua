--- mocl.failure: how a function of the library raises.

local failure = {}

--- What a function answered that fails as nil, message: the value; or raises the message as it is. assert would put the place of
-- the call in front, which says nothing to the user of a finished program.
function failure.check(value, message)
  return value or error(message, 0)
end

--- Raises unless the condition holds; level as for error: 2 is the caller of the function that asks.
function failure.ensure(condition, level, format, ...)
  if not condition then
    error(format:format(...), level + 1)
  end
end

--- The same for a function that checks its own arguments: raises at its caller.
function failure.argument(condition, format, ...)
  if not condition then
    error(format:format(...), 3)
  end
end

return failure
