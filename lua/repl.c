/* repl.c - the interactive mode: lines as in lua 5.4, and a Ctrl-C that only discards the line.
**
** On a terminal, GNU readline is loaded at run time where it is installed: editing, completion (mocl.complete) and a
** history file ($MOCL_HISTORY, or mocl/history in $XDG_STATE_HOME or ~/.local/state; MOCL_HISTORY=- keeps
** none). Otherwise lines are read plainly, and echoed where they do not come from a terminal.
*/
#define _GNU_SOURCE
#include "repl.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "complain.h"
#include "errors.h"
#include "interrupt.h"

enum { HISTORY_ENTRIES = 10000 };

/* what is used of readline; the callback interface, so that we wait for input ourselves and no
** handler jumps out of it */
typedef struct readline_api {
    void (*handler_install)(const char *prompt, void (*on_line)(char *line));
    void (*handler_remove)(void);
    void (*read_char)(void);
    void (*sigcleanup)(void);
    void (*using_history)(void);
    void (*add_history)(const char *line);
    int (*read_history)(const char *path);
    int (*write_history)(const char *path);
    int (*append_history)(int entries, const char *path);
    int (*truncate_history)(const char *path, int entries);
    void (*stifle_history)(int entries);
    int (*bind_key)(int key, int (*function)(int, int));
    int (*insert)(int, int);
    int (*complete)(int, int);
    int (**last_function)(int, int);
    char **(*completion_matches)(const char *text, char *(*next)(const char *text, int state));
    char **(**attempt)(const char *text, int start, int end);
    int *attempt_is_all;        /* no file names where there are no matches */
    int *append;                /* the character behind a word that is complete */
    const char **word_breaks, **quotes;
    char **buffer;              /* the line, and where the cursor is in it */
    int *point;
    const char **name;          /* for ~/.inputrc */
    int *write_timestamps;      /* makes entries of several lines survive in the file */
    char *comment_char;
} readline_api;

/* One terminal, one prompt: readline's callbacks carry no argument, and neither do signals. */
static struct {
    lua_State *L;
    readline_api *rl;     /* NULL: plain lines */
    bool have_line;       /* on_line was called */
    char *line;           /* malloc'd; NULL at the end of input */
    char *last_entry;     /* of the history */
    char history[4096];   /* path, "" = none */
    volatile sig_atomic_t waiting; /* on a terminal, for a line */
    volatile sig_atomic_t signal;  /* arrived while waiting */
} repl;

bool mocl_repl_signal(int number) {
    if (!repl.waiting) return false;
    repl.signal = number;
    return true;
}

/* ---- readline ----------------------------------------------------------------------------------- */

/* NULL if it is not installed or lacks something */
static readline_api *load_readline(void) {
    static readline_api api;
    const struct {
        const char *name;
        void *where;
    } symbols[] = {{"rl_callback_handler_install", &api.handler_install},
                   {"rl_callback_handler_remove", &api.handler_remove},
                   {"rl_callback_read_char", &api.read_char},
                   {"rl_callback_sigcleanup", &api.sigcleanup},
                   {"using_history", &api.using_history},
                   {"add_history", &api.add_history},
                   {"read_history", &api.read_history},
                   {"write_history", &api.write_history},
                   {"append_history", &api.append_history},
                   {"history_truncate_file", &api.truncate_history},
                   {"stifle_history", &api.stifle_history},
                   {"rl_bind_key", &api.bind_key},
                   {"rl_insert", &api.insert},
                   {"rl_complete", &api.complete},
                   {"rl_last_func", &api.last_function},
                   {"rl_completion_matches", &api.completion_matches},
                   {"rl_attempted_completion_function", &api.attempt},
                   {"rl_attempted_completion_over", &api.attempt_is_all},
                   {"rl_completion_append_character", &api.append},
                   {"rl_completer_word_break_characters", &api.word_breaks},
                   {"rl_completer_quote_characters", &api.quotes},
                   {"rl_line_buffer", &api.buffer},
                   {"rl_point", &api.point},
                   {"rl_readline_name", &api.name},
                   {"history_write_timestamps", &api.write_timestamps},
                   {"history_comment_char", &api.comment_char}};
    void *lib = dlopen("libreadline.so.8", RTLD_NOW | RTLD_LOCAL);
    if (!lib) return NULL;
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *p = dlsym(lib, symbols[i].name);
        if (!p) {
            dlclose(lib);
            return NULL;
        }
        memcpy(symbols[i].where, &p, sizeof p);
    }
    return &api;
}

static void make_parents(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
}

static void choose_history(bool noenv) {
    const char *own = noenv ? NULL : getenv("MOCL_HISTORY"), *state = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");
    size_t size = sizeof repl.history;
    int n = 0;
    if (own)
        n = snprintf(repl.history, size, "%s", strcmp(own, "-") == 0 ? "" : own);
    else if (state && *state)
        n = snprintf(repl.history, size, "%s/mocl/history", state);
    else if (home)
        n = snprintf(repl.history, size, "%s/.local/state/mocl/history", home);
    if (n >= (int)size) repl.history[0] = '\0';
}

/* args: where the cursor is, as an int *; pushes what mocl.complete says to the text in front of it */
static int push_words(lua_State *L) {
    const int *end = lua_touserdata(L, 1);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "mocl.complete");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "words");
    lua_pushlstring(L, *repl.rl->buffer, (size_t)*end);
    lua_call(L, 1, 1);
    return 1;
}

/* readline's generator: the words of the list on the stack, malloc'd, then NULL */
static char *next_word(const char *text, int state) {
    static lua_Integer n;
    (void)text;
    n = state ? n + 1 : 1;
    lua_rawgeti(repl.L, -1, n);
    const char *word = lua_type(repl.L, -1) == LUA_TSTRING ? lua_tostring(repl.L, -1) : NULL;
    char *copy = word ? strdup(word) : NULL;
    lua_pop(repl.L, 1);
    return copy;
}

static char **complete_word(const char *text, int start, int end) {
    lua_State *L = repl.L;
    char **matches = NULL;
    (void)start;
    *repl.rl->attempt_is_all = 0;
    *repl.rl->append = '\0';
    if (!lua_checkstack(L, LUA_MINSTACK)) return NULL;
    int top = lua_gettop(L);
    lua_pushcfunction(L, push_words);
    lua_pushlightuserdata(L, &end);
    int status = lua_pcall(L, 1, 1, 0); /* errors, out of memory among them, must not leave through readline */
    if (status != LUA_OK || lua_istable(L, -1)) {
        *repl.rl->attempt_is_all = 1;
        if (status == LUA_OK) matches = repl.rl->completion_matches(text, next_word);
    }
    lua_settop(L, top);
    return matches;
}

/* Tab behind nothing but blanks is a tab: code is indented with it. */
static int tab(int count, int key) {
    readline_api *rl = repl.rl;
    if ((int)strspn(*rl->buffer, " \t") >= *rl->point) return rl->insert(count, key);
    if (*rl->last_function == tab) *rl->last_function = rl->complete; /* the second in a row shows the words */
    return rl->complete(count, key);
}

static void open_terminal(bool noenv) {
    readline_api *rl = repl.rl = load_readline();
    if (!rl) return;
    *rl->name = "mocl";
    *rl->comment_char = '#';
    *rl->write_timestamps = 1;
    rl->using_history();
    rl->stifle_history(HISTORY_ENTRIES);
    rl->bind_key('\t', tab);
    *rl->attempt = complete_word;
    *rl->word_breaks = " \t\n\"'`@$><=;|&{}()[]+-*/%^~#,.:"; /* outside of quotes: in them a file is one word */
    *rl->quotes = "\"'";
    choose_history(noenv);
    if (repl.history[0] && rl->read_history(repl.history) == 0) rl->truncate_history(repl.history, HISTORY_ENTRIES);
}

static void close_terminal(void) {
    free(repl.last_entry);
    repl.last_entry = NULL;
}

/* At once, into the file too: code that is run may end the program. */
static void remember(const char *text) {
    readline_api *rl = repl.rl;
    if (!rl || !*text || (repl.last_entry && strcmp(repl.last_entry, text) == 0)) return;
    rl->add_history(text);
    free(repl.last_entry);
    repl.last_entry = strdup(text);
    if (!repl.history[0] || rl->append_history(1, repl.history) == 0) return;
    make_parents(repl.history); /* there is no such file yet */
    rl->write_history(repl.history);
    chmod(repl.history, 0600);
}

static void on_line(char *line) {
    repl.line = line;
    repl.have_line = true;
    repl.rl->handler_remove(); /* before anything is printed: it resets the terminal */
}

/* Waits with the signals let in only while waiting, so that none falls between test and wait. */
static char *edit_line(const char *prompt) {
    struct pollfd in = {.fd = 0, .events = POLLIN};
    sigset_t block, before;
    sigemptyset(&block);
    sigaddset(&block, SIGINT);
    sigaddset(&block, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &block, &before);
    repl.have_line = false;
    repl.line = NULL;
    repl.rl->handler_install(prompt, on_line);
    while (!repl.have_line && !repl.signal)
        if (ppoll(&in, 1, NULL, &before) > 0) repl.rl->read_char();
    if (!repl.have_line) { /* a signal: leave the line where it stands */
        repl.rl->sigcleanup();
        repl.rl->handler_remove();
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return repl.line;
}

/* ---- lines -------------------------------------------------------------------------------------- */

static char *plain_line(const char *prompt, bool echo) {
    char *line = NULL;
    size_t size = 0;
    fputs(prompt, stdout);
    fflush(stdout);
    ssize_t n = getline(&line, &size, stdin);
    if (n < 0) {
        clearerr(stdin);
        free(line);
        return NULL;
    }
    if (n > 0 && line[n - 1] == '\n') line[n - 1] = '\0';
    if (echo) puts(line);
    return line;
}

typedef enum outcome { LINE, DISCARDED, END } outcome;

/* Pushes the line; nothing unless it returns LINE. */
static outcome push_line(lua_State *L, bool first) {
    int top = lua_gettop(L);
    lua_getglobal(L, first ? "_PROMPT" : "_PROMPT2");
    const char *prompt = lua_isnil(L, -1) ? (first ? "> " : ">> ") : luaL_tolstring(L, -1, NULL);
    bool terminal = isatty(0);
    repl.signal = 0;
    repl.waiting = terminal;
    char *line = repl.rl ? edit_line(prompt) : plain_line(prompt, !terminal);
    repl.waiting = 0;
    lua_settop(L, top);
    if (repl.signal) {
        free(line);
        fputs(repl.rl ? "^C\n" : "\n", stdout);
        return repl.signal == SIGTERM ? END : DISCARDED;
    }
    if (!line) return END;
    lua_pushstring(L, line);
    free(line); /* lost if Lua had no memory for it: then mocl ends anyway */
    return LINE;
}

static bool incomplete(lua_State *L, int status) {
    static const char mark[] = "<eof>";
    size_t n, m = sizeof mark - 1;
    if (status != LUA_ERRSYNTAX) return false;
    const char *message = lua_tolstring(L, -1, &n);
    return n >= m && strcmp(message + n - m, mark) == 0;
}

static int compile(lua_State *L, int idx) {
    size_t n;
    const char *code = lua_tolstring(L, idx, &n);
    return luaL_loadbuffer(L, code, n, "=stdin");
}

/* ---- what mocl.repl says ---- */

/* upvalue 1: the name of a function of mocl.repl; calls it with the arguments */
static int call_words(lua_State *L) {
    lua_getglobal(L, "require");
    lua_pushliteral(L, "mocl.repl");
    lua_call(L, 1, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_gettable(L, -2);
    lua_remove(L, -2);
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

/* Pushes the function of mocl.repl of that name. */
static void push_words_function(lua_State *L, const char *name) {
    lua_pushstring(L, name);
    lua_pushcclosure(L, call_words, 1);
}

/* Calls it with the n values on top. Replaces them by the results; leaves them and nothing else where it fails. */
static bool say(lua_State *L, const char *name, int n) {
    int base = lua_gettop(L) - n;
    if (!lua_checkstack(L, n + LUA_MINSTACK)) return false;
    push_words_function(L, name);
    for (int i = 1; i <= n; i++) lua_pushvalue(L, base + i);
    if (lua_pcall(L, n, LUA_MULTRET, 0) != LUA_OK) {
        lua_settop(L, base + n);
        return false;
    }
    for (int i = 0; i < n; i++) lua_remove(L, base + 1);
    return true;
}

/* upvalue 1: a line that begins with '?' */
static int ask(lua_State *L) {
    push_words_function(L, "ask");
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_call(L, 1, 0);
    return 0;
}

/* upvalue 1: the chunk of an assignment; runs it with what looks at the values */
static int assign(lua_State *L) {
    lua_pushvalue(L, lua_upvalueindex(1));
    push_words_function(L, "assigned");
    lua_call(L, 1, 0);
    return 0;
}

/* stack: code, its chunk. Where it assigns to one name, the chunk becomes one that shows a failure. */
static void watch_assignment(lua_State *L) {
    lua_settop(L, 2);
    lua_pushvalue(L, 1);
    if (say(L, "checked", 1) && lua_type(L, -1) == LUA_TSTRING && compile(L, lua_gettop(L)) == LUA_OK) {
        lua_pushcclosure(L, assign, 1);
        lua_copy(L, -1, 2);
    }
    lua_settop(L, 2);
}

/* Reads an expression, which gets "return" put before it, or a whole statement. Leaves the compiled
** chunk, or an error message, alone on the stack. */
static outcome load_statement(lua_State *L, int *status) {
    lua_settop(L, 0);
    outcome got = push_line(L, true);
    if (got != LINE) return got;
    const char *line = lua_tostring(L, 1);
    if (line[0] == '?') {
        remember(line);
        lua_pushcclosure(L, ask, 1);
        *status = LUA_OK;
        return LINE;
    }
    bool equal = line[0] == '=';
    lua_pushfstring(L, "return %s", line + equal); /* stack: line, expression */
    *status = compile(L, 2);
    bool statement = *status != LUA_OK;
    if (statement) {
        if (equal) lua_copy(L, 2, 1);
        lua_settop(L, 1); /* stack: code */
        while (incomplete(L, *status = compile(L, 1))) {
            lua_settop(L, 1);
            got = push_line(L, false);
            if (got == DISCARDED) return got;
            if (got == END) { /* let the error be shown */
                *status = compile(L, 1);
                break;
            }
            lua_pushliteral(L, "\n");
            lua_insert(L, 2);
            lua_concat(L, 3);
        }
    }
    remember(lua_tostring(L, 1));
    if (*status == LUA_OK && statement) watch_assignment(L);
    lua_replace(L, 1);
    lua_settop(L, 1);
    return LINE;
}

static void print_results(lua_State *L) {
    int n = lua_gettop(L);
    if (n == 0) return;
    luaL_checkstack(L, LUA_MINSTACK, "too many results to print");
    say(L, "results", n);
    n = lua_gettop(L);
    luaL_checkstack(L, LUA_MINSTACK, "too many results to print");
    lua_getglobal(L, "print");
    lua_insert(L, 1);
    if (moclL_call(L, n, 0) != LUA_OK) {
        mocl_complain(lua_pushfstring(L, "error calling 'print' (%s)", lua_tostring(L, -1)), false);
    }
}

/* the globals `mocl`, `help` and `apropos`, where the user has not made them */
static void define_globals(lua_State *L) {
    static const char *const words[] = {"help", "apropos"};
    if (lua_getglobal(L, "mocl") == LUA_TNIL) {
        lua_getglobal(L, "require");
        lua_pushliteral(L, "mocl");
        if (lua_pcall(L, 1, 1, 0) == LUA_OK) lua_setglobal(L, "mocl");
    }
    for (int i = 0; i < 2; i++) {
        if (lua_getglobal(L, words[i]) != LUA_TNIL) continue;
        push_words_function(L, words[i]);
        lua_setglobal(L, words[i]);
    }
    lua_settop(L, 0);
}

static void show_error(lua_State *L) {
    luaL_tolstring(L, -1, NULL);
    say(L, "explain", 1);
    mocl_complain(lua_tostring(L, -1), false);
}

int mocl_repl(lua_State *L) {
    int status = LUA_OK;
    outcome got;
    lua_settop(L, 0);
    repl.L = L;
    define_globals(L);
    lua_pushboolean(L, true);
    say(L, "open", 1);
    lua_settop(L, 0);
    if (isatty(0)) {
        open_terminal(moclL_noenv(L));
        say(L, "banner", 0);
    }
    moclL_end_interrupt(L); /* one that a script before it has caught */
    while ((got = load_statement(L, &status)) != END) {
        if (got == DISCARDED) continue;
        if (status == LUA_OK) status = moclL_call(L, 0, LUA_MULTRET);
        if (status == LUA_OK)
            print_results(L);
        else
            show_error(L);
        moclL_end_interrupt(L);
    }
    lua_settop(L, 0);
    lua_pushboolean(L, false);
    say(L, "open", 1);
    lua_settop(L, 0);
    if (!repl.signal) fputs("\n", stdout);
    fflush(stdout);
    close_terminal();
    return repl.signal;
}
