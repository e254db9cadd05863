/* Counters, by slot: a Service port or an endpoint has one slot, and each thread its own counts
 * for it. Chunks never move, so that reading needs no lock. */
#include <stdlib.h>

#include "engine.h"

/* Make room for `slot`. Done by the front, before any worker has heard of the slot. */
int counters_grow(struct counters *counters, uint32_t slot, bool ports)
{
    uint32_t chunk = slot / CHUNK;
    if (chunk >= CHUNKS_MAX)
        return -1;
    void **place = ports ? (void **)&counters->ports[chunk] : (void **)&counters->backends[chunk];
    if (*place == NULL)
        *place = calloc(CHUNK, ports ? sizeof(struct port_counts) : sizeof(struct backend_counts));
    return *place == NULL ? -1 : 0;
}

void counters_free(struct counters *counters)
{
    for (unsigned i = 0; i < CHUNKS_MAX; i++) {
        free(counters->ports[i]);
        free(counters->backends[i]);
    }
}

struct port_counts *port_counts(struct counters *counters, uint32_t slot)
{
    return &counters->ports[slot / CHUNK][slot % CHUNK];
}

struct backend_counts *backend_counts(struct counters *counters, uint32_t slot)
{
    return &counters->backends[slot / CHUNK][slot % CHUNK];
}

/* A dial has succeeded. */
void count_connect(struct counters *counters, const struct options *o, const struct conn *c)
{
    struct port_counts *port = port_counts(counters, c->port);
    uint64_t took_ns = clock_ns() - c->dialled_ns;
    unsigned bucket = 0;
    while (bucket < o->buckets && took_ns > o->bucket_ns[bucket])
        bucket++;
    ADD(port->connects[bucket], 1);
    ADD(port->connect_ns, took_ns);
    ADD(backend_counts(counters, c->backend)->joined, 1);
}
