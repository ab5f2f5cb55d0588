/* Ethernet frames as they are, for a guest that lies and one that looks:
 *   frames send IFACE < LINES   sends each line's hexadecimal bytes as one frame
 *   frames watch IFACE          prints each frame that arrives as such a line, whomever it is for; says "watching" first */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static unsigned char frame[2048];
static char line[2 * sizeof frame + 2];

static int send_lines(int socket) {
    while (fgets(line, sizeof line, stdin)) {
        size_t length = 0;
        while (length < sizeof frame && sscanf(line + 2 * length, "%2hhx", &frame[length]) == 1) length++;
        if (length > 0 && send(socket, frame, length, 0) != (ssize_t)length) return 1;
    }
    return 0;
}

static int watch(int socket, int interface) {
    struct packet_mreq everything = {.mr_ifindex = interface, .mr_type = PACKET_MR_PROMISC};
    if (setsockopt(socket, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &everything, sizeof everything) != 0) return 1;
    puts("watching");
    fflush(stdout);
    for (;;) {
        struct sockaddr_ll from;
        socklen_t size = sizeof from;
        ssize_t length = recvfrom(socket, frame, sizeof frame, 0, (struct sockaddr *)&from, &size);
        if (length < 0) return 1;
        if (from.sll_pkttype == PACKET_OUTGOING) continue;
        for (ssize_t at = 0; at < length; at++) printf("%02x", frame[at]);
        puts("");
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(argv[2])};
    int link = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    if (link < 0 || bind(link, (struct sockaddr *)&at, sizeof at) != 0) return 1;
    if (strcmp(argv[1], "send") == 0) return send_lines(link);
    if (strcmp(argv[1], "watch") == 0) return watch(link, at.sll_ifindex);
    return 2;
}
