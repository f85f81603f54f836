/* rng.h - a counter-based stream of random numbers for host code: draw = f(key, position).
**
** A stream is two integers and owns nothing: copy it to fork it, set `position` to seek. Each draw
** uses whole Philox blocks, at least one, with counter {position, 0, 1}; the last word keeps host
** streams apart from the tensor kernels, which use 0 there, under the same key.
*/
#ifndef MOCL_RNG_H
#define MOCL_RNG_H

#include <stddef.h>
#include <stdint.h>

typedef struct mocl_rng {
    uint64_t key;      /* of (seed, purpose) */
    uint64_t position; /* the block that the next draw uses */
} mocl_rng;

/* The key of (seed, purpose); purpose is any text, hashed by FNV-1a. */
uint64_t mocl_rng_key(uint64_t seed, const char *purpose, size_t purpose_bytes);
mocl_rng mocl_rng_make(uint64_t seed, const char *purpose, size_t purpose_bytes);

double mocl_rng_uniform(mocl_rng *r); /* in [0, 1), a multiple of 2^-53; one block */
double mocl_rng_normal(mocl_rng *r);  /* Box-Muller, the cosine half; one block */
/* Uniform in 0 .. n-1, unbiased: one block, with a chance of n * 2^-64 squared of another one.
** n 0 stands for 2^64. */
uint64_t mocl_rng_below(mocl_rng *r, uint64_t n);
/* Logarithm of a gamma(alpha, 1) variate, alpha > 0; finite also where the variate underflows.
** Marsaglia and Tsang 2000. */
double mocl_rng_log_gamma(mocl_rng *r, double alpha);

#endif
