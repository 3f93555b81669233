//! From what a call needs to its child's derivation.

use std::collections::{BTreeMap, BTreeSet};

use shim_core::manifest::{self, Entry, Manifest};
use shim_core::protocol::Window;
use store_types::{Derivation, StoreDir, StorePath};

use super::call::Asked;
use super::derivation::{ChildParts, child_derivation};
use super::files::input_path;
use super::inputs::{InputFile, base_name};
use super::outcome::InPlace;
use super::tools::store_paths_named;
use super::tree::{BUILD_DIR, Layout};

/// What a child executes: everything of it that is not a file.
#[derive(Clone)]
pub(super) struct Command {
    /// The program, absolute, symlinks and all.
    pub(super) exe: Vec<u8>,
    /// The arguments, the program's name first.
    pub(super) argv: Vec<Vec<u8>>,
    /// The environment.
    pub(super) env: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The directory.
    pub(super) cwd: Vec<u8>,
    /// The terminals that standard output and standard error are.
    pub(super) ttys: [Option<Window>; 2],
}

/// A child's derivation.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) path: StorePath,
    pub(super) drv: Derivation,
    pub(super) text: Vec<u8>,
    /// What is in it.
    pub(super) manifest: Manifest,
    /// Those of its inputs that it sees at their store paths: all but the sources of its files,
    /// which are laid out, unless they are inputs for another reason, too.
    pub(super) visible: BTreeSet<StorePath>,
}

/// The store paths of the files that a manifest lays out.
fn sources<'m>(
    store_dir: &'m StoreDir,
    manifest: &'m Manifest,
) -> impl Iterator<Item = StorePath> + 'm {
    manifest.layout.iter().filter_map(|entry| match entry {
        Entry::File { source, .. } => {
            let (path, _) = store_dir.split(str::from_utf8(source).ok()?)?;
            Some(path)
        }
        _ => None,
    })
}

impl Command {
    /// The manifest of this command with these files.
    pub(super) fn manifest(&self, layout: Vec<Entry>) -> Manifest {
        let [stdout_tty, stderr_tty] = self.ttys;
        Manifest {
            exe: self.exe.clone(),
            argv: self.argv.clone(),
            env: self
                .env
                .iter()
                .map(|(name, value)| [name.as_slice(), b"=", value].concat())
                .collect(),
            cwd: self.cwd.clone(),
            stdout_tty,
            stderr_tty,
            layout,
        }
    }

    /// All texts of it that can name a store path.
    fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.argv
            .iter()
            .chain(self.env.values())
            .chain([&self.exe])
            .map(Vec::as_slice)
    }
}

impl Asked<'_> {
    /// The store paths that a command names and its caller may see. Those that it only
    /// mentions, such as in `-DPREFIX=…`, count as well.
    pub(super) fn named_inputs(&self, command: &Command) -> BTreeSet<StorePath> {
        command
            .texts()
            .flat_map(|text| store_paths_named(text, self.store_dir()))
            .filter(|path| self.caller.is_allowed(path))
            .collect()
    }

    /// What has to be laid out for a child, and the store paths that it sees beside that.
    pub(super) fn lay_out(
        &self,
        layout: &Layout,
        files: &BTreeMap<Vec<u8>, InputFile>,
    ) -> (Vec<Entry>, BTreeSet<StorePath>) {
        let inputs = layout.store_paths.clone();
        let mut entries = Vec::new();
        for path in &layout.dirs {
            if path != BUILD_DIR {
                entries.push(Entry::Directory { path: path.clone() });
            }
        }
        for (path, target) in &layout.links {
            entries.push(Entry::Link {
                path: path.clone(),
                target: target.clone(),
            });
        }
        for (path, input) in files {
            let source = input_path(
                self.store_dir(),
                &input.file.facts.nar_hash,
                base_name(path),
            );
            entries.push(Entry::File {
                path: path.clone(),
                mtime_seconds: input.mtime,
                source: self.store_dir().display(&source).into_bytes(),
                executable: input.executable,
            });
        }
        for bind in layout.binds.iter() {
            entries.push(Entry::Bind {
                path: bind.path.clone(),
                source: bind.object.clone(),
            });
        }
        (entries, inputs)
    }

    /// The derivation of a child that sees these store paths, beside the files of its manifest.
    pub(super) fn make_child(
        &self,
        name: &str,
        manifest: Manifest,
        mut visible: BTreeSet<StorePath>,
    ) -> Result<Made, InPlace> {
        let runner = self
            .executor
            .program("droste-runner")
            .map_err(|_| InPlace::new("runner-missing"))?;
        let text = manifest.print();
        if text.len() > manifest::MANIFEST_BYTES_MAX {
            return Err(InPlace::new("many-inputs"));
        }
        let mut inputs = visible.clone();
        inputs.extend(sources(self.store_dir(), &manifest));
        let parts = ChildParts {
            name,
            system: self.executor.settings.system.as_bytes(),
            runner: &runner,
            manifest: text,
            inputs,
        };
        let (drv, text, path) = child_derivation(self.store_dir(), parts)
            .map_err(|_| InPlace::new("unnameable-output"))?;
        visible.insert(runner);
        Ok(Made {
            path,
            drv,
            text,
            manifest,
            visible,
        })
    }
}
