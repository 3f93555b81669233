//! Where settings are read from: files and variables, in Nix's order.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigError};
use crate::file::{Content, FILE_LEN_MAX, parse};
use crate::value::canonical;

/// Variables that are not empty, by name.
pub struct Environment<'a>(pub &'a dyn Fn(&str) -> Option<OsString>);

impl Environment<'_> {
    /// A variable; `Some("")` is one that is set.
    fn raw(&self, name: &str) -> Option<OsString> {
        (self.0)(name)
    }

    /// A variable that is not empty.
    pub fn get(&self, name: &str) -> Option<OsString> {
        self.raw(name).filter(|value| !value.is_empty())
    }

    /// A directory or file that a variable names, in its simplest form.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.get(name)?;
        match value.to_str().map(canonical) {
            Some(Ok(path)) => Some(path.into()),
            _ => Some(value.into()),
        }
    }

    /// `NIX_CONF_DIR`, or `/etc/nix`.
    pub fn conf_dir(&self) -> PathBuf {
        self.path("NIX_CONF_DIR")
            .unwrap_or_else(|| "/etc/nix".into())
    }

    /// The user's files, of which the first goes before the others: `NIX_USER_CONF_FILES`, or
    /// those of the XDG Base Directory Specification.
    pub fn user_conf_files(&self) -> Vec<PathBuf> {
        let split = |text: &OsStr| -> Vec<PathBuf> {
            text.as_bytes()
                .split(|byte| *byte == b':')
                .filter(|part| !part.is_empty())
                .map(|part| PathBuf::from(OsStr::from_bytes(part)))
                .collect()
        };
        if let Some(files) = self.raw("NIX_USER_CONF_FILES") {
            return split(&files);
        }
        let home = self.get("NIX_CONFIG_HOME").map(PathBuf::from).or_else(|| {
            let config = self.get("XDG_CONFIG_HOME").map(PathBuf::from);
            let config = config.or_else(|| Some(PathBuf::from(self.get("HOME")?).join(".config")));
            Some(config?.join("nix"))
        });
        let others = self
            .get("XDG_CONFIG_DIRS")
            .unwrap_or_else(|| "/etc/xdg".into());
        let others = split(&others).into_iter().map(|dir| dir.join("nix"));
        home.into_iter()
            .chain(others)
            .map(|dir| dir.join("nix.conf"))
            .collect()
    }
}

/// Reads the machine's file, the user's files, and `NIX_CONFIG`, of which each goes before
/// those before it. A file that is not there is none; one that cannot be read is warned of.
///
/// # Errors
/// If one is malformed, or sets something to what it cannot be.
pub fn load(
    config: &mut Config,
    environment: &Environment<'_>,
    read: &dyn Fn(&Path) -> Content,
) -> Result<(), ConfigError> {
    config.has_nix_path = environment.raw("NIX_PATH").is_some();
    let mut files = environment.user_conf_files();
    files.push(environment.conf_dir().join("nix.conf"));
    for path in files.iter().rev() {
        match read(path) {
            Content::Bytes(bytes) => apply(config, &bytes, path, read)?,
            Content::Missing => {}
            Content::Unreadable(error) => {
                config.warn(format!("cannot read \"{}\": {error}", path.display()));
            }
        }
    }
    if let Some(text) = environment.raw("NIX_CONFIG") {
        apply(config, text.as_bytes(), Path::new("NIX_CONFIG"), read)?;
    }
    Ok(())
}

fn apply(
    config: &mut Config,
    bytes: &[u8],
    path: &Path,
    read: &dyn Fn(&Path) -> Content,
) -> Result<(), ConfigError> {
    let assignments = parse(bytes, path, read, &mut |text| config.warn(text))?;
    config.apply(&assignments)
}

/// Reads a file of this machine.
pub fn read_file(path: &Path) -> Content {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() && metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 <= FILE_LEN_MAX {
            true => Ok(bytes),
            false => Err(io::ErrorKind::FileTooLarge.into()),
        }
    };
    match read() {
        Ok(bytes) => Content::Bytes(bytes),
        // A link that leads nowhere is there, for Nix.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match path.symlink_metadata().is_ok() {
                true => Content::Unreadable(error),
                false => Content::Missing,
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Content::Missing,
        Err(error) => Content::Unreadable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(set: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> + use<> {
        let set: Vec<(String, OsString)> = set
            .iter()
            .map(|(name, value)| (name.to_string(), value.into()))
            .collect();
        move |name| {
            let found = set.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        }
    }

    fn user_files(set: &[(&str, &str)]) -> Vec<String> {
        let files = Environment(&environment(set)).user_conf_files();
        files
            .iter()
            .map(|file| file.display().to_string())
            .collect()
    }

    #[test]
    fn the_users_files_are_where_the_variables_say() {
        let home = ("HOME", "/home/me");
        assert_eq!(
            user_files(&[home]),
            ["/home/me/.config/nix/nix.conf", "/etc/xdg/nix/nix.conf"]
        );
        assert_eq!(
            user_files(&[
                home,
                ("XDG_CONFIG_HOME", "/c"),
                ("XDG_CONFIG_DIRS", "/x:/y")
            ]),
            ["/c/nix/nix.conf", "/x/nix/nix.conf", "/y/nix/nix.conf"]
        );
        assert_eq!(
            user_files(&[home, ("NIX_USER_CONF_FILES", "/a:/b")]),
            ["/a", "/b"]
        );
        assert!(user_files(&[home, ("NIX_USER_CONF_FILES", "")]).is_empty());
    }

    #[test]
    fn later_sources_go_before_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        file(
            "nix.conf",
            "cores = 1\nmax-jobs = 1\ntimeout = 1\nlog-lines = 1",
        );
        let first = file("first", "cores = 2\nmax-jobs = 2");
        let second = file("second", "cores = 3\nmax-jobs = 3\ntimeout = 3");
        let set = environment(&[
            ("NIX_CONF_DIR", &dir.path().display().to_string()),
            ("NIX_USER_CONF_FILES", &format!("{first}:{second}")),
            ("NIX_CONFIG", "cores = 4"),
        ]);
        let mut config = Config::new(1);
        load(&mut config, &Environment(&set), &read_file).unwrap();
        let numbers = ["cores", "max-jobs", "timeout", "log-lines"].map(|name| config.number(name));
        assert_eq!(numbers, [4, 2, 3, 1]);
        assert_eq!(config.get("cores").origins[0].to_string(), "NIX_CONFIG:1");
        assert!(config.take_warnings().is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_told_and_what_is_not_there_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("nix.conf")).unwrap();
        let set = environment(&[
            ("NIX_CONF_DIR", &dir.path().display().to_string()),
            ("NIX_USER_CONF_FILES", "/no/such/file"),
        ]);
        let mut config = Config::new(1);
        load(&mut config, &Environment(&set), &read_file).unwrap();
        let warnings = config.take_warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("nix.conf"));
    }
}
