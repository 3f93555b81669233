# A small C project, built by real Nix: with Droste's shims before the compiler in PATH, and
# without. `body` is what one of its functions returns.
{
  toolchain,
  shims ? null,
  body ? "1",
}:
let
  tools = builtins.storePath toolchain;
  file = builtins.toFile;
in
derivation {
  name = "project";
  system = "x86_64-linux";
  builder = "${tools}/bin/sh";
  args = [
    "-euc"
    ''
      mkdir project project/include $out
      cd project
      cp $header include/header.h
      cp $first first.c; cp $second second.c; cp $dated dated.c; cp $main main.c
      for source in first second dated main; do
        cc -O1 -g -Wall -Iinclude -MD -MF $source.d -c $source.c -o $source.o
      done
      cc -o program main.o first.o second.o dated.o
      if cc -c -Iinclude missing.c 2> failure; then exit 5; fi
      cp *.o *.d program $out
      # Executed in the place of the shell, `cp` would close the log before it ends, and Nix kills
      # what then still runs.
      true
    ''
  ];
  PATH = (if shims == null then "" else "${builtins.storePath shims}/bin:") + "${tools}/bin";
  # The compiler says each time why a call was not a child.
  DROSTE_VERBOSE = "1";
  requiredSystemFeatures = if shims == null then [ ] else [ "recursive-nix" ];
  header = file "header.h" "int first(void);\nint second(void);\nint dated(void);\n";
  first = file "first.c" "#include \"header.h\"\n#include <stdio.h>\nint first(void) { int unused; return printf(\"%s\\n\", __FILE__); }\n";
  second = file "second.c" "#include <header.h>\nint second(void) { return ${body}; }\n";
  # Depends on more than its files, so it is no child.
  dated = file "dated.c" "#include <header.h>\nstatic const char *const date = __DATE__;\nint dated(void) { return date[0] == 0; }\n";
  main = file "main.c" "#include \"header.h\"\nint main(void) { return first() + second() + dated() == 0; }\n";
}
