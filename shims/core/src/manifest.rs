//! The manifest of a child derivation, and where its runner leaves the results.
//!
//! The manifest is the derivation's `manifest` variable, passed as a file (`passAsFile`), so the
//! runner reads the file named by `manifestPath`. It is text, one line a fact, and has one
//! spelling for each value: the parser accepts exactly what the printer writes, since the text
//! is part of the child's identity.
//!
//! ```text
//! droste-child 1
//! exe <absolute path>
//! arg <string>                  argv, the program's name first; at least one
//! env <NAME=VALUE>
//! cwd <absolute path>
//! tty out|err <rows> <columns>  that descriptor is a raw terminal of this size
//! stdin null
//! dir <path>                    create a directory
//! link <path> <target>          create a symbolic link
//! file <path> <mtime> <source>  copy a store file, mode 0644; mtime in seconds since 1970
//! xfile <path> <mtime> <source> the same with mode 0755
//! bind <path> <source>          show a file or directory of the store, read-only
//! ```
//!
//! in this order, but for the last five, whose lines are done in the order they stand. In a
//! value `\` is written `\\`, a newline `\n`, and (only in paths before another value) a space
//! `\s`. Paths to create are absolute, without empty, `.` or `..` parts, and neither `/` nor
//! [`WORK_DIR`], which are always there.
//!
//! If there is a bind, or a path to create or the tool's directory lies elsewhere than in
//! [`WORK_DIR`], the runner makes a root of the child's own first. In it are, from the sandbox, the
//! directory of `$out` (which is the store), [`WORK_DIR`], `/dev`, `/proc`, the files of `/etc`, and
//! `/bin/sh` if the manifest has nothing in `/bin`; an empty `/tmp`; and nothing else. Nothing may
//! be created in the first four nor in place of one of those files. Missing parents are made, and
//! a directory may be there already.
//!
//! The runner leaves in `$out`: [`STATUS`], [`STDOUT`], [`STDERR`], [`FILES`]`/<absolute path
//! without the leading slash>` for every new file, link or empty directory, and [`ODD`], only if
//! something happened that a replay of those files would not repeat.

use crate::protocol::Window;

/// The directory that a builder is given.
pub const WORK_DIR: &[u8] = b"/build";

/// In `$out`: the exit status in decimal, or `signal N`, and a newline.
pub const STATUS: &str = "status";
/// In `$out`: what the tool wrote to standard output.
pub const STDOUT: &str = "stdout";
/// In `$out`: what the tool wrote to standard error.
pub const STDERR: &str = "stderr";
/// In `$out`: the directory of new files, by absolute path.
pub const FILES: &str = "files";
/// In `$out`: a line for each thing the tool did that new files cannot express, such as a changed
/// input. The child must then not be used.
pub const ODD: &str = "odd";

/// In the child's view, only while it is being discovered what a call looks up: the absolute
/// paths that were laid out while the tool ran, each ended by a NUL. They are inputs, not results.
pub const LAID: &str = "/build/.droste-laid";

/// In a sandbox whose maker has laid the manifest's files out beforehand, with their times, so
/// that the runner need not copy them. Those in [`WORK_DIR`] lie in their places, all others below
/// [`PREPARED_ROOT`]. The tool sees neither of the two.
pub const LAID_OUT: &str = "/build/.droste-laid-out";
/// What becomes the child's own root, if it has one and [`LAID_OUT`] is there.
pub const PREPARED_ROOT: &str = "/tmp/.droste-root";

/// Longest manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 64 << 20;
/// Most lines of a manifest.
pub const LINES_MAX: usize = 1 << 20;

/// What a child derivation runs, and in what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The program, absolute.
    pub exe: Vec<u8>,
    /// Its arguments, the program's name first.
    pub argv: Vec<Vec<u8>>,
    /// Its environment, each `NAME=VALUE`.
    pub env: Vec<Vec<u8>>,
    /// Its directory, absolute.
    pub cwd: Vec<u8>,
    /// The size of the terminal that standard output is to be, if it is to be one.
    pub stdout_tty: Option<Window>,
    /// The size of the terminal that standard error is to be, if it is to be one.
    pub stderr_tty: Option<Window>,
    /// What to create before it runs, in order.
    pub layout: Vec<Entry>,
}

/// One thing to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory, mode 0755. Parents come first.
    Directory {
        /// Where.
        path: Vec<u8>,
    },
    /// A symbolic link.
    Link {
        /// Where.
        path: Vec<u8>,
        /// What it says.
        target: Vec<u8>,
    },
    /// A copy of a file.
    File {
        /// Where.
        path: Vec<u8>,
        /// Its modification time, seconds since 1970.
        mtime_seconds: i64,
        /// The file to copy: a store path or a file in one.
        source: Vec<u8>,
        /// Mode 0755 instead of 0644.
        executable: bool,
    },
    /// A file or directory of the store, mounted read-only as it is there.
    Bind {
        /// Where.
        path: Vec<u8>,
        /// The file or directory: a store path or something in one; no link.
        source: Vec<u8>,
    },
}

impl Entry {
    /// Where the entry is created.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Directory { path }
            | Self::Link { path, .. }
            | Self::File { path, .. }
            | Self::Bind { path, .. } => path,
        }
    }
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// A limit of this module is exceeded.
    #[error("manifest: `{what}` exceed {max}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        max: usize,
    },
    /// A line is not what the grammar has at this place.
    #[error("manifest: line {line}: expected {expected}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What the grammar has here.
        expected: &'static str,
    },
}

fn escape(out: &mut Vec<u8>, value: &[u8], spaces: bool) {
    for &byte in value {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b' ' if spaces => out.extend_from_slice(b"\\s"),
            _ => out.push(byte),
        }
    }
}

fn unescape(value: &[u8], spaces: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => match bytes.next()? {
                b'\\' => out.push(b'\\'),
                b'n' => out.push(b'\n'),
                b's' if spaces => out.push(b' '),
                _ => return None,
            },
            b' ' if spaces => return None,
            // It becomes a C string.
            0 => return None,
            _ => out.push(byte),
        }
    }
    Some(out)
}

/// Whether `path` is absolute and has no empty, `.` or `..` part.
pub fn is_plain_absolute(path: &[u8]) -> bool {
    path == b"/"
        || path.strip_prefix(b"/").is_some_and(|rest| {
            rest.split(|&byte| byte == b'/')
                .all(|part| !matches!(part, b"" | b"." | b".."))
        })
}

/// Whether `path` is plain (see [`is_plain_absolute`]) and strictly below [`WORK_DIR`].
pub fn is_below_work_dir(path: &[u8]) -> bool {
    is_plain_absolute(path)
        && path
            .strip_prefix(WORK_DIR)
            .is_some_and(|rest| rest.starts_with(b"/"))
}

fn is_creatable(path: &[u8]) -> bool {
    is_plain_absolute(path) && path != b"/" && path != WORK_DIR
}

fn print_number(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(number.to_string().as_bytes());
}

fn parse_number<T: std::str::FromStr + ToString>(digits: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(digits).ok()?;
    let number: T = text.parse().ok()?;
    // One spelling: no sign before a positive number, no leading zeros.
    (number.to_string() == text).then_some(number)
}

impl Manifest {
    /// The manifest's one spelling.
    pub fn print(&self) -> Vec<u8> {
        let mut out = b"droste-child 1\n".to_vec();
        let value = |out: &mut Vec<u8>, key: &[u8], value: &[u8]| {
            out.extend_from_slice(key);
            escape(out, value, false);
            out.push(b'\n');
        };
        value(&mut out, b"exe ", &self.exe);
        for arg in &self.argv {
            value(&mut out, b"arg ", arg);
        }
        for entry in &self.env {
            value(&mut out, b"env ", entry);
        }
        value(&mut out, b"cwd ", &self.cwd);
        for (key, tty) in [
            (b"tty out ", self.stdout_tty),
            (b"tty err ", self.stderr_tty),
        ] {
            if let Some(window) = tty {
                out.extend_from_slice(key);
                print_number(&mut out, window.rows.into());
                out.push(b' ');
                print_number(&mut out, window.columns.into());
                out.push(b'\n');
            }
        }
        out.extend_from_slice(b"stdin null\n");
        for entry in &self.layout {
            match entry {
                Entry::Directory { path } => value(&mut out, b"dir ", path),
                Entry::Link { path, target } => {
                    out.extend_from_slice(b"link ");
                    escape(&mut out, path, true);
                    value(&mut out, b" ", target);
                }
                Entry::File {
                    path,
                    mtime_seconds,
                    source,
                    executable,
                } => {
                    out.extend_from_slice(if *executable { b"xfile " } else { b"file " });
                    escape(&mut out, path, true);
                    out.push(b' ');
                    print_number(&mut out, *mtime_seconds);
                    value(&mut out, b" ", source);
                }
                Entry::Bind { path, source } => {
                    out.extend_from_slice(b"bind ");
                    escape(&mut out, path, true);
                    value(&mut out, b" ", source);
                }
            }
        }
        out
    }

    /// Whether all of it is in [`WORK_DIR`], so that the child needs no root of its own.
    pub fn is_in_work_dir(&self) -> bool {
        let is_inside =
            |entry: &Entry| !matches!(entry, Entry::Bind { .. }) && is_below_work_dir(entry.path());
        (self.cwd == WORK_DIR || is_below_work_dir(&self.cwd)) && self.layout.iter().all(is_inside)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// When it is not what [`Manifest::print`] writes, or names a place where nothing may be
    /// created.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge {
                what: "bytes",
                max: MANIFEST_BYTES_MAX,
            });
        }
        let mut lines = Lines {
            rest: text,
            number: 0,
            current: None,
        };
        lines.advance()?;
        lines.exactly(b"droste-child 1", "`droste-child 1`")?;
        let exe = lines.value(b"exe ", "`exe` and an absolute path")?;
        if !is_plain_absolute(&exe) {
            return Err(lines.previous("`exe` and an absolute path"));
        }
        let argv = lines.values(b"arg ", "`arg` and a string")?;
        if argv.is_empty() {
            return Err(lines.wrong("`arg` and a string"));
        }
        let env = lines.values(b"env ", "`env` and `NAME=VALUE`")?;
        if env.iter().any(|entry| !entry.contains(&b'=')) {
            return Err(lines.previous("`env` and `NAME=VALUE`"));
        }
        let cwd = lines.value(b"cwd ", "`cwd` and an absolute path")?;
        if !is_plain_absolute(&cwd) {
            return Err(lines.previous("`cwd` and an absolute path"));
        }
        let stdout_tty = lines.window(b"tty out ")?;
        let stderr_tty = lines.window(b"tty err ")?;
        lines.exactly(b"stdin null", "`stdin null`")?;
        let mut layout = Vec::new();
        while lines.current.is_some() {
            layout.push(lines.entry()?);
        }
        Ok(Self {
            exe,
            argv,
            env,
            cwd,
            stdout_tty,
            stderr_tty,
            layout,
        })
    }
}

struct Lines<'a> {
    rest: &'a [u8],
    number: usize,
    current: Option<&'a [u8]>,
}

impl<'a> Lines<'a> {
    fn wrong(&self, expected: &'static str) -> ManifestError {
        let line = self.number;
        ManifestError::Line { line, expected }
    }

    fn previous(&self, expected: &'static str) -> ManifestError {
        let line = self.number.saturating_sub(1);
        ManifestError::Line { line, expected }
    }

    fn advance(&mut self) -> Result<(), ManifestError> {
        self.number += 1;
        if self.number > LINES_MAX {
            return Err(ManifestError::TooLarge {
                what: "lines",
                max: LINES_MAX,
            });
        }
        if self.rest.is_empty() {
            self.current = None;
            return Ok(());
        }
        let end = memchr::memchr(b'\n', self.rest).ok_or(self.wrong("a newline at the end"))?;
        self.current = Some(&self.rest[..end]);
        self.rest = &self.rest[end + 1..];
        Ok(())
    }

    fn exactly(&mut self, line: &[u8], expected: &'static str) -> Result<(), ManifestError> {
        if self.current != Some(line) {
            return Err(self.wrong(expected));
        }
        self.advance()
    }

    fn value(&mut self, key: &[u8], expected: &'static str) -> Result<Vec<u8>, ManifestError> {
        let value = self
            .current
            .and_then(|line| line.strip_prefix(key))
            .and_then(|value| unescape(value, false))
            .ok_or_else(|| self.wrong(expected))?;
        self.advance()?;
        Ok(value)
    }

    fn values(
        &mut self,
        key: &[u8],
        expected: &'static str,
    ) -> Result<Vec<Vec<u8>>, ManifestError> {
        let mut values = Vec::new();
        while self.current.is_some_and(|line| line.starts_with(key)) {
            values.push(self.value(key, expected)?);
        }
        Ok(values)
    }

    fn window(&mut self, key: &[u8]) -> Result<Option<Window>, ManifestError> {
        let Some(value) = self.current.and_then(|line| line.strip_prefix(key)) else {
            return Ok(None);
        };
        let window = split_space(value)
            .and_then(|(rows, columns)| {
                Some(Window {
                    rows: parse_number(rows)?,
                    columns: parse_number(columns)?,
                })
            })
            .ok_or_else(|| self.wrong("rows and columns"))?;
        self.advance()?;
        Ok(Some(window))
    }

    fn entry(&mut self) -> Result<Entry, ManifestError> {
        let entry = self
            .current
            .and_then(parse_entry)
            .filter(|entry| is_creatable(entry.path()))
            .ok_or_else(|| self.wrong("`dir`, `link`, `file`, `xfile` or `bind` and a path"))?;
        self.advance()?;
        Ok(entry)
    }
}

fn split_space(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = memchr::memchr(b' ', value)?;
    Some((&value[..space], &value[space + 1..]))
}

fn parse_entry(line: &[u8]) -> Option<Entry> {
    let (key, value) = split_space(line)?;
    match key {
        b"dir" => Some(Entry::Directory {
            path: unescape(value, false)?,
        }),
        b"link" => {
            let (path, target) = split_space(value)?;
            Some(Entry::Link {
                path: unescape(path, true)?,
                target: unescape(target, false).filter(|target| !target.is_empty())?,
            })
        }
        b"file" | b"xfile" => {
            let (path, rest) = split_space(value)?;
            let (mtime, source) = split_space(rest)?;
            Some(Entry::File {
                path: unescape(path, true)?,
                mtime_seconds: parse_number(mtime)?,
                source: unescape(source, false).filter(|source| is_plain_absolute(source))?,
                executable: key == b"xfile",
            })
        }
        b"bind" => {
            let (path, source) = split_space(value)?;
            Some(Entry::Bind {
                path: unescape(path, true)?,
                source: unescape(source, false).filter(|source| is_plain_absolute(source))?,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn text() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(
            prop_oneof![Just(b'\n'), Just(b'\\'), Just(b' '), 1u8..],
            0..12,
        )
    }

    fn path() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(text(), 1..4)
            .prop_map(|parts| {
                let mut path = Vec::new();
                for part in parts {
                    path.push(b'/');
                    path.extend(part);
                }
                path
            })
            .prop_filter("plain", |path| is_creatable(path))
    }

    fn entry() -> impl Strategy<Value = Entry> {
        prop_oneof![
            path().prop_map(|path| Entry::Directory { path }),
            (path(), text())
                .prop_filter("target", |(_, target)| !target.is_empty())
                .prop_map(|(path, target)| Entry::Link { path, target }),
            (path(), path()).prop_map(|(path, source)| Entry::Bind { path, source }),
            (path(), any::<i64>(), path(), any::<bool>()).prop_map(
                |(path, mtime_seconds, source, executable)| Entry::File {
                    path,
                    mtime_seconds,
                    source,
                    executable
                }
            ),
        ]
    }

    fn window() -> impl Strategy<Value = Option<Window>> {
        proptest::option::of(
            any::<(u16, u16)>().prop_map(|(rows, columns)| Window { rows, columns }),
        )
    }

    fn manifest() -> impl Strategy<Value = Manifest> {
        (
            path(),
            proptest::collection::vec(text(), 1..5),
            proptest::collection::vec(
                text().prop_map(|value| [b"A=", value.as_slice()].concat()),
                0..5,
            ),
            path(),
            window(),
            window(),
            proptest::collection::vec(entry(), 0..6),
        )
            .prop_map(
                |(exe, argv, env, cwd, stdout_tty, stderr_tty, layout)| Manifest {
                    exe,
                    argv,
                    env,
                    cwd,
                    stdout_tty,
                    stderr_tty,
                    layout,
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(manifest in manifest()) {
            prop_assert_eq!(Manifest::parse(&manifest.print()), Ok(manifest));
        }

        #[test]
        fn what_is_read_is_printed_back(
            manifest in manifest(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut text = manifest.print();
            let at = at.index(text.len());
            text[at] = byte;
            if let Ok(read) = Manifest::parse(&text) {
                prop_assert_eq!(read.print(), text);
            }
        }
    }

    const HEAD: &str = "droste-child 1\nexe /bin/cc\narg cc\ncwd /build\nstdin null\n";

    #[rstest]
    #[case::the_root("dir /\n")]
    #[case::the_work_dir_itself("dir /build\n")]
    #[case::a_bind_without_source("bind /usr\n")]
    #[case::relative_bind_source("bind /usr usr\n")]
    #[case::dot_dot("dir /build/../etc\n")]
    #[case::dot("dir /build/./x\n")]
    #[case::empty_part("dir /build//x\n")]
    #[case::relative("dir build/x\n")]
    #[case::relative_source("file /build/x 1 a\n")]
    #[case::no_newline("dir /build/x")]
    #[case::unknown_escape("dir /build/\\t\n")]
    #[case::signed_time("file /build/x +1 /a\n")]
    #[case::zero_padded_time("file /build/x 01 /a\n")]
    #[case::unknown("pipe /build/x\n")]
    #[case::nul("dir /build/\0\n")]
    fn an_entry_is_refused(#[case] line: &str) {
        assert!(Manifest::parse(HEAD.as_bytes()).is_ok());
        let error = Manifest::parse(format!("{HEAD}{line}").as_bytes()).unwrap_err();
        assert!(
            matches!(error, ManifestError::Line { line: 6, .. }),
            "{error}"
        );
    }

    #[rstest]
    #[case::below(
        "/build",
        "dir /build/x\nlink /build/x/y z\nfile /build/z 1 /s\n",
        true
    )]
    #[case::directory_below("/build/x", "dir /build/x\n", true)]
    #[case::directory_outside("/", "dir /build/x\n", false)]
    #[case::a_name_that_only_begins_like_it("/build", "dir /builds/x\n", false)]
    #[case::file_outside("/build", "file /usr/x 1 /s\n", false)]
    #[case::bind("/build", "bind /build/x /s\n", false)]
    fn a_root_is_needed_or_not(#[case] cwd: &str, #[case] layout: &str, #[case] expected: bool) {
        let head = HEAD.replace("cwd /build", &format!("cwd {cwd}"));
        let manifest = Manifest::parse(format!("{head}{layout}").as_bytes()).unwrap();
        assert_eq!(manifest.is_in_work_dir(), expected);
    }

    #[rstest]
    #[case::empty("", 1)]
    #[case::version("droste-child 2\n", 1)]
    #[case::no_arguments("droste-child 1\nexe /cc\ncwd /build\nstdin null\n", 3)]
    #[case::relative_program("droste-child 1\nexe cc\narg cc\ncwd /build\nstdin null\n", 2)]
    #[case::order("droste-child 1\narg cc\nexe /cc\ncwd /build\nstdin null\n", 2)]
    #[case::no_stdin("droste-child 1\nexe /cc\narg cc\ncwd /build\n", 5)]
    fn a_head_is_refused(#[case] text: &str, #[case] at: usize) {
        let error = Manifest::parse(text.as_bytes()).unwrap_err();
        assert!(
            matches!(error, ManifestError::Line { line, .. } if line == at),
            "{error}"
        );
    }
}
