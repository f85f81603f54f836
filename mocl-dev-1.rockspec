-- The module mocl for a stock Lua 5.4, and the program: `luarocks make` in the sources. Debian's names of the libraries below
-- are in .ci/deps.sh.
rockspec_format = "3.0"
package = "mocl"
version = "dev-1"
source = { url = "." }
description = {
  summary = "Multi-objective control of language models",
  detailed = [[
One policy that follows a preference over several rewards when it answers: tensors, language models, training methods and
recipes, for Lua 5.4 and for programs in C.]],
  license = "MIT",
}
supported_platforms = { "linux" }
dependencies = { "lua ~> 5.4" }
external_dependencies = {
  JANSSON = { header = "jansson.h" },
  PCRE2 = { header = "pcre2.h" },
  UTF8PROC = { header = "utf8proc.h" },
  ZLIB = { header = "zlib.h" },
  CRYPTO = { header = "openssl/sha.h" },
}
build = {
  type = "make",
  build_target = "all",
  install_pass = false,
  install = {
    lib = { mocl = "mocl.so" },
    bin = { "mocl" },
  },
  copy_directories = { "docs", "recipes" },
}
