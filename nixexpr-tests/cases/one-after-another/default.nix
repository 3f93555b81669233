# Builds that leave all sorts of things behind, and, after each, one that tells all that it sees of
# the directories that it may have been given after it.
{ busybox }:
let
  build = import ../../helpers/shell.nix { inherit busybox; };
  look = ''
    for d in / /build /tmp /nix/store; do
      stat -c '%n %F %a %u %g %s %h' "$d"
      probe flags "$d"
    done
    for d in /build /tmp /nix/store; do
      ls -lanA "$d" | sed 's/[A-Z][a-z][a-z] *[0-9]* *[0-9:]* //'
    done
    # Of this minute, and not of the build before.
    for d in /build /tmp /nix/store; do
      test $(($(date +%s) - $(stat -c %Y "$d"))) -le 2 || echo "$d is old"
    done
    # And one can do with them what one could.
    touch /build/a /tmp/a /nix/store/a
    stat -c '%n %a' /build/a /tmp/a /nix/store/a
    mkdir /build/b /tmp/b /nix/store/b
    rm -r /build/[ab] /tmp/[ab] /nix/store/[ab]
  '';
  messes = {
    files = ''
      touch /tmp/file /build/file "/nix/store/file"
      mkdir -p /tmp/a/b/c /build/a/b/c /nix/store/a/b/c
      ln -s /nix/store /tmp/link; ln -s /tmp /build/link; ln -s /build /nix/store/link
      mkfifo /tmp/fifo /build/fifo
    '';
    modes = ''
      mkdir -p /tmp/a/b /build/a/b /nix/store/a/b
      chmod 0 /tmp/a/b /build/a/b /tmp/a /build/a /nix/store/a/b /nix/store/a
      chmod 0 /build
      ! chmod 700 /tmp
      ! chmod 700 /nix/store
    '';
    attributes = ''
      probe mark /build
      for d in /tmp /nix/store; do
        test "$(probe mark "$d" | grep -c EPERM)" = 2
      done
    '';
    # What is made there from then on belongs to everybody.
    ring = ''
      probe ring /build
      for d in /tmp /nix/store; do
        test "$(probe ring "$d")" != done
      done
    '';
    # A directory that was large stays so, where the file system is like that.
    large = ''
      for d in /build /tmp /nix/store; do
        cd "$d"
        i=0
        while [ $i -lt 2000 ]; do
          : > a-long-name-for-a-file-that-makes-a-directory-grow-$i
          i=$((i + 1))
        done
        test "$(stat -c %s .)" -gt 4096 || echo "$d does not grow here"
      done
      rm /build/a-* /nix/store/a-*
    '';
    deep = ''
      cd /tmp
      i=0
      while [ $i -lt 300 ]; do mkdir d; cd d; i=$((i + 1)); done
    '';
    slow = "sleep 1";
  };
  # An input more than the others: what is mounted for one is not there for the next.
  other = builtins.toFile "other" "other";
  mess =
    name: script:
    build "mess-${name}" ''
      test -e ${other}
      ${script}
      echo ${name} > $out
    '' { };
  each =
    kind: script:
    builtins.listToAttrs (
      map (name: {
        name = "${kind}-${name}";
        value = build "${kind}-${name}" script { after = mess name messes.${name}; };
      }) (builtins.attrNames messes)
    );
in
each "look" "{ ${look} } > $out"
# The same inodes tell that the test tests something.
// each "inode" "stat -c '%n %i' /tmp /nix/store > $out"
// {
  fails = build "fails" ''
    ${messes.files}
    exit 1
  '' { };
}
