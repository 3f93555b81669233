//! Which derivation may run when: a state machine without I/O.
//!
//! Everything that happens comes in as an [`Event`]; what is to be done goes out
//! as [`Effect`]s, which the [dispatcher](crate::dispatcher) carries out. A
//! derivation is loaded first: if the outputs that are wanted of it are valid, its
//! inputs are not even looked at. Otherwise it runs once all its inputs have
//! succeeded, and never if one of them has failed.

use std::collections::{BTreeMap, BTreeSet};

use store_types::StorePath;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A derivation is asked for.
    Wanted(StorePath),
    /// A derivation was read: which input derivations it waits for.
    Loaded {
        /// The derivation.
        drv: StorePath,
        /// The derivations whose outputs it needs.
        inputs: BTreeSet<StorePath>,
    },
    /// A derivation's outputs are there, or will never be: whether it ran or not.
    Ended {
        /// The derivation.
        drv: StorePath,
        /// Whether its outputs are valid.
        succeeded: bool,
    },
    /// Nothing new is to be started.
    Stop,
}

/// Something that is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read this derivation; answer with `Loaded` or `Ended`.
    Load(StorePath),
    /// Run this derivation; answer with `Ended`.
    Run(StorePath),
    /// This derivation will not run, because this one of its inputs has failed.
    Abandon {
        /// The derivation.
        drv: StorePath,
        /// The input that failed.
        because_of: StorePath,
    },
}

#[derive(Debug)]
enum State {
    Loading,
    Waiting { inputs: BTreeSet<StorePath> },
    Ready,
    Running,
    Ended { succeeded: bool },
}

/// All derivations of one request.
#[derive(Debug)]
pub struct Plan {
    jobs_max: usize,
    keep_going: bool,
    stopped: bool,
    running: usize,
    units: BTreeMap<StorePath, State>,
    /// Who waits for whom, from input to dependants.
    dependants: BTreeMap<StorePath, BTreeSet<StorePath>>,
}

impl Plan {
    /// At most `jobs_max` run at once; with `keep_going`, a failure stops only what
    /// depends on it.
    pub fn new(jobs_max: usize, keep_going: bool) -> Self {
        Self {
            jobs_max: jobs_max.max(1),
            keep_going,
            stopped: false,
            running: 0,
            units: BTreeMap::new(),
            dependants: BTreeMap::new(),
        }
    }

    /// Takes an event and says what is to be done now.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Wanted(drv) => self.want(drv, &mut effects),
            Event::Loaded { drv, inputs } => self.loaded(drv, inputs, &mut effects),
            Event::Ended { drv, succeeded } => {
                if matches!(self.units.get(&drv), Some(State::Running)) {
                    self.running -= 1;
                }
                if !succeeded && !self.keep_going {
                    self.stopped = true;
                }
                self.end(drv, succeeded, &mut effects);
            }
            Event::Stop => self.stopped = true,
        }
        self.start(&mut effects);
        effects
    }

    /// Whether nothing runs and nothing will.
    pub fn is_idle(&self) -> bool {
        let pending = |state: &State| match state {
            State::Loading | State::Running => true,
            State::Ready => !self.stopped,
            State::Waiting { .. } | State::Ended { .. } => false,
        };
        !self.units.values().any(pending)
    }

    /// Derivations that have neither ended nor will: what was stopped, or waits in
    /// a cycle.
    pub fn unfinished(&self) -> impl Iterator<Item = &StorePath> {
        let ended = |state: &State| matches!(state, State::Ended { .. });
        self.units
            .iter()
            .filter(move |(_, state)| !ended(state))
            .map(|(drv, _)| drv)
    }

    fn want(&mut self, drv: StorePath, effects: &mut Vec<Effect>) {
        if !self.units.contains_key(&drv) {
            self.units.insert(drv.clone(), State::Loading);
            effects.push(Effect::Load(drv));
        }
    }

    fn loaded(&mut self, drv: StorePath, inputs: BTreeSet<StorePath>, effects: &mut Vec<Effect>) {
        let mut waiting = BTreeSet::new();
        let mut failed = None;
        for input in inputs {
            match self.units.get(&input) {
                Some(State::Ended { succeeded: true }) => {}
                Some(State::Ended { succeeded: false }) => failed = Some(input),
                _ => {
                    self.dependants
                        .entry(input.clone())
                        .or_default()
                        .insert(drv.clone());
                    self.want(input.clone(), effects);
                    waiting.insert(input);
                }
            }
        }
        if let Some(because_of) = failed {
            self.abandon(drv, because_of, effects);
        } else if waiting.is_empty() {
            self.units.insert(drv, State::Ready);
        } else {
            self.units.insert(drv, State::Waiting { inputs: waiting });
        }
    }

    fn abandon(&mut self, drv: StorePath, because_of: StorePath, effects: &mut Vec<Effect>) {
        effects.push(Effect::Abandon {
            drv: drv.clone(),
            because_of,
        });
        self.end(drv, false, effects);
    }

    /// Ends a derivation, and all that its failure ends with it.
    fn end(&mut self, drv: StorePath, succeeded: bool, effects: &mut Vec<Effect>) {
        self.units.insert(drv.clone(), State::Ended { succeeded });
        let mut ended = vec![drv];
        while let Some(input) = ended.pop() {
            for dependant in self.dependants.remove(&input).unwrap_or_default() {
                let Some(State::Waiting { inputs }) = self.units.get_mut(&dependant) else {
                    continue;
                };
                if !succeeded {
                    effects.push(Effect::Abandon {
                        drv: dependant.clone(),
                        because_of: input.clone(),
                    });
                    self.units
                        .insert(dependant.clone(), State::Ended { succeeded: false });
                    ended.push(dependant);
                } else if inputs.remove(&input) && inputs.is_empty() {
                    self.units.insert(dependant, State::Ready);
                }
            }
        }
    }

    fn start(&mut self, effects: &mut Vec<Effect>) {
        if self.stopped {
            return;
        }
        let free = self.jobs_max.saturating_sub(self.running);
        let ready = |(_, state): &(&StorePath, &State)| matches!(state, State::Ready);
        let starting: Vec<StorePath> = self
            .units
            .iter()
            .filter(ready)
            .take(free)
            .map(|(drv, _)| drv.clone())
            .collect();
        for drv in starting {
            self.running += 1;
            self.units.insert(drv.clone(), State::Running);
            effects.push(Effect::Run(drv));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    fn drv(n: usize) -> StorePath {
        StorePath::from_hash_and_name(&[n as u8; 20], &format!("n{n}.drv")).unwrap()
    }

    /// Runs a plan over a graph, checking at each step what must never happen;
    /// `pick` chooses which running derivation ends next. Returns how each ended.
    fn run(
        graph: &BTreeMap<usize, Vec<usize>>,
        failing: &BTreeSet<usize>,
        jobs_max: usize,
        keep_going: bool,
        mut pick: impl FnMut(usize) -> usize,
    ) -> BTreeMap<StorePath, &'static str> {
        let by_path: BTreeMap<StorePath, usize> = graph.keys().map(|n| (drv(*n), *n)).collect();
        let mut plan = Plan::new(jobs_max, keep_going);
        let mut ends = BTreeMap::new();
        let mut running: Vec<StorePath> = Vec::new();
        let mut effects: VecDeque<Effect> = plan.step(Event::Wanted(drv(0))).into();
        loop {
            while let Some(effect) = effects.pop_front() {
                match effect {
                    Effect::Load(path) => {
                        let inputs = graph[&by_path[&path]].iter().map(|n| drv(*n)).collect();
                        effects.extend(plan.step(Event::Loaded { drv: path, inputs }));
                    }
                    Effect::Run(path) => {
                        for input in &graph[&by_path[&path]] {
                            assert_eq!(ends.get(&drv(*input)), Some(&"ok"), "ran before its input");
                        }
                        running.push(path);
                        assert!(running.len() <= jobs_max, "more than the limit run");
                    }
                    Effect::Abandon { drv, because_of } => {
                        assert_ne!(ends.get(&because_of), Some(&"ok"));
                        assert_eq!(ends.insert(drv, "abandoned"), None);
                    }
                }
            }
            if running.is_empty() {
                break;
            }
            let ended = running.swap_remove(pick(running.len()));
            let succeeded = !failing.contains(&by_path[&ended]);
            assert_eq!(
                ends.insert(ended.clone(), if succeeded { "ok" } else { "failed" }),
                None
            );
            effects.extend(plan.step(Event::Ended {
                drv: ended,
                succeeded,
            }));
        }
        assert!(plan.is_idle());
        for path in plan.unfinished() {
            ends.insert(path.clone(), "unfinished");
        }
        ends
    }

    fn graph(edges: &[(usize, &[usize])]) -> BTreeMap<usize, Vec<usize>> {
        edges
            .iter()
            .map(|(from, to)| (*from, to.to_vec()))
            .collect()
    }

    #[test]
    fn inputs_run_before_what_needs_them_and_never_twice() {
        let diamond = graph(&[(0, &[1, 2]), (1, &[3]), (2, &[3]), (3, &[])]);
        let ends = run(&diamond, &BTreeSet::new(), 2, false, |_| 0);
        assert!(ends.values().all(|end| *end == "ok"));
        assert_eq!(ends.len(), 4);
    }

    #[test]
    fn with_keep_going_only_what_depends_on_a_failure_is_abandoned() {
        let wide = graph(&[(0, &[1, 2]), (1, &[3]), (2, &[]), (3, &[])]);
        let ends = run(&wide, &BTreeSet::from([3]), 1, true, |_| 0);
        assert_eq!(ends[&drv(0)], "abandoned");
        assert_eq!(ends[&drv(1)], "abandoned");
        assert_eq!(ends[&drv(2)], "ok");
    }

    #[test]
    fn a_cycle_is_told_and_not_waited_for() {
        let cycle = graph(&[(0, &[1]), (1, &[0])]);
        let ends = run(&cycle, &BTreeSet::new(), 1, false, |_| 0);
        assert!(ends.values().all(|end| *end == "unfinished"));
    }

    #[test]
    fn random_graphs_end_whatever_order_things_happen_in() {
        // A small generator of its own, so that the seed in the message replays it.
        for seed in 0..500u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = move |below: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % below as u64) as usize
            };
            let count = 1 + random(12);
            let edges: BTreeMap<usize, Vec<usize>> = (0..count)
                .map(|n| (n, (n + 1..count).filter(|_| random(3) == 0).collect()))
                .collect();
            let failing = (0..count).filter(|_| random(8) == 0).collect();
            let jobs_max = 1 + random(4);
            let keep_going = random(2) == 0;
            let ends = run(&edges, &failing, jobs_max, keep_going, random);
            if keep_going {
                assert!(
                    !ends.values().any(|end| *end == "unfinished"),
                    "seed {seed}"
                );
            }
            if failing.is_empty() {
                assert!(ends.values().all(|end| *end == "ok"), "seed {seed}");
            }
        }
    }
}
