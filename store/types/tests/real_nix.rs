//! Derivations that a real Nix instantiates, against ours: bytes, `.drv` paths,
//! output paths, kinds, options.
//!
//! Skipped, with the reason printed, where `nix-instantiate` is missing.
//! `NIX_INSTANTIATE` names another program than the one on the PATH.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use store_types::{
    Derivation, DerivationKind, DerivationOptions, DerivationOutput, HashModulo, StoreDir,
    StorePath, upstream_placeholder,
};

const EXPRESSIONS: &str = r#"
let
  d = args: derivation ({ system = "x86_64-linux"; builder = "/bin/sh"; } // args);
  floating = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
  simple = d { name = "simple"; args = [ "-c" "echo hi > $out" ]; };
  multi = d { name = "multi"; outputs = [ "out" "dev" "bin" ]; own = "${placeholder "out"}:${placeholder "dev"}"; };
  fodflat = d { name = "fodflat"; outputHashAlgo = "sha256"; outputHashMode = "flat"; outputHash = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"; };
  fodrec = d { name = "fodrec"; outputHashMode = "recursive"; outputHash = "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM="; };
  ondeps = d { name = "ondeps"; deps = [ fodflat fodrec multi multi.dev simple ]; src = builtins.toFile "src" "content"; };
  ca = d (floating // { name = "ca"; own = placeholder "out"; });
  ca2 = d (floating // { name = "ca2"; outputs = [ "out" "dev" ]; deps = [ ca simple ]; });
  iaonca = d { name = "iaonca"; outputs = [ "out" "doc" ]; deps = [ ca ca2.dev ]; };
in [
  simple multi fodflat fodrec ondeps ca ca2 iaonca
  (d { name = "escapes"; args = [ "a\"b\\c\nd\re\tf" "ünïcode $x" "" ]; "odd name" = "v"; })
  (d { name = "sha1"; outputHashAlgo = "sha1"; outputHashMode = "recursive"; outputHash = "da39a3ee5e6b4b0d3255bfef95601890afd80709"; })
  (d { name = "sha512"; outputHashAlgo = "sha512"; outputHash = "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"; })
  (d { name = "md5"; outputHashAlgo = "md5"; outputHash = "d41d8cd98f00b204e9800998ecf8427e"; })
  (d { name = "twin1"; dep = fodflat; })
  (d { name = "onmore"; outputs = [ "dev" "lib" ]; deps = [ ondeps multi.bin ]; })
  (d { name = "iaoniaonca"; deps = [ iaonca.doc ]; })
  (d { name = "fodonca"; outputHash = "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM="; dep = ca; })
  (d { name = "passas"; passAsFile = [ "big" "b2" ]; big = "text"; b2 = "more"; requiredSystemFeatures = [ "kvm" "recursive-nix" ]; allowedReferences = [ "out" ]; exportReferencesGraph = [ "graph" simple ]; })
  (d { name = "structured"; __structuredAttrs = true; outputs = [ "out" "dev" ]; n = 1; f = 1.5; s = "it's"; b = true; nul = null; l = [ 1 "a" simple ]; o = { a = "x"; b.c = 1; }; requiredSystemFeatures = [ "kvm" ]; outputChecks.out = { maxSize = 100; allowedReferences = [ ]; }; })
]
"#;

const KINDS: &[(&str, DerivationKind)] = &[
    ("simple", DerivationKind::InputAddressed),
    ("multi", DerivationKind::InputAddressed),
    ("escapes", DerivationKind::InputAddressed),
    ("ondeps", DerivationKind::InputAddressed),
    ("twin1", DerivationKind::InputAddressed),
    ("onmore", DerivationKind::InputAddressed),
    ("passas", DerivationKind::InputAddressed),
    ("structured", DerivationKind::InputAddressed),
    ("fodflat", DerivationKind::Fixed),
    ("fodrec", DerivationKind::Fixed),
    ("sha1", DerivationKind::Fixed),
    ("sha512", DerivationKind::Fixed),
    ("md5", DerivationKind::Fixed),
    ("fodonca", DerivationKind::Fixed),
    ("ca", DerivationKind::Floating),
    ("ca2", DerivationKind::Floating),
    ("iaonca", DerivationKind::Deferred),
    ("iaoniaonca", DerivationKind::Deferred),
];

/// A store that a real Nix filled with the derivations of [`EXPRESSIONS`].
struct Instantiated {
    _tmp: tempfile::TempDir,
    physical: PathBuf,
    by_name: BTreeMap<String, StorePath>,
}

impl Instantiated {
    /// `None`, with the reason printed, if there is no Nix.
    fn new() -> Option<Self> {
        let program =
            std::env::var_os("NIX_INSTANTIATE").unwrap_or_else(|| "nix-instantiate".into());
        let found = Command::new(&program)
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        if let Err(error) = found {
            eprintln!("skipped: cannot run {}: {error}", program.display());
            return None;
        }
        let tmp = tempfile::tempdir().unwrap();
        let physical = tmp.path().join("nix/store");
        fs::create_dir_all(tmp.path().join("nix/var/nix")).unwrap();
        let expressions = tmp.path().join("all.nix");
        fs::write(&expressions, EXPRESSIONS).unwrap();
        let output = Command::new(&program)
            .arg("--store")
            .arg(tmp.path())
            .arg(&expressions)
            .env_remove("NIX_STATE_DIR")
            .env_remove("NIX_REMOTE")
            .env("HOME", tmp.path())
            .env(
                "NIX_CONFIG",
                "experimental-features = nix-command ca-derivations",
            )
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "nix-instantiate failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let dir = StoreDir::default();
        let by_name = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| {
                let path = dir.parse(line.split('!').next().unwrap()).unwrap();
                (path.derivation_name().unwrap().to_owned(), path)
            })
            .collect();
        Some(Self {
            _tmp: tmp,
            physical,
            by_name,
        })
    }

    fn bytes(&self, path: &StorePath) -> Vec<u8> {
        fs::read(self.file(path)).unwrap()
    }

    fn file(&self, path: &StorePath) -> PathBuf {
        Path::new(&self.physical).join(path.base_name())
    }

    fn read(&self, path: &StorePath) -> Result<Derivation, store_types::DerivationParseError> {
        Derivation::parse(&StoreDir::default(), &self.bytes(path))
    }
}

#[test]
fn every_derivation_nix_instantiates_is_read_and_recomputed_as_it_is() {
    let Some(nix) = Instantiated::new() else {
        return;
    };
    let dir = StoreDir::default();
    assert_eq!(nix.by_name.len(), KINDS.len());
    for (name, kind) in KINDS {
        let path = &nix.by_name[*name];
        let drv = nix.read(path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(drv.to_aterm(&dir), nix.bytes(path), "{name}");
        assert_eq!(drv.drv_path(&dir, name).as_ref(), Ok(path), "{name}");
        assert_eq!(drv.kind(), Ok(*kind), "{name}");
        // A new memory for each: what one derivation teaches must not help the next.
        let mut modulo = HashModulo::new(dir.clone());
        drv.check_output_paths(path, &mut modulo, |input| nix.read(input))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn a_changed_derivation_has_other_output_paths() {
    let Some(nix) = Instantiated::new() else {
        return;
    };
    for name in ["simple", "onmore", "structured"] {
        let path = &nix.by_name[name];
        let mut drv = nix.read(path).unwrap();
        drv.args.push("more".into());
        let mut modulo = HashModulo::new(StoreDir::default());
        let checked = drv.check_output_paths(path, &mut modulo, |input| nix.read(input));
        assert!(checked.is_err(), "{name}");
    }
}

#[test]
fn a_deferred_derivation_resolves_once_its_inputs_are_known() {
    let Some(nix) = Instantiated::new() else {
        return;
    };
    let dir = StoreDir::default();
    let drv = nix.read(&nix.by_name["iaonca"]).unwrap();
    assert_eq!(drv.is_resolution_needed(), Ok(true));
    let built = StorePath::from_hash_and_name(&[7; 20], "ca").unwrap();
    let resolved = drv
        .resolve(&dir, "iaonca", |_, _| Some(built.clone()))
        .unwrap();
    assert_eq!(resolved.is_resolution_needed(), Ok(false));
    assert_eq!(resolved.input_srcs, [built.clone()].into());
    let text = dir.display(&built);
    assert_eq!(resolved.env[b"deps".as_slice()], format!("{text} {text}"));
    assert!(
        resolved
            .outputs
            .values()
            .all(|output| matches!(output, DerivationOutput::InputAddressed(_)))
    );
    let path = resolved.drv_path(&dir, "iaonca").unwrap();
    resolved
        .check_output_paths(&path, &mut HashModulo::new(dir), |input| nix.read(input))
        .unwrap();

    let placeholder = upstream_placeholder(&nix.by_name["ca"], "out").unwrap();
    assert!(drv.env[b"deps".as_slice()].starts_with(placeholder.as_bytes()));
}

#[test]
fn options_are_found_where_nix_puts_them() {
    let Some(nix) = Instantiated::new() else {
        return;
    };
    let dir = StoreDir::default();
    let options = |name: &str| {
        let drv = nix.read(&nix.by_name[name]).unwrap();
        (DerivationOptions::of(&drv).unwrap(), drv)
    };

    let (passas, _) = options("passas");
    assert!(!passas.is_structured());
    assert_eq!(passas.pass_as_file, ["big".into(), "b2".into()].into());
    assert_eq!(
        passas.required_system_features,
        ["kvm".to_owned(), "recursive-nix".to_owned()].into()
    );
    let simple = nix.read(&nix.by_name["simple"]).unwrap();
    let simple_out = dir.display(simple.outputs["out"].path().unwrap());
    assert_eq!(
        passas.export_references_graph,
        [("graph".to_owned(), [simple_out].into())].into()
    );
    let checks = passas.output_checks_of("dev");
    assert_eq!(checks.allowed_references, Some(["out".to_owned()].into()));
    assert!(checks.ignores_self_references);

    let (structured, _) = options("structured");
    assert!(structured.is_structured());
    assert_eq!(
        structured.required_system_features,
        ["kvm".to_owned()].into()
    );
    let checks = structured.output_checks_of("out");
    assert_eq!(checks.max_size_bytes, Some(100));
    assert_eq!(checks.allowed_references, Some([].into()));
    assert_eq!(structured.output_checks_of("dev").allowed_references, None);
}
