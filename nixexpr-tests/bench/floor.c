/* floor RUNS INPUTS PROGRAM: what the kernel alone takes for the sandbox of a child.
 *
 * Each run makes the namespaces and mounts that Droste makes for a child with so
 * many inputs, executes PROGRAM (static) in them, waits for it and removes the root
 * directory: the same calls in the same order, in one small process, with nothing
 * checked twice, nothing sent to another process, and no limit or filter set. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MUST(call) \
    do { \
        if ((call) < 0) { \
            fprintf(stderr, "%s: %s\n", #call, strerror(errno)); \
            _exit(1); \
        } \
    } while (0)

static const char *const devices[] = {"full", "null", "random", "tty", "urandom", "zero"};
enum { DEVICES = sizeof devices / sizeof *devices };

static int file(int root, const char *path)
{
    int fd = openat(root, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    MUST(fd);
    return fd;
}

static void put(int root, int tree, const char *target)
{
    MUST(tree);
    MUST(syscall(SYS_move_mount, tree, "", root, target, MOVE_MOUNT_F_EMPTY_PATH));
    close(tree);
}

static void bind_one(int root, const char *source, const char *target, unsigned long attributes)
{
    struct mount_attr attr = {.attr_set = attributes};
    int tree = syscall(SYS_open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
    MUST(tree);
    MUST(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr));
    put(root, tree, target);
}

static void new_one(int root, const char *kind, const char *target)
{
    int context = syscall(SYS_fsopen, kind, FSOPEN_CLOEXEC);
    MUST(context);
    MUST(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    put(root, syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID), target);
    close(context);
}

static void become(const char *directory, int inputs, const char *program, int network, int ready, int go)
{
    char path[64], word;
    int i, root;
    MUST(setns(network, CLONE_NEWNET));
    MUST(sethostname("localhost", 9));
    MUST(syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &(struct mount_attr){.propagation = 1 << 18}, sizeof(struct mount_attr)));
    root = syscall(SYS_open_tree, AT_FDCWD, directory, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    MUST(root);
    MUST(syscall(SYS_move_mount, root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH));
    for (i = 0; i < DEVICES; i++) {
        char device[32];
        snprintf(path, sizeof path, "dev/%s", devices[i]);
        snprintf(device, sizeof device, "/dev/%s", devices[i]);
        close(file(root, path));
        bind_one(root, device, path, MOUNT_ATTR_NOSUID);
    }
    new_one(root, "tmpfs", "dev/shm");
    new_one(root, "devpts", "dev/pts");
    new_one(root, "proc", "proc");
    for (i = 0; i < inputs; i++) {
        snprintf(path, sizeof path, "nix/store/%d", i);
        close(file(root, path));
        bind_one(root, program, path, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_RDONLY);
    }
    MUST(fchdir(root));
    MUST(syscall(SYS_pivot_root, ".", "."));
    MUST(syscall(SYS_umount2, ".", 2 /* MNT_DETACH */));
    MUST(chdir("/build"));
    MUST(unshare(CLONE_NEWUSER));
    MUST(write(ready, "r", 1));
    MUST(read(go, &word, 1));
    MUST(setresgid(100, 100, 100));
    MUST(setresuid(1000, 1000, 1000));
    execve("/nix/store/0", (char *[]){"true", NULL}, (char *[]){NULL});
    perror("execve");
    _exit(127);
}

static void map(int pid, const char *kind, const char *text)
{
    char path[64];
    int fd;
    snprintf(path, sizeof path, "/proc/%d/%s", pid, kind);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    MUST(fd);
    MUST(write(fd, text, strlen(text)));
    close(fd);
}

static int forget(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status, (void)kind, (void)place;
    return remove(path);
}

static void run(int inputs, const char *program, int network)
{
    static const char *const directories[] = {"dev", "dev/shm", "dev/pts", "proc", "etc", "build", "nix", "nix/store"};
    static const char *const files[] = {"etc/passwd", "etc/group", "etc/hosts", "build/input"};
    char directory[] = "/tmp/floor.XXXXXX";
    int ready[2], go[2], root, status, pid;
    size_t i;
    char word;
    struct clone_args args = {.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS, .exit_signal = SIGCHLD};
    if (mkdtemp(directory) == NULL)
        MUST(-1);
    MUST(chmod(directory, 0755));
    root = open(directory, O_PATH | O_CLOEXEC);
    for (i = 0; i < sizeof directories / sizeof *directories; i++)
        MUST(mkdirat(root, directories[i], 0755));
    for (i = 0; i < sizeof files / sizeof *files; i++) {
        int fd = file(root, files[i]);
        MUST(write(fd, "some text\n", 10));
        close(fd);
    }
    MUST(pipe2(ready, O_CLOEXEC));
    MUST(pipe2(go, O_CLOEXEC));
    pid = syscall(SYS_clone3, &args, sizeof args);
    MUST(pid);
    if (pid == 0)
        become(directory, inputs, program, network, ready[1], go[0]);
    close(ready[1]);
    if (read(ready[0], &word, 1) == 1) {
        map(pid, "setgroups", "deny");
        map(pid, "uid_map", "1000 0 1");
        map(pid, "gid_map", "100 0 1");
        MUST(write(go[1], "g", 1));
    }
    MUST(waitpid(pid, &status, 0));
    close(ready[0]), close(go[0]), close(go[1]), close(root);
    MUST(nftw(directory, forget, 16, FTW_DEPTH | FTW_PHYS));
    if (status != 0) {
        fprintf(stderr, "floor: the program ended with %#x\n", status);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    int runs, inputs, network, own;
    if (argc != 4) {
        fprintf(stderr, "usage: floor RUNS INPUTS PROGRAM\n");
        return 2;
    }
    runs = atoi(argv[1]), inputs = atoi(argv[2]);
    own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    MUST(unshare(CLONE_NEWNET));
    network = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    MUST(setns(own, CLONE_NEWNET));
    while (runs-- > 0)
        run(inputs, argv[3], network);
    return 0;
}
