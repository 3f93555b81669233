# The builders that Nix itself is: the same outputs, statuses and registrations as Nix 2.34
# and 2.8, and from archives, servers and redirects that mean harm nothing.
. "$TESTS/harness.sh"
stop_without NIX34
command -v perl > /dev/null || {
    skip "everything here" "this machine has no perl"
    finish
}

# -- What they are given.
made=$WORK/made
mkdir -p "$made/archives/hostile" "$made/packages" "$WORK/trees/top/sub/deeper" "$WORK/trees/other"
cd "$WORK/trees" || exit 1
echo text > top/file
printf '#!/bin/sh\n' > top/script && chmod 755 top/script
chmod 600 top/sub && chmod 700 top/sub
ln -s ../file top/sub/link
ln -s /nowhere top/dangling
ln top/file top/hard
ln top/dangling top/hard-link-to-a-link
long=$(printf 'n%.0s' $(seq 120))
mkdir -p "top/$long/$long"
echo long > "top/$long/$long/$long"
head -c 300000 /dev/urandom > top/random
: > top/empty
printf 'a\xff\n' > "$(printf 'top/not-utf8-\xff')"
archives=$made/archives
tar --format=gnu -cf "$archives/plain.tar" top
tar --format=pax -cf "$archives/pax.tar" top
tar --format=ustar -cf "$archives/ustar.tar" --exclude="$long" top
tar --format=pax --pax-option='globexthdr.name=pax_global_header,comment=0123456789' -cf "$archives/git.tar" top
gzip -n < "$archives/plain.tar" > "$archives/plain.tar.gz"
bzip2 < "$archives/plain.tar" > "$archives/plain.tar.bz2"
xz < "$archives/plain.tar" > "$archives/plain.tar.xz"
{ head -c 100000 "$archives/plain.tar" | xz; tail -c +100001 "$archives/plain.tar" | xz --check=sha256; } > "$archives/plain.tar.xz2"
if command -v zstd > /dev/null; then
    zstd -q < "$archives/plain.tar" > "$archives/plain.tar.zst"
else
    cp "$archives/plain.tar" "$archives/plain.tar.zst"
fi
tar -cf "$archives/one-file.tar" -C top file
tar -cf "$archives/two.tar" top other
: > "$archives/empty.tar"
head -c 10240 /dev/zero > "$archives/nothing.tar"
echo junk > "$archives/junk"
head -c 200000 "$archives/plain.tar" > "$archives/truncated.tar"
head -c 200000 "$archives/plain.tar.xz" > "$archives/truncated.tar.xz"
perl "$TESTS/cases/builtins/archives.pl" "$archives"

# package NAME FILE...: its files have their names as content; `A->B` is a link
package() {
    local name=$1 file
    shift
    for file; do
        mkdir -p "$(dirname "$made/packages/$name/${file%%->*}")"
        case $file in
        *'->'*) ln -s "${file##*->}" "$made/packages/$name/${file%%->*}" ;;
        *) echo "$file" > "$made/packages/$name/$file" ;;
        esac
    done
}
package a bin/a share/man/man1/a.1 lib/liba.so manifest nix-support/setup-hook log/x
package b bin/b share/man/man1/b.1 share/doc/b .hidden manifest.nix share/info/dir lib/perl/perllocal.pod
package c 'bin->../a/bin' include/c.h
package deep share/man/man1/deep.1 share/man/man5/deep.5 bin/deep
package same-as-b bin/b bin/other
package links 'bin->../a/bin' 'share/gone->/nowhere' 'share/man->../../a/share/man'
package bin-is-a-file bin
echo file > "$made/packages/file"

# -- Built by both.
cd "$TESTS/cases/builtins" || exit 1
seed=$WORK/seed
store_path=$(nix34 nix-store --store "$seed" --add "$made")
busybox=$(busybox_into "$seed")
nix34 nix eval --store "$seed" --impure --raw --expr "
    let all = import $PWD { busybox = \"$busybox\"; made = \"$store_path\"; };
    in builtins.concatStringsSep \"\" (map (name:
        \"\${name} \${builtins.unsafeDiscardStringContext all.\${name}.drvPath}\n\") (builtins.attrNames all))" > "$WORK/drvs"
# build_all NAME COMMAND...: builds each with `COMMAND DRV`; what it prints is in
# logs/NAME/ATTR.{out,err,status}.
build_all() {
    local into=$WORK/logs/$1 name drv
    shift
    mkdir -p "$into"
    while read -r name drv; do
        "$@" "$drv" > "$into/$name.out" 2> "$into/$name.err" < /dev/null
        echo $? > "$into/$name.status"
    done < "$WORK/drvs"
}
# outputs NAME ATTR INFOS: what is recorded of the closure's top.
outputs() {
    local path
    sort "$WORK/logs/$1/$2.out" | while read -r path; do grep -F "$(basename "$path"): " "$3" || echo "$path is not valid"; done
}
# differ_from VERSION NAME OTHERS: builds of that Nix and of Droste in the stores NAME and droste-NAME
# come out alike, but for the names that match.
differ_from() {
    local name drv expected got
    path_infos "$WORK/$2" > "$WORK/infos-$2"
    path_infos "$WORK/droste-$2" > "$WORK/infos-droste-$2"
    while read -r name drv; do
        if grep -qxE "$3" <<< "$name"; then continue; fi
        expected=$(cat "$WORK/logs/$2/$name.status")
        got=$(cat "$WORK/logs/droste-$2/$name.status")
        if [ "$expected" != "$got" ]; then
            fail "$name ends like in Nix $1" "exit status $got, not $expected" "$(tail -n 15 "$WORK/logs/droste-$2/$name.err")"
        else
            equal "$name has the outputs that Nix $1 makes" "$(outputs "$2" "$name" "$WORK/infos-$2")" "$(outputs "droste-$2" "$name" "$WORK/infos-droste-$2")"
        fi
    done < "$WORK/drvs"
    clean "nothing is left behind beside Nix $1" "$WORK/droste-$2"
    verified "the store beside Nix $1 verifies" "$WORK/droste-$2"
}
copy_store "$seed" "$WORK/34"
copy_store "$seed" "$WORK/droste-34"
build_all 34 nix34 nix-store -r --store "$WORK/34"
build_all droste-34 droste build --store "$WORK/droste-34"
# Nix makes pipes and devices where it can, and fails with another status when it finds them.
differ_from 2.34 34 'hostile-device|hostile-pipe'
# said TEXT NAME: the builder said so, in Nix's words
said() {
    local text
    for logs in 34 droste-34; do
        text=$(sed 's/^ *> //; s/^ *//' "$WORK/logs/$logs/$2.err" | tr '\n' ' ')
        case $text in
        *"$1"*) ;;
        *) fail "$2 fails in Nix's words" "not in $logs: $1" "$text" && return ;;
        esac
    done
    pass "$2 fails in Nix's words"
}
said "error: Unable to build profile. There is a conflict for the following files:  \"$store_path/packages/b/bin/b\" \"$store_path/packages/same-as-b/bin/b\"" env-conflict
said "collision between \"$store_path/packages/b/bin\" and non-directory \"$store_path/packages/bin-is-a-file/bin\"" env-directory-or-file
said "collision between non-directory '$store_path/packages/bin-is-a-file/bin' and directory" env-file-or-merged
said "attribute 'manifest' missing" env-no-manifest
said "channel tarball '$store_path/archives/two.tar' contains more than one file" channel-two
said "channel tarball '$store_path/archives/empty.tar' is empty" channel-empty
said "failed to open archive: Unrecognized archive format" channel-junk
said "channelName is not allowed to contain filesystem separators, got a/b" channel-separator
said "unsupported builtin builder 'no-such-builder'" unknown
equal "hostile archives make nothing" "" \
    "$(cd "$WORK/logs/droste-34" && grep -L 100 hostile-*.status | grep -v -e absolute.status -e replaced-link)"

if [ -n "$NIX28" ]; then
    # 2.8's own database, not one that 2.34 made.
    nix34 nix-store --store "$seed" --export $(nix34 nix path-info --store "$seed" --all) > "$WORK/export"
    for name in 28 droste-28; do
        nix28 nix-store --store "$WORK/$name" --init
        nix28 nix-store --store "$WORK/$name" --import < "$WORK/export" > /dev/null
    done
    build_all 28 nix28 nix-store -r --store "$WORK/28"
    build_all droste-28 droste build --store "$WORK/droste-28"
    # 2.8 ends with 1 when no machine can build, and lets archives do more.
    differ_from 2.8 28 'env-feature|system-without-builtin|hostile-.*'
else
    skip "the outputs are those that Nix 2.8 makes" "$NIX28_WHY"
fi

# -- What nix-env and nix-channel make of them.
copy_store "$seed" "$WORK/profile"
droste build --store "$WORK/profile" "$(sed -n 's/^channel-xz //p' "$WORK/drvs")" > "$WORK/channel" 2> "$WORK/err"
check "the channel's files are there" test -x "$WORK/profile$(cat "$WORK/channel")/nixos/script"
droste build --keep-failed --store "$WORK/profile" "$(sed -n 's/^channel-two //p' "$WORK/drvs")" 2> "$WORK/err"
equal "a builtin builder's directory is never kept" "" "$(ls -A "$WORK/profile/nix/var/nix/builds" | grep -v '^$')"
finish
