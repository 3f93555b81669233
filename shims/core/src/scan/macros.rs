//! What the macro of a computed include (`#include FT_FREETYPE_H`) can stand for.
//!
//! A macro has no other values than those that some `#define` of its name gives it, in
//! whatever branch of whatever file, so the set of files that such an include can open follows
//! from the texts alone. [`definitions`] finds those values; what is more than a header's name
//! or another macro's name is [`Definition::Other`], and the include stays undecided.

use memchr::memchr;
use memchr::memmem::Finder;

use super::scanner::{is_word, joined, skip_space, word_end};

/// One value of a macro.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Definition {
    /// A header's name.
    Header {
        /// `<…>` instead of `"…"`.
        angled: bool,
        /// The name between the delimiters.
        name: Vec<u8>,
        /// The words in an angled name: were one of them a macro, the name would be another.
        words: Vec<Vec<u8>>,
    },
    /// Another macro's name, alone.
    Alias(Vec<u8>),
    /// Nothing: to include it is an error.
    Nothing,
    /// Anything else.
    Other,
}

/// The values that definitions in this source give to a macro; too many rather than too few, for
/// comments and strings are not told from code.
pub fn definitions(source: &[u8], name: &[u8]) -> Vec<Definition> {
    let mut found = Vec::new();
    collect(source, name, &mut found);
    for copy in joined(source) {
        collect(&copy, name, &mut found);
    }
    found
}

fn collect(text: &[u8], name: &[u8], found: &mut Vec<Definition>) {
    for at in Finder::new("define").find_iter(text) {
        let start = skip_space(text, at + "define".len());
        let end = word_end(text, start);
        if &text[start..end] == name {
            let value = value(text, end);
            if !found.contains(&value) {
                found.push(value);
            }
        }
    }
}

/// Whether nothing but white space and comments follows in the line.
fn ends_line(text: &[u8], at: usize) -> bool {
    let at = skip_space(text, at);
    matches!(text.get(at), None | Some(b'\n')) || text[at..].starts_with(b"//")
}

fn value(text: &[u8], at: usize) -> Definition {
    // A macro with parameters has its parenthesis right behind the name.
    if text.get(at) == Some(&b'(') {
        return Definition::Other;
    }
    if ends_line(text, at) {
        return Definition::Nothing;
    }
    let at = skip_space(text, at);
    let (angled, close) = match text[at] {
        b'"' => (false, b'"'),
        b'<' => (true, b'>'),
        _ => {
            let end = word_end(text, at);
            // A name goes on with what is not ASCII.
            let ascii = text.get(end).is_none_or(u8::is_ascii);
            let is_name = end > at && !text[at].is_ascii_digit() && ascii && ends_line(text, end);
            return if is_name {
                Definition::Alias(text[at..end].to_vec())
            } else {
                Definition::Other
            };
        }
    };
    let rest = &text[at + 1..];
    let line = &rest[..memchr(b'\n', rest).unwrap_or(rest.len())];
    match memchr(close, line) {
        // A backslash in a string's token is more than itself, and so is a space between the
        // tokens of an angled name.
        Some(end)
            if ends_line(text, at + end + 2)
                && !line[..end].contains(&b'\\')
                && !(angled && line[..end].iter().any(u8::is_ascii_whitespace)) =>
        {
            let name = line[..end].to_vec();
            let words = if angled { words(&name) } else { Vec::new() };
            Definition::Header {
                angled,
                name,
                words,
            }
        }
        _ => Definition::Other,
    }
}

fn words(name: &[u8]) -> Vec<Vec<u8>> {
    name.split(|&byte| !is_word(byte))
        .filter(|word| word.first().is_some_and(|first| !first.is_ascii_digit()))
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn header(angled: bool, name: &str, words: &[&str]) -> Definition {
        Definition::Header {
            angled,
            name: name.into(),
            words: words.iter().map(|word| (*word).into()).collect(),
        }
    }

    #[rstest]
    #[case::quoted("#define H \"a b.h\"\n", header(false, "a b.h", &[]))]
    #[case::angled("# define H <x/a1.h> /* why */\n", header(true, "x/a1.h", &["x", "a1", "h"]))]
    #[case::spliced("#de\\\nfine H \\\n \"a.h\" // why\n", header(false, "a.h", &[]))]
    #[case::alias("#define H OTHER_H", Definition::Alias(b"OTHER_H".to_vec()))]
    #[case::nothing("#define H\n", Definition::Nothing)]
    #[case::function("#define H(x) \"a.h\"\n", Definition::Other)]
    #[case::pasted("#define H A ## B\n", Definition::Other)]
    #[case::two_tokens("#define H \"a\" \"b\"\n", Definition::Other)]
    #[case::spaces_in_angles("#define H < a.h >\n", Definition::Other)]
    #[case::unclosed("#define H <a.h\n", Definition::Other)]
    #[case::name_beyond_ascii("#define H OTHER\u{e9}\n", Definition::Other)]
    #[case::number("#define H 7\n", Definition::Other)]
    fn the_value_is(#[case] source: &str, #[case] expected: Definition) {
        assert_eq!(definitions(source.as_bytes(), b"H"), [expected]);
    }

    #[test]
    fn every_definition_counts_and_those_of_other_names_do_not() {
        let source = b"#if X\n#define H <a.h>\n#else\n#define H <b.h>\n#endif\n#define HH <c.h>\n#undef H\nH";
        assert_eq!(definitions(source, b"H").len(), 2);
        assert_eq!(definitions(source, b"G"), []);
    }
}
