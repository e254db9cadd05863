/* Slots: the numbers that stand for a Service port or an endpoint, and the sums of what all
 * threads have counted for one. For the front alone. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

/* ---- sums over threads ---- */

static struct counters *counters_of(struct engine *e, unsigned i)
{
    return i == 0 ? &e->front : &e->workers[i - 1].counters;
}

static unsigned threads(struct engine *e)
{
    return e->options.workers + 1;
}

void sum_port(struct engine *e, uint32_t slot, struct port_counts *sum)
{
    uint64_t *totals = (uint64_t *)sum;
    memset(sum, 0, sizeof *sum);
    for (unsigned i = 0; i < threads(e); i++) {
        uint64_t *counts = (uint64_t *)port_counts(counters_of(e, i), slot);
        for (size_t k = 0; k < sizeof *sum / sizeof *counts; k++)
            totals[k] += READ(counts[k]);
    }
}

void sum_backend(struct engine *e, uint32_t slot, struct backend_counts *sum)
{
    uint64_t *totals = (uint64_t *)sum;
    memset(sum, 0, sizeof *sum);
    for (unsigned i = 0; i < threads(e); i++) {
        uint64_t *counts = (uint64_t *)backend_counts(counters_of(e, i), slot);
        for (size_t k = 0; k < sizeof *sum / sizeof *counts; k++)
            totals[k] += READ(counts[k]);
    }
}

static uint64_t open_on_port(const struct port_counts *p)
{
    uint64_t over = p->returned;
    for (int i = 0; i < REASONS_COUNT; i++)
        over += p->closes[i];
    return p->begun - over;
}

static uint64_t open_on_backend(const struct backend_counts *b)
{
    return b->begun - b->returned - b->ended;
}

/* Connections that a backend has now, dials under way included. What has begun is the front's own count,
 * so the sum is never too small. */
uint64_t backend_open(struct engine *e, uint32_t slot)
{
    struct backend_counts sum;
    sum_backend(e, slot, &sum);
    return open_on_backend(&sum);
}

/* ---- slots ---- */

static bool in_use(struct engine *e, const struct slots *slots, uint32_t slot)
{
    if (slots->ports) {
        struct port_counts sum;
        sum_port(e, slot, &sum);
        return open_on_port(&sum) > 0 || memcmp(&sum, port_counts(&e->seen, slot), sizeof sum) != 0;
    }
    struct backend_counts sum;
    sum_backend(e, slot, &sum);
    return open_on_backend(&sum) > 0 || memcmp(&sum, backend_counts(&e->seen, slot), sizeof sum) != 0;
}

static int grow(struct engine *e, const struct slots *slots, uint32_t slot)
{
    for (unsigned i = 0; i <= threads(e); i++) {
        struct counters *c = i == threads(e) ? &e->seen : counters_of(e, i);
        if (counters_grow(c, slot, slots->ports) < 0)
            return -1;
    }
    void **place = slots->ports ? (void **)&e->settings[slot / CHUNK] : (void **)&e->targets[slot / CHUNK];
    if (*place == NULL)
        *place = calloc(CHUNK, slots->ports ? sizeof(struct port_settings) : sizeof(struct target));
    return *place == NULL ? -1 : 0;
}

struct port_settings *settings_of(const struct engine *e, uint32_t port)
{
    return &e->settings[port / CHUNK][port % CHUNK];
}

bool slot_is_owned(const struct slots *slots, unsigned long slot)
{
    return slot < slots->count && slots->owned[slot];
}

static int grow_owned(struct slots *slots)
{
    if (slots->count < slots->owned_room)
        return 0;
    size_t room = slots->owned_room + CHUNK;
    bool *more = realloc(slots->owned, room * sizeof *more);
    if (more == NULL)
        return -1;
    slots->owned = more;
    slots->owned_room = room;
    return 0;
}

/* A slot that nobody uses; -1 when there is no memory for one. */
int64_t slot_new(struct engine *e, struct slots *slots)
{
    uint32_t slot = slots->count;
    if (slots->free_count > 0)
        slot = slots->free[--slots->free_count];
    else if (grow_owned(slots) < 0 || grow(e, slots, slot) < 0)
        return -1;
    else
        slots->count++;
    slots->owned[slot] = true;
    return slot;
}

static int keep_free(struct slots *slots, uint32_t slot)
{
    if (slots->free_count == slots->free_room) {
        size_t room = slots->free_room ? slots->free_room * 2 : 64;
        uint32_t *more = realloc(slots->free, room * sizeof *more);
        if (more == NULL)
            return -1;
        slots->free = more;
        slots->free_room = room;
    }
    slots->free[slots->free_count++] = slot;
    return 0;
}

/* No thread counts here any more, so all start at zero for the next owner. */
static void forget_counts(struct engine *e, const struct slots *slots, uint32_t slot)
{
    for (unsigned i = 0; i <= threads(e); i++) {
        struct counters *c = i == threads(e) ? &e->seen : counters_of(e, i);
        if (slots->ports)
            memset(port_counts(c, slot), 0, sizeof(struct port_counts));
        else
            memset(backend_counts(c, slot), 0, sizeof(struct backend_counts));
    }
}

/* Give a slot up: 1 when done, 0 when a connection uses it or Python has not seen its last
 * counts and reports, -1 when there is no memory to remember it. */
int slot_drop(struct engine *e, struct slots *slots, uint32_t slot)
{
    if (in_use(e, slots, slot) || reports_name(e, slots, slot))
        return 0;
    if (keep_free(slots, slot) < 0)
        return -1;
    slots->owned[slot] = false;
    forget_counts(e, slots, slot);
    if (slots->ports)
        memset(settings_of(e, slot), 0, sizeof(struct port_settings));
    return 1;
}
