# A package whose derivation changes with every edit, and with it `$out`, which is in its
# `config.h` and its flags: compiles of what was not edited are still reused, and the
# outputs are those of a build without memoization.
. "$TESTS/harness.sh"
stop_without NIX34

toolchain=$(with_toolchain "$WORK/on") || {
    fail "a toolchain can be imported"
    finish
}
copy_store "$WORK/on" "$WORK/off"
# count NAME FILE: a number among what `droste build --json` printed
count() { sed -n 's/^ *"'"$1"'": \([0-9]*\),\{0,1\}$/\1/p' "$2" | head -n 1; }
# build NAME CC CFLAGS EDIT [DIRECTORY]: with memoization and without, into $WORK/NAME.json
build() {
    build_expression "$1" "$PWD" --argstr cc "$2" --argstr cflags "$3" --argstr edit "$4" \
        --argstr directory "${5:-package-1.0}"
}
# build_expression NAME FILE ARGUMENT...
build_expression() {
    local drv outputs output store
    for store in on off; do
        drv=$(nix34 nix-instantiate --store "$WORK/$store" --argstr toolchain "$toolchain" "${@:2}") || {
            fail "$1 can be instantiated"
            return 1
        }
    done
    droste build --json --store "$WORK/on" "$drv" > "$WORK/$1.json" 2> "$WORK/$1.err" < /dev/null || {
        fail "droste builds $1" "$(tail -n 30 "$WORK/$1.err")"
        return 1
    }
    droste build --memo off --store "$WORK/off" "$drv" > /dev/null 2> "$WORK/$1.off.err" < /dev/null || {
        fail "droste builds $1 without memoization" "$(tail -n 30 "$WORK/$1.off.err")"
        return 1
    }
    outputs=$(nix34 nix-store -q --outputs --store "$WORK/on" "$drv")
    for output in $outputs; do
        if [ "$(path_info "$WORK/off" "$output")" = "$(path_info "$WORK/on" "$output")" ]; then
            pass "$1: ${output#*-} is the same without memoization"
        else
            fail "$1: ${output#*-} is the same without memoization" "$(diff -rq "$WORK/off$output" "$WORK/on$output")"
        fi
    done
}
# reused NAME NUMBER REASONS: how many of the nine compiles were reused, and why
# others can be used by one derivation only
reused() {
    equal "$1: compiles that are reused" "$2" "$(count reused "$WORK/$1.json")"
    equal "$1: compiles that are new" "$((9 - $2))" "$(count built "$WORK/$1.json")"
    equal "$1: why some are of one derivation only" "$3" \
        "$(sed -n 's/^ *"\(stand-in:[a-z-]*\)": \([0-9]*\),\{0,1\}$/\1 \2/p' "$WORK/$1.json")"
}

build "plain" gcc -O2 1 && reused "plain" 0 "stand-in:different-result 1"
# Only the edited file, and the one that looks into the text.
build "plain, edited" gcc -O2 2 && reused "plain, edited" 7 "stand-in:different-result 1"
build "plain, edited again" gcc -O2 3 && reused "plain, edited again" 7 "stand-in:different-result 1"

# why FILE: what differs from the nearest earlier call, without hashes
why() { droste why --store "$WORK/on" "$1" | sed '1,/^nearest/d; s/\/nix\/store\/[a-z0-9]*-//g'; }
equal "why was the edited file compiled: for its content" \
    "input      /build/source/edited.c: edited.c, of 315532800 → edited.c, of 315532800" "$(why edited.o)"
equal "why was a file compiled that was new: for no earlier one" "" "$(why passes.o)"
check "why tells so" grep -q 'nothing of this name' <(droste why --store "$WORK/on" passes.o)
equal "why as JSON names the kind of the difference" '"kind": "input",' \
    "$(droste why --json --store "$WORK/on" edited.o | grep -o '"kind".*')"
refused "why was a file compiled that nobody has compiled" 1 'no call that is remembered left .nothing.o' \
    droste why --store "$WORK/on" nothing.o

# Sources in a directory of another name.
build "another directory" gcc -O2 3 package-1.1 && reused "another directory" 8 "stand-in:different-result 1"
# One that the compiler is told.
build "told directory" gcc "-O2 -fmacro-prefix-map=/build/package-1.1=." 3 package-1.1 &&
    reused "told directory" 0 "stand-in:different-result 1"

# GCC sorts the strings of debug information by hashes of their texts, and its own flags are
# among them. So nothing is shared, and all is right.
build "debug" gcc "-g -O2" 1 && reused "debug" 0 "stand-in:debug-strings 9"
equal "why was a file compiled again: for a new flag" "argument   -g is new" "$(why plain.o | grep -- ' -g')"
build "debug, edited" gcc "-g -O2" 2 && reused "debug, edited" 0 "stand-in:debug-strings 9"
# Without its flags in it, debug information is shared, but where the text itself is in it.
build "short debug" gcc "-g -gno-record-gcc-switches -O2" 1 &&
    reused "short debug" 0 "stand-in:debug-strings 1
stand-in:different-result 1"
build "short debug, edited" gcc "-g -gno-record-gcc-switches -O2" 2 &&
    reused "short debug, edited" 6 "stand-in:debug-strings 1
stand-in:different-result 1"
build "lto" gcc "-O2 -flto" 1 && reused "lto" 0 "stand-in:lto 9"

# Questions about the compiler, failing ones too: anew are those of which the answer has `$out` in a
# program, those that read a file which has it, and those that have a part of it.
new=4 answers=15
build_expression probes probes.nix --argstr edit 1 &&
    equal "probes: all are children" "$answers 0" "$(($(count built "$WORK/probes.json") + $(count reused "$WORK/probes.json"))) $(count inPlace "$WORK/probes.json")"
for edit in 2 3; do
    build_expression "probes, edited $edit" probes.nix --argstr edit $edit &&
        equal "probes, edited $edit: new, reused, in place" "$new $((answers - new)) 0" \
            "$(count built "$WORK/probes, edited $edit.json") $(count reused "$WORK/probes, edited $edit.json") $(count inPlace "$WORK/probes, edited $edit.json")"
    equal "probes, edited $edit: why some are of one derivation only" "name-in-input 1
name-in-result 1
name-matters 1" "$(sed -n 's/^ *"\(name-[a-z-]*\|stand-in:[a-z-]*\)": \([0-9]*\),\{0,1\}$/\1 \2/p' "$WORK/probes, edited $edit.json")"
done

clean "nothing is left behind" "$WORK/on"
verified "the store verifies" "$WORK/on"
finish
