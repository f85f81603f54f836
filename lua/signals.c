/* signals.c - what the program mocl does when a signal arrives, and after a library took its handlers away */
#define _POSIX_C_SOURCE 200809L
#include "signals.h"

#include <errno.h>
#include <lualib.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "complain.h"
#include "interrupt.h"
#include "repl.h"

static moclL_host *host;
static pthread_t main_thread;
static timer_t again; /* sends SIGINT to look whether an interruption has arrived */
static bool have_timer;
static volatile sig_atomic_t question; /* that is asked then */
enum { HAS_ARRIVED, HAS_ARRIVED_OR_IS_ANSWERED, IS_ANSWERED };
static bool pipe_ignored; /* whoever started the program ignores SIGPIPE */

moclL_host *mocl_program_host(void) { return host; }

static void end_by(int number) {
    signal(number, SIG_DFL);
    raise(number); /* takes effect when the handler returns */
}

static void ask_later(int what, int ms) {
    const struct itimerspec then = {.it_value = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}};
    question = what;
    if (have_timer) timer_settime(again, 0, &then, NULL);
}

/* Has the interruption arrived at all? Where it may have been swallowed by code that catches all errors, a second look
** asks for an answer. */
static void ask_now(void) {
    enum { ANSWER_MS = 1000 };
    if (question == IS_ANSWERED ? moclL_unanswered(host) : moclL_undelivered(host)) end_by(atomic_load(&host->signal));
    else if (question == HAS_ARRIVED_OR_IS_ANSWERED) ask_later(IS_ANSWERED, ANSWER_MS);
}

static void renew_handlers(void);

/* Who sends SIGTERM once and waits for the end loses patience after ten seconds or more, and kills. */
enum { PATIENCE_MS = 5000 };

static void on_signal(int number, siginfo_t *info, void *context) {
    (void)context;
    enum { SOON_MS = 300 };
    int saved = errno;
    if (info->si_code == SI_TIMER) {
        ask_now();
    } else if (!pthread_equal(pthread_self(), main_thread)) {
        pthread_kill(main_thread, number); /* so that what the main thread waits for ends too */
    } else if (!mocl_repl_signal(number)) {
        switch (moclL_signal(host, number)) {
        case MOCLL_END: end_by(number); break;
        case MOCLL_LOOK_AGAIN: ask_later(HAS_ARRIVED_OR_IS_ANSWERED, SOON_MS); break;
        case MOCLL_GO_ON:
            if (number == SIGTERM && moclL_undelivered(host)) ask_later(HAS_ARRIVED, PATIENCE_MS);
            renew_handlers();
            break;
        }
    }
    errno = saved;
}

static void do_nothing(int number) { (void)number; }

/* A signal that interrupts ends a read from a terminal or a pipe too, and the next instruction raises the error. One
** that is only noted leaves it alone: what is read would be cut, and no error would say why. */
static void catch(int number) {
    struct sigaction act = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    if (moclL_notes_next(host)) act.sa_flags |= SA_RESTART;
    sigaction(number, &act, NULL);
}

static const int caught[] = {SIGINT, SIGTERM};
enum { CAUGHT = sizeof caught / sizeof *caught };

static bool is_ours(const struct sigaction *a) { return (a->sa_flags & SA_SIGINFO) && a->sa_sigaction == on_signal; }

/* For what the next signal will do now; those of libraries stay. */
static void renew_handlers(void) {
    struct sigaction now;
    for (int i = 0; i < CAUGHT; i++)
        if (sigaction(caught[i], NULL, &now) == 0 && is_ours(&now)) catch(caught[i]);
}

/* Puts the handlers back where a library left the default action behind, as libuv does when it stops watching a signal. */
static void restore_handlers(void) {
    static bool said;
    for (int i = 0; i < CAUGHT; i++) {
        struct sigaction now;
        if (sigaction(caught[i], NULL, &now) || (now.sa_flags & SA_SIGINFO) || now.sa_handler != SIG_DFL) continue;
        catch(caught[i]);
        if (!said) mocl_complain("a library took the handler of a signal away; it is back, so that Ctrl-C saves the run", true);
        said = true;
    }
}

/* Ends the program as SIGPIPE would where nobody reads its output any more, and a library has that signal ignored. */
static void end_without_reader(void) {
    struct sigaction now;
    struct pollfd out = {.fd = 1};
    if (pipe_ignored || sigaction(SIGPIPE, NULL, &now) || (now.sa_flags & SA_SIGINFO) || now.sa_handler != SIG_IGN) return;
    if (poll(&out, 1, 0) == 1 && (out.revents & POLLERR)) end_by(SIGPIPE);
}

static void look(void) {
    restore_handlers();
    renew_handlers();
    end_without_reader();
}

void mocl_catch_signals(moclL_host *h) {
    struct sigaction act = {.sa_handler = do_nothing}, was;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGINT};
    host = h;
    h->look = look;
    main_thread = pthread_self();
    have_timer = timer_create(CLOCK_MONOTONIC, &event, &again) == 0;
    pipe_ignored = sigaction(SIGPIPE, NULL, &was) == 0 && !(was.sa_flags & SA_SIGINFO) && was.sa_handler == SIG_IGN;
    for (int i = 0; i < CAUGHT; i++) catch(caught[i]);
    sigaction(SIGXFSZ, &act, NULL);
}

/* os.execute has SIGINT ignored while it waits, so that a Ctrl-C on the terminal reaches the command alone. Where the
** command has ended by it, the program hears of it here. Upvalue 1: Lua's own function. */
static int execute(lua_State *L) {
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    bool by_signal = lua_gettop(L) == 3 && lua_type(L, 2) == LUA_TSTRING && strcmp(lua_tostring(L, 2), "signal") == 0;
    if (by_signal && lua_tointeger(L, 3) == SIGINT) raise(SIGINT);
    return lua_gettop(L);
}

void mocl_hear_commands(lua_State *L) {
    lua_getglobal(L, LUA_OSLIBNAME);
    lua_getfield(L, -1, "execute");
    lua_pushcclosure(L, execute, 1);
    lua_setfield(L, -2, "execute");
    lua_pop(L, 1);
}

/* What is left to do may still wait for others, a file of io.popen for its command. */
void mocl_release_signals(void) {
    int number = atomic_load(&host->signal);
    bool last = moclL_unanswered(host) && (number == SIGTERM || atomic_load(&host->flag_mode));
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = number};
    for (int i = 0; i < CAUGHT; i++) signal(caught[i], SIG_DFL);
    if (have_timer) timer_delete(again);
    have_timer = last && timer_create(CLOCK_MONOTONIC, &event, &again) == 0;
    ask_later(HAS_ARRIVED, PATIENCE_MS); /* the default action takes place then */
    have_timer = false;
    host->look = NULL;
    host = NULL;
}
