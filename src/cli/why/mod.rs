//! `droste why`: why a call had to be run.

mod differences;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bstr::ByteSlice;
use clap::Args;
use droste_executor::child::index::{Child, Index};
use droste_executor::droste_state_dir;
use serde::Serialize;
use shim_core::manifest::Manifest;
use store_local::{LocalError, LocalStore};
use store_types::StorePath;

use self::differences::{Described, Difference, differences};
use super::error::{CommandError, Hint};
use super::store::open_existing;
use super::{Context, exit_code, print};

/// How many earlier children are compared at most, the newest of those that left the same
/// file first.
const COMPARED_MAX: usize = 256;

/// Tell why a compiler call was not in memory: the nearest earlier one, and what differs
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// A file that the call left, like `lapi.o` or `src/lapi.o`, the newest of that name;
    /// or a child: its derivation, its output, or a part of the name of either
    #[arg(value_name = "FILE|CHILD")]
    what: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A question without an answer.
#[derive(Debug, thiserror::Error)]
enum WhyError {
    #[error("no call that is remembered left `{0}`, and no child has it in its name")]
    None(String),
    #[error("child `{0}` is remembered, but its derivation is not in the store any more")]
    Gone(String),
    #[error("derivation `{0}` is no child that can be read")]
    NotAChild(String),
}

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// The child's derivation.
    child: String,
    /// Its output.
    output: String,
    /// The file that was meant, or another that it left.
    file: Option<String>,
    /// The derivation of the nearest earlier child.
    nearest: Option<String>,
    differences: Vec<Difference>,
}

pub fn run(context: &Context, args: &WhyArgs) -> Result<u8, CommandError> {
    let store = open_existing(context)?;
    let index_file = droste_state_dir(store.config()).join("children.sqlite");
    let unknown = || {
        Err(WhyError::None(args.what.clone())).hint(|| {
            "only calls that became children are remembered; `droste build -v` and `droste run -v` tell of the others"
        })
    };
    if !index_file.exists() {
        return unknown();
    }
    let index = Index::open(&index_file)?;
    let Some((drv_path, child)) = find(&store, &index, &args.what)? else {
        return unknown();
    };
    let answer = explain(&store, &index, &args.what, &drv_path, &child)?;
    match args.json {
        true => print(&format!("{:#}\n", serde_json::json!(answer)))?,
        false => print(&describe(&answer))?,
    }
    Ok(exit_code::SUCCESS)
}

/// The newest child that left this file, the one with its content first if it is there; or that is
/// named so itself.
fn find(
    store: &LocalStore,
    index: &Index,
    what: &str,
) -> Result<Option<(StorePath, Child)>, CommandError> {
    let part = what
        .strip_prefix(store.store_dir().as_str())
        .or_else(|| what.strip_prefix(store.physical_dir().to_str()?))
        .map(|inside| inside.trim_start_matches('/'));
    if part.is_none() {
        let left = |_: &StorePath, child: &Child| left_as(child, what).is_some();
        let all = index.select(left)?;
        let is_file = Path::new(what).metadata().is_ok_and(|file| file.is_file());
        let content = is_file.then(|| std::fs::read(what).ok()).flatten();
        let has_content = |(_, child): &&(StorePath, Child)| {
            let left = left_as(child, what).zip(content.as_ref());
            left.is_some_and(|(path, content)| {
                let inside = Path::new(shim_core::manifest::FILES).join(path);
                let file = store.physical_path(&child.output).join(inside);
                std::fs::read(file).is_ok_and(|bytes| bytes == *content)
            })
        };
        if let Some(found) = all.iter().find(has_content).or(all.first()) {
            return Ok(Some(found.clone()));
        }
        if what.contains('/') || what.is_empty() {
            return Ok(None);
        }
    }
    let part = part.unwrap_or(what);
    let part = part.split('/').next().unwrap_or(part);
    if part.is_empty() {
        return Ok(None);
    }
    let named = |drv: &StorePath, child: &Child| {
        drv.base_name().contains(part) || child.output.base_name().contains(part)
    };
    Ok(index.select(named)?.into_iter().next())
}

/// The file that a child left and that is meant by `what`: one of that path, or of a longer one; or,
/// of a child that was moved to `/build/source`, one of which `what` has the rest of the path.
fn left_as<'c>(child: &'c Child, what: &str) -> Option<&'c OsStr> {
    let suffix = file_suffix(what);
    let whole = std::path::absolute(what).ok();
    let is_meant = |path: &[u8]| {
        let moved = path.strip_prefix(b"build/source/");
        let whole = whole.as_ref().map(|whole| whole.as_os_str().as_bytes());
        (!suffix.is_empty() && is_named(path, suffix.as_bytes()))
            || moved
                .zip(whole)
                .is_some_and(|(rest, whole)| is_named(whole, rest))
    };
    let mut files = child.result.files.iter();
    let file = files.find(|file| is_meant(&file.path))?;
    Some(OsStr::from_bytes(&file.path))
}

/// A path without what says only where to begin.
fn file_suffix(path: &str) -> &str {
    let mut path = path;
    loop {
        let shorter = path.trim_start_matches('/');
        let shorter = shorter.strip_prefix("./").unwrap_or(shorter);
        let shorter = shorter.strip_prefix("../").unwrap_or(shorter);
        if shorter == path {
            return path;
        }
        path = shorter;
    }
}

/// Whether a path (without a slash before it) is this one, or ends with it as with a path.
fn is_named(path: &[u8], name: &[u8]) -> bool {
    path.strip_suffix(name)
        .is_some_and(|before| before.is_empty() || before.ends_with(b"/"))
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit_once_str("/").map_or(path, |(_, name)| name)
}

fn explain(
    store: &LocalStore,
    index: &Index,
    what: &str,
    drv_path: &StorePath,
    child: &Child,
) -> Result<Answer, CommandError> {
    let dir = store.store_dir();
    let described = read(store, drv_path)?;
    let mut files = child.result.files.iter().map(|file| file.path.as_slice());
    let meant = left_as(child, what)
        .map(OsStr::as_bytes)
        .or_else(|| files.next());
    let is_older = {
        // The newest come first: those behind this one are older.
        let mut all = index
            .select(|_, _| true)?
            .into_iter()
            .map(|(drv, _)| drv)
            .skip_while(|drv| drv != drv_path);
        all.next();
        all.collect::<std::collections::HashSet<_>>()
    };
    let leaves = |wanted: &dyn Fn(&[u8]) -> bool| {
        index.select(|drv, child| {
            is_older.contains(drv) && child.result.files.iter().any(|file| wanted(&file.path))
        })
    };
    let candidates = match meant {
        None => index.select(|drv, _| is_older.contains(drv) && drv.name() == drv_path.name())?,
        Some(meant) => {
            let same = leaves(&|path: &[u8]| path == meant)?;
            match same.is_empty() {
                false => same,
                // The directory may be another one.
                true => leaves(&|path: &[u8]| base_name(path) == base_name(meant))?,
            }
        }
    };
    let mut nearest: Option<(StorePath, Vec<Difference>)> = None;
    for (drv, _) in candidates.into_iter().take(COMPARED_MAX) {
        // One that was collected tells nothing.
        let Ok(candidate) = read(store, &drv) else {
            continue;
        };
        let found = differences(dir, &candidate, &described);
        if nearest
            .as_ref()
            .is_none_or(|(_, best)| found.len() < best.len())
        {
            nearest = Some((drv, found));
        }
    }
    let (nearest, differences) = nearest.unzip();
    Ok(Answer {
        child: dir.display(drv_path),
        output: dir.display(&child.output),
        file: meant.map(|path| format!("/{}", path.to_str_lossy())),
        nearest: nearest.map(|drv| dir.display(&drv)),
        differences: differences.unwrap_or_default(),
    })
}

/// A child as its derivation in the store says.
fn read(store: &LocalStore, drv_path: &StorePath) -> Result<Described, CommandError> {
    let text = store.store_dir().display(drv_path);
    if !store.is_valid(drv_path)? {
        return Err(WhyError::Gone(text)).hint(|| "the next build that needs it makes it again");
    }
    let drv = match store.read_derivation(drv_path) {
        Ok(drv) => Some(drv),
        Err(LocalError::Derivation { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let manifest = drv.as_ref().and_then(|drv| {
        let manifest = drv.env.get(b"manifest".as_bstr())?;
        Manifest::parse(manifest).ok()
    });
    match (drv, manifest) {
        (Some(drv), Some(manifest)) => Ok(Described { drv, manifest }),
        _ => Err(WhyError::NotAChild(text).into()),
    }
}

/// The answer for people.
fn describe(answer: &Answer) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<10} {value}\n"));
    if let Some(file) = &answer.file {
        line("file", file);
    }
    line("child", &answer.child);
    let Some(nearest) = &answer.nearest else {
        line("nearest", "none: nothing of this name was built before");
        return text;
    };
    line("nearest", nearest);
    for difference in &answer.differences {
        let mut what = String::new();
        if let Some(name) = &difference.name {
            what.push_str(name);
            what.push_str(": ");
        }
        what.push_str(&match (&difference.before, &difference.after) {
            (Some(before), Some(after)) => format!("{before} → {after}"),
            (Some(before), None) => format!("{before} is gone"),
            (None, Some(after)) => format!("{after} is new"),
            (None, None) => String::new(),
        });
        line(difference.kind.name(), &what);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::differences::Kind;
    use super::*;

    #[test]
    fn files_are_named_by_whole_parts_of_their_paths() {
        for (name, is) in [
            ("lapi.o", true),
            ("lua/lapi.o", true),
            ("./lapi.o", true),
            ("../lua/lapi.o", true),
            ("/build/lua/lapi.o", true),
            ("api.o", false),
            ("a/lapi.o", false),
        ] {
            let suffix = file_suffix(name);
            assert_eq!(
                is_named(b"build/lua/lapi.o", suffix.as_bytes()),
                is,
                "{name}"
            );
        }
    }

    #[test]
    fn an_answer_is_told_with_what_came_and_went() {
        let difference = |kind, name: Option<&str>, before: Option<&str>, after: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            Difference {
                kind,
                name: owned(name),
                before: owned(before),
                after: owned(after),
            }
        };
        let mut answer = Answer {
            child: "/nix/store/b.drv".into(),
            output: "/nix/store/b".into(),
            file: Some("/build/a.o".into()),
            nearest: Some("/nix/store/a.drv".into()),
            differences: vec![
                difference(Kind::Argument, None, Some("-O2"), Some("-O3")),
                difference(Kind::Variable, Some("LANG"), Some("C"), None),
                difference(Kind::Input, Some("/build/a.h"), None, Some("x")),
            ],
        };
        assert_eq!(
            describe(&answer),
            "file       /build/a.o\n\
             child      /nix/store/b.drv\n\
             nearest    /nix/store/a.drv\n\
             argument   -O2 → -O3\n\
             variable   LANG: C is gone\n\
             input      /build/a.h: x is new\n"
        );
        answer.nearest = None;
        assert!(describe(&answer).contains("nothing of this name was built before"));
    }
}
