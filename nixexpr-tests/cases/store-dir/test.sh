# Stores in other directories than /nix/store: the same derivations are built by Nix 2.34 and by
# Droste, to the same paths, and each uses what the other wrote.
. "$TESTS/harness.sh"
stop_without NIX34

names='[ "chain" "multiple-output-user" "self-reference" "floating-self-reference" "floating-on-floating"
    "input-addressed-on-floating" "fixed-recursive-sha256" "fixed-flat-sha256" "references-graph" "environment" "symlink-output" ]'
# infos STORE: what is known of all paths, but the time.
infos() {
    nix34 nix path-info --store "$1" --all --json --json-format 1 |
        sed 's/"registrationTime":[0-9]*,//g; s/,"\(\/[^"]*\)":{/\n\1: {/g' | sort
}
# verify NIX STORE
verify() {
    local output
    output=$("$1" nix-store --verify --check-contents --store "$2" 2>&1) || { echo "$output"; return 1; }
    ! grep -E 'disappeared|error' <<< "$output"
}
seed() { # STORE: prints the derivations
    local busybox
    busybox=$(nix34 nix-store --store "$1" --add "$BUSYBOX")
    nix34 nix eval --store "$1" --impure --raw --expr "
        let all = import $TESTS/cases/differential { busybox = \"$busybox\"; };
        in builtins.concatStringsSep \"\" (map (name: builtins.unsafeDiscardStringContext all.\${name}.drvPath + \"\n\") $names)"
}
# both STORE DIR SENTENCE...: DIR is all of STORE. Leaves Droste's in it.
both() {
    local store=$1 dir=$2 how=$3
    seed "$store" > "$WORK/drvs"
    mapfile -t drvs < "$WORK/drvs"
    equal "$how, all derivations are there" 11 "${#drvs[@]}"
    cp -a "$dir" "$WORK/seed"
    nix34 nix-store -r --store "$store" "${drvs[@]}" > "$WORK/expected" 2> "$WORK/err" || fail "$how, Nix 2.34 builds" "$(cat "$WORK/err")"
    infos "$store" > "$WORK/infos"
    check "$how, Droste finds all that Nix built" sh -c "'$DROSTE' build --json --store '$store' ${drvs[*]} > '$WORK/json'"
    equal "$how, Droste builds nothing again" "" "$(grep '"status"' "$WORK/json" | grep -vi 'alreadyValid')"
    check "$how, Droste verifies what Nix wrote" droste store verify --store "$store"
    equal "$how, nothing changes by that" "$(cat "$WORK/infos")" "$(infos "$store")"
    chmod -R u+w "$dir" && rm -rf "$dir" && mv "$WORK/seed" "$dir"
    droste build --store "$store" "${drvs[@]}" > "$WORK/got" 2> "$WORK/err" || fail "$how, Droste builds" "$(cat "$WORK/err")"
    equal "$how, Droste builds the same paths" "$(sort "$WORK/expected")" "$(sort "$WORK/got")"
    equal "$how, what Droste built is recorded as what Nix builds" "$(cat "$WORK/infos")" "$(infos "$store")"
    check "$how, Nix 2.34 verifies what Droste wrote" verify nix34 "$store"
    [ -z "$NIX26" ] || check "$how, Nix 2.26 verifies what Droste wrote" verify nix26 "$store"
    [ -z "$NIX28" ] || check "$how, Nix 2.8 verifies what Droste wrote" verify nix28 "$store"
    check "$how, Nix has nothing to build" nix34 nix-store -r --max-jobs 0 --store "$store" "${drvs[@]}"
    equal "$how, path-info -r is Nix's" "$(nix34 nix path-info -r --store "$store" "$(head -n 1 "$WORK/got")" | sort)" \
        "$(droste store path-info -r --store "$store" "$(head -n 1 "$WORK/got")" | sort)"
    equal "$how, the dead paths are Nix's" "$(nix34 nix-store --store "$store" --gc --print-dead 2> /dev/null | sort)" \
        "$(droste store gc --store "$store" --print-dead 2> /dev/null | sort)"
}

both "local?root=$WORK/rooted&store=/x/y/store" "$WORK/rooted" "in a root with another store directory"
equal "the root has Nix's directories" "nix" "$(ls "$WORK/rooted")"
check "an expression is built in it" droste build --store "local?root=$WORK/rooted&store=/x/y/store" -f "$TESTS/cases/store-dir/one.nix"
refused "a store of another directory is not mistaken for one of /nix/store" 1 'x/y/store' droste store path-info --store "$WORK/rooted" /nix/store/x
env NIX_STORE_DIR=/x/y/store "$DROSTE" store path-info --store "$WORK/rooted" "$(head -n 1 "$WORK/got")" > "$WORK/found"
equal "NIX_STORE_DIR says it, too" "$(head -n 1 "$WORK/got")" "$(cat "$WORK/found")"

(
    export NIX_STORE_DIR=$WORK/plain/store NIX_STATE_DIR=$WORK/plain/state NIX_LOG_DIR=$WORK/plain/log
    both local "$WORK/plain" "in the directories of the environment"
    equal "these are all there is" "log
state
store" "$(ls "$WORK/plain")"
    check "auto is the same store" droste store path-info --store auto "$(head -n 1 "$WORK/got")"
    # By way of the daemon.
    droste daemon --store local --socket "$WORK/socket" 2> "$WORK/daemon.err" &
    for _ in $(seq 200); do [ -S "$WORK/socket" ] && break; sleep 0.05; done
    check "Nix asks the daemon of such a store" nix34 nix path-info --store "unix://$WORK/socket" "$(head -n 1 "$WORK/got")"
    named=$(grep -o "unix://[^']*" "$WORK/daemon.err")
    check "the daemon says how Nix names its store" env -u NIX_STORE_DIR -u NIX_STATE_DIR "$NIX34/nix" build --no-link --store "$named" "${drvs[0]}^*"
    droste daemon stop 2> /dev/null
)
check "the same store by its parameters" droste store verify --store "local?store=$WORK/plain/store&state=$WORK/plain/state&log=$WORK/plain/log"

# Directories that have nothing to do with each other.
both "local?store=/z/store&real=$WORK/a/objects&state=$WORK/a/of/the/state&log=$WORK/a/logs" "$WORK/a" "with a directory for each part"

# Logs.
logs=$WORK/logs
for side in ours theirs; do nix34 nix-instantiate --store "$logs/$side" one.nix > "$WORK/drv" 2> /dev/null; done
one=$(cat "$WORK/drv")
nix34 nix-store -r --store "$logs/theirs" "$one" > /dev/null 2>&1
out=$(droste build --store "$logs/ours" "$one" 2> /dev/null)
files() { (cd "$1/nix/var/log/nix" && find . -type f); }
equal "a log has Nix's name" "$(files "$logs/theirs")" "$(files "$logs/ours")"
for nix in nix34 ${NIX26:+nix26} ${NIX28:+nix28}; do
    equal "$nix reads the log" "this is one" "$($nix nix log --store "$logs/ours" "$one")"
done
equal "Droste reads Nix's log" "this is one" "$(droste store log --store "$logs/theirs" "$one")"
equal "and its own, by the output" "this is one" "$(droste store log --store "$logs/ours" "$out")"
check "a log can be kept as it is" droste build --rebuild --option compress-build-log false --store "$logs/ours" "$one"
equal "then there is no other" "$(files "$logs/theirs" | sed 's/\.bz2$//')" "$(files "$logs/ours")"
equal "it is read, too" "this is one this is one" "$(echo $(droste store log --store "$logs/ours" "$one") $(nix34 nix log --store "$logs/ours" "$one"))"
rm -r "$logs/ours/nix/var/log/nix/drvs"
check "none can be kept" droste build --rebuild --option keep-build-log false --store "$logs/ours" "$one"
equal "then there is none" "" "$(files "$logs/ours")"
refused "that is said" 1 'there is no log of' droste store log --store "$logs/ours" "$one"
droste daemon --store "$logs/ours" --socket "$WORK/log-socket" 2> "$WORK/daemon.err" &
for _ in $(seq 200); do [ -S "$WORK/log-socket" ] && break; sleep 0.05; done
check "Nix copies a log to the daemon" nix34 nix store copy-log --from "$logs/theirs" --to "unix://$WORK/log-socket?root=$logs/ours" "$one"
droste daemon stop 2> /dev/null
equal "it is there" "$(files "$logs/theirs") this is one" "$(files "$logs/ours") $(nix34 nix log --store "$logs/ours" "$one")"

# Nothing is written to a store that is read-only.
listed() { find "$logs/ours" -printf '%p %s %T@ %C@\n' | sort; }
before=$(listed)
equal "a read-only store is asked" "$out" "$(droste store path-info --store "local?root=$logs/ours&read-only=true" "$out")"
check "and verified" droste store verify --store "$logs/ours?read-only=true"
equal "nothing of it changes" "$before" "$(listed)"
refused "nothing is built in it" 1 'is read-only' droste build --store "$logs/ours?read-only=true" "$one"

refused "a daemon's store is not built in" 1 'behind a daemon' droste build --store daemon "${drvs[0]}"
refused "nor one on another machine" 1 "no store on this machine's disk" droste store verify --store ssh-ng://nowhere
refused "a store directory must be absolute" 1 'not an absolute path' droste store verify --store 'local?store=x'

# As an ordinary user, in a directory of his own.
if [ "$(id -u)" = 0 ] && unshare --user --map-root-user true 2> /dev/null; then
    home=$WORK/user
    mkdir -p "$home" && cp "$DROSTE" "$home/droste"
    (
        export NIX_STORE_DIR=$home/own/store NIX_STATE_DIR=$home/own/state NIX_LOG_DIR=$home/own/log
        seed local > "$WORK/drvs"
        mapfile -t drvs < "$WORK/drvs"
        cp -a "$home/own" "$WORK/seed"
        nix34 nix-store -r --store local "${drvs[@]}" > "$WORK/expected" 2> /dev/null
        infos local > "$WORK/infos"
        chmod -R u+w "$home/own" && rm -rf "$home/own" && mv "$WORK/seed" "$home/own"
        chown -R 61234:61234 "$home" && chmod 711 "$WORK"
        (cd / && env -i PATH="$PATH" HOME="$home" NIX_CONF_DIR="$NIX_CONF_DIR" NIX_STORE_DIR="$NIX_STORE_DIR" NIX_STATE_DIR="$NIX_STATE_DIR" NIX_LOG_DIR="$NIX_LOG_DIR" \
            setpriv --reuid 61234 --regid 61234 --clear-groups timeout 120 "$home/droste" build --store local "${drvs[@]}") > "$WORK/got" 2> "$WORK/err" || cat "$WORK/err"
        equal "a user builds the same paths in a store of his" "$(sort "$WORK/expected")" "$(sort "$WORK/got")"
        equal "they are recorded as Nix does it" "$(cat "$WORK/infos")" "$(infos local)"
        check "Nix verifies what the user built" verify nix34 local
    )
else
    skip "the same as another user" "this is run by an ordinary user already, or there are no user namespaces"
fi
finish
