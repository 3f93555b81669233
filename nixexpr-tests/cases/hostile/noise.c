/* noise COMPILER COMMAND...: sends the shims' socket what no shim sends, then runs the
 * command while hundreds of connections stay open that say nothing, and ends as it does. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { IDLE = 300, FRAME_MAX = 8 << 20 };
static unsigned char *frame;
static uint32_t used;
static uint64_t state = 88172645463325252u;

static uint32_t random_number(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static int open_connection(void) {
    int connection = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {AF_UNIX, "/.droste/socket"};
    /* A queue that is full is the executor's to empty. */
    if (connection < 0 || connect(connection, (void *)&address, sizeof address)) {
        perror("connect");
        exit(1);
    }
    struct timeval limit = {10, 0};
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    return connection;
}

static void put(const void *bytes, uint32_t length) {
    if (used + length > FRAME_MAX)
        exit(3);
    memcpy(frame + used, bytes, length);
    used += length;
}

static void number(uint32_t value) { put(&value, 4); }

static void string(const char *text) {
    number(strlen(text));
    put(text, strlen(text));
}

static void begin(void) {
    used = 0;
    put("DRS3\0\0\0\0\1\0\0\0", 12);
}

static void end(void) {
    uint32_t body = used - 8;
    memcpy(frame + 4, &body, 4);
}

static void call(const char *cwd, const char *exe, const char *path, int arguments, const char *argument) {
    begin();
    string(cwd);
    string(exe);
    string(path);
    number(arguments + 1);
    string("gcc");
    for (int i = 0; i < arguments; i++)
        string(argument);
    number(1);
    string("PATH=/nowhere");
    end();
}

/* Sends the frame's first bytes; with `wait`, until there is an answer or the end. */
static void send_frame(uint32_t length, int wait) {
    int connection = open_connection();
    send(connection, frame, length, MSG_NOSIGNAL);
    shutdown(connection, SHUT_WR);
    char answer[64];
    if (wait)
        while (recv(connection, answer, sizeof answer, 0) > 0) {
        }
    close(connection);
}

int main(int argc, char **argv) {
    struct rlimit files = {4096, 4096};
    setrlimit(RLIMIT_NOFILE, &files);
    frame = malloc(FRAME_MAX);
    if (argc < 3 || !frame)
        return 3;
    const char *compiler = argv[1];
    /* Bytes of no meaning. */
    for (int i = 0; i < 40; i++) {
        used = 0;
        for (uint32_t length = random_number() % 5000; used < length;)
            number(random_number());
        send_frame(used, i % 2);
        /* With the right beginning. */
        if (used > 8) {
            memcpy(frame, "DRS3", 4);
            end();
            send_frame(used, i % 2);
            frame[8] = 1;
            send_frame(used, i % 2);
        }
    }
    /* A call that ends early, at each byte of its beginning and then here and there. */
    call("/build", compiler, compiler, 3, "-c");
    uint32_t length = used;
    for (uint32_t i = 0; i < length; i += i < 40 ? 1 : 29)
        send_frame(i, 1);
    /* A call with one byte that is another. */
    for (uint32_t i = 0; i < length; i += 3) {
        unsigned char kept = frame[i];
        frame[i] ^= 1 << random_number() % 8;
        send_frame(length, i % 2);
        frame[i] = kept;
    }
    /* Lengths that are not there. */
    static const uint32_t lengths[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 16 << 20, (16 << 20) + 1};
    for (unsigned i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint32_t body;
        memcpy(&body, frame + 4, 4);
        memcpy(frame + 4, &lengths[i], 4);
        send_frame(length, 1);
        memcpy(frame + 4, &body, 4);
        /* Of the first string, and of a list. */
        uint32_t saved = used;
        begin();
        number(lengths[i]);
        end();
        send_frame(used, 1);
        begin();
        string("/build"), string(compiler), string(compiler);
        number(lengths[i]);
        end();
        send_frame(used, 1);
        call("/build", compiler, compiler, 3, "-c");
        if (used != saved)
            return 3;
    }
    /* Calls that are well-formed, but that nobody makes. */
    static char many[100001], deep[60001];
    memset(many, 'x', sizeof many - 1);
    for (unsigned i = 0; i + 1 < sizeof deep; i++)
        deep[i] = "/."[i % 2];
    const char *places[] = {"/", "/build", "/proc/self/root", "/proc/1/root", "/proc/self/fd", "/build/../../..", "/.droste", "/build/loop", deep, "/dev/fd/0", "/build\n", "//", many};
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
        call(places[i], compiler, compiler, 1, "-c"), send_frame(used, 1);
        call("/build", places[i], compiler, 1, "-c"), send_frame(used, 1);
        call("/build", compiler, places[i], 1, "-c"), send_frame(used, 1);
        call("/build", compiler, compiler, 1, places[i]), send_frame(used, 1);
    }
    const char *arguments[] = {"", "-", "-c", "-I", "-I/proc/self/root", "-I/", "@/build/response", "@/dev/zero", "-include/dev/zero", "-o", "-x", "/dev/zero", "-B/", "-\xff\xfe", "--sysroot=/proc/1/root"};
    for (unsigned i = 0; i < sizeof arguments / sizeof *arguments; i++) {
        call("/build", compiler, compiler, 1, arguments[i]), send_frame(used, 1);
        call("/build", compiler, compiler, 3000, arguments[i]), send_frame(used, 1);
    }
    call("/build", "relative", compiler, 1, "-c"), send_frame(used, 1);
    call("relative", compiler, compiler, 1, "-c"), send_frame(used, 1);
    call("/build", compiler, "", 70000, "-Ixxxxxxxx"), send_frame(used, 1);
    /* Descriptors that nobody asked for. */
    call("/build", compiler, compiler, 1, "-c");
    for (int i = 0; i < 20; i++) {
        int connection = open_connection(), count = 100;
        char control[CMSG_SPACE(100 * sizeof(int))] = {0};
        struct iovec vector = {frame, used};
        struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int));
        for (int j = 0; j < count; j++)
            memcpy(CMSG_DATA(header) + j * sizeof(int), &connection, sizeof(int));
        sendmsg(connection, &message, MSG_NOSIGNAL);
        close(connection);
    }
    for (int i = 0; i < IDLE; i++) {
        int connection = open_connection();
        /* Some have begun to say something. */
        if (i % 3)
            send(connection, frame, i % used, MSG_NOSIGNAL);
    }
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 3; i < 4096; i++)
            close(i);
        execvp(argv[2], argv + 2);
        _exit(127);
    }
    int status;
    if (pid < 0)
        return 3;
    waitpid(pid, &status, 0);
    return status != 0;
}
