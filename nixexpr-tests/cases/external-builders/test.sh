# Nix with Droste among its `external-builders`: it plans, a builder is run by Droste's daemon, and
# what comes out is what Nix makes by itself. With and without build users.
. "$TESTS/harness.sh"
stop_without NIX34

refused "without a description it says what it is for" 1 'BUILD.json' timeout 20 "$DROSTE" external-builder
printf '{"version":2}' > "$WORK/other.json"
refused "another version is refused" 1 'version 2' timeout 20 "$DROSTE" external-builder "$WORK/other.json"
printf '{"version":1}' > "$WORK/other.json"
refused "a description without its fields is refused" 1 'does not describe a build' timeout 20 "$DROSTE" external-builder "$WORK/other.json"

seed=$WORK/seed
busybox=$(busybox_into "$seed")
export busybox
drvs() {
    nix34 nix-instantiate --store "$1" -E "builtins.attrValues (import $PWD/$2 { busybox = \"$busybox\"; })" 2> /dev/null
}
copy_store "$seed" "$WORK/judge"
check "Nix 2.34 builds all by itself" nix34 nix-store --store "$WORK/judge" -r $(drvs "$WORK/judge" default.nix)
for drv in $(drvs "$WORK/judge" ../remote-builder/failing.nix); do
    nix34 nix-store --store "$WORK/judge" -r "$drv" > /dev/null 2> "$WORK/judge-$(basename "$drv").err"
    echo "$? $drv" >> "$WORK/ends-judge"
done
path_infos "$WORK/judge" > "$WORK/infos-judge"

for who in caller build-users; do
    export who DROSTE_DIR=$WORK/droste-$who root=$WORK/root-$who
    mkdir -p "$root/nix"
    with_private_nix "$root/nix" bash -c '
        . "$TESTS/harness.sh"
        export DROSTE_DIR=$WORK/droste-$who
        users=() args="\"external-builder\""
        if [ $who = build-users ]; then
            # The daemon is another user, and has to let these in.
            cp /etc/passwd "$WORK/passwd" && cp /etc/group "$WORK/group"
            printf "droste-test-build:x:39001:\n" >> "$WORK/group"
            sed -i "s/^droste-test-build:.*/&droste-test-1,droste-test-2/" "$WORK/group"
            printf "droste-test-%s:x:3900%s:39001::/:/bin/false\n" 1 1 2 2 >> "$WORK/passwd"
            mount --bind "$WORK/passwd" /etc/passwd && mount --bind "$WORK/group" /etc/group || exit 1
            users=(--option build-users-group droste-test-build)
            chgrp 39001 /nix/store && chmod 1775 /nix/store
            args="\"external-builder\",\"--socket\",\"$WORK/external.socket\""
            chmod 755 "$WORK"
            "$DROSTE" daemon --external-socket "$WORK/external.socket" --external-group droste-test-build > "$WORK/daemon.log" 2>&1 &
            for _ in $(seq 100); do [ ! -S "$WORK/external.socket" ] || break; sleep 0.1; done
        fi
        external=(--option extra-experimental-features external-builders
            --option external-builders "[{\"systems\":[\"x86_64-linux\"],\"program\":\"$DROSTE\",\"args\":[$args]}]" --option max-jobs 2)
        # Not by way of a function that filters: what is killed is Nix.
        build() { "$NIX34/nix-store" -r "${external[@]}" "${users[@]}" "$@"; }
        nix34 nix-store --add "$BUSYBOX" > /dev/null
        all=$(nix34 nix-instantiate -E "builtins.attrValues (import $PWD/default.nix { busybox = \"$busybox\"; })" 2> /dev/null)
        check "all is built ($who)" build $all
        for drv in $(nix34 nix-instantiate -E "builtins.attrValues (import $PWD/../remote-builder/failing.nix { busybox = \"$busybox\"; })" 2> /dev/null); do
            build "$drv" > /dev/null 2> "$WORK/$who-$(basename "$drv").err"
            echo "$? $drv" >> "$WORK/ends-$who"
        done
        one=$(nix34 nix-instantiate -E "(import $PWD/default.nix { busybox = \"$busybox\"; }).simple" 2> /dev/null)
        check "built again it is the same ($who)" build "$one" --check
        # Nix ends while a builder runs.
        slow=$(nix34 nix-instantiate -E "derivation { name = \"slow\"; system = \"x86_64-linux\"; builder = \"\${builtins.storePath \"$busybox\"}/bin/sh\"; args = [ \"-c\" \"echo begun; exec $busybox/bin/sleep 4321\" ]; }" 2> /dev/null)
        "$NIX34/nix-store" -r "${external[@]}" "${users[@]}" "$slow" > "$WORK/slow.out" 2> "$WORK/slow.err" &
        nix=$!
        for _ in $(seq 200); do ! grep -q begun "$WORK/slow.err" || break; sleep 0.05; done
        check "the log is shown while it is written ($who)" grep -q begun "$WORK/slow.err"
        kill $nix
        wait $nix 2> /dev/null
        for _ in $(seq 100); do pgrep -f "^$busybox/bin/sleep 4321" > /dev/null || break; sleep 0.05; done
        refused "its builder ends with Nix ($who)" 1 "" pgrep -f "^$busybox/bin/sleep 4321"
        check "the store verifies ($who)" nix34 nix-store --verify --check-contents
        if [ $who = caller ]; then
            missing=$(build "$slow" --option external-builders "[{\"systems\":[\"x86_64-linux\"],\"program\":\"$DROSTE\",\"args\":[\"external-builder\",\"--socket\",\"/nowhere\"]}]" 2>&1)
            check "that there is no daemon is told" grep -q "no daemon listens at ./nowhere" <<< "$missing"
        fi
        check "the daemon ends ($who)" timeout 60 "$DROSTE" daemon stop
    '
    path_infos "$root" > "$WORK/infos-$who"
    facts() { sed 's/"deriver":[^,}]*,//; s/"registrationTime":[0-9]*,*//; s/"signatures":\[[^]]*\],*//; s/,}/}/' "$1" | grep -v -e '\.drv: ' -e '-slow' | sort; }
    equal "what comes out is what Nix makes by itself ($who)" "$(facts "$WORK/infos-judge")" "$(facts "$WORK/infos-$who")"
    # What everybody may write to is not handed over: to Nix the builder has failed.
    sed -i 's/^100 \(.*group-writable\)/1 \1/' "$WORK/ends-$who"
    equal "what fails, fails with the same status ($who)" "$(sort "$WORK/ends-judge")" "$(sort "$WORK/ends-$who")"
    for drv in $(cut -d' ' -f2 "$WORK/ends-judge" | grep -v group-writable); do
        said() { grep -oE "failed with exit code [0-9]+|failed due to signal [^;]*|hash mismatch in fixed-output|failed to produce output path|suspicious ownership|last words" "$1" | sort -u; }
        name=$(basename "$drv")
        equal "the same is said of ${name#*-} ($who)" "$(said "$WORK/judge-$name.err")" "$(said "$WORK/$who-$name.err")"
    done
    equal "Droste's store leaves nothing behind ($who)" "" "$(ls -A "$DROSTE_DIR/store/nix/var/nix/builds")"
done
finish
