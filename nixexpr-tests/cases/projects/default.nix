# Real C projects by their recipes in src/toolchain.
#
# sources: directories of sources by project. path: what comes before the
# toolchain in PATH. cflags: instead of the recipe's, to be faster. More attributes of the
# derivations in `more`.
{
  toolchain,
  sources,
  path ? "",
  cflags ? null,
  more ? { },
}:
let
  tools = builtins.storePath toolchain;
  recipes = ../../../src/toolchain/recipes;
  project =
    name:
    derivation (
      {
        inherit name;
        system = "x86_64-linux";
        builder = "${tools}/bin/bash";
        args = [ (builtins.path { path = recipes + "/${name}.sh"; }) ];
        src = builtins.path {
          path = sources.${name};
          name = "${name}-source";
        };
        makefile = builtins.path { path = recipes + "/${name}.mk"; };
        PATH = path + "${tools}/bin";
      }
      // (if cflags == null then { } else { MAKEFLAGS = "CFLAGS=${cflags}"; })
      // more
    );
in
builtins.mapAttrs (name: _: project name) sources
