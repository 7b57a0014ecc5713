/*
 * What example/hello and the lab guest's /echo, /download and /sse do, as an
 * ordinary application of libunit: what the same answers cost without
 * WebAssembly. One process, one thread, blocking writes.
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nxt_unit.h>
#include <nxt_unit_request.h>

#define PIECE  65536

static char  piece[PIECE];

static int
is_path(nxt_unit_request_t *r, const char *path)
{
    return r->path_length == strlen(path)
           && memcmp(nxt_unit_sptr_get(&r->path), path, r->path_length) == 0;
}

/* The number that follows NAME= in the query. */
static uint64_t
parameter(nxt_unit_request_t *r, const char *name, uint64_t otherwise)
{
    char    query[256], *pair, *rest;
    size_t  length = strlen(name);

    if (r->query_length >= sizeof(query)) {
        return otherwise;
    }

    memcpy(query, nxt_unit_sptr_get(&r->query), r->query_length);
    query[r->query_length] = '\0';

    for (pair = strtok_r(query, "&", &rest); pair != NULL;
         pair = strtok_r(NULL, "&", &rest))
    {
        if (strncmp(pair, name, length) == 0 && pair[length] == '=') {
            return strtoull(pair + length + 1, NULL, 10);
        }
    }

    return otherwise;
}

/* Prepares a head; content_length is left out if it is negative. */
static int
head(nxt_unit_request_info_t *req, const char *type, int64_t content_length,
    size_t content_size)
{
    int   rc, size;
    char  digits[24];

    size = snprintf(digits, sizeof(digits), "%" PRId64, content_length);

    rc = nxt_unit_response_init(req, 200, 2, 64 + strlen(type) + content_size);
    if (rc == NXT_UNIT_OK) {
        rc = nxt_unit_response_add_field(req, "content-type", 12, type,
                                         strlen(type));
    }

    if (rc == NXT_UNIT_OK && content_length >= 0) {
        rc = nxt_unit_response_add_field(req, "content-length", 14, digits,
                                         size);
    }

    return rc;
}

static char *
put(char *p, const void *bytes, size_t size)
{
    memcpy(p, bytes, size);

    return p + size;
}

static char *
line(char *p, const void *name, size_t name_size, const void *value,
    size_t size)
{
    p = put(p, name, name_size);
    p = put(p, " = ", 3);
    p = put(p, value, size);
    *p++ = '\n';

    return p;
}

static int
hello(nxt_unit_request_info_t *req)
{
    static const char  begin[] =
        " * Welcome to the component model in Rust! *\n\n[Request Info]\n";
    static const char  fields[] = "\n[Request Headers]\n";
    static const char  end[] = "\n[Request Data]\n";

    int                 rc;
    char                *text, *p, *q;
    size_t              size;
    ssize_t             got;
    uint32_t            i;
    nxt_unit_field_t    *f;
    nxt_unit_request_t  *r = req->request;

    size = sizeof(begin) + sizeof(fields) + sizeof(end) + 128
           + r->target_length + r->method_length + r->server_name_length
           + r->content_length;

    for (i = 0; i < r->fields_count; i++) {
        size += r->fields[i].name_length + r->fields[i].value_length + 4;
    }

    text = malloc(size);
    if (text == NULL) {
        return NXT_UNIT_ERROR;
    }

    p = put(text, begin, sizeof(begin) - 1);
    p = line(p, "REQUEST_PATH", 12, nxt_unit_sptr_get(&r->target),
             r->target_length);
    p = line(p, "METHOD", 6, nxt_unit_sptr_get(&r->method), r->method_length);
    p = line(p, "SCHEME", 6, r->tls ? "https" : "http", r->tls ? 5 : 4);
    p = line(p, "AUTHORITY", 9, nxt_unit_sptr_get(&r->server_name),
             r->server_name_length);

    p = put(p, fields, sizeof(fields) - 1);

    for (i = 0; i < r->fields_count; i++) {
        f = &r->fields[i];
        q = p;
        p = line(p, nxt_unit_sptr_get(&f->name), f->name_length,
                 nxt_unit_sptr_get(&f->value), f->value_length);

        for ( /* void */ ; q < p && *q != ' '; q++) {
            if (*q >= 'A' && *q <= 'Z') {
                *q |= 0x20;
            }
        }
    }

    p = put(p, end, sizeof(end) - 1);

    while ((got = nxt_unit_request_read(req, p, text + size - p)) > 0) {
        p += got;
    }

    if (r->content_length > 0) {
        *p++ = '\n';
    }

    rc = head(req, "text/plain", p - text, p - text);
    if (rc == NXT_UNIT_OK) {
        rc = nxt_unit_response_add_content(req, text, p - text);
    }

    free(text);

    return rc;
}

static int
echo(nxt_unit_request_info_t *req)
{
    int      rc;
    ssize_t  size;

    rc = head(req, "application/octet-stream",
              parameter(req->request, "length", 0) == 1
              ? (int64_t) req->request->content_length : -1, 0);
    if (rc == NXT_UNIT_OK) {
        rc = nxt_unit_response_send(req);
    }

    while (rc == NXT_UNIT_OK
           && (size = nxt_unit_request_read(req, piece, PIECE)) > 0)
    {
        rc = nxt_unit_response_write(req, piece, size);
    }

    return rc;
}

static int
download(nxt_unit_request_info_t *req)
{
    int       rc;
    size_t    i, size;
    uint64_t  sent, total;

    total = parameter(req->request, "bytes", 0);

    rc = head(req, "text/plain",
              parameter(req->request, "length", 0) == 1 ? (int64_t) total : -1,
              0);
    if (rc == NXT_UNIT_OK) {
        rc = nxt_unit_response_send(req);
    }

    for (sent = 0; rc == NXT_UNIT_OK && sent < total; sent += size) {
        size = total - sent < PIECE ? total - sent : PIECE;

        for (i = 0; i < size; i++) {
            piece[i] = (sent + i) * 31 + ((sent + i) >> 8) * 17 + 7;
        }

        rc = nxt_unit_response_write(req, piece, size);
    }

    return rc;
}

static int
events(nxt_unit_request_info_t *req)
{
    int       rc, size;
    char      text[32];
    uint64_t  i, count;

    count = parameter(req->request, "events", 1);

    rc = head(req, "text/event-stream", -1, 0);
    if (rc == NXT_UNIT_OK) {
        rc = nxt_unit_response_send(req);
    }

    for (i = 0; rc == NXT_UNIT_OK && i < count; i++) {
        size = snprintf(text, sizeof(text), "data: %" PRIu64 "\n\n", i);
        rc = nxt_unit_response_write(req, text, size);
    }

    return rc;
}

static void
handle(nxt_unit_request_info_t *req)
{
    int                 rc;
    nxt_unit_request_t  *r = req->request;

    if (is_path(r, "/echo")) {
        rc = echo(req);

    } else if (is_path(r, "/download")) {
        rc = download(req);

    } else if (is_path(r, "/sse")) {
        rc = events(req);

    } else {
        rc = hello(req);
    }

    nxt_unit_request_done(req, rc);
}

int
main(void)
{
    int              rc;
    nxt_unit_ctx_t   *ctx;
    nxt_unit_init_t  init;

    memset(&init, 0, sizeof(init));
    init.callbacks.request_handler = handle;

    ctx = nxt_unit_init(&init);
    if (ctx == NULL) {
        return 1;
    }

    rc = nxt_unit_run(ctx);
    nxt_unit_done(ctx);

    return rc == NXT_UNIT_OK ? 0 : 1;
}
