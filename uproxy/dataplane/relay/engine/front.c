/* The front: what happens in Python's thread. It dials for an accepted client, passes on what the
 * client has said meanwhile, and hands both sockets to a worker.
 *
 * Dialling here, and not in the worker, spares each connection a wake-up: on one host the handshake is
 * over when connect(2) returns, the request waits already, and the worker first hears of the
 * connection when there is an answer.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine.h"

enum { LOCAL_PORT_TRIES = 64, FIRST_BYTES = 16 * 1024 };

const struct target *target_of(const struct engine *e, uint32_t backend)
{
    return &e->targets[backend / CHUNK][backend % CHUNK];
}

/* ---- dialling ---- */

/* Where dials come from: the client, or any address of this machine with port 0. */
struct source {
    union {
        struct sockaddr any;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
        struct sockaddr_storage room;
    } address;
    bool is_client;
};

static in_port_t *port_of(struct source *s)
{
    return s->address.any.sa_family == AF_INET6 ? &s->address.six.sin6_port : &s->address.four.sin_port;
}

static int bind_to(int fd, const struct source *s)
{
    if (s->is_client && make_transparent(fd, s->address.any.sa_family) < 0)
        return errno;
    socklen_t size = s->address.any.sa_family == AF_INET6 ? sizeof s->address.six : sizeof s->address.four;
    if (bind(fd, &s->address.any, size) == 0)
        return 0;
    return errno == EACCES ? EADDRINUSE : errno; /* below 1024, without CAP_NET_BIND_SERVICE */
}

static uint16_t next_port(struct port_range *range)
{
    uint32_t port = range->next++;
    if (port < range->first || port > range->last) {
        port = range->first;
        range->next = port + 1;
    }
    return (uint16_t)port;
}

/* From one of the ports, which may rest in TIME_WAIT, and is never the client's own (source_ports.py). */
static int dial_from(struct engine *e, const struct target *t, struct source *s, unsigned hops, int *fd)
{
    struct port_range *range = s->is_client ? &e->client_ports : &e->local_ports;
    in_port_t own = *port_of(s);
    for (int try = 0; try < LOCAL_PORT_TRIES; try++) {
        do
            *port_of(s) = htons(next_port(range));
        while (*port_of(s) == own && range->first < range->last);
        *fd = stream_socket(t->address.ss_family, e->options.mark, hops);
        if (*fd < 0)
            return errno;
        int code = bind_to(*fd, s);
        if (code == 0)
            code = begin_connect(*fd, t);
        if (code == 0 || code == EALREADY)
            return code;
        close(*fd);
        if (code != EADDRINUSE && code != EADDRNOTAVAIL)
            return code;
    }
    return EADDRNOTAVAIL;
}

/* 0 when connected, EALREADY when that goes on, both with a socket; or an errno and none. As `client`,
 * unless that is -1, or gone. */
static int dial(struct engine *e, const struct target *t, int client, unsigned hops, int *fd)
{
    struct source source = {.is_client = true};
    socklen_t size = sizeof source.address;
    if (client >= 0 && getpeername(client, &source.address.any, &size) == 0)
        return dial_from(e, t, &source, hops, fd);
    *fd = stream_socket(t->address.ss_family, e->options.mark, hops);
    if (*fd < 0)
        return errno;
    int code = begin_connect(*fd, t);
    if (code == 0 || code == EALREADY)
        return code;
    close(*fd);
    if (code != EADDRNOTAVAIL)
        return code;
    struct source any = {.address.any.sa_family = t->address.ss_family};
    return dial_from(e, t, &any, hops, fd);
}

/* What a client's SYN said, for a later dial, too. */
static unsigned hops_left(struct engine *e, int client, bool first_dial)
{
    size_t place = client < 0 ? 0 : (size_t)client;
    if (place >= e->hops_room) {
        size_t room = place * 2 + 64;
        uint8_t *more = realloc(e->hops, room);
        if (more == NULL)
            return hops_of(client);
        memset(more + e->hops_room, 0, room - e->hops_room);
        e->hops = more;
        e->hops_room = room;
    }
    unsigned hops = hops_of(client);
    if (hops || first_dial)
        e->hops[place] = (uint8_t)hops;
    return e->hops[place];
}

/* ---- handing over ---- */

static bool keep_unsent(struct direction *d, const char *bytes, size_t count)
{
    d->unsent = malloc(count);
    if (d->unsent == NULL)
        return false;
    memcpy(d->unsent, bytes, count);
    d->unsent_bytes = (uint32_t)count;
    d->blocked = true;
    return true;
}

/* What the client has sent so far goes on at once, after the header. Ends and errors are left to the
 * worker, which meets the ends again, and of an error the end that it leaves. False when there is no
 * memory: better no connection than one with a hole. */
static bool pass_on_first_bytes(struct engine *e, struct conn *c, struct header header)
{
    memcpy(e->scratch, header.bytes, header.size);
    ssize_t got = receive(c->fd[CLIENT], e->scratch + header.size, FIRST_BYTES);
    size_t all = header.size + (got < 0 ? 0 : (size_t)got);
    if (got < 0 && errno != EAGAIN)
        c->from[CLIENT].cut = true;
    if (all == 0)
        return true;
    if (got > 0) {
        c->from[CLIENT].bytes = (uint64_t)got;
        c->last_from = CLIENT;
        ADD(port_counts(&e->front, c->port)->bytes[CLIENT], (uint64_t)got);
    }
    ssize_t sent = transmit(c->fd[BACKEND], e->scratch, all);
    size_t gone = sent < 0 ? 0 : (size_t)sent;
    if (gone == all)
        return true;
    if (sent < 0 && errno != EAGAIN)
        c->from[BACKEND].cut = errno != EPIPE; /* as in relay_sink_failed */
    c->watches_out |= 1u << BACKEND;
    return keep_unsent(&c->from[CLIENT], e->scratch + gone, all - gone);
}

static bool watch(struct worker *w, struct conn *c, enum side side, uint32_t more_events)
{
    struct epoll_event e = {.events = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET | more_events,
                            .data.u64 = (uint64_t)(uintptr_t)c | (uint64_t)side};
    return epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, c->fd[side], &e) == 0;
}

/* The order matters: worker.c, `front_holds` and `one_event`, rests on it. What is not `whole`, or cannot be
 * watched, is the worker's to end: it is known there from the first on. */
static void hand_over(struct engine *e, struct conn *c, bool whole)
{
    struct worker *w = &e->workers[e->next_worker++ % e->options.workers];
    bool dialling = c->dialling;
    uint64_t due_ms = c->due_ms;
    __atomic_store_n(&e->handing_over, c, __ATOMIC_SEQ_CST);
    worker_adopt(w, c);
    bool watched = whole && watch(w, c, BACKEND, dialling || c->watches_out ? EPOLLOUT : 0) &&
                   (dialling || watch(w, c, CLIENT, 0));
    if (!watched)
        worker_give_up(w, c);
    __atomic_store_n(&e->handing_over, NULL, __ATOMIC_SEQ_CST);
    if (!watched)
        worker_wake(w);
    else if (dialling && due_ms < __atomic_load_n(&w->wakes_at_ms, __ATOMIC_SEQ_CST))
        worker_wake(w);
}

static struct peer *new_peer(const char *address, uint64_t begun_ns)
{
    struct peer *p = calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    strncpy(p->address, address, sizeof p->address - 1);
    p->begun_ns = begun_ns;
    return p;
}

static struct conn *new_conn(const struct engine *e, const char *address, uint64_t begun_ns)
{
    struct conn *c = calloc(1, sizeof *c);
    if (c == NULL || !e->options.report_ends)
        return c;
    c->peer = new_peer(address, begun_ns);
    if (c->peer == NULL) {
        free(c);
        return NULL;
    }
    return c;
}

/* Dial `backend` for the accepted socket `client`, from its address if `as_client`, for `bound_ms` if that is
 * not 0. 0: both sockets are the
 * engine's from now on. An errno: the client is still the caller's. */
int front_begin(struct engine *e, int client, uint32_t port, uint32_t backend, const char *address,
                uint64_t begun_ns, struct header header, bool as_client, uint32_t bound_ms)
{
    uint64_t now_ns = clock_ns();
    unsigned hops = hops_left(e, client, begun_ns == 0);
    if (hops == 1)
        return ELOOP;
    struct conn *c = new_conn(e, address, begun_ns ? begun_ns : now_ns);
    if (c == NULL)
        return ENOMEM;
    int server;
    int code = dial(e, target_of(e, backend), as_client ? client : -1, hops, &server);
    /* A dial under way: what is to be sent first waits as if there were no room for it. */
    if (code == EALREADY && header.size > 0 && !keep_unsent(&c->from[CLIENT], header.bytes, header.size)) {
        close(server);
        code = ENOMEM;
    }
    if (code != 0 && code != EALREADY) {
        free(c->peer);
        free(c);
        return code;
    }
    c->fd[CLIENT] = client;
    c->fd[BACKEND] = server;
    c->port = port;
    c->backend = backend;
    c->first_eof = NOBODY;
    c->last_from = BACKEND; /* the client is always free to begin */
    c->dialled_ns = now_ns;
    c->due_ms = now_ns / 1000000u + (bound_ms ? bound_ms : e->options.connect_ms);
    c->patient = bound_ms != 0;
    c->active_ms = (uint32_t)(now_ns / 1000000u);
    c->dialling = code != 0;
    c->from[CLIENT].ending = c->from[BACKEND].ending = !e->options.tells_ends;
    bool whole = true;
    ADD(port_counts(&e->front, port)->begun, 1);
    ADD(backend_counts(&e->front, backend)->begun, 1);
    if (!c->dialling) {
        count_connect(&e->front, &e->options, c);
        whole = pass_on_first_bytes(e, c, header);
    }
    hand_over(e, c, whole);
    return 0;
}
