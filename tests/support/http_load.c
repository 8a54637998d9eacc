/* Load on an HTTP/1.1 server: as many connections as asked, each with one request at a time.
 *
 *   http_load unix:PATH|tcp:PORT CONNECTIONS SECONDS REQUEST_FILE EXPECTED_TEXT
 *
 * Every answer must have status 200 and contain EXPECTED_TEXT; the others are counted as bad.
 * Prints one JSON object: answers, bad ones, seconds, and microseconds from the request's first
 * byte to the answer's last. One thread, epoll, no allocation while it runs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 1024, ANSWER_MAX = 1 << 16, SAMPLES_MAX = 1 << 22 };

struct connection {
    int fd;
    size_t sent, got, want; /* want: bytes of the whole answer, 0 while its head is not complete */
    int64_t began;
    char answer[ANSWER_MAX + 1];
};

static struct connection *connections;
static uint32_t *samples;
static const char *expected;
static char *request;
static size_t request_length, answered, bad;
static int64_t ends;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int dial(const char *where) {
    int fd;
    if (!strncmp(where, "unix:", 5)) {
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        strncpy(name.sun_path, where + 5, sizeof name.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&name, sizeof name)) die("connect");
    } else {
        struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(where + 4))};
        int on = 1;
        name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&name, sizeof name)) die("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}

/* Send what is left; the kernel tells when there is room again. */
static void push(struct connection *c) {
    while (c->sent < request_length) {
        ssize_t n = send(c->fd, request + c->sent, request_length - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) die("send");
        c->sent += (size_t)n;
    }
}

static void begin(struct connection *c) {
    c->sent = c->got = c->want = 0;
    c->began = now();
    push(c);
}

/* Look for the end of the head and the length of the body. */
static void measure(struct connection *c) {
    char *end = memmem(c->answer, c->got, "\r\n\r\n", 4), *line;
    if (!end) return;
    line = strcasestr(c->answer, "\r\ncontent-length:");
    if (!line || line > end) die("an answer without content-length");
    c->want = (size_t)(end + 4 - c->answer) + strtoul(line + 17, NULL, 10);
    if (c->want > ANSWER_MAX) die("an answer is too long");
}

static void finish(struct connection *c) {
    int64_t took = now() - c->began;
    if (strncmp(c->answer, "HTTP/1.1 200", 12) || !memmem(c->answer, c->got, expected, strlen(expected))) {
        if (!bad++) fprintf(stderr, "%.*s\n", 600, c->answer);
    }
    if (answered < SAMPLES_MAX) samples[answered] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    answered++;
    begin(c);
}

static void pull(struct connection *c) {
    ssize_t n = recv(c->fd, c->answer + c->got, ANSWER_MAX - c->got, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) die("the server closed a connection");
    c->got += (size_t)n;
    c->answer[c->got] = 0;
    if (!c->want) measure(c);
    if (c->want && c->got >= c->want) finish(c);
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void report(double seconds) {
    size_t n = answered < SAMPLES_MAX ? answered : SAMPLES_MAX;
    qsort(samples, n, sizeof *samples, by_size);
    if (!n) die("no answer came");
    printf("{\"answers\": %zu, \"bad\": %zu, \"seconds\": %.6f, \"per_s\": %.1f, \"min_us\": %.2f, "
           "\"p50_us\": %.2f, \"p99_us\": %.2f}\n",
           answered, bad, seconds, (double)answered / seconds, samples[0] / 1e3, samples[n / 2] / 1e3,
           samples[n - 1 - n / 100] / 1e3);
}

int main(int argc, char **argv) {
    struct epoll_event events[64];
    int count, poll = epoll_create1(0);
    int64_t began;
    FILE *file;
    if (argc != 6) return fprintf(stderr, "see the head of http_load.c\n"), 2;
    count = atoi(argv[2]);
    if (count < 1 || count > CONNECTIONS_MAX) return 2;
    expected = argv[5];
    if (!(file = fopen(argv[4], "rb"))) die(argv[4]);
    fseek(file, 0, SEEK_END);
    request_length = (size_t)ftell(file);
    rewind(file);
    request = malloc(request_length);
    if (fread(request, 1, request_length, file) != request_length) die("read");
    connections = calloc((size_t)count, sizeof *connections);
    samples = malloc(SAMPLES_MAX * sizeof *samples);
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = &connections[i]};
        connections[i].fd = dial(argv[1]);
        epoll_ctl(poll, EPOLL_CTL_ADD, connections[i].fd, &event);
    }
    began = now();
    ends = began + (int64_t)(atof(argv[3]) * 1e9);
    for (int i = 0; i < count; i++) begin(&connections[i]);
    while (now() < ends) {
        int ready = epoll_wait(poll, events, 64, 1000);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) push(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP)) pull(c);
        }
    }
    report((double)(now() - began) / 1e9);
    return 0;
}
