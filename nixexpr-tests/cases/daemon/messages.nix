# What builds say to clients of a daemon.
{ busybox }:
let
  run = name: script: extra: derivation ({
    inherit name;
    system = "x86_64-linux";
    builder = "${builtins.storePath busybox}/bin/sh";
    args = [ "-c" script ];
  } // extra);
  floating = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
in
rec {
  # Nothing of this fails but what it needs.
  chain = run "chain" "cat ${needs} > $out" { };
  needs = run "needs" "cat ${fails} > $out" { };
  fails = run "fails" "echo the cause; exit 7" { };
  both = run "both" "cat ${fails} ${fails-too} > $out" { };
  fails-too = run "fails-too" "echo another cause; exit 8" { };
  mismatch = run "mismatch" "echo x > $out" {
    outputHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    outputHashMode = "recursive";
  };
  wrong-system = run "wrong-system" "echo x > $out" { system = "none"; };
  # Resolved: built under another name.
  resolved = run "resolved" "cat ${first} > $out" floating;
  first = run "first" "echo first > $out" floating;
  says = run "says" ''
    echo '@nix {"action":"setPhase","phase":"unpackPhase"}' >&2
    echo a line
    echo '@nix {"action":"msg","level":3,"msg":"said by the builder"}'
    echo '@nix {"action":"start","id":5,"level":3,"type":101,"text":"a download","fields":["somewhere"]}'
    echo '@nix {"action":"result","id":5,"type":105,"fields":[1,2,0,0]}'
    echo '@nix {"action":"stop","id":5}'
    echo '@nix {"action":"start","id":6,"level":0,"type":105,"text":"not its business","fields":[]}'
    echo '@nix {"action":"result","id":6,"type":105,"fields":[1,2,0,0]}'
    echo '@nix {"action":"setPhase","phase":"buildPhase"}'
    echo '@nix {broken'
    printf 'ab\rc\n100%%\r50%%\rno end of line'
    echo > $out
  '' { };
  raw = run "raw" ''
    printf 'ab\rc\r\n\0100%%\r50%%\n%65600s\nno end of line' x
    echo > $out
  '' { };
}
