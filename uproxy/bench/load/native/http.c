/* http.c: see http.h. */
#define _GNU_SOURCE
#include "http.h"

#include <stdlib.h>
#include <string.h>

long http_head_feed(struct http_head *head, const char *data, size_t n)
{
    size_t before = head->length, room = HTTP_HEAD - before, taken = n < room ? n : room;
    memcpy(head->text + before, data, taken);
    head->length += taken;
    head->text[head->length] = '\0';
    char *end = memmem(head->text, head->length, "\r\n\r\n", 4);
    if (!end)
        return taken == n ? (long)n : -1;
    head->whole = true;
    head->length = (size_t)(end - head->text) + 4;
    head->text[head->length] = '\0';
    return (long)(head->length - before);
}

bool http_head_closes(const struct http_head *head)
{
    const char *line_end = strstr(head->text, "\r\n");
    const char *old = strstr(head->text, "HTTP/1.0");
    return (old && old < line_end) || strcasestr(head->text, "\r\nConnection: close");
}

static bool begin_body(struct http_reply *reply)
{
    const char *field = "\r\nContent-Length:";
    const char *found = strcasestr(reply->head.text, field);
    if (found)
        reply->body_left = (size_t)strtoul(found + strlen(field), NULL, 10);
    reply->last = http_head_closes(&reply->head);
    return found != NULL;
}

static bool is_200(const struct http_head *head)
{
    return strncmp(head->text, "HTTP/1.", 7) == 0 && strncmp(head->text + 8, " 200", 4) == 0;
}

enum http_progress http_reply_feed(struct http_reply *reply, const char *data, size_t n)
{
    if (!reply->head.whole) {
        long used = http_head_feed(&reply->head, data, n);
        if (used < 0)
            return HTTP_BAD;
        if (!reply->head.whole)
            return HTTP_MORE;
        if (!is_200(&reply->head))
            return HTTP_NOT_200;
        if (!begin_body(reply))
            return HTTP_BAD;
        n -= (size_t)used;
    }
    if (n > reply->body_left)
        return HTTP_BAD;
    reply->body_left -= n;
    return reply->body_left ? HTTP_MORE : HTTP_WHOLE;
}

void http_reply_reset(struct http_reply *reply)
{
    reply->head.length = 0;
    reply->head.whole = false;
    reply->body_left = 0;
}
