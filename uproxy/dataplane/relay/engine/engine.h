/* The native relay: what its parts share.
 *
 * Two kinds of threads. The front is Python's own thread: it accepts, dials and hands over
 * (front.c, module.c). Workers own connections from then on: they finish the dial, relay,
 * time out, close (worker.c, relay.c, splice.c). No worker ever calls Python or waits for it.
 *
 * Every connection belongs to one worker, which alone writes to it once the front has let go of it.
 * Counters belong to the thread that writes them, and are summed by whoever reads
 * (counters.c). What a worker has to tell goes to a list with a lock, and an eventfd says so
 * (reports.c). Nothing here decides which endpoint is dialled, or what a failure means.
 */
#ifndef UPROXY_ENGINE_H
#define UPROXY_ENGINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum {
    SCRATCH_BYTES = 128 * 1024, /* most that one recv takes; a worker's connections share it */
    EVENTS = 256,               /* taken from epoll at a time */
    STEPS_A_TURN = 8,           /* reads of one direction before others have a turn */
    BUCKETS_MAX = 16,           /* of the connect time histogram */
    HEADER_MAX = 256,           /* bytes of ours ahead of the client's */
    WORKERS_MAX = 64,
    CHUNK = 256,                /* counters are allocated so many slots at a time */
    CHUNKS_MAX = 4096,
};

/* Why connections end. The order is that of REASONS in module.c. */
enum reason {
    CLIENT_EOF, BACKEND_EOF, CLIENT_RESET, BACKEND_RESET, IDLE_TIMEOUT, HALF_CLOSED_TIMEOUT, SHUTDOWN,
    ENDPOINT_REMOVED, MAX_AGE, NO_RESOURCES, REASONS_COUNT
};

enum side { CLIENT = 0, BACKEND = 1 }; /* of a connection; a direction is named by its source */

/* ---- counters ---- */

/* Of one Service port. One thread writes, others may read: see ADD and READ. */
struct port_counts {
    uint64_t begun;    /* handed over by the front; the other counts are the workers' */
    uint64_t returned; /* given back, because the dial failed */
    uint64_t bytes[2]; /* by source: from clients, from backends */
    uint64_t closes[REASONS_COUNT];
    uint64_t connect_ns;
    uint64_t connects[BUCKETS_MAX + 1];
};

/* Of one endpoint. */
struct backend_counts {
    uint64_t begun, returned, joined, ended;
};

#define ADD(counter, n) __atomic_store_n(&(counter), (counter) + (n), __ATOMIC_RELEASE)
#define READ(counter) __atomic_load_n(&(counter), __ATOMIC_ACQUIRE)

/* For the few that two threads write. */
#define ADD_SHARED(counter, n) __atomic_fetch_add(&(counter), (n), __ATOMIC_RELAXED)

/* One thread's counters, in chunks that never move. */
struct counters {
    struct port_counts *ports[CHUNKS_MAX];
    struct backend_counts *backends[CHUNKS_MAX];
};

/* ---- connections ---- */

struct pipe {
    struct pipe *next; /* in the pool */
    int read_fd, write_fd;
};

/* Everything that one side sends to the other. */
struct direction {
    uint64_t bytes;
    struct pipe *pipe;     /* in full flow: splice instead of copying */
    char *unsent;          /* copied from the scratch buffer when the sink had no room */
    uint32_t unsent_bytes; /* of `unsent`, or of what is in the pipe */
    uint32_t unsent_at;
    uint8_t big_reads, small_fills;
    bool blocked; /* bytes wait for room in the sink */
    bool eof;     /* nothing more will be read: the source has finished, or the connection is closed */
    bool ending;  /* the source has ended or failed, or may have: read on until it says which */
    bool urgent;  /* it sends urgent bytes, at which a read stops short, and splice(2) for ever */
    bool failed;  /* the source has failed, maybe after its end */
    bool cut;     /* a write to the source was told of its reset: its end, when read, is none */
    bool turn;    /* gave way to others and goes on after them */
};

struct conn {
    struct conn *next, *prev; /* of all of the worker, or of the dead; `next` also on the way there */
    struct conn *next_turn;
    struct conn *next_unwatched;
    struct direction from[2];
    struct peer *peer; /* only when ends are reported */
    uint64_t dialled_ns;
    uint64_t due_ms; /* of the dial */
    uint32_t port, backend; /* slots */
    int fd[2];
    uint32_t deferred; /* events of the backend that came while the front still held on */
    uint32_t active_ms;   /* of the engine's clock, when bytes last moved */
    uint8_t dialling, closed, first_eof, queued, watches_out, kept_alive, asks_often;
    uint8_t settled;  /* the front has let go of it for certain */
    uint8_t patient;  /* its dial may take longer than others */
    uint8_t unwatched; /* in the worker's list of those, or on the way there */
    uint8_t last_from; /* whose bytes moved last */
    uint8_t in_order; /* ended for its age, and neither side is to see a reset */
};

enum { NOBODY = 2 }; /* in first_eof */

/* What an access log wants to know. */
struct peer {
    uint64_t begun_ns;
    char address[64];
};

/* ---- workers ---- */

struct list {
    struct conn *first, *last;
};

struct reset {
    int reason;
    int64_t backend; /* a slot, or -1 for every connection */
    bool wanted;
};

struct worker {
    struct engine *engine;
    pthread_t thread;
    int epoll_fd, wake_fd;
    struct conn *arrivals; /* pushed by the front, taken by the worker; atomic */
    struct conn *unwatched; /* the same, of those that nothing would ever be heard of; atomic */
    uint64_t wakes_at_ms;  /* atomic; when the worker will look at the time by itself */
    struct list dials; /* the first is due first */
    struct list long_dials; /* the same, of those that may take longer than `connect_ms` */
    struct list joined;
    struct conn *dead, *turns;
    struct conn *sweep_next;
    struct pipe *pipes;
    unsigned pipes_kept;
    uint64_t now_ms, next_sweep_ms;
    int descriptors; /* sockets and pipes; atomic */
    int live;        /* atomic */
    bool telling;    /* atomic; something was counted that is about to be reported */
    char *scratch;
    struct counters counters;
    pthread_mutex_t lock; /* of the three below */
    struct reset reset;
    bool sweep_soon; /* sweeps come more often from now on */
    bool stop;
    pthread_cond_t done;
};

struct options {
    unsigned workers;
    uint32_t connect_ms, idle_ms, half_closed_ms;
    uint32_t mark;
    int pipe_descriptors_max; /* beyond so many descriptors no pipe is made */
    bool report_ends;
    bool tells_ends; /* an edge says that its peer has finished (trials.py) */
    bool tells_failures; /* EPOLLERR means one */
    unsigned buckets;
    uint64_t bucket_ns[BUCKETS_MAX];
};

/* What a worker tells Python. */
struct report {
    bool failed_dial; /* else the end of a connection */
    int fd;           /* failed dial: the client's socket, Python's again */
    int code;         /* errno, or a reason */
    uint32_t port, backend;
    uint64_t bytes[2];
    uint64_t lasted_ns;
    char client[64];
};

/* Ours, for the backend to read ahead of what the client says: a PROXY header, or nothing. */
struct header {
    const char *bytes;
    uint32_t size; /* HEADER_MAX at most */
};

/* What is asked for at one Service port. Written by the front, read by workers. */
struct port_settings {
    uint64_t age_ms;  /* of its connections, at most; 0 for any */
    bool report_ends; /* even if those of others are not */
};

/* Ports that dials come from: the first and the last, and which is next. */
struct port_range {
    uint32_t first, last, next;
};

struct target {
    struct sockaddr_storage address;
    socklen_t size;
};

const struct target *target_of(const struct engine *e, uint32_t backend);
struct port_settings *settings_of(const struct engine *e, uint32_t port);

/* Slots of one kind: a number for each Service port, or each endpoint. */
struct slots {
    uint32_t count; /* ever given out */
    uint32_t *free; /* given back since */
    size_t free_count, free_room;
    bool *owned; /* by slot: given out, and not given back */
    size_t owned_room;
    bool ports;
};

struct engine {
    struct options options;
    struct worker *workers;
    struct counters front;               /* what the front counts */
    struct target *targets[CHUNKS_MAX];  /* of backends, by slot, in chunks that never move */
    struct port_settings *settings[CHUNKS_MAX]; /* of Service ports, by slot */
    struct counters seen;                /* what Python was told already */
    struct slots ports, backends;
    struct conn *handing_over; /* atomic; what the front still touches (worker.c, front_holds) */
    uint32_t ask_every_s; /* atomic; of connections that are half closed */
    uint64_t shortest_age_ms; /* atomic; of all Service ports that have one */
    uint32_t next_worker;
    struct port_range local_ports, client_ports; /* from our address, and from a client's */
    char *scratch; /* the front's */
    uint8_t *hops; /* by a client's descriptor, what its SYN said; until another has the descriptor */
    size_t hops_room;
    pthread_mutex_t lock;      /* of the reports */
    struct report *reports;
    size_t reports_count, reports_room;
    int report_fd;
};

/* clock */
uint64_t clock_ns(void);
uint64_t clock_ms(void);

/* front.c */
int front_begin(struct engine *e, int client, uint32_t port, uint32_t backend, const char *address,
                uint64_t begun_ns, struct header header, bool as_client, uint32_t bound_ms);

/* worker.c */
int worker_start(struct worker *w, struct engine *e);
void worker_stop(struct worker *w);
void worker_reset(struct worker *w, int reason, int64_t backend);
void worker_wake(struct worker *w);
void worker_sweep_soon(struct worker *w);
void worker_adopt(struct worker *w, struct conn *c);
void worker_give_up(struct worker *w, struct conn *c);
void worker_take_turn(struct worker *w, struct conn *c, enum side from);
void conn_close(struct worker *w, struct conn *c, int reason);

/* relay.c */
void relay_event(struct worker *w, struct conn *c, enum side side, uint32_t events);
void relay_pump(struct worker *w, struct conn *c, enum side from);
void relay_reset_by(struct worker *w, struct conn *c, enum side from);
void relay_source_failed(struct worker *w, struct conn *c, enum side from);
void relay_finish(struct worker *w, struct conn *c, enum side from);
void relay_sink_failed(struct worker *w, struct conn *c, enum side from);
void relay_moved(struct worker *w, struct conn *c, enum side from, size_t bytes);
void relay_blocked(struct worker *w, struct conn *c, enum side from);

/* splice.c */
void splice_begin(struct worker *w, struct conn *c, enum side from);
bool splice_step(struct worker *w, struct conn *c, enum side from);
bool splice_drain(struct worker *w, struct conn *c, enum side from);
void splice_leave(struct worker *w, struct direction *d);
void pipes_destroy(struct worker *w);

/* age.c */
bool age_ends(struct worker *w, struct conn *c);
uint64_t age_sweep_ms(const struct engine *e, uint64_t asked_ms);

/* counters.c */
void count_connect(struct counters *counters, const struct options *o, const struct conn *c);
int counters_grow(struct counters *counters, uint32_t slot, bool ports);
void counters_free(struct counters *counters);
struct port_counts *port_counts(struct counters *counters, uint32_t slot);
struct backend_counts *backend_counts(struct counters *counters, uint32_t slot);

/* slots.c */
int64_t slot_new(struct engine *e, struct slots *slots);
int slot_drop(struct engine *e, struct slots *slots, uint32_t slot);
bool slot_is_owned(const struct slots *slots, unsigned long slot);
void sum_port(struct engine *e, uint32_t slot, struct port_counts *sum);
void sum_backend(struct engine *e, uint32_t slot, struct backend_counts *sum);
uint64_t backend_open(struct engine *e, uint32_t slot);

/* sockets.c */
int stream_socket(int family, uint32_t mark, unsigned hops);
unsigned hops_of(int client);
int make_transparent(int fd, int family);
int begin_connect(int fd, const struct target *t);
void keep_alive(int fd);
void ask_often(int fd, uint32_t every_s);
void bound_unsent(int fd);
void close_with_reset(int fd);
bool has_failed(int fd);
ssize_t receive(int fd, char *room, size_t count);
ssize_t transmit(int fd, const char *bytes, size_t count);
bool is_ours_to_lack(int error);
void address_text(const struct sockaddr_storage *address, char text[64]);

/* reports.c */
void report_failed_dial(struct engine *e, const struct conn *c, int error);
void report_end(struct engine *e, const struct conn *c, int reason);
bool reports_name(struct engine *e, const struct slots *slots, uint32_t slot);

#endif
