#!/bin/sh
# bundle.sh DIR LINK NVCC OBJECTS CUDA_OBJECTS - make gpu-bundle calls it: puts together what a machine with a GPU but without
# packages needs, in DIR and DIR.tar.gz. LINK and NVCC are commands with their flags, the rest lists of files.
set -eu
dir=$1 link=$2 nvcc=$3 objects=$4 cuda=$5
rm -rf "$dir" "$dir.tar.gz"
mkdir -p "$dir"
# shellcheck disable=SC2086 # lists of words
$link -o "$dir/mocl" $objects -l:liblua5.4.a -l:libutf8proc.a -l:libpcre2-8.a -l:libjansson.a -l:libz.a -l:libcrypto.a \
    -lm -ldl -pthread
# shellcheck disable=SC2086
$nvcc -shared -cudart static -Xcompiler -static-libstdc++,-static-libgcc -o "$dir/mocl_cuda.so" $cuda
strip "$dir/mocl" "$dir/mocl_cuda.so"
for file in "$dir/mocl" "$dir/mocl_cuda.so"; do
    alien=$(ldd "$file" | grep -v 'linux-vdso\|ld-linux\|libc\.so\|libm\.so\|libdl\.so\|libpthread\.so\|librt\.so\|statically' || true)
    [ -z "$alien" ] || { echo "gpu-bundle: $file would need on the other machine:"; echo "$alien"; exit 1; }
done
cp -R tests recipes examples "$dir/"
# of the tests those that run once for each device
grep -L 'T\.devices' "$dir"/tests/test_*.lua | xargs rm -f
rm -rf "$dir/tests/c" "$dir/tests/fuzz"
find "$dir" -name '*.o' -delete
tar -czf "$dir.tar.gz" -C "$(dirname "$dir")" "$(basename "$dir")"
printf '%s: %s KiB, unpacked %s KiB. There: tar xzf %s && %s/tests/gpu/run.sh\n' "$dir.tar.gz" \
    "$(($(wc -c < "$dir.tar.gz") / 1024))" "$(du -sk "$dir" | cut -f1)" "$(basename "$dir").tar.gz" "$(basename "$dir")"
