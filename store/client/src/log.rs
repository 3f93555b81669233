//! What a server says during an operation.

use std::collections::HashMap;

use store_api::{BuildMode, BuildObserver, BuildResult, BuildStatus, BuilderMessage};
use store_types::{StoreDir, StorePath};
use store_wire::{ActivityField, StderrFrame};

/// Nix's number of the activity "building a derivation".
const ACTIVITY_BUILD: u64 = 105;
/// Nix's number of the activity "waiting for a derivation", which is a resolved one.
const ACTIVITY_BUILD_WAITING: u64 = 111;

/// Nix's number of the result "a line of the log".
const RESULT_LOG_LINE: u64 = 101;

/// Nix's number of the result "a line of the program that is run after builds".
const RESULT_POST_BUILD_LOG_LINE: u64 = 107;

/// Nix's number of the result "the phase that a build is in".
const RESULT_SET_PHASE: u64 = 104;

/// How many builds may run at once; more are not told apart.
const ACTIVITIES_MAX: usize = 1 << 16;

/// Takes what the server wants to be shown: one message, without a line end.
pub(crate) type Messages<'a> = &'a (dyn Fn(&[u8]) + Send + Sync);

/// Passes frames on to whom they concern.
pub(crate) struct Log<'a> {
    store_dir: StoreDir,
    observer: Option<&'a mut dyn BuildObserver>,
    messages: Option<Messages<'a>>,
    builds: HashMap<u64, StorePath>,
}

impl<'a> Log<'a> {
    pub(crate) fn new(
        store_dir: &StoreDir,
        observer: Option<&'a mut dyn BuildObserver>,
        messages: Option<Messages<'a>>,
    ) -> Self {
        Self {
            store_dir: store_dir.clone(),
            observer,
            messages,
            builds: HashMap::new(),
        }
    }

    /// Whether nobody waits for the builds any more; asked while nothing comes.
    pub(crate) fn is_cancelled(&mut self) -> bool {
        self.observer
            .as_mut()
            .is_some_and(|observer| observer.is_cancelled())
    }

    /// Passes a frame on.
    pub(crate) fn frame(&mut self, frame: StderrFrame) {
        match frame {
            StderrFrame::Next(text) => {
                if let Some(messages) = self.messages {
                    messages(text.strip_suffix(b"\n").unwrap_or(&text));
                }
                if let Some(observer) = &mut self.observer {
                    observer.message(text.strip_suffix(b"\n").unwrap_or(&text));
                }
            }
            StderrFrame::StartActivity {
                id,
                kind: ACTIVITY_BUILD,
                fields,
                text,
                ..
            } => {
                // It is told in the text alone.
                let mode = [BuildMode::Check, BuildMode::Repair]
                    .into_iter()
                    .find(|mode| text.starts_with(mode.words().as_bytes()))
                    .unwrap_or_default();
                if let (Some(drv), Some(observer)) =
                    (path(&self.store_dir, fields.first()), &mut self.observer)
                    && self.builds.len() < ACTIVITIES_MAX
                {
                    observer.started(&drv, mode);
                    self.builds.insert(id, drv);
                }
            }
            StderrFrame::StartActivity {
                kind: ACTIVITY_BUILD_WAITING,
                fields,
                ..
            } => {
                let [drv, resolved] = [0, 1].map(|i| path(&self.store_dir, fields.get(i)));
                if let (Some(drv), Some(resolved), Some(observer)) =
                    (drv, resolved, &mut self.observer)
                {
                    observer.resolved(&drv, &resolved);
                }
            }
            StderrFrame::Result { id, kind, fields } => {
                let (Some(drv), Some(observer), Some(ActivityField::Text(line))) =
                    (self.builds.get(&id), &mut self.observer, fields.first())
                else {
                    return;
                };
                match kind {
                    RESULT_LOG_LINE => observer.log_line(drv, line),
                    RESULT_POST_BUILD_LOG_LINE => observer.post_build_line(drv, line),
                    RESULT_SET_PHASE => {
                        let phase = String::from_utf8_lossy(line).into_owned();
                        observer.builder_message(drv, &BuilderMessage::Phase(phase));
                    }
                    _ => {}
                }
            }
            StderrFrame::StopActivity { id } => {
                if let (Some(drv), Some(observer)) = (self.builds.remove(&id), &mut self.observer) {
                    // How is told at the end only, and not of every derivation.
                    observer.finished(&drv, &BuildResult::new(BuildStatus::Built, ""));
                }
            }
            _ => {}
        }
    }
}

fn path(store_dir: &StoreDir, field: Option<&ActivityField>) -> Option<StorePath> {
    let Some(ActivityField::Text(text)) = field else {
        return None;
    };
    store_dir.parse(std::str::from_utf8(text).ok()?).ok()
}
