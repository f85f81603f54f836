/* client.c PORT - a client of raw sockets on loopback, for tests of mocl.httpd and mocl serve. It does what the lines of
** its standard input say:
**
**   open N           a connection, known by its number (0 to 7) from then on, in use until another one is
**   use N
**   send N           the N bytes behind this line
**   until TEXT       reads until the text has come
**   rest             reads until the server closes
**   half             sends no more, and goes on reading
**   close            hangs up
**   reset            hangs up so that the server gets a reset
**   slow N           sends the N bytes behind this line in ten pieces, some milliseconds apart
**
** and writes what it has read: "N BYTES\n" and the bytes, for each until and rest. It fails after 20 s of nothing.
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS = 8, PATIENCE_MS = 20000, BYTES = 1 << 24 };

static int fds[CONNECTIONS], now;
static char *got;

static void fail(const char *what) {
    fflush(stdout);
    fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_connection(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a)) fail("connect");
    return fd;
}

static void send_all(const char *text, size_t n) {
    while (n) {
        ssize_t sent = send(fds[now], text, n, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EPIPE || errno == ECONNRESET)) return; /* the server has answered and closed: read it */
        if (sent < 0) fail("send");
        text += sent;
        n -= (size_t)sent;
    }
}

/* Reads until the text has come; NULL: until the server closes. */
static void receive(const char *text) {
    size_t n = 0;
    for (;;) {
        struct pollfd p = {.fd = fds[now], .events = POLLIN};
        if (poll(&p, 1, PATIENCE_MS) <= 0) {
            errno = ETIMEDOUT;
            fwrite(got, 1, n, stderr);
            fail(text ? text : "the end");
        }
        ssize_t more = recv(fds[now], got + n, BYTES - n, 0);
        if (more < 0 && errno != ECONNRESET) fail("recv");
        if (more <= 0) break;
        n += (size_t)more;
        if (text && memmem(got, n, text, strlen(text))) break;
    }
    printf("%d %zu\n", now, n);
    fwrite(got, 1, n, stdout);
    fflush(stdout);
}

static char *read_bytes(size_t n) {
    char *text = malloc(n + 1);
    if (!text || fread(text, 1, n, stdin) != n) fail("the bytes to send");
    return text;
}

int main(int argc, char **argv) {
    char line[512], word[16];
    int port = argc == 2 ? atoi(argv[1]) : 0, number;
    signal(SIGPIPE, SIG_IGN);
    got = malloc(BYTES);
    if (!port || !got) fail("usage: client PORT");
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = '\0';
        number = 0;
        if (sscanf(line, "%15s %d", word, &number) < 1) continue;
        if (!strcmp(word, "open")) fds[now = number % CONNECTIONS] = open_connection(port);
        else if (!strcmp(word, "use")) now = number % CONNECTIONS;
        else if (!strcmp(word, "half")) shutdown(fds[now], SHUT_WR);
        else if (!strcmp(word, "close")) close(fds[now]);
        else if (!strcmp(word, "until")) receive(line + strlen("until "));
        else if (!strcmp(word, "rest")) receive(NULL);
        else if (!strcmp(word, "reset")) {
            struct linger l = {.l_onoff = 1};
            setsockopt(fds[now], SOL_SOCKET, SO_LINGER, &l, sizeof l);
            close(fds[now]);
        } else if (!strcmp(word, "send") || !strcmp(word, "slow")) {
            char *text = read_bytes((size_t)number);
            size_t n = (size_t)number, piece = !strcmp(word, "slow") ? n / 10 + 1 : n;
            for (size_t at = 0; at < n; at += piece) {
                if (at) usleep(5000);
                send_all(text + at, n - at < piece ? n - at : piece);
            }
            free(text);
        } else {
            errno = EINVAL;
            fail(line);
        }
    }
    return 0;
}
