/* An attacker's two halves, static: one in a build, one outside or in another build.
 *
 * attack give NAME FILE   opens FILE for writing and passes the descriptor to whoever listens at
 *                         that abstract socket; says whether it could
 * attack take NAME DIR    listens there for one descriptor, makes DIR/taken, waits for DIR/go, then
 *                         writes "changed" through it and makes DIR/written
 * attack list - FILE      says whether extended attributes can be listed, or removed
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static int made(const char *dir, const char *name, int make)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (!make)
        return access(path, F_OK) == 0;
    return open(path, O_CREAT | O_WRONLY, 0666) >= 0;
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header;
    socklen_t length;
    int fd, peer;
    if (argc != 4)
        return 2;
    if (!strcmp(argv[1], "list"))
        return printf("%zd %zd %d\n", listxattr(argv[3], 0, 0), llistxattr(argv[3], 0, 0), removexattr(argv[3], "user.a")) < 0;
    strncpy(address.sun_path + 1, argv[2], sizeof address.sun_path - 2);
    length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(argv[2]);
    peer = socket(AF_UNIX, SOCK_STREAM, 0);
    if (!strcmp(argv[1], "give")) {
        fd = open(argv[3], O_RDWR);
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
        if (fd < 0 || connect(peer, (struct sockaddr *)&address, length) < 0 || sendmsg(peer, &message, 0) < 0)
            return puts("not given") < 0;
        return puts("given") < 0;
    }
    if (bind(peer, (struct sockaddr *)&address, length) < 0 || listen(peer, 1) < 0 || !made(argv[3], "listening", 1))
        return 1;
    fd = accept(peer, 0, 0);
    if (recvmsg(fd, &message, 0) < 0 || !(header = CMSG_FIRSTHDR(&message)))
        return 1;
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    made(argv[3], "taken", 1);
    while (!made(argv[3], "go", 0))
        usleep(10000);
    if (pwrite(fd, "changed", 7, 0) == 7)
        made(argv[3], "written", 1);
    return 0;
}
