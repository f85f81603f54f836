--- arguments: the key=value arguments of a script here, which are texts.

--- The defaults with what the command line says; unknown keys raise.
return function(defaults)
  for _, a in ipairs(arg) do
    local k, v = a:match "^(%w+)=(.*)$"
    assert(k and defaults[k], "unknown argument " .. a)
    defaults[k] = v
  end
  return defaults
end
