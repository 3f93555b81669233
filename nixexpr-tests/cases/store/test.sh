# `droste store`, and stores that Droste and real Nix write in turn.
. "$TESTS/harness.sh"
stop_without NIX34

# The same things added by each.
mkdir -p "$WORK/things/tree/sub/empty"
cd "$WORK/things" || exit 1
echo text > file
printf '#!/bin/sh\n' > program && chmod 755 program
ln -s /nowhere tree/dangling
ln -s ../file tree/sub/link
cp program tree/sub/
printf 'odd name\n' > "tree/$(printf 'caf\303\251 *?')"
: > tree/empty
: > tree/.hidden
head -c 3000000 /dev/urandom > tree/large
for thing in file program tree; do
    expected=$(nix34 nix-store --store "$WORK/34" --add "$thing")
    got=$(droste store add --store "$WORK/droste-store" "$thing" 2> "$WORK/err") || cat "$WORK/err"
    equal "$thing is added under Nix's path" "$expected" "$got"
    nix34 nix-store --store "$WORK/34" --dump "$expected" > "$WORK/nar" 2> /dev/null || nix34 nix-store --dump "$WORK/34$expected" > "$WORK/nar"
    droste store dump --store "$WORK/droste-store" "$expected" > "$WORK/got.nar"
    check "$thing is dumped as Nix does" cmp "$WORK/nar" "$WORK/got.nar"
done
equal "what Droste added is known as what Nix added" "$(path_infos "$WORK/34")" "$(path_infos "$WORK/droste-store")"
check "Droste's verify finds nothing wrong" droste store verify --store "$WORK/droste-store"
verified "what Droste added verifies" "$WORK/droste-store"
nix34 nix-store --store "$WORK/34" --add-fixed sha256 file > "$WORK/flat"
cd "$TESTS/cases/store" || exit 1

# path-info: what Nix prints.
store=$WORK/34
busybox=$(busybox_into "$store")
nix34 nix eval --store "$store" --impure --raw --expr "
    let all = import ../differential { busybox = \"$busybox\"; };
    in builtins.concatStringsSep \"\" (map (name: builtins.unsafeDiscardStringContext all.\${name}.drvPath + \"\n\")
        [ \"chain\" \"multiple-outputs\" \"self-reference\" \"floating-on-floating\" \"input-addressed-on-floating\" \"fixed-flat-sha256\" \"symlink-output\" ])" > "$WORK/drvs"
copy_store "$store" "$WORK/unbuilt"
# shellcheck disable=SC2046 # one word a derivation
nix34 nix-store -r --store "$store" $(cat "$WORK/drvs") > "$WORK/outputs" 2> "$WORK/err" || fail "Nix 2.34 builds what this needs" "$(cat "$WORK/err")"
mapfile -t outputs < "$WORK/outputs"
# as_lines: an element a line
as_lines() { sed 's/,"\/nix/,\n"\/nix/g; s/^{"/{\n"/'; }
equal "path-info -r lists the closure" "$(nix34 nix path-info -r --store "$store" "${outputs[@]}" | sort)" "$(droste store path-info -r --store "$store" "${outputs[@]}" | sort)"
equal "path-info --json is as Nix prints it" \
    "$(nix34 nix path-info --json --json-format 1 --store "$store" "${outputs[@]}" | as_lines)" \
    "$(droste store path-info --json --store "$store" "${outputs[@]}" | as_lines)"
equal "path-info -r --json is as Nix prints it" \
    "$(nix34 nix path-info -r --json --json-format 1 --store "$store" "${outputs[@]}" | as_lines)" \
    "$(droste store path-info -r --json --store "$store" "${outputs[@]}" | as_lines)"
equal "path-info -S tells the closures' sizes" \
    "$(nix34 nix path-info -S --store "$store" "${outputs[@]}" | sort | tr -s '\t ' ' ')" \
    "$(droste store path-info -S --store "$store" "${outputs[@]}" | sort | tr -s '\t ' ' ')"
refused "a path that is not valid is named" 1 '00000000000000000000000000000000-none' droste store path-info --store "$store" /nix/store/00000000000000000000000000000000-none
refused "a store that is not there is named" 1 'no-such-store' droste store path-info --store "$WORK/no-such-store" "${outputs[0]}"
for path in "${outputs[@]}"; do
    nix34 nix-store --dump "$store$path" > "$WORK/nar"
    droste store dump --store "$store" "$path" > "$WORK/got.nar"
    check "${path##*/} is dumped as Nix does" cmp "$WORK/nar" "$WORK/got.nar"
done
check "Droste's verify finds nothing wrong in what Nix wrote" droste store verify --store "$store"

# What is damaged is found.
copy_store "$store" "$WORK/damaged"
victim=$WORK/damaged${outputs[0]}
cp "$victim" "$WORK/victim" && rm -f "$victim" && { cat "$WORK/victim" && echo more; } > "$victim" && chmod 444 "$victim"
refused "verify names what is changed" 1 "$(basename "${outputs[0]}")" droste store verify --check-contents --store "$WORK/damaged"
rm -f "$victim"
refused "verify names what is missing" 1 "$(basename "${outputs[0]}")" droste store verify --store "$WORK/damaged"

# What is damaged is put right, as Nix does it.
damage() { # STORE PATH
    [ -L "$1$2" ] || chmod -R u+w "$1$2"
    rm -rf "$1$2" && echo damaged > "$1$2" && chmod 444 "$1$2"
}
dep=$(nix34 nix-store -q --references --store "$store" "${outputs[0]}" | grep -m 1 -- '-dep')
for side in ours theirs; do
    copy_store "$store" "$WORK/$side"
    for path in "${outputs[0]}" "$dep" "${outputs[-1]}"; do damage "$WORK/$side" "$path"; done
    # Missing, and needed by nothing; missing, and needed.
    damage "$WORK/$side" "${outputs[-2]}" && rm -f "$WORK/$side${outputs[-2]}"
    echo damaged > "$WORK/$side/nix/store/.links/0000000000000000000000000000000000000000000000000000"
done
nix34 nix-store --verify --check-contents --repair --store "$WORK/theirs" > "$WORK/theirs.out" 2>&1 || fail "Nix 2.34 repairs the store" "$(tail -n 20 "$WORK/theirs.out")"
refused "verify names a damaged link" 1 'link `[^`]*/.links/0000' droste store verify --store "$WORK/ours"
check "verify --repair succeeds" droste store verify --repair --store "$WORK/ours"
equal "what is repaired is recorded as by Nix" "$(path_infos "$WORK/theirs")" "$(path_infos "$WORK/ours")"
verified "the repaired store verifies" "$WORK/ours"
check "and so says Droste" droste store verify --store "$WORK/ours"
clean "nothing is left behind by repairing" "$WORK/ours"
damage "$WORK/ours" "$(cat "$WORK/flat")"
refused "what nobody has built cannot be repaired" 1 'no derivation is known' droste store verify --repair --store "$WORK/ours"
copy_store "$store" "$WORK/served"
damage "$WORK/served" "${outputs[0]}"
droste daemon --store "$WORK/served" --socket "$WORK/socket" 2> "$WORK/daemon.err" &
for _ in $(seq 200); do [ -S "$WORK/socket" ] && break; sleep 0.05; done
check "Nix has the daemon repair the store" nix34 nix-store --verify --check-contents --repair --store "unix://$WORK/socket?root=$WORK/served"
# Not by 2.8, which wants a store of 2.34 alone.
check "which is sound then" _verify nix34 "$WORK/served"
damage "$WORK/served" "${outputs[0]}"
check "Nix has the daemon repair one derivation's outputs" nix34 nix-store -r --repair --store "unix://$WORK/socket?root=$WORK/served" "$(head -n 1 "$WORK/drvs")"
droste daemon stop 2> /dev/null
verified "they are sound then" "$WORK/served"

# Files of one content become one as they are built.
for side in ours theirs; do copy_store "$WORK/unbuilt" "$WORK/optimised-$side"; done
# shellcheck disable=SC2046
check "Droste builds with auto-optimise-store" droste build --option auto-optimise-store true --store "$WORK/optimised-ours" $(cat "$WORK/drvs")
# shellcheck disable=SC2046
nix34 nix-store -r --option auto-optimise-store true --store "$WORK/optimised-theirs" $(cat "$WORK/drvs") > /dev/null 2>&1
links() { (cd "$1/nix/store/.links" && find . -type f -links +1 | sort); }
equal "the same files are linked as by Nix" "$(links "$WORK/optimised-theirs")" "$(links "$WORK/optimised-ours")"
verified "the linked store verifies" "$WORK/optimised-ours"

# Stores handed on: each builds on what another wrote, and all can be copied.
built=$WORK/built
copy_store "$WORK/unbuilt" "$built"
# shellcheck disable=SC2046
check "Droste builds in a store that Nix 2.34 wrote" droste build --store "$built" $(cat "$WORK/drvs")
for version in 34 26 28; do
    name=NIX$version why=NIX${version}_WHY
    if [ -z "${!name}" ]; then
        skip "stores handed to Nix 2.${version#?}" "${!why}"
        continue
    fi
    nix="nix$version"
    check "$nix queries what Droste built" $nix nix path-info -r --json $([ $version != 34 ] || echo --json-format 1) --store "$built" "${outputs[@]}"
    check "$nix copies from a store that Droste wrote" $nix nix copy --no-check-sigs --from "$built" --to "$WORK/copied-$version" "${outputs[@]}"
    equal "$nix copies all of it" "$(nix34 nix path-info -r --store "$built" "${outputs[@]}" | sort)" "$(nix34 nix path-info --all --store "$WORK/copied-$version" | sort)"
    check "$nix verifies the copy" $nix nix-store --verify --check-contents --store "$WORK/copied-$version"
    # And back again, into a new store of Droste's.
    droste store add --store "$WORK/new-$version" "$WORK/things/file" > /dev/null
    check "$nix copies into a store that Droste made" $nix nix copy --no-check-sigs --from "$built" --to "$WORK/new-$version" "${outputs[@]}"
    # shellcheck disable=SC2046
    check "$nix copies derivations into it" $nix nix copy --no-check-sigs --derivation --from "$WORK/unbuilt" --to "$WORK/new-$version" $(cat "$WORK/drvs")
    # shellcheck disable=SC2046
    check "Droste has nothing to build there" droste build --store "$WORK/new-$version" $(grep -v floating "$WORK/drvs")
    verified "the store that $nix and Droste wrote verifies" "$WORK/new-$version"
    # Collecting, optimising and deleting are Nix's.
    copy_store "$built" "$WORK/collected-$version"
    check "$nix optimises a store that Droste wrote" $nix nix-store --optimise --store "$WORK/collected-$version"
    check "Droste's verify accepts the optimised store" droste store verify --check-contents --store "$WORK/collected-$version"
    check "$nix collects the garbage of a store that Droste wrote" $nix nix-store --gc --store "$WORK/collected-$version"
    check "Droste can use the collected store" droste store add --store "$WORK/collected-$version" "$WORK/things/tree"
    verified "the collected store verifies" "$WORK/collected-$version"
    # A store from nothing, by that Nix.
    $nix nix-store --store "$WORK/by-$version" --init
    # shellcheck disable=SC2046
    $nix nix copy --no-check-sigs --derivation --from "$WORK/unbuilt" --to "$WORK/by-$version" $(cat "$WORK/drvs") 2> /dev/null
    # shellcheck disable=SC2046
    check "Droste builds in a store that $nix made" droste build --store "$WORK/by-$version" $(cat "$WORK/drvs")
    # shellcheck disable=SC2046
    check "$nix finds everything built" $nix nix-store -r --max-jobs 0 --store "$WORK/by-$version" $(cat "$WORK/drvs")
    verified "the store that $nix made verifies" "$WORK/by-$version"
done

# The toolchain is a store path as others are.
if toolchain=$(with_toolchain "$WORK/toolchain"); then
    verified "the store with the toolchain verifies" "$WORK/toolchain"
    check "the toolchain can be copied by Nix 2.34" nix34 nix copy --no-check-sigs --from "$WORK/toolchain" --to "$WORK/toolchain-34" "$toolchain"
    [ -z "$NIX28" ] || check "the toolchain can be copied by Nix 2.8" nix28 nix copy --no-check-sigs --from "$WORK/toolchain" --to "$WORK/toolchain-28" "$toolchain"
    equal "the toolchain refers to itself alone" "$toolchain" "$(nix34 nix-store -q --references --store "$WORK/toolchain" "$toolchain")"
else
    fail "a toolchain can be imported"
fi

# Both at once in one store.
both=$WORK/both
copy_store "$WORK/unbuilt" "$both"
mapfile -t drvs < "$WORK/drvs"
pids=()
for drv in "${drvs[@]}"; do
    droste build --quiet --store "$both" "$drv" > /dev/null 2>> "$WORK/both.err" & pids+=($!)
    nix34 nix-store -r --store "$both" "$drv" > /dev/null 2>> "$WORK/both.err" & pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=1; done
if [ $status = 0 ]; then pass "Droste and Nix build in one store at once"; else fail "Droste and Nix build in one store at once" "$(grep -v -e ^building -e ^this "$WORK/both.err" | tail -n 20)"; fi
equal "what both built is what Nix builds" "$(path_infos "$store" | grep -vF -e "$(basename "$(cat "$WORK/flat")")" -e -file: -e -program: -e -tree:)" "$(path_infos "$both" | grep -v -e -file: -e -program: -e -tree:)"
clean "nothing is left behind when both built" "$both"
verified "the store that both built in verifies" "$both"

# Where things are by default.
check "without --store, the store is in DROSTE_DIR" droste store add "$WORK/things/file"
[ -d "$DROSTE_DIR/store/nix/store" ] && pass "the default store is DROSTE_DIR/store" || fail "the default store is DROSTE_DIR/store" "$(ls "$DROSTE_DIR")"
if [ "$(id -u)" != 0 ]; then
    env -u DROSTE_DIR "$DROSTE" store add "$WORK/things/file" > /dev/null 2>&1
    [ -d "$XDG_STATE_HOME/droste/store/nix/store" ] && pass "a user's store is in XDG_STATE_HOME" || fail "a user's store is in XDG_STATE_HOME"
fi
equal "a store has Nix's schema" 10 "$(cat "$DROSTE_DIR/store/nix/var/nix/db/schema")"
finish
