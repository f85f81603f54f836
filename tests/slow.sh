#!/bin/sh
# slow.sh - the long tests. The seeds are fixed; each part says what it did.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/parts.sh

apart() {
    part "out of memory and out of disk, anywhere in a run" timeout --foreground 3000 build/tests/c/test_failures 120 60
    part "broken files" env MOCL_SLOW=1 timeout --foreground 3000 build/asan/mocl tests/run.lua -k test_broken
    part "signals" env MOCL_SLOW=1 timeout --foreground 600 build/asan/mocl tests/run.lua -k test_signals
}

beside apart
part "several ranks" env MOCL_SLOW=1 timeout --foreground 3000 ./mocl tests/run.lua -k test_comm
part "killed at 50 random moments" sh tests/kill_resume.sh 50
part "ranks killed at 50 random moments" sh tests/kill_ranks.sh 50
part "a full disk" sh tests/disk_full.sh 20
part "collections all the time" sh tests/stress.sh
finish
