# The host's compiler is an object of the store: the calls after a change of any of its parts
# see the change, those before and after it are remembered apart.
. "$TESTS/harness.sh"
command -v gcc > /dev/null || {
    skip "everything here" "this machine has no gcc"
    finish
}
[ "$(gcc -print-prog-name=as)" = as ] || {
    skip "everything here" "this machine's gcc does not look for its assembler in PATH"
    finish
}
unset DROSTE_SOCKET DROSTE_SESSION
export LC_ALL=C
trap 'droste daemon stop --quiet 2> /dev/null' EXIT
mkdir "$WORK/bin" "$WORK/project"
cd "$WORK/project" || exit 1
echo 'int x;' > x.c
touch -d '1 minute ago' x.c
as=$(command -v as)
export PATH=$WORK/bin:$PATH
# counted: what became of the calls since the last time
counted() {
    droste stats --json > "$WORK/stats.json"
    droste stats --zero
    sed -n 's/^    "\(built\|reused\|inPlace\)": \([0-9]*\).*/\1 \2/p' "$WORK/stats.json" | xargs
}
# compiled SENTENCE EXPECTED: a compile leaves what gcc leaves, and became that
compiled() {
    rm -f x.o plain.o
    gcc -c x.c -o plain.o 2> "$WORK/plain.err"
    local plain=$? status
    droste cc gcc -c x.c -o x.o 2> "$WORK/err"
    status=$?
    equal "$1: it ends as gcc does" "$plain" "$status"
    equal "$1: it leaves what gcc leaves" "$(cat plain.o 2> /dev/null | sha256sum)" "$(cat x.o 2> /dev/null | sha256sum)"
    equal "$1" "$2" "$(counted)"
}
droste stats --zero
compiled "a compile is built" "built 1 reused 0 inPlace 0"
compiled "and reused" "built 0 reused 1 inPlace 0"

cp "$as" "$WORK/bin/as"
compiled "an assembler that appears earlier in PATH is another compiler" "built 1 reused 0 inPlace 0"
compiled "which is remembered, too" "built 0 reused 1 inPlace 0"
# As a package manager does it: another file by the same name, of the same size.
cp "$WORK/bin/as" "$WORK/new"
printf 'x' >> "$WORK/new"
printf 'y' >> "$WORK/bin/as"
compiled "one that is written to is another" "built 1 reused 0 inPlace 0"
mv "$WORK/new" "$WORK/bin/as"
compiled "and one that is replaced" "built 1 reused 0 inPlace 0"
rm "$WORK/bin/as"
compiled "the compiler of the beginning is known" "built 0 reused 1 inPlace 0"

# A daemon of later looks at the files, and reads them no more than need be.
records=$(wc -l < "$DROSTE_DIR/store/nix/var/droste/host-compilers")
droste daemon stop --quiet
compiled "so it is to the next daemon" "built 0 reused 1 inPlace 0"
equal "who has not read it again" "$records" "$(wc -l < "$DROSTE_DIR/store/nix/var/droste/host-compilers")"

# A script is no compiler. What it calls is.
printf '#!/bin/sh\nexec %s -DWRAPPED "$@"\n' "$(command -v gcc)" > "$WORK/bin/wrapped-gcc"
chmod 755 "$WORK/bin/wrapped-gcc"
droste cc "$WORK/bin/wrapped-gcc" -c x.c -o x.o
equal "a wrapper script runs in place" "0 built 0 reused 0 inPlace 1" "$? $(counted)"

# What is damaged is no compiler either, and the shell's own error is told.
head -c 1000 "$(readlink -f "$(command -v gcc)")" > "$WORK/bin/cut-gcc"
chmod 755 "$WORK/bin/cut-gcc"
droste cc "$WORK/bin/cut-gcc" -c x.c > /dev/null 2>&1
check "a damaged compiler fails" test $? != 0
equal "and is not memoized" "built 0 reused 0 inPlace 1" "$(counted)"
finish
