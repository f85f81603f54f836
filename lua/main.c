/* main.c - the mocl executable: the command line of lua 5.4, some long options, and signals.
**
** It owns what a library must not: the signal handlers, the standard streams and the exit status.
*/
#define _GNU_SOURCE
#include <errno.h>
#include <lualib.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm.h"
#include "complain.h"
#include "errors.h"
#include "lsys.h"
#include "mocl.h"
#include "modules.h"
#include "ranks.h"
#include "repl.h"
#include "signals.h"

enum { HAS_ERROR = 1, HAS_I = 2, HAS_V = 4, HAS_E = 8, HAS_NOENV = 16 };
enum { HAS_HELP = 32, HAS_VERSION = 64, HAS_ENV = 128, HAS_RECIPES = 256 };

/* ---- messages ----------------------------------------------------------------------------------- */

static const char usage[] =
    "usage: %s [options] [script [args]]\n"
    "The tools chat, serve, generate, tokenize, export and report stand in place of a script.\n"
    "Available options are:\n"
    "  -e stat    execute string 'stat'\n"
    "  -i         enter interactive mode after executing 'script'\n"
    "  -l mod     require library 'mod' into global 'mod'\n"
    "  -l g=mod   require library 'mod' into global 'g'\n"
    "  -v         show version information\n"
    "  -E         ignore environment variables\n"
    "  -W         turn warnings on\n"
    "  --         stop handling options\n"
    "  -          stop handling options and execute stdin\n"
    "  --help     show this text\n"
    "  --version  show the version of mocl alone\n"
    "  --env      show versions, processor, libraries, devices and paths\n"
    "  --recipes  list the recipes that are found by their names\n";

static void print_bad_option(const char *option) {
    if (option[1] == 'e' || option[1] == 'l')
        fprintf(stderr, "%s: '%s' needs argument\n", mocl_program, option);
    else
        fprintf(stderr, "%s: unrecognized option '%s'\n", mocl_program, option);
    fprintf(stderr, usage, mocl_program);
}

static void print_version(void) {
    puts("mocl " MOCL_VERSION "  " LUA_COPYRIGHT);
    fflush(stdout);
}

/* the table of mocl.sys.env, one line per fact */
static void print_env(lua_State *L) {
    static const char *const keys[] = {"mocl", "lua",  "compiler", "real",   "os",     "cpu",
                                       "cpu_features", "threads", "blas", "bf16", "devices", "cuda",
                                       "stdlib", "recipes", NULL};
    lua_getglobal(L, "require");
    lua_pushliteral(L, "mocl.sys");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "env");
    lua_call(L, 0, 1);
    for (int i = 0; keys[i]; i++) {
        lua_getfield(L, -1, keys[i]);
        printf("%-13s %s\n", keys[i], luaL_tolstring(L, -1, NULL));
        lua_pop(L, 2);
    }
}

/* Under mpirun one rank alone would read what the others wait for. */
static bool refuse_stdin(const char *what) {
    char text[200];
    if (mocl_comm()->size == 1) return false;
    snprintf(text, sizeof text, "%s is read by one rank alone, and this is a job of %d: put it into a file, and name that", what, mocl_comm()->size);
    mocl_complain(text, true);
    return true;
}

/* what mocl.run.recipes says */
static void print_recipes(lua_State *L) {
    lua_getglobal(L, "require");
    lua_pushliteral(L, "mocl.run.recipes");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "text");
    lua_getfield(L, -2, "list");
    lua_call(L, 0, 1);
    lua_call(L, 1, 1);
    fputs(lua_tostring(L, -1), stdout);
}

/* Shows the error on the stack, if there is one. */
static int report(lua_State *L, int status) {
    if (status == LUA_OK) return status;
    char buf[MOCLL_ERROR_BYTES];
    const char *message = moclL_errortext(L, buf);
    mocl_complain(message ? message : "(error message not a string)", true);
    lua_pop(L, 1);
    return status;
}

/* ---- the command line --------------------------------------------------------------------------- */

/* Returns the HAS_ flags; *first is the index of the first argument that is no option, or of the
** bad one. */
static int collect_options(char **argv, int *first) {
    static const struct {
        const char *name;
        int flag;
    } words[] = {{"--help", HAS_HELP}, {"--version", HAS_VERSION}, {"--env", HAS_ENV}, {"--recipes", HAS_RECIPES}};
    int flags = 0, i;
    for (i = 1; argv[i]; i++) {
        const char *arg = argv[i];
        *first = i;
        if (arg[0] != '-' || arg[1] == '\0') return flags; /* a script, or '-' */
        if (arg[1] == 'e' || arg[1] == 'l') {
            if (arg[1] == 'e') flags |= HAS_E;
            if (arg[2]) continue;
            if (!argv[i + 1] || argv[i + 1][0] == '-') return flags | HAS_ERROR;
            i++;
        } else if (arg[1] == '-') {
            if (arg[2] == '\0') {
                *first = i + 1;
                return flags;
            }
            int word = 0;
            for (size_t w = 0; w < sizeof words / sizeof *words; w++)
                if (strcmp(arg, words[w].name) == 0) word = words[w].flag;
            if (!word) return flags | HAS_ERROR;
            flags |= word;
        } else {
            if (arg[2]) return flags | HAS_ERROR;
            switch (arg[1]) {
            case 'E': flags |= HAS_NOENV; break;
            case 'W': break;
            case 'i': flags |= HAS_I | HAS_V; break;
            case 'v': flags |= HAS_V; break;
            default: return flags | HAS_ERROR;
            }
        }
    }
    *first = i;
    return flags;
}

static void create_arg_table(lua_State *L, int argc, char **argv, int script) {
    if (script == argc) script = 0; /* no script: the program itself is arg[0] */
    lua_createtable(L, argc - script > 0 ? argc - script - 1 : 0, script + 1);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i - script);
    }
    lua_setglobal(L, "arg");
}

static int run_chunk(lua_State *L, int status) {
    return report(L, status ? status : moclL_call(L, 0, 0));
}

static int run_string(lua_State *L, const char *code, const char *name) {
    return run_chunk(L, luaL_loadbuffer(L, code, strlen(code), name));
}

/* -l mod, -l global=mod; "mod-version" goes into global "mod" */
static int run_library(lua_State *L, const char *spec) {
    const char *equal = strchr(spec, '='), *module = equal ? equal + 1 : spec;
    size_t n = equal ? (size_t)(equal - spec) : strcspn(spec, "-");
    lua_getglobal(L, "require");
    lua_pushstring(L, module);
    int status = moclL_call(L, 1, 1);
    if (status == LUA_OK) {
        lua_pushglobaltable(L);
        lua_pushlstring(L, spec, n);
        lua_pushvalue(L, -3); /* stack: module, globals, name, module */
        lua_rawset(L, -3);
        lua_pop(L, 2);
    }
    return report(L, status);
}

/* -e, -l and -W in their order; false if one failed */
static bool run_options(lua_State *L, char **argv, int n) {
    for (int i = 1; i < n; i++) {
        char option = argv[i][1];
        if (option == 'W') lua_warning(L, "@on", 0);
        if (option != 'e' && option != 'l') continue;
        const char *text = argv[i] + 2;
        if (!*text) text = argv[++i];
        int status = option == 'e' ? run_string(L, text, "=(command line)") : run_library(L, text);
        if (status) return false;
    }
    return true;
}

/* LUA_INIT as lua 5.4 has it: code, or @file */
static bool run_init(lua_State *L) {
    const char *name = "=LUA_INIT" LUA_VERSUFFIX;
    const char *init = getenv(name + 1);
    if (!init) name = "=LUA_INIT", init = getenv(name + 1);
    if (!init) return true;
    int status = init[0] == '@' ? run_chunk(L, luaL_loadfile(L, init + 1)) : run_string(L, init, name);
    return status == LUA_OK;
}

/* Pushes the path under which the script is found: itself; or, where there is no such file and the
** name has no '/', a file of that name, with or without .lua, in the recipe directories. */
static const char *push_script_path(lua_State *L, const char *name) {
    if (access(name, F_OK) == 0 || strchr(name, '/')) return lua_pushstring(L, name);
    moclL_push_recipe_path(L);
    const char *dir = lua_tostring(L, -1);
    while (*dir) {
        size_t n = strcspn(dir, ":");
        for (int with_lua = 0; n > 0 && with_lua < 2; with_lua++) {
            lua_pushlstring(L, dir, n);
            lua_pushfstring(L, "%s/%s%s", lua_tostring(L, -1), name, with_lua ? ".lua" : "");
            if (access(lua_tostring(L, -1), R_OK) == 0) return lua_tostring(L, -1);
            lua_pop(L, 2);
        }
        dir += n + (dir[n] == ':');
    }
    return lua_pushstring(L, name);
}

static bool is_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

/* The tool that recipes/NAME.lua was until version 0.1; NULL for another name. */
static const char *moved_tool(const char *name) {
    static const char *const tools[] = {"generate", "report", "tokenize"};
    const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
    size_t dir = (size_t)(base - name); /* with the slash */
    if (dir > 0 && !(dir >= 8 && memcmp(base - 8, "recipes/", 8) == 0 && (dir == 8 || base[-9] == '/'))) return NULL;
    for (size_t i = 0; i < sizeof tools / sizeof *tools; i++) {
        size_t n = strlen(tools[i]);
        if (strncmp(base, tools[i], n) == 0 && strcmp(base + n, ".lua") == 0) return tools[i];
    }
    return NULL;
}

/* argv[0] is the script; a '-' that does not follow '--' is stdin */
static int run_script(lua_State *L, char **argv) {
    bool from_stdin = strcmp(argv[0], "-") == 0 && strcmp(argv[-1], "--") != 0;
    if (from_stdin && refuse_stdin("a script on standard input")) return LUA_ERRRUN;
    const char *tool = !from_stdin && !is_file(argv[0]) && moclL_has_tool(argv[0]) ? argv[0] : NULL;
    const char *path = from_stdin || tool ? tool : push_script_path(L, argv[0]);
    if (path && !tool && access(path, F_OK) != 0 && (tool = moved_tool(argv[0]))) {
        path = tool;
        lua_pushfstring(L, "%s is `mocl %s` now; the old path goes with the next version", argv[0], tool);
        mocl_complain(lua_tostring(L, -1), true);
        lua_pop(L, 1);
    }
    if (path && strcmp(path, argv[0]) != 0) { /* arg[0] is where the recipe was found, or the tool */
        if (lua_getglobal(L, "arg") == LUA_TTABLE) {
            lua_pushstring(L, path);
            lua_rawseti(L, -2, 0);
        }
        lua_pop(L, 1);
    }
    int status = tool ? moclL_load_tool(L, tool) : luaL_loadfile(L, path);
    if (status == LUA_OK) {
        if (lua_getglobal(L, "arg") != LUA_TTABLE) luaL_error(L, "'arg' is not a table");
        int n = (int)luaL_len(L, -1);
        int table = lua_gettop(L);
        luaL_checkstack(L, n + 3, "too many arguments to script");
        for (int i = 1; i <= n; i++) lua_rawgeti(L, table, i);
        lua_remove(L, table);
        status = moclL_call(L, n, 0);
    }
    return report(L, status);
}

typedef struct command {
    int argc, flags, script;
    char **argv;
    bool ok;
    int repl_signal; /* that ended the interactive mode */
} command;

/* everything that needs the state, protected; sets ok */
static int run_command(lua_State *L) {
    command *c = lua_touserdata(L, 1);
    if (c->flags & HAS_V) print_version();
    mocl_hear_commands(L);
    create_arg_table(L, c->argc, c->argv, c->script);
    if (c->flags & (HAS_ENV | HAS_RECIPES)) {
        (c->flags & HAS_ENV ? print_env : print_recipes)(L);
        c->ok = true;
        return 0;
    }
    if (!(c->flags & HAS_NOENV) && !run_init(L)) return 0;
    if (!run_options(L, c->argv, c->script)) return 0;
    if (c->script < c->argc && run_script(L, c->argv + c->script)) return 0;
    if (c->flags & HAS_I) {
        if (refuse_stdin("the interactive mode")) return 0;
        c->repl_signal = mocl_repl(L);
    } else if (c->script == c->argc && !(c->flags & (HAS_E | HAS_V))) {
        if (refuse_stdin("a script on standard input")) return 0;
        if (isatty(0)) {
            print_version();
            c->repl_signal = mocl_repl(L);
        } else if (run_chunk(L, luaL_loadfile(L, NULL))) {
            return 0;
        }
    }
    c->ok = true;
    return 0;
}

/* 128 + signal after an uncaught interruption, one that came too late to be raised, and where a
** script that polls was asked to stop */
static int exit_status(const moclL_host *h, const command *c) {
    int number = atomic_load(&h->signal);
    if (c->repl_signal) return 128 + c->repl_signal;
    bool stopped = c->ok ? atomic_load(&h->flag_mode) || h->ctx->interrupt : h->interrupted;
    if (number && stopped) return 128 + number;
    return c->ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv) {
    command c = {.argc = argc, .argv = argv, .script = argc};
    if (argc == 0) return EXIT_FAILURE;
    if (argv[0][0]) mocl_program = argv[0];
    c.flags = collect_options(argv, &c.script);
    if (c.flags & HAS_ERROR) {
        print_bad_option(argv[c.script]);
        return EXIT_FAILURE;
    }
    if (c.flags & HAS_HELP) {
        printf(usage, mocl_program);
        return EXIT_SUCCESS;
    }
    if (c.flags & HAS_VERSION) {
        puts("mocl " MOCL_VERSION);
        return EXIT_SUCCESS;
    }
    char reason[512] = "";
    if (!mocl_join_ranks(reason, sizeof reason)) {
        mocl_complain(reason, true);
        return EXIT_FAILURE;
    }
    mocl_options o = {.size = sizeof o, .n_threads = mocl_rank_threads(), .ignore_env = (c.flags & HAS_NOENV) != 0, .error = reason, .error_bytes = sizeof reason};
    mocl_ctx *ctx = mocl_open(&o);
    if (!ctx) {
        mocl_complain(reason, true);
        return EXIT_FAILURE;
    }
    moclL_host *h = ctx->host;
    lua_State *L = h->L;
    h->is_program = true;
    mocl_catch_signals(h);
    lua_pushcfunction(L, run_command);
    lua_pushlightuserdata(L, &c);
    if (report(L, moclL_call(L, 1, 0))) c.ok = false;
    int status = exit_status(h, &c);
    mocl_release_signals();
    mocl_close(ctx);
    return status;
}
