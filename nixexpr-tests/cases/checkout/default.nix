# Sources that are compiled one by one, as in a checkout. Every object is in the output.
{
  toolchain,
  # A directory of the store.
  sources,
  # The directory that they are compiled in.
  directory ? "source",
  flags ? "-O1",
}:
let
  tools = builtins.storePath toolchain;
in
derivation {
  name = "objects";
  system = "x86_64-linux";
  builder = "${tools}/bin/bash";
  PATH = "${tools}/bin";
  sources = builtins.storePath sources;
  inherit directory flags;
  args = [
    "-c"
    ''
      set -eu
      mkdir $out $directory
      cp $sources/* $directory
      cd $directory
      bash compile.sh
      cp *.o *.d *.txt $out
    ''
  ];
}
