# What Nix has behind features of its formats, or in files of its own: objects addressed
# as git hashes them and by BLAKE3, each as Nix 2.34 makes them.
. "$TESTS/harness.sh"
stop_without NIX34
# 2.8 knows neither.
NIX28=
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
