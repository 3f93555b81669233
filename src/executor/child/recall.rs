//! Calls that were answered before, and what would have to be otherwise for another answer.
//!
//! The child of a compile follows from the call, from the names in the directories that the
//! search looks at, and from the files that it finds. To find that out is work: files are
//! scanned for names, names are walked, a derivation is printed and hashed. So the executor
//! remembers for each call which directories and files it was, and as long as none has changed,
//! the same call has the same child. This holds on the host alone: there the same files are
//! compiled again and again, while a build starts from a fresh copy of its sources.
//!
//! # Invariants
//! 1. A file counts as unchanged by the same identity and times by which its content is known
//!    again (see [`files`](super::files)); a call with any other file is not remembered.
//! 2. A directory counts as unchanged by its times, if they had settled. Otherwise it is listed
//!    again, and the names in it that the search has *asked for*, with what they are, must be the
//!    same: a build leaves its objects beside its sources all the time.
//! 3. Nothing is remembered of a search that has looked at anything else.
//! 4. The memory holds nothing but the way to a child's derivation: whether that child is known,
//!    and what it left, the [`index`](super::index) says.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::AtFlags;
use shim_core::client::SESSION_VARIABLE;
use shim_core::protocol::{Call, Done, Window};
use store_types::{Hash, Sha256Hasher, StorePath};

use super::call::Asked;
use super::files::{FileId, FileMemory};
use super::host::HostCompiler;
use super::inputs::InputFile;
use super::reply;
use super::run::Origin;
use super::stand_in::Which;
use super::stand_in::home::Home;
use super::tools::{Compiler, find_compiler};
use super::tree::{DirNames, Entry, Stamp, Walker, split_last};

/// All that is remembered may take about this many bytes; beyond, all is forgotten at once.
const BYTES_MAX: usize = 64 << 20;

/// What an entry takes beside its directories, names and files.
const ENTRY_BYTES: usize = 256;

/// The memory of calls.
#[derive(Default)]
pub struct Recall(Mutex<Known>);

#[derive(Default)]
struct Known {
    calls: HashMap<Hash, Arc<Remembered>>,
    /// Files that several calls have, once.
    files: HashSet<Arc<KnownFile>>,
    /// Names that several calls ask for, once.
    names: HashSet<Name>,
    bytes: usize,
}

/// A file that was an input.
#[derive(PartialEq, Eq, Hash)]
struct KnownFile {
    name: Box<[u8]>,
    id: FileId,
}

/// What one call asked for, and its child.
struct Remembered {
    seen: Seen,
    /// The compiler's, which it was and still is, if it is the host's.
    host: Option<Arc<HostCompiler>>,
    drv_path: StorePath,
    /// The call's directory in place of which its child has another one.
    home: Option<Home>,
}

/// What a search has looked at, to be looked at again.
struct Seen {
    dirs: Box<[SeenDir]>,
    names: Names,
}

/// A directory that was looked at.
struct SeenDir {
    path: Box<[u8]>,
    /// With these times it has the same names; `None` if they had not settled.
    stamp: Option<Stamp>,
    /// What it had of the names that were asked for.
    answers: Hash,
    /// The inputs in it.
    inputs: Box<[Arc<KnownFile>]>,
}

/// The names that a search asked for, in whichever directory, sorted.
struct Names(Box<[Name]>);

/// A name, kept once for all calls.
type Name = Arc<Box<[u8]>>;

/// What a directory has of these names. `entry` gives what it has of one; `None` if that cannot be
/// known.
fn answers<'n>(
    names: impl Iterator<Item = &'n [u8]>,
    entry: impl Fn(&[u8]) -> Option<Option<Entry>>,
) -> Option<Hash> {
    let mut hasher = Sha256Hasher::new();
    for name in names {
        let Some(entry) = entry(name)? else {
            continue;
        };
        update(&mut hasher, name);
        match entry {
            Entry::File => update(&mut hasher, b"f"),
            Entry::Dir => update(&mut hasher, b"d"),
            Entry::Other => update(&mut hasher, b"o"),
            Entry::Symlink(target) => {
                update(&mut hasher, b"l");
                update(&mut hasher, &target);
            }
        }
    }
    Some(hasher.finish().0)
}

/// A text that ends where it ends.
fn update(hasher: &mut Sha256Hasher, text: &[u8]) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text);
}

/// What is the same in equal calls, apart from files.
fn key_of(call: &Call, compiler: &Compiler, cwd: &[u8]) -> Hash {
    let mut hasher = Sha256Hasher::new();
    let list = |hasher: &mut Sha256Hasher, texts: &[Vec<u8>]| {
        hasher.update(&(texts.len() as u64).to_le_bytes());
        for text in texts {
            update(hasher, text);
        }
    };
    list(&mut hasher, &call.argv);
    list(&mut hasher, &compiler.effective_argv);
    // Each `droste run` has another session.
    let session = |entry: &[u8]| {
        entry
            .strip_prefix(SESSION_VARIABLE.as_bytes())
            .is_some_and(|rest| rest.starts_with(b"="))
    };
    for entry in call.env.iter().filter(|entry| !session(entry)) {
        update(&mut hasher, entry);
    }
    update(&mut hasher, b"");
    for text in [&call.cwd[..], cwd, &call.exe, &compiler.exec_path] {
        update(&mut hasher, text);
    }
    update(&mut hasher, compiler.store_path.base_name().as_bytes());
    for tty in [call.stdout_tty, call.stderr_tty] {
        let Window { rows, columns } = tty.unwrap_or(Window {
            rows: 0,
            columns: 0,
        });
        hasher.update(&[u8::from(tty.is_some())]);
        hasher.update(&rows.to_le_bytes());
        hasher.update(&columns.to_le_bytes());
    }
    hasher.finish().0
}

impl Seen {
    /// Whether a search would find the same.
    fn still_holds(&self, walker: &mut Walker<'_>) -> bool {
        self.dirs.iter().all(|seen| {
            let Ok(dir) = walker.local_dir(&seen.path) else {
                return false;
            };
            if seen.stamp != Some(dir.stamp) {
                let entry = |name: &[u8]| match &dir.names {
                    DirNames::Listed(listing) => Some(listing.get(name).cloned()),
                    DirNames::Many(_) => dir.lookup(name).ok(),
                    DirNames::Unknown => None,
                };
                let names = self.names.0.iter().map(|name| &***name);
                if answers(names, entry) != Some(seen.answers) {
                    return false;
                }
            }
            seen.inputs.iter().all(|file| is_same(&dir.fd, file))
        })
    }
}

fn is_same(dir: &OwnedFd, file: &KnownFile) -> bool {
    rustix::fs::statat(dir, &*file.name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileId::of(&stat) == file.id)
}

impl Recall {
    fn get(&self, key: &Hash) -> Option<Arc<Remembered>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.calls.get(key).cloned()
    }

    fn forget(&self, key: &Hash) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.calls.remove(key);
    }

    fn put(
        &self,
        key: Hash,
        search: Search<'_>,
        host: Option<Arc<HostCompiler>>,
        drv_path: StorePath,
        home: Option<Home>,
    ) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.bytes > BYTES_MAX {
            *known = Known::default();
        }
        let known = &mut *known;
        let (seen, bytes) = search.keep(&mut known.files, &mut known.names);
        known.bytes += ENTRY_BYTES + bytes;
        let remembered = Remembered {
            seen,
            host,
            drv_path,
            home,
        };
        known.calls.insert(key, Arc::new(remembered));
    }
}

/// What a search has looked at.
pub(super) struct Search<'a> {
    /// Sorted.
    names: Vec<&'a [u8]>,
    dirs: BTreeMap<&'a [u8], Sight>,
}

/// What it has seen of one directory: the stamp if it had settled, the answers, the inputs.
type Sight = (Option<Stamp>, Hash, Vec<KnownFile>);

impl<'a> Search<'a> {
    /// What `walker` has looked at when it found `files`; `None` if that was more than can be
    /// looked at again, or if nobody will.
    pub(super) fn of(
        memory: &FileMemory,
        walker: &'a Walker<'_>,
        files: &BTreeMap<Vec<u8>, InputFile>,
    ) -> Option<Self> {
        if !walker.tree().is_host() {
            return None;
        }
        let observed = walker.observed()?;
        let mut names: Vec<&[u8]> = observed.asked.iter().map(|name| &**name).collect();
        names.sort_unstable();
        let mut dirs = BTreeMap::new();
        for (path, dir) in observed.seen {
            let entry = |name: &[u8]| observed.entry(path, dir, name);
            let answers = answers(names.iter().copied(), entry)?;
            let stamp = dir.settled.then_some(dir.stamp);
            dirs.insert(path.as_slice(), (stamp, answers, Vec::new()));
        }
        for (path, input) in files {
            let (dir, name) = split_last(path);
            let id = input.file.id;
            if !memory.is_known(&id) {
                return None;
            }
            let name = name.into();
            dirs.get_mut(dir)?.2.push(KnownFile { name, id });
        }
        Some(Self { names, dirs })
    }

    /// The same to be kept, with how many bytes it takes. Files and names are shared by means of
    /// `files` and `names`.
    fn keep(self, files: &mut HashSet<Arc<KnownFile>>, names: &mut HashSet<Name>) -> (Seen, usize) {
        let mut bytes = self.names.len() * size_of::<Name>();
        let own = self.names.iter().map(|name| {
            let name: Box<[u8]> = (*name).into();
            if let Some(name) = names.get(&name) {
                return name.clone();
            }
            bytes += 2 * size_of::<Box<[u8]>>() + name.len();
            let name = Arc::new(name);
            names.insert(name.clone());
            name
        });
        let own = Names(own.collect());
        let mut dirs = Vec::with_capacity(self.dirs.len());
        for (path, (stamp, answers, inputs)) in self.dirs {
            bytes += path.len() + size_of::<SeenDir>() + inputs.len() * size_of::<Arc<KnownFile>>();
            let inputs = inputs.into_iter().map(|file| {
                if let Some(file) = files.get(&file) {
                    return file.clone();
                }
                bytes += 2 * size_of::<KnownFile>() + file.name.len();
                let file = Arc::new(file);
                files.insert(file.clone());
                file
            });
            let inputs = inputs.collect();
            dirs.push(SeenDir {
                path: path.into(),
                stamp,
                answers,
                inputs,
            });
        }
        let seen = Seen {
            dirs: dirs.into(),
            names: own,
        };
        (seen, bytes)
    }
}

/// The answer to a call that was answered before, if nothing has changed.
pub(super) fn answer(asked: &Asked<'_>) -> Option<(Done, Origin)> {
    let tree = asked.tree();
    if !tree.is_host() {
        return None;
    }
    let executor = asked.executor;
    let is_input = |path: &_| asked.caller.is_allowed(path);
    let mut walker = Walker::new(tree, &executor.store_tree, &is_input);
    let cwd = asked.find_cwd(&mut walker).ok()?;
    let compiler = find_compiler(executor, &mut walker, asked.call, &asked.env).ok()?;
    let key = key_of(asked.call, &compiler, &cwd);
    let remembered = executor.recall.get(&key)?;
    // Another one may be the same object at other places.
    let is_same_compiler = match (&compiler.host, &remembered.host) {
        (Some(host), Some(known)) => Arc::ptr_eq(host, known),
        // A store object is what its path says.
        (None, None) => true,
        _ => false,
    };
    if !is_same_compiler || !remembered.seen.still_holds(&mut walker) {
        executor.recall.forget(&key);
        return None;
    }
    let child = executor.known_child(&remembered.drv_path).ok()??;
    // What a failure means depends on more.
    if child.result.status != Some(0) {
        return None;
    }
    let mut done = reply::reply(executor, &child).ok()?;
    if let Some(home) = &remembered.home {
        home.move_files_back(&mut done, Which::First);
    }
    Some((done, Origin::Reused))
}

/// Remembers that a call has this child, which is what `search` gave.
pub(super) fn remember(
    asked: &Asked<'_>,
    search: Option<Search<'_>>,
    compiler: &Compiler,
    cwd: &[u8],
    drv_path: StorePath,
    home: Option<Home>,
) {
    if let Some(search) = search {
        let key = key_of(asked.call, compiler, cwd);
        let recall = &asked.executor.recall;
        recall.put(key, search, compiler.host.clone(), drv_path, home);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::time::Duration;

    use rustix::fs::{Mode, OFlags};
    use store_types::StoreDir;

    use super::super::inputs::with_times;
    use super::super::tree::{CallerTree, Found, StoreTree};
    use super::*;

    /// A host with a few files, and a search for `h.h` in two directories.
    struct World {
        root: tempfile::TempDir,
        tree: CallerTree,
        store: StoreTree,
        memory: FileMemory,
    }

    impl World {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let open = || {
                rustix::fs::open(root.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                    .unwrap()
            };
            let store_dir = StoreDir::new("/nix/store").unwrap();
            let world = Self {
                tree: CallerTree::host(open(), store_dir, Vec::new(), false),
                store: StoreTree::of(&root.path().join("store")),
                memory: FileMemory::default(),
                root,
            };
            for dir in ["first", "second", "other"] {
                fs::create_dir(world.path(dir)).unwrap();
            }
            fs::write(world.path("second/h.h"), "int h;").unwrap();
            symlink("other", world.path("link")).unwrap();
            world
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        /// What the search saw, once all times have settled.
        fn search(&self) -> Option<Seen> {
            std::thread::sleep(Duration::from_millis(50));
            let mut walker = Walker::new(&self.tree, &self.store, &|_| false);
            let mut files = BTreeMap::new();
            for dir in ["/first", "/second", "/link"] {
                let path = [dir.as_bytes(), b"/h.h"].concat();
                if let Found::LocalFile(path) = walker.find(b"/", &path).unwrap() {
                    let file = self.memory.local(&self.tree, &path).unwrap();
                    files.insert(path, file);
                }
            }
            let files = with_times(files, false).unwrap();
            let search = Search::of(&self.memory, &walker, &files)?;
            Some(search.keep(&mut HashSet::new(), &mut HashSet::new()).0)
        }

        fn holds(&self, seen: &Seen) -> bool {
            seen.still_holds(&mut Walker::new(&self.tree, &self.store, &|_| false))
        }
    }

    #[test]
    fn what_has_not_changed_still_holds_and_names_that_nobody_asked_for_may_come_and_go() {
        let world = World::new();
        let Some(seen) = world.search() else {
            eprintln!("skipped: the file system's times do not tell of all changes");
            return;
        };
        assert!(world.holds(&seen));
        fs::write(world.path("first/h.o"), "").unwrap();
        fs::write(world.path("second/h.o"), "").unwrap();
        assert!(world.holds(&seen));
        fs::remove_file(world.path("second/h.o")).unwrap();
        assert!(world.holds(&seen));
    }

    #[test]
    fn a_change_of_anything_that_was_asked_for_is_noticed() {
        type Change = (&'static str, fn(&World));
        let changes: [Change; 7] = [
            ("a header with other content", |world| {
                fs::write(world.path("second/h.h"), "int k;").unwrap();
            }),
            ("a header that is replaced", |world| {
                fs::write(world.path("new"), "int h;").unwrap();
                fs::rename(world.path("new"), world.path("second/h.h")).unwrap();
            }),
            ("a header that vanishes", |world| {
                fs::remove_file(world.path("second/h.h")).unwrap();
            }),
            ("a header that appears", |world| {
                fs::write(world.path("first/h.h"), "int h;").unwrap();
            }),
            ("a link to elsewhere", |world| {
                fs::remove_file(world.path("link")).unwrap();
                symlink("second", world.path("link")).unwrap();
            }),
            ("a directory that vanishes", |world| {
                fs::remove_dir(world.path("first")).unwrap();
            }),
            ("a directory that is replaced", |world| {
                fs::rename(world.path("second"), world.path("third")).unwrap();
                fs::create_dir(world.path("second")).unwrap();
            }),
        ];
        for (what, change) in changes {
            let world = World::new();
            let Some(seen) = world.search() else {
                eprintln!("skipped: the file system's times do not tell of all changes");
                return;
            };
            assert!(world.holds(&seen), "before {what}");
            change(&world);
            assert!(!world.holds(&seen), "{what}");
        }
    }

    #[test]
    fn a_large_directory_that_changes_again_and_again_is_looked_into_by_name() {
        let world = World::new();
        for n in 0..1100 {
            fs::write(world.path("first").join(n.to_string()), "").unwrap();
        }
        // Listed once, and then changed.
        let Some(listed) = world.search() else {
            eprintln!("skipped: the file system's times do not tell of all changes");
            return;
        };
        fs::write(world.path("first/1.o"), "").unwrap();
        assert!(world.holds(&listed));
        let by_name = world.search().unwrap();
        for seen in [&listed, &by_name] {
            fs::write(world.path("first/2.o"), "").unwrap();
            assert!(world.holds(seen));
            fs::remove_file(world.path("first/2.o")).unwrap();
            assert!(world.holds(seen));
            fs::write(world.path("first/h.h"), "int k;").unwrap();
            assert!(!world.holds(seen));
            fs::remove_file(world.path("first/h.h")).unwrap();
            assert!(world.holds(seen));
        }
        // Whoever wants all names has them.
        let mut walker = Walker::new(&world.tree, &world.store, &|_| false);
        let listing = walker.listing(b"/first").unwrap().unwrap();
        assert_eq!(listing.len(), 1101);
        // Unchanged for long, it is listed again.
        std::thread::sleep(Duration::from_millis(50));
        for _ in 0..100 {
            assert!(world.holds(&by_name));
        }
        fs::write(world.path("first/h.h"), "int k;").unwrap();
        assert!(!world.holds(&by_name));
    }

    #[test]
    fn a_search_that_read_a_whole_directory_is_not_remembered() {
        let world = World::new();
        let mut walker = Walker::new(&world.tree, &world.store, &|_| false);
        walker.listing(b"/first").unwrap();
        assert!(Search::of(&world.memory, &walker, &BTreeMap::new()).is_none());
    }
}
