#!/usr/bin/env bash
# run.sh [OUT] - everything that a machine with an NVIDIA GPU must confirm, in one run of under ten minutes: builds the CUDA
# part, runs every test that runs once for each device on the GPU, then under compute-sanitizer, checks that cuBLASLt keeps
# row invariance at the shapes that are timed, runs a whole recipe against the cpu and in bf16, and times it beside
# PyTorch. Writes OUT/gpu.json and OUT/gpu.md (build/gpu). A step that fails does not stop the others; the exit status is 1
# if any did. Where row invariance is broken the run goes on with MOCL_BLAS=none, and the report says so.
#
# REHEARSE=1: the same on a machine without a GPU, with the host emulator and tiny shapes.
# Set by hand: SHAPES="1b 7b", DTYPES="bf16 f32" (7b: bf16 alone), PYTHON=python3, MOCL_BLAS=none (products of bf16 by our own
# kernel), SECONDS_MAX=570 (a step that would begin later is skipped and counts as failed).
set -u
cd "$(dirname "$0")/../.."
out=${1:-build/gpu}
rehearse=${REHEARSE:-}
python=${PYTHON:-python3}
shapes=${SHAPES:-$([ -n "$rehearse" ] && echo tiny || echo 1b 7b)}
mkdir -p "$out"
rm -f "$out"/*.log "$out"/*.json "$out"/steps
began=$(date +%s)
seconds=${SECONDS_MAX:-$([ -n "$rehearse" ] && echo 36000 || echo 570)}
failed=0

step() { # NAME LIMIT COMMAND...: name, result and seconds into OUT/steps, output into OUT/NAME.log
    local name=$1 limit=$2 start status left
    shift 2
    start=$(date +%s)
    left=$((began + seconds - start)) # for this step and the report
    if [ $left -le 0 ]; then
        failed=$((failed + 1))
        skip "$name" "no time left of $seconds seconds"
        return
    fi
    [ "$limit" -le $left ] || limit=$left
    timeout "$limit" "$@" > "$out/$name.log" 2>&1
    status=$?
    [ $status = 0 ] || failed=$((failed + 1))
    printf '%s\t%s\t%s\t%s\n' "$name" "$status" "$(($(date +%s) - start))" "$(tail -n 1 "$out/$name.log" | tr '\t' ' ')" >> "$out/steps"
    tail -n 1 "$out/steps"
}
skip() { # NAME WHY
    printf '%s\tskipped\t0\t%s\n' "$1" "$2" >> "$out/steps"
    tail -n 1 "$out/steps"
}

if [ -n "$rehearse" ]; then
    step build 1200 make -s -j"$(nproc)" all emulator
    export MOCL_CUDA=$PWD/build/emu/mocl_cuda.so
else
    step build 300 make -s -j"$(nproc)" cuda
    step machine 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
fi
env_ok() { ./mocl --env && ! ./mocl --env | grep -q '^cuda *off'; }
export -f env_ok
step env 20 bash -c env_ok

step tests "$([ -n "$rehearse" ] && echo 900 || echo 120)" ./mocl tests/run.lua --device cuda:0
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
for tool in memcheck racecheck; do
    if [ -n "$rehearse" ]; then skip $tool "the emulator is not for compute-sanitizer"
    elif [ -z "$sanitizer" ]; then skip $tool "no compute-sanitizer"
    else
        step $tool 90 "$sanitizer" --tool $tool --error-exitcode 9 ./mocl tests/run.lua --device cuda:0 -k test_ops.lua
        step $tool-bf16 60 "$sanitizer" --tool $tool --error-exitcode 9 ./mocl tests/run.lua --device cuda:0 -k "operations in bf16"
    fi
done

for shape in $shapes; do
    before=$failed
    step "rows-$shape" 60 ./mocl tests/gpu/rows.lua device=cuda:0 shape="$shape"
    [ "$failed" = "$before" ] || export MOCL_BLAS=none
done

recipe() { # the smoke recipe on both devices, and in bf16
    smoke() { ./mocl recipes/moc_hh.lua preset=smoke quiet=true "$@"; }
    mine="rewards=examples/04_rewards.lua objectives=brief,polite"
    smoke "out=$out/run-cpu" && smoke device=cuda "out=$out/run-cuda" &&
        smoke $mine "out=$out/run-f32" && smoke $mine device=cuda dtype=bf16 "out=$out/run-bf16" &&
        ./mocl tests/same_run.lua "$out/run-cpu" "$out/run-cuda" && ./mocl tests/same_run.lua "$out/run-f32" "$out/run-bf16" bf16
}
export -f recipe
export out
rm -rf "$out/run-cpu" "$out/run-cuda" "$out/run-f32" "$out/run-bf16"
step recipe "$([ -n "$rehearse" ] && echo 3000 || echo 60)" bash -c recipe

for shape in $shapes; do
    for dtype in ${DTYPES:-$([ "$shape" = 7b ] && echo bf16 || echo bf16 f32)}; do
        step "mocl-$shape-$dtype" 80 ./mocl tests/gpu/bench.lua device=cuda:0 shape="$shape" dtype="$dtype" \
            out="$out/mocl-$shape-$dtype.json"
    done
    if "$python" -c 'import torch, transformers' 2> /dev/null; then
        step "torch-$shape" 60 "$python" tests/gpu/bench_torch.py "$shape" "$out/torch-$shape.json"
    else
        skip "torch-$shape" "no torch and transformers for $python"
    fi
done

echo "$(($(date +%s) - began)) seconds in all"
./mocl tests/gpu/report.lua "$out" "$(($(date +%s) - began))" || failed=$((failed + 1))
cat "$out/gpu.md"
[ "$failed" = 0 ]
