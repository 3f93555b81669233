# Functions for test scripts: `. nixexpr-tests/lib.sh`. POSIX sh.
#
# need_packages                installs what the tests need, or says what to
# nix_conf DIR [STORE_PATHS]   writes DIR/nix.conf; use it by NIX_CONF_DIR=DIR
# with_private_nix DIR CMD...  runs CMD with DIR as /nix, seen by CMD alone

say() { printf '%s\n' "$*" >&2; }

# Debian's packages that the tests use: real Nix as the judge, a static shell
# for its sandbox's /bin/sh, patchelf for get-nix.sh; and compilers and generators of which
# the calls are played.
need_packages() {
    _missing=
    for _pair in nix-store:nix-bin busybox:busybox-static patchelf:patchelf \
        clang:clang gfortran:gfortran m4:m4 bison:bison flex:flex \
        cmake:cmake meson:meson ninja:ninja-build; do
        command -v "${_pair%%:*}" > /dev/null || _missing="$_missing ${_pair##*:}"
    done
    # A part of the compiler's that is not there is printed as it was asked for.
    [ "$(gcc -print-prog-name=cc1obj)" != cc1obj ] || _missing="$_missing gobjc"
    [ -d "$(gcc -print-file-name=plugin)/include" ] || _missing="$_missing gcc-$(gcc -dumpversion)-plugin-dev"
    # The plain busybox needs libc and does not run alone in a sandbox.
    if command -v busybox > /dev/null && ldd "$(command -v busybox)" > /dev/null 2>&1; then
        _missing="$_missing busybox-static"
    fi
    [ -n "$_missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        say "these packages are missing; as root run: apt-get install$_missing"
        return 1
    fi
    say "installing$_missing"
    apt-get -qq update || return 1
    # shellcheck disable=SC2086 # one word a package
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $_missing > /dev/null
}

# Settings that 2.8, 2.26 and 2.34 all read; each warns of the features it has not.
# Further arguments are paths that the sandbox shows as they are.
nix_conf() {
    _dir=$1
    shift
    mkdir -p "$_dir"
    cat > "$_dir/nix.conf" << END
build-users-group =
sandbox = true
sandbox-fallback = false
sandbox-paths = /bin/sh=$(command -v busybox)${*:+ $*}
substituters =
max-jobs = 2
system-features = benchmark big-parallel recursive-nix ca-derivations
experimental-features = nix-command ca-derivations recursive-nix dynamic-derivations
END
}

# Where the machine has no /nix, it still gets none: the mount namespace has a
# root of its own then, with the machine's directories bound into it. (pivot_root
# and not chroot: in a chroot no user namespace can be made, so Nix's sandbox
# would not work.) DIR is made if missing, and kept.
with_private_nix() {
    _nix=$(mkdir -p "$1/store" "$1/var/nix" && realpath "$1") || return 1
    shift
    _root=$(mktemp -d) || return 1
    # Mounting takes the root of a user namespace; but Nix as root drops groups,
    # which that root may not, so CMD is run as the user again.
    _map='' _back=''
    if [ "$(id -u)" != 0 ]; then
        _map=--map-root-user
        _back="unshare --user --map-user=$(id -u) --map-group=$(id -g)"
    fi
    _status=0
    # shellcheck disable=SC2086 # words or none
    unshare --mount $_map sh -euc '
        nix=$1 root=$2 cwd=$3 back=$4
        shift 4
        if [ ! -d /nix ]; then
            mount -t tmpfs -o mode=755 none "$root"
            for entry in /* /.[!.]*; do
                if [ -L "$entry" ]; then
                    cp -P "$entry" "$root$entry"
                elif [ -d "$entry" ]; then
                    mkdir "$root$entry"
                    mount --rbind "$entry" "$root$entry"
                elif [ -e "$entry" ]; then
                    : > "$root$entry"
                    mount --bind "$entry" "$root$entry"
                fi
            done
            mkdir "$root/nix" "$root/.old"
            cd "$root"
            pivot_root . .old
            umount -l /.old
            rmdir /.old
        fi
        mount --bind "$nix" /nix
        cd "$cwd"
        exec $back "$@"
    ' sh "$_nix" "$_root" "$PWD" "$_back" "$@" || _status=$?
    rmdir "$_root"
    return "$_status"
}
