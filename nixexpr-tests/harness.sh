# What every case's test.sh begins with: `. "$TESTS/harness.sh"`. Bash.
#
# From `run`:
#   TESTS     this directory
#   WORK      an empty directory of the case's own, removed afterwards
#   SHARED    the same for all cases of a run
#   CACHE     kept between runs: fetched sources, unpacked Nix, toolchains
#   DROSTE    the program under test
#   NIX34     the directory of Nix 2.34's programs, or empty; NIX34_WHY says why
#   NIX26     the same for Nix 2.26
#   NIX28     the same for the machine's own Nix, 2.8
#   NIX23     the same for Nix 2.3, which finds nothing of its own beside it: see `nix23`
#   RESULTS   a file that gets one line a check
#   SOAK      1 for longer runs of what is random
#
# A check is a sentence that says what holds. `check`, `equal`, `pass`, `fail`
# and `skip` each count one.

set -u
# shellcheck source=lib.sh
. "$TESTS/lib.sh"
case_name=$(basename "$PWD")
export DROSTE_DIR=$WORK/droste
export NIX_CONF_DIR=$WORK/conf
# cargo keeps what it needs in the home directory.
export CARGO_HOME=${CARGO_HOME:-$HOME/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
export HOME=$WORK/home XDG_CACHE_HOME=$WORK/home/.cache XDG_STATE_HOME=$WORK/home/.state
unset NIX_REMOTE NIX_PATH NIX_CONFIG NIX_USER_CONF_FILES
mkdir -p "$HOME"
nix_conf "$NIX_CONF_DIR"

_record() {
    printf '%s\t%s\t%s\n' "$1" "$case_name" "$2" >> "$RESULTS"
    [ "$1" = passed ] && [ "${VERBOSE:-0}" = 0 ] || printf '    %s: %s: %s\n' "$1" "$case_name" "$2"
}
pass() { _record passed "$1"; }
# fail SENTENCE [DETAILS...]: each detail on lines of its own
fail() {
    _record FAILED "$1"
    shift
    printf '%s\n' "$@" | head -n 40 | sed 's/^/        /'
}
skip() { _record skipped "$1 ($2)"; }

# check SENTENCE COMMAND...: the command succeeds
check() {
    local sentence=$1 output
    shift
    if output=$("$@" 2>&1); then pass "$sentence"; else fail "$sentence" "exit status $? of: $*" "$output"; fi
}
# refused SENTENCE STATUS TEXT COMMAND...: the command ends with that status and
# its standard error has the text (an extended regular expression)
refused() {
    local sentence=$1 status=$2 text=$3 output got=0
    shift 3
    output=$("$@" 2>&1 > /dev/null) || got=$?
    if [ "$got" != "$status" ]; then
        fail "$sentence" "exit status $got, not $status, of: $*" "$output"
    elif ! tr '\n' ' ' <<< "$output" | grep -qE -- "$text"; then
        fail "$sentence" "not found: $text" "in standard error of: $*" "$output"
    else
        pass "$sentence"
    fi
}
# equal SENTENCE EXPECTED GOT: two texts
equal() {
    if [ "$2" = "$3" ]; then
        pass "$1"
    else
        fail "$1" "$(diff <(printf '%s\n' "$2") <(printf '%s\n' "$3") | sed 's/^</expected:/; s/^>/got:     /' | cut -c1-400)"
    fi
}
# stop_without PROGRAM...: skips the rest of the case if a Nix is missing
stop_without() {
    local name why
    for name; do
        why=${name}_WHY
        if [ -z "${!name}" ]; then
            skip "everything here" "${!why}"
            finish
        fi
    done
}
# The last command of a test.sh. A script that ends without it counts as failed.
finish() {
    echo finished >> "$RESULTS"
    exit 0
}

# nix34 PROGRAM ARGS..., and nix23, nix26, nix28: real Nix, quiet about itself.
nix34() { _quiet "$NIX34/$1" "${@:2}"; }
nix23() {
    local prefix=${NIX23%/bin}
    NIX_DATA_DIR=$prefix/share NIX_LIBEXEC_DIR=$prefix/libexec _quiet "$NIX23/$1" "${@:2}"
}
nix26() { _quiet "$NIX26/$1" "${@:2}"; }
nix28() { _quiet "$NIX28/$1" "${@:2}"; }
_quiet() {
    local status=0 said filter
    exec {said}> >(grep -v -e "did not specify '--add-root'" -e 'unknown experimental feature' -e "unknown setting 'experimental-features'" >&2)
    filter=$!
    "$@" 2>&"$said" {said}>&- || status=$?
    exec {said}>&-
    # What it has said is all there only when the filter has ended, which a daemon that it has
    # started may hold open.
    for _ in $(seq 500); do
        kill -0 "$filter" 2> /dev/null || break
        sleep 0.002
    done
    return $status
}
# What hangs is a failure, too.
droste() { timeout --kill-after=5 120 "$DROSTE" "$@"; }

# busybox_into STORE: adds the tree of static programs; prints its store path.
# $BUSYBOX is its directory.
busybox_into() { nix34 nix-store --store "$1" --add "$BUSYBOX"; }

# with_toolchain STORE: makes STORE one that has the toolchain, and prints the
# toolchain's store path. Made once by `droste toolchain import`; what that
# downloads is kept in the cache.
with_toolchain() {
    local shared=$SHARED/toolchain-store
    (
        # Cases run side by side.
        flock 9
        [ ! -e "$SHARED/toolchain" ] || exit 0
        mkdir -p "$CACHE/droste" "$SHARED/droste"
        [ -e "$SHARED/droste/cache" ] || ln -s "$CACHE/droste" "$SHARED/droste/cache"
        # It may have to download 67 MB.
        DROSTE_DIR=$SHARED/droste timeout --kill-after=5 900 "$DROSTE" toolchain import --store "$shared" > "$SHARED/toolchain.new" 2> "$SHARED/toolchain.log" 9>&- || {
            cat "$SHARED/toolchain.log" >&2
            exit 1
        }
        mv "$SHARED/toolchain.new" "$SHARED/toolchain"
    ) 9> "$SHARED/lock" || return 1
    copy_store "$shared" "$1" && cat "$SHARED/toolchain"
}

# sources PROJECT: the directory of a C project's sources, out of the crate that
# ships them, unpacked by cargo into the cache. Nobody writes to it.
sources() {
    local crate version directory
    case $1 in
    lua) crate=lua-src version=551.1.0 directory=lua-5.4.9 ;;
    zlib) crate=libz-sys version=1.1.31 directory=src/zlib ;;
    zstd) crate=zstd-sys version=2.1.3 directory=zstd/lib ;;
    esac
    (
        flock 9
        [ ! -d "$CACHE/crates/$crate-$version" ] || exit 0
        mkdir -p "$CACHE/crates"
        project=$(mktemp -d "$CACHE/crates/new.XXXXXX")
        printf '[package]\nname = "sources"\nversion = "0.0.0"\nedition = "2024"\n[lib]\npath = "lib.rs"\n[workspace]\n[dependencies]\n%s = "=%s"\n' \
            "$crate" "$version" > "$project/Cargo.toml"
        : > "$project/lib.rs"
        (cd "$project" && { cargo vendor --quiet --offline vendor || cargo vendor --quiet vendor; }) > /dev/null 2>&1 &&
            mv "$project/vendor/$crate" "$CACHE/crates/$crate-$version"
        rm -rf "$project"
    ) 9> "$SHARED/lock"
    echo "$CACHE/crates/$crate-$version/$directory"
}

# copy_store FROM TO: a chroot store again, with the files shared: a store never
# writes to a file that is valid.
copy_store() {
    mkdir -p "$2/nix"
    cp -al "$1/nix/store" "$2/nix/store"
    cp -a "$1/nix/var" "$2/nix/var"
}

# path_infos STORE: one line for every valid path, with what is known of it but
# the time. As Nix 2.34 reads it.
path_infos() {
    nix34 nix path-info --store "$1" --all --json --json-format 1 |
        sed 's/"registrationTime":[0-9]*,//g; s/,"\/nix\/store\/\([^"]*\)":{/\n\1: {/g; s/^{"\/nix\/store\/\([^"]*\)":{/\1: {/; s/}}$/}/' | sort
}
# path_info STORE PATH: that line for one path.
path_info() { path_infos "$1" | grep -F "$(basename "$2"): "; }

# leftovers STORE: what is in a chroot store and should not be when nothing runs.
leftovers() {
    local valid
    valid=$(nix34 nix path-info --store "$1" --all | sed 's,.*/,,')
    ls -A "$1/nix/store" | grep -vxF -e .links -e "$valid"
    [ ! -d "$1/nix/var/nix/builds" ] || ls -A "$1/nix/var/nix/builds" | sed 's,^,builds/,'
}
# clean SENTENCE STORE
clean() { equal "$1" "" "$(leftovers "$2")"; }
# verified SENTENCE STORE: by each real Nix that is here
verified() {
    [ -z "$NIX34" ] || check "$1 (2.34)" _verify nix34 "$2"
    [ -z "$NIX28" ] || check "$1 (2.8)" _verify nix28 "$2"
}
# Nix ends with success when it forgets a path that has disappeared.
_verify() {
    local output
    output=$("$1" nix-store --verify --check-contents --store "$2" 2>&1) || { echo "$output"; return 1; }
    ! grep -E 'disappeared|error' <<< "$output"
}
