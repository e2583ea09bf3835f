/* Many readers of one stream in one thread: counts what they get and checks that none loses or repeats a record.
 *
 *   readers PORT CONNECTIONS PARTITIONS OPENS_PER_SECOND UNANSWERED MODE PAUSE_US REQUESTS FIRST...
 *
 * REQUESTS is a file of ready-made requests, each ended by NUL; connection i sends number i modulo their count. One that
 * begins with "@N,N,...\n" has these instead of FIRST for those who send it; the line is not sent.
 * OPENS_PER_SECOND 0 opens as fast as answers come, at most UNANSWERED (0: all) at once. MODE "stay" keeps connections,
 * "once" closes each after its first record. PAUSE_US is how long it sleeps between two looks at its sockets; with 0 it waits at them,
 * and most sends find it asleep and pay for waking it, which no client on another machine would cost them. FIRST is, for
 * each partition, the first sequence number that every reader must see, or -1 for any. A record is known by its mark:
 * "seq":"P:NNNNNNNNNN".
 *
 * A line on stdin asks: "stats" for one JSON line on stdout, "times" for the open times, "arrivals" for the moments
 * (CLOCK_MONOTONIC) of all records since it was asked that before, from the first time on; the end of stdin ends it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef TLS /* cc -DTLS … -lssl -lcrypto: the same readers over TLS, whosever the certificate is */
#include <openssl/ssl.h>
static SSL_CTX *context;
#endif

#define MARK "\"seq\":\""
#define MARK_BYTES 7
#define TAIL_BYTES 12 /* P:NNNNNNNNNN */
#define CARRY 32
#define BUFFER (1 << 20)
#define SHOWN_FAULTS 10
#define MOST_REQUESTS 16384

struct reader {
    int fd;
    int number;
    int answered;
    int stride; /* bytes from mark to mark the last time: records of a run are often of one size */
    int carried;
#ifdef TLS
    SSL *tls;
#endif
    double opened;
    char carry[CARRY];
    int64_t *next;
};

static int partitions, unanswered, established, closed_by_peer, faults, opened, done;
static int64_t deliveries, received_bytes, first[64];
static struct reader *readers;
static float *first_ms, *answer_ms;
static struct arrival { int partition; int64_t sequence; double at; } *arrivals;
static size_t arrived, most_arrivals;
static char *requests[MOST_REQUESTS];
static int64_t *firsts[MOST_REQUESTS]; /* NULL: as for all */
static int request_count, once, polling;
static struct sockaddr_in peer;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fault(struct reader *r, const char *what, int64_t expected, int64_t got) {
    if (faults++ < SHOWN_FAULTS)
        fprintf(stderr, "reader %d: %s: expected %lld, got %lld\n", r->number, what, (long long)expected,
                (long long)got);
}

/* Both ends of one connection, with or without TLS, as recv() and send() would say it. */
static ssize_t take(struct reader *r, char *data, size_t size) {
#ifdef TLS
    int got = SSL_read(r->tls, data, (int)size);
    if (got > 0) return got;
    int why = SSL_get_error(r->tls, got);
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) errno = EAGAIN;
    else if (why == SSL_ERROR_ZERO_RETURN) return 0;
    else errno = EPROTO;
    return -1;
#else
    return recv(r->fd, data, size, 0);
#endif
}

static ssize_t say(struct reader *r, const char *data, size_t size) {
#ifdef TLS
    r->tls = SSL_new(context);
    SSL_set_fd(r->tls, r->fd);
    if (SSL_connect(r->tls) != 1) return -1;
    return SSL_write(r->tls, data, (int)size);
#else
    return send(r->fd, data, size, 0);
#endif
}

static void drop(struct reader *r) {
    if (!r->answered) unanswered--;
    else established--;
#ifdef TLS
    SSL_free(r->tls);
#endif
    close(r->fd);
    r->fd = -1;
}

static void open_one(int number) {
    struct reader *r = &readers[number];
    r->number = number;
    r->opened = now();
    r->fd = socket(AF_INET, SOCK_STREAM, 0);
    int on = 1;
    setsockopt(r->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* On loopback a connect with room in the backlog is done at once. */
    if (connect(r->fd, (struct sockaddr *)&peer, sizeof peer)) { perror("connect"); exit(1); }
    const char *request = requests[number % request_count];
    if (say(r, request, strlen(request)) != (ssize_t)strlen(request)) { perror("send"); exit(1); }
    fcntl(r->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = r};
    epoll_ctl(polling, EPOLL_CTL_ADD, r->fd, &event);
    unanswered++;
    opened++;
}

/* Returns 0 where the reader is done with. */
static int record(struct reader *r, const char *tail) {
    int partition = tail[0] - '0';
    int64_t sequence = 0;
    for (int i = 2; i < TAIL_BYTES; i++) sequence = sequence * 10 + (tail[i] - '0');
    if (partition < 0 || partition >= partitions || tail[1] != ':') {
        fault(r, "no such partition", partitions, partition);
        return 1;
    }
    int64_t expected = r->next[partition];
    if (expected >= 0 && sequence != expected) fault(r, "sequence", expected, sequence);
    r->next[partition] = sequence + 1;
    deliveries++;
    if (arrivals) {
        if (arrived == most_arrivals) arrivals = realloc(arrivals, sizeof *arrivals * (most_arrivals *= 2));
        arrivals[arrived++] = (struct arrival){partition, sequence, now()};
    }
    if (!first_ms[r->number]) first_ms[r->number] = (now() - r->opened) * 1e3;
    return !once;
}

static int scan(struct reader *r, char *data, int size) {
    char *at = data, *end = data + size;
    for (;;) {
        char *mark = at + r->stride;
        if (!r->stride || mark + MARK_BYTES > end || memcmp(mark, MARK, MARK_BYTES))
            mark = memmem(at, end - at, MARK, MARK_BYTES);
        if (!mark || mark + MARK_BYTES + TAIL_BYTES > end) break;
        if (!record(r, mark + MARK_BYTES)) return 0;
        r->stride = (int)(mark - at);
        at = mark + MARK_BYTES;
    }
    int left = end - at;
    if (left > CARRY) left = CARRY;
    /* Whole marks are behind `at`; what is carried may hold the beginning of one. */
    memcpy(r->carry, end - left, left);
    r->carried = left;
    return 1;
}

static void readable(struct reader *r) {
    static char buffer[CARRY + BUFFER];
    for (;;) {
        memcpy(buffer, r->carry, r->carried);
        ssize_t got = take(r, buffer + r->carried, BUFFER);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (got <= 0) {
            closed_by_peer++;
            if (!r->answered) fault(r, "closed before an answer", 0, got);
            drop(r);
            return;
        }
        received_bytes += got;
        if (!r->answered) {
            if (got < 12 || (memcmp(buffer, "HTTP/1.1 200", 12) && memcmp(buffer, "HTTP/1.1 101", 12))) {
                fault(r, "status", 200, got < 12 ? 0 : atoi(buffer + 9));
                drop(r);
                return;
            }
            r->answered = 1;
            unanswered--;
            established++;
            answer_ms[r->number] = (now() - r->opened) * 1e3;
        }
        if (!scan(r, buffer, r->carried + (int)got)) {
            drop(r);
            done++;
            return;
        }
#ifndef TLS /* which gives a record at a time, and may hold another that no event tells of */
        if (got < BUFFER) return;
#endif
    }
}

static void stats(int connections) {
    printf("{\"opened\":%d,\"established\":%d,\"done\":%d,\"closed\":%d,\"faults\":%d,\"deliveries\":%lld,\"bytes\":%lld",
           opened, established, done, closed_by_peer, faults, (long long)deliveries, (long long)received_bytes);
    /* The slowest reader of each partition: the next sequence number that it waits for. */
    printf(",\"low\":[");
    for (int p = 0; p < partitions; p++) {
        int64_t low = INT64_MAX;
        for (int i = 0; i < connections; i++) {
            if (readers[i].next[p] < low) low = readers[i].next[p];
        }
        printf("%s%lld", p ? "," : "", (long long)low);
    }
    printf("]}\n");
    fflush(stdout);
}

static void times(int connections) {
    printf("{\"first_ms\":[");
    for (int i = 0; i < connections; i++) printf("%s%.3f", i ? "," : "", first_ms[i]);
    printf("],\"answer_ms\":[");
    for (int i = 0; i < connections; i++) printf("%s%.3f", i ? "," : "", answer_ms[i]);
    printf("]}\n");
    fflush(stdout);
}

static void tell_arrivals(void) {
    printf("[");
    for (size_t i = 0; i < arrived; i++)
        printf("%s[%d,%lld,%.6f]", i ? "," : "", arrivals[i].partition, (long long)arrivals[i].sequence, arrivals[i].at);
    printf("]\n");
    fflush(stdout);
    arrived = 0;
    if (!arrivals) arrivals = malloc(sizeof *arrivals * (most_arrivals = 1 << 16));
}

/* Takes the first numbers off the request's beginning, where it has some. */
static void load_request(char *text) {
    if (*text == '@') {
        int64_t *own = firsts[request_count] = malloc(sizeof *own * partitions);
        text++;
        for (int p = 0; p < partitions; p++) {
            own[p] = strtoll(text, &text, 10);
            if (*text++ != (p + 1 < partitions ? ',' : '\n')) { fprintf(stderr, "bad first numbers\n"); exit(2); }
        }
    }
    requests[request_count++] = text;
}

int main(int count, char **arguments) {
    if (count < 10) return 2;
    peer = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
    peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int connections = atoi(arguments[2]);
    partitions = atoi(arguments[3]);
    double every = atof(arguments[4]) > 0 ? 1 / atof(arguments[4]) : 0;
    int most_unanswered = atoi(arguments[5]) > 0 ? atoi(arguments[5]) : connections;
    once = !strcmp(arguments[6], "once");
    int pause_us = atoi(arguments[7]);
    for (int p = 0; p < partitions; p++) first[p] = 9 + p < count ? atoll(arguments[9 + p]) : -1;

    FILE *file = fopen(arguments[8], "r");
    static char text[1 << 25];
    size_t size = fread(text, 1, sizeof text - 1, file);
    for (size_t at = 0, length; at < size && request_count < MOST_REQUESTS; at += length + 1) {
        length = strlen(text + at);
        load_request(text + at);
    }

    readers = calloc(connections, sizeof *readers);
    first_ms = calloc(connections, sizeof *first_ms);
    answer_ms = calloc(connections, sizeof *answer_ms);
    int64_t *next = malloc(sizeof *next * connections * partitions);
    for (int i = 0; i < connections; i++) {
        int64_t *own = firsts[i % request_count];
        readers[i].fd = -1;
        readers[i].next = next + (size_t)i * partitions;
        memcpy(readers[i].next, own ? own : first, sizeof *own * partitions);
    }

#ifdef TLS
    context = SSL_CTX_new(TLS_client_method());
#endif
    polling = epoll_create1(0);
    struct epoll_event asked = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(polling, EPOLL_CTL_ADD, 0, &asked);
    double due = now();
    for (;;) {
        int wait_ms = 1000;
        while (opened < connections && (every ? now() >= due : unanswered < most_unanswered)) {
            open_one(opened);
            due += every;
        }
        if (opened < connections && every) {
            double left = (due - now()) * 1e3;
            wait_ms = left < 0 ? 0 : (int)left + 1;
        }
        struct epoll_event events[512];
        if (pause_us) usleep(pause_us);
        int ready = epoll_wait(polling, events, 512, wait_ms);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr) {
                struct reader *r = events[i].data.ptr;
                if (r->fd >= 0) readable(r);
                continue;
            }
            char line[64];
            ssize_t got = read(0, line, sizeof line);
            if (got <= 0) return 0;
            if (line[0] == 's') stats(connections);
            if (line[0] == 't') times(connections);
            if (line[0] == 'a') tell_arrivals();
        }
    }
}
