//! The inputs of a compile: every file that the compiler's search could touch.
//!
//! No preprocessor runs. Each file is lexed for the names it includes, under
//! whatever condition, and each name is probed in every directory of the search
//! path; *every* match is an input, not only the first. The compiler then sees in
//! the child's sandbox the same candidates as in the build, so it resolves each
//! name the same way, and a header that appears or disappears anywhere on the
//! path changes the inputs, and with them the child. There are no negative
//! dependencies to record, and none to forget.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use shim_core::scan::{Definition, Directive, Scan, definitions};
use store_types::StoreDir;

use super::files::{FileMemory, LocalFile};
use super::outcome::InPlace;
use super::tree::{Found, Layout, Walker, join, split_last};

/// Seconds of the modification time that inputs get in a child: 1980-01-01, what
/// archives that cannot hold an earlier one use. It differs from the 1 of store
/// objects, because a compiler that asks whether two files are the same compares
/// their times.
pub const INPUT_MTIME: i64 = 315_532_800;

/// The time of what stands for a file of which a call knows no more than the name.
pub const LISTED_MTIME: i64 = INPUT_MTIME - 1;

/// A search that touches more files than this runs in place.
const FILES_MAX: usize = 50_000;

/// A search that has to read more than this runs in place: what is read is held until
/// the search ends.
const BYTES_MAX: usize = 256 << 20;

/// Where a compile begins to look, and where it looks.
pub struct Search<'a> {
    /// The working directory, free of symlinks.
    pub cwd: &'a [u8],
    /// The sources, as they are named on the command line.
    pub sources: &'a [Vec<u8>],
    /// Files named by `-include` and `-imacros`.
    pub forced: &'a [Vec<u8>],
    /// Directories of the search path, of all kinds, in any order.
    pub dirs: &'a [Vec<u8>],
    /// The command line.
    pub argv: &'a [Vec<u8>],
    /// Whether the language is C++.
    pub is_cxx: bool,
    /// Whether `__DATE__` and `__TIME__` follow from the environment.
    pub dates_are_fixed: bool,
}

/// One file that has to lie in the child's build directory.
#[derive(Clone)]
pub struct InputFile {
    /// What it was when it was read.
    pub file: LocalFile,
    /// Seconds of the modification time it gets.
    pub mtime: i64,
    /// Whether the child may execute it.
    pub executable: bool,
}

/// All that the child must see.
pub struct Inputs {
    /// Directories, symlinks and store paths.
    pub layout: Layout,
    /// Files by their absolute path, free of symlinks.
    pub files: BTreeMap<Vec<u8>, InputFile>,
}

/// One file that the search has reached: the real directory through which it was
/// opened (includes in quotes are relative to that one, even if the last component
/// is a symlink to elsewhere), and its name there.
type Node = (Arc<[u8]>, Box<[u8]>);

struct Collector<'a, 'w> {
    walker: &'w mut Walker<'a>,
    memory: &'a FileMemory,
    store_dir: &'a StoreDir,
    store: &'a super::tree::StoreTree,
    dirs: Vec<Arc<[u8]>>,
    queue: Vec<(Node, Arc<Scan>)>,
    reached: HashSet<Node>,
    files: BTreeMap<Vec<u8>, LocalFile>,
    /// Bytes that were read for this call.
    bytes_read: usize,
    store_files: HashMap<Vec<u8>, Arc<Scan>>,
    /// Macros by which files are included.
    macros: Macros,
}

/// The directory of a file that includes by a macro, and for what.
type Includer = (Arc<[u8]>, Use);

/// The macros of computed includes, and how far they have been followed.
#[derive(Default)]
struct Macros {
    /// Each macro, with the directories of the files that include by it, and for what.
    included_by: BTreeMap<Vec<u8>, BTreeSet<Includer>>,
    /// Macros that stand for `__has_include`, with the directories of all files: whoever
    /// uses one may be anywhere.
    has_include_aliases: BTreeSet<Vec<u8>>,
    /// Words of angled names that macros stand for: they may not be macros themselves.
    words: BTreeSet<Vec<u8>>,
    /// What the command line defines, as directives.
    command_line: Vec<u8>,
}

/// Collects the inputs of one compile.
pub fn collect<'a>(
    walker: &mut Walker<'a>,
    store: &'a super::tree::StoreTree,
    memory: &'a FileMemory,
    store_dir: &'a StoreDir,
    search: &Search<'_>,
) -> Result<BTreeMap<Vec<u8>, InputFile>, InPlace> {
    let mut collector = Collector {
        walker,
        memory,
        store_dir,
        store,
        dirs: Vec::new(),
        queue: Vec::new(),
        reached: HashSet::new(),
        files: BTreeMap::new(),
        bytes_read: 0,
        store_files: HashMap::new(),
        macros: Macros {
            command_line: command_line_defines(search.argv),
            ..Macros::default()
        },
    };
    for dir in search.dirs {
        match collector.walker.find(search.cwd, dir)? {
            Found::Dir(real) => {
                let real: Arc<[u8]> = real.into();
                if !collector.dirs.contains(&real) {
                    collector.dirs.push(real);
                }
            }
            Found::Missing => {}
            // Clang reads a file on the search path as a header map.
            Found::LocalFile(_) | Found::StoreFile(_) => return Err(InPlace::new("header-map")),
        }
    }
    for source in search.sources {
        if !collector.candidate(search.cwd, source, Use::Text)? {
            // The compiler has a message for that; it is the same in place.
            return Err(InPlace::new("no-source"));
        }
    }
    for name in search.forced {
        collector.probe(Some(search.cwd), name, Use::Text)?;
    }
    // GCC includes it before all else, from wherever the search finds one.
    collector.probe(None, b"stdc-predef.h", Use::Text)?;
    loop {
        collector.follow_names(search)?;
        let found_by_macros = collector.follow_macros()?;
        if !collector.follow_aliases()? && !found_by_macros {
            break;
        }
    }
    collector.check_words()?;
    collector.finish()
}

/// What in a file's text makes its compile depend on more than files.
fn check_scan(scan: &Scan, dates_are_fixed: bool, is_cxx: bool) -> Result<(), InPlace> {
    let reasons = [
        (
            scan.computed_include || scan.computed_has_include,
            "computed-include",
        ),
        (scan.modules && is_cxx, "modules"),
        (scan.date_time && !dates_are_fixed, "time-macro"),
        (
            scan.timestamp || scan.dependency_pragma,
            "modification-time",
        ),
        (scan.incbin, "incbin"),
        (scan.pch_pragma, "precompiled-header"),
    ];
    match reasons.into_iter().find(|(found, _)| *found) {
        Some((_, reason)) => Err(InPlace::new(reason)),
        None => Ok(()),
    }
}

/// What a file is needed for by a directive; `None` if it is not searched.
fn purpose(directive: Directive) -> Option<Use> {
    match directive {
        Directive::Include | Directive::IncludeNext | Directive::Import => Some(Use::Text),
        Directive::Embed | Directive::Has => Some(Use::Bytes),
        Directive::Line => None,
    }
}

/// What a file is needed for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// Its directives are followed.
    Text,
    /// It is read, or only looked for.
    Bytes,
}

/// What the compiler defines by itself cannot be told from a name, but all such names
/// look like these.
fn may_be_predefined(name: &[u8]) -> bool {
    name.starts_with(b"_") || matches!(name, b"linux" | b"unix" | b"i386")
}

/// The `-D` flags of a call as `#define` directives.
fn command_line_defines(argv: &[Vec<u8>]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut define = |definition: &[u8]| {
        let equals = definition.iter().position(|byte| *byte == b'=');
        let (name, value) = definition.split_at(equals.unwrap_or(definition.len()));
        text.extend_from_slice(b"#define ");
        text.extend_from_slice(name);
        text.push(b' ');
        text.extend_from_slice(value.strip_prefix(b"=").unwrap_or(b"1"));
        text.push(b'\n');
    };
    let mut args = argv.iter().skip(1);
    while let Some(arg) = args.next() {
        if let Some(passed) = arg.strip_prefix(b"-Wp,") {
            let mut parts = passed.split(|byte| *byte == b',');
            while let Some(part) = parts.next() {
                match part.strip_prefix(b"-D") {
                    Some(b"") => define(parts.next().unwrap_or_default()),
                    Some(definition) => define(definition),
                    None => {}
                }
            }
        }
        match arg.strip_prefix(b"-D") {
            Some(b"") => define(args.next().map_or(b"", Vec::as_slice)),
            Some(definition) => define(definition),
            None => {}
        }
    }
    text
}

impl Collector<'_, '_> {
    /// Follows all names until no file is new.
    fn follow_names(&mut self, search: &Search<'_>) -> Result<(), InPlace> {
        while let Some(((dir, _), scan)) = self.queue.pop() {
            check_scan(&scan, search.dates_are_fixed, search.is_cxx)?;
            for include in &scan.includes {
                let from = (!include.angled).then_some(&*dir);
                match purpose(include.directive) {
                    Some(purpose) => self.probe(from, &include.name, purpose)?,
                    // Named for the reader of a message, who is shown its lines.
                    None => {
                        self.candidate(search.cwd, &include.name, Use::Bytes)?;
                    }
                }
            }
            self.macros
                .has_include_aliases
                .extend(scan.has_include_aliases.iter().cloned());
            for include in &scan.macro_includes {
                let purpose = purpose(include.directive).unwrap_or(Use::Bytes);
                let by = self
                    .macros
                    .included_by
                    .entry(include.name.clone())
                    .or_default();
                by.insert((dir.clone(), purpose));
            }
        }
        Ok(())
    }

    /// Follows what the macros can stand for, by every definition in the files so far;
    /// true if that reached new files or macros.
    fn follow_macros(&mut self) -> Result<bool, InPlace> {
        let before = (
            self.reached.len(),
            self.files.len(),
            self.macros.included_by.clone(),
        );
        for (name, included_by) in &before.2 {
            if may_be_predefined(name) && self.definitions(name)?.is_empty() {
                return Err(InPlace::new("computed-include"));
            }
            for definition in self.definitions(name)? {
                match definition {
                    Definition::Nothing => {}
                    Definition::Other => return Err(InPlace::new("computed-include")),
                    Definition::Alias(alias) => {
                        let by = self.macros.included_by.entry(alias).or_default();
                        by.extend(included_by.iter().cloned());
                    }
                    Definition::Header {
                        angled,
                        name,
                        words,
                    } => {
                        self.macros.words.extend(words);
                        for (dir, purpose) in included_by {
                            self.probe((!angled).then_some(&**dir), &name, *purpose)?;
                        }
                    }
                }
            }
        }
        Ok(
            (self.reached.len(), self.files.len()) != (before.0, before.1)
                || self.macros.included_by != before.2,
        )
    }

    /// Takes what is asked for by macros that stand for `__has_include`; true if that
    /// reached new files or macros.
    fn follow_aliases(&mut self) -> Result<bool, InPlace> {
        let before = (self.files.len(), self.macros.has_include_aliases.clone());
        for alias in &before.1 {
            let mut uses = Vec::new();
            for (path, file) in &self.files {
                let tree = self.walker.tree();
                uses.push(self.memory.local_uses(tree, path, file, alias)?);
            }
            for path in self.store_files.keys() {
                uses.push(
                    self.memory
                        .store_uses(self.store, self.store_dir, path, alias)?,
                );
            }
            // In quotes a name is relative to the directory through which its file was opened,
            // and that was any of these.
            let dirs: BTreeSet<Arc<[u8]>> =
                self.reached.iter().map(|(dir, _)| dir.clone()).collect();
            for uses in uses {
                if uses.undecided {
                    return Err(InPlace::new("computed-include"));
                }
                self.macros
                    .has_include_aliases
                    .extend(uses.aliases.iter().cloned());
                for include in &uses.includes {
                    self.probe(None, &include.name, Use::Bytes)?;
                    for dir in dirs.iter().filter(|_| !include.angled) {
                        self.candidate(dir, &include.name, Use::Bytes)?;
                    }
                }
            }
        }
        Ok(self.files.len() != before.0 || self.macros.has_include_aliases != before.1)
    }

    /// The words of the names that macros stand for must be no macros: else the names
    /// are others.
    fn check_words(&mut self) -> Result<(), InPlace> {
        for word in std::mem::take(&mut self.macros.words) {
            if may_be_predefined(&word) || !self.definitions(&word)?.is_empty() {
                return Err(InPlace::new("computed-include"));
            }
        }
        Ok(())
    }

    /// All values that the files so far, and the command line, give to a macro.
    fn definitions(&self, name: &[u8]) -> Result<Vec<Definition>, InPlace> {
        let mut found = definitions(&self.macros.command_line, name);
        for (path, file) in &self.files {
            found.extend(
                self.memory
                    .local_definitions(self.walker.tree(), path, file, name)?
                    .iter()
                    .cloned(),
            );
        }
        for path in self.store_files.keys() {
            found.extend(
                self.memory
                    .store_definitions(self.store, self.store_dir, path, name)?
                    .iter()
                    .cloned(),
            );
        }
        Ok(found)
    }

    /// Takes every match of an included name.
    fn probe(&mut self, from: Option<&[u8]>, name: &[u8], purpose: Use) -> Result<(), InPlace> {
        if name.starts_with(b"/") {
            self.candidate(b"/", name, purpose)?;
            return Ok(());
        }
        if let Some(from) = from {
            self.candidate(from, name, purpose)?;
        }
        for i in 0..self.dirs.len() {
            let dir = self.dirs[i].clone();
            self.candidate(&dir, name, purpose)?;
        }
        Ok(())
    }

    /// Takes the file of this name in this directory, if there is one.
    fn candidate(&mut self, base: &[u8], name: &[u8], purpose: Use) -> Result<bool, InPlace> {
        let (parent, last) = match name.iter().rposition(|byte| *byte == b'/') {
            Some(0) => (&name[..1], &name[1..]),
            Some(slash) => (&name[..slash], &name[slash + 1..]),
            None => (&b""[..], name),
        };
        let dir = if parent.is_empty() {
            base.to_vec()
        } else {
            match self.walker.find(base, parent)? {
                Found::Dir(dir) => dir,
                _ => return Ok(false),
            }
        };
        if last.is_empty() {
            return Ok(false);
        }
        // A precompiled header is taken in place of the header, be it there or not.
        let precompiled = [&b".gch"[..], b".pch"].map(|suffix| [last, suffix].concat());
        let asked = [last, &*precompiled[0], &*precompiled[1]];
        if let Some(listing) = self.walker.listing_for(&dir, &asked)? {
            if precompiled.iter().any(|name| listing.contains_key(&**name)) {
                return Err(InPlace::new("precompiled-header"));
            }
            if !listing.contains_key(last) && last != b".." {
                return Ok(false);
            }
        }
        let node: Node = (dir.as_slice().into(), last.into());
        if self.reached.contains(&node) {
            return Ok(true);
        }
        let scan = match self.walker.find(&dir, last)? {
            Found::Missing => return Ok(false),
            // A directory of a header's name stops no search; it must be there.
            Found::Dir(_) => return Ok(false),
            Found::LocalFile(path) => {
                let file = match self.files.get(&path) {
                    Some(file) => file.clone(),
                    None => {
                        let file = self.memory.local(self.walker.tree(), &path)?;
                        self.bytes_read += file.bytes.as_ref().map_or(0, |bytes| bytes.len());
                        if self.bytes_read > BYTES_MAX {
                            return Err(InPlace::new("large-input"));
                        }
                        self.files.insert(path.clone(), file.clone());
                        file
                    }
                };
                self.memory.local_scan(self.walker.tree(), &path, &file)?
            }
            Found::StoreFile(path) => {
                let object = self.walker.object_path(&path);
                let scan = self
                    .memory
                    .store_scan(self.store, self.store_dir, &object)?;
                self.store_files.insert(object, scan.clone());
                scan
            }
        };
        if self.reached.len() >= FILES_MAX {
            return Err(InPlace::new("many-inputs"));
        }
        if purpose == Use::Text {
            self.reached.insert(node.clone());
            self.queue.push((node, scan));
        }
        Ok(true)
    }

    fn finish(self) -> Result<BTreeMap<Vec<u8>, InputFile>, InPlace> {
        let once = self
            .files
            .values()
            .filter_map(|file| file.facts.scan.get())
            .chain(self.store_files.values())
            .any(|scan| scan.once);
        with_times(self.files, once)
    }
}

/// Gives each file its modification time. `once`: any of them, or a file of the store, has
/// `#pragma once`.
///
/// gcc takes two files with `#pragma once` (or `#import`) for one if their
/// size, their time in seconds and their content are equal. Where contents
/// occur twice, the order of times is kept; elsewhere it cannot matter.
pub fn with_times(
    files: BTreeMap<Vec<u8>, LocalFile>,
    once: bool,
) -> Result<BTreeMap<Vec<u8>, InputFile>, InPlace> {
    let mut times: HashMap<_, Vec<i64>> = HashMap::new();
    if once {
        let mut inodes = HashSet::new();
        for file in files.values() {
            times
                .entry(file.facts.nar_hash)
                .or_default()
                .push(file.mtime);
            // clang compares inodes; a child has a copy for each path.
            if !inodes.insert(file.inode) {
                return Err(InPlace::new("hard-linked-inputs"));
            }
        }
        for times in times.values_mut() {
            times.sort_unstable();
            times.dedup();
        }
    }
    let mtime = |file: &LocalFile| {
        // A copy of a store object's file that has its time, too.
        if once && file.mtime == 1 {
            return 1;
        }
        let rank = times
            .get(&file.facts.nar_hash)
            .and_then(|times| times.binary_search(&file.mtime).ok());
        INPUT_MTIME + rank.unwrap_or(0) as i64
    };
    Ok(files
        .into_iter()
        .map(|(path, file)| {
            let mtime = mtime(&file);
            let executable = false;
            let input = InputFile {
                file,
                mtime,
                executable,
            };
            (path, input)
        })
        .collect())
}

/// The last component of a path.
pub fn base_name(path: &[u8]) -> &[u8] {
    split_last(path).1
}

/// A path made absolute against a directory.
pub fn absolute(cwd: &[u8], path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/") {
        path.to_vec()
    } else {
        join(cwd, path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use rustix::fs::{Mode, OFlags};
    use store_types::StorePath;

    use super::super::tree::{CallerTree, StoreTree};
    use super::*;

    const TOOLS: &str = "0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-tools";

    /// A build's root with a build directory and one store object.
    struct Root {
        dir: tempfile::TempDir,
        tree: CallerTree,
        store: StoreTree,
        memory: FileMemory,
        store_dir: StoreDir,
    }

    fn open(path: &std::path::Path) -> std::os::fd::OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    impl Root {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = dir.path().join("nix/store");
            std::fs::create_dir_all(store.join(TOOLS).join("include")).unwrap();
            std::fs::create_dir_all(dir.path().join("build")).unwrap();
            let root = Self {
                tree: CallerTree::build(open(dir.path()), StoreDir::default()),
                store: StoreTree::of(dir.path()),
                memory: FileMemory::default(),
                store_dir: StoreDir::default(),
                dir,
            };
            for (path, text) in files {
                root.write(path, text);
            }
            root
        }

        fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join(path.trim_start_matches('/'))
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        /// The inputs of `/build/main.c`, compiled in `/build`.
        fn inputs(&self, dirs: &[&str]) -> Result<(Vec<String>, Layout), String> {
            self.inputs_of("main.c", dirs, &[])
        }

        fn inputs_of(
            &self,
            source: &str,
            dirs: &[&str],
            argv: &[&str],
        ) -> Result<(Vec<String>, Layout), String> {
            let is_input = |path: &StorePath| path.base_name() == TOOLS;
            let mut walker = Walker::new(&self.tree, &self.store, &is_input);
            let bytes = |texts: &[&str]| -> Vec<Vec<u8>> {
                texts.iter().map(|text| text.as_bytes().to_vec()).collect()
            };
            let files = collect(
                &mut walker,
                &self.store,
                &self.memory,
                &self.store_dir,
                &Search {
                    cwd: b"/build",
                    sources: &[source.into()],
                    forced: &[],
                    dirs: &bytes(dirs),
                    argv: &bytes(&[&["cc"], argv].concat()),
                    is_cxx: false,
                    dates_are_fixed: false,
                },
            )
            .map_err(|reason| reason.to_string())?;
            let names = files
                .keys()
                .map(|path| String::from_utf8(path.clone()).unwrap())
                .collect();
            Ok((names, walker.layout))
        }

        fn names(&self, dirs: &[&str]) -> Vec<String> {
            self.inputs(dirs).unwrap().0
        }

        fn reason(&self, dirs: &[&str]) -> String {
            self.inputs(dirs).unwrap_err()
        }
    }

    #[test]
    fn every_match_on_the_path_is_an_input_and_not_only_the_first() {
        let root = Root::new(&[
            ("/build/main.c", "#include <a.h>\n"),
            ("/build/x/a.h", ""),
            ("/build/y/a.h", "#include \"b.h\"\n"),
            ("/build/y/b.h", ""),
        ]);
        let expected = [
            "/build/main.c",
            "/build/x/a.h",
            "/build/y/a.h",
            "/build/y/b.h",
        ];
        assert_eq!(root.names(&["x", "y"]), expected);
    }

    #[test]
    fn a_header_that_appears_or_vanishes_anywhere_on_the_path_changes_the_inputs() {
        let root = Root::new(&[
            ("/build/main.c", "#include \"a.h\"\n"),
            ("/build/y/a.h", ""),
        ]);
        std::fs::create_dir(root.path("/build/x")).unwrap();
        assert_eq!(root.names(&["x", "y"]), ["/build/main.c", "/build/y/a.h"]);
        root.write("/build/x/a.h", "");
        assert_eq!(
            root.names(&["x", "y"]),
            ["/build/main.c", "/build/x/a.h", "/build/y/a.h"]
        );
        root.write("/build/a.h", "");
        assert_eq!(root.names(&["x", "y"]).len(), 4);
        std::fs::remove_file(root.path("/build/x/a.h")).unwrap();
        assert_eq!(
            root.names(&["x", "y"]),
            ["/build/a.h", "/build/main.c", "/build/y/a.h"]
        );
    }

    #[test]
    fn a_changed_content_is_seen_even_if_size_and_time_stay() {
        let root = Root::new(&[("/build/main.c", "int a;")]);
        let hash = || {
            let file = root.memory.local(&root.tree, b"/build/main.c").unwrap();
            file.facts.nar_hash
        };
        let time = std::fs::metadata(root.path("/build/main.c"))
            .unwrap()
            .modified()
            .unwrap();
        let before = hash();
        root.write("/build/main.c", "int b;");
        let file = std::fs::File::options()
            .write(true)
            .open(root.path("/build/main.c"))
            .unwrap();
        file.set_modified(time).unwrap();
        assert_ne!(hash(), before);
    }

    #[test]
    fn store_objects_are_searched_and_named_by_their_path_only() {
        let include = format!("/nix/store/{TOOLS}/include");
        let root = Root::new(&[
            ("/build/main.c", "#include <sys.h>\n"),
            (&format!("{include}/sys.h"), "#include <config.h>\n"),
            ("/build/x/config.h", ""),
        ]);
        let (names, layout) = root.inputs(&["x", &include]).unwrap();
        assert_eq!(names, ["/build/main.c", "/build/x/config.h"]);
        assert_eq!(layout.store_paths.iter().next().unwrap().base_name(), TOOLS);
    }

    #[test]
    fn symlinks_and_dots_are_walked_as_the_kernel_walks_them() {
        let root = Root::new(&[
            ("/build/main.c", "#include \"link/../up.h\"\n"),
            ("/build/real/deep/x.h", ""),
            ("/build/real/up.h", ""),
            ("/build/up.h", ""),
        ]);
        symlink("real/deep", root.path("/build/link")).unwrap();
        let (names, layout) = root.inputs(&[]).unwrap();
        assert_eq!(names, ["/build/main.c", "/build/real/up.h"]);
        assert_eq!(layout.links[&b"/build/link"[..]], b"real/deep");
        assert!(layout.dirs.contains(&b"/build/real/deep"[..]));
    }

    #[test]
    fn an_absolute_symlink_stays_within_the_builds_root() {
        let root = Root::new(&[
            ("/build/main.c", "#include \"l.h\"\n"),
            ("/build/d/t.h", ""),
        ]);
        symlink("/build/d/t.h", root.path("/build/l.h")).unwrap();
        assert_eq!(root.names(&[]), ["/build/d/t.h", "/build/main.c"]);
    }

    #[test]
    fn what_lies_outside_runs_in_place_if_it_is_there() {
        let root = Root::new(&[("/build/main.c", "#include \"/tmp/t.h\"\n#include \"a.h\"\n")]);
        assert_eq!(root.names(&["/usr/include"]), ["/build/main.c"]);
        root.write("/tmp/t.h", "");
        assert_eq!(root.reason(&[]), "outside-of-build");
        std::fs::remove_dir_all(root.path("/tmp")).unwrap();
        symlink("/etc/a.h", root.path("/build/a.h")).unwrap();
        assert_eq!(root.names(&[]), ["/build/main.c"]);
        root.write("/etc/a.h", "");
        assert_eq!(root.reason(&[]), "outside-of-build");
    }

    #[test]
    fn a_store_path_that_is_no_input_runs_in_place_if_it_is_there() {
        let own = "/nix/store/1mdqa9w1p6cmli6976v4wi0sw9r4p5pr-out/include";
        let root = Root::new(&[("/build/main.c", "#include <a.h>\n")]);
        assert_eq!(root.names(&[own]), ["/build/main.c"]);
        root.write(&format!("{own}/a.h"), "");
        assert_eq!(root.reason(&[own]), "outside-of-build");
    }

    #[test]
    fn precompiled_headers_run_in_place_even_without_their_header() {
        let root = Root::new(&[
            ("/build/main.c", "#include \"a.h\"\n"),
            ("/build/a.h.gch", ""),
        ]);
        assert_eq!(root.reason(&[]), "precompiled-header");
    }

    #[test]
    fn includes_by_macro_follow_every_definition() {
        let root = Root::new(&[
            (
                "/build/main.c",
                "#include \"names.h\"\n#include FT_A_H\n#ifdef NEVER\n#include NEVER_H\n#endif\n",
            ),
            (
                "/build/names.h",
                "#define FT_A_H <ft/a.h>\n#define FT_A_H OTHER\n#define OTHER \"o.h\"\n",
            ),
            ("/build/inc/ft/a.h", "#include FT_B_H\n"),
            ("/build/o.h", ""),
            ("/build/inc/b.h", ""),
        ]);
        let names = |argv: &[&str]| root.inputs_of("main.c", &["inc"], argv);
        let expected = [
            "/build/inc/ft/a.h",
            "/build/main.c",
            "/build/names.h",
            "/build/o.h",
        ];
        assert_eq!(names(&[]).unwrap().0, expected);
        // The second macro is defined on the command line only.
        assert_eq!(names(&["-DFT_B_H=\"b.h\""]).unwrap().0.len(), 5);
        assert_eq!(names(&["-DFT_B_H=f(x)"]).unwrap_err(), "computed-include");
        assert_eq!(names(&["-Dft=x"]).unwrap_err(), "computed-include");
    }

    #[test]
    fn what_a_macro_asks_for_that_stands_for_has_include_is_an_input() {
        let root = Root::new(&[
            (
                "/build/main.c",
                "#include \"has.h\"\n#if HAS(<a.h>) || HAS(\"b.h\") || HAS(<c.h>)\n#endif\n",
            ),
            ("/build/has.h", "#define HAS __has_include\n"),
            ("/build/inc/a.h", ""),
            ("/build/b.h", ""),
        ]);
        let expected = [
            "/build/b.h",
            "/build/has.h",
            "/build/inc/a.h",
            "/build/main.c",
        ];
        assert_eq!(root.names(&["inc"]), expected);
        root.write(
            "/build/main.c",
            "#include \"has.h\"\n#if HAS(NAME)\n#endif\n",
        );
        assert_eq!(root.reason(&[]), "computed-include");
    }

    #[test]
    fn texts_that_depend_on_more_than_files_run_in_place() {
        for (text, reason) in [
            ("#include F(x)\n", "computed-include"),
            ("const char *d = __DATE__;\n", "time-macro"),
            ("const char *d = __TIMESTAMP__;\n", "modification-time"),
            ("__asm__(\".incbin \\\"x\\\"\");\n", "incbin"),
        ] {
            let root = Root::new(&[("/build/main.c", text)]);
            assert_eq!(root.reason(&[]), reason, "{text}");
        }
    }

    #[test]
    fn pipes_and_unreadable_files_run_in_place() {
        let root = Root::new(&[("/build/main.c", "#include \"a.h\"\n")]);
        rustix::fs::mknodat(
            open(&root.path("/build")),
            "a.h",
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        assert_eq!(root.reason(&[]), "special-file");
        std::fs::remove_file(root.path("/build/a.h")).unwrap();
        root.write("/build/a.h", "");
        std::fs::set_permissions(
            root.path("/build/a.h"),
            std::os::unix::fs::PermissionsExt::from_mode(0o200),
        )
        .unwrap();
        assert_eq!(root.reason(&[]), "unreadable-input");
    }

    #[test]
    fn times_count_only_where_a_compiler_could_take_two_files_for_one() {
        let times = |text: &str| {
            let root = Root::new(&[
                ("/build/main.c", "#include \"x/a.h\"\n#include \"y/a.h\"\n"),
                ("/build/x/a.h", text),
                ("/build/y/a.h", text),
            ]);
            let file = std::fs::File::options()
                .write(true)
                .open(root.path("/build/y/a.h"))
                .unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000))
                .unwrap();
            let is_input = |_: &StorePath| false;
            let mut walker = Walker::new(&root.tree, &root.store, &is_input);
            let search = Search {
                cwd: b"/build",
                sources: &[b"main.c".to_vec()],
                forced: &[],
                dirs: &[],
                argv: &[b"cc".to_vec()],
                is_cxx: false,
                dates_are_fixed: false,
            };
            let files = collect(
                &mut walker,
                &root.store,
                &root.memory,
                &root.store_dir,
                &search,
            )
            .unwrap();
            let time = |path: &[u8]| files[path].mtime - INPUT_MTIME;
            (time(b"/build/x/a.h"), time(b"/build/y/a.h"))
        };
        assert_eq!(times("int x;\n"), (0, 0));
        assert_eq!(times("#pragma once\n"), (1, 0));
    }

    #[test]
    fn a_loop_of_symlinks_ends() {
        let root = Root::new(&[("/build/main.c", "#include \"a/x.h\"\n")]);
        symlink("b", root.path("/build/a")).unwrap();
        symlink("a", root.path("/build/b")).unwrap();
        assert_eq!(root.names(&["a"]), ["/build/main.c"]);
    }
}
