//! Wrapper scripts whose whole meaning can be told from their text.
//!
//! A shell script can read anything: variables by computed names, files of the build, the
//! output of other programs. Only for two kinds is it known what it reads: scripts that
//! set variables and then execute one program with more arguments, which are parsed here;
//! and nixpkgs' wrappers, which are known by what they contain. Calls of all others are traced.

use std::collections::{BTreeMap, BTreeSet};

type Variables = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a simple wrapper executes.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The program: a name or a path.
    pub command: Vec<u8>,
    /// The arguments behind it, those of the wrapper's own call among them.
    pub args: Vec<Vec<u8>>,
    /// The variables of the environment that the script has read.
    pub variables: BTreeSet<Vec<u8>>,
}

/// Whether a script is one of nixpkgs' compiler wrappers: what it reads are the variables
/// that it and the scripts of its store object name, and those that begin with `NIX_`.
pub fn is_nixpkgs_wrapper(script: &[u8]) -> bool {
    let contains = |mark: &str| memchr::memmem::find(script, mark.as_bytes()).is_some();
    contains("NIX_CFLAGS_COMPILE") && contains("/nix-support/")
}

/// The same of their wrappers of linkers and other tools as well.
pub fn is_any_nixpkgs_wrapper(script: &[u8]) -> bool {
    let contains = |mark: &str| memchr::memmem::find(script, mark.as_bytes()).is_some();
    is_nixpkgs_wrapper(script) || (contains("NIX_LDFLAGS") && contains("/nix-support/"))
}

/// What a script executes that is called with these arguments; `None` if it is more than
/// assignments and an `exec`.
pub fn simple_wrapper(script: &[u8], args: &[Vec<u8>], env: &Variables) -> Option<Invocation> {
    let mut shell = Shell {
        args,
        env,
        own: Variables::new(),
        read: BTreeSet::new(),
    };
    let mut call: Option<Vec<Vec<u8>>> = None;
    for line in script.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        let is_option = matches!(line, b"set -e" | b"set -u" | b"set -eu");
        if line.is_empty() || line.starts_with(b"#") || is_option {
            continue;
        }
        // Nothing is executed behind an `exec`.
        if call.is_some() {
            return None;
        }
        if let Some(words) = line.strip_prefix(b"exec ") {
            call = Some(shell.words(words)?);
            continue;
        }
        let assignment = line
            .strip_prefix(b"export ")
            .unwrap_or(line)
            .trim_ascii_start();
        let equals = assignment.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&assignment[..equals], &assignment[equals + 1..]);
        if !is_name(name) || redirects(name) {
            return None;
        }
        let mut value = shell.words(value)?;
        // A second word would be a command, run with the assignment.
        if value.len() > 1 {
            return None;
        }
        shell
            .own
            .insert(name.to_vec(), value.pop().unwrap_or_default());
    }
    let mut words = call?.into_iter();
    let command = words
        .next()
        .filter(|command| !command.is_empty() && !command.starts_with(b"-"))?;
    Some(Invocation {
        command,
        args: words.collect(),
        variables: shell.read,
    })
}

/// Variables that change which files the program behind reads.
fn redirects(name: &[u8]) -> bool {
    memchr::memmem::find(name, b"PATH").is_some()
        || [
            &b"LD_"[..],
            b"GCC_",
            b"CC",
            b"COLLECT_",
            b"DEPENDENCIES",
            b"SUNPRO",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

fn is_name(text: &[u8]) -> bool {
    text.first()
        .is_some_and(|first| first.is_ascii_alphabetic() || *first == b'_')
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

struct Shell<'a> {
    args: &'a [Vec<u8>],
    env: &'a Variables,
    /// What the script has set.
    own: Variables,
    /// What it has read of the environment.
    read: BTreeSet<Vec<u8>>,
}

impl Shell<'_> {
    /// The words of a line, expanded; `None` if something in it is not understood.
    fn words(&mut self, line: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut words = Vec::new();
        let mut rest = line;
        loop {
            rest = rest.trim_ascii_start();
            if rest.is_empty() || rest.starts_with(b"#") {
                return Some(words);
            }
            if let Some(behind) = rest.strip_prefix(b"\"$@\"") {
                if !behind.first().is_none_or(u8::is_ascii_whitespace) {
                    return None;
                }
                words.extend(self.args.iter().cloned());
                rest = behind;
                continue;
            }
            rest = self.word(rest, &mut words)?;
        }
    }

    /// Takes one word, which an expansion without quotes can make several, or none.
    fn word<'l>(&mut self, line: &'l [u8], words: &mut Vec<Vec<u8>>) -> Option<&'l [u8]> {
        let mut rest = line;
        let mut current: Option<Vec<u8>> = None;
        let mut quote = None;
        while let Some((&byte, behind)) = rest.split_first() {
            let is_plain = byte.is_ascii_alphanumeric() || b"_./+=:,@%^-".contains(&byte);
            match (byte, quote) {
                (b' ' | b'\t', None) => break,
                (b'\'' | b'"', None) => {
                    // Even an empty string is a word.
                    current.get_or_insert_default();
                    (quote, rest) = (Some(byte), behind);
                }
                (_, Some(open)) if byte == open => (quote, rest) = (None, behind),
                (b'$', None | Some(b'"')) => {
                    let (value, behind) = self.expansion(behind)?;
                    rest = behind;
                    if quote.is_some() {
                        current.get_or_insert_default().extend_from_slice(&value);
                        continue;
                    }
                    // Names of files would be put in its place.
                    if value.iter().any(|byte| b"*?[\\~".contains(byte)) {
                        return None;
                    }
                    split_into(&value, &mut current, words);
                }
                (b'\\' | b'`', None | Some(b'"')) => return None,
                (_, None) if !is_plain => return None,
                _ => {
                    current.get_or_insert_default().push(byte);
                    rest = behind;
                }
            }
        }
        // A string that goes on in the next line.
        if quote.is_some() {
            return None;
        }
        words.extend(current);
        Some(rest)
    }

    /// The value of `$NAME`, `${NAME}`, `${NAME-default}` or `${NAME:-default}`, of which the
    /// `$` has been taken, and what follows it.
    fn expansion<'l>(&mut self, text: &'l [u8]) -> Option<(Vec<u8>, &'l [u8])> {
        let (text, is_braced) = match text.strip_prefix(b"{") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let is_name_byte = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let end = text
            .iter()
            .position(|byte| !is_name_byte(byte))
            .unwrap_or(text.len());
        let (name, mut rest) = text.split_at(end);
        if !is_name(name) {
            return None;
        }
        let mut value = match self.own.get(name) {
            Some(value) => Some(value.clone()),
            None => {
                self.read.insert(name.to_vec());
                self.env.get(name).cloned()
            }
        };
        if is_braced {
            let of_empty = rest.strip_prefix(b":-");
            if let Some(default) = of_empty.or(rest.strip_prefix(b"-")) {
                let is_plain =
                    |byte: &u8| byte.is_ascii_alphanumeric() || b"_./+=:,@%-".contains(byte);
                let end = default.iter().position(|byte| !is_plain(byte))?;
                if value.is_none()
                    || (of_empty.is_some() && value.as_ref().is_some_and(Vec::is_empty))
                {
                    value = Some(default[..end].to_vec());
                }
                rest = &default[end..];
            }
            rest = rest.strip_prefix(b"}")?;
        }
        Some((value.unwrap_or_default(), rest))
    }
}

/// Adds a value that is not in quotes: white space in it ends words.
fn split_into(value: &[u8], current: &mut Option<Vec<u8>>, words: &mut Vec<Vec<u8>>) {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n');
    let mut parts = value.split(is_space).peekable();
    while let Some(part) = parts.next() {
        if !part.is_empty() {
            current.get_or_insert_default().extend_from_slice(part);
        }
        if parts.peek().is_some() {
            words.extend(current.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    fn run(script: &str) -> Option<Vec<String>> {
        let env = [("EXTRA", "-O2  -g"), ("EMPTY", ""), ("GLOB", "*.c")];
        let env = env
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        let call = simple_wrapper(script.as_bytes(), &texts(&["-c", "a b.c"]), &env)?;
        let words = std::iter::once(call.command).chain(call.args);
        Some(words.map(|word| String::from_utf8(word).unwrap()).collect())
    }

    #[test]
    fn a_script_that_only_executes_is_followed_as_a_shell_would() {
        for (script, expected) in [
            (
                "#!/bin/sh\nexec /x/gcc -O2 \"$@\"\n",
                &["/x/gcc", "-O2", "-c", "a b.c"][..],
            ),
            (
                "# why\nset -e\nexec inner $EXTRA \"$EXTRA\" # end",
                &["inner", "-O2", "-g", "-O2  -g"],
            ),
            (
                "A=b\nexport F='x y'\nexec gcc $A \"$F\" -D$F \"\" $EMPTY$NONE",
                &["gcc", "b", "x y", "-Dx", "y", ""],
            ),
            (
                "exec gcc ${NONE-x} ${EMPTY-x} ${EMPTY:-y} \"${NONE}\"",
                &["gcc", "x", "y", ""],
            ),
            ("exec gcc a'b c'\"d\"", &["gcc", "ab cd"]),
        ] {
            assert_eq!(run(script).unwrap(), expected, "{script}");
        }
    }

    #[test]
    fn what_is_read_of_the_environment_is_told() {
        let env = Variables::from([(b"SET".to_vec(), b"1".to_vec())]);
        let script = b"OWN=$SET\nexec gcc $OWN ${UNSET-x}";
        let call = simple_wrapper(script, &[], &env).unwrap();
        assert_eq!(Vec::from_iter(call.variables), texts(&["SET", "UNSET"]));
    }

    #[test]
    fn whatever_could_read_more_is_not_understood() {
        for script in [
            "exec gcc \"$@\"\necho done",
            "gcc \"$@\"",
            "exec gcc $(cat flags) \"$@\"",
            "exec gcc `cat flags`",
            "exec gcc ${!n}",
            "exec gcc ${EXTRA#-}",
            "exec gcc *.c",
            "exec gcc $GLOB",
            "exec gcc \"$@\" < input",
            "exec gcc \"$@\" && true",
            "exec gcc \"$@\"; true",
            "exec gcc ~/x",
            "exec gcc $1",
            "exec gcc $@",
            "exec gcc x\"$@\"",
            "exec gcc {a,b}",
            "exec gcc \\x",
            "exec gcc \"open",
            "exec -a x gcc",
            "if true; then exec gcc; fi",
            ". ./flags\nexec gcc \"$@\"",
            "A=b gcc\nexec gcc",
            "PATH=/x\nexec gcc",
            "export LD_PRELOAD=x\nexec gcc",
            "A=b",
            "",
        ] {
            assert_eq!(run(script), None, "{script}");
        }
    }
}
