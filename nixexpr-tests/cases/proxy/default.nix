# Builds whose results are others each time, and one that says something.
{ busybox, salt }:
let
  run = import ../../helpers/shell.nix { inherit busybox; };
  random = "head -c 16 /dev/urandom | od > $out; echo ${salt} >> $out";
  floating = {
    __contentAddressed = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  };
in
rec {
  impure = run "impure" random { __impure = true; };
  random-floating = run "random-floating" random floating;
  on-random = run "on-random" "cp ${random-floating} $out" { };
  self = run "self-${salt}" "echo $out > $out" floating;
  says = run "says" "echo said by ${salt}; echo > $out" { };
}
