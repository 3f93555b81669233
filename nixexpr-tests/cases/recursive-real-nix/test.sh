# Droste's shims in a build by real Nix: with `recursive-nix` each plain compile is a derivation of
# its own in Nix's store, found again by the next build; and the bytes are those without.
. "$TESTS/harness.sh"
stop_without NIX34

store=$WORK/root
toolchain=$(with_toolchain "$store") || {
    fail "a toolchain can be imported"
    finish
}
shims=$(droste shims --store "$store" --print-path) || fail "the shims are added to the store"
# build NAME ARGUMENTS...: its output is linked at $WORK/NAME, its log in $WORK/NAME.log
build() {
    local name=$1
    shift
    "${nix:-nix34}" nix-build --store "$store" --no-out-link . --argstr toolchain "$toolchain" "$@" > "$WORK/$name.out" 2> "$WORK/$name.log" < /dev/null &&
        ln -sfn "$store$(cat "$WORK/$name.out")" "$WORK/$name"
}
children() { ls "$store/nix/store" | grep -E -- '-[a-z]+\.o\.drv$' | sed 's/^[^-]*-//' | sort; }
in_place() { grep -o 'droste: in place: .*' "$WORK/$1.log" | sort | uniq -c | sed 's/^ *//'; }
# same NAME NAME: two builds have the same files
same() { check "$3" diff -r "$WORK/$1/" "$WORK/$2/"; }

build plain || fail "real Nix builds the project without shims" "$(tail -n 20 "$WORK/plain.log")"
build shims --argstr shims "$shims" || fail "real Nix builds the project with shims" "$(tail -n 20 "$WORK/shims.log")"
same plain shims "what real Nix builds with the shims has the same bytes"
equal "each compile that can be is a derivation of its own" 'first.o.drv
main.o.drv
second.o.drv' "$(children)"
check "what cannot be runs in place, and says why" grep -q 'in place: time-macro' "$WORK/shims.log"
check "a warning is printed" grep -q 'unused variable' "$WORK/shims.log"
build changed --argstr shims "$shims" --argstr body 2 || fail "real Nix builds the changed project with shims" "$(tail -n 20 "$WORK/changed.log")"
build changed-plain --argstr body 2
same changed-plain changed "what real Nix builds with shims after a change has the same bytes"
equal "after a change of one file, one compile is new" 'first.o.drv
main.o.drv
second.o.drv
second.o.drv' "$(children)"
equal "the same calls run in place as before" "$(in_place shims)" "$(in_place changed)"
check "a warning is printed again" grep -q 'unused variable' "$WORK/changed.log"
# The same shims in a build by Droste are answered by Droste.
drv=$(nix34 nix-instantiate --store "$store" . --argstr toolchain "$toolchain" --argstr shims "$shims" --argstr body 3)
droste build --json --store "$store" "$drv" > "$WORK/droste.json" 2> "$WORK/droste.err" || fail "Droste builds with the shims" "$(cat "$WORK/droste.err")"
built=$(sed -n 's/^ *"built": *\([0-9]*\),\{0,1\}$/\1/p' "$WORK/droste.json" | awk '{ n += $1 } END { print n + 0 }')
check "in a build by Droste the shims ask Droste" test "$built" -ge 3
if [ -n "$NIX26" ]; then
    before=$(children)
    nix=nix26 build older --argstr shims "$shims" --argstr body 4 || fail "Nix 2.26 builds with the shims" "$(tail -n 20 "$WORK/older.log")"
    build older-plain --argstr body 4
    same older-plain older "what Nix 2.26 builds with the shims has the same bytes"
    equal "the same calls run in place as with 2.34" "$(in_place shims)" "$(in_place older)"
    equal "what 2.34 has built is found, but for one compile" second.o.drv "$(comm -13 <(echo "$before") <(children))"
else
    skip "the same with Nix 2.26" "$NIX26_WHY"
fi
verified "the store verifies after builds with shims" "$store"
finish
