# `droste daemon --proxy`: real Nix's daemon, each version, behind Droste's; all is its own but
# the builds.
. "$TESTS/harness.sh"
stop_without NIX34

wait_for() {
    for _ in $(seq 100); do
        [ ! -S "$1" ] || return 0
        sleep 0.1
    done
    return 1
}
export NIX_CONFIG="extra-experimental-features = impure-derivations"
seed=$WORK/seed
busybox=$(busybox_into "$seed")
copy_store "$seed" "$WORK/judge"
refused "a proxy of nobody says so" 1 'cannot use the daemon' timeout 20 "$DROSTE" daemon --proxy "$WORK/nobody"
for version in 34 26 28; do
    name=NIX$version why=NIX${version}_WHY
    if [ -z "${!name}" ]; then
        skip "Nix 2.$version behind a proxy" "${!why}"
        continue
    fi
    export DROSTE_DIR=$WORK/droste-$version
    root=$WORK/root-$version theirs=$WORK/$version.socket ours=$DROSTE_DIR/daemon.socket
    copy_store "$seed" "$root"
    mkdir -p "$WORK/state-$version" "$DROSTE_DIR"
    NIX_REMOTE=local NIX_STATE_DIR=$WORK/state-$version NIX_DAEMON_SOCKET_PATH=$theirs \
        "${!name}/nix-daemon" --store "$root" > "$WORK/nix-daemon-$version.log" 2>&1 < /dev/null &
    nix_daemon=$!
    check "the daemon of Nix 2.$version listens" wait_for "$theirs"
    # What a hook is told of is where it looks for it.
    printf '#!/bin/sh\nfor path in $OUT_PATHS; do test -e "%s$path" || exit 1; done\necho $OUT_PATHS >> %s\n' \
        "$root" "$WORK/hooked-$version" > "$WORK/hook-$version"
    chmod +x "$WORK/hook-$version"
    NIX_CONFIG="$NIX_CONFIG
post-build-hook = $WORK/hook-$version" \
        "$DROSTE" daemon --proxy "unix://$theirs?root=$root" > "$WORK/daemon.log" 2>&1 < /dev/null &
    daemon=$!
    check "Droste listens before it" wait_for "$ours"
    url="unix://$ours?root=$root"
    echo "thing $version" > "$WORK/thing"
    added=$(nix34 nix-store --store "$url" --add "$WORK/thing" 2> "$WORK/err") || cat "$WORK/err"
    equal "what is added is in its store" "thing $version" "$(cat "$root$added")"
    check "its paths are listed" nix34 nix path-info --store "$url" --all
    for attribute in simple multiple-outputs chain fixed-flat-sha256 floating-simple input-addressed-on-floating; do
        drv=$(nix34 nix-instantiate --store "$url" ../differential -A "$attribute" --argstr busybox "$busybox" 2> "$WORK/err") || {
            fail "$attribute is instantiated" "$(tail -n 5 "$WORK/err")"
            continue
        }
        drv=${drv%%!*}
        got=$(nix34 nix-store -r --store "$url" "$drv" 2> "$WORK/err") || {
            fail "$attribute is built before Nix 2.$version" "$(tail -n 5 "$WORK/err")"
            continue
        }
        nix34 nix-store --export --store "$root" $(nix34 nix-store -qR --store "$root" "$drv") | nix34 nix-store --import --store "$WORK/judge" > /dev/null
        equal "$attribute is built as by Nix 2.34 (2.$version)" "$(nix34 nix-store -r --store "$WORK/judge" "$drv" 2> /dev/null | sort)" "$(sort <<< "$got")"
        for output in $got; do
            check "$attribute was built by Droste" test -e "$DROSTE_DIR/store$output"
            equal "$attribute is the same there (2.$version)" "$(nix34 nix-store -q --hash --store "$WORK/judge" "$output")" "$(nix34 nix-store -q --hash --store "$root" "$output")"
        done
    done
    drv=$(nix34 nix-instantiate --store "$url" ../differential -A fails --argstr busybox "$busybox" 2> /dev/null)
    refused "a failure is told, with the log (2.$version)" 1 'last words' nix34 nix-store -r --store "$url" "$drv"
    theirs_url="unix://$theirs?root=$root"
    built() { nix34 nix build --no-link --print-out-paths --store "$1" -f ./default.nix "$2" --argstr busybox "$busybox" --argstr salt $version 2> "$WORK/err" || cat "$WORK/err"; }
    says=$(built "$url" says)
    check "a hook finds the outputs (2.$version)" grep -qxF -- "$says" "$WORK/hooked-$version"
    equal "its daemon has the log (2.$version)" "said by $version" "$(nix34 nix log --store "$theirs_url" "$says" 2> /dev/null)"
    first=$(built "$url" impure) second=$(built "$url" impure)
    check "what is impure is built each time (2.$version)" test -e "$root$first" -a -e "$root$second" -a "$first" != "$second"
    self=$(built "$url" self)
    equal "its hash is taken as its daemon takes it (2.$version)" "$self" "$(cat "$root$self")"
    random=$(built "$theirs_url" random-floating)
    equal "what its daemon has built is not built again (2.$version)" "$random" "$(built "$url" random-floating)"
    equal "and is what others get (2.$version)" "$(cat "$root$random")" "$(cat "$root$(built "$url" on-random)")"
    equal "the inputs are not copied (2.$version)" "" "$(ls "$DROSTE_DIR/store/nix/store" | grep -- -busybox)"
    deleting=$(nix34 nix-store --store "$url" --delete "$added" 2>&1 > /dev/null)
    check "what its daemon does is told (2.$version)" grep -q "deleting '.*$added'" <<< "$deleting"
    check "its daemon collects garbage" nix34 nix-store --store "$url" --gc
    check "the proxy ends" droste daemon stop
    wait "$daemon" || fail "the proxy ends in order" "$(tail -n 5 "$WORK/daemon.log")"
    kill "$nix_daemon"
    wait "$nix_daemon" 2> /dev/null
    verified "the store of Nix 2.$version verifies" "$root"
done
finish
