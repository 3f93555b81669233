# zstd: an archive of sources in several directories, and a test program.
CC ?= cc
AR ?= ar
CFLAGS = -O3 -g -Wall -Wextra
CPPFLAGS = -DXXH_NAMESPACE=ZSTD_ -DZSTD_LEGACY_SUPPORT=0 -DZSTD_MULTITHREAD -I. -Icommon

SOURCES = $(sort $(wildcard common/*.c compress/*.c decompress/*.c dictBuilder/*.c))
ASSEMBLY = $(sort $(wildcard decompress/*.S))
OBJECTS = $(SOURCES:.c=.o) $(ASSEMBLY:.S=.o)

all: libzstd.a roundtrip

libzstd.a: $(OBJECTS)
	rm -f $@
	$(AR) rcD $@ $(OBJECTS)

roundtrip: roundtrip.o libzstd.a
	$(CC) $(LDFLAGS) -o $@ roundtrip.o libzstd.a -pthread

%.o: %.c
	$(CC) $(CFLAGS) $(CPPFLAGS) -pthread -MMD -MP -c -o $@ $<

%.o: %.S
	$(CC) $(CPPFLAGS) -MMD -MP -c -o $@ $<

install: all
	mkdir -p $(DESTDIR)/bin $(DESTDIR)/lib $(DESTDIR)/include
	install -m 755 roundtrip $(DESTDIR)/bin
	install -m 644 libzstd.a $(DESTDIR)/lib
	install -m 644 zstd.h zstd_errors.h zdict.h $(DESTDIR)/include

-include $(wildcard *.d */*.d)

.PHONY: all install
