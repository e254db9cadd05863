/* schedule.c: which operation starts when, on which connection, and what counts.
 *
 * Open loop: operation k of a worker is due at start + first_due + k * interval. The schedule is
 * this arithmetic and a counter: operations that found no free connection wait in it, oldest
 * first, and are sent as connections become free. Closed loop: one is due whenever a connection
 * is free. plan.py says what enters which histogram.
 */
#define _GNU_SOURCE
#include "client.h"

#define LATE_NS NS_PER_MS
#define DRAIN_NS NS_PER_S /* how long after the end answers still count */

static uint64_t next_due(const struct worker *w)
{
    return w->run->start_ns + (uint64_t)(w->first_due_ns + (double)w->issued * w->interval_ns);
}

static bool is_open_loop(const struct worker *w)
{
    return w->plan->rate_per_s > 0;
}

/* Take the next operation from the schedule, if one is due. */
static bool take_due(struct worker *w, uint64_t now, uint64_t *due)
{
    if (!w->started)
        return false;
    *due = is_open_loop(w) ? next_due(w) : now;
    if (*due > now || *due >= w->run->end_ns)
        return false;
    w->issued++;
    return true;
}

static void start(struct worker *w, struct connection *c, uint64_t due, uint64_t now)
{
    uint64_t could_start = due > c->free_ns ? due : c->free_ns;
    if (due >= w->run->measure_ns) {
        w->tally.sent++;
        w->tally.behind += now - could_start > LATE_NS;
    }
    connection_begin(w, c, due, now);
    if (is_per_connection(w->plan->workload))
        connection_open(w, c, now);
    else
        connection_ask(w, c);
}

static void enqueue(struct worker *w, struct connection *c)
{
    if (c->in_ring) /* it failed while it stood there, and is back */
        return;
    c->in_ring = true;
    w->ring[(w->ring_first + w->ring_length++) % w->count] = c;
}

static void dequeue(struct worker *w)
{
    w->ring[w->ring_first]->in_ring = false;
    w->ring_first = (w->ring_first + 1) % w->count;
    w->ring_length--;
}

static void ready(struct worker *w, struct connection *c, uint64_t now)
{
    uint64_t due;
    c->state = FREE;
    c->free_ns = now;
    if (take_due(w, now, &due))
        start(w, c, due, now);
    else
        enqueue(w, c);
}

static void issue(struct worker *w)
{
    uint64_t due;
    while (w->ring_length) {
        struct connection *c = w->ring[w->ring_first];
        uint64_t now = now_ns();
        if (c->state != FREE || c->busy) {
            dequeue(w);
        } else if (take_due(w, now, &due)) {
            dequeue(w);
            start(w, c, due, now);
        } else {
            return;
        }
    }
}

static void note_gap(struct run *run, uint64_t now)
{
    uint64_t last = atomic_exchange_explicit(&run->last_completion_ns, now, memory_order_relaxed);
    uint64_t longest = atomic_load_explicit(&run->longest_gap_ns, memory_order_relaxed);
    uint64_t gap = now > last ? now - last : 0; /* another thread's clock may be read a little later */
    while (gap > longest && !atomic_compare_exchange_weak(&run->longest_gap_ns, &longest, gap))
        ;
}

static void count(struct worker *w, const struct connection *c, uint64_t now)
{
    struct tally *t = &w->tally;
    if (now >= w->run->measure_ns && now < w->run->end_ns) {
        t->operations++;
        if (!c->http) { /* of HTTP, connection.c counts what it sees */
            t->bytes_up += w->plan->message_bytes;
            t->bytes_down += w->plan->reply_bytes;
            t->endpoints[c->endpoint].count++;
        }
        note_gap(w->run, now);
    }
    if (c->due_ns >= w->run->measure_ns) {
        histogram_add(&t->corrected, now - c->due_ns);
        histogram_add(&t->uncorrected, now - c->sent_ns);
    }
}

static void answered(struct worker *w, struct connection *c, uint64_t now)
{
    bool last = c->http && c->http->last;
    count(w, c, now);
    connection_finish(w, c);
    if (!is_per_connection(w->plan->workload) && !last) {
        ready(w, c, now);
        return;
    }
    connection_close(w, c);
    if (is_per_connection(w->plan->workload))
        ready(w, c, now_ns());
    else
        connection_open(w, c, now);
}

static uint64_t wake_by(const struct worker *w, uint64_t phase_end)
{
    uint64_t due = is_open_loop(w) && w->ring_length ? next_due(w) : NEVER;
    uint64_t measure = w->cpu_from_ns ? NEVER : w->run->measure_ns;
    uint64_t first = due < measure ? due : measure;
    return first < phase_end ? first : phase_end;
}

static bool has_work(const struct worker *w)
{
    return w->busy || (is_open_loop(w) && next_due(w) < w->run->end_ns);
}

static void count_as_stuck(struct worker *w, uint64_t due, uint64_t now)
{
    if (due < w->run->measure_ns)
        return;
    w->tally.stuck++;
    histogram_add(&w->tally.corrected, now - due);
}

static void count_stuck(struct worker *w)
{
    uint64_t now = now_ns(), due;
    for (int i = 0; i < w->count; i++)
        if (w->connections[i].busy)
            count_as_stuck(w, w->connections[i].due_ns, now);
    while (is_open_loop(w) && take_due(w, now, &due))
        count_as_stuck(w, due, now);
}

void schedule_run(struct worker *w)
{
    w->ready = ready;
    w->answered = answered;
    if (is_per_connection(w->plan->workload))
        for (int i = 0; i < w->count; i++)
            ready(w, &w->connections[i], now_ns());
    else
        establish(w);
    start_together(w);
    uint64_t end = w->run->end_ns;
    for (issue(w); now_ns() < end; issue(w))
        pump(w, wake_by(w, end));
    stop_cpu_clock(w);
    while (has_work(w) && now_ns() < end + DRAIN_NS) {
        pump(w, end + DRAIN_NS);
        issue(w);
    }
    count_stuck(w);
}
