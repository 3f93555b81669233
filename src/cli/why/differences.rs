//! What differs between two children: between their manifests and inputs.

use std::collections::{BTreeMap, BTreeSet};

use bstr::ByteSlice;
use serde::Serialize;
use shim_core::manifest::{Entry, Manifest};
use store_types::{Derivation, StoreDir};

/// Command lines longer than this are compared as sets of words.
const WORDS_MAX: usize = 4096;

/// What kind of thing differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// The program that is run.
    Tool,
    /// A word of the command line.
    Argument,
    /// A variable of the environment.
    Variable,
    /// The working directory.
    Directory,
    /// A terminal that standard output or standard error is.
    Terminal,
    /// A local file, directory or symlink.
    Input,
    /// A store path that the call may look into.
    StorePath,
    /// Droste's own part.
    Runner,
}

impl Kind {
    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Argument => "argument",
            Self::Variable => "variable",
            Self::Directory => "directory",
            Self::Terminal => "terminal",
            Self::Input => "input",
            Self::StorePath => "store path",
            Self::Runner => "runner",
        }
    }
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Of what kind of thing.
    pub kind: Kind,
    /// Of which, if there are several: a variable's name, an input's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it was; `None` if it was not there.
    pub before: Option<String>,
    /// What it is; `None` if it is not there.
    pub after: Option<String>,
}

/// A child, as its derivation says.
pub struct Described {
    /// The derivation.
    pub drv: Derivation,
    /// Its manifest.
    pub manifest: Manifest,
}

/// All that differs, in the order of [`Kind`].
pub fn differences(dir: &StoreDir, before: &Described, after: &Described) -> Vec<Difference> {
    let mut all = Vec::new();
    let (old, new) = (&before.manifest, &after.manifest);
    let mut scalar = |kind, name: Option<&str>, before: Option<String>, after: Option<String>| {
        if before != after {
            all.push(Difference {
                kind,
                name: name.map(str::to_owned),
                before,
                after,
            });
        }
    };
    let text = |bytes: &[u8]| Some(bytes.to_str_lossy().into_owned());
    scalar(Kind::Tool, None, text(&old.exe), text(&new.exe));
    scalar(Kind::Directory, None, text(&old.cwd), text(&new.cwd));
    for (name, old, new) in [
        ("stdout", old.stdout_tty, new.stdout_tty),
        ("stderr", old.stderr_tty, new.stderr_tty),
    ] {
        let size = |tty: Option<shim_core::protocol::Window>| {
            tty.map(|tty| format!("{} × {}", tty.columns, tty.rows))
        };
        scalar(Kind::Terminal, Some(name), size(old), size(new));
    }
    let runner = |child: &Described| Some(child.drv.builder.to_string());
    scalar(Kind::Runner, None, runner(before), runner(after));
    let mut named = |kind, before: BTreeMap<String, String>, after: BTreeMap<String, String>| {
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for name in names {
            let (before, after) = (before.get(name).cloned(), after.get(name).cloned());
            scalar(kind, Some(name), before, after);
        }
    };
    named(Kind::Variable, variables(old), variables(new));
    named(Kind::Input, inputs(old), inputs(new));
    all.extend(arguments(&old.argv, &new.argv));
    all.extend(store_paths(dir, before, after));
    all.sort_by_key(|difference| difference.kind);
    all
}

fn variables(manifest: &Manifest) -> BTreeMap<String, String> {
    manifest
        .env
        .iter()
        .filter_map(|entry| entry.split_once_str("="))
        .map(|(name, value)| (lossy(name), lossy(value)))
        .collect()
}

fn lossy(bytes: &[u8]) -> String {
    bytes.to_str_lossy().into_owned()
}

/// What lies where: of a file the store path that holds its content, which names it.
fn inputs(manifest: &Manifest) -> BTreeMap<String, String> {
    manifest
        .layout
        .iter()
        .map(|entry| match entry {
            Entry::Directory { path } => (path, "a directory".to_owned()),
            Entry::Link { path, target } => (path, format!("-> {}", lossy(target))),
            Entry::File {
                path,
                source,
                executable,
                mtime_seconds,
            } => {
                let mode = if *executable { ", executable" } else { "" };
                (path, format!("{}, of {mtime_seconds}{mode}", lossy(source)))
            }
            Entry::Bind { path, source } => (path, lossy(source)),
        })
        .map(|(path, what)| (lossy(path), what))
        .collect()
}

/// The words that went and came. Words that are next to each other and have the same
/// beginning are one difference.
fn arguments(before: &[Vec<u8>], after: &[Vec<u8>]) -> Vec<Difference> {
    let difference = |before: Option<&Vec<u8>>, after: Option<&Vec<u8>>| Difference {
        kind: Kind::Argument,
        name: None,
        before: before.map(|word| lossy(word)),
        after: after.map(|word| lossy(word)),
    };
    let kept = match before.len().max(after.len()) <= WORDS_MAX {
        true => common_words(before, after),
        false => Vec::new(),
    };
    let mut all = Vec::new();
    let (mut old, mut new) = (0, 0);
    for (old_end, new_end) in kept.into_iter().chain([(before.len(), after.len())]) {
        let (gone, come) = (&before[old..old_end], &after[new..new_end]);
        for index in 0..gone.len().max(come.len()) {
            all.push(difference(gone.get(index), come.get(index)));
        }
        (old, new) = (old_end + 1, new_end + 1);
    }
    all.retain(|difference| difference.before != difference.after);
    all
}

/// The places of a longest sequence of words that both have.
fn common_words(before: &[Vec<u8>], after: &[Vec<u8>]) -> Vec<(usize, usize)> {
    let width = after.len() + 1;
    // Lengths of the longest common sequence of what begins at each pair of places.
    let mut lengths = vec![0_u32; (before.len() + 1) * width];
    for old in (0..before.len()).rev() {
        for new in (0..after.len()).rev() {
            lengths[old * width + new] = if before[old] == after[new] {
                lengths[(old + 1) * width + new + 1] + 1
            } else {
                lengths[(old + 1) * width + new].max(lengths[old * width + new + 1])
            };
        }
    }
    let mut common = Vec::new();
    let (mut old, mut new) = (0, 0);
    while old < before.len() && new < after.len() {
        if before[old] == after[new] {
            common.push((old, new));
            (old, new) = (old + 1, new + 1);
        } else if lengths[(old + 1) * width + new] >= lengths[old * width + new + 1] {
            old += 1;
        } else {
            new += 1;
        }
    }
    common
}

/// The store paths of which only one has each; those that hold local files are told as such.
fn store_paths(dir: &StoreDir, before: &Described, after: &Described) -> Vec<Difference> {
    let of = |child: &Described| -> BTreeSet<String> {
        let sources: BTreeSet<&[u8]> = child
            .manifest
            .layout
            .iter()
            .filter_map(|entry| match entry {
                Entry::File { source, .. } | Entry::Bind { source, .. } => Some(&**source),
                _ => None,
            })
            .collect();
        child
            .drv
            .input_srcs
            .iter()
            .map(|path| dir.display(path))
            .filter(|path| !sources.contains(path.as_bytes()))
            .filter(|path| path.as_bytes() != child.drv.builder.as_slice())
            .collect()
    };
    let (before, after) = (of(before), of(after));
    let gone = before.difference(&after).map(|path| (Some(path), None));
    let come = after.difference(&before).map(|path| (None, Some(path)));
    gone.chain(come)
        .map(|(before, after)| Difference {
            kind: Kind::StorePath,
            name: None,
            before: before.cloned(),
            after: after.cloned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use store_types::StorePath;

    fn child(argv: &str, env: &[&str], files: &[(&str, &str)]) -> Described {
        let words = |text: &str| {
            text.split(' ')
                .map(|word| word.as_bytes().to_vec())
                .collect()
        };
        let path = |name: &str| StorePath::from_base_name(&format!("{}-{name}", "0".repeat(32)));
        Described {
            drv: Derivation {
                input_srcs: [path("gcc").unwrap()].into(),
                builder: "/nix/store/runner".into(),
                ..Derivation::default()
            },
            manifest: Manifest {
                exe: b"/nix/store/gcc/bin/cc".to_vec(),
                argv: words(argv),
                env: env.iter().map(|entry| entry.as_bytes().to_vec()).collect(),
                cwd: b"/build".to_vec(),
                layout: files
                    .iter()
                    .map(|(path, source)| Entry::File {
                        path: path.as_bytes().to_vec(),
                        mtime_seconds: 1,
                        source: source.as_bytes().to_vec(),
                        executable: false,
                    })
                    .collect(),
                ..Manifest::default()
            },
        }
    }

    fn told(before: &Described, after: &Described) -> Vec<String> {
        differences(&StoreDir::default(), before, after)
            .into_iter()
            .map(|difference| {
                let or = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
                format!(
                    "{} {} {} {}",
                    difference.kind.name(),
                    or(difference.name),
                    or(difference.before),
                    or(difference.after)
                )
            })
            .collect()
    }

    #[test]
    fn equal_children_have_no_differences() {
        let one = || child("cc -c a.c", &["A=1"], &[("/build/a.c", "/nix/store/x")]);
        assert!(told(&one(), &one()).is_empty());
    }

    #[test]
    fn changed_and_added_and_removed_words_are_told_apart() {
        let before = child("cc -O2 -DA -c a.c -o a.o", &[], &[]);
        let cases: [(&str, &[&str]); 5] = [
            ("cc -O3 -DA -c a.c -o a.o", &["argument - -O2 -O3"]),
            ("cc -O2 -DA -g -c a.c -o a.o", &["argument - - -g"]),
            ("cc -DA -c a.c -o a.o", &["argument - -O2 -"]),
            (
                "cc -O2 -DA -c a.c",
                &["argument - -o -", "argument - a.o -"],
            ),
            (
                "cc -DA -O2 -c a.c -o a.o",
                &["argument - - -O2", "argument - -O2 -"],
            ),
        ];
        for (after, expected) in cases {
            let mut told = told(&before, &child(after, &[], &[]));
            told.sort();
            assert_eq!(told, expected, "{after}");
        }
    }

    #[test]
    fn variables_and_files_are_told_by_their_names() {
        let before = child(
            "cc",
            &["A=1", "B=2"],
            &[("/build/a.c", "1"), ("/build/b.h", "2")],
        );
        let after = child(
            "cc",
            &["A=1=1", "C=3"],
            &[("/build/a.c", "3"), ("/build/c.h", "2")],
        );
        assert_eq!(
            told(&before, &after),
            [
                "variable A 1 1=1",
                "variable B 2 -",
                "variable C - 3",
                "input /build/a.c 1, of 1 3, of 1",
                "input /build/b.h 2, of 1 -",
                "input /build/c.h - 2, of 1",
            ]
        );
    }

    #[test]
    fn other_tools_and_directories_are_told() {
        let before = child("cc", &[], &[]);
        let mut after = child("cc", &[], &[]);
        after.manifest.exe = b"/nix/store/clang/bin/cc".to_vec();
        after.manifest.cwd = b"/build/x".to_vec();
        after.drv.input_srcs.clear();
        assert_eq!(
            told(&before, &after),
            [
                "tool - /nix/store/gcc/bin/cc /nix/store/clang/bin/cc",
                "directory - /build /build/x",
                "store path - /nix/store/00000000000000000000000000000000-gcc -",
            ]
        );
    }
}
