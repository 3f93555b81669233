# Builds that submit their outputs, by a client in Perl, as Nix 2.36 has it; and derivations that
# make the same with nothing of the kind.
{
  busybox,
  nix,
  secret,
}:
let
  bb = builtins.storePath busybox;
  content =
    name: attrs: script:
    derivation (
      {
        inherit name bb;
        system = "x86_64-linux";
        builder = "${bb}/bin/sh";
        args = [
          "-euc"
          ''
            rpc() { perl $client "$@" | tee -a /build/said; }
            says() { grep -qF -- "$1" /build/said || { cat /build/said; echo "not said: $1"; exit 9; }; }
            ${script}
          ''
        ];
        PATH = "${bb}/bin:${nix}:/usr/bin";
        client = ./rpc.pl;
        NIX_CONFIG = "experimental-features = nix-command ca-derivations recursive-nix";
        __contentAddressed = true;
        outputHashMode = "recursive";
        outputHashAlgo = "sha256";
      }
      // attrs
    );
  submitting =
    name: attrs: content name ({ requiredSystemFeatures = [ "builder-rpc-v0" ]; } // attrs);
  made = derivation {
    name = "made";
    system = "x86_64-linux";
    builder = "${bb}/bin/sh";
    args = [
      "-c"
      "echo made > $out"
    ];
  };
in
{
  # What builds without submitting are for: the path that each must have.
  plain = {
    reference = content "reference" { } "echo one > $out; echo $bb >> $out";
    second-output = content "two" {
      outputs = [
        "out"
        "dev"
      ];
    } "echo $dev > $out; echo dev > $dev";
    fixed = content "fixed" {
      outputHashMode = "flat";
      outputHash = builtins.hashString "sha256" "fixed\n";
    } "echo fixed > $out";
  };
  submitted = {
    reference = submitting "reference" { } ''
      rpc features
      says 'add-to-store-scanning disable-set-options realisation-with-path-not-hash submit-output'
      [ -z "''${out+set}" ] || exit 5
      echo one > /build/one; echo $bb >> /build/one
      set -- $(rpc scan reference fixed:r:sha256 /build/one)
      [ "$#-$2" = 2-$bb ] || exit 6
      # It is not shown in the sandbox: there is nothing to see that depends on who builds.
      [ ! -e $1 ] || exit 7
      rpc submit $1 out
      says submitted
    '';
    second-output =
      submitting "two"
        {
          outputs = [
            "out"
            "dev"
          ];
        }
        ''
          echo dev > /build/dev
          dev=$(rpc scan two-dev fixed:r:sha256 /build/dev)
          echo $dev > /build/out
          set -- $(rpc scan two fixed:r:sha256 /build/out)
          [ "$2" = $dev ] || exit 6
          rpc submit $dev dev -- submit $1 out
        '';
    fixed = submitting "fixed" {
      outputHashMode = "flat";
      outputHash = builtins.hashString "sha256" "fixed\n";
    } "echo fixed > /build/f; rpc submit $(rpc add fixed fixed:sha256 /build/f) out";
  };
  # A derivation that is found in what is added, and then built.
  dynamic = submitting "made.drv" {
    outputHashMode = "text";
    drv = builtins.unsafeDiscardOutputDependency made.drvPath;
  } "set -- $(rpc scan made.drv text:sha256 $drv); [ $1 = $drv ]; rpc submit $1 out";
  made = made;
  # Both ways.
  recursive =
    submitting "recursive"
      {
        requiredSystemFeatures = [
          "builder-rpc-v0"
          "recursive-nix"
        ];
        drv = builtins.unsafeDiscardOutputDependency made.drvPath;
      }
      ''
        rpc features
        says 'add-to-store-scanning disable-set-options realisation-with-path-not-hash submit-output'
        [ -n "$out" ]
        nix-store -r $drv > /build/made
        set -- $(rpc scan recursive fixed:r:sha256 /build/made)
        [ "$2" = $(cat /build/made) ]
        [ -e $1 ]
        rpc submit $1 out
      '';
  refused = {
    none-submitted = submitting "none-submitted" { } "echo a > /build/a; rpc scan none-submitted fixed:r:sha256 /build/a";
    forbidden-reference =
      submitting "forbidden-reference" { allowedReferences = [ ]; }
        "echo $bb > /build/a; set -- $(rpc scan forbidden-reference fixed:r:sha256 /build/a); rpc submit $1 out";
    input-addressed = derivation {
      name = "input-addressed";
      system = "x86_64-linux";
      builder = "${bb}/bin/sh";
      requiredSystemFeatures = [ "builder-rpc-v0" ];
    };
  };
  # What is refused, and then the build goes on.
  hostile =
    submitting "hostile"
      {
        inherit secret;
        drv = builtins.unsafeDiscardOutputDependency made.drvPath;
      }
      ''
        echo a > /build/a
        good=$(rpc scan hostile fixed:r:sha256 /build/a)
        refuses() {
          said=$(rpc "$@")
          case $said in error:*) ;; *) echo "not refused: $*"; exit 9 ;; esac
        }
        refuses submit $secret out
        refuses submit $bb out
        refuses submit $good other
        refuses submit-built $drv out out
        refuses submit $(rpc scan other fixed:r:sha256 /build/a) out
        refuses submit $(rpc scan hostile text:sha256 /build/a) out
        refuses submit $(rpc scan hostile fixed:r:sha512 /build/a) out
        refuses add hostile text:sha256 /build/a $secret
        refuses nar $secret /build/a $secret
        refuses nar ''${secret%-*}-another /build/a $secret
        # AddTextToStore, BuildPaths, QueryPathInfo, QueryReferrers, NarFromPath.
        refuses operation 26 $bb
        refuses operation 6 $bb
        refuses operation 38 $bb
        refuses operation 41 $drv
        nix-store -r $drv 2> /build/err && exit 8
        # Nix before 2.36 can add.
        [ "$(nix-store --add-fixed --recursive sha256 /build/a)" != "" ]
        # What a path outside is like is not found by its hash part.
        echo $secret > /build/s
        [ "$(rpc scan s fixed:r:sha256 /build/s | wc -w)" = 1 ] || exit 7
        rpc submit $good out
        refuses submit $good out
        says 'duplicate output'
      '';
}
