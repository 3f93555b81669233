//! What a build says, sent to the client while it runs.

use std::collections::HashMap;
use std::io::Write;

use store_api::{BuildObserver, BuildResult};
use store_types::StorePath;
use store_wire::{ActivityField, Session, StderrFrame};

use crate::connection::send_frame;

/// Nix's number of the activity "building a derivation".
const ACTIVITY_BUILD: u64 = 105;

/// Nix's number of the result "a line of the log".
const RESULT_LOG_LINE: u64 = 101;
const RESULT_POST_BUILD_LOG_LINE: u64 = 107;

/// Nix's verbosity "info", from which on the start of a build is shown.
const LEVEL_INFO: u64 = 3;

/// Sends each build as an activity and each line of its log as a result of
/// it, as Nix's daemon does.
pub(crate) struct Forwarder<'a, W> {
    output: &'a mut W,
    session: &'a Session,
    is_hung_up: &'a (dyn Fn() -> bool + Sync),
    /// The numbers of the running builds' activities.
    activities: HashMap<StorePath, u64>,
    last_id: u64,
    is_gone: bool,
}

impl<'a, W: Write> Forwarder<'a, W> {
    pub(crate) fn new(
        output: &'a mut W,
        session: &'a Session,
        is_hung_up: &'a (dyn Fn() -> bool + Sync),
    ) -> Self {
        Self {
            output,
            session,
            is_hung_up,
            activities: HashMap::new(),
            last_id: 0,
            is_gone: false,
        }
    }

    fn send(&mut self, frame: &StderrFrame) {
        // A build's log may come faster than the news that nobody reads it.
        if !self.is_gone {
            self.is_gone = send_frame(self.output, self.session, frame).is_err();
        }
    }
}

impl<W: Write + Send> BuildObserver for Forwarder<'_, W> {
    fn started(&mut self, drv: &StorePath) {
        self.last_id += 1;
        let id = self.last_id;
        self.activities.insert(drv.clone(), id);
        let drv = self.session.store_dir.display(drv);
        self.send(&StderrFrame::StartActivity {
            id,
            level: LEVEL_INFO,
            kind: ACTIVITY_BUILD,
            text: format!("building '{drv}'").into(),
            fields: vec![
                ActivityField::Text(drv.into()),
                // The machine, empty for this one; then which round of how many.
                ActivityField::Text(Vec::new()),
                ActivityField::Number(1),
                ActivityField::Number(1),
            ],
            parent: 0,
        });
    }

    fn log_line(&mut self, drv: &StorePath, line: &[u8]) {
        let id = self.activities.get(drv).copied().unwrap_or(0);
        self.send(&StderrFrame::Result {
            id,
            kind: RESULT_LOG_LINE,
            fields: vec![ActivityField::Text(line.to_vec())],
        });
    }

    fn post_build_line(&mut self, drv: &StorePath, line: &[u8]) {
        let id = self.activities.get(drv).copied().unwrap_or(0);
        self.send(&StderrFrame::Result {
            id,
            kind: RESULT_POST_BUILD_LOG_LINE,
            fields: vec![ActivityField::Text(line.to_vec())],
        });
    }

    fn note(&mut self, text: &str) {
        self.send(&StderrFrame::Next(format!("note: {text}\n").into()));
    }

    fn finished(&mut self, drv: &StorePath, _result: &BuildResult) {
        if let Some(id) = self.activities.remove(drv) {
            self.send(&StderrFrame::StopActivity { id });
        }
    }

    fn is_cancelled(&mut self) -> bool {
        self.is_gone = self.is_gone || (self.is_hung_up)();
        self.is_gone
    }
}
