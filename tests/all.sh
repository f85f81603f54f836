#!/bin/sh
# all.sh [VARIANT] - runs every test of a build. The last line adds them up; the exit status is 1 if
# any failed.
set -u
cd "$(dirname "$0")/.." || exit 1
variant=${1:-}
build=build${variant:+/$variant}
mocl=${variant:+$build}
mocl=${mocl:-.}/mocl

. tests/parts.sh

example() {
    "$@" && echo '1 passed, 0 failed'
}

for source in tests/c/*.c; do
    part "$source" timeout 600 "$build/${source%.c}"
done
for source in examples/*.c; do
    part "$source" example timeout 600 "$build/${source%.c}"
done
part "tests/run.lua" timeout 1500 "$mocl" tests/run.lua
if [ -z "$variant" ]; then
    part "gradients in double precision" timeout 1500 build/f64/mocl tests/run.lua -k grad
    part "layering" sh tests/layering.sh
    part "a full disk" sh tests/disk_full.sh 2
fi

finish
