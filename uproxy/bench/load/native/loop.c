/* loop.c: one turn of a worker's loop, and the start that all workers share. */
#define _GNU_SOURCE
#include <stdio.h>
#include <unistd.h>

#include "client.h"

enum { EVENTS = 256, HANDSHAKES = 128 /* at once: below what listeners usually queue */ };

#define SWEEP_NS (50 * NS_PER_MS)
#define RETRY_NS NS_PER_MS

static void wake(struct worker *w, struct connection *c, uint64_t now)
{
    w->resting--;
    c->state = CLOSED;
    if (is_per_connection(w->plan->workload))
        w->ready(w, c, now);
    else
        connection_open(w, c, now);
}

static void sweep(struct worker *w, uint64_t now)
{
    w->swept_ns = now;
    for (int i = 0; i < w->count; i++) {
        struct connection *c = &w->connections[i];
        bool waits = c->busy || c->state == CONNECTING;
        if (c->state == RESTING && c->retry_ns <= now)
            wake(w, c, now);
        else if (waits && c->sent_ns + w->plan->timeout_ns <= now)
            connection_fail(w, c, TIMEOUT, now);
    }
}

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static void start_cpu_clock(struct worker *w, uint64_t now)
{
    w->cpu_from_ns = now;
    getrusage(RUSAGE_THREAD, &w->cpu_before);
}

void stop_cpu_clock(struct worker *w)
{
    struct rusage after;
    struct tally *t = &w->tally;
    double wall_s = (double)(now_ns() - w->cpu_from_ns) / 1e9;
    getrusage(RUSAGE_THREAD, &after);
    t->user_s = seconds_of(after.ru_utime) - seconds_of(w->cpu_before.ru_utime);
    t->system_s = seconds_of(after.ru_stime) - seconds_of(w->cpu_before.ru_stime);
    t->busiest_share = (t->user_s + t->system_s) / wall_s;
}

void pump(struct worker *w, uint64_t deadline_ns)
{
    struct epoll_event events[EVENTS];
    uint64_t next_sweep = w->swept_ns + (w->resting ? RETRY_NS : SWEEP_NS);
    int n = wait_until(w->epoll_fd, events, EVENTS, deadline_ns < next_sweep ? deadline_ns : next_sweep);
    for (int i = 0; i < n; i++)
        connection_event(w, events[i].data.ptr, events[i].events);
    uint64_t now = now_ns();
    if (now >= w->swept_ns + (w->resting ? RETRY_NS : SWEEP_NS))
        sweep(w, now);
    if (w->started && !w->cpu_from_ns && now >= w->run->measure_ns)
        start_cpu_clock(w, now);
}

void establish(struct worker *w)
{
    uint64_t now = now_ns(), patience = now + w->plan->timeout_ns;
    while (now < patience && (w->unopened < w->count || w->connecting)) {
        while (w->unopened < w->count && w->connecting < HANDSHAKES)
            connection_open(w, &w->connections[w->unopened++], now_ns());
        pump(w, patience);
        now = now_ns();
    }
    while (w->unopened < w->count)
        connection_open(w, &w->connections[w->unopened++], now);
}

static void set_clock(struct run *run)
{
    run->start_ns = now_ns();
    run->measure_ns = run->start_ns + run->plan->warmup_ns;
    run->end_ns = run->measure_ns + run->plan->duration_ns;
    atomic_store(&run->last_completion_ns, run->measure_ns);
    if (run->plan->workload == IDLE)
        dprintf(STDERR_FILENO, "holding %d\n", atomic_load(&run->established));
}

void start_together(struct worker *w)
{
    if (pthread_barrier_wait(&w->run->barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
        set_clock(w->run);
    pthread_barrier_wait(&w->run->barrier);
    w->started = true;
    if (w->plan->rate_per_s > 0) {
        double spacing_ns = 1e9 / w->plan->rate_per_s; /* of all workers together */
        w->interval_ns = spacing_ns * w->plan->threads;
        w->first_due_ns = spacing_ns * w->number;
    }
}
