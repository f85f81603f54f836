/* json.c - parsing with jansson */
#include "json.h"

#include <errno.h>

mocl_status mocl_json_parse(mocl_ctx *ctx, json_t **out, const char *text, size_t n, size_t flags, json_error_t *error) {
    *out = NULL;
    if (!mocl_may_alloc(ctx)) return mocl_nomem(ctx, n);
    /* jansson has an error code for a lack of memory, but most of its own failed allocations become errors of
    ** syntax, or errors without a text. malloc sets errno. */
    errno = 0;
    *out = json_loadb(text, n, flags, error);
    if (*out) return MOCL_OK;
    if (errno == ENOMEM || json_error_code(error) == json_error_out_of_memory) return mocl_nomem(ctx, n);
    return MOCL_E_FORMAT;
}
