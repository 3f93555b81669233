//! Which derivation may run when: a state machine without I/O.
//!
//! Everything that happens comes in as an [`Event`]; what is to be done goes out
//! as [`Effect`]s, which the dispatcher carries out. A
//! derivation is loaded first: if the outputs that are wanted of it are valid, its
//! inputs are not even looked at. Otherwise it runs once all its inputs have
//! succeeded, and never if one of them has failed.
//!
//! A derivation that is an output of another one is not known at first. It ends as the
//! derivation ends that it turns out to be, which is found out when the other one has
//! succeeded; until then nobody knows what it depends on, itself perhaps.

use std::collections::{BTreeMap, BTreeSet};

use store_types::{SingleDerivedPath, StorePath};

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A derivation is asked for.
    Wanted(SingleDerivedPath),
    /// A derivation was read: which derivations it waits for.
    Loaded {
        /// The derivation.
        drv: StorePath,
        /// The derivations whose outputs it needs.
        inputs: BTreeSet<SingleDerivedPath>,
    },
    /// It was found out which derivation an output is.
    Found {
        /// The output.
        output: SingleDerivedPath,
        /// The derivation.
        drv: StorePath,
    },
    /// A derivation's outputs are there, or will never be: whether it ran or not.
    Ended {
        /// The derivation.
        drv: SingleDerivedPath,
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
    /// Find out which derivation this output is; answer with `Found` or `Ended`.
    Find(SingleDerivedPath),
    /// Run this derivation; answer with `Ended`.
    Run(StorePath),
    /// This derivation will not run, because this one that it needs has failed.
    Abandon {
        /// The derivation.
        drv: SingleDerivedPath,
        /// What failed.
        because_of: SingleDerivedPath,
    },
}

#[derive(Debug)]
enum State {
    Loading,
    Waiting {
        inputs: BTreeSet<SingleDerivedPath>,
    },
    Ready,
    Running,
    /// The derivation that it is an output of has not succeeded yet.
    Unmade,
    /// It is being found out which derivation it is.
    Finding,
    /// The derivation that it is has not ended yet.
    Following,
    Ended {
        succeeded: bool,
    },
}

/// All derivations of one request.
#[derive(Debug)]
pub struct Plan {
    jobs_max: usize,
    keep_going: bool,
    stopped: bool,
    running: usize,
    units: BTreeMap<SingleDerivedPath, State>,
    /// Who waits for whom, from input to dependants.
    dependants: BTreeMap<SingleDerivedPath, BTreeSet<SingleDerivedPath>>,
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
            Event::Loaded { drv, inputs } => self.loaded(drv.into(), inputs, &mut effects),
            Event::Found { output, drv } => self.found(output, drv.into(), &mut effects),
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
            State::Loading | State::Running | State::Finding => true,
            State::Ready => !self.stopped,
            State::Waiting { .. } | State::Unmade | State::Following | State::Ended { .. } => false,
        };
        !self.units.values().any(pending)
    }

    /// Derivations that have neither ended nor will: what was stopped, or waits in
    /// a cycle.
    pub fn unfinished(&self) -> impl Iterator<Item = &SingleDerivedPath> {
        let ended = |state: &State| matches!(state, State::Ended { .. });
        self.units
            .iter()
            .filter(move |(_, state)| !ended(state))
            .map(|(drv, _)| drv)
    }

    /// Takes a derivation in; of one that is an output, all that it is an output of.
    fn want(&mut self, mut drv: SingleDerivedPath, effects: &mut Vec<Effect>) {
        while !self.units.contains_key(&drv) {
            let Some((outer, _)) = drv.split_last() else {
                effects.push(Effect::Load(drv.base.clone()));
                self.units.insert(drv, State::Loading);
                return;
            };
            match self.units.get(&outer) {
                Some(State::Ended { succeeded: true }) => {
                    effects.push(Effect::Find(drv.clone()));
                    self.units.insert(drv, State::Finding);
                    return;
                }
                Some(State::Ended { succeeded: false }) => {
                    self.abandon(drv, outer, effects);
                    return;
                }
                _ => {
                    self.depend(&drv, &outer);
                    self.units.insert(drv, State::Unmade);
                    drv = outer;
                }
            }
        }
    }

    fn depend(&mut self, dependant: &SingleDerivedPath, input: &SingleDerivedPath) {
        self.dependants
            .entry(input.clone())
            .or_default()
            .insert(dependant.clone());
    }

    fn loaded(
        &mut self,
        drv: SingleDerivedPath,
        inputs: BTreeSet<SingleDerivedPath>,
        effects: &mut Vec<Effect>,
    ) {
        let mut waiting = BTreeSet::new();
        let mut failed = None;
        for input in inputs {
            // Some fail right here: outputs of what has failed.
            self.want(input.clone(), effects);
            match self.units.get(&input) {
                Some(State::Ended { succeeded: true }) => {}
                Some(State::Ended { succeeded: false }) => failed = Some(input),
                _ => {
                    self.depend(&drv, &input);
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

    fn found(
        &mut self,
        output: SingleDerivedPath,
        drv: SingleDerivedPath,
        effects: &mut Vec<Effect>,
    ) {
        self.want(drv.clone(), effects);
        if let Some(State::Ended { succeeded }) = self.units.get(&drv) {
            let succeeded = *succeeded;
            self.end(output, succeeded, effects);
        } else {
            self.depend(&output, &drv);
            self.units.insert(output, State::Following);
        }
    }

    fn abandon(
        &mut self,
        drv: SingleDerivedPath,
        because_of: SingleDerivedPath,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Abandon {
            drv: drv.clone(),
            because_of,
        });
        self.end(drv, false, effects);
    }

    /// Ends a derivation, and all that ends with it.
    fn end(&mut self, drv: SingleDerivedPath, succeeded: bool, effects: &mut Vec<Effect>) {
        self.units.insert(drv.clone(), State::Ended { succeeded });
        let mut ended = vec![drv];
        while let Some(input) = ended.pop() {
            for dependant in self.dependants.remove(&input).unwrap_or_default() {
                let next = match self.units.get_mut(&dependant) {
                    Some(State::Waiting { .. } | State::Unmade) if !succeeded => {
                        effects.push(Effect::Abandon {
                            drv: dependant.clone(),
                            because_of: input.clone(),
                        });
                        State::Ended { succeeded }
                    }
                    Some(State::Waiting { inputs }) => {
                        inputs.remove(&input);
                        if !inputs.is_empty() {
                            continue;
                        }
                        State::Ready
                    }
                    Some(State::Unmade) => {
                        effects.push(Effect::Find(dependant.clone()));
                        State::Finding
                    }
                    Some(State::Following) => State::Ended { succeeded },
                    _ => continue,
                };
                if matches!(next, State::Ended { .. }) {
                    ended.push(dependant.clone());
                }
                self.units.insert(dependant, next);
            }
        }
    }

    fn start(&mut self, effects: &mut Vec<Effect>) {
        if self.stopped {
            return;
        }
        let free = self.jobs_max.saturating_sub(self.running);
        let ready = |(_, state): &(&SingleDerivedPath, &State)| matches!(state, State::Ready);
        let starting: Vec<SingleDerivedPath> = self
            .units
            .iter()
            .filter(ready)
            .take(free)
            .map(|(drv, _)| drv.clone())
            .collect();
        for drv in starting {
            self.running += 1;
            effects.push(Effect::Run(drv.base.clone()));
            self.units.insert(drv, State::Running);
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

    /// A derivation's input: a derivation, and how many times the output of what it makes.
    type Input = (usize, usize);

    fn path((n, depth): Input) -> SingleDerivedPath {
        SingleDerivedPath {
            base: drv(n),
            outputs: vec!["out".to_owned(); depth],
        }
    }

    /// The inputs of each derivation, and which derivation its output is.
    type Graph = BTreeMap<usize, (Vec<Input>, Option<usize>)>;

    /// The derivations that must have succeeded before this is there.
    fn needs(graph: &Graph, (n, depth): Input) -> Vec<usize> {
        let next = |n: &usize| graph[n].1;
        std::iter::successors(Some(n), next)
            .take(depth + 1)
            .collect()
    }

    /// Runs a plan over a graph, checking at each step what must never happen;
    /// `pick` chooses which running derivation ends next. Returns how each ended.
    fn run(
        graph: &Graph,
        wanted: Input,
        failing: &BTreeSet<usize>,
        jobs_max: usize,
        keep_going: bool,
        mut pick: impl FnMut(usize) -> usize,
    ) -> BTreeMap<SingleDerivedPath, &'static str> {
        let by_path: BTreeMap<StorePath, usize> = graph.keys().map(|n| (drv(*n), *n)).collect();
        let mut plan = Plan::new(jobs_max, keep_going);
        let mut ends = BTreeMap::new();
        let mut running: Vec<StorePath> = Vec::new();
        let mut found = BTreeSet::new();
        let mut effects: VecDeque<Effect> = plan.step(Event::Wanted(path(wanted))).into();
        let check_needed = |ends: &BTreeMap<_, _>, needed: Vec<usize>| {
            for input in needed {
                assert_eq!(ends.get(&path((input, 0))), Some(&"ok"), "before its input");
            }
        };
        loop {
            while let Some(effect) = effects.pop_front() {
                match effect {
                    Effect::Load(loaded) => {
                        let inputs = graph[&by_path[&loaded]]
                            .0
                            .iter()
                            .map(|i| path(*i))
                            .collect();
                        effects.extend(plan.step(Event::Loaded {
                            drv: loaded,
                            inputs,
                        }));
                    }
                    Effect::Find(output) => {
                        assert!(found.insert(output.clone()), "found twice");
                        let input = (by_path[&output.base], output.outputs.len());
                        check_needed(&ends, needs(graph, (input.0, input.1 - 1)));
                        let all = needs(graph, input);
                        let event = if all.len() == input.1 + 1 {
                            let drv = drv(all[input.1]);
                            Event::Found { output, drv }
                        } else {
                            ends.insert(output.clone(), "failed");
                            let succeeded = false;
                            Event::Ended {
                                drv: output,
                                succeeded,
                            }
                        };
                        effects.extend(plan.step(event));
                    }
                    Effect::Run(started) => {
                        for input in &graph[&by_path[&started]].0 {
                            check_needed(&ends, needs(graph, *input));
                        }
                        running.push(started);
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
            let drv = SingleDerivedPath::from(ended);
            let end = if succeeded { "ok" } else { "failed" };
            assert_eq!(ends.insert(drv.clone(), end), None);
            effects.extend(plan.step(Event::Ended { drv, succeeded }));
        }
        assert!(plan.is_idle());
        for path in plan.unfinished() {
            ends.insert(path.clone(), "unfinished");
        }
        ends
    }

    fn graph(edges: &[(usize, &[usize])]) -> Graph {
        edges
            .iter()
            .map(|(from, to)| (*from, (to.iter().map(|n| (*n, 0)).collect(), None)))
            .collect()
    }

    #[test]
    fn inputs_run_before_what_needs_them_and_never_twice() {
        let diamond = graph(&[(0, &[1, 2]), (1, &[3]), (2, &[3]), (3, &[])]);
        let ends = run(&diamond, (0, 0), &BTreeSet::new(), 2, false, |_| 0);
        assert!(ends.values().all(|end| *end == "ok"));
        assert_eq!(ends.len(), 4);
    }

    #[test]
    fn with_keep_going_only_what_depends_on_a_failure_is_abandoned() {
        let wide = graph(&[(0, &[1, 2]), (1, &[3]), (2, &[]), (3, &[])]);
        let ends = run(&wide, (0, 0), &BTreeSet::from([3]), 1, true, |_| 0);
        assert_eq!(ends[&path((0, 0))], "abandoned");
        assert_eq!(ends[&path((1, 0))], "abandoned");
        assert_eq!(ends[&path((2, 0))], "ok");
    }

    #[test]
    fn a_cycle_is_told_and_not_waited_for() {
        let cycle = graph(&[(0, &[1]), (1, &[0])]);
        let ends = run(&cycle, (0, 0), &BTreeSet::new(), 1, false, |_| 0);
        assert!(ends.values().all(|end| *end == "unfinished"));
    }

    #[test]
    fn the_output_of_an_output_waits_for_both_derivations() {
        let graph = Graph::from([
            (0, (vec![(1, 2)], None)),
            (1, (vec![], Some(2))),
            (2, (vec![(4, 0)], Some(3))),
            (3, (vec![], None)),
            (4, (vec![], None)),
        ]);
        let ends = run(&graph, (0, 0), &BTreeSet::new(), 2, false, |_| 0);
        assert!(ends.values().all(|end| *end == "ok"));
        assert_eq!(ends.len(), 5);
        // Asked for by itself.
        let ends = run(&graph, (1, 2), &BTreeSet::new(), 2, false, |_| 0);
        assert!(ends.contains_key(&path((3, 0))) && !ends.contains_key(&path((0, 0))));
    }

    #[test]
    fn where_the_derivation_of_an_output_fails_only_its_users_are_abandoned() {
        let graph = Graph::from([
            (0, (vec![(1, 1), (3, 0)], None)),
            (1, (vec![], Some(2))),
            (2, (vec![], None)),
            (3, (vec![], None)),
        ]);
        let ends = run(&graph, (0, 0), &BTreeSet::from([2]), 1, true, |_| 0);
        assert_eq!(ends[&path((0, 0))], "abandoned");
        assert_eq!(ends[&path((1, 0))], "ok");
        assert_eq!(ends[&path((3, 0))], "ok");
        let ends = run(&graph, (0, 0), &BTreeSet::from([1]), 1, true, |_| 0);
        assert_eq!(ends[&path((1, 1))], "abandoned");
        assert!(!ends.contains_key(&path((2, 0))));
    }

    #[test]
    fn a_derivation_that_comes_to_depend_on_itself_is_told_and_not_waited_for() {
        // What 1 makes needs what needs the output of 1.
        let graph = Graph::from([
            (0, (vec![(1, 1)], None)),
            (1, (vec![], Some(2))),
            (2, (vec![(0, 0)], None)),
        ]);
        let ends = run(&graph, (0, 0), &BTreeSet::new(), 1, true, |_| 0);
        assert_eq!(ends[&path((0, 0))], "unfinished");
        assert_eq!(ends[&path((1, 0))], "ok");
    }

    #[test]
    fn random_graphs_end_whatever_order_things_happen_in() {
        // A small generator of its own, so that the seed in the message replays it.
        for seed in 0..2000u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = move |below: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % below as u64) as usize
            };
            let count = 1 + random(12);
            let is_dynamic = random(2) == 0;
            let makes: Vec<Option<usize>> = (0..count)
                .map(|n| (is_dynamic && n + 1 < count).then(|| n + 1 + random(count - n - 1)))
                .collect();
            let edges: Graph = (0..count)
                .map(|n| {
                    let later: Vec<usize> = (n + 1..count).filter(|_| random(3) == 0).collect();
                    let depth = if is_dynamic { 3 } else { 1 };
                    let inputs = later.into_iter().map(|input| (input, random(depth)));
                    (n, (inputs.collect(), makes[n]))
                })
                .collect();
            let failing = (0..count).filter(|_| random(8) == 0).collect();
            let jobs_max = 1 + random(4);
            let keep_going = random(2) == 0;
            let wanted = (0, if is_dynamic { random(3) } else { 0 });
            let ends = run(&edges, wanted, &failing, jobs_max, keep_going, random);
            if keep_going {
                assert!(
                    !ends.values().any(|end| *end == "unfinished"),
                    "seed {seed}"
                );
            }
            // What is no derivation fails where it is found out.
            if failing.is_empty() && !is_dynamic {
                assert!(ends.values().all(|end| *end == "ok"), "seed {seed}");
            }
        }
    }
}
