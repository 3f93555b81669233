//! A C project as derivations: its sources in three variants, and a build.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use bstr::BString;
use droste_executor::THIS_SYSTEM;
use droste_toolchain::{Recipe, SourceError};
use store_local::{LocalError, LocalStore};
use store_types::{
    Derivation, DerivationOutput, HashModulo, HashModuloError, StoreDir, StorePath, StorePathError,
};

use crate::cli::workshop::{Workshop, WorkshopError};

/// The sources that are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// As they were published.
    Original,
    /// With another body of one function.
    BodyEdit,
    /// With another comment in one header.
    CommentEdit,
}

/// A project that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// Its sources are not to be had.
    #[error("cannot get the sources of `{name}`")]
    Sources {
        /// The project.
        name: &'static str,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// The sources cannot be copied.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// They cannot be added to the store.
    #[error("cannot add the sources of `{name}` to the store")]
    Add {
        /// The project.
        name: &'static str,
        /// Why.
        #[source]
        source: LocalError,
    },
    /// There is no place for the changed sources.
    #[error("cannot change the sources of `{name}`")]
    Workshop {
        /// The project.
        name: &'static str,
        /// Why.
        #[source]
        source: WorkshopError,
    },
    /// The output's path does not follow.
    #[error("cannot compute the output path of `{name}`")]
    OutputPath {
        /// The project.
        name: &'static str,
        /// Why.
        #[source]
        source: Box<HashModuloError<LocalError>>,
    },
    /// Its name cannot be part of a store path.
    #[error("`{name}` cannot be part of a store path")]
    Name {
        /// The derivation's name.
        name: String,
        /// Why.
        #[source]
        source: StorePathError,
    },
}

/// A project whose sources are here.
pub struct Project {
    recipe: &'static Recipe,
    sources: PathBuf,
    toolchain: StorePath,
    makefile: StorePath,
    script: StorePath,
}

impl Project {
    /// Fetches the sources if need be, and adds the build's own files to the store.
    pub fn prepare(
        recipe: &'static Recipe,
        cache_dir: &Path,
        store: &LocalStore,
        toolchain: StorePath,
    ) -> Result<Self, ProjectError> {
        let name = recipe.name;
        let sources = recipe
            .fetch(cache_dir)
            .map_err(|source| ProjectError::Sources { name, source })?;
        let add = |suffix: &str, text: &str| {
            store
                .add_text(
                    &format!("{name}.{suffix}"),
                    text.as_bytes(),
                    &BTreeSet::new(),
                )
                .map(|info| info.path)
                .map_err(|source| ProjectError::Add { name, source })
        };
        Ok(Self {
            recipe,
            sources,
            toolchain,
            makefile: add("mk", recipe.makefile)?,
            script: add("sh", recipe.script)?,
        })
    }

    /// The derivation that builds this variant, in the store with its sources.
    pub fn derivation(
        &self,
        store: &LocalStore,
        variant: Variant,
    ) -> Result<StorePath, ProjectError> {
        let name = self.recipe.name;
        let sources = self.add_sources(store, variant)?;
        let dir = store.store_dir();
        let drv = self.input_addressed(dir, &sources)?;
        let drv_name = format!("{}.drv", self.drv_name());
        let info = store
            .add_text(&drv_name, &drv.to_aterm(dir), &drv.references())
            .map_err(|source| ProjectError::Add { name, source })?;
        Ok(info.path)
    }

    fn drv_name(&self) -> String {
        format!("{}-{}", self.recipe.name, self.recipe.version)
    }

    fn add_sources(&self, store: &LocalStore, variant: Variant) -> Result<StorePath, ProjectError> {
        let edit = match variant {
            Variant::Original => return self.add_tree(store, &self.sources),
            Variant::BodyEdit => self.recipe.body_edit,
            Variant::CommentEdit => self.recipe.comment_edit,
        };
        let name = self.recipe.name;
        let workshop =
            Workshop::open(store).map_err(|source| ProjectError::Workshop { name, source })?;
        let changed = workshop.dir().join("sources");
        copy_tree(&self.sources, &changed)?;
        edit.apply(&changed)
            .map_err(|source| ProjectError::Sources { name, source })?;
        self.add_tree(store, &changed)
    }

    fn add_tree(&self, store: &LocalStore, tree: &Path) -> Result<StorePath, ProjectError> {
        let (parent, node) = match (tree.parent(), tree.file_name()) {
            (Some(parent), Some(node)) => (parent, node),
            _ => (tree, OsStr::new(".")),
        };
        let dir = store_nar::fs::open_root(parent).map_err(io_error("open", parent))?;
        let name = format!("{}-src", self.drv_name());
        let info = store.add_tree(&name, dir.as_fd(), node, &BTreeSet::new());
        let info = info.map_err(|source| ProjectError::Add {
            name: self.recipe.name,
            source,
        })?;
        Ok(info.path)
    }

    /// The derivation, with the output path that follows from it.
    fn input_addressed(
        &self,
        dir: &StoreDir,
        sources: &StorePath,
    ) -> Result<Derivation, ProjectError> {
        let path = |path: &StorePath| BString::from(dir.display(path));
        let bin = format!("{}/bin", dir.display(&self.toolchain));
        let name = self.drv_name();
        let env: [(&str, BString); 8] = [
            ("PATH", bin.clone().into()),
            ("builder", format!("{bin}/bash").into()),
            ("makefile", path(&self.makefile)),
            ("name", name.clone().into()),
            ("out", BString::default()),
            ("script", path(&self.script)),
            ("src", path(sources)),
            ("system", THIS_SYSTEM.into()),
        ];
        let mut drv = Derivation {
            outputs: [("out".to_owned(), DerivationOutput::Deferred)].into(),
            input_drvs: Default::default(),
            input_srcs: [&self.toolchain, &self.makefile, &self.script, sources]
                .map(Clone::clone)
                .into(),
            system: THIS_SYSTEM.into(),
            builder: format!("{bin}/bash").into(),
            args: vec!["-e".into(), path(&self.script)],
            env: env
                .into_iter()
                .map(|(name, value)| (name.into(), value))
                .collect(),
        };
        let hashes = HashModulo::new(dir.clone())
            // There are no input derivations, so none is read.
            .masked(&drv, |path| -> Result<Derivation, LocalError> {
                Err(LocalError::NotValid { path: path.clone() })
            })
            .map_err(|source| ProjectError::OutputPath {
                name: self.recipe.name,
                source: Box::new(source),
            })?;
        for (output, hash) in &hashes.by_output {
            let out =
                dir.output_path(&name, output, hash)
                    .map_err(|source| ProjectError::Name {
                        name: name.clone(),
                        source,
                    })?;
            drv.env.insert(output.as_str().into(), path(&out));
            drv.outputs
                .insert(output.clone(), DerivationOutput::InputAddressed(out));
        }
        Ok(drv)
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ProjectError {
    let path = path.to_owned();
    move |source| ProjectError::Io {
        operation,
        path,
        source,
    }
}

/// Copies directories and files; there is nothing else in a crate.
fn copy_tree(from: &Path, to: &Path) -> Result<(), ProjectError> {
    std::fs::create_dir(to).map_err(io_error("make", to))?;
    for entry in std::fs::read_dir(from).map_err(io_error("list", from))? {
        let entry = entry.map_err(io_error("list", from))?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry
            .file_type()
            .map_err(io_error("examine", &from))?
            .is_dir()
        {
            copy_tree(&from, &to)?;
        } else {
            std::fs::copy(&from, &to).map_err(io_error("copy", &from))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use droste_toolchain::LUA;

    fn path(name: &str) -> StorePath {
        StorePath::from_base_name(&format!("{}-{name}", "0".repeat(32))).unwrap()
    }

    #[test]
    fn the_derivation_has_the_output_path_that_follows_from_it() {
        let project = Project {
            recipe: &LUA,
            sources: PathBuf::new(),
            toolchain: path("toolchain"),
            makefile: path("lua.mk"),
            script: path("lua.sh"),
        };
        let dir = StoreDir::default();
        let drv = project.input_addressed(&dir, &path("src")).unwrap();
        let drv_path = drv.drv_path(&dir, &project.drv_name()).unwrap();
        let none =
            |path: &StorePath| Err::<Derivation, _>(LocalError::NotValid { path: path.clone() });
        drv.check_output_paths(&drv_path, &mut HashModulo::new(dir.clone()), none)
            .unwrap();
        let other = project.input_addressed(&dir, &path("other-src")).unwrap();
        assert_ne!(drv.outputs, other.outputs);
    }

    #[test]
    fn a_tree_is_copied_with_its_directories() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("sub")).unwrap();
        std::fs::write(from.join("sub/a.c"), "int a;").unwrap();
        copy_tree(&from, &to).unwrap();
        assert_eq!(
            std::fs::read_to_string(to.join("sub/a.c")).unwrap(),
            "int a;"
        );
    }
}
