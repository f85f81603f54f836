/* csv.h - comma separated values after RFC 4180, plain or gzip'd.
**
** Records end with "\n" or "\r\n"; a field may be put in double quotes and then hold separators,
** line ends and doubled quotes. Blank lines are skipped. Refuses, with "path:LINE: reason", a quote
** inside an unquoted field, text after a closing quote and a quote that is never closed.
*/
#ifndef MOCL_CSV_H
#define MOCL_CSV_H

#include "base.h"

typedef struct mocl_csv mocl_csv;

/* On failure *out is NULL. Free with mocl_csv_close (NULL is fine). */
mocl_status mocl_csv_open(mocl_ctx *ctx, mocl_csv **out, const char *path, char separator);
void mocl_csv_close(mocl_csv *c);

/* Reads one record: *n_fields receives the number of its fields, 0 at the end of the file; *line
** the line it began on. */
mocl_status mocl_csv_next(mocl_csv *c, size_t *n_fields, size_t *line);

/* Field i (from 0) of that record; the bytes live until the next call of mocl_csv_next. */
const char *mocl_csv_field(const mocl_csv *c, size_t i, size_t *n);

/* Fails with "path:line: reason", for checks the caller makes. */
mocl_status mocl_csv_fail(mocl_csv *c, size_t line, const char *reason);

#endif
