//! Response files: `@file` stands for the arguments in the file.

use super::Reason;

/// Most arguments after expansion.
const ARGUMENTS_MAX: usize = 1 << 16;

/// Most response files in one call.
const FILES_MAX: usize = 64;

/// A command line with its response files expanded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The arguments.
    pub argv: Vec<Vec<u8>>,
    /// The response files, as written: inputs of the call.
    pub files: Vec<Vec<u8>>,
}

/// Expands each argument `@file` by what `read` returns for the name.
///
/// GCC and Clang split a file alike as long as it has neither backslashes nor nested or empty
/// quotes, and they name a file in a file differently; all else is refused.
///
/// # Errors
/// [`Reason::ResponseFile`] if a file cannot be read, is not plain, or there are too many.
pub fn expand<A: AsRef<[u8]>>(
    argv: &[A],
    mut read: impl FnMut(&[u8]) -> Option<Vec<u8>>,
) -> Result<Expansion, Reason> {
    let mut expansion = Expansion::default();
    for argument in argv {
        let argument = argument.as_ref();
        match argument.strip_prefix(b"@") {
            None => expansion.argv.push(argument.to_vec()),
            Some(name) => {
                let content = read(name).ok_or(Reason::ResponseFile)?;
                expansion.files.push(name.to_vec());
                split(&content, &mut expansion.argv)?;
            }
        }
        if expansion.argv.len() > ARGUMENTS_MAX || expansion.files.len() > FILES_MAX {
            return Err(Reason::ResponseFile);
        }
    }
    Ok(expansion)
}

fn split(content: &[u8], argv: &mut Vec<Vec<u8>>) -> Result<(), Reason> {
    let mut word: Option<Vec<u8>> = None;
    let mut quote: Option<u8> = None;
    for &byte in content {
        match (byte, quote) {
            (b'\\' | 0, _) => return Err(Reason::ResponseFile),
            (_, Some(open)) if byte == open => quote = None,
            (b'"' | b'\'', Some(_)) => return Err(Reason::ResponseFile),
            (b'"' | b'\'', None) => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, None) => end(word.take(), argv)?,
            _ => word.get_or_insert_default().push(byte),
        }
    }
    if quote.is_some() {
        return Err(Reason::ResponseFile);
    }
    end(word, argv)
}

/// Expands response files as far as is needed to know what is in a call whose files are traced:
/// whatever a compiler makes of their text, its words are among those of GCC's reading, in which
/// a backslash takes the next byte as it is (libiberty, `buildargv`).
///
/// # Errors
/// [`Reason::ResponseFile`] if a file cannot be read, or there are too many.
pub(super) fn expand_loosely<A: AsRef<[u8]>>(
    argv: &[A],
    read: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>,
) -> Result<Vec<Vec<u8>>, Reason> {
    // The next word is the last one of this list.
    let mut waiting: Vec<Vec<u8>> = argv.iter().rev().map(|arg| arg.as_ref().to_vec()).collect();
    let mut expanded = Vec::with_capacity(waiting.len());
    let mut files = 0;
    while let Some(word) = waiting.pop() {
        match word.strip_prefix(b"@") {
            None => expanded.push(word),
            Some(name) => {
                files += 1;
                if files > FILES_MAX {
                    return Err(Reason::ResponseFile);
                }
                let content = read(name).ok_or(Reason::ResponseFile)?;
                waiting.extend(split_loosely(&content).into_iter().rev());
            }
        }
        if expanded.len() + waiting.len() > ARGUMENTS_MAX {
            return Err(Reason::ResponseFile);
        }
    }
    Ok(expanded)
}

fn split_loosely(content: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote: Option<u8> = None;
    let mut bytes = content.iter().copied();
    while let Some(byte) = bytes.next() {
        match (byte, quote) {
            (b'\\', _) => word.get_or_insert_default().extend(bytes.next()),
            (_, Some(open)) if byte == open => quote = None,
            (b'"' | b'\'', None) => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, None) => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words
}

fn end(word: Option<Vec<u8>>, argv: &mut Vec<Vec<u8>>) -> Result<(), Reason> {
    match word {
        None => Ok(()),
        Some(word) if word.is_empty() || word.starts_with(b"@") => Err(Reason::ResponseFile),
        Some(word) => {
            argv.push(word);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_file_is_split_in_place() {
        let argv = ["cc", "@f", "-c"];
        let expansion = expand(&argv, |name| {
            assert_eq!(name, b"f");
            Some(b"-O2\n'-DX=a b' -I\"x\"y\r\n".to_vec())
        });
        let expected = ["cc", "-O2", "-DX=a b", "-Ixy", "-c"].map(|word| word.as_bytes().to_vec());
        assert_eq!(
            expansion,
            Ok(Expansion {
                argv: expected.into(),
                files: vec![b"f".to_vec()],
            })
        );
    }

    #[rstest]
    #[case::backslash("-DX=\\\"a\\\"")]
    #[case::nested_quote("'a\"b'")]
    #[case::open_quote("'a")]
    #[case::empty_word("''")]
    #[case::nested_file("@g")]
    fn a_file_that_compilers_may_read_differently_is_refused(#[case] content: &str) {
        let expansion = expand(&["cc", "@f"], |_| Some(content.as_bytes().to_vec()));
        assert_eq!(expansion, Err(Reason::ResponseFile));
    }

    #[test]
    fn a_missing_file_is_refused() {
        assert_eq!(expand(&["cc", "@f"], |_| None), Err(Reason::ResponseFile));
    }
}
