//! The host's compilers, taken into the store.
//!
//! A call outside of any derivation names a program of the host (`/usr/bin/cc`). For its
//! child to be hermetic, that compiler with all that it consists of (`parts`) becomes one
//! store object, addressed by its content, and appears in the child where it is on the
//! host. Why this set of files, and how a change is noticed:
//! `docs/adr/0009-outside-a-derivation.md`.
//!
//! On disk: `var/droste/host-compilers`, one line for each object that was made:
//!
//! ```text
//! <SHA-256 over the members' paths, inodes, sizes and times> <base name of the store path>
//! ```
//!
//! so that the next process need not read a compiler again. It may be lost at any time.

mod ask;
mod elf;
mod import;
mod members;
mod parts;
mod stamp;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use store_local::LocalStore;
use store_types::{Hash, Sha256Hasher, StorePath};

use self::members::{Members, Node};
pub use self::parts::HostKind;
use self::parts::{Parts, find_parts};
use self::stamp::Facts;
use self::watch::Watch;
use super::crash::Crashes;
use super::outcome::InPlace;
use super::tree::{Bind, CLOCK_GRAIN_NANOS, now_nanos};

/// How long it is believed that nothing changed if no change was heard of. Some changes
/// make no sound: a mount, a rename of a directory far above.
const SILENCE: Duration = Duration::from_secs(1);

/// How long a failure that may pass, like a full disk, stands before it is tried again.
const FAILURE: Duration = Duration::from_secs(10);

/// More programs, or values of `PATH`, are not remembered.
const QUESTIONS_MAX: usize = 256;

/// A longer record of objects is begun anew.
const RECORD_LEN_MAX: u64 = 1 << 20;

/// How often a compiler is looked at again that changed meanwhile.
const TRIES_MAX: u32 = 10;

/// A program of the host with all that belongs to it, as an object of the store.
#[derive(Debug)]
pub struct HostCompiler {
    /// The object.
    pub store_path: StorePath,
    /// Where the program lies on the host: absolute, free of symlinks.
    pub real: Vec<u8>,
    /// What it is.
    pub kind: HostKind,
    /// What a child must see, read-only, at the same places as on the host. None lies
    /// below another. In order of the places.
    pub binds: Arc<[Bind]>,
    /// Symlinks of the host that a child must have besides, with their targets. In order
    /// of their places, which are free of symlinks and not in a bind.
    pub links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Those entries of `PATH` in which it finds programs of its own, joined by colons.
    pub path: Vec<u8>,
}

/// What is known of a program.
struct Known {
    answer: Result<Arc<HostCompiler>, InPlace>,
    facts: Facts,
    dirs: BTreeSet<Vec<u8>>,
    checked: Mutex<Checked>,
    /// Until when a failure stands that may pass.
    expires: Option<Instant>,
}

/// When it was last made sure that nothing had changed.
struct Checked {
    at: Instant,
    /// What [`Watch::heard`] said before; `None` if it hears nothing of these directories.
    heard: Option<u64>,
}

/// Where compilers are taken.
pub struct Destination<'a> {
    /// The store.
    pub store: &'a LocalStore,
    /// Whether its objects can be believed.
    pub crashes: &'a Crashes,
    /// Is told why one was not taken.
    pub diagnose: fn(&str),
}

impl Destination<'_> {
    /// The path of a valid object, if no crash has damaged it.
    fn if_sound(&self, path: StorePath) -> Result<StorePath, InPlace> {
        if self.crashes.is_sound(self.store, &path) {
            return Ok(path);
        }
        (self.diagnose)(&format!(
            "store path `{path}` is damaged; calls of this compiler run in place"
        ));
        Err(InPlace::new("compiler-damaged"))
    }
}

/// A program's path, and the `PATH` of its caller.
type Question = (Vec<u8>, Vec<u8>);

/// The memory of the host's compilers.
pub struct HostCompilers {
    record: PathBuf,
    watch: Watch,
    known: Mutex<HashMap<Question, Arc<Known>>>,
    /// Objects by the hash of their members; held while a compiler is looked at, so that
    /// no two threads import the same.
    objects: Mutex<Option<BTreeMap<Hash, StorePath>>>,
}

impl HostCompilers {
    /// A memory that keeps what later processes want to know in the file `record`.
    pub fn new(record: PathBuf) -> Self {
        Self {
            record,
            watch: Watch::new(),
            known: Mutex::default(),
            objects: Mutex::default(),
        }
    }

    /// The compiler or other program at `program` (absolute), for a caller with this
    /// `PATH`, as it is now. It stays in the store as long as this process lives.
    ///
    /// # Errors
    /// `wrapper` for a script, `unknown-compiler` for what is no program, and others for
    /// what cannot be taken into the store.
    pub fn get(
        &self,
        into: &Destination<'_>,
        program: &[u8],
        path: &[u8],
    ) -> Result<Arc<HostCompiler>, InPlace> {
        let question = (program.to_vec(), path.to_vec());
        if let Some(known) = self.current(&question) {
            return known.answer.clone();
        }
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have looked meanwhile.
        if let Some(known) = self.current(&question) {
            return known.answer.clone();
        }
        let objects = objects.get_or_insert_with(|| self.read_record());
        let known = self.look(into, objects, program, path);
        let answer = known.answer.clone();
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= QUESTIONS_MAX {
            all.clear();
        }
        all.insert(question, Arc::new(known));
        answer
    }

    /// What is known of a program, if it still holds.
    fn current(&self, question: &Question) -> Option<Arc<Known>> {
        let known = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(question)?.clone()
        };
        if known
            .expires
            .is_some_and(|expires| expires <= Instant::now())
        {
            return None;
        }
        // Before the look: what happens during it is heard the next time.
        let heard = self.watch.heard();
        let mut checked = known.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_silent = checked.heard == Some(heard);
        if is_silent && checked.at.elapsed() < SILENCE {
            drop(checked);
            return Some(known);
        }
        let at = Instant::now();
        // A directory that was replaced is watched no more.
        let listens = is_silent || self.watch.listen(&known.dirs);
        if !known.facts.hold() {
            return None;
        }
        *checked = Checked {
            at,
            heard: listens.then_some(heard),
        };
        drop(checked);
        Some(known)
    }

    /// Finds out what a program is, and has it in the store.
    fn look(
        &self,
        into: &Destination<'_>,
        objects: &mut BTreeMap<Hash, StorePath>,
        program: &[u8],
        path: &[u8],
    ) -> Known {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut members = Members::default();
            let parts = find_parts(&mut members, program, path);
            let at = Instant::now();
            let listens = self.watch.listen(&members.dirs);
            let heard = self.watch.heard();
            let answer = parts.and_then(|parts| {
                check_places(into.store, &members)?;
                if !is_settled(&members.facts) {
                    return Err(InPlace::new("compiler-changes"));
                }
                let store_path = self.store_path(into, objects, &parts.name, &members.nodes)?;
                Ok(Arc::new(compiler(into.store, store_path, parts, &members)))
            });
            // Whatever was read meanwhile was one state if all is as it was seen before.
            let holds = is_settled(&members.facts) && members.facts.hold();
            if !holds && tries < TRIES_MAX {
                // The clock's next tick tells later changes from those seen.
                std::thread::sleep(Duration::from_nanos(CLOCK_GRAIN_NANOS as u64));
                continue;
            }
            let answer = match answer {
                Ok(_) if !holds => Err(InPlace::new("compiler-changes")),
                answer => answer,
            };
            let may_pass = |reason: &InPlace| {
                !matches!(
                    reason.as_str(),
                    "wrapper" | "unknown-compiler" | "compiler-library" | "compiler-in-store"
                )
            };
            let is_failure = answer.as_ref().is_err_and(may_pass);
            return Known {
                answer,
                facts: members.facts,
                dirs: members.dirs,
                checked: Mutex::new(Checked {
                    at,
                    heard: listens.then_some(heard),
                }),
                expires: is_failure.then(|| Instant::now() + FAILURE),
            };
        }
    }

    /// The store path of these members: the recorded one, if it is there, or a new one.
    fn store_path(
        &self,
        into: &Destination<'_>,
        objects: &mut BTreeMap<Hash, StorePath>,
        name: &str,
        nodes: &BTreeMap<Vec<u8>, Node>,
    ) -> Result<StorePath, InPlace> {
        let name = super::files::object_name(name.as_bytes());
        let key = members_hash(&name, nodes);
        if let Some(path) = objects.get(&key) {
            let is_there = into
                .store
                // Before it is asked whether it is valid, so that it stays so.
                .add_temp_root(path)
                .and_then(|()| into.store.is_valid(path));
            if is_there.map_err(|_| InPlace::new("compiler-not-imported"))? {
                return into.if_sound(path.clone());
            }
        }
        let path = into.if_sound(import::import(into, &name, nodes)?)?;
        self.append_record(&key, &path);
        objects.insert(key, path.clone());
        Ok(path)
    }

    fn read_record(&self) -> BTreeMap<Hash, StorePath> {
        let is_long =
            std::fs::metadata(&self.record).is_ok_and(|metadata| metadata.len() > RECORD_LEN_MAX);
        if is_long {
            // What is lost is only time.
            let _ = std::fs::remove_file(&self.record);
        }
        let text = std::fs::read_to_string(&self.record).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let (hash, path) = line.split_once(' ')?;
                let hash = Hash::parse_unprefixed(store_types::HashAlgorithm::Sha256, hash);
                Some((hash.ok()?, StorePath::from_base_name(path).ok()?))
            })
            .collect()
    }

    fn append_record(&self, key: &Hash, path: &StorePath) {
        // One write, so that the lines of two processes do not mix.
        let line = format!("{} {}\n", key.to_hex(), path.base_name());
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.record);
        // Without it, the compiler is read again.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// Whether all was changed so long ago that a later change has another time.
fn is_settled(facts: &Facts) -> bool {
    let age = now_nanos() - facts.changed_nanos();
    // A time to come stays as it is until the clock gets there.
    !(0..=CLOCK_GRAIN_NANOS).contains(&age)
}

/// An error if a member lies where a child has something else.
fn check_places(store: &LocalStore, members: &Members) -> Result<(), InPlace> {
    let store_dir = store.store_dir().as_str().as_bytes();
    let taken = [store_dir, b"/build", b"/dev", b"/proc", b"/sys"];
    let is_taken = |path: &Vec<u8>| {
        taken.iter().any(|dir| {
            path.strip_prefix(*dir)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        })
    };
    if members
        .roots
        .iter()
        .chain(members.links.keys())
        .any(is_taken)
    {
        return Err(InPlace::new("compiler-in-store"));
    }
    Ok(())
}

/// The hash by which an object of these members is found again.
fn members_hash(name: &str, nodes: &BTreeMap<Vec<u8>, Node>) -> Hash {
    let mut hasher = Sha256Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(name.as_bytes());
    for (path, node) in nodes {
        field(path);
        match node {
            Node::Dir => field(b"dir"),
            Node::File(stamp) => {
                field(b"file");
                field(&stamp.bytes());
            }
            Node::Link(target) => {
                field(b"link");
                field(target);
            }
        }
    }
    hasher.finish().0
}

fn compiler(
    store: &LocalStore,
    store_path: StorePath,
    parts: Parts,
    members: &Members,
) -> HostCompiler {
    let object = store.store_dir().display(&store_path).into_bytes();
    let binds = members.roots.iter().map(|path| Bind {
        path: path.clone(),
        object: [object.as_slice(), path].concat(),
    });
    let links = members.links.iter();
    HostCompiler {
        store_path,
        real: parts.real,
        kind: parts.kind,
        binds: binds.collect(),
        links: links
            .filter(|(path, _)| !members.is_inside(path))
            .map(|(path, target)| (path.clone(), target.clone()))
            .collect(),
        path: parts.path,
    }
}

#[cfg(test)]
mod tests;
