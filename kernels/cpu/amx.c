/* amx.c - products of bf16 by a tile unit: that of the processor (Intel AMX), and one in C that tests the loop around it elsewhere.
**
** The system gives AMX to a process that asks for it (Linux: arch_prctl), not where a thread has a signal stack that does not hold the
** tiles; then there is none here. A sweep opens and closes the tiles, so that nothing of them is live outside, neither for a thread
** switch to save nor for a signal.
*/
#define _DEFAULT_SOURCE /* syscall */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "bf16.h"

/* what LDTILECFG reads */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16]; /* of a row */
    uint8_t rows[16];
};

/* tiles 0, 1 and 4 of `first` rows, 2, 3 and 5 of `second`, 6 and 7 of 16; all rows have 64 bytes. A tile of no rows is none. */
static const struct tile_config *tiles_of(struct tile_config *c, int first, int second) {
    const int rows[8] = {first, first, second, second, first, second, 16, 16};
    memset(c, 0, sizeof *c);
    c->palette = 1;
    for (int t = 0; t < 8; t++) {
        c->rows[t] = (uint8_t)rows[t];
        c->bytes[t] = rows[t] ? 64 : 0;
    }
    return c;
}

/* ---- the unit in C ------------------------------------------------------------------------------- */

struct tile_unit {
    struct tile_config config;
    int faulted;
    unsigned char tile[8][16][64];
};

/* Where these do not hold the processor faults; here all that is stored from then on is NaN. */
static void expect(struct tile_unit *u, int holds) {
    if (!holds) u->faulted = 1;
}

static void unit_load(struct tile_unit *u, int t, const void *from, int64_t stride) {
    expect(u, u->config.palette == 1 && u->config.rows[t] > 0);
    memset(u->tile[t], 0, sizeof u->tile[t]);
    for (int r = 0; r < u->config.rows[t]; r++) memcpy(u->tile[t][r], (const char *)from + r * stride, u->config.bytes[t]);
}

static void unit_store(struct tile_unit *u, int t, void *to, int64_t stride) {
    expect(u, u->config.palette == 1 && u->config.rows[t] > 0);
    if (u->faulted) memset(u->tile[t], 0xff, sizeof u->tile[t]);
    for (int r = 0; r < u->config.rows[t]; r++) memcpy((char *)to + r * stride, u->tile[t][r], u->config.bytes[t]);
}

/* one instruction: the arithmetic is the plain path's, a row of A and 16 pairs of columns at a time */
static void unit_dot(struct tile_unit *u, int c, int a, int b) {
    const struct tile_config *g = &u->config;
    float row[MK_BF16_LDA], sums[MK_BF16_COLUMNS];
    uint32_t pairs[16 * MK_BF16_COLUMNS] = {0};
    expect(u, g->rows[c] == g->rows[a] && g->rows[b] == g->bytes[a] / 4 && g->bytes[c] == g->bytes[b]);
    for (int k = 0; k < 16; k++) memcpy(pairs + k * MK_BF16_COLUMNS, u->tile[b][k], 64);
    for (int i = 0; i < g->rows[c]; i++) {
        for (int k = 0; k < MK_BF16_BLOCK; k++) {
            mk_bf16 h;
            memcpy(&h, u->tile[a][i] + 2 * k, sizeof h);
            uint32_t bits = (uint32_t)h << 16;
            memcpy(&row[k], &bits, sizeof bits);
        }
        memset(sums, 0, sizeof sums);
        memcpy(sums, u->tile[c][i], 64);
        mk_bf16_plain.sweep(1, 1, row, pairs, sums);
        memcpy(u->tile[c][i], sums, 64);
    }
}

#define SWEEP emulated_sweep
#define TILES_OPEN(tiles) struct tile_unit unit = {.config = *(tiles)}
#define TILES_CLOSE() (void)0
#define TILE_LOAD(t, from, stride) unit_load(&unit, t, from, stride)
#define TILE_STORE(t, to, stride) unit_store(&unit, t, to, stride)
#define TILE_DOT(c, a, b) unit_dot(&unit, c, a, b)
#include "simd_amx.h"

const mk_bf16_path mk_bf16_emulated = {"AMX tiles in C (MOCL_ISA=amx_emulated)", 0, 32, 10, emulated_sweep};

/* ---- the processor's ----------------------------------------------------------------------------- */

#ifdef MK_AMX
#include <cpuid.h>
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16")
#include <immintrin.h>

#define SWEEP amx_sweep
/* the intrinsic tells the compiler of 8 of the 64 bytes alone */
#define TILES_OPEN(tiles) __asm__ volatile("ldtilecfg %0" ::"m"(*(tiles)) : "memory")
#define TILES_CLOSE() _tile_release()
#define TILE_LOAD(t, from, stride) _tile_loadd(t, from, stride)
#define TILE_STORE(t, to, stride) _tile_stored(t, to, stride)
#define TILE_DOT(c, a, b) _tile_dpbf16ps(c, a, b)
#include "simd_amx.h"
#pragma GCC pop_options

const mk_bf16_path mk_bf16_amx = {"AMX tiles", 0, 32, 0.004, amx_sweep};

#if defined(__linux__) && defined(SYS_arch_prctl)
#define REQUEST_PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18

static const char *refusal;

static void open_amx(void) {
    static char text[200];
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) {
        refusal = "this processor has none";
    } else if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) != 0) {
        int error = errno;
        refusal = error == ENOSPC ? "the system refuses it, since a thread's signal stack (sigaltstack) is too small for the tiles" : text;
        snprintf(text, sizeof text, "the system refuses it (arch_prctl: %s)", strerror(error));
    }
}

const char *mk_amx_open(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_amx);
    return refusal;
}
#else
const char *mk_amx_open(void) { return "this system is not Linux"; }
#endif
#else
const char *mk_amx_open(void) { return "this build has none"; }
#endif
