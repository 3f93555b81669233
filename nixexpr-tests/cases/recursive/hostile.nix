# Builds that ask through the socket for what they must not get: `secret` is a path
# that is valid in the store, and no input of theirs.
{
  busybox,
  nix,
  secret,
}:
let
  bb = builtins.storePath busybox;
  # In two parts, for it is the inner derivation's, not to be replaced in the outer one.
  placeholder =
    let
      whole = builtins.placeholder "out";
    in
    builtins.substring 0 10 whole + "\${empty-}" + builtins.substring 10 60 whole;
  hostile =
    name: script:
    derivation {
      inherit name secret bb;
      system = "x86_64-linux";
      builder = "${bb}/bin/sh";
      args = [
        "-uc"
        script
      ];
      PATH = "${bb}/bin:${nix}";
      requiredSystemFeatures = [ "recursive-nix" ];
      NIX_CONFIG = "experimental-features = nix-command ca-derivations recursive-nix";
    };
in
{
  asks-for-an-unknown-path = hostile "asks-for-an-unknown-path" ''
    nix-store -q --hash $secret && exit 5
    nix-store -r $secret && exit 5
    nix-store --check-validity $secret && exit 5
    nix path-info --all | grep -F $secret && exit 5
    [ ! -e $secret ] || exit 5
    echo refused > $out
  '';
  builds-with-an-unknown-input = hostile "builds-with-an-unknown-input" ''
    placeholder=${placeholder}
    cat > /build/drv.json <<END
    { "name": "thief", "system": "x86_64-linux", "version": 4,
      "builder": "$bb/bin/sh", "args": ["-c", "$bb/bin/cat $secret > \$out"],
      "env": { "out": "$placeholder" },
      "inputs": { "drvs": {}, "srcs": [ "''${bb##*/}", "''${secret##*/}" ] },
      "outputs": { "out": { "hashAlgo": "sha256", "method": "nar" } } }
    END
    if drv=$(nix derivation add < /build/drv.json); then
      path=$(nix-store -r $drv) && grep -q 'the secret' $path && exit 5
    fi
    echo refused > $out
  '';
  # The same without the path among the inputs is a derivation that fails.
  builds-with-an-undeclared-input = hostile "builds-with-an-undeclared-input" ''
    placeholder=${placeholder}
    cat > /build/drv.json <<END
    { "name": "thief", "system": "x86_64-linux", "version": 4,
      "builder": "$bb/bin/sh", "args": ["-c", "$bb/bin/cat $secret > \$out"],
      "env": { "out": "$placeholder" },
      "inputs": { "drvs": {}, "srcs": [ "''${bb##*/}" ] },
      "outputs": { "out": { "hashAlgo": "sha256", "method": "nar" } } }
    END
    drv=$(nix derivation add < /build/drv.json) || exit 6
    path=$(nix-store -r $drv) && grep -q 'the secret' $path && exit 5
    echo refused > $out
  '';
  # Whatever `sandbox` is set to.
  asks-for-no-sandbox = hostile "asks-for-no-sandbox" ''
    placeholder=${placeholder}
    cat > /build/drv.json <<END
    { "name": "free", "system": "x86_64-linux", "version": 4,
      "builder": "$bb/bin/sh", "args": ["-c", "echo free > \$out"],
      "env": { "out": "$placeholder", "__noChroot": "1" },
      "inputs": { "drvs": {}, "srcs": [ "''${bb##*/}" ] },
      "outputs": { "out": { "hashAlgo": "sha256", "method": "nar" } } }
    END
    drv=$(nix derivation add < /build/drv.json) || exit 6
    nix-store -r $drv 2> /build/told && exit 5
    grep -q 'more than a sandbox has' /build/told || exit 7
    echo refused > $out
  '';
  # Data could leave by the network, or come from there, by a build that may use it for one that may
  # not: one that is asked for, and one that is known only when another has made it.
  reaches-the-network = hostile "reaches-the-network" ''
    hash=$(echo fetched | sha256sum | cut -d' ' -f1)
    path=$(nix-store --print-fixed-path sha256 $hash net)
    cat > /build/drv.json <<END
    { "name": "net", "system": "x86_64-linux", "version": 4,
      "builder": "$bb/bin/sh", "args": ["-c", "echo fetched > \$out"],
      "env": { "out": "$path" },
      "inputs": { "drvs": {}, "srcs": [ "''${bb##*/}" ] },
      "outputs": { "out": { "hash": "$(nix hash convert --hash-algo sha256 --to sri $hash)", "method": "flat" } } }
    END
    drv=$(nix derivation add < /build/drv.json) || exit 6
    nix-store -r $drv 2> /build/told && exit 5
    grep -q 'access to the network' /build/told || exit 7
    placeholder=${placeholder}
    cat > /build/maker.json <<END
    { "name": "net.drv", "system": "x86_64-linux", "version": 4,
      "builder": "$bb/bin/sh", "args": ["-c", "$bb/bin/cat $drv > \$out"],
      "env": { "out": "$placeholder" },
      "inputs": { "drvs": {}, "srcs": [ "''${bb##*/}", "''${drv##*/}" ] },
      "outputs": { "out": { "hashAlgo": "sha256", "method": "text" } } }
    END
    export NIX_CONFIG="$NIX_CONFIG dynamic-derivations impure-derivations"
    maker=$(nix derivation add < /build/maker.json) || exit 8
    nix build --no-link "$maker^out^out" 2> /build/told && exit 5
    grep -q 'access to the network' /build/told || exit 9
    sed 's/"hash": "[^"]*"/"hashAlgo": "sha256", "impure": true/; s,"out": "/[^"]*","out": "'"$placeholder"'",' /build/drv.json > /build/impure.json
    impure=$(nix derivation add < /build/impure.json) || exit 10
    nix build --no-link "$impure^out" 2> /build/told && exit 5
    grep -q 'access to the network' /build/told || exit 11
    echo refused > $out
  '';
  collects-garbage = hostile "collects-garbage" ''
    nix-store --gc
    nix-store --delete --ignore-liveness $bb $secret
    nix-store --optimise; nix-store --verify
    [ -e $bb ] || exit 5
    echo tried > $out
  '';
  talks-nonsense = hostile "talks-nonsense" ''
    head -c 100000 /dev/urandom | timeout 5 probe send /build/.nix-socket > /dev/null
    printf 'cxin\0\0\0\0\046\001\0\0\0\0\0\0\0\0\0\0\0\0\0\0\377\377\377\377\377\377\377\177' | timeout 5 probe send /build/.nix-socket > /dev/null
    nix-store --check-validity $bb || exit 6
    echo survived > $out
  '';
}
