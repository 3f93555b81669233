#!/bin/sh
# get-nix.sh SUITE PREFIX
#
# Unpacks the nix-bin of another Debian suite below PREFIX, with the shared
# libraries it needs (libc too), so that PREFIX/usr/bin/nix runs on this
# machine beside whatever Nix it has: interpreter and library search path are
# set to PREFIX. Nothing outside PREFIX (and PREFIX.tmp, meanwhile) is touched.
# Does nothing if PREFIX has it already. Prints nix's version.
#
# Packages come from the mirror of the machine's own apt sources, checked by
# apt against Debian's archive key. Needs patchelf; no root rights.
#
# A program in a chroot may make no user namespace, so its sandbox would not
# work: therefore no chroot but patched files.
set -eu

suite=${1:?usage: get-nix.sh SUITE PREFIX}
prefix=$(realpath -m "${2:?usage: get-nix.sh SUITE PREFIX}")

# It does not run if it was moved.
if [ -e "$prefix/complete" ] && "$prefix/usr/bin/nix" --version; then
    exit 0
fi
for tool in apt-get dpkg-deb patchelf; do
    command -v "$tool" > /dev/null || {
        echo "get-nix.sh: $tool is not installed (apt-get install $tool)" >&2
        exit 1
    }
done

# The first mirror of a Debian archive in the machine's sources, whichever of
# apt's two formats they have.
mirror=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list /etc/apt/sources.list 2> /dev/null |
    awk '/^URIs:/ { print $2; exit }
         /^deb / { for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) { print $i; exit } }')
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
if [ -z "$mirror" ] || [ ! -e "$keyring" ]; then
    echo "get-nix.sh: no mirror in /etc/apt, or no $keyring (apt-get install debian-archive-keyring)" >&2
    exit 1
fi

work=$prefix.tmp
rm -rf "$work" "$prefix"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/tree"
printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite" > "$work/sources.list"

# What nix-bin depends on and `nix` does not load: as good as installed.
arch=$(dpkg --print-architecture)
for name in adduser bzip2 curl debconf init-system-helpers krb5-locales libdbd-sqlite3-perl \
    libwww-curl-perl login passwd perl readline-common xz-utils; do
    printf 'Package: %s\nStatus: install ok installed\nArchitecture: %s\n' "$name" "$arch"
    printf 'Multi-Arch: foreign\nMaintainer: none\nVersion: 999:1\nDescription: none\n\n'
done > "$work/status"

apt() {
    apt-get -qq -o Dir::State="$work" -o Dir::State::status="$work/status" \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work" \
        -o Dir::Cache::archives="$work/archives" -o Dir::Etc::sourcelist="$work/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o APT::Sandbox::User=root -o APT::Install-Recommends=0 -o Debug::NoLocking=1 \
        -o Acquire::Languages=none -o Acquire::Retries=3 -o Binary::apt::APT::Keep-Downloaded-Packages=1 \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o Acquire::IndexTargets::deb::CNF::DefaultEnabled=false "$@"
}
apt update
apt install -y --download-only nix-bin > /dev/null

# One directory for /lib and /usr/lib, and for /bin and /usr/bin.
mkdir -p "$work/tree/usr/bin" "$work/tree/usr/lib" "$work/tree/usr/lib64"
for dir in bin lib lib64; do ln -s "usr/$dir" "$work/tree/$dir"; done
for deb in "$work"/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" |
        tar -x -C "$work/tree" --no-same-owner --keep-directory-symlink \
            --exclude='./etc' --exclude='./var' --exclude='./usr/share/doc' \
            --exclude='./usr/share/man' --exclude='./usr/share/locale' --exclude='./usr/share/i18n' \
            --exclude='*/gconv' --exclude='./usr/sbin' --exclude='./sbin'
done
# Of other packages' programs none is wanted, least of all the setuid ones.
find "$work/tree/usr/bin" -mindepth 1 ! -name 'nix*' -delete

libc=$(find "$work/tree/usr/lib" -name libc.so.6)
libraries=$prefix/usr/lib/$(basename "$(dirname "$libc")")
search=$prefix/usr/lib/nix:$libraries
loader=$libraries/$(basename "$(patchelf --print-interpreter "$work/tree/usr/bin/nix")")
# RPATH, not RUNPATH: it holds for the libraries' own dependencies too, but
# for those of a library that has a RUNPATH.
patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$search" "$work/tree/usr/bin/nix"
find "$work/tree/usr/lib" -type f -name '*.so*' | while read -r file; do
    case $(patchelf --print-rpath "$file" 2> /dev/null) in
    '') ;;
    *) patchelf --force-rpath --set-rpath "$search" "$file" ;;
    esac
done

mv "$work/tree" "$prefix"
"$prefix/usr/bin/nix" --version
: > "$prefix/complete"
