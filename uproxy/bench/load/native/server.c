/* server.c: answers everything on one port: exchanges, streams, HTTP, and datagrams (wire.h). */
#define _GNU_SOURCE
#include "server.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EVENTS = 256 };

#define TELL_NS (10 * NS_PER_MS)

static const char http_reply[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\r\n"
                                 "uproxy bench: 64 bytes, all of them the same for every request.\n";
static const char http_last_reply[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 64\r\nConnection: close\r\n\r\n"
    "uproxy bench: 64 bytes, all of them the same for every request.\n";

struct server {
    int epoll_fd;
    char name[NAME];
    struct faults *faults;
    struct delays delays;
    unsigned char *scratch, *buffer;
};

static void watch(struct server *s, struct session *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(s->epoll_fd, operation, c->fd, &event);
}

static void close_session(struct session *c)
{
    if (c->delayed)
        c->delayed->session = NULL;
    close(c->fd);
    free(c->http);
    free(c);
}

static void reset_session(struct session *c)
{
    struct linger at_once = {.l_onoff = 1};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close_session(c);
}

/* ---- sending: each returns false when the session is gone ---- */

/* Send what is left of `out`; what the socket does not take waits for EPOLLOUT. */
static bool push(struct server *s, struct session *c)
{
    if (outgoing_push(&c->out, c->fd, s->scratch) < 0) {
        close_session(c);
        return false;
    }
    if (!outgoing_done(&c->out))
        watch(s, c, EPOLL_CTL_MOD, EPOLLOUT | (c->uploads || c->downloads ? EPOLLIN : 0u));
    return true;
}

static bool answer(struct server *s, struct session *c, const struct header *header)
{
    outgoing_set(&c->out, header);
    return push(s, c);
}

static bool answer_http(struct session *c)
{
    bool last = http_head_closes(c->http);
    const char *reply = last ? http_last_reply : http_reply;
    size_t length = last ? sizeof http_last_reply - 1 : sizeof http_reply - 1;
    c->http->length = 0;
    c->http->whole = false;
    if (send(c->fd, reply, length, MSG_NOSIGNAL) == (ssize_t)length && !last)
        return true;
    close_session(c); /* so few bytes always fit, unless the peer is gone */
    return false;
}

static struct header stream_header(const struct server *s, const struct session *c)
{
    struct header header = {.kind = DATA, .length = c->data_length, .received = c->received};
    memcpy(header.name, s->name, NAME);
    return header;
}

/* The next message of a stream, when the last one is sent. */
static bool refill(struct server *s, struct session *c)
{
    struct header header = stream_header(s, c);
    bool goes_on = c->downloads && !c->ending;
    if (c->ending) {
        header.kind = END;
        header.length = HEADER;
        c->ending = c->downloads = c->uploads = false;
    }
    watch(s, c, EPOLL_CTL_MOD, goes_on ? EPOLLIN | EPOLLOUT : EPOLLIN);
    return header.kind == DATA && !goes_on ? true : answer(s, c, &header);
}

static bool tell_progress(struct server *s, struct session *c)
{
    uint64_t now = now_ns();
    if (!c->uploads || c->downloads || now - c->told_ns < TELL_NS || !outgoing_done(&c->out))
        return true;
    c->told_ns = now;
    c->data_length = HEADER;
    struct header header = stream_header(s, c);
    return answer(s, c, &header);
}

/* ---- requests ---- */

static void hold_back(struct server *s, struct session *c, const struct header *header, uint64_t delay_ns)
{
    struct delayed *item = calloc(1, sizeof *item);
    if (!item)
        abort();
    *item = (struct delayed){.due_ns = now_ns() + delay_ns, .session = c};
    if (header)
        item->header = *header;
    if (!delays_push(&s->delays, item))
        abort();
    c->delayed = item;
    watch(s, c, EPOLL_CTL_MOD, 0);
}

/* Answer an exchange, or an HTTP request (`header` NULL), with the faults that are asked for. */
static bool respond(struct server *s, struct session *c, const struct header *header)
{
    if (fault_due(&s->faults->error_owed, s->faults->error_share)) {
        reset_session(c);
        return false;
    }
    uint64_t delay_ns = reply_delay_ns(s->faults);
    if (delay_ns == 0)
        return header ? answer(s, c, header) : answer_http(c);
    hold_back(s, c, header, delay_ns);
    return true;
}

static struct header reply_to(const struct server *s, const struct header *request)
{
    struct header reply = {.kind = REPLY, .length = request->reply_length, .sequence = request->sequence};
    memcpy(reply.name, s->name, NAME);
    return reply;
}

static bool is_sane(uint32_t length)
{
    return length >= HEADER && length <= LONGEST_MESSAGE;
}

static bool begin_stream(struct server *s, struct session *c, const struct header *request)
{
    c->uploads = request->kind != DOWNLOAD;
    c->downloads = request->kind != UPLOAD;
    c->data_length = request->reply_length;
    c->received = 0;
    return refill(s, c);
}

/* A whole message has come. */
static bool handle(struct server *s, struct session *c)
{
    struct header request = c->in.header, reply = reply_to(s, &request);
    bool streams = c->uploads || c->downloads;
    c->in.got = 0;
    if (request.kind == EXCHANGE && !streams && is_sane(request.reply_length) && outgoing_done(&c->out))
        return respond(s, c, &reply);
    if (request.kind >= UPLOAD && request.kind <= BOTH && !streams && is_sane(request.reply_length))
        return begin_stream(s, c, &request);
    if (request.kind == DATA && streams)
        return true;
    if (request.kind == END && streams) {
        c->ending = true;
        return outgoing_done(&c->out) ? refill(s, c) : true;
    }
    close_session(c);
    return false;
}

/* ---- receiving ---- */

static bool take(struct server *s, struct session *c, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t used = c->delayed ? -1 : incoming_feed(&c->in, s->buffer + at, n - at);
        if (used < 0) { /* not this protocol, or a second request before the first is answered */
            close_session(c);
            return false;
        }
        at += (size_t)used;
        if (c->uploads || c->downloads)
            c->received += (uint64_t)used;
        if (incoming_whole(&c->in) && !handle(s, c))
            return false;
    }
    return tell_progress(s, c);
}

static bool take_http(struct server *s, struct session *c, size_t n)
{
    long used = http_head_feed(c->http, (const char *)s->buffer, n);
    if (used != (long)n) { /* too long, or a body, or pipelined: nothing a generator sends */
        close_session(c);
        return false;
    }
    return c->http->whole ? respond(s, c, NULL) : true;
}

static bool becomes_http(struct server *s, struct session *c, size_t n)
{
    if (c->http || c->in.got || n < 4 || memcmp(s->buffer, "GET ", 4) != 0)
        return c->http != NULL;
    c->http = calloc(1, sizeof *c->http);
    return c->http != NULL;
}

static void receive(struct server *s, struct session *c)
{
    ssize_t n = recv(c->fd, s->buffer, RECEIVE_BUFFER, 0);
    if (n > 0 && becomes_http(s, c, (size_t)n))
        take_http(s, c, (size_t)n);
    else if (n > 0)
        take(s, c, (size_t)n);
    else if (n == 0 || errno != EAGAIN)
        close_session(c);
}

static void accept_all(struct server *s, const struct session *listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct session *c = calloc(1, sizeof *c);
        if (!c) {
            close(fd);
            return;
        }
        c->fd = fd;
        c->role = SESSION;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        watch(s, c, EPOLL_CTL_ADD, EPOLLIN);
    }
}

/* ---- datagrams ---- */

static void send_datagram(struct server *s, int fd, const struct delayed *item)
{
    struct outgoing out;
    outgoing_set(&out, &item->header);
    memcpy(s->scratch, out.bytes, HEADER);
    sendto(fd, s->scratch, out.length, MSG_DONTWAIT, (const struct sockaddr *)&item->to, item->to_length);
}

static void answer_datagram(struct server *s, struct session *c, size_t n, const struct delayed *from)
{
    struct incoming in = {.got = 0};
    ssize_t used = incoming_feed(&in, s->buffer, n);
    if (used != (ssize_t)n || !incoming_whole(&in) || in.header.kind != EXCHANGE || !is_sane(in.header.reply_length))
        return;
    if (fault_due(&s->faults->error_owed, s->faults->error_share))
        return; /* lost: the only way in which a datagram fails */
    struct delayed item = *from;
    uint64_t delay_ns = reply_delay_ns(s->faults);
    item.header = reply_to(s, &in.header);
    if (delay_ns == 0) {
        send_datagram(s, c->fd, &item);
        return;
    }
    struct delayed *held = malloc(sizeof *held);
    if (!held)
        abort();
    item.due_ns = now_ns() + delay_ns;
    *held = item;
    if (!delays_push(&s->delays, held))
        abort();
}

static void receive_datagrams(struct server *s, struct session *c)
{
    for (int i = 0; i < EVENTS; i++) {
        struct delayed from = {.session = c, .to_length = sizeof from.to};
        ssize_t n = recvfrom(c->fd, s->buffer, RECEIVE_BUFFER, MSG_DONTWAIT, (struct sockaddr *)&from.to,
                             &from.to_length);
        if (n < 0)
            return;
        answer_datagram(s, c, (size_t)n, &from);
    }
}

/* ---- the loop ---- */

static void release(struct server *s, struct delayed *item)
{
    struct session *c = item->session;
    if (c && item->to_length) {
        send_datagram(s, c->fd, item);
    } else if (c) {
        c->delayed = NULL;
        watch(s, c, EPOLL_CTL_MOD, EPOLLIN);
        if (c->http)
            answer_http(c);
        else
            answer(s, c, &item->header);
    }
    free(item);
}

static void session_event(struct server *s, struct session *c, uint32_t events)
{
    if (c->delayed && (events & (EPOLLERR | EPOLLHUP))) {
        close_session(c);
        return;
    }
    if (events & EPOLLOUT) {
        bool streams = c->uploads || c->downloads;
        if (!outgoing_done(&c->out) && !push(s, c))
            return;
        if (outgoing_done(&c->out) && streams && !refill(s, c))
            return;
        if (outgoing_done(&c->out) && !streams)
            watch(s, c, EPOLL_CTL_MOD, EPOLLIN);
    }
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
        receive(s, c);
}

static void turn(struct server *s)
{
    struct epoll_event events[EVENTS];
    struct delayed *due;
    int n = wait_until(s->epoll_fd, events, EVENTS, delays_next_ns(&s->delays));
    stall(s->faults);
    for (int i = 0; i < n; i++) {
        struct session *c = events[i].data.ptr;
        if (c->role == LISTENER)
            accept_all(s, c);
        else if (c->role == DATAGRAMS)
            receive_datagrams(s, c);
        else
            session_event(s, c, events[i].events);
    }
    while (s->delays.count && (due = delays_pop(&s->delays, now_ns())))
        release(s, due);
}

static bool add_socket(struct server *s, int fd, enum role role)
{
    struct session *c = calloc(1, sizeof *c);
    if (!c)
        return false;
    c->fd = fd;
    c->role = role;
    watch(s, c, EPOLL_CTL_ADD, EPOLLIN);
    return true;
}

int serve(int listener, int datagrams, const char *name, struct faults *faults)
{
    struct server s = {.faults = faults, .scratch = wire_scratch(), .buffer = malloc(RECEIVE_BUFFER)};
    size_t length = strnlen(name, NAME);
    memcpy(s.name, name, length);
    s.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (s.epoll_fd < 0 || !s.scratch || !s.buffer)
        return s.epoll_fd < 0 ? errno : ENOMEM;
    if (!add_socket(&s, listener, LISTENER) || !add_socket(&s, datagrams, DATAGRAMS))
        return ENOMEM;
    precise_sleeps();
    faults->since_ns = now_ns();
    for (;;)
        turn(&s);
}
