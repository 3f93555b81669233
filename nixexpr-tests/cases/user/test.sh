# An ordinary user: the same as root makes, in user namespaces.
. "$TESTS/harness.sh"
stop_without NIX34

if [ "$(id -u)" != 0 ]; then
    skip "the main things as another user" "all other cases are run by an ordinary user already"
    finish
fi
if ! unshare --user --map-root-user true 2> /dev/null; then
    skip "everything here" "no user namespaces on this machine"
    finish
fi
toolchain=$(with_toolchain "$WORK/root") || {
    fail "a toolchain can be imported"
    finish
}
# A user who owns nothing and can read neither root's home nor the build directory.
uid=61234
home=$WORK/user
mkdir -p "$home"
cp "$DROSTE" "$home/droste"
copy_store "$WORK/root" "$home/store"
rm -rf "$home/store/nix/store" && cp -a "$WORK/root/nix/store" "$home/store/nix/store"
chown -R "$uid:$uid" "$home"
chmod 711 "$WORK"
as_user() {
    (cd / && env -i PATH="$PATH" HOME="$home" DROSTE_DIR="$home/droste-dir" NIX_CONF_DIR="$NIX_CONF_DIR" \
        setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@")
}
check "droste runs as a user" as_user "$home/droste" --version
if ! as_user test -x "$NIX34/nix"; then
    # The cache may be in root's home: what judges runs as root then.
    say "   (Nix 2.34 runs as root here)"
fi

busybox=$(busybox_into "$WORK/root")
evaluate() {
    nix34 nix eval --store "$WORK/root" --impure --raw --expr "
        let all = $1;
        in builtins.concatStringsSep \"\" (map (name:
            \"\${name} \${builtins.unsafeDiscardStringContext all.\${name}.drvPath}\n\") $2)"
}
{
    evaluate "import $TESTS/cases/differential { busybox = \"$busybox\"; }" '[
        "simple" "multiple-output-user" "self-reference" "modes" "hard-links" "strange-names" "deep-directories" "environment"
        "pass-as-file" "references-graph" "floating-self-reference" "floating-on-floating" "input-addressed-on-floating"
        "fixed-recursive-sha256" "fixed-wrong-sha256" "fails" "fifo-in-output" "device-in-output" "no-output" "leaves-a-process" "world-writable-output"
        "probe-identity" "probe-etc" "probe-dev" "probe-network" "probe-processes" "probe-stdin" "probe-streams" "probe-status"
        "probe-nothing-of-the-machine" "probe-setuid" "probe-mount" "probe-mknod" "probe-xattr" "probe-abstract-socket" "probe-root" "probe-store" ]'
    evaluate "import $TESTS/cases/compilers { toolchain = \"$toolchain\"; }" '[ "plain" "cplusplus" "own-output-path" "output-files" "reads-the-compiler" "wrapper-script" ]'
    from=$(sources lua)
    [ ! -d "$from" ] || evaluate "import $TESTS/cases/projects { toolchain = \"$toolchain\"; sources.lua = \"$from\"; }" '[ "lua" ]'
} > "$WORK/drvs"
# The derivations go to the user's store as they are.
nix34 nix-store --export --store "$WORK/root" $(nix34 nix-store -qR --store "$WORK/root" $(cut -d' ' -f2 "$WORK/drvs")) > "$WORK/export"
nix34 nix-store --import --store "$home/store" < "$WORK/export" > /dev/null
chown -R "$uid:$uid" "$home/store"

while read -r name drv; do
    nix34 nix-store -r --store "$WORK/root" "$drv" > "$WORK/$name.expected" 2> "$WORK/$name.expected-err" < /dev/null
    expected=$?
    as_user "$home/droste" build --json --store "$home/store" "$drv" > "$WORK/$name.json" 2> "$WORK/$name.err" < /dev/null
    got=$?
    if [ "$expected" != "$got" ]; then
        fail "$name as a user ends like in Nix 2.34" "exit status $got, not $expected" "$(tail -n 15 "$WORK/$name.err")"
    elif [ "$expected" = 0 ]; then
        while read -r out; do
            equal "${out##*/} as a user is as by Nix 2.34" "$(path_info "$WORK/root" "$out")" "$(path_info "$home/store" "$out")"
        done < "$WORK/$name.expected"
    else
        pass "$name as a user ends like in Nix 2.34"
    fi
done < "$WORK/drvs"
if [ -e "$WORK/lua.json" ]; then
    check "a user's Lua has children" grep -qE '"built": [1-9]' "$WORK/lua.json"
    check "a user's second Lua builds no child" grep -qE '"built": 0' <(as_user "$home/droste" build --json --rebuild --store "$home/store" "$(sed -n 's/^lua //p' "$WORK/drvs")" 2>&1)
fi
# Opened by root, as the judge, the database's helper files must stay the user's.
clean "nothing is left behind by a user" "$home/store"
verified "a user's store verifies" "$home/store"
chown -R "$uid:$uid" "$home/store"
equal "all files of a user's store are the user's" "" "$(find "$home/store" "$home/droste-dir" ! -uid "$uid" 2> /dev/null | head)"
chmod 000 "$home/store/nix/var/nix/db/db.sqlite"
refused "a database that cannot be read is named" 1 'db\.sqlite|database' as_user "$home/droste" build --store "$home/store" "$(sed -n 's/^simple //p' "$WORK/drvs")"
chmod 644 "$home/store/nix/var/nix/db/db.sqlite"
chmod 555 "$home/store/nix/store"
drv=$(evaluate "import $TESTS/cases/differential { busybox = \"$busybox\"; }" '[ "directory" ]' | cut -d' ' -f2)
refused "a store that a user cannot write to is named" 1 '[Pp]ermission|denied|not valid' as_user "$home/droste" build --store "$home/store" "$(sed -n 's/^lua //p' "$WORK/drvs" | head -n 1)" --rebuild
refused "no store can be made where a user cannot write" 1 '[Pp]ermission|denied' as_user "$home/droste" store add --store /none "$home/droste"
finish
