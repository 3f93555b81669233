//! Where commands get Nix's settings from: its files, its variables, and the command line.
//!
//! See docs/adr/0014-nix-conf.md for which commands do.

use droste_executor::Settings;
use droste_settings::{Config, ConfigError, Environment, Origin, load, read_file};

use super::error::CommandError;

/// The settings of `nix.conf`, and above them these options. What the user should know is told
/// on standard error, in Nix's words.
pub fn read<'a>(
    defaults: &Settings,
    options: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Config, CommandError> {
    let mut config = read_quietly(defaults, options)?;
    for warning in config.take_warnings() {
        eprintln!("warning: {warning}");
    }
    Ok(config)
}

/// The same; the warnings are left in it.
pub fn read_quietly<'a>(
    defaults: &Settings,
    options: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Config, ConfigError> {
    let variable = |name: &str| std::env::var_os(name);
    let environment = Environment(&variable);
    let mut config = defaults.nix_defaults(&environment)?;
    load(&mut config, &environment, &read_file)?;
    // As in files: others depend on the features.
    let is_of_features = |name: &str| {
        matches!(
            name,
            "experimental-features" | "extra-experimental-features"
        )
    };
    let (features, others): (Vec<_>, Vec<_>) = options.partition(|(name, _)| is_of_features(name));
    for (name, value) in features.into_iter().chain(others) {
        config.set(name, value, Origin::CommandLine)?;
    }
    Ok(config)
}

/// All settings as they are where nobody has set any.
pub fn untouched(defaults: &Settings) -> Result<Config, ConfigError> {
    defaults.nix_defaults(&Environment(&|name| std::env::var_os(name)))
}
