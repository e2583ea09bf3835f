/* The floor of this kernel: one thread that send()s the same bytes to every client, RATE times a second, COUNT times.
 *
 *   send_loop CLIENTS RATE CHUNK
 *
 * CHUNK is a file with one record as it goes over the wire; the digits after its mark "seq":"P: are counted up. Prints
 * its port and, when all clients have been answered, "ready"; then each line on stdin is how many records to send, and
 * is answered by "sent".
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char HEAD[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

int main(int count, char **arguments) {
    if (count < 4) return 2;
    int clients = atoi(arguments[1]);
    long every_ns = 1000000000L / atol(arguments[2]);
    static char chunk[65536];
    FILE *file = fopen(arguments[3], "r");
    size_t size = fread(chunk, 1, sizeof chunk, file);
    char *mark = memmem(chunk, size, "\"seq\":\"", 7);
    if (!mark) return 2;
    mark[7] = '0';
    char *digits = mark + 9;

    int listening = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in here = {.sin_family = AF_INET};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof here;
    if (bind(listening, (struct sockaddr *)&here, sizeof here) || listen(listening, 4096)) return 1;
    getsockname(listening, (struct sockaddr *)&here, &length);
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);

    int *fds = calloc(clients, sizeof *fds);
    for (int i = 0; i < clients; i++) {
        char request[8192];
        fds[i] = accept(listening, NULL, NULL);
        int on = 1;
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (recv(fds[i], request, sizeof request, 0) <= 0) return 1;
        send(fds[i], HEAD, sizeof HEAD - 1, 0);
    }
    printf("ready\n");
    fflush(stdout);

    long long sequence = 0;
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        struct timespec due;
        clock_gettime(CLOCK_MONOTONIC, &due);
        for (long left = atol(line); left > 0; left--) {
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
            due.tv_nsec += every_ns;
            if (due.tv_nsec >= 1000000000L) due.tv_nsec -= 1000000000L, due.tv_sec++;
            char text[32];
            snprintf(text, sizeof text, "%010lld", sequence++);
            memcpy(digits, text, 10);
            for (int i = 0; i < clients; i++)
                if (send(fds[i], chunk, size, 0) != (ssize_t)size) return 1;
        }
        printf("sent\n");
        fflush(stdout);
    }
    return 0;
}
