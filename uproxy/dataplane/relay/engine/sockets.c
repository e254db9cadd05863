/* Sockets with the options that relaying needs; sockets.py has the reasons and the other half. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"

enum { KEEPALIVE_IDLE_S = 60, RECEIVE_BUFFER_BYTES = 256 * 1024, UNSENT_BYTES = 128 * 1024 };
enum { UNANSWERED_S = 675, PROBES_MAX = 127 };

static int set(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof value);
}

/* The hop limit that a client's SYN came with; 0 when it is not known. Can be asked once (hops.py). */
unsigned hops_of(int client)
{
    unsigned char syn[128];
    socklen_t size = sizeof syn;
    if (getsockopt(client, IPPROTO_TCP, TCP_SAVED_SYN, syn, &size) < 0 || size < 20)
        return 0;
    return syn[0] >> 4 == 4 ? syn[8] : syn[7];
}

/* A non-blocking stream socket, ready to connect, that sends one hop less far than `hops`, if that is not 0; -1 and errno when there is none. */
int stream_socket(int family, uint32_t mark, unsigned hops)
{
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, SOL_SOCKET, SO_OOBINLINE, 1);
    /* Lets a later dial take this one's port over while it rests in TIME_WAIT. */
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (set(fd, SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES) < 0)
        set(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER_BYTES); /* up to net.core.rmem_max */
    int failed = mark ? set(fd, SOL_SOCKET, SO_MARK, (int)mark) : 0;
    if (!failed && hops)
        failed = family == AF_INET6 ? set(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, (int)hops - 1)
                                    : set(fd, IPPROTO_IP, IP_TTL, (int)hops - 1);
    if (failed) {
        int error = errno; /* without its mark it would be captured, and come back to us */
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

/* Let a socket have an address that is not this machine's; -1 and errno when it may not. */
int make_transparent(int fd, int family)
{
    return family == AF_INET6 ? set(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
                              : set(fd, IPPROTO_IP, IP_TRANSPARENT, 1);
}

/* Begin to connect: 0 when that is done already, EALREADY when it goes on, or an errno. */
int begin_connect(int fd, const struct target *t)
{
    const struct sockaddr *address = (const struct sockaddr *)&t->address;
    if (connect(fd, address, t->size) == 0)
        return 0;
    if (errno != EINPROGRESS)
        return errno;
    /* Within one host the handshake is over by now, though connect(2) could not say so. Asking
     * again tells, and saves a wake-up. */
    if (connect(fd, address, t->size) == 0 || errno == EISCONN)
        return 0;
    return errno;
}

/* For a connection that has lived for a while: ask its peer from time to time whether it is there.
 * Most connections never live so long, and are spared the system calls and the kernel's timer. */
void keep_alive(int fd)
{
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
}

/* For one that is half closed: have its peer answer so often (half_closed.py), and give it up as late as
 * others. */
void ask_often(int fd, uint32_t every_s)
{
    uint32_t probes = UNANSWERED_S / every_s;
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)every_s);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, (int)every_s);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, probes < PROBES_MAX ? (int)probes : PROBES_MAX);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
}

/* For a direction in full flow: leave no more than this in the kernel beyond the peer's window. */
void bound_unsent(int fd)
{
    set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES);
}

/* Where setsockopt is denied (BPF programs of a cgroup may), dissolving the connection says it, too. */
void close_with_reset(int fd)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) < 0)
        connect(fd, &nobody, sizeof nobody);
    close(fd);
}

/* Whether an error waits in a socket; it is told this once. */
bool has_failed(int fd)
{
    int error = 0;
    socklen_t size = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error != 0;
}

/* Interrupted is neither an answer nor an edge to wait for. */
ssize_t receive(int fd, char *room, size_t count)
{
    ssize_t got;
    do
        got = recv(fd, room, count, 0);
    while (got < 0 && errno == EINTR);
    return got;
}

ssize_t transmit(int fd, const char *bytes, size_t count)
{
    ssize_t sent;
    do
        sent = send(fd, bytes, count, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent;
}

/* Whether an error tells of this machine, and not of a peer. */
bool is_ours_to_lack(int error)
{
    return error == ENOMEM || error == ENOBUFS || error == ENOSPC || error == EMFILE || error == ENFILE;
}

void address_text(const struct sockaddr_storage *address, char text[64])
{
    const void *ip = address->ss_family == AF_INET6
                         ? (const void *)&((const struct sockaddr_in6 *)address)->sin6_addr
                         : (const void *)&((const struct sockaddr_in *)address)->sin_addr;
    if (inet_ntop(address->ss_family, ip, text, 64) == NULL)
        text[0] = '\0';
}

uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}
