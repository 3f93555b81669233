/* What busybox has no applet for; static, for builders in a sandbox.
 *
 * probe socket PATH     leaves a Unix socket
 * probe xattr FILE      tries every call that reads or writes extended
 *                       attributes and prints what each answered
 * probe abstract NAME   connects to an abstract Unix socket and prints the answer
 * probe send SOCKET     sends standard input to a Unix socket, then prints the answer
 * probe crash           is killed by SIGSEGV, as the first process, too
 * probe setuid FILE     tries to set setuid and setgid bits by each call
 * probe flags DIRECTORY prints its inode's flags
 * probe mark DIRECTORY  tries to change its inode's flags and version
 * probe ring DIRECTORY  tries to have all that is made in it open to everybody, by a ring
 *                       (io_uring), which no filter of system calls sees
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static void tell(const char *call, long result)
{
    printf("%s: %s\n", call, result < 0 ? strerrorname_np(errno) : "allowed");
}

/* Sets an extended attribute; the result is the ring's. */
static int set_by_ring(int file, const char *name, const void *value, unsigned len)
{
    struct io_uring_params params = {0};
    int ring = syscall(SYS_io_uring_setup, 1, &params);
    if (ring < 0)
        return -errno;
    size_t size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    char *queues = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *entry = mmap(0, sizeof *entry, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
    if (queues == MAP_FAILED || (void *)entry == MAP_FAILED)
        return -errno;
    *entry = (struct io_uring_sqe){
        .opcode = IORING_OP_FSETXATTR, .fd = file, .addr = (unsigned long)name, .addr2 = (unsigned long)value, .len = len};
    *(unsigned *)(queues + params.sq_off.array) = 0;
    *(unsigned *)(queues + params.sq_off.tail) = 1;
    if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0)
        return -errno;
    return ((struct io_uring_cqe *)(queues + params.cq_off.cqes))->res;
}

int main(int argc, char **argv)
{
    char buffer[64];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;
    if (argc == 2 && !strcmp(argv[1], "crash"))
        return *(volatile char *)8;
    if (argc != 3)
        return 2;
    if (!strcmp(argv[1], "socket")) {
        strncpy(address.sun_path, argv[2], sizeof address.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        return bind(fd, (struct sockaddr *)&address, sizeof address) != 0;
    }
    if (!strcmp(argv[1], "send")) {
        ssize_t n;
        strncpy(address.sun_path, argv[2], sizeof address.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
            return 1;
        while ((n = read(0, buffer, sizeof buffer)) > 0)
            if (send(fd, buffer, n, MSG_NOSIGNAL) < 0)
                break;
        shutdown(fd, SHUT_WR);
        while ((n = read(fd, buffer, sizeof buffer)) > 0)
            if (write(1, buffer, n) < 0)
                break;
        return 0;
    }
    if (!strcmp(argv[1], "abstract")) {
        strncpy(address.sun_path + 1, argv[2], sizeof address.sun_path - 2);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        tell("connect", connect(fd, (struct sockaddr *)&address,
                                offsetof(struct sockaddr_un, sun_path) + 1 + strlen(argv[2])));
        return 0;
    }
    if (!strcmp(argv[1], "ring")) {
        /* The version of the format, then three entries: tag, permissions, nobody in particular. */
        unsigned acl[] = {2, 7 << 16 | 0x01, -1, 7 << 16 | 0x04, -1, 7 << 16 | 0x20, -1};
        int result = set_by_ring(open(argv[2], O_RDONLY | O_DIRECTORY), "system.posix_acl_default", acl, sizeof acl);
        puts(result < 0 ? strerrorname_np(-result) : "done");
        return 0;
    }
    if (!strcmp(argv[1], "flags") || !strcmp(argv[1], "mark")) {
        int flags = 0, version = 0;
        fd = open(argv[2], O_RDONLY | O_DIRECTORY);
        if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0) {
            tell("flags", -1);
            return 0;
        }
        if (!strcmp(argv[1], "flags")) {
            printf("flags %x\n", flags);
            return 0;
        }
        flags |= FS_NODUMP_FL | FS_NOATIME_FL;
        tell("set flags", ioctl(fd, FS_IOC_SETFLAGS, &flags));
        ioctl(fd, FS_IOC_GETVERSION, &version);
        version++;
        tell("set version", ioctl(fd, FS_IOC_SETVERSION, &version));
        return 0;
    }
    fd = open(argv[2], O_RDWR);
    if (fd < 0)
        return 1;
    if (!strcmp(argv[1], "setuid")) {
        tell("chmod", chmod(argv[2], 04755));
        tell("chmod of a group", chmod(argv[2], 02755));
        tell("fchmod", fchmod(fd, 04755));
        tell("fchmodat", fchmodat(AT_FDCWD, argv[2], 06755, 0));
        tell("fchmodat2", syscall(452, AT_FDCWD, argv[2], 04755, 0));
        return 0;
    }
    if (!strcmp(argv[1], "xattr")) {
        tell("setxattr", setxattr(argv[2], "user.a", "1", 1, 0));
        tell("lsetxattr", lsetxattr(argv[2], "user.a", "1", 1, 0));
        tell("fsetxattr", fsetxattr(fd, "user.a", "1", 1, 0));
        tell("getxattr", getxattr(argv[2], "user.a", buffer, sizeof buffer));
        tell("lgetxattr", lgetxattr(argv[2], "user.a", buffer, sizeof buffer));
        tell("fgetxattr", fgetxattr(fd, "user.a", buffer, sizeof buffer));
        return 0;
    }
    return 2;
}
