/* json.c - parsing with jansson */
#include "json.h"

#include <errno.h>

mocl_status mocl_json_parse(mocl_ctx *ctx, json_t **out, const char *text, size_t n, size_t flags, json_error_t *error) {
    *out = NULL;
    if (!mocl_may_alloc(ctx)) return mocl_nomem(ctx, n);
    /* jansson has an error code for a lack of memory, but most of its failed allocations become errors of syntax,
    ** errors without a text, or a field that is not there. malloc sets errno. */
    errno = 0;
    json_t *v = json_loadb(text, n, flags, error);
    if (errno == ENOMEM || (!v && json_error_code(error) == json_error_out_of_memory)) {
        json_decref(v); /* NULL is fine */
        return mocl_nomem(ctx, n);
    }
    *out = v;
    return v ? MOCL_OK : MOCL_E_FORMAT;
}
