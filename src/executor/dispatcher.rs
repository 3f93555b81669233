//! Carries out what the [plan](crate::state) says, with a thread for each running
//! derivation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};

use store_api::{BuildMode, BuildResult, BuildStatus};
use store_types::{DerivedPath, OutputsSpec, StorePath};

use crate::context::ChildCounts;
use crate::error::BuildError;
use crate::state::{Effect, Event, Plan};
use crate::unit::{Made, UnitOutcome};
use crate::{Executor, Monitor};

impl Executor {
    /// Makes the wanted outputs valid, building what they need. The outcomes are
    /// those of all derivations that were looked at, in the order in which they
    /// ended; a path that is no derivation's output has none if it is valid.
    pub fn build(
        self: &Arc<Self>,
        wanted: &[DerivedPath],
        mode: BuildMode,
        monitor: &dyn Monitor,
    ) -> Result<Vec<UnitOutcome>, BuildError> {
        let mut targets: BTreeMap<StorePath, OutputsSpec> = BTreeMap::new();
        for path in wanted {
            match path {
                DerivedPath::Opaque(path) => {
                    let text = self.store_dir().display(path);
                    let valid = self
                        .store
                        .is_valid(path)
                        .map_err(crate::error::environment(&text, "query the store"))?;
                    if !valid {
                        return Err(BuildError::MissingInput {
                            drv: text.clone(),
                            input: text,
                        });
                    }
                }
                DerivedPath::Built { drv, outputs } => {
                    add_wanted(&mut targets, drv, outputs);
                }
            }
        }
        let run = Run {
            executor: self,
            mode,
            monitor,
            wanted: Mutex::new(targets.clone()),
            made: Made::default(),
            targets: &targets,
        };
        Ok(run.to_end())
    }
}

fn add_wanted(
    targets: &mut BTreeMap<StorePath, OutputsSpec>,
    drv: &StorePath,
    outputs: &OutputsSpec,
) {
    match (targets.get_mut(drv), outputs) {
        (Some(OutputsSpec::Names(names)), OutputsSpec::Names(more)) => {
            names.extend(more.iter().cloned())
        }
        (Some(all), _) => *all = OutputsSpec::All,
        (None, outputs) => {
            targets.insert(drv.clone(), outputs.clone());
        }
    }
}

/// One request.
struct Run<'a> {
    executor: &'a Arc<Executor>,
    mode: BuildMode,
    monitor: &'a dyn Monitor,
    /// Which outputs of each derivation are needed.
    wanted: Mutex<BTreeMap<StorePath, OutputsSpec>>,
    targets: &'a BTreeMap<StorePath, OutputsSpec>,
    /// What came of derivations that give something else each time.
    made: Made,
}

/// What the threads report.
enum Report {
    Ended(Box<UnitOutcome>),
}

impl Run<'_> {
    fn to_end(&self) -> Vec<UnitOutcome> {
        let settings = self.executor.settings_for(self.monitor);
        let mut plan = Plan::new(settings.max_jobs, settings.keep_going);
        let mut outcomes = Vec::new();
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            let mut effects = Vec::new();
            for drv in self.targets.keys() {
                effects.extend(plan.step(Event::Wanted(drv.clone())));
            }
            loop {
                while let Some(effect) = effects.pop() {
                    match effect {
                        Effect::Load(drv) => {
                            let event = match self.load(&drv) {
                                Ok(inputs) => Event::Loaded { drv, inputs },
                                Err(outcome) => {
                                    let succeeded = outcome.error.is_none();
                                    outcomes.push(*outcome);
                                    Event::Ended { drv, succeeded }
                                }
                            };
                            effects.extend(plan.step(event));
                        }
                        Effect::Run(drv) => {
                            let sender = sender.clone();
                            scope.spawn(move || {
                                let wanted = self.outputs_of(&drv);
                                // Inputs of a rebuilt derivation are not rebuilt.
                                let mode = if self.targets.contains_key(&drv) {
                                    self.mode
                                } else {
                                    BuildMode::Normal
                                };
                                let executor = self.executor;
                                let outcome =
                                    executor.realise(&drv, &wanted, mode, &self.made, self.monitor);
                                self.monitor.finished(&outcome);
                                // The receiver lives as long as the scope.
                                let _ = sender.send(Report::Ended(Box::new(outcome)));
                            });
                        }
                        Effect::Abandon { drv, because_of } => {
                            let text = |path| self.executor.store_dir().display(path);
                            let error = BuildError::InputFailed {
                                drv: text(&drv),
                                input: text(&because_of),
                            };
                            outcomes.push(failed(&drv, error));
                        }
                    }
                }
                if plan.is_idle() {
                    break;
                }
                let Ok(Report::Ended(outcome)) = receiver.recv() else {
                    break;
                };
                let succeeded = outcome.error.is_none();
                let drv = outcome.drv.clone();
                outcomes.push(*outcome);
                if self.monitor.is_cancelled() {
                    effects.extend(plan.step(Event::Stop));
                }
                effects.extend(plan.step(Event::Ended { drv, succeeded }));
            }
        });
        for drv in plan.unfinished() {
            outcomes.push(failed(
                drv,
                BuildError::Cancelled {
                    drv: self.executor.store_dir().display(drv),
                    why: "another build has failed",
                },
            ));
        }
        outcomes
    }

    fn outputs_of(&self, drv: &StorePath) -> OutputsSpec {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.get(drv).cloned().unwrap_or(OutputsSpec::All)
    }

    /// The input derivations that must be realised first: none if the wanted outputs
    /// are valid, and then the derivation's own outcome.
    fn load(&self, drv: &StorePath) -> Result<BTreeSet<StorePath>, Box<UnitOutcome>> {
        let fail = |error| Box::new(failed(drv, error));
        let loaded = self.executor.load(drv).map_err(fail)?;
        self.executor.check_derivation(drv, &loaded).map_err(fail)?;
        let known = self.executor.known_outputs(drv, &loaded).map_err(fail)?;
        let wanted = self.outputs_of(drv);
        let needed = |name: &&String| wanted.contains(name);
        let is_rebuild = self.mode != BuildMode::Normal && self.targets.contains_key(drv);
        if !is_rebuild
            && loaded
                .outputs
                .keys()
                .filter(needed)
                .all(|name| known.contains_key(name))
        {
            let executor = self.executor;
            let mode = BuildMode::Normal;
            let outcome = executor.realise(drv, &wanted, mode, &self.made, self.monitor);
            return Err(Box::new(outcome));
        }
        self.executor.check_purity(drv, &loaded).map_err(fail)?;
        let mut all = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        for (input, outputs) in &loaded.input_drvs {
            add_wanted(&mut all, input, &OutputsSpec::Names(outputs.clone()));
        }
        Ok(loaded.input_drvs.into_keys().collect())
    }
}

fn failed(drv: &StorePath, error: BuildError) -> UnitOutcome {
    let mut result = BuildResult::new(BuildStatus::MiscFailure, error.chain());
    result.status = error.status();
    UnitOutcome {
        drv: drv.clone(),
        result,
        error: Some(error),
        outputs: BTreeMap::new(),
        children: ChildCounts::default(),
        wall: std::time::Duration::ZERO,
    }
}
