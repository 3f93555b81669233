# Compiler calls of every kind. Each derivation keeps what the calls made and
# said in its output, so that any difference that a shim makes is a difference
# of the output.
{ toolchain, path ? "" }:
let
  tools = builtins.storePath toolchain;
  # Each call is run by `try`: its output, errors and exit status are kept.
  prologue = ''
    set -u
    mkdir -p $out work; cd work
    n=0
    try() {
      n=$((n + 1))
      "$@" > $out/$n.stdout 2> $out/$n.stderr < /dev/null
      echo "$? $*" > $out/$n.status
      # The compiler makes up names for its own temporary files.
      sed -i 's,/build/cc[A-Za-z0-9]\{6\},/build/ccXXXXXX,g' $out/$n.stdout $out/$n.stderr
    }
    keep() { cp -R -- "$@" $out/; }
    cat > hello.h <<'END'
    #ifndef HELLO_H
    #define HELLO_H
    #define GREETING "hello"
    int hello(int);
    #endif
    END
    cat > hello.c <<'END'
    #include <stdio.h>
    #include "hello.h"
    int hello(int n) { return printf("%s %d\n", GREETING, n); }
    END
    cat > main.c <<'END'
    #include "hello.h"
    int main(void) { return hello(1) < 0; }
    END
  '';
  drv =
    name: script: attrs:
    derivation (
      {
        inherit name;
        system = "x86_64-linux";
        builder = "${tools}/bin/bash";
        args = [
          "-c"
          (prologue + script)
        ];
        PATH = path + "${tools}/bin";
      }
      // attrs
    );
  # What nixpkgs' wrapper is like: a script of the compiler's name.
  wrapper = drv "wrapper" ''
    rm -r $out; mkdir -p $out/bin
    for name in gcc g++ cc c++; do
      printf '%s\n' "#!${tools}/bin/bash" '# A wrapper.' "exec ${tools}/bin/$name -DWRAPPED=1 \"\$@\"" > $out/bin/$name
      chmod +x $out/bin/$name
    done
  '' { };
  # How nixpkgs wraps compilers and linkers: bash scripts that source others, read flags from
  # files beside them and from variables whose names they put together, and have the
  # compiler call the linker's own wrapper.
  nixpkgs = drv "cc-wrapper" ''
    rm -r $out; mkdir -p $out/bin $out/nix-support
    cat > $out/nix-support/utils.bash <<'END'
    # gather NAME: what NAME_for_tests has so far, and NAME of each role, into NAME_for_tests
    gather() {
        local salted=''${1}_for_tests role name
        local -x "$salted=''${!salted-}"
        for role in "" _FOR_BUILD; do
            name=$1$role
            if [ -n "$role" ] && [ -z "''${NIX_CC_WRAPPER_TARGET_BUILD_for_tests-}" ]; then continue; fi
            if [ -n "''${!name+set}" ]; then export "$salted=''${!salted-} ''${!name}"; fi
        done
        declare -gx "$salted=''${!salted-}"
    }
    END
    cat > $out/nix-support/add-flags.sh <<'END'
    for name in NIX_CFLAGS_COMPILE NIX_CFLAGS_COMPILE_BEFORE NIX_CFLAGS_LINK NIX_CXXSTDLIB_COMPILE NIX_LDFLAGS NIX_LDFLAGS_BEFORE; do
        gather $name
    done
    NIX_CFLAGS_COMPILE_for_tests="-B$wrapper/bin/ $NIX_CFLAGS_COMPILE_for_tests"
    for file in libc-cflags cc-cflags; do
        if [ -e $wrapper/nix-support/$file ]; then
            NIX_CFLAGS_COMPILE_for_tests="$(< $wrapper/nix-support/$file) $NIX_CFLAGS_COMPILE_for_tests"
        fi
    done
    export NIX_CC_WRAPPER_FLAGS_SET_for_tests=1
    END
    cat > $out/nix-support/add-hardening.sh <<'END'
    hardening=()
    for flag in ''${NIX_HARDENING_ENABLE-}; do
        case $flag in
        fortify) hardening+=(-O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2) ;;
        stackprotector) hardening+=(-fstack-protector-strong --param ssp-buffer-size=4) ;;
        pic) hardening+=(-fPIC) ;;
        esac
    done
    END
    echo "-DIN_NIX_SUPPORT=1" > $out/nix-support/cc-cflags
    for name in gcc:gcc cc:gcc g++:g++ c++:g++; do
        cat > $out/bin/''${name%:*} <<END
    #! ${tools}/bin/bash
    set -eu -o pipefail +o posix
    shopt -s nullglob
    path_before=\$PATH PATH=${tools}/bin wrapper=$out
    source $out/nix-support/utils.bash
    link=1 files=0
    for word in "\$@"; do
        case "\$word" in
        -[cSEM] | -MM) link=0 ;;
        -?*) ;;
        *) files=1 ;;
        esac
    done
    [ \$files = 1 ] || link=0
    if [ -z "\''${NIX_CC_WRAPPER_FLAGS_SET_for_tests-}" ]; then source $out/nix-support/add-flags.sh; fi
    words=("\$@")
    # march/mtune=native would depend on the machine.
    if [ "\''${NIX_ENFORCE_NO_NATIVE-}" = 1 ]; then
        words=()
        for word in "\$@"; do
            if [[ "\$word" = -m*=native ]]; then echo "skipping impure flag \$word" >&2; else words+=("\$word"); fi
        done
    fi
    source $out/nix-support/add-hardening.sh
    before=(\''${hardening+"\''${hardening[@]}"} \$NIX_CFLAGS_COMPILE_BEFORE_for_tests)
    after=(\$NIX_CFLAGS_COMPILE_for_tests)
    if [ \$link = 1 ]; then
        after+=(\$NIX_CFLAGS_LINK_for_tests)
        for word in \$NIX_LDFLAGS_for_tests; do after+=("-Wl,\$word"); done
        export NIX_LINK_TYPE_for_tests=dynamic
    fi
    if [[ -e $out/nix-support/cc-wrapper-hook ]]; then source $out/nix-support/cc-wrapper-hook; fi
    export PATH=\$path_before
    exec ${tools}/bin/''${name#*:} \''${before+"\''${before[@]}"} "\''${words[@]}" \''${after+"\''${after[@]}"}
    END
    done
    cat > $out/bin/ld <<END
    #! ${tools}/bin/bash
    set -eu -o pipefail +o posix
    wrapper=$out
    source $out/nix-support/utils.bash
    if [ -z "\''${NIX_LINK_TYPE_for_tests-}" ]; then gather NIX_LDFLAGS; fi
    rpaths=()
    for word in "\$@"; do
        case "\$word" in
        -L/nix/store/*) rpaths+=(-rpath "\''${word:2}") ;;
        esac
    done
    exec ${tools}/bin/ld "\$@" \''${rpaths+"\''${rpaths[@]}"}
    END
    chmod +x $out/bin/*
  '' { };
  # A build with them, as stdenv makes one.
  with-nixpkgs =
    name:
    drv name
      ''
        export NIX_CFLAGS_COMPILE="-frandom-seed=''${out:11:10} -DFROM_VARIABLE=1"
        export NIX_LDFLAGS="-rpath $out/lib" NIX_HARDENING_ENABLE="fortify stackprotector pic" NIX_ENFORCE_NO_NATIVE=1
        echo 'int from = FROM_VARIABLE + IN_NIX_SUPPORT;' > v.c
        try gcc -c hello.c -o hello.o
        try gcc -O2 -Wall -MMD -c main.c -o main.o
        try cc -c v.c -o v.o
        try gcc hello.o main.o -o program
        try ./program
        try gcc -shared hello.o -o libhello.so
        echo '#include <vector>' > p.cc; echo 'std::vector<int> v(3);' >> p.cc
        try g++ -c p.cc -o p.o
        try ld -r hello.o v.o -o r.o
        try gcc -march=native -c v.c -o native.o
        try gcc -c missing.c -o missing.o
        try gcc -E v.c
        NIX_CFLAGS_COMPILE="$NIX_CFLAGS_COMPILE -DFROM_VARIABLE=2"
        try gcc -w -c v.c -o v2.o
        keep *.o *.d program libhello.so
      ''
      { PATH = "${path}${nixpkgs}/bin:${tools}/bin"; };
in
{
  plain = drv "plain" ''
    try gcc -c hello.c -o hello.o
    try cc -O2 -c main.c -o main.o
    try gcc hello.o main.o -o program
    try ./program
    keep hello.o main.o program
  '' { };
  without-o = drv "without-o" ''
    try gcc -c hello.c
    mkdir sub; try gcc -c sub/../hello.c -I.
    try gcc -c hello.c main.c
    keep hello.o main.o; ls > $out/ls
  '' { };
  cplusplus = drv "cplusplus" ''
    cat > a.cc <<'END'
    #include <vector>
    #include <string>
    #include <iostream>
    template <class T> T twice(T t) { return t + t; }
    int main() { std::vector<std::string> v{twice(std::string("x"))}; for (auto &s : v) std::cout << s << std::endl; }
    END
    try g++ -std=c++17 -O1 -g -c a.cc -o a.o
    try c++ a.o -o a
    try ./a
    keep a.o
  '' { };
  dependency-files = drv "dependency-files" ''
    mkdir inc; echo '#define X 1' > inc/x.h; echo '#include <x.h>' >> hello.h
    try gcc -Iinc -MMD -c hello.c -o hello.o
    try gcc -Iinc -MD -MF other.d -MP -MT target -c hello.c -o 2.o
    try gcc -Iinc -MMD -MQ 'we$ird' -c hello.c -o 3.o
    try gcc -Iinc -M hello.c
    try gcc -Iinc -MM hello.c -o out.d
    try gcc -Iinc -Wp,-MD,wp.d -c hello.c -o 4.o
    try gcc -Iinc -Wp,-MMD,wpm.d,-MP -c hello.c -o 5.o
    keep *.d *.o
  '' { };
  errors-and-warnings = drv "errors-and-warnings" ''
    echo 'int f(void) { return y; }' > error.c
    echo 'int f(void) { int unused; return (char)300; }' > warning.c
    echo '#include "missing.h"' > missing.c
    echo '#error stop' > stop.c
    echo 'int f(void) { retrun 1 }' > syntax.c
    for file in error warning missing stop syntax nothing; do try gcc -Wall -Wextra -c $file.c -o $file.o; done
    try gcc -Wall -Werror -c warning.c -o werror.o
    try gcc -fdiagnostics-color=always -Wall -c warning.c -o colour.o
    try gcc -fdiagnostics-format=json -Wall -c warning.c -o json.o
    try gcc -c hello.c -o no/such/dir/hello.o
    try gcc -c hello.c --no-such-option -o x.o
    try gcc -c hello.c -o
    try gcc
    try gcc -c
    ls > $out/ls
    keep warning.o colour.o json.o
  '' { };
  queries = drv "queries" ''
    try gcc --version
    try gcc -dumpmachine
    try gcc -dumpversion
    try gcc -print-search-dirs
    try gcc -print-prog-name=ld
    try gcc -E -dM -x c /dev/null
    try gcc -v -E -x c /dev/null
    try gcc -Q --help=optimizers
    try gcc '-###' -c hello.c
    try cpp hello.c
  '' { };
  other-outputs = drv "other-outputs" ''
    try gcc -S hello.c -o hello.s
    try gcc -S -fverbose-asm hello.c
    try gcc -E hello.c -o hello.i
    try gcc -c hello.i -o from-i.o
    try gcc -c hello.s -o from-s.o
    printf '.globl f\nf: ret\n' > plain.s; printf '#define NAME g\n.globl NAME\nNAME: ret\n.incbin "data"\n' > with.S; echo data > data
    try gcc -c plain.s -o plain.o
    try gcc -c with.S -o with.o
    try gcc -save-temps -c hello.c -o temps.o
    try gcc -fdump-tree-optimized -O1 -c hello.c -o dump.o
    try gcc -fstack-usage -c hello.c -o usage.o
    try gcc -fopt-info-all=opt.txt -O2 -c hello.c -o opt.o
    try gcc -Wa,-adhln=listing.txt -g -c hello.c -o listing.o
    try gcc -Wa,--MD,as.d -c with.S -o asmd.o
    try gcc --coverage -frandom-seed=1 -c hello.c -o coverage.o
    try gcc -gsplit-dwarf -g -c hello.c -o split.o
    try gcc -fcallgraph-info -c hello.c -o graph.o
    sed -i 's,/build/cc[A-Za-z0-9]\{6\},/build/ccXXXXXX,g' as.d
    ls > $out/ls; keep *
  '' { };
  inputs-of-all-kinds = drv "inputs-of-all-kinds" ''
    try sh -c 'gcc -x c -c - -o stdin.o < hello.c'
    try gcc -xc -c hello.h -o as-c.o
    ln -s hello.c link.c; try gcc -c link.c -o link.o
    cp hello.c 'with space.c'; try gcc -c 'with space.c' -o 'with space.o'
    cp hello.c $'caf\xc3\xa9.c'; try gcc -c $'caf\xc3\xa9.c' -o $'caf\xc3\xa9.o'
    cp hello.c -- -dash.c; try gcc -c ./-dash.c -o dash.o
    echo '-O2 -DFROM_FILE="a b" -c hello.c -o response.o' > args; try gcc @args
    try gcc -c $PWD/hello.c -o absolute.o
    mkdir deep; cd deep; try gcc -c ../hello.c -o up.o; cd ..
    try gcc -include hello.h -c main.c -o include.o
    try gcc -imacros hello.h -c main.c -o imacros.o
    echo 'int x = __COUNTER__ + __LINE__; const char *f = __FILE__, *b = __BASE_FILE__;' > macros.c
    try gcc -c macros.c -o macros.o; try gcc -c $PWD/macros.c -o macros2.o
    : > empty.c; try gcc -c empty.c -o empty.o
    printf 'int no_newline;' > nonl.c; try gcc -c nonl.c -o nonl.o
    printf 'int crlf;\r\n#include "hello.h"\r\n' > crlf.c; try gcc -c crlf.c -o crlf.o
    printf '??=include "hello.h"\n' > tri.c; try gcc -trigraphs -c tri.c -o tri.o
    printf '#include \\\n"hello.h"\n/* #include "no.h" */\n// #include "no.h"\n' > cont.c; try gcc -c cont.c -o cont.o
    keep *.o deep
  '' { };
  search-paths = drv "search-paths" ''
    mkdir a b c c/sys; echo '#define WHICH "a"' > a/which.h; echo '#define WHICH "b"' > b/which.h
    printf '#include_next <which.h>\n#define NEXT 1\n' > c/which.h
    echo '#define S 1' > c/sys/s.h
    cat > s.c <<'END'
    #include <which.h>
    #if __has_include("optional.h")
    #include "optional.h"
    #endif
    #if __has_include(<sys/s.h>)
    #include <sys/s.h>
    #endif
    #ifndef OPTIONAL
    #define OPTIONAL "none"
    #endif
    const char *which = WHICH, *optional = OPTIONAL;
    END
    try gcc -Ia -Ib -c s.c -o ab.o
    try gcc -Ib -Ia -c s.c -o ba.o
    try gcc -Ic -Ia -Ib -c s.c -o cab.o
    try gcc -iquote a -isystem b -c s.c -o quote.o
    try gcc -isystem a -idirafter b -c s.c -o after.o
    try gcc -I a -I- -c s.c -o dash.o
    echo '#define OPTIONAL "there"' > optional.h
    try gcc -Ia -c s.c -o optional.o
    rm optional.h; echo '#define OPTIONAL "in a"' > a/optional.h
    try gcc -Ia -c s.c -o optional-a.o
    rm a/optional.h
    try gcc -Ia -c s.c -o again.o
    echo '#define WHICH "first"' > which.h; try gcc -I. -Ia -c s.c -o earlier.o
    CPATH=a try gcc -c s.c -o cpath.o
    C_INCLUDE_PATH=b try gcc -c s.c -o cinclude.o
    printf '#define H "a/which.h"\n#include H\nconst char *w = WHICH;\n' > computed.c; try gcc -c computed.c -o computed.o
    try gcc -DHEADER='<which.h>' -Ib -c -x c - -o nothing.o
    printf '#include HEADER\nconst char *w = WHICH;\n' > given.c; try gcc -DHEADER='<which.h>' -Ib -c given.c -o given.o
    try gcc -nostdinc -c hello.c -o nostdinc.o
    ln -s a linked; try gcc -Ilinked -c s.c -o linked.o
    mkdir -p x/y; echo '#include "../../which.h"' > x/y/up.h; echo '#include "x/y/up.h"
    const char *w = WHICH;' > up.c; try gcc -c up.c -o up.o
    keep *.o
  '' { };
  header-changes = drv "header-changes" ''
    for i in 1 2 3 1 2 3; do
      echo "#define GREETING \"$i\"
    int hello(int);" > hello.h
      try gcc -c hello.c -o $i.o; cp $i.o $out/$n.o
    done
    for i in 1 2 3; do
      printf 'const char *s = "%s";\n' $i > same.c; touch -d @1000000000 same.c
      try gcc -c same.c -o same.o; cp same.o $out/same-$i.o
    done
  '' { };
  own-output-path = drv "own-output-path" ''
    echo 'const char *prefix = PREFIX; const char *file = __FILE__;' > prefix.c
    try gcc -DPREFIX="\"$out\"" -c prefix.c -o prefix.o
    try gcc -DPREFIX="\"$out/share\"" -O2 -g -c prefix.c -o debug.o
    seed=''${out##*/}; seed=''${seed:0:10}
    try gcc -DPREFIX='""' -frandom-seed=$seed -c prefix.c -o seed.o
    try gcc -DPREFIX='""' -frandom-seed=$seed -g -c prefix.c -o seed-debug.o
    echo "#define PREFIX \"$out\"" > config.h
    try gcc -include config.h -c prefix.c -o config.o
    echo 'int n = sizeof PREFIX; char c = PREFIX[20];' > size.c
    try gcc -include config.h -O2 -c size.c -o size.o
    try gcc -include config.h -O2 -g -gz -c prefix.c -o compressed.o
    try gcc -include config.h -O2 -flto -frandom-seed=1 -c prefix.c -o lto.o
    mkdir -p $out/include; echo '#define FROM_OUT 1' > $out/include/out.h; echo '#include <out.h>
    int from_out = FROM_OUT;' > out.c
    try gcc -I$out/include -g -c out.c -o out.o
    try gcc -g -c $PWD/prefix.c -DPREFIX='""' -o $out/placed.o
    keep *.o
  '' { };
  debug-paths = drv "debug-paths" ''
    try gcc -g -c hello.c -o g.o
    try gcc -g3 -c hello.c -o g3.o
    try gcc -g -fdebug-prefix-map=$PWD=/src -c hello.c -o map.o
    try gcc -g -ffile-prefix-map=$PWD=. -c hello.c -o file-map.o
    mkdir sub; cd sub; try gcc -g -c ../hello.c -o sub.o; cd ..
    mkdir 'dir with space'; cd 'dir with space'; try gcc -g -c ../hello.c -o s.o; cd ..
    SOURCE_DATE_EPOCH=1000000000 try gcc -g -c hello.c -o epoch.o
    echo 'const char *d = __DATE__ __TIME__;' > date.c
    SOURCE_DATE_EPOCH=1000000000 try gcc -c date.c -o date.o
    keep *.o */*.o
  '' { };
  optimisation-and-features = drv "optimisation-and-features" ''
    for flag in -O0 -O1 -O2 -O3 -Os -Ofast -Og -fPIC -fno-plt -march=x86-64-v3 -mavx2 -m32 -std=c89 -std=gnu2x -pedantic -ansi \
        -ffast-math -funroll-loops -fno-builtin -fvisibility=hidden -fstack-protector-strong -D_FORTIFY_SOURCE=2 -pthread -fopenmp \
        -flto -ffat-lto-objects -fprofile-arcs -fprofile-generate -fsanitize=undefined -w -pipe -Wno-all -ftree-vectorize \
        -fdata-sections -ffunction-sections -fno-asynchronous-unwind-tables -Wl,-O1 -s -static -shared -rdynamic; do
      try gcc -frandom-seed=1 $flag -c hello.c -o o$flag.o
    done
    ls > $out/ls; keep *.o
  '' { };
  several-at-once = drv "several-at-once" ''
    i=0; while [ $i -lt 40 ]; do echo "#include <stdlib.h>
    int f$i(void) { return rand() + $i; }" > f$i.c; i=$((i+1)); done
    printf 'all: $(patsubst %%.c,%%.o,$(wildcard f*.c))\n%%.o: %%.c\n\t@gcc -O1 -c $< -o $@\n' > Makefile
    make -j8; ls *.o | wc -l > $out/count; cat $(ls f*.o | sort) | sha256sum > $out/sum
  '' { };
  output-files = drv "output-files" ''
    echo old > hello.o; chmod 600 hello.o; ln hello.o other-name
    try gcc -c hello.c -o hello.o; cat other-name | wc -c > $out/other
    stat -c '%a %h' hello.o > $out/stat
    umask 077; try gcc -c hello.c -o private.o; stat -c %a private.o >> $out/stat
    umask 000; try gcc -c hello.c -o open.o; stat -c %a open.o >> $out/stat; umask 022
    try gcc -c hello.c -o /dev/null
    ln -s target.o link.o; try gcc -c hello.c -o link.o; ls -l link.o | sed 's/.*link.o/link.o/' > $out/link
    ln -s /nowhere/x dangling.o; try gcc -c hello.c -o dangling.o
    echo 'garbage' > keep.o; echo 'int f( {' > bad.c; try gcc -c bad.c -o keep.o; [ -e keep.o ] && echo kept > $out/kept || echo gone > $out/kept
    mkdir ro; chmod 555 ro; try gcc -c hello.c -o ro/x.o
    mkdir dir.o; try gcc -c hello.c -o dir.o
    echo x >> hello.o; try gcc -c hello.c -o hello.o; keep hello.o
    try gcc -c hello.c -o once.o; try gcc -c hello.c -o twice.o; echo changed >> once.o; cmp hello.o twice.o && echo private > $out/private
    [ once.o -nt hello.c ] && echo newer > $out/newer
  '' { };
  environment = drv "environment" ''
    echo '#include <stdio.h>' > e.c; echo 'int é;' >> e.c; echo 'int f(void) { return undefined_name; }' > q.c
    LANG=C try gcc -c q.c -o x.o
    LC_ALL=C.UTF-8 try gcc -c q.c -o x.o
    GCC_COLORS= try gcc -c q.c -o x.o
    COMPILER_PATH=/nowhere try gcc -c hello.c -o compiler-path.o
    TMPDIR=/build/nowhere try gcc -c hello.c -o tmpdir.o
    TERM=xterm try gcc -c q.c -o x.o
    DEPENDENCIES_OUTPUT=deps.txt try gcc -c hello.c -o deps.o
    GCC_EXEC_PREFIX= try gcc -c hello.c -o prefix.o
    SUNPRO_DEPENDENCIES='sun.txt target' try gcc -c hello.c -o sun.o
    PATH=/nowhere try ${tools}/bin/gcc -c hello.c -o nopath.o
    env -i ${tools}/bin/gcc -c hello.c -o empty.o > $out/e.stdout 2> $out/e.stderr; echo $? > $out/e.status
    ls > $out/ls; keep *.o; ls *.txt && keep *.txt
  '' { };
  probes-of-configure = drv "probes-of-configure" ''
    i=0
    for body in 'int main(){return 0;}' '#include <stdint.h>
    int main(){return 0;}' '#include <nope.h>
    int main(){}' 'int main(){ return no_such(); }' 'char a[sizeof(long) == 8 ? 1 : -1]; int main(){return 0;}'; do
      echo "$body" > conftest.c
      try gcc -c conftest.c
      try gcc -o conftest conftest.c
      try ./conftest
      rm -f conftest conftest.o
    done
    rm -f hello.o; ls -A > $out/ls
  '' { };
  precompiled-header = drv "precompiled-header" ''
    try gcc -c hello.h -o hello.h.gch
    try gcc -Winvalid-pch -c hello.c -o hello.o
    keep hello.o
  '' { };
  profile-use = drv "profile-use" ''
    try gcc -fprofile-generate -frandom-seed=1 -c hello.c -o g.o; try gcc -fprofile-generate -frandom-seed=1 -c main.c -o m.o
    try gcc -fprofile-use -fprofile-dir=. -Wno-missing-profile -O2 -c hello.c -o u.o
    keep u.o; ls > $out/ls
  '' { };
  moving-ground = drv "moving-ground" ''
    mkdir gone; cp hello.c hello.h gone; cd gone; rm -r ../gone; try gcc -c hello.c -o x.o; cd ..
    mkdir -p /tmp/elsewhere; cp hello.c hello.h /tmp/elsewhere; try gcc -c /tmp/elsewhere/hello.c -o elsewhere.o
    mkfifo pipe.h; { echo '#define P 1' > pipe.h & }; echo '#include "pipe.h"
    int p = P;' > pipe.c; try gcc -c pipe.c -o pipe.o; wait
    try gcc -c /proc/self/cwd/hello.c -o proc.o
    { echo 'int from_fd;' | try gcc -x c -c /dev/fd/0 -o fd.o; }
    chmod 000 hello.h; try gcc -c hello.c -o unreadable.o; chmod 644 hello.h
    keep *.o
  '' { };
  large-input = drv "large-input" ''
    { echo 'const int table[] = {'; seq -s, 1 60000; echo '};'; } > large.c
    try gcc -c large.c -o large.o; keep large.o
    { i=0; while [ $i -lt 300 ]; do echo "#include \"h$i.h\""; echo "#define H$i" > h$i.h; i=$((i+1)); done; } > many.c
    try gcc -c many.c -o many.o -MMD; keep many.o many.d
    args=; i=0; while [ $i -lt 2000 ]; do args="$args -DMACRO_NUMBER_$i=value_$i"; i=$((i+1)); done
    try gcc $args -c hello.c -o args.o; keep args.o
  '' { };
  by-other-names = drv "by-other-names" ''
    try ${tools}/bin/gcc -c hello.c -o full.o
    ln -s ${tools}/bin/gcc mycc; try ./mycc -c hello.c -o link.o
    (exec -a strange gcc -c hello.c -o argv0.o) > $out/a.stdout 2> $out/a.stderr
    cp -L ${tools}/bin/gcc copied; try ./copied -c hello.c -o copied.o
    try sh -c 'gcc -c hello.c -o shell.o'
    try env gcc -c hello.c -o env.o
    try xargs gcc -c hello.c -o xargs.o
    keep *.o
  '' { };
  nixpkgs-wrapper = with-nixpkgs "nixpkgs-wrapper";
  nixpkgs-wrapper-again = with-nixpkgs "nixpkgs-wrapper-again";
  wrapper-script = drv "wrapper-script" ''
    echo 'int wrapped = WRAPPED;' > w.c
    try gcc -c w.c -o w.o
    try ${wrapper}/bin/cc -O2 -c w.c -o w2.o
    try g++ -x c++ -c w.c -o w3.o
    keep *.o
  '' { PATH = "${path}${wrapper}/bin:${tools}/bin"; };
  reads-the-compiler = drv "reads-the-compiler" ''
    for name in gcc cc g++ c++ cpp; do
      sha256sum < ${tools}/bin/$name > $out/$name.sum
      cat ${tools}/bin/$name > $out/$name.copy
      cp -L ${tools}/bin/$name $out/$name.cp
      head -c 100 ${tools}/bin/$name > $out/$name.head
    done
    try gcc -c hello.c -o hello.o; keep hello.o
  '' { };
  looks-at-the-compiler = drv "looks-at-the-compiler" ''
    for name in gcc cc g++ c++ cpp; do
      stat -c '%n %s %a %F %Y' ${tools}/bin/$name > $out/$name.stat
      stat -L -c '%n %s %a %F %Y' ${tools}/bin/$name >> $out/$name.stat
      readlink ${tools}/bin/$name >> $out/$name.stat
      test -r ${tools}/bin/$name && echo readable >> $out/$name.stat
      test -x ${tools}/bin/$name && echo executable >> $out/$name.stat
    done
    ls -l ${tools}/bin | sed 's/^\(.\{10\}\) *[0-9]* *[^ ]* *[^ ]*/\1/' > $out/ls
    tar -c -C ${tools} --mtime=@1 --owner=0 --group=0 --sort=name bin | sha256sum > $out/tar
    try gcc -c hello.c -o hello.o; keep hello.o
  '' { };
  names-the-compiler = drv "names-the-compiler" ''
    command -v gcc > $out/which; realpath $(command -v gcc) >> $out/which
    try gcc -v -c hello.c -o v.o
    keep v.o
  '' { };
}
