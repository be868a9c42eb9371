/*
 * The endpoint that pushed jobs are delivered to: answers every request at once, so that it is never what a push
 * benchmark measures. One thread, epoll, HTTP/1.1 with keep-alive and pipelining, Content-Length bodies, loopback only.
 *
 *   endpoint [PORT]        PORT 0, the default, takes a free one; the first line on stdout says "listening PORT"
 *
 *   GET  /stats            {"count":N,"first_us":T,"last_us":T,"latencies":N}
 *   GET  /latencies        [microseconds, …]: one per request whose body holds "sent_us":T, in order of arrival
 *   POST /reset            forgets all of the above
 *   anything else          counted; 200 {"ok":true}
 *
 * Times are CLOCK_MONOTONIC microseconds, which every process of one Linux machine shares (Python: monotonic_ns).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_REQUEST (32u << 20)
#define MAX_LATENCIES (1u << 20)

struct buffer {
    char *at;
    size_t length, capacity;
};

struct connection {
    int fd;
    int closing; /* answer what is queued, then close */
    struct buffer in, out;
    size_t sent;
};

static uint64_t count, first_us, last_us;
static uint32_t latencies_us[MAX_LATENCIES];
static size_t latencies;

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void reserve(struct buffer *b, size_t extra) {
    if (b->length + extra <= b->capacity) return;
    size_t capacity = b->capacity ? b->capacity : 4096;
    while (capacity < b->length + extra) capacity *= 2;
    b->at = realloc(b->at, capacity);
    if (!b->at) abort();
    b->capacity = capacity;
}

static void append(struct buffer *b, const char *bytes, size_t length) {
    reserve(b, length);
    memcpy(b->at + b->length, bytes, length);
    b->length += length;
}

static void append_format(struct buffer *b, const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    append(b, text, (size_t)length);
}

static void answer_json(struct connection *c, const char *body, size_t length) {
    append_format(&c->out, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n", length);
    append(&c->out, body, length);
}

static void answer_stats(struct connection *c) {
    struct buffer body = {0};
    append_format(&body, "{\"count\":%llu,\"first_us\":%llu,\"last_us\":%llu,\"latencies\":%zu}",
                  (unsigned long long)count, (unsigned long long)first_us, (unsigned long long)last_us, latencies);
    answer_json(c, body.at, body.length);
    free(body.at);
}

static void answer_latencies(struct connection *c) {
    struct buffer body = {0};
    append(&body, "[", 1);
    for (size_t i = 0; i < latencies; i++) append_format(&body, i ? ",%u" : "%u", latencies_us[i]);
    append(&body, "]", 1);
    answer_json(c, body.at, body.length);
    free(body.at);
}

/* A job of the latency scenario carries the moment it was sent, on the clock we read here. */
static void note_latency(const char *body, size_t length, uint64_t now) {
    static const char marker[] = "\"sent_us\":";
    const char *end = body + length;
    const char *at = memmem(body, length, marker, sizeof marker - 1);
    if (!at || latencies == MAX_LATENCIES) return;
    uint64_t sent = 0;
    for (at += sizeof marker - 1; at < end && (*at == ' '); at++) {}
    for (; at < end && *at >= '0' && *at <= '9'; at++) sent = sent * 10 + (uint64_t)(*at - '0');
    latencies_us[latencies++] = now > sent ? (uint32_t)(now - sent) : 0;
}

static void answer_pushed_job(struct connection *c, const char *body, size_t length) {
    static const char whole[] =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"ok\":true}";
    uint64_t now = now_us();
    if (!count++) first_us = now;
    last_us = now;
    note_latency(body, length, now);
    append(&c->out, whole, sizeof whole - 1);
}

static int starts(const char *text, size_t length, const char *prefix) {
    size_t n = strlen(prefix);
    return length >= n && !memcmp(text, prefix, n);
}

static void route(struct connection *c, const char *head, size_t head_length, const char *body, size_t body_length) {
    if (starts(head, head_length, "GET /stats ")) answer_stats(c);
    else if (starts(head, head_length, "GET /latencies ")) answer_latencies(c);
    else if (starts(head, head_length, "POST /reset ")) {
        count = first_us = last_us = 0;
        latencies = 0;
        answer_json(c, "{}", 2);
    } else answer_pushed_job(c, body, body_length);
}

static void refuse(struct connection *c, const char *status) {
    append_format(&c->out, "HTTP/1.1 %s\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", status);
    c->closing = 1;
}

/* Reads Content-Length and Connection out of the head. False when the body is framed in a way we do not read. */
static int read_headers(struct connection *c, const char *head, const char *end, size_t *body_length) {
    *body_length = 0;
    const char *line = memchr(head, '\n', (size_t)(end - head));
    while (line && ++line < end) {
        size_t left = (size_t)(end - line);
        if (left > 15 && !strncasecmp(line, "content-length:", 15)) *body_length = strtoull(line + 15, NULL, 10);
        else if (left > 18 && !strncasecmp(line, "transfer-encoding:", 18)) return 0;
        else if (left > 17 && !strncasecmp(line, "connection: close", 17)) c->closing = 1;
        line = memchr(line, '\n', left);
    }
    return 1;
}

/* Answers every whole request in the input buffer and keeps the unfinished rest. */
static void answer_all(struct connection *c) {
    size_t done = 0;
    while (done < c->in.length && !c->closing) {
        const char *head = c->in.at + done;
        size_t left = c->in.length - done, body_length;
        const char *end = memmem(head, left, "\r\n\r\n", 4);
        if (!end) {
            if (left > 65536) refuse(c, "431 Request Header Fields Too Large");
            break;
        }
        size_t head_length = (size_t)(end - head) + 4;
        if (!read_headers(c, head, end + 2, &body_length)) {
            refuse(c, "411 Length Required");
            break;
        }
        if (body_length > MAX_REQUEST) {
            refuse(c, "413 Content Too Large");
            break;
        }
        if (left < head_length + body_length) {
            c->closing = 0; /* judged again when the request is whole */
            break;
        }
        route(c, head, head_length, head + head_length, body_length);
        done += head_length + body_length;
    }
    memmove(c->in.at, c->in.at + done, c->in.length - done);
    c->in.length -= done;
}

static void drop(struct connection *c) {
    close(c->fd);
    free(c->in.at);
    free(c->out.at);
    free(c);
}

/* Writes what is queued. False when the connection is finished with. */
static int flush(int poller, struct connection *c) {
    while (c->sent < c->out.length) {
        ssize_t n = write(c->fd, c->out.at + c->sent, c->out.length - c->sent);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) return 0;
            struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
            epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
            return 1;
        }
        c->sent += (size_t)n;
    }
    c->out.length = c->sent = 0;
    return !c->closing;
}

/* Reads once (epoll is level-triggered: what is left wakes us again). False when the connection is finished with. */
static int receive(struct connection *c) {
    reserve(&c->in, 16384);
    ssize_t n = read(c->fd, c->in.at + c->in.length, c->in.capacity - c->in.length);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return 0;
    if (n > 0) {
        c->in.length += (size_t)n;
        answer_all(c);
    }
    return 1;
}

static void accept_all(int poller, int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = calloc(1, sizeof *c);
        if (!c) abort();
        c->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

static void serve_one(int poller, struct epoll_event *event) {
    struct connection *c = event->data.ptr;
    int waited_to_write = (event->events & EPOLLOUT) != 0;
    if ((event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !receive(c)) {
        drop(c);
        return;
    }
    if (waited_to_write) {
        struct epoll_event reading = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &reading);
    }
    if (!flush(poller, c)) drop(c);
}

static int listen_on(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, size) || listen(fd, 4096)) {
        perror("endpoint");
        exit(1);
    }
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("listening %u\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv) {
    struct epoll_event events[256];
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* a harness killed outright leaves nothing behind */
    int listener = listen_on(argc > 1 ? (uint16_t)atoi(argv[1]) : 0);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr) serve_one(poller, &events[i]);
            else accept_all(poller, listener);
        }
    }
}
