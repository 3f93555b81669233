//! What `nix.conf` says, as an executor's settings.

use std::collections::BTreeSet;
use std::path::Path;

use droste_settings::{Config, ConfigError, Environment, Origin, Value};
use store_api::ClientSettings;

use crate::settings::{SandboxPath, SettingError, Settings};
use crate::users::BuildUsers;

/// The most derivations that a client may have built at once, if the machine's own settings do not
/// say more: each has a thread.
const CLIENT_JOBS_MAX: usize = 1024;

/// The setting for a shell that builds see, in the form of `sandbox-paths`.
const SHELL: &str = "/bin/sh";

impl Settings {
    /// All settings of `nix.conf` as they are if nobody sets them: like Nix's, but for those
    /// whose defaults are Droste's own.
    ///
    /// # Errors
    /// If a variable of the environment names what cannot be.
    pub fn nix_defaults(&self, environment: &Environment<'_>) -> Result<Config, ConfigError> {
        let processors = u32::try_from(self.max_jobs).unwrap_or(u32::MAX);
        let mut config = Config::new(processors);
        let join = |words: &BTreeSet<String>| {
            words
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(" ")
        };
        let text = |path: &Path| path.display().to_string();
        let conf_dir = environment.conf_dir();
        let variable = |name: &str| {
            let value = environment.get(name)?;
            value.into_string().ok()
        };
        config.set_default("system", &self.system)?;
        config.set_default("extra-platforms", &join(&self.extra_systems))?;
        config.set_default("system-features", &join(&self.system_features))?;
        if let Some(shell) = &self.sandbox_shell {
            config.set_default("sandbox-paths", &format!("{SHELL}={}", text(shell)))?;
        }
        config.set_default("netrc-file", &text(&conf_dir.join("netrc")))?;
        config.set_default(
            "builders",
            &format!("@{}", text(&conf_dir.join("machines"))),
        )?;
        config.set_default("store", &variable("NIX_REMOTE").unwrap_or_default())?;
        let certificates = ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"]
            .iter()
            .find_map(|name| variable(name))
            .or_else(|| {
                const FILES: [&str; 2] = [
                    "/etc/ssl/certs/ca-certificates.crt",
                    "/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt",
                ];
                FILES
                    .into_iter()
                    .find(|file| Path::new(file).exists())
                    .map(str::to_owned)
            });
        config.set_default("ssl-cert-file", &certificates.unwrap_or_default())?;
        let is_root = rustix::process::geteuid().is_root();
        config.set_default("require-drop-supplementary-groups", &is_root.to_string())?;
        if variable("NIX_IGNORE_SYMLINK_STORE").as_deref() == Some("1") {
            config.set_default("allow-symlinked-store", "true")?;
        }
        Ok(config)
    }

    /// Takes over what the configuration says. What nobody has set there stays.
    ///
    /// # Errors
    /// If a value that is well-formed for Nix means nothing here, such as a key that is none.
    pub fn apply(&mut self, config: Config) -> Result<(), SettingError> {
        for (known, assigned) in config.iter().filter(|(_, assigned)| assigned.is_set()) {
            if known.name == "sandbox-paths" {
                continue;
            }
            let text = match assigned.value {
                // A time before now is none, as in Nix.
                Value::Number(number) => number.max(0).to_string(),
                ref value => value.to_string(),
            };
            match self.set(known.name, &text) {
                // Builds do not depend on it.
                Err(SettingError::Unknown(_)) => {}
                set => set?,
            }
        }
        self.apply_users(&config);
        self.apply_sandbox_paths(&config);
        self.nix = std::sync::Arc::new(config);
        Ok(())
    }

    /// These, but for what a client wants; and what it is to be warned of.
    ///
    /// Source: nix `src/libstore/daemon.cc` (`ClientSettings::apply`).
    pub fn for_client(&self, wanted: &ClientSettings) -> (Self, Vec<String>) {
        let mut config = (*self.nix).clone();
        // Those are not this client's affair.
        config.take_warnings();
        let mut warnings = Vec::new();
        // What cannot be is warned of by Nix in these words.
        let set = |config: &mut Config, name: &str, text: &str, warnings: &mut Vec<String>| {
            if let Err(error) = config.set(name, text, Origin::Client) {
                let why = match error {
                    ConfigError::Value { why, .. } => why.to_string(),
                    error => error.to_string(),
                };
                warnings.push(format!("error: {why}"));
            }
        };
        for (name, value) in &wanted.own {
            set(&mut config, name, value, &mut warnings);
        }
        let own_alone = config.clone();
        for (name, value) in &wanted.others {
            match &**name {
                // What the daemon can do, and which of its code runs, is its own affair.
                "ssh-auth-sock" | "experimental-features" => {}
                "plugin-files" => warnings.push(
                    "Ignoring the client-specified plugin-files.\nThe client specifying plugins to the daemon never made sense, and was removed in Nix >=2.14.".to_owned(),
                ),
                _ if wanted.is_trusted || ClientSettings::is_free(name, value) => {
                    set(&mut config, name, value, &mut warnings);
                }
                "substituters" | "binary-caches" => {
                    let known = self.known_substituters();
                    let is_known = |url: &&str| {
                        known.contains(*url) || known.contains(&format!("{url}/"))
                    };
                    let (known, others): (Vec<&str>, Vec<&str>) =
                        value.split_ascii_whitespace().partition(is_known);
                    set(&mut config, name, &known.join(" "), &mut warnings);
                    warnings.extend(others.iter().map(|url| format!(
                        "ignoring untrusted substituter '{url}', you are not a trusted user.\nRun `man nix.conf` for more information on the `substituters` configuration option."
                    )));
                }
                _ => warnings.push(ClientSettings::restricted(name)),
            }
        }
        // Names that nobody knows are passed over, as in Nix.
        let told = config.take_warnings();
        let is_unknown = |text: &String| text.starts_with("unknown setting");
        warnings.extend(told.into_iter().filter(|text| !is_unknown(text)));
        let mut settings = self.clone();
        if let Err(error) = settings.apply(config) {
            warnings.push(format!("error: {error}"));
            settings = self.clone();
            // Numbers and truth values can be whatever they are.
            let _ = settings.apply(own_alone);
        }
        settings.max_jobs = settings.max_jobs.min(self.max_jobs.max(CLIENT_JOBS_MAX));
        (settings, warnings)
    }

    /// The substituters that every client may choose from.
    fn known_substituters(&self) -> BTreeSet<String> {
        let of = |name: &str| self.nix.words(name);
        of("trusted-substituters")
            .into_iter()
            .chain(of("substituters"))
            .collect()
    }

    /// `require-sigs`: whether an object that does not prove itself by its content needs the
    /// signature of a trusted key to be added, unless a trusted client vouches for it.
    pub fn requires_signatures(&self) -> bool {
        self.nix.flag("require-sigs")
    }

    /// Without a word on it, and with no group, build users are allocated: a builder is never
    /// root.
    fn apply_users(&mut self, config: &Config) {
        let group = config.text("build-users-group");
        self.users = match group.is_empty() || config.flag("auto-allocate-uids") {
            true => BuildUsers::Allocated {
                first: u32::try_from(config.number("start-id")).unwrap_or(u32::MAX),
                count: u32::try_from(config.number("id-count")).unwrap_or(u32::MAX),
            },
            false => BuildUsers::Group(group.to_owned()),
        };
    }

    /// With the default, a shell that was found; other paths are as they are there.
    fn apply_sandbox_paths(&mut self, config: &Config) {
        if config.if_set("sandbox-paths").is_none() {
            return;
        }
        let is_given = |origin: &Origin| *origin == Origin::CommandLine;
        let origins = &config.get("sandbox-paths").origins;
        self.sandbox_shell = None;
        self.sandbox_paths = config
            .sandbox_paths()
            .iter()
            .map(|(inside, path)| SandboxPath {
                inside: inside.into(),
                outside: path.source.clone().into(),
                optional: path.optional,
                read_only: origins.iter().all(is_given),
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SandboxMode;
    use std::time::Duration;

    fn applied(lines: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::new("/droste".into());
        let mut config = settings
            .nix_defaults(&Environment(&|_| None))
            .expect("defaults can be");
        for (name, value) in lines {
            config.set(name, value, Origin::CommandLine).unwrap();
        }
        settings.apply(config).unwrap();
        settings
    }

    #[test]
    fn what_nobody_sets_stays_as_it_is() {
        let plain = Settings::new("/droste".into());
        let settings = applied(&[]);
        assert_eq!(settings.system, plain.system);
        assert_eq!(settings.system_features, plain.system_features);
        assert_eq!(settings.max_jobs, plain.max_jobs);
        assert_eq!(settings.cores, plain.cores);
        assert_eq!(settings.timeout, None);
        assert_eq!(settings.users, plain.users);
        assert_eq!(settings.sandbox_shell, plain.sandbox_shell);
        assert!(settings.sandbox_paths.is_empty());
    }

    #[test]
    fn what_is_set_counts() {
        let settings = applied(&[
            ("system", "riscv64-linux"),
            ("extra-platforms", "a b"),
            ("system-features", "x"),
            ("extra-system-features", "y"),
            ("max-jobs", "0"),
            ("cores", "3"),
            ("keep-failed", "true"),
            ("timeout", "9"),
            ("max-silent-time", "-1"),
            ("log-lines", "2"),
            ("build-dir", "/b"),
            ("build-users-group", "builders"),
            ("sandbox", "relaxed"),
            ("sandbox-paths", "/bin/sh=/sh /a=/b?"),
        ]);
        assert!(settings.runs(b"riscv64-linux") && settings.runs(b"b"));
        assert_eq!(
            settings.system_features,
            ["x", "y"].map(String::from).into()
        );
        assert_eq!((settings.max_jobs, settings.cores), (0, 3));
        assert!(settings.keep_failed);
        assert_eq!(settings.timeout, Some(Duration::from_secs(9)));
        assert_eq!(settings.max_silent_time, None);
        assert_eq!(settings.log_lines, 2);
        assert_eq!(settings.build_dir.as_deref(), Some(Path::new("/b")));
        assert_eq!(settings.users, BuildUsers::Group("builders".into()));
        assert_eq!(settings.sandbox, SandboxMode::Relaxed);
        let paths: Vec<_> = settings
            .sandbox_paths
            .iter()
            .map(|path| (path.inside.as_path(), path.outside.as_path(), path.optional))
            .collect();
        let path = Path::new;
        assert_eq!(
            paths,
            [
                (path("/a"), path("/b"), true),
                (path("/bin/sh"), path("/sh"), false)
            ]
        );
    }

    fn client(is_trusted: bool, others: &[(&str, &str)]) -> ClientSettings {
        let own = [
            ("keep-failed", "true"),
            ("max-jobs", "3"),
            ("cores", "0"),
            ("max-silent-time", "8"),
        ];
        ClientSettings {
            own: own.map(|(name, value)| (name, value.to_owned())).into(),
            others: others
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            is_trusted,
        }
    }

    #[test]
    fn a_client_that_is_not_trusted_sets_what_concerns_nobody_else() {
        let settings = applied(&[
            ("substituters", "https://a.example/"),
            ("trusted-substituters", "https://b.example"),
            ("cores", "2"),
        ]);
        let wanted = [
            ("timeout", "9"),
            ("builders", ""),
            ("sandbox", "false"),
            ("post-build-hook", "/bin/evil"),
            (
                "substituters",
                "https://a.example https://b.example https://c.example",
            ),
            ("experimental-features", "flakes"),
            ("no-such-setting", "x"),
        ];
        let (changed, warnings) = settings.for_client(&client(false, &wanted));
        assert!(changed.keep_failed);
        assert_eq!(changed.max_jobs, 3);
        assert_eq!(changed.max_silent_time, Some(Duration::from_secs(8)));
        assert_eq!(changed.timeout, Some(Duration::from_secs(9)));
        assert_eq!(changed.sandbox, SandboxMode::Enabled);
        assert_eq!(changed.post_build_hook, None);
        let processors = std::thread::available_parallelism().unwrap().get();
        assert_eq!(changed.cores, processors);
        let restricted = |name: &str| ClientSettings::restricted(name);
        let others: Vec<&String> = warnings
            .iter()
            .filter(|text| !text.starts_with("ignoring untrusted substituter 'https://c.example'"))
            .collect();
        assert_eq!(warnings.len(), others.len() + 1, "{warnings:?}");
        assert_eq!(
            others,
            [
                &restricted("no-such-setting"),
                &restricted("post-build-hook"),
                &restricted("sandbox")
            ]
        );
        assert_eq!(
            changed.nix.words("substituters"),
            ["https://a.example", "https://b.example"]
        );
    }

    #[test]
    fn a_trusted_client_sets_what_it_likes_but_not_what_cannot_be() {
        let settings = applied(&[("max-jobs", "2")]);
        let wanted = [
            ("sandbox", "relaxed"),
            ("post-build-hook", "/hook"),
            ("extra-system-features", "kvm x"),
            ("impure-env", "a=b"),
            ("log-lines", "many"),
            ("plugin-files", "/x"),
            ("no-such-setting", "x"),
        ];
        let (changed, warnings) = settings.for_client(&client(true, &wanted));
        assert_eq!(changed.sandbox, SandboxMode::Relaxed);
        assert_eq!(changed.post_build_hook.as_deref(), Some(Path::new("/hook")));
        assert!(changed.system_features.contains("x"));
        assert!(changed.system_features.contains("benchmark"));
        assert!(changed.impure_env.is_empty());
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(
            warnings
                .iter()
                .any(|text| text == "error: setting 'log-lines' has invalid value 'many'")
        );
        assert!(warnings.iter().any(|text| text.contains("plugin-files")));
        assert!(
            warnings
                .iter()
                .any(|text| text.contains("configurable-impure-env"))
        );
        // What it has set stays when it sets more.
        let (more, _) = changed.for_client(&client(true, &[("timeout", "1")]));
        assert_eq!(more.sandbox, SandboxMode::Relaxed);
        assert_eq!(more.timeout, Some(Duration::from_secs(1)));
        // Another one begins with the machine's.
        let (other, _) = settings.for_client(&client(true, &[]));
        assert_eq!(other.sandbox, SandboxMode::Enabled);
    }

    #[test]
    fn no_client_has_more_jobs_than_can_be() {
        let settings = applied(&[("max-jobs", "2")]);
        let mut wanted = client(false, &[]);
        wanted.own.insert("max-jobs", u32::MAX.to_string());
        assert_eq!(settings.for_client(&wanted).0.max_jobs, CLIENT_JOBS_MAX);
        // A broken value leaves all others as they were.
        let broken = client(true, &[("trusted-public-keys", "none")]);
        let (same, warnings) = settings.for_client(&broken);
        assert_eq!(same.max_jobs, 3);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }

    #[test]
    fn what_extra_adds_leaves_the_shell() {
        let settings = applied(&[("extra-sandbox-paths", "/a=/b")]);
        let shell = Settings::new("/droste".into()).sandbox_shell;
        let shown = settings
            .sandbox_paths
            .iter()
            .find(|path| path.inside == Path::new("/bin/sh"));
        assert_eq!(shown.map(|path| path.outside.clone()), shell);
    }
}
