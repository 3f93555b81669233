//! A pseudoterminal for the log of a build.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::OptionalActions;

use crate::error::Error;

/// Opens pseudoterminals (pty(7)).
#[derive(Debug)]
pub struct Pty;

impl Pty {
    /// A new one in raw mode, so that what the build writes arrives byte for byte: (master,
    /// slave), both closed on exec and nobody's controlling terminal. Pass the slave to the sandbox
    /// and close it, or the master never sees the end: it reads `EIO` when the last slave is gone.
    pub fn open() -> Result<(OwnedFd, OwnedFd), Error> {
        let open = || -> rustix::io::Result<_> {
            let master = rustix::pty::openpt(
                OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
            )?;
            rustix::pty::grantpt(&master)?;
            rustix::pty::unlockpt(&master)?;
            let name = rustix::pty::ptsname(&master, Vec::new())?;
            let slave = rustix::fs::open(
                name,
                OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let mut settings = rustix::termios::tcgetattr(&slave)?;
            settings.make_raw();
            rustix::termios::tcsetattr(&slave, OptionalActions::Now, &settings)?;
            Ok((master, slave))
        };
        open().map_err(|errno| Error::Pty(errno.into()))
    }
}
