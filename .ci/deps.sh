#!/bin/sh
# deps.sh check|install|tests - are the packages there that mocl is built with? check names those that are
# missing and fails; install installs just them with apt-get, and says so. OpenBLAS is loaded at run
# time if it is there, and so is libmicrohttpd, which mocl serve needs: install asks for both, but nothing
# fails without them. tests asks also for what some tests look with, and are skipped without: a stock Lua,
# a browser, libFuzzer, two libraries of MPI, and the libraries of docs/guide/lua-libraries.md.
set -u

missing=
wanted=
need() { missing="$missing $1"; }

# can a program load LIBRARY?
loads() {
    dir=$(mktemp -d) || return 0
    printf '#include <dlfcn.h>\nint main(void) { return !dlopen("%s", RTLD_NOW); }\n' "$1" > "$dir/x.c"
    ${CC:-cc} -o "$dir/x" "$dir/x.c" -ldl 2> /dev/null && "$dir/x"
    found=$?
    rm -rf "$dir"
    return $found
}

cc=${CC:-cc} # "ccache gcc" is a command with an argument
command -v "${cc%% *}" >/dev/null 2>&1 || need gcc
command -v make >/dev/null 2>&1 || need make
if command -v pkg-config >/dev/null 2>&1; then
    while read -r module package; do
        pkg-config --exists "$module" || need "$package"
    done <<END
lua5.4 liblua5.4-dev
libutf8proc libutf8proc-dev
libpcre2-8 libpcre2-dev
jansson libjansson-dev
zlib zlib1g-dev
libcrypto libssl-dev
END
else
    need 'pkg-config liblua5.4-dev libutf8proc-dev libpcre2-dev libjansson-dev zlib1g-dev libssl-dev'
fi

[ "${1:-check}" = check ] || pkg-config --exists libmicrohttpd 2>/dev/null || wanted=' libmicrohttpd-dev'
[ "${1:-check}" = check ] || loads libopenblas.so.0 || wanted="$wanted libopenblas0-pthread"
if [ "${1:-check}" = tests ]; then
    command -v lua5.4 >/dev/null 2>&1 || wanted="$wanted lua5.4"
    command -v "${MOCL_BROWSER:-chromium}" >/dev/null 2>&1 || wanted="$wanted chromium"
    command -v luacheck >/dev/null 2>&1 || wanted="$wanted lua-check"
    command -v mpirun.openmpi >/dev/null 2>&1 || wanted="$wanted openmpi-bin"
    command -v mpirun.mpich >/dev/null 2>&1 || wanted="$wanted mpich"
    sh tests/fuzz/have.sh "${CLANG:-clang}" || wanted="$wanted clang libclang-rt-14-dev" # of Debian 12
    while read -r module package; do
        lua5.4 -e "require '$module'" >/dev/null 2>&1 || wanted="$wanted $package"
    done <<END
busted lua-busted
cjson lua-cjson
cqueues lua-cqueues
dkjson lua-dkjson
lpeg lua-lpeg
luasql.sqlite3 lua-sql-sqlite3
luaunit lua-unit
luv lua-luv
pl.pretty lua-penlight
socket lua-socket
END
fi
[ -z "$missing$wanted" ] && exit 0
if [ "${1:-check}" = check ]; then
    echo "mocl needs these packages (Debian's names):$missing"
    echo "'make deps' installs them"
    exit 1
fi

give_up() { # TEXT: fails unless mocl can do without what is missing
    echo "$1$missing$wanted"
    [ -n "$missing" ] && exit 1
    echo "going on without"
    exit 0
}

sudo=
if [ "$(id -u)" != 0 ]; then
    sudo=sudo
    command -v sudo >/dev/null 2>&1 || sudo=none
fi
if [ "$sudo" = none ] || ! command -v apt-get >/dev/null 2>&1; then
    give_up "please install these packages (Debian's names), then try again:"
fi
echo "installing:$missing$wanted"
$sudo apt-get update -q || give_up "this failed; please install:"
for set in "$missing" "$wanted"; do
    [ -z "$set" ] && continue
    # shellcheck disable=SC2086 # word splitting is meant
    $sudo apt-get install -q -y --no-install-recommends $set || give_up "this failed; please install:"
    missing= # what is left is wanted
done
