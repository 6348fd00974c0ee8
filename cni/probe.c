/* The health probe of the pod's containers, under the reference's name, flags and exit codes (spec operations.md 12).
 *
 * The reference's addresses stand for the front door, whose answer is the network programmer's own state. `-service` chooses the
 * question:
 *     nothing, "grpc.health.v1.aws-node", "readiness"   is this node's CNI ready? While it starts: no
 *     NAME[,NAME...]                                     do these processes answer? Asked at their own bus sockets, by
 *                                                        one GetStatus each; any state is life
 *     "liveness"                                         do the processes of this container (VPCCNI_PROCESSES) answer? Without
 *                                                        the variable the front door is asked, and may still be starting
 * Exit codes: 0 serving or degraded, 1 bad arguments, 2 no connection in time, 3 no (or no sane) answer in time, 4 not serving.
 * One line of JSON on standard error says which, and why. It starts in a millisecond: kubelet runs it every 10 s.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>

#include "frame.h"

#ifndef RUN_DIR
#define RUN_DIR "/var/run/aws-node"
#endif
#define DEFAULT_MS 1000
#define AT_MOST_MS (3600 * 1000)
#define RETRY_MS 20 /* between two tries to connect: a process that is restarted is back in some 300 ms */
#define TEXT_BYTES 256
#define LINE_BYTES 4096
#define LONG_FRAME_BYTES 9

enum { SERVING = 0, BAD_ARGUMENTS = 1, NO_CONNECTION = 2, NO_ANSWER = 3, NOT_SERVING = 4 };
enum { MORE = 1, LONG = 2, COMMAND = 4 }; /* flags of a ZMTP frame */

static const char *address, *service = "", *user_agent = "grpc-health-probe";
static int connect_ms = DEFAULT_MS, rpc_ms = DEFAULT_MS, verbose;
static char reply[REPLY_BYTES + 1];

__attribute__((format(printf, 2, 3))) static int say(int code, const char *format, ...)
{
    static const char *const levels[] = {"info", "fatal", "error", "error", "warn"};
    static const char *const states[] = {"SERVING", "UNKNOWN", "UNREACHABLE", "UNANSWERED", "NOT_SERVING"};
    char text[LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "{\"level\": \"%s\", \"status\": \"%s\", \"msg\": ", levels[code], states[code]);
    put_json(stderr, text);
    fputs("}\n", stderr);
    return code;
}

/* Go's durations: a number with a unit, or several of them ("1m30s", "1.5s", "500ms"). -1 when it is none. */
static int duration_ms(const char *text)
{
    static const struct {
        const char *name;
        double ms;
    } units[] = {{"ns", 1e-6}, {"us", 1e-3}, {"ms", 1}, {"s", 1000}, {"m", 60e3}, {"h", 3600e3}};
    double sum = 0;
    if (!*text)
        return -1;
    while (*text) {
        char *end;
        size_t unit = 0, length;
        if (!isdigit((unsigned char)*text))
            return -1;
        double number = strtod(text, &end);
        for (length = 0; isalpha((unsigned char)end[length]); length++)
            ;
        while (unit < sizeof units / sizeof *units && (strlen(units[unit].name) != length || strncmp(units[unit].name, end, length)))
            unit++;
        if (unit == sizeof units / sizeof *units)
            return -1;
        sum += number * units[unit].ms;
        if (sum > AT_MOST_MS)
            return -1;
        text = end + length;
    }
    return sum < 1 ? 1 : (int)sum;
}

static int usage(void)
{
    fputs("grpc-health-probe -addr=ADDRESS [-service=NAME] [-connect-timeout=1s] [-rpc-timeout=1s] [-user-agent=TEXT] [-v]\n"
          "  -addr     :50051, unix:///var/run/aws-node/ipamd.sock: this node's CNI; unix://PATH: the front door there\n"
          "  -service  nothing or readiness; liveness; or names of processes, e.g. ip_allocator,eni_manager\n",
          stderr);
    return SERVING;
}

/* Take one flag with its value, in whichever of Go's four forms it is written. Returns how many arguments it took, 0: refused. */
static int take_flag(char **arguments)
{
    const struct {
        const char *name;
        const char **text;
        int *ms;
    } flags[] = {{"addr", &address, NULL},     {"service", &service, NULL},    {"user-agent", &user_agent, NULL},
                 {"connect-timeout", NULL, &connect_ms}, {"rpc-timeout", NULL, &rpc_ms}, {"v", NULL, &verbose}};
    const char *name = arguments[0];
    if (*name++ != '-')
        return 0;
    name += *name == '-';
    size_t length = strcspn(name, "="), which = 0;
    while (which < sizeof flags / sizeof *flags && (strlen(flags[which].name) != length || strncmp(flags[which].name, name, length)))
        which++;
    if (which == sizeof flags / sizeof *flags)
        return 0;
    const char *value = name[length] ? name + length + 1 : NULL;
    if (flags[which].ms == &verbose) {
        verbose = !value || !strcmp(value, "true") || !strcmp(value, "1");
        return 1;
    }
    int took = value ? 1 : 2;
    if (!value && !(value = arguments[1]))
        return 0;
    if (flags[which].text)
        *flags[which].text = value;
    else if ((*flags[which].ms = duration_ms(value)) < 0)
        return 0;
    return took;
}

/* Where the front door is for one of the reference's addresses, into `path`. -1: it names no place of this system. */
static int door_of(const char *run_dir, char *path, size_t room)
{
    static const char *const hosts[] = {"", "localhost", "127.0.0.1", "[::1]", "0.0.0.0", "[::]"};
    const char *colon = strrchr(address, ':');
    if (!strncmp(address, "unix:", 5)) {
        const char *place = address + 5;
        while (place[0] == '/' && place[1] == '/')
            place++;
        const char *slash = strrchr(place, '/');
        int is_theirs = !strcmp(slash ? slash + 1 : place, "ipamd.sock");
        return snprintf(path, room, "%s%s", is_theirs ? run_dir : place, is_theirs ? "/front-door.sock" : "") < (int)room ? 0 : -1;
    }
    for (size_t host = 0; host < sizeof hosts / sizeof *hosts; host++)
        if (colon && !strcmp(colon, ":50051") && strlen(hosts[host]) == (size_t)(colon - address) && !strncmp(hosts[host], address, strlen(hosts[host])))
            return snprintf(path, room, "%s/front-door.sock", run_dir) < (int)room ? 0 : -1;
    return -1;
}

/* Connect, trying again until the deadline as the reference's client does: a process may be on its way back. */
static int dial_patiently(const char *path, int64_t deadline)
{
    struct timespec wait = {0, RETRY_MS * 1000000L};
    for (;;) {
        int fd = dial(path, deadline);
        if (fd >= 0 || now_ms() + RETRY_MS >= deadline)
            return fd;
        nanosleep(&wait, NULL);
    }
}

/* Ask the front door. Its answer is the state's word on the first line and a reason a line after it. */
static int ask_door(const char *path)
{
    struct head head = {"", 1, KIND_HEALTH, 0, (uint32_t)rpc_ms, 0, 0};
    struct reply_head answer;
    int is_liveness = !strcmp(service, "liveness");
    int fd = dial_patiently(path, now_ms() + connect_ms);
    int64_t deadline = now_ms() + rpc_ms;
    memcpy(head.magic, "VCNI", 4);
    if (fd < 0)
        return say(NO_CONNECTION, "dead: nobody listens at %s for %d ms", path, connect_ms);
    if (send_all(fd, (char *)&head, sizeof head, deadline) || receive(fd, (char *)&answer, sizeof answer, deadline))
        return say(NO_ANSWER, "dead: %s does not answer within %d ms", path, rpc_ms);
    if (memcmp(answer.magic, "VCNR", 4) || answer.version != 1 || answer.bytes > REPLY_BYTES)
        return say(NO_ANSWER, "dead: %s answers, but not as a front door", path);
    if (receive(fd, reply, answer.bytes, deadline))
        return say(NO_ANSWER, "dead: %s does not end its answer within %d ms", path, rpc_ms);
    char *reasons = reply, *state = strsep(&reasons, "\n");
    size_t end = reasons ? strlen(reasons) : 0;
    if (end && reasons[end - 1] == '\n')
        reasons[--end] = 0;
    for (char *at = reasons; at && (at = strchr(at, '\n'));)
        *at = ';';
    int is_up = !answer.exit_code && (is_liveness || !strcmp(state, "serving") || !strcmp(state, "degraded"));
    return say(is_up ? SERVING : NOT_SERVING, "%.100s%s%.3000s", state, end ? ": " : "", end ? reasons : "");
}

/* Receive one ZMTP frame's body into `reply`. Returns its bytes, -1 when it never comes or is too long. */
static int64_t receive_frame(int fd, unsigned char *flags, int64_t deadline)
{
    unsigned char size[8] = {0};
    uint64_t bytes = 0;
    if (receive(fd, (char *)flags, 1, deadline) || receive(fd, (char *)size, *flags & LONG ? 8 : 1, deadline))
        return -1;
    for (int at = 0; at < (*flags & LONG ? 8 : 1); at++)
        bytes = bytes << 8 | size[at];
    return bytes > REPLY_BYTES || receive(fd, reply, bytes, deadline) ? -1 : (int64_t)bytes;
}

/* The value of the Status message's key `state`: MessagePack's short strings. NULL when there is none. */
static const char *state_in(int64_t bytes)
{
    static const char key[] = "\xa5state";
    char *found = memmem(reply, (size_t)bytes, key, sizeof key - 1);
    unsigned char *value = (unsigned char *)found + sizeof key - 1;
    if (!found || found + sizeof key - 1 >= reply + bytes || (*value & 0xe0) != 0xa0 || (char *)value + 1 + (*value & 0x1f) > reply + bytes)
        return NULL;
    value[1 + (*value & 0x1f)] = 0; /* inside `reply`, which has a byte to spare */
    return (char *)value + 1;
}

/* Ask one process at its ZeroMQ socket (ZMTP 3.0, mechanism NULL, as a DEALER). Only a fault says something. */
static int ask_process(const char *run_dir, const char *name)
{
    static const char greeting[64] = "\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL";
    static const char hello[] = "\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06" "DEALER";
    static const char request[] = "\x96\x01\xc4\x05probe\xa0\0\xa0\x81\xa4type\xb1" "common.get_status"; /* shared/codec.py */
    static const char request_head[] = {0, sizeof request - 1};
    char path[TEXT_BYTES], theirs[sizeof greeting];
    unsigned char flags;
    if (snprintf(path, sizeof path, "%s/bus/%s.rpc", run_dir, name) >= (int)sizeof path || strchr(name, '/'))
        return say(BAD_ARGUMENTS, "no name of a process: %.100s", name);
    int fd = dial_patiently(path, now_ms() + connect_ms);
    if (fd < 0)
        return say(NO_CONNECTION, "dead: nobody listens at %s for %d ms", path, connect_ms);
    int64_t deadline = now_ms() + rpc_ms, bytes = -1;
    /* Their READY is waited for: libzmq refuses a message from whom it has not yet let in. */
    if (send_all(fd, greeting, sizeof greeting, deadline) == 0 && receive(fd, theirs, sizeof theirs, deadline) == 0 &&
        send_all(fd, hello, sizeof hello - 1, deadline) == 0 && receive_frame(fd, &flags, deadline) >= 0 && flags & COMMAND &&
        send_all(fd, request_head, sizeof request_head, deadline) == 0 && send_all(fd, request, sizeof request - 1, deadline) == 0) {
        do {
            bytes = receive_frame(fd, &flags, deadline);
        } while (bytes >= 0 && flags & (COMMAND | MORE));
    }
    close(fd);
    const char *state = bytes < 0 ? NULL : state_in(bytes);
    if (!state)
        return say(NO_ANSWER, "dead: %s does not tell its state within %d ms", path, rpc_ms);
    if (verbose)
        say(SERVING, "%s: %s", name, state);
    return SERVING;
}

static int ask_processes(const char *run_dir)
{
    char names[TEXT_BYTES], *rest = names;
    if (snprintf(names, sizeof names, "%s", service) >= (int)sizeof names)
        return say(BAD_ARGUMENTS, "-service is longer than %d bytes", TEXT_BYTES);
    for (char *name; (name = strsep(&rest, ","));) {
        int code = ask_process(run_dir, name);
        if (code)
            return code;
    }
    return say(SERVING, "alive: %s", service);
}

int main(int count, char **arguments)
{
    static const char *const door_services[] = {"", "grpc.health.v1.aws-node", "readiness", "liveness"};
    const char *run_dir = getenv("VPCCNI_RUN_DIR") ? getenv("VPCCNI_RUN_DIR") : RUN_DIR;
    const char *processes = getenv("VPCCNI_PROCESSES");
    char door[TEXT_BYTES];
    for (int at = 1, took; at < count; at += took) {
        if (!strcmp(arguments[at], "-h") || !strcmp(arguments[at], "-help") || !strcmp(arguments[at], "--help"))
            return usage();
        if (!(took = take_flag(arguments + at)))
            return say(BAD_ARGUMENTS, "unknown flag or bad value: %.100s", arguments[at]);
    }
    if (!address)
        return say(BAD_ARGUMENTS, "-addr is missing");
    if (door_of(run_dir, door, sizeof door))
        return say(BAD_ARGUMENTS, "-addr=%.100s is no place of this system; use :50051 or unix://PATH", address);
    if (verbose)
        say(SERVING, "asking %s (%s) at %s as %s", door, *service ? service : "readiness", address, user_agent);
    if (!strcmp(service, "liveness") && processes && *processes)
        service = processes;
    for (size_t at = 0; at < sizeof door_services / sizeof *door_services; at++)
        if (!strcmp(service, door_services[at]))
            return ask_door(door);
    return ask_processes(run_dir);
}
