# The directories of a build are used again by the next one of the same process: whatever the
# one before has left there or done to them, the next sees what it sees in new ones.
. "$TESTS/harness.sh"
stop_without NIX34

store=$WORK/store
busybox=$(busybox_into "$store") || {
    fail "busybox can be added"
    finish
}
nix34 nix eval --store "$store" --impure --raw --expr "
    builtins.concatStringsSep \"\" (builtins.attrValues (builtins.mapAttrs
        (name: drv: \"\${name} \${builtins.unsafeDiscardStringContext drv.drvPath}\n\")
        (import $PWD { busybox = \"$busybox\"; })))" > "$WORK/drvs" || {
    fail "the derivations are evaluated"
    finish
}
drv() { sed -n "s/^$1 //p" "$WORK/drvs"; }
builds() { droste build --quiet --store "$store" "$@" > "$WORK/out" 2> "$WORK/err"; }
result() { cat "$store$(sed -n 1p "$WORK/out")"; }

names="files large deep"
if [ "$(id -u)" = 0 ]; then
    names="$names modes attributes ring"
else
    skip "what only the owner of a directory can do to it" "not root: there the builder owns all"
fi
for name in $names; do
    check "in one process after $name" builds -j1 "$(drv "look-$name")"
    result > "$WORK/$name"
    check "there was something to see after $name" grep -q '^/build directory 700' "$WORK/$name"
    # A new process has new directories.
    check "new directories look like those after $name" builds --rebuild "$(drv "look-$name")"
    refused "no directory is old after $name" 1 '' grep -q ' is old' "$WORK/$name"
done

# Two at once, of which one fails: each of the next two gets the directories of one of them.
refused "a build that leaves things fails" 100 'fails' \
    droste build --quiet -j2 --keep-going --store "$store" \
    "$(drv fails)" "$(drv look-slow)" "$(drv inode-slow)"
check "new directories look like those after one that failed" builds --rebuild "$(drv look-slow)"

# What is not changed is used again, if the builder is another user than droste.
builds -j1 "$(drv inode-files)" "$(drv inode-modes)" && xargs -I_ cat "$store"_ < "$WORK/out" > "$WORK/inodes"
if [ "$(id -u)" = 0 ]; then
    equal "directories are used again" 2 "$(sort -u "$WORK/inodes" | wc -l)"
else
    skip "directories are used again" "not root"
fi
clean "nothing is left" "$store"
verified "the store is whole" "$store"
finish
