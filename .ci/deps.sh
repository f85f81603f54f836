#!/bin/sh
# deps.sh check|install - are the packages there that mocl is built with? check names those that are
# missing and fails; install installs just them with apt-get, and says so.
set -u

missing=
need() { missing="$missing $1"; }

command -v "${CC:-cc}" >/dev/null 2>&1 || need gcc
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
END
else
    need 'pkg-config liblua5.4-dev libutf8proc-dev libpcre2-dev libjansson-dev zlib1g-dev'
fi

[ -z "$missing" ] && exit 0
if [ "${1:-check}" = check ]; then
    echo "mocl needs these packages (Debian's names):$missing"
    echo "'make deps' installs them"
    exit 1
fi

sudo=
if [ "$(id -u)" != 0 ]; then
    sudo=sudo
    command -v sudo >/dev/null 2>&1 || sudo=none
fi
if [ "$sudo" = none ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "please install these packages (Debian's names), then try again:$missing"
    exit 1
fi
echo "installing:$missing"
# shellcheck disable=SC2086 # word splitting is meant
$sudo apt-get update -q && $sudo apt-get install -q -y --no-install-recommends $missing && exit 0
echo "this failed; please install:$missing"
exit 1
