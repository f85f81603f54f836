-- luacheck . - the options of luacheck for this tree
std = "lua54"
max_line_length = 150
exclude_files = { "build", "runs" }
ignore = {
  "211/.*_", -- a variable that is there to be closed, and never read
  "212", "213", -- arguments and loop variables that keep their place
}
globals = { "arg" }
