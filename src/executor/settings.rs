//! What an executor is told: limits, features, and which of its powers to use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use droste_settings::Config;
use store_nar::HashModuloVariant;
use store_types::{KeyError, PublicKey, PublicKeys, SecretKey};

use crate::users::BuildUsers;

/// The longest file of a secret key in bytes; one has 90 and its name.
const KEY_FILE_LEN_MAX: u64 = 64 << 10;

/// Whether builders run in a sandbox: Nix's setting `sandbox`.
///
/// In a store that is not where its name says (`--store DIR`), a sandbox is the only way to show
/// builders their inputs, and so they run in one, whatever this says; as in Nix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SandboxMode {
    /// `true`: always; what asks for none (`__noChroot`) is refused.
    #[default]
    Enabled,
    /// `relaxed`: but for fixed and impure outputs, and for derivations that ask for none.
    Relaxed,
    /// `false`.
    Disabled,
}

/// A file or directory of this machine that builds see: one element of Nix's `sandbox-paths`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxPath {
    /// Where builds see it.
    pub inside: PathBuf,
    /// What it is. A symbolic link is shown as a link; what lies in the store brings its closure.
    pub outside: PathBuf,
    /// No failure if it does not exist.
    pub optional: bool,
    /// Nobody writes through it, whatever its permissions are.
    pub read_only: bool,
}

impl SandboxPath {
    /// Reads `INSIDE=OUTSIDE?`, of which `=OUTSIDE` and `?` may be missing, as Nix does.
    pub fn parse(text: &str) -> Self {
        let (text, optional) = match text.strip_suffix('?') {
            Some(text) => (text, true),
            None => (text, false),
        };
        let (inside, outside) = text.split_once('=').unwrap_or((text, text));
        Self {
            inside: inside.into(),
            outside: outside.into(),
            optional,
            read_only: false,
        }
    }
}

/// The feature that lets a derivation submit its outputs.
pub const BUILDER_RPC: &str = "builder-rpc-v0";

/// How an executor builds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Droste keeps what belongs to no store, such as fetched packages.
    pub droste_dir: PathBuf,
    /// The system that builders run on.
    pub system: String,
    /// Further systems whose builders run here, too.
    pub extra_systems: BTreeSet<String>,
    /// The features that a derivation may require.
    pub system_features: BTreeSet<String>,
    /// Derivations that run at once; children have a limit of their own.
    pub max_jobs: usize,
    /// Children that run at once over all builds.
    pub child_jobs: usize,
    /// `NIX_BUILD_CORES`: how many processes a builder should run.
    pub cores: usize,
    /// Make compiler calls children.
    pub memo: bool,
    /// Lay the shims over the compilers in a build's input closure.
    pub interpose: bool,
    /// How outputs that refer to themselves are hashed, where their path follows from their
    /// content.
    pub self_references: HashModuloVariant,
    /// After a failure, go on with what does not depend on it.
    pub keep_going: bool,
    /// Keep the build directory of a build that failed.
    pub keep_failed: bool,
    /// The statically linked shell that builds see as `/bin/sh`, if there is one.
    pub sandbox_shell: Option<PathBuf>,
    /// `sandbox`.
    pub sandbox: SandboxMode,
    /// `sandbox-paths`. One for `/bin/sh` takes the place of the shell, one for `/dev` of all
    /// devices.
    pub sandbox_paths: Vec<SandboxPath>,
    /// `allowed-impure-host-deps`: what derivations may have of this machine by
    /// `__impureHostDeps`, with all that lies below.
    pub allowed_impure_host_deps: BTreeSet<PathBuf>,
    /// `impure-env`: values for `impureEnvVars` instead of this process's own.
    pub impure_env: BTreeMap<String, String>,
    /// `pre-build-hook`: a program that tells further paths for a sandbox.
    pub pre_build_hook: Option<PathBuf>,
    /// `post-build-hook`: a program that is run after each build that succeeded.
    pub post_build_hook: Option<PathBuf>,
    /// `diff-hook`: a program that shows how two outputs differ, run with
    /// [`run_diff_hook`](Self::run_diff_hook).
    pub diff_hook: Option<PathBuf>,
    /// `run-diff-hook`.
    pub run_diff_hook: bool,
    /// `max-build-log-size`: a builder that writes more bytes is killed; 0 for no limit.
    pub max_build_log_size: u64,
    /// `trusted-public-keys`: whose signature lets an object into the store that does not
    /// prove itself by its content. None by default.
    pub trusted_public_keys: PublicKeys,
    /// `secret-key-files`: whose keys sign what is built here, but for children.
    pub secret_key_files: Vec<PathBuf>,
    /// Is told what is nobody's failure, such as why a child could not run.
    pub diagnose: fn(&str),
    /// A builder that runs longer is killed.
    pub timeout: Option<Duration>,
    /// A builder that writes nothing to its log for longer is killed.
    pub max_silent_time: Option<Duration>,
    /// How many lines of a failed build's log its error repeats.
    pub log_lines: usize,
    /// `keep-build-log`: keep the logs of builds.
    pub keep_build_log: bool,
    /// `compress-build-log`: keep them compressed.
    pub compress_build_log: bool,
    /// Where build directories are made, if not in the store's state.
    pub build_dir: Option<PathBuf>,
    /// Where builds of root get their users.
    pub users: BuildUsers,
    /// All settings of `nix.conf`, for what has no field here; see
    /// [`apply`](Self::apply).
    pub nix: Arc<Config>,
    /// How `builtin:fetchurl` fetches.
    pub downloads: Downloads,
}

/// How `builtin:fetchurl` fetches: Nix's settings of these names, with the same defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloads {
    /// `hashed-mirrors`: where flat files are looked for first, as `URL/ALGORITHM/HEX`.
    pub hashed_mirrors: Vec<String>,
    /// `netrc-file`: credentials by host. There may be none.
    pub netrc_file: PathBuf,
    /// `ssl-cert-file`: the certificates of those who may vouch for servers. Without it, no
    /// server is believed.
    pub ssl_cert_file: Option<PathBuf>,
    /// `connect-timeout`; 0 for as long as it takes.
    pub connect_timeout_seconds: u32,
    /// `stalled-download-timeout`; 0 for as long as it takes.
    pub stalled_download_timeout_seconds: u32,
    /// `download-attempts`.
    pub download_attempts: u32,
}

impl Downloads {
    /// What the variables of the environment and the machine's files say. Without a
    /// variable's value, that of `None`.
    pub fn of_environment(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Self {
        let path = |name: &str| {
            variable(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let conf_dir = path("NIX_CONF_DIR").unwrap_or_else(|| "/etc/nix".into());
        let usual = [
            "/etc/ssl/certs/ca-certificates.crt",
            "/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt",
        ];
        let usual = || {
            usual
                .into_iter()
                .map(PathBuf::from)
                .find(|path| path.exists())
        };
        Self {
            hashed_mirrors: Vec::new(),
            netrc_file: conf_dir.join("netrc"),
            ssl_cert_file: path("NIX_SSL_CERT_FILE")
                .or_else(|| path("SSL_CERT_FILE"))
                .or_else(usual),
            connect_timeout_seconds: 15,
            stalled_download_timeout_seconds: 300,
            download_attempts: 5,
        }
    }
}

/// The processor and kernel of this machine as Nix names them.
pub const THIS_SYSTEM: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-linux"
} else if cfg!(target_arch = "x86_64") {
    "x86_64-linux"
} else {
    "unknown-linux"
};

/// The microarchitecture level of this processor: 1 to 4.
///
/// Source: System V ABI, AMD64 supplement, section 3.1.1. `lahf` cannot be asked for here; there is
/// no processor with the rest of its level and without it.
#[cfg(target_arch = "x86_64")]
fn x86_64_level() -> u8 {
    macro_rules! has {
        ($($feature:tt),*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    let levels = [
        has!("cmpxchg16b", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3"),
        has!(
            "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe"
        ),
        has!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    ];
    let above_first = levels.into_iter().take_while(|has| *has).count();
    1 + above_first as u8
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_64_level() -> u8 {
    0
}

impl Settings {
    /// What fits this machine.
    pub fn new(droste_dir: PathBuf) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let features = [
            "benchmark",
            "big-parallel",
            BUILDER_RPC,
            "ca-derivations",
            "nixos-test",
            "recursive-nix",
        ];
        let mut system_features: BTreeSet<String> = features.map(String::from).into();
        if rustix::fs::access(
            "/dev/kvm",
            rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK,
        )
        .is_ok()
        {
            system_features.insert("kvm".into());
        }
        let extra_systems = match THIS_SYSTEM {
            "x86_64-linux" => (1..=x86_64_level())
                .map(|level| format!("x86_64-v{level}-linux"))
                .chain(["i686-linux".to_owned()])
                .collect(),
            _ => BTreeSet::new(),
        };
        Self {
            droste_dir,
            system: THIS_SYSTEM.into(),
            extra_systems,
            system_features,
            max_jobs: cores,
            child_jobs: cores,
            cores,
            memo: true,
            interpose: true,
            keep_going: false,
            keep_failed: false,
            sandbox_shell: find_static_shell(),
            sandbox: SandboxMode::default(),
            sandbox_paths: Vec::new(),
            allowed_impure_host_deps: BTreeSet::new(),
            impure_env: BTreeMap::new(),
            pre_build_hook: None,
            post_build_hook: None,
            diff_hook: None,
            run_diff_hook: false,
            max_build_log_size: 0,
            trusted_public_keys: PublicKeys::default(),
            secret_key_files: Vec::new(),
            diagnose: |_| {},
            timeout: None,
            self_references: HashModuloVariant::default(),
            max_silent_time: None,
            log_lines: 25,
            downloads: Downloads::of_environment(|name| std::env::var_os(name)),
            keep_build_log: true,
            compress_build_log: true,
            build_dir: None,
            users: BuildUsers::default(),
            nix: Arc::new(Config::new(u32::try_from(cores).unwrap_or(u32::MAX))),
        }
    }

    /// The program that shows differences, if one is to be run.
    pub fn diff_hook(&self) -> Option<&PathBuf> {
        self.diff_hook.as_ref().filter(|_| self.run_diff_hook)
    }

    /// Sets what Nix calls `name` to what `value` means in `nix.conf`; `extra-NAME` adds to what
    /// is a list.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SettingError> {
        let text = value.trim();
        let words = || text.split_ascii_whitespace();
        let bad = |wanted| SettingError::Value {
            name: name.to_owned(),
            value: text.to_owned(),
            wanted,
        };
        let flag = || match text {
            "true" | "yes" | "1" => Ok(true),
            "false" | "no" | "0" => Ok(false),
            _ => Err(bad("`true` or `false`")),
        };
        let number = || text.parse::<u64>().map_err(|_| bad("a number"));
        let count = || text.parse::<u32>().map_err(|_| bad("a number"));
        let seconds = || Ok(Some(number()?).filter(|n| *n > 0).map(Duration::from_secs));
        let program = || Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
        let (name, is_extra) = match name.strip_prefix("extra-") {
            Some("platforms") | None => (name, false),
            Some(name) => (name, true),
        };
        match name {
            "sandbox" | "build-use-sandbox" | "build-use-chroot" => {
                self.sandbox = match text {
                    "relaxed" => SandboxMode::Relaxed,
                    _ if flag().map_err(|_| bad("`true`, `false` or `relaxed`"))? => {
                        SandboxMode::Enabled
                    }
                    _ => SandboxMode::Disabled,
                };
            }
            "sandbox-paths" | "build-sandbox-paths" | "build-chroot-dirs" => {
                if !is_extra {
                    self.sandbox_paths.clear();
                    self.sandbox_shell = None;
                }
                for word in words() {
                    let path = SandboxPath::parse(word);
                    if !path.inside.is_absolute() {
                        return Err(bad("paths that are absolute inside"));
                    }
                    self.sandbox_paths
                        .retain(|known| known.inside != path.inside);
                    self.sandbox_paths.push(path);
                }
            }
            "allowed-impure-host-deps" => {
                let paths = words().map(PathBuf::from);
                set_or_add(&mut self.allowed_impure_host_deps, paths, is_extra);
            }
            "system-features" => {
                set_or_add(
                    &mut self.system_features,
                    words().map(String::from),
                    is_extra,
                );
            }
            "extra-platforms" | "extra-extra-platforms" => {
                set_or_add(&mut self.extra_systems, words().map(String::from), is_extra);
            }
            "impure-env" => {
                if !is_extra {
                    self.impure_env.clear();
                }
                for word in words() {
                    let (name, value) = word.split_once('=').ok_or(bad("`NAME=VALUE`"))?;
                    self.impure_env.insert(name.to_owned(), value.to_owned());
                }
            }
            "trusted-public-keys" | "binary-cache-public-keys" => {
                let keys = words().map(str::parse::<PublicKey>);
                let keys: Vec<PublicKey> = keys
                    .collect::<Result<_, _>>()
                    .map_err(|_| bad("public keys, `NAME:BASE64`"))?;
                if !is_extra {
                    self.trusted_public_keys = PublicKeys::default();
                }
                self.trusted_public_keys.extend(keys);
            }
            "secret-key-files" => {
                if !is_extra {
                    self.secret_key_files.clear();
                }
                self.secret_key_files.extend(words().map(PathBuf::from));
            }
            "pre-build-hook" => self.pre_build_hook = program(),
            "post-build-hook" => self.post_build_hook = program(),
            "diff-hook" => self.diff_hook = program(),
            "run-diff-hook" => self.run_diff_hook = flag()?,
            "max-build-log-size" => self.max_build_log_size = number()?,
            "timeout" | "build-timeout" => self.timeout = seconds()?,
            "max-silent-time" => self.max_silent_time = seconds()?,
            "keep-failed" => self.keep_failed = flag()?,
            "keep-going" => self.keep_going = flag()?,
            "log-lines" => self.log_lines = number()? as usize,
            "cores" => {
                self.cores = match number()? {
                    0 => std::thread::available_parallelism().map_or(1, usize::from),
                    cores => cores as usize,
                };
            }
            "max-jobs" if text == "auto" => {
                self.max_jobs = std::thread::available_parallelism().map_or(1, usize::from);
            }
            "max-jobs" => self.max_jobs = number()? as usize,
            "hashed-mirrors" => {
                if !is_extra {
                    self.downloads.hashed_mirrors.clear();
                }
                self.downloads
                    .hashed_mirrors
                    .extend(words().map(String::from));
            }
            "netrc-file" => self.downloads.netrc_file = PathBuf::from(text),
            "ssl-cert-file" => self.downloads.ssl_cert_file = program(),
            "connect-timeout" => self.downloads.connect_timeout_seconds = count()?,
            "stalled-download-timeout" => {
                self.downloads.stalled_download_timeout_seconds = count()?;
            }
            "download-attempts" => self.downloads.download_attempts = count()?,
            "system" => self.system = text.to_owned(),
            "keep-build-log" | "build-keep-log" => self.keep_build_log = flag()?,
            "compress-build-log" | "build-compress-log" => self.compress_build_log = flag()?,
            "build-dir" => self.build_dir = program(),
            _ => return Err(SettingError::Unknown(name.to_owned())),
        }
        Ok(())
    }

    /// The keys of `secret-key-files`, which are read anew.
    pub fn secret_keys(&self) -> Result<Vec<SecretKey>, SecretKeyError> {
        let read = |path: &PathBuf| {
            let failed = |source| SecretKeyError::Read {
                path: path.clone(),
                source,
            };
            let mut text = String::new();
            let file = File::open(path).map_err(failed)?;
            file.take(KEY_FILE_LEN_MAX)
                .read_to_string(&mut text)
                .map_err(failed)?;
            text.trim_end()
                .parse()
                .map_err(|source| SecretKeyError::Key {
                    path: path.clone(),
                    source,
                })
        };
        self.secret_key_files.iter().map(read).collect()
    }

    /// What a hook gets as `NIX_CONFIG`: the settings of a Nix that it may call, as `nix.conf`
    /// has them.
    pub fn to_nix_config(&self) -> String {
        let paths = self.sandbox_paths.iter().map(|path| {
            let optional = if path.optional { "?" } else { "" };
            format!(
                "{}={}{optional}",
                path.inside.display(),
                path.outside.display()
            )
        });
        let shell = self.sandbox_shell.iter();
        let shell = shell.map(|shell| format!("/bin/sh={}", shell.display()));
        let program = |path: &Option<PathBuf>| {
            path.as_ref()
                .map_or(String::new(), |path| path.display().to_string())
        };
        let seconds = |limit: Option<Duration>| limit.map_or(0, |limit| limit.as_secs());
        let join = |words: &mut dyn Iterator<Item = String>| words.collect::<Vec<_>>().join(" ");
        let values = [
            ("cores", self.cores.to_string()),
            (
                "extra-platforms",
                join(&mut self.extra_systems.iter().cloned()),
            ),
            ("keep-failed", self.keep_failed.to_string()),
            ("keep-going", self.keep_going.to_string()),
            ("max-build-log-size", self.max_build_log_size.to_string()),
            ("max-jobs", self.max_jobs.to_string()),
            ("max-silent-time", seconds(self.max_silent_time).to_string()),
            ("post-build-hook", program(&self.post_build_hook)),
            ("pre-build-hook", program(&self.pre_build_hook)),
            (
                "sandbox",
                match self.sandbox {
                    SandboxMode::Enabled => "true",
                    SandboxMode::Relaxed => "relaxed",
                    SandboxMode::Disabled => "false",
                }
                .to_owned(),
            ),
            ("sandbox-paths", join(&mut shell.chain(paths))),
            ("system", self.system.clone()),
            (
                "system-features",
                join(&mut self.system_features.iter().cloned()),
            ),
            ("timeout", seconds(self.timeout).to_string()),
        ];
        // And all else that somebody has set.
        let others = self.nix.iter().filter(|(known, assigned)| {
            assigned.is_set() && values.iter().all(|(name, _)| *name != known.name)
        });
        let others = others.map(|(known, assigned)| (known.name, assigned.value.to_string()));
        let others: Vec<_> = others.collect();
        let lines = values.into_iter().chain(others);
        lines
            .map(|(name, value)| format!("{name} = {value}\n"))
            .collect()
    }

    /// Whether builders for this system run here.
    pub fn runs(&self, system: &[u8]) -> bool {
        system == self.system.as_bytes()
            || self
                .extra_systems
                .iter()
                .any(|extra| extra.as_bytes() == system)
    }
}

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub enum SecretKeyError {
    /// The file cannot be read.
    #[error("cannot read secret key `{path}`", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// What is in it is no key.
    #[error("`{path}` holds no secret key", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// It has no such value.
    #[error("setting `{name}` cannot be `{value}`: it must be {wanted}")]
    Value {
        /// Its name.
        name: String,
        /// The value.
        value: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// There is none of that name.
    #[error("there is no setting `{0}` that builds here depend on")]
    Unknown(String),
}

fn set_or_add<T: Ord>(set: &mut BTreeSet<T>, items: impl Iterator<Item = T>, is_extra: bool) {
    if !is_extra {
        set.clear();
    }
    set.extend(items);
}

/// Where Debian and others install a shell that needs no library.
fn find_static_shell() -> Option<PathBuf> {
    [
        "/bin/busybox",
        "/usr/bin/bash-static",
        "/bin/bash-static",
        "/usr/bin/busybox",
    ]
    .into_iter()
    .map(PathBuf::from)
    .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_the_names_and_values_that_nix_gives_them() {
        let mut settings = Settings::new("/droste".into());
        settings.set("sandbox", "relaxed").unwrap();
        settings.set("sandbox-paths", "/bin/sh=/x /a?").unwrap();
        settings.set("extra-sandbox-paths", "/b=/c? /a=/d").unwrap();
        settings.set("extra-system-features", "gccarch-x").unwrap();
        settings.set("impure-env", "http_proxy=p no=").unwrap();
        settings.set("timeout", "0").unwrap();
        assert_eq!(settings.sandbox, SandboxMode::Relaxed);
        assert_eq!(settings.sandbox_shell, None);
        let paths: Vec<_> = settings
            .sandbox_paths
            .iter()
            .map(|p| {
                (
                    p.inside.to_str().unwrap(),
                    p.outside.to_str().unwrap(),
                    p.optional,
                )
            })
            .collect();
        assert_eq!(
            paths,
            [
                ("/bin/sh", "/x", false),
                ("/b", "/c", true),
                ("/a", "/d", false)
            ]
        );
        assert!(settings.system_features.contains("gccarch-x"));
        assert!(settings.system_features.contains("benchmark"));
        assert_eq!(settings.impure_env["http_proxy"], "p");
        assert_eq!(settings.impure_env["no"], "");
        assert_eq!(settings.timeout, None);
        settings
            .set("hashed-mirrors", "http://a http://b/")
            .unwrap();
        settings.set("extra-hashed-mirrors", "http://c").unwrap();
        settings.set("ssl-cert-file", "/certificates").unwrap();
        settings.set("netrc-file", "/netrc").unwrap();
        settings.set("connect-timeout", "0").unwrap();
        settings.set("stalled-download-timeout", "7").unwrap();
        settings.set("download-attempts", "1").unwrap();
        let expected = Downloads {
            hashed_mirrors: ["http://a", "http://b/", "http://c"]
                .map(String::from)
                .into(),
            netrc_file: "/netrc".into(),
            ssl_cert_file: Some("/certificates".into()),
            connect_timeout_seconds: 0,
            stalled_download_timeout_seconds: 7,
            download_attempts: 1,
        };
        assert_eq!(settings.downloads, expected);
    }

    #[test]
    fn a_value_that_a_setting_cannot_have_is_refused_with_both_named() {
        let mut settings = Settings::new("/droste".into());
        let error = settings.set("sandbox", "maybe").unwrap_err().to_string();
        assert_eq!(
            error,
            "setting `sandbox` cannot be `maybe`: it must be `true`, `false` or `relaxed`"
        );
        assert!(settings.set("sandbox-paths", "bin=/bin").is_err());
        assert!(matches!(
            settings.set("no-such-setting", ""),
            Err(SettingError::Unknown(_))
        ));
    }

    #[test]
    fn hooks_get_settings_that_can_be_read_back() {
        let mut settings = Settings::new("/droste".into());
        settings.set("sandbox-paths", "/bin/sh=/x /a?").unwrap();
        settings.set("timeout", "7").unwrap();
        let mut again = Settings::new("/droste".into());
        for line in settings.to_nix_config().lines() {
            let (name, value) = line.split_once(" = ").unwrap();
            if name != "system" {
                again.set(name, value).unwrap();
            }
        }
        assert_eq!(again.sandbox_paths, settings.sandbox_paths);
        assert_eq!(again.timeout, settings.timeout);
        assert_eq!(again.system_features, settings.system_features);
    }

    #[test]
    fn nix_s_variable_for_certificates_wins_over_the_common_one() {
        let with = |set: &[(&str, &str)]| {
            Downloads::of_environment(|name| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.into())
            })
        };
        let both = with(&[("SSL_CERT_FILE", "/ssl"), ("NIX_SSL_CERT_FILE", "/nix")]);
        assert_eq!(both.ssl_cert_file, Some("/nix".into()));
        let one = with(&[("SSL_CERT_FILE", "/ssl"), ("NIX_SSL_CERT_FILE", "")]);
        assert_eq!(one.ssl_cert_file, Some("/ssl".into()));
        assert_eq!(one.netrc_file, PathBuf::from("/etc/nix/netrc"));
        let conf = with(&[("NIX_CONF_DIR", "/conf")]);
        assert_eq!(conf.netrc_file, PathBuf::from("/conf/netrc"));
    }
}
