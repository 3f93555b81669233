# Recursive Nix: Nix 2.34 runs inside the builds, as a client of Nix 2.34 and of
# Droste; both must make the same paths of it.
. "$TESTS/harness.sh"
stop_without NIX34
nix_conf "$NIX_CONF_DIR" "$NIX34_PREFIX"

# What is submitted is added, not built: of no deriver.
content_alone() { sed 's/"deriver":\("[^"]*"\|null\),//; s/,"ultimate":[a-z]*//; s/"ultimate":[a-z]*,//'; }
seed=$WORK/seed
busybox=$(busybox_into "$seed")
nix34 nix eval --store "$seed" --impure --raw --expr "
    let all = import $PWD { busybox = \"$busybox\"; nix = \"$NIX34\"; };
    in builtins.concatStringsSep \"\" (map (name:
        \"\${name} \${builtins.unsafeDiscardStringContext all.\${name}.drvPath}\n\") (builtins.attrNames all))" > "$WORK/drvs"
copy_store "$seed" "$WORK/34"
copy_store "$seed" "$WORK/droste-store"
while read -r name drv; do
    nix34 nix-store -r --store "$WORK/34" "$drv" > "$WORK/$name.expected" 2> "$WORK/$name.expected-err" < /dev/null
    expected=$?
    droste build --store "$WORK/droste-store" --sandbox-path "$NIX34_PREFIX" "$drv" > "$WORK/$name.got" 2> "$WORK/$name.err" < /dev/null
    got=$?
    if [ "$expected" != "$got" ]; then
        fail "$name ends like in Nix 2.34" "exit status $got, not $expected" "$(tail -n 25 "$WORK/$name.err")"
    elif [ "$expected" = 0 ]; then
        path=$(cat "$WORK/$name.expected")
        equal "$name has the output that Nix 2.34 makes" "$(path_info "$WORK/34" "$path")" "$(path_info "$WORK/droste-store" "$path")"
    else
        pass "$name ends like in Nix 2.34"
    fi
done < "$WORK/drvs"
equal "the same paths are valid as in Nix 2.34's store" "$(path_infos "$WORK/34")" "$(path_infos "$WORK/droste-store")"
clean "nothing is left behind" "$WORK/droste-store"
verified "the store verifies" "$WORK/droste-store"

# What must be refused, by Droste alone: real Nix builds derivations with inputs that
# the outer build could not see.
store=$WORK/hostile
copy_store "$seed" "$store"
echo 'the secret' > "$WORK/secret"
secret=$(nix34 nix-store --store "$store" --add "$WORK/secret")
for name in asks-for-an-unknown-path builds-with-an-unknown-input builds-with-an-undeclared-input asks-for-no-sandbox reaches-the-network collects-garbage talks-nonsense; do
    drv=$(nix34 nix-instantiate --store "$store" hostile.nix -A "$name" --argstr busybox "$busybox" --argstr nix "$NIX34" --argstr secret "$secret")
    check "a build that $name gets nothing by it" droste build -L --store "$store" --sandbox-path "$NIX34_PREFIX" "$drv"
done
check "what a build wanted to delete is there" nix34 nix-store --check-validity --store "$store" "$busybox" "$secret"
clean "nothing is left behind by hostile builds" "$store"
verified "the store verifies after hostile builds" "$store"
# builder-rpc-v0, which no Nix that can be had here has: the client is our own, from Nix's source.
if perl -MDigest::SHA -MIO::Socket::UNIX -e 1 2> /dev/null; then
    store=$WORK/rpc
    copy_store "$seed" "$store"
    secret=$(nix34 nix-store --store "$store" --add "$WORK/secret")
    nix34 nix eval --store "$store" --impure --raw --expr "
        let all = import $PWD/rpc.nix { busybox = \"$busybox\"; nix = \"$NIX34\"; secret = \"$secret\"; };
            line = name: drv: \"\${name} \${builtins.unsafeDiscardStringContext drv.drvPath}\n\";
            lines = name: of: if of ? drvPath then [ (line name of) ]
                else map (sub: line \"\${name}.\${sub}\" of.\${sub}) (builtins.attrNames of);
        in builtins.concatStringsSep \"\" (builtins.concatLists (builtins.attrValues (builtins.mapAttrs lines all)))" > "$WORK/rpc-drvs"
    rpc_drv() { sed -n "s/^$1 //p" "$WORK/rpc-drvs"; }
    rpc_build() {
        local perl
        perl=$(command -v perl)
        droste build -L --store "$store" --option extra-system-features builder-rpc-v0 --sandbox-path "$NIX34_PREFIX" --sandbox-path "/usr/bin/perl=$perl" \
            --sandbox-path /usr/lib --sandbox-path /usr/share --sandbox-path /lib --sandbox-path /lib64 "$@"
    }
    for name in reference second-output fixed; do
        nix34 nix-store -r --store "$WORK/34" $(nix34 nix-store --export --store "$store" $(nix34 nix-store -qR --store "$store" "$(rpc_drv "plain.$name")") | nix34 nix-store --import --store "$WORK/34" | grep -xF "$(rpc_drv "plain.$name")") > "$WORK/expected" 2> /dev/null
        rpc_build "$(rpc_drv "submitted.$name")" > "$WORK/got" 2> "$WORK/err" || cat "$WORK/err"
        check "what submits $name is built" test -s "$WORK/got"
        equal "what submits $name has the output of what does not" \
            "$(while read -r path; do path_info "$WORK/34" "$path"; done < "$WORK/expected" | content_alone)" \
            "$(while read -r path; do path_info "$store" "$path"; done < "$WORK/got" | content_alone)"
    done
    check "a derivation that was submitted is built" rpc_build "$(rpc_drv dynamic)^out^out"
    check "a build may submit, and ask for builds" rpc_build "$(rpc_drv recursive)"
    refused "a build that submits nothing fails" 1 'failed to submit output path for .out' rpc_build "$(rpc_drv refused.none-submitted)"
    refused "what is demanded of outputs is demanded of those that are submitted" 1 'not allowed to refer|forbidden' rpc_build "$(rpc_drv refused.forbidden-reference)"
    refused "nothing input-addressed is submitted" 100 'content-addressing derivations' rpc_build "$(rpc_drv refused.input-addressed)"
    check "what a build must not submit, add or ask for is refused" rpc_build "$(rpc_drv hostile)"
    clean "nothing is left behind by builds that submit" "$store"
    verified "the store verifies after builds that submit" "$store"
else
    skip "builder-rpc-v0" "this machine has no perl"
fi

# All builds share one pool of jobs, those inside builds as well.
pool=$WORK/pool
echo "extra-sandbox-paths = /pool=$pool" >> "$NIX_CONF_DIR/nix.conf"
DROSTE_DIR=$WORK/pool-daemon
store=$DROSTE_DIR/store
copy_store "$seed" "$store"
nix34 nix eval --store "$store" --impure --raw --expr "
    let all = import $PWD/pool.nix { busybox = \"$busybox\"; nix = \"$NIX34\"; };
        line = name: drv: \"\${name} \${builtins.unsafeDiscardStringContext drv.drvPath}\n\";
        lines = name: drvs: map (line name) (if builtins.isList drvs then drvs else [ drvs ]);
    in builtins.concatStringsSep \"\" (builtins.concatLists (builtins.attrValues (builtins.mapAttrs lines all)))" > "$WORK/pool-drvs"
pool_drvs() { sed -n "s/^$1 //p" "$WORK/pool-drvs"; }
check "the expressions of the pool evaluate" test "$(wc -l < "$WORK/pool-drvs")" -ge 15
# with_pool JOBS: an empty one
with_pool() {
    rm -rf "$pool"
    mkdir -p "$pool/at"
    chmod 777 "$pool" "$pool/at"
    echo "$1" > "$pool/limit"
    : > "$pool/exceeded"
    chmod 666 "$pool/exceeded"
}
pool_build() { droste build --store "$store" --sandbox-path "$NIX34_PREFIX" --option extra-sandbox-paths "/pool=$pool" "$@"; }
# pooled SENTENCE JOBS ARGUMENTS...: they are built, by no more builders than that at a time
pooled() {
    local sentence=$1 jobs=$2
    shift 2
    check "$sentence" pool_build --max-jobs "$jobs" "$@"
    equal "$sentence: never more than $jobs at work" "" "$(cat "$pool/exceeded"; ls "$pool/at")"
}
with_pool 1
pooled "a chain of builds inside builds takes one job" 1 "$(pool_drvs chain)"
pooled "what a build gives up gives its job back" 1 "$(pool_drvs gives-up)"
pooled "what fails inside a build gives its job back" 1 "$(pool_drvs fails)"
nix34 nix derivation show --store "$store" "$(pool_drvs itself)" | sed -n '1h;1!H;${g;s/^{"derivations":{"[^"]*"://;s/},"version":4}$//;p}' > "$pool/itself.json"
pooled "a build that asks for itself is told so" 1 "$(pool_drvs itself)"
# NixOS/nix#7297: many builds that ask for one each, with few users to build as. #4216: they wait
# for each other.
with_pool 2
users='' # as root alone are there others
[ "$(id -u)" != 0 ] || users="--option id-count $((4 * 65536))"
# shellcheck disable=SC2046,SC2086 # words
pooled "many builds with builds inside them" 2 $users $(pool_drvs many)
if [ -n "$users" ]; then
    refused "no user is left for a build inside a build" 100 'all 1 build users belong to builds that wait' \
        pool_build --option id-count 65536 --max-jobs 2 "$(pool_drvs stuck)"
fi
# The same by two clients of one daemon, each of which may have as many jobs as there are.
url="unix://$DROSTE_DIR/daemon.socket?root=$store"
with_pool 2
"$DROSTE" daemon > "$WORK/pool-daemon.log" 2>&1 < /dev/null &
for _ in $(seq 100); do
    [ ! -S "$DROSTE_DIR/daemon.socket" ] || break
    sleep 0.1
done
clients=()
for half in odd even; do
    # shellcheck disable=SC2046 # words
    nix34 nix-store -r --store "$url" $(pool_drvs "$half") > "$WORK/pool-$half.log" 2>&1 &
    clients+=($!)
done
for client in "${clients[@]}"; do
    if wait "$client"; then
        pass "builds with builds inside them, by two clients"
    else
        fail "builds with builds inside them, by two clients" "$(tail -n 5 "$WORK"/pool-{odd,even}.log)"
    fi
done
equal "two clients together: never more than 2 at work" "" "$(cat "$pool/exceeded"; ls "$pool/at")"
check "the daemon stops" droste daemon stop
clean "nothing is left behind by builds inside builds" "$store"
finish
