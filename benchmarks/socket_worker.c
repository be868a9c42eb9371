/*
 * A worker on toril's socket that costs next to nothing, so that it is never what the work benchmark measures: it
 * completes every job at once. One thread, blocking, loopback only.
 *
 *   socket_worker PORT PATH TOKEN JOBS
 *
 * Prints how many microseconds lie between the first and the last of so many jobs. Every reply is a write of its own,
 * as workers have them that end their jobs one by one. Frames are masked with zeros, which RFC 6455 allows a client.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ROOM (8u << 20)

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void fail(const char *what) {
    fprintf(stderr, "socket_worker: %s\n", what);
    exit(1);
}

static void put(int fd, const void *data, size_t size) {
    for (const char *at = data; size;) {
        ssize_t sent = write(fd, at, size);
        if (sent <= 0) fail("the server has closed the WebSocket");
        at += sent;
        size -= (size_t)sent;
    }
}

static size_t more(int fd, unsigned char *buffer, size_t length) {
    if (length == ROOM) fail("a message is too large");
    ssize_t got = read(fd, buffer + length, ROOM - length);
    if (got <= 0) fail("the server has closed the WebSocket");
    return length + (size_t)got;
}

/* The frame at the beginning of the buffer: its size with its head, and where its payload begins; 0 if not all is there. */
static size_t frame_size(const unsigned char *at, size_t length, size_t *head) {
    if (length < 2) return 0;
    size_t size = at[1] & 127;
    *head = 2;
    if (size >= 126) {
        size_t bytes = size == 126 ? 2 : 8;
        if (length < 2 + bytes) return 0;
        size = 0;
        for (size_t i = 0; i < bytes; i++) size = size << 8 | at[2 + i];
        *head = 2 + bytes;
    }
    return length < *head + size ? 0 : *head + size;
}

static void answer(int fd, unsigned char opcode, const void *payload, size_t size) {
    unsigned char frame[131] = {(unsigned char)(0x80 | opcode), (unsigned char)(0x80 | size)};
    if (size > 125) fail("an answer is too large");
    memcpy(frame + 6, payload, size);
    put(fd, frame, 6 + size);
}

int main(int count, char **argument) {
    if (count != 5) fail("usage: socket_worker PORT PATH TOKEN JOBS");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argument[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) fail("nobody listens there");
    char request[4096];
    int size = snprintf(request, sizeof request,
        "GET %s HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nauthorization: Bearer %s\r\n\r\n", argument[2], argument[3]);
    put(fd, request, (size_t)size);

    unsigned char *buffer = malloc(ROOM), *end;
    size_t length = 0, head = 0;
    while (!(end = memmem(buffer, length, "\r\n\r\n", 4))) length = more(fd, buffer, length);
    if (memcmp(buffer, "HTTP/1.1 101 ", 13)) fail("no WebSocket there");
    length -= (size_t)(end + 4 - buffer);
    memmove(buffer, end + 4, length);

    uint64_t first = 0;
    for (long done = 0, jobs = atol(argument[4]); done < jobs;) {
        size_t at = 0, whole;
        while (done < jobs && (whole = frame_size(buffer + at, length - at, &head))) {
            unsigned char opcode = buffer[at] & 15, *payload = buffer + at + head;
            if (opcode == 9) answer(fd, 10, payload, whole - head);
            if (opcode == 8) fail("the server has closed the WebSocket");
            if (opcode == 1) {
                char reply[125];
                if (!first) first = now_us();
                if (memcmp(payload, "{\"id\":", 6)) fail("that is no job");
                int written = snprintf(reply, sizeof reply, "{\"id\":%ld,\"data\":{\"result\":null}}",
                                       atol((char *)payload + 6));
                answer(fd, 1, reply, (size_t)written);
                done++;
            }
            at += whole;
        }
        length -= at;
        memmove(buffer, buffer + at, length);
        if (done < jobs) length = more(fd, buffer, length);
    }
    printf("%llu\n", (unsigned long long)(now_us() - first));
    fflush(stdout);
    sleep(3600); /* hold the socket until told: its last answers are on their way */
    return 0;
}
