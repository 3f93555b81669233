# What must fail through a remote builder, too.
{ busybox }:
{
  inherit (import ../differential { inherit busybox; })
    fails
    no-output
    fixed-wrong-sha256
    dependency-fails
    group-writable-output
    ;
}
