#!/bin/sh
# disk_full.sh [COUNT] - a small run on COUNT (4) file systems that are too small for it, and with COUNT limits on the
# size of a file (ulimit -f). Each must end with status 1, the reason and what to do, and a `last` checkpoint that
# sha256sum accepts; with enough space and resume=auto it ends with the bytes of a run that had it from the start.
# The file systems are in memory, in a namespace of their own. Prints "N passed, N failed, N skipped".
set -u
cd "$(dirname "$0")/.." || exit 1
count=${1:-4}

if [ -z "${MOCL_IN_NAMESPACE:-}" ]; then
    if unshare -rm sh -c 'mount -t tmpfs none /mnt' 2> /dev/null; then
        MOCL_IN_NAMESPACE=yes exec unshare -rm sh "$0" "$count"
    fi
    MOCL_IN_NAMESPACE=no
fi

mocl=${MOCL:-./mocl}
dir=$(mktemp -d)
trap 'umount "$dir/disk" 2> /dev/null; rm -rf "$dir"' EXIT
passed=0 failed=0 skipped=0
mkdir "$dir/disk"

run() { # OUT
    "$mocl" -e 'arg = dofile("tests/failures.lua").arguments(arg[1], true) dofile "recipes/moc_hh.lua"' \
        /dev/null "$1" > /dev/null 2> "$dir/err"
}

problem() { # WHAT
    echo "FAIL $what: $1"
    sed 's/^/     /' "$dir/err"
    ok=false
}

# after a run that had to stop, in $dir/disk/run
stopped() { # STATUS REASON CURE
    [ "$1" = 1 ] || problem "status $1"
    grep -qF "$2" "$dir/err" || problem "does not say '$2'"
    grep -qF "$3" "$dir/err" || problem "does not say '$3'"
    ! grep -qE 'stack traceback|\.lua:[0-9]+:' "$dir/err" || problem "names places in the code"
    [ -z "$(find "$dir/disk" -name '*.tmp')" ] || problem "left $(find "$dir/disk" -name '*.tmp')"
    if [ -e "$dir/disk/run/last" ]; then
        (cd "$dir/disk/run/last" && sha256sum --quiet -c SHA256SUMS) > "$dir/sums" 2>&1 || problem "$(cat "$dir/sums")"
    fi
}

continued() {
    run "$dir/disk/run" || problem "cannot be continued"
    "$mocl" -e 'dofile("tests/failures.lua").same(arg[1], arg[2])' /dev/null "$dir/disk/run" "$dir/whole" 2> "$dir/err" ||
        problem "other bytes"
}

result() {
    if $ok; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

run "$dir/whole" || { cat "$dir/err"; echo "0 passed, 1 failed"; exit 1; }
# what its files take in pages: directories take nothing of these file systems
needed=$(find "$dir/whole" -type f -printf '%s\n' | awk '{ n += int(($1 + 4095) / 4096) * 4 } END { print n }')

i=0
while [ "$i" -lt "$count" ]; do
    i=$((i + 1)) ok=true
    size=$((needed * (2 * i - 1) / (2 * count) / 4 * 4 + 4))
    what="a disk of $size KB, $needed are needed"
    if [ "$MOCL_IN_NAMESPACE" = no ]; then
        skipped=$((skipped + 1))
        continue
    fi
    mount -t tmpfs -o "size=${size}k" none "$dir/disk" || exit 1
    run "$dir/disk/run"
    stopped $? "No space left on device" "free some space, then continue with resume=auto"
    mount -o remount,size=64m "$dir/disk" || exit 1
    continued
    umount "$dir/disk"
    result
done
[ "$skipped" = 0 ] || echo "skip: no file systems of its own for this user"

i=0
while [ "$i" -lt "$count" ]; do
    i=$((i + 1)) ok=true
    limit=$((i * 40 / count)) # blocks of 512 bytes; the largest file has some 60
    what="ulimit -f $limit"
    (ulimit -f "$limit" && run "$dir/disk/run")
    stopped $? "File too large" "raise the limit (ulimit -f), then continue with resume=auto"
    continued
    rm -rf "$dir/disk/run"
    result
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
