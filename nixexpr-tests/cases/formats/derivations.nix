# Derivations of every kind, to be shown, added and hashed, and not to be built: a hundred that
# depend on each other at random, but the same ones each time, and some by hand.
let
  # Of two hexadecimal digits of a hash, as good as random.
  random =
    seed: bound:
    let
      value = (builtins.fromTOML "x = 0x${builtins.substring 0 6 (builtins.hashString "sha256" seed)}").x;
    in
    value - (value / bound) * bound;
  pick = seed: list: builtins.elemAt list (random seed (builtins.length list));
  drv =
    attrs:
    derivation (
      {
        name = "x";
        system = "x86_64-linux";
        builder = "/bin/sh";
      }
      // attrs
    );
  source = builtins.toFile "source" "a source";

  node =
    earlier: i:
    let
      seed = what: "${toString i} ${what}";
      # Some output of some earlier one.
      input =
        n:
        let
          from = pick (seed "input ${toString n}") earlier;
        in
        from.${pick (seed "output ${toString n}") (from.outputs or [ "out" ])};
      inputs = if earlier == [ ] then [ ] else builtins.genList input (random (seed "inputs") 5);
      outputs = pick (seed "outputs") [
        [ "out" ]
        [
          "out"
          "dev"
        ]
        [
          "lib"
          "out"
          "man"
        ]
        [ "bin" ]
      ];
      text = builtins.concatStringsSep " " inputs;
    in
    drv (
      {
        name = "node-${toString i}";
        args = [ text ] ++ (if random (seed "source") 3 == 0 then [ source ] else [ ]);
      }
      // pick (seed "kind") [
        { inherit inputs outputs; }
        { inherit inputs outputs; }
        {
          inherit inputs outputs;
          __structuredAttrs = true;
        }
        {
          inherit inputs outputs;
          __contentAddressed = true;
          outputHashMode = pick (seed "mode") [
            "flat"
            "recursive"
          ];
          outputHashAlgo = pick (seed "algorithm") [
            "sha1"
            "sha256"
            "sha512"
          ];
        }
        {
          outputHash = builtins.hashString "sha256" (seed (pick (seed "same") [ "a" "b" ]));
          outputHashAlgo = "sha256";
          outputHashMode = pick (seed "mode") [
            "flat"
            "recursive"
          ];
        }
        # The same content, whatever it is made by.
        {
          name = "same";
          outputHash = builtins.hashString "sha1" "same";
          outputHashAlgo = "sha1";
        }
      ]
    );
  nodes = builtins.foldl' (earlier: i: earlier ++ [ (node earlier i) ]) [ ] (builtins.genList (i: i) 100);

  fixed =
    mode: algo: hash:
    drv {
      name = "fixed-${mode}-${algo}";
      outputHashMode = mode;
      outputHashAlgo = algo;
      outputHash = hash;
    };
  empty = builtins.hashString;
  floating =
    mode: algo:
    drv {
      name = "floating-${mode}-${algo}";
      __contentAddressed = true;
      outputHashMode = mode;
      outputHashAlgo = algo;
    };
  impure = drv {
    name = "impure";
    __impure = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  };
  dynamic = drv {
    name = "made.drv";
    __contentAddressed = true;
    outputHashMode = "text";
    outputHashAlgo = "sha256";
  };
in
builtins.listToAttrs (
  builtins.genList (i: {
    name = "node-${toString i}";
    value = builtins.elemAt nodes i;
  }) 100
)
// {
  fixed-flat-md5 = fixed "flat" "md5" (empty "md5" "");
  fixed-flat-sha512 = fixed "flat" "sha512" (empty "sha512" "");
  fixed-recursive-sha1 = fixed "recursive" "sha1" (empty "sha1" "");
  new-fixed-text = fixed "text" "sha256" (empty "sha256" "");
  new-fixed-git = fixed "git" "sha1" (empty "sha1" "");
  new-fixed-blake3 = fixed "recursive" "blake3" (empty "blake3" "");
  floating-flat-md5 = floating "flat" "md5";
  new-floating-text = floating "text" "sha256";
  new-floating-git = floating "git" "sha256";
  inherit impure;
  impure-on-impure = drv {
    name = "impure-on-impure";
    __impure = true;
    outputHashMode = "flat";
    outputHashAlgo = "sha512";
    inherit impure;
  };
  fixed-on-impure = drv {
    name = "fixed-on-impure";
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = empty "sha256" "";
    inherit impure;
  };
  new-dynamic = drv {
    name = "dynamic";
    made = builtins.outputOf dynamic.outPath "out";
  };
  new-dynamic-nested = drv {
    name = "dynamic-nested";
    made = builtins.outputOf (builtins.outputOf dynamic.outPath "out") "dev";
    inherit dynamic;
  };
  odd-texts = drv {
    name = "odd-texts";
    args = [
      ""
      "\"\\\n\r\t"
      (builtins.fromJSON ''"\u0001\u007f\u0008\u000c"'')
      "ü€😀"
      "\${x} </script>"
    ];
    "ü" = "";
    "a.b" = 1.5;
    empty = "";
  };
  odd-attributes = drv {
    name = "odd-attributes";
    __structuredAttrs = true;
    numbers = [
      0
      (-1)
      1.0
      2.5e-7
      1.0e100
      9223372036854775807
    ];
    nested = {
      z = null;
      a = {
        b = [ [ ] { } ];
      };
      "ü\n\"" = true;
    };
  };
}
