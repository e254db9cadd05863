/* idle.c: connections that are opened, asked once, held in silence, and asked again. */
#define _GNU_SOURCE
#include "client.h"

static void ready(struct worker *w, struct connection *c, uint64_t now)
{
    (void)w;
    c->state = FREE;
    c->free_ns = now;
}

static void answered(struct worker *w, struct connection *c, uint64_t now)
{
    c->answers++;
    connection_finish(w, c);
    ready(w, c, now);
}

/* One exchange on every connection that is open, all at once. */
static void ask_all(struct worker *w)
{
    for (int i = 0; i < w->count; i++) {
        struct connection *c = &w->connections[i];
        uint64_t now = now_ns();
        if (c->state != FREE)
            continue;
        connection_begin(w, c, now, now);
        connection_ask(w, c);
    }
    while (w->busy)
        pump(w, NEVER); /* the sweep ends what has no answer */
}

static int count_answers(const struct worker *w, int answers)
{
    int n = 0;
    for (int i = 0; i < w->count; i++)
        n += w->connections[i].answers >= answers;
    return n;
}

void idle_run(struct worker *w)
{
    w->ready = ready;
    w->answered = answered;
    establish(w);
    ask_all(w);
    atomic_fetch_add(&w->run->established, count_answers(w, 1));
    start_together(w);
    while (now_ns() < w->run->end_ns)
        pump(w, w->cpu_from_ns ? w->run->end_ns : w->run->measure_ns);
    stop_cpu_clock(w);
    ask_all(w);
    w->tally.held = w->tally.operations = (uint64_t)count_answers(w, 2);
    for (int i = 0; i < w->count; i++)
        if (w->connections[i].answers == 2)
            w->tally.endpoints[w->connections[i].endpoint].count++;
}
