/* text.h - text files, plain or gzip'd, read in pieces or line by line; UTF-8 checks.
**
** gzip is told by its first two bytes, not by the name. Several gzip members in a row are one text;
** a file that ends inside a member, or goes on behind one with anything but zeros, is an error (gzip.h).
** A UTF-8 byte order mark at the start is skipped, and a text in UTF-16 or UTF-32 fails.
** Nothing else is changed or checked: bytes that are no UTF-8 are handed on. Failures name file and
** line: "path:LINE: reason".
*/
#ifndef MOCL_TEXT_H
#define MOCL_TEXT_H

#include "base.h"

/* ---- pieces ---- */

typedef struct mocl_stream mocl_stream;

/* On failure *out is NULL. Free with mocl_stream_close (NULL is fine). */
mocl_status mocl_stream_open(mocl_ctx *ctx, mocl_stream **out, const char *path);
void mocl_stream_close(mocl_stream *t);

/* *piece receives the next bytes, valid until the next call, *n their number: 0 at the end. `line`
** is the number for a message. */
mocl_status mocl_stream_next(mocl_stream *t, size_t line, const char **piece, size_t *n);
const char *mocl_stream_path(const mocl_stream *t);

/* Fails with "path:line: reason". */
mocl_status mocl_stream_fail(mocl_stream *t, size_t line, const char *reason);

/* ---- lines ---- */

typedef struct mocl_lines mocl_lines;

mocl_status mocl_lines_open(mocl_ctx *ctx, mocl_lines **out, const char *path);
void mocl_lines_close(mocl_lines *l);

/* *line receives the next line without its "\n" or "\r\n", NULL at the end; valid until the next
** call. The last line needs no "\n". *number is its number, counted from 1. */
mocl_status mocl_lines_next(mocl_lines *l, const char **line, size_t *n, size_t *number);

/* ---- encodings ---- */

/* Bytes of the UTF-8 byte order mark that a text begins with: 3 or 0. */
size_t mocl_utf8_mark(const char *p, size_t n);

/* NULL, or why a text that begins so cannot be read: it is in UTF-16 or UTF-32. Told by its byte order mark, or
** without one by the zero bytes between ASCII characters, of which it then needs 4. */
const char *mocl_text_wide(const char *p, size_t n);

/* ---- UTF-8 ---- */

/* Bytes (at least 1, at most n; n > 0) of the character at p, or, with *valid false, of the longest
** start of a character that is there: each such part becomes one U+FFFD. Surrogates, overlong forms
** and values above U+10FFFF are not valid. */
size_t mocl_utf8_step(const char *p, size_t n, bool *valid);

/* offset of the first byte that is not part of a valid character, or n */
size_t mocl_utf8_check(const char *p, size_t n);

#endif
