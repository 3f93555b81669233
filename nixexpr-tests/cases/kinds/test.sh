# Derivations and settings that change how they are built: Droste with `--option NAME VALUE` does
# what Nix 2.34 does with the same option.
. "$TESTS/harness.sh"
stop_without NIX34
echo 'extra-experimental-features = impure-derivations configurable-impure-env' >> "$NIX_CONF_DIR/nix.conf"

seed=$WORK/seed
busybox=$(busybox_into "$seed")
nix34 nix-instantiate --store "$seed" default.nix --argstr busybox "$busybox" --argstr work "$WORK" > /dev/null
nix34 nix-instantiate --store "$seed" --eval --raw --argstr busybox "$busybox" --argstr work "$WORK" --expr "
    { busybox, work }: let all = import $PWD/default.nix { inherit busybox work; }; in
    builtins.concatStringsSep \"\" (map (name:
        \"\${name} \${builtins.unsafeDiscardStringContext all.\${name}.drvPath}\n\") (builtins.attrNames all))" > "$WORK/drvs"
drv() { sed -n "s,^$1 ,,p" "$WORK/drvs"; }
check "the expressions evaluate" test -n "$(drv wants-feature)"
for name in 34 droste; do copy_store "$seed" "$WORK/$name"; done

export SET_OUTSIDE='from outside' SET_BY_SETTING='not this'
in_nix() { nix34 nix-store -r --store "$WORK/34" "$@"; }
# What `nix-store -r` builds of impure derivations it cannot print.
in_nix_build() {
    local drv=${*: -1}
    set -- "${@:1:$#-1}"
    nix34 nix build --store "$WORK/34" --no-link --print-out-paths "$@" "$drv^*"
}
in_droste() { droste build --store "$WORK/droste" "$@"; }

# info WHO PATHS: what is recorded of each, or that it is not valid.
info() {
    local path
    path_infos "$WORK/$1" > "$WORK/infos"
    while read -r path; do
        grep -F "$(basename "$path"): " "$WORK/infos" || echo "$path is not valid"
    done
}
# phrases ERE: lines of standard input that have it, all quotes alike.
phrases() { sed -e $'s/\e\\[[0-9;]*m//g' -e "s/[\`\"‘’]/'/g" | tr '\n' ' ' | grep -oiE -- "$1"; }

# alike SENTENCE PHRASE ARGUMENTS...: both end with the same status, make the same outputs, and
# have PHRASE (an extended regular expression without quotes' kinds; or '') in standard error.
alike() {
    local sentence=$1 phrase=$2 nix=0 droste=0
    shift 2
    "$how" "$@" > "$WORK/nix.out" 2> "$WORK/nix.err" < /dev/null || nix=$?
    in_droste "$@" > "$WORK/droste.out" 2> "$WORK/droste.err" < /dev/null || droste=$?
    if [ "$nix" != "$droste" ]; then
        fail "$sentence" "exit status $droste, not $nix, of: $*" "$(cat "$WORK/droste.err")" "Nix:" "$(cat "$WORK/nix.err")"
        return
    fi
    if [ -n "$phrase" ]; then
        local said
        for said in nix droste; do
            phrases "$phrase" < "$WORK/$said.err" > /dev/null || {
                fail "$sentence" "$said does not say: $phrase" "$(cat "$WORK/$said.err")"
                return
            }
        done
    fi
    equal "$sentence" "$(sort "$WORK/nix.out" | info 34)" "$(sort "$WORK/droste.out" | info droste)"
}

# Impure derivations.
how=in_nix_build
for name in impure-constant impure-two-outputs impure-with-input impure-on-impure \
    fixed-on-impure pure-on-fixed-on-impure fixed-fails; do
    alike "$name gives what Nix gives" '' "$(drv $name)"
done
alike "a pure derivation may not depend on an impure one" "pure derivation '[^']*' depends on impure derivation '[^']*'" "$(drv pure-on-impure)"
alike "nor may a floating one" "pure derivation '[^']*' depends on impure derivation '[^']*'" "$(drv floating-on-impure)"
alike "an impure builder that fails" "failed with exit code 4" "$(drv impure-fails)"
check "one request builds an impure derivation once, whoever needs it" in_droste "$(drv impure-on-changing)"
first=$(in_droste "$(drv impure-changing)" 2> /dev/null)
second=$(in_droste "$(drv impure-changing)" 2> /dev/null)
check "an impure derivation is built each time" test -n "$first" -a -n "$second" -a "$first" != "$second"
alike "impure derivations get variables from outside" '' "$(drv impure-environment)"
alike "or from the setting impure-env" '' --option impure-env SET_BY_SETTING=this "$(drv impure-environment)"
mkdir -p "$WORK/host"
echo 'certificates of authorities' > "$WORK/host/certificates"
ln -s certificates "$WORK/host/linked-certificates"
alike "builds with the network see the certificates of authorities" '' \
    --option ssl-cert-file "$WORK/host/linked-certificates" "$(drv impure-certificates)"
alike "if there are any" '' --option ssl-cert-file "$WORK/host/absent" "$(drv impure-certificates)"
equal "no realisation of an impure derivation is recorded" "" \
    "$(nix34 nix realisation info --store "$WORK/droste" --json "$(drv impure-constant)^out" 2> /dev/null | grep -o '"outPath":"[^"]*"')"

how=in_nix

# No sandbox, and what a sandbox shows of the machine.
alike "__noChroot is refused where all builds are sandboxed" "has '__noChroot' set" "$(drv no-chroot)"
alike "__noChroot is taken where the sandbox is relaxed" '' --option sandbox relaxed "$(drv no-chroot)"
mkdir -p "$WORK/host/directory"
echo 'a file' > "$WORK/host/file"
echo 'in a directory' > "$WORK/host/directory/file"
ln -s directory/file "$WORK/host/link"
alike "sandbox-paths shows files, directories and links, and passes over what is optional" '' \
    --option extra-sandbox-paths "/shown/file=$WORK/host/file /shown/directory=$WORK/host/directory /shown/link=$WORK/host/link /absent=$WORK/host/absent?" "$(drv host-paths)"
for store in 34 droste; do
    "in_$([ $store = 34 ] && echo nix || echo droste)" "$(drv refers-to-dep)" > "$WORK/refers" 2> /dev/null
done
alike "what is not there is an error" "$WORK/host/absent" --option extra-sandbox-paths "/absent=$WORK/host/absent" "$(drv whole-dev)"
alike "/dev can be shown whole" '' --option extra-sandbox-paths /dev "$(drv whole-dev)"
alike "__impureHostDeps is refused" "requested impure path '[^']*', but it was not in allowed-impure-host-deps" "$(drv wants-host-path)"
alike "__impureHostDeps is refused beside what is allowed" "requested impure path" \
    --option allowed-impure-host-deps "$WORK/host/dir" "$(drv wants-host-path)"
alike "__impureHostDeps is taken below what is allowed" '' --option allowed-impure-host-deps "$WORK/host" "$(drv wants-host-path)"
alike "and may be missing" '' --option allowed-impure-host-deps "$WORK/host" "$(drv wants-missing-host-path)"

# Only where the store is where its name says is there no sandbox: each in a mount namespace in
# which it is.
at_home() {
    local name=$1
    shift
    with_private_nix "$WORK/home-$name/nix" env NIX_REMOTE=local "$@"
}
for name in 34 droste; do copy_store "$seed" "$WORK/home-$name"; done
# home SENTENCE STATUS ARGUMENTS...: both end with it, with the same outputs.
home() {
    local sentence=$1 status=$2 nix=0 droste=0
    shift 2
    at_home 34 "$NIX34/nix-store" -r "$@" > "$WORK/nix.out" 2> "$WORK/nix.err" < /dev/null || nix=$?
    at_home droste "$DROSTE" build --store / "$@" > "$WORK/droste.out" 2> "$WORK/droste.err" < /dev/null || droste=$?
    if [ "$nix $droste" != "$status $status" ]; then
        fail "$sentence" "exit status $droste, and $nix of Nix, not $status: $*" "$(cat "$WORK/droste.err")" "Nix:" "$(cat "$WORK/nix.err")"
    elif [ "$status" = 0 ]; then
        equal "$sentence" "$(sort "$WORK/nix.out" | info home-34)" "$(sort "$WORK/droste.out" | info home-droste)"
    else
        pass "$sentence"
    fi
}
home "at home __noChroot is refused, too, where all builds are sandboxed" 1 "$(drv sees-machine)"
home "a relaxed sandbox shows the machine to who asks for it" 0 --option sandbox relaxed "$(drv sees-machine)"
home "and to fixed outputs" 0 --option sandbox relaxed "$(drv fixed-sees-machine)"
home "and to nobody else" 0 --option sandbox relaxed "$(drv sees-nothing)"
home "without a sandbox all see it" 0 --option sandbox false "$(drv sees-machine)"

# script NAME: an executable of that name with what is on standard input.
script() { { echo '#!/bin/sh'; cat; } > "$WORK/$1" && chmod 755 "$WORK/$1"; }
script pre-build << END
echo "\$(basename "\$1") \${2:+root}" >> $WORK/pre-build.log
echo extra-sandbox-paths
echo /shown/file=$WORK/host/file
echo /shown/directory=$WORK/host/directory
echo
END
for name in 34 droste; do rm -f "$WORK/pre-build.log"; done
for store in nix droste; do
    : > "$WORK/pre-build.log"
    "in_$store" --option pre-build-hook "$WORK/pre-build" "$(drv plain3)" > /dev/null 2>&1
    cp "$WORK/pre-build.log" "$WORK/pre-build.$store"
done
check "the pre-build-hook runs" test -s "$WORK/pre-build.nix"
equal "the pre-build-hook gets the derivation and the root" "$(cat "$WORK/pre-build.nix")" "$(cat "$WORK/pre-build.droste")"
script pre-bad <<< 'echo mount-everything'
alike "a pre-build-hook that says something else is an error" "unknown pre-build hook command 'mount-everything'" --option pre-build-hook "$WORK/pre-bad" "$(drv plain2)"
script pre-fails <<< 'exit 3'
alike "a pre-build-hook that fails is an error" "program '[^']*pre-fails' failed with exit code 3" --option pre-build-hook "$WORK/pre-fails" "$(drv plain2)"

# Limits.
alike "a log may be as long as the limit" '' --option max-build-log-size 400000 "$(drv talks-much)"
alike "a builder that writes more is killed" "killed after writing more than 5000 bytes of log output" --option max-build-log-size 5000 "$(drv talks-for-ever)"
alike "a builder that takes longer is killed" "timed out after 1 seconds" --option timeout 1 "$(drv sleeps)"
alike "a builder that is silent for longer is killed" "timed out after 1 seconds( of silence)?" --option max-silent-time 1 "$(drv is-silent)"
alike "a failed build's directory is kept" "keeping build directory '[^']*/build'" --option keep-failed true "$(drv fails-late)"
kept=$(phrases "keeping build directory '[^']*'" < "$WORK/droste.err" | cut -d"'" -f2)
equal "everybody may look at it" "755 755 made" "$(stat -c %a "$(dirname "$kept")" "$kept" | tr '\n' ' ')$(cat "$kept/file")"
case $kept in "$WORK"/*) rm -rf "$(dirname "$kept")" ;; esac
alike "with keep-going the failures are told together" "" --option keep-going true --option timeout 2 "$(drv sleeps)" "$(drv fails-late)"

# Rebuilding.
for name in same-again differs-again one-differs fixed-again floating-again; do
    in_nix "$(drv $name)" > "$WORK/out-nix.$name" 2> /dev/null
    in_droste "$(drv $name)" > "$WORK/out-droste.$name" 2> /dev/null
done
# again SENTENCE PHRASE ARGUMENTS...: as alike, for --check; outputs that differ have no infos to compare.
again() {
    local sentence=$1 phrase=$2 nix=0 droste=0 said
    shift 2
    in_nix --check "$@" > "$WORK/nix.out" 2> "$WORK/nix.err" < /dev/null || nix=$?
    in_droste --rebuild "$@" > "$WORK/droste.out" 2> "$WORK/droste.err" < /dev/null || droste=$?
    equal "$sentence: status" "$nix" "$droste"
    [ -n "$phrase" ] || return
    for said in nix droste; do check "$sentence: $said says so" phrases "$phrase" < "$WORK/$said.err"; done
}
again "a build that gives the same" '' "$(drv same-again)"
again "a fixed output that is the same" '' "$(drv fixed-again)"
again "a floating output that is the same" '' "$(drv floating-again)"
again "a build that gives something else" "derivation '[^']*' may not be deterministic: output '[^']*' differs( |\$)" "$(drv differs-again)"
again "a build of which one output is something else" "may not be deterministic: output '[^']*-one-differs' differs( |\$)" "$(drv one-differs)"
again "what was never built" "are not valid, so checking is not possible" "$(drv sleeps)"
again "the differing output is kept with keep-failed" "differs from '[^']*\\.check'" --option keep-failed true "$(drv differs-again)"
check "it is there" test -e "$WORK/droste/nix/store/$(basename "$(cat "$WORK/out-droste.differs-again")").check"
script diff << END
{ [ -e "\$1" ] || [ -e "$WORK/34\$1" ]; } && [ -e "\$2" ] && echo "old and new" >> $WORK/diff.log
echo "\$(basename "\$2") \$(basename "\$3") \$(basename "\$4") \$(pwd)" >> $WORK/diff.log
echo shown by the hook
END
chmod 711 "$WORK"
for store in nix droste; do
    : > "$WORK/diff.log"
    chmod 666 "$WORK/diff.log"
    again "a diff-hook runs ($store)" "" --option diff-hook "$WORK/diff" --option run-diff-hook true "$(drv differs-again)"
    cp "$WORK/diff.log" "$WORK/diff.both"
done
equal "both diff-hooks get the outputs, the derivation and a directory" 2 "$(grep -c " $(basename "$(drv differs-again)") build /$" "$WORK/diff.both")"
check "what it prints is shown" grep -q 'shown by the hook' "$WORK/droste.err"
script diff-fails <<< 'exit 9'
again "a diff-hook that fails changes nothing" "diff hook execution failed" --option diff-hook "$WORK/diff-fails" --option run-diff-hook true "$(drv differs-again)"
: > "$WORK/diff.log"
again "a diff-hook does not run if it is not to" "" --option diff-hook "$WORK/diff" "$(drv differs-again)"
equal "it did not run" "" "$(cat "$WORK/diff.log")"

# The post-build-hook.
script post << END
{ echo "drv \$DRV_PATH"; echo "out \$OUT_PATHS"; echo "\$NIX_CONFIG" | grep -c -e '^sandbox-paths = ' -e '^experimental-features = .*ca-derivations'; } >> $WORK/post.log
echo said by the hook
echo and on standard error >&2
END
for store in nix droste; do
    : > "$WORK/post.log"
    for name in plain floating-hooked plain; do
        "in_$store" --option post-build-hook "$WORK/post" "$(drv $name)" > /dev/null 2> "$WORK/post-err.$store.$name"
    done
    cp "$WORK/post.log" "$WORK/post.$store"
done
check "the post-build-hook runs" test -s "$WORK/post.nix"
equal "the post-build-hook gets the derivation, the outputs and the settings, once a build" "$(cat "$WORK/post.nix")" "$(cat "$WORK/post.droste")"
again "it runs after a rebuild, too" "" --option post-build-hook "$WORK/post" "$(drv same-again)"
check "what it prints is shown" grep -q 'said by the hook' "$WORK/droste.err"
check "standard error, too" grep -q 'and on standard error' "$WORK/droste.err"
script post-fails <<< 'echo it fails; exit 5'
alike "a post-build-hook that fails fails the build" "program '[^']*post-fails' failed with exit code 5" --option post-build-hook "$WORK/post-fails" "$(drv plain2)"
alike "but the outputs are there" '' "$(drv plain2)"

# Systems and features.
alike "another system is refused" "Required system|is required to build" "$(drv as-extra-platform)"
alike "extra-platforms are taken" '' --option extra-platforms 'i686-linux riscv64-linux' "$(drv as-extra-platform)"
alike "i686-linux has its personality" '' "$(drv as-i686)"
if [ -x "$BUSYBOX/bin/probe32" ]; then
    for name in of-32-bits of-32-bits-on-64; do
        alike "a program of 32 bits is refused what Nix refuses it ($name)" '' "$(drv $name)"
    done
    equal "set-ID bits and attributes are among that" "-1 -1 -1 -95" \
        "$(sed -n 's/^\(chmod set-uid\|fchmod set-gid\|fchmodat set-uid\|setxattr\) //p' "$WORK/droste/$(cat "$WORK/droste.out")" | xargs)"
fi
alike "a level of the processor's is a system of this machine" '' "$(drv of-a-level)"
alike "a feature that is missing is refused" "quantum" "$(drv wants-feature)"
alike "system-features are taken" '' --option system-features 'quantum ca-derivations' "$(drv wants-feature)"

# By the rebuilds with keep-failed.
rm -rf "$WORK"/*/nix/var/nix/builds/nix-*
rm -f "$WORK"/*/nix/store/*.check
clean "nothing is left behind" "$WORK/droste"
verified "the store verifies" "$WORK/droste"
finish
