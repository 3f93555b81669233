// A program of 32 bits that needs no C library: prints what the kernel lets it do, by the i386
// system call numbers (arch/x86/entry/syscalls/syscall_32.tbl).
//
//   probe32 FILE    the machine's name (uname); then, of FILE, the results of chmod, fchmod and
//                   fchmodat with a set-ID bit and without, and of the calls on attributes

static long call(long number, long a, long b, long c, long d) {
    long result;
    long e = 0;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
    return result;
}

static void print(const char *text) {
    long length = 0;
    while (text[length]) length++;
    call(4, 1, (long)text, length, 0);
}

static void tell(const char *what, long result) {
    char digits[12], *at = digits + sizeof digits;
    int is_negative = result < 0;
    unsigned long rest = is_negative ? -result : result;
    *--at = 0;
    do *--at = '0' + rest % 10; while (rest /= 10);
    if (is_negative) *--at = '-';
    print(what);
    print(" ");
    print(at);
    print("\n");
}

static void probe(char **arguments) {
    static char names[6][65];
    const char *file = arguments[1];
    call(122, (long)names, 0, 0, 0);
    print(names[4]);
    print("\n");
    long fd = call(5, (long)file, 0, 0, 0);
    tell("chmod", call(15, (long)file, 0644, 0, 0));
    tell("chmod set-uid", call(15, (long)file, 04644, 0, 0));
    tell("fchmod set-gid", call(94, fd, 02644, 0, 0));
    tell("fchmodat set-uid", call(306, -100, (long)file, 04644, 0));
    tell("fchmodat2 set-uid", call(452, -100, (long)file, 04644, 0));
    tell("setxattr", call(226, (long)file, (long)"user.x", (long)"y", 1));
    tell("getxattr", call(229, (long)file, (long)"user.x", (long)names, 1));
    tell("fgetxattr", call(231, fd, (long)"user.x", (long)names, 1));
    call(1, 0, 0, 0, 0);
}

// The stack begins with the number of arguments and the arguments.
__asm__(".globl _start\n_start:\n lea 4(%esp), %eax\n push %eax\n call start\n");
void start(char **arguments) { probe(arguments); }
