/* faults.h: what the server does wrong on purpose, so that the generator can be tested.
 *
 * All of it is counted out and not drawn at random: of n replies exactly the given share.
 */
#ifndef UPROXY_LOAD_FAULTS_H
#define UPROXY_LOAD_FAULTS_H

#include <stdbool.h>

#include "clock.h"

struct faults {
    uint64_t constant_ns;               /* every reply */
    double slow_share;                  /* this share of replies waits slow_ns more */
    uint64_t slow_ns;
    uint64_t stall_period_ns, stall_ns; /* at the end of each period nothing is done at all; 0: never */
    double error_share;                 /* requests that are answered with a reset */
    double slow_owed, error_owed;       /* run time: shares added up */
    uint64_t since_ns;
};

static inline bool fault_due(double *owed, double share)
{
    *owed += share;
    if (*owed < 1)
        return false;
    *owed -= 1;
    return true;
}

static inline uint64_t reply_delay_ns(struct faults *f)
{
    return f->constant_ns + (fault_due(&f->slow_owed, f->slow_share) ? f->slow_ns : 0);
}

/* Sleeps through the rest of a stall, if this is one. */
static inline void stall(const struct faults *f)
{
    if (!f->stall_period_ns)
        return;
    uint64_t into = (now_ns() - f->since_ns) % f->stall_period_ns;
    if (into < f->stall_period_ns - f->stall_ns)
        return;
    struct timespec rest = timespec_of(f->stall_period_ns - into);
    nanosleep(&rest, NULL);
}

#endif
