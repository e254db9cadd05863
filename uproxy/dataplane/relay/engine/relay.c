/* The bytes between two sockets: small messages by recv and send through one scratch buffer that
 * all connections of a worker share; half-close in both orders; resets in both directions.
 *
 * Sockets are watched edge-triggered. A direction is read until its source has no more, its
 * sink has no room (`blocked`: then nothing is read, so memory is bounded), or it is others' turn.
 * After big reads in a row it changes to splice (splice.c). The same rules, in Python:
 * pair.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "engine.h"

enum { BIG_READ_BYTES = 32 * 1024, BIG_READS_BEFORE_SPLICE = 2 };

static bool nothing_now(void)
{
    return errno == EAGAIN;
}

/* Bytes have left the source; it is counted when they do, as by the Python relay. */
void relay_moved(struct worker *w, struct conn *c, enum side from, size_t bytes)
{
    c->from[from].bytes += bytes;
    c->active_ms = (uint32_t)w->now_ms;
    c->last_from = (uint8_t)from;
    uint64_t *counted = &port_counts(&w->counters, c->port)->bytes[from];
    ADD(*counted, bytes);
}

/* The sink has no room: it is watched for room from now on, this one time and all others. Most
 * connections never come here, and are spared the wake-ups that being writable causes. */
void relay_blocked(struct worker *w, struct conn *c, enum side from)
{
    enum side sink = !from;
    c->from[from].blocked = true;
    if (c->watches_out & (1u << sink))
        return;
    c->watches_out |= (uint8_t)(1u << sink);
    struct epoll_event e = {.events = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                            .data.u64 = (uint64_t)(uintptr_t)c | (uint64_t)sink};
    if (epoll_ctl(w->epoll_fd, EPOLL_CTL_MOD, c->fd[sink], &e) < 0)
        conn_close(w, c, NO_RESOURCES); /* nobody would tell of the room */
}

/* One side was reset: so is the other. */
void relay_reset_by(struct worker *w, struct conn *c, enum side from)
{
    conn_close(w, c, from == CLIENT ? CLIENT_RESET : BACKEND_RESET);
}

/* Whether a side, of which an event said so, has failed. An error is told once: not to be asked where a
 * read may come. */
static bool failed(const struct worker *w, const struct conn *c, enum side side)
{
    return w->engine->options.tells_failures || has_failed(c->fd[side]);
}

/* The source gives nothing more, for the reason in errno. */
void relay_source_failed(struct worker *w, struct conn *c, enum side from)
{
    if (is_ours_to_lack(errno))
        conn_close(w, c, NO_RESOURCES);
    else
        relay_reset_by(w, c, from);
}

/* The source has sent its last byte, and it was passed on: so is the end. */
void relay_finish(struct worker *w, struct conn *c, enum side from)
{
    if (c->from[from].cut) {
        relay_reset_by(w, c, from);
        return;
    }
    c->from[from].eof = true;
    if (c->first_eof != NOBODY) {
        conn_close(w, c, c->first_eof == CLIENT ? CLIENT_EOF : BACKEND_EOF);
        return;
    }
    c->first_eof = (uint8_t)from;
    if (shutdown(c->fd[!from], SHUT_WR) < 0)
        relay_sink_failed(w, c, from);
    else if (c->from[from].failed && failed(w, c, from))
        relay_reset_by(w, c, from); /* it ended, and was reset: no edge will tell that again */
}

/* The sink takes no more, for the reason in errno: pass on what it said before it was reset, then the
 * reset. The kernel tells a reset once. Was it this write that heard of it, a read finds an end instead,
 * as if the peer had finished; EPIPE says that it really had, before it was reset. */
void relay_sink_failed(struct worker *w, struct conn *c, enum side from)
{
    enum side back = !from;
    if (is_ours_to_lack(errno)) {
        conn_close(w, c, NO_RESOURCES);
        return;
    }
    c->from[back].cut |= errno != EPIPE && errno != ENOTCONN;
    c->from[from].eof = true;
    c->from[from].blocked = false;
    if (!c->from[back].eof)
        relay_pump(w, c, back);
    if (!c->closed)
        relay_reset_by(w, c, back);
}

static void keep(struct worker *w, struct conn *c, enum side from, const char *bytes, size_t count)
{
    struct direction *d = &c->from[from];
    d->unsent = malloc(count);
    if (d->unsent == NULL) {
        conn_close(w, c, NO_RESOURCES); /* better no connection than one with a hole */
        return;
    }
    memcpy(d->unsent, bytes, count);
    d->unsent_bytes = (uint32_t)count;
    d->unsent_at = 0;
    relay_blocked(w, c, from);
}

/* Read once and write it on. True when the source may have more and the sink has room. */
static bool copy_step(struct worker *w, struct conn *c, enum side from)
{
    struct direction *d = &c->from[from];
    ssize_t got = receive(c->fd[from], w->scratch, SCRATCH_BYTES);
    if (got < 0) {
        if (!nothing_now())
            relay_source_failed(w, c, from);
        return false;
    }
    if (got == 0) {
        relay_finish(w, c, from);
        return false;
    }
    relay_moved(w, c, from, (size_t)got);
    ssize_t sent = transmit(c->fd[!from], w->scratch, (size_t)got);
    if (sent < 0 && !nothing_now()) {
        relay_sink_failed(w, c, from);
        return false;
    }
    if (sent < got) {
        size_t gone = sent < 0 ? 0 : (size_t)sent;
        keep(w, c, from, w->scratch + gone, (size_t)got - gone);
        return false;
    }
    if (got < BIG_READ_BYTES) {
        d->big_reads = 0;
    } else if (++d->big_reads == BIG_READS_BEFORE_SPLICE && !d->urgent) {
        splice_begin(w, c, from);
        return true;
    }
    /* A short read means that the source is drained, and the next bytes make an edge. Not so
     * when it has ended: the end comes without another. Nor when it stopped at an urgent byte. */
    return got == SCRATCH_BYTES || d->ending || d->urgent;
}

/* Send what was kept. True when nothing is left. */
static bool flush(struct worker *w, struct conn *c, enum side from)
{
    struct direction *d = &c->from[from];
    if (d->pipe != NULL) {
        d->blocked = false;
        return splice_drain(w, c, from);
    }
    ssize_t sent = transmit(c->fd[!from], d->unsent + d->unsent_at, d->unsent_bytes);
    if (sent < 0 && !nothing_now()) {
        relay_sink_failed(w, c, from);
        return false;
    }
    d->unsent_at += sent < 0 ? 0 : (uint32_t)sent;
    d->unsent_bytes -= sent < 0 ? 0 : (uint32_t)sent;
    if (d->unsent_bytes > 0) {
        relay_blocked(w, c, from);
        return false;
    }
    free(d->unsent);
    d->unsent = NULL;
    d->blocked = false;
    return true;
}

/* Move what `from` sends, until one of the three ends that the top of this file names. */
void relay_pump(struct worker *w, struct conn *c, enum side from)
{
    struct direction *d = &c->from[from];
    if (d->blocked && !flush(w, c, from))
        return;
    for (int step = 0; step < STEPS_A_TURN; step++) {
        if (d->eof)
            return;
        if (d->urgent)
            splice_leave(w, d);
        if (!(d->pipe != NULL ? splice_step(w, c, from) : copy_step(w, c, from)))
            return;
    }
    worker_take_turn(w, c, from);
}

/* Edges of one socket: its own bytes can be read, and the other's may have room again. */
void relay_event(struct worker *w, struct conn *c, enum side side, uint32_t events)
{
    struct direction *d = &c->from[side];
    struct direction *back = &c->from[!side];
    d->urgent |= (events & EPOLLPRI) != 0;
    if (events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP)) {
        d->ending = true;
        d->failed |= (events & EPOLLERR) != 0;
        if (events & EPOLLERR && (d->eof || d->blocked) && failed(w, c, side)) {
            relay_reset_by(w, c, side); /* what waits has nobody left to vouch for it */
            return;
        }
    }
    if (events & EPOLLOUT && back->blocked) {
        relay_pump(w, c, !side);
        if (c->closed)
            return;
    }
    if (!d->blocked && !d->eof && events != EPOLLOUT)
        relay_pump(w, c, side);
}
