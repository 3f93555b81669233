# Compiler calls of every kind: with their outcomes memoized by Droste (new, and
# again from memory) and not, each output has the bytes that Nix 2.34 makes.
. "$TESTS/harness.sh"
stop_without NIX34

toolchain=$(with_toolchain "$WORK/34") || {
    fail "a toolchain can be imported"
    finish
}
nix34 nix eval --store "$WORK/34" --impure --raw --expr "
    let all = import $PWD { toolchain = \"$toolchain\"; };
    in builtins.concatStringsSep \"\" (map (name:
        \"\${name} \${builtins.unsafeDiscardStringContext all.\${name}.drvPath}\n\") (builtins.attrNames all))" > "$WORK/drvs"
copy_store "$WORK/34" "$WORK/on"
copy_store "$WORK/34" "$WORK/off"

# differences EXPECTED GOT: what differs between two outputs
differences() {
    diff -r --no-dereference "$1" "$2" | head -n 20 | cut -c1-300
}
while read -r name drv; do
    expected=$(nix34 nix-store -r --store "$WORK/34" "$drv" 2> "$WORK/$name.err" < /dev/null) || {
        fail "Nix 2.34 builds $name" "$(tail -n 10 "$WORK/$name.err")"
        continue
    }
    for run in on warm off; do
        store=$WORK/on options=''
        case $run in
        on) sentence="$name is the same with memoization" ;;
        warm) sentence="$name is the same from memory" options=--rebuild ;;
        off) sentence="$name is the same without memoization" store=$WORK/off options='--memo off' ;;
        esac
        # shellcheck disable=SC2086 # words
        if ! droste build --json $options --store "$store" "$drv" > "$WORK/$name.$run.json" 2> "$WORK/$name.$run.err" < /dev/null; then
            fail "$sentence" "$(tail -n 12 "$WORK/$name.$run.err")"
        elif [ "$(path_info "$WORK/34" "$expected")" = "$(path_info "$store" "$expected")" ]; then
            pass "$sentence"
        else
            fail "$sentence" "$(differences "$WORK/34$expected" "$store$expected")"
        fi
    done
done < "$WORK/drvs"
check "compiles and links are children, and are reused" grep -q '"reused": 3' "$WORK/plain.warm.json"
check "children of a wrapper script are children" grep -qE '"built": [1-9]' "$WORK/wrapper-script.on.json"
counts() { sed -n 's/.*"\(built\|reused\|inPlace\)": \([0-9]*\).*/\1 \2/p' "$WORK/$1.json" | tr '\n' ' '; }
# A call that fails is tried in place, and the compiler behind the wrapper is called there.
equal "calls of nixpkgs' wrappers are children" "built 12 reused 0 inPlace 1 " "$(counts nixpkgs-wrapper.on)"
equal "they are found again" "built 0 reused 11 inPlace 1 " "$(counts nixpkgs-wrapper.warm)"
equal "compiles by nixpkgs' wrappers, failing ones too, are found in another derivation" "built 4 reused 7 inPlace 1 " "$(counts nixpkgs-wrapper-again.on)"
check "links that have the derivation's own hash in them are counted" grep -q '"name-in-result": 2' "$WORK/nixpkgs-wrapper-again.on.json"
clean "nothing is left behind" "$WORK/on"
verified "the store verifies" "$WORK/on"
finish
