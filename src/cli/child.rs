//! `droste child`: what compiler calls became.

use bstr::{BStr, ByteSlice};
use clap::{Args, Subcommand};
use droste_executor::child::index::Index;
use droste_executor::droste_state_dir;
use shim_core::manifest::{Entry, Manifest};
use store_local::LocalStore;
use store_types::{Derivation, DerivationJsonShape, StoreDir, StorePath};

use super::error::{CommandError, Hint};
use super::store::open_existing;
use super::{Context, exit_code, print, print_bytes};

/// How many children an ambiguous name may list.
const FOUND_MAX: u32 = 20;

/// Look at the children that compiler calls became
#[derive(Debug, Args)]
pub struct ChildArgs {
    #[command(subcommand)]
    command: ChildCommand,
}

#[derive(Debug, Subcommand)]
enum ChildCommand {
    Show(ShowArgs),
}

/// Print a child's derivation: the call, its inputs and its output
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The child's derivation, its output, or a part of the name of either, like `lapi.o`
    #[arg(value_name = "DRV|OUTPUT|PART")]
    child: String,
    /// Print the derivation's own text
    #[arg(long, conflicts_with = "json")]
    drv: bool,
    /// Print the derivation as JSON, in the form of `nix derivation show` of Nix 2.8
    #[arg(long)]
    json: bool,
}

/// A child that cannot be shown.
#[derive(Debug, thiserror::Error)]
enum ShowError {
    #[error("no child has `{0}` in the name of its derivation or output")]
    None(String),
    #[error("several children have `{text}` in their names:\n{found}")]
    Ambiguous { text: String, found: String },
    #[error("child `{0}` is remembered, but its derivation is not in the store any more")]
    Gone(String),
    #[error("derivation `{0}` is no child: it has no manifest")]
    NotAChild(String),
    #[error("the manifest of `{drv}` cannot be read")]
    Manifest {
        drv: String,
        #[source]
        source: shim_core::manifest::ManifestError,
    },
    #[error("derivation `{drv}` is malformed")]
    Malformed {
        drv: String,
        #[source]
        source: store_types::DerivationParseError,
    },
}

pub fn run(context: &Context, args: &ChildArgs) -> Result<u8, CommandError> {
    match &args.command {
        ChildCommand::Show(args) => show(context, args),
    }
}

fn show(context: &Context, args: &ShowArgs) -> Result<u8, CommandError> {
    let store = open_existing(context)?;
    let (drv_path, output) = find(&store, &args.child)?;
    let text = store.store_dir().display(&drv_path);
    if !store.is_valid(&drv_path)? {
        return Err(ShowError::Gone(text)).hint(|| "the next build that needs it makes it again");
    }
    let bytes = store.derivation_turn().text(&drv_path)?;
    if args.drv {
        print_bytes(&bytes)?;
        return Ok(exit_code::SUCCESS);
    }
    let drv =
        Derivation::parse(store.store_dir(), &bytes).map_err(|source| ShowError::Malformed {
            drv: text.clone(),
            source,
        })?;
    if args.json {
        let shape = DerivationJsonShape::Nix28;
        let mut shown = shape.print(store.store_dir(), [(&drv_path, &drv)], true)?;
        shown.push(b'\n');
        print_bytes(&shown)?;
        return Ok(exit_code::SUCCESS);
    }
    let Some(manifest) = drv.env.get(b"manifest".as_bstr()) else {
        return Err(ShowError::NotAChild(text).into());
    };
    let manifest = Manifest::parse(manifest).map_err(|source| ShowError::Manifest {
        drv: text.clone(),
        source,
    })?;
    let output = output.map(|output| store.store_dir().display(&output));
    print(&describe(
        store.store_dir(),
        &text,
        output.as_deref(),
        &drv,
        &manifest,
    ))?;
    Ok(exit_code::SUCCESS)
}

/// The child that is meant, and its output if it is known.
fn find(store: &LocalStore, text: &str) -> Result<(StorePath, Option<StorePath>), CommandError> {
    let part = text
        .strip_prefix(store.store_dir().as_str())
        .or_else(|| text.strip_prefix(store.physical_dir().to_str()?))
        .map_or(text, |inside| inside.trim_start_matches('/'));
    // What follows the store path, as in `…-lapi.o/files`, is of no importance.
    let part = part.split('/').next().unwrap_or(part);
    let index_file = droste_state_dir(store.config()).join("children.sqlite");
    let mut found = match index_file.exists() {
        true => Index::open(&index_file)?.find(part, FOUND_MAX)?,
        false => Vec::new(),
    };
    if let Some(exact) = found
        .iter()
        .position(|(drv, output)| drv.base_name() == part || output.base_name() == part)
    {
        found = vec![found.swap_remove(exact)];
    }
    if found.len() > 1 {
        let list =
            |(drv, _): &(StorePath, StorePath)| format!("  {}", store.store_dir().display(drv));
        let error = ShowError::Ambiguous {
            text: text.to_owned(),
            found: found.iter().map(list).collect::<Vec<_>>().join("\n"),
        };
        return Err(error).hint(|| "name one of them");
    }
    if let Some((drv, output)) = found.pop() {
        return Ok((drv, Some(output)));
    }
    // The index may be lost, the derivation still there.
    match StorePath::from_base_name(part) {
        Ok(path) if path.is_derivation() && store.is_valid(&path)? => Ok((path, None)),
        _ => Err(ShowError::None(text.to_owned()))
            .hint(|| "a child is remembered once a compile was built with `--memo on`"),
    }
}

/// The child for people.
fn describe(
    dir: &StoreDir,
    drv_path: &str,
    output: Option<&str>,
    drv: &Derivation,
    manifest: &Manifest,
) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        text.push_str(&format!("{name:<11} {value}\n"));
    };
    line("derivation", &drv_path);
    line("output", &output.unwrap_or("not known"));
    line("system", &drv.system);
    line("runner", &drv.builder);
    line("program", &BStr::new(&manifest.exe));
    let words: Vec<String> = manifest.argv.iter().map(|word| quoted(word)).collect();
    line("command", &words.join(" "));
    line("directory", &BStr::new(&manifest.cwd));
    for (name, window) in [
        ("stdout", manifest.stdout_tty),
        ("stderr", manifest.stderr_tty),
    ] {
        // A terminal without a size has 0 of both.
        match window {
            None => {}
            Some(window) if window.rows == 0 && window.columns == 0 => line(name, &"a terminal"),
            Some(window) => line(
                name,
                &format!("a terminal of {} × {}", window.columns, window.rows),
            ),
        }
    }
    text.push_str("environment\n");
    for entry in &manifest.env {
        text.push_str(&format!("  {}\n", quoted(entry)));
    }
    text.push_str("files\n");
    for entry in &manifest.layout {
        text.push_str(&match entry {
            Entry::Directory { path } => format!("  {}/\n", BStr::new(path)),
            Entry::Link { path, target } => {
                format!("  {} -> {}\n", BStr::new(path), BStr::new(target))
            }
            Entry::File { path, source, .. } => {
                format!("  {} = {}\n", BStr::new(path), BStr::new(source))
            }
            Entry::Bind { path, source } => {
                format!("  {} => {}\n", BStr::new(path), BStr::new(source))
            }
        });
    }
    text.push_str("store paths\n");
    for input in &drv.input_srcs {
        text.push_str(&format!("  {}\n", dir.display(input)));
    }
    text
}

/// A word as a shell takes it.
fn quoted(word: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-+=./,:@%^~".contains(byte);
    let text = word.to_str_lossy();
    if !word.is_empty() && word.iter().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use store_types::{ContentAddressMethod, DerivationOutput, HashAlgorithm};

    fn child() -> (Derivation, Manifest) {
        let path =
            |name: &str| StorePath::from_base_name(&format!("{}-{name}", "0".repeat(32))).unwrap();
        let drv = Derivation {
            outputs: [(
                "out".to_owned(),
                DerivationOutput::Floating {
                    method: ContentAddressMethod::Nar,
                    algorithm: HashAlgorithm::Sha256,
                },
            )]
            .into(),
            input_srcs: [path("gcc"), path("a.c")].into(),
            system: "x86_64-linux".into(),
            builder: "/nix/store/runner".into(),
            ..Derivation::default()
        };
        let manifest = Manifest {
            exe: b"/nix/store/gcc/bin/cc".to_vec(),
            argv: vec![
                b"cc".to_vec(),
                b"-DX=\"a b\"".to_vec(),
                b"-c".to_vec(),
                b"a.c".to_vec(),
            ],
            env: vec![b"LANG=C".to_vec()],
            cwd: b"/build".to_vec(),
            stdout_tty: None,
            stderr_tty: None,
            layout: vec![
                Entry::Directory {
                    path: b"/build/d".to_vec(),
                },
                Entry::File {
                    path: b"/build/a.c".to_vec(),
                    mtime_seconds: 1,
                    source: b"/nix/store/a.c".to_vec(),
                    executable: false,
                },
            ],
        };
        (drv, manifest)
    }

    #[test]
    fn a_child_is_shown_as_a_call_with_its_inputs() {
        let (drv, manifest) = child();
        let shown = describe(
            &StoreDir::default(),
            "/nix/store/x.drv",
            Some("/nix/store/x"),
            &drv,
            &manifest,
        );
        assert_eq!(
            shown,
            "derivation  /nix/store/x.drv\n\
             output      /nix/store/x\n\
             system      x86_64-linux\n\
             runner      /nix/store/runner\n\
             program     /nix/store/gcc/bin/cc\n\
             command     cc '-DX=\"a b\"' -c a.c\n\
             directory   /build\n\
             environment\n  LANG=C\n\
             files\n  /build/d/\n  /build/a.c = /nix/store/a.c\n\
             store paths\n  \
             /nix/store/00000000000000000000000000000000-a.c\n  \
             /nix/store/00000000000000000000000000000000-gcc\n"
        );
    }

    #[test]
    fn words_are_quoted_for_a_shell_where_that_is_needed() {
        assert_eq!(quoted(b"-O2"), "-O2");
        assert_eq!(quoted(b""), "''");
        assert_eq!(quoted(b"it's"), r"'it'\''s'");
    }
}
