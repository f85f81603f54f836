/* json.h - parsing with jansson, which does not always tell a lack of memory from a mistake in the text, and refuses
** numbers that other readers take
*/
#ifndef MOCL_JSON_H
#define MOCL_JSON_H

#include <jansson.h>

#include "base.h"

/* *out receives the value; free it with json_decref. MOCL_E_NOMEM with its message; or MOCL_E_FORMAT with *error
** filled and no message: the caller knows what the text is. On failure *out is NULL. flags: json_loadb's.
** A byte order mark in front is skipped, and UTF-16 is named. Integers beyond 64 bits become reals. */
mocl_status mocl_json_parse(mocl_ctx *ctx, json_t **out, const char *text, size_t n, size_t flags, json_error_t *error);

/* The same, and tells how numbers beyond the range of doubles were read, since jansson holds no infinity: as the real
** *infinity or its negative, which is the value of no other number of the text; 0 where there are none. */
mocl_status mocl_json_parse_numbers(mocl_ctx *ctx, json_t **out, const char *text, size_t n, size_t flags,
                                    json_error_t *error, double *infinity);

#endif
