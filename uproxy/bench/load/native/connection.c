/* connection.c: a connection's socket, from open to failure.
 *
 * Exchanges are watched edge-triggered, once for the connection's life: no epoll_ctl per operation.
 * Streams and datagrams are level-triggered, so that one busy peer cannot keep the loop to itself.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "client.h"

enum { LONGEST_REST_DOUBLINGS = 7 }; /* 1 ms, 2 ms ... 128 ms: a refused target is not hammered */

static const char http_request[] = "GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
static const char http_last_request[] = "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";

enum failure failure_of(int number)
{
    switch (number) {
    case ECONNREFUSED: return REFUSED;
    case ECONNRESET:
    case EPIPE: return RESET;
    case ETIMEDOUT: return TIMEOUT;
    case EHOSTUNREACH:
    case ENETUNREACH: return UNREACHABLE;
    case EADDRNOTAVAIL: return NO_LOCAL_PORT;
    case EMFILE:
    case ENFILE: return NO_DESCRIPTOR;
    default: return OTHER;
    }
}

void connection_begin(struct worker *w, struct connection *c, uint64_t due, uint64_t now)
{
    c->busy = true;
    c->due_ns = due;
    c->sent_ns = now;
    w->busy++;
}

void connection_finish(struct worker *w, struct connection *c)
{
    if (c->busy)
        w->busy--;
    c->busy = false;
    c->failures = 0;
}

void connection_close(struct worker *w, struct connection *c)
{
    if (c->state == CONNECTING)
        w->connecting--;
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->state = CLOSED;
}

static void rest(struct worker *w, struct connection *c, uint64_t now)
{
    c->state = RESTING;
    c->retry_ns = now + (NS_PER_MS << c->failures);
    if (c->failures < LONGEST_REST_DOUBLINGS)
        c->failures++;
    w->resting++;
}

void connection_fail(struct worker *w, struct connection *c, enum failure why, uint64_t now)
{
    uint64_t at = c->busy ? c->due_ns : now;
    bool counts = !w->started || at >= w->run->measure_ns, held = w->plan->workload == IDLE && w->started;
    unsigned failures = c->failures;
    if (counts)
        w->tally.errors[why]++;
    if (counts && c->busy && why == TIMEOUT && !is_stream(w->plan->workload))
        histogram_add(&w->tally.corrected, now - c->due_ns);
    connection_finish(w, c);
    connection_close(w, c);
    c->failures = failures;
    if (!held) /* a held connection that is lost stays lost */
        rest(w, c, now);
}

static uint32_t events_wanted(const struct plan *plan)
{
    if (plan->workload == UDP_RR)
        return EPOLLIN;
    return is_stream(plan->workload) ? EPOLLIN | EPOLLOUT : EPOLLIN | EPOLLOUT | EPOLLET;
}

static int make_socket(struct worker *w, struct connection *c)
{
    const struct plan *plan = w->plan;
    bool datagrams = plan->workload == UDP_RR;
    struct epoll_event event = {.events = events_wanted(plan), .data.ptr = c};
    int one = 1;
    c->fd = socket(plan->target.ss_family, (datagrams ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return errno;
    if (!datagrams)
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (const struct sockaddr *)&plan->target, plan->target_length) < 0 && errno != EINPROGRESS)
        return errno;
    return epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0 ? errno : 0;
}

void connection_open(struct worker *w, struct connection *c, uint64_t now)
{
    c->in.got = 0;
    c->out.sent = c->out.length = 0;
    c->sent_ns = now;
    c->ended = false;
    c->read_by_server = 0;
    if (c->http)
        http_reply_reset(c->http);
    int error = make_socket(w, c);
    if (error) {
        connection_fail(w, c, failure_of(error), now);
    } else if (w->plan->workload == UDP_RR) {
        w->ready(w, c, now);
    } else {
        c->state = CONNECTING;
        w->connecting++;
    }
}

/* The handshake is over, well or badly. */
static void established(struct worker *w, struct connection *c)
{
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) {
        connection_fail(w, c, failure_of(error), now_ns());
        return;
    }
    w->connecting--;
    c->state = FREE;
    if (c->busy)
        connection_ask(w, c);
    else
        w->ready(w, c, now_ns());
}

static void push(struct worker *w, struct connection *c)
{
    if (outgoing_push(&c->out, c->fd, w->scratch) < 0)
        connection_fail(w, c, failure_of(errno), now_ns());
}

static void ask_http(struct worker *w, struct connection *c)
{
    bool last = w->plan->workload == CRR;
    size_t length = last ? sizeof http_last_request - 1 : sizeof http_request - 1;
    ssize_t n = send(c->fd, last ? http_last_request : http_request, length, MSG_NOSIGNAL);
    if (n != (ssize_t)length) /* so few bytes always fit */
        connection_fail(w, c, n < 0 ? failure_of(errno) : OTHER, now_ns());
    else if (c->due_ns >= w->run->measure_ns)
        w->tally.bytes_up += length;
}

void connection_ask(struct worker *w, struct connection *c)
{
    c->state = WAITING;
    if (c->http) {
        ask_http(w, c);
        return;
    }
    struct header header = {.kind = EXCHANGE,
                            .length = w->plan->message_bytes,
                            .reply_length = w->plan->reply_bytes,
                            .sequence = ++c->sequence};
    outgoing_set(&c->out, &header);
    push(w, c);
}

void note_endpoint(struct worker *w, struct connection *c, const char *name)
{
    struct tally *t = &w->tally;
    if (c->endpoint >= 0 && !memcmp(t->endpoints[c->endpoint].name, name, NAME))
        return;
    for (c->endpoint = 0; c->endpoint < t->endpoint_count; c->endpoint++)
        if (!memcmp(t->endpoints[c->endpoint].name, name, NAME))
            return;
    struct endpoint *grown = realloc(t->endpoints, sizeof *grown * (size_t)(t->endpoint_count + 1));
    if (!grown)
        abort();
    t->endpoints = grown;
    t->endpoints[t->endpoint_count] = (struct endpoint){.count = 0};
    memcpy(t->endpoints[t->endpoint_count++].name, name, NAME);
}

/* Whether this reply answers what was asked. A late datagram's does not, and is no error. */
static bool is_answer(const struct worker *w, const struct connection *c)
{
    const struct header *h = &c->in.header;
    return c->busy && h->kind == REPLY && h->sequence == c->sequence && h->length == w->plan->reply_bytes;
}

/* Take bytes of a reply; false when it is whole, or the connection has failed. */
static bool take(struct worker *w, struct connection *c, size_t n)
{
    bool late_is_fine = w->plan->workload == UDP_RR;
    ssize_t used = incoming_feed(&c->in, w->buffer, n);
    if (used != (ssize_t)n || (late_is_fine && !incoming_whole(&c->in))) {
        connection_fail(w, c, MISMATCH, now_ns());
        return false;
    }
    if (!incoming_whole(&c->in))
        return true;
    c->in.got = 0;
    if (is_answer(w, c)) {
        note_endpoint(w, c, c->in.header.name);
        w->answered(w, c, now_ns());
    } else if (!late_is_fine) {
        connection_fail(w, c, MISMATCH, now_ns());
    }
    return false;
}

static bool take_http(struct worker *w, struct connection *c, size_t n)
{
    if (c->busy && c->due_ns >= w->run->measure_ns)
        w->tally.bytes_down += n;
    enum http_progress progress = c->busy ? http_reply_feed(c->http, (const char *)w->buffer, n) : HTTP_BAD;
    if (progress == HTTP_MORE)
        return true;
    if (progress != HTTP_WHOLE) {
        connection_fail(w, c, progress == HTTP_NOT_200 ? STATUS : MISMATCH, now_ns());
        return false;
    }
    http_reply_reset(c->http);
    w->answered(w, c, now_ns());
    return false;
}

/* A web server may close a connection that rests; every other end is an error. */
static void end_of_file(struct worker *w, struct connection *c)
{
    if (!c->http || c->busy) {
        connection_fail(w, c, END_OF_FILE, now_ns());
        return;
    }
    connection_close(w, c);
    connection_open(w, c, now_ns());
}

static void receive(struct worker *w, struct connection *c)
{
    ssize_t n;
    bool more;
    do {
        n = recv(c->fd, w->buffer, RECEIVE_BUFFER, 0);
        if (n == 0 && w->plan->workload != UDP_RR)
            end_of_file(w, c);
        else if (n < 0 && errno != EAGAIN)
            connection_fail(w, c, failure_of(errno), now_ns());
        if (n <= 0)
            return;
        more = c->http ? take_http(w, c, (size_t)n) : take(w, c, (size_t)n);
    } while (more && n == RECEIVE_BUFFER);
}

void connection_event(struct worker *w, struct connection *c, uint32_t events)
{
    if (c->state == CONNECTING) {
        established(w, c);
        return;
    }
    if (is_stream(w->plan->workload)) {
        stream_event(w, c, events);
        return;
    }
    if ((events & EPOLLOUT) && c->busy && !outgoing_done(&c->out))
        push(w, c);
    if (c->fd >= 0 && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
        receive(w, c);
}
