# What Nix has behind features of its formats, or in files of its own: objects addressed
# as git hashes them and by BLAKE3, each as Nix 2.34 makes them.
. "$TESTS/harness.sh"
stop_without NIX34
# 2.8 knows neither.
nix28_here=$NIX28 NIX28=
export NIX_CONFIG='extra-experimental-features = git-hashing blake3-hashes'

seed=$WORK/seed
busybox=$(busybox_into "$seed")
tree=$WORK/tree
mkdir -p "$tree"/{d,d.x,empty}
echo one > "$tree/d/one"
echo two > "$tree/d-"
echo three > "$tree/d0"
echo x > "$tree/d.x/x"
chmod 755 "$tree/d0"
ln -s d/one "$tree/link"
git_hash() { nix34 nix hash path --mode git --format base16 --algo "$1" "$tree"; }

nix34 nix eval --store "$seed" --impure --raw --expr "
    let all = import $PWD { busybox = \"$busybox\"; gitSha1 = \"$(git_hash sha1)\"; gitSha256 = \"$(git_hash sha256)\"; };
    in builtins.concatStringsSep \"\" (map (name:
        \"\${name} \${builtins.unsafeDiscardStringContext all.\${name}.drvPath}\n\") (builtins.attrNames all))" > "$WORK/drvs"
copy_store "$seed" "$WORK/theirs"
copy_store "$seed" "$WORK/ours"
while read -r name drv; do
    expected=0 got=0
    nix34 nix-store -r --store "$WORK/theirs" "$drv" > "$WORK/theirs.out" 2> "$WORK/theirs.err" < /dev/null || expected=$?
    droste build --store "$WORK/ours" "$drv" > "$WORK/ours.out" 2> "$WORK/ours.err" < /dev/null || got=$?
    if [ "$expected" != "$got" ]; then
        fail "$name ends like in Nix" "exit status $got, not $expected" "$(tail -n 15 "$WORK/ours.err")" "$(tail -n 5 "$WORK/theirs.err")"
    else
        equal "$name has the outputs that Nix makes" "$(cat "$WORK/theirs.out")" "$(cat "$WORK/ours.out")"
    fi
done < "$WORK/drvs"
others() { path_infos "$1" | grep -v -- '-fixed-wrong: '; }
equal "all that is valid is as in Nix's store" "$(others "$WORK/theirs")" "$(others "$WORK/ours")"
verified "the store verifies" "$WORK/ours"

# Derivations as JSON, in both directions. Those that Nix 2.8 does not know are named new-.
drvs=$WORK/derivations
export NIX_CONFIG='extra-experimental-features = git-hashing blake3-hashes impure-derivations'
nix34 nix eval --store "$drvs" --impure --raw --expr "
    let all = import $PWD/derivations.nix;
    in builtins.concatStringsSep \"\" (map (name:
        \"\${name} \${builtins.unsafeDiscardStringContext all.\${name}.drvPath}\n\") (builtins.attrNames all))" > "$WORK/all"
mapfile -t all < <(sed 's/.* //' "$WORK/all")
mapfile -t old < <(grep -v '^new-' "$WORK/all" | sed 's/.* //')
show() { nix34 nix derivation show --store "$drvs" "$@"; }
show "${all[@]}" -r > "$WORK/shown"
for options in '-r' '-r --pretty' ''; do
    equal "derivation show $options prints what Nix 2.34 prints" "$(show "${all[@]}" $options | sha256sum)" \
        "$(droste derivation show --store "$drvs" "${all[@]}" $options | sha256sum)"
done
if [ -n "$nix28_here" ]; then
    NIX28=$nix28_here
    nix28 nix-store --store "$WORK/old" --init
    nix34 nix-store --store "$drvs" --export $(nix34 nix-store --store "$drvs" -qR "${old[@]}") > "$WORK/export"
    nix28 nix-store --store "$WORK/old" --import < "$WORK/export" > /dev/null
    equal "derivation show --like 2.8 prints what Nix 2.8 prints" \
        "$(nix28 nix show-derivation --store "$WORK/old" -r "${old[@]}" | sha256sum)" \
        "$(droste derivation show --like 2.8 --store "$WORK/old" -r "${old[@]}" | sha256sum)"
    NIX28=
else
    skip "derivation show --like 2.8 prints what Nix 2.8 prints" "$NIX28_WHY"
fi
if [ -n "$NIX26" ]; then
    # It has no BLAKE3.
    mapfile -t without < <(grep -v blake3 "$WORK/all" | sed 's/.* //')
    equal "derivation show --like 2.26 prints what Nix 2.26 prints" \
        "$(nix26 nix derivation show --store "$drvs" -r "${without[@]}")" \
        "$(droste derivation show --like 2.26 --store "$drvs" -r "${without[@]}")"
    mkdir "$WORK/json26"
    nix26 nix derivation show --store "$drvs" -r "${without[@]}" > "$WORK/shown26"
    python3 each.py "$WORK/shown26" "$WORK/json26" > "$WORK/expected26"
    printf 'a source' > "$WORK/source26"
    droste store add --store "$WORK/of26" --name source --mode text "$WORK/source26" > /dev/null
    equal "each derivation that is added as JSON of 2.26 has Nix's path" "$(cat "$WORK/expected26")" \
        "$(for json in "$WORK/json26/"*; do droste derivation add --store "$WORK/of26" < "$json"; done 2>&1)"
else
    skip "derivations as JSON of 2.26 are printed and read as by Nix 2.26" "$NIX26_WHY"
fi
mkdir "$WORK/json" "$WORK/bare" "$WORK/full"
printf 'a source' > "$WORK/source"
python3 each.py "$WORK/shown" "$WORK/json" | sed 's,^,/nix/store/,' > "$WORK/expected"
for kind in full bare; do
    droste store add --store "$WORK/$kind" --name source --mode text "$WORK/source" > /dev/null
    for json in "$WORK/json/"*"-$kind"; do droste derivation add --store "$WORK/$kind" < "$json"; done > "$WORK/added" 2>&1
    equal "each derivation that is added as JSON has Nix's path ($kind)" "$(cat "$WORK/expected")" "$(cat "$WORK/added")"
done
equal "what is added is what was shown" "$(show "${all[@]}" -r | sha256sum)" \
    "$(droste derivation show --store "$WORK/bare" "${all[@]}" -r | sha256sum)"
verified "the store verifies after derivations were added" "$WORK/bare"

# What is a derivation, and what is none.
mkdir "$WORK/strict"
equal "Droste and Nix 2.34 take the same for derivations, but for what is refused by design" "" \
    "$(python3 strict.py "$NIX34/nix" "$DROSTE" "$WORK/strict" 2>&1)"

# What is added to a store, by every method and algorithm. The path if it is added, else only that it
# is not. (Nix 2.34 is killed by an assertion when it is to hash a text by another algorithm.)
mkdir -p "$WORK/add/directory/empty"
printf 'file\n' > "$WORK/add/file"
install -m 755 "$WORK/add/file" "$WORK/add/executable"
install "$WORK/add/file" "$WORK/add/directory/file"
ln -s file "$WORK/add/link"
added() { "$@" 2> /dev/null || echo "not added"; }
for mode in nar flat text git; do
    for algorithm in md5 sha1 sha256 sha512 blake3; do
        case $mode-$algorithm in
        text-sha256 | git-sha1 | git-sha256 | nar-* | flat-*) ;;
        *)
            refused "adding by $mode and $algorithm is refused" 1 'no such algorithm|are not hashed by' \
                droste store add --store "$WORK/ours" --mode $mode --hash-algo $algorithm "$WORK/add/file"
            continue
            ;;
        esac
        for node in directory file executable link; do
            add() { added "$@" --mode $mode --hash-algo $algorithm "$WORK/add/$node"; }
            add nix34 nix store add --store "$WORK/theirs" >> "$WORK/added-theirs"
            add droste store add --store "$WORK/ours" >> "$WORK/added-ours"
        done
    done
done
equal "what is added has Nix's path or is refused, as in Nix" "$(cat "$WORK/added-theirs")" "$(cat "$WORK/added-ours")"
fixed() { nix34 nix-store --store "$WORK/theirs" --add-fixed "$@"; }
equal "a file added by flat and sha1 has the path of nix-store --add-fixed" "$(fixed sha1 "$WORK/add/file")" \
    "$(droste store add --store "$WORK/ours" --mode flat --hash-algo sha1 "$WORK/add/file")"
equal "a tree added by nar and sha512 has the path of nix-store --add-fixed" "$(fixed --recursive sha512 "$WORK/add/directory")" \
    "$(droste store add --store "$WORK/ours" --hash-algo sha512 "$WORK/add/directory")"
# Nix keeps a file executable whose path says nothing of that.
recorded() { others "$1" | grep -vE -- '-executable: \{"ca":"(text|fixed:(blake3|md5|sha))'; }
equal "what is added is recorded as in Nix's store" "$(recorded "$WORK/theirs")" "$(recorded "$WORK/ours")"

# Nix's client adds to our daemon.
"$DROSTE" daemon --store "$WORK/ours" --socket "$WORK/socket" 2> "$WORK/daemon.log" &
daemon=$!
for _ in $(seq 100); do [ -S "$WORK/socket" ] && break || sleep 0.1; done
for mode_and_algorithm in 'git sha1' 'git sha256' 'nar blake3' 'nar md5' 'nar sha512'; do
    read -r mode algorithm <<< "$mode_and_algorithm"
    add() { nix34 nix store add --store "$1" --mode "$mode" --hash-algo "$algorithm" --name added "$tree" 2>&1; }
    equal "a tree added by $mode and $algorithm has Nix's path" "$(add "$WORK/theirs")" "$(add "unix://$WORK/socket?root=$WORK/ours")"
done
kill "$daemon"
wait "$daemon" 2> /dev/null
verified "the store verifies after what was added" "$WORK/ours"
finish
