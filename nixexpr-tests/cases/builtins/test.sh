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

copy_store "$seed" "$WORK/profile"
droste build --store "$WORK/profile" "$(sed -n 's/^channel-xz //p' "$WORK/drvs")" > "$WORK/channel" 2> "$WORK/err"
check "the channel's files are there" test -x "$WORK/profile$(cat "$WORK/channel")/nixos/script"
droste build --keep-failed --store "$WORK/profile" "$(sed -n 's/^channel-two //p' "$WORK/drvs")" 2> "$WORK/err"
equal "a builtin builder's directory is never kept" "" "$(ls -A "$WORK/profile/nix/var/nix/builds" | grep -v '^$')"

# -- What nix-env makes of them.
# profile NAME STORE: installs a package that brings another one along; what becomes the profile
profile() {
    nix34 nix-env --store "$2" -p "$WORK/$1" -f default.nix -iA lower \
        --argstr busybox "$busybox" --argstr made "$store_path" > "$WORK/$1.err" 2>&1 || cat "$WORK/$1.err"
    readlink "$WORK/$(readlink "$WORK/$1")"
}
copy_store "$seed" "$WORK/env-34"
copy_store "$seed" "$DROSTE_DIR/store"
"$DROSTE" daemon > "$WORK/daemon.log" 2>&1 < /dev/null &
trap "kill $!" EXIT
for _ in $(seq 100); do [ ! -S "$DROSTE_DIR/daemon.socket" ] || break; sleep 0.1; done
expected=$(profile env-of-34 "$WORK/env-34")
url="unix://$DROSTE_DIR/daemon.socket?root=$DROSTE_DIR/store"
equal "nix-env has Droste make the profile that Nix makes" "$expected" "$(profile env-of-droste "$url")"
equal "which shows both packages" "all lower lowest" "$(ls "$DROSTE_DIR/store$expected/bin" | xargs)"
equal "with all that is in it" "$(nix34 nix-store -q --hash --store "$WORK/env-34" "$expected")" "$(nix34 nix-store -q --hash --store "$url" "$expected")"
droste daemon stop --quiet

# -- Fetching.
command -v python3 > /dev/null && command -v openssl > /dev/null || {
    skip "fetching" "this machine has no python3 or no openssl"
    finish
}
server=$WORK/server
mkdir -p "$server/files"
cd "$server" || exit 1
echo hello > files/hello
head -c 300000 /dev/urandom > files/big
nix34 nix-store --dump "$WORK/trees/top" > files/tree.nar
xz < files/tree.nar > files/tree.nar.xz
nix34 nix-store --dump files/hello > files/hello.nar
head -c 200000 files/tree.nar > files/cut.nar
mkdir -p nar/a..b && echo evil > nar/a..b/evil
nix34 nix-store --dump nar | sed 's/a\.\.b/..\/b/' > files/hostile.nar
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 30 2> /dev/null
# certificate NAME HOST
certificate() {
    openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "/CN=$1" 2> /dev/null
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -out "$1.crt" -days 30 \
        -extfile <(echo "subjectAltName=$2") 2> /dev/null
    cat "$1.crt" "$1.key" > "$1.pem"
}
certificate server DNS:localhost
certificate stranger DNS:elsewhere.example
python3 "$TESTS/cases/builtins/server.py" "$server" 2> "$server/log" &
trap "kill $!" EXIT
for _ in $(seq 100); do [ ! -e ports ] || break; sleep 0.1; done
mapfile -t ports < ports
export NIX_SSL_CERT_FILE=$server/ca.pem
printf 'machine 127.0.0.1 login user password secret\n' > "$NIX_CONF_DIR/netrc"

cd "$TESTS/cases/builtins" || exit 1
seed=$WORK/fetch-seed
files=$(nix34 nix-store --store "$seed" --add "$server/files")
flat() { sha256sum "$1" | cut -d' ' -f1; }
chmod 755 "$server/files/hello"
executable=$(nix34 nix-store --dump "$server/files/hello" | flat -)
chmod 644 "$server/files/hello"
# drvs STORE: writes each derivation's name and path
drvs() {
    nix34 nix eval --store "$1" --impure --raw --expr "
        let all = import $PWD/fetch.nix {
              http = \"http://127.0.0.1:${ports[0]}\";
              other = \"http://localhost:${ports[1]}\";
              https = \"https://localhost:${ports[2]}\";
              stranger = \"https://localhost:${ports[3]}\";
              files = \"$files\";
              hashes = {
                hello = \"$(flat "$server/files/hello")\";
                big = \"$(flat "$server/files/big")\";
                tree = \"$(flat "$server/files/tree.nar")\";
                executable = \"$executable\";
              };
            };
        in builtins.concatStringsSep \"\" (map (name:
            \"\${name} \${builtins.unsafeDiscardStringContext all.\${name}.drvPath}\n\") (builtins.attrNames all))"
}
drvs "$seed" > "$WORK/drvs" 2> "$WORK/err" || cat "$WORK/err"
# fetch_all NAME COMMAND...: all of them at once, since some wait
fetch_all() {
    local into=$WORK/logs/$1 name drv pids=()
    shift
    mkdir -p "$into"
    while read -r name drv; do
        {
            "$@" "$drv" > "$into/$name.out" 2> "$into/$name.err" < /dev/null
            echo $? > "$into/$name.status"
        } &
        pids+=($!)
        # Some at a time.
        [ $((${#pids[@]} % 8)) != 0 ] || wait "${pids[@]}"
    done < "$WORK/drvs"
    wait "${pids[@]}"
}
copy_store "$seed" "$WORK/fetch-34"
copy_store "$seed" "$WORK/droste-fetch-34"
fetch_all fetch-34 nix34 nix-store -r --option download-attempts 3 --store "$WORK/fetch-34"
fetch_all droste-fetch-34 droste build --store "$WORK/droste-fetch-34"
differ_from "2.34 (fetching)" fetch-34 '-'
# fetch_said TEXT NAME...: both fail with this text
fetch_said() {
    local text=$1 logs name
    shift
    for name; do
        for logs in fetch-34 droste-fetch-34; do
            if ! grep -qF -- "$text" "$WORK/logs/$logs/$name.err"; then
                fail "$name fails in curl's words" "not in $logs: $text" "$(cat "$WORK/logs/$logs/$name.err")"
                continue 2
            fi
        done
        pass "$name fails in curl's words"
    done
}
at=http://127.0.0.1:${ports[0]}
fetch_said "unable to download '$at/not/there': HTTP error 404" not-found
fetch_said "there is no such file" not-found
fetch_said "unable to download '$at/status/403': HTTP error 403" forbidden
fetch_said "unable to download '$at/short/hello': HTTP error 200 (curl error: Transferred a partial file)" short
fetch_said "unable to download '$at/no-resume/big': HTTP error 200 (curl error: Transferred a partial file)" no-resume
fetch_said "unable to download '$at/garbage': Unsupported protocol (1) Received HTTP/0.9 when not allowed" garbage
fetch_said "unable to download '$at/to/file:///etc/passwd': HTTP error 302 (curl error: Unsupported protocol)" redirect-to-file
fetch_said "unable to download '$at/loop': HTTP error 302 (curl error: " loop
fetch_said "unable to download 'https://localhost:${ports[3]}/hello': SSL peer certificate or SSH remote key was not OK (60)" not-trusted
fetch_said "unable to download 'file:///not/there': Could not read a file:// file (37) Could not open file /not/there" no-file
fetch_said "unable to download 'http://[bad/x': URL using bad/illegal format or missing URL (3) URL rejected: Bad IPv6 address" malformed
fetch_said "unable to download 'gopherus://x/y': Unsupported protocol (1) Protocol \"gopherus\" not supported" other-scheme
fetch_said "'builtin:fetchurl' must be a fixed-output or impure derivation" not-fixed not-fixed-floating
fetch_said "unable to download '$at/status/500': HTTP error 500" again-broken
fetch_said "unable to download '$at/empty': Server returned nothing (no headers, no data) (52) Empty reply from server" again-empty
fetch_said "unable to download '$at/bad-chunks': HTTP error 200 (curl error: Failure when receiving data from the peer)" again-bad-chunks
fetch_said "unable to download 'http://127.0.0.1:1/x': Could not connect to server (7) Failed to connect to 127.0.0.1:1 after" again-refused
fetch_said "unable to download 'http://no-such-host.invalid/x': Could not resolve hostname (6) Could not resolve host: no-such-host.invalid" again-unknown
fetch_said "SSL connect error (35)" again-no-tls
fetch_said "retrying in" again-broken
equal "what is no use is not tried again" "" "$(cd "$WORK/logs/droste-fetch-34" && grep -l retrying -- *.err | grep -vE '^(again-|fails-twice|resume)')"
equal "a NAR that would leave its output makes nothing" "" "$(find "$WORK/droste-fetch-34" -name evil | grep -v -e '-files/' -e "$server")"
clean "a transfer that fails leaves nothing" "$WORK/droste-fetch-34"

# -- Who hears what.
# heard COMMAND...: what the servers are asked meanwhile: port, target, credentials
heard() {
    : > "$server/requests"
    "$@" > "$WORK/out" 2> "$WORK/err"
    sed -E 's/ (GET|CONNECT)//; s/ [^ ]*$//' "$server/requests"
}
# fetch NAME URL [ATTRIBUTES]: of what is `hello`
fetch() {
    nix34 nix eval --store "$WORK/heard" --impure --raw --expr "builtins.unsafeDiscardStringContext (derivation {
        name = \"$1\"; system = \"builtin\"; builder = \"builtin:fetchurl\"; url = \"$2\";
        outputHashMode = \"flat\"; outputHashAlgo = \"sha256\"; outputHash = \"$(flat "$server/files/hello")\"; ${3:-} }).drvPath" > "$WORK/drv"
    droste build "${@:4}" --store "$WORK/heard" "$(cat "$WORK/drv")"
}
secret='Basic dXNlcjpzZWNyZXQ='
equal "credentials are for their host, over redirects of its own" "0 /to//hello $secret
0 /hello $secret" "$(heard fetch a "$at/to//hello")"
equal "no other host hears of them" "0 /to/http://localhost:${ports[1]}/hello $secret
1 /hello -" "$(heard fetch b "$at/to/http://localhost:${ports[1]}/hello")"
equal "nor by a name that begins the same" "1 /hello -" "$(heard fetch c "http://localhost:${ports[1]}/hello")"
printf 'machine localhost login user password secret\n' > "$NIX_CONF_DIR/netrc"
equal "nor is what was for TLS told without it" "2 /to/http://localhost:${ports[1]}/hello $secret
1 /hello -" "$(heard fetch d "https://localhost:${ports[2]}/to/http://localhost:${ports[1]}/hello")"
rm "$NIX_CONF_DIR/netrc"
equal "a server that is not believed is asked nothing" "" "$(heard fetch e "https://localhost:${ports[3]}/hello")"
unset NIX_SSL_CERT_FILE
equal "nor is one that nobody vouches for" "" "$(heard fetch f "https://localhost:${ports[2]}/hello")"
check "which is said" grep -q 'SSL peer certificate or SSH remote key was not OK (60)' "$WORK/err"
export NIX_SSL_CERT_FILE=$server/ca.pem
proxies='impureEnvVars = [ "http_proxy" "https_proxy" "no_proxy" ];'
equal "a proxy gets whole URLs" "0 http://proxied.invalid/x -" "$(http_proxy=$at heard fetch g http://proxied.invalid/x "$proxies")"
equal "TLS goes through a tunnel" "0 localhost:${ports[2]} -
2 /hello -" "$(https_proxy=$at heard fetch h "https://localhost:${ports[2]}/hello" "$proxies")"
equal "not to what no_proxy lists" "1 /hello -" "$(http_proxy=$at no_proxy=localhost heard fetch i "http://localhost:${ports[1]}/hello" "$proxies")"
equal "and only if the derivation names the variable" "1 /hello -" "$(http_proxy=$at heard fetch j "http://localhost:${ports[1]}/hello")"

printf 'machine 127.0.0.1 login user password secret\n' > "$WORK/credentials"
mkdir -p "$server/files/mirror/sha256"
hex=$(flat "$server/files/hello")
equal "files are looked for by their hashes first, with the credentials of a setting" "0 /nothing/sha256/$hex $secret
0 /mirror/sha256/$hex $secret
0 /hello $secret" "$(heard fetch k "$at/hello" '' --option hashed-mirrors "$at/nothing $at/mirror/" --option netrc-file "$WORK/credentials")"
cp "$server/files/hello" "$server/files/mirror/sha256/$hex"
equal "and nowhere else where they are found" "0 /mirror/sha256/$hex -" "$(heard fetch l "$at/hello" '' --option hashed-mirrors "$at/mirror")"
equal "what is broken is tried so often" "0 /status/500 -
0 /status/500 -" "$(heard fetch m "$at/status/500" '' --option download-attempts 2)"
equal "an impure derivation may fetch" "0 /hello -" "$(heard droste build --store "$WORK/heard" \
    "$(nix34 nix eval --extra-experimental-features impure-derivations --store "$WORK/heard" --impure --raw --expr "builtins.unsafeDiscardStringContext (derivation {
        name = \"impure\"; system = \"builtin\"; builder = \"builtin:fetchurl\"; url = \"$at/hello\";
        __impure = true; outputHashMode = \"flat\"; outputHashAlgo = \"sha256\"; }).drvPath")")"
check "and has what it fetched" cmp "$server/files/hello" "$WORK/heard$(cat "$WORK/out")"

# -- Who takes their time.
for kind in hang hang-body; do
    fetch "$kind" "$at/$kind" '' --timeout 2 > "$WORK/out" 2> "$WORK/err"
    equal "a server that hangs ($kind) is left when the time is up" 101 $?
    fetch "$kind" "$at/$kind" '' --option stalled-download-timeout 1 --option download-attempts 1 > "$WORK/out" 2> "$WORK/err"
    equal "or when it has been silent for long ($kind)" 1 $?
    check "which is said ($kind)" grep -qE 'Timeout was reached' "$WORK/err"
done
clean "and leaves nothing" "$WORK/heard"
equal "no builder is left" "" "$(grep -lsF "$(basename "$(dirname "$WORK")")/builtins/heard/" /proc/[0-9]*/mountinfo)"

# -- Against another Nix.
if [ -n "$NIX28" ]; then
    for name in fetch-28 droste-fetch-28; do
        nix28 nix-store --store "$WORK/$name" --init
        nix34 nix-store --store "$seed" --export $(nix34 nix path-info --store "$seed" --all) | nix28 nix-store --store "$WORK/$name" --import > /dev/null
    done
    printf 'machine 127.0.0.1 login user password secret\n' > "$NIX_CONF_DIR/netrc"
    # 2.8 believes every server, and speaks of failures in other words.
    grep -vE '^(again-|not-|no-url|nar-hostile|impure-hash)' "$WORK/drvs" > "$WORK/drvs.28"
    mv "$WORK/drvs.28" "$WORK/drvs"
    fetch_all fetch-28 nix28 nix-store -r --store "$WORK/fetch-28"
    fetch_all droste-fetch-28 droste build --store "$WORK/droste-fetch-28"
    differ_from "2.8 (fetching)" fetch-28 '-'
else
    skip "what is fetched is what Nix 2.8 fetches" "$NIX28_WHY"
fi
finish
