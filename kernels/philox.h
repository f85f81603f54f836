/* philox.h - Philox4x32-10 (Salmon et al. 2011), a counter-based generator: word = f(key, counter).
** The same source serves host and device code.
*/
#ifndef MK_PHILOX_H
#define MK_PHILOX_H

#include <stdint.h>

#include "host_device.h"

typedef struct mk_philox4 {
    uint32_t w[4];
} mk_philox4;

static inline MK_HD mk_philox4 mk_philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3,
                                         uint64_t key) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    mk_philox4 out;
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out.w[0] = c0;
    out.w[1] = c1;
    out.w[2] = c2;
    out.w[3] = c3;
    return out;
}

/* in [0, 1), 24 bits: exact in float */
static inline MK_HD double mk_unit(uint32_t word) { return (double)(word >> 8) * (1.0 / 16777216.0); }

/* Mixes a seed and a purpose into a key, so that streams of different purposes are unrelated
** (splitmix64's finaliser) */
static inline MK_HD uint64_t mk_key(uint64_t seed, uint64_t purpose) {
    uint64_t x = seed + 0x9E3779B97F4A7C15u * (purpose + 1);
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

#endif
