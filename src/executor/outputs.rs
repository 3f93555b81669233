//! From what a builder left to registered store objects.
//!
//! Every process of the build is dead by now, so nothing changes under our hands.
//! The order is Nix's: canonicalise, scan, compute paths, rewrite, check, move,
//! register all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use store_api::{BoxError, BuildMode};
use store_local::{Canonicaliser, Registration};
use store_nar::{HashModuloSink, Hasher, hash_part};
use store_types::{
    ContentAddress, ContentAddressMethod, Derivation, DerivationKind, DerivationOutput, Hash,
    HashAlgorithm, PathInfo, References, StorePath, output_path_name,
};

use crate::attempt::options;
use crate::error::{BuildError, environment, lines};
use crate::log::LogTail;
use crate::output_checks::NewOutputs;
use crate::users::BuildUser;
use crate::{Executor, Monitor, Settings};

/// A build that has ended well.
pub(crate) struct Produced<'a> {
    pub(crate) text: &'a str,
    pub(crate) drv_path: &'a StorePath,
    pub(crate) name: &'a str,
    pub(crate) drv: &'a Derivation,
    pub(crate) kind: DerivationKind,
    pub(crate) mode: BuildMode,
    /// Whether the output paths have been locked all the time.
    pub(crate) is_locked: bool,
    pub(crate) scratch: &'a BTreeMap<String, StorePath>,
    /// What outputs may refer to, apart from each other.
    pub(crate) candidates: BTreeSet<StorePath>,
    /// The directory that has the outputs.
    pub(crate) made: OwnedFd,
    /// Makes an empty directory for our own files, beside the store's, or returns it again.
    pub(crate) own: &'a dyn Fn() -> io::Result<PathBuf>,
    /// The build directory, on this machine, and who is told of differences to earlier outputs.
    pub(crate) checked_by: Option<(PathBuf, &'a dyn Monitor)>,
    /// Whether the outputs are not on the store's file system.
    pub(crate) is_elsewhere: bool,
    pub(crate) user: &'a BuildUser,
    pub(crate) log: &'a LogTail,
}

impl Executor {
    /// How something was to be built.
    fn settings_of<'a>(&'a self, build: &Produced<'a>) -> &'a Settings {
        match &build.checked_by {
            Some((_, monitor)) => self.settings_for(*monitor),
            // A child.
            None => &self.settings,
        }
    }
}

/// What is wrong with an output that is more than the bytes of a file. In Nix's words.
const NOT_FLAT: &str = "it should be a non-executable regular file since recursive hashing is not \
                        enabled (one of outputHashMode={flat,text} is true)";

/// What an output mentions.
struct Found {
    mentions: BTreeSet<StorePath>,
    /// Whether none of it counts as a reference.
    is_discarded: bool,
    /// Hash and size of the output's NAR as the builder left it.
    nar: Option<(Hash, u64)>,
}

impl Found {
    /// The references among the mentions, with those to other outputs of the build by
    /// their final paths.
    fn references(
        &self,
        own: &StorePath,
        to_final: &BTreeMap<&StorePath, &StorePath>,
    ) -> References {
        let mut references = References::default();
        if self.is_discarded {
            return references;
        }
        for path in &self.mentions {
            if path == own {
                references.has_self = true;
            } else {
                let path = *to_final.get(path).unwrap_or(&path);
                references.others.insert(path.clone());
            }
        }
        references
    }
}

/// An output on its way into the store.
struct Output {
    /// Where it lies: a directory and a name in it.
    place: (OwnedFd, String),
    info: PathInfo,
}

pub(crate) fn open_dir(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )
}

/// The directory at an absolute path in a root, with no symbolic link on the way.
pub(crate) fn open_dir_in(root: &OwnedFd, path: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
    )
}

/// A directory, and the name of an output in it.
type Place = (OwnedFd, String);

/// Writes an output anew by rules, among our own files; its place there, and hash and size of its
/// NAR.
fn rewritten(
    build: &Produced<'_>,
    (dir, name): &Place,
    output: &str,
    target: String,
    rules: Vec<(Vec<u8>, Vec<u8>)>,
) -> Result<(Place, (Hash, u64)), BuildError> {
    let own = (build.own)()
        .and_then(|own| Ok(open_dir(&own)?))
        .map_err(environment(build.text, "make a directory for outputs"))?;
    let (hash, size, _) = store_nar::rewrite_tree(
        dir.as_fd(),
        OsStr::new(name),
        own.as_fd(),
        OsStr::new(&target),
        rules,
    )
    .map_err(|source| bad_output(build, output, source))?;
    Ok(((own, target), (hash, size)))
}

impl Executor {
    /// Takes the outputs of a build into the store; returns their final paths.
    pub(crate) fn take_outputs(
        &self,
        build: &Produced<'_>,
    ) -> Result<BTreeMap<String, StorePath>, BuildError> {
        let made = &build.made;
        let options = options(build.text, build.drv)?;
        let discards = &options.unsafe_discard_references;
        let mut canonicaliser = Canonicaliser::new(Some(build.user.uid..=build.user.uid));
        let mut mentions = BTreeMap::new();
        let mut nars = BTreeMap::new();
        for (output, scratch) in build.scratch {
            let name = OsStr::new(scratch.base_name());
            if rustix::fs::statat(made, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_err() {
                return Err(BuildError::MissingOutput {
                    drv: build.text.to_owned(),
                    output: output.clone(),
                    path: self.store_dir().display(scratch),
                    log: build.log.for_error(),
                });
            }
            canonicaliser
                .tree(made.as_fd(), name)
                .map_err(|source| bad_output(build, output, source))?;
            let candidates = build.candidates.iter().chain(build.scratch.values());
            let (hash, size, found) = store_nar::scan_tree(made.as_fd(), name, candidates)
                .map_err(|source| bad_output(build, output, source))?;
            mentions.insert(output.clone(), found);
            nars.insert(output.clone(), (hash, size));
        }
        let mut finals: BTreeMap<String, StorePath> = BTreeMap::new();
        let mut outputs: BTreeMap<String, Output> = BTreeMap::new();
        for output in order(build, &mentions, discards)? {
            let mentions = mentions.remove(&output).unwrap_or_default();
            let found = Found {
                is_discarded: discards.contains(&output),
                mentions,
                nar: nars.remove(&output),
            };
            let done = self.finish_output(build, &output, found, &finals)?;
            finals.insert(output.clone(), done.info.path.clone());
            outputs.insert(output, done);
        }
        NewOutputs {
            executor: self,
            text: build.text,
            infos: outputs
                .iter()
                .map(|(name, output)| (&**name, &output.info))
                .collect(),
        }
        .check(&options)?;
        if build.mode == BuildMode::Check {
            self.compare(build, &outputs)?;
            return Ok(finals);
        }
        self.register_outputs(build, outputs)?;
        Ok(finals)
    }

    /// Computes the path of one output and makes its content what it has to be.
    fn finish_output(
        &self,
        build: &Produced<'_>,
        output: &str,
        found: Found,
        finals: &BTreeMap<String, StorePath>,
    ) -> Result<Output, BuildError> {
        let scratch = &build.scratch[output];
        let bad = |source: store_nar::NarError| bad_output(build, output, source);
        // References to this build's other outputs, by their final paths.
        let to_final: BTreeMap<&StorePath, &StorePath> = build
            .scratch
            .iter()
            .filter(|(sibling, _)| *sibling != output)
            .filter_map(|(sibling, scratch)| Some((scratch, finals.get(sibling)?)))
            .collect();
        let references = found.references(scratch, &to_final);
        let mut rules: Vec<(Vec<u8>, Vec<u8>)> = to_final
            .iter()
            .filter(|(from, to)| from != to && found.mentions.contains(**from))
            .map(|(from, to)| (hash_part(from).to_vec(), hash_part(to).to_vec()))
            .collect();
        let mut place: Place = (
            build
                .made
                .try_clone()
                .map_err(environment(build.text, "open the outputs"))?,
            scratch.base_name().to_owned(),
        );
        // Hash and size of the NAR of what is at the place, if they are known.
        let mut nar = found.nar;
        let (path, ca) = match &build.drv.outputs[output] {
            DerivationOutput::InputAddressed(path) => (path.clone(), None),
            DerivationOutput::Deferred => {
                return Err(BuildError::Rejected {
                    drv: build.text.to_owned(),
                    why: format!("the path of output `{output}` is not known"),
                });
            }
            DerivationOutput::Fixed { ca, path } => {
                // A builder with the network may have passed an open file to somebody
                // outside: what is hashed must be inodes that nobody else ever held.
                let known;
                (place, known) = rewritten(build, &place, output, output.to_owned(), Vec::new())?;
                nar = Some(known);
                let got = match (ca.method, ca.hash.algorithm()) {
                    (ContentAddressMethod::Nar, HashAlgorithm::Sha256) => known.0,
                    (method, algorithm) => {
                        self.content_hash(build, output, &place, method, algorithm, None)?
                    }
                };
                if got != ca.hash {
                    // As Nix does: who corrects the hash need not fetch it again.
                    if !references.has_self && references.others.is_empty() {
                        self.keep_mismatched(
                            build,
                            output,
                            place,
                            ContentAddress {
                                method: ca.method,
                                hash: got,
                            },
                        )?;
                    }
                    return Err(BuildError::HashMismatch {
                        drv: build.text.to_owned(),
                        specified: ca.hash.to_sri(),
                        got: got.to_sri(),
                    });
                }
                if references.has_self || !references.others.is_empty() {
                    let mut paths = references.others.clone();
                    if references.has_self {
                        paths.insert(path.clone());
                    }
                    return Err(BuildError::ForbiddenReferences {
                        drv: build.text.to_owned(),
                        output: output.to_owned(),
                        paths: lines(self.store_dir(), paths.iter()),
                    });
                }
                (path.clone(), Some(*ca))
            }
            DerivationOutput::Floating { method, algorithm }
            | DerivationOutput::Impure { method, algorithm } => {
                if !rules.is_empty() || build.is_elsewhere {
                    let target = format!("{output}.siblings");
                    let rules = std::mem::take(&mut rules);
                    let known;
                    (place, known) = rewritten(build, &place, output, target, rules)?;
                    nar = Some(known);
                }
                // What does not mention itself has one hash.
                let is_plain = !found.mentions.contains(scratch)
                    && (*method, *algorithm) == (ContentAddressMethod::Nar, HashAlgorithm::Sha256);
                let hash = match is_plain {
                    true => {
                        let known = match nar {
                            Some(known) => known,
                            None => store_nar::dump_and_hash(place.0.as_fd(), OsStr::new(&place.1))
                                .map_err(bad)?,
                        };
                        nar.insert(known).0
                    }
                    false => self.content_hash(
                        build,
                        output,
                        &place,
                        *method,
                        *algorithm,
                        Some(scratch),
                    )?,
                };
                let ca = ContentAddress {
                    method: *method,
                    hash,
                };
                let name = output_path_name(build.name, output);
                let path = self
                    .store_dir()
                    .content_addressed_path(&name, &ca, &references)
                    .map_err(|source| bad_output(build, output, source))?;
                if found.mentions.contains(scratch) {
                    rules.push((hash_part(scratch).to_vec(), hash_part(&path).to_vec()));
                }
                (path, Some(ca))
            }
        };
        let (nar_hash, nar_size) = if rules.is_empty() {
            match nar {
                Some(known) => known,
                None => {
                    store_nar::dump_and_hash(place.0.as_fd(), OsStr::new(&place.1)).map_err(bad)?
                }
            }
        } else {
            let known;
            (place, known) = rewritten(build, &place, output, format!("{output}.final"), rules)?;
            known
        };
        let mut all = references.others;
        if references.has_self {
            all.insert(path.clone());
        }
        Ok(Output {
            place,
            info: PathInfo {
                path,
                nar_hash,
                nar_size,
                references: all,
                deriver: Some(build.drv_path.clone()),
                registration_time: 0,
                ultimate: true,
                signatures: Vec::new(),
                ca,
            },
        })
    }

    /// The hash that a content address of this method holds, modulo the output's own
    /// scratch path where there is one.
    fn content_hash(
        &self,
        build: &Produced<'_>,
        output: &str,
        place: &(OwnedFd, String),
        method: ContentAddressMethod,
        algorithm: HashAlgorithm,
        own: Option<&StorePath>,
    ) -> Result<Hash, BuildError> {
        let name = OsStr::new(&place.1);
        match method {
            ContentAddressMethod::Nar => match own {
                None => {
                    let mut hasher = Hasher::new(algorithm);
                    store_nar::dump(place.0.as_fd(), name, &mut hasher)
                        .map_err(|source| bad_output(build, output, source))?;
                    Ok(hasher.finish().0)
                }
                Some(own) => {
                    let variant = self.settings_of(build).self_references;
                    let mut sink = HashModuloSink::new(algorithm, &hash_part(own), variant);
                    store_nar::dump(place.0.as_fd(), name, &mut sink)
                        .map_err(|source| bad_output(build, output, source))?;
                    Ok(sink.finish().0)
                }
            },
            // Nix, too, does not take it modulo the own path: who mentions that gets none.
            ContentAddressMethod::Git => store_nar::git_hash_tree(place.0.as_fd(), name, algorithm)
                .map_err(|source| bad_output(build, output, source)),
            ContentAddressMethod::Flat | ContentAddressMethod::Text => {
                let file = store_nar::fs::open_file(place.0.as_fd(), name)
                    .map_err(|_| bad_output(build, output, NOT_FLAT))?;
                let stat =
                    rustix::fs::fstat(&file).map_err(environment(build.text, "read the output"))?;
                if stat.st_mode & 0o111 != 0 {
                    return Err(bad_output(build, output, NOT_FLAT));
                }
                let mut hasher = Hasher::new(algorithm);
                let mut buffer = vec![0; 64 << 10];
                loop {
                    match rustix::io::read(&file, &mut buffer[..])
                        .map_err(environment(build.text, "read the output"))?
                    {
                        0 => return Ok(hasher.finish().0),
                        len => hasher.update(&buffer[..len]),
                    }
                }
            }
        }
    }

    /// A second run's outputs against the registered ones.
    fn compare(
        &self,
        build: &Produced<'_>,
        outputs: &BTreeMap<String, Output>,
    ) -> Result<(), BuildError> {
        let known = self.known_outputs(build.drv_path, build.drv)?;
        for (name, output) in outputs {
            let info = match known.get(name) {
                Some(path) => self
                    .store
                    .path_info(path)
                    .map_err(environment(build.text, "query the store"))?,
                None => None,
            };
            if info
                .as_ref()
                .is_none_or(|info| info.nar_hash != output.info.nar_hash)
            {
                let path = known.get(name).unwrap_or(&output.info.path);
                let settings = self.settings_of(build);
                let kept = if settings.keep_failed || settings.diff_hook().is_some() {
                    let target = format!("{}.check", path.base_name());
                    let target = OsStr::new(&target);
                    store_nar::remove_tree(self.store.store_fd(), target)
                        .and_then(|()| {
                            let (dir, name) = (output.place.0.as_fd(), OsStr::new(&output.place.1));
                            store_nar::rewrite_tree(dir, name, self.store.store_fd(), target, [])
                        })
                        .map_err(environment(build.text, "keep the differing output"))?;
                    let kept = self.store.physical_dir().join(target);
                    let old = self.store.physical_path(path);
                    if let Some((build_dir, monitor)) = &build.checked_by {
                        let of = (build.text, &**build_dir);
                        self.run_diff_hook(build.user, (&old, &kept), of, *monitor);
                    }
                    format!(" from `{}.check`", self.store_dir().display(path))
                } else {
                    String::new()
                };
                return Err(BuildError::NotDeterministic {
                    drv: build.text.to_owned(),
                    path: self.store_dir().display(path),
                    kept,
                });
            }
        }
        Ok(())
    }

    /// Registers a fixed output that has another hash than it should, under the path that follows
    /// from the one that it has.
    fn keep_mismatched(
        &self,
        build: &Produced<'_>,
        output: &str,
        place: (OwnedFd, String),
        ca: ContentAddress,
    ) -> Result<(), BuildError> {
        if build.mode == BuildMode::Check {
            return Ok(());
        }
        let name = output_path_name(build.name, output);
        let path = self
            .store_dir()
            .content_addressed_path(&name, &ca, &References::default())
            .map_err(|source| bad_output(build, output, source))?;
        let (nar_hash, nar_size) = store_nar::dump_and_hash(place.0.as_fd(), OsStr::new(&place.1))
            .map_err(|source| bad_output(build, output, source))?;
        let kept = Output {
            place,
            info: PathInfo {
                path: path.clone(),
                nar_hash,
                nar_size,
                references: BTreeSet::new(),
                deriver: Some(build.drv_path.clone()),
                registration_time: 0,
                ultimate: true,
                signatures: Vec::new(),
                ca: Some(ca),
            },
        };
        let _locks = self
            .store
            .lock_paths(&BTreeSet::from([path]))
            .map_err(environment(build.text, "lock the output paths"))?;
        self.move_and_register(build, &BTreeMap::from([(output.to_owned(), kept)]))
    }

    fn register_outputs(
        &self,
        build: &Produced<'_>,
        outputs: BTreeMap<String, Output>,
    ) -> Result<(), BuildError> {
        let unlocked: BTreeSet<StorePath> = match build.is_locked {
            false => outputs
                .values()
                .map(|output| output.info.path.clone())
                .collect(),
            true => BTreeSet::new(),
        };
        let _locks = self
            .store
            .lock_paths(&unlocked)
            .map_err(environment(build.text, "lock the output paths"))?;
        let registered = self.move_and_register(build, &outputs);
        if registered.is_err() {
            for output in outputs.values() {
                // Nothing valid is removed. What cannot be removed now, that does who builds
                // it next.
                let _ = self.store.remove_invalid(&output.info.path);
            }
        }
        registered
    }

    fn move_and_register(
        &self,
        build: &Produced<'_>,
        outputs: &BTreeMap<String, Output>,
    ) -> Result<(), BuildError> {
        let settings = self.settings_of(build);
        let keys = settings
            .secret_keys()
            .map_err(environment(build.text, "sign the outputs"))?;
        let mut registrations = Vec::new();
        for output in outputs.values() {
            let path = &output.info.path;
            // Before it is asked whether it is valid, so that it stays so.
            self.store
                .add_temp_root(path)
                .map_err(environment(build.text, "hold an output"))?;
            let present = self
                .store
                .path_info(path)
                .map_err(environment(build.text, "query the store"))?;
            if present.is_some() && build.mode == BuildMode::Repair {
                let is_sound = self.is_sound(path);
                if !is_sound.map_err(environment(build.text, "verify an output"))? {
                    let mut info = output.info.clone();
                    for key in &keys {
                        info.sign(self.store_dir(), key);
                    }
                    self.store
                        .replace_object(output.place.0.as_fd(), OsStr::new(&output.place.1), &info)
                        .map_err(environment(build.text, "repair an output"))?;
                }
                continue;
            }
            if let Some(present) = present {
                // Added by somebody before; now it is known to be built here.
                if !present.ultimate && present.nar_hash == output.info.nar_hash {
                    registrations.push(Registration::new(output.info.clone()));
                }
                continue;
            }
            self.store
                .move_into_store(output.place.0.as_fd(), OsStr::new(&output.place.1), path)
                .map_err(environment(build.text, "move the outputs into the store"))?;
            let mut info = output.info.clone();
            for key in &keys {
                info.sign(self.store_dir(), key);
            }
            registrations.push(
                self.store
                    .registration(info)
                    .map_err(environment(build.text, "register the outputs"))?,
            );
        }
        if build.kind == DerivationKind::Floating {
            let made = outputs.iter();
            let made = made.map(|(name, output)| (name.clone(), output.info.path.clone()));
            let made = made.collect();
            let (drv_path, drv) = (build.drv_path, build.drv);
            return self.register_realised(settings, drv_path, drv, &registrations, &made);
        }
        self.store
            .register(&registrations)
            .map_err(environment(build.text, "register the outputs"))?;
        Ok(())
    }
}

/// The outputs of a build such that each comes after those it refers to.
fn order(
    build: &Produced<'_>,
    mentions: &BTreeMap<String, BTreeSet<StorePath>>,
    discards: &BTreeSet<String>,
) -> Result<Vec<String>, BuildError> {
    let mut order: Vec<String> = Vec::new();
    while order.len() < mentions.len() {
        let next = mentions.iter().find(|(output, found)| {
            let waits = |(sibling, scratch): (&String, &StorePath)| {
                sibling != *output && !order.contains(sibling) && found.contains(scratch)
            };
            !order.contains(output)
                && (discards.contains(*output) || !build.scratch.iter().any(waits))
        });
        match next {
            Some((output, _)) => order.push(output.clone()),
            // Paths known beforehand need no order, and references among them may form a circle
            // in the file system; a store could not hold that.
            None => {
                let left = mentions.keys().filter(|output| !order.contains(output));
                return Err(BuildError::OutputCycle {
                    drv: build.text.to_owned(),
                    outputs: left.cloned().collect::<Vec<_>>().join(", "),
                });
            }
        }
    }
    Ok(order)
}

fn bad_output<E: Into<BoxError>>(build: &Produced<'_>, output: &str, source: E) -> BuildError {
    BuildError::BadOutput {
        drv: build.text.to_owned(),
        output: output.to_owned(),
        log: build.log.for_error(),
        source: source.into(),
    }
}
