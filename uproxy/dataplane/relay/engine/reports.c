/* What workers tell Python: failed dials, and ends when somebody keeps an access log, or clients wait for
 * the places that they give back. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"

/* Room for one more. Without memory the end of a connection goes untold, but a client's socket
 * is never lost: the caller closes it. */
static struct report *next_report(struct engine *e)
{
    if (e->reports_count == e->reports_room) {
        size_t room = e->reports_room ? e->reports_room * 2 : 64;
        struct report *more = realloc(e->reports, room * sizeof *more);
        if (more == NULL)
            return NULL;
        e->reports = more;
        e->reports_room = room;
    }
    return &e->reports[e->reports_count];
}

static void add(struct engine *e, const struct report *told)
{
    pthread_mutex_lock(&e->lock);
    struct report *place = next_report(e);
    bool first = e->reports_count == 0;
    if (place != NULL) {
        *place = *told;
        e->reports_count++;
    } else if (told->failed_dial) {
        close_with_reset(told->fd);
    }
    pthread_mutex_unlock(&e->lock);
    uint64_t one = 1;
    if (first && write(e->report_fd, &one, sizeof one) < 0)
        return; /* the counter is full: Python is told already */
}

/* The client's socket goes back to Python, which knows what to try next. */
void report_failed_dial(struct engine *e, const struct conn *c, int error)
{
    struct report told = {.failed_dial = true, .fd = c->fd[CLIENT], .code = error,
                          .port = c->port, .backend = c->backend};
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    if (c->peer != NULL)
        memcpy(told.client, c->peer->address, sizeof told.client);
    else if (getpeername(c->fd[CLIENT], (struct sockaddr *)&address, &size) == 0)
        address_text(&address, told.client);
    told.lasted_ns = clock_ns() - c->dialled_ns;
    add(e, &told);
}

void report_end(struct engine *e, const struct conn *c, int reason)
{
    struct report told = {.code = reason, .port = c->port, .backend = c->backend,
                          .bytes = {c->from[CLIENT].bytes, c->from[BACKEND].bytes}};
    told.lasted_ns = clock_ns() - (c->peer != NULL ? c->peer->begun_ns : c->dialled_ns);
    if (c->peer != NULL)
        memcpy(told.client, c->peer->address, sizeof told.client);
    add(e, &told);
}

/* Whether Python has, or may have, still to hear of something that happened at this Service port or
 * endpoint. */
bool reports_name(struct engine *e, const struct slots *slots, uint32_t slot)
{
    bool found = false;
    for (unsigned i = 0; i < e->options.workers; i++)
        found |= READ(e->workers[i].telling);
    pthread_mutex_lock(&e->lock);
    for (size_t i = 0; i < e->reports_count && !found; i++)
        found = slot == (slots->ports ? e->reports[i].port : e->reports[i].backend);
    pthread_mutex_unlock(&e->lock);
    return found;
}
