# Lua: liblua.a from the library's sources, and an interpreter.
CC ?= cc
AR ?= ar
CFLAGS = -O2 -g -Wall -Wextra -std=gnu99
CPPFLAGS = -DLUA_USE_LINUX -DLUA_COMPAT_5_3 -I.
LIBS = -lm -ldl

OBJECTS = $(patsubst %.c,%.o,$(sort $(filter-out main.c,$(wildcard *.c))))

all: lua

lua: main.o liblua.a
	$(CC) $(LDFLAGS) -Wl,-E -o $@ main.o liblua.a $(LIBS)

liblua.a: $(OBJECTS)
	rm -f $@
	$(AR) rcD $@ $(OBJECTS)

%.o: %.c
	$(CC) $(CFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

install: all
	mkdir -p $(DESTDIR)/bin $(DESTDIR)/lib $(DESTDIR)/include
	install -m 755 lua $(DESTDIR)/bin
	install -m 644 liblua.a $(DESTDIR)/lib
	install -m 644 lua.h luaconf.h lualib.h lauxlib.h $(DESTDIR)/include

-include $(wildcard *.d)

.PHONY: all install
