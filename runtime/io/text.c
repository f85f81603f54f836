/* text.c - text files, plain or gzip'd, read in pieces or line by line; UTF-8 checks */
#define _GNU_SOURCE
#include "io/text.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h" /* mocl_file_fail, mocl_path_tail */
#include "io/gzip.h"

enum { PIECE = 1 << 16 };

/* ---- pieces ---- */

struct mocl_stream {
    mocl_ctx *ctx;
    mocl_gzip *file; /* owned */
    char *path;
    bool started; /* past the place where a byte order mark may be */
    char piece[PIECE];
};

mocl_status mocl_stream_open(mocl_ctx *ctx, mocl_stream **out, const char *path) {
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mocl_file_fail(ctx, path);
    struct stat info;
    bool known = fstat(fd, &info) == 0;
    if (known && S_ISDIR(info.st_mode)) {
        known = false;
        errno = EISDIR;
    }
    if (!known) {
        mocl_status st = mocl_file_fail(ctx, path);
        close(fd);
        return st;
    }
    mocl_stream *t = mocl_calloc(ctx, 1, sizeof *t);
    char *copy = t ? mocl_strdup(ctx, path) : NULL;
    mocl_gzip *file = mocl_gzip_new(ctx, fd);
    if (!copy || !file) {
        mocl_gzip_close(file);
        mocl_free(copy);
        mocl_free(t);
        return mocl_nomem(ctx, sizeof *t);
    }
    t->ctx = ctx;
    t->file = file;
    t->path = copy;
    *out = t;
    return MOCL_OK;
}

void mocl_stream_close(mocl_stream *t) {
    if (!t) return;
    mocl_gzip_close(t->file);
    mocl_free(t->path);
    mocl_free(t);
}

const char *mocl_stream_path(const mocl_stream *t) { return t->path; }

mocl_status mocl_stream_fail(mocl_stream *t, size_t line, const char *reason) {
    return mocl_fail(t->ctx, MOCL_E_FORMAT, "%s:%zu: %s", mocl_path_tail(t->path), line, reason);
}

static mocl_status fail_read(mocl_stream *t, size_t line, mocl_gzip_result result) {
    switch (result) {
        case MOCL_GZIP_OK: return MOCL_OK;
        case MOCL_GZIP_IO: return mocl_fail(t->ctx, MOCL_E_IO, "%s:%zu: %m", mocl_path_tail(t->path), line);
        case MOCL_GZIP_NOMEM: return mocl_nomem(t->ctx, PIECE);
        case MOCL_GZIP_DAMAGED: return mocl_stream_fail(t, line, "gzip data is damaged");
        case MOCL_GZIP_CUT: return mocl_stream_fail(t, line, "gzip data ends too early: the file is cut");
        case MOCL_GZIP_BEHIND: break;
    }
    return mocl_fail(t->ctx, MOCL_E_FORMAT, "%s:%zu: byte %llu of the file, behind gzip data, is neither gzip nor padding: something "
                     "was added to the file, or it is damaged", mocl_path_tail(t->path), line,
                     (unsigned long long)mocl_gzip_offset(t->file) + 1);
}

mocl_status mocl_stream_next(mocl_stream *t, size_t line, const char **piece, size_t *n) {
    *piece = t->piece;
    *n = 0;
    MOCL_TRY(fail_read(t, line, mocl_gzip_read(t->file, t->piece, PIECE, n)));
    if (!t->started) {
        t->started = true;
        const char *wide = mocl_text_wide(t->piece, *n);
        if (wide) return mocl_stream_fail(t, line, wide);
        size_t mark = mocl_utf8_mark(t->piece, *n);
        *piece += mark;
        *n -= mark;
        if (mark && *n == 0) return mocl_stream_next(t, line, piece, n); /* nothing but the mark */
    }
    return MOCL_OK;
}

/* ---- lines ---- */

struct mocl_lines {
    mocl_stream *stream;
    const char *piece; /* what is left of the current piece */
    size_t left;
    size_t number;     /* of lines handed out */
    char *line;        /* a line that spans pieces is put together here */
    size_t used, room;
};

mocl_status mocl_lines_open(mocl_ctx *ctx, mocl_lines **out, const char *path) {
    *out = NULL;
    mocl_stream *stream;
    MOCL_TRY(mocl_stream_open(ctx, &stream, path));
    mocl_lines *l = mocl_calloc(ctx, 1, sizeof *l);
    if (!l) {
        mocl_stream_close(stream);
        return mocl_nomem(ctx, sizeof *l);
    }
    l->stream = stream;
    *out = l;
    return MOCL_OK;
}

void mocl_lines_close(mocl_lines *l) {
    if (!l) return;
    mocl_stream_close(l->stream);
    mocl_free(l->line);
    mocl_free(l);
}

static mocl_status keep_part(mocl_lines *l, const char *p, size_t n) {
    if (l->used + n > l->room) {
        size_t room = l->used + n > SIZE_MAX / 2 ? SIZE_MAX : 2 * (l->used + n);
        char *line = mocl_realloc(l->stream->ctx, l->line, room);
        if (!line) return mocl_nomem(l->stream->ctx, room);
        l->line = line;
        l->room = room;
    }
    if (n) memcpy(l->line + l->used, p, n);
    l->used += n;
    return MOCL_OK;
}

static mocl_status give_line(mocl_lines *l, const char *p, size_t size, const char **line,
                             size_t *n, size_t *number) {
    *line = p;
    *n = size > 0 && p[size - 1] == '\r' ? size - 1 : size;
    *number = ++l->number;
    return MOCL_OK;
}

mocl_status mocl_lines_next(mocl_lines *l, const char **line, size_t *n, size_t *number) {
    l->used = 0;
    *line = NULL;
    *n = 0;
    for (;;) {
        if (l->left == 0) {
            MOCL_TRY(mocl_stream_next(l->stream, l->number + 1, &l->piece, &l->left));
            if (l->left == 0) { /* the end; without "\n" the last line is still kept */
                return l->used ? give_line(l, l->line, l->used, line, n, number) : MOCL_OK;
            }
        }
        const char *start = l->piece, *end = memchr(start, '\n', l->left);
        size_t size = end ? (size_t)(end - start) : l->left;
        l->piece += size + (end != NULL);
        l->left -= size + (end != NULL);
        if (end && l->used == 0) return give_line(l, start, size, line, n, number);
        MOCL_TRY(keep_part(l, start, size));
        if (end) return give_line(l, l->line, l->used, line, n, number);
    }
}

/* ---- encodings ---- */

size_t mocl_utf8_mark(const char *p, size_t n) { return n >= 3 && memcmp(p, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0; }

/* Are the first 4 characters ASCII in units of `size` bytes, with the byte that is not zero at place `at` of each? */
static bool ascii_units(const char *p, size_t n, size_t size, size_t at) {
    if (n < 4 * size) return false;
    for (size_t i = 0; i < 4 * size; i++) {
        unsigned char byte = (unsigned char)p[i];
        if (i % size == at ? byte == 0 || byte > 0x7F : byte != 0) return false;
    }
    return true;
}

const char *mocl_text_wide(const char *p, size_t n) {
    /* UTF-32 first: its little-endian mark begins with that of UTF-16 */
    if (n >= 4 && (memcmp(p, "\xFF\xFE\0", 4) == 0 || memcmp(p, "\0\0\xFE\xFF", 4) == 0)) {
        return "the text is UTF-32, as its byte order mark says; convert it: iconv -f UTF-32 -t UTF-8";
    }
    if (n >= 2 && (memcmp(p, "\xFF\xFE", 2) == 0 || memcmp(p, "\xFE\xFF", 2) == 0)) {
        return "the text is UTF-16, as its byte order mark says; convert it: iconv -f UTF-16 -t UTF-8";
    }
    if (ascii_units(p, n, 4, 0)) return "the text is UTF-32 without a mark; convert it: iconv -f UTF-32LE -t UTF-8";
    if (ascii_units(p, n, 4, 3)) return "the text is UTF-32 without a mark; convert it: iconv -f UTF-32BE -t UTF-8";
    if (ascii_units(p, n, 2, 0)) return "the text is UTF-16 without a mark; convert it: iconv -f UTF-16LE -t UTF-8";
    if (ascii_units(p, n, 2, 1)) return "the text is UTF-16 without a mark; convert it: iconv -f UTF-16BE -t UTF-8";
    return NULL;
}

/* ---- UTF-8 ---- */

/* The table of well-formed sequences of the Unicode standard (3-7): only the second byte has a
** range that depends on the first. */
size_t mocl_utf8_step(const char *p, size_t n, bool *valid) {
    const unsigned char *s = (const unsigned char *)p;
    unsigned char low = 0x80, high = 0xBF;
    size_t length;
    *valid = true;
    if (s[0] < 0x80) return 1;
    if (s[0] >= 0xC2 && s[0] <= 0xDF) {
        length = 2;
    } else if (s[0] >= 0xE0 && s[0] <= 0xEF) {
        length = 3;
        if (s[0] == 0xE0) low = 0xA0;  /* below: overlong */
        if (s[0] == 0xED) high = 0x9F; /* above: surrogates */
    } else if (s[0] >= 0xF0 && s[0] <= 0xF4) {
        length = 4;
        if (s[0] == 0xF0) low = 0x90;  /* below: overlong */
        if (s[0] == 0xF4) high = 0x8F; /* above: over U+10FFFF */
    } else {
        *valid = false;
        return 1;
    }
    for (size_t i = 1; i < length; i++) {
        if (i >= n || s[i] < low || s[i] > high) {
            *valid = false;
            return i;
        }
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

size_t mocl_utf8_check(const char *p, size_t n) {
    size_t i = 0;
    while (i < n) {
        bool valid;
        size_t step = mocl_utf8_step(p + i, n - i, &valid);
        if (!valid) return i;
        i += step;
    }
    return n;
}
