//! The pool of jobs: how many builders run at once, over all requests and over builds inside
//! builds.
//!
//! A builder runs with a [`Job`]. One that asks for builds through its socket gives its job back
//! for as long as it waits ([`Job::wait`]) and gets one again before it is answered. So a chain
//! of builds of any depth needs one job, and those that hold one never wait for somebody who needs
//! one. Of those that wait, who is to be answered goes first, else a deep chain would starve; then
//! the deeper, since shallower ones wait for them.
//!
//! A build of which several processes ask at once, or of which one asks while others work, counts
//! as waiting: nobody knows what they do, and if it counted as working, with one job it might wait
//! for itself.
//!
//! What a builder holds while it waits, others may want: the locks of its outputs. Two builds that
//! ask for each other would wait for ever; that is found out ([`Share::is_circle`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use store_types::StorePath;

/// How often one who waits asks whether it is still worth it.
const POLL: Duration = Duration::from_millis(100);

/// The jobs of an executor.
#[derive(Debug)]
pub(crate) struct Jobs {
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Jobs that are taken.
    taken: usize,
    /// Builders that wait.
    waiting: usize,
    /// Counts all that needs a number.
    last: u64,
    /// Requests from outside, with what is asked for inside of them.
    trees: BTreeMap<u64, Tree>,
    queue: BTreeSet<Place>,
    /// Builds that run or wait, by what they have locked.
    locked: BTreeMap<StorePath, Arc<Job>>,
    /// Who waits for locks: for whom, and for which.
    blocked: BTreeMap<u64, (Option<Arc<Job>>, BTreeSet<StorePath>)>,
}

/// A request from outside.
#[derive(Debug)]
struct Tree {
    /// How many jobs it wants at most.
    limit: usize,
    taken: usize,
}

/// A place in the queue, the first to go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Who has worked before.
    is_answered: Reverse<bool>,
    depth: Reverse<usize>,
    number: u64,
    tree: u64,
}

/// What of the pool a request for builds may have.
#[derive(Debug)]
pub(crate) struct Share {
    jobs: Arc<Jobs>,
    tree: u64,
    /// The build that asks, if it is one.
    inside: Option<Arc<Job>>,
}

/// A builder that runs, or waits for others.
#[derive(Debug)]
pub(crate) struct Job {
    jobs: Arc<Jobs>,
    tree: u64,
    depth: usize,
    inside: Option<Arc<Job>>,
    /// What it has locked as long as it lasts.
    locked: BTreeSet<StorePath>,
    /// Whether it is one of the pool's, and not another's affair.
    is_counted: bool,
    use_: Mutex<Use>,
}

/// What a builder does with its job.
#[derive(Debug, Default)]
struct Use {
    /// Whether it has one.
    is_taken: bool,
    /// Requests of it that are not answered.
    waits: usize,
    is_over: bool,
}

/// A builder that has a job. Dropped, it has ended.
#[derive(Debug)]
pub(crate) struct Started(Arc<Job>);

/// A builder waits. Dropped, it works again.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Job>);

/// A mark that somebody waits for locks.
#[derive(Debug)]
pub(crate) struct Blocked<'a> {
    jobs: &'a Jobs,
    number: u64,
}

impl Jobs {
    /// `capacity` of them, at least one.
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            capacity: capacity.max(1),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request from outside. Who asks for more jobs at once than there are gets them, as long as
    /// the request lasts: that is how Nix takes `--max-jobs`.
    pub(crate) fn share(self: &Arc<Self>, limit: usize) -> Share {
        let mut state = self.state();
        let tree = state.number();
        let limit = limit.max(1);
        state.trees.insert(tree, Tree { limit, taken: 0 });
        Share {
            jobs: self.clone(),
            tree,
            inside: None,
        }
    }

    /// Takes a job of this tree when it is its turn; false if that is given up before.
    fn take(&self, mut place: Place, is_given_up: impl Fn() -> bool) -> bool {
        let mut state = self.state();
        place.number = state.number();
        state.queue.insert(place);
        loop {
            if state.next(self.capacity) == Some(place) {
                state.queue.remove(&place);
                state.taken += 1;
                if let Some(tree) = state.trees.get_mut(&place.tree) {
                    tree.taken += 1;
                }
                // There may be one for the next, too.
                self.changed.notify_all();
                return true;
            }
            (state, _) = self
                .changed
                .wait_timeout(state, POLL)
                .unwrap_or_else(PoisonError::into_inner);
            if state.next(self.capacity) != Some(place) {
                // It may ask anything, so it is asked outside.
                drop(state);
                let is_given_up = is_given_up();
                state = self.state();
                if is_given_up {
                    state.queue.remove(&place);
                    self.changed.notify_all();
                    return false;
                }
            }
        }
    }

    /// How many builders wait for what they have asked for.
    pub(crate) fn waiting(&self) -> usize {
        self.state().waiting
    }

    fn give_back(&self, tree: u64) {
        let mut state = self.state();
        state.taken -= 1;
        if let Some(tree) = state.trees.get_mut(&tree) {
            tree.taken -= 1;
        }
        self.changed.notify_all();
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Whose turn it is.
    fn next(&self, capacity: usize) -> Option<Place> {
        let wanted = self.trees.values().map(|tree| tree.limit).max();
        if self.taken >= capacity.max(wanted.unwrap_or(0)) {
            return None;
        }
        // Nobody counts for a request that has gone.
        let may_go = |place: &&Place| {
            let tree = self.trees.get(&place.tree);
            tree.is_none_or(|tree| tree.taken < tree.limit)
        };
        self.queue.iter().find(may_go).copied()
    }

    /// Whether somebody who waits for one of these locks, for `inside`, waits for itself.
    fn is_circle(&self, inside: &Arc<Job>, paths: &BTreeSet<StorePath>) -> bool {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<&StorePath> = paths.iter().collect();
        while let Some(path) = todo.pop() {
            let Some(holder) = self.locked.get(path).filter(|_| seen.insert(path)) else {
                continue;
            };
            if inside.chain().any(|job| Arc::ptr_eq(job, holder)) {
                return true;
            }
            for (asker, paths) in self.blocked.values() {
                let Some(asker) = asker else { continue };
                if asker.chain().any(|job| Arc::ptr_eq(job, holder)) {
                    todo.extend(paths);
                }
            }
        }
        false
    }
}

impl Share {
    /// A job for a builder, which has locked these paths; `None` if it was given up before there
    /// was one.
    pub(crate) fn start(
        &self,
        locked: &BTreeSet<StorePath>,
        is_given_up: impl Fn() -> bool,
    ) -> Option<Started> {
        let place = Place {
            is_answered: Reverse(false),
            depth: Reverse(self.depth()),
            number: 0,
            tree: self.tree,
        };
        self.jobs
            .take(place, is_given_up)
            .then(|| self.job(locked, true))
    }

    /// A job for a builder that somebody else has made room for.
    pub(crate) fn start_uncounted(&self, locked: &BTreeSet<StorePath>) -> Started {
        self.job(locked, false)
    }

    fn depth(&self) -> usize {
        self.inside.as_ref().map_or(0, |job| job.depth + 1)
    }

    fn job(&self, locked: &BTreeSet<StorePath>, is_counted: bool) -> Started {
        let job = Arc::new(Job {
            jobs: self.jobs.clone(),
            tree: self.tree,
            depth: self.depth(),
            inside: self.inside.clone(),
            locked: locked.clone(),
            is_counted,
            use_: Mutex::new(Use {
                is_taken: is_counted,
                ..Use::default()
            }),
        });
        let mut state = self.jobs.state();
        for path in locked {
            state.locked.insert(path.clone(), job.clone());
        }
        Started(job)
    }

    /// Says that somebody waits for these locks, until the result is dropped.
    pub(crate) fn blocked_on(&self, paths: &BTreeSet<StorePath>) -> Blocked<'_> {
        let mut state = self.jobs.state();
        let number = state.number();
        let entry = (self.inside.clone(), paths.clone());
        state.blocked.insert(number, entry);
        Blocked {
            jobs: &self.jobs,
            number,
        }
    }

    /// Whether who holds one of these locks waits for the build that asks, so that waiting for it
    /// would have no end.
    pub(crate) fn is_circle(&self, paths: &BTreeSet<StorePath>) -> bool {
        let state = self.jobs.state();
        self.inside
            .as_ref()
            .is_some_and(|inside| state.is_circle(inside, paths))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.inside.is_none() {
            self.jobs.state().trees.remove(&self.tree);
            self.jobs.changed.notify_all();
        }
    }
}

impl Job {
    /// Itself, the build that has asked for it, and so on.
    fn chain(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        std::iter::successors(Some(self), |job| job.inside.as_ref())
    }

    fn use_(&self) -> MutexGuard<'_, Use> {
        self.use_.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The builder waits from now on, and others may work instead.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiting {
        let mut use_ = self.use_();
        use_.waits += 1;
        if use_.waits == 1 && !use_.is_over {
            self.jobs.state().waiting += 1;
        }
        if std::mem::take(&mut use_.is_taken) {
            self.jobs.give_back(self.tree);
        }
        Waiting(self.clone())
    }

    /// What a request from the builder may have.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share {
            jobs: self.jobs.clone(),
            tree: self.tree,
            inside: Some(self.clone()),
        }
    }

    /// The builder has ended.
    pub(crate) fn end(&self) {
        let mut use_ = self.use_();
        if !std::mem::replace(&mut use_.is_over, true) && use_.waits > 0 {
            self.jobs.state().waiting -= 1;
        }
        if std::mem::take(&mut use_.is_taken) {
            self.jobs.give_back(self.tree);
        }
        drop(use_);
        let mut state = self.jobs.state();
        for path in &self.locked {
            let is_own = |job: &&Arc<Job>| std::ptr::eq(Arc::as_ptr(job), self);
            if state.locked.get(path).filter(is_own).is_some() {
                state.locked.remove(path);
            }
        }
    }

    fn one_less(&self, use_: &mut Use) {
        use_.waits -= 1;
        if use_.waits == 0 && !use_.is_over {
            self.jobs.state().waiting -= 1;
        }
    }

    /// One request of the builder is to be answered.
    fn answered(&self) {
        let mut use_ = self.use_();
        if use_.waits > 1 || use_.is_over || !self.is_counted {
            // For as long as another request waits, it has no job.
            self.one_less(&mut use_);
            return;
        }
        drop(use_);
        let place = Place {
            is_answered: Reverse(true),
            depth: Reverse(self.depth),
            number: 0,
            tree: self.tree,
        };
        let is_taken = self.jobs.take(place, || self.use_().is_over);
        let mut use_ = self.use_();
        self.one_less(&mut use_);
        if !is_taken {
            return;
        }
        if use_.is_over || use_.waits > 0 || use_.is_taken {
            // Meanwhile it has ended, or asked for more.
            drop(use_);
            self.jobs.give_back(self.tree);
        } else {
            use_.is_taken = true;
        }
    }
}

impl Deref for Started {
    type Target = Arc<Job>;

    fn deref(&self) -> &Arc<Job> {
        &self.0
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.end();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.answered();
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.jobs.state().blocked.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    fn paths(names: &[&str]) -> BTreeSet<StorePath> {
        let path = |name: &&str| StorePath::from_hash_and_name(&[7; 20], name).unwrap();
        names.iter().map(path).collect()
    }

    fn start(share: &Share) -> Started {
        share
            .start(&BTreeSet::new(), || false)
            .expect("never given up")
    }

    fn has_none(share: &Share) -> bool {
        share.start(&BTreeSet::new(), || true).is_none()
    }

    fn taken(jobs: &Jobs) -> usize {
        jobs.state().taken
    }

    /// Builders that work, and how many there were at most.
    #[derive(Default)]
    struct Working {
        now: AtomicUsize,
        most: AtomicUsize,
        done: AtomicUsize,
    }

    impl Working {
        fn begin(&self) {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
        }

        fn end(&self) {
            self.now.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// A build that asks `fanout` times for one like it, `depth` deep.
    fn build(share: &Share, depth: usize, fanout: usize, working: &Working) {
        let job = start(share);
        working.begin();
        for _ in 0..if depth > 0 { fanout } else { 0 } {
            working.end();
            let waiting = job.wait();
            build(&job.share(), depth - 1, fanout, working);
            drop(waiting);
            working.begin();
            std::thread::yield_now();
        }
        working.end();
        working.done.fetch_add(1, Ordering::SeqCst);
        job.end();
    }

    #[test]
    fn a_chain_of_any_depth_needs_one_job() {
        let jobs = Jobs::new(1);
        let working = Working::default();
        build(&jobs.share(1), 20, 1, &working);
        assert_eq!(working.most.into_inner(), 1);
        assert_eq!(working.done.into_inner(), 21);
        assert_eq!(taken(&jobs), 0);
    }

    #[test]
    fn no_more_builders_work_than_there_are_jobs_however_many_ask() {
        for capacity in 1..4 {
            let jobs = Jobs::new(capacity);
            let working = Working::default();
            std::thread::scope(|scope| {
                for _ in 0..6 {
                    scope.spawn(|| build(&jobs.share(capacity), 3, 3, &working));
                }
            });
            assert!(working.most.into_inner() <= capacity);
            assert_eq!(working.done.into_inner(), 6 * (1 + 3 + 9 + 27));
            assert_eq!(taken(&jobs), 0);
            assert!(jobs.state().trees.is_empty());
        }
    }

    #[test]
    fn a_request_has_no_more_jobs_than_it_wants_and_may_want_more_than_there_are() {
        let jobs = Jobs::new(2);
        let one = jobs.share(1);
        let first = start(&one);
        assert!(has_none(&one));
        let many = jobs.share(4);
        let others = [start(&many), start(&many), start(&many)];
        assert!(has_none(&many), "four are taken");
        first.end();
        others.iter().for_each(|job| job.end());
        drop(many);
        let plain = jobs.share(2);
        let both = [start(&plain), start(&plain)];
        assert!(has_none(&jobs.share(2)), "who wanted four has gone");
        both.iter().for_each(|job| job.end());
        assert_eq!(taken(&jobs), 0);
    }

    #[test]
    fn who_is_answered_goes_before_the_deeper_and_the_deeper_before_who_came_first() {
        let jobs = Jobs::new(1);
        let outside = jobs.share(1);
        let outer = start(&outside);
        let waiting = outer.wait();
        let holder = start(&outer.share());
        let order = Mutex::new(Vec::new());
        let queued = |count: usize| {
            while jobs.state().queue.len() < count {
                std::thread::yield_now();
            }
        };
        let note = |who, job: Started| {
            order.lock().unwrap().push(who);
            job.end();
        };
        let inner = outer.share();
        std::thread::scope(|scope| {
            scope.spawn(|| note("shallow", start(&outside)));
            queued(1);
            scope.spawn(|| note("deep", start(&inner)));
            queued(2);
            let resumed = &order;
            let outer = &outer;
            scope.spawn(move || {
                drop(waiting);
                resumed.lock().unwrap().push("answered");
                outer.end();
            });
            queued(3);
            holder.end();
        });
        assert_eq!(*order.lock().unwrap(), ["answered", "deep", "shallow"]);
    }

    #[test]
    fn what_is_given_up_fails_or_is_forgotten_gives_its_job_back() {
        let jobs = Jobs::new(1);
        let outside = jobs.share(1);
        let outer = start(&outside);
        // A request that fails on its way.
        drop(outer.wait());
        assert_eq!(taken(&jobs), 1);
        // One that waits, and gives up.
        assert!(has_none(&outside));
        // The builder is killed while it waits, and its job is taken by another.
        let waiting = outer.wait();
        let other = start(&outside);
        let is_answered = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (outer, is_answered) = (&outer, &is_answered);
            scope.spawn(move || {
                drop(waiting);
                is_answered.store(true, Ordering::SeqCst);
            });
            while jobs.state().queue.is_empty() {
                std::thread::yield_now();
            }
            assert!(!is_answered.load(Ordering::SeqCst));
            outer.end();
        });
        assert!(is_answered.into_inner());
        assert_eq!(taken(&jobs), 1);
        other.end();
        assert_eq!(taken(&jobs), 0);
        assert!(jobs.state().queue.is_empty());
    }

    #[test]
    fn a_builder_with_two_requests_has_no_job_until_both_are_answered() {
        let jobs = Jobs::new(1);
        let outer = start(&jobs.share(1));
        let (first, second) = (outer.wait(), outer.wait());
        assert_eq!((taken(&jobs), jobs.waiting()), (0, 1));
        drop(first);
        assert_eq!((taken(&jobs), jobs.waiting()), (0, 1));
        drop(second);
        assert_eq!((taken(&jobs), jobs.waiting()), (1, 0));
        outer.end();
        outer.end();
        assert_eq!((taken(&jobs), jobs.waiting()), (0, 0));
    }

    #[test]
    fn a_builder_that_is_another_s_affair_takes_no_job_but_what_it_asks_for_does() {
        let jobs = Jobs::new(1);
        let outer = jobs.share(1).start_uncounted(&BTreeSet::new());
        assert_eq!(taken(&jobs), 0);
        let waiting = outer.wait();
        let share = jobs.share(1);
        let inner = start(&share);
        assert_eq!(taken(&jobs), 1);
        drop(waiting);
        inner.end();
        assert_eq!(taken(&jobs), 0);
    }

    #[test]
    fn builds_that_ask_for_themselves_or_for_each_other_are_found() {
        let jobs = Jobs::new(2);
        let outside = jobs.share(2);
        let start = |share: &Share, name| share.start(&paths(&[name]), || false).unwrap();
        let (a, b) = (start(&outside, "a"), start(&outside, "b"));
        let (in_a, in_b) = (a.share(), b.share());
        assert!(in_a.is_circle(&paths(&["a"])), "itself");
        assert!(!outside.is_circle(&paths(&["a"])));
        assert!(!in_a.is_circle(&paths(&["b"])), "b may still end");
        let _waiting = (a.wait(), b.wait());
        let deep = start(&in_a, "c");
        let blocked = deep.share();
        let blocked = blocked.blocked_on(&paths(&["b", "x"]));
        assert!(in_b.is_circle(&paths(&["a"])), "each other");
        assert!(in_b.is_circle(&paths(&["c"])));
        drop(blocked);
        assert!(!in_b.is_circle(&paths(&["a"])));
        a.end();
        assert!(!in_a.is_circle(&paths(&["a"])), "it has ended");
    }

    /// Random trees of builds that ask, fail, are cancelled and end at any time: all jobs are there
    /// in the end, and there are never more builders at work than jobs.
    #[test]
    fn whatever_builds_do_no_job_is_lost_and_none_is_had_twice() {
        fn random(state: &mut u64, below: u64) -> u64 {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            *state % below
        }
        fn run(share: &Share, depth: u64, mut seed: u64, working: &Working) {
            let given_up = AtomicUsize::new(random(&mut seed, 8) as usize);
            let is_given_up = || given_up.fetch_sub(1, Ordering::SeqCst) == 0;
            let Some(job) = share.start(&BTreeSet::new(), is_given_up) else {
                return;
            };
            working.begin();
            for _ in 0..random(&mut seed, 4) {
                if depth == 0 {
                    break;
                }
                working.end();
                std::thread::scope(|scope| {
                    // Several requests of one build overlap; while they do, it does not work.
                    let all = job.wait();
                    for _ in 0..1 + random(&mut seed, 2) {
                        let (job, seed) = (&job, seed.wrapping_add(depth).wrapping_mul(31) | 1);
                        scope.spawn(move || {
                            let _waiting = job.wait();
                            run(&job.share(), depth - 1, seed, working);
                        });
                    }
                    if random(&mut seed, 8) == 0 {
                        // Killed while it waits.
                        job.end();
                    }
                    scope.spawn(move || drop(all));
                });
                if job.use_().is_over {
                    return;
                }
                working.begin();
            }
            working.end();
            job.end();
        }
        for seed in 1..40u64 {
            let capacity = 1 + (seed % 3) as usize;
            let jobs = Jobs::new(capacity);
            let working = Working::default();
            std::thread::scope(|scope| {
                for request in 0..3 {
                    let (jobs, working) = (&jobs, &working);
                    let seed = (seed * 0x9e37_79b9 + request) | 1;
                    scope.spawn(move || run(&jobs.share(capacity), 4, seed, working));
                }
            });
            assert!(working.most.into_inner() <= capacity, "seed {seed}");
            let state = jobs.state();
            assert_eq!((state.taken, state.waiting), (0, 0), "seed {seed}");
            let left = (state.queue.len(), state.trees.len(), state.locked.len());
            assert_eq!(left, (0, 0, 0), "seed {seed}");
        }
    }
}
