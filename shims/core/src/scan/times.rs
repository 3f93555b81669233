//! The macros whose value is the time, also where a source has only the pieces of their names.
//!
//! `CAT(__DA, TE__)` is `__DATE__` to the compiler. However such a name is cut in two, one of the
//! pieces has at least four bytes and is a word that hardly any source has for another reason:
//! those words are looked for. A name cut in three with nothing but underscores at its ends is
//! recognised if the macro that glues them, `__##name##__`, stands in the same file as the word in
//! the middle. Names cut into more pieces are not.

use memchr::memmem::Finder;

use super::scanner::{is_blank, is_word, word_end};

/// The macros that a text may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// `__DATE__` or `__TIME__`.
    pub(super) date_time: bool,
    /// `__TIMESTAMP__`.
    pub(super) timestamp: bool,
}

const NAMES: [&[u8]; 3] = [b"__DATE__", b"__TIME__", b"__TIMESTAMP__"];

/// A shorter piece of a name may be any word, such as a parameter of a system header's.
const PIECE_MIN: usize = 4;

/// What all pieces begin with that are the beginning of a name, and what all end with that are
/// the end of one.
const BEGINNINGS: [&str; 2] = ["__DA", "__TI"];
const ENDS: [&str; 2] = ["E__", "MP__"];

impl Times {
    fn note(&mut self, name: &[u8]) {
        if name == NAMES[2] {
            self.timestamp = true;
        } else {
            self.date_time = true;
        }
    }
}

/// Whether a text that is not a file's, such as that of `-D`, may use such a macro.
pub(crate) fn mentions_time(text: &[u8]) -> bool {
    times(text, false, |_| true) != Times::default()
}

/// The macros that a text may use; `has_glue` says that [`is_glue`] was true for a place in it,
/// `is_code` tells whether what is at an offset can be a token.
pub(super) fn times(text: &[u8], has_glue: bool, mut is_code: impl FnMut(usize) -> bool) -> Times {
    let mut found = Times::default();
    let is_word_start = |at: usize| at == 0 || !is_word(text[at - 1]);
    for beginning in BEGINNINGS {
        for at in Finder::new(beginning).find_iter(text) {
            let word = &text[at..word_end(text, at)];
            for name in NAMES {
                let is_piece = name.starts_with(word) && is_word_start(at);
                if (word.starts_with(name) || is_piece) && is_code(at) {
                    found.note(name);
                }
            }
        }
    }
    for end in ENDS {
        for at in Finder::new(end).find_iter(text) {
            let behind = at + end.len();
            let start = word_start(text, at);
            let is_whole = !text.get(behind).copied().is_some_and(is_word);
            if !is_whole || behind - start < PIECE_MIN {
                continue;
            }
            for name in NAMES {
                if name.ends_with(&text[start..behind]) && is_code(start) {
                    found.note(name);
                }
            }
        }
    }
    if has_glue {
        for name in NAMES {
            let middle = &name[2..name.len() - 2];
            for at in Finder::new(middle).find_iter(text) {
                let is_whole = is_word_start(at) && word_end(text, at) == at + middle.len();
                if is_whole && is_code(at) {
                    found.note(name);
                }
            }
        }
    }
    found
}

/// Whether the `##` at `at` is the first one of `__##name##__`, with or without white space.
pub(super) fn is_glue(text: &[u8], at: usize) -> bool {
    let left = &text[..at];
    let left = &left[..left.len() - blanks(left.iter().rev())];
    let middle = at + 2 + blanks(text[at + 2..].iter());
    let middle_end = word_end(text, middle);
    let second = middle_end + blanks(text[middle_end..].iter());
    let right = text[second..].strip_prefix(b"##").unwrap_or_default();
    let right = &right[blanks(right.iter())..];
    &left[word_start(left, left.len())..] == b"__"
        && middle < middle_end
        && &right[..word_end(right, 0)] == b"__"
}

fn blanks<'a>(bytes: impl Iterator<Item = &'a u8>) -> usize {
    bytes.take_while(|&&byte| is_blank(byte)).count()
}

fn word_start(text: &[u8], end: usize) -> usize {
    let word = text[..end].iter().rev().take_while(|&&byte| is_word(byte));
    end - word.count()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn of(text: &str) -> Times {
        let scan = crate::scan::scan(text.as_bytes());
        Times {
            date_time: scan.date_time,
            timestamp: scan.timestamp,
        }
    }

    #[test]
    fn each_name_is_found_however_it_is_cut_in_two() {
        for name in ["__DATE__", "__TIME__", "__TIMESTAMP__"] {
            let is_found = |text: &str| match name {
                "__TIMESTAMP__" => of(text).timestamp,
                _ => of(text).date_time,
            };
            assert!(is_found(&format!("x({name});")));
            for cut in 1..name.len() {
                let (begin, end) = name.split_at(cut);
                for text in [format!("{begin}##{end}"), format!("CAT({begin}, {end})")] {
                    assert!(is_found(&text), "{text}");
                }
            }
        }
    }

    #[rstest]
    #[case("#define G(x) __##x##__\nG(DATE)")]
    #[case("#define G(x) __ ## x\t## __\nchar *a = G( TIME );")]
    fn a_name_is_found_that_is_glued_between_underscores(#[case] text: &str) {
        assert!(of(text).date_time && !of(text).timestamp, "{text}");
    }

    #[test]
    fn a_time_stamp_is_no_date() {
        let expected = Times {
            timestamp: true,
            date_time: false,
        };
        assert_eq!(of("#define G(x) __##x##__\nG(TIMESTAMP)"), expected);
        assert_eq!(of("__TIMESTAMP__"), expected);
    }

    #[rstest]
    #[case::parameters("f(__m512h __D, __T __val, __t)")]
    #[case::glibc("#define A(type) __##type##__;\nint TIMER, UPDATE;")]
    #[case::no_glue("#define A(x) __##x\n#define B(x) x##__\nenum { DATE, TIME };")]
    #[case::longer_words(
        "__DATES __TIMEOUT __TIME64_T MY__TIME STATE__ FRAME__ __STAMP__ X_TIME__"
    )]
    #[case::ends("##")]
    #[case::glue_at_the_end("__##x##")]
    fn other_words_are_not(#[case] text: &str) {
        assert_eq!(of(text), Times::default());
    }

    #[test]
    fn no_cut_text_makes_it_panic() {
        let text = b"__##x##__ __DATE__ TE__ __TIMESTAMP__ ##";
        for start in 0..text.len() {
            for end in start..=text.len() {
                crate::scan::scan(&text[start..end]);
            }
        }
    }
}
