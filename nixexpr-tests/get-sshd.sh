#!/bin/sh
# get-sshd.sh PREFIX
#
# Prints a command that is OpenSSH's server: the machine's own, or else Debian's, unpacked below
# PREFIX and not installed, which would start it.
set -eu
prefix=${1:?usage: get-sshd.sh PREFIX}
for sshd in /usr/sbin/sshd "$prefix/sshd"; do
    [ ! -x "$sshd" ] || {
        echo "$sshd"
        exit 0
    }
done
rm -rf "$prefix" "$prefix.new"
mkdir -p "$prefix.new"
cd "$prefix.new"
apt-get -qq download openssh-server libwrap0 > /dev/null 2>&1 || {
    apt-get -qq update
    apt-get -qq download openssh-server libwrap0 > /dev/null
}
for package in *.deb; do dpkg-deb -x "$package" .; done
rm ./*.deb
mv usr/sbin/sshd usr/sbin/sshd.real
lib=$prefix/$(find usr/lib -name 'libwrap.so.0' -printf '%h' -quit)
# It executes itself by its own path.
printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$lib" "$prefix/usr/sbin/sshd.real" > sshd
chmod 755 sshd
mv "$prefix.new" "$prefix"
echo "$prefix/sshd"
