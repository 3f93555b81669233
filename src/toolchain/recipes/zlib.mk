# zlib: an archive, a shared library of the same sources, and a test program.
CC ?= cc
AR ?= ar
CFLAGS = -O3 -g -Wall
CPPFLAGS = -D_LARGEFILE64_SOURCE=1 -DHAVE_UNISTD_H -DHAVE_HIDDEN -I.

SOURCES = $(sort $(filter-out roundtrip.c,$(wildcard *.c)))
OBJECTS = $(SOURCES:.c=.o)
SHARED_OBJECTS = $(SOURCES:.c=.lo)

all: libz.a libz.so.1 roundtrip

libz.a: $(OBJECTS)
	rm -f $@
	$(AR) rcD $@ $(OBJECTS)

libz.so.1: $(SHARED_OBJECTS)
	$(CC) -shared -Wl,-soname,libz.so.1 -o $@ $(SHARED_OBJECTS)

roundtrip: roundtrip.o libz.a
	$(CC) $(LDFLAGS) -o $@ roundtrip.o libz.a

%.o: %.c
	$(CC) $(CFLAGS) $(CPPFLAGS) -MMD -c -o $@ $<

%.lo: %.c
	$(CC) $(CFLAGS) $(CPPFLAGS) -DPIC -fPIC -MMD -MF $*.lo.d -c -o $@ $<

install: all
	mkdir -p $(DESTDIR)/bin $(DESTDIR)/lib $(DESTDIR)/include
	install -m 755 roundtrip $(DESTDIR)/bin
	install -m 755 libz.so.1 $(DESTDIR)/lib
	ln -s libz.so.1 $(DESTDIR)/lib/libz.so
	install -m 644 libz.a $(DESTDIR)/lib
	install -m 644 zlib.h zconf.h $(DESTDIR)/include

-include $(wildcard *.d)

.PHONY: all install
