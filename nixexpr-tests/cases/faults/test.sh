# Whatever breaks (the socket, the daemon, its disk, an object in its store), a build goes
# on with the compilers themselves, leaves what a plain build leaves, and warns once.
. "$TESTS/harness.sh"
command -v cc make perl > /dev/null || {
    skip "everything here" "this machine has no C compiler, no make or no perl"
    finish
}
unset MAKEFLAGS MAKELEVEL CC CFLAGS DROSTE_SOCKET DROSTE_SESSION
export LC_ALL=C
homes=() others=()
stop_all() {
    [ ${#others[@]} = 0 ] || kill "${others[@]}" 2> /dev/null
    for dir in "${homes[@]}"; do
        DROSTE_DIR=$dir droste daemon stop --quiet 2> /dev/null
    done
}
trap stop_all EXIT

mkdir "$WORK/project"
cd "$WORK/project" || exit 1
sources=12
for ((n = 1; n <= sources; n++)); do
    printf '#include "all.h"\nint f%d(void) { puts("%d"); return %d; }\n' "$n" "$n" "$n" > "f$n.c"
done
echo '#include <stdio.h>' > all.h
printf '#include "all.h"\nint main(void) { return 0; }\n' > main.c
cat > Makefile << 'end'
objects = $(patsubst %.c,%.o,$(wildcard *.c))
prog: $(objects)
	$(CC) -o $@ $^
%.o: %.c
	$(CC) -O1 -g -c -o $@ $<
clean:
	rm -f *.o prog
end
# What was written just now may still be changed unseen: nobody remembers it.
touch -d '1 minute ago' ./*
# plain: builds what is compared with; in the same directory, which is in the objects
plain() {
    make -s clean && make -s prog && rm -rf "$WORK/plain" && cp -a . "$WORK/plain"
}
plain
# built SENTENCE STATUS: the build in this directory ended so, and is as the plain one
built() {
    equal "$1" "0 " "$2 $(diff -r "$WORK/plain" .)"
}
warnings() { grep -c 'warning' "$1"; }
# counted KIND: how many calls became that since the last time
counted() {
    droste stats --json > "$WORK/stats.json"
    sed -n "s/^    \"$1\": \([0-9]*\).*/\1/p" "$WORK/stats.json"
}
# home DIR: an empty memo of its own
home() {
    export DROSTE_DIR=$1
    homes+=("$1")
}
# make_by COMMAND...: a build from nothing, by make behind that command
make_by() {
    make -s clean
    "$@" make -s -j2 prog > "$WORK/out" 2> "$WORK/err"
}

# -- The socket. Without `droste run`, by its shims.
home "$WORK/droste"
shims=$(dirname "$(droste run --quiet sh -c 'command -v cc')")
# by_shims SOCKET: make with the shims in front, as `droste run` has them
by_shims() {
    make -s clean
    : > "$WORK/marker"
    PATH=$shims:$PATH DROSTE_SOCKET=$1 DROSTE_SESSION=$WORK/marker make -s -j2 prog > "$WORK/out" 2> "$WORK/err"
}
by_shims "$WORK/no-socket"
built "no socket does no harm" $?
equal "and is warned of once" 1 "$(warnings "$WORK/err")"
: > "$WORK/file"
by_shims "$WORK/file"
built "a socket that is a file does no harm" $?
equal "and is warned of once" 1 "$(warnings "$WORK/err")"
for mode in at-once half-a-call no-answer half-an-answer rubbish endless; do
    perl "$TESTS/cases/faults/server.pl" "$WORK/$mode.socket" "$mode" &
    others+=($!)
    for _ in $(seq 100); do [ -S "$WORK/$mode.socket" ] || sleep 0.1; done
    by_shims "$WORK/$mode.socket"
    built "a server that fails ($mode) does no harm" $?
    equal "a server that fails ($mode) is warned of once" 1 "$(warnings "$WORK/err")"
    kill "$!" && wait "$!" 2> /dev/null
    # Its socket is still there, and nobody listens.
    by_shims "$WORK/$mode.socket"
    built "a server that is gone ($mode) does no harm" $?
done

# -- The daemon, killed while children run.
rounds=$((SOAK ? 40 : 5)) bad='' warned='' left=''
RANDOM=${DROSTE_TESTS_SEED:-$RANDOM}
for ((round = 1; round <= rounds; round++)); do
    home "$WORK/killed-$round"
    droste run --quiet true
    pid=$(droste daemon status | sed -n 's/^process \([0-9]*\) .*/\1/p')
    make -s clean
    "$DROSTE" run --quiet make -s -j2 prog > "$WORK/out" 2> "$WORK/err" &
    build=$!
    sleep "$((RANDOM % 3)).$((RANDOM % 10))"
    kill -KILL "$pid"
    wait "$build"
    status=$?
    difference=$(diff -r "$WORK/plain" .)
    [ "$status $difference" = "0 " ] || bad="$bad
round $round: $status $(cat "$WORK/err") $difference"
    [ "$(warnings "$WORK/err")" -le 1 ] || warned="$warned
round $round: $(cat "$WORK/err")"
    # The next one finds no child of the last one running.
    for _ in $(seq 100); do
        processes=$(grep -lsF "/killed-$round/" /proc/[0-9]*/mountinfo 2> /dev/null | grep -v "^/proc/\(self\|$$\|$BASHPID\)/")
        [ -n "$processes" ] || break
        sleep 0.1
    done
    [ -z "$processes" ] || left="$left round $round: $processes"
done
equal "builds go on when the daemon is killed" "" "$bad"
equal "they warn of it at most once" "" "$warned"
equal "no sandbox outlives a killed daemon" "" "$left"
make_by droste run --quiet
built "the next daemon serves what the killed one left" $?

# -- A damaged object, after a crash.
home "$WORK/damaged"
make_by droste run --quiet
built "a build becomes children" $?
pid=$(droste daemon status | sed -n 's/^process \([0-9]*\) .*/\1/p')
store=$DROSTE_DIR/store
# damage FILE: its last byte is another
damage() {
    local mode
    mode=$(stat -c %a "$1")
    chmod u+w "$1"
    perl -e 'open my $f, "+<", $ARGV[0] or die; seek $f, -1, 2; read $f, my $c, 1; seek $f, -1, 2; print $f chr(255 ^ ord $c)' "$1"
    chmod "$mode" "$1"
}
object=$(find "$store/nix/store" -path '*-f3.o/files/*' -name f3.o | head -n 1)
check "the child of a compile is in the store" test -n "$object"
kill -KILL "$pid"
damage "$object"
refused "a damaged object is found by store verify" 1 "$(basename "${object%%/files/*}")" droste --store "$store" store verify --check-contents
droste stats --zero
make_by droste run --quiet
built "after a crash, a damaged object is not used" $?
equal "it is built again, and all others are used" "1 $((sources + 1)) 0" "$(counted built) $(counted reused) $(counted inPlace)"
check "the daemon's log tells which" grep -q 'f3\.o. is damaged' "$DROSTE_DIR/daemon.log"
make_by droste run --quiet
built "what was built again is used" $?

header=$(find "$store/nix/store" -maxdepth 1 -name '*-all.h' | head -n 1)
check "an input is in the store" test -n "$header"
kill -KILL "$(droste daemon status | sed -n 's/^process \([0-9]*\) .*/\1/p')"
damage "$header"
echo 'int g(void) { return 0; }' >> f5.c
plain
make_by droste run --quiet
built "after a crash, a damaged input is not compiled" $?
equal "and that is warned of once" 1 "$(warnings "$WORK/err")"

# -- A disk that is full, or cannot be written.
if unshare --mount true 2> /dev/null; then
    # on_disk SIZE COMMAND...: with an empty disk of that size at $WORK/disk
    on_disk() { unshare --mount bash -c 'mount -t tmpfs -o "size=$1" none "$2" && shift 2 && "$@"' bash "$1" "$WORK/disk" "${@:2}"; }
    mkdir "$WORK/disk"
    build_there() {
        export DROSTE_DIR=$WORK/disk/droste
        make_by droste run --quiet
        local status=$?
        echo "$status $(diff -r "$WORK/plain" .)"
        warnings "$WORK/err" > "$WORK/warned"
        droste daemon stop --quiet 2> /dev/null
    }
    export -f build_there make_by droste warnings
    export DROSTE WORK
    # Too small for the compiler; then for the children, at some moment.
    all=$(du -sm "$WORK/damaged/store" | cut -f1)
    met=0
    for size in 1 20 $((all + 1)) $((all + 2)) $((all + 3)) $((all + 5)) $((all + 30)); do
        equal "a disk of $size MB does no harm" "0 " "$(on_disk "${size}m" bash -c build_there 2> "$WORK/disk.err")"
        warned=$(cat "$WORK/warned")
        check "a disk of $size MB is warned of at most once" test "$warned" -le 1
        met=$((met + warned))
    done
    check "some disks were full" test "$met" -ge 2
    build_read_only() {
        mkdir -p "$WORK/disk/droste"
        mount -o remount,ro "$WORK/disk"
        build_there
    }
    export -f build_read_only
    equal "a disk that cannot be written does no harm" "0 " "$(on_disk 20m bash -c build_read_only)"
    equal "and is warned of once" 1 "$(cat "$WORK/warned")"
    # Written before, read-only now.
    build_then_read_only() {
        build_there > "$WORK/first"
        mount -o remount,ro "$WORK/disk"
        build_there
    }
    export -f build_then_read_only
    equal "nor does a store that can be written no more" "0 " "$(on_disk 2000m bash -c build_then_read_only)"
    equal "and is warned of once" 1 "$(cat "$WORK/warned")"
else
    skip "a disk that is full or cannot be written" "mounting takes root"
fi
finish
