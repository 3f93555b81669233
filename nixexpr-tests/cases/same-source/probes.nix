# What a `configure` and a `cmake` ask of a compiler as nixpkgs has it: `$out` is in flags, and so
# in messages. What each question gave is in the output.
{
  toolchain,
  # A part of the derivation, so `$out` changes with it.
  edit,
}:
let
  tools = builtins.storePath toolchain;
in
derivation {
  name = "probes";
  system = "x86_64-linux";
  builder = "${tools}/bin/bash";
  PATH = "${tools}/bin";
  inherit edit;
  args = [
    "-c"
    ''
      set -u
      mkdir -p /build/source /build/left; cd /build/source
      seed=''${out##*/}; seed=-frandom-seed=''${seed:0:10}
      # ask NAME ARGUMENT...: about conftest.c
      ask() {
        local name=$1 status=0; shift
        mkdir /build/left/$name
        gcc $seed "$@" > /build/left/$name/stdout 2> stderr || status=$?
        # The compiler makes up names for its temporary files.
        sed 's,/cc[A-Za-z0-9]\{6\}\.,/ccXXXXXX.,' stderr > /build/left/$name/stderr
        echo $status > /build/left/$name/status
        for file in conftest conftest.o; do [ ! -e $file ] || mv $file /build/left/$name; done
      }
      echo 'int main(void) { return 0; }' > conftest.c
      ask links conftest.c -o conftest -L$out/lib
      ask run-path conftest.c -o conftest -Wl,-rpath,$out/lib
      echo 'int main(void) { return undefined(); }' > conftest.c
      ask undefined conftest.c -o conftest -L$out/lib
      echo '#include <no-such-header.h>' > conftest.c
      ask header -I$out/include -c conftest.c
      ask preprocessor -I$out/include -E conftest.c
      echo '_Static_assert(0, PREFIX);' > conftest.c
      ask message -DPREFIX=\"$out\" -c conftest.c
      # What this begins with, a digit or a letter, is what GCC complains about.
      echo 'int f(void) { return PREFIX; }' > conftest.c
      ask tokens -DPREFIX=''${out:11:5} -c conftest.c
      ask name -DPREFIX=a''${out:11:32} -c conftest.c
      ask hash -DPREFIX=''${out:11:32} -c conftest.c
      printf '#define PREFIX "%s"\n' $out > config.h
      echo '#include "config.h"' > conftest.c; echo 'int f(void) { return PREFIX PREFIX2; }' >> conftest.c
      ask config -c conftest.c
      echo '.globl f; f: .ascii "f"' > conftest.S
      ask assembly -c conftest.S
      # As CMake does, and each time by another name.
      dir=/build/source/CMakeFiles/CMakeScratch/TryCompile-abcde$edit
      mkdir -p $dir; cd $dir
      echo 'int main(void) { return 0; }' > conftest.c
      ask cmake-compiles -c $dir/conftest.c -o conftest.o
      ask cmake-links -L$out/lib $dir/conftest.c -o conftest
      echo 'int main(void) { return undefined(); }' > conftest.c
      ask cmake-undefined -L$out/lib $dir/conftest.c -o conftest
      ask cmake-message -DP=$out -include $dir/none.h -c $dir/conftest.c
      cp -r /build/left $out
    ''
  ];
}
