//! Where a store lies: its directories, out of what it is called and of the environment.
//!
//! Source: nix 2.34, `src/libstore/include/nix/store/local-fs-store.hh`, `globals.cc`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use store_types::{StoreDir, encode_store_param};

/// Parameters of a store on disk that Nix knows and that change nothing here.
const WITHOUT_EFFECT: [&str; 8] = [
    "ignore-gc-delete-failure",
    "path-info-cache-size",
    "priority",
    "require-sigs",
    "system-features",
    "trusted",
    "use-roots-daemon",
    "want-mass-query",
];

/// What is said of a store that it cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A directory that begins nowhere.
    #[error("`{value}`, the value of `{name}`, is not an absolute path")]
    NotAbsolute {
        /// The parameter or variable.
        name: String,
        /// Its value.
        value: String,
    },
    /// A directory that no store path can begin with.
    #[error("`{value}`, the value of `{name}`, cannot be a store directory")]
    StoreDir {
        /// The parameter or variable.
        name: String,
        /// Its value.
        value: String,
    },
    /// A switch that is neither on nor off.
    #[error("`{value}`, the value of `{name}`, is neither `true` nor `false`")]
    NotASwitch {
        /// The parameter.
        name: String,
        /// Its value.
        value: String,
    },
}

/// The directories of a store that says nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultDirs {
    /// `NIX_STORE_DIR`, or `/nix/store`.
    pub store: StoreDir,
    /// `NIX_STATE_DIR`, or `/nix/var/nix`.
    pub state: PathBuf,
    /// `NIX_LOG_DIR`, or `/nix/var/log/nix`.
    pub log: PathBuf,
}

impl Default for DefaultDirs {
    fn default() -> Self {
        Self {
            store: StoreDir::default(),
            state: "/nix/var/nix".into(),
            log: "/nix/var/log/nix".into(),
        }
    }
}

impl DefaultDirs {
    /// Those that the environment names; empty variables count as missing.
    pub fn of_environment(
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let default = Self::default();
        let path = |name: &str| -> Result<Option<PathBuf>, ConfigError> {
            let value = variable(name).filter(|value| !value.is_empty());
            value.map(|value| absolute(name, &value)).transpose()
        };
        Ok(Self {
            store: match path("NIX_STORE_DIR")? {
                Some(dir) => store_dir("NIX_STORE_DIR", &dir)?,
                None => default.store,
            },
            state: path("NIX_STATE_DIR")?.unwrap_or(default.state),
            log: path("NIX_LOG_DIR")?.unwrap_or(default.log),
        })
    }
}

/// Where a store lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalStoreConfig {
    /// The directory that its paths begin with.
    pub dir: StoreDir,
    /// The directory that the others are in, unless it was said otherwise.
    pub root: Option<PathBuf>,
    /// The directory that the objects lie in: `ROOT/nix/store`, or that of the paths.
    pub real: PathBuf,
    /// The directory of the store's state: `ROOT/nix/var/nix`, or `NIX_STATE_DIR`.
    pub state: PathBuf,
    /// The directory of logs: `ROOT/nix/var/log/nix`, or `NIX_LOG_DIR`.
    pub log: PathBuf,
    /// The directory of build directories, if one was named.
    pub build_dir: Option<PathBuf>,
    /// Whether nothing may be written, and nobody else writes.
    pub read_only: bool,
}

impl LocalStoreConfig {
    /// A store in a directory, as Nix's `--store ROOT` means it.
    pub fn in_root(root: &Path, dir: StoreDir) -> Self {
        Self {
            dir,
            root: Some(root.to_owned()),
            real: root.join("nix/store"),
            state: root.join("nix/var/nix"),
            log: root.join("nix/var/log/nix"),
            build_dir: None,
            read_only: false,
        }
    }

    /// A store with these parameters (`root`, `store`, `state`, `log`, `real`, `build-dir`,
    /// `read-only`); `root` is what its name says, absolute. The names of parameters that nobody
    /// knows come back, too.
    pub fn new(
        root: Option<PathBuf>,
        params: &BTreeMap<String, String>,
        defaults: &DefaultDirs,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let path = |name: &str| -> Result<Option<PathBuf>, ConfigError> {
            let value = params.get(name).filter(|value| !value.is_empty());
            let value = value.map(|value| absolute(name, OsStr::new(value)));
            value.transpose()
        };
        let dir = match path("store")? {
            Some(dir) => store_dir("store", &dir)?,
            None => defaults.store.clone(),
        };
        let mut config = match path("root")?.or(root) {
            Some(root) => Self::in_root(&root, dir),
            None => Self {
                real: dir.as_str().into(),
                dir,
                root: None,
                state: defaults.state.clone(),
                log: defaults.log.clone(),
                build_dir: None,
                read_only: false,
            },
        };
        let set = |into: &mut PathBuf, value: Option<PathBuf>| {
            if let Some(value) = value {
                *into = value;
            }
        };
        set(&mut config.real, path("real")?);
        set(&mut config.state, path("state")?);
        set(&mut config.log, path("log")?);
        config.build_dir = path("build-dir")?;
        if let Some(value) = params.get("read-only") {
            config.read_only = match value.as_str() {
                "true" | "yes" | "1" => true,
                "false" | "no" | "0" => false,
                _ => {
                    return Err(ConfigError::NotASwitch {
                        name: "read-only".to_owned(),
                        value: value.clone(),
                    });
                }
            };
        }
        const KNOWN: [&str; 7] = [
            "root",
            "store",
            "state",
            "log",
            "real",
            "build-dir",
            "read-only",
        ];
        let unknown = params
            .keys()
            .filter(|name| !KNOWN.contains(&name.as_str()))
            .filter(|name| !WITHOUT_EFFECT.contains(&name.as_str()))
            .cloned();
        Ok((config, unknown.collect()))
    }

    /// The directory that names the store to people: its root, or that of its objects.
    pub fn place(&self) -> &Path {
        self.root.as_deref().unwrap_or(&self.real)
    }

    /// Whether it is what [`in_root`](Self::in_root) makes of `/nix/store`.
    fn is_plain(&self) -> bool {
        let plain = |root: &PathBuf| *self == Self::in_root(root, StoreDir::default());
        self.root.as_ref().is_some_and(plain)
    }

    /// The store as `--store` takes it, here and in Nix, whatever the environment says: a
    /// directory where that is enough.
    ///
    /// A directory whose name is not UTF-8 cannot be said with parameters; its name is mended then.
    pub fn to_argument(&self) -> OsString {
        let is_misread = |root: &Path| {
            let bytes = root.as_os_str().as_bytes();
            bytes.contains(&b'?') || bytes.windows(3).any(|part| part == b"://")
        };
        match &self.root {
            Some(root) if self.is_plain() && !is_misread(root) => root.clone().into(),
            _ => format!("local?{}", self.query()).into(),
        }
    }

    /// The parameters that say where it lies, for the name of a store behind a daemon, too.
    pub fn query(&self) -> String {
        let text = |path: &Path| encode_store_param(&path.to_string_lossy());
        let mut params = Vec::new();
        let expected = match &self.root {
            Some(root) => {
                params.push(format!("root={}", text(root)));
                Some(Self::in_root(root, self.dir.clone()))
            }
            None => None,
        };
        if self.root.is_none() || self.dir != StoreDir::default() {
            params.push(format!("store={}", encode_store_param(self.dir.as_str())));
        }
        for (name, value, default) in [
            (
                "real",
                &self.real,
                expected.as_ref().map(|config| &config.real),
            ),
            (
                "state",
                &self.state,
                expected.as_ref().map(|config| &config.state),
            ),
            (
                "log",
                &self.log,
                expected.as_ref().map(|config| &config.log),
            ),
        ] {
            if default != Some(value) {
                params.push(format!("{name}={}", text(value)));
            }
        }
        if let Some(dir) = &self.build_dir {
            params.push(format!("build-dir={}", text(dir)));
        }
        if self.read_only {
            params.push("read-only=true".to_owned());
        }
        params.join("&")
    }
}

/// An absolute path in its simplest form, as text has it: links are not looked at.
fn absolute(name: &str, value: &OsStr) -> Result<PathBuf, ConfigError> {
    let path = Path::new(value);
    if !path.is_absolute() {
        return Err(ConfigError::NotAbsolute {
            name: name.to_owned(),
            value: value.to_string_lossy().into_owned(),
        });
    }
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => _ = clean.pop(),
            Component::Normal(part) => clean.push(part),
            _ => {}
        }
    }
    Ok(clean)
}

fn store_dir(name: &str, dir: &Path) -> Result<StoreDir, ConfigError> {
    let made = dir.to_str().and_then(StoreDir::new);
    made.ok_or_else(|| ConfigError::StoreDir {
        name: name.to_owned(),
        value: dir.display().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use store_types::{StoreKind, StoreReference};

    fn environment(set: &[(&str, &str)]) -> DefaultDirs {
        let found = |name: &str| {
            let known = set.iter().find(|(known, _)| *known == name);
            known.map(|(_, value)| value.into())
        };
        DefaultDirs::of_environment(&found).unwrap()
    }

    fn named(text: &str, defaults: &DefaultDirs) -> LocalStoreConfig {
        let reference = StoreReference::parse(text).unwrap();
        let StoreKind::Local { root } = reference.kind else {
            panic!("{text}");
        };
        let made = LocalStoreConfig::new(root.map(PathBuf::from), &reference.params, defaults);
        made.unwrap().0
    }

    #[test]
    fn variables_say_where_a_store_without_a_root_lies() {
        let defaults = environment(&[
            ("NIX_STORE_DIR", "/x//store/"),
            ("NIX_STATE_DIR", "/x/./state"),
            ("NIX_LOG_DIR", "/x/y/../log"),
        ]);
        let config = named("local", &defaults);
        assert_eq!(config.dir.as_str(), "/x/store");
        assert_eq!(config.real, Path::new("/x/store"));
        assert_eq!(config.state, Path::new("/x/state"));
        assert_eq!(config.log, Path::new("/x/log"));
        assert_eq!(
            environment(&[("NIX_STORE_DIR", "")]),
            DefaultDirs::default()
        );
    }

    #[test]
    fn with_a_root_only_the_store_directory_is_the_environments() {
        let defaults = environment(&[
            ("NIX_STORE_DIR", "/x/store"),
            ("NIX_STATE_DIR", "/x/state"),
            ("NIX_LOG_DIR", "/x/log"),
        ]);
        let config = named("/r", &defaults);
        let expected = StoreDir::new("/x/store").unwrap();
        assert_eq!(config, LocalStoreConfig::in_root(Path::new("/r"), expected));
        assert_eq!(named("local?root=/r", &defaults), config);
    }

    #[test]
    fn parameters_go_before_all_else() {
        let config = named(
            "/r?store=/s&real=/a/real&state=/a/state&log=/a/log&build-dir=/b&read-only=true",
            &DefaultDirs::default(),
        );
        assert_eq!(config.dir.as_str(), "/s");
        let paths = [&config.real, &config.state, &config.log];
        assert_eq!(
            paths.map(|path| path.to_str().unwrap()),
            ["/a/real", "/a/state", "/a/log"]
        );
        assert_eq!(config.build_dir.as_deref(), Some(Path::new("/b")));
        assert!(config.read_only);
    }

    #[test]
    fn a_store_is_found_again_by_its_argument() {
        let defaults = environment(&[("NIX_STORE_DIR", "/x/store"), ("NIX_STATE_DIR", "/x/state")]);
        for text in [
            "/r",
            "local",
            "local?root=/a%20b&store=/y",
            "/r?real=/a/real&read-only=true",
            "local?store=/s&state=/a&log=/b&build-dir=/c",
            "local?root=/a%3Fb",
        ] {
            let config = named(text, &defaults);
            let argument = config.to_argument();
            let argument = argument.to_str().unwrap();
            assert_eq!(
                named(argument, &DefaultDirs::default()),
                config,
                "{argument}"
            );
        }
        let plain = LocalStoreConfig::in_root(Path::new("/r"), StoreDir::default());
        assert_eq!(plain.to_argument(), "/r");
    }

    #[test]
    fn what_a_store_cannot_be_is_named() {
        let new = |name: &str, value: &str| {
            let params = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            LocalStoreConfig::new(None, &params, &DefaultDirs::default())
        };
        for (name, value) in [
            ("root", "x"),
            ("store", "x"),
            ("store", "/"),
            ("read-only", "2"),
        ] {
            let error = new(name, value).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
        assert_eq!(new("rooot", "x").unwrap().1, ["rooot"]);
        assert_eq!(new("priority", "1").unwrap().1, [""; 0]);
    }
}
