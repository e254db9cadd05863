/* http.h: as much HTTP/1.1 as it takes to be measured beside wrk: a GET, a Content-Length. */
#ifndef UPROXY_LOAD_HTTP_H
#define UPROXY_LOAD_HTTP_H

#include <stdbool.h>
#include <stddef.h>

enum { HTTP_HEAD = 2048 };

enum http_progress { HTTP_MORE, HTTP_WHOLE, HTTP_BAD, HTTP_NOT_200 };

/* The head of a message, until its empty line. */
struct http_head {
    size_t length;
    bool whole;
    char text[HTTP_HEAD + 1];
};

struct http_reply {
    struct http_head head;
    size_t body_left;
    bool last; /* the server will close after it */
};

/* Take bytes up to the end of the head: how many were its, or -1 when it is too long. */
long http_head_feed(struct http_head *head, const char *data, size_t n);

/* Whether a request or reply ends the connection: "Connection: close", or HTTP/1.0. */
bool http_head_closes(const struct http_head *head);

/* Take bytes of a reply. Whatever comes back but HTTP_MORE ends it; http_reply_reset before the next. */
enum http_progress http_reply_feed(struct http_reply *reply, const char *data, size_t n);

void http_reply_reset(struct http_reply *reply);

#endif
