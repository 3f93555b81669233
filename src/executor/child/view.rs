//! What a traced call's questions find in its caller's view.
//!
//! The same code answers a tool that runs for the first time and the records of an
//! earlier run, so that both come to the same child if nothing has changed.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::call::Asked;
use super::files::LocalFile;
use super::host::HostCompiler;
use super::inputs::{InputFile, with_times};
use super::outcome::InPlace;
use super::records::Query;
use super::tree::{Entry, Found, Walker, join, split_last};

/// A directory with more entries than this is not laid out for being listed.
const LISTED_MAX: usize = 4096;

/// A call that looks up more names than this runs in place.
const QUERIES_MAX: usize = 200_000;

/// Files that are read for one call, together, in bytes at most.
const BYTES_MAX: usize = 512 << 20;

/// The part of a caller's view that a call has asked for.
pub(super) struct View<'a> {
    asked: &'a Asked<'a>,
    pub(super) walker: Walker<'a>,
    /// Local files by their real paths.
    pub(super) files: BTreeMap<Vec<u8>, LocalFile>,
    /// Local files of which nothing but the names is known, in directories that were listed.
    pub(super) listed: BTreeSet<Vec<u8>>,
    queries: Vec<Query>,
    seen: HashSet<Query>,
    bytes_read: usize,
    hidden: Hidden,
}

/// What its caller has and a call is not to see.
#[derive(Clone, Debug, Default)]
pub(super) struct Hidden {
    /// Paths that are not to be there.
    paths: HashSet<Vec<u8>>,
    /// Directories that are to be empty.
    dirs: HashSet<Vec<u8>>,
    /// Compiled modules of Python's.
    python_caches: bool,
}

/// The directory of compiled modules.
const PYTHON_CACHE: &[u8] = b"__pycache__";

impl Hidden {
    /// What is hidden of calls of programs that may be Python's.
    pub(super) fn of_any_program() -> Self {
        Self {
            python_caches: true,
            ..Self::default()
        }
    }

    /// Hides what has these names.
    pub(super) fn add(&mut self, names: Vec<Vec<u8>>) {
        self.paths.extend(names);
    }

    /// Hides what is in the directory that has these names.
    pub(super) fn add_below(&mut self, names: Vec<Vec<u8>>) {
        self.dirs.extend(names);
    }

    fn has(&self, path: &[u8]) -> bool {
        if self.python_caches
            && path
                .split(|byte| *byte == b'/')
                .any(|part| part == PYTHON_CACHE)
        {
            return true;
        }
        if self.paths.is_empty() && self.dirs.is_empty() {
            return false;
        }
        let mut here = path;
        while here.len() > 1 {
            if self.paths.contains(here) || (here.len() < path.len() && self.dirs.contains(here)) {
                return true;
            }
            here = split_last(here).0;
        }
        false
    }
}

impl<'a> View<'a> {
    /// A view in which nothing has been asked for, of a caller whose program is `host` if it
    /// is one of the host's.
    pub(super) fn new(
        asked: &'a Asked<'a>,
        is_input: &'a dyn Fn(&store_types::StorePath) -> bool,
        host: Option<&HostCompiler>,
        hidden: Hidden,
    ) -> Self {
        let mut walker = Walker::new(asked.tree(), &asked.executor.store_tree, is_input);
        if let Some(compiler) = host {
            walker.bind(compiler);
        }
        Self {
            asked,
            walker,
            files: BTreeMap::new(),
            listed: BTreeSet::new(),
            queries: Vec::new(),
            seen: HashSet::new(),
            bytes_read: 0,
            hidden,
        }
    }

    /// Whether what is at this path looks as if it were not there.
    pub(super) fn hides(&self, path: &[u8]) -> bool {
        self.hidden.has(path)
    }

    /// What was asked, in order, each once.
    pub(super) fn into_queries(self) -> Vec<Query> {
        self.queries
    }

    /// How many directories, links, files and names of files it holds.
    pub(super) fn extent(&self) -> [usize; 4] {
        let layout = &self.walker.layout;
        let (dirs, links) = (layout.dirs.len(), layout.links.len());
        [dirs, links, self.files.len(), self.listed.len()]
    }

    /// Whether this was asked before.
    pub(super) fn has_answered(&self, query: &Query) -> bool {
        self.seen.contains(query)
    }

    /// Asks, and takes what is there into the view.
    pub(super) fn ask(&mut self, query: Query) -> Result<(), InPlace> {
        if self.seen.contains(&query) {
            return Ok(());
        }
        if self.queries.len() >= QUERIES_MAX {
            return Err(InPlace::new("many-lookups"));
        }
        match &query {
            Query::Path(path) => {
                self.take(path)?;
            }
            Query::List(path) => {
                if let Found::Dir(dir) = self.take(path)? {
                    self.take_entries(&dir)?;
                }
            }
        }
        self.seen.insert(query.clone());
        self.queries.push(query);
        Ok(())
    }

    fn take(&mut self, path: &[u8]) -> Result<Found, InPlace> {
        if self.hides(path) {
            return Ok(Found::Missing);
        }
        let found = self.walker.find(b"/", path)?;
        if let Found::LocalFile(real) | Found::Dir(real) = &found
            && self.hides(real)
        {
            return Err(InPlace::new("output-by-another-name"));
        }
        if let Found::LocalFile(real) = &found
            && !self.files.contains_key(real)
        {
            let memory = &self.asked.executor.memory;
            let file = memory.local(self.walker.tree(), real)?;
            self.bytes_read += file.bytes.as_ref().map_or(0, |bytes| bytes.len());
            if self.bytes_read > BYTES_MAX {
                return Err(InPlace::new("large-input"));
            }
            self.listed.remove(real);
            self.files.insert(real.clone(), file);
        }
        Ok(found)
    }

    fn take_entries(&mut self, dir: &[u8]) -> Result<(), InPlace> {
        let Some(listing) = self.walker.listing(dir)? else {
            // Parts of a root that are the same in every sandbox.
            return Err(InPlace::new("listed-directory"));
        };
        if !self.walker.is_local(dir) {
            return Ok(());
        }
        if listing.len() > LISTED_MAX {
            return Err(InPlace::new("listed-directory"));
        }
        for (name, entry) in listing.iter() {
            let path = join(dir, name);
            if self.hides(&path) {
                continue;
            }
            // Names and kinds only: who wants to know more asks for the path.
            let layout = &mut self.walker.layout;
            match entry {
                Entry::File if self.files.contains_key(&path) => {}
                Entry::File => drop(self.listed.insert(path)),
                Entry::Dir => drop(layout.dirs.insert(path)),
                Entry::Symlink(target) => drop(layout.links.insert(path, target.to_vec())),
                Entry::Other => return Err(InPlace::new("special-file")),
            }
        }
        Ok(())
    }

    /// The files as a child gets them. What tools read of a file's time is the same for
    /// all; where two files of equal content and different times could be told apart by
    /// them, the call is refused.
    pub(super) fn input_files(
        &self,
        is_preprocessed: bool,
    ) -> Result<BTreeMap<Vec<u8>, InputFile>, InPlace> {
        let files = self.files.iter().map(|(path, file)| {
            let file = LocalFile {
                bytes: None,
                ..file.clone()
            };
            (path.clone(), file)
        });
        let inputs = with_times(files.collect(), is_preprocessed)?;
        let first = inputs.values().map(|input| input.mtime).next();
        if inputs.values().any(|input| Some(input.mtime) != first) {
            return Err(InPlace::new("equal-inputs"));
        }
        Ok(inputs
            .into_iter()
            .map(|(path, input)| {
                let executable = input.file.executable;
                (
                    path,
                    InputFile {
                        executable,
                        ..input
                    },
                )
            })
            .collect())
    }
}
