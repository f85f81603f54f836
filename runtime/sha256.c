/* sha256.c - the SHA-256 hash of FIPS 180-4 */
#define _GNU_SOURCE
#include "sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "file.h" /* mocl_file_fail */

/* section 4.2.2: from the fractional parts of the cube roots of the first 64 primes */
static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

/* section 6.2.2 */
static void add_block(uint32_t state[8], const unsigned char *p) {
    uint32_t w[64];
    for (int t = 0; t < 16; t++, p += 4) {
        w[t] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }
    for (int t = 16; t < 64; t++) {
        uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = s1 + w[t - 7] + s0 + w[t - 16];
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 64; t++) {
        uint32_t s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
        uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + K[t] + w[t];
        uint32_t s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
        uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

void mocl_sha256_begin(mocl_sha256 *h) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(h->state, start, sizeof start);
    h->bytes = 0;
}

void mocl_sha256_add(mocl_sha256 *h, const void *data, size_t n) {
    const unsigned char *p = data;
    size_t waiting = h->bytes % 64;
    h->bytes += n;
    if (waiting && waiting + n >= 64) {
        memcpy(h->block + waiting, p, 64 - waiting);
        add_block(h->state, h->block);
        p += 64 - waiting;
        n -= 64 - waiting;
        waiting = 0;
    }
    if (!waiting) {
        for (; n >= 64; p += 64, n -= 64) add_block(h->state, p);
    }
    if (n) memcpy(h->block + waiting, p, n);
}

void mocl_sha256_end(mocl_sha256 *h, char hex[MOCL_SHA256_HEX]) {
    static const char digits[] = "0123456789abcdef";
    unsigned char tail[72] = {0x80}; /* the padding: 1 bit, zeros, the length in bits */
    uint64_t bits = h->bytes * 8;
    size_t zeros = (119 - h->bytes % 64) % 64;
    for (int i = 0; i < 8; i++) tail[1 + zeros + i] = (unsigned char)(bits >> (56 - 8 * i));
    mocl_sha256_add(h, tail, 1 + zeros + 8);
    for (int i = 0; i < 64; i++) hex[i] = digits[h->state[i / 8] >> (28 - 4 * (i % 8)) & 15];
    hex[64] = '\0';
}

mocl_status mocl_sha256_file(mocl_ctx *ctx, const char *path, char hex[MOCL_SHA256_HEX]) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mocl_file_fail(ctx, path);
    mocl_status st = MOCL_OK;
    mocl_sha256 h;
    mocl_sha256_begin(&h);
    for (;;) {
        char piece[1 << 15];
        ssize_t got = read(fd, piece, sizeof piece);
        if (got == 0) break;
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            st = mocl_file_fail(ctx, path);
            break;
        }
        mocl_sha256_add(&h, piece, (size_t)got);
    }
    close(fd);
    if (!st) mocl_sha256_end(&h, hex);
    return st;
}
