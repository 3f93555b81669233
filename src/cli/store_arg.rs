//! Store paths as users type them: as they are inside builds, or as files of this
//! machine below the store's directory.

use std::path::{Path, PathBuf};

use store_types::{
    DerivedPath, NESTING_MAX, OutputsSpec, SingleDerivedPath, StoreDir, StorePath, is_output_name,
};

/// What was typed is no path of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreArgError {
    /// A file that is somewhere else.
    #[error("`{text}` is not in the store: it is neither below `{dir}` nor below `{}`", physical.display())]
    Outside {
        /// What was typed.
        text: String,
        /// The logical store directory.
        dir: String,
        /// Where that is on this machine.
        physical: PathBuf,
    },
    /// There is nothing of this name anywhere.
    #[error("`{text}` is not a path of the store, and there is no such file")]
    NoSuchFile {
        /// What was typed.
        text: String,
    },
    /// It looks like a store path, but is none.
    #[error("`{text}` is not a store path")]
    Malformed {
        /// What was typed.
        text: String,
        /// Why.
        #[source]
        source: store_types::StorePathError,
    },
    /// A store path of something else.
    #[error("`{text}` is not a derivation: its name does not end in `.drv`")]
    NotADerivation {
        /// What was typed.
        text: String,
    },
    /// What follows the path does not name outputs.
    #[error("`{text}` does not end in `*` or in names of outputs")]
    Outputs {
        /// What was typed.
        text: String,
    },
}

/// A store's two directories.
#[derive(Clone, Copy, Debug)]
pub struct StorePlace<'a> {
    /// The logical one, mostly `/nix/store`.
    pub dir: &'a StoreDir,
    /// Where that is on this machine.
    pub physical: &'a Path,
}

impl StorePlace<'_> {
    /// The store path that a path is, or lies in.
    pub fn path(&self, text: &str) -> Result<StorePath, StoreArgError> {
        let logical = text
            .strip_prefix(self.dir.as_str())
            .and_then(|rest| rest.strip_prefix('/'));
        let inside = match logical {
            Some(inside) => inside.to_owned(),
            None => self.inside_physical(Path::new(text)).ok_or_else(|| {
                if Path::new(text).symlink_metadata().is_ok() {
                    StoreArgError::Outside {
                        text: text.to_owned(),
                        dir: self.dir.as_str().to_owned(),
                        physical: self.physical.to_owned(),
                    }
                } else {
                    StoreArgError::NoSuchFile {
                        text: text.to_owned(),
                    }
                }
            })?,
        };
        let base_name = inside.split('/').next().unwrap_or_default();
        StorePath::from_base_name(base_name).map_err(|source| StoreArgError::Malformed {
            text: text.to_owned(),
            source,
        })
    }

    /// What follows the store's directory in a path of this machine. A link on the
    /// way to it is as good as the way itself; one in it is not followed.
    fn inside_physical(&self, path: &Path) -> Option<String> {
        let path = std::path::absolute(path).ok()?;
        let inside = match path.strip_prefix(self.physical) {
            Ok(inside) => inside.to_owned(),
            Err(_) => {
                let way = path.parent()?.canonicalize().ok()?.join(path.file_name()?);
                way.strip_prefix(self.physical.canonicalize().ok()?)
                    .ok()?
                    .to_owned()
            }
        };
        inside.to_str().map(str::to_owned)
    }

    /// A derivation and its outputs: `PATH.drv`, `PATH.drv^out,dev`, `PATH.drv^*`, or
    /// the same with `!`; without outputs, all of them. `PATH.drv^out^dev` is an output of
    /// the derivation that an output is.
    pub fn derived_path(&self, text: &str) -> Result<DerivedPath, StoreArgError> {
        let (drv, outputs) = match text.rsplit_once(['^', '!']) {
            Some((drv, outputs)) => (drv, Some(outputs)),
            None => (text, None),
        };
        let wrong = || StoreArgError::Outputs {
            text: text.to_owned(),
        };
        let mut parts = drv.split(['^', '!']);
        let path = parts.next().unwrap_or_default();
        let nested: Vec<String> = parts.take(NESTING_MAX + 1).map(str::to_owned).collect();
        if nested.len() > NESTING_MAX || !nested.iter().all(|output| is_output_name(output)) {
            return Err(wrong());
        }
        let drv = self.path(path)?;
        if !drv.is_derivation() {
            return Err(StoreArgError::NotADerivation {
                text: path.to_owned(),
            });
        }
        let outputs = match outputs {
            None | Some("*") => OutputsSpec::All,
            Some(names) if names.split(',').all(is_output_name) => {
                OutputsSpec::Names(names.split(',').map(str::to_owned).collect())
            }
            Some(_) => return Err(wrong()),
        };
        let drv = SingleDerivedPath {
            base: drv,
            outputs: nested,
        };
        Ok(DerivedPath::Built { drv, outputs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE_NAME: &str = "0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x.drv";

    fn with_place(test: impl Fn(&StorePlace<'_>, &Path)) {
        let root = tempfile::tempdir().unwrap();
        let physical = root.path().join("nix/store");
        std::fs::create_dir_all(&physical).unwrap();
        let dir = StoreDir::default();
        test(
            &StorePlace {
                dir: &dir,
                physical: &physical,
            },
            root.path(),
        );
    }

    #[test]
    fn a_path_is_meant_inside_builds_or_on_this_machine() {
        with_place(|place, root| {
            let link = root.join("link");
            std::os::unix::fs::symlink(root.join("nix"), &link).unwrap();
            for text in [
                format!("/nix/store/{BASE_NAME}"),
                format!("/nix/store/{BASE_NAME}/bin/x"),
                place.physical.join(BASE_NAME).display().to_string(),
                link.join("store").join(BASE_NAME).display().to_string(),
            ] {
                assert_eq!(place.path(&text).unwrap().base_name(), BASE_NAME, "{text}");
            }
        });
    }

    #[test]
    fn what_is_not_in_the_store_is_told_apart_from_what_is_not_there() {
        with_place(|place, root| {
            let file = root.join("x.drv");
            std::fs::write(&file, "").unwrap();
            let error = |text: &str| place.path(text).unwrap_err();
            assert!(matches!(
                error(file.to_str().unwrap()),
                StoreArgError::Outside { .. }
            ));
            assert!(matches!(
                error("no-such.drv"),
                StoreArgError::NoSuchFile { .. }
            ));
            assert!(matches!(
                error("/nix/store/x.drv"),
                StoreArgError::Malformed { .. }
            ));
        });
    }

    #[test]
    fn outputs_follow_a_caret_or_an_exclamation_mark() {
        with_place(|place, _| {
            let outputs = |suffix: &str| {
                let path = place.derived_path(&format!("/nix/store/{BASE_NAME}{suffix}"));
                path.map(|path| match path {
                    DerivedPath::Built { outputs, .. } => outputs,
                    DerivedPath::Opaque(_) => panic!("not a derivation"),
                })
            };
            let names = |names: &[&str]| {
                OutputsSpec::Names(names.iter().map(|name| name.to_string()).collect())
            };
            assert_eq!(outputs("").unwrap(), OutputsSpec::All);
            assert_eq!(outputs("^*").unwrap(), OutputsSpec::All);
            assert_eq!(outputs("!out").unwrap(), names(&["out"]));
            assert_eq!(outputs("^dev,out").unwrap(), names(&["dev", "out"]));
            assert_eq!(outputs("^out^dev").unwrap(), names(&["dev"]));
            let nested = place.derived_path(&format!("/nix/store/{BASE_NAME}^a!b^c"));
            assert_eq!(
                nested.unwrap().display(place.dir),
                format!("/nix/store/{BASE_NAME}^a^b^c")
            );
            assert!(matches!(
                outputs("^a,b^c"),
                Err(StoreArgError::Outputs { .. })
            ));
            assert!(matches!(outputs("^"), Err(StoreArgError::Outputs { .. })));
            assert!(matches!(
                outputs("^a b"),
                Err(StoreArgError::Outputs { .. })
            ));
        });
    }

    #[test]
    fn what_is_no_derivation_cannot_be_built() {
        with_place(|place, _| {
            let text = "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x";
            assert!(matches!(
                place.derived_path(text),
                Err(StoreArgError::NotADerivation { .. })
            ));
        });
    }
}
