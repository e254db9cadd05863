/* client.h: what the parts of the generator share: the plan, a thread's state, a connection.
 *
 *   run.c         threads, and the sum of their tallies
 *   loop.c        one turn of a worker's loop; the clock all start by
 *   schedule.c    which operation starts when, on which connection; what counts
 *   connection.c  sockets: opening, sending, receiving, failing
 *   stream.c      bytes as fast as they go       idle.c   connections held
 *
 * A worker is one thread with an epoll and connections of its own; workers share nothing that is
 * written during the run but the time of the last completion.
 */
#ifndef UPROXY_LOAD_CLIENT_H
#define UPROXY_LOAD_CLIENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "clock.h"
#include "histogram.h"
#include "http.h"
#include "wire.h"

enum workload { RR, CRR, STREAM_UP, STREAM_DOWN, STREAM_BOTH, UDP_RR, CONNECT, IDLE };

enum failure {
    REFUSED, RESET, TIMEOUT, END_OF_FILE, MISMATCH, STATUS, UNREACHABLE, NO_LOCAL_PORT, NO_DESCRIPTOR,
    OTHER, FAILURES
};

struct plan {
    enum workload workload;
    bool http;
    struct sockaddr_storage target;
    socklen_t target_length;
    int connections, threads;
    uint32_t message_bytes, reply_bytes;
    double rate_per_s; /* 0: closed loop */
    uint64_t warmup_ns, duration_ns, timeout_ns;
};

struct endpoint {
    char name[NAME];
    uint64_t count;
};

/* What a worker counted; added up when all are done. */
struct tally {
    uint64_t operations, bytes_up, bytes_down, errors[FAILURES];
    uint64_t sent, behind; /* operations of the measured time, and those sent late */
    uint64_t stuck, held, last_byte_ns;
    double user_s, system_s, busiest_share;
    struct endpoint *endpoints;
    int endpoint_count;
    struct histogram corrected, uncorrected;
};

/* The clock of a run. */
struct run {
    const struct plan *plan;
    pthread_barrier_t barrier;
    uint64_t start_ns, measure_ns, end_ns; /* warm-up, measured time, its end */
    _Atomic uint64_t last_completion_ns, longest_gap_ns;
    _Atomic int established; /* idle: connections that have answered once */
};

enum state { CLOSED, CONNECTING, FREE, WAITING, RESTING };

struct connection {
    int fd;
    enum state state;
    bool busy;    /* an operation is under way, even while connecting */
    bool in_ring; /* stands in the queue of free connections */
    int endpoint; /* who answered last, an index; -1 unknown */
    unsigned failures;
    uint32_t sequence;
    uint64_t due_ns, sent_ns, free_ns, retry_ns; /* sent_ns: since when it waits, for the timeout */
    struct incoming in;
    struct outgoing out;
    struct http_reply *http;
    uint64_t read_by_server; /* stream */
    bool ended;              /* stream: END is on its way, or sent */
    int answers;             /* idle */
};

struct worker {
    struct run *run;
    const struct plan *plan;
    int number, epoll_fd;
    struct connection *connections;
    int count;                /* of them */
    int unopened, connecting; /* the next to open for the first time; handshakes under way */
    int busy, resting;
    struct connection **ring; /* free connections, oldest first */
    int ring_first, ring_length;
    bool started;             /* operations may begin */
    double interval_ns, first_due_ns;
    uint64_t issued;          /* operations taken from the schedule */
    uint64_t swept_ns;
    uint64_t cpu_from_ns; /* when cpu_before was taken; 0 before that */
    struct rusage cpu_before;
    unsigned char *scratch, *buffer;
    struct tally tally;
    void (*ready)(struct worker *, struct connection *, uint64_t now);    /* open, without work */
    void (*answered)(struct worker *, struct connection *, uint64_t now); /* its operation is done */
};

static inline bool is_stream(enum workload w)
{
    return w == STREAM_UP || w == STREAM_DOWN || w == STREAM_BOTH;
}

/* Whether each operation opens a connection of its own. */
static inline bool is_per_connection(enum workload w)
{
    return w == CRR || w == CONNECT;
}

/* connection.c. What fails there ends in connection_fail, and nothing returns an error. */
void connection_open(struct worker *w, struct connection *c, uint64_t now);
void connection_ask(struct worker *w, struct connection *c);
void connection_event(struct worker *w, struct connection *c, uint32_t events);
void connection_begin(struct worker *w, struct connection *c, uint64_t due, uint64_t now);
void connection_finish(struct worker *w, struct connection *c); /* its operation is no longer under way */
void connection_close(struct worker *w, struct connection *c);
void connection_fail(struct worker *w, struct connection *c, enum failure why, uint64_t now);
enum failure failure_of(int number);
void note_endpoint(struct worker *w, struct connection *c, const char *name);

/* schedule.c */
void schedule_run(struct worker *w);

/* loop.c */
void pump(struct worker *w, uint64_t deadline_ns); /* wait once, handle what came, retry, time out */
void establish(struct worker *w);                  /* open all connections */
void start_together(struct worker *w);             /* with the other workers: the clock begins */
void stop_cpu_clock(struct worker *w);

/* stream.c, idle.c */
void stream_run(struct worker *w);
void stream_event(struct worker *w, struct connection *c, uint32_t events);
void idle_run(struct worker *w);

/* run.c: fills `total` and `run`; 0, or an errno. */
int run_plan(const struct plan *plan, struct run *run, struct tally *total);

#endif
