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

/* What the functions below return. After anything but MOCL_DONE, mocl_error has the text. MOCL_LIMITED: a limit of mocl_limit
** was reached. MOCL_EXITED: the script called os.exit, which ends the run and not the host (mocl_exit_status). */
enum { MOCL_DONE = 0, MOCL_FAILED = 1, MOCL_INTERRUPTED = 2, MOCL_LIMITED = 3, MOCL_EXITED = 4 };

/* What scripts have: all of it (0), or a selection. Every selection refuses bytecode, and has xpcall, setmetatable,
** collectgarbage and load so that a script cannot get around its limits. */
enum {
    MOCL_LIB_ALL = 0,
    MOCL_LIB_BASE = 1,     /* Lua without files: base, coroutine, math, string, table, utf8, the clock of os; always there */
    MOCL_LIB_MATHS = 2,    /* require "mocl.tensor" and the other modules that touch neither files nor the process */
    MOCL_LIB_IO = 4,       /* io, dofile, loadfile */
    MOCL_LIB_OS = 8,       /* the rest of os */
    MOCL_LIB_PACKAGE = 16, /* package, and require of everything: all of mocl, files, and native libraries */
    MOCL_LIB_DEBUG = 32,   /* debug; with it a script can leave any sandbox */
    MOCL_SANDBOX = MOCL_LIB_BASE | MOCL_LIB_MATHS
};

/* Gives a context its memory, as Lua's lua_Alloc: p NULL = a new block, bytes 0 = free p and return NULL, NULL = there is
** none. A block that shrinks must be given. Alignment as of malloc. */
typedef void *mocl_allocator(void *data, void *p, size_t old_bytes, size_t bytes);

/* Gets what scripts print: MOCL_LOG_OUT from print, io.write and io.stdout; MOCL_LOG_ERROR from io.stderr and warn. text
** has n bytes, with a zero behind them and with the line ends of the script. */
enum { MOCL_LOG_OUT = 1, MOCL_LOG_ERROR = 2 };
typedef void mocl_logger(void *data, int where, const char *text, size_t n);

/* Fill with zeros, set `size` to sizeof(mocl_options), then what you need. Fields are only ever
** added at the end, and `size` says which of them the caller knows. */
typedef struct mocl_options {
    size_t size;
    int n_threads;  /* threads for CPU kernels; 0 = one per CPU available */
    int ignore_env; /* 1 = LUA_PATH, LUA_CPATH, MOCL_STDLIB, MOCL_RECIPES and MOCL_BLAS are not read */
    char *error;    /* error_bytes of the caller's, where mocl_open says why it returns NULL; or NULL */
    size_t error_bytes;
    unsigned libraries;     /* MOCL_LIB_..., or MOCL_SANDBOX */
    mocl_allocator *alloc;  /* for Lua, tensors on the CPU and the runtime, not for the scratch of kernels; NULL = malloc */
    void *alloc_data;
    mocl_logger *log;       /* NULL = what scripts print goes to the standard streams */
    void *log_data;
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

/* Limits of each run from now on; NULL or zeros lift them. Where one is reached the run ends with MOCL_LIMITED: pcall
** catches the error, and the next instruction raises it again. Long native operations look at the time as well. A script
** that has debug can take the limits away, and no limit ends a single match of a pattern or another C function that does
** not look; see docs/embedding.md. Fails for a size that is none, or a number below 0. */
typedef struct mocl_limits {
    size_t size;            /* sizeof(mocl_limits) */
    double seconds;         /* for each run */
    long long instructions; /* of Lua, for each run, counted in hundreds; a resumed coroutine counts as a hundred */
    size_t bytes;           /* of the context as a whole: Lua, tensors, the runtime */
} mocl_limits;
MOCL_API int mocl_limit(mocl_ctx *ctx, const mocl_limits *limits);
MOCL_API size_t mocl_memory(const mocl_ctx *ctx); /* what the context has now, as mocl_limits.bytes counts */
MOCL_API int mocl_exit_status(const mocl_ctx *ctx); /* of the last os.exit; 0 before the first */

/* Stop the running script: an error "interrupted!" at its next instruction, also inside coroutines
** and long native operations. The script can catch it with pcall, unless options.libraries selects. Callable from any thread and from
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

/* A value of Lua. Lists are tables 1..n; a string in a list ends at its first zero byte. */
enum { MOCL_NIL, MOCL_BOOLEAN, MOCL_NUMBER, MOCL_STRING, MOCL_NUMBERS, MOCL_STRINGS, MOCL_OTHER };
typedef struct mocl_value {
    int type;
    double number;              /* MOCL_NUMBER, MOCL_BOOLEAN (0 or 1) */
    const char *string;         /* MOCL_STRING: n bytes, with a zero behind them; MOCL_OTHER: Lua's name of the type */
    const double *numbers;      /* MOCL_NUMBERS: n */
    const char *const *strings; /* MOCL_STRINGS: n; an empty table is one of these */
    size_t n;
} mocl_value;

/* mocl_call and the globals, with any values. What results point to belongs to the context and lives until the next call of
** either. A result that is no plain value or list has the type MOCL_OTHER. */
MOCL_API int mocl_call_values(mocl_ctx *ctx, const char *name, const mocl_value *args, int n_args, mocl_value *results,
                              int n_results);
MOCL_API int mocl_get_value(mocl_ctx *ctx, const char *name, mocl_value *value);
MOCL_API int mocl_set_value(mocl_ctx *ctx, const char *name, const mocl_value *value);

/* Makes a function of the host a function of scripts: name as for the globals. It returns MOCL_DONE and its result, which is
** copied at once; or anything else, and `result->string` is the text of the error. It may call functions of this header on
** the same context, and must not close it, leave by longjmp, or throw. */
typedef int mocl_function(void *data, const mocl_value *args, int n_args, mocl_value *result);
MOCL_API int mocl_set_function(mocl_ctx *ctx, const char *name, mocl_function *f, void *data);

/* For programs that use Lua's own API too: the lua_State of a context; and the opener of the module
** for a state they made themselves (luaL_requiref(L, "mocl", luaopen_mocl, 0)). */
struct lua_State;
MOCL_API struct lua_State *mocl_lua(mocl_ctx *ctx);
MOCL_API int luaopen_mocl(struct lua_State *L);

#ifdef __cplusplus
}
#endif

#endif
