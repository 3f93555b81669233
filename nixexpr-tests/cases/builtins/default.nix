# Derivations of builtin builders that real Nix and Droste must treat alike.
# made: a directory of archives and packages that test.sh made, in the store; busybox: likewise,
# static programs.
{ made, busybox }:
let
  bb = builtins.storePath busybox;
  package =
    name: propagated:
    derivation {
      inherit name propagated;
      system = "x86_64-linux";
      builder = "${bb}/bin/sh";
      args = [
        "-euc"
        "mkdir -p $out/bin $out/nix-support; echo $name > $out/bin/$name; echo $name > $out/bin/all; echo $propagated > $out/nix-support/propagated-user-env-packages"
      ];
      PATH = "${bb}/bin";
    };
  lowest = package "lowest" [ ];
  lower = package "lower" [ lowest ];
  beside = package "beside" [ lowest "${src}/packages/a" ];
  src = builtins.storePath made;
  builtin =
    builder: attrs:
    derivation (
      {
        name = builder;
        system = "builtin";
        builder = "builtin:${builder}";
      }
      // attrs
    );
  env =
    packages:
    builtin "buildenv" {
      derivations = builtins.concatMap (
        p:
        [
          (p.active or "true")
          (p.priority or 5)
          (builtins.length p.paths)
        ]
        ++ p.paths
      ) packages;
      manifest = "${src}/packages/a/manifest";
    };
  in-made = name: "${src}/packages/${name}";
  pkg = name: { paths = [ (in-made name) ]; };
  at = priority: name: {
    inherit priority;
    paths = [ (in-made name) ];
  };
  channel =
    file: attrs:
    builtin "unpack-channel" (
      {
        src = "${src}/archives/${file}";
        channelName = "nixos";
      }
      // attrs
    );
  floating = {
    __contentAddressed = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  };
in
{
  inherit lower lowest;
  env-none = env [ ];
  env-one = env [ (pkg "a") ];
  env-two = env [ (pkg "a") (pkg "b") ];
  env-outputs = env [ { paths = map in-made [ "a" "b" "c" ]; } ];
  env-three-deep = env [ (pkg "a") (at 6 "b") (at 4 "deep") ];
  env-priorities = env [ (at 7 "b") (at 5 "same-as-b") ];
  env-priorities-other-way = env [ (at 5 "b") (at 7 "same-as-b") ];
  env-conflict = env [ (pkg "b") (pkg "same-as-b") ];
  env-inactive = env [ (pkg "b") { active = "false"; paths = [ (in-made "same-as-b") ]; } ];
  env-propagated = env [ { paths = [ (package "top" [ lower beside ]) ]; } ];
  env-propagated-and-installed = env [ { paths = [ (package "top" [ lower beside ]) ]; } { priority = 1; paths = [ lowest ]; } ];
  env-links = env [ (pkg "links") (at 6 "b") ];
  env-file-or-directory = env [ (at 1 "b") (at 2 "bin-is-a-file") ];
  env-file-or-merged = env [ (at 1 "a") (at 1 "b") (at 2 "bin-is-a-file") ];
  env-directory-or-file = env [ (at 1 "bin-is-a-file") (at 2 "b") ];
  env-package-is-a-file = env [ (pkg "a") (pkg "file") ];
  env-twice = env [ (pkg "a") (at 9 "a") ];
  env-missing-package = env [ (pkg "not-there") ];
  env-no-derivations = builtin "buildenv" { manifest = "x"; };
  env-no-manifest = builtin "buildenv" { derivations = [ ]; };
  env-system = derivation {
    name = "env";
    system = "x86_64-windows";
    builder = "builtin:buildenv";
    derivations = [ ];
    manifest = "x";
  };
  env-feature = builtin "buildenv" {
    derivations = [ ];
    manifest = "x";
    requiredSystemFeatures = [ "no-such-feature" ];
  };
  unknown = builtin "no-such-builder" { };
  system-without-builtin = derivation {
    name = "x";
    system = "builtin";
    builder = "/bin/sh";
  };

  channel-tar = channel "plain.tar" { };
  channel-gz = channel "plain.tar.gz" { };
  channel-bz2 = channel "plain.tar.bz2" { };
  channel-xz = channel "plain.tar.xz" { };
  channel-xz-many = channel "plain.tar.xz2" { };
  channel-zst = channel "plain.tar.zst" { };
  channel-pax = channel "pax.tar" { };
  channel-ustar = channel "ustar.tar" { };
  channel-v7 = channel "v7.tar" { };
  channel-git = channel "git.tar" { };
  channel-same-name = channel "plain.tar" { channelName = "top"; };
  channel-dots = channel "plain.tar" { channelName = "..."; };
  channel-one-file = channel "one-file.tar" { };
  channel-floating = channel "plain.tar" floating;
  channel-two = channel "two.tar" { };
  channel-empty = channel "empty.tar" { };
  channel-nothing = channel "nothing.tar" { };
  channel-junk = channel "junk" { };
  channel-truncated = channel "truncated.tar" { };
  channel-truncated-xz = channel "truncated.tar.xz" { };
  channel-directory = channel "." { };
  channel-missing = channel "not-there" { };
  channel-separator = channel "plain.tar" { channelName = "a/b"; };
  channel-no-name = builtin "unpack-channel" { src = "${src}/archives/plain.tar"; };

  # Archives that would write elsewhere.
  hostile-parent = channel "hostile/parent.tar" { };
  hostile-parent-inside = channel "hostile/parent-inside.tar" { };
  hostile-through-link = channel "hostile/through-link.tar" { };
  hostile-through-absolute-link = channel "hostile/through-absolute-link.tar" { };
  hostile-hard-link-out = channel "hostile/hard-link-out.tar" { };
  hostile-hard-link-through-link = channel "hostile/hard-link-through-link.tar" { };
  hostile-device = channel "hostile/device.tar" { };
  hostile-pipe = channel "hostile/pipe.tar" { };
  hostile-absolute = channel "hostile/absolute.tar" { };
  hostile-replaced-link = channel "hostile/replaced-link.tar" { };
}
