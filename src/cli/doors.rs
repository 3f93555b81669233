//! Where the daemon listens to Nix's clients, and who of them comes in.
//!
//! Source: nix `src/nix/unix/daemon.cc`, `src/libcmd/unix/unix-socket-server.cc`; sd_listen_fds(3),
//! sd_notify(3).

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use droste_daemon::{Admit, Admitted, Credentials, Trust};
use droste_executor::Settings;
use droste_settings::{Accounts, Config, Origin};
use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use shim_core::client::Server as SocketServer;
use store_api::Store;

/// Everybody may connect: who is served is decided then.
pub const FOR_ALL: u32 = 0o666;

/// Nobody but the owner, and root, may connect.
pub const FOR_OWNER: u32 = 0o600;

/// The most sockets that a service manager may hand over; more are a mistake.
const HANDED_OVER_MAX: usize = 64;

/// A socket that cannot be listened to.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// It cannot be made.
    #[error("cannot serve at `{}`", socket.display())]
    Serve {
        /// Where it should be.
        socket: PathBuf,
        /// Why it cannot.
        #[source]
        source: io::Error,
    },
    /// The variables are not of this process.
    #[error("the sockets of `LISTEN_FDS` are for process `{0}`, which this is not")]
    OtherProcess(String),
    /// It is no number, or none of a service manager.
    #[error("`LISTEN_FDS` is `{0}`, which is no number of sockets")]
    Count(String),
    /// A descriptor that was handed over is not there, or of another kind.
    #[error("descriptor {descriptor} of `LISTEN_FDS` is no Unix socket that listens")]
    HandedOver {
        /// Which.
        descriptor: usize,
        /// What the kernel says, if it is not open.
        #[source]
        source: Option<io::Error>,
    },
}

/// An error for a socket.
pub fn not_served(socket: &Path) -> impl FnOnce(io::Error) -> DoorError {
    let socket = socket.to_owned();
    move |source| DoorError::Serve { socket, source }
}

/// The sockets that a service manager has opened for this process; none if there is none. To be
/// called before any process is started.
pub fn handed_over() -> Result<Vec<UnixListener>, DoorError> {
    let variable = |name: &str| std::env::var(name).ok();
    let Some(text) = variable("LISTEN_FDS").filter(|text| !text.is_empty()) else {
        return Ok(Vec::new());
    };
    let process = variable("LISTEN_PID").unwrap_or_default();
    if process != std::process::id().to_string() {
        return Err(DoorError::OtherProcess(process));
    }
    let count = text.parse::<usize>().ok();
    let count = count
        .filter(|count| (1..=HANDED_OVER_MAX).contains(count))
        .ok_or(DoorError::Count(text))?;
    let descriptors =
        droste_sys::take_handed_over(count).map_err(|errno| DoorError::HandedOver {
            descriptor: 3,
            source: Some(errno.into()),
        })?;
    let mut listeners = Vec::new();
    for descriptor in descriptors {
        if !is_listening(&descriptor) {
            return Err(DoorError::HandedOver {
                descriptor: descriptor.as_raw_fd() as usize,
                source: None,
            });
        }
        listeners.push(descriptor.into());
    }
    Ok(listeners)
}

fn is_listening(socket: &OwnedFd) -> bool {
    socket_acceptconn(socket) == Ok(true)
        && socket_domain(socket) == Ok(AddressFamily::UNIX)
        && socket_type(socket) == Ok(SocketType::STREAM)
}

/// Tells the service manager that started this process how it is, if one wants to know.
pub fn notify(state: &str) {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let place = place.as_encoded_bytes();
    let send = || -> io::Result<()> {
        let address = match place {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(place)))?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
        Ok(())
    };
    // A service manager that has gone is not waiting for it.
    let _ = send();
}

/// Listens where nobody does; a socket that was left there is replaced. The directory is made if
/// it is not there.
pub fn listen(socket: &Path, mode: u32) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(socket) {
        Ok(metadata) if !std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) => {
            return Err(io::Error::other("there is a file that is no socket"));
        }
        Ok(_) if SocketServer::of_host(socket.to_owned()).connect().is_ok() => {
            return Err(io::Error::other("somebody else listens there"));
        }
        Ok(_) => std::fs::remove_file(socket)?,
        Err(_) => {}
    }
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = match dir.as_os_str().is_empty() {
        true => Path::new("."),
        false => dir,
    };
    DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    // The path may be longer than a socket's address can be.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    let listener = UnixListener::bind(short)?;
    std::fs::set_permissions(socket, Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Who may connect to a socket of ours: everybody, to be looked at then, if root serves, or if
/// whoever started the daemon has named others.
pub fn mode_for_clients(config: &Config) -> u32 {
    let is_given = |name: &str| config.get(name).origins.contains(&Origin::CommandLine);
    let names_others = is_given("allowed-users") || is_given("trusted-users");
    match rustix::process::geteuid().is_root() || names_others {
        true => FOR_ALL,
        false => FOR_OWNER,
    }
}

/// Decides about clients, by `trusted-users` and `allowed-users`.
#[derive(Clone, Debug)]
pub struct Porter {
    trusted: Vec<String>,
    allowed: Vec<String>,
    build_users_group: String,
    /// What all clients are, whoever they are.
    forced: Option<Trust>,
    own_uid: u32,
    /// Whether those that are let in are told of.
    is_verbose: bool,
    /// The state directory, in which each user gets directories.
    state: Option<PathBuf>,
}

/// Where the profiles and roots of users lie in the state directory. Clients before Nix 2.14 take
/// it for granted that the daemon makes them. Source: nix 2.8, `LocalStore::createUser`.
const USER_DIRS: [[&str; 2]; 2] = [["profiles", "per-user"], ["gcroots", "per-user"]];

fn make_user_dirs(state: &Path, user: &str, uid: u32) -> io::Result<()> {
    let is_one_name = Path::new(user).file_name() == Some(user.as_ref());
    if !is_one_name {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for above in USER_DIRS {
        let mut dir = store_nar::fs::open_root(state)?;
        for name in above.into_iter().chain([user]) {
            match store_nar::fs::make_dir(dir.as_fd(), name.as_ref(), 0o755) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {}
            }
            dir = store_nar::fs::open_dir(dir.as_fd(), name.as_ref())?;
        }
        rustix::fs::fchown(&dir, Some(rustix::fs::Uid::from_raw(uid)), None)?;
        store_nar::fs::set_mode(&dir, 0o755)?;
    }
    Ok(())
}

impl Porter {
    /// By these settings, unless all clients are to be trusted, or none.
    pub fn new(settings: &Settings, forced: Option<Trust>, is_verbose: bool) -> Self {
        Self {
            trusted: settings.nix.words("trusted-users"),
            allowed: settings.nix.words("allowed-users"),
            build_users_group: settings.nix.text("build-users-group").to_owned(),
            forced,
            own_uid: rustix::process::geteuid().as_raw(),
            is_verbose,
            state: None,
        }
    }

    /// Has directories made for each user in this state directory, as root alone can.
    pub fn with_user_dirs(mut self, state: &Path) -> Self {
        self.state = rustix::process::geteuid()
            .is_root()
            .then(|| state.to_owned());
        self
    }

    /// Whether a client is trusted; an error is what one is told that is not served.
    ///
    /// Whom the daemon runs as is trusted in any case: that user can do everything to the store
    /// without the daemon.
    pub fn judge(&self, client: &Credentials) -> Result<Trust, String> {
        if let Some(trust) = self.forced {
            return Ok(trust);
        }
        if client.uid == self.own_uid {
            return Ok(Trust::Trusted);
        }
        // Anew each time: a user who was taken off a list is off it.
        let accounts =
            Accounts::read().map_err(|error| format!("cannot find out who you are: {error}"))?;
        let judged = self.judge_by(client, &accounts);
        match &judged {
            Err(why) => eprintln!("droste: {why}"),
            Ok(trust) if self.is_verbose => {
                let trusted = match trust {
                    Trust::Trusted => " (trusted)",
                    _ => "",
                };
                let (pid, user) = (client.pid, accounts.user_name(client.uid));
                eprintln!("droste: accepted connection from pid {pid}, user {user}{trusted}");
            }
            Ok(_) => {}
        }
        if let (Ok(_), Some(state)) = (&judged, &self.state) {
            let user = accounts.user_name(client.uid);
            if let Err(error) = make_user_dirs(state, &user, client.uid) {
                eprintln!("droste: cannot make the profile directory of user {user}: {error}");
            }
        }
        judged
    }

    fn judge_by(&self, client: &Credentials, accounts: &Accounts) -> Result<Trust, String> {
        let is_in = |list: &[String]| accounts.is_listed(client.uid, client.gid, list);
        let is_trusted = is_in(&self.trusted);
        let is_builder = accounts.group_name(client.gid) == self.build_users_group;
        if is_builder || !(is_trusted || is_in(&self.allowed)) {
            let user = accounts.user_name(client.uid);
            return Err(format!(
                "user '{user}' is not allowed to connect to the Nix daemon"
            ));
        }
        Ok(match is_trusted {
            true => Trust::Trusted,
            false => Trust::NotTrusted,
        })
    }

    /// Lets clients in, each with a store of its own. Nobody is trusted more than `most`.
    pub fn admit(
        self,
        most: Trust,
        make_store: impl Fn() -> Arc<dyn Store> + Send + Sync + 'static,
    ) -> Admit {
        Arc::new(move |client: &Credentials| {
            let trust = match (self.judge(client)?, most) {
                (Trust::Trusted, Trust::Trusted) => Trust::Trusted,
                _ => Trust::NotTrusted,
            };
            let store = make_store();
            Ok(Admitted { store, trust })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_was_left_is_replaced_and_another_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("new/socket");
        drop(listen(&socket, FOR_OWNER).unwrap());
        let listening = listen(&socket, FOR_ALL).unwrap();
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, FOR_ALL);
        assert!(is_listening(&listening.try_clone().unwrap().into()));
        assert!(listen(&socket, FOR_OWNER).is_err());
        drop(listening);
        let file = dir.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(listen(&file, FOR_OWNER).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }

    #[test]
    fn only_a_socket_that_listens_may_be_handed_over() {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!is_listening(&one.into()));
        drop(other);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_listening(&file.into()));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_listening(&port.into()));
    }

    fn porter(trusted: &[&str], allowed: &[&str]) -> Porter {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Porter {
            trusted: list(trusted),
            allowed: list(allowed),
            build_users_group: "nixbld".to_owned(),
            forced: None,
            own_uid: 0,
            is_verbose: false,
            state: None,
        }
    }

    #[test]
    fn the_lists_decide_who_comes_in_and_who_is_trusted() {
        let accounts = Accounts::parse(
            b"root:x:0:0:::\nann:x:1000:100:::\nbob:x:1001:100:::\nbuilder:x:30001:30000:::\n",
            b"users:x:100:\nwheel:x:10:ann\nnixbld:x:30000:\n",
        );
        let judge = |porter: &Porter, uid, gid| {
            let pid = 1;
            porter.judge_by(&Credentials { pid, uid, gid }, &accounts)
        };
        let usual = porter(&["root", "@wheel"], &["*"]);
        assert_eq!(judge(&usual, 0, 0), Ok(Trust::Trusted));
        assert_eq!(judge(&usual, 1000, 100), Ok(Trust::Trusted));
        assert_eq!(judge(&usual, 1001, 100), Ok(Trust::NotTrusted));
        assert_eq!(judge(&usual, 4242, 4242), Ok(Trust::NotTrusted));
        let refused = "user 'builder' is not allowed to connect to the Nix daemon";
        assert_eq!(judge(&usual, 30001, 30000), Err(refused.to_owned()));
        let few = porter(&["ann"], &["root"]);
        assert_eq!(judge(&few, 1000, 100), Ok(Trust::Trusted));
        assert_eq!(judge(&few, 0, 0), Ok(Trust::NotTrusted));
        let refused = "user '4242' is not allowed to connect to the Nix daemon";
        assert_eq!(judge(&few, 4242, 100), Err(refused.to_owned()));
        assert!(judge(&porter(&[], &[]), 0, 0).is_err());
    }

    #[test]
    fn whom_the_daemon_runs_as_is_trusted_unless_nobody_is() {
        let own_uid = rustix::process::geteuid().as_raw();
        let client = Credentials {
            pid: 1,
            uid: own_uid,
            gid: 0,
        };
        let mut porter = porter(&[], &[]);
        porter.own_uid = own_uid;
        assert_eq!(porter.judge(&client), Ok(Trust::Trusted));
        porter.forced = Some(Trust::NotTrusted);
        assert_eq!(porter.judge(&client), Ok(Trust::NotTrusted));
    }
}
