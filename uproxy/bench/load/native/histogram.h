/* histogram.h: counts of nanoseconds in the buckets of HdrHistogram(1 ns, 1 h, 3 digits).
 *
 * The layout is HdrHistogram's own, so that uproxy.bench.latency takes the counts over one by one:
 * 2048 sub-buckets of 1 ns, then halves of 1024 sub-buckets, each twice as wide as the one before.
 */
#ifndef UPROXY_LOAD_HISTOGRAM_H
#define UPROXY_LOAD_HISTOGRAM_H

#include <stdint.h>

enum { HALF_BITS = 10, HALF = 1 << HALF_BITS, BUCKETS = 32, COUNTS = (BUCKETS + 1) * HALF };

#define LONGEST_NS UINT64_C(3600000000000)

struct histogram {
    uint64_t longest_ns;
    uint64_t counts[COUNTS];
};

static inline unsigned histogram_index(uint64_t ns)
{
    unsigned bits = 64u - (unsigned)__builtin_clzll(ns | (2 * HALF - 1));
    unsigned bucket = bits - (HALF_BITS + 1);
    unsigned within = (unsigned)(ns >> bucket);
    return (bucket << HALF_BITS) + within;
}

static inline void histogram_add(struct histogram *h, uint64_t ns)
{
    if (ns > LONGEST_NS)
        ns = LONGEST_NS;
    if (ns > h->longest_ns)
        h->longest_ns = ns;
    h->counts[histogram_index(ns)]++;
}

static inline void histogram_merge(struct histogram *into, const struct histogram *from)
{
    if (from->longest_ns > into->longest_ns)
        into->longest_ns = from->longest_ns;
    for (int i = 0; i < COUNTS; i++)
        into->counts[i] += from->counts[i];
}

#endif
