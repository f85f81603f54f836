/* json.c - parsing with jansson */
#include "json.h"

#include <pthread.h>

/* jansson goes on where it could not make room for more of a string, and what it then returns is well formed and wrong:
** a name cut short. So its allocations are watched while it parses. Its allocator is one for the process: ours stands
** before it for that time alone, and other threads that use jansson meanwhile go through it to the same memory. */
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER; /* of the allocator's pointers */
static json_malloc_t real_malloc;
static _Thread_local bool refused; /* an allocation of this thread's parse failed */

static void *watched_malloc(size_t n) {
    void *p = real_malloc(n);
    if (!p) refused = true;
    return p;
}

mocl_status mocl_json_parse(mocl_ctx *ctx, json_t **out, const char *text, size_t n, size_t flags, json_error_t *error) {
    json_free_t real_free;
    *out = NULL;
    if (!mocl_may_alloc(ctx)) return mocl_nomem(ctx, n);
    pthread_mutex_lock(&guard);
    json_get_alloc_funcs(&real_malloc, &real_free);
    json_set_alloc_funcs(watched_malloc, real_free);
    refused = false;
    json_t *v = json_loadb(text, n, flags, error);
    json_set_alloc_funcs(real_malloc, real_free);
    pthread_mutex_unlock(&guard);
    if (refused) {
        json_decref(v); /* NULL is fine */
        return mocl_nomem(ctx, n);
    }
    *out = v;
    return v ? MOCL_OK : MOCL_E_FORMAT;
}
