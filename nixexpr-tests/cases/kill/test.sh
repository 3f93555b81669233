# droste is killed at random moments while it builds Lua with children: no process
# and no mount is left, the store is whole, and the next run builds the same bytes
# and clears away what was left. As root, and as an ordinary user.
. "$TESTS/harness.sh"
stop_without NIX34

from=$(sources lua)
[ -d "$from" ] || {
    skip "everything here" "Lua's sources cannot be fetched"
    finish
}
toolchain=$(with_toolchain "$WORK/seed") || {
    fail "a toolchain can be imported"
    finish
}
rounds=$((SOAK ? 200 : 8))
seed=${DROSTE_TESTS_SEED:-$RANDOM}
RANDOM=$seed

# survivors MARK: processes that carry the mark in their environment or see a mount
# of the directory of that name
survivors() {
    local proc pid
    for proc in /proc/[0-9]*; do
        pid=${proc#/proc/}
        [ "$pid" != $$ ] && [ "$pid" != "$BASHPID" ] || continue
        if grep -qsF "DROSTE_TESTS_MARK=$1" "$proc/environ" || grep -qsF "/$1/" "$proc/mountinfo"; then
            echo "$pid $({ tr '\0' ' ' < "$proc/cmdline"; } 2> /dev/null | cut -c1-100) ($(sed -n 's/^State:\t//p' "$proc/status" 2> /dev/null))"
        fi
    done
}
# wait_gone MARK: what is left after ten seconds
wait_gone() {
    local _
    for _ in $(seq 100); do
        [ -n "$(survivors "$1")" ] || return 0
        sleep 0.1
    done
    survivors "$1"
}

# rounds_as NAME COMMAND...: COMMAND runs its arguments as that user
rounds_as() {
    local name=$1 mark=killed-$1-$$ dir store drv round pid killed=0 finished=0 sort delay expected output left status=0 took
    shift
    dir=$WORK/$mark
    store=$dir/store
    mkdir -p "$dir"
    if [ "$name" = root ]; then
        copy_store "$WORK/seed" "$store"
        cp "$DROSTE" "$dir/droste"
    else
        # Hard links would change the other store's owner.
        cp -a "$WORK/seed" "$store"
        cp "$DROSTE" "$dir/droste"
    fi
    own() { [ "$name" = root ] || chown -R "$uid:$uid" "$dir"; }
    # instantiate EDIT: Lua with a comment in a header that all sources include
    instantiate() {
        rm -rf "$WORK/lua-source"
        cp -r "$from" "$WORK/lua-source"
        chmod -R u+w "$WORK/lua-source"
        echo "/* round $1 */" >> "$WORK/lua-source/luaconf.h"
        nix34 nix-instantiate --store "$store" ../projects -A lua --argstr cflags -O0 --argstr toolchain "$toolchain" --arg sources "{ lua = \"$WORK/lua-source\"; }"
        own
    }
    run() {
        (cd / && exec env DROSTE_TESTS_MARK="$mark" DROSTE_DIR="$dir/droste-dir" HOME="$dir" "${command[@]}" \
            "$dir/droste" build --json --store "$store" "$@" < /dev/null)
    }
    local command=("$@")
    drv=$(instantiate 0)
    took=$(date +%s%N)
    run "$drv" > "$dir/json" 2> "$dir/err" || {
        fail "Lua is built as $name" "$(tail -n 20 "$dir/err")"
        return
    }
    took=$((($(date +%s%N) - took) / 1000000))
    left=$(survivors "$mark")
    equal "no process is left when a build is done, as $name" "" "$left"

    local bad_process='' bad_store='' bad_next='' bad_left=''
    for ((round = 1; round <= rounds; round++)); do
        # What was killed is begun again twice: some children are there then. After
        # that, and if it was not killed in time, all is new.
        if [ $status = 0 ] || [ $((round % 4)) = 1 ]; then drv=$(instantiate "$round"); fi
        delay=$((RANDOM * took / 32768 + 1))
        set -m
        run "$drv" > "$dir/json" 2> "$dir/err" &
        pid=$!
        set +m
        sleep "$((delay / 1000)).$(printf '%03d' $((delay % 1000)))"
        sort=$((RANDOM % 3))
        case $sort in
        0) kill -KILL "$pid" ;;
        1) kill -KILL -- "-$pid" ;;
        2) # One of its processes, whichever; then the rest, as soon as that has ended.
            mapfile -t some < <(survivors "$mark" | cut -d' ' -f1)
            [ ${#some[@]} = 0 ] || kill -KILL "${some[RANDOM % ${#some[@]}]}"
            kill -KILL "$pid"
            ;;
        esac 2> /dev/null
        wait "$pid" 2> /dev/null
        status=$?
        if [ $status = 137 ]; then killed=$((killed + 1)); else finished=$((finished + 1)); fi
        left=$(wait_gone "$mark")
        [ -z "$left" ] || bad_process="$bad_process
round $round, after $delay ms: $left"
        own
        output=$(nix34 nix-store --verify $([ $((round % 5)) != 0 ] || echo --check-contents) --store "$store" 2>&1) && ! grep -qE 'disappeared|error' <<< "$output" || bad_store="$bad_store
round $round, after $delay ms: $output"
        own
        if [ $((round % 4)) = 0 ]; then
            run "$drv" > "$dir/json" 2> "$dir/err" || bad_next="$bad_next
round $round: $(tail -n 5 "$dir/err")"
            status=0
            own
            left=$(leftovers "$store")
            own
            [ -z "$left" ] || bad_left="$bad_left
round $round: $left"
        fi
    done
    say "   as $name: $killed of $rounds runs were killed (seed $seed, a whole run takes $took ms)"
    equal "no process and no mount outlives a killed droste, as $name" "" "$bad_process"
    equal "the store is whole after each kill, as $name" "" "$bad_store"
    equal "the next run succeeds after each kill, as $name" "" "$bad_next"
    equal "the next run clears away what was left, as $name" "" "$bad_left"
    if [ "$killed" = 0 ]; then fail "runs are killed, as $name" "none of $rounds was"; fi

    # After all that, the bytes are those that Nix makes.
    drv=$(instantiate last)
    run "$drv" > "$dir/json" 2> "$dir/err" || fail "Lua is built after all kills, as $name" "$(tail -n 20 "$dir/err")"
    own
    output=$(sed -n 's/^ *"out": "\(.*\)".*/\1/p' "$dir/json")
    copy_store "$WORK/seed" "$WORK/judge-$name"
    store=$WORK/judge-$name instantiate last > /dev/null
    expected=$(nix34 nix-store -r --store "$WORK/judge-$name" "$drv" 2> /dev/null)
    equal "after all kills the output is as by Nix 2.34, as $name" "$(path_info "$WORK/judge-$name" "$expected")" "$(path_info "$dir/store" "$output")"
    verified "the store verifies after all kills, as $name" "$dir/store"
    own
}

mounts=$(wc -l < /proc/self/mountinfo)
if [ "$(id -u)" = 0 ]; then
    rounds_as root env
    uid=61234
    chmod 711 "$WORK"
    if unshare --user --map-root-user true 2> /dev/null; then
        rounds_as user setpriv --reuid "$uid" --regid "$uid" --clear-groups
    else
        skip "killed as an ordinary user" "no user namespaces on this machine"
    fi
else
    rounds_as user env
    skip "killed as root" "not run as root"
fi
equal "the machine has the mounts that it had" "$mounts" "$(wc -l < /proc/self/mountinfo)"
finish
