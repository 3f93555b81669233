# Lua's library as a C project builds: objects with dependency files, an archive, a shared
# library, a program linked to the archive, and a probe as a configure script makes them.
DEBUG ?= -g
CFLAGS = -O0 $(DEBUG) -Wall -DLUA_USE_LINUX -MMD
objects = $(patsubst %.c,%.o,$(filter-out main.c,$(wildcard *.c)))
all: main liblua.so config.h
main: main.o liblua.a
	$(CC) -o $@ $^ -lm -ldl -Wl,-E
liblua.a: $(objects)
	ar rcD $@ $^
liblua.so: $(objects:.o=.lo)
	$(CC) -shared -o $@ $^ -lm
%.o: %.c
	$(CC) $(CFLAGS) -c -o $@ $<
%.lo: %.c
	$(CC) $(CFLAGS) -fPIC -MF $@.d -c -o $@ $<
# The first fails, the second does not.
config.h:
	if $(CC) -c -o conftest.o -DHEADER='<no/such.h>' probe.inc 2> no-such.log; then echo 1; else echo 0; fi > $@
	if $(CC) -x c -c -o conftest.o -DHEADER='<stdio.h>' probe.inc; then echo 1; else echo 0; fi >> $@
	rm -f conftest.o
clean:
	rm -f *.o *.lo *.d *.a *.so *.log main config.h
