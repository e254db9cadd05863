/* server.h: the server's parts: sessions (server.c) and replies held back (delays.c). One thread. */
#ifndef UPROXY_LOAD_SERVER_H
#define UPROXY_LOAD_SERVER_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "faults.h"
#include "http.h"
#include "wire.h"

enum role { LISTENER, DATAGRAMS, SESSION };

struct delayed;

struct session {
    int fd;
    enum role role;
    bool downloads, uploads; /* a stream, and its directions */
    bool ending;             /* END has come */
    struct incoming in;
    struct outgoing out;
    uint32_t data_length;    /* of each DATA of a download */
    uint64_t received, told_ns;
    struct delayed *delayed; /* a reply held back; nothing is read meanwhile */
    struct http_head *http;
};

/* A reply that waits: for a session, or to a datagram's sender. */
struct delayed {
    uint64_t due_ns;
    struct session *session; /* NULL once it is gone */
    struct header header;    /* of a bench reply; an HTTP session knows its own */
    struct sockaddr_storage to;
    socklen_t to_length;     /* 0: not a datagram */
};

/* A heap, earliest first. */
struct delays {
    struct delayed **items;
    size_t count, room;
};

bool delays_push(struct delays *d, struct delayed *item);
uint64_t delays_next_ns(const struct delays *d);              /* NEVER when empty */
struct delayed *delays_pop(struct delays *d, uint64_t now);   /* NULL when none is due; to be freed */

/* Serve a listening and a datagram socket for ever; returns an errno when it cannot begin. */
int serve(int listener, int datagrams, const char *name, struct faults *faults);

#endif
