/* rng.c - counter-based streams of random numbers on Philox4x32-10 */
#include "rng.h"

#include <math.h>

#include "philox.h"

static const double two_pi = 6.283185307179586477;

uint64_t mocl_rng_key(uint64_t seed, const char *purpose, size_t purpose_bytes) {
    uint64_t hash = 0xCBF29CE484222325u; /* FNV-1a, 64 bit */
    for (size_t i = 0; i < purpose_bytes; i++) {
        hash = (hash ^ (unsigned char)purpose[i]) * 0x100000001B3u;
    }
    return mk_key(seed, hash);
}

mocl_rng mocl_rng_make(uint64_t seed, const char *purpose, size_t purpose_bytes) {
    mocl_rng r = {mocl_rng_key(seed, purpose, purpose_bytes), 0};
    return r;
}

/* the next block as two 64-bit words */
static void next(mocl_rng *r, uint64_t word[2]) {
    uint64_t p = r->position++;
    mk_philox4 b = mk_philox((uint32_t)p, (uint32_t)(p >> 32), 0, 1, r->key);
    word[0] = (uint64_t)b.w[1] << 32 | b.w[0];
    word[1] = (uint64_t)b.w[3] << 32 | b.w[2];
}

/* in [0, 1), 53 bits */
static double unit(uint64_t word) { return (double)(word >> 11) * 0x1p-53; }

double mocl_rng_uniform(mocl_rng *r) {
    uint64_t word[2];
    next(r, word);
    return unit(word[0]);
}

double mocl_rng_normal(mocl_rng *r) {
    uint64_t word[2];
    next(r, word);
    return sqrt(-2.0 * log(1.0 - unit(word[0]))) * cos(two_pi * unit(word[1]));
}

uint64_t mocl_rng_below(mocl_rng *r, uint64_t n) {
    uint64_t reject =
        n ? -n % n : 0; /* 2^64 mod n: that many low products would be over-represented */
    for (;;) {
        uint64_t word[2];
        next(r, word);
        if (!n) return word[0];
        for (int i = 0; i < 2; i++) { /* Lemire 2019: the high half of word * n */
            unsigned __int128 product = (unsigned __int128)word[i] * n;
            if ((uint64_t)product >= reject) return (uint64_t)(product >> 64);
        }
    }
}

double mocl_rng_log_gamma(mocl_rng *r, double alpha) {
    double shift = 0;
    if (alpha < 1) { /* gamma(alpha) = gamma(alpha + 1) * U^(1/alpha) */
        shift = log(1.0 - mocl_rng_uniform(r)) / alpha;
        alpha += 1;
    }
    double d = alpha - 1.0 / 3.0, c = 1.0 / sqrt(9.0 * d);
    for (;;) {
        double x = mocl_rng_normal(r);
        double u = 1.0 - mocl_rng_uniform(r); /* in (0, 1] */
        double v = 1.0 + c * x;
        if (v <= 0) continue;
        v = v * v * v;
        if (log(u) < 0.5 * x * x + d - d * v + d * log(v)) return shift + log(d * v);
    }
}
