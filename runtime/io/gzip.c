/* gzip.c - the bytes of a file, unpacked where they are gzip'd */
#include "io/gzip.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "io/file_hash.h"

enum { PIECE = 1 << 16 };
enum { GZIP_WRAPPER = 16 }; /* added to the window's bits, it makes zlib check header, length and CRC of one member */

struct mocl_gzip {
    mocl_ctx *ctx;
    int fd;
    enum { START, PLAIN, MEMBER, BETWEEN, END } state;
    mocl_gzip_result failed; /* told when the bytes in front of it have been handed out */
    int failed_errno;
    bool file_ended, unpacks; /* unpacks: z is open */
    z_stream z;               /* next_in, avail_in: what is left of `piece`, for plain files too */
    uint64_t from_file;       /* bytes read */
    mocl_passing hash;        /* of the file, packed as it is */
    unsigned char piece[PIECE];
};

static voidpf allocate(voidpf ctx, uInt items, uInt size) { return mocl_calloc(ctx, items, size); }
static void release(voidpf ctx, voidpf p) {
    (void)ctx;
    mocl_free(p);
}

mocl_gzip *mocl_gzip_new(mocl_ctx *ctx, int fd) {
    mocl_gzip *g = mocl_calloc(ctx, 1, sizeof *g);
    if (!g) {
        close(fd);
        return NULL;
    }
    g->ctx = ctx;
    g->fd = fd;
    g->z.zalloc = allocate;
    g->z.zfree = release;
    g->z.opaque = ctx;
    g->z.next_in = g->piece;
    struct stat info;
    if (!fstat(fd, &info)) mocl_passing_begin(&g->hash, ctx, &info);
    return g;
}

void mocl_gzip_close(mocl_gzip *g) {
    if (!g) return;
    if (g->unpacks) inflateEnd(&g->z);
    close(g->fd);
    mocl_free(g);
}

uint64_t mocl_gzip_offset(const mocl_gzip *g) { return g->from_file - g->z.avail_in; }

/* Reads on until `wanted` bytes (1 or 2) are there or the file has ended; false where it cannot be read. */
static bool fill(mocl_gzip *g, unsigned wanted) {
    while (g->z.avail_in < wanted && !g->file_ended) {
        memmove(g->piece, g->z.next_in, g->z.avail_in);
        g->z.next_in = g->piece;
        ssize_t got = read(g->fd, g->piece + g->z.avail_in, PIECE - g->z.avail_in);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            g->failed = MOCL_GZIP_IO;
            g->failed_errno = errno;
            return false;
        }
        mocl_passing_add(&g->hash, g->piece + g->z.avail_in, (size_t)got);
        g->file_ended = got == 0;
        struct stat info;
        if (g->file_ended && !fstat(g->fd, &info)) mocl_passing_read(&g->hash, g->ctx, &info);
        g->z.avail_in += (unsigned)got;
        g->from_file += (uint64_t)got;
    }
    return true;
}

static bool is_gzip(const mocl_gzip *g) {
    return g->z.avail_in >= 2 && g->z.next_in[0] == 0x1F && g->z.next_in[1] == 0x8B;
}

static void start(mocl_gzip *g) {
    if (!fill(g, 2)) return;
    g->state = is_gzip(g) ? MEMBER : PLAIN;
    if (g->z.avail_in == 1 && *g->z.next_in == 0x1F) g->failed = MOCL_GZIP_CUT;
    if (g->state == PLAIN) return;
    g->unpacks = inflateInit2(&g->z, MAX_WBITS + GZIP_WRAPPER) == Z_OK;
    if (!g->unpacks) g->failed = MOCL_GZIP_NOMEM;
}

static void copy(mocl_gzip *g) {
    if (!fill(g, 1)) return;
    unsigned n = g->z.avail_in < g->z.avail_out ? g->z.avail_in : g->z.avail_out;
    if (n == 0) g->state = END;
    else memcpy(g->z.next_out, g->z.next_in, n);
    g->z.next_in += n;
    g->z.avail_in -= n;
    g->z.next_out += n;
    g->z.avail_out -= n;
}

static void unpack(mocl_gzip *g) {
    if (!fill(g, 1)) return;
    switch (inflate(&g->z, Z_NO_FLUSH)) {
        case Z_STREAM_END: g->state = BETWEEN; break;
        case Z_OK: break;
        case Z_BUF_ERROR: /* no progress: there is always room for more, and no more input */
            if (g->file_ended) g->failed = MOCL_GZIP_CUT;
            break;
        case Z_MEM_ERROR: g->failed = MOCL_GZIP_NOMEM; break;
        default: g->failed = MOCL_GZIP_DAMAGED;
    }
}

/* behind a member: zeros, then the end or another one */
static void between(mocl_gzip *g) {
    do {
        if (!fill(g, 1)) return;
        while (g->z.avail_in && *g->z.next_in == 0) {
            g->z.next_in++;
            g->z.avail_in--;
        }
    } while (!g->z.avail_in && !g->file_ended);
    if (!fill(g, 2)) return;
    if (!g->z.avail_in) g->state = END;
    else if (g->z.avail_in == 1 && *g->z.next_in == 0x1F) g->failed = MOCL_GZIP_CUT;
    else if (!is_gzip(g)) g->failed = MOCL_GZIP_BEHIND;
    else if (inflateReset(&g->z) == Z_OK) g->state = MEMBER;
    else g->failed = MOCL_GZIP_DAMAGED;
}

mocl_gzip_result mocl_gzip_read(mocl_gzip *g, char *to, size_t room, size_t *n) {
    unsigned most = room < PIECE ? (unsigned)room : PIECE;
    g->z.next_out = (unsigned char *)to;
    g->z.avail_out = most;
    while (g->z.avail_out && g->state != END && !g->failed) {
        switch (g->state) {
            case START: start(g); break;
            case PLAIN: copy(g); break;
            case MEMBER: unpack(g); break;
            case BETWEEN: between(g); break;
            case END: break;
        }
    }
    *n = most - g->z.avail_out;
    if (*n || !g->failed) return MOCL_GZIP_OK;
    errno = g->failed_errno;
    return g->failed;
}
