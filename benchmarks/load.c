/* load: the traffic of the relay benchmarks; one thread, epoll, no allocation while it runs.
 *
 *   load serve ADDRESS PORT            echo on PORT (rr, crr), discard on PORT+1 (bulk)
 *   load rr   ADDRESS PORT CONNECTIONS BYTES SECONDS
 *   load crr  ADDRESS PORT CONNECTIONS BYTES SECONDS
 *   load bulk ADDRESS PORT STREAMS     BYTES SECONDS
 *
 * A client prints one JSON line: {"ops", "seconds", "errors", "p50_us", "p99_us", "cpu_s"}
 * rr: one request in flight on each open connection. crr: connect, one exchange, close, again.
 * bulk: ops counts bytes that reached the other end: the clock stops when the discard side has
 * read the last one, and answers our end of stream with its own.
 * An operation still waiting after STUCK_S when the time is up counts as an error.
 * Owns the generator only: where packets go, and what is compared, is relay.py's business.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 256 * 1024, EVENTS = 256, BUCKETS = 1 << 20, STUCK_S = 1, DRAIN_S = 10 };

enum role { LISTEN_ECHO, LISTEN_DISCARD, ECHO, DISCARD, RR, CRR, BULK };

struct peer {
    int fd;
    enum role role;
    size_t got;           /* bytes of the current answer received so far */
    uint64_t started_ns;  /* when the current operation began */
};

static char buffer[BUFFER];
static uint32_t latency_us[BUCKETS]; /* count of operations per microsecond, the last one holds the rest */
static struct sockaddr_storage target;
static socklen_t target_len;
static int epoll_fd;
static uint64_t ops, errors;
static size_t message_bytes;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void set_target(const char *address, int port)
{
    struct sockaddr_in *four = (struct sockaddr_in *)&target;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&target;
    memset(&target, 0, sizeof target);
    if (inet_pton(AF_INET, address, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)port);
        target_len = sizeof *four;
    } else if (inet_pton(AF_INET6, address, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons((uint16_t)port);
        target_len = sizeof *six;
    } else {
        fprintf(stderr, "load: %s is not an IP address\n", address);
        exit(2);
    }
}

static void watch(struct peer *p, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = p};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, p->fd, &e) < 0)
        die("epoll_ctl");
}

static void nodelay(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* ---- server ---- */

static void listen_on(const char *address, int port, enum role role)
{
    struct peer *p = calloc(1, sizeof *p);
    int one = 1;
    set_target(address, port);
    p->role = role;
    p->fd = socket(target.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(p->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(p->fd, (struct sockaddr *)&target, target_len) < 0 || listen(p->fd, 4096) < 0)
        die("listen");
    watch(p, EPOLLIN);
}

static void accept_all(struct peer *listener)
{
    int fd;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct peer *p = calloc(1, sizeof *p);
        p->fd = fd;
        p->role = listener->role == LISTEN_ECHO ? ECHO : DISCARD;
        nodelay(fd);
        watch(p, EPOLLIN);
    }
}

static void serve_readable(struct peer *p)
{
    ssize_t n = recv(p->fd, buffer, sizeof buffer, 0);
    if (n > 0 && p->role == ECHO)
        n = send(p->fd, buffer, (size_t)n, MSG_NOSIGNAL); /* answers are small: they always fit */
    if (n > 0 || (n < 0 && errno == EAGAIN))
        return;
    close(p->fd);
    free(p);
}

static void serve(const char *address, int port)
{
    struct epoll_event events[EVENTS];
    listen_on(address, port, LISTEN_ECHO);
    listen_on(address, port + 1, LISTEN_DISCARD);
    printf("serving\n");
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct peer *p = events[i].data.ptr;
            if (p->role == LISTEN_ECHO || p->role == LISTEN_DISCARD)
                accept_all(p);
            else
                serve_readable(p);
        }
    }
}

/* ---- client ---- */

static void begin(struct peer *p)
{
    p->fd = socket(target.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (p->fd < 0)
        die("socket");
    nodelay(p->fd);
    p->got = 0;
    p->started_ns = now_ns();
    if (connect(p->fd, (struct sockaddr *)&target, target_len) < 0 && errno != EINPROGRESS)
        die("connect");
    watch(p, EPOLLOUT);
}

static void again(struct peer *p)
{
    close(p->fd);
    begin(p);
}

static void ask(struct peer *p)
{
    p->got = 0;
    if (p->role == RR)
        p->started_ns = now_ns();
    if (send(p->fd, buffer, message_bytes, MSG_NOSIGNAL) != (ssize_t)message_bytes) {
        errors++;
        again(p);
    }
}

static void connected(struct peer *p)
{
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = p};
    int error = 0;
    socklen_t len = sizeof error;
    getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &len);
    if (error) {
        errors++;
        again(p);
        return;
    }
    if (p->role == BULK) {
        p->got = 1; /* connected: from here EPOLLOUT means room */
        return;
    }
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, p->fd, &e);
    ask(p);
}

static void record(struct peer *p)
{
    uint64_t us = (now_ns() - p->started_ns) / 1000;
    latency_us[us < BUCKETS ? us : BUCKETS - 1]++;
    ops++;
}

static void answer(struct peer *p)
{
    ssize_t n = recv(p->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        errors++;
        again(p);
        return;
    }
    p->got += (size_t)n;
    if (p->got < message_bytes)
        return;
    record(p);
    if (p->role == CRR)
        again(p);
    else
        ask(p);
}

static void push(struct peer *p)
{
    ssize_t n = send(p->fd, buffer, message_bytes, MSG_NOSIGNAL);
    if (n > 0)
        ops += (uint64_t)n;
    else if (n < 0 && errno != EAGAIN) {
        errors++;
        again(p);
    }
}

/* End our side of every stream, and wait until the far side has read all of it. */
static void drain(struct peer *peers, int streams)
{
    struct timeval patience = {.tv_sec = DRAIN_S};
    for (int i = 0; i < streams; i++)
        shutdown(peers[i].fd, SHUT_WR);
    for (int i = 0; i < streams; i++) {
        fcntl(peers[i].fd, F_SETFL, 0);
        setsockopt(peers[i].fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        if (recv(peers[i].fd, buffer, sizeof buffer, 0) != 0)
            errors++;
    }
}

static void count_stuck(const struct peer *peers, int connections, uint64_t now)
{
    for (int i = 0; i < connections; i++)
        if (now - peers[i].started_ns > STUCK_S * 1000000000ull)
            errors++;
}

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static double cpu_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return seconds_of(u.ru_utime) + seconds_of(u.ru_stime);
}

static uint64_t percentile(double share)
{
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++)
        total += latency_us[i];
    for (int i = 0; i < BUCKETS; i++)
        if ((seen += latency_us[i]) >= share * (double)total && total)
            return (uint64_t)i;
    return 0;
}

static void run(enum role role, int connections, double seconds)
{
    struct epoll_event events[EVENTS];
    struct peer *peers = calloc((size_t)connections, sizeof *peers);
    for (int i = 0; i < connections; i++) {
        peers[i].role = role;
        begin(&peers[i]);
    }
    uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9), now = start;
    while (now < end) {
        int n = epoll_wait(epoll_fd, events, EVENTS, 100);
        for (int i = 0; i < n; i++) {
            struct peer *p = events[i].data.ptr;
            if (role == BULK && p->got)
                push(p);
            else if (events[i].events & EPOLLOUT)
                connected(p);
            else
                answer(p);
        }
        now = now_ns();
    }
    if (role == BULK) {
        drain(peers, connections);
        now = now_ns();
    } else
        count_stuck(peers, connections, now);
    printf("{\"ops\": %llu, \"seconds\": %.6f, \"errors\": %llu, "
           "\"p50_us\": %llu, \"p99_us\": %llu, \"cpu_s\": %.6f}\n",
           (unsigned long long)ops, (double)(now - start) / 1e9, (unsigned long long)errors,
           (unsigned long long)percentile(0.50), (unsigned long long)percentile(0.99), cpu_s());
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if ((epoll_fd = epoll_create1(0)) < 0)
        die("epoll_create1");
    if (argc == 4 && !strcmp(argv[1], "serve"))
        serve(argv[2], atoi(argv[3]));
    if (argc != 7) {
        fprintf(stderr, "usage: load serve ADDRESS PORT\n"
                        "       load rr|crr|bulk ADDRESS PORT CONNECTIONS BYTES SECONDS\n");
        return 2;
    }
    enum role role = !strcmp(argv[1], "rr") ? RR : !strcmp(argv[1], "crr") ? CRR : BULK;
    set_target(argv[2], atoi(argv[3]));
    message_bytes = (size_t)atol(argv[5]);
    if (message_bytes < 1 || message_bytes > BUFFER) {
        fprintf(stderr, "load: BYTES must be 1 to %d\n", BUFFER);
        return 2;
    }
    run(role, atoi(argv[4]), atof(argv[6]));
    return 0;
}
