# What is built through a remote builder: some of the differential case's derivations, and what
# is particular to it.
{ busybox }:
let
  all = import ../differential { inherit busybox; };
  drv = import ../../helpers/shell.nix { inherit busybox; };
in
{
  inherit (all)
    simple
    directory
    symlink-output
    executable-output
    self-reference
    multiple-outputs
    multiple-output-user
    only-one-output-used
    chain
    outputs-refer-to-each-other
    no-out-output
    modes
    strange-names
    hard-links
    environment
    pass-as-file
    references-graph
    probe-identity
    probe-etc
    probe-network
    floating-simple
    floating-reference
    floating-on-floating
    floating-flat
    floating-sha512
    floating-outputs-refer
    input-addressed-on-floating
    input-addressed-on-that
    fixed-flat-sha256
    fixed-recursive-sha1
    fixed-on-floating
    prints-much
    ;
  # Each of them on a derivation of its own, built at once.
  many = drv "many" "cat $parts > $out" {
    parts = builtins.genList (n: drv "part-${toString n}" "echo ${toString n} > $out" { }) 20;
  };
}
