//! Hashes modulo: what identifies a derivation whatever its fixed-output inputs
//! were made by; and the output paths that follow from them.
//!
//! Source: nix 2.34 `src/libstore/derivations.cc`, `hashDerivationModulo`; Nix
//! manual, "Input-addressing derivation outputs".

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::sync::Arc;

use bstr::BString;

use super::aterm::{InputsByHash, print_modulo};
use super::{
    Derivation, DerivationKind, DerivationKindError, DerivationOptions, DerivationOutput,
    output_path_name,
};
use crate::content_address::fixed_fingerprint;
use crate::{
    ContentAddressedPathError, DrvOutput, Hash, References, StoreDir, StorePath, StorePathError,
    sha256,
};

/// The hashes modulo of a derivation's outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashesModulo {
    /// The hash for each output: one for all, unless the derivation is fixed.
    pub by_output: BTreeMap<String, Hash>,
    /// Whether output paths do not follow from the hash: the derivation, or one
    /// that it depends on, is floating or impure.
    pub is_deferred: bool,
}

/// Why a derivation has no hash modulo.
#[derive(Debug, thiserror::Error)]
pub enum HashModuloError<E: Error + 'static> {
    /// An input derivation could not be read.
    #[error("cannot read input derivation `{path}`")]
    Read {
        /// The input derivation.
        path: StorePath,
        /// The cause.
        #[source]
        source: E,
    },
    /// A derivation's outputs do not fit together.
    #[error("the outputs of {} do not fit together", named(.path))]
    Kind {
        /// The input derivation; `None` for the derivation itself.
        path: Option<StorePath>,
        /// The cause.
        #[source]
        source: DerivationKindError,
    },
    /// An output is an input that its derivation does not have.
    #[error("input derivation `{path}` has no output `{output}`")]
    NoSuchOutput {
        /// The input derivation.
        path: StorePath,
        /// The missing output.
        output: String,
    },
    /// A derivation depends on itself. No store can hold such derivations, but a
    /// reader that invents them can.
    #[error("input derivation `{path}` depends on itself")]
    Cycle {
        /// One derivation of the cycle.
        path: StorePath,
    },
}

fn named(path: &Option<StorePath>) -> String {
    match path {
        Some(path) => format!("input derivation `{path}`"),
        None => "the derivation".to_owned(),
    }
}

/// Computes hashes modulo, and remembers those of input derivations.
///
/// A `.drv` path stands for its content and for everything it depends on, so
/// what is remembered stays true.
#[derive(Debug)]
pub struct HashModulo {
    dir: StoreDir,
    known: HashMap<StorePath, Arc<HashesModulo>>,
}

/// An input derivation whose own inputs are being hashed.
struct Open {
    path: StorePath,
    drv: Derivation,
    waiting: Vec<StorePath>,
}

impl HashModulo {
    /// Nothing remembered yet.
    pub fn new(dir: StoreDir) -> Self {
        Self {
            dir,
            known: HashMap::new(),
        }
    }

    /// The hashes modulo of a derivation with the paths of its outputs masked, as
    /// output paths and the ids of realisations are made of it.
    ///
    /// `read` reads input derivations; it is called at most once for each.
    pub fn masked<E: Error + 'static>(
        &mut self,
        drv: &Derivation,
        read: impl FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<HashesModulo, HashModuloError<E>> {
        self.learn_inputs(drv, read)?;
        self.hash(None, drv, true)
    }

    /// The id of the realisation of one output; `None` if there is no such output.
    pub fn realisation_id<E: Error + 'static>(
        &mut self,
        drv: &Derivation,
        output: &str,
        read: impl FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<Option<DrvOutput>, HashModuloError<E>> {
        let hashes = self.masked(drv, read)?;
        Ok(hashes.by_output.get(output).map(|drv_hash| DrvOutput {
            drv_hash: *drv_hash,
            output_name: output.to_owned(),
        }))
    }

    /// Depth first, with a stack of its own: chains of derivations can be longer
    /// than a thread's stack is deep.
    fn learn_inputs<E: Error + 'static>(
        &mut self,
        drv: &Derivation,
        mut read: impl FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<(), HashModuloError<E>> {
        let mut first = inputs_to_hash(drv);
        let mut stack: Vec<Open> = Vec::new();
        let mut open = HashSet::new();
        loop {
            let waiting = stack
                .last_mut()
                .map_or(&mut first, |frame| &mut frame.waiting);
            if let Some(path) = waiting.pop() {
                if self.known.contains_key(&path) {
                    continue;
                }
                if !open.insert(path.clone()) {
                    return Err(HashModuloError::Cycle { path });
                }
                let drv = match read(&path) {
                    Ok(drv) => drv,
                    Err(source) => return Err(HashModuloError::Read { path, source }),
                };
                let waiting = inputs_to_hash(&drv);
                stack.push(Open { path, drv, waiting });
            } else if let Some(done) = stack.pop() {
                let hashes = self.hash(Some(&done.path), &done.drv, false)?;
                self.known.insert(done.path, Arc::new(hashes));
            } else {
                return Ok(());
            }
        }
    }

    /// The hashes of a derivation whose inputs are all known.
    fn hash<E: Error + 'static>(
        &self,
        path: Option<&StorePath>,
        drv: &Derivation,
        mask: bool,
    ) -> Result<HashesModulo, HashModuloError<E>> {
        let kind = drv.kind().map_err(|source| HashModuloError::Kind {
            path: path.cloned(),
            source,
        })?;
        if kind == DerivationKind::Fixed {
            return Ok(self.hash_fixed(drv));
        }
        let mut is_deferred = matches!(kind, DerivationKind::Floating | DerivationKind::Impure);
        let mut inputs = InputsByHash::new();
        // Dynamic inputs are not part of the hash but by the placeholders that stand for them.
        for (path, node) in &drv.input_drvs {
            let known = &self.known[path];
            is_deferred |= known.is_deferred;
            for output in &node.outputs {
                let Some(hash) = known.by_output.get(output) else {
                    return Err(HashModuloError::NoSuchOutput {
                        path: path.clone(),
                        output: output.clone(),
                    });
                };
                inputs
                    .entry(hash.to_hex())
                    .or_default()
                    .outputs
                    .insert(output.clone());
            }
        }
        let hash = sha256(&print_modulo(drv, &self.dir, &inputs, mask));
        Ok(HashesModulo {
            by_output: drv
                .outputs
                .keys()
                .map(|name| (name.clone(), hash))
                .collect(),
            is_deferred,
        })
    }

    fn hash_fixed(&self, drv: &Derivation) -> HashesModulo {
        let by_output = drv.outputs.iter().filter_map(|(name, output)| {
            let DerivationOutput::Fixed { ca, path } = output else {
                return None;
            };
            let fingerprint = format!("{}:{}", fixed_fingerprint(ca), self.dir.display(path));
            Some((name.clone(), sha256(fingerprint.as_bytes())))
        });
        HashesModulo {
            by_output: by_output.collect(),
            is_deferred: false,
        }
    }
}

/// The inputs that a derivation's hash depends on: none if it is fixed.
fn inputs_to_hash(drv: &Derivation) -> Vec<StorePath> {
    match drv.kind() {
        Ok(DerivationKind::Fixed) => Vec::new(),
        _ => drv.input_drvs.keys().cloned().collect(),
    }
}

impl StoreDir {
    /// The path of an input-addressed output, from the hash modulo.
    pub fn output_path(
        &self,
        drv_name: &str,
        output: &str,
        hash: &Hash,
    ) -> Result<StorePath, StorePathError> {
        let kind = format!("output:{output}");
        self.make_path(&kind, hash, &output_path_name(drv_name, output))
    }
}

/// What is wrong with the output paths of a derivation.
#[derive(Debug, thiserror::Error)]
pub enum OutputPathError<E: Error + 'static> {
    /// The path that the derivation is said to have is no `.drv` file's.
    #[error("`{path}` is no path of a derivation")]
    NoDerivationPath {
        /// The path.
        path: StorePath,
    },
    /// The hash modulo cannot be computed.
    #[error("cannot compute the output paths of `{drv}`")]
    Hash {
        /// The derivation, by its path, or by its name if it has none yet.
        drv: String,
        /// The cause.
        #[source]
        source: HashModuloError<E>,
    },
    /// An output's name cannot be part of a path.
    #[error("output `{output}` of `{drv}` cannot have a path")]
    Name {
        /// The derivation, by its path, or by its name if it has none yet.
        drv: String,
        /// The output's name.
        output: String,
        /// The cause.
        #[source]
        source: ContentAddressedPathError,
    },
    /// An output has another path than follows from the derivation.
    #[error(
        "output `{output}` of `{drv}` should have {}, but has {}",
        path_or_none(.expected), path_or_none(.found)
    )]
    Path {
        /// The derivation, by its path, or by its name if it has none yet.
        drv: String,
        /// The output's name.
        output: String,
        /// The path that follows; `None` if it is not known beforehand.
        expected: Option<StorePath>,
        /// The path in the derivation.
        found: Option<StorePath>,
    },
    /// The path of an output is to be filled in, and its environment variable is missing:
    /// a derivation with it is another one.
    #[error(
        "the environment of `{drv}` has no variable `{output}`: an output whose path is to be \
         filled in needs one, which may be empty"
    )]
    NoVariable {
        /// The derivation, by its name.
        drv: String,
        /// The output's name.
        output: String,
    },
    /// The environment variable of an output has another value than its path.
    #[error(
        "environment variable `{name}` of `{drv}` should be `{expected}`, but is {}",
        .found.as_ref().map_or("missing".to_owned(), |found| format!("`{found}`"))
    )]
    Env {
        /// The derivation, by its path, or by its name if it has none yet.
        drv: String,
        /// The variable, named like its output.
        name: String,
        /// The output's full path.
        expected: String,
        /// The value in the derivation.
        found: Option<BString>,
    },
}

fn path_or_none(path: &Option<StorePath>) -> String {
    match path {
        Some(path) => format!("path `{path}`"),
        None => "no path before its inputs are built".to_owned(),
    }
}

impl Derivation {
    /// Gives paths to deferred outputs whose paths can be known by now, and puts them, and
    /// those of fixed outputs, into environment variables that are named like them and
    /// empty (or missing, for fixed ones). `drv_name` is the derivation's, without `.drv`.
    ///
    /// `read` reads input derivations; what `modulo` remembers is not read again. What is
    /// filled in still has to be checked by [`check_output_paths`](Self::check_output_paths).
    ///
    /// Source: nix 2.34 `src/libstore/derivations.cc`, `fillInOutputPaths`.
    pub fn fill_in_output_paths<E: Error + 'static>(
        &mut self,
        drv_name: &str,
        modulo: &mut HashModulo,
        read: impl FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<(), OutputPathError<E>> {
        let drv = || drv_name.to_owned();
        let hashes = modulo
            .masked(self, read)
            .map_err(|source| OutputPathError::Hash { drv: drv(), source })?;
        let dir = &modulo.dir;
        for (name, output) in &mut self.outputs {
            let path = match output {
                DerivationOutput::Deferred if !hashes.is_deferred => {
                    if !self.env.contains_key(name.as_bytes()) {
                        return Err(OutputPathError::NoVariable {
                            drv: drv(),
                            output: name.clone(),
                        });
                    }
                    let path = dir
                        .output_path(drv_name, name, &hashes.by_output[name])
                        .map_err(|source| OutputPathError::Name {
                            drv: drv(),
                            output: name.clone(),
                            source: ContentAddressedPathError::Name(source),
                        })?;
                    *output = DerivationOutput::InputAddressed(path.clone());
                    path
                }
                DerivationOutput::Fixed { path, .. } => path.clone(),
                _ => continue,
            };
            let value = self.env.entry(name.as_str().into()).or_default();
            if value.is_empty() {
                *value = dir.display(&path).into();
            }
        }
        Ok(())
    }

    /// Checks that every output path, and every environment variable named like an
    /// output with a known path, is what follows from the derivation.
    ///
    /// `read` reads input derivations; what `modulo` remembers is not read again.
    pub fn check_output_paths<E: Error + 'static>(
        &self,
        drv_path: &StorePath,
        modulo: &mut HashModulo,
        read: impl FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<(), OutputPathError<E>> {
        let drv = || drv_path.base_name().to_owned();
        let drv_name =
            drv_path
                .derivation_name()
                .ok_or_else(|| OutputPathError::NoDerivationPath {
                    path: drv_path.clone(),
                })?;
        let hashes = modulo
            .masked(self, read)
            .map_err(|source| OutputPathError::Hash { drv: drv(), source })?;
        let dir = &modulo.dir;
        // Who submits outputs is not told where they go.
        let is_told = || {
            !DerivationOptions::of(self).is_ok_and(|options| {
                let required = &options.required_system_features;
                required.contains("builder-rpc-v0")
            })
        };
        for (name, output) in &self.outputs {
            let expected = match output {
                DerivationOutput::InputAddressed(_) | DerivationOutput::Deferred => {
                    if hashes.is_deferred {
                        Ok(None)
                    } else {
                        dir.output_path(drv_name, name, &hashes.by_output[name])
                            .map(Some)
                            .map_err(ContentAddressedPathError::Name)
                    }
                }
                DerivationOutput::Fixed { ca, .. } => {
                    let path_name = output_path_name(drv_name, name);
                    dir.content_addressed_path(&path_name, ca, &References::default())
                        .map(Some)
                }
                DerivationOutput::Floating { .. } | DerivationOutput::Impure { .. } => Ok(None),
            };
            let expected = expected.map_err(|source| OutputPathError::Name {
                drv: drv(),
                output: name.clone(),
                source,
            })?;
            if expected.as_ref() != output.path() {
                return Err(OutputPathError::Path {
                    drv: drv(),
                    output: name.clone(),
                    expected,
                    found: output.path().cloned(),
                });
            }
            let Some(path) = expected.filter(|_| is_told()) else {
                continue;
            };
            let expected = dir.display(&path);
            let found = self.env.get(name.as_bytes());
            if found.is_none_or(|value| *value != expected) {
                return Err(OutputPathError::Env {
                    drv: drv(),
                    name: name.clone(),
                    expected,
                    found: found.cloned(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ContentAddressMethod, HashAlgorithm};
    use std::io;

    fn path(name: &str) -> StorePath {
        StorePath::from_base_name(&format!("0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-{name}")).unwrap()
    }

    fn on(inputs: &[&str], output: DerivationOutput) -> Derivation {
        Derivation {
            outputs: [("out".to_owned(), output)].into(),
            input_drvs: inputs
                .iter()
                .map(|name| (path(name), ["out".to_owned()].into()))
                .collect(),
            ..Derivation::default()
        }
    }

    fn plain(inputs: &[&str]) -> Derivation {
        on(inputs, DerivationOutput::InputAddressed(path("x")))
    }

    fn missing(_: &StorePath) -> Result<Derivation, io::Error> {
        Err(io::ErrorKind::NotFound.into())
    }

    #[test]
    fn a_chain_of_derivations_may_be_longer_than_any_stack() {
        const LEN: usize = 50_000;
        let mut reads = 0;
        let mut modulo = HashModulo::new(StoreDir::default());
        let mut read = |of: &StorePath| -> Result<Derivation, io::Error> {
            reads += 1;
            let n: usize = of.derivation_name().unwrap().parse().unwrap();
            Ok(match n {
                0 => plain(&[]),
                n => plain(&[&format!("{}.drv", n - 1)]),
            })
        };
        let top = plain(&[&format!("{}.drv", LEN - 1)]);
        let hashes = modulo.masked(&top, &mut read).unwrap();
        assert!(!hashes.is_deferred);
        assert_eq!(modulo.masked(&top, &mut read).unwrap(), hashes);
        assert_eq!(reads, LEN);
    }

    #[test]
    fn a_cycle_a_missing_input_and_a_missing_output_are_told_apart() {
        let mut modulo = HashModulo::new(StoreDir::default());
        let cycle = modulo.masked(&plain(&["a.drv"]), |_| {
            Ok::<_, io::Error>(plain(&["a.drv"]))
        });
        assert!(matches!(cycle, Err(HashModuloError::Cycle { .. })));

        let unread = modulo.masked(&plain(&["a.drv"]), missing);
        assert!(matches!(unread, Err(HashModuloError::Read { .. })));

        let mut drv = plain(&["a.drv"]);
        drv.input_drvs
            .insert(path("a.drv"), ["dev".to_owned()].into());
        let no_output = modulo.masked(&drv, |_| Ok::<_, io::Error>(plain(&[])));
        assert!(
            matches!(no_output, Err(HashModuloError::NoSuchOutput { output, .. }) if output == "dev")
        );
    }

    #[test]
    fn what_depends_on_a_floating_output_is_deferred_however_far() {
        let floating = DerivationOutput::Floating {
            method: ContentAddressMethod::Nar,
            algorithm: HashAlgorithm::Sha256,
        };
        let mut modulo = HashModulo::new(StoreDir::default());
        let hashes = modulo
            .masked(&plain(&["b.drv"]), |path| {
                Ok::<_, io::Error>(match path.name() {
                    "b.drv" => on(&["a.drv"], DerivationOutput::Deferred),
                    _ => on(&[], floating.clone()),
                })
            })
            .unwrap();
        assert!(hashes.is_deferred);
    }

    #[test]
    fn the_first_wrong_path_is_reported_with_the_right_one() {
        let mut modulo = HashModulo::new(StoreDir::default());
        let mut drv = plain(&[]);
        let Err(OutputPathError::Path {
            expected: Some(expected),
            found: Some(found),
            ..
        }) = drv.check_output_paths(&path("x.drv"), &mut modulo, missing)
        else {
            panic!("a wrong path was accepted");
        };
        assert_eq!(found, path("x"));
        drv.outputs
            .insert("out".into(), DerivationOutput::InputAddressed(expected));
        let env = drv.check_output_paths(&path("x.drv"), &mut modulo, missing);
        assert!(matches!(env, Err(OutputPathError::Env { found: None, .. })));
    }
}
