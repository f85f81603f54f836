/* httpd.c - an HTTP/1.1 server on loopback, by libmicrohttpd
**
** A connection is suspended from the moment when its request is whole until there is something to send, so that the
** library neither spins nor counts the time as idle. A suspended connection is not looked at by the library; that its
** client has hung up is seen by mocl_httpd_gone.
*/
#define _GNU_SOURCE
#include "io/httpd.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#ifdef MOCL_HAVE_MICROHTTPD
#include <arpa/inet.h>
#include <dlfcn.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

/* what is used of the library */
#define FUNCTIONS(X) \
    X(start_daemon) X(stop_daemon) X(run) X(get_timeout) X(get_daemon_info) X(get_connection_info) X(get_connection_values) \
    X(suspend_connection) X(resume_connection) X(create_response_from_buffer) X(create_response_from_callback) \
    X(add_response_header) X(queue_response) X(destroy_response)

typedef struct library {
#define MEMBER(name) __typeof__(MHD_##name) *name;
    FUNCTIONS(MEMBER)
#undef MEMBER
} library;

typedef struct buffer {
    char *at;
    size_t n, room;
} buffer;

/* READING: its body comes in. WHOLE: waits to be handed out, or for an answer. ANSWERED: a response is queued, or is
** to be when the library asks again. */
typedef enum progress { READING, WHOLE, ANSWERED } progress;

typedef struct request {
    struct request *next;
    mocl_httpd *h;
    struct MHD_Connection *c;
    struct MHD_Response *response; /* until the library asks for it */
    int64_t id;
    int status;
    progress progress;
    bool handed_out, suspended, too_large, no_memory;
    bool finished, cut;    /* an answer in pieces has all of them; it is to be broken off */
    buffer method, path, headers, body;
    buffer out;            /* what waits to be sent */
    size_t sent;           /* of it */
} request;

struct mocl_httpd {
    mocl_ctx *ctx;
    mocl_httpd_options o;
    library lib;
    struct MHD_Daemon *daemon;
    int port, epoll;
    int64_t n_requests;
    request *first; /* in the order of their arrival */
};

/* ---- buffers ---- */

static bool append(mocl_ctx *ctx, buffer *b, const char *text, size_t n) {
    if (n > b->room - b->n) {
        size_t room = b->room ? b->room : 256;
        while (room - b->n < n && room <= SIZE_MAX / 2) room *= 2;
        char *at = room - b->n < n ? NULL : mocl_realloc(ctx, b->at, room);
        if (!at) return false;
        b->at = at;
        b->room = room;
    }
    if (n) memcpy(b->at + b->n, text, n);
    b->n += n;
    return true;
}

static bool append_string(mocl_ctx *ctx, buffer *b, const char *s) { return append(ctx, b, s, strlen(s) + 1); }

/* ---- requests ---- */

static request *find(const mocl_httpd *h, int64_t id) {
    request *r = h->first;
    while (r && r->id != id) r = r->next;
    return r;
}

static void free_request(request *r) {
    mocl_free(r->method.at);
    mocl_free(r->path.at);
    mocl_free(r->headers.at);
    mocl_free(r->body.at);
    mocl_free(r->out.at);
    mocl_free(r);
}

static void suspend(request *r) {
    r->suspended = true;
    r->h->lib.suspend_connection(r->c);
}

static void resume(request *r) {
    if (!r->suspended) return;
    r->suspended = false;
    r->h->lib.resume_connection(r->c);
}

static enum MHD_Result keep_header(void *cls, enum MHD_ValueKind kind, const char *name, const char *value) {
    request *r = cls;
    (void)kind;
    if (!append_string(r->h->ctx, &r->headers, name) || !append_string(r->h->ctx, &r->headers, value ? value : "")) {
        r->no_memory = true;
        return MHD_NO;
    }
    return MHD_YES;
}

static request *new_request(mocl_httpd *h, struct MHD_Connection *c, const char *method, const char *path) {
    request *r = mocl_calloc(h->ctx, 1, sizeof *r), **end = &h->first;
    if (!r) return NULL;
    r->h = h;
    r->c = c;
    r->id = ++h->n_requests;
    if (!append_string(h->ctx, &r->method, method) || !append_string(h->ctx, &r->path, path)) {
        free_request(r);
        return NULL;
    }
    while (*end) end = &(*end)->next;
    *end = r;
    return r;
}

/* The library asks: for a new request, for each piece of a body, at its end, and when the connection goes on. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *url, const char *method, const char *version,
                                  const char *upload, size_t *n, void **own) {
    mocl_httpd *h = cls;
    request *r = *own;
    (void)version;
    if (!r) {
        *own = r = new_request(h, c, method, url);
        return r ? MHD_YES : MHD_NO; /* NO closes the connection */
    }
    if (r->cut || r->no_memory) return MHD_NO;
    if (*n) {
        r->too_large = r->too_large || *n > h->o.body_bytes - r->body.n;
        if (!r->too_large && !append(h->ctx, &r->body, upload, *n)) return MHD_NO;
        *n = 0;
        return MHD_YES;
    }
    if (r->progress == READING) {
        if (r->too_large) r->body.n = 0;
        h->lib.get_connection_values(c, MHD_HEADER_KIND, keep_header, r);
        if (r->no_memory || !append_string(h->ctx, &r->headers, "")) return MHD_NO;
        r->progress = WHOLE;
        suspend(r);
        return MHD_YES;
    }
    if (!r->response) { /* nobody has answered, and somebody has woken it */
        suspend(r);
        return MHD_YES;
    }
    enum MHD_Result queued = h->lib.queue_response(c, (unsigned)r->status, r->response);
    h->lib.destroy_response(r->response);
    r->response = NULL;
    return queued;
}

static void on_end(void *cls, struct MHD_Connection *c, void **own, enum MHD_RequestTerminationCode code) {
    mocl_httpd *h = cls;
    request *r = *own, **at = &h->first;
    (void)c;
    (void)code;
    if (!r) return;
    while (*at && *at != r) at = &(*at)->next;
    if (*at) *at = r->next;
    if (r->response) h->lib.destroy_response(r->response);
    free_request(r);
    *own = NULL;
}

/* More of an answer in pieces. */
static ssize_t on_read(void *cls, uint64_t pos, char *to, size_t room) {
    request *r = cls;
    size_t n = r->out.n - r->sent;
    (void)pos;
    if (r->cut) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (n == 0 && r->finished) return MHD_CONTENT_READER_END_OF_STREAM;
    if (n == 0) {
        suspend(r);
        return 0;
    }
    if (n > room) n = room;
    memcpy(to, r->out.at + r->sent, n);
    r->sent += n;
    if (r->sent == r->out.n) r->sent = r->out.n = 0;
    return (ssize_t)n;
}

/* ---- the server ---- */

static mocl_status load(mocl_httpd *h) {
    const char *const names[] = {"libmicrohttpd.so.12", "libmicrohttpd.so"};
    void *object = NULL;
    for (size_t i = 0; !object && i < sizeof names / sizeof *names; i++) object = dlopen(names[i], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!object) return mocl_fail(h->ctx, MOCL_E_IO, "httpd: libmicrohttpd is not installed (libmicrohttpd12 in Debian): %s", dlerror());
    void *symbol;
#define LOAD(name)                                                                                                     \
    symbol = dlsym(object, "MHD_" #name);                                                                              \
    if (!symbol) return mocl_fail(h->ctx, MOCL_E_IO, "httpd: this libmicrohttpd has no MHD_" #name "; version 0.9.70 or later is needed"); \
    memcpy(&h->lib.name, &symbol, sizeof symbol); /* ISO C has no cast from void * to a function */
    FUNCTIONS(LOAD)
#undef LOAD
    return MOCL_OK;
}

/* A socket that listens on loopback, or -1 with errno. */
static int listen_on(int port, int *got) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 64) ||
        getsockname(fd, (struct sockaddr *)&a, &size)) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    *got = ntohs(a.sin_port);
    return fd;
}

mocl_status mocl_httpd_open(mocl_httpd **out, mocl_ctx *ctx, const mocl_httpd_options *o) {
    *out = NULL;
    if (o->port < 0 || o->port > 65535) return mocl_fail(ctx, MOCL_E_ARG, "httpd: port %d is outside 0 .. 65535", o->port);
    if (o->connections < 1 || o->idle_seconds < 1)
        return mocl_fail(ctx, MOCL_E_ARG, "httpd: connections = %d and idle_seconds = %d must be at least 1", o->connections, o->idle_seconds);
    mocl_httpd *h = mocl_calloc(ctx, 1, sizeof *h);
    if (!h) return mocl_nomem(ctx, sizeof *h);
    *out = h;
    h->ctx = ctx;
    h->o = *o;
    MOCL_TRY(load(h));
    int fd = listen_on(o->port, &h->port);
    if (fd < 0) {
        const char *cure = errno == EADDRINUSE ? "; another program has it: choose another port, or 0 for any that is free"
                           : errno == EACCES   ? "; choose one above 1023"
                                               : "";
        return mocl_fail(ctx, MOCL_E_IO, "httpd: port %d: %s%s", o->port, strerror(errno), cure);
    }
    h->daemon = h->lib.start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, h,
                                    MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, on_end, h,
                                    MHD_OPTION_CONNECTION_LIMIT, (unsigned)o->connections,
                                    MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)o->idle_seconds, MHD_OPTION_END);
    const union MHD_DaemonInfo *info = h->daemon ? h->lib.get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!h->daemon) close(fd);
    if (!info) return mocl_fail(ctx, MOCL_E_IO, "httpd: libmicrohttpd does not start on port %d: %s", h->port, strerror(errno));
    h->epoll = info->epoll_fd;
    return MOCL_OK;
}

int mocl_httpd_port(const mocl_httpd *h) { return h->port; }

void mocl_httpd_close(mocl_httpd *h) {
    if (!h) return;
    if (h->daemon) {
        /* the library does not stop with a connection that is suspended */
        for (int round = 0; round < 3; round++) {
            for (request *r = h->first; r; r = r->next) {
                r->cut = r->cut || !r->finished;
                resume(r);
            }
            h->lib.run(h->daemon);
        }
        for (request *r = h->first; r; r = r->next) resume(r);
        h->lib.stop_daemon(h->daemon);
    }
    while (h->first) {
        request *r = h->first;
        h->first = r->next;
        free_request(r);
    }
    mocl_free(h);
}

static bool has_news(const mocl_httpd *h) {
    for (const request *r = h->first; r; r = r->next)
        if (r->progress == WHOLE && !r->handed_out) return true;
    return false;
}

/* milliseconds until the library has something to do, at most `most` */
static int until_due(const mocl_httpd *h, int most) {
    MHD_UNSIGNED_LONG_LONG ms;
    return h->lib.get_timeout(h->daemon, &ms) == MHD_YES && ms < (MHD_UNSIGNED_LONG_LONG)most ? (int)ms : most;
}

mocl_status mocl_httpd_run(mocl_httpd *h, int wait_ms) {
    enum { ROUNDS = 8 }; /* a connection goes from reading to writing in several */
    struct pollfd p = {.fd = h->epoll, .events = POLLIN};
    MOCL_TRY(mocl_poll(h->ctx));
    for (int i = 0; i < ROUNDS; i++) {
        h->lib.run(h->daemon);
        if (until_due(h, 1) > 0 && poll(&p, 1, 0) <= 0) break;
    }
    if (wait_ms <= 0 || has_news(h)) return MOCL_OK;
    poll(&p, 1, until_due(h, wait_ms));
    for (int i = 0; i < ROUNDS; i++) {
        h->lib.run(h->daemon);
        if (until_due(h, 1) > 0 && poll(&p, 1, 0) <= 0) break;
    }
    return mocl_poll(h->ctx);
}

bool mocl_httpd_next(mocl_httpd *h, mocl_httpd_request *out) {
    request *r = h->first;
    while (r && !(r->progress == WHOLE && !r->handed_out)) r = r->next;
    if (!r) return false;
    r->handed_out = true;
    *out = (mocl_httpd_request){.id = r->id, .method = r->method.at, .path = r->path.at, .headers = r->headers.at,
                                .body = r->body.n ? r->body.at : "", .n = r->body.n, .too_large = r->too_large};
    return true;
}

/* ---- answers ---- */

/* The request, where it is there and has no answer yet. */
static request *unanswered(const mocl_httpd *h, int64_t id) {
    request *r = find(h, id);
    return r && r->progress == WHOLE ? r : NULL;
}

static mocl_status answer(request *r, int status, const char *headers, struct MHD_Response *response) {
    mocl_httpd *h = r->h;
    if (!response) return mocl_nomem(h->ctx, 0);
    for (const char *name = headers, *value; *name; name = value + strlen(value) + 1) {
        value = name + strlen(name) + 1;
        if (h->lib.add_response_header(response, name, value) == MHD_YES) continue;
        h->lib.destroy_response(response);
        return mocl_fail(h->ctx, MOCL_E_ARG, "httpd: '%.100s: %.100s' is no header", name, value);
    }
    r->response = response;
    r->status = status;
    r->progress = ANSWERED;
    resume(r);
    return MOCL_OK;
}

mocl_status mocl_httpd_respond(mocl_httpd *h, int64_t id, int status, const char *headers, const char *body, size_t n) {
    request *r = unanswered(h, id);
    if (!r) return MOCL_OK;
    r->finished = true;
    return answer(r, status, headers, h->lib.create_response_from_buffer(n, (void *)body, MHD_RESPMEM_MUST_COPY));
}

mocl_status mocl_httpd_begin(mocl_httpd *h, int64_t id, int status, const char *headers) {
    enum { PIECE = 16384 };
    request *r = unanswered(h, id);
    if (!r) return MOCL_OK;
    return answer(r, status, headers, h->lib.create_response_from_callback(MHD_SIZE_UNKNOWN, PIECE, on_read, r, NULL));
}

mocl_status mocl_httpd_write(mocl_httpd *h, int64_t id, const char *text, size_t n) {
    request *r = find(h, id);
    if (!r || r->finished || r->cut) return MOCL_OK;
    if (!append(h->ctx, &r->out, text, n)) return mocl_nomem(h->ctx, n);
    if (r->progress == ANSWERED) resume(r);
    return MOCL_OK;
}

void mocl_httpd_finish(mocl_httpd *h, int64_t id) {
    request *r = find(h, id);
    if (!r) return;
    r->finished = true;
    if (r->progress == ANSWERED) resume(r);
}

void mocl_httpd_drop(mocl_httpd *h, int64_t id) {
    request *r = find(h, id);
    if (!r) return;
    r->cut = true;
    resume(r);
}

bool mocl_httpd_gone(mocl_httpd *h, int64_t id) {
    request *r = find(h, id);
    if (!r || r->cut) return true;
    const union MHD_ConnectionInfo *info = h->lib.get_connection_info(r->c, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct pollfd p = {.fd = info ? info->connect_fd : -1, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL));
}

#else /* built where libmicrohttpd's header was not installed: no server can be opened, so the rest is never called */

mocl_status mocl_httpd_open(mocl_httpd **out, mocl_ctx *ctx, const mocl_httpd_options *o) {
    (void)o;
    *out = NULL;
    return mocl_fail(ctx, MOCL_E_IO, "httpd: mocl was built without libmicrohttpd: install libmicrohttpd-dev (Debian's name) and build again");
}
void mocl_httpd_close(mocl_httpd *h) { (void)h; }
int mocl_httpd_port(const mocl_httpd *h) { return (void)h, 0; }
mocl_status mocl_httpd_run(mocl_httpd *h, int wait_ms) { return (void)h, (void)wait_ms, MOCL_OK; }
bool mocl_httpd_next(mocl_httpd *h, mocl_httpd_request *out) { return (void)h, (void)out, false; }
mocl_status mocl_httpd_respond(mocl_httpd *h, int64_t id, int status, const char *headers, const char *body, size_t n) {
    return (void)h, (void)id, (void)status, (void)headers, (void)body, (void)n, MOCL_OK;
}
mocl_status mocl_httpd_begin(mocl_httpd *h, int64_t id, int status, const char *headers) {
    return (void)h, (void)id, (void)status, (void)headers, MOCL_OK;
}
mocl_status mocl_httpd_write(mocl_httpd *h, int64_t id, const char *text, size_t n) {
    return (void)h, (void)id, (void)text, (void)n, MOCL_OK;
}
void mocl_httpd_finish(mocl_httpd *h, int64_t id) { (void)h, (void)id; }
void mocl_httpd_drop(mocl_httpd *h, int64_t id) { (void)h, (void)id; }
bool mocl_httpd_gone(mocl_httpd *h, int64_t id) { return (void)h, (void)id, true; }

#endif
