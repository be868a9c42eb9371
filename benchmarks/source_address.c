/* Has a program that is started with this library in LD_PRELOAD connect from the address of this machine that
 * SOURCE_ADDRESS names (127.0.0.2, say) to 127.0.0.1, so that who is called knows which of several programs calls.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

int connect(int fd, const struct sockaddr *to, socklen_t length) {
    int (*real_connect)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    const char *address = getenv("SOURCE_ADDRESS");
    const struct sockaddr_in *place = (const struct sockaddr_in *)to;
    if (address != NULL && to->sa_family == AF_INET && place->sin_addr.s_addr == htonl(INADDR_LOOPBACK)) {
        struct sockaddr_in from = {.sin_family = AF_INET};
        int late = 1; /* the port is chosen by connect, so that many connections to one place can share one */
        if (inet_pton(AF_INET, address, &from.sin_addr) == 1) {
            setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &late, sizeof late);
            bind(fd, (struct sockaddr *)&from, sizeof from); /* without it, the address is 127.0.0.1 as ever */
        }
    }
    return real_connect(fd, to, length);
}
