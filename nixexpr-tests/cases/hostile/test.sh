# Builds that attack what memoizes their compiles, or get in its way: another build's
# bytes stay right, every call is counted, and no build hangs or ends the executor.
. "$TESTS/harness.sh"
stop_without NIX34

toolchain=$(with_toolchain "$WORK/root") || {
    fail "a toolchain can be imported"
    finish
}
nix34 nix eval --store "$WORK/root" --impure --raw --expr "
    let all = import $PWD { toolchain = \"$toolchain\"; };
        flat = removeAttrs all [ \"first\" \"only\" \"secret\" \"slow-compiler\" ] // all.first // all.only;
    in builtins.concatStringsSep \"\" (map (name:
        \"\${name} \${builtins.unsafeDiscardStringContext flat.\${name}.drvPath}\n\") (builtins.attrNames flat))" > "$WORK/drvs" || {
    fail "the derivations are evaluated"
    finish
}
drv() { sed -n "s/^$1 //p" "$WORK/drvs"; }
store=$WORK/root

# run NAME OPTIONS... DRV...: into $WORK/NAME.json; what has not ended by then hangs
run() {
    local name=$1
    shift
    # shellcheck disable=SC2086 # words or none
    ${as-} timeout --kill-after=5 100 "${program-$DROSTE}" build --json --store "$store" "$@" > "$WORK/$name.json" 2> "$WORK/$name.err" < /dev/null
}
# sum FIELD NAME: over all derivations of a run
sum() { sed -n 's/^ *"'"$1"'": *\([0-9]*\),\{0,1\}$/\1/p' "$WORK/$2.json" | awk '{ n += $1 } END { print n + 0 }'; }
# result NAME: all outputs of a run
result() { sed -n 's/^ *"out": "\(.*\)".*/\1/p' "$WORK/$1.json" | while read -r out; do cat "$store$out"; done; }
builds() { run "$@" || fail "droste builds $1${who-}" "$(tail -n 30 "$WORK/$1.err")"; }
# same NAME: memoized, from memory and not memoized, it is the same
same() {
    builds "$1" "$(drv "$1")" || return
    check "$1 is the same from memory${who-}" run "$1-warm" --rebuild "$(drv "$1")"
    check "$1 is the same without memoization${who-}" run "$1-off" --memo off --rebuild "$(drv "$1")"
}

everyone() {
    # Descriptors of a store's files are no way to the files.
    builds taker "$(drv taker)"
    equal "a build got descriptors${who-}" '3 descriptors
3 descriptors' "$(result taker)"
    builds victim-of-taker "$(drv victim-of-taker)"
    equal "what a build was given is not changed by it${who-}" 41 "$(result victim-of-taker | head -n 1)"
    check "the object that was attacked is used again${who-}" test "$(sum reused victim-of-taker)" -ge 1
    check "it is the same without memoization${who-}" run victim-off --memo off --rebuild "$(drv victim-of-taker)"
    check "the store has what it says${who-}" ${as-} "${program-$DROSTE}" store verify --check-contents --store "$store"

    builds mapped "$(drv mapped)"
    equal "a header changed through a mapping is read again${who-}" ' 0000 01000000                             ....            
 0000 01000000                             ....            
 0000 02000000                             ....            
 0000 02000000                             ....            
 0000 03000000                             ....            ' "$(result mapped)"
    same headers
    check "headers that come and go are children's inputs${who-}" test "$(sum built headers)" -ge 40

    same flipped
    check "no object is of two contents${who-}" test "$(result flipped | grep -c odd)" = 0

    builds noise "$(drv noise)" "$(drv after-noise)"
    equal "what is compiled after noise and beside it is right${who-}" 2 "$(result noise | grep -c '^ 0000 05000000')"
    check "compiles after noise are children${who-}" test "$(sum built noise)" -ge 1
}
everyone

# A wrapper's variables reach the child, or the call is none.
for name in wrapped-by-script wrapped-by-sourcing wrapped-by-program wrapped-by-both; do
    same "$name"
    equal "the variable counts: $name" '07 08 01 01 09' \
        "$(for object in 7 8 empty unset other; do result "$name" | grep -B 1 " $object.o" | sed -n 's/^ 0000 \(..\).*/\1/p'; done | xargs)"
done
check "calls of script wrappers are children" test "$(sum built wrapped-by-script)" -ge 4

# What is not among a build's inputs is not there for its calls.
same stranger
equal "what is no input is not compiled" ' 0000 02000000' "$(result stranger | grep -o '^ 0000 0[0-9]*')"
equal "no object is made of what is no input" asked.o "$(result stranger | grep '^[^ ]*\.o$')"

# Calls whose callers were killed.
before=$SECONDS
builds hanging "$(drv hanging)"
check "compilers that hang and are killed hinder no others" test $((SECONDS - before)) -lt 60
equal "what was killed leaves no object" a.o "$(result hanging | grep '\.o$')"
equal "no hanging compiler runs on" "" "$(pgrep -fx '[^ ]*sleep 287.5')"

builds sparse "$(drv sparse)"
# The compiler ends before it opens them, and so does what was asked for it.
check "huge inputs that no compiler reads are not read" grep -q '"reused": 1' "$WORK/sparse.json"
check "huge inputs make no difference" run sparse-off --memo off --rebuild "$(drv sparse)"

builds many "$(drv many)"
equal "700 compiles at once make their objects" 100 "$(result many)"
# The slow compiler is a wrapper; each of its calls is traced as one.
equal "700 compiles at once are all counted" $((700 + $(nproc))) "$(($(sum built many) + $(sum reused many) + $(sum inPlace many)))"

# shellcheck disable=SC2046 # one word each
builds first $(sed -n 's/^first-. //p' "$WORK/drvs")
equal "a builder's first act can be a child" '5 0' "$(($(sum built first) + $(sum reused first))) $(sum inPlace first)"
# shellcheck disable=SC2046 # one word each
builds only $(sed -n 's/^only-. //p' "$WORK/drvs")
equal "a compiler that is the builder is waited for" '"output-outside-of-build": 1' "$(grep -o '"[a-z-]*": 1$' "$WORK/only.json" | sort -u)"

# Ctrl-C, while another process holds the lock. Shells start what runs in the background
# deaf to it.
env --default-signal=INT "$DROSTE" build -L --store "$store" "$(drv slow)" > /dev/null 2> "$WORK/slow.err" < /dev/null &
holder=$!
for _ in $(seq 200); do
    ! grep -q started "$WORK/slow.err" || break
    sleep 0.1
done
env --default-signal=INT "$DROSTE" build --store "$store" "$(drv slow)" > /dev/null 2> "$WORK/waiter.err" < /dev/null &
waiter=$!
sleep 2
check "who waits for a lock waits" kill -0 "$waiter"
kill -INT "$waiter"
for _ in $(seq 100); do
    kill -0 "$waiter" 2> /dev/null || break
    sleep 0.1
done
check "Ctrl-C ends a build that waits for a lock" test ! -e "/proc/$waiter"
check "it does not end the one that has the lock" kill -0 "$holder"
check "who waits for a lock says so" grep -q 'waiting for' "$WORK/waiter.err"
kill -INT "$holder"
kill -KILL "$waiter" 2> /dev/null
wait "$holder" "$waiter" 2> /dev/null

clean "nothing is left behind" "$store"
verified "the store verifies" "$store"

# As an ordinary user, whose builds and whose store's files have one owner.
if [ "$(id -u)" != 0 ]; then
    skip "the same as another user" "all of this was run by an ordinary user already"
    finish
fi
if ! unshare --user --map-root-user true 2> /dev/null; then
    skip "the same as another user" "no user namespaces on this machine"
    finish
fi
uid=61234
home=$WORK/user
mkdir -p "$home/store/nix"
cp "$DROSTE" "$home/droste"
copy_store "$SHARED/toolchain-store" "$WORK/fresh"
nix34 nix-store --export --store "$WORK/root" $(nix34 nix-store -qR --store "$WORK/root" $(cut -d' ' -f2 "$WORK/drvs")) |
    nix34 nix-store --import --store "$WORK/fresh" > /dev/null
# No files are shared with another's store.
cp -a "$WORK/fresh/nix/." "$home/store/nix"
chown -R "$uid:$uid" "$home"
chmod 711 "$WORK"
as_user() {
    (cd / && env -i PATH="$PATH" HOME="$home" DROSTE_DIR="$home/droste-dir" NIX_CONF_DIR="$NIX_CONF_DIR" \
        setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@")
}
as=as_user who=' as a user' store=$home/store program=$home/droste
everyone
clean "nothing is left behind by a user" "$store"
verified "a user's store verifies" "$store"
finish
