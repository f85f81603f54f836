#!/bin/sh
# all.sh [VARIANT] - runs every test of a build. The last line adds them up; the exit status is 1 if
# any failed. A part that ends without a count, or fails in spite of it, is one more failure.
set -u
cd "$(dirname "$0")/.." || exit 1
variant=${1:-}
build=build${variant:+/$variant}
mocl=${variant:+$build}
mocl=${mocl:-.}/mocl

passed=0 failed=0 skipped=0
out=$(mktemp)
trap 'rm -f "$out" "$out.status"' EXIT

part() { # NAME COMMAND...
    echo "== $1"
    shift
    { "$@" 2>&1; echo $? > "$out.status"; } | tee "$out"
    status=$(cat "$out.status")
    count=$(tail -n 1 "$out" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed,* *\([0-9]*\).*/\1 \2 \3/p')
    # shellcheck disable=SC2086 # word splitting is meant
    set -- $count
    if [ $# -lt 2 ] || { [ "$status" != 0 ] && [ "$2" = 0 ]; }; then
        echo "FAIL this part ended with status $status"
        failed=$((failed + 1))
    fi
    passed=$((passed + ${1:-0})) failed=$((failed + ${2:-0})) skipped=$((skipped + ${3:-0}))
}

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
emulator=$PWD/$build/emu/mocl_cuda.so
if [ -f "$emulator" ]; then # the CUDA kernels on the host, threads in both orders
    for order in forward reverse; do
        part "the CUDA kernels, emulated ($order)" env MOCL_CUDA="$emulator" MOCL_EMU_ORDER=$order \
            timeout 600 "$mocl" tests/run.lua --device cuda:0 -k test_o
    done
    part "device cuda, emulated" env MOCL_CUDA="$emulator" timeout 600 "$mocl" tests/run.lua --device cuda:0 -k test_cuda
else
    echo "skip: the CUDA kernels on the emulator, which was not built: no $emulator"
    skipped=$((skipped + 1))
fi
if [ -z "$variant" ]; then
    part "gradients in double precision" timeout 1500 build/f64/mocl tests/run.lua -k grad
    part "layering" sh tests/layering.sh
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
