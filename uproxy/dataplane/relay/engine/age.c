/* How old a connection may get, and how it ends then; age.py has the reasons, and the other half. */
#include "engine.h"

enum { QUIET_MS = 1000, SWEEP_MIN_MS = 50, LOT_BITS = 20 };

/* What was asked for, up to 10 % more or less: the same whenever it is asked for. */
static uint64_t limit_ms(const struct conn *c, uint64_t age_ms)
{
    uint64_t lot = (c->dialled_ns * 0x9E3779B97F4A7C15u) >> (64 - LOT_BITS);
    return age_ms / 10 * 9 + (age_ms / 5 * lot >> LOT_BITS);
}

/* Nothing waits, and the backend was the last to speak, a while ago. */
static bool at_rest(const struct worker *w, const struct conn *c, uint64_t age_ms)
{
    int64_t quiet_ms = age_ms / 20 < QUIET_MS ? (int64_t)(age_ms / 20) : QUIET_MS;
    int32_t silent_ms = (int32_t)((uint32_t)w->now_ms - c->active_ms);
    return c->last_from == BACKEND && silent_ms >= quiet_ms && !c->from[CLIENT].blocked &&
           !c->from[BACKEND].blocked;
}

/* End a connection that is too old: in order when it is at rest, else with a reset once it has had time
 * to come to rest. True when it is over. */
bool age_ends(struct worker *w, struct conn *c)
{
    uint64_t age_ms = READ(settings_of(w->engine, c->port)->age_ms);
    if (age_ms == 0)
        return false;
    uint64_t begun_ms = c->dialled_ns / 1000000u, end_ms = begun_ms + limit_ms(c, age_ms);
    if (w->now_ms < end_ms)
        return false;
    c->in_order = at_rest(w, c, age_ms);
    if (!c->in_order && w->now_ms < end_ms + age_ms / 10)
        return false;
    conn_close(w, c, MAX_AGE);
    return true;
}

/* How often to look, so that the limits of connections stay apart; `asked_ms` when no Service asks. */
uint64_t age_sweep_ms(const struct engine *e, uint64_t asked_ms)
{
    uint64_t age_ms = READ(e->shortest_age_ms);
    uint64_t often_ms = age_ms / 20 < SWEEP_MIN_MS ? SWEEP_MIN_MS : age_ms / 20;
    return age_ms == 0 || often_ms > asked_ms ? asked_ms : often_ms;
}
