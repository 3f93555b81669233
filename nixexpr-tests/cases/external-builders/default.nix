# What is built by an external builder: what is built through a remote builder, and what only
# files in the build directory carry.
{ busybox }:
let
  all = import ../differential { inherit busybox; };
in
import ../remote-builder { inherit busybox; }
// {
  inherit (all)
    structured-nasty
    structured-graph
    structured-fixed
    structured-floating
    structured-attributes
    structured-allowed-references
    ;
}
