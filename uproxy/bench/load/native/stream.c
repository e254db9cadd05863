/* stream.c: bytes as fast as they go. What counts is what the receiver has: of an upload the
 * server tells (wire.h), and the clock stops when it has read the last byte. */
#define _GNU_SOURCE
#include <errno.h>

#include "client.h"

static bool sends(const struct worker *w)
{
    return w->plan->workload != STREAM_DOWN;
}

static void watch(struct worker *w, struct connection *c, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(w->epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

static void begin(struct worker *w, struct connection *c, uint64_t now)
{
    static const enum kind kinds[] = {[STREAM_UP] = UPLOAD, [STREAM_DOWN] = DOWNLOAD, [STREAM_BOTH] = BOTH};
    struct header header = {
        .kind = kinds[w->plan->workload], .length = HEADER, .reply_length = w->plan->message_bytes};
    connection_begin(w, c, now, now);
    c->state = WAITING;
    outgoing_set(&c->out, &header);
    watch(w, c, EPOLLIN | EPOLLOUT);
}

static void ready(struct worker *w, struct connection *c, uint64_t now)
{
    c->state = FREE;
    if (w->started && now < w->run->end_ns)
        begin(w, c, now);
    else
        watch(w, c, EPOLLIN);
}

/* Choose the next message to send; false when there is none. */
static bool refill(struct worker *w, struct connection *c, uint64_t now)
{
    bool over = now >= w->run->end_ns;
    struct header header = {.kind = over ? END : DATA, .length = over ? HEADER : w->plan->message_bytes};
    if (c->ended || (!over && !sends(w)))
        return false;
    c->ended = over;
    outgoing_set(&c->out, &header);
    return true;
}

static void send_some(struct worker *w, struct connection *c, uint64_t now)
{
    if (outgoing_done(&c->out) && !refill(w, c, now)) {
        watch(w, c, EPOLLIN);
        return;
    }
    ssize_t n = outgoing_push(&c->out, c->fd, w->scratch);
    if (n < 0)
        connection_fail(w, c, failure_of(errno), now);
    else if (n > 0)
        c->sent_ns = now;
}

static void count_down(struct worker *w, uint64_t n, uint64_t now)
{
    if (now < w->run->measure_ns)
        return;
    w->tally.bytes_down += n;
    w->tally.last_byte_ns = now;
}

static void count_up(struct worker *w, struct connection *c, uint64_t now)
{
    uint64_t n = c->in.header.received - c->read_by_server;
    c->read_by_server += n;
    if (now < w->run->measure_ns || n == 0)
        return;
    w->tally.bytes_up += n;
    w->tally.last_byte_ns = now;
}

static void finish(struct worker *w, struct connection *c)
{
    connection_finish(w, c);
    connection_close(w, c);
}

/* A whole message has come; false when it was no part of a stream, or the last one. */
static bool handle(struct worker *w, struct connection *c, uint64_t now)
{
    enum kind kind = c->in.header.kind;
    c->in.got = 0;
    if (!c->busy || (kind != DATA && kind != END) || (kind == END && !c->ended)) {
        connection_fail(w, c, MISMATCH, now);
        return false;
    }
    note_endpoint(w, c, c->in.header.name);
    count_up(w, c, now);
    if (kind == END) {
        w->tally.endpoints[c->endpoint].count++;
        finish(w, c);
    }
    return kind == DATA;
}

static void take(struct worker *w, struct connection *c, size_t n, uint64_t now)
{
    size_t at = 0;
    bool goes_on = true;
    count_down(w, n, now);
    c->sent_ns = now;
    while (goes_on && at < n) {
        ssize_t used = incoming_feed(&c->in, w->buffer + at, n - at);
        if (used < 0) {
            connection_fail(w, c, MISMATCH, now);
            return;
        }
        at += (size_t)used;
        if (incoming_whole(&c->in))
            goes_on = handle(w, c, now);
    }
}

void stream_event(struct worker *w, struct connection *c, uint32_t events)
{
    uint64_t now = now_ns();
    if ((events & EPOLLOUT) && c->busy)
        send_some(w, c, now);
    if (c->fd < 0 || !(events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
        return;
    ssize_t n = recv(c->fd, w->buffer, RECEIVE_BUFFER, 0);
    if (n > 0)
        take(w, c, (size_t)n, now_ns());
    else if (n == 0)
        connection_fail(w, c, END_OF_FILE, now);
    else if (errno != EAGAIN)
        connection_fail(w, c, failure_of(errno), now);
}

void stream_run(struct worker *w)
{
    w->ready = ready;
    establish(w);
    start_together(w);
    uint64_t end = w->run->end_ns, patience = end + w->plan->timeout_ns;
    for (int i = 0; i < w->count; i++)
        if (w->connections[i].state == FREE)
            begin(w, &w->connections[i], now_ns());
    while (now_ns() < end)
        pump(w, w->cpu_from_ns ? end : w->run->measure_ns);
    for (int i = 0; i < w->count; i++)
        if (w->connections[i].busy)
            watch(w, &w->connections[i], EPOLLIN | EPOLLOUT);
    while (w->busy && now_ns() < patience)
        pump(w, patience);
    stop_cpu_clock(w);
    w->tally.stuck = (uint64_t)w->busy;
    w->tally.operations = (w->plan->workload == STREAM_UP ? 0 : w->tally.bytes_down) +
                          (w->plan->workload == STREAM_DOWN ? 0 : w->tally.bytes_up);
}
