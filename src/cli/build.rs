//! `droste build`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use droste_executor::{BuildError, ChildCounts, Settings, UnitOutcome};
use droste_settings::Origin;
use serde::Serialize;
use store_api::{BuildMode, BuildStatus};
use store_local::LocalStore;
use store_nar::HashModuloVariant;
use store_types::{DerivedPath, OutputsSpec, SingleDerivedPath, StoreDir};

use super::error::{CommandError, Hint, describe};
use super::expressions::{EvalError, Expressions};
use super::interrupt::{self, Interrupted};
use super::report::{Reporter, Status};
use super::store_arg::{StoreArgError, StorePlace};
use super::{Context, exit_code, nix_conf, print, print_line};
use crate::wiring;

/// Build derivations, and make every compile a derivation of its own
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Derivations, with their outputs if not all are wanted: a path in the store, as it is
    /// inside builds (/nix/store/….drv) or on this machine. Of an output that is a derivation
    /// itself, outputs can be named in turn: PATH.drv^out^out
    #[arg(
        value_name = "PATH.drv[^OUTPUT]…[^OUTPUTS]",
        required_unless_present = "file"
    )]
    paths: Vec<String>,
    #[command(flatten)]
    expressions: Expressions,
    /// Print what became of each derivation as JSON
    #[arg(long)]
    json: bool,
    /// Make links to the outputs, which are not collected as garbage then as long as the links
    /// are there: PATH, PATH-1, … for each derivation, with -OUTPUT for all outputs but `out`
    #[arg(short, long, value_name = "PATH")]
    out_link: Option<PathBuf>,
    /// Make no links, which is the default
    #[arg(long, conflicts_with = "out_link")]
    no_link: bool,
    /// Run builders whose outputs are valid already, too, and compare the outputs
    #[arg(long)]
    rebuild: bool,
    /// After a failure, go on with what does not depend on it
    #[arg(short, long)]
    keep_going: bool,
    /// How many of the log's last lines the error of a failed build repeats [default: 25]
    #[arg(long, value_name = "N")]
    log_lines: Option<u32>,
    /// Show the builders' logs
    #[arg(short = 'L', long)]
    print_build_logs: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// How an executor is to build.
#[derive(Debug, Args)]
#[command(next_help_heading = "How to build")]
pub struct SettingsArgs {
    /// Make compiler calls children, or run them as if Droste were not there
    #[arg(
        long,
        value_name = "on|off",
        default_value = "on",
        hide_default_value = true
    )]
    memo: Switch,
    /// Lay the shims over the compilers of builds, or have only those that the PATH names
    #[arg(
        long,
        value_name = "on|off",
        default_value = "on",
        hide_default_value = true
    )]
    interpose: Switch,
    /// The same as --interpose off
    #[arg(long, conflicts_with = "interpose")]
    no_interpose: bool,
    /// How many builders may run at once [default: as many as there are processors]
    #[arg(short = 'j', long, value_name = "N|auto")]
    max_jobs: Option<String>,
    /// How many processes each builder should run at once, 0 for as many as there are
    /// processors
    #[arg(long, value_name = "N")]
    cores: Option<u32>,
    /// Keep the build directories of builds that failed
    #[arg(short = 'K', long)]
    keep_failed: bool,
    /// Kill builders that run longer than this
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Kill builders that write nothing to their log for longer than this
    #[arg(long, value_name = "SECONDS")]
    max_silent_time: Option<u64>,
    /// Show builds a file or directory of this machine
    #[arg(long, value_name = "INSIDE=OUTSIDE")]
    sandbox_path: Vec<String>,
    /// Give content-addressed outputs that refer to themselves the paths that this version of
    /// Nix gives them: 2.17 to 2.34 agree on them, and so do all others [default: 2.34]
    #[arg(long, value_name = "VERSION", value_parser = parse_nix_version)]
    nix: Option<HashModuloVariant>,
    #[command(flatten)]
    options: OptionArgs,
}

/// Settings of `nix.conf` on the command line, where they win.
#[derive(Debug, Default, Args)]
pub struct OptionArgs {
    /// Set what `nix.conf` could set
    #[arg(long, num_args = 2, value_names = ["NAME", "VALUE"], action = clap::ArgAction::Append)]
    option: Vec<String>,
}

impl OptionArgs {
    /// The names and their values, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.option
            .chunks_exact(2)
            .map(|pair| (pair[0].as_str(), pair[1].as_str()))
    }
}

fn parse_nix_version(text: &str) -> Result<HashModuloVariant, String> {
    HashModuloVariant::of_nix(text).ok_or_else(|| "want a version of Nix like `2.34`".to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// A path for the sandbox that cannot be used.
#[derive(Debug, thiserror::Error)]
enum SandboxPathError {
    #[error("`{0}` cannot be shown to builds: the path inside must be absolute")]
    Relative(String),
    #[error("`{}` cannot be shown to builds: there is no such file", .0.display())]
    NoSuchFile(PathBuf),
}

/// Tells why compiler calls run in place that should not: once, for what is broken stays so.
fn warn_once(text: &str) {
    static TOLD: std::sync::Once = std::sync::Once::new();
    TOLD.call_once(|| eprintln!("droste: warning: compiler calls run in place: {text}"));
}

impl SettingsArgs {
    /// What was meant: the command line's options, and below them those of `nix.conf`.
    pub fn to_settings(
        &self,
        context: &Context,
        more: &[(&str, String)],
    ) -> Result<Settings, CommandError> {
        let mut settings = Settings::new(context.droste_dir.clone());
        settings.memo = self.memo == Switch::On;
        settings.self_references = self.nix.unwrap_or_default();
        settings.diagnose = warn_once;
        settings.interpose = self.interpose == Switch::On && !self.no_interpose;
        let mut given: Vec<(&str, String)> = more.to_vec();
        let mut give = |name, value: Option<String>| given.extend(value.map(|value| (name, value)));
        give("max-jobs", self.max_jobs.clone());
        give("cores", self.cores.map(|cores| cores.to_string()));
        give("keep-failed", self.keep_failed.then(|| "true".to_owned()));
        give("timeout", self.timeout.map(|limit| limit.to_string()));
        give(
            "max-silent-time",
            self.max_silent_time.map(|limit| limit.to_string()),
        );
        let options = self
            .options
            .pairs()
            .chain(given.iter().map(|(name, value)| (*name, value.as_str())));
        let mut config = nix_conf::read(&settings, options)?;
        for text in &self.sandbox_path {
            let (inside, outside) = text.split_once('=').unwrap_or((text, text));
            let (inside, outside) = (PathBuf::from(inside), PathBuf::from(outside));
            if !inside.is_absolute() {
                return Err(SandboxPathError::Relative(text.clone()).into());
            }
            let outside = match outside.canonicalize() {
                Ok(outside) => outside,
                Err(_) => return Err(SandboxPathError::NoSuchFile(outside).into()),
            };
            let (inside, outside) = (inside.display().to_string(), outside.display().to_string());
            config.add_sandbox_path(inside, outside, Origin::CommandLine);
        }
        settings.apply(config)?;
        Ok(settings)
    }
}

pub fn run(context: &Context, args: &BuildArgs) -> Result<u8, CommandError> {
    let status = context.status();
    let mut given = Vec::new();
    if args.keep_going {
        given.push(("keep-going", "true".to_owned()));
    }
    if let Some(lines) = args.log_lines {
        given.push(("log-lines", lines.to_string()));
    }
    let settings = args.settings.to_settings(context, &given)?;
    // Before the store is opened: Nix may want it alone, to bring it up to date.
    let evaluated = evaluate(context, args, &status)?;
    // Only an expression can be built in a store that is not there yet.
    let store = match args.expressions.0.is_empty() {
        true => super::store::open_existing(context)?,
        false => wiring::open_store(&context.store)?,
    };
    let requested = requested(context, args, &store, &evaluated)?;
    let executor = wiring::open_executor(store.clone(), settings, wiring::spawner_when_needed())?;
    let is_cancelled = interrupt::watch()?;
    let reporter = Reporter::new(&status, args.print_build_logs, is_cancelled.clone());
    let mode = match args.rebuild {
        true => BuildMode::Check,
        false => BuildMode::Normal,
    };
    let wanted: Vec<DerivedPath> = requested.iter().map(Requested::to_derived_path).collect();
    let outcomes = reporter.during(|| executor.build(&wanted, mode, &reporter))?;
    let results: Vec<BuildJson> = requested
        .iter()
        .map(|request| BuildJson::new(store.store_dir(), request, &outcomes))
        .collect();
    if let Some(link) = &args.out_link {
        make_links(&store, link, &results)?;
    }
    drop(executor);
    if args.json {
        print(&to_json(&results))?;
    } else {
        for path in results.iter().flat_map(|result| result.outputs.values()) {
            print_line(path)?;
        }
        let is_elsewhere = store.physical_dir() != Path::new(store.store_dir().as_str());
        if is_elsewhere && results.iter().any(|result| !result.outputs.is_empty()) {
            status.line(&format!(
                "note: `{}` is `{}` on this machine",
                store.store_dir(),
                store.physical_dir().display()
            ));
        }
    }
    if is_cancelled.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(Interrupted.into());
    }
    let failures: Vec<&BuildError> = outcomes
        .iter()
        .filter_map(|outcome| outcome.error.as_ref())
        .collect();
    if failures.is_empty() {
        return Ok(exit_code::SUCCESS);
    }
    for error in &failures {
        // Those are many, and the one failure that stopped them is told.
        if !matches!(error, BuildError::Cancelled { .. }) {
            status.always(describe(*error).trim_end().as_bytes());
        }
    }
    if let Some(hint) = failures.iter().find_map(|error| hint_for(error)) {
        status.always(format!("hint: {hint}").as_bytes());
    }
    Err(CommandError::told(exit_code::of_failures(failures)))
}

/// A place that links cannot be made at.
#[derive(Debug, thiserror::Error)]
#[error("cannot find out where `{}` is", path.display())]
struct LinkError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Makes roots of all outputs, named as `nix build` names them.
fn make_links(store: &LocalStore, link: &Path, results: &[BuildJson]) -> Result<(), CommandError> {
    let link = std::path::absolute(link).map_err(|source| LinkError {
        path: link.to_owned(),
        source,
    })?;
    for (number, result) in results.iter().enumerate() {
        for (output, path) in &result.outputs {
            let mut name = link.as_os_str().to_owned();
            if number > 0 {
                name.push(format!("-{number}"));
            }
            if output != "out" {
                name.push(format!("-{output}"));
            }
            let path = store.store_dir().parse(path)?;
            store.add_perm_root(&path, Path::new(&name))?;
        }
    }
    Ok(())
}

fn hint_for(error: &BuildError) -> Option<&'static str> {
    match error {
        BuildError::NothingToCheck { .. } => Some("build it without `--rebuild` first"),
        BuildError::BuilderFailed { .. } => Some(
            "`--print-build-logs` shows the whole log, `--keep-failed` keeps the build directory",
        ),
        BuildError::NoDerivation { .. } => Some("`--store DIR` says which store is meant"),
        _ => None,
    }
}

/// A derivation that was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Requested {
    drv: SingleDerivedPath,
    outputs: OutputsSpec,
}

impl Requested {
    fn to_derived_path(&self) -> DerivedPath {
        DerivedPath::Built {
            drv: self.drv.clone(),
            outputs: self.outputs.clone(),
        }
    }
}

/// All that was asked for, each derivation once.
fn requested(
    context: &Context,
    args: &BuildArgs,
    store: &LocalStore,
    evaluated: &[String],
) -> Result<Vec<Requested>, CommandError> {
    let place = StorePlace {
        dir: store.store_dir(),
        physical: store.physical_dir(),
    };
    let mut all = Vec::new();
    for text in &args.paths {
        let path = place.derived_path(text).map_err(|error| {
            let hint = hint_for_argument(text, &error, context);
            let error = CommandError::from(error);
            match hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        })?;
        add_request(&mut all, path);
    }
    for text in evaluated {
        add_request(&mut all, place.derived_path(text)?);
    }
    Ok(all)
}

/// The derivations that the expressions evaluate to.
fn evaluate(
    context: &Context,
    args: &BuildArgs,
    status: &Status,
) -> Result<Vec<String>, CommandError> {
    let mut all = Vec::new();
    for expression in &args.expressions.0 {
        status.now("evaluating");
        match expression.instantiate(&context.store.to_argument(), status) {
            Err(error @ EvalError::Missing) => {
                return Err(error).hint(|| {
                    "install Nix (Debian: `apt-get install nix-bin`), or give `droste build` a `.drv` file"
                });
            }
            result => all.extend(result?),
        }
    }
    status.clear();
    Ok(all)
}

fn hint_for_argument(text: &str, error: &StoreArgError, context: &Context) -> Option<String> {
    match error {
        StoreArgError::Outside { .. } if text.ends_with(".nix") => Some(format!(
            "`droste build -f {text}` builds what a Nix expression evaluates to"
        )),
        StoreArgError::Outside { .. } => Some(format!(
            "a derivation is built in the store that it and its inputs are in: copy them with \
             `nix copy --to {}`, or name their store with `--store DIR`",
            context.store.to_argument().display()
        )),
        _ => None,
    }
}

fn add_request(all: &mut Vec<Requested>, path: DerivedPath) {
    let DerivedPath::Built { drv, outputs } = path else {
        return;
    };
    let Some(known) = all.iter_mut().find(|known| known.drv == drv) else {
        all.push(Requested { drv, outputs });
        return;
    };
    known.outputs = match (
        std::mem::replace(&mut known.outputs, OutputsSpec::All),
        outputs,
    ) {
        (OutputsSpec::Names(names), OutputsSpec::Names(more)) => {
            OutputsSpec::Names(names.union(&more).cloned().collect::<BTreeSet<_>>())
        }
        _ => OutputsSpec::All,
    };
}

/// What became of one derivation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildJson {
    drv_path: String,
    outputs: BTreeMap<String, String>,
    status: &'static str,
    children: ChildrenJson,
    in_place_reasons: BTreeMap<String, u64>,
    not_shared_reasons: BTreeMap<String, u64>,
    undeclared_inputs: BTreeMap<String, u64>,
    wall_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What became of its compiler calls.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ChildrenJson {
    built: u64,
    reused: u64,
    substituted: u64,
    in_place: u64,
}

impl BuildJson {
    fn new(dir: &StoreDir, request: &Requested, outcomes: &[UnitOutcome]) -> Self {
        let nothing = ChildCounts::default();
        let outcome = outcomes.iter().find(|outcome| outcome.drv == request.drv);
        let children = outcome.map_or(&nothing, |outcome| &outcome.children);
        let outputs = outcome.into_iter().flat_map(|outcome| &outcome.outputs);
        let error = match outcome {
            Some(outcome) => outcome.error.as_ref().map(BuildError::chain),
            None => Some("it was not built".to_owned()),
        };
        Self {
            drv_path: request.drv.display(dir),
            outputs: outputs
                .filter(|(name, _)| request.outputs.contains(name))
                .map(|(name, path)| (name.clone(), dir.display(path)))
                .collect(),
            status: match outcome {
                Some(outcome) if outcome.error.is_none() => status_name(outcome.result.status),
                _ => "failed",
            },
            children: ChildrenJson {
                built: children.built,
                reused: children.reused,
                substituted: children.substituted,
                in_place: children.in_place,
            },
            in_place_reasons: children.in_place_reasons.clone(),
            not_shared_reasons: children.not_shared_reasons.clone(),
            undeclared_inputs: children.undeclared_inputs.clone(),
            wall_seconds: outcome.map_or(0.0, |outcome| {
                (outcome.wall.as_secs_f64() * 1000.0).round() / 1000.0
            }),
            error,
        }
    }
}

fn status_name(status: BuildStatus) -> &'static str {
    match status {
        BuildStatus::Built => "built",
        BuildStatus::Substituted => "substituted",
        BuildStatus::AlreadyValid => "alreadyValid",
        BuildStatus::ResolvesToAlreadyValid => "resolvesToAlreadyValid",
        _ => "failed",
    }
}

fn to_json(results: &[BuildJson]) -> String {
    // Text keys and finite numbers always have a form in JSON.
    let text = serde_json::to_string_pretty(results).unwrap_or_default();
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use store_api::BuildResult;
    use store_types::StorePath;

    fn drv() -> SingleDerivedPath {
        let path = StorePath::from_base_name("0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x.drv");
        path.unwrap().into()
    }

    fn output(letter: char) -> StorePath {
        StorePath::from_base_name(&format!("{letter}mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x")).unwrap()
    }

    fn request(outputs: OutputsSpec) -> Requested {
        Requested {
            drv: drv(),
            outputs,
        }
    }

    fn names(names: &[&str]) -> OutputsSpec {
        OutputsSpec::Names(names.iter().map(|name| name.to_string()).collect())
    }

    fn outcome(status: BuildStatus, error: Option<BuildError>) -> UnitOutcome {
        UnitOutcome {
            drv: drv(),
            result: BuildResult::new(status, ""),
            outputs: match error {
                None => BTreeMap::from([
                    ("out".to_owned(), output('1')),
                    ("dev".to_owned(), output('2')),
                ]),
                Some(_) => BTreeMap::new(),
            },
            error,
            children: ChildCounts {
                built: 3,
                reused: 1,
                substituted: 0,
                failed: 0,
                in_place: 2,
                in_place_reasons: BTreeMap::from([("link".to_owned(), 2)]),
                not_shared_reasons: BTreeMap::from([("stand-in:lto".to_owned(), 1)]),
                undeclared_inputs: BTreeMap::new(),
            },
            wall: std::time::Duration::from_micros(1_234_567),
            started: None,
        }
    }

    #[test]
    fn json_has_the_documented_form() {
        let outcomes = [outcome(BuildStatus::Built, None)];
        let result = BuildJson::new(&StoreDir::default(), &request(names(&["out"])), &outcomes);
        assert_eq!(
            to_json(&[result]),
            r#"[
  {
    "drvPath": "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x.drv",
    "outputs": {
      "out": "/nix/store/1mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x"
    },
    "status": "built",
    "children": {
      "built": 3,
      "reused": 1,
      "substituted": 0,
      "inPlace": 2
    },
    "inPlaceReasons": {
      "link": 2
    },
    "notSharedReasons": {
      "stand-in:lto": 1
    },
    "undeclaredInputs": {},
    "wallSeconds": 1.235
  }
]
"#
        );
    }

    #[test]
    fn json_of_a_failure_has_its_error_and_no_outputs() {
        let error = BuildError::NoSuchOutput {
            drv: "x.drv".into(),
            output: "doc".into(),
        };
        let outcomes = [outcome(BuildStatus::MiscFailure, Some(error))];
        let result = BuildJson::new(&StoreDir::default(), &request(OutputsSpec::All), &outcomes);
        assert_eq!(result.status, "failed");
        assert!(result.outputs.is_empty());
        assert_eq!(
            result.error.as_deref(),
            Some("derivation `x.drv` does not have output `doc`")
        );
    }

    #[test]
    fn a_derivation_that_is_asked_for_twice_is_reported_once() {
        let mut all = Vec::new();
        for outputs in [names(&["out"]), names(&["dev"])] {
            add_request(&mut all, request(outputs).to_derived_path());
        }
        assert_eq!(all, [request(names(&["dev", "out"]))]);
        add_request(&mut all, request(OutputsSpec::All).to_derived_path());
        assert_eq!(all, [request(OutputsSpec::All)]);
    }
}
