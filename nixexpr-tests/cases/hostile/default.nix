# Builds that try to get at the executor, to make it believe something wrong, or to be
# in its way. Each writes what it saw to its output; what must be the same with and
# without memoization differs if it is not.
{ toolchain }:
let
  tools = builtins.storePath toolchain;
  drv =
    name: script: attrs:
    derivation (
      {
        inherit name;
        system = "x86_64-linux";
        builder = "${tools}/bin/bash";
        args = [
          "-c"
          ("set -u; " + script)
        ];
        PATH = "${tools}/bin";
      }
      // attrs
    );
  # Long enough after the start that files are old enough for their times to be believed.
  settled = name: script: attrs: drv name ("sleep 0.3; " + script) attrs;
  # The data of objects, and all their bytes.
  keep = ''
    for object in *.o; do objdump -s -j .data $object | tail -n 1; sha256sum $object; done > $out
  '';
  # Something in the store that is not among the inputs of who wants it.
  secret = builtins.toFile "secret.h" "#define A 42\n";
  victim = ''
    printf 'int victim(void) { return 41; }\n' > victim.c
  '';
  value = ''
    printf '#ifndef X\n#define X 1\n#endif\nint x = X;\n' > a.c
  '';
  # What the wrappers are to hand on: each value, and none.
  wrapped = wrapper: name: settled name ''
    ${value}
    export EXTRA=-DX=7
    gcc -c a.c -o 7.o
    EXTRA=-DX=8 gcc -c a.c -o 8.o
    EXTRA= gcc -c a.c -o empty.o
    (unset EXTRA; gcc -c a.c -o unset.o)
    EXTRA=-DX=9 gcc -g -c a.c -o other.o
    ${keep}
  '' { PATH = "${wrapper}/bin:${tools}/bin"; };
  # A compiler that takes its time for some sources.
  slow-compiler = seconds: drv "slow-compiler" ''
    mkdir -p $out/bin
    ${script "'case \"$*\" in *slow*) ${tools}/bin/sleep ${seconds} ;; esac' 'exec ${tools}/bin/gcc \"$@\"'"} > $out/bin/gcc
    chmod +x $out/bin/*
  '' { };
  script = text: ''printf '%s\n' '#!${tools}/bin/bash' ${text} '';
in
rec {
  # Reads what it is given; what it compiles is what `victim` compiles.
  taker = drv "taker" ''
    ${victim}
    gcc -O1 -c victim.c -o victim.o
    gcc ${./descriptors.c} -o descriptors || exit 1
    # Twice: also when somebody has been there.
    for round in 1 2; do ./descriptors $(type -p gcc) -O1 -c victim.c -o victim.o || exit 1; done | tee $out
  '' { };
  victim-of-taker = drv "victim" ''
    ${victim}
    printf '#include <stdio.h>\nint victim(void);\nint main(void) { printf("%%d\\n", victim()); }\n' > main.c
    gcc -O1 -c victim.c -o victim.o; gcc -c main.c; gcc main.o victim.o -o main
    ./main > $out; sha256sum victim.o >> $out
  '' { };

  script-wrapper = drv "script-wrapper" ''
    mkdir -p $out/bin
    ${script "'exec inner \"$@\"'"} > $out/bin/gcc
    ${script "'exec ${tools}/bin/gcc $EXTRA \"$@\"'"} > $out/bin/inner
    chmod +x $out/bin/*
  '' { };
  sourcing-wrapper = drv "sourcing-wrapper" ''
    mkdir -p $out/bin $out/lib
    ${script "'. \"\${0%/*}/../lib/flags\"' 'exec ${tools}/bin/gcc $flags \"$@\"'"} > $out/bin/gcc
    printf '%s\n' 'name=EXTRA' 'flags="''${!name-}"' > $out/lib/flags
    chmod +x $out/bin/*
  '' { };
  program-wrapper = drv "program-wrapper" ''
    mkdir -p $out/bin
    gcc -DCOMPILER='"${tools}/bin/gcc"' ${./wrapper.c} -o $out/bin/gcc
  '' { };
  program-behind-script = drv "program-behind-script" ''
    mkdir -p $out/bin
    gcc -DCOMPILER='"${tools}/bin/gcc"' ${./wrapper.c} -o $out/bin/inner
    ${script "'exec inner \"$@\"'"} > $out/bin/gcc
    chmod +x $out/bin/*
  '' { };
  wrapped-by-script = wrapped script-wrapper "wrapped-by-script";
  wrapped-by-sourcing = wrapped sourcing-wrapper "wrapped-by-sourcing";
  wrapped-by-program = wrapped program-wrapper "wrapped-by-program";
  wrapped-by-both = wrapped program-behind-script "wrapped-by-both";

  hanging = settled "hanging" ''
    for i in 1 2 3 4; do
      printf 'int x%d;\n' $i > slow$i.c
      timeout 1 gcc -c slow$i.c &
    done
    wait
    echo 'the hanging ones are gone'
    printf 'int x;\n' > a.c; gcc -c a.c -o a.o || exit 1
    ls > $out
  '' { PATH = "${slow-compiler "287.5"}/bin:${tools}/bin"; };

  mapped = settled "mapped" ''
    printf '#include "a.h"\nint x = A;\n' > a.c
    gcc ${./mapped.c} -o mapped && ./mapped || exit 1
    for object in first again changed closed last; do objdump -s -j .data $object.o | tail -n 1; done > $out
  '' { };

  # What gcc reads of it is one line; before it was known, all of it would be read.
  sparse = settled "sparse" ''
    echo '#error enough' > a.c
    for i in 1 2 3 4 5 6 7 8 9 10 11 12; do truncate -s 250M $i.h; echo "#include \"$i.h\"" >> a.c; done
    gcc -Wfatal-errors -c a.c 2> $out
    truncate -s 20G 1.h
    gcc -Wfatal-errors -c a.c 2>> $out
    printf 'int x;\n' > b.c; gcc -c b.c && ls *.o >> $out
  '' { };

  # First as many slow ones as can run at once, so that the others all wait at once.
  many = drv "many" ''
    for i in $(seq $(nproc)); do printf 'int x;\n' > slow$i.c; ${slow-compiler "5"}/bin/gcc -c slow$i.c & done
    for i in {0..99}; do printf 'int x%d;\n' $i > $i.c; done
    for i in {1..700}; do { gcc -c $((i % 100)).c || touch failed.o; } & done
    wait
    echo $(($(ls *.o | wc -l) - $(nproc))) > $out
  '' { };

  # The first act of a builder, or all that it does, is a compile.
  first = builtins.listToAttrs (
    map (i: {
      name = "first-${i}";
      value = derivation {
        name = "first-${i}";
        system = "x86_64-linux";
        builder = "${tools}/bin/bash";
        args = [
          "-c"
          "gcc -c ${builtins.toFile "first.c" "int first;"} -o first.o; cat first.o > $out"
        ];
        PATH = "${tools}/bin";
        inherit i;
      };
    }) [ "1" "2" "3" "4" "5" ]
  );
  only = builtins.listToAttrs (
    map (i: {
      name = "only-${i}";
      value = derivation {
        name = "only-${i}";
        system = "x86_64-linux";
        builder = "${tools}/bin/gcc";
        args = [
          "-c"
          "${builtins.toFile "first.c" "int first;"}"
          "-o"
          (builtins.placeholder "out")
        ];
        inherit i;
      };
    }) [ "1" "2" "3" "4" "5" ]
  );

  # Headers that come and go, turn into links, directories and pipes.
  headers = settled "headers" ''
    compile() { local object=$1; shift; "$@" gcc -Iinc1 -Iinc2 -c a.c -o $object 2>> errors; echo "$object $?" >> status; }
    mkdir inc1 inc2 sub
    echo '#define A 1' > inc2/a.h; printf '#include <a.h>\nint x = A;\n' > a.c; compile below.o
    echo '#define A 2' > inc1/a.h; compile before-it.o
    rm inc1/a.h; ln -s ../inc2/b.h inc1/a.h; compile dangling.o
    echo '#define A 4' > inc2/b.h; compile link.o
    ln -sf a.h inc1/a.h; compile loop.o
    rm inc1/a.h; mkdir inc1/a.h; compile directory.o
    rmdir inc1/a.h; mkfifo inc1/a.h; compile pipe.o timeout 1
    rm inc1/a.h; echo '#define A 7' > inc1/a.h; chmod 000 inc1/a.h; compile unreadable.o
    chmod 000 inc1; compile closed.o; chmod 755 inc1
    rm -f inc1/a.h; mv inc2 moved; ln -s moved inc2; compile moved.o
    rm inc2; mv moved inc2; mv inc2/a.h inc2/c.h; compile gone.o; mv inc2/c.h inc2/a.h; compile again.o
    # Faster than a clock's tick, of one length, with one time.
    for i in {100..139}; do
      echo "#define A $i" > inc1/a.h; touch -d @1000000000 inc1/a.h
      compile rewritten-$i.o
      echo "#define A $((i + 100))" > new; touch -d @1000000000 new; mv new inc1/a.h
      compile replaced-$i.o
    done
    rm inc1/a.h
    printf '%%:include <a.h>\nint x = A;\n' > a.c; compile digraph.o
    printf '??=include <a.h>\nint x = A;\n' > a.c; compile trigraph.o
    printf '#inc\\\nlude <a.h>\nint x = A;\n' > a.c; compile spliced.o
    printf '/**/ # /**/ include /**/ <a.h>\nint x = A;\n' > a.c; compile comments.o
    printf '#if __has_include(<a.h>) && __has_include("sub/../inc1/q.h")\nint x = 1;\n#else\nint x = 2;\n#endif\n' > a.c
    compile asked.o; touch inc1/q.h; compile asked-again.o
    echo '#define Q(x) x' > inc2/w.h
    printf '#include <w.h>\n#if __has_include Q((<a.h>))\nint x = 1;\n#endif\n' > a.c; compile computed.o
    printf 'asm(".inc" "bin \\"status\\"");\n' > a.c; compile incbin.o
    printf '#include "a.c"\nint x;\n' > a.c; compile itself.o
    printf '#ifndef A\n#define A 1\n#include __FILE__\n#else\nint x = A;\n#endif\n' > a.c; compile file.o
    printf '#define E(a) a a a a a a a a\n#define F(a) E(E(E(E(a))))\nint x[] = { F(1,) };\n' > a.c; compile expanded.o
    printf '.macro I x\n.inc\\()bin "\\x"\n.endm\nI status\n' > f.S; gcc -c f.S -o assembled.o 2>> errors
    echo '@self' > self; gcc @self -c a.c -o response.o 2> /dev/null; echo $? >> status
    ${keep}
    cat status errors >> $out
  '' { };

  # Files that change while they are read: an object is of one content or the other, and
  # is not taken for the other's later.
  flipped = settled "flipped" ''
    for i in 1 2; do mkdir d$i; echo "#define A $i" > $i.h; cp $i.h d$i/b.h; done
    cp 1.h a.h; cp 1.h c.h; ln -s d1 d
    printf '#include "a.h"\nint a = A;\n#undef A\n#include "d/b.h"\nint b = A;\n#undef A\n#include "c.h"\nint c = A;\n' > a.c
    touch go
    while [ -e go ]; do for i in 1 2; do
      cp $i.h new.h; mv new.h a.h; ln -s d$i new; mv -T new d; cat $i.h > c.h
    done; done &
    for i in {1..40}; do gcc -c a.c -o $i.o 2> /dev/null; done
    rm go; wait
    for i in {1..40}; do
      [ ! -e $i.o ] || objdump -s -j .data $i.o | grep -qx ' 0000 0[12]000000 0[12]000000 0[12]000000 .*' || echo "$i.o is odd" >> $out
    done
    rm -f *.o
    for a in 1 2; do for b in 1 2; do for c in 1 2; do
      cp $a.h a.h; ln -sfT d$b d; cp $c.h c.h; gcc -c a.c -o $a$b$c.o
    done; done; done
    for object in *.o; do echo $object; objdump -s -j .data $object | tail -n 1; done >> $out
  '' { };

  stranger = settled "stranger" ''
    secret=${builtins.unsafeDiscardStringContext secret}
    try() { "$@" >> errors 2>&1; echo "$? $*" >> status; }
    printf "#include \"$secret\"\nint x = A;\n" > a.c; try gcc -c a.c -o included.o
    printf '#if __has_include("%s")\nint x = 1;\n#else\nint x = 2;\n#endif\n' $secret > a.c; try gcc -c a.c -o asked.o
    printf 'int x = A;\n' > a.c; try gcc -include $secret -c a.c -o forced.o
    try gcc -imacros $secret -c a.c -o macros.o
    try gcc -c $secret -o source.o; try gcc -x c -c $secret -o source.o
    ln -s $secret a.h; printf '#include "a.h"\nint x = A;\n' > a.c; try gcc -c a.c -o linked.o
    ln -s /nix/store store; printf "#include \"store/''${secret##*/}\"\nint x = A;\n" > a.c; try gcc -c a.c -o through.o
    printf "#include <''${secret##*/}>\nint x = A;\n" > a.c
    for dir in /nix/store /nix/store/ /proc/self/root/nix/store /nix/store/../store "$PWD/../nix/store" store; do
      try gcc -I$dir -c a.c -o searched.o; try gcc -isystem $dir -c a.c -o searched.o; CPATH=$dir try gcc -c a.c -o searched.o
    done
    printf 'asm(".incbin \"%s\"");\n' $secret > a.c; try gcc -c a.c -o incbin.o
    sed -i 's,/build/cc[A-Za-z0-9]\{6\},/build/ccXXXXXX,g' errors
    objdump -s -j .data asked.o | tail -n 1 > $out; ls *.o >> $out; cat status errors >> $out
  '' { };

  # Compiles while the connections are still there, and after.
  noise = settled "noise" ''
    printf '#include "a.h"\nint x = A;\n' > a.c; echo '#define A 5' > a.h; ln -s loop loop; echo '@response' > response
    gcc ${./noise.c} -o noise || exit 1
    ./noise $(type -p gcc) gcc -c a.c -o a.o || exit 1
    gcc -g -c a.c -o b.o || exit 1
    ${keep}
  '' { };
  # Finds the connections of a build before it as they are.
  after-noise = drv "after-noise" ''
    printf 'int after;\n' > a.c
    gcc -c a.c -o a.o || exit 1
    ${keep}
  '' { before = noise; };

  slow = drv "slow" ''
    echo started; sleep 60; echo > $out
  '' { };
}
