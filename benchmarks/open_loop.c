/*
 * A load generator with an open loop: requests are due at an even pace, whether or not the server keeps up, and how long
 * one took counts from when it was due. So a server that stands still for a second is charged for all that was due in it.
 *
 *   open_loop PORT CONNECTIONS RATE SECONDS FILE
 *
 * RATE is requests a second; with 0 each connection sends the next one when it has its answer. FILE has the requests,
 * each as four bytes of length (little endian) and its bytes; they are sent in turn. One thread, epoll, HTTP/1.1 with
 * keep-alive, answers with Content-Length, loopback only. Idle connections take their turns, and one that the server closes
 * meanwhile is opened again. It waits for answers three times SECONDS at most, and prints
 *
 *   {"answered":N,"bad":N,"unanswered":N,"seconds":S,"p50_us":T,"p99_us":T,"p999_us":T,"max_us":T}
 *
 * where `bad` are answers of 400 and above.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MOST_CONNECTIONS 10000
#define MOST_ANSWERS (1u << 24)
#define HEAD 16384

struct connection {
    int fd;
    int waits_to_write;
    uint64_t due_ns;
    const char *request;
    size_t length, sent;
    char head[HEAD + 1];
    size_t got;      /* bytes of the head so far; HEAD is the most */
    int in_body;
    uint64_t left;   /* bytes of the body that have not come yet */
    int status;
};

static struct connection *connections;
static int idle[MOST_CONNECTIONS], first_idle, idles, poll_fd; /* a ring */
static struct sockaddr_in address;
static char *requests;
static size_t *starts, *lengths, kinds;
static uint32_t *took_us;
static size_t answered;
static uint64_t bad;

static void fail(const char *what) {
    fprintf(stderr, "open_loop: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void read_requests(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) fail(path);
    long size = ftell(file);
    rewind(file);
    requests = malloc((size_t)size + 1);
    if (requests == NULL || fread(requests, 1, (size_t)size, file) != (size_t)size) fail(path);
    fclose(file);
    size_t room = 0;
    for (size_t at = 0; at + 4 <= (size_t)size;) {
        uint32_t length;
        memcpy(&length, requests + at, 4);
        if (kinds == room) {
            room = room ? room * 2 : 64;
            starts = realloc(starts, room * sizeof *starts);
            lengths = realloc(lengths, room * sizeof *lengths);
            if (starts == NULL || lengths == NULL) fail("memory");
        }
        starts[kinds] = at + 4;
        lengths[kinds++] = length;
        at += 4 + length;
    }
    if (kinds == 0) {
        fprintf(stderr, "open_loop: %s has no request\n", path);
        exit(1);
    }
}

static void watch(struct connection *c, int write_too) {
    struct epoll_event event = {.events = EPOLLIN | (write_too ? EPOLLOUT : 0), .data.u32 = (uint32_t)(c - connections)};
    if (epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &event) != 0) fail("epoll_ctl");
    c->waits_to_write = write_too;
}

static void push(struct connection *c) {
    while (c->sent < c->length) {
        ssize_t n = send(c->fd, c->request + c->sent, c->length - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            if (!c->waits_to_write) watch(c, 1);
            return;
        }
        if (n < 0) fail("send");
        c->sent += (size_t)n;
    }
    if (c->waits_to_write) watch(c, 0);
}

static void begin(struct connection *c, uint64_t number, uint64_t due_ns) {
    c->request = requests + starts[number % kinds];
    c->length = lengths[number % kinds];
    c->sent = c->got = 0;
    c->in_body = 0;
    c->due_ns = due_ns;
    push(c);
}

static void rest(struct connection *c) {
    c->due_ns = 0;
    idle[(first_idle + idles++) % MOST_CONNECTIONS] = (int)(c - connections);
}

static struct connection *next_idle(void) {
    struct connection *c = &connections[idle[first_idle]];
    first_idle = (first_idle + 1) % MOST_CONNECTIONS;
    idles--;
    return c;
}

static void open_connection(struct connection *c) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0) fail("fcntl");
    c->fd = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)(c - connections)};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event) != 0) fail("epoll_ctl");
}

static void end(struct connection *c) {
    uint64_t us = (now_ns() - c->due_ns) / 1000;
    if (answered < MOST_ANSWERS) took_us[answered] = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
    answered++;
    bad += c->status >= 400;
    rest(c);
}

static void take(struct connection *c) {
    static char body_bytes[1 << 16];
    for (;;) {
        if (!c->in_body) {
            ssize_t n = recv(c->fd, c->head + c->got, HEAD - c->got, 0);
            if (n < 0 && errno == EAGAIN) return;
            if (n <= 0) fail("the server closed a connection");
            c->got += (size_t)n;
            c->head[c->got] = 0;
            char *body = strstr(c->head, "\r\n\r\n");
            if (body == NULL) {
                if (c->got == HEAD) fail("the head of an answer is too long");
                continue;
            }
            body += 4;
            char *length = strcasestr(c->head, "\r\ncontent-length:");
            c->status = atoi(c->head + 9);
            c->left = length != NULL && length < body ? strtoull(length + 17, NULL, 10) : 0;
            uint64_t here = c->got - (size_t)(body - c->head);
            c->left = here >= c->left ? 0 : c->left - here;
            c->in_body = 1;
        } else {
            ssize_t n = recv(c->fd, body_bytes, c->left < sizeof body_bytes ? c->left : sizeof body_bytes, 0);
            if (n < 0 && errno == EAGAIN) return;
            if (n <= 0) fail("the server closed a connection");
            c->left -= (uint64_t)n;
        }
        if (c->left == 0) {
            end(c);
            return;
        }
    }
}

static int by_size(const void *a, const void *b) {
    uint32_t one = *(const uint32_t *)a, other = *(const uint32_t *)b;
    return (one > other) - (one < other);
}

static uint32_t percentile(size_t count, double share) {
    if (count == 0) return 0;
    size_t place = (size_t)((double)count * share);
    return took_us[place < count ? place : count - 1];
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: open_loop PORT CONNECTIONS RATE SECONDS FILE\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int port = atoi(argv[1]), count = atoi(argv[2]);
    double rate = atof(argv[3]), seconds = atof(argv[4]);
    if (count < 1 || count > MOST_CONNECTIONS || seconds <= 0 || rate < 0) {
        fprintf(stderr, "open_loop: a figure is out of range\n");
        return 2;
    }
    read_requests(argv[5]);
    connections = calloc((size_t)count, sizeof *connections);
    took_us = malloc(MOST_ANSWERS * sizeof *took_us);
    poll_fd = epoll_create1(0);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (connections == NULL || took_us == NULL || poll_fd < 0 || timer < 0) fail("start");
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer, &event);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < count; i++) {
        open_connection(&connections[i]);
        rest(&connections[i]);
    }
    uint64_t began = now_ns(), stop = began + (uint64_t)(seconds * 1e9), sent = 0;
    uint64_t all = rate > 0 ? (uint64_t)(rate * seconds) : UINT64_MAX, give_up = began + (uint64_t)(3 * seconds * 1e9);
    for (;;) {
        uint64_t now = now_ns(), due = now;
        while (idles > 0 && sent < all) {
            due = rate > 0 ? began + (uint64_t)((double)sent / rate * 1e9) : now;
            if (due > now || (rate == 0 && now >= stop)) break;
            begin(next_idle(), sent++, due);
        }
        int all_sent = sent >= all || (rate == 0 && now >= stop);
        if ((all_sent && idles == count) || now >= give_up) break;
        if (!all_sent && idles > 0 && due > now) {
            struct itimerspec at = {.it_value = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
        }
        struct epoll_event events[256];
        int n = epoll_wait(poll_fd, events, 256, 100);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u32 == UINT32_MAX) {
                uint64_t rung;
                if (read(timer, &rung, sizeof rung) < 0 && errno != EAGAIN) fail("timer");
                continue;
            }
            struct connection *c = &connections[events[i].data.u32];
            if (events[i].events & EPOLLOUT) push(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                if (c->due_ns == 0) {
                    close(c->fd);
                    open_connection(c);
                } else {
                    take(c);
                }
            }
        }
    }
    double took_s = (double)(now_ns() - began) / 1e9;
    uint64_t unanswered = (rate > 0 ? all : sent) - answered;
    size_t kept = answered < MOST_ANSWERS ? answered : MOST_ANSWERS;
    qsort(took_us, kept, sizeof *took_us, by_size);
    printf("{\"answered\":%zu,\"bad\":%llu,\"unanswered\":%llu,\"seconds\":%.3f,\"p50_us\":%u,\"p99_us\":%u,"
           "\"p999_us\":%u,\"max_us\":%u}\n",
           answered, (unsigned long long)bad, (unsigned long long)unanswered, took_s, percentile(kept, 0.5),
           percentile(kept, 0.99), percentile(kept, 0.999), percentile(kept, 1.0));
    return 0;
}
