//! `droste config show`: the settings that hold here, as `nix config show` shows them.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use droste_executor::Settings;
use droste_settings::{Assigned, Config, Known};
use serde::Serialize;

use super::build::OptionArgs;
use super::error::CommandError;
use super::{Context, exit_code, nix_conf, print, print_line};

/// Show settings
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    Show(ShowArgs),
}

/// Show the settings of `nix.conf` as `build` and `daemon` have them: all of them, or one
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Which one: its value alone is printed
    #[arg(value_name = "NAME", conflicts_with = "json")]
    name: Option<String>,
    /// All of them with their defaults, other names, and where the values come from
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: OptionArgs,
}

#[derive(Debug, thiserror::Error)]
#[error("could not find setting '{0}'")]
struct NoSuchSetting(String);

/// A setting in JSON: Nix's fields, but for descriptions, and `origins`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SettingJson {
    aliases: &'static [&'static str],
    default_value: serde_json::Value,
    experimental_feature: Option<&'static str>,
    /// `default`, `FILE:LINE` or `command line`.
    origins: Vec<String>,
    value: serde_json::Value,
}

pub fn run(context: &Context, args: &ConfigArgs) -> Result<u8, CommandError> {
    match &args.command {
        ConfigCommand::Show(args) => show(context, args),
    }
}

fn show(context: &Context, args: &ShowArgs) -> Result<u8, CommandError> {
    let defaults = Settings::new(context.droste_dir.clone());
    let config = nix_conf::read(&defaults, args.options.pairs())?;
    if args.json {
        let untouched = nix_conf::untouched(&defaults)?;
        print_line(&to_json(&config, &untouched).to_string())?;
        return Ok(exit_code::SUCCESS);
    }
    let mut shown = config
        .iter()
        .filter(|(known, _)| known.feature.is_none_or(|name| config.has_feature(name)));
    match &args.name {
        Some(name) => {
            let found = shown.find(|(known, _)| known.name == name);
            let (_, assigned) = found.ok_or_else(|| NoSuchSetting(name.clone()))?;
            print_line(&assigned.value.to_string())?;
        }
        None => print(&shown.map(line).collect::<String>())?,
    }
    Ok(exit_code::SUCCESS)
}

fn line((known, assigned): (&Known, &Assigned)) -> String {
    format!("{} = {}\n", known.name, assigned.value)
}

fn to_json(config: &Config, untouched: &Config) -> serde_json::Value {
    let settings: BTreeMap<&str, SettingJson> = config
        .iter()
        .map(|(known, assigned)| {
            let setting = SettingJson {
                aliases: known.aliases,
                default_value: untouched.get(known.name).value.to_json(),
                experimental_feature: known.feature,
                origins: assigned.origins.iter().map(ToString::to_string).collect(),
                value: assigned.value.to_json(),
            };
            (known.name, setting)
        })
        .collect();
    serde_json::to_value(settings).expect("names and values are JSON")
}
