//! The derivation of a call, and what is made of its result.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use shim_core::client::Caller;
use shim_core::manifest::{self, Entry, Manifest};
use store_api::{BuildMode, Silent, Store as _};
use store_client::{RemoteOptions, RemoteStore};
use store_types::{
    ContentAddressMethod, Derivation, DerivationOutput, DerivedPath, HashAlgorithm, OutputsSpec,
    StoreDir, StorePath, output_placeholder,
};

use crate::compiler::Compiler;
use crate::inputs::Inputs;
use crate::{BUILD_DIR, Call, InPlace};

/// The modification time of inputs: as in the executor's children, and not that of store objects.
const INPUT_MTIME: i64 = 315_532_800;

/// The other Nix, by the socket of the build.
pub(crate) struct Store {
    dir: StoreDir,
    remote: RemoteStore,
}

impl Store {
    pub(crate) fn connect(call: &Call) -> Result<Self, InPlace> {
        let address = call.variable("NIX_REMOTE").unwrap_or_default();
        let socket = address.strip_prefix(b"unix://").unwrap_or_default();
        if socket.is_empty() || socket.contains(&b'?') {
            return Err(InPlace::new("no socket"));
        }
        let options = RemoteOptions {
            // What is held is held for the connection.
            connections_max: 1,
            ..RemoteOptions::default()
        };
        let remote = RemoteStore::at_socket(Path::new(OsStr::from_bytes(socket)), options);
        remote.hello().map_err(InPlace::cannot("connect to Nix"))?;
        Ok(Self {
            dir: StoreDir::default(),
            remote,
        })
    }

    /// The valid objects among those that paths in the store lie in. Another's that is there is
    /// being made, perhaps by the build itself.
    fn objects(
        &self,
        paths: impl Iterator<Item = PathBuf>,
    ) -> Result<BTreeSet<StorePath>, InPlace> {
        let mut objects = BTreeSet::new();
        for path in paths {
            let Some(text) = path.to_str() else { continue };
            if let Some((object, _)) = self.dir.split(text) {
                objects.insert(object);
            }
        }
        let valid = self
            .remote
            .query_valid_paths(&objects, false)
            .map_err(InPlace::cannot("ask which paths are valid"))?;
        for object in objects.difference(&valid) {
            if fs::symlink_metadata(self.dir.display(object)).is_ok() {
                return Err(InPlace::new("a store path that is no input"));
            }
        }
        Ok(valid)
    }
}

/// Has the call built, and leaves what it leaves.
pub(crate) fn answer(
    call: &Call,
    store: &Store,
    compiler: &Compiler,
    inputs: &Inputs,
) -> Result<(), InPlace> {
    let added = store
        .remote
        .add_content_addressed(
            "droste-inputs",
            ContentAddressMethod::Nar,
            HashAlgorithm::Sha256,
            &BTreeSet::new(),
            false,
            &mut &nar(inputs.files.values())[..],
        )
        .map_err(InPlace::cannot("add the inputs"))?;
    let source = store.dir.display(&added.path);
    let manifest = manifest(call, compiler, inputs, &source)?;
    let runner = runner(call)?;
    let mut named: Vec<PathBuf> = inputs.in_store.iter().cloned().collect();
    named.extend([compiler.exe.clone(), runner.clone()]);
    if let Ok(real) = fs::canonicalize(&compiler.exe) {
        named.push(real);
    }
    for text in compiler.effective.iter().chain(compiler.env.values()) {
        named.extend(store_paths_named(text));
    }
    let mut sources = store.objects(named.into_iter())?;
    sources.insert(added.path);
    let object = compiler.compile.object.as_deref().unwrap_or_default();
    let name = object_name(object);
    let drv = derivation(&name, &runner, manifest, sources);
    let text = drv.to_aterm(&store.dir);
    let info = store
        .remote
        .add_content_addressed(
            &format!("{name}.drv"),
            ContentAddressMethod::Text,
            HashAlgorithm::Sha256,
            &drv.references(),
            false,
            &mut &text[..],
        )
        .map_err(InPlace::cannot("add the derivation"))?;
    let wanted = [DerivedPath::Built {
        drv: info.path.into(),
        outputs: OutputsSpec::Names(["out".to_owned()].into()),
    }];
    let mut results = store
        .remote
        .build_paths(&wanted, BuildMode::Normal, &mut Silent)
        .map_err(InPlace::cannot("build"))?;
    let result = results.pop().map(|keyed| keyed.result);
    let mut result = result.ok_or_else(|| InPlace::new("no result"))?;
    let Some(output) = result.built_outputs.remove("out") else {
        return Err(InPlace(format!("the build failed: {}", result.error_msg)));
    };
    let output = PathBuf::from(store.dir.display(&output.out_path));
    take(call, compiler, &output)
}

/// The archive of a directory that has these files, by their numbers.
fn nar<'a>(files: impl Iterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    let mut nar = Vec::new();
    let mut put = |texts: &[&[u8]]| {
        for text in texts {
            nar.extend_from_slice(&(text.len() as u64).to_le_bytes());
            nar.extend_from_slice(text);
            nar.resize(nar.len().next_multiple_of(8), 0);
        }
    };
    put(&[b"nix-archive-1", b"(", b"type", b"directory"]);
    for (number, content) in files.enumerate() {
        let name = file_name(number);
        put(&[b"entry", b"(", b"name", name.as_bytes(), b"node"]);
        put(&[b"(", b"type", b"regular", b"contents", content, b")", b")"]);
    }
    put(&[b")"]);
    nar
}

/// Names in the order of their numbers, as an archive has them.
fn file_name(number: usize) -> String {
    format!("{number:06}")
}

fn manifest(
    call: &Call,
    compiler: &Compiler,
    inputs: &Inputs,
    source: &str,
) -> Result<Vec<u8>, InPlace> {
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let described = Caller::this_process()
        .call(compiler.argv.clone(), Vec::new(), Vec::new())
        .map_err(|_| InPlace::new("no current directory"))?;
    let dirs = inputs
        .dirs
        .iter()
        .filter(|dir| **dir != Path::new(BUILD_DIR));
    let mut layout: Vec<Entry> = dirs
        .map(|dir| Entry::Directory { path: bytes(dir) })
        .collect();
    for (number, path) in inputs.files.keys().enumerate() {
        layout.push(Entry::File {
            path: bytes(path),
            mtime_seconds: INPUT_MTIME,
            source: format!("{source}/{}", file_name(number)).into_bytes(),
            executable: false,
        });
    }
    let manifest = Manifest {
        exe: bytes(&compiler.exe),
        argv: compiler.argv.clone(),
        env: compiler
            .env
            .iter()
            .map(|(name, value)| [name, &b"="[..], value].concat())
            .collect(),
        cwd: bytes(&call.cwd),
        stdout_tty: described.stdout_tty,
        stderr_tty: described.stderr_tty,
        layout,
    };
    let text = manifest.print();
    // A name that it cannot have.
    Manifest::parse(&text).map_err(InPlace::cannot("describe the call"))?;
    Ok(text)
}

/// The program that lays a child's files out and runs the compiler; it lies beside this one.
fn runner(call: &Call) -> Result<PathBuf, InPlace> {
    let shim = fs::canonicalize(&call.shim).map_err(InPlace::cannot("find the shim"))?;
    let package = shim.parent().and_then(Path::parent);
    let runner = package.map(|package| package.join("libexec/droste-runner"));
    runner
        .filter(|runner| runner.is_file())
        .ok_or_else(|| InPlace::new("no runner"))
}

/// The store paths that a text has in it, to their ends.
fn store_paths_named(text: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    const DIR: &[u8] = b"/nix/store/";
    let starts = (0..text.len()).filter(|start| text[*start..].starts_with(DIR));
    starts.map(|start| {
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte);
        let name = text[start + DIR.len()..]
            .iter()
            .take_while(|byte| is_name(byte));
        let name: Vec<u8> = name.copied().collect();
        Path::new("/nix/store").join(OsStr::from_bytes(&name))
    })
}

/// What a child is called: as its object is.
fn object_name(object: &[u8]) -> String {
    let base = object.rsplit(|byte| *byte == b'/').next().unwrap_or(object);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
    let name: String = base
        .iter()
        .map(|byte| {
            if is_plain(*byte) {
                char::from(*byte)
            } else {
                '_'
            }
        })
        .take(100)
        .collect();
    match name.trim_start_matches('.') {
        "" => "object".to_owned(),
        name => name.to_owned(),
    }
}

fn derivation(
    name: &str,
    runner: &Path,
    manifest: Vec<u8>,
    input_srcs: BTreeSet<StorePath>,
) -> Derivation {
    let system = format!("{}-linux", std::env::consts::ARCH);
    let runner = runner.as_os_str().as_bytes();
    let env: [(&str, Vec<u8>); 8] = [
        ("builder", runner.to_vec()),
        ("manifest", manifest),
        ("name", name.into()),
        ("out", output_placeholder("out").into()),
        ("outputHashAlgo", b"sha256".to_vec()),
        ("outputHashMode", b"recursive".to_vec()),
        ("passAsFile", b"manifest".to_vec()),
        ("system", system.clone().into()),
    ];
    Derivation {
        outputs: BTreeMap::from([(
            "out".to_owned(),
            DerivationOutput::Floating {
                method: ContentAddressMethod::Nar,
                algorithm: HashAlgorithm::Sha256,
            },
        )]),
        input_drvs: BTreeMap::new(),
        input_srcs,
        system: system.into(),
        builder: runner.into(),
        args: Vec::new(),
        env: env
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    }
}

/// Puts what the compiler has made into its places, and says what it has said.
fn take(call: &Call, compiler: &Compiler, output: &Path) -> Result<(), InPlace> {
    let read = |path: &Path| {
        let what = format!("read `{}`", path.display());
        fs::read(path).map_err(InPlace::cannot(what))
    };
    if read(&output.join(manifest::STATUS))? != b"0\n" {
        return Err(InPlace::new("child-failed"));
    }
    if output.join(manifest::ODD).exists() {
        return Err(InPlace::new("child-did-more"));
    }
    let (out, err) = (
        read(&output.join(manifest::STDOUT))?,
        read(&output.join(manifest::STDERR))?,
    );
    if !out.is_empty() && !err.is_empty() {
        return Err(InPlace::new("two-streams"));
    }
    let files = output.join(manifest::FILES);
    let mut made = Vec::new();
    list(&files, &mut made)?;
    for path in made {
        let rest = path
            .strip_prefix(&files)
            .map_err(InPlace::cannot("place a result"))?;
        let target = Path::new("/").join(rest);
        let is_known = compiler.compile.outputs().any(|known| {
            let known = call.cwd.join(OsStr::from_bytes(known));
            known.parent() == target.parent() || known == target
        });
        if !is_known {
            return Err(InPlace::new("child-did-more"));
        }
        // As a compiler does: an object that is there is another file then.
        match fs::remove_file(&target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(InPlace::cannot("replace a result")(error));
            }
            _ => {}
        }
        let content = read(&path)?;
        fs::write(&target, content).map_err(InPlace::cannot("write a result"))?;
    }
    // After that nothing can go wrong that the compiler would mend.
    let _ = std::io::stdout().write_all(&out);
    let _ = std::io::stderr().write_all(&err);
    Ok(())
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), InPlace> {
    let entries = fs::read_dir(dir).map_err(InPlace::cannot("list the results"))?;
    for entry in entries {
        let entry = entry.map_err(InPlace::cannot("list the results"))?;
        let kind = entry
            .file_type()
            .map_err(InPlace::cannot("list the results"))?;
        if kind.is_dir() {
            list(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        } else {
            return Err(InPlace::new("child-did-more"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_paths_are_found_wherever_a_text_has_them() {
        let hash = "0mdqa9w1p6cmli6976v4wi0sw9r4p5pr";
        let text = format!("-I/nix/store/{hash}-a/include:/nix/store/{hash}-b;/nix/store/");
        let named: Vec<PathBuf> = store_paths_named(text.as_bytes()).collect();
        let expected = ["a", "b"].map(|name| PathBuf::from(format!("/nix/store/{hash}-{name}")));
        assert_eq!(named[..2], expected);
    }

    #[test]
    fn names_of_children_are_such_that_a_store_path_can_have_them() {
        for (object, expected) in [
            ("main.o", "main.o"),
            ("a/b c.o", "b_c.o"),
            (".x", "x"),
            ("...", "object"),
        ] {
            assert_eq!(object_name(object.as_bytes()), expected);
        }
    }
}
