#!/bin/sh
# emu.sh - the long tests of the CUDA kernels on the host emulator: every test that runs once for each device,
# plain in both orders and under the address and undefined behaviour sanitizers; whole recipes on device=cuda
# against the cpu. The last line counts.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/parts.sh
dir=$parts_dir

every() { # NAME BUILD ORDER PROGRAM
    part "every test of a device, $1" env MOCL_CUDA="$2/emu/mocl_cuda.so" MOCL_EMU_ORDER="$3" \
        timeout --foreground 3000 "$4" tests/run.lua --device cuda:0
}

# a recipe at its smallest; the cpu does not look at MOCL_CUDA
recipe() { # NAME RECIPE OPTIONS...
    name=$1 recipe=$2
    shift 2
    MOCL_CUDA=$PWD/build/emu/mocl_cuda.so ./mocl "recipes/$recipe.lua" preset=smoke quiet=true "$@" out="$dir/$name" > "$dir/$name.log" 2>&1 || {
        cat "$dir/$name.log"
        return 1
    }
}

# the same files as on the cpu, and results that differ by rounding alone
against_cpu() { # RECIPE
    recipe "cpu-$1" "$1" && recipe "cuda-$1" "$1" device=cuda &&
        ./mocl tests/same_run.lua "$dir/cpu-$1" "$dir/cuda-$1"
}

# what leads up to the policy is the same, and the first ratio is 1
policy_in_bf16() {
    set -- rewards=examples/04_rewards.lua objectives=brief,polite
    recipe cpu-f32 moc_hh "$@" && recipe cuda-bf16 moc_hh "$@" device=cuda dtype=bf16 &&
        ./mocl tests/same_run.lua "$dir/cpu-f32" "$dir/cuda-bf16" bf16
}

recipes() {
    every "reverse" "$PWD/build" reverse ./mocl
    for r in moc_hh fishwood; do
        part "$r preset=smoke on device=cuda" against_cpu "$r"
    done
    part "moc_hh preset=smoke dtype=bf16 on device=cuda" policy_in_bf16
}

beside recipes
every "forward" "$PWD/build" forward ./mocl
every "sanitizers, reverse" "$PWD/build/asan" reverse build/asan/mocl
finish
