# Who may do what by the daemon's socket: clients of real Nix as several users, served by Nix's own
# daemon and by ours, from two stores of the same kind.
. "$TESTS/harness.sh"
stop_without NIX34
if [ "$(id -u)" != 0 ]; then
    skip "everything here" "other users can be played by root only"
    finish
fi

chmod 711 "$WORK"
echo 'trusted-users = root games
allowed-users = nobody @daemon
extra-experimental-features = daemon-trust-override' >> "$NIX_CONF_DIR/nix.conf"
# as USER PROGRAM ARGS...: of Nix 2.34 (which may lie where the user may not look)
as() {
    local user=$1 program=$2
    shift 2
    mkdir -p "$WORK/home-$user" && chown "$user" "$WORK/home-$user"
    (cd / && env HOME="$WORK/home-$user" TMPDIR="$WORK/home-$user" XDG_CACHE_HOME="$WORK/home-$user" setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups \
        --inh-caps +dac_read_search --ambient-caps +dac_read_search "$NIX34/$program" "$@" 2>&1)
}
if ! as nobody nix --version > "$WORK/err"; then
    skip "everything here" "no other users on this machine: $(tail -n 1 "$WORK/err")"
    finish
fi
wait_for() {
    for _ in $(seq 200); do
        [ ! -S "$1" ] || return 0
        sleep 0.05
    done
    return 1
}

cat > "$WORK/build.nix" << 'END'
{ name, script ? "echo $name > $out" }:
derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" script ]; }
END
# A path that nobody has signed, with a log, where everybody can read it.
drv=$(nix34 nix-instantiate --store "$WORK/seed" "$WORK/build.nix" --argstr name unsigned 2> /dev/null)
out=$(nix34 nix-store --store "$WORK/seed" -r "$drv" 2> /dev/null)
cache=file://$WORK/cache
nix34 nix copy --to "$cache" --store "$WORK/seed" "$out" && nix34 nix store copy-log --to "$cache" --store "$WORK/seed" "$drv"

printf '#!/bin/sh\nfor out in $OUT_PATHS; do echo "${out#*-}" >> "%s"; done\n' "$WORK/hooked" > "$WORK/hook"
printf '#!/bin/sh\nprintf "extra-sandbox-paths\\n/shown=%s\\n\\n"\n' "$WORK/shown" > "$WORK/pre-hook"
echo shown > "$WORK/shown"
chmod 755 "$WORK/hook" "$WORK/pre-hook"

theirs=$WORK/theirs-socket/socket
NIX_REMOTE=local NIX_STATE_DIR=$WORK/state NIX_DAEMON_SOCKET_PATH=$theirs "$NIX34/nix-daemon" --store "$WORK/theirs" > "$WORK/theirs.log" 2>&1 < /dev/null &
nix_daemon=$!
"$DROSTE" daemon --store "$WORK/ours" > "$WORK/ours.log" 2>&1 < /dev/null &
daemon=$!
# Where Nix's daemon listens in its own store.
ours=$WORK/ours/nix/var/nix/daemon-socket/socket
check "both daemons listen" eval 'wait_for "$theirs" && wait_for "$ours"'
for each in 'stat -c %a' 'stat -c %U'; do
    equal "the socket is everybody's: $each" "$($each "$theirs")" "$($each "$ours")"
done
equal "so is its directory" 755 "$(stat -c %a "${ours%/*}")"
equal "the other sockets are the owner's" 600 "$(stat -c %a "$DROSTE_DIR"/*.socket | sort -u)"

# tried USER STORE WHAT PROGRAM ARGS...: how that ended, and what was warned of and refused
tried() {
    local user=$1 url=$2 what=$3 output status=0
    output=$(as "$user" "${@:4}") || status=$?
    echo "$user: $what: $status"
    echo "$output" > "$WORK/output"
    grep -vE -e '--add-root|unknown experimental|this derivation|^ *($|/nix/store/.*drv$)|^copying|^building' <<< "$output" |
        sed -E "s,$WORK/(ours|theirs)[^ '\"?]*,SOCKET,g; s,root=[^ '\"]*,,g; s,\`(/nix/store/)?([^\`]*)\`,'/nix/store/\2',g"
}
# everything STORE: what several users try
everything() {
    local url=$1 user
    for user in root games nobody daemon bin; do
        tried "$user" "$url" "asks who it is" nix store info --json --store "$url" |
            sed -E "s/error: (write of|read of|reading|writing|Nix daemon disconnected|user 'bin' is not allowed).*/error: REFUSED/"
    done
    for user in nobody games; do
        tried "$user" "$url" "adds a file" nix-store --store "$url" --add "$WORK/build.nix"
        tried "$user" "$url" "adds what nobody has signed" nix copy --no-check-sigs --from "$cache" --to "$url" "$out"
        tried "$user" "$url" "builds" nix-build --no-out-link --store "$url" "$WORK/build.nix" --argstr name "by-$user"
        tried "$user" "$url" "sets what is restricted" nix-build --no-out-link --store "$url" "$WORK/build.nix" --argstr name "more-by-$user" \
            --option sandbox-fallback true --option build-dir "$WORK/elsewhere" --option timeout 60 --option cores 7 --argstr script 'echo $NIX_BUILD_CORES > $out'
        : > "$WORK/hooked"
        tried "$user" "$url" "has a program of its own run after the build" nix-build --no-out-link --store "$url" "$WORK/build.nix" --argstr name "hooked-by-$user" \
            --argstr script 'echo $(while read -r line; do echo $line; done < /shown) > $out' --option post-build-hook "$WORK/hook" --option pre-build-hook "$WORK/pre-hook"
        cat "$WORK"/"$(basename "${url##*root=}")$(tail -n 1 "$WORK/output")"
        sed 's/^/the program was run for /' "$WORK/hooked"
        # What is not in the way of the build, but how it ends, each says in words of its own.
        tried "$user" "$url" "keeps what failed" nix-build --no-out-link --store "$url" "$WORK/build.nix" --argstr name "failed-by-$user" --argstr script 'echo kept > kept; exit 3' --keep-failed | head -n 1
        setpriv --reuid "$user" --clear-groups cat "$(sed -nE "s/^note: keeping build directory ['\"\`](.*)['\"\`].*/\1/p" "$WORK/output")/kept" 2>&1
    done
    for user in nobody; do
        tried "$user" "$url" "waits for one second" nix-build --no-out-link --store "$url" "$WORK/build.nix" --argstr name "late-by-$user" --argstr script 'while :; do :; done' --option timeout 1 | head -n 1
        tried "$user" "$url" "has no jobs" nix-build --no-out-link --store "$url" "$WORK/build.nix" --argstr name "none-by-$user" --max-jobs 0 | head -n 1
    done
    tried nobody "$url" "repairs an output" nix-build --no-out-link --store "$url" "$WORK/build.nix" --argstr name by-nobody --repair
    tried nobody "$url" "repairs the store" nix-store --store "$url" --verify --repair
    tried nobody "$url" "adds a log" nix store copy-log --from "$cache" --to "$url" "$drv"
    tried nobody "$url" "asks untrusted substituters" nix-build --no-out-link --store "$url" "$WORK/build.nix" --argstr name by-nobody --option substituters 'https://no.example'
}
everything "unix://$theirs?root=$WORK/theirs" > "$WORK/theirs.txt"
everything "unix://$ours?root=$WORK/ours" > "$WORK/ours.txt"
check "something was tried" test "$(grep -c : "$WORK/theirs.txt")" -gt 30
equal "only a trusted user has one run before" 1 "$(grep -cx shown "$WORK/ours.txt")"
equal "only a trusted user has a program run" "the program was run for hooked-by-games" "$(grep 'was run' "$WORK/ours.txt")"
equal "each user reads what was kept of a failed build" $'kept\nkept' "$(grep -x kept "$WORK/ours.txt")"
equal "everybody may do with ours what they may with Nix's, and is told the same" "$(cat "$WORK/theirs.txt")" "$(cat "$WORK/ours.txt")"
refused "who is not allowed is told so" 1 "user 'bin' is not allowed to connect to the Nix daemon" eval 'as bin nix store info --store "unix://$ours" >&2'
check "so is who reads the log" grep -q "user 'bin' is not allowed" "$WORK/ours.log"
[ -z "$NIX28" ] || refused "Nix 2.8 is told, too" 1 "user 'bin' is not allowed to connect to the Nix daemon" eval 'NIX34=$NIX28 as bin nix store ping --store "unix://$ours" >&2'

# What no client of Nix's sends.
echo 'Derive([],[],[],"x","x",[],[])' > "$WORK/secret"
chmod 600 "$WORK/secret"
valid=$(nix34 nix-store --store "unix://$ours?root=$WORK/ours" --add "$WORK/build.nix")
# Python may lie where the user may not look.
hostile() {
    (cd / && setpriv --reuid nobody --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search \
        python3 - "$ours" "$WORK/secret" "$valid") < hostile.py 2>&1
}
hostile > "$WORK/hostile"
# holds WHAT WORDS: that is how it ended
holds() { check "$1: $2" grep -q "^$1: .*$2" "$WORK/hostile"; }
holds trusted False
holds self 'ca hash mismatch importing path'
holds 'link as derivation' 'cannot open'
for what in 'by 22' 'by 28' 'by 41' built; do
    holds "link $what" 'is not a valid derivation path'
done
for what in "'noc'" "'a b:AAAA'"; do
    holds "signature $what" 'signature is corrupt'
done
holds 'added with a signature' 'signature is corrupt'
holds 'added with a good one' None
check "nobody's signatures are in the way" nix34 nix path-info --json --store "unix://$ours?root=$WORK/ours" "$valid"

# What was held for a client is held no more when it has gone.
url="unix://$ours?root=$WORK/ours"
out=$(nix34 nix-build --no-out-link --store "$url" "$WORK/build.nix" --argstr name held 2> /dev/null)
held() { cat "$WORK/ours/nix/var/nix/temproots"/* | tr '\0' '\n'; }
for _ in $(seq 200); do
    [ -n "$(held)" ] || break
    sleep 0.05
done
equal "nothing is held for clients that have gone" "" "$(held)"
check "what one has built can be deleted" nix34 nix-store --store "$url" --delete "$out"
check "garbage is collected" nix34 nix-store --store "$url" --gc
equal "nothing is left" "" "$(ls "$WORK/ours/nix/store" | grep -vx .links)"

# By standard input and output: whoever is there is trusted, unless told otherwise.
trust() { as "$1" nix store info --json --store "ssh-ng://localhost?remote-program=$WORK/remote" | grep -o '"trusted":[a-z]*'; }
remote() {
    printf '#!/bin/sh\nexec %s\n' "$*" > "$WORK/remote"
    chmod 755 "$WORK/remote"
}
forced() {
    local when=$1 flag
    for flag in '' --default-trust --force-trusted --force-untrusted; do
        remote "env NIX_REMOTE=local $NIX34/nix-daemon --stdio --store $WORK/theirs $flag"
        want=$(trust root)
        remote "$DROSTE daemon --store $WORK/ours --stdio $flag"
        equal "trusted by standard input, ${flag:-without a word}$when" "$want" "$(trust root)"
    done
}
forced " (of a daemon)"
cp "$DROSTE" "$WORK/program"
remote "env DROSTE_DIR=$WORK/home-nobody/droste $WORK/program daemon --store $WORK/ours --stdio"
equal "another user is passed on to the daemon, and is who it is" '"trusted":false' "$(trust nobody)"
kill -TERM "$nix_daemon" "$daemon"
wait "$daemon"
equal "the daemon ends by a signal" 0 $?
[ ! -e "$ours" ] && pass "its socket is gone" || fail "its socket is gone"
wait "$nix_daemon" 2> /dev/null
forced " (alone)"

# All clients forced to be trusted, or not, even those that would not come in.
export NIX_DAEMON_SOCKET_PATH=$WORK/forced-socket/socket
for flag in --force-trusted --force-untrusted --default-trust; do
    "$DROSTE" daemon --store "$WORK/ours" $flag > "$WORK/ours.log" 2>&1 < /dev/null &
    daemon=$!
    check "the daemon listens where NIX_DAEMON_SOCKET_PATH says ($flag)" wait_for "$NIX_DAEMON_SOCKET_PATH"
    for user in root nobody bin; do
        as "$user" nix store info --json --store daemon | grep -o '"trusted":[a-z]*\|not allowed' | sed "s/^/$user /"
    done > "$WORK/trust"
    case $flag in
    --force-trusted) want='root "trusted":true nobody "trusted":true bin "trusted":true' ;;
    --force-untrusted) want='root "trusted":false nobody "trusted":false bin "trusted":false' ;;
    *) want='root "trusted":true nobody "trusted":false bin not allowed' ;;
    esac
    equal "who is trusted with $flag" "$want" "$(xargs -d '\n' < "$WORK/trust")"
    kill -TERM "$daemon"
    wait "$daemon"
done
verified "the store verifies" "$WORK/ours"
for dir in profiles gcroots; do
    equal "a user who has connected has a directory in $dir" "nobody 755" \
        "$(stat -c '%U %a' "$WORK/ours/nix/var/nix/$dir/per-user/nobody")"
done

finish
