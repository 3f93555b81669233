# What the builds of default.nix instantiate inside the sandbox.
{
  bb,
  nix ? "",
  number ? "0",
}:
let
  tools = builtins.storePath bb;
  drv =
    name: script: attrs:
    derivation (
      {
        inherit name;
        system = "x86_64-linux";
        builder = "${tools}/bin/sh";
        args = [
          "-euc"
          script
        ];
        PATH = "${tools}/bin";
      }
      // attrs
    );
in
rec {
  simple = drv "inner-simple" "mkdir $out; echo built inside > $out/message" { };
  chain = drv "inner-chain" "cat ${simple}/message > $out; echo ${simple} >> $out" { };
  floating = drv "inner-floating" "mkdir $out; echo content > $out/message" {
    __contentAddressed = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  };
  numbered = drv "inner-${number}" "echo ${number} > $out" { };
  made = drv "inner-made" "echo made > $out" { };
  # Its output is that derivation.
  maker = drv "inner-made.drv" "cat $drv > $out" {
    drv = builtins.unsafeDiscardOutputDependency made.drvPath;
    __contentAddressed = true;
    outputHashMode = "text";
    outputHashAlgo = "sha256";
  };
  failing = drv "inner-failing" "echo I fail; exit 2" { };
  nested = drv "inner-nested" "nix-store --add $thing > $out; cat $(cat $out)" {
    requiredSystemFeatures = [ "recursive-nix" ];
    PATH = "${tools}/bin:${nix}";
    thing = builtins.toFile "thing" "thing\n";
  };
}
