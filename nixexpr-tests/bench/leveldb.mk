# leveldb: an archive and the program that looks into its files. It comes with
# rules for CMake alone, which would measure CMake.
CXX ?= c++
AR ?= ar
CXXFLAGS = -O0 -g -Wall -Wextra -std=c++11 -fno-exceptions -fno-rtti
CPPFLAGS = -DLEVELDB_PLATFORM_POSIX=1 -DHAVE_FDATASYNC=1 -DHAVE_O_CLOEXEC=1 -DHAVE_FULLFSYNC=0 \
	-DHAVE_CRC32C=0 -DHAVE_SNAPPY=0 -DNDEBUG -Iinclude -I.

SOURCES = $(sort $(filter-out %_test.cc %/leveldbutil.cc %/env_windows.cc %/testutil.cc, \
	$(wildcard db/*.cc table/*.cc util/*.cc helpers/memenv/*.cc)))
OBJECTS = $(SOURCES:.cc=.o)

all: leveldbutil

leveldbutil: db/leveldbutil.o libleveldb.a
	$(CXX) $(LDFLAGS) -o $@ db/leveldbutil.o libleveldb.a -pthread

libleveldb.a: $(OBJECTS)
	rm -f $@
	$(AR) rcD $@ $(OBJECTS)

%.o: %.cc
	$(CXX) $(CXXFLAGS) $(CPPFLAGS) -pthread -MMD -MP -c -o $@ $<

-include $(wildcard */*.d */*/*.d)

.PHONY: all
