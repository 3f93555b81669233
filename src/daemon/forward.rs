//! What a build says, sent to the client while it runs.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use store_api::{
    BuildMode, BuildObserver, BuildProgress, BuildResult, BuilderMessage, MessageField,
    MessageLevel,
};
use store_types::StorePath;
use store_wire::{ActivityField, Session, StderrFrame};

use crate::connection::send_frame;

/// Nix's numbers of activities: to make paths valid, some builds, one of them, a download.
const ACTIVITY_REALISE: u64 = 102;
const ACTIVITY_BUILDS: u64 = 104;
const ACTIVITY_BUILD: u64 = 105;
const ACTIVITY_BUILD_WAITING: u64 = 111;
const ACTIVITY_FILE_TRANSFER: u64 = 101;

/// Nix's numbers of results: a line of the log, the phase that a build is in, how far something is.
const RESULT_LOG_LINE: u64 = 101;
const RESULT_POST_BUILD_LOG_LINE: u64 = 107;
const RESULT_SET_PHASE: u64 = 104;
const RESULT_PROGRESS: u64 = 105;

/// How many downloads a builder may tell of at once; more are not shown.
const DOWNLOADS_MAX: usize = 64;

/// The last activity's number in this process.
static LAST_ID: AtomicU64 = AtomicU64::new(0);

/// A number that no other process of this machine gives an activity. As in Nix.
fn new_id() -> u64 {
    u64::from(std::process::id()) << 32 | (LAST_ID.fetch_add(1, Ordering::Relaxed) + 1)
}

/// A running build.
struct Build {
    id: u64,
    /// By the builder's numbers, the activities of what it downloads.
    downloads: BTreeMap<u64, u64>,
}

/// All builds of a request.
struct Whole {
    realise: u64,
    builds: u64,
    progress: BuildProgress,
}

/// Sends each build as an activity and each line of its log as a result of
/// it, as Nix's daemon does.
pub(crate) struct Forwarder<'a, W: Write> {
    output: &'a mut W,
    session: &'a Session,
    is_hung_up: &'a (dyn Fn() -> bool + Sync),
    /// What is shown to the client's user.
    verbosity: u64,
    running: HashMap<StorePath, Build>,
    whole: Option<Whole>,
    is_gone: bool,
}

impl<'a, W: Write> Forwarder<'a, W> {
    pub(crate) fn new(
        output: &'a mut W,
        session: &'a Session,
        is_hung_up: &'a (dyn Fn() -> bool + Sync),
        verbosity: u64,
    ) -> Self {
        Self {
            output,
            session,
            is_hung_up,
            verbosity,
            running: HashMap::new(),
            whole: None,
            is_gone: false,
        }
    }

    fn send(&mut self, frame: &StderrFrame) {
        // A build's log may come faster than the news that nobody reads it.
        if !self.is_gone {
            self.is_gone = send_frame(self.output, self.session, frame).is_err();
        }
    }

    /// Something for the client's standard error, from this verbosity on.
    fn show(&mut self, level: u64, text: String) {
        if level <= self.verbosity {
            self.send(&StderrFrame::Next((text + "\n").into()));
        }
    }

    /// A result of a build that runs; clients break at results of what does not.
    fn result(&mut self, drv: &StorePath, kind: u64, text: &[u8]) {
        if let Some(build) = self.running.get(drv) {
            self.send(&StderrFrame::Result {
                id: build.id,
                kind,
                fields: vec![ActivityField::Text(text.to_vec())],
            });
        }
    }

    /// How far all is, with what runs now.
    fn send_progress(&mut self) {
        let Some(whole) = &self.whole else {
            return;
        };
        let BuildProgress {
            done,
            expected,
            failed,
        } = whole.progress;
        let numbers = [done, expected, self.running.len() as u64, failed];
        self.send(&StderrFrame::Result {
            id: whole.builds,
            kind: RESULT_PROGRESS,
            fields: numbers.map(ActivityField::Number).into(),
        });
    }

    /// Stops a build's activities, those of its downloads first.
    fn stop(&mut self, build: Build) {
        for id in build.downloads.into_values() {
            self.send(&StderrFrame::StopActivity { id });
        }
        self.send(&StderrFrame::StopActivity { id: build.id });
    }
}

impl<W: Write> Drop for Forwarder<'_, W> {
    fn drop(&mut self) {
        // Such as were never told to have ended.
        for build in std::mem::take(&mut self.running).into_values() {
            self.stop(build);
        }
        if let Some(whole) = self.whole.take() {
            self.send(&StderrFrame::StopActivity { id: whole.builds });
            self.send(&StderrFrame::StopActivity { id: whole.realise });
        }
    }
}

impl<W: Write + Send> BuildObserver for Forwarder<'_, W> {
    fn resolved(&mut self, drv: &StorePath, resolved: &StorePath) {
        let id = new_id();
        let [drv, resolved] = [drv, resolved].map(|path| self.session.store_dir.display(path));
        self.send(&StderrFrame::StartActivity {
            id,
            level: MessageLevel::Info as u64,
            kind: ACTIVITY_BUILD_WAITING,
            text: format!("resolved derivation: '{drv}' -> '{resolved}'").into(),
            fields: [drv, resolved]
                .map(|path| ActivityField::Text(path.into()))
                .into(),
            parent: 0,
        });
        // What it waits for is told on its own.
        self.send(&StderrFrame::StopActivity { id });
    }

    fn started(&mut self, drv: &StorePath, mode: BuildMode) {
        let build = Build {
            id: new_id(),
            downloads: BTreeMap::new(),
        };
        let id = build.id;
        if let Some(before) = self.running.insert(drv.clone(), build) {
            self.stop(before);
        }
        let drv = self.session.store_dir.display(drv);
        self.send(&StderrFrame::StartActivity {
            id,
            level: MessageLevel::Info as u64,
            kind: ACTIVITY_BUILD,
            text: format!("{} '{drv}'", mode.words()).into(),
            fields: vec![
                ActivityField::Text(drv.into()),
                // The machine, empty for this one; then which round of how many.
                ActivityField::Text(Vec::new()),
                ActivityField::Number(1),
                ActivityField::Number(1),
            ],
            parent: 0,
        });
        self.send_progress();
    }

    fn log_line(&mut self, drv: &StorePath, line: &[u8]) {
        self.result(drv, RESULT_LOG_LINE, line);
    }

    fn builder_message(&mut self, drv: &StorePath, message: &BuilderMessage) {
        match message {
            BuilderMessage::Phase(phase) => self.result(drv, RESULT_SET_PHASE, phase.as_bytes()),
            BuilderMessage::Text { level, text } => self.show(*level, text.clone()),
            BuilderMessage::Start {
                id,
                level,
                text,
                fields,
            } => {
                let Some(build) = self.running.get_mut(drv) else {
                    return;
                };
                if build.downloads.contains_key(id) || build.downloads.len() == DOWNLOADS_MAX {
                    return;
                }
                let own = new_id();
                build.downloads.insert(*id, own);
                let frame = StderrFrame::StartActivity {
                    id: own,
                    level: *level,
                    kind: ACTIVITY_FILE_TRANSFER,
                    text: text.clone().into(),
                    fields: to_wire(fields),
                    parent: build.id,
                };
                self.send(&frame);
            }
            BuilderMessage::Stop { id } => {
                let build = self.running.get_mut(drv);
                if let Some(id) = build.and_then(|build| build.downloads.remove(id)) {
                    self.send(&StderrFrame::StopActivity { id });
                }
            }
            BuilderMessage::Result { id, kind, fields } => {
                let build = self.running.get(drv);
                if let Some(id) = build.and_then(|build| build.downloads.get(id)) {
                    self.send(&StderrFrame::Result {
                        id: *id,
                        kind: *kind,
                        fields: to_wire(fields),
                    });
                }
            }
            BuilderMessage::Ignored => {}
        }
    }

    fn progress(&mut self, progress: BuildProgress) {
        match &mut self.whole {
            Some(whole) => whole.progress = progress,
            None => {
                let (realise, builds) = (new_id(), new_id());
                for (id, kind) in [(realise, ACTIVITY_REALISE), (builds, ACTIVITY_BUILDS)] {
                    self.send(&StderrFrame::StartActivity {
                        id,
                        level: MessageLevel::Error as u64,
                        kind,
                        text: Vec::new(),
                        fields: Vec::new(),
                        parent: 0,
                    });
                }
                self.whole = Some(Whole {
                    realise,
                    builds,
                    progress,
                });
            }
        }
        self.send_progress();
    }

    fn message(&mut self, text: &[u8]) {
        self.send(&StderrFrame::Next([text, b"\n"].concat()));
    }

    fn dependency_failed(&mut self, error: &str) {
        let error = error.replace('\n', "\n       ");
        self.show(
            MessageLevel::Error as u64,
            format!("\x1b[31;1merror:\x1b[0m {error}"),
        );
    }

    fn post_build_line(&mut self, drv: &StorePath, line: &[u8]) {
        self.result(drv, RESULT_POST_BUILD_LOG_LINE, line);
    }

    fn note(&mut self, text: &str) {
        self.show(MessageLevel::Notice as u64, format!("note: {text}"));
    }

    fn finished(&mut self, drv: &StorePath, _result: &BuildResult) {
        if let Some(build) = self.running.remove(drv) {
            self.stop(build);
            self.send_progress();
        }
    }

    fn is_cancelled(&mut self) -> bool {
        self.is_gone = self.is_gone || (self.is_hung_up)();
        self.is_gone
    }
}

fn to_wire(fields: &[MessageField]) -> Vec<ActivityField> {
    fields
        .iter()
        .map(|field| match field {
            MessageField::Number(number) => ActivityField::Number(*number),
            MessageField::Text(text) => ActivityField::Text(text.clone().into()),
        })
        .collect()
}
