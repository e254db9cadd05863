/* wire.c: see wire.h. */
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { MAGIC = 0x7570 /* "up" */, CHECKED = 64 };

/* Prime, so that bytes lost or doubled in round numbers are noticed. */
enum { PERIOD = 251 };

static unsigned char pattern[PERIOD + 2 * CHECKED];

void wire_prepare(void)
{
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (unsigned char)(i % PERIOD);
}

unsigned char *wire_scratch(void)
{
    unsigned char *scratch = malloc(LONGEST_MESSAGE);
    for (size_t i = 0; scratch && i < LONGEST_MESSAGE; i++)
        scratch[i] = pattern[i % PERIOD];
    return scratch;
}

static bool matches(size_t offset, const unsigned char *data, size_t n)
{
    return memcmp(data, pattern + offset % PERIOD, n) == 0;
}

/* A long piece is checked at both ends: cheap, and what a proxy loses or shifts shows there. */
static bool body_matches(size_t offset, const unsigned char *data, size_t n)
{
    if (n <= 2 * CHECKED)
        return matches(offset, data, n);
    return matches(offset, data, CHECKED) &&
           matches(offset + n - CHECKED, data + n - CHECKED, CHECKED);
}

static uint32_t number_at(const unsigned char *bytes)
{
    uint32_t number;
    memcpy(&number, bytes, sizeof number);
    return ntohl(number);
}

static void put_number(unsigned char *bytes, uint32_t number)
{
    number = htonl(number);
    memcpy(bytes, &number, sizeof number);
}

static bool decode(const unsigned char *bytes, struct header *h)
{
    h->kind = (enum kind)bytes[2];
    h->length = number_at(bytes + 4);
    h->reply_length = number_at(bytes + 8);
    h->sequence = number_at(bytes + 12);
    h->received = (uint64_t)h->reply_length << 32 | h->sequence;
    memcpy(h->name, bytes + 16, NAME);
    return bytes[0] == MAGIC >> 8 && bytes[1] == (MAGIC & 0xff) && h->kind >= EXCHANGE && h->kind <= END &&
           h->length >= HEADER && h->length <= LONGEST_MESSAGE;
}

static void encode(const struct header *h, unsigned char *bytes)
{
    bool counts = h->kind == DATA || h->kind == END;
    bytes[0] = MAGIC >> 8;
    bytes[1] = MAGIC & 0xff;
    bytes[2] = (unsigned char)h->kind;
    bytes[3] = 0;
    put_number(bytes + 4, h->length);
    put_number(bytes + 8, counts ? (uint32_t)(h->received >> 32) : h->reply_length);
    put_number(bytes + 12, counts ? (uint32_t)h->received : h->sequence);
    memcpy(bytes + 16, h->name, NAME);
}

static ssize_t feed_header(struct incoming *in, const unsigned char *data, size_t n)
{
    size_t missing = HEADER - in->got, used = n < missing ? n : missing;
    memcpy(in->bytes + in->got, data, used);
    in->got += (uint32_t)used;
    if (in->got == HEADER && !decode(in->bytes, &in->header))
        return -1;
    return (ssize_t)used;
}

ssize_t incoming_feed(struct incoming *in, const unsigned char *data, size_t n)
{
    ssize_t head = in->got < HEADER ? feed_header(in, data, n) : 0;
    if (head < 0 || in->got < HEADER)
        return head;
    size_t rest = n - (size_t)head, missing = in->header.length - in->got;
    size_t used = rest < missing ? rest : missing;
    if (!body_matches(in->got, data + head, used))
        return -1;
    in->got += (uint32_t)used;
    return head + (ssize_t)used;
}

void outgoing_set(struct outgoing *out, const struct header *header)
{
    out->length = header->length;
    out->sent = 0;
    encode(header, out->bytes);
}

ssize_t outgoing_push(struct outgoing *out, int fd, unsigned char *scratch)
{
    if (out->sent < HEADER)
        memcpy(scratch, out->bytes, HEADER);
    ssize_t n = send(fd, scratch + out->sent, out->length - out->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN ? 0 : -1;
    out->sent += (uint32_t)n;
    return n;
}
