/* clock.c: see clock.h. */
#define _GNU_SOURCE
#include "clock.h"

#include <errno.h>
#include <limits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

void precise_sleeps(void)
{
    prctl(PR_SET_TIMERSLACK, 1UL);
}

static int wait_ms(int epoll_fd, struct epoll_event *events, int room, uint64_t left_ns)
{
    uint64_t left_ms = left_ns / NS_PER_MS;
    int n = epoll_wait(epoll_fd, events, room, left_ms > INT_MAX ? INT_MAX : (int)left_ms);
    return n < 0 ? 0 : n;
}

int wait_until(int epoll_fd, struct epoll_event *events, int room, uint64_t deadline_ns)
{
    if (deadline_ns == NEVER)
        return wait_ms(epoll_fd, events, room, (uint64_t)INT_MAX * NS_PER_MS);
    uint64_t now = now_ns();
    uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
    if (left == 0)
        return wait_ms(epoll_fd, events, room, 0);
#ifdef SYS_epoll_pwait2
    struct timespec timeout = timespec_of(left);
    long n = syscall(SYS_epoll_pwait2, epoll_fd, events, room, &timeout, NULL, 0UL);
    if (n >= 0 || errno != ENOSYS)
        return n < 0 ? 0 : (int)n;
#endif
    return wait_ms(epoll_fd, events, room, left);
}
