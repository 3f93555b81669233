# Each class of classes.sh, in a derivation of its own for each round. Its output is
# what play.sh saw.
{
  toolchain,
  classes,
  rounds,
}:
let
  tools = builtins.storePath toolchain;
  play = builtins.path { path = ./play.sh; };
  table = builtins.path { path = ./classes.sh; };
  class =
    name: round:
    derivation {
      inherit name round;
      system = "x86_64-linux";
      builder = "${tools}/bin/bash";
      args = [
        "-c"
        # A child that is made in one round is for all of them.
        "unset round; mkdir ${name} && cd ${name} && exec bash ${play} ${table} ${name} $out"
      ];
      PATH = "${tools}/bin";
    };
in
builtins.concatMap (
  name:
  map (round: "${name} ${round} ${builtins.unsafeDiscardStringContext (class name round).drvPath}\n") rounds
) classes
