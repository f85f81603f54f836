/* httpd.h - an HTTP/1.1 server on loopback, by libmicrohttpd, without a thread: whoever owns it calls mocl_httpd_run
** again and again, between other work, and gets whole requests. libmicrohttpd is loaded on request, as OpenBLAS is, so
** that no other use of mocl needs it.
**
** A request is known by its number. What is said to one that is gone is dropped without an error: whether it is still
** there is asked with mocl_httpd_gone.
*/
#ifndef MOCL_HTTPD_H
#define MOCL_HTTPD_H

#include "base.h"

typedef struct mocl_httpd mocl_httpd;

typedef struct mocl_httpd_options {
    int port;            /* 0: any that is free */
    size_t body_bytes;   /* of a request at most; what is above is read and not kept */
    int connections;     /* open at once at most; others wait to be accepted */
    int idle_seconds;    /* without a byte from or to a client, while no answer is computed for it: then it is closed */
} mocl_httpd_options;

typedef struct mocl_httpd_request {
    int64_t id;
    const char *method, *path; /* path without the query, decoded; the bytes that the client sent */
    const char *headers;       /* name, NUL, value, NUL, ...; an empty name ends them */
    const char *body;          /* n bytes */
    size_t n;
    bool too_large;            /* the body had more bytes than are allowed, and is not here */
} mocl_httpd_request;

/* MOCL_E_IO: the port is taken, or libmicrohttpd is not there. Close it whatever open returned. */
mocl_status mocl_httpd_open(mocl_httpd **out, mocl_ctx *ctx, const mocl_httpd_options *o);
void mocl_httpd_close(mocl_httpd *h); /* NULL is fine; cuts off what is still being answered */
int mocl_httpd_port(const mocl_httpd *h);

/* Reads and writes what is ready; with nothing to do it waits so long for it. A signal ends the wait. */
mocl_status mocl_httpd_run(mocl_httpd *h, int wait_ms);
/* The next request that is whole and was not handed out; false: none. Its texts live until it is answered. */
bool mocl_httpd_next(mocl_httpd *h, mocl_httpd_request *out);

/* headers: as above. A whole answer: */
mocl_status mocl_httpd_respond(mocl_httpd *h, int64_t id, int status, const char *headers, const char *body, size_t n);
/* One in pieces (chunked): begin, write any number of times, then finish; drop cuts it off so that the client notices. */
mocl_status mocl_httpd_begin(mocl_httpd *h, int64_t id, int status, const char *headers);
mocl_status mocl_httpd_write(mocl_httpd *h, int64_t id, const char *text, size_t n);
void mocl_httpd_finish(mocl_httpd *h, int64_t id);
void mocl_httpd_drop(mocl_httpd *h, int64_t id);
/* Has the client hung up, or is the answer complete? Looks at the socket. */
bool mocl_httpd_gone(mocl_httpd *h, int64_t id);

#endif
