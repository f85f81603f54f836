#!/bin/sh
# mutations_cpu.sh [-k PATTERN] - puts one defect at a time into a copy of the cpu's kernels for bf16, links tests/c/test_kernels with it,
# and shows what catches it. One line each; a defect that the test passes is a failure. -k: only the defects whose line contains PATTERN.
# Needs `make all programs` first.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/mutate.sh
libraries=$(pkg-config --libs lua5.4 libutf8proc libpcre2-8 jansson zlib libcrypto)

# of FILES those in C are built
table() {
    cat <<'END'
simd_bf16.h simd_avx2.c simd_avx512.c|s/pair\[j\] & \(int32_t\)0xffff0000\), odd\[i\]\[j\]/pair[j] \& (int32_t)0xffff0000), even[i][j]/|multiply-adds: odd k go on where even k ended
simd_bf16.h simd_avx2.c simd_avx512.c|s/v_load\(to\) \+ \(even\[i\]\[j\] \+ odd\[i\]\[j\]\)/(v_load(to) + even[i][j]) + odd[i][j]/|multiply-adds: the old sum first
simd_bf16.h simd_avx2.c simd_avx512.c|s/_mm_setcsr\(ZERO_SUBNORMALS\)/_mm_setcsr(0x1f80)/|multiply-adds: subnormal numbers kept
simd_bf16.h simd_avx2.c simd_avx512.c|s/case 1: bf16_rows\(1,/case 1: bf16_rows(2,/|multiply-adds: a row behind the last one
bf16.c|s/: \(double\)\(float\)sum/: sum/|plain C: a chain that is not rounded
bf16.c|s/0x1p-126 - 0x1p-151/0x1p-126/|plain C: flushed before rounding
bf16.c|s/\(bits & 0x7f800000\) == 0 \? bits & 0x80000000 : bits/bits/|plain C: subnormal inputs kept
amx.c simd_amx.h|s/\{first, first, second, second, first, second, 16, 16\}/{16, 16, 16, 16, 16, 16, 16, 16}/|tiles: all of 16 rows
simd_amx.h amx.c|s/TILE_DOT\(3, 5, 7\)/TILE_DOT(3, 5, 6)/|tiles: the columns of the other tile
simd_amx.h amx.c|s/int64_t whole = m \/ 32, rest = m % 32/int64_t whole = (m + 31) \/ 32, rest = 0/|tiles: rows in part as whole ones
gemm_bf16.c|s/memset\(to \+ pairs \* COLUMNS, 0, \(size_t\)\(\(rows - pairs\) \* COLUMNS\) \* sizeof \*to\);//|the end of k: what lay in the memory of B
gemm_bf16.c|s/memset\(to \+ i \* MK_BF16_LDA \+ kc, 0,/memset(to + i * MK_BF16_LDA + kc, 255,/|the end of k: what lay in the memory of A
gemm_bf16.c|s/kc % 2 && i < COLUMNS/0 \&\& i < COLUMNS/|an odd k: the last number left out
gemm_bf16.c|s/g->path->sweep\(m, blocks_of\(kc\), a, panel/(g->m == 1 ? \&mk_bf16_plain : g->path)->sweep(m, blocks_of(kc) - (g->m == 1 \&\& blocks_of(kc) > 16), a, panel/|one row alone: another sum
gemm_bf16.c|s/2 \* p \+ 1 < kc \? from \+ g->ldb : none/from + g->ldb/|B: a row behind the last one
gemm_bf16.c|s/mk_min\(COLUMNS, g->n - column\), &g->blend/COLUMNS, \&g->blend/|C: columns behind the last one
END
}

build() { # FILES...
    for f in "$@"; do
        case $f in *.c) ;; *) continue ;; esac
        ${CC:-cc} -std=c11 -fPIC -pthread -ffp-contract=off -w -O2 -Iruntime -I"$dir/kernels" -c "$dir/kernels/cpu/$f" -o "$dir/o/${f%.c}.o" \
            2> "$dir/err" || return 1
    done
    # shellcheck disable=SC2086 # word splitting is meant
    ${CC:-cc} -pthread -o "$dir/test" build/tests/c/test_kernels.o build/tests/c/kernels/*.o "$dir"/o/*.o libmocl.a $libraries -lm -ldl 2> "$dir/err"
}

caught() {
    timeout 300 "$dir/test" bf16 < /dev/null > "$dir/log" 2>&1
    status=$?
    [ $status = 0 ] && return
    by=$(sed -n 's/^not ok bf16: //p' "$dir/log" | head -n 1 | cut -c1-90)
    echo "${by:-the end of the process (status $status)}"
}

table | mutate cpu
