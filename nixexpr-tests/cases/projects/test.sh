# Lua, zlib and zstd: the same store paths and bytes by Nix 2.34, by Nix 2.8 and by
# Droste with the memory cold, warm and off; what an edit builds anew; the shims by
# PATH; and a child's own derivation built by Nix.
. "$TESTS/harness.sh"
stop_without NIX34

toolchain=$(with_toolchain "$WORK/34") || {
    fail "a toolchain can be imported"
    finish
}
# instantiate STORE PROJECT SOURCES [NIX-ARGUMENTS...]
instantiate() {
    local flags=()
    # It is the largest, and is built five times.
    [ "$2" != zstd ] || [ "$SOAK" = 1 ] || flags=(--argstr cflags -O1)
    nix34 nix-instantiate --store "$1" "$PWD" -A "$2" --argstr toolchain "$toolchain" --arg sources "{ $2 = \"$3\"; }" "${flags[@]}" "${@:4}"
}
# field NAME FILE: a field of the only element of what `droste build --json` printed
field() { sed -n 's/^ *"'"$1"'": *"\{0,1\}\([^",]*\)"\{0,1\},\{0,1\}$/\1/p' "$2" | head -n 1; }
children() { echo "$(field built "$1") built, $(field reused "$1") reused"; }
# run NAME DROSTE-ARGUMENTS...: into $WORK/NAME.json
run() {
    droste build --json "${@:2}" > "$WORK/$1.json" 2> "$WORK/$1.err" < /dev/null && return
    fail "droste builds $1" "$(tail -n 30 "$WORK/$1.err")"
    return 1
}
copy_store "$WORK/34" "$WORK/on"
copy_store "$WORK/34" "$WORK/off"

# An edit of one function's body, as sed does it: `FILE SCRIPT`.
edit_of() {
    case $1 in
    lua) echo 'lmathlib.c s/l_mathop(sin)(luaL_checknumber(L, 1))/l_mathop(sin)(luaL_checknumber(L, 1) + 0.5 - 0.5)/' ;;
    zlib) echo 'compress.c s/(sourceLen >> 25) + 13;/(sourceLen >> 25) + 14;/' ;;
    zstd) echo 'common/entropy_common.c s/{ return FSE_VERSION_NUMBER; }/{ return FSE_VERSION_NUMBER + 1; }/' ;;
    esac
}
for project in lua zlib zstd; do
    from=$(sources "$project")
    if [ ! -d "$from" ]; then
        skip "everything about $project" "its sources cannot be fetched"
        continue
    fi
    drv=$(instantiate "$WORK/34" "$project" "$from")
    instantiate "$WORK/on" "$project" "$from" > /dev/null
    instantiate "$WORK/off" "$project" "$from" > /dev/null
    out=$(nix34 nix-store -r --store "$WORK/34" "$drv" 2> "$WORK/$project.34.err") || {
        fail "Nix 2.34 builds $project" "$(tail -n 20 "$WORK/$project.34.err")"
        continue
    }
    expected=$(path_info "$WORK/34" "$out")
    # Each compile and each link is a line of make's.
    calls=$(nix34 nix-store -l --store "$WORK/34" "$drv" | grep -cE '^g?cc .* -o [^ ]+ ')

    run "$project-cold" --store "$WORK/on" "$drv" || continue
    equal "$project by Droste is as by Nix 2.34" "$expected" "$(path_info "$WORK/on" "$out")"
    equal "each call of $project is a child, the first time a new one" "$calls built, 0 reused" "$(children "$WORK/$project-cold.json")"
    run "$project-warm" --rebuild --store "$WORK/on" "$drv" &&
        equal "all children of $project are reused the second time" "0 built, $calls reused" "$(children "$WORK/$project-warm.json")"
    run "$project-off" --memo off --store "$WORK/off" "$drv" && {
        equal "$project without memoization is as by Nix 2.34" "$expected" "$(path_info "$WORK/off" "$out")"
        equal "without memoization there are no children" "0 built, 0 reused" "$(children "$WORK/$project-off.json")"
    }
    run "$project-no-interpose" --interpose off --rebuild --store "$WORK/on" "$drv" &&
        equal "without --interpose there are no children" "0 built, 0 reused" "$(children "$WORK/$project-no-interpose.json")"

    read -r file script <<< "$(edit_of "$project")"
    cp -r "$from" "$WORK/$project-edited"
    chmod -R u+w "$WORK/$project-edited"
    sed -i "$script" "$WORK/$project-edited/$file"
    cmp -s "$from/$file" "$WORK/$project-edited/$file" && fail "the edit of $project changes something"
    edited=$(instantiate "$WORK/on" "$project" "$WORK/$project-edited")
    instantiate "$WORK/off" "$project" "$WORK/$project-edited" > /dev/null
    # The object and the program that it is linked into; zlib has two of each.
    new=2
    [ "$project" != zlib ] || new=4
    run "$project-edited" --store "$WORK/on" "$edited" &&
        equal "one changed file of $project and what it is linked into is all that is built" "$new built, $((calls - new)) reused" "$(children "$WORK/$project-edited.json")"
    run "$project-edited-off" --memo off --store "$WORK/off" "$edited" && {
        out=$(sed -n 's/^ *"out": "\(.*\)".*/\1/p' "$WORK/$project-edited-off.json")
        equal "edited $project is the same without memoization" "$(path_info "$WORK/off" "$out")" "$(path_info "$WORK/on" "$out")"
    }
    clean "nothing is left behind by $project" "$WORK/on"
done
verified "the store of the projects verifies" "$WORK/on"
check "the children's store can be read as a whole by Nix 2.34" nix34 nix path-info -r --all --json --json-format 1 --store "$WORK/on"

# Nix 2.8, in a store that Droste wrote.
drv=$(instantiate "$WORK/34" lua "$(sources lua)")
out=$(nix34 nix-store -q --outputs --store "$WORK/34" "$drv")
if [ -n "$NIX28" ]; then
    copy_store "$SHARED/toolchain-store" "$WORK/28"
    instantiate "$WORK/28" lua "$(sources lua)" > /dev/null
    check "Nix 2.8 builds Lua in a store that Droste wrote" nix28 nix-store -r --store "$WORK/28" "$drv"
    equal "Lua by Nix 2.8 is as by Droste" "$(path_info "$WORK/28" "$out")" "$(path_info "$WORK/on" "$out")"
else
    skip "Lua by Nix 2.8 is as by Droste" "$NIX28_WHY"
fi

# The shims by PATH: another derivation, for PATH is part of it. The executor then
# lays nothing over the compilers.
copy_store "$SHARED/toolchain-store" "$WORK/path"
shims=$(droste shims --print-path --store "$WORK/path" 2> "$WORK/shims.err") || fail "the shims can be added to the store" "$(cat "$WORK/shims.err")"
if [ -n "$shims" ]; then
    drv=$(instantiate "$WORK/path" lua "$(sources lua)" --arg path "builtins.storePath \"$shims\" + \"/bin:\"")
    copy_store "$WORK/path" "$WORK/path-34"
    if run path --interpose off --store "$WORK/path" "$drv"; then
        calls=$(nix34 nix-store -l --store "$WORK/34" "$(instantiate "$WORK/34" lua "$(sources lua)")" | grep -cE '^g?cc .* -o [^ ]+ ')
        equal "with the shims in PATH each call is a child" "$calls built, 0 reused" "$(children "$WORK/path.json")"
        run path-warm --interpose off --rebuild --store "$WORK/path" "$drv" &&
            equal "with the shims in PATH all children are reused" "0 built, $calls reused" "$(children "$WORK/path-warm.json")"
        # Plain Nix runs the shims, too: there they find no socket and run the compiler.
        out=$(nix34 nix-store -r --store "$WORK/path-34" "$drv" 2> "$WORK/path-34.err") || fail "Nix 2.34 builds Lua with the shims in PATH" "$(tail -n 20 "$WORK/path-34.err")"
        [ -z "$out" ] || equal "Lua with the shims in PATH is as by Nix 2.34" "$(path_info "$WORK/path-34" "$out")" "$(path_info "$WORK/path" "$out")"
    fi
fi

# A child's derivation, built by Nix from nothing but its inputs.
shown=
for part in lapi.o lmathlib.o zstd_compress.o; do
    droste child show --drv --store "$WORK/on" "$part" > /dev/null 2> "$WORK/show.err"
    # Several of one name: the error lists them.
    child=$(droste child show --store "$WORK/on" "$part" 2>&1 | grep -oE '/nix/store/[a-z0-9]{32}-[^ ]*\.drv' | head -n 1)
    if [ -z "$child" ]; then
        fail "droste child show finds $part" "$(cat "$WORK/show.err")"
        continue
    fi
    output=$(droste child show --store "$WORK/on" "$child" | sed -n 's/^output *//p')
    equal "the derivation of $part is that of the store" "$(cat "$WORK/on$child")" "$(droste child show --drv --store "$WORK/on" "$child")"
    other=$WORK/child-$part
    copy_store "$SHARED/toolchain-store" "$other"
    # The closure of the .drv, not of its output.
    nix34 nix-store --export --store "$WORK/on" $(nix34 nix-store -qR --store "$WORK/on" "$child") > "$WORK/export" &&
        nix34 nix-store --import --store "$other" < "$WORK/export" > /dev/null || {
        fail "the derivation of $part can be copied to another store"
        continue
    }
    if [ -e "$other$output" ]; then fail "the output of $part is not copied"; fi
    got=$(nix34 nix-store -r --store "$other" "$child" 2> "$WORK/child.err") || fail "Nix 2.34 builds the child of $part" "$(tail -n 20 "$WORK/child.err")"
    equal "Nix 2.34 builds $part to the same store path" "$output" "$got"
    equal "Nix 2.34 builds $part to the same bytes" "$(nix34 nix-store -q --hash --store "$WORK/on" "$output")" "$(nix34 nix-store -q --hash --store "$other" "$got")"
    shown=$child
done
droste child show --store "$WORK/on" "$shown" > "$WORK/shown"
check "droste child show tells the command" grep -qE '^command .*-c' "$WORK/shown"
check "droste child show tells the inputs" grep -qF "$toolchain" "$WORK/shown"
check "droste child show prints JSON" grep -q inputSrcs <(droste child show --json --store "$WORK/on" "$shown")
refused "an unknown child is named" 1 'no-such-child' droste child show --store "$WORK/on" no-such-child
finish
