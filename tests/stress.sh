#!/bin/sh
# stress.sh - tests and a small run under the address sanitizer with a collection every few allocations
# (MOCL_GC_STRESS, docs/memory.md): what is freed too early is read after it was freed. The run must have the bytes of
# one without. Prints "N passed, N failed".
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/parts.sh
mocl=build/asan/mocl
dir=$parts_dir

run() { # OUT
    "$mocl" -e 'arg = dofile("tests/failures.lua").arguments(arg[1]) dofile "recipes/moc_hh.lua"' /dev/null "$1" > /dev/null
}

same() {
    run "$dir/plain" && MOCL_GC_STRESS=5 run "$dir/stressed" &&
        "$mocl" -e 'dofile("tests/failures.lua").same(arg[1], arg[2])' /dev/null "$dir/stressed" "$dir/plain" &&
        echo "1 passed, 0 failed"
}

part "a run with collections all the time" same
for tests in test_lora test_generate test_json test_tensor test_ppo test_tokenizer test_run test_control; do
    part "$tests" env MOCL_GC_STRESS=5 timeout --foreground 900 "$mocl" tests/run.lua -k "$tests"
done
finish
