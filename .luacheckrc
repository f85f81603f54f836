-- luacheck . - stray globals, and code that cannot run; values that are there to be closed are never read, and the rest is style
std = "lua54"
max_line_length = false
exclude_files = { "build", "runs" }
ignore = { "2..", "3..", "4..", "542", "512", "532", "581", "614" }
globals = { "arg" }
