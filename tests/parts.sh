# parts.sh - for scripts that run several programs which end with "N passed, N failed[, N skipped]": adds them up.
# Sourced; then: part NAME COMMAND..., and finish at the end. A part that ends without a count, or with a status
# that is not 0 and no failure, is one more failure.
passed=0 failed=0 skipped=0
parts_out=$(mktemp)
trap 'rm -f "$parts_out" "$parts_out.status"' EXIT

part() { # NAME COMMAND...
    echo "== $1"
    shift
    { "$@" 2>&1; echo $? > "$parts_out.status"; } | tee "$parts_out"
    status=$(cat "$parts_out.status")
    count=$(tail -n 1 "$parts_out" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed,* *\([0-9]*\).*/\1 \2 \3/p')
    # shellcheck disable=SC2086 # word splitting is meant
    set -- $count
    if [ $# -lt 2 ] || { [ "$status" != 0 ] && [ "$2" = 0 ]; }; then
        echo "FAIL this part ended with status $status"
        failed=$((failed + 1))
    fi
    passed=$((passed + ${1:-0})) failed=$((failed + ${2:-0})) skipped=$((skipped + ${3:-0}))
}

finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}
