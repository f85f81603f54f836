# parts.sh - for scripts that run several programs which end with "N passed, N failed[, N skipped]": adds them up.
# Sourced; then: part NAME COMMAND..., and finish at the end. A part that ends without a count, or with a status
# that is not 0 and no failure, is one more failure. beside FUNCTION runs the parts that a function names at the same
# time; finish waits for them and shows what they printed.
passed=0 failed=0 skipped=0 lanes=0
parts_dir=$(mktemp -d)
lane=$parts_dir/0 # a name of its own for each sequence of parts
trap 'rm -rf "$parts_dir"' EXIT
trap 'trap "" TERM; kill 0; exit 130' INT # what a shell runs in the background is deaf to Ctrl-C, not to this

part() { # NAME COMMAND...
    echo "== $1"
    shift
    { "$@" < /dev/null 2>&1; echo $? > "$lane.status"; } | tee "$lane.out"
    status=$(cat "$lane.status")
    count=$(tail -n 1 "$lane.out" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed,* *\([0-9]*\).*/\1 \2 \3/p')
    # shellcheck disable=SC2086 # word splitting is meant
    set -- $count
    if [ $# -lt 2 ] || { [ "$status" != 0 ] && [ "$2" = 0 ]; }; then
        echo "FAIL this part ended with status $status"
        failed=$((failed + 1))
    fi
    passed=$((passed + ${1:-0})) failed=$((failed + ${2:-0})) skipped=$((skipped + ${3:-0}))
}

beside() { # FUNCTION
    lanes=$((lanes + 1))
    (
        lane=$parts_dir/$lanes passed=0 failed=0 skipped=0
        trap - EXIT INT
        "$1"
        echo "$passed $failed $skipped" > "$lane.sum"
    ) > "$parts_dir/$lanes.log" 2>&1 &
}

finish() {
    wait
    for i in $(seq "$lanes"); do
        cat "$parts_dir/$i.log"
        read -r p f s < "$parts_dir/$i.sum" || f=1 # it did not get to its end
        passed=$((passed + ${p:-0})) failed=$((failed + f)) skipped=$((skipped + ${s:-0}))
    done
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}
