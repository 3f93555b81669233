# A compiler of the store, called in a checkout of the machine that has that store: what was
# compiled there the derivation reuses, and the other way round.
. "$TESTS/harness.sh"
stop_without NIX34
if ! unshare --user --map-root-user true 2> /dev/null; then
    skip "everything here" "no user namespaces"
    finish
fi
from=$(sources lua)
[ -d "$from" ] || {
    skip "everything here" "Lua's sources cannot be fetched"
    finish
}
toolchain=$(with_toolchain "$WORK/on") || {
    fail "a toolchain can be imported"
    finish
}
copy_store "$WORK/on" "$WORK/off"
unset LANG LANGUAGE LC_ALL CPATH DROSTE_SOCKET DROSTE_SESSION
here=$PWD

# checkout DIRECTORY: some of Lua, and one file that has a warning
checkout() {
    mkdir -p "$1"
    cp "$from"/*.h "$from"/l[a-g]*.c "$here/compile.sh" "$1"
    printf 'int warned(void) { int unused; return sizeof __FILE__; }\n' > "$1/warned.c"
    printf 'int broken(void) { return }\n' > "$1/broken.inc"
    touch -d '1 minute ago' "$1"/*
}
# on_machine COMMAND...: on a machine that has the store at /nix
on_machine() {
    with_private_nix "$WORK/on/nix" env PATH="$toolchain/bin:$PATH" DROSTE_DIR="$WORK/memo" flags="$flags" "$@"
}
# count NAME FILE: a number among what `droste build --json` printed
count() { sed -n 's/^ *"'"$1"'": \([0-9]*\),\{0,1\}$/\1/p' "$2" | head -n 1; }
# in_checkout NAME: compiles what is in the current directory; the counts are in $WORK/NAME.counts
in_checkout() {
    rm -f ./*.o ./*.d messages.txt
    # shellcheck disable=SC2016 # for the shell on the machine
    on_machine sh -c '
        "$1" --store / stats --zero &&
        "$1" --store / run --quiet -- bash compile.sh &&
        "$1" --store / stats --json > "$2"
        "$1" --store / daemon stop --quiet' sh "$DROSTE" "$WORK/$1.json" > "$WORK/$1.out" 2>&1 ||
        fail "$1: the checkout is compiled" "$(cat "$WORK/$1.out")"
}
# in_derivation NAME DIRECTORY: the same by a derivation, with memoization and without
in_derivation() {
    local sources drv store
    for store in on off; do
        rm -rf "$WORK/sources" && mkdir "$WORK/sources" && cp ./*.[ch] compile.sh broken.inc "$WORK/sources"
        sources=$(nix34 nix-store --store "$WORK/$store" --add "$WORK/sources")
        drv=$(nix34 nix-instantiate --store "$WORK/$store" "$here" --argstr toolchain "$toolchain" \
            --argstr sources "$sources" --argstr directory "$2" --argstr flags "$flags")
    done
    droste build --json --store "$WORK/on" "$drv" > "$WORK/$1.json" 2> "$WORK/$1.err" < /dev/null ||
        fail "droste builds $1" "$(tail -n 30 "$WORK/$1.err")"
    droste build --memo off --store "$WORK/off" "$drv" > "$WORK/out" 2> "$WORK/$1.err" < /dev/null ||
        fail "droste builds $1 without memoization" "$(tail -n 30 "$WORK/$1.err")"
    out=$(cat "$WORK/out")
    equal "$1: the output is the same without memoization" "" "$(diff -r "$WORK/off$out" "$WORK/on$out" 2>&1)"
}
# counted NAME BUILT REUSED
counted() {
    equal "$1: calls that become children, reuse them, and run in place" "$2 $3 0" \
        "$(count built "$WORK/$1.json") $(count reused "$WORK/$1.json") $(count inPlace "$WORK/$1.json")"
}

flags='-O1'
checkout "$WORK/some/where/lua"
cd "$WORK/some/where/lua" || exit 1
calls=$(($(ls ./*.c | wc -l) + 1))
in_checkout first
counted first "$calls" 0
mkdir "$WORK/first" && cp ./*.o ./*.d messages.txt "$WORK/first"
in_checkout again
counted again 0 "$calls"
# All but the call that fails, which is known by what it looked up where it was, and the one that
# prints something, since builds have a terminal.
in_derivation derivation source
counted derivation 2 "$((calls - 2))"
equal "what the derivation makes is what the checkout had" "" "$(diff -r "$WORK/first" "$WORK/on$out" 2>&1)"
in_derivation "another directory" lua-5.4
counted "another directory" 1 "$((calls - 1))"

# The other way round.
echo 'int more;' >> lapi.c
in_derivation edited source
counted edited 1 "$((calls - 1))"
touch -d '1 minute ago' lapi.c
in_checkout "after the derivation"
counted "after the derivation" 0 "$calls"
equal "what the checkout has is what the derivation made" "" \
    "$(for file in *.o *.d messages.txt; do cmp "$file" "$WORK/on$out/$file" 2>&1; done)"

# Debug information has the directory in it.
flags='-O1 -g'
in_checkout debug
counted debug "$calls" 0
in_derivation "debug derivation" source
counted "debug derivation" "$calls" 0
verified "the store verifies" "$WORK/on"
finish
