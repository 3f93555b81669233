//! Carries out what the [plan](crate::state) says, with as many threads as derivations run at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store_api::{BuildMode, BuildProgress, BuildResult, BuildStatus};
use store_local::SessionRoots;
use store_types::{Derivation, DerivedPath, OutputsSpec, SingleDerivedPath, StorePath};

use crate::context::ChildCounts;
use crate::error::BuildError;
use crate::jobs::Share;
use crate::state::{Effect, Event, Plan};
use crate::unit::{Asked, UnitOutcome};
use crate::{Executor, Monitor};

impl Executor {
    /// Makes the wanted outputs valid, building what they need. The outcomes are
    /// those of all derivations that were looked at, in the order in which they
    /// ended, and then of those wanted ones that are outputs; a path that is no
    /// derivation's output has none if it is valid.
    pub fn build(
        self: &Arc<Self>,
        wanted: &[DerivedPath],
        mode: BuildMode,
        monitor: &dyn Monitor,
    ) -> Result<Vec<UnitOutcome>, BuildError> {
        let share = self.jobs.share(self.settings_for(monitor).max_jobs);
        self.build_with(share, wanted, mode, monitor)
    }

    /// The same with these jobs.
    pub(crate) fn build_with(
        self: &Arc<Self>,
        share: Share,
        wanted: &[DerivedPath],
        mode: BuildMode,
        monitor: &dyn Monitor,
    ) -> Result<Vec<UnitOutcome>, BuildError> {
        let mut targets: Wanted = BTreeMap::new();
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
            wanted: Mutex::new(BTreeMap::new()),
            found: Mutex::new(BTreeMap::new()),
            asked: Asked::new(share),
            targets: &targets,
            kept: Mutex::default(),
        };
        for (drv, outputs) in &targets {
            run.want(drv, outputs);
        }
        Ok(run.to_end())
    }
}

/// Which outputs of each derivation are needed.
type Wanted = BTreeMap<SingleDerivedPath, OutputsSpec>;

fn add_wanted(targets: &mut Wanted, drv: &SingleDerivedPath, outputs: &OutputsSpec) {
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

/// How many derivations are kept from when they are planned to when they are built. Others are read
/// again: there may be tens of thousands, and all have to be planned first.
const KEPT_MAX: usize = 256;

/// One request.
struct Run<'a> {
    executor: &'a Arc<Executor>,
    mode: BuildMode,
    monitor: &'a dyn Monitor,
    wanted: Mutex<Wanted>,
    /// Which derivations outputs turned out to be.
    found: Mutex<BTreeMap<SingleDerivedPath, StorePath>>,
    targets: &'a Wanted,
    asked: Asked,
    /// Some of those that wait for nothing but a job.
    kept: Mutex<BTreeMap<StorePath, Derivation>>,
}

/// What has become of the derivations of a request, in the order in which they ended.
struct Outcomes<'a> {
    run: &'a Run<'a>,
    all: Vec<UnitOutcome>,
    /// What has not ended of those whose outputs were not there.
    to_build: BTreeSet<StorePath>,
    progress: BuildProgress,
}

impl Outcomes<'_> {
    /// This one's outputs are not there.
    fn expect(&mut self, drv: &StorePath) {
        if self.to_build.insert(drv.clone()) {
            self.progress.expected += 1;
            self.run.monitor.progress(self.progress);
        }
    }

    /// Another one has ended.
    fn push(&mut self, outcome: UnitOutcome) {
        let was_expected =
            outcome.drv.outputs.is_empty() && self.to_build.remove(&outcome.drv.base);
        let has_failed = outcome.error.is_some();
        if was_expected {
            match has_failed {
                true => self.progress.expected -= 1,
                false => self.progress.done += 1,
            }
        }
        // As Nix counts: without those that could not be tried.
        let was_tried = outcome.result.status != BuildStatus::DependencyFailed;
        self.progress.failed += u64::from(has_failed && was_tried);
        if was_expected || has_failed {
            self.run.monitor.progress(self.progress);
        }
        let is_target = self.run.targets.contains_key(&outcome.drv)
            || outcome
                .drv
                .as_opaque()
                .is_some_and(|drv| self.run.is_target(drv));
        if has_failed && !is_target {
            // Nobody finds it in the results of what was asked for.
            self.run.monitor.dependency_failed(&outcome);
        }
        self.all.push(outcome);
    }
}

/// What the threads report.
enum Report {
    Ended(Box<UnitOutcome>),
}

impl Run<'_> {
    fn to_end(&self) -> Vec<UnitOutcome> {
        let settings = self.executor.settings_for(self.monitor);
        let mut plan = Plan::new(settings.max_jobs, settings.keep_going);
        let mut outcomes = Outcomes {
            run: self,
            all: Vec::new(),
            to_build: BTreeSet::new(),
            progress: BuildProgress::default(),
        };
        let (sender, receiver) = mpsc::channel();
        // A thread that has built one takes the next: to start one, and to end it, takes longer.
        let (to_workers, jobs) = mpsc::channel();
        let jobs = Mutex::new(jobs);
        let mut idle = 0;
        // What a client has built is held for it by every thread.
        let roots = SessionRoots::of_thread();
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
                                Ok(inputs) => {
                                    outcomes.expect(&drv);
                                    Event::Loaded { drv, inputs }
                                }
                                Err(outcome) => {
                                    let succeeded = outcome.error.is_none();
                                    outcomes.push(*outcome);
                                    let drv = drv.into();
                                    Event::Ended { drv, succeeded }
                                }
                            };
                            effects.extend(plan.step(event));
                        }
                        Effect::Find(output) => {
                            let event = match self.find(&output) {
                                Ok(drv) => Event::Found { output, drv },
                                Err(error) => {
                                    outcomes.push(failed(&output, error));
                                    let succeeded = false;
                                    Event::Ended {
                                        drv: output,
                                        succeeded,
                                    }
                                }
                            };
                            effects.extend(plan.step(event));
                        }
                        Effect::Run(drv) => {
                            if idle > 0 {
                                idle -= 1;
                                // Its receiver lives as long as the scope.
                                let _ = to_workers.send(drv);
                                continue;
                            }
                            let (sender, roots, jobs) = (sender.clone(), &roots, &jobs);
                            scope.spawn(move || {
                                let _roots = roots.as_ref().map(SessionRoots::enter);
                                let mut next = Some(drv);
                                while let Some(drv) = next {
                                    let outcome = Box::new(self.realise(&drv));
                                    // The receiver lives as long as the scope.
                                    let _ = sender.send(Report::Ended(outcome));
                                    next = lock(jobs).recv().ok();
                                }
                            });
                        }
                        Effect::Abandon { drv, because_of } => {
                            let text =
                                |path: &SingleDerivedPath| path.display(self.executor.store_dir());
                            let error = match drv.as_opaque() {
                                Some(_) => BuildError::InputFailed {
                                    drv: text(&drv),
                                    input: text(&because_of),
                                },
                                None => BuildError::NotObtained { drv: text(&drv) },
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
                idle += 1;
                let succeeded = outcome.error.is_none();
                let drv = outcome.drv.clone();
                outcomes.push(*outcome);
                if self.monitor.is_cancelled() {
                    effects.extend(plan.step(Event::Stop));
                }
                effects.extend(plan.step(Event::Ended { drv, succeeded }));
            }
            drop(to_workers);
        });
        let mut outcomes = outcomes.all;
        for drv in plan.unfinished() {
            outcomes.push(failed(
                drv,
                BuildError::Cancelled {
                    drv: drv.display(self.executor.store_dir()),
                    why: "another build has failed",
                },
            ));
        }
        let of_outputs: Vec<UnitOutcome> = self
            .targets
            .iter()
            .filter_map(|(target, wanted)| self.outcome_of_output(target, wanted, &outcomes))
            .collect();
        outcomes.extend(of_outputs);
        outcomes
    }

    /// Makes the wanted outputs of one derivation valid, whose inputs are.
    fn realise(&self, drv: &StorePath) -> UnitOutcome {
        let (executor, asked) = (self.executor, &self.asked);
        let wanted = self.outputs_of(drv);
        // Inputs of a rebuilt derivation are not rebuilt.
        let mode = match self.is_target(drv) {
            true => self.mode,
            false => BuildMode::Normal,
        };
        let kept = lock(&self.kept).remove(drv);
        let outcome = match kept {
            Some(loaded) => {
                let how = (&wanted, mode);
                executor.realise_loaded(drv, (&loaded, None), how, asked, self.monitor)
            }
            None => executor.realise(drv, &wanted, mode, asked, self.monitor),
        };
        self.monitor.finished(&outcome);
        outcome
    }

    /// The outcome of a wanted derivation that is an output: that of the derivation
    /// which it turned out to be. `None` if there is one already.
    fn outcome_of_output(
        &self,
        target: &SingleDerivedPath,
        wanted: &OutputsSpec,
        outcomes: &[UnitOutcome],
    ) -> Option<UnitOutcome> {
        if target.as_opaque().is_some() || outcomes.iter().any(|outcome| outcome.drv == *target) {
            return None;
        }
        let drv = self.found().get(target)?.clone();
        let own = outcomes
            .iter()
            .find(|outcome| outcome.drv.as_opaque() == Some(&drv))?;
        let mut outcome = match &own.error {
            Some(_) => failed(
                target,
                BuildError::InputFailed {
                    drv: target.display(self.executor.store_dir()),
                    input: self.executor.store_dir().display(&drv),
                },
            ),
            None => UnitOutcome {
                drv: target.clone(),
                result: own.result.clone(),
                error: None,
                outputs: own.outputs.clone(),
                children: ChildCounts::default(),
                wall: own.wall,
                started: None,
            },
        };
        let has_all = match wanted {
            OutputsSpec::All => true,
            OutputsSpec::Names(names) => names.iter().all(|name| own.outputs.contains_key(name)),
        };
        if outcome.error.is_some() {
            // The words are those of the derivation itself, which are told once.
            outcome.result = own.result.clone();
        } else if !has_all {
            // It had ended before this was known to be wanted of it.
            let late =
                self.executor
                    .realise(&drv, wanted, BuildMode::Normal, &self.asked, self.monitor);
            self.monitor.finished(&late);
            outcome = UnitOutcome {
                drv: target.clone(),
                ..late
            };
        }
        Some(outcome)
    }

    fn found(&self) -> MutexGuard<'_, BTreeMap<SingleDerivedPath, StorePath>> {
        lock(&self.found)
    }

    fn outputs_of(&self, drv: &StorePath) -> OutputsSpec {
        let wanted = lock(&self.wanted);
        let outputs = wanted.get(&SingleDerivedPath::from(drv.clone()));
        outputs.cloned().unwrap_or(OutputsSpec::All)
    }

    /// Whether outputs of this derivation were asked for.
    fn is_target(&self, drv: &StorePath) -> bool {
        let is_output_of_it = |path: &SingleDerivedPath| self.targets.contains_key(path);
        self.targets.contains_key(&drv.clone().into())
            || self
                .found()
                .iter()
                .any(|(path, found)| found == drv && is_output_of_it(path))
    }

    /// Notes what is needed of a derivation; of one that is an output, that this output
    /// is needed.
    fn want(&self, drv: &SingleDerivedPath, outputs: &OutputsSpec) {
        let mut wanted = lock(&self.wanted);
        add_wanted(&mut wanted, drv, outputs);
        let mut drv = drv.clone();
        while let Some((outer, output)) = drv.split_last() {
            let output = OutputsSpec::Names([output.to_owned()].into());
            add_wanted(&mut wanted, &outer, &output);
            drv = outer;
        }
    }

    /// Which derivation an output is; of that derivation the same outputs are needed.
    fn find(&self, output: &SingleDerivedPath) -> Result<StorePath, BuildError> {
        let drv = self.executor.find(output, &self.asked, self.monitor)?;
        let wanted = {
            let wanted = lock(&self.wanted);
            wanted.get(output).cloned()
        };
        if let Some(wanted) = wanted {
            self.want(&drv.clone().into(), &wanted);
        }
        self.found().insert(output.clone(), drv.clone());
        Ok(drv)
    }

    /// The input derivations that must be realised first: none if the wanted outputs
    /// are valid, and then the derivation's own outcome.
    fn load(&self, drv: &StorePath) -> Result<BTreeSet<SingleDerivedPath>, Box<UnitOutcome>> {
        let fail = |error| Box::new(failed(&drv.clone().into(), error));
        let loaded = self.executor.load(drv).map_err(fail)?;
        self.executor.check_derivation(drv, &loaded).map_err(fail)?;
        let known = self.executor.known_outputs(drv, &loaded).map_err(fail)?;
        let wanted = self.outputs_of(drv);
        let needed = |name: &&String| wanted.contains(name);
        let is_rebuild = self.mode != BuildMode::Normal && self.is_target(drv);
        if !is_rebuild
            && loaded
                .outputs
                .keys()
                .filter(needed)
                .all(|name| known.contains_key(name))
        {
            let loaded = (&loaded, Some(known));
            let how = (&wanted, BuildMode::Normal);
            let (executor, asked) = (self.executor, &self.asked);
            let outcome = executor.realise_loaded(drv, loaded, how, asked, self.monitor);
            return Err(Box::new(outcome));
        }
        self.executor.check_purity(drv, &loaded).map_err(fail)?;
        let mut inputs = BTreeSet::new();
        for (input, outputs) in loaded.inputs() {
            self.want(&input, &OutputsSpec::Names(outputs.clone()));
            inputs.insert(input);
        }
        if inputs.is_empty() {
            let mut kept = lock(&self.kept);
            if kept.len() < KEPT_MAX {
                kept.insert(drv.clone(), loaded);
            }
        }
        Ok(inputs)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(drv: &SingleDerivedPath, error: BuildError) -> UnitOutcome {
    let mut result = BuildResult::new(BuildStatus::MiscFailure, error.chain());
    result.status = error.status();
    UnitOutcome {
        drv: drv.clone(),
        result,
        error: Some(error),
        outputs: BTreeMap::new(),
        children: ChildCounts::default(),
        wall: std::time::Duration::ZERO,
        started: None,
    }
}
