# A package as nixpkgs builds one: its `config.h` and its flags hold `$out`, and each
# compile gets `-frandom-seed=` with the beginning of its hash. Every object is in the
# output, so that any difference in one is a difference of the output.
{
  toolchain,
  cflags ? "-O2",
  cc ? "gcc",
  # The text of one source. It is a part of the derivation, so `$out` changes with it.
  edit ? "1",
  # The directory that the sources are in.
  directory ? "package-1.0",
}:
let
  tools = builtins.storePath toolchain;
in
derivation {
  name = "package";
  system = "x86_64-linux";
  builder = "${tools}/bin/bash";
  PATH = "${tools}/bin";
  outputs = [
    "out"
    "dev"
  ];
  inherit
    cflags
    edit
    cc
    directory
    ;
  cxx = if cc == "gcc" then "g++" else "clang++";
  args = [
    "-c"
    ''
      set -eu
      mkdir -p $out $dev $directory; cd $directory
      seed=''${out##*/}; seed=''${seed:0:10}
      cat > config.h <<END
      #define PREFIX "$out"
      #define INCLUDES "$dev/include"
      END
      # Neither text is used.
      for n in 1 2 3; do
        printf '#include "config.h"\n#include <stdio.h>\nint f%s(int n) { return printf("%%d\\n", n + %s); }\n' $n $n > plain$n.c
      done
      # Both are passed on as they are.
      cat > passes.c <<'END'
      #include "config.h"
      #include <stdio.h>
      static const char *const paths[] = {PREFIX "/share", INCLUDES, PREFIX};
      const char *passes(int n) { puts(PREFIX "/lib:" INCLUDES); return paths[n]; }
      END
      # Texts from the command line, with a warning that shows them.
      cat > flags.c <<'END'
      const char *locale = LOCALE;
      int flags(void) { int unused; return "" LOCALE == locale; }
      END
      # Copied in pieces: the compiler looks inside.
      cat > pieces.c <<'END'
      #include "config.h"
      #include <string.h>
      void pieces(char *to) { strcpy(to, PREFIX); }
      int piece(void) { return PREFIX[20]; }
      END
      # Names of constructors and of what is of one file alone.
      cat > names.cc <<'END'
      #include "config.h"
      #include <map>
      #include <string>
      namespace {
      struct Registered { Registered(); };
      std::map<std::string, std::string> names{{"prefix", PREFIX}};
      Registered::Registered() { names["includes"] = INCLUDES; }
      Registered registered;
      }
      int count() { return static_cast<int>(names.size()); }
      END
      printf '#include <string>\nstd::string f() { return "%s"; }\n' cxx > plain.cc
      printf 'int edited(void) { return %s; }\n' "$edit" > edited.c
      cat > Makefile <<'END'
      objects = plain1.o plain2.o plain3.o passes.o flags.o pieces.o names.o plain.o edited.o
      all: $(objects)
      %.o: %.c
      	$(cc) $(cflags) -Wall -DLOCALE='"$(out)/share/locale"' -frandom-seed=$(seed) -MMD -c $< -o $@
      %.o: %.cc
      	$(cxx) $(cflags) -Wall -frandom-seed=$(seed) -c $< -o $@
      END
      make seed=$seed > $out/stdout 2> $out/stderr
      cp *.o *.d $out
      echo $dev > $dev/made
    ''
  ];
}
