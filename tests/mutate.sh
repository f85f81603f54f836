# mutate.sh - for scripts that put one defect at a time into a copy of the kernels. Sourced with the script's arguments, -k PATTERN: only
# the defects whose line contains PATTERN. Then: mutate FOLDER < table, and the exit status is that of its last line.
#
# A line of the table: FILES | perl expression, applied once | what it is. The first of FILES, below kernels/FOLDER, is changed. The
# script's own build FILES... makes what runs from the copy in $dir/kernels, or fails with words in $dir/err; its caught FILES... prints
# what fails then, and nothing where the defect is missed.
pattern=
[ "${1:-}" = -k ] && pattern=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export CCACHE_DISABLE=1 # a header that changes and changes back within a second is not always seen

mutate() { # FOLDER
    passed=0 failed=0
    cat > "$dir/table"
    while IFS= read -r line; do
        files=${line%%|*}
        what=${line##*|}
        expression=${line#*|}
        expression=${expression%|*}
        case $line in *"$pattern"*) ;; *) continue ;; esac
        rm -rf "$dir/kernels" "$dir/o"
        mkdir "$dir/o"
        cp -r kernels "$dir/kernels"
        first=${files%% *}
        perl -0777 -pe "$expression" "kernels/$1/$first" > "$dir/kernels/$1/$first"
        by=
        # shellcheck disable=SC2086 # word splitting is meant
        if cmp -s "kernels/$1/$first" "$dir/kernels/$1/$first"; then
            echo "MISSED $first: $what: the expression changes nothing"
        elif ! build $files; then
            echo "MISSED $first: $what: does not build"
            head -n 5 "$dir/err"
        else
            by=$(caught $files)
            [ -n "$by" ] && echo "caught $first: $what: by $by" || echo "MISSED $first: $what"
        fi
        [ -n "$by" ] && passed=$((passed + 1)) || failed=$((failed + 1))
    done < "$dir/table"
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}
