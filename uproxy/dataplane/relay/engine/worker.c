/* A worker: a thread with an epoll, and the connections that it relays.
 *
 * Owns their whole life after the front has handed them over: the end of the dial, relaying
 * (relay.c), timeouts, closing. Events may be stale or spurious. A closed connection is freed
 * only when the batch of events that may still name it is over.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine.h"

enum {
    SWEEPS_A_TIMEOUT = 8, /* a timeout is late by an eighth of it at most */
    SWEEP_MAX_MS = 5000,
    SWEEP_SLICE = 2000,
    QUIET_MS = 1000, /* after that a connection does without its pipes */
};

/* ---- lists of connections ---- */

static struct list *list_of(struct worker *w, const struct conn *c)
{
    if (!c->dialling)
        return &w->joined;
    return c->patient ? &w->long_dials : &w->dials;
}

/* At the end; a dial behind those that are due before it, of which nearly all are. */
static void append(struct worker *w, struct conn *c)
{
    struct list *list = list_of(w, c);
    struct conn *before = list->last;
    while (c->dialling && before != NULL && before->due_ms > c->due_ms)
        before = before->prev;
    c->prev = before;
    c->next = before != NULL ? before->next : list->first;
    if (c->prev != NULL)
        c->prev->next = c;
    else
        list->first = c;
    if (c->next != NULL)
        c->next->prev = c;
    else
        list->last = c;
}

static void remove_from_list(struct worker *w, struct conn *c)
{
    struct list *list = list_of(w, c);
    if (w->sweep_next == c)
        w->sweep_next = c->next;
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        list->first = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    else
        list->last = c->prev;
}

/* Called by the front: from here on the worker knows the connection (see `front_holds`). */
void worker_adopt(struct worker *w, struct conn *c)
{
    ADD_SHARED(w->descriptors, 2);
    ADD_SHARED(w->live, 1);
    c->next = __atomic_load_n(&w->arrivals, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&w->arrivals, &c->next, c, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        ;
}

/* Called by the front while it holds on: its sockets cannot be watched, so it is to end. */
void worker_give_up(struct worker *w, struct conn *c)
{
    c->unwatched = true;
    c->next_unwatched = __atomic_load_n(&w->unwatched, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&w->unwatched, &c->next_unwatched, c, true, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED))
        ;
}

static void take_arrivals(struct worker *w)
{
    struct conn *latest = __atomic_exchange_n(&w->arrivals, NULL, __ATOMIC_SEQ_CST);
    struct conn *oldest = NULL;
    while (latest != NULL) {
        struct conn *before = latest->next;
        latest->next = oldest;
        oldest = latest;
        latest = before;
    }
    while (oldest != NULL) {
        struct conn *after = oldest->next;
        append(w, oldest);
        oldest = after;
    }
}

void worker_take_turn(struct worker *w, struct conn *c, enum side from)
{
    c->from[from].turn = true;
    if (c->queued)
        return;
    c->queued = true;
    c->next_turn = w->turns;
    w->turns = c;
}

/* ---- the end of a connection ---- */

/* It stays allocated until nobody can name it any more. */
static void bury(struct worker *w, struct conn *c)
{
    remove_from_list(w, c);
    c->closed = true;
    for (int side = CLIENT; side <= BACKEND; side++) {
        struct direction *d = &c->from[side];
        d->eof = true;
        d->blocked = d->turn = false;
        if (d->pipe != NULL)
            splice_leave(w, d);
        free(d->unsent);
        d->unsent = NULL;
    }
    c->next = w->dead;
    w->dead = c;
    ADD_SHARED(w->descriptors, -2);
    ADD_SHARED(w->live, -1);
}

/* Whether a peer sees an orderly end: both have finished, or the other one had before it was reset. Then
 * what it said, and its end, still reach this one, as without a proxy; a server that closes without
 * reading all of the request does that. */
static bool ends_in_order(const struct conn *c, enum side side, int reason)
{
    if (reason == CLIENT_EOF || reason == BACKEND_EOF)
        return true;
    if (reason == MAX_AGE)
        return c->in_order;
    return reason == (side == CLIENT ? BACKEND_RESET : CLIENT_RESET) && c->first_eof == !side;
}

/* A slot is not given up between the counts of its last connection and the report that names it. */
static void tell(struct worker *w, bool begins)
{
    __atomic_store_n(&w->telling, begins, __ATOMIC_RELEASE);
}

/* Close both sockets, and count why. */
void conn_close(struct worker *w, struct conn *c, int reason)
{
    for (int side = CLIENT; side <= BACKEND; side++) {
        if (ends_in_order(c, (enum side)side, reason))
            close(c->fd[side]);
        else
            close_with_reset(c->fd[side]);
    }
    struct backend_counts *backend = backend_counts(&w->counters, c->backend);
    tell(w, c->peer != NULL);
    if (c->dialling)
        ADD(backend->returned, 1);
    else
        ADD(backend->ended, 1);
    ADD(port_counts(&w->counters, c->port)->closes[reason], 1);
    if (c->peer != NULL || READ(settings_of(w->engine, c->port)->report_ends))
        report_end(w->engine, c, reason); /* after the counts: whoever hears of it may look at them */
    tell(w, false);
    bury(w, c);
}

static void free_dead(struct worker *w)
{
    struct conn *c = w->dead;
    w->dead = NULL;
    while (c != NULL) {
        struct conn *following = c->next;
        if (c->queued || c->unwatched) {
            c->next = w->dead;
            w->dead = c;
        } else {
            free(c->peer);
            free(c);
        }
        c = following;
    }
}

/* ---- the end of a dial ---- */

static void dial_failed(struct worker *w, struct conn *c, int error)
{
    close(c->fd[BACKEND]);
    tell(w, true);
    ADD(port_counts(&w->counters, c->port)->returned, 1);
    ADD(backend_counts(&w->counters, c->backend)->returned, 1);
    report_failed_dial(w->engine, c, error);
    tell(w, false);
    bury(w, c);
}

/* Whether the front may still be registering a connection's sockets. It must not be closed then: the
 * front would register a descriptor that is another's by that time. */
static bool front_holds(const struct worker *w, struct conn *c)
{
    if (!c->settled)
        c->settled = __atomic_load_n(&w->engine->handing_over, __ATOMIC_SEQ_CST) != c;
    return !c->settled;
}

static bool watch(struct worker *w, struct conn *c, enum side side, int operation)
{
    struct epoll_event e = {.events = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET,
                            .data.u64 = (uint64_t)(uintptr_t)c | (uint64_t)side};
    return epoll_ctl(w->epoll_fd, operation, c->fd[side], &e) == 0;
}

static void dial_event(struct worker *w, struct conn *c)
{
    const struct target *t = target_of(w->engine, c->backend);
    if (connect(c->fd[BACKEND], (const struct sockaddr *)&t->address, t->size) < 0 && errno != EISCONN) {
        if (errno != EALREADY && errno != EINPROGRESS)
            dial_failed(w, c, errno);
        return;
    }
    remove_from_list(w, c);
    c->dialling = false;
    append(w, c);
    c->active_ms = (uint32_t)w->now_ms;
    count_connect(&w->counters, &w->engine->options, c);
    if (!watch(w, c, BACKEND, EPOLL_CTL_MOD) || !watch(w, c, CLIENT, EPOLL_CTL_ADD))
        conn_close(w, c, NO_RESOURCES);
    else if (c->from[CLIENT].blocked)
        relay_pump(w, c, CLIENT); /* the front left a header */
}

/* What the front has handed over, and what it could not get watched: that goes back to Python when it is
 * still being dialled for, which tries again, or is reset. */
static void take_in(struct worker *w)
{
    struct conn *c = __atomic_exchange_n(&w->unwatched, NULL, __ATOMIC_SEQ_CST); /* first: all have arrived */
    take_arrivals(w);
    while (c != NULL) {
        struct conn *following = c->next_unwatched;
        c->unwatched = false;
        c->settled = true; /* the front does no more than forget it */
        if (!c->closed && c->dialling)
            dial_failed(w, c, ENOSPC);
        else if (!c->closed)
            conn_close(w, c, NO_RESOURCES);
        c = following;
    }
}

/* ---- time ---- */

/* When the first dial has taken too long. */
static uint64_t dial_due_ms(const struct worker *w)
{
    const struct conn *one = w->dials.first, *other = w->long_dials.first;
    uint64_t one_ms = one == NULL ? UINT64_MAX : one->due_ms;
    uint64_t other_ms = other == NULL ? UINT64_MAX : other->due_ms;
    return one_ms < other_ms ? one_ms : other_ms;
}

static void expire_dials(struct worker *w, const struct list *dials)
{
    while (dials->first != NULL && dials->first->due_ms <= w->now_ms && !front_holds(w, dials->first))
        dial_failed(w, dials->first, ETIMEDOUT);
}

static void check(struct worker *w, struct conn *c)
{
    const struct options *o = &w->engine->options;
    if (front_holds(w, c) || age_ends(w, c))
        return;
    int32_t quiet_ms = (int32_t)((uint32_t)w->now_ms - c->active_ms); /* < 0: begun a moment ago */
    for (int side = CLIENT; side <= BACKEND; side++) {
        if (!c->kept_alive)
            keep_alive(c->fd[side]);
        if (quiet_ms >= QUIET_MS)
            splice_leave(w, &c->from[side]);
    }
    c->kept_alive = true;
    if (c->first_eof != NOBODY && !c->asks_often) {
        c->asks_often = true;
        ask_often(c->fd[CLIENT], READ(w->engine->ask_every_s));
        ask_often(c->fd[BACKEND], READ(w->engine->ask_every_s));
    }
    if (c->first_eof != NOBODY && quiet_ms >= (int64_t)o->half_closed_ms)
        conn_close(w, c, HALF_CLOSED_TIMEOUT);
    else if (quiet_ms >= (int64_t)o->idle_ms)
        conn_close(w, c, IDLE_TIMEOUT);
}

static uint64_t sweep_interval_ms(const struct engine *e)
{
    const struct options *o = &e->options;
    uint64_t ask_ms = READ(e->ask_every_s) * 1000u;
    uint64_t shortest = o->idle_ms < o->half_closed_ms ? o->idle_ms : o->half_closed_ms;
    uint64_t interval = shortest / SWEEPS_A_TIMEOUT;
    if (interval > SWEEP_MAX_MS)
        interval = SWEEP_MAX_MS;
    if (interval > ask_ms)
        interval = ask_ms;
    return interval ? interval : 1;
}

/* Visit a slice of the connections; the rest after other work. */
static void sweep(struct worker *w)
{
    if (w->sweep_next == NULL) {
        if (w->now_ms < w->next_sweep_ms)
            return;
        w->next_sweep_ms = w->now_ms + age_sweep_ms(w->engine, sweep_interval_ms(w->engine));
        w->sweep_next = w->joined.first;
    }
    for (int i = 0; i < SWEEP_SLICE && w->sweep_next != NULL; i++) {
        struct conn *c = w->sweep_next;
        w->sweep_next = c->next;
        check(w, c);
    }
}

/* How long to sleep, in milliseconds, and the promise to look at the time then. */
static int sleep_ms(struct worker *w)
{
    if (w->turns != NULL || w->sweep_next != NULL)
        return 0;
    uint64_t dial_ms = dial_due_ms(w);
    uint64_t until_ms = dial_ms < w->next_sweep_ms ? dial_ms : w->next_sweep_ms;
    __atomic_store_n(&w->wakes_at_ms, until_ms, __ATOMIC_SEQ_CST);
    /* Whoever arrives from here on sees the promise, and wakes us if it is too late for them. */
    if (__atomic_load_n(&w->arrivals, __ATOMIC_SEQ_CST) != NULL)
        return 0; /* those that are given up have arrived, too */
    uint64_t now_ms = clock_ms();
    return until_ms <= now_ms ? 0 : (int)(until_ms - now_ms) + 1;
}

/* ---- work ---- */

static void one_event(struct worker *w, struct conn *c, enum side side, uint32_t events)
{
    if (c->closed)
        return;
    /* The front registers the backend's socket first and the client's last, and a dial has no client
     * registered: such an event says that it is through. */
    if (side == CLIENT || c->dialling)
        c->settled = true;
    if (front_holds(w, c)) {
        c->deferred |= events;
        worker_take_turn(w, c, side);
        sched_yield(); /* the front may wait for this CPU, for a microsecond's work */
    } else if (c->dialling) {
        dial_event(w, c);
    } else {
        relay_event(w, c, side, events);
    }
}

static void run_turns(struct worker *w)
{
    struct conn *c = w->turns;
    w->turns = NULL;
    while (c != NULL) {
        struct conn *following = c->next_turn;
        c->queued = false;
        for (int side = CLIENT; side <= BACKEND && !c->closed; side++) {
            struct direction *d = &c->from[side];
            uint32_t events = side == BACKEND ? c->deferred : 0;
            if (!d->turn)
                continue;
            d->turn = false;
            if (events) {
                c->deferred = 0;
                one_event(w, c, (enum side)side, events);
            } else {
                relay_pump(w, c, (enum side)side);
            }
        }
        c = following;
    }
}

static void reset_matching(struct worker *w, struct conn *first, const struct reset *wanted)
{
    struct conn *following;
    for (struct conn *c = first; c != NULL; c = following) {
        following = c->next;
        if (wanted->backend < 0 || wanted->backend == (int64_t)c->backend)
            conn_close(w, c, wanted->reason);
    }
}

/* Do what the front asked for; false when that is to stop. */
static bool obey(struct worker *w)
{
    uint64_t count;
    if (read(w->wake_fd, &count, sizeof count) < 0)
        return true; /* a stale wake-up */
    pthread_mutex_lock(&w->lock);
    take_in(w); /* what came since this turn began is asked for, too */
    if (w->reset.wanted) {
        reset_matching(w, w->dials.first, &w->reset);
        reset_matching(w, w->long_dials.first, &w->reset);
        reset_matching(w, w->joined.first, &w->reset);
    }
    w->reset.wanted = false;
    if (w->sweep_soon)
        w->next_sweep_ms = w->now_ms;
    w->sweep_soon = false;
    pthread_cond_signal(&w->done);
    bool stop = w->stop;
    pthread_mutex_unlock(&w->lock);
    return !stop;
}

static void *run(void *argument)
{
    struct worker *w = argument;
    struct epoll_event events[EVENTS];
    bool going = true;
    while (going) {
        int count = epoll_wait(w->epoll_fd, events, EVENTS, sleep_ms(w));
        w->now_ms = clock_ms();
        take_in(w);
        for (int i = 0; i < count; i++) {
            uint64_t data = events[i].data.u64;
            if (data == 0)
                going = obey(w);
            else
                one_event(w, (struct conn *)(uintptr_t)(data & ~(uint64_t)1), (enum side)(data & 1),
                          events[i].events);
        }
        run_turns(w);
        expire_dials(w, &w->dials);
        expire_dials(w, &w->long_dials);
        sweep(w);
        free_dead(w);
    }
    run_turns(w); /* none of them is open, and none is queued any more */
    free_dead(w);
    return NULL;
}

/* ---- what the front may call ---- */

void worker_wake(struct worker *w)
{
    uint64_t one = 1;
    if (write(w->wake_fd, &one, sizeof one) < 0)
        return; /* the counter is full: it is awake */
}

/* The time between sweeps has changed: begin with one now. */
void worker_sweep_soon(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    w->sweep_soon = true;
    pthread_mutex_unlock(&w->lock);
    worker_wake(w);
}

/* Reset connections, all or those of one endpoint, and wait until that is done. */
void worker_reset(struct worker *w, int reason, int64_t backend)
{
    pthread_mutex_lock(&w->lock);
    w->reset = (struct reset){.reason = reason, .backend = backend, .wanted = true};
    worker_wake(w);
    while (w->reset.wanted)
        pthread_cond_wait(&w->done, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

static int start_thread(struct worker *w)
{
    /* Signals are for Python's main thread. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&w->thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return error;
    char name[16];
    snprintf(name, sizeof name, "uproxy-relay-%u", (unsigned)(w - w->engine->workers) % 100);
    pthread_setname_np(w->thread, name);
    return 0;
}

/* 0, or an errno and nothing is left. */
int worker_start(struct worker *w, struct engine *e)
{
    struct epoll_event wake = {.events = EPOLLIN, .data.u64 = 0};
    w->engine = e;
    w->now_ms = clock_ms();
    w->next_sweep_ms = w->now_ms + sweep_interval_ms(e);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->done, NULL);
    w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->scratch = malloc(SCRATCH_BYTES);
    int error = 0;
    if (w->epoll_fd < 0 || w->wake_fd < 0 || epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->wake_fd, &wake) < 0)
        error = errno;
    else if (w->scratch == NULL)
        error = ENOMEM;
    else
        error = start_thread(w);
    if (error) {
        close(w->epoll_fd);
        close(w->wake_fd);
        free(w->scratch);
    }
    return error;
}

/* End the thread, with a reset for every connection that is left. */
void worker_stop(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    w->reset = (struct reset){.reason = SHUTDOWN, .backend = -1, .wanted = true};
    pthread_mutex_unlock(&w->lock);
    worker_wake(w);
    pthread_join(w->thread, NULL);
    pipes_destroy(w);
    close(w->epoll_fd);
    close(w->wake_fd);
    free(w->scratch);
    counters_free(&w->counters);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->done);
}
