/* The first process of a container that runs one component: starts it, and starts it again at once when it ends.
 *
 * kubelet would wait 10 to 300 s before it starts a container again; pods' ADDs must not. A component that dies again and again
 * slows its own starts down (shared/flapping.py); here only a program that cannot even begin is held back. As process 1 it also
 * buries orphans and passes signals on. SIGTERM and SIGINT end both: the component's exit code is the container's.
 *
 *     vpccni-keep COMMAND [ARGUMENT...]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BRIEF_MS 100 /* who ends sooner has not begun: no Python starts in that time */
#define WAIT_FIRST_MS 100
#define WAIT_AT_MOST_MS 10000
#define NO_PROGRAM 127

static const int passed_on[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};
static volatile sig_atomic_t child, ending;
static sigset_t usual, held; /* signals as they were, and with those that are passed on held back */

static void pass_on(int number)
{
    if (number == SIGTERM || number == SIGINT)
        ending = 1;
    if (child > 0)
        kill(child, number);
}

static long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Wait for the component, burying whoever else ends. Returns its exit code as a shell would tell it. */
static int wait_for_child(void)
{
    int status;
    for (;;) {
        pid_t ended = waitpid(-1, &status, 0);
        if (ended < 0 && errno != EINTR)
            return NO_PROGRAM;
        if (ended == child)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
}

/* Start the component. Signals are held back meanwhile: each finds the child known, and in its own hands. */
static int start(char **command)
{
    sigprocmask(SIG_SETMASK, &held, NULL);
    pid_t started = ending ? -1 : fork();
    if (started == 0) {
        for (size_t at = 0; at < sizeof passed_on / sizeof *passed_on; at++)
            signal(passed_on[at], SIG_DFL);
        sigprocmask(SIG_SETMASK, &usual, NULL);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        execvp(command[0], command);
        fprintf(stderr, "vpccni-keep: %s: %s\n", command[0], strerror(errno));
        _exit(NO_PROGRAM);
    }
    child = started;
    sigprocmask(SIG_SETMASK, &usual, NULL);
    return started < 0 ? -1 : 0;
}

/* Sleep, unless the end has been asked for: a signal that comes just before the sleep ends it too. */
static void pause_ms(long ms)
{
    struct timespec wait = {ms / 1000, ms % 1000 * 1000000L};
    sigprocmask(SIG_SETMASK, &held, NULL);
    if (!ending)
        pselect(0, NULL, NULL, NULL, &wait, &usual);
    sigprocmask(SIG_SETMASK, &usual, NULL);
}

int main(int count, char **arguments)
{
    struct sigaction action = {.sa_handler = pass_on};
    long wait_ms = WAIT_FIRST_MS;
    if (count < 2) {
        fputs("vpccni-keep COMMAND [ARGUMENT...]\n", stderr);
        return 1;
    }
    sigprocmask(SIG_SETMASK, NULL, &usual);
    held = usual;
    for (size_t at = 0; at < sizeof passed_on / sizeof *passed_on; at++) {
        sigaddset(&held, passed_on[at]);
        sigaction(passed_on[at], &action, NULL);
    }
    for (int code = 0;;) {
        long began = now_ms();
        if (start(arguments + 1) == 0)
            code = wait_for_child();
        else if (!ending)
            fprintf(stderr, "vpccni-keep: no process can be started: %s\n", strerror(errno));
        child = 0;
        if (ending)
            return code;
        fprintf(stderr, "vpccni-keep: %s ended with %d, it is started again\n", arguments[1], code);
        if (now_ms() - began >= BRIEF_MS) {
            wait_ms = WAIT_FIRST_MS;
            continue;
        }
        pause_ms(wait_ms);
        wait_ms = wait_ms * 2 > WAIT_AT_MOST_MS ? WAIT_AT_MOST_MS : wait_ms * 2;
    }
}
