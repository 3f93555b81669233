# A small chain of derivations to break, and builders that go wrong.
{ busybox }:
let
  drv = import ../../helpers/shell.nix { inherit busybox; };
in
rec {
  good = drv "good" "echo good > $out" { };
  bottom = drv "bottom" "echo bottom > $out" { };
  top = drv "top" "cat ${bottom} > $out" { };
  large = drv "large" "mkdir $out; i=0; while [ $i -lt 8 ]; do head -c 1000000 /dev/urandom > $out/$i; i=$((i+1)); done" { };
  fails = drv "fails" "i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); done; echo last words >&2; mkdir $out; exit 3" { };
  crashes = drv "crashes" "echo before the crash; exec probe crash" { };
  silent = drv "silent" "exit 9" { };
  no-output = drv "no-output" "echo I made nothing" { };
  device = drv "device" "echo making a device; mkdir $out; mknod $out/the-device c 0 0" { };
  socket = drv "socket" "mkdir -p $out/sub; probe socket $out/sub/the-socket" { };
  writable = drv "writable" "echo x > $out; chmod 666 $out" { };
  other-system = drv "other-system" "echo > $out" { system = "riscv64-linux"; };
  missing-feature = drv "missing-feature" "echo > $out" { requiredSystemFeatures = [ "quantum" ]; };
  wrong-hash = drv "wrong-hash" "echo content > $out" {
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" "other";
  };
  not-deterministic = drv "not-deterministic" "head -c 30 /dev/urandom > $out" { };
  needs-failing = drv "needs-failing" "cat ${fails} > $out" { };
  needs-failing-and-good = drv "needs-failing-and-good" "cat ${fails} ${good} > $out" { };
}
