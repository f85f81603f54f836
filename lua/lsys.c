/* lsys.c - module mocl.sys: the clock, the process, the machine, and signals to be polled.
**
** sys.now() seconds from a monotonic clock          sys.rss_bytes(), sys.peak_rss_bytes()
** sys.isatty(fd)  sys.getpid()  sys.cpu_count()     sys.env() what `mocl --env` shows, as a table
** sys.columns(fd) the width of a terminal           sys.version, e.g. "0.1.0"
** sys.on_interrupt("raise" | "message" | "flag", keep) -> the mode before
** sys.interrupted() -> nil, "SIGINT" or "SIGTERM"
**
** Signals reach a script only in the mocl executable, which catches them. In mode "raise" (the
** default) each raises "interrupted!"; in mode "message" too, but a program that it ends shows that word alone, without
** place and traceback, which say nothing to the user of a finished program. In mode "flag" the first one is only noted,
** to be polled between steps; the next one raises, and is shown as in the mode before. Setting a mode forgets what was
** noted, unless `keep` says that an error may be on its way that a signal has raised. A signal that comes after one that
** raised ends the program, unless the script has set a mode, or polled in mode "flag", since then.
*/
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "device_cuda.h"
#include "mocl.h"
#include "interrupt.h"
#include "lsys.h"
#include "modules.h"

static int sys_now(lua_State *L) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    lua_pushnumber(L, (double)t.tv_sec + 1e-9 * (double)t.tv_nsec);
    return 1;
}

static int sys_isatty(lua_State *L) {
    lua_Integer fd = luaL_checkinteger(L, 1);
    luaL_argcheck(L, fd >= 0 && fd < 65536, 1, "file descriptor expected: 0, 1, 2, ...");
    lua_pushboolean(L, isatty((int)fd));
    return 1;
}

/* columns(fd) -> the width of the terminal as it is now; nil where the descriptor is none, or does not say */
static int sys_columns(lua_State *L) {
    lua_Integer fd = luaL_checkinteger(L, 1);
    luaL_argcheck(L, fd >= 0 && fd < 65536, 1, "file descriptor expected: 0, 1, 2, ...");
    struct winsize size;
    if (ioctl((int)fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) lua_pushinteger(L, size.ws_col);
    else lua_pushnil(L);
    return 1;
}

static int sys_getpid(lua_State *L) {
    lua_pushinteger(L, getpid());
    return 1;
}

static int sys_cpu_count(lua_State *L) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    lua_pushinteger(L, n > 0 ? n : 1);
    return 1;
}

static int sys_rss_bytes(lua_State *L) {
    long total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f) {
        if (fscanf(f, "%ld %ld", &total, &resident) != 2) resident = 0;
        fclose(f);
    }
    lua_pushinteger(L, (lua_Integer)resident * sysconf(_SC_PAGESIZE));
    return 1;
}

static int sys_peak_rss_bytes(lua_State *L) {
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    lua_pushinteger(L, (lua_Integer)usage.ru_maxrss * 1024);
    return 1;
}

/* ---- signals ------------------------------------------------------------------------------------ */

static const char *signal_name(int number) {
    return number == SIGTERM ? "SIGTERM" : number == SIGINT ? "SIGINT" : NULL;
}

static int sys_interrupted(lua_State *L) {
    moclL_host *h = moclL_ctx(L)->host;
    const char *name = h ? signal_name(atomic_load(&h->signal)) : NULL;
    if (h && h->look) h->look();
    if (name && atomic_load(&h->flag_mode)) moclL_acknowledge(h);
    lua_pushstring(L, name); /* NULL pushes nil */
    return 1;
}

static int sys_on_interrupt(lua_State *L) {
    enum { RAISE, FLAG, MESSAGE };
    static const char *const modes[] = {"raise", "flag", "message", NULL};
    int mode = luaL_checkoption(L, 1, NULL, modes), before = RAISE;
    bool keep = lua_toboolean(L, 2);
    moclL_host *h = moclL_ctx(L)->host;
    if (h) {
        before = atomic_load(&h->flag_mode) ? FLAG : h->plain_interrupt ? MESSAGE : RAISE;
        if (!keep) {
            atomic_store(&h->signal, 0);
            moclL_acknowledge(h);
        }
        atomic_store(&h->flag_mode, mode == FLAG);
        if (mode != FLAG) h->plain_interrupt = mode == MESSAGE;
        if (h->look) h->look();
    }
    lua_pushstring(L, modes[before]);
    return 1;
}

/* set_threads(n): threads of the CPU kernels. Before the first tensor: a device keeps what it started. */
static int sys_set_threads(lua_State *L) {
    mocl_ctx *ctx = moclL_ctx(L);
    lua_Integer n = luaL_checkinteger(L, 1);
    luaL_argcheck(L, n >= 1 && n <= 256, 1, "1 to 256 threads");
    for (int i = 0; i < MOCL_DEVICE_COUNT; i++)
        if (ctx->device[i] && ctx->n_threads != n)
            return luaL_error(L, "set_threads: call it before the first tensor is made");
    ctx->n_threads = (int)n;
    return 0;
}

/* ---- where mocl runs ---------------------------------------------------------------------------- */

void moclL_push_recipe_path(lua_State *L) {
    const char *dir = moclL_noenv(L) ? NULL : getenv("MOCL_RECIPES");
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(exe, '/');
    if (!slash) {
        lua_pushstring(L, dir ? dir : "");
        return;
    }
    *slash = '\0';
    lua_pushfstring(L, "%s%s%s/recipes:%s/../share/mocl/recipes", dir ? dir : "", dir ? ":" : "", exe,
                    exe);
}

/* Finds the line "key : value" of /proc/cpuinfo; false if there is none. */
static bool cpuinfo(const char *key, char *value, size_t size) {
    char line[8192];
    bool found = false;
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f) return false;
    while (!found && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, key, strlen(key)) != 0 || !colon) continue;
        snprintf(value, size, "%s", colon + 1 + (colon[1] == ' '));
        value[strcspn(value, "\n")] = '\0';
        found = true;
    }
    fclose(f);
    return found;
}

/* the features that kernels care about, in a fixed order */
static void push_cpu_features(lua_State *L) {
    static const char *const wanted[] = {
        "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16",
        "amx_int8", "asimd", "sve", "bf16", "i8mm", NULL};
    char flags[8192], padded[32];
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    flags[0] = ' ';
    if (cpuinfo("flags", flags + 1, sizeof flags - 2) ||
        cpuinfo("Features", flags + 1, sizeof flags - 2)) {
        strcat(flags, " ");
        for (int i = 0; wanted[i]; i++) {
            snprintf(padded, sizeof padded, " %s ", wanted[i]);
            if (!strstr(flags, padded)) continue;
            if (luaL_bufflen(&b) > 0) luaL_addchar(&b, ' ');
            luaL_addstring(&b, wanted[i]);
        }
    }
    luaL_pushresult(&b);
}

static void set_string(lua_State *L, const char *key, const char *value) {
    lua_pushstring(L, value);
    lua_setfield(L, -2, key);
}

static int sys_env(lua_State *L) {
    mocl_ctx *ctx = moclL_ctx(L);
    struct utsname u;
    char cpu[256], blas[512];
    lua_createtable(L, 0, 16);
    set_string(L, "mocl", MOCL_VERSION);
    set_string(L, "lua", LUA_VERSION_MAJOR "." LUA_VERSION_MINOR "." LUA_VERSION_RELEASE);
#ifdef __VERSION__
    set_string(L, "compiler", __VERSION__);
#endif
    set_string(L, "real", sizeof(mk_real) == sizeof(double) ? "f64" : "f32");
    if (uname(&u) == 0) {
        lua_pushfstring(L, "%s %s %s", u.sysname, u.release, u.machine);
        lua_setfield(L, -2, "os");
    }
    set_string(L, "cpu", cpuinfo("model name", cpu, sizeof cpu) ? cpu : "unknown");
    push_cpu_features(L);
    lua_setfield(L, -2, "cpu_features");
    lua_pushinteger(L, ctx->n_threads);
    lua_setfield(L, -2, "threads");
    mk_blas_describe((mk_blas)ctx->blas, blas, sizeof blas);
    const char *asked = moclL_noenv(L) ? NULL : getenv("MOCL_BLAS");
    if (asked && strcmp(asked, "none") && strcmp(asked, "openblas"))
        lua_pushfstring(L, "%s; MOCL_BLAS=%s is neither openblas nor none", blas, asked);
    else
        lua_pushstring(L, blas);
    lua_setfield(L, -2, "blas");
    mk_bf16_describe(blas, sizeof blas);
    set_string(L, "bf16", blas);
    char cuda[512] = "";
    bool have_cuda = mocl_cuda_describe(ctx, 0, cuda, sizeof cuda) == MOCL_OK;
    set_string(L, "devices", have_cuda ? "cpu cuda" : "cpu");
    if (!have_cuda) lua_pushfstring(L, "off: %s", cuda);
    else lua_pushstring(L, cuda);
    lua_setfield(L, -2, "cuda");
    const char *stdlib = moclL_noenv(L) ? NULL : getenv("MOCL_STDLIB");
    set_string(L, "stdlib", stdlib ? stdlib : "embedded");
    moclL_push_recipe_path(L);
    lua_setfield(L, -2, "recipes");
    return 1;
}

int moclL_open_sys(lua_State *L) {
    static const luaL_Reg functions[] = {{"columns", sys_columns},
                                         {"cpu_count", sys_cpu_count},
                                         {"env", sys_env},
                                         {"getpid", sys_getpid},
                                         {"interrupted", sys_interrupted},
                                         {"isatty", sys_isatty},
                                         {"now", sys_now},
                                         {"on_interrupt", sys_on_interrupt},
                                         {"set_threads", sys_set_threads},
                                         {"peak_rss_bytes", sys_peak_rss_bytes},
                                         {"rss_bytes", sys_rss_bytes},
                                         {NULL, NULL}};
    moclL_newlib(L, functions);
    set_string(L, "version", MOCL_VERSION);
    return 1;
}
