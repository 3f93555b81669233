/* A compiler's wrapper that is no script and reads the environment. */
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char *arguments[argc + 2], *extra = getenv("EXTRA");
    int count = 0;
    arguments[count++] = argv[0];
    if (extra && *extra)
        arguments[count++] = extra;
    for (int i = 1; i < argc; i++)
        arguments[count++] = argv[i];
    arguments[count] = 0;
    execv(COMPILER, arguments);
    return 127;
}
