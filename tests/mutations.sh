#!/bin/sh
# mutations.sh [-k PATTERN] - puts one defect at a time into a copy of the CUDA kernels, builds that for the
# emulator, and shows which test catches it: plain, and if none does under the address sanitizer (reads behind the
# end). One line each; a defect that no test catches is a failure. -k: only the defects whose line contains PATTERN.
# Needs `make all emulator` first, and `make VARIANT=asan build/asan/mocl emulator`.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/mutate.sh
plain="-std=c++17 -fPIC -fvisibility=hidden -ffp-contract=off -w -O1"

# of FILES all are rebuilt but headers
table() {
    cat <<'END'
elementwise.cu|s/\*b \+= at \* w\.b\[d\]/*b += at * w.a[d]/|copy and binary: a stride of the wrong operand
elementwise.cu|s/case MK_SILU: \{\s+float s = sigmoid\(v\);\s+return s \*/case MK_SILU: { float s = sigmoid(v); return /|unary: a factor of silu's slope left out
elementwise.cu|s/y\[i\] = c\[i\] != 0 \? a\[i\] : b\[i\]/y[i + 1] = c[i] != 0 ? a[i] : b[i]/|where: index off by one
../formats.h elementwise.cu|s/0x7fffu \+ \(u >> 16 & 1\)/0x8000u/|cast to bf16: ties away from even
reduce.cu|s/(part\[threadIdx\.x \/ WARP\] = best;)\s+__syncthreads\(\);/$1/|argmax: a barrier missing
reduce.cu|s/i < pieces; i\+\+\) sum/i < pieces - 1; i++) sum/|sums: the last piece left out
reduce.cu|s/if \(lane >= by\) v \+= left/if (lane > by) v += left/|cumsum: scan off by one lane
common.cuh head.cu norms.cu reduce.cu rows.cu sample.cu|s/(part\[warp\] = v;)\s+__syncthreads\(\);/$1/|block sum: the barrier before reading the warps' parts missing
common.cuh head.cu norms.cu reduce.cu rows.cu sample.cu|s/(all = Op::join\(all, part\[i\]\);)\s+__syncthreads\(\);/$1/|block sum: the barrier after reading them missing
common.cuh head.cu norms.cu reduce.cu rows.cu sample.cu|s/int by = WARP \/ 2; by > 0; by \/= 2\) v = Op/int by = WARP \/ 4; by > 0; by \/= 2) v = Op/|warp sum: half of the lanes left out
gemm.cu|s/__syncthreads\(\);(\s+int depth)/$1/|gemm: the barrier after loading tiles missing
gemm.cu|s/(acc\[i\]\[j\]\);\s+\}\s+)__syncthreads\(\);/$1/|gemm: the barrier before the next tiles missing
gemm.cu|s/k0 \+ p < end && i0 \+ i < g\.m/k0 + p <= end && i0 + i <= g.m/|gemm: a tile that reads one row too many
gemm.cu|s/row >= g\.m\) continue/row > g.m) continue/|gemm: a tile that writes one row too many
gemm.cu|s/i < blocks; i\+\+\) total/i < blocks - 1; i++) total/|gemm, split: the last block of k left out
gemm.cu|s/\(float\)alpha, \(float\)beta/(float)(m > 16 ? alpha * 1.0000005 : alpha), (float)beta/|gemm: rows of a large batch with other bits
gemm.cu|s/at \/ KC \? total\[e\] : 0/0/|gemm continued: the blocks before left out
gemm.cu|s/\(at \+ p \+ 1\) % KC\) continue/(p + 1) % KC) continue/|gemm continued: blocks cut from the piece's first row
gemm.cu|s/fma_\(g\.beta, widen\(\*c\), v\)/v/|gemm: what C held before left out
w8a8.cuh gemm.cu|s/bool in = k0 \+ p < g\.k;/bool in = k0 + p < g.k - 1;/|w8a8: the last column left out
w8a8.cuh gemm.cu|s/\+ \(v - v\)\)/)/|w8a8: a row with a number that is not finite
w8a8.cuh gemm.cu|s/(\(int8_t\)0;\s+\}\s+)__syncthreads\(\);/$1/|w8a8: the barrier after loading codes missing
cublaslt.cu|s/with_rows\(key, REFERENCE_ROWS\)/with_rows(key, key.m ? key.m : REFERENCE_ROWS)/; s/ldc, c_type\}, 0\)\)/ldc, c_type}, m))/|cuBLASLt: the algorithm asked for at the number of rows there are
cublaslt.cu|s/none = CUBLASLT_REDUCTION_SCHEME_NONE/none = 7/; s/if \(split > 1[^;]*;//|cuBLASLt: an algorithm that splits k
cublaslt.cu|s/1000, 4096, 65536\}/};/; s/;;/;/|cuBLASLt: an algorithm that does not run with many rows
cublaslt.cu|s/s\.tb \? CUBLAS_OP_T : CUBLAS_OP_N/s.tb ? CUBLAS_OP_N : CUBLAS_OP_T/|cuBLASLt: a transpose the wrong way round
cublaslt.cu|s/aligned\(b, ldb, 2\)/true/|cuBLASLt: sizes that it does not take
elementwise.cu|s/case MK_ADD: return a \+ b/case MK_ADD: return a - b/|add: a sign
formats.cuh attention.cu elementwise.cu gemm.cu norms.cu rows.cu transformer.cu|s/\*to = mk_to_bf16\(v\)/*to = (mk_bf16)(mk_to_bf16(v) - 1)/|bf16 outputs: the number before
norms.cu|s/c1 = \(float\)\(block_sum\(product\)/c1 = (float)(sizeof(T) == 2 ? 0 : block_sum(product)/|RMSNorm's gradient in bf16: a term left out
random.cu|s/put\(y \+ g \* 4 \+ c, mk_unit\(w\.w\[c\]\) < p/put(y + g * 4 + c, mk_unit(w.w[sizeof(T) == 2 ? 3 - c : c]) < p/|dropout in bf16: another mask than its gradient's
norms.cu|s/g\[k\] - c0 - /g[k] - /|LayerNorm: the mean of the gradient left out
norms.cu|s/r < end && r < j\.rows/r + 1 < end && r < j.rows/|norms: a row of each block missing in dw
rows.cu|s/top = op_max::join\(top, x\[i\]\)/top = x[i]/|softmax: not the largest entry subtracted
rows.cu|s/j0 \+ lane < i && idx/j0 + lane <= i && idx/|scatter: a row takes itself for an earlier one
rows.cu|s/for \(int64_t j0 = i; j0 < n; j0 \+= WARP\)/for (int64_t j0 = i; j0 < i + WARP; j0 += WARP)/|scatter: later rows of the same index left out
rows.cu|s/t < t1; t\+\+\) sum/t <= t1; t++) sum/|segments: one row too many
transformer.cu|s/b\[k\] \* c \+ a\[k\] \* s/b[k] * c - a[k] * s/|rope: a sign
transformer.cu|s/x \+ t \* ldx \+ place/x + (t > 0 \&\& h == H - 1 ? t - 1 : t) * ldx + place/|rope: the last head of the row before
transformer.cu|s/(sine\[i\] = sign[^;]*;\s+\})\s+__syncthreads\(\);/$1/|rope: the barrier before reading the angles missing
transformer.cu|s/(yb\);\s+\})\s+__syncthreads\(\);/$1/|rope: the barrier before the next token's angles missing
transformer.cu|s/freq\[first \+ i\]/freq[i]/|rope: the angles of the first pairs for all
wide.cuh transformer.cu elementwise.cu norms.cu optim.cu|s/k < n \? widen\(p\[k\]\) : 0/k <= n ? widen(p[k]) : 0/|wide loads: an element behind the end
wide.cuh transformer.cu elementwise.cu norms.cu optim.cu|s/if \(k < n\) put/if (k < n - 1) put/|wide stores: the last element left out
wide.cuh transformer.cu elementwise.cu norms.cu optim.cu|s/put16\(p \+ 4, b\)/put16(p + 4, a)/|wide stores: the first half twice
wide.cuh transformer.cu elementwise.cu norms.cu optim.cu|s/all \|= one/all = one/|wide: the last array alone decides
optim.cu|s/list, first, EIGHT\)/list, first, 2 * EIGHT)/|AdamW: every other eight left out
transformer.cu|s/fma_\(g, 1 - s, 1\)/fma_(g, s, 1)/|SwiGLU: a slope
attention.cu|s/(ps\[warp \* KEYS \+ lane\] = p;)\s+__syncwarp\(\);/$1/|attention: the warp barrier before reading probabilities missing
attention.cu|s/(v\[\(j0 \+ t \/ K\) \* ld \+ t % K\]\);\s+)__syncthreads\(\);/$1/|attention: the barrier after loading keys missing
attention.cu|s/(acc\[r\]\[c\] = a;\s+\}\s+__syncwarp\(\);\s+\}\s+)__syncthreads\(\);/$1/|attention: the barrier before loading the next keys missing
attention.cu|s/j\.causal \? t\.first \+ 1 :/j.causal ? t.first + 2 :/|attention: the mask off by one
attention.cu|s/j\.keys\[t\.seq\], n_keys = j\.keys\[t\.seq \+ 1\]/j.offsets[t.seq], n_keys = j.keys[t.seq + 1]/|cross attention: the keys of the queries' places
attention_bwd.cu|s/find_tile\(j, j\.keys, item/find_tile(j, j.offsets, item/|cross attention: tiles of keys by the queries' lengths
attention_bwd.cu|s/if \(keys != offsets\) MK_TRY[^;]*;//|cross attention: dq with the tiles of the keys
attention.cu|s/float a = acc\[r\]\[c\] \* shrink/float a = acc[r][c]/|attention: output not rescaled when the maximum rises
attention.cu|s/\(int64_t\)j\.pos\[r\] \+ 1, 0/(int64_t)j.pos[r], 0/|cached attention: the newest token left out
attention.cu|s/pos\[r\] \* width \+ at % width/(pos[r] + 1) * width + at % width/|cache: a position off by one
attention.cu|s/start\[n_seq\] = at/start[n_seq] = at - 1/|attention: the last tile left out
attention_bwd.cu|s/i0 \+ lane >= t\.first \+ row/i0 + lane > t.first + row/|attention gradient: a key without its own query
attention_bwd.cu|s/(ds\[warp \* KEYS \+ lane\] = p;)\s+__syncwarp\(\);/$1/|attention gradient, dq: a warp barrier missing
attention_bwd.cu|s/(ds\[warp \* KEYS \+ lane\] = s;)\s+__syncwarp\(\);/$1/|attention gradient, dk: a warp barrier missing
attention_bwd.cu|s/(load_rows\(gs, [^;]*;)\s+__syncthreads\(\);/$1/|attention gradient, dk: the barrier after loading queries missing
attention_bwd.cu|s/h < \(g \+ 1\) \* group/h < (g + 1) * group - (group > 1)/|attention gradient: a query head of the group left out
head.cu|s/log_sum - weighted \/ sum/log_sum + weighted \/ sum/|entropy: a sign
head.cu|s/if \(i == target\[r\]\) v/if (i == target[r] + 1) v/|log-probability gradient: the target off by one
head.cu|s/lse_q\) - k, v/lse_q), v/|KL gradient: a term
sample.cu|s/rank\+\+ < c\.ties\)\) sum/rank++ <= c.ties)) sum/|sampling: one tie too many
sample.cu|s/\(int\)k - count_from/(int)k + 1 - count_from/|sampling: top-k keeps one more
sample.cu|s/(mass\[threadIdx\.x \+ 1\] = sum;)\s+__syncthreads\(\);/$1/|sampling: the barrier before adding up runs missing
sample.cu|s/b\.v == a\.v && b\.at < a\.at/b.v == a.v \&\& b.at > a.at/|greedy: the last of equals
random.cu|s/c < 4 && g \* 4 \+ c < s\.n; c\+\+\) x/c < 4; c++) x/|normal: up to three entries too many
random.cu|s/\(uint32_t\)\(s\.id >> 32\), s\.key/0, s.key/|streams: the upper half of the stream's number left out
ppo.cu|s/offsets\[s \+ 1\] - 1; t >=/offsets[s + 1]; t >=/|GAE: begins one token late
ppo.cu|s/\(a < 0 && z < lo\)/(a < 0 \&\& z > lo)/|PPO: the lower clip
optim.cu|s/1 - pow\(beta2, \(double\)step\)/1 - pow(beta2, (double)step - 1)/|AdamW: bias correction off by one step
optim.cu|s/start\[middle\] <= i/start[middle] < i/|AdamW: the first entry of each parameter goes to the one before
optim.cu|s/done \+= l\.start\[l\.count\]/done = l.start[l.count]/|gradient norm: later parts of the list over earlier ones
optim.cu|s/if \(!first\) d = momentum/if (first) d = momentum/|SGD: momentum at the first step
END
}

# builds the copy with the object files of a variant; 1 and $dir/err where that fails
build_variant() { # VARIANT FILES...
    objects=build${1:+/$1}/emu/cuda
    flags=$plain
    [ -z "$1" ] || flags="$plain -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
    shift
    rm -rf "$dir/o"
    mkdir -p "$dir/o"
    objects=$(ls "$objects"/*.o "$objects"/emu/*.o)
    for f in "$@"; do
        case $f in *.cu) ;; *) continue ;; esac
        # shellcheck disable=SC2086 # word splitting is meant
        ${CXX:-c++} $flags -I"$dir/kernels" -I"$dir/kernels/cuda" -x c++ -c "$dir/kernels/cuda/$f" -o "$dir/o/${f%.cu}.o" 2> "$dir/err" || return 1
        objects=$(echo "$objects" | grep -v "/cuda/${f%.cu}\.o")
    done
    # shellcheck disable=SC2086
    ${CXX:-c++} -shared $flags -o "$dir/mocl_cuda.so" $objects "$dir"/o/*.o 2>> "$dir/err"
}

# runs the parts of the tests; prints the first test that fails
run() { # PROGRAM PART...
    program=$1
    shift
    for part in "$@"; do
        for order in forward reverse; do
            MOCL_CUDA=$dir/mocl_cuda.so MOCL_EMU_ORDER=$order timeout 300 "$program" tests/run.lua --device cuda:0 -k "$part" \
                < /dev/null > "$dir/log" 2>&1
            status=$?
            [ $status = 0 ] && continue
            first=$(sed -n 's/^FAIL //p' "$dir/log" | head -n 1)
            why=$(grep -m 1 -oE 'ERROR: AddressSanitizer: [a-z-]*|runtime error: .*' "$dir/log")
            echo "${first:-the end of the process (status $status) $why} ($order)"
            return
        done
    done
}

build() { # FILES...
    build_variant "" "$@"
}

caught() { # FILES...
    by=$(run ./mocl test_o test_cuda test_generate test_spec)
    if [ -z "$by" ]; then
        build_variant asan "$@" && by=$(run build/asan/mocl test_ops.lua)
        by=${by:+$by (asan)}
    fi
    echo "$by"
}

table | mutate cuda
