#!/bin/sh
# tsan.sh - what the thread sanitizer watches: kernels in several threads, two states at once, interruptions from
# another thread, threads of luv and cqueues that load mocl.so, and some of the tests in Lua. It ends the program with
# a status where it found a race.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/parts.sh

part "tests/c/test_threads.c" timeout --foreground 900 build/tsan/tests/c/test_threads
part "tests/c/test_embed.c" timeout --foreground 900 build/tsan/tests/c/test_embed
part "tests/run.lua -k test_transformer" timeout --foreground 900 build/tsan/mocl tests/run.lua -k test_transformer
part "tests/run.lua -k test_threads" env TSAN_OPTIONS="suppressions=$PWD/tests/tsan.supp" \
    timeout --foreground 900 build/tsan/mocl tests/run.lua -k test_threads
finish
