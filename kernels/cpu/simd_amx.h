/* simd_amx.h - the loop over tiles; included with what the macros say: once the processor's tile unit, once one written in C.
**
** TILES_OPEN(config)  TILES_CLOSE()  TILE_LOAD(t, from, stride)  TILE_STORE(t, to, stride)  TILE_DOT(c, a, b)
** SWEEP: the name of the function
**
** Tiles 0 and 1 are sums of up to 16 rows, 2 and 3 those of the next; 4 and 5 hold A, 6 and 7 B.
*/

/* sums of rows `first` and `second` (up to 16 each; second 0: none) */
#define ROW_BLOCK(both)                                                                  \
    do {                                                                                 \
        TILE_LOAD(0, c, MK_BF16_COLUMNS * 4);                                            \
        TILE_LOAD(1, c + 16, MK_BF16_COLUMNS * 4);                                       \
        if (both) TILE_LOAD(2, c + 16 * MK_BF16_COLUMNS, MK_BF16_COLUMNS * 4);           \
        if (both) TILE_LOAD(3, c + 16 * MK_BF16_COLUMNS + 16, MK_BF16_COLUMNS * 4);      \
        for (int64_t p = 0; p < blocks; p++) {                                           \
            const uint32_t *bp = b + p * 16 * MK_BF16_COLUMNS;                           \
            TILE_LOAD(4, a + p * MK_BF16_BLOCK, MK_BF16_LDA * 2);                        \
            TILE_LOAD(6, bp, MK_BF16_COLUMNS * 4);                                       \
            TILE_DOT(0, 4, 6);                                                           \
            TILE_LOAD(7, bp + 16, MK_BF16_COLUMNS * 4);                                  \
            TILE_DOT(1, 4, 7);                                                           \
            if (both) TILE_LOAD(5, a + 16 * MK_BF16_LDA + p * MK_BF16_BLOCK, MK_BF16_LDA * 2); \
            if (both) TILE_DOT(2, 5, 6);                                                 \
            if (both) TILE_DOT(3, 5, 7);                                                 \
        }                                                                                \
        TILE_STORE(0, c, MK_BF16_COLUMNS * 4);                                           \
        TILE_STORE(1, c + 16, MK_BF16_COLUMNS * 4);                                      \
        if (both) TILE_STORE(2, c + 16 * MK_BF16_COLUMNS, MK_BF16_COLUMNS * 4);          \
        if (both) TILE_STORE(3, c + 16 * MK_BF16_COLUMNS + 16, MK_BF16_COLUMNS * 4);     \
    } while (0)

static void SWEEP(int64_t m, int64_t blocks, const void *packed, const uint32_t *b, float *c) {
    const mk_bf16 *a = packed;
    struct tile_config config;
    int64_t whole = m / 32, rest = m % 32;
    if (whole) {
        TILES_OPEN(tiles_of(&config, 16, 16));
        for (int64_t i = 0; i < whole; i++, a += 32 * MK_BF16_LDA, c += 32 * MK_BF16_COLUMNS) ROW_BLOCK(1);
    }
    if (rest > 16) {
        TILES_OPEN(tiles_of(&config, 16, (int)rest - 16));
        ROW_BLOCK(1);
    } else if (rest) {
        TILES_OPEN(tiles_of(&config, (int)rest, 0));
        ROW_BLOCK(0);
    }
    TILES_CLOSE();
}

#undef ROW_BLOCK
#undef TILES_OPEN
#undef TILES_CLOSE
#undef TILE_LOAD
#undef TILE_STORE
#undef TILE_DOT
#undef SWEEP
