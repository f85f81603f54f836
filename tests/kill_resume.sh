#!/bin/sh
# kill_resume.sh [KILLS] - stops a small run at KILLS (50) random moments, two times of three with SIGKILL and once with
# SIGINT, continuing it with resume=auto each time, starting over when it gets to its end; each run that ends must have the
# same bytes as one that was never stopped. Prints "N passed, N failed".
set -u
cd "$(dirname "$0")/.."
mocl=${MOCL:-./mocl}
kills=${1:-50}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
seed=${SEED:-1}
passed=0 failed=0 done_kills=0 moments=

if ! [ -e "/proc/self/task/$$/children" ] && ! [ -e "/proc/$$/task/$$/children" ]; then
    echo "skip: this kernel does not list the children of a process"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi

run() { # OUT
    "$mocl" recipes/moc_hh.lua preset=smoke quiet=true save_every=1 base.steps=12 sft.steps=12 reward.steps=12 \
        moc.save_every=1 moc.iterations=4 resume=auto out="$1" > /dev/null 2> "$dir/err"
}

# files whose bytes must not depend on interruptions (times are in timing.json and nowhere else compared)
same() { # A B
    for f in result.json samples.jsonl tokenizer.json last/adapter_model.safetensors last/value_heads.safetensors \
        last/optimizer.safetensors last/adapter_config.json metrics.jsonl base/model.safetensors sft/model.safetensors \
        reward-humor/model.safetensors reward-humor/score_head.safetensors; do
        cmp -s "$1/$f" "$2/$f" || { echo "$f differs"; return 1; }
    done
}

run "$dir/whole" || { cat "$dir/err"; exit 1; }
while [ "$done_kills" -lt "$kills" ]; do
    seed=$(((seed * 1103515245 + 12345) % 2147483648))
    ms=$((seed / 65536 % 1500 + 20)) signal=KILL
    [ $((seed / 4096 % 3)) = 0 ] && signal=INT
    run "$dir/cut" &
    pid=$!
    sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
    # the shell function runs in a subshell: its child is the program
    child=$(cat "/proc/$pid/task/$pid/children" 2> /dev/null)
    # shellcheck disable=SC2086 # one number
    [ -n "$child" ] && kill -$signal $child 2> /dev/null && {
        done_kills=$((done_kills + 1))
        moments="$moments $ms"
    }
    wait "$pid" 2> /dev/null
    status=$?
    if [ "$status" != 137 ] && [ "$status" != 130 ] && [ "$status" != 0 ] || grep -q traceback "$dir/err"; then
        echo "FAIL status $status after SIG$signal: $(cat "$dir/err")"
        failed=$((failed + 1))
        rm -rf "$dir/cut"
    elif [ -e "$dir/cut/result.json" ]; then
        if same "$dir/whole" "$dir/cut"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
        rm -rf "$dir/cut"
    fi
done
run "$dir/cut" && same "$dir/whole" "$dir/cut" && passed=$((passed + 1)) || failed=$((failed + 1))
echo "$done_kills kills, after (ms):$moments"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
