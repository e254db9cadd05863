/* clock.h: nanoseconds of the monotonic clock, and waiting for events to the microsecond. */
#ifndef UPROXY_LOAD_CLOCK_H
#define UPROXY_LOAD_CLOCK_H

#include <stdint.h>
#include <sys/epoll.h>
#include <time.h>

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)
#define NEVER UINT64_MAX

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static inline struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

/* Linux may end a thread's sleep 50 us late to save wake-ups: ask for none of that. */
void precise_sleeps(void);

/* As epoll_wait, until `deadline_ns` or NEVER. It sleeps; before Linux 5.11, which cannot sleep for
 * less than a millisecond here, it spins through the last one. */
int wait_until(int epoll_fd, struct epoll_event *events, int room, uint64_t deadline_ns);

#endif
