# Recursive Nix: Nix 2.34 runs inside the builds, as a client of Nix 2.34 and of
# Droste; both must make the same paths of it.
. "$TESTS/harness.sh"
stop_without NIX34
nix_conf "$NIX_CONF_DIR" "$NIX34_PREFIX"

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
for name in asks-for-an-unknown-path builds-with-an-unknown-input builds-with-an-undeclared-input asks-for-no-sandbox collects-garbage talks-nonsense; do
    drv=$(nix34 nix-instantiate --store "$store" hostile.nix -A "$name" --argstr busybox "$busybox" --argstr nix "$NIX34" --argstr secret "$secret")
    check "a build that $name gets nothing by it" droste build -L --store "$store" --sandbox-path "$NIX34_PREFIX" "$drv"
done
check "what a build wanted to delete is there" nix34 nix-store --check-validity --store "$store" "$busybox" "$secret"
clean "nothing is left behind by hostile builds" "$store"
verified "the store verifies after hostile builds" "$store"
finish
