# Ways in which a memo of compiler calls can be wrong: the words are those of play.sh.
# Each class makes calls, changes one thing, and makes them again; what a memo gives
# must be what the compiler gives.
#
# class NAME EXPECTED: what becomes of the calls when the class is played a second time.
# Fewer calls in place than that are no failure, more are.
#   hit                every call is answered from memory
#   in-place:REASON    calls run in place, for that reason
#   hit,in-place:…     both
#   nothing            nobody is asked
#   …/…                in a derivation, and on the machine

# --- headers

class header-changes hit <<'END'
put h.h '#define N 1'; put t.c '#include "h.h"' 'int n = N;'
call gcc -c t.c
put h.h '#define N 22'; again; again
put h.h '#define N 1'; again
END
class header-appears-earlier hit <<'END'
mkdir a b; put b/h.h '#define N 1'; put t.c '#include <h.h>' 'int n = N;'
call gcc -Ia -Ib -c t.c
put a/h.h '#define N 2'; again; again
END
class header-vanishes-for-a-later-one hit <<'END'
mkdir a b; put a/h.h '#define N 1'; put b/h.h '#define N 2'; put t.c '#include <h.h>' 'int n = N;'
call gcc -Ia -Ib -c t.c
rm a/h.h; again; again
END
class header-vanishes hit <<'END'
put h.h '#define N 1'; put t.c '#include "h.h"' 'int n = N;'
call gcc -c t.c -o 1.o
rm h.h; call gcc -c t.c -o 2.o; again
END
class header-beside-the-includer-appears hit <<'END'
mkdir -p a/x b; put b/h.h '#define N 1'; put a/x/x.h '#include "h.h"'; put t.c '#include "x/x.h"' 'int n = N;'
call gcc -Ia -Ib -c t.c
put a/x/h.h '#define N 2'; again; again
END
class header-in-quote-directory-appears hit <<'END'
mkdir q b; put b/h.h '#define N 1'; put t.c '#include "h.h"' 'int n = N;'
call gcc -iquote q -Ib -c t.c
put q/h.h '#define N 2'; again; again
rm q/h.h; put h.h '#define N 3'; again
END
class header-in-system-directory-appears hit <<'END'
mkdir s after; put after/h.h '#define N 1'; put t.c '#include <h.h>' 'int n = N;'
call gcc -isystem s -idirafter after -c t.c
put s/h.h '#define N 2'; again; again
END
class header-after-all-others-is-shadowed hit <<'END'
mkdir after i; put after/limits.h '#define CHAR_BIT 100'; put t.c '#include <limits.h>' 'int n = CHAR_BIT;'
call gcc -idirafter after -Ii -c t.c
put i/limits.h '#define CHAR_BIT 200'; again; again
END
class system-header-is-shadowed hit <<'END'
mkdir i; put t.c '#include <stdint.h>' '#ifndef N' '#define N sizeof(uint64_t)' '#endif' 'int n = N;'
call gcc -Ii -c t.c
put i/stdint.h '#define N 99'; again; again
END
class header-that-nobody-includes hit,in-place:failed-with-older-output <<'END'
mkdir i; put t.c '#ifndef N' '#define N __STDC_IEC_559__' '#endif' 'int n = N;'
call gcc -Ii -MD -c t.c
put i/stdc-predef.h '#define N 2'; again; again; call gcc -Ii -E t.c; call gcc -nostdinc -Ii -c t.c; rm i/stdc-predef.h; call gcc -Ii -E t.c; again
END
class header-directory-appears hit <<'END'
mkdir b; put b/h.h '#define N 1'; put t.c '#include <h.h>' 'int n = N;'
call gcc -Ia -Ib -c t.c
mkdir a; put a/h.h '#define N 2'; again; again
END
class header-directory-is-retargeted hit <<'END'
mkdir 1 2; put 1/h.h '#define N 1'; put 2/h.h '#define N 2'; ln -s 1 now; put t.c '#include <h.h>' 'int n = N;'
call gcc -Inow -c t.c
ln -sfn 2 now; again; again
END
class header-link-is-retargeted hit <<'END'
put 1.h '#define N 1'; put 2.h '#define N 2'; ln -s 1.h h.h; put t.c '#include "h.h"' 'int n = N;'
call gcc -MD -c t.c
ln -sfn 2.h h.h; again; again
END
class header-is-in-the-store-as-well hit <<'END'
mkdir a b c; cp "$table" a/classes.sh; ln -s "$table" b/classes.sh; put t.c '#if __has_include("a/classes.sh")' 'int a;' '#endif' '#if __has_include("b/classes.sh")' 'int b;' '#endif'
call gcc -c t.c; again
rm b/classes.sh; again; ln -s "$table" c/classes.sh; ln -s ../c/classes.sh b/classes.sh; again; again
END
class header-link-dangles hit <<'END'
mkdir a b; put b/h.h '#define N 1'; ln -s target.h a/h.h; put t.c '#include <h.h>' 'int n = N;'
call gcc -Ia -Ib -c t.c
put a/target.h '#define N 2'; again; again
END
class header-name-is-a-directory hit <<'END'
mkdir -p a/h.h b; put b/h.h '#define N 1'; put t.c '#include <h.h>' 'int n = N;'
call gcc -Ia -Ib -c t.c
rmdir a/h.h; put a/h.h '#define N 2'; again; again
END
class header-through-a-missing-directory hit <<'END'
put h.h '#define N 1'; put t.c '#include "sub/../h.h"' 'int n = N;'
call gcc -c t.c -o 1.o
mkdir sub; again; again
END
class header-not-included-by-the-branch hit <<'END'
put t.c '#ifdef WITH' '#include "with.h"' '#endif' '#if 0' '#include "never.h"' '#endif' 'int n' '#ifdef N' '= N' '#endif' ';'
call gcc -DWITH -c t.c -o 1.o
put with.h '#define N 1'; again; put never.h '#define N 2'; again
call gcc -c t.c -o 2.o
END
class has-include hit <<'END'
mkdir i; put t.c '#if __has_include("o.h") || __has_include(<p/o.h>)' 'int n = 1;' '#else' 'int n = 2;' '#endif'
call gcc -Ii -c t.c
put o.h ''; again; rm o.h; again
mkdir i/p; again; put i/p/o.h ''; again; again
END
class has-include-by-macros hit <<'END'
put t.c '#ifdef __has_include' '#define HAS(x) __has_include(x)' '#endif' '#define H <sub/o.h>' '#if HAS(H)' 'int n = 1;' '#else' 'int n = 2;' '#endif'
call gcc -I. -c t.c
mkdir sub; put sub/o.h ''; again; again
END
class has-include-on-the-command-line hit <<'END'
put t.c '#if HAS' 'int n = 1;' '#else' 'int n = 2;' '#endif'
call gcc '-DHAS=__has_include("o.h")' -c t.c
put o.h ''; again; again
END
class has-include-next hit <<'END'
mkdir a b; put t.c '#include <h.h>'; put a/h.h '#if __has_include_next(<h.h>)' '#include_next <h.h>' '#else' 'int n = 1;' '#endif'
call gcc -Ia -Ib -c t.c
put b/h.h 'int n = 2;'; again; again
END
class include-next hit <<'END'
mkdir a b c; put t.c '#include <h.h>' 'int n = N;'; put a/h.h '#include_next <h.h>'; put c/h.h '#define N 1'
call gcc -Ia -Ib -Ic -c t.c
put b/h.h '#define N 2'; again; again
END
class computed-include hit <<'END'
mkdir sub; put t.c '#define H "sub/h.h"' '#include H' 'int n = N;'; put sub/h.h '#define N 1'
call gcc -c t.c
put sub/h.h '#define N 2'; again; again
END
class computed-include-function-like hit <<'END'
put t.c '#define S(x) #x' '#define H(x) S(x.h)' '#define P(a, b) a##b' '#include H(one)' '#define Q P(H, H)(x)' '#define HH(x) <two.h>' '#include Q' 'int n = ONE + TWO;'
put one.h '#define ONE 1'; put two.h '#define TWO 1'
call gcc -I. -c t.c
put one.h '#define ONE 2'; again; put two.h '#define TWO 2'; again; again
END
class computed-include-by-definition hit <<'END'
put t.c '#include CONFIG' 'int n = N;'; put c.h '#define N 1'
call gcc '-DCONFIG="c.h"' -c t.c
put c.h '#define N 2'; again; again
END
class forced-include hit <<'END'
mkdir a; put a/f.h '#define N 1'; put t.c 'int n = N;'
call gcc -Ia -include f.h -c t.c
put a/f.h '#define N 2'; again
put f.h '#define N 3'; again; again
END
class forced-macros hit <<'END'
put f.h 'int not_this;' '#define N 1'; put t.c 'int n = N;'
call gcc -imacros f.h -c t.c
put f.h 'int not_this;' '#define N 2'; again; again
END
class search-path-by-variables hit/in-place:vanished-directory <<'END'
mkdir a b c; put a/h.h '#define N 1'; put b/h.h '#define N 2'; put t.c '#include <h.h>' 'int n = N;'
export CPATH=b; call gcc -c t.c
CPATH=a:b; again; again
rm a/h.h; again; unset CPATH; export C_INCLUDE_PATH=c:b; again; put c/h.h '#define N 3'; again
END
class search-path-prefixes hit,in-place:failed-with-older-output <<'END'
mkdir -p p/inc root/usr/include; put p/inc/h.h '#define N 1'; put root/usr/include/s.h '#define S 1'; put t.c '#include <h.h>' 'int n = N;'
call gcc -iprefix p/ -iwithprefix inc -c t.c
put p/inc/h.h '#define N 2'; again; again
call gcc -isysroot root -I=/usr/include -iprefix p/ -iwithprefixbefore inc -include s.h -c t.c
put root/usr/include/s.h '#error S'; again
END
class working-directory-is-searched hit <<'END'
mkdir 1 2; put 1/h.h '#define N 1'; put 2/h.h '#define N 2'; put t.c '#include <h.h>' 'int n = N;'
cd 1; call gcc -I. -c ../t.c -o ../t.o
cd ../2; again; again
END
class once-only-headers hit <<'END'
mkdir a b; for d in a b; do put $d/h.h '#pragma once' '#ifdef N' 'int twice;' '#endif' '#define N 1'; touch -d @1000000000 $d/h.h; done
put t.c '#include "a/h.h"' '#include "b/h.h"' 'int n = N;'
call gcc -c t.c
touch -d @1100000000 b/h.h; again; again
put c.c '#import "a/h.h"' '#import "b/h.h"'; call gcc -Wno-deprecated -c c.c; touch -d @1000000000 b/h.h; again
END
class dependency-pragma in-place:modification-time <<'END'
put g.y 'a'; put t.c '#pragma GCC dependency "g.y"' 'int n;'; touch -d @1000000000 g.y; touch -d @1100000000 t.c
call gcc -c t.c
touch -d @1200000000 g.y; again; again
END
class excerpts-of-other-files hit <<'END'
put g.y 'first line' 'second line'; put t.c '#line 1 "g.y"' 'int f(void) { int unused; }'
call gcc -Wall -c t.c
put g.y 'other first line' 'other second line'; again; again
rm g.y; again
END
class same-size-and-time hit <<'END'
put t.c '#include "h.h"' 'int n = N;'
for n in 1 2 3 3; do put h.h "#define N $n"; touch -d @1000000000 h.h t.c; call gcc -c t.c; done
put t.c '#include "h.h"' 'int m = N;'; touch -d @1000000000 t.c; again
END
class changes-faster-than-the-clock hit <<'END'
put t.c 'int n = 0;'; call gcc -c t.c
for n in 1 2 3 4 5 6 7 8 1 2 3 4 5 6 7 8 8; do printf 'int n = %d;\n' $n > t.c; call gcc -c t.c; done
END
class headers-appear-faster-than-the-clock hit <<'END'
mkdir a b; put b/h.h '#define N 0'; put t.c '#include <h.h>' 'int n = N;'; call gcc -Ia -Ib -c t.c
for n in 1 2 3 4 5 6; do printf '#define N %d\n' $n > a/h.h; call gcc -Ia -Ib -c t.c; rm a/h.h; call gcc -Ia -Ib -c t.c; done
END
class header-written-through-a-mapping hit <<'END'
put h.h '#define N 1'; put t.c '#include "h.h"' 'int n = N;'
put w.c '#include <sys/mman.h>' '#include <fcntl.h>' '#include <unistd.h>' 'int main(void) {' 'int f = open("h.h", O_RDWR); char *p = mmap(0, 11, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0), c; close(f);' \
    'while (read(0, &c, 1) == 1) { p[10] = c; if (write(1, "", 1) != 1) return 1; }' 'return 0; }'
alter gcc w.c -o w; call gcc -c t.c
coproc ./w
for n in 2 3 4 4 2; do printf $n >&"${COPROC[1]}"; IFS= read -r -d '' _ <&"${COPROC[0]}"; call gcc -c t.c; done
END
class directories-are-exchanged hit <<'END'
mkdir -p a/s b/s; put a/s/h.h '#define N 1'; put b/s/h.h '#define N 2'; put t.c '#include <s/h.h>' 'int n = N;'; touch -d @1000000000 a/s/h.h b/s/h.h a/s b/s a b
call gcc -Ia -c t.c
for _ in 1 2; do mv a c; mv b a; mv c b; again; done; again
END
class directory-is-mounted-over hit <<'END'
mkdir a b; put a/h.h '#define N 1'; put b/h.h '#define N 2'; put t.c '#include <h.h>' 'int n = N;'
mount --bind b a 2> /dev/null && umount a || without "no file system can be mounted here"
trap 'umount "$top/a" 2> /dev/null' EXIT
# What has looked into it may be holding it for a moment.
leave() { for _ in 1 2 3 4 5 6 7 8 9 10; do umount a && return; sleep 0.5; done 2> /dev/null; return 1; }
call gcc -Ia -c t.c; mount --bind b a; again; again; alter leave; again
END
class unreadable-headers hit,in-place:unreadable-directory,in-place:unreadable-input <<'END'
mkdir a b; put a/h.h '#define N 1'; put b/h.h '#define N 2'; put t.c '#include <h.h>' 'int n = N;'
call gcc -Ia -Ib -c t.c; chmod 000 a/h.h; again; chmod 644 a/h.h; chmod 000 a; again; chmod 755 a; again
END
class the-same-call-at-once hit <<'END'
put h.h '#define N 1'; put t.c '#include "h.h"' 'int n = N;'; mkdir 1 2 3 4 5 6
at_once() { for d in 1 2 3 4 5 6; do gcc -MD -c t.c -o $d/t.o & done; gcc -c t.c -o t.o & gcc -c t.c -o t.o & wait; }
call at_once; put h.h '#define N 2'; again; again
END
class source-link-is-retargeted hit <<'END'
mkdir x y; put x/t.c '#include "h.h"' 'int n = N;'; put y/t.c '#include "h.h"' 'int m = N;'; put x/h.h '#define N 1'; put y/h.h '#define N 2'; put h.h '#define N 3'
ln -s x/t.c t.c; call gcc -g -c t.c
ln -sfn y/t.c t.c; again; again
END
class directory-is-a-link hit <<'END'
mkdir -p real; put real/t.c 'const char *f = __FILE__;'; ln -s real linked
cd linked; call gcc -g -c t.c
cd ../real; again; cd "$top/linked"; again; PWD=/nowhere call gcc -g -c t.c
END
class spellings-of-a-directive hit <<'END'
printf '#inc\\\nlude /* c */ "h.h"\r\n%%:include <k.h>\nint n = N + K;\n' > t.c; put h.h '#define N 1'; put k.h '#define K 1'
call gcc -I. -c t.c
put h.h '#define N 2'; again; put k.h '#define K 2'; again; again
END
class names-with-strange-characters hit <<'END'
mkdir 'a b'; put 'a b/h $x#.h' '#define N 1'; put 'a b/t (1).c' '#include "h $x#.h"' 'int n = N;'
call gcc -MMD -MP -c 'a b/t (1).c' -o 'a b/o;.o'
put 'a b/h $x#.h' '#define N 2'; again; again
END

# --- what the assembler reads

class incbin-in-c hit,in-place:failed-with-older-output <<'END'
put d.bin one; put t.c '__asm__(".globl d\nd: .incbin \"d.bin\"");'
call gcc -c t.c
put d.bin two; again; again; rm d.bin; again
END
class incbin-in-c-by-pieces hit,in-place:failed-with-older-output <<'END'
put d.bin one; put t.c '#define I ".inc" "bin" " \"" "d" ".bin\""' '__asm__(".globl d\nd: " I);'
call gcc -c t.c
put d.bin two; again; again
END
class incbin-in-a-function hit <<'END'
put d.bin one; put t.cc 'void f() { asm volatile(R"(.pushsection .data
.incbin "d.bin"
.popsection)"); }'
call g++ -c t.cc
put d.bin two; again; again
END
class incbin-is-shadowed hit <<'END'
mkdir a b; put b/d.bin one; put t.c '__asm__(".incbin \"d.bin\"");'
call gcc -Wa,-Ia -Wa,-Ib -c t.c
put a/d.bin two; again; again
END
class incbin-in-assembly hit <<'END'
put d.bin one; put t.s 'd: .incbin "d.bin"'; put u.S '#define FILE "d.bin"' 'd: .incbin FILE'
call gcc -c t.s; call gcc -c u.S
put d.bin two; call gcc -c t.s; call gcc -c u.S; again
END
class incbin-in-assembly-by-macros hit <<'END'
put d.bin one; put t.S '#define P(a, b) a##b' '#define D .P(inc, bin)' 'd: D "d.bin"'; put u.s '.macro get x, y' '.inc\x \y' '.endm' 'd: get bin "d.bin"'
call gcc -c t.S; call gcc -c u.s
put d.bin two; call gcc -c t.S; call gcc -c u.s; again
END
class include-in-assembly hit <<'END'
mkdir i; put x.inc '.byte 1'; put i/y.inc '.byte 3'; put t.s '.include "x.inc"' '.include "y.inc"'; put u.S '.include "x.inc"'
call gcc -Wa,-Ii -c t.s; call gcc -c u.S; call gcc -Ii -c t.s
put x.inc '.byte 2'; call gcc -Wa,-Ii -c t.s; call gcc -c u.S
put y.inc '.byte 4'; call gcc -Wa,-Ii -c t.s; again
END
class include-of-assembly-in-c hit <<'END'
put x.inc '.byte 1'; put t.c '__asm__(".include \"x.inc\"");'
call gcc -c t.c
put x.inc '.byte 2'; again; again
END
class embed hit <<'END'
put d.bin one; put t.c 'const char d[] = {' '#embed "d.bin"' '};'
gcc -c t.c 2> /dev/null || without "no #embed in this compiler"
call gcc -c t.c
put d.bin two; again; again
END
class assembler-reads-options hit <<'END'
put f --defsym=N=1; put t.s '.byte N'
call gcc -Wa,@f -c t.s -o t.o
put f --defsym=N=2; again; again
END

# --- files that options name

class response-file hit <<'END'
put t.c 'int n = N;'; put f '-DN=1 -O1' '-c "t.c"'
call gcc @f
put f '-DN=2 -O1' '-c "t.c"'; again; again
END
class response-file-in-a-response-file hit <<'END'
put t.c 'int n = N;'; put f @g; put g -DN=1
call gcc @f -c t.c
put g -DN=2; again; again
END
class response-file-that-is-none hit,in-place:response-file <<'END'
put t.c 'int n;'; put other.c 'int m;'
call gcc -c t.c @f
put f other.c; again; again
END
class specs hit <<'END'
put s '*cpp:' '+ -DN=1' ''; put t.c 'int n = N;'
call gcc -specs=s -c t.c
put s '*cpp:' '+ -DN=2' ''; again; again
END
class tools-directory hit <<'END'
mkdir b; put t.c 'int n = 1;'; as=$(real as)
call gcc -B b -c t.c
put b/as "#!$BASH" "exec $as --defsym EXTRA=1 \"\$@\""; chmod +x b/as; again; again
END
class compiler-proper-of-a-tools-directory hit,in-place:not-a-compile <<'END'
mkdir b; put t.c '#ifdef N' 'int n;' '#endif' 'int m;'; cc1=$(gcc -print-prog-name=cc1)
call gcc -B b -c t.c
for n in 1 2; do put b/cc1 "#!$BASH" "exec $cc1 \"\$@\" -DN=$n -Dm=m$n"; touch -d @1000000000 b/cc1; chmod +x b/cc1; again; done; again
END
class tools-by-variable hit <<'END'
mkdir b; put t.c 'int n = 1;'; as=$(real as)
export COMPILER_PATH=$PWD/b; call gcc -c t.c
put b/as "#!$BASH" "exec $as --defsym EXTRA=1 \"\$@\""; chmod +x b/as; again; again
COMPILER_PATH=b again
END
class tools-by-path hit/hit,in-place:failed-with-older-output <<'END'
mkdir b; put t.c 'int n = 1;'; as=$(real as)
call gcc -c t.c
put b/as "#!$BASH" "exec $as --defsym EXTRA=1 \"\$@\""; chmod +x b/as; PATH=$PWD/b:$PATH; again; again
END
class command-wrapper in-place:wrapper <<'END'
put w.sh "#!$BASH" 'exec "$@"'; chmod +x w.sh; put t.c '#ifdef N' 'int n;' '#endif' 'int m;'
call gcc -wrapper ./w.sh -c t.c
put w.sh "#!$BASH" 'exec "$@" ${1:+-DN}'; again; again
END
class compiler-is-a-changing-script hit/nothing <<'END'
mkdir bin; gcc=$(real gcc); put t.c 'int n = N;'
for n in 1 2 1; do put bin/gcc "#!$BASH" "exec $gcc -DN=$n \"\$@\""; touch -d @1000000000 bin/gcc; chmod +x bin/gcc; call bin/gcc -c t.c; done; again
END
class plugin hit,in-place:not-a-compile <<'END'
headers=$(gcc -print-file-name=plugin)/include; [ -e "$headers/gcc-plugin.h" ] || without "no headers for plugins of this compiler"
plugin() {
    put p.cc '#include "gcc-plugin.h"' '#include "plugin-version.h"' '#include <stdio.h>' 'int plugin_is_GPL_compatible;' \
        "int plugin_init(plugin_name_args *, plugin_gcc_version *) { fprintf(stderr, \"plugin $1\\n\"); return 0; }"
    alter g++ -shared -fPIC -fno-rtti -I"$headers" p.cc -o p.so
}
put t.c 'int n;'; plugin 1
call gcc -fplugin=./p.so -c t.c
plugin 2; again; again
END
class clang-configuration hit <<'END'
command -v clang > /dev/null || without "no clang"
put c.cfg -DN=1; put t.c 'int n = N;'
call clang --config ./c.cfg -c t.c
put c.cfg -DN=2; again; again
END
class clang-ignore-list hit <<'END'
command -v clang > /dev/null || without "no clang"
put l 'fun:other'; put t.c 'int f(int a) { return a + 1; }'
call clang -fsanitize=signed-integer-overflow -fsanitize-ignorelist=l -c t.c
put l 'fun:f'; again; again
END
class clang-profile-list hit <<'END'
command -v clang > /dev/null || without "no clang"
put l 'fun:f' 'default:skip'; put t.c 'int f(int a) { return a + 1; }' 'int g(int a) { return a + 2; }'
call clang -fprofile-instr-generate -fprofile-list=l -c t.c
put l 'fun:g' 'default:skip'; again; again
END
class clang-header-changes hit,in-place:failed-with-older-output <<'END'
command -v clang > /dev/null || without "no clang"
mkdir a b; put b/h.h '#define N 1'; put t.c '#include <h.h>' 'int n = N, unused(void) { int x; }'
call clang -Wall -Ia -Ib -MD -c t.c
put b/h.h '#define N 2'; again; put a/h.h '#define N 3'; again; again
END
class clang-precompiled-header in-place:precompiled-header <<'END'
command -v clang > /dev/null || without "no clang"
put h.h '#define N 1'; put t.c 'int n = N;'; touch -d @1000000000 h.h
alter clang -x c-header h.h -o h.h.pch
call clang -include-pch h.h.pch -c t.c
put h.h '#define N 2'; touch -d @1000000000 h.h; alter clang -x c-header h.h -o h.h.pch; again; again
END
class profile hit <<'END'
put t.c 'int f(int n) { int i, s = 0; for (i = 0; i < n; i++) s += i % 3 ? i : -i; return s; }' '#ifdef MAIN' 'int main(int c, char **v) { return f(c * c * c * 1000) & 1; }' '#endif'
record() { rm -f ./*.gcda; gcc -O1 -DMAIN -frandom-seed=1 -fprofile-generate -fprofile-update=single t.c -o p && { ./p "$@" || :; } && mv ./*.gcda data && rm p; }
alter record
call gcc -O2 -DMAIN -frandom-seed=1 -fprofile-use=data -Wno-missing-profile -Wno-coverage-mismatch -c t.c -o t.o
alter record 1 2 3 4; again; again
END
class profile-directory hit <<'END'
put t.c 'int f(int n) { int i, s = 0; for (i = 0; i < n; i++) s += i % 3 ? i : -i; return s; }' 'int main(int c, char **v) { return f(c * c * c * 1000) & 1; }'
record() { rm -f ./*.gcda; gcc -O2 -frandom-seed=1 -fprofile-generate -c t.c && gcc -fprofile-generate t.o -o p && { ./p "$@" || :; } && rm p; }
call gcc -O2 -frandom-seed=1 -fprofile-use -c t.c
alter record; call gcc -O2 -frandom-seed=1 -fprofile-use -c t.c; alter record 1 2 3 4; again; again
END
class precompiled-header hit,in-place:time-macro <<'END'
unstable '*.gch'
put h.h '#define N 1'; put t.c '#include "h.h"' 'int n = N;'
call gcc -c h.h -o h.h.gch
call gcc -Winvalid-pch -c t.c
put h.h '#define N 2'; call gcc -c h.h -o h.h.gch; call gcc -Winvalid-pch -c t.c; again
rm h.h.gch; again
END
class precompiled-header-only hit,in-place:time-macro <<'END'
unstable '*.gch'
put h.h '#define N 1'; put t.c 'int n = N;'
alter gcc -c h.h -o h.h.gch; call gcc -include h.h -c t.c
put h.h '#define N 2'; alter gcc -c h.h -o h.h.gch; put h.h '#define N 1'; again; again
rm h.h; again
END
class precompiled-header-appears hit,in-place:time-macro <<'END'
unstable '*.gch/any'
mkdir i; put i/h.h '#define N 1'; put t.c '#include <h.h>' 'int n = N;'
call gcc -Ii -c t.c
put h.h '#define N 2'; mkdir i/h.h.gch; alter gcc -c h.h -o i/h.h.gch/any; again; again
END
class modules in-place:modules <<'END'
export SOURCE_DATE_EPOCH=1000000000
put m.cc 'export module m;' 'export int f() { return 1; }'; put t.cc 'import m;' 'int g() { return f(); }'
call g++ -std=c++20 -fmodules-ts -O1 -c m.cc; call g++ -std=c++20 -fmodules-ts -O1 -c t.cc
put m.cc 'export module m;' 'export inline long f() { return 2; }'
call g++ -std=c++20 -fmodules-ts -O1 -c m.cc; call g++ -std=c++20 -fmodules-ts -O1 -c t.cc; again
END
class module-vanishes in-place:modules <<'END'
export SOURCE_DATE_EPOCH=1000000000
put m.cc 'export module m;' 'export int f() { return 1; }'; put t.cc 'import m;' 'int g() { return f(); }'
alter g++ -std=c++20 -fmodules-ts -c m.cc; call g++ -std=c++20 -fmodules-ts -c t.cc -o 1.o
rm -r gcm.cache; call g++ -std=c++20 -fmodules-ts -c t.cc -o 2.o; again
END
class header-units in-place:modules <<'END'
export SOURCE_DATE_EPOCH=1000000000
put h.h 'inline int f() { return 1; }'; put t.cc 'import "h.h";' 'int g() { return f(); }'
call g++ -std=c++20 -fmodules-ts -fmodule-header h.h; call g++ -std=c++20 -fmodules-ts -O1 -c t.cc
put h.h 'inline int f() { return 2; }'; call g++ -std=c++20 -fmodules-ts -fmodule-header h.h; call g++ -std=c++20 -fmodules-ts -O1 -c t.cc; again
END
class module-mapper in-place:modules <<'END'
export SOURCE_DATE_EPOCH=1000000000
for n in 1 2; do put m.cc 'export module m;' "export inline int f() { return $n; }"; put map "m $n.gcm"; alter g++ -std=c++20 -fmodules-ts -fmodule-mapper=map -c m.cc; done
put t.cc 'import m;' 'int g() { return f(); }'; call g++ -std=c++20 -fmodules-ts -O1 -fmodule-mapper=map -c t.cc
put map 'm 1.gcm'; again; again
END
class module-mapper-by-variable in-place:environment,in-place:modules <<'END'
export SOURCE_DATE_EPOCH=1000000000
for n in 1 2; do put m.cc 'export module m;' "export inline int f() { return $n; }"; put map "m $n.gcm"; alter g++ -std=c++20 -fmodules-ts -fmodule-mapper=map -c m.cc; done
put map1 'm 1.gcm'; put map2 'm 2.gcm'; put t.cc 'import m;' 'int g() { return f(); }'
for n in 1 2 2; do CXX_MODULE_MAPPER=map$n call g++ -std=c++20 -fmodules-ts -O1 -c t.cc; done
END

# --- what is written besides the object

class dependency-files hit,in-place:equal-inputs <<'END'
mkdir i s; put i/h.h '#define N 1'; put s/s.h ''; put t.c '#include <h.h>' '#include <s.h>' 'int n = N;'
for step in 1 2 2; do
    [ $step = 1 ] || put i/h.h '#define N 2' '#include "k.h"' && put i/k.h ''
    touch -d @1000000000 s/s.h; touch -d @1100000000 i/k.h
    call gcc -Ii -isystem s -MD -c t.c
    call gcc -Ii -isystem s -MMD -c t.c -o a.o
    call gcc -Ii -isystem s -MD -MF f.d -MP -c t.c -o b.o
    call gcc -Ii -isystem s -MD -MT 'one two' -MQ 'thr$ee' -c t.c -o c.o
    call gcc -Ii -isystem s -Wp,-MD,wp.d -c t.c -o d.o
    call gcc -Ii -isystem s -Wp,-MMD,wpm.d,-MT,target -c t.c -o e.o
    call gcc -Ii -isystem s -M -MG t.c
    call gcc -Ii -isystem s -MM -MF mm.d t.c
done
END
class dependencies-of-several-sources hit <<'END'
mkdir i j; put a.c '#include "h.h"' '#include <k.h>'; put b.c '#if __has_include("o.h")' '#include "o.h"' '#endif'; put h.h '#define N 1'; put j/k.h ''
call gcc -Ii -Ij -MM a.c b.c; call gcc -Ii -Ij -M -MP -MT x a.c b.c; call gcc -Ii -Ij -E a.c b.c; call gcc -Ii -Ij -E a.c -o a.i
put i/k.h '#include <stddef.h>'; again; call gcc -Ii -Ij -MM a.c b.c; put o.h 'int o = N;'; again; call gcc -Ii -Ij -E a.c b.c; put h.h '#define N 2'; again; again
rm h.h; again; call gcc -Ii -Ij -MM a.c b.c; call gcc -Ii -Ij -MM -MG a.c b.c; again
END
class dependency-file-of-another-target hit <<'END'
mkdir x; put t.c 'int n;'
call gcc -MD -c t.c -o a.o; call gcc -MD -c t.c -o b.o; call gcc -MD -c t.c -o x/a.o; call gcc -MD -c "$PWD/t.c" -o a.o; call gcc -MMD -MF d -c t.c -o a.o; call gcc -MMD -MF d -c t.c -o b.o
END
class dependency-files-by-variables in-place:environment <<'END'
put h.h '#define N 1'; put t.c '#include "h.h"' '#include <stddef.h>' 'int n = N;'; put log 'already here'
export DEPENDENCIES_OUTPUT='log target'; call gcc -c t.c -o a.o; put h.h '#define N 2'; again; again
unset DEPENDENCIES_OUTPUT; export SUNPRO_DEPENDENCIES=sun; again; again
END
class missing-headers-are-generated hit <<'END'
put t.c '#include "generated.h"' 'int n;'
call gcc -MM -MG t.c; call gcc -MD -MG -c t.c
put generated.h ''; call gcc -MM -MG t.c; again
END
class split-debug-information hit <<'END'
put h.h '#define N 1'; put t.c '#include "h.h"' 'int n = N;'
call gcc -g -gsplit-dwarf -c t.c -o a.o
put h.h '#define N 2'; again; again; rm ./*.dwo; again; call gcc -g -gsplit-dwarf -c t.c -o b.o
END
class coverage-notes hit <<'END'
put t.c 'int f(int n) { return n ? 1 : 2; }'
call gcc --coverage -frandom-seed=1 -c t.c -o a.o
put t.c 'int f(int n) { return n ? 3 : n < 4 ? 5 : 6; }'; again; again; rm ./*.gcno; again
END
class stack-usage hit <<'END'
put t.c 'int f(int n) { volatile char b[100]; return b[n]; }'
call gcc -fstack-usage -fcallgraph-info=su,da -c t.c -o a.o
put t.c 'int f(int n) { volatile char b[300]; return b[n]; }'; again; again; rm ./*.su ./*.ci; again
END
class dumps hit,in-place:stdin <<'END'
put t.c 'int f(int n) { return n * 2; }'
call gcc -O1 -fdump-tree-optimized -fdump-rtl-expand -c t.c -o a.o
put t.c 'int f(int n) { return n * 3; }'; again; rm a.c.* a-t.c.* t.c.* 2> /dev/null; again
call gcc -O1 -fdump-tree-optimized=/dev/stdout -c t.c
call gcc -O1 -fdump-tree-optimized=dump -c t.c; again
END
class listings hit <<'END'
put t.c 'int f(int n) { return n * 2; }'
call gcc -Wa,-adhln=list -c t.c
put t.c 'int f(int n) { return n * 3; }'; again; again; rm list; again
call gcc -Wa,-al -c t.c
END
class dependencies-of-the-assembler hit <<'END'
put x.inc '.byte 1'; put t.s '.include "x.inc"'
call gcc -Wa,--MD,as.d -c t.s -o t.o
put x.inc '.byte 2'; again; rm as.d; again
END
class temporary-files-are-kept hit <<'END'
mkdir o; put t.c '#define N 1' 'int n = N;'
call gcc -save-temps -c t.c -o o/t.o; call gcc -save-temps=obj -c t.c -o o/t.o
put t.c '#define N 2' 'int n = N;'; again; rm o/*; again; call gcc -save-temps -dumpbase d -c t.c
END
class optimization-reports hit,in-place:changed-input <<'END'
put t.c 'int s(int *a) { int i, s = 0; for (i = 0; i < 64; i++) s += a[i]; return s; }'
call gcc -O3 -fopt-info-all=report -c t.c
put t.c 'int s(int *a) { int i, s = 0; for (i = 0; i < 128; i += 2) s += a[i]; return s; }'; again; again; rm report; again
call gcc -O3 -fopt-info-vec -c t.c
END
class time-trace in-place:dump <<'END'
command -v clang > /dev/null || without "no clang"
put t.c 'int n;'; call_and_name() { clang -ftime-trace -c t.c -o "$1" && for f in ./*.json; do [ -s "$f" ] && echo "$f" && : > "$f"; done; }
call call_and_name a.o; rm ./*.json; again; again; call call_and_name b.o
END
class more-side-outputs hit,in-place:verbose <<'END'
put t.c 'static int g(int a) { return a; }' 'int f(int n) { return g(n); }'
call gcc -aux-info protos -c t.c
call gcc -fdump-go-spec=go -g -c t.c
call gcc -fcompare-debug -c t.c; call gcc -H -include stddef.h -c t.c; call gcc -Q --help=common -c t.c
call gcc -dD -E t.c -o t.i; call gcc -dumpdir pre- -gsplit-dwarf -g -c t.c
rm protos go; call gcc -aux-info protos -c t.c; call gcc -fdump-go-spec=go -g -c t.c
END

# --- time, place, language

class date-with-an-epoch hit,in-place:failed-with-older-output <<'END'
put t.c 'const char *d = __DATE__ " " __TIME__;'
export SOURCE_DATE_EPOCH=1000000000; call gcc -c t.c
SOURCE_DATE_EPOCH=1100000000; again; again
SOURCE_DATE_EPOCH=nonsense; again
END
class date-of-a-header-with-an-epoch hit <<'END'
put h.h '#define BUILT __DATE__ __TIME__'; put t.c '#include "h.h"' 'const char *d = BUILT;'
export SOURCE_DATE_EPOCH=1000000000; call gcc -c t.c; SOURCE_DATE_EPOCH=1100000000; again; again
END
# Whether the time in the object is that of the call (but around midnight).
fresh() {
    local before after got
    before=$(date +%T) && "$@" -o fresh.o && after=$(date +%T) && got=$(grep -ao 'time [0-9:]*' fresh.o) && rm fresh.o || return
    [[ $before > $after || (! $got < "time $before" && ! $got > "time $after") ]] && echo fresh
}
class time-of-day in-place:time-macro <<'END'
put t.c 'const char d[] = "time " __TIME__;'; put h.h '#define NOW "time " __TIME__'; put u.c '#include "h.h"' 'const char d[] = NOW;'
call fresh gcc -c t.c; call fresh gcc -c u.c; sleep 1.1; call fresh gcc -c t.c; call fresh gcc -c u.c
END
class time-of-day-by-pieces in-place:clock,in-place:time-macro <<'END'
put t.c '#define P(a, b) a##b' 'const char d[] = "time " P(__TI, ME__);'; put u.c '#define Q(a) __##a##__' 'const char d[] = "time " Q(TIME);'; put v.c 'const char d[] = "time " NOW;'
for _ in 1 2; do call fresh gcc -c t.c; call fresh gcc -c u.c; call fresh gcc -DNOW=__TIME__ -c v.c; sleep 1.1; done
END
class timestamp-of-the-source in-place:modification-time <<'END'
put t.c 'const char *d = __TIMESTAMP__;'; touch -d @1000000000 t.c
export TZ=UTC; call gcc -c t.c
touch -d @1100000000 t.c; again; again; TZ=UTC-5; again
END
class timestamp-of-a-header in-place:modification-time <<'END'
put h.h 'const char *d = __TIMESTAMP__;'; put t.c '#include "h.h"'; touch -d @1000000000 h.h t.c
call gcc -c t.c
touch -d @1100000000 h.h; again; again
END
class dates-are-warned-of hit <<'END'
export SOURCE_DATE_EPOCH=1000000000; put t.c 'const char *d = __DATE__;'
call gcc -Wdate-time -c t.c; call gcc -Werror=date-time -c t.c -o u.o; call gcc -Wdate-time -c t.c
END
class messages-by-locale hit <<'END'
put t.c 'int f(void) { return x; }'
LC_ALL=C call gcc -c t.c; LC_ALL=C.UTF-8 call gcc -c t.c; unset LC_ALL; LANG=C.UTF-8 call gcc -c t.c; LC_CTYPE=C.UTF-8 call gcc -c t.c; LC_MESSAGES=C.UTF-8 call gcc -c t.c; LANGUAGE=de call gcc -c t.c
END
class messages-by-variables hit <<'END'
put t.c 'int printf(const char *, ...);' 'int f(void) { struct { int color; } s = {0}; return s.colour; }'
call gcc -c t.c; GCC_EXTRA_DIAGNOSTIC_OUTPUT=fixits-v1 call gcc -c t.c; GCC_EXTRA_DIAGNOSTIC_OUTPUT=fixits-v2 call gcc -c t.c
GCC_COLORS='error=01;32' call gcc -fdiagnostics-color=always -c t.c; GCC_URLS=st TERM=xterm call gcc -fdiagnostics-urls=always -c t.c; COLUMNS=30 call gcc -c t.c; call gcc -c t.c
END
class warnings hit <<'END'
put h.h 'static int unused_in_header;'; put t.c '#include "h.h"' 'int f(void) { int unused; }'
call gcc -Wall -Wextra -c t.c; call gcc -Wall -Werror -c t.c -o w.o; call gcc -Wall -fdiagnostics-format=json -c t.c; call gcc -Wall -fdiagnostics-color=always -c t.c; call gcc -Wall -fmax-errors=1 -Werror -c t.c -o w.o
put h.h '#pragma GCC system_header' 'static int unused_in_header;'; call gcc -Wall -Wextra -c t.c; again
call gcc -w -c t.c
END
class debug-paths hit <<'END'
mkdir x y; for d in x y; do put $d/t.c 'const char *f = __FILE__; int n;'; done
cd x; call gcc -g -c t.c; call gcc -g -c "$PWD/t.c"; call gcc -g -fdebug-prefix-map="$PWD"=/src -c t.c; call gcc -g -ffile-prefix-map="$top"=. -c "$PWD/t.c"; call gcc -fmacro-prefix-map="$PWD"=m -c "$PWD/t.c"
cd ../y; call gcc -g -c t.c; call gcc -g -c "$PWD/t.c"; call gcc -g -fdebug-prefix-map="$PWD"=/src -c t.c; call gcc -g -ffile-prefix-map="$top"=. -c "$PWD/t.c"; call gcc -g0 -c t.c
END
class working-directory-in-debug-information hit <<'END'
mkdir x y; put t.c 'int n;'
cd x; call gcc -g -c ../t.c; cd ../y; again; call gcc -c ../t.c; cd ..; call gcc -g -c t.c; mv t.c u.c; call gcc -g -x c -c u.c -o t.o
END
class names-of-the-file hit <<'END'
mkdir d; put d/t.c '#include "h.h"' 'const char *f = __FILE__, *b = __BASE_FILE__, *h = H;'; put d/h.h '#define H __FILE__'
call gcc -c d/t.c; call gcc -c ./d/t.c; call gcc -c d/../d/t.c; call gcc -c "$PWD/d/t.c"; cp d/* .; call gcc -c t.c; call gcc -I. -c t.c
END
class random-seed hit <<'END'
put t.cc 'namespace { int n; } int *p = &n; static int f() { return 1; } int g() { return f(); }'
call g++ -frandom-seed=1 -c t.cc; call g++ -frandom-seed=2 -c t.cc; call g++ -frandom-seed=1 -flto -c t.cc; call g++ -frandom-seed=2 -flto -c t.cc; again
END
class definitions hit <<'END'
put t.c 'const char *s = S; int n = N;'
call gcc '-DS="a b"' -DN=1 -c t.c; call gcc '-DS="a  b"' -DN=1 -c t.c; call gcc -DN=2 '-DS="a b"' -c t.c; call gcc -DN=1 -UN -DN=3 '-DS="a b"' -c t.c; call gcc -D N=3 -D 'S="a b"' -c t.c; again
END

# --- from and to streams, several sources

class both-streams-are-one-file hit,in-place:interleaved-output <<'END'
put t.c '#warning first' 'int f(void) { int unused; }'; one() { "$@" > all 2>&1; }
call one gcc -Wall -c t.c; again; call one gcc -E t.c; again; call one gcc -Wall -S -o - t.c; again
END
class source-from-a-pipe in-place:stdin <<'END'
put h.h '#define N 1'; put 1 '#include "h.h"' 'int n = N;'; put 2 '#include "h.h"' 'int m = N;'
input=1; call gcc -xc -c - -o t.o; put h.h '#define N 2'; again; input=2; again; again
END
class output-to-a-stream hit <<'END'
put h.h '#define N 1'; put t.c '#include "h.h"' 'int n = N;'
call gcc -S -o - t.c; call gcc -E t.c; call gcc -E -P -dM -DX t.c; call gcc -E t.c -o t.i; call gcc -S t.c; call gcc -c -o - t.c
put h.h '#define N 2'; call gcc -S -o - t.c; call gcc -E t.c; call gcc -E -P -dM -DX t.c; call gcc -E t.c -o t.i; call gcc -S t.c; again
END
class preprocessor-by-its-name nothing <<'END'
put h.h '#define N 1'; put t.c '#include "h.h"' 'int n = N;'
call cpp t.c; put h.h '#define N 2'; again; again; call cpp -dM t.c t.i
END
class preprocessed-sources hit <<'END'
put t.c '#define N 1' 'int n = N, unused(void) { }'; gcc -E t.c -o t.i; cp t.i u.ii
call gcc -Wall -g -c t.i; call gcc -Wall -c u.ii; rm t.c; again; call gcc -Wall -fpreprocessed -c t.i; sed -i 's/= 1/= 2/' t.i; again; again
END
class languages-by-option hit <<'END'
put t.x 'int n = sizeof(char), class_; const char *l = __VERSION__; char c = sizeof'"('a')"';'; put t.c 'int m = sizeof'"('a')"';'
call gcc -x c -c t.x -o t.o; call gcc -x c++ -c t.x -o t.o; call gcc -x c++ -x none -c t.c; call gcc -std=c89 -x c -c t.x -o t.o; call gcc -x c++ -c t.c; call g++ -c t.c; call gcc -c t.c
END
class several-sources hit,in-place:failed-with-older-output <<'END'
put a.c 'int a = 1;'; put b.c '#include "h.h"' 'int b = N;'; put h.h '#define N 1'; put c.c 'int c = ;'
call gcc -c a.c b.c; put h.h '#define N 2'; again; again; call gcc -c a.c c.c b.c
END
class compile-and-link hit <<'END'
put a.c 'int b(void);' 'int main(void) { return b(); }'; put b.c '#include "h.h"' 'int b(void) { return N; }'; put h.h '#define N 1'
call gcc a.c b.c -o p; seen ./p; put h.h '#define N 2'; call gcc a.c b.c -o p; seen ./p; call gcc a.c b.c -o p; call gcc a.c -c; call gcc a.o b.c; call gcc -g -MD a.c b.c -o p
END
class compile-only-checks hit <<'END'
put t.c '#include "h.h"' 'int f(void) { int x; return N; }'; put h.h '#define N 1'
call gcc -fsyntax-only -Wall t.c; put h.h '#define N y'; again; again
END

# --- what compilers say when they fail

class failure-and-back hit,in-place:failed-with-older-output <<'END'
put t.c 'int n = ;'; call gcc -c t.c
put t.c 'int n = 1;'; again; put t.c 'int n = ;'; again; put t.c 'int n = 1;'; again; again
END
class failure-with-an-older-object hit,in-place:failed-with-older-output <<'END'
put t.c 'int n = 1;'; put bad.c 'int n = ;'; call gcc -MD -c t.c -o x.o
call gcc -MD -c bad.c -o x.o; put x.o old; again; call gcc -MD -c t.c -o x.o
END
class failed-probes hit <<'END'
probe() { put conftest.c "$@"; call gcc -c conftest.c; call gcc conftest.c -o conftest; rm -f conftest conftest.o; }
probe '#include <no_such_header.h>' 'int main(void) { return 0; }'
probe 'int no_such_function(void);' 'int main(void) { return no_such_function(); }'
probe 'char a[sizeof(void *) == 3 ? 1 : -1];' 'int main(void) { return 0; }'
probe 'int main(void) { return 0; }'
mkdir i; put i/no_such_header.h ''
export CPATH=$PWD/i; probe '#include <no_such_header.h>' 'int main(void) { return 0; }'
END
class failure-that-takes-long hit <<'END'
put t.cc 'constexpr int f() { int n = 0; for (int i = 0; i < 900000; ++i) n ^= i; return n; }' 'static_assert(f() == -1, "no");'
call g++ -std=c++17 -fconstexpr-ops-limit=1000000000 -fconstexpr-loop-limit=100000000 -c t.cc; again; again
END
class failure-of-the-sandbox-only hit/in-place:failed-in-sandbox-only <<'END'
put t.c 'int a[] = {' '#include "/sys/devices/system/cpu/possible"' '};'
call gcc -c t.c; rm -f t.o; again; rm -f t.o; again
END
class bad-options hit,in-place:failed-with-older-output,in-place:missing-argument,in-place:not-a-compile <<'END'
put t.c 'int n;'
call gcc -c t.c --no-such-option; call gcc -c t.c -o; call gcc -c; call gcc; call gcc -c nothing.c; call gcc -c t.c -fno-such-flag; call gcc -c t.c -Wno-such-warning; call gcc -c t.c -std=c1; call gcc -x nothing -c t.c
put nothing.c 'int m;'; call gcc -c nothing.c; put t.c 'int n = 1'; call gcc -c t.c -Wno-such-warning
END
class questions-to-the-compiler in-place:host-processor,in-place:not-a-compile,in-place:verbose <<'END'
call gcc --version; call gcc -dumpmachine; call gcc -dumpfullversion; call gcc -print-file-name=libc.so; call gcc -print-search-dirs; call gcc -v; call gcc -E -v - ; put libm.so ''; call gcc -L. -print-file-name=libm.so; call gcc -Q --help=target; call gcc -march=native -c -x c /dev/null -o n.o
END

# --- where the output goes

class object-is-there-already hit,in-place:output-in-the-way,in-place:output-outside-of-build/hit,in-place:output-in-the-way,in-place:output-outside-of-build,in-place:special-file <<'END'
put t.c 'int n;'
put a.o old; chmod 400 a.o; call gcc -c t.c -o a.o
put b.o old; ln b.o other; call gcc -c t.c -o b.o
ln -s target c.o; call gcc -c t.c -o c.o; again
ln -s /nowhere/x d.o; call gcc -c t.c -o d.o
mkdir e.o; call gcc -c t.c -o e.o
put f.o old; chmod 666 f.o; call gcc -c t.c -o f.o
call gcc -c t.c -o "$(device null 1 3)"; call gcc -c t.c -o no/such.o
call gcc -c t.c; put t.c 'int m;'; call gcc -c t.c; chmod 777 t.o; again
END
class dependency-file-is-there-already hit,in-place:output-in-the-way,in-place:output-outside-of-build,in-place:stdin <<'END'
put t.c 'int n;'; put a.d old; chmod 400 a.d; call gcc -MD -MF a.d -c t.c; ln -s target.d b.d; call gcc -MD -MF b.d -c t.c; mkdir c.d; call gcc -MD -MF c.d -c t.c; put d.d old; ln d.d other; call gcc -MD -MF d.d -c t.c
call gcc -MD -MF /dev/stdout -c t.c; call gcc -MD -MF - -c t.c; call gcc -MD -MF no/such.d -c t.c; call gcc -MD -MF t.o -c t.c
END
class file-modes hit <<'END'
put t.c 'int main(void) { return 0; }'
masked() { (umask "$1" && shift && "$@"); }
for mask in 077 000 027 777; do call masked $mask gcc -MD -c t.c -o $mask.o; call masked $mask gcc t.c -o $mask.exe; done; call masked 000 gcc t.c -o 077.exe
END
class another-view-of-the-files hit,in-place:other-root <<'END'
mkdir a b; put a/h.h '#define N 1'; put b/h.h '#define N 2'; put t.c '#include <h.h>' 'int n = N;'
elsewhere() { unshare --mount sh -c 'mount --bind b a && exec "$@"' sh "$@"; }
elsewhere true 2> /dev/null || without "no file system can be mounted here"
call gcc -Ia -c t.c; call elsewhere gcc -Ia -c t.c; call gcc -Ia -c t.c; call elsewhere gcc -Ia -c t.c
END
class output-is-an-input hit,in-place:child-odd,in-place:failed-with-older-output <<'END'
put t.c '#include "h.h"' 'int n = N;'; put h.h '#define N 1'
call gcc -MD -MF h.h -c t.c; put h.h '#define N 1'; call gcc -E t.c -o h.h; call gcc -c t.c -o t.c; call gcc -c t.c -o t.o
END
class another-checkout hit,in-place:temporary-directory/hit <<'END'
checkout() {
    mkdir -p "$1/src" "$1/inc" && put "$1/inc/h.h" '#define N 1' 'static inline int h(int i) { return i / N; }' 'static const char *const header = __FILE__;'
    put "$1/src/t.c" '#include <assert.h>' '#include "h.h"' 'const char *file = __FILE__; int f(int i) { int unused; assert(i); return h(i); }' 'const char *g(void) { return header; }'
    put "$1/inc/n.h" '#define N 2'; put "$1/src/u.c" '#include "../inc/n.h"' 'int n = N;' '#line 7 "../x.c"' 'const char *u = __FILE__;'
    mkdir "$1/link"; ln -s ../inc/n.h "$1/link/n.h"; ln -s "$PWD/$1/inc/n.h" "$1/link/m.h"; put "$1/src/v.c" '#include <n.h>' 'int v = N;' '#ifdef M' '#include <m.h>' '#endif' 'int w = N;'
}
compile() {
    cd "$1/src" || exit; rm -f ./*.o
    for flags in -O2 -g -MD -Wall --coverage -fprofile-generate -save-temps -frecord-gcc-switches "-DDIR=\"$PWD\"" "-ffile-prefix-map=$PWD=." -fsanitize=undefined -flto; do call gcc -frandom-seed=1 "$flags" -I../inc -c t.c; rm -f ./*.o; done
    call gcc -I"$PWD/../inc" -c t.c; call gcc -I../inc -c "$PWD/t.c" -o a.o; call gcc -c u.c; call gcc -I../inc -E t.c -o t.txt; call gcc -I../link -c v.c; call gcc -I../link -DM -c v.c -o m.o; call gcc -I.. -I../../nowhere -c u.c -o ../o.o; call gcc -I../inc -DDIR='"/src"' -Wa,-adhln=t.lst -c t.c -o l.o
    call gcc -I../inc -c t.c -o "$top/abs.o"; call env TMPDIR=/tmp gcc -I"$top" -c u.c; rm -f "$top/abs.o" ./*.o ../o.o; cd "$top" || exit
}
checkout one; checkout other/deeper; compile one; compile other/deeper; put one/inc/h.h '#define N 3' 'static inline int h(int i) { return i * N; }' 'static const char *const header = __FILE__;'; compile one; compile other/deeper
END
class detours-through-a-checkout hit <<'END'
detour() {
    mkdir -p "$1/src/sub" "$1/include/p" "$1/a" "$1/b" && put "$1/include/x.h" 'static const char *const header = __FILE__;'
    put "$1/a/h.h" '#define N 1'; put "$1/b/h.h" '#define N 2'; put "$1/src/opt.h" ''; put "$1/include/p/own.h" '#define N 3'; mkdir -p "$1/old/${1##*/}/include/p"; put "$1/old/${1##*/}/include/p/own.h" '#define N 4'
    ln -s "../${1##*/}/include" "$1/inc"; ln -s ../src/../include "$1/src/inc"
    put "$1/src/t.c" '#include "../include/x.h"' 'const char *f(void) { int unused; return header; }'; put "$1/src/n.c" '#include <h.h>' 'int n = N;'; put "$1/src/o.c" '#if __has_include("../src/opt.h")' 'int there;' '#endif' '#if __has_include("../source/src/opt.h") || __has_include("../../source/src/opt.h")' 'int nowhere;' '#endif' '#if __has_include("/build/source/src/opt.h")' 'int odd;' '#endif' 'int o;'; put "$1/src/p.c" "#include <${1##*/}/include/p/own.h>" 'int n = N;'
}
go() {
    cd "$1/src" || exit
    call gcc -I"$top/$1/include" -MD -Wall -c t.c; call gcc -MD -c t.c -o "$top/$1/include/t.o"; call gcc -I"../../${1##*/}/a" -I../b -c n.c; call gcc -c o.c; call gcc -I../inc -MD -c t.c -o i.o; call gcc -Iinc -MD -c t.c -o j.o
    call gcc -I../.. -isystem ../old -MD -c p.c; call gcc -isystem ../../"${1##*/}"/include -MD -c t.c -o k.o; cd sub || exit; call gcc -isystem ../../include -I../../include -MD -c ../t.c; cd "$top" || exit
}
detour one; detour other/one; detour source; go one; go other/one; go source; rm -f ./*/src/*.[od] ./*/*/src/*.[od]; rm one/src/opt.h one/a/h.h; go one; go other/one; go source
END
class output-below-a-link hit,in-place:output-outside-of-build <<'END'
mkdir real; ln -s real link; put t.c 'int n;'; call gcc -MD -c t.c -o link/t.o; rm real/*; again; ln -sfn nowhere link; again
END
class limited-file-size nothing <<'END'
put t.c 'int a[200000] = {1};'; limited() { (ulimit -f "$1"; shift; "$@"); }
call limited 1 gcc -c t.c; call limited 10000 gcc -c t.c; rm -f t.o; call limited 1 gcc -c t.c
END
class full-device hit,in-place:stdin/hit,in-place:special-file <<'END'
put t.c 'int n;'; full() { "$@" > /dev/full; }; closed() { "$@" >&- 2>&-; }
device=$(device full 1 7)
call gcc -c t.c -o "$device"; call full gcc -E t.c; call full gcc -S t.c -o -; call closed gcc -c t.c; call closed gcc -E t.c; call gcc -S t.c -o "$device"
END
class full-disk hit <<'END'
mkdir small; mount -t tmpfs -o size=16k,mode=755 none small 2> /dev/null || without "no file system can be mounted here"
put t.c 'int a[20000] = {1};'; put u.c 'int n;'; trap 'umount "$top/small"' EXIT
call gcc -c u.c -o small/u.o; call gcc -c t.c -o small/t.o; cd small; call gcc -c ../t.c; cp ../u.c .; call gcc -MD -c u.c; head -c 16k /dev/zero > fill 2> /dev/null; again; rm fill; again; cd ..
END
class working-directory-vanishes nothing <<'END'
mkdir x; put t.c 'int n;'; cp t.c x; cd x; rm -r ../x; call gcc -c t.c; call gcc -c ../t.c; call gcc -c "$top/t.c" -o "$top/t.o"; mkdir ../x; again
END
class temporary-directory-vanishes hit,in-place:temporary-directory <<'END'
mkdir x; put t.c 'int n;'; export TMPDIR=$PWD/x; call gcc -c t.c; rmdir x; again; mkdir x; again
END
class read-only-directory hit <<'END'
mkdir x; put t.c 'int n;'; chmod 555 x; call gcc -c t.c -o x/t.o; chmod 755 x; again
END

# --- links

class link-of-a-changed-object hit <<'END'
object() { put o.c "int f(void) { return $1; }"; alter gcc -c o.c; }
put m.c 'int f(void);' 'int main(void) { return f(); }'; alter gcc -c m.c; object 1
call gcc m.o o.o -o p; seen ./p; object 2; call gcc m.o o.o -o p; seen ./p; call gcc m.o o.o -o p
END
class link-of-a-library hit <<'END'
library() { put o.c "int f(void) { return $2; }"; mkdir -p "$1"; rm -f "$1/libf.$3"; if [ "$3" = a ]; then alter gcc -c o.c && alter ar crD "$1/libf.a" o.o; else alter gcc -shared -fPIC o.c -o "$1/libf.so"; fi; }
put m.c 'int f(void);' 'int main(void) { return f(); }'; alter gcc -c m.c; library b 1 a; mkdir a
call gcc m.o -La -Lb -lf -o p; seen ./p
library b 2 a; call gcc m.o -La -Lb -lf -o p; seen ./p
library a 3 a; call gcc m.o -La -Lb -lf -o p; seen ./p
library a 4 so; call gcc m.o -La -Lb -lf -Wl,-rpath,"$PWD/a" -o p; seen ./p
call gcc m.o -La -Lb -l:libf.a -o p; rm -r a; call gcc m.o -La -Lb -lf -o p; again
END
class link-of-a-library-by-variable hit <<'END'
mkdir a b; for d in a b; do put o.c "int f(void) { return sizeof \"$d$d\" + '$d'; }"; alter gcc -c o.c; alter ar crD $d/libf.a o.o; done
put m.c 'int f(void);' 'int main(void) { return f(); }'; alter gcc -c m.c
export LIBRARY_PATH=b; call gcc m.o -lf -o p; LIBRARY_PATH=a:b; again; LD_RUN_PATH=/r call gcc m.o -lf -o p; again
END
class link-of-a-missing-library hit <<'END'
put m.c 'int f(void);' 'int main(void) { return f(); }'; alter gcc -c m.c
call gcc m.o -L. -lf -o p; put o.c 'int f(void) { return 1; }'; alter gcc -c o.c; alter ar crD libf.a o.o; again; again
END
class link-of-a-library-that-is-a-script hit <<'END'
script() { put o.c "int f(void) { return $1; }"; alter gcc -c o.c -o real.o; }
put m.c 'int f(void);' 'int main(void) { return f(); }'; alter gcc -c m.c; script 1; put libf.so 'INPUT(real.o)'
call gcc m.o -L. -lf -o p; seen ./p; script 2; call gcc m.o -L. -lf -o p; seen ./p; put real2.c 'int f(void) { return 3; }'; alter gcc -c real2.c; put libf.so 'GROUP(real2.o)'; call gcc m.o -L. -lf -o p; seen ./p
END
class version-script hit,in-place:failed-with-older-output <<'END'
put o.c 'int f(void) { return 1; }' 'int g(void) { return 2; }'; alter gcc -fPIC -c o.c; put v '{ global: f; local: *; };'
call gcc -shared o.o -Wl,--version-script=v -o o.so; put v '{ global: g; local: *; };'; again; again
call gcc -shared o.o -Wl,--version-script,v -Wl,--dynamic-list=d -o o.so; put d '{ f; };'; again
END
class linker-script hit <<'END'
put o.c 'int f(void) { return 1; }'; alter gcc -c o.c; mkdir i; put s 'INCLUDE part' 'SECTIONS { .text : { *(.text) } }'; put i/part 'PROVIDE(x = 1); sym = 1;'
call ld -T s -L i o.o -o p; put i/part 'sym = 2;'; again; put part 'sym = 3;'; again; again; call gcc -nostdlib -Wl,-T,s o.o -o q
END
class archive-member hit <<'END'
member() { put o.c "int f(void) { return $1; }"; alter gcc -c o.c; rm -f libf.a; alter ar crD libf.a o.o; }
put m.c 'int f(void);' 'int main(void) { return f(); }'; alter gcc -c m.c; member 1
call gcc m.o libf.a -o p; seen ./p; member 2; call gcc m.o libf.a -o p; seen ./p; call gcc -Wl,--whole-archive libf.a -Wl,--no-whole-archive m.o -o p
END
class thin-archive-member hit <<'END'
put o.c 'int f(void) { return 1; }'; put m.c 'int f(void);' 'int main(void) { return f(); }'; alter gcc -c o.c m.c; alter ar crDT libf.a o.o
call gcc m.o libf.a -o p; seen ./p; put o.c 'int f(void) { return 2; }'; alter gcc -c o.c; call gcc m.o libf.a -o p; seen ./p; call gcc m.o libf.a -o p
END
class shared-objects hit <<'END'
put o.c 'int f(void) { return 1; }'; alter gcc -fPIC -c o.c; call gcc -shared o.o -Wl,-soname,libo.so.1 -o libo.so
put m.c 'int f(void);' 'int main(void) { return f(); }'; alter gcc -c m.c; call gcc m.o libo.so -o p
put o.c 'int f(void) { return 1; }' 'int g;'; alter gcc -fPIC -c o.c; call gcc -shared o.o -Wl,-soname,libo.so.2 -o libo.so; call gcc m.o libo.so -o p; call gcc m.o libo.so -o p -pie; call gcc m.o libo.so -o p -no-pie -s
END
class libraries-of-libraries hit,in-place:failed-with-older-output <<'END'
mkdir d; put i.c 'int i(void) { return 1; }'; put o.c 'int i(void);' 'int f(void) { return i(); }'; put m.c 'int f(void);' 'int main(void) { return f(); }'
alter gcc -shared -fPIC i.c -Wl,-soname,libi.so -o d/libi.so; alter gcc -shared -fPIC o.c -Ld -li -o libo.so; alter gcc -c m.c
call gcc m.o libo.so -Wl,-rpath-link,d -o p; rm d/libi.so; again; put i.c 'int j;'; alter gcc -shared -fPIC i.c -Wl,-soname,libi.so -o d/libi.so; again
END
class static-program hit <<'END'
put m.c 'int main(void) { return N; }'; call gcc -static -DN=1 m.c -o p; seen ./p; call gcc -static -DN=2 m.c -o p; seen ./p
END
class link-time-optimization hit <<'END'
object() { put o.c "int f(void) { return $1; }"; call gcc -O1 -flto -frandom-seed=1 -c o.c; }
put m.c 'int f(void);' 'int main(void) { return f(); }'; call gcc -O1 -flto -frandom-seed=2 -c m.c; object 1
call gcc -O1 -flto m.o o.o -s -Wl,--build-id=none -o p; seen ./p; object 2; call gcc -O1 -flto m.o o.o -s -Wl,--build-id=none -o p; seen ./p; again
END
class link-options-in-files hit <<'END'
put m.c 'int main(void) { return 0; }'; alter gcc -c m.c; put f --defsym=x=1
call gcc m.o -Wl,@f -o p; put f --defsym=x=2; again; put g m.o -o q; call gcc @g; again
END
class link-side-outputs hit <<'END'
put m.c 'int main(void) { return 0; }'; alter gcc -c m.c
call gcc m.o -Wl,-Map=map -o p; call gcc m.o -Wl,--dependency-file=d -o p; rm map d; call gcc m.o -Wl,-Map=map -o p; call gcc m.o -Wl,--dependency-file=d -o p; call gcc m.o -Wl,-M -o p; call gcc m.o -Wl,-t -o p; call gcc m.o -Wl,--cref -o p
END
class linker-by-itself hit,in-place:failed-with-older-output <<'END'
put o.s '.globl _start' '_start: ret' '.data' '.quad x'; put x.s '.globl x' 'x = 1'; alter as o.s -o o.o; alter as x.s -o x.o
call ld o.o x.o -o p; put x.s '.globl x' 'x = 2'; alter as x.s -o x.o; again; again
call ld -r o.o x.o -o r.o; put data 1; call ld -r -b binary data -o d.o; put data 22; again; again; call ld o.o -o p
END
class linker-of-a-tools-directory hit <<'END'
mkdir b; put m.c 'int main(void) { return 0; }'; alter gcc -c m.c; ld=$(real ld)
call gcc -B b m.o -o p; put b/ld "#!$BASH" "exec $ld --defsym extra=1 \"\$@\""; chmod +x b/ld; again; again
END
class start-files-of-a-directory hit,in-place:not-a-compile <<'END'
mkdir b; put c.s '.globl _start' '_start: mov $1, %edi' 'mov $60, %eax' 'syscall'; put m.c 'int main(void) { return 0; }'; alter gcc -c m.c; cp "$(gcc -print-file-name=crti.o)" "$(gcc -print-file-name=crtn.o)" b
call gcc -B b/ m.o -no-pie -o p; alter as c.s -o b/crt1.o; again; seen ./p; again
END
class executable-is-there-already hit,in-place:changed-input,in-place:failed-with-older-output,in-place:output-in-the-way,in-place:output-outside-of-build/hit,in-place:changed-input,in-place:failed-with-older-output,in-place:output-in-the-way,in-place:output-outside-of-build,in-place:special-file <<'END'
put m.c 'int main(void) { return 0; }'; alter gcc -c m.c
put p old; chmod 400 p; call gcc m.o -o p; put q old; ln q r; call gcc m.o -o q; ln -s target s; call gcc m.o -o s; mkdir t; call gcc m.o -o t; call gcc m.o -o no/such; call gcc m.o -o "$(device null 1 3)"; put u old; chmod 666 u; call gcc m.o -o u; seen ./u
put bad.c 'int f(void);' 'int main(void) { return f(); }'; call gcc bad.c -o p; call gcc bad.c -o new
END
class archives hit <<'END'
put a.c 'int a;'; put b.c 'int b;'; alter gcc -c a.c b.c
call ar crD l.a a.o; call ar crD l.a b.o; call ranlib -D l.a; put a.c 'int a = 1;'; alter gcc -c a.c; call ar crD l.a a.o; again; call ar t l.a; call ar crD l.a none.o
END

# --- other languages and names

class cplusplus hit <<'END'
put h.hpp 'template <class T> T f(T t) { return t + 1; }'; put t.cc '#include "h.hpp"' '#include <cstddef>' 'int g() { return f(1); }'
call g++ -std=c++17 -O1 -c t.cc; put h.hpp 'template <class T> T f(T t) { return t + 2; }'; again; again; call g++ -std=c++20 -O1 -c t.cc; call c++ -fno-exceptions -c t.cc
END
class objective-c hit <<'END'
put h.h '#define N 1'; put t.m '#import "h.h"' 'int n = N;' '@interface I' '@end' '@implementation I' '@end'
gcc -c t.m -o /dev/null 2> /dev/null || without "no Objective-C compiler"
call gcc -c t.m; put h.h '#define N 2'; again; again
END
class fortran hit,in-place:changed-input,in-place:failed-with-older-output <<'END'
command -v gfortran > /dev/null || without "no Fortran compiler"
put i.inc 'integer, parameter :: n = 1'; put m.f90 'module m' "include 'i.inc'" 'end module'; put t.F90 'subroutine s(x)' 'use m' 'integer x' 'x = n' 'end'
call gfortran -c m.f90; call gfortran -c t.F90; put i.inc 'integer, parameter :: n = 2'; call gfortran -c m.f90; call gfortran -c t.F90; again; mkdir d; call gfortran -J d -c m.f90; rm m.mod; call gfortran -Id -c t.F90; call gfortran -c t.F90
END
class assembly hit <<'END'
put h.h '#define N 1'; put t.S '#include "h.h"' '.byte N'; put u.s '.byte 1'
call gcc -c t.S; call gcc -c u.s; put h.h '#define N 2'; put u.s '.byte 2'; call gcc -c t.S; call gcc -c u.s; again; call gcc -x assembler-with-cpp -DN=1 -c u.s; call as u.s -o v.o; call as --no-such-option u.s; call as none.s
END
class compilers-by-other-names hit,in-place:child-not-run,in-place:other-name/hit,in-place:other-name,in-place:wrapper <<'END'
put t.c 'int n = sizeof __VERSION__;'
for cc in cc x86_64-linux-gnu-gcc gcc-12 c99 c89; do command -v $cc > /dev/null && call $cc -c t.c; done
ln -s "$(real gcc)" mine; named() { (exec -a other "$@"); }; call ./mine -c t.c; call "$(real gcc)" -c t.c; call named gcc -c t.c; call env gcc -c t.c; call sh -c 'gcc -c t.c'
END
class a-project hit <<'END'
i=0; while [ $i -lt 6 ]; do put f$i.c '#include "h.h"' "int f$i(void) { return N + $i; }"; i=$((i + 1)); done; put main.c 'int f0(void);' 'int main(void) { return f0(); }'; put h.h '#define N 1'
put Makefile 'p: main.o f0.o f1.o f2.o f3.o f4.o f5.o' '	gcc $^ -o $@' '%.o: %.c' '	gcc -O1 -MMD -c $< -o $@' '-include *.d'
command -v make > /dev/null || without "no make"
touch -d '2020-01-01' ./*; call make -s -j3; seen ./p; put h.h '#define N 2'; touch -d '2020-01-02' ./*.d ./*.o; call make -s; seen ./p; rm ./*.o; call make -s -j3
END

# --- names that are made up

class probes-of-cmake hit <<'END'
try() {
    local dir=$top/b/CMakeFiles/CMakeScratch/TryCompile-$1 object=CMakeFiles/cmTC_$2.dir/x.c.o; shift 2
    mkdir -p "$dir/${object%/*}"; put "$dir/x.c" "${body[@]}"; cd "$dir" || exit
    call gcc "$@" -o "$object" -c "$dir/x.c"; [ ! -e "$object" ] || { call gcc "$@" "$object" -o "cmTC_${object:16:5}"; seen ls -R; }
    cd "$top" || exit; rm -r b
}
probe() { try aaaaaa 12345 "$@"; try Bc0deF fab1e "$@"; }
body=('#include <stdio.h>' 'int main(void) { return puts("yes"); }'); probe; probe -O2 -Wall -MD; probe -MD -MT 'a target' -MF d.d; probe -Wl,-Map=x.map
body=('#include <no/such.h>'); probe; body=('int main(void) { return strlcpy; }'); probe; body=('int f(void); int main(void) { int unused; return f(); }'); probe -Wall; probe -fno-such-flag
END
class probes-that-know-their-directory hit <<'END'
try() {
    local dir=$top/b/CMakeFiles/CMakeScratch/TryCompile-$1 object=CMakeFiles/cmTC_$2.dir/x.c.o name=$1; shift 2
    mkdir -p "$dir/${object%/*}"; put "$dir/x.c" "${body[@]//NAME/$name}"; put "$dir/h.h" "// $name" 'static const char *header = __FILE__;'; put "$dir/flags" "-DDIR=\"$dir\""; cd "$dir" || exit
    call gcc "$@" -o "$object" -c "$dir/x.c"; [ ! -e "$object" ] || call gcc "$@" "$object" -o "cmTC_${object:16:5}"
    cd "$top" || exit; rm -r b
}
probe() { try aaaaaa 12345 "$@"; try Bc0deF fab1e "$@"; }
body=('#include <assert.h>' 'int main(int n, char **v) { assert(n); return 0; }'); probe; probe -O2 -g; probe --coverage -frandom-seed=1; probe -flto -frandom-seed=1; probe -save-temps; probe -fdump-tree-optimized; probe -Wl,-rpath,"$top/b/CMakeFiles/CMakeScratch/TryCompile-aaaaaa"
body=('int main(void) { return PREFIX; }'); try aaaaaa 12345 -DPREFIX=TryCompile-aaaaaa; try 1aaaaa 1e345 -DPREFIX=TryCompile-1aaaaa; try Bc0deF fab1e -DPREFIX=cmTC_fab1e; try e00001 1fab1 -DPREFIX=cmTC_1fab1
body=('int main(void) { return 0; }'); for name in 1aaaaa Bc0deF q1w2e3 Z_9; do try ${name/_9/99999} 12345 -g -S; try ${name/_9/99999} 12345 -g -Werror -DX=1 -UX; done
body=('int c = __FILE__[sizeof __FILE__ - 8] * 3;' 'int main(void) { return c; }'); probe -O2; probe -xc++
body=('#include "h.h"' 'int main(void) { return !header; }'); probe; body=('#include "../TryCompile-NAME/h.h"' 'int main(void) { return !header; }'); probe
body=('static __attribute__((constructor)) void f(void) { }'); probe -shared -fPIC; probe -shared -fPIC -frandom-seed=1 -fno-common -xc++; body=('char *dir = DIR;' 'int main(void) { return 0; }'); probe @flags; probe -DDIR='""' -frecord-gcc-switches
body=('#ifdef UP' '#include "../up.h"' '#endif' '#if __has_include("../up.h")' '#error there is' '#endif' 'int main(void) { return 0; }'); probe; probe -UUP
END
class probes-beside-which-something-changes hit <<'END'
try() {
    local dir=$top/b/CMakeFiles/CMakeScratch/TryCompile-$1 object=CMakeFiles/cmTC_$2.dir/x.c.o; shift 2
    mkdir -p "$dir/${object%/*}" i; put "$dir/x.c" '#if __has_include("../up.h")' '#include "../up.h"' '#else' 'int n;' '#endif' 'int main(void) { return n; }'
    "$@"; cd "$dir" || exit
    call gcc -I"$top/i" -o "$object" -c "$dir/x.c"; [ ! -e "$object" ] || call gcc "$object" -o "cmTC_${object:16:5}"
    cd "$top" || exit; rm -r b i
}
try aaaaaa 12345 true; try bbbbbb 11111 put b/CMakeFiles/CMakeScratch/up.h 'int n = 2;'; try zzzzzz 22222 true; try dddddd 33333 put b/CMakeFiles/CMakeScratch/up.h 'int n = ;'
try eeeeee 44444 put i/x.h ''; try 000000 55555 ln -s x.c b/CMakeFiles/CMakeScratch/TryCompile-000000/y.c; try ffffff 66666 mkdir b/CMakeFiles/CMakeScratch/TryCompile-zzzzzz; try gggggg 77777 put b/CMakeFiles/CMakeScratch/TryCompile-gggggg/up.h 'int n = 3;'
END
class probes-of-meson hit <<'END'
try() {
    local dir=$top/b/meson-private/tmp$1; shift
    mkdir -p "$dir"; put "$dir/testfile.c" "${body[@]}"; cd "$dir" || exit
    call gcc "$dir/testfile.c" -o "$dir/output.obj" -c -O0 "$@"; rm -f output.obj; call gcc "$dir/testfile.c" -o "$dir/output.exe" -O0 "$@"; call gcc "$dir/testfile.c" -E -P "$@"
    cd "$top" || exit; rm -r b
}
probe() { try abc0_def "$@"; try _1234567 "$@"; }
body=('#include <stdio.h>' 'int main(void) { return puts(""); }'); probe; body=('int main(void) { return f(); }'); probe; body=('#include <no/such.h>'); probe -Werror; body=('const char *file = __FILE__;' 'int main(void) { return 0; }'); probe
END

# --- what is neither the caller's own nor the system's

class files-below-dev hit,in-place:file-of-the-kernel,in-place:outside-of-build <<'END'
shm=/dev/shm/droste-files-below-dev; mkdir "$shm" 2> /dev/null || without "there is no /dev/shm, or something in it"
trap 'rm -rf "$shm"' EXIT
mkdir i; put i/config.h '#define N 2'; put t.c '#include <config.h>' '#if __has_include("/dev/shm/no/such")' '#error yes' '#endif' 'int main(void) { return N; }'
ln -s "$shm" there
for flags in -Ithere/none "-I$shm" -Ithere "-I$shm/../${shm##*/}"; do call gcc "$flags" -Ii t.c -o t; seen ./t; call gcc "$flags" -Ii -c t.c; done 2> /dev/null
put "$shm/config.h" '#define N 1'
for flags in -Ithere/none "-I$shm" -Ithere "-I$shm/../${shm##*/}"; do call gcc "$flags" -Ii t.c -o t; seen ./t; call gcc "$flags" -Ii -c t.c; done
put a.c 'int f(void) { return 1; }'; gcc -c a.c -o a.o; ar rc "$shm/libf.a" a.o; mkdir l; put b.c 'int f(void) { return 2; }'; gcc -c b.c -o b.o; ar rc l/libf.a b.o; put m.c 'int f(void); int main(void) { return f(); }'
call gcc m.c -L"$shm" -Ll -lf -o m; seen ./m; rm "$shm/libf.a"; again; seen ./m; CPATH=$shm call gcc -Ii -c t.c
END
class files-through-proc in-place:file-of-the-kernel,in-place:outside-of-build <<'END'
mkdir inc i; put inc/config.h '#define N 1'; put i/config.h '#define N 2'; put t.c '#include <config.h>' 'int main(void) { return N; }'
for dir in /proc/self/cwd/inc /proc/thread-self/cwd/inc "/proc/self/root/$PWD/inc" /dev/fd/../cwd/inc; do call gcc "-I$dir" -Ii t.c -o t; seen ./t; call gcc "-I$dir" -Ii -c t.c; CPATH=$dir call gcc -Ii -c t.c; done
END
class tools-by-relative-path hit,in-place:programs-in-build,in-place:programs-outside-of-build <<'END'
mkdir tools; put t.c 'int main(void) { return 0; }'; PATH=tools:$PATH call gcc -c t.c; PATH=$PATH: call gcc t.c -o t
for name in as ld; do printf '#!%s\necho mine %s >&2; exit 3\n' "$(type -P bash)" "$name" > tools/$name; chmod +x tools/$name; cp tools/$name .; done
for path in tools ./tools . ""; do PATH=$path:$PATH call gcc -c t.c; PATH=$path:$PATH call gcc t.c -o t; PATH=$PATH:$path call gcc t.c -o t; done
rm -r tools as ld; PATH=tools:$PATH call gcc -c t.c
END
class compilers-by-links hit,in-place:child-not-run,in-place:other-name/in-place:unknown-compiler <<'END'
put t.c 'int n = 1;'; put bad.c 'int n = ;'; bin=$top/bin; case $(type -P gcc) in /nix/*) mkdir bin ;; *) bin=$(mktemp -d) ;; esac; ln -s "$(type -P gcc)" "$bin/host-gcc"; ln -s host-gcc "$bin/arm-none-eabi-gcc"; trap 'rm -r "$bin"' EXIT
call "$bin/host-gcc" -c t.c; call "$bin/host-gcc" -c bad.c; PATH=$bin:$PATH call arm-none-eabi-gcc -c t.c -o u.o; call "$bin/arm-none-eabi-gcc" t.c -c -o v.o; cd "$bin"; call ./host-gcc -c "$top/t.c" -o "$top/w.o"; cd "$top"
END
class has-include-pasted hit <<'END'
put p.h '#define P(x, y) P2(x, y)' '#define P2(x, y) x##y'; put t.c '#include "p.h"' '#if P(__has_, include)("o.h")' 'int yes;' '#endif' '#if P(__, has_include)(<o.h>)' 'int yes_too;' '#endif' '#if P(__has, _include)("o.h")' 'int and_so;' '#endif'
call gcc -c t.c; put o.h ''; again; again; rm o.h; again; call gcc '-DQ(x,y)=x##y' '-DH=Q(__has_inc,lude)' -c t.c
END
class dependencies-by-an-empty-variable in-place:environment <<'END'
put t.c 'int n = 1;'; for name in DEPENDENCIES_OUTPUT SUNPRO_DEPENDENCIES; do call env $name= gcc -c t.c -o $name.o; call env $name= gcc t.c -o t; done
END
