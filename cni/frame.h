/* The front door's frame and how to talk to it (docs/front-door.md): what plugin and probe have in common.
 *
 * The constants stand in components/netlink_programmer/frontdoor.py too. Nothing here waits past a deadline.
 */
#ifndef VPCCNI_FRAME_H
#define VPCCNI_FRAME_H

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef FRONT_DOOR
#define FRONT_DOOR "/var/run/aws-node/front-door.sock"
#endif
#define REPLY_BYTES (1 << 20)

enum { KIND_CNI = 1, KIND_HEALTH = 2 };

struct head {
    char magic[4];
    uint16_t version, kind;
    uint32_t mask, deadline_ms, env_bytes, stdin_bytes;
};

struct reply_head {
    char magic[4];
    uint16_t version, exit_code;
    uint32_t flags, bytes;
};

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Print text as a JSON string: whatever bytes an error quotes, the reader gets well-formed JSON. */
static void put_json(FILE *out, const char *text)
{
    putc('"', out);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            fprintf(out, "\\u%04x", c);
        else
            putc(c, out);
    }
    putc('"', out);
}

/* Connect, but not past the deadline: a stopped door's backlog fills, and connect would wait for ever. */
static int dial(const char *path, int64_t deadline)
{
    int64_t left_ms = deadline > now_ms() ? deadline - now_ms() : 1; /* 0 would mean: wait for ever */
    struct timeval left = {left_ms / 1000, (left_ms % 1000) * 1000};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = strlen(path) < sizeof address.sun_path ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
    if (fd < 0)
        return -1;
    strcpy(address.sun_path, path);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &left, sizeof left);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static int ready(int fd, short what, int64_t deadline)
{
    struct pollfd wait = {fd, what, 0};
    int64_t left = deadline - now_ms();
    return left > 0 && poll(&wait, 1, (int)left) != 0;
}

static int send_all(int fd, const char *data, size_t bytes, int64_t deadline)
{
    while (bytes) {
        ssize_t sent = send(fd, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && (errno == EINTR || errno == EAGAIN) && ready(fd, POLLOUT, deadline))
            continue;
        if (sent <= 0)
            return -1;
        data += sent;
        bytes -= (size_t)sent;
    }
    return 0;
}

static int receive(int fd, char *data, size_t bytes, int64_t deadline)
{
    while (bytes) {
        if (!ready(fd, POLLIN, deadline))
            return -1;
        ssize_t got = recv(fd, data, bytes, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1;
        data += got;
        bytes -= (size_t)got;
    }
    return 0;
}

#endif
