# Nix with Droste as its remote builder: `builders = ssh-ng://localhost?remote-program=…`, with no
# ssh, in a /nix of its own for each version: same outputs as Nix makes itself, inputs that are not
# copied, one daemon for all, and failures that are told.
. "$TESTS/harness.sh"
stop_without NIX34

remote=$(dirname "$DROSTE")/droste-remote
builders="ssh-ng://localhost?remote-program=$remote x86_64-linux - 4 1 ca-derivations,benchmark,big-parallel,recursive-nix"
export remote builders
check "the remote program is there" test -x "$remote"
refused "without --stdio it says what it is for" 1 'stdio' timeout 20 "$remote"
check "a client that speaks something else is let go" sh -c "
    printf 'GET / HTTP/1.0\r\n\r\n12345678' | timeout 20 $remote --stdio > /dev/null"

# The judge: what Nix 2.34 builds by itself.
seed=$WORK/seed
busybox=$(busybox_into "$seed")
export busybox
drvs() {
    nix34 nix-instantiate --store "$1" -E "builtins.attrValues (import $PWD/$2 { busybox = \"$busybox\"; })" 2> /dev/null
}
copy_store "$seed" "$WORK/judge"
check "Nix 2.34 builds all by itself" nix34 nix-store --store "$WORK/judge" -r $(drvs "$WORK/judge" default.nix)
path_infos "$WORK/judge" > "$WORK/infos-judge"
failing=$(drvs "$WORK/judge" failing.nix)

# Content-addressed outputs alone tell the versions apart; of those that are compared none refers to itself.
for version in 34 26 28; do
    name=NIX$version why=NIX${version}_WHY
    if [ -z "${!name}" ]; then
        skip "Nix 2.$version as the client" "${!why}"
        continue
    fi
    # Each with a daemon of its own, that sees its /nix.
    export name version DROSTE_DIR=$WORK/droste-$version root=$WORK/root-$version
    mkdir -p "$root/nix"
    with_private_nix "$root/nix" bash -c '
        . "$TESTS/harness.sh"
        export DROSTE_DIR=$WORK/droste-$version
        # As who has Droste build everything sets it: the daemon reads this, too, and builds.
        sed -i "s/^max-jobs.*/max-jobs = 0/" "$NIX_CONF_DIR/nix.conf"
        nix=nix$version
        # ssh_to_here: as for another host, by a real ssh and its server.
        ssh_to_here() {
            local dir=$WORK/ssh port= sshd drv
            if [ "$(id -u)" != 0 ] || ! command -v ssh > /dev/null || ! sshd=$("$TESTS/get-sshd.sh" "$CACHE/openssh" 2> "$WORK/err"); then
                skip "it builds by a real ssh" "not root, no ssh, or no server: $(tail -n 1 "$WORK/err")"
                return
            fi
            mkdir -p "$dir" && chmod 700 "$dir"
            cp /etc/passwd "$dir/passwd"
            grep -q ^sshd: "$dir/passwd" || echo "sshd:x:39010:65534::/:/bin/false" >> "$dir/passwd"
            mount --bind "$dir/passwd" /etc/passwd && mount -t tmpfs none /run && mkdir /run/sshd
            ssh-keygen -q -t ed25519 -N "" -f "$dir/host" && ssh-keygen -q -t ed25519 -N "" -f "$dir/key"
            # It has its own environment there.
            printf "#!/bin/sh\nDROSTE_DIR=%s exec %s \"\$@\"\n" "$DROSTE_DIR" "$remote" > "$dir/remote"
            chmod 755 "$dir/remote"
            for _ in $(seq 20); do
                port=$((20000 + RANDOM % 20000))
                printf "%s\n" "ListenAddress 127.0.0.1:$port" "HostKey $dir/host" "AuthorizedKeysFile $dir/key.pub" \
                    "StrictModes no" "PidFile none" "PermitRootLogin yes" "PasswordAuthentication no" > "$dir/config"
                $sshd -D -e -f "$dir/config" 2> "$dir/log" &
                server=$!
                sleep 0.5
                ! kill -0 $server 2> /dev/null || break
            done
            export NIX_SSHOPTS="-p $port -i $dir/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes"
            for scheme in ssh-ng ssh; do
                drv=$($nix nix-instantiate -E "derivation { name = \"by-$scheme-$version\"; system = \"x86_64-linux\"; builder = \"\${builtins.storePath $busybox}/bin/sh\"; args = [ \"-c\" \"echo by $scheme > \$out\" ]; }" 2> /dev/null)
                check "it builds by a real ssh, with $scheme://" $nix nix-store -r $drv --max-jobs 0 --builders "$scheme://127.0.0.1?remote-program=$dir/remote x86_64-linux - 1 1"
                equal "with the content that it should have" "by $scheme" "$(cat $($nix nix-store -q --outputs $drv))"
            done
            kill $server
        }
        $nix nix-store --init
        $nix nix-store --add "$BUSYBOX" > /dev/null
        drvs=$($nix nix-instantiate -E "builtins.attrValues (import $PWD/default.nix { busybox = \"$busybox\"; })" 2> /dev/null)
        began=$(date +%s)
        check "Nix 2.$version has all built by Droste" $nix nix-store -r $drvs --max-jobs 0 --builders "$builders"
        $nix nix-store -r $drvs --max-jobs 0 --builders "" > "$WORK/outputs-$version" 2> "$WORK/err" || cat "$WORK/err"
        check "a second time there is nothing to do" test -s "$WORK/outputs-$version"
        copied=$($nix nix-store -r $($nix nix-instantiate -E "derivation { name = \"again-$version\"; system = \"x86_64-linux\"; builder = \"\${builtins.storePath $busybox}/bin/sh\"; args = [ \"-c\" \"echo again > \$out\" ]; }" 2> /dev/null) --max-jobs 0 --builders "$builders" -v 2>&1)
        equal "no input is copied" "" "$(grep "to .ssh-ng" <<< "$copied" | grep "copying path")"
        # Each Nix takes the hash of what refers to itself in its own way, and checks it.
        drv=$($nix nix-instantiate -E "derivation { name = \"self-$version\"; system = \"x86_64-linux\"; builder = \"\${builtins.storePath $busybox}/bin/sh\"; args = [ \"-c\" \"echo \$out > \$out\" ]; __contentAddressed = true; outputHashMode = \"recursive\"; outputHashAlgo = \"sha256\"; }" 2> /dev/null)
        self=$($nix nix-store -r ${drv%%!*} --max-jobs 0 --builders "$builders" 2> "$WORK/err") || cat "$WORK/err"
        equal "what refers to itself is taken" "$self" "$(cat "$self" 2>&1)"
        # Killed, so that it can tell nobody.
        seconds=$((400000 + RANDOM))
        drv=$($nix nix-instantiate -E "derivation { name = \"sleeps-$version\"; system = \"x86_64-linux\"; builder = \"\${builtins.storePath $busybox}/bin/sh\"; args = [ \"-c\" \"\${builtins.storePath $busybox}/bin/sleep $seconds; echo > \$out\" ]; }" 2> /dev/null)
        "${!name}/nix-store" -r $drv --max-jobs 0 --builders "$builders" > "$WORK/killed.log" 2>&1 &
        client=$!
        for _ in $(seq 100); do ! pgrep -f "sleep $seconds$" > /dev/null || break; sleep 0.1; done
        check "a builder runs for a client" pgrep -f "sleep $seconds$"
        kill -KILL $client
        for _ in $(seq 100); do pgrep -f "sleep $seconds$" > /dev/null || break; sleep 0.1; done
        refused "it ends with a client that is killed" 1 "" pgrep -f "sleep $seconds$"
        equal "there is one daemon" 1 "$("$DROSTE" daemon status | grep -c "^process")"
        equal "the inputs are not in its store" "" "$(ls "$DROSTE_DIR/store/nix/store" | grep -- -busybox)"
        # The serve protocol, which is that of Nix 2.3.
        over_ssh=${builders/ssh-ng:/ssh:}
        drv=$($nix nix-instantiate -E "derivation { name = \"over-ssh-$version\"; system = \"x86_64-linux\"; builder = \"\${builtins.storePath $busybox}/bin/sh\"; args = [ \"-c\" \"echo over ssh; echo done > \$out\" ]; }" 2> /dev/null)
        check "it builds over ssh://, too" $nix nix-store -r $drv --max-jobs 0 --builders "$over_ssh"
        equal "with the content that it should have" done "$(cat $($nix nix-store -q --outputs $drv))"
        refused "a failure over ssh:// is one" 1 "failed" $nix nix-store -r $($nix nix-instantiate -E "derivation { name = \"fails-$version\"; system = \"x86_64-linux\"; builder = \"\${builtins.storePath $busybox}/bin/sh\"; args = [ \"-c\" \"exit 3\" ]; }" 2> /dev/null) --max-jobs 0 --builders "$over_ssh"
        # Copied there by it, from a store that the daemon does not see; and by ssh-ng. On the other
        # side nix-copy-closure runs nix-store.
        there="localhost?remote-program=$remote" other=$WORK/other-$version
        mkdir -p "$WORK/copies" "$WORK/reads"
        ln -sf "$remote" "$WORK/copies/nix-store"
        # Without --write, as an ssh key may be bound to.
        printf "#!/bin/sh\nexec %s --serve\n" "$remote" > "$WORK/reads/nix-store" && chmod 755 "$WORK/reads/nix-store"
        with() { PATH=$WORK/$1:$PATH NIX_REMOTE=$2 $nix nix-copy-closure "${@:3}"; }
        made() { $nix nix-instantiate --store "$other" -E "derivation { name = \"$1-$version\"; system = \"x\"; builder = builtins.toFile \"builder-of-$1-$version\" \"$1\"; }" 2> /dev/null; }
        known() { $nix nix-store --store "ssh://$there" -q --requisites "$1" 2> /dev/null | wc -l; }
        copied=$(made closure)
        check "nix-copy-closure copies to it" with copies "$other" --to localhost $copied
        equal "with all that it refers to" 2 "$(known $copied)"
        for scheme in ssh ssh-ng; do
            copied=$(made $scheme)
            check "nix copy copies by $scheme://" $nix nix --extra-experimental-features nix-command copy --derivation --no-check-sigs --from "$other" --to "$scheme://$there" $copied
            equal "with all that it refers to ($scheme)" 2 "$(known $copied)"
        done
        check "nix-copy-closure copies from it, where it only reads" with reads "$WORK/back-$version" --from localhost $copied
        check "what came back verifies" $nix nix-store --store "$WORK/back-$version" --verify --check-contents
        refused "and where it adds nothing" 1 "importing paths is not allowed" with reads "$other" --to localhost $(made denied)
        # The same through the machine'"'"'s own nix-daemon, whose store it is then.
        if [ $version = 34 ]; then
            mkdir -p /nix/var/nix/daemon-socket
            NIX_REMOTE=local "$NIX34/nix-daemon" > "$WORK/nix-daemon.log" 2>&1 &
            nix_daemon=$!
            for _ in $(seq 100); do [ ! -S /nix/var/nix/daemon-socket/socket ] || break; sleep 0.1; done
            drv=$($nix nix-instantiate -E "derivation { name = \"by-daemon-$version\"; system = \"x86_64-linux\"; builder = \"\${builtins.storePath $busybox}/bin/sh\"; args = [ \"-c\" \"echo by daemon > \$out\" ]; }" 2> /dev/null)
            check "it builds for the daemon of the machine" env NIX_REMOTE=daemon "$NIX34/nix-store" -r $drv --max-jobs 0 --builders "$builders"
            kill $nix_daemon
            wait $nix_daemon 2> /dev/null
            rm -rf /nix/var/nix/daemon-socket
            ssh_to_here
        fi
        if failed=$(drvs=$($nix nix-instantiate -E "builtins.attrValues (import $PWD/failing.nix { busybox = \"$busybox\"; })" 2> /dev/null); for drv in $drvs; do
            $nix nix-store -r $drv --max-jobs 0 --builders "$builders" > "$WORK/out" 2> "$WORK/log-$(basename $drv | cut -d- -f2- | cut -d. -f1)" && echo "$drv was built"
        done); then :; fi
        equal "what fails, fails" "" "$failed"
        check "a failing builder tells its log" grep -q "last words" "$WORK/log-fails"
        check "a wrong hash is told, and both of them" grep -q "got:" "$WORK/log-fixed-wrong-sha256"
        check "this store verifies" $nix nix-store --verify --check-contents
        # The daemon borrowed what is collected now.
        $nix nix-store --gc > /dev/null 2>&1
        $nix nix-store --add "$BUSYBOX" > /dev/null
        drvs=$($nix nix-instantiate -E "builtins.attrValues (import $PWD/default.nix { busybox = \"$busybox\"; })" 2> /dev/null)
        check "after a collection of garbage all is had again" $nix nix-store -r $drvs --max-jobs 0 --builders "$builders"
    '
    check "the daemon ends" timeout 60 env DROSTE_DIR="$DROSTE_DIR" "$DROSTE" daemon stop
    # Nix's own derivations, resolved ones and outputs: all that both have is the same.
    path_infos "$root" > "$WORK/infos-$version"
    others() { grep -vE -- "-(again|over-ssh|by-daemon|by-ssh|by-ssh-ng)-[0-9]*" "$1"; }
    others "$WORK/infos-$version" > "$WORK/infos" && mv "$WORK/infos" "$WORK/infos-$version"
    equal "what Nix 2.$version has is what Nix 2.34 makes" \
        "$(sed 's/ .*//' "$WORK/infos-judge" | grep -v '\.drv:' | sort)" \
        "$(sed 's/ .*//' "$WORK/infos-$version" | grep -v '\.drv:' | sort)"
    facts() { sed 's/"deriver":[^,}]*,//; s/"ultimate":[a-z]*,*//; s/"signatures":\[[^]]*\],*//; s/,}/}/' "$1" | grep -v '\.drv: '; }
    equal "with the same content and references (2.$version)" "$(facts "$WORK/infos-judge")" "$(facts "$WORK/infos-$version")"
    verified "the store of Nix 2.$version verifies" "$root"
    equal "Droste's store leaves nothing behind (2.$version)" "" "$(ls -A "$DROSTE_DIR/store/nix/var/nix/builds")"
done

# Nix 2.3 knows ssh:// alone.
if [ -n "$NIX23" ]; then
    export DROSTE_DIR=$WORK/droste-23 root=$WORK/root-23
    mkdir -p "$root/nix"
    with_private_nix "$root/nix" bash -c '
        . "$TESTS/harness.sh"
        export DROSTE_DIR=$WORK/droste-23
        builders="ssh://localhost?remote-program=$remote x86_64-linux - 4 1 benchmark,big-parallel"
        nix23 nix-store --init
        nix23 nix-store --add "$BUSYBOX" > /dev/null
        for attribute in simple multiple-outputs multiple-output-user chain self-reference symlink-output references-graph fixed-flat-sha256 fixed-recursive-sha1; do
            drv=$(nix23 nix-instantiate default.nix -A $attribute --argstr busybox "$busybox" 2> "$WORK/err") || cat "$WORK/err"
            outputs=$(nix23 nix-store -r ${drv%%!*} --max-jobs 0 --builders "$builders" 2> "$WORK/err") || cat "$WORK/err"
            check "$attribute is built for Nix 2.3" test -n "$outputs"
            equal "$attribute is built for Nix 2.3 as by Nix 2.34" "$(nix34 nix-store --store "$WORK/judge" -q --hash $outputs 2>&1)" "$(nix23 nix-store -q --hash $outputs 2>&1)"
        done
        drv=$(nix23 nix-instantiate failing.nix -A fails --argstr busybox "$busybox" 2> /dev/null)
        refused "a failure is told to Nix 2.3, with the log" 1 "last words" nix23 nix-store -r $drv --max-jobs 0 --builders "$builders"
        check "the store of Nix 2.3 verifies" nix23 nix-store --verify --check-contents
        check "its daemon ends" droste daemon stop
    '
else
    skip "Nix 2.3 has its derivations built by Droste" "$NIX23_WHY"
fi
finish
