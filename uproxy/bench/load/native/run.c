/* run.c: threads, what each needs, and the sum of their tallies. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"

static void *work(void *argument)
{
    struct worker *w = argument;
    precise_sleeps();
    if (is_stream(w->plan->workload))
        stream_run(w);
    else if (w->plan->workload == IDLE)
        idle_run(w);
    else
        schedule_run(w);
    return NULL;
}

static bool make_connections(struct worker *w)
{
    w->connections = calloc((size_t)w->count, sizeof *w->connections);
    w->ring = calloc((size_t)w->count, sizeof(struct connection *));
    if (!w->connections || !w->ring)
        return false;
    for (int i = 0; i < w->count; i++) {
        w->connections[i].fd = w->connections[i].endpoint = -1;
        if (w->plan->http && !(w->connections[i].http = calloc(1, sizeof(struct http_reply))))
            return false;
    }
    return true;
}

/* 0 or an errno; worker_free is due either way. */
static int worker_make(struct worker *w, struct run *run, int number)
{
    const struct plan *plan = run->plan;
    w->run = run;
    w->plan = plan;
    w->number = number;
    w->count = plan->connections / plan->threads + (number < plan->connections % plan->threads);
    w->scratch = wire_scratch();
    w->buffer = malloc(RECEIVE_BUFFER);
    if (!w->scratch || !w->buffer || !make_connections(w))
        return ENOMEM;
    w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return w->epoll_fd < 0 ? errno : 0;
}

static void worker_free(struct worker *w)
{
    for (int i = 0; w->connections && i < w->count; i++) {
        if (w->connections[i].fd >= 0)
            close(w->connections[i].fd);
        free(w->connections[i].http);
    }
    if (w->epoll_fd > 0)
        close(w->epoll_fd);
    free(w->connections);
    free(w->ring);
    free(w->scratch);
    free(w->buffer);
    free(w->tally.endpoints);
}

static int add_endpoint(struct tally *into, const struct endpoint *from)
{
    for (int i = 0; i < into->endpoint_count; i++)
        if (!memcmp(into->endpoints[i].name, from->name, NAME)) {
            into->endpoints[i].count += from->count;
            return 0;
        }
    struct endpoint *grown = realloc(into->endpoints, sizeof *grown * (size_t)(into->endpoint_count + 1));
    if (!grown)
        return ENOMEM;
    into->endpoints = grown;
    into->endpoints[into->endpoint_count++] = *from;
    return 0;
}

static int tally_add(struct tally *into, const struct tally *from)
{
    int error = 0;
    into->operations += from->operations;
    into->bytes_up += from->bytes_up;
    into->bytes_down += from->bytes_down;
    into->sent += from->sent;
    into->behind += from->behind;
    into->stuck += from->stuck;
    into->held += from->held;
    into->user_s += from->user_s;
    into->system_s += from->system_s;
    if (from->last_byte_ns > into->last_byte_ns)
        into->last_byte_ns = from->last_byte_ns;
    if (from->busiest_share > into->busiest_share)
        into->busiest_share = from->busiest_share;
    for (int i = 0; i < FAILURES; i++)
        into->errors[i] += from->errors[i];
    for (int i = 0; i < from->endpoint_count && !error; i++)
        error = add_endpoint(into, &from->endpoints[i]);
    histogram_merge(&into->corrected, &from->corrected);
    histogram_merge(&into->uncorrected, &from->uncorrected);
    return error;
}

static int run_threads(struct worker *workers, int threads)
{
    pthread_t *ids = calloc((size_t)threads, sizeof *ids);
    int error = ids ? 0 : ENOMEM, made = 0;
    for (; !error && made < threads; made++)
        if ((error = pthread_create(&ids[made], NULL, work, &workers[made])) && made)
            abort(); /* the threads made so far would wait for this one for ever */
    for (int i = 0; !error && i < threads; i++)
        pthread_join(ids[i], NULL);
    free(ids);
    return error;
}

/* The time from the last completion to the end is a gap, too. */
static void close_gap(struct run *run)
{
    uint64_t gap = run->end_ns - atomic_load(&run->last_completion_ns);
    if (gap > atomic_load(&run->longest_gap_ns))
        atomic_store(&run->longest_gap_ns, gap);
}

int run_plan(const struct plan *plan, struct run *run, struct tally *total)
{
    struct worker *workers = calloc((size_t)plan->threads, sizeof *workers);
    int error = workers ? pthread_barrier_init(&run->barrier, NULL, (unsigned)plan->threads) : ENOMEM;
    run->plan = plan;
    for (int i = 0; !error && i < plan->threads; i++)
        error = worker_make(&workers[i], run, i);
    if (!error)
        error = run_threads(workers, plan->threads);
    close_gap(run);
    for (int i = 0; !error && i < plan->threads; i++)
        error = tally_add(total, &workers[i].tally);
    for (int i = 0; workers && i < plan->threads; i++)
        worker_free(&workers[i]);
    free(workers);
    return error;
}
