#!/bin/sh
# have.sh CLANG - does this compiler build programs for libFuzzer?
dir=$(mktemp -d) || exit 1
printf '%s\n' '#include <stddef.h>' '#include <stdint.h>' 'int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) { return !p && n; }' > "$dir/x.c"
$1 -fsanitize=fuzzer,address,undefined -o "$dir/x" "$dir/x.c" 2> /dev/null
built=$?
rm -rf "$dir"
exit $built
