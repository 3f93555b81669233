//! What `nix.conf` says, as an executor's settings.

use std::path::Path;

use droste_settings::{Config, ConfigError, Environment, Origin, Value};

use crate::settings::{SandboxPath, SettingError, Settings};
use crate::users::BuildUsers;

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
        let join = |words: &std::collections::BTreeSet<String>| {
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
