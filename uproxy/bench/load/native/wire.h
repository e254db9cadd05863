/* wire.h: the bytes of the `bench` protocol; load/wire.py is its twin in Python.
 *
 * Everything is a message: a header of 32 bytes, in network byte order, and a body that is a fixed
 * pattern. A message of 64 bytes is 64 bytes on the wire: the header counts.
 *
 *    0  u16  magic
 *    2  u8   kind
 *    3  u8   0
 *    4  u32  length of this message, header included
 *    8  u32  reply_length: what EXCHANGE asks for, or each DATA of a stream back
 *   12  u32  sequence: of EXCHANGE, and the same in its REPLY
 *      (u64  received, at 8: in DATA and END of a stream, bytes read so far by whoever sends it)
 *   16  char name[16]: of the server, in what it sends; zeros from clients
 *
 * A client sends EXCHANGE and gets a REPLY; or it sends UPLOAD, DOWNLOAD or BOTH, after which DATA
 * flows in the directions named, and the client ends it with END, which the server answers with
 * its own. An upload's reader tells every 10 ms, in a DATA without a body, how far it is.
 * A stream ends in a message and not with a half-closed connection: not every proxy relays those.
 */
#ifndef UPROXY_LOAD_WIRE_H
#define UPROXY_LOAD_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { HEADER = 32, NAME = 16, LONGEST_MESSAGE = 1 << 20, RECEIVE_BUFFER = 256 * 1024 };

enum kind { EXCHANGE = 1, REPLY, UPLOAD, DOWNLOAD, BOTH, DATA, END };

struct header {
    enum kind kind;
    uint32_t length;
    uint32_t reply_length;
    uint32_t sequence;
    uint64_t received;
    char name[NAME];
};

/* A message on its way in, taken as its bytes come. */
struct incoming {
    uint32_t got;
    unsigned char bytes[HEADER];
    struct header header; /* valid once got >= HEADER */
};

/* A message on its way out. */
struct outgoing {
    uint32_t length, sent;
    unsigned char bytes[HEADER];
};

/* To be called once, before anything else here. */
void wire_prepare(void);

/* A buffer of LONGEST_MESSAGE bytes of pattern, in which outgoing_push puts headers; NULL without memory. */
unsigned char *wire_scratch(void);

/* Take bytes of the current message: how many were its, or -1 if they are not this protocol.
 * It is whole when incoming_whole(), and `got` must be set to 0 for the next one. */
ssize_t incoming_feed(struct incoming *in, const unsigned char *data, size_t n);

static inline bool incoming_whole(const struct incoming *in)
{
    return in->got >= HEADER && in->got == in->header.length;
}

void outgoing_set(struct outgoing *out, const struct header *header);

static inline bool outgoing_done(const struct outgoing *out)
{
    return out->sent == out->length;
}

/* Send what the socket takes now: bytes sent, 0 if it takes none, -1 with errno. */
ssize_t outgoing_push(struct outgoing *out, int fd, unsigned char *scratch);

#endif
