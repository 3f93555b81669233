//! Names that mean nothing, and that a call's child has others for.
//!
//! CMake and Meson try each thing in a directory of a new name, so that no probe of one
//! configuration has the words of another's; and of two derivations each has its own `$out`. A
//! traced call that has such names in its words has its child with others of the same length,
//! always the same ones: its *first* names. The caller gets what that child has left with its own
//! names in place of these, if a child with *second* names has left the same but for them. See
//! `docs/adr/0012-other-names-in-traced-calls.md`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use memchr::memmem;
use shim_core::protocol::Call;

use super::assemble::Command;
use super::inputs::InputFile;
use super::records::Query;
use super::stand_in::{Refusal, StandIns, Which};
use super::tree::Layout;

/// What the names of one kind look like.
struct Kind {
    /// What comes before the name where it is found.
    before: &'static [u8],
    /// How it begins.
    begin: &'static [u8],
    /// How many characters are made up, of which kind.
    len: usize,
    is_made_up: fn(&u8) -> bool,
    /// Of what the others consist.
    first: u8,
    second: u8,
}

/// The kinds of names. What stands for them is a part of keys, so it may never change. Of the two of
/// a kind one is of letters, as the names may have them, and the other of digits.
const KINDS: [Kind; 3] = [
    // CMake since 3.25: the directory of a `try_compile`, by mkdtemp(3).
    Kind {
        before: b"/",
        begin: b"TryCompile-",
        len: 6,
        is_made_up: u8::is_ascii_alphanumeric,
        first: b'z',
        second: b'0',
    },
    // CMake: the target of a `try_compile`.
    Kind {
        before: b"",
        begin: b"cmTC_",
        len: 5,
        is_made_up: |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        first: b'f',
        second: b'0',
    },
    // Meson: a directory by Python's `tempfile`.
    Kind {
        before: b"meson-private/",
        begin: b"tmp",
        len: 8,
        is_made_up: |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'_'),
        first: b'z',
        second: b'0',
    },
];

/// A name, and those that stand for it; all of one length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) own: Vec<u8>,
    /// What of it must be in no text where it is not replaced.
    pub(super) mark: Vec<u8>,
    pub(super) first: Vec<u8>,
    pub(super) second: Vec<u8>,
}

/// The names in a call's words that its child has others for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Renaming(Vec<Name>);

/// Whether a name can go on with this.
fn goes_on(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'_'
}

impl Kind {
    /// The names of this kind in a text.
    fn names<'t>(&'t self, text: &'t [u8]) -> impl Iterator<Item = &'t [u8]> {
        let len = self.begin.len() + self.len;
        memmem::find_iter(text, self.begin).filter_map(move |at| {
            let name = text.get(at..at + len)?;
            let is_alone = text[..at].ends_with(self.before)
                && !text[..at].last().is_some_and(goes_on)
                && !text.get(at + len).is_some_and(goes_on)
                && name[self.begin.len()..].iter().all(self.is_made_up);
            is_alone.then_some(name)
        })
    }

    fn name(&self, own: &[u8]) -> Name {
        let of = |byte: u8| [self.begin, vec![byte; self.len].as_slice()].concat();
        Name {
            own: own.to_vec(),
            mark: own.to_vec(),
            first: of(self.first),
            second: of(self.second),
        }
    }
}

fn has(text: &[u8], name: &[u8]) -> bool {
    memmem::find(text, name).is_some()
}

/// A text in which each `from` is replaced by a `to` of its length.
fn replaced<'t, 'n>(
    text: &'t [u8],
    names: impl Iterator<Item = (&'n [u8], &'n [u8])>,
) -> Cow<'t, [u8]> {
    let mut text = Cow::Borrowed(text);
    for (from, to) in names {
        let places: Vec<usize> = memmem::find_iter(&text, from).collect();
        for at in places {
            text.to_mut()[at..at + to.len()].copy_from_slice(to);
        }
    }
    text
}

/// What a child has of its caller's files.
pub(super) struct LaidOut {
    pub(super) layout: Layout,
    pub(super) files: BTreeMap<Vec<u8>, InputFile>,
    /// Files of which there are only the names.
    pub(super) listed: BTreeSet<Vec<u8>>,
}

impl Renaming {
    /// The made-up names in a call's words and directory; `None` if there are none, or more than
    /// one of a kind.
    pub(super) fn made_up(call: &Call) -> Option<Self> {
        let words = || call.argv.iter().chain([&call.cwd]);
        let mut names = Vec::new();
        for kind in &KINDS {
            let found: BTreeSet<&[u8]> = words().flat_map(|word| kind.names(word)).collect();
            match found.len() {
                0 => {}
                1 => names.extend(found.first().map(|own| kind.name(own))),
                _ => return None,
            }
        }
        (!names.is_empty()).then_some(Self(names))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the hashes of the outer derivation's own outputs that are in a command, and their
    /// beginnings that are seeds. `None` if there is nothing to be renamed at all, or something in
    /// the command that stands for a name already.
    pub(super) fn with_hashes(
        mut self,
        stand_ins: &StandIns,
        command: &Command,
    ) -> Result<Option<Self>, Refusal> {
        let texts = || command.argv.iter().chain(command.env.values());
        self.0.extend(stand_ins.names_in(texts())?);
        let texts = || texts().chain([&command.cwd, &command.exe]);
        let is_free = |name: &Name| {
            let stand_ins = [&name.first, &name.second];
            !texts().any(|text| stand_ins.iter().any(|name| has(text, name)))
        };
        Ok((!self.is_empty() && self.0.iter().all(is_free)).then_some(self))
    }

    /// A text of the caller as the child has it.
    pub(super) fn inside<'t>(&self, which: Which, text: &'t [u8]) -> Cow<'t, [u8]> {
        let names = self.0.iter().map(|name| match which {
            Which::First => (&*name.own, &*name.first),
            Which::Second => (&*name.own, &*name.second),
        });
        replaced(text, names)
    }

    /// A text of a child with first names as its caller has it.
    pub(super) fn outside<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let names = self.0.iter();
        replaced(text, names.map(|name| (&*name.first, &*name.own)))
    }

    /// A text of a child with first names as one with second names has it.
    pub(super) fn again<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let names = self.0.iter();
        replaced(text, names.map(|name| (&*name.first, &*name.second)))
    }

    /// Whether a text has one of the caller's names in it, or of a hash a part.
    pub(super) fn are_in(&self, text: &[u8]) -> bool {
        self.0.iter().any(|name| has(text, &name.mark))
    }

    /// Whether a text has a first name in it.
    pub(super) fn have_firsts_in(&self, text: &[u8]) -> bool {
        self.0.iter().any(|name| has(text, &name.first))
    }

    /// What a child with first names has asked for, as its caller would; `None` if it has a name of
    /// the caller's in it, which the child's words cannot have told.
    pub(super) fn query_outside(&self, query: &Query) -> Option<Query> {
        let outside = |path: &[u8]| (!self.are_in(path)).then(|| self.outside(path).into_owned());
        match query {
            Query::Path(path) => outside(path).map(Query::Path),
            Query::List(path) => outside(path).map(Query::List),
        }
    }

    /// What a caller has asked for, as a child with first names would.
    pub(super) fn query_inside(&self, query: Query) -> Query {
        let inside = |path: Vec<u8>| self.inside(Which::First, &path).into_owned();
        match query {
            Query::Path(path) => Query::Path(inside(path)),
            Query::List(path) => Query::List(inside(path)),
        }
    }

    /// A command as a child has it.
    pub(super) fn command_inside(&self, command: &Command) -> Command {
        self.command(command, |text| self.inside(Which::First, text).into_owned())
    }

    /// A command with first names as a child with second ones has it.
    pub(super) fn command_again(&self, command: &Command) -> Command {
        self.command(command, |text| self.again(text).into_owned())
    }

    fn command(&self, command: &Command, replace: impl Fn(&[u8]) -> Vec<u8>) -> Command {
        let Command {
            exe,
            argv,
            env,
            cwd,
            ttys,
        } = command;
        let env = env.iter();
        Command {
            exe: replace(exe),
            argv: argv.iter().map(|word| replace(word)).collect(),
            env: env
                .map(|(name, value)| (name.clone(), replace(value)))
                .collect(),
            cwd: replace(cwd),
            ttys: *ttys,
        }
    }

    /// What is laid out for a caller as it is laid out for a child; `None` if two paths became
    /// one.
    pub(super) fn laid_out_inside(
        &self,
        which: Which,
        layout: &Layout,
        files: &BTreeMap<Vec<u8>, InputFile>,
        listed: &BTreeSet<Vec<u8>>,
    ) -> Option<LaidOut> {
        let inside = |path: &[u8]| self.inside(which, path).into_owned();
        let dirs: BTreeSet<Vec<u8>> = layout.dirs.iter().map(|dir| inside(dir)).collect();
        let links = layout.links.iter();
        let links: BTreeMap<Vec<u8>, Vec<u8>> = links
            .map(|(link, target)| (inside(link), inside(target)))
            .collect();
        let moved = files.iter();
        let moved: BTreeMap<Vec<u8>, InputFile> = moved
            .map(|(path, file)| (inside(path), file.clone()))
            .collect();
        let names: BTreeSet<Vec<u8>> = listed.iter().map(|path| inside(path)).collect();
        let are_all = dirs.len() == layout.dirs.len()
            && links.len() == layout.links.len()
            && moved.len() == files.len()
            && names.len() == listed.len();
        let layout = Layout {
            dirs,
            links,
            ups: BTreeSet::new(),
            store_paths: layout.store_paths.clone(),
            binds: layout.binds.clone(),
        };
        are_all.then_some(LaidOut {
            layout,
            files: moved,
            listed: names,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cwd: &str, argv: &[&str]) -> Option<Renaming> {
        Renaming::made_up(&Call {
            argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
            cwd: cwd.into(),
            ..Call::default()
        })
    }

    fn command(argv: &[&str]) -> Command {
        Command {
            exe: b"/cc".to_vec(),
            argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
            env: BTreeMap::new(),
            cwd: b"/build".to_vec(),
            ttys: [None, None],
        }
    }

    fn text(bytes: Cow<'_, [u8]>) -> String {
        String::from_utf8(bytes.into_owned()).unwrap()
    }

    #[test]
    fn the_names_of_a_probe_are_replaced_and_put_back() {
        let dir = "/b/CMakeFiles/CMakeScratch/TryCompile-o3njo5";
        let object = "CMakeFiles/cmTC_e9f64.dir/a.c.o";
        let names = of(dir, &["cc", "-o", object, "-c", &format!("{dir}/a.c")]).unwrap();
        let both = format!("{dir}/{object}");
        let first = "/b/CMakeFiles/CMakeScratch/TryCompile-zzzzzz/CMakeFiles/cmTC_fffff.dir/a.c.o";
        let second = "/b/CMakeFiles/CMakeScratch/TryCompile-000000/CMakeFiles/cmTC_00000.dir/a.c.o";
        assert_eq!(text(names.inside(Which::First, both.as_bytes())), first);
        assert_eq!(text(names.inside(Which::Second, both.as_bytes())), second);
        assert_eq!(text(names.outside(first.as_bytes())), both);
        assert_eq!(text(names.again(first.as_bytes())), second);
        assert!(names.are_in(both.as_bytes()) && !names.are_in(first.as_bytes()));
        let query = Query::Path(both.clone().into_bytes());
        assert_eq!(names.query_outside(&query), None);
        let inside = names.query_inside(Query::Path(both.into_bytes()));
        assert_eq!(inside, Query::Path(first.as_bytes().to_vec()));
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        for name in [
            "/b/TryCompile-o3njo",
            "/b/TryCompile-o3njo5x",
            "/b/MyTryCompile-o3njo5",
            "/b/cmTC_e9g64",
            "/b/cmTC_e9f64a",
            "/b/XcmTC_e9f64",
            "/b/tmp9s7tf2ba",
            "/b/meson-private/tmp9s7tf2b",
            "/b/meson-private/tmp9s7tf2baX",
        ] {
            assert_eq!(of(name, &["cc"]), None, "{name}");
        }
        for name in [
            "/b/TryCompile-o3njo5",
            "/b/cmTC_e9f64",
            "/b/meson-private/tmp9s7tf2ba/x",
        ] {
            assert!(of(name, &["cc"]).is_some(), "{name}");
        }
    }

    #[test]
    fn two_of_a_kind_and_such_as_stand_for_others_are_left_alone() {
        assert_eq!(of("/b/cmTC_e9f64", &["cc", "cmTC_e9f65.o"]), None);
        let names = of("/b/cmTC_e9f64", &["cc", "cmTC_e9f64.o"]).unwrap();
        let with = |word: &str| {
            let names = names.clone();
            names
                .with_hashes(&StandIns::new([]), &command(&["cc", word]))
                .unwrap()
        };
        assert_eq!(with("cmTC_e9f64.o"), Some(names.clone()));
        assert_eq!(with("cmTC_fffff.o"), None);
        assert_eq!(with("cmTC_00000.o"), None);
    }

    #[test]
    fn hashes_of_outputs_and_seeds_are_names() {
        let hash = "1mdqa9w1p6cmli6976v4wi0sw9r4p5pr";
        let path = store_types::StorePath::from_base_name(&format!("{hash}-x")).unwrap();
        let stand_ins = StandIns::new([&path]);
        let with = |argv: &[&str]| Renaming::default().with_hashes(&stand_ins, &command(argv));
        let of = |argv: &[&str]| with(argv).unwrap();
        let (seed, rpath) = (
            format!("-frandom-seed={}", &hash[..10]),
            format!("-L/nix/store/{hash}-x/lib"),
        );
        let names = of(&["cc", &seed, &rpath]).unwrap();
        for own in [&seed, &rpath] {
            let first = text(names.inside(Which::First, own.as_bytes()));
            let second = text(names.inside(Which::Second, own.as_bytes()));
            assert!(!first.contains(&hash[..8]) && !second.contains(&hash[..8]));
            assert_eq!(text(names.outside(first.as_bytes())), *own);
            assert_eq!(text(names.again(first.as_bytes())), second);
        }
        assert!(names.are_in(&hash.as_bytes()[..8]));
        assert_eq!(of(&["cc", "-c"]), None);
        assert_eq!(with(&["cc", &hash[..10]]), Err(Refusal::PART_OF_HASH));
    }

    #[test]
    fn what_stands_for_a_name_could_be_one() {
        for kind in &KINDS {
            assert!((kind.is_made_up)(&kind.first) && (kind.is_made_up)(&kind.second));
            assert!(kind.first.is_ascii_lowercase() && kind.second == b'0');
        }
    }
}
