//! Whether a call that has failed in its sandbox fails for its caller, too, and in the same way.
//!
//! The caller has made the call itself, and tells how it ended and what it printed; what it left is
//! looked at. A caller may lie: then a failure is believed that is what the child's derivation
//! gives, and that a plain call would perhaps not have given.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

use shim_core::manifest;
use shim_core::protocol::{Ended, TRIED_BYTES_MAX, Tried};

use super::call::Asked;
use super::index::Child;
use super::outcome::InPlace;
use super::traced::Traceable;
use super::tree::{Found, Walker, join};

/// What programs say that failed for want of memory, space, processes or descriptors, or because
/// they were killed: strerror(3), GCC's drivers and passes.
const WANTS: &[&str] = &[
    "annot allocate memory",
    "Disk quota exceeded",
    "File too large",
    "Input/output error",
    "Killed",
    "No space left on device",
    "Resource temporarily unavailable",
    "Too many open files",
    "internal compiler error",
    "memory exhausted",
    "out of memory",
    "terminated with signal",
];

/// How two failures compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// They are the same.
    Same,
    /// One of them says that something was used up, which is of the moment; or it may, in a
    /// language that is not understood here.
    ForWant,
    /// Which was written first to the one stream is not known.
    Interleaved,
    /// The caller's is none.
    OnlyHere,
    /// They are not the same.
    Different,
}

/// Compares a child that has failed with what its caller tells of the call.
pub(super) fn compare(
    call: &Traceable<'_>,
    child: &Child,
    tried: &Tried,
) -> Result<Comparison, InPlace> {
    let asked = call.asked;
    let unreadable = || InPlace::new("child-unreadable");
    let text = |name: &str| read(asked, child, name.as_bytes()).ok_or_else(unreadable);
    let text = |name| Ok::<_, InPlace>(call.outside(&text(name)?).into_owned());
    let (mut stdout, mut stderr) = (text(manifest::STDOUT)?, text(manifest::STDERR)?);
    let texts = [&stdout, &stderr, &tried.stdout, &tried.stderr];
    if !is_understood(asked) || texts.into_iter().any(|text| is_for_want(text)) {
        return Ok(Comparison::ForWant);
    }
    if tried.ended == Ended::Exited(0) {
        return Ok(Comparison::OnlyHere);
    }
    if asked.call.is_one_stream {
        if !stdout.is_empty() && !stderr.is_empty() {
            return Ok(Comparison::Interleaved);
        }
        stdout.append(&mut stderr);
    }
    let dirs = temporary_dirs(asked);
    let is_same = child.result.status.map(Ended::Exited) == Some(tried.ended)
        && is_same_but_for_temporaries(&stdout, &tried.stdout, &dirs)
        && is_same_but_for_temporaries(&stderr, &tried.stderr, &dirs)
        && has_left_the_same(call, child)?;
    Ok(match is_same {
        true => Comparison::Same,
        false => Comparison::Different,
    })
}

/// Whether messages are in English (locale(7), gettext(3)).
fn is_understood(asked: &Asked<'_>) -> bool {
    let value = |name: &str| {
        asked
            .env
            .get(name.as_bytes())
            .filter(|value| !value.is_empty())
    };
    let locale = ["LC_ALL", "LC_MESSAGES", "LANG"]
        .into_iter()
        .find_map(value);
    let is_c = |locale: &Vec<u8>| {
        let name = locale.split(|byte| *byte == b'.').next();
        matches!(name, Some(b"C" | b"POSIX"))
    };
    let is_english = |text: &Vec<u8>| text.starts_with(b"en");
    match locale {
        None => true,
        Some(locale) if is_c(locale) => true,
        Some(locale) => is_english(locale) && value("LANGUAGE").is_none_or(is_english),
    }
}

/// Whether a failure may be one of the sandbox's, which has less memory and room than its caller,
/// or of the moment.
fn is_for_want(text: &[u8]) -> bool {
    let says = |want: &&str| memchr::memmem::find(text, want.as_bytes()).is_some();
    WANTS.iter().any(says)
}

/// A file of a child's output; not more than a caller can tell.
fn read(asked: &Asked<'_>, child: &Child, relative: &[u8]) -> Option<Vec<u8>> {
    let file = asked
        .executor
        .open_in_output(&child.output, relative)
        .ok()?;
    let mut bytes = Vec::new();
    File::from(file)
        .take(TRIED_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .ok()?;
    (bytes.len() <= TRIED_BYTES_MAX).then_some(bytes)
}

/// Whether the caller has the files that the child has left, and no other of those that such a
/// call leaves.
fn has_left_the_same(call: &Traceable<'_>, child: &Child) -> Result<bool, InPlace> {
    let asked = call.asked;
    let is_input = |path: &_| asked.caller.is_allowed(path);
    let mut walker = Walker::new(asked.tree(), &asked.executor.store_tree, &is_input);
    let path_of = |path: &[u8]| [b"/", &*call.outside(path)].concat();
    for file in &child.result.files {
        let Found::LocalFile(real) = walker.look(b"/", &path_of(&file.path))? else {
            return Ok(false);
        };
        let memory = &asked.executor.memory;
        let theirs = memory.bytes(asked.tree(), &real, &memory.local(asked.tree(), &real)?)?;
        let inside = join(manifest::FILES.as_bytes(), &file.path);
        let ours = read(asked, child, &inside);
        if ours.is_none_or(|ours| *call.outside(&ours) != *theirs) {
            return Ok(false);
        }
    }
    if call.older.is_some() {
        // It may be that one still.
        return Ok(true);
    }
    for output in &call.outputs {
        let is_left = walker.look(b"/", output)? != Found::Missing;
        let left = &child.result.files;
        if is_left && !left.iter().any(|file| path_of(&file.path) == *output) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where a compiler makes its temporary files.
pub(super) fn temporary_dirs(asked: &Asked<'_>) -> Vec<Vec<u8>> {
    let named = [&b"TMPDIR"[..], b"TMP", b"TEMP"];
    let named = named
        .into_iter()
        .filter_map(|name| asked.env.get(name).cloned());
    let usual = [&b"/tmp"[..], b"/var/tmp", b"/usr/tmp"].map(<[u8]>::to_vec);
    named
        .filter(|dir| dir.starts_with(b"/") && dir.len() < PATH_MAX)
        .chain(usual)
        .collect()
}

/// No path is longer (limits.h).
const PATH_MAX: usize = 4096;

/// A compiler makes up no more characters than these of a temporary file's name.
const MADE_UP_MAX: usize = 8;

/// Whether two texts differ only in the names of temporary files, of which each in the one has
/// its own in the other.
pub(super) fn is_same_but_for_temporaries(one: &[u8], other: &[u8], dirs: &[Vec<u8>]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut names = HashMap::new();
    let mut back = HashMap::new();
    let mut at = 0;
    while at < one.len() {
        let begins = |dir: &&Vec<u8>| {
            let (one, other) = (
                one[at..].strip_prefix(&dir[..]),
                other[at..].strip_prefix(&dir[..]),
            );
            one.is_some_and(|rest| rest.starts_with(b"/"))
                && other.is_some_and(|rest| rest.starts_with(b"/"))
        };
        let Some(dir) = dirs.iter().find(begins) else {
            if one[at] != other[at] {
                return false;
            }
            at += 1;
            continue;
        };
        at += dir.len() + 1;
        let len = |text: &[u8]| {
            let is_other = |byte: &u8| !byte.is_ascii_alphanumeric() && !b"._-+".contains(byte);
            text.iter().position(is_other).unwrap_or(text.len())
        };
        let (name, others) = (&one[at..], &other[at..]);
        let (name, others) = (&name[..len(name)], &others[..len(others)]);
        if name.len() != others.len()
            || !is_made_up_alike(name, others)
            || *names.entry(name).or_insert(others) != others
            || *back.entry(others).or_insert(name) != name
        {
            return false;
        }
        at += name.len();
    }
    true
}

/// Whether two names of one length differ only where a compiler makes something up.
fn is_made_up_alike(one: &[u8], other: &[u8]) -> bool {
    let differs = |at: &usize| one[*at] != other[*at];
    let first = (0..one.len()).find(differs);
    let last = (0..one.len()).rfind(differs);
    match first.zip(last) {
        None => true,
        Some((first, last)) => {
            last - first < MADE_UP_MAX
                && one[first..=last].iter().all(u8::is_ascii_alphanumeric)
                && other[first..=last].iter().all(u8::is_ascii_alphanumeric)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_same(one: &str, other: &str) -> bool {
        let dirs = [b"/tmp".to_vec()];
        is_same_but_for_temporaries(one.as_bytes(), other.as_bytes(), &dirs)
    }

    #[test]
    fn names_of_temporary_files_may_differ_and_nothing_else() {
        assert!(is_same("a.c:1: error", "a.c:1: error"));
        assert!(!is_same("a.c:1: error", "a.c:2: error"));
        let linked = |name: &str| format!("/usr/bin/ld: /tmp/{name}.o: in function `main'");
        assert!(is_same(&linked("ccAbCdEf"), &linked("cc012345")));
        assert!(is_same(&linked("a-0f1e2d"), &linked("a-999999")));
        assert!(!is_same(&linked("ccAbCdEf"), &linked("cc01234")));
        assert!(!is_same(&linked("ccAbCdEf.x"), &linked("cc012345.y")));
        assert!(!is_same("/temp/ccAbCdEf.o", "/temp/cc012345.o"));
        assert!(!is_same("/tmp/ccAbCdEf.o 1", "/tmp/cc012345.o 2"));
    }

    #[test]
    fn a_temporary_file_is_the_same_one_throughout() {
        assert!(is_same(
            "/tmp/ccA.o /tmp/ccB.o /tmp/ccA.o",
            "/tmp/cc1.o /tmp/cc2.o /tmp/cc1.o"
        ));
        assert!(!is_same("/tmp/ccA.o /tmp/ccB.o", "/tmp/cc1.o /tmp/cc1.o"));
        assert!(!is_same("/tmp/ccA.o /tmp/ccA.o", "/tmp/cc1.o /tmp/cc2.o"));
    }

    #[test]
    fn what_is_used_up_is_told_from_what_is_wrong() {
        assert!(is_for_want(
            b"cc: fatal error: Killed signal terminated program cc1"
        ));
        assert!(is_for_want(b"a.o: No space left on device"));
        assert!(!is_for_want(
            b"a.c:1:10: fatal error: a.h: No such file or directory"
        ));
    }
}
