#!/bin/sh
# emu.sh - the long tests of the CUDA kernels on the host emulator: every test that runs once for each device,
# plain in both orders and under the address and undefined behaviour sanitizers; whole recipes on device=cuda
# against the cpu. The last line counts.
set -u
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0 skipped=0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

add() { # NAME: the status and the last line of $dir/out
    status=$?
    count=$(tail -n 1 "$dir/out" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed,* *\([0-9]*\).*/\1 \2 \3/p')
    grep -E '^(FAIL|skip)|^     ' "$dir/out"
    # shellcheck disable=SC2086 # word splitting is meant
    set -- "$1" $count
    if [ $# -lt 3 ] || { [ $status != 0 ] && [ "$3" = 0 ]; }; then
        echo "FAIL $1 ended with status $status"
        tail -n 20 "$dir/out"
        failed=$((failed + 1))
    fi
    passed=$((passed + ${2:-0})) failed=$((failed + ${3:-0})) skipped=$((skipped + ${4:-0}))
    echo "$1: ${2:-0} passed, ${3:-0} failed"
}

every() { # NAME BUILD ORDER
    emulator=$PWD/build/emu/mocl_cuda.so
    [ "$2" = . ] || emulator=$PWD/$2/emu/mocl_cuda.so
    MOCL_CUDA=$emulator MOCL_EMU_ORDER=$3 timeout 3000 "$2/mocl" tests/run.lua --device cuda:0 > "$dir/out" 2>&1
    add "every test of a device, $1"
}
every "forward" . forward
every "reverse" . reverse
every "sanitizers, reverse" build/asan reverse

# recipes at their smallest: the same files as on the cpu, and results that differ by rounding alone
recipe() { # NAME SETTINGS RECIPE OPTIONS...
    name=$1 settings=$2 recipe=$3
    shift 3
    # shellcheck disable=SC2086 # word splitting is meant
    env $settings ./mocl "recipes/$recipe.lua" preset=smoke quiet=true "$@" out="$dir/$name" > "$dir/log" 2>&1 || {
        cat "$dir/log"
        return 1
    }
}
emulator=MOCL_CUDA=$PWD/build/emu/mocl_cuda.so
for r in moc_hh fishwood; do
    {
        recipe "cpu-$r" "" $r && recipe "cuda-$r" "$emulator" $r device=cuda &&
            ./mocl tests/same_run.lua "$dir/cpu-$r" "$dir/cuda-$r"
    } > "$dir/out" 2>&1
    add "$r preset=smoke on device=cuda"
done
# and with the policy in bf16: what leads up to it is the same, and the first ratio is 1
rewards="rewards=examples/04_rewards.lua objectives=brief,polite"
{
    # shellcheck disable=SC2086
    recipe cpu-f32 "" moc_hh $rewards && recipe cuda-bf16 "$emulator" moc_hh $rewards device=cuda dtype=bf16 &&
        ./mocl tests/same_run.lua "$dir/cpu-f32" "$dir/cuda-bf16" bf16
} > "$dir/out" 2>&1
add "moc_hh preset=smoke dtype=bf16 on device=cuda"

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
