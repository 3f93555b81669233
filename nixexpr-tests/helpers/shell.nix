# name: script: attributes: a derivation that the shell of a static busybox builds.
# busybox: store path with bin/busybox and links to it.
{ busybox }:
let
  bb = builtins.storePath busybox;
in
name: script: attrs:
derivation (
  {
    inherit name;
    system = "x86_64-linux";
    builder = "${bb}/bin/sh";
    args = [
      "-euc"
      script
    ];
    PATH = "${bb}/bin";
  }
  // attrs
)
