# What security advisories on Nix tell of, tried with Droste. docs/security.md says which are tried
# elsewhere.
. "$TESTS/harness.sh"
stop_without NIX34
umask 022

cp -a "$BUSYBOX" "$WORK/tools"
cc -O1 -static -o "$WORK/tools/bin/attack" attack.c || {
    fail "the attacker can be compiled"
    finish
}
store=$WORK/store
busybox=$(nix34 nix-store --store "$store" --add-fixed --recursive sha256 "$WORK/tools")
mkdir "$WORK/machine" && victim=$WORK/machine/precious
echo precious > "$victim" && chmod 640 "$victim"
state() { stat -c '%a %u %g %s %Y' "$victim" "$WORK/machine"; ls -A "$WORK/machine"; cat "$victim"; }
before=$(state)
unharmed() { equal "$1" "$before" "$(state)"; }
drv() {
    nix34 nix-instantiate --store "$store" "$PWD" --argstr busybox "$busybox" --argstr victim "$victim" -A "$1" 2> "$WORK/err" || cat "$WORK/err" >&2
}
# build NAME [OPTIONS...]: into $WORK/NAME.out and .err
build() { droste build -L --store "$store" "${@:2}" "$(drv "$1")" > "$WORK/$1.out" 2> "$WORK/$1.err" < /dev/null; }
# wait_for FILE
wait_for() { for _ in $(seq 100); do [ ! -e "$1" ] || return 0; sleep 0.05; done; return 1; }

# CVE-2024-27297: a fixed output's builder passes its output, open, to somebody outside.
mkdir "$WORK/outside"
"$WORK/tools/bin/attack" take droste-advisory "$WORK/outside" &
attacker=$!
wait_for "$WORK/outside/listening" || fail "the attacker listens"
build passes-its-output || fail "the build succeeds" "$(cat "$WORK/passes-its-output.err")"
touch "$WORK/outside/go"
if ! grep -q "not given" "$WORK/passes-its-output.err"; then
    wait_for "$WORK/outside/written" || fail "the attacker writes to what it has got"
    wait $attacker 2> /dev/null
else
    kill $attacker
fi
equal "CVE-2024-27297: nobody has an open file of a fixed output" content "$(cat "$store$(cat "$WORK/passes-its-output.out")")"
verified "CVE-2024-27297: the store is what was registered" "$store"

# CVE-2024-38531, CVE-2025-53819: what others can do while a build runs.
"$DROSTE" build -L --store "$store" "$(drv waits)" > /dev/null 2> "$WORK/waits.err" < /dev/null &
waiting=$!
for _ in $(seq 200); do ! grep -q begun "$WORK/waits.err" || break; sleep 0.05; done
check "the build waits" grep -q begun "$WORK/waits.err"
refused "CVE-2024-38531: it makes no set-user-id program" 1 "" grep -q "a set-user-id program" "$WORK/waits.err"
place=$(find "$store/nix/var/nix/builds" -name is-there 2> /dev/null | head -n 1)
check "it has its directory there" test -n "$place"
if [ "$(id -u)" = 0 ]; then
    chmod 755 "$WORK"
    as_other() { setpriv --reuid 61999 --regid 61999 --clear-groups "$@"; }
    check "somebody else can look at the store" as_other ls "$store/nix/store"
    refused "CVE-2024-38531: nobody else reaches into a build's directory" 1 "" as_other test -e "$place"
    refused "CVE-2025-52991: nor lists what is built" 2 "" as_other ls "$(dirname "$(dirname "$(dirname "$place")")")"
    uids=$(for process in $(pgrep -x sh) $(pgrep -x sleep); do
        [ "$(readlink "/proc/$process/ns/pid")" = "$(readlink /proc/self/ns/pid)" ] ||
            ! tr '\0' '\n' < "/proc/$process/environ" | grep -q '^NIX_STORE=' || sed -n 's/^Uid:\t//p' "/proc/$process/status"
    done 2> /dev/null | tr '\t' '\n' | sort -u)
    if [ -n "$uids" ] && ! grep -qx 0 <<< "$uids"; then
        pass "CVE-2025-53819: builders are not root"
    else
        fail "CVE-2025-53819: builders are not root" "their users: $uids"
    fi
else
    skip "what other users can do" "not root"
fi
# CVE-2025-52991
dir=$(dirname "$(dirname "$place")") open=''
while [ "$dir" != "$WORK" ] && [ "$dir" != / ]; do
    [ -z "$(find "$dir" -maxdepth 0 -perm -o+w)" ] || open="$open $dir"
    dir=$(dirname "$dir")
done
equal "CVE-2025-52991: no directory above a build's is everybody's" "" "$open"
kill $waiting
wait $waiting 2> /dev/null

# CVE-2025-46416: processes that stay behind.
build stays-behind || fail "the build ends" "$(cat "$WORK/stays-behind.err")"
equal "CVE-2025-46416: nothing of a build outlives it" "" "$(pgrep -fx 'sleep 4391')"

# CVE-2025-52992: what a failed build leaves.
build fails-with-open-modes --keep-failed && fail "it fails"
equal "CVE-2025-52992: a failed build's output is not in the store" "" "$(ls -A "$store/nix/store" | grep 'fails-with-open-modes$')"
kept=$(sed -n 's/.*keeping build directory `\(.*\)`.*/\1/p' "$WORK/fails-with-open-modes.err")
equal "CVE-2025-52992: what is kept can be changed by its owner alone" 755 "$(stat -c %a "$kept")"

# CVE-2025-52993: owners and modes of what is not the build's.
for name in links-to-the-machine is-a-link replaces-its-directory; do
    build "$name" --keep-failed
    unharmed "CVE-2025-52993: $name changes nothing of the machine's"
done
grep -q "failed with exit code 1" "$WORK/replaces-its-directory.err" || fail "what replaces its directory has failed by itself" "$(cat "$WORK/replaces-its-directory.err")"

# CVE-2026-39860: links where the executor could write.
build lays-links || fail "the build succeeds" "$(cat "$WORK/lays-links.err")"
unharmed "CVE-2026-39860: nothing is written through a build's links"

# CVE-2024-51481: builtin builders are in the sandbox.
build fetches-of-the-machine && fail "CVE-2024-51481: a builtin builder reads a file of the machine's"
check "CVE-2024-51481: a builtin builder does not see the machine's files" grep -q "Could not open file\|Could not read" "$WORK/fetches-of-the-machine.err"

# Issue 15743: the machine's file systems have attributes.
build lists-attributes || fail "the build succeeds" "$(cat "$WORK/lists-attributes.err")"
equal "#15743: no attribute of a file can be listed or removed" "-1 -1 -1
-1 -1 -1" "$(cat "$store$(cat "$WORK/lists-attributes.out")")"

# Names that climb.
for name in climbing-graph climbing-attribute; do
    build "$name"
    unharmed "$name changes nothing of the machine's"
done

# CVE-2024-45593, CVE-2026-44028: archives, as a client sends them.
word() {
    local text=$1 digits
    digits=$(printf '%016x' "${#text}")
    printf "\\x${digits:14:2}\\x${digits:12:2}\\x${digits:10:2}\\x${digits:8:2}\\x${digits:6:2}\\x${digits:4:2}\\x${digits:2:2}\\x${digits:0:2}%s" "$text"
    head -c $(((8 - ${#text} % 8) % 8)) /dev/zero
}
words() { local text; for text; do word "$text"; done; }
entry() { words entry '(' name "$1" node; }
{
    words nix-archive-1 '(' type directory
    entry a && words '(' type symlink target "$WORK/machine" ')' ')'
    entry a && words '(' type directory && entry precious && words '(' type regular contents changed ')' ')' ')' ')'
    words ')'
} > "$WORK/through-a-link.nar"
{
    words nix-archive-1 '(' type directory
    entry a/../../machine/precious && words '(' type regular contents changed ')' ')'
    words ')'
} > "$WORK/climbing.nar"
{ words '(' type directory && entry a; } > "$WORK/levels"
for _ in $(seq 15); do cat "$WORK/levels" "$WORK/levels" > "$WORK/more" && mv "$WORK/more" "$WORK/levels"; done
{ word nix-archive-1 && cat "$WORK/levels"; } > "$WORK/deep.nar"
{
    words nix-archive-1 '(' type regular contents
    printf '\xf8\xff\xff\xff\xff\xff\xff\xff'
    head -c 4096 /dev/zero
} > "$WORK/long.nar"
droste daemon --store "$store" --socket "$WORK/socket" > "$WORK/daemon.log" 2>&1 &
wait_for "$WORK/socket" || fail "the daemon serves" "$(cat "$WORK/daemon.log")"
number() { printf '%016x' "$1" | sed 's/\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)/\\x\8\\x\7\\x\6\\x\5\\x\4\\x\3\\x\2\\x\1/'; }
path=/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-archive
for archive in through-a-link climbing deep long; do
    size=$(stat -c %s "$WORK/$archive.nar")
    # A greeting of protocol 1.35, then AddToStoreNar with the archive in frames.
    {
        printf "$(number $((0x6e697863)))$(number $((0x123)))$(number 0)$(number 0)"
        printf "$(number 39)"
        words "$path" '' 0000000000000000000000000000000000000000000000000000000000000000
        printf "$(number 0)$(number 0)$(number "$size")$(number 0)$(number 0)"
        word ''
        printf "$(number 0)$(number 1)$(number "$size")"
        cat "$WORK/$archive.nar"
        printf "$(number 0)"
    } > "$WORK/$archive.request"
    timeout 30 "$BUSYBOX/bin/probe" send "$WORK/socket" < "$WORK/$archive.request" > "$WORK/$archive.answer"
    check "CVE-2024-45593, CVE-2026-44028: $archive is answered with an error" grep -qa "cxlt\|error\|NAR\|archive" "$WORK/$archive.answer"
    equal "nothing of $archive is there" "" "$(ls -A "$store/nix/store" | grep archive)"
    unharmed "$archive changes nothing of the machine's"
done
check "the daemon serves on" nix34 nix-store --store "unix://$WORK/socket?root=$store" -q --hash "$busybox"
check "the daemon ends" droste daemon stop
verified "the store verifies after all that" "$store"
rm -rf "$store"/nix/var/nix/builds/nix-*
clean "nothing is left behind" "$store"
finish
