# Builds that use the store while they run, with the Nix that the sandbox shows
# at `nix` (a directory of programs).
{ busybox, nix }:
let
  bb = builtins.storePath busybox;
  shell = import ../../helpers/shell.nix { inherit busybox; };
  recursive =
    name: script: attrs:
    shell name script (
      {
        PATH = "${bb}/bin:${nix}";
        requiredSystemFeatures = [ "recursive-nix" ];
        NIX_CONFIG = "experimental-features = nix-command ca-derivations recursive-nix";
        inner = ./inner.nix;
        inherit bb;
      }
      // attrs
    );
  floating = {
    __contentAddressed = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  };
in
{
  socket = recursive "socket" ''[ "$NIX_REMOTE" = unix:///build/.nix-socket ]; [ -S /build/.nix-socket ]; echo $NIX_REMOTE > $out'' { };
  add-a-file = recursive "add-a-file" ''
    echo added > /build/thing
    path=$(nix-store --add /build/thing)
    cat $path
    echo $path > $out
  '' { };
  add-a-tree = recursive "add-a-tree" ''
    mkdir -p /build/tree/bin; echo x > /build/tree/bin/x; chmod +x /build/tree/bin/x; ln -s bin/x /build/tree/y
    path=$(nix-store --add /build/tree)
    mkdir $out; ln -s $path/bin $out/bin
    nix-store -q --hash $path > $out/hash
  '' { };
  build = recursive "build" ''
    path=$(nix-build $inner -A simple --arg bb $bb --no-out-link)
    cat $path/message
    mkdir $out; ln -s $path $out/inner
  '' { };
  instantiate-then-realise = recursive "instantiate-then-realise" ''
    drv=$(nix-instantiate $inner -A chain --arg bb $bb)
    path=$(nix-store -r $drv)
    cp $path $out; chmod u+w $out; echo $drv >> $out
  '' { };
  floating-inside = recursive "floating-inside" ''
    path=$(nix-build $inner -A floating --arg bb $bb --no-out-link)
    cp $path/message $out; chmod u+w $out; echo $path >> $out
  '' { };
  floating-outside = recursive "floating-outside" ''
    path=$(nix-build $inner -A floating --arg bb $bb --no-out-link)
    mkdir $out; ln -s $path $out/inner; echo $out > $out/self-less-$(basename $path)
    rm $out/self-less-*
  '' floating;
  # A derivation that is made inside, and what it makes: both appear, and may be referred to.
  dynamic = recursive "dynamic" ''
    drv=$(nix-instantiate $inner -A maker --arg bb $bb)
    path=$(nix build "$drv^out^out" --no-link --print-out-paths)
    grep made $path
    mkdir $out; ln -s $path $out/made; ln -s $drv $out/maker
  '' { NIX_CONFIG = "experimental-features = nix-command ca-derivations recursive-nix dynamic-derivations"; };
  many-children = recursive "many-children" ''
    for i in 1 2 3 4 5 6 7 8 9 10; do
      echo $i > /build/n
      nix-build $inner -A numbered --arg bb $bb --argstr number $i --no-out-link
    done > /build/paths
    sort /build/paths > $out
  '' { };
  two-at-once = recursive "two-at-once" ''
    nix-build $inner -A simple --arg bb $bb --no-out-link > /build/a &
    nix-build $inner -A chain --arg bb $bb --no-out-link > /build/b
    wait
    cat /build/a /build/b > $out
  '' { };
  nested = recursive "nested" ''
    nix-build $inner -A nested --arg bb $bb --argstr nix ${nix} --no-out-link > $out
  '' { };
  info = recursive "info" ''
    nix path-info --json --json-format 1 -r $bb | sed 's/"registrationTime":[0-9]*//' > $out
    nix-store -q --references $bb | wc -l >> $out
    nix-store --check-validity $bb && echo valid >> $out
  '' { };
  failure-inside = recursive "failure-inside" ''
    if nix-build $inner -A failing --arg bb $bb --no-out-link; then exit 5; else echo $? > $out; fi
  '' { };
  unknown-path = recursive "unknown-path" ''
    if nix-store -r /nix/store/00000000000000000000000000000000-nothing 2> /dev/null; then exit 5; fi
    if nix-store -r /nix/store/00000000000000000000000000000000-nothing.drv 2> /dev/null; then exit 5; fi
    echo refused > $out
  '' { };
  fails = recursive "fails" ''
    nix-build $inner -A simple --arg bb $bb --no-out-link
    echo last words; exit 3
  '' { };
  not-asked-for = recursive "not-asked-for" ''[ -z "''${NIX_REMOTE-}" ]; [ ! -e /build/.nix-socket ] || exit 4; echo none > $out'' {
    requiredSystemFeatures = [ ];
  };
}
