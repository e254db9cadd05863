/* Bulk: splice(2) through a pipe moves pages without copying them.
 *
 * A pipe costs two descriptors and, while bytes are in it, memory; so only directions in full flow
 * have one, and each worker keeps a few empty ones for the next.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine.h"

enum {
    PIPE_BYTES = 256 * 1024, /* unprivileged users may have 64 of them (pipe(7)) */
    PIPES_KEPT = 16,
    SMALL_BYTES = 16 * 1024,
    SMALL_FILLS_BEFORE_COPY = 8,
};

static void discard(struct worker *w, struct pipe *p)
{
    close(p->read_fd);
    close(p->write_fd);
    free(p);
    ADD_SHARED(w->descriptors, -2);
}

static int descriptors_of_all(const struct engine *e)
{
    int sum = 0;
    for (unsigned i = 0; i < e->options.workers; i++)
        sum += READ(e->workers[i].descriptors);
    return sum;
}

/* An empty pipe; NULL when there is none to spare: copying works too. */
static struct pipe *take(struct worker *w)
{
    struct pipe *p = w->pipes;
    if (p != NULL) {
        w->pipes = p->next;
        w->pipes_kept--;
        return p;
    }
    int ends[2];
    if (descriptors_of_all(w->engine) > w->engine->options.pipe_descriptors_max)
        return NULL;
    p = malloc(sizeof *p);
    if (p == NULL || pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0) {
        free(p);
        return NULL;
    }
    *p = (struct pipe){.read_fd = ends[0], .write_fd = ends[1]};
    ADD_SHARED(w->descriptors, 2);
    if (fcntl(p->write_fd, F_SETPIPE_SZ, PIPE_BYTES) < 0) {
        discard(w, p); /* the user's quota is used up, and a small pipe is slower than copying */
        return NULL;
    }
    return p;
}

/* Give the pipe back; one that still holds bytes stays, unless the connection is closed. */
void splice_leave(struct worker *w, struct direction *d)
{
    struct pipe *p = d->pipe;
    if (p == NULL || (d->unsent_bytes > 0 && !d->eof))
        return;
    d->pipe = NULL;
    d->big_reads = d->small_fills = 0;
    if (d->unsent_bytes > 0 || w->pipes_kept == PIPES_KEPT) {
        d->unsent_bytes = 0;
        discard(w, p);
        return;
    }
    p->next = w->pipes;
    w->pipes = p;
    w->pipes_kept++;
}

void pipes_destroy(struct worker *w)
{
    while (w->pipes != NULL) {
        struct pipe *p = w->pipes;
        w->pipes = p->next;
        discard(w, p);
    }
}

/* A direction is in full flow. */
void splice_begin(struct worker *w, struct conn *c, enum side from)
{
    struct direction *d = &c->from[from];
    bound_unsent(c->fd[!from]);
    d->pipe = take(w);
    d->big_reads = 0; /* without a pipe: ask again later */
}

static ssize_t move(int from, int to, size_t count)
{
    ssize_t moved;
    do
        moved = splice(from, NULL, to, NULL, count, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    while (moved < 0 && errno == EINTR);
    return moved;
}

/* Fill the pipe and empty it. False when the source has no bytes or the sink no room. */
bool splice_step(struct worker *w, struct conn *c, enum side from)
{
    struct direction *d = &c->from[from];
    ssize_t got = move(c->fd[from], d->pipe->write_fd, PIPE_BYTES);
    if (got < 0) {
        if (errno != EAGAIN)
            relay_source_failed(w, c, from);
        return false;
    }
    if (got == 0) {
        d->urgent = true; /* the end, or an urgent byte ahead of one: reading tells */
        return true;
    }
    relay_moved(w, c, from, (size_t)got);
    d->unsent_bytes = (uint32_t)got;
    d->small_fills = got < SMALL_BYTES ? d->small_fills + 1 : 0;
    if (!splice_drain(w, c, from))
        return false;
    if (d->small_fills == SMALL_FILLS_BEFORE_COPY)
        splice_leave(w, d);
    return true;
}

/* Empty the pipe into the sink. False when bytes stay, or the connection is over. */
bool splice_drain(struct worker *w, struct conn *c, enum side from)
{
    struct direction *d = &c->from[from];
    while (d->unsent_bytes > 0) {
        ssize_t sent = move(d->pipe->read_fd, c->fd[!from], d->unsent_bytes);
        if (sent < 0) {
            if (errno == EAGAIN)
                relay_blocked(w, c, from);
            else
                relay_sink_failed(w, c, from);
            return false;
        }
        d->unsent_bytes -= (uint32_t)sent;
    }
    return true;
}
