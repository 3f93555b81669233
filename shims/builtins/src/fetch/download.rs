//! A transfer to its end: tried again while there is hope, and gone on with where it broke off.

use std::io::{self, Read};
use std::time::Duration;

use super::client::{Client, Opened};
use super::failure::{Failure, Hope};
use super::response::fault_of;
use crate::warn;

/// The time before the first repetition; it doubles with each. Nix's.
const WAIT_MS: u64 = 250;

/// The same for a server that asks for patience.
const LONG_WAIT_MS: u64 = 60_000;

/// The content of a URL. Its errors have a [`Failure`] in them.
pub struct Download<'a> {
    client: &'a Client,
    url: &'a str,
    /// How often it was tried in vain.
    failed: u32,
    /// How much of it was read.
    offset: u64,
    opened: Option<Opened>,
    /// Waits; another one in tests.
    pub(super) sleep: fn(Duration),
}

impl<'a> Download<'a> {
    pub fn new(client: &'a Client, url: &'a str) -> Self {
        Self {
            client,
            url,
            failed: 0,
            offset: 0,
            opened: None,
            sleep: std::thread::sleep,
        }
    }

    /// Waits, if there is any use in it.
    fn wait(&mut self, failure: Failure, can_resume: bool) -> io::Result<()> {
        self.failed += 1;
        let attempts = self.client.limits.attempts;
        let base = match failure.hope() {
            Hope::None => None,
            Hope::Later => Some(WAIT_MS),
            Hope::MuchLater => Some(LONG_WAIT_MS),
        };
        let is_over = self.failed >= attempts || (self.offset > 0 && !can_resume);
        let Some(base) = base.filter(|_| !is_over) else {
            return Err(io::Error::other(failure));
        };
        // Up to half as long again and more: those who failed together do not come back together.
        let factor = 2f64.powf(f64::from(self.failed - 1) + chance() / 2.0);
        let wait = Duration::from_millis((base as f64 * factor) as u64);
        let from = match self.offset {
            0 => String::new(),
            offset => format!(" from offset {offset}"),
        };
        warn(&format!(
            "{failure}; retrying{from} in {} ms (attempt {}/{attempts})",
            wait.as_millis(),
            self.failed,
        ));
        (self.sleep)(wait);
        Ok(())
    }
}

/// Between 0 and 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without chance all wait the least time.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let opened = match &mut self.opened {
                Some(opened) => opened,
                None => match self.client.open(self.url, self.offset) {
                    Ok(opened) => self.opened.insert(opened),
                    // What is asked to go on with could be gone on with before.
                    Err(failure) => {
                        self.wait(failure, true)?;
                        continue;
                    }
                },
            };
            match opened.content.read(buffer) {
                Ok(count) => {
                    self.offset += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let failure = Failure {
                        url: self.url.to_owned(),
                        status: opened.status,
                        fault: fault_of(error, self.client.limits.stalled_seconds()),
                        body: None,
                    };
                    let can_resume = opened.can_resume;
                    self.opened = None;
                    self.wait(failure, can_resume)?;
                }
            }
        }
    }
}
