//! One derivation: from its `.drv` file to valid outputs.
//!
//! The order of things follows Nix's: look whether the outputs are valid, resolve,
//! look again, and only then build ([`attempt`](crate::attempt)).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use store_api::{BuildMode, BuildResult, BuildStatus};
use store_local::{LocalError, Registration};
use store_types::{
    BuildTraceEntry, BuildTraceKey, ContentAddress, ContentAddressMethod, Derivation,
    DerivationKind, DerivationOutput, OutputsSpec, Realisation, References, SingleDerivedPath,
    StorePath, sha256,
};

use crate::attempt::Attempt;
pub(crate) use crate::attempt::describe_exit;
pub(crate) use crate::build_dir::BuildDir;
use crate::context::ChildCounts;
use crate::error::{BuildError, environment};
use crate::jobs::Share;
use crate::{Executor, Monitor, Settings};

/// What became of one derivation.
#[derive(Debug)]
pub struct UnitOutcome {
    /// The derivation: a path, or an output that was asked for as one.
    pub drv: SingleDerivedPath,
    /// As Nix's clients are told.
    pub result: BuildResult,
    /// Why it failed, if it did.
    pub error: Option<BuildError>,
    /// The wanted outputs that are valid.
    pub outputs: BTreeMap<String, StorePath>,
    /// Its compiler calls.
    pub children: ChildCounts,
    /// How long it took, waiting for locks included.
    pub wall: Duration,
    /// The derivation whose builder was started, if one was: this one, or what it was resolved to.
    pub started: Option<StorePath>,
}

/// What is to be told of a derivation, as it becomes known.
pub(crate) struct Tally {
    pub(crate) result: BuildResult,
    pub(crate) children: ChildCounts,
    pub(crate) started: Option<StorePath>,
}

/// What the derivations of one request have in common.
#[derive(Debug)]
pub(crate) struct Asked {
    /// What it has made of its impure derivations: nobody else knows, and they are not built
    /// twice for one request.
    made: Mutex<BTreeMap<StorePath, BTreeMap<String, StorePath>>>,
    /// The jobs that it may have.
    pub(crate) share: Share,
}

impl Asked {
    pub(crate) fn new(share: Share) -> Self {
        Self {
            made: Mutex::default(),
            share,
        }
    }

    /// What has come of an impure derivation, if this is one that was built.
    fn made(&self, drv: &StorePath) -> BTreeMap<String, StorePath> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.get(drv).cloned().unwrap_or_default()
    }
}

/// One derivation that is to be realised.
struct Unit<'a> {
    executor: &'a Arc<Executor>,
    drv_path: &'a StorePath,
    /// What it is, if that is not to be read from the store.
    given: Option<&'a Derivation>,
    /// What it is, as read from the store, and its valid outputs, if that is known already.
    loaded: Option<(&'a Derivation, Option<BTreeMap<String, StorePath>>)>,
    /// The path for messages.
    text: String,
    wanted: &'a OutputsSpec,
    mode: BuildMode,
    asked: &'a Asked,
    monitor: &'a dyn Monitor,
}

impl<'a> Unit<'a> {
    fn new(
        executor: &'a Arc<Executor>,
        drv_path: &'a StorePath,
        (wanted, mode): (&'a OutputsSpec, BuildMode),
        (asked, monitor): (&'a Asked, &'a dyn Monitor),
    ) -> Self {
        Self {
            executor,
            drv_path,
            given: None,
            loaded: None,
            text: executor.store_dir().display(drv_path),
            wanted,
            mode,
            asked,
            monitor,
        }
    }

    fn realise(&mut self, tally: &mut Tally) -> Result<BTreeMap<String, StorePath>, BuildError> {
        let read;
        let (drv, known) = match (self.given, self.loaded.take()) {
            (_, Some(loaded)) => loaded,
            (Some(given), None) => (given, None),
            (None, None) => {
                read = self.executor.load(self.drv_path)?;
                (&read, None)
            }
        };
        self.check_wanted(drv)?;
        let known = match known {
            Some(known) => known,
            None => self.executor.known_outputs(self.drv_path, drv)?,
        };
        let is_impure = self.kind(drv)? == DerivationKind::Impure;
        let is_rebuild = self.mode == BuildMode::Check && !is_impure;
        let is_sound = self.mode != BuildMode::Repair || self.are_sound(&known)?;
        let outputs = if !is_rebuild && is_sound && self.has_wanted(drv, &known) {
            tally.result.status = BuildStatus::AlreadyValid;
            known
        } else if is_rebuild && known.len() < drv.outputs.len() {
            return Err(BuildError::NothingToCheck {
                drv: self.text.clone(),
            });
        } else {
            self.build(drv, tally)?
        };
        if is_impure {
            let mut made = self
                .asked
                .made
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            made.insert(self.drv_path.clone(), outputs.clone());
        }
        for (name, path) in &outputs {
            let realisation =
                self.executor
                    .realisation(self.settings(), self.drv_path, drv, name, path)?;
            tally.result.built_outputs.insert(name.clone(), realisation);
        }
        Ok(outputs)
    }

    fn settings(&self) -> &Settings {
        self.executor.settings_for(self.monitor)
    }

    fn check_wanted(&self, drv: &Derivation) -> Result<(), BuildError> {
        if let OutputsSpec::Names(names) = self.wanted
            && let Some(output) = names.iter().find(|name| !drv.outputs.contains_key(*name))
        {
            return Err(BuildError::NoSuchOutput {
                drv: self.text.clone(),
                output: output.clone(),
            });
        }
        Ok(())
    }

    /// Whether all of these paths have the objects that they should have.
    fn are_sound(&self, known: &BTreeMap<String, StorePath>) -> Result<bool, BuildError> {
        for path in known.values() {
            let is_sound = self.executor.is_sound(path);
            if !is_sound.map_err(environment(&self.text, "verify an output"))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn has_wanted(&self, drv: &Derivation, known: &BTreeMap<String, StorePath>) -> bool {
        drv.outputs
            .keys()
            .filter(|name| self.wanted.contains(name))
            .all(|name| known.contains_key(name))
    }

    /// Builds the derivation, resolved, unless its resolved form has its outputs already.
    fn build(
        &self,
        drv: &Derivation,
        tally: &mut Tally,
    ) -> Result<BTreeMap<String, StorePath>, BuildError> {
        let name = self
            .drv_path
            .derivation_name()
            .ok_or_else(|| BuildError::Rejected {
                drv: self.text.clone(),
                why: "its name does not end in `.drv`".into(),
            })?;
        let kind = self.kind(drv)?;
        // What the builder gets: a derivation without input derivations.
        let resolved = self
            .executor
            .resolve(self.drv_path, name, drv, self.asked, self.monitor)?;
        let attempt = |path, kind| {
            Attempt::new(
                self.executor,
                path,
                name,
                &resolved,
                kind,
                // There is nothing to compare an impure derivation's outputs with.
                match kind {
                    DerivationKind::Impure => BuildMode::Normal,
                    _ => self.mode,
                },
                (self.asked, self.monitor),
            )
            .map(|attempt| attempt.given(self.given.is_some()))
        };
        // Nix may resolve fixed derivations, too, and does so where it has content-addressed
        // ones: then they are not built again for inputs that came out the same.
        let is_basic = drv.input_drvs.is_empty();
        let is_known = kind == DerivationKind::InputAddressed && !drv.has_dynamic_inputs();
        if is_basic || is_known {
            return attempt(self.drv_path, kind)?.build(tally);
        }
        let path = &self.add_resolved(name, &resolved)?;
        self.monitor.resolved(self.drv_path, path);
        let known = self.executor.known_outputs(path, &resolved)?;
        let outputs = if self.mode == BuildMode::Normal && self.has_wanted(drv, &known) {
            tally.result.status = BuildStatus::ResolvesToAlreadyValid;
            known
        } else {
            attempt(path, self.kind(&resolved)?)?.build(tally)?
        };
        if kind != DerivationKind::Impure {
            self.executor
                .register_realised(self.settings(), self.drv_path, drv, &[], &outputs)?;
        }
        Ok(outputs)
    }

    /// As Nix does: the resolved derivation has a file and realisations of its own.
    fn add_resolved(&self, name: &str, resolved: &Derivation) -> Result<StorePath, BuildError> {
        let executor = self.executor;
        let text = resolved.to_aterm(executor.store_dir());
        let info = executor
            .store
            .add_text(&format!("{name}.drv"), &text, &resolved.references())
            .map_err(environment(&self.text, "add the resolved derivation"))?;
        Ok(info.path)
    }

    fn kind(&self, drv: &Derivation) -> Result<DerivationKind, BuildError> {
        drv.kind().map_err(|source| BuildError::Malformed {
            drv: self.text.clone(),
            source: source.into(),
        })
    }
}

fn build_trace_key(drv_path: &StorePath, output: &str) -> BuildTraceKey {
    BuildTraceKey {
        drv_path: drv_path.clone(),
        output_name: output.to_owned(),
    }
}

impl Executor {
    /// Makes outputs of one derivation valid; its input derivations have been
    /// realised already. Never fails: what went wrong is part of the outcome.
    pub(crate) fn realise(
        self: &Arc<Self>,
        drv_path: &StorePath,
        wanted: &OutputsSpec,
        mode: BuildMode,
        asked: &Asked,
        monitor: &dyn Monitor,
    ) -> UnitOutcome {
        self.realise_unit(Unit::new(self, drv_path, (wanted, mode), (asked, monitor)))
    }

    /// The same for a derivation that has been read, and has been held since, of which these outputs
    /// are valid now, if that is known.
    pub(crate) fn realise_loaded(
        self: &Arc<Self>,
        drv_path: &StorePath,
        loaded: (&Derivation, Option<BTreeMap<String, StorePath>>),
        how: (&OutputsSpec, BuildMode),
        asked: &Asked,
        monitor: &dyn Monitor,
    ) -> UnitOutcome {
        self.realise_unit(Unit {
            loaded: Some(loaded),
            ..Unit::new(self, drv_path, how, (asked, monitor))
        })
    }

    /// Makes all outputs valid of a derivation without input derivations that need not be in the
    /// store: whoever gives it vouches for its path and for those of its outputs.
    pub(crate) fn realise_given(
        self: &Arc<Self>,
        drv_path: &StorePath,
        drv: &Derivation,
        mode: BuildMode,
        monitor: &dyn Monitor,
    ) -> UnitOutcome {
        let asked = Asked::new(self.jobs.share(self.settings_for(monitor).max_jobs));
        let how = (&OutputsSpec::All, mode);
        self.realise_unit(Unit {
            given: Some(drv),
            ..Unit::new(self, drv_path, how, (&asked, monitor))
        })
    }

    fn realise_unit(&self, mut unit: Unit<'_>) -> UnitOutcome {
        let begun = Instant::now();
        let mut tally = Tally {
            result: BuildResult::new(BuildStatus::Built, ""),
            children: ChildCounts::default(),
            started: None,
        };
        let made = unit.realise(&mut tally);
        let Tally {
            mut result,
            children,
            started,
        } = tally;
        let (outputs, error) = match made {
            Ok(outputs) => (outputs, None),
            Err(error) => {
                result.status = error.status();
                result.error_msg = error.chain();
                (BTreeMap::new(), Some(error))
            }
        };
        UnitOutcome {
            drv: unit.drv_path.clone().into(),
            result,
            error,
            outputs,
            children,
            wall: begun.elapsed(),
            started,
        }
    }

    /// Reads a derivation of the store and checks that it is what its path says.
    pub(crate) fn load(&self, drv_path: &StorePath) -> Result<Derivation, BuildError> {
        let text = self.store_dir().display(drv_path);
        if !drv_path.is_derivation() {
            let path = drv_path.clone();
            return Err(BuildError::Malformed {
                drv: text,
                source: LocalError::NoDerivation { path }.into(),
            });
        }
        // Before it is asked whether it is valid, so that it stays so until it is built.
        self.store
            .add_temp_root(drv_path)
            .map_err(environment(&text, "hold the derivation"))?;
        let turn = self.store.derivation_turn();
        let bytes = match turn.text(drv_path) {
            Ok(bytes) => bytes,
            Err(LocalError::NotValid { .. }) => {
                return Err(BuildError::NoDerivation {
                    drv: text,
                    store: self.store.physical_dir().to_owned(),
                });
            }
            Err(error) => return Err(environment(&text, "read the file")(error)),
        };
        let malformed = |source| BuildError::Malformed { drv: text, source };
        let drv = match Derivation::parse(self.store_dir(), &bytes) {
            Ok(drv) => drv,
            Err(error) => return Err(malformed(error.into())),
        };
        let ca = ContentAddress {
            method: ContentAddressMethod::Text,
            hash: sha256(&bytes),
        };
        let references = References::to_others(drv.references());
        let expected = self
            .store_dir()
            .content_addressed_path(drv_path.name(), &ca, &references);
        match expected {
            Ok(expected) if expected == *drv_path => Ok(drv),
            Ok(_) => Err(malformed("its path does not follow from its text".into())),
            Err(error) => Err(malformed(error.into())),
        }
    }

    /// The outputs that are valid, by name; no garbage collector takes them from now on.
    pub(crate) fn known_outputs(
        &self,
        drv_path: &StorePath,
        drv: &Derivation,
    ) -> Result<BTreeMap<String, StorePath>, BuildError> {
        let text = self.store_dir().display(drv_path);
        let mut known = BTreeMap::new();
        for (name, output) in &drv.outputs {
            let path = match output {
                DerivationOutput::InputAddressed(path) | DerivationOutput::Fixed { path, .. } => {
                    Some(path.clone())
                }
                DerivationOutput::Floating { .. } | DerivationOutput::Deferred => {
                    self.realised_output(drv_path, drv, name)?
                }
                DerivationOutput::Impure { .. } => None,
            };
            let Some(path) = path else {
                continue;
            };
            // Before it is asked whether it is valid, so that it stays so.
            self.store
                .add_temp_root(&path)
                .map_err(environment(&text, "hold an output"))?;
            if self
                .store
                .is_valid(&path)
                .map_err(environment(&text, "query the store"))?
            {
                known.insert(name.clone(), path);
            }
        }
        Ok(known)
    }

    /// What an output turned out to be, signed with the keys of these settings.
    pub(crate) fn realisation(
        &self,
        settings: &Settings,
        drv_path: &StorePath,
        drv: &Derivation,
        output: &str,
        path: &StorePath,
    ) -> Result<Realisation, BuildError> {
        let id = self.realisation_id(drv_path, drv, output)?;
        let mut realisation = Realisation::unsigned(id, path.clone());
        let keys = settings.secret_keys().map_err(environment(
            &self.store_dir().display(drv_path),
            "sign what its output turned out to be",
        ))?;
        for key in keys {
            realisation.sign(&key);
        }
        Ok(realisation)
    }

    /// Registers paths, and what outputs turned out to be: by the hash of their derivation, and, for
    /// Nix since 2.35, by the path of a resolved one.
    pub(crate) fn register_realised(
        &self,
        settings: &Settings,
        drv_path: &StorePath,
        drv: &Derivation,
        registrations: &[Registration],
        made: &BTreeMap<String, StorePath>,
    ) -> Result<(), BuildError> {
        let text = self.store_dir().display(drv_path);
        let realised = self.realised(settings, drv_path, drv, made);
        let failed = match realised {
            Ok(realised) => match self.store.register_realised(registrations, &realised) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    environment(&text, "register what its outputs turned out to be")(error)
                }
            },
            Err(error) => error,
        };
        // Whatever they turned out to be: they are complete, and at their places.
        self.store
            .register(registrations)
            .map_err(environment(&text, "register the outputs"))?;
        Err(failed)
    }

    /// Takes over from another store what outputs of a derivation turned out to be; their paths are
    /// valid here. What is known here to be otherwise stays.
    ///
    /// # Errors
    /// If that cannot be found out or written down.
    pub fn take_over(
        &self,
        drv_path: &StorePath,
        drv: &Derivation,
        outputs: &BTreeMap<String, StorePath>,
    ) -> Result<(), BuildError> {
        let text = self.store_dir().display(drv_path);
        for (output, path) in outputs {
            let id = self.realisation_id(drv_path, drv, output)?;
            let realisation = Realisation::unsigned(id, path.clone());
            match self.store.register_realisation(&realisation) {
                Ok(()) | Err(LocalError::OtherRealisation { .. }) => {}
                Err(error) => return Err(environment(&text, "take over its outputs")(error)),
            }
        }
        Ok(())
    }

    fn realised(
        &self,
        settings: &Settings,
        drv_path: &StorePath,
        drv: &Derivation,
        made: &BTreeMap<String, StorePath>,
    ) -> Result<Vec<(Realisation, Option<BuildTraceEntry>)>, BuildError> {
        let text = self.store_dir().display(drv_path);
        let keys = settings.secret_keys();
        let keys = keys.map_err(environment(&text, "sign what its outputs turned out to be"))?;
        let mut realised = Vec::new();
        for (output, path) in made {
            let realisation = self.realisation(settings, drv_path, drv, output, path)?;
            let entry = drv.input_drvs.is_empty().then(|| {
                let key = build_trace_key(drv_path, output);
                let mut entry = BuildTraceEntry::unsigned(key, path.clone());
                for key in &keys {
                    entry.sign(key);
                }
                entry
            });
            realised.push((realisation, entry));
        }
        Ok(realised)
    }

    /// What a floating or deferred output is known to have turned out to be; it need not be
    /// valid any more.
    fn realised_output(
        &self,
        drv_path: &StorePath,
        drv: &Derivation,
        output: &str,
    ) -> Result<Option<StorePath>, BuildError> {
        let text = self.store_dir().display(drv_path);
        let failed = || environment::<LocalError>(&text, "query the store");
        let id = self.realisation_id(drv_path, drv, output)?;
        let by_hash = self.store.query_realisation(&id).map_err(failed())?;
        if let Some(realisation) = by_hash {
            return Ok(Some(realisation.out_path));
        }
        if !drv.input_drvs.is_empty() {
            return Ok(None);
        }
        let key = build_trace_key(drv_path, output);
        let by_path = self.store.query_build_trace(&key).map_err(failed())?;
        Ok(by_path.map(|entry| entry.out_path))
    }

    /// Checks that nothing that is to be the same again depends on what is not.
    pub(crate) fn check_purity(
        &self,
        drv_path: &StorePath,
        drv: &Derivation,
    ) -> Result<(), BuildError> {
        let mut outputs = drv.outputs.values();
        // The paths of others follow from their inputs, which so cannot be impure.
        let may_depend = outputs.all(|output| {
            matches!(
                output,
                DerivationOutput::Deferred | DerivationOutput::Floating { .. }
            )
        });
        if !may_depend {
            return Ok(());
        }
        for input in drv.input_drvs.keys() {
            let loaded = self.load(input)?;
            if loaded
                .kind()
                .is_ok_and(|kind| kind == DerivationKind::Impure)
            {
                return Err(BuildError::DependsOnImpure {
                    drv: self.store_dir().display(drv_path),
                    input: self.store_dir().display(input),
                });
            }
        }
        Ok(())
    }

    /// Which derivation a path is; all that it is an output of has been realised.
    pub(crate) fn find(
        self: &Arc<Self>,
        path: &SingleDerivedPath,
        asked: &Asked,
        monitor: &dyn Monitor,
    ) -> Result<StorePath, BuildError> {
        let mut drv_path = path.base.clone();
        for output in &path.outputs {
            let drv = self.load(&drv_path)?;
            let mut known = self.known_outputs(&drv_path, &drv)?;
            known.extend(asked.made(&drv_path));
            if !known.contains_key(output) {
                // As for inputs: it may have been collected since.
                let wanted = OutputsSpec::Names([output.clone()].into());
                let outcome = self.realise(&drv_path, &wanted, BuildMode::Normal, asked, monitor);
                if let Some(error) = outcome.error {
                    return Err(error);
                }
                known = outcome.outputs;
            }
            let text = || path.display(self.store_dir());
            drv_path = known
                .remove(output)
                .ok_or_else(|| BuildError::NotObtained { drv: text() })?;
            if !drv_path.is_derivation() {
                return Err(BuildError::Malformed {
                    drv: text(),
                    source: format!("store path `{drv_path}` is not a valid derivation path")
                        .into(),
                });
            }
        }
        Ok(drv_path)
    }

    /// The derivation with its inputs' outputs in place of its input derivations.
    fn resolve<'d>(
        self: &Arc<Self>,
        drv_path: &StorePath,
        name: &str,
        drv: &'d Derivation,
        asked: &Asked,
        monitor: &dyn Monitor,
    ) -> Result<Cow<'d, Derivation>, BuildError> {
        let is_deferred = |output: &DerivationOutput| *output == DerivationOutput::Deferred;
        if drv.input_drvs.is_empty() && !drv.outputs.values().any(is_deferred) {
            return Ok(Cow::Borrowed(drv));
        }
        let text = self.store_dir().display(drv_path);
        let mut built: BTreeMap<(SingleDerivedPath, String), StorePath> = BTreeMap::new();
        for (path, outputs) in drv.inputs() {
            let input = &self.find(&path, asked, monitor)?;
            let loaded = self.load(input)?;
            let mut known = self.known_outputs(input, &loaded)?;
            known.extend(asked.made(input));
            if outputs.iter().any(|output| !known.contains_key(output)) {
                // The plan took it for valid before this output was wanted, or it was
                // collected since.
                let wanted = OutputsSpec::Names(outputs.clone());
                let outcome = self.realise(input, &wanted, BuildMode::Normal, asked, monitor);
                if outcome.error.is_some() {
                    return Err(BuildError::InputFailed {
                        drv: text,
                        input: self.store_dir().display(input),
                    });
                }
                known = outcome.outputs;
            }
            for output in outputs {
                if let Some(output_path) = known.get(output) {
                    built.insert((path.clone(), output.clone()), output_path.clone());
                }
            }
        }
        for input in &drv.input_srcs {
            if !self
                .store
                .is_valid(input)
                .map_err(environment(&text, "query the store"))?
            {
                return Err(BuildError::MissingInput {
                    drv: text,
                    input: self.store_dir().display(input),
                });
            }
        }
        drv.resolve(self.store_dir(), name, |input, output| {
            built.get(&(input.clone(), output.to_owned())).cloned()
        })
        .map(Cow::Owned)
        .map_err(|source| BuildError::Malformed {
            drv: text,
            source: source.into(),
        })
    }
}
