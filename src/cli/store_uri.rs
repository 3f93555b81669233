//! Which store is meant by `--store`, as Nix understands it.
//!
//! Source: nix 2.34, `src/libstore/store-registration.cc`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use store_local::{ConfigError, DefaultDirs, LocalStoreConfig};
use store_types::{StoreKind, StoreReference, StoreReferenceError};

use super::error::CommandError;

/// A store that commands cannot work in.
#[derive(Debug, thiserror::Error)]
pub enum StoreUriError {
    /// It is named by nothing that names stores.
    #[error("`--store {text}` names no store")]
    Malformed {
        /// What was typed.
        text: String,
        /// Why not.
        #[source]
        source: StoreReferenceError,
    },
    /// Its parameters, or the environment, say what cannot be.
    #[error("it cannot be said where the store is")]
    Config(#[from] ConfigError),
    /// Only its daemon may write to it.
    #[error("`{text}` is a store behind a daemon, and Droste works in stores on disk")]
    Daemon {
        /// What was typed.
        text: String,
    },
    /// It is on another machine, or is none.
    #[error("`{text}` is no store on this machine's disk")]
    Scheme {
        /// What was typed.
        text: String,
    },
    /// A relative directory, and nobody knows of what.
    #[error("cannot find out the current directory")]
    Current(#[source] std::io::Error),
}

impl StoreUriError {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Daemon { .. } => Some(
                "`droste daemon --proxy` serves such a store with builds that are Droste's; `--store local` is the same store without its daemon",
            ),
            Self::Scheme { .. } => {
                Some("`nix copy --from` fetches what is there into a store that is `--store DIR`")
            }
            _ => None,
        }
    }

    /// As a command's error, with what to do about it.
    pub fn into_command_error(self) -> CommandError {
        match self.hint() {
            Some(hint) => CommandError::from(self).with_hint(hint),
            None => self.into(),
        }
    }
}

/// What of the machine and the environment says which store is meant.
pub struct Surroundings<'a> {
    /// A variable, if it is set.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// Whether the user is root.
    pub is_root: bool,
}

impl Surroundings<'_> {
    fn get(&self, name: &str) -> Option<OsString> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// The directories of a store that says nothing else.
    ///
    /// # Errors
    /// If a variable names what cannot be a directory.
    pub fn defaults(&self) -> Result<DefaultDirs, ConfigError> {
        DefaultDirs::of_environment(self.variable)
    }

    /// Where the machine's own daemon listens.
    ///
    /// # Errors
    /// If a variable names what cannot be a directory.
    pub fn daemon_socket(&self) -> Result<PathBuf, ConfigError> {
        Ok(match self.get("NIX_DAEMON_SOCKET_PATH") {
            Some(socket) => socket.into(),
            None => self.defaults()?.state.join("daemon-socket/socket"),
        })
    }

    /// Where Nix keeps the data of a user: `NIX_DATA_HOME`, or a directory of the XDG Base
    /// Directory Specification.
    fn data_dir(&self) -> Option<PathBuf> {
        let own = self.get("NIX_DATA_HOME").map(PathBuf::from);
        own.or_else(|| {
            let data = self.get("XDG_DATA_HOME").map(PathBuf::from);
            let data = data.or_else(|| Some(PathBuf::from(self.get("HOME")?).join(".local/share")));
            Some(data?.join("nix"))
        })
    }

    /// The store that `--store` names.
    ///
    /// # Errors
    /// If it names none, or one that is not on this machine's disk.
    pub fn resolve(&self, text: &OsStr) -> Result<LocalStoreConfig, StoreUriError> {
        let defaults = self.defaults()?;
        let shown = || text.to_string_lossy().into_owned();
        let absolute = |path: &Path| std::path::absolute(path).map_err(StoreUriError::Current);
        let Some(utf8) = text.to_str() else {
            let root = absolute(Path::new(text))?;
            return Ok(LocalStoreConfig::in_root(&root, defaults.store));
        };
        let reference = StoreReference::parse(utf8).map_err(|source| StoreUriError::Malformed {
            text: shown(),
            source,
        })?;
        let params = &reference.params;
        let root = match reference.kind {
            StoreKind::Local { root } => root.map(|root| absolute(Path::new(&root))).transpose()?,
            StoreKind::Daemon { .. } => return Err(StoreUriError::Daemon { text: shown() }),
            StoreKind::Other { .. } => return Err(StoreUriError::Scheme { text: shown() }),
            StoreKind::Auto => {
                let state = params.get("state").map(PathBuf::from);
                let state = state.unwrap_or_else(|| defaults.state.clone());
                let says_nothing = params.is_empty()
                    && self.get("NIX_STORE_DIR").is_none()
                    && self.get("NIX_STATE_DIR").is_none();
                if rustix::fs::access(&state, Access::READ_OK | Access::WRITE_OK).is_ok() {
                    None
                } else if self.daemon_socket()?.exists() {
                    return Err(StoreUriError::Daemon { text: shown() });
                } else if !state.exists() && says_nothing && !self.is_root {
                    self.data_dir().map(|dir| dir.join("root"))
                } else {
                    None
                }
            }
        };
        let (config, unknown) = LocalStoreConfig::new(root, params, &defaults)?;
        for name in unknown {
            eprintln!("warning: unknown setting '{name}'");
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(
        text: &str,
        is_root: bool,
        set: &[(&str, &str)],
    ) -> Result<LocalStoreConfig, StoreUriError> {
        let variable = |name: &str| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let surroundings = Surroundings {
            variable: &variable,
            is_root,
        };
        surroundings.resolve(OsStr::new(text))
    }

    #[test]
    fn a_word_is_a_directory_here() {
        let here = std::env::current_dir().unwrap();
        for text in ["x", "./x"] {
            let config = resolve(text, false, &[]).unwrap();
            assert_eq!(config.root, Some(here.join("x")), "{text}");
        }
    }

    #[test]
    fn auto_is_on_disk_or_the_daemons_or_the_users() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (state, socket, data) = (at("state"), at("socket"), at("data"));
        let set = [
            ("NIX_STATE_DIR", state.as_str()),
            ("NIX_DAEMON_SOCKET_PATH", socket.as_str()),
            ("XDG_DATA_HOME", data.as_str()),
        ];
        // Neither is there.
        let config = resolve("auto", false, &set).unwrap();
        assert_eq!((config.root, config.state), (None, state.clone().into()));
        std::fs::write(&socket, "").unwrap();
        assert!(matches!(
            resolve("auto", false, &set),
            Err(StoreUriError::Daemon { .. })
        ));
        std::fs::create_dir(&state).unwrap();
        assert_eq!(resolve("auto", false, &set).unwrap().root, None);
        if !Path::new("/nix/var/nix").exists() {
            let none = &set[2..];
            let config = resolve("auto", false, none).unwrap();
            assert_eq!(config.root, Some(dir.path().join("data/nix/root")));
            assert_eq!(resolve("auto", true, none).unwrap().root, None);
        }
    }

    #[test]
    fn what_is_not_on_disk_is_refused() {
        for text in ["daemon", "unix:///run/s", "daemon?store=/x"] {
            let error = resolve(text, true, &[]).unwrap_err();
            assert!(matches!(error, StoreUriError::Daemon { .. }), "{text}");
        }
        for text in ["ssh-ng://host", "https://cache", "file:///x"] {
            let error = resolve(text, true, &[]).unwrap_err();
            assert!(matches!(error, StoreUriError::Scheme { .. }), "{text}");
        }
        let error = resolve("local?store=x", true, &[]).unwrap_err();
        assert!(matches!(error, StoreUriError::Config(_)));
    }
}
