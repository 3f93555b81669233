# Outputs addressed in the ways that Nix has behind features: as git hashes them, and
# by BLAKE3.
# busybox: store path with bin/busybox and links to it. tree: SHA-1 and SHA-256 of git's
# object of what `$tree` makes.
{
  busybox,
  gitSha1,
  gitSha256,
}:
let
  drv = import ../../helpers/shell.nix { inherit busybox; };
  fixed = mode: algo: hash: {
    outputHashMode = mode;
    outputHashAlgo = algo;
    outputHash = hash;
  };
  floating = mode: algo: {
    __contentAddressed = true;
    outputHashMode = mode;
    outputHashAlgo = algo;
  };
  tree = ''
    mkdir -p $out/d $out/d.x $out/empty
    echo one > $out/d/one; echo two > $out/d-; echo three > $out/d0; echo x > $out/d.x/x
    chmod 755 $out/d0; ln -s d/one $out/link
  '';
  dep = drv "dep" "echo data > $out" { };
  zeros = "0000000000000000000000000000000000000000";
in
{
  git-fixed-sha1 = drv "git-fixed-sha1" tree (fixed "git" "sha1" gitSha1);
  git-fixed-sha256 = drv "git-fixed-sha256" tree (fixed "git" "sha256" gitSha256);
  git-fixed-wrong = drv "git-fixed-wrong" tree (fixed "git" "sha1" zeros);
  git-floating-sha1 = drv "git-floating-sha1" tree (floating "git" "sha1");
  git-floating-sha256 = drv "git-floating-sha256" tree (floating "git" "sha256");
  git-floating-file = drv "git-floating-file" "echo file > $out; chmod 755 $out" (floating "git" "sha1");
  git-floating-link = drv "git-floating-link" "ln -s target $out" (floating "git" "sha1");
  git-floating-reference = drv "git-floating-reference" "echo ${dep} > $out" (floating "git" "sha1");
  git-floating-self = drv "git-floating-self" "mkdir $out; echo $out > $out/self" (floating "git" "sha1");
  blake3-fixed-flat = drv "blake3-fixed-flat" "printf content > $out" (
    fixed "flat" "blake3" "3fba5250be9ac259c56e7250c526bc83bacb4be825f2799d3d59e5b4878dd74e"
  );
  blake3-fixed-wrong = drv "blake3-fixed-wrong" "echo content > $out" (
    fixed "flat" "blake3" "3fba5250be9ac259c56e7250c526bc83bacb4be825f2799d3d59e5b4878dd74e"
  );
  blake3-floating-nar = drv "blake3-floating-nar" tree (floating "recursive" "blake3");
  blake3-floating-flat = drv "blake3-floating-flat" "echo content > $out" (floating "flat" "blake3");
  user-of-all =
    drv "user-of-all" "cat ${drv "gf" tree (floating "git" "sha256")}/d/one ${drv "bf" tree (floating "recursive" "blake3")}/d0 > $out"
      { };
}
