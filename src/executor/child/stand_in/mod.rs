//! The same compile in another derivation: stand-ins for the outer derivation's own hashes.
//!
//! Whatever is made from `$out` differs in every input-addressed derivation. So in what a
//! compile is made of, the hash part of each of the outer derivation's own output paths is
//! replaced by a fixed text of the same length, its *stand-in*; the child compiles that, and
//! in what it leaves the stand-in is replaced by the hash. Two derivations with the same
//! sources then have the same children.
//!
//! nixpkgs gives `-frandom-seed=` the first ten characters of the hash, and GCC records that
//! argument; so behind this flag's name, beginnings of a hash are replaced as well.
//!
//! That is right only where the bytes are those of the plain call. What is done for this,
//! and why it is enough, is in `docs/adr/0010-stand-ins.md`; in short: results are looked at
//! ([`verdict`]), and whatever could know more of a hash than its length is compiled with two
//! stand-ins that have nothing in common.

mod answer;
mod elf;
pub(super) mod home;
mod names;
pub mod verdict;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use memchr::memmem;
use store_types::{Hash, StorePath};

use self::names::{Name, STAND_INS};
use super::renaming;

/// Fewer characters of a hash than this are not taken for a part of one.
const PART_LEN_MIN: usize = 8;

/// The flag whose argument may be a part of a hash.
const SEED_FLAG: &[u8] = b"-frandom-seed=";

/// Why a call cannot have stand-ins; it then has a child of its derivation alone. A short
/// stable name, by which it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Refusal(pub(super) &'static str);

impl Refusal {
    /// A part of a hash is somewhere else than behind `-frandom-seed=`.
    pub const PART_OF_HASH: Self = Self("stand-in:part-of-hash");
    /// The path of a file has a hash in it.
    pub const PATH: Self = Self("stand-in:path");
    /// GCC sorts the strings of debug information by their hashes, and the call's flags are
    /// one of them.
    pub const DEBUG_STRINGS: Self = Self("stand-in:debug-strings");
    /// The object holds intermediate code.
    pub const INTERMEDIATE_CODE: Self = Self("stand-in:lto");
    /// A section is compressed.
    pub const COMPRESSED: Self = Self("stand-in:compressed");
    /// The stand-in is in a place whose order or position may depend on it.
    pub const SECTION: Self = Self("stand-in:section");
    /// The stand-in is in a file of which it is not known what depends on it.
    pub const FILE_KIND: Self = Self("stand-in:file-kind");
    /// The child's directory is in the result.
    pub const DIRECTORY: Self = Self("stand-in:directory");
    /// The number that GCC makes of `-frandom-seed=` is in the result.
    pub const SEED_NUMBER: Self = Self("stand-in:seed-number");
    /// Two different stand-ins gave results that differ in more than them.
    pub const DIFFERENT: Self = Self("stand-in:different-result");
    /// A result is too large to be looked at.
    pub const LARGE: Self = Self("stand-in:large-result");

    /// It is no compile that a scan covers: only of those is known where stand-ins are safe.
    pub const TRACED: Self = Self("stand-in:traced");
    /// It only preprocesses: the result has no sections.
    pub const PREPROCESSED: Self = Self("stand-in:preprocessed");

    const ALL: [Self; 13] = [
        Self::PART_OF_HASH,
        Self::PATH,
        Self::DIRECTORY,
        Self::DEBUG_STRINGS,
        Self::INTERMEDIATE_CODE,
        Self::COMPRESSED,
        Self::SECTION,
        Self::FILE_KIND,
        Self::SEED_NUMBER,
        Self::DIFFERENT,
        Self::LARGE,
        Self::TRACED,
        Self::PREPROCESSED,
    ];

    /// The name by which it is counted.
    pub fn name(self) -> &'static str {
        self.0
    }

    /// The refusal of this name.
    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.0 == name)
    }
}

/// One of the two stand-ins that each output has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// What children are compiled with.
    First,
    /// What a result is compared with, to see that it knows no more than the length.
    Second,
}

/// One text to be put in place of another, and how the other is found.
struct Rule {
    from: Name,
    to: Name,
    begin: memmem::Finder<'static>,
}

/// Texts of equal length that are to be put in place of others.
pub struct Mapping(Vec<Rule>);

/// Where a text is that a [`Mapping`] replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its first byte.
    pub at: usize,
    /// How much of it there is; all, if it is as long as a hash.
    pub len: usize,
    rule: usize,
}

impl Hit {
    /// Whether it is a whole hash and not a beginning.
    pub fn is_whole(&self) -> bool {
        self.len == size_of::<Name>()
    }
}

impl Mapping {
    fn new(pairs: impl Iterator<Item = (Name, Name)>) -> Self {
        let rule = |(from, to): (Name, Name)| Rule {
            from,
            to,
            begin: memmem::Finder::new(&from[..PART_LEN_MIN]).into_owned(),
        };
        Self(pairs.map(rule).collect())
    }

    /// All places in `bytes`, in the order of the text.
    pub fn hits(&self, bytes: &[u8]) -> Result<Vec<Hit>, Refusal> {
        let mut hits = Vec::new();
        if bytes.len() < PART_LEN_MIN {
            return Ok(hits);
        }
        for (number, rule) in self.0.iter().enumerate() {
            for at in rule.begin.find_iter(bytes) {
                let len = common_len(&bytes[at..], &rule.from);
                let is_whole = len == rule.from.len();
                let is_seed = bytes[..at].ends_with(SEED_FLAG)
                    && !bytes.get(at + len).is_some_and(u8::is_ascii_alphanumeric);
                if !is_whole && !is_seed {
                    return Err(Refusal::PART_OF_HASH);
                }
                hits.push(Hit {
                    at,
                    len,
                    rule: number,
                });
            }
        }
        hits.sort_unstable_by_key(|hit| hit.at);
        Ok(hits)
    }

    /// The bytes with everything replaced; `None` if there is nothing to replace.
    pub fn apply(&self, bytes: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let hits = self.hits(bytes)?;
        if hits.is_empty() {
            return Ok(None);
        }
        let mut replaced = bytes.to_vec();
        for hit in &hits {
            let to = &self.0[hit.rule].to[..hit.len];
            replaced[hit.at..hit.at + hit.len].copy_from_slice(to);
        }
        Ok(Some(replaced))
    }

    /// The same, where nothing to replace is as good.
    pub fn applied(&self, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
        Ok(self.apply(bytes)?.unwrap_or_else(|| bytes.to_vec()))
    }
}

fn common_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The stand-ins of one outer derivation.
pub struct StandIns {
    to_first: Mapping,
    to_second: Mapping,
    from_first: Mapping,
    /// What was found in the contents of files, by the hashes of their NARs.
    searched: Mutex<HashMap<Hash, answer::Searched>>,
    named: Mutex<home::Named>,
}

impl StandIns {
    /// Those for the hash parts of these output paths. Which path gets which stand-in follows
    /// from the order, so it has to be that of the outputs' names. Outputs beyond the
    /// sixteenth have none.
    pub fn new<'a>(outputs: impl IntoIterator<Item = &'a StorePath>) -> Self {
        let both: Vec<(Name, &(Name, Name))> = outputs
            .into_iter()
            .filter_map(|path| path.base_name().as_bytes().first_chunk().copied())
            .zip(&STAND_INS)
            .collect();
        let pairs = |select: fn(&(Name, Name)) -> Name| {
            both.iter()
                .map(move |(own, stand_ins)| (*own, select(stand_ins)))
        };
        Self {
            to_first: Mapping::new(pairs(|both| both.0)),
            to_second: Mapping::new(pairs(|both| both.1)),
            from_first: Mapping::new(pairs(|both| both.0).map(|(own, first)| (first, own))),
            searched: Mutex::default(),
            named: Mutex::default(),
        }
    }

    /// Whether there is nothing to stand in for.
    fn is_empty(&self) -> bool {
        self.to_first.0.is_empty()
    }

    /// What puts stand-ins in place of the derivation's own hashes.
    pub fn replace(&self, which: Which) -> &Mapping {
        match which {
            Which::First => &self.to_first,
            Which::Second => &self.to_second,
        }
    }

    /// What of these texts has a name of its own in a traced call: hashes, and seeds with their
    /// flag, each once.
    pub(super) fn names_in<'t>(
        &self,
        texts: impl Iterator<Item = &'t Vec<u8>>,
    ) -> Result<Vec<renaming::Name>, Refusal> {
        let mut names: Vec<renaming::Name> = Vec::new();
        for text in texts {
            for hit in self.to_first.hits(text)? {
                let (first, second) = (&self.to_first.0[hit.rule], &self.to_second.0[hit.rule]);
                let flag: &[u8] = if hit.is_whole() { b"" } else { SEED_FLAG };
                let own = [flag, &first.from[..hit.len]].concat();
                if names.iter().all(|name| name.own != own) {
                    names.push(renaming::Name {
                        own,
                        mark: first.from[..PART_LEN_MIN].to_vec(),
                        first: [flag, &first.to[..hit.len]].concat(),
                        second: [flag, &second.to[..hit.len]].concat(),
                    });
                }
            }
        }
        // A seed may be the beginning of another, or of a whole hash behind the same flag.
        names.sort_by_key(|name| (name.own.starts_with(SEED_FLAG), Reverse(name.own.len())));
        Ok(names)
    }

    fn named(&self) -> MutexGuard<'_, home::Named> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What puts the derivation's own hashes in place of first stand-ins.
    pub fn restore(&self) -> &Mapping {
        &self.from_first
    }
}

/// The arguments of `-frandom-seed=` in a text of words.
pub fn seeds(text: &[u8]) -> Vec<&[u8]> {
    memmem::find_iter(text, SEED_FLAG)
        .map(|at| {
            let seed = &text[at + SEED_FLAG.len()..];
            let end = seed.iter().position(u8::is_ascii_whitespace);
            &seed[..end.unwrap_or(seed.len())]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: &str = "1mdqa9w1p6cmli6976v4wi0sw9r4p5pr";
    const DEV: &str = "2mdqa9w1p6cmli6976v4wi0sw9r4p5pr";

    fn stand_ins() -> StandIns {
        let path = |hash: &str| StorePath::from_base_name(&format!("{hash}-x")).unwrap();
        StandIns::new(&[path(DEV), path(OUT)])
    }

    fn text(name: Name) -> String {
        String::from_utf8(name.to_vec()).unwrap()
    }

    #[test]
    fn hashes_and_seeds_are_replaced_and_put_back() {
        let stand_ins = stand_ins();
        let (dev, out) = (text(STAND_INS[0].0), text(STAND_INS[1].0));
        let before = format!(
            "-DP=\"/nix/store/{OUT}-x/share:{DEV}\" -frandom-seed={} -g",
            &OUT[..10]
        );
        let after = format!(
            "-DP=\"/nix/store/{out}-x/share:{dev}\" -frandom-seed={} -g",
            &out[..10]
        );
        let replaced = stand_ins.replace(Which::First).apply(before.as_bytes());
        assert_eq!(replaced, Ok(Some(after.clone().into_bytes())));
        let restored = stand_ins.restore().apply(after.as_bytes());
        assert_eq!(restored, Ok(Some(before.into_bytes())));
    }

    #[test]
    fn nothing_is_made_of_a_text_without_them() {
        let stand_ins = stand_ins();
        for text in [
            "",
            "-O2",
            "/nix/store/0mdqa9w1p6cmli6976v4wi0sw9r4p5pr-x",
            &OUT[..7],
        ] {
            assert_eq!(
                stand_ins.replace(Which::First).apply(text.as_bytes()),
                Ok(None)
            );
        }
    }

    #[test]
    fn parts_are_only_understood_as_seeds() {
        let stand_ins = stand_ins();
        let part = &OUT[..10];
        for text in [
            format!("-DID={part}"),
            part.to_owned(),
            format!("-frandom-seed={part}x"),
            format!("-frandom-seed=x{part}"),
            format!("-frandom-seed={}", &OUT[..31]) + "x",
        ] {
            let refused = stand_ins.replace(Which::First).apply(text.as_bytes());
            assert_eq!(refused, Err(Refusal::PART_OF_HASH), "{text}");
        }
        for text in [
            format!("-frandom-seed={part}"),
            format!("a -frandom-seed={part} b"),
            format!("-frandom-seed={OUT}"),
            format!("-frandom-seed={}\0", &OUT[..8]),
        ] {
            let hits = stand_ins.replace(Which::First).hits(text.as_bytes());
            assert_eq!(hits.unwrap().len(), 1, "{text}");
        }
    }

    #[test]
    fn seeds_are_found_among_words() {
        let text = b"-O2 -frandom-seed=abc -g\n-frandom-seed=\t-frandom-seed=last";
        assert_eq!(seeds(text), [&b"abc"[..], b"", b"last"]);
        assert!(seeds(b"-frandom-seed").is_empty());
    }

    #[test]
    fn each_refusal_has_a_name_of_its_own() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::named(refusal.name()), Some(refusal));
        }
        assert_eq!(Refusal::named("stand-in:none"), None);
    }
}
