/* What the container runtime executes: a forwarder without logic of its own.
 *
 * It opens, inside the pod's network namespace, a route netlink socket and the folder of IPv6 interface settings, and sends these
 * with the runtime's request over the front door; it prints the reply and exits with its code. Alone it answers VERSION, missing
 * or malformed CNI_* variables (code 4), and what a dead front door means: ADD code 11, STATUS code 50, DEL kept in the spool.
 * The frame is in frame.h.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "frame.h"

#ifndef SPOOL
#define SPOOL "/var/run/aws-node/spool"
#endif
#define ENV_BYTES (64 * 1024)
#define STDIN_BYTES (1 << 20)
#define TEXT_BYTES 256
#define LINE_BYTES 4096 /* PIPE_BUF: lines of two writers do not mix */
#define LOG_FLAGS (O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK) /* a FIFO must not hold the call */
#define ROTATE_BYTES (100 << 20)
#define ROTATE_FILES 5
#define DESCRIPTORS 6
#define SPOOL_AFTER_MS 3000   /* a DEL that meets no open door this long is kept for later */
#define CONNECT_FIRST_MS 10
#define CONNECT_AT_MOST_MS 100
#define VERSIONS "\"0.1.0\", \"0.2.0\", \"0.3.0\", \"0.3.1\", \"0.4.0\", \"1.0.0\", \"1.1.0\""

enum { NETNS, NETLINK_SOCKET, POD_SYSCTL, HOST_SYSCTL, LOG_FILE, EGRESS_STATE };

static char config[STDIN_BYTES + 1], environment[ENV_BYTES], reply[REPLY_BYTES + 1];
static size_t config_bytes, environment_bytes;
static char cni_version[TEXT_BYTES] = "0.4.0";
static int descriptors[DESCRIPTORS] = {-1, -1, -1, -1, -1, -1};
static int log_fd = -1; /* the descriptor that is passed on, or the runtime's standard error, which is not */
extern char **environ;

static void pause_ms(int ms)
{
    struct timespec wait = {ms / 1000, (ms % 1000) * 1000000L};
    nanosleep(&wait, NULL);
}

static void log_line(const char *level, const char *text, const char *details);

__attribute__((format(printf, 3, 4))) static int fail(int code, const char *details, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fputs("{\n    \"cniVersion\": ", stdout);
    put_json(stdout, cni_version);
    printf(",\n    \"code\": %d,\n    \"msg\": ", code);
    put_json(stdout, text);
    if (details) {
        fputs(",\n    \"details\": ", stdout);
        put_json(stdout, details);
    }
    puts("\n}");
    log_line("error", text, details);
    return 1;
}

/* Skip a JSON string that starts at *at; its raw content is [*at + 1, return value). NULL when it never ends. */
static const char *string_end(const char *at)
{
    for (at++; *at && *at != '"'; at++)
        if (*at == '\\' && !*++at)
            return NULL;
    return *at ? at : NULL;
}

/* Copy the value of a string key, of the first of that name `level` braces deep. Bounded and forgiving: anything unusual leaves
 * `value` as it is. */
static void text_of(int level, const char *key, char *value, size_t room)
{
    int depth = 0;
    size_t length = strlen(key);
    for (const char *at = config; *at; at++) {
        if (*at == '{' || *at == '[') {
            depth++;
        } else if (*at == '}' || *at == ']') {
            depth--;
        } else if (*at == '"') {
            const char *end = string_end(at), *after;
            if (!end)
                return;
            for (after = end + 1; isspace((unsigned char)*after); after++)
                ;
            if (depth == level && *after == ':' && (size_t)(end - at - 1) == length && !memcmp(at + 1, key, length)) {
                for (after++; isspace((unsigned char)*after); after++)
                    ;
                const char *stop = *after == '"' ? string_end(after) : NULL;
                size_t bytes = stop ? (size_t)(stop - after - 1) : 0;
                if (stop && bytes && bytes < room && !memchr(after + 1, '\\', bytes)) {
                    memcpy(value, after + 1, bytes);
                    value[bytes] = 0;
                }
                return;
            }
            at = end;
        }
    }
}

static void top_level(const char *key, char *value, size_t room)
{
    text_of(1, key, value, room);
}

static int read_config(void)
{
    ssize_t got;
    while (config_bytes < STDIN_BYTES && (got = read(0, config + config_bytes, STDIN_BYTES - config_bytes)) != 0) {
        if (got < 0 && errno != EINTR)
            return -1;
        if (got > 0)
            config_bytes += (size_t)got;
    }
    config[config_bytes] = 0;
    return 0;
}

static int gather_environment(void)
{
    for (char **entry = environ; *entry; entry++) {
        size_t bytes = strlen(*entry) + 1;
        if (strncmp(*entry, "CNI_", 4))
            continue;
        if (environment_bytes + bytes > ENV_BYTES)
            return -1;
        memcpy(environment + environment_bytes, *entry, bytes);
        environment_bytes += bytes;
    }
    return 0;
}

/* Close what was opened of a pod whose namespace cannot be entered: a half-open pod is none. Keeps errno; returns -1. */
static int forget_pod(void)
{
    int reason = errno;
    for (int bit = NETNS; bit <= POD_SYSCTL; bit++) {
        if (descriptors[bit] >= 0)
            close(descriptors[bit]);
        descriptors[bit] = -1;
    }
    errno = reason;
    return -1;
}

/* Open the namespace file, and only such a file: whatever else the path names must neither hold nor mislead the call. */
static int open_netns(const char *path)
{
    struct statfs about;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0 && (fstatfs(fd, &about) < 0 || about.f_type != NSFS_MAGIC)) {
        close(fd);
        errno = EINVAL;
        fd = -1;
    }
    return fd;
}

/* Open what lives in the pod's namespace: enter it for a moment. Returns 0, or -1 with errno. */
static int open_pod(const char *path)
{
    int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), reason;
    if (own < 0)
        return -1;
    descriptors[NETNS] = open_netns(path);
    if (descriptors[NETNS] < 0 || setns(descriptors[NETNS], CLONE_NEWNET) < 0) {
        forget_pod();
        reason = errno;
        close(own);
        errno = reason;
        return -1;
    }
    struct sockaddr_nl address = {.nl_family = AF_NETLINK};
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0)
        descriptors[NETLINK_SOCKET] = fd;
    reason = errno;
    descriptors[POD_SYSCTL] = open("/proc/sys/net/ipv6/conf", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (setns(own, CLONE_NEWNET) < 0) {
        fail(999, strerror(errno), "the plugin cannot leave the network namespace %.200s", path);
        exit(1); /* whatever it opened from here on as the host's would be the pod's */
    }
    close(own);
    errno = reason;
    return descriptors[NETLINK_SOCKET] < 0 ? forget_pod() : 0;
}

/* A log that is full becomes PATH.1, and so on; of two calls at once one does it. Returns the descriptor to write to. */
static int rotated(int fd, const char *path)
{
    struct stat ours, named;
    char from[TEXT_BYTES + 16], to[TEXT_BYTES + 16];
    if (fstat(fd, &ours) < 0 || !S_ISREG(ours.st_mode) || ours.st_size < ROTATE_BYTES || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return fd;
    if (stat(path, &named) == 0 && named.st_dev == ours.st_dev && named.st_ino == ours.st_ino) {
        for (int number = ROTATE_FILES; number > 0; number--) {
            snprintf(from, sizeof from, number > 1 ? "%s.%d" : "%s", path, number - 1);
            snprintf(to, sizeof to, "%s.%d", path, number);
            rename(from, to); /* the older ones need not exist */
        }
    }
    close(fd);
    return open(path, LOG_FLAGS | O_CREAT, 0640);
}

/* Open the log the conflist names, for the programmer to write to: it does not see the host's file system.
 *
 * Standard error is never passed on: the runtime waits until nobody holds it, and a stopped programmer would. It is opened anew,
 * because O_NONBLOCK must not reach those who share it. */
static void open_log(void)
{
    char path[TEXT_BYTES] = "stderr";
    top_level("pluginLogFile", path, sizeof path);
    if (!strcasecmp(path, "stderr"))
        log_fd = open("/proc/self/fd/2", LOG_FLAGS);
    else if (*path == '/' && (log_fd = open(path, LOG_FLAGS | O_CREAT, 0640)) >= 0)
        descriptors[LOG_FILE] = log_fd = rotated(log_fd, path);
}

/* Write what only the plugin knows into its log: one write, which may be lost (the form is that of dataplane.md 4.7). */
static void log_line(const char *level, const char *text, const char *details)
{
    char line[LINE_BYTES], msg[LINE_BYTES / 8], stamp[32], least[TEXT_BYTES] = "debug"; /* a byte becomes six at most */
    struct timespec now;
    struct tm utc;
    top_level("pluginLogLevel", least, sizeof least);
    int is_error = !strcmp(level, "error"), is_info = !strcmp(level, "info");
    if (log_fd < 0 || !strcasecmp(least, "fatal") || (!is_error && !strcasecmp(least, "error")) ||
        (is_info && !strncasecmp(least, "warn", 4)))
        return;
    FILE *out = fmemopen(line, sizeof line, "w");
    if (!out)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", gmtime_r(&now.tv_sec, &utc));
    fprintf(out, "{\"level\": \"%s\", \"ts\": \"%s.%03ldZ\", \"caller\": \"cni/aws-cni.c\", \"msg\": ", level, stamp, now.tv_nsec / 1000000);
    snprintf(msg, sizeof msg, "%s %s: %s%s%s", getenv("CNI_COMMAND"), getenv("CNI_CONTAINERID") ? getenv("CNI_CONTAINERID") : "", text,
             details ? ": " : "", details ? details : "");
    put_json(out, msg);
    fputs("}\n", out);
    fflush(out);
    long bytes = ftell(out);
    fclose(out);
    if (bytes > 0 && write(log_fd, line, (size_t)bytes) < 0)
        log_fd = -1; /* full or stuck: the call matters more */
}

/* Send the header with the descriptors that are open, then environment and configuration. */
static int send_request(int fd, int kind, int64_t deadline)
{
    int64_t left_ms = deadline > now_ms() ? deadline - now_ms() : 0;
    struct head head = {"VCNI", 1, (uint16_t)kind, 0, (uint32_t)left_ms, (uint32_t)environment_bytes, (uint32_t)config_bytes};
    int open_ones[DESCRIPTORS], count = 0;
    memcpy(head.magic, "VCNI", 4);
    for (int bit = 0; bit < DESCRIPTORS; bit++) {
        if (descriptors[bit] >= 0) {
            head.mask |= 1u << bit;
            open_ones[count++] = descriptors[bit];
        }
    }
    union {
        char room[CMSG_SPACE(sizeof open_ones)];
        struct cmsghdr aligned;
    } control;
    memset(&control, 0, sizeof control);
    struct iovec part = {&head, sizeof head};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count) {
        message.msg_control = control.room;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
        memcpy(CMSG_DATA(rights), open_ones, sizeof(int) * (size_t)count);
    }
    if (sendmsg(fd, &message, MSG_NOSIGNAL) != (ssize_t)sizeof head)
        return -1;
    return send_all(fd, environment, environment_bytes, deadline) || send_all(fd, config, config_bytes, deadline) ? -1 : 0;
}

/* One try: the exit code of the reply, which is printed; -1 when the connection broke or the deadline passed. */
static int converse(int fd, int kind, int64_t deadline)
{
    struct reply_head head;
    if (send_request(fd, kind, deadline) || receive(fd, (char *)&head, sizeof head, deadline))
        return -1;
    if (memcmp(head.magic, "VCNR", 4) || head.version != 1 || head.bytes > REPLY_BYTES || receive(fd, reply, head.bytes, deadline))
        return -1;
    reply[head.bytes] = 0;
    fwrite(reply, 1, head.bytes, stdout);
    return head.exit_code;
}

/* Open the folder of host-local's reservations for the programmer, which does not see the host's file system. An ADD makes it. */
static void open_egress_state(const char *command)
{
    char path[TEXT_BYTES] = "/var/lib/cni/networks", enabled[TEXT_BYTES] = "";
    text_of(2, "dataDir", path, sizeof path);
    top_level("enabled", enabled, sizeof enabled);
    if (!strcmp(command, "ADD") && !strcmp(enabled, "true")) {
        for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
            *at = 0;
            mkdir(path, 0755); /* most are there; what is missing in the end shows when it is opened */
            *at = '/';
        }
        mkdir(path, 0755);
    }
    descriptors[EGRESS_STATE] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Keep a DEL for later: the programmer replays the folder before it opens its door again. Returns 0, or -1 with errno. */
static int spool(const char *folder)
{
    char temporary[TEXT_BYTES + 64], final[TEXT_BYTES + 64];
    struct timespec now;
    struct head head = {"VCNI", 1, KIND_CNI, 0, 0, (uint32_t)environment_bytes, (uint32_t)config_bytes};
    memcpy(head.magic, "VCNI", 4);
    clock_gettime(CLOCK_REALTIME, &now);
    long long stamp = (long long)now.tv_sec * 1000000000LL + now.tv_nsec;
    snprintf(temporary, sizeof temporary, "%s/%lld-%d.tmp", folder, stamp, (int)getpid());
    snprintf(final, sizeof final, "%s/%lld-%d.req", folder, stamp, (int)getpid());
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return -1;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    errno = ENOSPC; /* what a short write means, which sets no errno itself */
    int bad = write(fd, &head, sizeof head) != (ssize_t)sizeof head || write(fd, environment, environment_bytes) != (ssize_t)environment_bytes ||
              write(fd, config, config_bytes) != (ssize_t)config_bytes || fsync(fd) < 0;
    close(fd);
    if (bad || rename(temporary, final) < 0) {
        int reason = errno;
        unlink(temporary);
        errno = reason;
        return -1;
    }
    int directory = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory >= 0) {
        fsync(directory);
        close(directory);
    }
    return 0;
}

/* Forward until there is an answer or the deadline; a door that opens again is given the same request again. */
static int forward(const char *command, int deadline_ms)
{
    char door[TEXT_BYTES] = FRONT_DOOR, folder[TEXT_BYTES] = SPOOL;
    int64_t start = now_ms(), deadline = start + deadline_ms;
    int wait = CONNECT_FIRST_MS, is_delete = !strcmp(command, "DEL"), reached = 0;
    top_level("frontDoor", door, sizeof door);
    top_level("spoolDir", folder, sizeof folder);
    while (now_ms() < deadline && !(is_delete && !reached && now_ms() - start > SPOOL_AFTER_MS)) {
        int fd = dial(door, deadline);
        if (fd >= 0) {
            reached = 1;
            wait = CONNECT_FIRST_MS;
            int code = converse(fd, KIND_CNI, deadline);
            close(fd);
            if (code >= 0) {
                if (descriptors[LOG_FILE] < 0) /* else the programmer wrote */
                    log_line(code ? "error" : "info", code ? "failed" : "done", reply);
                return code;
            }
        }
        pause_ms(wait);
        wait = wait * 2 > CONNECT_AT_MOST_MS ? CONNECT_AT_MOST_MS : wait * 2;
    }
    const char *state = reached ? "it does not answer" : "nobody listens";
    if (is_delete) {
        if (spool(folder) == 0) {
            log_line("warn", "the deletion is kept for later", state);
            return 0;
        }
        return fail(11, strerror(errno), "the deletion can neither be carried out (%s: %s) nor kept in %s", door, state, folder);
    }
    if (!strcmp(command, "STATUS"))
        return fail(50, "See the aws-node pod of this node", "not ready: %s: %s", door, state);
    return fail(11, "It is restarted by itself; the runtime tries again. See the aws-node pod of this node", "the network programmer is away: %s: %s",
                door, state);
}

static int needs(const char *command, const char *name, const char *for_commands, char *missing, size_t room)
{
    const char *value = getenv(name);
    if (!strstr(for_commands, command) || (value && *value))
        return 0;
    size_t used = strlen(missing);
    snprintf(missing + used, room - used, "%s%s", used ? "," : "", name);
    return 1;
}

/* The CNI specification's names: what is malformed is refused here, so that it never lands in the spool. */
static int is_container_id(const char *text)
{
    for (const char *at = text; *at; at++)
        if (!isalnum((unsigned char)*at) && (at == text || !strchr("_.-", *at)))
            return 0;
    return *text != 0;
}

static int is_interface_name(const char *text)
{
    for (const char *at = text; *at; at++)
        if (strchr("/:", *at) || isspace((unsigned char)*at))
            return 0;
    return *text && strlen(text) < IFNAMSIZ && strcmp(text, ".") && strcmp(text, "..");
}

static int about(void)
{
    fputs("aws-cni: forwards CNI requests to the vpccni node processes\nCNI protocol versions supported: " VERSIONS "\n", stderr);
    return 0;
}

static int version_reply(void)
{
    char asked[TEXT_BYTES] = "1.1.0";
    top_level("cniVersion", asked, sizeof asked);
    fputs("{\"cniVersion\":", stdout);
    put_json(stdout, asked);
    puts(",\"supportedVersions\":[" VERSIONS "]}");
    return 0;
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        int deadline_ms;
    } commands[] = {{"ADD", 20000}, {"DEL", 10000}, {"CHECK", 2000}, {"STATUS", 2000}, {"GC", 10000}};
    const char *own = count && strrchr(arguments[0], '/') ? strrchr(arguments[0], '/') + 1 : count ? arguments[0] : "";
    const char *command = getenv("CNI_COMMAND"), *netns = getenv("CNI_NETNS"), *container = getenv("CNI_CONTAINERID"), *interface = getenv("CNI_IFNAME");
    char missing[TEXT_BYTES] = "";
    if (!command)
        return about();
    if (read_config())
        return fail(5, strerror(errno), "standard input cannot be read");
    top_level("cniVersion", cni_version, sizeof cni_version);
    if (!strcmp(command, "VERSION"))
        return version_reply();
    open_log();
    size_t known = 0;
    while (known < sizeof commands / sizeof *commands && strcmp(commands[known].name, command))
        known++;
    if (known == sizeof commands / sizeof *commands)
        return fail(4, "Use ADD, DEL, CHECK, STATUS, GC or VERSION", "unknown CNI_COMMAND: %.40s", command);
    needs(command, "CNI_CONTAINERID", "ADD CHECK DEL", missing, sizeof missing);
    needs(command, "CNI_NETNS", "ADD CHECK", missing, sizeof missing);
    needs(command, "CNI_IFNAME", "ADD CHECK DEL", missing, sizeof missing);
    needs(command, "CNI_PATH", "ADD CHECK DEL GC STATUS", missing, sizeof missing);
    if (*missing)
        return fail(4, NULL, "required env variables [%s] missing", missing);
    if (container && *container && !is_container_id(container))
        return fail(4, "Letters, digits, and after the first also _ . -", "CNI_CONTAINERID has invalid characters: %.80s", container);
    if (interface && *interface && !is_interface_name(interface))
        return fail(4, "1 to 15 characters without / : and white space", "CNI_IFNAME is no interface name: %.40s", interface);
    if (!strcmp(own, "egress-cni")) {
        environment_bytes = sizeof "VPCCNI_PLUGIN=egress-cni"; /* with its NUL; the room is still empty */
        memcpy(environment, "VPCCNI_PLUGIN=egress-cni", environment_bytes);
        open_egress_state(command);
    }
    if (gather_environment())
        return fail(4, NULL, "the CNI_* variables are longer than %d bytes", ENV_BYTES);
    if (netns && *netns && open_pod(netns) < 0 && strcmp(command, "DEL"))
        return fail(4, errno == EINVAL ? "It is no network namespace" : strerror(errno), "the network namespace %.200s of container %.80s cannot be entered", netns, container ? container : "");
    descriptors[HOST_SYSCTL] = open("/proc/sys/net", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return forward(command, commands[known].deadline_ms);
}
