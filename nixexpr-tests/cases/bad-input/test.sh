# What is broken is refused: with an error that names the derivation and the thing
# at fault, with Nix's exit status, with nothing registered and nothing left.
. "$TESTS/harness.sh"
stop_without NIX34

seed=$WORK/seed
busybox=$(busybox_into "$seed")
instantiate() { nix34 nix-instantiate --store "$1" "$PWD" --argstr busybox "$busybox" -A "$2"; }
for name in $(nix34 nix eval --impure --raw --expr "toString (builtins.attrNames (import $PWD { busybox = \"$busybox\"; }))" --store "$seed"); do
    instantiate "$seed" "$name" > "$WORK/$name.drv"
done
drv() { cat "$WORK/$1.drv"; }
# fresh NAME: a store with all the derivations and nothing built; sets `store`
fresh() {
    store=$WORK/stores/$1
    mkdir -p "$WORK/stores"
    copy_store "$seed" "$store"
}
build() { droste build --quiet --store "$store" "$@"; }
valid_count() { nix34 nix path-info --store "$store" --all | wc -l; }
seeded=$(nix34 nix path-info --store "$seed" --all | wc -l)
# unchanged SENTENCE: nothing was registered and nothing is left
unchanged() {
    equal "nothing is registered: $1" "$seeded" "$(valid_count)"
    clean "nothing is left: $1" "$store"
}

# Builders that go wrong.
fresh builders
refused "a failing builder's error has its name, status and last words" 100 "fails\.drv.*exit code 3.*last words|last words.*fails\.drv.*exit code 3" build "$(drv fails)"
output=$(build --log-lines 3 "$(drv fails)" 2>&1)
equal "the error repeats as many lines of the log as it is told" "line 98 line 99 last words" "$(grep -oE 'line [0-9]+|last words' <<< "$output" | xargs)"
refused "a crash is told with its signal" 100 'crashes\.drv.*(signal 11|SIGSEGV|[Ss]egmentation)' build "$(drv crashes)"
refused "a silent failure names its status" 100 'silent\.drv.*exit code 9' build "$(drv silent)"
refused "a missing output is named" 1 "no-output\.drv.*[\`'\"]?out\b.*I made nothing" build "$(drv no-output)"
refused "a device node in an output is named" 1 'device\.drv.*the-device|the-device.*device\.drv' build "$(drv device)"
refused "a socket in an output is named" 1 'socket\.drv.*sub/the-socket|sub/the-socket.*socket\.drv' build "$(drv socket)"
refused "an output that others may write to is refused" 1 'writable\.drv.*writ' build "$(drv writable)"
refused "another system is named" 100 'other-system\.drv.*riscv64-linux|riscv64-linux.*other-system\.drv' build "$(drv other-system)"
refused "a missing feature is named" 100 'missing-feature\.drv.*quantum|quantum.*missing-feature\.drv' build "$(drv missing-feature)"
refused "a failed input is named with what needs it" 100 'needs-failing.*fails\.drv|fails\.drv.*needs-failing' build "$(drv needs-failing)"
unchanged "builders that fail"
refused "a wrong hash is told with both hashes" 102 'wrong-hash\.drv.*sha256-[A-Za-z0-9+/=]{44}.*sha256-[A-Za-z0-9+/=]{44}' build "$(drv wrong-hash)"
clean "nothing is left after a wrong hash" "$store"
refused "with --keep-going what can be built is built" 100 'fails\.drv' build --keep-going "$(drv needs-failing-and-good)"
check "the good input is valid after --keep-going" nix34 nix path-info --store "$store" "$(nix34 nix-store -q --outputs --store "$store" "$(drv good)")"
refused "what is not built cannot be rebuilt" 1 'not-deterministic' build --rebuild "$(drv not-deterministic)"
check "a builder that differs each time builds" build "$(drv not-deterministic)"
refused "a rebuild that differs is told" 104 'not-deterministic' build --rebuild "$(drv not-deterministic)"
check "a rebuild that does not differ is fine" build --rebuild "$(drv good)"
clean "nothing is left after rebuilds" "$store"
verified "the store verifies after failures" "$store"

# Derivations that are damaged: cut at every length, or with one byte changed.
fresh damaged
path=$store$(drv top)
size=$(stat -c %s "$path")
cp -f "$path" "$WORK/whole"
replace() { rm -f "$path" && cat > "$path" && chmod 444 "$path"; }
bad='' unnamed='' count=0
# A damaged derivation is refused, and its error names it.
try_damaged() {
    local output status=0
    count=$((count + 1))
    output=$(build "$(drv top)" 2>&1) || status=$?
    case $status in
    1 | 100) ;;
    *) bad="$bad $1:$status" ;;
    esac
    grep -q panicked <<< "$output" && bad="$bad $1:panic"
    grep -qE "top\.drv|bottom|$(basename "$busybox")" <<< "$output" || unnamed="$unnamed $1: $output"
}
step=$((SOAK ? 1 : 13))
for ((n = 0; n < size; n += step)); do
    head -c "$n" "$WORK/whole" | replace
    try_damaged "cut at $n"
done
for ((n = 0; n < size; n += step)); do
    { head -c "$n" "$WORK/whole" && printf '\001' && tail -c +$((n + 2)) "$WORK/whole"; } | replace
    try_damaged "changed at $n"
done
{ cat "$WORK/whole" && echo; } | replace
try_damaged "a line feed too much"
head -c 200000 /dev/zero | tr '\0' '(' | replace
try_damaged "parentheses"
equal "none of $count damaged derivations is built or makes droste crash" "" "$bad"
equal "the error names the damaged derivation" "" "$unnamed"
replace < "$WORK/whole"
unchanged "damaged derivations"
check "the whole derivation is built" build "$(drv top)"

# The path that the output should have.
fresh wrong-path
path=$store$(drv good)
cp -f "$path" "$WORK/whole"
output=$(nix34 nix-store -q --outputs --store "$store" "$(drv good)")
sed "s,${output:11:32},$(tr '0123456789' '9876543210' <<< "${output:11:32}"),g" "$WORK/whole" | replace
refused "a wrong output path is told" 1 'good' build "$(drv good)"
unchanged "a wrong output path"

# What is missing.
fresh missing
refused "a derivation that is not there is named" 1 '00000000000000000000000000000000-none\.drv' build /nix/store/00000000000000000000000000000000-none.drv
refused "a file outside the store is named" 1 'default\.nix' build "$PWD/default.nix"
refused "a path that is no derivation is named" 1 "$(basename "$busybox")" build "$busybox"
refused "an output that does not exist is named" 1 'nonsense' build "$(drv good)^nonsense"
rm -f "$store$(drv bottom)"
refused "a missing input derivation is named" 1 'bottom\.drv' build "$(drv top)"
fresh missing-source
chmod -R u+w "$store$busybox" && rm -rf "$store$busybox"
refused "a missing input is named" 1 "$(basename "$busybox")" build "$(drv good)"
equal "nothing is registered: a missing input" "$seeded" "$(valid_count)"
if command -v sqlite3 > /dev/null; then
    fresh invalid-source
    sqlite3 "$store/nix/var/nix/db/db.sqlite" "delete from Refs; delete from ValidPaths where path = '$busybox'"
    refused "an input that is not valid is named" 1 "$(basename "$busybox")" build "$(drv good)"
else
    skip "an input that is not valid is named" "no sqlite3"
fi

# Databases.
fresh foreign
db=$store/nix/var/nix/db
echo 'this is no database' > "$db/db.sqlite"
rm -f "$db"/db.sqlite-*
refused "a database that is none is named" 1 'db\.sqlite' build "$(drv good)"
equal "a foreign database is left as it is" "this is no database" "$(cat "$db/db.sqlite")"
fresh newer
echo 11 > "$store/nix/var/nix/db/schema"
refused "a newer schema is named" 1 '(schema|version).*11|11.*(schema|version)' build "$(drv good)"
fresh older
echo 5 > "$store/nix/var/nix/db/schema"
refused "an older schema is named" 1 'schema 5.*Nix 1.11' build "$(drv good)"
fresh no-number
echo ten > "$store/nix/var/nix/db/schema"
refused "a schema that is no number is refused" 1 'schema' build "$(drv good)"
fresh cut
db=$store/nix/var/nix/db/db.sqlite
truncate -s $(($(stat -c %s "$db") / 2)) "$db"
rm -f "$db"-*
refused "a database cut in half is refused" 1 'db\.sqlite|database' build "$(drv good)"
if command -v sqlite3 > /dev/null; then
    fresh other-tables
    db=$store/nix/var/nix/db/db.sqlite
    rm -f "$db"*
    sqlite3 "$db" 'create table Cookies (id integer)'
    refused "another program's database is refused" 1 'db\.sqlite|database' build "$(drv good)"
fi
refused "a store that is a file is named" 1 'passwd' droste build --store /etc/passwd "$(drv good)"
refused "a store that is not there is named" 1 'no-such-store' droste build --store "$WORK/no-such-store" "$(drv good)"
[ ! -e "$WORK/no-such-store" ] && pass "a store that is only named is not made" || fail "a store that is only named is not made"

# Places that cannot be written.
fresh read-only
if unshare --mount true 2> /dev/null; then
    read_only() {
        unshare --mount bash -c 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"' bash \
            "$store" "$DROSTE" build --quiet --store "$store" "$(drv good)"
    }
    refused "a store that cannot be written is named" 1 "read-only" read_only
    unchanged "a store that cannot be written"

    # A disk that is full at some moment: the build fails, the store stays whole,
    # and goes on once there is room.
    full() {
        local size=$1 name=$2 store=$WORK/full/store output status=0
        mkdir -p "$WORK/full"
        mount -t tmpfs -o "size=$size" none "$WORK/full" || return 3
        mkdir -p "$store"
        cp -a "$seed/nix" "$store/" 2> /dev/null || return 3
        output=$(DROSTE_DIR=$WORK/full/droste TMPDIR=$WORK/full droste build --quiet --store "$store" "$(drv "$name")" 2>&1) || status=$?
        mount -o remount,size=200m "$WORK/full"
        if [ $status != 0 ]; then
            # busybox says no more than this of its own failure.
            grep -qiE 'no space|full|I/O error' <<< "$output" || { echo "at $size: $output"; return 1; }
            [ "$(leftovers "$store")" = "" ] || { echo "left at $size: $(leftovers "$store")"; return 1; }
        fi
        nix34 nix-store --verify --check-contents --store "$store" || return 1
        droste build --quiet --store "$store" "$(drv "$name")" || return 1
        nix34 nix-store --verify --check-contents --store "$store" || return 1
        [ $status != 0 ] || return 2
    }
    export -f full drv leftovers nix34 _quiet droste
    export seed
    used=$(du -sk "$seed/nix" | cut -f1) failed=0
    # From too small for the first write up to just too small for the output.
    for extra in 0 8 24 40 64 100 150 300 600 1500 3000 5000 7000 7800 7830 7860 7900 8000 8400; do
        status=0
        output=$(unshare --mount timeout 120 bash -c 'full "$@"' bash "$((used + extra))k" large 2>&1) || status=$?
        case $status in
        0 | 2) failed=$((failed + (status == 0))) ;;
        3) ;;
        *) fail "a full disk does no harm ($extra kB left)" "$output" ;;
        esac
    done
    if [ $failed = 0 ]; then fail "a full disk does no harm" "no build met a full disk"; else pass "a full disk does no harm ($failed builds met one)"; fi
else
    skip "a store that cannot be written, or is full" "mounting takes root"
fi

# The command line.
refused "an unknown option is refused" 1 'no-such-option' droste build --no-such-option
refused "no command is refused" 1 'Usage|usage' droste
check "help is no failure" droste --help
check "the version is told" droste --version
refused "no daemon to stop is told" "$(droste daemon stop > /dev/null 2>&1; echo $?)" '.' droste daemon stop
fresh expressions
check "an expression is built" droste build --quiet --store "$store" -f "$PWD/good.nix"
refused "an attribute that does not exist is named" 1 'nonsense' droste build --quiet --store "$store" -f "$PWD/good.nix" -A nonsense
echo '{ broken' > "$WORK/broken.nix"
refused "an expression with an error is named" 1 'broken\.nix' droste build --quiet --store "$store" -f "$WORK/broken.nix"
refused "without nix-instantiate, that is told" 1 'nix-instantiate' env PATH=/nowhere "$DROSTE" build --quiet --store "$store" -f "$PWD/good.nix"
finish
