/* csv.c - comma separated values after RFC 4180, plain or gzip'd */
#include "io/csv.h"

#include <string.h>

#include "io/text.h"

struct mocl_csv {
    mocl_ctx *ctx;
    mocl_stream *stream;
    char separator;
    const char *piece; /* what is left of the current piece */
    size_t left;
    size_t line;       /* number of the line being read, from 1 */
    char *bytes;       /* the fields of the record, one after the other */
    size_t used, room;
    size_t *ends;      /* where each field ends in bytes */
    size_t n_fields, room_fields;
};

mocl_status mocl_csv_open(mocl_ctx *ctx, mocl_csv **out, const char *path, char separator) {
    *out = NULL;
    mocl_stream *stream;
    MOCL_TRY(mocl_stream_open(ctx, &stream, path));
    mocl_csv *c = mocl_calloc(ctx, 1, sizeof *c);
    if (!c) {
        mocl_stream_close(stream);
        return mocl_nomem(ctx, sizeof *c);
    }
    c->ctx = ctx;
    c->stream = stream;
    c->separator = separator;
    c->line = 1;
    *out = c;
    return MOCL_OK;
}

void mocl_csv_close(mocl_csv *c) {
    if (!c) return;
    mocl_stream_close(c->stream);
    mocl_free(c->bytes);
    mocl_free(c->ends);
    mocl_free(c);
}

mocl_status mocl_csv_fail(mocl_csv *c, size_t line, const char *reason) {
    return mocl_stream_fail(c->stream, line, reason);
}

enum { END = -1 };

/* *byte receives the next byte or END */
static mocl_status next_byte(mocl_csv *c, int *byte) {
    if (c->left == 0) {
        MOCL_TRY(mocl_stream_next(c->stream, c->line, &c->piece, &c->left));
        if (c->left == 0) {
            *byte = END;
            return MOCL_OK;
        }
    }
    *byte = (unsigned char)*c->piece++;
    c->left--;
    if (*byte == '\n') c->line++;
    return MOCL_OK;
}

static mocl_status add_byte(mocl_csv *c, char byte) {
    if (c->used == c->room) {
        size_t room = c->room ? 2 * c->room : 256;
        char *bytes = mocl_realloc(c->ctx, c->bytes, room);
        if (!bytes) return mocl_nomem(c->ctx, room);
        c->bytes = bytes;
        c->room = room;
    }
    c->bytes[c->used++] = byte;
    return MOCL_OK;
}

static mocl_status end_field(mocl_csv *c) {
    if (c->n_fields == c->room_fields) {
        size_t room = c->room_fields ? 2 * c->room_fields : 16;
        size_t *ends = mocl_realloc(c->ctx, c->ends, room * sizeof *ends);
        if (!ends) return mocl_nomem(c->ctx, room * sizeof *ends);
        c->ends = ends;
        c->room_fields = room;
    }
    c->ends[c->n_fields++] = c->used;
    return MOCL_OK;
}

/* Reads the inside of a quoted field; *byte receives what follows the closing quote. */
static mocl_status quoted(mocl_csv *c, int *byte) {
    size_t opened = c->line;
    for (;;) {
        MOCL_TRY(next_byte(c, byte));
        if (*byte == END) return mocl_csv_fail(c, opened, "unterminated quote");
        if (*byte == '"') {
            MOCL_TRY(next_byte(c, byte));
            if (*byte != '"') return MOCL_OK;
        }
        MOCL_TRY(add_byte(c, (char)*byte));
    }
}

/* Reads a record whose first byte is given. Each field ends at a separator, a line end or the end
** of the file; "\r" counts as part of a line end only before "\n" (or the end of the file). */
static mocl_status record(mocl_csv *c, int byte) {
    for (;;) {
        bool was_quoted = byte == '"';
        size_t line = c->line;
        if (was_quoted) {
            MOCL_TRY(quoted(c, &byte));
            line = c->line - (byte == '\n');
        }
        for (;;) {
            if (byte == '\r') {
                MOCL_TRY(next_byte(c, &byte));
                if (byte == '\n' || byte == END) break;
                if (was_quoted) return mocl_csv_fail(c, line, "text after a closing quote");
                MOCL_TRY(add_byte(c, '\r'));
                continue;
            }
            if (byte == END || byte == '\n' || byte == (unsigned char)c->separator) break;
            if (was_quoted) return mocl_csv_fail(c, line, "text after a closing quote");
            if (byte == '"') return mocl_csv_fail(c, line, "quote inside an unquoted field");
            MOCL_TRY(add_byte(c, (char)byte));
            MOCL_TRY(next_byte(c, &byte));
        }
        MOCL_TRY(end_field(c));
        if (byte == END || byte == '\n') return MOCL_OK;
        MOCL_TRY(next_byte(c, &byte));
    }
}

mocl_status mocl_csv_next(mocl_csv *c, size_t *n_fields, size_t *line) {
    *n_fields = 0;
    for (;;) {
        c->used = c->n_fields = 0;
        int byte;
        *line = c->line;
        MOCL_TRY(next_byte(c, &byte));
        if (byte == END) return MOCL_OK;
        if (byte == '\n') continue;
        bool started_quoted = byte == '"'; /* a line of "" is one empty field, not blank */
        MOCL_TRY(record(c, byte));
        if (c->n_fields == 1 && c->used == 0 && !started_quoted) continue; /* "\r\n" */
        *n_fields = c->n_fields;
        return MOCL_OK;
    }
}

const char *mocl_csv_field(const mocl_csv *c, size_t i, size_t *n) {
    size_t start = i ? c->ends[i - 1] : 0;
    *n = c->ends[i] - start;
    return c->bytes ? c->bytes + start : "";
}
