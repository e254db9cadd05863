/* delays.c: replies held back, in a binary heap. */
#define _GNU_SOURCE
#include "server.h"

#include <stdlib.h>

static void swap(struct delays *d, size_t a, size_t b)
{
    struct delayed *item = d->items[a];
    d->items[a] = d->items[b];
    d->items[b] = item;
}

static bool earlier(const struct delays *d, size_t a, size_t b)
{
    return d->items[a]->due_ns < d->items[b]->due_ns;
}

bool delays_push(struct delays *d, struct delayed *item)
{
    if (d->count == d->room) {
        size_t room = d->room ? 2 * d->room : 64;
        struct delayed **grown = realloc(d->items, room * sizeof(struct delayed *));
        if (!grown)
            return false;
        d->items = grown;
        d->room = room;
    }
    size_t at = d->count++;
    d->items[at] = item;
    for (; at && earlier(d, at, (at - 1) / 2); at = (at - 1) / 2)
        swap(d, at, (at - 1) / 2);
    return true;
}

uint64_t delays_next_ns(const struct delays *d)
{
    return d->count ? d->items[0]->due_ns : NEVER;
}

static void sink(struct delays *d)
{
    size_t at = 0;
    for (;;) {
        size_t left = 2 * at + 1, right = left + 1, first = at;
        if (left < d->count && earlier(d, left, first))
            first = left;
        if (right < d->count && earlier(d, right, first))
            first = right;
        if (first == at)
            return;
        swap(d, at, first);
        at = first;
    }
}

struct delayed *delays_pop(struct delays *d, uint64_t now)
{
    if (!d->count || d->items[0]->due_ns > now)
        return NULL;
    struct delayed *item = d->items[0];
    d->items[0] = d->items[--d->count];
    sink(d);
    return item;
}
