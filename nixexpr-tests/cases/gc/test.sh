# Roots and garbage: Droste keeps and deletes what real Nix does.
. "$TESTS/harness.sh"
stop_without NIX34
cd "$TESTS/cases/gc" || exit 1

store=$WORK/store
busybox=$(busybox_into "$store")
nix34 nix eval --store "$store" --impure --raw --expr "
    let all = import ../differential { busybox = \"$busybox\"; };
    in builtins.concatStringsSep \"\" (map (name: builtins.unsafeDiscardStringContext all.\${name}.drvPath + \"\n\")
        [ \"chain\" \"multiple-outputs\" \"self-reference\" \"fixed-flat-sha256\" \"symlink-output\" ])" > "$WORK/drvs"
mapfile -t drvs < "$WORK/drvs"
mapfile -t outputs < <(nix34 nix-store -r --store "$store" "${drvs[@]}" 2> "$WORK/err")
[ ${#outputs[@]} -gt 4 ] || fail "Nix 2.34 builds what this needs" "$(cat "$WORK/err")"
head -c 3000000 /dev/urandom > "$WORK/garbage"
garbage=$(nix34 nix-store --store "$store" --add "$WORK/garbage")
nix34 nix-store --store "$store" --optimise 2> /dev/null

# Roots of every kind.
state=$store/nix/var/nix
ln -s "${outputs[0]}" "$state/gcroots/direct"
mkdir -p "$state/gcroots/a/b" "$WORK/links"
ln -s "${drvs[1]}" "$state/gcroots/a/b/drv"
touch "$state/gcroots/$(basename "${outputs[2]}")"
ln -s "${outputs[-1]}" "$state/profiles/profile-1-link" && ln -s profile-1-link "$state/profiles/profile"
touch "$state/gcroots/not-a-path" && ln -s /nonexistent "$state/gcroots/nowhere"

as_text() { sort | sed 's/^/ /'; }
for outputs_kept in false true; do
    for derivations_kept in false true; do
        kept=(--keep-outputs "$outputs_kept" --keep-derivations "$derivations_kept")
        options=(--option keep-outputs "$outputs_kept" --option keep-derivations "$derivations_kept")
        what="keep-outputs=$outputs_kept keep-derivations=$derivations_kept"
        for set in live dead; do
            ours=$(droste store gc --store "$store" "--print-$set" "${kept[@]}" | as_text)
            equal "with $what, the $set paths are those of Nix 2.34" "$(nix34 nix-store --store "$store" --gc --print-$set "${options[@]}" | as_text)" "$ours"
            [ -z "$NIX26" ] || equal "with $what, the $set paths are those of Nix 2.26" "$(nix26 nix-store --store "$store" --gc --print-$set "${options[@]}" | as_text)" "$ours"
            [ -z "$NIX28" ] || equal "with $what, the $set paths are those of Nix 2.8" "$(nix28 nix-store --store "$store" --gc --print-$set "${options[@]}" | as_text)" "$ours"
        done
        # Files of their own, since names elsewhere keep a file.
        cp -a "$store" "$WORK/ours" && cp -a "$store" "$WORK/theirs"
        droste store gc --store "$WORK/ours" "${kept[@]}" 2> "$WORK/ours.err"
        nix34 nix-store --store "$WORK/theirs" --gc "${options[@]}" > "$WORK/theirs.err" 2>&1
        objects() { (cd "$1/nix/store" && find . -mindepth 1 -maxdepth 1 | sort; find .links -type f | sort); }
        equal "with $what, the same objects and links are left" "$(objects "$WORK/theirs")" "$(objects "$WORK/ours")"
        equal "with $what, as much is freed" "$(grep -o '[0-9]* store paths deleted, .* freed' "$WORK/theirs.err")" "$(grep -o '[0-9]* store paths deleted, .* freed' "$WORK/ours.err")"
        equal "with $what, the same paths are valid" "$(path_infos "$WORK/theirs")" "$(path_infos "$WORK/ours")"
        verified "with $what, what is left verifies" "$WORK/ours"
        chmod -R u+w "$WORK/ours" "$WORK/theirs" && rm -rf "$WORK/ours" "$WORK/theirs"
    done
done

# A dry run changes nothing, and says what would go.
before=$(ls "$store/nix/store" "$state/gcroots")
droste store gc --dry-run --store "$store" > "$WORK/dry" 2> "$WORK/err"
check "a dry run names what would go" grep -qxF "$garbage" "$WORK/dry"
check "a dry run says how much that is" grep -q 'would be deleted, .* freed' "$WORK/err"
equal "a dry run changes nothing" "$before" "$(ls "$store/nix/store" "$state/gcroots")"

# What nix.conf says counts, for the command and the daemon.
dead() { nix34 nix-store --gc --print-dead "$@" 2> /dev/null | sort; }
equal "keep-outputs of nix.conf counts" "$(dead --store "$store" --option keep-outputs true)" \
    "$(NIX_CONFIG='keep-outputs = true' droste store gc --store "$store" --print-dead 2> /dev/null | sort)"
equal "keep-derivations counts as an option" "$(dead --store "$store" --option keep-derivations false)" \
    "$(droste store gc --store "$store" --print-dead --option gc-keep-derivations false 2> /dev/null | sort)"
copy_store "$store" "$WORK/served"
NIX_CONFIG='keep-outputs = true' droste daemon --store "$WORK/served" --socket "$WORK/socket" 2> "$WORK/daemon.err" &
for _ in $(seq 200); do [ -S "$WORK/socket" ] && break; sleep 0.05; done
equal "keep-outputs counts for the daemon" "$(dead --store "$WORK/served" --option keep-outputs true)" "$(dead --store "unix://$WORK/socket?root=$WORK/served")"
droste daemon stop 2> /dev/null
rm -rf "$WORK/socket" && chmod -R u+w "$WORK/served" && rm -rf "$WORK/served"

# With too little space, garbage goes before something is built.
copy_store "$store" "$WORK/full"
droste store delete --ignore-liveness --store "$WORK/full" "${outputs[0]}" 2> /dev/null
check "a build with enough space leaves garbage" droste build --store "$WORK/full" --option min-free 1 "${drvs[0]}"
[ -e "$WORK/full$garbage" ] && pass "it is there" || fail "it is there"
droste store delete --ignore-liveness --store "$WORK/full" "${outputs[0]}" 2> /dev/null
check "with less than min-free it builds, too" droste build --store "$WORK/full" --option min-free 900T --option max-free 1000T "${drvs[0]}"
[ ! -e "$WORK/full$garbage" ] && pass "the garbage is gone" || fail "the garbage is gone"
[ -e "$WORK/full${outputs[0]}" ] && pass "and the output is there" || fail "and the output is there"
verified "the store verifies" "$WORK/full"

# Links to outputs.
droste build --store "$store" -o "$WORK/links/result" "${drvs[1]}" "${drvs[3]}" > "$WORK/built" 2> "$WORK/err"
(cd "$WORK/links" && nix34 nix build --store "$store" -o nix "${drvs[1]}^*" "${drvs[3]}^*" 2> "$WORK/err")
names() { (cd "$WORK/links" && for link in "$1"*; do printf '%s %s\n' "${link#"$1"}" "$(readlink "$link")"; done); }
equal "links are those that nix build makes" "$(names nix)" "$(names result)"
rm "$WORK"/links/nix*
equal "roots are those that Nix knows" \
    "$(nix34 nix-store --store "$store" --gc --print-roots | tr -d '"' | grep "$WORK" | sort)" \
    "$(droste store roots --store "$store" | grep "$WORK" | sort)"
check "what keeps a path is told" sh -c "'$DROSTE' store roots --store '$store' '$(readlink "$WORK/links/result-1")' | grep -qF links/result-1"
touch "$WORK/links/mine"
refused "a file is not replaced by a link" 1 'something else' droste build --store "$store" -o "$WORK/links/mine" "${drvs[3]}"

# Some paths.
refused "a path that is needed is not deleted" 1 'alive' droste store delete --store "$store" "${outputs[0]}"
check "a path that nothing needs is deleted" droste store delete --store "$store" "$garbage"
[ ! -e "$store$garbage" ] && pass "it is gone" || fail "it is gone"

# By way of the daemon.
copy_store "$store" "$WORK/served"
droste daemon --store "$WORK/served" --socket "$WORK/socket" 2> "$WORK/daemon.err" &
daemon=$!
for _ in $(seq 100); do [ -S "$WORK/socket" ] && break; sleep 0.1; done
served="unix://$WORK/socket?root=$WORK/served"
equal "the daemon finds dead paths" "$(nix34 nix-store --store "$WORK/served" --gc --print-dead | sort)" "$(nix34 nix-store --store "$served" --gc --print-dead | sort)"
equal "the daemon finds roots" "$(nix34 nix-store --store "$WORK/served" --gc --print-roots | grep "$WORK" | sort)" "$(nix34 nix-store --store "$served" --gc --print-roots | grep "$WORK" | sort)"
check "the daemon collects garbage" nix34 nix-store --store "$served" --gc
equal "nothing is dead then" "" "$(nix34 nix-store --store "$WORK/served" --gc --print-dead)"
kill $daemon && wait $daemon 2> /dev/null
verified "what the daemon left verifies" "$WORK/served"

# Builds go on while both collect, again and again.
busy=$WORK/busy
copy_store "$store" "$busy"
rm -f "$busy"/nix/var/nix/profiles/profile*
find "$busy/nix/var/nix/gcroots" ! -type d -delete
for number in "${!drvs[@]}"; do ln -s "${drvs[$number]}" "$busy/nix/var/nix/gcroots/drv-$number"; done
rounds=${SOAK:+40}
collect() {
    while [ ! -e "$WORK/done" ]; do
        "$@" > /dev/null 2> "$WORK/collect.$1.err" || {
            { echo "failed: $*" && tail -n 5 "$WORK/collect.$1.err"; } >> "$WORK/collect.failed"
            return
        }
    done
}
collect nix34 nix-store --store "$busy" --gc & one=$!
collect droste store gc --store "$busy" & other=$!
failed=""
for round in $(seq "${rounds:-6}"); do
    for drv in "${drvs[@]}"; do
        droste build --quiet --store "$busy" "$drv" > "$WORK/built" 2> "$WORK/busy.err" || failed+="round $round: $(cat "$WORK/busy.err")"
    done
    droste store add --store "$busy" "$WORK/garbage" > /dev/null 2> "$WORK/busy.err" || failed+="round $round: $(cat "$WORK/busy.err")"
done
touch "$WORK/done"
wait $one $other
[ -z "$failed" ] && pass "builds survive collections by Nix and Droste" || fail "builds survive collections by Nix and Droste" "$failed"
[ ! -e "$WORK/collect.failed" ] && pass "collections survive each other" || fail "collections survive each other" "$(cat "$WORK/collect.failed")"
verified "what is left verifies" "$busy"
droste store gc --store "$busy" 2> /dev/null
clean "nothing is left behind" "$busy"
finish
