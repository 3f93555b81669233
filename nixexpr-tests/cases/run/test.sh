# `droste run`: a checkout is built by make with the host's compiler. What is left and what is
# printed is what the plain build leaves and prints; the second time, nothing is compiled.
. "$TESTS/harness.sh"
from=$(sources lua)
[ -d "$from" ] || {
    skip "everything here" "Lua's sources cannot be fetched"
    finish
}
command -v cc make > /dev/null || {
    skip "everything here" "this machine has no C compiler or no make"
    finish
}
unset MAKEFLAGS MAKELEVEL CC CFLAGS DROSTE_SOCKET DROSTE_SESSION
export LC_ALL=C
here=$PWD
homes=()
# home NAME: an empty memo of its own
home() {
    export DROSTE_DIR=$WORK/$1
    homes+=("$DROSTE_DIR")
}
stop_daemons() {
    for dir in "${homes[@]}"; do
        DROSTE_DIR=$dir droste daemon stop --quiet 2> /dev/null
    done
}
trap stop_daemons EXIT

checkout() {
    mkdir -p "$1"
    cp "$from"/*.[ch] "$1"
    cp "$here/main.c" "$1"
    cp "$here/project.mk" "$1/Makefile"
    printf '#include HEADER\nint probe;\n' > "$1/probe.inc"
    # What was written just now may still be changed unseen: nobody remembers it.
    touch -d '1 minute ago' "$1"/*
}
# build NAME COMMAND...: a clean build of the checkout in the current directory, by `make` behind
# that command; what it left is in $WORK/NAME, what it printed beside.
build() {
    local name=$1 status=0
    shift
    make -s clean
    "$@" make -j2 all > "$WORK/$name.out" 2> "$WORK/$name.err" || status=$?
    rm -rf "${WORK:?}/$name"
    mkdir "$WORK/$name"
    cp -a . "$WORK/$name"
    echo "$status" > "$WORK/$name.status"
    # Two compilers' messages come in any order.
    sort -o "$WORK/$name.out" "$WORK/$name.out"
    sort -o "$WORK/$name.err" "$WORK/$name.err"
}
# same SENTENCE NAME [REFERENCE]: that build is as the reference, by default `plain`
same() {
    local reference=${3:-plain} part
    for part in out err status; do
        if ! cmp -s "$WORK/$reference.$part" "$WORK/$2.$part"; then
            fail "$1" "its $part differs:" "$(diff "$WORK/$reference.$part" "$WORK/$2.$part")"
            return
        fi
    done
    equal "$1" "" "$(diff -r "$WORK/$reference" "$WORK/$2")"
}
# counted: what became of the calls since the last time, by kind
counted() {
    droste stats --json > "$WORK/stats.json"
    droste stats --zero
    sed -n 's/^    "\(built\|reused\|inPlace\)": \([0-9]*\).*/\1 \2/p' "$WORK/stats.json" | tr '\n' ' '
}
run() { droste run --quiet -- "$@"; }

# -- a checkout, cold and warm
home droste
checkout "$WORK/lua"
cd "$WORK/lua" || exit 1
build plain env
equal "the plain build succeeds" 0 "$(cat "$WORK/plain.status")"
equal "an empty directory is an empty memo" "built 0 reused 0 inPlace 0 " "$(counted)"
build cold run
same "a cold build leaves and prints what the plain one does" cold
calls=$(($(ls ./*.c | wc -l) * 2 - 1 + 4))
cold=$(counted)
equal "each call of a cold build becomes a child" "built $calls reused 0 inPlace 0 " "$cold"
build warm run
same "so does a warm build" warm
equal "no compiler runs in a warm build, and no linker" "built 0 reused $calls inPlace 0 " "$(counted)"
DROSTE_DISABLE=1 build disabled run
same "so does a build with Droste turned off" disabled
equal "which nobody counts" "built 0 reused 0 inPlace 0 " "$(counted)"

# -- the same sources in another place
home places
export DEBUG=
checkout "$WORK/first/lua"
checkout "$WORK/another/place/of-lua"
cd "$WORK/another/place/of-lua" || exit 1
build plain-place env
cd "$WORK/first/lua" || exit 1
build first-place run
same "a checkout is built without debug information" first-place plain-place
droste stats --zero
cd "$WORK/another/place/of-lua" || exit 1
build other-place run
same "and the same in another place" other-place plain-place
read -r _ built _ reused _ in_place <<< "$(counted)"
check "where no compile but a probe that fails runs again, and no link need" \
    test "$built" -le 3 -a $((built + reused)) = "$calls" -a "$in_place" = 0
mkdir one two
for dir in one two; do (cd $dir && echo "int $dir;" > same.c && run cc -c same.c); done
child() { droste why "$1" | sed -n 's/^child *//p'; }
check "why tells files of one name apart" test "$(child one/same.o)" != "$(child two/same.o)"
equal "by whatever path" "$(child one/same.o)" "$(cd one && child same.o)"
refused "why is asked of a file that no call left" 1 'no call that is remembered left' droste why "$PWD/three/same.c"
rm -r one two
unset DEBUG
export DROSTE_DIR=$WORK/droste
cd "$WORK/lua" || exit 1

# -- changes
echo '/* changed */' >> lzio.c
build plain-edited env
build edited run
same "after an edit, the build is as the plain one" edited plain-edited
# The links, too, unless the objects are the same.
read -r _ built _ reused _ in_place <<< "$(counted)"
check "after a comment in one file, two compiles and what is linked of them run" \
    test "$built" -ge 2 -a "$built" -le 4 -a $((built + reused)) = "$calls" -a "$in_place" = 0
touch -d '1 minute ago' lzio.c
mkdir shadow && echo '#error shadowed' > shadow/stdio.h
CPATH=$PWD/shadow build plain-shadowed env
CPATH=$PWD/shadow build shadowed run
equal "a header that shadows another is seen" "$(cat "$WORK/plain-shadowed.status")" "$(cat "$WORK/shadowed.status")"
rm -r shadow
echo 'int broken(void) { return' > lzio.c
make -s clean
expected=$(make lzio.o 2>&1)
expected_status=$?
make -s clean
counted > "$WORK/ignored"
got=$(run make lzio.o 2>&1)
equal "a compile that fails ends as the plain one" "$expected_status $expected" "$? $got"
equal "as a child" "built 1 reused 0 inPlace 0 " "$(counted)"
make -s clean
got=$(run make lzio.o 2>&1)
equal "and so does its memory" "$expected" "$got"
equal "which is a hit" "built 0 reused 1 inPlace 0 " "$(counted)"
cp "$from/lzio.c" lzio.c

# -- another checkout
checkout "$WORK/other/lua"
cd "$WORK/other/lua" || exit 1
build plain-second env
build second run
same "a second checkout is as if it were the only one" second plain-second
cd "$WORK/lua" || exit 1

# -- the command
droste run --quiet sh -c 'exit 7'
equal "the command's exit status is passed on" 7 $?
(droste run --quiet sh -c 'kill -s SEGV $$') 2> "$WORK/segv"
equal "so is the signal that killed it" 139 $?
"$DROSTE" run --quiet sh -c 'trap "exit 9" TERM; echo ready > ready; while :; do sleep 0.1; done' &
pid=$!
for _ in $(seq 100); do [ -s ready ] || sleep 0.1; done
kill "$pid"
wait "$pid"
equal "a signal is passed on to the command" 9 $?
rm -f ready
refused "a command that is not there is named" 127 'no-such-command' droste run no-such-command
equal "its input and output are the command's" hello "$(echo hello | droste run --quiet cat)"
equal "nothing of its own is printed" "" "$(droste run true 2>&1)"
check "calls are summed up" grep -qxE 'droste: compiler calls: .*1 (built|reused)' <(droste run cc -c -o "$WORK/x.o" main.c 2>&1)

# -- one call
for again in 1 2; do
    droste cc cc -O1 -c -o one.o lapi.c > "$WORK/one.out" 2>&1
    equal "droste cc ends as the compiler ($again)" 0 $?
    cc -O1 -c -o two.o lapi.c
    check "droste cc leaves what the compiler leaves ($again)" cmp one.o two.o
done
equal "droste cc with a compiler by its path" 0 "$(droste cc "$(command -v cc)" -O1 -c -o one.o lapi.c; echo $?)"
equal "droste cc passes failures on" "$(cc -c no-such.c 2>&1; echo $?)" "$(droste cc cc -c no-such.c 2>&1; echo $?)"
refused "a compiler that is not there is named" 127 'no-such-cc' droste cc no-such-cc -c lapi.c
rm -f one.o two.o
check "droste cc as CC" env -u DROSTE_SOCKET make -s CC="$DROSTE cc cc" lctype.o

# -- a compiler's place, as CMake and configure scripts record it
recorded=$(run sh -c 'command -v cc')
check "in a command, the compiler is a shim" test "$recorded" != "$(command -v cc)"
cc -O1 -Wall -g -c -o two.o main.c 2> "$WORK/two.err"
for again in 1 2; do
    counted > "$WORK/ignored"
    run "$recorded" -O1 -Wall -g -c -o one.o main.c 2> "$WORK/one.err"
    check "a shim by its path is the compiler ($again)" cmp one.o two.o
    check "and says what it says ($again)" cmp "$WORK/one.err" "$WORK/two.err"
    case $again in
    1) equal "as a child" "built 1 reused 0 inPlace 0 " "$(counted)" ;;
    2) equal "which is found again" "built 0 reused 1 inPlace 0 " "$(counted)" ;;
    esac
    rm -f one.o
done
equal "without anything in the environment, too" 0 "$(env -i "$recorded" -O1 -Wall -g -c -o one.o main.c 2> "$WORK/ignored"; echo $?)"
check "it leaves the same" cmp one.o two.o
rm -f one.o two.o

# -- statistics
droste stats --zero
run cc -c -o "$WORK/x.o" -DSTATISTICS lapi.c
run cc -c -o "$WORK/x.o" -DSTATISTICS lapi.c
droste stats --print-stats > "$WORK/print-stats"
equal "statistics have ccache's names" "cache_miss 1 direct_cache_hit 1" \
    "$(sed -nE 's/^(cache_miss|direct_cache_hit)\t/\1 /p' "$WORK/print-stats" | paste -sd' ')"
if command -v ccache > /dev/null; then
    names=$(CCACHE_DIR=$WORK/ccache ccache --print-stats | cut -f1)
    equal "and all of them" "" "$(grep -vxF -e "$(cut -f1 "$WORK/print-stats")" <<< "$names")"
fi
check "statistics can be read" grep -qE '^  reused +1 ' <(droste stats)

# -- the daemon
first=$(droste daemon status)
run true
equal "one daemon serves many commands" "$first" "$(droste daemon status)"
check "who reads the command's output is not kept waiting by the daemon" timeout 20 bash -c '"$DROSTE" daemon stop --quiet; "$DROSTE" run --quiet true | cat'
cp "$DROSTE" "$WORK/other-droste"
"$WORK/other-droste" run --quiet true
second=$(droste daemon status)
check "a daemon of another build of the program is replaced" test "$first" != "$second"
run true
check "and replaced again" test "$second" != "$(droste daemon status)"
refused "a daemon with another store is named" 1 'serves the store in' droste --store "$WORK/elsewhere" run true
droste daemon stop --quiet
refused "no daemon is running after it was stopped" 1 '' droste daemon status
home idle
export DROSTE_IDLE_SECONDS=1
run cc -c -o "$WORK/x.o" lapi.c
for _ in $(seq 100); do droste daemon status > "$WORK/status" && sleep 0.1; done
equal "a daemon that is idle ends" "no daemon is running" "$(cat "$WORK/status")"
droste stats --zero
run cc -c -o "$WORK/x.o" lapi.c
equal "and the next one knows what it knew" "built 0 reused 1 inPlace 0 " "$(counted)"
run sleep 3 &
slow=$!
sleep 2
check "a daemon is not idle as long as a command runs" droste daemon status
wait "$slow"
unset DROSTE_IDLE_SECONDS
home race
for index in 1 2 3 4; do
    "$DROSTE" run --quiet cc -c -o "$WORK/race$index.o" lapi.c 2> "$WORK/race$index.err" &
    pids[index]=$!
done
for index in 1 2 3 4; do
    wait "${pids[index]}"
    equal "commands that start at once share a daemon ($index)" "0 " "$? $(cat "$WORK/race$index.err")"
done

# -- what goes wrong: the build goes on, with one warning
one_warning() { equal "$1, with one warning" 1 "$(grep -c 'droste: warning' "$WORK/$2.err")"; }
without_warnings() { sed -i '/^droste: warning/d' "$WORK/$1.err"; }
home killed-home
run true
daemon=$(droste daemon status | sed 's/^process \([0-9]*\) .*/\1/')
make -s clean
(
    while [ "$(find . -name '*.o' | wc -l)" -lt 10 ]; do sleep 0.02; done
    kill -9 "$daemon"
) &
"$DROSTE" run --quiet make -j2 all > "$WORK/killed.out" 2> "$WORK/killed.err"
equal "a build goes on when the daemon is killed" 0 $?
wait
one_warning "a build whose daemon is killed" killed
mkdir -p "$WORK/killed-tree" && cp -a . "$WORK/killed-tree"
equal "and leaves what it should" "" "$(diff -r "$WORK/plain" "$WORK/killed-tree")"
run true
check "after that, another daemon starts" droste daemon status
home stopped-home
run true
make -s clean
(
    while [ "$(find . -name '*.o' | wc -l)" -lt 10 ]; do sleep 0.02; done
    droste daemon stop --quiet
) &
"$DROSTE" run --quiet make -j2 all > "$WORK/stopped.out" 2> "$WORK/stopped.err"
equal "a build goes on when the daemon is stopped" 0 $?
wait
one_warning "a build whose daemon is stopped" stopped
home file
: > "$WORK/file"
build blocked run
one_warning "a build with a file in the place of DROSTE_DIR" blocked
without_warnings blocked
same "which leaves what it should" blocked
refused "droste cc warns, too" 0 'droste: warning' droste cc cc -c -o "$WORK/x.o" lapi.c

if [ "$(id -u)" = 0 ] && unshare --mount true 2> /dev/null; then
    home full-home
    mkdir -p "$DROSTE_DIR"
    for size in 64k 3m 40m; do
        make -s clean
        # In one namespace: shims of another are refused.
        unshare --mount bash -c '
            mount -t tmpfs -o size='$size' none "$DROSTE_DIR"
            "$DROSTE" run --quiet make -j2 all
            status=$?
            "$DROSTE" daemon stop --quiet 2> /dev/null
            exit $status
        ' > "$WORK/full.out" 2> "$WORK/full.err"
        equal "a build with a full disk of $size succeeds" 0 $?
        one_warning "a build with a full disk of $size" full
        rm -rf "$WORK/full-tree" && cp -a . "$WORK/full-tree"
        equal "and leaves what it should ($size)" "" "$(diff -r "$WORK/plain" "$WORK/full-tree")"
    done
    home namespace
    run true
    droste stats --zero
    run unshare --mount cc -c -o "$WORK/x.o" lapi.c
    check "a caller with other mounts is not believed" grep -q '"other-root": 1' <(droste stats --json)
    mkdir -p "$WORK/x"
fi

# -- as an ordinary user
if [ "$(id -u)" = 0 ] && unshare --user --map-root-user true 2> /dev/null; then
    uid=61234
    mkdir -p "$WORK/user"
    cp "$DROSTE" "$WORK/user/droste"
    checkout "$WORK/user/lua"
    chown -R "$uid:$uid" "$WORK/user"
    chmod 711 "$WORK"
    as_user() {
        env -u DROSTE_DIR HOME="$WORK/user" XDG_STATE_HOME= DROSTE_DIR="${user_dir:-}" \
            setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"
    }
    user_dir=$WORK/user/droste-dir
    cd "$WORK/user/lua" || exit 1
    build_as() {
        local name=$1
        shift
        as_user make -s clean
        as_user "$@" make -j2 all > "$WORK/$name.out" 2> "$WORK/$name.err"
        echo $? > "$WORK/$name.status"
        rm -rf "${WORK:?}/$name" && mkdir "$WORK/$name" && cp -a . "$WORK/$name"
        sort -o "$WORK/$name.out" "$WORK/$name.out"
        sort -o "$WORK/$name.err" "$WORK/$name.err"
    }
    build_as user-plain env
    build_as user-cold "$WORK/user/droste" run --quiet
    same "a user's cold build is as the plain one" user-cold user-plain
    build_as user-warm "$WORK/user/droste" run --quiet
    same "a user's warm build is as the plain one" user-warm user-plain
    as_user "$WORK/user/droste" stats --json > "$WORK/user-stats"
    equal "a user's warm build is all hits" "$calls $calls 0" \
        "$(sed -n 's/^    "\(built\|reused\|inPlace\)": \([0-9]*\).*/\2/p' "$WORK/user-stats" | paste -sd' ')"
    as_user "$WORK/user/droste" daemon stop --quiet
    chmod -R a-w "$user_dir"
    build_as user-read-only "$WORK/user/droste" run --quiet
    one_warning "a build with a memo that cannot be written" user-read-only
    without_warnings user-read-only
    same "which leaves what it should" user-read-only user-plain
    chmod -R u+w "$user_dir"
    cd "$WORK" || exit 1
fi
finish
