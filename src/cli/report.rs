//! What users see while something is going on, on standard error.
//!
//! Lines stay. On a terminal there is one more line below them, drawn again and
//! again, that says what is happening now; elsewhere that line is left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use droste_executor::{ChildCounts, Monitor, UnitOutcome};
use store_api::{BuildMode, BuildStatus, BuilderMessage, MessageLevel};
use store_types::StorePath;

/// How often running times are shown anew.
const TICK: Duration = Duration::from_millis(500);

/// How many running builds the last line names.
const NAMED_MAX: usize = 3;

/// The width of a terminal that does not tell it.
const WIDTH_DEFAULT: usize = 80;

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors.
    Quiet,
    /// What is done.
    Normal,
    /// And why.
    Verbose,
}

/// Standard error with its last line.
pub struct Status {
    verbosity: Verbosity,
    is_terminal: bool,
    /// Whether a last line is shown.
    is_shown: Mutex<bool>,
}

impl Status {
    /// Nothing is written yet.
    pub fn new(verbosity: Verbosity) -> Self {
        Self {
            verbosity,
            is_terminal: std::io::stderr().is_terminal(),
            is_shown: Mutex::new(false),
        }
    }

    /// Whether somebody sees the last line.
    fn is_live(&self) -> bool {
        self.is_terminal && self.verbosity > Verbosity::Quiet
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(text: &[u8]) {
        // Where standard error is closed, there is nobody to tell.
        let _ = std::io::stderr().write_all(text);
    }

    /// A line that stays, whatever the verbosity.
    pub fn always(&self, line: &[u8]) {
        let mut is_shown = self.lock();
        let mut text = Vec::new();
        if std::mem::take(&mut *is_shown) {
            text.extend_from_slice(b"\r\x1b[K");
        }
        text.extend_from_slice(line);
        text.push(b'\n');
        Self::write(&text);
    }

    /// A line that stays.
    pub fn line(&self, line: &str) {
        if self.verbosity >= Verbosity::Normal {
            self.always(line.as_bytes());
        }
    }

    /// A line that stays, for those who want to know more.
    pub fn detail(&self, line: &str) {
        if self.verbosity >= Verbosity::Verbose {
            self.always(line.as_bytes());
        }
    }

    /// What is happening now.
    pub fn now(&self, text: &str) {
        if !self.is_live() {
            return;
        }
        let width = rustix::termios::tcgetwinsize(std::io::stderr())
            .map_or(0, |size| usize::from(size.ws_col));
        let width = if width == 0 { WIDTH_DEFAULT } else { width };
        let text: String = text.chars().take(width.saturating_sub(1)).collect();
        let mut is_shown = self.lock();
        Self::write(format!("\r\x1b[K{text}").as_bytes());
        *is_shown = true;
    }

    /// Nothing is happening any more.
    pub fn clear(&self) {
        let mut is_shown = self.lock();
        if std::mem::take(&mut *is_shown) {
            Self::write(b"\r\x1b[K");
        }
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Tells what happens during builds.
pub struct Reporter<'a> {
    status: &'a Status,
    /// Whether the builders' logs are shown.
    shows_logs: bool,
    is_cancelled: Arc<AtomicBool>,
    builds: Mutex<Builds>,
}

#[derive(Default)]
struct Builds {
    running: BTreeMap<StorePath, Instant>,
    /// What builders say that they do.
    phases: BTreeMap<StorePath, String>,
    done: usize,
}

impl<'a> Reporter<'a> {
    /// A reporter that tells builds to end when the flag is set.
    pub fn new(status: &'a Status, shows_logs: bool, is_cancelled: Arc<AtomicBool>) -> Self {
        Self {
            status,
            shows_logs,
            is_cancelled,
            builds: Mutex::default(),
        }
    }

    /// Keeps the last line up to date while `work` is done.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        if !self.status.is_live() {
            return work();
        }
        let (is_done, changed) = (Mutex::new(false), Condvar::new());
        let is_done_now = || is_done.lock().unwrap_or_else(PoisonError::into_inner);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut done = is_done_now();
                while !*done {
                    self.show();
                    done = changed
                        .wait_timeout(done, TICK)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
            });
            let result = work();
            *is_done_now() = true;
            changed.notify_all();
            result
        });
        self.status.clear();
        result
    }

    fn builds(&self) -> MutexGuard<'_, Builds> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self) {
        if self.status.is_live() {
            let line = running_line(&self.builds());
            self.status.now(&line);
        }
    }
}

impl Monitor for Reporter<'_> {
    fn started(&self, drv: &StorePath, mode: BuildMode) {
        self.builds().running.insert(drv.clone(), Instant::now());
        self.status.line(&format!("{} {}", mode.words(), name(drv)));
        self.show();
    }

    fn log_line(&self, drv: &StorePath, line: &[u8]) {
        if self.shows_logs {
            let mut text = format!("{}> ", name(drv)).into_bytes();
            match self.status.is_terminal {
                true => text.extend(without_controls(line)),
                false => text.extend_from_slice(line),
            }
            self.status.always(&text);
        }
    }

    fn builder_message(&self, drv: &StorePath, message: &BuilderMessage, _line: &[u8]) {
        match message {
            BuilderMessage::Phase(phase) => {
                let phase =
                    String::from_utf8_lossy(&without_controls(phase.as_bytes())).into_owned();
                self.builds().phases.insert(drv.clone(), phase);
                self.show();
            }
            BuilderMessage::Text { level, text } if *level <= MessageLevel::Info as u64 => {
                self.status.always(&without_controls(text.as_bytes()));
            }
            _ => {}
        }
    }

    fn post_build_line(&self, drv: &StorePath, line: &[u8]) {
        let mut text = format!("{} (post)> ", name(drv)).into_bytes();
        match self.status.is_terminal {
            true => text.extend(without_controls(line)),
            false => text.extend_from_slice(line),
        }
        self.status.always(&text);
    }

    fn finished(&self, outcome: &UnitOutcome) {
        let mut builds = self.builds();
        let was_running = outcome.started.as_ref().is_some_and(|started| {
            builds.phases.remove(started);
            builds.running.remove(started).is_some()
        });
        builds.done += usize::from(was_running);
        drop(builds);
        if was_running {
            self.status.line(&finished_line(outcome));
            for (reason, count) in &outcome.children.in_place_reasons {
                self.status
                    .detail(&format!("  in place: {count} × {reason}"));
            }
            for (path, count) in &outcome.children.undeclared_inputs {
                self.status
                    .detail(&format!("  undeclared input: {count} × {path}"));
            }
            for (reason, count) in &outcome.children.not_shared_reasons {
                self.status
                    .detail(&format!("  for this derivation only: {count} × {reason}"));
            }
        }
        self.show();
    }

    fn note(&self, text: &str) {
        self.status.line(&format!("note: {text}"));
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }
}

/// A derivation's name, without `.drv`.
fn name(drv: &StorePath) -> &str {
    drv.derivation_name().unwrap_or(drv.name())
}

/// A line of a log without what would make a terminal do anything but print it: a
/// builder is not to be believed. Source: ECMA-48, 5.4 (control sequences).
fn without_controls(line: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(line.len());
    let mut bytes = line.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\x1b' if bytes.next_if_eq(&b'[').is_some() => {
                bytes.by_ref().find(|byte| (0x40..=0x7e).contains(byte));
            }
            b'\t' => text.push(byte),
            0..0x20 | 0x7f => {}
            _ => text.push(byte),
        }
    }
    text
}

fn running_line(builds: &Builds) -> String {
    let mut text = format!("[{} running, {} done]", builds.running.len(), builds.done);
    for (drv, since) in builds.running.iter().take(NAMED_MAX) {
        let _ = match builds.phases.get(drv) {
            Some(phase) => write!(text, " {} ({phase})", name(drv)),
            None => write!(text, " {}", name(drv)),
        };
        let _ = write!(text, " {}s", since.elapsed().as_secs());
    }
    if builds.running.len() > NAMED_MAX {
        text.push_str(" …");
    }
    text
}

fn finished_line(outcome: &UnitOutcome) -> String {
    let verb = match outcome.result.status {
        BuildStatus::Built => "built",
        status if status.is_success() => "found",
        _ => "failed:",
    };
    let children = children_text(&outcome.children);
    let mut line = format!(
        "{verb} {} in {}",
        name(&outcome.drv.base),
        seconds(outcome.wall)
    );
    if !children.is_empty() {
        let _ = write!(line, " ({children})");
    }
    line
}

/// What became of compiler calls; empty if there were none.
pub fn children_text(children: &ChildCounts) -> String {
    let counts = [
        (children.built, "built"),
        (children.reused, "reused"),
        (children.substituted, "substituted"),
        (children.in_place, "in place"),
    ];
    let told: Vec<String> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    match told.is_empty() {
        true => String::new(),
        false => format!("compiler calls: {}", told.join(", ")),
    }
}

/// A time for people.
pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use store_api::BuildResult;

    fn outcome(status: BuildStatus) -> UnitOutcome {
        UnitOutcome {
            drv: StorePath::from_base_name("0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-lua-5.4.drv")
                .unwrap()
                .into(),
            result: BuildResult::new(status, ""),
            error: None,
            outputs: BTreeMap::new(),
            children: ChildCounts::default(),
            wall: Duration::from_millis(12_340),
            started: None,
        }
    }

    #[test]
    fn an_end_is_told_with_the_time_and_what_became_of_compiler_calls() {
        let mut outcome = outcome(BuildStatus::Built);
        assert_eq!(finished_line(&outcome), "built lua-5.4 in 12.3 s");
        outcome.children.built = 33;
        outcome.children.in_place = 2;
        assert_eq!(
            finished_line(&outcome),
            "built lua-5.4 in 12.3 s (compiler calls: 33 built, 2 in place)"
        );
    }

    #[test]
    fn a_failure_is_told_as_one() {
        assert_eq!(
            finished_line(&outcome(BuildStatus::OutputRejected)),
            "failed: lua-5.4 in 12.3 s"
        );
    }

    #[test]
    fn a_log_cannot_command_the_terminal() {
        let line = b"\x1b[1;31mred\x1b[0m\tbell\x07 \x1b]0;title\x07 \xc3\xa4";
        assert_eq!(without_controls(line), "red\tbell ]0;title ä".as_bytes());
        assert_eq!(without_controls(b"cut off\x1b[1"), b"cut off");
    }

    #[test]
    fn the_last_line_names_some_of_the_running_builds() {
        let mut builds = Builds::default();
        for letter in ["a", "b", "c", "d"] {
            let drv = format!("0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-{letter}.drv");
            builds
                .running
                .insert(StorePath::from_base_name(&drv).unwrap(), Instant::now());
        }
        let first = builds.running.keys().next().unwrap().clone();
        builds.phases.insert(first, "buildPhase".to_owned());
        assert_eq!(
            running_line(&builds),
            "[4 running, 0 done] a (buildPhase) 0s b 0s c 0s …"
        );
    }
}
