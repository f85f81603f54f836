#!/bin/sh
# emu.sh - the long tests of the CUDA kernels on the host emulator: every test that runs once for each device,
# plain in both orders and under the address and undefined behaviour sanitizers; whole recipes on device=cuda
# against the cpu. The last line counts.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/parts.sh
dir=$(mktemp -d)
trap 'rm -rf "$dir" "$parts_dir"' EXIT
plain=MOCL_CUDA=$PWD/build/emu/mocl_cuda.so

every() { # NAME BUILD ORDER
    emulator=$PWD/build/emu/mocl_cuda.so
    [ "$2" = . ] || emulator=$PWD/$2/emu/mocl_cuda.so
    part "every test of a device, $1" env MOCL_CUDA="$emulator" MOCL_EMU_ORDER="$3" \
        timeout --foreground 3000 "$2/mocl" tests/run.lua --device cuda:0
}

# a recipe at its smallest
recipe() { # NAME SETTING RECIPE OPTIONS...
    name=$1 setting=$2 recipe=$3
    shift 3
    env "$setting" ./mocl "recipes/$recipe.lua" preset=smoke quiet=true "$@" out="$dir/$name" > "$dir/$name.log" 2>&1 || {
        cat "$dir/$name.log"
        return 1
    }
}

# the same files as on the cpu, and results that differ by rounding alone
against_cpu() { # RECIPE
    recipe "cpu-$1" LC_ALL=C "$1" && recipe "cuda-$1" "$plain" "$1" device=cuda &&
        ./mocl tests/same_run.lua "$dir/cpu-$1" "$dir/cuda-$1"
}

# what leads up to the policy is the same, and the first ratio is 1
policy_in_bf16() {
    set -- rewards=examples/04_rewards.lua objectives=brief,polite
    recipe cpu-f32 LC_ALL=C moc_hh "$@" && recipe cuda-bf16 "$plain" moc_hh "$@" device=cuda dtype=bf16 &&
        ./mocl tests/same_run.lua "$dir/cpu-f32" "$dir/cuda-bf16" bf16
}

recipes() {
    every "reverse" . reverse
    for r in moc_hh fishwood; do
        part "$r preset=smoke on device=cuda" against_cpu "$r"
    done
    part "moc_hh preset=smoke dtype=bf16 on device=cuda" policy_in_bf16
}

beside recipes
every "forward" . forward
every "sanitizers, reverse" build/asan reverse
finish
