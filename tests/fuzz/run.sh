#!/bin/sh
# run.sh [SECONDS] - runs the fuzz targets, which make fuzz builds: SECONDS for each of them, or without it a short form of
# some seconds with a fixed seed. ONLY="gguf json" names the targets. What a long run has learned stays in build/fuzz/corpus and
# is where the next one goes on; an input that a reader fails on stays in build/fuzz/found. Faults that were found before are
# tests of their own (tests/test_broken.lua and its like). The last line counts the targets.
set -u
cd "$(dirname "$0")/../.." || exit 1
seconds=${1:-}
build=build/fuzz
found=$build/found
mkdir -p "$found"
memory=/dev/shm
[ -d "$memory" ] && [ -w "$memory" ] || memory=${TMPDIR:-/tmp}
work=$(mktemp -d "$memory/mocl-fuzz.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

start=$work/start
./mocl tests/fuzz/corpus.lua "$start" || exit 1
rm -rf "$start/scratch"

# -timeout: a single input; -malloc_limit_mb: a single allocation; the whole process stays below -rss_limit_mb
limits='-timeout=20 -malloc_limit_mb=256 -rss_limit_mb=2048 -max_len=16384'
# The collector of Lua frees late: after each input memory seems lost there, and looking for it takes most of the time.
leaks() { case $1 in config) echo 0 ;; *) echo 1 ;; esac; }
run() { # TARGET: prints what came out, and leaves its status in $work/TARGET.status
    dir=$work/$1.files
    mkdir -p "$dir" "$work/$1.new"
    if [ -n "$seconds" ]; then
        mkdir -p "$build/corpus/$1"
        set -- "$1" -max_total_time="$seconds" "$build/corpus/$1" "$start/$1"
    else
        set -- "$1" -seed=1 -max_total_time=5 "$work/$1.new" "$start/$1"
    fi
    target=$1
    shift
    # shellcheck disable=SC2086 # word splitting is meant
    MOCL_FUZZ_DIR=$dir ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 "$build/tests/fuzz/$target" $limits \
        -detect_leaks="$(leaks "$target")" -dict=tests/fuzz/words.dict -artifact_prefix="$found/$target-" -print_final_stats=1 "$@" > "$work/$target.log" 2>&1
    status=$?
    units=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$target.log")
    cover=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$work/$target.log" | tail -n 1)
    if [ "$status" = 0 ]; then
        echo "ok   $target: ${units:-no} executions, ${cover:-no} edges"
    else
        echo "FAIL $target (status $status), after ${units:-some} executions:"
        grep -v '^#\|^stat::\|^INFO' "$work/$target.log" | head -n 60
        echo "     once more: MOCL_FUZZ_DIR=\$(mktemp -d) $build/tests/fuzz/$target $found/$target-..."
    fi
    echo "$status" > "$work/$target.status"
}

targets=${ONLY:-$(for t in "$start"/*; do basename "$t"; done)}
# two at a time
set -- $targets
while [ $# -gt 0 ]; do
    run "$1" > "$work/$1.said" & 
    if [ $# -gt 1 ]; then
        run "$2" > "$work/$2.said"
        wait
        cat "$work/$1.said" "$work/$2.said"
        shift 2
    else
        wait
        cat "$work/$1.said"
        shift
    fi
done
passed=0 failed=0
for t in $targets; do
    if [ "$(cat "$work/$t.status" 2>/dev/null)" = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
