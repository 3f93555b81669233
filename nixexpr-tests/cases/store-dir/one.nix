# An expression that needs nothing but the sandbox's shell.
derivation {
  name = "one";
  system = "x86_64-linux";
  builder = "/bin/sh";
  args = [
    "-c"
    "echo this is $name; echo $NIX_STORE > $out"
  ];
}
