#!/bin/sh
# run.sh [RUN [PYTHON]] - mocl serve beside real clients: openai of two generations, langchain-openai and llm, each in a virtual
# environment below build/clients that is made once, from PyPI. RUN is a finished run with two objectives; without it a tiny
# one is trained. No part of make test: it needs the network. check.py has what is asked.
set -eu
cd "$(dirname "$0")/../.."
python=${2:-python3}
place=build/clients
mkdir -p $place

venv() { # NAME PACKAGES...
    name=$1
    shift
    [ -e "$place/$name/done" ] && return
    "$python" -m venv "$place/$name"
    "$place/$name/bin/pip" install -q "$@"
    touch "$place/$name/done"
}
venv openai3 openai==3.57.0 llm==0.36
venv openai1 openai==1.109.1
venv langchain langchain-openai==1.7.4

run=${1:-$place/run}
if [ ! -e "$run/result.json" ]; then
    ./mocl recipes/moc_hh.lua preset=smoke quiet=true base.steps=2 sft.steps=2 reward.steps=2 moc.iterations=1 out="$run" > /dev/null
fi
./mocl serve "$run" port=0 > $place/log 2> $place/answers &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for i in $(seq 300); do
    grep -q 'http://' $place/log 2>/dev/null && break
    kill -0 $server
    sleep .1
done
url=$(sed -n 's|.* on \(http://[^ ]*\) as .*|\1|p' $place/log)

failed=0
for client in openai3 openai1 langchain llm; do
    env=$client
    [ $client = llm ] && env=openai3
    echo "== $client"
    env NO_PROXY=127.0.0.1,localhost OPENAI_API_KEY=none LLM_USER_PATH="$PWD/$place/llm" PATH="$PWD/$place/$env/bin:$PATH" \
        python tests/clients/check.py "$url" $client "$place/answers" || failed=1
done
kill -INT $server
wait $server || status=$?
[ "${status:-0}" = 130 ] || { echo "the server ended with status ${status:-0}, not 130"; failed=1; }
exit $failed
