//! From packages to a tree that runs at its store path.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::elf::{self, Linkage};
use crate::tree::{self, Kind, io_error};
use crate::{AssembleError, Packages, Progress};

/// The longest path the tree may be seen at, in bytes: with `#!` and `/bin/sh`
/// it must fit into the 256 bytes of a script that the kernel reads.
const STORE_PATH_LEN_MAX: usize = 200;

/// What is not unpacked: documentation, translations, configuration, and
/// character sets beyond those libc has built in.
const NOT_UNPACKED: &[&str] = &[
    "./usr/share/*",
    "./usr/games/*",
    "./usr/local/*",
    "./usr/lib/debug/*",
    "./usr/lib/locale/*",
    "./usr/lib/systemd/*",
    "./lib/systemd/*",
    "*/gconv/*",
    "./etc/*",
    "./var/*",
];

/// Directories that may be left empty by [`NOT_UNPACKED`].
const PRUNED_DIRS: &[&str] = &[
    "etc",
    "var",
    "usr/share",
    "usr/games",
    "usr/local",
    "usr/lib/debug",
    "usr/lib/locale",
    "usr/lib/systemd",
];

/// Programs nobody's build runs, by a part of their names: large, or of use
/// only with what was left out.
const PRUNED_PROGRAMS: &[&str] = &[
    "lto-dump", "gprofng", "gp-", "c89-gcc", "c99-gcc", "bashbug",
];

/// The sanitizers' archives beside the compiler, whose shared halves are left
/// out too.
const PRUNED_COMPILER_LIBRARIES: &[&str] =
    &["libasan", "liblsan", "libtsan", "libubsan", "libhwasan"];

/// The compilers' names in `usr/bin` and the names their wrappers get.
const COMPILERS: &[(&str, &[&str])] = &[
    ("gcc", &["cc", "gcc"]),
    ("g++", &["c++", "g++"]),
    ("cpp", &["cpp"]),
];

/// Helpers that look for their own directory by the name they are called, so
/// that a link to them would not do.
const CALLED_BY_PATH: &[&str] = &["gcc-ar", "gcc-nm", "gcc-ranlib"];

/// What a finished tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How many packages went into it.
    pub packages: usize,
    /// How many ELF files were given another interpreter or search path.
    pub patched: usize,
    /// The bytes of all files.
    pub size_bytes: u64,
}

/// Where things are in the tree, relative to it.
struct Layout {
    /// The dynamic linker's file.
    loader: PathBuf,
    /// The directory of libc and all shared libraries.
    libraries: PathBuf,
    /// `x86_64-linux-gnu` and its like.
    triplet: String,
}

impl Packages {
    /// Makes the tree in `dest`, to be seen at `store_path`.
    ///
    /// `dest` must not exist; its parent must. `store_path` is absolute and of
    /// a store path's characters only. On an error `dest` is left half made.
    /// Needs `dpkg-deb` and GNU `tar`, and no network.
    pub fn assemble(
        &self,
        dest: &Path,
        store_path: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Summary, AssembleError> {
        check_store_path(store_path)?;
        self.unpack(dest, progress)?;
        prune(dest)?;
        tree::settle_links(dest)?;
        let layout = Layout::find(dest)?;
        let patched = relocate(dest, store_path, &layout, progress)?;
        check_needed(dest, &layout)?;
        install_programs(dest, store_path, &layout)?;
        self.write_list(dest)?;
        let mut size_bytes = 0;
        for (path, _) in tree::walk(dest)? {
            let path = dest.join(path);
            let metadata = fs::symlink_metadata(&path).map_err(io_error("read", &path))?;
            size_bytes += metadata.len();
        }
        Ok(Summary {
            packages: self.packages.len(),
            patched,
            size_bytes,
        })
    }

    /// Unpacks everything into one `usr`, whether a package's release still
    /// has `/bin` and `/lib` or not.
    fn unpack(
        &self,
        dest: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), AssembleError> {
        for dir in ["", "usr", "usr/bin", "usr/lib", "usr/lib64"] {
            let path = dest.join(dir);
            fs::create_dir(&path).map_err(io_error("create", &path))?;
        }
        for (link, target) in [
            ("bin", "usr/bin"),
            ("sbin", "usr/bin"),
            ("usr/sbin", "bin"),
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
        ] {
            let path = dest.join(link);
            symlink(target, &path).map_err(io_error("create", &path))?;
        }
        let total = self.packages.len();
        for (done, package) in self.packages.iter().enumerate() {
            progress(Progress::Unpacking {
                package: &package.name,
                done,
                total,
            });
            tree::unpack(&self.file(package), dest, NOT_UNPACKED)?;
        }
        progress(Progress::Unpacking {
            package: "",
            done: total,
            total,
        });
        Ok(())
    }

    fn write_list(&self, dest: &Path) -> Result<(), AssembleError> {
        let dir = dest.join("share/droste");
        fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
        let lines = self
            .packages
            .iter()
            .map(|package| format!("{} {}\n", package.name, package.version));
        let path = dir.join("packages");
        fs::write(&path, lines.collect::<String>()).map_err(io_error("write", &path))
    }
}

fn check_store_path(path: &str) -> Result<(), AssembleError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/+-._?=".contains(&byte);
    let reason = if !path.starts_with('/') || path.ends_with('/') {
        "it is not absolute, or ends in `/`"
    } else if path.len() > STORE_PATH_LEN_MAX {
        "it has more than 200 characters"
    } else if !path.bytes().all(plain) {
        "it has a character that a store path cannot have"
    } else {
        return Ok(());
    };
    Err(AssembleError::StorePath {
        path: path.to_owned(),
        reason,
    })
}

fn prune(dest: &Path) -> Result<(), AssembleError> {
    for dir in PRUNED_DIRS {
        tree::remove(&dest.join(dir))?;
    }
    // Of use while unpacking only; `bin` becomes a directory of its own.
    for link in ["bin", "sbin", "usr/sbin"] {
        tree::remove(&dest.join(link))?;
    }
    for (path, _) in tree::walk(dest)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        let unwanted = if path.starts_with("usr/bin") {
            has(PRUNED_PROGRAMS)
        } else {
            path.starts_with("usr/lib/gcc") && has(PRUNED_COMPILER_LIBRARIES)
        };
        if unwanted {
            tree::remove(&dest.join(&path))?;
        }
    }
    Ok(())
}

impl Layout {
    fn find(dest: &Path) -> Result<Self, AssembleError> {
        let missing = |path: &str| AssembleError::Missing { path: path.into() };
        let all = tree::walk(dest)?;
        let libc = all
            .iter()
            .map(|(path, _)| path)
            .find(|path| path.ends_with("libc.so.6"))
            .ok_or_else(|| missing("usr/lib/*/libc.so.6"))?;
        let libraries = libc.parent().unwrap_or(Path::new("usr/lib")).to_owned();
        let triplet = libraries.file_name().unwrap_or_default();
        let triplet = triplet.to_string_lossy().into_owned();
        // The path every Debian program has for its interpreter.
        let bash = Path::new("usr/bin/bash");
        let interpreter = read_linkage(dest, bash)?
            .interpreter
            .ok_or_else(|| missing("usr/bin/bash's interpreter"))?;
        let inside = dest.canonicalize().map_err(io_error("open", dest))?;
        let loader = inside
            .join(interpreter.trim_start_matches('/'))
            .canonicalize()
            .ok()
            .and_then(|path| Some(path.strip_prefix(&inside).ok()?.to_owned()))
            .ok_or_else(|| missing(&interpreter))?;
        Ok(Self {
            loader,
            libraries,
            triplet,
        })
    }
}

fn read(dest: &Path, file: &Path) -> Result<Vec<u8>, AssembleError> {
    let path = dest.join(file);
    fs::read(&path).map_err(io_error("read", &path))
}

fn read_linkage(dest: &Path, file: &Path) -> Result<Linkage, AssembleError> {
    elf::linkage(&read(dest, file)?).map_err(|source| AssembleError::Elf {
        path: file.to_owned(),
        source,
    })
}

/// Whether this file can be loaded by the dynamic linker, judged by its name
/// (objects and archives are none of its business) and first bytes.
fn is_loadable(dest: &Path, path: &Path) -> Result<bool, AssembleError> {
    let extension = path.extension().unwrap_or_default();
    if extension == "o" || extension == "a" || extension == "h" {
        return Ok(false);
    }
    Ok(elf::is_elf(&tree::head(&dest.join(path), 4)?))
}

/// Gives programs the tree's dynamic linker and library directory, and scripts
/// the tree's shell.
fn relocate(
    dest: &Path,
    store_path: &str,
    layout: &Layout,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<usize, AssembleError> {
    let at = |path: &Path| format!("{store_path}/{}", path.display());
    let c_string = |text: String| CString::new(text).expect("a store path has no zero byte");
    let loader = c_string(at(&layout.loader));
    let search_path = c_string(at(&layout.libraries));
    let mut to_patch = Vec::new();
    for (path, kind) in tree::walk(dest)? {
        if kind == Kind::Link {
            continue;
        }
        if is_loadable(dest, &path)? {
            let linkage = read_linkage(dest, &path)?;
            if needs_search_path(&linkage, layout) {
                to_patch.push((path, linkage));
            }
        } else if path.starts_with("usr/bin") {
            relocate_script(&dest.join(&path), store_path)?;
        }
    }
    let total = to_patch.len();
    for (done, (path, linkage)) in to_patch.into_iter().enumerate() {
        progress(Progress::Patching { done, total });
        let interpreter = linkage.interpreter.is_some().then_some(loader.as_c_str());
        let patched =
            elf::relocate(read(dest, &path)?, interpreter, &search_path).map_err(|source| {
                AssembleError::Elf {
                    path: path.clone(),
                    source,
                }
            })?;
        tree::write_executable(&dest.join(&path), &patched)?;
    }
    progress(Progress::Patching { done: total, total });
    Ok(total)
}

/// A library that needs only libc and the dynamic linker finds them loaded;
/// libc itself, which has an interpreter only to print its version, stays as
/// it is.
fn needs_search_path(linkage: &Linkage, layout: &Layout) -> bool {
    let is_loader = |name: &String| layout.loader.ends_with(name);
    let only_loader = linkage.needed.iter().all(is_loader);
    match linkage.interpreter {
        Some(_) => !only_loader,
        None => linkage
            .needed
            .iter()
            .any(|name| name != "libc.so.6" && !is_loader(name)),
    }
}

/// Gives a shell script the tree's shell; removes a script of a language that
/// is not in the tree.
fn relocate_script(path: &Path, store_path: &str) -> Result<(), AssembleError> {
    let content = fs::read(path).map_err(io_error("read", path))?;
    let Some(line) = content.strip_prefix(b"#!") else {
        return Ok(());
    };
    let end = line.iter().position(|byte| *byte == b'\n');
    let (line, rest) = line.split_at(end.unwrap_or(line.len()));
    let line = String::from_utf8_lossy(line);
    let (interpreter, arguments) = match line.trim().split_once(' ') {
        Some((interpreter, arguments)) => (interpreter, format!(" {}", arguments.trim())),
        None => (line.trim(), String::new()),
    };
    if !matches!(interpreter, "/bin/sh" | "/bin/bash" | "/usr/bin/bash") {
        return tree::remove(path);
    }
    let name = interpreter.rsplit('/').next().unwrap_or("sh");
    let mut script = format!("#!{store_path}/bin/{name}{arguments}").into_bytes();
    script.extend_from_slice(rest);
    tree::write_executable(path, &script)
}

/// Fails if a file needs a library that is not in the tree's one directory of
/// libraries.
fn check_needed(dest: &Path, layout: &Layout) -> Result<(), AssembleError> {
    let mut missing = BTreeSet::new();
    for (path, kind) in tree::walk(dest)? {
        if kind == Kind::Link || !is_loadable(dest, &path)? {
            continue;
        }
        for library in read_linkage(dest, &path)?.needed {
            if !dest.join(&layout.libraries).join(&library).exists() {
                missing.insert((path.display().to_string(), library));
            }
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(AssembleError::Unresolved {
            missing: missing.into_iter().collect(),
        }),
    }
}

/// Fills `bin`: wrappers, and links to every other program.
fn install_programs(dest: &Path, store_path: &str, layout: &Layout) -> Result<(), AssembleError> {
    let bin = dest.join("bin");
    fs::create_dir(&bin).map_err(io_error("create", &bin))?;
    for (name, program) in [("sh", "bash"), ("awk", "mawk")] {
        let path = dest.join("usr/bin").join(name);
        tree::remove(&path)?;
        symlink(program, &path).map_err(io_error("create", &path))?;
    }
    let specs = dest.join("usr/lib/droste");
    fs::create_dir(&specs).map_err(io_error("create", &specs))?;
    let specs = specs.join("link.specs");
    fs::write(&specs, link_specs(store_path, layout)).map_err(io_error("write", &specs))?;

    let script = |arguments: &str, program: &str| {
        format!("#!{store_path}/bin/sh\nexec {store_path}/usr/bin/{program} {arguments} \"$@\"\n")
    };
    // `-B` is where the driver finds `as` and `ld` whatever PATH is.
    let compiler_arguments = format!(
        "--sysroot={store_path} -B{store_path}/usr/bin/ -specs={store_path}/usr/lib/droste/link.specs"
    );
    for (compiler, names) in COMPILERS {
        let program = unwrap(dest, compiler)?;
        for name in *names {
            let content = script(&compiler_arguments, &program);
            tree::write_executable(&bin.join(name), content.as_bytes())?;
        }
    }
    for helper in CALLED_BY_PATH {
        let program = unwrap(dest, helper)?;
        let content = script("", &program).replace("  \"$@\"", " \"$@\"");
        tree::write_executable(&bin.join(helper), content.as_bytes())?;
    }
    // Make runs `/bin/sh` unless told otherwise, whatever PATH is; makefiles
    // that name a shell name one that is not there.
    let program = unwrap(dest, "make")?;
    let content = script(&format!("SHELL={store_path}/bin/sh"), &program);
    tree::write_executable(&bin.join("make"), content.as_bytes())?;

    let prefix = format!("{}-", layout.triplet);
    let programs = dest.join("usr/bin");
    for entry in fs::read_dir(&programs).map_err(io_error("list", &programs))? {
        let entry = entry.map_err(io_error("list", &programs))?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text.ends_with(".unwrapped") || text.starts_with(&prefix) {
            continue;
        }
        if fs::symlink_metadata(bin.join(&name)).is_err() {
            let link = Path::new("bin").join(&name);
            tree::relative_link(dest, &link, &Path::new("usr/bin").join(&name))?;
        }
    }
    Ok(())
}

/// Renames the program behind a name, through all its links, to
/// `<name>.unwrapped`, and removes every other name it has: a compiler under a
/// compiler's name is a wrapper, always.
///
/// The new name stays in `usr/bin`, because the compiler finds its parts
/// relative to where it is.
fn unwrap(dest: &Path, name: &str) -> Result<String, AssembleError> {
    let programs = dest.join("usr/bin");
    let missing = || AssembleError::Missing {
        path: format!("usr/bin/{name}"),
    };
    let real = programs.join(name).canonicalize().map_err(|_| missing())?;
    for (path, kind) in tree::walk(&programs)? {
        let path = programs.join(path);
        if kind == Kind::Link && path.canonicalize().is_ok_and(|to| to == real) {
            tree::remove(&path)?;
        }
    }
    let unwrapped = format!("{name}.unwrapped");
    let path = programs.join(&unwrapped);
    fs::rename(&real, &path).map_err(io_error("rename", &real))?;
    Ok(unwrapped)
}

/// What the compiler driver adds to its link command (GCC manual, "Spec
/// Files"): the tree's dynamic linker, and its libraries as the last part of
/// the search path, so that a program's own directories come first.
///
/// A spec file rather than `-Wl,…` in the wrapper: with `-Wl,…` the driver
/// believes it was given something to link, and `cc -v` fails.
fn link_specs(store_path: &str, layout: &Layout) -> String {
    let loader = layout.loader.display();
    let libraries = layout.libraries.display();
    format!(
        "*droste_search_path:\n\
         %{{!r:%{{!static:%{{!static-pie:-rpath {store_path}/{libraries}}}}}}}\n\n\
         *link:\n\
         + %{{!r:%{{!shared:%{{!static:%{{!static-pie:-dynamic-linker {store_path}/{loader}}}}}}}}} \
         %{{nostdlib|nodefaultlibs|nolibc:%(droste_search_path)}}\n\n\
         *lib:\n\
         + %(droste_search_path)\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_that_fits_a_script_line_is_accepted() {
        assert!(check_store_path("/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-t").is_ok());
        for bad in [
            "nix/store/x",
            "/nix/store/x/",
            "/a b",
            "/a\"",
            &"/x".repeat(101),
        ] {
            assert!(check_store_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn scripts_get_the_trees_shell_and_other_languages_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        for (line, expected) in [
            ("#!/bin/sh", Some("#!/t/bin/sh")),
            ("#! /bin/bash -e", Some("#!/t/bin/bash -e")),
            ("#!/usr/bin/perl -w", None),
            ("no script", Some("no script")),
        ] {
            fs::write(&path, format!("{line}\necho\n")).unwrap();
            relocate_script(&path, "/t").unwrap();
            let content = fs::read_to_string(&path).ok();
            assert_eq!(content, expected.map(|line| format!("{line}\necho\n")));
        }
    }

    #[test]
    fn a_needed_library_that_no_package_has_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        fs::copy(program, dir.path().join("usr/bin/program")).unwrap();
        let layout = Layout {
            loader: "usr/lib/none/ld.so".into(),
            libraries: "usr/lib/none".into(),
            triplet: "none".into(),
        };
        let error = check_needed(dir.path(), &layout).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`usr/bin/program` needs `libc.so.6`"),
            "{error}"
        );
    }
}
