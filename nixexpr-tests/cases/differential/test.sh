# Every derivation of default.nix, built by Nix 2.34, 2.26 and 2.8 and by Droste,
# each in a chroot store of its own that one of them wrote: same exit status,
# same output paths, and the same content, references and content address of all
# that is valid afterwards.
. "$TESTS/harness.sh"
stop_without NIX34

# Where 2.34 differs from 2.8: 2.8 ends with 1 when no machine can build; its
# structured attributes point outside the sandbox; it crashes on a fixed output
# that has references; content-addressed outputs that refer to themselves hash
# otherwise; /etc has another mode; Landlock hides no
# abstract sockets, and its filter of system calls misses the newer ones. It knows no dynamic
# derivations, and takes none into its store.
not_in_28='missing-feature|other-system|two-systems-wrong|uid-range|structured-.*|fixed-with-reference|probe-root|probe-setuid|probe-xattr|probe-abstract-socket|dynamic-.*'

# Where 2.34 differs from 2.26: it ends with 1 when no machine can build; takes no list for a graph;
# and does not build what dynamic derivations make.
not_in_26='missing-feature|other-system|two-systems-wrong|uid-range|structured-features|structured-graph|dynamic-.*'

seed=$WORK/seed
busybox=$(busybox_into "$seed")
nix34 nix eval --store "$seed" --impure --raw --expr "
    let all = import $PWD { busybox = \"$busybox\"; };
    in builtins.concatStringsSep \"\" (map (name:
        \"\${name} \${builtins.unsafeDiscardStringContext all.\${name}.drvPath}\n\") (builtins.attrNames all))" > "$WORK/drvs"

# build_all NAME COMMAND...: builds each with `COMMAND DRV`; what it prints is in
# logs/NAME/ATTR.{out,err}, and the statuses in logs/NAME.
build_all() {
    local into=$WORK/logs/$1 name drv
    shift
    mkdir -p "$into"
    while read -r name drv; do
        "$@" "$drv" > "$into/$name.out" 2> "$into/$name.err" < /dev/null
        echo $? > "$into/$name.status"
    done < "$WORK/drvs"
}
copy_store "$seed" "$WORK/34"
copy_store "$seed" "$WORK/droste-34"
build_all 34 nix34 nix-store -r --store "$WORK/34"
build_all droste-34 droste build --store "$WORK/droste-34"
path_infos "$WORK/34" > "$WORK/infos-34"
path_infos "$WORK/droste-34" > "$WORK/infos-droste"

# phrases FILE: what of an error people and programs know it by, whatever is around it. A program
# that cannot be executed has no exit code with Droste.
phrases() {
    sed -e $'s/\e\\[[0-9;]*m//g' -e "s/[\`\"]/'/g" "$1" | tr '\n' ' ' | tr -s ' ' |
        sed 's/executing .*builder failed with exit code 1//' | grep -oiE -e 'builder failed with exit code [0-9]+' \
        -e 'failed due to signal [0-9]+ \([^)]*\)' -e 'missing system features|required features: [^}]*}' \
        -e 'platform mismatch|(required|current) system: [^ ;]*' -e 'dependency failed' \
        -e 'hash mismatch in fixed-output derivation' -e '(specified|got): [^ ]*' \
        -e 'is not allowed to refer to' -e 'cycle detected in build of' -e 'failed to produce output path for output [^ ]* at' \
        -e 'has an unsupported type' -e 'suspicious ownership or permission on' \
        -e 'is too large at [0-9]* bytes; limit is [0-9]* bytes' \
        -e "has '__noChroot' set, but that's not allowed when 'sandbox' is 'true'" \
        -e 'should be a non-executable regular file since recursive hashing is not enabled' \
        -e 'but this is not a valid output of this derivation' | tr 'A-Z' 'a-z' | sort -u
}
# outputs NAME ATTR INFOS: what is recorded of the closure's top.
outputs() {
    local path
    sort "$WORK/logs/$1/$2.out" | while read -r path; do grep -F "$(basename "$path"): " "$3" || echo "$path is not valid"; done
}
equal "inputs cannot be changed" 0 "$(cat "$WORK/logs/droste-34/probe-read-only-inputs.status")"
sed -i '/^probe-read-only-inputs /d' "$WORK/drvs"
others() { grep -v -- '-probe-read-only-inputs: ' "$1"; }
while read -r name drv; do
    expected=$(cat "$WORK/logs/34/$name.status")
    got=$(cat "$WORK/logs/droste-34/$name.status")
    if [ "$expected" != "$got" ]; then
        fail "$name ends like in Nix 2.34" "exit status $got, not $expected" "$(tail -n 15 "$WORK/logs/droste-34/$name.err")"
    else
        equal "$name has the outputs that Nix 2.34 makes" "$(outputs 34 "$name" "$WORK/infos-34")" "$(outputs droste-34 "$name" "$WORK/infos-droste")"
    fi
    if [ "$expected" != 0 ]; then
        check "the error of $name names a derivation" grep -qF .drv "$WORK/logs/droste-34/$name.err"
        equal "the error of $name has what people look for in Nix's" "" \
            "$(comm -23 <(phrases "$WORK/logs/34/$name.err") <(phrases "$WORK/logs/droste-34/$name.err"))"
    fi
done < "$WORK/drvs"
equal "all that is valid is as in Nix 2.34's store" "$(others "$WORK/infos-34")" "$(others "$WORK/infos-droste")"
clean "nothing is left behind" "$WORK/droste-34"
verified "the store verifies" "$WORK/droste-34"
mapfile -t drvs < <(sed 's/.* //' "$WORK/drvs")
equal "all derivations are shown as Nix 2.34 shows them" \
    "$(nix34 nix derivation show --store "$WORK/34" -r "${drvs[@]}" | sha256sum)" \
    "$(droste derivation show --store "$WORK/34" -r "${drvs[@]}" | sha256sum)"
equal "a realisation is recorded as Nix 2.34 does" \
    "$(nix34 nix realisation info --store "$WORK/34" --json "$(sed -n 's/^floating-simple //p' "$WORK/drvs")^out" 2>&1)" \
    "$(nix34 nix realisation info --store "$WORK/droste-34" --json "$(sed -n 's/^floating-simple //p' "$WORK/drvs")^out" 2>&1)"

if [ -n "$NIX26" ]; then
    # 2.26's own database. Its outputs are those of 2.34, so Droste's are there already.
    nix26 nix copy --quiet --no-check-sigs --all --from "$seed" --to "$WORK/26"
    build_all 26 nix26 nix-store -r --store "$WORK/26"
    path_infos "$WORK/26" > "$WORK/infos-26"
    while read -r name drv; do
        if grep -qxE "$not_in_26" <<< "$name"; then continue; fi
        equal "$name ends like in Nix 2.26" "$(cat "$WORK/logs/26/$name.status")" "$(cat "$WORK/logs/droste-34/$name.status")"
        equal "$name has the outputs that Nix 2.26 makes" "$(outputs 26 "$name" "$WORK/infos-26")" "$(outputs droste-34 "$name" "$WORK/infos-droste")"
        [ "$(cat "$WORK/logs/26/$name.status")" = 0 ] ||
            equal "the error of $name has what people look for in Nix 2.26's" "" \
                "$(comm -23 <(phrases "$WORK/logs/26/$name.err") <(phrases "$WORK/logs/droste-34/$name.err"))"
    done < "$WORK/drvs"
    mapfile -t built < <(while read -r name drv; do [ "$(cat "$WORK/logs/26/$name.status")" != 0 ] || echo "$drv"; done < "$WORK/drvs")
    check "Droste finds all that Nix 2.26 built" sh -c "'$DROSTE' build --json --store '$WORK/26' ${built[*]} > '$WORK/json'"
    equal "and builds none of it again" "" "$(grep '"status"' "$WORK/json" | grep -vi 'alreadyValid')"
    equal "nothing changes by that" "$(cat "$WORK/infos-26")" "$(path_infos "$WORK/26")"
    check "Nix 2.26 verifies what Droste built" _verify nix26 "$WORK/droste-34"
    realised=$(sed -n 's/^floating-simple //p' "$WORK/drvs")^out
    equal "Nix 2.26 reads a realisation of Droste's as its own" \
        "$(nix26 nix realisation info --store "$WORK/26" --json "$realised" 2>&1)" \
        "$(nix26 nix realisation info --store "$WORK/droste-34" --json "$realised" 2>&1)"
else
    skip "the outputs are those that Nix 2.26 makes" "$NIX26_WHY"
fi

if [ -n "$NIX28" ]; then
    # 2.8's own database, not one that 2.34 made.
    for name in 28 droste-28; do
        nix28 nix-store --store "$WORK/$name" --init
        nix34 nix-store --store "$seed" --export $(nix34 nix path-info --store "$seed" --all | grep -v -- -dynamic-) > "$WORK/export"
        nix28 nix-store --store "$WORK/$name" --import < "$WORK/export" > /dev/null
    done
    build_all 28 nix28 nix-store -r --store "$WORK/28"
    # Content-addressed outputs that refer to themselves hash otherwise.
    build_all droste-28 droste build --nix 2.8 --store "$WORK/droste-28"
    path_infos "$WORK/28" > "$WORK/infos-28"
    path_infos "$WORK/droste-28" > "$WORK/infos-droste"
    while read -r name drv; do
        if grep -qxE "$not_in_28" <<< "$name"; then continue; fi
        expected=$(cat "$WORK/logs/28/$name.status")
        got=$(cat "$WORK/logs/droste-28/$name.status")
        if [ "$expected" != "$got" ]; then
            fail "$name ends like in Nix 2.8" "exit status $got, not $expected" "$(tail -n 15 "$WORK/logs/droste-28/$name.err")"
        else
            equal "$name has the outputs that Nix 2.8 makes" "$(outputs 28 "$name" "$WORK/infos-28")" "$(outputs droste-28 "$name" "$WORK/infos-droste")"
        fi
    done < "$WORK/drvs"
    clean "nothing is left behind in a store that Nix 2.8 made" "$WORK/droste-28"
    verified "the store that Nix 2.8 made verifies" "$WORK/droste-28"
else
    skip "the outputs are those that Nix 2.8 makes" "$NIX28_WHY"
fi
finish
