#!/usr/bin/env bash
# run.sh [OUT] - everything that a machine with an NVIDIA GPU must confirm, in one run of under seven minutes, the most valuable
# figures first: the products' algorithms and row invariance at the shapes that are timed, the times of a 7B model beside
# PyTorch, every test that runs once for each device, the same under compute-sanitizer, smaller models, a whole recipe
# against the cpu and in bf16. Each figure is written as soon as it is there; OUT/gpu.json and OUT/gpu.md (build/gpu) are made
# again after each step. A step that fails does not stop the others; the exit status is 1 if any did. Where row invariance
# is broken the run goes on with MOCL_BLAS=none, and the report says so.
#
# In a checkout the first step is make cuda. In a bundle (make gpu-bundle) there is no Makefile, and what it brought is run.
#
# REHEARSE=1: the same on a machine without a GPU, with the host emulator and tiny shapes.
# Set by hand: SHAPES="7b smollm2 1b", DTYPES="bf16", PYTHON=python3, MOCL_BLAS=none (products of bf16 by our own kernel),
# SECONDS_MAX=420 (a step that would begin later is skipped and counts as failed).
set -u
cd "$(dirname "$0")/../.."
out=${1:-build/gpu}
rehearse=${REHEARSE:-}
python=${PYTHON:-python3}
shapes=${SHAPES:-$([ -n "$rehearse" ] && echo tiny || echo 7b smollm2 1b)}
mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/*.log "$out"/*.json "$out"/steps "$out"/products
began=$(date +%s)
seconds=${SECONDS_MAX:-$([ -n "$rehearse" ] && echo 36000 || echo 420)}
failed=0

report() { ./mocl tests/gpu/report.lua "$out" "$(($(date +%s) - began))" 2> "$out/report.log"; }
step() { # NAME LIMIT COMMAND...: name, result and seconds into OUT/steps, output into OUT/NAME.log
    local name=$1 limit=$2 start status left
    shift 2
    start=$(date +%s)
    left=$((began + seconds - start))
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
    report
}
skip() { # NAME WHY
    printf '%s\tskipped\t0\t%s\n' "$1" "$2" >> "$out/steps"
    tail -n 1 "$out/steps"
}
slow() { [ -n "$rehearse" ] && echo 3000 || echo "$1"; }

if [ -n "$rehearse" ]; then
    [ ! -f Makefile ] || step build 1200 make -s -j"$(nproc)" all emulator
    export MOCL_CUDA=${MOCL_CUDA:-$PWD/build/emu/mocl_cuda.so}
else
    [ ! -f Makefile ] || step build 300 make -s -j"$(nproc)" cuda
    step machine 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
    # PyTorch keeps its own cuBLASLt where the loader does not look
    if [ -z "${MOCL_CUBLASLT:-}" ]; then
        MOCL_CUBLASLT=$("$python" tests/gpu/find_cublaslt.py 2> /dev/null) && export MOCL_CUBLASLT || unset MOCL_CUBLASLT
    fi
fi
# no device, or products of bf16 that fall back on our own kernel, which is forty times slower and would be measured in silence
env_ok() {
    ./mocl --env
    ! ./mocl --env | grep -q '^cuda *off' || return 1
    [ "${MOCL_BLAS:-}" = none ] || ! ./mocl --env | grep 'bf16 products: own kernels'
}
export -f env_ok
step env 20 bash -c env_ok

export MOCL_CUBLASLT_LOG=$out/products
products_ok() { # which algorithms were taken; the last line counts them
    sort -u "$out/products" | tee "$out/products.all"
    ! grep -q 'own kernel' "$out/products.all" && echo "$(grep -c . "$out/products.all") sizes, all by cuBLASLt" ||
        { echo "$(grep -c 'own kernel' "$out/products.all") sizes by our own kernel, which the figures then measure"; false; }
}
export -f products_ok
export out

torch_step() { # SHAPE DTYPE
    if "$python" -c 'import torch' 2> /dev/null; then
        step "torch-$1-$2" "$(slow 60)" "$python" tests/gpu/bench_torch.py "$1" "$out/torch-$1-$2.json" "$2"
    else
        skip "torch-$1-$2" "no torch for $python"
    fi
}
timed() { # SHAPE
    local before=$failed dtype
    step "rows-$1" "$(slow 40)" ./mocl tests/gpu/rows.lua device=cuda:0 shape="$1"
    [ "$failed" = "$before" ] || export MOCL_BLAS=none
    for dtype in ${DTYPES:-bf16}; do
        step "mocl-$1-$dtype" "$(slow 120)" ./mocl tests/gpu/bench.lua device=cuda:0 shape="$1" dtype="$dtype" out="$out/mocl-$1-$dtype.json"
        torch_step "$1" "$dtype"
    done
}

first=${shapes%% *}
timed "$first"
[ "${MOCL_BLAS:-}" = none ] && skip products "MOCL_BLAS=none" || step products 10 bash -c products_ok

step tests "$([ -n "$rehearse" ] && echo 900 || echo 90)" ./mocl tests/run.lua --device cuda:0
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
# what the sanitizer runs: selected here too where there is none, so that a name that selects nothing is seen in a rehearsal
sanitized() { # NAME LIMIT FILTER...
    local name=$1 limit=$2
    shift 2
    for tool in memcheck racecheck; do
        if [ -n "$rehearse" ]; then step "$tool-$name" 900 ./mocl tests/run.lua --device cuda:0 "$@"
        elif [ -z "$sanitizer" ]; then skip "$tool-$name" "no compute-sanitizer"
        else
            # cuBLASLt under the tool takes long, and its kernels are not ours
            step "$tool-$name" "$limit" env MOCL_BLAS=none "$sanitizer" --tool $tool --error-exitcode 9 ./mocl tests/run.lua --device cuda:0 "$@"
        fi
    done
}
sanitized bf16 50 -k test_cuda_bf16
sanitized ops 60 -k test_ops.lua

for shape in $shapes; do
    [ "$shape" = "$first" ] || timed "$shape"
done

recipe() { # the smoke recipe on both devices, and in bf16
    smoke() { ./mocl recipes/moc_hh.lua preset=smoke quiet=true "$@"; }
    mine="rewards=examples/04_rewards.lua objectives=brief,polite"
    smoke "out=$out/run-cpu" && smoke device=cuda "out=$out/run-cuda" &&
        smoke $mine "out=$out/run-f32" && smoke $mine device=cuda dtype=bf16 "out=$out/run-bf16" &&
        ./mocl tests/same_run.lua "$out/run-cpu" "$out/run-cuda" && ./mocl tests/same_run.lua "$out/run-f32" "$out/run-bf16" bf16
}
export -f recipe
rm -rf "$out/run-cpu" "$out/run-cuda" "$out/run-f32" "$out/run-bf16"
step recipe "$(slow 60)" bash -c recipe
# few files travel back from a borrowed machine: the rest as one
tar -czf "$out/logs.tar.gz" -C "$out" --exclude logs.tar.gz . 2> /dev/null
rm -rf "$out/run-cpu" "$out/run-cuda" "$out/run-f32" "$out/run-bf16"

echo "$(($(date +%s) - began)) seconds in all"
report || failed=$((failed + 1))
cat "$out/gpu.md"
[ "$failed" = 0 ]
