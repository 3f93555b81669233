# Derivations that real Nix and Droste must treat alike: same exit status, same
# outputs, same references. What runs is a static busybox (and helpers/probe.c) alone.
# busybox: store path with bin/busybox, links to it, and bin/probe.
{ busybox }:
let
  bb = builtins.storePath busybox;
  drv = import ../../helpers/shell.nix { inherit busybox; };
  floating = {
    __contentAddressed = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  };
  fixed = algo: mode: hash: {
    outputHashAlgo = algo;
    outputHashMode = mode;
    outputHash = hash;
  };
  # The output is the text of a derivation. What takes part is named dynamic-…
  text = {
    __contentAddressed = true;
    outputHashMode = "text";
    outputHashAlgo = "sha256";
  };
  # Makes the derivation that one is.
  dynamic =
    inner: drv "${inner.name}.drv" "cp ${builtins.unsafeDiscardOutputDependency inner.drvPath} $out" text;
  outputOf = outer: builtins.outputOf outer.outPath "out";
  dynamicSimple = dynamic (drv "dynamic-inner" "echo inner > $out" { });
  hashOf = algo: builtins.hashString algo "content\n";
  wrong = algo: builtins.hashString algo "something else\n";

  # Shell text that sets $NAME where structured attributes hide it.
  outputFrom = name: ''
    ${name}=$(grep "^declare -A outputs=.*\['${name}'\]" $NIX_ATTRS_SH_FILE | sed "s/.*\['${name}'\]='\([^']*\)'.*/\1/")'';

  # A derivation with structured attributes and one output, which is $out.
  structured =
    name: script: attrs:
    drv name "" (
      {
        __structuredAttrs = true;
        args = [
          "-euc"
          ''
            PATH=${bb}/bin
            ${outputFrom "out"}
            ${script}
          ''
        ];
      }
      // attrs
    );

  dep = drv "dep" "mkdir $out; echo data > $out/file" { };
  dep2 = drv "dep2" "mkdir $out; echo ${dep} > $out/dep" { };
  caDep = drv "ca-dep" "mkdir $out; echo data > $out/file" floating;
  multi =
    drv "multi"
      ''
        mkdir $out $dev; echo $dev > $out/dev; echo text > $dev/text; echo lib > $lib
        ln -s $lib $dev/lib-link
      ''
      {
        outputs = [
          "out"
          "dev"
          "lib"
        ];
      };
in
{
  # Outputs of every shape.
  simple = drv "simple" "echo hello > $out" { };
  directory = drv "directory" "mkdir -p $out/a/b/c; echo 1 > $out/a/1; echo 2 > $out/a/b/2; mkdir $out/empty" { };
  symlink-output = drv "symlink-output" "ln -s ${dep}/file $out" { };
  dangling-symlink-output = drv "dangling-symlink-output" "ln -s /nowhere/at/all $out" { };
  executable-output = drv "executable-output" "echo '#!/bin/sh' > $out; chmod 755 $out" { };
  empty-output = drv "empty-output" ": > $out" { };
  self-reference = drv "self-reference" "mkdir $out; echo $out/bin > $out/self; ln -s $out/self $out/link" { };
  multiple-outputs = multi;
  multiple-output-user = drv "multiple-output-user" "cat ${multi.lib} ${multi.dev}/text > $out" { };
  only-one-output-used = drv "only-one-output-used" "echo ${multi.dev} > $out" { };
  chain = drv "chain" "cat ${dep2}/dep > $out" { };
  reference-in-symlink = drv "reference-in-symlink" "mkdir $out; ln -s ${dep} $out/to" { };
  reference-in-name = drv "reference-in-name" "mkdir $out; : > $out/$(basename ${dep})" { };
  reference-in-binary = drv "reference-in-binary" ''printf '\000\377%s\000' ${dep2} > $out'' { };
  half-a-reference = drv "half-a-reference" "d=${dep}; mkdir $out; echo \${d%????????????????????} > $out/x" { };
  reference-across-a-buffer =
    drv "reference-across-a-buffer" "{ head -c 65520 /dev/zero; echo ${dep}; head -c 131060 /dev/zero; echo ${dep2}; } > $out"
      { };
  unused-input = drv "unused-input" ": ${dep}; echo nothing > $out" { };
  outputs-refer-to-each-other =
    drv "outputs-refer-to-each-other" "echo $b > $out; echo x > $b; echo $out > $c"
      {
        outputs = [
          "out"
          "b"
          "c"
        ];
      };
  outputs-in-a-circle =
    drv "outputs-in-a-circle" "echo $b > $out; echo $out > $b"
      {
        outputs = [
          "out"
          "b"
        ];
      };
  no-out-output = drv "no-out-output" "echo 1 > $bin; echo 2 > $doc" {
    outputs = [
      "bin"
      "doc"
    ];
  };

  # What is put right in an output, and what is kept.
  modes =
    drv "modes"
      ''
        mkdir $out
        for mode in 400 444 644 600 755 700 711 744 655 000 001 010 100; do
          echo $mode > $out/$mode; chmod $mode $out/$mode
        done
        mkdir $out/dir; echo x > $out/dir/x; chmod 500 $out/dir
        mkdir $out/no-access; chmod 000 $out/no-access
      ''
      { };
  times = drv "times" "mkdir $out; echo a > $out/a; touch -d '2001-02-03 04:05:06' $out/a; sleep 0; echo b > $out/b" { };
  hard-links =
    drv "hard-links" "mkdir $out; echo linked > $out/a; ln $out/a $out/b; mkdir $out/d; ln $out/a $out/d/c" { };
  hard-link-across-outputs =
    drv "hard-link-across-outputs" "mkdir $out $dev; echo linked > $out/a; ln $out/a $dev/b"
      {
        outputs = [
          "out"
          "dev"
        ];
      };
  deep-directories =
    drv "deep-directories" "d=$out; i=0; while [ $i -lt 60 ]; do d=$d/d$i; i=$((i+1)); done; mkdir -p $d; echo deep > $d/file"
      { };
  strange-names =
    drv "strange-names"
      ''
        mkdir $out; cd $out
        : > "$(printf 'new\nline')"; : > "$(printf '\377\376')"; : > "$(printf 'caf\303\251')"; : > ' '
        : > '*'; : > '.hidden'; : > '~a'; : > 'A'; : > 'a'; : > '"quote"'; : > 'back\slash'; : > -- -dash
        : > "$(printf '\001')"; : > a.b; : > a-b; : > ab
      ''
      { };
  long-name = drv "long-name" ''mkdir $out; n=$(head -c 255 /dev/zero | tr '\0' n); echo x > $out/$n'' { };
  many-files =
    drv "many-files" "mkdir $out; i=0; while [ $i -lt 2000 ]; do echo $i > $out/f$i; i=$((i+1)); done"
      { };
  large-file = drv "large-file" "yes 0123456789abcdef | head -c 20000000 > $out" { };
  sparse-file = drv "sparse-file" "truncate -s 3000001 $out" { };

  # What the builder is told.
  environment = drv "environment" "env | grep -v '^_=' | sort > $out" {
    number = 12;
    yes = true;
    no = false;
    nothing = null;
    list = [
      "a"
      "b c"
      3
    ];
    multiline = "one\ntwo\ttab \"quoted\" \\ back $dollar \${brace} \r cr";
    empty = "";
    "with-dash" = "dash";
  };
  environment-is-overridden = drv "environment-is-overridden" "env | grep -v '^_=' | sort > $out" {
    HOME = "/elsewhere";
    TMPDIR = "/other";
    NIX_BUILD_TOP = "/top";
    NIX_STORE = "/store";
    TERM = "dumb";
    NIX_LOG_FD = "7";
  };
  no-path =
    derivation {
      name = "no-path";
      system = "x86_64-linux";
      builder = "${bb}/bin/sh";
      args = [
        "-c"
        "echo $PATH > $out"
      ];
    };
  arguments = drv "arguments" "printf '%s|' \"$0\" \"$@\" > $out" {
    args = [
      "-euc"
      "printf '<%s>' \"$0\" \"$@\" > $out"
      "zero"
      ""
      "two words"
      "new\nline"
      "tab\t"
      "q\"uote'"
      "back\\slash"
      "caf\u00e9"
    ];
  };
  output-placeholder = drv "output-placeholder" "mkdir $out $dev; echo $self $there > $out/x; echo y > $dev/y" {
    outputs = [
      "out"
      "dev"
    ];
    self = builtins.placeholder "out";
    there = "${builtins.placeholder "dev"}/y";
  };
  pass-as-file = drv "pass-as-file" ''cat "$textPath" "$otherPath" > $out; basename $textPath >> $out; echo ''${text-unset} >> $out'' {
    text = "some text\n";
    other = "é";
    passAsFile = [
      "text"
      "other"
    ];
  };
  pass-as-file-odd =
    drv "pass-as-file-odd"
      ''
        for f in /build/.attr-*; do basename $f; cat $f; done > $out
        env | grep -a Path= | grep -v ^PATH= | sort >> $out
      ''
      {
        "with-dash" = "dash";
        "caf\u00e9" = "accent";
        a = "";
        big = builtins.concatStringsSep "" (builtins.genList (n: "0123456789abcdef") 10000);
        passAsFile = [
          "with-dash"
          "caf\u00e9"
          "a"
          "big"
          "not-there"
        ];
      };
  references-graphs = drv "references-graphs" "cat one two.txt _3 > $out" {
    exportReferencesGraph = [
      "one"
      dep2
      "two.txt"
      dep
      "_3"
      dep2.drvPath
    ];
  };
  references-graph-bad-name = drv "references-graph-bad-name" "echo > $out" {
    exportReferencesGraph = [
      "../one"
      dep
    ];
  };
  references-graph-not-an-input = drv "references-graph-not-an-input" "echo > $out" {
    exportReferencesGraph = [
      "one"
      (builtins.unsafeDiscardStringContext "${dep}")
    ];
  };
  references-graph = drv "references-graph" "cat graph > $out" {
    exportReferencesGraph = [
      "graph"
      dep2
    ];
  };
  structured-attributes =
    drv "structured-attributes" "" {
      __structuredAttrs = true;
      outputs = [
        "out"
        "dev"
      ];
      args = [
        "-euc"
        ''
          PATH=${bb}/bin
          ${outputFrom "out"}
          ${outputFrom "dev"}
          ${bb}/bin/mkdir $out $dev
          ${bb}/bin/cat $NIX_ATTRS_JSON_FILE > $out/json
          ${bb}/bin/cat $NIX_ATTRS_SH_FILE > $out/sh
          ${bb}/bin/env | ${bb}/bin/grep -v '^_=' | ${bb}/bin/sort > $dev/env
        ''
      ];
      PATH = "not seen";
      n = 1;
      f = 1.5;
      b = true;
      nothing = null;
      list = [
        "a b"
        2
        false
      ];
      nested = {
        a = "x'y";
        b = 2;
      };
      deeper = {
        a.b = 1;
      };
    };
  structured-discards-references =
    drv "structured-discards-references" "" {
      __structuredAttrs = true;
      unsafeDiscardReferences.out = true;
      args = [
        "-euc"
        ''
          PATH=${bb}/bin
          ${outputFrom "out"}
          echo ${dep} > $out
        ''
      ];
    };
  structured-nasty = structured "structured-nasty" "${bb}/bin/cat $NIX_ATTRS_JSON_FILE $NIX_ATTRS_SH_FILE > $out" {
    whole = 3.0;
    large = 1.0e30;
    small = 1.0e-7;
    third = 0.1;
    negative = -7;
    largest = 9223372036854775807;
    floats = [ 1.5 2.0 "x" ];
    unicode = "caf\u00e9 \u2028 \U0001F600";
    "caf\u00e9" = "the name is no identifier";
    "with-dash" = "nor this";
    "1digit" = "nor this";
    "" = "nor this";
    _under_score9 = "this is one";
    quotes = "it's \"quoted\" \\ back $dollar `tick`";
    controls = "tab\tnew\nline\rreturn";
    emptyString = "";
    emptyList = [ ];
    emptySet = { };
    yes = true;
    no = false;
    nothing = null;
    listOfLists = [ [ 1 ] [ 2 ] ];
    listOfSets = [ { a = 1; } ];
    listWithNull = [ null true false "a'b" ];
    setOfScalars = { a = 1; b = "x y"; c = true; d = null; e = 1.5; "f'g" = "h"; "" = "empty"; };
    setOfLists = { a = [ 1 ]; };
    deep.er.and.deeper = [ { x = [ ]; } ];
    self = builtins.placeholder "out";
    dependency = dep2;
  };
  structured-graph = structured "structured-graph" "${bb}/bin/sed -e 's/\"registrationTime\":[0-9]*,//g' $NIX_ATTRS_JSON_FILE > $out" {
    exportReferencesGraph = {
      graph = [ dep2 ];
      nested = [ dep [ dep2 ] ];
      "odd name" = dep;
    };
  };
  structured-allowed-references = structured "structured-allowed-references" "echo ${dep} > $out" {
    outputChecks.out.allowedReferences = [ dep ];
  };
  structured-allowed-references-broken = structured "structured-allowed-references-broken" "echo ${dep} > $out" {
    outputChecks.out.allowedReferences = [ "out" ];
  };
  structured-allowed-requisites-broken = structured "structured-allowed-requisites-broken" "echo ${dep2} > $out" {
    outputChecks.out.allowedRequisites = [ dep2 ];
  };
  # Unlike plain ones, structured requisites count an output itself.
  structured-allowed-requisites-self = structured "structured-allowed-requisites-self" "echo $out > $out" {
    outputChecks.out.allowedRequisites = [ ];
  };
  structured-disallowed-references-broken = structured "structured-disallowed-references-broken" "echo $out > $out" {
    outputChecks.out.disallowedReferences = [ "out" ];
  };
  structured-disallowed-requisites-broken = structured "structured-disallowed-requisites-broken" "echo ${dep2} > $out" {
    outputChecks.out.disallowedRequisites = [ dep ];
  };
  structured-plain-checks-are-ignored = structured "structured-plain-checks-are-ignored" "echo ${dep} > $out" {
    allowedReferences = [ ];
  };
  structured-checks-of-another-output = structured "structured-checks-of-another-output" "echo ${dep} > $out" {
    outputChecks.dev.allowedReferences = [ ];
  };
  structured-closure-too-large = structured "structured-closure-too-large" "echo ${dep2} > $out" {
    outputChecks.out.maxClosureSize = 500;
  };
  structured-closure-fits = structured "structured-closure-fits" "echo ${dep2} > $out" {
    outputChecks.out.maxClosureSize = 5000;
    outputChecks.out.maxSize = 1000;
  };
  structured-check-of-no-output = structured "structured-check-of-no-output" "echo ${dep} > $out" {
    outputChecks.out.allowedReferences = [ "no-such-output" ];
  };
  structured-flag-of-wrong-type = structured "structured-flag-of-wrong-type" "echo > $out" { preferLocalBuild = 1; };
  structured-features = structured "structured-features" "echo > $out" { requiredSystemFeatures = [ "quantum" ]; };
  structured-fixed = structured "structured-fixed" "echo content > $out" (fixed "sha256" "flat" (hashOf "sha256"));
  structured-floating = structured "structured-floating" "echo $out > $out" floating;
  structured-output-too-large =
    drv "structured-output-too-large" "" {
      __structuredAttrs = true;
      outputChecks.out.maxSize = 1000;
      args = [
        "-euc"
        ''
          PATH=${bb}/bin
          ${outputFrom "out"}
          ${bb}/bin/head -c 2000 /dev/zero > $out
        ''
      ];
    };

  # The sandbox.
  probe-identity = drv "probe-identity" "{ id; umask; hostname; ulimit -c; ulimit -n > /dev/null; cat /proc/self/personality; } > $out" { };
  probe-etc = drv "probe-etc" "cd /etc; { find . | sort; cat passwd group hosts; } > $out" { };
  probe-dev =
    drv "probe-dev" ''
      cd /dev
      { find . ! -path './pts/*' ! -path './fd/*' ! -name kvm | sort
        for link in fd stdin stdout stderr ptmx; do readlink $link; done
        stat -c '%n %F %a %t,%T' full null random tty urandom zero; } > $out'' { };
  probe-root = drv "probe-root" "cd /; { ls -A; stat -c '%n %F %a' /tmp /dev /bin /build /nix /nix/store; stat -c '%n %U %G' /build; ls -A /build /tmp /bin /nix; } > $out" { };
  probe-store =
    drv "probe-store" ''cd /nix/store; ls -A | grep -v "$(basename $out)" | sed 's/-.*//' | wc -l > $out; ls -A | grep -c dep >> $out; : ${dep2}''
      { };
  probe-network =
    drv "probe-network"
      ''
        { awk 'NR > 2 { print $1 }' /proc/net/dev; cat /proc/net/route | wc -l
          ip addr show lo | grep inet | awk '{ print $1, $2 }'
          ping -c 1 -W 1 192.0.2.1 > /dev/null 2>&1 && echo reached || echo unreachable
          wget -T 1 -O /dev/null http://198.51.100.1/ > /dev/null 2>&1 && echo reached || echo unreachable; } > $out
      ''
      { };
  probe-processes = drv "probe-processes" "set -- /proc/[0-9]*; echo $$ $# > $out" { };
  probe-stdin = drv "probe-stdin" "{ readlink /proc/self/fd/0; wc -c < /dev/stdin; [ -t 1 ] && echo tty || echo no; } < /proc/self/fd/0 > $out" { };
  probe-streams =
    drv "probe-streams"
      ''
        # Of the shell itself, which is the first process; what it holds for a moment are pipes,
        # and may be gone when they are looked at.
        fds=$(ls -l /proc/1/fd 2> /dev/null) || echo "$fds" | grep -q ' 0 -> '
        [ -t 1 ] && tty=yes || tty=no
        [ -t 2 ] && tty="$tty yes" || tty="$tty no"
        echo "$fds" | sed -n 's/.* \([0-9]*\) -> /\1 /p' | grep -v pipe: | sed 's,/pts/.*,/pts/N,' > $out
        echo $tty >> $out
      ''
      { };
  probe-status =
    drv "probe-status" "grep -E '^(NoNewPrivs|Seccomp|CapEff|CapPrm|CapInh|CapAmb|Groups|Uid|Gid):' /proc/self/status > $out"
      { };
  # Without build users, real Nix lets a builder change its inputs: only Droste's result counts.
  probe-read-only-inputs =
    drv "probe-read-only-inputs"
      ''
        { echo x > ${dep}/file; } 2> /dev/null && exit 1
        { echo x > ${dep}/new; } 2> /dev/null && exit 1
        rm ${dep}/file 2> /dev/null && exit 1
        chmod 777 ${dep} 2> /dev/null && exit 1
        cat ${dep}/file > $out
      ''
      { };
  probe-nothing-of-the-machine =
    drv "probe-nothing-of-the-machine" "for p in /usr /root /home /lib /sys /var /work /etc/shadow /run; do [ -e $p ] && echo $p; done > $out; true"
      { };
  probe-setuid =
    drv "probe-setuid"
      ''
        mkdir $out; echo x > $out/f
        probe setuid $out/f > $out/log
        chmod 1755 $out/f && echo sticky >> $out/log
      ''
      { };
  probe-mount = drv "probe-mount" "mount -t tmpfs none /tmp 2> /dev/null && echo mounted > $out || echo refused > $out" { };
  probe-mknod = drv "probe-mknod" "mknod /build/null c 1 3 2> /dev/null && echo made > $out || echo refused > $out" { };
  probe-xattr = drv "probe-xattr" "echo x > /build/f; probe xattr /build/f > $out" { };
  probe-abstract-socket = drv "probe-abstract-socket" "probe abstract droste-tests > $out" { };

  # Content-addressed outputs.
  floating-simple = drv "floating-simple" "mkdir $out; echo data > $out/file" floating;
  floating-same-content = drv "floating-simple" "echo log; mkdir $out; echo data > $out/file" floating;
  floating-self-reference = drv "floating-self-reference" "mkdir $out; echo $out/x > $out/x; ln -s $out/x $out/y" floating;
  floating-reference = drv "floating-reference" "echo ${dep} > $out" floating;
  floating-on-floating = drv "floating-on-floating" "cp ${caDep}/file $out; chmod u+w $out; echo ${caDep} >> $out" floating;
  floating-flat = drv "floating-flat" "echo flat > $out" (floating // { outputHashMode = "flat"; });
  floating-flat-directory = drv "floating-flat-directory" "mkdir $out" (floating // { outputHashMode = "flat"; });
  floating-sha512 = drv "floating-sha512" "echo 512 > $out" (floating // { outputHashAlgo = "sha512"; });
  floating-outputs-refer =
    drv "floating-outputs-refer" "mkdir $out $dev; echo $dev > $out/dev; echo x > $dev/x"
      (floating // {
        outputs = [
          "out"
          "dev"
        ];
      });
  floating-outputs-refer-and-self =
    drv "floating-outputs-refer-and-self" "mkdir $out $dev $lib; echo $dev $lib > $out/o; echo $lib > $dev/d; echo x > $lib/x"
      (floating // {
        outputs = [
          "out"
          "dev"
          "lib"
        ];
      });
  floating-outputs-in-a-circle =
    drv "floating-outputs-in-a-circle" "echo $dev > $out; echo $out > $dev"
      (floating // {
        outputs = [
          "out"
          "dev"
        ];
      });
  input-addressed-on-floating = drv "input-addressed-on-floating" "cat ${caDep}/file > $out; echo ${caDep} >> $out" { };
  input-addressed-on-that =
    drv "input-addressed-on-that" "echo ${drv "deferred" "echo ${caDep} > $out" { }} > $out"
      { };
  floating-on-input-addressed-on-floating =
    drv "floating-on-input-addressed-on-floating" "echo ${drv "deferred" "echo ${caDep} > $out" { }} > $out"
      floating;
  fixed-on-floating = drv "fixed-on-floating" "cat ${caDep}/file > /dev/null; echo content > $out" (fixed "sha256" "flat" (hashOf "sha256"));

  # Fixed outputs.
  fixed-flat-sha256 = drv "fixed-flat-sha256" "echo content > $out" (fixed "sha256" "flat" (hashOf "sha256"));
  fixed-flat-sha1 = drv "fixed-flat-sha1" "echo content > $out" (fixed "sha1" "flat" (hashOf "sha1"));
  fixed-flat-md5 = drv "fixed-flat-md5" "echo content > $out" (fixed "md5" "flat" (hashOf "md5"));
  fixed-flat-sha512 = drv "fixed-flat-sha512" "echo content > $out" (fixed "sha512" "flat" (hashOf "sha512"));
  fixed-recursive-sha256 =
    drv "fixed-recursive-sha256" "mkdir $out; echo data > $out/file"
      (fixed "sha256" "recursive" "sha256-Z45QmyeIACtiB1vh97OELVJHmHrj6CXRNiRsOlMb8WE=");
  fixed-recursive-sha1 =
    drv "fixed-recursive-sha1" "mkdir $out; echo data > $out/file"
      (fixed "sha1" "recursive" "sha1-8f3uFC1W+rNHwRDl7JMnxEK3g64=");
  fixed-wrong-sha256 = drv "fixed-wrong-sha256" "echo content > $out" (fixed "sha256" "flat" (wrong "sha256"));
  fixed-wrong-md5 = drv "fixed-wrong-md5" "echo content > $out" (fixed "md5" "flat" (wrong "md5"));
  fixed-wrong-recursive = drv "fixed-wrong-recursive" "mkdir $out; echo content > $out/x" (fixed "sha256" "recursive" (wrong "sha256"));
  fixed-flat-directory = drv "fixed-flat-directory" "mkdir $out" (fixed "sha256" "flat" (hashOf "sha256"));
  fixed-flat-executable = drv "fixed-flat-executable" "echo content > $out; chmod +x $out" (fixed "sha256" "flat" (hashOf "sha256"));
  fixed-with-reference = drv "fixed-with-reference" "echo ${dep} > $out" (
    fixed "sha256" "flat" (builtins.hashString "sha256" (builtins.unsafeDiscardStringContext "${dep}\n"))
  );
  fixed-environment =
    drv "fixed-environment" "[ $NIX_OUTPUT_CHECKED = 1 ]; echo content > $out"
      (fixed "sha256" "flat" (hashOf "sha256"));
  fixed-impure-variables =
    drv "fixed-impure-variables" "[ -n \"\${HOME_SWEET-}\" ] && exit 1; [ \"\${HOME_SWEET-unset}\" = '' ]; echo content > $out"
      (fixed "sha256" "flat" (hashOf "sha256") // { impureEnvVars = [ "HOME_SWEET" ]; });
  user-of-fixed = drv "user-of-fixed" "cat ${drv "fixed-flat-sha256" "echo content > $out" (fixed "sha256" "flat" (hashOf "sha256"))} > $out" { };

  # Which references are allowed.
  allowed-references = drv "allowed-references" "echo ${dep} > $out" { allowedReferences = [ dep ]; };
  allowed-references-broken = drv "allowed-references-broken" "echo ${dep} > $out" { allowedReferences = [ ]; };
  allowed-references-output =
    drv "allowed-references-output" "echo $dev $out > $out; echo x > $dev"
      {
        outputs = [
          "out"
          "dev"
        ];
        allowedReferences = [
          "out"
          "dev"
        ];
      };
  allowed-references-self-broken = drv "allowed-references-self-broken" "echo $out > $out" { allowedReferences = [ ]; };
  allowed-requisites = drv "allowed-requisites" "echo ${dep2} > $out" {
    allowedRequisites = [
      dep
      dep2
    ];
  };
  allowed-requisites-broken = drv "allowed-requisites-broken" "echo ${dep2} > $out" { allowedRequisites = [ dep2 ]; };
  allowed-references-no-output = drv "allowed-references-no-output" "echo > $out" { allowedReferences = [ "no-such-output" ]; };
  allowed-references-of-all-outputs =
    drv "allowed-references-of-all-outputs" "echo $dev > $out; echo ${dep} > $dev"
      {
        outputs = [
          "out"
          "dev"
        ];
        allowedReferences = [ "dev" ];
      };
  allowed-requisites-self = drv "allowed-requisites-self" "echo $out > $out" { allowedRequisites = [ ]; };
  disallowed-references = drv "disallowed-references" "echo ${dep2} > $out" { disallowedReferences = [ dep ]; };
  disallowed-references-broken = drv "disallowed-references-broken" "echo ${dep} > $out" { disallowedReferences = [ dep ]; };
  disallowed-requisites-broken = drv "disallowed-requisites-broken" "echo ${dep2} > $out" { disallowedRequisites = [ dep ]; };

  # What cannot run here.
  uid-range = drv "uid-range" "id > $out" { requiredSystemFeatures = [ "uid-range" ]; };
  prefers-local = drv "prefers-local" "echo > $out" {
    preferLocalBuild = true;
    allowSubstitutes = false;
  };
  two-systems-wrong = drv "two-systems-wrong" "echo > $out" {
    system = "riscv64-linux";
    requiredSystemFeatures = [ "quantum" ];
  };
  missing-feature = drv "missing-feature" "echo > $out" { requiredSystemFeatures = [ "quantum" ]; };
  known-feature = drv "known-feature" "echo > $out" { requiredSystemFeatures = [ "big-parallel" ]; };
  other-system = drv "other-system" "echo > $out" { system = "riscv64-linux"; };
  no-such-builder = drv "no-such-builder" "" { builder = "${bb}/bin/no-such-program"; };
  builder-not-executable = drv "builder-not-executable" "" { builder = builtins.toFile "text" "not a program"; };
  needs-no-sandbox = drv "needs-no-sandbox" "echo > $out" { __noChroot = true; };
  dependency-fails =
    drv "dependency-fails" "echo ${drv "failing-dependency" "echo I fail; exit 3" { }} > $out"
      { };

  # Builders that fail, and outputs that are refused.
  fails = drv "fails" "echo last words; mkdir $out; exit 1" { };
  exits-with-100 = drv "exits-with-100" "exit 100" { };
  # The first process of a PID namespace is deaf to signals from inside.
  tries-to-kill-itself = drv "tries-to-kill-itself" "kill -9 $$; echo alive > $out" { };
  crashes = drv "crashes" "echo x > $out; exec probe crash" { };
  killed-by-a-limit = drv "killed-by-a-limit" "echo x > $out; ulimit -t 1; while :; do :; done" { };
  child-is-killed = drv "child-is-killed" "sh -c 'kill -SEGV $$' || exit 7" { };
  no-output = drv "no-output" "echo I made nothing" { };
  one-output-missing =
    drv "one-output-missing" "echo 1 > $out"
      {
        outputs = [
          "out"
          "dev"
        ];
      };
  device-in-output = drv "device-in-output" "mkdir $out; mknod $out/device c 0 0" { };
  fifo-in-output = drv "fifo-in-output" "mkdir $out; mkfifo $out/fifo" { };
  fifo-output = drv "fifo-output" "mkfifo $out" { };
  socket-in-output = drv "socket-in-output" "mkdir $out; probe socket $out/socket" { };
  group-writable-output = drv "group-writable-output" "mkdir $out; chmod 775 $out" { };
  world-writable-output = drv "world-writable-output" "echo x > $out; chmod 666 $out" { };
  group-writable-inside = drv "group-writable-inside" "mkdir $out; echo x > $out/x; chmod 777 $out/x" { };
  leaves-a-process = drv "leaves-a-process" "(sleep 300 > /dev/null 2>&1 < /dev/null &) ; echo done > $out" { };
  prints-much = drv "prints-much" "yes 'a line of log' | head -n 20000; echo ok > $out" { };
  prints-bytes = drv "prints-bytes" "printf '\\000\\377\\033[31m no newline' ; echo ok > $out" { };
  output-name-in-store-only = drv "writes-beside-its-output" "echo x > $out; echo y > $out-more" { };

  # Derivations that are outputs of derivations.
  dynamic-producer = dynamicSimple;
  dynamic-input = drv "dynamic-input" "cat ${outputOf dynamicSimple} > $out" { };
  dynamic-input-refers = drv "dynamic-input-refers" "ln -s ${outputOf dynamicSimple} $out" { };
  dynamic-input-of-floating = drv "dynamic-input-of-floating" "cat ${outputOf dynamicSimple} > $out" floating;
  dynamic-input-of-fixed =
    drv "dynamic-input-of-fixed" "cat ${outputOf dynamicSimple}; echo content > $out"
      (fixed "sha256" "flat" (hashOf "sha256"));
  dynamic-input-of-deferred =
    drv "dynamic-input-of-deferred" "cat ${outputOf dynamicSimple} ${caDep}/file > $out; echo $out >> $out"
      { };
  dynamic-input-in-environment = drv "dynamic-input-in-environment" "cat $inner > $out" { inner = outputOf dynamicSimple; };
  dynamic-input-structured = drv "dynamic-input-structured" "${outputFrom "out"}; cat ${outputOf dynamicSimple} > $out" {
    __structuredAttrs = true;
    inner = [ (outputOf dynamicSimple) ];
  };
  dynamic-inner-and-outer =
    drv "dynamic-inner-and-outer" "cat ${dynamicSimple} ${outputOf dynamicSimple} > $out; [ -s $out ] && echo both > $out"
      { };
  dynamic-user-of-user =
    drv "dynamic-user-of-user"
      "cat ${drv "dynamic-user" "cat ${outputOf dynamicSimple} > $out" { }} > $out"
      { };
  dynamic-inner-floating =
    drv "dynamic-inner-floating" "cat ${outputOf (dynamic (drv "dynamic-floating-inner" "echo inner > $out" floating))} > $out"
      { };
  dynamic-inner-deferred =
    drv "dynamic-inner-deferred"
      "cat ${outputOf (dynamic (drv "dynamic-deferred-inner" "cat ${caDep}/file > $out" { }))} > $out"
      { };
  dynamic-inner-fixed =
    drv "dynamic-inner-fixed"
      "cat ${
        outputOf (dynamic (drv "dynamic-fixed-inner" "echo content > $out" (fixed "sha256" "flat" (hashOf "sha256"))))
      } > $out"
      { };
  dynamic-inner-has-inputs =
    drv "dynamic-inner-has-inputs"
      "cat ${outputOf (dynamic (drv "dynamic-inner-inputs" "cat ${dep2}/dep > $out" { }))} > $out"
      { };
  dynamic-outputs =
    let
      outer = dynamic (drv "dynamic-two" "echo 1 > $out; echo 2 > $dev" { outputs = [ "out" "dev" ]; });
    in
    drv "dynamic-outputs" "cat ${builtins.outputOf outer.outPath "out"} ${builtins.outputOf outer.outPath "dev"} > $out" { };
  dynamic-second-output =
    let
      outer = dynamic (drv "dynamic-two-more" "echo 1 > $out; echo 2 > $dev" { outputs = [ "out" "dev" ]; });
    in
    drv "dynamic-second-output" "cat ${builtins.outputOf outer.outPath "dev"} > $out" { };
  dynamic-two-levels = drv "dynamic-two-levels" "cat ${
    builtins.outputOf (outputOf (dynamic (dynamic (drv "dynamic-innermost" "echo innermost > $out" { })))) "out"
  } > $out" { };
  dynamic-three-levels = drv "dynamic-three-levels" "cat ${
    builtins.outputOf (builtins.outputOf (
      outputOf (dynamic (dynamic (dynamic (drv "dynamic-deepest" "echo deepest > $out" { })))))
    "out") "out"
  } > $out" { };
  dynamic-inner-has-dynamic-input = drv "dynamic-inner-has-dynamic-input" "cat ${
    outputOf (dynamic (drv "dynamic-inner-dynamic" "cat ${outputOf dynamicSimple} > $out" { }))
  } > $out" { };
  dynamic-producer-has-dynamic-input = drv "dynamic-producer-has-dynamic-input" "cat ${
    outputOf (
      drv "dynamic-made-later.drv"
        "cat ${outputOf dynamicSimple}; cp ${builtins.unsafeDiscardOutputDependency (drv "dynamic-made-later" "echo later > $out" { }).drvPath} $out"
        text
    )
  } > $out" { };
  # A fixed output has no references, so that what it describes has no inputs.
  dynamic-fixed-producer =
    let
      sh = {
        builder = "/bin/sh";
        PATH = "";
      };
      inner = drv "dynamic-from-fixed" "echo fixed > $out" sh;
      made = drv "dynamic-from-fixed.drv" "echo -n \"$text\" > $out" {
        text = builtins.unsafeDiscardStringContext (builtins.readFile inner.drvPath);
        outputHashMode = "text";
        outputHashAlgo = "sha256";
        outputHash = builtins.hashFile "sha256" inner.drvPath;
      };
    in
    drv "dynamic-fixed-producer" "cat ${outputOf made} > $out" { };

  # What fails.
  dynamic-inner-fails =
    drv "dynamic-inner-fails" "cat ${outputOf (dynamic (drv "dynamic-failing-inner" "exit 3" { }))} > $out"
      { };
  dynamic-producer-fails =
    drv "dynamic-producer-fails" "cat ${outputOf (drv "dynamic-failing-producer.drv" "exit 3" text)} > $out"
      { };
  dynamic-user-fails = drv "dynamic-user-fails" "cat ${outputOf dynamicSimple}; exit 3" { };
  dynamic-no-derivation = drv "dynamic-no-derivation" "cat ${
    outputOf (drv "dynamic-nonsense.drv" "echo nonsense > $out" text)
  } > $out" { };
  dynamic-empty = drv "dynamic-empty" "cat ${outputOf (drv "dynamic-nothing.drv" ": > $out" text)} > $out" { };
  dynamic-directory = drv "dynamic-directory" "cat ${outputOf (drv "dynamic-dir.drv" "mkdir $out" text)} > $out" { };
  dynamic-other-text = drv "dynamic-other-text" "cat ${
    outputOf (drv "dynamic-other-text-inner" "echo nonsense > $out" text)
  } > $out" { };
  dynamic-without-suffix = drv "dynamic-without-suffix" "cat ${
    outputOf (
      drv "dynamic-unnamed" "cp ${
        builtins.unsafeDiscardOutputDependency (drv "dynamic-unnamed-inner" "echo x > $out" { }).drvPath
      } $out" text
    )
  } > $out" { };
  dynamic-other-name = drv "dynamic-other-name" "cat ${
    outputOf (
      drv "dynamic-renamed.drv" "cp ${
        builtins.unsafeDiscardOutputDependency (drv "dynamic-named" "echo x > $out" { }).drvPath
      } $out" text
    )
  } > $out" { };
  dynamic-other-name-floating = drv "dynamic-other-name-floating" "cat ${
    outputOf (
      drv "dynamic-renamed-floating.drv" "cp ${
        builtins.unsafeDiscardOutputDependency (drv "dynamic-named-floating" "echo x > $out" floating).drvPath
      } $out" text
    )
  } > $out" { };
  dynamic-missing-output = drv "dynamic-missing-output" "cat ${builtins.outputOf dynamicSimple.outPath "doc"} > $out" { };
  dynamic-not-text =
    drv "dynamic-not-text" "cat ${
      outputOf (drv "dynamic-recursive-hash" "echo nonsense > $out" floating)
    } > $out" { };
}
