# `droste daemon`: real Nix, each version, as its client; and how it ends.
. "$TESTS/harness.sh"
stop_without NIX34

store=$DROSTE_DIR/store
socket=$DROSTE_DIR/daemon.socket
seed=$WORK/seed
busybox=$(busybox_into "$seed")
copy_store "$seed" "$store"
check "stopping no daemon is no failure" droste daemon stop
"$DROSTE" daemon > "$WORK/daemon.log" 2>&1 < /dev/null &
daemon=$!
for _ in $(seq 100); do
    [ ! -S "$socket" ] || break
    sleep 0.1
done
check "the daemon listens" test -S "$socket"
refused "a second daemon is refused" 1 'running' timeout 20 "$DROSTE" daemon
# The client looks for store paths as files, so it is told where they are.
url="unix://$socket?root=$store"
i=0
for version in 34 26 28; do
    name=NIX$version why=NIX${version}_WHY
    if [ -z "${!name}" ]; then
        skip "clients of Nix 2.$version" "${!why}"
        continue
    fi
    nix=nix$version
    check "$nix is answered" $nix nix store ping --store "$url"
    i=$((i + 1))
    echo "thing $version" > "$WORK/thing"
    added=$($nix nix-store --store "$url" --add "$WORK/thing" 2> "$WORK/err") || cat "$WORK/err"
    equal "$nix adds a file" "$(nix34 nix-store --store "$WORK/judge" --add "$WORK/thing")" "$added"
    equal "$nix reads what it added" "thing $version" "$(cat "$store$added")"
    equal "$nix asks for a hash" "$(nix34 nix-store -q --hash --store "$WORK/judge" "$added")" "$($nix nix-store -q --hash --store "$url" "$added")"
    for attribute in simple multiple-outputs chain fixed-flat-sha256 floating-simple input-addressed-on-floating; do
        drv=$($nix nix-instantiate --store "$url" ../differential -A "$attribute" --argstr busybox "$busybox" 2> "$WORK/err") || {
            fail "$nix instantiates $attribute" "$(tail -n 5 "$WORK/err")"
            continue
        }
        drv=${drv%%!*}
        got=$($nix nix-store -r --store "$url" "$drv" 2> "$WORK/err") || {
            fail "$nix has $attribute built" "$(tail -n 5 "$WORK/err")"
            continue
        }
        nix34 nix-store --export --store "$store" $(nix34 nix-store -qR --store "$store" "$drv") | nix34 nix-store --import --store "$WORK/judge" > /dev/null
        equal "$nix has $attribute built as by Nix 2.34" "$(nix34 nix-store -r --store "$WORK/judge" "$drv" 2> /dev/null | sort)" "$(sort <<< "$got")"
    done
    drv=$($nix nix-instantiate --store "$url" ../differential -A fails --argstr busybox "$busybox" 2> /dev/null)
    # The protocol has no exit status: through any daemon, it is 1.
    refused "$nix is told of a failure, with the log" 1 'last words' $nix nix-store -r --store "$url" "$drv"
    check "$nix lists the paths" $nix nix path-info --store "$url" --all
    check "$nix copies from the daemon" $nix nix copy --no-check-sigs --from "$url" --to "$WORK/copy-$version" "$added"
done

nixes=nix34
[ -z "$NIX26" ] || nixes="$nixes nix26"
[ -z "$NIX28" ] || nixes="$nixes nix28"
# What builds say: to each Nix as with nix-daemon 2.34, the judge.
copy_store "$seed" "$WORK/by-nix"
NIX_DAEMON_SOCKET_PATH=$WORK/nix.socket "$NIX34/nix-daemon" --store "$WORK/by-nix" > "$WORK/nix-daemon.log" 2>&1 &
nix_daemon=$!
for _ in $(seq 100); do [ ! -S "$WORK/nix.socket" ] || break; sleep 0.1; done
judge="unix://$WORK/nix.socket?root=$WORK/by-nix"
# said NIX URL ATTRIBUTE OPTION...: standard error of that build
said() {
    local nix=$1 store=$2 attribute=$3
    shift 3
    $nix nix build --no-link --store "$store" --argstr busybox "$busybox" -f messages.nix "$attribute" "$@" 2>&1 > /dev/null
}
for what in says resolved chain "says --rebuild" "resolved --rebuild"; do
    equal "events of $what are those of nix-daemon" \
        "$(said nix34 "$judge" $what --log-format internal-json -v | python3 events.py)" \
        "$(said nix34 "$url" $what --log-format internal-json -v | python3 events.py)"
done
# words URL ATTRIBUTE: those of 2.34, which also lists the outputs, and what there is to build on
words() { said nix34 "$1" "$2" | sed -e '/Output paths:/,+1d'; }
for attribute in fails mismatch; do
    equal "the words of $attribute are those of nix-daemon" "$(words "$judge" $attribute)" "$(words "$url" $attribute)"
done
check "what cannot be built here is told as by Nix" grep -q "Cannot build '.*-wrong-system.drv'." <<< "$(words "$url" wrong-system)"
for nix in $nixes; do
    said $nix "$url" chain > "$WORK/said"
    equal "$nix is told once why a dependency failed, with its log" "1 1" \
        "$(grep -c "fails.drv.*failed with exit code 7\|builder failed with exit code 7" "$WORK/said") $(grep -c "> the cause" "$WORK/said")"
    said $nix "$url" both --keep-going > "$WORK/said"
    equal "and, if it keeps going, of every one ($nix)" "1 1" "$(grep -c "> the cause" "$WORK/said") $(grep -c "> another cause" "$WORK/said")"
done
for store_url in "$judge" "$url"; do said nix34 "$store_url" raw > /dev/null; done
kept() { python3 -c 'import bz2, glob, sys; [sys.stdout.buffer.write(bz2.open(name).read()) for name in glob.glob(sys.argv[1] + "/nix/var/log/nix/drvs/*/*-raw.drv.bz2")]' "$1" | base64; }
check "a log is kept" test -n "$(kept "$store")"
equal "as the builder wrote it" "$(kept "$WORK/by-nix")" "$(kept "$store")"

# What is done to the store is told in the same words: what is damaged, deleted, freed. Sizes and
# roots apart; Droste adds why something cannot be repaired.
keeps() {
    local url=$1 root=$2 added
    echo damaged > "$WORK/damaged"
    added=$(nix34 nix-store --store "$url" --add "$WORK/damaged")
    chmod u+w "$root$added" && echo more >> "$root$added"
    ln -s "$added" "$root/nix/var/nix/gcroots/kept"
    "$NIX34/nix-store" --store "$url" --delete "$added" 2>&1 | tail -n 1
    rm "$root/nix/var/nix/gcroots/kept"
    for arguments in "--verify --check-contents" "--verify --check-contents --repair" "--delete $added" "--delete $added" "--gc --print-dead" --optimise; do
        "$NIX34/nix-store" --store "$url" $arguments 2>&1
        echo "status $?"
    done | sed -e '/^removing stale/d' -e '/^.nix.store/d' -e '/^       /d' -e 's/-*[0-9.]* [KM]iB/SIZE/' -e 's/[0-9]* files/FILES/'
}
equal "what is done to the store is told as by nix-daemon" "$(keeps "$judge" "$WORK/by-nix")" "$(keeps "$url" "$store")"

# What outputs turned out to be, by the paths of their derivations.
drv=$(nix34 nix-instantiate --store "$url" ../differential -A floating-flat --argstr busybox "$busybox" 2> /dev/null)
python3 by_path.py "$socket" "$drv" > "$WORK/by-path" 2>&1
out=$(nix34 nix-store -r --store "$url" "$drv" 2> /dev/null)
absent=/nix/store/00000000000000000000000000000000-absent
equal "a client that keys realisations by paths is served" "features ['realisation-with-path-not-hash'] None
build None
result $drv!* 0  [('out', '$out', [])]
result $absent 14 path '$absent' is required, but there is no substituter that can build it []
query $out []
query None
register None
query $out []
register cannot register a realisation
query $out []
log None 1" "$(sed 's/^\(register cannot register a realisation\):.*/\1/' "$WORK/by-path")"
equal "its log is kept" log \
    "$(python3 -c 'import bz2, sys; print(bz2.open(sys.argv[1], "rt").read(), end="")' "$store/nix/var/log/nix/drvs/11/111111111111111111111111111111-other.drv.bz2")"

# What was held for clients goes with them, as their own daemons' roots would.
dead() { "$@" --gc --print-dead 2> /dev/null | sort; }
check "what clients had made is garbage when they have gone" grep -qxF "$out" <(dead nix34 nix-store --store "$store")
# What runs on this machine meanwhile may mention paths of the same names.
for _ in $(seq 20); do
    theirs=$(dead nix34 nix-store --store "$store") ours=$(dead nix34 nix-store --store "$url")
    [ "$theirs" != "$ours" ] || break
    sleep 0.2
done
equal "to the daemon, too" "$theirs" "$ours"
python3 by_path.py "$socket" "$drv" hold > "$WORK/holding" &
holding=$!
for _ in $(seq 100); do
    ! grep -q holding "$WORK/holding" || break
    sleep 0.1
done
check "as long as a client is there, what it had made is not" sh -c "! grep -qxF '$out'" < <(dead nix34 nix-store --store "$store")
kill "$holding"
wait "$holding" 2> /dev/null
for _ in $(seq 100); do
    ! dead nix34 nix-store --store "$store" | grep -qxF "$out" || break
    sleep 0.1
done
check "then it is again" grep -qxF "$out" <(dead nix34 nix-store --store "$store")

# By standard input and output, as ssh-ng has it: through the running daemon, and without.
printf '#!/bin/sh\nexec "%s" daemon "$@" 2>> "%s"\n' "$DROSTE" "$WORK/stdio.err" > "$WORK/remote"
chmod +x "$WORK/remote"
by_stdio() {
    local how=${1// /-} nix added drv want
    shift
    for nix; do
        echo "thing by $nix $how" > "$WORK/thing"
        # `nix` and not `nix-store`, whose `--add` reads what it has added from its own store.
        added=$($nix nix store add-file --store "$remote" "$WORK/thing" 2> "$WORK/err") || cat "$WORK/err"
        equal "$nix adds a file $how" "thing by $nix $how" "$($nix nix store cat --store "$remote" "$added")"
        drv=$(nix34 nix-instantiate --store "$seed" --expr --argstr name "$nix-$how" '
          { name }: derivation {
            inherit name;
            system = "x86_64-linux";
            builder = "${builtins.storePath '"$busybox"'}/bin/sh";
            args = [ "-c" "echo $name > $out" ];
          }' 2> /dev/null)
        want=$(nix34 nix-store -q --outputs --store "$seed" "$drv")
        check "$nix copies a derivation $how" $nix nix copy --derivation --no-check-sigs --from "$seed" --to "$remote" "$drv"
        case $nix in
        nix28) check "$nix has it built $how" $nix nix build --no-link --store "$remote" "$drv" ;;
        *) check "$nix has it built $how" $nix nix build --no-link --store "$remote" "$drv^*" ;;
        esac
        check "$nix gets the output $how" $nix nix copy --no-check-sigs --from "$remote" --to "$WORK/by-stdio-$nix" "$want"
    done
}
remote="ssh-ng://localhost?remote-program=$WORK/remote"
by_stdio "through the daemon" $nixes
# The pid file's lock is the daemon's: no other process may have opened the store.
equal "those are the daemon's builds" 1 "$(ls -d "$store"/nix/var/nix/builds/droste-* | wc -l)"
check "the daemon is stopped" timeout 30 "$DROSTE" daemon stop
wait "$daemon"
equal "a stopped daemon ends with success" 0 $?
[ ! -e "$socket" ] && pass "the socket is gone" || fail "the socket is gone"
by_stdio "without a daemon" $nixes
# A client that says nothing, and stays.
mkfifo "$WORK/silent" && exec 8<> "$WORK/silent"
"$WORK/remote" --stdio < "$WORK/silent" > /dev/null 8>&- &
waiting=$!
for _ in $(seq 100); do
    [ -z "$(ls "$store/nix/var/nix/builds")" ] || break
    sleep 0.1
done
kill -TERM "$waiting"
wait "$waiting"
equal "a signal ends the process" 0 $?
exec 8>&-
clean "nothing is left behind" "$store"
verified "the store verifies" "$store"
kill "$nix_daemon"

# Started by the first client, as systemd does it: the socket is there before, and stays.
if command -v perl > /dev/null; then
    handed=$WORK/handed.socket
    perl -MSocket -MPOSIX -e '
        $^F = 9;
        my ($place, $notify, @command) = @ARGV;
        my ($told, $clients);
        socket($told, PF_UNIX, SOCK_DGRAM, 0) && bind($told, pack_sockaddr_un($notify)) or die $!;
        socket($clients, PF_UNIX, SOCK_STREAM, 0) && bind($clients, pack_sockaddr_un($place)) && listen($clients, 8) or die $!;
        my $child = fork;
        if (!$child) {
            POSIX::dup2(fileno($clients), 3);
            @ENV{qw(LISTEN_FDS LISTEN_PID LISTEN_FDNAMES NOTIFY_SOCKET)} = (1, $$, "clients", $notify);
            exec @command;
        }
        for (1, 2) { recv($told, my $state, 100, 0); print "$state\n" }
        waitpid($child, 0);
        print "status $?\n"' "$handed" "$WORK/notify.socket" "$DROSTE" daemon --idle-seconds 1 > "$WORK/activated" 2> "$WORK/daemon.log" < /dev/null &
    activated=$!
    for _ in $(seq 100); do
        [ ! -S "$handed" ] || break
        sleep 0.1
    done
    # Who comes before the daemon is ready waits for it.
    check "a client of a socket that was handed over is served" timeout 30 "$NIX34/nix" store info --store "unix://$handed?root=$store"
    wait "$activated"
    equal "who handed it over is told of the begin and the end" $'READY=1\nSTOPPING=1\nstatus 0' "$(cat "$WORK/activated")"
    check "a socket that was handed over stays" test -S "$handed"
else
    skip "a socket that was handed over" "no perl"
fi
LISTEN_FDS=1 LISTEN_PID=1 refused "sockets for another process are not taken" 1 'for process `1`' timeout 20 "$DROSTE" daemon

# A daemon that is killed hinders nobody.
"$DROSTE" daemon > "$WORK/daemon.log" 2>&1 < /dev/null &
daemon=$!
for _ in $(seq 100); do
    [ ! -S "$socket" ] || break
    sleep 0.1
done
disown "$daemon"
kill -KILL "$daemon"
wait "$daemon" 2> /dev/null
check "stopping a killed daemon is no failure" timeout 30 "$DROSTE" daemon stop
"$DROSTE" daemon > "$WORK/daemon.log" 2>&1 < /dev/null &
daemon=$!
for _ in $(seq 50); do
    ! nix34 nix store ping --store "$url" > /dev/null 2>&1 || break
    sleep 0.1
done
check "another daemon starts after that" nix34 nix store ping --store "$url"
kill -TERM "$daemon"
wait "$daemon"
equal "a daemon ends by SIGTERM" 0 $?
finish
