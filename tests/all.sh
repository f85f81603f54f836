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

lua() { # K/N
    part "tests/run.lua --part $1" timeout --foreground 3000 "$mocl" tests/run.lua --part "$1"
}

cuda() {
    emulator=$PWD/$build/emu/mocl_cuda.so
    if [ -f "$emulator" ]; then # the CUDA kernels on the host, threads in both orders
        for order in forward reverse; do
            part "the CUDA kernels, emulated ($order)" env MOCL_CUDA="$emulator" MOCL_EMU_ORDER=$order \
                timeout --foreground 1800 "$mocl" tests/run.lua --device cuda:0 -k test_o
        done
        part "device cuda, emulated" env MOCL_CUDA="$emulator" \
            timeout --foreground 1800 "$mocl" tests/run.lua --device cuda:0 -k test_cuda
    else
        echo "skip: the CUDA kernels on the emulator, which was not built: no $emulator"
        skipped=$((skipped + 1))
    fi
}

apart() { # about half of the time
    lua 2/2
    for source in tests/c/*.c; do
        part "$source" timeout --foreground 1800 "$build/${source%.c}"
    done
    part "examples/embed.c" example timeout --foreground 1800 "$build/examples/embed"
    cuda
}

beside apart
lua 1/2
if [ -z "$variant" ]; then
    part "gradients in double precision" timeout --foreground 1800 build/f64/mocl tests/run.lua -k grad
    part "layering" sh tests/layering.sh
    part "a full disk" sh tests/disk_full.sh 2
fi
finish
