/* signals.c - what the program mocl does when a signal arrives, and after a library took its handlers away */
#define _POSIX_C_SOURCE 200809L
#include "signals.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#include "repl.h"

static moclL_host *host;
static pthread_t main_thread;
static timer_t again; /* sends SIGINT to look whether an interruption has arrived */
static bool have_timer;
static volatile sig_atomic_t looks; /* how often it has */
static bool pipe_ignored; /* whoever started the program ignores SIGPIPE */

moclL_host *mocl_program_host(void) { return host; }

static void end_by(int number) {
    signal(number, SIG_DFL);
    raise(number); /* takes effect when the handler returns */
}

/* The first look finds out whether the interruption arrived at all, the second whether code that catches all errors
** swallowed it. */
static void look_again(bool first) {
    const struct itimerspec soon = {.it_value = {.tv_nsec = 300 * 1000 * 1000}}, late = {.it_value = {.tv_sec = 1}};
    looks = !first;
    if (have_timer) timer_settime(again, 0, first ? &soon : &late, NULL);
}

static void on_signal(int number, siginfo_t *info, void *context) {
    (void)context;
    int saved = errno;
    if (info->si_code == SI_TIMER) {
        if (looks ? moclL_unanswered(host) : moclL_undelivered(host)) end_by(atomic_load(&host->signal));
        else if (!looks) look_again(false);
    } else if (!pthread_equal(pthread_self(), main_thread)) {
        pthread_kill(main_thread, number); /* so that what the main thread waits for ends too */
    } else if (!mocl_repl_signal(number)) {
        switch (moclL_signal(host, number)) {
        case MOCLL_END: end_by(number); break;
        case MOCLL_LOOK_AGAIN: look_again(true); break;
        case MOCLL_GO_ON: break;
        }
    }
    errno = saved;
}

static void do_nothing(int number) { (void)number; }

/* No SA_RESTART: a read from a terminal ends too, and the next instruction raises the error. */
static void catch(int number) {
    struct sigaction act = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(number, &act, NULL);
}

/* Puts the handlers back where a library left the default action behind, as libuv does when it stops watching a signal. */
static void restore_handlers(void) {
    static bool said;
    static const int numbers[] = {SIGINT, SIGTERM};
    for (int i = 0; i < 2; i++) {
        struct sigaction now;
        if (sigaction(numbers[i], NULL, &now) || (now.sa_flags & SA_SIGINFO) || now.sa_handler != SIG_DFL) continue;
        catch(numbers[i]);
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
    catch(SIGINT);
    catch(SIGTERM);
    sigaction(SIGXFSZ, &act, NULL);
}

void mocl_release_signals(void) {
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    if (have_timer) timer_delete(again);
    have_timer = false;
    host->look = NULL;
    host = NULL;
}
