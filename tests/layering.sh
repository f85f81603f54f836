#!/bin/sh
# layering.sh - which part may know which: kernels <- runtime <- lua <- stdlib <- recipes, and the rooms inside them. Looks at
# the sources with comments removed, and at the built libraries; prints each check and counts them.
set -u
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0 skipped=0

# ok TEXT: passed if the file $tmp/found is empty; else its lines are shown
ok() {
    if [ -s "$tmp/found" ]; then
        failed=$((failed + 1))
        echo "FAIL $1:"
        sed 's/^/     /' "$tmp/found"
    else
        passed=$((passed + 1))
        echo "ok   $1"
    fi
}
skip() {
    skipped=$((skipped + 1))
    echo "skip $1"
}

# the C sources without comments and strings' contents, line by line as they were
for f in runtime/*.[ch] runtime/*/*.[ch] kernels/*.h kernels/*/*.[ch] lua/*.[ch]; do
    mkdir -p "$tmp/src/$(dirname "$f")"
    ${CC:-cc} -fpreprocessed -dD -E -w -x c "$f" 2>/dev/null | grep -v '^# ' > "$tmp/src/$f"
done
search() { # PATTERN FILES...: into $tmp/found, with names as in the tree
    pattern=$1
    shift
    (cd "$tmp/src" && grep -nE "$pattern" "$@" /dev/null) > "$tmp/found"
}
search '\bmocl_fail\(' runtime/base.c
if [ ! -s "$tmp/found" ]; then
    echo "FAIL the sources could not be read without comments"
    failed=1
fi
sources() { (cd "$tmp/src" && find "$@" -type f | sort); }

core=$(sources runtime kernels)
library=$(sources runtime kernels lua | grep -v '^lua/\(complain\|main\|ranks\|repl\|resume\|signals\)\.c$')

# shellcheck disable=SC2046,SC2086 # word splitting is meant throughout
{
    search '<lua|lauxlib|lualib|\blua_|\bluaL_|"(moclL|modules|state)\.h"' $core
    # mocl.h names struct lua_State, without Lua's headers
    grep -v '^runtime/mocl\.h:.*lua_State' "$tmp/found" > "$tmp/f2"; mv "$tmp/f2" "$tmp/found"
    ok "runtime/ and kernels/ do not know Lua"

    search '#include "' $(sources kernels)
    while IFS= read -r line; do
        header=$(printf '%s' "$line" | sed 's/.*#include "\([^"]*\)".*/\1/')
        find kernels -name "$(basename "$header")" | grep -q . || printf '%s\n' "$line"
    done < "$tmp/found" > "$tmp/f2"
    mv "$tmp/f2" "$tmp/found"
    ok "kernels/ include nothing but kernels/"

    grep -nE '\basm\b|#include "[^"]*(runtime|lua)' kernels/cuda/*.cu kernels/cuda/*.cuh > "$tmp/found"
    ok "CUDA kernels know kernels/ alone, and have no inline PTX"

    search '\b(_?[eE]xit|quick_exit|abort|assert|longjmp)[[:space:]]*\(' $library
    ok "the library never exits, aborts or asserts"

    search '\b(v?printf|puts|putchar|perror)[[:space:]]*\(|\b(stdout|stderr)\b' $library
    # names of Lua's files, whose output a host takes over
    grep -v '^lua/log\.c:.*lua_getfield' "$tmp/found" > "$tmp/f2"; mv "$tmp/f2" "$tmp/found"
    ok "the library never prints"

    search '\b(signal|sigaction)[[:space:]]*\(' $library
    ok "the library installs no signal handlers"

    # blas.c sets two variables while it loads OpenBLAS, which reads them in its constructor
    search '\b(setenv|putenv|setlocale|chdir|srand|rand)[[:space:]]*\(' $library
    grep -v '^kernels/cpu/blas\.c:.*\bsetenv(\(CORE\|THREADS\),' "$tmp/found" > "$tmp/f2"; mv "$tmp/f2" "$tmp/found"
    ok "the library leaves the process alone"
}

# the rooms of stdlib/mocl, the folders of C files, and circles: tests/arrows.lua has the rules
if [ -x mocl ]; then
    ./mocl -e 'package.path = "tests/?.lua"
        local arrows = require "arrows"
        local files = arrows.files "."
        for _, list in ipairs { arrows.check(files), arrows.calls(files, "build") or {} } do
            for _, line in ipairs(list) do print(line) end
        end' > "$tmp/found" 2>&1
    ok "rooms and folders name those below them alone, and no files name or call each other in a circle"
else
    skip "rooms, folders and circles: no ./mocl"
fi

# shellcheck disable=SC2046 # word splitting is meant
grep -nE 'require[^"'\'']*["'\''](recipes|tests|examples)' $(find stdlib -name '*.lua') /dev/null > "$tmp/found"
ok "stdlib/ requires no recipe"

: > "$tmp/found"
flags="-std=c11 -Iruntime -Ikernels -Ilua $(pkg-config --cflags lua5.4 libutf8proc libpcre2-8 jansson zlib libcrypto)"
for h in runtime/*.h runtime/*/*.h kernels/*.h kernels/*/*.h lua/*.h; do
    case $h in kernels/cpu/simd_*.h) continue ;; esac # bodies, compiled once per instruction set
    # shellcheck disable=SC2086
    printf '#include "%s"\n' "$h" | ${CC:-cc} $flags -I. -Wall -Wno-unused -fsyntax-only -x c - 2> "$tmp/err" ||
        echo "$h" >> "$tmp/found"
    [ -s "$tmp/err" ] && head -3 "$tmp/err" >> "$tmp/found"
done
ok "each header compiles alone"

if command -v c++ >/dev/null 2>&1; then
    printf '#include "mocl.h"\nint main() { mocl_close(mocl_open(nullptr)); }\n' |
        c++ -std=c++11 -Wall -Wextra -pedantic -Iruntime -fsyntax-only -x c++ - > "$tmp/found" 2>&1
    ok "mocl.h compiles as C++"
else
    skip "mocl.h compiles as C++: no c++"
fi

if [ -f mocl.so ] && [ -f libmocl.so ] && [ -f libmocl.a ]; then
    nm -D --defined-only mocl.so | awk '{print $3}' | sort > "$tmp/exported"
    { echo luaopen_mocl
      sed -n 's/^    X("\(mocl[a-z._]*\)".*/\1/p' lua/modules.h | sed 's/\./_/g; s/^/luaopen_/'
      find stdlib/mocl -name '*.lua' ! -path stdlib/mocl/init.lua ! -path 'stdlib/mocl/tools/*' | sed 's|^stdlib/||; s|\.lua$||; s|/init$||; s|/|_|g; s|^|luaopen_|'
      sed -n 's/^    X("\([a-z._]*\)".*/\1/p' lua/moved.h | sed 's/\./_/g; s/^/luaopen_/'; } | sort -u > "$tmp/declared"
    diff "$tmp/declared" "$tmp/exported" > "$tmp/found"
    ok "mocl.so exports an opener for each module, and nothing else"

    nm -D --defined-only libmocl.so | awk '{print $3}' | sort > "$tmp/exported"
    grep -o '^MOCL_API [^(]*(' runtime/mocl.h | sed 's/($//; s/.*[ *]//' | sort > "$tmp/declared"
    diff "$tmp/declared" "$tmp/exported" > "$tmp/found"
    ok "libmocl.so exports what mocl.h declares"

    ldd mocl.so 2>/dev/null | grep lua > "$tmp/found"
    ok "mocl.so does not link liblua"

    # Writable data is what is chosen once for the process; the rest hangs off a context.
    objdump -t libmocl.a | awk '/file format/ {file = $1} $NF !~ /^\./ && / \.(data|bss|tdata|tbss)[ \t]/ {print file " " $NF}' |
        grep -v '^simd\.o: \|^blas\.o: \|^gemm_bf16\.o: \|^amx\.o: \|^json\.o: \|^comm\.o: comm$\|^comm_[a-z]*\.o: mpi$' > "$tmp/found"
    ok "no mutable global state (but for the instruction set in simd.c, the libraries and paths in blas.c, gemm_bf16.c and amx.c, the job in comm.c, and what json.c tells jansson while it parses)"
else
    skip "exports, linkage and global state: the libraries are not built"
fi

if command -v luac5.4 >/dev/null 2>&1; then
    known='_G|_VERSION|arg|assert|collectgarbage|coroutine|debug|dofile|error|getmetatable|io|ipairs|load|loadfile'
    known="$known|math|next|os|package|pairs|pcall|print|rawequal|rawget|rawlen|rawset|require|select"
    known="$known|setmetatable|string|table|tonumber|tostring|type|utf8|warn|xpcall"
    for f in $(find stdlib recipes examples tests -name '*.lua' | sort); do
        luac5.4 -p -l -l "$f" 2>&1 | grep -E '[GS]ETTABUP.*_ENV "|^luac' |
            grep -vE "GETTABUP.*_ENV \"($known)\"" | sed "s|^|$f: |"
    done > "$tmp/found"
    ok "Lua files use no stray globals"
else
    skip "Lua files use no stray globals: no luac5.4"
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
