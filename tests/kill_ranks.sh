#!/bin/sh
# kill_ranks.sh [KILLS] - stops a small run of several ranks at KILLS (50) random moments: a random rank with SIGKILL, or mpirun with
# SIGINT or SIGKILL; Open MPI and MPICH take turns, and so do 1 to 4 ranks. Each goes on with resume=auto. A run that ends must
# have the bytes of one without mpirun, and no process and no file in /dev/shm may be left. Prints "N passed, N failed".
set -u
cd "$(dirname "$0")/.." || exit 1
mocl=${MOCL:-./mocl}
kills=${1:-50}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
seed=${SEED:-1}
passed=0 failed=0 done_kills=0 n=0 moments=
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_plm_rsh_agent=
cp "$mocl" "$dir/mocl-ranks" || exit 1 # a name of its own, by which its processes are found

for program in mpirun.openmpi mpirun.mpich; do
    if ! command -v $program > /dev/null; then
        echo "skip: no $program: sh .ci/deps.sh tests installs it"
        echo "0 passed, 0 failed, 1 skipped"
        exit 0
    fi
done

options="recipes/moc_hh.lua preset=smoke quiet=true save_every=1 base.steps=12 sft.steps=12 reward.steps=12 moc.save_every=1 moc.iterations=4 ppo.pieces=4"

run() { # OUT RANKS
    if [ $(($2 % 2)) = 0 ]; then set -- "$1" "$2" mpirun.openmpi --oversubscribe; else set -- "$1" "$2" mpirun.mpich; fi
    out=$1 ranks=$((($2 / 2) % 4 + 1))
    shift 2
    # shellcheck disable=SC2086 # word splitting is meant
    exec "$@" -np "$ranks" "$dir/mocl-ranks" $options resume=auto out="$out" > /dev/null 2> "$dir/err"
}

same() { # A B
    for f in result.json samples.jsonl tokenizer.json last/adapter_model.safetensors last/value_heads.safetensors \
        last/optimizer.safetensors metrics.jsonl sft/model.safetensors reward-humor/score_head.safetensors; do
        cmp -s "$1/$f" "$2/$f" || { echo "$f differs"; return 1; }
    done
}

left() { pgrep -f "$dir/mocl-ranks"; }

await_end() { # the launcher has ended: the ranks may take some seconds more
    tries=0
    while left > /dev/null && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
    if left > /dev/null; then
        echo "ranks are left:" && left
        failed=$((failed + 1))
        left | xargs kill -9
    fi
}

shm() { ls /dev/shm | grep -v '^__KMP_REGISTERED_LIB_'; } # those are of OpenMP in other programs
before=$(shm)
# shellcheck disable=SC2086
"$mocl" $options out="$dir/whole" > /dev/null 2>&1 || exit 1
while [ "$done_kills" -lt "$kills" ]; do
    seed=$(((seed * 1103515245 + 12345) % 2147483648))
    ms=$((seed / 65536 % 4000 + 200)) how=$((seed / 4096 % 4))
    n=$((n + 1))
    run "$dir/cut" $n &
    pid=$!
    sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))"
    if kill -0 $pid 2> /dev/null; then
        done_kills=$((done_kills + 1))
        victim=$(left | grep -v "^$pid$" | sed -n "$((seed / 256 % 4 + 1))p")
        case $how in
        0) kill -INT $pid ;;
        1) kill -KILL $pid ;;
        *) [ -n "$victim" ] && kill -KILL "$victim" ;;
        esac
        moments="$moments $ms:$how"
    fi
    wait $pid 2> /dev/null
    status=$?
    await_end
    if [ -e "$dir/cut/result.json" ]; then
        if same "$dir/whole" "$dir/cut"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
        rm -rf "$dir/cut"
    elif [ $status = 0 ] && [ "$how$((n % 2))" != 01 ]; then # MPICH 4.0.2's mpirun mostly says 0 after Ctrl-C, whatever its ranks say
        echo "status 0 of half a run: $n, $ms ms, $how: $(tail -5 "$dir/err")"
        failed=$((failed + 1))
    fi
done
(run "$dir/cut" 4) # to the end, without another kill: 3 ranks of Open MPI
await_end
[ -e "$dir/cut/result.json" ] || tail -20 "$dir/err"
if same "$dir/whole" "$dir/cut"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
# Open MPI leaves its own where mpirun itself was killed, and UCX below MPICH where a rank was killed while it opened one
for f in /dev/shm/vader_segment.* /dev/shm/ucx_shm_posix_*; do
    case $before in *"${f##*/}"*) ;; *) rm -f "$f" ;; esac
done
tries=0 # what other programs have there for a while goes
while [ "$(shm)" != "$before" ] && [ $tries -lt 30 ]; do sleep 1; tries=$((tries + 1)); done
after=$(shm)
[ "$before" = "$after" ] || { echo "left in /dev/shm: $after"; failed=$((failed + 1)); }
echo "$done_kills kills (ms:how):$moments"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
