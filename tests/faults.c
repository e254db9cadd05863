/* System calls that fail at random, for tests: LD_PRELOAD this into a process.
 *
 * UPROXY_FAULTS names a file of `struct control`, which the test maps, too: it says when calls fail and how
 * often, and is told how many did. Failing calls are those on Internet sockets, pipes and edge-triggered
 * watches, with errors that their man pages or the kernel's source give; an event loop's own (level-triggered
 * watches, eventfds) are left alone, since libuv ends the process when those fail. A call that fails has not
 * been made. What fails depends on `seed`, and on which call of the process it is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* The order is that of CALLS in faulty_calls.py. */
enum call {
    SOCKET, CONNECT, BIND, ACCEPT4, SETSOCKOPT, GETPEERNAME, SEND, RECV, SENDTO, RECVFROM, SENDMSG, RECVMSG,
    READV, WRITE, SPLICE, PIPE2, FCNTL, EPOLL_CTL, SHUTDOWN, CALLS_COUNT
};

struct control {
    uint32_t on, seed, per_million, made;
    uint32_t failed[CALLS_COUNT];
};

static const int ERRORS[CALLS_COUNT][8] = {
    [SOCKET] = {EMFILE, ENFILE, ENOBUFS, ENOMEM},
    [CONNECT] = {ECONNREFUSED, ETIMEDOUT, ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL, ENOBUFS, ENOMEM, EPERM},
    [BIND] = {EADDRINUSE, EADDRNOTAVAIL, ENOMEM},
    [ACCEPT4] = {EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED, EPERM, EINTR, ETIMEDOUT},
    [SETSOCKOPT] = {EPERM, ENOMEM, ENOBUFS},
    [GETPEERNAME] = {ENOTCONN, ENOBUFS},
    [SEND] = {ECONNRESET, EPIPE, ENOBUFS, ENOMEM, EINTR, ETIMEDOUT, EHOSTUNREACH},
    [RECV] = {ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENOBUFS, ENOMEM, EINTR},
    [SENDTO] = {ENOBUFS, ENOMEM, EINTR, EPERM, EHOSTUNREACH},
    [RECVFROM] = {ENOBUFS, ENOMEM, EINTR},
    [SENDMSG] = {ENOBUFS, ENOMEM, EINTR, EPERM, EHOSTUNREACH},
    [RECVMSG] = {ENOBUFS, ENOMEM, EINTR},
    [READV] = {ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENOBUFS, ENOMEM, EINTR},
    [WRITE] = {ECONNRESET, EPIPE, ENOBUFS, ENOMEM, EINTR, ETIMEDOUT, EHOSTUNREACH},
    [SPLICE] = {ENOMEM, ECONNRESET, EPIPE, EINTR},
    [PIPE2] = {EMFILE, ENFILE},
    [FCNTL] = {EPERM, ENOMEM, EBUSY},
    [EPOLL_CTL] = {ENOSPC, ENOMEM},
    [SHUTDOWN] = {ENOTCONN},
};

static struct control *control;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("UPROXY_FAULTS");
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    control = mapped == MAP_FAILED ? NULL : mapped;
}

static uint64_t lot(uint64_t number)
{
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9u;
    number = (number ^ (number >> 27)) * 0x94D049BB133111EBu;
    return number ^ (number >> 31);
}

/* Whether this call is to fail, with errno set. */
static int fails(enum call call)
{
    if (control == NULL || !__atomic_load_n(&control->on, __ATOMIC_ACQUIRE))
        return 0;
    uint64_t number = __atomic_fetch_add(&control->made, 1, __ATOMIC_RELAXED);
    uint64_t drawn = lot(((uint64_t)control->seed << 32 | number) + 0x9E3779B97F4A7C15u);
    if (drawn % 1000000 >= control->per_million)
        return 0;
    int count = 0;
    while (count < 8 && ERRORS[call][count] != 0)
        count++;
    __atomic_fetch_add(&control->failed[call], 1, __ATOMIC_RELAXED);
    errno = ERRORS[call][(drawn >> 32) % (unsigned)count];
    return 1;
}

static int is_internet(int fd)
{
    int before = errno, domain = 0;
    socklen_t size = sizeof domain;
    int failed = getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size);
    errno = before;
    return !failed && (domain == AF_INET || domain == AF_INET6);
}

#define REAL(name)                                     \
    static __typeof__(&name) real;                     \
    if (real == NULL)                                  \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define STAND_IN(result, name, call, applies, parameters, arguments) \
    result name parameters                                           \
    {                                                                \
        REAL(name);                                                  \
        if ((applies) && fails(call))                                \
            return -1;                                               \
        return real arguments;                                       \
    }

STAND_IN(int, socket, SOCKET, domain == AF_INET || domain == AF_INET6, (int domain, int type, int protocol),
         (domain, type, protocol))
/* To dissolve a connection needs nothing that could be lacking. */
STAND_IN(int, connect, CONNECT, address->sa_family != AF_UNSPEC && is_internet(fd),
         (int fd, const struct sockaddr *address, socklen_t size), (fd, address, size))
STAND_IN(int, bind, BIND, is_internet(fd), (int fd, const struct sockaddr *address, socklen_t size),
         (fd, address, size))
STAND_IN(int, accept4, ACCEPT4, is_internet(fd),
         (int fd, struct sockaddr *restrict address, socklen_t *restrict size, int flags),
         (fd, address, size, flags))
STAND_IN(int, setsockopt, SETSOCKOPT, is_internet(fd),
         (int fd, int level, int option, const void *value, socklen_t size), (fd, level, option, value, size))
STAND_IN(int, getpeername, GETPEERNAME, is_internet(fd),
         (int fd, struct sockaddr *restrict address, socklen_t *restrict size), (fd, address, size))
STAND_IN(ssize_t, send, SEND, is_internet(fd), (int fd, const void *bytes, size_t count, int flags),
         (fd, bytes, count, flags))
STAND_IN(ssize_t, recv, RECV, is_internet(fd), (int fd, void *room, size_t count, int flags),
         (fd, room, count, flags))
STAND_IN(ssize_t, sendto, SENDTO, is_internet(fd),
         (int fd, const void *bytes, size_t count, int flags, const struct sockaddr *address, socklen_t size),
         (fd, bytes, count, flags, address, size))
STAND_IN(ssize_t, recvfrom, RECVFROM, is_internet(fd),
         (int fd, void *restrict room, size_t count, int flags, struct sockaddr *restrict address,
          socklen_t *restrict size),
         (fd, room, count, flags, address, size))
STAND_IN(ssize_t, sendmsg, SENDMSG, is_internet(fd), (int fd, const struct msghdr *message, int flags),
         (fd, message, flags))
STAND_IN(ssize_t, recvmsg, RECVMSG, is_internet(fd), (int fd, struct msghdr *message, int flags),
         (fd, message, flags))
STAND_IN(ssize_t, readv, READV, is_internet(fd), (int fd, const struct iovec *pieces, int count),
         (fd, pieces, count))
STAND_IN(ssize_t, write, WRITE, is_internet(fd), (int fd, const void *bytes, size_t count),
         (fd, bytes, count))
STAND_IN(ssize_t, splice, SPLICE, 1,
         (int in, off64_t *in_at, int out, off64_t *out_at, size_t count, unsigned flags),
         (in, in_at, out, out_at, count, flags))
STAND_IN(int, pipe2, PIPE2, 1, (int ends[2], int flags), (ends, flags))
STAND_IN(int, shutdown, SHUTDOWN, is_internet(fd), (int fd, int how), (fd, how))
STAND_IN(int, epoll_ctl, EPOLL_CTL,
         (operation == EPOLL_CTL_ADD || operation == EPOLL_CTL_MOD) && (event->events & EPOLLET) != 0,
         (int epoll, int operation, int fd, struct epoll_event *event), (epoll, operation, fd, event))

static int control_descriptor(__typeof__(&fcntl) real, int fd, int command, void *argument)
{
    if (command == F_SETPIPE_SZ && fails(FCNTL))
        return -1;
    return real(fd, command, argument);
}

#define FCNTL_STAND_IN(name)                                   \
    int name(int fd, int command, ...)                         \
    {                                                          \
        REAL(name);                                            \
        va_list rest;                                          \
        va_start(rest, command);                               \
        void *argument = va_arg(rest, void *);                 \
        va_end(rest);                                          \
        return control_descriptor(real, fd, command, argument); \
    }

FCNTL_STAND_IN(fcntl)
FCNTL_STAND_IN(fcntl64)
