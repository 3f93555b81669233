//! Which files of the host make up a compiler.
//!
//! A compiler is asked where its parts are; it knows. Headers and libraries that programs
//! are made from (`/usr/include`, `crt1.o`, `libc.so`) are no parts of it: they are inputs
//! like any other file.

use std::collections::BTreeSet;
use std::io::Read;

use rustix::fs::FileType;

use super::super::outcome::InPlace;
use super::super::tree::{join, split_last};
use super::ask::{Stream, ask};
use super::elf::Format;
use super::members::{Members, open};

/// Programs that GCC's driver runs, and those that it or they look for by name. Source:
/// gcc manual, "Options for Directory Search", "Options for Linking" (`-fuse-ld`); what
/// `strace -f` shows of compiles and links.
const GCC_PROGRAMS: &[&str] = &[
    "cc1",
    "cc1plus",
    "cc1obj",
    "cc1objplus",
    "d21",
    "f951",
    "gnat1",
    "go1",
    "lto1",
    "collect2",
    "lto-wrapper",
    "g++-mapper-server",
    "as",
    "ld",
    "ld.bfd",
    "ld.gold",
    "real-ld",
    "collect-ld",
    "nm",
    "objcopy",
    "strip",
];

/// Programs that Clang's driver runs. Source: `clang -###` of compiles and links.
const CLANG_PROGRAMS: &[&str] = &[
    "as",
    "ld",
    "ld.bfd",
    "ld.gold",
    "ld.lld",
    "llvm-objcopy",
    "objcopy",
];

/// Names of GCC's drivers between a target and a version (`x86_64-linux-gnu-gcc-12`). A
/// longer name stands before those that it ends with.
const GCC_DRIVERS: &[&str] = &[
    "gfortran", "gccgo", "gnat", "gdc", "gcc", "g++", "c++", "cpp", "cc",
];

/// What Clang reads to learn which distribution it is on. Source: llvm,
/// `clang/lib/Driver/Distro.cpp`.
const DISTRIBUTION_FILES: &[&str] = &[
    "/etc/SuSE-release",
    "/etc/alpine-release",
    "/etc/arch-release",
    "/etc/debian_version",
    "/etc/exherbo-release",
    "/etc/gentoo-release",
    "/etc/lsb-release",
    "/etc/os-release",
    "/etc/redhat-release",
    "/usr/lib/os-release",
];

/// Message catalogues, by the beginnings of their names: of gcc's own (Debian adds the
/// version), the binutils' and the C library's.
const CATALOGUES: &[&str] = &[
    "bfd.",
    "binutils.",
    "cpplib",
    "gas.",
    "gcc",
    "gold.",
    "ld.",
    "libc.",
    "opcodes.",
];

/// Strings that only one driver contains; see also `tools::DRIVER_MARKS`.
const CLANG_MARKS: &[&str] = &["CCC_OVERRIDE_OPTIONS", "libclang-cpp.so"];
const GCC_MARK: &str = "COLLECT_GCC_OPTIONS";

/// A larger file is no compiler driver.
const DRIVER_LEN_MAX: u64 = 512 << 20;

/// What a program of the host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// A driver of GCC.
    Gcc,
    /// A driver of Clang.
    Clang,
    /// A linker, an assembler, or anything else.
    Other,
}

/// A program with all that belongs to it.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) kind: HostKind,
    /// Where the program lies, free of symlinks.
    pub(super) real: Vec<u8>,
    /// The name for it all.
    pub(super) name: String,
    /// The entries of `PATH` from which it takes a program.
    pub(super) path: Vec<u8>,
}

/// Finds the parts of the program at an absolute path; `path` is the `PATH` in which it
/// looks for others. What was seen is in `members` even if this fails.
pub(super) fn find_parts(
    members: &mut Members,
    program: &[u8],
    path: &[u8],
) -> Result<Parts, InPlace> {
    let unknown = || InPlace::new("unknown-compiler");
    let place = members.walk(program).ok_or_else(unknown)?;
    if place.kind != FileType::RegularFile {
        return Err(unknown());
    }
    let real = members.add_file(program)?.ok_or_else(unknown)?;
    match members.format(&real)? {
        Format::Elf { .. } => {}
        Format::Script => return Err(InPlace::new("wrapper")),
        Format::Other => return Err(unknown()),
    }
    let kind = kind(&real)?;
    members.add_program(&real)?;
    let mut finder = Finder {
        members,
        program,
        path,
        used: BTreeSet::new(),
    };
    let name = match kind {
        HostKind::Gcc => finder.add_gcc(&real)?,
        HostKind::Clang => finder.add_clang(&real)?,
        HostKind::Other => String::from_utf8_lossy(split_last(&real).1).into_owned(),
    };
    let used = std::mem::take(&mut finder.used);
    finder.add_locales(&real)?;
    let entries = path.split(|byte| *byte == b':');
    Ok(Parts {
        kind,
        real,
        name: format!("host-{name}"),
        path: entries
            .filter(|entry| used.contains(*entry))
            .collect::<Vec<_>>()
            .join(&b':'),
    })
}

fn kind(real: &[u8]) -> Result<HostKind, InPlace> {
    let mut bytes = Vec::new();
    open(real)
        .and_then(|file| file.take(DRIVER_LEN_MAX).read_to_end(&mut bytes))
        .map_err(|_| InPlace::new("compiler-unreadable"))?;
    let has = |mark: &str| memchr::memmem::find(&bytes, mark.as_bytes()).is_some();
    Ok(if CLANG_MARKS.iter().any(|mark| has(mark)) {
        HostKind::Clang
    } else if has(GCC_MARK) {
        HostKind::Gcc
    } else {
        HostKind::Other
    })
}

struct Finder<'a> {
    members: &'a mut Members,
    program: &'a [u8],
    path: &'a [u8],
    /// Entries of `PATH` in which a program was found.
    used: BTreeSet<&'a [u8]>,
}

impl Finder<'_> {
    /// Adds what GCC consists of; its name.
    fn add_gcc(&mut self, real: &[u8]) -> Result<String, InPlace> {
        let unknown = || InPlace::new("unknown-compiler");
        let dirs = self.ask(&[b"-print-search-dirs"], Stream::Out);
        let dirs = dirs.ok_or_else(unknown)?;
        let line = |start: &str| {
            let mut lines = dirs.split(|byte| *byte == b'\n');
            lines.find_map(|line| line.strip_prefix(start.as_bytes()))
        };
        let install = line("install: ").ok_or_else(unknown)?;
        let install = self.members.add_dir(install)?.ok_or_else(unknown)?;
        // A program that appears in one of these would be taken.
        let programs = line("programs: =").unwrap_or_default();
        for dir in programs.split(|byte| *byte == b':') {
            self.note_dir(dir);
        }
        for name in GCC_PROGRAMS {
            self.add_named(name)?;
        }
        for file in ["plugin", "liblto_plugin.so"] {
            let question = [b"-print-file-name=", file.as_bytes()].concat();
            let answer = self.ask(&[&question], Stream::Out).ok_or_else(unknown)?;
            let answer = answer.trim_ascii_end();
            if answer.starts_with(b"/") {
                self.members.add_dir(answer)?;
                self.members.add_program(answer)?;
            }
        }
        // The passes lie beside the libraries, or in a directory of the same name below
        // `libexec`.
        let last_two = |dir: &[u8]| {
            let (rest, version) = split_last(dir);
            join(split_last(rest).1, version)
        };
        if let Some(collect2) = self.find_named("collect2")
            && let Some(place) = self.members.walk(&collect2)
            && last_two(split_last(&place.path).0) == last_two(&install)
        {
            self.members.add_dir(split_last(&place.path).0)?;
        }
        let (bin, name) = split_last(real);
        for sibling in sibling_drivers(name) {
            let sibling = join(bin, &sibling);
            self.members.add_program(&sibling)?;
        }
        let version = String::from_utf8_lossy(split_last(&install).1).into_owned();
        Ok(format!("gcc-{version}"))
    }

    /// Adds what Clang consists of; its name.
    fn add_clang(&mut self, real: &[u8]) -> Result<String, InPlace> {
        let unknown = || InPlace::new("unknown-compiler");
        let resources = self.ask(&[b"-print-resource-dir"], Stream::Out);
        let resources = resources.ok_or_else(unknown)?;
        let resources = resources.trim_ascii_end();
        if !resources.starts_with(b"/") {
            return Err(unknown());
        }
        let version = String::from_utf8_lossy(split_last(resources).1).into_owned();
        self.members.add_dir(resources)?;
        let about = self.ask(&[b"-v"], Stream::Err).ok_or_else(unknown)?;
        for line in about.split(|byte| *byte == b'\n') {
            let Some(colon) = memchr::memmem::find(line, b": ") else {
                continue;
            };
            let (what, dir) = (&line[..colon], &line[colon + 2..]);
            match what {
                // It could name more files.
                b"Configuration file" => return Err(InPlace::new("compiler-configuration")),
                b"System configuration file directory" | b"User configuration file directory" => {
                    self.note_dir(dir);
                }
                // It takes headers and libraries from there if this file is.
                b"Found candidate GCC installation" => {
                    if let Some(parent) = self.members.walk(split_last(dir).0) {
                        self.members.list(&parent.path);
                    }
                    for multilib in ["", "32", "x32", "64"] {
                        let dir = join(dir, multilib.as_bytes());
                        self.members.add_file(&join(&dir, b"crtbegin.o"))?;
                    }
                }
                _ => {}
            }
        }
        for file in DISTRIBUTION_FILES {
            self.members.add_file(file.as_bytes())?;
        }
        // A configuration file, or a program to be preferred, could appear beside it.
        self.note_dir(split_last(real).0);
        for name in CLANG_PROGRAMS {
            self.add_named(name)?;
        }
        Ok(format!("clang-{version}"))
    }

    fn ask(&self, args: &[&[u8]], stream: Stream) -> Option<Vec<u8>> {
        ask(self.program, args, self.path, stream)
    }

    /// Notes that a change of what lies in a directory matters.
    fn note_dir(&mut self, dir: &[u8]) {
        if let Some(place) = self.members.walk(dir) {
            self.members.list(&place.path);
            self.members.dirs.insert(place.path);
        }
    }

    /// Adds the program that a driver means by a name, if there is one.
    fn add_named(&mut self, name: &str) -> Result<(), InPlace> {
        if let Some(path) = self.find_named(name) {
            self.members.add_program(&path)?;
        }
        Ok(())
    }

    /// Where the program is that a driver means by a name: in its own directories, or the
    /// first in `PATH`.
    fn find_named(&mut self, name: &str) -> Option<Vec<u8>> {
        let question = [b"-print-prog-name=", name.as_bytes()].concat();
        let answer = self.ask(&[&question], Stream::Out)?;
        let answer = answer.trim_ascii_end();
        let (dir, name) = match answer.contains(&b'/') {
            true => split_last(answer),
            false => (&b""[..], answer),
        };
        let mut entries = self.path.split(|byte| *byte == b':');
        // Clang answers with the path even of what it has found in `PATH`.
        if !dir.is_empty() && !entries.any(|entry| entry == dir) {
            return Some(answer.to_vec());
        }
        for entry in self.path.split(|byte| *byte == b':') {
            // An entry that is not absolute is another directory for every call.
            if !entry.starts_with(b"/") {
                continue;
            }
            let file = join(entry, name);
            let place = self.members.walk(&file);
            if place.is_some_and(|place| place.kind == FileType::RegularFile) {
                self.used.insert(entry);
                return Some(file);
            }
        }
        None
    }

    /// Adds what the C library and gettext read for messages in the caller's language.
    fn add_locales(&mut self, real: &[u8]) -> Result<(), InPlace> {
        self.members.add_dir(b"/usr/lib/locale")?;
        // Where the C library is, its character sets are.
        let libraries: BTreeSet<Vec<u8>> = self
            .members
            .nodes
            .keys()
            .filter(|path| split_last(path).1.starts_with(b"libc.so"))
            .map(|path| split_last(path).0.to_vec())
            .collect();
        for dir in libraries {
            self.members.add_dir(&join(&dir, b"gconv"))?;
        }
        let beside = join(split_last(split_last(real).0).0, b"share/locale");
        let places: Vec<Vec<u8>> = [&b"/usr/share/locale"[..], &beside]
            .into_iter()
            .filter_map(|dir| Some(self.members.walk(dir)?.path))
            .collect();
        for locale in BTreeSet::from_iter(places) {
            let mut files = vec![b"locale.alias".to_vec()];
            for language in self.members.list(&locale) {
                let messages = join(&language, b"LC_MESSAGES");
                for name in self.members.list(&join(&locale, &messages)) {
                    if is_catalogue(&name) {
                        files.push(join(&messages, &name));
                    }
                }
            }
            // In most places this is a link to a file of the same purpose.
            self.members.add_file(&join(&locale, b"locale.alias"))?;
            self.members.add_some(&locale, files)?;
        }
        Ok(())
    }
}

fn is_catalogue(name: &[u8]) -> bool {
    name.ends_with(b".mo")
        && CATALOGUES
            .iter()
            .any(|start| name.starts_with(start.as_bytes()))
}

/// The names that the drivers have which were installed together with this one.
fn sibling_drivers(name: &[u8]) -> Vec<Vec<u8>> {
    for driver in GCC_DRIVERS {
        let Some(at) = memchr::memmem::rfind(name, driver.as_bytes()) else {
            continue;
        };
        let (target, version) = (&name[..at], &name[at + driver.len()..]);
        let is_target = target.is_empty() || target.ends_with(b"-");
        let is_version = version.is_empty() || version.starts_with(b"-");
        if is_target && is_version {
            return GCC_DRIVERS
                .iter()
                .map(|driver| [target, driver.as_bytes(), version].concat())
                .collect();
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_of_one_target_and_version_belong_together() {
        let siblings = |name: &str| {
            sibling_drivers(name.as_bytes())
                .into_iter()
                .map(|name| String::from_utf8(name).unwrap())
                .collect::<Vec<_>>()
        };
        assert!(siblings("x86_64-linux-gnu-gcc-12").contains(&"x86_64-linux-gnu-g++-12".into()));
        assert!(siblings("g++").contains(&"gcc".into()));
        assert!(siblings("gccgo-12").contains(&"gcc-12".into()));
        for name in ["gccx", "as", "mygcc", ""] {
            assert!(siblings(name).is_empty(), "{name}");
        }
    }

    #[test]
    fn catalogues_of_compilers_are_told_from_others() {
        for name in ["gcc-12.mo", "cpplib.mo", "ld.mo", "libc.mo"] {
            assert!(is_catalogue(name.as_bytes()), "{name}");
        }
        for name in ["glib20.mo", "gcc.po", "libcaca.mo", "ldap.mo"] {
            assert!(!is_catalogue(name.as_bytes()), "{name}");
        }
    }
}
