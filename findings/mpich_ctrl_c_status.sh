#!/bin/sh
# mpich 4.0.3: mpiexec reports success for a job that was stopped by Ctrl-C, although its process ended with 130.
#
# The process here takes SIGINT, and ends with the status 130, as a program does that saves its work when it is
# interrupted. mpiexec is sent SIGINT, as by Ctrl-C, and passes it on. Of 4.0.3 the status of mpiexec is then 0 in most
# tries and 130 in the others; of 5.0.2 it is 130 in all of them. Debian 12 has 4.0.2, which
# does as 4.0.3 (14 of 16). A script that asks mpiexec whether a job has ended well takes half a job for a whole one.
#
# One would expect the status of the process, or at least none of success.
#
# Seen: tries of twelve with the status 0.
#   mpich 4.0.3: 12 of 12 (in another run 6 of 8)
#   mpich 5.0.2: 0 of 12
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
python3 -m venv "$work/venv"
cat > "$work/process.sh" <<'PROCESS'
trap 'exit 130' INT
tick=0
while [ $tick -lt 100 ]; do sleep 0.1; tick=$((tick + 1)); done
exit 3
PROCESS

zeros() { # VERSION: how many of twelve tries have the status 0; the others have to have 130
    "$work/venv/bin/python" -m pip install --quiet --target "$work/$1" "mpich==$1"
    zero=0
    for try in 1 2 3 4 5 6 7 8 9 10 11 12; do
        "$work/$1/bin/mpiexec" -np 1 sh "$work/process.sh" > /dev/null 2>&1 &
        launcher=$!
        sleep 1
        kill -INT $launcher
        status=0
        wait $launcher || status=$?
        case $status in
        0) zero=$((zero + 1)) ;;
        130) ;;
        *) echo "mpich $1: status $status in try $try" >&2; exit 1 ;;
        esac
    done
    echo "$zero"
}

old=$(zeros 4.0.3)
echo "mpich 4.0.3: $old of 12"
new=$(zeros 5.0.2)
echo "mpich 5.0.2: $new of 12"
[ "$old" -gt 0 ] && [ "$new" = 0 ] || { echo 'the statuses have changed' >&2; exit 1; }
