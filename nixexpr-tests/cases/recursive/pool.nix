# Builds inside builds that count themselves: while one works, it has a file in /pool/at, which the
# test shows to all of them. What they ask for are derivations that they have as inputs.
{ busybox, nix }:
let
  bb = builtins.storePath busybox;
  build =
    name: script: attrs:
    derivation (
      {
        inherit name;
        system = "x86_64-linux";
        builder = "${bb}/bin/sh";
        args = [
          "-euc"
          ''
            works() {
              : > /pool/at/$name
              set -- /pool/at/*
              [ $# -le $(cat /pool/limit) ] || echo "$*" >> /pool/exceeded
              sleep 0.05
            }
            waits() { rm /pool/at/$name; }
            asks() {
              local status=0
              waits
              nix-store -r "$@" > /build/answer || status=$?
              works
              return $status
            }
            works
            ${script}
            waits
          ''
        ];
        PATH = "${bb}/bin:${nix}";
        requiredSystemFeatures = [ "recursive-nix" ];
        NIX_CONFIG = "experimental-features = nix-command ca-derivations recursive-nix";
      }
      // attrs
    );
  range = from: count: builtins.genList (n: toString (from + n)) count;
  file = drv: builtins.unsafeDiscardOutputDependency drv.drvPath;
  inner = name: build "inner-${name}" "echo $name > $out" { };
  shared = inner "shared";
  slow = build "slow" "sleep 100" { };
  failing = build "failing" "waits; exit 3" { };
  chain =
    depth:
    if depth == 0 then
      inner "chain"
    else
      build "chain-${toString depth}" "asks $inner; cp $(cat /build/answer) $out; chmod u+w $out; echo $name >> $out" {
        inner = file (chain (depth - 1));
      };
  # Each asks for one of its own, and all ask for the same.
  outer =
    n:
    build "outer-${n}" "asks $inner $shared; cat $(cat /build/answer) > $out" {
      inner = file (inner n);
      shared = file shared;
    };
in
{
  chain = chain 6;
  stuck = build "stuck" "asks $inner" { inner = file (inner "stuck"); };
  many = map outer (range 0 10);
  odd = map outer (range 20 4);
  even = map outer (range 30 4);
  # What it asks for is given up, and then it asks for something else.
  gives-up =
    build "gives-up"
      ''
        waits
        nix-store -r $slow > /dev/null 2>&1 &
        until [ -e /pool/at/slow ]; do sleep 0.05; done
        kill $!
        rm /pool/at/slow
        works
        asks $inner
        cp $(cat /build/answer) $out
      ''
      {
        slow = file slow;
        inner = file (inner "after");
      };
  fails =
    build "fails"
      ''
        if asks $failing 2> /dev/null; then exit 5; fi
        asks $inner
        cp $(cat /build/answer) $out
      ''
      {
        failing = file failing;
        inner = file (inner "after-failure");
      };
  # Its own derivation, which somebody has told it.
  itself =
    build "itself"
      ''
        drv=$(nix derivation add < /pool/itself.json)
        if asks $drv 2> /build/told; then exit 5; fi
        cat /build/told
        grep -q 'that build waits for this one' /build/told
        echo refused > $out
      ''
      { };
}
