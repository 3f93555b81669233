/* Changes a.h through a shared mapping, which changes its times at most once, between
 * compiles of a.c; copies of the objects are first.o, again.o, changed.o, closed.o, last.o.
 * All compiles are to one name, for what is remembered is remembered by that, too. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(void) {
    static const char text[] = "#define A 1     \n";
    int file = open("a.h", O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || ftruncate(file, sizeof text - 1))
        return 1;
    char *map = mmap(0, sizeof text - 1, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map == MAP_FAILED)
        return 1;
    memcpy(map, text, sizeof text - 1);
    /* Until the times are old enough to be believed. */
    usleep(300000);
    if (system("gcc -c a.c && cp a.o first.o"))
        return 2;
    usleep(300000);
    if (system("gcc -c a.c && cp a.o again.o"))
        return 2;
    map[10] = '2';
    if (system("gcc -c a.c && cp a.o changed.o"))
        return 2;
    /* Nor may it help to have only the mapping. */
    close(file);
    usleep(300000);
    if (system("gcc -c a.c && cp a.o closed.o"))
        return 2;
    map[10] = '3';
    return system("gcc -c a.c && cp a.o last.o") ? 2 : 0;
}
