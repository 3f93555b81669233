# Derivations whose fate depends on settings: what real Nix and Droste must treat alike, given
# the same ones. What runs is a static busybox alone.
# busybox: store path with bin/busybox and links to it; work: directory of the machine with host/.
{ busybox, work }:
let
  drv = import ../../helpers/shell.nix { inherit busybox; };
  floating = {
    __contentAddressed = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  };
  impure = {
    __impure = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  };
  fixed = {
    outputHashAlgo = "sha256";
    outputHashMode = "flat";
    outputHash = builtins.hashString "sha256" "content\n";
  };
  dep = drv "dep" "mkdir $out; echo data > $out/file" { };
  changing = "cat /proc/sys/kernel/random/uuid > $out";
  constant = drv "impure-constant" "mkdir $out; echo constant > $out/file; echo $out > $out/self" impure;
in
{
  # Impure ones.
  impure-constant = constant;
  impure-changing = drv "impure-changing" changing impure;
  impure-two-outputs = drv "impure-two-outputs" "echo $dev > $out; echo dev > $dev" (
    impure // { outputs = [ "out" "dev" ]; }
  );
  impure-with-input = drv "impure-with-input" "cat ${dep}/file > $out; echo ${dep} >> $out" impure;
  impure-on-impure = drv "impure-on-impure" "cat ${constant}/file > $out; echo ${constant} >> $out" impure;
  impure-on-changing =
    let
      once = drv "impure-once" changing impure;
      left = drv "impure-left" "cp ${once} $out" impure;
      right = drv "impure-right" "cp ${once} $out" impure;
    in
    drv "impure-on-changing" "cmp ${left} ${right}; echo the same > $out" impure;
  fixed-on-impure = drv "fixed-on-impure" "[ -e ${constant}/file ]; echo content > $out" fixed;
  pure-on-impure = drv "pure-on-impure" "echo ${constant} > $out" { };
  floating-on-impure = drv "floating-on-impure" "echo ${constant} > $out" floating;
  pure-on-fixed-on-impure =
    drv "pure-on-fixed-on-impure" "cat ${drv "fixed-on-impure" "[ -e ${constant}/file ]; echo content > $out" fixed} > $out"
      { };
  impure-environment =
    drv "impure-environment" "env | grep -e ^SET_ -e ^NIX_OUTPUT -e ^UNSET_ | sort > $out; ls /etc/nsswitch.conf >> $out"
      (impure // { impureEnvVars = [ "SET_OUTSIDE" "SET_BY_SETTING" "UNSET_EVERYWHERE" ]; });
  impure-certificates = drv "impure-certificates" "cat /etc/ssl/certs/ca-certificates.crt > $out || echo none > $out" impure;
  impure-fails = drv "impure-fails" "echo last words; exit 4" impure;

  fixed-fails = drv "fixed-fails" "exit 6" fixed;

  # What of the machine is seen.
  no-chroot = drv "no-chroot" "echo ok > $out" { __noChroot = true; };
  sees-machine = drv "sees-machine" ''
    { for path in /usr/bin /etc/os-release /sys /dev/null ${work}/host/file; do [ -e $path ] && echo $path; done
      cat ${work}/host/file ${dep}/file; } > $out
    echo temporary > $TMPDIR/file'' { __noChroot = true; };
  sees-nothing = drv "sees-nothing" "[ -e ${work}/host/file ] && exit 1; echo ok > $out" { };
  fixed-sees-machine = drv "fixed-sees-machine" "[ -e ${work}/host/file ]; echo content > $out" fixed;
  host-paths = drv "host-paths" ''
    for path in /shown/file /shown/directory/file /shown/link /absent /shown/closure/dep; do
      [ -e $path ] && { echo "$path:"; cat $path; } || echo "no $path"
    done > $out
    readlink /shown/link >> $out || true'' { };
  wants-host-path = drv "wants-host-path" "cat $wanted/file > $out" {
    wanted = "${work}/host/directory";
    __impureHostDeps = [ "${work}/host/directory" ];
  };
  wants-missing-host-path = drv "wants-missing-host-path" "[ -e ${work}/host/missing ] && exit 1; echo ok > $out" {
    __impureHostDeps = [ "${work}/host/missing" ];
  };
  whole-dev = drv "whole-dev" "[ -e /dev/urandom ] && ls /dev | wc -l | sed 's/^..*$/many/' > $out; head -c 1 /dev/zero | wc -c >> $out" { };
  shows-closure = dep;
  refers-to-dep = drv "refers-to-dep" "mkdir $out; ln -s ${dep}/file $out/dep" { };

  # Limits.
  talks-much = drv "talks-much" "yes 'a line of log' | head -n 20000; echo ok > $out" { };
  talks-for-ever = drv "talks-for-ever" "yes 'a line of log'" { };
  sleeps = drv "sleeps" "echo before; sleep 60; echo ok > $out" { };
  is-silent = drv "is-silent" "sleep 60; echo ok > $out" { };
  fails-late = drv "fails-late" "echo made > file; mkdir directory; echo last words; exit 7" { };

  # Rebuilt.
  same-again = drv "same-again" "mkdir $out; echo same > $out/file" { };
  differs-again = drv "differs-again" "echo seen > seen; ${changing}" { };
  one-differs = drv "one-differs" "echo same > $dev; ${changing}" {
    outputs = [ "dev" "out" ];
  };
  fixed-again = drv "fixed-again" "echo content > $out" fixed;
  floating-again = drv "floating-again" "echo same > $out" floating;

  # For hooks.
  plain = drv "plain" "echo plain > $out; echo dev > $dev" {
    outputs = [ "out" "dev" ];
  };
  plain2 = drv "plain2" "echo plain > $out" { };
  plain3 = drv "plain3" "echo plain > $out" { };
  floating-hooked = drv "floating-hooked" "echo floating ${dep} > $out" floating;

  # Systems.
  as-extra-platform = drv "as-extra-platform" "uname -m > $out" { system = "riscv64-linux"; };
  as-i686 = drv "as-i686" "uname -m > $out; cat /proc/self/personality >> $out" { system = "i686-linux"; };
  of-32-bits = drv "of-32-bits" "echo x > /build/f; probe32 /build/f > $out" { system = "i686-linux"; };
  of-32-bits-on-64 = drv "of-32-bits-on-64" "echo x > /build/f; probe32 /build/f > $out" { };
  of-a-level = drv "of-a-level" "echo ok > $out" { system = "x86_64-v2-linux"; };
  wants-feature = drv "wants-feature" "echo ok > $out" { requiredSystemFeatures = [ "quantum" ]; };
}
