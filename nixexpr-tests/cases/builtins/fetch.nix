# Derivations of builtin:fetchurl. http, other, https, stranger: URLs of server.py's ports; files:
# a directory of the store with what it serves; hashes: SHA-256 of what is fetched, by name.
{
  http,
  other,
  https,
  stranger,
  files,
  hashes,
}:
let
  attrs = name: {
    inherit name;
    system = "builtin";
    builder = "builtin:fetchurl";
    outputHashAlgo = "sha256";
  };
  flat =
    hash: url: more:
    derivation (
      attrs "fetched"
      // {
        inherit url;
        outputHashMode = "flat";
        outputHash = hash;
      }
      // more
    );
  tree =
    hash: url: more:
    flat hash url ({ outputHashMode = "recursive"; } // more);
  hello = url: flat hashes.hello url { };
  big = url: flat hashes.big url { };
  # Each of its own name: an output that is there is not fetched again.
  named = builtins.mapAttrs (name: drv: derivation (drv.drvAttrs // { inherit name; }));
in
named {
  plain = hello "${http}/hello";
  query = hello "${http}/hello?query#fragment";
  sha1 = flat (builtins.hashString "sha1" "hello\n") "${http}/hello" { outputHashAlgo = "sha1"; };
  sha512 = flat (builtins.hashString "sha512" "hello\n") "${http}/hello" { outputHashAlgo = "sha512"; };
  wrong-hash = flat hashes.big "${http}/hello" { };
  executable = tree hashes.executable "${http}/hello" { executable = "1"; };
  not-executable = tree hashes.executable "${http}/hello" { executable = "true"; };
  nar = tree hashes.tree "${http}/tree.nar" { unpack = "1"; };
  nar-xz = tree hashes.tree "${http}/tree.nar.xz" { unpack = "1"; };
  nar-of-a-file = flat hashes.hello "${http}/hello.nar" { unpack = "1"; };
  nar-not-one = tree hashes.tree "${http}/hello" { unpack = "1"; };
  nar-cut-off = tree hashes.tree "${http}/cut.nar" { unpack = "1"; };
  nar-hostile = tree hashes.tree "${http}/hostile.nar" { unpack = "1"; };
  redirect = hello "${http}/to//hello";
  redirect-elsewhere = hello "${http}/to/${other}/hello";
  gzip = hello "${http}/gzip/hello";
  chunked = big "${http}/chunked/big";
  close = big "${http}/close/big";
  resume = big "${http}/resume/big";
  fails-twice = hello "${http}/fails-twice/hello";
  secure = hello "${https}/hello";
  redirect-to-secure = hello "${http}/to/${https}/hello";
  auth = hello "${http}/auth/hello";
  auth-in-url = hello "${builtins.replaceStrings [ "//" ] [ "//user:secret@" ] other}/auth/hello";
  file = hello "file://${builtins.storePath files}/hello";
  impure-hash = flat "" "${http}/hello" { };

  not-found = hello "${http}/not/there";
  forbidden = hello "${http}/status/403";
  loop = hello "${http}/loop";
  redirect-to-file = hello "${http}/to/file:///etc/passwd";
  short = hello "${http}/short/hello";
  no-resume = big "${http}/no-resume/big";
  garbage = hello "${http}/garbage";
  not-trusted = hello "${stranger}/hello";
  no-file = hello "file:///not/there";
  malformed = hello "http://[bad/x";
  other-scheme = hello "gopherus://x/y";
  no-scheme = hello "hello";
  no-url = derivation (
    attrs "no-url"
    // {
      outputHashMode = "flat";
      outputHash = hashes.hello;
    }
  );
  not-fixed = derivation {
    name = "not-fixed";
    system = "builtin";
    builder = "builtin:fetchurl";
    url = "${http}/hello";
  };
  not-fixed-floating = derivation {
    name = "not-fixed";
    system = "builtin";
    builder = "builtin:fetchurl";
    url = "${http}/hello";
    __contentAddressed = true;
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
  };

  # Tried again, in vain.
  again-broken = hello "${http}/status/500";
  again-empty = hello "${http}/empty";
  again-bad-chunks = hello "${http}/bad-chunks";
  again-endless-head = hello "${http}/endless-head";
  again-refused = hello "http://127.0.0.1:1/x";
  again-unknown = hello "http://no-such-host.invalid/x";
  again-no-tls = hello "${builtins.replaceStrings [ "http:" ] [ "https:" ] http}/hello";
}
