/* mocl.h - run mocl inside a C or C++ program.
**
** A context is one Lua state with all of mocl in it. It belongs to one thread at a time; several
** contexts in several threads are independent. Only mocl_interrupt may be called from elsewhere.
** The library installs no signal handlers and never exits; it prints only what a script prints.
*/
#ifndef MOCL_H
#define MOCL_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOCL_VERSION_MAJOR 0
#define MOCL_VERSION_MINOR 1
#define MOCL_VERSION_PATCH 0
#define MOCL_VERSION "0.1.0"
#define MOCL_VERSION_NUM (MOCL_VERSION_MAJOR * 10000 + MOCL_VERSION_MINOR * 100 + MOCL_VERSION_PATCH)

#if defined(__GNUC__)
#define MOCL_API __attribute__((visibility("default")))
#else
#define MOCL_API
#endif

typedef struct mocl_ctx mocl_ctx;

/* What the functions below return. After anything but MOCL_DONE, mocl_error has the text. */
enum { MOCL_DONE = 0, MOCL_FAILED = 1, MOCL_INTERRUPTED = 2 };

/* Fill with zeros, set `size` to sizeof(mocl_options), then what you need. Fields are only ever
** added at the end, and `size` says which of them the caller knows. */
typedef struct mocl_options {
    size_t size;
    int n_threads;  /* threads for CPU kernels; 0 = one per CPU available */
    int ignore_env; /* 1 = LUA_PATH, LUA_CPATH, MOCL_STDLIB, MOCL_RECIPES and MOCL_BLAS are not read */
    char *error;    /* error_bytes of the caller's, where mocl_open says why it returns NULL; or NULL */
    size_t error_bytes;
} mocl_options;

/* Version of the library, e.g. "0.1.0"; compare it with MOCL_VERSION, the one compiled against. */
MOCL_API const char *mocl_version(void);

/* A new context, or NULL if memory ran out, opts->size is wrong, or another version of Lua in the process goes before ours
** (a library that brings one was loaded with RTLD_GLOBAL). opts may be NULL. */
MOCL_API mocl_ctx *mocl_open(const mocl_options *opts);

/* Closes the state and frees all that belongs to it. NULL is fine. */
MOCL_API void mocl_close(mocl_ctx *ctx);

/* Compile and run. chunkname is shown in messages: "@name" as a file name, "=name" as it is; NULL
** shows the beginning of the code. */
MOCL_API int mocl_dostring(mocl_ctx *ctx, const char *code, const char *chunkname);
MOCL_API int mocl_dofile(mocl_ctx *ctx, const char *path);

/* Text of the last failure with a traceback where there is one, "" before the first. It belongs to
** the context and lives until its next failure. */
MOCL_API const char *mocl_error(mocl_ctx *ctx);

/* Stop the running script: an error "interrupted!" at its next instruction, also inside coroutines
** and long native operations. The script can catch it with pcall. Callable from any thread and from
** a signal handler. When nothing is running, the next run is stopped. It must not race with
** mocl_close. */
MOCL_API void mocl_interrupt(mocl_ctx *ctx);

/* Globals by name; "a.b.c" walks through tables. The string belongs to the context and lives until
** the next call of mocl_get_string; NULL after a failure. */
MOCL_API int mocl_set_number(mocl_ctx *ctx, const char *name, double value);
MOCL_API int mocl_get_number(mocl_ctx *ctx, const char *name, double *value);
MOCL_API int mocl_set_string(mocl_ctx *ctx, const char *name, const char *value);
MOCL_API const char *mocl_get_string(mocl_ctx *ctx, const char *name);

/* Call a Lua function with n_args numbers; results[n_results] receives its first results, which
** must be numbers. */
MOCL_API int mocl_call(mocl_ctx *ctx, const char *name, const double *args, int n_args,
                       double *results, int n_results);

/* For programs that use Lua's own API too: the lua_State of a context; and the opener of the module
** for a state they made themselves (luaL_requiref(L, "mocl", luaopen_mocl, 0)). */
struct lua_State;
MOCL_API struct lua_State *mocl_lua(mocl_ctx *ctx);
MOCL_API int luaopen_mocl(struct lua_State *L);

#ifdef __cplusplus
}
#endif

#endif
