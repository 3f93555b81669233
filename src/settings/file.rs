//! The form of the files: lines `NAME = VALUE`, comments, and files that include others.

use std::io;
use std::path::{Path, PathBuf};

use crate::value::words;

/// A larger file is no configuration.
pub const FILE_LEN_MAX: u64 = 16 << 20;

/// How many files one file may include, directly or not.
pub const INCLUDES_MAX: usize = 1000;

/// What became of reading a file.
#[derive(Debug)]
pub enum Content {
    /// What is in it.
    Bytes(Vec<u8>),
    /// There is none.
    Missing,
    /// There is one, but it cannot be read.
    Unreadable(io::Error),
}

/// A line that sets something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The setting's name as it is written there, with `extra-` if it has that.
    pub name: String,
    /// The value; one space stands between words.
    pub value: String,
    /// The file that the line is in.
    pub path: PathBuf,
    /// Which line, from 1.
    pub line: usize,
}

/// A file that is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A line that is neither a setting nor an inclusion.
    #[error("syntax error in configuration line '{text}' in \"{}\" (line {line})", path.display())]
    Syntax {
        /// The line, without its comment.
        text: String,
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// What it includes is not there.
    #[error("file \"{}\" included from \"{}\" not found", included.display(), path.display())]
    NotFound {
        /// What should be included.
        included: PathBuf,
        /// The file that includes it.
        path: PathBuf,
    },
    /// What is no file includes something relative to it.
    #[error("not an absolute path: \"{}\"", included.display())]
    Relative {
        /// What should be included.
        included: PathBuf,
    },
    /// It includes itself.
    #[error("file \"{}\" includes itself", path.display())]
    Cycle {
        /// The file.
        path: PathBuf,
    },
    /// It includes too much.
    #[error("\"{}\" includes more than {INCLUDES_MAX} files", path.display())]
    TooMany {
        /// The file that includes one more.
        path: PathBuf,
    },
}

/// Reads a file's text and what it includes, as one list of assignments in order. `warn` is
/// told of files that are left out.
///
/// # Errors
/// If a line is malformed, or a file that must be there is not.
pub fn parse(
    bytes: &[u8],
    path: &Path,
    read: &dyn Fn(&Path) -> Content,
    warn: &mut dyn FnMut(String),
) -> Result<Vec<Assignment>, FileError> {
    let mut parser = Parser {
        read,
        warn,
        including: vec![path.to_owned()],
        included: 0,
        assignments: Vec::new(),
    };
    parser.file(bytes, path)?;
    Ok(parser.assignments)
}

struct Parser<'a> {
    read: &'a dyn Fn(&Path) -> Content,
    warn: &'a mut dyn FnMut(String),
    /// The file, and those that it was reached by.
    including: Vec<PathBuf>,
    included: usize,
    assignments: Vec<Assignment>,
}

impl Parser<'_> {
    fn file(&mut self, bytes: &[u8], path: &Path) -> Result<(), FileError> {
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let number = index + 1;
            // Only what counts has to be text.
            let end = line.iter().position(|byte| *byte == b'#');
            let line = &line[..end.unwrap_or(line.len())];
            let text = String::from_utf8_lossy(line);
            let syntax_error = || FileError::Syntax {
                text: text.clone().into_owned(),
                path: path.to_owned(),
                line: number,
            };
            if str::from_utf8(line).is_err() {
                return Err(syntax_error());
            }
            let tokens: Vec<&str> = words(&text).collect();
            match tokens[..] {
                [] => {}
                ["include", included] => self.include(path, included, false)?,
                ["!include", included] => self.include(path, included, true)?,
                ["include" | "!include", ..] => return Err(syntax_error()),
                [name, "=", ref value @ ..] => self.assignments.push(Assignment {
                    name: name.to_owned(),
                    value: value.join(" "),
                    path: path.to_owned(),
                    line: number,
                }),
                _ => return Err(syntax_error()),
            }
        }
        Ok(())
    }

    fn include(
        &mut self,
        from: &Path,
        included: &str,
        may_be_missing: bool,
    ) -> Result<(), FileError> {
        let dir = from.parent().unwrap_or(Path::new("/"));
        let path = dir.join(included);
        if !path.is_absolute() {
            return Err(FileError::Relative { included: path });
        }
        self.included += 1;
        if self.included > INCLUDES_MAX {
            return Err(FileError::TooMany {
                path: from.to_owned(),
            });
        }
        if self.including.contains(&path) {
            return Err(FileError::Cycle { path });
        }
        match (self.read)(&path) {
            Content::Bytes(bytes) => {
                self.including.push(path.clone());
                self.file(&bytes, &path)?;
                self.including.pop();
            }
            Content::Missing if may_be_missing => {}
            Content::Missing => {
                return Err(FileError::NotFound {
                    included: path,
                    path: from.to_owned(),
                });
            }
            // Nix goes on without it, and without a word.
            Content::Unreadable(error) => (self.warn)(format!(
                "cannot read \"{}\", which \"{}\" includes: {error}",
                path.display(),
                from.display()
            )),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn parsed(files: &[(&str, &str)]) -> Result<Vec<(String, String)>, FileError> {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            match found {
                Some((_, "unreadable")) => Content::Unreadable(io::ErrorKind::IsADirectory.into()),
                Some((_, text)) => Content::Bytes(text.as_bytes().to_owned()),
                None => Content::Missing,
            }
        };
        let (path, text) = files[0];
        let assignments = parse(text.as_bytes(), Path::new(path), &read, &mut |_| {})?;
        Ok(assignments
            .into_iter()
            .map(|assignment| (assignment.name, assignment.value))
            .collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn lines_set_names_to_words_and_comments_end_them() {
        let text = "# comment\n\n a = b # c\nlist =\tx  y\r\nempty =\n =  = d\na = =";
        assert_eq!(
            parsed(&[("/f", text)]).unwrap(),
            pairs(&[
                ("a", "b"),
                ("list", "x y"),
                ("empty", ""),
                ("=", "d"),
                ("a", "=")
            ])
        );
    }

    #[rstest]
    #[case::one_word("word")]
    #[case::no_equals_sign("a b")]
    #[case::no_space("a=b")]
    #[case::no_space_after("a =b")]
    #[case::include_of_two("include a b")]
    #[case::include_of_none("include")]
    #[case::bare_equals_sign("=")]
    fn a_malformed_line_is_an_error(#[case] text: &str) {
        let error = parsed(&[("/f", text)]).unwrap_err();
        assert!(
            matches!(error, FileError::Syntax { line: 1, .. }),
            "{error}"
        );
    }

    #[test]
    fn includes_are_relative_to_their_file_and_take_effect_where_they_stand() {
        let files = [
            (
                "/d/f",
                "a = 1\ninclude sub/g\n!include no\ninclude dir\na = 4",
            ),
            ("/d/sub/g", "a = 2\ninclude /h"),
            ("/h", "a = 3"),
            ("/d/dir", "unreadable"),
        ];
        let got = parsed(&files).unwrap();
        assert_eq!(
            got,
            pairs(&[("a", "1"), ("a", "2"), ("a", "3"), ("a", "4")])
        );
        let error = parsed(&[("/f", "include no")]).unwrap_err();
        assert!(matches!(error, FileError::NotFound { .. }));
    }

    #[test]
    fn files_that_include_each_other_end() {
        let error = parsed(&[("/f", "include g"), ("/g", "include f")]).unwrap_err();
        assert!(matches!(error, FileError::Cycle { .. }), "{error}");
        let many = "include g\n".repeat(INCLUDES_MAX + 1);
        let error = parsed(&[("/f", &many), ("/g", "")]).unwrap_err();
        assert!(matches!(error, FileError::TooMany { .. }), "{error}");
    }

    #[test]
    fn only_comments_may_be_no_text() {
        let read = |_: &Path| Content::Missing;
        let parse = |bytes: &[u8]| parse(bytes, Path::new("/f"), &read, &mut |_| {});
        assert_eq!(parse(b"a = b # \xff").unwrap().len(), 1);
        assert!(parse(b"a = \xff").is_err());
    }

    proptest! {
        #[test]
        fn no_file_is_worth_a_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes, Path::new("/f"), &|_| Content::Missing, &mut |_| {});
        }

        #[test]
        fn what_is_printed_reads_as_the_same_lines(
            lines in prop::collection::vec(("[a-z-]{1,9}", prop::collection::vec("[!-\"$-~é]{1,5}", 0..4)), 0..9)
        ) {
            let lines: Vec<(String, String)> = lines
                .into_iter()
                .filter(|(name, _)| name != "include")
                .map(|(name, value)| (name, value.join(" ")))
                .collect();
            let text: String = lines.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
            prop_assert_eq!(parsed(&[("/f", &text)]).unwrap(), lines);
        }
    }
}
