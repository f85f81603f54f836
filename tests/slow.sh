#!/bin/sh
# slow.sh - the long tests. The seeds are fixed; each part says what it did.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/parts.sh

part "killed at 50 random moments" sh tests/kill_resume.sh 50
part "out of memory and out of disk, anywhere in a run" timeout 1800 build/tests/c/test_failures 120 60
part "a full disk" sh tests/disk_full.sh 20
part "collections all the time" sh tests/stress.sh
part "broken files" env MOCL_SLOW=1 timeout 1800 build/asan/mocl tests/run.lua -k test_broken
finish
