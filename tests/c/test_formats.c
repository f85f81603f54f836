/* test_formats.c - files as other programs write them: gzip members one after the other, headers of safetensors.
**
** Prints "N passed, N failed, N skipped"; exit status 1 if any failed.
*/
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "base.h"
#include "io/dir.h"
#include "io/safetensors.h"
#include "io/text.h"

static mocl_ctx *ctx;
static char tmp[64] = "/tmp/mocl-formats-XXXXXX", path[128];
static int passed, failed;

#define CHECK(condition)                                                                               \
    do {                                                                                               \
        if (condition) {                                                                               \
            passed++;                                                                                  \
        } else {                                                                                       \
            failed++;                                                                                  \
            printf("FAIL %s:%d: %s (message '%s')\n", __FILE__, __LINE__, #condition, ctx->message);   \
        }                                                                                              \
    } while (0)

static bool says(const char *text) { return strstr(ctx->message, text) != NULL; }

static void put(const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f)) {
        printf("FAIL cannot write %s\n", path);
        exit(1);
    }
}

/* ---- gzip ---- */

/* a member of n bytes of text at `to`; its size */
static size_t member(char *to, size_t room, const char *text, size_t n) {
    z_stream z = {.next_in = (unsigned char *)(uintptr_t)text, .avail_in = (unsigned)n, .next_out = (unsigned char *)to,
                  .avail_out = (unsigned)room};
    if (deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) || deflate(&z, Z_FINISH) != Z_STREAM_END) exit(1);
    size_t size = room - z.avail_out;
    deflateEnd(&z);
    return size;
}

/* The text of the file into `to`, and what the reading of it ended with. */
static mocl_status read_all(char *to, size_t *n) {
    mocl_stream *t;
    const char *piece;
    size_t got;
    *n = 0;
    mocl_clear(ctx);
    mocl_status st = mocl_stream_open(ctx, &t, path);
    while (!st) {
        st = mocl_stream_next(t, 7, &piece, &got);
        if (st || got == 0) break;
        memcpy(to + *n, piece, got);
        *n += got;
    }
    mocl_stream_close(t);
    return st;
}

static void test_members(void) {
    static const char one[] = "a first text\n", two[] = "and a second one, which is longer\n";
    enum { ONE = sizeof one - 1, TWO = sizeof two - 1 };
    char file[4096], text[256];
    size_t n, first = member(file, 1000, one, ONE), size = first + member(file + first, 1000, two, TWO);
    int whole = 0, cut = 0;
    /* cut at every byte: whole at the ends of the members, and told everywhere else */
    for (size_t at = 0; at <= size; at++) {
        put(file, at);
        mocl_status st = read_all(text, &n);
        size_t want = at == size ? ONE + TWO : at == first ? ONE : 0;
        if (at == 0 || want) whole += st == MOCL_OK && n == want && !memcmp(text, one, n < ONE ? n : ONE);
        else cut += st == MOCL_E_FORMAT && says(".gz:7: gzip data ends too early: the file is cut");
        /* what can be unpacked is handed out first */
        if (at > first && n < ONE) CHECK(!"the first member is lost");
    }
    CHECK(whole == 3 && cut == (int)size - 2);
    CHECK(n == ONE + TWO && !memcmp(text + ONE, two, TWO));
    /* zeros are padding, behind the last member and between two */
    for (size_t zeros = 1; zeros < 600; zeros += 97) {
        memset(file + size, 0, zeros);
        put(file, size + zeros);
        CHECK(!read_all(text, &n) && n == ONE + TWO);
        size_t more = member(file + size + zeros, 1000, one, ONE);
        put(file, size + zeros + more);
        CHECK(!read_all(text, &n) && n == ONE + TWO + ONE);
        file[size + zeros + more] = 'x';
        put(file, size + zeros + more + 1);
        CHECK(read_all(text, &n) == MOCL_E_FORMAT && n == ONE + TWO + ONE && says("is neither gzip nor padding"));
    }
    /* anything else is told, with its place */
    for (int byte = 1; byte < 256; byte++) {
        file[size] = (char)byte;
        put(file, size + 1);
        const char *reason = byte == 0x1F ? "ends too early" : "neither gzip nor";
        CHECK(read_all(text, &n) == MOCL_E_FORMAT && n == ONE + TWO && says(reason));
    }
    static const char *const behind[] = {"\x1F\x8C", "\x1Fx", "a plain text\n", "PK\3\4", "\xEF\xBB\xBF"};
    for (size_t i = 0; i < sizeof behind / sizeof *behind; i++) {
        char place[64];
        snprintf(place, sizeof place, ".gz:7: byte %zu of the file, behind gzip data,", size + 1);
        strcpy(file + size, behind[i]);
        put(file, size + strlen(behind[i]));
        CHECK(read_all(text, &n) == MOCL_E_FORMAT && says(place));
    }
    /* a second header that is none, a checksum and a length that are wrong */
    for (size_t at = first + 2; at < size; at++) {
        if (at >= first + 4 && at < size - 8) continue; /* the time and the packed bytes, which the checksum tells */
        put(file, size);
        file[at] ^= 0x40;
        put(file, size);
        CHECK(read_all(text, &n) == MOCL_E_FORMAT && n >= ONE);
        file[at] ^= 0x40;
    }
}

/* Members whose borders lie at and around the borders of the pieces in which the file is read. */
static void test_borders(void) {
    enum { PIECE = 1 << 16, TEXT = 70000 };
    static char text[TEXT], file[4 * TEXT], got[4 * TEXT];
    uint64_t x = 88172645463325252u;
    for (size_t i = 0; i < TEXT; i++) { /* does not pack */
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        text[i] = (char)(x >> 32 | 1);
    }
    for (int64_t off = -3; off <= 3; off++) {
        size_t n, size = member(file, sizeof file, text, 30000);
        size_t pad = (size_t)(PIECE + off) - size;
        memset(file + size, 0, pad);
        size += pad;
        size += member(file + size, sizeof file - size, text, TEXT);
        put(file, size);
        CHECK(!read_all(got, &n) && n == 30000 + TEXT && !memcmp(got, text, 30000) && !memcmp(got + 30000, text, TEXT));
        put(file, PIECE + (size_t)(off + 4));
        CHECK(read_all(got, &n) == MOCL_E_FORMAT && n == 30000 && says("ends too early"));
    }
    /* a plain text is what it is, of any length around a piece */
    for (size_t n = PIECE - 1, read; n <= PIECE + 1; n++) {
        put(text, n);
        CHECK(!read_all(got, &read) && read == n && !memcmp(got, text, n));
    }
}

static void test_no_memory(void) {
    char file[1000], text[200];
    size_t n, size = member(file, sizeof file, "text\n", 5);
    put(file, size);
    int64_t before = ctx->allocations;
    CHECK(!read_all(text, &n));
    for (int64_t i = 0, all = ctx->allocations - before; i < all; i++) {
        mocl_fail_after(ctx, i);
        CHECK(read_all(text, &n) == MOCL_E_NOMEM);
        mocl_fail_after(ctx, -1);
    }
}

/* ---- safetensors ---- */

static mocl_status open_header(mocl_safetensors **s, const char *header, size_t data_bytes) {
    uint64_t n = strlen(header);
    char file[2000] = {0};
    memcpy(file, &n, 8);
    memcpy(file + 8, header, n);
    put(file, 8 + n + data_bytes);
    return mocl_safetensors_open(ctx, s, path);
}

/* what the format's own library takes: run with safetensors 0.8.0 */
static void test_headers(void) {
    mocl_safetensors *s;
    const char *one = "\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]";
    char text[400];
    static const char *const around[] = {
        " \t\r\n{\"a\":{%s}}", "{\"a\":{%s}} \n", "{\"a\":{%s},\"__metadata__\":null}", "{\"a\":{%s},\"__metadata__\": null }",
        "{\"a\":{%1$s},\"a\":{%1$s}}", "{\"a\":{%1$s}, \"__metadata__\" : null , \"\\u0061\" : {%1$s} }",
        "{\"a\":{%s,\"note\":[{\"}\":\"\\\"\"}]}}"};
    for (size_t i = 0; i < sizeof around / sizeof *around; i++) {
        snprintf(text, sizeof text, around[i], one);
        CHECK(!open_header(&s, text, 1) && s->n == 1 && s->n_metadata == 0);
        CHECK(!strcmp(s->entries[0].name, "a") && s->entries[0].name_bytes == 1 && s->entries[0].bytes == 1);
        mocl_safetensors_close(s);
    }
    /* names with zero bytes are as many names as the library has; metadata: the last of the same key */
    CHECK(!open_header(&s, "{\"__metadata__\":{\"k\":\"1\",\"z\\u0000\":\"a\\u0000b\",\"k\":\"2\"},"
                           "\"n\\u0000x\":{\"dtype\":\"F8_E5M2FNUZ\",\"shape\":[1],\"data_offsets\":[1,2]},"
                           "\"n\":{\"dtype\":\"F8_E4M3FNUZ\",\"shape\":[1],\"data_offsets\":[0,1]},"
                           "\"n\\u0000y\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}", 3));
    CHECK(s->n == 3 && s->n_metadata == 2);
    CHECK(s->entries[1].name_bytes == 3 && !memcmp(s->entries[1].name, "n\0x", 4));
    CHECK(s->entries[2].name_bytes == 3 && !memcmp(s->entries[2].name, "n\0y", 4));
    CHECK(mocl_safetensors_find(s, "n") == &s->entries[0] && !mocl_safetensors_find(s, "n\1"));
    CHECK(!strcmp(s->metadata[0].key, "k") && !strcmp(s->metadata[0].value, "2"));
    CHECK(s->metadata[1].key_bytes == 2 && s->metadata[1].value_bytes == 3 && !memcmp(s->metadata[1].value, "a\0b", 4));
    mocl_safetensors_close(s);
    /* the sizes of all dtypes */
    static const struct {
        const char *name;
        int bits;
    } dtypes[] = {{"BOOL", 8}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8}, {"I8", 8}, {"F8_E5M2", 8}, {"F8_E4M3", 8},
                  {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16}, {"U16", 16}, {"F16", 16}, {"BF16", 16},
                  {"I32", 32}, {"U32", 32}, {"F32", 32}, {"C64", 64}, {"F64", 64}, {"I64", 64}, {"U64", 64}};
    for (int i = 0; i < 22; i++)
        CHECK(mocl_safetensors_bits(dtypes[i].name) == dtypes[i].bits && mocl_safetensors_rank(dtypes[i].name) == i);
    CHECK(!mocl_safetensors_bits("F8_E4M3FN") && !mocl_safetensors_bits("C128") && !mocl_safetensors_bits("f32"));
}

/* A header that is gone through member by member, with memory failing at each allocation, and with each byte replaced: it is
** read or refused, and nothing is read outside of it (for the sanitizers). */
static void test_singly(void) {
    static const char header[] = "{\"__metadata__\":{\"k\":\"1\",\"k\":\"[2\\u0000\"},"
                                 "\"n\\u0000x\":{\"dtype\":\"U8\",\"shape\":[1,1],\"data_offsets\":[1,2]},"
                                 "\"n\" : {\"dtype\":\"I8\",\"shape\":[],\"data_offsets\":[0,1],\"more\":[{},\"]\"]} }";
    static const char values[] = "\x01\"}],0:\\n";
    char text[sizeof header];
    mocl_safetensors *s;
    int64_t before = ctx->allocations;
    CHECK(!open_header(&s, header, 2) && s->n == 2 && s->n_metadata == 1 && s->metadata[0].value_bytes == 3);
    mocl_safetensors_close(s);
    for (int64_t i = 0, all = ctx->allocations - before; i < all; i++) {
        mocl_fail_after(ctx, i);
        CHECK(open_header(&s, header, 2) == MOCL_E_NOMEM && !s);
        mocl_fail_after(ctx, -1);
    }
    int opened = 0, refused = 0, other = 0;
    for (size_t at = 0; at < sizeof header - 1; at++) {
        for (size_t v = 0; v < sizeof values - 1; v++) {
            memcpy(text, header, sizeof header);
            text[at] = values[v];
            mocl_status st = open_header(&s, text, 2);
            if (!st) opened++;
            else if (st == MOCL_E_FORMAT && !s && says("x.gz: ")) refused++;
            else other++;
            mocl_safetensors_close(s);
        }
        memcpy(text, header, sizeof header); /* and cut */
        text[at] = '\0';
        other += open_header(&s, text, 2) != MOCL_E_FORMAT;
    }
    CHECK(opened > 50 && refused > 500 && other == 0);
}

int main(void) {
    if (mocl_ctx_new(&ctx, 1) || !mkdtemp(tmp)) {
        printf("no context or no temporary directory\n");
        return 1;
    }
    snprintf(path, sizeof path, "%s/x.gz", tmp);
    test_members();
    test_borders();
    test_no_memory();
    test_headers();
    test_singly();
    CHECK(mocl_dir_remove_tree(ctx, tmp) == MOCL_OK);
    mocl_ctx_free(ctx);
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed != 0;
}
